"""Protects Numba from interruptions, and records its failures.

An exception that interrupts the import of Numba, or a compilation, leaves Numba broken until the process ends. So both
run in a separate thread, because Python handles signals, Ctrl-C among them, in the main thread alone. After a failure
one warning is raised, and a fallback is used until the process ends.
"""

from __future__ import annotations

import builtins
import importlib.util
import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from types import FrameType, ModuleType

# The process that imported this module; its children are others.
HOME = os.getpid()
# The intervals at which a waiting thread checks for interruptions, and a fork for work in progress, in seconds.
PATIENCE, MOMENT = 0.1, 0.001
LONGEST_CAUSE = 500

# Numba knows these functions by identity.
_GENUINE = builtins.max, builtins.min, math.pow

# The causes of failures, by "import", "kernels", "threads" or "disk cache".
failures: dict[str, str] = {}
# The warnings that are still to be raised.
_unreported: dict[str, str] = {}
# Not empty once the module of the kernels is imported.
loaded: list[str] = []


# ------------------------------------------------------------------------------------------------
# Work that no signal interrupts.

# A lock for work on Numba, and the thread that works now. By process, because a forked child has none of its parent's
# threads.
_locks: dict[int, threading.Lock] = {}
_working: dict[int, int] = {}
# Not empty while a fork is under way.
_forking: dict[str, bool] = {}


def shielded(work: Callable[[], None]) -> None:
    """Run work on Numba in a thread of its own, which goes on if the caller is interrupted.

    In a signal handler that interrupted Numba it does nothing, because it would wait for itself.
    """
    if _working.get(os.getpid()) == threading.get_ident() or _is_inside_numba():
        return
    if _has_lock():
        failed("kernels", "Numba cannot compile, because an interruption left its lock taken")
        return
    ended = threading.Lock()
    ended.acquire()
    thread = threading.Thread(target=_in_thread, args=(work, ended), name="rotary-numba")
    try:
        thread.start()
    except RuntimeError:  # there are too many threads, or the interpreter ends
        _in_turn(work)
        return
    while not ended.acquire(timeout=PATIENCE) and thread.is_alive():
        pass


def builtins_are_replaced() -> bool:
    """Return whether some functions that Numba knows are not themselves now.

    `torch.export` replaces them in all threads while it runs. If Numba were imported meanwhile, it would know the
    replacements for the rest of the process, and never the functions.
    """
    return (builtins.max, builtins.min, math.pow) != _GENUINE


def _has_lock() -> bool:
    """Return whether this thread holds Numba's compiler lock, which only an interruption leaves taken."""
    module = sys.modules.get("numba.core.compiler_lock")
    lock = getattr(module, "global_compiler_lock", None)
    return lock is not None and bool(lock.is_locked())


def _is_inside_numba() -> bool:
    """Return whether this thread is inside an import or a compilation of Numba."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if package_of(frame) in ("numba", "llvmlite"):
            return True
        frame = frame.f_back
    return False


def package_of(frame: FrameType) -> str:
    """Return the name of the package that the code of a frame belongs to."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _in_thread(work: Callable[[], None], ended: threading.Lock) -> None:
    """Run work in a separate thread; `failed` alone reports failures."""
    try:
        _in_turn(work)
    except BaseException:  # noqa: BLE001, S110  (SystemExit of an import, for example)
        pass
    finally:
        ended.release()


def _in_turn(work: Callable[[], None]) -> None:
    """Run work while no other thread works on Numba and no fork is under way."""
    process = os.getpid()
    with _locks.setdefault(process, threading.Lock()):
        _working[process] = threading.get_ident()
        while _forking:
            _working.pop(process)
            time.sleep(MOMENT)
            _working[process] = threading.get_ident()
        try:
            work()
        finally:
            _working.pop(process)


def is_torn() -> bool:
    """Return whether this process was forked in the middle of another thread's work on Numba."""
    return not _working.keys() <= {os.getpid()}


def _wait_for_work() -> None:
    """Have a fork wait until no other thread works on Numba, whose locks would stay taken in the child."""
    interruption = None
    while True:
        try:
            while _working.get(os.getpid(), threading.get_ident()) != threading.get_ident():
                time.sleep(MOMENT)
        except BaseException as error:  # noqa: BLE001  (Python forks all the same, and reports it)
            interruption = error
        else:
            break
    if interruption is not None:
        raise interruption


if hasattr(os, "register_at_fork"):
    # Before a fork, the hook that is registered last runs first. The flag is set and cleared in C, so that no signal
    # comes between. It may be cleared without having been set: this module may be imported during a fork.
    os.register_at_fork(before=_wait_for_work)
    os.register_at_fork(
        before=partial(_forking.setdefault, "now", True),
        after_in_parent=_forking.clear,
        after_in_child=_forking.clear,
    )


# ------------------------------------------------------------------------------------------------
# Failures.

_UNTIL = "which is slower, until the process is restarted"
_CONSEQUENCES = {
    "import": f"rotary runs on NumPy's own operations, {_UNTIL}",
    "kernels": f"kernels that are not compiled yet are replaced by NumPy's own operations, {_UNTIL}",
    "threads": f"rotary uses one thread, {_UNTIL}",
    "disk cache": "empty the folder that NUMBA_CACHE_DIR names, or __pycache__ beside rotary's backends",
}


def failed(what: str, problem: str, error: BaseException | None = None) -> None:
    """Record a failure for the rest of the process, and have `report` warn of it once."""
    if error is not None:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        if len(cause) > LONGEST_CAUSE:
            cause = cause[:LONGEST_CAUSE] + " ..."
        problem += f" ({cause})"
    if failures.setdefault(what, problem) is problem:
        _unreported[what] = f"{problem}: {_CONSEQUENCES[what]}"


def report() -> None:
    """Warn of the failures that were not yet reported."""
    for what in list(_unreported):
        message = _unreported.pop(what, None)
        if message is not None:
            warnings.warn(message, RuntimeWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """Return the stack level, for `warnings.warn`, of the code that called the library."""
    level = 2
    frame: FrameType | None = sys._getframe(level)
    while frame is not None and package_of(frame) == "rotary":
        level, frame = level + 1, frame.f_back
    return level


# ------------------------------------------------------------------------------------------------
# Without Numba.


def formulas() -> ModuleType:
    """Return the module of kernels, or a copy without Numba if it is not imported yet.

    The copy is for calls during which Numba cannot be imported, as in a signal handler that interrupted its import.
    """
    if loaded:
        from . import kernels

        return kernels
    return _plain()


@cache
def _plain() -> ModuleType:
    """Return a copy of the kernels' module that does without Numba."""
    specification = importlib.util.find_spec(f"{__package__}.kernels")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    module.PLAIN = True  # type: ignore[attr-defined]  # read by the module
    specification.loader.exec_module(module)
    return module
