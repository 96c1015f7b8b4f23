"""The delegation layer: checks the arguments of a rotation, all of them, then runs its kernels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from . import _libraries as libraries
from . import tables
from ._typing import Array, TableDType
from .arrays import as_outputs, as_seq_axis, axes_of, check_array, is_complex, names_of
from .backends import kernel_for, portable
from .phases import Frequencies
from .rotation import Axes, Pairing, Recipe, Rows
from .rows import UNKNOWN, Extent


def table_dtype(x: Array) -> TableDType:
    """Return the dtype of table and arithmetic for an array: float64 where it has that precision."""
    return "float64" if libraries.dtype_name(x) in ("float64", "complex128") else "float32"


def rotate(
    arrays: Sequence[Array],
    *,
    head_dim: int,
    frequencies: Frequencies,
    leading: bool,
    factor: float,
    pairing: Pairing,
    seq_axis: Any,
    packed: bool,
    read: Callable[[Extent], Rows],
    out: Any,
) -> Array | tuple[Array, ...]:
    """Rotate arrays by an embedding's frequencies.

    Parameters
    ----------
    arrays : sequence of array
        Each of `head_dim` channels, or half as many complex ones, on its last axis.
    head_dim : int
    frequencies : Frequencies
    leading : bool
        Whether positions lead with the position axes.
    factor : float
        On cosine and sine.
    pairing : Pairing
        In real channels.
    seq_axis, out
        As the caller gave them.
    packed : bool
        Whether sequences lie one after another on the sequence axis.
    read : callable
        Returns where rows stand, given the batch and sequence they have to fit.

    Returns
    -------
    array, or tuple of array where there are several
    """
    names = names_of(arrays)
    if not arrays:
        msg = "at least one array must be given"
        raise TypeError(msg)
    axis = as_seq_axis(seq_axis)
    for x, name in zip(arrays, names, strict=True):
        check_array(x, name)
        _check_width(x, head_dim, pairing.start, name)
    places = [
        axes_of(x, axis, name=name, packed=packed) for x, name in zip(arrays, names, strict=True)
    ]
    extent = _extent(arrays, places, names, frequencies, leading)
    for x, place, name in zip(arrays, places, names, strict=True):
        _check_heads(x, place, frequencies.heads, name)
    outputs = as_outputs(out, arrays, names)
    rows = read(extent)
    if rows.traced:
        _check_traced(rows.positions, arrays, names, outputs)
    look_up = partial(tables.table_of, frequencies, factor)
    found = cache(partial(look_up, rows))
    results = []
    for x, place, output in zip(arrays, places, outputs, strict=True):
        # Traced positions need operations that can be traced, whatever the array.
        backend = portable if rows.traced else kernel_for(x)
        dtype = table_dtype(x)
        turn = Recipe(partial(look_up, dtype=dtype), rows) if backend.LAZY else found(dtype)
        results.append(backend.rotate(x, turn, place, _own_pairing(pairing, x), output))
    return results[0] if len(results) == 1 else tuple(results)


def _check_traced(
    positions: Array,
    arrays: Sequence[Array],
    names: Sequence[str],
    outputs: Sequence[Array | None],
) -> None:
    """Raise unless arrays can be rotated by positions whose values only another library knows."""
    xp = libraries.namespace(positions)
    for x, name, output in zip(arrays, names, outputs, strict=True):
        if not isinstance(x, np.ndarray) and libraries.namespace(x) is not xp:
            msg = (
                f"`positions` of {type(positions)} are traced or lazy, so `{name}` must be of the same "
                f"library, got {type(x)}"
            )
            raise TypeError(msg)
        if isinstance(output, np.ndarray):
            msg = "`out` must not be a NumPy array where positions are traced or lazy"
            raise TypeError(msg)


def _own_pairing(pairing: Pairing, x: Array) -> Pairing:
    """Return the pairing in an array's own channels: a complex one has one per pair."""
    return pairing._replace(start=pairing.start // 2) if is_complex(x) else pairing


def _check_width(x: Array, head_dim: int, start: int, name: str) -> None:
    width = head_dim
    if is_complex(x):
        if head_dim % 2 or start % 2:
            msg = (
                f"`{name}` must be real, for complex channels are pairs: the embedding has {head_dim} "
                f"channels and turns those from {start} on, which must both be even"
            )
            raise ValueError(msg)
        width //= 2
    if x.shape[-1] != width:
        kind = "complex channels, one for each pair," if is_complex(x) else "channels"
        msg = f"`{name}` must have {width} {kind} on its last axis, got shape {tuple(x.shape)}"
        raise ValueError(msg)


def _check_heads(x: Array, axes: Axes, heads: int, name: str) -> None:
    if heads == 1:
        return
    sizes = [x.shape[axis] for axis in axes.others(x.ndim)]
    if sizes != [heads]:
        msg = (
            f"`{name}` must have one axis of {heads} heads, since the frequencies are given per "
            f"head, got shape {tuple(x.shape)}"
        )
        raise ValueError(msg)


def _extent(
    arrays: Sequence[Array],
    places: Sequence[Axes],
    names: Sequence[str],
    frequencies: Frequencies,
    leading: bool,
) -> Extent:
    """Return batch and length of the arrays, which must agree in both."""
    batch, length = None, _size(arrays[0], places[0].sequence)
    if length == UNKNOWN:
        msg = f"`{names[0]}` must have a known number of rows, got shape {tuple(arrays[0].shape)}"
        raise ValueError(msg)
    for x, axes, name in zip(arrays, places, names, strict=True):
        if _size(x, axes.sequence) != length:
            msg = (
                f"`{name}` must have {length} rows on its sequence axis {axes.sequence}, as "
                f"`{names[0]}`, got shape {tuple(x.shape)}; rotate arrays of different lengths apart"
            )
            raise ValueError(msg)
        if axes.batch is None:
            continue
        own = _size(x, axes.batch)
        if batch is not None and own != batch:
            msg = f"`{name}` must have a batch of {batch}, as `{names[0]}`, got shape {tuple(x.shape)}"
            raise ValueError(msg)
        batch = own
    return Extent(batch, length, frequencies.axes, leading)


def _size(x: Array, axis: int) -> int:
    """Return the size of an axis, UNKNOWN where it is symbolic: None, NaN or an expression."""
    try:
        return operator.index(x.shape[axis])
    except TypeError:
        return UNKNOWN
