"""Concrete positions of any numeric dtype as exact int64 or float64."""

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
# Up to this size, float64 represents every integer.
EXACT = 2**53
# The most axes of a NumPy array. A list that is nested deeper may contain itself.
DEEPEST = 64
# Sequences whose items have one type, or are not numbers.
TYPED = (str, bytes, bytearray, memoryview, range, buffers.array)
# Fraction bits of 16-bit floats. The name of an 8-bit float contains the number of its fraction bits.
SHORT_FLOATS = {"float16": 10, "bfloat16": 7}
SHORTER_FLOAT = re.compile(r"float[0-9]+_e[0-9]+m([0-9]+)")


def as_positions(value: Any, *, name: str = "positions", coarse: bool = False) -> Positions:
    """Return concrete positions on the host as int64 or float64, exactly.

    Parameters
    ----------
    value : number, sequence of numbers, or array
        Integers or floats of any width, including the dtypes of ml_dtypes.
    name : str
        The name of the argument, for error messages.
    coarse : bool
        Whether to accept floats of 16 bits and fewer that are so large that their dtype skips integers.

    Returns
    -------
    array, shape of `value`
        int64 for integers and float64 for floats; `value` itself if it is an array of that dtype.

    Raises
    ------
    TypeError
        If the values are anything but integers and floats, or masked.
    ValueError
        If values are not finite, outside int64, not exact in float64, or so large that a short float
        dtype skips integers.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        check_int64_range(int(value), name)
        return np.array(int(value), np.int64)
    if isinstance(value, range):
        return _from_range(value, name)
    if _is_list(value):
        return _from_list(value, name, coarse=coarse)
    array = host_array(value, name)
    kind = array.dtype.kind
    if kind in "iu" or (kind == "V" and np.can_cast(array.dtype, np.int64)):
        if kind == "u" and array.size:
            check_int64_range(int(array.max()), name)
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
    """Return a number of positions as an int of at most 2**53, because float64 counts exactly up to there."""
    length = as_positive_integer(value, name)
    if length > EXACT:
        msg = f"`{name}` must be at most 2**53 positions, got {shown(length)}"
        raise ValueError(msg)
    return length


def bounds_of(cu_seqlens: Any) -> Int64Array:
    """Return the cumulative lengths of packed sequences, checked."""
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
    decreases = np.flatnonzero(bounds[1:] < bounds[:-1])
    if decreases.size:
        msg = f"`cu_seqlens` must not decrease, got {bounds[decreases[0] + 1]} after {bounds[decreases[0]]}"
        raise ValueError(msg)
    return bounds.astype(np.int64, copy=False)


def frozen(values: HostArray) -> HostArray:
    """Return a read-only copy. Nobody can make it writeable, because it is a view of a read-only array."""
    owner = np.array(values, order="C")
    owner.setflags(write=False)
    return owner.view()


def host_array(value: Any, name: str) -> HostArray:
    """Return a value as a NumPy array of its own dtype, checked."""
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
    return _as_array(value, name)


def constant_array(value: Any, name: str) -> HostArray:
    """Return numbers of a specification as a NumPy array; raise for booleans and for traced or learned numbers."""
    for item in leaves(value, name):
        check_dense(item, name)
        check_constant(item, name)
        if libraries.kind_of_number(item) == "b":
            msg = f"`{name}` must hold real numbers, got {item!r} of type {type(item).__name__}"
            raise TypeError(msg)
    return host_array(value, name)


def check_without_unit(value: Any, name: str) -> None:
    """Raise for a quantity with a unit, because conversion to a plain array would drop the unit."""
    unit = libraries.unit_of(value)
    if unit is not None:
        msg = (
            f"`{name}` must be numbers without a unit, got {type(value).__name__} in {str(unit)!r}"
        )
        raise TypeError(msg)


def check_dense(value: Any, name: str) -> None:
    """Raise for a sparse array."""
    if libraries.is_sparse(value):
        msg = f"`{name}` must be a dense array, got {libraries.kind_of_sparse(value)}"
        raise TypeError(msg)


def check_int64_range(value: Number, name: str, *, suffix: str = "") -> None:
    """Raise for an integer position outside int64, or a float whose magnitude is 2**63 or more."""
    if not (value in INT64 if isinstance(value, int) else abs(value) < TOO_LARGE):
        msg = f"`{name}` must keep positions within int64, got {shown(value)}{suffix}"
        raise ValueError(msg)


def first_bad(values: HostArray, bad: BoolArray) -> str:
    """Return the first bad value for a message, with its index unless `values` is a scalar."""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    suffix = f" at index {index[0] if len(index) == 1 else index}" if index else ""
    return f"{values[index]}{suffix}"


def _from_range(value: range, name: str) -> Int64Array:
    """Return a range as int64."""
    for end in (*value[:1], *value[-1:]):
        check_int64_range(end, name)
    if not value[2:]:
        return np.array(list(value), np.int64)
    # Three values fit int64, so the step does too. A product that overflows wraps back in the sum.
    return value.start + value.step * np.arange(len(value), dtype=np.int64)


def _as_array(value: Any, name: str) -> HostArray:
    """Name the argument if nested lists are ragged."""
    try:
        return np.asarray(value)
    except ValueError as error:
        msg = f"`{name}` must be an array of numbers, got lists of different lengths: {error}"
        raise ValueError(msg) from error


def _is_list(value: Any) -> bool:
    """Return whether NumPy would choose one dtype for the items of a value."""
    if isinstance(value, list | tuple):
        return True
    return isinstance(value, Sequence) and not (
        isinstance(value, TYPED) or hasattr(value, "__array__")
    )


def _from_list(value: Sequence[Any], name: str, *, coarse: bool) -> Positions:
    """Return the exact values of a list, whose items may have different types."""
    numbers = _as_python_numbers(value, name, coarse=coarse)
    array = _as_array(numbers, name)
    if array.dtype == np.int64:
        return array
    items = list(leaves(numbers, name))
    for item in items:
        if type(item) is int:
            check_int64_range(item, name)
    result = _from_floats(np.asarray(numbers, np.float64), name)
    # NumPy has converted integers to floats. Python compares integers and floats exactly.
    converted = result.ravel().tolist()
    rounded = np.array([a != b for a, b in zip(converted, items, strict=True)], bool)
    _refuse_rounded(result, rounded.reshape(result.shape), name)
    return result


def _as_python_numbers(value: Any, name: str, *, coarse: bool, depth: int = 0) -> Any:
    """Return nested lists of Python integers and floats that equal the given numbers."""
    if not _is_list(value):
        return as_positions(value, name=name, coarse=coarse).tolist()
    if set(map(type, value)) <= {int, float}:
        return list(value)
    _check_depth(depth, name)
    return [_as_python_numbers(item, name, coarse=coarse, depth=depth + 1) for item in value]


def leaves(value: Any, name: str, depth: int = 0) -> Iterator[Any]:
    """Yield the items of nested lists in order."""
    if _is_list(value):
        _check_depth(depth, name)
        for item in value:
            yield from leaves(item, name, depth + 1)
    else:
        yield value


def _check_depth(depth: int, name: str) -> None:
    """Raise for lists that are nested too deeply, such as one that contains itself."""
    if depth > DEEPEST:
        msg = f"`{name}` must be an array of numbers, got a list nested more than {DEEPEST} levels deep"
        raise ValueError(msg)


def _check_items(value: Sequence[Any], name: str) -> None:
    """Raise for items of a list whose unit or gradient NumPy would drop."""
    for item in leaves(value, name):
        if not isinstance(item, int | float):
            check_without_unit(item, name)
            if libraries.is_array(item):
                host_array(item, name)


def _from_floats(array: HostArray, name: str) -> Float64Array:
    """Return floats as float64; raise for values that are not finite, too large or not exact in float64."""
    with np.errstate(over="ignore"):  # a long double may be larger than any float64
        result = array.astype(np.float64, copy=False)
    largest = float(np.abs(result).max(initial=0.0))
    if not largest < TOO_LARGE:
        value = first_bad(array, ~(np.abs(result) < TOO_LARGE))
        msg = f"`{name}` must be finite and below 2**63 in magnitude, got {value}"
        raise ValueError(msg)
    if array.dtype.itemsize > 8:
        _refuse_rounded(result, result != array, name)
    return result


def _refuse_rounded(result: Float64Array, rounded: BoolArray, name: str) -> None:
    """Raise if the conversion to float64 rounded a number."""
    if rounded.any():
        msg = f"`{name}` must be exact in float64, got a value that float64 rounds to "
        msg += first_bad(result, rounded)
        raise ValueError(msg)


def first_coarse(dtype: str) -> int | None:
    """Return the magnitude from which a float dtype of 16 bits or fewer skips integers; None for wider dtypes."""
    bits = SHORT_FLOATS.get(dtype)
    if bits is None:
        parts = SHORTER_FLOAT.match(dtype)
        if parts is None:
            return None
        bits = int(parts[1])
    return 1 << (bits + 1)


def _check_steps(values: Float64Array, dtype: str, name: str) -> None:
    """Raise for positions so large that their dtype skips integers."""
    limit = first_coarse(dtype)
    if limit is None:
        return
    bad = np.abs(values) >= limit
    if bad.any():
        msg = (
            f"`{name}` must be below {limit} in magnitude if their dtype is {dtype}, because larger {dtype} "
            f"numbers skip integers, got {first_bad(values, bad)}; use a wider dtype"
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
        msg += "; rotary.positions.timestamps converts times to positions"
    return TypeError(msg)
