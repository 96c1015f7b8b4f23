"""Formats of complex numbers and of angles."""

from __future__ import annotations

from typing import overload

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_rotary_dim
from rotary._lib.numbers import host_array
from rotary._lib.typing import Array, ArrayT, ComplexArray, FloatArray, HostArray
from rotary.call.arrays import check_unmasked
from rotary.layouts import Layout, check_layout

from .base import (
    SPACING,
    check_halves,
    check_width,
    read,
    read_of_width,
    repeated,
    squared_factors,
    to_library,
    without_copies,
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
        Of any library that has complex numbers, lazy and traced arrays included.

    Returns
    -------
    array (..., rotary_dim/2)
        complex128 if the tables are float64, else complex64. It includes a factor that the tables include.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or the library has no complex numbers of this precision.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ.

    Notes
    -----
    Source: transformers 5.23, ``models/llama4/modeling_llama4.py`` and
    ``models/deepseek_v2/modeling_deepseek_v2.py``, DeepSeek-V3, ``inference/model.py``, and rope-vit,
    ``models/vit_rope.py``: complex64 ``freqs_cis``, which multiplies interleaved pairs. For an array x of
    complex channels, ``x * to_complex(cos, sin)`` is x rotated.

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
        msg = "`cos` must not be float64: MLX has no complex numbers of that precision"
        raise TypeError(msg)
    return cos + 1j * sin


@overload
def from_complex(table: HostArray, *, uniform: bool = ...) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_complex(table: ArrayT, *, uniform: bool = ...) -> tuple[ArrayT, ArrayT]: ...


def from_complex(table: Array, *, uniform: bool = True) -> tuple[Array, Array]:
    """Convert a complex table to half-wide tables.

    Parameters
    ----------
    table : complex array (..., rotary_dim/2)
        An array of any library whose values are known on the host.
    uniform : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 if the table is complex128, float32 if it is complex64. Views of the table.

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
    return to_library(values.real, values.imag, table, uniform, "table")


@overload
def to_angles(cos: HostArray, sin: HostArray, *, layout: Layout) -> FloatArray: ...


@overload
def to_angles(cos: ArrayT, sin: ArrayT, *, layout: Layout) -> ArrayT: ...


def to_angles(cos: Array, sin: Array, *, layout: Layout) -> Array:
    """Convert half-wide tables to angles, each angle twice, in the format of Transformer Engine.

    Parameters
    ----------
    cos, sin : array (S, rotary_dim/2)
        Arrays of any library whose values are known on the host, with factor 1: angles have no other.
    layout : {"half", "interleaved"}
        The order of the copies.

    Returns
    -------
    float32 array (S, 1, 1, rotary_dim)
        Radians from -pi to pi, of the library of the arguments.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or the values of a table are not known on the host.
    ValueError
        If shapes do not fit, the layout is unknown, or the tables have a factor other than 1.

    Notes
    -----
    Source: Transformer Engine, ``pytorch/attention/rope.py``, ``RotaryPositionEmbedding``: row p holds the
    angles p * inv_freq, whose cosine and sine its kernels compute in float32. Angles reduced to one turn are
    the same rotation. They keep the digits that float32 cannot hold in the angle of a large p.

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
    cosine, sine = read(cos, "cos"), read(sin, "sin")
    off = np.abs(squared_factors(cosine, sine) - 1)
    if not (off <= 4 * SPACING[libraries.dtype_name(cos)]).all():
        msg = (
            "`cos` and `sin` must have factor 1, because angles have no other, got "
            f"cos**2 + sin**2 off it by {off.max():.3g}"
        )
        raise ValueError(msg)
    angles = np.arctan2(sine, cosine, dtype=np.float64).astype(np.float32)
    table = repeated(np, angles.shape, angles, layout)[:, None, None, :]
    return table if isinstance(cos, np.ndarray) else libraries.from_host(table, xp, cos)


@overload
def from_angles(
    table: HostArray, *, layout: Layout, rotary_dim: int
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_angles(table: ArrayT, *, layout: Layout, rotary_dim: int) -> tuple[ArrayT, ArrayT]: ...


def from_angles(table: Array, *, layout: Layout, rotary_dim: int) -> tuple[Array, Array]:
    """Convert a table of angles, each angle twice, in the format of Transformer Engine, to half-wide tables.

    Parameters
    ----------
    table : array (S, 1, 1, rotary_dim)
        Radians. An array of any library whose values are known on the host.
    layout : {"half", "interleaved"}
        The order of the copies.
    rotary_dim : int
        The number of rotated channels.

    Returns
    -------
    cos, sin : array (S, rotary_dim/2)
        float64 if the table is, else float32. They inherit the rounding error of the angles, which in float32 is up
        to 4e-3 at position 131,071.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or the values of the table are not known on the host.
    ValueError
        If the shape does not fit, the two copies of an angle differ, or an angle is not finite.

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
    values = read_of_width(table, "table", width, "one angle for each channel")
    if values.ndim != 4 or values.shape[1:3] != (1, 1):
        msg = f"`table` must have shape (S, 1, 1, {width}), got {values.shape}"
        raise ValueError(msg)
    angles = without_copies(values[:, 0, 0, :], layout, "table").astype(np.float64)
    if not np.isfinite(angles).all():
        msg = "`table` must hold finite angles, got one that is not"
        raise ValueError(msg)
    cos, sin = (part.astype(values.dtype) for part in (np.cos(angles), np.sin(angles)))
    return to_library(cos, sin, table, True, "table")
