"""TensorFlow: the formula as a graph, compiled by XLA or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from .cases import PAIRS, Array, Case
from .contenders import Contender

NAMES = ("TensorFlow",)


def rotations(case: Case) -> Iterator[Contender]:
    """Two halves or two strided halves in float32, joined and rounded once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    arrays = [tf.constant(x) for x in case.arrays()]
    cosine, sine = (tf.constant(case.broadcast(table)) for table in case.cos_sin("float32"))

    def rotate(arrays: list[Any], cosine: Any, sine: Any) -> list[Any]:
        return [formula(x, cosine, sine, case.layout) for x in arrays]

    for compiled in (True, False):
        function = tf.function(rotate, jit_compile=compiled)
        concrete = function.get_concrete_function(arrays, cosine, sine)

        def call(concrete: Any = concrete) -> Any:
            return concrete(*arrays, cosine, sine)

        yield Contender(NAMES[0], call, read=read, form="XLA" if compiled else "graph")


def formula(x: Any, cosine: Any, sine: Any, layout: str) -> Any:
    """One array rotated."""
    import tensorflow as tf

    half = layout == "half"
    wide = tf.cast(x, tf.float32)
    first, second = (
        (wide[..., :PAIRS], wide[..., PAIRS:]) if half else (wide[..., ::2], wide[..., 1::2])
    )
    parts = first * cosine - second * sine, second * cosine + first * sine
    joined = tf.concat(parts, -1) if half else tf.reshape(tf.stack(parts, -1), tf.shape(x))
    return tf.cast(joined, x.dtype)


def read(results: list[Any]) -> list[Array]:
    """The results as arrays."""
    return [each.numpy() for each in results]
