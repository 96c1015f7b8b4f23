"""The rotary embedding: an immutable specification with the methods that rotate arrays by it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Never, Unpack, overload

from ._lib import compiler, hints
from ._lib.typing import (
    AnyArray,
    Array,
    ArrayT,
    ArrayT2,
    BatchAxisLike,
    CallOptions,
    CuSeqlensLike,
    OffsetLike,
    OutLike,
    PositionsLike,
    RealLike,
    SeqAxisLike,
)
from .call import plans, quantized, torch_graphs
from .decay import Role
from .explain import explanation
from .norm import RMSNorm
from .specification import Specification

__all__ = ["RotaryEmbedding"]


class RotateOptions(CallOptions, total=False):
    """The keyword arguments of a call of `RotaryEmbedding`."""

    norm: RMSNorm | None


class ShiftOptions(CallOptions, total=False):
    """The keyword arguments of `RotaryEmbedding.shift` that do not decide what it returns."""

    to: RotaryEmbedding | None


@dataclass(frozen=True, init=False, repr=False, eq=False)
class RotaryEmbedding(Specification):
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
        return explanation(self)

    # --------------------------------------------------------------------------------------------
    # The verbs.

    _rotate_at = compiler.untraced(plans.rotate, instead=torch_graphs.traced)

    @overload
    def __call__(self, x: ArrayT, /, **options: Unpack[RotateOptions]) -> ArrayT: ...

    @overload
    def __call__(
        self, x: ArrayT, y: ArrayT2, /, **options: Unpack[RotateOptions]
    ) -> tuple[ArrayT, ArrayT2]: ...

    @overload
    def __call__(
        self, x: ArrayT, y: ArrayT, z: ArrayT, /, *more: ArrayT, **options: Unpack[RotateOptions]
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
        norm: RMSNorm | None = None,
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
        norm : RMSNorm, optional
            How arrays are normed, before or after they are rotated.

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
            "call",
            arrays,
            positions,
            offset,
            cu_seqlens,
            role,
            seq_axis,
            batch_axis,
            out,
            norm=norm,
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
