"""The kernel of MLX, mx.fast.rope, on the CPU. It computes angles in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .cases import BASE, HEAD_DIM, PAIRS, Array, Case, as_dtype
from .contenders import Contender, MissingError

NAMES = ("MLX, mx.fast.rope",)


def rotations(case: Case) -> Iterator[Contender]:
    """Pass other orders of axes as a transposed view, because the kernel expects the sequence on axis -2."""
    import mlx.core as mx

    if case.dtype == "float64":
        msg = "no kernel for float64"
        raise MissingError(msg)
    mx.set_default_device(mx.cpu)
    kind = getattr(mx, case.dtype)
    xs = [mx.array(x.astype(np.float32)).astype(kind) for x in case.arrays()]
    mx.eval(xs)

    def rotate() -> list[Any]:
        ys = [turned(x) for x in xs]
        mx.eval(ys)
        return ys

    def turned(x: Any) -> Any:
        view = x.swapaxes(1, 2) if case.order == "BSHD" else x
        y = mx.fast.rope(
            view,
            HEAD_DIM,
            traditional=case.layout == "interleaved",
            base=BASE,
            scale=1.0,
            offset=case.offset,
        )
        return y.swapaxes(1, 2) if case.order == "BSHD" else y

    def read(ys: list[Any]) -> list[Array]:
        return [np.array(y.astype(mx.float32)).astype(as_dtype(case.dtype)) for y in ys]

    yield Contender("MLX, mx.fast.rope", rotate, read=read)


def cosines(positions: list[int]) -> dict[str, Array]:
    """Rotate pairs (1, 0) for cosine and sine, (positions, 2, channel pairs); offsets have 32 bits."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    pair = np.zeros((1, 1, 1, HEAD_DIM), np.float32)
    pair[..., :PAIRS] = 1
    x = mx.array(pair)
    table = np.full((len(positions), 2, PAIRS), np.nan, np.float32)
    for row, position in zip(table, positions, strict=True):
        if position < 2**31:
            y = mx.fast.rope(x, HEAD_DIM, traditional=False, base=BASE, scale=1.0, offset=position)
            row[:] = np.array(y).reshape(2, PAIRS)
    return {"mx.fast.rope": table}
