"""Checks and conversions that all formats share, and the factor that tables carry."""

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


# The distance between neighbouring numbers of a dtype around 1.
SPACING = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
# How much cos**2 + sin**2 may vary within one table. Rounding to bfloat16 stays below this, and a misread table of more
# than position 0 does not.
VARIATION = 2.0**-6


# ------------------------------------------------------------------------------------------------
# Checks and conversions.


def check_halves(cos: Array, sin: Array) -> tuple[Namespace, tuple[int, ...]]:
    """Check that two half-wide tables belong together, and return their library and shape."""
    for part, name in ((cos, "cos"), (sin, "sin")):
        check_real(part, name)
    xp = libraries.namespace(cos)
    if libraries.namespace(sin) is not xp:
        msg = f"`sin` must be of the library of `cos`, got {type(sin)} for {type(cos)}"
        raise TypeError(msg)
    ours, theirs = shape_of(cos, "cos"), shape_of(sin, "sin")
    if (ours.sizes, ours.dtype) != (theirs.sizes, theirs.dtype):
        msg = (
            f"`sin` must have shape and dtype of `cos`, {ours} and {cos.dtype}, got {theirs} and "
            f"{sin.dtype}"
        )
        raise ValueError(msg)
    check_width(ours.sizes, "cos")
    return xp, ours.sizes


def check_real(part: Any, name: str) -> None:
    """Raise unless an array has a floating dtype."""
    check_unmasked(part, name)
    if libraries.dtype_name(part) not in SPACING:
        msg = f"`{name}` must have one of the dtypes {', '.join(SPACING)}, got {part.dtype}"
        raise TypeError(msg)


def check_width(sizes: tuple[int, ...], name: str) -> None:
    """Raise unless a table has a last axis that is not empty."""
    if not sizes or not sizes[-1]:
        msg = f"`{name}` must have a last axis of at least one number, got shape {sizes}"
        raise ValueError(msg)


def interleaved(xp: Namespace, sizes: tuple[int, ...], first: Array, second: Array) -> Array:
    """Return a0 b0 a1 b1 ... of two arrays of this shape."""
    return xp.reshape(xp.stack([first, second], axis=-1), (*sizes[:-1], 2 * sizes[-1]))


def repeated(xp: Namespace, sizes: tuple[int, ...], part: Array, layout: Layout) -> Array:
    """Return a half-wide table with every number twice."""
    if layout == "half":
        return xp.concat([part, part], axis=-1)
    return interleaved(xp, sizes, part, part)


def read(table: Any, name: str) -> HostArray:
    """Return a table of any library as a float32 or float64 array of NumPy."""
    check_real(table, name)
    values = host_array(table, name)
    check_width(values.shape, name)
    return values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32, copy=False)


def read_of_width(table: Any, name: str, width: int, meaning: str) -> HostArray:
    """Read a table, and raise unless it has the given width."""
    values = read(table, name)
    if values.shape[-1] != width:
        msg = f"`{name}` must be {width} wide, {meaning}, got shape {values.shape}"
        raise ValueError(msg)
    return values


def without_copies(values: HostArray, layout: Layout, name: str) -> HostArray:
    """Return each number of a full-width table once, or raise if its two copies differ."""
    pairs = values.shape[-1] // 2
    copies = {
        "half": (values[..., :pairs], values[..., pairs:]),
        "interleaved": (values[..., 0::2], values[..., 1::2]),
    }
    first, second = copies[layout]
    if np.array_equal(first, second):
        return first
    msg = (
        f"`{name}` must hold every number twice, as layout {layout!r} does, got copies that differ"
    )
    for other, both in copies.items():
        if np.array_equal(*both):
            msg += f"; those of layout {other!r} do not"
    raise ValueError(msg)


def to_library(
    cos: HostArray, sin: HostArray, like: Array, uniform: Any, name: str
) -> tuple[Array, Array]:
    """Return half-wide tables in the library of `like`, after the check that `uniform` asks for."""
    if as_bool(uniform, "uniform"):
        check_uniform(cos, sin, name)
    if isinstance(like, np.ndarray):
        return cos, sin
    xp = libraries.namespace(like)
    return libraries.from_host(cos, xp, like), libraries.from_host(sin, xp, like)


def squared_factors(cos: HostArray, sin: HostArray) -> Float64Array:
    """Return ``cos**2 + sin**2``."""
    with np.errstate(over="ignore", invalid="ignore"):  # the arrays may be no tables
        result: Float64Array = np.square(cos, dtype=np.float64) + np.square(sin, dtype=np.float64)
    return result


def check_uniform(cos: HostArray, sin: HostArray, name: str) -> None:
    """Raise unless ``cos**2 + sin**2`` is the same everywhere."""
    squares = squared_factors(cos, sin)
    if not squares.size:
        return
    low, high = float(squares.min()), float(squares.max())
    if not 0 < high < np.inf or not high - low <= VARIATION * high:
        msg = (
            f"`{name}` must hold cosines and sines of one factor, cos**2 + sin**2 the same everywhere, "
            f"got {low:.4g} to {high:.4g}: it is of another format or width, or its factor varies: pass "
            "uniform=False if that is right"
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
        The square root of the mean of ``cos**2 + sin**2``, as exact as the dtype of the tables allows.

    Raises
    ------
    TypeError
        If a table is not a floating array known on the host.
    ValueError
        If shapes differ or are empty, or if the factor varies, which means that the arrays are something else.

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
    cosine, sine = read(cos, "cos"), read(sin, "sin")
    if not cosine.size:
        msg = f"`cos` must hold at least one number, got shape {cosine.shape}"
        raise ValueError(msg)
    check_uniform(cosine, sine, "cos")
    return float(np.sqrt(squared_factors(cosine, sine).mean()))
