"""Compilation of the kernels, each at its first call, through the disk cache of Numba."""

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

# The names of functions that Python calls.
FUNCTIONS = {
    "call": "call_rotation",
    "table": "fill_table",
    "call norm": "call_norm",
    "factors": "norm_factors",
}


class Variant(NamedTuple):
    """The parameters of one compiled function.

    Attributes
    ----------
    kind : str
        "rotation" for a kernel that rotates, "call" for the function with which Python calls such a kernel, or
        "table" for the kernel that fills tables; "norm" and "call norm" for arrays that are normed as well, and
        "factors" for norms alone; "gradients" for those by positions and frequencies.
    dtype : str
        The dtype of the arrays, or of the table. For "call", the dtype as which arrays are read, see `launch.STORAGE`.
    layout : Layout or None
        The layout of the result of a rotation.
    streaming : bool
        Whether results bypass the caches.
    after : bool
        Whether the norm follows the rotation.
    scaled : bool
        Whether there is an xPos scale, which positions change as well.
    """

    kind: Literal["rotation", "call", "table", "norm", "call norm", "factors", "gradients"]
    dtype: str
    layout: Layout | None = None
    streaming: bool = False
    after: bool = False
    scaled: bool = False

    @property
    def is_kernel(self) -> bool:
        """Whether the function takes the address of a call, and another one calls it."""
        return self.kind in ("rotation", "norm")

    @property
    def name(self) -> str:
        """The name of the function, without the dtype."""
        if self.kind == "gradients":
            return f"gradients_{self.layout}" + "_scaled" * self.scaled
        if not self.is_kernel:
            return FUNCTIONS[self.kind]
        name = "norm_" * (self.kind == "norm") + f"rotate_{self.layout}"
        return name + "_after" * self.after + "_streaming" * self.streaming


_compiled: dict[Variant, Any] = {}


def finish_import() -> None:
    """Make Numba import the modules that it would import at its first compilation: `host` must import all or none."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def _signature(variant: Variant) -> Any:
    """Return the one signature that a function is compiled for.

    Arguments are declared as strided and read-only, because every array converts to such a type. No memory layout and
    no flag of an array needs another compilation.
    """
    if variant.is_kernel:
        return types.int64(types.int64)
    if variant.kind == "gradients":
        return types.void(types.int64)
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
    if variant.kind == "factors":
        one = types.Array(dtype, 1, "C")
        sums = types.Array(types.float64, 1, "C")
        return types.void(readable(dtype, 3), one, sums, types.float64, types.float64)
    table = readable(dtype if variant.dtype == "float64" else types.float32, 4)
    array = readable(dtype, 4, "A")
    index = readable(types.int64, 2)
    if variant.kind == "call norm":
        weights = readable(table.dtype, 1)
        given = (array, array, table, index, weights)
        numbers = [*[types.int64] * 4, types.float64, types.float64, *[types.int64] * 4]
        return types.int64(types.int64, types.int64, *given, *numbers)
    return types.int64(*[types.int64] * 3, *[array] * 4, table, index, *[types.int64] * 8)


def compiled(variant: Variant) -> Any | None:
    """Return a compiled function, from the disk cache if possible, or None if Numba fails or has failed.

    Each variant is compiled at its first call, because most processes need few of them.
    """
    function = _compiled.get(variant)
    if function is None and "kernels" not in failures:
        shielded(partial(_add, variant))
        function = _compiled.get(variant)
        report()
    return function


def _add(variant: Variant) -> None:
    """Compile a function unless another thread already did, and record the function or the failure."""
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
    """Return the callable of a compiled function without Numba's dispatch on types, which takes longer than a token."""
    (result,) = function.overloads.values()
    entry: Callable[..., int] = result.entry_point
    return entry


def _compile(variant: Variant) -> Any:
    """Compile a function, through the disk cache unless it is disabled or fails."""
    if os.environ.get("ROTARY_CACHE", "1") == "0":
        return _decorated(variant, cache=False)
    try:
        return _decorated(variant, cache=True)
    except Exception as error:  # noqa: BLE001  (a damaged file may raise any error)
        # If the cache is not the cause, this compilation raises the error again.
        result = _decorated(variant, cache=False)
        # Numba has no error type of its own for an unwritable cache folder, only this message.
        if "cannot cache" not in str(error):
            failed("disk cache", "Numba's disk cache cannot be used", error)
        return result


def _decorated(variant: Variant, *, cache: bool) -> Any:
    """Compile a function: a rotation as a C function, which `rotate` calls by its address, and others for Python."""
    source: Any = kernels.fill_table
    if variant.kind == "call":
        source = kernels.rotate
    elif variant.kind == "call norm":
        source = kernels.norm_and_rotate
    elif variant.kind == "factors":
        source = kernels.norm_factors
    elif variant.kind == "gradients":
        halves = variant.layout == "half"
        source = kernels.gradients(variant.dtype, halves=halves, scaled=variant.scaled)
    elif variant.is_kernel:
        options = {"halves": variant.layout == "half", "streams": variant.streaming}
        source = (
            kernels.rotation(variant.dtype, **options)
            if variant.kind == "rotation"
            else kernels.norm_rotation(variant.dtype, after=variant.after, **options)
        )
    function = _named(source, f"{variant.name}_{variant.dtype}")
    signature = _signature(variant)
    if variant.is_kernel:
        return numba.cfunc(signature, cache=cache, error_model="numpy")(function)
    return numba.njit([signature], cache=cache, nogil=True, error_model="numpy")(function)


def _named(function: Any, name: str) -> Any:
    """Return a copy of a function with another name, which is the name of its files in the disk cache."""
    copy = FunctionType(function.__code__, function.__globals__, name, None, function.__closure__)
    copy.__module__ = function.__module__
    copy.__qualname__ = copy.__name__
    return copy
