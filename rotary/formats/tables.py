"""Tables of cosines and sines: every number twice, one after the other, or side by side."""

from __future__ import annotations

from typing import Literal, TypeAlias, overload

from rotary._lib.checks import as_choice, as_rotary_dim
from rotary._lib.typing import Array, ArrayT, FloatArray, HostArray
from rotary.layouts import Layout, check_layout

from .base import (
    check_halves,
    interleaved,
    read,
    read_of_width,
    repeated,
    to_library,
    without_copies,
)

__all__ = [
    "from_concatenated",
    "from_full_width",
    "from_ggml",
    "from_pairs",
    "to_concatenated",
    "to_full_width",
    "to_ggml",
    "to_pairs",
]

Order: TypeAlias = Literal["cos_sin", "sin_cos"]

ORDERS = ("cos_sin", "sin_cos")


# ------------------------------------------------------------------------------------------------
# Every number twice.


def to_full_width(cos: ArrayT, sin: ArrayT, *, layout: Layout) -> tuple[ArrayT, ArrayT]:
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
    xp, sizes = check_halves(cos, sin)
    check_layout(layout)
    return repeated(xp, sizes, cos, layout), repeated(xp, sizes, sin, layout)


@overload
def from_full_width(
    cos: HostArray, sin: HostArray, *, layout: Layout, rotary_dim: int, uniform: bool = ...
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_full_width(
    cos: ArrayT, sin: ArrayT, *, layout: Layout, rotary_dim: int, uniform: bool = ...
) -> tuple[ArrayT, ArrayT]: ...


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
    check_halves(cos, sin)
    cosine, sine = (
        without_copies(
            read_of_width(part, name, width, "one number for each channel"), layout, name
        )
        for part, name in ((cos, "cos"), (sin, "sin"))
    )
    return to_library(cosine, sine, cos, uniform, "cos")


# ------------------------------------------------------------------------------------------------
# One array, one part after the other.


def to_concatenated(
    cos: ArrayT, sin: ArrayT, *, order: Order, layout: Layout | None = None
) -> ArrayT:
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
    xp, sizes = check_halves(cos, sin)
    as_choice(order, "order", ORDERS)
    parts = [cos, sin] if order == "cos_sin" else [sin, cos]
    if layout is not None:
        check_layout(layout)
        parts = [repeated(xp, sizes, part, layout) for part in parts]
    table: ArrayT = xp.concat(parts, axis=-1)
    return table


@overload
def from_concatenated(
    table: HostArray,
    *,
    rotary_dim: int,
    order: Order,
    layout: Layout | None = ...,
    uniform: bool = ...,
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_concatenated(
    table: ArrayT,
    *,
    rotary_dim: int,
    order: Order,
    layout: Layout | None = ...,
    uniform: bool = ...,
) -> tuple[ArrayT, ArrayT]: ...


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
        known = read_of_width(table, "table", width, "half of it cosines and half of it sines")
    else:
        check_layout(layout)
        known = read_of_width(table, "table", 2 * width, "cosines and sines for each channel")
    middle = known.shape[-1] // 2
    parts = [known[..., :middle], known[..., middle:]]
    if layout is not None:
        parts = [without_copies(part, layout, "table") for part in parts]
    cos, sin = parts if order == "cos_sin" else parts[::-1]
    return to_library(cos, sin, table, uniform, "table")


# ------------------------------------------------------------------------------------------------
# Cosine beside sine.


def to_pairs(cos: ArrayT, sin: ArrayT) -> ArrayT:
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
    xp, _ = check_halves(cos, sin)
    table: ArrayT = xp.stack([cos, sin], axis=-1)
    return table


@overload
def from_pairs(table: HostArray, *, uniform: bool = ...) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_pairs(table: ArrayT, *, uniform: bool = ...) -> tuple[ArrayT, ArrayT]: ...


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
    known = read(table, "table")
    if known.ndim < 2 or known.shape[-1] != 2:
        msg = f"`table` must have a last axis of cosine and sine, (..., rotary_dim/2, 2), got {known.shape}"
        raise ValueError(msg)
    return to_library(known[..., 0], known[..., 1], table, uniform, "table")


def to_ggml(cos: ArrayT, sin: ArrayT) -> ArrayT:
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
    xp, sizes = check_halves(cos, sin)
    table: ArrayT = interleaved(xp, sizes, cos, sin)
    return table


@overload
def from_ggml(
    table: HostArray, *, rotary_dim: int, uniform: bool = ...
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_ggml(table: ArrayT, *, rotary_dim: int, uniform: bool = ...) -> tuple[ArrayT, ArrayT]: ...


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
    known = read_of_width(table, "table", width, "a cosine and a sine for each pair")
    return to_library(known[..., 0::2], known[..., 1::2], table, uniform, "table")
