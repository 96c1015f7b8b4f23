"""Angles as exact fractions of a turn, for positions of any size.

An inverse frequency is a float64, which is a dyadic rational, and one turn is 2 pi. The frequency in turns per position
is stored as a binary number with 64 integer and 192 fraction bits. An integer position times this number, modulo one
turn, is an integer multiplication with wraparound. The range reduction is therefore exact and free. A float64 position
is m * 2**-k with an integer m, which needs the same product and one shift.

This module prepares the two factors as 32-bit limbs, and the kernels multiply them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rotary._lib.memo import remembered
from rotary._lib.numbers import frozen
from rotary._lib.typing import Float64Array, HostArray

FRACTION_BITS = 192
# In radians per position. Larger frequencies do not fit the integer part.
LARGEST_FREQUENCY = 2.0**63
LIMB_BITS = 32
# Limbs of a frequency, from the lowest: two zeros because the multiplier has three limbs, six limbs of the fraction,
# two of the integer part, and zeros that a shifted product may read.
LIMBS_BELOW = 2
LIMBS_USED = 8
LIMBS = 18
# A product shifted by this number of limbs is less than 2**-160 of a turn, which counts as zero.
LARGEST_SHIFT = 10

# pi * 2**480, rounded to nearest; a test compares it with mpmath.
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
        Radians per position; its absolute value is below ``2**64`` turns.

    Returns
    -------
    int
    """
    return fractions_of_turns([frequency])[0]


def fractions_of_turns(frequencies: list[float]) -> list[int]:
    """Return `turns_per_position` of several frequencies, in one call."""
    numbers = []
    for frequency in frequencies:
        numerator, denominator = abs(frequency).as_integer_ratio()
        numerator <<= FRACTION_BITS + PI_BITS
        denominator *= 2 * PI
        numbers.append((2 * numerator + denominator) // (2 * denominator))
    return numbers


class Frequencies:
    """Inverse frequencies together with their exact fractions of a turn.

    Parameters
    ----------
    values : float64 array (heads, axes, pairs)
        Radians per position for each head, position axis and channel pair. The first axis has size 1 if all heads
        share the frequencies.

    Attributes
    ----------
    values : float64 array (heads, axes, pairs), read-only
    heads, axes, pairs : int
        The sizes of `values`.
    limbs : uint32 array (heads, axes, 18, pairs)
        ``turns_per_position(values)`` from the lowest limb up, padded with zeros.
    negative : uint64 array (heads, axes, pairs)
        1 for negative frequencies, else 0.
    key : tuple
        Two objects have equal keys only if their frequencies are equal.
    copies : dict
        Copies on GPUs, one for each GPU. They are not a cache, because captured CUDA graphs read them. They live as
        long as the frequencies, which an embedding or a plan keeps alive.
    """

    __slots__ = ("axes", "copies", "heads", "key", "limbs", "negative", "pairs", "values")
    heads: int
    axes: int
    pairs: int

    def __init__(self, values: Float64Array) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        if self.values.flags.writeable:
            self.values = frozen(self.values)
        self.heads, self.axes, self.pairs = self.values.shape
        self.key = (self.values.shape, self.values.tobytes())
        self.copies: dict[Any, Any] = {}
        self.negative = np.signbit(self.values).astype(np.uint64)
        self.limbs = np.zeros((*self.values.shape[:2], LIMBS, self.values.shape[2]), np.uint32)
        numbers = fractions_of_turns(self.values.ravel().tolist())
        used = b"".join(
            [number.to_bytes(LIMBS_USED * LIMB_BITS // 8, "little") for number in numbers]
        )
        limbs = np.frombuffer(used, "<u4").reshape((*self.values.shape, LIMBS_USED))
        self.limbs[:, :, LIMBS_BELOW : LIMBS_BELOW + LIMBS_USED] = limbs.transpose(0, 1, 3, 2)

    def __reduce__(self) -> tuple[Any, ...]:
        # The limbs are not pickled, because they follow from the values and may exist already.
        return _frequencies, (self.values.shape, self.values.tobytes())


@remembered(256)
def _frequencies(shape: tuple[int, int, int], values: bytes) -> Frequencies:
    """Return the shared frequencies of values, which are given as hashable shape and bytes."""
    return Frequencies(np.frombuffer(values, np.float64).reshape(shape))


def frequencies(values: Float64Array) -> Frequencies:
    """Return the one shared `Frequencies` of ``values`` (heads, axes, pairs).

    Raises
    ------
    ValueError
        If a value is not finite, or its absolute value is not below ``2**63`` radians per position.
    """
    if not (np.abs(values) < LARGEST_FREQUENCY).all():
        largest = np.abs(values).max()
        msg = f"inverse frequencies must be below 2**63 radians per position, got {largest}"
        raise ValueError(msg)
    return _frequencies(values.shape, np.ascontiguousarray(values, np.float64).tobytes())


def of_head(all_heads: Frequencies, head: int) -> Frequencies:
    """Return the frequencies of one head."""
    return frequencies(all_heads.values[head : head + 1])


@remembered(256)
def merged(by_axis: Frequencies) -> Frequencies | None:
    """Return frequencies on a single axis, for positions that are equal on all axes.

    Return None if a pair uses several axes, because the sum of its frequencies would be rounded.
    """
    if ((by_axis.values != 0).sum(axis=1) > 1).any():
        return None
    return frequencies(by_axis.values.sum(axis=1, keepdims=True))


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
        Absolute values are below ``2**63``, apart from the least int64.

    Returns
    -------
    Multipliers
    """
    negative = (positions < 0).astype(np.uint64)
    if positions.dtype == np.int64:
        # The absolute value of the least int64 overflows to itself, and its bits are the right uint64.
        low, high = np.abs(positions).view(np.uint64), np.zeros(positions.shape, np.uint64)
        shift = np.zeros(positions.shape, np.int64)
    else:
        low, high, shift = _split_float(np.abs(positions))
    digits = np.stack([low & 0xFFFFFFFF, low >> 32, high], axis=-1)
    return Multipliers(digits, shift, negative)


def _split_float(
    size: Float64Array,
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return low word, high word and limb shift of float64 magnitudes, which are exactly ``m * 2**-k``."""
    whole = size == np.trunc(size)
    fraction, exponent = np.frexp(size)
    mantissa = np.ldexp(fraction, 53).astype(np.uint64)
    limbs, bits = np.divmod(53 - exponent.astype(np.int64), LIMB_BITS)
    # After a shift to the left, up to the next limb, the shift to the right is a whole number of limbs.
    left = (LIMB_BITS - bits).astype(np.uint64)
    low = np.where(whole, size, 0).astype(np.uint64)
    low = np.where(whole, low, mantissa << left)
    high = np.where(whole, np.uint64(0), mantissa >> (np.uint64(64) - left))
    shift = np.where(whole, 0, np.minimum(limbs + 1, LARGEST_SHIFT))
    return low, high, shift
