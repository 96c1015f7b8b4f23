"""From a specification to the passes over an array: which channels turn together, and by which angles."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Literal, TypeAlias

import numpy as np

from rotary._lib.typing import Float64Array
from rotary.angles.phases import Frequencies, frequencies
from rotary.backends.contract import Angles, Pairing, Scale, Turns
from rotary.decay import Role, XPos
from rotary.layouts import Layout, pair_channels
from rotary.sections import Sections

Quirk: TypeAlias = Literal["vjepa2", "hunyuan_vl"]

QUIRKS: dict[Quirk, tuple[Layout, str]] = {
    "vjepa2": ("interleaved", "angles tiled as half, pairs interleaved, on every position axis"),
    "hunyuan_vl": ("half", "sections doubled over the full width, so that pairs read two axes"),
}


def on_axes(inv_freq: Float64Array, sections: Sections | None) -> Float64Array:
    """Return frequencies (heads or 1, axes, lanes): each pair's on the axis it reads, zero elsewhere."""
    if sections is None:
        return inv_freq.reshape((1,) * (3 - inv_freq.ndim) + inv_freq.shape)
    return _placed(inv_freq, np.array(sections.axes), sections.num_axes)


def _placed(inv_freq: Float64Array, axes: np.ndarray, num_axes: int) -> Float64Array:
    """Return frequencies (1, axes, lanes), those of every pair on its axis."""
    return np.where(axes == np.arange(num_axes)[:, None], inv_freq, 0.0)[None]


def of_both_channels(
    inv_freq: Float64Array, sections: Sections | None, quirk: Quirk
) -> tuple[Float64Array, Float64Array]:
    """Return the frequencies (1, axes, lanes) that make first and second channels, where they differ."""
    own = sections or Sections((0,) * len(inv_freq))
    lanes = np.arange(len(inv_freq))
    if quirk == "hunyuan_vl":
        # The sizes are doubled, so that every axis stands twice as long, over all channels.
        doubled = np.repeat(own.axes, 2)
        first, second = (
            _placed(inv_freq, doubled[lanes + k * len(lanes)], own.num_axes) for k in (0, 1)
        )
        return first, second
    # Channel c of a run of n pairs takes frequency c mod n; its pair is (2i, 2i + 1).
    runs = [np.array([lane for lane, _ in run]) for _, run in groupby(enumerate(own.axes), _axis)]
    first, second = (
        on_axes(inv_freq, own)[
            ..., np.concatenate([run[(2 * np.arange(len(run)) + k) % len(run)] for run in runs])
        ]
        for k in (0, 1)
    )
    return first, second


def _axis(lane_and_axis: tuple[int, int]) -> int:
    """Return the axis of a numbered lane."""
    return lane_and_axis[1]


def turns(
    first: Frequencies,
    second: Frequencies | None,
    pairing: Pairing,
    blocks: tuple[int, ...],
    factor: float,
    scales: tuple[Scale | None, Scale | None] = (None, None),
) -> Turns:
    """Return the passes over an array: one for each run of channels that pairs within itself.

    Parameters
    ----------
    first, second : Frequencies
        Of the first and, where it differs, the second channel of every pair.
    pairing : Pairing
        Of the whole window.
    blocks : tuple of int
        How many pairs each run has. Runs make a difference to the half layout only.
    factor : float
    scales : tuple of Scale or None
        Of the first and, where it differs, the second channel.
    """
    differ = second is not None or scales[1] is not None
    last = Angles(second or first, factor, scales[1] or scales[0]) if differ else None
    if len(blocks) == 1 or (pairing.source == pairing.target == "interleaved"):
        return Turns((pairing,), (Angles(first, factor, scales[0]),), last)
    runs = list(pairwise(np.cumsum((0, *blocks)).tolist()))
    return Turns(
        tuple(pairing._replace(start=pairing.start + 2 * a, lanes=b - a) for a, b in runs),
        tuple(Angles(frequencies(first.values[..., a:b]), factor) for a, b in runs),
    )


def scales(
    decay: XPos | None, role: Role | None, lanes: int, layout: Layout, *, back: bool, moved: bool
) -> tuple[Scale | None, Scale | None]:
    """Return the scale of first channels, and of second ones where theirs differs.

    Parameters
    ----------
    decay : XPos or None
    role : {"query", "key"} or None
        None where there is no decay.
    lanes : int
        How many pairs turn.
    layout : {"half", "interleaved"}
        Of the channels that are scaled.
    back : bool
        Whether the scale is undone.
    moved : bool
        Whether positions are distances, which have no centre.
    """
    if decay is None:
        return None, None
    unit = decay.scale_base if (role == "query") != back else -decay.scale_base
    center = 0.0 if moved else decay.center
    roots = np.array(decay.roots(lanes))
    if decay.scale_layout in (None, layout):
        return Scale(tuple(roots.tolist()), center, unit), None
    first, second = (
        Scale(tuple(roots[c % lanes if layout == "interleaved" else c // 2].tolist()), center, unit)
        for c in pair_channels(2 * lanes, layout)
    )
    return first, second
