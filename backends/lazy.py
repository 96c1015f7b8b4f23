"""The dask backend: every block is rotated where and when it is computed, by its own rows of the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._typing import Array, HostArray
from rotary.rotation import Axes, Pairing, Table

from . import kernel_for, portable


def rotate(
    x: Array,
    table: Table | portable.TracedTable,
    axes: Axes,
    pairing: Pairing,
    out: None = None,  # noqa: ARG001  (the backends' common signature; a dask array is no output)
) -> Array:
    """Return x rotated, lazily: nothing is computed.

    The channels of a block must be complete, so the last axis is made one chunk.
    """
    if not isinstance(table, Table):
        return portable.rotate(x, table, axes, pairing)
    x = x.rechunk({x.ndim - 1: -1})
    return x.map_blocks(
        _rotate_block, table, axes, pairing, dtype=x.dtype, meta=x._meta, enforce_ndim=True
    )


def _rotate_block(
    block: Array,
    table: Table,
    axes: Axes,
    pairing: Pairing,
    block_info: dict[int, Any] | None = None,
) -> Array:
    """Rotate one block by the rows of the table that belong to it."""
    assert block_info is not None
    where = block_info[0]["array-location"]
    mine = _part(table, where, axes, block.ndim)
    return kernel_for(block).rotate(block, mine, axes, pairing)


def _part(table: Table, where: list[tuple[int, int]], axes: Axes, ndim: int) -> Table:
    """Return the table as one block reads it."""
    first, last = where[axes.sequence]
    index: HostArray = table.index
    if index.shape[1] > 1:
        index = index[:, first:last]
    elif table.step:
        index = index + table.step * first
    if axes.batch is not None and index.shape[0] > 1:
        index = index[slice(*where[axes.batch])]
    values = table.values
    if values.shape[1] > 1:
        (head_axis,) = axes.others(ndim)
        values = values[:, slice(*where[head_axis])]
    return Table(
        np.ascontiguousarray(values), np.ascontiguousarray(index), table.step, last - first
    )
