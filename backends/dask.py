"""The dask backend: each block is rotated when it is computed, at the positions of its own tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib.typing import Array, TableDType

from . import portable
from .contract import ArrayNorm, Axes, DeferredTable, Norm, Pairing
from .cpu.host import host

# Whether `rotate` takes a `DeferredTable` and defers the work.
DEFERS = True


def rotate(
    x: Array,
    table: DeferredTable,
    axes: Axes,
    pairing: Pairing,
    out: None = None,  # noqa: ARG001  (the signature of all backends; a dask array cannot be an output)
) -> Array:
    """Return x rotated, lazily: nothing is computed, and the graph contains no table.

    A block must have all channels, so the last axis becomes one chunk.
    """
    x = x.rechunk({x.ndim - 1: -1})
    return x.map_blocks(
        _rotate_block, table, axes, pairing, dtype=x.dtype, meta=x._meta, enforce_ndim=True
    )


def normed(x: Array, weight: Array | None, norm: Norm, of: ArrayNorm, dtype: TableDType) -> Array:
    """Return x normed, lazily; what is summed over must be complete in a block."""
    whole = (x.ndim - 1,) if of.heads is None else (of.heads, x.ndim - 1)
    return portable.normed(x.rechunk(dict.fromkeys(whole, -1)), weight, norm, of, dtype)


def _rotate_block(
    block: Array,
    deferred: DeferredTable,
    axes: Axes,
    pairing: Pairing,
    block_info: dict[int, Any] | None = None,
) -> Array:
    """Rotate one block by its part of the table."""
    assert block_info is not None
    slices = [slice(*ends) for ends in block_info[0]["array-location"]]
    batch = slice(None) if axes.batch is None else slices[axes.batch]
    table = deferred.part(batch, slices[axes.sequence])
    if axes.extra:
        table = table.at_extra([slices[axis] for axis in axes.extra])
    if table.values.shape[1] > 1:
        (head_axis,) = axes.head_axes(block.ndim)
        table = table.heads(slices[head_axis])
    backend = host() if isinstance(block, np.ndarray) else portable
    rotated: Array = backend.rotate(block, table, axes, pairing)
    return rotated
