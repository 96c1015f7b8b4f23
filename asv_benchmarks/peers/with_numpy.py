"""The formula in NumPy as most code has it, 16-bit numbers in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .cases import BASE, LANES, Array, Case
from .contenders import Contender

NAMES = ("NumPy",)


def rotations(case: Case) -> Iterator[Contender]:
    """Two halves joined, or two strided halves of a new array filled."""
    arrays = case.arrays()
    wide = "float64" if case.dtype == "float64" else "float32"
    cos, sin = (case.broadcast(table) for table in case.cos_sin(wide))

    def joined(x: Array) -> Array:
        a, b = x[..., :LANES], x[..., LANES:]
        return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)

    def filled(x: Array) -> Array:
        a, b = x[..., ::2], x[..., 1::2]
        y = np.empty_like(x)
        y[..., ::2] = a * cos - b * sin
        y[..., 1::2] = b * cos + a * sin
        return y

    form: Callable[[Array], Array] = joined if case.layout == "half" else filled

    def rotate() -> list[Array]:
        return [form(x.astype(cos.dtype, copy=False)).astype(x.dtype, copy=False) for x in arrays]

    yield Contender("NumPy", rotate, read=lambda result: result)


def tables(case: Case) -> Iterator[Contender]:
    """The outer product, its cosine and its sine, in the dtype that is asked for."""
    positions = case.positions.astype(case.dtype)
    inv_freq = (BASE ** (-np.arange(LANES) / LANES)).astype(case.dtype)

    def make() -> object:
        angle = np.outer(positions, inv_freq)
        return np.cos(angle), np.sin(angle)

    yield Contender("NumPy", make)


def cosines(positions: list[int]) -> dict[str, Array]:
    """Tables from angles in float64, (positions, 2, lanes)."""
    angle = np.outer(np.array(positions, np.float64), BASE ** (-np.arange(LANES) / LANES))
    return {"float64 angles (NumPy)": np.stack((np.cos(angle), np.sin(angle)), axis=1)}
