"""A pool of memory for large results, because new memory costs more time than the rotation that fills it.

The operating system fills new memory with zeros page by page, which takes two to three times as long as the rotation.
The memory of a large result is therefore a block of the pool. The block returns to the pool when the last view of the
result is deleted, and the next result of about this size uses it again.
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
MIN_DEFAULT_LIMIT, MAX_DEFAULT_LIMIT = 256 * 2**20, 4 * 2**30
# The memory that a container may use, in bytes or "max".
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Large blocks are aligned to huge pages, which cause one page fault instead of one for every 4 KiB.
HUGE_PAGE = 2 * 2**20
# The allocator of C recycles smaller blocks.
SMALLEST = 2**20
# A call frees blocks that have been idle for longer than this.
MAX_IDLE_SECONDS = 10.0


class PoolInfo(NamedTuple):
    """Counts of the pool of memory for results.

    Attributes
    ----------
    hits, misses : int
        The numbers of large results that used memory of the pool, and of large results that needed new memory.
    blocks : int
        The number of idle blocks.
    nbytes : int
        The number of bytes in idle blocks.
    limit : int
        The greatest number of bytes that idle blocks may have.
    """

    hits: int
    misses: int
    blocks: int
    nbytes: int
    limit: int


class _Owner:
    """The base of an array on a block; once it is deleted, no array refers to the memory.

    NumPy reads the ``__array_interface__`` of this object, and keeps the object alive as long as the array or any
    view of it exists, including views by other libraries.
    """

    __slots__ = ("__array_interface__", "__weakref__", "_memory")

    def __init__(self, memory: HostArray) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__


class _Blocks:
    """The lent and the idle blocks of one size, each oldest first.

    The keys of lent blocks are handles: weak references to owners. Once an owner is deleted, its handle is in the queue
    `returned`. The callback is `deque.append` itself, because an interruption in a Python finalizer would be lost.
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
        """Return an owner of a block; the block returns to the pool when the owner is deleted."""
        owner = _Owner(memory)
        handle = weakref.ref(owner, self.returned.append)
        self.lent[id(handle)] = handle, memory
        return owner

    def collect(self, now: float) -> None:
        """Make returned blocks idle unless the pool abandoned them, and free blocks that were idle for too long."""
        while self.returned:
            # The handle is removed last, so that an interruption loses no block. Two threads may process the same one.
            with suppress(IndexError, ValueError):
                handle = self.returned[0]
                lent = self.lent.pop(id(handle), None)
                if lent is not None:
                    self.idle.append((now, lent[1]))
                self.returned.remove(handle)
        while self.oldest() < now - MAX_IDLE_SECONDS:
            self.free_oldest()

    def take_latest(self) -> HostArray | None:
        """Take the most recently returned block, which may still be in a CPU cache, or None if no block is idle."""
        try:
            return self.idle.pop()[1]
        except IndexError:
            return None

    def oldest(self) -> float:
        """Return the time at which the oldest idle block returned, or infinity if no block is idle."""
        try:
            return self.idle[0][0]
        except IndexError:
            return math.inf

    def free_oldest(self) -> None:
        """Free the oldest idle block, if there is one."""
        with suppress(IndexError):
            self.idle.popleft()

    def abandon_oldest(self) -> None:
        """Forget the block that was lent first, so that it is freed with its owner."""
        with suppress(KeyError):
            self.lent.popitem(last=False)


class _State:
    """The blocks and counts of the pool; a new object clears the pool in one step."""

    __slots__ = ("hits", "misses", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[int, _Blocks] = {}
        self.hits = self.misses = 0


class _Pool:
    """Idle blocks, and lent blocks that will become idle.

    As in `_lib.memo`, each step is one atomic operation of a container. There is no lock that an interrupted thread, a
    signal handler or a forked child could find taken. Idle and lent blocks together stay within the limit. Beyond the
    limit, the pool abandons the oldest lent block of the size with the most bytes. Returned blocks therefore never
    exceed the limit, even if many return at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.state = _State()

    def take(self, nbytes: int) -> _Owner:
        """Return the owner of a block of at least `nbytes` bytes."""
        state = self.state
        self._collect(state)
        capacity = _capacity(nbytes)
        blocks = state.sizes.get(capacity) or state.sizes.setdefault(capacity, _Blocks(capacity))
        memory = blocks.take_latest()
        if memory is None:
            state.misses += 1
            memory = aligned((capacity,), np.uint8, _alignment(capacity))
        else:
            state.hits += 1
        owner = blocks.lend(memory)
        self._trim(state)
        return owner

    def _collect(self, state: _State) -> None:
        """Make returned blocks idle, and free blocks that were idle for too long."""
        now = time.monotonic()
        for blocks in list(state.sizes.values()):
            blocks.collect(now)

    def _trim(self, state: _State) -> None:
        """Free idle blocks beyond the limit, oldest first, and then abandon lent blocks."""
        while True:
            sizes = list(state.sizes.values())
            if sum(blocks.nbytes() for blocks in sizes) <= self.limit:
                return
            oldest = min(sizes, key=_Blocks.oldest)
            if oldest.idle:
                oldest.free_oldest()
            else:
                max(sizes, key=_Blocks.nbytes).abandon_oldest()

    def clear(self) -> None:
        """Free all idle blocks and reset the counts; lent blocks are freed with their owners."""
        self.state = _State()

    def set_limit(self, limit: int) -> None:
        """Set the greatest number of bytes that idle blocks may have."""
        self.limit = limit
        self.info()

    def info(self) -> PoolInfo:
        """Return the counts."""
        while True:
            state, limit = self.state, self.limit  # read once, because another thread may set them
            self._collect(state)
            self._trim(state)
            idle = [(blocks.capacity, len(blocks.idle)) for blocks in list(state.sizes.values())]
            nbytes = sum(capacity * count for capacity, count in idle)
            if nbytes <= limit:  # otherwise another thread returned a block in the meantime
                count = sum(count for _, count in idle)
                return PoolInfo(state.hits, state.misses, count, nbytes, limit)


def _capacity(nbytes: int) -> int:
    """Return the size of a block for `nbytes` bytes, at most an eighth larger, so that similar results share blocks."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def _alignment(nbytes: int) -> int:
    """Return the alignment of a block: a huge page from 4 MiB on, because NumPy requests huge pages there."""
    return HUGE_PAGE if nbytes >= 2 * HUGE_PAGE else ALIGNMENT


def _default_limit() -> int:
    """Return the limit that the environment variable sets, or else the default."""
    setting = os.environ.get("ROTARY_POOL", "")
    if setting.isdecimal():
        return int(setting)
    return min(max(_available_memory() // 8, MIN_DEFAULT_LIMIT), MAX_DEFAULT_LIMIT)


def _available_memory() -> int:
    """Return the number of bytes that this process may use, or 0 if it is unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
    try:
        return min(total, int(CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):
        return total


_pool = _Pool(_default_limit())


def empty(shape: tuple[int, ...], dtype: Any) -> HostArray:
    """Return a new array in C order, aligned to a cache line; a large array uses memory of the pool."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if not SMALLEST <= nbytes <= _pool.limit:
        return aligned(shape, dtype, _alignment(nbytes))
    memory: HostArray = np.asarray(_pool.take(nbytes))[:nbytes].view(dtype)
    return memory.reshape(shape)


def empty_like(x: HostArray) -> HostArray:
    """Return a new array with the shape, dtype and axis order of x, and a contiguous last axis."""
    if not SMALLEST <= x.nbytes <= _pool.limit:
        like = np.empty_like(x, subok=False)
        # The last axis of the result for a broadcast array may not be contiguous.
        return like if like.strides[-1] == like.itemsize else np.empty(x.shape, x.dtype)
    *front, last = range(x.ndim)
    order = [*sorted(front, key=lambda axis: -abs(x.strides[axis])), last]
    inverse = np.argsort(order)
    return empty(tuple(x.shape[axis] for axis in order), x.dtype).transpose(inverse)


def clear() -> None:
    """Free all idle memory and reset the counts."""
    _pool.clear()


def info() -> PoolInfo:
    """Return the counts of the pool."""
    return _pool.info()


def set_pool_limit(nbytes: int) -> None:
    """Limit the idle memory that is kept for results.

    The memory of a result of at least 1 MiB is reused once its last view is deleted, because new memory costs two to
    three times as much time as the rotation. Such an array does not own its memory (``x.flags.owndata`` is False), so
    NumPy refuses ``x.resize`` in place. In all other respects it is an ordinary array. A later call frees memory that
    has been idle for ten seconds.

    Parameters
    ----------
    nbytes : int
        The greatest number of bytes of idle memory; 0 keeps none. The default is the value of the environment variable
        ``ROTARY_POOL`` when the library is imported, or else an eighth of the memory of the machine, at least 256 MiB
        and at most 4 GiB. Results that are larger than the limit always use new memory. `rotary.cache_info` returns
        the number of idle bytes, and `rotary.cache_clear` frees them.

    Raises
    ------
    TypeError
        If `nbytes` is not an integer.
    ValueError
        If `nbytes` is negative.

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
