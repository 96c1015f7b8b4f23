"""How many threads a caller allows; the CPU backend decides how many it uses."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, ContextDecorator
from contextvars import ContextVar
from typing import NamedTuple

from rotary._lib.checks import as_positive_integer

__all__ = ["threads"]


class _Within(NamedTuple):
    """A limit that holds as long as the object of its ``with`` statement exists, and the limit around it."""

    of: weakref.ref[_Limit]
    n: int
    around: _Within | None


_within: ContextVar[_Within | None] = ContextVar("rotary_threads", default=None)


class _Limit(ContextDecorator):
    """The object of a ``with`` statement. If an interruption skips `__exit__`, the limit ends with this object."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._around: list[_Within | None] = []

    def _recreate_cm(self) -> _Limit:
        """Return a new object for each call of a decorated function, as `ContextDecorator` expects."""
        return _Limit(self._n)

    def __enter__(self) -> None:
        around = _within.get()
        self._around.append(around)
        _within.set(_Within(weakref.ref(self), self._n, around))

    def __exit__(self, *_: object) -> None:
        _within.set(self._around.pop())


def thread_limit() -> int | None:
    """Return how many threads the caller allows; None if there is no limit."""
    within = _within.get()
    while within is not None and within.of() is None:
        within = within.around
    return None if within is None else within.n


def threads(n: int) -> AbstractContextManager[None]:
    """Use at most n threads within a ``with`` statement, for calls of the thread or task that runs it.

    Parameters
    ----------
    n : int
        At least 1, which is serial. Small arrays use fewer threads, and no array more than Numba has.

    Returns
    -------
    context manager
        For a ``with`` statement, or a decorator of functions.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If it is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0)
    >>> with rotary.threads(1):
    ...     y = rope(np.ones((8, 64)))
    """
    return _Limit(as_positive_integer(n, "n"))
