"""How calls on a GPU are launched: all that follows from shapes, strides and dtypes, made once and used again.

A call puts in addresses and where rows stand. All its arrays go in as few launches as they have dtypes and
runs of channels, query and key in one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.fields import cached_property
from rotary._lib.memo import Memo
from rotary._lib.typing import Array, TableDType
from rotary.angles.phases import of_head
from rotary.backends.contract import Angles, Rows, Turns, View
from rotary.backends.cuda import launch as cuda
from rotary.backends.cuda import memory
from rotary.backends.traced import traced_table
from rotary.tables import lookup as tables

from .arrays import names_of, names_of_outputs
from .rows import Extent, Read, Where
from .shapes import NO_BATCH, AxisOptions, Frame, frames_of, shape_of

# Arrays of positions whose places are remembered, by how they lie.
LINES_REMEMBERED = 1024
# Of arrays whose memory is interleaved, as in a packed qkv: how they lay when that was proved.
APART_REMEMBERED = 256
# Tables on GPUs, and the rows of a page of them.
WINDOWS_REMEMBERED, PAGE = 32, 1024

Rotate: TypeAlias = Callable[..., Any]


class Options(NamedTuple):
    """How the arrays of a call are to be read."""

    head_dim: int
    leading: bool
    axes: AxisOptions


class Call(NamedTuple):
    """What one call asks for, besides its arrays."""

    owner: str
    turns: Sequence[Turns]
    options: Options
    read: Read
    otherwise: Rotate


# Results of a call: new arrays or outputs, or None where kernels have no part in it.
Results: TypeAlias = tuple[Array, ...] | None


# ------------------------------------------------------------------------------------------------
# Tables.


class _Window(NamedTuple):
    """Tables of rows that count up from a first one, on a GPU."""

    angles: Angles  # whose identity is part of a key
    first: int
    stop: int
    trig: cuda.Trig


class _Windows:
    """Tables that lie on GPUs, the one that was asked for least recently dropped.

    Each serves one stream: on another it might be read before it is there, or written over after it is dropped.
    """

    def __init__(self) -> None:
        self._kept: Memo[Any, _Window] = Memo(WINDOWS_REMEMBERED)

    @property
    def held(self) -> OrderedDict[Any, _Window]:
        """The windows by all that tells them apart."""
        return self._kept.held

    def of(self, angles: Angles, rows: Rows, dtype: TableDType, device: int) -> _Window:
        """Return a window that holds rows which count up."""
        assert rows.start is not None
        start, stop = rows.start, rows.start + rows.length
        key = id(angles), dtype, device, memory.driver.current_stream(), start // PAGE
        window = self._kept.get(key)
        if window is None or not window.first <= start <= stop <= window.stop:
            window = self._kept.keep(key, self._made(angles, start, stop, dtype))
        return window

    def _made(self, angles: Angles, start: int, stop: int, dtype: TableDType) -> _Window:
        """Return a window in whole pages, or of what is asked for where some other row has no value."""
        first, last = start - start % PAGE, stop + -stop % PAGE
        try:
            table = tables.lookup(angles, Rows(None, first, last - first), dtype)
        except (OverflowError, ValueError):
            first, last = start, stop
            table = tables.lookup(angles, Rows(None, first, last - first), dtype)
        return _Window(angles, first, last, cuda.uploaded_table(table.values))


_windows = _Windows()


# ------------------------------------------------------------------------------------------------
# Plans.


class _Group(NamedTuple):
    """Launches that turn by the same angles, made of the positions or looked up in tables of a dtype."""

    launches: list[cuda.Launch]
    angles: Angles
    dtype: TableDType


class Plan:
    """All of a call that follows from shapes, strides, dtypes and what the arrays turn by."""

    def __init__(
        self,
        call: Call,
        arrays: Sequence[Array],
        seen: Sequence[View],
        to: Sequence[View] | None,
    ) -> None:
        names = names_of(arrays)
        memory.check_devices(seen, names)
        memory.check_aligned(seen, names)
        if to is not None:
            memory.check_devices([seen[0], *to], [names[0], *names_of_outputs(to)])
            memory.check_aligned(to, names_of_outputs(to))
        head_dim, leading, axes = call.options
        shapes = tuple(map(shape_of, arrays, names))
        first = call.turns[0]
        frequencies = first.angles[0].frequencies
        frames, fits, length = frames_of(shapes, axes, head_dim, first.pairings, frequencies.heads)
        rows = length * max(each.batch or 1 for each in fits)
        if rows > cuda.MOST_ROWS:
            msg = f"`{names[0]}` must have fewer than 2**31 rows, got {rows}"
            raise ValueError(msg)
        self.turns = call.turns  # whose identity is part of the key
        self.device = seen[0].device
        see = partial(memory.seen_on, call.owner, self.device)
        self.extent = Extent(fits, length, frequencies.axes, leading, see)
        self.wanted = [memory.like(x, call.owner) for x in seen]
        self.passes = [
            _groups(call.turns, frames, number, seen, to or self.wanted, self.extent)
            for number in range(len(first.angles))
        ]
        self._spans = [memory.span_of(view) for view in (*seen, *(to or ()))]
        self._pairs = _pairs_apart(seen, to or ())
        self._apart: set[tuple[int, ...]] = set()
        self._trigs: dict[tuple[int, bool, bool], cuda.Trig] = {}
        self._lines: dict[Any, cuda.Places] = {}
        self._heads = frequencies.heads
        self._of_heads: dict[tuple[int, int], Turns] = {}
        self._needs_rows = any(
            angles.scale is not None or cuda.are_too_fast(angles.frequencies)
            for own in call.turns
            for angles in own.angles
        )

    @cached_property
    def backwards(self) -> list[Turns]:
        """The transposed rotation; made once, for its identity is part of a key."""
        return [_transposed(each) for each in self.turns]

    # ---------------------------------------------------------------------------------------------
    # Memory that is written to.

    def are_apart(self, addresses: Sequence[int]) -> bool:
        """Return whether it is known that no output shares memory with what it must not."""
        spans = self._spans
        for i, j in self._pairs:
            a, b = addresses[i], addresses[j]
            if a + spans[i][0] < b + spans[j][1] and b + spans[j][0] < a + spans[i][1]:
                return _distances(addresses) in self._apart
        return True

    def found_apart(self, addresses: Sequence[int]) -> None:
        """Remember what has been proved of memory that is interleaved."""
        if len(self._apart) >= APART_REMEMBERED:
            self._apart.clear()
        self._apart.add(_distances(addresses))

    # ---------------------------------------------------------------------------------------------
    # Running.

    def run(
        self,
        call: Call,
        arrays: Sequence[Array],
        outputs: Sequence[Array] | None,
        seen: Sequence[View],
        to: Sequence[View] | None,
    ) -> Results:
        """Return results, on the current stream of the arrays' library."""
        stream = None
        if call.owner == memory.TORCH:
            stream = memory.stream_of(memory.TORCH, self.device)
            if memory.asks_for_gradient([*arrays, *(outputs or ())]):
                # Of what is written to, autograd must know how it came to be: only torch's own
                # operations tell it.
                return self._differentiable(call, arrays, stream) if outputs is None else None
        rows = self._line(call) or call.read(self.extent)
        if isinstance(rows, Rows) and rows.by_axis:
            return self._by_axis(call, rows, arrays, outputs, stream)
        if not _are_known(rows):
            return None
        with memory.driver.stream(stream, self.device):
            results = self._launched(call, rows, arrays, seen, outputs, to)
        if outputs is not None and call.owner == memory.TORCH:
            memory.told_written(outputs)
        return results

    def _launched(
        self,
        call: Call,
        rows: Rows | cuda.Places,
        arrays: Sequence[Array],
        seen: Sequence[View],
        outputs: Sequence[Array] | None,
        to: Sequence[View] | None,
    ) -> tuple[Array, ...]:
        """Launch, on the current GPU and stream, and return results."""
        if outputs is None or to is None:
            outputs = self._new(call, arrays)
            to = [memory.view_of(each, call.owner) for each in outputs]
        xs, ys = [x.address for x in seen], [y.address for y in to]
        places = rows if isinstance(rows, cuda.Places) else None
        for groups in self.passes:
            for launches, angles, dtype in groups:
                if isinstance(rows, Rows) and _needs_table(angles, rows):
                    trig, own = self._table(call, angles, rows, dtype)
                else:
                    if places is None:
                        assert isinstance(rows, Rows)
                        places = cuda.places_of(rows)
                        self._keep_line(call, rows, places)
                    trig, own = self._turns(angles, places), places
                for launch in launches:
                    launch(xs, ys, trig, own)
        if isinstance(rows, Rows) and (read := _read_on_gpu(rows)):
            memory.driver.hold(read)
        return tuple(outputs)

    def _new(self, call: Call, arrays: Sequence[Array]) -> list[Array]:
        """Return memory for the results, on the current stream."""
        return [
            memory.empty(wanted, x, call.owner)
            for wanted, x in zip(self.wanted, arrays, strict=True)
        ]

    def _by_axis(
        self,
        call: Call,
        rows: Rows,
        arrays: Sequence[Array],
        outputs: Sequence[Array] | None,
        stream: int | None,
    ) -> Results:
        """Return results for positions that differ on further axes, by a call for each index of these."""
        if not _are_known(replace(rows, by_axis=False)):
            return None
        if outputs is None:
            with memory.driver.stream(stream, self.device):
                outputs = self._new(call, arrays)
        for i, (x, turns, result) in enumerate(zip(arrays, call.turns, outputs, strict=True)):
            own, axes = rows.along(self.extent.arrays[i].axes, self._heads)
            rest = axes.without_apart()
            batch = NO_BATCH if rest.batch is None else rest.batch
            options = call.options._replace(axes=AxisOptions((rest.sequence,), (batch,)))
            assert own.positions is not None
            for index in np.ndindex(own.positions.shape[1 : len(axes.apart) + 1]):
                where = axes.at(index, x.ndim)
                part = own.at(index)
                call.otherwise(
                    (x[where],),
                    (self._of_head(i, *index) if own.by_head else turns,),
                    **options._asdict(),
                    read=lambda _, part=part: part,
                    out=(result[where],),
                )
        return tuple(outputs)

    def _of_head(self, i: int, head: int) -> Turns:
        """Return what rotates one head of an array, made once because its identity is part of a key."""
        found = self._of_heads.get((i, head))
        if found is None:
            turns = self.turns[i]
            angles = tuple(
                each._replace(frequencies=of_head(each.frequencies, head)) for each in turns.angles
            )
            found = self._of_heads.setdefault((i, head), turns._replace(angles=angles))
        return found

    def _turns(self, angles: Angles, places: cuda.Places) -> cuda.Trig:
        """Return the angles that kernels make by themselves; one axis where positions are alike on all."""
        key = (id(angles), places.floats, places.alike)
        found = self._trigs.get(key)
        if found is None:
            found = self._trigs[key] = cuda.turns_of(angles, self.device, places)
        return found

    def _table(
        self, call: Call, angles: Angles, rows: Rows, dtype: TableDType
    ) -> tuple[cuda.Trig, cuda.Places]:
        """Return angles as tables, and which row of them every row reads."""
        if rows.start is not None:
            window = _windows.of(angles, rows, dtype, self.device)
            index = replace(rows, start=rows.start - window.first, limit=None)
            return window.trig, cuda.places_of(index)
        if isinstance(rows.positions, View):
            # Read again, as the library's own arrays: this is their arithmetic, on their GPU.
            traced = traced_table(angles, call.read(self.extent._replace(see=None)), dtype)
            return cuda.tables_of(traced.cosine, traced.sine)
        if rows.bounds is not None:
            msg = (
                "`cu_seqlens` must be known, or all sequences begin with one number, where angles are read from "
                "tables, as with `decay`: pass `positions` instead"
            )
            raise TypeError(msg)
        table = tables.lookup(angles, rows, dtype)
        index = Rows(table.index[None], None, rows.length, counting=table.step == 1)
        return cuda.uploaded_table(table.values), cuda.places_of(index)

    # What a decoder asks for token after token: rows that count up, or positions in an array on the GPU.

    def _line(self, call: Call) -> cuda.Places | None:
        """Return where rows stand, from a call like this one; None where it has to be read."""
        named = None if self._needs_rows else _positions_of(call.read)
        if named is None:
            return None
        name, value, limit = named
        if type(value) is int:
            if name == "offset" and limit is None and 0 <= value < cuda.FAR:
                return cuda.counted_from(value)
            return None
        if not self._lines or memory.owner_of(value) != call.owner:
            return None
        if memory.asks_for_gradient([value]):
            return None
        seen = memory.view_of(value, call.owner)
        found = self._lines.get((name, limit, seen[1:5]))
        return None if found is None else found.moved(seen)

    def _keep_line(self, call: Call, rows: Rows, places: cuda.Places) -> None:
        """Remember where rows stand by positions that lie on the GPU."""
        named, view = _positions_of(call.read), rows.positions
        if named is None or not isinstance(view, View) or view.owner is not named[1]:
            return
        if memory.owner_of(view.owner) == call.owner:
            if len(self._lines) >= LINES_REMEMBERED:
                self._lines.clear()
            seen = memory.view_of(view.owner, call.owner)
            self._lines[named[0], named[2], seen[1:5]] = places._replace(owners=())

    # ---------------------------------------------------------------------------------------------
    # torch's gradients.

    def _differentiable(self, call: Call, arrays: Sequence[Array], stream: int | None) -> Results:
        """Return results that torch differentiates."""
        rows = call.read(self.extent)
        if not _are_known(rows):
            return None

        def read(extent: Extent) -> Rows:
            return call.read(extent) if extent.see is None else rows

        def forward(arrays: Sequence[Array]) -> tuple[Array, ...]:
            seen = [memory.view_of(x, call.owner) for x in arrays]
            with memory.driver.stream(stream, self.device):
                return self._launched(call._replace(read=read), rows, arrays, seen, None, None)

        def backward(gradients: Sequence[Array]) -> Sequence[Array]:
            turned = call.otherwise(
                gradients, self.backwards, **call.options._asdict(), read=read, out=None
            )
            return turned if isinstance(turned, tuple) else (turned,)

        results: tuple[Array, ...] = _autograd_function().apply(
            forward, backward, _read_on_gpu(rows), *arrays
        )
        return results


def _groups(
    turns: Sequence[Turns],
    frames: Sequence[Frame],
    number: int,
    seen: Sequence[View],
    to: Sequence[View],
    extent: Extent,
) -> list[_Group]:
    """Return the launches of one pass, for arrays that turn alike together."""
    alike: dict[Any, list[int]] = {}
    for i, (own, frame, x) in enumerate(zip(turns, frames, seen, strict=True)):
        key = (id(own.angles[number]), frame.pairings[number], x.dtype, extent.arrays[i].batch)
        alike.setdefault(key, []).append(i)
    groups = []
    for members in alike.values():
        x, frame = seen[members[0]], frames[members[0]]
        pairing = frame.pairings[number]
        blocks = []
        for i in members:
            in_place = to[i].address == seen[i].address
            if in_place and pairing.source != pairing.target and x.dtype not in memory.REAL:
                msg = (
                    f"`out` must not be the input where channels change from {pairing.source!r} to "
                    f"{pairing.target!r}: on a GPU pairs are read and written side by side"
                )
                raise ValueError(msg)
            # Channels that no pass turns, or a later one does, are copied by the first.
            copy = not number and not in_place
            blocks += cuda.blocks_of(i, seen[i], to[i], frames[i].axes, pairing, copy=copy)
        batch = extent.arrays[members[0]].batch
        launches = cuda.launches_of(blocks, x, pairing, batch, extent.length)
        groups.append(_Group(launches, turns[members[0]].angles[number], frame.dtype))
    return groups


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


def _are_known(rows: Rows | cuda.Places) -> bool:
    """Return whether kernels can read the positions: not if they are traced, or have a size for each axis."""
    if isinstance(rows, cuda.Places):
        return True
    return not rows.by_axis and (not rows.traced or isinstance(rows.positions, View))


def _read_on_gpu(rows: Rows) -> list[Any]:
    """Return what kernels read of positions that lie on the GPU."""
    return [part.owner for part in (rows.positions, rows.bounds) if isinstance(part, View)]


def _positions_of(read: Read) -> tuple[str, Any, int | None] | None:
    """Return positions or offset of a call, by name, and its limit; None where they are not all it gives."""
    if not isinstance(read, Where) or read.cu_seqlens is not None:
        return None
    if read.positions is None:
        return "offset", 0 if read.offset is None else read.offset, read.limit
    return None if read.offset is not None else ("positions", read.positions, read.limit)


# ------------------------------------------------------------------------------------------------
# torch's gradients.


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


def _transposed(turns: Turns) -> Turns:
    """Return the passes of the transposed rotation."""
    return turns._replace(pairings=tuple(each.transposed() for each in turns.pairings))
