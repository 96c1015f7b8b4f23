"""Which arrays can be rotated, and where results may be written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.numbers import check_dense, check_without_unit
from rotary._lib.typing import Array, HostArray, TableDType

# How hard to try to prove that two arrays with interleaved strides share no element.
OVERLAP_WORK: Any = 100_000  # older stubs of NumPy know only its two named amounts


def names_of(arrays: Sequence[Array]) -> list[str]:
    """Return what errors call the arrays of one call."""
    if len(arrays) == 1:
        return ["x"]
    if len(arrays) == 2:
        return ["q", "k"]
    return [f"arrays[{i}]" for i in range(len(arrays))]


def names_of_outputs(outputs: Sequence[Any]) -> list[str]:
    """Return what errors call the outputs of one call."""
    return ["out"] if len(outputs) == 1 else [f"out[{i}]" for i in range(len(outputs))]


def check_plain(x: Any, name: str) -> None:
    """Raise unless x is an array that keeps nothing besides its elements, in its blocks neither."""
    if type(x) is np.ndarray:
        return  # as most are; what follows asks every library in turn
    check_without_unit(x, name)
    if not libraries.is_array(x):
        msg = f"`{name}` must be an array, got {type(x).__name__}"
        raise TypeError(msg)
    check_dense(x, name)
    plain = getattr(x, "_meta", x) if libraries.is_dask_array(x) else x
    if libraries.is_masked_or_matrix(plain):
        msg = f"`{name}` must be a plain array, got {type(plain).__name__}"
        raise TypeError(msg)


def as_table_dtype(dtype: Any, name: str = "dtype") -> TableDType:
    """Return the name of a table's dtype, float32 or float64, given as any library's."""
    found = libraries.name_of_dtype(dtype)
    if found == "float32":
        return "float32"
    if found == "float64":
        return "float64"
    msg = f"`{name}` must be 'float32' or 'float64', got {dtype!r}"
    raise ValueError(msg)


def check_array(x: Any, name: str) -> None:
    """Raise unless x is an array of floating or complex numbers that can be rotated."""
    if type(x) is not np.ndarray:
        check_plain(x, name)
    dtype = libraries.dtype_name(x)
    if dtype not in libraries.DTYPES:
        msg = f"`{name}` must have one of the dtypes {', '.join(sorted(libraries.DTYPES))}, got {x.dtype}"
        if "int" in dtype:
            msg += "; positions are given by name, as `positions=`"
        raise TypeError(msg)


def check_of_library(x: Any, name: str) -> None:
    """Raise where x is memory of a GPU that no library has operations for."""
    if libraries.is_raw_gpu_memory(x):
        msg = f"`{name}` must be an array of a library, got {type(x)}: cupy.asarray makes it one"
        raise TypeError(msg)


def as_outputs(out: Any, arrays: Sequence[Array], names: Sequence[str]) -> list[Array | None]:
    """Return one output or None per array, checked against every array before anything is written."""
    if out is None:
        return [None] * len(arrays)
    outputs = list(out) if isinstance(out, tuple | list) else [out]
    if len(outputs) != len(arrays):
        msg = f"`out` must hold one array for each of the {len(arrays)} rotated, got {len(outputs)}"
        raise ValueError(msg)
    called = names_of_outputs(outputs)
    for output, x, name, source in zip(outputs, arrays, called, names, strict=True):
        _check_output(output, x, name, source)
    _check_overlaps(outputs, arrays, names)
    return outputs


def _check_output(out: Any, x: Array, name: str, source: str) -> None:
    """Raise unless an array can hold the rotation of x."""
    if out is not x:
        check_plain(out, name)
        _check_likeness(out, x, name, source)
    if not libraries.is_mutable(out):
        msg = f"`{name}` must be an array that can be written to, but {type(out)} is immutable"
        raise TypeError(msg)
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        msg = f"`{name}` must be writeable, got a read-only array"
        raise ValueError(msg)
    seen = _memory(out)
    if seen is not None and _overlaps_itself(seen):
        msg = f"`{name}` must not be broadcast or overlap itself: several of its elements are one"
        raise ValueError(msg)


def _check_likeness(out: Array, x: Array, name: str, source: str) -> None:
    """Raise unless an array is of the library, dtype and shape of x."""
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


def _memory(x: Array) -> HostArray | None:
    """Return an array that lies where another does, on the host or on a GPU; it may not be readable."""
    seen = libraries.host_view(x)
    if seen is not None:
        return seen
    from rotary.backends.cuda.memory import address_view

    return address_view(x)


def _overlaps_itself(x: HostArray) -> bool:
    """Return whether elements of an array may share memory: in no slice or transposition do they."""
    if x.flags.c_contiguous or not x.size:
        return False
    span = x.itemsize
    steps = zip(x.strides, x.shape, strict=True)
    for step, n in sorted((abs(step), n) for step, n in steps if n > 1):
        if step < span:
            return True
        span += step * (n - 1)
    return False


def check_apart(out: Array, tables: Sequence[Array], names: Sequence[str]) -> None:
    """Raise where an output shares memory with tables."""
    for table, name in zip(tables, names, strict=True):
        if _overlap(out, table):
            msg = f"`out` must not overlap `{name}`"
            raise ValueError(msg)


def _check_overlaps(
    outputs: Sequence[Array], arrays: Sequence[Array], names: Sequence[str]
) -> None:
    """Raise where an output shares memory with an array, unless it is the one it is the output of."""
    for i, output in enumerate(outputs):
        for j, x in enumerate(arrays):
            if not (i == j and _same_memory(output, x)) and _overlap(output, x):
                msg = (
                    f"`out` must be the input itself or overlap no input, but overlaps `{names[j]}`"
                )
                raise ValueError(msg)
        for other in outputs[:i]:
            if _overlap(output, other):
                msg = "`out` must hold arrays that do not overlap one another"
                raise ValueError(msg)


def _same_memory(a: Array, b: Array) -> bool:
    """Return whether two arrays of one shape are the same elements in the same order."""
    if a is b:
        return True
    a, b = _memory(a), _memory(b)
    return (
        a is not None
        and b is not None
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and _steps(a) == _steps(b)
    )


def _steps(x: HostArray) -> list[int]:
    """Return the strides of axes longer than 1; those of others say nothing about where elements lie."""
    return [step for step, n in zip(x.strides, x.shape, strict=True) if n > 1]


def _overlap(a: Array, b: Array) -> bool:
    """Return whether two arrays share an element, or might where the proof takes too long."""
    a, b = _memory(a), _memory(b)
    if a is None or b is None:
        return False
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=OVERLAP_WORK))
    except np.exceptions.TooHardError:
        return True
