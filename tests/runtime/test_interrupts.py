"""Ctrl-C, signal handlers, other threads and forks at every instruction of the library.

A tracing function takes the place of the signal, and interrupts after each instruction in turn. The interruption must
leave caches, pool and locks usable. In the meantime, a handler, a thread or a child process may use them.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import rotary
from rotary import backends
from rotary._lib import memo
from rotary.runtime import pool
from rotary.runtime import threads as _threads
from rotary.tables import lookup as tables
from rotary.tables import reader, scattered, windows

host = importlib.import_module("rotary.backends.cpu.host")

MIB = 2**20
FOLDERS = tuple(str(Path(module.__file__).parent) + os.sep for module in (rotary, backends))
PATIENCE = 60


@pytest.fixture(autouse=True)
def own_limits(monkeypatch):
    """Small limits, so that something is dropped, and the usual limits and tracer afterwards."""
    before = pool.info().limit
    tracer = sys.gettrace()  # of coverage, which would otherwise stop measuring
    monkeypatch.setattr(windows, "PARTS", 2)
    rotary.cache_clear()
    yield
    rotary.set_cache_limit(memo.DEFAULT_TABLE_LIMIT)
    rotary.set_pool_limit(before)
    rotary.cache_clear()
    sys.settrace(tracer)


class Moment:
    """Runs an action at the n-th instruction in the files of the library, or in some of them."""

    def __init__(self, at, action, files=FOLDERS):
        self.left, self.action, self.files = at, action, files

    def __enter__(self):
        # Python 3.12 needs a frame that requests events when tracing begins.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self.called)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def called(self, frame, _event, _arg):
        if not frame.f_code.co_filename.startswith(self.files):
            return None
        frame.f_trace_opcodes = True
        return self.stepped

    def stepped(self, _frame, event, _arg):
        if event == "opcode":
            self.left -= 1
            if not self.left:
                self.action()
        return self.stepped


def interrupt():
    sys.settrace(None)
    raise KeyboardInterrupt


def at_every_instruction(
    work, action, *, prepare=lambda: None, check=lambda: None, step=1, **which
):
    """Run work repeatedly, each time with an action one instruction later; return the number of actions."""
    at = 1
    while True:
        prepare()
        with Moment(at, action, **which) as moment:
            try:
                next(in_generator(work))
            except KeyboardInterrupt:
                assert action is interrupt
        check()
        if moment.left > 0:
            return at // step
        at += step


def in_generator(work):
    """Run work in a generator, so that exceptions that are being handled end with it.

    Between two instructions of an `except` clause, where Python handles no signal, an exception may be left behind.
    """
    yield work()


def in_a_thread(work):
    """Run work in a thread, which must end; its exceptions are raised here."""
    errors = []

    def run():
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (raised again below)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for ever"
    if errors:
        raise errors[0]


def in_a_child(work):
    """Run work in a forked child, which must succeed."""
    with ignoring_threads():
        child = os.fork()
    if not child:
        code = 1
        try:
            import signal

            sys.settrace(None)
            signal.alarm(PATIENCE)
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@contextmanager
def ignoring_threads():
    """From 3.12 on, Python warns of a fork if there are several threads."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


# ------------------------------------------------------------------------------------------------
# Work, and checks afterwards.

BASES = (1e2, 1e3, 1e4)
ROW_BYTES = 2 * 4 * 8


@functools.cache
def embedding(base):
    return rotary.RotaryEmbedding(16, layout="half", base=base, seq_axis=-2)


@functools.cache
def truth(base, start, length):
    """Return cosine and sine by NumPy, accurate enough to distinguish positions."""
    angles = np.arange(start, start + length)[:, None] * base ** (-np.arange(0, 16, 2) / 16)
    return np.cos(angles), np.sin(angles)


def check_rows(base, start, length):
    found = embedding(base).tables(np.arange(start, start + length))
    np.testing.assert_allclose(found, truth(base, start, length), atol=1e-6)


def check_accounts():
    """Check that the counts are right and within the limits."""
    info = rotary.cache_info()
    held = [part for kept in memo.TABLES.held.values() for part in kept.values()]
    assert all(len(kept.held) for kept in memo.TABLES.held.values())
    assert info.entries == len(held)
    assert info.nbytes == sum(part.nbytes for part in held) <= info.limit
    blocks = info.pool
    assert blocks.nbytes <= blocks.limit
    assert bool(blocks.blocks) == bool(blocks.nbytes)


def fill_tables():
    """Make windows that grow, replace others and exceed the limit, and cache rows of batches."""
    first, second, third = map(embedding, BASES)
    first.tables(np.arange(20))
    first.tables(np.arange(10, 40))
    second.tables([0, 15, 30])
    second.tables([0, 7, 30])
    for step in range(4):
        second.tables([step, 1000 + step])
    for place in (0, 1000, 2000):
        third.tables(np.arange(place, place + 3))
    first.tables(np.arange(90))
    rotary.set_cache_limit(50 * ROW_BYTES)
    rotary.cache_info()


def prepare_tables():
    rotary.set_cache_limit(150 * ROW_BYTES)
    rotary.cache_clear()


def check_tables():
    check_accounts()
    rotary.set_cache_limit(150 * ROW_BYTES)
    for base in BASES:
        check_rows(base, 5, 40)
    check_accounts()


def use_pool():
    """Use blocks that are new, returned, reused, too many and too old."""
    held = [pool.empty((MIB,), np.uint8) for _ in range(3)]
    held.append(pool.empty((2 * MIB,), np.uint8))
    del held[1:3]
    held.append(pool.empty((MIB,), np.uint8))
    rotary.set_pool_limit(2 * MIB)
    held.clear()
    pool.info()
    rotary.set_pool_limit(4 * MIB)
    pool.clear()


def prepare_pool():
    rotary.set_pool_limit(5 * MIB)
    pool.clear()


def check_pool(*, meanwhile=False):
    """Check that no memory is lent twice, and that returned memory is lent again unless others use it."""
    check_accounts()
    rotary.set_pool_limit(4 * MIB)
    held = [pool.empty((MIB,), np.uint8) for _ in range(4)]
    assert len({x.__array_interface__["data"][0] for x in held}) == 4
    del held
    assert pool.info().blocks == 4 or (meanwhile and pool.info().blocks)
    hits = pool.info().hits
    again = pool.empty((MIB,), np.uint8)
    assert pool.info().hits == hits + 1
    assert again.size == MIB


X = np.random.default_rng(0).standard_normal((2, 6, 16)).astype(np.float32)


def turned(x, base, offset):
    angles = (offset + np.arange(x.shape[-2]))[:, None] * base ** (-np.arange(0, 16, 2) / 16)
    a, b = x[..., :8].astype(np.float64), x[..., 8:].astype(np.float64)
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1
    )


def rotate(base=1e3):
    """Make calls of all kinds, and repeat those with plans."""
    rope = rotary.RotaryEmbedding(16, layout="half", base=base, seq_axis=-2)
    for _ in range(2):
        rope(X, X[:, :, :], offset=3)
        rope(X, positions=np.arange(6))
    rope(X, out=X.copy())
    rope.inverse(X, offset=0.5)
    rope.shift(X, 2)


def check_rotations():
    check_accounts()
    for base in (1e3, 7e3):
        rope = embedding(base)
        for offset in (0, 3):
            got = rope(X, offset=offset)
            np.testing.assert_allclose(got, turned(X, base, offset), atol=1e-5)


WORK = {
    "tables": (fill_tables, prepare_tables, check_tables),
    "pool": (use_pool, prepare_pool, check_pool),
    "calls": (rotate, rotary.cache_clear, check_rotations),
}
# Interrupting these files is enough for the files whose state they keep.
FILES = {
    "tables": tuple(each.__file__ for each in (tables, windows, scattered, reader, memo)),
    "pool": (pool.__file__,),
    "calls": FOLDERS,
}


def between(work):
    """Do what a signal handler, another thread or a child process may do in the meantime."""
    _, _, check = WORK[work]

    def run():
        rotary.cache_info()
        if work == "pool":
            check(meanwhile=True)
        else:
            check()
        rotary.cache_clear()

    return run


# ------------------------------------------------------------------------------------------------


# Interrupt every n-th instruction. `nox -s slow` interrupts every one; nearly all of "calls" keep nothing.
STEPS = {"tables": 5, "pool": 2, "calls": 12}
LEAST = {"tables": 1000, "pool": 1000, "calls": 1250}


@pytest.mark.parametrize(
    ("work", "step"),
    [
        *STEPS.items(),
        *(pytest.param(work, 1, marks=pytest.mark.slow) for work in STEPS),
    ],
)
def test_an_interruption_leaves_everything_usable(work, step):
    """Afterwards no thread waits for a lock, and results are right."""
    run, prepare, check = WORK[work]
    done = []

    def checked():
        check()
        done.append(1)
        if len(done) % 20 == 0:
            in_a_thread(check)

    run()
    at_every_instruction(
        run, interrupt, prepare=prepare, check=checked, files=FILES[work], step=step
    )
    assert len(done) > LEAST[work]


# JAX warns of forks if an earlier test imported it.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("work", ["tables", "pool"])
@pytest.mark.parametrize("how", ["handler", "thread", "child"])
def test_handlers_threads_and_children_between_instructions_find_everything_usable(work, how):
    """A signal handler that rotates, another thread, a forked child: none waits, and all results are right."""
    if how == "child" and not hasattr(os, "fork"):
        pytest.skip("there is no fork")
    run, prepare, check = WORK[work]
    meanwhile = between(work)
    action = {
        "handler": meanwhile,
        "thread": lambda: in_a_thread(meanwhile),
        "child": lambda: in_a_child(meanwhile),
    }[how]
    run()
    step = {"handler": 7, "thread": 11, "child": 97}[how]
    count = at_every_instruction(
        run, action, prepare=prepare, check=check, files=FILES[work], step=step
    )
    assert count > 10


def test_a_thread_limit_ends_with_its_block():
    def limited():
        with rotary.threads(3), rotary.threads(1):
            assert _threads.thread_limit() == 1

    def check():
        assert _threads.thread_limit() is None
        with rotary.threads(2):
            assert _threads.thread_limit() == 2

    count = at_every_instruction(limited, interrupt, check=check, files=(_threads.__file__,))
    assert count > 40


def test_an_interrupted_cached_property_is_computed_again():
    def ask():
        found.append(rotary.RotaryEmbedding(16, layout="half", base=33.0))
        assert found[-1].inv_freq[1] == pytest.approx(33 ** (-1 / 8), rel=1e-15)

    def check():
        for rope in found:
            rope(X[0], offset=1)
        found.clear()

    found = []
    files = tuple(
        str(Path(rotary.__file__).parent / name) for name in ("_lib/fields.py", "call/plans.py")
    )
    assert at_every_instruction(ask, interrupt, check=check, files=files) > 20


TIMED = """
import random, signal, sys, threading
import numpy as np
import rotary
rope = rotary.RotaryEmbedding(64, layout="half", base=1e4, seq_axis=-2)
large, small = np.ones((2, 8, 600, 64), np.float32), np.ones((1, 4, 3, 64))
want = rope(large).copy(), rope(small, offset=9).copy()
raised = caught = 0
lost = []
sys.unraisablehook = lambda args: lost.append(str(args))
def handler(*_):
    global raised
    raised += 1
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
rnd = random.Random(0)
while caught < int(sys.argv[1]):
    try:
        signal.setitimer(signal.ITIMER_REAL, rnd.uniform(3e-4, 3e-3))
        while True:
            rope(large)
            rope(small, offset=rnd.randrange(9999))
            rotary.cache_info().pool
            rotary.cache_clear()
    except KeyboardInterrupt:
        caught += 1
def check():
    assert np.array_equal(rope(large), want[0]) and np.array_equal(rope(small, offset=9), want[1])
    right.append(rotary.cache_info().pool.misses)
right = []
thread = threading.Thread(target=check, daemon=True)
thread.start()
thread.join(60)
check()
assert len(right) == 2 and raised == caught and not lost, (right, raised, caught, lost)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no such timer")
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_interruptions_by_a_timer_are_never_lost(count):
    """Each is raised to the caller, no finalizer swallows one, and other threads continue."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", TIMED, str(count)],
        capture_output=True,
        check=False,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def test_a_handler_may_interrupt_the_import_of_masked_arrays():
    """NumPy imports them on first use, and the import uses them again."""
    program = """
import signal, sys
import numpy as np
import rotary
rope = rotary.RotaryEmbedding(8, layout="half", base=1e4)
x = np.ones((4, 8), np.float32)
expected = rope(x, positions=np.array([3, 1, 5, 2]))
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy.ma.core":
            assert np.array_equal(rope(x, positions=np.array([3, 1, 5, 2])), expected)
            print("interrupted")
sys.meta_path.insert(0, Finder())
for name in [name for name in sys.modules if name.startswith("numpy.ma")]:
    del sys.modules[name]
vars(np).pop("ma", None)
np.ma
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
