"""The dask backend: every block is rotated where and when it is computed, by the rows that are its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib.typing import Array

from . import portable
from .contract import Axes, DeferredTable, Pairing
from .cpu.host import host

# Whether `rotate` takes a recipe and puts the work off.
LAZY = True


def rotate(
    x: Array,
    recipe: DeferredTable,
    axes: Axes,
    pairing: Pairing,
    out: None = None,  # noqa: ARG001  (the backends' common signature; a dask array is no output)
) -> Array:
    """Return x rotated, lazily: nothing is computed, and no table is put on the graph.

    The channels of a block must be complete, so the last axis is made one chunk.
    """
    x = x.rechunk({x.ndim - 1: -1})
    return x.map_blocks(
        _rotate_block, recipe, axes, pairing, dtype=x.dtype, meta=x._meta, enforce_ndim=True
    )


def _rotate_block(
    block: Array,
    recipe: DeferredTable,
    axes: Axes,
    pairing: Pairing,
    block_info: dict[int, Any] | None = None,
) -> Array:
    """Rotate one block by the rows that belong to it."""
    assert block_info is not None
    where = [slice(*ends) for ends in block_info[0]["array-location"]]
    batch = slice(None) if axes.batch is None else where[axes.batch]
    table = recipe.part(batch, where[axes.sequence])
    if axes.extra:
        table = table.at_extra([where[axis] for axis in axes.extra])
    if table.values.shape[1] > 1:
        (head_axis,) = axes.head_axes(block.ndim)
        table = table.heads(where[head_axis])
    backend = host() if isinstance(block, np.ndarray) else portable
    rotated: Array = backend.rotate(block, table, axes, pairing)
    return rotated
