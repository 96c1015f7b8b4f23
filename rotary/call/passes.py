"""From a specification to the passes over an array: which channels turn together, and by which angles."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from rotary._lib import memo
from rotary._lib.checks import as_choice
from rotary._lib.typing import Float64Array
from rotary.angles.phases import Frequencies, frequencies
from rotary.backends.contract import Angles, Pairing, Passes, Scale
from rotary.decay import ROLES, Role, XPos
from rotary.layouts import Layout, pair_channels
from rotary.sections import Sections

from .shapes import AxisOptions, NoBatch, axis_options

Quirk: TypeAlias = Literal["vjepa2", "hunyuan_vl"]

ROTATIONS_REMEMBERED = 256
QUIRKS: dict[Quirk, tuple[Layout, str]] = {
    "vjepa2": ("interleaved", "angles tiled as half, pairs interleaved, on every position axis"),
    "hunyuan_vl": ("half", "sections doubled over the full width, so that pairs read two axes"),
}


def on_axes(inv_freq: Float64Array, sections: Sections | None) -> Float64Array:
    """Return frequencies (heads or 1, axes, pairs): each pair's on the axis it reads, zero elsewhere."""
    if sections is None:
        return inv_freq.reshape((1,) * (3 - inv_freq.ndim) + inv_freq.shape)
    return _placed(inv_freq, np.array(sections.axes), sections.num_axes)


def _placed(inv_freq: Float64Array, axes: np.ndarray, num_axes: int) -> Float64Array:
    """Return frequencies (1, axes, pairs), those of every pair on its axis."""
    return np.where(axes == np.arange(num_axes)[:, None], inv_freq, 0.0)[None]


def of_both_channels(
    inv_freq: Float64Array, sections: Sections | None, quirk: Quirk
) -> tuple[Float64Array, Float64Array]:
    """Return the frequencies (1, axes, pairs) that make first and second channels, where they differ."""
    own = sections or Sections((0,) * len(inv_freq))
    pairs = np.arange(len(inv_freq))
    if quirk == "hunyuan_vl":
        # The sizes are doubled, so that every axis stands twice as long, over all channels.
        doubled = np.repeat(own.axes, 2)
        first, second = (
            _placed(inv_freq, doubled[pairs + k * len(pairs)], own.num_axes) for k in (0, 1)
        )
        return first, second
    # Channel c of a run of n pairs takes frequency c mod n; its pair is (2i, 2i + 1).
    runs = [np.array([pair for pair, _ in run]) for _, run in groupby(enumerate(own.axes), _axis)]
    first, second = (
        on_axes(inv_freq, own)[
            ..., np.concatenate([run[(2 * np.arange(len(run)) + k) % len(run)] for run in runs])
        ]
        for k in (0, 1)
    )
    return first, second


def _axis(lane_and_axis: tuple[int, int]) -> int:
    """Return the axis of a numbered pair."""
    return lane_and_axis[1]


def turns(
    first: Frequencies,
    second: Frequencies | None,
    pairing: Pairing,
    blocks: tuple[int, ...],
    factor: float,
    scales: tuple[Scale | None, Scale | None] = (None, None),
) -> Passes:
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
        return Passes((pairing,), (Angles(first, factor, scales[0]),), last)
    runs = list(pairwise(np.cumsum((0, *blocks)).tolist()))
    return Passes(
        tuple(pairing._replace(start=pairing.start + 2 * a, pairs=b - a) for a, b in runs),
        tuple(Angles(frequencies(first.values[..., a:b]), factor) for a, b in runs),
    )


def scales(
    decay: XPos | None, role: Role | None, pairs: int, layout: Layout, *, back: bool, moved: bool
) -> tuple[Scale | None, Scale | None]:
    """Return the scale of first channels, and of second ones where theirs differs.

    Parameters
    ----------
    decay : XPos or None
    role : {"query", "key"} or None
        None where there is no decay.
    pairs : int
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
    roots = np.array(decay.roots(pairs))
    if decay.scale_layout in (None, layout):
        return Scale(tuple(roots.tolist()), center, unit), None
    first, second = (
        Scale(tuple(roots[c % pairs if layout == "interleaved" else c // 2].tolist()), center, unit)
        for c in pair_channels(2 * pairs, layout)
    )
    return first, second


# ------------------------------------------------------------------------------------------------
# The rotations of an embedding.


class Rotation(NamedTuple):
    """What a verb of an embedding does to arrays.

    Attributes
    ----------
    head_dim : int
    leading : bool
        Whether positions lead with the position axes.
    limits : tuple of int or None
        What positions have to stay below, before and after they are moved to other frequencies.
    moving : bool
        Whether keys are moved to other frequencies.
    turns : tuple of Passes
        The passes over each array, or over all of them.
    """

    head_dim: int
    leading: bool
    limits: tuple[int | None, int | None]
    moving: bool
    turns: tuple[Passes, ...]

    def passes(self, count: int) -> tuple[Passes, ...]:
        """Return the passes over each of so many arrays."""
        return self.turns * (count // len(self.turns))

    def transposed(self) -> Rotation:
        """Return the transposed rotation, by which gradients go back."""
        own = [
            each._replace(pairings=tuple(pairing.transposed() for pairing in each.pairings))
            for each in self.turns
        ]
        return self._replace(turns=tuple(own))


class RotationSpec(NamedTuple):
    """What the rotations of an embedding follow from. Equal embeddings have equal ones.

    Attributes
    ----------
    head_dim, layout, output_layout, rotary_start, rotary_dim, attention_factor, decay, quirk
        As of the embedding.
    leading : bool
        Whether positions lead with the position axes.
    limit : int or None
        What positions have to stay below.
    blocks : tuple of int
        How many pairs each run of channels has that pairs within itself.
    frequencies : Frequencies
    both : tuple of Frequencies or None
        Of the first and the second channel of every pair, if they differ.
    axes : tuple
        The sequence axis and the batch axis, or None.
    """

    head_dim: int
    layout: Layout
    output_layout: Layout
    rotary_start: int
    rotary_dim: int
    attention_factor: float
    decay: XPos | None
    quirk: Quirk | None
    leading: bool
    limit: int | None
    blocks: tuple[int, ...]
    frequencies: Frequencies
    both: tuple[Frequencies, Frequencies] | None
    axes: tuple[int | None, int | NoBatch | None]


class Rotations:
    """The rotations of an embedding and of all that equal it, made when a verb asks for them.

    Two of these are compared by identity, so that a plan's key costs little: `rotations_of` returns one object for
    equal embeddings.
    """

    __slots__ = ("_made", "_rotations", "of")

    def __init__(self, of: RotationSpec) -> None:
        self.of = of
        self._rotations = self  # so that plans take this as well as an embedding
        self._made: dict[tuple[str, Role | None], Passes] = {}

    def rotation(self, verb: str, role: Any, count: int, to: Rotations | None = None) -> Rotation:
        """Return what a verb does to so many arrays, `to` other frequencies if these are given.

        Raises
        ------
        TypeError
            If the role does not fit, or the embedding is no rotation and the verb needs one.
        ValueError
            If the two embeddings rotate different channels.
        """
        own = self.of
        if verb in ("inverse", "shift"):
            self.check_rotation(verb)
        if to is not None:
            self._check_target(to)
        # One for all arrays, unless they differ.
        roles = dict.fromkeys(self.roles(role, count))
        turns = tuple(
            self.passes(verb, each) if to is None else self._moving(to.of, each) for each in roles
        )
        limits = own.limit, None if to is None else to.of.limit
        return Rotation(own.head_dim, own.leading, limits, to is not None, turns)

    def options(self, seq_axis: Any, batch_axis: Any, count: int, *, packed: bool) -> AxisOptions:
        """Return the axes that a call of so many arrays names, and those of the embedding."""
        return axis_options(seq_axis, batch_axis, count, self.of.axes, packed=packed)

    def roles(self, role: Any, count: int) -> list[Role | None]:
        """Return the role of every array of a call."""
        if self.of.decay is None:
            if role is not None:
                msg = f"`role` must not be given without `decay`, got {role!r}"
                raise TypeError(msg)
            return [None] * count
        if role is not None:
            return [as_choice(role, "role", ROLES)] * count  # type: ignore[list-item]  # a choice is typed as any word
        if count != 2:
            msg = (
                f"`role` must be 'query' or 'key' for {count} arrays, for `decay` scales them differently; "
                "two arrays are query and key"
            )
            raise TypeError(msg)
        return list(ROLES)

    def passes(self, verb: str, role: Role | None) -> Passes:
        """Return the passes over an array in a role."""
        found = self._made.get((verb, role))
        if found is None:
            found = self._made.setdefault((verb, role), self._passes(verb, role))
        return found

    def _passes(self, verb: str, role: Role | None) -> Passes:
        """Return the passes over an array: its layouts, frequencies, factor and scales."""
        own = self.of
        back = verb in ("inverse", "vjp")
        source = own.layout if verb == "call" else own.output_layout
        target = own.layout if back else own.output_layout
        first, second = own.both or (own.frequencies, None)
        factors = {"inverse": 1.0 / own.attention_factor, "shift": 1.0}
        pairs = own.rotary_dim // 2
        return turns(
            first,
            second,
            Pairing(own.rotary_start, pairs, source, target, back),
            own.blocks,
            factors.get(verb, own.attention_factor),
            scales(
                own.decay,
                role,
                pairs,
                own.output_layout,
                back=verb == "inverse",
                moved=verb == "shift",
            ),
        )

    def _moving(self, to: RotationSpec, role: Role | None) -> Passes:
        """Return passes on three times the axes: new frequencies, old ones backwards, and new ones by delta.

        `rows.read_move` gives positions for them.
        """
        own = self.of
        old, new = own.frequencies.values, to.frequencies.values
        layout = own.output_layout
        pairs = own.rotary_dim // 2
        return turns(
            frequencies(np.concatenate([new, -old, new], axis=1)),
            None,
            Pairing(own.rotary_start, pairs, layout, layout),
            own.blocks,
            to.attention_factor / own.attention_factor,
            scales(own.decay, role, pairs, layout, back=False, moved=True),
        )

    def check_rotation(self, verb: str) -> None:
        """Raise if the embedding is no rotation."""
        own = self.of
        if own.quirk is not None:
            msg = f"`{verb}` must not be called with the quirk {own.quirk!r}, which is no rotation"
            raise TypeError(msg)
        uneven = own.decay is not None and own.decay.scale_layout not in (None, own.output_layout)
        if uneven and verb != "inverse":
            msg = (
                f"`{verb}` must not be called where `scale_layout` is not {own.output_layout!r}: it gives "
                "the two channels of a pair scales of their own"
            )
            raise TypeError(msg)

    def _check_target(self, to: Rotations) -> None:
        """Raise unless keys can be moved to another embedding's frequencies."""
        to.check_rotation("shift")
        others = to._shared()
        for name, own in self._shared().items():
            if own != others[name]:
                msg = f"`to` must have the embedding's {name}, {own}, got {others[name]}"
                raise ValueError(msg)

    def _shared(self) -> dict[str, Any]:
        """Return what two embeddings must share for keys to move from one to the other."""
        own = self.of
        return {
            "head_dim": own.head_dim,
            "rotary_start": own.rotary_start,
            "rotary_dim": own.rotary_dim,
            "output_layout": own.output_layout,
            "runs of paired channels": own.blocks,
            "decay": own.decay,
            "position axes": own.frequencies.axes if own.leading else None,
            "heads with frequencies of their own": own.frequencies.heads,
        }


@memo.remembered(ROTATIONS_REMEMBERED)
def rotations_of(of: RotationSpec) -> Rotations:
    """Return the one object for all embeddings that equal one another."""
    return Rotations(of)
