"""The number of threads of a kernel, and the check that parallel code is safe in this process and thread."""

from __future__ import annotations

import os
import sys
import threading

import llvmlite.binding
import numba

from rotary.runtime.threads import thread_limit

from .guard import IMPORTING_PROCESS, failed, failures, report, shielded

# The number of bytes for which another thread pays: of most arrays, and of arrays of 16-bit channels, which are slower.
BYTES_PER_THREAD = 320 * 1024
HALF_BYTES_PER_THREAD = 128 * 1024
# For tables. One thread computes this many bytes in 0.1 ms, and starting another may take several ms on a busy machine.
ROW_BYTES_PER_THREAD = 256 * 1024
# For each process, whether its parent had started Numba's threads before the fork.
_inherited: dict[int, bool] = {}
# The address of `numba_parallel_for`, once it is known.
_parallel_for: dict[str, int] = {}


def numba_threads_started() -> bool:
    """Return whether Numba's threads were started in this process, or in its parent before a fork."""
    module = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(module, "_is_initialized", False))


def _threads_are_inherited() -> bool:
    """Return whether the parent of this process had started Numba's threads, which do not survive a fork."""
    process = os.getpid()
    inherited = _inherited.get(process)
    if inherited is None:
        inherited = process != IMPORTING_PROCESS and numba_threads_started()
        _inherited[process] = inherited
    return inherited


def parallel_is_safe() -> bool:
    """Return whether a parallel kernel may run in this process and thread.

    OpenMP aborts a forked child that starts threads again. The workqueue layer aborts the process if two threads use
    it at once. The layer is known only after the first parallel call, so only the main thread may make this call.
    """
    if "threads" in failures or _threads_are_inherited():
        return False
    if threading.current_thread() is threading.main_thread():
        return True
    return numba_threads_started() and numba.threading_layer() != "workqueue"


def thread_count(nbytes: int, bytes_per_thread: int) -> int:
    """Return the number of threads for `nbytes` bytes, each of which should have at least `bytes_per_thread`."""
    threads = nbytes // bytes_per_thread
    if threads < 2:
        return 1
    limit = thread_limit()
    if limit is not None:
        threads = min(threads, limit)
    if threads < 2 or not parallel_is_safe():
        return 1
    return min(threads, _numba_threads())


def threads_for(nbytes: int, bytes_per_thread: int) -> tuple[int, int]:
    """Return the number of threads for `nbytes` bytes, and the address of the function that runs code in them.

    The address is 0 for one thread, see `parallel_for_address`.
    """
    count = thread_count(nbytes, bytes_per_thread)
    address = parallel_for_address() if count > 1 else 0
    return (count, address) if address else (1, 0)


def parallel_for_address() -> int:
    """Return the address of `numba_parallel_for`, which runs code in Numba's threads, or 0 if Numba has none.

    This is the symbol that Numba calls in the code that it compiles for `prange`. It is looked up once, in a thread
    that no signal reaches: llvmlite takes a lock, which an interruption may leave taken.
    """
    if "address" not in _parallel_for:
        shielded(_look_up_parallel_for)
        report()
    return _parallel_for.get("address", 0)


def _look_up_parallel_for() -> None:
    """Look up the address of `numba_parallel_for`."""
    address = llvmlite.binding.address_of_symbol("numba_parallel_for") or 0
    if not address:
        failed(
            "threads", "Numba's threads cannot run code, because `numba_parallel_for` is missing"
        )
    _parallel_for["address"] = address


def start_numba_threads() -> bool:
    """Start Numba's threads unless they are running, and return whether this succeeded."""
    _numba_threads()
    return "threads" not in failures


def _numba_threads() -> int:
    """Start Numba's threads and return their number, or 1 if they cannot be started.

    Once they run, this avoids `numba.get_num_threads`: it takes two locks, and an interruption may leave these taken.
    """
    module = sys.modules.get("numba.np.ufunc.parallel")
    count = getattr(module, "_get_num_threads", None)
    if count is not None and numba_threads_started():
        return int(count())
    try:
        return int(numba.get_num_threads())
    except Exception as error:  # noqa: BLE001  (the library of a threading layer may raise any error)
        failed("threads", "Numba's threads cannot be started", error)
    except BaseException as interruption:
        failed("threads", "the start of Numba's threads was interrupted", interruption)
        raise
    report()
    return 1
