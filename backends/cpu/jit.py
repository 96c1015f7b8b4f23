"""Compiles the kernels, each at its first call, through Numba's disk cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from types import FunctionType
from typing import Any, NamedTuple

import numba
from numba import types
from numba.core.registry import cpu_target

from rotary.layouts import Layout

from . import kernels
from .guard import failed, failures, is_torn, report, shielded


class Variant(NamedTuple):
    """One compilation of a kernel.

    Attributes
    ----------
    layout : Layout or None
        The layout of the result; None is the kernel that fills tables.
    dtype : str
        The dtype of the arrays in memory, or of the table.
    streaming : bool
        Whether results are written past the caches.
    parallel : bool
    """

    layout: Layout | None
    dtype: str
    streaming: bool = False
    parallel: bool = False

    @property
    def kernel(self) -> str:
        """The name of the kernel, without dtype and threads."""
        if self.layout is None:
            return "fill_table"
        return f"rotate_{self.layout}" + ("_streaming" if self.streaming else "")

    @property
    def name(self) -> str:
        """The name of the function in Numba's disk cache.

        Numba tells functions by name, code and signature there, not by the options they are compiled with: under one
        name the serial variant could be loaded as the parallel one.
        """
        return self.kernel + ("_parallel" if self.parallel else "_serial")

    @property
    def flags(self) -> tuple[bool | None, bool | None]:
        """Whether pairs are halves in the result, and whether it is streamed: True or None, as types for Numba."""
        return self.layout == "half" or None, self.streaming or None


_compiled: dict[Variant, Any] = {}


def finish_import() -> None:
    """Import what Numba leaves to its first compilation, so that `host` imports it whole or not at all."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def _signature(variant: Variant) -> tuple[Any, ...]:
    """Return the one signature a kernel is compiled for.

    Strided, read-only arguments are declared: any array converts to them, so that neither the
    memory layout nor the flags of a caller's array cost another compilation.
    """
    dtype = variant.dtype

    def readable(element: str, ndim: int, layout: str = "C") -> Any:
        return types.Array(getattr(types, element), ndim, layout, readonly=True)

    if variant.layout is None:
        return (
            readable("uint32", 4),
            readable("uint64", 3),
            readable("uint64", 3),
            readable("int64", 2),
            readable("uint64", 2),
            types.float64,
            types.Array(getattr(types, dtype), 4, "C"),
            types.int64,
            *([types.int64] if variant.parallel else [types.int64, types.int64]),
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
        *(types.boolean if flag else types.none for flag in variant.flags),
        types.int64,
    )


def compiled(variant: Variant) -> Any | None:
    """Return a compiled kernel, from the disk cache if it is there.

    None if Numba fails, now or before. Most processes need few variants: each is compiled at its first call.
    """
    function = _compiled.get(variant)
    if function is None and not _is_given_up(variant):
        shielded(partial(_add, variant))
        function = _compiled.get(variant)
        report()
    return function


def _is_given_up(variant: Variant) -> bool:
    """Return whether a failure has ended the compilation of kernels of this kind."""
    return "kernels" in failures or (variant.parallel and "threads" in failures)


def _add(variant: Variant) -> None:
    """Compile a kernel, unless another thread did so meanwhile, and keep it, or the reason why there is none."""
    if variant in _compiled or _is_given_up(variant):
        return
    try:
        if is_torn():
            msg = "the process was forked while another thread compiled"
            raise RuntimeError(msg)
        _compiled[variant] = _compile(variant)
    except BaseException as error:
        if not variant.parallel:
            failed("kernels", "Numba cannot compile rotary's kernels", error)
        elif isinstance(error, Exception):
            serial = variant._replace(parallel=False)
            _add(serial)
            if serial in _compiled:
                failed("threads", "Numba cannot compile rotary's parallel kernels", error)
        if not isinstance(error, Exception):
            raise


@cache
def entry_point(function: Any) -> Callable[..., int]:
    """Return a compiled kernel as Python calls it: Numba's dispatch on types takes longer than a token."""
    (result,) = function.overloads.values()
    found: Callable[..., int] = result.entry_point
    return found


def _compile(variant: Variant) -> Any:
    """Compile a kernel, through the disk cache if that is wanted and works."""
    options = {"nogil": True, "error_model": "numpy", "parallel": variant.parallel}
    source: Any = kernels.rotate
    if variant.layout is None:
        source = kernels.fill_table if variant.parallel else kernels.fill_chunk
    function = _named(source, variant.name)
    signature = [_signature(variant)]
    if os.environ.get("ROTARY_CACHE", "1") == "0":
        return numba.njit(signature, **options)(function)
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except Exception as error:  # noqa: BLE001  (a damaged file may raise anything)
        # If the cache is not the cause, this raises the error again.
        result = numba.njit(signature, **options)(function)
        # If no folder is writable, Numba says so by the message alone.
        if "cannot cache" not in str(error):
            failed("disk cache", "Numba's disk cache cannot be used", error)
        return result


def _named(function: Any, name: str) -> Any:
    """Return a copy of a function under another name."""
    copy = FunctionType(function.__code__, function.__globals__, name)
    copy.__module__ = function.__module__
    copy.__qualname__ = copy.__name__
    return copy
