"""Tables of complex numbers, and of angles."""

from __future__ import annotations

from typing import overload

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_rotary_dim
from rotary._lib.numbers import host_array
from rotary._lib.typing import Array, ArrayT, ComplexArray, FloatArray, HostArray
from rotary.call.arrays import check_plain
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
    """Return the table ``cos + i sin``.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Of any library that has complex numbers, lazy and traced arrays included.

    Returns
    -------
    array (..., rotary_dim/2)
        complex128 of float64, else complex64. A factor that the tables carry is in it.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or its library has no complex numbers of this precision.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ.

    Notes
    -----
    Read from transformers 5.23, ``models/llama4/modeling_llama4.py`` and
    ``models/deepseek_v2/modeling_deepseek_v2.py``, DeepSeek-V3, ``inference/model.py``, and rope-vit,
    ``models/vit_rope.py``: complex64 ``freqs_cis``, which multiplies interleaved pairs. The same as
    an array x of complex channels: ``x * to_complex(cos, sin)`` is x rotated.

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
        msg = "`cos` must not be float64, for MLX has no complex numbers of that precision"
        raise TypeError(msg)
    return cos + 1j * sin


@overload
def from_complex(table: HostArray, *, uniform: bool = ...) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_complex(table: ArrayT, *, uniform: bool = ...) -> tuple[ArrayT, ArrayT]: ...


def from_complex(table: Array, *, uniform: bool = True) -> tuple[Array, Array]:
    """Return half-wide tables of a complex one.

    Parameters
    ----------
    table : complex array (..., rotary_dim/2)
        Known on the host.
    uniform : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 of complex128, float32 of complex64; views of the table.

    Raises
    ------
    TypeError
        If the table is not complex or not known on the host.
    ValueError
        If factors differ.

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
    check_plain(table, "table")
    if libraries.dtype_name(table) not in COMPLEX:
        msg = f"`table` must have one of the dtypes {', '.join(COMPLEX)}, got {table.dtype}"
        raise TypeError(msg)
    known = host_array(table, "table")
    check_width(known.shape, "table")
    known = known.astype(f"complex{8 * known.itemsize}", copy=False)  # in the machine's byte order
    return to_library(known.real, known.imag, table, uniform, "table")


@overload
def to_angles(cos: HostArray, sin: HostArray, *, layout: Layout) -> FloatArray: ...


@overload
def to_angles(cos: ArrayT, sin: ArrayT, *, layout: Layout) -> ArrayT: ...


def to_angles(cos: Array, sin: Array, *, layout: Layout) -> Array:
    """Return the angles of half-wide tables, every one twice, as Transformer Engine takes them.

    Parameters
    ----------
    cos, sin : array (S, rotary_dim/2)
        Known on the host, of factor 1: angles can carry no other.
    layout : {"half", "interleaved"}
        Where the copies lie.

    Returns
    -------
    float32 array (S, 1, 1, rotary_dim)
        Radians from -pi to pi, in the library of the arguments.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or a table not known on the host.
    ValueError
        If shapes do not fit, the layout is unknown, or the tables have a factor other than 1.

    Notes
    -----
    Read from Transformer Engine, ``pytorch/attention/rope.py``, ``RotaryPositionEmbedding``: row p holds the
    angles p * inv_freq, which its kernels take cosine and sine of in float32. Less whole turns they are
    the same rotation, and keep the digits that float32 has no room for in the angle of a large p.

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
            "`cos` and `sin` must have factor 1, which is the only one that angles can carry, got "
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
    """Return half-wide tables of angles, every one twice, as Transformer Engine keeps them.

    Parameters
    ----------
    table : array (S, 1, 1, rotary_dim)
        Radians, known on the host.
    layout : {"half", "interleaved"}
        Where the copies lie.
    rotary_dim : int
        Channels that turn.

    Returns
    -------
    cos, sin : array (S, rotary_dim/2)
        float64 where the table is, else float32. What rounding an angle has lost, and in float32 that is
        up to 4e-3 at position 131,071, is lost to them.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or the table not known on the host.
    ValueError
        If shape or width does not fit, the two copies of an angle differ, or one is not finite.

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
    known = read_of_width(table, "table", width, "one angle for each channel")
    if known.ndim != 4 or known.shape[1:3] != (1, 1):
        msg = f"`table` must have shape (S, 1, 1, {width}), got {known.shape}"
        raise ValueError(msg)
    angles = without_copies(known[:, 0, 0, :], layout, "table").astype(np.float64)
    if not np.isfinite(angles).all():
        msg = "`table` must hold finite angles, got one that is not"
        raise ValueError(msg)
    cos, sin = (part.astype(known.dtype) for part in (np.cos(angles), np.sin(angles)))
    return to_library(cos, sin, table, True, "table")
