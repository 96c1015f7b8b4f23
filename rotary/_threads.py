"""How many threads a caller allows; which of them are used, and when, the CPU backend decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ._checks import as_positive_integer

__all__ = ["threads"]

thread_limit: ContextVar[int | None] = ContextVar("thread_limit", default=None)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use at most n threads within a ``with`` statement, in the thread or task that runs it.

    Parameters
    ----------
    n : int
        At least 1, which is serial. Small arrays use fewer, and never more than Numba has.

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
    token = thread_limit.set(as_positive_integer(n, "n"))
    try:
        yield
    finally:
        thread_limit.reset(token)
