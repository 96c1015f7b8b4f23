"""Frequencies as exact fractions of a turn, and positions as exact integer multipliers."""

from __future__ import annotations

import pickle
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotary.angles import phases
from rotary.backends.cpu import kernels

WORD = 1 << 64
TURN = 1 << phases.FRACTION_BITS
LARGEST = float(np.nextafter(2.0**63, 0.0))
FREQUENCIES = st.floats(-LARGEST, LARGEST)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(-LARGEST, LARGEST)


def exact_turns(frequency: float) -> mp.mpf:
    return abs(mp.mpf(frequency)) / (2 * mp.pi) * TURN


def test_pi_is_pi():
    with mp.workprec(1000):
        assert int(mp.nint(mp.ldexp(mp.pi, phases.PI_BITS))) == phases.PI
    # Enough digits for all of 256 bits.
    assert phases.PI_BITS >= phases.FRACTION_BITS + 2 * 64 + 64


@pytest.mark.parametrize(
    "frequency",
    [
        *(
            0.0,
            -0.0,
            1.0,
            -1.0,
            2 * np.pi,
            4 * np.pi,
            -100.0,
            0.1,
            1e-4,
            3.0**39,
            LARGEST,
            -LARGEST,
        ),
        *(
            5e-324,
            2.2e-308,
            2.0**-192,
            2.0**-190,
            2.0**-189,
            1e-57,
            2.0**62,
            np.nextafter(1.0, 2.0),
        ),
    ],
)
def test_turns_are_the_nearest_fraction(frequency):
    with mp.workprec(1200):
        assert abs(phases.turns_per_position(frequency) - exact_turns(frequency)) <= mp.mpf(1) / 2
    assert 0 <= phases.turns_per_position(frequency) < WORD * TURN


@given(FREQUENCIES)
def test_turns_of_any_frequency(frequency):
    with mp.workprec(1200):
        assert phases.turns_per_position(frequency) == int(mp.nint(exact_turns(frequency)))
    assert phases.turns_per_position(-frequency) == phases.turns_per_position(frequency)


def test_turns_have_64_integer_bits():
    """A fractional position shifts integer bits into the fraction."""
    whole = 2**63 * 10**40 // 62831853071795864769252867665590057683943
    assert phases.turns_per_position(2.0**63) >> phases.FRACTION_BITS == whole
    assert abs(phases.turns_per_position(4 * np.pi) - 2 * TURN) < TURN >> 50


def test_limbs_of_frequencies_are_their_turns():
    values = np.array([[[1.0, -0.5, 1e18], [0.0, -0.0, 5e-324]]])
    made = phases.Frequencies(values)
    assert (made.heads, made.axes, made.pairs) == (1, 2, 3)
    assert made.limbs.shape == (1, 2, phases.LIMBS, 3)
    assert made.limbs.dtype == np.uint32
    assert made.negative.tolist() == [[[0, 1, 0], [0, 1, 0]]]
    assert made.negative.dtype == np.uint64
    for axis, pair in np.ndindex(2, 3):
        limbs = made.limbs[0, axis, :, pair].tolist()
        number = sum(limb << (32 * i) for i, limb in enumerate(limbs))
        assert number == phases.turns_per_position(values[0, axis, pair]) << (
            32 * phases.LIMBS_BELOW
        )


def test_limbs_leave_room_for_every_shift():
    """The multiplication reads eight limbs from the shift on, for every shift."""
    assert phases.LARGEST_SHIFT + 8 <= phases.LIMBS


def test_frequencies_keep_a_read_only_copy():
    values = np.ones((1, 1, 4))
    made = phases.Frequencies(values)
    values[...] = 2.0
    assert made.values.tolist() == [[[1.0] * 4]]
    with pytest.raises(ValueError, match="read-only"):
        made.values[0, 0, 0] = 3.0


def test_keys_are_equal_for_equal_frequencies_only():
    base = np.arange(1.0, 7.0)
    same = phases.Frequencies(base.reshape(1, 2, 3)).key
    assert phases.Frequencies(base.reshape(1, 2, 3).copy()).key == same
    hash(same)
    others = [
        base.reshape(2, 1, 3),
        base.reshape(1, 1, 6),
        base.reshape(1, 3, 2),
        base[::-1].reshape(1, 2, 3),  # the same numbers, the same sum
        np.nextafter(base, 10.0).reshape(1, 2, 3),
        -base.reshape(1, 2, 3),
    ]
    keys = {phases.Frequencies(other).key for other in others}
    assert len(keys) == len(others)
    assert same not in keys


def test_equal_frequencies_are_one_object():
    values = np.array([[[1.0, 0.25, -3.0]]])
    first = phases.frequencies(values)
    assert phases.frequencies(values.copy()) is first
    spread = np.zeros((1, 1, 6))
    spread[..., ::2] = values
    assert phases.frequencies(spread[..., ::2]) is first
    assert phases.frequencies(values[..., ::-1]) is not first
    np.testing.assert_array_equal(phases.frequencies(values[..., ::-1]).values, values[..., ::-1])


def test_frequencies_can_be_pickled():
    made = phases.frequencies(np.array([[[1.0, -0.25]]]))
    again = pickle.loads(pickle.dumps(made))
    assert again.key == made.key
    np.testing.assert_array_equal(again.limbs, made.limbs)


# ------------------------------------------------------------------------------------------------
# Multipliers.


def value_of(numbers: phases.Multipliers, index: tuple[int, ...]) -> Fraction:
    """Return the position that multipliers represent."""
    digits = [int(digit) for digit in numbers.digits[index]]
    assert all(0 <= digit < 2**32 for digit in digits)
    size = Fraction(sum(digit << (32 * i) for i, digit in enumerate(digits)))
    sign = -1 if numbers.negative[index] else 1
    return sign * size / 2 ** (32 * int(numbers.shift[index]))


def check_multipliers(positions: np.ndarray) -> phases.Multipliers:
    numbers = phases.multipliers(positions)
    assert numbers.digits.dtype == np.uint64
    assert numbers.shift.dtype == np.int64
    assert numbers.negative.dtype == np.uint64
    assert numbers.digits.shape == (*positions.shape, 3)
    assert ((numbers.shift >= 0) & (numbers.shift <= phases.LARGEST_SHIFT)).all()
    for index in np.ndindex(positions.shape):
        found = value_of(numbers, index)
        true = Fraction(positions[index].item())
        if int(numbers.shift[index]) < phases.LARGEST_SHIFT:
            assert found == true
        else:
            # Its product with any frequency is zero in the 128 bits that count.
            assert max(abs(true), abs(found)) * 2**64 < Fraction(1, 2**160)
    return numbers


@given(st.lists(INTEGERS, min_size=1, max_size=8))
def test_multipliers_of_integers_are_the_integers(values):
    numbers = check_multipliers(np.array([values], np.int64))
    assert not numbers.shift.any()
    assert not numbers.digits[..., 2].any()


@given(st.lists(FLOATS, min_size=1, max_size=8))
def test_floats_are_exact_multipliers(values):
    check_multipliers(np.array([values]))


@pytest.mark.parametrize("exponent", [*range(-260, 63, 7), -1074, -1022, 0, 1, 31, 32, 52, 53])
def test_floats_of_every_exponent(exponent):
    ones = np.array([1.0, 1.0 + 2.0**-52, 2.0 - 2.0**-52, 1.0 + 2.0**-20])
    line = np.ldexp(ones, exponent)
    check_multipliers(np.stack([line, -line]))


@given(INTEGERS)
def test_whole_floats_have_the_multipliers_of_integers(value):
    whole = float(value)
    if not abs(whole) < 2.0**63:
        whole = LARGEST
    from_float = phases.multipliers(np.array([[whole]]))
    from_integer = phases.multipliers(np.array([[int(whole)]], np.int64))
    for one, other in zip(from_float, from_integer, strict=True):
        np.testing.assert_array_equal(one, other)


def test_extremes_of_int64():
    numbers = check_multipliers(np.array([[-(2**63), 2**63 - 1, -1, 0]], np.int64))
    assert numbers.negative.tolist() == [[1, 0, 1, 0]]
    assert numbers.digits[0, 0].tolist() == [0, 2**31, 0]


def test_several_axes_and_no_positions():
    check_multipliers(np.arange(-3, 3, dtype=np.int64).reshape(3, 2))
    assert phases.multipliers(np.zeros((2, 0))).digits.shape == (2, 0, 3)


def test_multipliers_do_not_modify_positions():
    for positions in (np.array([[-5, 3]]), np.array([[-5.5, 3.25]])):
        before = positions.copy()
        phases.multipliers(positions)
        np.testing.assert_array_equal(positions, before)
        positions.setflags(write=False)
        phases.multipliers(positions)


# ------------------------------------------------------------------------------------------------
# Their product, as in the kernels.


def product(position: float, frequency: float) -> int:
    """Return the 128-bit fraction of a turn of the kernels, without its sign."""
    made = phases.Frequencies(np.array([[[frequency]]]))
    kind = np.int64 if isinstance(position, int) else np.float64
    numbers = phases.multipliers(np.array([[position]], kind))
    shift = int(numbers.shift[0, 0])
    limbs = made.limbs[0, 0, shift : shift + 8, 0].astype(np.uint64)
    high, low = kernels.turn(numbers.digits[0, 0], limbs)
    return (int(high) << 64) | int(low)


@given(INTEGERS, FREQUENCIES)
def test_products_with_integers_are_exact_modulo_one_turn(position, frequency):
    exact = abs(position) * phases.turns_per_position(frequency) % TURN
    assert product(position, frequency) == exact >> 64


@given(FLOATS, FREQUENCIES)
def test_products_with_floats_are_truncated_once(position, frequency):
    numerator, denominator = abs(position).as_integer_ratio()
    exact = Fraction(numerator * phases.turns_per_position(frequency), denominator) % TURN / 2**64
    error = (exact - product(position, frequency)) % 2**128
    # Truncated after 128 bits; before, the parts of the product that are wholly below 2**-192 are dropped.
    assert 0 <= error < 1 + Fraction(1, 2**29)


@given(*[st.integers(0, 2**128 - 1)] * 2, st.booleans())
def test_phases_add_with_their_sign(phase, more, negative):
    words = [np.uint64(word) for x in (phase, more) for word in divmod(x, WORD)]
    with np.errstate(over="ignore"):
        high, low = kernels.add_signed(*words, np.uint64(negative))
    assert ((int(high) << 64) | int(low)) == (phase + (-more if negative else more)) % 2**128
