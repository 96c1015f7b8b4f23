"""The rotation kernel against the arithmetic of NumPy, bit for bit, on every path."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from rotary.backends.contract import Axes, Pairing, Table
from rotary.backends.cpu import kernels

pytestmark = pytest.mark.compiled
if kernels.COMPILED:
    from rotary.backends.cpu import jit, threads
    from rotary.backends.cpu import launch as cpu

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
WIDE = {"float16": 32, "bfloat16": 32, "float32": 16, "float64": 8}


def placed(shape, dtype, order=(0, 1, 2, 3), skip=0):
    """Return an array of four axes at an offset in bytes from a cache line, with its axes in an order in memory."""
    inner = tuple(shape[axis] for axis in order)
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(nbytes + 128, np.uint8)
    first = -memory.ctypes.data % 64 + skip
    array = memory[first : first + nbytes].view(dtype).reshape(inner)
    return array.transpose(np.argsort(order))


def channels(n_pairs, start, half):
    """Return the first and the second channel of each pair."""
    pair = np.arange(n_pairs)
    first = start + (pair if half else 2 * pair)
    return first, first + (n_pairs if half else 1)


def expected(x, table, index, step, start, half_in, half_out, sign, copied):
    """Return what the kernel must write into `copied`, computed by NumPy."""
    n_pairs, length, heads = table.shape[-1], x.shape[1], x.shape[2]
    rows = np.broadcast_to(index, x.shape[:2]) + step * np.arange(length)
    own = np.minimum(np.arange(heads), table.shape[1] - 1)
    cosine, sine = table[:, own[None, None, :], rows[:, :, None]]
    sine = sine * table.dtype.type(sign)
    first, second = channels(n_pairs, start, half_in)
    a, b = x[..., first].astype(table.dtype), x[..., second].astype(table.dtype)
    first, second = channels(n_pairs, start, half_out)
    result = copied.copy()
    with np.errstate(all="ignore"):
        result[..., first] = (a * cosine - b * sine).astype(x.dtype)
        result[..., second] = (b * cosine + a * sine).astype(x.dtype)
    return result


def launch(
    pairs, table, index, step, start, halves, sign, *, stream, chunks=1, apart=True, rows=None
):
    """Run the kernel on one or two (array, result), and return its status."""
    n_pairs = table.shape[-1]
    source, target = ("half" if half else "interleaved" for half in halves)
    pairing = Pairing(start, n_pairs, source, target)
    geometry = np.array([cpu._geometry(x, out, pairing) for x, out in pairs], np.int64)
    name = pairs[0][0].dtype.name
    storage = cpu.STORAGE[name]
    kernel = jit.compiled(jit.Variant("rotation", name, target, bool(stream)))
    call = jit.entry_point(jit.compiled(jit.Variant("call", storage)))
    aside = np.empty((chunks, 2 * n_pairs), storage)
    assert threads.start_numba_threads()
    return call(
        kernel.address,
        geometry.ctypes.data,
        len(pairs),
        *(each.view(storage) for each in (*pairs[0], *pairs[-1])),
        table,
        index,
        *(rows or (0, table.shape[2])),
        step,
        int(sign < 0),
        int(apart),
        aside.ctypes.data,
        chunks,
        threads.parallel_for_address() if chunks > 1 else 0,
    )


def run(x, out, table, index, step, start, half_in, half_out, sign, *, stream, chunks=1):
    halves = half_in, half_out
    answer = launch(
        [(x, out)], table, index, step, start, halves, sign, stream=stream, chunks=chunks
    )
    assert answer == kernels.DONE


def data(name, shape, n_pairs, tables=1, seed=0):
    """Return numbers of all magnitudes, and a table with distinct rows."""
    rng = np.random.default_rng(seed)
    number = np.float64 if name == "float64" else np.float32
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 8, shape)
    table = rng.uniform(-1.3, 1.3, (2, tables, shape[1] + 7, n_pairs)).astype(number)
    return x.astype(DTYPES[name]), np.ascontiguousarray(table)


def same_bits(got, wanted):
    np.testing.assert_array_equal(
        np.ascontiguousarray(got).view(np.uint8), np.ascontiguousarray(wanted).view(np.uint8)
    )


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("half_in", [True, False])
@pytest.mark.parametrize("half_out", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 5])
def test_all_numbers_of_pairs(name, half_in, half_out, heads):
    wide = WIDE[name]
    for n_pairs in {1, 3, 7, 8, 9, wide - 1, wide, wide + 1, wide + 12, 2 * wide, 2 * wide + 9}:
        shape = (2, 3, heads, 2 * n_pairs)
        values, table = data(name, shape, n_pairs)
        index = np.array([[2]])
        for stream in (False, True):
            for in_place in (False, True):
                x = placed(shape, DTYPES[name])
                x[...] = values
                out = x if in_place else placed(shape, DTYPES[name])
                wanted = expected(values, table, index, 1, 0, half_in, half_out, -1.0, out)
                run(x, out, table, index, 1, 0, half_in, half_out, -1.0, stream=stream)
                same_bits(out, wanted)


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3), (2, 1, 0, 3)])
@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_all_orders_of_axes(name, order, chunks, stream):
    shape, n_pairs = (3, 71, 5, 128), 64
    values, table = data(name, shape, n_pairs)
    index = np.array([[0], [7], [3]])
    x, out = placed(shape, DTYPES[name], order), placed(shape, DTYPES[name], (*order[:3][::-1], 3))
    x[...] = values
    wanted = expected(values, table, index, 1, 0, True, True, 1.0, out)
    run(x, out, table, index, 1, 0, True, True, 1.0, stream=stream, chunks=chunks)
    same_bits(out, wanted)
    run(x, x, table, index, 1, 0, True, True, 1.0, stream=False, chunks=chunks)
    same_bits(x, wanted)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("n_pairs", [64, 40, 36])
def test_arrays_may_have_any_alignment(name, half, n_pairs):
    # A streaming write to an address that is not a multiple of its size would abort the process.
    shape = (2, 9, 3, 2 * n_pairs)
    values, table = data(name, shape, n_pairs)
    index = np.arange(18)[::-1].reshape(2, 9) % 16
    wanted = expected(values, table, index, 0, 0, half, half, 1.0, values)
    for skip in (1, 17, 35, *range(0, 64, np.dtype(DTYPES[name]).itemsize)):
        for room in (0, 8):
            for order in ((0, 1, 2, 3), (2, 0, 1, 3)):
                wide = (*shape[:3], 2 * n_pairs + room)
                x, out = (placed(wide, DTYPES[name], order, s) for s in (skip ^ 16, skip))
                x, out = x[..., : 2 * n_pairs], out[..., : 2 * n_pairs]
                x[...] = values
                run(x, out, table, index, 0, 0, half, half, 1.0, stream=True)
                same_bits(out, wanted)
                run(x, x, table, index, 0, 0, half, half, 1.0, stream=False)
                same_bits(x, wanted)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("half_out", [True, False])
@pytest.mark.parametrize("start", [0, 8, 64])
@pytest.mark.parametrize("stream", [False, True])
def test_channels_that_are_not_rotated_are_copied(name, half_out, start, stream):
    n_pairs = WIDE[name]
    shape = (2, 5, 3, start + 2 * n_pairs + 64)
    values, table = data(name, shape, n_pairs)
    x, out = placed(shape, DTYPES[name]), placed(shape, DTYPES[name])
    x[...] = values
    index = np.array([[1]])
    wanted = expected(values, table, index, 1, start, True, half_out, 1.0, values)
    run(x, out, table, index, 1, start, True, half_out, 1.0, stream=stream)
    same_bits(out, wanted)
    run(x, x, table, index, 1, start, True, half_out, 1.0, stream=False)
    same_bits(x, wanted)


@pytest.mark.parametrize("name", ["float16", "float64"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_tables_per_head(name, order):
    shape, n_pairs = (2, 40, 5, 96), 48
    values, table = data(name, shape, n_pairs, tables=5)
    x, out = placed(shape, DTYPES[name], order), placed(shape, DTYPES[name], order)
    x[...] = values
    index = np.array([[0], [5]])
    wanted = expected(values, table, index, 1, 0, False, False, 1.0, out)
    run(x, out, table, index, 1, 0, False, False, 1.0, stream=False)
    same_bits(out, wanted)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("n_pairs", [1, 5, 29, 64])
def test_all_kinds_of_numbers(name, half, n_pairs):
    """NaN with any payload stays NaN; infinity, subnormal numbers and the signs of zeros equal those of NumPy."""
    rng = np.random.default_rng(0)
    bits = np.dtype(DTYPES[name]).itemsize
    values = rng.integers(0, 256, (1, 40, 3, 2 * n_pairs * bits), np.uint8).view(DTYPES[name])
    kinds = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0], np.float64)
    values[:, ::4] = rng.choice(kinds, values[:, ::4].shape).astype(values.dtype)
    least = float(ml_dtypes.finfo(DTYPES[name]).smallest_subnormal)
    values[:, 1::4] = (rng.integers(-99, 99, values[:, 1::4].shape) * least).astype(values.dtype)
    _, table = data(name, (1, 40, 3, 2 * n_pairs), n_pairs)
    # Tables may have any NaN, such as signaling ones whose bits are only in the lower half.
    word = np.uint64 if name == "float64" else np.uint32
    exponent = np.array(np.inf, table.dtype).view(word)
    payload = rng.integers(1, 2 ** (52 if name == "float64" else 23), table.shape, word)
    positions = rng.random(table.shape) < 0.05
    table.view(word)[positions] = (exponent | payload)[positions]
    table[rng.random(table.shape) < 0.05] = 0.0
    x, out = placed(values.shape, DTYPES[name]), placed(values.shape, DTYPES[name])
    x[...] = values
    index = np.array([[0]])
    with np.errstate(all="ignore"):
        wanted = expected(values, table, index, 1, 0, half, half, 1.0, out)
    run(x, out, table, index, 1, 0, half, half, 1.0, stream=False)
    nan = np.isnan(wanted.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(out.astype(np.float64)), nan)
    assert 0 < nan.sum() < nan.size
    same_bits(np.where(nan, 0, out), np.where(nan, 0, wanted))


@pytest.mark.parametrize("name", DTYPES)
def test_memory_outside_of_the_array_is_unchanged(name):
    n_pairs, room = 37, 3
    whole = np.full((2, 9, 5 + room, 2 * n_pairs + 11), 1.5).astype(DTYPES[name])
    before = whole.copy()
    values, table = data(name, (2, 9, 5, 2 * n_pairs), n_pairs)
    out = whole[:, :, 1:6, 4 : 4 + 2 * n_pairs]
    run(values, out, table, np.array([[0]]), 1, 0, True, True, 1.0, stream=True)
    before[:, :, 1:6, 4 : 4 + 2 * n_pairs] = out
    same_bits(whole, before)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_two_arrays_in_one_call(name, chunks, stream):
    n_pairs = 64
    q, table = data(name, (2, 9, 6, 128), n_pairs)
    k, _ = data(name, (2, 9, 2, 160), n_pairs, seed=1)
    index = np.array([[0], [5]])
    outs = placed(q.shape, DTYPES[name]), placed(k.shape, DTYPES[name], (0, 2, 1, 3))
    pairs = list(zip((q, k), outs, strict=True))
    halves = True, True
    assert not launch(pairs, table, index, 1, 0, halves, 1.0, stream=stream, chunks=chunks)
    for x, out in pairs:
        same_bits(out, expected(x, table, index, 1, 0, True, True, 1.0, x))


LOWEST, HIGHEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@pytest.mark.parametrize(
    ("index", "step", "rows"),
    [
        ([[0, 1, 2, 3, 16]], 0, (0, 16)),
        ([[0, 1, 2, -1, 4]], 0, (0, 16)),
        ([[0, 1, 2, 3, 15]], 0, (0, 15)),
        ([[12]], 1, (0, 16)),
        ([[-1]], 1, (0, 16)),
        ([[0], [12]], 1, (0, 16)),
        ([[0]], 1, (0, 4)),
        ([[0]], 1, (0, 0)),
        ([[0]], 1, (3, 1)),
        ([[LOWEST] * 5], 0, (HIGHEST - 16, HIGHEST)),
        ([[HIGHEST] * 5], 0, (LOWEST, LOWEST + 16)),
        ([[LOWEST]], 1, (HIGHEST - 16, HIGHEST)),
        ([[HIGHEST - 2]], 1, (HIGHEST - 16, HIGHEST)),
        ([[LOWEST]], 1, (LOWEST, LOWEST + 4)),
    ],
)
def test_rows_outside_of_the_table_are_refused(index, step, rows):
    x, table = data("float32", (2, 5, 3, 16), 8)
    table = np.ascontiguousarray(table[:, :, :16])
    out = np.full_like(x, 7)
    answer = launch(
        [(x, out)],
        np.resize(table, (2, 1, 16, 8)),
        np.array(index),
        step,
        0,
        (True, True),
        1.0,
        stream=False,
        rows=rows,
    )
    assert answer == kernels.BEYOND_TABLE
    assert (out == 7).all()


@pytest.mark.parametrize("kind", ["float32", "complex64"])
@pytest.mark.parametrize("row", [-1, 4, 2**62])
def test_a_table_without_a_needed_row_is_an_error(row, kind):
    """Otherwise the result would be uninitialized memory."""
    values = np.zeros((2, 1, 5, 4), np.float32)
    table = Table(values, np.array([[row]], np.int64), 1, 2)
    x = np.ones((2, 8), kind)
    with pytest.raises(AssertionError, match="no row"):
        cpu.rotate(x, table, Axes(0, None), Pairing(0, 4, "half", "half"))


@pytest.mark.parametrize("first", [LOWEST + 1, -20, 0, 7, HIGHEST - 12])
def test_rows_count_from_the_first_position_of_the_table(first):
    x, table = data("float32", (1, 5, 3, 16), 8)
    out = np.empty_like(x)
    index = np.array([[first + 7, first, first + 11, first + 3, first + 4]])
    rows = first, first + 12
    halves = True, True
    assert not launch([(x, out)], table, index, 0, 0, halves, 1.0, stream=False, rows=rows)
    same_bits(out, expected(x, table, index - first, 0, 0, True, True, 1.0, out))


def overlaps():
    """Return results that overlap other memory, or might, with the status of the kernel."""
    memory = np.zeros((4, 5, 3, 16), np.float32)
    a, b, c, d = (memory[i : i + 1] for i in range(4))
    backwards = memory[2:3, ::-1]
    yield [(a, b)], kernels.DONE
    yield [(a, a)], kernels.DONE
    yield [(a, a[:, :, ::-1])], kernels.OVERLAP
    yield [(memory[:3], memory[1:])], kernels.OVERLAP
    yield [(a, b), (c, d)], kernels.DONE
    yield [(a, a), (b, b)], kernels.DONE
    yield [(a, b), (b, a)], kernels.OVERLAP
    yield [(a, a), (a, a)], kernels.OVERLAP
    yield [(a, c), (b, c)], kernels.OVERLAP
    yield [(a, a), (a, b)], kernels.OVERLAP
    yield [(a, b), (c, backwards)], kernels.OVERLAP
    yield [(a, b), (backwards, d)], kernels.DONE
    yield [(a, backwards), (b, d)], kernels.DONE
    packed = np.zeros((1, 5, 3, 2, 16), np.float32)
    yield [(packed[..., 0, :], packed[..., 0, :]), (packed[..., 1, :],) * 2], kernels.OVERLAP


@pytest.mark.parametrize(("pairs", "answer"), list(overlaps()))
def test_results_that_may_overlap_are_not_written(pairs, answer):
    for x, _ in pairs:
        x[...] = np.random.default_rng(0).standard_normal(x.shape)
    before = [np.copy(each) for pair in pairs for each in pair]
    table = data("float32", (1, 5, 3, 16), 8)[1]
    place = table, np.array([[0]]), 1, 0, (True, True), 1.0
    assert launch(pairs, *place, stream=False, apart=False) == answer
    if answer:
        for each, old in zip((each for pair in pairs for each in pair), before, strict=True):
            np.testing.assert_array_equal(each, old)


@pytest.mark.parametrize(
    ("text", "size"),
    [("32768K\n", 32768 * 1024 // 3), ("4096K\n", 8 * 2**20), ("", 32 * 2**20), (None, 32 * 2**20)],
)
def test_streaming_starts_at_a_third_of_the_largest_cache(monkeypatch, tmp_path, text, size):
    if text is not None:
        (tmp_path / "size").write_text(text)
    monkeypatch.setattr(cpu, "LARGEST_CACHE", tmp_path / "size")
    assert cpu.streaming_size.__wrapped__() == size


def test_only_large_results_are_streamed(monkeypatch):
    import rotary
    from rotary.backends.cpu import plan

    asked = []
    compiled = jit.compiled
    monkeypatch.setattr(plan, "streaming_size", lambda: 2**20)
    monkeypatch.setattr(
        cpu, "compiled", lambda variant: asked.append(variant.name) or compiled(variant)
    )
    rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0, seq_axis=0)
    rope(np.zeros((3, 64), np.float32))  # makes its table
    asked.clear()
    large, small = np.zeros((2**17 // 64, 64), np.float32), np.zeros((2**16 // 64, 64), np.float32)
    for x, out in (large, None), (large, large), (small, None):
        rope(x, out=out)
    assert [name for name in asked if name.startswith("rotate")] == [
        "rotate_half_streaming",
        "rotate_half",
        "rotate_half",
    ]


# Bytes that the code of a dtype streams: both halves of rows of one line and more, as whole lines and in pieces. Rows
# of a line and a half are streamed in pieces as well if they are bfloat16.
STREAMED = {
    "float16": 2 * 64 * 2 * (1 + 2),
    "bfloat16": 2 * 64 * 2 * (1 + 2) + 2 * (64 + 32),
    "float32": 2 * 64 * 2 * (1 + 2 + 3 + 4),
    "float64": 2 * 64 * 2 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8),
}


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="reads x86 instructions")
@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("name", DTYPES)
def test_streaming_kernels_have_no_ordinary_stores(monkeypatch, name, layout):
    """An ordinary store among streaming stores takes ten times as long; LLVM merges stores of branches."""
    monkeypatch.setenv("ROTARY_CACHE", "0")
    kernel = jit._compile(jit.Variant("rotation", name, layout, streaming=True))
    stores = re.findall(r"\bv?movnt\w+\s+%([xyz])mm", kernel._library.get_asm_str())
    assert sum({"x": 16, "y": 32, "z": 64}[size] for size in stores) == STREAMED[name]
    kernel = jit._compile(jit.Variant("rotation", name, layout))
    assert "movnt" not in kernel._library.get_asm_str()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="names x86 processors")
@pytest.mark.parametrize(
    ("processor", "features"),
    [("haswell", "+avx2,+f16c,+fma,+avx"), ("generic", "")],
)
def test_other_processors_give_the_same_bits(tmp_path, processor, features):
    script = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[i]) for i in (0, 1)]!r}\n"
        "import test_kernels as t\n"
        "for name in ('float16', 'bfloat16', 'float32'):\n"
        "    t.test_all_numbers_of_pairs(name, True, True, 2)\n"
        "    t.test_arrays_may_have_any_alignment(name, False, 40)\n"
    )
    target = {
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=os.environ | target,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
