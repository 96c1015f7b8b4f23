"""Calls the compiled kernels: they fill tables and rotate NumPy arrays.

This module imports Numba. So it is itself imported only when the first table is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np

# Numba would import this at its first call, and a fork at that moment would leave its import lock taken.
import numpy.ma

from rotary._lib.libraries import dtype_name
from rotary._lib.typing import HostArray
from rotary.angles.phases import Frequencies, multipliers
from rotary.backends import portable
from rotary.backends.contract import Axes, Pairing, Table, TableRows
from rotary.layouts import LAYOUTS, Layout
from rotary.runtime.pool import empty_like

from .jit import Variant, _compiled, compiled, entry_point
from .kernels import DONE
from .threads import (
    BYTES_PER_THREAD,
    HALF_BYTES_PER_THREAD,
    ROW_BYTES_PER_THREAD,
    _numba_threads_start,
    _numba_threads_started,
    threads_for,
)

# How Numba reads a channel of each dtype: a 16-bit number as its bits, a complex one as two real channels.
STORAGE = {
    "float16": "uint16",
    "bfloat16": "uint16",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}
# Whether `rotate` takes a recipe and puts the work off.
LAZY = False
# The file in which Linux gives the size of the largest cache, such as "32768K", and the bytes assumed without it.
LARGEST_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
CACHE_UNKNOWN = 96 * 2**20
# What a launch returns if Numba fails; else it returns DONE, BEYOND_TABLE or OVERLAP of `kernels`.
NO_KERNEL = -1

# What selects a part of one array, the part of another that is rotated with it, and their rows of a table's index.
Block: TypeAlias = tuple[Any, Any, tuple[int, ...]]


@cache
def streaming_size() -> int:
    """Return from how many bytes, read and written, a result is written past the caches.

    Below about a third of the largest cache it is there when the caller reads it. Above, ordinary writes
    only cost: what they overwrite is read first.
    """
    try:
        size = int(LARGEST_CACHE.read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        size = CACHE_UNKNOWN
    return max(size // 3, 8 * 2**20)


# ------------------------------------------------------------------------------------------------
# What every backend does.


def fill_table(
    frequencies: Frequencies,
    positions: HostArray,
    factor: float,
    table: HostArray,
    row: int,
) -> None:
    """Fill a table (2, heads, rows, pairs) for positions (axes, n), beginning at ``row``."""
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
    """Return x rotated, a new array or `out`, which may be x itself.

    Only an array whose channels do not lie one after another, or which is byte-swapped, is copied.
    """
    if not x.size:
        return np.empty_like(x, subok=False) if out is None else out
    source = x if is_plain(x) else np.array(x, x.dtype.newbyteorder("="), order="C")
    target = out if out is not None and is_plain(out) else empty_like(source)
    if not _rotate_into(target, source, table, axes, pairing):
        result: HostArray = portable.rotate(x, table, axes, pairing, out)
        return result
    if target is out:
        return target
    if out is None:
        return target if x.dtype.isnative else target.astype(x.dtype)
    out[...] = target
    return out


def is_plain(x: HostArray) -> bool:
    """Return whether the kernels can read an array where it lies."""
    return bool(x.strides[-1] == x.itemsize and x.dtype.isnative)


def as_interleaved(pairing: Pairing) -> Pairing:
    """Return how the channels of a complex array pair, counted as real ones."""
    return Pairing(2 * pairing.start, pairing.pairs, "interleaved", "interleaved", pairing.inverse)


def _rotate_into(out: HostArray, x: HostArray, table: Table, axes: Axes, pairing: Pairing) -> bool:
    """Run the kernel on plain arrays, which are the same or do not overlap, and return whether there is one."""
    in_place = out is x
    source, target = x, out
    if x.dtype.kind == "c":
        real = STORAGE[dtype_name(x)]
        source, target, pairing = x.view(real), out.view(real), as_interleaved(pairing)
    parts = parts_of(source, target, axes, pairing)
    streaming = not in_place and 2 * x.nbytes >= streaming_size()
    launch = Launch(
        dtype_name(source), [parts.geometry], pairing, nbytes=x.nbytes, streaming=streaming
    )
    kernel = launch.ready()
    if kernel is None:
        return False
    each = [(index, index, place) for index, place in zip(parts.indices, parts.places, strict=True)]
    rows = table.values, table.index, 0, table.values.shape[2], table.step
    launch.over(each, kernel, (source, source), (target, target), rows)
    return True


class Launch:
    """A call of the kernel for one array, or two of a dtype, of which all is known but the addresses.

    Parameters
    ----------
    dtype : str
        Of the arrays, which are real.
    geometry : sequence of sequence of int
        How each array and its result lie in memory.
    pairing : Pairing
    nbytes : int
        How much is rotated, which decides how many threads do it.
    streaming : bool
        Whether results are written past the caches.
    """

    __slots__ = (
        "_address",
        "_aside",
        "_bytes_per_thread",
        "_inverse",
        "_layout",
        "_nbytes",
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
        self._layout = np.array(geometry, np.int64)
        self._address = self._layout.ctypes.data
        self._nbytes = nbytes
        half = np.dtype(self._storage).itemsize == 2
        self._bytes_per_thread = HALF_BYTES_PER_THREAD if half else BYTES_PER_THREAD
        self._inverse = int(pairing.inverse)
        # The bytes of a row if its layout changes.
        moves = pairing.source != pairing.target
        self._aside = 2 * pairing.pairs * np.dtype(self._storage).itemsize if moves else 0
        # What `ready` returns once it is known.
        self.kernel: tuple[Callable[..., int], int] | None = None

    def __call__(
        self, arrays: Sequence[HostArray], results: Sequence[HostArray], rows: TableRows
    ) -> int:
        """Rotate arrays of four axes, in whatever order.

        Returns what the kernel answers: 0, or why it did nothing.
        """
        kernel = self.kernel or self.ready()
        if kernel is None:
            return NO_KERNEL
        run, address = kernel
        threads = 1, 0
        if self._nbytes >= 2 * self._bytes_per_thread:
            threads = threads_for(self._nbytes, self._bytes_per_thread)
        aside = np.empty(threads[0] * self._aside, np.uint8) if self._aside else None
        values, index, start, stop, step = rows
        return run(
            address,
            self._address,
            len(self._layout),
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
            0 if aside is None else aside.ctypes.data,
            *threads,
        )

    def ready(self) -> tuple[Callable[..., int], int] | None:
        """Return the function that calls the kernel, and the kernel's address; None if Numba fails."""
        kernel, call = compiled(self._variant), compiled(Variant("call", self._storage))
        if kernel is None or call is None:
            return None
        self.kernel = entry_point(call), kernel.address
        return self.kernel

    def over(
        self,
        blocks: Sequence[Block],
        kernel: tuple[Callable[..., int], int],
        arrays: tuple[HostArray, HostArray],
        results: tuple[HostArray, HostArray],
        rows: TableRows,
    ) -> None:
        """Rotate all parts of one array, given twice, or of two, by a kernel that is ready.

        The table has a row for every position, and no result lies where it must not.
        """
        run, address = kernel
        threads = 1, 0
        if self._nbytes >= 2 * self._bytes_per_thread:
            threads = threads_for(self._nbytes, self._bytes_per_thread)
        aside = np.empty(threads[0] * self._aside, np.uint8) if self._aside else None
        values, index, start, stop, step = rows
        for first, last, place in blocks:
            answer = run(
                address,
                self._address,
                len(self._layout),
                arrays[0][first],
                results[0][first],
                arrays[1][last],
                results[1][last],
                values,
                index[place],
                start,
                stop,
                step,
                self._inverse,
                1,
                0 if aside is None else aside.ctypes.data,
                *threads,
            )
            assert answer == DONE, (
                f"the table has no row for some position: the kernel answers {answer}"
            )


class Parts(NamedTuple):
    """The parts of four axes that together are all of an array, of which the kernel takes one at a time.

    Attributes
    ----------
    geometry : list of int
        How each part and its result lie in memory, in the kernel's order.
    indices : list of tuple
        What selects each part.
    places : list of tuple of int
        The index of its positions on the extra axes.
    """

    geometry: list[int]
    indices: list[Any]
    places: list[tuple[int, ...]]


def parts_of(x: HostArray, out: HostArray, axes: Axes, pairing: Pairing) -> Parts:
    """Return the parts of an array, which has elements, and of its result."""
    front = (axes.sequence,) if axes.batch is None else (axes.batch, axes.sequence)
    heads = axes.head_axes(x.ndim)
    # Axes beyond these are walked here: strided ones cannot be merged without a copy.
    walked = (*axes.extra, *heads[:-1])
    new = (None,) * (4 - (x.ndim - len(walked)))
    indices, places = [], []
    for index in np.ndindex(tuple([x.shape[axis] for axis in walked])):
        at = dict(zip(walked, index, strict=True))
        indices.append((*new, *(at.get(axis, slice(None)) for axis in range(x.ndim))))
        places.append(index[: len(axes.extra)])
    order = (*walked, *front, *heads[-1:], x.ndim - 1)
    x, out = x.transpose(order), out.transpose(order)
    if axes.batch is None:
        x, out = (np.expand_dims(each, len(walked)) for each in (x, out))
    if not heads:
        x, out = (np.expand_dims(each, -2) for each in (x, out))
    first = (0,) * len(walked)
    return Parts(_geometry(x[first], out[first], pairing), indices, places)


def _geometry(x: HostArray, out: HostArray, pairing: Pairing) -> list[int]:
    """Return how an array (batch, sequence, heads, channels) and its result lie, in the kernel's order."""
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
        *_extent(x),
        *_extent(out),
    ]


def _extent(x: HostArray) -> tuple[int, int]:
    """Return where an array's memory begins and ends, in bytes from its first element."""
    reach = [step * (n - 1) for step, n in zip(x.strides, x.shape, strict=True)]
    return sum(min(each, 0) for each in reach), sum(max(each, 0) for each in reach) + x.itemsize


# ------------------------------------------------------------------------------------------------
# For `rotary.warm_up` and `rotary.show_config`.


def warm_up(dtype: str) -> None:
    """Compile everything that rotating arrays of a dtype may run."""
    storage = STORAGE[dtype]
    layouts: Sequence[Layout] = ("interleaved",) if dtype.startswith("complex") else LAYOUTS
    _numba_threads_start()
    compiled(Variant("call", storage))
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    for layout, streaming in product(layouts, (False, True)):
        compiled(Variant("rotation", real, layout, streaming))
    compiled(Variant("table", "float64" if storage == "float64" else "float32"))


def configuration() -> list[tuple[str, Any]]:
    """Return what decides about speed here, by name."""
    started = _numba_threads_started()
    # A kernel that rotates is in the same folder as the function that calls it.
    folders = {
        str(function.stats.cache_path)
        for variant, function in _compiled.items()
        if variant.kind != "rotation"
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
