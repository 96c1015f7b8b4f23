"""Builds the embedding of one layer from its keys, and records the origin of each number."""

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

from .assemble import as_config_errors, check_pair_counts, check_sections, with_axes_and_origins
from .buffer import CheckpointBuffer, checked_buffer
from .channels import read_base, rotary_start
from .key_names import BASES, CONTEXT_LENGTHS, INTERLEAVED
from .language_model import attention_part
from .layer_keys import LayerKeys
from .layers import entry_of_layer
from .models import FOLLOWS, Model, known_model_types
from .reader import Sourced, run_check, suggest_name
from .schedules import ScheduleInputs, read_schedule
from .widths import check_unread, head_dim, is_latent, rotary_dim

__all__ = ["make_embedding"]


def make_embedding(keys: LayerKeys) -> RotaryEmbedding | None:
    """Return the embedding, or None for a layer without rotary."""
    keys.drop_unread_dict()
    width = head_dim(keys)
    if _is_without_base(keys):
        return None
    rotated, fraction = rotary_dim(keys, width)
    layout, output_layout = _layouts(keys)
    length = _length(keys)
    if keys.rope_type.value == "axial":
        msg = (
            f"`{keys.rope.name('rope_type')}` must be a rope type with known position axes, got 'axial': the "
            "configuration does not give the order of height and width; build it with rotary.sections.axial"
        )
        raise ConfigError(msg)
    base = keys.take("base", _base(keys))
    check_unread(keys, base, rotated, width)
    arguments: dict[str, Any] = {
        "layout": layout,
        "base": base,
        "scaling": _scaling(keys, fraction, rotated),
        "rotary_dim": rotated,
        "rotary_start": rotary_start(width, rotated, trailing=_is_trailing(keys)),
        "context_length": length,
        "output_layout": output_layout,
        **_sections(keys, rotated),
    }
    return _make_rotation(keys, {"head_dim": width, **arguments})


def _is_trailing(keys: LayerKeys) -> bool:
    """Whether the last channels of the head are rotated, as in DeepSeek-V4."""
    return keys.model is not None and keys.model.trailing


def _scaling(keys: LayerKeys, fraction: float, rotated: int) -> Scaling:
    """Return the schedule, and record the origins of its fields."""
    model = keys.model
    inputs = ScheduleInputs(
        keys=keys.rope,
        top=keys.top,
        dialect=keys.options.dialect,
        strict=keys.options.strict,
        nested=keys.nested,
        model_type=None if model is None else model.name,
        latent=is_latent(keys),
        scales_softmax=model is None or model.softmax,
        reads_mscales=model is not None and model.mscales,
        max_position=_max_position(keys),
        default_original=keys.default("original_max_position_embeddings"),
        fraction=fraction,
    )
    scaling, origins = read_schedule(inputs, keys.rope_type.value)
    # The code of DeepSeek-V4 has no attention factor.
    is_default = "attention_factor" not in keys.rope
    if _is_trailing(keys) and is_default and isinstance(scaling, Yarn):
        scaling = replace(scaling, attention_factor=1.0)
        origins["scaling.attention_factor"] = keys.origin_of_default()
    names = ("short_factor", "long_factor")
    factors = {keys.rope.name(name): getattr(scaling, name, None) for name in names}
    check_pair_counts(factors, rotated)
    keys.origins |= {**origins, "scaling": keys.rope_type.origin}
    return scaling


def _make_rotation(keys: LayerKeys, arguments: dict[str, Any]) -> RotaryEmbedding:
    """Return the embedding; if the caller gave a buffer, it replaces the frequencies."""
    with as_config_errors("`config` does not describe a rotation"):
        rope = RotaryEmbedding(**arguments)
    if keys.model is not None and keys.model.negative:
        keys.origins["scaling"] = (
            f"derived: {keys.model.name} rotates pairs in the opposite direction"
        )
        keys.origins["base"] = f"part of the frequencies: {rope.base}, {keys.origins['base']}"
        rope = replace(rope, scaling=Custom(-rope.inv_freq, rope.attention_factor), base=None)
    if keys.options.inv_freq is not None:
        values = checked_buffer(keys.options.inv_freq, rope)
        keys.origins["scaling"] = f"given: inv_freq, in place of {type(rope.scaling).__name__}"
        scaling = CheckpointBuffer(values, rope.scaling, rope.context_length)
        rope = replace(rope, scaling=scaling)
    return with_axes_and_origins(rope, keys.options.axes, keys.origins)


def _is_without_base(keys: LayerKeys) -> bool:
    """Whether the list `layer_rope_theta` has no base for this layer; if it has one, set `base_of_kind`."""
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
            f"`layer_type` must be the index of a layer, because `{name}` has different bases, got "
            f"{shown(keys.layer.kind)}"
        )
        raise ConfigError(msg)
    value = entry_of_layer(list(values), keys.layer.index or 0, name)
    if not value:
        return True
    keys.base_of_kind = Sourced(run_check(as_positive_float, value, name), f"given: {name}")
    return False


def _base(keys: LayerKeys) -> Sourced:
    """Return the base: from the rope dict, from the top level, or the default of the model type."""
    if keys.base_of_kind is not None:
        return keys.base_of_kind
    in_dict = [(keys.rope, "rope_theta")]
    at_top = [(keys.top, key) for key in BASES if keys.reads(key)]
    attention = attention_part(keys.top)
    if attention is not None:
        at_top.append((attention, "rope_theta"))
    must_agree = keys.options.strict and not keys.nested
    groups = [[*in_dict, *at_top]] if must_agree else [in_dict, at_top]
    found = read_base(*groups)
    if found is not None:
        return found
    if keys.model is None:
        must = "must be given, because the frequencies depend on this base"
        advice = "write the base of the training, often 10000.0"
        keys.top.fail("rope_theta", must, "none", advice)
    value = keys.model.defaults.get("rope_theta", 10_000.0)
    return Sourced(float(value), f"the default of {keys.model.name} in {FOLLOWS}")


def _layouts(keys: LayerKeys) -> tuple[Layout, Layout]:
    """Return the layouts of the input and of the output."""
    given, model = keys.options.layout, keys.model
    if model is None:
        layout = _unknown_layout(keys) if given is None else given
        if given is not None:
            keys.origins["layout"] = "given: layout"
        return layout, layout
    layouts = _layouts_of_model(keys, model)
    if given is None or given == layouts[0]:
        keys.origins["output_layout"] = keys.origins["layout"]
        return layouts
    keys.origins["layout"] = f"given: layout, although {model.name} in {FOLLOWS} has {layouts[0]}"
    return given, given


def _unknown_layout(keys: LayerKeys) -> Layout:
    """Return the layout that a key gives for a model type that is not known; raise without such a key."""
    found = keys.top.get_one_of(INTERLEAVED[1:], as_bool)
    if found is not None:
        return "interleaved" if keys.take("layout", found) else "half"
    name = keys.top.values.get("model_type")
    names = known_model_types()
    hint = suggest_name(name, names) if isinstance(name, str) else "the configuration has none"
    if hint.startswith("known names"):
        hint = f"{len(names)} other model types are known"
    msg = (
        f"`layout` must be given, because the layout of model type {shown(name)} is not known ({hint}), got "
        "None; see 'Which layout is my checkpoint' in the documentation"
    )
    raise ConfigError(msg)


def _layouts_of_model(keys: LayerKeys, model: Model) -> tuple[Layout, Layout]:
    """Return the layouts of the model's own code."""
    keys.origins["layout"] = f"known of {model.name} in {FOLLOWS}"
    found = keys.top.get_one_of(INTERLEAVED, as_bool)
    if model.interleave_key:
        if found is not None and not keys.take("layout", found):
            return "half", "half"
    elif (
        found is not None
        and keys.options.layout is None
        and found.value != (model.layout == "interleaved")
    ):
        msg = (
            f"`{found.key}` must be {not found.value} for model type {shown(model.name)}, because its code has "
            f"the layout {model.layout}, got {found.value}; correct the key, or pass `layout`"
        )
        raise ConfigError(msg)
    return model.layout, model.output_layout


def _length(keys: LayerKeys) -> int | None:
    """Return the context length, and record its origin."""
    if keys.options.context_length is not None:
        keys.origins["context_length"] = "given: context_length"
        return keys.options.context_length
    found = _max_position(keys)
    if found is None:
        return None
    keys.origins["context_length"] = f"the default: {found.key} of the configuration"
    return int(found.value)


def _max_position(keys: LayerKeys) -> Sourced | None:
    """Return the longest context.

    Older names are read only without the current name. Together with it, they mean the length of the training or of a
    run.
    """
    current = keys.top.get(CONTEXT_LENGTHS[0], as_length)
    return current or keys.top.get_one_of(CONTEXT_LENGTHS[1:], as_length)


def _sections(keys: LayerKeys, rotary_dim: int) -> dict[str, Any]:
    """Return the arguments that divide channel pairs between position axes."""
    sizes, name = _section_sizes(keys)
    order_of_model = None if keys.model is None else keys.model.sections
    if sizes is None:
        return {}
    check_sections(name, sizes, rotary_dim)
    order = _section_order(keys, order_of_model)
    keys.origins["sections"] = f"{order}, {name}"
    if order == "hunyuan":
        return {"sections": sections_module.chunked(*sizes), "quirk": "hunyuan_vl"}
    try:
        return {"sections": getattr(sections_module, order)(*sizes)}
    except ValueError as error:
        msg = f"`{name}` must be sizes of {order} sections, got {list(sizes)}: {error}"
        raise ConfigError(msg) from error


def _section_sizes(keys: LayerKeys) -> tuple[tuple[int, ...] | None, str]:
    """Return the number of channel pairs of each axis (None without sections), and the name of the key."""
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
        msg = (
            f"`{name}` must be a list of two to four numbers of channel pairs, one for each position axis, got "
            f"{shown(values)}"
        )
        raise ConfigError(msg)
    return tuple(run_check(as_non_negative_integer, value, name) for value in values), name


def _section_order(keys: LayerKeys, order_of_model: str | None) -> str:
    """Return the order of the sections: of the model, or the order that a key gives."""
    key = keys.rope.get_one_of(("mrope_interleaved", "interleaved"), as_bool)
    given = None if key is None else "interleaved" if key.value else "chunked"
    has_plain_order = order_of_model in ("chunked", "interleaved")
    if order_of_model is None or (keys.options.dialect.sections and has_plain_order):
        default = "chunked" if keys.options.dialect.sections else order_of_model
        order = given or default or "chunked"
    else:
        order = order_of_model
    if keys.options.strict and key is not None and has_plain_order and given != order_of_model:
        must = (
            f"must be {order_of_model == 'interleaved'}, because the code of the model type has {order_of_model} "
            "sections and does not read the key"
        )
        keys.rope.fail("mrope_interleaved", must, key.value)
    return order
