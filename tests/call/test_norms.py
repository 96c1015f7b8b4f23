"""QK-norm: queries and keys divided by their root mean square in the call that rotates them."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from helpers import (
    DTYPES,
    LAYOUTS,
    as_dtype,
    exact_cos_sin,
    kernel_in_use,
    pairs_of,
    random_array,
    same_bits,
)
from hypothesis import given
from hypothesis import strategies as st

import rotary
from rotary import RMSNorm, RotaryEmbedding
from rotary.call import plans

REAL = [dtype for dtype in DTYPES if "complex" not in dtype]
UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
COMPUTED = {"float64": "float64"}
OPTIONS = {"layout": "half", "base": 100.0, "seq_axis": -2}
ROPE = RotaryEmbedding(8, **OPTIONS)
KINDS = list(itertools.product(("before", "after"), ("rms", "l2"), ("head", "token")))


def formula(rope, x, weight, norm, heads=1, **call):
    """The norm and the rotation, each in float64."""

    def normed(y):
        axes = (-1,) if norm.over == "head" else (heads, -1)
        size = (y * y).sum(axes, keepdims=True)
        if norm.kind == "rms":
            size = size / np.prod([y.shape[axis] for axis in axes])
        y = y / np.sqrt(size + norm.eps)
        if weight is None:
            return y
        own = np.asarray(weight).astype(float) + norm.unit_offset
        shape = [1] * y.ndim
        shape[-1] = y.shape[-1]
        if own.size > y.shape[-1]:
            shape[heads] = y.shape[heads]
        return y * own.reshape(shape)

    wide = np.asarray(x).astype(float)
    if norm.order == "after":
        return normed(rope(wide, **call))
    return rope(normed(wide), **call)


def error(got, want, dtype):
    """The largest error, in unit roundoffs of the largest element of its row, besides the rounding to 16 bits."""
    difference = np.abs(got.astype(float) - want)
    largest = np.abs(want).max(-1, keepdims=True)
    if dtype in ("float16", "bfloat16"):
        rounding = np.maximum(UNITS[dtype] * np.abs(want), 2.0**-25)
        difference = np.maximum(0, difference - rounding)
        largest = largest + 2.0**-14
    unit = UNITS[COMPUTED.get(dtype, "float32")]
    return (difference / (unit * largest)).max(initial=0.0)


def most(dtype):
    """The promised bound; the library's own operations sum in its own precision."""
    return 16.0 if kernel_in_use() == "cpu" else 24.0


# ------------------------------------------------------------------------------------------------
# Results.


@pytest.mark.arithmetic
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("order", "kind", "over"), KINDS)
@pytest.mark.parametrize("dtype", REAL)
def test_every_library_follows_the_formula(xp, dtype, order, kind, over, layout):
    rope = RotaryEmbedding(8, layout=layout, base=100.0, seq_axis=-2)
    q, k = random_array((2, 4, 5, 8), dtype), random_array((2, 2, 5, 8), dtype, 1)
    weights = [
        random_array((x.shape[1], 8) if over == "token" else 8, "float32", 2) for x in (q, k)
    ]
    options = {"order": order, "kind": kind, "over": over, "unit_offset": kind == "rms"}
    norm = RMSNorm(*map(xp.asarray, weights), **options)
    results = rope(xp.asarray(q), xp.asarray(k), offset=3, norm=norm)
    for x, weight, result in zip((q, k), weights, results, strict=True):
        got = xp.to_numpy(result)
        assert got.dtype == x.dtype
        assert error(got, formula(rope, x, weight, norm, offset=3), dtype) <= 24


@pytest.mark.arithmetic
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_of_numpy_norm_arrays_of_every_library(xp, dtype):
    x, weight = random_array((2, 4, 5, 8), dtype), random_array((4, 8), dtype, 1)
    norm = RMSNorm(weight)
    got = xp.to_numpy(ROPE(xp.asarray(x), norm=norm))
    assert error(got, formula(ROPE, x, weight, norm), dtype) <= 24


def exact(x, weight, inv_freq, position, eps, layout):
    """A normed and rotated row, to many digits."""
    with mpmath.workdps(60):
        row = [mpmath.mpf(float(each)) for each in x]
        size = mpmath.sqrt(mpmath.fsum(each**2 for each in row) / len(row) + mpmath.mpf(eps))
        row = [each / size * mpmath.mpf(float(w)) for each, w in zip(row, weight, strict=True)]
        for (a, b), frequency in zip(pairs_of(len(x), layout), inv_freq, strict=True):
            cosine, sine = (
                mpmath.mpf(each) / mpmath.mpf(2) ** 220
                for each in exact_cos_sin(position, frequency)
            )
            row[a], row[b] = row[a] * cosine - row[b] * sine, row[b] * cosine + row[a] * sine
        return row


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [2, 6, 32, 64, 128, 160, 256])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_are_bounded(dtype, width, layout):
    rope = RotaryEmbedding(width, layout=layout, base=10_000.0)
    x, weight = random_array((3, width), dtype, width), random_array(width, dtype, 1)
    x[1] *= np.exp2(np.arange(width) % 37 - 18)
    got = rope(x, offset=1000, norm=RMSNorm(weight, eps=1e-5))
    for row, (source, result) in enumerate(zip(x, got, strict=True)):
        want = exact(source, weight, rope.inv_freq.tolist(), 1000 + row, 1e-5, layout)
        largest = max(map(abs, want))
        errors = [abs(mpmath.mpf(float(a)) - b) for a, b in zip(result, want, strict=True)]
        assert max(errors) <= most(dtype) * UNITS[dtype] * largest


@pytest.mark.compiled
@pytest.mark.parametrize("power", [-118, -90, -70, 60, 70, 120])
def test_squares_of_float32_neither_overflow_nor_vanish(power):
    x = np.ldexp(random_array((3, 8)), power).astype(np.float32)
    norm = RMSNorm(None, eps=4.0**power * 1e-3)
    plain = RMSNorm(None, eps=1e-3)
    got, want = ROPE(x, norm=norm), ROPE(np.ldexp(x, -power).astype(np.float32), norm=plain)
    np.testing.assert_allclose(
        got, want, atol=1e-4 if power < -100 else 1e-6
    )  # few bits are left of small ones


@pytest.mark.parametrize("dtype", REAL)
def test_what_is_not_finite_shows(dtype):
    x = np.ones((5, 8), as_dtype(dtype))
    x[0, 3], x[1, 2], x[2, 0], x[3] = np.inf, -np.inf, np.nan, 0
    got = ROPE(x, norm=RMSNorm(None)).astype(float)
    assert np.isnan(got[:3]).all()
    assert (got[3] == 0).all()
    assert np.isfinite(got[4]).all()


def test_squares_that_overflow_float64_give_nan():
    x = np.full((1, 8), 1e200)
    assert np.isnan(ROPE(x, norm=RMSNorm(None))).all()


def test_the_mean_is_over_all_channels_rotated_or_not():
    rope = RotaryEmbedding(8, layout="half", base=100.0, rotary_dim=4, rotary_start=2)
    x, weight = random_array((3, 8), "float64"), random_array(8, "float64", 1)
    norm = RMSNorm(weight)
    got = rope(x, norm=norm)
    np.testing.assert_allclose(got, formula(rope, x, weight, norm), rtol=1e-14)
    scale = np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(got[:, :2], (x / scale * weight)[:, :2], rtol=1e-14)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(
    "rope",
    [
        RotaryEmbedding(8, output_layout="interleaved", **OPTIONS),
        RotaryEmbedding(8, rotary_dim=4, rotary_start=2, **OPTIONS),
        RotaryEmbedding(8, sections=rotary.sections.chunked(2, 2), **OPTIONS),
        RotaryEmbedding(8, sections=rotary.sections.axial(2, 2), **OPTIONS),
        RotaryEmbedding(
            8,
            quirk="vjepa2",
            sections=rotary.sections.axial(2, 2),
            **OPTIONS | {"layout": "interleaved"},
        ),
        RotaryEmbedding(
            8, scaling=rotary.scaling.Yarn(factor=4, original_max_position=64), **OPTIONS
        ),
        RotaryEmbedding(
            8,
            scaling=rotary.scaling.Custom(W=np.linspace(-1, 1, 12).reshape(3, 1, 4)),
            **OPTIONS | {"base": None},
        ),
        RotaryEmbedding(8, decay=rotary.XPos(64, center=2), **OPTIONS),
        RotaryEmbedding(8, decay=rotary.XPos(64, center=2, scale_layout="interleaved"), **OPTIONS),
    ],
    ids=lambda rope: repr(rope)[16:70],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_it_goes_with_every_embedding(rope, order, dtype):
    x, weight = random_array((2, 3, 5, 8), dtype), random_array(8, "float64", 1)
    role = {"role": "key"} if rope.decay else {}
    for over in ("head", "token"):
        own = np.stack([weight] * 3) if over == "token" else weight
        norm = RMSNorm(own, order=order, over=over)
        got = rope(x, norm=norm, **role)
        assert error(got, formula(rope, x, own, norm, **role), dtype) <= 24
        y = x.copy()
        assert rope(y, norm=norm, out=y, **role) is y
        assert same_bits(y, got)


@pytest.mark.parametrize("over", ["head", "token"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_positions_may_differ_by_head(over, order):
    x, weight = random_array((2, 3, 5, 8)), random_array((3, 8), "float32", 1)
    positions = np.arange(30).reshape(2, 3, 5) % 7
    norm = RMSNorm(weight, over=over, order=order)
    got = ROPE(x, positions=positions, norm=norm)
    assert error(got, formula(ROPE, x, weight, norm, positions=positions), "float32") <= 16
    shared = np.broadcast_to(np.arange(5), (2, 3, 5)) + 2
    assert same_bits(ROPE(x, positions=shared, norm=norm), ROPE(x, offset=2, norm=norm))


def test_packed_sequences_have_heads():
    x, weight = random_array((6, 3, 8)), random_array((3, 8), "float32", 1)
    for over in ("head", "token"):
        norm = RMSNorm(weight, over=over)
        got = ROPE(x, cu_seqlens=[0, 2, 6], norm=norm)
        want = formula(ROPE, x, weight, norm, cu_seqlens=[0, 2, 6])
        assert error(got, want, "float32") <= 16


def test_layout_of_the_weights_is_that_of_what_is_normed():
    rope = RotaryEmbedding(8, layout="interleaved", output_layout="half", base=100.0)
    x, weight = random_array((3, 8), "float64"), np.arange(8.0)
    first = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rope(x, norm=RMSNorm(weight)), rope(first * weight), atol=1e-13)
    after = RMSNorm(weight, order="after")
    np.testing.assert_allclose(rope(x, norm=after), rope(first) * weight, atol=1e-13)


def test_weights_of_each_array():
    q, k, v = (random_array((2, 3, 5, 8), "float64", seed) for seed in range(3))
    weight = random_array(8, "float64", 3)
    got = ROPE(q, k, v, norm=RMSNorm(weight, None, False))
    for x, one, own in zip((q, k), (weight, None), got, strict=False):
        norm = RMSNorm(one)
        np.testing.assert_allclose(own, formula(ROPE, x, one, norm), rtol=1e-13, atol=1e-15)
    assert same_bits(got[2], ROPE(v))
    for x, own in zip((q, k, v), ROPE(q, k, v, norm=RMSNorm(weight)), strict=True):
        assert same_bits(own, ROPE(x, norm=RMSNorm(weight)))
    assert all(map(same_bits, ROPE(q, k, norm=RMSNorm(False)), ROPE(q, k)))


def test_lists_are_weights():
    x = random_array((3, 8))
    assert same_bits(
        ROPE(x, norm=RMSNorm([1, 2, 3, 4, 5, 6, 7, 8])), ROPE(x, norm=RMSNorm(np.arange(1.0, 9)))
    )


@pytest.mark.parametrize("dtype", REAL)
def test_weights_of_any_dtype_count_as_they_are_in_the_arithmetic(dtype):
    x, weight = random_array((3, 8)), random_array(8, dtype, 1)
    assert same_bits(ROPE(x, norm=RMSNorm(weight)), ROPE(x, norm=RMSNorm(weight.astype("float32"))))


# ------------------------------------------------------------------------------------------------
# The same bits.


@pytest.mark.parametrize(("order", "kind", "over"), KINDS)
@pytest.mark.parametrize("dtype", REAL)
def test_bits_do_not_depend_on_memory_or_company(dtype, order, kind, over):
    q, k = random_array((2, 3, 5, 40), dtype), random_array((2, 2, 5, 40), dtype, 1)
    rope = RotaryEmbedding(40, **OPTIONS)
    weights = [
        random_array((x.shape[1], 40) if over == "token" else 40, "float32", 2) for x in (q, k)
    ]
    options = {"order": order, "kind": kind, "over": over}
    norm, alone = RMSNorm(*weights, **options), RMSNorm(weights[0], **options)
    want, other = rope(q, k, norm=norm)
    assert same_bits(rope(q, norm=alone), want)
    outputs = np.empty_like(q), np.empty_like(k)
    rope(q, k, norm=norm, out=outputs)
    assert all(map(same_bits, outputs, (want, other)))
    own = q.copy(), k.copy()
    rope(*own, norm=norm, out=own)
    assert all(map(same_bits, own, (want, other)))
    for axes in ((0, 1, 2, 3), (2, 1, 0, 3), (0, 2, 1, 3), (3, 2, 1, 0)):
        back = np.argsort(axes)
        moved = np.array(q.transpose(axes), order="C").transpose(back)
        assert same_bits(rope(moved, norm=alone), want)
        assert same_bits(rope(moved, norm=alone, out=moved), want)
    sliced = np.zeros((2, 3, 5, 80), q.dtype)[..., ::2]
    sliced[...] = q
    assert same_bits(rope(sliced, norm=alone), want)
    swapped = q.astype(q.dtype.newbyteorder()) if dtype != "bfloat16" else q
    assert same_bits(rope(swapped, norm=alone), want)


@pytest.mark.compiled
@pytest.mark.parametrize("over", ["head", "token"])
def test_bits_do_not_depend_on_threads(over):
    x = random_array((1, 8, 1200, 64))
    norm = RMSNorm(random_array((8, 64), "float32", 1), over=over)
    rope = RotaryEmbedding(64, **OPTIONS)
    with rotary.threads(1):
        want = rope(x, norm=norm)
    with rotary.threads(2):
        assert same_bits(rope(x, norm=norm), want)
    assert same_bits(rope(x[:, :, 700:], offset=700, norm=norm), want[:, :, 700:])


# ------------------------------------------------------------------------------------------------
# Laws.

ROWS = st.integers(0, 2**32 - 1).map(lambda seed: random_array((3, 8), "float32", seed))


@given(
    ROWS, st.integers(-30, 30), st.sampled_from(["rms", "l2"]), st.sampled_from(["before", "after"])
)
def test_powers_of_two_cancel(x, power, kind, order):
    one = RMSNorm(None, eps=2.0**-20, kind=kind, order=order)
    other = RMSNorm(None, eps=2.0**-20 * 4.0**power, kind=kind, order=order)
    scaled = np.ldexp(x, power).astype(np.float32)
    assert same_bits(ROPE(scaled, norm=other), ROPE(x, norm=one))


@given(ROWS, st.integers(-(2**40), 2**40))
def test_a_rotation_keeps_what_is_divided_by(x, offset):
    before, after = (
        ROPE(x, offset=offset, norm=RMSNorm(None, order=order)) for order in ("before", "after")
    )
    np.testing.assert_allclose(before, after, atol=3e-6)
    np.testing.assert_allclose((before.astype(float) ** 2).mean(-1), 1, atol=1e-4)


@given(ROWS)
def test_a_mean_is_a_sum_of_other_size(x):
    root = np.float32(2.0**1.5)
    mean = ROPE(x, norm=RMSNorm(None, eps=1e-6))
    total = ROPE(x, norm=RMSNorm(None, eps=8e-6, kind="l2"))
    np.testing.assert_allclose(mean, total * root, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------------------
# References to weights.


@pytest.mark.arithmetic
@pytest.mark.parametrize("unit_offset", [False, True])
def test_a_weight_changed_in_place_counts(unit_offset):
    x, weight = random_array((3, 8)), np.ones(8, np.float32)
    norm = RMSNorm(weight, unit_offset=unit_offset)
    first = ROPE(x, norm=norm)
    weight *= 2
    again = ROPE(x, norm=norm)
    assert not same_bits(first, again)
    assert same_bits(again, ROPE(x, norm=RMSNorm(weight.copy(), unit_offset=unit_offset)))


def test_no_plan_keeps_numbers():
    x = random_array((3, 8))
    plans._plans.clear()
    for scale in (1, 2, 4):
        got = ROPE(x, norm=RMSNorm(np.full(8, scale, np.float32)))
        assert same_bits(got, np.float32(scale) * ROPE(x, norm=RMSNorm(np.ones(8, np.float32))))
    assert len(plans._plans.held) == 1


def test_norms_are_values_but_for_their_weights():
    weight = np.ones(8, np.float32)
    norm = RMSNorm(
        weight, None, False, eps=1e-5, unit_offset=True, order="after", kind="l2", over="token"
    )
    assert norm.weights[0] is weight
    assert norm.weights[1:] == (None, False)
    assert repr(norm) == (
        "RMSNorm(<float32 (8,)>, None, False, eps=1e-05, unit_offset=True, order='after', kind='l2', over='token')"
    )
    with pytest.raises(AttributeError):
        norm.eps = 1.0
    assert RMSNorm(weight) != RMSNorm(weight)


# ------------------------------------------------------------------------------------------------
# Errors.

W8 = np.ones(8, np.float32)


@pytest.mark.parametrize(
    ("make", "kind", "names"),
    [
        (RMSNorm, TypeError, "`weights`"),
        (lambda: RMSNorm(True), TypeError, "`weights`"),
        (lambda: RMSNorm(1.0), TypeError, "`weights`"),
        (lambda: RMSNorm("ones"), TypeError, "`weights`"),
        (lambda: RMSNorm(["a"]), TypeError, "`weights`"),
        (lambda: RMSNorm([[1.0], [1.0, 2.0]]), ValueError, "`weights`"),
        (lambda: RMSNorm(np.ones(8, int)), TypeError, "`weights`"),
        (lambda: RMSNorm(np.ones(8, complex)), TypeError, "`weights`"),
        (lambda: RMSNorm(np.ones((2, 2, 8))), ValueError, "`weights`"),
        (lambda: RMSNorm(np.ones(())), ValueError, "`weights`"),
        (lambda: RMSNorm(np.ma.masked_array(W8)), TypeError, "`weights`"),
        (lambda: RMSNorm(W8, eps=0), ValueError, "`eps`"),
        (lambda: RMSNorm(W8, eps=-1e-6), ValueError, "`eps`"),
        (lambda: RMSNorm(W8, eps=np.nan), ValueError, "`eps`"),
        (lambda: RMSNorm(W8, eps="small"), TypeError, "`eps`"),
        (lambda: RMSNorm(W8, unit_offset=1), TypeError, "`unit_offset`"),
        (lambda: RMSNorm(W8, order="first"), ValueError, "`order`"),
        (lambda: RMSNorm(W8, kind="layer"), ValueError, "`kind`"),
        (lambda: RMSNorm(W8, over="batch"), ValueError, "`over`"),
        (lambda: RMSNorm(W8, epsilon=1e-6), TypeError, "`eps`"),
    ],
)
def test_wrong_norms_are_refused(make, kind, names):
    with pytest.raises(kind, match=names):
        make()


Q, K = random_array((2, 4, 5, 8)), random_array((2, 2, 5, 8))


@pytest.mark.parametrize(
    ("call", "kind", "names"),
    [
        (lambda: ROPE(Q, norm=W8), TypeError, "`norm`"),
        (lambda: ROPE(Q, norm=lambda x: x), TypeError, "`norm`"),
        (lambda: ROPE(Q, K, norm=RMSNorm(W8, W8, W8)), ValueError, "`norm`.*2 arrays"),
        (lambda: ROPE(Q, norm=RMSNorm(W8, W8)), ValueError, "`norm`"),
        (lambda: ROPE(Q, norm=RMSNorm(np.ones(7))), ValueError, r"`norm`.*\(8,\).*\(7,\)"),
        (lambda: ROPE(Q, norm=RMSNorm(np.ones((2, 8)))), ValueError, r"`norm`.*\(4, 8\).*\(2, 8\)"),
        (lambda: ROPE(Q, K, norm=RMSNorm(np.ones((4, 8)))), ValueError, "`k`"),
        (lambda: ROPE(Q, norm=RMSNorm(W8, over="token")), ValueError, r"`norm`.*\(32,\)"),
        (lambda: ROPE(Q[0, 0], norm=RMSNorm(W8, over="token")), ValueError, "`x`.*heads.*none"),
        (lambda: ROPE(Q[0, 0], norm=RMSNorm(np.ones((1, 8)))), ValueError, "`x`.*heads"),
        (lambda: ROPE(Q[None], norm=RMSNorm(None, over="token")), ValueError, "`x`.*heads.*1, 2"),
        (lambda: ROPE(Q[..., :4] + 1j, norm=RMSNorm(W8)), TypeError, "`x`.*real"),
        (lambda: ROPE.inverse(Q, norm=RMSNorm(W8)), TypeError, "`norm`.*undone"),
        (lambda: ROPE.shift(Q, 1, norm=RMSNorm(W8)), TypeError, "`norm`.*undone"),
    ],
)
def test_norms_that_do_not_fit_are_refused(call, kind, names):
    with pytest.raises(kind, match=names):
        call()


def test_nothing_is_written_if_an_argument_is_wrong():
    q, k = Q.copy(), K.copy()
    for wrong in (
        {"positions": [1, 2]},
        {"positions": [1, 2, 3, 4, 2**70]},
        {"offset": 2**63 - 2},
        {"out": (q, q)},
    ):
        with pytest.raises((TypeError, ValueError)):
            ROPE(q, k, norm=RMSNorm(W8), **{"out": (q, k)} | wrong)
        assert same_bits(q, Q)
        assert same_bits(k, K)


@pytest.mark.library("torch")
def test_weights_of_another_library_are_refused():
    import torch

    with pytest.raises(TypeError, match=r"`norm`.*library of `x`"):
        ROPE(Q, norm=RMSNorm(torch.ones(8)))


def test_one_head_norms_over_the_token_with_a_weight_of_one_head():
    x = random_array((2, 1, 5, 8))
    for weight in (W8, W8[None]):
        assert same_bits(ROPE(x, norm=RMSNorm(weight, over="token")), ROPE(x, norm=RMSNorm(W8)))


def test_empty_arrays_stay_empty():
    for shape in ((0, 3, 5, 8), (2, 3, 0, 8), (2, 0, 5, 8)):
        for over in ("head", "token"):
            assert ROPE(np.ones(shape), norm=RMSNorm(None, over=over)).shape == shape


# ------------------------------------------------------------------------------------------------
# Gradients.

GRADIENT_KINDS = [(*kind, unit_offset) for kind in KINDS for unit_offset in (False, True)]


def gradient_case(order, kind, over, unit_offset):
    """A function of two arrays and their weights, and float64 arguments for it."""
    rope = RotaryEmbedding(4, output_layout="interleaved", **OPTIONS)
    options = {"order": order, "kind": kind, "over": over, "unit_offset": unit_offset, "eps": 1e-3}
    shapes = (1, 2, 2, 4), (1, 1, 2, 4), (2, 4), (1, 4) if over == "token" else (4,)

    def normed(q, k, *weights):
        return rope(q, k, offset=2, norm=RMSNorm(*weights, **options))

    return normed, [random_array(shape, "float64", seed) for seed, shape in enumerate(shapes)]


@pytest.mark.library("torch")
@pytest.mark.parametrize(("order", "kind", "over", "unit_offset"), GRADIENT_KINDS)
def test_gradients_of_tensors(order, kind, over, unit_offset):
    import torch

    normed, arrays = gradient_case(order, kind, over, unit_offset)
    tensors = [torch.from_numpy(each).requires_grad_() for each in arrays]
    assert torch.autograd.gradcheck(normed, tensors)
    assert torch.autograd.gradgradcheck(normed, tensors)
    results = normed(*tensors)
    assert all(each.grad_fn.name().startswith("NormedRotation") for each in results)
    with torch.no_grad():
        assert all(map(torch.equal, normed(*tensors), results))
    for got, want in zip(results, normed(*arrays), strict=True):
        assert same_bits(got.detach().numpy(), want) or kernel_in_use() != "cpu"


@pytest.mark.library("torch")
def test_tensors_that_are_written_to_before_the_gradient_is_computed_raise():
    import torch

    q, weight = torch.ones(3, 8), torch.ones(8, requires_grad=True)
    result = ROPE(q, norm=RMSNorm(weight))
    with torch.no_grad():
        weight *= 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


@pytest.mark.library("torch")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gradients_have_the_dtypes_of_what_they_are_by(dtype):
    import torch

    q = torch.ones(3, 8, dtype=getattr(torch, dtype), requires_grad=True)
    weight = torch.ones(8, requires_grad=True)
    ROPE(q, norm=RMSNorm(weight)).sum().backward()
    assert (q.grad.dtype, weight.grad.dtype) == (q.dtype, weight.dtype)


@pytest.mark.library("torch")
def test_tensors_are_normed_in_place():
    import torch

    q, weight = torch.ones(3, 8), torch.arange(8.0)
    want = ROPE(q, norm=RMSNorm(weight))
    assert ROPE(q, norm=RMSNorm(weight), out=q) is q
    assert torch.equal(q, want)


@pytest.mark.library("jax")
@pytest.mark.parametrize(("order", "kind", "over", "unit_offset"), GRADIENT_KINDS)
def test_gradients_in_jax(order, kind, over, unit_offset):
    import jax
    from jax.test_util import check_grads

    normed, arrays = gradient_case(order, kind, over, unit_offset)
    with jax.enable_x64(True):
        own = [jax.numpy.asarray(each) for each in arrays]
        eager, compiled = normed(*own), jax.jit(normed)(*own)
        check_grads(normed, own, 1, modes=["rev"], rtol=1e-6)
        for a, b in zip(eager, compiled, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.library("torch", "jax")
def test_gradients_agree_between_libraries():
    import jax
    import torch

    normed, arrays = gradient_case("before", "rms", "head", False)
    tensors = [torch.from_numpy(each).requires_grad_() for each in arrays]
    sum(each.sin().sum() for each in normed(*tensors)).backward()
    with jax.enable_x64(True):
        found = jax.grad(
            lambda *each: sum(jax.numpy.sin(y).sum() for y in normed(*each)), argnums=(0, 1, 2, 3)
        )(*map(jax.numpy.asarray, arrays))
        for tensor, other in zip(tensors, found, strict=True):
            np.testing.assert_allclose(tensor.grad.numpy(), other, rtol=1e-11, atol=1e-13)


@pytest.mark.feature("jit")
def test_traced_arrays_are_normed(xp):
    x, weight = random_array((2, 3, 4, 8)), random_array((3, 8), "float32", 1)

    def normed(each, own):
        return ROPE(each, norm=RMSNorm(own, over="token"))

    want = ROPE(x, norm=RMSNorm(weight, over="token"))
    compiled = xp.jit(normed)
    got = xp.to_numpy(compiled(xp.asarray(x), xp.asarray(weight)))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
