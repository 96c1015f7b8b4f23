"""Bounded memories of what was computed before, safe under interruptions, threads, forks and re-entrance.

Python switches threads, runs signal handlers and forks between any two instructions. A lock does not help: an
interrupted thread may keep it, a signal handler may wait for the code that it interrupted, and a forked child may
inherit it taken. So there is no lock. Each step is one atomic operation of a container written in C. Sizes are
summed when they are asked for, because an interruption could make a running total wrong.

Every memory of the process is of one of three kinds, and `rotary.cache_clear` empties them all:

- `TABLES` holds the tables of all backends, in host and GPU memory, within one limit in bytes.
- `plans` makes a memory of plans, which are bounded by count.
- `remembered` and `registered` keep smaller values, which are bounded by count as well.
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
    """Return the size of an entry of a memory that is bounded by count."""
    return 1


def _drop_whole(_: Any, __: bool) -> bool:
    """Let `Memo` drop an entry as a whole."""
    return False


class Memo(Generic[K, V]):
    """Values by key, least recently used first, dropped in that order beyond a limit.

    Keys are compared by code in C: numbers, strings, bytes, dtypes, tuples of them, and objects compared by identity.

    Parameters
    ----------
    limit : int
        Of the sum of sizes.
    size : callable, optional
        Returns the size of a value, by default 1.
    thin : callable, optional
        Makes a value smaller and returns whether something is left of it. Its second argument says whether it
        has to; if not, a value that it leaves as it is counts as used. By default nothing is left.

    Attributes
    ----------
    hits, misses : int
        How often `get` found a value, and how often it did not, since the memory was cleared.
    """

    __slots__ = ("_size", "_thin", "held", "hits", "limit", "misses")

    def __init__(
        self,
        limit: int,
        *,
        size: Callable[[V], int] = _one,
        thin: Callable[[V, bool], bool] = _drop_whole,
    ) -> None:
        self.limit = limit
        self._size = size
        self._thin = thin
        self.clear()

    def get(self, key: K) -> V | None:
        """Return a value, None if there is none, and count this as a use."""
        held = self.held
        value = held.get(key)
        if value is None:
            self.misses += 1
            return None
        self.hits += 1
        try:
            held.move_to_end(key)
        except KeyError:  # another thread has dropped it
            return value
        return value

    def touch(self, key: K) -> None:
        """Count a use of an entry, unless another thread has dropped it."""
        try:
            self.held.move_to_end(key)
        except KeyError:
            return

    def first(self, key: K, value: V) -> V:
        """Keep a value, or return the one that another thread kept before; `trim` bounds the memory."""
        kept = self.held.setdefault(key, value)
        self.touch(key)
        return kept

    def keep(self, key: K, value: V) -> V:
        """Keep a value in place of any before, and drop what is too much."""
        held = self.held
        held[key] = value
        self.touch(key)
        if self._size is _one:
            self._trim_count()
        else:
            self.trim()
        return value

    def pop(self, key: K) -> V | None:
        """Drop a value and return it, None if there is none."""
        return self.held.pop(key, None)

    def clear(self) -> None:
        """Drop everything and count from zero; a `keep` in another thread may write to what is dropped."""
        self.held: OrderedDict[K, V] = OrderedDict()
        self.hits = self.misses = 0

    def values(self) -> list[V]:
        """Return all values, least recently used first."""
        return list(self.held.values())

    def trim(self) -> list[V]:
        """Drop what was used least recently until the limit holds, and return what is then held."""
        if self._size is _one:
            self._trim_count()
            return self.values()
        must = False
        while True:
            values = self.values()
            excess = sum(map(self._size, values)) - self.limit
            if excess <= 0:
                return values
            self._drop(excess, must)
            must = True

    def _trim_count(self) -> None:
        """Drop values one by one: a full memory of thousands does this for each new value."""
        held = self.held
        while len(held) > self.limit:
            try:
                held.popitem(last=False)
            except KeyError:  # other threads have dropped all
                return

    def _drop(self, excess: int, must: bool) -> None:
        """Drop about `excess`; `trim` counts again, because other threads may drop or keep values meanwhile."""
        held = self.held
        for key in list(held):
            while (value := held.get(key)) is not None:
                before = self._size(value)
                if self._thin(value, must):
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
# The memories of the process.


class Tables(Protocol):
    """An entry of `TABLES`: tables that are kept for one key."""

    def sizes(self) -> Sequence[int]:
        """Return the bytes of each table."""

    def thin(self, must: bool) -> bool:
        """Drop some of several tables and return whether one is left; see `Memo`."""


def _nbytes(entry: Tables) -> int:
    """Return how many bytes an entry of `TABLES` occupies."""
    return sum(entry.sizes())


def _thin(entry: Tables, must: bool) -> bool:
    """Drop some tables of an entry of `TABLES`."""
    return entry.thin(must)


TABLES: Memo[Hashable, Any] = Memo(DEFAULT_TABLE_LIMIT, size=_nbytes, thin=_thin)
_PLANS: list[Memo[Any, Any]] = []
_CLEAR: list[Callable[[], None]] = [TABLES.clear]

Function = TypeVar("Function", bound=Callable[..., Any])


class PlansInfo(NamedTuple):
    """Counts of the plans of repeated calls.

    Attributes
    ----------
    hits, misses : int
        Calls that found a plan, and calls that had to make one.
    entries : int
        Plans held.
    limit : int
        Plans that may be held.
    """

    hits: int
    misses: int
    entries: int
    limit: int


def plans(limit: int) -> Memo[Any, Any]:
    """Return a new memory of plans, for the life of the process."""
    memory: Memo[Any, Any] = Memo(limit)
    _PLANS.append(memory)
    _CLEAR.append(memory.clear)
    return memory


def plans_info() -> PlansInfo:
    """Return the counts of all memories of plans together."""
    return PlansInfo(
        sum(memory.hits for memory in _PLANS),
        sum(memory.misses for memory in _PLANS),
        sum(len(memory.held) for memory in _PLANS),
        sum(memory.limit for memory in _PLANS),
    )


def registered(limit: int) -> Memo[Any, Any]:
    """Return a new memory of other values than tables and plans, for the life of the process."""
    memory: Memo[Any, Any] = Memo(limit)
    _CLEAR.append(memory.clear)
    return memory


def remembered(limit: int, *, typed: bool = False) -> Callable[[Function], Function]:
    """Decorate a function of small results, which are kept by its arguments, the most recent `limit` of them.

    This is `functools.lru_cache`, which is as safe as `Memo` and takes no call of Python to read.
    """

    def decorate(function: Function) -> Function:
        cached: Any = lru_cache(maxsize=limit, typed=typed)(function)
        _CLEAR.append(cached.cache_clear)
        return cached  # type: ignore[no-any-return]

    return decorate


def clear() -> None:
    """Empty every memory and count from zero."""
    for function in _CLEAR:
        function()
