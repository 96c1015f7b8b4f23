"""rotary on CPU arrays of JAX; the compiled loops read their memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .cases import Case
from .contenders import Contender
from .with_rotary import embedding

NAMES = ("rotary on JAX arrays",)


def rotations(case: Case) -> Iterator[Contender]:
    """Arrays in, new arrays out."""
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    rope = embedding(case)
    xs = [jnp.asarray(x) for x in case.arrays()]
    yield Contender(
        "rotary on JAX arrays",
        lambda: jax.block_until_ready(rope(*xs, offset=case.offset)),
        read=lambda ys: [np.asarray(y) for y in (ys if len(xs) > 1 else [ys])],
    )
