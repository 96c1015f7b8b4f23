"""JAX: the formula in one compiled function, which computes 16-bit numbers in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .cases import PAIRS, Case
from .contenders import Contender

NAMES = ("jax.jit",)


def rotations(case: Case) -> Iterator[Contender]:
    """Concatenate or interleave the halves of the result, or multiply every channel and the other of its pair."""
    import jax
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    wide = "float64" if case.dtype == "float64" else "float32"
    xs = [jnp.asarray(x) for x in case.arrays()]
    cos, sin = (jnp.asarray(case.broadcast(table)) for table in case.cos_sin(wide))
    half = case.layout == "half"

    def joined(x: Any, cos: Any, sin: Any) -> Any:
        a, b = (x[..., :PAIRS], x[..., PAIRS:]) if half else (x[..., ::2], x[..., 1::2])
        both = (a * cos - b * sin, b * cos + a * sin)
        return jnp.concatenate(both, axis=-1) if half else jnp.stack(both, -1).reshape(x.shape)

    def with_partner(x: Any, cos: Any, sin: Any) -> Any:
        if half:
            partner = jnp.concatenate((-x[..., PAIRS:], x[..., :PAIRS]), axis=-1)
            return x * jnp.concatenate((cos, cos), -1) + partner * jnp.concatenate((sin, sin), -1)
        partner = jnp.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)
        return x * jnp.repeat(cos, 2, -1) + partner * jnp.repeat(sin, 2, -1)

    for form in (joined, with_partner):

        def rotate(xs: list[Any], cos: Any, sin: Any, form: Any = form) -> list[Any]:
            return [form(x.astype(cos.dtype), cos, sin).astype(x.dtype) for x in xs]

        program = jax.jit(rotate)
        yield Contender(
            "jax.jit",
            lambda program=program: jax.block_until_ready(program(xs, cos, sin)),
            form=form.__name__.replace("_", " "),
            read=lambda ys: [np.asarray(y) for y in ys],
        )
