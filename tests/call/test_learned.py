"""Frequencies that a call gives, and gradients by positions and frequencies."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from helpers import LAYOUTS, as_dtype, modules, random_array, same_bits
from hypothesis import given
from hypothesis import strategies as st

import rotary
from rotary import RotaryEmbedding
from rotary.call import plans
from rotary.scaling import Custom

OPTIONS = {"layout": "half", "base": 100.0, "seq_axis": -2}
ROPE = RotaryEmbedding(12, **OPTIONS)
SECTIONS = RotaryEmbedding(12, sections=rotary.sections.chunked(2, 2, 2), **OPTIONS)
BLOCKS = RotaryEmbedding(12, sections=rotary.sections.axial(3, 3), **OPTIONS)
DECAY = RotaryEmbedding(12, decay=rotary.XPos(16, center=2), **OPTIONS)
FACTOR = RotaryEmbedding(
    12,
    layout="interleaved",
    output_layout="half",
    rotary_dim=8,
    rotary_start=2,
    scaling=Custom(np.ones(4), 1.25),
    seq_axis=-2,
)
ALL = "x", "positions", "inv_freq"
SHAPE = 2, 3, 5, 12


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def equal(got, want):
    """Whether arrays, or tuples of arrays, are equal in every bit."""
    if not isinstance(got, tuple):
        got, want = (got,), (want,)
    return all(map(same_bits, got, want))


# ------------------------------------------------------------------------------------------------
# Known frequencies are as exact as those of an embedding.


FREQUENCIES = {
    "one for each pair": numbers(6),
    "one axis": numbers(1, 6),
    "two axes": numbers(2, 6),
    "heads": numbers(3, 2, 6),
    "negative and zero": np.array([-1.0, 0.0, 3.5, -0.25, 0.0, 7.0]),
}
ROWS = ((5,), (1, 5), (2, 5), (2, 3, 5), (1, 3, 5), (2, 1, 5))


@pytest.mark.parametrize("f", FREQUENCIES.values(), ids=FREQUENCIES)
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("method", ["__call__", "inverse", "vjp", "tables"])
def test_known_frequencies_are_exact(f, rows, method):
    lead = f.shape[-2:-1]
    of_spec = RotaryEmbedding(
        12, layout="half", scaling=Custom(f) if f.ndim == 1 else Custom(W=f), seq_axis=-2
    )
    x = random_array(SHAPE, "float32")
    for p in (numbers(*lead, *rows), np.full((*lead, *rows), 2**60 + 1), None):
        arguments = () if method == "tables" else (x,)
        if method == "tables" and p is None:
            continue
        got = getattr(ROPE, method)(*arguments, positions=p, inv_freq=f)
        assert equal(got, getattr(of_spec, method)(*arguments, positions=p))


@pytest.mark.parametrize("rope", [SECTIONS, BLOCKS, DECAY, FACTOR], ids=["s", "b", "d", "f"])
def test_the_rest_of_the_specification_stays(rope):
    f, q, k = rope.inv_freq, random_array(SHAPE), random_array(SHAPE, seed=1)
    assert equal(rope(q, k, offset=3, inv_freq=f), rope(q, k, offset=3))
    packed = {"cu_seqlens": [0, 2, 5], "offset": [1, 7], "seq_axis": 2}
    assert equal(rope(q, k, inv_freq=f, **packed), rope(q, k, **packed))
    other = rope(q, k, inv_freq=2 * f)
    assert not np.array_equal(other[0], rope(q, k)[0])
    if rope is not DECAY:  # whose scale depends on the position
        twice = 2 * np.arange(5)
        lead = () if rope is FACTOR else (rope.sections.num_axes, 1)
        assert equal(other, rope(q, k, positions=np.tile(twice, lead) if lead else twice))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "list"])
def test_any_dtype_counts_by_its_float64_value(dtype):
    f = np.array([3.0, 0.5, -0.25, 0.0, 1.5, 0.125])
    told = f.tolist() if dtype == "list" else f.astype(as_dtype(dtype))
    x = random_array(SHAPE)
    want = np.array(told).astype(np.float64)
    assert equal(ROPE(x, offset=10**9, inv_freq=told), ROPE(x, offset=10**9, inv_freq=want))


def test_no_table_is_kept_and_new_numbers_have_a_plan():
    x = random_array(SHAPE)
    ROPE(x, inv_freq=numbers(6))
    before, made = rotary.cache_info(), plans._plans.misses
    for seed in range(5):
        ROPE(x, offset=seed, inv_freq=numbers(6, seed=seed))
        ROPE.vjp(x, primals=x, wrt=("inv_freq",), inv_freq=numbers(6, seed=seed))
    after = rotary.cache_info()
    assert (after.entries, after.nbytes) == (before.entries, before.nbytes)
    assert plans._plans.misses == made + 1


def test_a_change_in_place_counts_in_the_next_call():
    x, f = random_array(SHAPE), numbers(6)
    ROPE(x, inv_freq=f)
    f[:] = 2.0
    assert equal(ROPE(x, inv_freq=f), ROPE(x, inv_freq=[2.0] * 6))


def test_in_place_and_out():
    x, f = random_array(SHAPE), numbers(6)
    want, out = ROPE(x, inv_freq=f), np.empty(SHAPE, np.float32)
    assert ROPE(x, inv_freq=f, out=out) is out
    assert equal(out, want)
    ROPE(x, inv_freq=f, out=x)
    assert equal(x, want)


@pytest.mark.parametrize(
    ("rope", "f", "error", "message"),
    [
        (ROPE, numbers(5), ValueError, r"`inv_freq` must have shape \(6,\), \(axes, 6\) or"),
        (ROPE, numbers(1, 1, 1, 6), ValueError, "`inv_freq` must have shape"),
        (ROPE, np.float64(2.0), ValueError, "`inv_freq` must have shape"),
        (ROPE, np.zeros((0, 6)), ValueError, "`inv_freq` must have shape"),
        (ROPE, [[1.0] * 6, [1.0]], ValueError, "`inv_freq` must be an array of numbers"),
        (ROPE, np.array([1, 2, 3, 4, 5, np.nan]), ValueError, "`inv_freq` must be finite"),
        (ROPE, [1, 2, 3, 4, 5, np.inf], ValueError, "`inv_freq` must be finite"),
        (ROPE, np.full(6, 2.0**63), ValueError, "`inv_freq` must be finite and below"),
        (ROPE, np.ones(6, bool), TypeError, "`inv_freq` must hold real numbers"),
        (ROPE, np.ones(6, complex), TypeError, "`inv_freq` must hold real numbers"),
        (ROPE, "angles", TypeError, "`inv_freq` must"),
        (ROPE, np.ma.masked_array(numbers(6)), TypeError, "`inv_freq` must be a plain array"),
        (ROPE, numbers(4, 2, 6), ValueError, "one axis of 4 heads"),
        (SECTIONS, numbers(3, 6), ValueError, r"shape \(6,\) with `sections`"),
        (DECAY, numbers(1, 6), ValueError, r"shape \(6,\) with `decay`"),
    ],
)
def test_what_does_not_fit_is_refused(rope, f, error, message):
    x = random_array(SHAPE)
    kept = x.copy()
    arguments = {"role": "query"} if rope is DECAY else {}
    for _ in range(2):
        with pytest.raises(error, match=message):
            rope(x, inv_freq=f, out=x, **arguments)
    assert equal(x, kept)


def test_a_quirk_is_no_rotation_and_shift_takes_no_frequencies():
    rope = RotaryEmbedding(12, layout="interleaved", base=100.0, quirk="vjepa2", seq_axis=-2)
    with pytest.raises(TypeError, match="`inv_freq` must not be given with the quirk"):
        rope(random_array(SHAPE), inv_freq=numbers(6))
    with pytest.raises(TypeError, match="`inv_freq`"):
        ROPE.shift(random_array(SHAPE), 1, inv_freq=numbers(6))


def test_a_limit_of_the_context_holds():
    ntk = rotary.scaling.DynamicNTK(factor=4, max_position=16)
    rope = RotaryEmbedding(12, scaling=ntk, context_length=64, **OPTIONS)
    x = random_array(SHAPE)
    rope(x, offset=59, inv_freq=numbers(6))
    with pytest.raises(ValueError, match="context_length 64"):
        rope(x, offset=60, inv_freq=numbers(6))
    with pytest.raises(ValueError, match="context_length 64"):
        rope.tables([64], inv_freq=numbers(6))


def test_positions_lead_with_the_axes_even_with_one():
    x, f = random_array(SHAPE), numbers(6)
    one = ROPE(x, positions=np.arange(5), inv_freq=f)
    assert equal(ROPE(x, positions=np.arange(5)[None], inv_freq=f[None]), one)
    assert equal(ROPE(x, positions=np.arange(5)[None, None], inv_freq=f[None]), one)
    with pytest.raises(ValueError, match="`positions` must have one of the shapes"):
        ROPE(x, positions=np.arange(5), inv_freq=f[None])


# ------------------------------------------------------------------------------------------------
# Gradients of NumPy arrays.


def difference(function, value, step=1e-6):
    """The gradient of a function of an array by central differences."""
    value = np.array(value, np.float64)
    found = np.zeros(value.shape)
    for index in np.ndindex(value.shape):
        ends = value.copy(), value.copy()
        ends[0][index] += step
        ends[1][index] -= step
        found[index] = (function(ends[0]) - function(ends[1])) / (2 * step)
    return found


def close(got, want, relative=1e-7):
    """Whether gradients agree, relative to the largest one."""
    return np.abs(np.asarray(got) - want).max() <= relative * np.abs(want).max()


def check_gradients(rope, arrays, dys, p, f, **options):
    """Compare gradients with finite differences, and that by x with `vjp` as it always was."""
    several = len(arrays) > 1

    def loss(p, f):
        results = rope(*arrays, positions=p, inv_freq=f, **options)
        results = results if several else (results,)
        return sum(np.vdot(dy, y).real for dy, y in zip(dys, results, strict=True))

    primals = arrays if several else arrays[0]
    dx, dp, df = rope.vjp(*dys, primals=primals, wrt=ALL, positions=p, inv_freq=f, **options)
    assert equal(dx, rope.vjp(*dys, positions=p, inv_freq=f, **options))
    assert (dp.shape, dp.dtype) == (np.shape(p), np.float64)
    assert (df.shape, df.dtype) == (np.shape(f), np.float64)
    assert close(dp, difference(lambda p: loss(p, f), p))
    assert close(df, difference(lambda f: loss(p, f), f))


CASES = {
    **{
        f"{layout} to {target}": (
            RotaryEmbedding(
                12,
                layout=layout,
                output_layout=target,
                rotary_dim=8,
                rotary_start=2,
                scaling=Custom(np.ones(4), 1.25),
                seq_axis=-2,
            ),
            4,
            (2, 5),
            {},
        )
        for layout, target in itertools.product(LAYOUTS, repeat=2)
    },
    "tokens first": (ROPE, 6, (2, 3), {"seq_axis": 1}),
    "sections": (SECTIONS, 6, (3, 5), {}),
    "sections of a batch": (SECTIONS, 6, (3, 2, 5), {}),
    "blocks": (BLOCKS, 6, (2, 5), {}),
    "decay": (DECAY, 6, (2, 5), {"role": "key"}),
    "decay, positions per head": (DECAY, 6, (2, 3, 5), {"role": "query"}),
    "a batch after the sequence": (ROPE, 6, (2,), {"seq_axis": 0, "batch_axis": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_agree_with_finite_differences(case):
    rope, pairs, rows, options = CASES[case]
    x, dy = numbers(2, *SHAPE)
    p = np.random.default_rng(3).uniform(0, 4, rows)
    check_gradients(rope, (x,), (dy,), p, numbers(pairs, seed=1), **options)


@pytest.mark.parametrize("f", FREQUENCIES.values(), ids=FREQUENCIES)
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_gradients_by_every_shape_of_positions_and_frequencies(f, rows):
    x, dy = numbers(2, *SHAPE)
    check_gradients(ROPE, (x,), (dy,), numbers(*f.shape[-2:-1], *rows, seed=2), f)


@pytest.mark.parametrize("rope", [ROPE, DECAY], ids=["rope", "decay"])
def test_gradients_are_summed_over_arrays(rope):
    arrays, dys = numbers(2, 2, *SHAPE)
    arrays, dys = (arrays[0], arrays[1][:, :2]), (dys[0], dys[1][:, :2])
    check_gradients(rope, arrays, dys, np.arange(5.0), numbers(6))
    half = tuple(x.astype(np.float32) for x in (arrays[1], dys[1]))
    given = (
        {"wrt": ("inv_freq",), "offset": 3, "role": "query"}
        if rope is DECAY
        else {"wrt": ("inv_freq",)}
    )
    if rope is ROPE:
        (both,) = rope.vjp(dys[0], half[1], primals=(arrays[0], half[0]), **given)
        parts = [rope.vjp(dy, primals=x, **given)[0] for x, dy in ((arrays[0], dys[0]), half)]
        assert close(both, sum(parts), 1e-12)


@pytest.mark.parametrize("shape", [(5, 12), (3, 5, 12), (2, 2, 3, 5, 12)], ids=str)
def test_gradients_of_any_rank(shape):
    x, dy = numbers(2, *shape)
    check_gradients(ROPE, (x,), (dy,), numbers(5), numbers(6), seq_axis=len(shape) - 2)


def test_gradients_of_complex_arrays():
    x, dy = (random_array((*SHAPE[:-1], 6), "complex128", seed) for seed in (1, 2))
    check_gradients(ROPE, (x,), (dy,), numbers(2, 5), numbers(6))


def exact_gradients(x, dy, p, f):
    """The gradients by positions (S,) and frequencies (pairs,) of arrays (S, D) of halves, with mpmath."""
    pairs = len(f)
    with mpmath.workprec(200):
        by_position = [mpmath.mpf(0)] * len(p)
        by_frequency = [mpmath.mpf(0)] * pairs
        for s, i in np.ndindex(len(p), pairs):
            angle = mpmath.mpf(float(p[s])) * mpmath.mpf(float(f[i]))
            c, sine = mpmath.cos(angle), mpmath.sin(angle)
            a, b, u, v = (
                mpmath.mpf(float(each[s, channel]))
                for each in (x, dy)
                for channel in (i, i + pairs)
            )
            by_angle = u * (-a * sine - b * c) + v * (a * c - b * sine)
            by_position[s] += by_angle * mpmath.mpf(float(f[i]))
            by_frequency[i] += by_angle * mpmath.mpf(float(p[s]))
    return np.array(by_position, float), np.array(by_frequency, float)


@pytest.mark.parametrize("far", [0, 10**9, 2**60])
def test_gradients_are_exact_at_any_position(far):
    x, dy = numbers(2, 7, 12)
    p, f = far + np.arange(7) * 3, numbers(6, seed=1)
    dp, df = ROPE.vjp(dy, primals=x, wrt=ALL[1:], positions=p, inv_freq=f)
    want = exact_gradients(x, dy, p.astype(np.float64) if far < 2**53 else p, f)
    if far < 2**53:
        assert close(dp, want[0], 1e-14)
        assert close(df, want[1], 1e-14)
    narrow = [each.astype(np.float32) for each in (x, dy)]
    dp, df = ROPE.vjp(narrow[1], primals=narrow[0], wrt=ALL[1:], positions=p, inv_freq=f)
    if far < 2**53:
        want = exact_gradients(*narrow, p, f)
        assert close(dp, want[0], 1e-6)
        assert close(df, want[1], 1e-6)


def test_gradients_by_the_frequencies_of_the_embedding():
    x, dy = numbers(2, *SHAPE)
    for rope in (
        ROPE,
        SECTIONS,
        RotaryEmbedding(12, layout="half", scaling=Custom(W=numbers(3, 2, 6)), seq_axis=-2),
    ):
        p = numbers(*([] if rope is ROPE else [rope._frequencies.axes]), 5)
        own = rope.vjp(dy, primals=x, wrt=ALL, positions=p)
        assert own[2].shape == rope.inv_freq.shape
        assert equal(own, rope.vjp(dy, primals=x, wrt=ALL, positions=p, inv_freq=rope.inv_freq))


@pytest.mark.parametrize("arguments", [{}, {"offset": 70}, {"offset": [3, 70]}, {"offset": 1.5}])
def test_gradients_by_frequencies_need_no_positions(arguments):
    x, dy = numbers(2, *SHAPE)
    start = np.reshape(arguments.get("offset", 0), (-1, 1))
    p = np.broadcast_to(start + np.arange(5.0), (len(start), 5))
    (got,) = ROPE.vjp(dy, primals=x, wrt=("inv_freq",), **arguments)
    (want,) = ROPE.vjp(dy, primals=x, wrt=("inv_freq",), positions=p)
    assert close(got, want, 1e-14)


def test_gradients_of_packed_sequences():
    x, dy = numbers(2, 9, 3, 12)
    (got,) = ROPE.vjp(dy, primals=x, wrt=("inv_freq",), cu_seqlens=[0, 4, 9], offset=[0, 2])
    p = np.concatenate([np.arange(4), 2 + np.arange(5)])
    (want,) = ROPE.vjp(dy, primals=x, wrt=("inv_freq",), positions=p, seq_axis=0)
    assert close(got, want, 1e-14)


@given(
    st.permutations(ALL).flatmap(lambda names: st.sampled_from([names[:n] for n in (1, 2, 3)])),
    st.integers(1, 3),
)
def test_wrt_gives_one_gradient_for_each_name_in_order(names, count):
    arrays, dys = numbers(2, count, *SHAPE, seed=count)
    whole = dict(
        zip(ALL, ROPE.vjp(*dys, primals=tuple(arrays), wrt=ALL, positions=range(5)), strict=True)
    )
    got = ROPE.vjp(*dys, primals=tuple(arrays), wrt=tuple(names), positions=range(5))
    assert isinstance(got, tuple)
    assert len(got) == len(names)
    for name, value in zip(names, got, strict=True):
        assert isinstance(value, tuple) == (name == "x" and count > 1)
        assert equal(value, whole[name])


def test_x_alone_needs_no_primals():
    dy = random_array(SHAPE)
    assert equal(ROPE.vjp(dy, wrt=("x",)), (ROPE.vjp(dy),))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"wrt": "inv_freq"}, TypeError, "`wrt` must be a tuple of names"),
        ({"wrt": 3}, TypeError, "`wrt` must be a tuple of names"),
        ({"wrt": (1,)}, TypeError, "`wrt` must be a tuple of names"),
        ({"wrt": ()}, ValueError, "`wrt` must name some of"),
        ({"wrt": ("x", "x")}, ValueError, "each once"),
        ({"wrt": ("x", "angle")}, ValueError, "`wrt` must name some of"),
        ({"wrt": ("inv_freq",), "primals": None}, TypeError, "`primals`"),
        ({"wrt": ("positions",), "primals": None, "positions": range(5)}, TypeError, "`primals`"),
        ({"wrt": ("positions",)}, TypeError, "`positions` must be given"),
        ({"wrt": ("positions",), "offset": 3}, TypeError, "`positions` must be given"),
        ({"wrt": ("inv_freq",), "out": True}, ValueError, "`out` takes the gradients of x"),
        (
            {"wrt": ALL[::2], "primals": np.ones((2, 3, 5, 11))},
            ValueError,
            "`primals` must have shape",
        ),
        (
            {"wrt": ALL[::2], "primals": np.ones((2, 3, 5, 12), np.float32)},
            TypeError,
            "`primals` must have dtype",
        ),
        ({"wrt": ALL[::2], "primals": "x"}, TypeError, "`primals` must"),
        (
            {"wrt": ALL[::2], "primals": (np.ones(SHAPE),) * 2},
            ValueError,
            "one array for each of the 1",
        ),
    ],
)
def test_wrong_wrt_and_primals_are_refused(options, error, message):
    dy = numbers(*SHAPE)
    options = {"primals": np.ones(SHAPE), **options}
    if options.get("out"):
        options["out"] = dy
    kept = dy.copy()
    for _ in range(2):
        with pytest.raises(error, match=message):
            ROPE.vjp(dy, **options)
    assert equal(dy, kept)


def test_two_scales_for_a_pair_have_no_closed_form():
    decay = rotary.XPos(16, center=2, scale_layout="interleaved")
    rope = RotaryEmbedding(12, decay=decay, **OPTIONS)
    x = numbers(*SHAPE)
    rope(x, inv_freq=numbers(6), role="query")
    with pytest.raises(TypeError, match=r"`wrt` must be \('x',\)"):
        rope.vjp(x, primals=x, wrt=("inv_freq",), role="query")


# ------------------------------------------------------------------------------------------------
# How the kernel works.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_every_dtype(dtype, layout):
    width = 34 if dtype == "complex64" else 68
    rope = RotaryEmbedding(68, layout=layout, base=100.0, seq_axis=1)
    x, dy = (random_array((2, 40, 3, width), dtype, seed) for seed in (1, 2))
    p = numbers(2, 40)
    dx, dp, df = rope.vjp(dy, primals=x, wrt=ALL, positions=p)
    assert same_bits(dx, rope.vjp(dy, positions=p))
    wide = [each.astype(np.complex128 if dtype == "complex64" else np.float64) for each in (x, dy)]
    want = rope.vjp(wide[1], primals=wide[0], wrt=ALL, positions=p)
    tolerance = 1e-14 if dtype == "float64" else 2e-6
    assert close(dp, want[1], tolerance)
    assert close(df, want[2], tolerance)


@pytest.mark.parametrize("kind", ["strided", "swapped", "read-only", "slice", "transposed"])
def test_any_memory_gives_the_same_gradients(kind):
    x, dy = numbers(2, *SHAPE)
    want = ROPE.vjp(dy, primals=x, wrt=ALL, positions=range(5))

    def moved(x):
        if kind == "strided":
            return np.repeat(x, 2, axis=-1)[..., ::2]
        if kind == "swapped":
            return x.astype(x.dtype.newbyteorder())
        if kind == "slice":
            return np.concatenate([x] * 3, axis=-1)[..., 12:24]
        if kind == "transposed":
            return np.ascontiguousarray(x.transpose(2, 0, 1, 3)).transpose(1, 2, 0, 3)
        x = x.copy()
        x.setflags(write=False)
        return x

    got = ROPE.vjp(moved(dy), primals=moved(x), wrt=ALL, positions=range(5))
    assert same_bits(got[0], want[0])
    assert close(got[1], want[1], 1e-14)
    assert close(got[2], want[2], 1e-14)


@pytest.mark.parametrize("rope", [ROPE, FACTOR, BLOCKS], ids=["plain", "layouts", "blocks"])
def test_out_takes_the_gradients_of_x(rope):
    x, dy = numbers(2, *SHAPE)
    want = rope.vjp(dy, primals=x, wrt=("x", "inv_freq"))
    out = np.empty(SHAPE)
    got = rope.vjp(dy, primals=x, wrt=("x", "inv_freq"), out=out)
    assert got[0] is out
    assert equal(got, want)
    strided = np.empty((*SHAPE[:-1], 24))[..., ::2]
    assert equal(rope.vjp(dy, primals=x, wrt=("x", "inv_freq"), out=strided), want)
    got = rope.vjp(dy, primals=x, wrt=("inv_freq", "x"), out=dy)
    assert got[1] is dy
    assert equal(got[::-1], want)


def test_out_must_not_overlap_what_was_rotated():
    x, dy = numbers(2, *SHAPE)
    kept = x.copy()
    with pytest.raises(ValueError, match="`out` must not overlap `primals"):
        ROPE.vjp(dy, primals=x, wrt=("x", "inv_freq"), out=x)
    frozen = np.empty(SHAPE)
    frozen.setflags(write=False)
    for _ in range(2):
        with pytest.raises(ValueError, match="`out` must be writeable"):
            ROPE.vjp(dy, primals=x, wrt=("x", "inv_freq"), out=frozen)
    assert equal(x, kept)


@pytest.mark.parametrize("shape", [(0, 3, 5, 12), (2, 0, 5, 12), (2, 3, 0, 12)], ids=str)
def test_empty_arrays_have_gradients_of_zero(shape):
    x = np.ones(shape)
    dx, dp, df = ROPE.vjp(x, primals=x, wrt=ALL, positions=np.zeros(shape[2]))
    assert dx.shape == shape
    assert equal((dp, df), (np.zeros(shape[2]), np.zeros(6)))


@pytest.mark.compiled
@pytest.mark.parametrize("case", ["shared", "per row", "per head"])
def test_any_number_of_threads_gives_the_same_bits(case):
    shape = (2, 8, 512, 64)
    rope = RotaryEmbedding(64, **OPTIONS)
    f = rope.inv_freq if case != "per head" else np.stack([rope.inv_freq[None]] * 8)
    rows = {"shared": (512,), "per row": (2, 512), "per head": (1, 2, 8, 512)}[case]
    x, dy = (random_array(shape, "float32", seed) for seed in (1, 2))
    p = numbers(*rows)
    found = []
    for threads in (1, 2, 3):
        with rotary.threads(threads):
            found.append(rope.vjp(dy, primals=x, wrt=ALL, positions=p, inv_freq=f))
    assert equal(found[1], found[0])
    assert equal(found[2], found[0])
    again = rope.vjp(dy, primals=x, wrt=ALL, positions=p, inv_freq=f)
    assert equal(again, found[0])


@pytest.mark.compiled
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_agrees_with_the_formula(case, monkeypatch):
    from rotary import backends
    from rotary.backends import portable

    rope, pairs, rows, options = CASES[case]
    x, dy = numbers(2, *SHAPE)
    arguments = {"positions": np.abs(numbers(*rows)), "inv_freq": numbers(pairs), "wrt": ALL}
    want = rope.vjp(dy, primals=x, **arguments, **options)
    plans._plans.clear()
    monkeypatch.setattr(backends, "host", lambda: portable)
    got = rope.vjp(dy, primals=x, **arguments, **options)
    plans._plans.clear()
    assert all(close(*each, 1e-13) for each in zip(got, want, strict=True))


# ------------------------------------------------------------------------------------------------
# Other libraries.


@pytest.mark.library("torch")
class TestTorch:
    @pytest.mark.parametrize("f", FREQUENCIES.values(), ids=FREQUENCIES)
    @pytest.mark.parametrize("rows", ROWS[::2], ids=str)
    @pytest.mark.parametrize("method", ["__call__", "inverse", "vjp"])
    def test_gradients_and_theirs(self, f, rows, method):
        import torch

        function = getattr(ROPE, method)
        shape = (2, 3, 5, 12) if f.ndim == 3 or len(rows) > 2 else (2, 1, 5, 12)
        x, p, f = (
            torch.from_numpy(each.copy()).requires_grad_()
            for each in (numbers(*shape), numbers(*f.shape[-2:-1], *rows), f)
        )
        rotate = lambda x, p, f: function(x, positions=p, inv_freq=f)  # noqa: E731
        assert torch.autograd.gradcheck(rotate, (x, p, f), fast_mode=True)
        assert torch.autograd.gradgradcheck(rotate, (x, p, f), fast_mode=True)

    @pytest.mark.parametrize("case", CASES)
    def test_agrees_with_vjp(self, case):
        import torch

        rope, pairs, rows, options = CASES[case]
        x, dy = numbers(2, *SHAPE)
        p, f = np.abs(numbers(*rows)), numbers(pairs)
        tensors = [torch.from_numpy(each.copy()).requires_grad_() for each in (x, p, f)]
        y = rope(tensors[0], positions=tensors[1], inv_freq=tensors[2], **options)
        got = torch.autograd.grad(y, tensors, torch.from_numpy(dy))
        want = rope.vjp(dy, primals=x, wrt=ALL, positions=p, inv_freq=f, **options)
        assert equal(tuple(each.numpy() for each in got), want)
        assert torch.autograd.gradgradcheck(
            lambda x, p, f: rope(x, positions=p, inv_freq=f, **options), tensors, fast_mode=True
        )

    def test_two_scales_for_a_pair(self):
        import torch

        decay = rotary.XPos(16, center=2, scale_layout="interleaved")
        rope = RotaryEmbedding(12, decay=decay, **OPTIONS)
        x, f = (torch.from_numpy(numbers(*each)).requires_grad_() for each in (SHAPE, (6,)))
        assert torch.autograd.gradcheck(
            lambda x, f: rope(x, inv_freq=f, role="query"), (x, f), fast_mode=True
        )

    def test_each_input_has_a_gradient_of_its_own_dtype(self):
        import torch

        x = torch.from_numpy(random_array(SHAPE)).requires_grad_()
        p = torch.arange(5, dtype=torch.float64).requires_grad_()
        f = torch.nn.Parameter(torch.rand(6, dtype=torch.bfloat16))
        ROPE(x, positions=p, inv_freq=f).sum().backward()
        assert (x.grad.dtype, p.grad.dtype, f.grad.dtype) == (x.dtype, p.dtype, f.dtype)

    def test_a_graph_keeps_its_inputs_and_nothing_else(self):
        import torch

        kept = []

        def keep(tensor):
            kept.append(tensor)
            return tensor

        x, f = (torch.from_numpy(numbers(*each)).requires_grad_() for each in (SHAPE, (6,)))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            ROPE(x, inv_freq=f)
        assert {each.data_ptr() for each in kept} == {x.data_ptr(), f.data_ptr()}

    def test_a_parameter_without_gradients_is_exact(self):
        import torch

        x, f = random_array(SHAPE), torch.nn.Parameter(torch.rand(6))
        with torch.no_grad():
            got = ROPE(torch.from_numpy(x), offset=10**9, inv_freq=f)
        assert same_bits(got.numpy(), ROPE(x, offset=10**9, inv_freq=f.detach().numpy()))

    def test_writing_to_an_input_before_the_gradient_is_an_error(self):
        import torch

        x, f = (
            torch.from_numpy(numbers(*SHAPE)),
            torch.rand(6, dtype=torch.float64, requires_grad=True),
        )
        y = ROPE(x, inv_freq=f)
        x.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    def test_in_place(self):
        import torch

        x, f = (
            torch.from_numpy(numbers(*SHAPE)),
            torch.rand(6, dtype=torch.float64, requires_grad=True),
        )
        (want,) = torch.autograd.grad((ROPE(x, inv_freq=f) ** 2 * torch.arange(12)).sum(), f)
        y = x.clone()
        ROPE(y, inv_freq=f, out=y)
        (got,) = torch.autograd.grad((y**2 * torch.arange(12)).sum(), f)
        assert close(got.numpy(), want.numpy(), 1e-12)

    def test_transforms_of_functions(self):
        import torch

        x, f = torch.from_numpy(numbers(*SHAPE)), torch.from_numpy(numbers(6))
        loss = lambda f: (ROPE(x, inv_freq=f) ** 3).sum()  # noqa: E731
        leaf = f.clone().requires_grad_()
        loss(leaf).backward()
        assert close(torch.func.grad(loss)(f).numpy(), leaf.grad.numpy(), 1e-12)
        many = torch.stack([f, 2 * f])
        got = torch.func.vmap(lambda f: ROPE(x, inv_freq=f))(many)
        for own, each in zip(got, many, strict=True):
            np.testing.assert_allclose(
                own.numpy(), ROPE(x.numpy(), inv_freq=each.numpy()), atol=1e-14
            )

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("f", [(6,), (2, 6), (3, 2, 6)], ids=str)
    def test_compile_makes_one_graph(self, backend, f):
        import torch

        torch._dynamo.reset()
        x, p, f = (
            torch.from_numpy(numbers(*each)).requires_grad_() for each in (SHAPE, (*f[-2:-1], 5), f)
        )
        loss = lambda x, p, f: (ROPE(x, positions=p, inv_freq=f) ** 2 * torch.arange(12)).sum()  # noqa: E731
        compiled = torch.compile(loss, backend=backend, fullgraph=True)
        want = torch.autograd.grad(loss(x, p, f), (x, p, f))
        got = torch.autograd.grad(compiled(x, p, f), (x, p, f))
        for each, other in zip(got, want, strict=True):
            assert close(each.numpy(), other.numpy(), 1e-12)

    def test_vjp_of_tensors(self):
        import torch

        x, dy = numbers(2, *SHAPE)
        want = ROPE.vjp(dy, primals=x, wrt=ALL, positions=[0, 1, 2, 3, 4])
        got = ROPE.vjp(
            torch.from_numpy(dy), primals=torch.from_numpy(x), wrt=ALL, positions=[0, 1, 2, 3, 4]
        )
        assert all(isinstance(each, torch.Tensor) for each in got)
        assert equal(tuple(each.numpy() for each in got), want)

    def test_a_specification_names_the_argument_of_the_call(self):
        import torch

        for value in (torch.nn.Parameter(torch.rand(6)), torch.rand(6, requires_grad=True)):
            with pytest.raises(TypeError, match="`inv_freq=`"):
                Custom(value)
        with pytest.raises(TypeError, match="`inv_freq=`"):
            RotaryEmbedding(12, layout="half", base=torch.nn.Parameter(torch.tensor(2.0)))


@pytest.mark.library("jax")
class TestJax:
    @pytest.fixture(autouse=True)
    def wide(self):
        import jax

        with jax.enable_x64(True):
            yield

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("compiled", [False, True])
    def test_agrees_with_vjp(self, case, compiled):
        import jax

        rope, pairs, rows, options = CASES[case]
        x, dy = numbers(2, *SHAPE)
        p, f = np.abs(numbers(*rows)), numbers(pairs)
        loss = lambda x, p, f: (rope(x, positions=p, inv_freq=f, **options) * dy).sum()  # noqa: E731
        grad = jax.grad(loss, (0, 1, 2))
        got = (jax.jit(grad) if compiled else grad)(*map(jax.numpy.asarray, (x, p, f)))
        want = rope.vjp(dy, primals=x, wrt=ALL, positions=p, inv_freq=f, **options)
        assert all(close(*each, 1e-12) for each in zip(got, want, strict=True))

    @pytest.mark.parametrize("f", FREQUENCIES.values(), ids=FREQUENCIES)
    def test_every_shape_of_frequencies(self, f):
        import jax

        x, dy = numbers(2, *SHAPE)
        p = numbers(*f.shape[-2:-1], 2, 5)
        loss = lambda f: (ROPE(jax.numpy.asarray(x), positions=p, inv_freq=f) * dy).sum()  # noqa: E731
        (want,) = ROPE.vjp(dy, primals=x, wrt=("inv_freq",), positions=p, inv_freq=f)
        assert close(jax.grad(loss)(jax.numpy.asarray(f)), want, 1e-12)

    def test_vmap_and_scan(self):
        import jax

        x, many = jax.numpy.asarray(numbers(*SHAPE)), jax.numpy.asarray(numbers(4, 6))
        mapped = jax.vmap(lambda f: ROPE(x, inv_freq=f))(many)
        _, scanned = jax.lax.scan(lambda carry, f: (carry, ROPE(x, inv_freq=f)), 0, many)
        for i, f in enumerate(many):
            want = ROPE(np.asarray(x), inv_freq=np.asarray(f))
            np.testing.assert_allclose(mapped[i], want, atol=1e-13)
            np.testing.assert_allclose(scanned[i], want, atol=1e-13)

    def test_known_frequencies_are_exact(self):
        import jax

        x, f = random_array(SHAPE), random_array((6,))
        want = ROPE(x, offset=10**9, inv_freq=f)
        jx, jf = map(jax.numpy.asarray, (x, f))
        assert same_bits(np.asarray(ROPE(jx, offset=10**9, inv_freq=jf)), want)
        traced = jax.jit(lambda x: ROPE(x, offset=10**9, inv_freq=jf))(jx)
        np.testing.assert_allclose(traced, want, atol=1e-6)

    def test_traced_nan_gives_nan_rows(self):
        import jax

        f = numbers(3, 1, 6)
        f[1, 0, 2] = np.nan
        y = jax.jit(lambda f: ROPE(jax.numpy.asarray(numbers(*SHAPE)), inv_freq=f))(f)
        assert np.isnan(y[:, 1]).all()
        assert not np.isnan(y[:, ::2]).any()

    def test_out_is_refused(self):
        import jax

        x = jax.numpy.ones(SHAPE)
        with pytest.raises(TypeError, match="`out`"):
            ROPE(x, inv_freq=jax.numpy.ones(6), out=x)

    def test_a_limit_of_the_context_holds(self):
        import jax

        ntk = rotary.scaling.DynamicNTK(factor=4, max_position=16)
        rope = RotaryEmbedding(12, scaling=ntk, context_length=64, **OPTIONS)
        x = jax.numpy.ones(SHAPE)
        y = jax.jit(lambda p, f: rope(x, positions=p, inv_freq=f))(np.arange(60, 65), np.ones(6))
        assert np.isnan(y[..., 4, :]).all()
        assert not np.isnan(y[..., :4, :]).any()

    def test_a_specification_names_the_argument_of_the_call(self):
        import jax

        with pytest.raises(TypeError, match="`inv_freq=`"):
            jax.jit(lambda f: Custom(f).W)(jax.numpy.ones(6))

    def test_vjp_of_arrays(self):
        import jax

        x, dy = numbers(2, *SHAPE)
        want = ROPE.vjp(dy, primals=x, wrt=ALL, positions=range(5))
        jx, jdy = map(jax.numpy.asarray, (x, dy))
        for vjp in (ROPE.vjp, jax.jit(ROPE.vjp, static_argnames=("wrt",))):
            got = vjp(jdy, primals=jx, wrt=ALL, positions=np.arange(5))
            assert all(isinstance(each, jax.Array) for each in got)
            assert all(close(*each, 1e-13) for each in zip(got, want, strict=True))


@pytest.mark.library("mlx")
class TestMlx:
    @pytest.mark.parametrize("f", FREQUENCIES.values(), ids=FREQUENCIES)
    @pytest.mark.parametrize("compiled", [False, True])
    def test_gradients(self, f, compiled):
        import mlx.core as mx

        x, dy = random_array((2, *SHAPE))
        f = f.astype(np.float32)
        p = numbers(*f.shape[-2:-1], 2, 5).astype(np.float32)
        loss = lambda x, p, f: (ROPE(x, positions=p, inv_freq=f) * mx.array(dy)).sum()  # noqa: E731
        grad = mx.grad(loss, (0, 1, 2))
        got = (mx.compile(grad) if compiled else grad)(*map(mx.array, (x, p, f)))
        want = ROPE.vjp(dy, primals=x, wrt=ALL, positions=p, inv_freq=f)
        assert all(close(*each, 2e-6) for each in zip(got, want, strict=True))

    def test_known_frequencies_are_exact(self):
        import mlx.core as mx

        x, f = random_array(SHAPE), random_array((6,))
        got = ROPE(mx.array(x), offset=10**9, inv_freq=mx.array(f))
        np.testing.assert_allclose(np.array(got), ROPE(x, offset=10**9, inv_freq=f), atol=1e-6)

    def test_positions_have_gradients_without_frequencies_too(self):
        import mlx.core as mx

        x, p = random_array(SHAPE), np.arange(5, dtype=np.float32)
        got = mx.grad(lambda p: ROPE(mx.array(x), positions=p).sum())(mx.array(p))
        (want,) = ROPE.vjp(np.ones_like(x), primals=x, wrt=("positions",), positions=p)
        assert close(got, want, 2e-6)

    def test_second_gradients_and_jvp(self):
        import mlx.core as mx

        x, f = mx.array(random_array(SHAPE)), mx.array(random_array((6,)))
        loss = lambda f: (ROPE(x, inv_freq=f) * x).sum()  # noqa: E731
        first = mx.grad(loss)
        (moved,) = mx.jvp(loss, [f], [mx.ones(6)])[1]
        assert close(moved, np.array(first(f)).sum(), 1e-5)
        got = np.array(mx.grad(lambda f: first(f).sum())(f))
        wide = lambda f: ROPE.vjp(  # noqa: E731
            np.array(x, np.float64), primals=np.array(x, np.float64), wrt=("inv_freq",), inv_freq=f
        )[0].sum()
        assert close(got, difference(wide, np.array(f, np.float64), 1e-5), 1e-4)


@pytest.mark.library("dask")
def test_dask():
    import dask.array as da

    x, f = numbers(*SHAPE), numbers(6)
    lazy = da.from_array(x, chunks=2)
    assert equal(
        ROPE(lazy, offset=[3, 9], inv_freq=f).compute(), ROPE(x, offset=[3, 9], inv_freq=f)
    )
    got = ROPE(lazy, inv_freq=da.from_array(f))
    np.testing.assert_allclose(got.compute(), ROPE(x, inv_freq=f), atol=1e-13)


@pytest.mark.library("array-api-strict")
def test_array_api_strict():
    import array_api_strict as strict

    x, dy = numbers(2, *SHAPE)
    f, p = numbers(6), numbers(2, 5)
    got = ROPE(strict.asarray(x), positions=strict.asarray(p), inv_freq=strict.asarray(f))
    np.testing.assert_allclose(np.from_dlpack(got), ROPE(x, positions=p, inv_freq=f), atol=1e-14)
    found = ROPE.vjp(
        strict.asarray(dy), primals=strict.asarray(x), wrt=ALL, positions=strict.asarray(p)
    )
    want = ROPE.vjp(dy, primals=x, wrt=ALL, positions=p)
    assert all(close(np.from_dlpack(a), b, 1e-13) for a, b in zip(found, want, strict=True))


@pytest.mark.library("torch")
@pytest.mark.library("jax")
def test_unknown_arguments_must_be_of_one_library():
    import jax
    import torch

    f = torch.rand(6, requires_grad=True)
    with pytest.raises(TypeError, match="`inv_freq`"):
        jax.jit(lambda x: ROPE(x, inv_freq=f))(jax.numpy.ones(SHAPE, "float32"))


# ------------------------------------------------------------------------------------------------
# The embedding is a static node of JAX's trees.


STATIC = """
import sys
{first}
import rotary
assert {early} == ("jax" in sys.modules)
rope = rotary.RotaryEmbedding(8, layout="half", base=100.0, seq_axis=-2)
import jax
{use}
import jax.numpy as jnp
assert jax.tree.leaves(rope) == []
assert jax.tree.structure(rope) == jax.tree.structure(
    rotary.RotaryEmbedding(8, layout="half", base=100.0, seq_axis=-2)
)
x = jnp.ones((1, 2, 3, 8))
assert jax.jit(lambda tree: tree["rope"](tree["x"]))({{"rope": rope, "x": x}}).shape == x.shape
{modules}
"""
MODULES = """
import equinox

class Attention(equinox.Module):
    rope: rotary.RotaryEmbedding
    inv_freq: jax.Array

    def __call__(self, x):
        return self.rope(x, inv_freq=self.inv_freq)

module = Attention(rope, jnp.ones(4))
gradient = equinox.filter_jit(equinox.filter_grad(lambda m, x: (m(x) ** 2 * x).sum()))(module, x)
assert gradient.inv_freq.shape == (4,)
"""


@pytest.mark.library("jax")
@pytest.mark.parametrize(
    ("first", "use"),
    [
        ("import jax", ""),
        ("", "rope(jax.numpy.ones((1, 2, 3, 8)))"),
        ("", "import numpy; rope(numpy.ones((1, 2, 3, 8)))"),
        ("", "rotary.RotaryEmbedding(4, layout='half', base=100.0)"),
    ],
    ids=["JAX first", "used with JAX", "used with NumPy", "made later"],
)
def test_an_embedding_is_static_for_jax(first, use):
    has_equinox = importlib.util.find_spec("equinox") is not None
    code = STATIC.format(
        first=first, early=bool(first), use=use, modules=MODULES if has_equinox else ""
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", modules("torch", "jax.numpy"))
@pytest.mark.parametrize("position", [10**5, 2**60 + 1])
def test_tables_of_known_frequencies_are_exact(name, position):
    xp = importlib.import_module(name)
    given = xp.asarray(np.asarray(ROPE.inv_freq, np.float32))
    known = np.asarray(given)
    for got, want in zip(
        ROPE.tables([position], inv_freq=given),
        ROPE.tables([position], inv_freq=known),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(got), want)
