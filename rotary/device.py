"""Calls on a GPU: checked once for each set of shapes, afterwards only addresses and positions are put in.

All arrays of a call go in as few launches as they have dtypes and runs of channels, query and key in one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import tables
from ._typing import Array, TableDType
from .arrays import as_outputs, check_array, names_of
from .backends import cuda, cuda_struct, views
from .backends.traced import traced_table
from .rotation import Angles, Rows, Turns, View
from .rows import FLOATS, Extent, Read, Where
from .shapes import Frame, frames_of, shape_of

PLANS_REMEMBERED = 1024
# Of arrays whose memory is interleaved, as in a packed qkv: how they lay when that was proved.
APART_REMEMBERED = 256
# Tables on GPUs, and the rows of a page of them.
WINDOWS_REMEMBERED, PAGE = 32, 1024

Rotate: TypeAlias = Callable[..., Any]


def rotate(
    arrays: Sequence[Array],
    turns: Sequence[Turns],
    *,
    head_dim: int,
    leading: bool,
    seq_axis: int | None,
    packed: bool,
    read: Read,
    out: Any,
    otherwise: Rotate,
) -> Any:
    """Rotate arrays that lie on a GPU; None where they do not, or where kernels have no part in it.

    Takes what `apply.rotate` takes, and that function itself for gradients, as `otherwise`.
    """
    owner = _owner_of(arrays)
    # What is no rotation is made of two, by the library's own operations.
    if owner is None or turns[0].second is not None:
        return None
    call = _Call(owner, turns, _Options(head_dim, leading, seq_axis, packed), read, otherwise)
    outputs = None
    if out is not None:
        outputs = out if isinstance(out, tuple | list) else (out,)
        if len(outputs) != len(arrays):
            return None  # which is found to be an error
    # Whatever is made for the call, or asked of a stream, is of the arrays' GPU.
    with cuda.driver.scope(cuda.device_of(arrays[0], owner)):
        rotated = _rotated_others if owner == views.OTHER else _rotated
        results = rotated(call, arrays, outputs)
    if results is None or len(results) > 1:
        return results
    return results[0]


def _owner_of(arrays: Sequence[Array]) -> str | None:
    """Return what kind of library all arrays are of, None where one of them is for other backends."""
    owners = [None if type(x) is np.ndarray else views.owner_of(x) for x in arrays]
    owner = owners[0]
    if owners.count(owner) != len(owners):
        _check_mixed(arrays, owners)
        return None
    return owner if owner is not None and cuda.usable("x") else None


def _check_mixed(arrays: Sequence[Array], owners: Sequence[str | None]) -> None:
    """Raise where some of the arrays are on a GPU and others are not, or are of another library."""
    names = names_of(arrays)
    there = next(i for i, owner in enumerate(owners) if owner is not None)
    for x, owner, name in zip(arrays, owners, names, strict=True):
        if owner is None and not views.is_on_host(x):
            return  # traced or transformed
        if owner != owners[there]:
            where = "on the host" if owner is None else f"of {type(x)}"
            msg = (
                f"`{name}` must lie on the GPU and be of the library of `{names[there]}`, "
                f"{type(arrays[there])}, got an array {where}"
            )
            raise TypeError(msg)


class _Options(NamedTuple):
    """How the arrays of a call are to be read."""

    head_dim: int
    leading: bool
    seq_axis: int | None
    packed: bool


class _Call(NamedTuple):
    """What one call asks for, besides its arrays."""

    owner: str
    turns: Sequence[Turns]
    options: _Options
    read: Read
    otherwise: Rotate


# Results of a call: new arrays or outputs, or None where kernels have no part in it.
Results: TypeAlias = tuple[Array, ...] | None


def _rotated_others(
    call: _Call, arrays: Sequence[Array], outputs: Sequence[Array] | None
) -> Results:
    """Rotate arrays of a library that is neither CuPy nor torch, as CuPy's of the same memory."""
    names = names_of(arrays)
    for x, name in zip(arrays, names, strict=True):
        check_array(x, name)
    as_outputs(outputs, arrays, names)
    if any(views.would_narrow(x) for x in arrays):
        return None
    ours = [cuda.adopted(x, name) for x, name in zip(arrays, names, strict=True)]
    to = None
    if outputs is not None:
        to = []
        for x, own, output, name in zip(
            arrays, ours, outputs, _names_of_outputs(outputs), strict=True
        ):
            if views.is_read_only(output):
                msg = f"`{name}` must be writeable, got a read-only array"
                raise ValueError(msg)
            to.append(own if output is x else cuda.adopted(output, name))
    results = _rotated(call._replace(owner=views.CUPY), ours, to)
    cuda.driver.hold([*ours, *(to or ())])
    if results is None or outputs is not None:
        return results and tuple(outputs or ())
    return tuple(cuda.handed_back(result, x) for result, x in zip(results, arrays, strict=True))


def _rotated(call: _Call, arrays: Sequence[Array], outputs: Sequence[Array] | None) -> Results:
    """Rotate arrays of CuPy or torch by the plan of calls like this one."""
    owner = call.owner
    seen = [views.view_of(x, owner) for x in arrays]
    key: list[Any] = [owner, call.options, *map(id, call.turns)]
    for x in seen:
        key += x[1:5]
    to = None
    if outputs is not None:
        to = []
        for x, source, output in zip(seen, arrays, outputs, strict=True):
            if output is source:
                to.append(x)
                key.append(True)
                continue
            if views.owner_of(output) != owner:
                return None  # which is found to be an error, if it is one
            y = views.view_of(output, owner)
            to.append(y)
            key += (*y[1:5], y.address == x.address)
    plan = _plans.get(tuple(key))
    if plan is None:
        names = names_of(arrays)
        for x, name in zip(arrays, names, strict=True):
            check_array(x, name)
        as_outputs(outputs, arrays, names)
        if not all(views.has_contiguous_channels(view) for view in (*seen, *(to or ()))):
            return _by_copies(call, arrays, outputs)
        plan = _plans.made(tuple(key), _Plan(call, arrays, seen, to))
    elif to is not None:
        addresses = [view.address for view in (*seen, *to)]
        if not plan.are_apart(addresses):
            as_outputs(outputs, arrays, names_of(arrays))
            plan.found_apart(addresses)
    return plan.run(call, arrays, outputs, seen, to)


def _by_copies(call: _Call, arrays: Sequence[Array], outputs: Sequence[Array] | None) -> Results:
    """Rotate copies, for the kernels read channels that lie one after another."""
    results = _rotated(call, [cuda.contiguous(x) for x in arrays], None)
    if outputs is None or results is None:
        return results
    for output, result in zip(outputs, results, strict=True):
        cuda.assign(output, result)
    return tuple(outputs)


def _names_of_outputs(outputs: Sequence[Any]) -> list[str]:
    """Return what errors call outputs."""
    return ["out"] if len(outputs) == 1 else [f"out[{i}]" for i in range(len(outputs))]


# ------------------------------------------------------------------------------------------------
# Plans.


class _Plans:
    """Plans of calls, the oldest dropped."""

    def __init__(self) -> None:
        self.held: OrderedDict[Any, _Plan] = OrderedDict()
        self.get = self.held.get

    def made(self, key: Any, plan: _Plan) -> _Plan:
        """Keep a new plan."""
        self.held[key] = plan
        if len(self.held) > PLANS_REMEMBERED:
            self.held.popitem(last=False)
        return plan


_plans = _Plans()


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
        self.held: OrderedDict[Any, _Window] = OrderedDict()
        self._lock = Lock()

    def of(self, angles: Angles, rows: Rows, dtype: TableDType, device: int) -> _Window:
        """Return a window that holds rows which count up."""
        assert rows.start is not None
        start, stop = rows.start, rows.start + rows.length
        key = id(angles), dtype, device, cuda.driver.current_stream()
        with self._lock:
            window = self.held.get(key)
            if window is None or not window.first <= start <= stop <= window.stop:
                window = self.held[key] = self._made(angles, start, stop, dtype)
            self.held.move_to_end(key)
            if len(self.held) > WINDOWS_REMEMBERED:
                self.held.popitem(last=False)
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


class _Group(NamedTuple):
    """Launches that turn by the same angles, made of the positions or looked up in tables of a dtype."""

    launches: list[cuda.Launch]
    angles: Angles
    dtype: TableDType


class _Plan:
    """All of a call that follows from shapes, strides, dtypes and what the arrays turn by."""

    def __init__(
        self,
        call: _Call,
        arrays: Sequence[Array],
        seen: Sequence[View],
        to: Sequence[View] | None,
    ) -> None:
        names = names_of(arrays)
        check_devices(seen, names)
        check_aligned(seen, names)
        if to is not None:
            check_devices([seen[0], *to], [names[0], *_names_of_outputs(to)])
            check_aligned(to, _names_of_outputs(to))
        head_dim, leading, seq_axis, packed = call.options
        shapes = tuple(map(shape_of, arrays, names))
        first = call.turns[0]
        frequencies = first.angles[0].frequencies
        frames, batch, length = frames_of(
            shapes, seq_axis, packed, head_dim, first.pairings, frequencies.heads
        )
        rows = length if batch is None else batch * length
        if rows > cuda.MOST_ROWS:
            msg = f"`{names[0]}` must have fewer than 2**31 rows, got {rows}"
            raise ValueError(msg)
        self.turns = call.turns  # whose identity is part of the key
        self.device = seen[0].device
        see = partial(seen_on, call.owner, self.device)
        self.extent = Extent(batch, length, frequencies.axes, leading, see)
        self.wanted = [views.like(x, call.owner) for x in seen]
        self.passes = [
            _groups(call.turns, frames, number, seen, to or self.wanted, self.extent)
            for number in range(len(first.angles))
        ]
        self._spans = [views.span_of(view) for view in (*seen, *(to or ()))]
        self._pairs = _pairs_apart(seen, to or ())
        self._apart: set[tuple[int, ...]] = set()
        self._trigs: dict[tuple[int, bool, bool], cuda.Trig] = {}
        self._lines: dict[Any, cuda.Places] = {}
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
        call: _Call,
        arrays: Sequence[Array],
        outputs: Sequence[Array] | None,
        seen: Sequence[View],
        to: Sequence[View] | None,
    ) -> Results:
        """Return results, on the current stream of the arrays' library."""
        stream = None
        if call.owner == views.TORCH:
            stream = views.stream_of(views.TORCH, self.device)
            if views.asks_for_gradient([*arrays, *(outputs or ())]):
                # Of what is written to, autograd must know how it came to be: only torch's own
                # operations tell it.
                return self._differentiable(call, arrays, stream) if outputs is None else None
        rows = self._line(call) or call.read(self.extent)
        if not _are_known(rows):
            return None
        with cuda.driver.stream(stream, self.device):
            results = self._launched(call, rows, arrays, seen, outputs, to)
        if outputs is not None and call.owner == views.TORCH:
            views.told_written(outputs)
        return results

    def _launched(
        self,
        call: _Call,
        rows: Rows | cuda.Places,
        arrays: Sequence[Array],
        seen: Sequence[View],
        outputs: Sequence[Array] | None,
        to: Sequence[View] | None,
    ) -> tuple[Array, ...]:
        """Launch, on the current GPU and stream, and return results."""
        if outputs is None or to is None:
            outputs = [
                views.empty(wanted, x, call.owner)
                for wanted, x in zip(self.wanted, arrays, strict=True)
            ]
            to = [views.view_of(each, call.owner) for each in outputs]
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
            cuda.driver.hold(read)
        return tuple(outputs)

    def _turns(self, angles: Angles, places: cuda.Places) -> cuda.Trig:
        """Return the angles that kernels make by themselves; one axis where positions are alike on all."""
        key = (id(angles), places.floats, places.alike)
        found = self._trigs.get(key)
        if found is None:
            found = self._trigs[key] = cuda.turns_of(angles, self.device, places)
        return found

    def _table(
        self, call: _Call, angles: Angles, rows: Rows, dtype: TableDType
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

    def _line(self, call: _Call) -> cuda.Places | None:
        """Return where rows stand, from a call like this one; None where it has to be read."""
        named = None if self._needs_rows else _positions_of(call.read)
        if named is None:
            return None
        name, value, limit = named
        if type(value) is int:
            if name == "offset" and limit is None and 0 <= value < cuda.FAR:
                return cuda.counted_from(value)
            return None
        if not self._lines or views.owner_of(value) != call.owner:
            return None
        if views.asks_for_gradient([value]):
            return None
        seen = views.view_of(value, call.owner)
        found = self._lines.get((name, limit, seen[1:5]))
        return None if found is None else found.moved(seen)

    def _keep_line(self, call: _Call, rows: Rows, places: cuda.Places) -> None:
        """Remember where rows stand by positions that lie on the GPU."""
        named, view = _positions_of(call.read), rows.positions
        if named is None or not isinstance(view, View) or view.owner is not named[1]:
            return
        if views.owner_of(view.owner) == call.owner:
            if len(self._lines) >= PLANS_REMEMBERED:
                self._lines.clear()
            seen = views.view_of(view.owner, call.owner)
            self._lines[named[0], named[2], seen[1:5]] = places._replace(owners=())

    # ---------------------------------------------------------------------------------------------
    # torch's gradients.

    def _differentiable(self, call: _Call, arrays: Sequence[Array], stream: int | None) -> Results:
        """Return results that torch differentiates."""
        rows = call.read(self.extent)
        if not _are_known(rows):
            return None

        def read(extent: Extent) -> Rows:
            return call.read(extent) if extent.see is None else rows

        def forward(arrays: Sequence[Array]) -> tuple[Array, ...]:
            seen = [views.view_of(x, call.owner) for x in arrays]
            with cuda.driver.stream(stream, self.device):
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
        key = (id(own.angles[number]), frame.pairings[number], x.dtype)
        alike.setdefault(key, []).append(i)
    groups = []
    for members in alike.values():
        x, frame = seen[members[0]], frames[members[0]]
        pairing = frame.pairings[number]
        blocks = []
        for i in members:
            in_place = to[i].address == seen[i].address
            if in_place and pairing.source != pairing.target and x.dtype not in views.REAL:
                msg = (
                    f"`out` must not be the input where channels change from {pairing.source!r} to "
                    f"{pairing.target!r}: on a GPU pairs are read and written side by side"
                )
                raise ValueError(msg)
            # Channels that no pass turns, or a later one does, are copied by the first.
            copy = not number and not in_place
            blocks += cuda.blocks_of(i, seen[i], to[i], frames[i].axes, pairing, copy=copy)
        launches = cuda.launches_of(blocks, x, pairing, extent.batch, extent.length)
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
    """Return whether rows stand at positions that kernels can read."""
    return isinstance(rows, cuda.Places) or not rows.traced or isinstance(rows.positions, View)


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
# What lies where.


def check_devices(seen: Sequence[View], names: Sequence[str]) -> None:
    """Raise unless all memory is of the GPU of the first."""
    for view, name in zip(seen, names, strict=True):
        if view.device != seen[0].device:
            msg = (
                f"`{name}` must lie on GPU {seen[0].device}, as `{names[0]}`, got GPU {view.device}"
            )
            raise ValueError(msg)


def check_aligned(seen: Sequence[View], names: Sequence[str]) -> None:
    """Raise where numbers do not begin on multiples of their size, as no GPU can read them."""
    for view, name in zip(seen, names, strict=True):
        check_multiples(view, views.channel_size(view), name)


def check_multiples(view: View, size: int, name: str) -> None:
    """Raise unless the numbers of an array begin on multiples of a size."""
    if view.address % size:
        got = f"one that begins {view.address % size} bytes beyond"
    elif any(step % size for step in view.strides):
        got = f"strides {view.strides}"
    else:
        return
    msg = f"`{name}` must be aligned to the {size} bytes of {view.dtype}, got {got}"
    raise ValueError(msg)


def seen_on(owner: str, device: int, value: Any, name: str) -> View | None:
    """Return positions that lie on the GPU of a call as a view, None for those of the host.

    Parameters
    ----------
    owner : str
        Of the call's arrays, whose stream is to wait for what other libraries have not finished yet.
    device : int
    value, name
        The argument.
    """
    if isinstance(value, int | float | np.ndarray | list | tuple):
        return None
    own = views.owner_of(value)
    if own is None or views.asks_for_gradient([value]):
        return None
    stream = views.stream_of(owner, device)
    if own == views.OTHER:
        # Its library has the stream wait for what it has not finished yet.
        with cuda.driver.stream(stream, device):
            return _readable(cuda.adopted(value, name), views.CUPY, device, name)
    view = _readable(value, own, device, name)
    if own != owner:
        cuda.driver.order(views.stream_of(own, device), stream, device)
    return view


def _readable(value: Array, owner: str, device: int, name: str) -> View:
    """Return positions that lie on a GPU as a view of a dtype that kernels read; those of another are cast."""
    view = views.view_of(value, owner)
    if view.device != device:
        msg = f"`{name}` must lie on GPU {device}, as the arrays, got GPU {view.device}"
        raise ValueError(msg)
    if view.dtype in cuda_struct.POSITION_TYPES:
        check_multiples(view, cuda.size_of_position(view.dtype), name)
        return view
    if view.dtype == "uint64":
        msg = f"`{name}` must hold integers that int64 has, or floats, got dtype uint64"
        raise TypeError(msg)
    if "int" not in view.dtype and view.dtype not in FLOATS:
        msg = f"`{name}` must hold integers or floats, got dtype {view.dtype}"
        raise TypeError(msg)
    kind = "float32" if view.dtype in FLOATS else "int64"
    return views.view_of(cuda.cast(value, kind), owner)


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
            backward: Any,  # noqa: ARG004
            held: Any,  # noqa: ARG004
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
