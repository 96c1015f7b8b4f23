"""Schedules are values: frequencies of the right bits, equality, hashing, pickling, errors."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from decimal import Decimal
from fractions import Fraction

import ml_dtypes
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rotary
from rotary.scaling import Custom, Default, Scaling

BASES = (10_000.0, 500_000.0, 1e6, 100.0, 2.0, 1.0, 0.5, 1e-3, 1e308, 5e-324, 1.0 + 2.0**-52)


def nearest_power(base: float, i: int, dim: int) -> float:
    """base ** (-2 i / dim), rounded once."""
    with mp.workprec(400):
        exact = mp.mpf(base) ** (mp.mpf(-2 * i) / dim)
        return float(exact)


# ------------------------------------------------------------------------------------------------
# Powers.


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dim", [2, 4, 6, 64, 80, 128])
def test_powers_are_correctly_rounded(base, dim):
    actual = rotary.inv_freq(dim, base=base)
    assert actual.dtype == np.float64
    assert actual.tolist() == [nearest_power(base, i, dim) for i in range(dim // 2)]


@settings(deadline=None)
@given(st.floats(1e-300, 1e300), st.integers(1, 30), st.data())
def test_powers_of_any_base(base, pairs, data):
    i = data.draw(st.integers(0, pairs - 1))
    assert rotary.inv_freq(2 * pairs, base=base)[i] == nearest_power(base, i, 2 * pairs)


def test_exact_powers_are_exact():
    assert rotary.inv_freq(8, base=16.0).tolist() == [1.0, 0.5, 0.25, 0.125]
    assert rotary.inv_freq(8, base=10_000.0).tolist() == [1.0, 0.1, 0.01, 0.001]
    assert rotary.inv_freq(6, base=1.0).tolist() == [1.0, 1.0, 1.0]


def test_inv_freq_differs_from_float_powers():
    """Frequencies do not come from the platform's power function, which is sometimes off by one bit."""
    exact = rotary.inv_freq(128, base=10_000.0)
    platform = 1.0 / 10_000.0 ** (np.arange(0, 128, 2) / 128)
    assert (exact != platform).any()
    np.testing.assert_allclose(exact, platform, rtol=1e-14)


def test_frequencies_cannot_be_made_writeable():
    for values in (
        rotary.inv_freq(8, base=10.0),
        Default().inv_freq(8, 10.0),
        Custom([1.0, 2.0]).inv_freq(4),
        pickle.loads(pickle.dumps(Custom([1.0, 2.0]))).inv_freq(4),
        rotary.RotaryEmbedding(8, layout="half", base=10.0).inv_freq,
    ):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 3.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            values.setflags(write=True)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((7, 10.0), ValueError, "`dim` must be even.*7"),
        ((0, 10.0), ValueError, "`dim` must be at least 1.*0"),
        ((-2, 10.0), ValueError, "`dim` must be at least 1.*-2"),
        ((8.0, 10.0), TypeError, "`dim` must be an integer.*8.0.*float"),
        ((True, 10.0), TypeError, "`dim` must be an integer.*True"),
        (("8", 10.0), TypeError, "`dim` must be an integer.*'8'"),
        ((None, 10.0), TypeError, "`dim` must be an integer.*None"),
        ((8, 0.0), ValueError, r"`base` must be positive.*0\.0"),
        ((8, -1), ValueError, "`base` must be positive.*-1"),
        ((8, float("inf")), ValueError, "`base` must be finite.*inf"),
        ((8, float("nan")), ValueError, "`base` must be finite.*nan"),
        ((8, 10**400), ValueError, "`base` must be finite"),
        ((8, "10000"), TypeError, "`base` must be a real number.*'10000'"),
        ((8, None), TypeError, "`base` must be a real number.*None"),
        ((8, True), TypeError, "`base` must be a real number.*True"),
        ((8, 1 + 2j), TypeError, "`base` must be a real number"),
        ((8, [1.0]), TypeError, "`base` must be a real number"),
    ],
)
def test_inv_freq_refuses_invalid_arguments(arguments, error, match):
    dim, base = arguments
    with pytest.raises(error, match=match):
        rotary.inv_freq(dim, base=base)


def test_base_has_no_default():
    with pytest.raises(TypeError, match="base"):
        rotary.inv_freq(8)


@pytest.mark.parametrize(
    "base", [10_000, np.int64(10_000), np.float32(10_000), Fraction(10_000), Decimal(10_000)]
)
def test_base_may_be_any_type_of_real_number(base):
    np.testing.assert_array_equal(rotary.inv_freq(8, base=base), rotary.inv_freq(8, base=10_000.0))


# ------------------------------------------------------------------------------------------------
# Default.


def test_default_is_the_schedule_of_inv_freq():
    schedule = Default()
    for length in (None, 5):
        values = schedule.inv_freq(128, 10_000.0, length)
        np.testing.assert_array_equal(values, rotary.inv_freq(128, base=10_000.0))
    assert schedule.attention_factor == 1.0
    assert schedule.softmax_factor == 1.0
    assert schedule.needs_base


def test_defaults_are_one_value():
    assert Default() == Default()
    assert hash(Default()) == hash(Default())
    assert Default() != Custom([1.0])
    assert repr(Default()) == "Default()"
    assert pickle.loads(pickle.dumps(Default())) == Default()


# ------------------------------------------------------------------------------------------------
# Custom.


def test_custom_returns_the_given_frequencies():
    schedule = Custom([1.0, 0.5, -0.25], attention_factor=1.5)
    assert schedule.inv_freq(6).tolist() == [1.0, 0.5, -0.25]
    assert schedule.inv_freq(6, 10.0, 100).tolist() == [1.0, 0.5, -0.25]
    assert schedule.attention_factor == 1.5
    assert schedule.softmax_factor == 1.0
    assert not schedule.needs_base
    assert Custom([1.0], 2.0).attention_factor == 2.0


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (4, 2, 3)])
def test_custom_keeps_the_shape_of_W(shape):
    W = np.arange(np.prod(shape), dtype=float).reshape(shape)
    np.testing.assert_array_equal(Custom(W=W).inv_freq(6), W)


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, -2],
        (0, 1, -2),
        range(3),
        np.array([1, 2, 3], np.int8),
        np.array([1, 2, 2**40], np.uint64),
        np.array([0.1, 0.2, 0.3], np.float16),
        np.array([0.1, 0.2, 0.3], np.float32),
        np.array([0.1, 0.2, 0.3], ml_dtypes.bfloat16),
        np.array([0.1, 0.2, 0.3], ">f8"),
        np.arange(6.0)[::2],
        [5e-324, 1.0, np.nextafter(2.0**63, 0.0)],
        [-np.nextafter(2.0**63, 0.0), -0.0, 0.0],
    ],
)
def test_custom_takes_real_numbers_exactly(values):
    actual = Custom(values).inv_freq(6)
    assert actual.dtype == np.float64
    assert actual.flags.c_contiguous
    assert actual.tolist() == [float(value) for value in values]


def test_custom_copies():
    values = np.array([1.0, 2.0])
    schedule = Custom(values)
    values[0] = 9.0
    assert schedule.inv_freq(4).tolist() == [1.0, 2.0]


def test_custom_is_frozen():
    schedule = Custom([1.0, 2.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.attention_factor = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.W = np.ones(2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del schedule.W
    with pytest.raises(ValueError, match="read-only"):
        schedule.W[0] = 0.0


def test_customs_are_equal_by_value():
    one = Custom([1.0, 2.0], attention_factor=1.5)
    assert one == Custom(np.array([1, 2]), 1.5)
    assert hash(one) == hash(Custom(np.array([1, 2]), 1.5))
    others = [
        Custom([2.0, 1.0], 1.5),
        Custom([1.5, 1.5], 1.5),
        Custom([1.0, 2.0]),
        Custom([1.0, np.nextafter(2.0, 3.0)], 1.5),
        Custom(W=[[1.0, 2.0]], attention_factor=1.5),
        Custom(W=[[1.0], [2.0]], attention_factor=1.5),
        Default(),
        "Custom",
    ]
    for other in others:
        assert one != other
        assert not one == other  # noqa: SIM201  (both operators are asked)
    assert len({one, *others}) == len(others) + 1


@pytest.mark.parametrize(
    "copied",
    [
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: pickle.loads(pickle.dumps(x, protocol=5)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=["pickle", "pickle 5", "copy", "deepcopy"],
)
def test_copies_of_customs_are_equal_and_read_only(copied):
    schedule = Custom([1.0, -0.25], attention_factor=2.0)
    again = copied(schedule)
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again.attention_factor == 2.0
    with pytest.raises(ValueError, match="read-only"):
        again.W[0] = 5.0
    rope = rotary.RotaryEmbedding(4, layout="half", scaling=schedule)
    copied_rope = copied(rope)
    assert copied_rope == rope
    assert hash(copied_rope) == hash(rope)
    with pytest.raises(ValueError, match="read-only"):
        copied_rope.scaling.W[0] = 5.0


@pytest.mark.parametrize(
    "schedule",
    [
        Custom([1.0, 0.5], 2.0),
        Custom([1 / 3, -0.0, 5e-324, 1e18]),
        Custom(W=[[1.0]]),
        Custom(W=np.ones((2, 1, 3)), attention_factor=0.1),
        Custom(np.arange(2000.0) / 7),
    ],
    ids=["two", "odd", "W", "heads", "long"],
)
def test_repr_is_exact(schedule):
    assert eval(repr(schedule)) == schedule
    assert repr(schedule).startswith("Custom(inv_freq=[" if schedule.W.ndim == 1 else "Custom(W=[[")


def test_custom_can_be_replaced():
    schedule = dataclasses.replace(Custom([1.0, 2.0]), attention_factor=2.0)
    assert schedule == Custom([1.0, 2.0], 2.0)
    heads = Custom(W=np.ones((2, 1, 3)))
    assert dataclasses.replace(heads, attention_factor=3.0) == Custom(
        W=heads.W, attention_factor=3.0
    )


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({}, ValueError, "`inv_freq` or `W`.*neither"),
        ({"inv_freq": [1.0], "W": [[1.0]]}, ValueError, "`inv_freq` or `W`.*both"),
        ({"inv_freq": [[1.0]]}, ValueError, r"`inv_freq` must have shape \(dim/2,\).*\(1, 1\)"),
        ({"inv_freq": 1.0}, ValueError, r"`inv_freq` must have shape \(dim/2,\).*\(\)"),
        ({"inv_freq": []}, ValueError, r"`inv_freq` must have shape.*\(0,\)"),
        ({"W": 1.0}, ValueError, r"`W` must have shape.*\(\)"),
        ({"W": np.ones((1, 1, 1, 1))}, ValueError, r"`W` must have shape.*\(1, 1, 1, 1\)"),
        ({"W": np.ones((0, 3))}, ValueError, r"`W` must have shape.*\(0, 3\)"),
        ({"inv_freq": [1.0, float("nan")]}, ValueError, "`inv_freq` must be finite.*nan"),
        ({"inv_freq": [float("-inf")]}, ValueError, "`inv_freq` must be finite.*inf"),
        ({"inv_freq": [2.0**63]}, ValueError, r"`inv_freq` must be .*below 2\*\*63"),
        ({"W": [[-(2.0**63)]]}, ValueError, r"`W` must be .*below 2\*\*63"),
        ({"inv_freq": [True]}, TypeError, "`inv_freq` must hold real numbers.*bool"),
        ({"inv_freq": [1j]}, TypeError, "`inv_freq` must hold real numbers.*complex"),
        ({"inv_freq": ["1"]}, TypeError, "`inv_freq` must hold real numbers"),
        ({"inv_freq": [None]}, TypeError, "`inv_freq` must hold real numbers.*object"),
        ({"inv_freq": np.array([1], "m8[s]")}, TypeError, "`inv_freq` must hold real numbers"),
        ({"inv_freq": [1.0], "attention_factor": 0}, ValueError, "`attention_factor` must be pos"),
        ({"inv_freq": [1.0], "attention_factor": -1.0}, ValueError, "`attention_factor`.*-1"),
        ({"inv_freq": [1.0], "attention_factor": np.inf}, ValueError, "`attention_factor`.*inf"),
        ({"inv_freq": [1.0], "attention_factor": "1"}, TypeError, "`attention_factor`.*'1'"),
        ({"inv_freq": [1.0], "attention_factor": None}, TypeError, "`attention_factor`.*None"),
        ({"inv_freq": [1.0], "attention_factor": True}, TypeError, "`attention_factor`.*True"),
        ({"inv_freq": [[1.0], [1.0, 2.0]]}, ValueError, "`inv_freq`"),
        (
            {"inv_freq": np.ma.masked_array([1.0, 2.0], [False, True])},
            TypeError,
            "`inv_freq` must.*MaskedArray",
        ),
        ({"W": np.ones((1, 2)).view(np.matrix)}, TypeError, "`W` must.*matrix"),
    ],
)
def test_custom_refuses_invalid_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        Custom(**arguments)


@pytest.mark.parametrize("dim", [2, 5, 8, 0])
def test_custom_of_another_width_is_refused(dim):
    with pytest.raises(ValueError, match=rf"`inv_freq` .*{dim} rotated channels.*\(3,\)"):
        Custom([1.0, 2.0, 3.0]).inv_freq(dim)
    with pytest.raises(ValueError, match=r"`W` .*\(1, 3\)"):
        Custom(W=[[1.0, 2.0, 3.0]]).inv_freq(dim)


def test_an_embedding_refuses_frequencies_of_another_width():
    with pytest.raises(ValueError, match="`inv_freq` of Custom must have 4 frequencies"):
        rotary.RotaryEmbedding(8, layout="half", scaling=Custom([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("schedule", [Default(), Custom([1.0]), Custom(W=[[1.0]])])
def test_schedules_are_frozen_dataclasses(schedule):
    assert isinstance(schedule, Scaling)
    assert dataclasses.is_dataclass(schedule)


@pytest.mark.parametrize("other", [Default, Custom, "default", 2.0, object(), [1.0]])
def test_an_embedding_refuses_objects_that_are_not_schedules(other):
    with pytest.raises(TypeError, match=r"`scaling` must be one of rotary\.scaling"):
        rotary.RotaryEmbedding(8, layout="half", base=10.0, scaling=other)


def test_users_can_define_a_schedule():
    """A subclass needs frequencies and a factor; the rest follows."""

    @dataclasses.dataclass(frozen=True)
    class Halved(Scaling):
        attention_factor: float = 1.0

        def inv_freq(self, dim, base, context_length=None):
            return rotary.inv_freq(dim, base=base) / 2

    rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0, scaling=Halved())
    plain = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
    for part, other in zip(rope.tables([2, 4]), plain.tables([1, 2]), strict=True):
        np.testing.assert_array_equal(part, other)
    assert rope.softmax_factor == 1.0
    assert "Halved" in rope.explain()
    assert rope != plain
    assert rope == dataclasses.replace(plain, scaling=Halved())
    with pytest.raises(TypeError, match="`base` must be given"):
        rotary.RotaryEmbedding(8, layout="half", scaling=Halved())


def test_a_schedule_without_frequencies_cannot_be_made():
    class Nothing(Scaling):
        attention_factor = 1.0

    with pytest.raises(TypeError, match="inv_freq"):
        Nothing()


@pytest.mark.parametrize("base", [1e-300, 5e-324])
def test_bases_with_too_large_frequencies_are_refused(base):
    with pytest.raises(ValueError, match=r"`base` .*below 2\*\*63 radians per position"):
        rotary.RotaryEmbedding(8, layout="half", base=base)


def test_a_schedule_whose_frequencies_are_too_large_is_refused():
    class Steep(Default):
        needs_base = False

        def inv_freq(self, dim, base=None, context_length=None):
            return np.full(dim // 2, 1e30)

    with pytest.raises(ValueError, match="inverse frequencies must be below"):
        rotary.RotaryEmbedding(8, layout="half", scaling=Steep())


def test_an_embedding_with_zero_frequencies_has_an_explanation():
    still = rotary.RotaryEmbedding(4, layout="half", scaling=Custom([0.0, 0.0]))
    assert "all zero" in still.explain()
