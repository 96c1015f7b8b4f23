"""What the shapes of a call's arrays decide, checked once for each set of shapes and then remembered."""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any, NamedTuple

from . import _libraries as libraries
from ._checks import as_integer
from ._typing import Array, TableDType
from .rotation import Axes, Pairing
from .rows import UNKNOWN

SHAPES_REMEMBERED = 1024


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


class Frame(NamedTuple):
    """How one array is rotated: its axes, the channels that pair in each pass, and the dtype it is computed in."""

    axes: Axes
    pairings: tuple[Pairing, ...]
    dtype: TableDType


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


def as_seq_axis(value: Any) -> int | None:
    """Return a sequence axis as an int, or None where none was given."""
    return None if value is None else as_integer(value, "seq_axis")


def table_dtype(dtype: str) -> TableDType:
    """Return the dtype of table and arithmetic: float64 for arrays of that precision."""
    return "float64" if dtype in ("float64", "complex128") else "float32"


@lru_cache(maxsize=SHAPES_REMEMBERED)
def frames_of(
    shapes: tuple[Shape, ...],
    seq_axis: int | None,
    packed: bool,
    head_dim: int,
    pairings: tuple[Pairing, ...],
    heads: int,
) -> tuple[tuple[Frame, ...], int | None, int]:
    """Return how the arrays of a call are rotated, their batch, if any, and their length.

    Parameters
    ----------
    shapes : tuple of Shape
    seq_axis : int or None
        As the caller gave it.
    packed : bool
        Whether sequences lie one after another on the sequence axis.
    head_dim : int
        Channels that arrays must have, complex ones half as many.
    pairings : tuple of Pairing
        In real channels, the first one where the window begins.
    heads : int
        How many heads have frequencies of their own; 1 when all share them.
    """
    frames = []
    for shape in shapes:
        _check_width(shape, head_dim, pairings[0].start)
        axes = axes_of(shape, seq_axis, packed=packed)
        _check_heads(shape, axes, heads)
        own = pairings
        if shape.is_complex:
            own = tuple(each._replace(start=each.start // 2) for each in pairings)
        frames.append(Frame(axes, own, table_dtype(shape.dtype)))
    batch, length = _common_sizes(shapes, frames)
    return tuple(frames), batch, length


def axes_of(shape: Shape, seq_axis: int | None, *, packed: bool = False) -> Axes:
    """Return which axes of an array are its sequence and its batch.

    Parameters
    ----------
    shape : Shape
        Of two or more axes, the last one the channels.
    seq_axis : int or None
        The sequence axis; None is -2 for two and three axes.
    packed : bool
        Whether sequences lie one after another on the sequence axis, which then is by default axis 0,
        and no axis is a batch.
    """
    ndim = len(shape.sizes)
    if ndim < 2:
        msg = (
            f"`{shape.name}` must have a sequence axis and a channel axis at least, as in (S, D), got "
            f"{shape}"
        )
        raise ValueError(msg)
    if seq_axis is None:
        if not packed and ndim > 3:
            msg = (
                f"`seq_axis` must be given for an array of {ndim} axes, such as `{shape.name}` of "
                f"{shape}: -2 for (B, H, S, D), -3 for (B, S, H, D)"
            )
            raise ValueError(msg)
        seq_axis = 0 if packed else -2
    axis = seq_axis + ndim if seq_axis < 0 else seq_axis
    if not 0 <= axis < ndim - 1:
        reason = "is the channels" if axis == ndim - 1 else "does not exist"
        msg = (
            f"`seq_axis` must be an axis of `{shape.name}` before its last, got {seq_axis}, which "
            f"{reason} in {shape}"
        )
        raise ValueError(msg)
    if packed or ndim == 2:
        return Axes(axis, None)
    return Axes(axis, 1 if axis == 0 else 0)


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


def _common_sizes(shapes: tuple[Shape, ...], frames: list[Frame]) -> tuple[int | None, int]:
    """Return batch and length of the arrays, which must agree in both."""
    first = shapes[0]
    batch, length = None, first.sizes[frames[0].axes.sequence]
    if length == UNKNOWN:
        msg = f"`{first.name}` must have a known number of rows, got {first}"
        raise ValueError(msg)
    for shape, frame in zip(shapes, frames, strict=True):
        axes = frame.axes
        if shape.sizes[axes.sequence] != length:
            msg = (
                f"`{shape.name}` must have {length} rows on its sequence axis {axes.sequence}, as "
                f"`{first.name}`, got {shape}; rotate arrays of different lengths apart"
            )
            raise ValueError(msg)
        if axes.batch is None:
            continue
        own = shape.sizes[axes.batch]
        if batch not in (None, own):
            msg = f"`{shape.name}` must have a batch of {batch}, as `{first.name}`, got {shape}"
            raise ValueError(msg)
        batch = own
    return batch, length
