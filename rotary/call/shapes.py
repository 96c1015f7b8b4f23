"""Checks of array shapes and of the axis arguments, cached for each set of shapes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from rotary._lib import libraries, memo
from rotary._lib.checks import as_integer
from rotary._lib.libraries import UNKNOWN
from rotary._lib.typing import Array, TableDType
from rotary.backends.contract import ArraySpec, Axes, Pairing

from .rows import PositionShape

MAX_CACHED_SHAPES = 1024
# Replaces `batch_axis=False` in dictionary keys, because False equals 0.
NoBatch: TypeAlias = Literal["none"]
NO_BATCH: NoBatch = "none"


class NamedShape(NamedTuple):
    """The name of an array in error messages, its sizes (UNKNOWN if symbolic), and the name of its dtype."""

    name: str
    sizes: tuple[int, ...]
    dtype: str

    @property
    def is_complex(self) -> bool:
        """Whether the array is complex, with one channel per pair."""
        return self.dtype.startswith("complex")

    def __str__(self) -> str:
        return f"shape {self.sizes}".replace(str(UNKNOWN), "?")


def shape_of(x: Array, name: str) -> NamedShape:
    """Return the shape of an array of any library."""
    try:
        return NamedShape(name, tuple(map(operator.index, x.shape)), libraries.dtype_name(x))
    except TypeError:
        return NamedShape(name, tuple(map(_size, x.shape)), libraries.dtype_name(x))


def _size(size: Any) -> int:
    """Return a size as an int, or UNKNOWN if it is None, NaN or an expression."""
    try:
        return operator.index(size)
    except TypeError:
        return UNKNOWN


def as_axis(value: Any, name: str) -> int | None:
    """Return an axis as an int, or None if none was given."""
    return None if value is None else as_integer(value, name)


def as_seq_axis(value: Any) -> int | None:
    """Return a sequence axis as an int, or None if none was given."""
    return as_axis(value, "seq_axis")


def as_batch_axis(value: Any) -> int | NoBatch | None:
    """Return a batch axis as an int, as NO_BATCH for False, or None if none was given."""
    return NO_BATCH if value is False else as_axis(value, "batch_axis")


class AxisOptions(NamedTuple):
    """The axis arguments of a call, and the defaults of its embedding.

    Attributes
    ----------
    seq_axis : int, tuple of int or None, or None
        The argument of the call. A tuple has one entry for each array.
    batch_axis : int, NO_BATCH, tuple of these or None, or None
        The argument of the call. A tuple has one entry for each array.
    default_seq_axis : int or None
        Default for arrays with three or more axes.
    default_batch_axis : int, NO_BATCH or None
        Default for arrays with three or more axes.
    packed : bool
        Whether the call has packed sequences. The sequence axis is then 0 unless the call gives another one, and
        there is no batch.
    """

    seq_axis: int | tuple[int | None, ...] | None = None
    batch_axis: int | NoBatch | tuple[int | NoBatch | None, ...] | None = None
    default_seq_axis: int | None = None
    default_batch_axis: int | NoBatch | None = None
    packed: bool = False

    def as_given(self) -> tuple[Any, Any]:
        """Return `seq_axis` and `batch_axis` for another call on these arrays, as values that nobody can change."""
        batch = self.batch_axis
        if isinstance(batch, tuple):
            return self.seq_axis, tuple([False if each == NO_BATCH else each for each in batch])
        return self.seq_axis, False if batch == NO_BATCH else batch


def axis_options(
    seq_axis: Any,
    batch_axis: Any,
    count: int,
    defaults: tuple[int | None, int | NoBatch | None] = (None, None),
    *,
    packed: bool = False,
) -> AxisOptions:
    """Return the axis arguments of a call on `count` arrays, after the checks that need no shapes."""
    return AxisOptions(
        _checked_entries(seq_axis, "seq_axis", count, as_seq_axis),
        _checked_entries(batch_axis, "batch_axis", count, as_batch_axis),
        *defaults,
        packed,
    )


def axes_key(seq_axis: Any, batch_axis: Any, count: int) -> tuple[Hashable, ...]:
    """Return the axes that a call names as parts of a plan's key, in which False and 0 differ."""
    if (seq_axis is None or type(seq_axis) is int) and batch_axis is None:
        return seq_axis, None
    options = axis_options(seq_axis, batch_axis, count)
    return options.seq_axis, options.batch_axis


def _checked_entries(value: Any, name: str, count: int, check: Callable[[Any], Any]) -> Any:
    """Return a checked axis argument: one value for all arrays, or a tuple with one for each."""
    if value is None or type(value) is int:
        return value
    if not isinstance(value, tuple):
        return check(value)
    if len(value) != count:
        msg = f"`{name}` must have one entry for each of the {count} arrays, got {value!r}"
        raise ValueError(msg)
    return tuple(map(check, value))


def compute_dtype(dtype: str) -> TableDType:
    """Return the dtype of tables and arithmetic for arrays of a dtype."""
    return "float64" if dtype in ("float64", "complex128") else "float32"


@memo.remembered(MAX_CACHED_SHAPES)
def array_specs(
    shapes: tuple[NamedShape, ...],
    options: AxisOptions,
    head_dim: int,
    pairings: tuple[Pairing, ...],
    heads: int,
) -> tuple[tuple[ArraySpec, ...], tuple[PositionShape, ...], int]:
    """Return an `ArraySpec` and a `PositionShape` for each array of a call, and the common sequence length.

    Parameters
    ----------
    shapes : tuple of NamedShape
    options : AxisOptions
        As `axis_options` returns them.
    head_dim : int
        The number of channels on the last axis of a real array; a complex array has half as many.
    pairings : tuple of Pairing
        The pairing of each pass, counted in real channels. The first one starts at the first rotated channel.
    heads : int
        The number of heads that have frequencies, or 1 if all heads share them.
    """
    for shape in shapes:
        _check_width(shape, head_dim, pairings[0].start)
    axes = axes_of(shapes, options)
    complex_pairings = tuple(each._replace(start=each.start // 2) for each in pairings)
    specs = []
    for shape, array_axes in zip(shapes, axes, strict=True):
        _check_heads(shape, array_axes, heads)
        array_pairings = complex_pairings if shape.is_complex else pairings
        specs.append(ArraySpec(array_axes, array_pairings, compute_dtype(shape.dtype)))
    position_shapes = tuple(
        PositionShape(shape.name, shape.sizes[:-1], array_axes)
        for shape, array_axes in zip(shapes, axes, strict=True)
    )
    return tuple(specs), position_shapes, _common_length(shapes, axes)


def axes_of(shapes: Sequence[NamedShape], options: AxisOptions) -> list[Axes]:
    """Return the sequence axis and the batch axis of each array.

    Unless the options give it, the batch axis is 0, or 1 if the sequence axis is 0. An array of three axes whose
    sequence axis is 0, such as (S, H, D), has no batch.
    """
    _check_negative_axes(shapes, options)
    axes = []
    for i, shape in enumerate(shapes):
        if len(shape.sizes) < 2:
            msg = f"`{shape.name}` must have at least a sequence axis and a channel axis, as in (S, D), got {shape}"
            raise ValueError(msg)
        sequence = _sequence_of(shape, _entry(options.seq_axis, i), options)
        batch = _batch_of(shape, sequence, _entry(options.batch_axis, i), options)
        axes.append(Axes(sequence, batch))
    return axes


def _entry(value: Any, i: int) -> Any:
    """Return the entry of an axis argument for one array."""
    return value[i] if isinstance(value, tuple) else value


def _check_negative_axes(shapes: Sequence[NamedShape], options: AxisOptions) -> None:
    """Raise if arrays of different rank share one negative axis, because it means another axis in each."""
    not_2d = [shape for shape in shapes if len(shape.sizes) > 2]
    for name, given, default in (
        ("seq_axis", options.seq_axis, options.default_seq_axis),
        ("batch_axis", options.batch_axis, options.default_batch_axis),
    ):
        if given is None and options.packed:
            continue
        axis, affected = (default, not_2d) if given is None else (given, shapes)
        if type(axis) is not int or axis >= 0:
            continue
        for shape in affected[1:]:
            first = affected[0]
            if len(shape.sizes) != len(first.sizes):
                msg = (
                    f"`{name}` must not be negative for arrays of different rank, got {axis} for "
                    f"`{first.name}` of {first} and `{shape.name}` of {shape}: it means a different axis in "
                    "each array. Give a non-negative axis, or a tuple with one axis for each array"
                )
                raise ValueError(msg)


def _sequence_of(shape: NamedShape, given: int | None, options: AxisOptions) -> int:
    """Return the sequence axis of an array: the given one, or the default for its rank."""
    ndim = len(shape.sizes)
    if given is None and (options.packed or ndim == 2):
        return 0
    axis = options.default_seq_axis if given is None else given
    if axis is None:
        msg = f"`seq_axis` must be given for an array of {ndim} axes, such as `{shape.name}` of {shape}: "
        msg += (
            "0 for (S, H, D), 1 for (B, S, D)"
            if ndim == 3
            else "-2 for (B, H, S, D), -3 for (B, S, H, D)"
        )
        raise ValueError(msg)
    return _checked_axis(axis, "seq_axis", shape)


def _batch_of(
    shape: NamedShape, sequence: int, given: int | NoBatch | None, options: AxisOptions
) -> int | None:
    """Return the batch axis of an array, or None: the given one, or the default for its rank."""
    ndim = len(shape.sizes)
    if options.packed:
        if given not in (None, NO_BATCH):
            msg = f"`batch_axis` must not be given with `cu_seqlens`, got {given}: packed arrays have no batch"
            raise ValueError(msg)
        return None
    if given is None and ndim > 2:
        given = options.default_batch_axis
    if given == NO_BATCH:
        return None
    if given is None:
        if ndim > 3:
            return 1 if sequence == 0 else 0
        return 0 if ndim == 3 and sequence == 1 else None
    assert isinstance(given, int)
    axis = _checked_axis(given, "batch_axis", shape)
    if axis == sequence:
        msg = (
            f"`batch_axis` must not be the sequence axis of `{shape.name}`, got {given} for {shape}"
        )
        raise ValueError(msg)
    return axis


def _checked_axis(given: int, name: str, shape: NamedShape) -> int:
    """Return an axis as a non-negative one; raise if it does not exist or is the channel axis."""
    ndim = len(shape.sizes)
    axis = given + ndim if given < 0 else given
    if not 0 <= axis < ndim - 1:
        reason = "is the channel axis" if axis == ndim - 1 else "does not exist"
        msg = (
            f"`{name}` must be an axis of `{shape.name}` other than the last, got {given}, which {reason} in "
            f"{shape}"
        )
        raise ValueError(msg)
    return axis


def _check_width(shape: NamedShape, head_dim: int, start: int) -> None:
    """Raise unless the last axis of an array has the size `head_dim`, or half of it for a complex array."""
    width, kind = head_dim, "channels"
    if shape.is_complex:
        if head_dim % 2 or start % 2:
            msg = (
                f"`{shape.name}` must be real: a complex channel is a pair, so `head_dim` ({head_dim}) and "
                f"`rotary_start` ({start}) would have to be even, got {shape.dtype}"
            )
            raise ValueError(msg)
        width, kind = head_dim // 2, "complex channels, one for each pair,"
    if shape.sizes and shape.sizes[-1] != width:
        msg = f"`{shape.name}` must have {width} {kind} on its last axis, got {shape}"
        raise ValueError(msg)


def _check_heads(shape: NamedShape, axes: Axes, heads: int) -> None:
    """Raise unless an array has one head axis, of the size of frequencies per head."""
    sizes = [shape.sizes[axis] for axis in axes.head_axes(len(shape.sizes))]
    if heads > 1 and sizes != [heads]:
        msg = (
            f"`{shape.name}` must have one axis of {heads} heads, because the frequencies differ by head, got "
            f"{shape}"
        )
        raise ValueError(msg)


def _common_length(shapes: Sequence[NamedShape], axes: Sequence[Axes]) -> int:
    """Return the sequence length; raise unless all arrays share it."""
    first = shapes[0]
    length = first.sizes[axes[0].sequence]
    if length == UNKNOWN:
        msg = f"`{first.name}` must have a known sequence length, got {first}"
        raise ValueError(msg)
    for shape, array_axes in zip(shapes, axes, strict=True):
        if shape.sizes[array_axes.sequence] != length:
            msg = (
                f"`{shape.name}` must have the sequence length of `{first.name}`, {length}, on axis "
                f"{array_axes.sequence}, got {shape}; rotate arrays of different lengths in separate calls"
            )
            raise ValueError(msg)
    return length
