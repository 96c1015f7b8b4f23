"""Tables for traced positions, computed with operations of the library that traces them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib.libraries import (
    check_precision,
    dtype_name,
    from_host,
    has_int64,
    is_mlx_array,
    namespace,
    widest_float,
)
from rotary._lib.memo import remembered
from rotary._lib.typing import Array, HostArray, Namespace, TableDType
from rotary.angles.phases import FRACTION_BITS, Frequencies, turns_per_position

from .contract import Angles, RowPositions, Scale, TracedTable
from .mlx import exact_in_mlx

LARGEST_INT32 = 2**31 - 1


def traced_table(angles: Angles, rows: RowPositions, dtype: TableDType) -> TracedTable:
    """Return cosine and sine at traced positions, or for traced or learned frequencies.

    Both are (heads, *extra, batch or 1, sequence or 1, pairs). Integer positions are reduced to a fraction of a turn in
    integer arithmetic. The error is 2**-38 of a turn if the widest integer of the library has 32 bits, and 2**-78 if it
    has 64. Floating positions are multiplied in their own
    precision, and frequencies that the host does not know in the widest floating dtype of the library. A position or
    frequency that would raise an error if the host knew it gives a row of NaN.
    """
    no_overflow = rows.no_overflow
    like = next(iter(rows.unknown.values()))
    check_precision(dtype, like)
    xp = namespace(like)
    positions: Array = rows.positions
    if "positions" not in rows.unknown:
        places = rows.written_out(rows.unknown["inv_freq"].shape[1])
        positions = from_host(places.astype(widest_float(like)), xp, like)
    if dtype_name(positions) == "uint64":
        positions = xp.astype(positions, xp.int64)
        for axis in range(positions.shape[0]):
            in_range = positions[axis, ...] >= 0
            no_overflow = in_range if no_overflow is None else no_overflow & in_range
    frequencies, factor, scale = angles
    cos_sin: Any = _cos_sin_of_floats if "float" in dtype_name(positions) else _cos_sin_of_integers
    if "inv_freq" in rows.unknown:
        cos_sin = _cos_sin_of_unknown
    if is_mlx_array(like):
        cos_sin = exact_in_mlx(cos_sin, rows)
    count = frequencies.heads if isinstance(frequencies, Frequencies) else frequencies.shape[0]
    heads = [
        cos_sin(frequencies, head, positions[:, head] if rows.by_head else positions, dtype)
        for head in range(count)
    ]
    cosine = xp.stack([cosine for cosine, _ in heads])
    sine = xp.stack([sine for _, sine in heads])
    if rows.by_head:
        cosine, sine = cosine[None], sine[None]
    if scale is not None:
        cosine, sine = (part * _scale(scale, positions, dtype) for part in (cosine, sine))
    # Without int64, a comparison with a larger limit would overflow, and every position is below it.
    if rows.limit is not None and (rows.limit <= LARGEST_INT32 or has_int64(positions)):
        below = xp.max(positions, axis=0)[..., None] < rows.limit
        cosine, sine = _nan_unless(below, cosine), _nan_unless(below, sine)
    if no_overflow is not None:
        cosine, sine = (_nan_unless(no_overflow[..., None], part) for part in (cosine, sine))
    return TracedTable(cosine * factor, sine * factor)


def _scale(scale: Scale, positions: Array, dtype: TableDType) -> Array:
    """Return the xPos scale (1, batch or 1, sequence or 1, pairs) at positions, in the dtype of the table."""
    xp = namespace(positions)
    values = xp.astype(positions, getattr(xp, dtype))[..., None]
    logarithms = from_host(np.log(scale.zeta).astype(dtype), xp, positions)
    powers = logarithms * ((values - scale.center) / scale.unit)
    # The first pair has the most extreme scale. At known positions a scale beyond the dtype raises an error.
    limits = np.finfo(dtype)
    in_range = (powers[..., :1] >= np.log(limits.tiny)) & (powers[..., :1] <= np.log(limits.max))
    return _nan_unless(in_range, xp.exp(xp.where(in_range, powers, xp.zeros_like(powers))))


def _nan_unless(condition: Array, values: Array) -> Array:
    xp = namespace(values)
    return xp.where(condition, values, xp.ones_like(values) * float("nan"))


def _cos_sin_of_floats(
    frequencies: Frequencies, head: int, positions: Array, dtype: TableDType
) -> tuple[Array, Array]:
    """Return cosine and sine at floating positions, in their own precision."""
    xp = namespace(positions)
    values = from_host(frequencies.values[head].copy(), xp, positions)
    values = xp.astype(values, positions.dtype)
    angle = sum(positions[axis, ..., None] * values[axis, ...] for axis in range(frequencies.axes))
    real = getattr(xp, dtype)
    return xp.astype(xp.cos(angle), real), xp.astype(xp.sin(angle), real)


def _cos_sin_of_unknown(
    frequencies: Array, head: int, positions: Array, dtype: TableDType
) -> tuple[Array, Array]:
    """Return cosine and sine for frequencies (heads, axes, pairs) of the library, in its widest floating dtype."""
    xp = namespace(frequencies)
    places = xp.astype(positions, frequencies.dtype)
    angle = sum(
        places[axis, ..., None] * frequencies[head, axis, ...]
        for axis in range(frequencies.shape[1])
    )
    real = getattr(xp, dtype)
    return xp.astype(xp.cos(angle), real), xp.astype(xp.sin(angle), real)


# ------------------------------------------------------------------------------------------------
# Integer positions.
#
# With 32-bit integers, a fraction of a turn is stored as three words of 16 bits, and a position as four digits of
# 8 bits. Position 300 has the digits 44 and 1: its angle is 44 times that of one position plus that of 256 positions.
# The host shifts the frequency for each digit beforehand, here by 0 and 8 bits, and drops whole turns. The product of
# a word and a digit has 24 bits, so four products and a carry fit into 32. Carries are propagated from the lowest
# word upwards. The carry of the top word counts whole turns and is dropped. With 64-bit integers, words have 32 bits
# and digits 16.

DIGITS = 4
WORDS = 3


def _cos_sin_of_integers(
    frequencies: Frequencies, head: int, positions: Array, dtype: TableDType
) -> tuple[Array, Array]:
    """Return cosine and sine at integer positions, reduced exactly to a fraction of a turn."""
    xp = namespace(positions)
    integer, bits = (xp.int64, 32) if has_int64(positions) else (xp.uint32, 16)
    fraction: list[Any] = [0] * WORDS
    for axis in range(frequencies.axes):
        position = positions[axis, ..., None]
        size = xp.astype(xp.abs(position), integer)
        words = _fraction(size, _shifted_words(frequencies, head, axis, bits), bits, xp)
        # The negative of a fraction of a turn is its complement, up to the last bit.
        words = [xp.where(position < 0, (1 << bits) - 1 - word, word) for word in words]
        fraction = _carry([a + b for a, b in zip(fraction, words, strict=True)], bits)
    return _cos_sin(fraction, bits, getattr(xp, dtype), xp)


def _fraction(size: Array, shifted: HostArray, bits: int, xp: Namespace) -> list[Array]:
    """Return the fraction of a turn at the absolute values of positions, as words from the lowest."""
    half = bits // 2
    digits = [(size >> (half * j)) & ((1 << half) - 1) for j in range(DIGITS)]
    return _carry(
        [
            sum(
                digit * from_host(row[k], xp, size)
                for digit, row in zip(digits, shifted, strict=True)
            )
            for k in range(WORDS)
        ],
        bits,
    )


def _carry(sums: list[Array], bits: int) -> list[Array]:
    """Propagate carries through words of `bits` bits, and drop the carry of the top word."""
    words = []
    carry: Any = 0
    for value in sums:
        total = value + carry
        words.append(total & ((1 << bits) - 1))
        carry = total >> bits
    return words


@remembered(64)
def _shifted_words(frequencies: Frequencies, head: int, axis: int, bits: int) -> HostArray:
    """Return the words of a frequency, (digits, words, pairs), shifted for each digit of a position."""
    words = np.zeros((DIGITS, WORDS, frequencies.pairs), np.uint32 if bits == 16 else np.int64)
    for pair, value in enumerate(frequencies.values[head, axis]):
        number = (
            turns_per_position(float(value)) if value >= 0 else -turns_per_position(float(value))
        )
        for j in range(DIGITS):
            fraction = (number << (bits // 2 * j)) % (1 << FRACTION_BITS)
            for k in range(WORDS):
                words[j, k, pair] = (
                    fraction >> (FRACTION_BITS - bits * (WORDS - k)) & (1 << bits) - 1
                )
    return words


def _cos_sin(words: list[Array], bits: int, real: Any, xp: Namespace) -> tuple[Array, Array]:
    """Return cosine and sine of a fraction of a turn, given as words from the lowest."""
    low, middle, high = words
    eighth = 1 << (bits - 3)
    shifted = (high + eighth) & ((1 << bits) - 1)
    quarter = shifted >> (bits - 2)
    # The rest of the top word, between minus and plus an eighth of a turn, is exact in floating point.
    rest = xp.astype(shifted & ((1 << (bits - 2)) - 1), real) - float(eighth)
    unit = 2.0**-bits
    rest = rest + (xp.astype(middle, real) + xp.astype(low, real) * unit) * unit
    angle = rest * (2 * np.pi * unit)
    cosine, sine = xp.cos(angle), xp.sin(angle)
    odd = (quarter & 1) == 1
    other_cosine, other_sine = xp.where(odd, sine, cosine), xp.where(odd, cosine, sine)
    return (
        xp.where((quarter == 1) | (quarter == 2), -other_cosine, other_cosine),
        xp.where(quarter >= 2, -other_sine, other_sine),
    )
