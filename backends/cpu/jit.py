"""Compiles the kernels, each at its first call, through Numba's disk cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from types import FunctionType
from typing import Any

import numba

# Numba would import this at its first call, and a fork at that moment would leave its import lock taken.
from numba import types

from rotary.layouts import Layout

from . import kernels
from .guard import failed, failures, is_torn, shielded, tell

_compiled: dict[tuple[str, str, bool], Any] = {}


# ------------------------------------------------------------------------------------------------
# Compiling.


def _signature(kernel: str, dtype: str, parallel: bool) -> tuple[Any, ...]:
    """Return the one signature a kernel is compiled for, per storage or table dtype.

    Strided, read-only arguments are declared: any array converts to them, so that neither the
    memory layout nor the flags of a caller's array cost another compilation.
    """

    def readable(element: str, ndim: int, layout: str = "C") -> Any:
        return types.Array(getattr(types, element), ndim, layout, readonly=True)

    if kernel == "fill_table":
        return (
            readable("uint32", 4),
            readable("uint64", 3),
            readable("uint64", 3),
            readable("int64", 2),
            readable("uint64", 2),
            types.float64,
            types.Array(getattr(types, dtype), 4, "C"),
            types.int64,
            *([types.int64] if parallel else [types.int64, types.int64]),
        )
    table = "float64" if dtype == "float64" else "float32"
    array, result = readable(dtype, 4, "A"), types.Array(getattr(types, dtype), 4, "A")
    return (
        array,
        result,
        array,
        result,
        readable("int64", 2),
        readable(table, 4),
        readable("int64", 2),
        types.int64,
        types.int64,
        types.int64,
        getattr(types, table),
        types.boolean,
        types.boolean if "half" in kernel else types.none,
        types.boolean if "streaming" in kernel else types.none,
        types.int64,
    )


def rotation(layout: Layout, *, streaming: bool) -> str:
    """Return the name of the kernel that rotates into a layout.

    Most processes need one of them, and none that writes past the caches: each compiles when its first call
    arrives.
    """
    return f"rotate_{layout}" + ("_streaming" if streaming else "")


def compiled(kernel: str, dtype: str, *, parallel: bool) -> Any | None:
    """Return a kernel compiled for one storage or table dtype, from the disk cache if it is there.

    None if Numba fails, now or before.
    """
    key = (kernel, dtype, parallel)
    function = _compiled.get(key)
    if function is None and not _is_given_up(parallel):
        shielded(partial(_add, *key))
        function = _compiled.get(key)
        tell()
    return function


def _is_given_up(parallel: bool) -> bool:
    """Return whether no more kernels are compiled."""
    return "kernels" in failures or (parallel and "threads" in failures)


def _add(kernel: str, dtype: str, parallel: bool) -> None:
    """Compile a kernel, unless another thread did so meanwhile, and remember it or why there is none."""
    key = (kernel, dtype, parallel)
    if key in _compiled or _is_given_up(parallel):
        return
    try:
        if is_torn():
            msg = "the process was forked while another thread compiled"
            raise RuntimeError(msg)
        _compiled[key] = _compile(*key)
    except BaseException as error:
        if not parallel:
            failed("kernels", "Numba cannot compile rotary's kernels", error)
        elif isinstance(error, Exception):
            _add(kernel, dtype, parallel=False)
            if (kernel, dtype, False) in _compiled:
                failed("threads", "Numba cannot compile rotary's parallel kernels", error)
        if not isinstance(error, Exception):
            raise


@cache
def entry_point(function: Any) -> Callable[..., int]:
    """Return what a compiled kernel is to Python: Numba's choice by the types of arguments outlasts a token."""
    (result,) = function.overloads.values()
    found: Callable[..., int] = result.entry_point
    return found


def _compile(kernel: str, dtype: str, parallel: bool) -> Any:
    """Compile a kernel, through the disk cache where that is wanted and works."""
    options = {"nogil": True, "error_model": "numpy", "parallel": parallel}
    source: Any = kernels.rotate
    if kernel == "fill_table":
        source = kernels.fill_table if parallel else kernels.fill_chunk
    function = _named(source, kernel + ("_parallel" if parallel else "_serial"))
    signature = [_signature(kernel, dtype, parallel)]
    if os.environ.get("ROTARY_CACHE", "1") == "0":
        return numba.njit(signature, **options)(function)
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except Exception as error:  # noqa: BLE001  (a damaged file may raise anything; see below)
        # If the cache is not the cause, this raises the error again.
        result = numba.njit(signature, **options)(function)
        # If no folder is writable Numba says so when asked to cache, and only in words.
        if "cannot cache" not in str(error):
            failed("disk cache", "Numba's disk cache cannot be used", error)
        return result


def _named(function: Any, name: str) -> Any:
    """Return a function under a name of its own.

    Numba's disk cache tells functions by name, code and signature, not by the options they are compiled
    with: without this the serial variant could be loaded as the parallel one.
    """
    copy = FunctionType(function.__code__, function.__globals__, name)
    copy.__module__ = function.__module__
    copy.__qualname__ = copy.__name__
    return copy
