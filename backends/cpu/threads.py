"""How many threads a kernel uses, and whether parallel code is safe in this process and thread."""

from __future__ import annotations

import os
import sys
import threading

import llvmlite.binding
import numba

from rotary.runtime.threads import thread_limit

from .guard import HOME, failed, failures, report

# How many bytes are worth a thread: of most arrays, and of arrays of 16-bit channels, whose conversion takes time.
BYTES_PER_THREAD = 320 * 1024
HALF_BYTES_PER_THREAD = 128 * 1024
# Of a table. One thread computes so much in 0.1 ms; starting another one may take several if all processors are busy.
ROW_BYTES_PER_THREAD = 256 * 1024
# Whether the parent of a forked process had started Numba's threads, by process.
_inherited: dict[int, bool] = {}


def _numba_threads_started() -> bool:
    """Return whether a parallel loop has run in this process or in its parent."""
    module = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(module, "_is_initialized", False))


def _threads_are_inherited() -> bool:
    """Return whether the parent of this process had started Numba's threads, which do not survive a fork."""
    process = os.getpid()
    found = _inherited.get(process)
    if found is None:
        found = process != HOME and _numba_threads_started()
        _inherited[process] = found
    return found


def parallel_is_safe() -> bool:
    """Return whether a parallel kernel may run in this process and thread.

    OpenMP ends a forked child that starts threads again. The workqueue layer ends the process if two threads use it
    at once. Which layer runs is known only after the first parallel call, so that only the main thread may make it.
    """
    if "threads" in failures or _threads_are_inherited():
        return False
    if threading.current_thread() is threading.main_thread():
        return True
    return _numba_threads_started() and numba.threading_layer() != "workqueue"


def thread_count(nbytes: int, bytes_per_thread: int) -> int:
    """Return how many threads should work on so many bytes."""
    wanted = nbytes // bytes_per_thread
    if wanted < 2:
        return 1
    limit = thread_limit()
    if limit is not None:
        wanted = min(wanted, limit)
    if wanted < 2 or not parallel_is_safe():
        return 1
    return min(wanted, _numba_threads())


def threads_for(nbytes: int, bytes_per_thread: int) -> tuple[int, int]:
    """Return how many threads should work on so many bytes, and what has them do so, see `team`."""
    count = thread_count(nbytes, bytes_per_thread)
    address = team() if count > 1 else 0
    return (count, address) if address else (1, 0)


def team() -> int:
    """Return the address of `numba_parallel_for`, by which Numba's threads are told to work; 0 if it is not there.

    Numba gives it this name for the code that it compiles for `prange`.
    """
    address = llvmlite.binding.address_of_symbol("numba_parallel_for")
    if not address:
        failed(
            "threads",
            "Numba's threads cannot be told to work, because it has no `numba_parallel_for`",
        )
        report()
    return address or 0


def _numba_threads_start() -> bool:
    """Start Numba's threads if they do not run, and return whether they do."""
    _numba_threads()
    return "threads" not in failures


def _numba_threads() -> int:
    """Start Numba's threads and return how many it may use; 1 if they cannot be started.

    Numba's own function takes two locks for each call, and an interruption may leave them taken.
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
    report()
    return 1
