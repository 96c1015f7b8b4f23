"""Positions for long contexts: the distance of every pair, against the papers' own formulas."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotary.positions import DualChunk, NearFar, dual_chunk, rerope, self_extend

lengths = st.integers(0, 40)


def pairs_of(length):
    """Every query, with every key that it attends to."""
    return [(query, key) for query in range(length) for key in range(query + 1)]


@given(length=lengths, chunk=st.integers(2, 16), data=st.data())
def test_dual_chunk_distances(length, chunk, data):
    local = data.draw(st.integers(1, chunk - 1))
    run = chunk - local
    actual = dual_chunk(range(length), chunk=chunk, local=local)
    for query, key in pairs_of(length):
        chunks_between = query // run - key // run
        name = ("intra", "successive", "inter")[min(chunks_between, 2)]
        distance = getattr(actual, name)[query] - actual.key[key]
        if chunks_between == 0:
            assert distance == query - key
        elif chunks_between == 1:
            # Exact, except for the part by which the query would be beyond the chunk.
            assert distance == query - key - max(query % run - local, 0)
            assert actual.successive_critical[query] - actual.key[key] == query - key
        else:
            assert distance == min(chunk, 2 * run - 1) - key % run
            assert actual.inter_critical[query] - actual.key[key] == chunk + query % run - key % run
        assert 0 <= distance <= chunk


def test_dual_chunk_of_vllm():
    """Its tables at chunk_size 4, local_size 1, copied by hand."""
    actual = dual_chunk([[0, 1], [2, 3]], chunk=4, local=1)
    assert isinstance(actual, DualChunk)
    assert [values.tolist() for values in actual] == [
        [[0, 1], [2, 0]],
        [[0, 1], [2, 0]],
        [[3, 4], [4, 3]],
        [[4, 4], [4, 4]],
        [[3, 4], [5, 3]],
        [[4, 5], [6, 4]],
    ]
    assert {values.dtype.name for values in actual} == {"int64"}


@given(length=lengths, group=st.integers(1, 6), window=st.integers(1, 20))
def test_self_extend_distances(length, group, window):
    actual = self_extend(range(length), group=group, window=window)
    for query, key in pairs_of(length):
        if query - key < window:
            assert actual.near[query] - actual.near[key] == query - key
        else:
            shift = window - window // group
            distance = actual.far_query[query] - actual.far_key[key]
            assert distance == query // group - key // group + shift
            assert distance >= window
    assert {values.dtype.name for values in actual} == {"int64"}


@given(length=lengths, window=st.integers(1, 20))
def test_rerope_distances(length, window):
    actual = rerope(range(length), window=window)
    for query, key in pairs_of(length):
        near = query - key < window
        distance = actual.near[query] - actual.near[key]
        distance = distance if near else actual.far_query[query] - actual.far_key[key]
        assert distance == min(query - key, window)
    assert {values.dtype.name for values in actual} == {"int64"}


@given(
    length=lengths,
    window=st.integers(1, 20),
    factor=st.one_of(st.integers(1, 32), st.floats(1, 32)),
)
def test_leaky_rerope_distances(length, window, factor):
    actual = rerope(range(length), window=window, factor=factor)
    slower = Fraction(factor)
    for place in range(length):
        assert actual.far_query[place] == float((place + window * (slower - 1)) / slower)
        assert actual.far_key[place] == float(place / slower)
    for query, key in pairs_of(length):
        if query - key >= window:
            expected = window + (query - key - window) / slower
            assert abs(actual.far_query[query] - actual.far_key[key] - expected) < 1e-12
    assert [values.dtype.name for values in actual] == ["int64", "float64", "float64"]


def test_a_factor_of_one_changes_nothing():
    actual = rerope([0, 5, 2**53 + 2], window=4, factor=1)
    assert isinstance(actual, NearFar)
    for values in actual:
        np.testing.assert_array_equal(values, [0, 5, 2**53 + 2])


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_any_shape(shape):
    positions = np.zeros(shape, np.int32)
    results = [
        dual_chunk(positions, chunk=4, local=1),
        self_extend(positions, group=2, window=4),
        rerope(positions, window=4),
        rerope(positions, window=4, factor=2),
    ]
    assert {values.shape for result in results for values in result} == {shape}
    assert not positions.any()


def test_the_largest_positions_are_exact():
    actual = dual_chunk([2**63 - 1], chunk=2**62, local=1)
    assert min(int(values[0]) for values in actual) >= 0
    (far,) = self_extend([2**63 - 1], group=3, window=2**63 - 1).far_query.tolist()
    assert far == (2**63 - 1) // 3 + (2**63 - 1) - (2**63 - 1) // 3


@pytest.mark.parametrize("shape", [(), (3,)])
def test_results_share_no_memory(shape):
    positions = np.zeros(shape, np.int64)
    results = [
        dual_chunk(positions, chunk=4, local=1),
        self_extend(positions, group=1, window=4),
        rerope(positions, window=4),
    ]
    arrays = [positions, *(np.asarray(values) for result in results for values in result)]
    for one, other in combinations(arrays, 2):
        assert not np.shares_memory(one, other)


def test_far_positions_are_exact_beyond_float64():
    (far,) = rerope([2**62 + 3], window=1, factor=3.0).far_key
    assert far == float(Fraction(2**62 + 3, 3))


CALLS = [
    lambda p: dual_chunk(p, chunk=4, local=1),
    lambda p: self_extend(p, group=2, window=4),
    lambda p: rerope(p, window=4),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        ([0, -1], ValueError, "`positions` must not be negative, got -1 at index 1"),
        ([0.0, 1.0], TypeError, "`positions` must be integers, got float64"),
        ("01", TypeError, "`positions` must be integers"),
        ([2**63], ValueError, "`positions` must"),
        (None, TypeError, "`positions` must be integers"),
    ],
)
def test_positions_refused(call, positions, error, message):
    with pytest.raises(error, match=message):
        call(positions)


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        (dual_chunk, {"chunk": 0, "local": 1}, ValueError, "`chunk` must be at least 1"),
        (dual_chunk, {"chunk": 4, "local": 0}, ValueError, "`local` must be at least 1"),
        (dual_chunk, {"chunk": 4, "local": 4}, ValueError, "`local` must be below `chunk` = 4"),
        (dual_chunk, {"chunk": 4.0, "local": 1}, TypeError, "`chunk` must be an integer"),
        (dual_chunk, {"chunk": 2**62 + 1, "local": 1}, ValueError, "`chunk` must keep positions"),
        (self_extend, {"group": 2, "window": 2**63}, ValueError, "`window` must keep positions"),
        (self_extend, {"group": 2**63, "window": 4}, ValueError, "`group` must keep positions"),
        (rerope, {"window": 2**63}, ValueError, "`window` must keep positions"),
        (rerope, {"window": 2**63, "factor": 2}, ValueError, "`window` must keep positions"),
        (self_extend, {"group": 0, "window": 4}, ValueError, "`group` must be at least 1"),
        (self_extend, {"group": 2, "window": 0}, ValueError, "`window` must be at least 1"),
        (self_extend, {"group": 2, "window": 4.0}, TypeError, "`window` must be an integer"),
        (rerope, {"window": 0}, ValueError, "`window` must be at least 1"),
        (rerope, {"window": 4, "factor": 0.5}, ValueError, "`factor` must be at least 1, got 0.5"),
        (rerope, {"window": 4, "factor": 0}, ValueError, "`factor` must be positive"),
        (rerope, {"window": 4, "factor": np.inf}, ValueError, "`factor` must be finite"),
        (rerope, {"window": 4, "factor": "2"}, TypeError, "`factor` must be a real number"),
    ],
)
def test_options_refused(function, options, error, message):
    with pytest.raises(error, match=message):
        function([0, 1], **options)
