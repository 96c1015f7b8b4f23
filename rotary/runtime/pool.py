"""A pool of memory for large results, because new memory costs more than the rotation that fills it.

The operating system hands out large blocks page by page and filled with zeros, which takes two to three times as long
as the rotation. So a large result is an array on a block that goes back to the pool when the last view of it is gone.
The next result of about that size takes it from there.
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

# The default limit is an eighth of the memory of the machine, within these bounds.
LEAST_LIMIT, LARGEST_LIMIT = 256 * 2**20, 4 * 2**30
# The memory that a container may use, in bytes or "max".
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Large blocks start on such a page, which causes one page fault instead of one for every 4 KiB.
HUGE_PAGE = 2 * 2**20
# Smaller blocks are recycled by the allocator of C.
SMALLEST = 2**20
# A call frees a block if another call found it idle so long ago.
SECONDS = 10.0


class PoolInfo(NamedTuple):
    """Counts of the pool of memory for results.

    Attributes
    ----------
    hits, misses : int
        Large results that found memory in the pool, and those that did not.
    blocks : int
        Idle blocks.
    nbytes : int
        Bytes that they occupy.
    limit : int
        Bytes that they may occupy.
    """

    hits: int
    misses: int
    blocks: int
    nbytes: int
    limit: int


class _Owner:
    """The base of an array on a block: once it is gone, nobody can reach the memory.

    NumPy keeps the object whose ``__array_interface__`` it reads alive as long as the array and every view of it,
    those of other libraries included.
    """

    __slots__ = ("__array_interface__", "__weakref__", "_memory")

    def __init__(self, memory: HostArray) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__


class _Blocks:
    """The blocks of one size: lent ones by their handles, oldest first, and idle ones, oldest first.

    A handle is a weak reference to an owner. Once the owner is gone, the handle is in the queue `returned`, where
    `deque.append` itself puts it: an interruption in a finaliser written in Python would be lost.
    """

    __slots__ = ("capacity", "idle", "lent", "returned")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.lent: OrderedDict[int, tuple[weakref.ref[_Owner], HostArray]] = OrderedDict()
        self.returned: deque[weakref.ref[_Owner]] = deque()
        self.idle: deque[tuple[float, HostArray]] = deque()

    def nbytes(self) -> int:
        """Return the bytes of lent and idle blocks."""
        return self.capacity * (len(self.lent) + len(self.idle))

    def lend(self, memory: HostArray) -> _Owner:
        """Return an owner of a block; the block comes back when the owner is gone."""
        owner = _Owner(memory)
        handle = weakref.ref(owner, self.returned.append)
        self.lent[id(handle)] = handle, memory
        return owner

    def collect(self, now: float) -> None:
        """Count blocks that came back as idle, unless the pool gave them up, and free those idle for too long."""
        while self.returned:
            # A handle leaves the queue last, so that an interruption loses none. Two threads may handle the same one.
            with suppress(IndexError, ValueError):
                handle = self.returned[0]
                found = self.lent.pop(id(handle), None)
                if found is not None:
                    self.idle.append((now, found[1]))
                self.returned.remove(handle)
        while self.oldest() < now - SECONDS:
            self.free_oldest()

    def latest(self) -> HostArray | None:
        """Take the block that came back last, which may still be in a processor's cache; None if there is none."""
        try:
            return self.idle.pop()[1]
        except IndexError:
            return None

    def oldest(self) -> float:
        """Return since when the oldest idle block has been idle; infinity if there is none."""
        try:
            return self.idle[0][0]
        except IndexError:
            return math.inf

    def free_oldest(self) -> None:
        """Free the oldest idle block, if there is one."""
        with suppress(IndexError):
            self.idle.popleft()

    def give_up(self) -> None:
        """Forget the block that was lent first, so that it is freed with its owner."""
        with suppress(KeyError):
            self.lent.popitem(last=False)


class _Kept:
    """The blocks and counts of the pool; a new object clears the pool in one step."""

    __slots__ = ("hits", "misses", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[int, _Blocks] = {}
        self.hits = self.misses = 0


class _Pool:
    """Idle blocks, and lent blocks that will be idle.

    As in `_lib.memo`, each step is one atomic operation of a container, so that there is no lock that an interrupted
    thread, a signal handler or a forked child could find taken. Idle and lent blocks together stay within the limit:
    beyond it, the pool gives up the block that was lent first, of the size that takes most. So nothing has to run when
    many blocks come back at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept = _Kept()

    def take(self, nbytes: int) -> _Owner:
        """Return the owner of a block of at least so many bytes."""
        kept = self.kept
        self._collect(kept)
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

    def _collect(self, kept: _Kept) -> None:
        """Collect blocks that came back, and free those idle for too long."""
        now = time.monotonic()
        for blocks in list(kept.sizes.values()):
            blocks.collect(now)

    def _trim(self, kept: _Kept) -> None:
        """Free idle blocks beyond the limit, oldest first; then give up lent ones."""
        while True:
            sizes = list(kept.sizes.values())
            if sum(blocks.nbytes() for blocks in sizes) <= self.limit:
                return
            oldest = min(sizes, key=_Blocks.oldest)
            if oldest.idle:
                oldest.free_oldest()
            else:
                max(sizes, key=_Blocks.nbytes).give_up()

    def clear(self) -> None:
        """Free all idle blocks and count from zero; lent ones are freed with their owners."""
        self.kept = _Kept()

    def set_limit(self, limit: int) -> None:
        """Set how many bytes idle blocks may occupy."""
        self.limit = limit
        self.info()

    def info(self) -> PoolInfo:
        """Return the counts."""
        while True:
            kept, limit = self.kept, self.limit  # read once, because another thread may set them
            self._collect(kept)
            self._trim(kept)
            idle = [(blocks.capacity, len(blocks.idle)) for blocks in list(kept.sizes.values())]
            nbytes = sum(capacity * count for capacity, count in idle)
            if nbytes <= limit:  # else another thread returned a block meanwhile
                count = sum(count for _, count in idle)
                return PoolInfo(kept.hits, kept.misses, count, nbytes, limit)


def _capacity(nbytes: int) -> int:
    """Return the size of a block for so many bytes: at most an eighth of a power of two larger."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def _alignment(nbytes: int) -> int:
    """Return the alignment of a block: NumPy asks for huge pages from 4 MiB on."""
    return HUGE_PAGE if nbytes >= 2 * HUGE_PAGE else ALIGNMENT


def _limit_at_start() -> int:
    """Return the limit of the environment variable, or else the default."""
    asked = os.environ.get("ROTARY_POOL", "")
    if asked.isdecimal():
        return int(asked)
    return min(max(_memory() // 8, LEAST_LIMIT), LARGEST_LIMIT)


def _memory() -> int:
    """Return how many bytes of memory this process may use; 0 if that is not known."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
    try:
        return min(total, int(CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):
        return total


_pool = _Pool(_limit_at_start())


def empty(shape: tuple[int, ...], dtype: Any) -> HostArray:
    """Return a new array in C order, aligned to a cache line; the memory of a large one is from the pool."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if not SMALLEST <= nbytes <= _pool.limit:
        return aligned(shape, dtype, _alignment(nbytes))
    memory: HostArray = np.asarray(_pool.take(nbytes))[:nbytes].view(dtype)
    return memory.reshape(shape)


def empty_like(x: HostArray) -> HostArray:
    """Return a new array with the shape, dtype and axis order of another, the last axis contiguous."""
    if not SMALLEST <= x.nbytes <= _pool.limit:
        like = np.empty_like(x, subok=False)
        # The last axis of a copy of a broadcast array may not be contiguous.
        return like if like.strides[-1] == like.itemsize else np.empty(x.shape, x.dtype)
    *front, last = range(x.ndim)
    order = [*sorted(front, key=lambda axis: -abs(x.strides[axis])), last]
    back = np.argsort(order)
    return empty(tuple(x.shape[axis] for axis in order), x.dtype).transpose(back)


def clear() -> None:
    """Free all idle memory and count from zero."""
    _pool.clear()


def info() -> PoolInfo:
    """Return the counts of the pool."""
    return _pool.info()


def set_pool_limit(nbytes: int) -> None:
    """Bound the idle memory that is kept for results.

    The memory of a result of 1 MiB and more is used again once the last view of it is gone, because new memory
    costs two to three times as much as the rotation. Such an array does not own its memory (``x.flags.owndata`` is
    False), so that NumPy refuses ``x.resize`` in place. Otherwise it is an array like others. A later call frees
    memory that has been idle for ten seconds.

    Parameters
    ----------
    nbytes : int
        Bytes that idle memory may occupy; 0 keeps none. The default is the environment variable ``ROTARY_POOL``
        at the import of the library, or else an eighth of the machine's memory, at least 256 MiB and at most
        4 GiB. `rotary.cache_info` shows how much is held, and `rotary.cache_clear` frees it. Larger results
        always take new memory.

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
