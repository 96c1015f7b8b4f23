"""Tables of other programs: exact round trips, comparison with their own code, and refusals."""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np
import pytest
from helpers import BFLOAT16, LAYOUTS, as_dtype, random_array, same_bits
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rotary
from rotary import formats

REAL = ("float16", "bfloat16", "float32", "float64")
ORDERS = ("cos_sin", "sin_cos")


def tables(shape=(7, 4), dtype="float32", factor=1.0):
    """Cosine and sine of some angles."""
    angles = np.random.default_rng(0).uniform(-4, 4, shape)
    return tuple((factor * f(angles)).astype(as_dtype(dtype)) for f in (np.cos, np.sin))


# Name of a format, the function that writes it, and one that reads it for a given rotary_dim.
FORMATS = {
    **{
        f"full width, {layout}": (
            lambda c, s, layout=layout: formats.to_full_width(c, s, layout=layout),
            lambda t, d, layout=layout, **o: formats.from_full_width(
                *t, layout=layout, rotary_dim=d, **o
            ),
        )
        for layout in LAYOUTS
    },
    **{
        f"concatenated, {order}, {layout}": (
            partial(formats.to_concatenated, order=order, layout=layout),
            lambda t, d, order=order, layout=layout, **o: formats.from_concatenated(
                t, rotary_dim=d, order=order, layout=layout, **o
            ),
        )
        for order in ORDERS
        for layout in (None, *LAYOUTS)
    },
    "pairs": (formats.to_pairs, lambda t, _, **o: formats.from_pairs(t, **o)),
    "ggml": (formats.to_ggml, lambda t, d, **o: formats.from_ggml(t, rotary_dim=d, **o)),
    "complex": (formats.to_complex, lambda t, _, **o: formats.from_complex(t, **o)),
}
every_format = pytest.mark.parametrize("name", FORMATS)


# ------------------------------------------------------------------------------------------------
# Round trips.


@every_format
@given(
    parts=hnp.array_shapes(max_dims=4, max_side=5).flatmap(
        lambda shape: st.tuples(
            *[
                hnp.arrays(dtype, shape, elements=st.floats(-2, 2, width=16))
                for dtype in (np.float32, np.float32)
            ]
        )
    ),
    dtype=st.sampled_from(REAL),
)
def test_to_and_from_return_the_same_table(name, parts, dtype):
    """No number is lost, whether it is from a table or not. 16-bit numbers come back as float32."""
    to, back = FORMATS[name]
    cos, sin = (part.astype(as_dtype(dtype)) for part in parts)
    before = cos.copy(), sin.copy()
    got = back(to(cos, sin), 2 * cos.shape[-1], constant_factor=False)
    for part, given_part, kept in zip(got, (cos, sin), before, strict=True):
        assert part.dtype == (np.float64 if dtype == "float64" else np.float32)
        np.testing.assert_array_equal(part, given_part)
        assert same_bits(given_part, kept)


@every_format
def test_the_attention_factor_is_kept(name):
    to, back = FORMATS[name]
    cos, sin = tables(factor=1.3)
    got = back(to(cos, sin), 8)
    np.testing.assert_array_equal(got, (cos, sin))
    assert formats.attention_factor(*got) == pytest.approx(1.3, rel=1e-7)


@every_format
@pytest.mark.parametrize("dtype", REAL)
def test_dtype_and_layout_of_memory(name, dtype):
    """Formats keep the dtype (complex ones its precision), and are C-contiguous for C code."""
    to, _ = FORMATS[name]
    wide = dtype == "float64"
    made = to(*tables(dtype=dtype))
    for part in made if isinstance(made, tuple) else (made,):
        expected = as_dtype(dtype)
        if name == "complex":
            expected = np.dtype(np.complex128 if wide else np.complex64)
        assert part.dtype == expected
        assert part.flags.c_contiguous


@every_format
def test_tables_that_need_no_conversion_are_views(name):
    to, back = FORMATS[name]
    made = to(*tables())
    for part in back(made, 8):
        assert any(np.shares_memory(part, whole) for whole in (made if "full" in name else [made]))


@every_format
def test_tables_of_an_embedding(name):
    """They are read-only, and have the axes of the positions."""
    to, back = FORMATS[name]
    rope = rotary.RotaryEmbedding(12, layout="half", base=100.0, rotary_dim=8)
    cos, sin = rope.tables(np.arange(6).reshape(2, 3))
    assert not cos.flags.writeable
    np.testing.assert_array_equal(back(to(cos, sin), 8), (cos, sin))


@every_format
def test_a_table_in_foreign_byte_order(name):
    to, back = FORMATS[name]
    cos, sin = tables()
    made = to(cos, sin)
    foreign = made[0].dtype.newbyteorder(">")
    swapped = tuple(p.astype(foreign) for p in made) if "full" in name else made.astype(foreign)
    got = back(swapped, 8)
    assert got[0].dtype == np.float32
    np.testing.assert_array_equal(got, (cos, sin))


@pytest.mark.arithmetic
@every_format
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_library(xp, name, dtype):
    """Tables of all libraries can be written, and those whose values are known can be read."""
    to, back = FORMATS[name]
    expected = to(*tables((6, 4), dtype))
    given_parts = [xp.asarray(part) for part in tables((6, 4), dtype)]
    if name == "complex" and xp.name == "ndonnx":
        with pytest.raises(TypeError, match="complex"):
            to(*given_parts)
        return
    made = to(*given_parts)
    single = not isinstance(made, tuple)
    for part, wanted in zip(*(([made], [expected]) if single else (made, expected)), strict=True):
        assert xp.owns(part)
        np.testing.assert_array_equal(xp.to_numpy(part), wanted)
    if xp.name in {"dask", "ndonnx"}:
        with pytest.raises(TypeError, match="known on the host"):
            back(made, 8)
        return
    for part, wanted in zip(back(made, 8), tables((6, 4), dtype), strict=True):
        assert xp.owns(part)
        assert xp.dtype_name(part) == "float32"
        np.testing.assert_array_equal(xp.to_numpy(part), wanted.astype(np.float32))


@pytest.mark.library("jax")
@every_format
def test_traced_tables(name):
    import jax

    to, back = FORMATS[name]
    cos, sin = tables()
    np.testing.assert_array_equal(jax.jit(to)(cos, sin), to(cos, sin))
    with pytest.raises(TypeError, match="known on the host"):
        jax.jit(lambda c, s: back(to(c, s), 8))(cos, sin)


# ------------------------------------------------------------------------------------------------
# The formats, number by number.


def test_the_order_of_numbers():
    cos, sin = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    assert formats.to_full_width(cos, sin, layout="half")[0].tolist() == [[1, 2, 1, 2]]
    assert formats.to_full_width(cos, sin, layout="interleaved")[1].tolist() == [[3, 3, 4, 4]]
    join = partial(formats.to_concatenated, cos, sin)
    assert join(order="cos_sin").tolist() == [[1, 2, 3, 4]]
    assert join(order="sin_cos").tolist() == [[3, 4, 1, 2]]
    timm = join(order="sin_cos", layout="interleaved")
    assert timm.tolist() == [[3, 3, 4, 4, 1, 1, 2, 2]]
    assert join(order="sin_cos", layout="half").tolist() == [[3, 4, 3, 4, 1, 2, 1, 2]]
    assert formats.to_pairs(cos, sin).tolist() == [[[1, 3], [2, 4]]]
    assert formats.to_ggml(cos, sin).tolist() == [[1, 3, 2, 4]]
    assert formats.to_complex(cos, sin).tolist() == [[1 + 3j, 2 + 4j]]


def test_a_complex_table_multiplies():
    """As torch's `view_as_complex` does it: complex channels times the table."""
    cos, sin = rotary.cos_sin(np.arange(5), [1.0, 0.1, 0.01], dtype="float64")
    x = random_array((5, 6), "float64")
    expected = rotary.apply_rotary(x, cos, sin, layout="interleaved")
    got = x.view(np.complex128) * formats.to_complex(cos, sin)
    np.testing.assert_allclose(got.view(np.float64), expected, rtol=1e-15, atol=1e-15)


# ------------------------------------------------------------------------------------------------
# Angles.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_angles_give_the_same_rotation_at_any_position(layout):
    """Angles are reduced to one turn, so float32 angles stay accurate, and p * inv_freq does not."""
    positions = np.array([0, 1, 131_071, 1_700_000_001])
    inv_freq = rotary.inv_freq(8, base=10_000.0)
    cos, sin = rotary.cos_sin(positions, inv_freq)
    angles = formats.to_angles(cos, sin, layout=layout)
    assert angles.shape == (4, 1, 1, 8)
    assert angles.dtype == np.float32
    wide = formats.to_full_width(cos, sin, layout=layout)
    np.testing.assert_allclose(np.cos(angles[:, 0, 0]), wide[0], rtol=0, atol=3e-7)
    np.testing.assert_allclose(np.sin(angles[:, 0, 0]), wide[1], rtol=0, atol=3e-7)
    rounded = np.outer(positions, inv_freq).astype(np.float32)
    assert np.abs(np.cos(rounded) - cos).max() > 0.1
    got = formats.from_angles(angles, layout=layout, rotary_dim=8)
    np.testing.assert_allclose(got, (cos, sin), rtol=0, atol=3e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_angles_as_transformer_engine_makes_them(layout, dtype):
    """p * inv_freq without reduction, as `RotaryPositionEmbedding` stores it."""
    angles = np.outer(np.arange(9), [1.0, 0.1, 0.01]).astype(dtype)
    emb = np.concatenate((angles, angles), -1) if layout == "half" else np.repeat(angles, 2, -1)
    cos, sin = formats.from_angles(emb[:, None, None], layout=layout, rotary_dim=6)
    assert cos.dtype == dtype
    exact = np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64))
    np.testing.assert_array_equal((cos, sin), np.array(exact).astype(dtype))


@pytest.mark.parametrize("dtype", REAL)
def test_angles_of_tables_of_any_dtype(dtype):
    cos, sin = tables(dtype=dtype)
    expected = np.arctan2(sin.astype(np.float64), cos.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(formats.to_angles(cos, sin, layout="half")[:, 0, 0, :4], expected)


@pytest.mark.arithmetic
def test_angles_in_every_library(xp):
    cos, sin = tables()
    make = partial(formats.to_angles, *map(xp.asarray, (cos, sin)), layout="half")
    if xp.name in {"dask", "ndonnx"}:
        with pytest.raises(TypeError, match="`cos` must be known on the host"):
            make()
        return
    angles = make()
    assert xp.owns(angles)
    np.testing.assert_array_equal(xp.to_numpy(angles), formats.to_angles(cos, sin, layout="half"))
    for part in formats.from_angles(angles, layout="half", rotary_dim=8):
        assert xp.owns(part)


@pytest.mark.parametrize("factor", [1.000001, 0.5])
def test_to_angles_refuses_an_attention_factor(factor):
    with pytest.raises(ValueError, match="must have the attention factor 1"):
        formats.to_angles(*tables(factor=factor), layout="half")


def test_from_angles_refuses_wrong_shapes_and_values():
    read = partial(formats.from_angles, layout="half", rotary_dim=4)
    with pytest.raises(ValueError, match=r"shape \(S, 1, 1, 4\), got \(3, 4\)"):
        read(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="4 wide"):
        read(np.zeros((3, 1, 1, 8)))
    with pytest.raises(ValueError, match="finite"):
        read(np.full((3, 1, 1, 4), np.inf))
    with pytest.raises(ValueError, match=r"twice.*; in layout 'interleaved', they are equal"):
        read(np.array([1.0, 1, 2, 2]).reshape(1, 1, 1, 4))
    with pytest.raises(ValueError, match=r"`cos` must have shape \(S, rotary_dim/2\)"):
        formats.to_angles(*tables((2, 3, 4)), layout="half")


# ------------------------------------------------------------------------------------------------
# Refusals.


@pytest.mark.parametrize("written", FORMATS)
@every_format
def test_a_table_is_read_in_its_own_format_or_refused(written, name):
    """Every format given to every reader, for the right number of channels and for half of them."""
    to, _ = FORMATS[written]
    _, back = FORMATS[name]
    cos, sin = rotary.cos_sin(np.arange(64), rotary.inv_freq(8, base=10_000.0))
    made = to(cos, sin)
    if isinstance(made, tuple) != ("full" in name):
        made = made[0] if isinstance(made, tuple) else (made, made)
    for width in (4, 8):
        try:
            got = back(made, width)
        except (ValueError, TypeError):
            continue
        # Only a wrong order cannot be detected, which is why it has no default.
        order = ("cos_sin" in written) == ("cos_sin" in name)
        np.testing.assert_array_equal(got, (cos, sin) if order else (sin, cos))
        assert width == 8 or name in {"pairs", "complex"}


def test_full_width_of_the_other_layout_is_named():
    wide = formats.to_full_width(*tables(), layout="interleaved")
    with pytest.raises(
        ValueError, match=r"`cos`.*'half'.*; in layout 'interleaved', they are equal"
    ):
        formats.from_full_width(*wide, layout="half", rotary_dim=8)


def test_copies_that_differ_in_one_number():
    cos, sin = (part.copy() for part in formats.to_full_width(*tables(), layout="half"))
    sin[3, 5] = np.nextafter(sin[3, 5], np.float32(2))
    with pytest.raises(ValueError, match="`sin` must contain every number twice"):
        formats.from_full_width(cos, sin, layout="half", rotary_dim=8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@every_format
def test_nan_and_infinity_are_refused(name, bad):
    to, back = FORMATS[name]
    cos, sin = (part.copy() for part in tables())
    cos[2, 1] = bad
    with pytest.raises(ValueError, match=r"constant factor|twice"), np.errstate(invalid="ignore"):
        back(to(cos, sin), 8)
    zeros = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="constant factor"):
        back(to(zeros, zeros), 8)


@pytest.mark.parametrize("dtype", REAL)
@every_format
def test_rounded_tables_are_accepted(name, dtype):
    """16-bit caches, and float32 ones that were converted from these."""
    to, back = FORMATS[name]
    cos, sin = tables((500, 4), dtype, factor=1.19)
    assert back(to(cos, sin), 8)[0].shape == (500, 4)
    back(to(cos.astype(np.float32), sin.astype(np.float32)), 8)


@every_format
def test_a_varying_factor_needs_constant_factor_false(name):
    """xPos varies by channel pair and row, and two concatenated LongRoPE tables vary by row."""
    to, back = FORMATS[name]
    cos, sin = (np.concatenate(parts) for parts in zip(tables(), tables(factor=1.2), strict=True))
    with pytest.raises(ValueError, match="1 to 1.44.*constant_factor=False"):
        back(to(cos, sin), 8)
    np.testing.assert_array_equal(back(to(cos, sin), 8, constant_factor=False), (cos, sin))


@every_format
def test_a_table_without_rows(name):
    to, back = FORMATS[name]
    assert back(to(*tables((0, 4))), 8)[0].shape == (0, 4)


def test_attention_factor():
    assert formats.attention_factor(*tables(factor=1.0)) == pytest.approx(1.0, rel=1e-7)
    assert formats.attention_factor(*tables(dtype="bfloat16", factor=0.7)) == pytest.approx(
        0.7, rel=2**-8
    )
    with pytest.raises(ValueError, match="constant factor"):
        formats.attention_factor(*tables()[:1] * 2)
    with pytest.raises(ValueError, match="at least one number"):
        formats.attention_factor(*tables((0, 4)))


@pytest.mark.parametrize(
    ("cos", "sin", "error", "message"),
    [
        ([[1.0]], [[0.0]], TypeError, "`cos` must be an array, got list"),
        (np.ones((2, 2)), [[0.0]], TypeError, "`sin` must be an array, got list"),
        (
            np.ones((2, 2), int),
            np.ones((2, 2), int),
            TypeError,
            "`cos` must have one of the dtypes",
        ),
        (np.ones((2, 2)), np.ones((2, 2), "c8"), TypeError, "`sin` must have one of the dtypes"),
        (
            np.ones((2, 2)),
            np.ones((2, 3)),
            ValueError,
            "`sin` must have the shape and dtype of `cos`",
        ),
        (
            np.ones((2, 2)),
            np.ones((2, 2), "f4"),
            ValueError,
            "`sin` must have the shape and dtype of",
        ),
        (np.array(1.0), np.array(0.0), ValueError, "last axis of at least one number"),
        (np.ones((2, 0)), np.ones((2, 0)), ValueError, "last axis of at least one number"),
        (np.ma.ones((2, 2)), np.ones((2, 2)), TypeError, "`cos` must be a plain array"),
    ],
)
def test_cosines_and_sines_that_do_not_match_are_refused(cos, sin, error, message):
    for to in (formats.to_pairs, formats.to_ggml, formats.to_complex, formats.attention_factor):
        with pytest.raises(error, match=message):
            to(cos, sin)


@pytest.mark.library("torch", "jax")
def test_tables_of_two_libraries():
    import jax.numpy as jnp
    import torch

    with pytest.raises(TypeError, match="`sin` must be of the library of `cos`"):
        formats.to_pairs(torch.ones(2, 2), jnp.ones((2, 2)))


@pytest.mark.library("mlx")
def test_complex128_is_refused_for_mlx():
    import mlx.core as mx

    with mx.stream(mx.cpu):
        part = mx.ones((2, 2), mx.float64)
        with pytest.raises(TypeError, match="MLX has no complex128"):
            formats.to_complex(part, part)


@pytest.mark.library("torch")
def test_a_table_with_a_gradient_is_refused():
    import torch

    table = torch.ones(3, 4, 2, requires_grad=True)
    with pytest.raises(TypeError, match="`table` must be known on the host"):
        formats.from_pairs(table)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: formats.to_full_width(c, c, layout="neox"), ValueError, "usually 'half'"),
        (lambda c: formats.to_full_width(c, c, layout=True), TypeError, "`layout`"),
        (lambda c: formats.to_concatenated(c, c, order="sin"), ValueError, "'cos_sin', 'sin_cos'"),
        (lambda c: formats.to_concatenated(c, c, order=None), TypeError, "`order`"),
        (
            lambda c: formats.to_concatenated(c, c, order="cos_sin", layout="gpt-j"),
            ValueError,
            "usually 'interleaved'",
        ),
        (
            lambda c: formats.from_full_width(c, c, layout="half", rotary_dim=7),
            ValueError,
            "`rotary_dim` must be even",
        ),
        (
            lambda c: formats.from_full_width(c, c, layout="half", rotary_dim=8),
            ValueError,
            r"`cos` must be 8 wide, one number for each channel, got shape \(2, 4\)",
        ),
        (
            lambda c: formats.from_concatenated(c, rotary_dim=8, order="cos_sin"),
            ValueError,
            "8 wide, half of it cosines",
        ),
        (
            lambda c: formats.from_concatenated(c, rotary_dim=4, order="cos_sin", layout="half"),
            ValueError,
            "8 wide, cosines and sines for each channel",
        ),
        (
            lambda c: formats.from_concatenated(c, rotary_dim=4, order="cos_first"),
            ValueError,
            "`order`",
        ),
        (lambda c: formats.from_ggml(c, rotary_dim=2), ValueError, "2 wide, a cosine and a sine"),
        (
            lambda c: formats.from_ggml(c, rotary_dim=4, constant_factor=1),
            TypeError,
            "`constant_factor`",
        ),
        (formats.from_pairs, ValueError, "last axis of cosine and sine"),
        (lambda c: formats.from_pairs(c[0, :2]), ValueError, "last axis of cosine and sine"),
        (lambda c: formats.from_pairs(c > 0), TypeError, "`table` must have one of the dtypes"),
        (formats.from_complex, TypeError, "complex64, complex128, got float64"),
        (
            lambda c: formats.from_complex(c.astype(np.clongdouble)),
            TypeError,
            "complex64, complex128, got complex",
        ),
        (lambda c: formats.from_complex(c[0, 0] * 1j), ValueError, "last axis of at least one"),
        (
            lambda c: formats.from_complex(c.tolist()),
            TypeError,
            "`table` must be an array, got list",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((2, 4)))


# ------------------------------------------------------------------------------------------------
# ONNX nodes, without the package onnx; test_onnx.py has the rest.


def embedding(**others):
    return rotary.RotaryEmbedding(**{"head_dim": 8, "layout": "half", "base": 100.0} | others)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", np.float16, BFLOAT16])
def test_an_onnx_node_and_back(dtype):
    rope = embedding(layout="interleaved", rotary_dim=4)
    node = formats.to_onnx(rope, range(9), dtype=dtype, num_heads=2, domain="com.microsoft")
    assert node.op_type == "RotaryEmbedding"
    assert node.inputs == ("input", "position_ids", "cos_cache", "sin_cache")
    assert node.attributes == {
        "interleaved": 1,
        "rotary_embedding_dim": 4,
        "num_heads": 2,
        "is_packed_batching": 0,
        "scale": 1.0,
    }
    assert node.cos_cache.dtype == as_dtype(dtype)
    cos, sin, layout = formats.from_onnx(*node[-2:], node.attributes, head_dim=8)
    assert layout == "interleaved"
    assert cos.dtype == sin.dtype == np.float32
    expected = rope.tables(range(9))
    bound = {2: 2.0**-8, 4: 0}[node.cos_cache.dtype.itemsize]
    np.testing.assert_allclose((cos, sin), expected, rtol=0, atol=bound)


def test_the_tables_of_an_onnx_node_are_those_of_the_cache():
    node = formats.to_onnx(embedding(), range(9))
    assert node.attributes == {"interleaved": 0, "rotary_embedding_dim": 0}
    assert not node.cos_cache.flags.writeable
    assert not node.sin_cache.flags.writeable


def test_attributes_left_out_have_the_operators_defaults():
    cos, sin = tables()
    *got, layout = formats.from_onnx(cos, sin, {}, head_dim=8)
    assert layout == "half"
    np.testing.assert_array_equal(got, (cos, sin))


@pytest.mark.parametrize(
    ("options", "arguments", "error", "message"),
    [
        ({"rotary_start": 2, "rotary_dim": 4}, {}, ValueError, "`rope` must have rotary_start 0"),
        ({"output_layout": "interleaved"}, {}, ValueError, "the same layout and output_layout"),
        (
            {"base": None, "scaling": rotary.scaling.Custom(W=np.ones((3, 1, 4)))},
            {"positions": [[0, 1]]},
            ValueError,
            "the same frequencies for all heads",
        ),
        ({"decay": rotary.XPos(center=0)}, {}, TypeError, "`role`"),
        ({}, {"dtype": "float64"}, ValueError, "`dtype` must be one of 'float32', 'float16'"),
        ({}, {"num_heads": 0}, ValueError, "`num_heads` must be at least 1"),
        ({}, {"domain": "ai.onnx"}, ValueError, "`domain` must be one of '', 'com.microsoft'"),
        (
            {"rotary_dim": 4},
            {"domain": "com.microsoft"},
            TypeError,
            "`num_heads` must be given, because com.microsoft needs it",
        ),
        (
            {},
            {"positions": [[0, 1]], "domain": "com.microsoft"},
            ValueError,
            r"`positions` must have shape \(positions,\), got \(1, 2\)",
        ),
        ({}, {"positions": 3}, ValueError, r"must have shape \(positions,\) or \(B, S\), got \(\)"),
        (
            {"sections": [0, 1, 1, 0]},
            {"positions": np.zeros((2, 1, 1, 3))},
            ValueError,
            r"\(B, S\) after the axis of position axes, got \(2, 1, 1, 3\)",
        ),
    ],
)
def test_embeddings_that_onnx_does_not_support_are_refused(options, arguments, error, message):
    with pytest.raises(error, match=message):
        formats.to_onnx(embedding(**options), **{"positions": range(4)} | arguments)


def test_an_onnx_node_is_made_of_an_embedding():
    with pytest.raises(TypeError, match="`rope` must be a RotaryEmbedding, got tuple"):
        formats.to_onnx(tables(), range(4))


@pytest.mark.parametrize(
    ("attributes", "head_dim", "error", "message"),
    [
        ([("interleaved", 1)], 8, TypeError, "`attributes` must be a mapping, got list"),
        ({"rotary_dim": 8}, 8, ValueError, "got 'rotary_dim'"),
        ({"interleaved": 2}, 8, ValueError, r"`attributes\['interleaved'\]` must be 0 or 1, got 2"),
        ({"scale": 1.5}, 8, ValueError, r"`attributes\['scale'\]` must be 1, got 1.5"),
        ({"rotary_embedding_dim": 8}, 4, ValueError, "must be at most `head_dim` 4"),
        ({"rotary_embedding_dim": 4}, 8, ValueError, "`cos_cache` must be 2 wide"),
        ({"rotary_embedding_dim": 0}, 16, ValueError, "`cos_cache` must be 8 wide"),
        ({"rotary_embedding_dim": 2.5}, 16, TypeError, "must be an integer"),
        ({"rotary_embedding_dim": ""}, 8, TypeError, "must be an integer, got ''"),
        ({"rotary_embedding_dim": -4}, 8, ValueError, "must be at least 1, got -4"),
        ({"interleaved": np.ones(2)}, 8, TypeError, r"interleaved'\]` must be an integer"),
        ({"interleaved": "1"}, 8, TypeError, "must be an integer, got '1'"),
        ({"scale": "1"}, 8, TypeError, r"scale'\]` must be a real number, got '1'"),
        ({}, 7, ValueError, "must be even"),
    ],
)
def test_invalid_onnx_attributes_are_refused(attributes, head_dim, error, message):
    with pytest.raises(error, match=message):
        formats.from_onnx(*tables(), attributes, head_dim=head_dim)


def test_invalid_onnx_tables_are_refused():
    with pytest.raises(ValueError, match="2 or 3 axes"):
        formats.from_onnx(*tables((4,)), {}, head_dim=8)
    with pytest.raises(ValueError, match="`sin` must have the shape and dtype"):
        formats.from_onnx(tables()[0], tables()[1][1:], {}, head_dim=8)
    with pytest.raises(ValueError, match="constant factor"):
        formats.from_onnx(tables()[0], tables()[0], {}, head_dim=8)


# ------------------------------------------------------------------------------------------------
# The installed code of other projects.


def theirs(name):
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("model", "layout"), [("Llama", "half"), ("Cohere", "interleaved"), ("Glm", "half")]
)
def test_full_width_tables_of_transformers(model, layout):
    """Reading and writing gives the same bits, and they rotate as the function of that project does."""
    import torch
    import transformers

    module = theirs(model.lower())
    config = getattr(transformers, f"{model}Config")(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=16
    )
    ids = torch.tensor([[0, 1, 2, 3], [9, 8, 77, 6]])
    x = torch.from_numpy(random_array((2, 3, 4, 16)))
    wide = getattr(module, f"{model}RotaryEmbedding")(config)(x, ids)
    cos, sin = formats.from_full_width(*wide, layout=layout, rotary_dim=wide[0].shape[-1])
    for made, part in zip(formats.to_full_width(cos, sin, layout=layout), wide, strict=True):
        assert torch.equal(made, part)
    pairs = "half" if model == "Llama" else "interleaved"
    got = rotary.apply_rotary(x, cos, sin, layout=pairs, seq_axis=-2)
    expected, _ = module.apply_rotary_pos_emb(x, x, *wide)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("model", ["gptj", "codegen"])
def test_sine_first_tables_of_transformers(model):
    import torch

    module = theirs(model)
    table = module.create_sinusoidal_positions(50, 16)
    cos, sin = formats.from_concatenated(table, rotary_dim=16, order="sin_cos")
    assert torch.equal(formats.to_concatenated(cos, sin, order="sin_cos"), table)
    ours = formats.to_concatenated(
        *rotary.cos_sin(np.arange(50), rotary.inv_freq(16, base=10_000.0)), order="sin_cos"
    )
    np.testing.assert_allclose(table.numpy(), ours, rtol=0, atol=5e-6)
    x = torch.from_numpy(random_array((2, 50, 3, 16)))
    expected = module.apply_rotary_pos_emb(
        x, sin[None].expand(2, -1, -1), cos[None].expand(2, -1, -1)
    )
    got = rotary.apply_rotary(x, cos, sin, layout="interleaved", seq_axis=1)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.oracle
def test_the_table_of_roformer():
    import torch

    module = theirs("roformer")
    embedding = module.RoFormerSinusoidalPositionalEmbedding(50, 16)
    table = embedding.create_weight()
    cos, sin = formats.from_concatenated(table, rotary_dim=16, order="sin_cos")
    x = torch.from_numpy(random_array((2, 3, 50, 16)))
    expected, _ = module.RoFormerSelfAttention.apply_rotary_position_embeddings(
        table[None, None], x, x
    )
    got = rotary.apply_rotary(x, cos, sin, layout="interleaved", seq_axis=-2)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.oracle
def test_the_complex_table_of_llama_4():
    import torch
    import transformers

    module = theirs("llama4")
    config = transformers.Llama4TextConfig(hidden_size=32, num_attention_heads=2, head_dim=16)
    x = torch.from_numpy(random_array((2, 5, 3, 16)))
    ids = torch.tensor([[0, 1, 2, 3, 4], [5, 500, 50, 7, 9]])
    table = module.Llama4TextRotaryEmbedding(config)(x, ids)
    cos, sin = formats.from_complex(table)
    assert torch.equal(formats.to_complex(cos, sin), table)
    expected, _ = module.apply_rotary_emb(x, x, table)
    got = rotary.apply_rotary(x, cos, sin, layout="interleaved", seq_axis=1)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
