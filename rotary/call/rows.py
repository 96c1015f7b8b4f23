"""Where the rows of a call's arrays stand: `positions`, `offset` and `cu_seqlens` read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rotary._lib import libraries
from rotary._lib.libraries import UNKNOWN
from rotary._lib.numbers import EXACT, INT64, TOO_LARGE, bounds_of, check_int64_range, first_coarse
from rotary._lib.typing import Array, HostArray
from rotary.backends.contract import Axes, GpuView, PositionArgs, RowPositions
from rotary.positions import ragged
from rotary.positions.reading import check_below, read_positions
from rotary.tables.lookup import explicit_rows

# The dtypes of nearly all positions, and below which size their values are positions as they are.
PLAIN: dict[Any, float] = {
    **{np.dtype(f"int{bits}"): TOO_LARGE for bits in (8, 16, 32, 64)},
    **{np.dtype(f"uint{bits}"): TOO_LARGE for bits in (8, 16, 32, 64)},
    np.dtype("float16"): first_coarse("float16") or 0,
    np.dtype("float32"): TOO_LARGE,
    np.dtype("float64"): TOO_LARGE,
}
INTEGERS = frozenset(dtype for dtype in PLAIN if dtype.kind in "iu")


class PositionShape(NamedTuple):
    """What the positions of one array must fit: its name, its sizes without the channels, and its axes."""

    name: str
    sizes: tuple[int, ...]
    axes: Axes

    @property
    def batch(self) -> int | None:
        """The size of the batch, None if there is none."""
        return None if self.axes.batch is None else self.sizes[self.axes.batch]

    def takes_batch(self, count: int) -> bool:
        """Return whether positions with so many entries for the batch fit."""
        return count == 1 or (self.batch is not None and self.batch in (count, UNKNOWN))

    @property
    def takes_sizes(self) -> bool:
        """Whether positions may have a size for each axis, in the order of the array's own axes.

        Not if an array of three axes has its batch after the sequence: positions are (B, S) there.
        """
        sequence, batch, _ = self.axes
        return len(self.sizes) > 2 or (len(self.sizes) == 2 and (batch is None or batch < sequence))

    def spelled(self) -> tuple[Any, ...]:
        """Return the size of each axis as errors show it, and that it may be 1 beside the sequence."""
        return tuple(
            f"{size} or 1" if size > 1 and axis != self.axes.sequence else size
            for axis, size in enumerate(self.sizes)
        )

    def has_sizes(self, shape: tuple[int, ...]) -> bool:
        """Return whether positions have the size of each axis of the array, or 1 beside the sequence."""
        return self.takes_sizes and self.matches(shape)

    def matches(self, shape: tuple[int, ...]) -> bool:
        """Return whether a shape has the size of each axis of the array, or 1 beside the sequence."""
        return len(shape) == len(self.sizes) and all(
            size in (own, UNKNOWN)
            if axis == self.axes.sequence
            else size in (1, own) or own == UNKNOWN
            for axis, (size, own) in enumerate(zip(shape, self.sizes, strict=True))
        )


class PositionShapes(NamedTuple):
    """What positions have to fit: each array, the size of the sequence, and the position axes.

    `leading` says whether an array of positions leads with the position axes. On a GPU, `see` returns
    what lies in its memory as a view, given the name of the argument; None for values of the host.
    """

    arrays: tuple[PositionShape, ...]
    length: int
    axes: int
    leading: bool
    see: Callable[[Any, str], GpuView | None] | None = None

    def takes_batch(self, count: int) -> bool:
        """Return whether positions with so many entries for the batch fit every array."""
        return count == 1 or all(
            axes.batch is not None and sizes[axes.batch] in (count, UNKNOWN)
            for _, sizes, axes in self.arrays
        )

    def has_sizes(self, shape: tuple[int, ...]) -> bool:
        """Return whether positions have one size for each axis of every array."""
        alike = {each[1:]: each for each in self.arrays}
        return all(each.has_sizes(shape) for each in alike.values())

    @property
    def has_batch(self) -> bool:
        """Whether any array has a batch."""
        return any(each.batch is not None for each in self.arrays)

    def lead(self) -> tuple[int, ...]:
        """Return the leading shape that an array of positions has to have."""
        return (self.axes,) if self.leading else ()

    def check_batch(self, count: int, name: str) -> None:
        """Raise unless an argument with so many entries for the batch fits every array."""
        for each in self.arrays:
            if each.takes_batch(count):
                continue
            if each.batch is None:
                msg = (
                    f"`{name}` must be one number for `{each.name}`, which has no batch axis, got {count}: "
                    "give each token its own position with `positions`, or name the batch with `batch_axis`"
                )
            else:
                msg = (
                    f"`{name}` must be a number or have one entry for each of the {each.batch} of the batch "
                    f"of `{each.name}`, got {count}"
                )
            raise ValueError(msg)

    def shapes(self) -> str:
        """Return the shapes that an array of positions may have, for errors."""
        lead = self.lead()
        told: list[str] = []
        for each in self.arrays:
            allowed: list[tuple[Any, ...]] = [(self.length,), (1, self.length)]
            if each.batch is not None:
                allowed.append((each.batch, self.length))
            if len(self.arrays) == 1 and each.takes_sizes:
                allowed.append(each.spelled())
            told += [_spelled((*lead, *shape)) for shape in allowed]
        return ", ".join(dict.fromkeys(told)).replace(str(UNKNOWN), "B")


def _spelled(shape: tuple[Any, ...]) -> str:
    """Return a shape as Python writes it, whose sizes may be words."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def read_rows(where: PositionArgs, extent: PositionShapes, limit: int | None) -> RowPositions:
    """Return where rows stand.

    Parameters
    ----------
    where : tuple
        `positions`, (S,), (1, S), (B, S), or with a size or 1 for each axis of the array but its last, led by the
        position axes if the extent says so. Or `offset`, the first position of every row of the batch or of every
        packed sequence, and `cu_seqlens`, where packed sequences begin and the last one ends.
    extent : PositionShapes
    limit : int or None
        What positions have to stay below.
    """
    positions, offset, cu_seqlens, _ = where
    if positions is not None:
        for other, name in ((offset, "offset"), (cu_seqlens, "cu_seqlens")):
            if other is not None:
                msg = f"`positions` and `{name}` must not both be given: `positions` says it all"
                raise ValueError(msg)
        rows = _explicit(_found(positions, "positions", extent), extent, "positions")
    else:
        start = 0 if offset is None else offset
        rows = _counted(start, extent) if cu_seqlens is None else _packed(cu_seqlens, start, extent)
    if limit is not None:
        name = "offset" if positions is None else "positions"
        rows.limit = limit
        if rows.start is None:
            if not isinstance(rows.positions, np.ndarray) or rows.positions.max(initial=0) >= limit:
                check_below(rows.positions, limit, name)
        elif rows.length:
            # How long packed sequences are is not known where their bounds are not.
            last = rows.start + (rows.length - 1 if rows.bounds is None else 0)
            if last >= limit:
                check_below(np.array(last), limit, name)
    return rows


def read_delta(where: PositionArgs, extent: PositionShapes) -> RowPositions:
    """Return by how much rows move: a number, (B,), (1, S), (B, S) or a size for each axis.

    Any position axes lead. Of an array without a batch, (S,) has one delta for each token; of packed
    sequences, (n,) has one for each sequence.
    """
    _, _, cu_seqlens, delta = where
    value = _found(delta, "delta", extent)
    bounds = None if cu_seqlens is None else _bounds(cu_seqlens, extent)
    lead = (extent.axes,) if extent.leading else ()
    shape = tuple(value.shape)
    inner = shape[len(lead) :]
    if value.ndim == 0 and type(value) is np.ndarray:
        return RowPositions(np.broadcast_to(value, (extent.axes, 1, 1)), None, extent.length)
    if value.ndim == 0 or (shape == lead):
        return _rows(_reshaped(value, (*(shape or (1,)), 1, 1)), extent)
    if len(inner) != 1 or shape[: len(lead)] != lead:
        return _explicit(value, extent, "delta")
    (count,) = inner
    if bounds is not None and count == bounds.shape[0] - 1:
        if isinstance(value, GpuView) or isinstance(bounds, GpuView):
            return _per_sequence(value, bounds, extent, counting=False)
        if isinstance(value, np.ndarray):
            moved = np.repeat(value, np.diff(bounds), axis=-1)
            return _rows(moved.reshape((*(lead or (1,)), 1, extent.length)), extent)
    if all(fit.axes.batch is None for fit in extent.arrays):
        return _explicit(value, extent, "delta")
    if not extent.takes_batch(count):
        msg = (
            f"`delta` must be a number or have one of the shapes {extent.shapes()}, got {shape}: a "
            "one-dimensional delta has one entry per batch element; one entry per token is (1, S)"
        )
        raise ValueError(msg)
    if type(value) is np.ndarray:
        placed = value.reshape((*(lead or (1,)), count, 1))
        return RowPositions(np.broadcast_to(placed, (extent.axes, count, 1)), None, extent.length)
    return _rows(_reshaped(value, (*(lead or (1,)), count, 1)), extent)


def read_move(
    where: PositionArgs, extent: PositionShapes, limits: tuple[int | None, int | None]
) -> RowPositions:
    """Return rows on three times the position axes: where they stand, twice, and by how much they move.

    So the angle ``p * new - p * old + delta * new`` is one sum of products, reduced exactly.
    """
    positions, offset, _, _ = where
    old_limit, new_limit = limits
    if positions is None and offset is None:
        msg = "`positions` or `offset` must be given with `to`: the angles depend on the positions of `x`"
        raise ValueError(msg)
    own = extent._replace(axes=extent.axes // 3)
    rows = read_rows(where, own, old_limit)
    steps = read_delta(where, own)
    if any(
        each.start is None and not isinstance(each.positions, np.ndarray) for each in (rows, steps)
    ):
        msg = "`positions` and `delta` must be known, not traced, where `to` is given"
        raise TypeError(msg)
    by_axis = rows.by_axis or steps.by_axis
    places, moves = np.broadcast_arrays(
        *(
            each.positions
            if isinstance(each.positions, np.ndarray) and each.by_axis == by_axis
            else _written_out(each, own, by_axis=by_axis)
            for each in (rows, steps)
        )
    )
    if places.dtype != moves.dtype:
        places = _as_floats(places, "positions")
        moves = _as_floats(moves, "delta")
    if new_limit is not None:
        ends = places + moves
        if ends.dtype == np.int64:
            # What has wrapped is beyond every limit.
            ends = np.where((places > 0) & (moves > 0) & (ends < 0), np.iinfo(np.int64).max, ends)
        if ends.size and ends.max() >= new_limit:
            check_below(ends, new_limit, "delta")
    return RowPositions(
        np.concatenate([places, places, moves]), None, extent.length, by_axis=by_axis
    )


def _written_out(rows: RowPositions, extent: PositionShapes, *, by_axis: bool) -> HostArray:
    """Return the known positions of the single array of a call, `by_axis` with a size or 1 for each of its axes."""
    if rows.start is None:
        assert isinstance(rows.positions, np.ndarray)
        written = rows.positions
    else:
        line = rows.start + np.arange(rows.length, dtype=np.int64)
        written = np.broadcast_to(line, (extent.axes, 1, rows.length))
    if rows.by_axis or not by_axis:
        return written
    (fit,) = extent.arrays
    axes, count, length = written.shape
    sequence, batch, _ = fit.axes
    sizes = [1] * len(fit.sizes)
    sizes[sequence] = length
    if batch is not None:
        sizes[batch] = count
        written = written.swapaxes(1, 2) if batch > sequence else written
    return written.reshape((axes, *sizes))


def _as_floats(values: HostArray, name: str) -> HostArray:
    """Return integers or floats as float64, exactly."""
    floats = values.astype(np.float64)
    if (np.abs(floats) >= EXACT).any() and values.dtype == np.int64:
        msg = f"`{name}` must be below 2**53 in size next to floats, got {values.max()}"
        raise ValueError(msg)
    return floats


def _found(value: Any, name: str, extent: PositionShapes) -> Any:
    """Return positions as `read_positions` does, but those in the memory of a GPU that is called as a view."""
    kind = type(value)
    if kind is np.ndarray and value.dtype in PLAIN:
        # Copy, because the caller may write to positions while a kernel reads them.
        if value.dtype in INTEGERS:
            integers = np.array(value, np.int64, order="C")
            if value.dtype != np.uint64 or not (integers < 0).any():
                return integers
            return read_positions(value, name)  # which refuses what does not fit
        floats = np.array(value, np.float64, order="C")
        if np.abs(floats).max(initial=0.0) < PLAIN[value.dtype]:
            return floats
    elif (kind is int and value in INT64) or (kind is float and abs(value) < TOO_LARGE):
        return np.array(value)
    elif kind is list and set(map(type, value)) == {int}:
        integers = np.array(value)
        if integers.dtype == np.int64:
            return integers
    seen = None if extent.see is None else extent.see(value, name)
    return read_positions(value, name) if seen is None else seen


def _reshaped(value: Array | GpuView, shape: tuple[int, ...]) -> Array | GpuView:
    """Return positions with axes of size 1 put in."""
    if type(value) is np.ndarray:
        return value.reshape(shape)
    if isinstance(value, GpuView):
        return value.with_axes(shape)
    return libraries.namespace(value).reshape(value, shape)


def _per_sequence(
    value: Array | GpuView, bounds: HostArray | GpuView, extent: PositionShapes, *, counting: bool
) -> RowPositions:
    """Return rows of packed sequences by what each begins with, or stands at; one of both is on a GPU."""
    if not isinstance(value, GpuView | np.ndarray):
        msg = "`cu_seqlens` and what is given for its sequences must be known, or lie on the arrays' GPU"
        raise TypeError(msg)
    if counting and isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype == np.int64:
        return RowPositions(None, int(value), extent.length, bounds=bounds)
    lead = extent.lead() if value.ndim > 1 else ()
    places = _reshaped(value, (*(lead or (1,)), value.shape[-1] if value.ndim else 1, 1))
    return RowPositions(places, None, extent.length, counting=counting, bounds=bounds)


def _rows(positions: Array | GpuView, extent: PositionShapes) -> RowPositions:
    """Return rows at positions (axes or 1, batch or 1, sequence or 1), on every position axis."""
    if isinstance(positions, np.ndarray):
        shape = (extent.axes, *positions.shape[1:])
        return RowPositions(np.broadcast_to(positions, shape), None, extent.length)
    if not isinstance(positions, GpuView) and positions.shape[0] != extent.axes:
        xp = libraries.namespace(positions)
        positions = xp.concat([positions] * extent.axes, axis=0)
    return RowPositions(positions, None, extent.length)


def _explicit(value: Array | GpuView, extent: PositionShapes, name: str) -> RowPositions:
    """Return rows at positions as given, checked against what they have to fit."""
    lead = (extent.axes,) if extent.leading else ()
    shape = tuple(value.shape)
    inner = shape[len(lead) :]
    leads = shape[: len(lead)] == lead
    shared = inner[-1:] == (extent.length,) and (
        len(inner) == 1 or (len(inner) == 2 and (inner[0] == 1 or extent.takes_batch(inner[0])))
    )
    if leads and shared:
        inner = inner if len(inner) == 2 else (1, *inner)
        shape = (*(lead or (1,)), *inner)
        placed = value.reshape(shape) if type(value) is np.ndarray else _reshaped(value, shape)
        if extent.axes > 1 or (type(value) is np.ndarray and value.dtype == np.float64):
            return RowPositions(placed, None, extent.length)
        return explicit_rows(placed)
    if leads and extent.has_sizes(inner):
        # Not `_reshaped`: a view's axes of size 1 stay where they are.
        placed = (
            value
            if lead
            else value[None]
            if type(value) is np.ndarray
            else _reshaped(value, (1, *inner))
        )
        return RowPositions(placed, None, extent.length, by_axis=True)
    led = f", led by the {extent.axes} position axes" if extent.leading else ""
    msg = f"`{name}` must have one of the shapes {extent.shapes()}{led}, got {shape}{_advice(inner, extent)}"
    raise ValueError(msg)


def _advice(inner: tuple[int, ...], extent: PositionShapes) -> str:
    """Return what to do about positions of a shape that does not fit, if it is plain what was meant."""
    length = extent.length
    if len(inner) == 1 and inner[0] != 1 and extent.has_batch and extent.takes_batch(inner[0]):
        return "; one number for each of the batch goes to `offset`, or has the shape (B, 1)"
    if len(inner) == 2 and inner[1] == length and not extent.has_batch:
        return "; an array has a batch of its own only if `batch_axis` names it"
    if len(extent.arrays) > 1 and any(each.has_sizes(inner) for each in extent.arrays):
        return "; a size for each axis must fit every array: rotate those that differ by calls of their own"
    return ""


def _counted(offset: Any, extent: PositionShapes) -> RowPositions:
    """Return rows that count up from an offset."""
    if type(offset) is int:
        if not 0 <= offset <= EXACT - extent.length:
            _check_last(offset, extent.length)
        return RowPositions(None, offset, extent.length)
    value = _found(offset, "offset", extent)
    if value.ndim > 1 and set(value.shape) == {1}:
        value = _reshaped(value, (1,))
    if value.ndim > 1:
        msg = f"`offset` must be a number or have the shape (B,), got shape {tuple(value.shape)}"
        raise ValueError(msg)
    if value.ndim and not extent.takes_batch(value.shape[0]):
        extent.check_batch(value.shape[0], "offset")
    if isinstance(value, GpuView):
        return RowPositions(value.with_axes((1, value.size, 1)), None, extent.length, counting=True)
    if not isinstance(value, np.ndarray):
        return _counted_unknown(value, extent)
    if value.dtype == np.int64 and value.size == 1:
        start = int(value.reshape(()))
        if not 0 <= start <= EXACT - extent.length:
            _check_last(start, extent.length)
        return RowPositions(None, start, extent.length)
    if value.size:
        last = value.max().item()
        if not 0 <= last <= EXACT - extent.length:
            _check_last(last, extent.length)
    steps = np.arange(extent.length, dtype=np.int64)
    placed = np.broadcast_to(
        value.reshape((1, -1, 1)) + steps, (extent.axes, value.size, extent.length)
    )
    return RowPositions(placed, None, extent.length)


def _counted_unknown(offset: Array, extent: PositionShapes) -> RowPositions:
    """Return rows that count up from a traced offset, marking those whose position does not fit its dtype."""
    xp = libraries.namespace(offset)
    beyond = libraries.dtype_name(offset) == "uint64"
    if beyond:
        offset = xp.astype(offset, xp.int64)
    first = xp.reshape(offset, (1, -1, 1))
    positions = first + xp.astype(libraries.arange(extent.length, like=offset), offset.dtype)
    rows = _rows(positions, extent)
    if "int" in libraries.dtype_name(offset):
        # An integer that wraps is less than what was added to.
        held = (positions >= first) & (first >= 0) if beyond else positions >= first
        rows.held = held[0, ...]
    return rows


def _check_last(first: float, length: int) -> None:
    """Raise unless the first and the last position stay within int64, or below ``2**63`` as floats."""
    check_int64_range(first, "offset")
    if length:
        check_int64_range(first + length - 1, "offset", suffix=f" for the last of {length} rows")


def _packed(cu_seqlens: Any, offset: Any, extent: PositionShapes) -> RowPositions:
    """Return rows that restart at every packed sequence."""
    bounds = _bounds(cu_seqlens, extent)
    start = _found(offset, "offset", extent)
    if isinstance(bounds, GpuView) or isinstance(start, GpuView):
        if start.ndim > 1 or (start.ndim and start.shape[0] not in (1, bounds.shape[0] - 1)):
            msg = (
                f"`offset` must be a number or one per sequence, ({bounds.shape[0] - 1},), got shape "
                f"{tuple(start.shape)}"
            )
            raise ValueError(msg)
        return _per_sequence(start, bounds, extent, counting=True)
    if not isinstance(start, np.ndarray):
        msg = "`offset` must be known, not traced, where `cu_seqlens` is given: pass `positions`"
        raise TypeError(msg)
    lengths = np.diff(bounds)
    if (
        start.dtype == np.int64
        and start.shape in ((), lengths.shape)
        and ((start >= 0) & (start <= EXACT)).all()
    ):
        firsts = np.repeat(start - bounds[:-1], lengths)  # nothing wraps
        positions = np.arange(extent.length, dtype=np.int64) + firsts
    else:
        positions = ragged(bounds, offset=start)
    shape = extent.axes, 1, extent.length
    return RowPositions(np.broadcast_to(positions, shape), None, extent.length)


def _bounds(cu_seqlens: Any, extent: PositionShapes) -> HostArray | GpuView:
    """Return bounds of packed sequences; those that are known are checked, to be as long as the arrays."""
    bounds = _found(cu_seqlens, "cu_seqlens", extent)
    if isinstance(bounds, GpuView):
        if bounds.ndim != 1 or bounds.shape[0] < 2 or "int" not in bounds.dtype:
            msg = (
                f"`cu_seqlens` must be integers of shape (n + 1,), got shape {bounds.shape}, dtype "
                f"{bounds.dtype}"
            )
            raise ValueError(msg)
        return bounds
    if not isinstance(bounds, np.ndarray):
        msg = "`cu_seqlens` must be known, not traced: pass `positions` instead"
        raise TypeError(msg)
    rises = bounds.ndim == 1 and bounds.dtype == np.int64 and not (bounds[1:] < bounds[:-1]).any()
    checked = bounds if rises and not bounds[:1].any() and bounds.size else bounds_of(bounds)
    if checked[-1] != extent.length:
        msg = f"`cu_seqlens` must end at the {extent.length} rows of the arrays, got {checked[-1]}"
        raise ValueError(msg)
    return checked
