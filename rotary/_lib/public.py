"""Sets the `__module__` of public classes to the package that users import them from."""

from __future__ import annotations

from typing import Any


def show_as_public(namespace: dict[str, Any]) -> None:
    """Set the `__module__` of the classes in a package's `__all__` that are imported to the name of the package.

    Tracebacks and reprs then show names such as `rotary.ConfigError`. A pickle stores the same name, so it can be
    read after the class has moved to another module.
    """
    for name in namespace["__all__"]:
        value = namespace.get(name)
        if isinstance(value, type) and value.__module__.startswith("rotary."):
            value.__module__ = namespace["__name__"]
