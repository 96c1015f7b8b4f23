"""Finds the rope keys of one layer, in current and in older forms of configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rotary._lib.checks import as_positive_float
from rotary._lib.errors import ConfigError, listed, shown, shown_name

from .key_names import BASES, ROPE_DICTS
from .layers import Layer, as_layer_count, check_kind, kinds_of_layers
from .models import FOLLOWS, Model
from .reader import Keys, Sourced, require_agreement
from .schedules import LEGACY_TYPES

__all__ = ["LEGACY_BASES", "plain_rope_dict", "rope_dict"]


def rope_dict(
    top: Keys, model: Model | None, layer: Layer
) -> tuple[Keys, bool, Sourced | None] | None:
    """Return three values: the rope dict of a layer, whether each kind has its own dict, and the base or None.

    The base is not None if the kind of the layer has a separate key for it. Return None for a layer without rotary.
    """
    given = _given_dict(top)
    default = None if model is None else model.defaults.get("rope_parameters")
    if model is not None and model.legacy == "compressed" and layer.kind in _COMPRESSED:
        layer = replace(layer, kind=_COMPRESSED[layer.kind])
    if given is not None and _is_nested(given, top):
        return _dict_of_kind(top, given, layer)
    legacy = _legacy_form(top, model)
    if legacy is not None:
        return _dict_of_legacy_form(top, model, given, layer, legacy)
    if given is not None:
        if default is not None and _has_dicts(default):
            msg = (
                f"`{given.path.rstrip('.')}` must have an object for each kind of layer, "
                f"{listed(default, shown_name)}, got {shown(dict(given.values))}"
            )
            raise ConfigError(msg)
    elif default is not None:
        _check_no_base(top, model, default)
        origin = f"the default of {model.name if model else ''} in {FOLLOWS}"
        given = Keys(default, "rope_parameters.", origin)
        if _has_dicts(default):
            return _dict_of_kind(top, Keys(default, given.path, origin, keep_nulls=True), layer)
    else:
        given = Keys({}, top.path)
    if not _is_scaled(top, layer):
        given = _without_scaling(given, top)
    if layer.kind is not None and not (model is not None and model.sliding):
        check_kind(top, layer.kind, ("full_attention", "sliding_attention", "chunked_attention"))
        if layer.kind not in _ATTENTION:
            msg = (
                "`layer_type` must be left out, because the configuration has the same rotation for all layers with "
                f"rotary and does not show whether layers of this kind have it, got {shown(layer.kind)}"
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
# DeepSeek-V4 has different names for kinds of layers and for their rotations.
_COMPRESSED = {
    "sliding_attention": "main",
    "compressed_sparse_attention": "compress",
    "heavily_compressed_attention": "compress",
}


def _check_no_base(top: Keys, model: Model | None, default: Mapping[str, Any]) -> None:
    """Raise for a single base if the default rope dict has a base for each kind of layer."""
    names = [
        name
        for name in BASES
        if name in top and (model is None or name in (BASES[0], *model.reads))
    ]
    if names and _has_dicts(default):
        must = (
            f"must be given, with an object for each kind of layer, {listed(default, shown_name)}, because "
            f"{model.name if model else ''} has a different base for each kind"
        )
        got = f"only `{top.name(names[0])}` {shown(top.values[names[0]])}"
        top.fail("rope_parameters", must, got)


def _is_scaled(top: Keys, layer: Layer) -> bool:
    """Whether the scaling applies to this layer; in some models it does not apply to every layer."""
    scaled = top.values.get("rope_scaling_layers")
    if scaled is None:
        return True
    name = top.name("rope_scaling_layers")
    if not isinstance(scaled, list | tuple) or not all(isinstance(index, int) for index in scaled):
        msg = f"`{name}` must be a list of layer indices, got {shown(scaled)}"
        raise ConfigError(msg)
    if layer.index is not None:
        return layer.index in scaled
    count = top.get("num_hidden_layers", as_layer_count)
    if count is None or not set(range(count.value)) <= set(scaled):
        msg = (
            f"`layer_type` must be the index of a layer, because `{name}` lists the layers with scaling, "
            f"got {shown(layer.kind)}"
        )
        raise ConfigError(msg)
    return True


def _without_scaling(given: Keys | None, top: Keys) -> Keys:
    """Return empty rope keys, for a layer to which the given rope dict does not apply."""
    if given is None or not given.values:
        return Keys({}, top.path)
    return Keys({}, top.path, f"the default: `{given.path.rstrip('.')}` is for other layers")


def _has_dicts(values: Mapping[str, Any]) -> bool:
    """Whether some values are objects; the rope dict then has an object for each kind of layer."""
    return any(isinstance(value, Mapping) for value in values.values())


def _given_dict(top: Keys) -> Keys | None:
    """Return the rope dict, under its current or its older name; if both are given, merge them."""
    found = []
    for name in ROPE_DICTS:
        inner = top.inner(name)
        if inner is not None:
            value = top.values[name]
            raw = value if isinstance(value, Mapping) else value.to_dict()
            found.append(Keys(raw, inner.path, keep_nulls=True))
    if len(found) == 2:
        _check_same(top, *(keys.values for keys in found))
        typed = {"type", "rope_type"} & found[0].values.keys()
        older = {key: value for key, value in found[1].values.items() if value is not None}
        if typed:
            older = {key: value for key, value in older.items() if key not in ("type", "rope_type")}
        found[0].values = older | found[0].values
    if not found or not any(value is not None for value in found[0].values.values()):
        return None
    if _has_dicts(found[0].values) or set(found[0].values) & set(kinds_of_layers(top)):
        return found[0]
    return Keys(found[0].values, found[0].path)


def _check_same(top: Keys, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
    """Raise if the older rope dict contradicts the current one; a key may be missing in either."""
    one, other = plain_rope_dict(new), plain_rope_dict(old)
    nested = _has_dicts(one) != _has_dicts(other) and one and other
    if nested or any(one[key] != other[key] for key in one.keys() & other.keys()):
        must = f"and `{top.name('rope_scaling')}` must not contradict each other"
        got = f"{shown(dict(new))} and {shown(dict(old))}"
        top.fail("rope_parameters", must, got, "keep rope_parameters")


def plain_rope_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rope dict with the current name of its type, without nulls, and with lists for tuples."""
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


def _dict_of_kind(top: Keys, given: Keys, layer: Layer) -> tuple[Keys, bool, Sourced | None] | None:
    """Return the result of `rope_dict` if each kind of layer has its own dict."""
    for key, value in given.values.items():
        if value is not None and not isinstance(value, Mapping):
            must = (
                "must be inside the object of a kind of layer, because the other keys are kinds of layers "
                f"({listed(given.values, shown_name)})"
            )
            given.fail(key, must, shown(value))
    kind = layer.published if layer.published in given.values else layer.kind
    if kind is None:
        if len({repr(value) for value in given.values.values()}) > 1:
            msg = (
                f"`layer_type` must be given, because `{given.path.rstrip('.')}` has a rotation for each kind of "
                f"layer, got None; write one of {listed(given.values)}"
            )
            raise ConfigError(msg)
        kind = next(iter(given.values))
    if kind not in given.values:
        if kind not in kinds_of_layers(top) or kind in _ATTENTION:
            check_kind(Keys({}), kind, given.values)
        must = f"must be given, because there are layers of the kind {shown(kind)}"
        advice = "write their rope keys, or null if they have no rotary"
        given.fail(kind, must, "none", advice)
    value = given.values[kind]
    return (
        None if value is None else (Keys(value, f"{given.name(kind)}.", given.origin), True, None)
    )


# Older forms: for each kind of layer, the top-level key of its base; and the kinds to which the rope dict applies.
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


# The top-level keys of bases, each with the forms that read it.
LEGACY_BASES = {
    key: {form for form, (bases, _) in _LEGACY.items() if key in bases.values()}
    for key in sorted(
        {key for bases, _ in _LEGACY.values() for key in bases.values()} - {"rope_theta"}
    )
}


def _legacy_form(top: Keys, model: Model | None) -> str | None:
    """Return the name of the older form if it has a base for each kind of layer, else None."""
    if model is not None:
        return model.legacy
    if "rope_local_base_freq" in top:
        return "local"
    if "swa_rope_theta" in top:
        return "windowed"
    return "global" if top.has_any(("global_rope_theta", "local_rope_theta")) else None


def _dict_of_legacy_form(
    top: Keys, model: Model | None, given: Keys | None, layer: Layer, form: str
) -> tuple[Keys, bool, Sourced | None] | None:
    """Return the result of `rope_dict` for an older form with a base for each kind of layer."""
    bases, scaled = _LEGACY[form]
    layer.require_kind(top)
    if layer.kind is None:
        msg = (
            "`layer_type` must be given, because the configuration has a base for each kind of layer, got None; "
            f"write one of {listed(bases)}"
        )
        raise ConfigError(msg)
    check_kind(Keys({}), layer.kind, bases)
    keys = Keys({}, top.path) if given is None else given
    if layer.kind not in scaled:
        keys = _without_scaling(given, top)
    key = bases[layer.kind]
    base = top.get(key, as_positive_float)
    # OLMo 3 reads the key for layers with full attention only.
    fixed = form == "shared" and layer.kind not in scaled
    if (
        model is not None
        and base is not None
        and (fixed or (given is None and key in model.unread))
    ):
        default = model.defaults["rope_parameters"][layer.kind]["rope_theta"]
        if base.value != default:
            must = (
                f"must be {default} or left out for {layer.kind} layers, because the code of model type "
                f"{shown(model.name)} in {FOLLOWS} does not read it and uses {default}"
            )
            advice = "write rope_parameters, with an object for each kind of layer"
            top.fail(key, must, base.value, advice)
    if base is None:
        if model is None:
            must = f"must be given, because it is the base of {layer.kind} layers"
            top.fail(key, must, "none")
        value = float(model.defaults["rope_parameters"][layer.kind]["rope_theta"])
        base = Sourced(value, f"the default of {model.name} in {FOLLOWS}")
    in_dict = keys.get("rope_theta", as_positive_float) if keys is given else None
    candidates = [(top.name(key), base), (keys.name("rope_theta"), in_dict)]
    return keys, True, require_agreement(candidates)
