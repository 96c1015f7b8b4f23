"""Positions for long contexts, with distances that are limited to those of the training."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.checks import as_positive_float, as_positive_integer
from rotary._lib.numbers import Positions, as_positions, check_int64_range, first_bad
from rotary._lib.typing import Int64Array, PositionsLike

__all__ = ["DualChunk", "NearFar", "dual_chunk", "rerope", "self_extend"]


class DualChunk(NamedTuple):
    """Positions of keys, and three sets of positions of queries, for keys in the same, previous and earlier chunks.

    Parameters
    ----------
    key : int64 array
        Positions of keys, for all queries.
    intra : int64 array
        Positions of queries, for keys in the same chunk.
    successive : int64 array
        Positions of queries, for keys in the previous chunk.
    inter : int64 array
        Positions of queries, for keys in all earlier chunks.
    successive_critical, inter_critical : int64 array
        `successive` and `inter` without an upper bound. Sparse attention uses them to select keys.

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
    """Positions of queries and keys for distances within a window, and for distances beyond it.

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
    to keys in the previous chunk are exact for the first `local` + 1 queries of a chunk, and at most `chunk` for
    the other queries. For keys in earlier chunks, all queries share one position.

    Parameters
    ----------
    positions : array or sequence of int
        Positions in the whole sequence, not negative, of any shape.
    chunk : int
        The largest distance (``chunk_size``).
    local : int
        The number of tokens of `chunk` that are reserved for attention to the previous chunk
        (``local_size``): at least 1, below `chunk`.

    Returns
    -------
    DualChunk
        Six int64 arrays of the shape of `positions`. With position p and c as above: `key` and
        `intra` are ``p % c``; `successive` is ``min(p % c + c, chunk)``; `inter` is
        ``min(2 * c - 1, chunk)``; `successive_critical` is ``p % c + c``; `inter_critical` is
        ``p % c + chunk``.

    Raises
    ------
    TypeError
        If an argument or a position is not an integer.
    ValueError
        If a position is negative, `chunk` and `local` do not satisfy ``0 < local < chunk``, or `chunk` is
        above 2**62.

    Notes
    -----
    A query in chunk ``p // c = n`` is rotated to `intra` for keys in chunk n, to `successive` for keys in chunk
    n - 1, and to `inter` for earlier keys. All keys are rotated to `key`. The softmax is computed over the scores
    of all keys together. Keys can be cached, because `key` does not depend on the query.

    Source: arXiv:2402.17463, as in the authors' ChunkLlama and in ``DualChunkRotaryEmbedding`` of vLLM and
    SGLang, in which the largest distance is `chunk`. In the paper, it is one less.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(7)
    >>> chunked = dual_chunk(p, chunk=4, local=1)
    >>> chunk = p // 3
    >>> chunks_between = chunk[:, None] - chunk
    >>> query = np.select(
    ...     [chunks_between == 0, chunks_between == 1],
    ...     [chunked.intra[:, None], chunked.successive[:, None]],
    ...     chunked.inter[:, None],
    ... )
    >>> np.tril(query - chunked.key)  # the distance of each query and key
    array([[0, 0, 0, 0, 0, 0, 0],
           [1, 0, 0, 0, 0, 0, 0],
           [2, 1, 0, 0, 0, 0, 0],
           [3, 2, 1, 0, 0, 0, 0],
           [4, 3, 2, 1, 0, 0, 0],
           [4, 3, 2, 2, 1, 0, 0],
           [4, 3, 2, 3, 2, 1, 0]])

    Scores are selected in the same way: scores of ``rope(q, positions=chunked.intra)`` if `chunks_between` is 0,
    scores of `successive` if it is 1, and scores of `inter` otherwise.
    """
    largest, reserved = as_positive_integer(chunk, "chunk"), as_positive_integer(local, "local")
    check_int64_range(2 * largest - 1, "chunk", suffix=" as the largest position")
    if reserved >= largest:
        msg = f"`local` must be below `chunk` = {largest}, got {reserved}"
        raise ValueError(msg)
    length = largest - reserved
    in_chunk = _non_negative(positions) % length
    return DualChunk(
        key=in_chunk,
        intra=in_chunk.copy(),
        successive=np.minimum(in_chunk + length, largest),
        inter=np.full_like(in_chunk, min(2 * length - 1, largest)),
        successive_critical=in_chunk + length,
        inter_critical=in_chunk + largest,
    )


def self_extend(positions: PositionsLike, *, group: int, window: int) -> NearFar:
    """Return the positions of Self-Extend, exact within a window and shared by groups of tokens beyond it.

    Parameters
    ----------
    positions : array or sequence of int
        Positions in the whole sequence, not negative, of any shape.
    group : int
        The number G of adjacent tokens that share a position beyond the window.
    window : int
        The size W of the window. Distances below W are within the window.

    Returns
    -------
    NearFar
        Three int64 arrays of the shape of `positions`: `near` is p, `far_query` is
        ``p // G + W - W // G``, `far_key` is ``p // G``.

    Raises
    ------
    TypeError
        If an argument or a position is not an integer.
    ValueError
        If a position is negative, or `group` or `window` is below 1 or outside int64.

    Notes
    -----
    Scores are computed for both sets of positions, and selected before masking and softmax:
    ``np.where(distance < window, near, far)``.

    Source: arXiv:2401.01325. With the shift W - W // G, exact and shared distances are equal at the distance W.
    LongLM of the authors uses this shift for decoding, but the fraction W - W / G for a prompt. The two are equal
    if G divides W, which is recommended.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(8)
    >>> extended = self_extend(p, group=2, window=4)
    >>> distance = p[:, None] - p
    >>> far = extended.far_query[:, None] - extended.far_key
    >>> np.where(distance < 4, distance, far)[-1]  # the distance of each key to the last query
    array([5, 5, 4, 4, 3, 2, 1, 0])
    """
    per_group, size = _positive_int64(group, "group"), _positive_int64(window, "window")
    near = _non_negative(positions)
    shared = near // per_group
    return NearFar(near, shared + (size - size // per_group), shared)


def rerope(positions: PositionsLike, *, window: int, factor: float | None = None) -> NearFar:
    """Return the positions of ReRoPE: distances are exact within a window, and grow slower or not at all beyond it.

    Parameters
    ----------
    positions : array or sequence of int
        Positions in the whole sequence, not negative, of any shape.
    window : int
        The size w of the window. Distances below w are within the window.
    factor : float, optional
        The factor k of Leaky ReRoPE, 1 or more: beyond the window, distances grow k times slower. By default
        they do not grow.

    Returns
    -------
    NearFar
        Three arrays of the shape of `positions`. `near` is p, int64. Without `factor`, `far_query` is w and
        `far_key` is 0, both int64, so a distance n becomes ``min(n, w)``. With `factor`, `far_query` is
        ``(p + w * (k - 1)) / k`` and `far_key` is ``p / k``, both float64 and correctly rounded. Beyond the
        window, a distance n then becomes ``w + (n - w) / k``.

    Raises
    ------
    TypeError
        If a position or `window` is not an integer, or `factor` is not a real number.
    ValueError
        If a position is negative, `window` is below 1 or outside int64, or `factor` is below 1.

    Notes
    -----
    Scores are computed for both sets of positions, and selected before masking and softmax:
    ``np.where(distance < window, near, far)``. Without `factor`, far keys are not rotated.

    Source: kexue.fm/archives/9708, and bojone/rerope of the same author. The far positions of both forms are
    derived from the distances, so keys do not depend on the query. The author's code also scales queries by
    ``log(p + 1) / log(trained length)``, but at least 1. These positions do not include that factor.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(8)
    >>> leaky = rerope(p, window=4, factor=2)
    >>> distance = p[:, None] - p
    >>> far = leaky.far_query[:, None] - leaky.far_key
    >>> np.where(distance < 4, distance, far)[-1]  # the distance of each key to the last query
    array([5.5, 5. , 4.5, 4. , 3. , 2. , 1. , 0. ])
    """
    size = _positive_int64(window, "window")
    near = _non_negative(positions)
    if factor is None:
        return NearFar(near, np.full_like(near, size), np.zeros_like(near))
    exact = Fraction(as_positive_float(factor, "factor"))
    if exact < 1:
        msg = f"`factor` must be at least 1, got {factor!r}"
        raise ValueError(msg)
    return NearFar(near, _far_positions(near, exact, size), _far_positions(near, exact, 0))


def _far_positions(near: Int64Array, factor: Fraction, window: int) -> Positions:
    """Return ``(p + window * (factor - 1)) / factor``, rounded once."""
    numerator, denominator = factor.numerator, factor.denominator
    shift = window * (numerator - denominator)
    # Python divides integers of any size with one rounding.
    values = [(position * denominator + shift) / numerator for position in near.ravel().tolist()]
    return np.array(values, np.float64).reshape(near.shape)


def _positive_int64(value: Any, name: str) -> int:
    number = as_positive_integer(value, name)
    check_int64_range(number, name)
    return number


def _non_negative(positions: Any) -> Int64Array:
    """Return a copy of positions as int64; raise unless they are integers and not negative."""
    values = as_positions(positions)
    if values.dtype != np.int64 and values.size:
        msg = f"`positions` must be integers, got {values.dtype}"
        raise TypeError(msg)
    if (values < 0).any():
        msg = f"`positions` must not be negative, got {first_bad(values, values < 0)}"
        raise ValueError(msg)
    return values.astype(np.int64)
