"""The errors of tables against exact cosine and sine, for positions and frequencies of all magnitudes.

The oracle shares no code with the library: a product of two floats is one large integer, which is multiplied by
1/(2 pi) of mpmath. No frequency is rounded to a fraction of a turn, as in `rotary.angles.phases`. Cosine and sine of
the remainder are Taylor series in pairs of float64. A test compares the oracle with mpmath.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np
import pytest

import rotary
from rotary import backends
from rotary.angles.phases import frequencies
from rotary.backends import portable, reference
from rotary.backends.cpu import kernels
from rotary.backends.cpu import launch as cpu
from rotary.scaling import Custom

# ------------------------------------------------------------------------------------------------
# The oracle.

BITS = 256  # of a fraction of a turn
INVERSE_BITS = 640  # of 1/(2 pi); a product of position and frequency has at most 126 integer bits
with mp.workprec(2 * INVERSE_BITS):
    INVERSE_TURN = int(mp.floor(mp.ldexp(1 / (2 * mp.pi), INVERSE_BITS)))
    TWO_PI = (float(2 * mp.pi), float(2 * mp.pi - float(2 * mp.pi)))
    # 1/k! as a sum of two float64.
    INVERSE_FACTORIALS = [
        (float(1 / mp.factorial(k)), float(1 / mp.factorial(k) - float(1 / mp.factorial(k))))
        for k in range(28)
    ]

Array = np.ndarray
Pair = tuple[Array, Array]  # a number as the unevaluated sum of two float64


def integers(values: Array) -> tuple[Array, Array]:
    """Write numbers as ``integer * 2**exponent``, both as Python integers."""
    if values.dtype.kind == "i":
        return values.astype(object), np.zeros(values.shape, object)
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    return whole.astype(object), exponents.astype(object) - 53


def exact_phase(positions: Array, frequencies: Array) -> Array:
    """Return position times frequency in units of ``2**-BITS`` turns, modulo one turn, rounded down.

    Both broadcast; the result is an array of Python integers.
    """
    digits, exponents = integers(positions)
    more_digits, more_exponents = integers(frequencies)
    product = digits * more_digits * INVERSE_TURN
    return (product >> (INVERSE_BITS - BITS - exponents - more_exponents)) & ((1 << BITS) - 1)


def two_sum(a: Array, b: Array) -> Pair:
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a: Array, b: Any) -> Pair:
    """Return a * b exactly, by Dekker's splitting."""
    p = a * b
    c, d = 134217729.0 * a, 134217729.0 * b
    a1, b1 = c - (c - a), d - (d - b)
    a2, b2 = a - a1, b - b1
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


def add(a: Any, b: Any) -> Pair:
    s, t = two_sum(a[0], b[0])
    u, v = two_sum(a[1], b[1])
    s, t = two_sum(s, t + u)
    return two_sum(s, t + v)


def multiply(a: Any, b: Any) -> Pair:
    p, e = two_product(a[0], b[0])
    return two_sum(p, e + (a[0] * b[1] + a[1] * b[0]))


def series(square: Pair, first: int) -> Pair:
    """Return ``sum((-square)**j / (2 j + first)!)``."""
    total: Any = (np.zeros_like(square[0]), np.zeros_like(square[0]))
    for k in range(26 + first, -1, -2):
        sign = -1.0 if (k // 2) % 2 else 1.0
        high, low = INVERSE_FACTORIALS[k]
        total = add(multiply(total, square), (sign * high, sign * low))
    return total


def exact_cos_sin(phase: Array) -> tuple[Pair, Pair]:
    """Return cosine and sine of phases, each to about 100 bits."""
    quarter = (phase + (1 << (BITS - 3))) >> (BITS - 2)
    rest = phase - (quarter << (BITS - 2))
    high = rest.astype(np.float64)
    low = (rest - np.vectorize(int, otypes=[object])(high)).astype(np.float64)
    angle = multiply((np.ldexp(high, -BITS), np.ldexp(low, -BITS)), TWO_PI)
    square = multiply(angle, angle)
    cosine, sine = series(square, 0), multiply(series(square, 1), angle)
    quadrant = quarter.astype(np.int64) % 4
    cases = [quadrant == k for k in range(4)]

    def choose(*parts: Pair) -> Pair:
        return (
            np.select(cases, [part[0] for part in parts]),
            np.select(cases, [part[1] for part in parts]),
        )

    minus_cosine, minus_sine = ((-part[0], -part[1]) for part in (cosine, sine))
    return (
        choose(cosine, minus_sine, minus_cosine, sine),
        choose(sine, cosine, minus_sine, minus_cosine),
    )


def ulp_errors(table: Array, exact: Pair) -> Array:
    """Return errors in units of the exact value's last place, or that of ``2**-60`` if it is smaller."""
    high, low = exact
    mantissa, exponent = np.frexp(high)
    below = (np.abs(mantissa) == 0.5) & (high * low < 0)  # just below a power of two
    exponent = np.maximum(exponent - below, -59)
    digits = 24 if table.dtype == np.float32 else 53
    return np.abs((table.astype(np.float64) - high) - low) / np.ldexp(1.0, exponent - digits)


class Worst(NamedTuple):
    """The largest error of a table, and its entry."""

    ulp: float
    position: Any
    frequency: float


def worst(positions: Array, inv_freq: Array, dtype: str, factor: float = 1.0) -> Worst:
    """Return the entry with the largest error in the table of the library."""
    table = rotary.cos_sin(positions, inv_freq, dtype=dtype, attention_factor=factor)
    exact = exact_cos_sin(exact_phase(positions[..., None], inv_freq))
    errors = np.maximum(
        *(
            ulp_errors(part, multiply(value, (factor, 0.0)))
            for part, value in zip(table, exact, strict=True)
        )
    )
    place = np.unravel_index(errors.argmax(), errors.shape)
    return Worst(float(errors[place]), positions[place[:-1]], float(inv_freq[place[-1]]))


# ------------------------------------------------------------------------------------------------
# Positions and frequencies.

PROMISED = {("float32", 1.0): 0.501, ("float64", 1.0): 1.0} | {
    (dtype, factor): bound
    for dtype, bound in (("float32", 0.501), ("float64", 2.0))
    for factor in (1.27, 0.1 * np.log(40.0) + 1.0, 0.707, 1.0 + 2.0**-52)
}
TABLES = pytest.mark.parametrize(
    ("dtype", "factor"), [("float32", 1.0), ("float64", 1.0), ("float32", 1.27), ("float64", 1.27)]
)
LARGEST = np.nextafter(2.0**63, 0.0)

EDGE_INTEGERS = np.array(
    [
        *(-(2**63), -(2**63) + 1, 2**63 - 1, 2**63 - 2, 0, 1, -1, 2, 3, 7),
        *(2**53, 2**53 + 1, -(2**53) - 1, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**62),
        *(131_071, 1_048_575, 1_700_000_000, 1_700_000_000_000_000_001, -1_700_000_000_123_456_789),
    ]
)
EDGE_FLOATS = np.array(
    [
        *(0.0, -0.0, 0.25, -0.25, 0.5, 1.5, 1 / 3, -1e-3, 0.1, 1e5 + 0.1),
        *(5e-324, -5e-324, 2.2250738585072014e-308, 1e-300, 1e-100, 2.0**-200, 2.0**-65, 1e-18),
        *(LARGEST, -LARGEST, -(2.0**63) / 1.5, 2.0**53 - 1, 2.0**52 + 0.5, 2.0**32 + 2.0**-20),
        *(2.0**32, 2.0**-32, 2.0**-31, 2.0**-33, 2.0**-52, 2.0**-53, 1 - 2.0**-53, 1 + 2.0**-52),
        *(1_700_000_000.123456, 1_700_000_000_000.5, 1_700_000_000_000_000_512.0, 3e18),
    ]
)
EDGE_FREQUENCIES = np.array(
    [
        *(0.0, -0.0, 1.0, -1.0, 2 * np.pi, -2 * np.pi, 4 * np.pi, np.pi, np.pi / 2, -np.pi / 4),
        *(100.0, -1e6, 2.0**32, 2.0**53, 2.0**62, LARGEST, -LARGEST, 1e18, 3.0**39),
        *(5e-324, -5e-324, 2.2250738585072014e-308, 1e-300, 2.0**-192, 2.0**-120, 2.0**-63, 1e-4),
        *(1e-10, -1e-19, 1 / 3, 0.1, 2.0**-32, np.nextafter(1.0, 0.0), np.nextafter(1.0, 2.0)),
    ]
)


def some_integers(rng: np.random.Generator, count: int) -> Array:
    """Return int64 positions of all magnitudes and both signs."""
    bits = rng.integers(-(2**63), 2**63 - 1, count, endpoint=True)
    return bits >> rng.integers(0, 63, count)


def some_floats(rng: np.random.Generator, count: int) -> Array:
    """Return float64 positions with fractions: of all magnitudes, short ones, and times."""
    size = np.ldexp(1.0 + rng.random(count), rng.integers(-70, 63, count))
    size[::16] = np.ldexp(1.0 + rng.random(size[::16].shape), -rng.integers(70, 1070))
    size[1::4] = rng.integers(1, 2**20, size[1::4].shape) * 2.0 ** -rng.integers(1, 30)
    size[2::8] = 1.7e9 + 1e7 * rng.random(size[2::8].shape)
    return size * rng.choice([-1.0, 1.0], count)


def some_frequencies(rng: np.random.Generator, count: int) -> Array:
    """Return frequencies of all magnitudes and both signs, and those of a default schedule."""
    size = np.ldexp(1.0 + rng.random(count), rng.integers(-66, 62, count))
    size[::16] = np.ldexp(1.0 + rng.random(size[::16].shape), -rng.integers(70, 1074))
    result = size * rng.choice([-1.0, 1.0], count)
    result[1::2] = rotary.inv_freq(2 * result[1::2].size, base=10.0 ** rng.uniform(1, 8))
    return result


def random_worst(batches: int, seed: int, dtype: str, factor: float, report: Any = None) -> Worst:
    """Return the worst of ``batches * 2**16`` random pairs, half of them with float positions."""
    found = Worst(0.0, None, 0.0)
    for batch in range(batches):
        rng = np.random.default_rng((seed, batch))
        positions = (some_floats if batch % 2 else some_integers)(rng, 256)
        found = max(found, worst(positions, some_frequencies(rng, 256), dtype, factor))
        if report is not None:
            report(batch + 1, found)
    return found


# ------------------------------------------------------------------------------------------------
# The oracle against mpmath.


def test_the_oracle_agrees_with_mpmath():
    rng = np.random.default_rng(11)
    mixed = [
        (some_integers(rng, 30), some_frequencies(rng, 30)),
        (some_floats(rng, 30), some_frequencies(rng, 30)),
        (EDGE_INTEGERS, EDGE_FREQUENCIES),
        (EDGE_FLOATS, EDGE_FREQUENCIES),
    ]
    for positions, inv_freq in mixed:
        cosine, sine = exact_cos_sin(exact_phase(positions[:, None], inv_freq))
        with mp.workprec(500):
            for place in np.ndindex(cosine[0].shape):
                p, w = positions[place[0]].item(), inv_freq[place[1]].item()
                angle = mp.mpf(p) * mp.mpf(w)
                for (high, low), true in ((cosine, mp.cos(angle)), (sine, mp.sin(angle))):
                    error = abs(mp.mpf(float(high[place])) + float(low[place]) - true)
                    assert error <= max(abs(true) * mp.ldexp(1, -90), mp.ldexp(1, -250)), (p, w)


def test_the_oracle_measures_errors_of_rounding():
    value = (np.array([0.7, 1.0, 2.0**-70, 1.0]), np.array([1e-18, 0.0, 0.0, -1e-20]))
    halfway = np.array([0.7, 1.0 + 2.0**-52, 2.0**-60, 1.0])
    errors = ulp_errors(halfway, value)
    np.testing.assert_allclose(errors, [1e-18 * 2**53, 1.0, 2.0**52, 1e-20 * 2**53], rtol=1e-2)
    single = ulp_errors(np.array([1.0], np.float32), (np.array([1.0 - 2.0**-25]), np.array([0.0])))
    assert single == 0.5


@pytest.mark.parametrize("factor", [1.0, 1.27])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_reference_is_correctly_rounded(dtype, factor):
    rng = np.random.default_rng(12)
    values = np.concatenate([some_frequencies(rng, 12), EDGE_FREQUENCIES[::3]])
    for positions in (some_integers(rng, 12), some_floats(rng, 12), EDGE_FLOATS[::3]):
        table = np.zeros((2, 1, len(positions), len(values)), dtype)
        reference.fill_table(frequencies(values[None, None]), positions[None], factor, table, 0)
        exact = exact_cos_sin(exact_phase(positions[:, None], values))
        for part, value in zip(table[:, 0], exact, strict=True):
            assert ulp_errors(part, multiply(value, (factor, 0.0))).max() < 0.5 + 1e-6


# ------------------------------------------------------------------------------------------------
# The promised errors.


@TABLES
def test_a_million_random_pairs(dtype, factor):
    found = random_worst(16, 1, dtype, factor)
    assert found.ulp <= PROMISED[dtype, factor], found
    # Errors close to half an ulp show that the pairs are many enough and that errors are measured.
    assert found.ulp > 0.4999


@pytest.mark.slow
@TABLES
def test_ten_million_random_pairs(dtype, factor, capsys):
    batches = 153

    def report(batch: int, found: Worst) -> None:
        if batch % 17 == 0:
            with capsys.disabled():
                print(f"\n{dtype} x {factor}: {batch * 2**16:>8} pairs, {found.ulp:.6f}", end="")  # noqa: T201  (progress)

    found = random_worst(batches, 2, dtype, factor, report)
    assert found.ulp <= PROMISED[dtype, factor], found


@pytest.mark.parametrize(("dtype", "factor"), PROMISED)
@pytest.mark.parametrize("positions", [EDGE_INTEGERS, EDGE_FLOATS], ids=["int64", "float64"])
def test_extreme_positions_and_frequencies(positions, dtype, factor):
    found = worst(positions, EDGE_FREQUENCIES, dtype, factor)
    assert found.ulp <= PROMISED[dtype, factor], found


@TABLES
def test_consecutive_positions_from_the_cache(dtype, factor):
    """Cached windows that grow at both ends are as exact as rows that are computed separately."""
    inv_freq = rotary.inv_freq(128, base=500_000.0)
    for start, stop in ((0, 40), (30, 300), (-200, 5), (-200, 300)):
        found = worst(np.arange(start, stop), inv_freq, dtype, factor)
        assert found.ulp <= PROMISED[dtype, factor], found


def near_zeros(frequency: float, largest: int, step: Fraction = Fraction(1)) -> list[int]:
    """Return integers n for which ``n * step * frequency`` is very near a multiple of a quarter turn.

    They are the denominators of the continued fraction of ``step * frequency / (pi / 2)``.
    """
    numerator = 4 * INVERSE_TURN * Fraction(frequency) * step
    x = numerator / (1 << INVERSE_BITS)
    before, n = 0, 1
    result = []
    while n <= largest:
        result.append(n)
        x -= x.numerator // x.denominator
        if not x:
            break
        x = 1 / x
        before, n = n, n * (x.numerator // x.denominator) + before
    return result


@TABLES
def test_integers_nearest_to_zeros_of_cosine_and_sine(dtype, factor):
    smallest = 1.0
    for frequency in rotary.inv_freq(128, base=10_000.0)[::3]:
        line = near_zeros(float(frequency), 2**63 - 1)
        positions = np.array([*line, *(-n for n in line), *(2 * n for n in line[:-2])])
        values = np.array([frequency])
        found = worst(positions, values, dtype, factor)
        assert found.ulp <= PROMISED[dtype, factor], found
        table = rotary.cos_sin(positions, values, dtype=dtype)
        smallest = min(smallest, *(np.abs(part).min() for part in table))
    assert 0 < smallest < 2.0**-60  # they are near zero


@TABLES
@pytest.mark.parametrize("shift", [1, 20, 31, 32, 33, 40, 52, 60])
def test_floats_nearest_to_zeros_of_cosine_and_sine(dtype, factor, shift):
    for frequency in (1.0, 0.8659643233600653, 3.0, 1234.5, 1e15, 4 * np.pi):
        line = near_zeros(frequency, 2**53, Fraction(1, 2**shift))
        positions = np.array([sign * float(n) * 2.0**-shift for n in line for sign in (1, -1)])
        found = worst(positions, np.array([frequency]), dtype, factor)
        assert found.ulp <= PROMISED[dtype, factor], found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_axes_add_their_angles_exactly(dtype):
    """The angles of two axes may cancel; the difference is as exact as any other angle."""
    rng = np.random.default_rng(5)
    pairs = 48
    values = np.stack([some_frequencies(rng, pairs) for _ in range(3)])
    values[1, ::3] = -values[0, ::3]  # these cancel but for the difference of positions
    positions = np.stack([some_integers(rng, 200) for _ in range(3)])
    positions[1] = positions[0] + rng.integers(-3, 4, 200)
    positions[2, ::2] = 0
    for places in (positions, positions * 0.37):
        rope = rotary.RotaryEmbedding(2 * pairs, layout="half", scaling=Custom(W=values))
        table = rope.tables(places, dtype=dtype)
        phase = sum(exact_phase(places[a, :, None], values[a]) for a in range(3)) % (1 << BITS)
        exact = exact_cos_sin(phase)
        for part, value in zip(table, exact, strict=True):
            assert ulp_errors(part, value).max() <= PROMISED[dtype, 1.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_known_values_of_cosine_and_sine(dtype):
    """Quarter turns are zero to the last bit only if the frequency is; 0 gives exactly 1 and 0."""
    table = rotary.cos_sin([0, 0.0, -0.0, 5e-324], EDGE_FREQUENCIES[:20], dtype=dtype)
    np.testing.assert_array_equal(table[0], 1)
    np.testing.assert_array_equal(table[1][:3], 0)
    still = rotary.cos_sin(EDGE_INTEGERS, [0.0, -0.0, 5e-324], dtype=dtype)
    np.testing.assert_array_equal(still[0], 1)
    assert np.abs(still[1]).max() < 2.0**-60
    cosine, sine = rotary.cos_sin([0.25, -0.25, 0.125], [4 * np.pi, 8 * np.pi], dtype=dtype)
    np.testing.assert_array_equal(cosine, [[-1, 1], [-1, 1], [cosine[2, 0], -1]])
    assert abs(cosine[2, 0]) < 1e-15
    np.testing.assert_allclose(sine, [[0, 0], [0, 0], [1, 0]], atol=1e-15)


def test_the_default_frequencies_of_unix_time():
    """Unix seconds, milliseconds and nanoseconds, as integers and floats."""
    inv_freq = rotary.inv_freq(128, base=10_000.0)
    seconds = 1_700_000_000 + np.arange(64) * 86_400
    for positions in (seconds, seconds * 1000, seconds * 10**9 + 7, seconds + 0.125, seconds + 0.1):
        for dtype in ("float32", "float64"):
            found = worst(positions, inv_freq, dtype)
            assert found.ulp <= PROMISED[dtype, 1.0], found


# ------------------------------------------------------------------------------------------------
# The bits of a row depend only on its position.

LANES = rotary.inv_freq(96, base=10_000.0)


def bits(table: Any) -> bytes:
    return b"".join(np.ascontiguousarray(part).tobytes() for part in table)


def alone(position: float, dtype: str, factor: float) -> bytes:
    """Return the bits of one row, computed without the cache."""
    positions = np.array([[position]])
    table = np.empty((2, 1, 1, LANES.size), dtype)
    backends.host().fill_table(frequencies(LANES[None, None]), positions, factor, table, 0)
    return bits(table)


@TABLES
def test_bits_do_not_depend_on_neighbours_or_the_cache(dtype, factor):
    places = [0, 1, 255, 256, 257, 1000, 4095, -1, -300, 2**40, -(2**63), 2**63 - 1]
    expected = {p: alone(p, dtype, factor) for p in places}

    def row(positions: Any, index: Any) -> bytes:
        table = rotary.cos_sin(positions, LANES, dtype=dtype, attention_factor=factor)
        return bits(part[index] for part in table)

    rng = np.random.default_rng(3)
    shuffled = rng.permutation(np.array(places))
    for p, true in expected.items():
        rotary.cache_clear()
        assert row(p, ()) == true  # a scalar
        assert row([p], 0) == true
        assert row([[p], [p]], (1, 0)) == true
        assert row([3, p, -(2**50)], 1) == true  # scattered
        assert row(shuffled, int(np.flatnonzero(shuffled == p)[0])) == true
        line = p + np.arange(-min(40, p + 2**63), min(700, 2**63 - p))
        at = int(np.flatnonzero(line == p)[0])
        assert row(line, at) == true  # a window, its growth, and a second one over it
        assert row(line[max(at - 3, 0) : at + 2], min(at, 3)) == true
        assert row(line[::-1], len(line) - 1 - at) == true


@TABLES
def test_bits_of_floats_are_those_of_equal_integers(dtype, factor):
    whole = [0, 1, -1, 2, 1000, 2**31, 2**32, 2**32 + 1, 2**52 + 1, -(2**53), 2**62, 3 * 2**60]
    whole.append(-(2**63))
    for p in whole[:-1]:
        assert alone(p, dtype, factor) == alone(float(p), dtype, factor)
        mixed = rotary.cos_sin([0.5, float(p), 3.25], LANES, dtype=dtype, attention_factor=factor)
        assert bits(part[1] for part in mixed) == alone(p, dtype, factor)
    for small in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64):
        table = rotary.cos_sin(np.array([7], small), LANES, dtype=dtype, attention_factor=factor)
        assert bits(table) == alone(7, dtype, factor)
    for small in (np.float16, np.float32, np.float64):
        value = np.array([7.375], small)
        table = rotary.cos_sin(value, LANES, dtype=dtype, attention_factor=factor)
        assert bits(table) == alone(7.375, dtype, factor)


@pytest.fixture
def plain_kernels(monkeypatch):
    """The formulas of the kernels without Numba, in the portable backend."""
    import importlib.util
    import sys

    monkeypatch.setitem(sys.modules, "numba", None)
    specification = importlib.util.spec_from_file_location("plain_kernels", kernels.__file__)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert not module.COMPILED
    monkeypatch.setattr(backends.cpu, "kernels", module)
    return module


@pytest.mark.compiled
@TABLES
def test_bits_are_the_same_without_numba(plain_kernels, dtype, factor):
    rng = np.random.default_rng(8)
    values = np.concatenate([some_frequencies(rng, 58), EDGE_FREQUENCIES]).reshape(2, 1, -1)
    for positions in (
        some_integers(rng, 1500),  # longer than the blocks of the portable backend
        some_floats(rng, 300),
        EDGE_INTEGERS,
        EDGE_FLOATS,
        np.zeros(0),
    ):
        tables = [np.zeros((2, 2, len(positions) + 5, values.shape[2]), dtype) for _ in range(2)]
        cpu.fill_table(frequencies(values), positions[None], factor, tables[0], 3)
        portable.fill_table(frequencies(values), positions[None], factor, tables[1], 3)
        assert tables[0].tobytes() == tables[1].tobytes()


@pytest.mark.compiled
def test_bits_of_several_axes_are_the_same_without_numba(plain_kernels):
    rng = np.random.default_rng(9)
    values = np.stack([some_frequencies(rng, 20).reshape(2, 10) for _ in range(3)], axis=1)
    for positions in (
        some_integers(rng, 300).reshape(3, 100),
        some_floats(rng, 300).reshape(3, 100),
    ):
        tables = [np.zeros((2, 2, 100, 10)) for _ in range(2)]
        cpu.fill_table(frequencies(values), positions, 1.5, tables[0], 0)
        portable.fill_table(frequencies(values), positions, 1.5, tables[1], 0)
        assert tables[0].tobytes() == tables[1].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_are_the_same_serial_and_parallel(dtype):
    positions = np.arange(-3000, 20_000)
    tables = []
    for threads in (1, 2, 3):
        rotary.cache_clear()
        with rotary.threads(threads):
            tables.append(bits(rotary.cos_sin(positions, LANES, dtype=dtype)))
            tables.append(bits(rotary.cos_sin(positions + 0.0, LANES, dtype=dtype)))
    assert len(set(tables)) == 1
