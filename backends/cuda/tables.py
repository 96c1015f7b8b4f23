"""Tables on a GPU: cached windows of them, rotation by a caller's own, and tables computed for a caller.

The kernels compute a table by rotating channel pairs (1, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.libraries import check_precision
from rotary._lib.memo import TABLES, remembered
from rotary._lib.typing import Array, TableDType
from rotary.backends.contract import Angles, Axes, GpuView, Pairing, RowPositions

from . import launch as cuda
from . import memory

LAUNCHES_REMEMBERED = 1024
# Windows of a table begin and end at multiples of this number of rows.
PAGE = 1024
LookUp: TypeAlias = Callable[[Angles, RowPositions, TableDType], Any]
# Shape, strides, dtype and GPU: a view without address and owner.
Layout: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], str, int]


class _Kept(NamedTuple):
    """An entry of `TABLES` in GPU memory."""

    value: Any
    nbytes: int

    def sizes(self) -> list[int]:
        return [self.nbytes]

    def thin(self, must: bool) -> bool:  # noqa: ARG002  (`TABLES` calls it so)
        return False


class Window(NamedTuple):
    """A table on a GPU for positions ``first .. stop - 1``."""

    first: int
    stop: int
    angle_source: cuda.AngleSource


def window_of(
    angles: Angles, rows: RowPositions, dtype: TableDType, device: int, look_up: LookUp
) -> Window:
    """Return a cached table on a GPU that holds consecutive rows.

    Each stream has its own. Another stream could read a table before it is complete, or after its memory is reused.
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
    window, nbytes = _new_window(angles, start, stop, dtype, look_up)
    if nbytes <= TABLES.limit:
        TABLES.keep(key, _Kept(window, nbytes))
    return window


def _new_window(
    angles: Angles, start: int, stop: int, dtype: TableDType, look_up: LookUp
) -> tuple[Window, int]:
    """Return a window and its bytes: whole pages, or only the given rows if a page has too many or invalid ones."""
    first, last = start - start % PAGE, stop + -stop % PAGE
    row_bytes = 2 * angles.frequencies.heads * angles.frequencies.pairs * np.dtype(dtype).itemsize
    if (last - first) * row_bytes > TABLES.limit:
        first, last = start, stop
    try:
        table = look_up(angles, RowPositions(None, first, last - first), dtype)
    except (OverflowError, ValueError):
        first, last = start, stop
        table = look_up(angles, RowPositions(None, first, last - first), dtype)
    return Window(first, last, cuda.uploaded_table(table.values)), table.values.nbytes


def _ones(pairs: int, dtype: TableDType, device: int) -> Any:
    """Return channel pairs (1, 0) in the half layout, on the current GPU and for the current stream."""
    key = ("ones", pairs, dtype, device, memory.driver.current_stream())
    kept: _Kept | None = TABLES.get(key)
    if kept is None:
        unit_pairs = np.repeat(np.array([1, 0], dtype), pairs)
        kept = _Kept(memory.driver.upload(unit_pairs, blocking=True), unit_pairs.nbytes)
        if kept.nbytes <= TABLES.limit:
            TABLES.keep(key, kept)
    return kept.value


def rotate(
    x: Array, cosine: Array, sine: Array, axes: Axes, pairing: Pairing, out: Array | None
) -> Array | None:
    """Rotate an array by tables (*extra, batch or 1, sequence, pairs); None if kernels cannot."""
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
        ours = [memory.as_cupy(part, name) for part, name in zip(parts, names, strict=True)]
        result = _rotated(ours, names, memory.CUPY, axes, pairing)
        memory.driver.keep_alive(ours)
        return memory.to_original_library(result, x) if out is None else out


def _rotated(
    parts: Sequence[Array], names: Sequence[str], owner: str, axes: Axes, pairing: Pairing
) -> Array:
    """Rotate on the current GPU, given x, cosine, sine and perhaps an output, of CuPy or torch."""
    x, cosine, sine, *outputs = parts
    out = outputs[0] if outputs else None
    if axes.extra:
        return _by_index(parts, owner, axes, pairing)
    views = [memory.view_of(part, owner) for part in parts]
    memory.check_devices(views, names)
    memory.check_aligned(views, names)
    if not memory.has_contiguous_channels(views[0]):
        return _rotated([memory.contiguous(x), *parts[1:]], names, owner, axes, pairing)
    if out is not None and not memory.has_contiguous_channels(views[-1]):
        memory.assign(out, _rotated(parts[:3], names[:3], owner, axes, pairing))
        return out
    device = views[0].device
    with memory.driver.stream(memory.stream_of(owner, device), device):
        if out is None:
            result_spec = memory.result_spec(
                memory.like(views[0], owner), owner, like=views[0].dtype
            )
            (result,) = memory.empty([result_spec], [x])
        else:
            result = out
        _launched(
            views[0],
            memory.view_of(result, owner),
            axes,
            pairing,
            *cuda.tables_of(cosine[None], sine[None]),
        )
    if out is not None and owner == memory.TORCH:
        memory.bump_version([out])
    return result


def _by_index(parts: Sequence[Array], owner: str, axes: Axes, pairing: Pairing) -> Array:
    """Rotate by tables that differ on more axes than batch and sequence, one index of these at a time."""
    x, cosine, sine, *outputs = parts
    views = memory.view_of(x, owner)
    with memory.driver.stream(memory.stream_of(owner, views.device), views.device):
        result_spec = memory.result_spec(memory.like(views, owner), owner, like=views.dtype)
        out = outputs[0] if outputs else memory.empty([result_spec], [x])[0]
    rest = axes.without_extra()
    for index in np.ndindex(*cosine.shape[: len(axes.extra)]):
        where = axes.at(index, x.ndim)
        own = [x[where], cosine[index], sine[index], out[where]]
        _rotated(own, ["x", "cos", "sin", "out"], owner, rest, pairing)
    return out


def _launched(
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
    """Return cosine and sine side by side at positions on a GPU, None if kernels cannot compute them.

    The shape is that of the positions without their position axes, after an axis of heads if frequencies differ by
    head.
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
    """Return cosine and sine side by side at positions of CuPy or torch, on the current GPU."""
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
        (result,) = memory.empty([result_spec], [positions])
        y = memory.view_of(result, owner)
        # All positions read the same row.
        unit_pairs = _ones(pairs, dtype, device)
        x = y._replace(address=unit_pairs.data.ptr, strides=(0, 0, 0, y.strides[-1]))
        row_positions = cuda.row_positions(RowPositions(views, None, length, limit))
        whole = Pairing(0, pairs, "half", "half")
        _launched(
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
