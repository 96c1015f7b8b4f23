"""Tables of pairs: cosine beside sine, complex numbers, or the angles themselves."""

from __future__ import annotations

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_rotary_dim
from rotary._lib.numbers import host_array
from rotary._lib.typing import Array
from rotary.call.arrays import check_plain
from rotary.layouts import Layout, check_layout

from .tables import (
    COMPLEX,
    SPACING,
    _check_width,
    _doubled,
    _given_out,
    _halves,
    _read,
    _read_wide,
    _side_by_side,
    _single,
    _squares,
)

__all__ = [
    "from_angles",
    "from_complex",
    "from_ggml",
    "from_pairs",
    "to_angles",
    "to_complex",
    "to_ggml",
    "to_pairs",
]


# ------------------------------------------------------------------------------------------------
# Cosine beside sine.


def to_pairs(cos: Array, sin: Array) -> Array:
    """Return one table with cosine and sine of every pair on a last axis of two.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Of any library, lazy and traced ones included.

    Returns
    -------
    array (..., rotary_dim/2, 2)
        In library and dtype of the arguments.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ.

    Notes
    -----
    Read from torchtune, ``modules/position_embeddings.py``, ``RotaryPositionalEmbeddings``: (max, head_dim/2,
    2), float32, for interleaved pairs.

    Examples
    --------
    >>> import rotary
    >>> rotary.formats.to_pairs(*rotary.cos_sin([0, 1], [1.0, 0.1])).shape
    (2, 2, 2)
    """
    xp, _ = _halves(cos, sin)
    return xp.stack([cos, sin], axis=-1)


def from_pairs(table: Array, *, uniform: bool = True) -> tuple[Array, Array]:
    """Return half-wide tables of one that holds cosine and sine on a last axis of two.

    Parameters
    ----------
    table : array (..., rotary_dim/2, 2)
        Known on the host.
    uniform : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 where the table is, else float32; views of it where it needs no conversion.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or the table not known on the host.
    ValueError
        If the last axis is not of two, or factors differ.

    Examples
    --------
    >>> import rotary
    >>> cos, sin = rotary.cos_sin([0, 1], [1.0, 0.1])
    >>> again, _ = rotary.formats.from_pairs(rotary.formats.to_pairs(cos, sin))
    >>> bool((again == cos).all())
    True
    """
    known = _read(table, "table")
    if known.ndim < 2 or known.shape[-1] != 2:
        msg = f"`table` must have a last axis of cosine and sine, (..., rotary_dim/2, 2), got {known.shape}"
        raise ValueError(msg)
    return _given_out(known[..., 0], known[..., 1], table, uniform, "table")


def to_ggml(cos: Array, sin: Array) -> Array:
    """Return one table with rows c0 s0 c1 s1 ....

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Of any library, lazy and traced ones included.

    Returns
    -------
    array (..., rotary_dim)
        In library and dtype of the arguments.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ.

    Notes
    -----
    Read from ggml, ``src/ggml-cpu/ops.cpp``, ``ggml_rope_cache_init`` and ``rotate_pairs``: one float32 row
    for each position, the same for every mode (NORMAL turns interleaved pairs by it, NEOX halves), and
    ``mscale`` in it. ggml's own rows are as wide as the head; past ``n_dims`` nothing reads them. Its
    backward pass keeps the sines negated.

    Examples
    --------
    >>> import rotary
    >>> rotary.formats.to_ggml(*rotary.cos_sin([0, 1], [1.0, 0.1])).round(3)
    array([[1.   , 0.   , 1.   , 0.   ],
           [0.54 , 0.841, 0.995, 0.1  ]], dtype=float32)
    """
    xp, sizes = _halves(cos, sin)
    return _side_by_side(xp, sizes, cos, sin)


def from_ggml(table: Array, *, rotary_dim: int, uniform: bool = True) -> tuple[Array, Array]:
    """Return half-wide tables of one with rows c0 s0 c1 s1 ....

    Parameters
    ----------
    table : array (..., rotary_dim)
        Known on the host. ggml's own rows are as wide as the head: pass ``rows[..., :rotary_dim]``.
    rotary_dim : int
        Channels that turn.
    uniform : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 where the table is, else float32; views of it where it needs no conversion.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or the table not known on the host.
    ValueError
        If the width does not fit, or factors differ.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> rows = np.array([[1.0, 0.0, 1.0, 0.0], [0.54, 0.841, 0.995, 0.1]], np.float32)
    >>> cos, sin = rotary.formats.from_ggml(rows, rotary_dim=4)
    >>> sin
    array([[0.   , 0.   ],
           [0.841, 0.1  ]], dtype=float32)
    """
    width = as_rotary_dim(rotary_dim, "rotary_dim")
    known = _read_wide(table, "table", width, "a cosine and a sine for each pair")
    return _given_out(known[..., 0::2], known[..., 1::2], table, uniform, "table")


# ------------------------------------------------------------------------------------------------
# Complex numbers and angles.


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
    xp, _ = _halves(cos, sin)
    if libraries.dtype_name(cos) != "float64":
        cos, sin = xp.astype(cos, xp.float32), xp.astype(sin, xp.float32)
    elif libraries.is_mlx_array(cos):
        msg = "`cos` must not be float64, for MLX has no complex numbers of that precision"
        raise TypeError(msg)
    return cos + 1j * sin


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
    _check_width(known.shape, "table")
    known = known.astype(f"complex{8 * known.itemsize}", copy=False)  # in the machine's byte order
    return _given_out(known.real, known.imag, table, uniform, "table")


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
    xp, sizes = _halves(cos, sin)
    check_layout(layout)
    if len(sizes) != 2:
        msg = f"`cos` must have shape (S, rotary_dim/2), got {sizes}"
        raise ValueError(msg)
    cosine, sine = _read(cos, "cos"), _read(sin, "sin")
    off = np.abs(_squares(cosine, sine) - 1)
    if not (off <= 4 * SPACING[libraries.dtype_name(cos)]).all():
        msg = (
            "`cos` and `sin` must have factor 1, which is the only one that angles can carry, got "
            f"cos**2 + sin**2 off it by {off.max():.3g}"
        )
        raise ValueError(msg)
    angles = np.arctan2(sine, cosine, dtype=np.float64).astype(np.float32)
    table = _doubled(np, angles.shape, angles, layout)[:, None, None, :]
    return table if isinstance(cos, np.ndarray) else libraries.from_host(table, xp, cos)


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
    known = _read_wide(table, "table", width, "one angle for each channel")
    if known.ndim != 4 or known.shape[1:3] != (1, 1):
        msg = f"`table` must have shape (S, 1, 1, {width}), got {known.shape}"
        raise ValueError(msg)
    angles = _single(known[:, 0, 0, :], layout, "table").astype(np.float64)
    if not np.isfinite(angles).all():
        msg = "`table` must hold finite angles, got one that is not"
        raise ValueError(msg)
    cos, sin = (part.astype(known.dtype) for part in (np.cos(angles), np.sin(angles)))
    return _given_out(cos, sin, table, True, "table")
