"""The exception for configurations, and functions that format values for error messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["ConfigError", "listed", "naming_file", "shown", "shown_name", "shown_text"]

# The most characters of one value and of one name in a message; a damaged file may contain very long ones.
_CHARACTERS = 120
_NAME = 200
_ITEMS = 16  # there are no more kinds of layers, dialects or schedules
_DEPTH = 3
_BITS = 2000


class ConfigError(ValueError):
    """A configuration that is unclear, incomplete or contradictory.

    Raised for configurations of checkpoints, as `rotary.from_config` reads them: a key that is unknown,
    missing or malformed, two keys that contradict each other, or well-formed values that do not determine
    the rotation. The message names the key, the value and a remedy. The class derives from `ValueError`, so
    code that handles bad values catches it too.
    """


@contextmanager
def naming_file(source: Any) -> Iterator[None]:
    """Add the name of a file to errors in its contents."""
    try:
        yield
    except ConfigError as error:
        if isinstance(source, str | os.PathLike):
            name = shown_name(os.fsdecode(source))
            if name not in str(error):
                error.args = (f"{error} (in {name})",)
        raise


def shown(value: Any) -> str:
    """Return the repr of a value for a message, cut to a bounded length."""
    text = _shown(value, _DEPTH)
    return text if len(text) <= 3 * _CHARACTERS else f"{text[: 3 * _CHARACTERS]}..."


def shown_name(name: Any) -> str:
    """Return the name of a key for a message, printable and cut to a bounded length."""
    if not isinstance(name, str):
        return shown(name)
    text = name[:_NAME] if len(name) > _NAME else name
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(name) <= _NAME else f"{text}... ({len(name)} characters)"


def listed(values: Iterable[Any], show: Callable[[Any], str] = shown) -> str:
    """Return values for a message, separated by commas; a long list is cut after its first items."""
    given = list(values)
    text = ", ".join(show(value) for value in given[:_ITEMS])
    text = text if len(text) <= 3 * _CHARACTERS else f"{text[: 3 * _CHARACTERS]}..."
    return text if len(given) <= _ITEMS else f"{text}, ... ({len(given)})"


def shown_text(error: BaseException) -> str:
    """Return the message of an error of another library, cut to a bounded length."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # `__str__` may raise anything
        text = ""
    return text if len(text) <= 2 * _CHARACTERS else f"{text[: 2 * _CHARACTERS]}..."


def _shown(value: Any, depth: int) -> str:
    """Return the repr of a value with `depth` levels of containers."""
    if isinstance(value, str | bytes) and len(value) > _CHARACTERS:
        unit = "characters" if isinstance(value, str) else "bytes"
        return f"{value[:_CHARACTERS]!r}... ({len(value)} {unit})"
    # `repr` refuses an int of more than 4,300 digits.
    if isinstance(value, int) and value.bit_length() > _BITS:
        return f"an integer of {value.bit_length()} bits"
    try:
        if isinstance(value, list | tuple | set | frozenset | Mapping):
            return _container(value, depth)
        text = repr(value)
    except Exception:  # noqa: BLE001  # `__repr__` may raise anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}..."


def _container(value: Any, depth: int) -> str:
    """Return the repr of a container, cut after its first items."""
    opening, closing = (
        "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
    )
    if not len(value):
        return opening + closing
    if not depth:
        return f"{opening}...{closing}"
    parts: Iterable[str]
    if isinstance(value, Mapping):
        parts = (
            f"{_shown(key, depth - 1)}: {_shown(inner, depth - 1)}" for key, inner in value.items()
        )
    else:
        parts = (_shown(inner, depth - 1) for inner in value)
    items: list[str] = []
    for part in parts:
        if len(items) == _ITEMS or sum(map(len, items)) > 2 * _CHARACTERS:
            return f"{opening}{', '.join(items)}, ... ({len(value)} items){closing}"
        items.append(part)
    comma = "," if isinstance(value, tuple) and len(items) == 1 else ""
    return f"{opening}{', '.join(items)}{comma}{closing}"
