"""Memory of results that nobody holds any more, kept for the next ones: fresh pages cost more than rotating.

The operating system hands out large blocks page by page and zeroed, which takes two to three times as long
as the rotation that fills them. So a large result is an array on a block that goes back to a pool when the
last view of it is gone, and the next result of about that size takes it from there.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections import OrderedDict, deque
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.checks import as_nbytes
from rotary._lib.libraries import ALIGNMENT, aligned
from rotary._lib.typing import HostArray

__all__ = ["PoolInfo", "set_pool_limit"]

# What may lie idle is an eighth of the memory there is, within these bounds.
LEAST_LIMIT, LARGEST_LIMIT = 256 * 2**20, 4 * 2**30
# What Linux says a container may use, in bytes or as "max".
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Large blocks start on such a page: each of them is one fault, and not one for every 4 KiB of it.
HUGE_PAGE = 2 * 2**20
# Below it the allocator recycles memory by itself.
SMALLEST = 2**20
# How long a block may be idle, counted from the first call that finds it idle, before a later call frees it.
SECONDS = 10.0


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


class _Owner:
    """What an array on a block has as its base: once it is gone nobody can reach the memory.

    NumPy keeps the object whose ``__array_interface__`` it reads alive as long as the array and every
    view of it, in this process's Python or in that of whoever was handed the memory.
    """

    __slots__ = ("__array_interface__", "__weakref__", "_memory")

    def __init__(self, memory: HostArray) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__


class _Blocks:
    """The blocks of one size: lent ones by their handles, oldest first, and idle ones, oldest first.

    A handle is a weak reference to an owner, which is in the queue of those that came back once the owner is gone. It
    is put there by `deque.append` itself: a finaliser written in Python would swallow an interruption in it.
    """

    __slots__ = ("capacity", "idle", "lent", "returned")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.lent: OrderedDict[int, tuple[weakref.ref[_Owner], HostArray]] = OrderedDict()
        self.returned: deque[weakref.ref[_Owner]] = deque()
        self.idle: deque[tuple[float, HostArray]] = deque()

    def nbytes(self) -> int:
        """Return how many bytes they occupy."""
        return self.capacity * (len(self.lent) + len(self.idle))

    def lend(self, memory: HostArray) -> _Owner:
        """Return an owner of a block, which comes back when the owner is gone."""
        owner = _Owner(memory)
        handle = weakref.ref(owner, self.returned.append)
        self.lent[id(handle)] = handle, memory
        return owner

    def sort_in(self, now: float) -> None:
        """Count what came back as idle, unless the pool gave it up while it was lent, and let go what is too old."""
        while self.returned:
            # A handle stays in the queue till it is dealt with. Another thread may deal with the same one.
            with suppress(IndexError, ValueError):
                handle = self.returned[0]
                found = self.lent.pop(id(handle), None)
                if found is not None:
                    self.idle.append((now, found[1]))
                self.returned.remove(handle)
        while self.oldest() < now - SECONDS:
            self.let_go()

    def latest(self) -> HostArray | None:
        """Return the block that came back last, which may still be in a cache, None if there is none."""
        try:
            return self.idle.pop()[1]
        except IndexError:
            return None

    def oldest(self) -> float:
        """Return since when the oldest idle block lies idle, infinity if there is none."""
        try:
            return self.idle[0][0]
        except IndexError:
            return math.inf

    def let_go(self) -> None:
        """Let go of the oldest idle block, if there is one."""
        with suppress(IndexError):
            self.idle.popleft()

    def give_up(self) -> None:
        """Have the block that was lent first be freed when its owner is gone."""
        with suppress(KeyError):
            self.lent.popitem(last=False)


class _Kept:
    """All that the pool holds and counts; to clear the pool is to begin another."""

    __slots__ = ("hits", "misses", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[int, _Blocks] = {}
        self.hits = self.misses = 0


class _Pool:
    """Blocks that are idle, and those in use that will be.

    As in `_memo`, every step is one operation of a container, so that there is no lock that an interrupted thread, a
    signal handler or a forked child could find taken. Idle blocks and those in use together stay within the limit:
    of the size that takes most, the block lent first is given up. So nothing need run when many come back at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept = _Kept()

    def take(self, nbytes: int) -> _Owner:
        """Return the owner of a block of at least so many bytes, which nobody else has."""
        kept = self.kept
        self._sort_in(kept)
        capacity = _capacity(nbytes)
        blocks = kept.sizes.get(capacity) or kept.sizes.setdefault(capacity, _Blocks(capacity))
        memory = blocks.latest()
        if memory is None:
            kept.misses += 1
            memory = aligned((capacity,), np.uint8, _alignment(capacity))
        else:
            kept.hits += 1
        owner = blocks.lend(memory)
        self._trim(kept)
        return owner

    def _sort_in(self, kept: _Kept) -> None:
        """Sort in what came back, and let go what has been idle for too long."""
        now = time.monotonic()
        for blocks in list(kept.sizes.values()):
            blocks.sort_in(now)

    def _trim(self, kept: _Kept) -> None:
        """Let go what is too much: idle blocks, oldest first, then those in use."""
        while True:
            sizes = list(kept.sizes.values())
            if sum(blocks.nbytes() for blocks in sizes) <= self.limit:
                return
            oldest = min(sizes, key=_Blocks.oldest)
            if oldest.idle:
                oldest.let_go()
            else:
                max(sizes, key=_Blocks.nbytes).give_up()

    def clear(self) -> None:
        """Let all blocks go and count from zero; those in use are freed when nobody can reach them."""
        self.kept = _Kept()

    def set_limit(self, limit: int) -> None:
        """Set how many bytes may lie idle."""
        self.limit = limit
        self.info()

    def info(self) -> PoolInfo:
        """Return the accounts."""
        while True:
            kept, limit = self.kept, self.limit  # read once, because another thread may set them
            self._sort_in(kept)
            self._trim(kept)
            idle = [(blocks.capacity, len(blocks.idle)) for blocks in list(kept.sizes.values())]
            nbytes = sum(capacity * count for capacity, count in idle)
            if nbytes <= limit:  # else another thread returned a block meanwhile
                count = sum(count for _, count in idle)
                return PoolInfo(kept.hits, kept.misses, count, nbytes, limit)


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


def empty(shape: tuple[int, ...], dtype: Any) -> HostArray:
    """Return a new array in C order on a cache line, its memory from the pool where it is large."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if not SMALLEST <= nbytes <= _pool.limit:
        return aligned(shape, dtype, _alignment(nbytes))
    memory: HostArray = np.asarray(_pool.take(nbytes))[:nbytes].view(dtype)
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
    others. A later call frees memory that has been idle for ten seconds.

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
