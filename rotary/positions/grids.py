"""Positions of the cells of images and videos: indices, centers, normalized or rescaled coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np

from rotary._lib.checks import as_choice, as_integer, as_non_negative_integer
from rotary._lib.numbers import Positions, as_positions, check_int64_range
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
    """Return the positions of the cells of a grid, such as the patches of an image or a video.

    Parameters
    ----------
    *sizes : int
        The number of cells on each axis.
    start : number, or one per axis
        Added to the positions of an axis. Without other options, the position of the first cell.
    step : number, or one per axis
        Multiplies the positions of an axis. Without other options, the distance between adjacent cells. It may
        be negative. With zero, all cells have the same position on the axis.
    anchor : number, or one per axis
        The point of a cell that its position describes, as a number that is added to its index: 0 for the
        first edge, 0.5 for the center, 1 for the last edge.
    normalize : {"separate", "min", "max", "ends"}, optional
        Scales positions to the range -1 to 1. With "separate", the edges of each axis are at -1 and 1. With
        "min" and "max", the edges of the shortest or longest axis are, and cells have the same size on all
        axes. With "ends", the first cell is at -1 and the last at 1 (a single cell at -1).
    reference : number, or one per axis, optional
        The sizes of the grid in training. Positions are scaled to that grid.
    order : {"ij", "xy"}
        The order of the axes of the result: "ij" is the order of `sizes`, "xy" has the second of two axes
        first. The order of the cells does not change.
    merge : int, or one per axis
        The number of cells along each axis of a block. Cells are listed block by block, for encoders that
        merge blocks of patches into one token. Every size must be a multiple of it.
    prefix, suffix : int
        The number of tokens before and after the cells that are not in the grid, such as class and register
        tokens. Their positions are 0 on every axis, so they are not rotated.

    Returns
    -------
    array (axes, prefix + prod(sizes) + suffix)
        ``start + step * p`` on each axis, with cells in the order of a C-contiguous array: the last
        axis varies fastest. With c = index + anchor, p is c by default, ``2 * c / size - 1`` with `normalize`
        ("ends": ``2 * index / (size - 1) - 1``), and ``c * reference / size`` with `reference`. The dtype is
        float64 if a number is a float, or if `normalize` or `reference` is given, else int64. Floats are
        correctly rounded.

    Raises
    ------
    TypeError
        If a size, `merge`, `prefix` or `suffix` is not an integer, `start`, `step`, `anchor` or `reference`
        does not consist of numbers, or `normalize` or `order` is not a string.
    ValueError
        If there are no sizes, a size is negative, an argument does not have one number per axis, `prefix` or
        `suffix` is negative, `normalize` or `order` is unknown, `order` is "xy" and there are not two axes, a
        size is not a multiple of `merge`, `reference` is not positive, options exclude each other
        (`normalize` and `reference`, "ends" and `anchor`), or a position overflows int64.

    Notes
    -----
    Models, and the arguments for them:

    - DINOv3 (``transformers`` ``dinov3_vit``, ``timm`` ``make_coords_dinov3``): ``anchor=0.5,
      normalize="separate"`` ("min" and "max" are the other choices), `prefix` for the class and
      register tokens.
    - EVA-02 (``timm`` ``build_fourier_pos_embed`` with ``ref_feat_shape``): ``reference=16``.
    - Perception Encoder (``timm``, ``rope_grid_offset=1``): ``anchor=1, reference=24, order="xy"``.
    - The vision encoder of Llama 4: ``start=1, order="xy", suffix=1``.
    - Frequencies in pixels (``lucidrains`` ``freqs_for="pixel"``): ``normalize="ends"``.
    - The vision encoders of Qwen2-VL and later Qwen models: ``grid(h, w, merge=2)``, for every frame.

    Tokens before and after the cells are not rotated, but are multiplied by the attention factor of an
    embedding. Without `start` and `anchor`, the first cell also has position 0 and is rotated in the same way.

    Examples
    --------
    >>> grid(2, 3)
    array([[0, 0, 0, 1, 1, 1],
           [0, 1, 2, 0, 1, 2]])

    Two frames of two patches each, half a second apart, after seven tokens of text:

    >>> grid(2, 2, start=7, step=[0.5, 1])
    array([[7. , 7. , 7.5, 7.5],
           [7. , 8. , 7. , 8. ]])

    The centers of patches between -1 and 1, after a class token; and patches listed block by block:

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
    along = _along_axes(shape, numbers, scales, dtype)
    for row, axis in enumerate(axes):
        of_cells: HostArray = np.empty(shape, dtype)
        of_cells[...] = along[axis].reshape(-1, *[1] * (len(shape) - 1 - axis))
        positions[row, before : before + cells] = _by_blocks(of_cells, blocks)
    return positions


def _along_axes(
    shape: tuple[int, ...],
    numbers: list[HostArray],
    scales: list[tuple[Fraction, Fraction]] | None,
    dtype: np.dtype[Any],
) -> list[Positions]:
    """Return the positions along each axis."""
    along = []
    for axis, size in enumerate(shape):
        first, stride, point = (Fraction(values[axis].item()) for values in numbers)
        scale, shift = (Fraction(1), Fraction(0)) if scales is None else scales[axis]
        spacing = stride * scale
        begin = first + stride * shift + spacing * point
        along.append(_evenly_spaced(size, begin, spacing, dtype))
    return along


def _evenly_spaced(
    size: int, first: Fraction, spacing: Fraction, dtype: np.dtype[Any]
) -> Positions:
    """Return ``first + spacing * index``; floats are rounded once."""
    denominator = first.denominator * spacing.denominator
    begin, stride = int(first * denominator), int(spacing * denominator)
    if dtype == np.int64:
        for end in (0, size - 1):
            check_int64_range(begin + stride * end, "start", suffix=_end_suffix(end))
        return begin + stride * np.arange(size, dtype=np.int64)
    # Python divides integers of any size with one rounding.
    values = [(begin + stride * index) / denominator for index in range(size)]
    for end in (0, size - 1):
        check_int64_range(values[end], "start", suffix=_end_suffix(end))
    return np.array(values)


def _end_suffix(index: int) -> str:
    return " as the last position" if index else " as the first position"


def _scales(
    shape: tuple[int, ...], anchors: HostArray, normalize: Any, reference: Any
) -> list[tuple[Fraction, Fraction]] | None:
    """Return a factor and a summand for the coordinates of each axis; None if positions are not scaled."""
    if reference is not None:
        return _reference_scales(shape, normalize, reference)
    if normalize is None:
        return None
    name = as_choice(normalize, "normalize", ("separate", "min", "max", "ends"))
    if name == "ends":
        if anchors.any():
            msg = (
                '`anchor` must be left out with normalize="ends", because "ends" does not use it, got '
                f"{anchors.tolist()}"
            )
            raise ValueError(msg)
        lengths = [size - 1 for size in shape]
    else:
        lengths = [{"separate": size, "min": min(shape), "max": max(shape)}[name] for size in shape]
    return [(Fraction(2, max(length, 1)), Fraction(-1)) for length in lengths]


def _reference_scales(
    shape: tuple[int, ...], normalize: Any, reference: Any
) -> list[tuple[Fraction, Fraction]]:
    """Return the factors and summands that scale a grid to the reference grid."""
    if normalize is not None:
        msg = f"`reference` must be left out if `normalize` is given, got {reference!r}"
        raise ValueError(msg)
    references = _per_axis(reference, len(shape), "reference")
    if (references <= 0).any():
        msg = f"`reference` must be positive, got {reference!r}"
        raise ValueError(msg)
    sizes = zip(references.tolist(), shape, strict=True)
    return [(Fraction(trained) / max(size, 1), Fraction(0)) for trained, size in sizes]


def _by_blocks(values: HostArray, blocks: tuple[int, ...]) -> HostArray:
    """Return the values of an array in a list, block by block."""
    split = [part for n, m in zip(values.shape, blocks, strict=True) for part in (n // m, m)]
    outer, inner = range(0, len(split), 2), range(1, len(split), 2)
    listed: HostArray = values.reshape(split).transpose(*outer, *inner).reshape(-1)
    return listed


def _order(order: Any, axes: int) -> range:
    """Return the axes in the order in which the result has them."""
    if as_choice(order, "order", ("ij", "xy")) == "ij":
        return range(axes)
    if axes != 2:
        msg = f'`order` must be "ij" unless there are two axes, got "xy" for {axes} axes'
        raise ValueError(msg)
    return range(1, -1, -1)


def _blocks(merge: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
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
    if not sizes:
        msg = "`sizes` must have at least one number, got none"
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
        msg = f"`{name}` must consist of integers, got {value!r}"
        raise TypeError(msg)
    return numbers


def _per_axis(value: Any, axes: int, name: str) -> HostArray:
    """Return one number per axis."""
    numbers = as_positions(value, name=name)
    if numbers.ndim and numbers.shape != (axes,):
        msg = f"`{name}` must be one number, or one per axis, ({axes},), got shape {numbers.shape}"
        raise ValueError(msg)
    return np.broadcast_to(numbers, (axes,))
