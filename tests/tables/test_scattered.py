"""Laws of the cache for any requests in any order: what it computes, keeps and returns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rotary
from rotary import backends
from rotary._lib import memo
from rotary.tables import scattered, windows
from rotary.tables.reader import Reader

LIMIT = 256 * 2**20
PAIRS = 16
ROW_BYTES = 2 * PAIRS * 4
ROPE = rotary.RotaryEmbedding(2 * PAIRS, layout="half", base=100.0)
FREQUENCIES = ROPE._frequencies
STEP = windows.space_of(FREQUENCIES, "float32").step
# The largest part that a call computes for distant positions.
MOST = scattered.MOST_STEPS * STEP

lengths = st.integers(1, 3 * STEP) | st.integers(1, 3)
places = st.one_of(
    st.integers(0, 4 * STEP),
    st.integers(-(10**6), 10**6),
    st.sampled_from([0, 10**9, 2**62, -(2**62), 2**63 - 1 - 4 * STEP, -(2**63)]),
)
consecutive = st.tuples(st.just("consecutive"), places, lengths)
batches = st.tuples(st.just("batch"), st.lists(places, min_size=1, max_size=12), st.integers(0, 5))
limits = st.tuples(st.just("limit"), st.sampled_from([0, 1, 40, STEP, 3 * STEP, 20 * STEP]))
requests = st.lists(consecutive | batches | st.tuples(st.just("again")), max_size=40)


class Counted:
    """Counts the rows that are computed inside its block."""

    def __enter__(self):
        self.rows = 0
        self._module, self._fill = backends.host(), backends.host().fill_table

        def fill(frequencies, positions, *rest):
            self.rows += positions.shape[1]
            self._fill(frequencies, positions, *rest)

        self._module.fill_table = fill
        return self

    def __exit__(self, *_):
        self._module.fill_table = self._fill


def exact(positions):
    """Return the table of positions, computed without the cache."""
    flat = np.asarray(positions, np.int64).reshape(1, -1)
    return windows.computed(FREQUENCIES, flat, 1.0, "float32")[:, 0]


@pytest.fixture(autouse=True)
def empty_cache():
    """Every test starts with an empty cache of the default size, and leaves one."""
    rotary.set_cache_limit(LIMIT)
    rotary.cache_clear()
    yield
    rotary.set_cache_limit(LIMIT)
    rotary.cache_clear()


def check_cache():
    """Check that the counts of the cache are right and within the limits."""
    info = rotary.cache_info()
    held = [part for kept in memo.TABLES.held.values() for part in kept.values()]
    assert (info.entries, info.nbytes) == (len(held), sum(part.nbytes for part in held))
    assert info.nbytes <= info.limit
    assert all(len(kept.held) <= windows.PARTS for kept in memo.TABLES.held.values())
    for part in held:
        assert part.nbytes <= part.values.nbytes
        if type(part) is windows.Window:
            assert list(part.record[:2]) == [part.start, part.stop]
            assert part.start < part.stop <= part.end == part.start + part.values.shape[2]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(consecutive | batches | limits, max_size=40))
def test_every_request_gets_the_right_rows_and_computes_few_others(asked):
    """After any earlier requests and with any limit; tables that were returned earlier do not change."""
    rotary.set_cache_limit(LIMIT)
    rotary.cache_clear()
    given_out = []
    for kind, *values in asked:
        if kind == "limit":
            rotary.set_cache_limit(values[0] * ROW_BYTES)
            continue
        if kind == "consecutive":
            start, length = values
            positions = start + np.arange(length)
        else:
            starts, steps = values
            positions = np.array(starts)[:, None] + np.arange(steps + 1)
            positions = positions[:, -1:] if steps % 2 else positions
        with Counted() as counted:
            table = np.stack(ROPE.tables(positions))
        count = positions.size
        assert counted.rows <= max(2 * count, MOST) + 2 * STEP
        np.testing.assert_array_equal(table.reshape(2, count, PAIRS), exact(positions))
        given_out.append((ROPE.tables(positions), table))
        check_cache()
    for held, copy in given_out:
        np.testing.assert_array_equal(np.stack(held), copy)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(places, min_size=1, max_size=20, unique=True),
    st.integers(1, 4),
    st.integers(1, 120),
)
def test_streams_compute_few_rows_more_than_they_read(starts, stride, steps):
    """Streams that are read together, in strides as in speculative decoding, near to each other or far apart."""
    rotary.cache_clear()
    # No stream exceeds the largest position.
    starts = np.array([min(start, 2**63 - 1 - stride * (steps + 1)) for start in starts])
    read = 0
    with Counted() as counted:
        for step in range(steps):
            positions = starts[:, None] + step * stride + np.arange(stride)
            ROPE.tables(positions)
            read += positions.size
    assert counted.rows <= 2 * scattered.ROWS_PER_READ * read + MOST + STEP * (1 + len(starts))
    assert rotary.cache_info().nbytes <= (2 * read + MOST + STEP) * ROW_BYTES * 2


@pytest.mark.parametrize("count", [1, 2, 5, 100, 5000])
@pytest.mark.parametrize("spread", [10, 10**4, 2**40])
def test_ranges_find_positions(count, spread):
    """Compared with a linear search."""
    rng = np.random.default_rng(count)
    for ahead in (1, 2, 17):
        found = np.unique(rng.integers(-spread, spread, count))
        ranges = scattered._ranges(found, ahead, 0)
        assert (ranges.starts[1:] > ranges.stops[:-1]).all()
        members = set(np.add.outer(found, np.arange(ahead)).ravel().tolist())
        assert sum((ranges.stops - ranges.starts).tolist()) == len(members)
        tried = np.concatenate([found, found - 1, found + ahead, rng.integers(-spread, spread, 50)])
        for place in tried[:200]:
            at = ranges.range_of(np.array([place]))
            assert (at is not None) == (int(place) in members)
            if at is not None:
                assert ranges.starts[at] <= place < ranges.stops[at]


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("length", [1, 3])
def test_a_reader_returns_rows_of_scattered_positions_or_none(bounded, length):
    rng = np.random.default_rng(0)
    reader = Reader(FREQUENCIES, 1.0, "float32")
    starts = rng.integers(0, 10**6, (9, 1))
    limit = int(starts.max()) + 30 if bounded else windows.LARGEST_POSITION
    for token in range(60):
        first = starts + token
        positions = first + np.arange(length)
        rows = reader.given(first, 1, length, limit)
        within = int(positions.max()) < limit
        if rows is None:
            ROPE.tables(positions)
            continue
        assert within
        values, index, start, stop, step = rows
        assert (start, stop, step) == (0, values.shape[2], 0)
        np.testing.assert_array_equal(values[:, 0, index.ravel()], exact(positions))
    assert reader.given(starts - 10**7, 1, length, limit) is None
    assert reader.given(np.full((9, 1), 2**63 - 1), 1, length, limit) is None


def test_a_record_has_the_range_of_valid_rows():
    """Compiled code notices that a window grows or is dropped, and its reads are counted."""
    reader = Reader(FREQUENCIES, 1.0, "float32")
    reader.counted(0, 1)
    window = reader.window()
    record, reference, spot = window.record, window.reference, window.values.ctypes.data
    assert list(record) == [0, 1, 0]
    reader.counted(1, 1)
    assert list(record) == [0, 1 + STEP, 0]
    assert reference() is window
    assert window.values.ctypes.data == spot
    before = rotary.cache_info().hits
    record[2] += 5
    assert rotary.cache_info().hits == before + 5
    assert list(record) == [0, 1 + STEP, 0]
    # A window that compiled code reads outlasts others.
    del window
    for start in range(10**6, 10**6 + 100 * STEP, 2 * STEP):
        record[2] += 1
        ROPE.tables(start)
    (parts,) = memo.TABLES.values()
    assert reference in [part.reference for part in parts.values()]
    del parts
    rotary.cache_clear()
    assert reference() is None


def test_a_window_without_memory_for_growth(monkeypatch):
    """The address space of a process may be limited."""
    make = windows.libraries.aligned

    def aligned(shape, dtype):
        if shape[2] > 600:
            raise MemoryError
        return make(shape, dtype)

    monkeypatch.setattr(windows.libraries, "aligned", aligned)
    for stop in (50, 60, 590):
        table = np.stack(ROPE.tables(np.arange(stop)))
        np.testing.assert_array_equal(table, exact(np.arange(stop)))
        check_cache()
    with pytest.raises(MemoryError):
        ROPE.tables(np.arange(601))
    check_cache()
