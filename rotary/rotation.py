"""The small values that say what one rotation does, made once per call and taken by every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ._typing import Array, HostArray, Int64Array
from .layouts import Layout


class Pairing(NamedTuple):
    """Which channels of an array turn, and how they pair.

    `start` and `lanes` count channels and pairs of the array as its owner sees it: a complex array has
    one channel per pair.
    """

    start: int
    lanes: int
    source: Layout
    target: Layout
    inverse: bool = False


class Axes(NamedTuple):
    """Which axis of an array is the sequence, and which the batch, if any; both non-negative."""

    sequence: int
    batch: int | None

    def others(self, ndim: int) -> list[int]:
        """Return the axes that are neither batch nor sequence nor channels: the heads."""
        return [axis for axis in range(ndim - 1) if axis not in (self.sequence, self.batch)]


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of an array stand.

    Attributes
    ----------
    positions : int64 or float64 array (axes, 1 or batch, 1 or sequence)
        On the host, or traced, an array of the library that traces it.
    start : int or None
        The first position where the rows count up from there; `positions` is then not read.
    length : int
        How many rows there are.
    """

    positions: Array | None
    start: int | None
    length: int

    @property
    def traced(self) -> bool:
        """Whether the positions are not known on the host."""
        return self.start is None and not isinstance(self.positions, np.ndarray)


@dataclass(frozen=True, slots=True)
class Table:
    """Cosine and sine, and the row that each batch and sequence index reads.

    `values` is (2, heads or 1, rows, lanes); the row for batch b and index s of the sequence is
    ``index[b, s] + step * s``, where either axis of the index may have length 1.
    """

    values: HostArray
    index: Int64Array
    step: int
    length: int

    def gather(self) -> HostArray:
        """Return the rows themselves, (2, heads or 1, 1 or batch, 1 or sequence, lanes).

        Rows that follow one another are a view of the table.
        """
        if self.index.size == 1 and self.step:
            first = int(self.index[0, 0])
            return self.values[:, :, None, first : first + self.length]
        rows = self.index + self.step * np.arange(self.length) if self.step else self.index
        gathered: HostArray = self.values[:, :, rows]
        return gathered
