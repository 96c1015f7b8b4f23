"""Plans of calls on a GPU: everything except addresses and positions.

A call fills in addresses and positions. Arrays that share dtype and channels go into one launch, such as query and
key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import mod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.memo import Memo
from rotary._lib.typing import Array, TableDType
from rotary.angles.phases import of_head
from rotary.backends import contract, library
from rotary.backends.contract import (
    HOST_POSITION_TYPES,
    Angles,
    ArraySpec,
    Axes,
    Call,
    GpuView,
    Pairing,
    Passes,
    PositionArgs,
    RowPositions,
)

from . import launch as cuda
from . import memory
from .overlap import Overlap
from .tables import CallTables

# All dtypes of positions that kernels read are aligned at multiples of it.
POSITION_BYTES = 8
# Layouts of position arrays that each plan remembers.
POSITIONS_REMEMBERED = 1024
# Where tokens are, as a call says it or as kernels read it; None if kernels cannot, because it is traced or learned.
Rows: TypeAlias = RowPositions | cuda.KernelPositions | None


def plan(call: Call, owner: str) -> contract.Plan:
    """Return the plan of a call whose arrays belong to one kind of library, `owner`."""
    return plan_of_kernels(call, owner) if owner != memory.OTHER else _ForeignPlan(call)


def plan_of_kernels(call: Call, owner: str) -> Plan | _CopyingPlan:
    """Return the plan of a call on arrays of CuPy or torch."""
    # Allocations and streams belong to the current GPU, so this must be the arrays' own.
    with memory.driver.scope(memory.device_of(call.arrays[0], owner)):
        views = [memory.view_of(x, owner) for x in call.arrays]
        targets = call.outputs and [memory.view_of(x, owner) for x in call.outputs]
        if all(map(memory.has_contiguous_channels, (*views, *(targets or ())))):
            return Plan(call, owner, views, targets)
        return _CopyingPlan(call, owner, views)


def _without_arrays(call: Call) -> Call:
    """Drop references to arrays, because plans outlive calls."""
    return call._replace(arrays=(), outputs=None)


class _ForeignPlan:
    """The plan for any library but CuPy and torch. CuPy arrays share the memory of the caller's arrays."""

    def __init__(self, call: Call) -> None:
        self._call = _without_arrays(call)
        self._fallback = library.plan(call)
        # The plan of the CuPy arrays, with its key: their strides are not known before a call.
        self._planned: tuple[Any, Plan | _CopyingPlan] | None = None

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None
    ) -> Sequence[Array]:
        with memory.driver.scope(memory.device_of(arrays[0], memory.OTHER)):
            names = self._call.names
            ours = [memory.as_cupy(x, name) for x, name in zip(arrays, names, strict=True)]
            targets = None if outputs is None else self._outputs_as_cupy(outputs, arrays, ours)
            if outputs is not None:
                self._call.check_outputs(arrays, outputs)
            own = self._plan(ours, targets)
            rows = own.read(positions)
            if rows is None:
                return self._fallback(arrays, positions, outputs)
            results = own.rotate(rows, ours, positions, targets)
            memory.driver.keep_alive([*ours, *(targets or ())])
            if outputs is not None:
                return outputs
            return [
                memory.to_original_library(result, x)
                for result, x in zip(results, arrays, strict=True)
            ]

    def _outputs_as_cupy(
        self, outputs: Sequence[Array], arrays: Sequence[Array], ours: Sequence[Array]
    ) -> list[Array]:
        targets = []
        for x, own, output, name in zip(arrays, ours, outputs, _output_names(outputs), strict=True):
            if memory.is_read_only(output):
                msg = f"`{name}` must be writeable, got a read-only array"
                raise ValueError(msg)
            targets.append(own if output is x else memory.as_cupy(output, name))
        return targets

    def _plan(
        self, arrays: Sequence[Array], outputs: Sequence[Array] | None
    ) -> Plan | _CopyingPlan:
        key = memory.key_of(arrays, outputs, memory.CUPY)
        planned = self._planned  # read once, because another thread may replace it
        if planned is None or planned[0] != key:
            call = self._call._replace(arrays=arrays, outputs=outputs)
            planned = self._planned = key, plan_of_kernels(call, memory.CUPY)
        return planned[1]


class _CopyingPlan:
    """The plan for arrays whose channels are not contiguous. It rotates copies, because kernels need them to be."""

    def __init__(self, call: Call, owner: str, views: Sequence[GpuView]) -> None:
        self._check_outputs = call.check_outputs
        self._device = views[0].device
        self._plan = Plan(call, owner, [memory.row_major(x) for x in views], None)
        self.read = self._plan.read

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None
    ) -> Sequence[Array]:
        if outputs is not None:
            self._check_outputs(arrays, outputs)
        with memory.driver.scope(self._device):
            copies = [memory.contiguous(x) for x in arrays]
            return _assigned(self._plan(copies, positions, None), outputs)

    def rotate(
        self,
        rows: RowPositions | cuda.KernelPositions,
        arrays: Sequence[Array],
        positions: PositionArgs,
        outputs: Sequence[Array] | None,
    ) -> Sequence[Array]:
        """Rotate on the current GPU; outputs were checked."""
        copies = [memory.contiguous(x) for x in arrays]
        return _assigned(self._plan.rotate(rows, copies, positions, None), outputs)


def _assigned(results: Sequence[Array], outputs: Sequence[Array] | None) -> Sequence[Array]:
    """Return results, copied to outputs if there are some."""
    if outputs is None:
        return results
    for output, result in zip(outputs, results, strict=True):
        memory.assign(output, result)
    return outputs


class _Group(NamedTuple):
    """Launches that share their angles, the dtype of the table in case these need one, and whether floats need it."""

    launches: list[cuda.Launch]
    angles: Angles
    dtype: TableDType
    too_fast: bool


class Plan:
    """The plan for arrays of CuPy or torch with contiguous channels.

    Parameters
    ----------
    call : Call
    owner : {"cupy", "torch"}
    views : sequence of GpuView
        Of the arrays.
    targets : sequence of GpuView or None
        Of the outputs.
    """

    def __init__(
        self, call: Call, owner: str, views: Sequence[GpuView], targets: Sequence[GpuView] | None
    ) -> None:
        names = call.names
        memory.check_devices(views, names)
        memory.check_aligned(views, names)
        if targets is not None:
            memory.check_devices([views[0], *targets], [names[0], *_output_names(targets)])
            memory.check_aligned(targets, _output_names(targets))
        specs = call.specs
        self._batches = [
            None if spec.axes.batch is None else x.shape[spec.axes.batch]
            for x, spec in zip(views, specs, strict=True)
        ]
        length = views[0].shape[specs[0].axes.sequence]
        rows = length * max(batch or 1 for batch in self._batches)
        if rows > cuda.MAX_ROWS:
            msg = f"`{names[0]}` must have fewer than 2**31 rows, got {rows}"
            raise ValueError(msg)
        self._call = _without_arrays(call)
        self._owner = owner
        self._device = views[0].device
        as_gpu_view = partial(memory.position_view, owner, self._device)
        self._extent = call.position_shapes._replace(as_gpu_view=as_gpu_view)
        wanted = [memory.like(x, owner) for x in views]
        self._specs = [memory.result_spec(each, owner, like=each.dtype) for each in wanted]
        self._passes = [
            _groups(call.passes, specs, number, views, targets or wanted, self._batches, length)
            for number in range(len(call.passes[0].angles))
        ]
        self._sizes = [memory.CHANNEL_BYTES[view.dtype] for view in (*views, *(targets or ()))]
        self._overlap = Overlap(views, targets or ())
        self._angle_sources: dict[tuple[int, bool, bool], cuda.AngleSource] = {}
        self._positions: Memo[Any, cuda.KernelPositions] = Memo(POSITIONS_REMEMBERED)
        self._heads = call.passes[0].angles[0].frequencies.heads
        self._parts: dict[Any, Plan] = {}
        # Whether some angles are multiplied by a scale, and are therefore read from a table.
        self._scaled = any(angles.scale is not None for own in call.passes for angles in own.angles)
        self._may_need_table = self._scaled or any(
            group.too_fast for groups in self._passes for group in groups
        )
        # The largest offset from which on positions need no check.
        self._last_offset = cuda.FAR if call.limit is None else min(cuda.FAR, call.limit - length)
        self._length = length
        self._fallback = library.plan(call)

    # ---------------------------------------------------------------------------------------------
    # Running.

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None
    ) -> Sequence[Array]:
        """Rotate on the current stream of the arrays' library."""
        with memory.driver.scope(self._device):
            recorded = self._owner == memory.TORCH and memory.asks_for_gradient(
                [*arrays, *(outputs or ())]
            )
            # Autograd records a write to `out` only if torch's own operations do it.
            rows = None if recorded and outputs is not None else self.read(positions)
            if rows is None:
                return self._fallback(arrays, positions, outputs)
            if recorded:
                return self._differentiable(rows, arrays, positions)
            return self.rotate(rows, arrays, positions, outputs)

    def read(self, positions: PositionArgs) -> Rows:
        """Return positions as kernels or a table need them; None if kernels cannot read them.

        This is outside of torch's stream, which waits for CuPy's current stream if positions are of CuPy.
        """
        given, offset, bounds, delta, _ = positions
        if bounds is delta is None:
            first = 0 if offset is None else offset
            if given is None and type(first) is int and 0 <= first <= self._last_offset:
                if self._scaled:
                    return RowPositions(None, first, self._length)
                return cuda.consecutive_from(first)
            value = offset if given is None else given
            if (
                self._positions.held
                and not self._may_need_table
                and not isinstance(value, HOST_POSITION_TYPES)
            ):
                found = self._cached_positions(given, offset)
                if found is not None:
                    return found
        rows = self._call.read(positions, self._extent)
        known = rows.start is not None or isinstance(rows.positions, np.ndarray | GpuView)
        return rows if known else None

    def rotate(
        self,
        rows: RowPositions | cuda.KernelPositions,
        arrays: Sequence[Array],
        positions: PositionArgs,
        outputs: Sequence[Array] | None,
    ) -> Sequence[Array]:
        """Rotate on the current GPU, by positions as `read` returns them."""
        owner, count = self._owner, len(arrays)
        addresses = memory.addresses_of((*arrays, *(outputs or ())), owner)
        if outputs is not None and not self._overlap.is_excluded(addresses):
            self._call.check_outputs(arrays, outputs)
            self._overlap.exclude(addresses)
        if any(map(mod, addresses, self._sizes)):
            self._check_aligned(arrays, outputs)
        on_stream: AbstractContextManager[Any] = nullcontext()
        if owner == memory.TORCH:
            stream = memory.stream_of(owner, self._device)
            on_stream = memory.driver.stream(stream, self._device)
        with on_stream:
            xs, ys = addresses[:count], addresses[count:]
            results = outputs
            if results is None:
                results, ys = memory.empty(self._specs, arrays)
            if isinstance(rows, RowPositions) and rows.per_array_axis:
                self._by_axis(arrays, positions, results, rows)
            else:
                self._launch(rows, xs, ys, partial(self._read_again, positions), positions)
        if outputs is not None and owner == memory.TORCH:
            memory.bump_version(outputs)
        return results

    def _check_aligned(self, arrays: Sequence[Array], outputs: Sequence[Array] | None) -> None:
        """Raise for arrays that are not aligned, although others of their layout were."""
        for group, names in (
            (arrays, self._call.names),
            (outputs or (), _output_names(outputs or ())),
        ):
            memory.check_aligned([memory.view_of(x, self._owner) for x in group], names)

    def _read_again(self, positions: PositionArgs) -> RowPositions:
        """Read positions as arrays of their library, whose operations compute tables on their GPU."""
        return self._call.read(positions, self._call.position_shapes)

    def _launch(
        self,
        rows: RowPositions | cuda.KernelPositions,
        xs: Sequence[int],
        ys: Sequence[int],
        read_again: Callable[[], RowPositions],
        positions: PositionArgs | None = None,
    ) -> None:
        """Launch on the current GPU and stream, given the addresses of all arrays and results.

        `positions` are those of the whole call. Without them, nothing is cached.
        """
        row_positions = rows if isinstance(rows, cuda.KernelPositions) else None
        floats = (
            isinstance(rows, RowPositions)
            and rows.positions is not None
            and "float" in str(rows.positions.dtype)
        )
        tables: CallTables | None = None
        for groups in self._passes:
            for launches, angles, dtype, too_fast in groups:
                if isinstance(rows, RowPositions) and (
                    angles.scale is not None or (too_fast and floats)
                ):
                    tables = tables or CallTables(rows, self._device, self._call.table, read_again)
                    angle_source, own = tables.find(angles, dtype)
                else:
                    if row_positions is None:
                        assert isinstance(rows, RowPositions)
                        row_positions = cuda.row_positions(rows)
                        if positions is not None and isinstance(rows.positions, GpuView):
                            self._cache_positions(positions, rows.positions, row_positions)
                    own = row_positions
                    # The kernels compute the angles, on one axis if positions are equal on all axes.
                    key = (id(angles), row_positions.floats, row_positions.alike)
                    found = self._angle_sources.get(key)
                    if found is None:
                        found = cuda.computed_angles(angles, self._device, row_positions)
                        self._angle_sources[key] = found
                    angle_source = found
                for launch in launches:
                    launch(xs, ys, angle_source, own)
        if isinstance(rows, RowPositions):
            read = [each.owner for each in (rows.positions, rows.bounds) if type(each) is GpuView]
            if read:
                memory.driver.keep_alive(read)

    def _by_axis(
        self,
        arrays: Sequence[Array],
        positions: PositionArgs,
        results: Sequence[Array],
        rows: RowPositions,
    ) -> None:
        """Rotate by positions that differ on more axes than batch and sequence, with launches for each index."""
        for i, (x, result) in enumerate(zip(arrays, results, strict=True)):
            own, axes = rows.for_array(self._call.specs[i].axes, self._heads)
            assert own.positions is not None
            for index in np.ndindex(own.positions.shape[1 : len(axes.extra) + 1]):
                where = axes.at(index, x.ndim)
                part, target = (memory.view_of(each[where], self._owner) for each in (x, result))
                read_again = partial(self._read_part_again, positions, i, index)
                head = index[0] if own.by_head else None
                self._part(i, axes, head, part, target)._launch(
                    own.at(index), [part.address], [target.address], read_again
                )

    def _read_part_again(
        self, positions: PositionArgs, i: int, index: tuple[int, ...]
    ) -> RowPositions:
        """Read the positions of a part of an array as an array of their library."""
        own, _ = self._read_again(positions).for_array(self._call.specs[i].axes, self._heads)
        return own.at(index)

    def _part(self, i: int, axes: Axes, head: int | None, x: GpuView, y: GpuView) -> Plan:
        """Return the plan of the part of array i at any index of `axes.extra`."""
        found = self._parts.get((i, axes, head))
        if found is None:
            passes, spec = self._call.passes[i], self._call.specs[i]
            if head is not None:
                angles = tuple(
                    each._replace(frequencies=of_head(each.frequencies, head))
                    for each in passes.angles
                )
                passes = passes._replace(angles=angles)
            call = self._call._replace(
                names=self._call.names[i : i + 1],
                passes=(passes,),
                specs=(spec._replace(axes=axes.without_extra()),),
            )
            made = Plan(call, self._owner, [x], [y])
            found = self._parts.setdefault((i, axes, head), made)
        return found

    # A decoder passes the same kind of positions for each token: an integer offset, or an array on the GPU.

    def _cached_positions(self, given: Any, offset: Any) -> cuda.KernelPositions | None:
        """Return `positions` or `offset` on the GPU without reading them as the first call did, None if unknown."""
        if given is not None and offset is not None:
            return None
        name, value = ("offset", offset) if given is None else ("positions", given)
        if memory.owner_of(value) != self._owner:
            return None
        if self._owner == memory.TORCH and memory.asks_for_gradient([value]):
            return None
        found = self._positions.get((name, *memory.layout_of(value, self._owner)))
        (address,) = memory.addresses_of((value,), self._owner)
        # Positions that are not aligned are refused when they are read.
        if found is None or address % POSITION_BYTES:
            return None
        return found.of(address, value)

    def _cache_positions(
        self, positions: PositionArgs, view: GpuView, row_positions: cuda.KernelPositions
    ) -> None:
        """Remember the layout of positions that lie on the GPU, if nothing else says where tokens are."""
        given, offset, bounds, delta, _ = positions
        name, value = ("offset", offset) if given is None else ("positions", given)
        alone = bounds is delta is None and (given is None or offset is None)
        if alone and view.owner is value and memory.owner_of(value) == self._owner:
            key = name, *memory.layout_of(value, self._owner)
            self._positions.keep(key, row_positions._replace(owners=()))

    # ---------------------------------------------------------------------------------------------
    # torch's gradients.

    def _differentiable(
        self,
        rows: RowPositions | cuda.KernelPositions,
        arrays: Sequence[Array],
        positions: PositionArgs,
    ) -> Sequence[Array]:
        """Rotate by an operation that torch differentiates."""
        from rotary.backends.torch import differentiable, kept_for_backward

        results = self.rotate(rows, arrays, positions, None)
        kept = kept_for_backward(positions)
        return differentiable(arrays, results, self._call.transpose, kept)


def _output_names(outputs: Sequence[Any]) -> list[str]:
    return ["out"] if len(outputs) == 1 else [f"out[{i}]" for i in range(len(outputs))]


def _groups(
    passes: Sequence[Passes],
    specs: Sequence[ArraySpec],
    number: int,
    views: Sequence[GpuView],
    targets: Sequence[GpuView],
    batches: Sequence[int | None],
    length: int,
) -> list[_Group]:
    """Return the launches of one pass. Arrays with equal angles, channels and dtype share theirs."""
    alike: dict[Any, list[int]] = {}
    for i, (own, spec, x) in enumerate(zip(passes, specs, views, strict=True)):
        key = (id(own.angles[number]), spec.pairings[number], x.dtype, batches[i])
        alike.setdefault(key, []).append(i)
    groups = []
    for members in alike.values():
        x, spec = views[members[0]], specs[members[0]]
        pairing = spec.pairings[number]
        blocks = []
        for i in members:
            in_place = targets[i].address == views[i].address
            if in_place:
                _check_in_place(pairing, x)
            # The first pass copies the channels that it does not rotate.
            copy = not number and not in_place
            blocks += cuda.blocks_of(i, views[i], targets[i], specs[i].axes, pairing, copy=copy)
        launches = cuda.launches_of(blocks, x, pairing, batches[members[0]], length)
        angles = passes[members[0]].angles[number]
        too_fast = cuda.are_too_fast(angles.frequencies)
        groups.append(_Group(launches, angles, spec.dtype, too_fast))
    return groups


def _check_in_place(pairing: Pairing, x: GpuView) -> None:
    """Raise if a kernel would overwrite channels before it reads them."""
    if pairing.source != pairing.target and x.dtype not in memory.REAL:
        msg = (
            f"`out` must not be the input if the layout changes from {pairing.source!r} to "
            f"{pairing.target!r}: on a GPU other pairs may be read after this one is written"
        )
        raise ValueError(msg)
