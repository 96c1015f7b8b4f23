"""Positions that keep distances in long contexts within those of the training."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.checks import as_positive_float, as_positive_integer
from rotary._lib.numbers import Positions, as_positions, check_int64_range, first_bad
from rotary._lib.typing import Int64Array, PositionsLike

__all__ = ["DualChunk", "NearFar", "dual_chunk", "rerope", "self_extend"]


class DualChunk(NamedTuple):
    """The positions of keys, and of queries for each group of chunks that the keys may be in.

    Parameters
    ----------
    key : int64 array
        Positions of keys, for all queries.
    intra : int64 array
        Positions of queries, for keys of the same chunk.
    successive : int64 array
        Positions of queries, for keys of the chunk before.
    inter : int64 array
        Positions of queries, for keys of all earlier chunks.
    successive_critical, inter_critical : int64 array
        `successive` and `inter` without a bound, for the scores by which sparse attention selects keys.

    Examples
    --------
    >>> dual_chunk([0, 5], chunk=4, local=1).intra
    array([0, 2])
    """

    key: Int64Array
    intra: Int64Array
    successive: Int64Array
    inter: Int64Array
    successive_critical: Int64Array
    inter_critical: Int64Array


class NearFar(NamedTuple):
    """The positions of queries and keys for pairs within a window, and for pairs beyond it.

    Parameters
    ----------
    near : array
        Positions of queries and keys whose distance is below the window.
    far_query, far_key : array
        Positions of queries and of keys whose distance is the window or larger.

    Examples
    --------
    >>> rerope([0, 7], window=4)
    NearFar(near=array([0, 7]), far_query=array([4, 4]), far_key=array([0, 0]))
    """

    near: Positions
    far_query: Positions
    far_key: Positions


def dual_chunk(positions: PositionsLike, *, chunk: int, local: int) -> DualChunk:
    """Return the positions of dual chunk attention, in which no distance is larger than a chunk.

    The sequence is split into chunks of ``c = chunk - local`` tokens. Distances within a chunk are exact. Distances
    to keys of the chunk before are exact for the first `local` + 1 queries of a chunk, and bounded by `chunk` for
    the others. For keys of earlier chunks, all queries have one position.

    Parameters
    ----------
    positions : array or sequence of int
        Positions in the whole sequence, not negative, of any shape.
    chunk : int
        The largest distance (``chunk_size``).
    local : int
        The part of `chunk` that is kept for the chunk before (``local_size``): at least 1, below `chunk`.

    Returns
    -------
    DualChunk
        Six int64 arrays of the shape of `positions`. With position p and c as above: `key` and
        `intra` are ``p % c``; `successive` is ``min(p % c + c, chunk)``; `inter` is
        ``min(2 * c - 1, chunk)``; the critical ones are ``p % c + c`` and ``p % c + chunk``.

    Raises
    ------
    TypeError
        If anything is not an integer.
    ValueError
        If a position is negative, `chunk` and `local` are not ``0 < local < chunk``, or `chunk` is above
        2**62.

    Notes
    -----
    A query of chunk ``p // c = n`` is rotated by `intra` for keys of chunk n, by `successive` for keys of chunk
    n - 1, and by `inter` for earlier keys. All keys are rotated by `key`, and one softmax covers the whole row.
    Keys can be cached, because `key` does not depend on the query.

    Source: arXiv:2402.17463, as in the authors' ChunkLlama and in vLLM's and SGLang's
    ``DualChunkRotaryEmbedding``, which bound distances by `chunk`; the paper's bound is one less.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(7)
    >>> pairs = dual_chunk(p, chunk=4, local=1)
    >>> chunk = p // 3
    >>> chunks_apart = chunk[:, None] - chunk
    >>> query = np.select(
    ...     [chunks_apart == 0, chunks_apart == 1],
    ...     [pairs.intra[:, None], pairs.successive[:, None]],
    ...     pairs.inter[:, None],
    ... )
    >>> np.tril(query - pairs.key)  # the distance of each query and key
    array([[0, 0, 0, 0, 0, 0, 0],
           [1, 0, 0, 0, 0, 0, 0],
           [2, 1, 0, 0, 0, 0, 0],
           [3, 2, 1, 0, 0, 0, 0],
           [4, 3, 2, 1, 0, 0, 0],
           [4, 3, 2, 2, 1, 0, 0],
           [4, 3, 2, 3, 2, 1, 0]])

    Scores are selected in the same way: those of ``rope(q, positions=pairs.intra)`` if `chunks_apart` is 0, those
    of `successive` if it is 1, and those of `inter` otherwise.
    """
    size, kept = as_positive_integer(chunk, "chunk"), as_positive_integer(local, "local")
    check_int64_range(2 * size - 1, "chunk", suffix=" as the farthest")
    if kept >= size:
        msg = f"`local` must be below `chunk` = {size}, got {kept}"
        raise ValueError(msg)
    step = size - kept
    within = _non_negative(positions) % step
    return DualChunk(
        key=within,
        intra=within.copy(),
        successive=np.minimum(within + step, size),
        inter=np.full_like(within, min(2 * step - 1, size)),
        successive_critical=within + step,
        inter_critical=within + size,
    )


def self_extend(positions: PositionsLike, *, group: int, window: int) -> NearFar:
    """Return the positions of Self-Extend, which are exact in a window and shared by groups beyond it.

    Parameters
    ----------
    positions : array or sequence of int
        Positions in the whole sequence, not negative, of any shape.
    group : int
        The number G of neighbours that share a position beyond the window.
    window : int
        The smallest distance W that is beyond the window.

    Returns
    -------
    NearFar
        Three int64 arrays of the shape of `positions`: `near` is p, `far_query` is
        ``p // G + W - W // G``, `far_key` is ``p // G``.

    Raises
    ------
    TypeError
        If anything is not an integer.
    ValueError
        If a position is negative, or `group` or `window` is below 1 or outside int64.

    Notes
    -----
    Scores are computed for both sets of positions, and selected before masking and softmax:
    ``np.where(distance < window, near, far)``.

    Source: arXiv:2401.01325. The shift W - W // G makes the two kinds of distance equal at the window. The
    authors' LongLM uses this shift for decoding, but the fraction W - W / G for a prompt. The two are equal if G
    divides W, which is recommended.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(8)
    >>> pairs = self_extend(p, group=2, window=4)
    >>> distance = p[:, None] - p
    >>> far = pairs.far_query[:, None] - pairs.far_key
    >>> np.where(distance < 4, distance, far)[-1]  # the distance of each key to the last query
    array([5, 5, 4, 4, 3, 2, 1, 0])
    """
    size, edge = _extent(group, "group"), _extent(window, "window")
    near = _non_negative(positions)
    grouped = near // size
    return NearFar(near, grouped + (edge - edge // size), grouped)


def rerope(positions: PositionsLike, *, window: int, factor: float | None = None) -> NearFar:
    """Return the positions of ReRoPE, whose distances are exact in a window and grow slower or not at all beyond it.

    Parameters
    ----------
    positions : array or sequence of int
        Positions in the whole sequence, not negative, of any shape.
    window : int
        The smallest distance w that is beyond the window.
    factor : float, optional
        The factor k of Leaky ReRoPE, 1 or more: beyond the window, distances grow k times slower. By default
        they do not grow.

    Returns
    -------
    NearFar
        Three arrays of the shape of `positions`. `near` is p, int64. Without `factor`, `far_query`
        is w and `far_key` 0, int64: a distance n becomes ``min(n, w)``. With it they are
        ``(p + w * (k - 1)) / k`` and ``p / k``, float64, each correctly rounded: beyond the window a
        distance n becomes ``w + (n - w) / k``.

    Raises
    ------
    TypeError
        If a position or `window` is not an integer, or `factor` not a real number.
    ValueError
        If a position is negative, `window` is below 1 or outside int64, or `factor` below 1.

    Notes
    -----
    Scores are computed for both sets of positions, and selected before masking and softmax:
    ``np.where(distance < window, near, far)``. Without `factor`, far keys are not rotated.

    Source: kexue.fm/archives/9708, and the author's bojone/rerope. The far positions of both forms
    follow from the distances, such that keys do not depend on the query. That code also scales
    queries by ``log(p + 1) / log(trained length)``, at least 1, which these positions do not include.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(8)
    >>> pairs = rerope(p, window=4, factor=2)
    >>> distance = p[:, None] - p
    >>> far = pairs.far_query[:, None] - pairs.far_key
    >>> np.where(distance < 4, distance, far)[-1]  # the distance of each key to the last query
    array([5.5, 5. , 4.5, 4. , 3. , 2. , 1. , 0. ])
    """
    edge = _extent(window, "window")
    near = _non_negative(positions)
    if factor is None:
        return NearFar(near, np.full_like(near, edge), np.zeros_like(near))
    slower = Fraction(as_positive_float(factor, "factor"))
    if slower < 1:
        msg = f"`factor` must be at least 1, got {factor!r}"
        raise ValueError(msg)
    return NearFar(near, _slowed(near, slower, edge), _slowed(near, slower, 0))


def _slowed(near: Int64Array, factor: Fraction, edge: int) -> Positions:
    """Return ``(p + edge * (factor - 1)) / factor``, rounded once."""
    times, parts = factor.numerator, factor.denominator
    shift = edge * (times - parts)
    # Python divides integers of any size with one rounding.
    values = [(position * parts + shift) / times for position in near.ravel().tolist()]
    return np.array(values, np.float64).reshape(near.shape)


def _extent(value: Any, name: str) -> int:
    number = as_positive_integer(value, name)
    check_int64_range(number, name)
    return number


def _non_negative(positions: Any) -> Int64Array:
    """Check positions that count from the beginning of a sequence, and return a copy."""
    values = as_positions(positions)
    if values.dtype != np.int64 and values.size:
        msg = f"`positions` must be integers, got {values.dtype}"
        raise TypeError(msg)
    if (values < 0).any():
        msg = f"`positions` must not be negative, got {first_bad(values, values < 0)}"
        raise ValueError(msg)
    return values.astype(np.int64)
