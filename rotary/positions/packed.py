"""Positions of padded, packed and distributed sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import array_api_compat
import numpy as np

from rotary._lib import libraries
from rotary._lib.checks import as_integer, as_positive_integer
from rotary._lib.numbers import (
    Positions,
    as_positions,
    bounds_of,
    check_int64_range,
    first_bad,
    host_array,
)
from rotary._lib.typing import Array, ArrayT, CuSeqlensLike, HostArray, Int64Array, OffsetLike

__all__ = [
    "from_mask",
    "ragged",
    "zigzag",
]


@overload
def from_mask(
    mask: HostArray | Sequence[int] | Sequence[Sequence[int]], *, padding: int = ...
) -> Int64Array: ...


@overload
def from_mask(mask: ArrayT, *, padding: int = ...) -> ArrayT: ...


def from_mask(mask: Array, *, padding: int = 0) -> Array:
    """Return positions that count the attended tokens of each row.

    Parameters
    ----------
    mask : array (B, S) or (S,), bool or integer
        True or 1 for attended tokens, False or 0 for padding, which may be on either side or in between.
        An array of any library, or a list, which is converted to a NumPy array.
    padding : int
        The position of padding. Its value does not matter for attention, because padding is not attended.

    Returns
    -------
    int64 array, shape and library of `mask`
        0 for the first attended token of a row, 1 for the second and so on, and `padding` for masked
        tokens. int32 under JAX with 64-bit types off.

    Raises
    ------
    TypeError
        If the mask is neither bool nor integer (a floating mask is usually added to scores, and is 0 for
        attended tokens), or `padding` is not an integer.
    ValueError
        If the mask has neither one nor two axes, or contains integers other than 0 and 1, or if `padding` is
        outside int64. The values of masks that are traced, lazy or on a device are not checked: any nonzero
        value counts as attended.

    Examples
    --------
    The second row is padded on the left.

    >>> import numpy as np
    >>> from_mask(np.array([[1, 1, 1, 0], [0, 0, 1, 1]]), padding=-1)
    array([[ 0,  1,  2, -1],
           [-1, -1,  0,  1]])
    """
    fill = as_integer(padding, "padding")
    check_int64_range(fill, "padding")
    array, xp = _mask_array(mask)
    if not libraries.has_int64(array) and abs(fill) >= 2**31:
        msg = f"`padding` must be within int32 if JAX's 64-bit types are off, got {fill}"
        raise ValueError(msg)
    attended = array if xp.isdtype(array.dtype, "bool") else array != 0
    counts = xp.cumulative_sum(xp.astype(attended, _integer_dtype(xp)), axis=-1) - 1
    return xp.where(attended, counts, xp.full_like(counts, fill))


def ragged(cu_seqlens: CuSeqlensLike, *, offset: OffsetLike = 0) -> Positions:
    """Return positions that restart in each sequence of a packed batch.

    Parameters
    ----------
    cu_seqlens : sequence or array of int (n + 1,)
        The bounds of the n sequences, which start at 0 and never decrease. Two equal consecutive bounds give
        an empty sequence.
    offset : number, or sequence or array of numbers (n,)
        The position of the first token: one number for all sequences, or one for each.

    Returns
    -------
    array (total,)
        Positions that restart at `offset` in each sequence: float64 if offsets are floats, else int64.

    Raises
    ------
    TypeError
        If `cu_seqlens` does not consist of integers, or `offset` does not consist of numbers.
    ValueError
        If `cu_seqlens` does not start at 0, decreases or is not one-dimensional, if the number of offsets is
        not the number of sequences, or if a position overflows int64.

    Examples
    --------
    >>> ragged([0, 3, 5])
    array([0, 1, 2, 0, 1])
    >>> ragged([0, 3, 5], offset=[10, 0])
    array([10, 11, 12,  0,  1])
    """
    bounds = bounds_of(cu_seqlens)
    lengths = np.diff(bounds)
    starts = as_positions(offset, name="offset")
    if starts.ndim and starts.shape != lengths.shape:
        msg = (
            f"`offset` must be one number, or one for each sequence, ({len(lengths)},), "
            f"got shape {starts.shape}"
        )
        raise ValueError(msg)
    offsets: HostArray = np.broadcast_to(starts, lengths.shape)
    for start, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
        if length:
            check_int64_range(start + (length - 1), "offset", suffix=" as the last position")
    counts = np.arange(bounds[-1], dtype=np.int64) - np.repeat(bounds[:-1], lengths)
    positions: Positions = counts + np.repeat(offsets, lengths)
    return positions


def zigzag(length: int, *, rank: int, world: int) -> Int64Array:
    """Return the positions of the tokens on one device of a context-parallel group.

    The sequence is split into ``2 * world`` equal chunks. Device r has chunk r, an early one, and chunk
    ``2 * world - 1 - r``, a late one. So with a causal mask all devices have the same amount of work.

    Parameters
    ----------
    length : int
        The length of the whole sequence, a multiple of ``2 * world``.
    rank : int
        The index of the device, starting at 0.
    world : int
        The number of devices.

    Returns
    -------
    int64 array (length / world,)
        The positions of the tokens on the device, in the order of its two chunks.

    Raises
    ------
    TypeError
        If an argument is not an integer.
    ValueError
        If `length` is not a multiple of ``2 * world`` or is outside int64, or `rank` is not from 0 to
        ``world - 1``.

    Examples
    --------
    >>> zigzag(8, rank=0, world=2), zigzag(8, rank=1, world=2)
    (array([0, 1, 6, 7]), array([2, 3, 4, 5]))
    """
    devices = as_positive_integer(world, "world")
    device = as_integer(rank, "rank")
    if not 0 <= device < devices:
        msg = f"`rank` must be at least 0 and below `world` = {devices}, got {device}"
        raise ValueError(msg)
    total = as_integer(length, "length")
    if total < 0 or total % (2 * devices):
        msg = f"`length` must be a multiple of 2 * `world` = {2 * devices}, got {total}"
        raise ValueError(msg)
    check_int64_range(total, "length")
    chunk = total // (2 * devices)
    early, late = device * chunk, (2 * devices - 1 - device) * chunk
    return np.concatenate(
        [np.arange(begin, begin + chunk, dtype=np.int64) for begin in (early, late)]
    )


def _mask_array(mask: Any) -> tuple[Array, Any]:
    """Check a mask, and return the mask as an array and its array-API namespace."""
    array = host_array(mask, "mask") if isinstance(mask, list | tuple) else mask
    kind = f"an object of type {type(mask).__name__}"
    if not libraries.is_masked_or_matrix(array):
        try:
            xp = array_api_compat.array_namespace(array)
            kind = str(array.dtype)
            valid = xp.isdtype(array.dtype, ("bool", "integral"))
        except TypeError:  # not an array, or a dtype of another library
            valid = False
        if valid:
            _check_mask(array)
            return array, xp
    msg = f"`mask` must be an array of bool, or of integers 0 and 1, got {kind}"
    raise TypeError(msg)


def _check_mask(mask: Array) -> None:
    """Raise unless a mask has one or two axes and, if its values are known on the host, contains only 0 and 1."""
    if mask.ndim not in {1, 2}:
        msg = f"`mask` must have shape (B, S) or (S,), got {mask.ndim} axes"
        raise ValueError(msg)
    values = libraries.to_host(mask)
    if values is not None and values.dtype.kind != "b":
        other = (values != 0) & (values != 1)
        if other.any():
            msg = f"`mask` must contain 0 and 1 only, got {first_bad(values, other)}"
            raise ValueError(msg)


def _integer_dtype(xp: Any) -> Any:
    """Return int64, or int32 if the 64-bit types of JAX are off."""
    return xp.asarray(0).dtype if array_api_compat.is_jax_namespace(xp) else xp.int64
