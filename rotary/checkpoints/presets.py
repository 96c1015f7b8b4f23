"""Reads and checks the specifications of published checkpoints, by name and format.

Every table in the files of rotary/checkpoints/data is a preset, whose name ends with its format::

    ["llama-3.2-1b-hf"]
    family = "llama"
    format = "hf"
    description = "A sentence or two, and the unit of positions if that is not obvious."
    source.numbers = "project and file of every number that is not listed below"
    source.layout = "project and file that show the layout"
    source."scaling.factor" = "project and file of this number"
    head_dim = 64
    layout = "half"
    base = 500000.0
    scaling.kind = "Linear"
    scaling.factor = 2.0

The other keys are arguments of `rotary.RotaryEmbedding`. Arguments that are objects are tables with a `kind`: a class
for `scaling` and `decay`, a function for `sections`. The sizes of sections are a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from rotary import scaling, sections
from rotary._lib import hints
from rotary._lib.checks import as_choice
from rotary._lib.errors import ConfigError, shown
from rotary._lib.typing import BatchAxis
from rotary.embedding import RotaryEmbedding

__all__ = ["Preset", "Presets", "preset", "presets"]

_LONGEST_NAME = 64  # only this many characters are compared with known names
_FACTS = ("family", "format", "description")
_REQUIRED = (*_FACTS, "source", "head_dim", "layout")
_VALUES = (
    *("head_dim", "layout", "base", "rotary_dim", "rotary_start"),
    *("context_length", "output_layout", "quirk"),
)
_OBJECTS = ("scaling", "sections", "decay")


@dataclass(frozen=True)
class Preset:
    """The facts about one checkpoint in one format.

    Attributes
    ----------
    name : str
        The name, which ends with the format.
    family : str
        The name that similar checkpoints share.
    format : str
        The format of the weights: "hf", "gguf", "meta", and so on. It decides the layout.
    description : str
        A sentence or two.
    sources : mapping of str to str
        The sources of the numbers. An argument may have a source under its own name. "numbers" is the
        source of all other arguments.
    arguments : mapping of str to object
        Arguments of `rotary.RotaryEmbedding`; objects are tables with a ``kind``.
    file : str
        The file in `rotary/checkpoints/data` that contains the preset.

    See Also
    --------
    rotary.presets : all presets.

    Examples
    --------
    >>> import rotary
    >>> known = rotary.presets()["mimi-native"]
    >>> known.format, known.arguments["layout"]
    ('native', 'interleaved')
    """

    name: str
    family: str
    format: str
    description: str
    sources: Mapping[str, str] = field(hash=False, repr=False)
    arguments: Mapping[str, object] = field(hash=False, repr=False)
    file: str = field(repr=False)

    @property
    def source(self) -> str:
        """The source of all numbers that have no separate source."""
        return self.sources["numbers"]

    def source_of(self, name: str) -> str:
        """Return the source of a number.

        Parameters
        ----------
        name : str
            One of `arguments`, or ``scaling.<field>``, ``sections.<field>`` or ``decay.<field>``.

        Returns
        -------
        str
            The project and the file.

        Raises
        ------
        TypeError
            If `name` is not a string.
        ValueError
            If the preset does not give the number. Defaults have no source.

        Examples
        --------
        >>> import rotary
        >>> known = rotary.presets()["mimi-hf"]
        >>> known.source_of("base")
        'transformers ..., models/mimi/configuration_mimi.py: the defaults are kyutai/mimi'
        """
        as_choice(name, "name", _argument_names(self.arguments))
        return self.sources.get(name) or self.sources.get(name.partition(".")[0]) or self.source


class Presets(Mapping[str, Preset]):
    """A mapping of names to presets; `print` shows a table of name, format and source.

    Parameters
    ----------
    entries : mapping of str to Preset
        The presets.

    Examples
    --------
    >>> import rotary
    >>> "mimi-hf" in rotary.presets()
    True
    """

    def __init__(self, entries: Mapping[str, Preset]) -> None:
        self._entries = MappingProxyType(dict(entries))

    def __getitem__(self, name: str) -> Preset:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        rows = [("name", "format", "source")]
        rows += [(entry.name, entry.format, entry.source) for entry in self._entries.values()]
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{row[0]:<{first}}  {row[1]:<{second}}  {row[2]}" for row in rows)


def presets() -> Presets:
    """Return all presets: published checkpoints whose specification is known.

    Returns
    -------
    Presets
        A mapping of names to `Preset`, in alphabetical order.

    See Also
    --------
    rotary.preset : make the embedding of one of them.

    Notes
    -----
    The layout of a checkpoint depends on its format, so the name ends with the format: "hf" for weights in
    the format of transformers, "gguf" for llama.cpp, "meta" for weights as Meta published them. Every
    preset names the project and the file from which its numbers are taken.

    Examples
    --------
    >>> import rotary
    >>> known = rotary.presets()
    >>> [name for name in known if known[name].family == "gpt-j"]
    ['gpt-j-6b-hf']
    >>> known["gpt-j-6b-hf"].format
    'hf'
    """
    return _read()


@hints.named
def preset(
    name: str, *, seq_axis: int | None = None, batch_axis: BatchAxis = None
) -> RotaryEmbedding:
    """Return the rotary embedding of a published checkpoint.

    Parameters
    ----------
    name : str
        A name in `rotary.presets`: the checkpoint and the format of its weights.
    seq_axis : int, optional
        The sequence axis of the arrays, as for `rotary.RotaryEmbedding`.
    batch_axis : int or False, optional
        The batch axis of the arrays, as for `rotary.RotaryEmbedding`.

    Returns
    -------
    RotaryEmbedding
        Its `explain` names the preset and the source of every number.

    Raises
    ------
    TypeError
        If `name` is not a string, or an axis is not an integer.
    ValueError
        If there is no such preset, or an axis is out of range.

    See Also
    --------
    rotary.presets : the names, formats and sources.

    Examples
    --------
    >>> import rotary
    >>> rotary.preset("gpt-j-6b-hf", seq_axis=-3)
    RotaryEmbedding(256, layout='interleaved', base=10000.0, rotary_dim=64, seq_axis=-3)
    """
    entry = _find(name)
    rope = _make(entry)
    if seq_axis is not None or batch_axis is not None:
        rope = replace(rope, seq_axis=seq_axis, batch_axis=batch_axis)
    return rope._explained(_origins(entry))


def _find(name: Any) -> Preset:
    """Return a preset by name; raise with similar names if there is none."""
    if not isinstance(name, str):
        msg = f"`name` must be a name of rotary.presets(), got {shown(name)} of type {type(name).__name__}"
        raise TypeError(msg)
    known = _read()
    if name not in known:
        msg = (
            f"`name` must be a name of rotary.presets(), got {shown(name)}{_close_to(name, known)}"
        )
        raise ValueError(msg)
    return known[name]


def _close_to(name: str, known: Mapping[str, Preset]) -> str:
    """Return a hint with similar names for an error message."""
    from difflib import get_close_matches

    start = name.lower()[:_LONGEST_NAME]
    longer = [other for other in known if start and other.startswith(start)]
    close = longer[:5] or get_close_matches(start, known)
    return f"; similar names: {', '.join(close)}" if close else ""


def _origins(entry: Preset) -> dict[str, str]:
    """Return the origin of every number of a preset, by the name that `explain` prints."""
    names = list(entry.arguments)
    scaling_table = entry.arguments.get("scaling")
    if isinstance(scaling_table, Mapping):
        names += [f"scaling.{key}" for key in scaling_table if key != "kind"]
    return {name: f"preset {entry.name}: {entry.source_of(name)}" for name in names}


# ------------------------------------------------------------------------------------------------
# From tables to objects.


def _make(entry: Preset) -> RotaryEmbedding:
    """Return the embedding of a preset, without the origins of its numbers."""
    arguments = dict(entry.arguments)
    for name in _OBJECTS:
        if name in arguments:
            arguments[name] = _object(entry, name, arguments[name])
    rope: RotaryEmbedding = _call(entry, "the preset", RotaryEmbedding, arguments)
    return rope


def _object(entry: Preset, path: str, table: Any) -> Any:
    """Return the object that a table describes."""
    if not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
        raise _error(entry.file, entry.name, path, "be a table with a `kind`", table)
    arguments = {key: value for key, value in table.items() if key != "kind"}
    if "scaling" in arguments:
        arguments["scaling"] = _object(entry, f"{path}.scaling", arguments["scaling"])
    kinds = _kinds(path.rpartition(".")[2])
    if table["kind"] not in kinds:
        expected = f"be one of {', '.join(sorted(kinds))}"
        raise _error(entry.file, entry.name, f"{path}.kind", expected, table["kind"])
    return _call(entry, path, kinds[table["kind"]], arguments)


def _kinds(path: str) -> dict[str, Any]:
    """Return the classes or functions that a table may have as its kind, by name."""
    if path == "decay":
        from rotary.decay import XPos

        return {"XPos": XPos}
    module = {"scaling": scaling, "sections": sections}[path]
    names = set(module.__all__) - {"Scaling", "Sections"}
    return {name: getattr(module, name) for name in names}


def _call(entry: Preset, path: str, function: Any, arguments: dict[str, Any]) -> Any:
    """Call a function, and raise its errors as errors of the file."""
    from inspect import Parameter, signature

    parameters = signature(function).parameters
    several: list[Any] = []
    named: dict[str, Any] = {}
    for key, value in arguments.items():
        if key not in parameters:
            expected = f"have no other keys than kind, {', '.join(parameters)}"
            raise _error(entry.file, entry.name, path, expected, key)
        if parameters[key].kind is Parameter.VAR_POSITIONAL:
            several = value
        else:
            named[key] = value
    try:
        return function(*several, **named)
    except (TypeError, ValueError) as error:
        msg = f"rotary/checkpoints/data/{entry.file}: [{entry.name}] {path} has invalid values: {error}"
        raise ConfigError(msg) from error


# ------------------------------------------------------------------------------------------------
# From files to tables.


def _error(file: str, name: str, path: str, expected: str, found: Any) -> ConfigError:
    """Return the error of a key in a file."""
    return ConfigError(
        f"rotary/checkpoints/data/{file}: [{name}] `{path}` must {expected}, got {shown(found)}"
    )


@cache
def _read() -> Presets:
    """Return the presets of all files, by name."""
    from importlib.resources import files

    found: dict[str, Preset] = {}
    for file in sorted(files(__package__).joinpath("data").iterdir(), key=lambda item: item.name):
        if file.name.endswith(".toml"):
            for entry in _parse(file.name, file.read_text(encoding="utf-8")):
                if entry.name in found:
                    expected = (
                        f"be unique, but {found[entry.name].file} has a preset of this name too"
                    )
                    raise _error(file.name, entry.name, "name", expected, entry.name)
                found[entry.name] = entry
    return Presets({name: found[name] for name in sorted(found)})


def _parse(file: str, text: str) -> list[Preset]:
    """Return the presets of one file."""
    import tomllib

    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        msg = f"rotary/checkpoints/data/{file} must be TOML: {error}"
        raise ConfigError(msg) from error
    return [_make_preset(file, name, table) for name, table in tables.items()]


def _make_preset(file: str, name: str, table: Any) -> Preset:
    """Check the keys of a table and return its preset."""
    if not isinstance(table, dict):
        raise _error(file, name, name, "be a table", table)
    known = (*_FACTS, "source", *_VALUES, *_OBJECTS)
    for key in table:
        if key not in known:
            raise _error(file, name, key, f"be one of {', '.join(known)}", key)
    for key in _REQUIRED:
        if key not in table:
            raise _error(file, name, key, "be given", None)
    for key in _FACTS:
        if not isinstance(table[key], str) or not table[key].strip():
            raise _error(file, name, key, "be a string that is not empty", table[key])
    if not name.endswith(f"-{table['format']}"):
        raise _error(file, name, "format", "be the last part of the name", table["format"])
    arguments = {key: _freeze(table[key]) for key in (*_VALUES, *_OBJECTS) if key in table}
    return Preset(
        name=name,
        family=table["family"],
        format=table["format"],
        description=table["description"],
        sources=_sources(file, name, table["source"], arguments),
        arguments=MappingProxyType(arguments),
        file=file,
    )


def _freeze(value: Any) -> Any:
    """Return an immutable copy of a value, nested values included."""
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(part) for key, part in value.items()})
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _argument_names(arguments: Mapping[str, Any]) -> list[str]:
    """Return the names of the arguments, and of the fields of arguments that are tables."""
    tables = {name: table for name, table in arguments.items() if isinstance(table, Mapping)}
    return [*arguments, *(f"{name}.{key}" for name, table in tables.items() for key in table)]


def _sources(file: str, name: str, sources: Any, arguments: dict[str, Any]) -> Mapping[str, str]:
    """Check the keys of a table of sources and return the sources."""
    if not isinstance(sources, dict):
        raise _error(file, name, "source", "be a table", sources)
    known = ("numbers", *_argument_names(arguments))
    for key, text in sources.items():
        if key not in known:
            raise _error(file, name, f"source.{key}", f"be one of {', '.join(known)}", key)
        if not isinstance(text, str) or not text.strip():
            raise _error(file, name, f"source.{key}", "be a string that is not empty", text)
    for key in ("numbers", "layout"):
        if key not in sources:
            raise _error(file, name, f"source.{key}", "be given", None)
    return MappingProxyType(dict(sources))
