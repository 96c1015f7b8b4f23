"""The rotary embedding itself: an immutable specification, and the verbs that rotate arrays by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Never, Unpack, overload

import numpy as np

from ._lib import compiler, hints
from ._lib.checks import (
    as_choice,
    as_integer,
    as_positive_float,
    as_positive_integer,
    as_rotary_dim,
)
from ._lib.fields import cached_property
from ._lib.numbers import as_positions, frozen
from ._lib.typing import (
    AnyArray,
    Array,
    ArrayT,
    ArrayT2,
    BatchAxis,
    BatchAxisLike,
    CallOptions,
    CuSeqlensLike,
    DTypeLike,
    Float64Array,
    FloatArray,
    HostPositions,
    OffsetLike,
    OutLike,
    PositionsLike,
    RealLike,
    SeqAxisLike,
)
from .angles.phases import Frequencies, frequencies
from .call import passes, plans, quantized
from .call import torch_graphs as operators
from .call.arrays import as_table_dtype
from .call.passes import QUIRKS, Quirk, Rotations, RotationSpec, rotations_of
from .call.shapes import NO_BATCH, as_axis
from .decay import Role, XPos
from .layouts import Layout, check_layout
from .scaling import Default, Scaling
from .sections import Sections, as_sections
from .tables import lookup

__all__ = ["RotaryEmbedding"]


class ShiftOptions(CallOptions, total=False):
    """The keyword arguments of `RotaryEmbedding.shift` that do not decide what it returns."""

    to: RotaryEmbedding | None


@dataclass(frozen=True, init=False, repr=False, eq=False)
class RotaryEmbedding:
    """A rotary position embedding: pairs of channels turn by angles linear in position.

    Every pair ``(a, b)`` of channels becomes ``A * (a cos - b sin, b cos + a sin)``, where the angle of
    pair i at position p is ``p * inv_freq[i]``, and A is the attention factor.

    Parameters
    ----------
    head_dim : int
        Channels of the arrays, their last axis.
    layout : {"half", "interleaved"}
        Which channels pair: ``(i, i + rotary_dim/2)`` or ``(2i, 2i + 1)``. There is no default: the wrong
        one is silent. "Which layout is my checkpoint" in the documentation tells how to find out.
    base : float
        Base of the frequencies, ``inv_freq[i] = base ** (-2i / rotary_dim)`` before scaling. Required
        unless the scaling itself gives the frequencies; such a scaling does not read it.
    scaling : Scaling, default `rotary.scaling.Default()`
        How frequencies and attention factor follow.
    rotary_dim : int, optional
        How many channels turn, an even number; all from `rotary_start` on by default. The others pass
        through unchanged.
    rotary_start : int, default 0
        The first channel that turns.
    context_length : int, optional
        How many positions there are, 0 .. context_length - 1. Required by scalings that depend on it,
        which then refuse later positions; not read by others.
    output_layout : {"half", "interleaved"}, optional
        Layout of the result, `layout` by default.
    sections : Sections or array_like of int (rotary_dim/2,), optional
        Where there are several position axes, as of images: which axis every pair reads, as
        `rotary.sections` makes it, or the number of the axis for each pair. Positions then lead with the
        axes.
    decay : XPos, optional
        A scale by position on top of the rotation, inverse for keys.
    quirk : {"vjepa2", "hunyuan_vl"}, optional
        What a checkpoint was trained with although it is no rotation: "vjepa2" lays angles out as the half
        layout does and turns interleaved pairs by them, on every position axis for itself; "hunyuan_vl",
        the port in transformers, doubles the sections over the full width, so that the two channels of a
        pair read different axes. There is then no `inverse`, `shift` or `tables`.
    seq_axis : int, optional
        The sequence axis of the arrays: -2 for (B, H, S, D), -3 for (B, S, H, D), 0 for (S, H, D). It must
        be given for arrays of three and more axes, here or in the call. It does not apply to arrays of two
        axes, (S, D), whose sequence is axis 0, nor to packed ones.
    batch_axis : int or False, optional
        The batch axis of the arrays, False if there is none. By default it is axis 0, or axis 1 if the
        sequence is axis 0. An array of three axes has a batch only if its sequence is axis 1, as in
        (B, S, D): (S, H, D), the shape of packed tokens, has heads instead. An array of two axes has none.
        The batch matters only to positions and offsets with one entry per batch element.

    Attributes
    ----------
    head_dim, layout, base, scaling, rotary_dim, rotary_start, context_length, output_layout, sections
        The specification, resolved.
    decay, quirk, seq_axis, batch_axis
        The same.
    inv_freq
    attention_factor
    softmax_factor

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or `base` or `context_length` is needed and missing.
    ValueError
        If a value does not fit; the message names it.

    See Also
    --------
    rotary.apply_rotary : for owners of their own tables.

    Notes
    -----
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021 (arXiv:2104.09864).

    Angles are exact for every int64 position and every float64 one below ``2**63`` in size; the dtype
    of an array never reaches them. Positions that are traced, whose values only a compiled program
    knows, keep cosine and sine within 1e-6 if they are integers, and have the accuracy of their own
    dtype if they are floats.

    float16, bfloat16 and float32 arrays are computed in float32 and rounded once, float64 ones in
    float64. NumPy arrays are read where they lie, whatever their axis order and address; one whose last
    axis is not contiguous, or which is byte-swapped, is copied once. Complex arrays have one channel per
    pair, are multiplied by ``A exp(i angle)``, and have no layout; the window of channels is then halved.

    Embeddings are values: immutable, hashable, picklable, equal when all their arguments are. Threads
    may share them.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> rope = rotary.RotaryEmbedding(4, layout="half", base=100.0)
    >>> x = np.arange(1.0, 9.0).reshape(2, 4)
    >>> rope(x).round(4)
    array([[ 1.    ,  2.    ,  3.    ,  4.    ],
           [-3.1888,  5.1714,  7.9895,  8.559 ]])
    >>> bool(np.allclose(rope.inverse(rope(x)), x))
    True
    """

    head_dim: int
    layout: Layout
    base: float | None
    scaling: Scaling
    rotary_dim: int
    rotary_start: int
    context_length: int | None
    output_layout: Layout
    sections: Sections | None
    decay: XPos | None
    quirk: Quirk | None
    seq_axis: int | None
    batch_axis: BatchAxis

    @hints.named
    @compiler.untraced
    def __init__(
        self,
        head_dim: int,
        *,
        layout: Layout,
        base: float | None = None,
        scaling: Scaling | None = None,
        rotary_dim: int | None = None,
        rotary_start: int = 0,
        context_length: int | None = None,
        output_layout: Layout | None = None,
        sections: Sections | AnyArray | Sequence[int] | None = None,
        decay: XPos | None = None,
        quirk: Quirk | None = None,
        seq_axis: int | None = None,
        batch_axis: BatchAxis = None,
    ) -> None:
        scaling = Default() if scaling is None else _checked_scaling(scaling)
        if base is None and scaling.needs_base:
            msg = f"`base` must be given: {scaling!r} makes the frequencies from it"
            raise TypeError(msg)
        start, width = _window(head_dim, rotary_dim, rotary_start)
        values = {
            "head_dim": as_positive_integer(head_dim, "head_dim"),
            "layout": check_layout(layout),
            "base": None if base is None else as_positive_float(base, "base"),
            "scaling": scaling,
            "rotary_dim": width,
            "rotary_start": start,
            "context_length": None
            if context_length is None
            else as_positive_integer(context_length, "context_length"),
            "output_layout": check_layout(
                layout if output_layout is None else output_layout, "output_layout"
            ),
            "sections": None if sections is None else _checked_sections(sections, width // 2),
            "decay": _checked_decay(decay),
            "quirk": None if quirk is None else as_choice(quirk, "quirk", tuple(QUIRKS)),
            "seq_axis": _checked_axis(seq_axis, "seq_axis"),
            "batch_axis": False if batch_axis is False else _checked_axis(batch_axis, "batch_axis"),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        # Both are made here, so that what does not fit is refused here.
        self.inv_freq  # noqa: B018
        try:
            self._frequencies  # noqa: B018
        except ValueError as error:
            if self.scaling.needs_base:
                msg = f"`base` {self.base} does not fit: {error}"
                raise ValueError(msg) from error
            raise
        _check_together(self)
        operators.prepare(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RotaryEmbedding):
            return NotImplemented
        return self is other or self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        """All arguments, in which the batch axes 0 and False differ."""
        values = [getattr(self, field.name) for field in fields(self)]
        return (*values, self.batch_axis is False)

    @cached_property
    def _hash(self) -> int:
        """Hash of all arguments, made once: they do not change."""
        return hash(self._identity)

    def __getstate__(self) -> dict[str, Any]:
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return state | {"_origins": self._origins}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        operators.prepare(self)

    def __repr__(self) -> str:
        parts = [str(self.head_dim), f"layout={self.layout!r}"]
        defaults: dict[str, Any] = {
            "base": None,
            "scaling": Default(),
            "rotary_dim": self.head_dim - self.rotary_start,
            "rotary_start": 0,
            "context_length": None,
            "output_layout": self.layout,
            "sections": None,
            "decay": None,
            "quirk": None,
            "seq_axis": None,
            "batch_axis": None,
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return f"RotaryEmbedding({', '.join(parts)})"

    # --------------------------------------------------------------------------------------------
    # What follows from the specification.

    @cached_property
    def inv_freq(self) -> Float64Array:
        """Inverse frequencies in radians per position: float64, read-only.

        Of shape (rotary_dim/2,), or as given to `rotary.scaling.Custom` as `W`. With `sections`, each
        pair's on the axis that it reads.
        """
        if self.sections is None:
            return self.scaling.inv_freq(self.rotary_dim, self.base, self.context_length)
        of_width = {
            width: self.scaling.inv_freq(width, self.base, self.context_length)
            for width in set(self.sections.widths)
        }
        if any(values.ndim > 1 for values in of_width.values()):
            msg = "`sections` must not be given with W, which says itself what every axis does"
            raise ValueError(msg)
        pairs = zip(self.sections.widths, self.sections.index, strict=True)
        return frozen(np.array([of_width[width][own] for width, own in pairs]))

    @cached_property
    def attention_factor(self) -> float:
        """The factor on cosine and sine."""
        return self.scaling.attention_factor_at(self.context_length)

    @property
    def softmax_factor(self) -> float:
        """What the attention's own softmax scale is multiplied by, outside this rotation."""
        return float(self.scaling.softmax_factor)

    @cached_property
    def _limit(self) -> int | None:
        """The position that is the first one too far, where there is one."""
        return self.context_length if self.scaling.needs_length else None

    @cached_property
    def _frequencies(self) -> Frequencies:
        """The frequencies (heads, axes, pairs) as exact fractions of a turn."""
        return frequencies(passes.on_axes(self.inv_freq, self.sections))

    @cached_property
    def _leading(self) -> bool:
        """Whether positions lead with the position axes."""
        return self.sections is not None or self.inv_freq.ndim > 1

    @cached_property
    def _blocks(self) -> tuple[int, ...]:
        """How many pairs each run of channels has that pairs within itself."""
        return (self.rotary_dim // 2,) if self.sections is None else self.sections.blocks

    @cached_property
    def _rotations(self) -> Rotations:
        """The rotations of this embedding, which all that equal it share."""
        both = None
        if self.quirk is not None:
            first, second = passes.of_both_channels(self.inv_freq, self.sections, self.quirk)
            both = frequencies(first), frequencies(second)
        return rotations_of(
            RotationSpec(
                head_dim=self.head_dim,
                layout=self.layout,
                output_layout=self.output_layout,
                rotary_start=self.rotary_start,
                rotary_dim=self.rotary_dim,
                attention_factor=self.attention_factor,
                decay=self.decay,
                quirk=self.quirk,
                leading=self._leading,
                limit=self._limit,
                blocks=self._blocks,
                frequencies=self._frequencies,
                both=both,
                axes=(self.seq_axis, NO_BATCH if self.batch_axis is False else self.batch_axis),
            )
        )

    @hints.named
    @compiler.untraced
    def at_length(self, context_length: int) -> RotaryEmbedding:
        """Return the same specification at another context length.

        Where the scaling depends on it, what has been rotated before has other frequencies: cached keys
        have to be rotated anew.

        Parameters
        ----------
        context_length : int
            Positive.

        Returns
        -------
        RotaryEmbedding
        """
        length = as_positive_integer(context_length, "context_length")
        moved = self._origins and self._origins | {"context_length": "given to at_length"}
        return replace(self, context_length=length)._explained(moved)

    def _explained(self, origins: dict[str, str]) -> RotaryEmbedding:
        """Return the same specification, which tells where its numbers come from.

        The names are those of `explain`; of a schedule's own number, "scaling." and its name.
        """
        if not origins:
            return self
        result = replace(self)
        object.__setattr__(result, "_origins", dict(origins))
        return result

    @cached_property
    def _origins(self) -> dict[str, str]:
        """Where numbers come from that a configuration or a preset gave."""
        return {}

    def explain(self) -> str:
        """Return every number of the specification and where it comes from, a line each.

        Returns
        -------
        str

        Examples
        --------
        >>> import rotary
        >>> print(rotary.RotaryEmbedding(8, layout="half", base=10_000.0).explain())
        head_dim          8            given
        layout            half         given: pairs (i, i + 4)
        base              10000.0      given
        scaling           Default      inv_freq[i] = base ** (-2 i / rotary_dim)
        rotary_dim        8            channels 0 .. 7 of 8 turn
        rotary_start      0            the first channel that turns
        context_length    None         not read by Default
        output_layout     half         as layout
        seq_axis          None         0 for 2 axes, to be given for more
        inv_freq          1 .. 0.001   4 float64, wavelengths 6.283 .. 6283 positions
        attention_factor  1.0          from Default
        softmax_factor    1.0          from Default
        """
        lines = [
            (name, value, self._origins.get(key, origin))
            for key, name, value, origin in self._lines()
        ]
        width = max(16, *(len(name) for name, _, _ in lines)) + 2
        return "\n".join(
            f"{name:<{width}}{value!s:<12} {origin}".rstrip() for name, value, origin in lines
        )

    def _lines(self) -> list[tuple[str, str, Any, str]]:
        """Return key, name, value and origin of every number of the specification."""
        schedule = type(self.scaling).__name__
        num_pairs = self.rotary_dim // 2
        pairs = {"half": f"pairs (i, i + {num_pairs})", "interleaved": "pairs (2i, 2i + 1)"}
        stop = self.rotary_start + self.rotary_dim
        sizes = np.abs(self.inv_freq[self.inv_freq != 0])
        span = "all zero"
        if sizes.size:
            # Computed with Python's floats: a wavelength may overflow, of which NumPy would warn.
            first, last = (2 * np.pi / float(size) for size in (sizes.max(), sizes.min()))
            span = f"wavelengths {first:.4g} .. {last:.4g} positions"
        flat = self.inv_freq.ravel()
        from_base = "inv_freq[i] = base ** (-2 i / rotary_dim)"
        width = self.rotary_dim if self.sections is None else max(self.sections.widths)
        lines = [
            ("head_dim", self.head_dim, "given"),
            ("layout", self.layout, f"given: {pairs[self.layout]}"),
            ("base", self.base, "given" if self.scaling.needs_base else f"not read by {schedule}"),
            ("scaling", schedule, from_base if isinstance(self.scaling, Default) else "given"),
            *[
                (f"  {name}", value, origin)
                for name, value, origin in self.scaling.resolved(
                    width, self.base, self.context_length
                )
            ],
            (
                "rotary_dim",
                self.rotary_dim,
                f"channels {self.rotary_start} .. {stop - 1} of {self.head_dim} turn",
            ),
            ("rotary_start", self.rotary_start, "the first channel that turns"),
            (
                "context_length",
                self.context_length,
                f"given: positions stay below {self._limit}"
                if self._limit
                else f"not read by {schedule}",
            ),
            (
                "output_layout",
                self.output_layout,
                "as layout" if self.output_layout == self.layout else "given",
            ),
        ]
        if self.sections is not None:
            lines.append(("sections", self.sections, "given: position axis x pairs, in order"))
        if self.decay is not None:
            lines.append(("decay", self.decay, "given"))
        if self.quirk is not None:
            lines.append(("quirk", self.quirk, f"given: {QUIRKS[self.quirk][1]}"))
        lines += [
            (
                "seq_axis",
                self.seq_axis,
                "0 for 2 axes, to be given for more" if self.seq_axis is None else "given",
            ),
            *([] if self.batch_axis is None else [("batch_axis", self.batch_axis, "given")]),
            ("inv_freq", f"{flat[0]:.4g} .. {flat[-1]:.4g}", f"{flat.size} float64, {span}"),
            ("attention_factor", self.attention_factor, f"from {schedule}"),
            ("softmax_factor", self.softmax_factor, f"from {schedule}"),
        ]
        keys = [name.replace("  ", "scaling.") for name, _, _ in lines]
        return [(key, *line) for key, line in zip(keys, lines, strict=True)]

    # --------------------------------------------------------------------------------------------
    # The verbs.

    _rotate_at = compiler.untraced(plans.rotate, instead=operators.traced)

    @overload
    def __call__(self, x: ArrayT, /, **options: Unpack[CallOptions]) -> ArrayT: ...

    @overload
    def __call__(
        self, x: ArrayT, y: ArrayT2, /, **options: Unpack[CallOptions]
    ) -> tuple[ArrayT, ArrayT2]: ...

    @overload
    def __call__(
        self, x: ArrayT, y: ArrayT, z: ArrayT, /, *more: ArrayT, **options: Unpack[CallOptions]
    ) -> tuple[ArrayT, ...]: ...

    @hints.closed
    def __call__(
        self,
        *arrays: Array,
        positions: PositionsLike | None = None,
        offset: OffsetLike | None = None,
        cu_seqlens: CuSeqlensLike | None = None,
        role: Role | None = None,
        seq_axis: SeqAxisLike = None,
        batch_axis: BatchAxisLike = None,
        out: OutLike = None,
        **unknown: Never,
    ) -> Array | tuple[Array, ...]:
        """Rotate arrays, such as query and key, by the angles of their positions.

        Parameters
        ----------
        *arrays : array
            With `head_dim` channels on the last axis, or ``head_dim / 2`` complex ones. All have a sequence
            of one length; other axes may differ. Their dtype is float16, bfloat16, float32, float64,
            complex64 or complex128, each its own.
        positions : array_like (S,), (1, S), (B, S) or with one axis less than the arrays, optional
            Integers within int64, or finite floats below ``2**63`` in size, which are taken as the
            exact float64 they are; by default 0 .. S - 1. float16 and bfloat16 positions are refused from
            2048 and 256 on, because a step of one would not change them. With one axis less than the arrays, positions
            have the arrays' own axes without the channels, and each size but the sequence's may be 1. So
            positions per head are (B, H, S) for (B, H, S, D) and (S, H) for (S, H, D). What also fits as
            (B, S) is read as (B, S). If frequencies are given for several position axes, positions lead
            with these axes. For arrays on a GPU, positions that lie there
            are read where they are and never by the host, so that a row at one that would be refused is
            NaN. Lists and NumPy arrays cost one upload, which nothing waits for, and cannot be captured
            in a CUDA graph.
        offset : number or array_like (B,), optional
            First position, in place of 0, of all rows of the batch or of each; with `cu_seqlens` it may
            be one per sequence (n,). A float offset is added to 0 .. S - 1 in float64.
        cu_seqlens : array_like of int (n + 1,), optional
            Bounds of n sequences packed one after another, 0 first; positions restart at each. The
            sequence is then axis 0 unless the call says otherwise, as in (total, H, D), and no axis is a
            batch.
        role : {"query", "key"}, optional
            What the arrays are, with `decay`. By default two arrays are query and key.
        seq_axis : int or tuple of (int or None), optional
            The sequence axis, for this call. A tuple has one entry for each array; None stands for the
            embedding's axis. One negative axis for arrays of different rank is refused.
        batch_axis : int, False or tuple of these or None, optional
            The batch axis, for this call, False if there is none. A tuple has one entry for each array.
        out : array or tuple of array, optional
            Where results are written: the inputs themselves, or memory that overlaps no input.

        Returns
        -------
        array, or tuple of array for several
            Rotated, of the same library, shape and dtype; `out` where it was given.

        Raises
        ------
        TypeError
            If an argument is of the wrong kind, such as an array of integers or an immutable `out`.
        ValueError
            If shapes or values do not fit, or an array of three or more axes has no `seq_axis`. No
            array has then been changed.

        Examples
        --------
        >>> import numpy as np
        >>> import rotary
        >>> rope = rotary.RotaryEmbedding(64, layout="half", base=10_000.0, seq_axis=-2)
        >>> q, k = np.ones((1, 8, 5, 64)), np.ones((1, 2, 5, 64))
        >>> q5, k5 = rope(q, k, offset=1_700_000_000)
        >>> q5.shape, k5.shape
        ((1, 8, 5, 64), (1, 2, 5, 64))
        """
        if unknown:
            hints.refuse(self.__call__, unknown)
        return self._rotate_at(
            "call", arrays, positions, offset, cu_seqlens, role, seq_axis, batch_axis, out
        )

    @overload
    def inverse(self, x: ArrayT, /, **options: Unpack[CallOptions]) -> ArrayT: ...

    @overload
    def inverse(
        self, x: ArrayT, y: ArrayT2, /, **options: Unpack[CallOptions]
    ) -> tuple[ArrayT, ArrayT2]: ...

    @overload
    def inverse(
        self, x: ArrayT, y: ArrayT, z: ArrayT, /, *more: ArrayT, **options: Unpack[CallOptions]
    ) -> tuple[ArrayT, ...]: ...

    @hints.closed
    def inverse(
        self,
        *arrays: Array,
        positions: PositionsLike | None = None,
        offset: OffsetLike | None = None,
        cu_seqlens: CuSeqlensLike | None = None,
        role: Role | None = None,
        seq_axis: SeqAxisLike = None,
        batch_axis: BatchAxisLike = None,
        out: OutLike = None,
        **unknown: Never,
    ) -> Array | tuple[Array, ...]:
        """Undo the rotation, attention factor included.

        Parameters are those of the call that is undone. Reads `output_layout` and writes `layout`.

        Returns
        -------
        array, or tuple of array for several

        Examples
        --------
        >>> import numpy as np
        >>> import rotary
        >>> rope = rotary.RotaryEmbedding(8, layout="interleaved", base=10_000.0)
        >>> x = np.arange(16.0).reshape(2, 8)
        >>> bool(np.allclose(rope.inverse(rope(x, offset=3), offset=3), x))
        True
        """
        if unknown:
            hints.refuse(self.inverse, unknown)
        return self._rotate_at(
            "inverse", arrays, positions, offset, cu_seqlens, role, seq_axis, batch_axis, out
        )

    @overload
    def vjp(self, x: ArrayT, /, **options: Unpack[CallOptions]) -> ArrayT: ...

    @overload
    def vjp(
        self, x: ArrayT, y: ArrayT2, /, **options: Unpack[CallOptions]
    ) -> tuple[ArrayT, ArrayT2]: ...

    @overload
    def vjp(
        self, x: ArrayT, y: ArrayT, z: ArrayT, /, *more: ArrayT, **options: Unpack[CallOptions]
    ) -> tuple[ArrayT, ...]: ...

    @hints.closed
    def vjp(
        self,
        *arrays: Array,
        positions: PositionsLike | None = None,
        offset: OffsetLike | None = None,
        cu_seqlens: CuSeqlensLike | None = None,
        role: Role | None = None,
        seq_axis: SeqAxisLike = None,
        batch_axis: BatchAxisLike = None,
        out: OutLike = None,
        **unknown: Never,
    ) -> Array | tuple[Array, ...]:
        """Return the vector-Jacobian product: the gradient with respect to what was rotated.

        The rotation is linear, so this is its transpose, attention factor included. Parameters are
        those of the call that is differentiated, with the gradients of its results for arrays. Reads
        `output_layout` and writes `layout`. A complex array is multiplied by the conjugate.

        Returns
        -------
        array, or tuple of array for several

        Examples
        --------
        >>> import numpy as np
        >>> import rotary
        >>> rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
        >>> x, dy = np.ones((3, 8)), np.arange(24.0).reshape(3, 8)
        >>> bool(np.isclose((rope(x) * dy).sum(), (x * rope.vjp(dy)).sum()))
        True
        """
        if unknown:
            hints.refuse(self.vjp, unknown)
        return self._rotate_at(
            "vjp", arrays, positions, offset, cu_seqlens, role, seq_axis, batch_axis, out
        )

    @overload
    def shift(self, x: ArrayT, delta: PositionsLike, **options: Unpack[ShiftOptions]) -> ArrayT: ...

    @overload
    def shift(
        self, x: ArrayT, delta: PositionsLike, *, scales: RealLike, **options: Unpack[ShiftOptions]
    ) -> tuple[ArrayT, AnyArray]: ...

    @overload
    def shift(
        self, x: ArrayT, delta: PositionsLike, *, scales: ArrayT2, **options: Unpack[ShiftOptions]
    ) -> tuple[ArrayT, ArrayT2]: ...

    @hints.closed  # which hides `**unknown`, so that there is nothing to document
    def shift(  # numpydoc ignore=PR01
        self,
        x: Array,
        delta: PositionsLike,
        *,
        to: RotaryEmbedding | None = None,
        positions: PositionsLike | None = None,
        offset: OffsetLike | None = None,
        scales: AnyArray | RealLike | None = None,
        cu_seqlens: CuSeqlensLike | None = None,
        role: Role | None = None,
        seq_axis: SeqAxisLike = None,
        batch_axis: BatchAxisLike = None,
        out: OutLike = None,
        **unknown: Never,
    ) -> Array | tuple[Array, Array]:
        """Move what has been rotated, such as cached keys, by `delta` positions, or to other frequencies.

        The attention factor is not applied again: what stood at position p is afterwards what rotating
        it at ``p + delta`` had given, by this embedding or by the one it moves to. Reads and writes
        `output_layout`.

        Parameters
        ----------
        x : array
            As returned by the embedding.
        delta : number or array_like (B,), (1, S), (B, S) or with one axis less than x
            How far, in integers or floats of either sign. A one-dimensional array is (B,) if `x` has a
            batch, and (S,) if it has none: with a batch, one entry per token is (1, S). Other shapes are
            those of positions. If frequencies are given for several position axes, an array leads with
            these axes.
        to : RotaryEmbedding, optional
            Whose frequencies and attention factor the result has, such as this one at another context
            length. Rows turn by ``(p + delta) * new - p * old``, reduced exactly, so that it needs to be
            known where they stand.
        positions, offset : optional
            The positions of the rows of `x`, as in the call. `to` needs one of the two.
        scales : number or array, optional
            Of a cache quantised to int4, int8 or eight-bit floats, whose values are ``x * scales``: a number,
            or a floating array of as many axes, of size 1 where a scale is shared. The scale of an empty
            slot may be 0; the slot then stays zero. The values are rotated in float32 and quantised again,
            with new scales as large as the greatest finite value of each needs. What is not finite stays
            so.
        cu_seqlens : array_like of int (n + 1,), optional
            Bounds of packed sequences, as in the call; delta may then be one per sequence (n,).
        role : {"query", "key"}, optional
            What the array is, with `decay`.
        seq_axis : int, optional
            The sequence axis, for this call.
        batch_axis : int or False, optional
            The batch axis, for this call, False if there is none.
        out : array, optional
            Where the result is written: `x` itself, or memory that does not overlap it. With `scales` a
            pair, of values and of scales.

        Returns
        -------
        array, or with `scales` a tuple (array, array)

        Raises
        ------
        TypeError
            If an argument is of the wrong kind, or the embedding has a quirk, or two scales for a pair, which
            do not compose.
        ValueError
            If a value does not fit, or the two embeddings turn different channels.

        Examples
        --------
        >>> import numpy as np
        >>> import rotary
        >>> rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
        >>> k = np.arange(24.0).reshape(3, 8)
        >>> bool(np.allclose(rope.shift(rope(k), 5), rope(k, offset=5)))
        True

        Keys rotated for one context length, read at another:

        >>> ntk = rotary.scaling.DynamicNTK(factor=4, max_position=16)
        >>> short = rotary.RotaryEmbedding(
        ...     8, layout="half", base=100.0, scaling=ntk, context_length=16
        ... )
        >>> long = short.at_length(64)
        >>> bool(np.allclose(short.shift(short(k), 0, to=long, offset=0), long(k)))
        True
        """
        if unknown:
            hints.refuse(self.shift, unknown)
        if scales is not None:
            shift = partial(
                self.shift,
                delta=delta,
                to=to,
                positions=positions,
                offset=offset,
                cu_seqlens=cu_seqlens,
                role=role,
                seq_axis=seq_axis,
                batch_axis=batch_axis,
            )
            return quantized.moved(shift, x, scales, out)
        target: Any = to
        if not isinstance(target, RotaryEmbedding | None):
            msg = f"`to` must be a RotaryEmbedding, got {to!r}"
            raise TypeError(msg)
        if to is None and (positions is not None or offset is not None):
            name = "offset" if positions is None else "positions"
            msg = f"`{name}` must not be given without `to`: a shift does not depend on it"
            raise ValueError(msg)
        return self._rotate_at(
            "shift", (x,), positions, offset, cu_seqlens, role, seq_axis, batch_axis, out, delta, to
        )

    @overload
    def tables(
        self, positions: HostPositions, dtype: DTypeLike = ..., *, role: Role | None = ...
    ) -> tuple[FloatArray, FloatArray]: ...

    @overload
    def tables(
        self, positions: ArrayT, dtype: DTypeLike = ..., *, role: Role | None = ...
    ) -> tuple[ArrayT, ArrayT]: ...

    @hints.named
    @compiler.untraced
    def tables(
        self, positions: PositionsLike, dtype: DTypeLike = "float32", *, role: Role | None = None
    ) -> tuple[Array, Array]:
        """Return cosine and sine of the angles, attention factor included.

        Parameters
        ----------
        positions : number or array_like
            Of any shape, after the position axes if frequencies are given for several. Arrays of another
            library give tables of that library.
        dtype : {"float32", "float64"}, default "float32"
        role : {"query", "key"}, optional
            Whose tables, with `decay`.

        Returns
        -------
        cos, sin : array (..., rotary_dim/2)
            Correctly rounded up to 0.501 ulp in float32, within 1 ulp in float64, 2 with an attention
            factor. They are read-only views of the cache, or copies in a library without read-only arrays,
            such as torch. With frequencies per head, an axis of heads comes before the last axis of the
            positions: (B, S) gives (B, H, S, rotary_dim/2), and (S,) gives (1, H, S, rotary_dim/2).
            `rotary.apply_rotary` takes these tables for arrays (B, H, S, D).

        Raises
        ------
        TypeError
            If the embedding has a quirk or two scales for a pair, or `decay` and no `role` is given.

        Examples
        --------
        >>> import rotary
        >>> rope = rotary.RotaryEmbedding(4, layout="half", base=100.0)
        >>> cos, sin = rope.tables([0, 1])
        >>> cos
        array([[1.       , 1.       ],
               [0.5403023, 0.9950042]], dtype=float32)
        """
        self._rotations.check_rotation("tables")
        (own,) = self._rotations.roles(role, 1)
        return lookup.cos_sin(
            self._rotations.passes("call", own).angles[0]._replace(frequencies=self._frequencies),
            positions,
            leading=self._leading,
            dtype=as_table_dtype(dtype),
            limit=self._limit,
        )

    @hints.named
    @compiler.untraced
    def matrix(self, position: PositionsLike, *, role: Role | None = None) -> Float64Array:
        """Return the rotation at one position as a matrix, for reading, teaching and testing.

        Parameters
        ----------
        position : number
            Or one per position axis, where frequencies are given for several.
        role : {"query", "key"}, optional
            Whose matrix, with `decay`.

        Returns
        -------
        float64 array (head_dim, head_dim)
            ``matrix @ x`` is x rotated, read in `layout` and written in `output_layout`; (heads,
            head_dim, head_dim) where frequencies are given per head.

        Examples
        --------
        >>> import rotary
        >>> rotary.RotaryEmbedding(2, layout="half", base=10_000.0).matrix(1).round(4)
        array([[ 0.5403, -0.8415],
               [ 0.8415,  0.5403]])
        """
        place = as_positions(position, name="position")
        shape = (self._frequencies.axes,) if self._leading else ()
        if place.shape != shape:
            msg = f"`position` must have shape {shape}, got {place.shape}"
            raise ValueError(msg)
        # Each channel alone, all at one position: what it becomes is its column.
        heads, width = self._frequencies.heads, self.head_dim
        channels = np.broadcast_to(np.eye(width), (1, heads, width, width))
        rows = np.repeat(place[..., None], width, axis=-1)
        turned = self(channels, positions=rows, seq_axis=-2, batch_axis=0, role=role)[0]
        columns: Float64Array = turned.transpose(0, 2, 1) + 0.0  # no negative zeros
        return columns if heads > 1 else columns[0]


def _window(head_dim: Any, rotary_dim: Any, rotary_start: Any) -> tuple[int, int]:
    """Return first channel and width of the rotated window, checked against the head."""
    width = as_positive_integer(head_dim, "head_dim")
    start = as_integer(rotary_start, "rotary_start")
    if not 0 <= start < width:
        msg = f"`rotary_start` must be one of the {width} channels, from 0 on, got {start}"
        raise ValueError(msg)
    if rotary_dim is None:
        if (width - start) % 2:
            msg = f"`rotary_dim` must be given, for {width - start} channels do not pair, got None"
            raise ValueError(msg)
        return start, width - start
    rotated = as_rotary_dim(rotary_dim, "rotary_dim")
    if start + rotated > width:
        msg = f"`rotary_dim` must be at most {width - start}, the channels from {start} on, got {rotated}"
        raise ValueError(msg)
    return start, rotated


def _checked_scaling(value: Any) -> Scaling:
    """Return a schedule."""
    if not isinstance(value, Scaling):
        msg = f"`scaling` must be one of rotary.scaling, got {value!r}"
        raise TypeError(msg)
    return value


def _checked_axis(value: Any, name: str) -> int | None:
    """Return an axis that is not the last one, or None."""
    axis = as_axis(value, name)
    if axis == -1:
        msg = f"`{name}` must not be -1, the axis of the channels"
        raise ValueError(msg)
    return axis


def _checked_sections(value: Any, pairs: int) -> Sections:
    """Return sections for so many pairs."""
    sections = as_sections(value)
    if len(sections.axes) != pairs:
        msg = (
            f"`sections` must give each of the {pairs} pairs an axis, got {len(sections.axes)}; the functions "
            "of rotary.sections make that of sizes"
        )
        raise ValueError(msg)
    return sections


def _checked_decay(value: Any) -> XPos | None:
    """Return a decay, or None."""
    if value is not None and not isinstance(value, XPos):
        msg = f"`decay` must be a rotary.XPos, got {value!r}"
        raise TypeError(msg)
    return value


def _check_together(rope: RotaryEmbedding) -> None:
    """Raise where arguments that are each right do not go together."""
    ndim = rope.inv_freq.ndim
    if rope.decay is not None and rope._leading:
        msg = "`decay` must not be given with several position axes: it scales by one"
        raise ValueError(msg)
    if rope.quirk is None:
        return
    layout = QUIRKS[rope.quirk][0]
    if (rope.layout, rope.output_layout) != (layout, layout):
        msg = f"`layout` must be {layout!r} for the quirk {rope.quirk!r}, got {rope.layout!r}"
        raise ValueError(msg)
    if rope.decay is not None or ndim > 1:
        msg = f"`quirk` must not be given with `decay` or W, got {rope.quirk!r}"
        raise ValueError(msg)
    if rope.quirk == "hunyuan_vl" and rope.sections is None:
        msg = "`sections` must be given for the quirk 'hunyuan_vl', which doubles them"
        raise ValueError(msg)
