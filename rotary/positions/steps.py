"""Evenly spaced positions, such as those of tokens between two frames or of a resampled signal."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, TypeAlias, overload

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_float, as_integer, as_non_negative_integer
from rotary._lib.errors import shown
from rotary._lib.numbers import EXACT, Positions, as_positions, check_int64_range
from rotary._lib.typing import Float64Array, Int64Array

__all__ = ["steps"]

Spacing: TypeAlias = int | float | Fraction

# The smallest number that float64 rounds to 2**63.
ROUNDED_UP = 2**63 - 512


@overload
def steps(length: int, start: int = ..., step: int = ...) -> Int64Array: ...


@overload
def steps(length: int, start: Spacing = ..., step: Spacing = ...) -> Int64Array | Float64Array: ...


def steps(length: int, start: Spacing = 0, step: Spacing = 1) -> Positions:
    """Return the evenly spaced positions ``start + i * step``.

    Each position is computed exactly and rounded once. The errors of ``numpy.arange`` and of a running sum grow
    with i.

    Parameters
    ----------
    length : int
        The number of positions.
    start : int, float or fractions.Fraction, default 0
        The first position. A stream that has read n positions continues at ``start + n * step``, for example
        with a `Fraction`.
    step : int, float or fractions.Fraction, default 1
        The distance between adjacent positions, of any sign. A float is used with its exact binary value, so
        pass ``Fraction(1, 3)`` for a third.

    Returns
    -------
    array (length,)
        int64 if `start` and `step` are integers, else float64.

    Raises
    ------
    TypeError
        If `length` is not an integer, or `start` or `step` is not a real number.
    ValueError
        If `length` is negative or above 2**53, a float is not finite, an integer position is outside int64, or
        a position that is not an integer has a magnitude of ``2**63`` or more.

    See Also
    --------
    timestamps : positions from recorded times.

    Examples
    --------
    Features at 50 Hz on the clock of frames at 12.5 Hz:

    >>> from fractions import Fraction
    >>> steps(5, step=Fraction(1, 4))
    array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    >>> steps(3, start=100, step=-2)
    array([100,  98,  96])

    A running sum of thirds would have a rounding error after a few steps:

    >>> steps(7, step=Fraction(1, 3))[-1]
    np.float64(2.0)
    """
    count = as_non_negative_integer(length, "length")
    if count > EXACT:
        msg = f"`length` must be at most 2**53 positions, got {shown(count)}"
        raise ValueError(msg)
    first, distance = _as_rational(start, "start"), _as_rational(step, "step")
    if isinstance(first, int) and isinstance(distance, int):
        return _integers(count, first, distance)
    return _fractions(count, Fraction(first), Fraction(distance))


def _integers(count: int, first: int, distance: int) -> Int64Array:
    """Return integer positions; raise if one is outside int64."""
    check_int64_range(first, "start")
    if not distance or count < 2:
        return np.full(count, first, np.int64)
    positions = as_positions(range(first, first + count * distance, distance), name="step")
    return positions.astype(np.int64, copy=False)


def _fractions(count: int, first: Fraction, distance: Fraction) -> Float64Array:
    """Return fractional positions as float64; raise if one is too large."""
    last = first + max(count - 1, 0) * distance
    for name, end in (("start", first), ("step", last)):
        if abs(end) >= ROUNDED_UP:
            msg = f"`{name}` must keep positions below 2**63 in magnitude, got {shown(end)} as a position"
            raise ValueError(msg)
    divisor = first.denominator * distance.denominator
    begin, spacing = first.numerator * distance.denominator, distance.numerator * first.denominator
    # Python divides integers of any size with one rounding.
    numbers = ((begin + i * spacing) / divisor for i in range(count))
    return np.fromiter(numbers, np.float64, count)


def _as_rational(value: Any, name: str) -> int | Fraction:
    """Return a number without rounding: an int if its type is an integer type, else a Fraction."""
    if isinstance(value, Fraction):
        return value
    kind = libraries.kind_of_number(value)
    if kind in "iu" or (isinstance(value, int) and kind != "b"):
        return as_integer(value, name)
    return Fraction(as_float(value, name))
