"""The delegation layer: checks the arguments of a rotation, all of them, then runs its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import _libraries as libraries
from . import tables
from ._typing import Array, TableDType
from .arrays import as_outputs, check_array, names_of
from .backends import kernel_for, portable
from .phases import Frequencies
from .rotation import Pairing, Recipe, Rows, Table, TracedTable
from .rows import Extent
from .shapes import Frame, as_seq_axis, frames_of, shape_of


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
        msg = "`arrays` must hold at least one array, got none"
        raise TypeError(msg)
    for x, name in zip(arrays, names, strict=True):
        check_array(x, name)
    shapes = tuple(map(shape_of, arrays, names))
    frames, batch, length = frames_of(
        shapes, as_seq_axis(seq_axis), packed, head_dim, pairing, frequencies.heads
    )
    outputs = as_outputs(out, arrays, names)
    rows = read(Extent(batch, length, frequencies.axes, leading))
    if rows.traced:
        _check_traced(rows.positions, arrays, names, outputs)
    turned = _turn(arrays, frames, outputs, frequencies, factor, rows)
    return turned[0] if len(turned) == 1 else tuple(turned)


def _turn(
    arrays: Sequence[Array],
    frames: Sequence[Frame],
    outputs: Sequence[Array | None],
    frequencies: Frequencies,
    factor: float,
    rows: Rows,
) -> list[Array]:
    """Run each array's kernel; arrays of one dtype share the table."""
    look_up = partial(tables.table_of, frequencies, factor)
    found: dict[TableDType, Table | TracedTable] = {}
    turned = []
    for x, frame, output in zip(arrays, frames, outputs, strict=True):
        # Traced positions need operations that can be traced, whatever the array.
        backend = portable if rows.traced else kernel_for(x)
        table: Recipe | Table | TracedTable
        if backend.LAZY:
            table = Recipe(partial(tables.lookup, frequencies, factor, dtype=frame.dtype), rows)
        elif frame.dtype in found:
            table = found[frame.dtype]
        else:
            table = found[frame.dtype] = look_up(rows, frame.dtype)
        turned.append(backend.rotate(x, table, frame.axes, frame.pairing, output))
    return turned


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
        if not isinstance(x, np.ndarray) and libraries.device_of(x) != libraries.device_of(
            positions
        ):
            msg = (
                f"`positions` on {libraries.device_of(positions)} cannot be read here, so `{name}` must "
                f"be on the same device, got {libraries.device_of(x)}"
            )
            raise TypeError(msg)
        if isinstance(output, np.ndarray):
            msg = "`out` must not be a NumPy array where positions are traced or lazy"
            raise TypeError(msg)
