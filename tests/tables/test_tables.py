"""The shared cache of tables: sharing, counts, growth and eviction."""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import rotary
from rotary import backends
from rotary._lib import memo
from rotary.angles.phases import frequencies
from rotary.scaling import Custom
from rotary.tables import scattered, windows

UNIX = 1_700_000_000
DEFAULT = 256 * 2**20


@pytest.fixture(autouse=True)
def empty_cache():
    """Every test starts with an empty cache of the default size, and leaves one."""
    rotary.set_cache_limit(DEFAULT)
    rotary.cache_clear()
    yield
    rotary.set_cache_limit(DEFAULT)
    rotary.cache_clear()


def embedding(base=10_000.0, dim=64, *, seq_axis=-2, **arguments):
    return rotary.RotaryEmbedding(dim, layout="half", base=base, seq_axis=seq_axis, **arguments)


def custom(*values, factor=1.0):
    return rotary.RotaryEmbedding(
        2 * len(values), layout="half", scaling=Custom(values, attention_factor=factor)
    )


def address(array):
    return array.__array_interface__["data"][0]


def addresses(rope, positions, dtype="float32"):
    return [address(part) for part in rope.tables(positions, dtype)]


def exact(rope, positions, dtype="float32"):
    """The table of a specification, computed without the cache."""
    places = np.asarray(positions, np.int64)
    values = windows.computed(rope._frequencies, places[None], rope.attention_factor, dtype)
    return values[:, 0]


def table(rope, dtype="float32"):
    """Return a description of the size of table rows."""
    return rope._frequencies, dtype


def cached(rope, dtype="float32"):
    """Return the parts of a table in the cache, least recently used first."""
    parts = memo.TABLES.held.get((rope._frequencies.key, rope.attention_factor, dtype))
    return [] if parts is None else parts.values()


@pytest.fixture
def filled(monkeypatch):
    """Record the number of computed rows, once for each computation."""
    counts = []
    fill = backends.host().fill_table

    def count(frequencies, positions, *rest):
        counts.append(positions.shape[1])
        fill(frequencies, positions, *rest)

    monkeypatch.setattr(backends.host(), "fill_table", count)
    return counts


def accounts():
    """Return the actual number of cached parts of tables, and their bytes."""
    held = [part for kept in memo.TABLES.held.values() for part in kept.values()]
    return len(held), sum(part.nbytes for part in held)


def check_accounts():
    info = rotary.cache_info()
    assert (info.entries, info.nbytes) == accounts()
    assert info.nbytes <= info.limit
    return info


# ------------------------------------------------------------------------------------------------
# Sharing.


def test_equal_specifications_share_one_table():
    positions = np.arange(100)
    first = addresses(embedding(), positions)
    assert first[0] != first[1]
    assert addresses(embedding(), positions) == first
    assert addresses(pickle.loads(pickle.dumps(embedding())), positions) == first
    # Arguments that do not affect the angles do not affect sharing.
    others = [
        rotary.RotaryEmbedding(64, layout="interleaved", base=10_000.0),
        rotary.RotaryEmbedding(96, layout="half", base=10_000.0, rotary_dim=64, rotary_start=32),
        embedding(seq_axis=-3, context_length=77, output_layout="interleaved"),
        rotary.RotaryEmbedding(
            64, layout="half", scaling=Custom(rotary.inv_freq(64, base=10_000.0))
        ),
        rotary.RotaryEmbedding(
            64, layout="half", scaling=Custom(W=rotary.inv_freq(64, base=10_000.0)[None])
        ),
    ]
    for other in others[:4]:
        assert addresses(other, positions) == first
    assert addresses(others[4], positions[None]) == first
    function = rotary.cos_sin(positions, rotary.inv_freq(64, base=10_000.0))
    assert [address(part) for part in function] == first
    assert check_accounts()[:3] == (8, 1, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rotating_reads_the_same_table(dtype):
    rope = embedding(seq_axis=-2)
    x = np.ones((2, 3, 50, 64), dtype)
    rope(x, x[:, :1])  # query and key need one lookup
    assert check_accounts()[:3] == (0, 1, 1)
    rope.tables(np.arange(50), dtype)
    rope.inverse(x)
    rope.vjp(x, positions=np.arange(50))
    rope(x[0, 0], offset=0)
    assert check_accounts()[:3] == (4, 1, 1)


def test_16_bit_and_complex_arrays_read_the_tables_of_their_precision():
    rope = embedding()
    for dtype in (np.float16, np.float32):
        rope(np.ones((10, 64), dtype))
    rope(np.ones((10, 32), np.complex64))
    assert check_accounts()[:3] == (2, 1, 1)
    rope(np.ones((10, 64)))
    rope(np.ones((10, 32), np.complex128))
    assert check_accounts()[:3] == (3, 2, 2)


@pytest.mark.parametrize(
    "other",
    [
        embedding(500_000.0),
        embedding(np.nextafter(10_000.0, 2e4)),
        custom(2.0, 1.0),
        custom(1.5, 1.5),  # the sum of the frequencies is not the key
        custom(1.0, np.nextafter(2.0, 3.0)),
        custom(1.0, -2.0),
        custom(1.0, 2.0, factor=1.5),
        custom(3.0),
        custom(1.0, 2.0, 0.0),
    ],
    ids=lambda rope: f"{rope.scaling} {rope.base}",
)
def test_different_angles_never_share(other):
    positions = np.arange(40)
    ropes = [custom(1.0, 2.0), embedding(), other]
    found = [rope.tables(positions) for rope in ropes * 2]
    spots = {address(part) for table in found for part in table}
    assert len(spots) == 6
    for rope, table in zip(ropes * 2, found, strict=True):
        np.testing.assert_array_equal(table, exact(rope, positions))
    assert check_accounts().entries == 3


def test_dtypes_do_not_share():
    rope = embedding()
    singles, doubles = rope.tables(np.arange(9)), rope.tables(np.arange(9), "float64")
    assert singles[0].dtype == np.float32
    assert doubles[0].dtype == np.float64
    assert not np.shares_memory(singles[0], doubles[0])
    assert check_accounts().entries == 2


def test_heads_and_axes_do_not_share():
    values = np.arange(1.0, 7.0)
    for shape in ((6,), (1, 6), (2, 3), (3, 2), (2, 1, 3), (3, 1, 2)):
        arguments = {"inv_freq" if len(shape) == 1 else "W": values.reshape(shape)}
        rope = rotary.RotaryEmbedding(2 * shape[-1], layout="half", scaling=Custom(**arguments))
        axes = shape[-2] if len(shape) > 1 else None
        positions = np.arange(20) if axes is None else np.broadcast_to(np.arange(20), (axes, 20))
        table = rope.tables(positions, "float64")
        W = values.reshape((1,) * (3 - len(shape)) + shape)
        angles = (np.arange(20.0)[:, None, None] * W[:, None]).sum(-2)
        wanted = (1, len(W), 20, shape[-1]) if len(W) > 1 else (20, shape[-1])
        np.testing.assert_allclose(table[0], np.cos(angles).reshape(wanted), atol=1e-13)
    check_accounts()


def test_slices_of_a_window_are_views():
    rope = embedding()
    start = addresses(rope, np.arange(200))
    row = 32 * 4
    assert addresses(rope, np.arange(7, 90)) == [at + 7 * row for at in start]
    assert addresses(rope, np.array([50])) == [at + 50 * row for at in start]
    assert addresses(rope, 50) == [at + 50 * row for at in start]
    assert addresses(rope, [[3, 4], [5, 6]]) == [at + 3 * row for at in start]
    assert addresses(rope, range(3, 6)) == [at + 3 * row for at in start]
    assert addresses(rope, np.arange(7, 90).astype(np.uint16)) == [at + 7 * row for at in start]
    assert check_accounts()[:3] == (6, 1, 1)


def test_windows_start_on_a_cache_line():
    for n, dtype in ((1, "float32"), (33, "float64"), (1000, "float32")):
        assert addresses(embedding(dim=10), np.arange(n), dtype)[0] % 64 == 0


@pytest.mark.library("torch")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_tables_are_copies_and_the_kernels_read_the_cache(dtype):
    import torch

    rope = embedding()
    host = rope.tables(np.arange(100), dtype)
    kept = [part.copy() for part in host]
    given = rope.tables(torch.arange(100), dtype)
    given += rope.tables(torch.arange(7, 20, dtype=torch.int32), dtype)
    for part, want in zip(given, (*kept, *(part[7:20] for part in kept)), strict=True):
        assert part.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(part.numpy(), want)
        part.fill_(7.0)
    for part, want in zip(host, kept, strict=True):
        np.testing.assert_array_equal(part, want)
    x = torch.ones((100, 64), dtype=getattr(torch, dtype))
    rope(x)
    rope(x, positions=torch.arange(100))
    assert check_accounts()[:3] == (4, 1, 1)


@pytest.mark.library("jax")
def test_jax_tables_are_views_of_the_same_memory():
    import jax.numpy as jnp

    rope = embedding()
    host = rope.tables(np.arange(64))
    for part, other in zip(host, rope.tables(jnp.arange(64)), strict=True):
        assert other.dtype == jnp.float32
        assert other.unsafe_buffer_pointer() == address(part)
    assert check_accounts()[:3] == (1, 1, 1)


# ------------------------------------------------------------------------------------------------
# Counting.


def test_cache_info_is_a_named_tuple():
    info = rotary.cache_info()
    assert info == (0, 0, 0, 0, DEFAULT)
    assert info._fields == ("hits", "misses", "entries", "nbytes", "limit")


def test_hits_misses_entries_and_bytes():
    rope = embedding()
    rope.tables(np.arange(100))
    assert rotary.cache_info() == (0, 1, 1, 100 * 32 * 4 * 2, DEFAULT)
    rope.tables(np.arange(100))
    rope.tables(np.arange(50, 60))
    assert rotary.cache_info() == (2, 1, 1, 100 * 32 * 4 * 2, DEFAULT)
    rope.tables(np.arange(100), "float64")
    assert rotary.cache_info() == (2, 2, 2, 100 * 32 * 12 * 2, DEFAULT)
    rope.tables(UNIX + np.arange(100))
    info = check_accounts()
    assert (info.hits, info.misses, info.entries) == (2, 3, 3)


def test_tables_of_scattered_and_fractional_positions_are_not_cached():
    rope = embedding()
    for positions in ([0, 1000], [0.0, 1.0, 2.0], [[5, 700], [9, 10]], [2**62, -(2**62)], 0.5):
        rope.tables(positions)
    rope(np.ones((3, 64)), positions=[0.0, 0.5, 1.0])
    rope(np.ones((2, 3, 64)), offset=[0, 10**6])
    assert rotary.cache_info() == (0, 0, 0, 0, DEFAULT)


def test_decoders_of_several_sequences_soon_read_a_window(filled):
    """As soon as a window costs no more than the requested rows; from then on it grows with them."""
    rope = embedding()
    x = np.random.default_rng(0).standard_normal((4, 1, 64)).astype(np.float32)
    starts = np.array([0, 37, 150, 199])
    results = [rope(x, offset=starts + step) for step in range(40)]
    (window,) = [part for part in cached(rope) if type(part) is windows.Window]
    # Rows of batches, a window, and its growth.
    most = scattered.ROWS_PER_READ * 4 * 40
    assert sum(filled) <= 2 * most + windows.space_of(*table(rope)).step
    before = len(filled)
    for step in range(40, 140):
        rope(x, offset=starts + step)
    assert len(filled) <= before + 1
    assert window.covers(139, 199 + 140)
    for step, result in enumerate(results):
        rotary.cache_clear()
        np.testing.assert_array_equal(rope(x, offset=starts + step), result)
        assert rotary.cache_info().entries == 0


def test_repeated_positions_are_cached(filled):
    """The layers of a model request the same positions. These rows are cached, and no window of all positions."""
    rope = embedding()
    expected = exact(rope, [5, 10**6, -UNIX])
    filled.clear()
    for _ in range(20):
        np.testing.assert_array_equal(rope.tables([5, 10**6, -UNIX]), expected)
    assert filled == [3, 6]
    assert check_accounts()[:4] == (18, 1, 1, 6 * 2 * 32 * 4)


@pytest.mark.parametrize("said", ["offset", "positions"])
@pytest.mark.parametrize("rows", [2300, 4000])
def test_decoders_near_the_limit_do_not_make_a_table_for_every_token(filled, said, rows):
    rotary.set_cache_limit(4000 * 2 * 32 * 4)
    rope = embedding()
    rope.tables(np.arange(rows))
    filled.clear()
    x = np.ones((2, 1, 64), np.float32)
    for step in range(50):
        where = np.array([rows - 700, rows]) + step
        rope(x, **{said: where if said == "offset" else where[:, None]})
    assert sum(filled) <= scattered.ROWS_PER_READ * 2 * 50 + windows.space_of(*table(rope)).step
    assert len(filled) <= 7
    check_accounts()


def test_the_number_of_watched_tables_is_bounded(monkeypatch):
    monkeypatch.setattr(scattered.watched, "limit", 3)
    for head_dim in range(2, 40, 2):
        embedding(head_dim).tables([0, 1000])
        assert len(scattered.watched.held) <= 3


def test_the_watched_requests_of_a_table_are_bounded():
    rope = embedding(dim=2)
    rng = np.random.default_rng(0)
    for size in (2, 10, 1000, 2000, 5000) * 3:
        rope.tables(rng.integers(0, 2**60, size))
    (seen,) = scattered.watched.values()
    assert len(seen.batches) <= scattered.BATCHES_WATCHED
    assert all(each.starts.size <= scattered.PLACES_WATCHED for each in seen.batches)
    assert rotary.cache_info().entries == 0


def test_empty_requests_are_not_cached():
    rope = embedding()
    for part in rope.tables(np.zeros((0, 4), np.int64)):
        assert part.shape == (0, 4, 32)
    assert rope(np.ones((0, 64))).shape == (0, 64)
    assert rotary.cache_info() == (0, 0, 0, 0, DEFAULT)


def test_cache_clear_drops_tables_and_resets_counts():
    rope = embedding()
    before = [part.copy() for part in rope.tables(np.arange(10))]
    held = rope.tables(np.arange(10))
    rotary.cache_clear()
    assert rotary.cache_info() == (0, 0, 0, 0, DEFAULT)
    np.testing.assert_array_equal(held, before)
    again = rope.tables(np.arange(10))
    np.testing.assert_array_equal(again, before)
    assert not np.shares_memory(again[0], held[0])


# ------------------------------------------------------------------------------------------------
# Growing.


@pytest.mark.parametrize("first", [0, 10**9, -7000, -(2**63), 2**63 - 1 - 20_000])
def test_a_stream_of_tokens_computes_every_row_once(filled, first):
    """Nothing is copied, no call computes many rows, and old windows are dropped."""
    rope = embedding()
    step = windows.space_of(*table(rope)).step
    expected = exact(rope, first + np.arange(20_000))
    filled.clear()
    for place in range(20_000):
        cos, sin = rope.tables(first + place)
        if place % 97 == 0:
            np.testing.assert_array_equal(cos, expected[0, place])
            np.testing.assert_array_equal(sin, expected[1, place])
    info = check_accounts()
    assert sum(filled) <= 20_000 + step
    assert max(filled) <= step
    assert info.misses <= 20_000 / step + 2
    assert info.nbytes <= windows.PARTS * windows.STREAM_BYTES
    assert max(part.values.nbytes for part in cached(rope)) <= windows.STREAM_BYTES


@pytest.mark.parametrize("prompt", [100, 5000])
def test_a_stream_after_a_prompt_computes_no_row_twice(filled, prompt):
    rope = embedding()
    step = windows.space_of(*table(rope)).step
    rope.tables(np.arange(prompt))
    held = [part.copy() for part in rope.tables(np.arange(prompt))]
    spots = addresses(rope, np.arange(prompt))
    for place in range(prompt, 3 * prompt):
        np.testing.assert_array_equal(rope.tables(place), exact(rope, [place])[:, 0])
    assert addresses(rope, np.arange(prompt)) == spots
    np.testing.assert_array_equal(rope.tables(np.arange(prompt)), held)
    # `exact` computes one row each time.
    assert sum(filled) - 2 * prompt <= 3 * prompt + step


@pytest.mark.parametrize("spread", [4000, 10**6])
@pytest.mark.parametrize("batch", [2, 7, 40])
def test_batches_spread_far_compute_few_rows_more_than_they_read(filled, batch, spread):
    """No call computes many rows, although the positions are too far apart for a window."""
    rope = embedding()
    step = windows.space_of(*table(rope)).step
    starts = np.random.default_rng(batch).integers(-spread, spread, batch)
    x = np.ones((batch, 2, 1, 64), np.float32)
    steps = 400
    for token in range(steps):
        before = len(filled)
        got = rope(x, offset=starts + token)
        assert sum(filled[before:]) <= max(batch, scattered.MOST_STEPS * step)
        if token % 61 == 0:
            one = embedding()(x[-1:], offset=int(starts[-1]) + token)
            np.testing.assert_array_equal(got[-1:], one)
    info = check_accounts()
    most = scattered.ROWS_PER_READ * batch * steps
    assert sum(filled) <= most + 2 * scattered.MOST_STEPS * step
    assert info.nbytes <= 2 * scattered.MOST_STEPS * windows.STEP_BYTES


@pytest.mark.parametrize("groups", [2, 3])
def test_alternating_batches_keep_their_rows(filled, groups):
    rope = embedding()
    rng = np.random.default_rng(0)
    starts = [rng.integers(0, 10**6, 8) for _ in range(groups)]
    x = np.ones((8, 1, 64), np.float32)
    for token in range(200):
        for own in starts:
            rope(x, offset=own + token)
    assert len(filled) <= groups * 12
    assert check_accounts().entries <= groups + 1


def test_a_batch_that_changes_keeps_the_rows_of_the_others(filled):
    """Sequences leave, change positions and join."""
    rope = embedding()
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 10**6, 20)
    for token in range(100):
        rope(np.ones((20, 1, 64), np.float32), offset=starts + token)
    filled.clear()
    rows = scattered.MOST_STEPS * windows.space_of(*table(rope)).step
    results = []
    for token in range(100, 110):
        own = rng.permutation(starts)[: 20 - token % 7] + token
        if token == 105:
            own[3] = UNIX
        results.append((own, rope(np.ones((own.size, 1, 64), np.float32), offset=own)))
    assert sum(filled) <= 2 * rows + 20
    for own, got in results:
        for each, place in zip(got, own, strict=True):
            one = rope(np.ones((1, 64), np.float32), offset=int(place))
            np.testing.assert_array_equal(each, one)


def test_a_growing_prefix_is_rarely_computed_again(filled):
    rope = embedding()
    for length in range(1, 3000):
        rope.tables(np.arange(length))
    check_accounts()
    assert sum(filled) <= 4 * 3000
    np.testing.assert_array_equal(rope.tables(np.arange(2999)), exact(rope, np.arange(2999)))
    assert check_accounts().entries == 1


def test_a_range_that_grows_downwards_is_rarely_computed_again(filled):
    rope = embedding()
    for length in range(1, 2000):
        rope.tables(np.arange(-length, 1))
    info = check_accounts()
    assert info.misses < 9
    assert sum(filled) <= 4 * 2 * 2000
    np.testing.assert_array_equal(rope.tables(np.arange(-1999, 1)), exact(rope, range(-1999, 1)))


def test_a_stream_of_tokens_backwards_computes_every_row_once(filled):
    rope = embedding()
    step = windows.space_of(*table(rope)).step
    for place in range(5000, 0, -1):
        rope.tables(place)
    assert sum(filled) <= 5000 + step
    assert max(filled) <= step
    check_accounts()


def test_a_window_replaces_those_that_it_contains():
    rope = embedding()
    for start, stop in ((100, 200), (200, 230), (90, 100), (50, 600), (-10, 60)):
        table = rope.tables(np.arange(start, stop))
        np.testing.assert_array_equal(table, exact(rope, range(start, stop)))
        check_accounts()
    table = rope.tables(np.arange(-10, 600))
    np.testing.assert_array_equal(table, exact(rope, range(-10, 600)))
    found = [part for part in cached(rope) if part.covers(-10, 600)]
    assert len(found) == 1
    assert all(part.start < -10 or part.stop > 600 for part in cached(rope) if part is not found[0])


def test_a_first_window_has_only_the_requested_rows():
    embedding().tables(np.arange(1000, 1010))
    assert rotary.cache_info().nbytes == 10 * 32 * 4 * 2


def test_several_streams_at_distant_positions():
    rope = embedding()
    starts = [0, 10**6, UNIX, -(10**9), 2**62, 1000 * UNIX, -(2**63)]
    for step in range(600):
        for start in starts:
            cos, _ = rope.tables(start + step)
            if step % 53 == 0:
                np.testing.assert_array_equal(cos, exact(rope, [start + step])[0, 0])
    info = check_accounts()
    step = windows.space_of(*table(rope)).step
    assert info.misses <= len(starts) * (600 / step + 2)
    assert info.nbytes <= len(starts) * (600 + step) * 32 * 4 * 2


def test_tables_of_many_streams_are_bounded():
    """Many short windows do not accumulate, even if the limit in bytes is not reached."""
    rope = embedding()
    for start in range(0, 10**7, 10**4):
        rope.tables(start + np.arange(3))
    info = check_accounts()
    assert info.entries <= windows.PARTS
    assert info.nbytes <= windows.PARTS * 3 * 32 * 4 * 2


def test_a_window_that_is_read_outlasts_many_others():
    """A plan reads its window without the cache, which checks for reads before it drops a window."""
    rope = embedding()
    x = np.ones((50, 64), np.float32)
    rope(x)
    (kept,) = cached(rope)
    other = np.ones((1, 64), np.float32)
    for start in range(10**6, 2 * 10**6, 10**4):
        rope(x)
        rope(other, offset=start)
    assert kept in cached(rope)


@pytest.mark.parametrize("start", [UNIX, 1000 * UNIX, 10**9 * UNIX, -UNIX, 2**62, -(2**63)])
def test_memory_does_not_depend_on_the_size_of_positions(start):
    rope = embedding()
    x = np.ones((10, 64), np.float32)
    rope(x)
    tracemalloc.start()
    rope(x, offset=start)
    rope(x, positions=start + np.arange(10))
    rope(x, positions=[0, 1, start] + [5] * 7)
    rope.tables([0, start])
    rope.tables([start, 2**62])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000
    assert check_accounts().nbytes <= 50 * 32 * 4 * 2


@pytest.mark.parametrize("last", [2**63 - 1, 2**63 - 2])
def test_the_largest_positions(last):
    rope = embedding()
    for positions in ([last], [last - 2, last - 1, last], [last, last - 2, last - 1], last):
        table = rope.tables(positions, "float64")
        true = exact(rope, np.ravel(positions), "float64").reshape(2, *np.shape(positions), 32)
        np.testing.assert_array_equal(table, true)
    check_accounts()
    x = rope(np.ones((3, 64)), offset=last - 2)
    np.testing.assert_array_equal(
        x, rope(np.ones((3, 64)), positions=np.array([last - 2, last - 1, last]))
    )


def test_dense_positions_use_a_cached_window():
    """A shuffled or left-padded batch is dense, and uses the window instead of computing rows."""
    rope = embedding()
    positions = np.random.default_rng(1).permutation(400)
    table = rope.tables(positions)
    np.testing.assert_array_equal(table, exact(rope, positions))
    batch = np.maximum(np.arange(40) - np.array([[0], [7], [30]]), 0)
    np.testing.assert_array_equal(
        rope.tables(batch)[0], exact(rope, batch.ravel())[0].reshape(3, 40, 32)
    )
    info = check_accounts()
    assert info[:3] == (1, 1, 1)


# ------------------------------------------------------------------------------------------------
# Limits.


def test_least_recently_used_tables_are_dropped_first():
    size = 100 * 32 * 4 * 2
    ropes = [embedding(base) for base in (1e2, 1e3, 1e4, 1e5)]
    rotary.set_cache_limit(3 * size)
    for rope in ropes[:3]:
        rope.tables(np.arange(100))
    ropes[0].tables(np.arange(3))  # used again
    ropes[3].tables(np.arange(100))  # the second one is dropped
    info = check_accounts()
    assert (info.entries, info.nbytes) == (3, 3 * size)
    for i, hit in ((0, True), (2, True), (3, True), (1, False)):
        before = rotary.cache_info()
        ropes[i].tables(np.arange(3))
        after = rotary.cache_info()
        assert (after.hits - before.hits, after.misses - before.misses) == (hit, not hit)


def test_the_limit_holds_while_tables_grow():
    rope, other = embedding(), embedding(77.0)
    row = 32 * 4 * 2
    rotary.set_cache_limit(1000 * row)
    for stop in range(10, 2500, 7):
        start = max(0, stop - 400)
        for spec in (rope, other):
            table = spec.tables(np.arange(start, stop))
            np.testing.assert_array_equal(table, exact(spec, range(start, stop)))
            check_accounts()


def test_near_the_limit_a_window_grows_up_to_the_limit():
    rope = embedding()
    row_bytes = 32 * 4 * 2
    step = windows.space_of(*table(rope)).step
    rotary.set_cache_limit(1000 * row_bytes)
    rope.tables(np.arange(600))
    rope.tables(np.arange(600, 610))
    assert check_accounts()[1:4] == (2, 1, (600 + step) * row_bytes)
    rope.tables(np.arange(10, 1000))  # a single large request needs no room for growth
    assert check_accounts()[1:4] == (3, 1, 1000 * row_bytes)


@pytest.mark.parametrize("rows", [2300, 3000, 4000, 5000])
def test_a_stream_of_tokens_near_the_limit_computes_every_row_once(filled, rows):
    rotary.set_cache_limit(4000 * 2 * 32 * 4)
    rope = embedding()
    step = windows.space_of(*table(rope)).step
    rope.tables(np.arange(rows))
    filled.clear()
    tokens = 4000
    x = np.ones((1, 64), np.float32)
    results = {place: rope(x, offset=place) for place in range(rows, rows + tokens)}
    check_accounts()
    assert sum(filled) <= tokens + step
    for place in range(rows, rows + tokens, 500):
        rotary.cache_clear()
        np.testing.assert_array_equal(results[place], rope(x, offset=place))


def test_a_table_larger_than_the_limit_is_computed_each_time():
    rope = embedding()
    rotary.set_cache_limit(100 * 32 * 4 * 2)
    rope.tables(np.arange(60))
    for _ in range(2):
        table = rope.tables(np.arange(200))
        np.testing.assert_array_equal(table, exact(rope, range(200)))
        check_accounts()
    rope.tables(np.arange(60))
    assert rotary.cache_info()[:3] == (1, 3, 1)  # the small one is still cached


def test_a_lower_limit_drops_tables_at_once():
    ropes = [embedding(base) for base in (1e2, 1e3, 1e4)]
    held = [rope.tables(np.arange(100)) for rope in ropes]
    size = 100 * 32 * 4 * 2
    rotary.set_cache_limit(2 * size)
    assert check_accounts()[2:] == (2, 2 * size, 2 * size)
    rotary.set_cache_limit(2 * size - 1)
    assert check_accounts()[2:] == (1, size, 2 * size - 1)
    rotary.set_cache_limit(0)
    assert check_accounts()[2:] == (0, 0, 0)
    for rope, table in zip(ropes, held, strict=True):
        np.testing.assert_array_equal(table, exact(rope, range(100)))


def test_a_limit_of_zero_keeps_nothing():
    rotary.set_cache_limit(0)
    rope = embedding()
    x = np.random.default_rng(0).standard_normal((30, 64))
    first = rope(x, offset=5)
    np.testing.assert_array_equal(first, rope(x, offset=5))
    np.testing.assert_array_equal(rope.tables(np.arange(30)), exact(rope, range(30)))
    assert rotary.cache_info() == (0, 3, 0, 0, 0)
    rotary.set_cache_limit(DEFAULT)
    np.testing.assert_array_equal(first, rope(x, offset=5))
    assert rotary.cache_info().entries == 1


def test_tables_that_are_not_cached_are_freed():
    rotary.set_cache_limit(0)
    for base in range(2, 102):
        embedding(float(base)).tables(np.arange(3))
    assert len(memo.TABLES.held) == 0
    rotary.set_cache_limit(3 * 64)
    for base in range(2, 102):
        embedding(float(base)).tables(np.arange(3))
    assert len(memo.TABLES.held) == 0


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError), (True, TypeError)],
)
def test_limits_are_non_negative_integers(value, error):
    with pytest.raises(error, match=f"`nbytes` must .*{value}"):
        rotary.set_cache_limit(value)
    assert rotary.cache_info().limit == DEFAULT


def test_limits_of_any_integer_kind():
    rotary.set_cache_limit(np.int32(12_345))
    assert rotary.cache_info().limit == 12_345
    rotary.set_cache_limit(10**30)
    embedding().tables(np.arange(3))
    assert rotary.cache_info().limit == 10**30


# ------------------------------------------------------------------------------------------------
# Returned tables.


@pytest.mark.parametrize("positions", [np.arange(10), [0, 2**40], 0.5, 3, [[1.5, 2.5]]])
def test_returned_tables_are_read_only(positions):
    rope = embedding()
    for part in (
        *rope.tables(positions),
        *rope.tables(positions, "float64"),
        *rotary.cos_sin(positions, [1.0, 2.0]),
    ):
        assert not part.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            part[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            part.setflags(write=True)


def test_returned_tables_stay_valid_after_eviction():
    rope = embedding()
    held = rope.tables(np.arange(50))
    copies = [part.copy() for part in held]
    rotary.set_cache_limit(100 * 32 * 4 * 2)
    for base in range(2, 60):
        embedding(float(base)).tables(np.arange(100))
    rope.tables(np.arange(90))
    rotary.cache_clear()
    np.testing.assert_array_equal(held, copies)


def test_a_window_computes_few_rows_in_advance(filled):
    rope = embedding()
    step = windows.space_of(*table(rope)).step
    rope.tables(np.arange(40 * step))
    filled.clear()
    rope.tables(40 * step + step // 2)  # few rows are between
    rope.tables(60 * step)
    rope.tables(60 * step + 1)
    assert sum(filled) <= 3 * step
    assert check_accounts().entries == 2


def test_a_window_does_not_outgrow_the_cache():
    rope = embedding()
    rope.tables(np.arange(900))  # which has room for more rows than the limit then allows
    rotary.set_cache_limit(1000 * 32 * 4 * 2)
    rope.tables(np.arange(900, 1100))
    assert all(part.nbytes <= 1000 * 32 * 4 * 2 for part in cached(rope))
    hits = check_accounts().hits
    rope.tables(np.arange(900, 1100))
    assert check_accounts().hits == hits + 1


def test_growth_does_not_change_tables_in_use():
    rope = embedding()
    held = rope.tables(np.arange(50))
    copies = [part.copy() for part in held]
    rope.tables(np.arange(20, 90))  # in the same memory
    assert addresses(rope, np.arange(50)) == [address(part) for part in held]
    rope.tables(np.arange(-20, 5000))
    assert not np.shares_memory(held[0], rope.tables(np.arange(50))[0])
    np.testing.assert_array_equal(held, copies)


def test_results_that_are_not_shared_are_writeable():
    """The results of `sinusoidal` and of rotations belong to the user."""
    encoding = rotary.sinusoidal(np.arange(5), 8)
    encoding[...] = 0
    assert rotary.sinusoidal(np.arange(5), 8).any()
    rope = embedding()
    x = rope(np.ones((5, 64)))
    x[...] = 0
    assert rope(np.ones((5, 64))).all()


# ------------------------------------------------------------------------------------------------
# Threads.


@pytest.fixture
def restless():
    """Make threads switch often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_threads_may_read_grow_and_evict_concurrently(restless):
    ropes = [embedding(base, 16) for base in (1e1, 1e2, 1e3, 1e4)] + [custom(1.0, 2.0, factor=1.5)]
    starts = (0, UNIX, -500)
    truth = {
        (rope, dtype, start): exact(rope, start + np.arange(1500), dtype)
        for rope in ropes
        for dtype in ("float32", "float64")
        for start in starts
    }
    keys = list(truth)
    everyone = threading.Barrier(8)

    def work(seed):
        rng = np.random.default_rng(seed)
        everyone.wait()
        for _ in range(250):
            rope, dtype, start = keys[rng.integers(len(keys))]
            first = int(rng.integers(0, 1400))
            last = int(rng.integers(first + 1, min(first + 300, 1500) + 1))
            table = rope.tables(start + np.arange(first, last), dtype)
            expected = truth[rope, dtype, start][:, first:last]
            if not np.array_equal(table, expected):
                return f"wrong rows: {rope} {dtype} {start + first}"
            info = rotary.cache_info()
            if info.nbytes > info.limit:
                return f"over the limit: {info}"
            if rng.random() < 0.02:
                rotary.cache_clear()
            if rng.random() < 0.05:
                rotary.set_cache_limit(int(rng.integers(0, 200_000)))
            if rng.random() < 0.05:
                rotary.set_cache_limit(DEFAULT)
        return None

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {None}
    check_accounts()


def test_concurrent_threads_share_one_table(restless):
    rope = embedding()
    everyone = threading.Barrier(8)

    def work(_):
        everyone.wait()
        return tuple(addresses(rope, np.arange(3000)))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 1
    info = check_accounts()
    assert info.hits + info.misses == 8
    assert info.entries == 1


def test_threads_share_one_object_for_equal_frequencies(restless):
    values = np.random.default_rng(4).random((1, 1, 64))
    everyone = threading.Barrier(8)

    def work(_):
        everyone.wait()
        return frequencies(values).key

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 1


@pytest.mark.arithmetic
def test_returned_tables_of_all_libraries_do_not_alias_the_cache(xp):
    """If a library can write to a returned table, the table is a copy."""
    rope = embedding()
    x = np.ones((10, 64), np.float32)
    before = rope(x)
    positions = xp.asarray(np.arange(10))
    given = [*rope.tables(positions), *rotary.cos_sin(positions, rope.inv_freq)]
    for part in given:
        with contextlib.suppress(TypeError, ValueError):
            part[...] = 7.0
        seen = xp.to_numpy(part)
        if seen.flags.writeable:
            seen[...] = 9.0
    np.testing.assert_array_equal(rope(x), before)
    for part, kept in zip(rope.tables(np.arange(10)), given[2:], strict=False):
        assert (
            not np.shares_memory(part, xp.to_numpy(kept)) or not xp.to_numpy(kept).flags.writeable
        )
