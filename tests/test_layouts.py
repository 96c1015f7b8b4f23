"""Layouts: channel pairs, and weights that are permuted from one layout to the other."""

from __future__ import annotations

import importlib

import array_api_compat
import ml_dtypes
import numpy as np
import pytest
from helpers import modules
from hypothesis import given
from hypothesis import strategies as st

from rotary._lib.errors import ConfigError
from rotary.layouts import LAYOUTS, check_layout, pair_channels, permute_weights

OTHER = {"half": "interleaved", "interleaved": "half"}


def rotated(heads, layout, angles):
    """Rotate heads (H, head_dim) by the formula, with one angle per pair."""
    first, second = pair_channels(2 * len(angles), layout)
    out = heads.copy()
    a, b = heads[:, first], heads[:, second]
    out[:, first] = a * np.cos(angles) - b * np.sin(angles)
    out[:, second] = b * np.cos(angles) + a * np.sin(angles)
    return out


def test_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_check_layout_returns_the_layout(layout):
    assert check_layout(layout) == layout


@pytest.mark.parametrize("value", [None, True, 1, ["half"], b"half"])
def test_layouts_are_strings(value):
    with pytest.raises(TypeError, match=r"`source` must be 'half', pairs .* or 'interleaved'"):
        check_layout(value, "source")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("neox", "half"),
        ("GPT-NeoX", "half"),
        ("rotate_half", "half"),
        (" Half", "half"),
        ("gptj", "interleaved"),
        ("GPT-J", "interleaved"),
        ("interleave", "interleaved"),
        ("traditional", "interleaved"),
        ("INTERLEAVED", "interleaved"),
    ],
)
def test_names_of_other_libraries_get_a_hint(word, hint):
    with pytest.raises(ValueError, match=f"`layout` must be .* is usually '{hint}' here"):
        check_layout(word)


@pytest.mark.parametrize("word", ["", "quarter", "hugging face", "llama"])
def test_other_names_get_no_hint(word):
    with pytest.raises(ValueError, match="`layout` must be") as caught:
        check_layout(word)
    assert "usually" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rotary_dim", [2, 4, 64])
def test_pairs_cover_every_channel_once(layout, rotary_dim):
    first, second = pair_channels(rotary_dim, layout)
    assert first.dtype == second.dtype == np.int64
    assert sorted([*first, *second]) == list(range(rotary_dim))
    distance = rotary_dim // 2 if layout == "half" else 1
    np.testing.assert_array_equal(second - first, distance)


def test_pairs_need_an_even_width():
    with pytest.raises(ValueError, match="`rotary_dim` must be even"):
        pair_channels(5, "half")
    with pytest.raises(ValueError, match="`layout` must be"):
        pair_channels(4, "neox")


def test_the_formula_of_the_llama_conversion():
    heads, head_dim, features = 3, 8, 5
    w = np.random.default_rng(0).normal(size=(heads * head_dim, features))
    theirs = w.reshape(heads, head_dim // 2, 2, features).swapaxes(1, 2).reshape(w.shape)
    ours = permute_weights(w, heads, source="interleaved", target="half")
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("rotary_dim", [None, 4, 10])
def test_rows_are_where_the_target_layout_reads_them(source, target, rotary_dim):
    heads, head_dim = 3, 10
    bias = np.arange(heads * head_dim)
    old = bias.reshape(heads, head_dim)
    new = permute_weights(bias, heads, source=source, target=target, rotary_dim=rotary_dim)
    new = new.reshape(heads, head_dim)
    width = rotary_dim or head_dim
    for there, here in zip(pair_channels(width, target), pair_channels(width, source), strict=True):
        np.testing.assert_array_equal(new[:, there], old[:, here])
    np.testing.assert_array_equal(new[:, width:], old[:, width:])


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("rotary_dim", [None, 6])
def test_attention_scores_do_not_change(source, rotary_dim):
    target = OTHER[source]
    rng = np.random.default_rng(1)
    heads, kv_heads, head_dim, features = 4, 2, 8, 7
    wq = rng.normal(size=(heads * head_dim, features))
    wk = rng.normal(size=(kv_heads * head_dim, features))
    bias = rng.normal(size=kv_heads * head_dim)
    x, y = rng.normal(size=(2, features))
    near, far = rng.normal(size=(2, (rotary_dim or head_dim) // 2))

    def scores(wq, wk, bias, layout):
        q = rotated((wq @ x).reshape(heads, head_dim), layout, near)
        k = rotated((wk @ y + bias).reshape(kv_heads, head_dim), layout, far)
        return np.einsum("hd,hd->h", q, np.repeat(k, heads // kv_heads, axis=0))

    how = {"source": source, "target": target, "rotary_dim": rotary_dim}
    permuted = scores(
        permute_weights(wq, heads, **how),
        permute_weights(wk, kv_heads, **how),
        permute_weights(bias, kv_heads, **how),
        target,
    )
    np.testing.assert_allclose(permuted, scores(wq, wk, bias, source), rtol=1e-12)
    wrong = scores(wq, wk, bias, target)
    assert np.abs(wrong - permuted).max() > 0.1


@given(
    heads=st.integers(1, 4),
    pairs=st.integers(1, 6),
    rest=st.integers(0, 5),
    features=st.one_of(st.none(), st.integers(0, 3)),
    source=st.sampled_from(LAYOUTS),
    target=st.sampled_from(LAYOUTS),
)
def test_swapping_source_and_target_inverts_the_permutation(
    heads, pairs, rest, features, source, target
):
    shape = (
        (heads * (2 * pairs + rest),)
        if features is None
        else (heads * (2 * pairs + rest), features)
    )
    w = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    there = permute_weights(w, heads, source=source, target=target, rotary_dim=2 * pairs)
    back = permute_weights(there, heads, source=target, target=source, rotary_dim=2 * pairs)
    np.testing.assert_array_equal(back, w)
    assert there.shape == w.shape
    assert not np.shares_memory(there, w)
    if source == target:
        np.testing.assert_array_equal(there, w)


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.bfloat16, np.float16, np.float32, np.float64, np.int8, np.uint8, np.complex64],
)
def test_every_dtype_keeps_its_bits(dtype):
    w = np.random.default_rng(2).integers(0, 100, (16, 3)).astype(dtype)
    before = w.tobytes()
    permuted = permute_weights(w, 2, source="half", target="interleaved")
    expected = permute_weights(np.arange(16), 2, source="half", target="interleaved")
    assert permuted.dtype == w.dtype
    assert permuted.tobytes() == w[expected].tobytes()
    assert w.tobytes() == before


def test_read_only_and_strided_weights_are_accepted():
    packed = np.arange(96.0).reshape(24, 4)
    packed.flags.writeable = False
    wk = packed[8:16, ::-1]
    expected = permute_weights(wk.copy(), 2, source="half", target="interleaved")
    permuted = permute_weights(wk, 2, source="half", target="interleaved")
    np.testing.assert_array_equal(permuted, expected)
    assert permuted.flags.writeable


@pytest.mark.parametrize(
    "module", modules("torch", "jax.numpy", "array_api_strict", "dask.array", "mlx.core", "ndonnx")
)
def test_results_are_arrays_of_the_library_of_the_weights(module):
    library = importlib.import_module(module)
    w = np.arange(48, dtype=np.float32).reshape(16, 3)
    theirs = library.asarray(w) if hasattr(library, "asarray") else library.array(w)
    permuted = permute_weights(theirs, 2, source="interleaved", target="half", rotary_dim=6)
    assert type(permuted) is type(theirs)
    assert permuted.dtype == theirs.dtype
    expected = permute_weights(w, 2, source="interleaved", target="half", rotary_dim=6)
    found = permuted.unwrap_numpy() if module == "ndonnx" else np.asarray(permuted)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.library("jax")
def test_traced_weights():
    jax = importlib.import_module("jax")
    bias = jax.numpy.arange(8)
    permuted = jax.jit(lambda b: permute_weights(b, 2, source="interleaved", target="half"))(bias)
    assert permuted.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.library("torch")
def test_gradients_flow_through():
    torch = importlib.import_module("torch")
    bias = torch.arange(8.0, requires_grad=True)
    permuted = permute_weights(bias, 2, source="interleaved", target="half")
    (permuted * torch.arange(8.0)).sum().backward()
    assert bias.grad.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"w": [1.0] * 16}, TypeError, "`w` must be an array .*list"),
        ({"w": None}, TypeError, "`w` must be an array .*NoneType"),
        ({"w": 3.0}, TypeError, "`w` must be an array .*float"),
        ({"w": np.ma.ones((16, 3))}, TypeError, "`w` must be an array .*MaskedArray"),
        ({"w": np.ones((16, 3)).view(np.matrix)}, TypeError, "`w` must be an array .*matrix"),
        ({"w": np.float64(3)}, (TypeError, ValueError), "`w` must be"),
        ({"w": np.ones(())}, ValueError, "`w` must be a weight .* got 0 axes"),
        ({"w": np.ones((2, 8, 3))}, ValueError, "`w` must be a weight .* got 3 axes"),
        ({"w": np.ones((15, 3))}, ValueError, "`w` must have a multiple of `num_heads` = 2 .*15"),
        ({"w": np.ones((0, 3))}, ValueError, "`w` must have a multiple of `num_heads` = 2 .*0"),
        ({"w": np.ones((3, 16))}, ValueError, "must be transposed first"),
        ({"w": np.ones((10, 3))}, ValueError, "`rotary_dim` must be given .* 5 channels"),
        ({"num_heads": 0}, ValueError, "`num_heads` must be at least 1, got 0"),
        ({"num_heads": -2}, ValueError, "`num_heads` must be at least 1, got -2"),
        ({"num_heads": 2.0}, TypeError, "`num_heads` must be an integer"),
        ({"num_heads": True}, TypeError, "`num_heads` must be an integer"),
        ({"num_heads": "2"}, TypeError, "`num_heads` must be an integer"),
        ({"rotary_dim": 3}, ValueError, "`rotary_dim` must be even"),
        ({"rotary_dim": 0}, ValueError, "`rotary_dim` must be at least 1"),
        ({"rotary_dim": -2}, ValueError, "`rotary_dim` must be at least 1"),
        ({"rotary_dim": 10}, ValueError, "`rotary_dim` must be at most the 8 channels .* got 10"),
        ({"rotary_dim": 4.0}, TypeError, "`rotary_dim` must be an integer"),
        ({"source": "neox"}, ValueError, "`source` must be"),
        ({"target": "gptj"}, ValueError, "`target` must be"),
        ({"source": None}, TypeError, "`source` must be"),
        ({"target": False}, TypeError, "`target` must be"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    call = {"w": np.ones((16, 3)), "num_heads": 2, "source": "half", "target": "interleaved"}
    call |= change
    with pytest.raises(error, match=message):
        permute_weights(**call)


def test_a_head_with_odd_channels_takes_an_even_rotary_dim():
    permuted = permute_weights(np.arange(5), 1, source="interleaved", target="half", rotary_dim=4)
    assert permuted.tolist() == [0, 2, 1, 3, 4]


def test_layouts_are_required():
    with pytest.raises(TypeError, match="source"):
        permute_weights(np.ones(8), 2)
    assert array_api_compat.is_numpy_array(
        permute_weights(np.ones(8), 2, source="half", target="half")
    )
