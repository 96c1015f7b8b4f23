"""Functions that need no embedding: frequencies, tables, and rotation by given tables."""

from __future__ import annotations

from typing import Never, overload

from ._lib import compiler, hints, libraries
from ._lib.checks import as_positive_float, as_rotary_dim
from ._lib.typing import (
    AnyArray,
    Array,
    ArrayT,
    BatchAxis,
    DTypeLike,
    Float64Array,
    FloatArray,
    FrequenciesLike,
    HostPositions,
    OutLike,
    PositionsLike,
)
from .angles.phases import frequencies
from .angles.powers import as_frequencies, powers
from .backends.contract import Angles
from .call import plans
from .call.arrays import as_table_dtype
from .layouts import Layout
from .tables import lookup

__all__ = ["apply_rotary", "cos_sin", "inv_freq", "sinusoidal"]


@hints.named
def inv_freq(dim: int, *, base: float) -> Float64Array:
    """Return the inverse frequencies ``base ** (-2 i / dim)`` of the default schedule.

    Parameters
    ----------
    dim : int
        Rotated channels, even.
    base : float
        Positive.

    Returns
    -------
    float64 array (dim/2,), read-only
        Radians per position, each the correctly rounded float64, on every platform.

    Raises
    ------
    TypeError
        If an argument is not a number.
    ValueError
        If `dim` is not positive and even, or `base` not positive and finite.

    Notes
    -----
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021
    (arXiv:2104.09864), section 3.2.2.

    Examples
    --------
    >>> import rotary
    >>> rotary.inv_freq(8, base=10_000.0)
    array([1.   , 0.1  , 0.01 , 0.001])
    """
    return powers(as_positive_float(base, "base"), as_rotary_dim(dim, "dim"))


@overload
def cos_sin(
    positions: HostPositions,
    inv_freq: FrequenciesLike,
    *,
    dtype: DTypeLike = ...,
    attention_factor: float = ...,
) -> tuple[FloatArray, FloatArray]: ...


@overload
def cos_sin(
    positions: ArrayT,
    inv_freq: FrequenciesLike,
    *,
    dtype: DTypeLike = ...,
    attention_factor: float = ...,
) -> tuple[ArrayT, ArrayT]: ...


@hints.named
@compiler.untraced
def cos_sin(
    positions: PositionsLike,
    inv_freq: FrequenciesLike,
    *,
    dtype: DTypeLike = "float32",
    attention_factor: float = 1.0,
) -> tuple[Array, Array]:
    """Return cosine and sine of ``positions * inv_freq``, times a factor.

    Parameters
    ----------
    positions : number or array_like
        Integers within int64 or finite floats below ``2**63`` in size, of any shape.
    inv_freq : array_like (pairs,)
        Radians per position, taken as the exact float64 they are; negative and zero are fine.
    dtype : {"float32", "float64"}, default "float32"
    attention_factor : float, default 1.0
        Positive.

    Returns
    -------
    cos, sin : array (..., pairs)
        Correctly rounded up to 0.501 ulp in float32, within 1 ulp in float64, 2 with a factor. NumPy's
        are read-only. Positions of another library give tables of that library.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a value does not fit.

    Examples
    --------
    >>> import rotary
    >>> cos, sin = rotary.cos_sin(1_700_000_000, [1.0, 0.001], dtype="float64")
    >>> sin
    array([0.99923591, 0.57111135])
    """
    values = as_frequencies(inv_freq, "inv_freq", (1,))
    return lookup.cos_sin(
        Angles(
            frequencies(values[None, None]), as_positive_float(attention_factor, "attention_factor")
        ),
        positions,
        has_position_axes=False,
        dtype=as_table_dtype(dtype),
    )


@overload
def sinusoidal(
    positions: HostPositions, dim: int, *, base: float = ..., dtype: DTypeLike = ...
) -> FloatArray: ...


@overload
def sinusoidal(
    positions: ArrayT, dim: int, *, base: float = ..., dtype: DTypeLike = ...
) -> ArrayT: ...


@hints.named
def sinusoidal(
    positions: PositionsLike, dim: int, *, base: float = 10_000.0, dtype: DTypeLike = "float32"
) -> Array:
    """Return the additive sinusoidal encoding of positions.

    Parameters
    ----------
    positions : number or array_like
        Of any shape.
    dim : int
        Channels, even.
    base : float, default 10000.0
        Positive.
    dtype : {"float32", "float64"}, default "float32"

    Returns
    -------
    array (..., dim)
        ``sin(p * base ** (-2 k / dim))`` at channel 2k, the cosine at 2k + 1, as exact as `cos_sin`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a value does not fit.

    Notes
    -----
    Vaswani et al., "Attention Is All You Need", 2017 (arXiv:1706.03762), section 3.5.

    Examples
    --------
    >>> import rotary
    >>> rotary.sinusoidal([0, 1], 4)
    array([[0.        , 1.        , 0.        , 1.        ],
           [0.84147096, 0.5403023 , 0.00999983, 0.99995   ]], dtype=float32)
    """
    cosine, sine = cos_sin(positions, inv_freq(dim, base=base), dtype=dtype)
    xp = libraries.namespace(cosine)
    pairs = xp.stack([sine, cosine], axis=-1)
    return xp.reshape(pairs, (*cosine.shape[:-1], 2 * cosine.shape[-1]))


@hints.closed  # which hides `**unknown`, so that there is nothing to document
def apply_rotary(  # numpydoc ignore=PR01
    x: ArrayT,
    cos: AnyArray,
    sin: AnyArray,
    *,
    layout: Layout,
    rotary_start: int = 0,
    seq_axis: int | None = None,
    batch_axis: BatchAxis = None,
    inverse: bool = False,
    out: OutLike = None,
    **unknown: Never,
) -> ArrayT:
    """Rotate an array by given tables of cosine and sine.

    Parameters
    ----------
    x : array
        Channels are on the last axis. A complex array has one channel per pair and no layout.
    cos, sin : array (S, r/2), (B, S, r/2) or with as many axes as x
        One number for each channel pair, of any floating dtype. They are converted to float64 if x has 64-bit
        channels, else to float32. Tables with as many axes as x have the axes of x in the same order, and may have
        size 1 along any axis before the last but the sequence. For (B, H, S, D) and frequencies that differ by head,
        `RotaryEmbedding.tables` returns (1, H, S, r/2).
    layout : {"half", "interleaved"}
        The channel pairs: ``(i, i + r/2)`` or ``(2i, 2i + 1)``.
    rotary_start : int, default 0
        The first rotated channel. The ``r`` channels from there on are rotated, and the others stay unchanged.
    seq_axis : int, optional
        The sequence axis. It must be given for arrays of three and more axes.
    batch_axis : int or False, optional
        The batch axis; False if there is none. The default is that of `RotaryEmbedding`.
    inverse : bool, default False
        Whether to rotate by the negated angles. A factor in the tables is then applied a second time, not undone.
    out : array, optional
        Receives the result: `x` itself, or an array that does not overlap it.

    Returns
    -------
    array
        The rotated array, of the library, shape and dtype of x; `out` if it is given.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit.

    Warnings
    --------
    Many programs keep tables that hold every number twice, as wide as the rotated channels. From such tables pass
    ``cos[..., : r // 2]`` (half layout) or ``cos[..., ::2]`` (interleaved layout). If only part of the channels are
    rotated, the full width would be accepted, and would rotate the wrong channels.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> cos, sin = rotary.cos_sin([0, 1], rotary.inv_freq(4, base=100.0))
    >>> rotary.apply_rotary(np.ones((2, 4)), cos, sin, layout="half").round(4)
    array([[ 1.    ,  1.    ,  1.    ,  1.    ],
           [-0.3012,  0.8952,  1.3818,  1.0948]])
    """
    if unknown:
        hints.refuse(apply_rotary, unknown)
    result: ArrayT = _rotate(x, cos, sin, layout, rotary_start, seq_axis, batch_axis, inverse, out)
    return result


_rotate = compiler.untraced(plans.rotate_by_tables, instead=plans.rotate_by_tables_once)
