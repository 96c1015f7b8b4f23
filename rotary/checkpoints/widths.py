"""The width of a head and the rotated channels, read from a configuration."""

from __future__ import annotations

from typing import Any

from rotary._lib.checks import (
    as_fraction,
    as_positive_float,
    as_positive_integer,
    as_rotary_dim,
)
from rotary._lib.errors import ConfigError, shown

from .channels import check_head_dim, check_rotary_dim, divided_head_dim
from .dialects import DIALECTS
from .key_names import BASES, FRACTIONS, HEAD_COUNTS, HIDDEN_SIZES, WIDTHS
from .layer_keys import LayerKeys
from .layers import kinds_of_layers
from .models import FOLLOWS
from .reader import Keys, Sourced, first_given
from .rope_dicts import LEGACY_BASES

__all__ = ["check_unread", "head_dim", "is_latent", "rotary_dim"]

# Keys with the width of a part of a head, or of the heads in one kind of layer only.
_PARTIAL_WIDTH_KEYS = ("qk_rope_head_dim", "global_head_dim", "swa_head_dim")


def is_latent(keys: LayerKeys) -> bool:
    """Whether the model has multi-head latent attention, whose rotated channels are a separate array."""
    if keys.model is not None:
        return keys.model.latent
    return "qk_rope_head_dim" in keys.top


def head_dim(keys: LayerKeys) -> int:
    """Return the number of channels of the arrays to rotate."""
    if is_latent(keys):
        found = keys.top.get("qk_rope_head_dim", as_rotary_dim)
        found = found or keys.default("qk_rope_head_dim")
        _check_latent(keys, found)
    else:
        names = [name for name in WIDTHS if name not in _PARTIAL_WIDTH_KEYS and keys.reads(name)]
        names = names[:1] if keys.model is None else names
        of_kind = _head_dim_of_kind(keys)
        found = of_kind or keys.top.get_one_of(names, as_positive_integer)
        found = found or keys.default("head_dim") or _divided_head_dim(keys)
        _check_widths(keys, int(found.value), of_kind is not None)
    assert found is not None
    check_head_dim(found)
    return int(keys.take("head_dim", found))


def _check_latent(keys: LayerKeys, found: Sourced | None) -> None:
    """Raise for a `head_dim` from which the model's own code would make tables of a different width."""
    if keys.model is None or not keys.reads("head_dim") or found is None:
        return
    given = keys.top.get("head_dim", as_positive_integer)
    fraction = keys.default("partial_rotary_factor")
    widths = () if given is None else (given.value, fraction and int(given.value * fraction.value))
    if given is None or found.value in widths:
        return
    must = (
        f"must agree with qk_rope_head_dim {found.value}, because the code of model type {shown(keys.model.name)} "
        f"in {FOLLOWS} computes its tables from head_dim"
    )
    keys.top.fail("head_dim", must, given.value, "leave it out")


def _check_widths(keys: LayerKeys, width: int, has_kind_width: bool) -> None:
    """Raise if a key that is not read gives a different width."""
    for key in WIDTHS:
        if _is_read_or_irrelevant(keys, key, has_kind_width):
            continue
        found = keys.top.get(key, as_positive_integer)
        if found is None or found.value == width:
            continue
        name = keys.top.name(key)
        if keys.model is not None:
            keys.refuse_unread(name, found.value, f"its heads have {width} channels")
        elif "head_dim" not in keys.top:
            must = (
                f"must be given, because `{name}` is {found.value} and the hidden size divided by the number of "
                f"heads is {width}"
            )
            keys.top.fail("head_dim", must, "none", "write the number of channels of a head")


def _is_read_or_irrelevant(keys: LayerKeys, name: str, has_kind_width: bool) -> bool:
    """Whether a key of a width is read, or does not concern the heads of this layer."""
    if keys.model is None:
        return name in ("head_dim", *_PARTIAL_WIDTH_KEYS)
    if name == "qk_rope_head_dim":
        return keys.model.trailing
    return keys.reads(name) or (has_kind_width and name == "head_dim")


def _head_dim_of_kind(keys: LayerKeys) -> Sourced | None:
    """Return the width of the heads in this kind of layer, or None if it has no separate key."""
    kind = keys.layer.kind
    layers = keys.top.inner("per_layer_config")
    kinds = kinds_of_layers(keys.top)
    if layers is not None and kind is not None and kinds:
        widths = {}
        for index, kind_of_layer in enumerate(kinds):
            if kind_of_layer == kind and keys.layer.index in (None, index):
                entry = _entry(layers, index)
                found = None if entry is None else entry.get("head_dim", as_positive_integer)
                widths[None if found is None else found.value] = found
        if len(widths) > 1:
            msg = (
                f"`layer_type` must be the index of a layer, because layers of the kind {shown(kind)} have different "
                f"values of head_dim, {', '.join(sorted(map(shown, widths)))}, got {shown(kind)}"
            )
            raise ConfigError(msg)
        found = next(iter(widths.values()), None)
        if found is not None:
            return found
    key = {"full_attention": "global_head_dim", "sliding_attention": "swa_head_dim"}.get(kind or "")
    if key is None or not keys.reads(key):
        return None
    given = keys.top.get(key, as_positive_integer)
    return given or (keys.default(key) if layers is None else None)


def _divided_head_dim(keys: LayerKeys) -> Sourced:
    """Return the width of the model divided by the number of heads; raise if either is not given."""
    advice = "write head_dim, the number of channels of a head"
    found = divided_head_dim(keys.top, HIDDEN_SIZES, HEAD_COUNTS, advice)
    if found is None:
        missing = HEAD_COUNTS[0] if keys.top.has_any(HIDDEN_SIZES) else HIDDEN_SIZES[0]
        must = f"must be given, or `{keys.top.name(HIDDEN_SIZES[0])}` and `{keys.top.name(HEAD_COUNTS[0])}`"
        keys.top.fail("head_dim", must, f"no {missing}", advice)
    return found


def rotary_dim(keys: LayerKeys, head_dim: int) -> tuple[int, float]:
    """Return the number of rotated channels, and the fraction of the head that they are."""
    fraction, given = _partial_rotary_factor(keys), _given_rotary_dim(keys)
    if is_latent(keys):
        keys.origins["rotary_dim"] = "derived: the whole of qk_rope_head_dim"
        default = keys.default("partial_rotary_factor")
        if (
            keys.model is not None
            and fraction is not None
            and (default is None or default.value != fraction.value)
        ):
            _check_fraction(keys, fraction, head_dim)
        return head_dim, 1.0
    if keys.rope_type.value == "proportional":
        keys.origins["rotary_dim"] = "derived: proportional uses the pairs of the whole head"
        if (
            fraction is None
            and given is not None
            and keys.model is not None
            and keys.model.trailing
        ):
            fraction = Sourced(given.value / head_dim, f"derived: {given.origin} / head_dim")
        return head_dim, 1.0 if fraction is None else keys.take(
            "scaling.partial_rotary_factor", fraction
        )
    _check_trailing(keys, fraction, head_dim)
    channels = keys.top.get("rotary_dim", as_rotary_dim) or given
    check_rotary_dim(channels, head_dim)
    if fraction is None and given is None:
        return _set_rotary_dim(keys, head_dim, "derived: the whole head"), 1.0
    if fraction is None:
        assert given is not None
        return int(keys.take("rotary_dim", given)), given.value / head_dim
    width = int(head_dim * fraction.value)
    if channels is not None and channels.value != width and fraction.origin.startswith("given"):
        msg = (
            f"`{channels.key}` and `{fraction.key}` must not contradict each other, got {channels.value} and "
            f"{fraction.value}, which is {width} of {head_dim} channels; keep one"
        )
        raise ConfigError(msg)
    width = _set_rotary_dim(
        keys, width, f"derived: int(head_dim * {fraction.value}), {fraction.origin}"
    )
    if _supports_partial(keys) or width == head_dim:
        return width, fraction.value
    _check_fraction(keys, fraction, head_dim)
    return _set_rotary_dim(keys, head_dim, "derived: the whole head"), 1.0


def _check_trailing(keys: LayerKeys, fraction: Sourced | None, head_dim: int) -> None:
    """Raise for DeepSeek-V4's qk_rope_head_dim if the rope dict has no partial_rotary_factor.

    Without that key, the model's code rotates the whole head.
    """
    found = keys.top.get("qk_rope_head_dim", as_rotary_dim)
    if keys.model is None or not keys.model.trailing or fraction is not None or found is None:
        return
    if keys.rope.origin == "given" and keys.rope.values and keys.rope_type.value == "default":
        keys.refuse_unread(
            *(keys.top.name("qk_rope_head_dim"), found.value),
            f"without partial_rotary_factor it rotates all {head_dim} channels of a head",
            f"write `{keys.rope.name('partial_rotary_factor')}` {found.value / head_dim}",
        )


def _supports_partial(keys: LayerKeys) -> bool:
    """Whether the model's own code, or the common code of the dialect, can rotate a fraction of each head."""
    return (
        keys.model is None
        or keys.model.partial
        or keys.model.trailing
        or keys.options.dialect.partial
    )


def _check_fraction(keys: LayerKeys, fraction: Sourced, head_dim: int) -> None:
    """Raise for a fraction below 1 if the model's code rotates the whole head."""
    if fraction.value != 1.0:
        width = int(head_dim * fraction.value)
        readers = [dialect.name for dialect in DIALECTS.values() if dialect.partial]
        keys.refuse_unread(
            *(fraction.key, fraction.value, f"it rotates all {head_dim} channels of a head"),
            f"leave it out, or choose a dialect in which it means {width} of {head_dim} channels: "
            + " or ".join(f"dialect={shown(name)}" for name in readers),
        )


def _set_rotary_dim(keys: LayerKeys, width: int, origin: str) -> int:
    """Check that the number of rotated channels is even, record its origin and return it."""
    if width < 2 or width % 2:
        msg = (
            "`partial_rotary_factor` and `head_dim` must give an even number of rotated channels, got "
            f"{width} ({origin}); projects round the product differently: write `rotary_dim` instead"
        )
        raise ConfigError(msg)
    keys.origins["rotary_dim"] = origin
    return width


def _given_rotary_dim(keys: LayerKeys) -> Sourced | None:
    """Return the number of rotated channels, if a key gives it."""
    if keys.model is not None and keys.model.trailing:
        found = keys.top.get("qk_rope_head_dim", as_rotary_dim)
        if found is not None:
            return found
    found = keys.top.get("rotary_dim", as_rotary_dim) if keys.reads("rotary_dim") else None
    return found or keys.default("rotary_dim")


def _partial_rotary_factor(keys: LayerKeys) -> Sourced | None:
    """Return the rotated fraction of the head, or None if neither a key nor a default gives it."""

    def check(value: Any, name: str) -> float:
        fraction = as_fraction(value, name)
        if fraction == 0:
            msg = f"`{name}` must be above 0, got {shown(value)}; write null as the rope dict of a layer without rotary"
            raise ValueError(msg)
        return fraction

    in_dict = [(keys.rope, "partial_rotary_factor")]
    at_top = [(keys.top, name) for name in FRACTIONS if keys.reads(name)]
    must_agree = keys.options.strict and not keys.nested
    groups = [[*in_dict, *at_top]] if must_agree else [in_dict, at_top]
    found = first_given(*groups, check=check)
    has_default = not keys.nested or keys.rope_type.value == "default"
    if found is None and has_default and _given_rotary_dim(keys) is None:
        found = keys.default("partial_rotary_factor") or _default_of_kind(keys)
    return found


def _default_of_kind(keys: LayerKeys) -> Sourced | None:
    """Return the default fraction of this kind of layer in the configuration class of the model type."""
    found = keys.default("rope_parameters")
    defaults = None if found is None or keys.rope.values else found.value.get(keys.layer.kind)
    fraction = None if defaults is None else defaults.get("partial_rotary_factor")
    return None if found is None or fraction is None else Sourced(fraction, found.origin)


def check_unread(keys: LayerKeys, base: float, rotary_dim: int, head_dim: int) -> None:
    """Raise for keys that the model type does not read, if they contradict the result."""
    if keys.model is None:
        return
    for key in (*BASES, *LEGACY_BASES):
        is_read = keys.reads(key) or keys.model.legacy in LEGACY_BASES.get(key, ())
        is_read = is_read or (keys.model.legacy is not None and key == BASES[0])
        found = None if is_read else keys.top.get(key, as_positive_float)
        if found is not None and found.value != base:
            keys.refuse_unread(keys.top.name(key), found.value, f"its base is {base}")
    for key in FRACTIONS:
        found = None if keys.reads(key) else keys.top.get(key, as_fraction)
        if found is not None and int(head_dim * found.value) != rotary_dim:
            keys.refuse_unread(
                *(keys.top.name(key), found.value),
                f"it rotates {rotary_dim} of {head_dim} channels, not {int(head_dim * found.value)}",
            )
    found = None if keys.reads("rotary_dim") else keys.top.get("rotary_dim", as_rotary_dim)
    if found is not None and found.value != rotary_dim:
        keys.refuse_unread(
            *(keys.top.name("rotary_dim"), found.value),
            f"it rotates {rotary_dim} of {head_dim} channels",
        )


def _entry(layers: Keys, index: int) -> Keys | None:
    """Return the keys of one layer; the key of the layer is its index, perhaps with leading zeros."""
    names = (name for name in layers.values if str(name).isdigit() and int(name) == index)
    name = next(names, None)
    return None if name is None else layers.inner(name)
