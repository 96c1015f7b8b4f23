"""Caches of eight bits: read as ``x * scales``, and written back with scales that fit what they became."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _libraries as libraries
from ._checks import as_positive_float
from ._typing import Array

# The greatest value of each dtype that a cache is quantised to.
GREATEST = {
    "int8": 127.0,
    "float8_e4m3fn": 448.0,
    "float8_e4m3fnuz": 240.0,
    "float8_e5m2": 57344.0,
    "float8_e5m2fnuz": 57344.0,
}


def outputs(out: Any) -> tuple[Array | None, Array | None]:
    """Return where values and scales are written, if anywhere."""
    if out is None:
        return None, None
    if not isinstance(out, tuple) or len(out) != 2:
        msg = f"`out` must be a pair, of values and of scales, where `scales` is given, got {type(out)}"
        raise TypeError(msg)
    for part in out:
        if not libraries.is_array(part) or not libraries.is_mutable(part):
            msg = f"`out` must hold arrays that can be written to, got {type(part).__name__}"
            raise TypeError(msg)
    return out


def read(x: Any, scales: Any) -> Array:
    """Return what a quantised array stands for, in float32."""
    if not libraries.is_array(x) or libraries.dtype_name(x) not in GREATEST:
        told = libraries.dtype_name(x) if libraries.is_array(x) else type(x).__name__
        msg = f"`x` must be of {', '.join(GREATEST)} where `scales` is given, got {told}"
        raise TypeError(msg)
    xp = libraries.namespace(x)
    return xp.astype(x, xp.float32) * _scales(x, scales)


def _scales(x: Array, scales: Any) -> Array:
    """Return checked scales, a number or an array of x's library that fits x."""
    if not libraries.is_array(scales):
        return as_positive_float(scales, "scales")
    xp = libraries.namespace(x)
    if libraries.namespace(scales) is not xp or "float" not in libraries.dtype_name(scales):
        msg = f"`scales` must be floating and of the library of `x`, got {type(scales)}, {scales.dtype}"
        raise TypeError(msg)
    sizes = tuple(scales.shape)
    fits = len(sizes) == x.ndim and all(
        own in (1, size) for own, size in zip(sizes, x.shape, strict=True)
    )
    if sizes and not fits:
        msg = f"`scales` must have size 1 or that of `x`, {tuple(x.shape)}, on every axis, got {sizes}"
        raise ValueError(msg)
    known = libraries.to_host(scales)
    if known is not None and not (np.isfinite(known) & (known > 0)).all():
        msg = f"`scales` must be positive and finite, got {known.min()} .. {known.max()}"
        raise ValueError(msg)
    return xp.astype(scales, xp.float32)


def write(
    wide: Array, like: Array, scales: Any, values: Array | None, rescaled: Array | None
) -> tuple[Array, Array]:
    """Return an array quantised as another one, and its scales; or write both to outputs."""
    xp = libraries.namespace(wide)
    name = libraries.dtype_name(like)
    greatest = GREATEST[name]
    own = scales if libraries.is_array(scales) else xp.asarray(scales, dtype=xp.float32)
    shared = tuple(axis for axis in range(like.ndim) if not own.ndim or own.shape[axis] == 1)
    largest = xp.max(xp.abs(wide), axis=shared, keepdims=True) if shared else xp.abs(wide)
    # Where all is zero any scale will do.
    fresh = xp.where(largest > 0, largest / greatest, xp.ones_like(largest))
    exact = xp.clip(wide / fresh, -greatest, greatest)
    result = xp.astype(xp.round(exact) if name == "int8" else exact, like.dtype)
    fresh = xp.astype(xp.reshape(fresh, own.shape), own.dtype)
    if values is None or rescaled is None:
        return result, fresh
    values[...] = result
    rescaled[...] = fresh
    return values, rescaled
