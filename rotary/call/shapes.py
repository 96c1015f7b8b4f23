"""What the shapes of a call's arrays decide, checked once for each set of shapes and then remembered."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from rotary._lib import libraries, memo
from rotary._lib.checks import as_integer
from rotary._lib.libraries import UNKNOWN
from rotary._lib.typing import Array, TableDType
from rotary.backends.contract import ArraySpec, Axes, Pairing

from .rows import PositionShape

SHAPES_REMEMBERED = 1024
# Stands for `batch_axis=False`, which as a key of a dictionary would be taken for axis 0.
NoBatch: TypeAlias = Literal["none"]
NO_BATCH: NoBatch = "none"


class Shape(NamedTuple):
    """What errors call an array, its sizes (UNKNOWN where symbolic), and its dtype's name."""

    name: str
    sizes: tuple[int, ...]
    dtype: str

    @property
    def is_complex(self) -> bool:
        """Whether the array holds complex numbers, one for each pair."""
        return self.dtype.startswith("complex")

    def __str__(self) -> str:
        return f"shape {self.sizes}".replace(str(UNKNOWN), "?")


def shape_of(x: Array, name: str) -> Shape:
    """Return the shape of an array of any library."""
    try:
        return Shape(name, tuple(map(operator.index, x.shape)), libraries.dtype_name(x))
    except TypeError:
        return Shape(name, tuple(map(_size, x.shape)), libraries.dtype_name(x))


def _size(size: Any) -> int:
    """Return a size as an int, UNKNOWN where it is None, NaN or an expression."""
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
    """The axes that a call names, and those that its embedding names for all calls.

    Attributes
    ----------
    seq_axis : int, tuple of int or None, or None
        As given in the call: a tuple has one entry for each array.
    batch_axis : int, NO_BATCH, tuple of these or None, or None
        The same.
    default_seq_axis : int or None
        What holds for arrays of three and more axes if the call names none.
    default_batch_axis : int, NO_BATCH or None
        The same.
    packed : bool
        Whether sequences lie one after another on the sequence axis. It is then axis 0 unless the call
        says otherwise, and there is no batch.
    """

    seq_axis: int | tuple[int | None, ...] | None = None
    batch_axis: int | NoBatch | tuple[int | NoBatch | None, ...] | None = None
    default_seq_axis: int | None = None
    default_batch_axis: int | NoBatch | None = None
    packed: bool = False


def axis_options(
    seq_axis: Any,
    batch_axis: Any,
    count: int,
    defaults: tuple[int | None, int | NoBatch | None] = (None, None),
    *,
    packed: bool = False,
) -> AxisOptions:
    """Return the axes that a call of so many arrays names, checked as far as that needs no shape."""
    own_seq = _checked_entries(seq_axis, "seq_axis", count, as_seq_axis)
    own_batch = _checked_entries(batch_axis, "batch_axis", count, as_batch_axis)
    return AxisOptions(own_seq, own_batch, *defaults, packed)


def _checked_entries(value: Any, name: str, count: int, check: Callable[[Any], Any]) -> Any:
    """Return an axis argument checked: one value for all arrays, or a tuple with one for each."""
    if value is None or type(value) is int:
        return value
    if not isinstance(value, tuple):
        return check(value)
    if len(value) != count:
        msg = f"`{name}` must have one entry for each of the {count} arrays, got {value!r}"
        raise ValueError(msg)
    return tuple(map(check, value))


def table_dtype(dtype: str) -> TableDType:
    """Return the dtype of table and arithmetic: float64 for arrays of that precision."""
    return "float64" if dtype in ("float64", "complex128") else "float32"


@memo.remembered(SHAPES_REMEMBERED)
def array_specs(
    shapes: tuple[Shape, ...],
    options: AxisOptions,
    head_dim: int,
    pairings: tuple[Pairing, ...],
    heads: int,
) -> tuple[tuple[ArraySpec, ...], tuple[PositionShape, ...], int]:
    """Return how the arrays of a call are rotated, what their positions must fit, and their length.

    Parameters
    ----------
    shapes : tuple of Shape
    options : AxisOptions
        As `axis_options` returns them.
    head_dim : int
        Channels that arrays must have, complex ones half as many.
    pairings : tuple of Pairing
        In real channels, the first one where the window begins.
    heads : int
        How many heads have frequencies of their own; 1 when all share them.
    """
    for shape in shapes:
        _check_width(shape, head_dim, pairings[0].start)
    axes = axes_of(shapes, options)
    frames = []
    for shape, own_axes in zip(shapes, axes, strict=True):
        _check_heads(shape, own_axes, heads)
        own = pairings
        if shape.is_complex:
            own = tuple(each._replace(start=each.start // 2) for each in pairings)
        frames.append(ArraySpec(own_axes, own, table_dtype(shape.dtype)))
    fits = tuple(
        PositionShape(shape.name, shape.sizes[:-1], own_axes)
        for shape, own_axes in zip(shapes, axes, strict=True)
    )
    return tuple(frames), fits, _common_length(shapes, axes)


def axes_of(shapes: Sequence[Shape], options: AxisOptions) -> list[Axes]:
    """Return which axes of each array are its sequence and its batch.

    The batch is axis 0, or axis 1 if the sequence is axis 0, unless the options name it. An array of
    three axes whose sequence is axis 0, such as (S, H, D), has none.
    """
    _check_one_meaning(shapes, options)
    found = []
    for i, shape in enumerate(shapes):
        if len(shape.sizes) < 2:
            msg = (
                f"`{shape.name}` must have a sequence axis and a channel axis at least, as in (S, D), got "
                f"{shape}"
            )
            raise ValueError(msg)
        sequence = _sequence_of(shape, _entry(options.seq_axis, i), options)
        found.append(
            Axes(sequence, _batch_of(shape, sequence, _entry(options.batch_axis, i), options))
        )
    return found


def _entry(value: Any, i: int) -> Any:
    """Return what an axis argument says of one array."""
    return value[i] if isinstance(value, tuple) else value


def _check_one_meaning(shapes: Sequence[Shape], options: AxisOptions) -> None:
    """Raise if one negative axis would name different axes of arrays of different rank."""
    several = [shape for shape in shapes if len(shape.sizes) > 2]
    for name, given, default in (
        ("seq_axis", options.seq_axis, options.default_seq_axis),
        ("batch_axis", options.batch_axis, options.default_batch_axis),
    ):
        if given is None and options.packed:
            continue
        axis, concerned = (default, several) if given is None else (given, shapes)
        if type(axis) is not int or axis >= 0:
            continue
        for shape in concerned[1:]:
            first = concerned[0]
            if len(shape.sizes) != len(first.sizes):
                msg = (
                    f"`{name}` must not be negative for arrays of different rank, got {axis} for "
                    f"`{first.name}` of {first} and `{shape.name}` of {shape}: it names another axis of "
                    "each. Give a non-negative axis, or a tuple with one axis for each array"
                )
                raise ValueError(msg)


def _sequence_of(shape: Shape, asked: int | None, options: AxisOptions) -> int:
    """Return the sequence axis of an array, given what the call asks for."""
    ndim = len(shape.sizes)
    if asked is None and (options.packed or ndim == 2):
        return 0
    if asked is None and options.default_seq_axis is None:
        msg = f"`seq_axis` must be given for an array of {ndim} axes, such as `{shape.name}` of {shape}: "
        msg += (
            "0 for (S, H, D), 1 for (B, S, D)"
            if ndim == 3
            else "-2 for (B, H, S, D), -3 for (B, S, H, D)"
        )
        raise ValueError(msg)
    given = options.default_seq_axis if asked is None else asked
    assert given is not None
    return _checked_axis(given, "seq_axis", shape)


def _batch_of(
    shape: Shape, sequence: int, asked: int | NoBatch | None, options: AxisOptions
) -> int | None:
    """Return the batch axis of an array, or None, given what the call asks for."""
    ndim = len(shape.sizes)
    if options.packed:
        if asked not in (None, NO_BATCH):
            msg = f"`batch_axis` must not be given with `cu_seqlens`, got {asked}: packed arrays have no batch"
            raise ValueError(msg)
        return None
    if asked is None and ndim > 2:
        asked = options.default_batch_axis
    if asked == NO_BATCH:
        return None
    if asked is None:
        if ndim > 3:
            return 1 if sequence == 0 else 0
        return 0 if ndim == 3 and sequence == 1 else None
    assert isinstance(asked, int)
    axis = _checked_axis(asked, "batch_axis", shape)
    if axis == sequence:
        msg = (
            f"`batch_axis` must not be the sequence axis of `{shape.name}`, got {asked} for {shape}"
        )
        raise ValueError(msg)
    return axis


def _checked_axis(given: int, name: str, shape: Shape) -> int:
    """Return a non-negative axis of an array, which is not its last."""
    ndim = len(shape.sizes)
    axis = given + ndim if given < 0 else given
    if not 0 <= axis < ndim - 1:
        reason = "is the axis of the channels" if axis == ndim - 1 else "does not exist"
        msg = (
            f"`{name}` must be an axis of `{shape.name}` before its last, got {given}, which {reason} in "
            f"{shape}"
        )
        raise ValueError(msg)
    return axis


def _check_width(shape: Shape, head_dim: int, start: int) -> None:
    """Raise unless an array has the channels of a head."""
    width, kind = head_dim, "channels"
    if shape.is_complex:
        if head_dim % 2 or start % 2:
            msg = (
                f"`{shape.name}` must be real, for complex channels are pairs: the embedding has "
                f"{head_dim} channels and turns those from {start} on, which must both be even"
            )
            raise ValueError(msg)
        width, kind = head_dim // 2, "complex channels, one for each pair,"
    if shape.sizes and shape.sizes[-1] != width:
        msg = f"`{shape.name}` must have {width} {kind} on its last axis, got {shape}"
        raise ValueError(msg)


def _check_heads(shape: Shape, axes: Axes, heads: int) -> None:
    """Raise unless an array has the heads that frequencies are given for."""
    sizes = [shape.sizes[axis] for axis in axes.others(len(shape.sizes))]
    if heads > 1 and sizes != [heads]:
        msg = (
            f"`{shape.name}` must have one axis of {heads} heads, since the frequencies are given per "
            f"head, got {shape}"
        )
        raise ValueError(msg)


def _common_length(shapes: Sequence[Shape], axes: Sequence[Axes]) -> int:
    """Return the size of the sequence, which all arrays must share."""
    first = shapes[0]
    length = first.sizes[axes[0].sequence]
    if length == UNKNOWN:
        msg = f"`{first.name}` must have a known number of rows, got {first}"
        raise ValueError(msg)
    for shape, own in zip(shapes, axes, strict=True):
        if shape.sizes[own.sequence] != length:
            msg = (
                f"`{shape.name}` must have {length} rows on its sequence axis {own.sequence}, as "
                f"`{first.name}`, got {shape}; rotate arrays of different lengths apart"
            )
            raise ValueError(msg)
    return length
