"""The same work in NumPy, and a copy of the bytes, so that graphs can be compared between machines."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from . import BASE, HEAD_DIM, PREFILL, Timed, once, randn
from .tables import POSITIONS

HALF = HEAD_DIM // 2


class Rotate(Timed):
    """For `rotate.Dtype`: the formula as most code computes it, and `numpy.copyto`."""

    params = ["float32", "float64"]
    param_names = ("dtype",)

    @once
    def setup(self, dtype: str) -> None:
        angle = np.outer(np.arange(PREFILL[-2]), BASE ** (-np.arange(HALF) / HALF))
        self.cos = np.cos(angle).astype(dtype)
        self.sin = np.sin(angle).astype(dtype)
        self.x = randn(PREFILL, dtype)
        self.out = np.empty_like(self.x)

    def time_numpy(self, dtype: str) -> None:
        a, b = self.x[..., :HALF], self.x[..., HALF:]
        np.concatenate((a * self.cos - b * self.sin, b * self.cos + a * self.sin), axis=-1)

    def time_copy(self, dtype: str) -> None:
        np.copyto(self.out, self.x)

    def time_scale_in_place(self, dtype: str) -> None:
        np.multiply(self.x, 1.0, out=self.x)


class Scale(Timed):
    """For `rotate.InPlace` and `rotate.Width`: a multiplication in place with the number of threads of Numba."""

    params = ["8 MiB", "32 MiB", "256 MiB"]
    param_names = ("size",)

    @once
    def setup(self, size: str) -> None:
        @numba.njit(parallel=True)
        def scale(x: np.ndarray[Any, Any], factor: np.float32) -> None:
            for i in numba.prange(x.size):
                x[i] *= factor

        self.scale, self.factor = scale, np.float32(1)
        self.x = np.ones(int(size.split(maxsplit=1)[0]) * 2**18, np.float32)
        self.time_in_place(size)

    def time_in_place(self, size: str) -> None:
        self.scale(self.x, self.factor)


class Tables(Timed):
    """For `tables.Make`: the outer product, its cosine and its sine."""

    params = ["float32", "float64"]
    param_names = ("dtype",)

    @once
    def setup(self, dtype: str) -> None:
        self.inv_freq = (BASE ** (-np.arange(HALF) / HALF)).astype(dtype)
        self.positions = POSITIONS["consecutive"].astype(dtype)

    def time_numpy(self, dtype: str) -> None:
        angle = np.outer(self.positions, self.inv_freq)
        np.cos(angle)
        np.sin(angle)
