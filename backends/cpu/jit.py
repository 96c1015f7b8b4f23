"""Compiles the kernels, each at its first call, through Numba's disk cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from types import FunctionType
from typing import Any, Literal, NamedTuple

import numba
from numba import types
from numba.core.registry import cpu_target

from rotary.layouts import Layout

from . import kernels
from .guard import failed, failures, is_torn, report, shielded


class Variant(NamedTuple):
    """One function that is compiled.

    Attributes
    ----------
    kind : str
        "rotation" for the kernel that rotates, "call" for the function by which Python calls such a kernel, or
        "table" for the one that fills tables.
    dtype : str
        The dtype of the arrays, or of the table. "call" takes that by which arrays are read: see `launch.STORAGE`.
    layout : Layout or None
        The layout of the result of a rotation.
    streaming : bool
        Whether results are written past the caches.
    """

    kind: Literal["rotation", "call", "table"]
    dtype: str
    layout: Layout | None = None
    streaming: bool = False

    @property
    def name(self) -> str:
        """The name of the function, without the dtype."""
        if self.kind != "rotation":
            return {"call": "call_rotation", "table": "fill_table"}[self.kind]
        return f"rotate_{self.layout}" + ("_streaming" if self.streaming else "")


_compiled: dict[Variant, Any] = {}


def finish_import() -> None:
    """Import what Numba leaves to its first compilation, so that `host` imports it whole or not at all."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def _signature(variant: Variant) -> Any:
    """Return the one signature a function is compiled for.

    Strided, read-only arguments are declared: any array converts to them, so that neither the
    memory layout nor the flags of a caller's array cost another compilation.
    """
    if variant.kind == "rotation":
        return types.int64(types.int64)
    dtype = getattr(types, variant.dtype)

    def readable(element: Any, ndim: int, layout: str = "C") -> Any:
        return types.Array(element, ndim, layout, readonly=True)

    if variant.kind == "table":
        return types.void(
            readable(types.uint32, 4),
            readable(types.uint64, 3),
            readable(types.uint64, 3),
            readable(types.int64, 2),
            readable(types.uint64, 2),
            types.float64,
            types.Array(dtype, 4, "C"),
            *[types.int64] * 3,
        )
    table = readable(dtype if variant.dtype == "float64" else types.float32, 4)
    array = readable(dtype, 4, "A")
    index = readable(types.int64, 2)
    return types.int64(*[types.int64] * 3, *[array] * 4, table, index, *[types.int64] * 8)


def compiled(variant: Variant) -> Any | None:
    """Return a compiled function, from the disk cache if it is there.

    None if Numba fails, now or before. Most processes need few variants: each is compiled at its first call.
    """
    function = _compiled.get(variant)
    if function is None and "kernels" not in failures:
        shielded(partial(_add, variant))
        function = _compiled.get(variant)
        report()
    return function


def _add(variant: Variant) -> None:
    """Compile a function, unless another thread did so meanwhile, and keep it, or the reason why there is none."""
    if variant in _compiled or "kernels" in failures:
        return
    try:
        if is_torn():
            msg = "the process was forked while another thread compiled"
            raise RuntimeError(msg)
        _compiled[variant] = _compile(variant)
    except BaseException as error:
        failed("kernels", "Numba cannot compile rotary's kernels", error)
        if not isinstance(error, Exception):
            raise


@cache
def entry_point(function: Any) -> Callable[..., int]:
    """Return a compiled function as Python calls it: Numba's dispatch on types takes longer than a token."""
    (result,) = function.overloads.values()
    found: Callable[..., int] = result.entry_point
    return found


def _compile(variant: Variant) -> Any:
    """Compile a function, through the disk cache if that is wanted and works."""
    if os.environ.get("ROTARY_CACHE", "1") == "0":
        return _decorated(variant, cache=False)
    try:
        return _decorated(variant, cache=True)
    except Exception as error:  # noqa: BLE001  (a damaged file may raise anything)
        # If the cache is not the cause, this raises the error again.
        result = _decorated(variant, cache=False)
        # If no folder is writable, Numba says so by the message alone.
        if "cannot cache" not in str(error):
            failed("disk cache", "Numba's disk cache cannot be used", error)
        return result


def _decorated(variant: Variant, *, cache: bool) -> Any:
    """Compile a function: a kernel that rotates for callers in C, the others for Python."""
    source: Any = kernels.fill_table
    if variant.kind == "call":
        source = kernels.rotate
    elif variant.kind == "rotation":
        halves = variant.layout == "half"
        source = kernels.rotation(variant.dtype, halves=halves, streams=variant.streaming)
    function = _named(source, f"{variant.name}_{variant.dtype}")
    signature = _signature(variant)
    if variant.kind == "rotation":
        return numba.cfunc(signature, cache=cache, error_model="numpy")(function)
    options = {"nogil": True, "error_model": "numpy"}
    return numba.njit([signature], cache=cache, **options)(function)


def _named(function: Any, name: str) -> Any:
    """Return a copy of a function under another name, by which Numba's disk cache names its file."""
    copy = FunctionType(function.__code__, function.__globals__, name, None, function.__closure__)
    copy.__module__ = function.__module__
    copy.__qualname__ = copy.__name__
    return copy
