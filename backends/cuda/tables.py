"""Tables on a GPU: cached windows, rotation by given tables, and tables computed for the user.

The kernels compute a table by rotating channel pairs (1, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from operator import mod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.libraries import check_precision, is_raw_gpu_memory, namespace, to_host
from rotary._lib.memo import TABLES, remembered
from rotary._lib.typing import Array, TableDType
from rotary.backends.contract import (
    Angles,
    Axes,
    GpuView,
    Pairing,
    Plan,
    RowPositions,
    TablesCall,
    TracedTable,
)

from . import launch as cuda
from . import memory
from .overlap import Overlap

LAUNCHES_REMEMBERED = 1024
# Windows of a table begin and end at multiples of this number of rows.
PAGE = 1024
# Positions on the host are found in a window if they lie this close together. Others have a table of their own.
WIDEST = 4 * PAGE
LookUp: TypeAlias = Callable[[Angles, RowPositions, TableDType], Any]
# Shape, strides, dtype and GPU: a view without address and owner.
Layout: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], str, int]


class _CachedTable(NamedTuple):
    """An entry of `TABLES` in GPU memory."""

    value: Any
    nbytes: int

    def sizes(self) -> list[int]:
        return [self.nbytes]

    def shrink(self, force: bool) -> bool:  # noqa: ARG002  (`TABLES` calls it so)
        return False


class Window(NamedTuple):
    """A table on a GPU for positions ``first .. stop - 1``."""

    first: int
    stop: int
    angle_source: cuda.AngleSource


class CallTables:
    """Finds tables on a GPU for the angles of one call, all at the same positions.

    Parameters
    ----------
    rows : RowPositions
    device : int
    look_up : callable
        Returns a table of the host, or of the library of positions on the GPU.
    read_again : callable
        Reads the positions of the call as arrays of their library, whose operations compute tables on their GPU.
    """

    __slots__ = ("_device", "_indices", "_look_up", "_read_again", "_rows", "_span", "_stream")

    def __init__(
        self,
        rows: RowPositions,
        device: int,
        look_up: LookUp,
        read_again: Callable[[], RowPositions],
    ) -> None:
        self._rows, self._device = rows, device
        self._look_up, self._read_again = look_up, read_again
        self._stream = memory.driver.current_stream()
        # The rows of tables that tokens read, by the position of a table's first row.
        self._indices: dict[int, cuda.KernelPositions] = {}
        # Start and stop of the positions, if a cached window may hold them.
        self._span: tuple[int, int] | None = None
        positions = rows.positions
        if rows.start is not None:
            self._span = rows.start, rows.start + rows.length
        elif isinstance(positions, np.ndarray) and positions.dtype == np.int64 and positions.size:
            start, stop = int(positions.min()), int(positions.max()) + 1
            if rows.bounds is None and len(positions) == 1 and stop - start <= WIDEST:
                self._span = start, stop

    def find(
        self, angles: Angles, dtype: TableDType
    ) -> tuple[cuda.AngleSource, cuda.KernelPositions]:
        """Return angles as a table on the GPU, and which of its rows each token reads."""
        rows = self._rows
        window = None if self._span is None else self._window(angles, dtype, *self._span)
        if window is not None:
            index = self._indices.get(window.first)
            if index is None:
                index = self._indices[window.first] = cuda.row_positions(self._from(window.first))
            return window.angle_source, index
        if isinstance(rows.positions, GpuView):
            table = self._look_up(angles, self._read_again(), dtype)
            assert isinstance(table, TracedTable)
            parts = table.cosine, table.sine
            return cuda.tables_of(*parts, str(memory.owner_of(parts[0])))
        if rows.bounds is not None:
            msg = (
                "`cu_seqlens` must be known on the host, or all sequences must begin at one position, if angles are "
                "read from a table, as with `decay`: pass `positions` instead"
            )
            raise TypeError(msg)
        table = self._look_up(angles, rows, dtype)
        read = RowPositions(table.index[None], None, rows.length, consecutive=table.step == 1)
        return cuda.uploaded_table(table.values), cuda.row_positions(read)

    def _from(self, first: int) -> RowPositions:
        """Return the rows of a table whose first row is for a position."""
        rows = self._rows
        if rows.start is not None:
            return replace(rows, start=rows.start - first, limit=None)
        assert isinstance(rows.positions, np.ndarray)
        return replace(rows, positions=rows.positions - first, limit=None)

    def _window(self, angles: Angles, dtype: TableDType, start: int, stop: int) -> Window | None:
        """Return a cached table that holds consecutive positions; None for scattered ones outside of a scale's range.

        Each stream has its own. Another stream could read a table before it is complete, or after its memory is
        reused.
        """
        frequencies, factor, scale = angles
        key = (
            *("window", frequencies.key, factor, scale, dtype, self._device),
            *(self._stream, start // PAGE),
        )
        kept: _CachedTable | None = TABLES.get(key)
        if kept is not None and kept.value.first <= start <= stop <= kept.value.stop:
            found: Window = kept.value
            return found
        try:
            window, nbytes = _new_window(angles, start, stop, dtype, self._look_up)
        except (OverflowError, ValueError):
            if self._rows.start is not None:
                raise
            return None  # the table for the positions themselves names the one that is wrong
        if nbytes <= TABLES.limit:
            TABLES.keep(key, _CachedTable(window, nbytes))
        return window


def _new_window(
    angles: Angles, start: int, stop: int, dtype: TableDType, look_up: LookUp
) -> tuple[Window, int]:
    """Return a window and its size in bytes.

    It covers whole pages, unless these exceed the cache or contain positions that are out of range.
    """
    first, last = start - start % PAGE, stop + -stop % PAGE
    row_bytes = 2 * angles.frequencies.heads * angles.frequencies.pairs * np.dtype(dtype).itemsize
    if (last - first) * row_bytes > TABLES.limit:
        first, last = start, stop
    try:
        table = look_up(angles, RowPositions(None, first, last - first), dtype)
    except (OverflowError, ValueError):
        first, last = start, stop
        table = look_up(angles, RowPositions(None, first, last - first), dtype)
    values = table.gather()[:, :, 0]  # without the other rows of the host's window
    return Window(first, last, cuda.uploaded_table(values)), values.nbytes


def _unit_pairs(pairs: int, dtype: TableDType, device: int) -> Any:
    """Return channel pairs (1, 0) in the half layout, on the current GPU, for the current stream."""
    key = ("ones", pairs, dtype, device, memory.driver.current_stream())
    kept: _CachedTable | None = TABLES.get(key)
    if kept is None:
        unit_pairs = np.repeat(np.array([1, 0], dtype), pairs)
        kept = _CachedTable(memory.driver.upload(unit_pairs, blocking=True), unit_pairs.nbytes)
        if kept.nbytes <= TABLES.limit:
            TABLES.keep(key, kept)
    return kept.value


# ------------------------------------------------------------------------------------------------
# Given tables.


def owner_and_layouts(
    x: Any, tables: tuple[Any, Any], outputs: Sequence[Any]
) -> tuple[str | None, tuple[Any, ...] | None]:
    """Return what kind of library has the arrays of a call on a GPU, and what a plan's key holds of them.

    The owner is None if kernels cannot rotate the array, and the rest if the call is too rare for a key.
    """
    owner = memory.owner_of(x)
    given = (x, *tables, *outputs)
    if owner is None or not memory.usable("x") or memory.asks_for_gradient(given):
        return None, None
    if owner == memory.OTHER and (is_raw_gpu_memory(x) or memory.would_narrow(x)):
        return None, None
    key = None
    if len(outputs) < 2:  # several are refused
        key = memory.key_of((x,), outputs, owner)
        if key is None:
            return None, None
    for part in tables:
        if type(part) is np.ndarray:  # uploaded in each call
            own: tuple[Any, ...] | None = (part.shape, part.dtype)
        elif memory.owner_of(part) == owner:
            own = memory.layout_of(part, owner)
        elif to_host(part) is None or namespace(part) is namespace(x):
            return None, None
        else:
            own = None
        key = None if key is None or own is None else (*key, *own)
    return owner, key


def plan_with_tables(call: TablesCall, owner: str) -> Plan:
    """Return the plan of a call that gives its tables, whose arrays belong to one kind of library."""
    with memory.driver.scope(memory.device_of(call.array, owner)):
        return _ForeignPlan(call) if owner == memory.OTHER else _Plan(call, owner)


class _ForeignPlan:
    """The plan for any library but CuPy and torch. CuPy arrays share the memory of the caller's arrays."""

    def __init__(self, call: TablesCall) -> None:
        self._call = call.without_arrays()
        # The plan of the CuPy arrays, with its key: their strides are not known before a call.
        self._planned: tuple[Any, _Plan] | None = None

    def __call__(
        self, arrays: Sequence[Array], tables: tuple[Array, ...], outputs: Sequence[Array] | None
    ) -> Sequence[Array]:
        (x,), (cosine, sine) = arrays, tables
        for output in outputs or ():
            self._call.check_output(x, (cosine, sine), output)
        table = self._call.read(x, (cosine, sine))
        assert isinstance(table, TracedTable)
        with memory.driver.scope(memory.device_of(x, memory.OTHER)):
            read = x, table.cosine, table.sine, *(outputs or ())
            parts = zip(read, ("x", "cos", "sin", "out"), strict=False)
            own, cosine, sine, *targets = ours = [memory.as_cupy(*part) for part in parts]
            key = memory.key_of([own], targets, memory.CUPY)
            planned = self._planned  # read once, because another thread may replace it
            if planned is None or planned[0] != key:
                output = targets[0] if targets else None
                call = self._call._replace(array=own, tables=(cosine, sine), output=output)
                planned = self._planned = key, _Plan(call, memory.CUPY)
            results = planned[1].rotated(own, (cosine, sine), targets)
            memory.driver.keep_alive(ours)
            return outputs or [memory.to_original_library(results[0], x)]


class _Part(NamedTuple):
    """A part of an array that one table rotates: its place, where it and its result begin, and its launches."""

    place: tuple[int, ...]
    x_start: int
    y_start: int
    launches: list[cuda.Launch]


class _Plan:
    """The plan for an array of CuPy or torch."""

    def __init__(self, call: TablesCall, owner: str) -> None:
        parts = [("x", call.array), *zip(("cos", "sin"), call.tables, strict=True)]
        parts += [] if call.output is None else [("out", call.output)]
        # Tables that lie on the host are uploaded to the GPU of the array.
        there = [(name, part) for name, part in parts if memory.owner_of(part) == owner]
        names, views = (
            [name for name, _ in there],
            [memory.view_of(part, owner) for _, part in there],
        )
        memory.check_devices(views, names)
        memory.check_aligned(views, names)
        self._call, self._owner = call.without_arrays(), owner
        x, target = views[0], None if call.output is None else views[-1]
        self._tables_there = [name in names for name in ("cos", "sin")]
        count = 1 + sum(self._tables_there)
        self._overlap = Overlap(views[:count], views[count:])
        self._device = x.device
        # Kernels need contiguous channels, so others are copied.
        self._copies_array = not memory.has_contiguous_channels(x)
        self._copies_result = target is not None and not memory.has_contiguous_channels(target)
        if self._copies_array:
            x = memory.row_major(x)
        result = memory.like(x, owner)
        self._spec = memory.result_spec(result, owner, like=x.dtype)
        self._sizes = [memory.CHANNEL_BYTES[x.dtype]] * 2
        direct = None if self._copies_result else target
        self._parts = _parts(x, direct or result, call.spec.axes, call.spec.pairings[0])

    def __call__(
        self, arrays: Sequence[Array], tables: tuple[Array, ...], outputs: Sequence[Array] | None
    ) -> Sequence[Array]:
        """Rotate on the current stream of the array's library."""
        (x,), (cosine, sine) = arrays, tables
        if outputs is not None:
            there = [part for part, own in zip(tables, self._tables_there, strict=True) if own]
            addresses = memory.addresses_of((x, *there, *outputs), self._owner)
            if not self._overlap.is_excluded(addresses):
                self._call.check_output(x, (cosine, sine), outputs[0])
                self._overlap.exclude(addresses)
        with memory.driver.scope(self._device):
            table = self._call.read(x, (cosine, sine))
            assert isinstance(table, TracedTable)
            return self.rotated(x, (table.cosine, table.sine), outputs)

    def rotated(
        self, x: Array, table: tuple[Array, Array], outputs: Sequence[Array] | None
    ) -> Sequence[Array]:
        """Rotate on the current GPU, given cosine and sine as they were read."""
        owner = self._owner
        on_stream: AbstractContextManager[Any] = nullcontext()
        if owner == memory.TORCH:
            stream = memory.stream_of(owner, self._device)
            on_stream = memory.driver.stream(stream, self._device)
        with on_stream:
            source = memory.contiguous(x) if self._copies_array else x
            results = outputs
            if not outputs or self._copies_result:
                results, _ = memory.empty([self._spec], [source])
            assert results
            addresses = memory.addresses_of((source, *results), owner)
            if any(map(mod, addresses, self._sizes)):
                self._check_aligned(x, outputs)
            self._launch(table, *addresses)
        if not outputs:
            return results
        if self._copies_result:
            memory.assign(outputs[0], results[0])
        elif owner == memory.TORCH:
            memory.bump_version(outputs)
        return outputs

    def _launch(self, table: tuple[Array, Array], x: int, y: int) -> None:
        cosine, sine = table
        for place, x_start, y_start, launches in self._parts:
            own = (cosine, sine)
            if place:
                own = cosine[(slice(None), *place)], sine[(slice(None), *place)]
            angle_source, row_positions = cuda.tables_of(*own, self._owner)
            for launch in launches:
                launch([x + x_start], [y + y_start], angle_source, row_positions)

    def _check_aligned(self, x: Array, outputs: Sequence[Array] | None) -> None:
        """Raise for arrays that are not aligned, although others of their layout were."""
        for part, name in zip((x, *(outputs or ())), ("x", "out"), strict=False):
            memory.check_aligned([memory.view_of(part, self._owner)], [name])


def _parts(x: GpuView, y: GpuView, axes: Axes, pairing: Pairing) -> list[_Part]:
    """Return the parts of an array and its result: all, unless tables differ on more axes than batch and sequence."""
    in_place = x.address == y.address != 0
    rest = axes.without_extra()
    kept = tuple(axis for axis in range(x.ndim) if axis not in axes.extra)
    own, target = x.permuted(kept), y.permuted(kept)
    launches = _launches_of(own[1:5], target[1:5], rest, pairing, in_place=in_place)
    return [
        _Part(
            index,
            sum(i * x.strides[axis] for i, axis in zip(index, axes.extra, strict=True)),
            sum(i * y.strides[axis] for i, axis in zip(index, axes.extra, strict=True)),
            launches,
        )
        for index in np.ndindex(*[x.shape[axis] for axis in axes.extra])
    ]


# ------------------------------------------------------------------------------------------------
# Tables for the user.


def _launch(
    x: GpuView,
    y: GpuView,
    axes: Axes,
    pairing: Pairing,
    angle_source: cuda.AngleSource,
    row_positions: cuda.KernelPositions,
) -> None:
    """Launch the rotation of one array."""
    launches = _launches_of(x[1:5], y[1:5], axes, pairing, in_place=x.address == y.address)
    for launch in launches:
        launch([x.address], [y.address], angle_source, row_positions)


@remembered(LAUNCHES_REMEMBERED)
def _launches_of(
    x: Layout, y: Layout, axes: Axes, pairing: Pairing, *, in_place: bool
) -> list[cuda.Launch]:
    """Return the launches for one array, given the layouts of the array and its result."""
    source, target = (GpuView(0, *layout, None) for layout in (x, y))
    blocks = cuda.blocks_of(0, source, target, axes, pairing, copy=not in_place)
    batch = None if axes.batch is None else source.shape[axes.batch]
    return cuda.launches_of(blocks, source, pairing, batch, source.shape[axes.sequence])


def cos_sin(
    angles: Angles, positions: Any, *, leading: bool, dtype: TableDType, limit: int | None
) -> Array | None:
    """Return cosine and sine at positions on a GPU, concatenated, or None if kernels cannot compute them.

    The shape is (heads, *positions, 2 * pairs), without the axis of position axes, and without heads if frequencies
    do not differ by head.
    """
    owner = memory.owner_of(positions)
    if owner is None or angles.scale is not None or not memory.usable("positions"):
        return None
    check_precision(dtype, positions)
    with memory.driver.scope(memory.device_of(positions, owner)):
        if owner != memory.OTHER:
            return _tables_at(angles, positions, owner, leading=leading, dtype=dtype, limit=limit)
        ours = memory.as_cupy(positions, "positions")
        found = _tables_at(angles, ours, memory.CUPY, leading=leading, dtype=dtype, limit=limit)
        memory.driver.keep_alive([ours])
        return None if found is None else memory.to_original_library(found, positions)


def _tables_at(
    angles: Angles,
    positions: Array,
    owner: str,
    *,
    leading: bool,
    dtype: TableDType,
    limit: int | None,
) -> Array | None:
    """Return cosine and sine at positions of CuPy or torch, concatenated, on the current GPU."""
    frequencies, shape = angles.frequencies, tuple(positions.shape)
    axes = frequencies.axes if leading else 1
    if memory.asks_for_gradient([positions]) or (leading and shape[:1] != (axes,)):
        return None
    outer = shape[1:] if leading else shape
    device = memory.view_of(positions, owner).device
    with memory.driver.stream(memory.stream_of(owner, device), device):
        views = memory.position_view(owner, device, positions, "positions")
        if views is None or ("float" in views.dtype and cuda.are_too_fast(frequencies)):
            return None
        if len(outer) > 2:
            flat = memory.contiguous(views.owner).reshape((*shape[: len(shape) - len(outer)], -1))
            views = memory.view_of(flat, owner)
        batch, length = (1, 1, *views.shape[1 if leading else 0 :])[-2:]
        views = views.with_axes((axes, batch, length))
        heads, pairs = frequencies.heads, frequencies.pairs
        wanted = GpuView(0, (heads, batch, length, 2 * pairs), (1, 1, 1, 1), dtype, device, None)
        result_spec = memory.result_spec(memory.like(wanted, owner), owner)
        (result,), _ = memory.empty([result_spec], [positions])
        y = memory.view_of(result, owner)
        # All positions read the same row.
        unit_pairs = _unit_pairs(pairs, dtype, device)
        x = y._replace(address=unit_pairs.data.ptr, strides=(0, 0, 0, y.strides[-1]))
        row_positions = cuda.row_positions(RowPositions(views, None, length, limit))
        whole = Pairing(0, pairs, "half", "half")
        _launch(
            x,
            y,
            Axes(2, 1),
            whole,
            cuda.computed_angles(angles, device, row_positions),
            row_positions,
        )
    if heads == 1:
        return result.reshape((*outer, 2 * pairs))
    return result.reshape((heads, *outer, 2 * pairs))
