"""Plans of calls that no kernel can take as a whole: the backend of its library rotates each array.

These are calls with traced, lazy or transformed arrays or positions, and those whose passes are no rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary import backends
from rotary._lib import libraries
from rotary._lib.typing import Array, TableDType
from rotary.layouts import Layout, pair_channels

from . import portable
from .contract import (
    ArrayNorm,
    ArraySpec,
    Axes,
    Call,
    DeferredTable,
    Norm,
    Pairing,
    Passes,
    Plan,
    PositionArgs,
    RowPositions,
    Table,
    TablesCall,
    TracedTable,
)

AnyTable: TypeAlias = Table | TracedTable | DeferredTable


def plan(call: Call) -> Plan:
    """Return the plan of a call."""
    return LibraryPlan(call)


def plan_with_tables(call: TablesCall) -> Plan:
    """Return the plan of a call with the tables of the user."""
    return TablesPlan(call)


class _ArrayTables(NamedTuple):
    """The backend of an array, its axes adapted to positions, and the tables of its passes."""

    backend: ModuleType
    axes: Axes
    tables: Sequence[AnyTable]
    second_table: AnyTable | None


class LibraryPlan:
    """A plan that rotates each array by the operations of its own library."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call._replace(arrays=(), outputs=None)

    def __call__(
        self,
        arrays: Sequence[Array],
        position_args: PositionArgs,
        outputs: Sequence[Array] | None,
        weights: Sequence[Array] = (),
    ) -> Sequence[Array]:
        """Rotate arrays."""
        if outputs is not None:
            self._call.check_outputs(arrays, outputs)
        rows = self._call.read(position_args, self._call.position_shapes)
        return self.rotate_at(rows, arrays, outputs, weights)

    def rotate_at(
        self,
        rows: RowPositions,
        arrays: Sequence[Array],
        outputs: Sequence[Array] | None,
        weights: Sequence[Array] = (),
    ) -> Sequence[Array]:
        """Rotate arrays at positions, into outputs that are already checked."""
        call = self._call
        targets: Sequence[Array | None] = [None] * len(arrays) if outputs is None else outputs
        unknown = rows.unknown
        check_one_library(unknown)
        for name, value in unknown.items():
            _check_traced(value, name, arrays, call.names, targets)
        # All tables are made before the first array is written to.
        cached: dict[Any, Table | TracedTable] = {}
        array_tables = [
            self._tables_of(x, spec, passes, rows, cached)
            for x, spec, passes in zip(arrays, call.specs, call.passes, strict=True)
        ]
        results = []
        for i, (x, spec, tables) in enumerate(zip(arrays, call.specs, array_tables, strict=True)):
            norm = None if call.norm is None else call.norm.arrays[i]
            if call.norm is None or norm is None:
                results.append(_rotate_array(x, spec, tables, targets[i]))
            else:
                weight = None if norm.weight is None else weights[norm.weight]
                results.append(_norm_array(x, spec, tables, targets[i], call.norm, norm, weight))
        return results

    def _tables_of(
        self,
        x: Array,
        spec: ArraySpec,
        passes: Passes,
        rows: RowPositions,
        cached: dict[Any, Table | TracedTable],
    ) -> _ArrayTables:
        """Return the tables of an array; arrays with equal angles, dtype and positions share them."""
        # Traced positions need operations that can be traced, whatever the array is.
        backend = portable if rows.traced else backends.kernel_for(x)
        array_rows, axes = rows.for_array(spec.axes, passes.angles[0].frequencies.heads)
        look_up = self._call.tables

        def table(angles: Any) -> AnyTable:
            if backend.DEFERS:
                return DeferredTable(partial(_block_table, look_up, angles, spec.dtype), array_rows)
            # Positions per array axis have another order of rows for arrays with other axes.
            key = id(angles), spec.dtype, spec.axes if rows.per_array_axis else None
            if key not in cached:
                (cached[key],) = look_up([(angles, array_rows, spec.dtype)])
            return cached[key]

        second_table = None if passes.second_angles is None else table(passes.second_angles)
        tables = [table(angles) for angles in passes.angles]
        return _ArrayTables(backend, axes, tables, second_table)


class TablesPlan:
    """The plan for an array of any library that is rotated by the tables of the user."""

    __slots__ = ("_call",)

    def __init__(self, call: TablesCall) -> None:
        self._call = call.without_arrays()

    def __call__(
        self,
        arrays: Sequence[Array],
        tables: tuple[Array, ...],
        outputs: Sequence[Array] | None,
    ) -> Sequence[Array]:
        """Rotate the array."""
        call = self._call
        (x,), (cosine, sine) = arrays, tables
        (output,) = outputs or (None,)
        if output is not None:
            call.check_output(x, (cosine, sine), output)
        (pairing,) = call.spec.pairings
        table = call.read(x, (cosine, sine))
        return [portable.rotate(x, table, call.spec.axes, pairing, output)]


def _block_table(
    look_up: Callable[..., Any], angles: Any, dtype: TableDType, rows: RowPositions
) -> Table:
    """Return the table of a block of rows: a function of the module, so that a `DeferredTable` can be pickled."""
    table: Table
    (table,) = look_up([(angles, rows, dtype)])
    return table


def _rotate_array(x: Array, spec: ArraySpec, tables: _ArrayTables, output: Array | None) -> Array:
    """Apply all passes to an array, and write the result to `output` if there is one."""
    if tables.second_table is not None:
        return _rotate_channels_separately(x, spec, tables, output)
    for pairing, table in zip(spec.pairings, tables.tables, strict=True):
        x = tables.backend.rotate(x, table, tables.axes, pairing, output)
        if output is None and isinstance(x, np.ndarray):
            output = x  # later passes may write to the result of the first one, because it is new
    return x


def _norm_array(
    x: Array,
    spec: ArraySpec,
    tables: _ArrayTables,
    output: Array | None,
    norm: Norm,
    of: ArrayNorm,
    weight: Array | None,
) -> Array:
    """Norm and rotate an array in the dtype of the tables, and round it once, or write it to `output`."""
    first_table = tables.tables[0]
    if isinstance(x, np.ndarray) and isinstance(first_table, TracedTable):
        x = libraries.namespace(first_table.cosine).asarray(x)
    xp = libraries.namespace(x)
    if norm.after:
        wide = _rotate_array(xp.astype(x, getattr(xp, spec.dtype)), spec, tables, None)
        wide = tables.backend.normed(wide, weight, norm, of, spec.dtype)
    else:
        wide = tables.backend.normed(x, weight, norm, of, spec.dtype)
        wide = _rotate_array(wide, spec, tables, None)
    result = xp.astype(wide, x.dtype)
    if output is None:
        return result
    output[...] = result
    return output


def _rotate_channels_separately(
    x: Array, spec: ArraySpec, tables: _ArrayTables, output: Array | None
) -> Array:
    """Rotate the first and the second channel of each pair by different angles.

    Both rotations are computed for all channels, in the dtype of the tables, and the needed channels of each are kept.
    This takes twice the time of one rotation.
    """
    (pairing,), (first_table,) = spec.pairings, tables.tables
    if isinstance(x, np.ndarray) and isinstance(first_table, TracedTable):
        x = libraries.namespace(first_table.cosine).asarray(x)
    rotate = partial(tables.backend.rotate, axes=tables.axes, pairing=pairing)
    xp = libraries.namespace(x)
    wide = xp.astype(x, getattr(xp, spec.dtype))
    layout = pairing.source if pairing.inverse else pairing.target
    is_second = _is_second_channel(pairing, layout, x)
    if pairing.inverse:  # the transpose: each rotation takes the channels that it produced
        zeros = xp.zeros_like(wide)
        result = rotate(xp.where(is_second, zeros, wide), first_table)
        result = result + rotate(xp.where(is_second, wide, zeros), tables.second_table)
    else:
        result = rotate(wide, first_table)
        second = rotate(wide, tables.second_table)
        result = libraries.namespace(result).where(is_second, second, result)
    result = libraries.namespace(result).astype(result, x.dtype)
    if output is None:
        return result
    output[...] = result
    return output


def _is_second_channel(pairing: Pairing, layout: Layout, x: Array) -> Array:
    """Return a mask of the channels of x that are the second one of their pair."""
    mask = np.zeros(x.shape[-1], bool)
    mask[pairing.start + pair_channels(2 * pairing.pairs, layout)[1]] = True
    return libraries.from_host(mask, libraries.namespace(x), x)


def check_one_library(unknown: dict[str, Array]) -> None:
    """Raise if the host knows neither positions nor frequencies, and these are not of one library."""
    if len(unknown) > 1:
        positions, inv_freq = unknown["positions"], unknown["inv_freq"]
        if libraries.namespace(positions) is not libraries.namespace(inv_freq):
            msg = (
                f"`inv_freq` must be of the library of `positions`, because both are traced, lazy or learned, got "
                f"{type(inv_freq)} and {type(positions)}"
            )
            raise TypeError(msg)


def _is_on_gpu(unknown: Array) -> bool:
    from .cuda.memory import owner_of

    return owner_of(unknown) is not None


def _check_traced(
    unknown: Array,
    argument: str,
    arrays: Sequence[Array],
    names: Sequence[str],
    outputs: Sequence[Array | None],
) -> None:
    """Raise unless the arrays can be rotated by an argument whose values the host does not know."""
    xp = libraries.namespace(unknown)
    for x, name, output in zip(arrays, names, outputs, strict=True):
        if not isinstance(x, np.ndarray) and libraries.namespace(x) is not xp:
            msg = (
                f"`{name}` must be of the library of `{argument}`, because these are traced or lazy "
                f"({type(unknown)}), got {type(x)}"
            )
            raise TypeError(msg)
        if isinstance(x, np.ndarray) and _is_on_gpu(unknown):
            msg = f"`{name}` must be on the GPU of `{argument}`, got an array on the host"
            raise TypeError(msg)
        if not isinstance(x, np.ndarray) and libraries.device_of(x) != libraries.device_of(unknown):
            msg = (
                f"`{name}` must be on the device of `{argument}`, {libraries.device_of(unknown)}, which the host "
                f"cannot read, got {libraries.device_of(x)}"
            )
            raise TypeError(msg)
        if isinstance(output, np.ndarray):
            msg = (
                f"`out` must be an array of the library of `{argument}`, because these are traced or lazy, got "
                f"{type(output)}"
            )
            raise TypeError(msg)
