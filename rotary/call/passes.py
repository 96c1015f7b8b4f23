"""The passes over an array that an embedding describes: which channels are pairs, and which angles rotate them."""

from __future__ import annotations

from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from rotary._lib import memo
from rotary._lib.checks import as_choice
from rotary._lib.typing import Float64Array
from rotary.angles.learned import GivenFrequencies, on_axes
from rotary.angles.phases import Frequencies, frequencies
from rotary.backends.contract import Angles, Pairing, Passes, Scale
from rotary.decay import ROLES, Role, XPos
from rotary.layouts import Layout, pair_channels
from rotary.sections import Sections

from .shapes import AxisOptions, NoBatch, axis_options

Quirk: TypeAlias = Literal["vjepa2", "hunyuan_vl"]

MAX_CACHED_ROTATIONS = 256
QUIRKS: dict[Quirk, tuple[Layout, str]] = {
    "vjepa2": ("interleaved", "angles tiled as half, pairs interleaved, on each position axis"),
    "hunyuan_vl": ("half", "sections doubled over the full width, so that pairs use two axes"),
}


def frequencies_by_axis(inv_freq: Float64Array, sections: Sections | None) -> Float64Array:
    """Return frequencies (heads or 1, axes, pairs): a pair has its frequency on its own axis and zero on others."""
    if sections is None:
        return inv_freq.reshape((1,) * (3 - inv_freq.ndim) + inv_freq.shape)
    return on_axes(inv_freq, sections.axes, sections.num_axes)


def channel_frequencies(
    inv_freq: Float64Array, sections: Sections | None, quirk: Quirk
) -> tuple[Float64Array, Float64Array]:
    """Return the frequencies (1, axes, pairs) of the first and the second channel of each pair.

    The quirk makes the two channels of a pair differ.
    """
    sections = sections or Sections((0,) * len(inv_freq))
    pairs = np.arange(len(inv_freq))
    if quirk == "hunyuan_vl":
        # The section sizes are doubled, so that the sections cover all channels and not all pairs.
        doubled = np.repeat(sections.axes, 2)
        first, second = (
            on_axes(inv_freq, doubled[pairs + k * len(pairs)], sections.num_axes) for k in (0, 1)
        )
        return first, second
    # Channel c of a block of n pairs has frequency c mod n; its pair is (2i, 2i + 1).
    blocks = [
        np.array([pair for pair, _ in block])
        for _, block in groupby(enumerate(sections.axes), itemgetter(1))
    ]
    first, second = (
        frequencies_by_axis(inv_freq, sections)[
            ...,
            np.concatenate(
                [block[(2 * np.arange(len(block)) + k) % len(block)] for block in blocks]
            ),
        ]
        for k in (0, 1)
    )
    return first, second


def make_passes(
    first: Frequencies | GivenFrequencies,
    second: Frequencies | None,
    pairing: Pairing,
    blocks: tuple[int, ...],
    factor: float,
    scales: tuple[Scale | None, Scale | None] = (None, None),
) -> Passes:
    """Return the passes over an array, one for each block of channels whose pairs lie inside it.

    Parameters
    ----------
    first, second : Frequencies
        The frequencies of the first channel of each pair, and of the second one or None if they are equal.
    pairing : Pairing
        The pairing of all rotated channels.
    blocks : tuple of int
        The number of pairs in each block. Interleaved pairs are the same with and without blocks.
    factor : float
        The attention factor.
    scales : tuple of Scale or None
        The xPos scale of the first channel of each pair, and of the second one or None if they are equal.
    """
    differ = second is not None or scales[1] is not None
    second_angles = Angles(second or first, factor, scales[1] or scales[0]) if differ else None
    if len(blocks) == 1 or (pairing.source == pairing.target == "interleaved"):
        return Passes((pairing,), (Angles(first, factor, scales[0]),), second_angles)
    ends = list(pairwise(np.cumsum((0, *blocks)).tolist()))
    return Passes(
        tuple(pairing._replace(start=pairing.start + 2 * a, pairs=b - a) for a, b in ends),
        tuple(Angles(_part(first, a, b), factor) for a, b in ends),
    )


def _part(
    of: Frequencies | GivenFrequencies, first: int, stop: int
) -> Frequencies | GivenFrequencies:
    """Return the frequencies of some pairs."""
    if isinstance(of, GivenFrequencies):
        return of._replace(pairs=stop - first, first=first)
    return frequencies(of.values[..., first:stop])


def decay_scales(
    decay: XPos | None,
    role: Role | None,
    pairs: int,
    layout: Layout,
    *,
    inverse: bool,
    shifts: bool,
) -> tuple[Scale | None, Scale | None]:
    """Return the xPos scale of the first channels, and of the second channels or None if it is the same.

    Parameters
    ----------
    decay : XPos or None
    role : {"query", "key"} or None
        None if there is no decay.
    pairs : int
        The number of rotated pairs.
    layout : {"half", "interleaved"}
        The layout of the scaled channels.
    inverse : bool
        Whether to divide by the scale.
    shifts : bool
        Whether positions are deltas, so that `center` does not apply.
    """
    if decay is None:
        return None, None
    unit = decay.scale_base if (role == "query") != inverse else -decay.scale_base
    center = 0.0 if shifts else decay.center
    zeta = np.array(decay.zeta(pairs))
    if decay.scale_layout in (None, layout):
        return Scale(tuple(zeta.tolist()), center, unit), None
    first, second = (
        Scale(tuple(zeta[c % pairs if layout == "interleaved" else c // 2].tolist()), center, unit)
        for c in pair_channels(2 * pairs, layout)
    )
    return first, second


# ------------------------------------------------------------------------------------------------
# The rotations of an embedding.


class Rotation(NamedTuple):
    """How one method of an embedding (call, inverse, vjp or shift) rotates arrays.

    Attributes
    ----------
    head_dim : int
    has_position_axes : bool
        Whether the first axis of an array of positions is that of the position axes.
    limits : tuple of int or None
        Exclusive upper limits of positions, and of shifted positions if a shift changes the frequencies.
    changes_frequencies : bool
        Whether a shift has other target frequencies.
    passes : tuple of Passes
        One entry for each array, or one for all of them.
    sections : tuple of int or None
        The position axis of each pair, if the frequencies that a call gives have no axes.
    shape : tuple of int
        The shape of the frequencies, of the embedding or of a call.
    """

    head_dim: int
    has_position_axes: bool
    limits: tuple[int | None, int | None]
    changes_frequencies: bool
    passes: tuple[Passes, ...]
    sections: tuple[int, ...] | None
    shape: tuple[int, ...]

    def for_arrays(self, count: int) -> tuple[Passes, ...]:
        """Return the passes over each of `count` arrays."""
        return self.passes * (count // len(self.passes))

    def transposed(self) -> Rotation:
        """Return the transposed rotation, for gradients."""
        transposed = [
            each._replace(pairings=tuple(pairing.transposed() for pairing in each.pairings))
            for each in self.passes
        ]
        return self._replace(passes=tuple(transposed))


class RotationSpec(NamedTuple):
    """The parameters of an embedding that its rotations depend on; equal embeddings give equal values.

    Attributes
    ----------
    head_dim, layout, output_layout, rotary_start, rotary_dim, attention_factor, decay, quirk
        The attributes of the embedding.
    has_position_axes : bool
        Whether the first axis of an array of positions is that of the position axes.
    limit : int or None
        Exclusive upper limit of positions.
    blocks : tuple of int
        The number of pairs in each block of channels whose pairs lie inside it.
    frequencies : Frequencies or GivenFrequencies
    shape : tuple of int
        The shape of `inv_freq`, of the embedding or of a call.
    sections : tuple of int or None
        The position axis of each pair, if `inv_freq` has no axes.
    channel_frequencies : tuple of Frequencies or None
        The frequencies of the first and of the second channel of each pair, if they differ.
    axes : tuple
        The default sequence axis and batch axis of calls, or None.
    """

    head_dim: int
    layout: Layout
    output_layout: Layout
    rotary_start: int
    rotary_dim: int
    attention_factor: float
    decay: XPos | None
    quirk: Quirk | None
    has_position_axes: bool
    limit: int | None
    blocks: tuple[int, ...]
    frequencies: Frequencies | GivenFrequencies
    shape: tuple[int, ...]
    sections: tuple[int, ...] | None
    channel_frequencies: tuple[Frequencies, Frequencies] | None
    axes: tuple[int | None, int | NoBatch | None]


class RotationCache:
    """The rotations of all embeddings that are equal, made when they are first needed.

    Objects are compared by identity, which makes keys of plans cheap. `rotations_of` returns the same object for
    equal embeddings.
    """

    __slots__ = ("_passes", "_rotations", "spec")

    def __init__(self, spec: RotationSpec) -> None:
        self.spec = spec
        self._rotations = self  # `plans.rotate` reads this attribute of an embedding too
        self._passes: dict[tuple[str, Role | None], Passes] = {}

    def rotation(
        self, method: str, role: Any, count: int, to: RotationCache | None = None
    ) -> Rotation:
        """Return the rotation of `count` arrays by a method; `to` has the target frequencies of a shift.

        Raises
        ------
        TypeError
            If the role is missing or not allowed, or the method needs a rotation and the embedding is none.
        ValueError
            If `to` rotates other channels than this embedding.
        """
        spec = self.spec
        if method in ("inverse", "shift"):
            self.check_rotation(method)
        if to is not None:
            self._check_target(to)
        # Arrays with the same role share their passes.
        roles = dict.fromkeys(self.roles(role, count))
        passes = tuple(
            self.passes(method, each) if to is None else self._passes_to(to.spec, each)
            for each in roles
        )
        limits = spec.limit, None if to is None else to.spec.limit
        return Rotation(
            spec.head_dim,
            spec.has_position_axes,
            limits,
            to is not None,
            passes,
            spec.sections,
            spec.shape,
        )

    def given(self, shape: tuple[int, ...]) -> RotationCache:
        """Return the rotations by frequencies of this shape that a call gives.

        Raises
        ------
        TypeError
            If the embedding is no rotation.
        ValueError
            If the shape does not fit.
        """
        if isinstance(self.spec.frequencies, GivenFrequencies) and self.spec.shape == shape:
            return self
        return _given(self, shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the frequencies."""
        return self.spec.shape

    @property
    def sections(self) -> tuple[int, ...] | None:
        """The position axis of each pair, if the frequencies have no axes."""
        return self.spec.sections

    def options(self, seq_axis: Any, batch_axis: Any, count: int, *, packed: bool) -> AxisOptions:
        """Return the axis arguments of a call on `count` arrays, with the defaults of the embedding."""
        return axis_options(seq_axis, batch_axis, count, self.spec.axes, packed=packed)

    def roles(self, role: Any, count: int) -> list[Role | None]:
        """Return the role of every array of a call."""
        if self.spec.decay is None:
            if role is not None:
                msg = f"`role` must not be given without `decay`, got {role!r}"
                raise TypeError(msg)
            return [None] * count
        if role is not None:
            return [as_choice(role, "role", ROLES)] * count  # type: ignore[list-item]  # `as_choice` returns str
        if count != 2:
            msg = (
                f"`role` must be 'query' or 'key' for {count} arrays, because `decay` scales queries and keys "
                "differently, got None; two arrays are query and key"
            )
            raise TypeError(msg)
        return list(ROLES)

    def passes(self, method: str, role: Role | None) -> Passes:
        """Return the passes over an array in a role."""
        passes = self._passes.get((method, role))
        if passes is None:
            passes = self._passes.setdefault((method, role), self._make(method, role))
        return passes

    def _make(self, method: str, role: Role | None) -> Passes:
        """Make the passes from the layouts, frequencies, attention factor and decay of the embedding."""
        spec = self.spec
        inverse = method in ("inverse", "vjp")
        source = spec.layout if method == "call" else spec.output_layout
        target = spec.layout if inverse else spec.output_layout
        first, second = spec.channel_frequencies or (spec.frequencies, None)
        factors = {"inverse": 1.0 / spec.attention_factor, "shift": 1.0}
        pairs = spec.rotary_dim // 2
        return make_passes(
            first,
            second,
            Pairing(spec.rotary_start, pairs, source, target, inverse),
            spec.blocks,
            factors.get(method, spec.attention_factor),
            decay_scales(
                spec.decay,
                role,
                pairs,
                spec.output_layout,
                inverse=method == "inverse",
                shifts=method == "shift",
            ),
        )

    def _passes_to(self, to: RotationSpec, role: Role | None) -> Passes:
        """Return passes on three times the position axes: new frequencies, negated old ones, and new ones for delta.

        `rows.read_shift_to` returns the positions for them.
        """
        spec = self.spec
        assert isinstance(spec.frequencies, Frequencies)
        assert isinstance(to.frequencies, Frequencies)
        old, new = spec.frequencies.values, to.frequencies.values
        layout = spec.output_layout
        pairs = spec.rotary_dim // 2
        return make_passes(
            frequencies(np.concatenate([new, -old, new], axis=1)),
            None,
            Pairing(spec.rotary_start, pairs, layout, layout),
            spec.blocks,
            to.attention_factor / spec.attention_factor,
            decay_scales(spec.decay, role, pairs, layout, inverse=False, shifts=True),
        )

    def check_rotation(self, method: str) -> None:
        """Raise if a method needs a rotation and the embedding is none."""
        spec = self.spec
        if spec.quirk is not None:
            msg = f"`{method}` needs a rotation, got an embedding with the quirk {spec.quirk!r}, which is none"
            raise TypeError(msg)
        layout = spec.output_layout
        scale_layout = None if spec.decay is None else spec.decay.scale_layout
        if method != "inverse" and scale_layout not in (None, layout):
            msg = (
                f"`{method}` needs the `scale_layout` {layout!r}, the output layout, got {scale_layout!r}: the two "
                "channels of a pair have different scales"
            )
            raise TypeError(msg)

    def _check_target(self, to: RotationCache) -> None:
        """Raise unless a shift may go from this embedding to another one."""
        to.check_rotation("shift")
        given = to._shift_invariants()
        for name, expected in self._shift_invariants().items():
            if expected != given[name]:
                msg = f"`to` must have the same {name} as the embedding, {expected}, got {given[name]}"
                raise ValueError(msg)

    def _shift_invariants(self) -> dict[str, Any]:
        """Return the parameters that a shift cannot change, with their names in error messages."""
        spec = self.spec
        return {
            "head_dim": spec.head_dim,
            "rotary_start": spec.rotary_start,
            "rotary_dim": spec.rotary_dim,
            "output_layout": spec.output_layout,
            "sizes of blocks of pairs": spec.blocks,
            "decay": spec.decay,
            "number of position axes": spec.frequencies.axes if spec.has_position_axes else None,
            "number of heads with frequencies": spec.frequencies.heads,
        }


@memo.remembered(MAX_CACHED_ROTATIONS)
def rotations_of(spec: RotationSpec) -> RotationCache:
    """Return the one object that all equal embeddings share."""
    return RotationCache(spec)


@memo.remembered(MAX_CACHED_ROTATIONS)
def _given(rotations: RotationCache, shape: tuple[int, ...]) -> RotationCache:
    """Return the rotations by frequencies of this shape that a call gives in place of the embedding's."""
    spec = rotations.spec
    pairs = spec.rotary_dim // 2
    if spec.quirk is not None:
        msg = f"`inv_freq` must not be given with the quirk {spec.quirk!r}, which is no rotation"
        raise TypeError(msg)
    name = "decay" if spec.decay is not None else "sections" if spec.sections is not None else None
    if not 1 <= len(shape) <= (1 if name else 3) or shape[-1] != pairs or 0 in shape:
        shapes = f"({pairs},)"
        shapes += f" with `{name}`" if name else f", (axes, {pairs}) or (heads, axes, {pairs})"
        msg = f"`inv_freq` must have shape {shapes}, got {shape}"
        raise ValueError(msg)
    heads, axes, _ = (1,) * (3 - len(shape)) + shape
    if spec.sections is not None:
        axes = spec.frequencies.axes
    return rotations_of(
        spec._replace(
            frequencies=GivenFrequencies(heads, axes, pairs),
            has_position_axes=spec.sections is not None or len(shape) > 1,
            shape=shape,
        )
    )
