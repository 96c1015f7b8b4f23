"""Concrete positions of any numeric dtype as int64 or float64, exactly or not at all."""

from __future__ import annotations

import array as buffers
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import libraries
from .checks import as_positive_integer, check_constant
from .errors import shown
from .typing import Float64Array, HostArray, Int64Array

__all__ = ["as_positions"]

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Number: TypeAlias = int | float
Positions: TypeAlias = Int64Array | Float64Array

INT64 = range(-(2**63), 2**63)
TOO_LARGE = 2.0**63
# Up to this size every integer is a float64.
EXACT = 2**53
# NumPy has no more axes: a list that is nested deeper may contain itself.
DEEPEST = 64
# Sequences whose items are of one kind, or that are no numbers.
TYPED = (str, bytes, bytearray, memoryview, range, buffers.array)
# Fraction bits of floats of 16 bits, and the pattern of their number in the names of shorter ones.
SHORT_FLOATS = {"float16": 10, "bfloat16": 7}
SHORTER_FLOAT = re.compile(r"float[0-9]+_e[0-9]+m([0-9]+)")


def as_positions(value: Any, *, name: str = "positions", coarse: bool = False) -> Positions:
    """Return concrete positions on the host as int64 or float64, exactly.

    Parameters
    ----------
    value : number, sequence of numbers, or array
        Integers or floats of any width, those of ml_dtypes included.
    name : str
        The argument that an error names.
    coarse : bool
        Whether floats of 16 bits and less may be so large that neighbouring positions coincide.

    Returns
    -------
    array, shape of `value`
        int64 for integers and float64 for floats; the caller's own memory where it is that
        already.

    Raises
    ------
    TypeError
        If the values are anything but integers and floats, or masked.
    ValueError
        If they are not finite, outside int64, not exactly a float64, or floats too short for their size.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        check_reach(int(value), name)
        return np.array(int(value), np.int64)
    if isinstance(value, range):
        return _from_range(value, name)
    if _is_list(value):
        return _from_list(value, name, coarse=coarse)
    array = host_array(value, name)
    kind = array.dtype.kind
    if kind in "iu" or (kind == "V" and np.can_cast(array.dtype, np.int64)):
        if kind == "u" and array.size:
            check_reach(int(array.max()), name)
        return array.astype(np.int64, copy=False)
    if kind == "f" or (kind == "V" and np.can_cast(array.dtype, np.float64)):
        result = _from_floats(array, name)
        if not coarse:
            _check_steps(
                result, libraries.dtype_name(value if hasattr(value, "dtype") else array), name
            )
        return result
    raise _not_numbers(array, name)


def as_length(value: Any, name: str) -> int:
    """Return a number of positions, which must not be beyond what is counted exactly."""
    length = as_positive_integer(value, name)
    if length > EXACT:
        msg = f"`{name}` must be at most 2**53 positions, got {shown(length)}"
        raise ValueError(msg)
    return length


def bounds_of(cu_seqlens: Any) -> Int64Array:
    """Return checked cumulative lengths."""
    bounds = as_positions(cu_seqlens, name="cu_seqlens")
    if bounds.ndim != 1 or not bounds.size:
        msg = f"`cu_seqlens` must have shape (n + 1,), got {bounds.shape}"
        raise ValueError(msg)
    if bounds.dtype != np.int64:
        msg = f"`cu_seqlens` must be integers, got {bounds.dtype}"
        raise TypeError(msg)
    if bounds[0] != 0:
        msg = f"`cu_seqlens` must start at 0, got {bounds[0]}"
        raise ValueError(msg)
    falls = np.flatnonzero(bounds[1:] < bounds[:-1])
    if falls.size:
        msg = f"`cu_seqlens` must not decrease, got {bounds[falls[0] + 1]} after {bounds[falls[0]]}"
        raise ValueError(msg)
    return bounds.astype(np.int64, copy=False)


def frozen(values: HostArray) -> HostArray:
    """Return a copy that cannot be written to, nor made writeable again: a view of one that is not."""
    owner = np.array(values, order="C")
    owner.setflags(write=False)
    return owner.view()


def host_array(value: Any, name: str) -> HostArray:
    """Return a value as a NumPy array of whatever dtype it has."""
    if libraries.is_masked_or_matrix(value):
        msg = f"`{name}` must be a plain array, got {type(value).__name__}"
        raise TypeError(msg)
    check_without_unit(value, name)
    if libraries.is_array(value):
        check_dense(value, name)
        known = libraries.to_host(value)
        if known is None:
            msg = f"`{name}` must be known on the host, not traced, lazy or with a gradient"
            raise TypeError(msg)
        value = known
    elif _is_list(value):
        _check_items(value, name)
    return _joined(value, name)


def constant_array(value: Any, name: str) -> HostArray:
    """Return the numbers of a specification as a NumPy array; nothing traced or learned, no boolean among numbers."""
    for each in leaves(value, name):
        check_dense(each, name)
        check_constant(each, name)
        if libraries.kind_of_number(each) == "b":
            msg = f"`{name}` must hold real numbers, got {each!r} of type {type(each).__name__}"
            raise TypeError(msg)
    return host_array(value, name)


def check_without_unit(value: Any, name: str) -> None:
    """Refuse a quantity with a unit, which the numbers alone would lose."""
    unit = libraries.unit_of(value)
    if unit is not None:
        msg = (
            f"`{name}` must be numbers without a unit, got {type(value).__name__} in {str(unit)!r}"
        )
        raise TypeError(msg)


def check_dense(value: Any, name: str) -> None:
    """Refuse an array that does not store every element."""
    if libraries.is_sparse(value):
        msg = f"`{name}` must be a dense array, got {libraries.kind_of_sparse(value)}"
        raise TypeError(msg)


def check_reach(value: Number, name: str, *, told: str = "") -> None:
    """Refuse a position outside int64, or a float of 2**63 and more in size."""
    if not (value in INT64 if isinstance(value, int) else abs(value) < TOO_LARGE):
        msg = f"`{name}` must keep positions within int64, got {shown(value)}{told}"
        raise ValueError(msg)


def found(values: HostArray, bad: BoolArray) -> str:
    """Tell the first value where `bad` holds, and its index unless there is only one value."""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    place = f" at index {index[0] if len(index) == 1 else index}" if index else ""
    return f"{values[index]}{place}"


def _from_range(value: range, name: str) -> Int64Array:
    """Return a range as int64."""
    for end in (*value[:1], *value[-1:]):
        check_reach(end, name)
    if not value[2:]:
        return np.array(list(value), np.int64)
    # Of three values within int64 the step is too, and products that wrap come back in the sum.
    return value.start + value.step * np.arange(len(value), dtype=np.int64)


def _joined(value: Any, name: str) -> HostArray:
    """Return nested lists, or what else NumPy takes, as one array."""
    try:
        return np.asarray(value)
    except ValueError as error:
        msg = f"`{name}` must be one array of numbers, got rows that do not fit together: {error}"
        raise ValueError(msg) from error


def _is_list(value: Any) -> bool:
    """Return whether NumPy would read a value item by item and choose one dtype for all."""
    if isinstance(value, list | tuple):
        return True
    return isinstance(value, Sequence) and not (
        isinstance(value, TYPED) or hasattr(value, "__array__")
    )


def _from_list(value: Sequence[Any], name: str, *, coarse: bool) -> Positions:
    """Return a list of numbers of any kinds, each as the exact number it is."""
    numbers = _plain(value, name, coarse=coarse)
    array = _joined(numbers, name)
    if array.dtype == np.int64:
        return array
    items = list(leaves(numbers, name))
    for item in items:
        if type(item) is int:
            check_reach(item, name)
    result = _from_floats(np.asarray(numbers, np.float64), name)
    # NumPy has made floats of integers. Python compares the two exactly.
    kept = result.ravel().tolist()
    rounded = np.array([a != b for a, b in zip(kept, items, strict=True)], bool)
    _refuse_rounded(result, rounded.reshape(result.shape), name)
    return result


def _plain(value: Any, name: str, *, coarse: bool, depth: int = 0) -> Any:
    """Return nested lists of Python's own integers and floats, each exactly what was given."""
    if not _is_list(value):
        return as_positions(value, name=name, coarse=coarse).tolist()
    if set(map(type, value)) <= {int, float}:
        return list(value)
    _check_depth(depth, name)
    return [_plain(each, name, coarse=coarse, depth=depth + 1) for each in value]


def leaves(value: Any, name: str, depth: int = 0) -> Iterator[Any]:
    """Yield the items of nested lists in order."""
    if _is_list(value):
        _check_depth(depth, name)
        for each in value:
            yield from leaves(each, name, depth + 1)
    else:
        yield value


def _check_depth(depth: int, name: str) -> None:
    """Refuse lists that no array can hold, such as one that contains itself."""
    if depth > DEEPEST:
        msg = f"`{name}` must be one array of numbers, got a list nested more than {DEEPEST} deep"
        raise ValueError(msg)


def _check_items(value: Sequence[Any], name: str) -> None:
    """Refuse items of a list whose unit or gradient NumPy would drop."""
    for each in leaves(value, name):
        if not isinstance(each, int | float):
            check_without_unit(each, name)
            if libraries.is_array(each):
                host_array(each, name)


def _from_floats(array: HostArray, name: str) -> Float64Array:
    """Return floats as float64, refusing what is not finite, too large or not exact."""
    with np.errstate(over="ignore"):  # a long double may be larger than any float64
        result = array.astype(np.float64, copy=False)
    largest = float(np.abs(result).max(initial=0.0))
    if not largest < TOO_LARGE:
        told = found(array, ~(np.abs(result) < TOO_LARGE))
        msg = f"`{name}` must be finite and below 2**63 in size, got {told}"
        raise ValueError(msg)
    if array.dtype.itemsize > 8:
        _refuse_rounded(result, result != array, name)
    return result


def _refuse_rounded(result: Float64Array, rounded: BoolArray, name: str) -> None:
    """Refuse floats that are not exactly what was given."""
    if rounded.any():
        msg = f"`{name}` must be exact in float64, got a value that is rounded to "
        msg += found(result, rounded)
        raise ValueError(msg)


def first_coarse(dtype: str) -> int | None:
    """Return from which size on a short float of this dtype skips integers; None for longer ones."""
    bits = SHORT_FLOATS.get(dtype)
    if bits is None:
        parts = SHORTER_FLOAT.match(dtype)
        if parts is None:
            return None
        bits = int(parts[1])
    return 1 << (bits + 1)


def _check_steps(values: Float64Array, dtype: str, name: str) -> None:
    """Refuse positions that a step of one would not change in the dtype they came in."""
    limit = first_coarse(dtype)
    if limit is None:
        return
    bad = np.abs(values) >= limit
    if bad.any():
        msg = (
            f"`{name}` must be below {limit} in size as {dtype}, which skips integers from there on, got "
            f"{found(values, bad)}; make them in a wider dtype"
        )
        raise ValueError(msg)


def _not_numbers(array: HostArray, name: str) -> TypeError:
    """Return the error for values that are neither integers nor floats."""
    objects = array.dtype.kind == "O" and array.size
    first = array.flat[0] if objects else None
    msg = f"`{name}` must be integers or floats, got "
    msg += type(first).__name__ if objects else str(array.dtype)
    if objects and array.ndim:
        msg += " in an array of objects"
    if array.dtype.kind in "mM" or isinstance(first, libraries.DATES):
        msg += "; rotary.positions.timestamps turns times into positions"
    return TypeError(msg)
