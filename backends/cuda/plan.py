"""Plans of calls on a GPU: all that follows from shapes, strides and dtypes, made once and used again.

A call puts in addresses and positions. All its arrays go in as few launches as they have dtypes and runs of
channels, query and key in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.memo import Memo
from rotary._lib.typing import Array, TableDType
from rotary.angles.phases import of_head
from rotary.backends.contract import (
    Angles,
    Axes,
    Call,
    Frame,
    Pairing,
    PositionArgs,
    Rows,
    TracedTable,
    Turns,
    View,
)

from . import launch as cuda
from . import memory
from .tables import window_of

# Arrays of positions that each plan remembers, by how they lie.
LINES_REMEMBERED = 1024
# Of arrays whose memory is interleaved, as in a packed qkv: how they lay when that was proved.
APART_REMEMBERED = 256

# Results of a call: new arrays or outputs, or None if the library's own operations have to rotate.
Results: TypeAlias = Sequence[Array] | None
Run: TypeAlias = Callable[[Sequence[Array], PositionArgs, Sequence[Array] | None], Results]


def plan(call: Call, owner: str) -> Run:
    """Return the plan of a call whose arrays one kind of library owns."""
    # Whatever is made for the call, or asked of a stream, is of the arrays' GPU.
    with memory.driver.scope(memory.device_of(call.arrays[0], owner)):
        if owner == memory.OTHER:
            return _OthersPlan(call)
        seen = [memory.view_of(x, owner) for x in call.arrays]
        to = call.outputs and [memory.view_of(x, owner) for x in call.outputs]
        if all(map(memory.has_contiguous_channels, (*seen, *(to or ())))):
            return Plan(call, owner, seen, to)
        return _CopyingPlan(call, owner, seen)


def _without_arrays(call: Call) -> Call:
    """Return a call that keeps no memory alive: plans outlive calls."""
    return call._replace(arrays=(), outputs=None)


class _OthersPlan:
    """Rotates arrays of a library that is neither CuPy nor torch, as CuPy's of the same memory."""

    def __init__(self, call: Call) -> None:
        self._call = _without_arrays(call)
        # How CuPy's arrays lie is known only when they are made.
        self._planned: tuple[Any, Run] | None = None

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None
    ) -> Results:
        with memory.driver.scope(memory.device_of(arrays[0], memory.OTHER)):
            names = self._call.names
            ours = [memory.adopted(x, name) for x, name in zip(arrays, names, strict=True)]
            to = None if outputs is None else self._adopted(outputs, arrays, ours)
            if outputs is not None:
                self._call.check_outputs(arrays, outputs)
            results = self._plan(ours, to)(ours, positions, to)
            memory.driver.hold([*ours, *(to or ())])
            if results is None or outputs is not None:
                return results and outputs
            return [
                memory.handed_back(result, x) for result, x in zip(results, arrays, strict=True)
            ]

    def _adopted(
        self, outputs: Sequence[Array], arrays: Sequence[Array], ours: Sequence[Array]
    ) -> list[Array]:
        to = []
        for x, own, output, name in zip(arrays, ours, outputs, _output_names(outputs), strict=True):
            if memory.is_read_only(output):
                msg = f"`{name}` must be writeable, got a read-only array"
                raise ValueError(msg)
            to.append(own if output is x else memory.adopted(output, name))
        return to

    def _plan(self, arrays: Sequence[Array], outputs: Sequence[Array] | None) -> Run:
        key = memory.key_of(arrays, outputs, memory.CUPY)
        if self._planned is None or self._planned[0] != key:
            call = self._call._replace(arrays=arrays, outputs=outputs)
            self._planned = key, plan(call, memory.CUPY)
        return self._planned[1]


class _CopyingPlan:
    """Rotates copies of arrays, because kernels read channels that lie one after another."""

    def __init__(self, call: Call, owner: str, seen: Sequence[View]) -> None:
        self._check_outputs = call.check_outputs
        self._device = seen[0].device
        self._run = Plan(call, owner, [memory.in_rows(x) for x in seen], None)

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
    """Launches that turn by the same angles, made of the positions or looked up in tables of a dtype."""

    launches: list[cuda.Launch]
    angles: Angles
    dtype: TableDType


class Plan:
    """All of a call that follows from shapes, strides, dtypes and what the arrays turn by.

    Parameters
    ----------
    call : Call
    owner : str
        CuPy or torch.
    seen : sequence of View
        The arrays.
    to : sequence of View or None
        The outputs.
    """

    def __init__(
        self, call: Call, owner: str, seen: Sequence[View], to: Sequence[View] | None
    ) -> None:
        names = call.names
        memory.check_devices(seen, names)
        memory.check_aligned(seen, names)
        if to is not None:
            memory.check_devices([seen[0], *to], [names[0], *_output_names(to)])
            memory.check_aligned(to, _output_names(to))
        frames = call.frames
        self._batches = [
            None if frame.axes.batch is None else x.shape[frame.axes.batch]
            for x, frame in zip(seen, frames, strict=True)
        ]
        length = seen[0].shape[frames[0].axes.sequence]
        rows = length * max(batch or 1 for batch in self._batches)
        if rows > cuda.MOST_ROWS:
            msg = f"`{names[0]}` must have fewer than 2**31 rows, got {rows}"
            raise ValueError(msg)
        self._call = _without_arrays(call)
        self._owner = owner
        self._device = seen[0].device
        see = partial(memory.seen_on, owner, self._device)
        self._extent = call.extent._replace(see=see)
        wanted = [memory.like(x, owner) for x in seen]
        self._blanks = [memory.blank(each, owner, like=each.dtype) for each in wanted]
        self._passes = [
            _groups(call.passes, frames, number, seen, to or wanted, self._batches, length)
            for number in range(len(call.passes[0].angles))
        ]
        self._spans = [memory.span_of(view) for view in (*seen, *(to or ()))]
        self._pairs = _pairs_apart(seen, to or ())
        self._apart: Memo[tuple[int, ...], bool] = Memo(APART_REMEMBERED)
        self._trigs: dict[tuple[int, bool, bool], cuda.Trig] = {}
        self._lines: Memo[Any, cuda.Places] = Memo(LINES_REMEMBERED)
        self._heads = call.passes[0].angles[0].frequencies.heads
        self._parts: dict[Any, Plan] = {}
        self._needs_rows = any(
            angles.scale is not None or cuda.are_too_fast(angles.frequencies)
            for own in call.passes
            for angles in own.angles
        )

    # ---------------------------------------------------------------------------------------------
    # Memory that is written to.

    def _are_apart(self, addresses: Sequence[int]) -> bool:
        """Return whether it is known that no output shares memory with what it must not."""
        spans = self._spans
        for i, j in self._pairs:
            a, b = addresses[i], addresses[j]
            if a + spans[i][0] < b + spans[j][1] and b + spans[j][0] < a + spans[i][1]:
                return self._apart.get(_distances(addresses)) is not None
        return True

    def _found_apart(self, addresses: Sequence[int]) -> None:
        """Remember what has been proved of memory that is interleaved."""
        self._apart.keep(_distances(addresses), True)

    # ---------------------------------------------------------------------------------------------
    # Running.

    def __call__(
        self, arrays: Sequence[Array], positions: PositionArgs, outputs: Sequence[Array] | None
    ) -> Results:
        """Return results, on the current stream of the arrays' library."""
        xs, ys = memory.addresses_of(arrays, self._owner), None
        if outputs is not None:
            ys = memory.addresses_of(outputs, self._owner)
            if not self._are_apart([*xs, *ys]):
                self._call.check_outputs(arrays, outputs)
                self._found_apart([*xs, *ys])
        with memory.driver.scope(self._device):
            if self._owner == memory.CUPY:
                return self._rotated(arrays, positions, outputs, (xs, ys), nullcontext())
            stream = memory.stream_of(self._owner, self._device)
            on_stream = memory.driver.stream(stream, self._device)
            if memory.asks_for_gradient([*arrays, *(outputs or ())]):
                # Of what is written to, autograd must know how it came to be: only torch's own
                # operations tell it.
                if outputs is not None:
                    return None
                return self._differentiable(arrays, positions, stream)
            results = self._rotated(arrays, positions, outputs, (xs, ys), on_stream)
        if outputs is not None and results is not None:
            memory.told_written(outputs)
        return results

    def _rotated(
        self,
        arrays: Sequence[Array],
        positions: PositionArgs,
        outputs: Sequence[Array] | None,
        addresses: tuple[Sequence[int], Sequence[int] | None],
        on_stream: AbstractContextManager[Any],
    ) -> Results:
        """Return results, on the current GPU."""
        # Read before the library's stream is the current one, which waits for what another one has to do first.
        rows = self._line(positions) or self._call.read(positions, self._extent)
        xs, ys = addresses
        with on_stream:
            if isinstance(rows, Rows):
                if rows.by_axis:
                    return self._by_axis(arrays, positions, outputs, rows)
                if not _are_known(rows):
                    return None
            if outputs is None or ys is None:
                outputs = memory.empty(self._blanks, arrays)
                ys = memory.addresses_of(outputs, self._owner)
            self._launch(rows, xs, ys, partial(self._read_again, positions), positions)
        return outputs

    def _read_again(self, positions: PositionArgs) -> Rows:
        """Return positions as their library's own arrays, whose operations make tables on their GPU."""
        return self._call.read(positions, self._call.extent)

    def _launch(
        self,
        rows: Rows | cuda.Places,
        xs: Sequence[int],
        ys: Sequence[int],
        again: Callable[[], Rows],
        positions: PositionArgs | None = None,
    ) -> None:
        """Launch on the current GPU and stream, given the addresses of all arrays and results."""
        places = rows if isinstance(rows, cuda.Places) else None
        for groups in self._passes:
            for launches, angles, dtype in groups:
                if isinstance(rows, Rows) and _needs_table(angles, rows):
                    trig, own = self._table(angles, rows, dtype, again)
                else:
                    if places is None:
                        assert isinstance(rows, Rows)
                        places = cuda.places_of(rows)
                        self._keep_line(positions, rows, places)
                    own = places
                    # The kernels make angles by themselves, on one axis where positions are alike on all.
                    source = (id(angles), places.floats, places.alike)
                    found = self._trigs.get(source)
                    if found is None:
                        found = cuda.turns_of(angles, self._device, places)
                        self._trigs[source] = found
                    trig = found
                for launch in launches:
                    launch(xs, ys, trig, own)
        if isinstance(rows, Rows) and (read := _read_on_gpu(rows)):
            memory.driver.hold(read)

    def _by_axis(
        self,
        arrays: Sequence[Array],
        positions: PositionArgs,
        outputs: Sequence[Array] | None,
        rows: Rows,
    ) -> Results:
        """Return results for positions that differ on further axes, by launches for each index of these."""
        if not _are_known(replace(rows, by_axis=False)):
            return None
        if outputs is None:
            outputs = memory.empty(self._blanks, arrays)
        for i, (x, result) in enumerate(zip(arrays, outputs, strict=True)):
            own, axes = rows.along(self._call.frames[i].axes, self._heads)
            assert own.positions is not None
            for index in np.ndindex(own.positions.shape[1 : len(axes.apart) + 1]):
                where = axes.at(index, x.ndim)
                part, to = (memory.view_of(each[where], self._owner) for each in (x, result))
                again = partial(self._part_again, positions, i, index)
                head = index[0] if own.by_head else None
                self._part(i, axes, head, part, to)._launch(
                    own.at(index), [part.address], [to.address], again
                )
        return outputs

    def _part_again(self, positions: PositionArgs, i: int, index: tuple[int, ...]) -> Rows:
        """Return the positions of a part of an array as their library's own arrays."""
        own, _ = self._read_again(positions).along(self._call.frames[i].axes, self._heads)
        return own.at(index)

    def _part(self, i: int, axes: Axes, head: int | None, x: View, y: View) -> Plan:
        """Return the plan of a part of an array, at one index of the axes on which positions differ."""
        found = self._parts.get((i, axes, head))
        if found is None:
            passes, frame = self._call.passes[i], self._call.frames[i]
            if head is not None:
                angles = tuple(
                    each._replace(frequencies=of_head(each.frequencies, head))
                    for each in passes.angles
                )
                passes = passes._replace(angles=angles)
            call = self._call._replace(
                names=self._call.names[i : i + 1],
                passes=(passes,),
                frames=(frame._replace(axes=axes.without_apart()),),
            )
            made = Plan(call, self._owner, [x], [y])
            found = self._parts.setdefault((i, axes, head), made)
        return found

    def _table(
        self, angles: Angles, rows: Rows, dtype: TableDType, again: Callable[[], Rows]
    ) -> tuple[cuda.Trig, cuda.Places]:
        """Return angles as tables, and which row of them every row reads."""
        if rows.start is not None:
            window = window_of(angles, rows, dtype, self._device, self._call.table)
            index = replace(rows, start=rows.start - window.first, limit=None)
            return window.trig, cuda.places_of(index)
        if isinstance(rows.positions, View):
            table = self._call.table(angles, again(), dtype)
            assert isinstance(table, TracedTable)
            return cuda.tables_of(table.cosine, table.sine)
        if rows.bounds is not None:
            msg = (
                "`cu_seqlens` must be known, or all sequences begin with one number, where angles are read from "
                "tables, as with `decay`: pass `positions` instead"
            )
            raise TypeError(msg)
        table = self._call.table(angles, rows, dtype)
        assert not isinstance(table, TracedTable)
        index = Rows(table.index[None], None, rows.length, counting=table.step == 1)
        return cuda.uploaded_table(table.values), cuda.places_of(index)

    # What a decoder asks for token after token: rows that count up, or positions in an array on the GPU.

    def _line(self, positions: PositionArgs) -> cuda.Places | None:
        """Return where rows stand, from a call like this one; None where it has to be read."""
        given, offset, bounds, delta = positions
        if self._needs_rows or bounds is not None or delta is not None:
            return None
        name, value = "positions", given
        if given is None:
            name, value = "offset", 0 if offset is None else offset
            if type(value) is int:
                near = self._call.limit is None and 0 <= value < cuda.FAR
                return cuda.counted_from(value) if near else None
        elif offset is not None:
            return None
        if not self._lines.held or memory.owner_of(value) != self._owner:
            return None
        if memory.asks_for_gradient([value]):
            return None
        found = self._lines.get((name, *memory.layout_of(value, self._owner)))
        return None if found is None else found.moved(memory.view_of(value, self._owner))

    def _keep_line(self, positions: PositionArgs | None, rows: Rows, places: cuda.Places) -> None:
        """Remember where rows stand by positions that lie on the GPU."""
        named = None if positions is None else _named(positions)
        view = rows.positions
        if named is None or not isinstance(view, View) or view.owner is not named[1]:
            return
        if memory.owner_of(view.owner) == self._owner:
            key = named[0], *memory.layout_of(view.owner, self._owner)
            self._lines.keep(key, places._replace(owners=()))

    # ---------------------------------------------------------------------------------------------
    # torch's gradients.

    def _differentiable(
        self, arrays: Sequence[Array], positions: PositionArgs, stream: int | None
    ) -> Results:
        """Return results that torch differentiates."""
        rows = self._call.read(positions, self._extent)
        if not _are_known(rows):
            return None
        # Those of the host may be written to before the gradient is asked for.
        given, offset, bounds, delta = (
            deepcopy(each) if isinstance(each, list | tuple | np.ndarray) else each
            for each in positions
        )

        def forward(arrays: Sequence[Array]) -> tuple[Array, ...]:
            with memory.driver.stream(stream, self._device):
                results = memory.empty(self._blanks, arrays)
                xs, ys = (memory.addresses_of(each, self._owner) for each in (arrays, results))
                self._launch(rows, xs, ys, partial(self._read_again, positions), positions)
            return tuple(results)

        def backward(gradients: Sequence[Array]) -> Sequence[Array]:
            return self._call.transpose(gradients, (given, offset, bounds, delta))

        results: tuple[Array, ...] = _autograd_function().apply(
            forward, backward, _read_on_gpu(rows), *arrays
        )
        return results


def _output_names(outputs: Sequence[Any]) -> list[str]:
    return ["out"] if len(outputs) == 1 else [f"out[{i}]" for i in range(len(outputs))]


def _groups(
    passes: Sequence[Turns],
    frames: Sequence[Frame],
    number: int,
    seen: Sequence[View],
    to: Sequence[View],
    batches: Sequence[int | None],
    length: int,
) -> list[_Group]:
    """Return the launches of one pass, for arrays that turn alike together."""
    alike: dict[Any, list[int]] = {}
    for i, (own, frame, x) in enumerate(zip(passes, frames, seen, strict=True)):
        key = (id(own.angles[number]), frame.pairings[number], x.dtype, batches[i])
        alike.setdefault(key, []).append(i)
    groups = []
    for members in alike.values():
        x, frame = seen[members[0]], frames[members[0]]
        pairing = frame.pairings[number]
        blocks = []
        for i in members:
            in_place = to[i].address == seen[i].address
            if in_place:
                _check_in_place(pairing, x)
            # Channels that no pass turns, or a later one does, are copied by the first.
            copy = not number and not in_place
            blocks += cuda.blocks_of(i, seen[i], to[i], frames[i].axes, pairing, copy=copy)
        launches = cuda.launches_of(blocks, x, pairing, batches[members[0]], length)
        groups.append(_Group(launches, passes[members[0]].angles[number], frame.dtype))
    return groups


def _check_in_place(pairing: Pairing, x: View) -> None:
    """Raise if a kernel would write channels that it has still to read."""
    if pairing.source != pairing.target and x.dtype not in memory.REAL:
        msg = (
            f"`out` must not be the input where channels change from {pairing.source!r} to "
            f"{pairing.target!r}: on a GPU pairs are read and written side by side"
        )
        raise ValueError(msg)


def _pairs_apart(seen: Sequence[View], to: Sequence[View]) -> list[tuple[int, int]]:
    """Return which memory must be apart from which, by number: inputs first, then outputs."""
    pairs = []
    count = len(seen)
    for i, y in enumerate(to):
        for j, x in enumerate(seen):
            if i != j or (y.address, y.strides) != (x.address, x.strides):
                pairs.append((count + i, j))
        pairs += [(count + i, count + j) for j in range(i)]
    return pairs


def _distances(addresses: Sequence[int]) -> tuple[int, ...]:
    """Return how far from the first one memory lies."""
    return tuple([address - addresses[0] for address in addresses])


def _needs_table(angles: Angles, rows: Rows) -> bool:
    """Return whether angles cannot be made by the kernels."""
    if angles.scale is not None:
        return True
    floats = rows.positions is not None and "float" in str(rows.positions.dtype)
    return floats and cuda.are_too_fast(angles.frequencies)


def _are_known(rows: Rows) -> bool:
    """Return whether kernels can read the positions: not if they are traced, or have a size for each axis."""
    return not rows.by_axis and (not rows.traced or isinstance(rows.positions, View))


def _read_on_gpu(rows: Rows) -> list[Any]:
    """Return what kernels read of positions that lie on the GPU."""
    return [part.owner for part in (rows.positions, rows.bounds) if isinstance(part, View)]


def _named(positions: PositionArgs) -> tuple[str, Any] | None:
    """Return positions or offset of a call, by name; None where they are not all it gives."""
    given, offset, bounds, delta = positions
    if bounds is not None or delta is not None:
        return None
    if given is None:
        return "offset", 0 if offset is None else offset
    return None if offset is not None else ("positions", given)


@cache
def _autograd_function() -> Any:
    """Return the rotation as torch differentiates it: linear, so that its backward is its transpose."""
    import torch

    class Rotation(torch.autograd.Function):  # type: ignore[misc]  # torch is not read here
        @staticmethod
        def forward(
            forward: Callable[[Sequence[Array]], tuple[Array, ...]],
            backward: Any,  # noqa: ARG004  (`setup_context` reads it)
            held: Any,  # noqa: ARG004  (`setup_context` reads it)
            *arrays: Array,
        ) -> tuple[Array, ...]:
            return forward(arrays)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            _, ctx.backwards, held, *_ = inputs
            # Positions that are written to before the gradient is asked for are thereby noticed.
            ctx.save_for_backward(*[x for x in held if isinstance(x, torch.Tensor)])
            ctx.mark_non_differentiable(
                *[y for y, asks in zip(output, ctx.needs_input_grad[3:], strict=True) if not asks]
            )

        @staticmethod
        def backward(ctx: Any, *gradients: Array) -> tuple[Any, ...]:
            _ = ctx.saved_tensors
            return None, None, None, *ctx.backwards(gradients)

    return Rotation
