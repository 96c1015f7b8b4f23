"""Plans of calls that no kernel serves as a whole: every array is rotated by the backend of its own library.

Such are arrays that are traced, lazy or transformed, positions that are, and arrays whose pairs are no rotation.
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
    ArraySpec,
    Axes,
    Call,
    DeferredTable,
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
    """Return the plan of a call that gives its tables."""
    return TablesPlan(call)


class _Own(NamedTuple):
    """The backend of an array, the axes of its positions, and the tables of its passes."""

    backend: ModuleType
    axes: Axes
    tables: Sequence[AnyTable]
    second: AnyTable | None


class LibraryPlan:
    """How arrays of any libraries are rotated, each by the operations of its own."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call._replace(arrays=(), outputs=None)

    def __call__(
        self, arrays: Sequence[Array], where: PositionArgs, outputs: Sequence[Array] | None
    ) -> Sequence[Array]:
        """Return arrays rotated."""
        if outputs is not None:
            self._call.check_outputs(arrays, outputs)
        return self.at(self._call.read(where, self._call.position_shapes), arrays, outputs)

    def at(
        self, rows: RowPositions, arrays: Sequence[Array], outputs: Sequence[Array] | None
    ) -> Sequence[Array]:
        """Return arrays rotated, whose rows stand there; outputs have been checked."""
        call = self._call
        wanted: Sequence[Array | None] = [None] * len(arrays) if outputs is None else outputs
        if rows.traced:
            _check_traced(rows.positions, arrays, call.names, wanted)
        # Every table is made before the first array is written to.
        found: dict[Any, Table | TracedTable] = {}
        owns = [
            self._own(x, spec, passes, rows, found)
            for x, spec, passes in zip(arrays, call.specs, call.passes, strict=True)
        ]
        return [
            _rotated(x, spec, own, output)
            for x, spec, own, output in zip(arrays, call.specs, owns, wanted, strict=True)
        ]

    def _own(
        self,
        x: Array,
        spec: ArraySpec,
        passes: Passes,
        rows: RowPositions,
        found: dict[Any, Table | TracedTable],
    ) -> _Own:
        """Return how an array is rotated; what has been found for an earlier one is taken from there."""
        # Traced positions need operations that can be traced, whatever the array.
        backend = portable if rows.traced else backends.kernel_for(x)
        own, axes = rows.for_array(spec.axes, passes.angles[0].frequencies.heads)
        look_up = self._call.tables

        def table(angles: Any) -> AnyTable:
            if backend.LAZY:
                return DeferredTable(partial(_of_block, look_up, angles, spec.dtype), own)
            # In positions with a size for each axis, arrays whose axes differ read different rows.
            key = id(angles), spec.dtype, spec.axes if rows.per_array_axis else None
            if key not in found:
                (found[key],) = look_up([(angles, own, spec.dtype)])
            return found[key]

        second = None if passes.second_angles is None else table(passes.second_angles)
        return _Own(backend, axes, [table(angles) for angles in passes.angles], second)


class TablesPlan:
    """How an array of any library is rotated by tables that come with each call."""

    __slots__ = ("_call",)

    def __init__(self, call: TablesCall) -> None:
        self._call = call.without_arrays()

    def __call__(
        self,
        arrays: Sequence[Array],
        tables: tuple[Array, ...],
        outputs: Sequence[Array] | None,
    ) -> Sequence[Array]:
        """Return the array rotated."""
        call = self._call
        (x,), (cosine, sine) = arrays, tables
        (output,) = outputs or (None,)
        if output is not None:
            call.check_output(x, (cosine, sine), output)
        (pairing,) = call.spec.pairings
        table = call.read(x, (cosine, sine))
        return [portable.rotate(x, table, call.spec.axes, pairing, output)]


def _of_block(
    look_up: Callable[..., Any], angles: Any, dtype: TableDType, rows: RowPositions
) -> Table:
    """Return the table of a block of rows, with angles, dtype and look-up bound, so that it can be pickled."""
    table: Table
    (table,) = look_up([(angles, rows, dtype)])
    return table


def _rotated(x: Array, spec: ArraySpec, own: _Own, output: Array | None) -> Array:
    """Return an array after all passes, each of which rotates other channels, or write it to `output`."""
    if own.second is not None:
        return _mixed(x, spec, own, output)
    for pairing, table in zip(spec.pairings, own.tables, strict=True):
        x = own.backend.rotate(x, table, own.axes, pairing, output)
        if output is None and isinstance(x, np.ndarray):
            output = x  # nobody else has it yet, so that later passes may write to it
    return x


def _mixed(x: Array, spec: ArraySpec, own: _Own, output: Array | None) -> Array:
    """Return an array whose pairs' two channels are made by angles of their own.

    Both rotations are made in full, which takes twice the time, in the precision of the tables, and
    of each the channels that it is meant for are taken.
    """
    (pairing,), (first,) = spec.pairings, own.tables
    if isinstance(x, np.ndarray) and isinstance(first, TracedTable):
        x = libraries.namespace(first.cosine).asarray(x)
    rotated = partial(own.backend.rotate, axes=own.axes, pairing=pairing)
    xp = libraries.namespace(x)
    wide = xp.astype(x, getattr(xp, spec.dtype))
    layout = pairing.source if pairing.inverse else pairing.target
    second = _second_channels(pairing, layout, x)
    if pairing.inverse:  # the transpose: what each rotation made it takes back
        nothing = xp.zeros_like(wide)
        result = rotated(xp.where(second, nothing, wide), first)
        result = result + rotated(xp.where(second, wide, nothing), own.second)
    else:
        result = rotated(wide, first)
        other = rotated(wide, own.second)
        result = libraries.namespace(result).where(second, other, result)
    result = libraries.namespace(result).astype(result, x.dtype)
    if output is None:
        return result
    output[...] = result
    return output


def _second_channels(pairing: Pairing, layout: Layout, x: Array) -> Array:
    """Return, for every channel of an array, whether it is the second one of a pair."""
    second = np.zeros(x.shape[-1], bool)
    second[pairing.start + pair_channels(2 * pairing.pairs, layout)[1]] = True
    return libraries.from_host(second, libraries.namespace(x), x)


def _lies_on_gpu(positions: Array) -> bool:
    """Return whether positions lie in the memory of a GPU."""
    from .cuda.memory import owner_of

    return owner_of(positions) is not None


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
        if isinstance(x, np.ndarray) and _lies_on_gpu(positions):
            msg = f"`{name}` must lie on the GPU, as `positions`, got an array on the host"
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
