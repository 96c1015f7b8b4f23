"""The functions besides the embedding, against mpmath and published formulas."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from helpers import (
    DTYPES,
    LAYOUTS,
    SCALE,
    as_dtype,
    bound,
    error_in_units,
    exact_cos_sin,
    kernel_in_use,
    powers,
    random_array,
    rotate_exactly,
    same_bits,
)

import rotary

BASES = [10_000.0, 500_000.0, 1e6, 2.0, 1.0, 0.5, 100.0, 1e-3, 1e15, 26_695.98, 8_000_000]
PORTABLE = kernel_in_use() == "portable"


# ------------------------------------------------------------------------------------------------
# inv_freq.


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dim", [2, 4, 6, 10, 64, 80, 96, 128, 130, 256, 512])
def test_inv_freq_is_correctly_rounded(dim, base):
    got = rotary.inv_freq(dim, base=base)
    assert got.dtype == np.float64
    assert got.shape == (dim // 2,)
    assert not got.flags.writeable
    assert got.tolist() == powers(base, dim)


def test_inv_freq_of_random_bases_is_correctly_rounded():
    rng = np.random.default_rng(0)
    for base in 10.0 ** rng.uniform(-10, 30, 100):
        dim = 2 * int(rng.integers(1, 70))
        assert rotary.inv_freq(dim, base=base).tolist() == powers(base, dim)


def test_returned_frequencies_cannot_be_made_writeable():
    """All callers share them."""
    rope = rotary.RotaryEmbedding(8, layout="half", base=77.0)
    custom = rotary.scaling.Custom([1.0, 0.5])
    for values in (rotary.inv_freq(8, base=77.0), rope.inv_freq, custom.inv_freq(4)):
        assert not values.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            values.setflags(write=True)


def test_inv_freq_of_an_integer_base():
    assert same_bits(rotary.inv_freq(64, base=500_000), rotary.inv_freq(64, base=500_000.0))
    assert same_bits(rotary.inv_freq(np.int32(64), base=np.float32(2)), rotary.inv_freq(64, base=2))


def test_the_embedding_has_the_same_frequencies():
    rope = rotary.RotaryEmbedding(96, layout="half", base=5e5, rotary_dim=64)
    assert same_bits(rope.inv_freq, rotary.inv_freq(64, base=5e5))


# ------------------------------------------------------------------------------------------------
# cos_sin.


def ulps(got, position, frequency, factor=1.0):
    """Return the error of cosine and sine in units of their last place, or of that of 2**-60 for smaller values."""
    errors = []
    for value, exact in zip(got, exact_cos_sin(position, frequency), strict=True):
        with mpmath.workprec(300):
            true = mpmath.ldexp(exact, -SCALE) * factor
            size = max(abs(true), mpmath.mpf(2) ** -60)
            bits = 24 if value.dtype == np.float32 else 53
            ulp = mpmath.ldexp(1, int(mpmath.floor(mpmath.log(size, 2))) + 1 - bits)
            errors.append(float(abs(mpmath.mpf(float(value)) - true) / ulp))
    return max(errors)


LIMITS = {("float32", 1.0): 0.501, ("float64", 1.0): 1.0}


@pytest.mark.parametrize("factor", [1.0, 1.375, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cos_sin_is_within_the_promised_error(dtype, factor):
    rng = np.random.default_rng(0)
    positions = [0, 1, -1, 2**63 - 1, -(2**63), 1_700_000_000, 1_700_000_000_123_456_789]
    positions += [int(2 ** rng.uniform(0, 63)) * int(rng.choice([-1, 1])) for _ in range(100)]
    fractions = [0.1, -0.3, 1e-9, 4096.0625, 1e17 / 3, 2.0**-900]
    fractions += (2.0 ** rng.uniform(-60, 62.9, 50) * rng.choice([-1, 1], 50)).tolist()
    frequencies = [*rotary.inv_freq(16, base=10_000.0).tolist(), 7.0, -2.5, 0.0, 1e-30, 1e18 / 7]
    limit = LIMITS.get((dtype, factor), 0.501 if dtype == "float32" else 2.0)
    for places in (positions, fractions):
        cos, sin = rotary.cos_sin(places, frequencies, dtype=dtype, attention_factor=factor)
        assert cos.dtype == sin.dtype == dtype
        worst = max(
            ulps((cos[i, j], sin[i, j]), position, frequency, factor)
            for i, position in enumerate(places)
            for j, frequency in enumerate(frequencies)
        )
        assert worst <= limit


def test_known_values_of_cos_sin():
    turn = 4 * np.pi
    cos, sin = rotary.cos_sin([0.25], [turn], dtype="float64")
    assert cos[0, 0] == -1
    assert abs(sin[0, 0]) < 3e-16
    cos, sin = rotary.cos_sin([0, 5, -5], [0.0, 1.0])
    assert (cos[0] == 1).all()
    assert (cos[:, 0] == 1).all()
    assert (sin[:, 0] == 0).all()
    assert (sin[0] == 0).all()
    assert same_bits(sin[1], -sin[2] + 0.0)
    assert same_bits(cos[1], cos[2])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (0,), (2, 0)])
def test_cos_sin_takes_positions_of_any_shape(shape):
    positions = np.arange(int(np.prod(shape))).reshape(shape)
    cos, sin = rotary.cos_sin(positions, [1.0, 0.5])
    assert cos.shape == sin.shape == (*shape, 2)
    for where in np.ndindex(shape):
        one = rotary.cos_sin(int(positions[where]), [1.0, 0.5])
        assert same_bits(cos[where], one[0])
        assert same_bits(sin[where], one[1])
    for table in (cos, sin):
        assert not table.flags.writeable


@pytest.mark.parametrize("dtype", [np.float32, "float32", np.dtype("float32")])
def test_cos_sin_accepts_dtypes_of_all_forms(dtype):
    assert rotary.cos_sin([1], [1.0], dtype=dtype)[0].dtype == np.float32


def test_cos_sin_takes_frequencies_of_any_real_dtype():
    want = rotary.cos_sin([3], [1.0, 0.25])
    for kind in (np.float32, np.float64, np.float16):
        assert same_bits(rotary.cos_sin([3], np.array([1, 0.25], kind))[0], want[0])
    assert same_bits(rotary.cos_sin([3], (1, 0.25))[1], want[1])
    assert same_bits(rotary.cos_sin([3], [2])[0], rotary.cos_sin([6], [1])[0])


# ------------------------------------------------------------------------------------------------
# sinusoidal.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sinusoidal_is_sine_and_cosine_in_turns(dtype):
    got = rotary.sinusoidal([[0, 1, 7]], 8, dtype=dtype)
    assert got.shape == (1, 3, 8)
    assert got.dtype == dtype
    cos, sin = rotary.cos_sin([[0, 1, 7]], rotary.inv_freq(8, base=10_000.0), dtype=dtype)
    assert same_bits(got[..., 0::2], sin)
    assert same_bits(got[..., 1::2], cos)


def test_sinusoidal_is_the_formula_of_the_paper():
    positions, dim, base = np.arange(50), 16, 500.0
    got = rotary.sinusoidal(positions, dim, base=base, dtype="float64")
    for k in range(dim // 2):
        angle = positions / base ** (2 * k / dim)
        np.testing.assert_allclose(got[:, 2 * k], np.sin(angle), rtol=0, atol=2e-14)
        np.testing.assert_allclose(got[:, 2 * k + 1], np.cos(angle), rtol=0, atol=2e-14)


# ------------------------------------------------------------------------------------------------
# apply_rotary.


def dyadic_tables(shape, dtype, seed=0):
    """Return numbers that all floating dtypes hold exactly, so that the oracle can use them."""
    rng = np.random.default_rng(seed)
    cos = rng.integers(-64, 64, shape) / 64
    sin = rng.integers(-64, 64, shape) / 64
    return cos.astype(as_dtype(dtype)), sin.astype(as_dtype(dtype))


def applied(x, cos, sin, layout, start, inverse):
    """Return the formula in float64, whose rounding errors are far below those of the compared dtypes."""
    sin = -sin if inverse else sin
    wide = x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)
    if x.dtype.kind == "c":
        window = slice(start, start + cos.shape[-1])
        wide[..., window] *= cos + 1j * sin
        return wide
    pairs = cos.shape[-1]
    stop = start + 2 * pairs
    if layout == "half":
        first, second = slice(start, start + pairs), slice(start + pairs, stop)
    else:
        first, second = slice(start, stop, 2), slice(start + 1, stop, 2)
    a, b = wide[..., first].copy(), wide[..., second].copy()
    wide[..., first] = a * cos - b * sin
    wide[..., second] = b * cos + a * sin
    return wide


TOLERANCE = {
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float32": 2.0**-21,
    "float64": 2.0**-50,
    "complex64": 2.0**-21,
    "complex128": 2.0**-50,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("table", ["float16", "bfloat16", "float32", "float64"])
def test_apply_rotary_takes_tables_of_every_dtype(table, inverse, layout, dtype):
    complex_ = dtype.startswith("complex")
    x = random_array((2, 3, 5 if complex_ else 10), dtype)
    start = 1 if complex_ else 2
    for shape in [(3, 4), (1, 3, 4), (2, 3, 4)]:
        cos, sin = dyadic_tables(shape, table)
        options = {"layout": layout, "rotary_start": start, "inverse": inverse, "seq_axis": 1}
        got = rotary.apply_rotary(x, cos, sin, **options)
        assert got.dtype == x.dtype
        kind = np.float64
        want = applied(x, cos.astype(kind), sin.astype(kind), layout, start, inverse)
        np.testing.assert_allclose(
            got.astype(want.dtype), want, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype]
        )
        place = x.copy()
        assert rotary.apply_rotary(place, cos, sin, out=place, **options) is place
        assert same_bits(place, got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_rotary_equals_the_embedding(dtype):
    """With the tables of the embedding, bit for bit."""
    rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0, seq_axis=-3)
    width = 4 if dtype.startswith("complex") else 8
    x = random_array((2, 5, 3, width), dtype)
    table = "float64" if dtype in {"float64", "complex128"} else "float32"
    for positions in (np.arange(5), np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])):
        cos, sin = rope.tables(positions, dtype=table)
        options = {"layout": "half", "seq_axis": -3}
        got = rotary.apply_rotary(x, cos, sin, **options)
        assert same_bits(got, rope(x, positions=positions))
        got = rotary.apply_rotary(x, cos, sin, inverse=True, **options)
        assert same_bits(got, rope.inverse(x, positions=positions))


def test_float64_tables_are_not_rounded_for_float64_arrays():
    cos, sin = rotary.cos_sin([1, 2, 3], powers(1e4, 8), dtype="float64")
    x = random_array((3, 8), "float64")
    exact, size = rotate_exactly(x, np.array([1, 2, 3]), powers(1e4, 8))
    got = rotary.apply_rotary(x, cos, sin, layout="half")
    assert error_in_units(got, exact, size) <= bound("float64", portable=PORTABLE)


def test_strided_and_foreign_tables():
    cos, sin = rotary.cos_sin(range(6), [1.0, 0.5, 0.25, 0.125])
    x = random_array((3, 8))
    want = rotary.apply_rotary(x, cos[::2].copy(), sin[::2].copy(), layout="half")
    assert same_bits(rotary.apply_rotary(x, cos[::2], sin[::2], layout="half"), want)
    order = np.asfortranarray(cos[::2]), np.asfortranarray(sin[::2])
    assert same_bits(rotary.apply_rotary(x, *order, layout="half"), want)
    swapped = [part[::2].astype(">f4") for part in (cos, sin)]
    assert same_bits(rotary.apply_rotary(x, *swapped, layout="half"), want)


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8)])
def test_apply_rotary_to_empty_arrays(shape):
    cos, sin = rotary.cos_sin(range(shape[1]), [1.0, 0.5])
    x = np.zeros(shape, np.float32)
    assert rotary.apply_rotary(x, cos, sin, layout="half", seq_axis=1).shape == shape


def test_apply_rotary_does_not_modify_its_inputs():
    cos, sin = (part.copy() for part in rotary.cos_sin(range(3), [1.0, 0.5]))
    x = random_array((3, 4))
    before = [array.copy() for array in (x, cos, sin)]
    rotary.apply_rotary(x, cos, sin, layout="interleaved", inverse=True)
    assert all(same_bits(a, b) for a, b in zip((x, cos, sin), before, strict=True))


@pytest.mark.library("torch", "jax")
def test_tables_may_be_of_any_library_that_the_host_can_read():
    import jax
    import torch

    cos, sin = rotary.cos_sin(np.arange(3), rotary.inv_freq(8, base=10_000.0))
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    expected = rotary.apply_rotary(x, cos, sin, layout="half")
    own = jax.numpy.asarray(cos), jax.numpy.asarray(sin)
    for array in x, torch.asarray(x):
        found = rotary.apply_rotary(array, *own, layout="half")
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6)
    with pytest.raises(TypeError, match="`cos` must be of the library of `x`, or known"):
        jax.jit(lambda c: rotary.apply_rotary(torch.asarray(x), c, sin, layout="half"))(own[0])


# ------------------------------------------------------------------------------------------------
# Published formulas.


def rotate_half(x):
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)


def rotate_every_two(x):
    return np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)


def test_half_equals_llama_in_transformers():
    x = random_array((2, 4, 7, 16), "float64")
    angle = np.outer(np.arange(7), 1.0 / 10_000.0 ** (np.arange(0, 16, 2) / 16))
    emb = np.concatenate([angle, angle], axis=-1)
    want = x * np.cos(emb) + rotate_half(x) * np.sin(emb)
    got = rotary.RotaryEmbedding(16, layout="half", base=10_000.0, seq_axis=-2)(x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


def test_interleaved_equals_gpt_j():
    x = random_array((2, 7, 4, 16), "float64")
    angle = np.outer(np.arange(7), 1.0 / 10_000.0 ** (np.arange(0, 8, 2) / 8))
    cos, sin = (np.repeat(f(angle), 2, axis=-1)[:, None] for f in (np.cos, np.sin))
    want = x.copy()
    want[..., :8] = x[..., :8] * cos + rotate_every_two(x[..., :8]) * sin
    rope = rotary.RotaryEmbedding(16, layout="interleaved", base=1e4, rotary_dim=8, seq_axis=-3)
    np.testing.assert_allclose(rope(x), want, rtol=0, atol=1e-14)


def test_interleaved_is_multiplication_of_complex_numbers():
    x = random_array((2, 7, 16), "float64")
    angle = np.outer(np.arange(7), 1.0 / 10_000.0 ** (np.arange(0, 16, 2) / 16))
    want = (x.view(complex) * np.exp(1j * angle)).view(float)
    rope = rotary.RotaryEmbedding(16, layout="interleaved", base=1e4, seq_axis=1)
    np.testing.assert_allclose(rope(x), want, rtol=0, atol=1e-14)
    np.testing.assert_allclose(rope(x.view(complex)).view(float), want, rtol=0, atol=1e-14)


@pytest.mark.library("torch")
def test_half_equals_transformers_in_torch():
    import torch

    def rotate_half_of(x):
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    q = torch.from_numpy(random_array((1, 4, 7, 16)))
    inv_freq = 1.0 / (10_000.0 ** (torch.arange(0, 16, 2).float() / 16))
    angle = torch.outer(torch.arange(7).float(), inv_freq)
    emb = torch.cat((angle, angle), dim=-1)
    want = q * emb.cos() + rotate_half_of(q) * emb.sin()
    got = rotary.RotaryEmbedding(16, layout="half", base=10_000.0, seq_axis=-2)(q)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6)
