"""What the benchmarks share: seeded data, and the names of dtypes that only `ml_dtypes` knows."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

import rotary

HEAD_DIM = 128
BASE = 10_000.0
PREFILL = (1, 16, 2048, HEAD_DIM)
"""Batch, heads, sequence, channels: 16 MiB in float32, beyond a common cache."""


def dtype(name: str) -> np.dtype[Any]:
    """The dtype of this name."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def randn(shape: tuple[int, ...], name: str = "float32") -> np.ndarray[Any, Any]:
    """Normally distributed numbers, the same at every call."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(dtype(name))


def embedding(layout: str = "half", **options: Any) -> rotary.RotaryEmbedding:
    """A plain embedding of the width that all benchmarks use."""
    return rotary.RotaryEmbedding(
        HEAD_DIM, **({"layout": layout, "base": BASE, "seq_axis": -2} | options)
    )
