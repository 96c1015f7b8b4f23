"""The rotation as a readable formula, for tests: exact angles in Python integers, and correctly rounded tables."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from rotary._lib.typing import Float64Array, HostArray
from rotary.angles.phases import FRACTION_BITS, PI, PI_BITS, Frequencies, turns_per_position
from rotary.layouts import pair_channels

from .contract import Axes, Pairing, Table

DEFERS = False
BITS = 320  # fraction bits of the fixed-point numbers: enough for a small relative error near every zero


def fill_table(
    frequencies: Frequencies,
    positions: HostArray,
    factor: float,
    table: HostArray,
    row: int,
) -> None:
    """Fill a table (2, heads, rows, pairs) for positions (axes, n), from row ``row`` on."""
    for head, p, pair in np.ndindex(frequencies.heads, positions.shape[1], frequencies.pairs):
        phase = phase_of(frequencies.values[head, :, pair], positions[:, p])
        cosine, sine = cos_sin_of(phase)
        table[0, head, row + p, pair] = nearest(cosine * Fraction(factor), table.dtype)
        table[1, head, row + p, pair] = nearest(sine * Fraction(factor), table.dtype)


def phase_of(frequencies: Float64Array, positions: HostArray) -> Fraction:
    """Return the sum of position * frequency over the axes as a fraction of a turn, in [0, 1)."""
    total = Fraction(0)
    for frequency, position in zip(frequencies, positions, strict=True):
        sign = -1 if frequency < 0 else 1
        size = Fraction(turns_per_position(float(frequency)), 1 << FRACTION_BITS)
        total += sign * Fraction(position.item()) * size
    return total % 1


def cos_sin_of(phase: Fraction) -> tuple[Fraction, Fraction]:
    """Return cosine and sine of a fraction of a turn, from their power series in fixed point."""
    if phase > Fraction(1, 2):
        phase -= 1
    angle = (phase.numerator * 2 * PI << BITS) // (phase.denominator << PI_BITS)
    sums = [0, 0]
    term = 1 << BITS
    power = 0
    while term:
        # Even powers belong to the cosine and odd ones to the sine, each with alternating sign.
        sums[power % 2] += term if power % 4 < 2 else -term
        power += 1
        term = (
            term * angle // (power << BITS) if angle >= 0 else -(-term * angle // (power << BITS))
        )
        if term == -1:
            break
    return Fraction(sums[0], 1 << BITS), Fraction(sums[1], 1 << BITS)


def nearest(value: Fraction, dtype: np.dtype) -> float:
    """Return the float32 or float64 nearest to an exact value."""
    guess = dtype.type(float(value))
    candidates = (
        np.nextafter(guess, dtype.type(-np.inf)),
        guess,
        np.nextafter(guess, dtype.type(np.inf)),
    )
    return min(map(float, candidates), key=lambda number: abs(Fraction(number) - value))


def rotate(
    x: HostArray, table: Table, axes: Axes, pairing: Pairing, out: HostArray | None = None
) -> HostArray:
    """Return x rotated, or write it to `out`: each pair (a, b) becomes (a c - b s, b c + a s)."""
    cosine, sine = (_broadcast_table(part, x.ndim, axes) for part in table.gather())
    if pairing.inverse:
        sine = -sine
    if x.dtype.kind == "c":
        stop = pairing.start + pairing.pairs
        result = x.copy()
        result[..., pairing.start : stop] *= (cosine + 1j * sine).astype(x.dtype)
    else:
        read = np.array(pair_channels(2 * pairing.pairs, pairing.source)) + pairing.start
        write = np.array(pair_channels(2 * pairing.pairs, pairing.target)) + pairing.start
        first, second = (x[..., channels].astype(table.values.dtype) for channels in read)
        result = x.copy()
        result[..., write[0]] = first * cosine - second * sine
        result[..., write[1]] = second * cosine + first * sine
    if out is None:
        return result
    out[...] = result
    return out


def _broadcast_table(part: HostArray, ndim: int, axes: Axes) -> HostArray:
    """Return a table (heads, *extra, batch, sequence, pairs) that broadcasts against an array."""
    order, table_axes = axes.table_order(ndim)
    sizes = [1 if table_axis is None else part.shape[table_axis] for table_axis in table_axes]
    return part.transpose(order).reshape(*sizes, part.shape[-1])
