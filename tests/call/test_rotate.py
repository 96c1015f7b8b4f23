"""The embedding on NumPy arrays: correct by exact arithmetic, with the same bits however it is called."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import ml_dtypes  # noqa: F401  (registers bfloat16)
import numpy as np
import pytest
from helpers import (
    DTYPES,
    LAYOUTS,
    as_dtype,
    bound,
    error_in_units,
    kernel_in_use,
    powers,
    random_array,
    rotate_exactly,
    same_bits,
)

import rotary
from rotary import RotaryEmbedding
from rotary.scaling import Custom

PORTABLE = kernel_in_use() == "portable"
needs_kernels = pytest.mark.xfail(
    PORTABLE, reason="NumPy's own operations need memory to compute in", strict=True
)

BASE = 10_000.0


def embedding(head_dim=8, layout="half", *, seq_axis=-2, **options):
    return RotaryEmbedding(head_dim, layout=layout, base=BASE, seq_axis=seq_axis, **options)


def width_of(dtype, head_dim):
    return head_dim // 2 if as_dtype(dtype).kind == "c" else head_dim


def check(got, x, positions, inv_freq=None, *, width=8, **options):
    """Compare a rotation with exact arithmetic, within the promised bound."""
    inv_freq = powers(BASE, width) if inv_freq is None else inv_freq
    exact, size = rotate_exactly(x, positions, inv_freq, **options)
    assert got.dtype == x.dtype
    assert got.shape == x.shape
    error = error_in_units(got, exact, size)
    assert error <= bound(x.dtype.name, portable=PORTABLE, factor=options.get("factor", 1.0))


def along(ndim, axis, values):
    """Return positions as an array that broadcasts to the vectors of an array of `ndim` axes."""
    shape = [1] * (ndim - 1)
    shape[axis] = len(values)
    return np.array(values, dtype=object).reshape(shape)


# ------------------------------------------------------------------------------------------------
# Layouts, dtypes, rotated channels, axes.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [(0, 12), (0, 8), (4, 8), (2, 6)])
@pytest.mark.parametrize("method", ["call", "inverse", "vjp"])
def test_all_layouts_dtypes_and_rotated_channels(dtype, layout, output_layout, window, method):
    start, width = window
    rope = embedding(
        12, layout, output_layout=output_layout, rotary_dim=width, rotary_start=start, seq_axis=-2
    )
    x = random_array((2, 3, 4, width_of(dtype, 12)), dtype)
    function = rope if method == "call" else getattr(rope, method)
    source, target = (layout, output_layout) if method == "call" else (output_layout, layout)
    check(
        function(x, offset=5),
        x,
        along(4, 2, range(5, 9)),
        width=width,
        layout=source,
        output_layout=target,
        start=start,
        backwards=method != "call",
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("start", [1, 3])
def test_rotated_channels_that_start_at_an_odd_channel(start, layout):
    rope = embedding(11, layout, rotary_dim=8, rotary_start=start)
    x = random_array((5, 11))
    check(rope(x), x, along(2, 0, range(5)), layout=layout, start=start)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("position", [0, 1, 5])
def test_all_16_bit_numbers_are_rounded_once(dtype, position):
    """Subnormal numbers, infinities and NaN are read unchanged, and results are rounded to nearest even."""
    every = np.arange(2**16, dtype=np.uint16).view(as_dtype(dtype))
    x = np.zeros((len(every), 2), every.dtype)
    x[:, 0] = every
    rope = embedding(2)
    cos, sin = rope.tables(position)
    with np.errstate(invalid="ignore", over="ignore"):
        got = rope(x, positions=np.full(len(every), position))
        want = (np.stack([every, every], -1).astype(np.float32) * [cos[0], sin[0]]).astype(x.dtype)
    finite = np.isfinite(every.astype(np.float32))
    assert np.array_equal(got[finite], want[finite])
    if position == 0:
        assert same_bits(got[finite, 0], every[finite])
        assert np.isnan(got[~finite, 1].astype(np.float32)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_widths_that_do_not_fill_vectors_of_the_processor(dtype):
    """Widths that fill the vectors of the processor, and widths that do not, have no wrong channels at the end."""
    for width in (2, 6, 34, 128, 130):
        rope = embedding(width)
        x = random_array((3, width_of(dtype, width)), dtype)
        check(rope(x), x, along(2, 0, range(3)), width=width)


AXES = {
    "S D": ((3, 8), -2, 0),
    "B S D": ((2, 3, 8), -2, 1),
    "S B D": ((3, 2, 8), 0, 0),
    "B H S D": ((2, 4, 3, 8), -2, 2),
    "B S H D": ((2, 3, 4, 8), -3, 1),
    "B S H D, counted from the front": ((2, 3, 4, 8), 1, 1),
    "S B H D": ((3, 2, 4, 8), 0, 0),
    "S B H D, counted from the back": ((3, 2, 4, 8), -4, 0),
    "B G H S D": ((2, 2, 4, 3, 8), -2, 3),
    "B S G H D": ((2, 3, 2, 4, 8), 1, 1),
    "B G S H D": ((2, 2, 3, 4, 8), 2, 2),
}


@pytest.mark.parametrize("name", AXES)
def test_all_axis_orders(name):
    shape, seq_axis, axis = AXES[name]
    x = random_array(shape)
    check(embedding()(x, seq_axis=seq_axis), x, along(len(shape), axis, range(shape[axis])))
    check(embedding(seq_axis=seq_axis)(x), x, along(len(shape), axis, range(shape[axis])))


@pytest.mark.parametrize("name", AXES)
def test_positions_per_batch_element(name):
    shape, seq_axis, axis = AXES[name]
    if len(shape) == 2:
        with pytest.raises(ValueError, match="`offset`"):
            embedding()(random_array(shape), offset=[1, 2])
        return
    x = random_array(shape)
    batch_axis = 1 if axis == 0 else 0
    rope = embedding(seq_axis=seq_axis, batch_axis=batch_axis)
    offsets = along(len(shape), batch_axis, [10, -3])
    positions = offsets + along(len(shape), axis, range(shape[axis]))
    check(rope(x, offset=[10, -3]), x, positions)
    table = np.array([[10, 11, 12], [-3, -2, -1]])
    assert same_bits(rope(x, positions=table), rope(x, offset=[10, -3]))


def test_axes_of_the_call_override_those_of_the_specification():
    x = random_array((2, 3, 3, 8))
    rope = embedding(seq_axis=-2)
    assert same_bits(rope(x, seq_axis=-3), embedding(seq_axis=-3)(x))
    assert not same_bits(rope(x, seq_axis=-3), rope(x))


# ------------------------------------------------------------------------------------------------
# Memory layouts.


def packed_qkv(x):
    """Return the middle third of a packed array."""
    batch, heads, length, width = x.shape
    packed = np.full((batch, length, heads, 3, width), 7, x.dtype)
    view = packed[:, :, :, 1].transpose(0, 2, 1, 3)
    view[...] = x
    return view


def in_wider_channels(x):
    wide = np.full((*x.shape[:-1], x.shape[-1] + 5), 7, x.dtype)
    wide[..., 3:-2] = x
    return wide[..., 3:-2]


def stored_as(*order):
    def store(x):
        back = np.argsort(order)
        return np.ascontiguousarray(x.transpose(order)).transpose(back)

    return store


def reversed_on(axis):
    def store(x):
        return np.ascontiguousarray(np.flip(x, axis)).__getitem__(
            tuple(slice(None, None, -1) if i == axis else slice(None) for i in range(x.ndim))
        )

    return store


def every_other(axis):
    def store(x):
        wide = np.repeat(x, 2, axis=axis)
        return wide[
            tuple(slice(None, None, 2) if i == axis else slice(None) for i in range(x.ndim))
        ]

    return store


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


IN_PLACE = {
    "contiguous": np.array,
    "packed qkv": packed_qkv,
    "channels of a wider array": in_wider_channels,
    "heads after the sequence": stored_as(0, 2, 1, 3),
    "time first": stored_as(2, 0, 1, 3),
    "batch inmost but channels": stored_as(1, 2, 0, 3),
    "batch reversed": reversed_on(0),
    "heads reversed": reversed_on(1),
    "sequence reversed": reversed_on(2),
    "every other batch row": every_other(0),
    "every other head": every_other(1),
    "every other token": every_other(2),
    "unaligned": unaligned,
}
COPIED = {
    "channels transposed": stored_as(0, 1, 3, 2),
    "Fortran order": np.asfortranarray,
    "channels reversed": reversed_on(3),
    "every other channel": every_other(3),
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("memory", [*IN_PLACE, *COPIED, "read-only"])
def test_bits_do_not_depend_on_the_memory_layout(memory, layout, dtype):
    if memory == "byte-swapped" and dtype == "bfloat16":
        dtype = "float16"  # bfloat16 has no other byte order
    rope = embedding(layout=layout, rotary_dim=6, rotary_start=2, seq_axis=-2)
    x = random_array((2, 3, 4, width_of(dtype, 8)), dtype)
    want = rope(x, offset=9)
    store = (IN_PLACE | COPIED | {"read-only": read_only})[memory]
    stored = store(x)
    assert np.array_equal(stored, x)
    assert same_bits(rope(stored, offset=9), want)
    assert same_bits(stored, x), "the input has changed"
    if memory == "read-only":
        return

    out = store(np.zeros_like(x))
    assert rope(x, offset=9, out=out) is out
    assert same_bits(out, want)
    assert rope(stored, offset=9, out=stored) is stored
    assert same_bits(stored, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_inputs(dtype):
    rope = embedding(seq_axis=-2)
    row = random_array((2, 1, 1, width_of(dtype, 8)), dtype)
    x = np.broadcast_to(row, (2, 3, 4, row.shape[-1]))
    got = rope(x)
    assert same_bits(got, rope(x.copy()))
    assert got.flags.writeable
    out = np.empty(x.shape, x.dtype)
    assert same_bits(rope(x, out=out), got)


def test_only_the_output_slice_of_a_packed_array_is_written():
    packed = random_array((2, 5, 3, 4, 8))
    before = packed.copy()
    rope = embedding(seq_axis=-3)
    q, k = packed[:, :, 0], packed[:, :, 1]
    want = rope(q.copy(), k.copy())
    rope(q, k, out=(q, k))
    assert same_bits(packed[:, :, 0], want[0])
    assert same_bits(packed[:, :, 1], want[1])
    assert same_bits(packed[:, :, 2], before[:, :, 2])


def test_memmap(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, random_array((5, 8)))
    x = np.load(path, mmap_mode="r+")
    want = embedding()(np.array(x))
    got = embedding()(x)
    assert type(got) is np.ndarray
    assert same_bits(got, want)
    embedding()(x, out=x)
    x.flush()
    assert same_bits(np.load(path), want)
    frozen = np.load(path, mmap_mode="r")
    with pytest.raises(ValueError, match="`out`"):
        embedding()(frozen, out=frozen)


@needs_kernels
@pytest.mark.parametrize("memory", IN_PLACE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_rotation_copies_nothing(memory, dtype):
    """In-place rotation needs no other memory, also for a slice of a packed array."""
    rope = embedding(64, seq_axis=-2)
    x = IN_PLACE[memory](random_array((2, 8, 128, width_of(dtype, 64)), dtype))
    rope(x, out=x)
    tracemalloc.start()
    rope(x, out=x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 4

    tracemalloc.start()
    rope(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.25 * x.nbytes


# ------------------------------------------------------------------------------------------------
# Threads and sizes.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bits_do_not_depend_on_the_number_of_threads(dtype, layout):
    rope = embedding(64, layout, rotary_dim=48, rotary_start=8, seq_axis=-3)
    x = random_array((3, 601, 12, width_of(dtype, 64)), dtype)
    assert x.nbytes > 2**20
    want = np.concatenate([rope(x[:, i : i + 1], offset=i) for i in range(x.shape[1])], axis=1)
    for count in (1, 2, 64):
        with rotary.threads(count):
            assert same_bits(rope(x), want)
            assert same_bits(rope(x.copy(), out=np.empty_like(x)), want)
            place = x.copy()
            assert same_bits(rope(place, out=place), want)
    assert same_bits(rope(x), want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_table_bits_do_not_depend_on_the_number_of_threads(dtype, fresh_cache):
    rope = embedding(64)
    positions = np.arange(-1500, 1500) * 1_234_567_890_123
    single = [rope.tables(p, dtype=dtype) for p in positions[::300]]
    for count in (1, 2):
        rotary.cache_clear()
        with rotary.threads(count):
            tables = rope.tables(positions, dtype=dtype)
        for part in (0, 1):
            assert same_bits(tables[part][::300], np.stack([pair[part] for pair in single]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_token_for_many_batch_elements(dtype):
    rope = embedding(seq_axis=-2)
    x = random_array((5, 3, 1, width_of(dtype, 8)), dtype)
    offsets = [0, 7, 1_000_003, 2, 7]
    check(rope(x, offset=offsets), x, along(4, 0, offsets))
    check(rope(x, positions=np.array(offsets)[:, None]), x, along(4, 0, offsets))
    check(rope(x, offset=1_000_003), x, 1_000_003)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
def test_empty_arrays(dtype, shape):
    rope = embedding(seq_axis=-2)
    x = np.zeros((*shape, width_of(dtype, 8)), as_dtype(dtype))
    for got in (rope(x), rope(x, offset=3), rope.inverse(x), rope.vjp(x), rope.shift(x, 3)):
        assert got.shape == x.shape
        assert got.dtype == x.dtype
    assert rope(x, out=x) is x
    assert rope(x, positions=np.zeros(shape[2], int)).shape == x.shape
    assert rope(x, offset=np.zeros(shape[0], int)).shape == x.shape


# ------------------------------------------------------------------------------------------------
# Several arrays, and outputs.


def test_queries_and_keys_keep_their_heads_and_dtypes():
    rope = embedding(seq_axis=-2)
    q = random_array((2, 8, 5, 8), "float16")
    k = random_array((2, 1, 5, 8), "float64")
    got = rope(q, k, offset=3)
    assert type(got) is tuple
    assert same_bits(got[0], rope(q, offset=3))
    assert same_bits(got[1], rope(k, offset=3))


def test_one_array_gives_an_array_and_several_give_a_tuple():
    x = random_array((3, 8))
    assert type(embedding()(x)) is np.ndarray
    three = embedding()(x, x, x)
    assert [same_bits(one, embedding()(x)) for one in three] == [True] * 3


def test_results_are_written_to_out():
    rope = embedding(seq_axis=-2)
    q, k = random_array((2, 4, 3, 8)), random_array((2, 1, 3, 8), seed=1)
    want = rope(q, k)
    outputs = (np.empty_like(q), np.empty_like(k))
    got = rope(q, k, out=outputs)
    assert all(a is b for a, b in zip(got, outputs, strict=True))
    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))
    assert rope(q, out=outputs[0]) is outputs[0]
    assert rope(q, out=(outputs[0],)) is outputs[0]
    assert all(a is b for a, b in zip(rope(q, k, out=[q, k]), (q, k), strict=True))
    assert same_bits(q, want[0])


def test_a_subset_of_heads_in_place():
    rope = embedding(seq_axis=-2)
    q = random_array((2, 4, 3, 8))
    before = q.copy()
    rope(q[:, :1], out=q[:, :1])
    assert same_bits(q[:, :1], rope(before[:, :1]))
    assert same_bits(q[:, 1:], before[:, 1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layouts", [("half", "interleaved"), ("interleaved", "half")])
def test_in_place_between_two_layouts(dtype, layouts):
    rope = embedding(64, layouts[0], output_layout=layouts[1], rotary_dim=32, rotary_start=16)
    x = random_array((5, width_of(dtype, 64)), dtype)
    want = rope(x)
    rope(x, out=x)
    assert same_bits(x, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [1.0, 1.5, 0.25])
def test_attention_factors(dtype, factor):
    inv_freq = powers(BASE, 8)
    rope = RotaryEmbedding(8, layout="half", scaling=Custom(inv_freq, factor))
    x = random_array((4, width_of(dtype, 8)), dtype)
    check(rope(x), x, along(2, 0, range(4)), factor=factor)
    check(rope.vjp(x), x, along(2, 0, range(4)), factor=factor, backwards=True)
    if factor != 1.5:
        # 1 / 1.5 is not exact.
        check(rope.inverse(x), x, along(2, 0, range(4)), factor=1 / factor, backwards=True)
    check(rope.shift(x, 3), x, 3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_non_finite_values_affect_only_their_pair(value, dtype):
    x = random_array((2, 8), dtype)
    x[1, 2] = value
    with np.errstate(invalid="ignore"):
        got = embedding()(x)
    assert not np.isfinite(got[1, [2, 6]].astype(float)).any()
    x[1, 2] = 0
    others = [0, 1, 3, 4, 5, 7]
    assert same_bits(got[:, others], embedding()(x)[:, others])


# ------------------------------------------------------------------------------------------------
# Positions.

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64", "longdouble")


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("shape", ["S", "1 S", "B S"])
def test_positions_of_every_dtype_and_shape(dtype, shape):
    x = random_array((2, 3, 8))
    line = np.array([[0, 100, 3], [2, 2, 120]])
    values = {"S": line[0], "1 S": line[:1], "B S": line}[shape]
    got = embedding()(x, positions=values.astype(as_dtype(dtype)))
    check(got, x, values)
    assert same_bits(got, embedding()(x, positions=values.tolist()))


@pytest.mark.parametrize(
    "store",
    [
        lambda p: p.astype(">i8"),
        lambda p: p.astype(">f4"),
        np.asfortranarray,
        lambda p: np.repeat(p, 2, axis=1)[:, ::2],
        lambda p: p[:, ::-1].copy()[:, ::-1],
        unaligned,
        read_only,
    ],
)
def test_positions_in_any_memory_layout(store):
    x = random_array((2, 3, 8))
    positions = np.array([[0, 100, 3], [2, 2, 120]])
    assert same_bits(
        embedding()(x, positions=store(positions)), embedding()(x, positions=positions)
    )
    assert same_bits(embedding()(x, offset=store(positions)[:, 0]), embedding()(x, offset=[0, 2]))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", *FLOATS])
def test_negative_positions(dtype):
    x = random_array((3, 8), "float64")
    positions = np.array([-128, -1, -77])
    check(embedding()(x, positions=positions.astype(as_dtype(dtype))), x, positions)


def test_fractional_positions_are_exact():
    x = random_array((4, 8), "float64")
    positions = [0.5, -2.75, 1e-300, 123456.789]
    check(embedding()(x, positions=positions), x, along(2, 0, positions))
    assert same_bits(
        embedding()(x, positions=np.array(positions)), embedding()(x, positions=positions)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_smallest_and_largest_positions(dtype):
    x = random_array((6, 8), dtype)
    positions = [-(2**63), 2**63 - 1, 2**53 + 1, -(2**62) - 1, 1_700_000_000_123_456_789, 0]
    check(embedding()(x, positions=positions), x, along(2, 0, positions))
    check(embedding()(x[:1], positions=np.array([2**63 - 1], np.uint64)), x[:1], 2**63 - 1)
    check(embedding()(x[:3], offset=2**63 - 3), x[:3], along(2, 0, range(2**63 - 3, 2**63)))
    check(embedding()(x[:3], offset=-(2**63)), x[:3], along(2, 0, range(-(2**63), -(2**63) + 3)))
    largest = float(np.nextafter(2.0**63, 0))
    check(embedding()(x[:1], positions=[largest]), x[:1], largest)


@pytest.mark.parametrize("offset", [3, np.int8(3), np.uint64(3), 3.0, 3.5, np.float32(3.5), -0.25])
def test_all_kinds_of_offsets(offset):
    x = random_array((2, 3, 8))
    start = offset if isinstance(offset, float) else offset.item() if offset != 3 else 3
    check(embedding()(x, offset=offset), x, along(3, 1, [start + i for i in range(3)]))
    check(
        embedding()(x, offset=np.array([offset, offset])),
        x,
        along(3, 1, [start + i for i in range(3)]),
    )


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_offsets_per_batch_element(kind):
    x = random_array((3, 2, 8), "float64")
    got = embedding()(x, offset=kind([0, 5, -9]))
    check(got, x, np.array([[0, 1], [5, 6], [-9, -8]]))
    got = embedding()(x, offset=kind([0.5, 5.0, -9.25]))
    check(got, x, np.array([[0.5, 1.5], [5.0, 6.0], [-9.25, -8.25]]))


def test_a_row_depends_only_on_its_position(fresh_cache):
    """Neighbors, order, the form of the argument and the contents of the cache do not affect the bits."""
    x = random_array((50, 8))
    positions = np.random.default_rng(0).integers(-60, 60, 50)
    alone = np.concatenate([embedding()(x[i : i + 1], offset=int(positions[i])) for i in range(50)])
    rotary.cache_clear()
    assert same_bits(embedding()(x, positions=positions), alone)
    assert same_bits(embedding()(x, positions=positions.astype(float)), alone)
    assert same_bits(embedding()(x[::-1], positions=positions[::-1])[::-1], alone)
    rotary.set_cache_limit(0)
    assert same_bits(embedding()(x, positions=positions), alone)


# ------------------------------------------------------------------------------------------------
# Packed sequences.

BOUNDS = [0, 2, 2, 5, 6]
RESTARTED = [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda b: np.array(b, np.int32)])
@pytest.mark.parametrize("shape", [(6, 8), (6, 3, 8), (6, 2, 3, 8)])
def test_positions_restart_at_each_packed_sequence(kind, shape):
    x = random_array(shape)
    check(embedding()(x, cu_seqlens=kind(BOUNDS)), x, along(len(shape), 0, RESTARTED))
    with_axis = embedding(seq_axis=-2)
    check(with_axis(x, cu_seqlens=kind(BOUNDS)), x, along(len(shape), 0, RESTARTED))


def test_packed_sequences_on_another_axis():
    x = random_array((3, 6, 8))
    check(embedding()(x, cu_seqlens=BOUNDS, seq_axis=1), x, along(3, 1, RESTARTED))
    check(embedding()(x, cu_seqlens=BOUNDS, seq_axis=-2), x, along(3, 1, RESTARTED))


@pytest.mark.parametrize("offset", [7, [10, 20, 30, 40], np.array([0.5, 0.0, -3.0, 1.25])])
def test_offsets_of_packed_sequences(offset):
    x = random_array((6, 3, 8), "float64")
    starts = np.broadcast_to(np.array(offset), (4,)).tolist()
    positions = [starts[i] + j for i in range(4) for j in range(BOUNDS[i + 1] - BOUNDS[i])]
    check(embedding()(x, cu_seqlens=BOUNDS, offset=offset), x, along(3, 0, positions))


@pytest.mark.parametrize("bounds", [[0, 6], [0, 0, 6, 6]])
def test_packed_sequences_of_queries_and_keys(bounds):
    q, k = random_array((6, 4, 8)), random_array((6, 1, 8), "float16")
    got = embedding()(q, k, cu_seqlens=bounds)
    check(got[0], q, along(3, 0, range(6)))
    check(got[1], k, along(3, 0, range(6)))
    assert embedding()(q[:0], cu_seqlens=[0]).shape == (0, 4, 8)


# ------------------------------------------------------------------------------------------------
# Shift.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("delta", "positions"),
    [
        (3, 3),
        (-7.5, -7.5),
        ([1, -2], [[1], [-2]]),
        ([[1, 2, 3]], [[1, 2, 3]]),
        ([[1, 2, 3], [4, 5, 6.5]], [[1, 2, 3], [4, 5, 6.5]]),
    ],
)
def test_shift_by_deltas_of_all_shapes(delta, positions, layout, dtype):
    rope = embedding(layout=LAYOUTS[0], output_layout=layout)
    x = random_array((2, 3, width_of(dtype, 8)), dtype)
    positions = np.array(positions, dtype=object)
    check(rope.shift(x, delta), x, positions, layout=layout)
    check(rope.shift(x, np.array(delta)), x, positions, layout=layout)
    out = np.empty_like(x)
    assert rope.shift(x, delta, out=out) is out
    assert same_bits(out, rope.shift(x, delta))


def test_shift_of_packed_sequences():
    x = random_array((6, 3, 8))
    rope = embedding(seq_axis=-2)
    got = rope.shift(x, [1, 5, -2, 0.5], cu_seqlens=BOUNDS)
    check(got, x, along(3, 0, [1, 1, -2, -2, -2, 0.5]))
    check(rope.shift(x, 4, cu_seqlens=BOUNDS), x, 4)


@pytest.mark.parametrize("seq_axis", [-3, 1])
def test_shift_on_another_axis(seq_axis):
    x = random_array((2, 3, 4, 8))
    got = embedding().shift(x, [[1, 2, 3]], seq_axis=seq_axis)
    check(got, x, along(4, 1, [1, 2, 3]))
    check(embedding().shift(x, [1, 2], seq_axis=seq_axis), x, along(4, 0, [1, 2]))


def test_shift_does_not_apply_the_attention_factor_again():
    rope = RotaryEmbedding(8, layout="half", scaling=Custom(powers(BASE, 8), 2.0))
    x = random_array((3, 8), "float64")
    assert np.allclose(rope.shift(rope(x), 5), rope(x, offset=5), rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------------------------
# Frequencies: several axes, several heads, any sign and size.


def test_frequencies_of_any_sign_and_size():
    inv_freq = [-1.0, 0.0, 4 * np.pi, 2.0**62 * 1.5]
    rope = RotaryEmbedding(8, layout="half", scaling=Custom(inv_freq))
    x = random_array((4, 8), "float64")
    positions = [0.25, -3, 2**40 + 1, 0.1]
    check(rope(x, positions=np.array(positions)), x, along(2, 0, positions), inv_freq)
    half_a_turn = rope(np.eye(8), positions=np.full(8, 0.25))
    np.testing.assert_allclose(half_a_turn[2, [2, 6]], [-1, 0], atol=1e-15)


W = np.array([[0.5, 0.25, 0.0, 1.0], [0.0, 0.125, 2.0, -0.5]])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_axis_of_positions_is_that_of_the_position_axes(layout):
    rope = RotaryEmbedding(8, layout=layout, scaling=Custom(W=W), seq_axis=1)
    x = random_array((2, 6, 8), "float64")
    grid = rotary.positions.grid(2, 3)
    assert grid.shape == (2, 6)
    got = rope(x, positions=grid)
    for pair in range(4):
        alone = RotaryEmbedding(8, layout=layout, scaling=Custom([1.0] * 4), seq_axis=1)
        angle = W[:, pair] @ grid  # exact: these frequencies are dyadic
        want = alone(x, positions=angle)
        channels = [pair, pair + 4] if layout == "half" else [2 * pair, 2 * pair + 1]
        np.testing.assert_allclose(got[..., channels], want[..., channels], rtol=0, atol=2e-15)
    stacked = np.stack([grid, grid + 1], axis=1)
    both = rope(x, positions=stacked)
    assert same_bits(both[0], got[0])
    assert same_bits(both[1], rope(x, positions=grid + 1)[1])
    assert same_bits(rope(x, positions=grid[:, None]), got)


def test_without_positions_every_axis_has_consecutive_positions():
    rope = RotaryEmbedding(8, layout="half", scaling=Custom(W=W), seq_axis=1)
    x = random_array((3, 6, 8))
    line = np.stack([np.arange(6), np.arange(6)])
    assert same_bits(rope(x), rope(x, positions=line))
    assert same_bits(rope(x, offset=3), rope(x, positions=line + 3))
    rows = np.array([1, 5, 9])
    assert same_bits(rope(x, offset=rows), rope(x, positions=line[:, None] + rows[None, :, None]))
    assert same_bits(rope.shift(x, 2), rope(x, positions=np.full((2, 6), 2)))
    deltas = np.array([[1, 2, 3], [4, 5, 6]])
    want = np.broadcast_to(deltas[:, :, None], (2, 3, 6))
    assert same_bits(rope.shift(x, deltas), rope(x, positions=want))


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("seq_axis", [-2, -3])
def test_frequencies_per_head(axes, seq_axis):
    rng = np.random.default_rng(0)
    own = rng.normal(size=(3, axes, 4))
    rope = RotaryEmbedding(8, layout="half", scaling=Custom(W=own), seq_axis=seq_axis)
    x = random_array((2, 3, 5, 8) if seq_axis == -2 else (2, 5, 3, 8), "float64")
    positions = rng.integers(0, 50, (axes, 5))
    got = rope(x, positions=positions)
    head_axis = 1 if seq_axis == -2 else 2
    for head in range(3):
        alone = RotaryEmbedding(8, layout="half", scaling=Custom(W=own[head]), seq_axis=-2)
        want = alone(np.take(x, [head], head_axis).reshape(2, 1, 5, 8), positions=positions)
        assert same_bits(np.take(got, [head], head_axis).reshape(2, 1, 5, 8), want)
    assert rope.tables(positions)[0].shape == (1, 3, 5, 4)
    assert rope.matrix([1] * axes).shape == (3, 8, 8)
    np.testing.assert_allclose(rope.inverse(got, positions=positions), x, atol=1e-14)


def test_positions_may_have_one_position_axis():
    rope = RotaryEmbedding(8, layout="half", scaling=Custom(W=[powers(BASE, 8)]), seq_axis=1)
    x = random_array((2, 3, 8))
    assert same_bits(rope(x), embedding()(x))
    assert same_bits(rope(x, positions=[[4, 5, 6]]), embedding()(x, offset=4))
    with pytest.raises(ValueError, match="`positions`"):
        rope(x, positions=[4, 5, 6])


# ------------------------------------------------------------------------------------------------
# Other methods of the embedding.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tables(dtype, fresh_cache):
    rope = embedding(16, rotary_dim=8)
    cos, sin = rope.tables([[3, 4, 5], [0, 1, 2]], dtype=dtype)
    assert cos.shape == sin.shape == (2, 3, 4)
    assert cos.dtype == sin.dtype == dtype
    assert rope.tables(7)[0].shape == (4,)
    assert rope.tables(np.zeros((0, 2), int))[0].shape == (0, 2, 4)
    for table in (cos, sin, *rope.tables([0, 1, 2]), *rope.tables(np.arange(4))):
        with pytest.raises(ValueError, match="read-only"):
            table[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            table.setflags(write=True)
    pair = np.zeros((3, 16), dtype)
    pair[:, 0] = 1
    assert same_bits(rope(pair, positions=[3, 4, 5])[:, 4], sin[0, :, 0])
    assert same_bits(rope(pair, positions=[3, 4, 5])[:, 0], cos[0, :, 0])


def test_tables_of_consecutive_positions_share_memory(fresh_cache):
    first = embedding(16).tables(np.arange(32))
    second = copy.deepcopy(embedding(16)).tables(range(8, 24))
    assert np.shares_memory(first[0], second[0])
    assert np.shares_memory(first[1], second[1])
    other = embedding(16, rotary_dim=8).tables(np.arange(32))
    assert not np.shares_memory(first[0], other[0])
    entries = rotary.cache_info().entries
    embedding(16, layout="interleaved", rotary_start=0, seq_axis=-3).tables(np.arange(32))
    assert rotary.cache_info().entries == entries


def test_tables_carry_the_attention_factor():
    plain = embedding().tables(range(4), dtype="float64")
    rope = RotaryEmbedding(8, layout="half", scaling=Custom(powers(BASE, 8), 0.5))
    assert same_bits(rope.tables(range(4), dtype="float64")[0], plain[0] * 0.5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("output_layout", LAYOUTS)
def test_the_matrix_is_the_rotation(layout, output_layout):
    rope = embedding(12, layout, output_layout=output_layout, rotary_dim=8, rotary_start=2)
    x = random_array((1, 12), "float64")
    for position in (0, 5, -3, 0.75, 2**40):
        matrix = rope.matrix(position)
        assert matrix.shape == (12, 12)
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix @ x[0], rope(x, offset=position)[0], atol=1e-14)
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(12), atol=1e-14)


def test_the_matrix_has_the_attention_factor_and_all_axes():
    rope = RotaryEmbedding(8, layout="half", scaling=Custom(W=W, attention_factor=2.0))
    x = random_array((1, 8), "float64")
    matrix = rope.matrix([3, 5])
    np.testing.assert_allclose(matrix @ x[0], rope(x, positions=[[3], [5]])[0], atol=1e-14)


def test_at_length_changes_only_the_context_length():
    rope = embedding(rotary_dim=6, seq_axis=-3)
    longer = rope.at_length(4096)
    assert longer.context_length == 4096
    assert rope.context_length is None
    assert longer != rope
    assert longer.at_length(5) == rope.at_length(5)
    assert same_bits(longer.inv_freq, rope.inv_freq)


SPECIFICATIONS = [
    embedding(),
    embedding(64, "interleaved", output_layout="half", rotary_dim=32, rotary_start=16, seq_axis=-3),
    embedding(64, context_length=10),
    embedding(7, rotary_start=1),
    RotaryEmbedding(8, layout="half", scaling=Custom([1.0, -0.5, 0.0, 1 / 3], 1.25)),
    RotaryEmbedding(8, layout="half", scaling=Custom(W=W)),
    RotaryEmbedding(64, layout="half", scaling=Custom(np.linspace(0, 1, 32) / 7)),
    RotaryEmbedding(8, layout="half", scaling=Custom(W=[W / 3, W / 7])),
    RotaryEmbedding(2048, layout="half", scaling=Custom(np.linspace(0, 1, 1024) / 7)),
]


@pytest.mark.parametrize("rope", SPECIFICATIONS, ids=range(len(SPECIFICATIONS)))
def test_specifications_are_values(rope):
    positions = np.ones((*rope.inv_freq.shape[-2:-1], 3))
    heads = rope.inv_freq.shape[0] if rope.inv_freq.ndim == 3 else 1
    x = random_array((1, heads, 3, rope.head_dim))
    rope(x, positions=positions, seq_axis=-2)  # cached values must not be part of the pickle
    for twin in (
        pickle.loads(pickle.dumps(rope)),
        copy.copy(rope),
        copy.deepcopy(rope),
        eval(repr(rope), vars(rotary) | {"Custom": Custom, "array": np.array}),
    ):
        assert twin == rope
        assert hash(twin) == hash(rope)
        assert repr(twin) == repr(rope)
        assert same_bits(twin.inv_freq, rope.inv_freq)
        assert not twin.inv_freq.flags.writeable
        got = twin(x, positions=positions, seq_axis=-2)
        assert same_bits(got, rope(x, positions=positions, seq_axis=-2))
    assert len({*SPECIFICATIONS, rope}) == len(SPECIFICATIONS)


@pytest.mark.parametrize(
    "change",
    [
        {"head_dim": 16},
        {"layout": "interleaved"},
        {"base": 500.0},
        {"rotary_dim": 6},
        {"rotary_start": 2},
        {"context_length": 5},
        {"output_layout": "interleaved"},
        {"seq_axis": -3},
        {"batch_axis": 0},
        {"batch_axis": False},
        {"scaling": Custom(powers(BASE, 8))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_specification_differs_by_any_argument(change):
    given = {"head_dim": 8, "layout": "half", "base": BASE}
    one = RotaryEmbedding(**given)
    other = RotaryEmbedding(**(given | change))
    assert one != other
    assert len({one, other}) == 2
    with pytest.raises(AttributeError):
        setattr(one, next(iter(change)), next(iter(change.values())))


def test_defaults_are_resolved():
    rope = embedding(8, seq_axis=None)
    assert (rope.rotary_dim, rope.rotary_start, rope.output_layout) == (8, 0, "half")
    assert rope == embedding(8, seq_axis=None, rotary_dim=8, rotary_start=0, output_layout="half")
    assert rope == RotaryEmbedding(np.int64(8), layout="half", base=10_000)
    assert rope != "something else"
    assert (rope.attention_factor, rope.softmax_factor) == (1.0, 1.0)


@pytest.mark.parametrize("rope", SPECIFICATIONS, ids=range(len(SPECIFICATIONS)))
def test_explain_lists_every_number(rope):
    text = rope.explain()
    for name in (
        "head_dim",
        "layout",
        "base",
        "scaling",
        "rotary_dim",
        "rotary_start",
        "context_length",
        "output_layout",
        "seq_axis",
        "inv_freq",
        "attention_factor",
        "softmax_factor",
    ):
        (line,) = (line for line in text.splitlines() if line.startswith(name + " "))
        value = getattr(rope, name)
        assert name in {"scaling", "inv_freq"} or str(value) in line


def test_the_input_is_not_modified():
    for dtype in DTYPES:
        x = random_array((2, 3, 5, width_of(dtype, 8)), dtype)
        positions = np.array([4, 0, 1, 2, 3])
        before, places = x.copy(), positions.copy()
        rope = embedding(seq_axis=-2)
        rope(x, x, positions=positions)
        rope.inverse(x, positions=positions)
        rope.vjp(x, positions=positions)
        rope.shift(x, positions[None])
        assert same_bits(x, before)
        assert same_bits(positions, places)
