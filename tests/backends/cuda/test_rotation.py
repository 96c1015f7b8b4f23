"""Every instance of the kernel, built for the processor, against exact arithmetic."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from emulation import Kernels, build
from launching import (
    DTYPES,
    array_of_bounds,
    array_of_positions,
    bits,
    check,
    expected,
    factors,
    fields_of_table,
    fields_of_turns,
    kernels,
    launch,
    numbers,
    of,
    pairing_of,
    parameters,
    placed,
    run,
    table_of,
)

from rotary.backends.cuda.parameters import ANGLE_KINDS, INSTANCES, WIDTHS, instance
from rotary.layouts import LAYOUTS

pytestmark = pytest.mark.cuda

LARGE = 2**62 + 12345


def schedule(pairs, seed=0):
    """Frequencies of every size and either sign."""
    rng = np.random.default_rng(seed)
    return of(rng.choice([-1.0, 1.0], pairs) * 10.0 ** rng.uniform(-6, 1, pairs))


def window(name, *, vector):
    """Lanes, first channel and width of an array: whole vectors, or numbers that none divides."""
    wide = WIDTHS[name]
    return (3 * wide, wide, 9 * wide) if vector else (5, 3, 17)


def places(trig, shape, seed=0):
    """Positions (1, batch, token) of every size; rows of a table are small ones."""
    rng = np.random.default_rng(seed)
    if trig == "table":
        return rng.integers(0, 40, (1, *shape))
    if trig == "integers":
        return rng.integers(-(2**63), 2**63, (1, *shape)) >> rng.integers(0, 63, (1, *shape))
    return rng.standard_normal((1, *shape)) * 2.0 ** rng.integers(-10, 50, (1, *shape))


def angles(name, trig, own, factor, rows=40):
    """The fields that give an instance its angles, and the memory they lie in."""
    if trig == "table":
        table = table_of(own, np.arange(rows)[None], factor, name)
        return fields_of_table(table), table
    fields, words = fields_of_turns(own)
    return fields | factors(factor), words


def turned(name, trig, xs, own, pairing, rows, *, factor=1.0, vector=False, **how):
    """Run an instance and compare with what is exact at rows (axes, batch or 1, token or 1).

    `how` says where they stand, else their positions are read as they are.
    """
    fields, _memory = angles(name, trig, own, factor)
    in_place = how.pop("in_place", False)
    if "position_type" not in how and "first" not in how:
        how |= array_of_positions(rows)
    which = instance(name, trig, pairing.source, pairing.target, vector=vector)
    ys = run(which, xs, pairing, in_place=in_place, **fields, **how)
    for x, y in zip(xs, ys, strict=True):
        full = np.broadcast_to(rows, (own.axes, *x.shape[:2]))
        check(y, x, name, expected(x, own, full, factor, pairing), pairing)
    return ys


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize(("source", "target"), list(product(LAYOUTS, LAYOUTS)))
@pytest.mark.parametrize("trig", ANGLE_KINDS)
@pytest.mark.parametrize("name", DTYPES)
def test_every_instance(name, trig, source, target, vector, inverse):
    pairs, start, width = window(name, vector=vector)
    pairing = pairing_of(pairs, source, target, start=start, inverse=inverse)
    own, positions = schedule(pairs), places(trig, (2, 5))
    for in_place in (False, True) if source == target else (False,):
        xs = [placed(numbers((2, 5, heads, width), name, heads)) for heads in (5, 2)]
        turned(
            name, trig, xs, own, pairing, positions, factor=1.27, vector=vector, in_place=in_place
        )


def test_there_are_no_other_instances():
    assert kernels().names() == sorted(INSTANCES)
    assert len(INSTANCES) == 60


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize(("source", "target"), [("half", "half"), ("interleaved", "half")])
@pytest.mark.parametrize("read", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3), (2, 1, 0, 3)])
def test_every_order_of_axes(read, source, target, vector):
    pairs, start, width = window("float16", vector=vector)
    pairing = pairing_of(pairs, source, target, start=start)
    own, positions = schedule(pairs), places("integers", (3, 4))
    write = (*read[:3][::-1], 3)
    for gap, by_head in ((0, True), (WIDTHS["float16"], False)):
        values = [numbers((3, 4, heads, width), "float16", heads) for heads in (7, 3)]
        xs = [placed(x, read, gap=gap) for x in values]
        ys = [placed(x, write, gap=2 * gap) for x in values]
        how = {"by_head": by_head, "vector": vector}
        turned("float16", "integers", xs, own, pairing, positions, outputs=ys, **how)
        if source == target:
            turned("float16", "integers", xs, own, pairing, positions, in_place=True, **how)


def test_strides_may_run_backwards():
    own, positions = schedule(8), places("integers", (3, 4))
    x, y = (placed(numbers((3, 4, 5, 16), "float32")) for _ in range(2))
    turned(
        "float32",
        "integers",
        [x[::-1, :, ::-1]],
        own,
        pairing_of(8),
        positions,
        vector=True,
        outputs=[y[:, ::-1]],
    )


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("skip", [1, 3])
def test_numbers_may_stand_anywhere(name, skip):
    own, positions = schedule(5), places("floats", (2, 3))
    xs = [placed(numbers((2, 3, 3, 10), name), gap=skip, skip=skip)]
    turned(name, "floats", xs, own, pairing_of(5), positions, in_place=True)


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("trig", ANGLE_KINDS)
def test_vectors_and_numbers_have_the_same_bits(trig, vector):
    own, positions = schedule(16), places(trig, (2, 3))
    for source, target in product(LAYOUTS, LAYOUTS):
        pairing = pairing_of(16, source, target)
        xs = [placed(numbers((2, 3, 3, 32), "bfloat16"))]
        one, other = (
            turned("bfloat16", trig, xs, own, pairing, positions, vector=wide)
            for wide in (True, False)
        )
        np.testing.assert_array_equal(bits(one[0]), bits(other[0]))


@pytest.mark.parametrize("trig", ANGLE_KINDS)
@pytest.mark.parametrize("name", DTYPES)
def test_subnormal_numbers_count_as_zero_in_float32_alone(name, trig):
    """As NVRTC compiles; of 16 bits they are none in float32, but for the least of bfloat16."""
    tiny = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 5e-324}
    x = placed(np.full((1, 1, 1, 12), tiny[name], DTYPES[name]))
    fields, _memory = angles(name, trig, of(np.zeros(4)), 1.0)
    which = instance(name, trig, vector=False)
    start = np.zeros((1, 1, 1), np.float64 if trig == "floats" else np.int64)
    rows = array_of_positions(start)
    (y,) = run(which, [x], pairing_of(4, start=2), in_place=False, **rows, **fields)
    turned_to = 0.0 if name in ("bfloat16", "float32") else tiny[name]
    passed = [tiny[name]] * 2
    assert y[0, 0, 0].astype(float).tolist() == [*passed, *[turned_to] * 8, *passed]


@pytest.mark.parametrize("in_place", [(True, False), (False, True)])
def test_one_array_may_be_written_in_place_and_the_other_elsewhere(in_place):
    own, positions = schedule(4), places("integers", (2, 3))
    pairing, width = pairing_of(4, start=4), 16
    fields, _words = angles("float32", "integers", own, 1.0)
    xs = [placed(numbers((2, 3, 2, width), "float32", seed)) for seed in (1, 2)]
    ys = [x if same else placed(np.zeros_like(x)) for x, same in zip(xs, in_place, strict=True)]
    before = [np.array(x) for x in xs]
    given = parameters(xs, ys, pairing, **fields, **array_of_positions(positions))
    assert given["arrays"]["copy"].tolist() == [[not same for same in in_place]]
    launch(instance("float32", "integers", vector=True), given)
    for x, y in zip(before, ys, strict=True):
        check(y, x, "float32", expected(x, own, positions, 1.0, pairing), pairing)


# ------------------------------------------------------------------------------------------------
# Where rows stand.


def counted(length, first=0, batch=1):
    """Positions (1, batch, length) that count up."""
    return np.broadcast_to(first + np.arange(length), (1, batch, length))


@pytest.mark.parametrize("trig", ["table", "integers"])
def test_rows_count_up(trig):
    own = schedule(4)
    xs = [placed(numbers((3, 5, 2, 8), "float32"))]
    first = 7 if trig == "table" else LARGE
    how = {"first": first, "step_token": 1}
    turned("float32", trig, xs, own, pairing_of(4), counted(5, first, 3), **how)
    # Rows of the batch one after another, as in a table of the call's own, and one for each.
    positions = np.arange(15).reshape(1, 3, 5)
    turned("float32", trig, xs, own, pairing_of(4), positions, first=0, step_batch=5, step_token=1)
    positions = np.broadcast_to(np.arange(3)[None, :, None], (1, 3, 5))
    turned("float32", trig, xs, own, pairing_of(4), positions, first=0, step_batch=1)


@pytest.mark.parametrize("kind", ["int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 3, 1), (1, 3, 5)])
def test_positions_of_every_shape(kind, shape):
    own, trig = schedule(4), "floats" if "float" in kind else "integers"
    xs = [placed(numbers((3, 5, 2, 8), "float64"))]
    positions = (np.random.default_rng(0).uniform(-1000, 1000, shape)).astype(kind)
    turned("float64", trig, xs, own, pairing_of(4), positions, **array_of_positions(positions))
    # An offset for every row of the batch, from which its rows count up.
    rows = positions[:, :, :1] + np.arange(5).astype(kind if trig == "integers" else "float64")
    how = array_of_positions(positions[:, :, :1])
    turned("float64", trig, xs, own, pairing_of(4), rows, step_token=1, **how)


def test_positions_with_strides_of_their_own():
    own = schedule(4)
    xs = [placed(numbers((3, 5, 2, 8), "float32"))]
    positions = np.random.default_rng(0).integers(-100, 100, (5, 2, 3, 2)).transpose(1, 2, 0, 3)
    positions = positions[:1, ::-1, :, 1]
    turned("float32", "integers", xs, own, pairing_of(4), positions)


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("trig", ANGLE_KINDS)
def test_packed_sequences(trig, kind):
    own = schedule(4)
    bounds = np.array([0, 0, 3, 4, 4, 4, 11, 11], kind)
    lengths = np.diff(bounds)
    xs = [placed(numbers((1, 11, 2, 8), "float32"))]
    rows = np.concatenate([np.arange(n) for n in lengths])
    how = {"step_token": 1, **array_of_bounds(bounds)}
    if trig != "floats":
        positions = rows.reshape(1, 1, -1) + 2
        turned("float32", trig, xs, own, pairing_of(4), positions, first=2, **how)
    # Every sequence may start at an offset of its own.
    starts = np.arange(1, 8).astype("float64" if trig == "floats" else "int64") * 3
    positions = (rows + np.repeat(starts, lengths)).reshape(1, 1, -1)
    how |= array_of_positions(starts.reshape(1, -1, 1))
    turned("float32", trig, xs, own, pairing_of(4), positions, **how)


def nan_rows(trig, *, name="float32", tokens=6, **how):
    """Which rows of an array of so many tokens come out as nothing but NaN; no row is so in part."""
    own = schedule(4)
    fields, _memory = angles(name, trig, own, 1.0)
    x = placed(numbers((1, tokens, 2, 10), name))
    which = instance(name, trig, vector=False)
    (y,) = run(which, [x], pairing_of(4), in_place=False, **fields, **how)
    missing = np.isnan(y[0, ..., :8].astype(np.float64))
    assert (missing.any(axis=(1, 2)) == missing.all(axis=(1, 2))).all()
    # What is beside the window passes through all the same.
    np.testing.assert_array_equal(bits(y[..., 8:]), bits(x[..., 8:]))
    return np.flatnonzero(missing.any(axis=(1, 2))).tolist()


def test_rows_outside_a_table_are_nan():
    positions = np.array([0, 39, 40, -1, 2**63 - 1, -(2**63)]).reshape(1, 1, -1)
    found = nan_rows("table", **array_of_positions(positions))
    assert found == [2, 3, 4, 5]
    assert nan_rows("table", first=37, step_token=1) == [3, 4, 5]
    assert nan_rows("table", first=-2, step_token=1) == [0, 1]


def test_rows_beyond_a_limit_are_nan():
    assert nan_rows("integers", first=37, step_token=1, limit=40) == [3, 4, 5]
    assert nan_rows("table", first=30, step_token=1, limit=34) == [4, 5]
    positions = np.array([39.0, 40.0, 39.999, -50.0, 41.0, 0.0]).reshape(1, 1, -1)
    found = nan_rows("floats", limit=40, **array_of_positions(positions))
    assert found == [1, 4]


def test_integers_that_overflow_are_nan():
    most, least = 2**63 - 1, -(2**63)
    positions = np.array([most, most - 1, least, 0, -1, most]).reshape(1, 1, -1)
    given = array_of_positions(positions)
    assert nan_rows("integers", **given) == []
    assert nan_rows("integers", first=1, **given) == [0, 5]
    assert nan_rows("integers", first=-1, **given) == [2]


def test_floats_that_are_no_positions_are_nan():
    values = [2.0**63, -(2.0**63), np.nan, np.inf, -np.inf, np.nextafter(2.0**63, 0)]
    positions = np.array(values).reshape(1, 1, -1)
    for kind in (np.float64, np.float32):
        given = positions.astype(kind)
        wanted = [0, 1, 2, 3, 4] if kind is np.float64 else [0, 1, 2, 3, 4, 5]
        assert nan_rows("floats", **array_of_positions(given)) == wanted


@pytest.mark.parametrize("bounds", [[1, 3, 5], [5, 3, 1], [-4, 2**31 - 1]])
def test_rows_outside_packed_sequences_are_nan(bounds):
    given = np.array(bounds, np.int32)
    wanted = {1: [0, 5], 5: [0, 1, 2, 3, 4, 5], -4: []}[bounds[0]]
    assert nan_rows("integers", step_token=1, **array_of_bounds(given)) == wanted


# ------------------------------------------------------------------------------------------------
# Several position axes, and frequencies for every head.


@pytest.mark.parametrize("trig", ["integers", "floats"])
@pytest.mark.parametrize("name", ["float16", "float64"])
def test_axes_add_up(trig, name):
    rng = np.random.default_rng(0)
    pairs = 16
    sections = np.zeros((3, pairs))
    sections[np.arange(pairs) % 3, np.arange(pairs)] = 10.0 ** -rng.uniform(0, 4, pairs)
    moved = 10.0 ** -rng.uniform(0, 4, (3, pairs))
    xs = [placed(numbers((2, 4, 2, 32), name))]
    positions = np.concatenate([places(trig, (2, 4), seed) for seed in range(3)])
    for values in (sections, moved * [[1], [-1], [1]]):
        own = of(values)
        turned(name, trig, xs, own, pairing_of(pairs), positions, vector=True)
        turned(name, trig, xs, own, pairing_of(pairs), positions)
        # One position for all axes.
        first = np.broadcast_to(positions[:1], positions.shape)
        turned(name, trig, xs, own, pairing_of(pairs), first, **array_of_positions(positions[:1]))


@pytest.mark.parametrize("trig", ["integers", "floats"])
@pytest.mark.parametrize("name", DTYPES)
def test_axes_undo_each_other(trig, name):
    values = 10.0 ** -np.random.default_rng(0).uniform(0, 4, 8)
    positions = np.repeat(places(trig, (2, 4)), 2, axis=0)
    x = placed(numbers((2, 4, 2, 16), name))
    if (name, trig) == ("float64", "integers"):
        # Their phases do so to the last bit. What is not zero here is sine alone.
        x[..., :8] = 0
    own = of(np.stack([values, -values]))
    (y,) = turned(name, trig, [x], own, pairing_of(8), positions, vector=True)
    np.testing.assert_array_equal(bits(y), bits(x))


@pytest.mark.parametrize("axis", [0, 1])
def test_one_axis_that_is_missing_makes_a_row_nan(axis):
    own = of(np.ones((2, 4)))
    fields, _words = fields_of_turns(own)
    positions = np.array([[[1.0, 2.0]], [[3.0, 4.0]]])
    positions[axis, 0, 1] = np.nan
    x = placed(numbers((1, 2, 1, 8), "float32"))
    how = fields | factors(1.0) | array_of_positions(positions)
    (y,) = run(instance("float32", "floats", vector=True), [x], pairing_of(4), in_place=True, **how)
    assert np.isnan(y).any(axis=(0, 2, 3)).tolist() == [False, True]


@pytest.mark.parametrize("trig", ANGLE_KINDS)
@pytest.mark.parametrize("heads", [1, 5, 70])
@pytest.mark.parametrize("vector", [True, False])
def test_heads_may_have_frequencies_of_their_own(trig, heads, vector):
    rng = np.random.default_rng(0)
    own = of(10.0 ** -rng.uniform(0, 4, (heads, 1, 8)))
    positions = places(trig, (2, 2))
    xs = [placed(numbers((2, 2, heads, 16), "float32", seed), gap=4) for seed in (0, 1)]
    turned("float32", trig, xs, own, pairing_of(8), positions, vector=vector)


# ------------------------------------------------------------------------------------------------
# Sizes.


@pytest.mark.parametrize("heads", [(70, 3), (1, 0), (3, 70)])
@pytest.mark.parametrize("tokens", [1, 3, 150])
def test_every_number_of_heads_and_tokens(heads, tokens):
    own, positions = schedule(4), places("integers", (1, tokens))
    xs = [placed(numbers((1, tokens, count, 8), "float32")) for count in heads if count]
    for by_head in (True, False):
        turned(
            "float32",
            "integers",
            xs,
            own,
            pairing_of(4),
            positions,
            vector=True,
            by_head=by_head,
        )


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("pairs", [2, 256, 520])
def test_windows_of_every_width(pairs, vector):
    own, positions = schedule(pairs), places("integers", (1, 2))
    xs = [placed(numbers((1, 2, 2, 2 * pairs + 2), "float64"))]
    turned("float64", "integers", xs, own, pairing_of(pairs, start=2), positions, vector=vector)


def test_infinite_and_missing_numbers_stay_in_their_pair():
    x = numbers((1, 1, 1, 16), "float32")
    x[..., 3], x[..., 5] = np.inf, np.nan
    own, positions = schedule(8), places("integers", (1, 1))
    fields, _words = angles("float32", "integers", own, 1.0)
    how = fields | array_of_positions(positions)
    (y,) = run(
        instance("float32", "integers", vector=True),
        [placed(x)],
        pairing_of(8),
        in_place=False,
        **how,
    )
    broken = ~np.isfinite(y[0, 0, 0])
    assert np.flatnonzero(broken).tolist() == [3, 5, 11, 13]


def test_builds_do_not_get_into_each_others_way():
    """As they would where the processor's linker took variables of one name for one variable."""
    test_every_instance("float32", "integers", "half", "half", vector=True, inverse=False)
    traced = Kernels(build("traced"))
    test_every_instance("float32", "integers", "half", "half", vector=True, inverse=False)
    assert not len(traced.trace())
