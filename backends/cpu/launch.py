"""Calls of the compiled kernels, which fill tables and rotate NumPy arrays.

This module imports Numba, and is therefore imported only when the first table is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np

# Numba would import numpy.ma at its first call, and a fork at that moment would leave the import lock taken.
import numpy.ma

from rotary._lib.libraries import dtype_name
from rotary._lib.typing import HostArray, TableDType
from rotary.angles.phases import Frequencies, multipliers
from rotary.backends import portable
from rotary.backends.contract import ArrayNorm, Axes, Norm, Pairing, Table, TableRows
from rotary.layouts import LAYOUTS, Layout
from rotary.runtime.pool import empty_like

from .jit import Variant, _compiled, compiled, entry_point
from .kernels import DONE, FACTORS
from .threads import (
    BYTES_PER_THREAD,
    HALF_BYTES_PER_THREAD,
    ROW_BYTES_PER_THREAD,
    numba_threads_started,
    start_numba_threads,
    threads_for,
)

# The dtype as which Numba reads each dtype: 16-bit floats as unsigned integers, a complex channel as two real ones.
STORAGE = {
    "float16": "uint16",
    "bfloat16": "uint16",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}
# Whether `rotate` takes a `DeferredTable` and defers the work.
DEFERS = False
# The file in which Linux gives the size of the largest cache, such as "32768K", and the size assumed without the file.
LARGEST_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
DEFAULT_CACHE_SIZE = 96 * 2**20
# The result of a launch if Numba fails. Otherwise it is DONE, BEYOND_TABLE or OVERLAP of `kernels`.
NO_KERNEL = -1

# The index of a block of one array, that of the block of another array that is rotated with it, and the index of
# their positions on the extra axes.
Block: TypeAlias = tuple[Any, Any, tuple[int, ...]]


@cache
def streaming_size() -> int:
    """Return the number of bytes, read and written, from which results bypass the caches.

    A smaller result, up to about a third of the largest cache, is still cached when the caller reads it. For a larger
    one, ordinary writes are slower, because they read the memory that they overwrite.
    """
    try:
        size = int(LARGEST_CACHE.read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        size = DEFAULT_CACHE_SIZE
    return max(size // 3, 8 * 2**20)


# ------------------------------------------------------------------------------------------------
# The functions of every backend.


def fill_table(
    frequencies: Frequencies,
    positions: HostArray,
    factor: float,
    table: HostArray,
    row: int,
) -> None:
    """Fill a table (2, heads, rows, pairs) for positions (axes, n), from row ``row`` on."""
    variant = Variant("table", table.dtype.name)
    kernel = _compiled.get(variant) or compiled(variant)
    if kernel is None:
        portable.fill_table(frequencies, positions, factor, table, row)
        return
    threads, nbytes = (1, 0), 2 * positions.shape[1] * table[0, :, 0].nbytes
    if nbytes >= 2 * ROW_BYTES_PER_THREAD:
        threads = threads_for(nbytes, ROW_BYTES_PER_THREAD)
    numbers = multipliers(positions)
    kernel(frequencies.limbs, frequencies.negative, *numbers, factor, table, row, *threads)


def rotate(
    x: HostArray, table: Table, axes: Axes, pairing: Pairing, out: HostArray | None = None
) -> HostArray:
    """Return x rotated, as a new array or in `out`, which may be x itself.

    An array is copied only if its last axis is not contiguous or its byte order is not native.
    """
    if not x.size:
        return np.empty_like(x, subok=False) if out is None else out
    source = x if is_kernel_readable(x) else np.array(x, x.dtype.newbyteorder("="), order="C")
    target = out if out is not None and is_kernel_readable(out) else empty_like(source)
    if not _rotate_into(target, source, table, axes, pairing):
        result: HostArray = portable.rotate(x, table, axes, pairing, out)
        return result
    if target is out:
        return target
    if out is None:
        return target if x.dtype.isnative else target.astype(x.dtype)
    out[...] = target
    return out


def weights_of(
    weights: Sequence[HostArray], of: ArrayNorm, dtype: TableDType, *, unit_offset: bool
) -> HostArray:
    """Return what the channels of an array are multiplied by, as the kernel reads it: ones without a weight."""
    if of.weight is None:
        return np.ones(of.shape[-1], dtype)
    own: HostArray = np.ascontiguousarray(weights[of.weight], dtype).reshape(-1)
    if unit_offset:
        own = np.add(own, 1, dtype=dtype)
    return own


def normed(
    x: HostArray, weight: HostArray | None, norm: Norm, of: ArrayNorm, dtype: TableDType
) -> HostArray:
    """Return x normed, in the dtype that it is computed in, with the bits of the kernel that also rotates."""
    function = compiled(Variant("factors", dtype))
    if function is None:
        found: HostArray = portable.normed(x, weight, norm, of, dtype)
        return found
    heads = [] if of.heads is None else [of.heads]
    order = [*(axis for axis in range(x.ndim - 1) if axis not in heads), *heads, x.ndim - 1]
    wide = np.array(x.transpose(order), dtype, order="C")
    factors = np.empty(wide.shape[: -1 - len(heads)], dtype)
    count = x.shape[of.heads] if of.heads is not None else 1
    divisor = float(of.squares if norm.mean else 1)
    if x.size:
        rows = wide.reshape(-1, count, x.shape[-1])
        sums = np.zeros(count + 2 * FACTORS)
        function(rows, factors.reshape(-1), sums, norm.eps, divisor)
    wide *= np.expand_dims(factors, [*range(-1 - len(heads), 0)])
    result = wide.transpose(np.argsort(order))
    if weight is not None:
        own = weights_of([weight], of._replace(weight=0), dtype, unit_offset=norm.unit_offset)
        result *= own.reshape(of.shape)
    return result


def is_kernel_readable(x: HostArray) -> bool:
    """Return whether the kernels can read an array without a copy."""
    return bool(x.strides[-1] == x.itemsize and x.dtype.isnative)


def as_interleaved(pairing: Pairing) -> Pairing:
    """Return the pairing of a complex array, counted in real channels."""
    return Pairing(2 * pairing.start, pairing.pairs, "interleaved", "interleaved", pairing.inverse)


def _rotate_into(out: HostArray, x: HostArray, table: Table, axes: Axes, pairing: Pairing) -> bool:
    """Run the kernel on arrays that are the same or do not overlap; return False if there is no kernel."""
    in_place = out is x
    source, target = x, out
    if x.dtype.kind == "c":
        real = STORAGE[dtype_name(x)]
        source, target, pairing = x.view(real), out.view(real), as_interleaved(pairing)
    blocks = blocks_of(source, target, axes, pairing)
    streaming = not in_place and 2 * x.nbytes >= streaming_size()
    launch = Launch(
        dtype_name(source), [blocks.geometry], pairing, nbytes=x.nbytes, streaming=streaming
    )
    kernel = launch.ready()
    if kernel is None:
        return False
    same_twice = [
        (index, index, extra_index)
        for index, extra_index in zip(blocks.indices, blocks.extra_indices, strict=True)
    ]
    rows = table.values, table.index, 0, table.values.shape[2], table.step
    launch.rotate_blocks(same_twice, kernel, (source, source), (target, target), rows)
    return True


class Launch:
    """A prepared kernel call for one array, or for two of the same dtype; only the addresses are missing.

    Parameters
    ----------
    dtype : str
        The dtype of the arrays, which are real.
    geometry : sequence of sequence of int
        The sizes and strides of each array and its result.
    pairing : Pairing
    nbytes : int
        The size of the arrays, which decides the number of threads.
    streaming : bool
        Whether results bypass the caches.
    """

    __slots__ = (
        "_bytes_per_thread",
        "_geometry",
        "_geometry_address",
        "_inverse",
        "_nbytes",
        "_scratch_per_thread",
        "_storage",
        "_variant",
        "kernel",
    )

    def __init__(
        self,
        dtype: str,
        geometry: Sequence[Sequence[int]],
        pairing: Pairing,
        *,
        nbytes: int,
        streaming: bool,
    ) -> None:
        self._variant = Variant("rotation", dtype, pairing.target, streaming)
        self._storage = STORAGE[dtype]
        self._geometry = np.array(geometry, np.int64)
        self._geometry_address = self._geometry.ctypes.data
        self._nbytes = nbytes
        half = np.dtype(self._storage).itemsize == 2
        self._bytes_per_thread = HALF_BYTES_PER_THREAD if half else BYTES_PER_THREAD
        self._inverse = int(pairing.inverse)
        # If the layout changes, each thread needs scratch memory for the rotated channels of a row.
        row_bytes = 2 * pairing.pairs * np.dtype(self._storage).itemsize
        self._scratch_per_thread = row_bytes if pairing.source != pairing.target else 0
        # The result of `ready` once it is known.
        self.kernel: tuple[Callable[..., int], int] | None = None

    def __call__(
        self, arrays: Sequence[HostArray], results: Sequence[HostArray], rows: TableRows
    ) -> int:
        """Rotate arrays of four axes and return the result of the kernel: DONE, or the reason why it did nothing."""
        kernel = self.kernel or self.ready()
        if kernel is None:
            return NO_KERNEL
        run, address = kernel
        threads = 1, 0
        if self._nbytes >= 2 * self._bytes_per_thread:
            threads = threads_for(self._nbytes, self._bytes_per_thread)
        scratch = None
        if self._scratch_per_thread:
            scratch = np.empty(threads[0] * self._scratch_per_thread, np.uint8)
        values, index, start, stop, step = rows
        return run(
            address,
            self._geometry_address,
            len(self._geometry),
            arrays[0],
            results[0],
            arrays[-1],
            results[-1],
            values,
            index,
            start,
            stop,
            step,
            self._inverse,
            0,
            0 if scratch is None else scratch.ctypes.data,
            *threads,
        )

    def ready(self) -> tuple[Callable[..., int], int] | None:
        """Return the function that calls the kernel and the address of the kernel, or None if Numba fails."""
        kernel, call = compiled(self._variant), compiled(Variant("call", self._storage))
        if kernel is None or call is None:
            return None
        self.kernel = entry_point(call), kernel.address
        return self.kernel

    def rotate_blocks(
        self,
        blocks: Sequence[Block],
        kernel: tuple[Callable[..., int], int],
        arrays: tuple[HostArray, HostArray],
        results: tuple[HostArray, HostArray],
        rows: TableRows,
    ) -> None:
        """Rotate all blocks of two arrays, or of one array that is given twice.

        The caller has checked that the table has a row for every position, and that no memory overlaps.
        """
        run, address = kernel
        threads = 1, 0
        if self._nbytes >= 2 * self._bytes_per_thread:
            threads = threads_for(self._nbytes, self._bytes_per_thread)
        scratch = None
        if self._scratch_per_thread:
            scratch = np.empty(threads[0] * self._scratch_per_thread, np.uint8)
        values, index, start, stop, step = rows
        for first, last, extra_index in blocks:
            status = run(
                address,
                self._geometry_address,
                len(self._geometry),
                arrays[0][first],
                results[0][first],
                arrays[1][last],
                results[1][last],
                values,
                index[extra_index],
                start,
                stop,
                step,
                self._inverse,
                1,
                0 if scratch is None else scratch.ctypes.data,
                *threads,
            )
            assert status == DONE, (
                f"the table has no row for a position: the kernel returned {status}"
            )


class Blocks(NamedTuple):
    """The blocks of four axes that make up an array. The kernel rotates one block at a time.

    Attributes
    ----------
    geometry : list of int
        The sizes and strides of each block and its result, in the order of the kernel.
    indices : list of tuple
        The index of each block.
    extra_indices : list of tuple of int
        The index of the positions of each block on the extra axes.
    """

    geometry: list[int]
    indices: list[Any]
    extra_indices: list[tuple[int, ...]]


def blocks_of(x: HostArray, out: HostArray, axes: Axes, pairing: Pairing) -> Blocks:
    """Return the blocks of a non-empty array and of its result."""
    front = (axes.sequence,) if axes.batch is None else (axes.batch, axes.sequence)
    heads = axes.head_axes(x.ndim)
    # Blocks are the slices along all other axes, because strided axes cannot be merged without a copy.
    iterated = (*axes.extra, *heads[:-1])
    new = (None,) * (4 - (x.ndim - len(iterated)))
    indices, extra_indices = [], []
    for index in np.ndindex(tuple([x.shape[axis] for axis in iterated])):
        index_of = dict(zip(iterated, index, strict=True))
        indices.append((*new, *(index_of.get(axis, slice(None)) for axis in range(x.ndim))))
        extra_indices.append(index[: len(axes.extra)])
    order = (*iterated, *front, *heads[-1:], x.ndim - 1)
    x, out = x.transpose(order), out.transpose(order)
    if axes.batch is None:
        x, out = (np.expand_dims(each, len(iterated)) for each in (x, out))
    if not heads:
        x, out = (np.expand_dims(each, -2) for each in (x, out))
    first = (0,) * len(iterated)
    return Blocks(_geometry(x[first], out[first], pairing), indices, extra_indices)


def _geometry(x: HostArray, out: HostArray, pairing: Pairing) -> list[int]:
    """Return the sizes and strides of an array (batch, sequence, heads, channels) and its result, for the kernel."""
    batch, length, heads, width = x.shape
    before = pairing.start
    after = width - before - 2 * pairing.pairs
    return [
        batch * length,
        length,
        heads,
        *x.strides[:3],
        *out.strides[:3],
        before * x.itemsize,
        after * x.itemsize,
        pairing.source != pairing.target,
        *_byte_range(x),
        *_byte_range(out),
    ]


def _byte_range(x: HostArray) -> tuple[int, int]:
    """Return the start and the end of the memory of an array, in bytes from its first element."""
    spans = [stride * (size - 1) for stride, size in zip(x.strides, x.shape, strict=True)]
    return sum(min(span, 0) for span in spans), sum(max(span, 0) for span in spans) + x.itemsize


# ------------------------------------------------------------------------------------------------
# For `rotary.warm_up` and `rotary.show_config`.


def warm_up(dtype: str) -> None:
    """Compile every kernel that a rotation of arrays of a dtype may use."""
    storage = STORAGE[dtype]
    layouts: Sequence[Layout] = ("interleaved",) if dtype.startswith("complex") else LAYOUTS
    start_numba_threads()
    compiled(Variant("call", storage))
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    for layout, streaming in product(layouts, (False, True)):
        compiled(Variant("rotation", real, layout, streaming))
    compiled(Variant("table", "float64" if storage == "float64" else "float32"))


def configuration() -> list[tuple[str, Any]]:
    """Return the settings that affect speed, as (name, value)."""
    started = numba_threads_started()
    # A compiled rotation has no `stats`, and is in the same folder as the function that calls it.
    folders = {
        str(function.stats.cache_path)
        for variant, function in _compiled.items()
        if not variant.is_kernel
    }
    return [
        ("threading layer", numba.threading_layer() if started else "not started"),
        ("numba threads", numba.config.NUMBA_NUM_THREADS),
        ("cache folder", ", ".join(sorted(folders)) or "none yet"),
        (
            "compiled",
            ", ".join(sorted(f"{each.name} {each.dtype}" for each in _compiled)) or "nothing yet",
        ),
    ]
