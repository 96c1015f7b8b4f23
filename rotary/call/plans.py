"""Calls whose like was made before: their arrays go straight to the kernel, all of them at once.

What a call decides before it computes follows from its options and from how its arrays lie in memory, but
not from their numbers, and a decoder asks the same for every token. So it is decided once and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from rotary import backends
from rotary._lib.typing import Array, HostArray
from rotary.angles.phases import merged
from rotary.backends.contract import Turns
from rotary.runtime.pool import SMALLEST, empty_like
from rotary.tables.windows import LARGEST_POSITION, Reader

from .arrays import names_of
from .rows import Fit
from .shapes import AxisOptions, frames_of, shape_of

PLANS_REMEMBERED = 256
Kept = TypeVar("Kept")
# What a launch reads of a table: values, index, the positions at which the values begin and end, and step.
TableRows: TypeAlias = tuple[HostArray, HostArray, int, int, int]
COUNTED = np.zeros((1, 1), np.int64)
INT64 = np.dtype(np.int64)


class Plan:
    """How arrays of certain shapes, strides and dtypes are rotated, all decided but where they stand.

    Parameters
    ----------
    launch : callable
        The backend's call of its kernel for such arrays.
    reader : Reader
        Of their table.
    fits : sequence of Fit
        What positions have to fit in each array.
    length : int
        The size of the sequence.
    limit : int
        The first position that is too far.
    leading : bool
        Whether an array of positions leads with position axes.
    new : callable
        Returns memory for the result of an array.
    """

    __slots__ = ("_launch", "_length", "_limit", "_new", "_offsets", "_positions", "_reader")

    def __init__(
        self,
        launch: Callable[..., int],
        reader: Reader,
        *,
        fits: Sequence[Fit],
        length: int,
        limit: int,
        leading: bool,
        new: Callable[[HostArray], HostArray],
    ) -> None:
        self._new = new
        self._launch = launch
        self._reader = reader
        self._length = length
        self._limit = limit
        batch = fits[0].batch or 1
        counts = (1, batch if all(each.takes_batch(batch) for each in fits) else 1)
        shapes = {(length,), *((count, length) for count in counts)}
        self._positions: set[tuple[int, ...]] = set() if leading else shapes
        self._offsets: set[tuple[int, ...]] = {(count,) for count in counts}

    def __call__(self, arrays: Sequence[HostArray], positions: Any, offset: Any, out: Any) -> Any:
        """Return arrays rotated, or None, nothing being changed, where the call has to be looked at."""
        if positions is None and (offset is None or type(offset) is int):
            rows = self._counted(offset or 0)
        else:
            rows = self._given(positions, offset)
        if rows is None:
            return None
        if out is None:
            results: Sequence[HostArray] = [self._new(x) for x in arrays]
        else:
            results = out if isinstance(out, tuple | list) else (out,)
            for result in results:
                if not result.flags.writeable:
                    return None
        # The kernel refuses positions and memory that it must not touch.
        if self._launch(arrays, results, rows):
            return None
        return results[0] if len(arrays) == 1 else tuple(results)

    def _counted(self, first: int) -> TableRows | None:
        """Return the rows of the table for positions that count up from a first one."""
        stop = first + self._length
        if stop > self._limit or first < -LARGEST_POSITION:
            return None
        window = self._reader.window(first, stop)
        return window.values, COUNTED, window.start - first, window.stop - first, 1

    def _given(self, positions: Any, offset: Any) -> TableRows | None:
        """Return the rows for positions, or from offsets on, that the table read last may have.

        The index is a copy, for the caller may go on writing to it while the kernel reads it.
        """
        if positions is None:
            # NumPy counts its durations among its integers.
            if isinstance(offset, np.integer) and offset.dtype.kind in "iu":
                return self._counted(int(offset))
            if not _is_int64_of(offset, self._offsets):
                return None
            index, step = np.array(offset).reshape(-1, 1), 1
        else:
            if offset is not None or not _is_int64_of(positions, self._positions):
                return None
            index, step = np.array(positions, order="C", ndmin=2), 0
        window = self._reader.latest()
        if window is None:
            return None
        return window.values, index, window.start, min(window.stop, self._limit), step


def _is_int64_of(value: Any, shapes: set[tuple[int, ...]]) -> bool:
    """Return whether a value is an array of int64, of one of some shapes."""
    return type(value) is np.ndarray and value.dtype == INT64 and value.shape in shapes


def unplanned(arrays: Sequence[HostArray], positions: Any, offset: Any, out: Any) -> None:
    """Have every call be looked at: what stands for the plan of calls that can have none."""


def key_of(
    verb: str, arrays: Sequence[Array], seq_axis: Any, batch_axis: Any, out: Any
) -> Hashable | None:
    """Return what the plan of a call depends on, None where there can be no plan."""
    # False and True would be taken for axes, being equal to 0 and 1.
    if seq_axis is not None and type(seq_axis) is not int:
        return None
    if batch_axis is not None and type(batch_axis) is not int:
        return None
    key: list[Hashable] = [verb, seq_axis, batch_axis, len(arrays)]
    for x in arrays:
        if type(x) is not np.ndarray:
            return None
        key += x.shape, x.strides, x.dtype
    if out is not None:
        outputs = out if isinstance(out, tuple | list) else (out,)
        if len(outputs) != len(arrays):
            return None
        for output, x in zip(outputs, arrays, strict=True):
            if output is x:
                key.append(None)
            elif type(output) is np.ndarray:
                key += output.shape, output.strides, output.dtype
            else:
                return None
    return tuple(key)


def remember(plans: dict[Any, Kept], key: Hashable, plan: Kept) -> None:
    """Keep what was made for calls like one, its plan above all; when there is too much, all else is forgotten."""
    if len(plans) >= PLANS_REMEMBERED:
        plans.clear()
    plans[key] = plan


def plan_of(
    arrays: Sequence[HostArray],
    results: Any,
    turns: Turns,
    *,
    head_dim: int,
    leading: bool,
    limit: int | None,
    options: AxisOptions,
) -> Callable[..., Any]:
    """Return the plan of calls like one that was made, given its arrays and its results.

    There is one for one array or two of a dtype, read and written where they lie, that turn in one pass by a
    table which the cache keeps.
    """
    launch_of = backends.host().launch_of
    results = results if isinstance(results, tuple) else (results,)
    frequencies, factor, scale = turns.angles[0]
    plain = len(turns.pairings) == 1 and turns.second is None and scale is None
    if launch_of is None or not plain or len(arrays) > 2:
        return unplanned
    shapes = tuple(map(shape_of, arrays, names_of(arrays)))
    frames, fits, length = frames_of(shapes, options, head_dim, turns.pairings, frequencies.heads)
    if frequencies.axes > 1:
        frequencies = merged(frequencies) or frequencies
    axes = [frame.axes for frame in frames]
    launch = launch_of(arrays, results, axes, frames[0].pairings[0])
    if launch is None or frequencies.axes > 1:
        return unplanned
    return Plan(
        launch,
        Reader(frequencies, factor, frames[0].dtype),
        fits=fits,
        length=length,
        limit=LARGEST_POSITION if limit is None else limit,
        leading=leading,
        new=np.empty_like if all(map(_is_simply_made, arrays)) else empty_like,
    )


def _is_simply_made(x: HostArray) -> bool:
    """Return whether NumPy makes memory for the result of an array as `pool.empty_like` does."""
    return x.nbytes < SMALLEST and 0 not in x.strides
