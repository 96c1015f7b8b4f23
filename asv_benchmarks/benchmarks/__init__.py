"""What the benchmarks share: how they are timed, seeded data, and the names of dtypes that only `ml_dtypes` knows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import rotary

HEAD_DIM = 128
BASE = 10_000.0
PREFILL = (1, 32, 2048, HEAD_DIM)
"""Batch, heads, sequence, channels: 32 MiB in float32, beyond a common cache."""


class Timed:
    """How asv times what has a `setup`: single calls, as many as fit, which keeps a commit near a minute."""

    warmup_time = 0.05
    repeat = (10, 1000, 0.1)


def once(setup: Callable[..., None]) -> Callable[..., None]:
    """Set up at the beginning of a process alone: asv would do it before every call, and leave the caches cold."""

    @functools.wraps(setup)
    def first(self: Any, *params: Any) -> None:
        if not vars(self).get("is_set_up"):
            setup(self, *params)
            self.is_set_up = True

    return first


def dtype(name: str) -> np.dtype[Any]:
    """The dtype of this name."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def randn(shape: tuple[int, ...], name: str = "float32") -> np.ndarray[Any, Any]:
    """Normally distributed numbers, the same at every call, and repeated: large arrays are there at once."""
    numbers = np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32)
    return np.resize(numbers.astype(dtype(name)), shape)


def embedding(layout: str = "half", **options: Any) -> rotary.RotaryEmbedding:
    """A plain embedding of the width that all benchmarks use."""
    return rotary.RotaryEmbedding(
        HEAD_DIM, **({"layout": layout, "base": BASE, "seq_axis": -2} | options)
    )
