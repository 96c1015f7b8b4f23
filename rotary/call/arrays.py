"""Checks of the arrays that a call rotates and of the outputs that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.numbers import check_dense, check_without_unit
from rotary._lib.typing import Array, HostArray, TableDType

# The effort to prove that two arrays with interleaved strides share no element.
OVERLAP_WORK: Any = 100_000  # Any, because older NumPy stubs accept only two literals here


def names_of(arrays: Sequence[Array]) -> list[str]:
    """Return the names of the arrays of a call in error messages."""
    if len(arrays) == 1:
        return ["x"]
    if len(arrays) == 2:
        return ["q", "k"]
    return [f"arrays[{i}]" for i in range(len(arrays))]


def names_of_outputs(outputs: Sequence[Any]) -> list[str]:
    """Return the names of the outputs of a call in error messages."""
    return ["out"] if len(outputs) == 1 else [f"out[{i}]" for i in range(len(outputs))]


def check_unmasked(x: Any, name: str) -> None:
    """Raise unless x is an array without mask and unit; the blocks of a dask array are checked too."""
    if type(x) is np.ndarray:
        return  # most arrays are, and the checks below are slow
    check_without_unit(x, name)
    if not libraries.is_array(x):
        msg = f"`{name}` must be an array, got {type(x).__name__}"
        raise TypeError(msg)
    check_dense(x, name)
    block = getattr(x, "_meta", x) if libraries.is_dask_array(x) else x
    if libraries.is_masked_or_matrix(block):
        msg = f"`{name}` must be a plain array, got {type(block).__name__}"
        raise TypeError(msg)


def as_table_dtype(dtype: Any, name: str = "dtype") -> TableDType:
    """Return the name of a table dtype, float32 or float64; `dtype` may be that of any library."""
    given = libraries.name_of_dtype(dtype)
    if given == "float32":
        return "float32"
    if given == "float64":
        return "float64"
    msg = f"`{name}` must be 'float32' or 'float64', got {dtype!r}"
    raise ValueError(msg)


def check_array(x: Any, name: str) -> None:
    """Raise unless x is an array of floating or complex numbers that can be rotated."""
    if type(x) is not np.ndarray:
        check_unmasked(x, name)
    dtype = libraries.dtype_name(x)
    if dtype not in libraries.DTYPES:
        msg = f"`{name}` must have one of the dtypes {', '.join(sorted(libraries.DTYPES))}, got {x.dtype}"
        if "int" in dtype:
            msg += "; pass positions as `positions=`"
        raise TypeError(msg)


def check_primals(primals: Sequence[Any], arrays: Sequence[Array], names: Sequence[str]) -> None:
    """Raise unless each primal has the shape and dtype of the gradient of its result."""
    for primal, x, source in zip(primals, arrays, names, strict=True):
        name = "primals" if len(arrays) == 1 else f"primals of {source}"
        check_array(primal, name)
        if libraries.dtype_name(primal) != libraries.dtype_name(x):
            msg = f"`{name}` must have dtype {x.dtype}, as its gradient, got {primal.dtype}"
            raise TypeError(msg)
        if tuple(primal.shape) != tuple(x.shape):
            msg = f"`{name}` must have shape {tuple(x.shape)}, as its gradient, got {tuple(primal.shape)}"
            raise ValueError(msg)


def check_has_library(x: Any, name: str) -> None:
    """Raise if x is raw GPU memory, for which no library has operations."""
    if libraries.is_raw_gpu_memory(x):
        msg = f"`{name}` must be an array of a library, got {type(x)}; convert it with cupy.asarray"
        raise TypeError(msg)


def as_outputs(out: Any, arrays: Sequence[Array], names: Sequence[str]) -> list[Array | None]:
    """Return one output or None for each array, after checking every output against every array."""
    if out is None:
        return [None] * len(arrays)
    outputs = list(out) if isinstance(out, tuple | list) else [out]
    if len(outputs) != len(arrays):
        msg = f"`out` must hold one array for each of the {len(arrays)} inputs, got {len(outputs)}"
        raise ValueError(msg)
    output_names = names_of_outputs(outputs)
    for output, x, name, source in zip(outputs, arrays, output_names, names, strict=True):
        _check_output(output, x, name, source)
    _check_overlaps(outputs, arrays, names)
    return outputs


def _check_output(out: Any, x: Array, name: str, source: str) -> None:
    """Raise unless an array can hold the rotation of x."""
    if out is not x:
        check_unmasked(out, name)
        _check_same_spec(out, x, name, source)
    if not libraries.is_mutable(out):
        msg = f"`{name}` must be a mutable array, got {type(out)}, which is immutable"
        raise TypeError(msg)
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        msg = f"`{name}` must be writeable, got a read-only array"
        raise ValueError(msg)
    view = _memory_view(out)
    if view is not None and _overlaps_itself(view):
        msg = (
            f"`{name}` must not be broadcast or overlap itself, got elements that share one address"
        )
        raise ValueError(msg)


def _check_same_spec(out: Array, x: Array, name: str, source: str) -> None:
    """Raise unless an output has the library, dtype and shape of x."""
    if type(out) is not type(x) and not _are_of_one_library(out, x):
        msg = f"`{name}` must be of the library of `{source}`, got {type(out)} for {type(x)}"
        raise TypeError(msg)
    if libraries.dtype_name(out) != libraries.dtype_name(x):
        msg = f"`{name}` must have dtype {x.dtype}, as `{source}`, got {out.dtype}"
        raise TypeError(msg)
    if tuple(out.shape) != tuple(x.shape):
        msg = f"`{name}` must have shape {tuple(x.shape)}, as `{source}`, got {tuple(out.shape)}"
        raise ValueError(msg)


def _are_of_one_library(a: Array, b: Array) -> bool:
    """Return whether two arrays belong to the same library."""
    if libraries.is_raw_gpu_memory(a) or libraries.is_raw_gpu_memory(b):
        return False
    return libraries.namespace(a) is libraries.namespace(b)


def _memory_view(x: Array) -> HostArray | None:
    """Return a NumPy view of the same addresses, on the host or a GPU; its values may not be readable."""
    view = libraries.host_view(x)
    if view is not None:
        return view
    from rotary.backends.cuda.memory import address_view

    return address_view(x)


def _overlaps_itself(x: HostArray) -> bool:
    """Return whether elements of an array may share memory; they never do in a slice or a transpose."""
    if x.flags.c_contiguous or not x.size:
        return False
    span = x.itemsize
    axes = zip(x.strides, x.shape, strict=True)
    for stride, size in sorted((abs(stride), size) for stride, size in axes if size > 1):
        if stride < span:
            return True
        span += stride * (size - 1)
    return False


def check_no_overlap(out: Array, tables: Sequence[Array], names: Sequence[str]) -> None:
    """Raise if an output overlaps tables."""
    for table, name in zip(tables, names, strict=True):
        if _overlap(out, table):
            msg = f"`out` must not overlap `{name}`"
            raise ValueError(msg)


def _check_overlaps(
    outputs: Sequence[Array], arrays: Sequence[Array], names: Sequence[str]
) -> None:
    """Raise if an output overlaps another output or an input, unless it is exactly its own input."""
    for i, output in enumerate(outputs):
        for j, x in enumerate(arrays):
            if not (i == j and _same_memory(output, x)) and _overlap(output, x):
                msg = f"`out` must be the input itself or overlap no input, got overlap with `{names[j]}`"
                raise ValueError(msg)
        for j, other in enumerate(outputs[:i]):
            if _overlap(output, other):
                msg = f"`out` must hold arrays that do not overlap, got overlap of `out[{j}]` and `out[{i}]`"
                raise ValueError(msg)


def _same_memory(a: Array, b: Array) -> bool:
    """Return whether two arrays of one shape have the same elements in the same order."""
    if a is b:
        return True
    a, b = _memory_view(a), _memory_view(b)
    return (
        a is not None
        and b is not None
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and _significant_strides(a) == _significant_strides(b)
    )


def _significant_strides(x: HostArray) -> list[int]:
    """Return the strides of axes longer than 1, because strides of other axes do not affect addresses."""
    return [stride for stride, size in zip(x.strides, x.shape, strict=True) if size > 1]


def _overlap(a: Array, b: Array) -> bool:
    """Return whether two arrays share an element, or whether NumPy cannot rule it out in time."""
    a, b = _memory_view(a), _memory_view(b)
    if a is None or b is None:
        return False
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=OVERLAP_WORK))
    except np.exceptions.TooHardError:
        return True
