"""All array libraries get the results of NumPy, within bounds, as arrays of their own."""

from __future__ import annotations

import pickle

import mpmath
import numpy as np
import pytest
import support
from helpers import (
    DTYPES,
    LAYOUTS,
    SCALE,
    as_dtype,
    bound,
    error_in_units,
    exact_cos_sin,
    kernel_in_use,
    library_named,
    powers,
    random_array,
    rotate_exactly,
    same_bits,
)

import rotary
from rotary import RotaryEmbedding, scaling
from rotary.angles.phases import frequencies
from rotary.backends import reference
from rotary.backends.contract import Axes, Pairing, Table
from rotary.scaling import Custom

BASE = 10_000.0
PLACES = np.array([[0, -5, 1_700_000_000, 2**40 + 1, 7], [3, 2, 1, 2**31, -(2**31)]])


def embedding(head_dim=8, layout="half", *, seq_axis=-2, **options):
    return RotaryEmbedding(head_dim, layout=layout, base=BASE, seq_axis=seq_axis, **options)


def width_of(dtype, head_dim):
    return head_dim // 2 if as_dtype(dtype).kind == "c" else head_dim


def along(ndim, axis, values):
    shape = [1] * (ndim - 1)
    shape[axis] = len(values)
    return np.array(values, dtype=object).reshape(shape)


def assert_right(xp, got, x, positions, *, width=8, **options):
    """Check values, library, shape and dtype of a result."""
    assert xp.owns(got)
    array = xp.to_numpy(got)
    assert array.dtype == x.dtype
    assert array.shape == x.shape
    exact, size = rotate_exactly(x, positions, powers(BASE, width), **options)
    error = error_in_units(array, exact, size)
    portable = xp.name not in {"numpy", "cupy"} or kernel_in_use() == "portable"
    assert error <= bound(x.dtype.name, portable=portable)


# ------------------------------------------------------------------------------------------------
# The reference.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_reference_rounds_correctly(dtype):
    places = np.array([[0, 1, -1, 2**63 - 1, -(2**63), 1_700_000_000_123_456_789]])
    fractions = np.array([[0.25, -1e-5, 1e17 / 3, 2.0**-300]])
    inv_freq = np.array([1.0, -0.1, 4 * np.pi, 0.0, 1e-20, 1e18])
    for positions in (places, fractions):
        table = np.empty((2, 1, positions.shape[1], len(inv_freq)), dtype)
        reference.fill_table(frequencies(inv_freq[None, None]), positions, 1.0, table, 0)
        for i, j in np.ndindex(positions.shape[1], len(inv_freq)):
            unit = exact_cos_sin(positions[0, i].item(), float(inv_freq[j]))
            for got, exact in zip(table[:, 0, i, j], unit, strict=True):
                neighbours = [got, np.nextafter(got, dtype(9)), np.nextafter(got, dtype(-9))]
                with mpmath.workprec(400):
                    true = mpmath.ldexp(exact, -SCALE)
                    misses = [abs(mpmath.mpf(float(n)) - true) for n in neighbours]
                    # Values below the unit of the oracle are not compared.
                    assert misses[0] <= min(misses) + mpmath.ldexp(1, -SCALE)


def by_reference(x, positions, layout, output_layout, start, pairs, *, inverse=False):
    dtype = np.float64 if x.dtype.name in {"float64", "complex128"} else np.float32
    inv_freq = np.array(powers(BASE, 2 * pairs))
    values = np.empty((2, 1, positions.size, pairs), dtype)
    reference.fill_table(
        frequencies(inv_freq[None, None]), positions.reshape(1, -1), 1.0, values, 0
    )
    index = np.arange(positions.size).reshape(positions.shape)
    table = Table(values, index, 0, positions.shape[1])
    pairing = Pairing(start, pairs, layout, output_layout, inverse)
    return reference.rotate(x, table, Axes(x.ndim - 2, 0), pairing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inverse", [False, True])
def test_the_reference_rotates_exactly(dtype, inverse):
    complex_ = as_dtype(dtype).kind == "c"
    x = random_array((2, 3, 5, width_of(dtype, 12)), dtype)
    for layout in LAYOUTS:
        for output_layout in LAYOUTS:
            start = 1 if complex_ else 2
            got = by_reference(x, PLACES, layout, output_layout, start, 4, inverse=inverse)
            exact, size = rotate_exactly(
                x,
                PLACES[:, None],
                powers(BASE, 8),
                layout=layout,
                output_layout=output_layout,
                start=2,
                backwards=inverse,
            )
            assert error_in_units(got, exact, size) <= 4


def test_the_reference_rotates_complex_arrays():
    x = np.arange(8.0).reshape(2, 4) + 1j
    values = np.stack([np.full((1, 2, 4), 0.6), np.full((1, 2, 4), 0.8)])
    table = Table(values, np.zeros((1, 1), np.int64), 1, 2)
    pairing = Pairing(1, 3, "half", "half", inverse=True)
    table = Table(np.ascontiguousarray(values[..., :3]), table.index, 1, 2)
    expected = np.concatenate([x[:, :1], x[:, 1:] * (0.6 - 0.8j)], axis=-1)
    np.testing.assert_allclose(reference.rotate(x, table, Axes(0, None), pairing), expected)


# ------------------------------------------------------------------------------------------------
# Every library.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["call", "inverse", "vjp", "shift"])
def test_all_methods_dtypes_and_layouts(xp, method, dtype):
    x = random_array((2, 3, 5, width_of(dtype, 12)), dtype)
    for layout in LAYOUTS:
        for output_layout in LAYOUTS:
            rope = embedding(
                12,
                layout,
                output_layout=output_layout,
                rotary_dim=8,
                rotary_start=2,
                seq_axis=-2,
            )
            function = rope if method == "call" else getattr(rope, method)
            arguments = {"delta" if method == "shift" else "positions": PLACES}
            source, target = {
                "call": (layout, output_layout),
                "shift": (output_layout, output_layout),
            }.get(method, (output_layout, layout))
            back = method in {"inverse", "vjp"}
            given = xp.asarray(x)
            got = function(given, **arguments)
            assert_right(
                xp,
                got,
                x,
                PLACES[:, None],
                layout=source,
                output_layout=target,
                start=2,
                backwards=back,
            )
            assert same_bits(xp.to_numpy(given), x)
            start = 1 if as_dtype(dtype).kind == "c" else 2
            want = by_reference(x, PLACES, source, target, start, 4, inverse=back)
            tolerance = {2: 1e-2, 4: 1e-6}.get(as_real_itemsize(x), 1e-14)
            np.testing.assert_allclose(
                xp.to_numpy(got).astype(complex),
                want.astype(complex),
                rtol=tolerance,
                atol=tolerance,
            )


def as_real_itemsize(x):
    return x.dtype.itemsize // (2 if x.dtype.kind == "c" else 1)


AXES = {
    "S D": ((3, 8), None, 0),
    "B S D": ((2, 3, 8), 1, 1),
    "S B D": ((3, 2, 8), 0, 0),
    "B H S D": ((2, 4, 3, 8), -2, 2),
    "B S H D": ((2, 3, 4, 8), -3, 1),
    "S B H D": ((3, 2, 4, 8), 0, 0),
    "B G H S D": ((2, 2, 4, 3, 8), -2, 3),
    "B S G H D": ((2, 3, 2, 4, 8), 1, 1),
}


@pytest.mark.parametrize("name", AXES)
def test_all_axis_orders(xp, name):
    shape, seq_axis, axis = AXES[name]
    x = random_array(shape)
    positions = along(len(shape), axis, range(7, 10))
    assert_right(xp, embedding()(xp.asarray(x), offset=7, seq_axis=seq_axis), x, positions)
    if len(shape) > 2:
        rows = along(len(shape), 1 if axis == 0 else 0, [10, -3])
        batch_axis = 1 if axis == 0 else 0
        rope = embedding(seq_axis=seq_axis, batch_axis=batch_axis)
        got = rope(xp.asarray(x), offset=[3, -10])
        assert_right(xp, got, x, positions - 7 + rows - 7)


def test_several_arrays(xp):
    rope = embedding(seq_axis=-2)
    q, k = random_array((2, 4, 3, 8)), random_array((2, 1, 3, 8), seed=1)
    got = rope(xp.asarray(q), xp.asarray(k), offset=5)
    assert type(got) is tuple
    assert_right(xp, got[0], q, along(4, 2, range(5, 8)))
    assert_right(xp, got[1], k, along(4, 2, range(5, 8)))


def test_arrays_of_different_axes(xp):
    """Keys without a head axis and queries with one, as in multi-query attention."""
    q, k = random_array((2, 4, 3, 8)), random_array((2, 3, 8), seed=1)
    rope = embedding()
    got = rope(xp.asarray(q), xp.asarray(k), offset=[5, 9], seq_axis=(2, 1))
    positions = np.array([[5, 6, 7], [9, 10, 11]])
    assert_right(xp, got[0], q, positions[:, None])
    assert_right(xp, got[1], k, positions)


@pytest.mark.feature("numpy positions")
def test_positions_of_numpy_are_exact(xp):
    x = random_array((2, 5, 8), "float64")
    assert_right(xp, embedding()(xp.asarray(x), positions=PLACES), x, PLACES)
    fractions = PLACES / 8
    assert_right(xp, embedding()(xp.asarray(x), positions=fractions), x, fractions)
    big = 1_700_000_000_123_456_789
    got = embedding()(xp.asarray(x), offset=big)
    assert_right(xp, got, x, along(3, 1, range(big, big + 5)))


@pytest.mark.feature("own positions")
@pytest.mark.parametrize(
    "kind",
    [
        "int32",
        "int64",
        pytest.param("float32", marks=pytest.mark.feature("float positions")),
        pytest.param("float64", marks=pytest.mark.feature("float64 positions")),
    ],
)
def test_positions_of_the_same_library(xp, kind):
    x = random_array((2, 5, 8))
    positions = (PLACES % 1000).astype(kind)
    tolerance = {"rtol": 0, "atol": 2e-6 if "int" in kind else 5e-4}
    rope = embedding()

    def compare(got, want):
        assert xp.owns(got)
        np.testing.assert_allclose(xp.to_numpy(got), want, **tolerance)

    given = xp.asarray(x)
    compare(rope(given, positions=xp.asarray(positions)), rope(x, positions=positions))
    compare(rope(given, positions=xp.asarray(positions[0])), rope(x, positions=positions[0]))
    compare(rope(given, offset=xp.asarray(positions[:, 0])), rope(x, offset=positions[:, 0]))
    compare(
        rope.inverse(given, offset=xp.asarray(positions[:, 0])),
        rope.inverse(x, offset=positions[:, 0]),
    )
    compare(rope.shift(given, xp.asarray(positions)), rope.shift(x, positions))
    compare(rope.shift(given, xp.asarray(positions[:, 0])), rope.shift(x, positions[:, 0]))


@pytest.mark.feature("own positions")
def test_tables_at_positions_of_the_library(xp):
    rope = embedding()
    for positions in (np.arange(5), np.array([[3, 1], [4, 1]])):
        got = rope.tables(xp.asarray(positions))
        want = rope.tables(positions)
        for part, exact in zip(got, want, strict=True):
            assert xp.owns(part)
            assert xp.dtype_name(part) == "float32"
            np.testing.assert_allclose(xp.to_numpy(part), exact, rtol=0, atol=1e-7)


@pytest.mark.arithmetic
@pytest.mark.feature("own positions")
def test_sinusoidal_at_positions_of_the_library(xp):
    for positions in (np.arange(5), np.array([[3, 1], [4, 1]])):
        encoding = rotary.sinusoidal(xp.asarray(positions), 8)
        assert xp.owns(encoding)
        np.testing.assert_allclose(
            xp.to_numpy(encoding), rotary.sinusoidal(positions, 8), rtol=0, atol=1e-7
        )


@pytest.mark.feature("own bounds")
def test_bounds_of_the_same_library(xp):
    x = random_array((6, 3, 8))
    got = embedding()(xp.asarray(x), cu_seqlens=xp.asarray(np.array([0, 2, 5, 6])))
    assert_right(xp, got, x, along(3, 0, [0, 1, 0, 1, 2, 0]))


def test_packed_sequences(xp):
    x = random_array((6, 3, 8))
    got = embedding()(xp.asarray(x), cu_seqlens=[0, 2, 2, 5, 6], offset=[5, 6, 7, 8])
    assert_right(xp, got, x, along(3, 0, [5, 6, 7, 8, 9, 8]))


@pytest.mark.feature("own tables")
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_apply_rotary_with_tables_of_the_library(xp, shape):
    positions = np.arange(int(np.prod(shape))).reshape(shape)
    cos, sin = (np.array(part) for part in rotary.cos_sin(positions, powers(BASE, 8)))
    x = random_array((2, 3, 10))
    for layout in LAYOUTS:
        options = {"layout": layout, "rotary_start": 2, "seq_axis": 1}
        for tables in ((cos, sin), (xp.asarray(cos), xp.asarray(sin))):
            got = rotary.apply_rotary(xp.asarray(x), *tables, **options)
            want = np.broadcast_to(positions, (2, 3))
            assert_right(xp, got, x, want, start=2, layout=layout)
            got = rotary.apply_rotary(xp.asarray(x), *tables, inverse=True, **options)
            assert_right(xp, got, x, want, start=2, layout=layout, backwards=True)


@pytest.mark.parametrize("axes", [1, 2])
def test_frequencies_per_axis_and_head(xp, axes):
    own = np.random.default_rng(0).normal(size=(3, axes, 4))
    x = random_array((2, 3, 5, 8))
    positions = np.random.default_rng(1).integers(-50, 50, (axes, 5))
    for w in (own, own[0]):
        rope = RotaryEmbedding(8, layout="half", scaling=Custom(W=w), seq_axis=-2)
        got = rope(xp.asarray(x), positions=positions)
        np.testing.assert_allclose(
            xp.to_numpy(got), rope(x, positions=positions), rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8)])
def test_empty_arrays(xp, shape):
    got = embedding()(xp.asarray(np.zeros(shape, np.float32)), offset=5)
    assert xp.owns(got)
    assert xp.to_numpy(got).shape == shape


# ------------------------------------------------------------------------------------------------
# Features that only some libraries have: each is a row of `support.py`.


@pytest.mark.feature("out")
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_out(xp, kind):
    rope = embedding(seq_axis=-2)
    x = random_array((2, 3, 4, 8), kind)
    want = along(4, 2, range(4))
    out = xp.asarray(np.zeros_like(x))
    assert rope(xp.asarray(x), out=out) is out
    assert_right(xp, out, x, want)
    given = xp.asarray(x.copy())
    assert rope(given, out=given) is given
    assert_right(xp, given, x, want)
    given = xp.asarray(x.copy())
    rope(given[:, :1, ...], out=given[:, :1, ...])
    got = xp.to_numpy(given)
    assert_right(xp, xp.asarray(got[:, :1].copy()), x[:, :1], want)
    assert same_bits(got[:, 1:], x[:, 1:])


@pytest.mark.feature("shared tables")
def test_tables_are_views_of_the_cache(xp, fresh_cache):
    rope = embedding(32)
    ours = rope.tables(np.arange(64))
    theirs = rope.tables(xp.asarray(np.arange(64)))
    for a, b in zip(ours, theirs, strict=True):
        assert xp.address(b) == a.__array_interface__["data"][0]


@pytest.mark.feature("lazy")
def test_nothing_is_computed(xp):
    x = random_array((2, 3, 8))
    rope = embedding()
    got = xp.uncomputed(lambda x: rope(x, offset=7))(xp.asarray(x))
    assert_right(xp, got, x, along(3, 1, range(7, 10)))


@pytest.mark.feature("jit")
def test_compilation_by_the_library(xp):
    x = random_array((2, 3, 8))
    rope = embedding()
    got = xp.jit(lambda x: rope(x, offset=1_700_000_000))(xp.asarray(x))
    assert_right(xp, got, x, along(3, 1, range(1_700_000_000, 1_700_000_003)))


@pytest.mark.feature("whole jit")
def test_compilation_by_the_library_into_one_program(xp):
    x = random_array((2, 3, 8))
    rope = embedding()
    got = xp.whole_jit(lambda x: rope(x, offset=5))(xp.asarray(x))
    assert_right(xp, got, x, along(3, 1, range(5, 8)))


@pytest.mark.feature("traced positions")
def test_traced_positions_beyond_the_context_give_nan(xp):
    ntk = scaling.DynamicNTK(factor=2.0, max_position=4)
    rope = RotaryEmbedding(8, layout="half", base=10_000.0, scaling=ntk, context_length=6)
    x, positions = random_array((4, 8)), np.array([5, 6, -3, 10**6])
    for run in (lambda x, p: rope(x, positions=p), lambda _, p: rope.tables(p)[0]):
        if xp.name == "torch":  # its compiler calls the rotation with known positions
            with pytest.raises(ValueError, match="`positions` must keep positions below"):
                xp.traced(run)(xp.asarray(x), xp.asarray(positions))
            continue
        got = xp.to_numpy(xp.traced(run)(xp.asarray(x), xp.asarray(positions)))
        assert np.isnan(got).all(axis=-1).tolist() == [False, True, False, True]
        assert np.isfinite(got[::2]).all()


@pytest.mark.feature("traced positions")
def test_traced_positions(xp):
    x = random_array((2, 5, 8))
    rope = embedding()
    function = xp.traced(lambda x, p: rope(x, positions=p))
    positions = np.where(abs(PLACES) < 2**31, PLACES, 5).astype(np.int32)
    got = xp.to_numpy(function(xp.asarray(x), xp.asarray(positions)))
    np.testing.assert_allclose(got, embedding()(x, positions=positions), rtol=0, atol=6e-6)


@pytest.mark.feature("grad")
def test_gradients_are_the_vjp(xp):
    x, dy = random_array((2, 3, 8)), random_array((2, 3, 8), seed=1)
    given, weight = xp.asarray(x), xp.asarray(dy)
    got = xp.grad(lambda x: (embedding()(x, offset=5) * weight).sum())(given)
    assert xp.owns(got)
    np.testing.assert_allclose(xp.to_numpy(got), embedding().vjp(dy, offset=5), rtol=0, atol=2e-6)


@pytest.mark.feature("vmap")
def test_vectorization_by_the_library(xp):
    x = random_array((2, 3, 8))
    got = xp.vmap(lambda x: embedding()(x, offset=5))(xp.asarray(x))
    assert_right(xp, got, x, along(3, 1, range(5, 8)))


def test_the_documented_table_is_up_to_date():
    assert support.PAGE.read_text(encoding="utf-8") == support.page()


def test_every_reason_belongs_to_a_feature_and_a_library():
    assert set(support.MISSING) <= set(support.FEATURES)
    for reasons in support.MISSING.values():
        assert set(reasons) <= set(support.LIBRARIES)


# ------------------------------------------------------------------------------------------------
# Mixtures.


def test_numpy_arrays_take_known_positions_of_all_libraries(xp):
    x = random_array((3, 8))
    if xp.name == "cupy":
        with pytest.raises(TypeError, match="`x` must be on the GPU of `positions`"):
            embedding()(x, positions=xp.asarray(np.array([4, 5, 9])))
        return
    got = embedding()(x, positions=xp.asarray(np.array([4, 5, 9])))
    if xp.name in {"dask", "ndonnx"}:
        assert xp.owns(got)
        got = xp.to_numpy(got)
    assert type(got) is np.ndarray
    np.testing.assert_allclose(got, embedding()(x, positions=[4, 5, 9]), rtol=0, atol=1e-6)


MIXTURES = [
    ("torch", "dask"),
    ("torch", "ndonnx"),
    ("jax", "torch"),
    ("jax", "dask"),
    ("jax", "ndonnx"),
    ("dask", "torch"),
    ("dask", "ndonnx"),
]


@pytest.mark.parametrize(
    ("own", "other"), [pytest.param(*pair, marks=pytest.mark.library(*pair)) for pair in MIXTURES]
)
def test_traced_positions_of_another_library_are_refused(own, other):
    x = library_named(own).asarray(np.ones((3, 8), np.float32))
    positions = library_named(other).asarray(np.arange(3.0))
    if other == "torch":
        positions.requires_grad_()
    with pytest.raises(TypeError, match="`positions`"):
        embedding()(x, positions=positions)
    with pytest.raises(TypeError, match="`positions`|`delta`"):
        embedding().shift(x, positions[None, ...])


@pytest.mark.library("torch", "jax")
def test_known_tables_of_another_library_are_converted():
    import jax.numpy as jnp

    x = library_named("torch").asarray(random_array((3, 8)))
    cos, sin = rotary.cos_sin(range(3), powers(BASE, 8))
    got = rotary.apply_rotary(x, jnp.asarray(cos), sin, layout="half")
    assert library_named("torch").owns(got)
    assert (got == embedding()(x)).all()


# ------------------------------------------------------------------------------------------------
# PyTorch.


@pytest.mark.library("torch")
class TestTorch:
    def test_strides_and_devices(self):
        import torch

        packed = torch.from_numpy(random_array((2, 5, 3, 4, 8)))
        rope = embedding(seq_axis=-2)
        q = packed[:, :, 0].transpose(1, 2)
        got = rope(q)
        assert got.device == q.device
        np.testing.assert_array_equal(got.numpy(), rope(q.numpy().copy()))
        before = packed.clone()
        rope(q, out=q)
        assert torch.equal(packed[:, :, 0].transpose(1, 2), got)
        assert torch.equal(packed[:, :, 1:], before[:, :, 1:])

    def test_a_last_axis_that_is_not_contiguous(self):
        import torch

        x = torch.from_numpy(random_array((8, 3))).T
        assert torch.equal(embedding()(x), embedding()(x.contiguous()))

    def test_broadcast_and_overlapping_outputs_are_refused(self):
        import torch

        x = torch.from_numpy(random_array((3, 3, 8)))
        for out in (torch.zeros(1, 3, 8).expand(3, 3, 8), x.transpose(0, 1), x.flip(0)[:2]):
            if out.shape == x.shape:
                with pytest.raises(ValueError, match="`out`"):
                    embedding()(x, out=out)

    def test_conjugated_views(self):
        import torch

        x = torch.from_numpy(random_array((3, 4), "complex64"))
        torch.testing.assert_close(embedding()(x.conj()), embedding()(x.conj().resolve_conj()))
        negative = torch._neg_view(x.real.clone())
        rope = embedding(4)
        torch.testing.assert_close(rope(negative), rope(negative.resolve_neg()))

    @pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64"])
    def test_known_float_positions_are_exact(self, kind):
        """The dtype that holds a position does not affect the angle."""
        import torch

        positions = torch.tensor([255.0, 1.5, -64.0], dtype=getattr(torch, kind))
        x = torch.from_numpy(random_array((3, 8), "float64"))
        want = embedding()(x, positions=[255.0, 1.5, -64.0])
        assert torch.equal(embedding()(x, positions=positions), want)

    def test_inference_mode_and_no_grad(self):
        import torch

        x = torch.from_numpy(random_array((3, 8)))
        want = embedding()(x)
        for mode in (torch.inference_mode, torch.no_grad):
            with mode():
                assert torch.equal(embedding()(x), want)
                assert torch.equal(embedding()(torch.ones(3, 8)), embedding()(torch.ones(3, 8)))

    def test_parameters_and_tensors_are_of_one_library(self):
        import torch

        x = torch.from_numpy(random_array((3, 8)))
        with torch.no_grad():
            parameter = torch.nn.Parameter(x)
            out = torch.empty(3, 8)
            assert embedding()(parameter, out=out) is out
            assert torch.equal(out, embedding()(x))

    def test_tensors_of_tables_do_not_alias_the_cache(self, fresh_cache):
        """PyTorch can write to every tensor, so tensors must not share memory with tables of the cache."""
        import torch

        rope = embedding()
        x = torch.from_numpy(random_array((4, 8)))
        want = rope(x).clone()
        got = rope(x)
        got.zero_()
        assert torch.equal(rope(x), want)


# ------------------------------------------------------------------------------------------------
# JAX.


@pytest.mark.library("jax")
class TestJax:
    def test_results_are_on_the_device_of_the_array(self):
        import jax

        x = jax.device_put(random_array((3, 8)), jax.devices("cpu")[0])
        assert embedding()(x).devices() == x.devices()

    def test_shapes_without_values(self):
        import jax

        got = jax.eval_shape(embedding(), jax.ShapeDtypeStruct((2, 3, 8), "bfloat16"))
        assert (got.shape, got.dtype) == ((2, 3, 8), "bfloat16")

    def test_weak_types_and_donation(self):
        import jax

        rotate = jax.jit(lambda x: embedding()(x, offset=5), donate_argnums=0)
        x = random_array((3, 8))
        np.testing.assert_allclose(
            rotate(jax.numpy.asarray(x)), embedding()(x, offset=5), rtol=0, atol=1e-6
        )


# ------------------------------------------------------------------------------------------------
# dask.


@pytest.mark.library("dask")
class TestDask:
    @pytest.mark.parametrize("axis", [0, 1, 2, 3])
    @pytest.mark.parametrize("seq_axis", [0, 1, 2])
    @pytest.mark.parametrize("arguments", ["counted", "offset", "positions", "fractions"])
    def test_chunked_along_every_axis(self, axis, seq_axis, arguments):
        import dask
        import dask.array as da

        shape = (5, 6, 7, 8)
        x = random_array(shape)
        batch, length = shape[1 if seq_axis == 0 else 0], shape[seq_axis]
        rng = np.random.default_rng(0)
        options = {
            "counted": {},
            "offset": {"offset": rng.integers(0, 10**9, batch)},
            "positions": {"positions": rng.integers(-(10**9), 10**9, (batch, length))},
            "fractions": {"positions": rng.normal(size=length)},
        }[arguments]
        rope = embedding(rotary_dim=6, rotary_start=2, seq_axis=seq_axis)
        chunks = [-1] * 4
        chunks[axis] = 3
        with dask.config.set(scheduler=refuse):
            got = rope(da.from_array(x, chunks=tuple(chunks)), **options)
            assert isinstance(got, da.Array)
            assert (got.shape, got.dtype) == (x.shape, x.dtype)
        assert same_bits(got.compute(scheduler="synchronous"), rope(x, **options))

    def test_chunked_along_all_axes_with_threads(self):
        import dask.array as da

        x = random_array((4, 6, 9, 8))
        rope = embedding(seq_axis=-2)
        got = rope(da.from_array(x, chunks=(2, 3, 2, 5)), offset=[1, 2, 3, 4])
        assert same_bits(got.compute(scheduler="threads"), rope(x, offset=[1, 2, 3, 4]))

    def test_packed_sequences_across_chunks(self):
        import dask.array as da

        x = random_array((9, 2, 8))
        bounds = [0, 4, 4, 9]
        got = embedding()(da.from_array(x, chunks=(2, 1, -1)), cu_seqlens=bounds)
        assert same_bits(got.compute(scheduler="synchronous"), embedding()(x, cu_seqlens=bounds))

    def test_frequencies_per_head_across_chunks(self):
        import dask.array as da

        w = np.random.default_rng(0).normal(size=(6, 1, 4))
        rope = RotaryEmbedding(8, layout="half", scaling=Custom(W=w), seq_axis=-2)
        x = random_array((2, 6, 5, 8))
        got = rope(da.from_array(x, chunks=(1, 4, 3, -1)))
        assert same_bits(got.compute(scheduler="synchronous"), rope(x))

    def test_graphs_can_be_pickled(self):
        import dask.array as da

        x = random_array((4, 5, 8))
        got = embedding()(da.from_array(x, chunks=2), offset=3)
        twin = pickle.loads(pickle.dumps(got))
        assert same_bits(twin.compute(scheduler="synchronous"), embedding()(x, offset=3))

    def test_graphs_do_not_grow_with_positions(self):
        """A block gets only its own positions, not the table of the whole sequence."""
        import dask.array as da

        x = da.zeros((100_000, 64), chunks=(1000, 64), dtype=np.float32)
        rope = embedding(64)
        assert len(pickle.dumps(rope(x))) < 2**20
        single = rope(x)[:1000]
        assert same_bits(single.compute(scheduler="synchronous"), rope(np.zeros((1000, 64), "f4")))

    def test_unknown_chunks_are_refused(self):
        import dask.array as da

        x = da.from_array(random_array((5, 8)), chunks=2)
        with pytest.raises(ValueError, match="`x`"):
            embedding()(x[x[:, 0] > 0])

    def test_narrow_dtypes_keep_their_meta(self):
        import dask.array as da

        x = random_array((5, 8), "bfloat16")
        got = embedding()(da.from_array(x, chunks=(2, -1)))
        assert got.dtype == x.dtype
        assert got._meta.dtype == x.dtype
        assert same_bits(got.compute(scheduler="synchronous"), embedding()(x))


def refuse(*_, **__):
    message = "something was computed"
    raise AssertionError(message)


# ------------------------------------------------------------------------------------------------
# ndonnx.


@pytest.mark.library("ndonnx")
class TestNdonnx:
    def run(self, function, symbolic, *values):
        import ndonnx
        import onnxruntime

        inputs = {
            f"x{i}": ndonnx.argument(shape=shape, dtype=getattr(ndonnx, value.dtype.name))
            for i, (shape, value) in enumerate(zip(symbolic, values, strict=True))
        }
        model = ndonnx.build(inputs, {"y": function(*inputs.values())})
        session = onnxruntime.InferenceSession(model.SerializeToString())
        return session.run(["y"], dict(zip(inputs, values, strict=True)))[0]

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_models_run_with_any_batch(self, layout, dtype):
        rope = embedding(layout=layout, seq_axis=-2)
        for batch in (1, 3):
            x = random_array((batch, 4, 5, 8), dtype)
            got = self.run(lambda x: rope(x, offset=1_700_000_000), [("batch", 4, 5, 8)], x)
            assert got.dtype == x.dtype
            tolerance = {"float16": 1e-2, "float32": 1e-6, "float64": 1e-14}[dtype]
            want = rope(x, offset=1_700_000_000)
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)

    def test_positions_are_an_input_of_the_model(self):
        x = random_array((2, 5, 8))
        for positions in (PLACES, PLACES[:1]):
            got = self.run(
                lambda x, p: embedding()(x, positions=p), [x.shape, positions.shape], x, positions
            )
            np.testing.assert_allclose(got, embedding()(x, positions=positions), rtol=0, atol=6e-6)

    def test_offsets_are_an_input_of_the_model(self):
        x = random_array((2, 5, 8))
        offset = np.array([3, 2**40])
        got = self.run(lambda x, p: embedding()(x, offset=p), [x.shape, (2,)], x, offset)
        np.testing.assert_allclose(got, embedding()(x, offset=offset), rtol=0, atol=6e-6)
