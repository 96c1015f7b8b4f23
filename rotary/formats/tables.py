"""Formats of cosines and sines: every number repeated, cosines and sines concatenated, or cosine and sine in pairs."""

from __future__ import annotations

from typing import Literal, TypeAlias, overload

from rotary._lib.checks import as_choice, as_rotary_dim
from rotary._lib.typing import Array, ArrayT, FloatArray, HostArray
from rotary.layouts import Layout, check_layout

from .base import (
    as_host_table,
    as_table_of_width,
    check_halves,
    first_copy,
    interleave,
    repeat,
    to_library,
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
# Full width: each number twice.


def to_full_width(cos: ArrayT, sin: ArrayT, *, layout: Layout) -> tuple[ArrayT, ArrayT]:
    """Convert half-wide tables to full width: every number twice, once for each channel of the pair.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Arrays of any library, including lazy and traced arrays.
    layout : {"half", "interleaved"}
        The order of the copies: c0 c1 ... c0 c1 ..., or c0 c0 c1 c1 ....

    Returns
    -------
    cos, sin : array (..., rotary_dim)
        In the library and dtype of the arguments.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ, or the layout is unknown.

    Notes
    -----
    Source: Hugging Face transformers 5.23, ``models/llama/modeling_llama.py`` (half, as in most of its
    models) and ``models/cohere/modeling_cohere.py`` (interleaved); Liger-Kernel, ``ops/rope.py`` (half; it
    reads the first copy only). The layout of the tables may differ from the layout of the channel pairs:
    ``models/glm/modeling_glm.py`` has half tables and rotates interleaved pairs.

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
    return repeat(xp, sizes, cos, layout), repeat(xp, sizes, sin, layout)


@overload
def from_full_width(
    cos: HostArray, sin: HostArray, *, layout: Layout, rotary_dim: int, constant_factor: bool = ...
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_full_width(
    cos: ArrayT, sin: ArrayT, *, layout: Layout, rotary_dim: int, constant_factor: bool = ...
) -> tuple[ArrayT, ArrayT]: ...


def from_full_width(
    cos: Array, sin: Array, *, layout: Layout, rotary_dim: int, constant_factor: bool = True
) -> tuple[Array, Array]:
    """Convert full-width tables, which contain every number twice, to half-wide tables.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim)
        Arrays of any library whose values are known on the host.
    layout : {"half", "interleaved"}
        The order of the copies.
    rotary_dim : int
        The number of rotated channels. It is needed because the width of a table does not show whether its
        numbers are repeated.
    constant_factor : bool, default True
        Whether to raise if the factor of the tables varies (see `attention_factor`). A varying factor usually
        means that the table has another format. Pass False if the factor does vary: between channel pairs
        (xPos), or between positions (two LongRoPE tables in one).

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 if the tables are float64, else float32. Views of the tables if no conversion is needed.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the values of a table are not known on the host.
    ValueError
        If a width is wrong, the two copies of a number differ, or the factor varies.

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
    ValueError: `cos` must contain every number twice in layout 'interleaved', got copies that differ;
    in layout 'half', they are equal
    """
    check_layout(layout)
    width = as_rotary_dim(rotary_dim, "rotary_dim")
    check_halves(cos, sin)
    cosine, sine = (
        first_copy(
            as_table_of_width(part, name, width, "one number for each channel"), layout, name
        )
        for part, name in ((cos, "cos"), (sin, "sin"))
    )
    return to_library(cosine, sine, cos, constant_factor, "cos")


# ------------------------------------------------------------------------------------------------
# Concatenated: cosines before sines, or sines before cosines.


def to_concatenated(
    cos: ArrayT, sin: ArrayT, *, order: Order, layout: Layout | None = None
) -> ArrayT:
    """Concatenate cosine and sine on the last axis.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Arrays of any library, including lazy and traced arrays.
    order : {"cos_sin", "sin_cos"}
        Whether cosines or sines are first.
    layout : {"half", "interleaved"}, optional
        The order of the copies, if every number is to be repeated. By default numbers are not repeated.

    Returns
    -------
    array (..., rotary_dim), or (..., 2 rotary_dim) with a layout
        In the library and dtype of the arguments.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ, or the order or layout is unknown.

    Notes
    -----
    Sources:

    - cosines first: vLLM, ``model_executor/layers/rotary_embedding/base.py``, and SGLang,
      ``srt/layers/rotary_embedding/base.py``: ``cos_sin_cache`` of shape (max, rotary_dim), in the dtype of
      the model or float32; FlashInfer, ``rope.py``, ``apply_rope_with_cos_sin_cache``: float32 only;
    - sines first: GPT-J, CodeGen and RoFormer, transformers 5.23, ``models/gptj/modeling_gptj.py``: shape
      (max, rotary_dim), for interleaved pairs;
    - sines first, every number twice: timm, ``layers/pos_embed_sincos.py``, ``RotaryEmbeddingCat``
      ("interleaved") and ``RotaryEmbeddingMRope`` ("half"): shape (positions, 2 head_dim).

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
        parts = [repeat(xp, sizes, part, layout) for part in parts]
    table: ArrayT = xp.concat(parts, axis=-1)
    return table


@overload
def from_concatenated(
    table: HostArray,
    *,
    rotary_dim: int,
    order: Order,
    layout: Layout | None = ...,
    constant_factor: bool = ...,
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_concatenated(
    table: ArrayT,
    *,
    rotary_dim: int,
    order: Order,
    layout: Layout | None = ...,
    constant_factor: bool = ...,
) -> tuple[ArrayT, ArrayT]: ...


def from_concatenated(
    table: Array,
    *,
    rotary_dim: int,
    order: Order,
    layout: Layout | None = None,
    constant_factor: bool = True,
) -> tuple[Array, Array]:
    """Convert a table of concatenated cosines and sines to half-wide tables.

    Parameters
    ----------
    table : array (..., rotary_dim), or (..., 2 rotary_dim) with a layout
        An array of any library whose values are known on the host.
    rotary_dim : int
        The number of rotated channels.
    order : {"cos_sin", "sin_cos"}
        Whether cosines or sines are first. The table does not show the order, and the wrong order gives wrong
        angles.
    layout : {"half", "interleaved"}, optional
        The order of the copies, if every number is repeated.
    constant_factor : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 if the table is float64, else float32. Views of the table if no conversion is needed.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the values of the table are not known on the host.
    ValueError
        If the width is wrong, the two copies of a number differ, or the factor varies.

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
        values = as_table_of_width(table, "table", width, "half of it cosines and half of it sines")
    else:
        check_layout(layout)
        values = as_table_of_width(table, "table", 2 * width, "cosines and sines for each channel")
    middle = values.shape[-1] // 2
    parts = [values[..., :middle], values[..., middle:]]
    if layout is not None:
        parts = [first_copy(part, layout, "table") for part in parts]
    cos, sin = parts if order == "cos_sin" else parts[::-1]
    return to_library(cos, sin, table, constant_factor, "table")


# ------------------------------------------------------------------------------------------------
# Cosine and sine of a pair next to each other.


def to_pairs(cos: ArrayT, sin: ArrayT) -> ArrayT:
    """Stack cosine and sine on a last axis of size two.

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Arrays of any library, including lazy and traced arrays.

    Returns
    -------
    array (..., rotary_dim/2, 2)
        In the library and dtype of the arguments.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ.

    Notes
    -----
    Source: torchtune, ``modules/position_embeddings.py``, ``RotaryPositionalEmbeddings``: (max, head_dim/2,
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
def from_pairs(
    table: HostArray, *, constant_factor: bool = ...
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_pairs(table: ArrayT, *, constant_factor: bool = ...) -> tuple[ArrayT, ArrayT]: ...


def from_pairs(table: Array, *, constant_factor: bool = True) -> tuple[Array, Array]:
    """Convert a table with cosine and sine on a last axis of size two to half-wide tables.

    Parameters
    ----------
    table : array (..., rotary_dim/2, 2)
        An array of any library whose values are known on the host.
    constant_factor : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 if the table is float64, else float32. Views of the table if no conversion is needed.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the values of the table are not known on the host.
    ValueError
        If the size of the last axis is not 2, or the factor varies.

    Examples
    --------
    >>> import rotary
    >>> cos, sin = rotary.cos_sin([0, 1], [1.0, 0.1])
    >>> again, _ = rotary.formats.from_pairs(rotary.formats.to_pairs(cos, sin))
    >>> bool((again == cos).all())
    True
    """
    values = as_host_table(table, "table")
    if values.ndim < 2 or values.shape[-1] != 2:
        msg = f"`table` must have a last axis of cosine and sine, (..., rotary_dim/2, 2), got {values.shape}"
        raise ValueError(msg)
    return to_library(values[..., 0], values[..., 1], table, constant_factor, "table")


def to_ggml(cos: ArrayT, sin: ArrayT) -> ArrayT:
    """Interleave cosine and sine: c0 s0 c1 s1 ....

    Parameters
    ----------
    cos, sin : array (..., rotary_dim/2)
        Arrays of any library, including lazy and traced arrays.

    Returns
    -------
    array (..., rotary_dim)
        In the library and dtype of the arguments.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If shapes or dtypes of `cos` and `sin` differ.

    Notes
    -----
    Source: ggml, ``src/ggml-cpu/ops.cpp``, ``ggml_rope_cache_init`` and ``rotate_pairs``: one float32 row
    per position, which includes ``mscale``. The row is the same for every mode (NORMAL rotates interleaved
    pairs, NEOX pairs of the half layout). Rows of ggml are as wide as the head, but only the first ``n_dims``
    numbers are read. Its backward pass stores negated sines.

    Examples
    --------
    >>> import rotary
    >>> rotary.formats.to_ggml(*rotary.cos_sin([0, 1], [1.0, 0.1])).round(3)
    array([[1.   , 0.   , 1.   , 0.   ],
           [0.54 , 0.841, 0.995, 0.1  ]], dtype=float32)
    """
    xp, sizes = check_halves(cos, sin)
    table: ArrayT = interleave(xp, sizes, cos, sin)
    return table


@overload
def from_ggml(
    table: HostArray, *, rotary_dim: int, constant_factor: bool = ...
) -> tuple[FloatArray, FloatArray]: ...


@overload
def from_ggml(
    table: ArrayT, *, rotary_dim: int, constant_factor: bool = ...
) -> tuple[ArrayT, ArrayT]: ...


def from_ggml(
    table: Array, *, rotary_dim: int, constant_factor: bool = True
) -> tuple[Array, Array]:
    """Convert a table with rows c0 s0 c1 s1 ... to half-wide tables.

    Parameters
    ----------
    table : array (..., rotary_dim)
        An array of any library whose values are known on the host. Rows of ggml are as wide as the head, so
        pass ``rows[..., :rotary_dim]``.
    rotary_dim : int
        The number of rotated channels.
    constant_factor : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array (..., rotary_dim/2)
        float64 if the table is float64, else float32. Views of the table if no conversion is needed.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the values of the table are not known on the host.
    ValueError
        If the width is wrong, or the factor varies.

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
    values = as_table_of_width(table, "table", width, "a cosine and a sine for each pair")
    return to_library(values[..., 0::2], values[..., 1::2], table, constant_factor, "table")
