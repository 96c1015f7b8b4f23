"""What a backend is, and the small values that describe a rotation to it.

A backend makes a plan of a call: all that follows from shapes, strides, dtypes and the specification. The plan is
then called with the numbers, in this call and in every later one of its kind. `rotary.call.plans` alone looks
plans up, has them made and runs them.

Nobody writes to these values; they are not frozen because making a frozen one takes several times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from rotary._lib import libraries
from rotary._lib.typing import Array, HostArray, Int64Array, TableDType
from rotary.angles.phases import Frequencies
from rotary.layouts import Layout


class Pairing(NamedTuple):
    """Which channels of an array turn, and how they pair.

    `start` and `pairs` count channels and pairs of the array as its owner sees it: a complex array has
    one channel per pair.
    """

    start: int
    pairs: int
    source: Layout
    target: Layout
    inverse: bool = False

    def transposed(self) -> Pairing:
        """Return the pairing of the transposed rotation, by which gradients go back."""
        return self._replace(source=self.target, target=self.source, inverse=not self.inverse)


class Scale(NamedTuple):
    """A factor of its own for every row and pair: ``roots ** ((position - center) / unit)``."""

    roots: tuple[float, ...]
    center: float
    unit: float


class Angles(NamedTuple):
    """What a table of cosine and sine follows from, besides positions and dtype."""

    frequencies: Frequencies
    factor: float
    scale: Scale | None = None


class Passes(NamedTuple):
    """The passes over an array: for each which channels turn, and by what.

    Where there are `second` angles, the second channel of every pair is made with these and the first one
    with `angles`: that is no rotation, but some checkpoints were trained with it. There is one pass then.
    """

    pairings: tuple[Pairing, ...]
    angles: tuple[Angles, ...]
    second: Angles | None = None


class Axes(NamedTuple):
    """Which axes of an array its positions may depend on, all non-negative.

    Attributes
    ----------
    sequence : int
    batch : int or None
        The one axis besides the sequence on which positions may differ. It is the array's batch, unless
        positions differ by head.
    extra : tuple of int
        Further axes on which positions differ. They lead the index of a table, in this order.
    """

    sequence: int
    batch: int | None
    extra: tuple[int, ...] = ()

    def others(self, ndim: int) -> list[int]:
        """Return the axes along which all elements share their position, as heads usually do."""
        own = (self.sequence, self.batch, *self.extra)
        return [axis for axis in range(ndim - 1) if axis not in own]

    def spread(self, shape: tuple[int, ...], *, by_head: bool) -> tuple[Axes, tuple[int, ...]]:
        """Return the axes for positions of one size for each axis of an array but its last.

        Parameters
        ----------
        shape : tuple of int
            Of the positions, without position axes: the size of each axis of the array, or 1.
        by_head : bool
            Whether frequencies differ by head as well.

        Returns
        -------
        axes : Axes
        order : tuple of int
            Which axes of `shape` differ: those of `extra`, then the batch if it does, and the sequence.
        """
        differing = [axis for axis, size in enumerate(shape) if size != 1 and axis != self.sequence]
        batch = self.batch
        if differing and not by_head:
            # A kernel walks the batch by itself, and is called anew for each index of the other axes.
            batch = max(differing, key=lambda axis: shape[axis])
        extra = tuple(axis for axis in differing if axis != batch)
        own_batch = () if batch not in differing else (batch,)
        return Axes(self.sequence, batch, extra), (*extra, *own_batch, self.sequence)

    def without_extra(self) -> Axes:
        """Return the axes of a slice of the array at an index of `extra`."""
        sequence, batch = (
            None if axis is None else axis - sum(other < axis for other in self.extra)
            for axis in (self.sequence, self.batch)
        )
        assert sequence is not None
        return Axes(sequence, batch)

    def at(self, index: tuple[int, ...], ndim: int) -> tuple[int | slice, ...]:
        """Return what selects the slice of an array of `ndim` axes at an index of `extra`."""
        place = dict(zip(self.extra, index, strict=True))
        return tuple(place.get(axis, slice(None)) for axis in range(ndim))

    def align(self, ndim: int) -> tuple[list[int], list[int | None]]:
        """Return how a table (heads, *extra, batch, sequence, pairs) is laid along an array of `ndim` axes.

        Returns
        -------
        order : list of int
            The table's axes, those the array has not first, then as the array has them.
        places : list of int or None
            For each axis of the array but its last the table's axis, None where the table has size 1.
        """
        heads = self.others(ndim)
        last = len(self.extra) + 2
        of_axis = {heads[0] if heads else None: 0, self.batch: last - 1, self.sequence: last}
        of_axis.update({axis: place for place, axis in enumerate(self.extra, 1)})
        places = [of_axis.get(axis) for axis in range(ndim - 1)]
        had = [place for place in places if place is not None]
        absent = [place for place in range(last + 1) if place not in had]
        return [*absent, *had, last + 1], places


class ArraySpec(NamedTuple):
    """How one array is rotated: its axes, the channels that pair in each pass, and the dtype it is computed in."""

    axes: Axes
    pairings: tuple[Pairing, ...]
    dtype: TableDType


class GpuView(NamedTuple):
    """Memory of a GPU as its kernels see it: where it lies and how, never what it holds.

    `strides` are in bytes, `device` is the number of the GPU, and `owner` what keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int
    owner: Any

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    def permuted(self, order: tuple[int, ...]) -> GpuView:
        """Return the same memory with the named axes in this order; those left out have size 1."""
        return self._replace(
            shape=tuple(self.shape[axis] for axis in order),
            strides=tuple(self.strides[axis] for axis in order),
        )

    def at(self, index: tuple[int, ...]) -> GpuView:
        """Return the part at an index of the axes that follow the first one."""
        axes = range(1, len(index) + 1)
        offset = sum(i * self.strides[axis] for i, axis in zip(index, axes, strict=True))
        kept = (0, *range(len(index) + 1, self.ndim))
        return self._replace(address=self.address + offset).permuted(kept)

    def with_axes(self, shape: tuple[int, ...]) -> GpuView:
        """Return the same memory with axes of size 1 put in or left out; -1 is whatever size it has."""
        sizes = iter([each for each in zip(self.shape, self.strides, strict=True) if each[0] != 1])
        placed = [(1, 0) if size == 1 else next(sizes, (1, 0)) for size in shape]
        return self._replace(
            shape=tuple(size for size, _ in placed), strides=tuple(step for _, step in placed)
        )


def in_order(
    values: Array | GpuView, axes: Axes, order: tuple[int, ...], *, lead: int, tail: int
) -> Array | GpuView:
    """Return positions or tables as `axes` has them: (*extra, batch or 1, sequence).

    Parameters
    ----------
    values : array or GpuView
        With a size or 1 for each axis of an array but its last, between `lead` axes and `tail` axes more.
    axes, order
        As `Axes.spread` returns them.
    lead, tail : int
        How many axes stand before and behind.
    """
    ndim, sizes = len(values.shape), list(values.shape)
    before, behind = range(lead), range(ndim - tail, ndim)
    shape = [sizes[lead + axis] for axis in order]
    if len(order) < len(axes.extra) + 2:
        shape.insert(-1, 1)
    wanted = (*sizes[:lead], *shape, *sizes[ndim - tail :])
    kept = [lead + axis for axis in order]
    if isinstance(values, GpuView):
        return values.permuted((*before, *kept, *behind)).with_axes(wanted)
    rest = [axis for axis in range(lead, ndim - tail) if axis not in kept]
    if type(values) is np.ndarray:
        return values.transpose((*before, *rest, *kept, *behind)).reshape(wanted)
    xp = libraries.namespace(values)
    return xp.reshape(xp.permute_dims(values, (*before, *rest, *kept, *behind)), wanted)


@dataclass(slots=True)
class RowPositions:
    """Where the rows of an array stand.

    Attributes
    ----------
    positions : int64 or float64 array (axes, *extra, 1 or batch, 1 or sequence)
        On the host, or traced, an array of the library that traces it, or a `GpuView` of any dtype. `extra`
        are the further axes on which positions differ, see `Axes`.
    start : int or None
        The first position where the rows count up from there; `positions` is then not read.
    length : int
        How many rows there are.
    limit : int or None
        What positions have to stay below that are not known on the host; known ones were checked.
    counting : bool
        Whether rows count up from `positions`, which are then those of the first row. This and the next
        one are for GPUs only.
    bounds : int64 array (n + 1,) or GpuView, or None
        Where packed sequences begin and the last one ends, each of which counts from zero; `positions`
        are then (axes, n or 1, 1).
    by_axis : bool
        Whether the shape of `positions` is (axes, *sizes), with a size or 1 for each axis of the array
        but its last. `along` returns the ordinary form for one array.
    by_head : bool
        Whether positions and frequencies both differ by head, which is then the one axis of `extra`.
    held : bool array (1 or batch, sequence) or None
        For traced integer positions that were computed by a sum, whether the sum fits their dtype.
    """

    positions: Array | GpuView | None
    start: int | None
    length: int
    limit: int | None = None
    counting: bool = False
    bounds: HostArray | GpuView | None = None
    by_axis: bool = False
    by_head: bool = False
    held: Array | None = None

    def along(self, axes: Axes, heads: int) -> tuple[RowPositions, Axes]:
        """Return the rows of one array in the ordinary form, and its axes, given those of its shape."""
        if not self.by_axis:
            return self, axes
        assert self.positions is not None
        own, order = axes.spread(tuple(self.positions.shape[1:]), by_head=heads > 1)
        positions = in_order(self.positions, own, order, lead=1, tail=0)
        rows = replace(
            self, positions=positions, by_axis=False, by_head=heads > 1 and bool(own.extra)
        )
        return rows, own

    def at(self, index: tuple[int, ...]) -> RowPositions:
        """Return the rows at an index of the extra axes."""
        positions = self.positions
        if isinstance(positions, GpuView):
            return replace(self, positions=positions.at(index), by_head=False)
        assert positions is not None
        return replace(self, positions=positions[(slice(None), *index)], by_head=False)

    def part(self, batch: slice, sequence: slice) -> RowPositions:
        """Return the rows of a block; both slices have a start and a stop, or are of everything."""
        first, last, _ = sequence.indices(self.length)
        if self.start is not None:
            return RowPositions(None, self.start + first, last - first)
        assert isinstance(self.positions, np.ndarray)
        positions = self.positions
        if positions.shape[-2] > 1:
            positions = positions[..., batch, :]
        if positions.shape[-1] > 1:
            positions = positions[..., sequence]
        return RowPositions(positions, None, last - first, by_head=self.by_head)

    @property
    def traced(self) -> bool:
        """Whether the positions are not known on the host."""
        return self.start is None and not isinstance(self.positions, np.ndarray)


@dataclass(slots=True)
class Table:
    """Cosine and sine, and the row that each batch and sequence index reads.

    `values` is (2, heads or 1, rows, pairs); the row for batch b and index s of the sequence is
    ``index[..., b, s] + step * s``, where either axis of the index may have length 1. extra axes lead.
    """

    values: HostArray
    index: Int64Array
    step: int
    length: int

    def heads(self, heads: slice) -> Table:
        """Return the table of some of the heads."""
        return replace(self, values=np.ascontiguousarray(self.values[:, heads]))

    def at_extra(self, where: Sequence[slice]) -> Table:
        """Return the table of a block of the extra axes."""
        return replace(self, index=np.ascontiguousarray(self.index[tuple(where)]))

    def gather(self) -> HostArray:
        """Return the rows themselves, (2, heads or 1, *extra, 1 or batch, 1 or sequence, pairs).

        Rows that follow one another are a view of the table.
        """
        if self.index.size == 1 and self.step:
            first = int(self.index[0, 0])
            return self.values[:, :, None, first : first + self.length]
        rows = self.index + self.step * np.arange(self.length) if self.step else self.index
        gathered: HostArray = self.values[:, :, rows]
        return gathered


# What a kernel reads of a table: values, index, the positions at which the values begin and end, and step.
TableRows: TypeAlias = tuple[HostArray, HostArray, int, int, int]


@dataclass(slots=True)
class TracedTable:
    """Cosine and sine in a library's own arrays, (heads or 1, *extra, batch or 1, sequence or 1, pairs)."""

    cosine: Array
    sine: Array


@dataclass(slots=True)
class DeferredTable:
    """How to look up the table of a block of rows, where and when it is needed."""

    look_up: Callable[[RowPositions], Table]
    rows: RowPositions

    def part(self, batch: slice, sequence: slice) -> Table:
        """Return the table of a block."""
        return self.look_up(self.rows.part(batch, sequence))


# ------------------------------------------------------------------------------------------------
# Backends and their plans.

# What says positions and belongs to no library.
KNOWN = (NoneType, int, float, list, tuple, np.ndarray, np.generic)
# `positions`, `offset`, `cu_seqlens` and `delta` as the call gives them, None if it does not.
PositionArgs: TypeAlias = tuple[Any, Any, Any, Any]


class Call(NamedTuple):
    """A call as a backend plans it: everything but the numbers.

    A backend imports nothing from above it. What it needs from there is handed in here.

    Attributes
    ----------
    arrays, outputs : sequence of array
        Those of the first call of this kind, checked. A plan reads their shapes, strides and dtypes, and keeps no
        reference to them. `outputs` is None if the call gives no `out`.
    names : tuple of str
        What errors call the arrays.
    passes : tuple of Passes
        For each array.
    frames : tuple of ArraySpec
        For each array.
    extent : PositionShapes
        What positions have to fit (`rotary.call.rows`).
    limit : int or None
        The bound that every position must stay below, None if there is none. `read` checks positions whose values
        are known. A shift is given by deltas and no positions, so its bound is below every position.
    read : callable
        Returns `Rows` for the position arguments of a call, checked, given an `PositionShapes`.
    tables : callable
        Returns the tables for several triples of angles, `Rows` and dtype.
    reader : callable
        Returns what reads the cached table of angles in a dtype for positions that count up, None if there is none.
    check_outputs : callable
        Raises unless outputs can hold the results of arrays: read-only ones, and memory that overlaps.
    transpose : callable
        Rotates arrays by the transposed rotation, given the position arguments: gradients go back so.
    """

    arrays: Sequence[Array]
    outputs: Sequence[Array] | None
    names: tuple[str, ...]
    passes: tuple[Passes, ...]
    frames: tuple[ArraySpec, ...]
    extent: Any
    limit: int | None
    read: Callable[[PositionArgs, Any], RowPositions]
    tables: Callable[[Sequence[tuple[Angles, RowPositions, TableDType]]], list[Table | TracedTable]]
    reader: Callable[[Angles, TableDType], Any]
    check_outputs: Callable[[Sequence[Array], Sequence[Array]], None]
    transpose: Callable[[Sequence[Array], PositionArgs], tuple[Array, ...]]

    def table(self, angles: Angles, rows: RowPositions, dtype: TableDType) -> Table | TracedTable:
        """Return the table of angles at rows, in a dtype."""
        (found,) = self.tables([(angles, rows, dtype)])
        return found


class Plan(Protocol):
    """What rotates arrays of certain shapes, strides and dtypes."""

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None, /
    ) -> Sequence[Array]:
        """Return one result for each array; where there are outputs, these, written to.

        Errors are raised before the first byte is written.
        """


class Backend(Protocol):
    """What rotates the arrays of some libraries: a module with this function."""

    def plan(self, call: Call) -> Plan:
        """Return the plan of a call."""
