"""From the keys of one layer to an embedding, every number with its origin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rotary import sections as sections_module
from rotary._lib.checks import (
    LARGEST_WIDTH,
    as_bool,
    as_fraction,
    as_non_negative_integer,
    as_positive_float,
    as_positive_integer,
    as_rotary_dim,
)
from rotary._lib.errors import ConfigError, shown
from rotary._lib.numbers import as_length
from rotary.embedding import BatchAxis, RotaryEmbedding
from rotary.layouts import Layout
from rotary.scaling import Custom, Scaling, Yarn

from .buffer import CheckpointBuffer, _as_buffer
from .dialects import DIALECTS, Dialect
from .layers import (
    BASES,
    HEADS,
    HIDDEN,
    INTERLEAVED,
    LEGACY_BASES,
    PARTS,
    Layer,
    attention_part,
    item,
    kinds_of_layers,
)
from .models import FOLLOWS, Model, known
from .reader import Found, Keys, agreed, checked, near
from .schedules import Reading, rope_type, schedule

__all__ = [
    "WIDTHS",
    "Builder",
    "Options",
]


# Names of the width of a head in configurations. Model types that are not known may mean other widths by them.
WIDTHS = (
    *("head_dim", "kv_channels", "attention_head_dim", "attention_head_size", "attn_head_dim"),
    *("head_size", "head_width", "head_dims", "d_head", "d_kv", "dim_head", "dim_per_head"),
    *("size_per_head", "hidden_size_per_head", "hidden_size_per_attention_head", "qk_head_dim"),
    *("qk_rope_head_dim", "global_head_dim", "swa_head_dim"),
)
# These are of one kind of layer, or a part of a head.
_NOT_WHOLE = ("qk_rope_head_dim", "global_head_dim", "swa_head_dim")
_LENGTH = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"),
    "model_max_length",
)


@dataclass(frozen=True)
class Options:
    """What the caller adds to a configuration."""

    layer_type: str | int | None
    layout: Layout | None
    axes: tuple[int | None, BatchAxis]  # the arguments `seq_axis` and `batch_axis`
    context_length: int | None
    inv_freq: Any
    dialect: Dialect
    strict: bool
    unread: list[str]


class Builder:
    """One embedding in the making: every number with its origin."""

    def __init__(
        self,
        top: Keys,
        row: Model | None,
        layer: Layer,
        rope: Keys,
        nested: bool,
        base: Found | None,
        options: Options,
    ) -> None:
        self.top, self.row, self.layer, self.options = top, row, layer, options
        self.rope, self.nested = rope, nested
        self.given_base = base
        self.origins: dict[str, str] = {}
        self.kind = rope_type(rope)

    def _default(self, key: str) -> Found | None:
        """Return the default of a key, of the model type's own class."""
        if self.row is None or key not in self.row.defaults:
            return None
        return Found(self.row.defaults[key], f"the default of {self.row.name} in {FOLLOWS}")

    def _reads(self, key: str) -> bool:
        """Whether the code of the model type reads a key of the configuration."""
        if self.row is None:
            return True
        if key in (BASES[0], PARTS[0], WIDTHS[0]):
            return key not in self.row.unread
        return key in self.row.reads

    def _pass_over(self, name: str, value: Any, instead: str, advice: str = "leave it out") -> None:
        """Refuse a key that the model's code does not read, or keep its name if the caller only compares."""
        if not self.options.strict:
            self.options.unread.append(name)
            return
        kind = "" if self.row is None else f"model type {shown(self.row.name)}"
        msg = (
            f"`{name}` is not read by the code of {kind} in {FOLLOWS} for the rope type {shown(self.kind.value)}, "
            f"{instead}, got {shown(value)}; {advice}"
        )
        raise ConfigError(msg)

    def _told(self, name: str, found: Found) -> Any:
        """Return a value and keep its origin."""
        self.origins[name] = found.origin
        return found.value

    def embedding(self) -> RotaryEmbedding | None:
        """Return the embedding."""
        self._leave_dict()
        head_dim = self._head_dim()
        if self._is_without_base():
            return None
        rotary_dim, part = self._rotary_dim(head_dim)
        layout, output_layout = self._layouts()
        length = self._length()
        reading = Reading(
            keys=self.rope,
            top=self.top,
            dialect=self.options.dialect,
            strict=self.options.strict,
            nested=self.nested,
            model=None if self.row is None else self.row.name,
            latent=self._is_latent(),
            softmax=self.row is None or self.row.softmax,
            mscales=self.row is not None and self.row.mscales,
            max_position=self._max_position(),
            own_original=self._default("original_max_position_embeddings"),
            part=part,
        )
        if self.kind.value == "axial":
            msg = (
                f"`{self.rope.name('rope_type')}` 'axial' has a position axis for height and one for width, in an "
                "order the configuration does not tell; build it with rotary.sections.axial"
            )
            raise ConfigError(msg)
        base = self._told("base", self._base())
        self._check_unread(base, rotary_dim, head_dim)
        scaling = self._own_factor(schedule(reading, self.kind.value), reading)
        self._check_lists(scaling, rotary_dim)
        self.origins.update(reading.origins)
        self.origins["scaling"] = self.kind.origin
        arguments: dict[str, Any] = {
            "layout": layout,
            "base": base,
            "scaling": scaling,
            "rotary_dim": rotary_dim,
            "rotary_start": self._start(head_dim, rotary_dim),
            "context_length": length,
            "output_layout": output_layout,
            **self._sections(rotary_dim),
        }
        return self._made(head_dim, arguments)

    def _leave_dict(self) -> None:
        """Refuse a rope dict that the model's code does not read, unless it says what that code does."""
        if self.row is None or "rope_parameters" not in self.row.unread or not self.rope.values:
            return
        usual = {"rope_type": "default", "type": "default", "rope_theta": 10_000.0}
        for key, value in self.rope.values.items():
            if value != usual.get(key):
                self._pass_over(self.rope.name(key), value, "whose base is fixed and not scaled")
        self.rope = Keys({}, self.rope.path)
        self.kind = rope_type(self.rope)

    def _own_factor(self, scaling: Scaling, reading: Reading) -> Scaling:
        """Return the schedule of DeepSeek-V4, whose code leaves out YaRN's factor."""
        if self.row is None or not self.row.trailing or not isinstance(scaling, Yarn):
            return scaling
        if "attention_factor" in self.rope:
            return scaling
        reading.origins["scaling.attention_factor"] = f"the default of {self.row.name} in {FOLLOWS}"
        return replace(scaling, attention_factor=1.0)

    def _made(self, head_dim: int, arguments: dict[str, Any]) -> RotaryEmbedding:
        """Return the embedding, with the frequencies of a buffer where there is one."""
        seq_axis, batch_axis = self.options.axes
        try:
            rope = RotaryEmbedding(head_dim, **arguments)
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"`config` does not describe a rotation: {error}"
            raise ConfigError(msg) from error
        if self.row is not None and self.row.negative:
            arguments["scaling"] = Custom(-rope.inv_freq, rope.attention_factor)
            arguments["base"] = None
            self.origins["scaling"] = f"derived: {self.row.name} turns pairs the other way round"
            self.origins["base"] = f"within the frequencies: {rope.base}, {self.origins['base']}"
            rope = RotaryEmbedding(head_dim, **arguments)
        if self.options.inv_freq is not None:
            values = _as_buffer(self.options.inv_freq, rope)
            arguments["scaling"] = CheckpointBuffer(values, rope.scaling, rope.context_length)
            self.origins["scaling"] = f"given: inv_freq, in place of {type(rope.scaling).__name__}"
            rope = RotaryEmbedding(head_dim, **arguments)
        if seq_axis is not None or batch_axis is not None:
            # Apart from the rest, because a wrong axis is no fault of the configuration.
            rope = RotaryEmbedding(head_dim, **arguments, seq_axis=seq_axis, batch_axis=batch_axis)
        return rope._explained(self.origins)

    def _check_unread(self, base: float, rotary_dim: int, head_dim: int) -> None:
        """Refuse keys of other model types that say something else than what is read."""
        if self.row is None:
            return
        for key in (*BASES, *LEGACY_BASES):
            is_read = self._reads(key) or self.row.legacy in LEGACY_BASES.get(key, ())
            is_read = is_read or (self.row.legacy is not None and key == BASES[0])
            found = None if is_read else self.top.found(key, as_positive_float)
            if found is not None and found.value != base:
                self._pass_over(self.top.name(key), found.value, f"whose base is {base} here")
        for key in PARTS:
            found = None if self._reads(key) else self.top.found(key, as_fraction)
            if found is not None and int(head_dim * found.value) != rotary_dim:
                self._pass_over(
                    *(self.top.name(key), found.value),
                    f"which rotates {rotary_dim} of {head_dim} channels here, not {int(head_dim * found.value)}",
                )
        found = None if self._reads("rotary_dim") else self.top.found("rotary_dim", as_rotary_dim)
        if found is not None and found.value != rotary_dim:
            self._pass_over(
                *(self.top.name("rotary_dim"), found.value),
                f"which rotates {rotary_dim} of {head_dim} channels here",
            )

    # Widths.

    def _is_latent(self) -> bool:
        """Whether the rotated channels are an array of their own."""
        if self.row is not None:
            return self.row.latent
        return "qk_rope_head_dim" in self.top

    def _head_dim(self) -> int:
        """Return the channels of the arrays to be rotated."""
        if self._is_latent():
            found = self.top.found("qk_rope_head_dim", as_rotary_dim)
            found = found or self._default("qk_rope_head_dim")
            self._check_latent(found)
        else:
            names = [name for name in WIDTHS if name not in _NOT_WHOLE and self._reads(name)]
            names = names[:1] if self.row is None else names
            special = self._special_head_dim()
            found = special or self.top.first(names, as_positive_integer)
            found = found or self._default("head_dim") or self._derived_head_dim()
            self._check_widths(int(found.value), special is not None)
        assert found is not None
        if found.value > LARGEST_WIDTH:
            msg = f"`head_dim` must be at most {LARGEST_WIDTH} channels, got {found.value} ({found.origin})"
            raise ConfigError(msg)
        return int(self._told("head_dim", found))

    def _check_latent(self, found: Found | None) -> None:
        """Refuse a width of heads from which the model's code would make tables of another width."""
        if self.row is None or not self._reads("head_dim") or found is None:
            return
        given = self.top.found("head_dim", as_positive_integer)
        part = self._default("partial_rotary_factor")
        widths = () if given is None else (given.value, part and int(given.value * part.value))
        if given is None or found.value in widths:
            return
        msg = (
            f"`{self.top.name('head_dim')}` must agree with qk_rope_head_dim {found.value}, for the code of "
            f"model type {shown(self.row.name)} in {FOLLOWS} makes its tables from it, got {given.value}; leave it out"
        )
        raise ConfigError(msg)

    def _check_widths(self, width: int, special: bool) -> None:
        """Refuse another width under a name that is not read."""
        for key in WIDTHS:
            if self._is_whole(key, special):
                continue
            found = self.top.found(key, as_positive_integer)
            if found is None or found.value == width:
                continue
            name = self.top.name(key)
            if self.row is not None:
                self._pass_over(name, found.value, f"which rotates heads of {width} channels")
            elif "head_dim" not in self.top:
                msg = (
                    f"`{self.top.name('head_dim')}` must be given, for `{name}` is {found.value} and hidden_size "
                    f"divided by the heads is {width}, got none; write the channels of one head"
                )
                raise ConfigError(msg)

    def _is_whole(self, name: str, special: bool) -> bool:
        """Whether a width is read, or says nothing about the heads of this layer."""
        if self.row is None:
            return name in ("head_dim", *_NOT_WHOLE)
        if name == "qk_rope_head_dim":
            return self.row.trailing
        return self._reads(name) or (special and name == "head_dim")

    def _special_head_dim(self) -> Found | None:
        """Return the width of this kind of layer, where kinds differ in width."""
        kind = self.layer.kind
        layers = self.top.inner("per_layer_config")
        kinds = kinds_of_layers(self.top)
        if layers is not None and kind is not None and kinds:
            widths = {}
            for index, own in enumerate(kinds):
                if own == kind and self.layer.index in (None, index):
                    entry = _entry(layers, index)
                    found = None if entry is None else entry.found("head_dim", as_positive_integer)
                    widths[None if found is None else found.value] = found
            if len(widths) > 1:
                msg = (
                    f"`layer_type` must be the number of a layer, for those of the kind {shown(kind)} differ in "
                    f"head_dim, got {shown(sorted(map(shown, widths)))}"
                )
                raise ConfigError(msg)
            found = next(iter(widths.values()), None)
            if found is not None:
                return found
        key = {"full_attention": "global_head_dim", "sliding_attention": "swa_head_dim"}.get(
            kind or ""
        )
        if key is None or not self._reads(key):
            return None
        given = self.top.found(key, as_positive_integer)
        return given or (self._default(key) if layers is None else None)

    def _derived_head_dim(self) -> Found:
        """Return the width of the model divided by its heads."""
        hidden = self.top.first(HIDDEN, as_positive_integer)
        heads = self.top.first(HEADS, as_positive_integer)
        if hidden is None or heads is None:
            missing = HIDDEN[0] if hidden is None else HEADS[0]
            msg = (
                f"`{self.top.name('head_dim')}` must be given, or `{self.top.name(HIDDEN[0])}` and "
                f"`{self.top.name(HEADS[0])}`, got no {missing}; write the channels of one head"
            )
            raise ConfigError(msg)
        width, rest = divmod(hidden.value, heads.value)
        if rest:
            msg = (
                f"`{self.top.name('head_dim')}` must be given, for hidden_size {hidden.value} is no multiple of "
                f"{heads.value} heads, got none; write the channels of one head"
            )
            raise ConfigError(msg)
        names = [found.origin.removeprefix("given: ") for found in (hidden, heads)]
        return Found(width, f"derived: {' / '.join(names)}")

    def _rotary_dim(self, head_dim: int) -> tuple[int, float]:
        """Return the rotated channels, and the part of the head they are."""
        part, given = self._part(), self._given_rotary_dim()
        if self._is_latent():
            self.origins["rotary_dim"] = "derived: the whole of qk_rope_head_dim"
            own = self._default("partial_rotary_factor")
            if (
                self.row is not None
                and part is not None
                and (own is None or own.value != part.value)
            ):
                self._check_part(part, head_dim)
            return head_dim, 1.0
        if self.kind.value == "proportional":
            self.origins["rotary_dim"] = "derived: proportional turns pairs of the whole head"
            if part is None and given is not None and self.row is not None and self.row.trailing:
                part = Found(given.value / head_dim, f"derived: {given.origin} / head_dim")
            return head_dim, 1.0 if part is None else self._told(
                "scaling.partial_rotary_factor", part
            )
        self._check_last(part, head_dim)
        counted = self.top.found("rotary_dim", as_rotary_dim) or given
        if counted is not None and counted.value > head_dim:
            msg = f"`rotary_dim` must be at most head_dim {head_dim}, got {counted.value} ({counted.origin})"
            raise ConfigError(msg)
        if part is None and given is None:
            return self._even(head_dim, "derived: the whole head"), 1.0
        if part is None:
            assert given is not None
            return int(self._told("rotary_dim", given)), given.value / head_dim
        width = int(head_dim * part.value)
        if counted is not None and counted.value != width and part.origin.startswith("given"):
            name = counted.origin.removeprefix("given: ")
            msg = (
                f"`{name}` and partial_rotary_factor must not contradict each other, got {counted.value} and "
                f"{part.value}, which is {width} of {head_dim} channels; keep one"
            )
            raise ConfigError(msg)
        width = self._even(width, f"derived: int(head_dim * {part.value}), {part.origin}")
        if self._rotates_a_part() or width == head_dim:
            return width, part.value
        self._check_part(part, head_dim)
        return self._even(head_dim, "derived: the whole head"), 1.0

    def _check_last(self, part: Found | None, head_dim: int) -> None:
        """Refuse DeepSeek-V4's width beside a rope dict without the part, where its code rotates the whole head."""
        found = self.top.found("qk_rope_head_dim", as_rotary_dim)
        if self.row is None or not self.row.trailing or part is not None or found is None:
            return
        if self.rope.origin == "given" and self.rope.values and self.kind.value == "default":
            self._pass_over(
                *(self.top.name("qk_rope_head_dim"), found.value),
                f"which rotates all {head_dim} channels of a head without partial_rotary_factor",
                f"write `{self.rope.name('partial_rotary_factor')}` {found.value / head_dim}",
            )

    def _rotates_a_part(self) -> bool:
        """Whether a part of each head can be rotated: by the model's own code, or by the dialect's for every model."""
        return (
            self.row is None
            or self.row.partial
            or self.row.trailing
            or self.options.dialect.partial
        )

    def _check_part(self, part: Found, head_dim: int) -> None:
        """Refuse a part of the head that the model's code does not leave out."""
        if part.value != 1.0:
            name = part.origin.removeprefix("given: ")
            width = int(head_dim * part.value)
            who = [own.name for own in DIALECTS.values() if own.partial]
            self._pass_over(
                *(name, part.value, f"which rotates all {head_dim} channels of a head"),
                f"that is {width} of {head_dim} channels: leave it out, or choose a dialect that reads it: "
                + " or ".join(f"dialect={shown(own)}" for own in who),
            )

    def _even(self, width: int, origin: str) -> int:
        """Return a width whose channels pair."""
        if width < 2 or width % 2:
            msg = (
                f"`partial_rotary_factor` and `head_dim` must give an even number of channels, got {width} "
                f"({origin}); projects round it in different ways: write what the checkpoint rotates"
            )
            raise ConfigError(msg)
        self.origins["rotary_dim"] = origin
        return width

    def _given_rotary_dim(self) -> Found | None:
        """Return the rotated channels, where a key counts them."""
        if self.row is not None and self.row.trailing:
            found = self.top.found("qk_rope_head_dim", as_rotary_dim)
            if found is not None:
                return found
        found = self.top.found("rotary_dim", as_rotary_dim) if self._reads("rotary_dim") else None
        return found or self._default("rotary_dim")

    def _part(self) -> Found | None:
        """Return the part of the head that turns, where a key tells it."""

        def check(value: Any, name: str) -> float:
            part = as_fraction(value, name)
            if part == 0:
                msg = f"`{name}` must be above 0, got {shown(value)}; a layer without rotary has null for its rope keys"
                raise ValueError(msg)
            return part

        within = self.rope.found("partial_rotary_factor", check)
        on_top = self.top.first([name for name in PARTS if self._reads(name)], check)
        if self.options.strict and not self.nested:
            name = "partial_rotary_factor"
            found = agreed([(self.rope.name(name), within), (self.top.name(name), on_top)])
        else:
            found = within or on_top
        usual = not self.nested or self.kind.value == "default"
        if found is None and usual and self._given_rotary_dim() is None:
            found = self._default("partial_rotary_factor") or self._default_of_kind()
        return found

    def _default_of_kind(self) -> Found | None:
        """Return the part that turns in layers of this kind, in the defaults of the model type's own class."""
        found = self._default("rope_parameters")
        own = None if found is None or self.rope.values else found.value.get(self.layer.kind)
        part = None if own is None else own.get("partial_rotary_factor")
        return None if found is None or part is None else Found(part, found.origin)

    def _start(self, head_dim: int, rotary_dim: int) -> int:
        """Return the first channel that turns."""
        return head_dim - rotary_dim if self.row is not None and self.row.trailing else 0

    # The other numbers.

    def _is_without_base(self) -> bool:
        """Whether a list with a base for each layer has none for this one; keeps the base otherwise."""
        values = self.top.values.get("layer_rope_theta")
        if values is None:
            return False
        name = self.top.name("layer_rope_theta")
        if not isinstance(values, list | tuple) or not values:
            msg = f"`{name}` must be a list with a base for each layer, got {shown(values)}"
            raise ConfigError(msg)
        differ = any((value or 0) != (values[0] or 0) for value in values)
        if self.layer.index is None and differ:
            msg = (
                f"`layer_type` must be the number of a layer, for `{name}` has a base for each, got "
                f"{shown(self.layer.kind)}"
            )
            raise ConfigError(msg)
        value = item(list(values), self.layer.index or 0, name)
        if not value:
            return True
        self.given_base = Found(checked(as_positive_float, value, name), f"given: {name}")
        return False

    def _base(self) -> Found:
        """Return the base: in the rope dict, on top, or the default of the model type."""
        if self.given_base is not None:
            return self.given_base
        within = self.rope.found("rope_theta", as_positive_float)
        on_top = [
            (self.top.name(key), self.top.found(key, as_positive_float))
            for key in BASES
            if self._reads(key)
        ]
        attention = attention_part(self.top)
        if attention is not None:
            name = "rope_theta"
            on_top.append((attention.name(name), attention.found(name, as_positive_float)))
        if self.nested or not self.options.strict:
            found = within or agreed(on_top)
        else:
            found = agreed([(self.rope.name("rope_theta"), within), *on_top])
        if found is not None:
            return found
        if self.row is None:
            msg = (
                f"`{self.top.name('rope_theta')}` must be given, the base of the frequencies, got none; write it "
                "as the checkpoint was trained, often 10000.0"
            )
            raise ConfigError(msg)
        value = self.row.defaults.get("rope_theta", 10_000.0)
        return Found(float(value), f"the default of {self.row.name} in {FOLLOWS}")

    def _layouts(self) -> tuple[Layout, Layout]:
        """Return the layouts that are read and written."""
        given, row = self.options.layout, self.row
        if row is None:
            layout = self._unknown_layout() if given is None else given
            if given is not None:
                self.origins["layout"] = "given: layout"
            return layout, layout
        own = self._own_layouts(row)
        if given is None or given == own[0]:
            self.origins["output_layout"] = self.origins["layout"]
            return own
        self.origins["layout"] = f"given: layout, where {row.name} in {FOLLOWS} has {own[0]}"
        return given, given

    def _unknown_layout(self) -> Layout:
        """Return the layout of a model type that is not known, where a key tells."""
        found = self.top.first(INTERLEAVED[1:], as_bool)
        if found is not None:
            return "interleaved" if self._told("layout", found) else "half"
        name = self.top.values.get("model_type")
        close = near(name, known()) if isinstance(name, str) else "the configuration has none"
        if "known are" in close:
            close = f"{len(known())} are known"
        msg = (
            f"`layout` must be given, for the layout of model type {shown(name)} is not known ({close}), got "
            "None; 'Which layout is my checkpoint' in the documentation tells how to find out"
        )
        raise ConfigError(msg)

    def _own_layouts(self, row: Model) -> tuple[Layout, Layout]:
        """Return the layouts of the model's own code."""
        self.origins["layout"] = f"known of {row.name} in {FOLLOWS}"
        found = self.top.first(INTERLEAVED, as_bool)
        if row.interleave_key:
            if found is not None and not self._told("layout", found):
                return "half", "half"
        elif (
            found is not None
            and self.options.layout is None
            and found.value != (row.layout == "interleaved")
        ):
            msg = (
                f"`{found.origin.removeprefix('given: ')}` must be {not found.value} for model type {shown(row.name)}, "
                f"whose code has the layout {row.layout}, got {found.value}; write what the code has, or pass "
                "`layout`"
            )
            raise ConfigError(msg)
        return row.layout, row.output_layout

    def _length(self) -> int | None:
        """Return the context length, and say where it comes from."""
        if self.options.context_length is not None:
            self.origins["context_length"] = "given: context_length"
            return self.options.context_length
        found = self._max_position()
        if found is None:
            return None
        origin = found.origin.removeprefix("given: ")
        self.origins["context_length"] = f"the default: {origin} of the configuration"
        return int(found.value)

    def _max_position(self) -> Found | None:
        """Return the length under its own name, beside which the older ones say how it was trained or run."""
        own = self.top.found(_LENGTH[0], as_length)
        return own or self.top.first(_LENGTH[1:], as_length)

    def _check_lists(self, scaling: Scaling, rotary_dim: int) -> None:
        """Refuse lists of factors that are not as long as there are pairs, the one not in use as well."""
        for name in ("short_factor", "long_factor"):
            factors = getattr(scaling, name, None)
            if factors is not None and len(factors) != rotary_dim // 2:
                msg = (
                    f"`{self.rope.name(name)}` must hold {rotary_dim // 2} numbers, one for each pair of "
                    f"{rotary_dim} rotated channels, got {len(factors)}"
                )
                raise ConfigError(msg)

    # Several position axes.

    def _sections(self, rotary_dim: int) -> dict[str, Any]:
        """Return the arguments that deal out lanes to position axes."""
        sizes, name = self._sizes()
        own = None if self.row is None else self.row.sections
        if sizes is None:
            return {}
        if sum(sizes) != rotary_dim // 2:
            msg = (
                f"`{name}` must add up to the {rotary_dim // 2} pairs of {rotary_dim} rotated channels, got "
                f"{list(sizes)}, which add up to {sum(sizes)}"
            )
            raise ConfigError(msg)
        order = self._order(own)
        self.origins["sections"] = f"{order}, {name}"
        if order == "hunyuan":
            return {"sections": sections_module.chunked(*sizes), "quirk": "hunyuan_vl"}
        try:
            return {"sections": getattr(sections_module, order)(*sizes)}
        except ValueError as error:
            msg = f"`{name}` does not fit {order} sections: {error}"
            raise ConfigError(msg) from error

    def _sizes(self) -> tuple[tuple[int, ...] | None, str]:
        """Return the numbers of lanes of each axis, and the key they come from."""
        keys = [key for key in ("mrope_section", "xdrope_section") if key in self.rope]
        if not keys:
            found = self._default("mrope_section")
            if found is None:
                return None, ""
            return tuple(found.value), f"mrope_section, {found.origin}"
        values, name = self.rope.values[keys[0]], self.rope.name(keys[0])
        if len(keys) == 2 and values != self.rope.values[keys[1]]:
            msg = (
                f"`{name}` and `{self.rope.name(keys[1])}` must not contradict each other, got {shown(values)} and "
                f"{shown(self.rope.values[keys[1]])}; keep one"
            )
            raise ConfigError(msg)
        if not isinstance(values, list | tuple) or not 2 <= len(values) <= 4:
            msg = f"`{name}` must be a list of two to four numbers of pairs, one for each axis, got {shown(values)}"
            raise ConfigError(msg)
        return tuple(checked(as_non_negative_integer, value, name) for value in values), name

    def _order(self, own: str | None) -> str:
        """Return how lanes are dealt out: as the model does it, or as the key says."""
        key = self.rope.first(("mrope_interleaved", "interleaved"), as_bool)
        said = None if key is None else "interleaved" if key.value else "chunked"
        if own is None or (self.options.dialect.sections and own in ("chunked", "interleaved")):
            order = said or ("chunked" if self.options.dialect.sections else own or "chunked")
        else:
            order = own
        if (
            self.options.strict
            and said is not None
            and own in ("chunked", "interleaved")
            and said != own
        ):
            msg = (
                f"`{self.rope.name('mrope_interleaved')}` must be {own == 'interleaved'} for {own} sections, which "
                f"the model type has whatever it says, got {key.value if key else None}"
            )
            raise ConfigError(msg)
        return order


def _entry(layers: Keys, index: int) -> Keys | None:
    """Return the keys of one layer, whose number is written with or without zeros before it."""
    names = (name for name in layers.values if str(name).isdigit() and int(name) == index)
    name = next(names, None)
    return None if name is None else layers.inner(name)
