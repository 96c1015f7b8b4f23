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
# NumPy has no more axes than this. A list that is nested deeper may contain itself.
DEEPEST = 64
# Sequences whose items have one type, or are not numbers.
TYPED = (str, bytes, bytearray, memoryview, range, buffers.array)
# The fraction bits of 16-bit floats; the names of shorter ones contain theirs.
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
        Whether floats of 16 bits and less may be so large that they skip integers.

    Returns
    -------
    array, shape of `value`
        int64 for integers and float64 for floats; the caller's own memory if it has that dtype.

    Raises
    ------
    TypeError
        If the values are anything but integers and floats, or masked.
    ValueError
        If they are not finite, outside int64, not exact in float64, or too large for a short float.
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
    """Return a number of positions, at most as many as float64 counts exactly."""
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
    """Return a read-only copy, which cannot be made writeable because it is a view of a read-only array."""
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
    return _joined(value, name)


def constant_array(value: Any, name: str) -> HostArray:
    """Return the numbers of a specification as a NumPy array; raise for traced and learned ones and for booleans."""
    for each in leaves(value, name):
        check_dense(each, name)
        check_constant(each, name)
        if libraries.kind_of_number(each) == "b":
            msg = f"`{name}` must hold real numbers, got {each!r} of type {type(each).__name__}"
            raise TypeError(msg)
    return host_array(value, name)


def check_without_unit(value: Any, name: str) -> None:
    """Raise for a quantity with a unit, which would be lost."""
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


def check_reach(value: Number, name: str, *, told: str = "") -> None:
    """Raise for an integer position outside int64, or a float whose magnitude is 2**63 or more."""
    if not (value in INT64 if isinstance(value, int) else abs(value) < TOO_LARGE):
        msg = f"`{name}` must keep positions within int64, got {shown(value)}{told}"
        raise ValueError(msg)


def found(values: HostArray, bad: BoolArray) -> str:
    """Return the first bad value for a message, with its index unless it is the only value."""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    place = f" at index {index[0] if len(index) == 1 else index}" if index else ""
    return f"{values[index]}{place}"


def _from_range(value: range, name: str) -> Int64Array:
    """Return a range as int64."""
    for end in (*value[:1], *value[-1:]):
        check_reach(end, name)
    if not value[2:]:
        return np.array(list(value), np.int64)
    # If three values fit int64, so does the step, and a product that wraps is right again in the sum.
    return value.start + value.step * np.arange(len(value), dtype=np.int64)


def _joined(value: Any, name: str) -> HostArray:
    """Return nested lists as one array."""
    try:
        return np.asarray(value)
    except ValueError as error:
        msg = f"`{name}` must be one array of numbers, got rows that do not fit together: {error}"
        raise ValueError(msg) from error


def _is_list(value: Any) -> bool:
    """Return whether NumPy would choose one dtype for the items of a value."""
    if isinstance(value, list | tuple):
        return True
    return isinstance(value, Sequence) and not (
        isinstance(value, TYPED) or hasattr(value, "__array__")
    )


def _from_list(value: Sequence[Any], name: str, *, coarse: bool) -> Positions:
    """Return the exact values of a list of numbers of any types."""
    numbers = _plain(value, name, coarse=coarse)
    array = _joined(numbers, name)
    if array.dtype == np.int64:
        return array
    items = list(leaves(numbers, name))
    for item in items:
        if type(item) is int:
            check_reach(item, name)
    result = _from_floats(np.asarray(numbers, np.float64), name)
    # NumPy has converted integers to floats. Python compares the two exactly.
    kept = result.ravel().tolist()
    rounded = np.array([a != b for a, b in zip(kept, items, strict=True)], bool)
    _refuse_rounded(result, rounded.reshape(result.shape), name)
    return result


def _plain(value: Any, name: str, *, coarse: bool, depth: int = 0) -> Any:
    """Return nested lists of integers and floats of Python, equal to the given numbers."""
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
    """Raise for lists that are nested too deeply, such as one that contains itself."""
    if depth > DEEPEST:
        msg = f"`{name}` must be one array of numbers, got a list nested more than {DEEPEST} deep"
        raise ValueError(msg)


def _check_items(value: Sequence[Any], name: str) -> None:
    """Raise for items of a list whose unit or gradient NumPy would drop."""
    for each in leaves(value, name):
        if not isinstance(each, int | float):
            check_without_unit(each, name)
            if libraries.is_array(each):
                host_array(each, name)


def _from_floats(array: HostArray, name: str) -> Float64Array:
    """Return floats as float64; raise for values that are not finite, too large or not exact."""
    with np.errstate(over="ignore"):  # a long double may be larger than any float64
        result = array.astype(np.float64, copy=False)
    largest = float(np.abs(result).max(initial=0.0))
    if not largest < TOO_LARGE:
        value = found(array, ~(np.abs(result) < TOO_LARGE))
        msg = f"`{name}` must be finite and below 2**63 in size, got {value}"
        raise ValueError(msg)
    if array.dtype.itemsize > 8:
        _refuse_rounded(result, result != array, name)
    return result


def _refuse_rounded(result: Float64Array, rounded: BoolArray, name: str) -> None:
    """Raise if a float differs from the given number."""
    if rounded.any():
        msg = f"`{name}` must be exact in float64, got a value that is rounded to "
        msg += found(result, rounded)
        raise ValueError(msg)


def first_coarse(dtype: str) -> int | None:
    """Return the magnitude from which a short float dtype skips integers; None for longer dtypes."""
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
