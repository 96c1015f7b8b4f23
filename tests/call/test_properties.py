"""Laws that every rotation obeys."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import LAYOUTS, random_array, same_bits
from hypothesis import given
from hypothesis import strategies as st

import rotary
from rotary import RotaryEmbedding
from rotary.layouts import pair_channels
from rotary.scaling import Custom

# Float positions are multiples of 1/8, so that their sums are exact.
INTEGERS = st.integers(-(2**61), 2**61)
SMALL = st.integers(-(10**6), 10**6)
EIGHTHS = st.integers(-(2**50), 2**50).map(lambda n: n / 8)
PLACES = INTEGERS | EIGHTHS
SEEDS = st.integers(0, 2**32 - 1)
FREQUENCIES = st.floats(-10, 10, allow_subnormal=False)


@st.composite
def embeddings(draw, factors=(1.0,)):
    """Draw any embedding for float64 arrays on one position axis, with a seed for arrays."""
    pairs = draw(st.integers(1, 5))
    start = draw(st.integers(0, 3))
    rest = draw(st.integers(0, 3))
    scaling = Custom(
        draw(st.lists(FREQUENCIES, min_size=pairs, max_size=pairs)), draw(st.sampled_from(factors))
    )
    return RotaryEmbedding(
        start + 2 * pairs + rest,
        layout=draw(st.sampled_from(LAYOUTS)),
        output_layout=draw(st.sampled_from(LAYOUTS)),
        rotary_dim=2 * pairs,
        rotary_start=start,
        scaling=scaling,
    )


def close(a, b, size=1.0):
    np.testing.assert_allclose(a, b, rtol=0, atol=3e-14 * size)


def arrays_of(rope, seed, rows=2):
    return random_array((rows, rope.head_dim), "float64", seed)


def dot(a, b):
    return (a * b).sum(axis=-1)


@given(embeddings(), SEEDS, INTEGERS, INTEGERS, st.integers(-(2**61), 2**61))
def test_scores_depend_only_on_the_distance(rope, seed, m, n, shift):
    q, k = arrays_of(rope, seed, 1), arrays_of(rope, seed + 1, 1)
    near = dot(rope(q, offset=m), rope(k, offset=n))
    far = dot(rope(q, offset=m + shift), rope(k, offset=n + shift))
    close(far, near, 10 * rope.head_dim)


@given(embeddings(factors=(1.0, 2.0, 0.5)), SEEDS, PLACES)
def test_pairs_keep_their_norm_times_the_attention_factor(rope, seed, place):
    x = arrays_of(rope, seed)
    got = rope(x, offset=place)
    read = np.array(pair_channels(rope.rotary_dim, rope.layout)) + rope.rotary_start
    write = np.array(pair_channels(rope.rotary_dim, rope.output_layout)) + rope.rotary_start
    before = np.hypot(x[:, read[0]], x[:, read[1]]) * rope.attention_factor
    after = np.hypot(got[:, write[0]], got[:, write[1]])
    np.testing.assert_allclose(after, before, rtol=1e-15 * 8)


@given(embeddings(factors=(1.0, 1.7, 0.3)), SEEDS, PLACES)
def test_inverse_undoes_the_call(rope, seed, place):
    x = arrays_of(rope, seed)
    close(rope.inverse(rope(x, offset=place), offset=place), x, 10)
    close(rope(rope.inverse(x, offset=place), offset=place), x, 10)


@given(embeddings(), SEEDS, INTEGERS, INTEGERS)
def test_rotations_compose(rope, seed, a, b):
    rope = RotaryEmbedding(
        rope.head_dim,
        layout=rope.layout,
        scaling=rope.scaling,
        rotary_dim=rope.rotary_dim,
        rotary_start=rope.rotary_start,
    )
    x = arrays_of(rope, seed, 1)
    close(rope(rope(x, offset=a), offset=b), rope(x, offset=a + b), 10)


@given(embeddings(), SEEDS, INTEGERS)
def test_layouts_are_permutations_of_one_another(rope, seed, place):
    """With the channels in the order of the other layout, the bits are the same."""
    x = arrays_of(rope, seed)
    other = RotaryEmbedding(
        rope.head_dim,
        layout="interleaved",
        scaling=rope.scaling,
        rotary_dim=rope.rotary_dim,
        rotary_start=rope.rotary_start,
    )

    def permute(x, source, target):
        result = x.copy()
        for a, b in zip(
            pair_channels(rope.rotary_dim, source),
            pair_channels(rope.rotary_dim, target),
            strict=True,
        ):
            result[:, b + rope.rotary_start] = x[:, a + rope.rotary_start]
        return result

    want = other(permute(x, rope.layout, "interleaved"), offset=place)
    assert same_bits(rope(x, offset=place), permute(want, "interleaved", rope.output_layout))


@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(-100, 100))
def test_permuted_weights_give_the_same_scores(seed, heads, pairs, place):
    width = 2 * pairs
    x = random_array((3, 5), "float64", seed)
    wq, wk = (random_array((heads * width, 5), "float64", seed + i) for i in (1, 2))

    def scores(wq, wk, layout):
        rope = RotaryEmbedding(width, layout=layout, base=100.0, seq_axis=-3)
        q, k = ((x @ w.T).reshape(1, 3, heads, width) for w in (wq, wk))
        q, k = rope(q, k, offset=place)
        return np.einsum("bqhd,bkhd->bhqk", q, k)

    swap = {"source": "half", "target": "interleaved"}
    permuted = [rotary.permute_weights(w, heads, **swap) for w in (wq, wk)]
    close(scores(*permuted, "interleaved"), scores(wq, wk, "half"), 1e3)


@given(embeddings(factors=(1.0, 1.7)), SEEDS, INTEGERS, INTEGERS)
def test_shift_equals_rotation_at_the_shifted_position(rope, seed, place, delta):
    x = arrays_of(rope, seed, 1)
    close(rope.shift(rope(x, offset=place), delta), rope(x, offset=place + delta), 10)


@given(embeddings(), SEEDS, PLACES, st.floats(-10, 10), st.floats(-10, 10))
def test_rotation_is_linear(rope, seed, place, a, b):
    x, y = arrays_of(rope, seed), arrays_of(rope, seed + 1)
    want = a * rope(x, offset=place) + b * rope(y, offset=place)
    close(rope(a * x + b * y, offset=place), want, 100)


@given(embeddings(factors=(1.0, 1.7, 0.3)), SEEDS, PLACES)
def test_vjp_is_the_transpose(rope, seed, place):
    x, y = arrays_of(rope, seed), arrays_of(rope, seed + 1)
    left = dot(rope(x, offset=place), y).sum()
    right = dot(x, rope.vjp(y, offset=place)).sum()
    close(left, right, 100)


@given(embeddings(), PLACES)
def test_the_matrix_of_a_sum_is_the_product(rope, place):
    """The matrix is also orthogonal, and its transpose is that of the opposite position."""
    matrix = rope.matrix(place)
    close(matrix @ matrix.T, np.eye(rope.head_dim), 10)
    if rope.layout == rope.output_layout:
        close(rope.matrix(-place), matrix.T, 0)
        half = place / 2 if isinstance(place, float) else place // 2
        close(rope.matrix(half) @ rope.matrix(place - half), matrix, 10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(place=st.integers(-(2**63) + 1, 2**63 - 1) | EIGHTHS | st.floats(-1e9, 1e9), w=FREQUENCIES)
def test_cosine_is_even_and_sine_is_odd(dtype, place, w):
    ahead = rotary.cos_sin(place, [w], dtype=dtype)
    for back in (
        rotary.cos_sin(-place, [w], dtype=dtype),
        rotary.cos_sin(place, [-w], dtype=dtype),
    ):
        assert same_bits(back[0], ahead[0])
        assert np.array_equal(back[1], -ahead[1])


@given(SMALL, st.integers(1, 40), st.data())
def test_tables_do_not_depend_on_the_form_of_positions(start, length, data):
    """Ranges, single positions, any order and floats have the same bits."""
    rope = RotaryEmbedding(6, layout="half", base=10_000.0)
    cos, sin = rope.tables(range(start, start + length))
    order = data.draw(st.permutations(range(length)))
    places = np.array([start + i for i in order])
    for positions in (places, places.astype(float), places.tolist()):
        got = rope.tables(positions)
        assert same_bits(got[0], cos[order])
        assert same_bits(got[1], sin[order])


@given(SEEDS, st.lists(st.integers(0, 5), min_size=0, max_size=5), SMALL)
def test_packed_sequences_equal_separate_calls(seed, lengths, offset):
    rope = RotaryEmbedding(6, layout="half", base=10_000.0)
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    x = random_array((int(bounds[-1]), 2, 6), "float32", seed)
    got = rope(x, cu_seqlens=bounds, offset=offset)
    for first, last in itertools.pairwise(bounds):
        assert same_bits(got[first:last], rope(x[first:last], seq_axis=0, offset=offset))


@given(SEEDS, SMALL, st.integers(1, 6))
def test_decoding_token_by_token_equals_one_call(seed, start, length):
    rope = RotaryEmbedding(8, layout="half", base=10_000.0, seq_axis=-2)
    x = random_array((2, 3, length, 8), "float32", seed)
    whole = rope(x, offset=start)
    for i in range(length):
        assert same_bits(rope(x[:, :, i : i + 1], offset=start + i), whole[:, :, i : i + 1])
