"""Repeated calls: the same bits and the same errors as the first call, whatever has changed in between."""

from __future__ import annotations

import gc
import pickle
import threading

import ml_dtypes
import numpy as np
import pytest

import rotary
from rotary.backends.cpu.plan import HostPlan
from rotary.call import plans
from rotary.tables import windows

pytestmark = pytest.mark.compiled

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
HEAD_DIM = 32
BATCH, LENGTH = 2, 3
MROPE = rotary.sections.chunked(4, 6, 6)


def embedding(**options):
    given = {"layout": "half", "base": 100.0, "seq_axis": -2} | options
    return rotary.RotaryEmbedding(HEAD_DIM, **given)


def arrays(dtype=np.float32, *, batch=BATCH, length=LENGTH, heads=(4, 2), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, n, length, HEAD_DIM)).astype(dtype) for n in heads]


def bits(result):
    results = result if isinstance(result, tuple) else (result,)
    return [np.ascontiguousarray(each).view(np.uint8) for each in results]


def same(got, wanted):
    for one, other in zip(bits(got), bits(wanted), strict=True):
        np.testing.assert_array_equal(one, other)


def unplanned(rope):
    """Return an equal embedding without plans, because equal embeddings share them."""
    plans._plans.clear()
    return pickle.loads(pickle.dumps(rope))


def refuse(*_, **__):
    pytest.fail("the call was looked at")


@pytest.fixture
def planned(monkeypatch):
    """Return a function that makes a call, then makes it again and fails unless it has a plan."""

    def call(rope, *given, method="__call__", **options):
        getattr(rope, method)(*given, **options)
        with monkeypatch.context() as patch:
            patch.setattr(plans, "_plan_of", refuse)
            patch.setattr(HostPlan, "__call__", refuse)
            return getattr(rope, method)(*given, **options)

    return call


# ------------------------------------------------------------------------------------------------
# Calls with a plan.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["__call__", "inverse", "vjp"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "interleaved"},
        {"output_layout": "interleaved"},
        {"rotary_dim": 10, "rotary_start": 4},
        {"scaling": rotary.scaling.Yarn(factor=4, original_max_position=64)},
        {"sections": MROPE},
        {"scaling": rotary.scaling.Custom(W=np.ones((4, 1, 16))), "base": None},
    ],
)
def test_repeated_calls_have_the_bits_of_the_first_call(planned, dtype, method, options):
    rope = embedding(**options)
    heads = (4, 4) if rope.inv_freq.ndim == 3 else (4, 2)
    given = arrays(dtype, heads=heads)
    same(
        planned(rope, *given, offset=5, method=method),
        getattr(unplanned(rope), method)(*given, offset=5),
    )
    x = given[0]
    same(planned(rope, x, offset=5, method=method), getattr(unplanned(rope), method)(x, offset=5))


POSITIONS = [
    {},
    {"offset": 7},
    {"offset": -4},
    {"offset": np.int32(7)},
    {"offset": np.array([7])},
    {"offset": np.array([7, 1])},
    {"positions": np.array([7, 1, 7])},
    {"positions": np.array([[7, 1, 7]])},
    {"positions": np.array([[7, 1, 7], [2, 3, 4]])},
    {"positions": np.array([[7, 1, 7], [2, 3, 4]], order="F")},
]


@pytest.mark.parametrize("where", POSITIONS, ids=str)
def test_positions_of_every_shape(planned, fresh_cache, where):
    rope = embedding()
    rope.tables(np.arange(-9, 9))
    given = arrays()
    same(planned(rope, *given, **where), unplanned(rope)(*given, **where))


@pytest.mark.parametrize("where", POSITIONS, ids=str)
def test_results_are_written_to_outputs(planned, fresh_cache, where):
    rope = embedding()
    rope.tables(np.arange(-9, 9))
    q, k = arrays()
    wanted = unplanned(rope)(q, k, **where)
    out = np.empty((3, *q.shape), q.dtype)[1], np.empty((*k.shape[:3], 64), k.dtype)[..., 8:40]
    got = planned(rope, q, k, out=out, **where)
    assert all(one is other for one, other in zip(got, out, strict=True))
    same(got, wanted)
    assert rope(q, k, out=[q, k], **where)[0] is q
    same((q, k), wanted)
    q, k = arrays()
    rope(q.copy(), k.copy(), out=(q.copy(), k.copy()), **where)
    assert planned(rope, q * 0, out=q, **where) is q
    assert not q.any()


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (2, 0, 1, 3), (1, 0, 2, 3)])
def test_arrays_are_read_without_copies(planned, order):
    rope = embedding(seq_axis=1)
    given = [x.transpose(order).copy().transpose(np.argsort(order))[:, ::-1, ::2] for x in arrays()]
    given = [x.swapaxes(1, 2) for x in given]
    got = planned(rope, *given, offset=5)
    same(got, unplanned(rope)(*given, offset=5))
    first = unplanned(rope)(*given, offset=5)
    assert [x.strides for x in got] == [x.strides for x in first]


def stored(x, order):
    """Return an equal array whose axes have another order in memory."""
    return x.transpose(order).copy().transpose(np.argsort(order))


ORDERS = [(0, 1, 2, 3), (0, 2, 1, 3), (2, 1, 0, 3), (1, 0, 2, 3)]


def test_arrays_with_other_strides_have_other_plans():
    rope = embedding()
    x = arrays(length=5)[0]
    wanted = unplanned(rope)(x, offset=3)
    for _ in range(2):
        for order in ORDERS:
            same(rope(stored(x, order), offset=3), wanted)
        for order in ORDERS:
            out = np.zeros_like(stored(x, order))
            rope(x, offset=3, out=out)
            same(out, wanted)
    for part in (x[:, :, :2], x[:, :3], x[:1], x):  # with equal strides
        same(rope(part, offset=3), unplanned(rope)(part, offset=3))
        whole = np.zeros_like(x)
        out = whole[: part.shape[0], : part.shape[1], : part.shape[2]]
        same(rope(part, offset=3, out=out), unplanned(rope)(part, offset=3))
        with pytest.raises(ValueError, match="shape"):
            rope(part, offset=3, out=whole[:, :, :4])
    with pytest.raises(TypeError, match="dtype"):
        rope(x.view(np.int32), offset=3)
    with pytest.raises(TypeError, match="dtype"):
        rope(x, offset=3, out=np.zeros(x.shape, np.int32))


def test_values_that_change_between_calls_are_read_again(planned):
    rope = embedding()
    q, k = arrays()
    for offset in (0, 1, 900, -900, 3, 10**12, 2**62, -(2**62)):
        other = arrays(seed=offset % 7)
        expected = unplanned(rope)(*other, offset=offset)
        same(rope(*other, offset=offset), expected)
    assert len(plans._plans.held) == 1
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    planned(rope, q, k, positions=rows)
    rows += 1
    same(rope(q, k, positions=rows), unplanned(rope)(q, k, positions=rows))


def test_results_for_broadcast_arrays_do_not_overlap(planned):
    rope = embedding()
    x = np.broadcast_to(arrays()[0][:1, :, :1], (3, 4, 5, HEAD_DIM))
    for offset in (None, 5):
        got = planned(rope, x, offset=offset)
        same(got, unplanned(rope)(np.array(x), offset=offset))
        assert got.strides[-1] == got.itemsize
        assert got.flags.writeable


@pytest.mark.parametrize("second", [{"seq_axis": -3}, {"seq_axis": 1}, {"seq_axis": 2}])
def test_calls_with_different_options_share_no_plan(second):
    rope = embedding()
    x = np.random.default_rng(0).standard_normal((2, 4, 4, HEAD_DIM))
    for options in ({}, second, {}, second):
        same(rope(x, **options), unplanned(rope)(x, **options))
    for method in ("inverse", "vjp", "__call__"):
        same(getattr(rope, method)(x, offset=2), getattr(unplanned(rope), method)(x, offset=2))


# ------------------------------------------------------------------------------------------------
# Errors.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"offset": 2**63 - 2}, ValueError, "offset"),
        ({"offset": -(2**63) - 1}, ValueError, "offset"),
        ({"offset": 2**64}, ValueError, "offset"),
        ({"offset": np.array([1, 2, 3])}, ValueError, "offset"),
        ({"offset": np.array([1, 2**63 - 1])}, ValueError, "offset"),
        ({"offset": True}, TypeError, "offset"),
        ({"positions": np.arange(4)}, ValueError, "positions"),
        ({"positions": np.arange(3), "offset": 1}, ValueError, "offset"),
        ({"positions": np.ones((3, 3), int)}, ValueError, "positions"),
        ({"seq_axis": True}, TypeError, "seq_axis"),
        ({"seq_axis": -1}, ValueError, "seq_axis"),
        ({"seq_axis": [1]}, TypeError, "seq_axis"),
        ({"role": "query"}, TypeError, "role"),
        ({"out": ()}, ValueError, "out"),
        ({"out": np.empty(3)}, ValueError, "out"),
        ({"out": ("q", "k")}, TypeError, "out"),
    ],
)
def test_repeated_calls_refuse_bad_arguments(options, error, message):
    rope = embedding(seq_axis=1)
    given = [x.swapaxes(1, 2) for x in arrays()]
    rope(*given)
    rope(*given, out=tuple(x.copy() for x in given))
    with pytest.raises(error, match=message):
        rope(*given, **options)


def test_a_call_with_an_output_and_one_with_two_arrays_share_no_plan():
    rope = embedding()
    (x,) = arrays(heads=(4,))
    want = rope(x)
    rope(x, out=np.empty_like(x))
    same(rope(x, x), (want, want))


def test_outputs_must_be_writeable_and_must_not_overlap():
    rope = embedding()
    q, k = arrays()
    q0 = q.copy()
    outs = [np.empty_like(q), np.empty_like(k)]
    rope(q, k, out=outs)
    outs[1].flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        rope(q, k, out=outs)
    memory = np.zeros(2 * q.size, np.float32)
    x, near = memory[: q.size].reshape(q.shape), memory[4 : 4 + q.size].reshape(q.shape)
    rope(x, out=memory[q.size :].reshape(q.shape))
    with pytest.raises(ValueError, match="overlap"):
        rope(x, out=near)
    rope(q, q.copy(), out=(np.empty_like(q), np.empty_like(q)))
    one = np.empty_like(q)
    with pytest.raises(ValueError, match="overlap"):
        rope(q, q.copy(), out=(one, one))
    with pytest.raises(ValueError, match="overlap"):
        rope(q, q, out=(q, q))
    np.testing.assert_array_equal(q, q0)


def test_outputs_may_interleave_with_inputs():
    packed = np.random.default_rng(0).standard_normal((1, 5, 3, 4, HEAD_DIM)).astype(np.float32)
    rope = embedding(seq_axis=1)
    for offset in (0, 3):
        q, k = packed[:, :, 0], packed[:, :, 1]
        wanted = unplanned(rope)(q, k, offset=offset)
        rope(q, k, offset=offset, out=(q, k))
        same((q, k), wanted)


def test_the_context_limit_holds_although_the_table_is_longer():
    scaling = rotary.scaling.DynamicNTK(factor=2, max_position=16)
    rope = embedding(scaling=scaling, context_length=16)
    q, k = arrays()
    for offset in (0, 3, 13):
        rope(q, k, offset=offset)
    for options in (
        {"offset": 14},
        {"offset": np.array([0, 14])},
        {"positions": np.array([0, 16, 1])},
    ):
        with pytest.raises(ValueError, match="context_length"):
            rope(q, k, **options)


class Marked(np.ndarray):
    """A subclass of ndarray."""


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.view(Marked),
        lambda x: x.astype(">f4"),
        lambda x: x[..., ::-1],
        np.asfortranarray,
        lambda x: (x[..., ::2] + 1j * x[..., 1::2]).astype(np.complex64),
        lambda x: x[None].repeat(2, 0),
        lambda x: x[:0],
        lambda x: x[:, :, :0],
        lambda x: x[0],
        lambda x: x[0, 0],
    ],
)
def test_repeated_calls_on_other_kinds_of_arrays(change):
    rope = embedding()
    rope(*arrays())
    x = change(arrays()[0])
    first = rope(x, offset=5)
    again = rope(x, offset=5)
    same(first, again)
    same(first, unplanned(rope)(x, offset=5))
    assert type(again) is type(first)


def test_arrays_of_two_dtypes_and_three_arrays():
    rope = embedding()
    q, k = arrays()
    for given in ((q, k.astype(np.float64)), (q, k, q), (q.astype(np.float16), k)):
        same(rope(*given, offset=2), rope(*given, offset=2))
        same(rope(*given, offset=2), unplanned(rope)(*given, offset=2))


# ------------------------------------------------------------------------------------------------
# References of a plan.


def test_plans_keep_references_to_neither_tables_nor_arrays(fresh_cache):
    plans._plans.clear()
    rope = embedding()
    given = arrays(length=64)
    rope(*given)
    rope(*given)
    (plan,) = plans._plans.values()
    window = plan._table_reader.window
    assert window() is not None
    rotary.cache_clear()
    assert window() is None
    same(rope(*given), unplanned(rope)(*given))
    before = gc.get_referrers(given[0])
    assert not any(plan is each for each in before)


def test_repeated_calls_count_as_hits_and_keep_their_table(fresh_cache):
    rope = embedding()
    given = arrays(length=64)
    for _ in range(5):
        rope(*given)
    assert rotary.cache_info()[:3] == (4, 1, 1)
    size = rotary.cache_info().nbytes
    rotary.set_cache_limit(2 * size)
    for base in range(200, 210):
        rope(*given)  # without the cache, which would drop tables that are not used
        embedding(base=float(base)).tables(np.arange(64))
    assert rotary.cache_info()[:3] == (14, 11, 2)


def test_the_number_of_cached_plans_is_bounded(monkeypatch):
    monkeypatch.setattr(plans._plans, "limit", 100)
    rope = embedding()
    for length in range(1, 200):
        rope(np.zeros((1, 1, length, HEAD_DIM), np.float32))
    assert 0 < len(plans._plans.held) <= 100


def test_large_arrays_are_rotated_in_parallel_and_streamed(planned):
    rope = embedding()
    q, k = arrays(batch=4, length=4096, heads=(32, 8))
    out = np.empty_like(q), np.empty_like(k)
    same(planned(rope, q, k, out=out), unplanned(rope)(q, k))
    with rotary.threads(1):
        same(planned(rope, q, k), out)


def test_threads_share_plans(fresh_cache):
    rope = embedding()
    given = arrays(length=40)
    wanted = {offset: unplanned(rope)(*given, offset=offset) for offset in range(0, 4000, 97)}
    wrong = []

    def work():
        for offset, expected in wanted.items():
            got = rope(*given, offset=offset)
            if any(not np.array_equal(*pair) for pair in zip(got, expected, strict=True)):
                wrong.append(offset)
            if offset % 3 == 0:
                rotary.cache_clear()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_cached_window_is_found_among_many(fresh_cache):
    rope = embedding()
    q, k = arrays()
    positions = [10**6 * n for n in range(windows.PARTS + 4)]
    for _ in range(3):
        for offset in positions:
            same(rope(q, k, offset=offset), unplanned(rope)(q, k, offset=offset))
            rows = np.array([offset, offset + 1])
            same(rope(q, k, offset=rows), unplanned(rope)(q, k, offset=rows))


@pytest.mark.parametrize(
    "places",
    [[0, 2, 1, 3], [0, 1, 1, 3], [0, 0, 3, 3], [5, 7, 6, 8], [0, 1, 3, 2, 4], [3, 2, 1, 0]],
)
def test_positions_are_consecutive_only_if_all_steps_are_one(places):
    """First and last positions at the right distance are not enough, in the first call and with a plan."""
    rope = rotary.RotaryEmbedding(8, layout="half", base=100.0, seq_axis=-2)
    x = np.ones((1, 1, len(places), 8), np.float32)
    want = np.concatenate([rope(x[:, :, :1], offset=place) for place in places], axis=2)
    lengthened = rope.tables(range(20))
    for _ in range(3):
        for positions in (places, np.array(places), np.array([places])):
            same(rope(x, positions=positions), want)
            for part, whole in zip(rope.tables(positions), lengthened, strict=True):
                same(part.reshape(-1, 4), whole[places])
