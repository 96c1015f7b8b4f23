"""A compiled function that does nothing, in the disk cache: it shows the time of Numba in a new process."""

from __future__ import annotations

from numba import njit


@njit(cache=True)
def one():
    """Do nothing, compiled."""
    return 1
