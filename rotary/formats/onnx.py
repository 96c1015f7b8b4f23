"""Conversions between an embedding and a node of the ONNX operator RotaryEmbedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_choice, as_float, as_integer, as_positive_integer, as_rotary_dim
from rotary._lib.numbers import as_positions
from rotary._lib.typing import Array, ArrayT, DTypeLike, FloatArray, HostArray, PositionsLike
from rotary.decay import Role
from rotary.embedding import RotaryEmbedding
from rotary.layouts import Layout

from .base import as_table_of_width, check_halves, to_library

__all__ = [
    "OnnxNode",
    "from_onnx",
    "to_onnx",
]

Domain: TypeAlias = Literal["", "com.microsoft"]

ONNX_DTYPES = ("float32", "float16", "bfloat16")
ONNX_INPUTS: dict[str, tuple[str, ...]] = {
    "": ("X", "cos_cache", "sin_cache", "position_ids"),
    "com.microsoft": ("input", "position_ids", "cos_cache", "sin_cache"),
}
ONNX_ATTRIBUTES = (
    *("interleaved", "num_heads", "rotary_embedding_dim"),
    *("is_packed_batching", "scale"),
)
# Name, check and allowed values of an attribute. The first value is the default.
ONNX_VALUES = (("interleaved", as_integer, (0, 1)), ("scale", as_float, (1,)))


class OnnxNode(NamedTuple):
    """A node of the operator RotaryEmbedding, and the two tables that it reads.

    Attributes
    ----------
    op_type : str
        "RotaryEmbedding".
    domain : str
        "" for the operator of ONNX, opset 23; "com.microsoft" for the operator of ONNX Runtime.
    inputs : tuple of str
        The names of the inputs, in the order of the operator.
    attributes : dict of str to int or float
        The attributes for ``onnx.helper.make_node``.
    cos_cache, sin_cache : array
        The values of the inputs with these names. The shape is (positions, rotary_dim/2) if
        ``position_ids`` selects rows, and (B, S, rotary_dim/2) without ``position_ids``.

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
    positions: PositionsLike,
    *,
    dtype: DTypeLike = "float32",
    num_heads: int | None = None,
    role: Role | None = None,
    domain: Domain = "",
) -> OnnxNode:
    """Convert an embedding to an ONNX node that rotates in the same way.

    Parameters
    ----------
    rope : RotaryEmbedding
        Its rotated channels must start at channel 0, and its `output_layout` must equal its `layout`,
        because the operators support nothing else.
    positions : array_like (positions,) or (B, S)
        The position of each row of the tables. If frequencies are given for several position axes, the first
        axis is that of the position axes. With ``range(n)``, values of ``position_ids`` are positions. In the
        form (B, S), B and S are the sizes of the rotated array; com.microsoft does not have this form.
    dtype : {"float32", "float16", "bfloat16"}, default "float32"
        The dtype of the rotated array and of the tables. The rounding error of cosine and sine is up to 2.5e-4
        in float16 and 2e-3 in bfloat16.
    num_heads : int, optional
        Required if the shape of the rotated array is (B, S, heads * head_dim), and for com.microsoft if only
        part of a head is rotated.
    role : {"query", "key"}, optional
        With `decay`, whether the node rotates queries or keys.
    domain : {"", "com.microsoft"}, default ""
        The operator of ONNX, or the operator of ONNX Runtime.

    Returns
    -------
    OnnxNode
        Its tables include the attention factor. float32 tables are read-only.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or `RotaryEmbedding.tables` raises it.
    ValueError
        If a value is out of range, or the operators do not support the embedding.

    Notes
    -----
    Source: ONNX, ``docs/Operators.md``, RotaryEmbedding-23, and ONNX Runtime, ``docs/ContribOperators.md``,
    ``core/providers/cpu/llm/rotary_embedding.cc`` and ``contrib_ops/cpu/bert/rotary_embedding.cc``. The last
    file reads ``position_ids`` of shape (1,) as an offset, and ignores the attribute ``scale``, which is 1
    here.

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
    is_partial = rope.rotary_dim < rope.head_dim
    attributes: dict[str, int | float] = {
        "interleaved": int(rope.layout == "interleaved"),
        "rotary_embedding_dim": rope.rotary_dim if is_partial else 0,
    }
    if num_heads is not None:
        attributes["num_heads"] = as_positive_integer(num_heads, "num_heads")
    elif domain and is_partial:
        msg = f"`num_heads` must be given, because {domain} needs it if only part of a head is rotated, got None"
        raise TypeError(msg)
    if domain:
        attributes |= {"is_packed_batching": 0, "scale": 1.0}
    table_dtype = _onnx_dtype(dtype)
    given = as_positions(positions)
    tables = rope.tables(given, role=role)
    cos, sin = (part.astype(table_dtype, copy=False) for part in tables)
    if cos.ndim not in ((2,) if domain else (2, 3)):
        msg = f"`positions` must have shape (positions,){'' if domain else ' or (B, S)'}"
        msg += " after the axis of position axes" if given.ndim == cos.ndim else ""
        msg += f", got {given.shape}"
        raise ValueError(msg)
    inputs = ONNX_INPUTS[domain][: 3 if cos.ndim == 3 else 4]
    return OnnxNode("RotaryEmbedding", domain, inputs, attributes, cos, sin)


def _check_expressible(rope: Any) -> None:
    """Raise unless the ONNX operators support an embedding."""
    if not isinstance(rope, RotaryEmbedding):
        msg = f"`rope` must be a RotaryEmbedding, got {type(rope).__name__}"
        raise TypeError(msg)
    requirements = {
        "rotary_start 0": rope.rotary_start == 0,
        "the same layout and output_layout": rope.output_layout == rope.layout,
        "the same frequencies for all heads": rope.inv_freq.ndim < 3,
    }
    for requirement, is_met in requirements.items():
        if not is_met:
            msg = f"`rope` must have {requirement}, because the ONNX operators support nothing else, got {rope!r}"
            raise ValueError(msg)


def _onnx_dtype(dtype: Any) -> np.dtype[Any]:
    """Return a dtype of tables as a NumPy dtype."""
    name: Any = libraries.name_of_dtype(dtype)
    if name not in ONNX_DTYPES:
        msg = f"`dtype` must be one of {', '.join(map(repr, ONNX_DTYPES))}, got {dtype!r}"
        raise ValueError(msg)
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    result: np.dtype[Any] = np.dtype(name)
    return result


@overload
def from_onnx(
    cos_cache: HostArray,
    sin_cache: HostArray,
    attributes: Mapping[str, float],
    *,
    head_dim: int,
    constant_factor: bool = ...,
) -> tuple[FloatArray, FloatArray, Layout]: ...


@overload
def from_onnx(
    cos_cache: ArrayT,
    sin_cache: ArrayT,
    attributes: Mapping[str, float],
    *,
    head_dim: int,
    constant_factor: bool = ...,
) -> tuple[ArrayT, ArrayT, Layout]: ...


def from_onnx(
    cos_cache: Array,
    sin_cache: Array,
    attributes: Mapping[str, Any],
    *,
    head_dim: int,
    constant_factor: bool = True,
) -> tuple[Array, Array, Layout]:
    """Convert a RotaryEmbedding node of either domain to half-wide tables and a layout.

    Parameters
    ----------
    cos_cache, sin_cache : array (positions, rotary_dim/2) or (B, S, rotary_dim/2)
        The inputs of the node with these names.
    attributes : mapping of str to number
        The attributes of the node. Missing attributes have the defaults of the operator.
    head_dim : int
        The number of channels of a head of the rotated array.
    constant_factor : bool, default True
        As in `from_full_width`.

    Returns
    -------
    cos, sin : array, shape of `cos_cache`
        float64 if the tables are float64, else float32. The tables themselves if no conversion is needed.
    layout : {"half", "interleaved"}
        The `layout` for `rotary.apply_rotary`.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or the values of a table are not known on the host.
    ValueError
        If shapes contradict the attributes, an attribute is unknown, or `scale` is not 1. The meaning of
        `scale` is not documented, and ONNX Runtime does not apply it.

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
    given = _check_attributes(attributes)
    name = "attributes['rotary_embedding_dim']"
    partial_width = as_integer(given.get("rotary_embedding_dim", 0), name)
    width = as_rotary_dim(partial_width or head, name if partial_width else "head_dim")
    if width > head:
        msg = f"`{name}` must be at most `head_dim` {head}, got {width}"
        raise ValueError(msg)
    check_halves(cos_cache, sin_cache)
    cos, sin = (
        as_table_of_width(part, name, width // 2, "one number for each pair")
        for part, name in ((cos_cache, "cos_cache"), (sin_cache, "sin_cache"))
    )
    if cos.ndim not in (2, 3):
        msg = f"`cos_cache` must have 2 or 3 axes, got shape {cos.shape}"
        raise ValueError(msg)
    cosine, sine = to_library(cos, sin, cos_cache, constant_factor, "cos_cache")
    return cosine, sine, "interleaved" if given["interleaved"] else "half"


def _check_attributes(attributes: Any) -> dict[str, Any]:
    if not isinstance(attributes, Mapping):
        msg = f"`attributes` must be a mapping, got {type(attributes).__name__}"
        raise TypeError(msg)
    given = dict(attributes)
    unknown = [name for name in given if name not in ONNX_ATTRIBUTES]
    if unknown:
        msg = f"`attributes` must have no other keys than {', '.join(ONNX_ATTRIBUTES)}, got {unknown[0]!r}"
        raise ValueError(msg)
    for name, check, allowed in ONNX_VALUES:
        value = check(given.get(name, allowed[0]), f"attributes[{name!r}]")
        if value not in allowed:
            msg = f"`attributes[{name!r}]` must be {' or '.join(map(str, allowed))}, got {value!r}"
            raise ValueError(msg)
        given[name] = value
    return given
