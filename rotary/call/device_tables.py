"""Tables on a GPU: a caller's own, and those that are given out, made by the kernels from pairs (1, 0)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from rotary._lib.libraries import check_precision
from rotary._lib.typing import Array, HostArray, TableDType
from rotary.backends.contract import Angles, Axes, Pairing, Rows, View
from rotary.backends.cuda import launch as cuda
from rotary.backends.cuda import memory
from rotary.tables import lookup as tables

LAUNCHES_REMEMBERED = 1024
# Shape, strides, dtype and GPU: all of a view but address and owner.
Placed: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], str, int]


def uploaded(table: HostArray, like: Array) -> Any:
    """Return a table of the host as a CuPy array, on the GPU of another."""
    with memory.driver.scope(like.data.device_id):
        return memory.driver.upload(np.ascontiguousarray(table), blocking=False)


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
        result = memory.empty(memory.like(seen[0], owner), x, owner) if out is None else out
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
        out = outputs[0] if outputs else memory.empty(memory.like(seen, owner), x, owner)
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


@lru_cache(maxsize=LAUNCHES_REMEMBERED)
def _launches_of(
    x: Placed, y: Placed, axes: Axes, pairing: Pairing, *, in_place: bool
) -> list[cuda.Launch]:
    """Return the launches for one array, given its view and its result's but for addresses and owners."""
    source, target = (View(0, *placed, None) for placed in (x, y))
    blocks = cuda.blocks_of(0, source, target, axes, pairing, copy=not in_place)
    batch = None if axes.batch is None else source.shape[axes.batch]
    return cuda.launches_of(blocks, source, pairing, batch, source.shape[axes.sequence])


def cos_sin(
    angles: Angles,
    positions: Any,
    *,
    leading: bool,
    dtype: TableDType,
    limit: int | None = None,
) -> tuple[Array, Array]:
    """Return cosine and sine at positions of any shape, as `tables.cos_sin`; of those on a GPU there."""
    found = None
    if not isinstance(positions, int | float | np.ndarray | list | tuple):
        found = _joined(angles, positions, leading=leading, dtype=dtype, limit=limit)
    if found is None:
        return tables.cos_sin(angles, positions, leading=leading, dtype=dtype, limit=limit)
    lanes = angles.frequencies.lanes
    return found[..., :lanes], found[..., lanes:]


def _joined(
    angles: Angles, positions: Any, *, leading: bool, dtype: TableDType, limit: int | None
) -> Array | None:
    """Return cosine and sine at positions on a GPU side by side, None where kernels do not make them."""
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
        result = memory.empty(memory.like(wanted, owner), positions, owner)
        y = memory.view_of(result, owner)
        # One row, read for every position.
        x = y._replace(
            address=cuda.ones(lanes, dtype, device).data.ptr, strides=(0, 0, 0, y.strides[-1])
        )
        places = cuda.places_of(Rows(seen, None, length, limit))
        whole = Pairing(0, lanes, "half", "half")
        _launched(x, y, Axes(2, 1), whole, cuda.turns_of(angles, device, places), places)
    if heads == 1:
        return result.reshape((*outer, 2 * lanes))
    return tables.heads_inward(result.reshape((heads, *outer, 2 * lanes)), len(outer))
