"""The one cache of cosine and sine, shared by every specification and backend.

A table depends on frequencies, factor, dtype and positions alone, so equal tables are computed once. The cache holds
windows: ranges of consecutive positions, which grow geometrically if a call reads past their end. Scattered positions
are computed for each call, until a window over all of them would have cost no more. Such a window takes a quarter of
the cache at most, so that a large position costs no memory. Beyond a limit in bytes, the least recently used windows
are dropped.
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
from rotary.backends.contract import TableRows
from rotary.runtime import pool

__all__ = [
    "CacheInfo",
    "cache_clear",
    "cache_info",
    "set_cache_limit",
]


# Windows of one table: several streams may decode at distant positions.
WINDOWS = 8
# A window grows by as many rows as it has, or, near the limit, by one of these fractions of them, and at least by
# LEAST_GROWTH rows. Growth copies its rows, and a stream of single tokens should seldom cause it.
LEAST_GROWTH, SHARES = 256, (1, 2, 4, 8)
# Scattered positions get a window if it has fewer rows than this many times the positions that calls asked for so far,
# and takes at most this share of the cache.
SPARSEST, SHARE = 2, 1 / 4
# For how many tables scattered positions are counted.
COUNTS_REMEMBERED = 256
LARGEST_POSITION = 2**63 - 1

Key = tuple[Any, ...]


class CacheInfo(NamedTuple):
    """Counts of the cache of tables, in host and GPU memory together.

    Attributes
    ----------
    hits, misses : int
        Requests for consecutive positions that were, or were not, all in the cache. Requests for scattered
        positions count if a window holds them, or is made for them, and not if they are computed for one call.
    entries : int
        Windows in the cache: ranges of positions.
    nbytes : int
        Bytes that they occupy.
    limit : int
        Bytes that they may occupy.
    """

    hits: int
    misses: int
    entries: int
    nbytes: int
    limit: int

    @property
    def pool(self) -> pool.PoolInfo:
        """The counts of the pool of memory for results: hits, misses, blocks, nbytes, limit."""
        return pool.info()

    @property
    def plans(self) -> PlansInfo:
        """The counts of the plans of repeated calls: hits, misses, entries, limit."""
        return memo.plans_info()


class Window:
    """Rows of a table for positions ``start .. stop - 1``.

    Attributes
    ----------
    start, stop : int
    values : float array (2, heads, stop - start, pairs)
    read : bool
        Whether a `Reader` used it, without asking the cache, since the cache last checked.
    reference : weak reference
        To itself, for readers, which keep no memory.
    """

    __slots__ = ("__weakref__", "read", "reference", "start", "stop", "values")

    def __init__(self, start: int, stop: int, values: HostArray) -> None:
        self.start = start
        self.stop = stop
        self.values = values
        self.read = False
        self.reference = weakref.ref(self)


class _Windows(Memo[tuple[int, int], Window]):
    """The windows of one table, by their first position and their end, and the one that was read last."""

    __slots__ = ("latest",)

    def __init__(self, window: Window) -> None:
        super().__init__(WINDOWS)
        self.latest: Callable[[], Window | None] = window.reference
        self.held[window.start, window.stop] = window

    def find(self, start: int, stop: int) -> Window | None:
        """Return a window that holds positions start .. stop - 1, and count this as a use; None if there is none."""
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
        """Return the bytes of each window."""
        return [window.values.nbytes for window in self.values()]

    def thin(self, must: bool) -> bool:
        """Drop the least recently used window and return whether others are left; spare it once if it was read."""
        windows = self.values()
        for window in windows[:1]:
            if window.read and not must:  # a `Reader` does not tell the cache that it uses a window
                window.read = False
                self.touch((window.start, window.stop))
                return True
        if len(windows) > 1:  # else the whole entry is dropped, so that none is left empty
            self.held.pop((windows[0].start, windows[0].stop), None)
        return len(windows) > 1


# By table, for how many scattered positions calls asked since it had no window for them.
scattered_counts = memo.registered(COUNTS_REMEMBERED)


def cached_window(
    frequencies: Frequencies, factor: float, dtype: TableDType, start: int, stop: int
) -> Window:
    """Return a window that holds positions start .. stop - 1.

    Two threads that ask for the same window at once may both compute it, and both results are right.
    """
    key = (frequencies.key, factor, dtype)
    windows = _windows_of(key)
    window = _find(windows, start, stop)
    if window is not None:
        return window
    TABLES.misses += 1
    neighbour = _neighbour(windows, start, stop)
    window = _grown(neighbour, frequencies, factor, dtype, start, stop, TABLES.limit)
    return _keep(key, window)


def window_for_scattered(
    frequencies: Frequencies, factor: float, dtype: TableDType, start: int, stop: int, count: int
) -> Window | None:
    """Return a window for `count` of the positions start .. stop - 1; None if this call had better compute them.

    It does until a window would have cost no more than all such calls so far. So decoders of several sequences soon
    share a window, and rare positions never cost more than twice what they need.
    """
    key = (frequencies.key, factor, dtype)
    windows = _windows_of(key)
    window = _find(windows, start, stop)
    if window is not None or stop > LARGEST_POSITION:
        return window
    new = stop - start
    row_bytes = _row_bytes(frequencies, dtype)
    neighbour = _neighbour(windows, start, stop)
    # A window without room to grow would be copied, or computed again, for every few rows.
    if neighbour is not None and _stretched(neighbour, start, stop, TABLES.limit // row_bytes):
        new -= min(stop, neighbour.stop) - max(start, neighbour.start)
    fits = (stop - start) * row_bytes <= TABLES.limit * SHARE
    asked = count + ((scattered_counts.pop(key) or 0) if fits else 0)
    if new >= SPARSEST * asked:
        if fits:
            scattered_counts.keep(key, asked)
        return None
    return cached_window(frequencies, factor, dtype, start, stop)


def _windows_of(key: Key) -> _Windows | None:
    """Return the windows of a table, and count this as a use."""
    windows: _Windows | None = TABLES.held.get(key)
    if windows is not None:
        TABLES.touch(key)
    return windows


def _find(windows: _Windows | None, start: int, stop: int) -> Window | None:
    """Return a window that holds positions start .. stop - 1, and count this as a hit; None if there is none."""
    window = None if windows is None else windows.find(start, stop)
    if window is not None:
        TABLES.hits += 1
    return window


def _keep(key: Key, window: Window) -> Window:
    """Keep a window and drop those that it contains, or return one that another thread has kept."""
    if window.values.nbytes > TABLES.limit:
        return window
    windows: _Windows = TABLES.first(key, _Windows(window))
    start, stop = window.start, window.stop
    window = windows.find(start, stop) or windows.first((start, stop), window)
    windows.use(window)
    for old in windows.values():
        if old is not window and _covers(window, old.start, old.stop):
            windows.pop((old.start, old.stop))
    windows.trim()
    TABLES.trim()
    return window


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
    """Return start and stop of a window over an old one and new positions; None if the limit leaves no room to grow."""
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
    """Return how many bytes the cosines and sines of one position take."""
    return 2 * frequencies.heads * frequencies.pairs * np.dtype(dtype).itemsize


def _covers(window: Window, start: int, stop: int) -> bool:
    """Return whether a window holds positions start .. stop - 1."""
    return window.start <= start and stop <= window.stop


def _neighbour(windows: _Windows | None, start: int, stop: int) -> Window | None:
    """Return a window that positions start .. stop - 1 overlap or continue; None if there is none."""
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
    """Return a copy of an old window with new rows before and after."""
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
    return libraries.aligned((2, frequencies.heads, rows, frequencies.pairs), dtype)


def computed(
    frequencies: Frequencies, positions: HostArray, factor: float, dtype: TableDType
) -> HostArray:
    """Return a table (2, heads, n, pairs) for positions (axes, n), not cached."""
    shape = 2, frequencies.heads, positions.shape[1], frequencies.pairs
    values = libraries.aligned(shape, dtype)
    if values.size:
        backends.host().fill_table(frequencies, np.ascontiguousarray(positions), factor, values, 0)
    return values


# The index of rows that count up.
COUNTED = np.zeros((1, 1), np.int64)


class Reader:
    """Reads one table repeatedly, and asks the cache only if the window that it read last does not suffice.

    It holds only a weak reference to the window, so that the cache may drop it.
    """

    __slots__ = ("_key", "_table", "_window")

    def __init__(self, frequencies: Frequencies, factor: float, dtype: TableDType) -> None:
        self._table = frequencies, factor, dtype
        self._key: Key = (frequencies.key, factor, dtype)
        self._window: Callable[[], Window | None] = _no_window

    def counted(self, first: int, length: int) -> TableRows | None:
        """Return the rows for positions that count up from a first one, None if the cache cannot hold them."""
        stop = first + length
        if stop > LARGEST_POSITION or first < -LARGEST_POSITION or not length:
            return None
        window = self._window()
        if window is None or first < window.start or window.stop < stop:
            window = cached_window(*self._table, first, stop)
            self._window = window.reference
        else:
            window.read = True
            TABLES.hits += 1
        return window.values, COUNTED, window.start - first, window.stop - first, 1

    def scattered(self, positions: HostArray) -> TableRows | None:
        """Return the rows for int64 positions (axes, ...) that the window read last has, None for others."""
        if positions.dtype != np.int64 or not positions.size:
            return None
        if positions.shape[0] > 1 and not (positions == positions[:1]).all():
            return None
        windows: _Windows | None = TABLES.held.get(self._key)
        window = None if windows is None else windows.latest()
        if (
            window is None
            or int(positions.min()) < window.start
            or window.stop <= int(positions.max())
        ):
            return None
        window.read = True
        TABLES.hits += 1
        index = np.ascontiguousarray(positions[0] - window.start)
        return window.values, index, 0, window.values.shape[2], 0

    def latest(self) -> Window | None:
        """Return the window that anybody read last, if there is one: it may hold what is looked for."""
        windows: _Windows | None = TABLES.held.get(self._key)
        window = None if windows is None else windows.latest()
        if window is not None:
            TABLES.hits += 1
        return window


def _no_window() -> None:
    """Stand for the weak reference of a reader that has read nothing."""


def cache_info() -> CacheInfo:
    """Return hits, misses, entries, bytes and limit of the cache of tables.

    Returns
    -------
    CacheInfo
        A named tuple. Its attributes `pool` and `plans` are the counts of the memory for results and of the
        plans of repeated calls.

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
    """Drop every cached table, in host and GPU memory, every plan and all idle memory, and count from zero.

    Tables and results in use stay valid, and compiled kernels are kept.
    """
    memo.clear()
    pool.clear()


def set_cache_limit(nbytes: int) -> None:
    """Bound the memory of the cache of tables.

    Parameters
    ----------
    nbytes : int
        Bytes that cached tables may occupy, in host and GPU memory together; 0 keeps none. If they exceed it,
        the least recently used ones are dropped at once. The default is 256 MiB.

    Raises
    ------
    TypeError
        If `nbytes` is not an integer.
    ValueError
        If it is negative.
    """
    TABLES.limit = as_nbytes(nbytes)
    TABLES.trim()
