"""Threads, forked and spawned processes, threading layers, and machines without Numba or a writable disk.

Numba sets up threads once per process, so most tests run in new processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import rotary
from rotary import backends

ROOT = Path(rotary.__file__).parent
BACKENDS = Path(backends.__file__).parent
ON_POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")

# The start of every script. `digest` has the bits of many results; several threads rotate `large`.
PRELUDE = """
import hashlib, json, multiprocessing, os, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import rotary
from rotary import backends

rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0, seq_axis=-2)
large = np.random.default_rng(0).standard_normal((4, 8, 512, 64), dtype=np.float32)

def bits(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

def table_bits():
    rng = np.random.default_rng(1)
    inv_freq = np.concatenate([rotary.inv_freq(128, base=500_000.0), [4 * np.pi, -1e18, 0.0, 5e-324]])
    whole = rng.integers(-2**63, 2**63 - 1, 500) >> rng.integers(0, 63, 500)
    found = []
    for positions in (np.arange(-100, 3000), whole, whole * 0.37, rng.random(50)):
        for dtype in ("float32", "float64"):
            for factor in (1.0, 1.27):
                found += rotary.cos_sin(positions, inv_freq, dtype=dtype, attention_factor=factor)
    return bits(*found)

def started():
    numba = sys.modules.get("numba.np.ufunc.parallel")
    return bool(numba and numba._is_initialized)

def exit_code(child):
    # The end of a forked child that runs `child`.
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            child()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(script, *, args=(), **variables):
    """Run a script in a new process, which must succeed without warnings, and return its output."""
    environment = dict(os.environ)
    # Threads that wait in a busy loop would slow down the threads that work.
    environment |= {
        "NUMBA_DISABLE_JIT": "0",
        "PYTHONWARNINGS": "error",
        "OMP_WAIT_POLICY": "passive",
    }
    for name, value in variables.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = str(value)
    done = subprocess.run(
        [sys.executable, "-P", *args, "-c", PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        check=False,
        env=environment,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.split()


def layers():
    """Return the threading layers that Numba has here."""
    found = ["workqueue"]
    for name in ("omppool", "tbbpool"):
        try:
            __import__(f"numba.np.ufunc.{name}")
        except ImportError:
            continue
        found.append(name.removesuffix("pool"))
    return found


LAYERS = pytest.mark.parametrize("layer", layers())


@pytest.fixture(scope="module")
def truth():
    """Return the bits of the large rotation and of tables, computed by one thread."""
    return run("print(bits(rope(large)), table_bits())", NUMBA_NUM_THREADS=1)


# ------------------------------------------------------------------------------------------------
# Threads of one process.


@LAYERS
def test_many_threads_rotate_large_arrays_concurrently(layer, truth):
    """With workqueue, a second parallel loop would abort the process."""
    script = """
    first = bits(rope(large))
    import numba
    assert started() and numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"]
    together = threading.Barrier(4)
    def work(i):
        together.wait()
        return {bits(rope(large)) for _ in range(4)}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    # One of them is the main thread.
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(rope, large) for _ in range(6)]
        found.append({bits(rope(large)) for _ in range(4)})
        found.append({bits(other.result()) for other in others})
    assert found == [{first}] * 6, found
    print(first)
    """
    assert run(script, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2) == truth[:1]


@LAYERS
def test_threads_before_the_main_thread(layer, truth):
    """No parallel loop has run yet, so the layer is unknown, and other threads must not start it."""
    script = """
    together = threading.Barrier(4)
    def work(i):
        together.wait()
        return bits(rope(large))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(work, range(4)))
    assert not started()
    found.add(bits(rope(large)))
    assert started()
    print(*found)
    """
    assert run(script, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2) == truth[:1]


@LAYERS
def test_threads_fill_large_tables_concurrently(layer):
    script = """
    inv_freq = rotary.inv_freq(64, base=10_000.0)
    rotary.set_cache_limit(0)
    positions = np.arange(30_000)
    first = bits(*rotary.cos_sin(positions, inv_freq))
    assert started()
    def work(i):
        return bits(*rotary.cos_sin(positions, inv_freq)), bits(*rotary.cos_sin(positions + 0.0, inv_freq))
    with ThreadPoolExecutor(4) as pool:
        found = {both for both in pool.map(work, range(8))}
    assert found == {(first, first)}
    """
    run(script, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)


def test_threads_compile_concurrently():
    """Eight threads need kernels that are not compiled yet."""
    script = """
    together = threading.Barrier(8)
    def work(i):
        x = large[0, 0].astype((np.float16, np.float32, np.float64, np.complex64)[i % 4])
        x = x[:, :32] if i % 4 == 3 else x
        together.wait()
        return i % 4, bits(rope(x))
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 4
    """
    run(script, ROTARY_CACHE=1)


@pytest.mark.parametrize("count", [1, 2])
def test_numba_num_threads_changes_no_bits(count, truth):
    script = f"""
    assert backends.host() is backends.cpu.launch
    given, whole = [], backends.cpu.launch.threads_for
    backends.cpu.launch.threads_for = lambda *sizes: given.append(whole(*sizes)) or given[-1]
    print(bits(rope(large)), table_bits())
    assert max(threads for threads, _ in given) == {count}
    assert all(bool(team) == (threads > 1) for threads, team in given)
    """
    assert run(script, NUMBA_NUM_THREADS=count) == truth


def test_threads_limits_how_many_run():
    """One thread runs the serial loop, only inside the block and only in this thread or task."""
    script = """
    with rotary.threads(1):
        first = bits(rope(large))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(rope, large).result()
        with rotary.threads(2):
            with rotary.threads(1):
                rope(large)
    assert not started()
    with rotary.threads(1):
        with rotary.threads(2):
            assert bits(rope(large)) == first
    assert started()
    """
    run(script, NUMBA_NUM_THREADS=2)


def test_small_arrays_use_one_thread():
    script = """
    rope(large[:, :, :8])
    rope.tables(np.arange(50))
    assert not started()
    """
    run(script, NUMBA_NUM_THREADS=2)


def test_the_thread_mask_of_numba_is_respected():
    script = """
    import numba
    rope(large)
    assert backends.cpu.threads.threads_for(2**30, 1)[0] == 2
    numba.set_num_threads(1)
    assert backends.cpu.threads.threads_for(2**30, 1) == (1, 0)
    rope(large)
    """
    run(script, NUMBA_NUM_THREADS=2)


def test_import_does_not_choose_a_threading_layer():
    """The application chooses the layer, before or after the first rotation."""
    script = """
    import numba
    before = numba.config.THREADING_LAYER, numba.config.THREADING_LAYER_PRIORITY
    rope(large)
    assert before == (numba.config.THREADING_LAYER, numba.config.THREADING_LAYER_PRIORITY)
    """
    run(script)


@pytest.mark.parametrize(
    ("n", "error", "match"),
    [
        (0, ValueError, "`n` must be at least 1, got 0"),
        (-3, ValueError, "`n` must be at least 1, got -3"),
        (1.5, TypeError, r"`n` must be an integer, got 1\.5"),
        (None, TypeError, "`n` must be an integer, got None"),
        (True, TypeError, "`n` must be an integer, got True"),
        ("2", TypeError, "`n` must be an integer, got '2'"),
    ],
)
def test_threads_refuses_bad_values(n, error, match):
    with pytest.raises(error, match=match), rotary.threads(n):
        pass


def test_threads_ends_with_its_block():
    limit = rotary.threads.__globals__["thread_limit"]
    assert limit() is None
    with pytest.raises(KeyError), rotary.threads(1):
        raise KeyError(limit())
    assert limit() is None
    with rotary.threads(np.int16(3)):
        seen = []
        other = threading.Thread(target=lambda: seen.append(limit()))
        other.start()
        other.join()
        assert seen == [None]
        assert limit() == 3


def test_threads_is_reentrant_and_a_decorator():
    limit = rotary.threads.__globals__["thread_limit"]
    two = rotary.threads(2)
    with two, rotary.threads(5), two:
        assert limit() == 2
        with rotary.threads(1):
            assert limit() == 1
        assert limit() == 2
    assert limit() is None

    @rotary.threads(4)
    def down(n):
        return [limit(), *(down(n - 1) if n else [])]

    assert down(3) == [4] * 4
    assert limit() is None


# ------------------------------------------------------------------------------------------------
# Processes.


@ON_POSIX
@LAYERS
def test_a_forked_child_rotates_after_its_parent_has(layer, truth):
    """OpenMP would abort the child."""
    script = """
    first = bits(rope(large))
    assert started()
    def child():
        assert bits(rope(large)) == first
        assert bits(rope(large, out=large.copy())) == first
        with ThreadPoolExecutor(2) as pool:
            assert bits(pool.submit(rope, large).result()) == first
        rotary.cache_clear()
        table_bits()
        # And a child of the child.
        assert exit_code(lambda: rope(large)) == 0
    assert exit_code(child) == 0
    assert bits(rope(large)) == first
    assert exit_code(child) == 0
    print(first)
    """
    assert run(script, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2) == truth[:1]


@ON_POSIX
@LAYERS
def test_forked_workers_of_multiprocessing(layer, truth):
    """As data loaders do it."""
    script = """
    rope(large)
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        found = set(map(bits, pool.map(rope, [large] * 4)))
    print(*found)
    """
    assert run(script, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2) == truth[:1]


@ON_POSIX
def test_a_child_forked_before_anything_ran_uses_threads(truth):
    script = """
    def child():
        assert bits(rope(large)) == os.environ["EXPECTED"]
        assert started()
    assert exit_code(child) == 0
    print(bits(rope(large)))
    """
    assert run(script, NUMBA_NUM_THREADS=2, EXPECTED=truth[0]) == truth[:1]


@ON_POSIX
def test_a_child_shares_the_tables_of_its_parent():
    script = """
    cos = rope.tables(np.arange(100))[0]
    def child():
        again = rope.tables(np.arange(100))[0]
        assert again.__array_interface__["data"] == cos.__array_interface__["data"]
        assert rotary.cache_info().misses == 1
        rope.tables(np.arange(3000))
        rotary.cache_clear()
    assert exit_code(child) == 0
    assert rotary.cache_info()[:3] == (0, 1, 1)
    """
    run(script)


@ON_POSIX
def test_a_child_forked_while_a_thread_makes_an_embedding():
    """Before Python 3.12, `functools.cached_property` has one lock for all objects of a class."""
    script = """
    from rotary.scaling import Default
    inv_freq, begun, over = Default.inv_freq, threading.Event(), threading.Event()
    def slow(self, width, base, context_length):
        if base == 7.0:
            begun.set()
            over.wait()
        return inv_freq(self, width, base, context_length)
    Default.inv_freq = slow
    make = lambda: rotary.RotaryEmbedding(32, layout="half", base=7.0)
    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    assert begun.wait(20)
    def child():
        import signal
        signal.alarm(20)
        rotary.RotaryEmbedding(32, layout="half", base=8.0)
    warnings.simplefilter("ignore")  # from 3.12 on, Python warns of a fork with threads
    code = exit_code(child)
    over.set()
    thread.join()
    assert code == 0, code
    """
    run(script)


@ON_POSIX
def test_children_forked_while_threads_use_the_cache():
    """A lock that another thread holds during the fork would stay taken in the child."""
    script = """
    sys.setswitchinterval(1e-5)
    over = False
    ropes = [rotary.RotaryEmbedding(32, layout="half", base=10.0 + i) for i in range(40)]
    rope.tables(np.arange(10))
    def work(i):
        n = 0
        while not over:
            n += 1
            ropes[(7 * i + n) % 40].tables(np.arange(n % 900 + 1))
            if n % 50 == 0:
                rotary.cache_clear()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    def child():
        import signal
        signal.alarm(20)
        for one in ropes:
            one.tables(np.arange(50))
        info = rotary.cache_info()
        windows = [w for kept in rotary._lib.memo.TABLES.held.values() for w in kept.values()]
        assert info.entries == len(windows)
        assert info.nbytes == sum(w.nbytes for w in windows)
    warnings.simplefilter("ignore")  # from 3.12 on, Python warns of a fork with threads
    codes = {exit_code(child)}
    for _ in range(24):
        if codes == {0}:
            codes.add(exit_code(child))
    over = True
    for thread in threads:
        thread.join()
    assert codes == {0}, codes
    """
    run(script)


def test_a_spawned_process_gives_the_same_bits(truth):
    """The specification is pickled, and the tables are computed again."""
    script = """
    first = bits(rope(large))
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.apply(rope, (large,))
        again = pool.apply(rope.tables, (np.arange(10),))
    assert np.array_equal(again, rope.tables(np.arange(10)))
    print(first, bits(found))
    """
    # A spawned child imports the main module, which has no file here and is not needed.
    assert run(script, NUMBA_NUM_THREADS=2) == truth[:1] * 2


# ------------------------------------------------------------------------------------------------
# Without compiled code.

TABLES_AND_ROTATIONS = """
x = large[0, :2, :50]
print(table_bits())
for layout in ("half", "interleaved"):
    for dtype in (np.float16, np.float32, np.float64):
        one = rotary.RotaryEmbedding(64, layout=layout, base=10_000.0, rotary_dim=32, seq_axis=-2)
        y = one(x.astype(dtype), offset=7)
        assert y.dtype == dtype and y.shape == x.shape
        back = one.inverse(y, offset=7)
        assert np.allclose(back, x, atol=0.01 if dtype == np.float16 else 1e-5)
z = x.copy()
assert rope(z, out=z) is z and np.allclose(z, rope(x))
"""


def test_disabled_jit_runs_the_portable_path_with_the_same_tables(truth):
    script = """
    assert backends.host() is backends.portable
    assert "rotary.backends.cpu.launch" not in sys.modules
    """
    found = run(TABLES_AND_ROTATIONS + textwrap.dedent(script), NUMBA_DISABLE_JIT=1)
    assert found == truth[1:]


def test_jit_disabled_after_numba_was_imported(truth):
    script = """
    import numba
    numba.config.DISABLE_JIT = True
    assert backends.host() is backends.portable
    print(table_bits())
    """
    assert run(script) == truth[1:]


BLOCK = {
    "missing": """
class Without:
    # A finder that does not find Numba.
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
""",
    "set to None": "sys.modules['numba'] = None\n",
    "broken": """
import pathlib, tempfile
folder = tempfile.TemporaryDirectory()
package = pathlib.Path(folder.name, "numba")
package.mkdir()
package.joinpath("__init__.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
sys.path.insert(0, folder.name)
""",
}


@pytest.mark.parametrize("how", BLOCK)
def test_without_numba_everything_works_after_one_warning(how, truth):
    script = """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rotary.warm_up()
        rotary.warm_up(["float16", "float64"])
        for _ in range(3):
            rope(large[0, 0])
            rope.tables(np.arange(20))
        rope(large[0, 0].astype(np.float16))
        with ThreadPoolExecutor(2) as pool:
            pool.submit(rope, large).result()
    assert [w.category for w in caught] == [RuntimeWarning], [str(w.message) for w in caught]
    told = str(caught[0].message)
    assert "Numba" in told and "slower" in told, told
    assert ("NumPy 1.0 or less" in told) == ("folder" in globals()), told
    warnings.simplefilter("error")
    assert backends.host() is backends.portable
    """
    code = textwrap.dedent(BLOCK[how]) + textwrap.dedent(script) + TABLES_AND_ROTATIONS
    assert run(code) == truth[1:]


def test_without_numba_the_configuration_can_be_shown():
    script = BLOCK["missing"] + "warnings.simplefilter('ignore')\nrotary.show_config()"
    assert "portable" in run(script)


# ------------------------------------------------------------------------------------------------
# The disk cache.


@pytest.fixture
def copied(tmp_path):
    """A copy of the installed package without compiled kernels."""
    no_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT, tmp_path / "site" / "rotary", ignore=no_cache)
    shutil.copytree(
        BACKENDS, tmp_path / "site" / "rotary" / "backends", ignore=no_cache, dirs_exist_ok=True
    )
    return tmp_path


def run_copy(script, copied, **variables):
    """Run a script with the copied package."""
    site = copied / "site"
    start = f"import sys; sys.path.insert(0, {str(site)!r}); import importlib.metadata\n"
    start += "import rotary.backends\n"
    start += (
        f"assert rotary.backends.__file__.startswith({str(site)!r}), rotary.backends.__file__\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COV", "NUMBA", "ROTARY"))
    }
    environment |= {
        "HOME": str(copied / "home"),
        "OMP_WAIT_POLICY": "passive",
        "PYTHONWARNINGS": "error",
    } | variables
    # Only the path finder, so that no editable install has priority.
    start = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"
        + start
    )
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-c", start + PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        check=False,
        cwd=copied,
        env=environment,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.split()


def kept(folder):
    return sorted(path.name for path in folder.rglob("*.nb?"))


# One kernel, so that compiling takes seconds.
COMPILE = """
x = large[0, 0].copy()
tables = np.ones((512, 32), np.float32), np.zeros((512, 32), np.float32)
assert np.array_equal(rotary.apply_rotary(x, *tables, layout="half"), x)
assert backends.host() is backends.cpu.launch
functions = list(backends.cpu.jit._compiled.values())
"""


def test_kernels_are_cached_beside_the_package(copied):
    """One file for each kernel, because the cache of Numba distinguishes functions by name and code."""
    others = """
    half = np.ones((512, 32), np.float32)
    for dtype in ("float16", "float64"):
        for layout in ("half", "interleaved"):
            rotary.apply_rotary(x.astype(dtype), half, half, layout=layout)
    functions = list(backends.cpu.jit._compiled.values())
    assert len(functions) == 8
    """
    run_copy(COMPILE + textwrap.dedent(others), copied)
    assert len([name for name in kept(copied / "site") if name.endswith(".nbi")]) == 8
    script = """
    for function in functions:
        stats = getattr(function, "stats", None)
        assert not stats.cache_misses if stats else function.cache_hits, function
    """
    run_copy(COMPILE + textwrap.dedent(others + script), copied)


@pytest.mark.slow
def test_the_disk_cache_can_be_switched_off(copied):
    run_copy(COMPILE, copied, ROTARY_CACHE="0")
    assert not kept(copied)


@pytest.mark.slow
def test_an_unwritable_disk_cache(copied):
    """As in a container: the package belongs to another user, and there is no home folder."""
    # A file in place of the folder, which stops an administrator too.
    (copied / "site" / "rotary" / "backends" / "cpu" / "__pycache__").touch()
    script = "assert all(function._cache.cache_path is None for function in functions)"
    run_copy(COMPILE + script, copied, HOME="/dev/null", XDG_CACHE_HOME="/dev/null/cache")
    assert not kept(copied)


@pytest.mark.slow
def test_a_damaged_disk_cache_causes_a_warning_and_is_not_used(copied):
    run_copy(COMPILE, copied)
    for path in (copied / "site").rglob("*.nbi"):
        path.write_bytes(b"rubbish")
    script = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rotary.apply_rotary(large[0, 0].copy(), *[np.ones((512, 32), np.float32)] * 2, layout="half")
assert [w.category for w in caught] == [RuntimeWarning], caught
assert "NUMBA_CACHE_DIR" in str(caught[0].message)
"""
    run_copy(script + COMPILE, copied)


# ------------------------------------------------------------------------------------------------
# Interruptions and failures of Numba.

# `warned` collects the warnings of the calls inside it; `right` checks a rotation with the sine of NumPy.
FAILURES = """
from contextlib import contextmanager

@contextmanager
def warned():
    told = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    assert {w.category for w in caught} <= {RuntimeWarning}, [str(w.message) for w in caught]
    told += [str(w.message) for w in caught]

def right(x, offset=0, dtype=np.float32, call=None):
    y = np.asarray((call or rope)(x.astype(dtype), offset=offset), np.float64)
    p = np.arange(offset, offset + x.shape[-2])[:, None] * 1e4 ** (-np.arange(0, 64, 2) / 64)
    a, b = x[..., :32].astype(np.float64), x[..., 32:].astype(np.float64)
    want = np.concatenate([a * np.cos(p) - b * np.sin(p), b * np.cos(p) + a * np.sin(p)], -1)
    return np.allclose(y, want, atol=0.01 if dtype == np.float16 else 1e-5)

small = large[0, 0, :8]
"""

# Errors of an import or a compilation.
CAUSES = {
    "shared library": "OSError('libLLVM.so: cannot open shared object file')",
    "memory": "MemoryError('no more')",
    "name": "NameError('size')",
    "attribute": "AttributeError('partially initialized module')",
    "exit": "SystemExit(3)",
    "long": "RuntimeError('cause ' * 5000)",
}


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        *(("numba", cause) for cause in CAUSES),
        ("llvmlite", "shared library"),
        ("numba.core.cgutils", "name"),
    ],
)
def test_a_failing_import_of_numba_causes_one_warning(module, cause):
    script = f"""
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == {module!r}:
                raise {CAUSES[cause]}
    sys.meta_path.insert(0, Broken())
    with warned() as told:
        for offset in (0, 3, 3):
            assert right(small, offset) and right(large) and right(small, 1, np.float16)
        rotary.warm_up()
        rope.tables(np.arange(5))
    (told,) = told
    expected = {CAUSES[cause]}
    assert "cannot be imported" in told and "restart" in told and len(told) < 800, told
    assert type(expected).__name__ in told and str(expected)[:40] in told, told
    assert backends.host() is backends.portable
    rotary.show_config()
    """
    found = " ".join(run(FAILURES + textwrap.dedent(script)))
    assert "portable" in found
    assert "failed import: Numba cannot be imported" in found


@pytest.mark.parametrize(
    ("cached", "cause"),
    [
        *(("1", cause) for cause in CAUSES),
        # Without the disk cache, each script first compiles everything.
        *(pytest.param("0", cause, marks=pytest.mark.slow) for cause in CAUSES if cause != "name"),
        ("0", "name"),
    ],
)
def test_a_failing_compilation_causes_one_warning(cause, cached):
    """Compiled kernels are still used with the same bits; no call fails, plans included."""
    script = f"""
    assert right(small) and right(small)
    first = bits(rope(small))
    import numba
    def njit(*arguments, **options):
        raise {CAUSES[cause]}
    numba.njit = njit
    with warned() as told:
        for _ in range(3):
            for dtype in (np.float64, np.float16, np.float32):
                for offset in (0, 5):
                    assert right(small, offset, dtype)
            assert right(small, 2, np.float64, lambda x, offset: rope(x, offset=offset, out=x))
        rotary.warm_up(["float64"])
    (told,) = told
    expected = {CAUSES[cause]}
    assert "cannot compile" in told and "restart" in told and len(told) < 800, told
    assert type(expected).__name__ in told and str(expected)[:40] in told, told
    assert "folder" not in told, told
    assert bits(rope(small)) == first
    rotary.show_config()
    """
    found = " ".join(run(FAILURES + textwrap.dedent(script), ROTARY_CACHE=cached))
    assert "failed kernels: Numba cannot compile" in found


def test_numbas_function_is_looked_up_once_where_no_signal_comes():
    """llvmlite takes a lock for it, for which every thread would wait after an interruption."""
    script = """
    import llvmlite.binding
    assert backends.host() is backends.cpu.launch
    whole, callers = llvmlite.binding.address_of_symbol, []
    def address_of_symbol(name):
        if name == "numba_parallel_for":
            callers.append(threading.current_thread())
        return whole(name)
    llvmlite.binding.address_of_symbol = address_of_symbol
    rope(large)
    rope(large, out=large)
    assert started() and len(callers) == 1 and callers[0] is not threading.main_thread(), callers
    """
    run(script, NUMBA_NUM_THREADS=2)


def test_without_numba_parallel_for_one_thread_runs(truth):
    script = """
    import llvmlite.binding
    llvmlite.binding.address_of_symbol = lambda name: None
    with warned() as told:
        found = {bits(rope(large)) for _ in range(3)}
        rotary.warm_up()
    (told,) = told
    assert "numba_parallel_for" in told and "one thread" in told, told
    print(*found, table_bits())
    """
    assert run(FAILURES + textwrap.dedent(script), NUMBA_NUM_THREADS=2) == truth


@pytest.mark.skipif("tbb" in layers(), reason="the layer can be loaded")
def test_without_a_threading_layer_kernels_are_serial(truth):
    script = """
    with warned() as told:
        if os.environ["FIRST"] == "warm_up":
            rotary.warm_up()
        assert right(small)
        found = {bits(rope(large)) for _ in range(3)}
        with ThreadPoolExecutor(2) as pool:
            found.add(bits(pool.submit(rope, large).result()))
    (told,) = told
    assert "threading layer" in told and "tbb" in told and "one thread" in told, told
    warnings.simplefilter("error")
    print(*found, table_bits())
    rotary.show_config()
    """
    variables = {"NUMBA_THREADING_LAYER": "tbb", "NUMBA_NUM_THREADS": 2}
    for first in ("warm_up", "call"):
        found = run(FAILURES + textwrap.dedent(script), FIRST=first, **variables)
        assert found[:2] == truth
        assert "failed threads: Numba's threads cannot be started" in " ".join(found)


def test_interruptions_while_numba_loads_and_compiles_break_nothing(copied):
    """Both run in a separate thread, which no signal reaches; every later call waits for it."""
    script = """
    import signal
    def handler(*_):
        raise KeyboardInterrupt
    interrupted = 0
    def until_it_works(call):
        global interrupted
        while True:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            try:
                result = call()
                signal.setitimer(signal.ITIMER_REAL, 0)
                return result
            except KeyboardInterrupt:
                interrupted += 1
    signal.signal(signal.SIGALRM, handler)
    assert until_it_works(lambda: right(small))
    assert interrupted > 10, interrupted
    assert backends.host() is backends.cpu.launch
    assert backends.cpu.jit.Variant("rotation", "float32", "half") in backends.cpu.jit._compiled
    assert not backends.failures
    assert right(small, 7)
    """
    run_copy(FAILURES + textwrap.dedent(script), copied)


def test_a_handler_that_rotates_while_numba_loads_and_compiles():
    """It waits for the other thread, or does not use Numba if it interrupted Numba itself."""
    script = """
    import signal
    count = 0
    def handler(*_):
        global count
        assert right(small, count)
        count += 1
        signal.setitimer(signal.ITIMER_REAL, 0.02)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    if os.environ["WHO"] == "library":
        assert right(small) and right(small, dtype=np.float64)
    else:
        import numba
        numba.njit("f8[:](f8[:])")(lambda x: np.sort(x) + np.cumsum(x))
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert count
    assert not backends.failures
    assert right(small, 7)
    assert backends.host() is backends.cpu.launch
    """
    for who in ("library", "user"):
        run(FAILURES + textwrap.dedent(script), WHO=who)


def test_a_compiler_lock_left_taken_by_an_interruption():
    """For example by a compilation of the user: the next compilation would wait forever."""
    script = """
    from numba.core.compiler_lock import global_compiler_lock
    if os.environ["LOADED"]:
        assert right(small)
    global_compiler_lock.acquire()
    with warned() as told:
        for dtype in (np.float32, np.float64, np.float64):
            assert right(small, 2, dtype) and right(large, 1, dtype)
    (told,) = told
    assert "interruption" in told and "restart" in told, told
    """
    for loaded in ("", "1"):
        run(FAILURES + textwrap.dedent(script), LOADED=loaded)


# ------------------------------------------------------------------------------------------------
# Forks.


@ON_POSIX
def test_a_fork_waits_for_a_thread_that_compiles():
    """The lock of Numba would stay taken in the child."""
    script = """
    import signal, time
    warnings.simplefilter("ignore")  # from 3.12 on, Python warns of a fork with threads
    backends.host()
    compile_, begun = backends.cpu.jit._compile, threading.Event()
    def slow(*arguments):
        from numba.core.compiler_lock import global_compiler_lock
        with global_compiler_lock:
            begun.set()
            time.sleep(0.5)
            return compile_(*arguments)
    backends.cpu.jit._compile = slow
    thread = threading.Thread(target=rope, args=(small,))
    thread.start()
    assert begun.wait(20)
    def child():
        signal.alarm(60)
        backends.cpu.jit._compile = compile_
        assert right(small) and right(small, 0, np.float64)
        assert backends.host() is backends.cpu.launch and not backends.failures
    assert exit_code(child) == 0
    thread.join()
    assert right(small) and exit_code(child) == 0
    """
    run(FAILURES + textwrap.dedent(script))


@ON_POSIX
def test_calls_import_modules_only_in_the_separate_thread():
    """A fork waits for this thread, which alone imports modules of NumPy and Numba."""
    script = """
    here = []
    class Watch:
        def find_spec(self, name, path=None, target=None):
            if threading.current_thread().name != "rotary-numba":
                here.append(name)
    sys.meta_path.insert(0, Watch())
    rope(large[:, :, :8]), rope(large[:, :, :8], offset=[1, 2, 3, 4]), rope(large[0, 0, :8].astype(np.float64))
    assert not [name for name in here if name.startswith(("numpy", "numba"))], here
    """
    run(script, NUMBA_NUM_THREADS=1)


@ON_POSIX
def test_the_library_may_be_imported_during_a_fork():
    """Its hooks then run after the fork but not before."""
    script = """
    import os, logging, random, numba, numpy, array_api_compat  # modules with fork hooks
    def load():
        import rotary, rotary.backends.cpu.launch, rotary.tables.lookup, rotary.runtime.pool
    os.register_at_fork(before=load)
    pid = os.fork()
    import numpy as np, rotary
    rotary.RotaryEmbedding(8, layout="half", base=1e4)(np.ones((3, 8)))
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    """
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        check=False,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ------------------------------------------------------------------------------------------------
# Results of NumPy operations.


@pytest.mark.parametrize("jit", ["0", "1"])
def test_results_have_the_same_kind_with_and_without_numba(jit):
    """The byte order of the dtype, plain arrays for subclasses, and values, in outputs too."""
    script = """
    import ml_dtypes
    class Own(np.ndarray):
        pass
    dtypes = [np.dtype(c).newbyteorder(o) for c in ("f2", "f4", "f8", "c8", "c16") for o in "<>"]
    for dtype in [*dtypes, np.dtype(ml_dtypes.bfloat16)]:
        for start, width in ((0, 64), (0, 32), (16, 32), (32, 32)):
            one = rotary.RotaryEmbedding(64, layout="half", base=1e4, rotary_dim=width, rotary_start=start)
            x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
            if dtype.kind == "c":
                x = x[:, :32] + 1j * x[:, 32:]
            x = x.astype(dtype)
            native = x.astype(dtype.newbyteorder("="))
            want = one(native, offset=2)
            assert want.dtype == native.dtype
            for given in (x, x.view(Own), np.asfortranarray(x), x[:0]):
                y = one(given, offset=2)
                assert type(y) is np.ndarray and y.shape == given.shape
                assert y.dtype == dtype and y.dtype.isnative == dtype.isnative, (y.dtype, dtype)
                assert np.array_equal(y.astype(native.dtype), want[: len(y)])
            out = np.empty_like(x)
            assert one(x, offset=2, out=out) is out
            assert np.array_equal(out.astype(native.dtype), want) and out.dtype == dtype
            into = x.copy()
            assert one(into, offset=2, out=into) is into
            assert np.array_equal(into.astype(native.dtype), want)
    """
    run(script, NUMBA_DISABLE_JIT=jit)
