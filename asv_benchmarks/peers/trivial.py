"""A compiled function that does nothing, kept on disk: what Numba itself costs a new process."""

from __future__ import annotations

from numba import njit


@njit(cache=True)
def one():
    """The least that can be compiled."""
    return 1
