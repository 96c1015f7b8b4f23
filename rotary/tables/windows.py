"""The one cache of cosine and sine, on the host, shared by every specification and backend.

A table is a function of frequencies, factor, dtype and positions alone, so equal ones are made once.
What is kept are windows: ranges of consecutive positions, which grow geometrically as they are read past
their end. Scattered positions are computed for the call that asks, until a window over all of them would
have cost no more; such a window takes up a quarter of the cache at most, so that a position costs no memory
by its size. The least recently used windows are dropped beyond a limit in bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rotary import backends
from rotary._lib import libraries, memo
from rotary._lib.checks import as_nbytes
from rotary._lib.memo import TABLES, Memo, PlansInfo
from rotary._lib.typing import HostArray, TableDType
from rotary.angles.phases import Frequencies
from rotary.runtime import pool

__all__ = [
    "CacheInfo",
    "cache_clear",
    "cache_info",
    "set_cache_limit",
]


# Windows kept for one table: several streams may stand at places of their own.
WINDOWS = 8
# A window grows by as many rows as it has or, near the limit, by one of these shares of them, and at least by so many:
# its rows are copied, and a stream of single tokens should seldom make it grow.
LEAST_GROWTH, SHARES = 256, (1, 2, 4, 8)
# Scattered positions get a window that is less than this many times as long as they are many by now, in this share of
# the cache.
SPARSEST, SHARE = 2, 1 / 4
COUNTS_REMEMBERED = 256
LARGEST_POSITION = 2**63 - 1

Key = tuple[Any, ...]


class CacheInfo(NamedTuple):
    """What the cache of tables did and holds.

    Attributes
    ----------
    hits, misses : int
        Requests for consecutive positions that were, or were not, all there. Those for scattered ones count
        where a window has them, or is made for them, and not where they are computed apart.
    entries : int
        Windows held.
    nbytes : int
        Bytes they occupy.
    limit : int
        Bytes they may occupy.
    """

    hits: int
    misses: int
    entries: int
    nbytes: int
    limit: int

    @property
    def pool(self) -> pool.PoolInfo:
        """What the pool of results did and holds now: hits, misses, blocks, nbytes, limit."""
        return pool.info()

    @property
    def plans(self) -> PlansInfo:
        """What the plans of repeated calls did and hold now: hits, misses, entries, limit."""
        return memo.plans_info()


class Window:
    """Rows of a table for positions ``start .. stop - 1``.

    Attributes
    ----------
    start, stop : int
    values : float array (2, heads, stop - start, lanes)
    read : bool
        Whether it was read, without asking the cache, since the cache last looked.
    reference : weak reference
        To itself, for those who keep no memory.
    """

    __slots__ = ("__weakref__", "read", "reference", "start", "stop", "values")

    def __init__(self, start: int, stop: int, values: HostArray) -> None:
        self.start = start
        self.stop = stop
        self.values = values
        self.read = False
        self.reference = weakref.ref(self)


class _Windows(Memo[tuple[int, int], Window]):
    """The windows of one table by the positions they begin and end at, and the one that was read last."""

    __slots__ = ("latest",)

    def __init__(self, window: Window) -> None:
        super().__init__(WINDOWS)
        self.latest: Callable[[], Window | None] = window.reference
        self.held[window.start, window.stop] = window

    def found(self, start: int, stop: int) -> Window | None:
        """Return a window that holds positions start .. stop - 1, and count this as a use."""
        for window in self.values():
            if _covers(window, start, stop):
                self.use(window)
                return window
        return None

    def use(self, window: Window) -> None:
        """Count a use of a window."""
        self.touch((window.start, window.stop))
        self.latest = window.reference

    def sizes(self) -> list[int]:
        """Return how many bytes each occupies."""
        return [window.values.nbytes for window in self.values()]

    def thin(self, must: bool) -> bool:
        """Drop the window used least recently and return whether there are others; spare it once if it was read."""
        windows = self.values()
        for window in windows[:1]:
            if window.read and not must:  # by somebody who did not ask: this is the first to know
                window.read = False
                self.touch((window.start, window.stop))
                return True
        if len(windows) > 1:  # else the entry goes as a whole, and no empty one is left
            self.held.pop((windows[0].start, windows[0].stop), None)
        return len(windows) > 1


class _Cache:
    """The windows of all tables, and how often they were asked for.

    Nothing waits for a lock: see `_memo`.
    """

    def __init__(self) -> None:
        # How many scattered positions of a table were asked for, by table.
        self.scattered_counts = memo.registered(COUNTS_REMEMBERED)

    def window(
        self, frequencies: Frequencies, factor: float, dtype: TableDType, start: int, stop: int
    ) -> Window:
        """Return a window that holds positions start .. stop - 1.

        Two threads that ask for the same one at once may both compute it, and either is right.
        """
        key = (frequencies.key, factor, dtype)
        windows = _windows_of(key)
        window = self._found(windows, start, stop)
        if window is not None:
            return window
        TABLES.misses += 1
        neighbour = _neighbour(windows, start, stop)
        window = _grown(neighbour, frequencies, factor, dtype, start, stop, TABLES.limit)
        return self._kept(key, window)

    def _found(self, windows: _Windows | None, start: int, stop: int) -> Window | None:
        """Return a window that is there and holds positions start .. stop - 1."""
        window = None if windows is None else windows.found(start, stop)
        if window is not None:
            TABLES.hits += 1
        return window

    def among(
        self,
        frequencies: Frequencies,
        factor: float,
        dtype: TableDType,
        start: int,
        stop: int,
        count: int,
    ) -> Window | None:
        """Return a window for `count` of the positions start .. stop - 1, None where they are better computed apart.

        They are until a window would not have taken longer than all that were so far, so that decoders of
        several sequences soon have one, and rare positions never pay twice what they need.
        """
        key = (frequencies.key, factor, dtype)
        windows = _windows_of(key)
        window = self._found(windows, start, stop)
        if window is not None or stop > LARGEST_POSITION:
            return window
        new = stop - start
        row_bytes = _row_bytes(frequencies, dtype)
        neighbour = _neighbour(windows, start, stop)
        # What has no room to grow in would be copied, or made anew, for every few rows.
        if neighbour is not None and _stretched(neighbour, start, stop, TABLES.limit // row_bytes):
            new -= min(stop, neighbour.stop) - max(start, neighbour.start)
        fits = (stop - start) * row_bytes <= TABLES.limit * SHARE
        asked = count + ((self.scattered_counts.pop(key) or 0) if fits else 0)
        if new >= SPARSEST * asked:
            if fits:
                self.scattered_counts.keep(key, asked)
            return None
        return self.window(frequencies, factor, dtype, start, stop)

    def latest(self, frequencies: Frequencies, factor: float, dtype: TableDType) -> Window | None:
        """Return the window of a table that was read last."""
        windows: _Windows | None = TABLES.held.get((frequencies.key, factor, dtype))
        return None if windows is None else windows.latest()

    def _kept(self, key: Key, window: Window) -> Window:
        """Keep a window in place of those it covers, or return one that another thread has kept."""
        if window.values.nbytes > TABLES.limit:
            return window
        windows: _Windows = TABLES.first(key, _Windows(window))
        start, stop = window.start, window.stop
        window = windows.found(start, stop) or windows.first((start, stop), window)
        windows.use(window)
        for old in windows.values():
            if old is not window and _covers(window, old.start, old.stop):
                windows.held.pop((old.start, old.stop), None)
        windows.trim()
        TABLES.trim()
        return window


def _windows_of(key: Key) -> _Windows | None:
    """Return the windows of a table, and count this as a use."""
    windows: _Windows | None = TABLES.held.get(key)
    if windows is not None:
        TABLES.touch(key)
    return windows


def _grown(
    old: Window | None,
    frequencies: Frequencies,
    factor: float,
    dtype: TableDType,
    start: int,
    stop: int,
    limit: int,
) -> Window:
    """Return a window over an old one and new positions, longer than asked if there is room."""
    if old is not None:
        most = limit // _row_bytes(frequencies, dtype)
        rows = _stretched(old, start, stop, most)
        overlap = start < old.stop and old.start < stop
        if rows is None and overlap and max(old.stop, stop) - min(old.start, start) <= most:
            rows = min(old.start, start), max(old.stop, stop)
        if rows is not None:
            return _extended(old, frequencies, factor, dtype, *rows)
    positions = np.arange(start, stop, dtype=np.int64)[None]
    return Window(start, stop, computed(frequencies, positions, factor, dtype))


def _stretched(old: Window, start: int, stop: int, most: int) -> tuple[int, int] | None:
    """Return where a window over an old one and new positions may begin and end; None where it has no room to grow."""
    for share in SHARES:
        growth = max((old.stop - old.start) // share, LEAST_GROWTH)
        first, last = old.start, old.stop
        if start < first:
            first = max(min(start, first - growth), -LARGEST_POSITION)
        if stop > last:
            last = min(max(stop, last + growth), LARGEST_POSITION)
        if last - first <= most:
            return first, last
    return None


def _row_bytes(frequencies: Frequencies, dtype: TableDType) -> int:
    """Return how many bytes the cosines and sines of a position take."""
    return 2 * frequencies.heads * frequencies.lanes * np.dtype(dtype).itemsize


def _covers(window: Window, start: int, stop: int) -> bool:
    """Return whether a window holds positions start .. stop - 1."""
    return window.start <= start and stop <= window.stop


def _neighbour(windows: _Windows | None, start: int, stop: int) -> Window | None:
    """Return a window that positions start .. stop - 1 overlap or continue."""
    for window in reversed(() if windows is None else windows.values()):
        if start <= window.stop and window.start <= stop:
            return window
    return None


def _extended(
    old: Window,
    frequencies: Frequencies,
    factor: float,
    dtype: TableDType,
    start: int,
    stop: int,
) -> Window:
    """Return an old window's rows, copied, with new ones before and after."""
    values = _empty(frequencies, stop - start, dtype)
    row = old.start - start
    values[:, :, row : row + old.stop - old.start] = old.values
    fill = backends.host().fill_table
    for first, last in ((start, old.start), (old.stop, stop)):
        if first < last:
            fill(
                frequencies,
                np.arange(first, last, dtype=np.int64)[None],
                factor,
                values,
                first - start,
            )
    return Window(start, stop, values)


def _empty(frequencies: Frequencies, rows: int, dtype: TableDType) -> HostArray:
    """Return memory for a table."""
    return libraries.aligned((2, frequencies.heads, rows, frequencies.lanes), dtype)


def computed(
    frequencies: Frequencies, positions: HostArray, factor: float, dtype: TableDType
) -> HostArray:
    """Return a table (2, heads, n, lanes) for positions (axes, n), not cached."""
    values = _empty(frequencies, positions.shape[1], dtype)
    if values.size:
        backends.host().fill_table(frequencies, np.ascontiguousarray(positions), factor, values, 0)
    return values


_cache = _Cache()


class Reader:
    """Reads one table again and again, and asks the cache only where the window it read last will not do.

    It keeps no memory: when the cache drops the window, it is gone.
    """

    __slots__ = ("_of_table", "_window")

    def __init__(self, frequencies: Frequencies, factor: float, dtype: TableDType) -> None:
        self._of_table = frequencies, factor, dtype
        self._window: Callable[[], Window | None] = _nothing

    def window(self, start: int, stop: int) -> Window:
        """Return a window that holds positions start .. stop - 1."""
        window = self._window()
        if window is None or start < window.start or window.stop < stop:
            window = _cache.window(*self._of_table, start, stop)
            self._window = window.reference
        else:
            window.read = True
            TABLES.hits += 1
        return window

    def latest(self) -> Window | None:
        """Return the window that anybody read last, if there is one: it may hold what is looked for."""
        window = _cache.latest(*self._of_table)
        if window is not None:
            TABLES.hits += 1
        return window


def _nothing() -> None:
    """Return what a reference to a window returns when there is none."""


def cache_info() -> CacheInfo:
    """Return hits, misses, entries, bytes and limit of the shared cache of tables.

    Returns
    -------
    CacheInfo
        A named tuple.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> rotary.cache_clear()
    >>> rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0)
    >>> x = rope(np.ones((16, 64), np.float32))
    >>> x = rope(np.ones((16, 64), np.float32))
    >>> rotary.cache_info()[:3]
    (1, 1, 1)
    """
    while True:
        limit = TABLES.limit  # read once, because another thread may set it
        sizes = [nbytes for entry in TABLES.trim() for nbytes in entry.sizes()]
        if sum(sizes) <= limit:  # else another thread kept a table meanwhile
            return CacheInfo(TABLES.hits, TABLES.misses, len(sizes), sum(sizes), limit)


def cache_clear() -> None:
    """Drop every cached table and all idle memory, and count from zero again.

    Tables and results in use stay valid.
    """
    memo.clear()
    pool.clear()


def set_cache_limit(nbytes: int) -> None:
    """Bound the memory of the shared cache of tables.

    Parameters
    ----------
    nbytes : int
        Bytes that cached tables may occupy, 0 for none. Least recently used ones are dropped at once
        where they exceed it. The default is 256 MiB.

    Raises
    ------
    TypeError
        If `nbytes` is not an integer.
    ValueError
        If it is negative.
    """
    TABLES.limit = as_nbytes(nbytes)
    TABLES.trim()
