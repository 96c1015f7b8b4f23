"""Protection of Numba from interruptions, and the record of its failures.

An exception that interrupts the import of Numba or a compilation leaves Numba broken until the process ends. Both
therefore run in a separate thread, because Python handles signals such as Ctrl-C only in the main thread. A failure
causes one warning, and a fallback is used until the process ends.
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

# The process that imported this module; its forked children have other numbers.
IMPORTING_PROCESS = os.getpid()
# The intervals at which a waiting thread checks for interruptions, and a fork for work in progress, in seconds.
WAIT_INTERVAL, POLL_INTERVAL = 0.1, 0.001
MAX_CAUSE_LENGTH = 500

# Numba recognizes these functions by identity.
_GENUINE = builtins.max, builtins.min, math.pow

# The causes of failures of "import", "kernels", "threads" and "disk cache".
failures: dict[str, str] = {}
# The warnings that have not been issued yet.
_unreported: dict[str, str] = {}
# Not empty once the module of the kernels is imported.
loaded: list[str] = []


# ------------------------------------------------------------------------------------------------
# Work that no signal interrupts.

# For each process, a lock for work on Numba, and the thread that is working. A forked child needs entries of its own,
# because it has none of its parent's threads.
_locks: dict[int, threading.Lock] = {}
_working: dict[int, int] = {}
# Not empty during a fork.
_forking: dict[str, bool] = {}


def shielded(work: Callable[[], None]) -> None:
    """Run work on Numba in a separate thread, which continues if the caller is interrupted.

    In a signal handler that interrupted Numba, this does nothing, because it would wait for itself.
    """
    if _working.get(os.getpid()) == threading.get_ident() or _is_in_numba_code():
        return
    if _has_lock():
        failed("kernels", "Numba cannot compile, because an interruption left its lock taken")
        return
    done = threading.Lock()
    done.acquire()
    thread = threading.Thread(target=_run_in_thread, args=(work, done), name="rotary-numba")
    try:
        thread.start()
    except RuntimeError:  # there are too many threads, or the interpreter is shutting down
        _run_exclusively(work)
        return
    while not done.acquire(timeout=WAIT_INTERVAL) and thread.is_alive():
        pass


def builtins_are_replaced() -> bool:
    """Return whether some functions that Numba recognizes by identity are replaced now.

    `torch.export` replaces them in all threads while it runs. If Numba were imported during this time, it would
    recognize the replacements, and not the functions, until the process ends.
    """
    return (builtins.max, builtins.min, math.pow) != _GENUINE


def _has_lock() -> bool:
    """Return whether this thread holds Numba's compiler lock, which it does only after an interruption."""
    module = sys.modules.get("numba.core.compiler_lock")
    lock = getattr(module, "global_compiler_lock", None)
    return lock is not None and bool(lock.is_locked())


def _is_in_numba_code() -> bool:
    """Return whether this thread is importing Numba or running a compilation."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if package_of(frame) in ("numba", "llvmlite"):
            return True
        frame = frame.f_back
    return False


def package_of(frame: FrameType) -> str:
    """Return the name of the package whose code a frame runs."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _run_in_thread(work: Callable[[], None], done: threading.Lock) -> None:
    """Run work and ignore exceptions, because `failed` records failures."""
    try:
        _run_exclusively(work)
    except BaseException:  # noqa: BLE001, S110  (SystemExit of an import, for example)
        pass
    finally:
        done.release()


def _run_exclusively(work: Callable[[], None]) -> None:
    """Run work while no other thread works on Numba and no fork is in progress."""
    process = os.getpid()
    with _locks.setdefault(process, threading.Lock()):
        _working[process] = threading.get_ident()
        while _forking:
            _working.pop(process)
            time.sleep(POLL_INTERVAL)
            _working[process] = threading.get_ident()
        try:
            work()
        finally:
            _working.pop(process)


def is_torn() -> bool:
    """Return whether this process was forked while another thread was working on Numba."""
    return not _working.keys() <= {os.getpid()}


def _wait_for_work() -> None:
    """Delay a fork until no other thread works on Numba, because its locks would stay taken in the child."""
    interruption = None
    while True:
        try:
            while _working.get(os.getpid(), threading.get_ident()) != threading.get_ident():
                time.sleep(POLL_INTERVAL)
        except BaseException as error:  # noqa: BLE001  (Python forks nevertheless, and reports the error)
            interruption = error
        else:
            break
    if interruption is not None:
        raise interruption


if hasattr(os, "register_at_fork"):
    # Before a fork, hooks run in reverse order of registration. C code sets and clears the flag, so no signal handler
    # can run in between. The flag may be cleared without being set, because this module may be imported during a fork.
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
    "import": f"rotary uses NumPy operations, {_UNTIL}",
    "kernels": f"NumPy operations replace the kernels that are not compiled yet, {_UNTIL}",
    "threads": f"rotary uses one thread, {_UNTIL}",
    "disk cache": "empty the folder that NUMBA_CACHE_DIR names, or __pycache__ beside rotary's backends",
}


def failed(what: str, problem: str, error: BaseException | None = None) -> None:
    """Record a failure until the process ends; `report` issues one warning for it."""
    if error is not None:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        if len(cause) > MAX_CAUSE_LENGTH:
            cause = cause[:MAX_CAUSE_LENGTH] + " ..."
        problem += f" ({cause})"
    if failures.setdefault(what, problem) is problem:
        _unreported[what] = f"{problem}: {_CONSEQUENCES[what]}"


def report() -> None:
    """Issue the warnings for failures that are not reported yet."""
    for what in list(_unreported):
        message = _unreported.pop(what, None)
        if message is not None:
            warnings.warn(message, RuntimeWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """Return the stack level of the code that called the library, for `warnings.warn`."""
    level = 2
    frame: FrameType | None = sys._getframe(level)
    while frame is not None and package_of(frame) == "rotary":
        level, frame = level + 1, frame.f_back
    return level


# ------------------------------------------------------------------------------------------------
# Without Numba.


def formulas() -> ModuleType:
    """Return the module of kernels, or a copy that needs no Numba if the module is not imported yet.

    The copy serves calls during which Numba cannot be imported, such as those in a signal handler that interrupted the
    import of Numba.
    """
    if loaded:
        from . import kernels

        return kernels
    return _kernels_without_numba()


@cache
def _kernels_without_numba() -> ModuleType:

    specification = importlib.util.find_spec(f"{__package__}.kernels")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    module.PLAIN = True  # type: ignore[attr-defined]  # read by the module
    specification.loader.exec_module(module)
    return module
