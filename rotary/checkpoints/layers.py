"""Which part of a configuration is meant, which of its layers, and where the rope keys of that layer stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from rotary._lib.checks import as_non_negative_integer, as_positive_float, as_positive_integer
from rotary._lib.errors import ConfigError, listed, shown, shown_name

from .models import FOLLOWS, Model, part_type
from .reader import Found, Keys, agreed, near
from .schedules import LEGACY_TYPES

__all__ = [
    "BASES",
    "HEADS",
    "HIDDEN",
    "INTERLEAVED",
    "LANGUAGE",
    "LEGACY_BASES",
    "PARTS",
    "Layer",
    "attention_part",
    "check_is_text",
    "check_rope_keys",
    "has_rotary",
    "item",
    "kinds_of_layers",
    "language_model",
    "rope_dict",
]

HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_num_attention_heads")
BASES = (
    *("rope_theta", "rotary_emb_base", "rotary_embedding_base", "rope_embedding_base"),
    "rope_freq_constant",
)
PARTS = (
    *("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent", "rotary_percent"),
    "rotary_emb_fraction",
)
INTERLEAVED = (
    *("rope_interleave", "rope_interleaved", "rotary_interleaved", "rotary_emb_interleaved"),
)
_COUNT = ("num_hidden_layers", "n_layer", "num_layers")
_MOST_LAYERS = 2**16  # some answers list them all
_DICTS = ("rope_parameters", "rope_scaling")
LANGUAGE = ("text_config", "language_config", "llm_config")
# Keys on top of a configuration that have to do with rope; whatever else looks like it is refused.
_ROPE_KEYS = {
    *BASES,
    *PARTS,
    *INTERLEAVED,
    *_DICTS,
    "rotary_dim",
    "rope_local_base_freq",
    "global_rope_theta",
    "local_rope_theta",
    "compress_rope_theta",
    "swa_rope_theta",
    "layer_rope_theta",
    "no_rope_layers",
    "no_rope_layer_interval",
    "rope_scaling_layers",
    "qk_rope_head_dim",
    "indexer_rope_interleave",
    "rotary_value",
    "use_mem_rope",
}
# Without these the class's default counts, so that a slip of the pen must not pass for a key of the rest of the model.
_PLAIN_KEYS = ("ropetheta", "ropescaling", "ropeparameters", "partialrotaryfactor")
_NEARLY = 0.88
_LOOKS_LIKE_ROPE = r"(^|_)(rope|rotary|yarn|mrope|xdrope|ntk)(_|$)"
# Keys that turn rotary off, and the values of the others that turn it on.
_TURNS_OFF = r"(^|_)(alibi|nope|norope|no_rope)(_|$)"
_WIDTHS_WITHOUT = ("qk_nope_head_dim",)
_POSITIONS = r"^(rel_)?pos(ition(al)?)?_(embed(ding)?s?|emb|encoding)(_type|_name|_kind)?$"
_MEANS_ROPE = r"(^|[^a-z])(rope|rotary|mrope)([^a-z]|$)"
# Switches of published configurations, and where they stand if what they say is so anyway.
_SWITCHES: dict[str, Any] = {
    **dict.fromkeys(("rope", "rotary", "use_rope", "use_rotary", "use_rotary_pos_emb"), True),
    **dict.fromkeys(("use_rotary_embedding", "use_rotary_embeddings", "original_rope"), True),
    **dict.fromkeys(("use_mrope", "use_scaled_rope", "use_dynamic_ntk"), False),
    **dict.fromkeys(("position_embedding_xdrope", "rope_3d"), False),
    **dict.fromkeys(("rotary_scaling_factor", "rope_position_scale"), 1.0),
}
# These change nothing about frequencies, whatever they say.
_UNRELATED = ("rope_full_precision", "rope_max_length")
# What to write for keys of models whose code is not that of transformers.
_ADVICE = {
    **dict.fromkeys(
        ("rope", "rotary", "use_rope", "use_rotary", "use_rotary_pos_emb"),
        "the model's own code says what else it does where this is not true",
    ),
    "partial_rotary_factors": "write rope_parameters, with an object for each kind of layer",
    "rope_3d": "the order of the sections is the model's own, that of rotary.sections.ernie in Ernie 4.5-VL",
    "rope_ratio": "ChatGLM turns half of each head, interleaved, by the base 10000 * rope_ratio: write that as "
    "rope_theta, and partial_rotary_factor 0.5",
    **dict.fromkeys(
        ("rope_type", "mrope_section", "mrope_interleaved", "xdrope_section"),
        "it belongs within rope_parameters, or rope_scaling in older configurations",
    ),
    "rotary_scaling_factor": "write rope_scaling, with the rope_type that the model's own code has, often 'dynamic'",
    "use_dynamic_ntk": "the base grows with the length as the model's own code does; write false for positions "
    "below seq_length",
    "use_mrope": "write the mrope_section",
    "use_scaled_rope": "write rope_scaling, with the rope_type 'llama3' and its factors",
}


def language_model(top: Keys) -> Keys:
    """Return the configuration itself, or its language model's where it has several parts."""
    parts = _parts(top)
    own = top.matching(_LOOKS_LIKE_ROPE)
    for name in LANGUAGE:
        inner = parts.get(name)
        if inner is not None:
            _check_agreement(top, own, inner)
            if "model_type" in top and "model_type" not in inner:
                inner.values["model_type"] = part_type(top.values["model_type"])
            return language_model(inner)
    if own or not parts or "head_dim" in top or _has_any(top, HEADS):
        return top
    names = listed(parts, lambda name: f"config[{shown(name)}]")
    msg = (
        f"`config` has several parts and no text_config, and each may have a rotation of its own; pass the "
        f"one that is meant, one of {names}, got model type {shown(top.values.get('model_type'))}"
    )
    raise ConfigError(msg)


def _check_agreement(top: Keys, names: list[str], inner: Keys) -> None:
    """Refuse rope keys that a configuration has beside its language model's, and that say something else."""
    for name in names:
        if not _is_said(name, top, inner):
            msg = (
                f"`{top.name(name)}` must be what `{inner.name(name)}` is, or left out, got "
                f"{shown(top.values[name])} and {shown(inner.values.get(name))}; pass the part that is meant by itself"
            )
            raise ConfigError(msg)


def _is_said(name: str, top: Keys, inner: Keys) -> bool:
    """Whether a part says the same as a key above it, under that name or within its rope dict."""
    value = top.values[name]
    if value == inner.values.get(name):
        return True
    given = next((keys for key in _DICTS if (keys := inner.inner(key)) is not None), None)
    if name in _DICTS:
        own = top.inner(name)
        if own is None or given is None:
            return False
        said = _plain(given.values) | {
            "rope_theta": given.values.get("rope_theta", inner.values.get("rope_theta"))
        }
        return all(said.get(key) == here for key, here in _plain(own.values).items())
    return name not in inner and given is not None and value == given.values.get(name)


def _parts(top: Keys) -> dict[str, Keys]:
    """Return the configurations within a configuration."""
    found = {}
    for name in top.matching(r"_config$"):
        value = top.values[name]
        if isinstance(value, Mapping) or callable(getattr(value, "to_dict", None)):
            inner = top.inner(name)
            if inner is not None and (
                "model_type" in inner or _has_any(inner, (*HIDDEN, *HEADS)) or _parts(inner)
            ):
                found[name] = inner
    return found


def _has_any(keys: Keys, names: Iterable[str]) -> bool:
    """Whether one of the names is a key."""
    return any(name in keys for name in names)


def check_rope_keys(top: Keys, row: Model | None) -> None:
    """Refuse keys that look as if they had to do with rope and are not known."""
    attention = attention_part(top)
    if attention is not None:
        check_rope_keys(attention, row)
    _check_switches(top, row)
    for key in [*top.matching(_LOOKS_LIKE_ROPE), *_misspelt(top)]:
        if key in _ROPE_KEYS or key in _UNRELATED or key.startswith("memory_attention_rope"):
            continue
        if key in _SWITCHES and top.values[key] == _SWITCHES[key]:
            continue
        close = near(key.lower(), _ROPE_KEYS)
        guess = f"{close} Leave" if close.startswith("did you mean") else "leave"
        advice = _ADVICE.get(key, f"{guess} it out if it changes nothing")
        msg = f"`{top.name(key)}` is no known rope key, got {shown(top.values[key])}; {advice}"
        raise ConfigError(msg)


def _misspelt(top: Keys) -> list[str]:
    """Return keys that do not look like rope keys and yet are written nearly as the most important ones."""
    found = []
    for key in top.matching(r"^.{7,25}$"):
        # As `ropeTheta` and `rope-theta` are written, and `rop_theta`.
        plain = re.sub("[^a-z]", "", key.lower())
        if key not in _ROPE_KEYS and get_close_matches(plain, _PLAIN_KEYS, n=1, cutoff=_NEARLY):
            found.append(key)
    return found


def _check_switches(top: Keys, row: Model | None) -> None:
    """Refuse keys that turn rotary off, or name other positions, where the model type does not read them."""
    read = {"mla_use_nope", "no_rope_layers", "no_rope_layer_interval"}
    if row is not None and row.only is not None:
        read.add(row.only[0])
    who = (
        "the configuration's own code"
        if row is None
        else f"the code of model type {shown(row.name)}"
    )
    for key in top.matching(_TURNS_OFF):
        value = top.values[key]
        if key in read or key in _WIDTHS_WITHOUT or not value or isinstance(value, str):
            continue
        msg = (
            f"`{top.name(key)}` must be false or left out, for {who} is not known to read it, got {shown(value)}; "
            "layers without rotary are those of `no_rope_layers`, or null in rope_parameters"
        )
        raise ConfigError(msg)
    for key in top.matching(_POSITIONS):
        value = top.values[key]
        if key in read or not isinstance(value, str) or re.search(_MEANS_ROPE, value.lower()):
            continue
        msg = (
            f"`{top.name(key)}` must be 'rope' or left out, for {who} is not known to read it, got {shown(value)}; "
            "other positions than rotary ones are no part of this library"
        )
        raise ConfigError(msg)


def attention_part(top: Keys) -> Keys | None:
    """Return the keys of the attention, which DBRX and MPT have apart."""
    return top.inner("attn_config") if isinstance(top.values.get("attn_config"), Mapping) else None


def check_is_text(top: Keys, row: Model | None) -> None:
    """Refuse image encoders, whose patches have two positions, where only their keys tell."""
    marks = ("image_size", "spatial_merge_size")
    if "patch_size" in top and _has_any(top, marks) and (row is None or row.sections):
        msg = (
            f"`{top.name('patch_size')}` is of an image encoder, whose patches have two position axes in an "
            f"order the configuration does not tell, got {shown(top.values['patch_size'])}; build it with "
            "rotary.sections.axial, or take a preset"
        )
        raise ConfigError(msg)


# Of model types that are not known, a key and the value at which they have rotary at all.
_ONLY: dict[str, tuple[str, Any]] = {"zamba2": ("use_mem_rope", True)}


def has_rotary(top: Keys, row: Model | None) -> bool:
    """Whether the model has rotary at all, where a key decides."""
    if top.values.get("mla_use_nope") is True:  # Kimi Linear, whose other layers have none either
        return False
    name = top.values.get("model_type")
    only = row.only if row is not None else _ONLY.get(name) if isinstance(name, str) else None
    if only is None:
        return True
    key, wanted = only
    return bool(top.values.get(key, None if wanted is not False else False) == wanted)


@dataclass(frozen=True)
class Layer:
    """Which layer is meant: its kind, its number, neither, or both."""

    kind: str | None
    index: int | None
    published: str | None = None

    @classmethod
    def of(cls, top: Keys, given: str | int | None) -> Layer:
        """Return the layer a caller names."""
        if given is None or isinstance(given, str):
            return cls(None if given is None else _RENAMED.get(given, given), None, given)
        kinds = kinds_of_layers(top)
        count = top.first(_COUNT, _as_layers)
        layers = len(kinds) if kinds else None if count is None else count.value
        if layers is not None and given >= layers:
            msg = f"`layer_type` must be one of the {layers} layers, from 0 on, got {shown(given)}"
            raise ValueError(msg)
        if kinds:
            return cls(kinds[given], given, _published_kinds(top)[given])
        return cls(None, given)

    def rotates(self, top: Keys, row: Model | None) -> bool:
        """Whether the configuration says that this layer has rotary."""
        if row is not None and (row.hybrid or row.sliding) and self.index is not None:
            self.needed_kind(top)
        if self.kind in _NO_ATTENTION and (row is None or row.hybrid):
            return False
        crossed = top.values.get("cross_attention_layers")
        if isinstance(crossed, list | tuple) and self.index in crossed:
            return False
        if row is not None and row.sliding and self.kind is not None:
            _check_kind(top, self.kind, ("sliding_attention", "full_attention"))
            return self.kind == "sliding_attention" or (
                row.sliding == "windowed" and "sliding_window" in top.nulls
            )
        flags = _flags(top)
        found = top.found("no_rope_layer_interval", as_positive_integer)
        interval = None if row is None else row.defaults.get("no_rope_layer_interval")
        if row is not None and interval is None and (found is not None or not all(flags)):
            key = "no_rope_layer_interval" if all(flags) else "no_rope_layers"
            msg = (
                f"`{top.name(key)}` is not read by the code of model type {shown(row.name)} in {FOLLOWS}, every "
                f"layer of which rotates, got {shown(top.values[key])}; leave it out, or write the model type that "
                "is meant"
            )
            raise ConfigError(msg)
        if flags:
            if self.index is None:
                return any(flags)
            return bool(item(flags, self.index, top.name("no_rope_layers")))
        interval = interval if found is None else found.value
        return interval is None or self.index is None or bool((self.index + 1) % interval)

    def needed_kind(self, top: Keys) -> None:
        """Refuse a layer's number where nothing tells the kind of that layer."""
        if self.index is not None and self.kind is None:
            msg = (
                f"`layer_type` must be a kind of layer, for `config` has no {top.name('layer_types')}, which would "
                f"tell the kind of layer {self.index}, got {self.index}; write 'sliding_attention' or "
                "'full_attention'"
            )
            raise ConfigError(msg)


# Names that checkpoints wrote before for kinds of layers; transformers renames them too.
_RENAMED = {
    **dict.fromkeys(("attention", "*"), "full_attention"),
    **dict.fromkeys(("mamba", "mamba2", "recurrent", "rglru", "M"), "linear_attention"),
    **dict.fromkeys(("gated_deltanet", "lightning_attention", "kda"), "linear_attention"),
    **dict.fromkeys(("deepseek_sparse_attention", "qwen_sparse_attention"), "indexed_attention"),
    "E": "moe",
    "-": "mlp",
}
# Kinds of layers without attention of their own, and so without rotary.
_NO_ATTENTION = {"linear_attention", "conv", "short_conv", "moe", "mlp", "cross_attention"}


def kinds_of_layers(top: Keys) -> list[str]:
    """Return the kind of every layer, where the configuration has a list of them or a pattern."""
    return [_RENAMED.get(kind, kind) for kind in _published_kinds(top)]


def _published_kinds(top: Keys) -> list[str]:
    """Return the kind of every layer in the words of the configuration."""
    for key in ("layer_types", "layers_block_type", "hybrid_override_pattern", "block_types"):
        if key not in top:
            continue
        kinds = top.values[key]
        pattern = key == "hybrid_override_pattern"
        whole = isinstance(kinds, str) if pattern else isinstance(kinds, list | tuple)
        if not whole or not all(isinstance(kind, str) for kind in kinds):
            msg = f"`{top.name(key)}` must be a list of names, got {shown(kinds)}"
            raise ConfigError(msg)
        if key == "block_types":  # RecurrentGemma repeats them
            named = {"attention": "sliding_attention"}
            kinds = [named.get(kind, kind) for kind in kinds]
            return [kinds[i % len(kinds)] for i in _layers(top)] if kinds else []
        return list(kinds)
    return _pattern(top)


def _layers(top: Keys) -> range:
    """Return the numbers of the layers; none where the configuration does not tell how many."""
    count = top.first(_COUNT, _as_layers)
    return range(0 if count is None else count.value)


def _pattern(top: Keys) -> list[str]:
    """Return the kind of every layer as older configurations tell it: by the distance of full ones."""
    if "hybrid_layer_pattern" in top:
        return [_WINDOWS[flag] for flag in _bits(top, "hybrid_layer_pattern", "a window", "none")]
    if "attn_type_list" in top:
        return [_LINEAR[not flag] for flag in _bits(top, "attn_type_list", "attention", "none")]
    for key, (kinds, shift) in _INTERVALS.items():
        if isinstance(top.values.get(key), int):
            found = top.found(key, as_positive_integer)
            assert found is not None
            return [kinds[(i + shift) % found.value != 0] for i in _layers(top)]
    for key in ("attn_layer_indices", "full_attn_idxs"):
        if key in top:
            numbers = _numbers_of_layers(top, key)
            return [_LINEAR[i not in numbers] for i in _layers(top)]
    period, offset = (
        top.found(f"attn_layer_{name}", as_non_negative_integer) for name in ("period", "offset")
    )
    if period is not None and offset is not None and period.value:
        return [_LINEAR[i % period.value != offset.value] for i in _layers(top)]
    return []


_WINDOWS = ("full_attention", "sliding_attention")
_LINEAR = ("full_attention", "linear_attention")
# Keys with the distance between layers of the first kind: the two kinds, and what is added to the number of a layer.
_INTERVALS = {
    "sliding_window_pattern": (_WINDOWS, 1),
    "global_attn_every_n_layers": (_WINDOWS, 0),
    "full_attention_interval": (_LINEAR, 1),
    "layer_group_size": (_LINEAR, 1),
}


def _numbers_of_layers(top: Keys, key: str) -> set[int]:
    """Return the numbers of layers that a key lists."""
    values = top.values[key]
    if not isinstance(values, list | tuple) or not all(isinstance(value, int) for value in values):
        msg = f"`{top.name(key)}` must be a list of layers' numbers, got {shown(values)}"
        raise ConfigError(msg)
    return set(values)


def _bits(top: Keys, key: str, one: str, zero: str) -> list[bool]:
    """Return a list of ones and zeros, one for each layer."""
    flags = top.values.get(key, [])
    if not isinstance(flags, list | tuple) or any(flag not in (0, 1) for flag in flags):
        msg = (
            f"`{top.name(key)}` must be a list with 1 for layers that have {one} and 0 for those that have "
            f"{zero}, got {shown(flags)}"
        )
        raise ConfigError(msg)
    return [bool(flag) for flag in flags]


def _flags(top: Keys) -> list[bool]:
    """Return for every layer whether it has rotary; the key's name says the contrary."""
    return _bits(top, "no_rope_layers", "rotary", "none")


def _as_layers(value: Any, name: str) -> int:
    """Return a number of layers."""
    count = as_positive_integer(value, name)
    if count > _MOST_LAYERS:
        msg = f"`{name}` must be at most {_MOST_LAYERS} layers, got {shown(value)}"
        raise ValueError(msg)
    return count


def item(values: list[Any], index: int, name: str) -> Any:
    """Return the entry of a layer."""
    if index >= len(values):
        msg = f"`{name}` must have an entry for every layer, got {len(values)} and layer {index}"
        raise ConfigError(msg)
    return values[index]


def _check_kind(top: Keys, kind: str, names: Iterable[str]) -> None:
    """Refuse kinds of layers that the configuration does not have."""
    names = sorted({*names, *kinds_of_layers(top)})
    if kind not in names:
        msg = f"`layer_type` must be one of {listed(names)} or a layer's number, got {shown(kind)}"
        raise ValueError(msg)


# ------------------------------------------------------------------------------------------------
# The rope dict of the layer.


def rope_dict(top: Keys, row: Model | None, layer: Layer) -> tuple[Keys, bool, Found | None] | None:
    """Return the rope keys of a layer, whether each kind has its own, and the base if it has a key of its own.

    None stands for a layer without rotary.
    """
    given = _given_dict(top)
    default = None if row is None else row.defaults.get("rope_parameters")
    if row is not None and row.legacy == "compressed" and layer.kind in _COMPRESSED:
        layer = replace(layer, kind=_COMPRESSED[layer.kind])
    if given is not None and _is_nested(given, top):
        return _of_kind(top, given, layer)
    legacy = _legacy(top, row)
    if legacy is not None:
        return _of_legacy(top, row, given, layer, legacy)
    if given is not None:
        if default is not None and _has_dicts(default):
            msg = (
                f"`{given.path.rstrip('.')}` must have an object for each kind of layer, "
                f"{listed(default, shown_name)}, got {shown(dict(given.values))}"
            )
            raise ConfigError(msg)
    elif default is not None:
        _check_no_base(top, row, default)
        origin = f"the default of {row.name if row else ''} in {FOLLOWS}"
        given = Keys(default, "rope_parameters.", origin)
        if _has_dicts(default):
            return _of_kind(top, _raw(default, given.path, origin), layer)
    else:
        given = Keys({}, top.path)
    if not _is_scaled(top, layer):
        given = _left_aside(given, top)
    if layer.kind is not None and not (row is not None and row.sliding):
        _check_kind(top, layer.kind, ("full_attention", "sliding_attention", "chunked_attention"))
        if layer.kind not in _ATTENTION:
            msg = (
                f"`layer_type` {shown(layer.kind)}: the configuration has one rotation for all layers that have "
                "rotary and does not tell whether these have it; leave layer_type out"
            )
            raise ConfigError(msg)
    return given, False, None


_ATTENTION = {
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "indexed_attention",
    "reference_sliding_attention",
    "window_attention",
    "hybrid",
    "hybrid_sliding",
    "global",
    "local",
}
# DeepSeek-V4 names its rotations otherwise than its layers.
_COMPRESSED = {
    "sliding_attention": "main",
    "compressed_sparse_attention": "compress",
    "heavily_compressed_attention": "compress",
}


def _check_no_base(top: Keys, row: Model | None, default: Mapping[str, Any]) -> None:
    """Refuse a base beside a default that is more than a base: which of the two is meant is unclear."""
    names = [
        name for name in BASES if name in top and (row is None or name in (BASES[0], *row.reads))
    ]
    if names and _has_dicts(default):
        msg = (
            f"`{top.name('rope_parameters')}` must be given, with an object for each kind of layer, "
            f"{listed(default, shown_name)}, for {row.name if row else ''} has a base for each, got only "
            f"`{top.name(names[0])}` {shown(top.values[names[0]])}"
        )
        raise ConfigError(msg)


def _is_scaled(top: Keys, layer: Layer) -> bool:
    """Whether the rope dict is for this layer: some models scale the frequencies of some layers only."""
    scaled = top.values.get("rope_scaling_layers")
    if scaled is None:
        return True
    name = top.name("rope_scaling_layers")
    if not isinstance(scaled, list | tuple) or not all(isinstance(index, int) for index in scaled):
        msg = f"`{name}` must be a list of layers' numbers, got {shown(scaled)}"
        raise ConfigError(msg)
    if layer.index is not None:
        return layer.index in scaled
    count = top.found("num_hidden_layers", _as_layers)
    if count is None or not set(range(count.value)) <= set(scaled):
        msg = f"`layer_type` must be the number of a layer, for `{name}` names those that are scaled, got None"
        raise ConfigError(msg)
    return True


def _left_aside(given: Keys | None, top: Keys) -> Keys:
    """Return no rope keys, for a layer that the given ones are not for."""
    if given is None or not given.values:
        return Keys({}, top.path)
    return Keys({}, top.path, f"the default: `{given.path.rstrip('.')}` is for other layers")


def _has_dicts(values: Mapping[str, Any]) -> bool:
    """Whether there is an object for each kind of layer."""
    return any(isinstance(value, Mapping) for value in values.values())


def _raw(values: Mapping[str, Any], path: str, origin: str = "given") -> Keys:
    """Return keys with those that are null: here they say something."""
    keys = Keys({}, path, origin)
    keys.values = dict(values)
    return keys


def _given_dict(top: Keys) -> Keys | None:
    """Return the rope dict, under its new name or its old one."""
    found = []
    for name in _DICTS:
        inner = top.inner(name)
        if inner is not None:
            value = top.values[name]
            raw = value if isinstance(value, Mapping) else value.to_dict()
            found.append(_raw(raw, inner.path))
    if len(found) == 2:
        _check_same(top, *(keys.values for keys in found))
        typed = {"type", "rope_type"} & found[0].values.keys()
        besides = {key: value for key, value in found[1].values.items() if value is not None}
        if typed:
            besides = {
                key: value for key, value in besides.items() if key not in ("type", "rope_type")
            }
        found[0].values = besides | found[0].values
    if not found or not any(value is not None for value in found[0].values.values()):
        return None
    if _has_dicts(found[0].values) or set(found[0].values) & set(kinds_of_layers(top)):
        return found[0]
    return Keys(found[0].values, found[0].path)


def _check_same(top: Keys, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
    """Refuse an old rope dict that says something else than the new one; each may leave out what the other says."""
    one, other = _plain(new), _plain(old)
    nested = _has_dicts(one) != _has_dicts(other) and one and other
    if nested or any(one[key] != other[key] for key in one.keys() & other.keys()):
        msg = (
            f"`{top.name('rope_parameters')}` and `{top.name('rope_scaling')}` must not contradict each "
            f"other, got {shown(dict(new))} and {shown(dict(old))}; keep rope_parameters"
        )
        raise ConfigError(msg)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rope dict without the old name of its type, and without nulls."""
    result = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None
    }
    if "type" in result:
        result.setdefault("rope_type", result.pop("type"))
    name = result.get("rope_type")
    if isinstance(name, str):
        result["rope_type"] = LEGACY_TYPES.get(name, name)
    return result


def _is_nested(given: Keys, top: Keys) -> bool:
    """Whether a rope dict has an object for each kind of layer."""
    return _has_dicts(given.values) or bool(set(given.values) & set(kinds_of_layers(top)))


def _of_kind(top: Keys, given: Keys, layer: Layer) -> tuple[Keys, bool, Found | None] | None:
    """Return the rope dict of one kind of layer."""
    for key, value in given.values.items():
        if value is not None and not isinstance(value, Mapping):
            msg = (
                f"`{given.name(key)}` must stand within a kind of layer, for the others here are kinds "
                f"({listed(given.values, shown_name)}), got {shown(value)}"
            )
            raise ConfigError(msg)
    kind = layer.published if layer.published in given.values else layer.kind
    if kind is None:
        if len({repr(value) for value in given.values.values()}) > 1:
            msg = (
                f"`layer_type` must be given, for `{given.path.rstrip('.')}` has a rotation for each kind of "
                f"layer, one of {listed(given.values)}, got None"
            )
            raise ConfigError(msg)
        kind = next(iter(given.values))
    if kind not in given.values:
        if kind not in kinds_of_layers(top) or kind in _ATTENTION:
            _check_kind(Keys({}), kind, given.values)
        msg = (
            f"`{given.name(kind)}` must say what layers of the kind {shown(kind)} do, got none; write their rope "
            "keys, or null if they have no rotary"
        )
        raise ConfigError(msg)
    value = given.values[kind]
    return (
        None if value is None else (Keys(value, f"{given.name(kind)}.", given.origin), True, None)
    )


# The bases of kinds of layers on top of a configuration, and which kinds the rope dict is for.
_LEGACY: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "local": (
        {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
        ("full_attention",),
    ),
    "global": (
        {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
        ("full_attention", "sliding_attention"),
    ),
    "compressed": (
        {"main": "rope_theta", "compress": "compress_rope_theta"},
        ("compress",),
    ),
    "shared": (
        {"full_attention": "rope_theta", "sliding_attention": "rope_theta"},
        ("full_attention",),
    ),
    "windowed": (
        {"full_attention": "rope_theta", "sliding_attention": "swa_rope_theta"},
        ("full_attention", "sliding_attention"),
    ),
}


# Which of these forms read a base.
LEGACY_BASES = {
    key: {form for form, (bases, _) in _LEGACY.items() if key in bases.values()}
    for key in sorted(
        {key for bases, _ in _LEGACY.values() for key in bases.values()} - {"rope_theta"}
    )
}


def _legacy(top: Keys, row: Model | None) -> str | None:
    """Return the old form with a base for each kind of layer, where it is meant."""
    if row is not None:
        return row.legacy
    if "rope_local_base_freq" in top:
        return "local"
    if "swa_rope_theta" in top:
        return "windowed"
    return "global" if _has_any(top, ("global_rope_theta", "local_rope_theta")) else None


def _of_legacy(
    top: Keys, row: Model | None, given: Keys | None, layer: Layer, form: str
) -> tuple[Keys, bool, Found | None] | None:
    """Return the rope dict of a kind of layer in the old form."""
    bases, scaled = _LEGACY[form]
    layer.needed_kind(top)
    if layer.kind is None:
        msg = (
            f"`layer_type` must be given, for the configuration has a base for each kind of layer, one of "
            f"{listed(bases)}, got None"
        )
        raise ConfigError(msg)
    _check_kind(Keys({}), layer.kind, bases)
    keys = Keys({}, top.path) if given is None else given
    if layer.kind not in scaled:
        keys = _left_aside(given, top)
    key = bases[layer.kind]
    base = top.found(key, as_positive_float)
    # OLMo 3 takes the key for its full layers alone.
    fixed = form == "shared" and layer.kind not in scaled
    if row is not None and base is not None and (fixed or (given is None and key in row.unread)):
        own = row.defaults["rope_parameters"][layer.kind]["rope_theta"]
        if base.value != own:
            msg = (
                f"`{top.name(key)}` is not read by the code of model type {shown(row.name)} in {FOLLOWS} for "
                f"{layer.kind} layers, whose base is {own} there, got {base.value}; write rope_parameters, with "
                "an object for each kind of layer"
            )
            raise ConfigError(msg)
    if base is None:
        if row is None:
            msg = f"`{top.name(key)}` must be given, the base of {layer.kind} layers, got none"
            raise ConfigError(msg)
        value = float(row.defaults["rope_parameters"][layer.kind]["rope_theta"])
        base = Found(value, f"the default of {row.name} in {FOLLOWS}")
    within = keys.found("rope_theta", as_positive_float) if keys is given else None
    return keys, True, agreed([(top.name(key), base), (keys.name("rope_theta"), within)])
