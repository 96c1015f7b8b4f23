"""Configurations as they come: from a path, a mapping or an object, every key checked as it is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from ._errors import ConfigError

__all__ = ["Found", "Keys", "agreed", "checked", "near", "opened"]


class Found(NamedTuple):
    """A value, and where it comes from in words for `rotary.RotaryEmbedding.explain`."""

    value: Any
    origin: str


def opened(config: Any) -> dict[str, Any]:
    """Return a configuration as a dict of its own.

    Raises
    ------
    TypeError
        If it is no path, mapping or configuration object.
    ConfigError
        If a file holds no configuration.
    """
    if isinstance(config, str | os.PathLike):
        return _loaded(os.fspath(config))
    if isinstance(config, Mapping):
        return dict(config)
    convert = getattr(config, "to_dict", None)
    if callable(convert) and not isinstance(config, type):
        return opened(convert())
    msg = (
        "`config` must be a path, a mapping or a configuration object with to_dict(), "
        f"got {config!r} of type {type(config).__name__}"
    )
    raise TypeError(msg)


def _loaded(path: str | bytes) -> dict[str, Any]:
    """Return the configuration of a file, or of the config.json of a folder."""
    import json
    from pathlib import Path

    file = Path(os.fsdecode(path))
    if file.is_dir():
        file /= "config.json"
    if not file.is_file():
        msg = (
            "`config` must be a config.json or its folder (nothing is downloaded), "
            f"got {str(file)!r}, where there is none"
        )
        raise FileNotFoundError(msg)
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"`config` must be a JSON file, got {str(file)!r}, which is none: {error}"
        raise ConfigError(msg) from error
    if not isinstance(content, dict):
        msg = f"`config` must hold a JSON object, got {str(file)!r} with a {type(content).__name__}"
        raise ConfigError(msg)
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object, none of them twice: the last one would win in silence."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"`{twice}` must stand once in its JSON object, got it {names.count(twice)} times; keep one"
        raise ConfigError(msg)
    return result


def checked(check: Callable[[Any, str], Any], value: Any, name: str) -> Any:
    """Return a checked value; what does not fit is the configuration's fault, whatever its kind."""
    try:
        return check(value, name)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def near(name: str, known: Iterable[str]) -> str:
    """Return words that suggest the names a misspelt one may stand for."""
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.75)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(names)}"


class Keys:
    """The keys of one JSON object, and the name each has in messages; null counts as left out."""

    def __init__(self, values: Mapping[Any, Any], path: str = "", origin: str = "given") -> None:
        self.values = {key: value for key, value in values.items() if value is not None}
        self.nulls = frozenset(values.keys() - self.values.keys())
        self.path = path
        self.origin = origin

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def name(self, key: str) -> str:
        """Return the full name of a key."""
        return f"{self.path}{key}"

    def found(self, key: str, check: Callable[[Any, str], Any]) -> Found | None:
        """Return a checked value and its origin, or None where the key is left out."""
        if key not in self.values:
            return None
        name = self.name(key)
        return Found(checked(check, self.values[key], name), f"{self.origin}: {name}")

    def first(self, names: Iterable[str], check: Callable[[Any, str], Any]) -> Found | None:
        """Return the value several names may have, refused where they have different ones."""
        return agreed([(self.name(name), self.found(name, check)) for name in names])

    def inner(self, key: str) -> Keys | None:
        """Return the keys of a JSON object within, or None where it is left out."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            convert = getattr(value, "to_dict", None)
            if not callable(convert):
                msg = f"`{self.name(key)}` must be a JSON object, got {value!r}; write {{...}} or null"
                raise ConfigError(msg)
            value = convert()
        return Keys(value, f"{self.name(key)}.")

    def matching(self, pattern: str) -> list[str]:
        """Return the keys whose names match."""
        return [key for key in self.values if isinstance(key, str) and re.search(pattern, key)]


def agreed(candidates: Iterable[tuple[str, Found | None]]) -> Found | None:
    """Return the first of several places' values; two that differ are refused."""
    given = [(name, found) for name, found in candidates if found is not None]
    for (one, first), (other, second) in pairwise(given):
        if first.value != second.value:
            msg = (
                f"`{one}` and `{other}` must not contradict each other, got {first.value!r} and "
                f"{second.value!r}; keep the one that is meant"
            )
            raise ConfigError(msg)
    return given[0][1] if given else None
