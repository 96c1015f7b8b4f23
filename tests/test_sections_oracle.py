"""The orders of position axes, against the code that models run: transformers, and tables made with other projects.

`oracle` tests run transformers. The tables of projects that are not Python packages, or need a GPU, were made by
running their rule, and are named after project, file and version.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotary import RotaryEmbedding, sections

# ------------------------------------------------------------------------------------------------
# Tables. One digit is the position axis of one pair.

# SGLang, python/sglang/srt/layers/rotary_embedding/mrope.py at 020d83a0, `mrope_interleaved_glm`
GLM_INTERLEAVED = {
    (8, 12, 12): "01201201201201201201201211211222",
    (24, 20, 20): "0120120120120120120120120120120120120120120120120120120120120000",
    (16, 24, 24): "0120120120120120120120120120120120120120120120121121121121122222",
    (2, 3, 3): "01201212",
    (4, 1, 1): "012000",
    (1, 1, 4): "012222",
}

# vLLM, vllm/model_executor/layers/rotary_embedding/mrope_interleaved.py at 41c5903d
OPENPANGU = {
    (8, 12, 12): "01212012120121201201212012120120",
    (24, 20, 20): "0120120120120120120120102012012012012012012010201201201201201200",
    (16, 24, 24): "0121201212012012120120121201212012012120120121201212012012120120",
    (2, 3, 3): "01212120",
    (4, 1, 1): "012000",
    (16, 16): "01010101010101010101010101010101",
    (20, 12): "01010101010101010101010100000000",
    (1, 5): "011111",
}

# vLLM, vllm/model_executor/layers/rotary_embedding/bailing_mrope.py at 9c5b7163; the same pairs in SGLang,
# python/sglang/kernels/ops/attention/rotary_triton.py at 0d7ff714, `_triton_ernie45_rope_qk_fused`
BAILING = {
    (8, 12, 12): "12121212121212121212121200000000",
    (20, 22, 22): "1212121212121212121212121212121212121212121200000000000000000000",
    (0, 4, 4): "12121212",
    (1, 2, 2): "12120",
}

# ggml, llama.cpp's ggml/src/ggml-cpu/ops.cpp at 0049e3cb, `ggml_mrope_cache_init`: the sizes of all four
# axes and the number of pairs
GGML_MROPE = {
    (16, 24, 24, 0, 64): "0" * 16 + "1" * 24 + "2" * 24,
    (11, 11, 10, 0, 32): "00000000000111111111112222222222",
    (2, 1, 1, 0, 6): "001200",
    (2, 1, 1, 2, 6): "001233",
    (3, 2, 2, 1, 5): "00011",
}
GGML_IMROPE = {
    (24, 20, 20, 0, 64): "0120120120120120120120120120120120120120120120120120120120120330",
    (11, 11, 10, 0, 32): "01201201201201201201201201201201",
    (8, 12, 12, 0, 32): "01201201201201201201201231231231",
    (2, 1, 1, 0, 6): "012001",
    (2, 2, 2, 2, 8): "01201233",
}
GGML_VISION = {  # and the exponent of base**(-2 / pairs) for every pair
    (16, 16, 16, 16, 32): ("0" * 16 + "1" * 16, [*range(16), *range(16)]),
    (4, 4, 0, 0, 8): ("00001111", [0, 1, 2, 3, 0, 1, 2, 3]),
    (2, 2, 2, 2, 8): ("00112233", [0, 1, 0, 1, 0, 1, 0, 1]),
    (2, 2, 0, 0, 8): ("00110011", [0, 1, 0, 1, 0, 1, 0, 1]),
    (1, 3, 2, 2, 8): ("01112233", [0, 0, 1, 2, 0, 1, 0, 1]),
    (3, 1, 0, 0, 8): ("00010001", [0, 1, 2, 0, 0, 1, 2, 0]),
}

TABLES = [
    pytest.param(order, sizes, table, id=f"{order.__name__} {sizes}")
    for order, tables in (
        (sections.glm_interleaved, GLM_INTERLEAVED),
        (sections.openpangu, OPENPANGU),
        (sections.bailing, BAILING),
    )
    for sizes, table in tables.items()
]
GGML_TABLES = [
    pytest.param(order, sizes, pairs, table, id=f"{order.__name__} {sizes} {pairs}")
    for order, tables in (
        (sections.ggml_mrope, GGML_MROPE),
        (sections.ggml_imrope, GGML_IMROPE),
    )
    for (*sizes, pairs), table in tables.items()
]


def digits(order):
    """Return the axes of an order in the form of the tables."""
    return "".join(map(str, order.axes))


def runs_on(order):
    """Return whether one frequency schedule continues over all pairs."""
    pairs = len(order.axes)
    return order.index == tuple(range(pairs)) and order.widths == (2 * pairs,) * pairs


@pytest.mark.parametrize(("order", "sizes", "table"), TABLES)
def test_orders_are_those_of_their_projects(order, sizes, table):
    ours = order(*sizes)
    assert digits(ours) == table
    assert ours.num_axes == len(sizes)
    assert runs_on(ours)


@pytest.mark.parametrize(("order", "sizes", "pairs", "table"), GGML_TABLES)
def test_orders_of_ggml(order, sizes, pairs, table):
    ours = order(*sizes, pairs=pairs)
    assert digits(ours) == table
    assert ours.num_axes == 4
    assert runs_on(ours)


@pytest.mark.parametrize(("sizes", "expected"), GGML_VISION.items(), ids=str)
def test_vision_order_of_ggml(sizes, expected):
    *sizes, pairs = sizes
    ours = sections.ggml_vision(*sizes, pairs=pairs)
    assert (digits(ours), list(ours.index)) == expected
    assert ours.widths == (pairs,) * pairs
    rope = RotaryEmbedding(2 * pairs, layout="half", base=1e4, sections=ours)
    powers = 1e4 ** (-2.0 / pairs * np.array(expected[1]))
    np.testing.assert_allclose(rope.inv_freq, powers, rtol=1e-14)


def test_all_orders_differ():
    """Shows that the tables above are a test: three sizes of axes distinguish the orders."""
    sizes = (8, 12, 12)
    orders = {
        digits(sections.chunked(*sizes)),
        digits(sections.ernie(12, 12, 8)),
        digits(sections.glm_interleaved(*sizes)),
        digits(sections.openpangu(*sizes)),
        digits(sections.ggml_imrope(*sizes, 0)),
    }
    assert len(orders) == 5


# ------------------------------------------------------------------------------------------------
# transformers.


def pair_table(model, rotary_class, sizes, pairs, columns):
    """The angle of every pair per unit of every position axis, as a model's own module has it.

    Parameters
    ----------
    columns : callable
        Which of the model's full-width columns belong to the first channels of the pairs.

    Returns
    -------
    float64 array (axes, pairs)
    """
    import torch

    module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    config = SimpleNamespace(
        head_dim=2 * pairs,
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": list(sizes),
        },
    )
    axes = max(3, len(sizes))
    # Position 1 on one axis and 0 on all others: the sine is zero for pairs of other axes.
    positions = torch.eye(axes, dtype=torch.int64)[:, None, :]
    _, sine = getattr(module, rotary_class)(config)(torch.zeros(1), positions)
    return np.arcsin(columns(sine[0].double().numpy(), pairs))


def first_half(table, pairs):
    return table[:, :pairs]


def every_second(table, pairs):
    return table[:, ::2][:, :pairs]


def check_order(model, rotary_class, sizes, order, layout, columns):
    """Compare the axis and frequency of every pair with the model; position 1 is in the range of the arcsine."""
    pairs = sum(sizes)
    rope = RotaryEmbedding(2 * pairs, layout=layout, base=1e4, sections=order)
    ours = np.zeros((max(3, len(sizes)), pairs))
    ours[order.axes, np.arange(pairs)] = rope.inv_freq
    theirs = pair_table(model, rotary_class, sizes, pairs, columns)
    # The sines are float32, and the arcsine is steep near one, except for the first frequency: 1 radian.
    np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-9)


SIZES = st.lists(st.integers(1, 24), min_size=3, max_size=3).map(tuple)
SWEEP = settings(max_examples=25, deadline=None)


@pytest.mark.oracle
@SWEEP
@given(sizes=SIZES)
def test_chunked_is_the_order_of_qwen2_vl(sizes):
    order = sections.chunked(*sizes)
    check_order("qwen2_vl", "Qwen2VLRotaryEmbedding", sizes, order, "half", first_half)


@pytest.mark.oracle
@SWEEP
@given(sizes=SIZES)
def test_chunked_is_the_order_of_glm4v(sizes):
    order = sections.chunked(*sizes)
    check_order("glm4v", "Glm4vTextRotaryEmbedding", sizes, order, "interleaved", every_second)


@pytest.mark.oracle
@SWEEP
@given(rounds=st.integers(1, 20), rest=st.integers(0, 20))
def test_interleaved_is_the_order_of_qwen3_vl(rounds, rest):
    sizes = (rounds + rest, rounds, rounds)
    order = sections.interleaved(*sizes)
    check_order("qwen3_vl", "Qwen3VLTextRotaryEmbedding", sizes, order, "half", first_half)


@pytest.mark.oracle
@pytest.mark.parametrize("sizes", [(24, 20, 20), (11, 11, 10), (4, 2, 1), (5, 1, 2)])
def test_interleaved_is_the_order_of_qwen3_vl_with_unequal_sizes(sizes):
    order = sections.interleaved(*sizes)
    check_order("qwen3_vl", "Qwen3VLTextRotaryEmbedding", sizes, order, "half", first_half)


@pytest.mark.oracle
@SWEEP
@given(space=st.integers(1, 24), time=st.integers(1, 24))
def test_ernie_is_the_order_of_ernie_4_5_vl(space, time):
    sizes = (space, space, time)
    order = sections.ernie(*sizes)
    check_order(
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoeTextRotaryEmbedding",
        sizes,
        order,
        "interleaved",
        every_second,
    )


@pytest.mark.oracle
@pytest.mark.parametrize("sizes", [(8, 12, 12), (1, 3, 1)])
def test_sizes_that_qwen3_vl_changes_silently_are_refused(sizes):
    pairs = sum(sizes)
    theirs = pair_table("qwen3_vl", "Qwen3VLTextRotaryEmbedding", sizes, pairs, first_half)
    counts = tuple((theirs > 1e-9).sum(axis=1).tolist())
    assert sum(counts) == pairs
    assert counts != sizes
    with pytest.raises(ValueError, match="`sizes` must be the counts"):
        sections.interleaved(*sizes)


@pytest.mark.oracle
def test_the_comparison_fails_for_another_order():
    """The comparison above fails for any order but that of the model."""
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_order(
            "qwen2_vl",
            "Qwen2VLRotaryEmbedding",
            (4, 2, 2),
            sections.interleaved(4, 2, 2),
            "half",
            first_half,
        )


@pytest.mark.oracle
def test_hunyuan_vl_in_transformers_doubles_sizes_over_all_channels():
    """The reason for the quirk: the two channels of a pair use different axes."""
    sizes, pairs = (4, 4, 4, 4), 16
    theirs = pair_table("hunyuan_vl", "HunYuanVLRotaryEmbedding", sizes, pairs, lambda x, _: x)
    axes = (theirs > 1e-9).argmax(axis=0)
    np.testing.assert_array_equal(axes, np.repeat(np.arange(4), 8))
    chunked = np.array(sections.chunked(*sizes).axes)
    assert (axes[:pairs] != axes[pairs:]).all()
    assert (axes != np.tile(chunked, 2)).any()
