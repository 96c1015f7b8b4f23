"""Formats of complex numbers and of angles."""

from __future__ import annotations

from typing import overload

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_rotary_dim
from rotary._lib.numbers import first_bad, host_array
from rotary._lib.typing import Array, ArrayT, ComplexArray, FloatArray, HostArray
from rotary.call.arrays import check_unmasked
from rotary.layouts import Layout, check_layout

from .base import (
    SPACING,
    as_host_table,
    as_table_of_width,
    check_halves,
    check_width,
    first_copy,
    repeat,
    squared_factors,
    to_library,
)

__all__ = ["from_angles", "from_complex", "to_angles", "to_complex"]

COMPLEX = ("complex64", "complex128")


@overload
def to_complex(cos: HostArray, sin: HostArray) -> ComplexArray: ...


@overload
def to_complex(cos: ArrayT, sin: ArrayT) -> ArrayT: ...


def to_complex(cos: Array, sin: Array) -> Array:
    """Combine half-wide tables to ``cos + i sin``.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Arrays of any library that has complex numbers, including lazy and traced arrays.

    Returns
    -------
    array (..., rotary_dim/2)
        complex128 if the tables are float64, else complex64. An attention factor in the tables is kept.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the library has no complex numbers of this precision.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ.

    Notes
    -----
    Source: transformers 5.23, ``models/llama4/modeling_llama4.py`` and
    ``models/deepseek_v2/modeling_deepseek_v2.py``, DeepSeek-V3, ``inference/model.py``, and rope-vit,
    ``models/vit_rope.py``: interleaved pairs are multiplied by ``freqs_cis``, which is complex64. For an array
    x with complex channels, the rotated array is ``x * to_complex(cos, sin)``.

    Examples
    --------
    >>> import rotary
    >>> rotary.formats.to_complex(*rotary.cos_sin([0, 1], [1.0, 0.1])).round(3)
    array([[1.   +0.j   , 1.   +0.j   ],
           [0.54 +0.841j, 0.995+0.1j  ]], dtype=complex64)
    """
    xp, _ = check_halves(cos, sin)
    if libraries.dtype_name(cos) != "float64":
        cos, sin = xp.astype(cos, xp.float32), xp.astype(sin, xp.float32)
    elif libraries.is_mlx_array(cos):
        msg = "`cos` must be float32 or shorter, because MLX has no complex128, got float64"
        raise TypeError(msg)
    return cos + 1j * sin


@overload
def from_complex(
    table: HostArray, *, constant_factor: bool = ...
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_complex(table: ArrayT, *, constant_factor: bool = ...) -> tuple[ArrayT, ArrayT]: ...


def from_complex(table: Array, *, constant_factor: bool = True) -> tuple[Array, Array]:
    """Convert a complex table to half-wide tables.

    Parameters
    ----------
    table : complex array (..., rotary_dim/2)
        An array of any library whose values are known on the host.
    constant_factor : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        Views of the table, float64 if it is complex128, float32 if it is complex64.

    Raises
    ------
    TypeError
        If the table is not complex, or its values are not known on the host.
    ValueError
        If the factor varies.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> freqs_cis = np.exp(1j * np.outer([0, 1], [1.0, 0.1]))
    >>> cos, sin = rotary.formats.from_complex(freqs_cis)
    >>> sin.round(3)
    array([[0.   , 0.   ],
           [0.841, 0.1  ]])
    """
    check_unmasked(table, "table")
    if libraries.dtype_name(table) not in COMPLEX:
        msg = f"`table` must have one of the dtypes {', '.join(COMPLEX)}, got {table.dtype}"
        raise TypeError(msg)
    values = host_array(table, "table")
    check_width(values.shape, "table")
    values = values.astype(f"complex{8 * values.itemsize}", copy=False)  # to native byte order
    return to_library(values.real, values.imag, table, constant_factor, "table")


@overload
def to_angles(cos: HostArray, sin: HostArray, *, layout: Layout) -> FloatArray: ...


@overload
def to_angles(cos: ArrayT, sin: ArrayT, *, layout: Layout) -> ArrayT: ...


def to_angles(cos: Array, sin: Array, *, layout: Layout) -> Array:
    """Convert half-wide tables to the format of Transformer Engine: angles, each of them twice.

    Parameters
    ----------
    cos, sin : array (S, rotary_dim/2)
        Arrays of any library whose values are known on the host. The attention factor must be 1, because
        angles have no factor.
    layout : {"half", "interleaved"}
        The order of the copies.

    Returns
    -------
    float32 array (S, 1, 1, rotary_dim)
        Radians from -pi to pi, in the library of the arguments.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the values of a table are not known on the host.
    ValueError
        If a shape is wrong, the layout is unknown, or the tables have a factor other than 1.

    Notes
    -----
    Source: Transformer Engine, ``pytorch/attention/rope.py``, ``RotaryPositionEmbedding``: row p contains the
    angles p * inv_freq, and the kernels compute their cosine and sine in float32. Here, angles are reduced to
    -pi .. pi, which gives the same rotation with a smaller rounding error for large p.

    Examples
    --------
    >>> import rotary
    >>> cos, sin = rotary.cos_sin([0, 1], [1.0, 0.1])
    >>> rotary.formats.to_angles(cos, sin, layout="half").shape
    (2, 1, 1, 4)
    """
    xp, sizes = check_halves(cos, sin)
    check_layout(layout)
    if len(sizes) != 2:
        msg = f"`cos` must have shape (S, rotary_dim/2), got {sizes}"
        raise ValueError(msg)
    cosine, sine = as_host_table(cos, "cos"), as_host_table(sin, "sin")
    off = np.abs(squared_factors(cosine, sine) - 1)
    if not (off <= 4 * SPACING[libraries.dtype_name(cos)]).all():
        msg = (
            "`cos` and `sin` must have the attention factor 1, because angles have no factor, got cos**2 + "
            f"sin**2 that differs from 1 by {off.max():.3g}"
        )
        raise ValueError(msg)
    angles = np.arctan2(sine, cosine, dtype=np.float64).astype(np.float32)
    table = repeat(np, angles.shape, angles, layout)[:, None, None, :]
    return table if isinstance(cos, np.ndarray) else libraries.from_host(table, xp, cos)


@overload
def from_angles(
    table: HostArray, *, layout: Layout, rotary_dim: int
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_angles(table: ArrayT, *, layout: Layout, rotary_dim: int) -> tuple[ArrayT, ArrayT]: ...


def from_angles(table: Array, *, layout: Layout, rotary_dim: int) -> tuple[Array, Array]:
    """Convert a table in the format of Transformer Engine, angles that are each given twice, to half-wide tables.

    Parameters
    ----------
    table : array (S, 1, 1, rotary_dim)
        Angles in radians: an array of any library whose values are known on the host.
    layout : {"half", "interleaved"}
        The order of the copies.
    rotary_dim : int
        The number of rotated channels.

    Returns
    -------
    cos, sin : array (S, rotary_dim/2)
        float64 if the table is float64, else float32. They contain the rounding error of the angles, which in
        float32 is up to 4e-3 at position 131,071.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the values of the table are not known on the host.
    ValueError
        If the shape is wrong, the two copies of an angle differ, or an angle is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> angles = np.outer([0, 1], [1.0, 0.1])
    >>> emb = np.concatenate((angles, angles), axis=-1).reshape(2, 1, 1, 4)
    >>> cos, sin = rotary.formats.from_angles(emb, layout="half", rotary_dim=4)
    >>> sin.round(3)
    array([[0.   , 0.   ],
           [0.841, 0.1  ]])
    """
    check_layout(layout)
    width = as_rotary_dim(rotary_dim, "rotary_dim")
    values = as_table_of_width(table, "table", width, "one angle for each channel")
    if values.ndim != 4 or values.shape[1:3] != (1, 1):
        msg = f"`table` must have shape (S, 1, 1, {width}), got {values.shape}"
        raise ValueError(msg)
    angles = first_copy(values[:, 0, 0, :], layout, "table").astype(np.float64)
    if not np.isfinite(angles).all():
        msg = f"`table` must have finite angles, got {first_bad(angles, ~np.isfinite(angles))}"
        raise ValueError(msg)
    cos, sin = (part.astype(values.dtype) for part in (np.cos(angles), np.sin(angles)))
    return to_library(cos, sin, table, True, "table")
