"""The cases of `bench`, with their arrays and the check of a rotated result."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rotary._lib.typing import Float64Array, HostArray
from rotary.functions import inv_freq

from .devices import dtype_named

BASE = 10_000.0
# The largest allowed difference from the formula, for normally distributed numbers. Other libraries round angles to
# float32, and round results more than once.
TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 3e-3}


class Case(NamedTuple):
    """The shape and dtype of query and key, (batch, sequence, heads, channels), which have the half layout."""

    title: str
    batch: int
    length: int
    heads: tuple[int, int]
    head_dim: int
    dtype: str

    @property
    def nbytes(self) -> int:
        """The size of query and key in bytes, which a rotation reads once and writes once."""
        numbers = self.batch * self.length * sum(self.heads) * self.head_dim
        return numbers * dtype_named(self.dtype).itemsize

    @property
    def decodes(self) -> bool:
        """Whether each sequence has one token, with a separate position."""
        return self.length == 1


PREFILL = "8192 tokens, 32 + 8 heads of 128"
ON_GPU = (
    Case(f"{PREFILL}, bfloat16", 1, 8192, (32, 8), 128, "bfloat16"),
    Case(f"{PREFILL}, float32", 1, 8192, (32, 8), 128, "float32"),
    Case("4096 tokens, 8 + 8 heads of 64, bfloat16", 1, 4096, (8, 8), 64, "bfloat16"),
    Case(
        "one token of 64 sequences, 32 + 8 heads of 128, bfloat16", 64, 1, (32, 8), 128, "bfloat16"
    ),
)
ON_CPU = (
    Case("1024 tokens, 32 + 8 heads of 128, float32", 1, 1024, (32, 8), 128, "float32"),
    Case("1024 tokens, 32 + 8 heads of 128, float16", 1, 1024, (32, 8), 128, "float16"),
    Case("one token of 8 sequences, 32 + 8 heads of 128, float32", 8, 1, (32, 8), 128, "float32"),
)


class Data:
    """The numbers of a case on the host. Each contender copies them into arrays on its device."""

    def __init__(self, case: Case) -> None:
        self.case = case

    @cached_property
    def arrays(self) -> list[HostArray]:
        """Query and key, with normally distributed numbers."""
        block = np.random.default_rng(0).standard_normal(2**16 + 1)
        block = block.astype(dtype_named(self.case.dtype))
        shape = (self.case.batch, self.case.length)
        return [np.resize(block, (*shape, n, self.case.head_dim)) for n in self.case.heads]

    @cached_property
    def offsets(self) -> HostArray:
        """The position of the first token of each sequence, (batch,)."""
        step = 37 if self.case.decodes else 0
        return 1000 * self.case.decodes + step * np.arange(self.case.batch)

    @cached_property
    def positions(self) -> HostArray:
        """The positions of the tokens, (batch, sequence)."""
        return self.offsets[:, None] + np.arange(self.case.length)

    def tables(self, positions: HostArray) -> tuple[Float64Array, Float64Array]:
        """Return cosine and sine (..., head_dim / 2). At these positions, float64 angles are accurate enough."""
        angles = positions[..., None] * inv_freq(self.case.head_dim, base=BASE)
        return np.cos(angles), np.sin(angles)

    @cached_property
    def whole_tables(self) -> tuple[Float64Array, Float64Array]:
        """Cosine and sine of all positions up to the largest, which most libraries cache."""
        return self.tables(np.arange(int(self.positions.max()) + 1))

    @property
    def checked_rows(self) -> list[int]:
        """The indices of the checked tokens of a sequence: the first, the middle and the last."""
        return sorted({0, self.case.length // 2, self.case.length - 1})

    def error(self, results: Sequence[HostArray]) -> str | None:
        """Return a description of the error in the results for the checked rows, or None."""
        rows = self.checked_rows
        cosine, sine = (part[:, :, None] for part in self.tables(self.positions[:, rows]))
        for x, y in zip(self.arrays, results, strict=True):
            first, second = np.split(x[:, rows].astype(np.float64), 2, axis=-1)
            expected = np.concatenate(
                [first * cosine - second * sine, second * cosine + first * sine], axis=-1
            )
            if y.shape != expected.shape:
                return f"gives shape {y.shape}, expected {expected.shape}"
            difference = np.abs(y.astype(np.float64) - expected).max()
            if not difference <= TOLERANCE[self.case.dtype]:
                return f"is wrong by {difference:.2g}"
        return None
