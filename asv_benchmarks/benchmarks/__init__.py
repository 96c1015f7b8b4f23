"""Shared by all benchmarks: options of the timing, seeded data, and dtypes by name, including those of `ml_dtypes`."""

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
    """Options of asv for benchmarks with a `setup`: single calls, limited so that a commit takes about a minute."""

    warmup_time = 0.05
    repeat = (10, 1000, 0.1)


def once(setup: Callable[..., None]) -> Callable[..., None]:
    """Set up once in a process. asv would set up before every call, which leaves the caches cold."""

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
    """Normally distributed numbers, the same in every call. A block is repeated, so large arrays are made quickly."""
    numbers = np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32)
    return np.resize(numbers.astype(dtype(name)), shape)


def embedding(layout: str = "half", **options: Any) -> rotary.RotaryEmbedding:
    """A default embedding with the width that all benchmarks use."""
    return rotary.RotaryEmbedding(
        HEAD_DIM, **({"layout": layout, "base": BASE, "seq_axis": -2} | options)
    )
