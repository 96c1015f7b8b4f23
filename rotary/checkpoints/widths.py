"""The width of a head, and which of its channels are rotated."""

from __future__ import annotations

from typing import Any

from rotary._lib.checks import (
    LARGEST_WIDTH,
    as_fraction,
    as_positive_float,
    as_positive_integer,
    as_rotary_dim,
)
from rotary._lib.errors import ConfigError, shown

from .dialects import DIALECTS
from .key_names import BASES, HEADS, HIDDEN, PARTS, WIDTHS
from .layer_keys import LayerKeys
from .layers import kinds_of_layers
from .models import FOLLOWS
from .reader import Found, Keys, agreed
from .rope_dicts import LEGACY_BASES

__all__ = ["check_unread", "head_dim", "is_latent", "rotary_dim", "rotary_start"]

# The width of a part of a head, or of heads in one kind of layer.
_NOT_WHOLE = ("qk_rope_head_dim", "global_head_dim", "swa_head_dim")


def is_latent(keys: LayerKeys) -> bool:
    """Whether attention is latent, so that the rotated channels are an array of their own."""
    if keys.model is not None:
        return keys.model.latent
    return "qk_rope_head_dim" in keys.top


def head_dim(keys: LayerKeys) -> int:
    """Return the number of channels of the arrays to rotate."""
    if is_latent(keys):
        found = keys.top.found("qk_rope_head_dim", as_rotary_dim)
        found = found or keys.default("qk_rope_head_dim")
        _check_latent(keys, found)
    else:
        names = [name for name in WIDTHS if name not in _NOT_WHOLE and keys.reads(name)]
        names = names[:1] if keys.model is None else names
        special = _special_head_dim(keys)
        found = special or keys.top.first(names, as_positive_integer)
        found = found or keys.default("head_dim") or _derived_head_dim(keys)
        _check_widths(keys, int(found.value), special is not None)
    assert found is not None
    if found.value > LARGEST_WIDTH:
        msg = f"`head_dim` must be at most {LARGEST_WIDTH} channels, got {found.value} ({found.origin})"
        raise ConfigError(msg)
    return int(keys.take("head_dim", found))


def _check_latent(keys: LayerKeys, found: Found | None) -> None:
    """Refuse a width of heads that would give tables of another width in the model's code."""
    if keys.model is None or not keys.reads("head_dim") or found is None:
        return
    given = keys.top.found("head_dim", as_positive_integer)
    part = keys.default("partial_rotary_factor")
    widths = () if given is None else (given.value, part and int(given.value * part.value))
    if given is None or found.value in widths:
        return
    must = (
        f"must agree with qk_rope_head_dim {found.value}, because the code of model type {shown(keys.model.name)} "
        f"in {FOLLOWS} makes its tables from it"
    )
    keys.top.fail("head_dim", must, given.value, "leave it out")


def _check_widths(keys: LayerKeys, width: int, special: bool) -> None:
    """Refuse a different width under a name that is not read."""
    for key in WIDTHS:
        if _is_read_or_other(keys, key, special):
            continue
        found = keys.top.found(key, as_positive_integer)
        if found is None or found.value == width:
            continue
        name = keys.top.name(key)
        if keys.model is not None:
            keys.refuse_unread(name, found.value, f"which rotates heads of {width} channels")
        elif "head_dim" not in keys.top:
            must = f"must be given, because `{name}` is {found.value} and hidden_size divided by the heads is {width}"
            keys.top.fail("head_dim", must, "none", "write the channels of one head")


def _is_read_or_other(keys: LayerKeys, name: str, special: bool) -> bool:
    """Whether a width is read, or does not concern the heads of this layer."""
    if keys.model is None:
        return name in ("head_dim", *_NOT_WHOLE)
    if name == "qk_rope_head_dim":
        return keys.model.trailing
    return keys.reads(name) or (special and name == "head_dim")


def _special_head_dim(keys: LayerKeys) -> Found | None:
    """Return the width of this kind of layer, if it has its own."""
    kind = keys.layer.kind
    layers = keys.top.inner("per_layer_config")
    kinds = kinds_of_layers(keys.top)
    if layers is not None and kind is not None and kinds:
        widths = {}
        for index, own in enumerate(kinds):
            if own == kind and keys.layer.index in (None, index):
                entry = _entry(layers, index)
                found = None if entry is None else entry.found("head_dim", as_positive_integer)
                widths[None if found is None else found.value] = found
        if len(widths) > 1:
            msg = (
                f"`layer_type` must be the number of a layer, because those of the kind {shown(kind)} differ in "
                f"head_dim, got {shown(sorted(map(shown, widths)))}"
            )
            raise ConfigError(msg)
        found = next(iter(widths.values()), None)
        if found is not None:
            return found
    key = {"full_attention": "global_head_dim", "sliding_attention": "swa_head_dim"}.get(kind or "")
    if key is None or not keys.reads(key):
        return None
    given = keys.top.found(key, as_positive_integer)
    return given or (keys.default(key) if layers is None else None)


def _derived_head_dim(keys: LayerKeys) -> Found:
    """Return the width of the model divided by its number of heads."""
    hidden = keys.top.first(HIDDEN, as_positive_integer)
    heads = keys.top.first(HEADS, as_positive_integer)
    if hidden is None or heads is None:
        missing = HIDDEN[0] if hidden is None else HEADS[0]
        must = f"must be given, or `{keys.top.name(HIDDEN[0])}` and `{keys.top.name(HEADS[0])}`"
        keys.top.fail("head_dim", must, f"no {missing}", "write the channels of one head")
    width, rest = divmod(hidden.value, heads.value)
    if rest:
        must = f"must be given, because hidden_size {hidden.value} is no multiple of {heads.value} heads"
        keys.top.fail("head_dim", must, "none", "write the channels of one head")
    names = [found.origin.removeprefix("given: ") for found in (hidden, heads)]
    return Found(width, f"derived: {' / '.join(names)}")


def rotary_dim(keys: LayerKeys, head_dim: int) -> tuple[int, float]:
    """Return the number of rotated channels, and their part of the head."""
    part, given = _part(keys), _given_rotary_dim(keys)
    if is_latent(keys):
        keys.origins["rotary_dim"] = "derived: the whole of qk_rope_head_dim"
        own = keys.default("partial_rotary_factor")
        if keys.model is not None and part is not None and (own is None or own.value != part.value):
            _check_part(keys, part, head_dim)
        return head_dim, 1.0
    if keys.kind.value == "proportional":
        keys.origins["rotary_dim"] = "derived: proportional rotates pairs of the whole head"
        if part is None and given is not None and keys.model is not None and keys.model.trailing:
            part = Found(given.value / head_dim, f"derived: {given.origin} / head_dim")
        return head_dim, 1.0 if part is None else keys.take("scaling.partial_rotary_factor", part)
    _check_trailing(keys, part, head_dim)
    counted = keys.top.found("rotary_dim", as_rotary_dim) or given
    if counted is not None and counted.value > head_dim:
        msg = f"`rotary_dim` must be at most head_dim {head_dim}, got {counted.value} ({counted.origin})"
        raise ConfigError(msg)
    if part is None and given is None:
        return _even(keys, head_dim, "derived: the whole head"), 1.0
    if part is None:
        assert given is not None
        return int(keys.take("rotary_dim", given)), given.value / head_dim
    width = int(head_dim * part.value)
    if counted is not None and counted.value != width and part.origin.startswith("given"):
        name = counted.origin.removeprefix("given: ")
        msg = (
            f"`{name}` and partial_rotary_factor must not contradict each other, got {counted.value} and "
            f"{part.value}, which is {width} of {head_dim} channels; keep one"
        )
        raise ConfigError(msg)
    width = _even(keys, width, f"derived: int(head_dim * {part.value}), {part.origin}")
    if _rotates_a_part(keys) or width == head_dim:
        return width, part.value
    _check_part(keys, part, head_dim)
    return _even(keys, head_dim, "derived: the whole head"), 1.0


def _check_trailing(keys: LayerKeys, part: Found | None, head_dim: int) -> None:
    """Refuse DeepSeek-V4's width beside a rope dict without the part, because its code rotates the whole head."""
    found = keys.top.found("qk_rope_head_dim", as_rotary_dim)
    if keys.model is None or not keys.model.trailing or part is not None or found is None:
        return
    if keys.rope.origin == "given" and keys.rope.values and keys.kind.value == "default":
        keys.refuse_unread(
            *(keys.top.name("qk_rope_head_dim"), found.value),
            f"which rotates all {head_dim} channels of a head without partial_rotary_factor",
            f"write `{keys.rope.name('partial_rotary_factor')}` {found.value / head_dim}",
        )


def _rotates_a_part(keys: LayerKeys) -> bool:
    """Whether the model's code, or the dialect's for every model, can rotate a part of each head."""
    return (
        keys.model is None
        or keys.model.partial
        or keys.model.trailing
        or keys.options.dialect.partial
    )


def _check_part(keys: LayerKeys, part: Found, head_dim: int) -> None:
    """Refuse a part of the head if the model's code rotates the whole."""
    if part.value != 1.0:
        name = part.origin.removeprefix("given: ")
        width = int(head_dim * part.value)
        readers = [own.name for own in DIALECTS.values() if own.partial]
        keys.refuse_unread(
            *(name, part.value, f"which rotates all {head_dim} channels of a head"),
            f"that is {width} of {head_dim} channels: leave it out, or choose a dialect that reads it: "
            + " or ".join(f"dialect={shown(own)}" for own in readers),
        )


def _even(keys: LayerKeys, width: int, origin: str) -> int:
    """Return a number of rotated channels, which must be even."""
    if width < 2 or width % 2:
        msg = (
            f"`partial_rotary_factor` and `head_dim` must give an even number of channels, got {width} "
            f"({origin}); projects round it in different ways: write the number that the checkpoint rotates"
        )
        raise ConfigError(msg)
    keys.origins["rotary_dim"] = origin
    return width


def _given_rotary_dim(keys: LayerKeys) -> Found | None:
    """Return the number of rotated channels, if a key gives it."""
    if keys.model is not None and keys.model.trailing:
        found = keys.top.found("qk_rope_head_dim", as_rotary_dim)
        if found is not None:
            return found
    found = keys.top.found("rotary_dim", as_rotary_dim) if keys.reads("rotary_dim") else None
    return found or keys.default("rotary_dim")


def _part(keys: LayerKeys) -> Found | None:
    """Return the rotated part of the head, if a key gives it."""

    def check(value: Any, name: str) -> float:
        part = as_fraction(value, name)
        if part == 0:
            msg = f"`{name}` must be above 0, got {shown(value)}; a layer without rotary has null for its rope keys"
            raise ValueError(msg)
        return part

    within = keys.rope.found("partial_rotary_factor", check)
    on_top = keys.top.first([name for name in PARTS if keys.reads(name)], check)
    if keys.options.strict and not keys.nested:
        name = "partial_rotary_factor"
        found = agreed([(keys.rope.name(name), within), (keys.top.name(name), on_top)])
    else:
        found = within or on_top
    usual = not keys.nested or keys.kind.value == "default"
    if found is None and usual and _given_rotary_dim(keys) is None:
        found = keys.default("partial_rotary_factor") or _default_of_kind(keys)
    return found


def _default_of_kind(keys: LayerKeys) -> Found | None:
    """Return the rotated part of layers of this kind, by the defaults of the model type's class."""
    found = keys.default("rope_parameters")
    own = None if found is None or keys.rope.values else found.value.get(keys.layer.kind)
    part = None if own is None else own.get("partial_rotary_factor")
    return None if found is None or part is None else Found(part, found.origin)


def rotary_start(keys: LayerKeys, head_dim: int, rotary_dim: int) -> int:
    """Return the first rotated channel."""
    return head_dim - rotary_dim if keys.model is not None and keys.model.trailing else 0


def check_unread(keys: LayerKeys, base: float, rotary_dim: int, head_dim: int) -> None:
    """Refuse keys that the model type does not read and that contradict the result."""
    if keys.model is None:
        return
    for key in (*BASES, *LEGACY_BASES):
        is_read = keys.reads(key) or keys.model.legacy in LEGACY_BASES.get(key, ())
        is_read = is_read or (keys.model.legacy is not None and key == BASES[0])
        found = None if is_read else keys.top.found(key, as_positive_float)
        if found is not None and found.value != base:
            keys.refuse_unread(keys.top.name(key), found.value, f"whose base is {base} here")
    for key in PARTS:
        found = None if keys.reads(key) else keys.top.found(key, as_fraction)
        if found is not None and int(head_dim * found.value) != rotary_dim:
            keys.refuse_unread(
                *(keys.top.name(key), found.value),
                f"which rotates {rotary_dim} of {head_dim} channels here, not {int(head_dim * found.value)}",
            )
    found = None if keys.reads("rotary_dim") else keys.top.found("rotary_dim", as_rotary_dim)
    if found is not None and found.value != rotary_dim:
        keys.refuse_unread(
            *(keys.top.name("rotary_dim"), found.value),
            f"which rotates {rotary_dim} of {head_dim} channels here",
        )


def _entry(layers: Keys, index: int) -> Keys | None:
    """Return the keys of one layer, whose number may have leading zeros."""
    names = (name for name in layers.values if str(name).isdigit() and int(name) == index)
    name = next(names, None)
    return None if name is None else layers.inner(name)
