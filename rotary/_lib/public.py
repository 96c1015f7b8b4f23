"""Shows public classes under the package that users import them from."""

from __future__ import annotations

from typing import Any


def show_as_public(namespace: dict[str, Any]) -> None:
    """Give the classes of a package's `__all__` its name as their module.

    Tracebacks and reprs then name `rotary.ConfigError`, and a pickle keeps that name, so that it can be read after the
    class has moved to another module.
    """
    for name in namespace["__all__"]:
        value = namespace[name]
        if isinstance(value, type) and value.__module__.startswith("rotary."):
            value.__module__ = namespace["__name__"]
