"""Angles as exact fractions of a turn, for positions of any size.

An inverse frequency is a float64, hence a dyadic rational, and one turn is 2 pi. The frequency in turns per position is
kept as a binary number with 64 integer and 192 fraction bits. An integer position times that number, modulo one turn,
is an integer multiplication that wraps, so that range reduction costs nothing and loses nothing. A float64 position is
m * 2**-k with an integer m: the same product, shifted once.

This module prepares the two factors as 32-bit limbs; the kernels multiply them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rotary._lib.memo import remembered
from rotary._lib.numbers import frozen
from rotary._lib.typing import Float64Array, HostArray

FRACTION_BITS = 192
# In radians per position: larger frequencies do not fit the integer part.
LARGEST_FREQUENCY = 2.0**63
LIMB_BITS = 32
# Limbs of a frequency, from the lowest: two zeros (because the multiplier has three limbs), six of fraction, two of
# integer part, and zeros that a shifted product may read.
LIMBS_BELOW = 2
LIMBS = 18
# Shifted by so many limbs, any product is less than 2**-160 of a turn, which counts as zero.
LARGEST_SHIFT = 10

# pi * 2**480, rounded; compared with mpmath in the tests.
PI_BITS = 480
PI = int(
    "3243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c8"
    "9452821e638d01377be5466cf34e90c6cc0ac29b7c97c50dd3f84d5b6",
    16,
)


def turns_per_position(frequency: float) -> int:
    """Return ``abs(frequency) / (2 pi)`` in units of ``2**-192`` turns, rounded to nearest.

    Parameters
    ----------
    frequency : float
        Radians per unit of position, below ``2**64`` turns in size.

    Returns
    -------
    int
    """
    numerator, denominator = abs(frequency).as_integer_ratio()
    numerator <<= FRACTION_BITS + PI_BITS
    denominator *= 2 * PI
    return (2 * numerator + denominator) // (2 * denominator)


class Frequencies:
    """Inverse frequencies together with their exact fractions of a turn.

    Parameters
    ----------
    values : float64 array (heads, axes, pairs)
        Radians per unit of position, for every head (or one for all heads), position axis and pair.

    Attributes
    ----------
    values : float64 array (heads, axes, pairs), read-only
    heads, axes, pairs : int
        How many heads have frequencies of their own (1 if all share them), position axes, and pairs.
    limbs : uint32 array (heads, axes, 18, pairs)
        ``turns_per_position(values)`` from the least limb up, padded with zeros.
    negative : uint64 array (heads, axes, pairs)
        1 for negative frequencies, else 0.
    key : tuple
        Equal for equal frequencies only.
    copies : dict
        Copies on GPUs, one for each. They are no cache: CUDA graphs that were captured read them, so that they
        live as long as the frequencies, that is, as an embedding or a plan.
    """

    __slots__ = ("axes", "copies", "heads", "key", "limbs", "negative", "pairs", "values")
    heads: int
    axes: int
    pairs: int

    def __init__(self, values: Float64Array) -> None:
        self.values = frozen(np.asarray(values, dtype=np.float64))
        self.heads, self.axes, self.pairs = self.values.shape
        self.key = (self.values.shape, self.values.tobytes())
        self.copies: dict[Any, Any] = {}
        self.negative = np.signbit(self.values).astype(np.uint64)
        self.limbs = np.zeros((*self.values.shape[:2], LIMBS, self.values.shape[2]), np.uint32)
        for head, axis, pair in np.ndindex(self.values.shape):
            number = turns_per_position(float(self.values[head, axis, pair]))
            for limb in range(LIMBS_BELOW, LIMBS_BELOW + 8):
                self.limbs[head, axis, limb, pair] = number & 0xFFFFFFFF
                number >>= LIMB_BITS

    def __reduce__(self) -> tuple[Any, ...]:
        # Not the limbs: they follow from the values, and may be known already.
        return _frequencies, (self.values.shape, self.values.tobytes())


@remembered(256)
def _frequencies(shape: tuple[int, int, int], values: bytes) -> Frequencies:
    """Return frequencies, given as shape and bytes, which are hashable."""
    return Frequencies(np.frombuffer(values, np.float64).reshape(shape))


def frequencies(values: Float64Array) -> Frequencies:
    """Return the one shared `Frequencies` of ``values`` (heads, axes, pairs).

    Raises
    ------
    ValueError
        If one is not finite or not below ``2**63`` radians per position.
    """
    if not (np.abs(values) < LARGEST_FREQUENCY).all():
        largest = np.abs(values).max()
        msg = f"inverse frequencies must be below 2**63 radians per position, got {largest}"
        raise ValueError(msg)
    return _frequencies(values.shape, np.ascontiguousarray(values, np.float64).tobytes())


def of_head(of: Frequencies, head: int) -> Frequencies:
    """Return the frequencies of one head."""
    return frequencies(of.values[head : head + 1])


@remembered(256)
def merged(of: Frequencies) -> Frequencies | None:
    """Return frequencies on one axis, for positions that are the same on all axes.

    None unless every pair reads one axis only: a sum of frequencies would be rounded.
    """
    if ((of.values != 0).sum(axis=1) > 1).any():
        return None
    return frequencies(of.values.sum(axis=1, keepdims=True))


class Multipliers(NamedTuple):
    """Positions as integer multipliers: ``position = +-(digits . 2**(0, 32, 64)) * 2**-(32 shift)``."""

    digits: npt.NDArray[np.uint64]  # (axes, n, 3), each below 2**32
    shift: npt.NDArray[np.int64]  # (axes, n), in limbs
    negative: npt.NDArray[np.uint64]  # (axes, n), 1 for negative positions, else 0


def multipliers(positions: HostArray) -> Multipliers:
    """Return positions as the integer multipliers of the exact product.

    Parameters
    ----------
    positions : int64 or finite float64 array (axes, n)
        Below ``2**63`` in size.

    Returns
    -------
    Multipliers
    """
    negative = (positions < 0).astype(np.uint64)
    if positions.dtype == np.int64:
        # The absolute value of the least int64 wraps to itself, whose bits are the right uint64.
        low, high = np.abs(positions).view(np.uint64), np.zeros(positions.shape, np.uint64)
        shift = np.zeros(positions.shape, np.int64)
    else:
        low, high, shift = _split_float(np.abs(positions))
    digits = np.stack([low & 0xFFFFFFFF, low >> 32, high], axis=-1)
    return Multipliers(digits, shift, negative)


def _split_float(
    size: Float64Array,
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return low word, high word and limb shift of float64 magnitudes: ``m * 2**-k`` exactly."""
    whole = size == np.trunc(size)
    fraction, exponent = np.frexp(size)
    mantissa = np.ldexp(fraction, 53).astype(np.uint64)
    limbs, bits = np.divmod(53 - exponent.astype(np.int64), LIMB_BITS)
    # A shift to the left, up to the next limb, leaves a whole number of limbs to shift to the right.
    left = (LIMB_BITS - bits).astype(np.uint64)
    low = np.where(whole, size, 0).astype(np.uint64)
    low = np.where(whole, low, mantissa << left)
    high = np.where(whole, np.uint64(0), mantissa >> (np.uint64(64) - left))
    shift = np.where(whole, 0, np.minimum(limbs + 1, LARGEST_SHIFT))
    return low, high, shift
