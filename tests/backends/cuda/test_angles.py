"""How exact the kernel's own cosines and sines are, against mpmath and against Python's integers."""

from __future__ import annotations

import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from launching import kernels

from rotary.angles.phases import PI, PI_BITS, frequencies
from rotary.backends.cuda import parameters as cuda_struct

pytestmark = pytest.mark.cuda

BITS = {"float32": 24, "float64": 53}
# What roundings cost, in units in the last place, and what the phase's own error costs at frequencies up to 10.
BOUND = 0.6
# Of some 2**-32 of a turn one float is nearly all there is.
TINY, BOUND_OF_TINY = 2.0**-27, 2.0
ABSOLUTE = {"integers": 2.0**-61, "floats": 2.0**-58.5}
EXTREMES = [2**63 - 1, -(2**63), -(2**63) + 1, 2**63 - 2**9, 2**62, 2**53 + 1, 1, 0, -1]


def words(frequency):
    return cuda_struct.frequency_words(frequencies(np.array([[[frequency]]])))[0, 0]


def random_frequencies(count, seed):
    rng = random.Random(seed)
    return [rng.choice([-1, 1]) * 10 ** rng.uniform(-7, 1) for _ in range(count)]


def random_integers(count, seed):
    rng = random.Random(seed)
    return EXTREMES + [rng.randint(-(2**63), 2**63 - 1) >> rng.randint(0, 62) for _ in range(count)]


def random_floats(count, seed):
    rng = random.Random(seed)
    edges = [0.0, -0.5, 2.0**-40, 1e-300, 1 - 2.0**-53, np.nextafter(2.0**63, 0), -(2.0**62)]
    return edges + [rng.uniform(-1, 1) * 2.0 ** rng.randint(-30, 63) for _ in range(count)]


@pytest.mark.parametrize("factor", [1.0, 1.2689, 0.1])
@pytest.mark.parametrize("trig", ["integers", "floats"])
@pytest.mark.parametrize("dtype", BITS)
def test_cosine_and_sine_are_nearly_correctly_rounded(dtype, trig, factor):
    integers = trig == "integers"
    positions = (random_integers if integers else random_floats)(120, 1)
    given = np.array(positions, np.int64 if integers else np.float64)
    worst = of_tiny = 0.0
    for frequency in random_frequencies(25, 2):
        found = kernels().angles(given, words(frequency), factor, dtype)
        with mpmath.workdps(80):
            for position, *pair in zip(given.tolist(), *found.tolist(), strict=True):
                angle = mpmath.mpf(position) * mpmath.mpf(frequency)
                for got, exact in zip(pair, mpmath.cos_sin(angle), strict=True):
                    wanted = exact * mpmath.mpf(factor)
                    ulp = mpmath.ldexp(1, mpmath.frexp(wanted)[1] - BITS[dtype])
                    error = float((abs(got - wanted) - ABSOLUTE[trig]) / ulp)
                    if abs(exact) >= TINY:
                        worst = max(worst, error)
                    else:
                        of_tiny = max(of_tiny, error)
    assert 0.3 < worst < BOUND
    assert of_tiny < BOUND_OF_TINY


def test_turns_are_rounded_to_the_nearest():
    for frequency in [*random_frequencies(200, 3), 1.0, -1.0, 2.0**62, -(2.0**62), 5e-324, 0.0]:
        whole, high, low = words(frequency)[:, 0].tolist()
        number = whole << 128 | high << 64 | low
        if number >> 191:
            number -= 1 << 192
        exact = Fraction(frequency) * (1 << PI_BITS) / (2 * PI) * (1 << 128)
        # Rounded twice: first to 2**-192 of a turn.
        assert abs(number - exact) <= Fraction(1, 2) + Fraction(1, 2**60), frequency


@pytest.mark.parametrize("dtype", BITS)
def test_phases_of_integers_are_exact_products(dtype):
    """Where a frequency is a whole number of 2**-128 turns there is nothing left to round."""
    for position in random_integers(200, 4):
        for turns in (1 << 127, (1 << 126) + (1 << 64), 3 << 61, (1 << 128) // 3):
            given = np.array([0, turns >> 64, turns % 2**64], np.uint64)
            cosine, sine = kernels().angles(np.array([position]), given, 1.0, dtype)[:, 0]
            with mpmath.workdps(60):
                phase = mpmath.mpf(position * turns % 2**128) / 2**128
                for got, exact in (
                    (cosine, mpmath.cospi(2 * phase)),
                    (sine, mpmath.sinpi(2 * phase)),
                ):
                    assert abs(got - exact) <= BOUND * 2.0 ** -BITS[dtype]


def test_the_constants_are_those_that_are_derived():
    """Rounding `sixth` to a positive number turns the sign of the first coefficient."""
    program = Path(__file__).parents[3] / "docs" / "derivations" / "cuda.py"
    done = subprocess.run([sys.executable, program], capture_output=True, check=True, text=True)
    constants = [word.lstrip("-") for line in done.stdout.splitlines() for word in line.split()[2:]]
    assert len(constants) == 23
    for constant in constants:
        assert constant in cuda_struct.source()


@pytest.mark.parametrize("dtype", BITS)
def test_angles_are_even_and_odd(dtype):
    positions = np.array(random_integers(500, 5)[3:], np.int64)
    # The last one is so slow that its phase counts single units.
    for frequency in [*random_frequencies(5, 6), 1e-17]:
        there = kernels().angles(positions, words(frequency), 1.0, dtype)
        back = kernels().angles(-positions, words(frequency), 1.0, dtype)
        np.testing.assert_array_equal(back, there * [[1.0], [-1.0]])


@pytest.mark.parametrize("dtype", BITS)
def test_a_whole_number_turns_alike_as_an_integer_and_as_a_float(dtype):
    positions = np.array(random_integers(500, 7), np.int64) >> 11
    for frequency in random_frequencies(5, 8):
        integers = kernels().angles(positions, words(frequency), 1.0, dtype)
        floats = kernels().angles(positions.astype(np.float64), words(frequency), 1.0, dtype)
        np.testing.assert_array_equal(integers, floats)


def test_half_the_position_at_twice_the_frequency_turns_alike():
    """To the last bit of a phase, whose fractions are carried."""
    rng = random.Random(9)
    positions = np.array([rng.randint(-(2**50), 2**50) | 1 for _ in range(500)])
    for _ in range(5):
        turns = rng.getrandbits(190)
        one, two = (
            np.array([number >> 128, number >> 64 & 2**64 - 1, number & 2**64 - 1], np.uint64)
            for number in (turns, 2 * turns)
        )
        integers = kernels().angles(positions, one, 1.0, "float64")
        floats = kernels().angles(positions / 2, two, 1.0, "float64")
        np.testing.assert_array_equal(integers, floats)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_position_zero_is_exact(dtype, factor):
    for kind in (np.int64, np.float64):
        found = kernels().angles(np.zeros(1, kind), words(1.0), factor, dtype)
        assert found.tolist() == [[factor], [0.0]]
