"""Reads configurations from paths, mappings and objects, and checks every value that is read."""

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

__all__ = [
    "Keys",
    "Sourced",
    "first_given",
    "load_config",
    "require_agreement",
    "run_check",
    "suggest_name",
]


T = TypeVar("T")


class Sourced(NamedTuple):
    """A value, and its origin as `rotary.RotaryEmbedding.explain` shows it; "" if nothing is shown."""

    value: Any
    origin: str

    @property
    def key(self) -> str:
        """The key in the origin of a given value."""
        return self.origin.removeprefix("given: ")


# Limits for files and nested objects, far beyond published configurations.
_MAX_FILE_SIZE = 16 * 2**20
_MAX_CONTAINERS = 2**18
_MAX_DEPTH = 32
# Limits for integers, beyond what any check accepts.
_MAX_DIGITS = 1000
_MAX_BITS = 63
# Only this many characters of a name are compared with known names.
_LONGEST_NAME = 64
_SCALAR_TYPES = {str, int, float, bool, type(None)}
_CONTAINER_TYPES = (dict, list, tuple, Mapping)


class _LongInteger:
    """Replaces an integer with more digits than Python parses; no check accepts it."""

    def __init__(self, text: str) -> None:
        self._digits = len(text.lstrip("-"))

    def __repr__(self) -> str:
        return f"an integer of {self._digits} digits"


def load_config(config: Any) -> dict[str, Any]:
    """Return the content of a configuration as a new dict.

    Raises
    ------
    TypeError
        If `config` is not a path, a mapping or a configuration object.
    ConfigError
        If a file is not a configuration, or objects nest too deeply.
    """
    if isinstance(config, str | os.PathLike):
        return _load_json(os.fsdecode(config))
    values = _as_dict(config, "config")
    if values is None:
        msg = (
            "`config` must be a path, a mapping or a configuration object with to_dict(), "
            f"got {shown(config)} of type {type(config).__name__}"
        )
        raise TypeError(msg)
    _check_depth(values, "config")
    return values


def _as_dict(value: Any, name: str) -> dict[str, Any] | None:
    """Return a mapping, or the to_dict() of an object, as a dict; None for other values."""
    try:
        if not isinstance(value, Mapping):
            convert = getattr(value, "to_dict", None)
            if not callable(convert) or isinstance(value, type):
                return None
            value = convert()
        if isinstance(value, Mapping):
            return dict(value)
    except Exception as error:  # the code of the object may raise anything
        msg = f"`{name}` cannot be read: {type(error).__name__}: {shown_text(error)}"
        raise ConfigError(msg) from error
    msg = f"`{name}` must have a to_dict() that returns a mapping, got {shown(value)}"
    raise ConfigError(msg)


def _check_depth(values: Mapping[Any, Any], name: str) -> None:
    """Raise for containers that nest too deeply. No recursion, which such containers would exhaust."""
    level: list[tuple[Any, Any]] = [(values, None)]
    for _ in range(_MAX_DEPTH):
        below: dict[int, tuple[Any, Any]] = {}
        for container, link in level:
            items = container.items() if isinstance(container, Mapping) else enumerate(container)
            for key, value in items:
                if type(value) not in _SCALAR_TYPES and isinstance(value, _CONTAINER_TYPES):
                    below.setdefault(id(value), (value, (link, key)))
        if not below:
            return
        level = list(below.values())
    link, keys = level[0][1], []
    while link is not None:
        link, key = link
        keys.append(key if isinstance(key, str) else shown(key))
    inner = shown_name(".".join(reversed(keys)))
    msg = f"`{name}` must not nest more than {_MAX_DEPTH} levels deep, got more at `{inner}`"
    raise ConfigError(msg)


def _load_json(path: str) -> dict[str, Any]:
    """Read a file, or the config.json of a folder."""
    import json

    with suppress(OSError, ValueError):  # `open_file` below reports the error
        if Path(path).is_dir():
            path = str(Path(path) / "config.json")
    text = shown(path)
    try:
        with open_file(path, "config") as file:
            content = file.read(_MAX_FILE_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = (
            "`config` must be a config.json or its folder (nothing is downloaded), "
            f"got {text}, which does not exist"
        )
        raise FileNotFoundError(msg) from error
    if len(content) > _MAX_FILE_SIZE:
        msg = f"`config` must be a file of at most {_MAX_FILE_SIZE >> 20} MiB, got {text}, which is larger"
        raise ConfigError(msg)
    if content.count(b"[") + content.count(b"{") > _MAX_CONTAINERS:
        msg = f"`config` must have at most {_MAX_CONTAINERS} lists and objects, got {text}, which has more"
        raise ConfigError(msg)
    try:
        values = json.loads(
            content.decode(), object_pairs_hook=_refuse_duplicates, parse_int=_parse_integer
        )
        if isinstance(values, dict):
            _check_depth(values, "config")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"`config` must be a JSON file, got {text}, which is not: {shown_text(error)}"
        raise ConfigError(msg) from error
    except RecursionError as error:
        msg = f"`config` must not nest more than {_MAX_DEPTH} levels deep, got {text}"
        raise ConfigError(msg) from error
    except ConfigError as error:
        msg = f"{error} (in {text})"
        raise ConfigError(msg) from error
    if not isinstance(values, dict):
        msg = (
            f"`config` must be a JSON object, got {text}, which contains a {type(values).__name__}"
        )
        raise ConfigError(msg)
    return values


def _parse_integer(text: str) -> Any:
    """Parse an integer of a JSON file; `int` would raise for a very long one."""
    return int(text) if len(text) <= _MAX_DIGITS else _LongInteger(text)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; raise for a key that occurs twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice, count = next((name, count) for name, count in counts.items() if count > 1)
        msg = (
            f"`{shown_name(twice)}` must occur once in its JSON object, got {count} values; "
            "keep one"
        )
        raise ConfigError(msg)
    return result


def run_check(check: Callable[[Any, str], Any], value: Any, name: str) -> Any:
    """Return a checked value; raise `ConfigError` for every error of the check."""
    try:
        result = check(value, name)
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigError(str(error)) from error
    if type(result) is int and result.bit_length() > _MAX_BITS:
        msg = f"`{name}` must be below 2**{_MAX_BITS}, got {shown(value)}"
        raise ConfigError(msg)
    return result


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return a hint for an error message: the known name most similar to `name`, or all known names."""
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(name[:_LONGEST_NAME], names, n=1, cutoff=0.75)
    return f"did you mean `{close[0]}`?" if close else f"known names are {', '.join(names)}"


class Keys:
    """The keys of one JSON object. Keys with the value null are left out, unless `keep_nulls` is true."""

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
        """Return the full name of a key, with those of the objects around it, for messages."""
        return shown_name(f"{self.path}{key if isinstance(key, str) else shown(key)}")

    def raw_value(self, key: str) -> Any:
        """Return the unchecked value of a given key."""
        return self.values[key]

    def origin_of(self, key: str) -> str:
        """Return the origin of the value of a key."""
        return f"{self.origin}: {self.name(key)}"

    def get(self, key: str, check: Callable[[Any, str], Any]) -> Sourced | None:
        """Return a run_check value and its origin, or None if the key is left out."""
        if key not in self.values:
            return None
        return Sourced(run_check(check, self.raw_value(key), self.name(key)), self.origin_of(key))

    def get_value(self, key: str, check: Callable[[Any, str], T]) -> T | None:
        """Return a run_check value, or None if the key is left out."""
        found = self.get(key, check)
        return None if found is None else found.value

    def get_one_of(self, names: Iterable[str], check: Callable[[Any, str], Any]) -> Sourced | None:
        """Return the value of a key that has several names; the values of all given names must agree."""
        return require_agreement([(self.name(name), self.get(name, check)) for name in names])

    def fail(self, key: Any, must: str, got: object, advice: str = "") -> NoReturn:
        """Raise `ConfigError` about a key; `got` is a number, or text that is safe to print."""
        msg = f"`{self.name(key)}` {must}, got {got}{advice and '; '}{advice}"
        raise ConfigError(msg)

    def inner(self, key: str) -> Keys | None:
        """Return the keys of a nested JSON object, or None if it is left out."""
        value = self.values.get(key)
        if value is None:
            return None
        name = self.name(key)
        if not isinstance(value, Mapping):
            converted = _as_dict(value, name)
            if converted is None:
                msg = f"`{name}` must be a JSON object, got {shown(value)}; write {{...}} or null"
                raise ConfigError(msg)
            _check_depth(converted, name)
            value = converted
        if (
            self.depth == _MAX_DEPTH
        ):  # only objects with to_dict() nest so deeply; others were checked before
            msg = f"`{name}` must not nest more than {_MAX_DEPTH} levels deep, got {shown(value)}"
            raise ConfigError(msg)
        return Keys(value, f"{name}.", depth=self.depth + 1)

    def matching(self, pattern: str) -> list[str]:
        """Return the keys that match a pattern."""
        return [key for key in self.values if isinstance(key, str) and re.search(pattern, key)]


def require_agreement(candidates: Iterable[tuple[str, Sourced | None]]) -> Sourced | None:
    """Return the first given value, or None; raise if another given value differs from it."""
    given = [(name, found) for name, found in candidates if found is not None]
    for (one, first), (other, second) in pairwise(given):
        if first.value != second.value:
            msg = (
                f"`{one}` and `{other}` must not contradict each other, got {shown(first.value)} "
                f"and {shown(second.value)}; keep one"
            )
            raise ConfigError(msg)
    return given[0][1] if given else None


def first_given(
    *groups: Iterable[tuple[Keys, str]], check: Callable[[Any, str], Any]
) -> Sourced | None:
    """Return the value of the first group of keys in which a key is given, or None.

    The keys of a group must agree. Values of later groups are checked too, although they are not used.
    """
    found = [
        require_agreement((keys.name(name), keys.get(name, check)) for keys, name in group)
        for group in groups
    ]
    return next((value for value in found if value is not None), None)
