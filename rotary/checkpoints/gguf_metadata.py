"""The keys of a GGUF file as plain Python values, and the factor tensors of the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rotary._lib.checks import (
    LARGEST_WIDTH,
    as_non_negative_float,
    as_positive_integer,
    as_rotary_dim,
)
from rotary._lib.errors import ConfigError, shown, shown_name, shown_text
from rotary.angles.powers import as_factors

from .gguf_file import read_header
from .llama_cpp import find_architecture
from .reader import Keys

__all__ = [
    "KEYS",
    "LONG",
    "ROPE_FREQS",
    "SHORT",
    "Metadata",
    "as_head_count",
    "as_rotary_width",
    "as_section_sizes",
    "as_width",
    "as_window",
    "check_tensors",
    "load_metadata",
    "refuse_unknown_keys",
]

# The longest name of an architecture. The name is a part of every key, so a damaged one could make all keys long.
_LONGEST_NAME = 256

ROPE_FREQS = "rope_freqs.weight"
LONG = "rope_factors_long.weight"
SHORT = "rope_factors_short.weight"
_TENSORS = (ROPE_FREQS, LONG, SHORT)

_GENERAL = ("general.architecture", "split.count")
_WIDTHS = (
    *(".context_length", ".embedding_length", ".attention.head_count"),
    *(".attention.key_length", ".attention.key_length_mla", ".attention.key_length_swa"),
    ".attention.sliding_window",
)
KEYS = (
    *("dimension_count", "dimension_count_swa", "dimension_sections", "freq_base", "freq_base_swa"),
    *(
        "scale_linear",
        "scaling.alpha",
        "scaling.attn_factor",
        "scaling.factor",
        "scaling.finetuned",
    ),
    *("scaling.original_context_length", "scaling.type", "scaling.yarn_attn_factor"),
    *("scaling.yarn_beta_fast", "scaling.yarn_beta_slow", "scaling.yarn_ext_factor"),
    "scaling.yarn_log_multiplier",
)


class Metadata(Keys):
    """The keys of one architecture. Their names have no prefix with the name of the architecture."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        key = "general.architecture"
        name = _value_as_plain(key, values[key]) if key in values else None
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            msg = f"`{key}` must be the name of an architecture, got {shown(name)}"
            raise ConfigError(msg)
        path = f"{name}."
        own = {
            key.removeprefix(path): value
            for key, value in values.items()
            if isinstance(key, str) and key.startswith(path)
        }
        super().__init__(own, path, keep_nulls=True)
        self.architecture = find_architecture(name)

    def raw_value(self, key: str) -> Any:
        """Return the value of a key as a plain Python value; parse numbers in strings."""
        return _parse_strings(_value_as_plain(f"{self.path}{key}", self.values[key]))

    def origin_of(self, key: str) -> str:
        """Return the full key; without "given: ", because almost every number has a key."""
        return f"{self.path}{key}"


def refuse_unknown_keys(values: Mapping[Any, Any], own: Metadata) -> None:
    """Raise for a key about rotation that is not known or belongs to another architecture."""
    known = {f"{own.path}rope.{name}" for name in KEYS}
    for key, value in values.items():
        if isinstance(key, str) and ".rope." in key and key not in known:
            name = shown(own.architecture.name)
            is_own = key.startswith(f"{own.path}rope.")
            why = "is not a known key" if is_own else f"is not a key of the architecture {name}"
            text = shown(_value_as_plain(key, value))
            msg = f"`{shown_name(key)}` {why}, got {text}; leave it out if it changes nothing"
            raise ConfigError(msg)


def _value_as_plain(key: str, value: Any) -> Any:
    """Return a value as a plain Python value; errors name the key."""
    try:
        return _as_plain(value)
    except ConfigError as error:
        msg = f"`{shown_name(key)}`: {error}"
        raise ConfigError(msg) from error


def _as_plain(value: Any) -> Any:
    """Return a value of any reader (a field of gguf-py, an array, bytes) as a plain Python value."""
    contents = getattr(value, "contents", None)
    if callable(contents):
        try:
            value = contents()
        except Exception as error:  # gguf-py may raise anything for a damaged file
            msg = f"a field of type {type(value).__name__} cannot be read: {shown_text(error)}"
            raise ConfigError(msg) from error
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, tuple):
        value = list(value)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _parse_strings(value: Any) -> Any:
    """Parse numbers in strings, because some readers return every value as a string."""
    if isinstance(value, str) and value.startswith("["):
        return [_parse_strings(part) for part in value.strip("[]").split(",")]
    if isinstance(value, str):
        words = {"true": True, "false": False}
        for read in (int, float, lambda text: words[text.strip().lower()]):
            try:
                return read(value)
            except (KeyError, ValueError):
                continue
    return value


def as_width(value: Any, name: str) -> int:
    """Return a number of channels."""
    count = as_positive_integer(value, name)
    if count > LARGEST_WIDTH:
        msg = f"`{name}` must be at most {LARGEST_WIDTH}, got {shown(count)}"
        raise ValueError(msg)
    return count


def as_rotary_width(value: Any, name: str) -> int:
    """Return a number of rotated channels."""
    return as_width(as_rotary_dim(value, name), name)


def as_head_count(value: Any, name: str) -> int:
    """Return a number of heads. From a list, take the entry of the first layer, as llama.cpp does."""
    return as_positive_integer(value[0] if isinstance(value, list) and value else value, name)


def as_window(value: Any, name: str) -> int:
    """Return the width of the sliding window, or 0 if there is no window."""
    return int(as_non_negative_float(value, name))


def as_section_sizes(value: Any, name: str) -> tuple[int, ...]:
    """Return four numbers of channel pairs, one for each position axis; missing ones are 0."""
    if not isinstance(value, list) or not 1 <= len(value) <= 4:
        msg = f"`{name}` must be a list of one to four integers, got {shown(value)}"
        raise TypeError(msg)
    sizes = tuple(int(as_non_negative_float(size, name)) for size in value)
    if list(sizes) != value:
        msg = f"`{name}` must be a list of integers, got {shown(value)}"
        raise TypeError(msg)
    return (*sizes, 0, 0, 0)[:4]


def check_tensors(given: Any) -> dict[str, tuple[float, ...]]:
    """Return the checked factor tensors; tensors of other names are ignored."""
    if given is not None and not isinstance(given, Mapping):
        msg = f"`tensors` must be a mapping of names to arrays, got {type(given).__name__}"
        raise TypeError(msg)
    found = {name: given[name] for name in _TENSORS if name in given} if given else {}
    try:
        return {name: as_factors(value, name) for name, value in found.items()}
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _is_read(key: str) -> bool:
    """Whether the embedding may depend on the value of a key."""
    return key in _GENERAL or ".rope." in key or key.endswith(_WIDTHS)


def load_metadata(
    metadata: Any, tensors: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return keys and factor tensors: the arguments, or the content of a file.

    The tensors are None if it is not known whether the model has any.
    """
    if isinstance(metadata, Mapping):
        return metadata, tensors
    is_path = isinstance(metadata, str | os.PathLike)
    fields, listed = getattr(metadata, "fields", None), getattr(metadata, "tensors", None)
    is_reader = isinstance(fields, Mapping) and isinstance(listed, list)
    if not is_path and not is_reader:
        msg = f"`metadata` must be a mapping, a path or a GGUFReader, got {type(metadata).__name__}"
        raise TypeError(msg)
    if tensors is not None:
        msg = (
            "`tensors` must be left out if `metadata` is a file, because they are read from the file, got "
            f"{type(tensors).__name__}"
        )
        raise ValueError(msg)
    values: Mapping[str, Any]
    if is_path:
        values, found = read_header(os.fsdecode(metadata), _TENSORS, _is_read)
    else:
        values = metadata.fields
        found = {t.name: _factors_of(t) for t in metadata.tensors if t.name in _TENSORS}
    parts = _parse_strings(_as_plain(values.get("split.count", 1)))
    # If the model is split into several files, the tensors may be in another file.
    in_other_file = not found and parts not in (0, 1)
    return values, None if in_other_file else found


def _factors_of(tensor: Any) -> Any:
    """Return the factors in a tensor of gguf-py."""
    if tensor.tensor_type != 0:
        msg = (
            f"`{tensor.name}` must be float32, tensor type 0, got type {shown(tensor.tensor_type)}"
        )
        raise ConfigError(msg)
    values = np.asarray(tensor.data)
    # Drop axes of size one.
    return values.reshape(-1) if values.size == values.shape[-1] else values
