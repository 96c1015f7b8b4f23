"""Layouts: which two channels form a pair, and how to reorder weights from one layout to the other."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypeVar, cast

import array_api_compat
import numpy as np

from ._lib import hints, libraries
from ._lib.checks import as_positive_integer, as_rotary_dim
from ._lib.errors import shown
from ._lib.typing import Array, Int64Array

__all__ = ["LAYOUTS", "Layout", "check_layout", "pair_channels", "permute_weights"]


def __dir__() -> list[str]:
    return __all__


Layout: TypeAlias = Literal["half", "interleaved"]

LAYOUTS: tuple[Layout, Layout] = ("half", "interleaved")

_MEANINGS = "'half', pairs (i, i + rotary_dim/2), or 'interleaved', pairs (2i, 2i + 1)"

# The names of the two layouts in other libraries, for hints in error messages. Names of companies and models are left
# out, because different authors use the same name for different layouts.
_FOREIGN: dict[str, Layout] = {
    "neox": "half",
    "gptneox": "half",
    "rotatehalf": "half",
    "splithalf": "half",
    "gptj": "interleaved",
    "interleave": "interleaved",
    "traditional": "interleaved",
    "normal": "interleaved",
    "adjacent": "interleaved",
    "complex": "interleaved",
    "rotateeverytwo": "interleaved",
}

ArrayT = TypeVar("ArrayT")


def check_layout(value: object, name: str = "layout") -> Layout:
    """Return ``value`` if it is the name of a layout.

    Parameters
    ----------
    value : str
        ``"half"`` or ``"interleaved"``.
    name : str
        The name of the argument in error messages.

    Returns
    -------
    str
        The value itself.

    Raises
    ------
    TypeError
        If the value is not a string. Flags of other libraries, such as ``interleaved=True``, are not accepted,
        because their meanings differ.
    ValueError
        If the value is another string. The message has a hint for common names in other libraries.

    Examples
    --------
    >>> check_layout("half")
    'half'
    """
    if not isinstance(value, str):
        msg = f"`{name}` must be {_MEANINGS}, got {shown(value)} of type {type(value).__name__}"
        raise TypeError(msg)
    for layout in LAYOUTS:
        if value == layout:
            return layout
    msg = f"`{name}` must be {_MEANINGS}, got {shown(value)}"
    text = value.strip().lower()
    hint = text if text in LAYOUTS else _FOREIGN.get("".join(filter(str.isalnum, text)))
    if hint is not None:
        msg += f"; {shown(value)} in other libraries is usually {hint!r} here"
    raise ValueError(msg)


def pair_channels(rotary_dim: int, layout: Layout) -> tuple[Int64Array, Int64Array]:
    """Return the first and the second channel of every pair.

    Parameters
    ----------
    rotary_dim : int
        The number of rotated channels; even.
    layout : {"half", "interleaved"}
        The layout of the pairs.

    Returns
    -------
    first, second : int64 arrays (rotary_dim/2,)
        Channels ``first[i]`` and ``second[i]`` form pair i, counted from the first rotated channel. A positive angle
        rotates the first channel towards the second.

    Raises
    ------
    TypeError
        If `rotary_dim` is not an integer, or `layout` not a string.
    ValueError
        If `rotary_dim` is not positive and even, or the layout is unknown.

    Examples
    --------
    >>> first, second = pair_channels(6, "half")
    >>> first.tolist(), second.tolist()
    ([0, 1, 2], [3, 4, 5])
    >>> first, second = pair_channels(6, "interleaved")
    >>> first.tolist(), second.tolist()
    ([0, 2, 4], [1, 3, 5])
    """
    pairs = np.arange(as_rotary_dim(rotary_dim, "rotary_dim") // 2, dtype=np.int64)
    if check_layout(layout) == "half":
        return pairs, pairs + len(pairs)
    return 2 * pairs, 2 * pairs + 1


@hints.named
def permute_weights(
    w: ArrayT, num_heads: int, *, source: Layout, target: Layout, rotary_dim: int | None = None
) -> ArrayT:
    """Reorder the rows of a query or key projection for the other layout.

    Both layouts rotate pair i by the same angle; they differ in the two channels of a head that form pair i. A
    checkpoint trained for one layout runs with the other layout after the rows of its query and key projections, and
    their biases, are reordered. Attention scores do not change, because the channels of queries and keys have the same
    new order. Value and output projections stay unchanged.

    Parameters
    ----------
    w : array (num_heads * head_dim, in_features) or (num_heads * head_dim,)
        The weight, as in ``y = w @ x``, or the bias, of any dtype and any array library. A weight stored as
        (in_features, num_heads * head_dim), as in JAX libraries, must be transposed first, and the result
        transposed back. Per-row scales of a quantized weight are reordered like a bias.
    num_heads : int
        The number of heads in the rows; for a key projection, the number of key heads.
    source : {"half", "interleaved"}
        The layout that `w` was trained for.
    target : {"half", "interleaved"}
        The layout that the result is for.
    rotary_dim : int, optional
        The number of rotated channels at the start of every head; the rows of the other channels keep their place.
        By default all channels are rotated.

    Returns
    -------
    array, as `w`
        A copy of the same library, shape and dtype. A second call with `source` and `target` swapped returns `w`
        exactly. If `source` equals `target`, the result is a plain copy.

    Raises
    ------
    TypeError
        If `w` is not an array, `num_heads` or `rotary_dim` is not an integer, or a layout is not a string.
    ValueError
        If `w` has neither one nor two axes, or its rows do not divide into `num_heads` heads. Also if `rotary_dim` is
        odd or larger than a head, or a layout is unknown.

    Notes
    -----
    Let y and z be the outputs of one head with `w` and with the result. If (a, b) and (c, d) are the channels of pair i
    in `source` and in `target`, then ``z[c] = y[a]`` and ``z[d] = y[b]``.

    From "interleaved" to "half", this is the reordering that the conversion script of Hugging Face applies to the Llama
    weights of Meta, ``w.view(num_heads, d // 2, 2, in).transpose(1, 2)``. From "half" to "interleaved", it is the
    reordering that the converter to GGUF applies to those files.

    Examples
    --------
    Two heads of four channels; the pairs (0, 1), (2, 3) become the pairs (0, 2), (1, 3).

    >>> import numpy as np
    >>> bias = np.arange(8)
    >>> permute_weights(bias, 2, source="interleaved", target="half")
    array([0, 2, 1, 3, 4, 6, 5, 7])
    >>> permute_weights(bias, 2, source="interleaved", target="half", rotary_dim=2)
    array([0, 1, 2, 3, 4, 5, 6, 7])
    """
    heads = as_positive_integer(num_heads, "num_heads")
    check_layout(source, "source")
    check_layout(target, "target")
    xp = _namespace(w)
    head_dim = _head_dim(w, heads)
    width = _rotated_width(rotary_dim, head_dim)

    array: Array = w
    channels = xp.reshape(array, (heads, head_dim, *array.shape[1:]))
    rotated, rest = channels[:, :width, ...], channels[:, width:, ...]
    if source == "half":
        first, second = rotated[:, : width // 2, ...], rotated[:, width // 2 :, ...]
    else:
        first, second = rotated[:, 0::2, ...], rotated[:, 1::2, ...]
    if target == "half":
        parts = [first, second, rest]
    else:
        parts = [xp.reshape(xp.stack([first, second], axis=2), rotated.shape), rest]
    return cast("ArrayT", xp.reshape(xp.concat(parts, axis=1), array.shape))


def _namespace(w: Array) -> Any:
    """Return the array-API namespace of `w`; raise if `w` is not an array, or has a mask, which would be lost."""
    kind = type(w).__name__
    if not libraries.is_masked_or_matrix(w):
        try:
            return array_api_compat.array_namespace(w)
        except TypeError:
            kind = f"an object of type {kind}"
    msg = f"`w` must be an array of NumPy or of another array library, got {kind}"
    raise TypeError(msg)


def _head_dim(w: Array, heads: int) -> int:
    """Return the number of rows of each head."""
    if w.ndim not in {1, 2}:
        msg = (
            "`w` must be a weight (num_heads * head_dim, in_features) or a bias "
            f"(num_heads * head_dim,), got {w.ndim} axes"
        )
        raise ValueError(msg)
    rows = int(w.shape[0])
    if rows == 0 or rows % heads:
        msg = (
            f"`w` must have a multiple of `num_heads` = {heads} rows, got {rows}; "
            "a weight stored as (in_features, num_heads * head_dim) must be transposed first"
        )
        raise ValueError(msg)
    return rows // heads


def _rotated_width(rotary_dim: int | None, head_dim: int) -> int:
    """Return the number of rotated channels of a head, by default all."""
    if rotary_dim is None:
        if head_dim % 2:
            msg = (
                "`rotary_dim` must be given if heads have an odd number of channels, "
                f"got None with {head_dim} channels"
            )
            raise ValueError(msg)
        return head_dim
    width = as_rotary_dim(rotary_dim, "rotary_dim")
    if width > head_dim:
        msg = f"`rotary_dim` must be at most the {head_dim} channels of a head, got {width}"
        raise ValueError(msg)
    return width
