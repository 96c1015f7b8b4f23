"""Grids with anchors, normalised, rescaled and in blocks, against a loop of fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotary.positions import grid

HIGHEST = 2**63 - 1
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
small = st.one_of(st.integers(-50, 50), st.floats(-50, 50))
points = st.one_of(st.integers(-2, 2), st.sampled_from([0.5, 0.25]), st.floats(-2, 2))
extents = st.one_of(st.integers(1, 40), st.floats(0.1, 40))


def same(actual, expected, dtype):
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, np.array(expected, dtype), strict=True)


def place(index, axis, shape, anchor, normalize, reference):
    """The position of a cell on an axis, as a fraction."""
    point = index + Fraction(anchor)
    if reference is not None:
        return point * Fraction(reference) / shape[axis]
    if normalize == "ends":
        return Fraction(2 * index, max(shape[axis] - 1, 1)) - 1
    if normalize is not None:
        size = {"separate": shape[axis], "min": min(shape), "max": max(shape)}[normalize]
        return 2 * point / size - 1
    return point


@given(shape=sizes, data=st.data())
def test_every_option_is_correctly_rounded(shape, data):
    axes = len(shape)
    each = st.lists(small, min_size=axes, max_size=axes)
    start, step = data.draw(each), data.draw(each)
    normalize = data.draw(st.sampled_from([None, "separate", "min", "max", "ends"]))
    reference = None if normalize else data.draw(st.none() | extents)
    anchor = 0 if normalize == "ends" else data.draw(points)
    actual = grid(
        *shape, start=start, step=step, anchor=anchor, normalize=normalize, reference=reference
    )
    expected = [
        [
            Fraction(start[axis])
            + Fraction(step[axis]) * place(cell[axis], axis, shape, anchor, normalize, reference)
            for cell in product(*map(range, shape))
        ]
        for axis in range(axes)
    ]
    whole = all(type(v) is int for v in [*start, *step, anchor]) and not (normalize or reference)
    values = [[int(v) if whole else float(v) for v in row] for row in expected]
    same(actual, values, np.int64 if whole else np.float64)


def test_arguments_of_models():
    same(grid(2, 2, start=1, order="xy", suffix=1), [[1, 2, 1, 2, 0], [1, 1, 2, 2, 0]], np.int64)
    same(grid(3, normalize="ends"), [[-1, 0, 1]], np.float64)
    same(grid(1, 2, normalize="ends"), [[-1, -1], [-1, 1]], np.float64)
    same(grid(2, anchor=0.5, normalize="separate"), [[-0.5, 0.5]], np.float64)
    same(
        grid(2, 4, anchor=0.5, normalize="max", prefix=1),
        [[0, *[-0.75] * 4, *[-0.25] * 4], [0, *[-0.75, -0.25, 0.25, 0.75] * 2]],
        np.float64,
    )
    same(grid(1, 2, anchor=0.5, normalize="min"), [[0, 0], [0, 2]], np.float64)
    same(grid(32, reference=16), [np.arange(32) / 2], np.float64)
    same(grid(3, anchor=1, reference=24), [[8, 16, 24]], np.float64)
    same(grid(2, 2, reference=[4, 6]), [[0, 0, 2, 2], [0, 3, 0, 3]], np.float64)


@given(shape=sizes, data=st.data())
def test_blocks(shape, data):
    merge = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    shape = [size * block for size, block in zip(shape, merge, strict=True)]
    cells = sorted(
        product(*map(range, shape)),
        key=lambda cell: (
            [i // m for i, m in zip(cell, merge, strict=True)],
            [i % m for i, m in zip(cell, merge, strict=True)],
        ),
    )
    same(grid(*shape, merge=merge), np.array(cells).T, np.int64)


def test_one_block_size_for_all_axes():
    same(grid(2, 4, merge=2), grid(2, 4, merge=[2, 2]), np.int64)
    same(grid(2, 2, 2, merge=[1, 2, 2]), grid(2, 2, 2), np.int64)


@given(shape=sizes, before=st.integers(0, 3), after=st.integers(0, 3))
def test_tokens_around_the_cells(shape, before, after):
    actual = grid(*shape, start=7, prefix=before, suffix=after)
    cells = grid(*shape, start=7)
    zeros = np.zeros((len(shape), 9), np.int64)
    same(actual, np.concatenate([zeros[:, :before], cells, zeros[:, :after]], axis=1), np.int64)


def test_x_first_keeps_the_order_of_cells():
    same(grid(2, 3, start=[10, 20], order="xy"), grid(2, 3, start=[10, 20])[::-1], np.int64)


@pytest.mark.parametrize("options", [{}, {"normalize": "min"}, {"reference": 3}, {"anchor": 0.5}])
def test_empty(options):
    actual = grid(0, 3, start=HIGHEST, prefix=1, **options)
    assert actual.shape == (2, 1)
    assert not actual.any()
    assert actual.dtype == (np.float64 if options else np.int64)


def test_the_ends_of_int64():
    same(grid(2, start=HIGHEST, step=-1), [[HIGHEST, HIGHEST - 1]], np.int64)
    same(grid(1, start=-(2**63)), [[-(2**63)]], np.int64)
    with pytest.raises(ValueError, match="within int64, got .* as the first position"):
        grid(2, start=HIGHEST, step=-1, anchor=-1)
    with pytest.raises(ValueError, match="within int64, got .* as the last position"):
        grid(2, reference=2.0**62, step=8)


@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        ((2,), {"anchor": "0"}, TypeError, "`anchor` must be integers or floats"),
        ((2,), {"anchor": [0, 1]}, ValueError, r"`anchor` must be one number, or .* \(1,\)"),
        ((2,), {"normalize": "both"}, ValueError, "`normalize` must be one of 'separate', 'min'"),
        ((2,), {"normalize": True}, TypeError, "`normalize` must be a string"),
        ((2,), {"normalize": "ends", "anchor": 0.5}, ValueError, "`anchor` must be left out with"),
        ((2,), {"normalize": "min", "reference": 4}, ValueError, "`reference` must be left out"),
        ((2,), {"reference": 0}, ValueError, "`reference` must be positive, got 0"),
        ((2, 2), {"reference": [4, -1]}, ValueError, "`reference` must be positive"),
        (
            (2, 2),
            {"reference": [4]},
            ValueError,
            r"`reference` must be one .* \(2,\), got shape \(1,\)",
        ),
        ((2,), {"reference": "4"}, TypeError, "`reference` must be integers or floats"),
        ((2,), {"order": "yx"}, ValueError, "`order` must be one of 'ij', 'xy', got 'yx'"),
        ((2,), {"order": 1}, TypeError, "`order` must be a string"),
        ((2,), {"order": "xy"}, ValueError, '`order` must be "ij" unless .* got "xy" for 1'),
        ((2, 2, 2), {"order": "xy"}, ValueError, '`order` must be "ij" unless'),
        ((2, 3), {"merge": 2}, ValueError, r"`sizes\[1\]` must be a multiple of `merge`, 2, got 3"),
        ((2,), {"merge": 0}, ValueError, "`merge` must be at least 1"),
        ((2,), {"merge": 1.0}, TypeError, "`merge` must consist of integers"),
        ((2,), {"merge": [1, 1]}, ValueError, "`merge` must be one number, or one per axis"),
        ((2,), {"prefix": -1}, ValueError, "`prefix` must not be negative, got -1"),
        ((2,), {"suffix": 1.0}, TypeError, "`suffix` must be an integer"),
    ],
)
def test_refused(shape, options, error, message):
    with pytest.raises(error, match=message):
        grid(*shape, **options)
