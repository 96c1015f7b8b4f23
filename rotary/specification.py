"""What a rotary embedding is: its arguments, checked one by one and together, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, overload

import numpy as np

from ._lib import compiler, hints, jax_trees
from ._lib.checks import (
    as_choice,
    as_integer,
    as_positive_float,
    as_positive_integer,
    as_rotary_dim,
)
from ._lib.fields import cached_property
from ._lib.numbers import as_positions, frozen
from ._lib.typing import (
    AnyArray,
    Array,
    ArrayT,
    BatchAxis,
    DTypeLike,
    Float64Array,
    FloatArray,
    FrequenciesLike,
    HostArray,
    HostPositions,
    NestedReals,
    PositionsLike,
)
from .angles import learned
from .angles.phases import Frequencies, frequencies
from .call import passes, plans, torch_graphs
from .call.arrays import as_table_dtype
from .call.passes import QUIRKS, Quirk, RotationCache, RotationSpec, rotations_of
from .call.shapes import NO_BATCH, as_axis
from .decay import Role, XPos
from .layouts import Layout, check_layout
from .scaling import Default, Scaling
from .sections import Sections, as_sections
from .tables import lookup


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Specification:  # numpydoc ignore=PR01
    """The values of an embedding, and the rotations that follow from them.

    `rotary.RotaryEmbedding` documents the parameters and adds the methods that rotate arrays.
    """

    head_dim: int
    layout: Layout
    base: float | None
    scaling: Scaling
    rotary_dim: int
    rotary_start: int
    context_length: int | None
    output_layout: Layout
    sections: Sections | None
    decay: XPos | None
    quirk: Quirk | None
    seq_axis: int | None
    batch_axis: BatchAxis

    @hints.named
    @compiler.untraced
    def __init__(
        self,
        head_dim: int,
        *,
        layout: Layout,
        base: float | None = None,
        scaling: Scaling | None = None,
        rotary_dim: int | None = None,
        rotary_start: int = 0,
        context_length: int | None = None,
        output_layout: Layout | None = None,
        sections: Sections | AnyArray | Sequence[int] | None = None,
        decay: XPos | None = None,
        quirk: Quirk | None = None,
        seq_axis: int | None = None,
        batch_axis: BatchAxis = None,
    ) -> None:
        scaling = Default() if scaling is None else _checked_scaling(scaling)
        if base is None and scaling.needs_base:
            msg = f"`base` must be given: {scaling!r} makes the frequencies from it"
            raise TypeError(msg)
        start, width = _window(head_dim, rotary_dim, rotary_start)
        values = {
            "head_dim": as_positive_integer(head_dim, "head_dim"),
            "layout": check_layout(layout),
            "base": None if base is None else as_positive_float(base, "base"),
            "scaling": scaling,
            "rotary_dim": width,
            "rotary_start": start,
            "context_length": None
            if context_length is None
            else as_positive_integer(context_length, "context_length"),
            "output_layout": check_layout(
                layout if output_layout is None else output_layout, "output_layout"
            ),
            "sections": None if sections is None else _checked_sections(sections, width // 2),
            "decay": _checked_decay(decay),
            "quirk": None if quirk is None else as_choice(quirk, "quirk", tuple(QUIRKS)),
            "seq_axis": _checked_axis(seq_axis, "seq_axis"),
            "batch_axis": False if batch_axis is False else _checked_axis(batch_axis, "batch_axis"),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        # Made here, so that values that do not fit raise an error here.
        self.inv_freq  # noqa: B018
        try:
            self._frequencies  # noqa: B018
        except ValueError as error:
            if self.scaling.needs_base:
                msg = f"`base` {self.base} does not fit: {error}"
                raise ValueError(msg) from error
            raise
        _check_together(self)
        torch_graphs.prepare(self)
        jax_trees.register()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Specification):
            return NotImplemented
        return self is other or self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        """All arguments, and whether the batch axis is False, which equals 0."""
        values = [getattr(self, field.name) for field in fields(self)]
        return (*values, self.batch_axis is False)

    @cached_property
    def _hash(self) -> int:
        """The hash of all arguments, which do not change."""
        return hash(self._identity)

    def __getstate__(self) -> dict[str, Any]:
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return state | {"_origins": self._origins}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        torch_graphs.prepare(self)
        jax_trees.register()

    def __repr__(self) -> str:
        parts = [str(self.head_dim), f"layout={self.layout!r}"]
        defaults: dict[str, Any] = {
            "base": None,
            "scaling": Default(),
            "rotary_dim": self.head_dim - self.rotary_start,
            "rotary_start": 0,
            "context_length": None,
            "output_layout": self.layout,
            "sections": None,
            "decay": None,
            "quirk": None,
            "seq_axis": None,
            "batch_axis": None,
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return f"RotaryEmbedding({', '.join(parts)})"

    # --------------------------------------------------------------------------------------------
    # What follows from the specification.

    @cached_property
    def inv_freq(self) -> Float64Array:
        """Inverse frequencies in radians per position: float64, read-only.

        The shape is (rotary_dim/2,), or that of the `W` of `rotary.scaling.Custom`. With `sections`, each channel
        pair has the frequency of the axis that it uses.
        """
        if self.sections is None:
            return self.scaling.inv_freq(self.rotary_dim, self.base, self.context_length)
        of_width = {
            width: self.scaling.inv_freq(width, self.base, self.context_length)
            for width in set(self.sections.widths)
        }
        if any(values.ndim > 1 for values in of_width.values()):
            msg = "`sections` must not be given with W, which has frequencies for each axis"
            raise ValueError(msg)
        pairs = zip(self.sections.widths, self.sections.index, strict=True)
        return frozen(np.array([of_width[width][own] for width, own in pairs]))

    @cached_property
    def attention_factor(self) -> float:
        """The factor on cosine and sine."""
        return self.scaling.attention_factor_at(self.context_length)

    @property
    def softmax_factor(self) -> float:
        """The factor on the softmax scale of the attention, which the rotation does not apply."""
        return float(self.scaling.softmax_factor)

    @cached_property
    def _limit(self) -> int | None:
        """The first position that is out of range, or None."""
        return self.context_length if self.scaling.needs_length else None

    @cached_property
    def _frequencies(self) -> Frequencies:
        """The frequencies (heads, axes, pairs) as exact fractions of a turn."""
        return frequencies(passes.frequencies_by_axis(self.inv_freq, self.sections))

    @cached_property
    def _leading(self) -> bool:
        """Whether the first axis of positions is that of the position axes."""
        return self.sections is not None or self.inv_freq.ndim > 1

    @cached_property
    def _blocks(self) -> tuple[int, ...]:
        """The number of pairs of each block of channels that are paired among themselves."""
        return (self.rotary_dim // 2,) if self.sections is None else self.sections.blocks

    @cached_property
    def _rotations(self) -> RotationCache:
        """The rotations of this embedding, shared by all equal embeddings."""
        both = None
        if self.quirk is not None:
            first, second = passes.channel_frequencies(self.inv_freq, self.sections, self.quirk)
            both = frequencies(first), frequencies(second)
        return rotations_of(
            RotationSpec(
                head_dim=self.head_dim,
                layout=self.layout,
                output_layout=self.output_layout,
                rotary_start=self.rotary_start,
                rotary_dim=self.rotary_dim,
                attention_factor=self.attention_factor,
                decay=self.decay,
                quirk=self.quirk,
                has_position_axes=self._leading,
                limit=self._limit,
                blocks=self._blocks,
                frequencies=self._frequencies,
                shape=self.inv_freq.shape,
                sections=None if self.sections is None else tuple(self.sections.axes),
                channel_frequencies=both,
                axes=(self.seq_axis, NO_BATCH if self.batch_axis is False else self.batch_axis),
            )
        )

    @hints.named
    @compiler.untraced
    def at_length(self, context_length: int) -> Self:
        """Return the same specification at another context length.

        If the scaling depends on it, cached keys must be rotated again or shifted, because their frequencies change.

        Parameters
        ----------
        context_length : int
            Positive.

        Returns
        -------
        RotaryEmbedding
        """
        length = as_positive_integer(context_length, "context_length")
        moved = self._origins and self._origins | {"context_length": "given to at_length"}
        return replace(self, context_length=length)._explained(moved)

    def _explained(self, origins: dict[str, str]) -> Self:
        """Return the same specification with the origins of its numbers.

        The keys are the names that `explain` prints. Those of arguments of the scaling begin with "scaling.".
        """
        if not origins:
            return self
        result = replace(self)
        object.__setattr__(result, "_origins", dict(origins))
        return result

    @cached_property
    def _origins(self) -> dict[str, str]:
        """The origins of numbers that a configuration or a preset gave."""
        return {}

    # --------------------------------------------------------------------------------------------
    # Numbers of the rotation itself.

    @overload
    def tables(
        self,
        positions: HostPositions,
        dtype: DTypeLike = ...,
        *,
        role: Role | None = ...,
        inv_freq: HostArray | NestedReals | None = ...,
    ) -> tuple[FloatArray, FloatArray]: ...

    @overload
    def tables(
        self,
        positions: ArrayT,
        dtype: DTypeLike = ...,
        *,
        role: Role | None = ...,
        inv_freq: FrequenciesLike | None = ...,
    ) -> tuple[ArrayT, ArrayT]: ...

    @overload
    def tables(
        self,
        positions: HostPositions,
        dtype: DTypeLike = ...,
        *,
        role: Role | None = ...,
        inv_freq: ArrayT,
    ) -> tuple[ArrayT | FloatArray, ArrayT | FloatArray]: ...

    @hints.named
    @compiler.untraced
    def tables(
        self,
        positions: PositionsLike,
        dtype: DTypeLike = "float32",
        *,
        role: Role | None = None,
        inv_freq: FrequenciesLike | None = None,
    ) -> tuple[Array, Array]:
        """Return cosine and sine of the angles, attention factor included.

        Parameters
        ----------
        positions : number or array_like
            Of any shape. If frequencies are given for several position axes, the first axis is that of the position
            axes. Arrays of another library give tables of that library.
        dtype : {"float32", "float64"}, default "float32"
        role : {"query", "key"}, optional
            Whether the tables are for queries or keys, with `decay`.
        inv_freq : array_like, optional
            Frequencies in place of the embedding's, as in the call. Traced or learned ones give tables of their
            library, with gradients.

        Returns
        -------
        cos, sin : array (..., rotary_dim/2)
            Accurate to 0.501 ulp in float32, and to 1 ulp in float64 (2 with an attention factor). They are
            read-only views of the cache, or copies in a library without read-only arrays, such as torch. With
            frequencies per head, an axis of heads comes before the last axis of the positions: (B, S) gives
            (B, H, S, rotary_dim/2), and (S,) gives (1, H, S, rotary_dim/2).
            `rotary.apply_rotary` takes these tables for arrays (B, H, S, D).

        Raises
        ------
        TypeError
            If the embedding has a quirk, or a decay with different scales for the two channels of a pair, or if it
            has a decay and no `role` is given.

        Examples
        --------
        >>> import rotary
        >>> rope = rotary.RotaryEmbedding(4, layout="half", base=100.0)
        >>> cos, sin = rope.tables([0, 1])
        >>> cos
        array([[1.       , 1.       ],
               [0.5403023, 0.9950042]], dtype=float32)
        """
        self._rotations.check_rotation("tables")
        rotations, given = self._rotations, None
        if inv_freq is not None:
            given = learned.as_given(inv_freq)
            rotations = rotations.given(tuple(given.shape))
        (own,) = rotations.roles(role, 1)
        spec = rotations.spec
        return lookup.cos_sin(
            rotations.passes("call", own).angles[0]._replace(frequencies=spec.frequencies),
            positions,
            has_position_axes=spec.has_position_axes,
            dtype=as_table_dtype(dtype),
            limit=spec.limit,
            given=given,
            sections=spec.sections,
        )

    @hints.named
    @compiler.untraced
    def matrix(self, position: PositionsLike, *, role: Role | None = None) -> Float64Array:
        """Return the rotation at one position as a matrix, for reading, teaching and testing.

        Parameters
        ----------
        position : number
            Or one number per position axis, if frequencies are given for several.
        role : {"query", "key"}, optional
            Whether the matrix is for queries or keys, with `decay`.

        Returns
        -------
        float64 array (head_dim, head_dim)
            ``matrix @ x`` is the rotation of x. x has `layout` and the product has `output_layout`. The shape is
            (heads, head_dim, head_dim) if frequencies are given per head.

        Examples
        --------
        >>> import rotary
        >>> rotary.RotaryEmbedding(2, layout="half", base=10_000.0).matrix(1).round(4)
        array([[ 0.5403, -0.8415],
               [ 0.8415,  0.5403]])
        """
        place = as_positions(position, name="position")
        shape = (self._frequencies.axes,) if self._leading else ()
        if place.shape != shape:
            msg = f"`position` must have shape {shape}, got {place.shape}"
            raise ValueError(msg)
        # The rotation of each unit vector is a column of the matrix.
        heads, width = self._frequencies.heads, self.head_dim
        channels = np.broadcast_to(np.eye(width), (1, heads, width, width))
        rows = np.repeat(place[..., None], width, axis=-1)
        rotated = plans.rotate(self, "call", (channels,), rows, None, None, role, -2, 0, None)[0]
        columns: Float64Array = rotated.transpose(0, 2, 1) + 0.0  # no negative zeros
        return columns if heads > 1 else columns[0]


def _window(head_dim: Any, rotary_dim: Any, rotary_start: Any) -> tuple[int, int]:
    """Return the first rotated channel and the number of rotated channels, which must fit the head."""
    width = as_positive_integer(head_dim, "head_dim")
    start = as_integer(rotary_start, "rotary_start")
    if not 0 <= start < width:
        msg = f"`rotary_start` must be one of the {width} channels, from 0 on, got {start}"
        raise ValueError(msg)
    if rotary_dim is None:
        if (width - start) % 2:
            msg = f"`rotary_dim` must be given, for {width - start} channels do not pair, got None"
            raise ValueError(msg)
        return start, width - start
    rotated = as_rotary_dim(rotary_dim, "rotary_dim")
    if start + rotated > width:
        msg = f"`rotary_dim` must be at most {width - start}, the channels from {start} on, got {rotated}"
        raise ValueError(msg)
    return start, rotated


def _checked_scaling(value: Any) -> Scaling:
    """Raise unless the argument is a scaling, and return it."""
    if not isinstance(value, Scaling):
        msg = f"`scaling` must be one of rotary.scaling, got {value!r}"
        raise TypeError(msg)
    return value


def _checked_axis(value: Any, name: str) -> int | None:
    """Raise for the last axis, and return the axis or None."""
    axis = as_axis(value, name)
    if axis == -1:
        msg = f"`{name}` must not be -1, the axis of the channels"
        raise ValueError(msg)
    return axis


def _checked_sections(value: Any, pairs: int) -> Sections:
    """Raise unless the argument gives an axis for each channel pair, and return it as `Sections`."""
    sections = as_sections(value)
    if len(sections.axes) != pairs:
        msg = (
            f"`sections` must give each of the {pairs} pairs an axis, got {len(sections.axes)}; the functions "
            "of rotary.sections make that of sizes"
        )
        raise ValueError(msg)
    return sections


def _checked_decay(value: Any) -> XPos | None:
    """Raise unless the argument is a decay or None, and return it."""
    if value is not None and not isinstance(value, XPos):
        msg = f"`decay` must be a rotary.XPos, got {value!r}"
        raise TypeError(msg)
    return value


def _check_together(rope: Specification) -> None:
    """Raise for combinations of arguments that exclude each other."""
    ndim = rope.inv_freq.ndim
    if rope.decay is not None and rope._leading:
        msg = "`decay` must not be given with several position axes: it scales by one"
        raise ValueError(msg)
    if rope.quirk is None:
        return
    layout = QUIRKS[rope.quirk][0]
    if (rope.layout, rope.output_layout) != (layout, layout):
        msg = f"`layout` must be {layout!r} for the quirk {rope.quirk!r}, got {rope.layout!r}"
        raise ValueError(msg)
    if rope.decay is not None or ndim > 1:
        msg = f"`quirk` must not be given with `decay` or W, got {rope.quirk!r}"
        raise ValueError(msg)
    if rope.quirk == "hunyuan_vl" and rope.sections is None:
        msg = "`sections` must be given for the quirk 'hunyuan_vl', which doubles them"
        raise ValueError(msg)
