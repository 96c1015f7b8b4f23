"""The formula in NumPy, as most code writes it and in place, with 16-bit numbers in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .cases import BASE, PAIRS, Array, Case, pairs
from .contenders import Contender

NEW, IN_PLACE = "NumPy", "NumPy, in place"
NAMES = (NEW, IN_PLACE)


def rotations(case: Case) -> Iterator[Contender]:
    """Join two halves, or fill two strided halves of a new array; in place, by scratch arrays that are there."""
    arrays = case.arrays()
    wide = "float64" if case.dtype == "float64" else "float32"
    cos, sin = (case.broadcast(table) for table in case.cos_sin(wide))

    def joined(x: Array) -> Array:
        a, b = x[..., :PAIRS], x[..., PAIRS:]
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

    yield Contender(NEW, rotate, read=lambda result: result)
    yield Contender(IN_PLACE, *_in_place(case, cos, sin))


def _in_place(
    case: Case, cos: Array, sin: Array
) -> tuple[Callable[[], object], Callable[[object], list[Array]]]:
    """The formula without a new array, and how to read its results."""
    arrays = case.arrays()
    work = []
    for x in arrays:
        first, second = (x[..., channels] for channels in pairs(case.layout))
        work.append((first, second, *(np.empty(first.shape, cos.dtype) for _ in range(3))))

    def rotate() -> None:
        for first, second, a, b, product in work:
            np.multiply(first, cos, out=a)
            np.multiply(second, sin, out=product)
            np.subtract(a, product, out=a)
            np.multiply(second, cos, out=b)
            np.multiply(first, sin, out=product)
            np.add(b, product, out=b)
            np.copyto(first, a, casting="same_kind")
            np.copyto(second, b, casting="same_kind")

    return rotate, lambda _: arrays


def tables(case: Case) -> Iterator[Contender]:
    """The outer product, its cosine and its sine, in the given dtype."""
    positions = case.positions.astype(case.dtype)
    inv_freq = (BASE ** (-np.arange(PAIRS) / PAIRS)).astype(case.dtype)

    def make() -> object:
        angle = np.outer(positions, inv_freq)
        return np.cos(angle), np.sin(angle)

    yield Contender(NEW, make)


def cosines(positions: list[int]) -> dict[str, Array]:
    """Tables from angles in float64, (positions, 2, channel pairs)."""
    angle = np.outer(np.array(positions, np.float64), BASE ** (-np.arange(PAIRS) / PAIRS))
    return {"float64 angles (NumPy)": np.stack((np.cos(angle), np.sin(angle)), axis=1)}
