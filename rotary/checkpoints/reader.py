"""Configurations as they come: from a path, a mapping or an object, every key checked as it is read."""

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
    """A value, and where it comes from in words for `rotary.RotaryEmbedding.explain`; "" says nothing."""

    value: Any
    origin: str


# Of a file, and of objects within objects: far beyond published configurations.
_LARGEST = 16 * 2**20
_MANY = 2**18
_DEPTH = 32
# More digits than any number that a check would take.
_DIGITS = 1000
_BITS = 63
# Of names that may be misspelt ones.
_LONGEST_NAME = 64
_PLAIN = {str, int, float, bool, type(None)}
_CONTAINERS = (dict, list, tuple, Mapping)


class _LongInteger:
    """Stands for an integer of a file that Python may refuse to read, and that no check accepts."""

    def __init__(self, text: str) -> None:
        self._digits = len(text.lstrip("-"))

    def __repr__(self) -> str:
        return f"an integer of {self._digits} digits"


def opened(config: Any) -> dict[str, Any]:
    """Return a configuration as a dict of its own.

    Raises
    ------
    TypeError
        If it is no path, mapping or configuration object.
    ConfigError
        If a file holds no configuration, or what is given nests without an end.
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
    """Return a mapping, or what an object's to_dict() gives, as a dict; None for anything else."""
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
    """Refuse containers within containers without an end, one level after another."""
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
    """Return the configuration of a file, or of the config.json of a folder."""
    import json

    with suppress(OSError, ValueError):  # what is wrong with the path is told below
        if Path(path).is_dir():
            path = str(Path(path) / "config.json")
    told = shown(path)
    try:
        with open_file(path, "config") as file:
            content = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = (
            "`config` must be a config.json or its folder (nothing is downloaded), "
            f"got {told}, where there is none"
        )
        raise FileNotFoundError(msg) from error
    if len(content) > _LARGEST:
        msg = (
            f"`config` must be a file of at most {_LARGEST >> 20} MiB, got {told}, which is larger"
        )
        raise ConfigError(msg)
    if content.count(b"[") + content.count(b"{") > _MANY:
        msg = f"`config` must hold at most {_MANY} lists and objects, got {told}, which has more"
        raise ConfigError(msg)
    try:
        values = json.loads(content.decode(), object_pairs_hook=_unique, parse_int=_integer)
        if isinstance(values, dict):
            _check_depth(values, "config")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"`config` must be a JSON file, got {told}, which is none: {shown_text(error)}"
        raise ConfigError(msg) from error
    except RecursionError as error:
        msg = f"`config` must not nest more than {_DEPTH} levels deep, got {told}"
        raise ConfigError(msg) from error
    except ConfigError as error:
        msg = f"{error} (in {told})"
        raise ConfigError(msg) from error
    if not isinstance(values, dict):
        msg = f"`config` must hold a JSON object, got {told} with a {type(values).__name__}"
        raise ConfigError(msg)
    return values


def _integer(text: str) -> Any:
    """Return an integer of a JSON file."""
    return int(text) if len(text) <= _DIGITS else _LongInteger(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object, none of them twice: the last one would win in silence."""
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice, count = next((name, count) for name, count in counts.items() if count > 1)
        msg = (
            f"`{shown_name(twice)}` must stand once in its JSON object, got it {count} times; "
            "keep one"
        )
        raise ConfigError(msg)
    return result


def checked(check: Callable[[Any, str], Any], value: Any, name: str) -> Any:
    """Return a checked value; what does not fit is the configuration's fault, whatever its kind."""
    try:
        result = check(value, name)
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigError(str(error)) from error
    if type(result) is int and result.bit_length() > _BITS:
        msg = f"`{name}` must be below 2**{_BITS}, got {shown(value)}"
        raise ConfigError(msg)
    return result


def near(name: str, known: Iterable[str]) -> str:
    """Return words that suggest the names a misspelt one may stand for."""
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(name[:_LONGEST_NAME], names, n=1, cutoff=0.75)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(names)}"


class Keys:
    """The keys of one JSON object, and the name each has in messages; null counts as left out."""

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
        """Return the full name of a key."""
        return shown_name(f"{self.path}{key if isinstance(key, str) else shown(key)}")

    def value(self, key: str) -> Any:
        """Return the value of a key that is given, as the format has it."""
        return self.values[key]

    def origin_of(self, key: str) -> str:
        """Return where the value of a key comes from."""
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
        """Return the value several names may have, refused if they have different ones."""
        return agreed([(self.name(name), self.found(name, check)) for name in names])

    def fail(self, key: Any, must: str, got: object, advice: str = "") -> NoReturn:
        """Raise the error that names a key, says what it must be, and what came: a number or text fit to print."""
        msg = f"`{self.name(key)}` {must}, got {got}{advice and '; '}{advice}"
        raise ConfigError(msg)

    def inner(self, key: str) -> Keys | None:
        """Return the keys of a JSON object within, or None if it is left out."""
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
        if self.depth == _DEPTH:  # objects whose to_dict() has objects
            msg = f"`{name}` must not nest more than {_DEPTH} levels deep, got {shown(value)}"
            raise ConfigError(msg)
        return Keys(value, f"{name}.", depth=self.depth + 1)

    def matching(self, pattern: str) -> list[str]:
        """Return the keys whose names match."""
        return [key for key in self.values if isinstance(key, str) and re.search(pattern, key)]


def agreed(candidates: Iterable[tuple[str, Found | None]]) -> Found | None:
    """Return the first of several places' values; two that differ are refused."""
    given = [(name, found) for name, found in candidates if found is not None]
    for (one, first), (other, second) in pairwise(given):
        if first.value != second.value:
            msg = (
                f"`{one}` and `{other}` must not contradict each other, got {shown(first.value)} "
                f"and {shown(second.value)}; keep the one that is meant"
            )
            raise ConfigError(msg)
    return given[0][1] if given else None
