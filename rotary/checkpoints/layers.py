"""The layer that the caller requests, its kind, and whether it has rotary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rotary._lib.checks import as_non_negative_integer, as_positive_integer
from rotary._lib.errors import ConfigError, listed, shown

from .key_names import LAYER_COUNTS
from .models import FOLLOWS, Model
from .reader import Keys

__all__ = [
    "Layer",
    "as_layer_count",
    "check_kind",
    "entry_of_layer",
    "has_rotary",
    "kinds_of_layers",
]

_MAX_LAYERS = 2**16  # some functions make a list with an entry for each layer


# For model types whose facts are not known: a key, and the value of the key with which the model has rotary.
_ROTARY_CONDITIONS: dict[str, tuple[str, Any]] = {"zamba2": ("use_mem_rope", True)}


def has_rotary(top: Keys, model: Model | None) -> bool:
    """Whether any layer of the model has rotary."""
    if top.values.get("mla_use_nope") is True:  # Kimi Linear: no layer has rotary
        return False
    name = top.values.get("model_type")
    if model is not None:
        condition = model.only
    else:
        condition = _ROTARY_CONDITIONS.get(name) if isinstance(name, str) else None
    if condition is None:
        return True
    key, wanted = condition
    return bool(top.values.get(key, None if wanted is not False else False) == wanted)


@dataclass(frozen=True)
class Layer:
    """The layer that the caller requests: its kind and index, None if not known, and the published name of the kind."""

    kind: str | None
    index: int | None
    published: str | None = None

    @classmethod
    def from_argument(cls, top: Keys, given: str | int | None) -> Layer:
        """Return the layer that the argument `layer_type` requests."""
        if given is None or isinstance(given, str):
            return cls(None if given is None else _RENAMED.get(given, given), None, given)
        kinds = kinds_of_layers(top)
        count = top.get_one_of(LAYER_COUNTS, as_layer_count)
        layers = len(kinds) if kinds else None if count is None else count.value
        if layers is not None and given >= layers:
            msg = f"`layer_type` must be the index of a layer, below {layers}, got {shown(given)}"
            raise ValueError(msg)
        if kinds:
            return cls(kinds[given], given, _published_kinds(top)[given])
        return cls(None, given)

    def rotates(self, top: Keys, model: Model | None) -> bool:
        """Whether this layer has rotary."""
        if model is not None and (model.hybrid or model.sliding) and self.index is not None:
            self.require_kind(top)
        if self.kind in _NO_ATTENTION and (model is None or model.hybrid):
            return False
        crossed = top.values.get("cross_attention_layers")
        if isinstance(crossed, list | tuple) and self.index in crossed:
            return False
        if model is not None and model.sliding and self.kind is not None:
            check_kind(top, self.kind, ("sliding_attention", "full_attention"))
            return self.kind == "sliding_attention" or (
                model.sliding == "windowed" and "sliding_window" in top.nulls
            )
        flags = _rotary_flags(top)
        found = top.get("no_rope_layer_interval", as_positive_integer)
        interval = None if model is None else model.defaults.get("no_rope_layer_interval")
        if model is not None and interval is None and (found is not None or not all(flags)):
            key = "no_rope_layer_interval" if all(flags) else "no_rope_layers"
            must = (
                f"is not read by the code of model type {shown(model.name)} in {FOLLOWS}, which rotates in every "
                "layer"
            )
            advice = "leave it out, or correct the model type"
            top.fail(key, must, shown(top.values[key]), advice)
        if flags:
            if self.index is None:
                return any(flags)
            return bool(entry_of_layer(flags, self.index, top.name("no_rope_layers")))
        interval = interval if found is None else found.value
        return interval is None or self.index is None or bool((self.index + 1) % interval)

    def require_kind(self, top: Keys) -> None:
        """Raise if the caller gave the index of a layer whose kind is not known."""
        if self.index is not None and self.kind is None:
            msg = (
                f"`layer_type` must be a kind of layer, because `config` has no {top.name('layer_types')} with "
                f"the kind of layer {self.index}, got {self.index}; write 'sliding_attention' or "
                "'full_attention'"
            )
            raise ConfigError(msg)


# Older names of kinds of layers, which transformers also replaces.
_RENAMED = {
    **dict.fromkeys(("attention", "*"), "full_attention"),
    **dict.fromkeys(("mamba", "mamba2", "recurrent", "rglru", "M"), "linear_attention"),
    **dict.fromkeys(("gated_deltanet", "lightning_attention", "kda"), "linear_attention"),
    **dict.fromkeys(("deepseek_sparse_attention", "qwen_sparse_attention"), "indexed_attention"),
    "E": "moe",
    "-": "mlp",
}
# Kinds of layers that have no self-attention and therefore no rotary.
_NO_ATTENTION = {"linear_attention", "conv", "short_conv", "moe", "mlp", "cross_attention"}


def kinds_of_layers(top: Keys) -> list[str]:
    """Return the kind of every layer from a list or a pattern; an empty list if there is neither."""
    return [_RENAMED.get(kind, kind) for kind in _published_kinds(top)]


def _published_kinds(top: Keys) -> list[str]:
    """Return the kind of every layer, as the configuration names it."""
    for key in ("layer_types", "layers_block_type", "hybrid_override_pattern", "block_types"):
        if key not in top:
            continue
        kinds = top.values[key]
        pattern = key == "hybrid_override_pattern"
        is_sequence = isinstance(kinds, str) if pattern else isinstance(kinds, list | tuple)
        if not is_sequence or not all(isinstance(kind, str) for kind in kinds):
            top.fail(key, "must be a list of names", shown(kinds))
        if key == "block_types":  # RecurrentGemma repeats this list
            named = {"attention": "sliding_attention"}
            kinds = [named.get(kind, kind) for kind in kinds]
            return [kinds[i % len(kinds)] for i in _layers(top)] if kinds else []
        return list(kinds)
    return _kinds_by_pattern(top)


def _layers(top: Keys) -> range:
    """Return the indices of the layers; empty if the configuration does not give the number of layers."""
    count = top.get_one_of(LAYER_COUNTS, as_layer_count)
    return range(0 if count is None else count.value)


def _kinds_by_pattern(top: Keys) -> list[str]:
    """Return the kind of every layer from the patterns of older configurations; empty if there is none."""
    if "hybrid_layer_pattern" in top:
        return [
            _WINDOWS[flag] for flag in _layer_flags(top, "hybrid_layer_pattern", "a window", "none")
        ]
    if "attn_type_list" in top:
        return [
            _LINEAR[not flag] for flag in _layer_flags(top, "attn_type_list", "attention", "none")
        ]
    for key, (kinds, shift) in _INTERVALS.items():
        if isinstance(top.values.get(key), int):
            found = top.get(key, as_positive_integer)
            assert found is not None
            return [kinds[(i + shift) % found.value != 0] for i in _layers(top)]
    for key in ("attn_layer_indices", "full_attn_idxs"):
        if key in top:
            numbers = _layer_indices(top, key)
            return [_LINEAR[i not in numbers] for i in _layers(top)]
    period, offset = (
        top.get(f"attn_layer_{name}", as_non_negative_integer) for name in ("period", "offset")
    )
    if period is not None and offset is not None and period.value:
        return [_LINEAR[i % period.value != offset.value] for i in _layers(top)]
    return []


_WINDOWS = ("full_attention", "sliding_attention")
_LINEAR = ("full_attention", "linear_attention")
# Keys with the interval between layers of one kind, each with the two kinds and an offset. A layer has the first kind
# if the interval divides the sum of its index and the offset.
_INTERVALS = {
    "sliding_window_pattern": (_WINDOWS, 1),
    "global_attn_every_n_layers": (_WINDOWS, 0),
    "full_attention_interval": (_LINEAR, 1),
    "layer_group_size": (_LINEAR, 1),
}


def _layer_indices(top: Keys, key: str) -> set[int]:
    """Return the layer indices that a key lists."""
    values = top.values[key]
    if not isinstance(values, list | tuple) or not all(isinstance(value, int) for value in values):
        top.fail(key, "must be a list of layer indices", shown(values))
    return set(values)


def _layer_flags(top: Keys, key: str, one: str, zero: str) -> list[bool]:
    """Return the flags, 1 or 0, that a key lists for each layer; empty if the key is left out."""
    flags = top.values.get(key, [])
    if not isinstance(flags, list | tuple) or any(flag not in (0, 1) for flag in flags):
        must = f"must be a list with 1 for each layer that has {one} and 0 for each layer that has {zero}"
        top.fail(key, must, shown(flags))
    return [bool(flag) for flag in flags]


def _rotary_flags(top: Keys) -> list[bool]:
    """Return for every layer whether it has rotary. Despite the name of the key, 1 means rotary."""
    return _layer_flags(top, "no_rope_layers", "rotary", "none")


def as_layer_count(value: Any, name: str) -> int:
    """Return ``value`` as a number of layers."""
    count = as_positive_integer(value, name)
    if count > _MAX_LAYERS:
        msg = f"`{name}` must be at most {_MAX_LAYERS} layers, got {shown(value)}"
        raise ValueError(msg)
    return count


def entry_of_layer(values: list[Any], index: int, name: str) -> Any:
    """Return the entry of a layer in a list; raise if the list is too short."""
    if index >= len(values):
        msg = f"`{name}` must have an entry for layer {index}, got {len(values)} entries"
        raise ConfigError(msg)
    return values[index]


def check_kind(top: Keys, kind: str, names: Iterable[str]) -> None:
    """Raise for a kind that is neither among `names` nor in the configuration."""
    names = sorted({*names, *kinds_of_layers(top)})
    if kind not in names:
        msg = f"`layer_type` must be one of {listed(names)} or the index of a layer, got {shown(kind)}"
        raise ValueError(msg)
