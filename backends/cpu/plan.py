"""Plans of calls on NumPy arrays: which kernels rotate which blocks of the arrays, with which tables."""

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
    blocks_of,
    is_kernel_readable,
    streaming_size,
)
from .norms import NormLaunch, is_one_pass

# The limit of consecutive positions if the call has none.
LARGEST_INT64 = 2**63 - 1
INTEGERS = frozenset(
    map(np.dtype, ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"))
)


def plan(call: Call) -> Plan:
    """Return the plan of a call; NumPy operations replace the kernels if the passes are no rotation."""
    if call.passes[0].second_angles is not None or (call.norm and not is_one_pass(call.specs)):
        return library.plan(call)
    host_plan = HostPlan(call)
    if host_plan.direct is None:
        return host_plan
    return DirectPlan(call, host_plan, *host_plan.direct)


def plan_with_tables(call: TablesCall) -> Plan:
    """Return the plan of a call with the tables of the user."""
    return TablesPlan(call)


class Step(NamedTuple):
    """Kernel calls that rotate one array, or two together, in one pass.

    Attributes
    ----------
    launch : Launch
    members : tuple of int
        The indices of two arrays, or the same index twice.
    blocks : list of Block
        The blocks of four axes that the kernel rotates.
    table : int
        The index of the table.
    first : bool
        Whether this is the first pass, which reads the arrays. Later passes read the results.
    """

    launch: Launch | NormLaunch
    members: tuple[int, int]
    blocks: list[Block]
    table: int
    first: bool


class TableRequest(NamedTuple):
    """A table that steps need: its angles and dtype, the array with its positions, and the reader of the cache."""

    angles: Angles
    dtype: TableDType
    array: int
    reader: Any


class Steps(NamedTuple):
    """The kernel calls for arrays whose positions differ along certain axes, and the tables that they need."""

    steps: list[Step]
    requests: list[TableRequest]


class Storage:
    """How the kernels get arrays and outputs of certain strides and dtypes: unchanged, as views or as copies.

    Attributes
    ----------
    unchanged : bool
        Whether the kernels get all arrays and outputs unchanged.
    real_dtypes : list of str or None
        The real dtype as which the kernels read each complex array.
    empty_like : callable
        Returns memory for the result of an array.
    """

    __slots__ = ("_needs_copies", "empty_like", "real_dtypes", "unchanged")

    def __init__(self, arrays: Sequence[HostArray], outputs: Sequence[HostArray] | None) -> None:
        # The kernels need a contiguous last axis and native byte order; other arrays are copied.
        self._needs_copies = not all(is_kernel_readable(x) for x in (*arrays, *(outputs or ())))
        self.real_dtypes = [STORAGE[x.dtype.name] if x.dtype.kind == "c" else None for x in arrays]
        self.unchanged = not self._needs_copies and not any(self.real_dtypes)
        # NumPy's own function is faster to call.
        without_pool = all(type(x) is np.ndarray and _needs_no_pool(x) for x in arrays)
        self.empty_like = np.empty_like if without_pool else empty_like

    def prepared(
        self, arrays: Sequence[HostArray], outputs: Sequence[HostArray] | None
    ) -> tuple[Sequence[HostArray], Sequence[HostArray], Sequence[HostArray]]:
        """Return arrays and results as the kernels get them, and the results before complex ones are viewed as real."""
        sources, targets = arrays, outputs
        if self._needs_copies:
            sources = [
                x if is_kernel_readable(x) else np.array(x, x.dtype.newbyteorder("="), order="C")
                for x in arrays
            ]
            if outputs is not None:
                targets = [
                    y if is_kernel_readable(y) else empty_like(x)
                    for x, y in zip(sources, outputs, strict=True)
                ]
        if targets is None:
            targets = [self.empty_like(x) for x in sources]
        if not any(self.real_dtypes):
            return sources, targets, targets
        xs = [
            x.view(real) if real else x for x, real in zip(sources, self.real_dtypes, strict=True)
        ]
        # In place, the two views must be one object too.
        ys = [
            x_view if x is y else y.view(real) if real else y
            for x, y, x_view, real in zip(sources, targets, xs, self.real_dtypes, strict=True)
        ]
        return xs, ys, targets

    def finished(
        self,
        arrays: Sequence[HostArray],
        targets: Sequence[HostArray],
        outputs: Sequence[HostArray] | None,
    ) -> Sequence[HostArray]:
        """Return the results of the call, given those that the kernels wrote."""
        if outputs is None:
            if not self._needs_copies:
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
    """The plan for NumPy arrays of certain shapes, strides and dtypes.

    `direct` is the one launch that rotates all arrays and the reader of its table, or None if a call needs more.
    """

    __slots__ = ("_axes", "_call", "_over_tokens", "_steps_of_axes", "_storage", "direct")

    def __init__(self, call: Call) -> None:
        self._call = call._replace(arrays=(), outputs=None)
        self._axes = [spec.axes for spec in call.specs]
        norms = () if call.norm is None else call.norm.arrays
        self._over_tokens = any(each is not None and each.heads is not None for each in norms)
        self._storage = Storage(call.arrays, call.outputs)
        self._steps_of_axes: dict[Any, Steps] = {}
        xs, ys, _ = self._storage.prepared(call.arrays, call.outputs)
        steps = self._make_steps(xs, ys, [(None, axes) for axes in self._axes])
        self._steps_of_axes[None] = steps
        is_direct = (
            self._storage.unchanged and call.norm is None and all(x.ndim == 4 for x in call.arrays)
        )
        self.direct = _only_launch(steps, len(call.arrays)) if is_direct else None

    def __call__(
        self,
        arrays: Sequence[HostArray],
        position_args: PositionArgs,
        outputs: Sequence[HostArray] | None,
        weights: Sequence[HostArray] = (),
        *,
        skip_lookup: bool = False,
    ) -> Sequence[HostArray]:
        """Rotate arrays. Every argument is checked before the first byte is written.

        `skip_lookup` says that the most recent cached table does not have the integer positions of the call.
        """
        call = self._call
        if outputs is not None:
            call.check_outputs(arrays, outputs)
        positions, offset, cu_seqlens, delta, inv_freq = position_args
        is_consecutive = positions is cu_seqlens is delta is inv_freq is None and (
            offset is None or type(offset) is int
        )
        limit = LARGEST_INT64 if call.limit is None else call.limit
        if is_consecutive and 0 <= (offset or 0) <= limit - call.position_shapes.length:
            rows = RowPositions(None, offset or 0, call.position_shapes.length)
        else:
            rows = call.read(position_args, call.position_shapes)
        known = rows.start is not None or type(rows.positions) is np.ndarray
        # If positions differ by head, the kernel does not see all heads of a token at once.
        known = known and (rows.frequencies is None or type(rows.frequencies) is np.ndarray)
        if not known or (rows.per_array_axis and self._over_tokens):
            return library.LibraryPlan(call).rotate_at(rows, arrays, outputs, weights)
        storage = self._storage
        if storage.unchanged:
            xs = arrays
            ys = targets = [storage.empty_like(x) for x in arrays] if outputs is None else outputs
        else:
            xs, ys, targets = storage.prepared(arrays, outputs)
        array_rows: list[tuple[RowPositions, Axes]] = [(rows, axes) for axes in self._axes]
        key = None
        if rows.per_array_axis:
            axes_and_heads = [
                (axes, passes.angles[0].frequencies.heads)
                for axes, passes in zip(self._axes, call.passes, strict=True)
            ]
            distinct = {each: rows.for_array(*each) for each in set(axes_and_heads)}
            array_rows = [distinct[each] for each in axes_and_heads]
            key = tuple([axes for _, axes in array_rows])
        steps, requests = self._steps_of_axes.get(key) or self._steps_of_axes.setdefault(
            key, self._make_steps(xs, ys, array_rows)
        )
        tables: list[Any] = []
        for _, _, array, reader in requests:
            cached, request_rows = None, array_rows[array][0]
            if reader is not None and rows.start is not None:
                cached = reader.counted(rows.start, rows.length)
            elif reader is not None and not skip_lookup and not request_rows.by_head:
                assert isinstance(request_rows.positions, np.ndarray)
                if request_rows.positions.dtype == np.int64:
                    cached = reader.scattered(request_rows.positions)
            tables.append(cached)
        missing = [i for i, table in enumerate(tables) if table is None]
        if missing:
            new_tables = call.tables(
                [
                    (requests[i].angles, array_rows[requests[i].array][0], requests[i].dtype)
                    for i in missing
                ]
            )
            for i, table in zip(missing, new_tables, strict=True):
                assert isinstance(table, Table)
                tables[i] = table.values, table.index, 0, table.values.shape[2], table.step
        kernels = [step.launch.kernel or step.launch.ready() for step in steps]
        if None in kernels:  # Numba has failed
            return library.LibraryPlan(call).rotate_at(rows, arrays, outputs, weights)
        for step, kernel in zip(steps, kernels, strict=True):
            assert kernel is not None
            sources = xs if step.first else ys
            first, last = step.members
            if isinstance(step.launch, NormLaunch):
                table = tables[step.table]
                step.launch.rotate_blocks(kernel, sources[first], ys[first], table, weights)
                continue
            step.launch.rotate_blocks(
                step.blocks,
                kernel,
                (sources[first], sources[last]),
                (ys[first], ys[last]),
                tables[step.table],
            )
        return targets if storage.unchanged else storage.finished(arrays, targets, outputs)

    def _make_steps(
        self,
        xs: Sequence[HostArray],
        ys: Sequence[HostArray],
        array_rows: Sequence[tuple[Any, Axes]],
    ) -> Steps:
        """Return the steps for arrays, given as the kernels take them and with their axes adapted to positions."""
        call = self._call
        tables: dict[Any, int] = {}
        requests: list[TableRequest] = []
        steps: list[Step] = []
        per_array_axis = any(
            axes != original for (_, axes), original in zip(array_rows, self._axes, strict=True)
        )
        for number in range(len(call.specs[0].pairings)):
            groups: dict[Any, list[int]] = {}
            for i, (spec, passes) in enumerate(zip(call.specs, call.passes, strict=True)):
                angles, axes, x = passes.angles[number], array_rows[i][1], xs[i]
                # Positions per array axis have another order of rows for arrays with other axes.
                key = id(angles), spec.dtype, spec.axes if per_array_axis else None
                if key not in tables:
                    tables[key] = len(requests)
                    reader = call.table_reader(angles, spec.dtype)
                    requests.append(TableRequest(angles, spec.dtype, i, reader))
                pairing = spec.pairings[number]
                if self._storage.real_dtypes[i]:
                    pairing = as_interleaved(pairing)
                # The kernel can rotate two arrays at once only if each is a single block.
                several_blocks = axes.extra or len(axes.head_axes(x.ndim)) > 1
                norm = None if call.norm is None else call.norm.arrays[i]
                if call.norm is not None and norm is not None and x.size:
                    launch = NormLaunch(x, ys[i], axes, pairing, call.norm, norm, spec.dtype)
                    steps.append(Step(launch, (i, i), [], tables[key], first=True))
                elif x.size:
                    group = tables[key], x.dtype, pairing, i if several_blocks else None
                    groups.setdefault(group, []).append(i)
            for (table, _, pairing, _), members in groups.items():
                sources = ys if number else xs
                for k in range(0, len(members), 2):
                    pair = members[k], members[min(k + 1, len(members) - 1)]
                    steps.append(_step(pair, sources, ys, array_rows, pairing, table, not number))
        return Steps(steps, requests)


class TablesPlan:
    """The plan for a NumPy array that is rotated by the tables of the user."""

    __slots__ = ("_call", "_step", "_storage")

    def __init__(self, call: TablesCall) -> None:
        arrays, outputs = (call.array,), None if call.output is None else (call.output,)
        self._call = call.without_arrays()
        self._storage = Storage(arrays, outputs)
        xs, ys, _ = self._storage.prepared(arrays, outputs)
        (pairing,) = call.spec.pairings
        if self._storage.real_dtypes[0]:
            pairing = as_interleaved(pairing)
        array_rows = [(None, call.spec.axes)]
        self._step = None
        if call.array.size:
            self._step = _step((0, 0), xs, ys, array_rows, pairing, 0, True)

    def __call__(
        self,
        arrays: Sequence[HostArray],
        tables: tuple[Any, ...],
        outputs: Sequence[HostArray] | None,
    ) -> Sequence[HostArray]:
        """Rotate the array."""
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
        assert isinstance(step.launch, Launch)
        xs, ys, targets = storage.prepared(arrays, outputs)
        rows = table.values, table.index, 0, table.values.shape[2], table.step
        step.launch.rotate_blocks(step.blocks, kernel, (xs[0], xs[0]), (ys[0], ys[0]), rows)
        return storage.finished(arrays, targets, outputs)


class DirectPlan:
    """The plan for the most common calls: one kernel call rotates all arrays, without copies and with a cached table.

    If positions are not in the table, or memory overlaps, the kernel returns before it writes. The fallback plan then
    checks every argument.
    """

    __slots__ = (
        "_empty_like",
        "_fallback",
        "_launch",
        "_length",
        "_limit",
        "_offset_shapes",
        "_position_shapes",
        "_table_reader",
    )

    def __init__(self, call: Call, plan: HostPlan, launch: Launch, reader: Any) -> None:
        self._fallback = plan
        self._launch = launch
        self._table_reader = reader
        self._empty_like = plan._storage.empty_like
        shapes = call.position_shapes
        self._length = shapes.length
        self._limit = LARGEST_INT64 if call.limit is None else call.limit
        # The shapes of offsets and positions that a kernel can read without conversion.
        count = shapes.arrays[0].batch or 1
        counts = {1, count if shapes.fits_batch(count) else 1}
        self._offset_shapes = {(each,) for each in counts}
        self._position_shapes: set[tuple[int, ...]] = set()
        if not shapes.has_position_axes:
            self._position_shapes = {(self._length,), *((each, self._length) for each in counts)}

    def __call__(
        self,
        arrays: Sequence[HostArray],
        position_args: PositionArgs,
        outputs: Sequence[HostArray] | None,
    ) -> Sequence[HostArray]:
        """Rotate arrays."""
        positions, offset, cu_seqlens, delta, _ = position_args
        rows = None
        if positions is None and (offset is None or type(offset) is int):
            first = offset or 0
            if first + self._length <= self._limit and cu_seqlens is None and delta is None:
                rows = self._table_reader.counted(first, self._length)
        elif cu_seqlens is None and delta is None:
            given = offset if positions is None else positions
            is_readable = positions is None or self._position_shapes
            if is_readable and getattr(given, "dtype", None) in INTEGERS:
                rows = self._rows_from_array(positions, offset)
        if rows is None:
            return self._fallback(arrays, position_args, outputs)
        results = [self._empty_like(x) for x in arrays] if outputs is None else outputs
        if outputs is not None:
            for result in results:
                if not result.flags.writeable:
                    return self._fallback(arrays, position_args, outputs)
        if self._launch(arrays, results, rows):
            return self._fallback(arrays, position_args, outputs, skip_lookup=True)
        return results

    def _rows_from_array(self, positions: Any, offset: Any) -> TableRows | None:
        """Return the table rows for an array of positions or offsets, if the most recent table may have them.

        The index is a copy, because the caller may write to positions while the kernel reads them.
        """
        rows: TableRows | None = None
        given = offset if positions is None else positions
        shapes = self._offset_shapes if positions is None else self._position_shapes
        # The dtype is checked too, because timedelta64 is a subclass of NumPy's integers.
        if isinstance(given, np.integer) and positions is None and given.dtype in INTEGERS:
            first = int(given)
            if first + self._length <= self._limit:
                rows = self._table_reader.counted(first, self._length)
        elif (
            type(given) is np.ndarray
            and given.dtype in INTEGERS
            and given.shape in shapes
            and (positions is None or offset is None)
        ):
            step = int(positions is None)
            index = np.array(given, np.int64, order="C", ndmin=2)
            index = index.reshape(-1, 1) if step else index
            rows = self._table_reader.given(index, step, self._length, self._limit)
        return rows


def _only_launch(made: Steps, count: int) -> tuple[Launch, Any] | None:
    """Return the one launch that rotates all arrays and the reader of its cached table, or None."""
    steps, requests = made
    if len(steps) != 1 or len(requests) != 1 or requests[0].reader is None:
        return None
    (step,) = steps
    if len(set(step.members)) != count or len(step.blocks) != 1:
        return None
    assert isinstance(step.launch, Launch)
    return step.launch, requests[0].reader


def _step(
    members: tuple[int, int],
    xs: Sequence[HostArray],
    ys: Sequence[HostArray],
    array_rows: Sequence[tuple[Any, Axes]],
    pairing: Pairing,
    table: int,
    first: bool,
) -> Step:
    """Return the step that rotates two arrays, or one if both indices are the same."""
    distinct = sorted(set(members))
    blocks = [blocks_of(xs[i], ys[i], array_rows[i][1], pairing) for i in distinct]
    nbytes = sum(xs[i].nbytes for i in distinct)
    in_place = any(xs[i] is ys[i] for i in distinct)
    launch = Launch(
        dtype_name(xs[distinct[0]]),
        [each.geometry for each in blocks],
        pairing,
        nbytes=nbytes,
        streaming=not in_place and 2 * nbytes >= streaming_size(),
    )
    first_blocks, last_blocks = blocks[0], blocks[-1]
    together = zip(
        first_blocks.indices, last_blocks.indices, first_blocks.extra_indices, strict=True
    )
    return Step(launch, members, list(together), table, first)


def _needs_no_pool(x: HostArray) -> bool:
    """Return whether `np.empty_like` makes the same result for an array as `pool.empty_like`."""
    return x.nbytes < SMALLEST and 0 not in x.strides
