"""Cosine and sine as other programs store them: their tables from ours, and ours from theirs.

`RotaryEmbedding.tables` gives two arrays, half as wide as the channels that turn. Each function ``to_x``
makes of them what one kind of program keeps, and ``from_x`` reads it back: into float32 or float64, in
the library of the table. What is read must be known on the host, and is refused where its width, its
copies or its values belong to another format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from . import _libraries as libraries
from ._checks import (
    as_bool,
    as_choice,
    as_float,
    as_integer,
    as_positive_integer,
    as_rotary_dim,
)
from ._numbers import as_positions, host_array
from ._typing import Array, Float64Array, HostArray, Namespace
from .arrays import check_plain
from .decay import Role
from .embedding import RotaryEmbedding
from .layouts import Layout, check_layout
from .shapes import shape_of

__all__ = [
    "OnnxNode",
    "attention_factor",
    "from_angles",
    "from_complex",
    "from_concatenated",
    "from_full_width",
    "from_ggml",
    "from_onnx",
    "from_pairs",
    "to_angles",
    "to_complex",
    "to_concatenated",
    "to_full_width",
    "to_ggml",
    "to_onnx",
    "to_pairs",
]


def __dir__() -> list[str]:
    return __all__


Order: TypeAlias = Literal["cos_sin", "sin_cos"]
Domain: TypeAlias = Literal["", "com.microsoft"]

ORDERS = ("cos_sin", "sin_cos")
# Between two numbers of a dtype around 1.
SPACING = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
COMPLEX = ("complex64", "complex128")
# How far cos**2 + sin**2 may vary within one table: as bfloat16 rounds it, and as no misread table does that
# has more than the row of position 0.
VARIATION = 2.0**-6
ONNX_DTYPES = ("float32", "float16", "bfloat16")
ONNX_INPUTS: dict[str, tuple[str, ...]] = {
    "": ("X", "cos_cache", "sin_cache", "position_ids"),
    "com.microsoft": ("input", "position_ids", "cos_cache", "sin_cache"),
}
ONNX_ATTRIBUTES = (
    *("interleaved", "num_heads", "rotary_embedding_dim"),
    *("is_packed_batching", "scale"),
)
# The default first.
ONNX_VALUES = (("interleaved", as_integer, (0, 1)), ("scale", as_float, (1,)))


# ------------------------------------------------------------------------------------------------
# What every table goes through.


def _halves(cos: Array, sin: Array) -> tuple[Namespace, tuple[int, ...]]:
    """Return the library and the sizes of two half-wide tables that belong together."""
    for part, name in ((cos, "cos"), (sin, "sin")):
        _check_real(part, name)
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
    _check_width(ours.sizes, "cos")
    return xp, ours.sizes


def _check_real(part: Any, name: str) -> None:
    """Raise unless part of a table is an array of floating numbers."""
    check_plain(part, name)
    if libraries.dtype_name(part) not in SPACING:
        msg = f"`{name}` must have one of the dtypes {', '.join(SPACING)}, got {part.dtype}"
        raise TypeError(msg)


def _check_width(sizes: tuple[int, ...], name: str) -> None:
    """Raise unless a table has a last axis that holds something."""
    if not sizes or not sizes[-1]:
        msg = f"`{name}` must have a last axis of at least one number, got shape {sizes}"
        raise ValueError(msg)


def _side_by_side(xp: Namespace, sizes: tuple[int, ...], first: Array, second: Array) -> Array:
    """Return a0 b0 a1 b1 ... of two arrays of these sizes."""
    return xp.reshape(xp.stack([first, second], axis=-1), (*sizes[:-1], 2 * sizes[-1]))


def _doubled(xp: Namespace, sizes: tuple[int, ...], part: Array, layout: Layout) -> Array:
    """Return part of a table with every number twice."""
    if layout == "half":
        return xp.concat([part, part], axis=-1)
    return _side_by_side(xp, sizes, part, part)


def _read(table: Any, name: str) -> HostArray:
    """Return a table of any library as NumPy sees it, in float32 or float64."""
    _check_real(table, name)
    known = host_array(table, name)
    _check_width(known.shape, name)
    return known.astype(np.float64 if known.dtype.itemsize == 8 else np.float32, copy=False)


def _read_wide(table: Any, name: str, width: int, meaning: str) -> HostArray:
    """Return a table as `_read` does, of the width that it must have."""
    known = _read(table, name)
    if known.shape[-1] != width:
        msg = f"`{name}` must be {width} wide, {meaning}, got shape {known.shape}"
        raise ValueError(msg)
    return known


def _single(known: HostArray, layout: Layout, name: str) -> HostArray:
    """Return the half of a table that holds every number twice, or raise if it does not."""
    lanes = known.shape[-1] // 2
    copies = {
        "half": (known[..., :lanes], known[..., lanes:]),
        "interleaved": (known[..., 0::2], known[..., 1::2]),
    }
    first, second = copies[layout]
    if np.array_equal(first, second):
        return first
    msg = (
        f"`{name}` must hold every number twice, as layout {layout!r} does, got copies that differ"
    )
    for other, pair in copies.items():
        if np.array_equal(*pair):
            msg += f"; those of layout {other!r} do not"
    raise ValueError(msg)


def _given_out(
    cos: HostArray, sin: HostArray, like: Array, uniform: Any, name: str
) -> tuple[Array, Array]:
    """Return half-wide tables in the library they came from, having looked at what they hold."""
    if as_bool(uniform, "uniform"):
        _check_uniform(cos, sin, name)
    if isinstance(like, np.ndarray):
        return cos, sin
    xp = libraries.namespace(like)
    return libraries.from_host(cos, xp, like), libraries.from_host(sin, xp, like)


def _squares(cos: HostArray, sin: HostArray) -> Float64Array:
    """Return the squared factors of a table's pairs."""
    with np.errstate(over="ignore", invalid="ignore"):  # of what is no table
        result: Float64Array = np.square(cos, dtype=np.float64) + np.square(sin, dtype=np.float64)
    return result


def _check_uniform(cos: HostArray, sin: HostArray, name: str) -> None:
    """Raise unless all pairs of a table have one factor."""
    squares = _squares(cos, sin)
    if not squares.size:
        return
    low, high = float(squares.min()), float(squares.max())
    if not 0 < high < np.inf or not high - low <= VARIATION * high:
        msg = (
            f"`{name}` must hold cosines and sines of one factor, cos**2 + sin**2 the same everywhere, "
            f"got {low:.4g} to {high:.4g}: it is of another format or width, or its factor varies, for "
            "which there is uniform=False"
        )
        raise ValueError(msg)


def attention_factor(cos: Array, sin: Array) -> float:
    """Return the factor that half-wide tables carry: the root of ``cos**2 + sin**2``.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Known on the host.

    Returns
    -------
    float
        The root of the mean square, as exact as the tables' dtype lets it be.

    Raises
    ------
    TypeError
        If a table is not a floating array known on the host.
    ValueError
        If shapes differ or are empty, or there is not one factor: the arrays are something else.

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
    _halves(cos, sin)
    cosine, sine = _read(cos, "cos"), _read(sin, "sin")
    if not cosine.size:
        msg = f"`cos` must hold at least one number, got shape {cosine.shape}"
        raise ValueError(msg)
    _check_uniform(cosine, sine, "cos")
    return float(np.sqrt(_squares(cosine, sine).mean()))


# ------------------------------------------------------------------------------------------------
# Every number twice.


def to_full_width(cos: Array, sin: Array, *, layout: Layout) -> tuple[Array, Array]:
    """Return tables with every number twice, one for each channel that turns.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Of any library, lazy and traced ones included.
    layout : {"half", "interleaved"}
        Where the copies lie: c0 c1 ... c0 c1 ..., or c0 c0 c1 c1 ....

    Returns
    -------
    cos, sin : array (..., rotary_dim)
        In library and dtype of the arguments.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ, or the layout is unknown.

    Notes
    -----
    Read from Hugging Face transformers 5.23, ``models/llama/modeling_llama.py`` (half, as in most of its
    models) and ``models/cohere/modeling_cohere.py`` (interleaved); Liger-Kernel, ``ops/rope.py``
    (half, of which it reads the first). The layout of a model's tables need not be that of its pairs:
    ``models/glm/modeling_glm.py`` keeps half tables and turns interleaved pairs by them.

    Examples
    --------
    >>> import rotary
    >>> cos, sin = rotary.cos_sin([0, 1], [1.0, 0.1])
    >>> rotary.formats.to_full_width(cos, sin, layout="half")[0].round(3)
    array([[1.   , 1.   , 1.   , 1.   ],
           [0.54 , 0.995, 0.54 , 0.995]], dtype=float32)
    >>> rotary.formats.to_full_width(cos, sin, layout="interleaved")[0].round(3)
    array([[1.   , 1.   , 1.   , 1.   ],
           [0.54 , 0.54 , 0.995, 0.995]], dtype=float32)
    """
    xp, sizes = _halves(cos, sin)
    check_layout(layout)
    return _doubled(xp, sizes, cos, layout), _doubled(xp, sizes, sin, layout)


def from_full_width(
    cos: Array, sin: Array, *, layout: Layout, rotary_dim: int, uniform: bool = True
) -> tuple[Array, Array]:
    """Return half-wide tables of tables that hold every number twice.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim)
        Known on the host.
    layout : {"half", "interleaved"}
        Where the copies lie.
    rotary_dim : int
        Channels that turn. A table of this width could as well be half as wide as twice as many.
    uniform : bool, default True
        Refuse tables without one factor, see `attention_factor`: what another format or width makes of a
        table. To be False for factors that do vary, from lane to lane (xPos) or from row to row (two
        LongRoPE tables in one).

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 where the tables are, else float32; views of them where they need no conversion.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or a table not known on the host.
    ValueError
        If a width does not fit, the two copies of a number differ, or factors do.

    Examples
    --------
    >>> import rotary
    >>> cos, sin = rotary.cos_sin([0, 1], [1.0, 0.1])
    >>> wide = rotary.formats.to_full_width(cos, sin, layout="half")
    >>> again, _ = rotary.formats.from_full_width(*wide, layout="half", rotary_dim=4)
    >>> bool((again == cos).all())
    True
    >>> rotary.formats.from_full_width(*wide, layout="interleaved", rotary_dim=4)
    Traceback (most recent call last):
    ValueError: `cos` must hold every number twice, as layout 'interleaved' does, got copies that differ;
    those of layout 'half' do not
    """
    check_layout(layout)
    width = as_rotary_dim(rotary_dim, "rotary_dim")
    _halves(cos, sin)
    cosine, sine = (
        _single(_read_wide(part, name, width, "one number for each channel"), layout, name)
        for part, name in ((cos, "cos"), (sin, "sin"))
    )
    return _given_out(cosine, sine, cos, uniform, "cos")


# ------------------------------------------------------------------------------------------------
# One array, one part after the other.


def to_concatenated(cos: Array, sin: Array, *, order: Order, layout: Layout | None = None) -> Array:
    """Return one table with cosine and sine one after the other on the last axis.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Of any library, lazy and traced ones included.
    order : {"cos_sin", "sin_cos"}
        Which comes first.
    layout : {"half", "interleaved"}, optional
        Where the copies lie, if either part is to hold every number twice. By default neither does.

    Returns
    -------
    array (..., rotary_dim), or (..., 2 rotary_dim) with a layout
        In library and dtype of the arguments.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ, or the order or layout is unknown.

    Notes
    -----
    Whose tables these are, with what they turn:

    - cosine first: vLLM, ``model_executor/layers/rotary_embedding/base.py``, and SGLang,
      ``srt/layers/rotary_embedding/base.py``, (max, rotary_dim), ``cos_sin_cache`` in the model's dtype or
      float32; FlashInfer, ``rope.py``, ``apply_rope_with_cos_sin_cache``, float32 and nothing else;
    - sine first: GPT-J, CodeGen and RoFormer, transformers 5.23, ``models/gptj/modeling_gptj.py``, (max,
      rotary_dim), interleaved pairs;
    - sine first, every number twice: timm, ``layers/pos_embed_sincos.py``, ``RotaryEmbeddingCat``
      ("interleaved") and ``RotaryEmbeddingMRope`` ("half"), (positions, 2 head_dim).

    Examples
    --------
    >>> import rotary
    >>> cos, sin = rotary.cos_sin([0, 1], [1.0, 0.1])
    >>> rotary.formats.to_concatenated(cos, sin, order="cos_sin").round(3)
    array([[1.   , 1.   , 0.   , 0.   ],
           [0.54 , 0.995, 0.841, 0.1  ]], dtype=float32)
    """
    xp, sizes = _halves(cos, sin)
    as_choice(order, "order", ORDERS)
    parts = [cos, sin] if order == "cos_sin" else [sin, cos]
    if layout is not None:
        check_layout(layout)
        parts = [_doubled(xp, sizes, part, layout) for part in parts]
    return xp.concat(parts, axis=-1)


def from_concatenated(
    table: Array,
    *,
    rotary_dim: int,
    order: Order,
    layout: Layout | None = None,
    uniform: bool = True,
) -> tuple[Array, Array]:
    """Return half-wide tables of one that holds cosine and sine one after the other.

    Parameters
    ----------
    table : array (..., rotary_dim), or (..., 2 rotary_dim) with a layout
        Known on the host.
    rotary_dim : int
        Channels that turn.
    order : {"cos_sin", "sin_cos"}
        Which comes first. Nothing in a table tells, and the wrong one turns by other angles.
    layout : {"half", "interleaved"}, optional
        Where the copies lie, if either part holds every number twice.
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
        If the width does not fit, the two copies of a number differ, or factors do.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> cache = np.array([[1.0, 1.0, 0.0, 0.0], [0.54, 0.995, 0.841, 0.1]], np.float32)
    >>> cos, sin = rotary.formats.from_concatenated(cache, rotary_dim=4, order="cos_sin")
    >>> sin
    array([[0.   , 0.   ],
           [0.841, 0.1  ]], dtype=float32)
    """
    width = as_rotary_dim(rotary_dim, "rotary_dim")
    as_choice(order, "order", ORDERS)
    if layout is None:
        known = _read_wide(table, "table", width, "half of it cosines and half of it sines")
    else:
        check_layout(layout)
        known = _read_wide(table, "table", 2 * width, "cosines and sines for each channel")
    middle = known.shape[-1] // 2
    parts = [known[..., :middle], known[..., middle:]]
    if layout is not None:
        parts = [_single(part, layout, "table") for part in parts]
    cos, sin = parts if order == "cos_sin" else parts[::-1]
    return _given_out(cos, sin, table, uniform, "table")


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


# ------------------------------------------------------------------------------------------------
# ONNX.


class OnnxNode(NamedTuple):
    """A node of the operator RotaryEmbedding, and the two tables it reads.

    Attributes
    ----------
    op_type : str
        "RotaryEmbedding".
    domain : str
        "" for the operator of ONNX itself, opset 23, "com.microsoft" for that of ONNX Runtime.
    inputs : tuple of str
        The names of the inputs, in the operator's order.
    attributes : dict of str to int or float
        As ``onnx.helper.make_node`` takes them.
    cos_cache, sin_cache : array
        What the inputs of these names hold: (positions, rotary_dim/2), whose rows ``position_ids`` names;
        or (B, S, rotary_dim/2), with no ``position_ids``.

    Examples
    --------
    >>> import rotary
    >>> rope = rotary.RotaryEmbedding(64, layout="interleaved", base=10_000.0)
    >>> node = rotary.formats.to_onnx(rope, range(4096))
    >>> node.op_type, node.attributes["interleaved"], node.sin_cache.shape
    ('RotaryEmbedding', 1, (4096, 32))
    """

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    attributes: dict[str, int | float]
    cos_cache: HostArray
    sin_cache: HostArray


def to_onnx(
    rope: RotaryEmbedding,
    positions: Any,
    *,
    dtype: Any = "float32",
    num_heads: int | None = None,
    role: Role | None = None,
    domain: Domain = "",
) -> OnnxNode:
    """Return the node of an ONNX model that rotates as an embedding does.

    Parameters
    ----------
    rope : RotaryEmbedding
        Whose window starts at channel 0 and which writes in the layout it reads: the operators do
        nothing else.
    positions : array_like (positions,) or (B, S)
        Where the rows of the tables stand, after the position axes where frequencies are given for
        several; ``range(n)`` for a table that ``position_ids`` may be looked up in as they are. Two
        axes are those of the rotated array; com.microsoft has no such form.
    dtype : {"float32", "float16", "bfloat16"}, default "float32"
        Of the array that the model rotates, which must be that of the tables. The 16-bit ones round
        cosine and sine, by up to 2.5e-4 and 2e-3.
    num_heads : int, optional
        To be given where the model's array is (B, S, heads * head_dim), and for com.microsoft where
        only part of a head turns.
    role : {"query", "key"}, optional
        Whose node, with `decay`.
    domain : {"", "com.microsoft"}, default ""
        Whose operator.

    Returns
    -------
    OnnxNode
        Its tables carry the attention factor. float32 ones are read-only.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or `RotaryEmbedding.tables` refuses the embedding.
    ValueError
        If a value does not fit, or the operator cannot do what the embedding does.

    Notes
    -----
    Read from ONNX, ``docs/Operators.md``, RotaryEmbedding-23, and ONNX Runtime,
    ``docs/ContribOperators.md``, ``core/providers/cpu/llm/rotary_embedding.cc`` and
    ``contrib_ops/cpu/bert/rotary_embedding.cc``. The latter takes ``position_ids`` of shape (1,) as an offset,
    and does not apply its attribute ``scale``, which stays 1 here.

    Examples
    --------
    >>> import rotary
    >>> rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0, rotary_dim=32)
    >>> node = rotary.formats.to_onnx(rope, range(4096), num_heads=8)
    >>> node.inputs
    ('X', 'cos_cache', 'sin_cache', 'position_ids')
    >>> node.attributes
    {'interleaved': 0, 'rotary_embedding_dim': 32, 'num_heads': 8}
    >>> node.cos_cache.shape
    (4096, 16)
    """
    as_choice(domain, "domain", tuple(ONNX_INPUTS))
    _check_expressible(rope)
    partly = rope.rotary_dim < rope.head_dim
    attributes: dict[str, int | float] = {
        "interleaved": int(rope.layout == "interleaved"),
        "rotary_embedding_dim": rope.rotary_dim if partly else 0,
    }
    if num_heads is not None:
        attributes["num_heads"] = as_positive_integer(num_heads, "num_heads")
    elif domain and partly:
        msg = (
            f"`num_heads` must be given: {domain} asks for it where part of a head turns, got None"
        )
        raise TypeError(msg)
    if domain:
        attributes |= {"is_packed_batching": 0, "scale": 1.0}
    wanted = _onnx_dtype(dtype)
    places = as_positions(positions)
    tables = rope.tables(places, role=role)
    cos, sin = (part.astype(wanted, copy=False) for part in tables)
    if cos.ndim not in ((2,) if domain else (2, 3)):
        msg = f"`positions` must have shape (positions,){'' if domain else ' or (B, S)'}"
        msg += " after the position axes" if places.ndim == cos.ndim else ""
        msg += f", got {places.shape}"
        raise ValueError(msg)
    inputs = ONNX_INPUTS[domain][: 3 if cos.ndim == 3 else 4]
    return OnnxNode("RotaryEmbedding", domain, inputs, attributes, cos, sin)


def _check_expressible(rope: Any) -> None:
    """Raise unless the ONNX operators can do what an embedding does."""
    if not isinstance(rope, RotaryEmbedding):
        msg = f"`rope` must be a RotaryEmbedding, got {type(rope).__name__}"
        raise TypeError(msg)
    needs = {
        "rotary_start 0": rope.rotary_start == 0,
        "its output_layout as its layout": rope.output_layout == rope.layout,
        "the same frequencies for all heads": rope.inv_freq.ndim < 3,
    }
    for need, met in needs.items():
        if not met:
            msg = f"`rope` must have {need}, for the ONNX operators know no other, got {rope!r}"
            raise ValueError(msg)


def _onnx_dtype(dtype: Any) -> np.dtype[Any]:
    """Return NumPy's dtype of the tables of a model."""
    name: Any = libraries.name_of_dtype(dtype)
    if name not in ONNX_DTYPES:
        msg = f"`dtype` must be one of {', '.join(map(repr, ONNX_DTYPES))}, got {dtype!r}"
        raise ValueError(msg)
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    found: np.dtype[Any] = np.dtype(name)
    return found


def from_onnx(
    cos_cache: Array,
    sin_cache: Array,
    attributes: Mapping[str, Any],
    *,
    head_dim: int,
    uniform: bool = True,
) -> tuple[Array, Array, Layout]:
    """Return half-wide tables and the layout of a node RotaryEmbedding, of either domain.

    Parameters
    ----------
    cos_cache, sin_cache : array (positions, rotary_dim/2) or (B, S, rotary_dim/2)
        The node's inputs of these names.
    attributes : mapping of str to number
        The node's attributes; those that it leaves out have the operator's defaults.
    head_dim : int
        Channels of a head of the array it rotates.
    uniform : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array, shape of `cos_cache`
        float32, or float64 where the tables are; the tables themselves where they need no conversion.
    layout : {"half", "interleaved"}
        What `rotary.apply_rotary` asks for besides.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or a table not known on the host.
    ValueError
        If shapes do not fit the attributes, an attribute is unknown, or `scale` is not 1: what it scales is
        not said anywhere, and ONNX Runtime does not apply it.

    Examples
    --------
    >>> import rotary
    >>> rope = rotary.RotaryEmbedding(64, layout="interleaved", base=10_000.0)
    >>> node = rotary.formats.to_onnx(rope, range(16))
    >>> cos, sin, layout = rotary.formats.from_onnx(
    ...     node.cos_cache, node.sin_cache, node.attributes, head_dim=64
    ... )
    >>> layout
    'interleaved'
    """
    head = as_positive_integer(head_dim, "head_dim")
    given = _onnx_attributes(attributes)
    name = "attributes['rotary_embedding_dim']"
    partly = as_integer(given.get("rotary_embedding_dim", 0), name)
    width = as_rotary_dim(partly or head, name if partly else "head_dim")
    if width > head:
        msg = f"`{name}` must be at most `head_dim` {head}, got {width}"
        raise ValueError(msg)
    _halves(cos_cache, sin_cache)
    cos, sin = (
        _read_wide(part, name, width // 2, "one number for each pair")
        for part, name in ((cos_cache, "cos_cache"), (sin_cache, "sin_cache"))
    )
    if cos.ndim not in (2, 3):
        msg = f"`cos_cache` must have 2 or 3 axes, got shape {cos.shape}"
        raise ValueError(msg)
    cosine, sine = _given_out(cos, sin, cos_cache, uniform, "cos_cache")
    return cosine, sine, "interleaved" if given["interleaved"] else "half"


def _onnx_attributes(attributes: Any) -> dict[str, Any]:
    """Return the attributes of a node, checked."""
    if not isinstance(attributes, Mapping):
        msg = f"`attributes` must be a mapping, got {type(attributes).__name__}"
        raise TypeError(msg)
    given = dict(attributes)
    unknown = [name for name in given if name not in ONNX_ATTRIBUTES]
    if unknown:
        msg = f"`attributes` must be among {', '.join(ONNX_ATTRIBUTES)}, got {unknown[0]!r}"
        raise ValueError(msg)
    for name, read, allowed in ONNX_VALUES:
        value = read(given.get(name, allowed[0]), f"attributes[{name!r}]")
        if value not in allowed:
            msg = f"`attributes[{name!r}]` must be {' or '.join(map(str, allowed))}, got {value!r}"
            raise ValueError(msg)
        given[name] = value
    return given
