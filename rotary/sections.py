"""Sections: the position axis and the frequency that each channel pair uses, in the orders of published models.

An image has rows and columns, and a video has time as well. A model assigns one of these axes to each channel pair.
Models differ in the order of the axes, and in whether the frequencies continue from one axis to the next or restart.
Every function raises TypeError for sizes that are not integers, and ValueError for sizes that are out of range.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np

from ._lib.checks import as_choice, as_integer, as_positive_integer
from ._lib.numbers import constant_array
from ._lib.typing import AnyArray

__all__ = [
    "Sections",
    "as_sections",
    "axial",
    "bailing",
    "chunked",
    "ernie",
    "from_axes",
    "ggml_imrope",
    "ggml_mrope",
    "ggml_vision",
    "glm_interleaved",
    "interleaved",
    "openpangu",
]


def __dir__() -> list[str]:
    return __all__


MAX_PRINTED_RUNS = 6  # by `Sections.__str__`


@dataclass(frozen=True, repr=False)
class Sections:
    """The position axis and the frequency of each channel pair.

    The functions of this module return the usual orders; use the class for any other order.

    Parameters
    ----------
    axes : tuple of int
        The position axis of each pair, counted from 0.
    index : tuple of int, optional
        The index of the frequency of each pair in its frequency schedule; by default the index of the pair.
    widths : tuple of int, optional
        The number of channels of the frequency schedule of each pair; by default the number of all channels.
    blocks : tuple of int, optional
        The number of pairs in each block of channels whose pairs lie inside it; by default one block of all pairs.
        Blocks matter only for the half layout.
    num_axes : int, optional
        The number of position axes; by default one more than the greatest of `axes`.

    Raises
    ------
    TypeError
        If a value is not an integer.
    ValueError
        If the lengths differ, or a value is out of range.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.Sections((0, 0, 1, 1)) == sections.chunked(2, 2)
    True
    """

    axes: tuple[int, ...]
    index: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    num_axes: int = 0

    def __post_init__(self) -> None:
        axes = _integers(self.axes, "axes")
        pairs = len(axes)
        if not pairs:
            msg = "`axes` must hold the position axis of at least one pair, got none"
            raise ValueError(msg)
        values = {
            "axes": axes,
            "index": _integers(self.index, "index") or tuple(range(pairs)),
            "widths": _integers(self.widths, "widths") or (2 * pairs,) * pairs,
            "blocks": _integers(self.blocks, "blocks") or (pairs,),
            "num_axes": as_integer(self.num_axes, "num_axes") or max(axes) + 1,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for name, given in (("index", self.index), ("widths", self.widths)):
            if len(given) != pairs:
                msg = f"`{name}` must hold {pairs} numbers, as `axes`, got {len(given)}"
                raise ValueError(msg)
        for index, width in zip(self.index, self.widths, strict=True):
            if width % 2:
                msg = f"`widths` must be even, got {width}"
                raise ValueError(msg)
            if index >= width // 2:
                msg = f"`index` must be below half of `widths`, got {index} for a width of {width}"
                raise ValueError(msg)
        if sum(self.blocks) != pairs or 0 in self.blocks:
            msg = f"`blocks` must be positive and sum to {pairs} pairs, got {self.blocks}"
            raise ValueError(msg)
        if max(axes) >= self.num_axes:
            msg = f"`num_axes` must be greater than every axis, {max(axes)}, got {self.num_axes}"
            raise ValueError(msg)

    def __repr__(self) -> str:
        pairs = len(self.axes)
        defaults = (
            *(None, tuple(range(pairs)), (2 * pairs,) * pairs, (pairs,)),
            max(self.axes) + 1,
        )
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        given = [
            f"{n}={v}" for (n, v), usual in zip(values.items(), defaults, strict=True) if v != usual
        ]
        return f"Sections({', '.join(given)})"

    def __str__(self) -> str:
        runs = [(axis, len(list(run))) for axis, run in groupby(self.axes)]
        if len(runs) <= MAX_PRINTED_RUNS:
            return " ".join(f"{axis}x{count}" for axis, count in runs)
        counts = " ".join(f"{axis}x{self.axes.count(axis)}" for axis in sorted(set(self.axes)))
        return f"{counts}, as {' '.join(map(str, self.axes[:6]))} .."


def as_sections(value: Sections | AnyArray | Sequence[int]) -> Sections:
    """Return sections unchanged, or make them from an integer array of axes.

    Parameters
    ----------
    value : Sections, or array_like of int (rotary_dim/2,)
        The argument `sections` of an embedding.

    Returns
    -------
    Sections

    Examples
    --------
    >>> from rotary import sections
    >>> sections.as_sections([0, 0, 1]) == sections.chunked(2, 1)
    True
    """
    return value if isinstance(value, Sections) else from_axes(value, name="sections")


def from_axes(axes: AnyArray | Sequence[int], *, name: str = "axes") -> Sections:
    """Give each pair the position axis in an array; the frequencies continue over all axes.

    Parameters
    ----------
    axes : array_like of int (rotary_dim/2,)
        The position axis of each pair, counted from 0.
    name : str
        The name of the argument in error messages.

    Returns
    -------
    Sections

    Examples
    --------
    >>> from rotary import sections
    >>> print(sections.from_axes([0, 0, 1, 0]))
    0x2 1x1 0x1
    """
    values = constant_array(axes, name)
    if values.dtype.kind not in "iu":
        msg = f"`{name}` must be a result of rotary.sections or hold integers, got {axes!r}"
        raise TypeError(msg)
    if values.ndim != 1 or not values.size or values.min() < 0:
        msg = f"`{name}` must hold one non-negative axis for each pair, got {values.tolist()}"
        raise ValueError(msg)
    return Sections(tuple(values.tolist()))


def chunked(*sizes: int) -> Sections:
    """Give the first pairs to the first axis, the next pairs to the second axis, and so on.

    This is the order of Qwen2-VL and Qwen2.5-Omni (16, 24, 24), of GLM-4V (8, 12, 12), of PaddleOCR-VL, and of the four
    axes of HunYuan. The frequencies continue from one axis to the next.

    Parameters
    ----------
    *sizes : int
        The number of pairs of each axis; the sum is ``rotary_dim / 2``. A size may be 0.

    Returns
    -------
    Sections

    Notes
    -----
    The source is ``apply_multimodal_rotary_pos_emb`` in models/qwen2_vl of transformers.

    Examples
    --------
    >>> from rotary import sections
    >>> print(sections.chunked(16, 24, 24))
    0x16 1x24 2x24
    """
    return Sections(_runs(_sizes(sizes)), num_axes=len(sizes))


def interleaved(*sizes: int) -> Sections:
    """Give pairs to the axes in turn, and the remaining pairs to the first axis.

    This is the order of Qwen3-VL (24, 20, 20). With n axes and ``a = i mod n``, pair i uses axis a if
    ``i < n * sizes[a]``. All other pairs use the first axis.

    Parameters
    ----------
    *sizes : int
        The number of pairs of each axis; the sum is ``rotary_dim / 2``.

    Returns
    -------
    Sections

    Raises
    ------
    ValueError
        If the rule gives an axis a count other than its size. For
        (8, 12, 12) the counts are 11, 11 and 10, which other programs use without an error. `from_axes` takes any
        order that such a checkpoint was trained with.

    Notes
    -----
    The source is ``apply_interleaved_mrope`` in models/qwen3_vl of transformers.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.interleaved(3, 2, 2).axes
    (0, 1, 2, 0, 1, 2, 0)
    """
    counts = _sizes(sizes)
    n = len(counts)
    axes = tuple(i % n if i < n * counts[i % n] else 0 for i in range(sum(counts)))
    actual = tuple(axes.count(axis) for axis in range(n))
    if actual != counts:
        msg = (
            f"`sizes` must be the counts that the axes receive in turn, {actual} of {sum(counts)} pairs, got "
            f"{counts}; from_axes takes any order"
        )
        raise ValueError(msg)
    return Sections(axes, num_axes=n)


def ernie(h: int, w: int, t: int) -> Sections:
    """Alternate height and width, and give the last pairs to time: the order of Ernie 4.5-VL (22, 22, 20).

    The arguments have the order of ``mrope_section`` of the model; the position axes are time, height and width.

    Parameters
    ----------
    h, w : int
        The numbers of pairs of height and width, which must be equal.
    t : int
        The number of pairs of time.

    Returns
    -------
    Sections

    Notes
    -----
    The source is ``recomposition_frequencies`` in models/ernie4_5_vl_moe of transformers. The model uses the
    interleaved layout.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.ernie(2, 2, 1).axes
    (1, 2, 1, 2, 0)
    """
    height, width, time = _sizes((h, w, t))
    if height != width:
        msg = f"`h` and `w` must be equal, because their pairs alternate, got {height} and {width}"
        raise ValueError(msg)
    return Sections((1, 2) * height + (0,) * time, num_axes=3)


def bailing(t: int, h: int, w: int) -> Sections:
    """Alternate height and width, and give the last pairs to time, as `ernie`, with the arguments in Bailing's order.

    Parameters
    ----------
    t : int
        The number of pairs of time.
    h, w : int
        The numbers of pairs of height and width, which must be equal.

    Returns
    -------
    Sections
        Sections for the position axes time, height and width. Bailing counts height and width from the center of the
        image, so positions may be negative.

    Notes
    -----
    The source is ``bailing_mrope.py`` of vLLM and SGLang.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.bailing(1, 2, 2) == sections.ernie(2, 2, 1)
    True
    """
    return ernie(h, w, t)


def glm_interleaved(*sizes: int) -> Sections:
    """Give pairs to the axes in turn, and skip the axes that have all their pairs.

    Pair i uses the first axis that has pairs left, in the order from ``i mod n`` on.

    Parameters
    ----------
    *sizes : int
        The number of pairs of each axis; the sum is ``rotary_dim / 2``.

    Returns
    -------
    Sections

    Notes
    -----
    The source is ``mrope_interleaved_glm`` of SGLang. In transformers, GLM-4V is `chunked`.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.glm_interleaved(1, 2, 2).axes
    (0, 1, 2, 1, 2)
    """
    left = list(_sizes(sizes))
    n = len(left)
    axes = []
    for i in range(sum(left)):
        axis = next(a % n for a in range(i, i + n) if left[a % n])
        left[axis] -= 1
        axes.append(axis)
    return Sections(tuple(axes), num_axes=n)


def openpangu(*sizes: int) -> Sections:
    """Distribute each axis evenly over the pairs; with three axes, the last pair belongs to the first axis.

    Parameters
    ----------
    *sizes : int
        The numbers of pairs of height and width, or of time, height and width; positive.

    Returns
    -------
    Sections

    Notes
    -----
    The source is ``MRotaryEmbeddingInterleaved`` of vLLM. Each pair goes to the axis that has received the smallest
    fraction of its pairs so far. Two adjacent pairs have the same axis only if no other axis is left.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.openpangu(2, 2, 2).axes
    (0, 1, 2, 1, 2, 0)
    """
    counts = list(_sizes(sizes))
    if len(counts) not in (2, 3) or 0 in counts:
        msg = f"`sizes` must be two or three positive numbers, got {tuple(counts)}"
        raise ValueError(msg)
    last = [0] if len(counts) == 3 else []
    counts[0] -= len(last)
    axes: list[int] = []
    while len(axes) < sum(counts):
        unfilled = [a for a in range(len(counts)) if axes.count(a) < counts[a]]
        others = [a for a in unfilled if a not in axes[-1:]]
        axes.append(min(others or unfilled, key=lambda a: (axes.count(a) / counts[a], a)))
    return Sections((*axes, *last), num_axes=len(counts))


def axial(
    *sizes: int, schedule: str = "restart", order: str = "chunked", pairing: str = "across"
) -> Sections:
    """Give each axis a part of the channels with its own frequencies, as for images and video.

    Parameters
    ----------
    *sizes : int
        The number of pairs of each axis; the sum is ``rotary_dim / 2``.
    schedule : {"restart", "split"}
        With "restart", the frequencies restart on each axis, as in a head of ``2 * size`` channels. With "split", the
        axes share one frequency schedule: axis a of n axes has the frequencies a, a + n, a + 2n and so on (Pixtral).
    order : {"chunked", "alternating"}
        With "chunked", the pairs of an axis are consecutive. With "alternating", the pairs of all axes alternate
        (Kimi-VL).
    pairing : {"across", "within"}
        With "across", the half layout pairs channels across all axes, so the channels of two axes have the order
        H W H W (image tower of Qwen2-VL, Pixtral, DINOv3). With "within", it pairs channels within each axis, HH WW
        (image tower of Gemma 4). The interleaved layout is always HH WW (SAM 2, image tower of Llama 4).

    Returns
    -------
    Sections
        Sections for positions whose axes have the order of `sizes`.

    Raises
    ------
    ValueError
        If an option is unknown, or the sizes or options cannot be combined.

    Notes
    -----
    The sources are models/qwen2_vl, pixtral, gemma4, sam2 and llama4 of transformers, and Heo et al., "Rotary Position
    Embedding for Vision Transformer", 2024 (arXiv:2403.13298), section 3.

    Examples
    --------
    >>> import rotary
    >>> from rotary import sections
    >>> rope = rotary.RotaryEmbedding(8, layout="half", base=100.0, sections=sections.axial(2, 2))
    >>> rope.inv_freq
    array([1. , 0.1, 1. , 0.1])
    """
    counts = _sizes(sizes)
    restart = as_choice(schedule, "schedule", ("restart", "split")) == "restart"
    alternating = as_choice(order, "order", ("chunked", "alternating")) == "alternating"
    within = as_choice(pairing, "pairing", ("across", "within")) == "within"
    n, pairs = len(counts), sum(counts)
    if (alternating or not restart) and len(set(counts)) > 1:
        option = "`order` 'alternating'" if alternating else "`schedule` 'split'"
        msg = f"`sizes` must be equal for {option}, got {counts}"
        raise ValueError(msg)
    if within and alternating:
        msg = "`pairing` must be 'across' for `order` 'alternating', got 'within'"
        raise ValueError(msg)
    axis_and_rank = [(axis, j) for axis, count in enumerate(counts) for j in range(count)]
    if alternating:
        axis_and_rank.sort(key=lambda each: each[1])
    return Sections(
        axes=tuple(axis for axis, _ in axis_and_rank),
        index=tuple(j if restart else axis + n * j for axis, j in axis_and_rank),
        widths=tuple(2 * counts[axis] if restart else 2 * pairs for axis, _ in axis_and_rank),
        blocks=tuple(count for count in counts if count) if within else (pairs,),
        num_axes=n,
    )


def ggml_mrope(*sizes: int, pairs: int | None = None) -> Sections:
    """Return the order of the MROPE mode of ggml: a run of pairs for each axis, repeated until all pairs have an axis.

    The frequencies continue over all axes.

    Parameters
    ----------
    *sizes : int
        The numbers of pairs of at most four axes, as in the GGUF key ``rope.dimension_sections``.
    pairs : int, optional
        The number of pairs; by default the sum of the sizes.

    Returns
    -------
    Sections

    Notes
    -----
    The source is ``ggml_mrope_cache_init`` in ggml-cpu/ops.cpp of ggml.

    Examples
    --------
    >>> from rotary import sections
    >>> print(sections.ggml_mrope(2, 1, 1, 0, pairs=6))
    0x2 1x1 2x1 0x2
    """
    counts, n = _ggml(sizes, pairs)
    runs = _runs(counts)
    return Sections(tuple(runs[i % len(runs)] for i in range(n)), num_axes=len(counts))


def ggml_imrope(*sizes: int, pairs: int | None = None) -> Sections:
    """Return the order of the IMROPE mode of ggml: three axes in turn, and the remaining pairs for the fourth axis.

    The code of Qwen3-VL gives the remaining pairs to the first axis instead, see `interleaved`. The two orders agree if
    the positions on the fourth axis equal those on the first.

    Parameters
    ----------
    *sizes : int
        The numbers of pairs of four axes, as in the GGUF key ``rope.dimension_sections``.
    pairs : int, optional
        The number of pairs; by default the sum of the sizes.

    Returns
    -------
    Sections

    Notes
    -----
    The source is ``ggml_mrope_cache_init`` in ggml-cpu/ops.cpp of ggml.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.ggml_imrope(2, 1, 1, 0).axes
    (0, 1, 2, 0)
    """
    counts, n = _ggml(sizes, pairs)
    if len(counts) != 4:
        msg = f"`sizes` must be four, got {counts}"
        raise ValueError(msg)
    sectors = [i % sum(counts) for i in range(n)]
    return Sections(tuple(s % 3 if s < 3 * counts[s % 3] else 3 for s in sectors), num_axes=4)


def ggml_vision(*sizes: int, pairs: int | None = None) -> Sections:
    """Return the order of the VISION mode of ggml: a run of pairs for each axis, whose frequencies restart.

    Parameters
    ----------
    *sizes : int
        The numbers of pairs of at most four axes. Sizes beyond the number of pairs are ignored.
    pairs : int, optional
        The number of pairs; by default the sum of the sizes. Each run has the first frequencies of a head of `pairs`
        channels.

    Returns
    -------
    Sections

    Notes
    -----
    The source is ``ggml_mrope_cache_init`` in ggml-cpu/ops.cpp of ggml, which uses the half layout. For two equal
    sizes, the order is that of `axial`.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.ggml_vision(2, 2, 2, 2, pairs=4).axes
    (0, 0, 1, 1)
    """
    counts, n = _ggml(sizes, pairs)
    axes = _runs(counts)
    axes = tuple(axes[i % len(axes)] for i in range(n))
    index = [j for count in counts for j in range(count)]
    index = [index[i % len(index)] for i in range(n)]
    if n % 2 or max(index) >= n // 2:
        msg = f"`sizes` must be at most half of an even number of pairs, got {counts} of {n}"
        raise ValueError(msg)
    return Sections(axes, tuple(index), (n,) * n, num_axes=max(axes) + 1)


def _integers(values: Any, name: str) -> tuple[int, ...]:
    """Return values as a tuple of checked, non-negative integers."""
    if not isinstance(values, Iterable):
        msg = f"`{name}` must hold integers, got {values!r} of type {type(values).__name__}"
        raise TypeError(msg)
    numbers = tuple(as_integer(value, name) for value in values)
    if any(number < 0 for number in numbers):
        msg = f"`{name}` must not be negative, got {numbers}"
        raise ValueError(msg)
    return numbers


def _sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the checked numbers of pairs of the axes."""
    counts = _integers(sizes, "sizes")
    if not sum(counts):
        msg = f"`sizes` must sum to at least one pair, got {counts}"
        raise ValueError(msg)
    return counts


def _runs(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axis of each pair if the pairs of each axis are consecutive."""
    return tuple(np.repeat(np.arange(len(counts)), counts).tolist())


def _ggml(sizes: tuple[int, ...], pairs: int | None) -> tuple[tuple[int, ...], int]:
    """Return the checked sizes of at most four axes, and the number of pairs."""
    counts = _sizes(sizes)
    if len(counts) > 4:
        msg = f"`sizes` must be at most four, got {counts}"
        raise ValueError(msg)
    return counts, sum(counts) if pairs is None else as_positive_integer(pairs, "pairs")
