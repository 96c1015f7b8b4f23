"""Derive the polynomials behind the cosine and sine tables, and prove how accurate the tables are.

Run it with ``python docs/derivations/minimax.py`` (needs NumPy and mpmath, takes a few seconds). It prints

1. the coefficients, found by Remez exchange and rounded to float64 one by one,
2. a bound of the polynomials' own error, with the rounded coefficients,
3. a bound of every rounding of the evaluation, and from both the error of a table in ulp,
4. the worst error met over random positions and frequencies, against mpmath.

The same formula text serves all of it: it contains nothing but ``+ - *``, so it runs on NumPy arrays, on
the vectors of a compiled kernel, and on `Tracked` values that carry an interval and an error bound.
``docs/explanation/accuracy.md`` explains the steps.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath as mp
import numpy as np

DIGITS = 60
SQUARE_MAX = 1.0 / 64.0  # z = x * x for |x| <= 1/8 turn
FLOAT32, FLOAT64 = 24, 53  # significant bits
HIGH_BITS = 29  # bits of SIN64_HIGH: times a 24-bit head the product has 53 bits, hence is exact

# --------------------------------------------------------------------------------------------------
# The constants, as this program prints them (`derive` finds them again). Lowest degree first.
#
#   float32: sin(2 pi x) = x * SIN32(z),                            cos(2 pi x) = 1 + z * COS32(z)
#   float64: sin(2 pi x) = x * SIN64_HIGH + x * SIN64(z),           cos(2 pi x) = 1 + z * COS64(z)
# --------------------------------------------------------------------------------------------------
TURN_HEAD = 2.0**-64  # the unit of `hi`, in turns
TURN_TAIL = 2.0**-128  # the unit of `lo`, in turns
SIN32 = (
    float.fromhex("0x1.921fb5443af60p+2"),
    float.fromhex("-0x1.4abbce564ce37p+5"),
    float.fromhex("0x1.466bba8bfcc6bp+6"),
    float.fromhex("-0x1.32ca854b565bap+6"),
    float.fromhex("0x1.4bc254d9ade4bp+5"),
)
COS32 = (
    float.fromhex("-0x1.3bd3cc9bd6839p+4"),
    float.fromhex("0x1.03c1f075dd99ap+6"),
    float.fromhex("-0x1.55d3ba9db943ap+6"),
    float.fromhex("0x1.e1e7f583c276cp+5"),
    float.fromhex("-0x1.a0f36a23d9bd4p+4"),
)
SIN64_HIGH = float.fromhex("0x1.921fb54000000p+2")
SIN64 = (
    float.fromhex("0x1.10b461026488ap-28"),
    float.fromhex("-0x1.4abbce625be41p+5"),
    float.fromhex("0x1.466bc67758780p+6"),
    float.fromhex("-0x1.32d2cce2dcd96p+6"),
    float.fromhex("0x1.50782fd0eb75ap+5"),
    float.fromhex("-0x1.e3006923c4138p+3"),
    float.fromhex("0x1.e3f08fc993c65p+1"),
)
COS64 = (
    float.fromhex("-0x1.3bd3cc9be45dep+4"),
    float.fromhex("0x1.03c1f081b5a52p+6"),
    float.fromhex("-0x1.55d3c7e3bfe56p+6"),
    float.fromhex("0x1.e1f50675b20b0p+5"),
    float.fromhex("-0x1.a6d1e238eb540p+4"),
    float.fromhex("0x1.f9c4adbc8c4d1p+2"),
    float.fromhex("-0x1.b0345d11259cap+0"),
)


def split_phase(hi: Any, lo: Any) -> tuple[Any, Any, Any]:
    """Split a 128-bit phase in turns into quadrant and signed remainder.

    Parameters
    ----------
    hi, lo : uint64
        Upper and lower word of the fraction of a turn.

    Returns
    -------
    quadrant : uint64
        0 to 3: the nearest multiple of a quarter turn.
    r : int64
        Remainder in units of 2**-64 turn, from -2**61 to 2**61 - 1.
    lo : int64
        What is left in units of 2**-128 turn, from -2**63 to 2**63 - 1.
    """
    rounded = hi + (lo >> np.uint64(63))  # wraps: the carry makes the lower word signed
    quadrant = (rounded + np.uint64(1 << 61)) >> np.uint64(62)
    r = rounded - (quadrant << np.uint64(62))
    return quadrant, r.view(np.int64), lo.view(np.int64)


def cos_sin_float32(r: Any, lo: Any) -> tuple[Any, Any]:
    """Cosine and sine of the remainder in float64, accurate enough to be rounded once to float32."""
    return _polynomials32(np.float64(r) * TURN_HEAD + np.float64(lo) * TURN_TAIL)


def _polynomials32(x: Any) -> tuple[Any, Any]:
    """Return cosine and sine of x turns, |x| <= 1/8, to about 2**-37 of their value."""
    z = x * x
    s = SIN32[4] * z + SIN32[3]
    s = s * z + SIN32[2]
    s = s * z + SIN32[1]
    s = s * z + SIN32[0]
    c = COS32[4] * z + COS32[3]
    c = c * z + COS32[2]
    c = c * z + COS32[1]
    c = c * z + COS32[0]
    return c * z + 1.0, s * x


def cos_sin_float64(r: Any, lo: Any) -> tuple[Any, Any]:
    """Cosine and sine of the remainder, each within one ulp of float64."""
    head = np.float64(np.float32(r))  # 24 bits: its products below are exact
    tail = np.float64(r - np.int64(head)) * TURN_HEAD + np.float64(lo) * TURN_TAIL
    head = head * TURN_HEAD
    return _polynomials64(head, tail, *_squares(head, tail))


def _squares(head: Any, tail: Any) -> tuple[Any, Any, Any, Any]:
    """Return x = head + tail and its square: the exact part, the rest, and both together."""
    x = head + tail
    square = head * head  # 48 bits: exact
    rest = (head + x) * tail
    return x, square, rest, square + rest


def _polynomials64(head: Any, tail: Any, x: Any, square: Any, rest: Any, z: Any) -> tuple[Any, Any]:
    """Return cosine and sine of x = head + tail turns, |x| <= 1/8; head has 24 bits."""
    s = SIN64[6] * z + SIN64[5]
    s = s * z + SIN64[4]
    s = s * z + SIN64[3]
    s = s * z + SIN64[2]
    s = s * z + SIN64[1]
    s = s * z + SIN64[0]
    s = s * x + tail * SIN64_HIGH
    s = head * SIN64_HIGH + s  # the product is exact

    c = COS64[6] * z + COS64[5]
    c = c * z + COS64[4]
    c = c * z + COS64[3]
    c = c * z + COS64[2]
    c = c * z + COS64[1]
    c = c * z * z + rest * COS64[0]
    c = one_plus(square * COS64[0], c)
    return c, s


@functools.singledispatch
def one_plus(w: Any, e: Any) -> Any:
    """Return 1 + w + e, rounded about once, for -1/2 < w <= 0 and a smaller e."""
    total = 1.0 + w
    return total + (
        (1.0 - total + w) + e
    )  # the inner bracket is what rounding `total` lost, exactly


# --------------------------------------------------------------------------------------------------
# 1. Remez exchange
# --------------------------------------------------------------------------------------------------
def sine_over_x(z: mp.mpf) -> mp.mpf:
    """sin(2 pi x) / x as a function of z = x**2."""
    x = mp.sqrt(z)
    return 2 * mp.pi * mp.sincpi(2 * x)


def cosine_of_square(z: mp.mpf) -> mp.mpf:
    """cos(2 pi x) as a function of z = x**2."""
    return mp.cospi(2 * mp.sqrt(z))


class Samples:
    """A function on a grid dense towards both ends of [0, limit], with the part fitted so far."""

    def __init__(
        self,
        function: Callable[[mp.mpf], mp.mpf],
        size: int = 500,
        limit: float | mp.mpf = SQUARE_MAX,
    ) -> None:
        self.grid = [mp.mpf(limit) * (1 - mp.cospi(mp.mpf(k) / size)) / 2 for k in range(size + 1)]
        self.values = [function(z) for z in self.grid]  # the error counts relative to these
        self.remainder = list(self.values)

    def subtract(self, coefficient: mp.mpf, power: int) -> None:
        """Fix one coefficient; what remains is for the others to fit."""
        self.remainder = [
            y - coefficient * z**power for y, z in zip(self.remainder, self.grid, strict=True)
        ]

    def errors(self, coefficients: Sequence[mp.mpf], powers: Sequence[int]) -> list[mp.mpf]:
        """Relative error of the polynomial at every grid point."""
        return [
            (mp.fsum(c * z**p for c, p in zip(coefficients, powers, strict=True)) - y) / f
            for z, y, f in zip(self.grid, self.remainder, self.values, strict=True)
        ]


def alternation(errors: Sequence[mp.mpf], count: int) -> list[int]:
    """Indices of the largest error of each run of equal sign, at most `count` of them."""
    peaks: list[int] = []
    for k, e in enumerate(errors):
        if peaks and (errors[peaks[-1]] > 0) == (e > 0):
            if abs(e) > abs(errors[peaks[-1]]):
                peaks[-1] = k
        else:
            peaks.append(k)
    while len(peaks) > count:
        peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
    return peaks


def remez(samples: Samples, powers: Sequence[int], rounds: int = 20) -> list[mp.mpf]:
    """Coefficients of z**p, p in `powers`, with the least worst relative error on the grid."""
    n = len(powers)
    last = len(samples.grid) - 1
    chosen = [last * (2 * k + 1) // (2 * n + 2) for k in range(n + 1)]
    best, best_error = [mp.mpf(0)] * n, mp.inf
    for _ in range(rounds):
        matrix, right = mp.matrix(n + 1, n + 1), mp.matrix(n + 1, 1)
        for row, k in enumerate(chosen):
            for column, power in enumerate(powers):
                matrix[row, column] = samples.grid[k] ** power
            matrix[row, n] = (-1) ** row * samples.values[k]  # the levelled error
            right[row] = samples.remainder[k]
        solution = mp.lu_solve(matrix, right)
        coefficients = [solution[j] for j in range(n)]
        errors = samples.errors(coefficients, powers)
        worst = max(abs(e) for e in errors)
        if worst < best_error:
            best, best_error = coefficients, worst
        exchanged = alternation(errors, n + 1)
        if exchanged == chosen or len(exchanged) < n + 1:
            break
        chosen = exchanged
    return best


def round_bits(value: mp.mpf, bits: int) -> float:
    """Round to a float with no more than `bits` significant bits."""
    with mp.workprec(bits):
        return float(+value)


def fit(samples: Samples, powers: Sequence[int], bits: int = FLOAT64) -> list[float]:
    """Minimax coefficients of so many bits: round the lowest, fit the others again, and so on."""
    rounded: list[float] = []
    for k, power in enumerate(powers):
        rounded.append(round_bits(remez(samples, powers[k:])[0], bits))
        samples.subtract(mp.mpf(rounded[-1]), power)
    return rounded


def derive() -> dict[str, Any]:
    """Find every constant of the evaluation again."""
    sine32, sine64, cosine32, cosine64 = (
        Samples(f) for f in (sine_over_x, sine_over_x, cosine_of_square, cosine_of_square)
    )
    cosine32.subtract(mp.mpf(1), 0)  # the constant term is 1, so that position 0 gives exactly 1
    cosine64.subtract(mp.mpf(1), 0)
    first = remez(sine64, range(7))[0]
    high = round_bits(first, HIGH_BITS)
    sine64.subtract(mp.mpf(high), 0)
    return {
        "SIN32": tuple(fit(sine32, range(5))),
        "COS32": tuple(fit(cosine32, range(1, 6))),
        "SIN64_HIGH": high,
        "SIN64": tuple(fit(sine64, range(7))),
        "COS64": tuple(fit(cosine64, range(1, 8))),
    }


def constants_text(constants: dict[str, Any]) -> str:
    """Python source of the constants, every float in hexadecimal, hence exact."""
    lines = []
    for name, value in constants.items():
        if isinstance(value, float):
            lines.append(f'{name} = float.fromhex("{value.hex()}")')
        else:
            lines.append(f"{name} = (")
            lines.extend(f'    float.fromhex("{c.hex()}"),' for c in value)
            lines.append(")")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------
# 2. The error of the polynomials
# --------------------------------------------------------------------------------------------------
def taylor_coefficients(odd: int, terms: int = 18) -> list[mp.mpf]:
    """Coefficients in z of sin(2 pi x) / x (odd = 1) or cos(2 pi x) (odd = 0)."""
    turn = 2 * mp.pi
    return [(-1) ** k * turn ** (2 * k + odd) / mp.factorial(2 * k + odd) for k in range(terms)]


def shifted(coefficients: Sequence[mp.mpf], centre: mp.mpf) -> list[mp.mpf]:
    """Coefficients of the same polynomial in powers of (z - centre)."""
    work = list(coefficients)
    for start in range(len(work) - 1):
        for k in range(len(work) - 2, start - 1, -1):
            work[k] += centre * work[k + 1]
    return work


def approximation_error(coefficients: Sequence[float], odd: int, pieces: int = 512) -> float:
    """Bound the relative error of a polynomial in z against sine over x or cosine, on |x| <= 1/8.

    The function is its Taylor polynomial up to less than 1e-40. On each piece the difference of the two polynomials,
    developed at the middle, is at most the sum of its terms' sizes: a bound, not a sample.
    """
    function = taylor_coefficients(odd)
    difference = [
        f - (mp.mpf(coefficients[k]) if k < len(coefficients) else 0)
        for k, f in enumerate(function)
    ]
    upper = mp.mpf(SQUARE_MAX) * (1 + mp.mpf(2) ** -60)  # |x| may pass 1/8 by 2**-65
    half = upper / pieces / 2
    worst = mp.mpf(0)
    for piece in range(pieces):
        local = shifted(difference, half * (2 * piece + 1))
        bound = mp.fsum(abs(c) * half**k for k, c in enumerate(local)) + mp.mpf(10) ** -40
        smallest = mp.polyval(function[::-1], half * (2 * piece + 2))  # both functions fall
        worst = max(worst, bound / smallest)
    return up(float(worst))


# --------------------------------------------------------------------------------------------------
# 3. The error of the roundings
# --------------------------------------------------------------------------------------------------
def up(value: float) -> float:
    """The next float64 above: every bound below is rounded outwards."""
    return math.nextafter(value, math.inf)


def half_ulp(size: float, bits: int = 53) -> float:
    """Largest error of rounding a real of at most this size to `bits` bits."""
    fraction, exponent = math.frexp(size)
    exponent -= fraction == 0.5  # a power of two is the upper end of the binade below it
    return math.ldexp(1.0, exponent - bits - 1) if size else 0.0


@dataclass(frozen=True)
class Tracked:
    """A computed float64 and what is known of it.

    Parameters
    ----------
    low, high : float
        Interval that holds the computed value.
    error : float
        Bound of its distance from the value that exact arithmetic gives.
    bits : int
        Significant bits it can have: a product with at most 53 bits in all is exact.
    last : float
        The part of `error` that the last rounding alone contributed.
    """

    low: float
    high: float
    error: float = 0.0
    bits: int = 53
    last: float = 0.0

    @property
    def size(self) -> float:
        """Largest absolute value."""
        return max(-self.low, self.high)

    @classmethod
    def of(cls, value: Tracked | float) -> Tracked:
        """A constant is exact; its bits are those from its first to its last one."""
        if isinstance(value, Tracked):
            return value
        numerator = abs(value.as_integer_ratio()[0])
        return cls(value, value, bits=(numerator // (numerator & -numerator or 1)).bit_length())

    @classmethod
    def rounded(cls, ends: Sequence[float], error: float, *, exact: bool = False) -> Tracked:
        """Round an exact result that lies between the least and the largest of `ends`."""
        low, high = -up(-min(ends)), up(max(ends))
        last = 0.0 if exact else half_ulp(max(-low, high))
        return cls(-up(last - low), up(high + last), up(error + last), last=last)

    def __add__(self, other: Tracked | float) -> Tracked:
        other = Tracked.of(other)
        ends = (self.low + other.low, self.high + other.high)
        return Tracked.rounded(ends, up(self.error + other.error))

    def __mul__(self, other: Tracked | float) -> Tracked:
        other = Tracked.of(other)
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        carried = up(self.size * other.error) + up(other.size * self.error)
        carried = up(up(carried) + up(self.error * other.error))
        return Tracked.rounded(ends, carried, exact=self.bits + other.bits <= 53)

    __radd__ = __add__
    __rmul__ = __mul__

    def at_most(self, limit: float) -> Tracked:
        """Use that the exact result of the last rounding passes `limit`, a power of two, by far less than an ulp.

        Then the rounded result does not pass it. The interval cannot know this, as it takes head and tail for
        independent.
        """
        if self.high <= limit:
            return self
        last = half_ulp(limit)
        return Tracked(self.low, limit, up(self.error - self.last + last), last=last)


@one_plus.register
def _(w: Tracked, e: Tracked) -> Tracked:
    """Return the bound for `one_plus`, whose first sum loses nothing: its rounding error is added again."""
    total = Tracked.rounded((1.0 + w.low, 1.0 + w.high), 0.0)
    lost = Tracked(-total.last, total.last, w.error)
    return Tracked(total.low, total.high) + (lost + e)


AXES = 8
# On each axis the phase is cut to 128 bits, and 2**63 times the error of the frequency is a quarter of that; the last
# hundredth covers the limbs below 2**-192 turn that the product with a fractional position leaves out.
PHASE_ERROR = AXES * 1.26 * TURN_TAIL
LOW_WORD_ERROR = half_ulp(2.0**63) * TURN_TAIL  # converting `lo` to float64


def phase32(x0: float, x1: float) -> Tracked:
    """`x` of cos_sin_float32 where the exact remainder lies between x0 and x1 turns."""
    error = 4 * half_ulp(x1) + LOW_WORD_ERROR + PHASE_ERROR  # conversion of r, sum
    return Tracked(x0 * (1 - 2.0**-50) - error, x1 * (1 + 2.0**-50) + error, error)


def phase64(x0: float, x1: float) -> tuple[Tracked, Tracked]:
    """`head` and `tail` of cos_sin_float64 where the exact remainder lies between x0 and x1 turns."""
    cut = half_ulp(x1, 24) if x1 >= 2.0**-41 else 0.0  # |r| < 2**24 is its own head
    largest = cut + 2.0**-65  # what float32 left, and `lo`
    error = half_ulp(largest) + LOW_WORD_ERROR + PHASE_ERROR
    slack = largest + x1 * 2.0**-50
    return Tracked(x0 - slack, x1 + slack, bits=24), Tracked(-largest, largest, error)


@dataclass(frozen=True)
class Bounds:
    """Proven errors of a table.

    Parameters
    ----------
    ulp, with_factor : float
        Of the rounded entry, in ulp: as it is, and after the product with an attention factor.
    place : float
        Where, in turns, `ulp` is reached.
    approximation : float
        Relative error of the polynomial alone.
    """

    ulp: float
    with_factor: float
    place: float
    approximation: float


def sine_pieces(per_binade: int = 48) -> list[tuple[float, float, float]]:
    """Pieces of 2**-60 <= sin <= sin(1/8 turn): their ends in turns, and a power of two not above the sine."""
    powers = [2.0**-k for k in range(61)]
    ends = [0.125] + [math.asin(p) / (2 * math.pi) for p in powers[1:]]
    pieces = []
    for binade in range(60):
        top, bottom = ends[binade], ends[binade + 1]
        cuts = [bottom + (top - bottom) * k / per_binade for k in range(per_binade + 1)]
        pieces += [(a, b, powers[binade + 1]) for a, b in itertools.pairwise(cuts)]
    return pieces


def cosine_pieces(count: int = 512) -> list[tuple[float, float, float]]:
    """Pieces of |x| <= 1/8 turn, where the cosine is at least one half."""
    return [(k / 8 / count, (k + 1) / 8 / count, 0.5) for k in range(count)]


def bound_table(
    pieces: Sequence[tuple[float, float, float]],
    evaluate: Callable[[float, float], Tracked],
    value: Callable[[float], float],
    coefficients: Sequence[float],
    bits: int,
) -> Bounds:
    """Bound the error of table entries with `bits` significant bits over the pieces.

    The last rounding is taken in the binade of the exact value: next to a power of two it cannot cost more, as the
    power itself is a candidate. A product with a factor keeps the relative error, can end anywhere in a binade, where
    a value is less than 2**bits of its ulp, and is rounded in turn.
    """
    approximation = approximation_error(coefficients, 1 if value is sine else 0)
    worst, place, relative = 0.0, 0.0, 0.0
    for a, b, power in pieces:
        result = evaluate(a * (1 - 2.0**-50), b * (1 + 2.0**-50))
        ends = sorted((value(a), value(b)))
        least, most = ends[0] * (1 - 2.0**-45), ends[1] * (1 + 2.0**-45)
        ulp = math.ldexp(power, 1 - bits)  # of values in [power, 2 power)
        final = result.last if bits == FLOAT64 else 0.0  # float32 is rounded from float64 later
        error = result.error - final
        if (error + approximation * most) / ulp + 0.5 > worst:
            worst, place = (error + approximation * most) / ulp + 0.5, a
        rounded = ulp / 2 if bits == FLOAT64 else 2.0**-53 * most  # entry, or product, in float64
        relative = max(relative, (error + rounded) / least + approximation)
    return Bounds(up(worst), up(0.5 + relative * 2.0**bits), place, approximation)


def sine(x: float) -> float:
    """Sine of x turns."""
    return math.sin(2 * math.pi * x)


def cosine(x: float) -> float:
    """Cosine of x turns."""
    return math.cos(2 * math.pi * x)


def tracked(bits: int, index: int) -> Callable[[float, float], Tracked]:
    """Return the evaluation with float32 (24) or float64 (53) result of cosine (0) or sine (1) between two ends."""

    def evaluate(x0: float, x1: float) -> Tracked:
        result: Tracked
        if bits == FLOAT32:
            result = _polynomials32(phase32(x0, x1))[index]
            return result
        head, tail = phase64(x0, x1)
        x, square, rest, z = _squares(head, tail)
        x, z = x.at_most(0.125), z.at_most(SQUARE_MAX)
        result = _polynomials64(head, tail, x, square, rest, z)[index]
        return result

    return evaluate


def prove() -> dict[str, Bounds]:
    """Bounds of the four evaluations with the constants of this module."""
    sine64 = (mp.mpf(SIN64_HIGH) + mp.mpf(SIN64[0]), *SIN64[1:])
    return {
        "cos32": bound_table(cosine_pieces(), tracked(24, 0), cosine, (1.0, *COS32), 24),
        "sin32": bound_table(sine_pieces(), tracked(24, 1), sine, SIN32, 24),
        "cos64": bound_table(cosine_pieces(), tracked(53, 0), cosine, (1.0, *COS64), 53),
        "sin64": bound_table(sine_pieces(), tracked(53, 1), sine, sine64, 53),
    }


def tiny_error() -> float:
    """Absolute error of a float64 table where the sine is below 2**-60."""
    return tracked(FLOAT64, 1)(0.0, 2.0**-60 / 6).error


# --------------------------------------------------------------------------------------------------
# 4. Samples
# --------------------------------------------------------------------------------------------------
def phase(position: float, inv_freq: float) -> int:
    """Top 128 bits of the fraction of a turn, from a frequency with 192 fraction bits."""
    turns = int(mp.nint(mp.mpf(inv_freq) / (2 * mp.pi) * mp.mpf(2) ** 192))
    numerator, denominator = position.as_integer_ratio()
    return (numerator * turns >> (64 + denominator.bit_length() - 1)) & ((1 << 128) - 1)


def tables(phases: Sequence[int], bits: int, factor: float) -> tuple[Any, Any]:
    """Cosines and sines of 128-bit phases, as the library computes them."""
    hi = np.array([p >> 64 for p in phases], np.uint64)
    lo = np.array([p & (2**64 - 1) for p in phases], np.uint64)
    quadrant, r, lo = split_phase(hi, lo)
    c, s = (cos_sin_float32 if bits == FLOAT32 else cos_sin_float64)(r, lo)
    odd = (quadrant & np.uint64(1)) == 1
    c, s = np.where(odd, s, c), np.where(odd, c, s)
    c = np.where((quadrant == 1) | (quadrant == 2), -c, c) * factor
    s = np.where(quadrant >= 2, -s, s) * factor
    dtype = np.float32 if bits == FLOAT32 else np.float64
    return c.astype(dtype), s.astype(dtype)


def ulps(computed: float, exact: mp.mpf, bits: int) -> float:
    """Error in ulp of the exact value, or of 2**-60 where that is larger."""
    unit = mp.ldexp(1, mp.frexp(max(abs(exact), mp.mpf(2) ** -60))[1] - bits)
    return float(abs(mp.mpf(float(computed)) - exact) / unit)


def random_pairs(count: int, seed: int = 1) -> list[tuple[float, float]]:
    """Positions of every size, both signs, integers and fractions, with frequencies of every size."""
    draw = random.Random(seed)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < count:
        position: float = draw.getrandbits(draw.randrange(64)) * draw.choice((1, -1))
        if draw.random() < 0.3:
            position = math.ldexp(draw.uniform(-1, 1), draw.randrange(-20, 63))
        pairs.append((position, draw.choice((1, 1, -1)) * 2.0 ** draw.uniform(-40, 6)))
    return pairs


def pairs_near_zeros(dim: int = 128, base: float = 10_000.0) -> list[tuple[int, float]]:
    """Integer positions whose angle is nearest to a multiple of a quarter turn, by continued fractions."""
    pairs = []
    for i in range(dim // 2):
        inv_freq = float(mp.mpf(base) ** (-mp.mpf(2 * i) / dim))
        rest, before, denominator = mp.mpf(inv_freq) * 2 / mp.pi, 1, 0
        while rest:
            whole = int(mp.floor(rest))
            before, denominator = denominator, whole * denominator + before
            if denominator >= 2**63:
                break
            pairs.append((denominator, inv_freq))
            rest -= whole
            rest = 1 / rest if rest else rest
    return pairs


def worst_error(pairs: Sequence[tuple[float, float]], bits: int, factor: float = 1.0) -> float:
    """Worst error of a table over the pairs, in ulp, against mpmath."""
    worst = 0.0
    computed = zip(*tables([phase(*pair) for pair in pairs], bits, factor), strict=True)
    for (position, inv_freq), (c, s) in zip(pairs, computed, strict=True):
        exact_c, exact_s = mp.cos_sin(mp.mpf(position) * mp.mpf(inv_freq))
        worst = max(worst, ulps(c, factor * exact_c, bits), ulps(s, factor * exact_s, bits))
    return worst


def main() -> None:
    """Print constants, proven bounds and sampled errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000, help="random samples per table")
    count = parser.parse_args().pairs

    print(constants_text(derive()), "\n")
    for name, bounds in prove().items():
        print(
            f"{name}: polynomial 2^{math.log2(bounds.approximation):.2f}; proven {bounds.ulp:.6f} ulp"
            f" (worst near x = {bounds.place:.4f}), with a factor {bounds.with_factor:.6f} ulp"
        )
    print(f"below 2^-60: absolute error of float64 tables under 2^{math.log2(tiny_error()):.2f}\n")

    samples: dict[str, Sequence[tuple[float, float]]] = {
        "random": random_pairs(count),
        "near zeros": pairs_near_zeros(),
    }
    for kind, pairs in samples.items():
        for bits, factor in ((FLOAT32, 1.0), (FLOAT32, 1.27), (FLOAT64, 1.0), (FLOAT64, 1.27)):
            worst = worst_error(pairs, bits, factor)
            print(
                f"{kind}, {len(pairs)} pairs, {bits} bits, factor {factor}: worst {worst:.6f} ulp"
            )


if __name__ == "__main__":
    mp.mp.dps = DIGITS
    main()
