"""The library's own way to the kernels: what it launches, and that it comes out as on the host."""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from pathlib import Path

import cupy
import host_memory
import numpy as np
import pytest
from helpers import DTYPES, LAYOUTS, as_dtype, random_array, same_bits
from host_memory import to_device, to_host

import rotary
from rotary import RotaryEmbedding, backends, scaling
from rotary.backends.cuda import launch as cuda
from rotary.backends.cuda import memory, plan

pytestmark = pytest.mark.cuda

BASE = 10_000.0
# Rounded differently at most twice: in the kernel and on the host.
ULPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-21, "float64": 2.0**-50}


@pytest.fixture
def device():
    """What the driver is asked for from now on."""
    return host_memory.recording()


@pytest.fixture
def limit():
    """The limit of the cache of tables is set anew afterwards."""
    before = rotary.cache_info().limit
    yield before
    rotary.set_cache_limit(before)


def embedding(head_dim=16, layout="half", **options):
    options = {"seq_axis": -2, "base": BASE} | options
    return RotaryEmbedding(head_dim, layout=layout, **options)


def widened(x):
    return x.astype(complex if x.dtype.kind == "c" else float)


def assert_same(rope, arrays, verb="__call__", there=None, **options):
    """A call on the GPU gives what it gives on the host; `there` is what it is given there instead."""
    want = getattr(rope, verb)(*arrays, **options)
    got = getattr(rope, verb)(*map(to_device, arrays), **options | (there or {}))
    if len(arrays) == 1:
        got, want = (got,), (want,)
    for own, wanted in zip(got, want, strict=True):
        name = {"complex64": "float32", "complex128": "float64"}.get(
            wanted.dtype.name, wanted.dtype.name
        )
        assert type(own) is cupy.ndarray
        assert own.dtype == wanted.dtype
        np.testing.assert_allclose(
            widened(to_host(own)), widened(wanted), rtol=ULPS[name], atol=4 * ULPS[name]
        )


# ------------------------------------------------------------------------------------------------
# Numbers.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("verb", ["__call__", "inverse", "vjp"])
def test_every_window_and_layout(device, dtype, verb):
    width = 64 // (2 if as_dtype(dtype).kind == "c" else 1)
    q, k = random_array((2, 3, 5, width), dtype), random_array((2, 1, 5, width), dtype, seed=1)
    for source, target in itertools.product(LAYOUTS, LAYOUTS):
        for start, pairs in ((0, 32), (16, 16), (6, 9), (0, 8)):
            rope = embedding(
                64,
                source,
                output_layout=target,
                rotary_start=start,
                rotary_dim=2 * pairs,
                scaling=scaling.Yarn(factor=8.0, original_max_position=64),
            )
            device.launches.clear()
            assert_same(rope, (q, k), verb, offset=1_700_000_000)
            (launch,) = device.launches
            # 16 bytes at once, where nothing is in the way.
            whole = (pairs, start) in {(32, 0), (16, 16), (8, 0)}
            assert ("vectors" in launch.name) == whole


ORDERS = {
    "B H S D": ((0, 1, 2, 3), -2),
    "B S H D": ((0, 2, 1, 3), -3),
    "S B H D": ((2, 0, 1, 3), 0),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("memory", ORDERS)
def test_every_order_of_axes_in_every_order_of_memory(device, order, memory):
    """The result lies as the array does, and one launch does it all."""
    axes, seq_axis = ORDERS[order]
    rope = embedding(16, seq_axis=seq_axis)
    x = random_array((2, 3, 5, 16))
    laid = to_device(x.transpose(ORDERS[memory][0]))
    given = laid.transpose(np.argsort(ORDERS[memory][0])).transpose(axes)
    got = rope(given, offset=[3, -7])
    want = rope(x.transpose(axes), offset=[3, -7])
    np.testing.assert_allclose(to_host(got), want, rtol=0, atol=2e-6)
    by_size = np.argsort([-step for step in given.strides[:3]], kind="stable").tolist()
    assert np.argsort([-step for step in got.strides[:3]], kind="stable").tolist() == by_size
    assert len(device.launches) == 1


def kinds_of_positions():
    rng = np.random.default_rng(0)
    many = rng.integers(-(2**62), 2**62, (2, 5))
    yield {"offset": 12}
    yield {"offset": np.array([3, -(10**15)])}
    yield {"offset": 0.25}
    yield {"offset": np.array([0.25, 1e6])}
    yield {"positions": many}
    yield {"positions": many[:1]}
    yield {"positions": many[0]}
    yield {"positions": (many % 2**31 - 2**30).astype(np.int32)}
    yield {"positions": many / 2**40}
    yield {"positions": (many[0] / 2**40).astype(np.float32)}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("options", list(kinds_of_positions()), ids=str)
def test_positions_of_host_and_gpu(device, dtype, options):
    q, k = random_array((2, 3, 5, 16), dtype), random_array((2, 5, 16), dtype, seed=1)
    rope = embedding()
    there = {
        name: to_device(value) for name, value in options.items() if isinstance(value, np.ndarray)
    }
    for given in (None, there):
        for verb in ("__call__", "inverse"):
            assert_same(rope, (q, k), verb, given, seq_axis=(2, 1), **options)
    assert len(device.launches) == 4


def test_positions_on_the_gpu_lie_anyhow(device):
    x = random_array((2, 3, 5, 16))
    places = np.random.default_rng(0).integers(0, 10**6, (5, 7, 2))
    spread = to_device(places)[:, 3].T[:, ::-1]
    assert_same(embedding(), (x,), there={"positions": spread}, positions=places[:, 3].T[:, ::-1])
    assert_same(embedding(), (x,), there={"offset": spread[:, 2]}, offset=places[2, 3])
    one = to_device(np.array(7))
    assert_same(embedding(), (x,), there={"offset": one}, offset=7)
    assert_same(embedding(), (x,), there={"offset": one.reshape(1)}, offset=7)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("offset", [None, 9, [5, 6, 7, 8], 0.5, [0.5, 1.5, 2.5, 3.5]], ids=str)
def test_packed_sequences(device, kind, offset):
    rope = embedding()
    q, k = random_array((6, 3, 16)), random_array((6, 1, 16), seed=1)
    bounds = np.array([0, 2, 2, 5, 6], kind)
    options = {"cu_seqlens": bounds} | ({} if offset is None else {"offset": offset})
    there = {"cu_seqlens": to_device(bounds)}
    assert_same(rope, (q, k), **options)
    assert_same(rope, (q, k), there=there, **options)
    if offset is not None:
        far = {"offset": to_device(np.array(offset))}
        assert_same(rope, (q, k), there=far, **options)
        assert_same(rope, (q, k), there=there | far, **options)


def test_packed_sequences_beyond_their_bounds_are_nan(device):
    bounds = np.array([1, 3], np.int32)
    got = embedding()(to_device(random_array((4, 2, 16))), cu_seqlens=to_device(bounds))
    assert np.isnan(to_host(got)).all(axis=(1, 2)).tolist() == [True, False, False, True]


def test_packed_sequences_that_leave_64_bits_are_nan(device):
    there = {"cu_seqlens": to_device(np.array([0, 4]))}
    got = embedding()(to_device(random_array((4, 2, 16))), **there, offset=2**63 - 2)
    assert np.isnan(to_host(got)).all(axis=(1, 2)).tolist() == [False, False, True, True]


def test_bounds_of_packed_sequences_lie_anyhow(device):
    bounds = np.array([0, 2, 5, 6])
    x = random_array((6, 3, 16))
    for there in (np.repeat(bounds, 2)[::2], bounds[::-1].copy()[::-1]):
        laid = to_device(there.base)[:: there.strides[0] // there.itemsize]
        assert laid.strides == there.strides
        assert_same(embedding(), (x,), there={"cu_seqlens": laid}, cu_seqlens=bounds)


@pytest.mark.parametrize("kind", [int, float])
def test_shift(device, kind):
    rope = embedding(scaling=scaling.Linear(factor=4.0))
    x = random_array((2, 3, 5, 16))
    moves = np.random.default_rng(0).integers(-99, 99, (2, 5)).astype(kind)
    for delta in (moves, moves[:1], moves[:, 0]):
        assert_same(rope, (x,), "shift", delta=delta)
        assert_same(rope, (x,), "shift", {"delta": to_device(delta)}, delta=delta)
    packed = random_array((6, 3, 16))
    bounds, by = np.array([0, 2, 6]), np.array([4, -3])
    for there in ({}, {"delta": to_device(by)}, {"cu_seqlens": to_device(bounds)}):
        assert_same(rope, (packed,), "shift", there, delta=by, cu_seqlens=bounds)
    ntk = scaling.DynamicNTK(factor=4, max_position=16)
    short = embedding(scaling=ntk, context_length=16)
    assert_same(short, (x,), "shift", delta=3, offset=0, to=short.at_length(64))


VIDEO = np.random.default_rng(2).integers(-(10**6), 10**6, (3, 2, 5))


@pytest.mark.parametrize("order", ["chunked", "interleaved", "within"])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.float64])
def test_sections(device, order, kind):
    """Several axes of positions, a pass for each run of channels that pairs within itself."""
    sections = {
        "chunked": rotary.sections.chunked(4, 2, 2),
        "interleaved": rotary.sections.interleaved(4, 2, 2),
        "within": rotary.sections.axial(4, 2, 2, pairing="within"),
    }[order]
    rope = embedding(24, rotary_dim=16, rotary_start=4, sections=sections)
    q, k = random_array((2, 3, 5, 24)), random_array((2, 1, 5, 24), seed=1)
    places = VIDEO.astype(kind) / (8 if kind is np.float64 else 1)
    for verb in ("__call__", "inverse"):
        for positions in (places, places[:, :1]):
            assert_same(rope, (q, k), verb, positions=positions)
            assert_same(
                rope, (q, k), verb, {"positions": to_device(positions)}, positions=positions
            )
        assert_same(rope, (q, k), verb, offset=5)
    passes = len(rope._blocks)
    assert len(device.launches) == 10 * passes


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("axes", [1, 2])
def test_frequencies_per_axis_and_head(device, dtype, axes):
    own = np.random.default_rng(0).normal(size=(3, axes, 8))
    q, k = random_array((2, 3, 5, 16), dtype), random_array((2, 3, 5, 16), dtype, seed=1)
    for w in (own, own[0]):
        rope = RotaryEmbedding(16, layout="half", scaling=scaling.Custom(W=w), seq_axis=-2)
        for places in (VIDEO[:axes], VIDEO[:axes] / 8):
            assert_same(rope, (q, k), positions=places)
            assert_same(rope, (q, k), there={"positions": to_device(places)}, positions=places)
        assert_same(rope, (q, k), offset=3)
    assert len(device.launches) == 10


def test_fast_frequencies_and_float_positions_have_a_table(device):
    rope = embedding(4, base=None, scaling=scaling.Custom(inv_freq=[1e9, 1.0]))
    x = random_array((2, 3, 5, 4))
    places = np.random.default_rng(0).integers(0, 10**6, (2, 5)) / 64
    assert_same(rope, (x,), positions=places)
    assert "table" in device.launches[-1].name
    assert_same(rope, (x,), positions=places.astype(int))
    assert "integers" in device.launches[-1].name


def test_decay(device):
    """Query and key have tables of their own, the sequence or the positions in any form."""
    rope = embedding(decay=rotary.XPos(center=0))
    q, k = random_array((2, 3, 5, 16)), random_array((2, 1, 5, 16), seed=1)
    for options in (
        {},
        {"offset": 300},
        {"offset": [3, 9]},
        {"positions": VIDEO[0] % 300},
        {"positions": VIDEO[0, 0] % 300},
    ):
        assert_same(rope, (q, k), **options)
        assert_same(rope, (k,), "inverse", role="key", **options)
    assert all("table" in launch.name for launch in device.launches)


def test_tables_stay_on_the_gpu_for_calls_to_come(device):
    """A decoder whose rows have a scale asks for a page of them once, each stream for its own."""
    rotary.cache_clear()
    rope = embedding(decay=rotary.XPos(center=0))
    q, k = random_array((2, 3, 1, 16)), random_array((2, 1, 1, 16), seed=1)
    for offset in (0, 1, 7, 1023):
        assert_same(rope, (q, k), offset=offset)
    assert [what for what, *_ in device.log].count("upload") == 2
    assert_same(rope, (q, k), offset=1024)
    assert [what for what, *_ in device.log].count("upload") == 4
    with device.stream(42, 0):
        assert_same(rope, (q, k), offset=1025)
    assert [what for what, *_ in device.log].count("upload") == 6
    # Two streams of tokens, at places far apart, take turns.
    before = [what for what, *_ in device.log].count("upload")
    for offset in (5, 2100, 6, 2101, 7, 2102):
        assert_same(rope, (q, k), offset=offset)
    assert [what for what, *_ in device.log].count("upload") <= before + 4
    # As near the end of what the scale allows as can be, where a whole page has no values.
    last = max(n for n in range(0, 10**6, 64) if not raises(rope, q, n))
    assert_same(rope, (q, k), offset=last)
    with pytest.raises(ValueError, match="`positions` must keep the scale of `decay`"):
        rope(to_device(q), to_device(k), offset=last + 10**4)


def raises(rope, x, offset):
    try:
        rope(x, role="query", offset=offset)
    except ValueError:
        return True
    return False


def test_packed_sequences_with_decay(device):
    """All that counts from one number reads one table, whose sequences the GPU knows; the rest has to be told."""
    rope = embedding(decay=rotary.XPos(center=0))
    q, k = random_array((6, 3, 16)), random_array((6, 1, 16), seed=1)
    bounds = np.array([0, 2, 2, 6])
    there = {"cu_seqlens": to_device(bounds)}
    assert_same(rope, (q, k), cu_seqlens=bounds, offset=[3, 1, 4])
    assert_same(rope, (q, k), there=there, cu_seqlens=bounds)
    assert_same(rope, (q, k), there=there, cu_seqlens=bounds, offset=9)
    with pytest.raises(TypeError, match="`cu_seqlens` must be known.*pass `positions` instead"):
        rope(to_device(q), to_device(k), **there, offset=[3, 1, 4])


def test_positions_that_reach_the_context_give_nan(device):
    ntk = scaling.DynamicNTK(factor=2.0, max_position=4)
    rope = embedding(scaling=ntk, context_length=6)
    x = to_device(random_array((4, 16)))
    for kind in (np.int64, np.float32):
        got = to_host(rope(x, positions=to_device(np.array([5, 6, -3, 10**6], kind))))
        assert np.isnan(got).all(axis=-1).tolist() == [False, True, False, True]
        assert np.isfinite(got[::2]).all()
    got = to_host(rope(x, offset=to_device(np.array(3))))
    assert np.isnan(got).all(axis=-1).tolist() == [False, False, False, True]
    for _ in range(2):
        rope(x, offset=2)
        with pytest.raises(ValueError, match="`offset` must keep positions below the context_le"):
            rope(x, offset=3)


def test_positions_that_no_rotation_has_give_nan(device):
    places = np.array([1.5, np.nan, np.inf, -np.inf, 2.0**63, -(2.0**62)])
    got = to_host(embedding()(to_device(random_array((6, 16))), positions=to_device(places)))
    assert np.isnan(got).all(axis=-1).tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tables_at_positions_on_the_gpu(device, dtype):
    rope = embedding(scaling=scaling.Yarn(factor=8.0, original_max_position=64))
    places = np.random.default_rng(0).integers(-(10**15), 10**15, (4, 5))
    for value in (places, places[0], places[0, 0], places / 64, places.T):
        got, want = rope.tables(to_device(value), dtype), rope.tables(value, dtype)
        for own, wanted in zip(got, want, strict=True):
            assert own.shape == wanted.shape
            assert own.dtype == dtype
            np.testing.assert_allclose(
                to_host(own), wanted, rtol=0, atol=2e-7 if dtype == "float32" else 3e-16
            )
    heads = np.random.default_rng(1).normal(size=(3, 2, 8))
    rope = RotaryEmbedding(16, layout="half", scaling=scaling.Custom(W=heads))
    for value in (places[:2], VIDEO[:2]):
        got, want = rope.tables(to_device(value)), rope.tables(value)
        for own, wanted in zip(got, want, strict=True):
            assert own.shape == wanted.shape
            np.testing.assert_allclose(to_host(own), wanted, rtol=0, atol=2e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_rotary(device, dtype):
    """By tables of host or GPU, whose rows may lie apart."""
    x = random_array((2, 3, 5, 20 // (2 if as_dtype(dtype).kind == "c" else 1)), dtype)
    kind = "float64" if dtype in ("float64", "complex128") else "float32"
    for places in (np.arange(5), VIDEO[0]):
        cos, sin = rotary.cos_sin(places, rotary.inv_freq(16, base=BASE), dtype=kind)
        wide = to_device(np.concatenate([cos, sin, cos], -1))
        for tables in (
            (cos, sin),
            (wide[..., :8], wide[..., 8:16]),
            tuple(map(to_device, (cos, sin))),
        ):
            for options in ({"layout": "half"}, {"layout": "interleaved", "inverse": True}):
                options |= {"seq_axis": -2, "rotary_start": 2}
                want = rotary.apply_rotary(x, cos, sin, **options)
                got = rotary.apply_rotary(to_device(x), *tables, **options)
                np.testing.assert_allclose(
                    widened(to_host(got)),
                    widened(want),
                    rtol=1e-2 if x.itemsize == 2 else 1e-5,
                    atol=1e-6,
                )
                given = to_device(x)
                assert rotary.apply_rotary(given, *tables, out=given, **options) is given
                assert same_bits(to_host(given), to_host(got))


def laid(values, *, gap=0, skip=0):
    """A CuPy array whose rows are some channels apart, the first one some channels into its memory."""
    *front, width = values.shape
    room = np.zeros((*front, width + gap + skip), values.dtype)
    room[..., skip : skip + width] = values
    return to_device(room)[..., skip : skip + width]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_vectors_are_moved_only_where_all_lies_on_16_bytes(device, dtype):
    """Anything else would end a launch on a GPU; the sanitized kernels end the test."""
    if host_memory.KIND == "sanitized":
        whole, odd = {}, [{"skip": 1}]  # rows are whole vectors apart there
    else:
        whole, odd = {"gap": 64}, [{"skip": 1, "gap": 63}, {"gap": 1}]
    x = random_array((2, 3, 5, 64), dtype)
    rope, window = embedding(64), embedding(64, rotary_dim=32)
    cos, sin = rope.tables(np.arange(5), "float64" if dtype == "float64" else "float32")

    def is_vector(got, want):
        np.testing.assert_allclose(to_host(got), want, rtol=1e-2, atol=1e-2)
        return "vectors" in device.launches[-1].name

    for lies in ({}, whole):
        given = laid(x, **lies)
        assert is_vector(rope(given, out=laid(x, **lies)), rope(x))
        assert is_vector(window(given), window(x))
    even = laid(x)
    for lies in odd:
        given = laid(x, **lies)
        assert not is_vector(rope(given), rope(x))
        assert not is_vector(rope(even, out=laid(x, **lies)), rope(x))
        assert not is_vector(rope(even, given)[1], rope(x))
        tables = [laid(part, **lies) for part in (cos, sin)]
        options = {"layout": "half", "seq_axis": -2}
        for pair in (tables, (to_device(cos), tables[1]), (tables[0], to_device(sin))):
            if pair[0].strides == pair[1].strides:
                assert not is_vector(rotary.apply_rotary(even, *pair, **options), rope(x))
    # What is copied beside the window has to be whole vectors too.
    x = random_array((2, 3, 5, 65), dtype)
    narrow = embedding(65, rotary_dim=32)
    given = laid(x, gap=63)
    assert not is_vector(narrow(given, out=laid(x, gap=63)), narrow(x))
    assert is_vector(narrow(given, out=given), narrow(x)) == (
        host_memory.KIND != "sanitized" or given.strides[-2] % 16 == 0
    )


# ------------------------------------------------------------------------------------------------
# Where results are written.


@pytest.mark.parametrize("dtype", DTYPES)
def test_query_and_key_of_one_array_in_place(device, dtype):
    """Their memory is interleaved; what lies between is left alone, and all goes in one launch."""
    width = 32 // (2 if as_dtype(dtype).kind == "c" else 1)
    qkv = random_array((2, 5, 7, width), dtype)
    rope = embedding(32, seq_axis=-3, rotary_dim=16)
    there = to_device(qkv)
    q, k = there[:, :, :4], there[:, :, 4:6]
    for _ in range(2):
        want = rope(qkv[:, :, :4], qkv[:, :, 4:6])
        assert rope(q, k, out=(q, k)) == (q, k)
        got = to_host(there)
        for i, part in enumerate((slice(4), slice(4, 6))):
            np.testing.assert_allclose(
                widened(got[:, :, part]),
                widened(want[i]),
                rtol=1e-2 if qkv.itemsize == 2 else 1e-5,
                atol=1e-6,
            )
        assert same_bits(got[:, :, 6:], qkv[:, :, 6:])
        assert same_bits(got[..., width // 2 :], qkv[..., width // 2 :])
        window(there)[...] = qkv
    assert len(device.launches) == 2


def window(x):
    return host_memory.window(x)


def test_into_other_memory(device):
    """Of another order in memory, and wider than what is written."""
    x = random_array((2, 3, 5, 16))
    rope = embedding(rotary_dim=8, rotary_start=4)
    room = to_device(np.zeros((2, 5, 3, 24), np.float32))
    out = room[..., 4:20].transpose(0, 2, 1, 3)
    assert rope(to_device(x), out=out) is out
    np.testing.assert_allclose(to_host(out), rope(x), rtol=0, atol=1e-6)
    left = to_host(room)
    assert not left[..., :4].any()
    assert not left[..., 20:].any()


def test_in_place_by_another_name(device):
    """The same memory as another array: it is in place, and what does not turn is not even touched."""
    x = to_device(random_array((3, 16)))
    rope = embedding(rotary_dim=8)
    want = rope(to_host(x))
    twin = x.view()
    assert rope(x, out=twin) is twin
    np.testing.assert_allclose(to_host(x), want, rtol=0, atol=1e-6)
    assert device.launches[-1].parameters["arrays"][0]["copy"] == 0


def test_the_order_of_threads_makes_no_difference(device):
    results = []
    for device.thread_order in (0, 1, 12345, 99):
        for dtype, layout in itertools.product(("float16", "float32", "float64"), LAYOUTS):
            qkv = to_device(random_array((2, 9, 7, 48), dtype))
            rope = embedding(48, layout, seq_axis=-3, rotary_dim=32)
            q, k = qkv[:, :, :4], qkv[:, :, 4:]
            rope(q, k, out=(q, k), offset=to_device(np.array([3, 5])))
            other = "half" if layout == "interleaved" else "interleaved"
            changed = embedding(48, layout, seq_axis=-3, output_layout=other)
            results.append((to_host(qkv).tobytes(), to_host(changed(qkv)).tobytes()))
    device.thread_order = None
    assert all(results[i] == results[i % 6] for i in range(len(results)))


# ------------------------------------------------------------------------------------------------
# What a call costs.


def test_a_repeated_call_allocates_and_uploads_nothing(device):
    rope = embedding(seq_axis=-3)
    q, k = to_device(random_array((2, 1, 8, 16))), to_device(random_array((2, 1, 2, 16)))
    places = to_device(np.array([[5], [9]]))
    for options in (
        {"positions": places},
        {"offset": places[:, 0]},
        {"offset": 7},
        {},
        {"positions": places.astype(np.int64, copy=False)},
    ):
        rope(q, k, out=(q, k), **options)
        before = host_memory.allocations()
        device.log.clear()
        device.launches.clear()
        rope(q, k, out=(q, k), **options)
        rope(q, k, out=(q, k), **options)
        assert host_memory.allocations() == before
        assert device.log == []
        assert len(device.launches) == 2
        rope(q, k, **options)
        assert host_memory.allocations() == before + 2


def test_positions_are_read_where_they_are_at_every_call(device):
    """What is remembered is how they lie, not where."""
    rope = embedding()
    x = random_array((5, 16))
    for seed in range(4):
        places = np.random.default_rng(seed).integers(0, 100, 5)
        assert_same(rope, (x,), there={"positions": to_device(places)}, positions=places)
        assert_same(rope, (x,), there={"offset": to_device(places[:1])}, offset=places[:1])
        many = np.stack([x] * 5)  # as many in a batch as in a row
        for name in ("offset", "positions"):
            assert_same(rope, (many,), there={name: to_device(places)}, **{name: places})
        wide = to_device(np.repeat(places, 2))
        assert_same(rope, (x,), there={"positions": wide[::2]}, positions=places)


def test_positions_of_the_host_are_uploaded_once_a_call_and_not_waited_for(device):
    rope = embedding()
    q, k = to_device(random_array((2, 3, 5, 16))), to_device(random_array((2, 1, 5, 16)))
    rope(q, k)
    device.log.clear()
    rope(q, k, positions=[3, 1, 4, 1, 5])
    rope(q, k, cu_seqlens=None, offset=[3, 1])
    assert device.log == [("upload", 40, False), ("upload", 80, False)]
    device.log.clear()
    embedding(base=77.0)(q, k)
    assert device.log == [("upload", 8 * 3 * 8, True)]


def test_nothing_of_a_call_is_kept_alive(device):
    """Plans remember how arrays lay, not the arrays; else every new length would keep its own."""
    rope = embedding()
    gone = []
    for length in range(3, 6):
        x, positions = to_device(random_array((2, 3, length, 16))), to_device(np.arange(length))
        results = rope(x, positions=positions), rope.shift(x, positions[None])
        rope(x, offset=positions[:1], out=x)
        gone += [weakref.ref(each) for each in (x, positions, *results)]
        del x, positions, results
    # What a launch still reads is held till there is another one.
    rope(to_device(random_array((3, 16))), positions=to_device(np.arange(3)))
    gc.collect()
    assert sum(each() is not None for each in gone) == 0


def test_memory_of_others_is_held_until_it_has_been_read(device, monkeypatch):
    """Who gave it knows of its own streams only, and may write over what is given back."""
    rope = embedding()
    monkeypatch.setattr(device, "busy", True)
    given = [Foreigner(to_device(random_array((3, 16)))), Foreigner(to_device(np.arange(3)))]
    gone = [weakref.ref(each) for each in given]
    rope(given[0], positions=given[1])
    assert ("record", None) in device.log
    del given
    gc.collect()
    assert all(each() is not None for each in gone)
    monkeypatch.setattr(device, "busy", False)
    rope(Foreigner(to_device(random_array((3, 16)))))
    gc.collect()
    assert all(each() is None for each in gone)
    monkeypatch.setattr(device, "capturing", True)
    device.log.clear()
    rope(Foreigner(to_device(random_array((3, 16)))))
    assert device.log == []  # an event would be part of the graph


def test_arrays_that_cannot_go_together(device):
    rope = embedding()
    x, y, z = (random_array((2, 3, 5, 16), seed=i) for i in range(3))
    assert_same(rope, (x, y, z))
    assert len(device.launches) == 2  # two arrays at a time
    device.launches.clear()
    assert_same(rope, (x, y.astype(np.float16)))
    assert len(device.launches) == 2
    device.launches.clear()
    groups = random_array((2, 4, 3, 5, 16))
    assert_same(embedding(seq_axis=-2), (groups,))
    assert len(device.launches) == 1  # two axes of heads that lie as one
    device.launches.clear()
    groups = random_array((2, 3, 6, 5, 16))
    apart = to_device(groups)[:, :, :4]
    for out in (None, to_device(groups[:, :, :5])[:, :, :4], apart):
        device.launches.clear()
        got = rope(apart, out=out)
        np.testing.assert_allclose(to_host(got), rope(groups[:, :, :4]), rtol=0, atol=2e-6)
        assert len(device.launches) == 2  # two of the three at a time


@pytest.mark.parametrize("shape", [(0, 3, 5, 16), (2, 0, 5, 16), (2, 3, 0, 16)])
def test_nothing_is_launched_for_nothing(device, shape):
    got = embedding()(to_device(np.zeros(shape, np.float32)), offset=5)
    assert got.shape == shape
    some = to_device(random_array((*shape[:1], 1, *shape[2:])))
    both = embedding()(some, to_device(np.zeros(shape, np.float32)))
    assert [each.shape for each in both] == [some.shape, shape]
    assert len(device.launches) == int(shape[1] == 0)


def test_launches_are_within_what_cuda_allows(device):
    """One token of many heads, many tokens of one head, and more pairs than a block has threads."""
    for shape in ((1, 200, 1, 16), (1, 1, 3000, 16), (1, 2, 3, 1200)):
        x = random_array(shape)
        assert_same(embedding(shape[-1]), (x,))
    assert len(device.launches) == 3


# ------------------------------------------------------------------------------------------------
# GPUs and streams.


def test_arrays_of_another_gpu(device):
    """Everything happens on theirs, and the current one is what it was."""
    cuda._kernels.clear()
    x = random_array((3, 16))
    for number in (1, 0, 2):
        got = embedding(base=99.0)(to_device(x, number), positions=[4, 5, 9])
        assert got.data.device_id == number
        assert device.launches[-1].device == number
        assert device.device == 0
        np.testing.assert_allclose(
            to_host(got), embedding(base=99.0)(x, positions=[4, 5, 9]), atol=1e-6
        )
    # Frequencies lie on each, kernels are loaded on each.
    assert [entry for entry in device.log if entry[0] == "upload" and entry[2]] == [
        ("upload", 8 * 3 * 8, True)
    ] * 3
    assert [entry[0] for entry in device.log].count("kernel") == 3
    cos, sin = embedding(base=99.0).tables(to_device(np.arange(3), 1))
    assert (cos.data.device_id, sin.data.device_id) == (1, 1)


def test_copies_and_casts_are_made_on_the_gpu_of_the_arrays(device):
    x = random_array((2, 16, 3))
    rope = embedding()
    want = rope(x.swapaxes(1, 2), positions=[4, 5, 9])
    there = to_device(x, 1).swapaxes(1, 2)
    tables = [to_device(part, 1) for part in rope.tables(np.array([4, 5, 9]))]
    positions = to_device(np.array([4, 5, 9], np.int16), 1)
    for out in (None, to_device(np.zeros_like(x), 1).swapaxes(1, 2), there):
        given = to_device(x, 1).swapaxes(1, 2)
        got = rotary.apply_rotary(given, *tables, layout="half", seq_axis=1)
        assert got.data.device_id == 1
        np.testing.assert_allclose(to_host(got), want, rtol=0, atol=2e-6)
        got = rope(there, positions=positions, out=out)
        assert got is out or out is None
        assert got.data.device_id == 1
        np.testing.assert_allclose(to_host(got), want, rtol=0, atol=2e-6)
    assert {launch.device for launch in device.launches} == {1}


def test_memory_of_others_is_taken_on_its_gpu(device, monkeypatch):
    """Where its stream is asked to wait, and events are recorded."""
    monkeypatch.setattr(type(device), "place", lambda *_: (1, False))
    got = embedding()(Foreigner(to_device(random_array((3, 16)), 1), stream=42))
    assert got.data.device_id == 1
    assert ("order", 42, None) in device.log


def test_mixed_gpus_are_refused(device):
    rope = embedding()
    q, k = random_array((3, 16)), random_array((3, 16), seed=1)
    places = np.arange(3)
    here, there = to_device(q), to_device(k, 1)
    cos, sin = (to_device(part) for part in rope.tables(places))
    for call, message in (
        (lambda: rope(here, there), "`k` must lie on GPU 0, as `q`, got GPU 1"),
        (lambda: rope(here, out=there), "`out` must lie on GPU 0, as `x`, got GPU 1"),
        (lambda: rope(here, here, out=(to_device(q), there)), r"`out\[1\]` must lie on GPU 0"),
        (
            lambda: rope(here, positions=to_device(places, 1)),
            "`positions` must lie on GPU 0, as the arrays, got GPU 1",
        ),
        (lambda: rope(here, offset=to_device(places[0], 1)), "`offset` must lie on GPU 0"),
        (lambda: rope.shift(here, to_device(places[0], 1)), "`delta` must lie on GPU 0"),
        (
            lambda: rope(here, cu_seqlens=to_device(np.array([0, 3]), 1)),
            "`cu_seqlens` must lie on GPU 0",
        ),
        (
            lambda: rotary.apply_rotary(there, cos, sin, layout="half"),
            "`cos` must lie on GPU 1, as `x`, got GPU 0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert device.launches == []


def test_arrays_of_host_and_gpu_are_refused(device):
    rope = embedding()
    host, there = random_array((3, 16)), to_device(random_array((3, 16)))
    for arrays, name in (((host, there), "q"), ((there, host), "k")):
        with pytest.raises(TypeError, match=f"`{name}` must lie on the GPU.*on the host"):
            rope(*arrays)
    with pytest.raises(TypeError, match="`out` must be of the library of `x`"):
        rope(there, out=host)
    with pytest.raises(TypeError, match="`out` must be of the library of `x`"):
        rope(host, out=there)
    with pytest.raises(TypeError, match="`x` must be on the GPU of `positions`"):
        rope(host, positions=to_device(np.arange(3)))
    assert device.launches == []


# ------------------------------------------------------------------------------------------------
# What a call costs beside its bytes.

MOST_CALLS = 30
FOLDERS = (str(Path(rotary.__file__).parent), *backends.__path__)
COMPREHENSIONS = {"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>"}


def walk(call):
    """The functions of the package that a call runs, comprehensions left out."""
    names = []

    def see(frame, event, _):
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(FOLDERS)
            and code.co_name not in COMPREHENSIONS
        ):
            names.append(f"{Path(code.co_filename).name}: {code.co_name}")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return names


def kinds_of_calls():
    """Calls of every kind, by name."""
    q, k, out = (to_device(random_array((2, heads, 3, 16))) for heads in (3, 1, 3))
    packed = to_device(random_array((3, 2, 16)))
    places = to_device(np.array([[3, 1, 2], [4, 5, 6]]))
    rope = embedding()
    video = embedding(sections=rotary.sections.chunked(4, 2, 2))
    xpos = embedding(decay=rotary.XPos(512, center=0))
    ntk = scaling.DynamicNTK(factor=4, max_position=16)
    short = embedding(scaling=ntk, context_length=64)
    long = short.at_length(128)
    tables = rope.tables(np.arange(3))
    there = tuple(map(to_device, tables))
    step = itertools.count(3)

    def applied(tables, out=None):
        return rotary.apply_rotary(q, *tables, layout="half", seq_axis=-2, out=out)

    return {
        "offset": lambda: rope(q, k, offset=next(step)),
        "in place": lambda: rope(q, k, offset=next(step), out=(q, k)),
        "another output": lambda: rope(q, offset=next(step), out=out),
        "a float": lambda: rope(q, k, offset=next(step) + 0.5),
        "offsets": lambda: rope(q, k, offset=[next(step), 2]),
        "positions on the GPU": lambda: rope(q, k, positions=places),
        "a list": lambda: rope(q, k, positions=[next(step), 4, 5]),
        "positions": lambda: rope(q, k, positions=np.array([[next(step), 4, 5], [1, 2, 3]])),
        "float positions": lambda: rope(q, k, positions=np.array([next(step), 4, 5.5])),
        "vjp": lambda: rope.vjp(q, k, offset=next(step)),
        "position axes": lambda: video(
            q, k, positions=np.array([[next(step), 7, 9], [2, 3, 5], [1, 1, 2]])
        ),
        "position axes from an offset": lambda: video(q, k, offset=next(step)),
        "a context length": lambda: short(q, k, offset=next(step) % 9),
        "decay": lambda: xpos(q, k, offset=next(step)),
        "shift": lambda: rope.shift(k, next(step)),
        "shift by row of the batch": lambda: rope.shift(k, np.array([next(step), 3])),
        "shift to": lambda: short.shift(k, next(step) % 9, to=long, offset=2),
        "packed": lambda: rope(packed, cu_seqlens=[0, 1, 3]),
        "own tables": lambda: applied(there),
        "own tables on the host": lambda: applied(tables),
        "own tables in place": lambda: applied(there, out=q),
        "own tables and another output": lambda: applied(there, out=out),
    }


def test_repeated_calls_run_few_functions(device):
    long = {}
    for kind, call in kinds_of_calls().items():
        call()
        call()
        ran = walk(call)
        # Of the driver, two functions are replaced by those of the host.
        if len(ran) + 2 > MOST_CALLS:
            long[kind] = ran
    assert long == {}


# ------------------------------------------------------------------------------------------------
# What is refused.


def overlapping(x):
    """A view of a CuPy array whose rows overlap one another."""
    return cupy.ndarray(x.shape, x.dtype, x.data, (x.strides[-1] * 8, x.strides[-1]))


def between(values):
    """Most of what is there, read from the middle of a number on."""
    there = to_device(values)
    return cupy.ndarray((len(values) - 1,), there.dtype, there.data + there.itemsize // 2)


def shifted(x, nbytes):
    """A view of a CuPy array that begins elsewhere."""
    return cupy.ndarray((2, 16), x.dtype, x.data + nbytes, x.strides)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda x: embedding(output_layout="interleaved")(x, out=x),
            ValueError,
            "`out` must not be the input if the layout changes from 'half' to 'interleaved'",
        ),
        (
            lambda x: embedding(output_layout="interleaved")(x, out=x.view()),
            ValueError,
            "`out` must not be the input if the layout changes",
        ),
        (lambda x: embedding()(x, out=overlapping(x)), ValueError, "`out` must not be broadcast"),
        (
            lambda x: embedding()(x, out=cupy.broadcast_to(x[:1], x.shape)),
            ValueError,
            "`out` must not be broadcast",
        ),
        (
            lambda x: embedding()(x[:2], out=x[1:]),
            ValueError,
            "`out` must be the input itself or overlap no input",
        ),
        (
            lambda x: embedding()(x[:2], x[1:], out=(x[:2], x[1:])),
            ValueError,
            "`out` must be the input itself or overlap no input",
        ),
        (lambda x: embedding()(x, out=x[:2]), ValueError, "`out` must have shape"),
        (lambda x: embedding()(x, out=(x, x)), ValueError, "`out` must hold one array for each"),
        (lambda x: embedding()(x, x, out=x), ValueError, "`out` must hold one array for each"),
        (lambda x: embedding()(x, out=x.astype), TypeError, "`out` must be an array"),
        (lambda x: embedding()(shifted(x, 2)), ValueError, "`x` must be aligned to the 4 bytes"),
        (
            lambda x: embedding()(shifted(x, 0), out=shifted(x, 129)),
            ValueError,
            "`out`.*aligned|`out` must",
        ),
        (lambda x: embedding()(x.view(np.int32)), TypeError, "`x` must have one of the dtypes"),
        (lambda x: embedding()(x.view(np.uint16)), TypeError, "`x` must have one of the dtypes"),
        (embedding(8), ValueError, "`x` must have 8 channels"),
        (lambda x: embedding()(x[:, None, None]), None, None),
        (
            lambda x: embedding(seq_axis=None)(x[:, None, None]),
            ValueError,
            "`seq_axis` must be given",
        ),
        (
            lambda x: embedding()(x, positions=to_device(np.arange(4))),
            ValueError,
            "`positions` must have one of the shapes",
        ),
        (
            lambda x: embedding()(x, positions=5),
            ValueError,
            "`positions` must have one of the shapes",
        ),
        (
            lambda x: embedding()(x, positions=to_device(np.arange(3, dtype=np.uint64))),
            TypeError,
            "`positions` must hold integers that int64 has, or floats, got dtype uint64",
        ),
        (
            lambda x: embedding()(x, positions=between(np.arange(4))),
            ValueError,
            "`positions` must be aligned to the 8 bytes of int64, got an address 4 bytes past a multiple",
        ),
        (
            lambda x: embedding()(x, positions=to_device(np.ones(3, bool))),
            TypeError,
            "`positions` must hold integers or floats",
        ),
        (
            lambda x: embedding()(x, offset=to_device(np.arange(2))),
            ValueError,
            "`offset` must be one number, because `x` has no batch axis",
        ),
        (
            lambda x: embedding()(x, offset=to_device(np.ones((), complex))),
            TypeError,
            "`offset` must hold integers or floats",
        ),
        (
            lambda x: embedding().shift(x, to_device(np.arange(2))),
            ValueError,
            r"`delta` must have one of the shapes \(3,\), \(1, 3\), got \(2,\)",
        ),
        (
            lambda x: embedding()(x, cu_seqlens=to_device(np.ones(4))),
            ValueError,
            "`cu_seqlens` must be integers of shape",
        ),
        (
            lambda x: embedding()(x, cu_seqlens=to_device(np.ones((2, 2), int))),
            ValueError,
            "`cu_seqlens` must be integers of shape",
        ),
        (
            lambda x: embedding()(
                x, cu_seqlens=to_device(np.array([0, 3])), offset=to_device(np.arange(3))
            ),
            ValueError,
            r"`offset` must be a number or one per sequence, \(1,\)",
        ),
        (
            lambda x: embedding()(x, cu_seqlens=[0, 2], offset=to_device(np.arange(1))),
            ValueError,
            "`cu_seqlens` must end at the sequence length of the arrays, 3",
        ),
        (
            lambda x: embedding()(x, offset=2**63 - 1),
            ValueError,
            "`offset` must keep positions within int64",
        ),
        (
            lambda x: rotary.apply_rotary(x, *embedding().tables([0, 1]), layout="half"),
            ValueError,
            "`cos` must have shape",
        ),
        (
            lambda x: rotary.apply_rotary(x, x[:, :8], x[:, 8:], layout="half", out=x),
            ValueError,
            "`out` must not overlap `cos`",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(device, call, kind, message):
    before = random_array((3, 16))
    x = to_device(before)
    if kind is None:
        call(x)
        return
    with pytest.raises(kind, match=message):
        call(x)
    assert device.launches == []
    assert same_bits(to_host(x), before)


def test_refused_calls_leave_no_plan(device):
    """The same shapes with memory that does not overlap are right, and afterwards wrong again."""
    x = to_device(random_array((4, 16)))
    rope = embedding()
    for _ in range(2):
        with pytest.raises(ValueError, match="`out` must be the input itself or overlap no input"):
            rope(x[:2], out=x[1:3])
        rope(x[:2], out=x[2:])
        rope(x[:2], out=x[:2])
    # Backwards in memory, where an array ends before it begins.
    rope(x[1::-1], out=x[:1:-1])
    with pytest.raises(ValueError, match="`out` must be the input itself or overlap no input"):
        rope(x[1::-1], out=x[2:0:-1])
    with pytest.raises(ValueError, match="`out` must be the input itself or overlap no input"):
        rope(x[2:0:-1], out=x[1::-1])
    changed = embedding(output_layout="interleaved")
    changed(x[:2], out=x[2:])
    with pytest.raises(ValueError, match="`out` must not be the input if the layout changes"):
        changed(x[:2], out=x[:2])


def test_what_is_not_aligned_is_refused_by_plans_of_what_is(device):
    """Addresses are no part of a plan, nor of positions whose layout it remembers."""
    rope = embedding()
    x = to_device(random_array((3, 16)))
    places = to_device(np.arange(4))
    for _ in range(2):
        rope(x[:2], positions=places[:2])
        rope(x[:2], out=to_device(random_array((2, 16))))
    count = len(device.launches)
    with pytest.raises(ValueError, match="`x` must be aligned to the 4 bytes of float32"):
        rope(shifted(x, 2), positions=places[:2])
    with pytest.raises(ValueError, match="`out` must be aligned to the 4 bytes of float32"):
        rope(x[:2], out=shifted(to_device(random_array((3, 16))), 2))
    with pytest.raises(ValueError, match="`positions` must be aligned to the 8 bytes of int64"):
        rope(x[:2], positions=between(np.arange(3)))
    assert len(device.launches) == count


def test_more_rows_than_a_launch_can_count(device):
    x = to_device(np.zeros((1, 16), np.float32))
    many = cupy.ndarray((2**31, 16), x.dtype, x.data, (0, 4))
    with pytest.raises(ValueError, match=r"`x` must have fewer than 2\*\*31 rows, got 2147483648"):
        embedding()(many)
    assert not device.launches


def test_a_move_to_other_frequencies_has_one_plan(device):
    """Made by the first call, as that of any other."""
    rope = embedding(scaling=scaling.Linear(factor=4.0))
    x = to_device(random_array((2, 3, 5, 16)))
    rotary.cache_clear()
    for _ in range(3):
        to = embedding(scaling=scaling.Linear(factor=2.0))
        rope.shift(x, delta=3, offset=0, to=to)
    assert rotary.cache_info().plans.entries == 1


def test_where_positions_lay_is_remembered_within_a_bound(device, monkeypatch):
    monkeypatch.setattr(plan, "POSITIONS_REMEMBERED", 2)
    rotary.cache_clear()
    rope = embedding()
    many = np.arange(40).reshape(4, 10) * 3
    for i in range(4):
        there = {"positions": to_device(many)[:, i::4][:, :2]}
        assert_same(rope, (random_array((4, 2, 16)),), positions=many[:, i::4][:, :2], there=there)
        there = {"positions": to_device(many.T)[i:].T[:, :2]}
        assert_same(rope, (random_array((4, 2, 16)),), positions=many[:, i:][:, :2], there=there)
    gc.collect()
    sizes = [len(each._positions.held) for each in gc.get_objects() if type(each) is plan.Plan]
    assert max(sizes) == 2


def far_apart(device, count):
    """Rotate as a decoder whose rows have a scale, at so many places far apart; return the bytes of a table."""
    rope = embedding(decay=rotary.XPos(center=0))
    x = to_device(random_array((2, 3, 1, 16)))
    for i in range(count):
        rope(x, offset=2048 * i, role="query")
    return 2 * 1024 * 8 * 4


def test_tables_on_the_gpu_are_counted_and_cleared(device):
    """With those of the host, by the calls that are for the cache of tables."""
    rotary.cache_clear()
    nbytes = far_apart(device, 3)
    info = rotary.cache_info()
    assert (info.entries, info.nbytes) == (3, 3 * nbytes)
    rotary.cache_clear()
    gc.collect()
    assert rotary.cache_info()[:4] == (0, 0, 0, 0)


def test_memory_of_dropped_tables_is_given_free(device, limit):
    """Nothing else keeps them: neither plans nor embeddings nor launches."""
    rotary.cache_clear()
    alive = host_memory.alive()
    x = to_device(random_array((100_000, 64)))
    embedding(64, decay=rotary.XPos(center=50_000, scale_base=50_000))(x, x)
    assert host_memory.alive() > alive + 2 * x.nbytes  # the tables are as large as the array
    rotary.set_cache_limit(0)
    rotary.cache_clear()
    del x
    gc.collect()
    assert host_memory.alive() <= alive + 10_000


def test_tables_on_the_gpu_are_bounded_with_those_of_the_host(device, limit):
    rotary.cache_clear()
    nbytes = far_apart(device, 1)
    for kept in (5, 2):
        rotary.set_cache_limit(kept * nbytes)
        far_apart(device, 9)
        assert rotary.cache_info()[2:4] == (kept, kept * nbytes)
    # What was used least recently goes, be it on the host.
    embedding()(random_array((600, 16)))
    assert 0 < rotary.cache_info().nbytes <= 2 * nbytes
    far_apart(device, 2)
    assert rotary.cache_info()[2:4] == (2, 2 * nbytes)


def test_a_table_on_the_gpu_that_may_not_be_kept_is_no_longer_than_asked_for(device, limit):
    rotary.set_cache_limit(0)
    rope = embedding(decay=rotary.XPos(center=0))
    x = random_array((2, 3, 5, 16))
    for _ in range(2):
        device.log.clear()
        assert_same(rope, (x,), offset=3000, role="query")
        assert [each[1] for each in device.log if each[0] == "upload"] == [2 * 5 * 8 * 4]
    assert rotary.cache_info()[2:4] == (0, 0)


def test_without_a_driver_it_is_said(device, monkeypatch):
    monkeypatch.setattr(type(device), "missing", "CuPy finds no driver")
    with pytest.raises(
        RuntimeError, match=r"`x` lies on a GPU, but CuPy finds no driver.*rotary\[cuda12\]"
    ):
        embedding()(to_device(np.ones((3, 16), np.float32)))


def test_without_cupy_the_library_itself_computes(device, monkeypatch):
    """Kernels are then not asked for; CuPy's own arrays are the only ones there are to see it here."""
    x = to_device(np.ones((3, 16), np.float32))

    for name, value in (("installed", False), ("is_foreign", True)):
        with monkeypatch.context() as patch:
            patch.setattr(type(device), name, value)
            assert not memory.usable("x")

    def broken(self):
        msg = "libnvrtc.so.13: not found"
        raise ImportError(msg)

    # That is no reason to fall back in silence.
    monkeypatch.setattr(type(device), "is_foreign", property(broken))
    with pytest.raises(ImportError, match="libnvrtc"):
        embedding()(x)


def test_a_graph_that_is_captured_takes_nothing_from_the_host(device, monkeypatch):
    rope = embedding(base=55.0)
    x = to_device(random_array((3, 16)))
    places = to_device(np.arange(3))
    monkeypatch.setattr(device, "capturing", True)
    with pytest.raises(
        RuntimeError, match="`positions`, `offset` and the like must lie on the GPU"
    ):
        rope(x, positions=places, out=x)  # whose frequencies nobody has uploaded
    monkeypatch.setattr(device, "capturing", False)
    rope(x, positions=places, out=x)
    monkeypatch.setattr(device, "capturing", True)
    rope(x, positions=places, out=x)
    rope(x, offset=8, out=x)
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
        rope(x, positions=[3, 1, 2], out=x)


def test_a_graph_that_is_captured_waits_for_no_other_stream(device, monkeypatch):
    class Stream:
        def __init__(self, address):
            self.address = address

        def is_capturing(self):
            return self.address in capturing

        def record(self):
            return self.address

        def wait_event(self, event):
            waited.append((event, self.address))

    waited, capturing = [], set()
    monkeypatch.setattr(type(device.cupy), "get_current_stream", lambda _: Stream(device.current))
    for also in ((), (5,), (7,)):
        capturing.update(also)
        memory.Driver.order(device, 5, 7, 0)
    capturing.remove(5)
    with pytest.raises(RuntimeError, match="must be of the arrays' own library while a CUDA graph"):
        memory.Driver.order(device, 5, 7, 0)
    assert waited == [(5, 7)] * 3


# ------------------------------------------------------------------------------------------------
# What else speaks of memory on a GPU.


class Foreigner:
    """Memory of a GPU as no library has it: all it can do is say where it lies."""

    def __init__(self, x, *, read_only=False, stream=None):
        self.kept, self.shape, self.dtype = x, x.shape, x.dtype
        self.said = {
            "data": (x.data.ptr, read_only),
            "shape": x.shape,
            "strides": x.strides,
            "typestr": x.dtype.str,
            "version": 3,
            "stream": stream,
        }

    @property
    def __cuda_array_interface__(self):
        return self.said


def test_arrays_that_only_say_where_they_lie(device):
    x = random_array((2, 3, 5, 16))
    rope = embedding()
    there = to_device(x)
    got = rope(Foreigner(there), positions=Foreigner(to_device(VIDEO[0])))
    assert type(got) is cupy.ndarray
    np.testing.assert_allclose(to_host(got), rope(x, positions=VIDEO[0]), rtol=0, atol=2e-6)
    own = Foreigner(there, stream=42)
    assert rope(own, out=own) is own
    np.testing.assert_allclose(to_host(there), rope(x), rtol=0, atol=2e-6)
    # Its stream comes first.
    assert ("order", 42, None) in device.log
    with pytest.raises(ValueError, match="`out` must be writeable, got a read-only array"):
        rope(own, out=Foreigner(to_device(x), read_only=True))
    with pytest.raises(ValueError, match="`out` must be the input itself or overlap no input"):
        rope(Foreigner(there[:, :2]), out=Foreigner(there[:, 1:]))
    with pytest.raises(TypeError, match="`out` must be of the library of `x`"):
        rope(there, out=own)
    with pytest.raises(TypeError, match="`positions` must be known on the host"):
        rope(x, positions=Foreigner(to_device(VIDEO[0])))


def test_tables_are_of_a_library(device):
    """What only says where it lies cannot be cut or cast."""
    parts = {"x": to_device(random_array((3, 16)))}
    parts |= dict(zip(("cos", "sin"), embedding().tables(to_device(np.arange(3))), strict=True))
    for name, part in parts.items():
        with pytest.raises(TypeError, match=f"`{name}` must be an array of a library, got.*Foreig"):
            rotary.apply_rotary(**parts | {name: Foreigner(part)}, layout="half")


def test_managed_memory_is_refused(device, monkeypatch):
    monkeypatch.setattr(type(device), "place", lambda *_: (0, True))
    own = Foreigner(to_device(random_array((3, 16))))
    with pytest.raises(
        ValueError, match="`x` must lie in the memory of one GPU, got managed memory"
    ):
        embedding()(own)
    x = to_device(random_array((3, 16)))
    with pytest.raises(ValueError, match="`positions` must lie in the memory of one GPU"):
        embedding()(x, positions=Foreigner(to_device(np.arange(3))))
