"""The functions beside the embedding: frequencies, tables, and rotation by tables of one's own."""

from __future__ import annotations

from typing import Any, Never, overload

import numpy as np

from ._lib import compiler, hints, libraries
from ._lib.checks import as_bool, as_integer, as_positive_float, as_rotary_dim
from ._lib.libraries import UNKNOWN
from ._lib.typing import (
    AnyArray,
    Array,
    ArrayT,
    BatchAxis,
    DTypeLike,
    Float64Array,
    FloatArray,
    FrequenciesLike,
    HostArray,
    HostPositions,
    OutLike,
    PositionsLike,
)
from .angles.phases import frequencies
from .angles.powers import as_frequencies, powers
from .backends import kernel_for, portable
from .backends.contract import Angles, Axes, Pairing, Table, TracedTable, reorder_axes
from .call.arrays import (
    as_outputs,
    as_table_dtype,
    check_array,
    check_has_library,
    check_no_overlap,
    check_unmasked,
)
from .call.rows import PositionShape
from .call.shapes import NamedShape, axes_of, axis_options, compute_dtype, shape_of
from .layouts import Layout, check_layout
from .tables import lookup

__all__ = ["apply_rotary", "cos_sin", "inv_freq", "sinusoidal"]

TABLE_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})


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
        leading=False,
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
    """Rotate an array by tables of one's own.

    Parameters
    ----------
    x : array
        Its last axis the channels. A complex array has one channel per pair and no layout.
    cos, sin : array (S, r/2), (B, S, r/2) or with as many axes as x
        One number for each channel pair, of any floating dtype. They are converted to the dtype x is
        computed in: float64 for float64, else float32. With as many axes as x, tables have its axes in
        its order, and each size but those of the sequence and the channels may be 1: for (B, H, S, D),
        `RotaryEmbedding.tables` gives (1, H, S, r/2) if frequencies differ by head.
    layout : {"half", "interleaved"}
        Which channels pair: ``(i, i + r/2)`` or ``(2i, 2i + 1)``.
    rotary_start : int, default 0
        The first channel that turns; ``r`` from there on do, the others pass through.
    seq_axis : int, optional
        The sequence axis. It must be given for arrays of three and more axes.
    batch_axis : int or False, optional
        The batch axis, False if there is none. The default is that of `RotaryEmbedding`.
    inverse : bool, default False
        Turn back: with the sine negated. Tables that carry a factor apply it again.
    out : array, optional
        `x` itself, or memory that does not overlap it.

    Returns
    -------
    array
        Of the library, shape and dtype of x; `out` where it was given.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit.

    Warnings
    --------
    Many programs keep tables that hold every number twice, as wide as the rotated channels. Of those give
    ``cos[..., : r // 2]`` (of `half` tables) or ``cos[..., ::2]`` (of interleaved ones): on a head that turns
    only in part the full width would fit, and turn the wrong channels.

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
    for part, name in ((x, "x"), (cos, "cos"), (sin, "sin")):
        check_has_library(part, name)
    check_array(x, "x")
    check_layout(layout)
    backwards = as_bool(inverse, "inverse")
    shape = shape_of(x, "x")
    (own_axes,) = axes_of([shape], axis_options(seq_axis, batch_axis, 1))
    cosine, sine, axes = _own_tables(x, shape, cos, sin, own_axes)
    start = _checked_start(rotary_start, shape, cosine.shape[-1])
    (output,) = as_outputs(out, (x,), ("x",))
    if output is not None:
        check_no_overlap(output, (cos, sin), ("cos", "sin"))
    pairing = Pairing(start, int(cosine.shape[-1]), layout, layout, backwards)
    result: ArrayT
    on_gpu = None if isinstance(x, np.ndarray) else _on_gpu(x, cosine, sine, axes, pairing, output)
    if on_gpu is not None:
        result = on_gpu
    elif isinstance(x, np.ndarray) and isinstance(cosine, np.ndarray):
        result = kernel_for(x).rotate(x, _packed(cosine, sine), axes, pairing, output)
    else:
        table = TracedTable(cosine[None, ...], sine[None, ...])
        result = portable.rotate(x, table, axes, pairing, output)
    return result


def _own_tables(
    x: Array, shape: NamedShape, cos: Any, sin: Any, axes: Axes
) -> tuple[Array, Array, Axes]:
    """Return a caller's tables (*extra, batch or 1, sequence, pairs) in the dtype and library of x, and its axes."""
    for part, name in ((cos, "cos"), (sin, "sin")):
        _check_own_table(part, name, shape, axes)
    if tuple(cos.shape) != tuple(sin.shape):
        msg = f"`sin` must have the shape of `cos`, {tuple(cos.shape)}, got {tuple(sin.shape)}"
        raise ValueError(msg)
    cosine, sine = (_in_library_of(x, part, name) for part, name in ((cos, "cos"), (sin, "sin")))
    xp, sizes = libraries.namespace(cosine), tuple(cosine.shape)
    if len(sizes) == 2:
        return xp.reshape(cosine, (1, *sizes)), xp.reshape(sine, (1, *sizes)), axes
    if _fits_batch(sizes, shape, axes):
        return cosine, sine, axes
    own, order = axes.for_positions(sizes[:-1], by_head=False)
    cosine, sine = (reorder_axes(part, own, order, lead=0, tail=1) for part in (cosine, sine))
    return cosine, sine, own


def _fits_batch(sizes: tuple[int, ...], shape: NamedShape, axes: Axes) -> bool:
    """Return whether a table has the shape (1, S, r/2) or (B, S, r/2)."""
    fit = PositionShape(shape.name, shape.sizes[:-1], axes)
    length = shape.sizes[axes.sequence]
    return len(sizes) == 3 and fit.fits_batch(sizes[0]) and sizes[1] in (length, UNKNOWN)


def _check_own_table(part: Any, name: str, shape: NamedShape, axes: Axes) -> None:
    """Raise unless a caller's table is floating and fits an array."""
    check_unmasked(part, name)
    own = shape_of(part, name)
    if own.dtype not in TABLE_DTYPES:
        msg = f"`{name}` must be floating, got dtype {part.dtype}"
        raise TypeError(msg)
    length = shape.sizes[axes.sequence]
    fit = PositionShape(shape.name, shape.sizes[:-1], axes)
    if (
        own.sizes[:-1] != (length,)
        and not _fits_batch(own.sizes, shape, axes)
        and not fit.fits_shape(own.sizes[:-1])
    ):
        each = "" if fit.batch is None else f", ({fit.batch}, {length}, r/2)"
        if len(fit.sizes) > 1:
            each += f" or ({', '.join(map(str, fit.size_texts()))}, r/2)"
        msg = f"`{name}` must have shape ({length}, r/2){each} for x of {shape}, got {own}"
        raise ValueError(msg)


def _in_library_of(x: Array, part: Array, name: str) -> Array:
    """Return part of a table in the computing dtype and the library of x; traced, in its own."""
    dtype = compute_dtype(libraries.dtype_name(x))
    if libraries.namespace(part) is not libraries.namespace(x):
        host = libraries.to_host(part)
        if host is not None and isinstance(x, np.ndarray):
            part = host
        elif host is not None:
            part = _as_array_like(x, host.astype(dtype))
        elif not isinstance(x, np.ndarray):
            msg = f"`{name}` must be of the library of `x`, or known on the host, got {type(part)}"
            raise TypeError(msg)
    if libraries.dtype_name(part) == dtype:
        return part
    xp = libraries.namespace(part)
    return xp.astype(part, getattr(xp, dtype))


def _on_gpu(
    x: Array, cosine: Array, sine: Array, axes: Axes, pairing: Pairing, out: Array | None
) -> Array | None:
    """Return an array on a GPU rotated, None if its kernels have no part in it."""
    from .backends.cuda import tables as on_gpu

    return on_gpu.rotate(x, cosine, sine, axes, pairing, out)


def _as_array_like(x: Array, host: HostArray) -> Array:
    """Return a table of the host as an array of the library and on the device of x."""
    from .backends.cuda import memory

    if memory.owner_of(x) == memory.CUPY:
        return memory.upload(host, x)
    return libraries.from_host(host, libraries.namespace(x), x)


def _packed(cosine: HostArray, sine: HostArray) -> Table:
    """Return a caller's tables (*extra, batch or 1, sequence, pairs) as the kernels read them."""
    *leading, pairs = cosine.shape
    values = np.ascontiguousarray(np.stack([cosine, sine]).reshape(2, 1, -1, pairs))
    index = np.arange(values.shape[2], dtype=np.int64).reshape(leading)
    return Table(values, index, 0, leading[-1])


def _checked_start(rotary_start: Any, shape: NamedShape, pairs: int) -> int:
    """Return the first channel that turns, checked against the channels there are."""
    start = as_integer(rotary_start, "rotary_start")
    width = pairs if shape.is_complex else 2 * pairs
    channels = shape.sizes[-1]
    if start < 0:
        msg = f"`rotary_start` must be at least 0, got {start}"
        raise ValueError(msg)
    if not width or start + width > channels:
        msg = (
            f"`cos` must hold one number for each pair of channels of x: width {pairs} turns {width} "
            f"channels from {start} on, of {channels}; of a table that holds every number twice, "
            "give one half"
        )
        raise ValueError(msg)
    return start
