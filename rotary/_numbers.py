"""Concrete positions of any numeric dtype as int64 or float64, exactly or not at all."""

from __future__ import annotations

import datetime as dt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _libraries as libraries
from ._checks import as_positive_integer
from ._errors import shown
from ._typing import Float64Array, HostArray, Int64Array

__all__ = ["as_positions"]

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Number: TypeAlias = int | float
Positions: TypeAlias = Int64Array | Float64Array

# What stands for a date or a duration in an array of objects; a datetime is a date.
DATES = (dt.date, dt.timedelta, np.datetime64, np.timedelta64)

INT64 = range(-(2**63), 2**63)
TOO_LARGE = 2.0**63
# Up to this size every integer is a float64.
EXACT = 2**53


def as_positions(value: Any, *, name: str = "positions") -> Positions:
    """Return concrete positions on the host as int64 or float64, exactly.

    Parameters
    ----------
    value : number, sequence of numbers, or array
        Integers or floats of any width, those of ml_dtypes included.
    name : str
        The argument that an error names.

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
        If they are not finite, outside int64, or not exactly a float64.
    """
    if type(value) is int:
        check_reach(value, name)
        return np.array(value, np.int64)
    if isinstance(value, range):
        return _from_range(value, name)
    array = host_array(value, name)
    kind = array.dtype.kind
    if kind in "iu" or (kind == "V" and np.can_cast(array.dtype, np.int64)):
        if kind == "u" and array.size:
            check_reach(int(array.max()), name)
        return array.astype(np.int64, copy=False)
    if kind == "f" or (kind == "V" and np.can_cast(array.dtype, np.float64)):
        return _from_floats(array, value, name)
    raise _not_numbers(array, name)


def as_length(value: Any, name: str) -> int:
    """Return a number of positions, which must not be beyond what is counted exactly."""
    length = as_positive_integer(value, name)
    if length > EXACT:
        msg = f"`{name}` must be at most 2**53 positions, got {shown(value)}"
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
    if isinstance(value, np.ma.MaskedArray | np.matrix):
        msg = f"`{name}` must be a plain array, got {type(value).__name__}"
        raise TypeError(msg)
    if libraries.is_array(value):
        value = libraries.to_host(value)
        if value is None:
            msg = f"`{name}` must be known on the host, not traced, lazy or with a gradient"
            raise TypeError(msg)
    try:
        return np.asarray(value)
    except ValueError as error:
        msg = f"`{name}` must be one array of numbers, got rows that do not fit together: {error}"
        raise ValueError(msg) from error


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


def _from_floats(array: HostArray, value: Any, name: str) -> Float64Array:
    """Return floats as float64, refusing what is not finite, too large or not exact."""
    with np.errstate(over="ignore"):  # a long double may be larger than any float64
        result = array.astype(np.float64, copy=False)
    largest = float(np.abs(result).max(initial=0.0))
    if not largest < TOO_LARGE:
        told = found(array, ~(np.abs(result) < TOO_LARGE))
        msg = f"`{name}` must be finite and below 2**63 in size, got {told}"
        raise ValueError(msg)
    rounded = result != array if array.dtype.itemsize > 8 else None
    if largest >= EXACT and isinstance(value, list | tuple):
        # NumPy has made one float64 array of integers and floats. Python compares them exactly.
        listed = np.array(value, dtype=object)
        pairs = zip(result.ravel().tolist(), listed.flat, strict=True)
        rounded = np.array([kept != given for kept, given in pairs]).reshape(result.shape)
    if rounded is not None and rounded.any():
        msg = f"`{name}` must be exact in float64, got a value that is rounded to "
        msg += found(result, rounded)
        raise ValueError(msg)
    return result


def _not_numbers(array: HostArray, name: str) -> Exception:
    """Return the error for values that are neither integers nor floats."""
    items = array.ravel().tolist() if array.dtype.kind == "O" else []
    if items and all(type(item) is int for item in items):
        return ValueError(f"`{name}` must be within int64, got {max(items, key=abs)}")
    msg = f"`{name}` must be integers or floats, got "
    msg += type(items[0]).__name__ if items else str(array.dtype)
    if array.dtype.kind in "mM" or (items and isinstance(items[0], DATES)):
        msg += "; rotary.positions.timestamps turns times into positions"
    return TypeError(msg)
