"""Converts the positions of a call to int64 or float64, if their values are known on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.libraries import FLOATS
from rotary._lib.numbers import as_positions, check_dense, first_coarse
from rotary._lib.typing import Array


def check_below(positions: Array, limit: int, name: str) -> None:
    """Raise if a known position reaches the limit, which is a context length."""
    if isinstance(positions, np.ndarray) and positions.size and positions.max() >= limit:
        msg = (
            f"`{name}` must keep positions below the context_length {limit}, because the frequencies depend on it, "
            f"got {positions.max()}; at_length returns an embedding for larger positions"
        )
        raise ValueError(msg)


def read_positions(value: Any, name: str) -> Array:
    """Return positions as int64 or float64 on the host; traced positions stay arrays of their library."""
    is_array = libraries.is_array(value)
    if is_array:
        check_dense(value, name)
    if not is_array or libraries.to_host(value) is not None:
        # A copy: the caller may write to the array while a kernel still reads it.
        return np.array(as_positions(value, name=name), order="C")
    if libraries.is_raw_gpu_memory(value):
        msg = (
            f"`{name}` must be known on the host, or be an array of a library on the GPU of the arrays, got "
            f"{type(value)}"
        )
        raise TypeError(msg)
    kind = libraries.dtype_name(value)
    if "int" not in kind and kind not in FLOATS:
        msg = f"`{name}` must be integers or floats, got dtype {value.dtype}"
        raise TypeError(msg)
    if libraries.is_dask_array(value) and kind in FLOATS:
        msg = (
            f"`{name}` must be integers if it is a dask array, got {kind}, which dask would round; call compute() "
            "first"
        )
        raise TypeError(msg)
    if kind == "uint64":
        return value  # not int64, in which values that are out of range could not be recognized
    wide, limit = libraries.widen(value), first_coarse(kind)
    if limit is None:
        return wide
    xp = libraries.namespace(wide)
    return xp.where(xp.abs(wide) < limit, wide, xp.ones_like(wide) * float("nan"))
