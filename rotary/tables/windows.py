"""The one cache of cosine and sine, shared by every specification and backend.

A table depends on frequencies, factor, dtype and positions alone, so equal tables are computed once. The cache holds
parts of tables:

- A `Window` has the rows of consecutive positions. It has room for more rows than it is made with. Later calls compute
  these in place, a few at a time. A window without room left is followed by a new one. So no row is ever copied, and
  a call computes few rows more than it reads.
- `scattered.Runs` has the rows of several ranges of positions: those that the sequences of a batch read next.

Rows never change once they are computed. Thus threads may share them, and tables that were given out stay valid when
the cache drops a part. No part is larger than what calls asked for suggests, so a large position costs no memory.
Beyond a limit in bytes, the least recently used parts are dropped.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np

from rotary import backends
from rotary._lib import libraries, memo
from rotary._lib.checks import as_nbytes
from rotary._lib.memo import TABLES, Memo, PlansInfo
from rotary._lib.typing import HostArray, Int64Array, TableDType
from rotary.angles.phases import Frequencies
from rotary.backends.cpu.host import chosen
from rotary.runtime import pool

__all__ = [
    "CacheInfo",
    "cache_clear",
    "cache_info",
    "set_cache_limit",
]


# Parts of one table: many streams may decode at distant positions.
PARTS = 32
# A window grows by about so many bytes at once, and by so many rows at most. Computing them takes less than 0.1 ms.
STEP_BYTES, STEP_ROWS = 64 * 2**10, 512
# A window that follows another may hold twice as many rows, up to so many bytes. The cache keeps `PARTS` such windows
# of a stream of tokens, so this also bounds the memory of a stream.
STREAM_BYTES = 2**20
# A window has room for as many rows again as the call asks for, but for at most so many bytes of them.
ROOM_BYTES = 16 * 2**20
LARGEST_POSITION = 2**63 - 1

# Frequencies, factor and dtype of a table.
Key = tuple[Any, ...]


class CacheInfo(NamedTuple):
    """Counts of the cache of tables, in host and GPU memory together.

    Attributes
    ----------
    hits, misses : int
        Requests for consecutive positions that were, or were not, all in the cache. Requests for scattered
        positions count if the cache holds them, or keeps them, and not if they are computed for one call.
    entries : int
        Parts of tables in the cache, each for one range of positions or for those of a batch.
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


class Part:
    """Rows of a table that the cache keeps or drops together.

    Attributes
    ----------
    key : hashable
        Equal for equal parts of one table only.
    values : float array (2, heads, rows, pairs)
    reference : callable
        A weak reference to the part, for readers, which keep no memory.
    read : bool
        Whether a `Reader` used it, without asking the cache, since the cache last checked.
    """

    __slots__ = ("__weakref__", "key", "read", "reference", "values")

    def __init__(self, key: Hashable, values: HostArray) -> None:
        self.key = key
        self.values = values
        self.read = False
        self.reference: Callable[[], Any] = weakref.ref(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that were computed."""
        return int(self.values.nbytes)

    def was_read(self) -> bool:
        """Return whether a reader used it since the last such question."""
        read, self.read = self.read, False
        return read


class Window(Part):
    """Rows of a table for positions ``start .. stop - 1``, with room for positions below `end`.

    Attributes
    ----------
    start, stop, end : int
        `stop` grows when rows are computed.
    values : float array
        ``values[:, :, i]`` is the row of position ``start + i``.
    record : int64 array (3,)
        `start`, `stop`, and how often compiled code read the window since the cache last checked.

    Notes
    -----
    Compiled code may keep `record`, `reference` and the address of `values`, which never moves, but no reference to
    the window, so that the cache may drop it. While it holds the interpreter's lock, the row of a position is
    computed and its memory is valid if `reference` still refers to the window and
    ``record[0] <= position < record[1]``. It adds 1 to ``record[2]``, which counts as a hit and as a use.
    """

    __slots__ = ("_row_bytes", "end", "record", "start", "stop")

    def __init__(self, start: int, values: HostArray) -> None:
        rows = values.shape[2]
        self.start = self.stop = start
        self.end = start + rows
        self.record: Int64Array = np.array([start, start, 0], np.int64)
        self._row_bytes = int(values.nbytes // rows)
        super().__init__((start, self.end), values)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that were computed."""
        return (self.stop - self.start) * self._row_bytes

    def covers(self, start: int, stop: int) -> bool:
        """Return whether the rows of positions start .. stop - 1 are computed."""
        return self.start <= start and stop <= self.stop

    def rows(self, positions: Int64Array) -> Int64Array | None:
        """Return the rows of positions, C-contiguous; None if one of them has none."""
        if self.covers(int(positions.min()), int(positions.max()) + 1):
            return np.ascontiguousarray(positions - self.start)
        return None

    def fill(self, frequencies: Frequencies, factor: float, stop: int) -> None:
        """Compute the rows up to a position.

        Threads that do so at once write the same bytes, so none has to wait.
        """
        first = self.stop
        if first < stop:
            positions = np.arange(first, stop, dtype=np.int64)[None]
            row = first - self.start
            backends.host().fill_table(frequencies, positions, factor, self.values, row)
            self.stop = max(self.stop, stop)
            self.record[1] = self.stop

    def was_read(self) -> bool:
        """Return whether a reader used it since the last such question."""
        self.count_reads()
        return super().was_read()

    def count_reads(self) -> None:
        """Count what compiled code read as hits."""
        reads = int(self.record[2])
        if reads:
            self.record[2] -= reads
            TABLES.hits += reads
            self.read = True


class Parts(Memo[Hashable, Any]):
    """The parts of one table, by their keys, and the one that was read last."""

    __slots__ = ("latest",)

    def __init__(self, part: Part) -> None:
        super().__init__(PARTS)
        self.latest: Callable[[], Any] = part.reference
        self.held[part.key] = part

    def window(self, start: int, stop: int) -> Window | None:
        """Return a window that holds positions start .. stop - 1, and count this as a use; None if there is none."""
        for window in self.windows():
            if window.covers(start, stop):
                self.use(window)
                return window
        return None

    def windows(self) -> list[Window]:
        """Return the windows, most recently used first."""
        return [part for part in reversed(self.values()) if type(part) is Window]

    def count_reads(self) -> None:
        """Count what compiled code read as hits."""
        for window in self.windows():
            window.count_reads()

    def _trim_count(self) -> None:
        """Drop parts beyond the limit of their number; those that a `Reader` used meanwhile come last."""
        spared = 0
        while len(self.held) > self.limit:
            self.shrink(force=spared > self.limit)
            spared += 1

    def use(self, part: Part) -> None:
        """Count a use of a part."""
        self.touch(part.key)
        self.latest = part.reference

    def sizes(self) -> list[int]:
        """Return the bytes of each part."""
        return [part.nbytes for part in self.values()]

    def shrink(self, force: bool) -> bool:
        """Drop the least recently used part and return whether others are left; spare it once if it was read."""
        parts = self.values()
        for part in parts[:1]:
            # A `Reader` does not tell the cache that it uses a part.
            if part.was_read() and not force:
                self.touch(part.key)
                self.touch(getattr(self.latest(), "key", None))  # which is still the one used last
                return True
        if len(parts) > 1:  # else the whole entry is dropped, so that none is left empty
            self.pop(parts[0].key)
        return len(parts) > 1


class Space(NamedTuple):
    """Numbers of rows of a table, which follow from the bytes of one.

    Attributes
    ----------
    step : int
        A window grows by so many at once.
    stream, room : int
        How many rows a window of a stream has room for, and a window has room for beside those asked for.
    limit : int
        So many fit the cache.
    """

    step: int
    stream: int
    room: int
    limit: int


def space_of(frequencies: Frequencies, dtype: TableDType) -> Space:
    """Return how many rows of a table fit the sizes above."""
    row_bytes = 2 * frequencies.heads * frequencies.pairs * np.dtype(dtype).itemsize
    return Space(
        min(max(STEP_BYTES // row_bytes, 1), STEP_ROWS),
        max(STREAM_BYTES // row_bytes, 1),
        max(ROOM_BYTES // row_bytes, 1),
        TABLES.limit // row_bytes,
    )


def cached_window(
    frequencies: Frequencies, factor: float, dtype: TableDType, start: int, stop: int
) -> Window:
    """Return a window in which the rows of positions start .. stop - 1 are computed.

    Two threads that ask for the same window at once may both compute it, and both results are right. Its `stop` may
    then be less than what was asked for here, until the next call.
    """
    key = (frequencies.key, factor, dtype)
    parts = parts_of(key)
    window = None if parts is None else parts.window(start, stop)
    if window is not None:
        TABLES.hits += 1
        return window
    TABLES.misses += 1
    space = space_of(frequencies, dtype)
    windows = [] if parts is None else parts.windows()
    window = growing(windows, start, stop, space)
    if window is None:
        first, last, end = _extent(windows, start, stop, space)
        window = Window(first, _memory(frequencies, last - first, end - first, dtype))
    else:
        last = max(stop, min(window.stop + space.step, window.end, window.start + space.limit))
    window.fill(frequencies, factor, last)
    return _keep(key, window, start, stop)


def growing(windows: list[Window], start: int, stop: int, space: Space) -> Window | None:
    """Return a window that has room for positions start .. stop - 1 and few others before them; None if none has."""
    for window in windows:
        if (
            window.start <= start <= window.stop + space.step
            and stop <= window.end
            and stop - window.start <= space.limit
        ):
            return window
    return None


def _extent(windows: list[Window], start: int, stop: int, space: Space) -> tuple[int, int, int]:
    """Return which positions a new window has, first .. last - 1, and below which end it has room for more.

    It has those asked for. A window that continues another one, in either direction, has more at once, because
    a stream of tokens will probably ask for them.
    """
    length = stop - start
    room = length + min(max(length, space.step), space.room)
    first, last = start, stop
    before = [window for window in windows if window.start <= start <= window.stop]
    if before:
        last = max(stop, start + space.step)
        room = max(room, min(2 * (before[0].end - before[0].start), space.stream))
        room += -room % space.step
    elif any(start < window.start <= stop for window in windows):
        first = max(min(start, stop - 2 * length, stop - space.step), -LARGEST_POSITION)
        room = stop - first
    if max(last, stop) - first > space.limit:
        first, last = start, stop
    room = max(last - first, min(room, space.limit))
    return first, min(last, LARGEST_POSITION), min(first + room, LARGEST_POSITION)


def _keep(key: Hashable, window: Window, start: int, stop: int) -> Window:
    """Keep a window and drop those that it contains, or return one that another thread has kept."""
    if window.nbytes > TABLES.limit:
        return window
    parts: Parts = TABLES.first(key, Parts(window))
    other = parts.window(start, stop)
    if other is None:
        parts.keep(window.key, window)
        parts.use(window)
    else:
        window = other
    for old in parts.windows():
        if old is not window and window.covers(old.start, old.stop):
            parts.pop(old.key)
    TABLES.trim()
    return window


def keep_part(key: Hashable, part: Part) -> None:
    """Keep a part of a table, if it fits the cache."""
    if part.nbytes <= TABLES.limit:
        parts: Parts = TABLES.first(key, Parts(part))
        parts.keep(part.key, part)
        parts.use(part)
        TABLES.trim()


def parts_of(key: Hashable) -> Parts | None:
    """Return the parts of a table, and count this as a use."""
    parts: Parts | None = TABLES.held.get(key)
    if parts is not None:
        TABLES.touch(key)
    return parts


def _memory(frequencies: Frequencies, rows: int, room: int, dtype: TableDType) -> HostArray:
    """Return memory for a table with room for more rows than it needs, or without if there is too little memory.

    The operating system provides memory when it is first written to, so that room alone takes none.
    """
    try:
        return libraries.aligned((2, frequencies.heads, room, frequencies.pairs), dtype)
    except MemoryError:
        return libraries.aligned((2, frequencies.heads, rows, frequencies.pairs), dtype)


def computed(
    frequencies: Frequencies, positions: HostArray, factor: float, dtype: TableDType
) -> HostArray:
    """Return a table (2, heads, n, pairs) for positions (axes, n), not cached."""
    shape = 2, frequencies.heads, positions.shape[1], frequencies.pairs
    values = libraries.aligned(shape, dtype)
    if values.size:
        backend = chosen.get("host") or backends.host()
        backend.fill_table(frequencies, np.ascontiguousarray(positions), factor, values, 0)
    return values


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
        entries = TABLES.trim()
        for entry in entries:
            if isinstance(entry, Parts):
                entry.count_reads()
        sizes = [nbytes for entry in entries for nbytes in entry.sizes()]
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
