"""Numbers in arguments: exact in lists, and refused with a unit, a gradient or too few digits, at every call."""

from __future__ import annotations

import collections
import datetime as dt
import importlib
import warnings
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from helpers import modules, random_array, rotate_exactly, same_bits
from hypothesis import given
from hypothesis import strategies as st

import rotary
from rotary import RotaryEmbedding
from rotary._lib.numbers import as_positions
from rotary.positions import Clock, ragged, timestamps

NANOSECONDS = 1_700_000_000_000_000_001  # of unix time; not exact in float64
BEYOND = 2**53 + 1
METHODS = ("__call__", "inverse", "vjp", "shift")


def embedding(width=8, **options):
    return RotaryEmbedding(
        width, **({"layout": "half", "base": 10_000.0, "seq_axis": -2} | options)
    )


# ------------------------------------------------------------------------------------------------
# Lists.

INEXACT = {
    "int64 and float": [np.int64(NANOSECONDS), 0.5],
    "float and int64": [0.5, np.int64(NANOSECONDS)],
    "int and float": [BEYOND, 0.5],
    "uint64 and float": [np.uint64(BEYOND), 0.5],
    "a tuple": (np.int64(BEYOND), 0.5),
    "array of no axes": [np.array(BEYOND), 0.5],
    "rows": [[np.int64(BEYOND), 1], [0.5, 2]],
    "tuples in a list": [(0.5, 1), (2, np.int64(BEYOND))],
    "arrays in a list": [np.array([BEYOND, 1]), np.array([0.5, 2.0])],
    "a deque": collections.deque([np.int64(BEYOND), 0.5]),
    "negative": [-np.int64(BEYOND), 0.5],
}


@pytest.mark.parametrize("value", INEXACT.values(), ids=INEXACT)
def test_lists_beyond_every_dtype_are_refused(value):
    rope = embedding()
    for name, call in {
        "positions": lambda: rope.tables(value),
        "offset": lambda: rope(np.ones((2, 1, 1, 8)), offset=value),
        "delta": lambda: rope.shift(np.ones((2, 1, 1, 8)), value),
    }.items():
        with pytest.raises(
            ValueError, match=f"`{name}` must be exact in float64, got a value that float64"
        ):
            call()
    with pytest.raises(ValueError, match="`times` must be exact in float64"):
        timestamps(value, unit="s", origin=0)


def test_offsets_of_packed_sequences_are_exact_or_refused():
    with pytest.raises(ValueError, match="`offset` must be exact in float64"):
        ragged([0, 1, 2], offset=[np.int64(BEYOND), 0.5])
    assert ragged([0, 1, 2], offset=[np.uint64(BEYOND), -1]).tolist() == [BEYOND, -1]


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ([np.uint64(BEYOND), -1], [BEYOND, -1]),
        ([np.uint64(2**63 - 1), np.int8(-1)], [2**63 - 1, -1]),
        ([[np.int64(BEYOND)], [np.uint8(3)]], [[BEYOND], [3]]),
        ([np.float32(0.5), np.int64(2**53)], [0.5, 2.0**53]),
        ([ml_dtypes.bfloat16(1.5), 2], [1.5, 2.0]),
        ([np.arange(2), (3, np.int64(4))], [[0, 1], [3, 4]]),
        (collections.deque([1, np.uint64(BEYOND)]), [1, BEYOND]),
    ],
)
def test_lists_of_mixed_types_are_exact(value, want):
    found = as_positions(value)
    assert found.dtype == (np.float64 if isinstance(np.ravel(want)[0].item(), float) else np.int64)
    assert found.tolist() == want


scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.integers(0, 2**63 - 1).map(np.uint64),
    st.integers(-128, 127).map(np.int8),
    st.integers(-(2**63), 2**63 - 1).map(np.array),
    st.floats(-(2.0**62), 2.0**62),
    st.floats(-(2.0**62), 2.0**62).map(np.float64),
    st.floats(-(2.0**62), 2.0**62, width=32).map(np.float32),
)


@given(st.lists(scalars, min_size=1, max_size=4))
def test_any_list_is_exact_or_refused(values):
    exact = [Fraction(value.item() if hasattr(value, "item") else value) for value in values]
    try:
        found = as_positions(values)
    except ValueError:
        assert any(isinstance(np.asarray(value).item(), float) for value in values)
        assert any(Fraction(float(value)) != value for value in exact)
    else:
        assert list(map(Fraction, found.tolist())) == exact


@pytest.mark.parametrize("name", modules("torch", "jax.numpy", "mlx.core"))
def test_scalars_of_other_libraries_in_lists(name):
    xp = importlib.import_module(name)
    own = {"torch": "tensor", "jax.numpy": "asarray", "mlx.core": "array"}[name]
    number = getattr(xp, own)(3)
    assert as_positions([number, 0.5]).tolist() == [3.0, 0.5]
    assert as_positions([[number], [4]]).tolist() == [[3], [4]]


@pytest.mark.library("torch")
def test_tensors_in_lists_are_exact_or_refused():
    import torch

    with pytest.raises(ValueError, match="`positions` must be exact in float64"):
        as_positions([torch.tensor(BEYOND), 0.5])
    with pytest.raises(TypeError, match="`positions` must be known on the host"):
        as_positions([torch.tensor(1.0, requires_grad=True), 2])


def test_a_list_that_contains_itself_is_refused():
    value = []
    value.append(value)
    for call in (
        as_positions,
        lambda it: rotary.cos_sin(0, it),
        lambda it: timestamps(it, unit="s", origin=0),
    ):
        with pytest.raises((TypeError, ValueError), match="nested more than 64 levels deep"):
            call(value)


@pytest.mark.parametrize("digits", [40, 400, 5000])
def test_huge_integers_are_refused_with_a_short_message(digits):
    size = 10**digits
    for call, name in (
        (lambda: as_positions([size, 0.5]), "positions"),
        (lambda: embedding()(np.ones((1, 8)), offset=-size), "offset"),
        (lambda: embedding(base=size**10), "base"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must") as caught:
            call()
        assert len(str(caught.value)) < 300


# ------------------------------------------------------------------------------------------------
# Values that are not numbers, in the first call and with a plan.


class Metres(np.ndarray):
    """An array with a unit, as those of astropy. NumPy functions drop the unit silently."""

    unit = "m"


def quantity(value):
    return np.asarray(value).view(Metres)


NOT_NUMBERS = {
    "a boolean": True,
    "NumPy's boolean": np.True_,
    "a boolean array": np.array([True]),
    "a boolean in a list": [True],
    "ns": np.timedelta64(5, "ns"),
    "s": np.timedelta64(5, "s"),
    "Y": np.timedelta64(5, "Y"),
    "no unit of time": np.array(5).astype("m8")[()],
    "ns in an array": np.array([5], "m8[ns]"),
    "ns in a list": [np.timedelta64(5, "ns")],
    "a date": np.datetime64("2024-01-01"),
    "Python's duration": dt.timedelta(5),
    "objects": np.array([5], object),
    "objects of NumPy's": np.array([np.int64(5), None], object)[:1],
    "a unit": quantity(5),
    "a unit in an array": quantity([5]),
    "a unit in a list": [quantity(5)],
    "text": "5",
    "complex": np.complex64(5),
    "a mask": np.ma.array([5]),
    "too coarse": np.float16(2048.0),
    "too coarse in an array": np.array([256], ml_dtypes.bfloat16),
    "beyond": np.uint64(2**63),
    "nan": np.nan,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_other_values_than_numbers_are_refused_at_every_call(method, bad):
    rope = embedding()
    x = random_array((1, 2, 1, 8))
    before = x.copy()
    names = ("delta",) if method == "shift" else ("offset", "positions")
    for _ in range(2):
        for name in names:
            for out in ({}, {"out": x}):
                with pytest.raises((TypeError, ValueError), match=f"`{name}` must"):
                    getattr(rope, method)(x, **{name: bad}, **out)
                assert same_bits(x, before)
        # Makes plans for the same arrays with numbers of all kinds.
        for value in (5, np.int64(5), np.array([5])):
            for name in names:
                if name == "offset" or np.ndim(value):
                    getattr(rope, method)(x, **{name: value})
            getattr(rope, method)(x.copy(), **{names[0]: value}, out=np.empty_like(x))


@pytest.mark.parametrize("unit", ["ns", "s"])
def test_durations_are_refused_by_name(unit):
    for call in (
        lambda value: embedding()(np.ones((1, 8)), offset=value),
        lambda value: embedding(base=value),
        lambda value: rotary.cos_sin(0, [1.0], attention_factor=value),
    ):
        with pytest.raises(
            TypeError, match=r"(timestamps converts times|got np.timedelta64\(5,'n?s'\))"
        ):
            call(np.timedelta64(5, unit))


COMPILED = {
    "a unit": (np.arange(3).view(Metres), TypeError, "numbers without a unit"),
    "a mask": (np.ma.array([0, 1, 2]), TypeError, "a plain array"),
    "rounded": ([BEYOND, 0.5, 1], ValueError, "exact in float64"),
    "beyond": ([2**64, 1, 2], ValueError, "keep positions within int64"),
    "booleans": ([True, 1, 2], TypeError, "integers or floats"),
    "durations": (np.arange(3).astype("m8[s]"), TypeError, "integers or floats"),
    "objects": (np.array([0, 1, 2], object), TypeError, "integers or floats"),
    "too coarse": (np.array([0, 1, 2048], np.float16), ValueError, "below 2048 in magnitude"),
}


@pytest.mark.library("torch")
@pytest.mark.parametrize("case", COMPILED.values(), ids=COMPILED)
def test_other_values_than_numbers_are_refused_in_compiled_graphs(case):
    import torch

    value, error, message = case
    x = torch.ones(1, 2, 3, 8)
    rope = embedding()
    with warnings.catch_warnings():  # of code that the compiler does not trace
        warnings.simplefilter("ignore")
        for call in (
            lambda x: rope(x, positions=value),
            lambda x: rope.shift(x, value[None] if isinstance(value, np.ndarray) else [value]),
        ):
            run = torch.compile(call, backend="eager")
            for _ in range(2):
                with pytest.raises(error, match=rf"`(positions|delta)` must (be |hold )?{message}"):
                    run(x)


# ------------------------------------------------------------------------------------------------
# Floats with too few digits.

COARSE = {"float16": 2**11, "bfloat16": 2**8, "float8_e4m3fn": 2**4, "float8_e5m2": 2**3}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", COARSE)
def test_16_bit_floats_are_refused_if_a_step_of_one_changes_nothing(kind, sign):
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    limit = COARSE[kind]
    first = np.array([limit * sign]).astype(dtype)
    below = np.array([(limit - 1) * sign]).astype(dtype)
    assert (first + np.array(sign, dtype)).astype(dtype) == first
    assert (below + np.array(sign, dtype)).astype(dtype) != below
    rope = embedding()
    want = rope.tables([float((limit - 1) * sign)])
    for part, other in zip(rope.tables(below), want, strict=True):
        assert same_bits(part, other)
    for value in (first, first[0], [first[0]], list(first)):
        with pytest.raises(
            ValueError,
            match=f"`positions` must be below {limit} in magnitude if their dtype is {kind}",
        ):
            rope.tables(value)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", modules("torch", "jax.numpy", "mlx.core"))
def test_16_bit_floats_of_other_libraries(name, kind):
    xp = importlib.import_module(name)
    make = {"torch": "tensor", "jax.numpy": "asarray", "mlx.core": "array"}[name]
    number = getattr(xp, make)([float(COARSE[kind])])
    short = (
        number.to(xp.bfloat16 if kind == "bfloat16" else xp.float16)
        if name == "torch"
        else number.astype(getattr(xp, kind))
    )
    rope = embedding()
    x = number[:, None] * getattr(xp, make)([[1.0] * 8])
    for call, argument in (
        (lambda: rope.tables(short), "positions"),
        (lambda: rope(x, positions=short), "positions"),
        (lambda: rope(x, offset=short[0]), "offset"),
        (lambda: rope.shift(x, short[0]), "delta"),
        (lambda: rotary.cos_sin(short, [1.0]), "positions"),
        (lambda: as_positions([short[0]]), "positions"),
    ):
        with pytest.raises(
            ValueError,
            match=f"`{argument}` must be below {COARSE[kind]} in magnitude if their dtype is {kind}",
        ):
            call()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.library("jax")
def test_coarse_traced_16_bit_floats_give_nan(kind):
    import jax

    limit = COARSE[kind]
    positions = jax.numpy.asarray([limit - 1, limit, -limit, 3], kind)
    got = np.asarray(
        jax.jit(lambda x, p: embedding()(x, positions=p))(np.ones((4, 8), np.float32), positions)
    )
    np.testing.assert_array_equal(np.isnan(got).all(-1), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(got).any(-1), [False, True, True, False])


# ------------------------------------------------------------------------------------------------
# Units.

SECONDS = {
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "min": Fraction(60),
    "week": Fraction(604_800),
    "ns": Fraction(1, 10**9),
}


class Unit:
    """A unit, as those of astropy and pint: times a number it is a quantity."""

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return self.name

    def __rmul__(self, number):
        return Wrapped(number, self.name)


class Wrapped:
    """A quantity, as those of pint: not an array, but NumPy converts it to one with a warning."""

    def __init__(self, magnitude, name):
        self.magnitude = np.asarray(magnitude)
        self.units = Unit(name)

    def to(self, name):
        if {self.units.name, name} - set(SECONDS):
            message = f"cannot convert from {self.units} to {name}"
            raise LookupError(message)
        return Wrapped(self.magnitude * float(SECONDS[self.units.name] / SECONDS[name]), name)

    def __array__(self, dtype=None, copy=None):
        warnings.warn("the unit is stripped", stacklevel=2)
        return np.array(self.magnitude, dtype)

    def __float__(self):
        return float(self.magnitude)

    def __len__(self):
        return len(self.magnitude)

    def __getitem__(self, key):
        return Wrapped(self.magnitude[key], self.units.name)


class Labelled:
    """A quantity whose library gives only the name of the unit."""

    def __init__(self, value, unit):
        self.value, self.unit = np.asarray(value), unit


def of_unit(value, name):
    return Wrapped(value, name)


@pytest.mark.parametrize(
    ("times", "unit", "origin", "want"),
    [
        (of_unit([0, 1, 2], "s"), "ms", 0, [0, 1000, 2000]),
        (of_unit([0.0, 1.0, 2.5], "s"), "ms", 500, [-500, 500, 2000]),
        (of_unit([5, 9, 13], "ms"), "s", 0, [0.005, 0.009, 0.013]),
        (of_unit([NANOSECONDS], "ns"), "s", 1_700_000_000, [1e-9]),
        (of_unit([NANOSECONDS], "ns"), "ns", NANOSECONDS - 7, [7]),
        (of_unit([NANOSECONDS], "ns"), "ms", of_unit(1_700_000_000, "s"), [1e-6]),
        (of_unit([1.5, 2], "min"), "40ms", 0, [2250, 3000]),
        (of_unit([1, 2], "week"), "D", np.timedelta64(12, "h"), [6.5, 13.5]),
        (of_unit(3, "min"), "m", of_unit(60, "s"), 2),
        (of_unit(np.zeros((0, 3)), "s"), "ms", 0, np.zeros((0, 3))),
        (of_unit(np.array([1, 2], np.int32), "s"), "as", 0, [10**18, 2 * 10**18]),
        (Labelled([1, 2], "s"), "ms", 0, [1000, 2000]),
        (np.arange(3), "ms", of_unit(1, "s"), [-1000, -999, -998]),
    ],
)  # fmt: skip
def test_times_with_a_unit_are_converted_exactly(times, unit, origin, want):
    for found in (
        timestamps(times, unit=unit, origin=origin),
        Clock(unit=unit, origin=origin)(times),
    ):
        want = np.array(want)
        assert found.dtype == (np.int64 if (want == np.trunc(want)).all() else np.float64)
        np.testing.assert_array_equal(found, want)


@given(
    st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=3),
    st.sampled_from(["s", "ms", "min", "ns"]),
    st.sampled_from(["s", "ms", "us", "40ms", "m", "h"]),
    st.integers(-(2**40), 2**40),
    st.booleans(),
)
def test_converted_times_are_rounded_once(times, own, unit, origin, whole):
    length = {
        "s": Fraction(1),
        "ms": Fraction(1, 1000),
        "us": Fraction(1, 10**6),
        "40ms": Fraction(1, 25),
        "m": Fraction(60),
        "h": Fraction(3600),
    }[unit]
    values = np.array(times, np.int64) if whole else np.array(times, np.float64) / 7
    want = [Fraction(t) * SECONDS[own] / length - origin for t in values.tolist()]
    try:
        found = timestamps(of_unit(values, own), unit=unit, origin=origin)
    except ValueError:
        assert any(abs(w) >= 2**63 - 1 for w in want)
        return
    assert found.dtype == (np.int64 if all(w.denominator == 1 for w in want) else np.float64)
    assert found.tolist() == [int(w) if found.dtype == np.int64 else float(w) for w in want]


def test_16_bit_floats_with_a_unit_are_checked_for_their_resolution():
    late = np.array([1.7e9, 1.7e9 + 128], np.float32)
    with pytest.raises(ValueError, match="`times` must have a dtype that distinguishes them"):
        timestamps(of_unit(late, "s"), unit="ms", origin=0)
    assert timestamps(of_unit(late[:1] * 0 + 3, "s"), unit="ms", origin=0).tolist() == [3000]


@pytest.mark.parametrize(
    ("times", "origin", "message"),
    [
        (
            of_unit([1.0], "m"),
            0,
            "`times` must be in a unit that its library converts to 'ms', got 'm'",
        ),
        (Labelled([1.0], "fortnights"), 0, "`times` must be in a unit .*, got 'fortnights'"),
        ([of_unit(1.0, "s")], 0, "`times` must be numbers without a unit, got Wrapped in 's'"),
        (
            of_unit([1.0], "s"),
            "2024-01-01",
            "`origin` must be of the same kind as `times`, durations",
        ),
        ([1.0], of_unit(1.0, "m"), "`origin` must be in a unit that its library converts"),
    ],
)
def test_units_that_do_not_convert_are_refused(times, origin, message):
    with pytest.raises(TypeError, match=message):
        timestamps(times, unit="ms", origin=origin)
    with pytest.raises(ValueError, match="`origin` must be one date, duration or number"):
        timestamps([1], unit="ms", origin=of_unit([1, 2], "s"))


def test_units_are_refused_by_name_if_they_would_be_lost():
    rope, x = embedding(), np.ones((1, 8))
    for value, several in ((of_unit(2, "s"), of_unit([2], "s")), (quantity(2), quantity([2]))):
        for call, name in (
            (lambda v=several: rope(x, positions=v), "positions"),
            (lambda v=several: rope.tables(v), "positions"),
            (lambda v=value: rope(x, offset=v), "offset"),
            (lambda v=value: rope.shift(x, v), "delta"),
            (lambda v=value: rope.matrix(v), "position"),
            (lambda v=several: rotary.cos_sin(0, v), "inv_freq"),
            (lambda v=value: embedding(base=v), "base"),
            (lambda v=several: rope(v), "x"),
            (lambda v=several: rope(x, x, out=(v, v)), "out"),
        ):
            with pytest.raises(TypeError, match=rf"`{name}(\[0\])?` must be"):
                call()


def test_quantities_of_pint():
    pint = pytest.importorskip("pint")
    unit = pint.UnitRegistry()
    times = unit.Quantity(np.array([0, 250, 1500]), "ms")
    assert timestamps(times, unit="ms", origin=0).tolist() == [0, 250, 1500]
    assert timestamps(times, unit="s", origin=unit.Quantity(1, "s")).tolist() == [-1.0, -0.75, 0.5]
    assert timestamps(unit.Quantity(2, "hour"), unit="m", origin=0) == 120
    with pytest.raises(
        TypeError, match="`times` must be in a unit that its library converts to 's', got 'meter'"
    ):
        timestamps(unit.Quantity(1.0, "m"), unit="s", origin=0)
    for call, name in (
        (lambda: embedding()(np.ones((3, 8)), positions=times), "positions"),
        (lambda: embedding()(np.ones((3, 8)), offset=times[0]), "offset"),
        (lambda: embedding()(unit.Quantity(np.ones((3, 8)), "V")), "x"),
    ):
        with pytest.raises(
            TypeError, match=f"`{name}` must be numbers without a unit, got Quantity in"
        ):
            call()


# ------------------------------------------------------------------------------------------------
# Sparse arrays, and dask.


@pytest.mark.library("torch")
def test_sparse_positions_are_refused_by_name():
    import torch

    rope, sparse = embedding(), torch.tensor([[0, 2, 1]]).to_sparse()
    x = torch.ones(1, 2, 3, 8)
    for call, name in (
        (lambda: rope(x, positions=sparse), "positions"),
        (lambda: rope.tables(sparse), "positions"),
        (lambda: rope.shift(x, sparse), "delta"),
        (lambda: rope(x[:1], offset=sparse[0]), "offset"),
        (lambda: rotary.cos_sin(0, sparse[0]), "inv_freq"),
        (lambda: rope(x.to_sparse()), "x"),
    ):
        with pytest.raises(
            TypeError, match=f"`{name}` must be a dense array, got layout torch.sparse_coo"
        ):
            call()


@pytest.mark.library("dask")
def test_dask_keeps_integers_exact_and_refuses_floats():
    import dask.array as da

    rope, x = embedding(), random_array((1, 1, 3, 8))
    lazy = da.from_array(x, chunks=2)
    for call, name in (
        (lambda: rope(lazy, positions=da.arange(3.0)), "positions"),
        (lambda: rope(lazy, offset=da.from_array(np.array(0.5))), "offset"),
        (lambda: rope.shift(lazy, da.from_array(np.array(0.5))), "delta"),
        (lambda: rope.tables(da.arange(3.0)), "positions"),
    ):
        with pytest.raises(
            TypeError, match=f"`{name}` must be integers if it is a dask array, got float64"
        ):
            call()
    got = rope(lazy, positions=np.array([0.5, 1e15, 3.0])).compute()
    assert same_bits(got, rope(x, positions=np.array([0.5, 1e15, 3.0])))


# ------------------------------------------------------------------------------------------------
# Traced integers never overflow.

ENDS = {
    "int8": (-128, 126), "uint8": (254,), "int16": (2**15 - 2,), "uint16": (2**16 - 2,),
    "int32": (-(2**31), 2**31 - 2, 2**31 - 1), "uint32": (2**32 - 2,),
    "int64": (-(2**63), 2**63 - 2, 2**63 - 1), "uint64": (2**63 - 2, 2**63, 2**64 - 2),
}  # fmt: skip
CASES = [(kind, start) for kind, starts in ENDS.items() for start in starts]


def assert_exact_or_nan(got, positions, held):
    """Check that rows are correct if their dtype holds the position, and otherwise correct or NaN."""
    rope = embedding()
    x = np.ones((len(positions), 8))
    got = np.asarray(got, np.float64)
    for row, place in enumerate(positions):
        if place not in held:
            assert np.isnan(got[row]).all()
            continue
        want, _ = rotate_exactly(x[:1], place, rope.inv_freq)
        exact = np.array([int(each) / 2**440 for each in want[0]])
        if not np.isnan(got[row]).all():
            np.testing.assert_allclose(got[row], exact, rtol=0, atol=3e-6)
        assert place not in range(*held.own) or not np.isnan(got[row]).any()


class Held:
    """The valid positions that a traced dtype holds."""

    def __init__(self, bits, signed):
        self.own = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)

    def __contains__(self, place):
        return -(2**63) <= place < 2**63


@pytest.mark.parametrize(("kind", "start"), CASES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.library("jax")
def test_offsets_traced_by_jax_never_overflow(kind, start, wide):
    import jax

    if not wide and kind.endswith("64"):
        pytest.skip("there is no such dtype without 64-bit types")
    with jax.enable_x64(wide):
        offset = jax.numpy.asarray(np.array(start, kind))
        got = jax.jit(lambda x, o: embedding()(x, offset=o))(np.ones((4, 8), np.float32), offset)
        bits = int(kind.lstrip("uint"))
        held = Held(min(bits, 63) if kind == "uint64" else bits, not kind.startswith("u"))
        assert_exact_or_nan(got, range(start, start + 4), held)


@pytest.mark.parametrize(("kind", "start"), CASES)
@pytest.mark.library("torch")
def test_offsets_traced_by_torch_never_overflow(kind, start):
    import torch

    run = torch.func.vmap(lambda o: embedding()(torch.ones(4, 8), offset=o))
    got = run(torch.from_numpy(np.array([start], kind)))[0]
    assert_exact_or_nan(got, range(start, start + 4), Held(63, kind != "uint64"))


@pytest.mark.feature("traced positions")
@pytest.mark.parametrize("kind", ["int32", "int64", "uint8"])
def test_traced_offsets_of_all_libraries_never_overflow(xp, kind):
    start = np.iinfo(kind).max - 1
    run = xp.traced(lambda x, o: embedding()(x, offset=o))
    x = xp.asarray(np.ones((4, 8), np.float32))
    try:
        got = run(x, xp.asarray(np.array(start, kind)))
    except ValueError as error:  # a graph of torch runs with known values
        assert "`offset` must keep positions within int64" in str(error)  # noqa: PT017
        assert kind == "int64"
        return
    assert_exact_or_nan(xp.to_numpy(got), range(start, start + 4), Held(63, True))


@pytest.mark.library("jax")
def test_traced_unsigned_positions():
    import jax

    with jax.enable_x64(True):
        positions = np.array([5, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
        for run in (
            lambda x, p: embedding()(x, positions=p),
            lambda x, p: embedding().shift(x, p[None, :]),
        ):
            got = jax.jit(run)(np.ones((4, 8), np.float32), jax.numpy.asarray(positions))
            assert_exact_or_nan(got, positions.tolist(), Held(63, False))


@pytest.mark.library("jax")
def test_traced_offsets_per_batch_and_on_several_axes_never_overflow():
    import jax

    offset = jax.numpy.asarray(np.array([5, 2**31 - 2], np.int32))
    axes = rotary.sections.chunked(2, 2)
    for options in ({}, {"sections": axes}):
        rope = embedding(**options)
        with jax.enable_x64(False):
            got = np.asarray(
                jax.jit(lambda x, o, rope=rope: rope(x, offset=o))(
                    np.ones((2, 1, 4, 8), np.float32), offset
                )
            )
        assert not np.isnan(got[0]).any()
        np.testing.assert_array_equal(np.isnan(got[1, 0]).all(-1), [False, False, True, True])
        want = rope(np.ones((1, 1, 2, 8)), offset=2**31 - 2)
        np.testing.assert_allclose(got[1:, :, :2], want, rtol=0, atol=3e-6)


# ------------------------------------------------------------------------------------------------
# Numbers of a specification that are traced or learned.


@pytest.mark.library("torch")
def test_learned_numbers_are_refused_if_they_would_become_constants():
    import torch

    plain = torch.tensor(100.0)
    assert embedding(base=plain) == embedding(base=100.0)
    with torch.no_grad():
        learned = [
            torch.nn.Parameter(plain.clone()),
            torch.nn.Parameter(plain.clone(), requires_grad=False),
            plain.clone().requires_grad_(),
        ]
    for value in learned:
        several = value[None].expand(4) if value.requires_grad else [value] * 4
        for call, name in (
            (lambda v=value: embedding(base=v), "base"),
            (lambda v=value: rotary.inv_freq(8, base=v), "base"),
            (lambda v=value: rotary.sinusoidal([0], 8, base=v), "base"),
            (lambda v=value: rotary.cos_sin(0, [1.0], attention_factor=v), "attention_factor"),
            (lambda v=several: rotary.cos_sin(0, v), "inv_freq"),
            (lambda v=several: rotary.scaling.Custom(v), "inv_freq"),
            (lambda v=several: rotary.scaling.Custom(W=v), "W"),
            (lambda v=[value] * 4: rotary.scaling.Custom(v), "inv_freq"),
            (lambda v=value: rotary.XPos(v, center=0), "scale_base"),
            (lambda v=value: rotary.XPos(center=v), "center"),
            (lambda v=value: embedding(context_length=v), "context_length"),
        ):
            with pytest.raises(
                TypeError, match=f"`{name}` must be a number that is known.*`inv_freq=`"
            ):
                call()


@pytest.mark.library("torch")
def test_numbers_traced_by_torch_are_refused():
    import torch

    with warnings.catch_warnings():  # of deprecations in torch, the first time
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))

    def made(value):
        return embedding(base=value)(torch.ones(2, 8)).sum()

    for run in (
        lambda: torch.func.grad(made)(torch.tensor(100.0)),
        lambda: torch.func.vmap(made)(torch.tensor([100.0])),
        lambda: torch.func.jvp(made, (torch.tensor(100.0),), (torch.tensor(1.0),)),
        lambda: torch.func.jacfwd(made)(torch.tensor(100.0)),
    ):
        with pytest.raises(TypeError, match="`base` must be a number that is known.*`inv_freq=`"):
            run()


@pytest.mark.library("jax")
def test_numbers_traced_by_jax_are_refused():
    import jax

    def made(value):
        return embedding(base=value)(jax.numpy.ones((2, 8))).sum()

    for run, shape in ((jax.jit(made), ()), (jax.grad(made), ()), (jax.vmap(made), 1)):
        with pytest.raises(TypeError, match="`base` must be a number that is known.*`inv_freq=`"):
            run(jax.numpy.full(shape, 100.0))
    with pytest.raises(TypeError, match="`context_length` must be a number that is known"):
        jax.jit(lambda n: embedding().at_length(n)(jax.numpy.ones((2, 8))))(5)
    assert embedding(base=jax.numpy.float32(100.0)) == embedding(base=100.0)


@pytest.mark.library("mlx")
def test_numbers_traced_by_mlx_are_refused():
    import mlx.core as mx

    run = mx.compile(lambda base: embedding(base=base)(mx.ones((2, 8))))
    with pytest.raises(TypeError, match="`base` must be a number that is known.*`inv_freq=`"):
        run(mx.array(100.0))


@pytest.mark.parametrize(
    "value", [np.array(True), np.array([100.0, 2.0]), quantity(100.0), np.array(None), b"100"]
)
def test_objects_with_a_float_method_are_not_always_numbers(value):
    with pytest.raises(TypeError, match="`base` must be a real number, got"):
        embedding(base=value)


# ------------------------------------------------------------------------------------------------
# Outputs.


def restrided(x, axis, step):
    """Return the same elements with another stride on an axis of size 1, which has no meaning."""
    strides = list(x.strides)
    assert x.shape[axis] == 1
    strides[axis] = step
    return np.lib.stride_tricks.as_strided(x, x.shape, strides)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0, 4, 4096, -32])
def test_an_output_may_be_the_input_with_another_stride_of_a_size_1_axis(method, step):
    rope = embedding()
    call = rope.shift if method == "shift" else getattr(rope, method)
    argument = {"delta": 5} if method == "shift" else {"offset": 5}
    for shape, axis in (((1, 2, 3, 8), 0), ((2, 1, 3, 8), 1), ((2, 3, 1, 8), 2)):
        start = random_array(shape)
        want = call(start, **argument)
        for _ in range(3):  # without and with a plan
            x = start.copy()
            assert same_bits(call(x, **argument, out=restrided(x, axis, step)), want)
            assert same_bits(x, want)
            x = start.copy()
            call(restrided(x, axis, step), **argument, out=x)
            assert same_bits(x, want)


def test_outputs_that_are_other_elements_of_the_input_are_refused():
    x = random_array((1, 4, 3, 8))
    before = x.copy()
    for out in (x[:, ::-1], x[:, :, ::-1]):
        with pytest.raises(ValueError, match="`out` must be the input itself"):
            embedding()(x, out=out)
    assert same_bits(x, before)


@pytest.mark.library("torch")
def test_tensors_with_another_stride_of_a_size_1_axis():
    import torch

    x = torch.from_numpy(random_array((1, 2, 3, 8)))
    want = embedding()(x)
    out = torch.as_strided(x, x.shape, (1, *x.stride()[1:]))
    assert embedding()(x, out=out) is out
    assert torch.equal(x, want)
