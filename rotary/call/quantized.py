"""Caches of four and eight bits: read as ``x * scales``, and quantized again with new scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_non_negative_float
from rotary._lib.libraries import FLOATS
from rotary._lib.numbers import first_bad
from rotary._lib.typing import Array, Float64Array

from .arrays import as_outputs, check_unmasked

# The largest value of each dtype that a cache may have.
LARGEST = {
    "int4": 7.0,
    "int8": 127.0,
    "float8_e4m3fn": 448.0,
    "float8_e4m3fnuz": 240.0,
    "float8_e5m2": 57344.0,
    "float8_e5m2fnuz": 57344.0,
}
# The dtypes of these that hold integers, to which values are rounded.
INTEGERS = frozenset({"int4", "int8"})
FLOAT32 = np.finfo(np.float32)
SMALLEST_FLOAT16 = 2.0**-24


def shift_quantized(
    shift: Callable[[Array], Array], x: Any, scales: Any, out: Any
) -> tuple[Array, Array]:
    """Return values and scales of a quantized array after a shift, or write both to outputs.

    Parameters
    ----------
    shift : callable
        Shifts a float32 array.
    x : array
        Of int4, int8 or an eight-bit float.
    scales, out
        As the user gave them.
    """
    if not libraries.is_array(x) or libraries.dtype_name(x) not in LARGEST:
        given = libraries.dtype_name(x) if libraries.is_array(x) else type(x).__name__
        msg = f"`x` must be of {', '.join(LARGEST)} with `scales`, got {given}"
        raise TypeError(msg)
    old = _scales(x, scales)
    if out is not None and (not isinstance(out, tuple | list) or len(out) != 2):
        msg = f"`out` must be a pair (values, scales) with `scales`, got {type(out)}"
        raise TypeError(msg)
    outputs = as_outputs(out, (x, old), ("x", "scales"))
    xp = libraries.namespace(x)
    wide = shift(xp.astype(x, xp.float32) * xp.astype(old, xp.float32))
    values, new_scales = _quantize(wide, x, old)
    return _write(values, outputs[0]), _write(new_scales, outputs[1])


def _write(result: Array, output: Array | None) -> Array:
    """Write a result to its output if there is one, and return it."""
    if output is None:
        return result
    output[...] = result
    return output


def _scales(x: Array, scales: Any) -> Array:
    """Check scales and return them as an array of the library of x."""
    xp = libraries.namespace(x)
    greatest = LARGEST[libraries.dtype_name(x)]
    if not libraries.is_array(scales):
        number = as_non_negative_float(scales, "scales")
        _check_range(np.array(number), greatest)
        return libraries.from_host(np.array(number, np.float32), xp, x)
    check_unmasked(scales, "scales")
    if libraries.namespace(scales) is not xp or libraries.dtype_name(scales) not in FLOATS:
        msg = (
            f"`scales` must be floating, of 16 bits at least, and of the library of `x`, got "
            f"{type(scales)}, {scales.dtype}"
        )
        raise TypeError(msg)
    sizes = tuple(scales.shape)
    fits = len(sizes) == x.ndim and all(
        own in (1, size) for own, size in zip(sizes, x.shape, strict=True)
    )
    if sizes and not fits:
        msg = f"`scales` must have size 1 or that of `x`, {tuple(x.shape)}, on every axis, got {sizes}"
        raise ValueError(msg)
    known = libraries.to_host(scales)
    if known is not None:
        _check_range(known.astype(np.float64), greatest)
    return scales


def _check_range(scales: Float64Array, greatest: float) -> None:
    """Raise unless scales are zero or positive, and the greatest value times each of them stays in float32."""
    bad = ~(np.isfinite(scales) & (scales >= 0))
    if bad.any():
        msg = f"`scales` must be finite and not negative, got {first_bad(scales, bad)}"
        raise ValueError(msg)
    # Rotation adds the other channel of the pair to each, so a channel may grow to twice the greatest value.
    largest = float(FLOAT32.max) / (2 * greatest)
    # Zero is the scale of an empty slot.
    bad = (scales != 0) & ~((scales >= FLOAT32.tiny) & (scales <= largest))
    if bad.any():
        msg = f"`scales` must keep values within float32, got {first_bad(scales, bad)}"
        raise ValueError(msg)


def _quantize(wide: Array, like: Array, old: Array) -> tuple[Array, Array]:
    """Return an array quantized as another one, with scales as large as its values need.

    What is not finite stays so, and no scale is made for it.
    """
    xp = libraries.namespace(wide)
    if 0 in like.shape:
        return xp.astype(wide, like.dtype), old
    name = libraries.dtype_name(like)
    greatest = LARGEST[name]
    finite = xp.isfinite(wide)
    sizes = xp.where(finite, xp.abs(wide), xp.zeros_like(wide))
    shared = tuple(axis for axis in range(like.ndim) if not old.ndim or old.shape[axis] == 1)
    largest = xp.max(sizes, axis=shared, keepdims=True) if shared else sizes
    # Round scales to their own dtype before they divide, because reading multiplies by the rounded ones.
    exact = largest / greatest
    scales = xp.astype(xp.astype(exact, old.dtype), xp.float32)
    if libraries.dtype_name(old) == "float16":
        # The smallest ones are rounded coarsely: up, or the greatest values would be cut off.
        scales = xp.where(scales < exact, scales + SMALLEST_FLOAT16, scales)
        scales = xp.astype(xp.astype(scales, old.dtype), xp.float32)
    # Where all is zero any scale will do.
    scales = xp.where(scales > 0, scales, xp.astype(old, xp.float32))
    # The values of empty slots stay zero.
    divisors = xp.where(scales > 0, scales, xp.ones_like(scales))
    values = xp.where(finite, xp.clip(wide / divisors, -greatest, greatest), wide)
    values = xp.astype(xp.round(values) if name in INTEGERS else values, like.dtype)
    return values, xp.astype(xp.reshape(scales, old.shape), old.dtype)
