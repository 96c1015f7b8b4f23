"""Evenly spaced positions: exact, rounded once, of the dtype that the arguments say."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rotary
from rotary.positions import steps

floats = st.floats(-1e12, 1e12, allow_nan=False)
spacings = st.one_of(st.integers(-(2**40), 2**40), floats, st.fractions(-1000, 1000))


@given(st.integers(0, 9), spacings, spacings)
def test_every_position_is_exact_and_rounded_once(length, start, step):
    actual = steps(length, start, step)
    exact = [Fraction(start) + i * Fraction(step) for i in range(length)]
    integers = isinstance(start, int) and isinstance(step, int)
    assert actual.dtype == (np.int64 if integers else np.float64)
    assert actual.tolist() == [int(number) if integers else float(number) for number in exact]


def test_the_default_counts_from_zero():
    assert steps(4).tolist() == [0, 1, 2, 3]
    assert steps(4).dtype == np.int64
    assert steps(0).shape == steps(0, 0.5).shape == (0,)


def test_a_stream_continues_at_the_next_position():
    step = Fraction(1, 3)
    whole = steps(10**5, 10**9, step)
    part = steps(1000, 10**9 + 99_000 * step, step)
    np.testing.assert_array_equal(whole[99_000:], part)


@pytest.mark.parametrize(
    ("start", "step"),
    [(np.int32(3), np.uint8(2)), (np.float32(0.1), np.float64(0.5)), (0, np.float16(0.25))],
)
def test_numpy_scalars_have_their_exact_value(start, step):
    np.testing.assert_array_equal(
        steps(5, start, step), steps(5, start.item() if start else 0, step.item())
    )


@pytest.mark.parametrize("ends", [(-(2**63), 2**63 - 1), (2**63 - 1, -(2**63))])
def test_the_ends_of_int64(ends):
    first, last = ends
    assert steps(2, first, last - first).tolist() == [first, last]
    assert steps(1, first, 2**100).tolist() == [first]
    middle = (last - first) // 3
    assert steps(4, first, middle).tolist() == [first + i * middle for i in range(4)]


def test_fractional_positions_are_not_rounded_by_the_rotation():
    rope = rotary.RotaryEmbedding(8, layout="half", base=100.0)
    x = np.random.default_rng(0).standard_normal((5, 8))
    got = rope(x, positions=steps(5, step=Fraction(1, 4)))
    np.testing.assert_array_equal(got, rope(x, positions=np.arange(5) / 4))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1,), ValueError, "`length` must not be negative, got -1"),
        ((2.0,), TypeError, "`length` must be an integer, got 2.0"),
        ((2**60,), ValueError, r"`length` must be at most 2\*\*53 positions"),
        ((2, True), TypeError, "`start` must be a real number, got True"),
        ((2, "1"), TypeError, "`start` must be a real number, got '1'"),
        ((2, 0, 1j), TypeError, "`step` must be a real number, got 1j"),
        ((2, 0, np.timedelta64(1, "s")), TypeError, "`step` must be a real number"),
        ((2, float("nan")), ValueError, "`start` must be finite, got nan"),
        ((2, 2**63), ValueError, "`start` must keep positions within int64, got 9223372036854775808"),
        ((2, 2**63 - 1), ValueError, "`step` must keep positions within int64, got 92233720368547758"),
        ((0, 2.0**63), ValueError, r"`start` must keep positions below 2\*\*63 in magnitude"),
        ((3, 0.0, 2.0**62), ValueError, r"`step` must keep positions below 2\*\*63 in magnitude"),
        ((1, 2**63 - Fraction(1, 3)), ValueError, r"`start` must keep positions below 2\*\*63"),
    ],
)  # fmt: skip
def test_arguments_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        steps(*arguments)
