"""The rotary embedding: an immutable specification with the methods that rotate arrays by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Never, Unpack, overload

from ._lib import compiler, hints, jax_trees
from ._lib.typing import (
    AnyArray,
    Array,
    ArrayT,
    ArrayT2,
    BatchAxisLike,
    CallOptions,
    CuSeqlensLike,
    FrequenciesLike,
    OffsetLike,
    OutLike,
    PositionOptions,
    PositionsLike,
    RealLike,
    SeqAxisLike,
)
from .call import differentiation, plans, quantized, torch_graphs
from .decay import Role
from .explain import explanation
from .norm import RMSNorm
from .specification import Specification

__all__ = ["RotaryEmbedding"]


class RotateOptions(CallOptions, total=False):
    """The keyword arguments of a call of `RotaryEmbedding`."""

    norm: RMSNorm | None


class ShiftOptions(PositionOptions, total=False):
    """The keyword arguments of `RotaryEmbedding.shift` on which the type of its result does not depend."""

    to: RotaryEmbedding | None


@jax_trees.static
@dataclass(frozen=True, init=False, repr=False, eq=False)
class RotaryEmbedding(Specification):
    """A rotary position embedding: it rotates channel pairs by angles that are linear in position.

    Every channel pair ``(a, b)`` becomes ``A * (a cos - b sin, b cos + a sin)``. The angle of pair i at position p is
    ``p * inv_freq[i]``, and A is the attention factor.

    Parameters
    ----------
    head_dim : int
        Number of channels of the arrays: the size of their last axis.
    layout : {"half", "interleaved"}
        The channel pairs: ``(i, i + rotary_dim/2)`` or ``(2i, 2i + 1)``. There is no default, because a wrong
        layout raises no error. "Which layout is my checkpoint" in the documentation tells how to find out.
    base : float
        Base of the frequencies, ``inv_freq[i] = base ** (-2i / rotary_dim)`` before scaling. Required
        unless the scaling itself gives the frequencies; such a scaling does not read it.
    scaling : Scaling, default `rotary.scaling.Default()`
        Gives the frequencies and the attention factor.
    rotary_dim : int, optional
        Number of rotated channels, even. By default, all from `rotary_start` on. The others stay unchanged.
    rotary_start : int, default 0
        The first rotated channel.
    context_length : int, optional
        Positions are 0 .. context_length - 1. Scalings that depend on it require it, and positions beyond it then
        raise an error. Other scalings do not read it.
    output_layout : {"half", "interleaved"}, optional
        Layout of the result, `layout` by default.
    sections : Sections or array_like of int (rotary_dim/2,), optional
        For several position axes, as of images and video: the axis that each channel pair uses, as the functions of
        `rotary.sections` return it, or the number of the axis for each pair. The first axis of positions is then
        that of the position axes.
    decay : XPos, optional
        Multiplies queries by a scale that depends on the position, and keys by its inverse.
    quirk : {"vjepa2", "hunyuan_vl"}, optional
        Reproduce a computation that a checkpoint was trained with and that is no rotation. With "vjepa2", angles are
        ordered as in the half layout but applied to interleaved pairs, separately on each position axis. With
        "hunyuan_vl", the port in transformers, sections are doubled over the full width, so that the two channels
        of a pair use different axes. `inverse`, `shift` and `tables` then raise an error.
    seq_axis : int, optional
        The sequence axis of the arrays: -2 for (B, H, S, D), -3 for (B, S, H, D), 0 for (S, H, D). It must
        be given for arrays of three and more axes, here or in the call. It does not apply to packed arrays, nor to
        arrays of two axes, (S, D), whose sequence is axis 0.
    batch_axis : int or False, optional
        The batch axis of the arrays, False if there is none. By default it is axis 0, or axis 1 if the
        sequence is axis 0. An array of three axes has a batch only if its sequence is axis 1, as in
        (B, S, D): (S, H, D), the shape of packed tokens, has heads instead. An array of two axes has none.
        The batch matters only to positions and offsets with one entry per batch element.

    Attributes
    ----------
    head_dim, layout, base, scaling, rotary_dim, rotary_start, context_length, output_layout, sections
        The arguments, with defaults filled in.
    decay, quirk, seq_axis, batch_axis
        The arguments as given.
    inv_freq
    attention_factor
    softmax_factor

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or `base` or `context_length` is needed and missing.
    ValueError
        If a value does not fit. The message names the argument.

    See Also
    --------
    rotary.apply_rotary : rotation by given tables of cosine and sine.

    Notes
    -----
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021 (arXiv:2104.09864).

    Angles are exact for every int64 position and every float64 position below ``2**63`` in size. They do not depend
    on the dtype of the array. For traced integer positions, cosine and sine are within 1e-6. Angles of traced float
    positions have the accuracy of their dtype.

    float16, bfloat16 and float32 arrays are computed in float32 and rounded once, float64 arrays in float64. NumPy
    arrays are not copied, whatever their strides, unless they are byte-swapped or their last axis is not contiguous.
    Complex arrays have one channel per pair, are multiplied by ``A exp(i angle)``, and have no layout. `head_dim`,
    `rotary_dim` and `rotary_start` count two channels for each of theirs.

    Embeddings are immutable, hashable and picklable, and equal if all their arguments are. Threads may share them.

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
        """Return the value and the origin of every argument and of every number that follows, one per line.

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

    _rotate_at = compiler.untraced(plans.rotate, instead=torch_graphs.rotate_in_graph)
    _gradients = compiler.untraced(differentiation.gradients)

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
        inv_freq: FrequenciesLike | None = None,
        **unknown: Never,
    ) -> Array | tuple[Array, ...]:
        """Rotate arrays, such as query and key, by the angles of their positions.

        Parameters
        ----------
        *arrays : array
            With `head_dim` channels on the last axis, or ``head_dim / 2`` complex channels. All have the same
            sequence length; other axes may differ. Each has the dtype float16, bfloat16, float32, float64,
            complex64 or complex128.
        positions : array_like (S,), (1, S), (B, S) or with one axis less than the arrays, optional
            Integers within int64, or finite floats below ``2**63`` in size, which count by their exact float64
            value; by default 0 .. S - 1. float16 positions from 2048 on and bfloat16 positions from 256 on raise an
            error, because the dtype cannot hold consecutive ones. Positions with one axis less than the arrays have
            the axes of the arrays without the channels, in the same order. Each of their sizes may be 1, except that
            of the sequence. So positions per head are (B, H, S) for (B, H, S, D) and (S, H) for (S, H, D). A shape
            that also fits (B, S) means (B, S). If frequencies are given for several position axes, the first axis of
            positions is that of the position axes. Positions on the GPU of the arrays are never read by the host. A
            position that would raise an error gives NaN there. Lists and NumPy arrays are uploaded asynchronously,
            which a CUDA graph cannot capture.
        offset : number or array_like (B,), optional
            First position of every sequence, or of each sequence of the batch, by default 0. With `cu_seqlens`, there
            may be one per packed sequence (n,). A float offset is added to 0 .. S - 1 in float64.
        cu_seqlens : array_like of int (n + 1,), optional
            Bounds of n packed sequences, from 0 to the total length. Positions restart at each sequence. The sequence
            axis is then 0 unless the call names another, as in (total, H, D), and there is no batch axis.
        role : {"query", "key"}, optional
            Whether the arrays are queries or keys, with `decay`. By default two arrays are query and key.
        seq_axis : int or tuple of (int or None), optional
            The sequence axis, for this call. A tuple has one entry for each array, and None means the embedding's
            axis. One negative axis for arrays of different rank raises an error.
        batch_axis : int, False or tuple of these or None, optional
            The batch axis, for this call; False if there is none. A tuple has one entry for each array.
        out : array or tuple of array, optional
            Receives the results: the inputs themselves, or arrays that overlap no input.
        norm : RMSNorm, optional
            How arrays are normed, before or after they are rotated.
        inv_freq : array_like (rotary_dim/2,), (axes, rotary_dim/2) or (heads, axes, rotary_dim/2), optional
            Frequencies of this call in place of the embedding's, in radians per position, such as learned ones.
            Gradients of torch, JAX and MLX reach them. Positions lead with the axes if there are two or three
            dimensions, even for one axis; with `sections` or `decay` there is only (rotary_dim/2,). The attention
            factor stays the embedding's. Known numbers are used as the exact float64 they are. Traced or learned
            ones are multiplied in the widest floating dtype of their library, and one that would be refused makes
            the rows of its head NaN.

        Returns
        -------
        array, or tuple of array for several
            The rotated arrays, of the same library, shape and dtype; `out` if it is given.

        Raises
        ------
        TypeError
            If an argument is of the wrong kind, such as an array of integers or an immutable `out`.
        ValueError
            If shapes or values do not fit, or an array of three or more axes has no `seq_axis`. No array is then
            changed.

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
            inv_freq=inv_freq,
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
        inv_freq: FrequenciesLike | None = None,
        **unknown: Never,
    ) -> Array | tuple[Array, ...]:
        """Apply the inverse rotation, including the inverse attention factor.

        Parameters are those of the call to invert. The input has `output_layout` and the result has `layout`.

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
            "inverse",
            arrays,
            positions,
            offset,
            cu_seqlens,
            role,
            seq_axis,
            batch_axis,
            out,
            inv_freq=inv_freq,
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

    @overload
    def vjp(
        self,
        *arrays: AnyArray,
        wrt: Sequence[str],
        primals: AnyArray | Sequence[AnyArray] | None = None,
        **options: Unpack[CallOptions],
    ) -> tuple[AnyArray | tuple[AnyArray, ...], ...]: ...

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
        inv_freq: FrequenciesLike | None = None,
        primals: AnyArray | Sequence[AnyArray] | None = None,
        wrt: Sequence[str] | None = None,
        **unknown: Never,
    ) -> Array | tuple[Array, ...]:
        """Return the vector-Jacobian product: the gradient with respect to what was rotated, or also to its angles.

        Other parameters are those of the call that is differentiated. The rotation of arrays is linear, so the
        gradient by them is its transpose, attention factor included. It reads `output_layout` and writes `layout`.
        A complex array is multiplied by the conjugate.

        Parameters
        ----------
        *arrays : array
            The gradients of the results, one for each array of the call.
        positions, offset, cu_seqlens, role, seq_axis, batch_axis : optional
            As in the call.
        out : array or tuple of array, optional
            Where the gradients of the arrays are written.
        inv_freq : array_like, optional
            As in the call.
        primals : array or sequence of array, optional
            What was rotated, one for each gradient. Needed for other gradients than that by x.
        wrt : sequence of {"x", "positions", "inv_freq"}, optional
            By what is differentiated, each name once. "positions" needs `positions`; "inv_freq" means `inv_freq`,
            or the embedding's own frequencies if the call gives none.

        Returns
        -------
        array, or tuple of array for several
            With `wrt` a tuple with one entry for each name: "x" is an array, or a tuple for several arrays. The
            others have the shapes of `positions` and `inv_freq`, are summed over all arrays, and are float64, or
            the widest floating dtype of a library that has none.

        Raises
        ------
        TypeError
            If `wrt` is a string, or names more than "x" and `primals` are missing, or "positions" and no positions
            are given, or the two channels of a pair have angles or scales of their own.
        ValueError
            If `wrt` has another name, or `primals` do not fit the gradients.

        Notes
        -----
        The angle of pair i at position p is the sum of ``p[a] * W[a, i]`` over the axes a. The gradient by the angle
        is the cross product of x and dx, ``g = x[0] * dx[1] - x[1] * dx[0]``, because both are rotated alike. So
        that by p[a] is the sum of ``W[a, i] * g`` over the pairs, and that by W[a, i] is the sum of ``p[a] * g``
        over the tokens. Products and sums are float64, and any number of threads gives the same bits.

        Examples
        --------
        >>> import numpy as np
        >>> import rotary
        >>> rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
        >>> x, dy = np.ones((3, 8)), np.arange(24.0).reshape(3, 8)
        >>> bool(np.isclose((rope(x) * dy).sum(), (x * rope.vjp(dy)).sum()))
        True
        >>> dx, df = rope.vjp(dy, primals=x, wrt=("x", "inv_freq"))
        >>> step = np.array([0.0, 1e-6, 0.0, 0.0])
        >>> moved = (rope(x, inv_freq=rope.inv_freq + step) - rope(x)) / 1e-6
        >>> bool(np.isclose((moved * dy).sum(), df[1], rtol=1e-4))
        True
        """
        if unknown:
            hints.refuse(self.vjp, unknown)
        if wrt is not None:
            where = positions, offset, cu_seqlens, None, inv_freq
            return self._gradients(arrays, primals, wrt, where, role, seq_axis, batch_axis, out)
        return self._rotate_at(
            "vjp",
            arrays,
            positions,
            offset,
            cu_seqlens,
            role,
            seq_axis,
            batch_axis,
            out,
            inv_freq=inv_freq,
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
        """Shift rotated arrays, such as cached keys, by `delta` positions, or to other frequencies.

        An array rotated at position p becomes the array rotated at ``p + delta``, by this embedding or by `to`. The
        attention factor is not applied a second time. Input and result have `output_layout`.

        Parameters
        ----------
        x : array
            A result of the embedding.
        delta : number or array_like (B,), (1, S), (B, S) or with one axis less than x
            Added to the positions: integers or floats of either sign. A one-dimensional array is (B,) if `x` has a
            batch, and (S,) if it has none: with a batch, one entry per token is (1, S). Other shapes are
            those of positions. If frequencies are given for several position axes, the first axis of an array is
            that of the position axes.
        to : RotaryEmbedding, optional
            Gives the frequencies and the attention factor of the result, for example this embedding at another
            context length. The angle, ``(p + delta) * new - p * old``, is reduced exactly. It depends on p, so the
            positions of `x` must be given.
        positions, offset : optional
            The positions of `x`, as in the call. `to` needs one of the two.
        scales : number or array, optional
            Scales of a cache quantized to int4, int8 or eight-bit floats, whose values are ``x * scales``: a number,
            or a floating array with the same number of axes, of size 1 along those that share a scale. An empty slot
            may have the scale 0; its values stay zero. Values are rotated in float32 and quantized again. The
            largest finite value that shares a new scale decides it. Non-finite values are kept.
        cu_seqlens : array_like of int (n + 1,), optional
            Bounds of packed sequences, as in the call; delta may then be one per sequence (n,).
        role : {"query", "key"}, optional
            Whether the array holds queries or keys, with `decay`.
        seq_axis : int, optional
            The sequence axis, for this call.
        batch_axis : int or False, optional
            The batch axis, for this call; False if there is none.
        out : array, optional
            Receives the result: `x` itself, or an array that does not overlap it. With `scales`, a pair (values,
            scales).

        Returns
        -------
        array, or with `scales` a tuple (array, array)

        Raises
        ------
        TypeError
            If an argument is of the wrong kind. If the embedding has a quirk, or a decay with different scales for
            the two channels of a pair, because these do not compose.
        ValueError
            If a value does not fit, or the two embeddings rotate different channels.

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
            return quantized.shift_quantized(shift, x, scales, out)
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
