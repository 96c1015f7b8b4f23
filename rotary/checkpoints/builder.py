"""Builds the embedding of one layer from its keys, and notes the origin of each number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rotary import sections as sections_module
from rotary._lib.checks import as_bool, as_non_negative_integer, as_positive_float
from rotary._lib.errors import ConfigError, shown
from rotary._lib.numbers import as_length
from rotary.embedding import RotaryEmbedding
from rotary.layouts import Layout
from rotary.scaling import Custom, Scaling, Yarn

from .assemble import as_config_errors, check_pair_counts, check_sections, finished
from .buffer import CheckpointBuffer, checked_buffer
from .key_names import BASES, INTERLEAVED, LENGTHS
from .language_model import attention_part
from .layer_keys import LayerKeys
from .layers import item
from .models import FOLLOWS, Model, known
from .reader import Found, agreed, checked, near
from .schedules import Reading, schedule
from .widths import check_unread, head_dim, is_latent, rotary_dim, rotary_start

__all__ = ["embedding"]


def embedding(keys: LayerKeys) -> RotaryEmbedding | None:
    """Return the embedding, or None for a layer without rotary."""
    keys.drop_unread_dict()
    width = head_dim(keys)
    if _is_without_base(keys):
        return None
    rotated, part = rotary_dim(keys, width)
    layout, output_layout = _layouts(keys)
    length = _length(keys)
    if keys.kind.value == "axial":
        msg = (
            f"`{keys.rope.name('rope_type')}` 'axial' has a position axis for height and one for width, in an "
            "order that the configuration does not give; build it with rotary.sections.axial"
        )
        raise ConfigError(msg)
    base = keys.take("base", _base(keys))
    check_unread(keys, base, rotated, width)
    arguments: dict[str, Any] = {
        "layout": layout,
        "base": base,
        "scaling": _scaling(keys, part, rotated),
        "rotary_dim": rotated,
        "rotary_start": rotary_start(keys, width, rotated),
        "context_length": length,
        "output_layout": output_layout,
        **_sections(keys, rotated),
    }
    return _made(keys, {"head_dim": width, **arguments})


def _scaling(keys: LayerKeys, part: float, rotated: int) -> Scaling:
    """Return the schedule."""
    model = keys.model
    reading = Reading(
        keys=keys.rope,
        top=keys.top,
        dialect=keys.options.dialect,
        strict=keys.options.strict,
        nested=keys.nested,
        model_type=None if model is None else model.name,
        latent=is_latent(keys),
        softmax=model is None or model.softmax,
        mscales=model is not None and model.mscales,
        max_position=_max_position(keys),
        own_original=keys.default("original_max_position_embeddings"),
        part=part,
    )
    scaling, origins = schedule(reading, keys.kind.value)
    leaves_factor_out = model is not None and model.trailing  # DeepSeek-V4
    if leaves_factor_out and isinstance(scaling, Yarn) and "attention_factor" not in keys.rope:
        scaling = replace(scaling, attention_factor=1.0)
        origins["scaling.attention_factor"] = keys.origin_of_default()
    names = ("short_factor", "long_factor")
    factors = {keys.rope.name(name): getattr(scaling, name, None) for name in names}
    check_pair_counts(factors, rotated)
    keys.origins |= {**origins, "scaling": keys.kind.origin}
    return scaling


def _made(keys: LayerKeys, arguments: dict[str, Any]) -> RotaryEmbedding:
    """Make the embedding; a buffer replaces its frequencies."""
    with as_config_errors("`config` does not describe a rotation"):
        rope = RotaryEmbedding(**arguments)
    if keys.model is not None and keys.model.negative:
        keys.origins["scaling"] = (
            f"derived: {keys.model.name} rotates pairs in the opposite direction"
        )
        keys.origins["base"] = f"within the frequencies: {rope.base}, {keys.origins['base']}"
        rope = replace(rope, scaling=Custom(-rope.inv_freq, rope.attention_factor), base=None)
    if keys.options.inv_freq is not None:
        values = checked_buffer(keys.options.inv_freq, rope)
        keys.origins["scaling"] = f"given: inv_freq, in place of {type(rope.scaling).__name__}"
        scaling = CheckpointBuffer(values, rope.scaling, rope.context_length)
        rope = replace(rope, scaling=scaling)
    return finished(rope, keys.options.axes, keys.origins)


def _is_without_base(keys: LayerKeys) -> bool:
    """Whether a list of bases has none for this layer; otherwise the base is kept."""
    values = keys.top.values.get("layer_rope_theta")
    if values is None:
        return False
    name = keys.top.name("layer_rope_theta")
    if not isinstance(values, list | tuple) or not values:
        msg = f"`{name}` must be a list with a base for each layer, got {shown(values)}"
        raise ConfigError(msg)
    differ = any((value or 0) != (values[0] or 0) for value in values)
    if keys.layer.index is None and differ:
        msg = (
            f"`layer_type` must be the number of a layer, because `{name}` has a base for each, got "
            f"{shown(keys.layer.kind)}"
        )
        raise ConfigError(msg)
    value = item(list(values), keys.layer.index or 0, name)
    if not value:
        return True
    keys.own_base = Found(checked(as_positive_float, value, name), f"given: {name}")
    return False


def _base(keys: LayerKeys) -> Found:
    """Return the base: in the rope dict, at the top level, or the default of the model type."""
    if keys.own_base is not None:
        return keys.own_base
    within = keys.rope.found("rope_theta", as_positive_float)
    on_top = [
        (keys.top.name(key), keys.top.found(key, as_positive_float))
        for key in BASES
        if keys.reads(key)
    ]
    attention = attention_part(keys.top)
    if attention is not None:
        name = "rope_theta"
        on_top.append((attention.name(name), attention.found(name, as_positive_float)))
    if keys.nested or not keys.options.strict:
        found = within or agreed(on_top)
    else:
        found = agreed([(keys.rope.name("rope_theta"), within), *on_top])
    if found is not None:
        return found
    if keys.model is None:
        must = "must be given, the base of the frequencies"
        advice = "write it as the checkpoint was trained, often 10000.0"
        keys.top.fail("rope_theta", must, "none", advice)
    value = keys.model.defaults.get("rope_theta", 10_000.0)
    return Found(float(value), f"the default of {keys.model.name} in {FOLLOWS}")


def _layouts(keys: LayerKeys) -> tuple[Layout, Layout]:
    """Return the layouts of the input and of the output."""
    given, model = keys.options.layout, keys.model
    if model is None:
        layout = _unknown_layout(keys) if given is None else given
        if given is not None:
            keys.origins["layout"] = "given: layout"
        return layout, layout
    own = _own_layouts(keys, model)
    if given is None or given == own[0]:
        keys.origins["output_layout"] = keys.origins["layout"]
        return own
    keys.origins["layout"] = f"given: layout, although {model.name} in {FOLLOWS} has {own[0]}"
    return given, given


def _unknown_layout(keys: LayerKeys) -> Layout:
    """Return the layout of a model type that is not known, if a key gives it."""
    found = keys.top.first(INTERLEAVED[1:], as_bool)
    if found is not None:
        return "interleaved" if keys.take("layout", found) else "half"
    name = keys.top.values.get("model_type")
    close = near(name, known()) if isinstance(name, str) else "the configuration has none"
    if "known are" in close:
        close = f"{len(known())} are known"
    msg = (
        f"`layout` must be given, because the layout of model type {shown(name)} is not known ({close}), got "
        "None; 'Which layout is my checkpoint' in the documentation says how to find out"
    )
    raise ConfigError(msg)


def _own_layouts(keys: LayerKeys, model: Model) -> tuple[Layout, Layout]:
    """Return the layouts of the model's own code."""
    keys.origins["layout"] = f"known of {model.name} in {FOLLOWS}"
    found = keys.top.first(INTERLEAVED, as_bool)
    if model.interleave_key:
        if found is not None and not keys.take("layout", found):
            return "half", "half"
    elif (
        found is not None
        and keys.options.layout is None
        and found.value != (model.layout == "interleaved")
    ):
        msg = (
            f"`{found.origin.removeprefix('given: ')}` must be {not found.value} for model type {shown(model.name)}, "
            f"whose code has the layout {model.layout}, got {found.value}; write what the code has, or pass "
            "`layout`"
        )
        raise ConfigError(msg)
    return model.layout, model.output_layout


def _length(keys: LayerKeys) -> int | None:
    """Return the context length, and note its origin."""
    if keys.options.context_length is not None:
        keys.origins["context_length"] = "given: context_length"
        return keys.options.context_length
    found = _max_position(keys)
    if found is None:
        return None
    origin = found.origin.removeprefix("given: ")
    keys.origins["context_length"] = f"the default: {origin} of the configuration"
    return int(found.value)


def _max_position(keys: LayerKeys) -> Found | None:
    """Return the longest context; beside its own name, older names mean the length of the training or of a run."""
    own = keys.top.found(LENGTHS[0], as_length)
    return own or keys.top.first(LENGTHS[1:], as_length)


def _sections(keys: LayerKeys, rotary_dim: int) -> dict[str, Any]:
    """Return the arguments that divide channel pairs between position axes."""
    sizes, name = _sizes(keys)
    own = None if keys.model is None else keys.model.sections
    if sizes is None:
        return {}
    check_sections(name, sizes, rotary_dim)
    order = _order(keys, own)
    keys.origins["sections"] = f"{order}, {name}"
    if order == "hunyuan":
        return {"sections": sections_module.chunked(*sizes), "quirk": "hunyuan_vl"}
    try:
        return {"sections": getattr(sections_module, order)(*sizes)}
    except ValueError as error:
        msg = f"`{name}` does not fit {order} sections: {error}"
        raise ConfigError(msg) from error


def _sizes(keys: LayerKeys) -> tuple[tuple[int, ...] | None, str]:
    """Return the number of pairs of each axis, and the key that gives them."""
    names = [key for key in ("mrope_section", "xdrope_section") if key in keys.rope]
    if not names:
        found = keys.default("mrope_section")
        if found is None:
            return None, ""
        return tuple(found.value), f"mrope_section, {found.origin}"
    values, name = keys.rope.values[names[0]], keys.rope.name(names[0])
    if len(names) == 2 and values != keys.rope.values[names[1]]:
        msg = (
            f"`{name}` and `{keys.rope.name(names[1])}` must not contradict each other, got {shown(values)} and "
            f"{shown(keys.rope.values[names[1]])}; keep one"
        )
        raise ConfigError(msg)
    if not isinstance(values, list | tuple) or not 2 <= len(values) <= 4:
        msg = f"`{name}` must be a list of two to four numbers of pairs, one for each axis, got {shown(values)}"
        raise ConfigError(msg)
    return tuple(checked(as_non_negative_integer, value, name) for value in values), name


def _order(keys: LayerKeys, own: str | None) -> str:
    """Return the order of the sections: the model's own, or that of the key."""
    key = keys.rope.first(("mrope_interleaved", "interleaved"), as_bool)
    given = None if key is None else "interleaved" if key.value else "chunked"
    if own is None or (keys.options.dialect.sections and own in ("chunked", "interleaved")):
        order = given or ("chunked" if keys.options.dialect.sections else own or "chunked")
    else:
        order = own
    if (
        keys.options.strict
        and given is not None
        and own in ("chunked", "interleaved")
        and given != own
    ):
        must = f"must be {own == 'interleaved'} for {own} sections, which the model type has whatever the key says"
        keys.rope.fail("mrope_interleaved", must, key.value if key else None)
    return order
