"""Plans of calls on a GPU: everything except addresses and positions.

A call fills in addresses and positions. Arrays that share dtype and channels go into one launch, such as query and
key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from operator import mod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.memo import Memo
from rotary._lib.typing import Array, TableDType
from rotary.angles.phases import of_head
from rotary.backends.contract import (
    Angles,
    ArraySpec,
    Axes,
    Call,
    GpuView,
    Pairing,
    Passes,
    PositionArgs,
    RowPositions,
    TracedTable,
)

from . import launch as cuda
from . import memory
from .tables import window_of

# All dtypes of positions that kernels read are aligned at multiples of it.
POSITION_BYTES = 8
# Layouts of position arrays that each plan remembers.
POSITIONS_REMEMBERED = 1024
# Address differences of interleaved arrays, such as slices of a packed qkv, that were proved not to overlap.
DISJOINT_REMEMBERED = 256

# New arrays or outputs, or None, with no side effects, if kernels cannot read the positions or record the gradient.
Results: TypeAlias = Sequence[Array] | None
Run: TypeAlias = Callable[[Sequence[Array], PositionArgs, Sequence[Array] | None], Results]


def plan(call: Call, owner: str) -> Run:
    """Return the plan of a call whose arrays belong to one kind of library, `owner`."""
    # Allocations and streams belong to the current GPU, so this must be the arrays' own.
    with memory.driver.scope(memory.device_of(call.arrays[0], owner)):
        if owner == memory.OTHER:
            return _ForeignPlan(call)
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
        # The plan of the CuPy arrays, with its key: their strides are not known before a call.
        self._planned: tuple[Any, Run] | None = None

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None
    ) -> Results:
        with memory.driver.scope(memory.device_of(arrays[0], memory.OTHER)):
            names = self._call.names
            ours = [memory.as_cupy(x, name) for x, name in zip(arrays, names, strict=True)]
            targets = None if outputs is None else self._outputs_as_cupy(outputs, arrays, ours)
            if outputs is not None:
                self._call.check_outputs(arrays, outputs)
            results = self._plan(ours, targets)(ours, positions, targets)
            memory.driver.keep_alive([*ours, *(targets or ())])
            if results is None or outputs is not None:
                return results and outputs
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

    def _plan(self, arrays: Sequence[Array], outputs: Sequence[Array] | None) -> Run:
        key = memory.key_of(arrays, outputs, memory.CUPY)
        planned = self._planned  # read once, because another thread may replace it
        if planned is None or planned[0] != key:
            call = self._call._replace(arrays=arrays, outputs=outputs)
            planned = self._planned = key, plan(call, memory.CUPY)
        return planned[1]


class _CopyingPlan:
    """The plan for arrays whose channels are not contiguous. It rotates copies, because kernels need them to be."""

    def __init__(self, call: Call, owner: str, views: Sequence[GpuView]) -> None:
        self._check_outputs = call.check_outputs
        self._device = views[0].device
        self._run = Plan(call, owner, [memory.row_major(x) for x in views], None)

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None
    ) -> Results:
        if outputs is not None:
            self._check_outputs(arrays, outputs)
        with memory.driver.scope(self._device):
            results = self._run([memory.contiguous(x) for x in arrays], positions, None)
            if outputs is None or results is None:
                return results
            for output, result in zip(outputs, results, strict=True):
                memory.assign(output, result)
        return outputs


class _Group(NamedTuple):
    """Launches that share their angles, and the dtype of the table in case the angles need one."""

    launches: list[cuda.Launch]
    angles: Angles
    dtype: TableDType


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
        self._sizes = [memory.channel_size(view) for view in (*views, *(targets or ()))]
        self._spans = [memory.span_of(view) for view in (*views, *(targets or ()))]
        self._pairs = _must_be_disjoint(views, targets or ())
        self._disjoint: Memo[tuple[int, ...], bool] = Memo(DISJOINT_REMEMBERED)
        self._angle_sources: dict[tuple[int, bool, bool], cuda.AngleSource] = {}
        self._positions: Memo[Any, cuda.KernelPositions] = Memo(POSITIONS_REMEMBERED)
        self._heads = call.passes[0].angles[0].frequencies.heads
        self._parts: dict[Any, Plan] = {}
        self._may_need_table = any(
            angles.scale is not None or cuda.are_too_fast(angles.frequencies)
            for own in call.passes
            for angles in own.angles
        )

    # ---------------------------------------------------------------------------------------------
    # Overlap.

    def _outputs_disjoint(self, addresses: Sequence[int]) -> bool:
        """Return whether the outputs are known to overlap no other array of the call."""
        spans = self._spans
        for i, j in self._pairs:
            a, b = addresses[i], addresses[j]
            if a + spans[i][0] < b + spans[j][1] and b + spans[j][0] < a + spans[i][1]:
                return self._disjoint.get(_distances(addresses)) is not None
        return True

    def _mark_disjoint(self, addresses: Sequence[int]) -> None:
        """Remember that outputs do not overlap, as `check_outputs` has proved."""
        self._disjoint.keep(_distances(addresses), True)

    # ---------------------------------------------------------------------------------------------
    # Running.

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None
    ) -> Results:
        """Rotate on the current stream of the arrays' library."""
        xs, ys = memory.addresses_of(arrays, self._owner), None
        addresses = xs
        if outputs is not None:
            ys = memory.addresses_of(outputs, self._owner)
            addresses = xs + ys
            if not self._outputs_disjoint(addresses):
                self._call.check_outputs(arrays, outputs)
                self._mark_disjoint(addresses)
        if any(map(mod, addresses, self._sizes)):
            self._check_aligned(arrays, outputs)
        with memory.driver.scope(self._device):
            if self._owner == memory.CUPY:
                return self._rotated(arrays, positions, outputs, (xs, ys), nullcontext())
            stream = memory.stream_of(self._owner, self._device)
            on_stream = memory.driver.stream(stream, self._device)
            if memory.asks_for_gradient([*arrays, *(outputs or ())]):
                # Autograd records a write to `out` only if torch's own operations do it.
                if outputs is not None:
                    return None
                return self._differentiable(arrays, positions, stream)
            results = self._rotated(arrays, positions, outputs, (xs, ys), on_stream)
        if outputs is not None and results is not None:
            memory.bump_version(outputs)
        return results

    def _check_aligned(self, arrays: Sequence[Array], outputs: Sequence[Array] | None) -> None:
        """Raise for arrays that are not aligned, although others of their layout were."""
        for group, names in (
            (arrays, self._call.names),
            (outputs or (), _output_names(outputs or ())),
        ):
            memory.check_aligned([memory.view_of(x, self._owner) for x in group], names)

    def _rotated(
        self,
        arrays: Sequence[Array],
        positions: PositionArgs,
        outputs: Sequence[Array] | None,
        addresses: tuple[Sequence[int], Sequence[int] | None],
        on_stream: AbstractContextManager[Any],
    ) -> Results:
        """Rotate on the current GPU."""
        # Positions are read outside `on_stream`: to read those of CuPy, torch's stream waits for CuPy's current stream.
        rows = self._cached_positions(positions) or self._call.read(positions, self._extent)
        xs, ys = addresses
        with on_stream:
            if isinstance(rows, RowPositions):
                if rows.per_array_axis:
                    return self._by_axis(arrays, positions, outputs, rows)
                if rows.start is None and not _are_known(rows):
                    return None
            if outputs is None or ys is None:
                outputs = memory.empty(self._specs, arrays)
                ys = memory.addresses_of(outputs, self._owner)
            self._launch(rows, xs, ys, partial(self._read_again, positions), positions)
        return outputs

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
        for groups in self._passes:
            for launches, angles, dtype in groups:
                if isinstance(rows, RowPositions) and (
                    angles.scale is not None or _needs_table(angles, rows)
                ):
                    angle_source, own = self._table(angles, rows, dtype, read_again)
                else:
                    if row_positions is None:
                        assert isinstance(rows, RowPositions)
                        row_positions = cuda.row_positions(rows)
                        self._cache_positions(positions, rows, row_positions)
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
        if isinstance(rows, RowPositions) and (rows.start is None or rows.bounds is not None):
            read = _gpu_arrays(rows)
            if read:
                memory.driver.keep_alive(read)

    def _by_axis(
        self,
        arrays: Sequence[Array],
        positions: PositionArgs,
        outputs: Sequence[Array] | None,
        rows: RowPositions,
    ) -> Results:
        """Rotate by positions that differ on more axes than batch and sequence, with launches for each index."""
        if not _are_known(replace(rows, per_array_axis=False)):
            return None
        if outputs is None:
            outputs = memory.empty(self._specs, arrays)
        for i, (x, result) in enumerate(zip(arrays, outputs, strict=True)):
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
        return outputs

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

    def _table(
        self,
        angles: Angles,
        rows: RowPositions,
        dtype: TableDType,
        read_again: Callable[[], RowPositions],
    ) -> tuple[cuda.AngleSource, cuda.KernelPositions]:
        """Return angles as a table on the GPU, and which of its rows each token reads."""
        if rows.start is not None:
            window = window_of(angles, rows, dtype, self._device, self._call.table)
            index = replace(rows, start=rows.start - window.first, limit=None)
            return window.angle_source, cuda.row_positions(index)
        if isinstance(rows.positions, GpuView):
            table = self._call.table(angles, read_again(), dtype)
            assert isinstance(table, TracedTable)
            return cuda.tables_of(table.cosine, table.sine)
        if rows.bounds is not None:
            msg = (
                "`cu_seqlens` must be known on the host, or all sequences must begin at one position, if angles are "
                "read from a table, as with `decay`: pass `positions` instead"
            )
            raise TypeError(msg)
        table = self._call.table(angles, rows, dtype)
        assert not isinstance(table, TracedTable)
        index = RowPositions(table.index[None], None, rows.length, consecutive=table.step == 1)
        return cuda.uploaded_table(table.values), cuda.row_positions(index)

    # A decoder passes the same kind of positions for each token: an integer offset, or an array on the GPU.

    def _cached_positions(self, positions: PositionArgs) -> cuda.KernelPositions | None:
        """Return positions without reading them as the first call did; None if they have to be read."""
        given, offset, bounds, delta = positions
        if self._may_need_table or bounds is not None or delta is not None:
            return None
        name, value = "positions", given
        if given is None:
            name, value = "offset", 0 if offset is None else offset
            if type(value) is int:
                near = self._call.limit is None and 0 <= value < cuda.FAR
                return cuda.consecutive_from(value) if near else None
        elif offset is not None:
            return None
        if not self._positions.held or memory.owner_of(value) != self._owner:
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
        self,
        positions: PositionArgs | None,
        rows: RowPositions,
        row_positions: cuda.KernelPositions,
    ) -> None:
        """Remember the layout of positions that lie on the GPU."""
        named = None if positions is None else _named(positions)
        view = rows.positions
        if named is None or not isinstance(view, GpuView) or view.owner is not named[1]:
            return
        if memory.owner_of(view.owner) == self._owner:
            key = named[0], *memory.layout_of(view.owner, self._owner)
            self._positions.keep(key, row_positions._replace(owners=()))

    # ---------------------------------------------------------------------------------------------
    # torch's gradients.

    def _differentiable(
        self, arrays: Sequence[Array], positions: PositionArgs, stream: int | None
    ) -> Results:
        """Rotate by an operation that torch differentiates."""
        from rotary.backends.torch import differentiable_together

        rows = self._call.read(positions, self._extent)
        if not _are_known(rows):
            return None
        # The caller may write to positions on the host before the gradient is computed.
        given, offset, bounds, delta = (
            deepcopy(each) if isinstance(each, list | tuple | np.ndarray) else each
            for each in positions
        )

        with memory.driver.stream(stream, self._device):
            results = memory.empty(self._specs, arrays)
            xs, ys = (memory.addresses_of(each, self._owner) for each in (arrays, results))
            self._launch(rows, xs, ys, partial(self._read_again, positions), positions)
        return differentiable_together(
            arrays,
            results,
            partial(_transpose, self._call, (given, offset, bounds, delta)),
            _gpu_arrays(rows),
        )


def _transpose(call: Call, positions: PositionArgs, gradients: Sequence[Array]) -> Sequence[Array]:
    return call.transpose(gradients, positions)


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
        groups.append(_Group(launches, passes[members[0]].angles[number], spec.dtype))
    return groups


def _check_in_place(pairing: Pairing, x: GpuView) -> None:
    """Raise if a kernel would overwrite channels before it reads them."""
    if pairing.source != pairing.target and x.dtype not in memory.REAL:
        msg = (
            f"`out` must not be the input if the layout changes from {pairing.source!r} to "
            f"{pairing.target!r}: on a GPU other pairs may be read after this one is written"
        )
        raise ValueError(msg)


def _must_be_disjoint(
    views: Sequence[GpuView], targets: Sequence[GpuView]
) -> list[tuple[int, int]]:
    """Return the pairs of arrays that must not overlap, by number: inputs first, then outputs."""
    pairs = []
    count = len(views)
    for i, y in enumerate(targets):
        for j, x in enumerate(views):
            if i != j or (y.address, y.strides) != (x.address, x.strides):
                pairs.append((count + i, j))
        pairs += [(count + i, count + j) for j in range(i)]
    return pairs


def _distances(addresses: Sequence[int]) -> tuple[int, ...]:
    """Return addresses relative to the first one."""
    return tuple([address - addresses[0] for address in addresses])


def _needs_table(angles: Angles, rows: RowPositions) -> bool:
    """Return whether the kernels cannot compute the angles, which no scale multiplies."""
    floats = rows.positions is not None and "float" in str(rows.positions.dtype)
    return floats and cuda.are_too_fast(angles.frequencies)


def _are_known(rows: RowPositions) -> bool:
    """Return whether kernels can read the positions: neither if they are traced nor if they have the array's axes."""
    return not rows.per_array_axis and (not rows.traced or isinstance(rows.positions, GpuView))


def _gpu_arrays(rows: RowPositions) -> list[Any]:
    """Return the arrays on the GPU that kernels read positions from."""
    return [part.owner for part in (rows.positions, rows.bounds) if isinstance(part, GpuView)]


def _named(positions: PositionArgs) -> tuple[str, Any] | None:
    """Return `positions` or `offset` with its name, or None if the call gives more than one argument."""
    given, offset, bounds, delta = positions
    if bounds is not None or delta is not None:
        return None
    if given is None:
        return "offset", 0 if offset is None else offset
    return None if offset is not None else ("positions", given)
