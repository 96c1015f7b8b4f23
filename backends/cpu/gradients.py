"""Gradients of NumPy arrays by positions and frequencies, in one compiled pass over memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.libraries import dtype_name
from rotary._lib.typing import Float64Array, HostArray
from rotary.backends.contract import (
    Axes,
    Call,
    Gradients,
    PositionArgs,
    RowPositions,
    Table,
)
from rotary.backends.gradients import LibraryGradients, rates
from rotary.runtime.pool import empty_like

from . import kernels
from .jit import Variant, compiled, entry_point
from .launch import STORAGE, as_interleaved, blocks_of, is_kernel_readable
from .threads import BYTES_PER_THREAD, threads_for

# Positions are summed in at most so many blocks, of at least so many each. Threads share the blocks, but which
# positions make a block depends on their number alone.
MOST_BLOCKS, LEAST_IN_BLOCK = 64, 32


class Pass(NamedTuple):
    """Kernel calls that compute the gradients of one pass over one array.

    Attributes
    ----------
    array, number : int
        Which array, and which of the passes over it.
    call : int64 array
        The entries of the kernel's call that are the same for all parts and numbers, zero elsewhere.
    indices, places : list of tuple
        Selects each part of the array, and its positions on the extra axes.
    variant : Variant
    nbytes : int
        Of the array.
    """

    array: int
    number: int
    call: HostArray
    indices: list[Any]
    places: list[tuple[int, ...]]
    variant: Variant
    nbytes: int

    def ready(self) -> Callable[[int], Any] | None:
        """Return the compiled kernel, None if Numba fails."""
        function = compiled(self.variant)
        return None if function is None else entry_point(function)


class HostGradients:
    """How the gradients of NumPy arrays of certain shapes, strides and dtypes are computed."""

    __slots__ = ("_call", "_complex", "_of_axes", "_wanted")

    def __init__(self, call: Call, wanted: frozenset[str]) -> None:
        self._call = call._replace(arrays=(), outputs=None)
        self._wanted = wanted
        self._complex = [x.dtype.kind == "c" for x in call.arrays]
        self._of_axes: dict[Any, list[Pass]] = {}

    def __call__(
        self, arrays: Sequence[HostArray], where: PositionArgs, outputs: Sequence[HostArray] | None
    ) -> Gradients:
        """Return the gradients. Every argument is looked at before the first byte is written."""
        call, wanted, count = self._call, self._wanted, len(arrays) // 2
        rows = call.read(where, call.position_shapes)
        if outputs is not None:
            call.check_outputs(arrays, outputs)
        if rows.traced:
            return LibraryGradients(call, wanted).at(rows, arrays, outputs)
        plain = [x if is_kernel_readable(x) else _copied(x) for x in arrays]
        targets = [empty_like(x) for x in plain[count:]] if "x" in wanted else plain[:count]
        if outputs is not None:
            targets = [
                y if is_kernel_readable(y) else x for x, y in zip(targets, outputs, strict=True)
            ]
        dys, xs, dxs = (
            [_as_real(x) for x in own] for own in (plain[:count], plain[count:], targets)
        )
        axes = call.passes[0].angles[0].frequencies.axes
        positions = rows.written_out(axes).astype(np.float64)
        numbers = [self._along(rows, positions, i) for i in range(count)]
        by_position = np.zeros(positions.shape)
        found = [self._along(rows, by_position, i)[0] for i in range(count)]
        passes = self._passes(numbers, dys, xs, dxs)
        tables = self._tables(rows, passes)
        ready = [own.ready() for own in passes]
        if None in ready:  # Numba has failed
            return LibraryGradients(call, wanted).at(rows, arrays, outputs)
        shares: list[Any] = [
            np.zeros((each.frequencies.heads, axes, each.frequencies.pairs))
            for each in call.passes[0].angles
        ]
        for own, kernel, table in zip(passes, ready, tables, strict=True):
            assert kernel is not None
            i = own.array
            shares[own.number] += _run(
                own,
                kernel,
                (xs[i], dys[i], dxs[i] if "x" in wanted else None),
                table,
                numbers[i][0],
                call.passes[i].angles[own.number].at(rows),
                found[i] if "positions" in wanted else None,
                summed="inv_freq" in wanted,
            )
        results: Sequence[HostArray] | None = None
        if "x" in wanted:
            results = _results(arrays[:count], targets, outputs)
        return Gradients(
            results,
            by_position if "positions" in wanted else None,
            np.concatenate(shares, axis=-1) if "inv_freq" in wanted else None,
        )

    def _along(self, rows: RowPositions, values: HostArray, i: int) -> tuple[HostArray, Axes]:
        """Return a view of values at positions in the ordinary form for one array, and its axes."""
        heads = self._call.passes[i].angles[0].frequencies.heads
        own = RowPositions(values, None, rows.length, per_array_axis=rows.per_array_axis)
        own, axes = own.for_array(self._call.specs[i].axes, heads)
        assert isinstance(own.positions, np.ndarray)
        return own.positions, axes

    def _tables(self, rows: RowPositions, passes: Sequence[Pass]) -> list[Table]:
        """Return the table of every pass."""
        call = self._call
        asked: dict[Any, Any] = {}
        keys = []
        for own in passes:
            spec = call.specs[own.array]
            angles = call.passes[own.array].angles[own.number]
            keys.append((id(angles), spec.dtype, spec.axes if rows.per_array_axis else None))
            if keys[-1] not in asked:
                along, _ = rows.for_array(spec.axes, angles.frequencies.heads)
                asked[keys[-1]] = angles, along, spec.dtype
        found: Any = dict(zip(asked, call.tables(list(asked.values())), strict=True))
        return [found[key] for key in keys]

    def _passes(
        self,
        numbers: Sequence[tuple[HostArray, Axes]],
        dys: Sequence[HostArray],
        xs: Sequence[HostArray],
        dxs: Sequence[HostArray],
    ) -> list[Pass]:
        """Return the passes over arrays whose positions, in the ordinary form, have these shapes and axes."""
        key = tuple([(positions.shape, axes) for positions, axes in numbers])
        found = self._of_axes.get(key)
        if found is None:
            found = [
                self._pass(i, number, numbers[i], dys[i], xs[i], dxs[i])
                for i, spec in enumerate(self._call.specs)
                for number in range(len(spec.pairings))
                if xs[i].size
            ]
            self._of_axes[key] = found
        return found

    def _pass(
        self,
        i: int,
        number: int,
        along: tuple[HostArray, Axes],
        dy: HostArray,
        x: HostArray,
        dx: HostArray,
    ) -> Pass:
        """Return one pass over one array."""
        positions, axes = along
        spec = self._call.specs[i]
        pairing = spec.pairings[number]
        if self._complex[i]:
            pairing = as_interleaved(pairing)
        parts, others = blocks_of(x, dx, axes, pairing), blocks_of(dy, dx, axes, pairing)
        tokens, length, heads, *strides = parts.geometry[:9]
        before, after = parts.geometry[9:11]
        batch = tokens // length
        repeats = batch if positions.shape[-2] == 1 else 1
        kept = "x" in self._wanted
        angles = self._call.passes[i].angles[number]
        call = np.zeros(kernels.GRADIENT_CALL, np.int64)
        call[kernels.OF_PAIRS] = pairing.pairs
        call[kernels.OF_INVERSE] = pairing.inverse
        call[kernels.OF_HEADS : kernels.OF_X_BATCH] = heads, length
        call[kernels.OF_X_BATCH : kernels.OF_DY_BATCH] = strides[:3]
        call[kernels.OF_DY_BATCH : kernels.OF_DX_BATCH] = others.geometry[3:6]
        call[kernels.OF_DX_BATCH : kernels.OF_BEFORE] = strides[3:]
        call[kernels.OF_BEFORE : kernels.OF_COPIED] = before, after
        call[kernels.OF_COPIED] = kept and number == 0
        call[kernels.OF_MOVED] = pairing.source != pairing.target
        call[kernels.OF_KEPT], call[kernels.OF_REPEATS] = kept, repeats
        count = tokens // repeats
        call[kernels.OF_COUNT] = count
        call[kernels.OF_BLOCKS] = max(1, min(MOST_BLOCKS, count // LEAST_IN_BLOCK))
        call[kernels.OF_AXES] = angles.frequencies.axes
        call[kernels.OF_SCRATCH_SIZE] = kernels.scratch_size(pairing.pairs, x.itemsize)
        variant = Variant(
            "gradients", dtype_name(x), pairing.source, scaled=angles.scale is not None
        )
        return Pass(i, number, call, parts.indices, parts.extra_indices, variant, x.nbytes)


def _run(
    own: Pass,
    kernel: Callable[[int], Any],
    arrays: tuple[HostArray, HostArray, HostArray | None],
    table: Table,
    positions: HostArray,
    angles: Any,
    by_position: HostArray | None,
    *,
    summed: bool,
) -> Float64Array:
    """Compute the gradients of a pass, and return that by its frequencies; add to that by positions."""
    call = own.call.copy()
    values = angles.frequencies.values
    sums = np.zeros((int(call[kernels.OF_BLOCKS]), *values.shape))
    scale = None if angles.scale is None else rates(angles.scale)
    threads, team = threads_for(3 * own.nbytes, BYTES_PER_THREAD)
    scratch = np.empty(threads * int(call[kernels.OF_SCRATCH_SIZE]), np.uint8)
    call[kernels.OF_TABLE] = _address(table.values)
    call[kernels.OF_TABLES : kernels.OF_PAIRS] = table.values.shape[1:3]
    call[kernels.OF_STEP] = table.step
    call[kernels.OF_RATES] = 0 if scale is None else _address(scale)
    call[kernels.OF_SCRATCH] = _address(scratch)
    call[kernels.OF_CHUNKS :] = threads, team
    call[kernels.OF_BY_FREQUENCY_BLOCK : kernels.OF_SCRATCH] = sums.strides[:2]
    x, dy, dx = arrays
    for part, place in zip(own.indices, own.places, strict=True):
        # Positions that differ by head, as the frequencies do.
        one_head = len(values) > 1 and place
        heads = slice(place[0], place[0] + 1) if one_head else slice(None)
        frequencies = values[heads]
        index = np.ascontiguousarray(table.index[place])
        every: Any = slice(None), *place
        there = positions[every]
        call[kernels.OF_X] = _address(x[part])
        call[kernels.OF_DY] = _address(dy[part])
        call[kernels.OF_DX] = 0 if dx is None else _address(dx[part])
        call[kernels.OF_INDEX] = _address(index)
        call[kernels.OF_INDEX_BATCH : kernels.OF_STEP] = index.shape
        call[kernels.OF_GROUPS] = len(frequencies)
        call[kernels.OF_FREQUENCIES] = _address(frequencies)
        call[kernels.OF_POSITIONS : kernels.OF_BY_POSITION] = _memory(there)
        if by_position is not None:
            found = by_position[every]
            call[kernels.OF_BY_POSITION : kernels.OF_BY_FREQUENCY] = _memory(found)
        if summed:
            call[kernels.OF_BY_FREQUENCY] = _address(sums[:, heads])
        kernel(_address(call))
    summed_up: Float64Array = sums.sum(axis=0)
    return summed_up


def _address(x: HostArray) -> int:
    """Return the address of the first element of an array."""
    address: int = x.__array_interface__["data"][0]
    return address


def _memory(x: HostArray) -> tuple[int, ...]:
    """Return the address and the strides of an array (axes, batch or 1, sequence); a size of 1 is a stride of 0."""
    steps = zip(x.strides, x.shape, strict=True)
    return _address(x), *[step if size > 1 else 0 for step, size in steps]


def _copied(x: HostArray) -> HostArray:
    """Return an array in native byte order whose channels lie one after another."""
    return np.array(x, x.dtype.newbyteorder("="), order="C")


def _as_real(x: HostArray) -> HostArray:
    """Return the memory of an array as the kernel reads it: complex channels as two real ones."""
    return x.view(STORAGE[dtype_name(x)]) if x.dtype.kind == "c" else x


def _results(
    arrays: Sequence[HostArray], dxs: Sequence[HostArray], outputs: Sequence[HostArray] | None
) -> Sequence[HostArray]:
    """Return the gradients of arrays in their own byte order, or written to the outputs."""
    if outputs is None:
        return [
            dx if x.dtype.isnative else dx.astype(x.dtype)
            for x, dx in zip(arrays, dxs, strict=True)
        ]
    for dx, output in zip(dxs, outputs, strict=True):
        if dx is not output:
            output[...] = dx
    return outputs
