"""How long does it take to make a table, and how much memory does it hold?"""

from __future__ import annotations

import numpy as np

import rotary

from . import BASE, HEAD_DIM, Timed, once

LENGTH = 8192
POSITIONS = {
    "consecutive": np.arange(LENGTH),
    "far": np.arange(LENGTH) + 1_700_000_000,
    "scattered": np.random.default_rng(0).integers(-(2**62), 2**62, LENGTH),
    "fractional": np.random.default_rng(0).uniform(0, 1e6, LENGTH),
}


class Make(Timed):
    """By kind of position and dtype, with an empty cache."""

    params = (list(POSITIONS), ["float32", "float64"])
    param_names = ("positions", "dtype")

    @once
    def setup(self, positions: str, dtype: str) -> None:
        self.inv_freq = rotary.inv_freq(HEAD_DIM, base=BASE)
        self.time_cos_sin(positions, dtype)

    def time_cos_sin(self, positions: str, dtype: str) -> None:
        rotary.cache_clear()
        rotary.cos_sin(POSITIONS[positions], self.inv_freq, dtype=dtype)


class Cached:
    """A table that is there already, and one that has to be made after the cache was emptied."""

    rope = rotary.RotaryEmbedding(HEAD_DIM, layout="half", base=BASE)

    def time_hit(self) -> None:
        self.rope.tables(POSITIONS["consecutive"])

    def time_miss(self) -> None:
        rotary.cache_clear()
        self.rope.tables(POSITIONS["consecutive"])

    def track_bytes(self) -> int:
        rotary.cache_clear()
        self.rope.tables(POSITIONS["consecutive"])
        return rotary.cache_info().nbytes

    track_bytes.unit = "bytes"  # type: ignore[attr-defined]  # asv reads it there


class Specification:
    """Making, hashing and comparing embeddings, and the frequencies behind them."""

    rope = rotary.RotaryEmbedding(HEAD_DIM, layout="half", base=BASE)
    equal = rotary.RotaryEmbedding(HEAD_DIM, layout="half", base=BASE)

    def time_make(self) -> None:
        rotary.RotaryEmbedding(HEAD_DIM, layout="half", base=BASE)

    def time_hash(self) -> None:
        hash(self.rope)

    def time_equal(self) -> None:
        self.rope == self.equal  # noqa: B015  (the comparison is what is timed)

    def time_inv_freq(self) -> None:
        rotary.inv_freq(HEAD_DIM, base=BASE)
