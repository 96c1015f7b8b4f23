"""Tables of cosine and sine for the positions of a call, from the cache or computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.typing import Array, HostArray, Int64Array, TableDType
from rotary.angles.learned import read_frequencies
from rotary.angles.phases import Frequencies, merged, of_head
from rotary.backends import traced
from rotary.backends.contract import Angles, GpuView, RowPositions, Table, TracedTable
from rotary.backends.library import check_one_library
from rotary.positions.reading import check_below, read_positions

from .scattered import scattered_rows
from .windows import LARGEST_POSITION, cached_window, computed


def tables_of(
    requests: Sequence[tuple[Angles, RowPositions, TableDType]],
) -> list[Table | TracedTable]:
    """Return the tables of a call, given as (angles, positions, dtype).

    Tables are host arrays, or arrays of the library of traced positions. The cache holds tables for consecutive
    positions, and for scattered positions that are close together or that were looked up before. Others are computed
    for the call, and so are those for frequencies that the call gives. With xPos decay, query and key have equal
    angles and different scales, and share the table before scaling.
    """
    unscaled: dict[Any, Table] = {}
    tables: list[Table | TracedTable] = []
    for angles, rows, dtype in requests:
        frequencies, factor, scale = angles
        if rows.frequencies is not None:
            frequencies = frequencies.of(rows.frequencies)
            angles = angles._replace(frequencies=frequencies)  # noqa: PLW2901  (those of this call)
        positions = rows.positions
        known = rows.start is not None or type(positions) is np.ndarray
        if not known or type(frequencies) is not Frequencies:
            tables.append(traced.traced_table(angles, rows, dtype))
            continue
        if rows.by_head:
            tables.append(_by_head(angles, rows, dtype))
            continue
        if scale is not None:
            tables.append(_scaled(angles, rows, dtype, unscaled))
            continue
        if rows.frequencies is not None:  # those of this call alone
            if rows.start is not None:
                line = rows.start + np.arange(rows.length, dtype=np.int64)
                positions = np.broadcast_to(line, (frequencies.axes, 1, rows.length))
            assert isinstance(positions, np.ndarray)
            flat = positions.reshape(frequencies.axes, -1)
            index = np.arange(flat.shape[1], dtype=np.int64).reshape(positions.shape[1:])
            values = computed(frequencies, flat, factor, dtype)
            tables.append(Table(values, index, 0, rows.length))
            continue
        if rows.start is not None:
            tables.append(_consecutive(frequencies, rows.start, rows.length, dtype, factor))
            continue
        assert isinstance(positions, np.ndarray)
        # Text tokens among images have equal positions on all axes.
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
    """Return the table for the positions of one array, as `tables_of` for several."""
    (table,) = tables_of([(angles, rows, dtype)])
    return table


def lookup(angles: Angles, rows: RowPositions, dtype: TableDType) -> Table:
    """Return the table for positions that are known on the host."""
    table = table_of(angles, rows, dtype)
    assert isinstance(table, Table)
    return table


def _by_head(angles: Angles, rows: RowPositions, dtype: TableDType) -> Table:
    """Return one table that joins those of all heads, for positions and frequencies that both differ by head."""
    assert isinstance(rows.positions, np.ndarray)
    tables = []
    for head in range(angles.frequencies.heads):
        head_angles = angles._replace(frequencies=of_head(angles.frequencies, head))
        positions = rows.positions[:, head]
        if angles.scale is None:
            tables.append(_computed(head_angles, positions, dtype))
        else:
            head_rows = RowPositions(positions, None, rows.length)
            tables.append(_scaled(head_angles, head_rows, dtype, {}))
    firsts = np.cumsum([0, *(table.values.shape[2] for table in tables[:-1])])
    index = np.stack([table.index + first for table, first in zip(tables, firsts, strict=True)])
    values = np.concatenate([table.values for table in tables], axis=2)
    return Table(values, index, 0, rows.length)


def _computed(angles: Angles, positions: HostArray, dtype: TableDType) -> Table:
    """Return a table for positions (axes, batch or 1, sequence or 1) that is not cached."""
    flat = positions.reshape(angles.frequencies.axes, -1)
    index = np.arange(flat.shape[1], dtype=np.int64).reshape(positions.shape[1:])
    values = computed(angles.frequencies, flat, angles.factor, dtype)
    return Table(values, index, 0, positions.shape[-1])


def _scaled(
    angles: Angles, rows: RowPositions, dtype: TableDType, unscaled: dict[Any, Table]
) -> Table:
    """Return a table with an xPos scale: computed in float64, multiplied by the scale and rounded once.

    `unscaled` caches the tables before scaling, because query and key have equal angles and different scales.
    """
    positions = rows.positions
    if rows.start is not None:
        positions = (rows.start + np.arange(rows.length, dtype=np.int64)).reshape((1, 1, -1))
    assert isinstance(positions, np.ndarray)
    assert angles.scale is not None
    key = id(angles.frequencies), angles.factor
    table = unscaled.get(key)
    if table is None:
        flat = positions.reshape(angles.frequencies.axes, -1)
        values = computed(angles.frequencies, flat, angles.factor, "float64")
        index = np.arange(flat.shape[1], dtype=np.int64).reshape(positions.shape[1:])
        table = unscaled[key] = Table(values, index, 0, positions.shape[-1])
    # The last position axis is that of the deltas if a shift changes the frequencies.
    scaled_at = positions[-1].reshape(-1).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        zeta, center, unit = angles.scale
        scale = np.array(zeta) ** ((scaled_at[:, None] - center) / unit)
    limits = np.finfo(dtype)
    bad = ~((scale >= limits.tiny) & (scale <= limits.max)).all(axis=1)
    if bad.any():
        msg = (
            f"`positions` must keep the scale of `decay` within {dtype}, got position {scaled_at[bad][0]} with "
            f"`center` {angles.scale.center}"
        )
        raise ValueError(msg)
    return Table((table.values * scale).astype(dtype), table.index, 0, rows.length)


def _consecutive(
    frequencies: Frequencies, start: int, length: int, dtype: TableDType, factor: float
) -> Table:
    """Return the table for positions start .. start + length - 1 on every axis."""
    if frequencies.axes > 1:
        frequencies = merged(frequencies) or frequencies
    if frequencies.axes == 1 and length and start + length <= LARGEST_POSITION:
        window = cached_window(frequencies, factor, dtype, start, start + length)
        return Table(window.values, _index(start - window.start), 1, length)
    # No addition overflows, because the last position was checked.
    positions = start + np.arange(length, dtype=np.int64)
    positions = np.broadcast_to(positions, (frequencies.axes, length))
    return Table(computed(frequencies, positions, factor, dtype), _index(0), 1, length)


def _index(row: int) -> Int64Array:
    """Return the index of consecutive rows, given the first one."""
    return np.array([[row]], dtype=np.int64)


def cos_sin(
    angles: Angles,
    positions: Any,
    *,
    has_position_axes: bool,
    dtype: TableDType,
    limit: int | None = None,
    given: Array | None = None,
    sections: tuple[int, ...] | None = None,
) -> tuple[Array, Array]:
    """Return cosine and sine for the user, (..., pairs) for positions of any shape.

    With `has_position_axes`, the first axis of `positions` is that of the position axes. Positions known on the host
    must be below `limit`. The call may give frequencies, if the angles are those of `GivenFrequencies`; `sections` has
    the position axis of each pair, if these have no axes.
    """
    if given is None and not isinstance(positions, int | float | np.ndarray | list | tuple):
        on_gpu = _cos_sin_on_gpu(
            angles, positions, has_position_axes=has_position_axes, dtype=dtype, limit=limit
        )
        if on_gpu is not None:
            return on_gpu
    values = read_positions(positions, "positions")
    if limit is not None:
        check_below(values, limit, "positions")
    frequencies = angles.frequencies
    axes = frequencies.axes if has_position_axes else 1
    shape = tuple(values.shape)
    if has_position_axes and shape[:1] != (axes,):
        msg = f"`positions` must have the {axes} position axes as its first axis, got shape {shape}"
        raise ValueError(msg)
    xp = libraries.namespace(values)
    rows = explicit_rows(xp.reshape(values, (axes, 1, -1)))
    rows.limit = limit
    if given is not None:
        # MLX does not show whether it differentiates by an array of known values.
        learned = libraries.is_mlx_array(given)
        rows.frequencies = read_frequencies(given, sections, frequencies.axes, learned=learned)
    check_one_library(rows.unknown)
    table = table_of(angles, rows, dtype)
    parts = table.gather() if isinstance(table, Table) else (table.cosine, table.sine)
    outer = shape[1 if has_position_axes else 0 :]
    cosine, sine = (
        _in_library_of(positions, _reshaped(part, frequencies, outer)) for part in parts
    )
    return cosine, sine


def _cos_sin_on_gpu(
    angles: Angles,
    positions: Any,
    *,
    has_position_axes: bool,
    dtype: TableDType,
    limit: int | None,
) -> tuple[Array, Array] | None:
    """Return cosine and sine at positions on a GPU, or None if the kernels do not compute them."""
    from rotary.backends.cuda import tables as on_gpu

    table = on_gpu.cos_sin(angles, positions, leading=has_position_axes, dtype=dtype, limit=limit)
    if table is None:
        return None
    pairs = angles.frequencies.pairs
    if angles.frequencies.heads > 1:
        table = heads_inward(table, table.ndim - 2)
    return table[..., :pairs], table[..., pairs:]


def _reshaped(part: Array, frequencies: Frequencies, outer: tuple[int, ...]) -> Array:
    """Return a table (heads, 1, n, pairs) with the shape of its positions, `outer`, and axes of heads and pairs."""
    xp = libraries.namespace(part)
    if frequencies.heads == 1:
        return xp.reshape(part, (*outer, frequencies.pairs))
    by_head = xp.reshape(part, (frequencies.heads, *outer, frequencies.pairs))
    return heads_inward(by_head, len(outer))


def heads_inward(part: Array, count: int) -> Array:
    """Return a table (heads, ..., S, pairs) with `count` axes of positions as (..., heads, S, pairs).

    A table for positions (S,) becomes (1, heads, S, pairs), which rotates (B, H, S, D) without a reshape.
    """
    if not count:
        return part
    result = libraries.namespace(part).permute_dims(part, (*range(1, count), 0, count, count + 1))
    return result if count > 1 else result[None, ...]


def _in_library_of(like: Any, part: Array) -> Array:
    """Return cosine or sine as an array of the library of the positions."""
    if not isinstance(part, np.ndarray):
        return part
    # The memory of the cache stays writeable, because torch reads no read-only arrays. The user gets a read-only view.
    view = np.asarray(part.data.toreadonly())
    if isinstance(like, np.ndarray) or not libraries.is_array(like):
        return view
    libraries.check_precision(str(part.dtype), like)
    # A tensor has no read-only flag that would protect the cache, so it gets a copy.
    host = view if libraries.device_of(like) is None else part.copy()
    return libraries.from_host(host, libraries.namespace(like), like)


def explicit_rows(positions: Array | GpuView) -> RowPositions:
    """Return rows at positions (axes, batch or 1, sequence), with `start` if they are consecutive."""
    length = positions.shape[-1]
    if (
        length
        and positions.shape[:2] == (1, 1)
        and isinstance(positions, np.ndarray)
        and positions.dtype == np.int64
    ):
        sequence = positions[0, 0]
        first = int(sequence[0])
        if int(sequence[-1]) - first == length - 1 and (np.diff(sequence) == 1).all():
            return RowPositions(None, first, length)
    return RowPositions(positions, None, length)
