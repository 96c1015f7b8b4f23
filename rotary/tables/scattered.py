"""Rows for scattered positions: those of a batch of sequences, each of which is at a position of its own.

A kernel reads all rows of a call from one memory. Positions that lie close together read one window. Otherwise the
first call computes the rows that it reads, which are not kept. If the positions of the next call follow these, the
cache keeps `Runs`: the rows of every sequence for this position and some more. Once they are used up, the next `Runs`
have twice as many rows as calls read meanwhile. A window is made as soon as calls have read half as many rows as it
has. So at most about two rows are computed for each one that is read, or four with a window, and no call computes
many more rows than it reads.
"""

from __future__ import annotations

import numpy as np

from rotary._lib import memo
from rotary._lib.memo import TABLES
from rotary._lib.typing import HostArray, Int64Array, TableDType
from rotary.angles.phases import Frequencies

from .windows import (
    LARGEST_POSITION,
    Part,
    Parts,
    Space,
    Window,
    cached_window,
    computed,
    growing,
    keep_part,
    parts_of,
    space_of,
)

# A window or `Runs` of scattered positions may have so many rows for each one that calls asked for.
ROWS_PER_READ = 2
# They have at most so many times the rows by which a window grows, or else those that the call asks for. Computing
# them takes about 0.1 ms.
MOST_STEPS = 4
# For how many tables, and how many batches of each, the last positions are remembered, if they are at most so many.
TABLES_WATCHED, BATCHES_WATCHED, PLACES_WATCHED = 64, 4, 4096
# `Runs` have no positions beyond this, so that no sum of positions overflows.
FARTHEST = 2**62


class Ranges:
    """Ranges of positions, and for how many positions of them calls asked.

    Attributes
    ----------
    starts, stops : int64 array (n,)
        Range i has the positions ``starts[i] .. stops[i] - 1``; both arrays are ascending.
    asked : int
    """

    __slots__ = ("_before", "asked", "starts", "stops")

    def __init__(self, starts: Int64Array, stops: Int64Array, asked: int) -> None:
        self.starts = starts
        self.stops = stops
        self.asked = asked
        # A last entry that no position is beyond, for positions that are beyond every range.
        self._before = np.append(starts - 1, np.int64(LARGEST_POSITION))

    def range_of(self, positions: Int64Array) -> Int64Array | None:
        """Return in which range each position is; None if one of them is in none."""
        found = self.stops.searchsorted(positions, "right")
        return found if (positions > self._before.take(found)).all() else None

    def are_followed_by(self, positions: Int64Array) -> bool:
        """Return whether at least half of the positions are in a range or follow its last position."""
        found = self.stops.searchsorted(positions, "left")
        within = np.count_nonzero(positions > self._before.take(found))
        return bool(2 * within >= positions.size)


class Runs(Part):
    """Rows of a table for ranges of positions."""

    __slots__ = ("_shifts", "ranges")

    def __init__(self, ranges: Ranges, values: HostArray, shifts: Int64Array) -> None:
        super().__init__(ranges, values)  # ranges are compared by identity
        self.ranges = ranges
        # What to add to a position of each range to get its row.
        self._shifts = shifts

    def rows(self, positions: Int64Array) -> Int64Array | None:
        """Return the rows of positions, C-contiguous; None if one of them has none."""
        found = self.ranges.range_of(positions)
        if found is None:
            return None
        self.ranges.asked += positions.size
        rows: Int64Array = np.add(positions, self._shifts.take(found), order="C")
        return rows


class _Watched:
    """What is remembered of a table's scattered positions.

    Attributes
    ----------
    asked : int
        For how many positions calls asked since a window was made, except those that `Runs` in the cache have.
    batches : tuple of Ranges
        The positions of the last calls that computed their rows, the last one first.
    """

    __slots__ = ("asked", "batches")

    def __init__(self, asked: int, batches: tuple[Ranges, ...]) -> None:
        self.asked = asked
        self.batches = batches


watched = memo.registered(TABLES_WATCHED)


def scattered_rows(
    frequencies: Frequencies, factor: float, dtype: TableDType, positions: Int64Array
) -> tuple[HostArray, Int64Array] | None:
    """Return part of a table and its row for each position, of any shape; None if the call had better compute them."""
    key = (frequencies.key, factor, dtype)
    start, stop = int(positions.min()), int(positions.max()) + 1
    if stop > LARGEST_POSITION:
        return None
    parts = parts_of(key)
    if parts is not None:
        found = _held(parts, positions, start, stop)
        if found is not None:
            TABLES.hits += 1
            return found
    space = space_of(frequencies, dtype)
    seen: _Watched = watched.pop(key) or _Watched(0, ())
    places = np.unique(positions)
    before = _followed(parts, seen, places)
    # Batches that are watched are counted already.
    asked = seen.asked if before is None or before in seen.batches else seen.asked + before.asked
    if _is_worth_a_window(parts, start, stop, positions.size, asked + positions.size, space):
        window = cached_window(frequencies, factor, dtype, start, stop)
        return window.values, np.ascontiguousarray(positions - window.start)
    near = start > -FARTHEST and stop < FARTHEST
    if before is None or not near or places.size > space.limit:
        batches = seen.batches
        if near and places.size <= PLACES_WATCHED:
            batches = (_ranges(places, 1, positions.size), *batches)[:BATCHES_WATCHED]
        watched.keep(key, _Watched(asked + positions.size, batches))
        return None
    TABLES.misses += 1
    watched.keep(key, _Watched(asked, tuple(each for each in seen.batches if each is not before)))
    runs = _runs_after(before, places, frequencies, factor, dtype, space)
    rows = runs.rows(positions)
    assert rows is not None
    keep_part(key, runs)
    if parts is not None:
        parts.pop(before)
    return runs.values, rows


def _held(
    parts: Parts, positions: Int64Array, start: int, stop: int
) -> tuple[HostArray, Int64Array] | None:
    """Return a part that has all positions, and their rows; None if there is none."""
    window = parts.window(start, stop)
    if window is not None:
        return window.values, np.ascontiguousarray(positions - window.start)
    for part in reversed(parts.values()):
        rows = part.rows(positions) if type(part) is Runs else None
        if rows is not None:
            parts.use(part)
            return part.values, rows
    return None


def _is_worth_a_window(
    parts: Parts | None, start: int, stop: int, count: int, asked: int, space: Space
) -> bool:
    """Return whether a window costs no more than what calls asked for, and no more at once than a call may."""
    windows: list[Window] = [] if parts is None else parts.windows()
    old = growing(windows, start, stop, space)
    new = stop - (start if old is None else old.stop)
    most = max(MOST_STEPS * space.step, ROWS_PER_READ * count)
    return new < ROWS_PER_READ * asked and new <= most and stop - start <= space.limit


def _followed(parts: Parts | None, seen: _Watched, places: Int64Array) -> Ranges | None:
    """Return the positions of the call before of the same batch; None if there was none."""
    kept = [] if parts is None else [part for part in parts.values() if type(part) is Runs]
    for ranges in (*(runs.ranges for runs in reversed(kept)), *seen.batches):
        if ranges.are_followed_by(places):
            return ranges
    return None


def _ranges(places: Int64Array, ahead: int, asked: int) -> Ranges:
    """Return ranges for ascending positions, each with some positions ahead; those that touch are one."""
    ends = np.flatnonzero(places[1:] - ahead > places[:-1])
    starts = places[np.append(0, ends + 1)]
    stops = places[np.append(ends, places.size - 1)] + ahead
    return Ranges(starts, stops, asked)


def _runs_after(
    before: Ranges,
    places: Int64Array,
    frequencies: Frequencies,
    factor: float,
    dtype: TableDType,
    space: Space,
) -> Runs:
    """Return the rows of ascending positions, and of more ahead of each the more were read of those before."""
    most = min(MOST_STEPS * space.step, space.limit)
    ahead = max(min(ROWS_PER_READ * before.asked, most) // places.size, 1)
    ranges = _ranges(places, ahead, 0)
    sizes = ranges.stops - ranges.starts
    shifts = np.cumsum(sizes) - sizes - ranges.starts
    positions = np.arange(sizes.sum()) - np.repeat(shifts, sizes)
    return Runs(ranges, computed(frequencies, positions[None], factor, dtype), shifts)
