"""Positions that keep distances within what a model was trained on, in longer contexts."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.checks import as_positive_float, as_positive_integer
from rotary._lib.numbers import Positions, as_positions, check_reach, found
from rotary._lib.typing import Int64Array, PositionsLike

__all__ = ["DualChunk", "NearFar", "dual_chunk", "rerope", "self_extend"]


class DualChunk(NamedTuple):
    """The positions of keys, and those of queries towards the keys of each group of chunks.

    Parameters
    ----------
    key : int64 array
        Keys, for all queries.
    intra : int64 array
        Queries towards keys of their own chunk.
    successive : int64 array
        Queries towards keys of the chunk before.
    inter : int64 array
        Queries towards keys of all earlier chunks.
    successive_critical, inter_critical : int64 array
        The same without a bound, for the estimate by which sparse attention chooses keys.

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
    """The positions of queries and keys that are near each other, and of those that are far.

    Parameters
    ----------
    near : array
        Queries and keys less than the window apart.
    far_query, far_key : array
        Queries and keys as far apart as the window, or farther.

    Examples
    --------
    >>> rerope([0, 7], window=4)
    NearFar(near=array([0, 7]), far_query=array([4, 4]), far_key=array([0, 0]))
    """

    near: Positions
    far_query: Positions
    far_key: Positions


def dual_chunk(positions: PositionsLike, *, chunk: int, local: int) -> DualChunk:
    """Give the positions of dual chunk attention: no distance is larger than a chunk.

    The sequence is cut into runs of ``c = chunk - local``. Within a run distances are exact; towards
    the run before they are exact for a query's first `local` + 1 places in its run, and bounded by
    `chunk` after; towards earlier runs every query stands at one place.

    Parameters
    ----------
    positions : array or sequence of int
        Where the rows stand in the whole sequence: not negative, of any shape.
    chunk : int
        The largest distance that is wanted (``chunk_size``).
    local : int
        How much of it is kept for the run before (``local_size``): at least 1, below `chunk`.

    Returns
    -------
    DualChunk
        Six int64 arrays of the shape of `positions`. With p for the position and c as above: `key`
        and `intra` are ``p % c``; `successive` is ``min(p % c + c, chunk)``; `inter` is
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
    A query in run ``p // c = n`` scores the keys of run n by `intra`, those of run n - 1 by
    `successive`, and those before by `inter`, all against `key`, and one softmax goes over the whole
    row. A cache keeps keys as they are: `key` does not depend on the query.

    Source: arXiv:2402.17463, as in the authors' ChunkLlama and in vLLM's and SGLang's
    ``DualChunkRotaryEmbedding``, which bound by `chunk` where the paper bounds by one less.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(7)
    >>> pairs = dual_chunk(p, chunk=4, local=1)
    >>> run = p // 3
    >>> apart = run[:, None] - run
    >>> query = np.select(
    ...     [apart == 0, apart == 1],
    ...     [pairs.intra[:, None], pairs.successive[:, None]],
    ...     pairs.inter[:, None],
    ... )
    >>> np.tril(query - pairs.key)  # the distance that every query sees every key at
    array([[0, 0, 0, 0, 0, 0, 0],
           [1, 0, 0, 0, 0, 0, 0],
           [2, 1, 0, 0, 0, 0, 0],
           [3, 2, 1, 0, 0, 0, 0],
           [4, 3, 2, 1, 0, 0, 0],
           [4, 3, 2, 2, 1, 0, 0],
           [4, 3, 2, 3, 2, 1, 0]])

    Scores are merged in the same way: the scores of ``rope(q, positions=pairs.intra)`` where `apart`
    is 0, of `successive` where it is 1, of `inter` elsewhere.
    """
    size, kept = as_positive_integer(chunk, "chunk"), as_positive_integer(local, "local")
    check_reach(2 * size - 1, "chunk", told=" as the farthest")
    if kept >= size:
        msg = f"`local` must be below `chunk` = {size}, got {kept}"
        raise ValueError(msg)
    run = size - kept
    place = _whole(positions) % run
    return DualChunk(
        key=place,
        intra=place.copy(),
        successive=np.minimum(place + run, size),
        inter=np.full_like(place, min(2 * run - 1, size)),
        successive_critical=place + run,
        inter_critical=place + size,
    )


def self_extend(positions: PositionsLike, *, group: int, window: int) -> NearFar:
    """Give the positions of Self-Extend: exact in a window, by groups of positions beyond it.

    Parameters
    ----------
    positions : array or sequence of int
        Where the rows stand in the whole sequence: not negative, of any shape.
    group : int
        How many neighbours share a position when they are far: G.
    window : int
        From which distance on a key is far: W.

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
    Scores are computed twice, and those of pairs nearer than the window are taken from the first:
    ``np.where(distance < window, near, far)``, before masking and softmax.

    Source: the paper, arXiv:2401.01325, whose shift of W - W // G lets the two kinds of distance meet
    at the window. The authors' LongLM shifts by that when decoding, but by the fraction W - W / G
    when it reads a prompt; the two are equal where G divides W, which is advisable.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(8)
    >>> pairs = self_extend(p, group=2, window=4)
    >>> distance = p[:, None] - p
    >>> far = pairs.far_query[:, None] - pairs.far_key
    >>> np.where(distance < 4, distance, far)[-1]  # how far each key is from the last query
    array([5, 5, 4, 4, 3, 2, 1, 0])
    """
    size, edge = _extent(group, "group"), _extent(window, "window")
    near = _whole(positions)
    grouped = near // size
    return NearFar(near, grouped + (edge - edge // size), grouped)


def rerope(positions: PositionsLike, *, window: int, factor: float | None = None) -> NearFar:
    """Give the positions of ReRoPE: exact in a window, constant or slower beyond it.

    Parameters
    ----------
    positions : array or sequence of int
        Where the rows stand in the whole sequence: not negative, of any shape.
    window : int
        From which distance on a key is far: w.
    factor : float, optional
        How many times slower distances grow beyond the window, 1 or more: k, of Leaky ReRoPE. By
        default they do not grow at all.

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
    Scores are computed twice, and those of pairs nearer than the window are taken from the first:
    ``np.where(distance < window, near, far)``, before masking and softmax. Without `factor` far keys
    are not turned at all.

    Source: kexue.fm/archives/9708, and the author's bojone/rerope; the far positions of both forms
    follow from the distances, split so that keys do not depend on the query. That code also scales
    queries by ``log(p + 1) / log(trained length)``, at least 1, which is no matter of positions.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.arange(8)
    >>> pairs = rerope(p, window=4, factor=2)
    >>> distance = p[:, None] - p
    >>> far = pairs.far_query[:, None] - pairs.far_key
    >>> np.where(distance < 4, distance, far)[-1]  # how far each key is from the last query
    array([5.5, 5. , 4.5, 4. , 3. , 2. , 1. , 0. ])
    """
    edge = _extent(window, "window")
    near = _whole(positions)
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
    values = [(place * parts + shift) / times for place in near.ravel().tolist()]
    return np.array(values, np.float64).reshape(near.shape)


def _extent(value: Any, name: str) -> int:
    """Return a checked number of positions."""
    number = as_positive_integer(value, name)
    check_reach(number, name)
    return number


def _whole(positions: Any) -> Int64Array:
    """Return positions that count from the beginning of a sequence, in memory of their own."""
    values = as_positions(positions)
    if values.dtype != np.int64 and values.size:
        msg = f"`positions` must be integers, got {values.dtype}"
        raise TypeError(msg)
    if (values < 0).any():
        msg = f"`positions` must not be negative, got {found(values, values < 0)}"
        raise ValueError(msg)
    return values.astype(np.int64)
