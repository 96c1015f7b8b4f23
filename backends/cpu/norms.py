"""Calls the kernel that norms and rotates NumPy arrays in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rotary._lib.libraries import dtype_name
from rotary._lib.typing import HostArray, TableDType
from rotary.backends.contract import ArrayNorm, ArraySpec, Axes, Norm, Pairing, TableRows

from .jit import Variant, compiled, entry_point
from .kernels import DONE, FACTORS, LINE, OUT_BATCH, ROWS_TOGETHER, X_BATCH
from .launch import STORAGE, blocks_of, streaming_size, weights_of
from .threads import BYTES_PER_THREAD, threads_for


def is_one_pass(specs: Sequence[ArraySpec]) -> bool:
    """Return whether the kernel norms and rotates arrays at once: their pairs are in one place, and stay there."""
    return all(
        len(spec.pairings) == 1 and spec.pairings[0].source == spec.pairings[0].target
        for spec in specs
    )


class NormLaunch:
    """A call of the kernel that norms and rotates one array, of which all is known but the addresses.

    Parameters
    ----------
    x, out : array
        Of the array and its result only the memory layout counts.
    axes : Axes
    pairing : Pairing
    norm : Norm
    of : ArrayNorm
    dtype : {"float32", "float64"}
        What is computed in.
    """

    __slots__ = (
        "_address",
        "_blocks",
        "_dtype",
        "_geometry",
        "_nbytes",
        "_norm",
        "_of",
        "_scratch",
        "_variants",
        "kernel",
    )

    def __init__(
        self,
        x: HostArray,
        out: HostArray,
        axes: Axes,
        pairing: Pairing,
        norm: Norm,
        of: ArrayNorm,
        dtype: TableDType,
    ) -> None:
        blocks = blocks_of(x, out, axes, pairing)
        # Along an axis that shares weights they have a stride of 0.
        along = np.broadcast_to(np.empty(of.shape, dtype), x.shape)
        own = blocks_of(along, along, axes, pairing).geometry[X_BATCH:OUT_BATCH]
        self._geometry = np.array([*blocks.geometry, *own], np.int64)
        self._address = self._geometry.ctypes.data
        self._nbytes, self._dtype, self._norm, self._of = x.nbytes, dtype, norm, of
        streaming = x is not out and not norm.after and 2 * x.nbytes >= streaming_size()
        name = dtype_name(x)
        self._variants = (
            Variant("call norm", STORAGE[name]),
            Variant("norm", name, pairing.target, streaming, norm.after),
        )
        # The index of each block, that of its positions, and its first weight.
        first = along.__array_interface__["data"][0]
        self._blocks = [
            (index, place, (along[index].__array_interface__["data"][0] - first) // along.itemsize)
            for index, place in zip(blocks.indices, blocks.extra_indices, strict=True)
        ]
        # Bytes of the sums and factors of some rows and, if the norm follows the rotation, of these rows.
        rows = ROWS_TOGETHER if of.heads is None else max(x.shape[of.heads], ROWS_TOGETHER)
        room = -(-rows // FACTORS) * FACTORS
        size = 16 * room + (rows * x.shape[-1] * along.itemsize if norm.after else 0)
        self._scratch = -(-size // LINE) * LINE
        # What `ready` returns once it is known.
        self.kernel: tuple[Callable[..., int], int] | None = None

    def ready(self) -> tuple[Callable[..., int], int] | None:
        """Return the function that calls the kernel, and the kernel's address; None if Numba fails."""
        call, kernel = map(compiled, self._variants)
        if kernel is None or call is None:
            return None
        self.kernel = entry_point(call), kernel.address
        return self.kernel

    def rotate_blocks(
        self,
        kernel: tuple[Callable[..., int], int],
        x: HostArray,
        out: HostArray,
        rows: TableRows,
        weights: Sequence[HostArray],
    ) -> None:
        """Norm and rotate an array by a kernel that is ready; `weights` are those of the call."""
        run, address = kernel
        threads = 1, 0
        if self._nbytes >= 2 * BYTES_PER_THREAD:
            threads = threads_for(self._nbytes, BYTES_PER_THREAD)
        values, index, start, stop, step = rows
        norm, of = self._norm, self._of
        own = weights_of(weights, of, self._dtype, unit_offset=norm.unit_offset)
        scratch = np.empty(threads[0] * self._scratch, np.uint8)
        for part, place, first in self._blocks:
            answer = run(
                address,
                self._address,
                x[part],
                out[part],
                values,
                index[place],
                own[first:],
                start,
                stop,
                step,
                of.heads is not None,
                norm.eps,
                float(of.squares if norm.mean else 1),
                scratch.ctypes.data,
                self._scratch,
                *threads,
            )
            assert answer == DONE, (
                f"the table has no row for some position: the kernel answers {answer}"
            )
