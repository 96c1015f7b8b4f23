"""The contract of the backends: how `rotary.call` describes a call, and how a backend plans and runs it.

A plan holds everything that follows from the shapes, strides and dtypes of a call and from the embedding. The plan
is then called with arrays and positions, for the first call of a kind and for every later one. Only
`rotary.call.plans` looks up, makes and runs plans.

No code changes these values. They are not frozen, because a frozen dataclass takes several times as long to make.
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
from rotary.angles.learned import GivenFrequencies
from rotary.layouts import Layout


class Pairing(NamedTuple):
    """The channels that one pass rotates, and how they pair.

    `start` is the first rotated channel of the array, and `pairs` the number of channel pairs. A complex array
    has one channel per pair. Pairs are read in the layout `source` and written in the layout `target`.
    """

    start: int
    pairs: int
    source: Layout
    target: Layout
    inverse: bool = False

    def transposed(self) -> Pairing:
        """Return the pairing of the transposed rotation, for gradients."""
        return self._replace(source=self.target, target=self.source, inverse=not self.inverse)


class Scale(NamedTuple):
    """The xPos scale of each token and channel pair: ``zeta ** ((position - center) / unit)``."""

    zeta: tuple[float, ...]
    center: float
    unit: float


class Angles(NamedTuple):
    """The parameters of a table of cosine and sine, besides positions and dtype.

    The frequencies may be `GivenFrequencies`, whose numbers come with every call: see `at`.
    """

    frequencies: Any
    factor: float
    scale: Scale | None = None

    def at(self, rows: RowPositions) -> Angles:
        """Return the same with the frequencies of a call, which its rows hold if it gives some."""
        given = isinstance(self.frequencies, GivenFrequencies)
        return self._replace(frequencies=self.frequencies.of(rows.frequencies)) if given else self


class Passes(NamedTuple):
    """The passes over an array: each rotates the channels of one pairing by one set of angles.

    If `second_angles` is given, it applies to the second channel of each pair, and `angles` to the first. This is
    not a rotation, but some checkpoints were trained with it. There is only one pass then.
    """

    pairings: tuple[Pairing, ...]
    angles: tuple[Angles, ...]
    second_angles: Angles | None = None


class Axes(NamedTuple):
    """The axes of an array along which its positions may differ, all non-negative.

    Attributes
    ----------
    sequence : int
    batch : int or None
        The axis besides the sequence that kernels iterate over. It is the batch axis of the array, or another axis
        along which positions differ.
    extra : tuple of int
        Further axes along which positions differ. They are the first axes of the index of a table, in this order.
    """

    sequence: int
    batch: int | None
    extra: tuple[int, ...] = ()

    def head_axes(self, ndim: int) -> list[int]:
        """Return the axes along which all elements have the same position, usually that of heads."""
        differing = (self.sequence, self.batch, *self.extra)
        return [axis for axis in range(ndim - 1) if axis not in differing]

    def for_positions(
        self, shape: tuple[int, ...], *, by_head: bool
    ) -> tuple[Axes, tuple[int, ...]]:
        """Return the axes to use for positions that have one axis for each axis of the array but its last.

        Parameters
        ----------
        shape : tuple of int
            Shape of the positions without position axes: the size of each axis of the array, or 1.
        by_head : bool
            Whether frequencies also differ by head.

        Returns
        -------
        axes : Axes
        order : tuple of int
            The axes of `shape` to keep: those of `extra`, the batch if positions differ along it, and the sequence.
        """
        differing = [axis for axis, size in enumerate(shape) if size != 1 and axis != self.sequence]
        batch = self.batch
        if differing and not by_head:
            # One kernel call iterates over the batch, but each index of the extra axes needs a call.
            batch = max(differing, key=lambda axis: shape[axis])
        extra = tuple(axis for axis in differing if axis != batch)
        kept_batch = () if batch not in differing else (batch,)
        return Axes(self.sequence, batch, extra), (*extra, *kept_batch, self.sequence)

    def without_extra(self) -> Axes:
        """Return the axes of the slice of the array at one index of `extra`."""
        sequence, batch = (
            None if axis is None else axis - sum(other < axis for other in self.extra)
            for axis in (self.sequence, self.batch)
        )
        assert sequence is not None
        return Axes(sequence, batch)

    def at(self, index: tuple[int, ...], ndim: int) -> tuple[int | slice, ...]:
        """Return the index of the slice of an array of `ndim` axes at an index of `extra`."""
        index_of = dict(zip(self.extra, index, strict=True))
        return tuple(index_of.get(axis, slice(None)) for axis in range(ndim))

    def table_order(self, ndim: int) -> tuple[list[int], list[int | None]]:
        """Return how to broadcast a table (heads, *extra, batch, sequence, pairs) against an array of `ndim` axes.

        Returns
        -------
        order : list of int
            Axis order of the table: first the axes that the array lacks, then the others in the order of the array.
        table_axes : list of int or None
            The axis of the table for each axis of the array but its last, or None if the table has size 1 there.
        """
        heads = self.head_axes(ndim)
        last = len(self.extra) + 2
        of_axis = {heads[0] if heads else None: 0, self.batch: last - 1, self.sequence: last}
        of_axis.update({axis: table_axis for table_axis, axis in enumerate(self.extra, 1)})
        table_axes = [of_axis.get(axis) for axis in range(ndim - 1)]
        present = [table_axis for table_axis in table_axes if table_axis is not None]
        absent = [table_axis for table_axis in range(last + 1) if table_axis not in present]
        return [*absent, *present, last + 1], table_axes


class ArraySpec(NamedTuple):
    """The axes of one array, the channels that each pass rotates, and the compute dtype."""

    axes: Axes
    pairings: tuple[Pairing, ...]
    dtype: TableDType


class ArrayNorm(NamedTuple):
    """How one array is normed.

    Attributes
    ----------
    weight : int or None
        Which of the weights it is multiplied by, None if by none.
    shape : tuple of int
        The shape by which the weight broadcasts along the array.
    heads : int or None
        The axis of heads if squares are summed over it and the channels, None if over the channels alone.
    squares : int
        How many squares are summed.
    """

    weight: int | None
    shape: tuple[int, ...]
    heads: int | None
    squares: int


class Norm(NamedTuple):
    """How the arrays of a call are normed, before or after they are rotated: everything but the weights.

    Attributes
    ----------
    eps : float
    mean : bool
        Whether the mean of the squares counts, or their sum.
    unit_offset : bool
        Whether one is added to the weights.
    after : bool
        Whether the norm follows the rotation.
    arrays : tuple of ArrayNorm or None
        For each array; None if it is only rotated.
    """

    eps: float
    mean: bool
    unit_offset: bool
    after: bool
    arrays: tuple[ArrayNorm | None, ...]


class GpuView(NamedTuple):
    """An array in GPU memory as the kernels address it; its values are not read.

    `strides` are in bytes, `device` is the index of the GPU, and `owner` is the object that keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int
    owner: Any

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def permuted(self, order: tuple[int, ...]) -> GpuView:
        """Return the same memory with the given axes in this order; omitted axes have size 1."""
        return self._replace(
            shape=tuple(self.shape[axis] for axis in order),
            strides=tuple(self.strides[axis] for axis in order),
        )

    def at(self, index: tuple[int, ...]) -> GpuView:
        """Return the slice at an index of the axes after the first one."""
        axes = range(1, len(index) + 1)
        offset = sum(i * self.strides[axis] for i, axis in zip(index, axes, strict=True))
        kept = (0, *range(len(index) + 1, self.ndim))
        return self._replace(address=self.address + offset).permuted(kept)

    def with_axes(self, shape: tuple[int, ...]) -> GpuView:
        """Return the same memory with axes of size 1 inserted or dropped; -1 keeps the size of an axis."""
        kept = iter([each for each in zip(self.shape, self.strides, strict=True) if each[0] != 1])
        axes = [(1, 0) if size == 1 else next(kept, (1, 0)) for size in shape]
        return self._replace(
            shape=tuple(size for size, _ in axes), strides=tuple(stride for _, stride in axes)
        )


def reorder_axes(
    values: Array | GpuView, axes: Axes, order: tuple[int, ...], *, lead: int, tail: int
) -> Array | GpuView:
    """Return positions or tables with their axes in the order (*extra, batch or 1, sequence).

    Parameters
    ----------
    values : array or GpuView
        Positions or tables with one axis for each axis of an array but its last. `lead` other axes come before
        these and `tail` after them, and keep their places.
    axes, order
        As `Axes.for_positions` returns them.
    lead, tail : int
        The numbers of other axes.
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
    """The positions of the tokens of an array, one for each row of channels.

    Attributes
    ----------
    positions : int64 or float64 array (axes, *extra, 1 or batch, 1 or sequence)
        A NumPy array if the values are known on the host. Traced positions are an array of their library, and
        positions on a GPU a `GpuView` of any dtype. `extra` are the extra axes of `Axes`.
    start : int or None
        The first position, if positions are consecutive integers known on the host. `positions` is then unused.
    length : int
        The sequence length.
    limit : int or None
        Exclusive upper limit for positions that the host cannot read. The others are already checked.
    consecutive : bool
        Whether `positions` has only the first position of each sequence, and the others follow consecutively.
        This field and `bounds` are for GPUs only.
    bounds : int64 array (n + 1,) or GpuView, or None
        The first token of each of n packed sequences, and the end of the last one. Each sequence counts from its
        own first position; `positions` has the shape (axes, n or 1, 1).
    per_array_axis : bool
        Whether `positions` has the shape (axes, *sizes), with the size of each axis of the array but its last,
        or 1. `for_array` returns the ordinary form for one array.
    by_head : bool
        Whether both positions and frequencies differ by head. The axis of heads is then the only extra axis.
    no_overflow : bool array (1 or batch, sequence) or None
        For sums of traced integers: whether the position of each token fits their dtype.
    frequencies : array (heads, axes, pairs) or None
        The frequencies of all pairs, if the call gives them. A NumPy array if the host knows the values.
    """

    positions: Array | GpuView | None
    start: int | None
    length: int
    limit: int | None = None
    consecutive: bool = False
    bounds: HostArray | GpuView | None = None
    per_array_axis: bool = False
    by_head: bool = False
    no_overflow: Array | None = None
    frequencies: Array | None = None

    def for_array(self, axes: Axes, heads: int) -> tuple[RowPositions, Axes]:
        """Return the positions of one array in the ordinary form, and its axes adapted to them.

        `heads` is the number of heads that have frequencies, 1 if all heads share them.
        """
        if not self.per_array_axis:
            return self, axes
        assert self.positions is not None
        adapted, order = axes.for_positions(tuple(self.positions.shape[1:]), by_head=heads > 1)
        positions = reorder_axes(self.positions, adapted, order, lead=1, tail=0)
        by_head = heads > 1 and bool(adapted.extra)
        rows = replace(self, positions=positions, per_array_axis=False, by_head=by_head)
        return rows, adapted

    def at(self, index: tuple[int, ...]) -> RowPositions:
        """Return the positions at one index of the extra axes."""
        positions = self.positions
        if isinstance(positions, GpuView):
            return replace(self, positions=positions.at(index), by_head=False)
        assert positions is not None
        return replace(self, positions=positions[(slice(None), *index)], by_head=False)

    def part(self, batch: slice, sequence: slice) -> RowPositions:
        """Return the positions of a block. Each slice has a start and a stop, or is ``slice(None)``."""
        first, last, _ = sequence.indices(self.length)
        if self.start is not None:
            start = self.start + first
            return RowPositions(None, start, last - first, frequencies=self.frequencies)
        assert isinstance(self.positions, np.ndarray)
        positions = self.positions
        if positions.shape[-2] > 1:
            positions = positions[..., batch, :]
        if positions.shape[-1] > 1:
            positions = positions[..., sequence]
        return RowPositions(
            positions, None, last - first, by_head=self.by_head, frequencies=self.frequencies
        )

    @property
    def unknown(self) -> dict[str, Array]:
        """The positions and frequencies that the host does not know, by the name of the argument."""
        found: dict[str, Array] = {}
        if self.start is None and not isinstance(self.positions, np.ndarray):
            found["positions"] = self.positions
        if self.frequencies is not None and not isinstance(self.frequencies, np.ndarray):
            found["inv_freq"] = self.frequencies
        return found

    @property
    def traced(self) -> bool:
        """Whether the host does not know positions or frequencies: they are traced, learned, or on a GPU."""
        return bool(self.unknown)

    def written_out(self, axes: int) -> HostArray:
        """Return known positions as an array, consecutive ones as (axes, 1, sequence)."""
        if self.start is None:
            assert isinstance(self.positions, np.ndarray)
            return self.positions
        line = self.start + np.arange(self.length, dtype=np.int64)
        return np.broadcast_to(line, (axes, 1, self.length))


@dataclass(slots=True)
class Table:
    """Cosine and sine, and the table row for each index of batch and sequence.

    `values` has the shape (2, heads or 1, rows, pairs). Batch element b and token s use the row
    ``index[..., b, s] + step * s``. Each of these two axes of `index` may have size 1; extra axes come before them.
    """

    values: HostArray
    index: Int64Array
    step: int
    length: int

    def heads(self, heads: slice) -> Table:
        """Return the table for a slice of the heads."""
        return replace(self, values=np.ascontiguousarray(self.values[:, heads]))

    def at_extra(self, slices: Sequence[slice]) -> Table:
        """Return the table for a block of the extra axes."""
        return replace(self, index=np.ascontiguousarray(self.index[tuple(slices)]))

    def gather(self) -> HostArray:
        """Return cosine and sine of each token, (2, heads or 1, *extra, 1 or batch, 1 or sequence, pairs).

        Consecutive rows are a view of the table.
        """
        if self.index.size == 1 and self.step:
            first = int(self.index[0, 0])
            return self.values[:, :, None, first : first + self.length]
        rows = self.index + self.step * np.arange(self.length) if self.step else self.index
        gathered: HostArray = self.values[:, :, rows]
        return gathered


# The fields of a table that a kernel reads: values, index, the first position of the values, their end, and step.
TableRows: TypeAlias = tuple[HostArray, HostArray, int, int, int]


@dataclass(slots=True)
class TracedTable:
    """Cosine and sine as arrays of a library, (heads or 1, *extra, batch or 1, sequence or 1, pairs)."""

    cosine: Array
    sine: Array


@dataclass(slots=True)
class DeferredTable:
    """The table of a lazy array: looked up for each block when the block is computed."""

    look_up: Callable[[RowPositions], Table]
    rows: RowPositions

    def part(self, batch: slice, sequence: slice) -> Table:
        """Return the table of a block of batch and sequence."""
        return self.look_up(self.rows.part(batch, sequence))


# ------------------------------------------------------------------------------------------------
# Backends and their plans.

# Types of position arguments that are not arrays of another library.
HOST_POSITION_TYPES = (NoneType, int, float, list, tuple, np.ndarray, np.generic)
# `positions`, `offset`, `cu_seqlens`, `delta` and `inv_freq` as the user gave them, or None; or the user's `cos` and
# `sin`.
PositionArgs: TypeAlias = tuple[Any, ...]


class Call(NamedTuple):
    """A call as a backend plans it: everything but the values of arrays and positions.

    A backend imports no module above it. The call hands in the functions that it needs from there.

    Attributes
    ----------
    arrays, outputs : sequence of array
        The arrays of the first call of this kind, checked. A plan reads their shapes, strides and dtypes, and keeps
        no reference to them. `outputs` is None if the call has no `out`.
    names : tuple of str
        The name of each array in error messages.
    passes : tuple of Passes
        The passes over each array.
    specs : tuple of ArraySpec
        The axes, channels and compute dtype of each array.
    position_shapes : PositionShapes
        The shapes that positions may have (`rotary.call.rows`).
    limit : int or None
        Exclusive upper limit of positions. `read` checks it for known values. A shift has deltas and no positions,
        so its limit is so low that no kernel uses a cached table for it.
    read : callable
        Reads and checks the position arguments of a call, given `PositionShapes`, and returns `RowPositions`.
    tables : callable
        Returns tables, given a sequence of (angles, `RowPositions`, dtype).
    table_reader : callable
        Returns an object that reads the cached table of angles in a dtype for consecutive positions, or None if
        there is no such table.
    check_outputs : callable
        Raises if an output is read-only or overlaps other memory.
    transpose : callable
        Returns the gradients of arrays, given those of the results and the position arguments. A result that was not
        used has None, as its array.
    norm : Norm or None
        How the arrays are normed. The plan is then called with the weights, of which it keeps none.
    """

    arrays: Sequence[Array]
    outputs: Sequence[Array] | None
    names: tuple[str, ...]
    passes: tuple[Passes, ...]
    specs: tuple[ArraySpec, ...]
    position_shapes: Any
    limit: int | None
    read: Callable[[PositionArgs, Any], RowPositions]
    tables: Callable[[Sequence[tuple[Angles, RowPositions, TableDType]]], list[Table | TracedTable]]
    table_reader: Callable[[Angles, TableDType], Any]
    check_outputs: Callable[[Sequence[Array], Sequence[Array]], None]
    transpose: Callable[[Sequence[Array | None], PositionArgs], Sequence[Array | None]]
    norm: Norm | None = None

    def table(self, angles: Angles, rows: RowPositions, dtype: TableDType) -> Table | TracedTable:
        """Return the table of angles at positions, in a dtype."""
        (table,) = self.tables([(angles, rows, dtype)])
        return table


class TablesCall(NamedTuple):
    """A call with cosine and sine in place of positions, as a backend plans it.

    Attributes
    ----------
    array, output : array
        The array of the first call of this kind, checked as in `Call`, and its output. `output` is None if the call
        has no `out`.
    tables : tuple of array
        Cosine and sine of the first call.
    spec : ArraySpec
        The axes along which the tables differ, the channels of the one pass, and the compute dtype.
    on_host : bool
        Whether the array and the tables are known on the host.
    read : callable
        Takes the array and both tables of a call. Returns a `Table` if they are known on the host, and otherwise a
        `TracedTable` of the library of the array.
    check_output : callable
        Takes the array, both tables and the output. Raises if the output is read-only or overlaps other memory.
    """

    array: Array
    tables: tuple[Array, Array]
    output: Array | None
    spec: ArraySpec
    on_host: bool
    read: Callable[[Array, tuple[Array, Array]], Table | TracedTable]
    check_output: Callable[[Array, tuple[Array, Array], Array], None]

    def without_arrays(self) -> TablesCall:
        """Return the call without its arrays, because plans outlive calls."""
        return self._replace(array=None, tables=(None, None), output=None)


class Gradients(NamedTuple):
    """The gradients of a loss by what a rotation is made of, None for those that nobody wants.

    `arrays` are those by the rotated arrays. The others are float64, or the widest dtype of their library. `positions`
    has the axes of `RowPositions.positions`, or is (axes, 1, sequence), and `inv_freq` is (heads, axes, pairs).
    """

    arrays: Sequence[Array] | None
    positions: Array | None
    inv_freq: Array | None


class GradientPlan(Protocol):
    """What computes the gradients of a rotation, for arrays of certain shapes, strides and dtypes."""

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None, /
    ) -> Gradients:
        """Return the gradients, given those of the results and then what was rotated.

        Outputs receive the gradients of the arrays. Errors are raised before the first byte is written.
        """


class Plan(Protocol):
    """A function that rotates arrays of the shapes, strides and dtypes that it was made for."""

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None, /
    ) -> Sequence[Array]:
        """Return one result for each array, which is its output if outputs are given.

        All errors are raised before the first byte is written. The plan of a call with a norm takes the weights as its
        last argument.
        """


class Backend(Protocol):
    """A module that plans the calls on arrays of certain libraries."""

    def plan(self, call: Call) -> Plan:
        """Return the plan of a call."""

    def plan_with_tables(self, call: TablesCall) -> Plan:
        """Return the plan of a call with cosine and sine in place of positions."""
