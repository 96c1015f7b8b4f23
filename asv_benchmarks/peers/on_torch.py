"""rotary on CPU tensors of torch; the compiled loops read and write their memory."""

from __future__ import annotations

from collections.abc import Iterator

from .cases import Case
from .contenders import Contender
from .with_rotary import embedding
from .with_torch import array, tensor

NAMES = ("rotary on torch tensors",)


def rotations(case: Case) -> Iterator[Contender]:
    """Tensors in, new tensors out."""
    rope = embedding(case)
    xs = [tensor(x) for x in case.arrays()]
    yield Contender(
        "rotary on torch tensors",
        lambda: rope(*xs, offset=case.offset),
        read=lambda ys: [array(y) for y in (ys if len(xs) > 1 else [ys])],
    )
