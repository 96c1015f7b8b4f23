"""The sequence axis and the batch axis: all ranks, axes and methods, with all libraries.

The oracle gives each element of an array a separate position and rotates in float64, so it knows nothing about axes.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from helpers import random_array

import rotary

WIDTH = 8
FREQUENCIES = 10.0 ** -np.arange(WIDTH // 2)
METHODS = ("call", "inverse", "vjp", "shift", "apply_rotary")
# None means a default of the library. The last two columns are what the documentation promises.
TABLE = [
    # axes of the array, seq_axis, batch_axis, sequence, batch
    (2, None, None, 0, None),
    (2, 0, None, 0, None),
    (2, -2, False, 0, None),
    (3, 0, None, 0, None),
    (3, -3, None, 0, None),
    (3, 0, 1, 0, 1),
    (3, 0, -2, 0, 1),
    (3, 1, None, 1, 0),
    (3, -2, None, 1, 0),
    (3, -2, False, 1, None),
    (4, 0, None, 0, 1),
    (4, 0, 2, 0, 2),
    (4, 0, False, 0, None),
    (4, 1, None, 1, 0),
    (4, -3, 2, 1, 2),
    (4, 2, None, 2, 0),
    (4, -2, None, 2, 0),
    (4, -2, 1, 2, 1),
    (4, -2, False, 2, None),
    (5, 0, None, 0, 1),
    (5, 1, None, 1, 0),
    (5, -3, None, 2, 0),
    (5, 3, None, 3, 0),
    (5, -2, 1, 3, 1),
    (5, -2, False, 3, None),
]
SIZES = [(2, 3, 4, 5), (3, 3, 3, 3)]
# A call of these libraries takes tens of milliseconds, or a second: they run only some of the cases, and one size.
FEW = {"dask": 3, "ndonnx": 1}


def rope_of(**options):
    return rotary.RotaryEmbedding(WIDTH, layout="half", base=1e4, **options)


def rotated(x, positions, *, back=False):
    """Rotate every element at a separate position; positions have the shape (..., 1)."""
    angle = np.broadcast_to(positions, x.shape[:-1])[..., None] * FREQUENCIES
    cosine, sine = np.cos(angle), np.sin(-angle if back else angle)
    a, b = x[..., : WIDTH // 2], x[..., WIDTH // 2 :]
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)


def along(values, axes, rank):
    """Return values whose axes are the given axes of an array, broadcast against its other axes but the last."""
    order = np.argsort(axes)
    shape = [1] * (rank - 1)
    for size, axis in zip(values.shape, axes, strict=True):
        shape[axis] = size
    return values.transpose(order).reshape(shape)


def position_arguments(shape, sequence, batch, *, own_order=False):
    """Yield position arguments, each with the position of every element.

    Positions of (S, B, D) can only be (B, S). Tables may also have the axis order of the array: `own_order`.
    """
    rank = len(shape)
    rng = np.random.default_rng(1)
    length = shape[sequence]
    line = np.arange(length)
    yield {}, along(line, [sequence], rank)
    yield {"offset": 7}, 7 + along(line, [sequence], rank)
    yield {"offset": np.array([7])}, 7 + along(line, [sequence], rank)
    some = rng.integers(-50, 50, length)
    yield {"positions": some}, along(some, [sequence], rank)
    yield {"positions": some[None]}, along(some, [sequence], rank)
    if batch is not None:
        count = shape[batch]
        firsts = rng.integers(-50, 50, count)
        starts = along(firsts, [batch], rank) + along(line, [sequence], rank)
        yield {"offset": firsts}, starts
        each = rng.integers(-50, 50, (count, length))
        yield {"positions": each}, along(each, [batch, sequence], rank)
    if rank > 2 and (own_order or not (rank == 3 and batch == 1)):
        # A position for each index of all axes, and of some axes.
        for kept in product((False, True), repeat=rank - 2):
            others = [axis for axis in range(rank - 1) if axis != sequence]
            own = [shape[axis] for axis in range(rank - 1)]
            for axis, keep in zip(others, kept, strict=True):
                own[axis] = own[axis] if keep else 1
            if rank == 3 and batch == 1 and own[0] == own[1]:
                continue  # (B, S), which has priority
            if rank == 3 and sequence == 1 and batch is None and own[0] == 1:
                continue  # (1, S), which is tested above
            by_axis = rng.integers(-50, 50, own)
            yield {"positions": by_axis}, by_axis


def sizes_of(xp):
    """Return the sizes that a library takes."""
    return SIZES[:1] if xp.name in FEW else SIZES


def cases(xp, rank, sequence, batch, **options):
    """Yield shapes of arrays, and for each the position arguments with the positions that they mean."""
    for sizes in sizes_of(xp):
        shape = (*sizes[: rank - 1], WIDTH)
        every = list(position_arguments(shape, sequence, batch, **options))
        step = -(-len(every) // FEW[xp.name]) if xp.name in FEW else 1
        for where, positions in every[(rank + sequence) % step :: step]:
            yield shape, where, positions


def apply_method(xp, method, x, where, **axes):
    """Return the result of a method, and whether the oracle rotates by the inverse."""
    rope = rope_of()
    own = {name: xp.asarray(value) if np.ndim(value) else value for name, value in where.items()}
    if method == "call":
        return rope(x, **own, **axes), False
    if method == "inverse":
        return rope.inverse(x, **own, **axes), True
    return rope.vjp(x, **own, **axes), True


@pytest.mark.parametrize(("rank", "seq_axis", "batch_axis", "sequence", "batch"), TABLE)
@pytest.mark.feature("own positions")
def test_all_position_shapes_for_all_axes(xp, rank, seq_axis, batch_axis, sequence, batch):
    axes = {"seq_axis": seq_axis, "batch_axis": batch_axis}
    methods = ("call", "inverse", "vjp")
    for i, (shape, where, positions) in enumerate(cases(xp, rank, sequence, batch)):
        values = random_array(shape, "float32")
        # Other libraries run each case with one method, because calls of some take a hundred times as long.
        for method in methods if xp.name == "numpy" else (methods[i % 3],):
            result, back = apply_method(xp, method, xp.asarray(values), where, **axes)
            assert xp.owns(result)
            expected = rotated(values.astype(np.float64), positions, back=back)
            np.testing.assert_allclose(
                xp.to_numpy(result), expected, atol=2e-6, err_msg=f"{method} {where}"
            )


@pytest.mark.parametrize(("rank", "seq_axis", "batch_axis", "sequence", "batch"), TABLE)
@pytest.mark.feature("own positions")
def test_shift_by_all_delta_shapes(xp, rank, seq_axis, batch_axis, sequence, batch):
    rope = rope_of(seq_axis=seq_axis if rank > 2 else None)
    deltas = []
    for shape, where, positions in cases(xp, rank, sequence, batch):
        given = where.get("positions")
        if given is not None and (given.ndim > 1 or batch is None):
            deltas.append((shape, given, positions))
    for sizes in sizes_of(xp):
        shape = (*sizes[: rank - 1], WIDTH)
        deltas.append((shape, -3, np.array(-3)))
        if batch is not None:
            firsts = np.arange(shape[batch]) ** 2
            deltas.append((shape, firsts, along(firsts, [batch], rank)))
    for shape, delta, shifts in deltas:
        values = random_array(shape, "float32")
        own = xp.asarray(delta) if np.ndim(delta) else delta
        result = rope.shift(xp.asarray(values), own, batch_axis=batch_axis)
        expected = rotated(values.astype(np.float64), shifts)
        np.testing.assert_allclose(xp.to_numpy(result), expected, atol=2e-6, err_msg=str(delta))


@pytest.mark.parametrize(("rank", "seq_axis", "batch_axis", "sequence", "batch"), TABLE)
@pytest.mark.feature("own tables")
def test_apply_rotary_with_all_table_shapes(xp, rank, seq_axis, batch_axis, sequence, batch):
    for shape, where, positions in cases(xp, rank, sequence, batch, own_order=True):
        if "positions" not in where:
            continue
        values = random_array(shape, "float32")
        angle = where["positions"][..., None] * FREQUENCIES
        tables = (xp.asarray(part.astype(np.float32)) for part in (np.cos(angle), np.sin(angle)))
        result = rotary.apply_rotary(
            xp.asarray(values), *tables, layout="half", seq_axis=seq_axis, batch_axis=batch_axis
        )
        expected = rotated(values.astype(np.float64), positions)
        np.testing.assert_allclose(xp.to_numpy(result), expected, atol=2e-6, err_msg=str(where))


@pytest.mark.parametrize("seq_axis", [0, -3])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("where", [{}, {"offset": 9}, {"positions": True}])
@pytest.mark.parametrize("method", ["call", "inverse", "vjp"])
def test_tokens_first_with_grouped_heads(xp, seq_axis, length, where, method):
    q, k = random_array((length, 9, WIDTH)), random_array((length, 3, WIDTH), seed=1)
    positions = np.arange(length)
    if "positions" in where:
        where = {"positions": np.arange(length)[::-1].copy()}
        positions = where["positions"]
    positions = (positions + where.get("offset", 0))[:, None]
    rope = rope_of(seq_axis=seq_axis)
    function = rope if method == "call" else getattr(rope, method)
    results = function(xp.asarray(q), xp.asarray(k), **where)
    for result, x in zip(results, (q, k), strict=True):
        expected = rotated(x.astype(np.float64), positions, back=method != "call")
        np.testing.assert_allclose(xp.to_numpy(result), expected, atol=2e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"decay": rotary.XPos(512, center=0)},
        {"sections": rotary.sections.chunked(1, 3)},
        {"output_layout": "interleaved"},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("method", ["call", "inverse", "vjp"])
def test_each_head_of_packed_tokens_equals_a_separate_call(options, method):
    q, k = random_array((5, 9, WIDTH)), random_array((5, 1, WIDTH), seed=1)
    rope = rope_of(seq_axis=0, **options)
    function = rope if method == "call" else getattr(rope, method)
    positions = np.array([4, 0, 3, 3, 9])
    if "sections" in options:
        positions = np.stack([positions, positions[::-1]])
    results = function(q, k, positions=positions)
    for result, x, role in zip(results, (q, k), ("query", "key"), strict=True):
        own = {"role": role} if "decay" in options else {}
        for head in range(x.shape[1]):
            alone = function(np.ascontiguousarray(x[:, head]), positions=positions, **own)
            np.testing.assert_array_equal(result[:, head], alone)


@pytest.mark.feature("jit")
def test_tokens_first_with_grouped_heads_compiled(xp):
    q, k = random_array((5, 9, WIDTH)), random_array((5, 3, WIDTH), seed=1)
    rope = rope_of(seq_axis=0)
    positions = np.array([4, 0, 3, 3, 9])
    for i, x in enumerate((q, k)):
        compiled = xp.jit(lambda q, k, i=i: rope(q, k, positions=positions)[i])
        result = compiled(xp.asarray(q), xp.asarray(k))
        expected = rotated(x.astype(np.float64), positions[:, None])
        np.testing.assert_allclose(xp.to_numpy(result), expected, atol=2e-6)


@pytest.mark.feature("whole jit")
@pytest.mark.parametrize(
    "axes",
    [
        {"seq_axis": 1},
        {"seq_axis": -2},
        {"seq_axis": (1,)},
        {"batch_axis": 0},
        {"batch_axis": False},
        {"seq_axis": (None,), "batch_axis": (False,)},
    ],
    ids=str,
)
def test_axis_arguments_in_one_program(xp, axes):
    x = random_array((3, 5, WIDTH))
    rope = rope_of(seq_axis=1)
    result = xp.whole_jit(lambda x: rope(x, offset=3, **axes))(xp.asarray(x))
    np.testing.assert_allclose(xp.to_numpy(result), rotated(x, 3 + np.arange(5)), atol=2e-6)


@pytest.mark.feature("traced positions")
def test_traced_positions_of_tokens_and_heads(xp):
    x = random_array((5, 4, WIDTH))
    rope = rope_of(seq_axis=0)
    compiled = xp.traced(lambda x, positions: rope(x, positions=positions))
    for positions in (np.array([4, 0, 3, 3, 9]), np.arange(20).reshape(5, 4)):
        result = compiled(xp.asarray(x), xp.asarray(positions))
        places = positions if positions.ndim > 1 else positions[:, None]
        expected = rotated(x.astype(np.float64), places)
        np.testing.assert_allclose(xp.to_numpy(result), expected, atol=4e-6)


@pytest.mark.feature("vmap")
def test_tokens_first_vectorised(xp):
    x = random_array((2, 5, 9, WIDTH))
    rope = rope_of(seq_axis=0)
    result = xp.vmap(rope)(xp.asarray(x))
    expected = rotated(x.astype(np.float64), np.arange(5)[:, None])
    np.testing.assert_allclose(xp.to_numpy(result), expected, atol=2e-6)


def test_a_tuple_has_one_axis_for_each_array():
    q, k = random_array((2, 5, 9, WIDTH)), random_array((2, 5, WIDTH), seed=1)
    rope = rope_of(seq_axis=-3)
    with pytest.raises(
        ValueError, match="`seq_axis` must not be negative for arrays of different rank"
    ):
        rope(q, k)
    offset = np.array([3, 8])
    for axes in ((-3, -2), (None, 1), (1, -2)):
        a, b = rope(q, k, seq_axis=axes, offset=offset)
        positions = offset[:, None] + np.arange(5)
        np.testing.assert_allclose(a, rotated(q, positions[:, :, None]), atol=2e-6)
        np.testing.assert_allclose(b, rotated(k, positions), atol=2e-6)
    a, b = rope(q, k, seq_axis=1, offset=offset)
    np.testing.assert_allclose(b, rotated(k, positions), atol=2e-6)
    swapped = q.transpose(0, 2, 1, 3)
    a, b = rope(swapped, k, seq_axis=(-2, 1), batch_axis=(None, False), offset=[4])
    np.testing.assert_allclose(a, rotated(swapped, 4 + np.arange(5)), atol=2e-6)
    np.testing.assert_allclose(b, rotated(k, 4 + np.arange(5)), atol=2e-6)


def test_an_array_of_two_axes_ignores_the_axes_of_the_embedding():
    x = random_array((5, WIDTH))
    for seq_axis in (-3, -2, 1, 2):
        rope = rope_of(seq_axis=seq_axis, batch_axis=0)
        np.testing.assert_allclose(rope(x), rotated(x, np.arange(5)), atol=2e-6)
    q = random_array((5, 2, WIDTH), seed=2)
    results = rope_of(seq_axis=-3)(q, x)
    np.testing.assert_allclose(results[0], rotated(q, np.arange(5)[:, None]), atol=2e-6)
    np.testing.assert_allclose(results[1], rotated(x, np.arange(5)), atol=2e-6)


def test_batch_sizes_may_differ_unless_positions_have_a_batch():
    q, k = random_array((4, 5, WIDTH)), random_array((2, 5, WIDTH), seed=1)
    rope = rope_of(seq_axis=1)
    for where in ({}, {"offset": 3}, {"offset": [3]}, {"positions": [[9, 8, 7, 6, 5]]}):
        line = np.array(where.get("positions", 3 * ("offset" in where) + np.arange(5)))
        for result, x in zip(rope(q, k, **where), (q, k), strict=True):
            np.testing.assert_allclose(result, rotated(x, line), atol=2e-6)
    with pytest.raises(
        ValueError,
        match="`offset` must be a number or have 2 entries, .* `k`, got 4",
    ):
        rope(q, k, offset=[1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"`positions` must have one of the shapes .*got \(4, 5\)"):
        rope(q, k, positions=np.zeros((4, 5), int))


def test_positions_per_head_need_equal_head_counts():
    q, k = random_array((2, 4, 5, WIDTH)), random_array((2, 2, 5, WIDTH), seed=1)
    rope = rope_of(seq_axis=-2)
    shared = np.arange(10).reshape(2, 1, 5)
    for result, x in zip(rope(q, k, positions=shared), (q, k), strict=True):
        np.testing.assert_allclose(result, rotated(x, shared), atol=2e-6)
    with pytest.raises(ValueError, match="rotate arrays of different shapes in separate calls"):
        rope(q, k, positions=np.zeros((2, 4, 5), int))


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 3, 5), (2, 1, 5), (1, 1, 5)])
def test_frequencies_and_positions_per_head(xp, shape):
    W = np.random.default_rng(3).random((3, 1, WIDTH // 2))
    rope = rotary.RotaryEmbedding(
        WIDTH, layout="half", scaling=rotary.scaling.Custom(W=W), seq_axis=-2
    )
    x = random_array((2, 3, 5, WIDTH))
    positions = np.random.default_rng(4).integers(0, 40, shape)
    angle = positions[..., None] * W[:, 0][None, :, None]
    result = rope(xp.asarray(x), positions=positions[None])
    cosine, sine = np.cos(angle), np.sin(angle)
    a, b = x[..., :4].astype(np.float64), x[..., 4:]
    expected = np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
    np.testing.assert_allclose(xp.to_numpy(result), expected, atol=2e-6)


@pytest.mark.parametrize("positions", [np.arange(5), np.arange(10).reshape(2, 5)])
def test_tables_for_frequencies_per_head_rotate_these_heads(positions):
    # Heads, tokens and batch have equal sizes, so that only the order of axes distinguishes them.
    for heads in (2, 5):
        W = np.random.default_rng(3).random((heads, 1, WIDTH // 2))
        rope = rotary.RotaryEmbedding(
            WIDTH, layout="half", scaling=rotary.scaling.Custom(W=W), seq_axis=-2
        )
        tables = rope.tables(positions[None])
        assert tables[0].shape == (positions.size // 5, heads, 5, WIDTH // 2)
        x = random_array((2, heads, 5, WIDTH))
        result = rotary.apply_rotary(x, *tables, layout="half", seq_axis=-2)
        np.testing.assert_array_equal(result, rope(x, positions=positions[None]))
    assert rope.tables([3])[0].shape == (heads, WIDTH // 2)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 1, 5), (1, 4, 5)])
def test_positions_per_head_on_several_position_axes(xp, shape):
    rope = rope_of(seq_axis=-2, sections=rotary.sections.chunked(1, 3))
    x = random_array((2, 4, 5, WIDTH))
    positions = np.random.default_rng(5).integers(0, 40, (2, *shape))
    own = np.where([True, False, False, False], positions[0][..., None], positions[1][..., None])
    angle = own * FREQUENCIES
    cosine, sine = np.cos(angle), np.sin(angle)
    a, b = x[..., :4].astype(np.float64), x[..., 4:]
    expected = np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
    result = rope(xp.asarray(x), positions=positions)
    np.testing.assert_allclose(xp.to_numpy(result), expected, atol=2e-6)


def test_positions_per_head_with_decay_and_outputs():
    decay = rotary.XPos(scale_base=512, center=0)
    rope = rope_of(seq_axis=-2, decay=decay)
    x = random_array((2, 4, 5, WIDTH), "float64")
    positions = np.random.default_rng(5).integers(0, 40, (2, 4, 5))
    for batch, head in np.ndindex(2, 4):
        one = rope(x[batch, head], positions=positions[batch, head], role="key")
        np.testing.assert_array_equal(rope(x, positions=positions, role="key")[batch, head], one)
    out = np.full_like(x, np.nan)
    assert rope(x, positions=positions, role="key", out=out) is out
    np.testing.assert_array_equal(out, rope(x, positions=positions, role="key"))


def test_shift_to_other_frequencies_with_positions_per_head():
    short, long = rope_of(seq_axis=-2), rotary.RotaryEmbedding(WIDTH, layout="half", base=1e5)
    x = random_array((2, 3, 5, WIDTH), "float64")
    rng = np.random.default_rng(6)
    for shape, delta_shape in product(
        [(2, 3, 5), (2, 5), (5,), (2, 1, 5)], [(2, 3, 5), (2, 5), (1, 3, 5), ()]
    ):
        positions, delta = rng.integers(0, 40, shape), rng.integers(-9, 9, delta_shape)
        keys = short(x, positions=positions)
        result = short.shift(keys, delta, to=long, positions=positions)
        own = positions if len(shape) != 2 else positions[:, None]
        steps = delta if len(delta_shape) != 2 else delta[:, None]
        expected = long(x, positions=np.broadcast_to(own + steps, (2, 3, 5)), seq_axis=-2)
        np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_packed_tokens_have_sequence_axis_0_and_no_batch(rank):
    x = random_array((5, *(2, 3, 4)[: rank - 2], WIDTH))
    rope = rope_of(seq_axis=-2, batch_axis=1)
    expected = rotated(x, np.array([0, 1, 0, 1, 2]).reshape(5, *[1] * (rank - 2)))
    np.testing.assert_allclose(rope(x, cu_seqlens=[0, 2, 5]), expected, atol=2e-6)
    transposed = np.moveaxis(x, 0, rank - 2)
    result = rope(transposed, cu_seqlens=[0, 2, 5], seq_axis=-2)
    np.testing.assert_allclose(result, np.moveaxis(expected, 0, rank - 2), atol=2e-6)
    if rank > 2:
        with pytest.raises(ValueError, match="`batch_axis` must not be given with `cu_seqlens`"):
            rope(x, cu_seqlens=[0, 2, 5], batch_axis=1)


# ------------------------------------------------------------------------------------------------
# Errors.


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("method", METHODS)
def test_arrays_of_three_or_more_axes_need_seq_axis(xp, method, rank):
    x = xp.asarray(random_array((*(3, 3, 3, 3)[: rank - 1], WIDTH)))
    rope = rope_of()
    calls = {
        "call": lambda: rope(x, positions=[0, 1, 2]),
        "inverse": lambda: rope.inverse(x),
        "vjp": lambda: rope.vjp(x, offset=4),
        "shift": lambda: rope.shift(x, 1),
        "apply_rotary": lambda: rotary.apply_rotary(x, *rope.tables([0, 1, 2]), layout="half"),
    }
    with pytest.raises(ValueError, match=f"`seq_axis` must be given for an array of {rank} axes"):
        calls[method]()


WRONG = [
    ({"seq_axis": -1}, ValueError, "`seq_axis` must be an axis of `x` other than the last"),
    ({"seq_axis": 3}, ValueError, "`seq_axis` must be an axis of `x` other than the last"),
    ({"seq_axis": -5}, ValueError, "`seq_axis` .* does not exist"),
    ({"seq_axis": 1.0}, TypeError, "`seq_axis` must be an integer"),
    ({"seq_axis": True}, TypeError, "`seq_axis` must be an integer"),
    ({"seq_axis": (1, 1)}, ValueError, "`seq_axis` must have one entry for each of the 1 arrays"),
    ({"seq_axis": ("1",)}, TypeError, "`seq_axis` must be an integer"),
    ({"batch_axis": 2}, ValueError, "`batch_axis` must not be the sequence axis of `x`"),
    ({"batch_axis": -2}, ValueError, "`batch_axis` must not be the sequence axis of `x`"),
    ({"batch_axis": -1}, ValueError, "`batch_axis` must be an axis of `x` other than the last"),
    ({"batch_axis": 4}, ValueError, "`batch_axis` .* does not exist"),
    ({"batch_axis": True}, TypeError, "`batch_axis` must be an integer"),
    ({"batch_axis": "none"}, TypeError, "`batch_axis` must be an integer"),
    ({"batch_axis": (0, 0)}, ValueError, "`batch_axis` must have one entry"),
    ({"batch_axis": False, "offset": [1, 2]}, ValueError, "`offset` .* no batch axis.*`positions`"),
    ({"offset": [1, 2, 3]}, ValueError, "`offset` .* 2 entries, one per batch element of `x`"),
    ({"offset": [[1], [2]]}, ValueError, r"`offset` must be a number or have the shape \(B,\)"),
    ({"positions": np.zeros((3, 5), int)}, ValueError, r"`positions` .*\(2, 5\).* got \(3, 5\)"),
    (
        {"positions": np.zeros((2, 3, 1), int)},
        ValueError,
        "`positions` must have one of the shapes",
    ),
    (
        {"positions": np.zeros((2, 2, 5), int)},
        ValueError,
        "`positions` must have one of the shapes",
    ),
    ({"positions": np.zeros((2, 3, 5, 1), int)}, ValueError, "`positions` must have one of"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
@pytest.mark.parametrize("method", ["call", "inverse", "vjp"])
def test_a_wrong_axis_is_refused_before_anything_is_written(method, wrong, error, message):
    x = random_array((2, 3, 5, WIDTH))
    before = x.copy()
    rope = rope_of(seq_axis=2)
    function = rope if method == "call" else getattr(rope, method)
    for _ in range(2):  # without and with a plan
        with pytest.raises(error, match=message):
            function(x, out=x, **wrong)
        np.testing.assert_array_equal(x, before)
        function(x)


def test_an_offset_of_one_entry_is_a_scalar():
    x = random_array((5, 3, WIDTH))
    for offset in (7, [7], np.array([[7]]), np.array(7.0), np.array([[[7]]])):
        result = rope_of(seq_axis=0)(x, offset=offset)
        np.testing.assert_allclose(result, rotated(x, 7 + np.arange(5)[:, None]), atol=2e-6)


def test_one_position_per_batch_element_is_not_one_per_head():
    # The library reads (B, H, D) as (S, H, D), which has no batch for an offset.
    x = random_array((4, 4, WIDTH))
    with pytest.raises(
        ValueError, match="`offset` must be one number, because `x` has no batch axis.*`positions`"
    ):
        rope_of(seq_axis=0)(x, offset=[1, 2, 3, 4])
    tokens = rope_of(seq_axis=0)(x, positions=[1, 2, 3, 4])
    np.testing.assert_allclose(tokens, rotated(x, np.arange(1, 5)[:, None]), atol=2e-6)


@pytest.mark.parametrize("heads", [2, 5])
def test_a_1d_delta_has_one_entry_per_batch_element(heads):
    x = random_array((2, heads, 5, WIDTH))
    rope = rope_of(seq_axis=-2)
    with pytest.raises(ValueError, match=r"`delta` .*\(1, S\)"):
        rope.shift(x, [1, 2, 3, 4, 5])
    square = random_array((5, 2, 5, WIDTH))
    delta = np.arange(5)
    shifted = rope.shift(square, delta)
    np.testing.assert_allclose(shifted, rotated(square, delta[:, None, None]), atol=2e-6)


def test_calls_with_different_axes_share_no_plan():
    x = random_array((3, 3, 3, WIDTH))
    offset = np.array([5, 0, 40])
    rope = rope_of()
    rope(random_array((64, WIDTH)))  # makes the table that plans read
    for _ in range(3):
        for seq_axis, batch_axis in ((2, 0), (2, 1), (1, 0), (1, 2), (0, 1), (0, 2), (2, None)):
            expected_batch = 0 if batch_axis is None else batch_axis
            result = rope(x, seq_axis=seq_axis, batch_axis=batch_axis, offset=offset)
            positions = along(offset, [expected_batch], 4) + along(np.arange(3), [seq_axis], 4)
            np.testing.assert_allclose(result, rotated(x.astype(np.float64), positions), atol=2e-6)


def test_the_axes_are_part_of_an_embedding():
    first, second, third = (rope_of(seq_axis=0, batch_axis=axis) for axis in (0, False, None))
    assert len({first, second, third}) == 3
    assert first != second != third
    assert second == rope_of(seq_axis=0, batch_axis=False)
    assert repr(second).endswith("seq_axis=0, batch_axis=False)")
    assert "batch_axis" in second.explain()
    for wrong, error in (
        (-1, ValueError),
        ((0, 1), TypeError),
        (True, TypeError),
        ("none", TypeError),
    ):
        with pytest.raises(error, match="`batch_axis`"):
            rope_of(batch_axis=wrong)
    with pytest.raises(TypeError, match="`seq_axis`"):
        rope_of(seq_axis=(0, 1))


def test_configurations_presets_and_gguf_files_accept_axes():
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "rope_theta": 1e4,
        "max_position_embeddings": 128,
    }
    metadata = {
        "general.architecture": "llama",
        "llama.attention.head_count": 4,
        "llama.embedding_length": 64,
        "llama.rope.freq_base": 1e4,
        "llama.rope.dimension_count": 16,
        "llama.context_length": 128,
    }
    for made in (
        rotary.from_config(config, seq_axis=0, batch_axis=False),
        rotary.from_gguf(metadata, seq_axis=0, batch_axis=False),
        rotary.preset("gpt-j-6b-hf", seq_axis=0, batch_axis=False),
    ):
        assert (made.seq_axis, made.batch_axis) == (0, False)
    assert rotary.preset("gpt-j-6b-hf", batch_axis=1).batch_axis == 1


@pytest.mark.parametrize("method", ["call", "inverse", "vjp", "shift"])
@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("heads", [0, 4])
def test_positions_per_variate(method, fractional, heads):
    """Positions (B, V, S) for (B, V, S, D), and (B, V, 1, S) for (B, V, H, S, D), also if sizes are equal."""
    rope = rope_of(seq_axis=-2)
    run = rope if method == "call" else getattr(rope, method)
    keyword = "delta" if method == "shift" else "positions"
    for batch, variates, length in ((2, 3, 5), (3, 3, 3)):
        x = random_array((batch, variates, *[heads] * (heads > 0), length, WIDTH))
        p = np.arange(batch * variates * length).reshape(batch, variates, length)[..., ::-1] * 7
        p = p / 8 if fractional else p
        got = run(x, **{keyword: p[:, :, None] if heads else p})
        for b, v in product(range(batch), range(variates)):
            alone = run(x[b, v], **{keyword: p[b, v] if x[b, v].ndim == 2 else p[b, v][None]})
            np.testing.assert_array_equal(got[b, v], alone)
