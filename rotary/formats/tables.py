"""Cosine and sine as other programs store them: their tables from ours, and ours from theirs.

`RotaryEmbedding.tables` gives two arrays, half as wide as the channels that turn. Each function ``to_x``
makes of them what one kind of program keeps, and ``from_x`` reads it back: into float32 or float64, in
the library of the table. What is read must be known on the host, and is refused where its width, its
copies or its values belong to another format.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_bool, as_choice, as_rotary_dim
from rotary._lib.numbers import host_array
from rotary._lib.typing import Array, Float64Array, HostArray, Namespace
from rotary.call.arrays import check_plain
from rotary.call.shapes import shape_of
from rotary.layouts import Layout, check_layout

__all__ = [
    "attention_factor",
    "from_concatenated",
    "from_full_width",
    "to_concatenated",
    "to_full_width",
]


Order: TypeAlias = Literal["cos_sin", "sin_cos"]
Domain: TypeAlias = Literal["", "com.microsoft"]

ORDERS = ("cos_sin", "sin_cos")
# Between two numbers of a dtype around 1.
SPACING = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
COMPLEX = ("complex64", "complex128")
# How far cos**2 + sin**2 may vary within one table: as bfloat16 rounds it, and as no misread table does that
# has more than the row of position 0.
VARIATION = 2.0**-6


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
