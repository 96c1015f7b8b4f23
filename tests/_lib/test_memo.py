"""Bounded caches: the values that they keep and drop, their counts, and the call that empties all of them."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import rotary
from rotary._lib import memo

MIB = 2**20


@pytest.fixture(autouse=True)
def nothing_kept():
    """Start and end with the default limit and empty caches, and remove caches that a test registered."""
    registered = list(memo._PLANS), list(memo._CLEAR)
    rotary.cache_clear()
    yield
    memo._PLANS[:], memo._CLEAR[:] = registered
    rotary.set_cache_limit(memo.DEFAULT_TABLE_LIMIT)
    rotary.cache_clear()


# ------------------------------------------------------------------------------------------------
# One cache.


def test_what_was_used_least_recently_goes_first():
    own = memo.Memo(3)
    for key in "abc":
        own.keep(key, key.upper())
    assert own.get("a") == "A"
    assert own.get("z") is None
    own.touch("z")
    own.keep("d", "D")
    assert own.values() == ["C", "A", "D"]
    own.keep("c", "C2")
    own.keep("e", "E")
    assert own.values() == ["D", "C2", "E"]
    own.clear()
    assert own.values() == []


def test_what_is_kept_first_stays():
    own = memo.Memo(2)
    assert own.first("a", "A") == "A"
    assert own.first("a", "B") == "A"
    assert own.values() == ["A"]


def test_a_limit_on_sizes():
    own = memo.Memo(10, size=len)
    own.keep(1, "xxxx")
    own.keep(2, "xxxx")
    own.keep(3, "xx")
    assert own.values() == ["xxxx", "xxxx", "xx"]
    own.keep(4, "x")
    assert own.values() == ["xxxx", "xx", "x"]
    own.keep(5, "x" * 11)  # what never fits displaces what is older, and itself
    assert own.values() == []
    own.limit = 2
    own.keep(6, "xx")
    assert own.values() == ["xx"]


def test_an_entry_may_be_thinned_and_is_put_off_once():
    asked = []

    def shrink(value, force):
        asked.append((value[0], force))
        if value[0] != "a" or force:
            value.pop()
        return len(value) > 1

    own = memo.Memo(6, size=len, shrink=shrink)
    own.keep(1, ["a", 1, 2])
    own.keep(2, ["b", 1, 2])
    own.keep(3, ["c", 1])
    assert asked == [("a", False), ("b", False), ("b", False)]
    assert own.values() == [["c", 1], ["a", 1, 2]]
    own.limit = 1
    assert own.trim() == []
    assert ("a", True) in asked


def test_threads_share_a_bounded_cache():
    own = memo.Memo(50, size=lambda value: value)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work(seed):
        rng = np.random.default_rng(seed)
        for key in rng.integers(0, 30, 3000).tolist():
            value = own.get(key)
            assert value in (None, key % 7)
            own.keep(key, key % 7)
            assert own.first(key, key % 7) == key % 7
            assert sum(own.trim()) <= 50
            if key == 0:
                own.clear()

    try:
        others = [threading.Thread(target=work, args=(s,)) for s in range(4)]
        for other in others:
            other.start()
        for other in others:
            other.join()
    finally:
        sys.setswitchinterval(before)
    assert sum(own.trim()) <= 50


def test_a_full_cache_does_not_list_its_entries(monkeypatch):
    """Otherwise, keys in rotation that exceed the limit would take quadratic time."""
    own = memo.Memo(1000)
    monkeypatch.setattr(memo.Memo, "values", None)
    for key in range(3000):
        own.keep(key, key)
    assert list(own.held) == list(range(2000, 3000))
    assert own.get(2000) == 2000
    own.keep(3000, 3000)
    assert own.get(2001) is None


def test_uses_are_counted_until_the_cache_is_cleared():
    own = memo.Memo(2)
    own.keep("a", "A")
    assert [own.get(key) for key in "abaa"] == ["A", None, "A", "A"]
    assert (own.hits, own.misses) == (3, 1)
    assert own.pop("a") == "A"
    assert own.pop("a") is None
    own.clear()
    assert (own.hits, own.misses) == (0, 0)


# ------------------------------------------------------------------------------------------------
# All caches of the process.


class Tables:
    """Tables as a GPU may keep them: only their sizes are known here."""

    def __init__(self, *sizes):
        self.own = list(sizes)

    def sizes(self):
        return self.own

    def shrink(self, force):
        assert isinstance(force, bool)
        self.own = self.own[1:]
        return bool(self.own)


def test_tables_of_all_backends_share_one_limit():
    rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0)
    rotary.set_cache_limit(4 * MIB)
    memo.TABLES.keep("on a GPU", Tables(MIB, MIB))
    rope.tables(np.arange(4096))  # another MiB
    info = rotary.cache_info()
    assert (info.entries, info.nbytes, info.limit) == (3, 3 * MIB, 4 * MIB)
    rope.tables(np.arange(100), "float64")
    memo.TABLES.keep("on another", Tables(2 * MIB))
    info = rotary.cache_info()
    assert "on a GPU" not in memo.TABLES.held  # it was used least recently
    assert info.nbytes == 3 * MIB + 100 * 64 * 8
    rotary.set_cache_limit(3 * MIB)
    assert rotary.cache_info().nbytes == 2 * MIB + 100 * 64 * 8
    rotary.set_cache_limit(0)
    assert rotary.cache_info()[2:] == (0, 0, 0)


def test_tables_of_a_gpu_may_evict_those_of_the_host():
    rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0)
    rotary.set_cache_limit(2 * MIB)
    rope.tables(np.arange(4096))
    memo.TABLES.keep("on a GPU", Tables(2 * MIB))
    assert rotary.cache_info()[2:4] == (1, 2 * MIB)
    rope.tables(np.arange(4096))
    assert rotary.cache_info()[2:4] == (1, MIB)


def test_one_call_empties_every_cache():
    calls = []

    @memo.remembered(2)
    def squared(number):
        calls.append(number)
        return number**2

    plans, others = memo.plans(3), memo.registered(4)
    before = rotary.cache_info().plans
    plans.keep("a", 1)
    others.keep("b", 2)
    memo.TABLES.keep("c", Tables(MIB))
    assert [squared(n) for n in (3, 3, 4, 3, 5, 4)] == [9, 9, 16, 9, 25, 16]
    assert calls == [3, 4, 5, 4]
    assert plans.get("a") == 1
    assert plans.get("b") is None
    after = rotary.cache_info().plans
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 0]
    rotary.cache_clear()
    assert not plans.held
    assert not others.held
    assert not memo.TABLES.held
    assert squared(5) == 25
    assert calls == [3, 4, 5, 4, 5]
    info = rotary.cache_info()
    assert info == (0, 0, 0, 0, memo.DEFAULT_TABLE_LIMIT)
    assert info.plans == (0, 0, 0, after.limit)


def test_the_counts_of_plans_are_a_named_tuple():
    plans = rotary.cache_info().plans
    assert plans._fields == ("hits", "misses", "entries", "limit")


def test_many_shapes_in_rotation_find_their_plans():
    """A cache that is emptied when it is full, or is bounded by a few hundred, would have no hits."""
    rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
    arrays = [np.ones((length, 8), np.float32) for length in range(1, 1001)]
    for x in arrays:
        rope(x)
    before = rotary.cache_info().plans
    assert before.entries == 1000
    for x in arrays:
        rope(x)
    after = rotary.cache_info().plans
    assert (after.hits, after.misses) == (before.hits + 1000, before.misses)
