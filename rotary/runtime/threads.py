"""The number of threads that the user allows; the CPU backend decides how many it uses."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, ContextDecorator
from contextvars import ContextVar
from typing import NamedTuple

from rotary._lib.checks import as_positive_integer

__all__ = ["threads"]


class _ActiveLimit(NamedTuple):
    """A limit, which holds as long as the object of its ``with`` statement exists, and the limit outside of it."""

    manager: weakref.ref[_LimitManager]
    n: int
    outer: _ActiveLimit | None


_active: ContextVar[_ActiveLimit | None] = ContextVar("rotary_threads", default=None)


class _LimitManager(ContextDecorator):
    """The object of a ``with`` statement. If an interruption skips `__exit__`, the limit ends with this object."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._outer: list[_ActiveLimit | None] = []

    def _recreate_cm(self) -> _LimitManager:
        """Return a new object for each call of a decorated function, as `ContextDecorator` expects."""
        return _LimitManager(self._n)

    def __enter__(self) -> None:
        outer = _active.get()
        self._outer.append(outer)
        _active.set(_ActiveLimit(weakref.ref(self), self._n, outer))

    def __exit__(self, *_: object) -> None:
        _active.set(self._outer.pop())


def thread_limit() -> int | None:
    """Return the number of threads that the user allows, or None if there is no limit."""
    active = _active.get()
    while active is not None and active.manager() is None:
        active = active.outer
    return None if active is None else active.n


def threads(n: int) -> AbstractContextManager[None]:
    """Use at most n threads inside a ``with`` statement, for calls by the thread or task that runs it.

    Parameters
    ----------
    n : int
        The greatest number of threads, at least 1; 1 means serial. Small arrays use fewer threads, and no array uses
        more threads than Numba has.

    Returns
    -------
    context manager
        Usable in a ``with`` statement and as a decorator of functions.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0)
    >>> with rotary.threads(1):
    ...     y = rope(np.ones((8, 64)))
    """
    return _LimitManager(as_positive_integer(n, "n"))
