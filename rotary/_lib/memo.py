"""A bounded memory of what was made before, which neither an interruption nor a thread can damage.

Python switches threads, runs signal handlers and forks between any two instructions. A lock does not help: an
interrupted thread may keep it, a signal handler may wait for the code that it interrupted, and a forked child may
inherit it taken. So there is no lock. Each step is one atomic operation of a container written in C. Sizes are
summed when they are asked for, because an interruption could make a running total wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def _one(_: Any) -> int:
    """Return the size of an entry of a memory that is bounded by count."""
    return 1


def _nothing_left(_: Any, __: bool) -> bool:
    """Let `Memo` drop an entry as a whole."""
    return False


class Memo(Generic[K, V]):
    """Values by key, least recently used first, dropped in that order beyond a limit.

    Keys are compared by code in C: numbers, strings, bytes, tuples of them, and objects compared by identity.

    Parameters
    ----------
    limit : int
        Of the sum of sizes.
    size : callable, optional
        Returns the size of a value, by default 1.
    thin : callable, optional
        Makes a value smaller and returns whether something is left of it. Its second argument says whether it
        has to; if not, a value that it leaves as it is counts as used. By default nothing is left.
    """

    __slots__ = ("_size", "_thin", "held", "limit")

    def __init__(
        self,
        limit: int,
        *,
        size: Callable[[V], int] = _one,
        thin: Callable[[V, bool], bool] = _nothing_left,
    ) -> None:
        self.limit = limit
        self._size = size
        self._thin = thin
        self.held: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a value, None if there is none, and count this as a use."""
        value = self.held.get(key)
        if value is not None:
            self.touch(key)
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
        if self._size is not _one or len(held) > self.limit:
            self.trim()
        return value

    def clear(self) -> None:
        """Drop everything; a `keep` that has begun in another thread writes to what is dropped."""
        self.held = OrderedDict()

    def values(self) -> list[V]:
        """Return all values, least recently used first."""
        return list(self.held.values())

    def trim(self) -> list[V]:
        """Drop what was used least recently until the limit holds, and return what is then held."""
        must = False
        while True:
            values = self.values()
            excess = sum(map(self._size, values)) - self.limit
            if excess <= 0:
                return values
            self._drop(excess, must)
            must = True

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
