"""Shifts of keys to other frequencies, and shifts of 8-bit caches."""

from __future__ import annotations

import importlib

import ml_dtypes
import numpy as np
import pytest
from helpers import LAYOUTS, error_in_units, modules, random_array, rotate_exactly, same_bits
from hypothesis import given
from hypothesis import strategies as st

from rotary import RotaryEmbedding, XPos, scaling, sections

YARN = scaling.Yarn(factor=4.0, original_max_position=64)


def embedding(width=8, layout="half", **options):
    return RotaryEmbedding(width, layout=layout, base=10_000.0, seq_axis=-2, **options)


# ------------------------------------------------------------------------------------------------
# Other frequencies.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("positions", [None, [3, 9, 0, 1], [[3, 1, 0, 10**15], [5, 6, 7, 8]]])
@pytest.mark.parametrize(
    "delta", [0, 5, -2.5, [4, 0], [[1, 2, 3, 4]], [[1, 2, 3, 4], [0, 0, 9, 9]]]
)
def test_shift_to_other_frequencies(layout, positions, delta):
    old = embedding(10, layout, rotary_dim=8, rotary_start=1)
    new = embedding(10, layout, rotary_dim=8, rotary_start=1, scaling=YARN)
    k = random_array((2, 3, 4, 10), "float64")
    places = np.arange(4) if positions is None else np.array(positions)
    # A number, one per batch element, or one per token.
    shifted_positions = places + (
        np.array(delta)[:, None] if np.ndim(delta) == 1 else np.array(delta)
    )
    for one, other in ((old, new), (new, old)):
        place = {"offset": 0} if positions is None else {"positions": positions}
        got = one.shift(one(k, **place), delta, to=other, **place)
        np.testing.assert_allclose(got, other(k, positions=shifted_positions), rtol=0, atol=1e-14)


@given(
    st.integers(-(2**62), 2**62),
    st.integers(-(2**40), 2**40),
    st.lists(st.floats(-3, 3), min_size=2, max_size=2),
    st.lists(st.floats(-3, 3), min_size=2, max_size=2),
)
def test_the_angle_is_reduced_exactly(place, delta, before, after):
    old = RotaryEmbedding(4, layout="half", scaling=scaling.Custom(before))
    new = RotaryEmbedding(4, layout="half", scaling=scaling.Custom(after))
    x = random_array((1, 4), "float64")
    _, size = rotate_exactly(old(x, offset=place), -place, before)
    straight, _ = rotate_exactly(x, place + delta, after)
    got = old.shift(old(x, offset=place), delta, to=new, positions=[place])
    # Two rotations in float64, of the key and of the shift.
    assert error_in_units(got, straight, np.where(size > 0, size, 1)) <= 8.0


def test_dynamic_frequencies_after_at_length(fresh_cache):
    ntk = scaling.DynamicNTK(factor=2.0, max_position=4)
    short = embedding(scaling=ntk, context_length=4)
    long = short.at_length(16)
    k = random_array((1, 1, 4, 8), "float64")
    got = short.shift(short(k), 0, to=long, offset=0)
    np.testing.assert_allclose(got, long(k), rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="`delta` must keep positions below the context_length 16"):
        short.shift(short(k), 14, to=long, offset=0)
    with pytest.raises(ValueError, match="`offset` must keep positions below the context_length 4"):
        short.shift(k, 0, to=long, offset=1)


def test_shift_on_several_axes_and_with_blocks():
    order = sections.axial(2, 2, pairing="within")
    old, new = embedding(sections=order), embedding(sections=order, scaling=YARN)
    positions = np.array([[0, 0, 1, 1], [0, 5, 0, 9]])
    k = random_array((2, 3, 4, 8), "float64")
    got = old.shift(
        old(k, positions=positions), [[[3] * 4], [[1] * 4]], to=new, positions=positions
    )
    want = new(k, positions=positions + np.array([[3], [1]]))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


def test_shift_of_packed_sequences_to_other_frequencies():
    old, new = embedding(), embedding(scaling=YARN)
    k = random_array((6, 2, 8), "float64")
    bounds = [0, 2, 6]
    got = old.shift(old(k, cu_seqlens=bounds), [4, -1], to=new, offset=0, cu_seqlens=bounds)
    want = new(k, cu_seqlens=bounds, offset=[4, -1])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("delta", [5, [[1] * 6]])
def test_bounds_of_packed_sequences_are_checked_whatever_the_delta(delta):
    k = random_array((6, 2, 8))
    with pytest.raises(
        ValueError, match="`cu_seqlens` must end at the sequence length of the arrays, 6"
    ):
        embedding().shift(k, delta, cu_seqlens=[0, 5])


def test_a_shift_that_overflows_exceeds_every_context():
    ntk = scaling.DynamicNTK(factor=2.0, max_position=4)
    bounded = embedding(scaling=ntk, context_length=16)
    with pytest.raises(ValueError, match="`delta` must keep positions below the context_length 16"):
        embedding().shift(random_array((1, 8)), 5, to=bounded, positions=[2**63 - 1])


def test_in_place_and_decay():
    decay = XPos(center=2)
    old, new = embedding(decay=decay), embedding(decay=decay, scaling=YARN)
    k = random_array((2, 3, 4, 8), "float64")
    cached = old(k, role="key")
    want = new(k, offset=3, role="key")
    assert old.shift(cached, 3, to=new, offset=0, role="key", out=cached) is cached
    np.testing.assert_allclose(cached, want, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("to", "kind", "message"),
    [
        (YARN, TypeError, "`to` must be a RotaryEmbedding"),
        (
            embedding(rotary_dim=4),
            ValueError,
            "`to` must have the same rotary_dim as the embedding, 8, got 4",
        ),
        (
            embedding(layout="interleaved"),
            ValueError,
            "the same output_layout as the embedding, half, got",
        ),
        (
            embedding(sections=[0, 0, 1, 1]),
            ValueError,
            "the same number of position axes as the embedding, None, got 2",
        ),
        (
            embedding(decay=XPos(center=0)),
            ValueError,
            "`to` must have the same decay as the embedding",
        ),
        (
            embedding(layout="interleaved", quirk="vjepa2"),
            TypeError,
            "`shift` needs a rotation, got an embedding with the quirk",
        ),
    ],
)
def test_target_embeddings_that_do_not_fit(to, kind, message):
    k = random_array((2, 3, 4, 8))
    with pytest.raises(kind) as caught:
        embedding().shift(k, 0, to=to)
    assert message in str(caught.value)


def test_errors_of_positions():
    k = random_array((2, 3, 4, 8))
    with pytest.raises(ValueError, match="`offset` must not be given without `to`"):
        embedding().shift(k, 1, offset=2)
    with pytest.raises(
        ValueError, match=r"`positions` must be below 2\*\*53 in magnitude if mixed with floats"
    ):
        embedding().shift(k, 0.5, to=embedding(scaling=YARN), positions=[2**53, 0, 0, 0])


@pytest.mark.parametrize("options", [{}, {"cu_seqlens": [0, 1, 4]}, {"scales": 1.0}], ids=str)
def test_a_shift_to_other_frequencies_needs_known_positions(options):
    k = np.ones((4, 1, 8) if "cu_seqlens" in options else (1, 4, 8), np.float32)
    if "scales" in options:
        k = k.astype(np.int8)
    new = embedding(scaling=YARN)
    with pytest.raises(ValueError, match="`positions` or `offset` must be given with `to`"):
        embedding().shift(k, 0, to=new, **options)
    embedding().shift(k, 0, to=new, offset=0, **options)


@pytest.mark.library("torch")
def test_a_compiled_shift_to_other_frequencies_needs_known_positions():
    import torch

    old, new, k = embedding(), embedding(scaling=YARN), torch.ones(1, 4, 8)
    move = torch.compile(lambda k: old.shift(k, 0, to=new), backend="eager")
    with pytest.raises(ValueError, match="`positions` or `offset` must be given with `to`"):
        move(k)


@pytest.mark.library("jax")
def test_traced_positions_are_refused():
    import jax

    def run(k, positions):
        return embedding().shift(k, 0, to=embedding(scaling=YARN), positions=positions)

    with pytest.raises(TypeError, match="`positions` and `delta` must be known"):
        jax.jit(run)(random_array((1, 1, 4, 8)), np.arange(4))


# ------------------------------------------------------------------------------------------------
# Four and eight bits.

KINDS = {"int4": (ml_dtypes.int4, 7.0), "int8": (np.int8, 127.0)}
KINDS["float8_e4m3fn"] = (ml_dtypes.float8_e4m3fn, 448.0)
KINDS["float8_e5m2"] = (ml_dtypes.float8_e5m2, 57344.0)
# The error of quantization, relative to the largest value of the row for int8, and to the value for floats.
STEP = {"int4": 0.5 / 7, "int8": 0.5 / 127, "float8_e4m3fn": 2.0**-4, "float8_e5m2": 2.0**-3}


def quantize(x, kind, axes=-1):
    dtype, greatest = KINDS[kind]
    scales = np.abs(x).max(axis=axes, keepdims=True) / np.float32(greatest)
    values = x / scales
    return (np.rint(values) if kind.startswith("int") else values).astype(dtype), scales


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [-1, -2, (-1, -2), (0, 1, 2, 3)], ids=str)
def test_shift_of_a_quantized_cache(kind, axes):
    rope = embedding(16)
    k = rope(random_array((2, 3, 4, 16)))
    values, scales = quantize(k, kind, axes)
    got, fresh = rope.shift(values, 9, scales=scales)
    assert got.dtype == values.dtype
    assert fresh.shape == scales.shape
    assert fresh.dtype == scales.dtype
    exact = rope.shift(values.astype(np.float32) * scales, 9)
    greatest = np.abs(exact).max(axis=axes, keepdims=True)
    error = np.abs(got.astype(np.float32) * fresh - exact)
    allowed = STEP[kind] * (greatest if kind.startswith("int") else np.abs(exact) + 1e-2 * greatest)
    assert (error <= 1.001 * allowed).all()
    # The new scales are the smallest possible ones.
    np.testing.assert_allclose(fresh, greatest / KINDS[kind][1], rtol=1e-6)


def test_a_scalar_scale_and_a_delta_of_zero():
    rope = embedding()
    values = np.array([[[127, 0, -3, 5, 0, 0, 1, 2]]], np.int8)
    got, fresh = rope.shift(values, 0, scales=0.5)
    assert same_bits(got, values)
    assert fresh.shape == ()
    assert float(fresh) == 0.5
    nothing, _ = rope.shift(np.zeros_like(values), 5, scales=0.5)
    assert not nothing.any()


def test_shift_of_a_quantized_cache_in_place():
    rope = embedding(16)
    values, scales = quantize(rope(random_array((2, 3, 4, 16))), "int8")
    want = rope.shift(values, 9, scales=scales)
    got = rope.shift(values, 9, scales=scales, out=(values, scales))
    assert got[0] is values
    assert got[1] is scales
    assert same_bits(values, want[0])
    assert same_bits(scales, want[1])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [1e-7, 1e-6, 1.0])
def test_values_are_quantized_by_the_returned_scales(kind, size):
    rope = embedding(16)
    values, _ = quantize(random_array((2, 3, 4, 16)), "int8")
    scales = np.full((2, 3, 4, 1), size, kind)
    got, fresh = rope.shift(values, 9, scales=scales)
    assert fresh.dtype == scales.dtype
    step = fresh.astype(np.float32)
    error = got * step - rope.shift(values * scales.astype(np.float32), 9)
    # Half a step, and the same again if a scale that is rounded down clips the largest value.
    assert (np.abs(error) <= 1.01 * step).all()


def test_scales_of_zeros_are_kept_and_scales_of_tiny_values_are_not_zero():
    values = np.zeros((2, 8), np.int8)
    values[1, 0] = 1
    scales = np.array([[0.25], [1e-6]], np.float16)
    got, fresh = embedding().shift(values, 3, scales=scales)
    assert not got[0].any()
    assert fresh.ravel().tolist() == [0.25, 2.0**-24]
    exact = embedding().shift(values * scales.astype(np.float32), 3)
    np.testing.assert_allclose(got * fresh.astype(np.float32), exact, rtol=0, atol=2.0**-25)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of_scales", ["float32", "float16", "bfloat16", "float64"])
def test_slots_with_a_scale_of_zero_stay_zero(kind, of_scales):
    rope = embedding(16)
    values, scales = quantize(rope(random_array((2, 3, 4, 16))), kind)
    dtype = ml_dtypes.bfloat16 if of_scales == "bfloat16" else of_scales
    scales = scales.astype(dtype)
    full = np.ones((2, 3, 4, 1), bool)
    full[0, :, 2], full[1, 1] = False, False
    empty = (
        np.where(full, values, 0).astype(values.dtype),
        np.where(full, scales, 0).astype(dtype),
    )
    with np.errstate(divide="raise", invalid="raise"):
        got, fresh = rope.shift(empty[0], 9, scales=empty[1])
    want, wanted = rope.shift(values, 9, scales=scales)
    rows = np.broadcast_to(full, got.shape)
    assert same_bits(got[rows], want[rows])
    assert same_bits(fresh[full], wanted[full])
    assert not got[~rows].any()
    assert not fresh[~full].any()
    # Old values of an empty slot do not reappear.
    stale, _ = rope.shift(values, 9, scales=empty[1])
    np.testing.assert_array_equal(stale, got)


def test_a_scalar_scale_of_zero_and_shared_scales():
    values = np.zeros((1, 2, 4, 8), np.int8)
    for scales in (0, 0.0, np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 2, 1, 8), np.float16)):
        got, fresh = embedding().shift(values, 3, scales=scales)
        assert not got.any()
        assert not np.asarray(fresh).any()


@pytest.mark.parametrize("name", modules("torch", "jax.numpy"))
def test_scales_of_zero_in_other_libraries(name):
    xp = importlib.import_module(name)
    rope = embedding(16)
    values, scales = quantize(rope(random_array((1, 1, 4, 16))), "int8")
    values[0, 0, 2], scales[0, 0, 2] = 0, 0
    want, wanted = rope.shift(values, 9, scales=scales)
    got, fresh = rope.shift(xp.asarray(values), 9, scales=xp.asarray(scales))
    assert not np.asarray(got)[0, 0, 2].any()
    np.testing.assert_allclose(np.asarray(fresh), wanted, rtol=1e-5)
    assert np.abs(np.asarray(got).astype(int) - want).max() <= 1


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, 1e-40, 1e38])
def test_every_scale_is_checked(bad):
    """Checking only the first and the last scale, or the least and the greatest one, is not enough."""
    rope, values = embedding(), np.ones((5, 8), np.int8)
    for place in range(5):
        scales = np.ones((5, 1), np.float64)
        scales[(place + 1) % 5] = 0.0
        scales[place] = bad
        with pytest.raises(ValueError, match=rf"`scales` must .*, got .* at index \({place}, 0\)"):
            rope.shift(values, 1, scales=scales)


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_values_are_kept_and_affect_no_other_value(kind, bad):
    rope = embedding(16)
    values, scales = quantize(random_array((1, 1, 4, 16)), kind)
    scales *= np.float32(1e6)
    values[0, 0, 1, 3] = bad
    got, fresh = rope.shift(values, 9, scales=scales)
    wide = rope.shift(values.astype(np.float32) * scales, 9)
    np.testing.assert_array_equal(np.isfinite(got.astype(np.float32)), np.isfinite(wide))
    kept = np.isfinite(wide)
    error = np.abs((got.astype(np.float32) * fresh)[kept] - wide[kept])
    assert (error <= STEP[kind] * (np.abs(wide[kept]) + 1e4)).all()


@pytest.mark.parametrize(
    "scales", [1.0, np.ones((1, 2, 1, 1)), np.ones((1, 2, 0, 1))], ids=np.shape
)
def test_shift_of_an_empty_cache(scales):
    got, fresh = embedding().shift(np.ones((1, 2, 0, 8), np.int8), 3, scales=scales)
    assert got.shape == (1, 2, 0, 8)
    assert fresh.shape == np.shape(scales)


@pytest.mark.parametrize(
    ("values", "scales", "kind", "message"),
    [
        (np.ones((2, 8), np.float32), np.ones((2, 1)), TypeError, "`out[0]` must have dtype int8"),
        (np.ones((3, 8), np.int8), np.ones((2, 1)), ValueError, "`out[0]` must have shape (2, 8)"),
        (np.ones((2, 8), np.int8), np.ones((1, 1)), ValueError, "`out[1]` must have shape (2, 1)"),
        (
            np.ones((2, 8), np.int8),
            np.ones((2, 1), np.float32),
            TypeError,
            "must have dtype float64",
        ),
        (
            np.ones((2, 8), np.int8),
            np.broadcast_to(1.0, (2, 1)),
            ValueError,
            "`out[1]` must be writeable",
        ),
        (np.ones((2, 8), np.int8), [1], TypeError, "`out[1]` must be an array"),
        (np.ones((2, 8), np.int8), None, TypeError, "`out[1]` must be an array"),
    ],
)
def test_outputs_are_checked_before_anything_is_written(values, scales, kind, message):
    with pytest.raises(kind) as caught:
        embedding().shift(
            np.full((2, 8), 9, np.int8), 1, scales=np.ones((2, 1)), out=(values, scales)
        )
    assert message in str(caught.value)
    assert (values == 1).all()


def test_outputs_may_not_overlap_half_of_the_cache():
    rows = np.ones((3, 8), np.int8)
    with pytest.raises(ValueError, match="`out` must be the input itself or overlap no input"):
        embedding().shift(rows[:2], 1, scales=np.ones((2, 1)), out=(rows[1:], np.ones((2, 1))))


def test_shift_of_a_quantized_cache_to_other_frequencies():
    old, new = embedding(16), embedding(16, scaling=YARN)
    values, scales = quantize(old(random_array((2, 3, 4, 16))), "int8")
    got, fresh = old.shift(values, 2, scales=scales, to=new, offset=0)
    want = old.shift(values.astype(np.float32) * scales, 2, to=new, offset=0)
    np.testing.assert_allclose(got * fresh, want, atol=float(np.abs(want).max()) / 200)


@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn"])
@pytest.mark.library("torch")
def test_quantized_caches_of_torch(name):
    import torch

    rope = embedding(16)
    values, scales = quantize(rope(random_array((2, 3, 4, 16))), name)
    own = torch.from_numpy(values.view(np.int8)).view(getattr(torch, name))
    got, fresh = rope.shift(own, 9, scales=torch.from_numpy(scales))
    assert got.dtype == own.dtype
    want, want_scales = rope.shift(values, 9, scales=scales)
    np.testing.assert_allclose(fresh.numpy(), want_scales, rtol=1e-5)
    near = got.float().numpy() - want.astype(np.float32)
    assert np.abs(near).max() <= (1 if name == "int8" else 32)
    assert (near == 0).mean() > 0.99


@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn"])
@pytest.mark.library("jax")
def test_quantized_caches_of_jax(name):
    import jax.numpy as jnp

    rope = embedding(16)
    values, scales = quantize(rope(random_array((2, 3, 4, 16))), name)
    got, _ = rope.shift(jnp.asarray(values), 9, scales=jnp.asarray(scales))
    assert got.dtype == values.dtype
    want, _ = rope.shift(values, 9, scales=scales)
    near = np.asarray(got).astype(np.float32) - want.astype(np.float32)
    assert (near == 0).mean() > 0.99


@pytest.mark.parametrize(
    ("x", "options", "kind", "message"),
    [
        (np.ones((2, 8), np.float32), {"scales": 1.0}, TypeError, "`x` must be of int4, int8"),
        ([[1] * 8], {"scales": 1.0}, TypeError, "`x` must be of int4, int8"),
        (np.ones((2, 8), np.int8), {"scales": -1.0}, ValueError, "`scales` must not be negative"),
        (np.ones((2, 8), np.int8), {"scales": 1e-300}, ValueError, "`scales` must keep values"),
        (np.ones((2, 8), np.int8), {"scales": 1e300}, ValueError, "`scales` must keep values"),
        (
            np.ones((2, 8), np.int8),
            {"scales": np.full((2, 1), 1e300)},
            ValueError,
            "`scales` must keep values within",
        ),
        (
            np.ones((2, 8), np.int8),
            {"scales": np.ones((2, 1), ml_dtypes.float8_e8m0fnu)},
            TypeError,
            "`scales` must be floating",
        ),
        (
            np.ones((2, 8), np.int8),
            {"scales": np.ma.ones((2, 1))},
            TypeError,
            "`scales` must be a plain array",
        ),
        (np.ones((2, 8), np.int8), {"scales": "1"}, TypeError, "`scales` must be a real number"),
        (
            np.ones((2, 8), np.int8),
            {"scales": np.ones((2, 3))},
            ValueError,
            "`scales` must have size",
        ),
        (np.ones((2, 8), np.int8), {"scales": np.ones(2)}, ValueError, "`scales` must have size 1"),
        (np.ones((2, 8), np.int8), {"scales": np.ones((2, 1), int)}, TypeError, "must be floating"),
        (
            np.ones((2, 8), np.int8),
            {"scales": np.ones((2, 1)), "out": np.ones((2, 8), np.int8)},
            TypeError,
            "`out` must be a pair",
        ),
        (
            np.ones((2, 8), np.int8),
            {"scales": np.ones((2, 1)), "out": ([1], [2])},
            TypeError,
            "`out[0]` must be an array",
        ),
    ],
)
def test_errors_of_scales(x, options, kind, message):
    with pytest.raises(kind) as caught:
        embedding().shift(x, 1, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("delta", [np.zeros((2, 2, 2)), np.zeros(5), np.zeros((4, 3))])
def test_deltas_of_wrong_shapes_are_refused(delta):
    with pytest.raises(ValueError, match="`delta` must"):
        embedding().shift(np.ones((2, 3, 8)), delta)


def test_a_delta_with_another_count_than_the_packed_sequences_is_refused():
    with pytest.raises(ValueError, match=r"`delta` must have one of the shapes \(5,\)"):
        embedding().shift(np.ones((5, 2, 8)), [1, 2, 3], cu_seqlens=[0, 2, 5])
