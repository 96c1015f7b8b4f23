"""Memory of results that nobody holds any more, kept for the next ones: fresh pages cost more than rotating.

The operating system hands out large blocks page by page and zeroed, which takes two to three times as long
as the rotation that fills them. So a large result is an array on a block that goes back to a pool when the
last view of it is gone, and the next result of about that size takes it from there.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._checks import as_nbytes
from ._libraries import ALIGNMENT, aligned
from ._typing import HostArray

__all__ = ["PoolInfo", "set_pool_limit"]

# What may lie idle is an eighth of the memory there is, within these bounds.
LEAST_LIMIT, LARGEST_LIMIT = 256 * 2**20, 4 * 2**30
# What Linux says a container may use, in bytes or as "max".
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Large blocks start on such a page: each of them is one fault, and not one for every 4 KiB of it.
HUGE_PAGE = 2 * 2**20
# Below it the allocator recycles memory by itself.
SMALLEST = 2**20
# How long a block may lie idle before the next call that uses the pool lets it go.
SECONDS = 10.0
# Blocks that came back while the pool was busy; more of them are let go.
WAITING = 64


class PoolInfo(NamedTuple):
    """What the pool of results did and holds.

    Attributes
    ----------
    hits, misses : int
        Large results whose memory was, or was not, in the pool.
    blocks : int
        Blocks that lie idle.
    nbytes : int
        Bytes they occupy.
    limit : int
        Bytes they may occupy.
    """

    hits: int
    misses: int
    blocks: int
    nbytes: int
    limit: int


class _Block:
    """Memory that starts on a cache line or a page, and since when it lies idle."""

    __slots__ = ("capacity", "idle_since", "memory")

    def __init__(self, capacity: int) -> None:
        self.memory = aligned((capacity,), np.uint8, _alignment(capacity))
        self.capacity = capacity
        self.idle_since = 0.0


class _Owner:
    """What an array on a block has as its base: once it is gone nobody can reach the memory.

    NumPy keeps the object whose ``__array_interface__`` it reads alive as long as the array and every
    view of it, in this process's Python or in that of whoever was handed the memory.
    """

    __slots__ = ("__array_interface__", "block")

    def __init__(self, block: _Block) -> None:
        self.block = block
        self.__array_interface__ = block.memory.__array_interface__

    def __del__(self) -> None:
        _pool.give_back(self.block)


class _Pool:
    """Idle blocks, oldest first.

    A block comes back in a finaliser, which Python may run anywhere, also in a thread that holds the
    lock: it is then left in a queue, whose appending is atomic, and whoever holds the lock sorts it in.
    """

    def __init__(self, limit: int) -> None:
        self.lock = threading.Lock()
        self.limit = limit
        self.returned: deque[_Block] = deque(maxlen=WAITING)
        self.idle: list[_Block] = []
        self.nbytes = self.hits = self.misses = 0

    def take(self, nbytes: int) -> _Block:
        """Return a block of at least so many bytes, which nobody else has."""
        capacity = _capacity(nbytes)
        with self.lock:
            self._sort_in()
            for place in range(len(self.idle) - 1, -1, -1):  # the latest may still be in a cache
                if self.idle[place].capacity == capacity:
                    self.hits += 1
                    self.nbytes -= capacity
                    return self.idle.pop(place)
            self.misses += 1
        return _Block(capacity)

    def give_back(self, block: _Block) -> None:
        """Take a block back, whatever else is going on."""
        block.idle_since = time.monotonic()
        self.returned.append(block)
        if self.lock.acquire(blocking=False):
            try:
                self._sort_in()
            finally:
                self.lock.release()

    def _sort_in(self) -> None:
        """Sort in what came back, and let go what is too old or too much; the lock is held."""
        while self.returned:
            block = self.returned.popleft()
            self.idle.append(block)
            self.nbytes += block.capacity
        oldest_allowed = time.monotonic() - SECONDS
        while self.idle and (self.nbytes > self.limit or self.idle[0].idle_since < oldest_allowed):
            self.nbytes -= self.idle.pop(0).capacity

    def clear(self) -> None:
        """Let all idle blocks go and count from zero."""
        with self.lock:
            self.returned.clear()
            self.idle.clear()
            self.nbytes = self.hits = self.misses = 0

    def set_limit(self, limit: int) -> None:
        """Set how many bytes may lie idle."""
        with self.lock:
            self.limit = limit
            self._sort_in()

    def info(self) -> PoolInfo:
        """Return the accounts."""
        with self.lock:
            self._sort_in()
            return PoolInfo(self.hits, self.misses, len(self.idle), self.nbytes, self.limit)


def _capacity(nbytes: int) -> int:
    """Return how large a block for so many bytes is: an eighth of a power of two more at most."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def _alignment(nbytes: int) -> int:
    """Return where blocks of a size begin: NumPy asks for huge pages from 4 MiB on."""
    return HUGE_PAGE if nbytes >= 2 * HUGE_PAGE else ALIGNMENT


def _limit_at_start() -> int:
    """Return the limit that the environment asks for, or else the default."""
    asked = os.environ.get("ROTARY_POOL", "")
    if asked.isdecimal():
        return int(asked)
    return min(max(_memory() // 8, LEAST_LIMIT), LARGEST_LIMIT)


def _memory() -> int:
    """Return how many bytes of memory this process may use, 0 where nothing tells."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
    try:
        return min(there, int(CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):
        return there


_pool = _Pool(_limit_at_start())

if hasattr(os, "register_at_fork"):
    # A child must not inherit a lock that another thread of its parent held.
    os.register_at_fork(
        before=_pool.lock.acquire,
        after_in_parent=_pool.lock.release,
        after_in_child=_pool.lock.release,
    )


def empty(shape: tuple[int, ...], dtype: Any) -> HostArray:
    """Return a new array in C order on a cache line, its memory from the pool where it is large."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if not SMALLEST <= nbytes <= _pool.limit:
        return aligned(shape, dtype, _alignment(nbytes))
    memory: HostArray = np.asarray(_Owner(_pool.take(nbytes)))[:nbytes].view(dtype)
    return memory.reshape(shape)


def empty_like(x: HostArray) -> HostArray:
    """Return a new array of the shape, dtype and axis order of another, its last axis contiguous."""
    if not SMALLEST <= x.nbytes <= _pool.limit:
        like = np.empty_like(x, subok=False)
        # That of an array that was broadcast may have its last axis elsewhere.
        return like if like.strides[-1] == like.itemsize else np.empty(x.shape, x.dtype)
    *front, last = range(x.ndim)
    order = [*sorted(front, key=lambda axis: -abs(x.strides[axis])), last]
    back = np.argsort(order)
    return empty(tuple(x.shape[axis] for axis in order), x.dtype).transpose(back)


def clear() -> None:
    """Let all idle memory go and count from zero."""
    _pool.clear()


def info() -> PoolInfo:
    """Return what the pool did and holds."""
    return _pool.info()


def set_pool_limit(nbytes: int) -> None:
    """Bound the memory that is kept for results.

    The memory of a large result, of 1 MiB and more, is used again once the last view of it is gone: fresh
    memory costs two to three times as much as the rotation. Such an array does not own its memory, as
    ``x.flags.owndata`` tells, so that ``x.resize`` in place is refused; in all else it is an array like
    others. What has lain idle for ten seconds is let go by the next call.

    Parameters
    ----------
    nbytes : int
        Bytes that may lie idle, 0 to keep none. The default is what the environment variable
        ``ROTARY_POOL`` said when the library was imported, or else an eighth of the machine's memory, 256
        MiB at least and 4 GiB at most. `rotary.cache_info` tells what is held, and `rotary.cache_clear`
        lets it go. Results that are larger are new memory every time.

    Raises
    ------
    TypeError
        If `nbytes` is not an integer.
    ValueError
        If it is negative.

    Examples
    --------
    >>> import rotary
    >>> before = rotary.cache_info().pool.limit
    >>> rotary.set_pool_limit(64 * 2**20)
    >>> rotary.cache_info().pool.limit
    67108864
    >>> rotary.set_pool_limit(before)
    """
    _pool.set_limit(as_nbytes(nbytes))
