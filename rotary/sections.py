"""Which position axis, and which frequency, each channel pair uses: the orders of the models.

An image has rows and columns; a video has time as well. Models give each channel pair one of these axes. They differ
in the order, and in whether the frequencies continue from one axis to the next or restart.
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


# At most so many runs of pairs are printed one by one.
FEW_RUNS = 6


@dataclass(frozen=True, repr=False)
class Sections:
    """The position axis and the frequency of each channel pair.

    The functions of this module make the usual orders; use the class for any other.

    Parameters
    ----------
    axes : tuple of int
        For each pair, the position axis that it uses, from 0 on.
    index : tuple of int, optional
        For each pair, the index of its frequency in its schedule; by default the number of the pair.
    widths : tuple of int, optional
        For each pair, the number of channels of its schedule; by default that of all pairs.
    blocks : tuple of int, optional
        The numbers of pairs in runs of channels that are paired within themselves; by default one run of all
        pairs. It matters to the half layout only.
    num_axes : int, optional
        The number of position axes; by default as many as `axes` names.

    Raises
    ------
    TypeError
        If a value is not an integer.
    ValueError
        If lengths or values do not agree.

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
            msg = "`axes` must name the position axis of at least one pair, got none"
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
        for own, width in zip(self.index, self.widths, strict=True):
            if width % 2 or not own < width // 2:
                msg = (
                    f"`index` must stay below half of `widths`, which is even, got {own} of {width}"
                )
                raise ValueError(msg)
        if sum(self.blocks) != pairs or 0 in self.blocks:
            msg = f"`blocks` must be positive and sum to {pairs} pairs, got {self.blocks}"
            raise ValueError(msg)
        if max(axes) >= self.num_axes:
            msg = f"`num_axes` must be above every axis named, {max(axes)}, got {self.num_axes}"
            raise ValueError(msg)

    def __repr__(self) -> str:
        pairs = len(self.axes)
        defaults = (
            *(None, tuple(range(pairs)), (2 * pairs,) * pairs, (pairs,)),
            max(self.axes) + 1,
        )
        named = [(own.name, getattr(self, own.name)) for own in fields(self)]
        shown = [f"{n}={v}" for (n, v), usual in zip(named, defaults, strict=True) if v != usual]
        return f"Sections({', '.join(shown)})"

    def __str__(self) -> str:
        runs = [(axis, len(list(run))) for axis, run in groupby(self.axes)]
        if len(runs) <= FEW_RUNS:
            return " ".join(f"{axis}x{count}" for axis, count in runs)
        counts = " ".join(f"{axis}x{self.axes.count(axis)}" for axis in sorted(set(self.axes)))
        return f"{counts}, as {' '.join(map(str, self.axes[:6]))} .."


def as_sections(value: Sections | AnyArray | Sequence[int]) -> Sections:
    """Return the sections of an integer array of axes, or sections as they are.

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
    """Give each pair the position axis that an array names; frequencies continue over all axes.

    Parameters
    ----------
    axes : array_like of int (rotary_dim/2,)
        From 0 on, in the order of the pairs.
    name : str
        The argument that an error names.

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
        msg = f"`{name}` must be made by rotary.sections or hold integers, got {axes!r}"
        raise TypeError(msg)
    if values.ndim != 1 or not values.size or values.min() < 0:
        msg = f"`{name}` must hold one axis, from 0 on, for each pair, got {values.tolist()}"
        raise ValueError(msg)
    return Sections(tuple(values.tolist()))


def chunked(*sizes: int) -> Sections:
    """Give the first pairs to the first axis, the next ones to the second, and so on.

    Qwen2-VL and Qwen2.5-Omni (16, 24, 24), GLM-4V (8, 12, 12), PaddleOCR-VL, and HunYuan's four axes.
    The frequencies continue from one axis to the next.

    Parameters
    ----------
    *sizes : int
        Pairs of each axis; together ``rotary_dim / 2``. An axis may have none.

    Returns
    -------
    Sections

    Notes
    -----
    transformers, ``apply_multimodal_rotary_pos_emb`` of models/qwen2_vl.

    Examples
    --------
    >>> from rotary import sections
    >>> print(sections.chunked(16, 24, 24))
    0x16 1x24 2x24
    """
    return Sections(_runs(_sizes(sizes)), num_axes=len(sizes))


def interleaved(*sizes: int) -> Sections:
    """Give pairs to the axes in turn; the remaining pairs belong to the first axis.

    Qwen3-VL (24, 20, 20): of n axes, pair i uses axis ``a = i mod n`` if that is not the first and
    ``i < n * sizes[a]``; all others use the first.

    Parameters
    ----------
    *sizes : int
        Pairs of each axis; together ``rotary_dim / 2``.

    Returns
    -------
    Sections

    Raises
    ------
    ValueError
        If the rule gives an axis another count than its size. For (8, 12, 12) it gives 11, 11 and 10, with
        which other programs continue. `from_axes` takes any order that such a checkpoint was trained with.

    Notes
    -----
    transformers, ``apply_interleaved_mrope`` of models/qwen3_vl.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.interleaved(3, 2, 2).axes
    (0, 1, 2, 0, 1, 2, 0)
    """
    counts = _sizes(sizes)
    n = len(counts)
    axes = tuple(i % n if i < n * counts[i % n] else 0 for i in range(sum(counts)))
    found = tuple(axes.count(axis) for axis in range(n))
    if found != counts:
        msg = (
            f"`sizes` must be the counts that giving the pairs to the axes in turn yields, got {counts} for "
            f"{sum(counts)} pairs, of which the axes get {found}; from_axes takes any order"
        )
        raise ValueError(msg)
    return Sections(axes, num_axes=n)


def ernie(h: int, w: int, t: int) -> Sections:
    """Alternate height and width, then time: Ernie 4.5-VL (22, 22, 20).

    The sizes are in the order of that model's ``mrope_section``; the position axes are time, height and width.

    Parameters
    ----------
    h, w : int
        Pairs of height and width; equal.
    t : int
        Pairs of time.

    Returns
    -------
    Sections

    Notes
    -----
    transformers, ``recomposition_frequencies`` of models/ernie4_5_vl_moe. Its pairs are interleaved.

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
    """Alternate height and width, then time, like `ernie`, with the sizes in the order of Bailing.

    Parameters
    ----------
    t : int
        Pairs of time.
    h, w : int
        Pairs of height and width; equal.

    Returns
    -------
    Sections
        For the position axes time, height and width. Bailing counts height and width from the centre of the
        image, so that positions may be negative.

    Notes
    -----
    vLLM and SGLang, ``bailing_mrope.py``.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.bailing(1, 2, 2) == sections.ernie(2, 2, 1)
    True
    """
    return ernie(h, w, t)


def glm_interleaved(*sizes: int) -> Sections:
    """Give pairs to the axes in turn, without those that have all their pairs.

    Parameters
    ----------
    *sizes : int
        Pairs of each axis; together ``rotary_dim / 2``.

    Returns
    -------
    Sections

    Notes
    -----
    SGLang, ``mrope_interleaved_glm``: pair i uses the first axis, from ``i mod n`` on, that has pairs left.
    In transformers, GLM-4V is `chunked`.

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
    """Spread each axis evenly over the pairs; of three axes, the first has the last pair.

    Parameters
    ----------
    *sizes : int
        Pairs of height and width, or of time, height and width.

    Returns
    -------
    Sections

    Notes
    -----
    vLLM, ``MRotaryEmbeddingInterleaved``: each pair goes to the axis of which the smallest share is placed so far.
    Two neighbouring pairs have the same axis only if no other axis is left.

    Examples
    --------
    >>> from rotary import sections
    >>> sections.openpangu(2, 2, 2).axes
    (0, 1, 2, 1, 2, 0)
    """
    counts = list(_sizes(sizes))
    if len(counts) not in (2, 3) or 0 in counts:
        msg = f"`sizes` must be two or three, none of them zero, got {tuple(counts)}"
        raise ValueError(msg)
    last = [0] if len(counts) == 3 else []
    counts[0] -= len(last)
    axes: list[int] = []
    while len(axes) < sum(counts):
        open_ = [a for a in range(len(counts)) if axes.count(a) < counts[a]]
        others = [a for a in open_ if a not in axes[-1:]]
        axes.append(min(others or open_, key=lambda a: (axes.count(a) / counts[a], a)))
    return Sections((*axes, *last), num_axes=len(counts))


def axial(
    *sizes: int, schedule: str = "restart", order: str = "chunked", pairing: str = "across"
) -> Sections:
    """Give each axis a share of the channels, with frequencies of its own, as for images and video.

    Parameters
    ----------
    *sizes : int
        Pairs of each axis; together ``rotary_dim / 2``.
    schedule : {"restart", "split"}
        "restart": the frequencies restart on each axis, as in a head of ``2 * size`` channels. "split": the axes
        share one schedule; of n axes, axis a has the frequencies a, a + n, a + 2n and so on (Pixtral).
    order : {"chunked", "alternating"}
        "chunked": the pairs of an axis follow one another. "alternating": those of all axes alternate (Kimi-VL).
    pairing : {"across", "within"}
        "across": the half layout pairs across all channels, so that the channels of two axes are H W H W (image
        tower of Qwen2-VL, Pixtral, DINOv3). "within": it pairs within the channels of each axis, HH WW (image
        tower of Gemma 4). The interleaved layout is always HH WW (SAM 2, image tower of Llama 4).

    Returns
    -------
    Sections
        For positions in the order of `sizes`, which is that of the axes x and y as well.

    Notes
    -----
    transformers, models/qwen2_vl, pixtral, gemma4, sam2, llama4; Heo et al., "Rotary Position Embedding for
    Vision Transformer", 2024 (arXiv:2403.13298), section 3.

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
        named = "`order` 'alternating'" if alternating else "`schedule` 'split'"
        msg = f"`sizes` must be equal for {named}, got {counts}"
        raise ValueError(msg)
    if within and alternating:
        msg = "`pairing` must be 'across' if axes alternate, because none of them has a run of channels"
        raise ValueError(msg)
    places = [(axis, j) for axis, count in enumerate(counts) for j in range(count)]
    if alternating:
        places.sort(key=lambda place: place[1])
    return Sections(
        axes=tuple(axis for axis, _ in places),
        index=tuple(j if restart else axis + n * j for axis, j in places),
        widths=tuple(2 * counts[axis] if restart else 2 * pairs for axis, _ in places),
        blocks=tuple(count for count in counts if count) if within else (pairs,),
        num_axes=n,
    )


def ggml_mrope(*sizes: int, pairs: int | None = None) -> Sections:
    """Return the order of MROPE mode in ggml: runs of each axis, repeated until all pairs have one.

    Parameters
    ----------
    *sizes : int
        Pairs of each axis, up to four, as in the GGUF key ``rope.dimension_sections``.
    pairs : int, optional
        The number of pairs; by default the sum of the sizes.

    Returns
    -------
    Sections

    Notes
    -----
    ggml, ``ggml_mrope_cache_init`` of ggml-cpu/ops.cpp. The frequencies continue over all axes.

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
    """Return the order of IMROPE mode in ggml: three axes in turn, and the remaining pairs for the fourth.

    The code of Qwen3-VL gives the remaining pairs to the first axis instead, see `interleaved`. The two agree if
    the fourth axis has the positions of the first.

    Parameters
    ----------
    *sizes : int
        Pairs of four axes, as in the GGUF key ``rope.dimension_sections``.
    pairs : int, optional
        The number of pairs; by default the sum of the sizes.

    Returns
    -------
    Sections

    Notes
    -----
    ggml, ``ggml_mrope_cache_init`` of ggml-cpu/ops.cpp.

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
    """Return the order of VISION mode in ggml: runs of each axis, whose frequencies restart.

    Parameters
    ----------
    *sizes : int
        Pairs of each axis, up to four. Sizes beyond the number of pairs are ignored.
    pairs : int, optional
        The number of pairs, half that of channels; by default the sum of the sizes. The frequencies of each
        run are those of a head of so many channels.

    Returns
    -------
    Sections

    Notes
    -----
    ggml, ``ggml_mrope_cache_init`` of ggml-cpu/ops.cpp. Its layout is half. For two equal sizes it is
    `axial`.

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
    """Return a tuple of non-negative integers, checked."""
    if not isinstance(values, Iterable):
        msg = f"`{name}` must hold integers, got {values!r} of type {type(values).__name__}"
        raise TypeError(msg)
    numbers = tuple(as_integer(value, name) for value in values)
    if any(number < 0 for number in numbers):
        msg = f"`{name}` must not be negative, got {numbers}"
        raise ValueError(msg)
    return numbers


def _sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of pairs of the axes, checked: not all are zero."""
    counts = _integers(sizes, "sizes")
    if not sum(counts):
        msg = f"`sizes` must count at least one pair, got {counts}"
        raise ValueError(msg)
    return counts


def _runs(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axis of each pair, if the pairs of an axis follow one another."""
    return tuple(np.repeat(np.arange(len(counts)), counts).tolist())


def _ggml(sizes: tuple[int, ...], pairs: int | None) -> tuple[tuple[int, ...], int]:
    """Return the sizes of one to four axes, checked, and the number of pairs."""
    counts = _sizes(sizes)
    if len(counts) > 4:
        msg = f"`sizes` must be at most four, got {counts}"
        raise ValueError(msg)
    return counts, sum(counts) if pairs is None else as_positive_integer(pairs, "pairs")
