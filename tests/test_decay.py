"""xPos: scales by position, inverse for keys, in the layout of the rotation or another one."""

from __future__ import annotations

import dataclasses
import pickle

import ml_dtypes  # noqa: F401  (registers bfloat16)
import mpmath
import numpy as np
import pytest
from helpers import LAYOUTS, random_array, same_bits

import rotary
from rotary import RotaryEmbedding, XPos

# The scale of a head of 64 channels, from the formula of the paper.
ZETA = {0: 0.285714286, 1: 0.308035714, 31: 0.977678571}


def embedding(width=8, layout="half", *, center=3.0, scale_layout=None, seq_axis=-2, **options):
    decay = XPos(512, center=center, scale_layout=scale_layout)
    return RotaryEmbedding(
        width, layout=layout, base=10_000.0, decay=decay, seq_axis=seq_axis, **options
    )


def scale_of(positions, width, layout, center=3.0, unit=512):
    """Return the scale of every channel in a layout, in exact arithmetic."""
    pairs = width // 2
    pair = [c % pairs if layout == "half" else c // 2 for c in range(width)]
    zeta = [(2 * mpmath.mpf(i) + 0.4 * width) / (mpmath.mpf("1.4") * width) for i in range(pairs)]
    return np.array(
        [[float(zeta[i] ** ((mpmath.mpf(p) - center) / unit)) for i in pair] for p in positions]
    )


def test_zeta_is_that_of_the_paper():
    zeta = XPos(512, center=0).zeta(32)
    for pair, value in ZETA.items():
        assert zeta[pair] == pytest.approx(value, abs=5e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale_layout", [None, *LAYOUTS])
@pytest.mark.parametrize("window", [{}, {"rotary_dim": 8, "rotary_start": 1}])
def test_queries_are_scaled_and_keys_by_the_inverse(layout, scale_layout, window):
    width = 10 if window else 8
    rope = embedding(width, layout, scale_layout=scale_layout, **window)
    plain = RotaryEmbedding(width, layout=layout, base=10_000.0, **window)
    positions = [40, -3, 700, 2]
    x = random_array((4, width), "float64")
    scale = np.ones((4, width))
    start = window.get("rotary_start", 0)
    scale[:, start : start + 8] = scale_of(positions, 8, scale_layout or layout)
    q, k = rope(x, x, positions=positions)
    turned = plain(x, positions=positions)
    np.testing.assert_allclose(q, turned * scale, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(k, turned / scale, rtol=1e-13, atol=1e-15)
    assert same_bits(rope(x, positions=positions, role="query"), q)
    assert same_bits(rope(x, positions=positions, role="key"), k)
    for own, name in ((q, "query"), (k, "key")):
        np.testing.assert_allclose(rope.inverse(own, positions=positions, role=name), x, atol=1e-13)
        out = x.copy()
        assert rope(out, positions=positions, role=name, out=out) is out
        assert same_bits(out, own)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale_layout", LAYOUTS)
def test_vjp_is_the_transpose(layout, scale_layout):
    rope = embedding(8, layout, scale_layout=scale_layout)
    x, dy = random_array((5, 8), "float64"), random_array((5, 8), "float64", seed=1)
    for role in ("query", "key"):
        forward = (rope(x, offset=90, role=role) * dy).sum()
        assert forward == pytest.approx((x * rope.vjp(dy, offset=90, role=role)).sum(), rel=1e-13)


def test_scores_decay_with_distance_and_depend_on_nothing_else():
    rope = embedding(center=0)
    q, k = random_array((1, 8), "float64"), random_array((1, 8), "float64", seed=1)

    def score(m, n):
        turned = rope(q, offset=m, role="query"), rope(k, offset=n, role="key")
        return (turned[0] * turned[1]).sum()

    assert score(70, 20) == pytest.approx(score(1070, 1020), rel=1e-12)
    plain = RotaryEmbedding(8, layout="half", base=10_000.0)
    zeta = scale_of([50], 8, "half", center=0)
    exact = (plain(q, offset=50) * zeta * k).sum()
    assert score(50, 0) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shift_changes_the_scale(layout):
    rope = embedding(8, layout)
    x = random_array((2, 5, 8), "float64")
    for role in ("query", "key"):
        shifted = rope.shift(rope(x, offset=4, role=role), [9, -2], role=role)
        np.testing.assert_allclose(shifted, rope(x, offset=[13, 2], role=role), rtol=1e-12)


def test_shift_is_refused_if_the_channels_of_a_pair_have_two_scales():
    rope = embedding(8, "interleaved", scale_layout="half")
    with pytest.raises(TypeError, match="`shift` needs the `scale_layout`"):
        rope.shift(random_array((5, 8)), 3, role="key")
    with pytest.raises(TypeError, match="`tables` needs the `scale_layout`"):
        rope.tables([1], role="key")


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 6e-8), ("float64", 1e-13)])
def test_tables_and_matrix_include_the_scale(dtype, rtol):
    rope = embedding()
    positions = [0, 700]
    scale = scale_of(positions, 8, "half")[:, :4]
    plain = RotaryEmbedding(8, layout="half", base=10_000.0).tables(positions, "float64")
    for own, theirs in zip(rope.tables(positions, dtype, role="query"), plain, strict=True):
        np.testing.assert_allclose(own, theirs * scale, rtol=rtol)
    x = random_array((1, 8), "float64")
    for role in ("query", "key"):
        want = rope(x, offset=700, role=role)[0]
        np.testing.assert_allclose(rope.matrix(700, role=role) @ x[0], want, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale_layout", LAYOUTS)
def test_16_bit_arrays_are_rounded_once(dtype, scale_layout):
    rope = embedding(scale_layout=scale_layout)
    x = random_array((5, 8), dtype)
    wide = rope(x.astype(np.float32), offset=300, role="key")
    assert same_bits(rope(x, offset=300, role="key"), wide.astype(x.dtype))


def test_complex_arrays():
    x = random_array((5, 4), "complex128")
    both = np.stack([x.real, x.imag], -1).reshape(5, 8)
    got = embedding()(x, offset=300, role="key")
    want = embedding(layout="interleaved")(both, offset=300, role="key")
    np.testing.assert_allclose(np.stack([got.real, got.imag], -1).reshape(5, 8), want, rtol=1e-12)
    with pytest.raises(TypeError, match="`x` must be real"):
        embedding(scale_layout="interleaved")(x, role="key")


@pytest.mark.parametrize(
    "scale_layout", [None, pytest.param("interleaved", marks=pytest.mark.arithmetic)]
)
def test_decay_on_all_libraries(xp, scale_layout):
    rope = embedding(scale_layout=scale_layout, seq_axis=-2)
    q, k = random_array((2, 2, 3, 8)), random_array((2, 1, 3, 8), seed=1)
    want = rope(q, k, offset=300)
    got = rope(xp.asarray(q), xp.asarray(k), offset=300)
    for own, wanted in zip(got, want, strict=True):
        assert xp.owns(own)
        np.testing.assert_allclose(xp.to_numpy(own), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.arithmetic
@pytest.mark.feature("traced positions")
@pytest.mark.parametrize("scale_layout", [None, "interleaved"])
def test_traced_positions_on_all_libraries(xp, scale_layout):
    rope = embedding(scale_layout=scale_layout, seq_axis=-2)
    x, positions = random_array((1, 2, 3, 8)), np.array([300, 5, 0])
    run = xp.traced(lambda x, positions: rope(x, positions=positions, role="key"))
    got = xp.to_numpy(run(xp.asarray(x), xp.asarray(positions)))
    np.testing.assert_allclose(got, rope(x, positions=positions, role="key"), rtol=1e-5, atol=3e-6)


@pytest.mark.arithmetic
@pytest.mark.feature("traced positions")
def test_traced_positions_beyond_the_range_of_the_scale_give_nan(xp):
    rope = embedding(seq_axis=-2)
    x, positions = random_array((1, 2, 3, 8)), np.array([10**8, 5, -(10**8)])
    run = xp.traced(lambda x, positions: rope(x, positions=positions, role="key"))
    if xp.name == "torch":  # its compiler calls the rotation with known positions
        with pytest.raises(ValueError, match="`positions` must keep the scale"):
            run(xp.asarray(x), xp.asarray(positions))
        return
    got = xp.to_numpy(run(xp.asarray(x), xp.asarray(positions)))
    assert np.isnan(got).all(axis=-1).tolist() == [[[True, False, True]] * 2]


def test_packed_sequences_and_positions_per_row():
    rope = embedding()
    x = random_array((6, 2, 8))
    packed = rope(x, cu_seqlens=[0, 2, 6], role="query")
    assert same_bits(packed[:, 0], rope(x[:, 0], positions=[0, 1, 0, 1, 2, 3], role="query"))


@pytest.mark.parametrize("place", [10**9, -(10**9)])
def test_a_scale_beyond_the_dtype_is_refused_before_anything_is_written(place):
    rope = embedding()
    q, k = random_array((1, 8)), random_array((1, 8))
    kept = q.copy()
    with pytest.raises(
        ValueError, match="`positions` must keep the scale of `decay` within float32"
    ):
        rope(q, k, offset=place, out=(q, k))
    assert same_bits(q, kept)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: XPos(0, center=0), ValueError, "`scale_base` must be positive"),
        (lambda: XPos(512, center=np.nan), ValueError, "`center` must be finite"),
        (lambda: XPos(512, center=0, gamma=0), ValueError, "`gamma` must be positive"),
        (lambda: XPos(512, center=0, scale_layout="neox"), ValueError, "`scale_layout` must be"),
        (lambda: XPos(512), TypeError, "center"),
        (
            lambda: RotaryEmbedding(8, layout="half", base=1e4, decay=512),
            TypeError,
            "`decay` must be a rotary.XPos, got 512",
        ),
        (lambda: embedding(sections=[0, 1, 0, 1]), ValueError, "`decay` must not be given with"),
        (lambda: embedding()(np.ones((2, 8))), TypeError, "`role` must be 'query' or 'key' for 1"),
        (lambda: embedding()(*[np.ones((2, 8))] * 3), TypeError, "`role` must be 'query' or"),
        (lambda: embedding()(np.ones((2, 8)), role="value"), ValueError, "`role` must be one of"),
        (lambda: embedding().tables([1]), TypeError, "`role` must be"),
        (
            lambda: RotaryEmbedding(8, layout="half", base=1e4)(np.ones((2, 8)), role="key"),
            TypeError,
            "`role` must not be given without `decay`",
        ),
    ],
)
def test_errors(make, kind, message):
    with pytest.raises(kind) as caught:
        make()
    assert message in str(caught.value)


def test_a_decay_is_a_value():
    decay = XPos(center=1)
    assert decay == pickle.loads(pickle.dumps(decay)) == XPos(512.0, center=1.0, gamma=0.4)
    assert dataclasses.replace(decay, center=2) == XPos(center=2)
    rope = embedding()
    assert rope == eval(repr(rope), vars(rotary))
    assert rope != embedding(center=4)
    assert "decay             XPos(scale_base=512.0" in rope.explain()
