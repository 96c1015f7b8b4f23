"""The positions of the tokens of a call, read from `positions`, `offset`, `cu_seqlens` and `delta`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rotary._lib import libraries
from rotary._lib.libraries import UNKNOWN
from rotary._lib.numbers import EXACT, INT64, TOO_LARGE, bounds_of, check_int64_range, first_coarse
from rotary._lib.typing import Array, HostArray
from rotary.angles.learned import read_frequencies
from rotary.backends.contract import Axes, GpuView, PositionArgs, RowPositions
from rotary.positions import ragged
from rotary.positions.reading import check_below, read_positions
from rotary.tables.lookup import explicit_rows

# Position dtypes that need no conversion, and the magnitude below which their values are exact.
EXACT_BELOW: dict[Any, float] = {
    **{np.dtype(f"int{bits}"): TOO_LARGE for bits in (8, 16, 32, 64)},
    **{np.dtype(f"uint{bits}"): TOO_LARGE for bits in (8, 16, 32, 64)},
    np.dtype("float16"): first_coarse("float16") or 0,
    np.dtype("float32"): TOO_LARGE,
    np.dtype("float64"): TOO_LARGE,
}
INTEGERS = frozenset(dtype for dtype in EXACT_BELOW if dtype.kind in "iu")


class PositionShape(NamedTuple):
    """The shapes that positions of one array may have, from its name, its sizes without the channels and its axes."""

    name: str
    sizes: tuple[int, ...]
    axes: Axes

    @property
    def batch(self) -> int | None:
        """The size of the batch, None if there is none."""
        return None if self.axes.batch is None else self.sizes[self.axes.batch]

    def fits_batch(self, count: int) -> bool:
        """Return whether `count` entries along the batch axis fit."""
        return count == 1 or (self.batch is not None and self.batch in (count, UNKNOWN))

    @property
    def allows_per_axis(self) -> bool:
        """Whether positions may have one axis for each axis of the array but its last.

        They may not if an array of three axes has its batch after the sequence, because two axes mean (B, S).
        """
        sequence, batch, _ = self.axes
        return len(self.sizes) > 2 or (len(self.sizes) == 2 and (batch is None or batch < sequence))

    def size_texts(self) -> tuple[Any, ...]:
        """Return the sizes of the axes for error messages. All but that of the sequence read "n or 1"."""
        return tuple(
            f"{size} or 1" if size > 1 and axis != self.axes.sequence else size
            for axis, size in enumerate(self.sizes)
        )

    def fits_per_axis(self, shape: tuple[int, ...]) -> bool:
        """Return whether positions may have one axis for each axis of the array, and have a fitting shape."""
        return self.allows_per_axis and self.fits_shape(shape)

    def fits_shape(self, shape: tuple[int, ...]) -> bool:
        """Return whether each size is that of the axis of the array, or 1 for axes other than the sequence."""
        return len(shape) == len(self.sizes) and all(
            size in (expected, UNKNOWN)
            if axis == self.axes.sequence
            else size in (1, expected) or expected == UNKNOWN
            for axis, (size, expected) in enumerate(zip(shape, self.sizes, strict=True))
        )


class PositionShapes(NamedTuple):
    """The shapes that positions of all arrays of a call may have.

    Attributes
    ----------
    arrays : tuple of PositionShape
    length : int
        The sequence length.
    position_axes : int
        The number of position axes.
    has_position_axes : bool
        Whether the first axis of an array of positions is that of the position axes.
    as_gpu_view : callable or None
        For arrays on a GPU: returns an argument on that GPU as a `GpuView`, and None for other arguments. It takes
        the argument and its name.
    learned : bool
        Whether a gradient may be asked for although values are known, as MLX does.
    """

    arrays: tuple[PositionShape, ...]
    length: int
    position_axes: int
    has_position_axes: bool
    as_gpu_view: Callable[[Any, str], GpuView | None] | None = None
    learned: bool = False

    def fits_batch(self, count: int) -> bool:
        """Return whether `count` entries along the batch axis fit every array."""
        return count == 1 or all(
            axes.batch is not None and sizes[axes.batch] in (count, UNKNOWN)
            for _, sizes, axes in self.arrays
        )

    def fits_per_axis(self, shape: tuple[int, ...]) -> bool:
        """Return whether positions with one axis for each axis of an array fit every array."""
        distinct = {each[1:]: each for each in self.arrays}
        return all(each.fits_per_axis(shape) for each in distinct.values())

    @property
    def has_batch(self) -> bool:
        """Whether any array has a batch."""
        return any(each.batch is not None for each in self.arrays)

    def first_sizes(self) -> tuple[int, ...]:
        """Return the sizes that come first in the shape of positions: that of the position axes, or none."""
        return (self.position_axes,) if self.has_position_axes else ()

    def check_batch(self, count: int, name: str) -> None:
        """Raise unless `count` entries along the batch axis fit every array."""
        for each in self.arrays:
            if each.fits_batch(count):
                continue
            if each.batch is None:
                msg = (
                    f"`{name}` must be one number, because `{each.name}` has no batch axis, got {count}: give one "
                    "position per token as `positions`, or the batch axis as `batch_axis`"
                )
            else:
                msg = (
                    f"`{name}` must be a number or have {each.batch} entries, one per batch element of "
                    f"`{each.name}`, got {count}"
                )
            raise ValueError(msg)

    def text(self) -> str:
        """Return the shapes that an array of positions may have, for error messages."""
        first = self.first_sizes()
        texts: list[str] = []
        for each in self.arrays:
            allowed: list[tuple[Any, ...]] = [(self.length,), (1, self.length)]
            if each.batch is not None:
                allowed.append((each.batch, self.length))
            if len(self.arrays) == 1 and each.allows_per_axis:
                allowed.append(each.size_texts())
            texts += [_shape_text((*first, *shape)) for shape in allowed]
        return ", ".join(dict.fromkeys(texts)).replace(str(UNKNOWN), "B")


def _shape_text(shape: tuple[Any, ...]) -> str:
    """Return a shape as Python writes it; sizes may be text."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def read_rows(
    position_args: PositionArgs, shapes: PositionShapes, limit: int | None
) -> RowPositions:
    """Return the positions of a call.

    Parameters
    ----------
    position_args : tuple
        Either `positions`, of shape (S,), (1, S), (B, S), or with one axis for each axis of the array but its last.
        The axis of position axes comes first if `shapes` has one. Or `offset`, the first position of each batch
        element or packed sequence, and `cu_seqlens`, the bounds of packed sequences.
    shapes : PositionShapes
    limit : int or None
        Exclusive upper limit of positions.
    """
    positions, offset, cu_seqlens, _, _ = position_args
    if positions is not None:
        for other, name in ((offset, "offset"), (cu_seqlens, "cu_seqlens")):
            if other is not None:
                msg = f"`positions` must be given without `{name}`, which it replaces, got both"
                raise ValueError(msg)
        rows = _from_positions(_read_argument(positions, "positions", shapes), shapes, "positions")
    else:
        start = 0 if offset is None else offset
        rows = (
            _from_offset(start, shapes)
            if cu_seqlens is None
            else _from_cu_seqlens(cu_seqlens, start, shapes)
        )
    if limit is not None:
        name = "offset" if positions is None else "positions"
        rows.limit = limit
        if rows.start is None:
            if not isinstance(rows.positions, np.ndarray) or rows.positions.max(initial=0) >= limit:
                check_below(rows.positions, limit, name)
        elif rows.length:
            # If the bounds are on a GPU, the length of each packed sequence is unknown here.
            last = rows.start + (rows.length - 1 if rows.bounds is None else 0)
            if last >= limit:
                check_below(np.array(last), limit, name)
    if shapes.learned and libraries.is_mlx_array(positions):
        _keep_gradient(rows, positions)
    return rows


def _keep_gradient(rows: RowPositions, positions: Array) -> None:
    """Replace floating positions of MLX, which are checked by now, by the array that MLX may differentiate by."""
    name = libraries.dtype_name(positions)
    if "float" in name and isinstance(rows.positions, np.ndarray):
        xp = libraries.namespace(positions)
        wide = positions if name == "float64" else xp.astype(positions, xp.float32)
        rows.positions = xp.reshape(wide, rows.positions.shape)


def read_rows_and_frequencies(
    position_args: PositionArgs,
    shapes: PositionShapes,
    limit: int | None,
    sections: tuple[int, ...] | None,
) -> RowPositions:
    """Return the positions and frequencies of a call that gives both; `sections` has the axis of each pair."""
    positions, offset, cu_seqlens, _, inv_freq = position_args
    counts = positions is cu_seqlens is None and (offset is None or type(offset) is int)
    if counts and 0 <= (offset or 0) <= (EXACT if limit is None else limit) - shapes.length:
        rows = RowPositions(None, offset or 0, shapes.length, limit)
    else:
        rows = read_rows(position_args, shapes, limit)
    learned = shapes.learned and libraries.is_mlx_array(inv_freq)
    rows.frequencies = read_frequencies(inv_freq, sections, shapes.position_axes, learned=learned)
    return rows


def read_delta(position_args: PositionArgs, shapes: PositionShapes) -> RowPositions:
    """Return the deltas of a shift: a number, (B,), (1, S), (B, S), or one axis for each axis of the array.

    The axis of position axes comes first if `shapes` has one. If no array has a batch, (S,) gives one delta per
    token. With packed sequences, (n,) gives one per sequence.
    """
    _, _, cu_seqlens, delta, _ = position_args
    value = _read_argument(delta, "delta", shapes)
    bounds = None if cu_seqlens is None else _bounds(cu_seqlens, shapes)
    first = (shapes.position_axes,) if shapes.has_position_axes else ()
    shape = tuple(value.shape)
    inner = shape[len(first) :]
    if value.ndim == 0 and type(value) is np.ndarray:
        return RowPositions(
            np.broadcast_to(value, (shapes.position_axes, 1, 1)), None, shapes.length
        )
    if value.ndim == 0 or (shape == first):
        return _rows_at(_reshaped(value, (*(shape or (1,)), 1, 1)), shapes)
    if len(inner) != 1 or shape[: len(first)] != first:
        return _from_positions(value, shapes, "delta")
    (count,) = inner
    if bounds is not None and count == bounds.shape[0] - 1:
        if isinstance(value, GpuView) or isinstance(bounds, GpuView):
            return _from_sequences(value, bounds, shapes, consecutive=False)
        if isinstance(value, np.ndarray):
            deltas = np.repeat(value, np.diff(bounds), axis=-1)
            return _rows_at(deltas.reshape((*(first or (1,)), 1, shapes.length)), shapes)
    if all(each.axes.batch is None for each in shapes.arrays):
        return _from_positions(value, shapes, "delta")
    if not shapes.fits_batch(count):
        msg = (
            f"`delta` must be a number or have one of the shapes {shapes.text()}, got {shape}: a "
            "one-dimensional delta has one entry per batch element; one entry per token is (1, S)"
        )
        raise ValueError(msg)
    if type(value) is np.ndarray:
        per_batch = value.reshape((*(first or (1,)), count, 1))
        return RowPositions(
            np.broadcast_to(per_batch, (shapes.position_axes, count, 1)), None, shapes.length
        )
    return _rows_at(_reshaped(value, (*(first or (1,)), count, 1)), shapes)


def read_shift_to(
    position_args: PositionArgs, shapes: PositionShapes, limits: tuple[int | None, int | None]
) -> RowPositions:
    """Return rows on three times the position axes: positions, positions again, and deltas.

    The angle ``p * new - p * old + delta * new`` is then one sum of products, which is reduced exactly.
    """
    positions, offset, _, _, _ = position_args
    old_limit, new_limit = limits
    if positions is None and offset is None:
        msg = "`positions` or `offset` must be given with `to`: the angles depend on the positions of `x`"
        raise ValueError(msg)
    single = shapes._replace(position_axes=shapes.position_axes // 3)
    rows = read_rows(position_args, single, old_limit)
    shifts = read_delta(position_args, single)
    if any(
        each.start is None and not isinstance(each.positions, np.ndarray) for each in (rows, shifts)
    ):
        msg = "`positions` and `delta` must be known on the host with `to`, got traced values"
        raise TypeError(msg)
    per_array_axis = rows.per_array_axis or shifts.per_array_axis
    positions, deltas = np.broadcast_arrays(
        *(
            each.positions
            if isinstance(each.positions, np.ndarray) and each.per_array_axis == per_array_axis
            else _as_explicit(each, single, per_array_axis=per_array_axis)
            for each in (rows, shifts)
        )
    )
    if positions.dtype != deltas.dtype:
        positions = _as_floats(positions, "positions")
        deltas = _as_floats(deltas, "delta")
    if new_limit is not None:
        sums = positions + deltas
        if sums.dtype == np.int64:
            # A sum that overflowed exceeds every limit.
            overflow = (positions > 0) & (deltas > 0) & (sums < 0)
            sums = np.where(overflow, np.iinfo(np.int64).max, sums)
        if sums.size and sums.max() >= new_limit:
            check_below(sums, new_limit, "delta")
    return RowPositions(
        np.concatenate([positions, positions, deltas]),
        None,
        shapes.length,
        per_array_axis=per_array_axis,
    )


def _as_explicit(rows: RowPositions, shapes: PositionShapes, *, per_array_axis: bool) -> HostArray:
    """Return known positions as an array; with `per_array_axis`, shaped to broadcast against the single array."""
    if rows.start is None:
        assert isinstance(rows.positions, np.ndarray)
        positions = rows.positions
    else:
        consecutive = rows.start + np.arange(rows.length, dtype=np.int64)
        positions = np.broadcast_to(consecutive, (shapes.position_axes, 1, rows.length))
    if rows.per_array_axis or not per_array_axis:
        return positions
    (array,) = shapes.arrays
    axes, count, length = positions.shape
    sequence, batch, _ = array.axes
    sizes = [1] * len(array.sizes)
    sizes[sequence] = length
    if batch is not None:
        sizes[batch] = count
        positions = positions.swapaxes(1, 2) if batch > sequence else positions
    return positions.reshape((axes, *sizes))


def _as_floats(values: HostArray, name: str) -> HostArray:
    """Return integers or floats as float64; raise if integers are not exact in float64."""
    floats = values.astype(np.float64)
    if (np.abs(floats) >= EXACT).any() and values.dtype == np.int64:
        largest = values.flat[np.abs(floats).argmax()]
        msg = f"`{name}` must be below 2**53 in magnitude if mixed with floats, got {largest}"
        raise ValueError(msg)
    return floats


def _read_argument(value: Any, name: str, shapes: PositionShapes) -> Any:
    """Return positions as `read_positions` does, or as a `GpuView` if they are on the GPU of the call."""
    kind = type(value)
    if kind is np.ndarray and value.dtype in EXACT_BELOW:
        # Copy, because the caller may write to positions while a kernel reads them.
        if value.dtype in INTEGERS:
            integers = np.array(value, np.int64, order="C")
            if value.dtype != np.uint64 or not (integers < 0).any():
                return integers
            return read_positions(value, name)  # raises for values beyond int64
        floats = np.array(value, np.float64, order="C")
        if np.abs(floats).max(initial=0.0) < EXACT_BELOW[value.dtype]:
            return floats
    elif (kind is int and value in INT64) or (kind is float and abs(value) < TOO_LARGE):
        return np.array(value)
    elif kind is list and (set(map(type, value)) == {int} or _is_table_of_integers(value)):
        integers = np.array(value)
        if integers.dtype == np.int64:
            return integers
    view = None if shapes.as_gpu_view is None else shapes.as_gpu_view(value, name)
    return read_positions(value, name) if view is None else view


def _is_table_of_integers(value: list[Any]) -> bool:
    """Return whether a list holds lists of integers, all equally long, which NumPy reads as they are."""
    return (
        set(map(type, value)) == {list}
        and len(set(map(len, value))) == 1
        and {type(each) for row in value for each in row} == {int}
    )


def _reshaped(value: Array | GpuView, shape: tuple[int, ...]) -> Array | GpuView:
    """Return positions with axes of size 1 inserted."""
    if type(value) is np.ndarray:
        return value.reshape(shape)
    if isinstance(value, GpuView):
        return value.with_axes(shape)
    return libraries.namespace(value).reshape(value, shape)


def _from_sequences(
    value: Array | GpuView,
    bounds: HostArray | GpuView,
    shapes: PositionShapes,
    *,
    consecutive: bool,
) -> RowPositions:
    """Return rows from one value per packed sequence; the values or the bounds are on a GPU.

    The value is the first of `consecutive` positions, or else the position or delta of all tokens of the sequence.
    """
    if not isinstance(value, GpuView | np.ndarray):
        msg = (
            "`cu_seqlens` and the values for its sequences must be known on the host or on the GPU of the arrays, "
            f"got {type(value)}"
        )
        raise TypeError(msg)
    if (
        consecutive
        and isinstance(value, np.ndarray)
        and value.ndim == 0
        and value.dtype == np.int64
    ):
        return RowPositions(None, int(value), shapes.length, bounds=bounds)
    first = shapes.first_sizes() if value.ndim > 1 else ()
    positions = _reshaped(value, (*(first or (1,)), value.shape[-1] if value.ndim else 1, 1))
    return RowPositions(positions, None, shapes.length, consecutive=consecutive, bounds=bounds)


def _rows_at(positions: Array | GpuView, shapes: PositionShapes) -> RowPositions:
    """Return rows at positions (axes or 1, batch or 1, sequence or 1), repeated for every position axis."""
    if isinstance(positions, np.ndarray):
        shape = (shapes.position_axes, *positions.shape[1:])
        return RowPositions(np.broadcast_to(positions, shape), None, shapes.length)
    if not isinstance(positions, GpuView) and positions.shape[0] != shapes.position_axes:
        xp = libraries.namespace(positions)
        positions = xp.concat([positions] * shapes.position_axes, axis=0)
    return RowPositions(positions, None, shapes.length)


def _from_positions(value: Array | GpuView, shapes: PositionShapes, name: str) -> RowPositions:
    """Return rows at explicit positions, after a check of their shape."""
    first = (shapes.position_axes,) if shapes.has_position_axes else ()
    shape = tuple(value.shape)
    inner = shape[len(first) :]
    right_axes = shape[: len(first)] == first
    per_token = inner[-1:] == (shapes.length,) and (
        len(inner) == 1 or (len(inner) == 2 and (inner[0] == 1 or shapes.fits_batch(inner[0])))
    )
    if right_axes and per_token:
        inner = inner if len(inner) == 2 else (1, *inner)
        shape = (*(first or (1,)), *inner)
        positions = value.reshape(shape) if type(value) is np.ndarray else _reshaped(value, shape)
        if shapes.position_axes > 1 or (
            type(value) is np.ndarray
            and (
                value.dtype == np.float64
                or inner[0] > 1
                or not value.size
                or int(value.flat[-1]) - int(value.flat[0]) != shapes.length - 1
            )
        ):
            return RowPositions(positions, None, shapes.length)
        return explicit_rows(positions)
    if right_axes and shapes.fits_per_axis(inner):
        # A view is not reshaped if it need not be: `GpuView.with_axes` may move axes of size 1.
        positions = (
            value
            if first
            else value[None]
            if type(value) is np.ndarray
            else _reshaped(value, (1, *inner))
        )
        return RowPositions(positions, None, shapes.length, per_array_axis=True)
    axes_text = (
        f", of which the first is that of the {shapes.position_axes} position axes" if first else ""
    )
    msg = (
        f"`{name}` must have one of the shapes {shapes.text()}{axes_text}, got {shape}"
        f"{_advice(inner, shapes)}"
    )
    raise ValueError(msg)


def _advice(inner: tuple[int, ...], shapes: PositionShapes) -> str:
    """Return a hint for positions of a wrong shape if a common mistake explains it, else an empty text."""
    length = shapes.length
    if len(inner) == 1 and inner[0] != 1 and shapes.has_batch and shapes.fits_batch(inner[0]):
        return "; one number per batch element is an `offset`, or has the shape (B, 1)"
    if len(inner) == 2 and inner[1] == length and not shapes.has_batch:
        return "; the array has no batch axis unless `batch_axis` names it"
    if len(shapes.arrays) > 1 and any(each.fits_per_axis(inner) for each in shapes.arrays):
        return (
            "; positions with one axis per axis of the array must fit every array: rotate arrays of "
            "different shapes in separate calls"
        )
    return ""


def _from_offset(offset: Any, shapes: PositionShapes) -> RowPositions:
    """Return rows at consecutive positions from an offset."""
    if type(offset) is int:
        if not 0 <= offset <= EXACT - shapes.length:
            _check_last(offset, shapes.length)
        return RowPositions(None, offset, shapes.length)
    value = _read_argument(offset, "offset", shapes)
    if value.ndim > 1 and set(value.shape) == {1}:
        value = _reshaped(value, (1,))
    if value.ndim > 1:
        msg = f"`offset` must be a number or have the shape (B,), got shape {tuple(value.shape)}"
        raise ValueError(msg)
    if value.ndim and not shapes.fits_batch(value.shape[0]):
        shapes.check_batch(value.shape[0], "offset")
    if isinstance(value, GpuView):
        return RowPositions(
            value.with_axes((1, value.size, 1)), None, shapes.length, consecutive=True
        )
    if not isinstance(value, np.ndarray):
        return _from_traced_offset(value, shapes)
    if value.dtype == np.int64 and value.size == 1:
        start = int(value.reshape(()))
        if not 0 <= start <= EXACT - shapes.length:
            _check_last(start, shapes.length)
        return RowPositions(None, start, shapes.length)
    if value.size:
        last = value.max().item()
        if not 0 <= last <= EXACT - shapes.length:
            _check_last(last, shapes.length)
    positions = value.reshape((1, -1, 1)) + np.arange(shapes.length, dtype=np.int64)
    shape = (shapes.position_axes, value.size, shapes.length)
    return RowPositions(np.broadcast_to(positions, shape), None, shapes.length)


def _from_traced_offset(offset: Array, shapes: PositionShapes) -> RowPositions:
    """Return rows at consecutive positions from a traced offset; `no_overflow` marks those that fit its dtype."""
    xp = libraries.namespace(offset)
    unsigned = libraries.dtype_name(offset) == "uint64"
    if unsigned:
        offset = xp.astype(offset, xp.int64)
    first = xp.reshape(offset, (1, -1, 1))
    positions = first + xp.astype(libraries.arange(shapes.length, like=offset), offset.dtype)
    rows = _rows_at(positions, shapes)
    if "int" in libraries.dtype_name(offset):
        # If an addition overflows, the sum is below its first operand.
        no_overflow = (positions >= first) & (first >= 0) if unsigned else positions >= first
        rows.no_overflow = no_overflow[0, ...]
    return rows


def _check_last(first: float, length: int) -> None:
    """Raise unless the first and the last position are within int64, or below ``2**63`` as floats."""
    check_int64_range(first, "offset")
    if length:
        check_int64_range(first + length - 1, "offset", suffix=f" for the last of {length} rows")


def _from_cu_seqlens(cu_seqlens: Any, offset: Any, shapes: PositionShapes) -> RowPositions:
    """Return rows whose positions restart at the first token of every packed sequence."""
    bounds = _bounds(cu_seqlens, shapes)
    start = _read_argument(offset, "offset", shapes)
    if isinstance(bounds, GpuView) or isinstance(start, GpuView):
        if start.ndim > 1 or (start.ndim and start.shape[0] not in (1, bounds.shape[0] - 1)):
            msg = (
                f"`offset` must be a number or one per sequence, ({bounds.shape[0] - 1},), got shape "
                f"{tuple(start.shape)}"
            )
            raise ValueError(msg)
        return _from_sequences(start, bounds, shapes, consecutive=True)
    if not isinstance(start, np.ndarray):
        msg = "`offset` must be known on the host with `cu_seqlens`, got a traced value: pass `positions`"
        raise TypeError(msg)
    lengths = np.diff(bounds)
    if (
        start.dtype == np.int64
        and start.shape in ((), lengths.shape)
        and ((start >= 0) & (start <= EXACT)).all()
    ):
        firsts = np.repeat(start - bounds[:-1], lengths)  # no difference overflows
        positions = np.arange(shapes.length, dtype=np.int64) + firsts
    else:
        positions = ragged(bounds, offset=start)
    shape = shapes.position_axes, 1, shapes.length
    return RowPositions(np.broadcast_to(positions, shape), None, shapes.length)


def _bounds(cu_seqlens: Any, shapes: PositionShapes) -> HostArray | GpuView:
    """Return the bounds of packed sequences; bounds known on the host are checked against the arrays."""
    bounds = _read_argument(cu_seqlens, "cu_seqlens", shapes)
    if isinstance(bounds, GpuView):
        if bounds.ndim != 1 or bounds.shape[0] < 2 or "int" not in bounds.dtype:
            msg = f"`cu_seqlens` must be integers of shape (n + 1,), got dtype {bounds.dtype} and shape {bounds.shape}"
            raise ValueError(msg)
        return bounds
    if not isinstance(bounds, np.ndarray):
        msg = "`cu_seqlens` must be known on the host, got traced values: pass `positions` instead"
        raise TypeError(msg)
    ascending = (
        bounds.ndim == 1 and bounds.dtype == np.int64 and not (bounds[1:] < bounds[:-1]).any()
    )
    checked = bounds if ascending and not bounds[:1].any() and bounds.size else bounds_of(bounds)
    if checked[-1] != shapes.length:
        msg = f"`cu_seqlens` must end at the sequence length of the arrays, {shapes.length}, got {checked[-1]}"
        raise ValueError(msg)
    return checked
