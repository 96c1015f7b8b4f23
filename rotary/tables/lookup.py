"""Tables for the positions of a call, from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.typing import Array, HostArray, Int64Array, TableDType
from rotary.angles.phases import Frequencies, merged, of_head
from rotary.backends import traced
from rotary.backends.contract import Angles, GpuView, RowPositions, Table, TracedTable
from rotary.positions.reading import check_below, read_positions

from .scattered import scattered_rows
from .windows import LARGEST_POSITION, cached_window, computed


def tables_of(
    wanted: Sequence[tuple[Angles, RowPositions, TableDType]],
) -> list[Table | TracedTable]:
    """Return the tables of a call, made of host arrays or, where rows are traced, of their library's.

    Rows of consecutive positions, and of scattered ones that are close together or asked for again, are those of the
    cache. Others are computed here. Query and key of one call have the same angles, and scales of their own: these
    share what is computed.
    """
    unscaled: dict[Any, Table] = {}
    tables: list[Table | TracedTable] = []
    for angles, rows, dtype in wanted:
        frequencies, factor, scale = angles
        positions = rows.positions
        if rows.start is None and type(positions) is not np.ndarray:
            tables.append(traced.traced_table(angles, rows, dtype))
            continue
        if rows.by_head:
            tables.append(_by_head(angles, rows, dtype))
            continue
        if scale is not None:
            tables.append(_scaled(angles, rows, dtype, unscaled))
            continue
        if rows.start is not None:
            tables.append(_consecutive(frequencies, rows.start, rows.length, dtype, factor))
            continue
        assert isinstance(positions, np.ndarray)
        # Text among images has the same positions on all axes.
        if frequencies.axes > 1 and (positions == positions[:1]).all():
            single = merged(frequencies)
            if single is not None:
                frequencies, positions = single, positions[:1]
        if frequencies.axes == 1 and positions.dtype == np.int64 and positions.size:
            found = scattered_rows(frequencies, factor, dtype, positions[0])
            if found is not None:
                tables.append(Table(*found, 0, rows.length))
                continue
        values = computed(frequencies, positions.reshape(frequencies.axes, -1), factor, dtype)
        index = np.arange(values.shape[2], dtype=np.int64).reshape(positions.shape[1:])
        tables.append(Table(values, index, 0, positions.shape[-1]))
    return tables


def table_of(angles: Angles, rows: RowPositions, dtype: TableDType) -> Table | TracedTable:
    """Return the table of rows, as `tables_of` does for several."""
    (table,) = tables_of([(angles, rows, dtype)])
    return table


def lookup(angles: Angles, rows: RowPositions, dtype: TableDType) -> Table:
    """Return the table of rows whose positions are known on the host."""
    table = table_of(angles, rows, dtype)
    assert isinstance(table, Table)
    return table


def _by_head(angles: Angles, rows: RowPositions, dtype: TableDType) -> Table:
    """Return rows whose positions and frequencies both differ by head: each head has its own."""
    assert isinstance(rows.positions, np.ndarray)
    parts = []
    for head in range(angles.frequencies.heads):
        own = angles._replace(frequencies=of_head(angles.frequencies, head))
        positions = rows.positions[:, head]
        if angles.scale is None:
            parts.append(_scattered(own, positions, dtype))
        else:
            parts.append(_scaled(own, RowPositions(positions, None, rows.length), dtype, {}))
    firsts = np.cumsum([0, *(part.values.shape[2] for part in parts[:-1])])
    index = np.stack([part.index + first for part, first in zip(parts, firsts, strict=True)])
    return Table(np.concatenate([part.values for part in parts], axis=2), index, 0, rows.length)


def _scattered(angles: Angles, positions: HostArray, dtype: TableDType) -> Table:
    """Return rows at positions (axes, batch or 1, sequence or 1), computed for the call that asks."""
    flat = positions.reshape(angles.frequencies.axes, -1)
    index = np.arange(flat.shape[1], dtype=np.int64).reshape(positions.shape[1:])
    values = computed(angles.frequencies, flat, angles.factor, dtype)
    return Table(values, index, 0, positions.shape[-1])


def _scaled(
    angles: Angles, rows: RowPositions, dtype: TableDType, unscaled: dict[Any, Table]
) -> Table:
    """Return rows with a factor that changes with the position, rounded once more.

    `unscaled` holds the tables to which scales are applied, by frequencies and factor.
    """
    positions = rows.positions
    if rows.start is not None:
        positions = (rows.start + np.arange(rows.length, dtype=np.int64)).reshape((1, 1, -1))
    assert isinstance(positions, np.ndarray)
    assert angles.scale is not None
    # Query and key have the same angles, and scales of their own.
    key = id(angles.frequencies), angles.factor
    table = unscaled.get(key)
    if table is None:
        flat = positions.reshape(angles.frequencies.axes, -1)
        values = computed(angles.frequencies, flat, angles.factor, "float64")
        index = np.arange(flat.shape[1], dtype=np.int64).reshape(positions.shape[1:])
        table = unscaled[key] = Table(values, index, 0, positions.shape[-1])
    places = positions[-1].reshape(-1).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        zeta, center, unit = angles.scale
        scale = np.array(zeta) ** ((places[:, None] - center) / unit)
    limits = np.finfo(dtype)
    bad = ~((scale >= limits.tiny) & (scale <= limits.max)).all(axis=1)
    if bad.any():
        msg = (
            f"`positions` must keep the scale of `decay` within {dtype}, got position "
            f"{places[bad][0]} with the centre {angles.scale.center}"
        )
        raise ValueError(msg)
    return Table((table.values * scale).astype(dtype), table.index, 0, rows.length)


def _consecutive(
    frequencies: Frequencies, start: int, length: int, dtype: TableDType, factor: float
) -> Table:
    """Return the rows for positions start .. start + length - 1 on every axis."""
    if frequencies.axes > 1:
        frequencies = merged(frequencies) or frequencies
    if frequencies.axes == 1 and length and start + length <= LARGEST_POSITION:
        window = cached_window(frequencies, factor, dtype, start, start + length)
        return Table(window.values, _index(start - window.start), 1, length)
    # No sum wraps: the last one was checked.
    positions = start + np.arange(length, dtype=np.int64)
    positions = np.broadcast_to(positions, (frequencies.axes, length))
    return Table(computed(frequencies, positions, factor, dtype), _index(0), 1, length)


def _index(row: int) -> Int64Array:
    """Return the index of rows that follow one another from a first one on."""
    return np.array([[row]], dtype=np.int64)


def cos_sin(
    angles: Angles,
    positions: Any,
    *,
    leading: bool,
    dtype: TableDType,
    limit: int | None = None,
) -> tuple[Array, Array]:
    """Return cosine and sine at positions of any shape, (..., pairs), to give out.

    After the position axes where `leading`. Known positions stay below the limit, if there is one.
    """
    if not isinstance(positions, int | float | np.ndarray | list | tuple):
        found = _made_on_gpu(angles, positions, leading=leading, dtype=dtype, limit=limit)
        if found is not None:
            return found
    places = read_positions(positions, "positions")
    if limit is not None:
        check_below(places, limit, "positions")
    frequencies = angles.frequencies
    axes = frequencies.axes if leading else 1
    shape = tuple(places.shape)
    if leading and shape[:1] != (axes,):
        msg = f"`positions` must lead with {axes} position axes, got shape {shape}"
        raise ValueError(msg)
    xp = libraries.namespace(places)
    rows = explicit_rows(xp.reshape(places, (axes, 1, -1)))
    rows.limit = limit
    table = table_of(angles, rows, dtype)
    parts = table.gather() if isinstance(table, Table) else (table.cosine, table.sine)
    outer = shape[1 if leading else 0 :]
    cosine, sine = (_given_out(_in_order(part, frequencies, outer), positions) for part in parts)
    return cosine, sine


def _made_on_gpu(
    angles: Angles, positions: Any, *, leading: bool, dtype: TableDType, limit: int | None
) -> tuple[Array, Array] | None:
    """Return cosine and sine at positions on a GPU, None where its kernels do not make them."""
    from rotary.backends.cuda import tables as on_gpu

    found = on_gpu.cos_sin(angles, positions, leading=leading, dtype=dtype, limit=limit)
    if found is None:
        return None
    pairs = angles.frequencies.pairs
    if angles.frequencies.heads > 1:
        found = heads_inward(found, found.ndim - 2)
    return found[..., :pairs], found[..., pairs:]


def _in_order(part: Array, frequencies: Frequencies, outer: tuple[int, ...]) -> Array:
    """Return a table (heads, 1, n, pairs) with the shape of the positions that it is for."""
    xp = libraries.namespace(part)
    if frequencies.heads == 1:
        return xp.reshape(part, (*outer, frequencies.pairs))
    own = xp.reshape(part, (frequencies.heads, *outer, frequencies.pairs))
    return heads_inward(own, len(outer))


def heads_inward(part: Array, count: int) -> Array:
    """Return a table (heads, ..., S, pairs) with `count` axes of positions as (..., heads, S, pairs).

    A table for positions (S,) becomes (1, heads, S, pairs), so that it rotates (B, H, S, D) as it is.
    """
    if not count:
        return part
    moved = libraries.namespace(part).permute_dims(part, (*range(1, count), 0, count, count + 1))
    return moved if count > 1 else moved[None, ...]


def _given_out(part: Array, like: Any) -> Array:
    """Return part of a table in the library of the positions it was asked for."""
    if not isinstance(part, np.ndarray):
        return part
    # A view of a read-only buffer. The cache's own memory stays writeable, because torch reads no other.
    shown = np.asarray(part.data.toreadonly())
    if isinstance(like, np.ndarray) or not libraries.is_array(like):
        return shown
    libraries.check_precision(str(part.dtype), like)
    # A tensor has no flag that would keep its owner from writing into the cache.
    own = shown if libraries.device_of(like) is None else part.copy()
    return libraries.from_host(own, libraries.namespace(like), like)


def explicit_rows(positions: Array | GpuView) -> RowPositions:
    """Return rows at positions (axes, batch or 1, sequence), known to count up where they do."""
    length = positions.shape[-1]
    if (
        length
        and positions.shape[:2] == (1, 1)
        and isinstance(positions, np.ndarray)
        and positions.dtype == np.int64
    ):
        line = positions[0, 0]
        first = int(line[0])
        if int(line[-1]) - first == length - 1 and (np.diff(line) == 1).all():
            return RowPositions(None, first, length)
    return RowPositions(positions, None, length)
