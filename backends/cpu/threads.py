"""How many threads a piece of work is worth, and whether parallel code is safe here."""

from __future__ import annotations

import os
import sys
import threading

import numba

# Numba would import this at its first call, and a fork at that moment would leave its import lock taken.
from rotary.runtime.threads import thread_limit

from .guard import HOME, failed, failures, tell

BYTES_PER_THREAD = 512 * 1024
ROW_BYTES_PER_THREAD = 64 * 1024
# By process: whether the process that it was forked from had started Numba's threads.
_inherited: dict[int, bool] = {}


# ------------------------------------------------------------------------------------------------
# Threads.


def _numba_threads_started() -> bool:
    """Return whether a parallel loop has run in this process, or in the one it was forked from."""
    module = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(module, "_is_initialized", False))


def _threads_are_inherited() -> bool:
    """Return whether this process was forked from one that had started Numba's threads, which the fork ended."""
    process = os.getpid()
    found = _inherited.get(process)
    if found is None:
        found = process != HOME and _numba_threads_started()
        _inherited[process] = found
    return found


def parallel_is_safe() -> bool:
    """Return whether a parallel kernel may run here and now.

    OpenMP ends a forked child that starts threads again, and the workqueue layer ends the process when
    two threads use it at once. Which layer runs is known only after the first parallel call, so that
    one is left to the main thread.
    """
    if "threads" in failures or _threads_are_inherited():
        return False
    if threading.current_thread() is threading.main_thread():
        return True
    return _numba_threads_started() and numba.threading_layer() != "workqueue"


def thread_count(nbytes: int, bytes_per_thread: int) -> int:
    """Return how many threads a piece of work of this size is worth."""
    wanted = nbytes // bytes_per_thread
    if wanted < 2:
        return 1
    limit = thread_limit()
    if limit is not None:
        wanted = min(wanted, limit)
    if wanted < 2 or not parallel_is_safe():
        return 1
    return min(wanted, _numba_threads())


def _numba_threads_start() -> bool:
    """Return whether Numba's threads run, and start them if they do not."""
    _numba_threads()
    return "threads" not in failures


def _numba_threads() -> int:
    """Return how many threads Numba may use, and start them; 1 if they cannot be started.

    Numba's own function takes two locks each time, and an interrupted one stays taken.
    """
    module = sys.modules.get("numba.np.ufunc.parallel")
    count = getattr(module, "_get_num_threads", None)
    if count is not None and _numba_threads_started():
        return int(count())
    try:
        return int(numba.get_num_threads())
    except Exception as error:  # noqa: BLE001  (the library of a layer may raise anything)
        failed("threads", "Numba's threads cannot be started", error)
    except BaseException as interruption:
        failed("threads", "the start of Numba's threads was interrupted", interruption)
        raise
    tell()
    return 1
