"""The delegation layer: checks the arguments of a rotation, all of them, then runs its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib import libraries, memo
from rotary._lib.memo import Memo
from rotary._lib.typing import Array, TableDType
from rotary.backends import kernel_for, portable
from rotary.backends.contract import (
    Angles,
    Axes,
    Call,
    Frame,
    Pairing,
    PositionArgs,
    Recipe,
    Rows,
    Table,
    TracedTable,
    Turns,
)
from rotary.layouts import Layout, pair_channels
from rotary.tables import lookup as tables
from rotary.tables.windows import Reader as TableReader

from .arrays import as_outputs, check_array, check_of_library, names_of
from .rows import Extent, Read, Where, read_delta, read_move
from .shapes import AxisOptions, Shape, frames_of, shape_of

AnyTable: TypeAlias = Table | TracedTable | Recipe


def rotate(
    arrays: Sequence[Array],
    turns: Sequence[Turns],
    *,
    head_dim: int,
    leading: bool,
    axes: AxisOptions,
    read: Read,
    out: Any,
) -> Array | tuple[Array, ...]:
    """Rotate arrays by an embedding's frequencies.

    Parameters
    ----------
    arrays : sequence of array
        Each of `head_dim` channels, or half as many complex ones, on its last axis.
    turns : sequence of Turns
        For each array the passes over it, which turn channels of their own, counted as real ones.
    head_dim : int
    leading : bool
        Whether positions lead with the position axes.
    axes : AxisOptions
        Which axes the call and the embedding name.
    read : callable
        Returns the positions of all rows, given the `Extent` that they have to fit.
    out : array, sequence of array or None
        As the caller gave it.

    Returns
    -------
    array, or tuple of array where there are several
    """
    names = names_of(arrays)
    if not arrays:
        msg = "`arrays` must hold at least one array, got none"
        raise TypeError(msg)
    # What is no rotation is made of two, by the library's own operations.
    if turns[0].second is None and any(type(x) is not np.ndarray for x in arrays):
        options = {"head_dim": head_dim, "leading": leading, "axes": axes}
        results = _on_gpu(arrays, turns, names, options, read, out)
        if results is not None:
            return results[0] if len(results) == 1 else tuple(results)
    for x, name in zip(arrays, names, strict=True):
        check_of_library(x, name)
        check_array(x, name)
    shapes = tuple(map(shape_of, arrays, names))
    first = turns[0]
    frequencies = first.angles[0].frequencies
    frames, fits, length = frames_of(shapes, axes, head_dim, first.pairings, frequencies.heads)
    outputs = as_outputs(out, arrays, names)
    if first.second is not None:
        _check_real(shapes)
    rows = read(Extent(fits, length, frequencies.axes, leading))
    if rows.traced:
        _check_traced(rows.positions, arrays, names, outputs)
    # Every table is made before the first array is written to.
    found: dict[Any, Table | TracedTable] = {}
    plans = [
        _plan(x, frame, own, rows, found)
        for x, frame, own in zip(arrays, frames, turns, strict=True)
    ]
    turned = [
        _turn(x, frame, plan, output)
        for x, frame, plan, output in zip(arrays, frames, plans, outputs, strict=True)
    ]
    return turned[0] if len(turned) == 1 else tuple(turned)


# ------------------------------------------------------------------------------------------------
# Arrays on a GPU.

PLANS_REMEMBERED = 1024
_plans: Memo[Any, Any] = memo.plans(PLANS_REMEMBERED)
# Reads positions, given the limits of the embeddings.
ReadPositions: TypeAlias = Callable[[Any, PositionArgs, Extent], Rows]


def _on_gpu(
    arrays: Sequence[Array],
    turns: Sequence[Turns],
    names: Sequence[str],
    options: dict[str, Any],
    read: Read,
    out: Any,
) -> Sequence[Array] | None:
    """Return arrays rotated by the plan of calls like this one; None if a GPU's kernels have no part in it."""
    from rotary.backends.cuda import memory
    from rotary.backends.cuda.plan import plan as plan_of

    owner = memory.owner_of_all(arrays, names_of)
    if owner is None:
        return None
    outputs = list(out) if isinstance(out, tuple | list) else None if out is None else [out]
    if outputs is not None and len(outputs) != len(arrays):
        return None  # which is found to be an error
    layout = memory.key_of(arrays, outputs, owner)
    if layout is None:
        return None  # which is found to be an error, if it is one
    positions, reader, limits = _spread_out(read)
    key = (*layout, *options.values(), reader, limits, *map(id, turns))
    plan = _plans.get(key)
    if plan is None:
        for x, name in zip(arrays, names, strict=True):
            check_array(x, name)
        as_outputs(outputs, arrays, names)
        call = _call_of(arrays, outputs, turns, names, options, reader, limits)
        plan = _plans.keep(key, plan_of(call, owner))
    results: Sequence[Array] | None = plan(arrays, positions, outputs)
    return results


def _call_of(
    arrays: Sequence[Array],
    outputs: Sequence[Array] | None,
    turns: Sequence[Turns],
    names: Sequence[str],
    options: dict[str, Any],
    reader: ReadPositions,
    limits: Any,
) -> Call:
    """Return a call as a backend plans it."""
    shapes = tuple(map(shape_of, arrays, names))
    first = turns[0]
    frequencies = first.angles[0].frequencies
    frames, fits, length = frames_of(
        shapes, options["axes"], options["head_dim"], first.pairings, frequencies.heads
    )
    read = partial(reader, limits)
    # Made once, because their identity is part of a key.
    backwards = [_transposed(each) for each in turns]

    def transpose(gradients: Sequence[Array], positions: PositionArgs) -> tuple[Array, ...]:
        turned = rotate(gradients, backwards, **options, read=partial(read, positions), out=None)
        return turned if isinstance(turned, tuple) else (turned,)

    def check_outputs(arrays: Sequence[Array], outputs: Sequence[Array]) -> None:
        as_outputs(outputs, arrays, names)

    return Call(
        arrays,
        outputs,
        tuple(names),
        tuple(turns),
        frames,
        Extent(fits, length, frequencies.axes, options["leading"]),
        limits if reader is _read_where else None,
        read,
        tables.table_of,
        _reader,
        check_outputs,
        transpose,
    )


def _spread_out(read: Read) -> tuple[PositionArgs, ReadPositions, Any]:
    """Return the position arguments of a call, what reads them, and the limits that it is given."""
    if isinstance(read, Where):
        return (read.positions, read.offset, read.cu_seqlens, None), _read_where, read.limit
    if isinstance(read, partial) and read.func is read_delta:
        delta, bounds = read.args
        return (None, None, bounds, delta), _read_delta, None
    if isinstance(read, partial) and read.func is read_move:
        delta, positions, offset, bounds, *limits = read.args
        return (positions, offset, bounds, delta), _read_move, tuple(limits)
    return (None, None, None, read), _read_given, None


def _read_where(limit: Any, positions: PositionArgs, extent: Extent) -> Rows:
    return Where(*positions[:3], limit)(extent)


def _read_delta(_: Any, positions: PositionArgs, extent: Extent) -> Rows:
    return read_delta(positions[3], positions[2], extent)


def _read_move(limits: Any, positions: PositionArgs, extent: Extent) -> Rows:
    given, offset, bounds, delta = positions
    old_limit, new_limit = limits
    return read_move(delta, given, offset, bounds, old_limit, new_limit, extent)


def _read_given(_: Any, positions: PositionArgs, extent: Extent) -> Rows:
    rows: Rows = positions[3](extent)
    return rows


def _reader(angles: Angles, dtype: TableDType) -> TableReader:
    return TableReader(angles.frequencies, angles.factor, dtype)


def _transposed(turns: Turns) -> Turns:
    """Return the passes of the transposed rotation."""
    return turns._replace(pairings=tuple(each.transposed() for each in turns.pairings))


# ------------------------------------------------------------------------------------------------
# Arrays elsewhere.


class _Plan(NamedTuple):
    """The kernel of an array, the axes of its positions, and the tables of its passes."""

    backend: ModuleType
    axes: Axes
    tables: Sequence[AnyTable]
    second: AnyTable | None


def _plan(
    x: Array,
    frame: Frame,
    turns: Turns,
    rows: Rows,
    found: dict[Any, Table | TracedTable],
) -> _Plan:
    """Return how an array is rotated; what has been found for an earlier one is taken from there."""
    # Traced positions need operations that can be traced, whatever the array.
    backend = portable if rows.traced else kernel_for(x)
    dtype = frame.dtype
    own, axes = rows.along(frame.axes, turns.angles[0].frequencies.heads)

    def table(angles: Angles) -> AnyTable:
        if backend.LAZY:
            return Recipe(partial(tables.lookup, angles, dtype=dtype), own)
        # In positions with a size for each axis, arrays whose axes differ read different rows.
        key = id(angles), dtype, frame.axes if rows.by_axis else None
        if key not in found:
            found[key] = tables.table_of(angles, own, dtype)
        return found[key]

    second = None if turns.second is None else table(turns.second)
    return _Plan(backend, axes, [table(angles) for angles in turns.angles], second)


def _turn(x: Array, frame: Frame, plan: _Plan, output: Array | None) -> Array:
    """Return an array after all passes, which turn channels of their own, or write it to `output`."""
    if plan.second is not None:
        return _mixed(x, frame, plan, output)
    for pairing, table in zip(frame.pairings, plan.tables, strict=True):
        x = plan.backend.rotate(x, table, plan.axes, pairing, output)
        if output is None and isinstance(x, np.ndarray):
            output = x  # nobody else has it yet, so that later passes may write to it
    return x


def _mixed(x: Array, frame: Frame, plan: _Plan, output: Array | None) -> Array:
    """Return an array whose pairs' two channels are made by angles of their own.

    Both rotations are made in full, which takes twice the time, in the precision of the tables, and
    of each the channels that it is meant for are taken.
    """
    (pairing,), (first,) = frame.pairings, plan.tables
    if isinstance(x, np.ndarray) and isinstance(first, TracedTable):
        x = libraries.namespace(first.cosine).asarray(x)
    rotated = partial(plan.backend.rotate, axes=plan.axes, pairing=pairing)
    xp = libraries.namespace(x)
    wide = xp.astype(x, getattr(xp, frame.dtype))
    layout = pairing.source if pairing.inverse else pairing.target
    second = _second_channels(pairing, layout, x)
    if pairing.inverse:  # the transpose: what each rotation made it takes back
        nothing = xp.zeros_like(wide)
        result = rotated(xp.where(second, nothing, wide), first)
        result = result + rotated(xp.where(second, wide, nothing), plan.second)
    else:
        result = rotated(wide, first)
        other = rotated(wide, plan.second)
        result = libraries.namespace(result).where(second, other, result)
    result = libraries.namespace(result).astype(result, x.dtype)
    if output is None:
        return result
    output[...] = result
    return output


def _second_channels(pairing: Pairing, layout: Layout, x: Array) -> Array:
    """Return, for every channel of an array, whether it is the second one of a pair."""
    second = np.zeros(x.shape[-1], bool)
    second[pairing.start + pair_channels(2 * pairing.lanes, layout)[1]] = True
    return libraries.from_host(second, libraries.namespace(x), x)


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


def _lies_on_gpu(positions: Array) -> bool:
    """Return whether positions lie in the memory of a GPU."""
    from rotary.backends.cuda.memory import owner_of

    return owner_of(positions) is not None


def _check_real(shapes: Sequence[Shape]) -> None:
    """Raise for complex arrays where the two channels of a pair are made by angles of their own."""
    for shape in shapes:
        if shape.is_complex:
            msg = (
                f"`{shape.name}` must be real, for the two channels of a pair do not turn together, got "
                f"dtype {shape.dtype}"
            )
            raise TypeError(msg)
