"""What reads one table repeatedly: a plan of calls has one for each of its tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rotary._lib.memo import TABLES
from rotary._lib.typing import HostArray, Int64Array, TableDType
from rotary.angles.phases import Frequencies
from rotary.backends.contract import TableRows

from .windows import LARGEST_POSITION, Key, Parts, Window, cached_window

# The index of rows for consecutive positions.
CONSECUTIVE = np.zeros((1, 1), np.int64)


class Reader:
    """Reads one table, and asks the cache only if the part that it read last does not suffice.

    It holds only a weak reference to that part, so that the cache may drop it.

    Attributes
    ----------
    window : callable
        Returns the window that the reader read last, None if the cache has dropped it. Compiled code that reads
        windows by itself begins with this one; see the notes of `windows.Window`.
    """

    __slots__ = ("_key", "_table", "window")

    def __init__(self, frequencies: Frequencies, factor: float, dtype: TableDType) -> None:
        self._table = frequencies, factor, dtype
        self._key: Key = (frequencies.key, factor, dtype)
        self.window: Callable[[], Window | None] = _no_window

    def counted(self, first: int, length: int) -> TableRows | None:
        """Return the rows for consecutive positions from a first one on, None if the cache cannot hold them."""
        stop = first + length
        if stop > LARGEST_POSITION or first < -LARGEST_POSITION or not length:
            return None
        window = self.window()
        end = (
            stop if window is None else window.stop
        )  # read once, because another thread may set it
        if window is None or first < window.start or end < stop:
            window, end = cached_window(*self._table, first, stop), stop
            self.window = window.reference
        else:
            window.read = True
            TABLES.hits += 1
        return window.values, CONSECUTIVE, window.start - first, end - first, 1

    def scattered(self, positions: HostArray) -> TableRows | None:
        """Return the rows for int64 positions (axes, ...) from the part that was used last, None for others."""
        if positions.dtype != np.int64 or not positions.size:
            return None
        if positions.shape[0] > 1 and not (positions == positions[:1]).all():
            return None
        parts: Parts | None = TABLES.held.get(self._key)
        part = None if parts is None else parts.latest()
        if part is None:
            return None
        index = part.rows(positions[0])
        if index is None:
            return None
        part.read = True
        TABLES.hits += 1
        return part.values, index, 0, part.values.shape[2], 0

    def given(self, positions: Int64Array, step: int, length: int, limit: int) -> TableRows | None:
        """Return the rows for positions from the part that was used last, None if it may not have them.

        Parameters
        ----------
        positions : int64 array (batch or 1, sequence or 1)
            They are not checked against the first and last position of a window, because kernels do that.
        step : {0, 1}
            Whether each position is the first of consecutive ones.
        length : int
            How many these are.
        limit : int
            What positions have to stay below.
        """
        parts: Parts | None = TABLES.held.get(self._key)
        part = None if parts is None else parts.latest()
        if part is None:
            return None
        values: HostArray = part.values
        if type(part) is Window:
            index, first, stop = positions, part.start, min(part.stop, limit)
        else:
            if step and length > 1:
                positions = positions + np.arange(length)  # what wraps is far from all of `Runs`
            index, first, stop, step = part.rows(positions), 0, values.shape[2], 0
            if index is None or (limit < LARGEST_POSITION and (positions >= limit).any()):
                return None
        part.read = True
        TABLES.hits += 1
        return values, index, first, stop, step


def _no_window() -> None:
    """Stand for the weak reference of a reader that has read nothing."""
