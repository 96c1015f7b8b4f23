"""Tables on a GPU: a caller's own, and those that are given out, made by the kernels from pairs (1, 0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.libraries import check_precision
from rotary._lib.memo import TABLES, remembered
from rotary._lib.typing import Array, TableDType
from rotary.backends.contract import Angles, Axes, Pairing, Rows, View

from . import launch as cuda
from . import memory

LAUNCHES_REMEMBERED = 1024
# Rows of a page of tables.
PAGE = 1024
LookUp: TypeAlias = Callable[[Angles, Rows, TableDType], Any]
# Shape, strides, dtype and GPU: all of a view but address and owner.
Placed: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], str, int]


class _Kept(NamedTuple):
    """An entry of `TABLES` that lies on a GPU, and how many bytes it occupies there."""

    value: Any
    nbytes: int

    def sizes(self) -> list[int]:
        return [self.nbytes]

    def thin(self, must: bool) -> bool:  # noqa: ARG002  (`TABLES` calls it so)
        return False


class Window(NamedTuple):
    """Tables of rows that count up from a first one, on a GPU."""

    first: int
    stop: int
    trig: cuda.Trig


def window_of(
    angles: Angles, rows: Rows, dtype: TableDType, device: int, look_up: LookUp
) -> Window:
    """Return a table on a GPU that holds rows which count up.

    Each serves one stream: on another it might be read before it is there, or written over after it is dropped.
    """
    assert rows.start is not None
    start, stop = rows.start, rows.start + rows.length
    frequencies, factor, scale = angles
    key = (
        *("window", frequencies.key, factor, scale, dtype, device),
        *(memory.driver.current_stream(), start // PAGE),
    )
    kept: _Kept | None = TABLES.get(key)
    if kept is not None and kept.value.first <= start <= stop <= kept.value.stop:
        window: Window = kept.value
        return window
    window, nbytes = _made_window(angles, start, stop, dtype, look_up)
    if nbytes <= TABLES.limit:
        TABLES.keep(key, _Kept(window, nbytes))
    return window


def _made_window(
    angles: Angles, start: int, stop: int, dtype: TableDType, look_up: LookUp
) -> tuple[Window, int]:
    """Return a window and its bytes: in whole pages, or of what is asked for if that is all there is or may be."""
    first, last = start - start % PAGE, stop + -stop % PAGE
    row_bytes = 2 * angles.frequencies.heads * angles.frequencies.lanes * np.dtype(dtype).itemsize
    if (last - first) * row_bytes > TABLES.limit:
        first, last = start, stop
    try:
        table = look_up(angles, Rows(None, first, last - first), dtype)
    except (OverflowError, ValueError):
        first, last = start, stop
        table = look_up(angles, Rows(None, first, last - first), dtype)
    return Window(first, last, cuda.uploaded_table(table.values)), table.values.nbytes


def _ones(lanes: int, dtype: TableDType, device: int) -> Any:
    """Return pairs (1, 0) in the half layout, on the current GPU and for the current stream."""
    key = ("ones", lanes, dtype, device, memory.driver.current_stream())
    kept: _Kept | None = TABLES.get(key)
    if kept is None:
        pairs = np.repeat(np.array([1, 0], dtype), lanes)
        kept = _Kept(memory.driver.upload(pairs, blocking=True), pairs.nbytes)
        if kept.nbytes <= TABLES.limit:
            TABLES.keep(key, kept)
    return kept.value


def rotate(
    x: Array, cosine: Array, sine: Array, axes: Axes, pairing: Pairing, out: Array | None
) -> Array | None:
    """Return x rotated by tables (*apart, batch or 1, sequence, lanes) of its library; None if kernels do not."""
    parts = [x, cosine, sine] if out is None else [x, cosine, sine, out]
    owner = None if isinstance(x, np.ndarray) else memory.owner_of(x)
    if owner is None or not memory.usable("x") or memory.asks_for_gradient(parts):
        return None
    if any(memory.owner_of(part) != owner for part in parts):
        return None
    names = ["x", "cos", "sin", "out"][: len(parts)]
    with memory.driver.scope(memory.device_of(x, owner)):
        if owner != memory.OTHER:
            return _rotated(parts, names, owner, axes, pairing)
        if memory.would_narrow(x):
            return None
        ours = [memory.adopted(part, name) for part, name in zip(parts, names, strict=True)]
        result = _rotated(ours, names, memory.CUPY, axes, pairing)
        memory.driver.hold(ours)
        return memory.handed_back(result, x) if out is None else out


def _rotated(
    parts: Sequence[Array], names: Sequence[str], owner: str, axes: Axes, pairing: Pairing
) -> Array:
    """Return x rotated, given x, cosine, sine and any output, of CuPy or torch and on the current GPU."""
    x, cosine, sine, *outputs = parts
    out = outputs[0] if outputs else None
    if axes.apart:
        return _by_index(parts, owner, axes, pairing)
    seen = [memory.view_of(part, owner) for part in parts]
    memory.check_devices(seen, names)
    memory.check_aligned(seen, names)
    if not memory.has_contiguous_channels(seen[0]):
        return _rotated([memory.contiguous(x), *parts[1:]], names, owner, axes, pairing)
    if out is not None and not memory.has_contiguous_channels(seen[-1]):
        memory.assign(out, _rotated(parts[:3], names[:3], owner, axes, pairing))
        return out
    device = seen[0].device
    with memory.driver.stream(memory.stream_of(owner, device), device):
        if out is None:
            blank = memory.blank(memory.like(seen[0], owner), owner, like=seen[0].dtype)
            (result,) = memory.empty([blank], [x])
        else:
            result = out
        _launched(
            seen[0],
            memory.view_of(result, owner),
            axes,
            pairing,
            *cuda.tables_of(cosine[None], sine[None]),
        )
    if out is not None and owner == memory.TORCH:
        memory.told_written([out])
    return result


def _by_index(parts: Sequence[Array], owner: str, axes: Axes, pairing: Pairing) -> Array:
    """Return x rotated by a call for each index of the axes apart, on which tables differ."""
    x, cosine, sine, *outputs = parts
    seen = memory.view_of(x, owner)
    with memory.driver.stream(memory.stream_of(owner, seen.device), seen.device):
        blank = memory.blank(memory.like(seen, owner), owner, like=seen.dtype)
        out = outputs[0] if outputs else memory.empty([blank], [x])[0]
    rest = axes.without_apart()
    for index in np.ndindex(*cosine.shape[: len(axes.apart)]):
        where = axes.at(index, x.ndim)
        own = [x[where], cosine[index], sine[index], out[where]]
        _rotated(own, ["x", "cos", "sin", "out"], owner, rest, pairing)
    return out


def _launched(
    x: View, y: View, axes: Axes, pairing: Pairing, trig: cuda.Trig, places: cuda.Places
) -> None:
    """Launch what turns one array."""
    launches = _launches_of(x[1:5], y[1:5], axes, pairing, in_place=x.address == y.address)
    for launch in launches:
        launch([x.address], [y.address], trig, places)


@remembered(LAUNCHES_REMEMBERED)
def _launches_of(
    x: Placed, y: Placed, axes: Axes, pairing: Pairing, *, in_place: bool
) -> list[cuda.Launch]:
    """Return the launches for one array, given its view and its result's but for addresses and owners."""
    source, target = (View(0, *placed, None) for placed in (x, y))
    blocks = cuda.blocks_of(0, source, target, axes, pairing, copy=not in_place)
    batch = None if axes.batch is None else source.shape[axes.batch]
    return cuda.launches_of(blocks, source, pairing, batch, source.shape[axes.sequence])


def cos_sin(
    angles: Angles, positions: Any, *, leading: bool, dtype: TableDType, limit: int | None
) -> Array | None:
    """Return cosine and sine side by side at positions on a GPU, None where kernels do not make them.

    The shape is that of the positions after their position axes, led by the heads where these have frequencies of
    their own.
    """
    owner = memory.owner_of(positions)
    if owner is None or angles.scale is not None or not memory.usable("positions"):
        return None
    check_precision(dtype, positions)
    with memory.driver.scope(memory.device_of(positions, owner)):
        if owner != memory.OTHER:
            return _made(angles, positions, owner, leading=leading, dtype=dtype, limit=limit)
        ours = memory.adopted(positions, "positions")
        found = _made(angles, ours, memory.CUPY, leading=leading, dtype=dtype, limit=limit)
        memory.driver.hold([ours])
        return None if found is None else memory.handed_back(found, positions)


def _made(
    angles: Angles,
    positions: Array,
    owner: str,
    *,
    leading: bool,
    dtype: TableDType,
    limit: int | None,
) -> Array | None:
    """Return cosine and sine side by side at positions of CuPy or torch, on the current GPU."""
    frequencies, shape = angles.frequencies, tuple(positions.shape)
    axes = frequencies.axes if leading else 1
    if memory.asks_for_gradient([positions]) or (leading and shape[:1] != (axes,)):
        return None
    outer = shape[1:] if leading else shape
    device = memory.view_of(positions, owner).device
    with memory.driver.stream(memory.stream_of(owner, device), device):
        seen = memory.seen_on(owner, device, positions, "positions")
        if seen is None or ("float" in seen.dtype and cuda.are_too_fast(frequencies)):
            return None
        if len(outer) > 2:
            flat = memory.contiguous(seen.owner).reshape((*shape[: len(shape) - len(outer)], -1))
            seen = memory.view_of(flat, owner)
        batch, length = (1, 1, *seen.shape[1 if leading else 0 :])[-2:]
        seen = seen.with_axes((axes, batch, length))
        heads, lanes = frequencies.heads, frequencies.lanes
        wanted = View(0, (heads, batch, length, 2 * lanes), (1, 1, 1, 1), dtype, device, None)
        blank = memory.blank(memory.like(wanted, owner), owner)
        (result,) = memory.empty([blank], [positions])
        y = memory.view_of(result, owner)
        # One row, read for every position.
        pairs = _ones(lanes, dtype, device)
        x = y._replace(address=pairs.data.ptr, strides=(0, 0, 0, y.strides[-1]))
        places = cuda.places_of(Rows(seen, None, length, limit))
        whole = Pairing(0, lanes, "half", "half")
        _launched(x, y, Axes(2, 1), whole, cuda.turns_of(angles, device, places), places)
    if heads == 1:
        return result.reshape((*outer, 2 * lanes))
    return result.reshape((heads, *outer, 2 * lanes))
