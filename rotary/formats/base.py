"""Checks and conversions that all formats share, and the attention factor of tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_bool
from rotary._lib.numbers import host_array
from rotary._lib.typing import AnyArray, Array, Float64Array, HostArray, Namespace
from rotary.call.arrays import check_unmasked
from rotary.call.shapes import shape_of
from rotary.layouts import Layout

__all__ = ["attention_factor"]


# The distance between adjacent numbers of a dtype near 1.
SPACING = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
# The largest relative variation of cos**2 + sin**2 in a table. Rounding to bfloat16 causes less, and a table that is
# read in the wrong format has more, unless it contains only position 0.
MAX_VARIATION = 2.0**-6


# ------------------------------------------------------------------------------------------------
# Checks and conversions.


def check_halves(cos: Array, sin: Array) -> tuple[Namespace, tuple[int, ...]]:
    """Check that two half-wide tables have one library, shape and dtype; return the library and the shape."""
    for part, name in ((cos, "cos"), (sin, "sin")):
        check_real(part, name)
    xp = libraries.namespace(cos)
    if libraries.namespace(sin) is not xp:
        msg = f"`sin` must be of the library of `cos`, got {type(sin)} for {type(cos)}"
        raise TypeError(msg)
    of_cos, of_sin = shape_of(cos, "cos"), shape_of(sin, "sin")
    if (of_cos.sizes, of_cos.dtype) != (of_sin.sizes, of_sin.dtype):
        msg = (
            f"`sin` must have the shape and dtype of `cos`, {of_cos} and {cos.dtype}, got {of_sin} and "
            f"{sin.dtype}"
        )
        raise ValueError(msg)
    check_width(of_cos.sizes, "cos")
    return xp, of_cos.sizes


def check_real(part: Any, name: str) -> None:
    """Raise unless an array has a floating dtype."""
    check_unmasked(part, name)
    if libraries.dtype_name(part) not in SPACING:
        msg = f"`{name}` must have one of the dtypes {', '.join(SPACING)}, got {part.dtype}"
        raise TypeError(msg)


def check_width(sizes: tuple[int, ...], name: str) -> None:
    """Raise if a table has no last axis or an empty one."""
    if not sizes or not sizes[-1]:
        msg = f"`{name}` must have a last axis of at least one number, got shape {sizes}"
        raise ValueError(msg)


def interleave(xp: Namespace, sizes: tuple[int, ...], first: Array, second: Array) -> Array:
    """Return a0 b0 a1 b1 ... for two arrays a and b of shape `sizes`."""
    return xp.reshape(xp.stack([first, second], axis=-1), (*sizes[:-1], 2 * sizes[-1]))


def repeat(xp: Namespace, sizes: tuple[int, ...], part: Array, layout: Layout) -> Array:
    """Return a full-width table, which contains every number of a half-wide table twice."""
    if layout == "half":
        return xp.concat([part, part], axis=-1)
    return interleave(xp, sizes, part, part)


def as_host_table(table: Any, name: str) -> HostArray:
    """Return a table of any library as a NumPy array of float32 or float64."""
    check_real(table, name)
    values = host_array(table, name)
    check_width(values.shape, name)
    return values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32, copy=False)


def as_table_of_width(table: Any, name: str, width: int, meaning: str) -> HostArray:
    """Return a table as `as_host_table` does, and raise unless it has the given width."""
    values = as_host_table(table, name)
    if values.shape[-1] != width:
        msg = f"`{name}` must be {width} wide, {meaning}, got shape {values.shape}"
        raise ValueError(msg)
    return values


def first_copy(values: HostArray, layout: Layout, name: str) -> HostArray:
    """Return the half-wide table of a full-width table; raise if the two copies of a number differ."""
    width = values.shape[-1] // 2
    copies = {
        "half": (values[..., :width], values[..., width:]),
        "interleaved": (values[..., 0::2], values[..., 1::2]),
    }
    first, second = copies[layout]
    if np.array_equal(first, second):
        return first
    msg = f"`{name}` must contain every number twice in layout {layout!r}, got copies that differ"
    for other, both in copies.items():
        if np.array_equal(*both):
            msg += f"; in layout {other!r}, they are equal"
    raise ValueError(msg)


def to_library(
    cos: HostArray, sin: HostArray, like: Array, constant_factor: Any, name: str
) -> tuple[Array, Array]:
    """Return half-wide tables in the library of `like`; check their factor if `constant_factor` is true."""
    if as_bool(constant_factor, "constant_factor"):
        check_constant_factor(cos, sin, name)
    if isinstance(like, np.ndarray):
        return cos, sin
    xp = libraries.namespace(like)
    return libraries.from_host(cos, xp, like), libraries.from_host(sin, xp, like)


def squared_factors(cos: HostArray, sin: HostArray) -> Float64Array:
    """Return ``cos**2 + sin**2``."""
    with np.errstate(over="ignore", invalid="ignore"):  # the arrays may contain any numbers
        result: Float64Array = np.square(cos, dtype=np.float64) + np.square(sin, dtype=np.float64)
    return result


def check_constant_factor(cos: HostArray, sin: HostArray, name: str) -> None:
    """Raise unless ``cos**2 + sin**2`` is the same for all entries."""
    squares = squared_factors(cos, sin)
    if not squares.size:
        return
    low, high = float(squares.min()), float(squares.max())
    if not 0 < high < np.inf or not high - low <= MAX_VARIATION * high:
        msg = (
            f"`{name}` must contain cosines and sines with a constant factor, got cos**2 + sin**2 from "
            f"{low:.4g} to {high:.4g}; check format and width, or pass constant_factor=False if the factor "
            "of the table varies"
        )
        raise ValueError(msg)


def attention_factor(cos: AnyArray, sin: AnyArray) -> float:
    """Return the attention factor of half-wide tables: the square root of ``cos**2 + sin**2``.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Floating arrays of any library whose values are known on the host.

    Returns
    -------
    float
        The square root of the mean of ``cos**2 + sin**2``, accurate to the precision of the dtype.

    Raises
    ------
    TypeError
        If a table is not a floating array known on the host.
    ValueError
        If shapes differ or are empty, or if ``cos**2 + sin**2`` varies, so that the arrays have no such factor.

    Examples
    --------
    >>> import rotary
    >>> yarn = rotary.scaling.Yarn(4.0, 2048)
    >>> rope = rotary.RotaryEmbedding(
    ...     8, layout="half", base=10_000.0, scaling=yarn, context_length=8192
    ... )
    >>> round(rotary.formats.attention_factor(*rope.tables(range(100))), 6)
    1.138629
    >>> round(rope.attention_factor, 6)
    1.138629
    """
    check_halves(cos, sin)
    cosine, sine = as_host_table(cos, "cos"), as_host_table(sin, "sin")
    if not cosine.size:
        msg = f"`cos` must have at least one number, got shape {cosine.shape}"
        raise ValueError(msg)
    check_constant_factor(cosine, sine, "cos")
    return float(np.sqrt(squared_factors(cosine, sine).mean()))
