"""Plans of calls on NumPy arrays: which kernels run on which parts of the arrays, by which tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.libraries import dtype_name
from rotary._lib.typing import HostArray, TableDType
from rotary.backends import library, portable
from rotary.backends.contract import (
    Angles,
    Axes,
    Call,
    Pairing,
    Plan,
    PositionArgs,
    RowPositions,
    Table,
    TableRows,
    TablesCall,
)
from rotary.runtime.pool import SMALLEST, empty_like

from .launch import (
    STORAGE,
    Block,
    Launch,
    as_interleaved,
    is_plain,
    parts_of,
    streaming_size,
)

# Positions that count up stay within int64.
LARGEST = 2**63 - 1
INTEGERS = frozenset(
    map(np.dtype, ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"))
)


def plan(call: Call) -> Plan:
    """Return the plan of a call; that of other libraries' arrays if an array is no rotation of another."""
    if call.passes[0].second_angles is not None:
        return library.plan(call)
    found = HostPlan(call)
    direct: Plan = found if found.direct is None else DirectPlan(call, found, *found.direct)
    return direct


def plan_with_tables(call: TablesCall) -> Plan:
    """Return the plan of a call that gives its tables."""
    return TablesPlan(call)


class Step(NamedTuple):
    """Kernel calls that rotate one array, or two together, in one pass.

    Attributes
    ----------
    launch : Launch
    members : tuple of int
        Which arrays: one twice, or two.
    blocks : list of Block
        The parts of four axes that the kernel takes.
    table : int
        Which of the tables.
    first : bool
        Whether this is the first pass, which reads the arrays. Later ones read the results.
    """

    launch: Launch
    members: tuple[int, int]
    blocks: list[Block]
    table: int
    first: bool


class Wanted(NamedTuple):
    """A table that steps read, of which array's rows, and what reads it from the cache if positions count up."""

    angles: Angles
    dtype: TableDType
    array: int
    reader: Any


class Steps(NamedTuple):
    """What rotates arrays whose positions differ on certain axes."""

    steps: list[Step]
    wanted: list[Wanted]


class Storage:
    """How arrays and outputs of certain strides and dtypes are given to the kernels: as they are, viewed or copied.

    Attributes
    ----------
    plain : bool
        Whether the kernels take all of them as they are.
    real : list of str or None
        The dtype as which the kernels read each complex array.
    new : callable
        Returns memory for the result of an array.
    """

    __slots__ = ("_copied", "new", "plain", "real")

    def __init__(self, arrays: Sequence[HostArray], outputs: Sequence[HostArray] | None) -> None:
        # What is copied because the kernels cannot read it or write to it where it lies.
        self._copied = not all(is_plain(x) for x in (*arrays, *(outputs or ())))
        self.real = [STORAGE[x.dtype.name] if x.dtype.kind == "c" else None for x in arrays]
        self.plain = not self._copied and not any(self.real)
        simple = all(type(x) is np.ndarray and _is_simply_made(x) for x in arrays)
        self.new = np.empty_like if simple else empty_like

    def prepared(
        self, arrays: Sequence[HostArray], outputs: Sequence[HostArray] | None
    ) -> tuple[Sequence[HostArray], Sequence[HostArray], Sequence[HostArray]]:
        """Return arrays and results as the kernels take them, and the latter as they are."""
        sources, targets = arrays, outputs
        if self._copied:
            sources = [
                x if is_plain(x) else np.array(x, x.dtype.newbyteorder("="), order="C")
                for x in arrays
            ]
            if outputs is not None:
                targets = [
                    y if is_plain(y) else empty_like(x)
                    for x, y in zip(sources, outputs, strict=True)
                ]
        if targets is None:
            targets = [self.new(x) for x in sources]
        if not any(self.real):
            return sources, targets, targets
        xs = [x.view(real) if real else x for x, real in zip(sources, self.real, strict=True)]
        ys = [
            own if x is y else y.view(real) if real else y
            for x, y, own, real in zip(sources, targets, xs, self.real, strict=True)
        ]
        return xs, ys, targets

    def finished(
        self,
        arrays: Sequence[HostArray],
        targets: Sequence[HostArray],
        outputs: Sequence[HostArray] | None,
    ) -> Sequence[HostArray]:
        """Return results as the caller gets them, given those that the kernels wrote."""
        if outputs is None:
            if not self._copied:
                return targets
            return [
                y if x.dtype.isnative else y.astype(x.dtype)
                for x, y in zip(arrays, targets, strict=True)
            ]
        for target, output in zip(targets, outputs, strict=True):
            if target is not output:
                output[...] = target
        return outputs


class HostPlan:
    """How NumPy arrays of certain shapes, strides and dtypes are rotated."""

    __slots__ = ("_axes", "_call", "_of_axes", "_storage", "direct")

    def __init__(self, call: Call) -> None:
        self._call = call._replace(arrays=(), outputs=None)
        self._axes = [spec.axes for spec in call.specs]
        self._storage = Storage(call.arrays, call.outputs)
        self._of_axes: dict[Any, Steps] = {}
        xs, ys, _ = self._storage.prepared(call.arrays, call.outputs)
        made = self._of_axes[None] = self._made(xs, ys, [(None, axes) for axes in self._axes])
        direct = self._storage.plain and all(x.ndim == 4 for x in call.arrays)
        self.direct = _direct(made, len(call.arrays)) if direct else None

    def __call__(
        self,
        arrays: Sequence[HostArray],
        where: PositionArgs,
        outputs: Sequence[HostArray] | None,
        *,
        tried: bool = False,
    ) -> Sequence[HostArray]:
        """Return arrays rotated. Every argument is looked at before the first byte is written.

        `tried` says that the table read last does not have the positions, which are given as integers.
        """
        call = self._call
        if outputs is not None:
            call.check_outputs(arrays, outputs)
        positions, offset, cu_seqlens, delta = where
        counts = positions is cu_seqlens is delta is None and (
            offset is None or type(offset) is int
        )
        limit = LARGEST if call.limit is None else call.limit
        if counts and 0 <= (offset or 0) <= limit - call.position_shapes.length:
            rows = RowPositions(None, offset or 0, call.position_shapes.length)
        else:
            rows = call.read(where, call.position_shapes)
        if rows.start is None and type(rows.positions) is not np.ndarray:
            return library.LibraryPlan(call).at(rows, arrays, outputs)
        storage = self._storage
        if storage.plain:
            xs, ys = arrays, [storage.new(x) for x in arrays] if outputs is None else outputs
            targets = ys
        else:
            xs, ys, targets = storage.prepared(arrays, outputs)
        along: list[tuple[RowPositions, Axes]] = [(rows, axes) for axes in self._axes]
        key = None
        if rows.per_array_axis:
            each = [
                (axes, own.angles[0].frequencies.heads)
                for axes, own in zip(self._axes, call.passes, strict=True)
            ]
            found = {one: rows.for_array(*one) for one in set(each)}
            along = [found[one] for one in each]
            key = tuple([axes for _, axes in along])
        steps, wanted = self._of_axes.get(key) or self._of_axes.setdefault(
            key, self._made(xs, ys, along)
        )
        tables: list[Any] = []
        for _, _, array, reader in wanted:
            own, mine = None, along[array][0]
            if reader is not None and rows.start is not None:
                own = reader.counted(rows.start, rows.length)
            elif reader is not None and not tried and not mine.by_head:
                assert isinstance(mine.positions, np.ndarray)
                if mine.positions.dtype == np.int64:
                    own = reader.scattered(mine.positions)
            tables.append(own)
        missing = [i for i, own in enumerate(tables) if own is None]
        if missing:
            asked = [
                (wanted[i].angles, along[wanted[i].array][0], wanted[i].dtype) for i in missing
            ]
            for i, table in zip(missing, call.tables(asked), strict=True):
                assert isinstance(table, Table)
                tables[i] = table.values, table.index, 0, table.values.shape[2], table.step
        ready = [step.launch.kernel or step.launch.ready() for step in steps]
        if None in ready:  # Numba has failed
            return library.LibraryPlan(call).at(rows, arrays, outputs)
        for step, kernel in zip(steps, ready, strict=True):
            assert kernel is not None
            sources = xs if step.first else ys
            first, last = step.members
            step.launch.over(
                step.blocks,
                kernel,
                (sources[first], sources[last]),
                (ys[first], ys[last]),
                tables[step.table],
            )
        return targets if storage.plain else storage.finished(arrays, targets, outputs)

    def _made(
        self,
        xs: Sequence[HostArray],
        ys: Sequence[HostArray],
        along: Sequence[tuple[Any, Axes]],
    ) -> Steps:
        """Return the steps for arrays, as the kernels take them, whose positions differ on these axes."""
        call = self._call
        tables: dict[Any, int] = {}
        wanted: list[Wanted] = []
        steps: list[Step] = []
        by_axis = any(axes != own for (_, axes), own in zip(along, self._axes, strict=True))
        for number in range(len(call.specs[0].pairings)):
            alike: dict[Any, list[int]] = {}
            for i, (spec, own) in enumerate(zip(call.specs, call.passes, strict=True)):
                angles, axes, x = own.angles[number], along[i][1], xs[i]
                # In positions with a size for each axis, arrays whose axes differ read different rows.
                key = id(angles), spec.dtype, spec.axes if by_axis else None
                if key not in tables:
                    tables[key] = len(wanted)
                    reader = call.table_reader(angles, spec.dtype)
                    wanted.append(Wanted(angles, spec.dtype, i, reader))
                pairing = spec.pairings[number]
                if self._storage.real[i]:
                    pairing = as_interleaved(pairing)
                # The kernel takes two arrays at once if one part is all of each.
                alone = i if axes.extra or len(axes.head_axes(x.ndim)) > 1 else None
                if x.size:
                    group = tables[key], x.dtype, pairing, alone
                    alike.setdefault(group, []).append(i)
            for (table, _, pairing, _), members in alike.items():
                sources = ys if number else xs
                for k in range(0, len(members), 2):
                    pair = members[k], members[min(k + 1, len(members) - 1)]
                    steps.append(_step(pair, sources, ys, along, pairing, table, not number))
        return Steps(steps, wanted)


class TablesPlan:
    """How a NumPy array is rotated by tables that come with each call."""

    __slots__ = ("_call", "_step", "_storage")

    def __init__(self, call: TablesCall) -> None:
        arrays, outputs = (call.array,), None if call.output is None else (call.output,)
        self._call = call.without_arrays()
        self._storage = Storage(arrays, outputs)
        xs, ys, _ = self._storage.prepared(arrays, outputs)
        (pairing,) = call.spec.pairings
        if self._storage.real[0]:
            pairing = as_interleaved(pairing)
        along = [(None, call.spec.axes)]
        self._step = _step((0, 0), xs, ys, along, pairing, 0, True) if call.array.size else None

    def __call__(
        self,
        arrays: Sequence[HostArray],
        tables: tuple[Any, ...],
        outputs: Sequence[HostArray] | None,
    ) -> Sequence[HostArray]:
        """Return the array rotated."""
        call, step, storage = self._call, self._step, self._storage
        cosine, sine = tables
        if outputs is not None:
            call.check_output(arrays[0], (cosine, sine), outputs[0])
        if step is None:
            return outputs or [np.empty_like(arrays[0], subok=False)]
        table = call.read(arrays[0], (cosine, sine))
        assert isinstance(table, Table)
        kernel = step.launch.kernel or step.launch.ready()
        if kernel is None:  # Numba has failed
            (pairing,), (output,) = call.spec.pairings, outputs or (None,)
            return [portable.rotate(arrays[0], table, call.spec.axes, pairing, output)]
        xs, ys, targets = storage.prepared(arrays, outputs)
        rows = table.values, table.index, 0, table.values.shape[2], table.step
        step.launch.over(step.blocks, kernel, (xs[0], xs[0]), (ys[0], ys[0]), rows)
        return storage.finished(arrays, targets, outputs)


class DirectPlan:
    """How one kernel call rotates NumPy arrays as they are, by a table of the cache: most calls are so.

    The kernel refuses positions and memory that it must not touch, without having written. The other plan then looks
    at every argument.
    """

    __slots__ = (
        "_launch",
        "_length",
        "_limit",
        "_new",
        "_offsets",
        "_otherwise",
        "_reader",
        "_shapes",
    )

    def __init__(self, call: Call, plan: HostPlan, launch: Launch, reader: Any) -> None:
        self._otherwise = plan
        self._launch = launch
        self._reader = reader
        self._new = plan._storage.new
        shapes = call.position_shapes
        self._length = shapes.length
        self._limit = LARGEST if call.limit is None else call.limit
        # Positions and offsets that a kernel can read as they are.
        count = shapes.arrays[0].batch or 1
        counts = {1, count if shapes.fits_batch(count) else 1}
        self._offsets = {(each,) for each in counts}
        self._shapes: set[tuple[int, ...]] = set()
        if not shapes.has_position_axes:
            self._shapes = {(self._length,), *((each, self._length) for each in counts)}

    def __call__(
        self, arrays: Sequence[HostArray], where: PositionArgs, outputs: Sequence[HostArray] | None
    ) -> Sequence[HostArray]:
        """Return arrays rotated."""
        positions, offset, cu_seqlens, delta = where
        rows = None
        if positions is None and (offset is None or type(offset) is int):
            first = offset or 0
            if first + self._length <= self._limit and cu_seqlens is None and delta is None:
                rows = self._reader.counted(first, self._length)
        elif cu_seqlens is None and delta is None:
            given = offset if positions is None else positions
            if getattr(given, "dtype", None) in INTEGERS and (positions is None or self._shapes):
                rows = self._given(positions, offset)
        if rows is None:
            return self._otherwise(arrays, where, outputs)
        results = [self._new(x) for x in arrays] if outputs is None else outputs
        if outputs is not None:
            for result in results:
                if not result.flags.writeable:
                    return self._otherwise(arrays, where, outputs)
        if self._launch(arrays, results, rows):
            return self._otherwise(arrays, where, outputs, tried=True)
        return results

    def _given(self, positions: Any, offset: Any) -> TableRows | None:
        """Return the rows for positions, or from offsets on, that the table read last may have.

        The index is a copy, because the caller may write to positions while the kernel reads them.
        """
        given = offset if positions is None else positions
        # NumPy counts its durations among its integers.
        if isinstance(given, np.integer) and positions is None and given.dtype in INTEGERS:
            first = int(given)
            fits = first + self._length <= self._limit
            rows: TableRows | None = self._reader.counted(first, self._length) if fits else None
            return rows
        shapes = self._offsets if positions is None else self._shapes
        if (
            type(given) is not np.ndarray
            or given.dtype not in INTEGERS
            or given.shape not in shapes
            or (positions is not None and offset is not None)
        ):
            return None
        index = np.array(given, np.int64, order="C", ndmin=2)
        step = int(positions is None)
        index = index.reshape(-1, 1) if step else index
        found: TableRows | None = self._reader.given(index, step, self._length, self._limit)
        return found


def _direct(made: Steps, count: int) -> tuple[Launch, Any] | None:
    """Return the one launch that rotates all arrays by a table of the cache, and what reads that."""
    steps, wanted = made
    if len(steps) != 1 or len(wanted) != 1 or wanted[0].reader is None:
        return None
    (step,) = steps
    if len(set(step.members)) != count or len(step.blocks) != 1:
        return None
    return step.launch, wanted[0].reader


def _step(
    members: tuple[int, int],
    xs: Sequence[HostArray],
    ys: Sequence[HostArray],
    along: Sequence[tuple[Any, Axes]],
    pairing: Pairing,
    table: int,
    first: bool,
) -> Step:
    """Return the step that rotates one array, named twice, or two."""
    numbers = sorted(set(members))
    parts = [parts_of(xs[i], ys[i], along[i][1], pairing) for i in numbers]
    nbytes = sum(xs[i].nbytes for i in numbers)
    in_place = any(xs[i] is ys[i] for i in numbers)
    launch = Launch(
        dtype_name(xs[numbers[0]]),
        [part.geometry for part in parts],
        pairing,
        nbytes=nbytes,
        streaming=not in_place and 2 * nbytes >= streaming_size(),
    )
    one, other = parts[0], parts[-1]
    blocks = list(zip(one.indices, other.indices, one.places, strict=True))
    return Step(launch, members, blocks, table, first)


def _is_simply_made(x: HostArray) -> bool:
    """Return whether NumPy makes memory for the result of an array as `pool.empty_like` does."""
    return x.nbytes < SMALLEST and 0 not in x.strides
