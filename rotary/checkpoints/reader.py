"""Reads configurations from paths, mappings and objects, and checks each key as it is read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from rotary._lib.errors import ConfigError, shown, shown_name, shown_text
from rotary._lib.files import open_file

__all__ = ["Found", "Keys", "agreed", "checked", "near", "opened"]


T = TypeVar("T")


class Found(NamedTuple):
    """A value and its origin, as `rotary.RotaryEmbedding.explain` shows it; "" if it has none to show."""

    value: Any
    origin: str


# Limits of a file and of nested objects, far beyond published configurations.
_LARGEST = 16 * 2**20
_MANY = 2**18
_DEPTH = 32
# The most digits and bits of an integer, more than any check accepts.
_DIGITS = 1000
_BITS = 63
# The longest name that is compared with known ones.
_LONGEST_NAME = 64
_PLAIN = {str, int, float, bool, type(None)}
_CONTAINERS = (dict, list, tuple, Mapping)


class _LongInteger:
    """Replaces an integer that is too long for Python to read; no check accepts it."""

    def __init__(self, text: str) -> None:
        self._digits = len(text.lstrip("-"))

    def __repr__(self) -> str:
        return f"an integer of {self._digits} digits"


def opened(config: Any) -> dict[str, Any]:
    """Return the content of a configuration as a new dict.

    Raises
    ------
    TypeError
        If it is not a path, a mapping or a configuration object.
    ConfigError
        If a file holds no configuration, or objects nest too deep.
    """
    if isinstance(config, str | os.PathLike):
        return _loaded(os.fsdecode(config))
    values = _converted(config, "config")
    if values is None:
        msg = (
            "`config` must be a path, a mapping or a configuration object with to_dict(), "
            f"got {shown(config)} of type {type(config).__name__}"
        )
        raise TypeError(msg)
    _check_depth(values, "config")
    return values


def _converted(value: Any, name: str) -> dict[str, Any] | None:
    """Return a mapping or the to_dict() of an object as a dict, or None for anything else."""
    try:
        if not isinstance(value, Mapping):
            convert = getattr(value, "to_dict", None)
            if not callable(convert) or isinstance(value, type):
                return None
            value = convert()
        if isinstance(value, Mapping):
            return dict(value)
    except Exception as error:  # the object's own code
        msg = f"`{name}` cannot be read: {type(error).__name__}: {shown_text(error)}"
        raise ConfigError(msg) from error
    msg = f"`{name}` must have a to_dict() that returns a mapping, got {shown(value)}"
    raise ConfigError(msg)


def _check_depth(values: Mapping[Any, Any], name: str) -> None:
    """Refuse containers that nest too deep, without recursion."""
    level: list[tuple[Any, Any]] = [(values, None)]
    for _ in range(_DEPTH):
        below: dict[int, tuple[Any, Any]] = {}
        for container, link in level:
            items = container.items() if isinstance(container, Mapping) else enumerate(container)
            for key, value in items:
                if type(value) not in _PLAIN and isinstance(value, _CONTAINERS):
                    below.setdefault(id(value), (value, (link, key)))
        if not below:
            return
        level = list(below.values())
    link, keys = level[0][1], []
    while link is not None:
        link, key = link
        keys.append(key if isinstance(key, str) else shown(key))
    inner = shown_name(".".join(reversed(keys)))
    msg = f"`{name}` must not nest more than {_DEPTH} levels deep, got more at `{inner}`"
    raise ConfigError(msg)


def _loaded(path: str) -> dict[str, Any]:
    """Read a file, or the config.json of a folder."""
    import json

    with suppress(OSError, ValueError):  # opening the path below reports the error
        if Path(path).is_dir():
            path = str(Path(path) / "config.json")
    text = shown(path)
    try:
        with open_file(path, "config") as file:
            content = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = (
            "`config` must be a config.json or its folder (nothing is downloaded), "
            f"got {text}, which does not exist"
        )
        raise FileNotFoundError(msg) from error
    if len(content) > _LARGEST:
        msg = (
            f"`config` must be a file of at most {_LARGEST >> 20} MiB, got {text}, which is larger"
        )
        raise ConfigError(msg)
    if content.count(b"[") + content.count(b"{") > _MANY:
        msg = f"`config` must hold at most {_MANY} lists and objects, got {text}, which has more"
        raise ConfigError(msg)
    try:
        values = json.loads(content.decode(), object_pairs_hook=_unique, parse_int=_integer)
        if isinstance(values, dict):
            _check_depth(values, "config")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"`config` must be a JSON file, got {text}, which is not: {shown_text(error)}"
        raise ConfigError(msg) from error
    except RecursionError as error:
        msg = f"`config` must not nest more than {_DEPTH} levels deep, got {text}"
        raise ConfigError(msg) from error
    except ConfigError as error:
        msg = f"{error} (in {text})"
        raise ConfigError(msg) from error
    if not isinstance(values, dict):
        msg = f"`config` must hold a JSON object, got {text} with a {type(values).__name__}"
        raise ConfigError(msg)
    return values


def _integer(text: str) -> Any:
    """Parse an integer of a JSON file."""
    return int(text) if len(text) <= _DIGITS else _LongInteger(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object; refuse a key that it has twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice, count = next((name, count) for name, count in counts.items() if count > 1)
        msg = (
            f"`{shown_name(twice)}` must be unique in its JSON object, got it {count} times; "
            "keep one"
        )
        raise ConfigError(msg)
    return result


def checked(check: Callable[[Any, str], Any], value: Any, name: str) -> Any:
    """Return a checked value; any error of the check becomes a `ConfigError`."""
    try:
        result = check(value, name)
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigError(str(error)) from error
    if type(result) is int and result.bit_length() > _BITS:
        msg = f"`{name}` must be below 2**{_BITS}, got {shown(value)}"
        raise ConfigError(msg)
    return result


def near(name: str, known: Iterable[str]) -> str:
    """Suggest the name that a misspelt one may mean, for an error message."""
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(name[:_LONGEST_NAME], names, n=1, cutoff=0.75)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(names)}"


class Keys:
    """The keys of one JSON object; null counts as left out, unless `keep_nulls`."""

    def __init__(
        self,
        values: Mapping[Any, Any],
        path: str = "",
        origin: str = "given",
        depth: int = 0,
        *,
        keep_nulls: bool = False,
    ) -> None:
        self.nulls = frozenset(key for key, value in values.items() if value is None)
        given = values.items()
        self.values = {key: value for key, value in given if value is not None or keep_nulls}
        self.path = path
        self.origin = origin
        self.depth = depth

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def has_any(self, names: Iterable[str]) -> bool:
        """Whether one of the names is a key."""
        return any(name in self for name in names)

    def name(self, key: Any) -> str:
        """Return the full name of a key, for messages."""
        return shown_name(f"{self.path}{key if isinstance(key, str) else shown(key)}")

    def value(self, key: str) -> Any:
        """Return the unchecked value of a key that is given."""
        return self.values[key]

    def origin_of(self, key: str) -> str:
        """Return the origin of the value of a key."""
        return f"{self.origin}: {self.name(key)}"

    def found(self, key: str, check: Callable[[Any, str], Any]) -> Found | None:
        """Return a checked value and its origin, or None if the key is left out."""
        if key not in self.values:
            return None
        return Found(checked(check, self.value(key), self.name(key)), self.origin_of(key))

    def read(self, key: str, check: Callable[[Any, str], T]) -> T | None:
        """Return a checked value, or None if the key is left out."""
        found = self.found(key, check)
        return None if found is None else found.value

    def first(self, names: Iterable[str], check: Callable[[Any, str], Any]) -> Found | None:
        """Return the value under one of several names, which must agree."""
        return agreed([(self.name(name), self.found(name, check)) for name in names])

    def fail(self, key: Any, must: str, got: object, advice: str = "") -> NoReturn:
        """Raise an error about a key; `got` is a number, or text that is safe to print."""
        msg = f"`{self.name(key)}` {must}, got {got}{advice and '; '}{advice}"
        raise ConfigError(msg)

    def inner(self, key: str) -> Keys | None:
        """Return the keys of a nested JSON object, or None if it is left out."""
        value = self.values.get(key)
        if value is None:
            return None
        name = self.name(key)
        if not isinstance(value, Mapping):
            converted = _converted(value, name)
            if converted is None:
                msg = f"`{name}` must be a JSON object, got {shown(value)}; write {{...}} or null"
                raise ConfigError(msg)
            _check_depth(converted, name)
            value = converted
        if self.depth == _DEPTH:  # only objects with to_dict() get here
            msg = f"`{name}` must not nest more than {_DEPTH} levels deep, got {shown(value)}"
            raise ConfigError(msg)
        return Keys(value, f"{name}.", depth=self.depth + 1)

    def matching(self, pattern: str) -> list[str]:
        """Return the keys that match a pattern."""
        return [key for key in self.values if isinstance(key, str) and re.search(pattern, key)]


def agreed(candidates: Iterable[tuple[str, Found | None]]) -> Found | None:
    """Return the first value that is given; the others must be equal."""
    given = [(name, found) for name, found in candidates if found is not None]
    for (one, first), (other, second) in pairwise(given):
        if first.value != second.value:
            msg = (
                f"`{one}` and `{other}` must not contradict each other, got {shown(first.value)} "
                f"and {shown(second.value)}; keep the intended one"
            )
            raise ConfigError(msg)
    return given[0][1] if given else None
