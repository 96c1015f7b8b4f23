"""Where the cells of images and videos stand: counted, centred, normalised or rescaled."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np

from rotary._lib.checks import as_choice, as_integer, as_non_negative_integer
from rotary._lib.numbers import Positions, as_positions, check_reach
from rotary._lib.typing import AnyArray, HostArray, Int64Array, RealLike

__all__ = ["grid"]

PerAxisLike: TypeAlias = RealLike | Sequence[RealLike] | AnyArray


def grid(
    *sizes: int,
    start: PerAxisLike = 0,
    step: PerAxisLike = 1,
    anchor: PerAxisLike = 0,
    normalize: Literal["separate", "min", "max", "ends"] | None = None,
    reference: PerAxisLike | None = None,
    order: Literal["ij", "xy"] = "ij",
    merge: int | Sequence[int] | AnyArray = 1,
    prefix: int = 0,
    suffix: int = 0,
) -> Positions:
    """Place every cell of a grid: the patches of an image, the frames and patches of a video.

    Parameters
    ----------
    *sizes : int
        How many cells each axis has.
    start : number, or one per axis
        The position of an axis's first cell, where nothing below moves it.
    step : number, or one per axis
        The distance between neighbouring cells. It may be negative, which counts backwards, or
        zero, which gives an axis one position throughout.
    anchor : number, or one per axis
        Which point of a cell its position tells, added to its index: 0 its first edge, 0.5 its
        centre, 1 its last edge.
    normalize : {"separate", "min", "max", "ends"}, optional
        Counts from -1 to 1 instead of in cells. "separate" puts the edges of every axis at -1 and 1;
        "min" and "max" do so with the shortest or longest axis, and measure the others by its
        cells; "ends" puts the first cell at -1 and the last at 1 (a single cell at -1).
    reference : number, or one per axis, optional
        The sizes of the grid that a model was trained on: positions are spread over its extent,
        however many cells there are now.
    order : {"ij", "xy"}
        The axes of the result: in the order of `sizes`, or for two axes the other way round, the
        second (x) first. The order of the cells stays as it is.
    merge : int, or one per axis
        Lists the cells block by block, of `merge` cells along each axis, as encoders do that merge
        blocks of patches into one token. Every size is a multiple of it.
    prefix, suffix : int
        How many tokens without a place stand before and after the cells, such as class and
        register tokens. Their positions are 0 on every axis, at which nothing is turned.

    Returns
    -------
    array (axes, prefix + prod(sizes) + suffix)
        ``start + step * place`` on each axis, cells in the order of a C-contiguous array: the last
        axis fastest. With c = index + anchor, the place is c; ``2 * c / size - 1`` if normalised
        ("ends": ``2 * index / (size - 1) - 1``); ``c * reference / size`` if rescaled. int64, or
        float64 where any of the numbers is a float, or `normalize` or `reference` is given; then
        each position is the exact value, correctly rounded.

    Raises
    ------
    TypeError
        If a size, `merge`, `prefix` or `suffix` is not an integer, or another argument not made of
        numbers, or a name not a string.
    ValueError
        If there are no sizes, one is negative, an argument has another length or is negative where
        it counts, a name is none of the above, `order` is "xy" for other than two axes, a size is
        no multiple of `merge`, `reference` is not positive, options exclude each other
        (`normalize` and `reference`, "ends" and `anchor`), or a position would leave int64.

    Notes
    -----
    What models use, each beside the arguments that say it:

    - DINOv3 (``transformers`` ``dinov3_vit``, ``timm`` ``make_coords_dinov3``): ``anchor=0.5,
      normalize="separate"`` ("min" and "max" are its other choices), `prefix` for its class and
      register tokens.
    - EVA-02 (``timm`` ``build_fourier_pos_embed`` with ``ref_feat_shape``): ``reference=16``.
    - Perception Encoder (``timm``, ``rope_grid_offset=1``): ``anchor=1, reference=24, order="xy"``.
    - Llama 4's vision encoder: ``start=1, order="xy", suffix=1``.
    - Frequencies in pixels (``lucidrains`` ``freqs_for="pixel"``): ``normalize="ends"``.
    - Qwen2-VL's vision encoder and those after it: ``grid(h, w, merge=2)``, for every frame.

    Tokens before and after the cells are not turned, but are multiplied by an attention factor,
    where an embedding has one. A row of zeros is also where a cell at 0 stands, unless `start` or
    `anchor` moves it: what differs is the token, not the rotation.

    Examples
    --------
    >>> grid(2, 3)
    array([[0, 0, 0, 1, 1, 1],
           [0, 1, 2, 0, 1, 2]])

    Two frames half a second apart, of two patches each, after seven tokens of text:

    >>> grid(2, 2, start=7, step=[0.5, 1])
    array([[7. , 7. , 7.5, 7.5],
           [7. , 8. , 7. , 8. ]])

    The centres of patches between -1 and 1, after a class token; and the blocks of a merger:

    >>> grid(1, 4, anchor=0.5, normalize="separate", prefix=1)
    array([[ 0.  ,  0.  ,  0.  ,  0.  ,  0.  ],
           [ 0.  , -0.75, -0.25,  0.25,  0.75]])
    >>> grid(2, 4, merge=2)
    array([[0, 0, 1, 1, 0, 0, 1, 1],
           [0, 1, 0, 1, 2, 3, 2, 3]])
    """
    shape = _grid_shape(sizes)
    axes = _order(order, len(shape))
    blocks = _blocks(merge, shape)
    before, after = (
        as_non_negative_integer(prefix, "prefix"),
        as_non_negative_integer(suffix, "suffix"),
    )
    numbers = [
        _per_axis(value, len(shape), name)
        for value, name in ((start, "start"), (step, "step"), (anchor, "anchor"))
    ]
    scales = _scales(shape, numbers[2], normalize, reference)
    exact = scales is None and all(values.dtype == np.int64 for values in numbers)
    dtype = np.dtype(np.int64 if exact else np.float64)
    cells = prod(shape)
    positions: HostArray = np.zeros((len(shape), before + cells + after), dtype)
    if not cells:
        return positions
    lines = _lines(shape, numbers, scales, dtype)
    for row, axis in enumerate(axes):
        spread: HostArray = np.empty(shape, dtype)
        spread[...] = lines[axis].reshape(-1, *[1] * (len(shape) - 1 - axis))
        positions[row, before : before + cells] = _by_blocks(spread, blocks)
    return positions


def _lines(
    shape: tuple[int, ...],
    numbers: list[HostArray],
    scales: list[tuple[Fraction, Fraction]] | None,
    dtype: np.dtype[Any],
) -> list[Positions]:
    """Return the positions of every axis by itself."""
    lines = []
    for axis, size in enumerate(shape):
        first, stride, point = (Fraction(values[axis].item()) for values in numbers)
        scale, shift = (Fraction(1), Fraction(0)) if scales is None else scales[axis]
        each = stride * scale
        lines.append(_line(size, first + stride * shift + each * point, each, dtype))
    return lines


def _line(size: int, first: Fraction, each: Fraction, dtype: np.dtype[Any]) -> Positions:
    """Return ``first + each * index``, with one rounding where the positions are floats."""
    parts = first.denominator * each.denominator
    begin, stride = int(first * parts), int(each * parts)
    if dtype == np.int64:
        for end in (0, size - 1):
            check_reach(begin + stride * end, "start", told=_told(end))
        return begin + stride * np.arange(size, dtype=np.int64)
    # Python divides integers of any size with one rounding.
    values = [(begin + stride * index) / parts for index in range(size)]
    for end in (0, size - 1):
        check_reach(values[end], "start", told=_told(end))
    return np.array(values)


def _told(index: int) -> str:
    """Return what an error says of an end of an axis."""
    return " as the last position" if index else " as the first position"


def _scales(
    shape: tuple[int, ...], anchors: HostArray, normalize: Any, reference: Any
) -> list[tuple[Fraction, Fraction]] | None:
    """Return by what the cells of every axis are multiplied, and what is added to the product."""
    if reference is not None:
        return _rescaled(shape, normalize, reference)
    if normalize is None:
        return None
    name = as_choice(normalize, "normalize", ("separate", "min", "max", "ends"))
    if name == "ends":
        if anchors.any():
            msg = '`anchor` must be left out with normalize="ends", which counts cells from end to end'
            raise ValueError(msg)
        lengths = [size - 1 for size in shape]
    else:
        lengths = [{"separate": size, "min": min(shape), "max": max(shape)}[name] for size in shape]
    return [(Fraction(2, max(length, 1)), Fraction(-1)) for length in lengths]


def _rescaled(
    shape: tuple[int, ...], normalize: Any, reference: Any
) -> list[tuple[Fraction, Fraction]]:
    """Return the scales of a grid that is spread over another's extent."""
    if normalize is not None:
        msg = f"`reference` must be left out where positions are normalised, got {reference!r}"
        raise ValueError(msg)
    extents = _per_axis(reference, len(shape), "reference")
    if (extents <= 0).any():
        msg = f"`reference` must be positive, got {reference!r}"
        raise ValueError(msg)
    pairs = zip(extents.tolist(), shape, strict=True)
    return [(Fraction(extent) / max(size, 1), Fraction(0)) for extent, size in pairs]


def _by_blocks(spread: HostArray, blocks: tuple[int, ...]) -> HostArray:
    """Return the values of an array in the order of its blocks, and within each in its own."""
    split = [part for n, m in zip(spread.shape, blocks, strict=True) for part in (n // m, m)]
    outer, inner = range(0, len(split), 2), range(1, len(split), 2)
    listed: HostArray = spread.reshape(split).transpose(*outer, *inner).reshape(-1)
    return listed


def _order(order: Any, axes: int) -> range:
    """Return which axis every row of the result is."""
    if as_choice(order, "order", ("ij", "xy")) == "ij":
        return range(axes)
    if axes != 2:
        msg = f'`order` must be "ij" unless there are two axes, got "xy" and {axes}'
        raise ValueError(msg)
    return range(1, -1, -1)


def _blocks(merge: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the checked sizes of a block."""
    values: HostArray = _integers(merge, len(shape), "merge")
    if (values < 1).any():
        msg = f"`merge` must be at least 1, got {merge!r}"
        raise ValueError(msg)
    blocks = tuple(values.tolist())
    for axis, (size, block) in enumerate(zip(shape, blocks, strict=True)):
        if size % block:
            msg = f"`sizes[{axis}]` must be a multiple of `merge`, {block}, got {size}"
            raise ValueError(msg)
    return blocks


def _grid_shape(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Return checked sizes of a grid."""
    if not sizes:
        msg = "`sizes` must name at least one axis, got none"
        raise ValueError(msg)
    shape = tuple(as_integer(size, f"sizes[{axis}]") for axis, size in enumerate(sizes))
    if min(shape) < 0:
        msg = f"`sizes` must not be negative, got {shape}"
        raise ValueError(msg)
    return shape


def _integers(value: Any, axes: int, name: str) -> Int64Array:
    """Return one integer per axis."""
    numbers = _per_axis(value, axes, name)
    if numbers.dtype != np.int64:
        msg = f"`{name}` must be made of integers, got {value!r}"
        raise TypeError(msg)
    return numbers


def _per_axis(value: Any, axes: int, name: str) -> HostArray:
    """Return one number per axis."""
    numbers = as_positions(value, name=name)
    if numbers.ndim and numbers.shape != (axes,):
        msg = f"`{name}` must be one number or one per axis, ({axes},), got {numbers.shape}"
        raise ValueError(msg)
    return np.broadcast_to(numbers, (axes,))
