"""The errors of cosines and sines by position, compared with 50 digits."""

from __future__ import annotations

from functools import cache
from typing import Any

import mpmath
import numpy as np

from .cases import BASE, HEAD_DIM, PAIRS, Array
from .process import FailedError, Peer

DIGITS = 50
# Several positions in every octave, because the error of a single one may be small by chance.
PARTS = (0.0, 0.37, 0.71)


def positions(largest: int = 62) -> list[int]:
    """Integers in every octave up to 2^largest."""
    found = {int((1 + part) * 2.0**power) for power in range(largest) for part in PARTS}
    return sorted(found)


@cache
def frequencies() -> list[Any]:
    """The inverse frequencies, correctly rounded to float64."""
    with mpmath.workdps(DIGITS):
        exact = [mpmath.mpf(BASE) ** (-mpmath.mpf(2 * i) / HEAD_DIM) for i in range(PAIRS)]
        return [mpmath.mpf(float(frequency)) for frequency in exact]


def truth(position: int) -> list[list[Any]]:
    """Cosine and sine of every channel pair."""
    with mpmath.workdps(DIGITS):
        angles = [position * frequency for frequency in frequencies()]
        return [[mpmath.cos(angle) for angle in angles], [mpmath.sin(angle) for angle in angles]]


def worst(table: Array, exact: list[list[Any]]) -> float:
    """The largest difference."""
    with mpmath.workdps(DIGITS):
        return max(
            float(abs(mpmath.mpf(float(got)) - true))
            for row, trues in zip(table, exact, strict=True)
            for got, true in zip(row, trues, strict=True)
        )


def measure(peers: list[Peer]) -> dict[str, Any]:
    """Return the largest error in each octave, for every method to compute tables."""
    where = positions()
    made: dict[str, Array] = {}
    for peer in peers:
        if hasattr(peer.module, "cosines"):
            try:
                made |= peer.ask("cosines", where)
            except FailedError:
                continue
    exact = [truth(position) for position in where]
    return {
        "positions": [2**power for power in range(62)],
        "errors": {name: by_octave(table, where, exact) for name, table in made.items()},
    }


def by_octave(table: Array, where: list[int], exact: list[Any]) -> list[float | None]:
    """The largest error in each octave, or None if there is no table."""
    found: list[float | None] = [None] * 62
    for row, position, true in zip(table, where, exact, strict=True):
        if np.isfinite(row).all():
            octave = position.bit_length() - 1
            found[octave] = max(found[octave] or 0.0, worst(row, true))
    return found
