"""Bounded caches, safe under interrupts, threads, forks and re-entrance.

Python may switch threads, run a signal handler or fork between any two instructions. A lock does not help: an
interrupted thread may never release it, a signal handler may wait for the code that it interrupted, and a forked
child may inherit a locked lock. So there is no lock. Each step is one atomic operation of a container written in C.
Sizes are summed on demand, because an interrupt could make a running total wrong.

Every cache of the process is of one of three kinds, and `rotary.cache_clear` empties them all:

- `TABLES` holds the tables of all backends, in host and GPU memory, within one limit in bytes.
- `plans` makes a cache of plans, which is bounded by count.
- `remembered` and `registered` make caches of small values, which are bounded by count as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")

DEFAULT_TABLE_LIMIT = 256 * 2**20


def _one(_: Any) -> int:
    """The size of an entry of a cache that is bounded by count."""
    return 1


def _drop_entry(_: Any, __: bool) -> bool:
    """Make `Memo` drop an entry as a whole."""
    return False


class Memo(Generic[K, V]):
    """A cache that drops the least recently used values beyond a limit.

    The comparison of keys must be code in C. Numbers, strings, bytes, dtypes, tuples of these, and objects compared
    by identity are such keys.

    Parameters
    ----------
    limit : int
        The largest sum of the sizes of all values.
    size : callable, optional
        Returns the size of a value. By default every value has size 1.
    shrink : callable, optional
        ``shrink(value, force)`` makes a value smaller and returns whether a part of it is left. If `force` is false,
        it may leave the value as it is, and the value then counts as used. By default values are dropped whole.

    Attributes
    ----------
    held : OrderedDict
        The values by key, least recently used first.
    hits, misses : int
        The number of times that `get` found a value, and did not find one, since the cache was cleared.
    """

    __slots__ = ("_shrink", "_size", "held", "hits", "limit", "misses")

    def __init__(
        self,
        limit: int,
        *,
        size: Callable[[V], int] = _one,
        shrink: Callable[[V, bool], bool] = _drop_entry,
    ) -> None:
        self.limit = limit
        self._size = size
        self._shrink = shrink
        self.clear()

    def get(self, key: K) -> V | None:
        """Return the value of a key and mark it as used, or return None if there is no value."""
        value = self.held.get(key)
        if value is None:
            self.misses += 1
        else:
            self.hits += 1
            self.touch(key)
        return value

    def touch(self, key: K) -> None:
        """Mark an entry as used most recently, unless another thread has dropped it."""
        try:
            self.held.move_to_end(key)
        except KeyError:
            return

    def first(self, key: K, value: V) -> V:
        """Add a value and return it; if the key has a value already, return that. `trim` bounds the cache."""
        kept = self.held.setdefault(key, value)
        self.touch(key)
        return kept

    def keep(self, key: K, value: V) -> V:
        """Add or replace a value, drop values beyond the limit, and return the value."""
        held = self.held
        held[key] = value
        self.touch(key)
        if self._size is _one:
            self._trim_count()
        else:
            self.trim()
        return value

    def pop(self, key: K) -> V | None:
        """Drop a value and return it, or None if there is no value."""
        return self.held.pop(key, None)

    def clear(self) -> None:
        """Drop all values and reset the counts. A `keep` that runs in another thread may be lost."""
        self.held: OrderedDict[K, V] = OrderedDict()
        self.hits = self.misses = 0

    def values(self) -> list[V]:
        """Return all values, least recently used first."""
        return list(self.held.values())

    def trim(self) -> list[V]:
        """Drop the least recently used values until the limit holds, and return the remaining values."""
        if self._size is _one:
            self._trim_count()
            return self.values()
        force = False
        while True:
            values = self.values()
            excess = sum(map(self._size, values)) - self.limit
            if excess <= 0:
                return values
            self._drop(excess, force)
            force = True

    def _trim_count(self) -> None:
        """Drop values one by one, without a list of all: a full cache does this for each new value."""
        held = self.held
        while len(held) > self.limit:
            try:
                held.popitem(last=False)
            except KeyError:  # other threads have dropped all values
                return

    def _drop(self, excess: int, force: bool) -> None:
        """Drop values of about the size `excess`. `trim` sums sizes again, because other threads may add values."""
        held = self.held
        for key in list(held):
            while (value := held.get(key)) is not None:
                before = self._size(value)
                if self._shrink(value, force):
                    freed = before - self._size(value)
                else:
                    held.pop(key, None)
                    freed = before
                excess -= freed
                if excess <= 0:
                    return
                if not freed:
                    self.touch(key)
                    break


# ------------------------------------------------------------------------------------------------
# The caches of the process.


class Tables(Protocol):
    """An entry of `TABLES`: the tables of one key."""

    def sizes(self) -> Sequence[int]:
        """Return the bytes of each table."""

    def shrink(self, force: bool) -> bool:
        """Drop some of the tables and return whether any is left; see `Memo`."""


def _nbytes(entry: Tables) -> int:
    """The size of an entry of `TABLES`."""
    return sum(entry.sizes())


def _shrink(entry: Tables, force: bool) -> bool:
    """Make `Memo` drop some tables of an entry of `TABLES`."""
    return entry.shrink(force)


TABLES: Memo[Hashable, Any] = Memo(DEFAULT_TABLE_LIMIT, size=_nbytes, shrink=_shrink)
_PLANS: list[Memo[Any, Any]] = []
_CLEAR: list[Callable[[], None]] = [TABLES.clear]

Function = TypeVar("Function", bound=Callable[..., Any])


class PlansInfo(NamedTuple):
    """Counts of the plans of repeated calls.

    Attributes
    ----------
    hits, misses : int
        Number of calls that found a plan, and of calls that made one.
    entries : int
        Number of plans in the cache.
    limit : int
        Largest number of plans in the cache.
    """

    hits: int
    misses: int
    entries: int
    limit: int


def plans(limit: int) -> Memo[Any, Any]:
    """Return a new cache of plans, which lasts as long as the process."""
    memory: Memo[Any, Any] = Memo(limit)
    _PLANS.append(memory)
    _CLEAR.append(memory.clear)
    return memory


def plans_info() -> PlansInfo:
    """Return the counts of all caches of plans together."""
    return PlansInfo(
        sum(memory.hits for memory in _PLANS),
        sum(memory.misses for memory in _PLANS),
        sum(len(memory.held) for memory in _PLANS),
        sum(memory.limit for memory in _PLANS),
    )


def registered(limit: int) -> Memo[Any, Any]:
    """Return a new cache of values other than tables and plans, which lasts as long as the process."""
    memory: Memo[Any, Any] = Memo(limit)
    _CLEAR.append(memory.clear)
    return memory


def remembered(limit: int, *, typed: bool = False) -> Callable[[Function], Function]:
    """Decorate a function to cache its `limit` most recent results, which should be small.

    This is `functools.lru_cache`, registered for `clear`. It is as safe as `Memo`, and a hit calls no Python function.
    """

    def decorate(function: Function) -> Function:
        cached: Any = lru_cache(maxsize=limit, typed=typed)(function)
        _CLEAR.append(cached.cache_clear)
        return cached  # type: ignore[no-any-return]

    return decorate


def clear() -> None:
    """Empty every cache and reset the counts."""
    for function in _CLEAR:
        function()
