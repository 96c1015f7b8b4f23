"""The time to make a table, and its memory."""

from __future__ import annotations

import time

import numpy as np

import rotary

from . import BASE, HEAD_DIM, Timed, once

# Short enough that the allocator of C uses the memory of a table again, and that one thread makes it.
LENGTH = 512
POSITIONS = {
    "consecutive": np.arange(LENGTH),
    "far": np.arange(LENGTH) + 1_700_000_000,
    "scattered": np.random.default_rng(0).integers(-(2**62), 2**62, LENGTH),
    "fractional": np.random.default_rng(0).uniform(0, 1e6, LENGTH),
}


class Compute(Timed):
    """By kind of position and dtype, with a cache that keeps nothing, in one thread."""

    params = (list(POSITIONS), ["float32", "float64"])
    param_names = ("positions", "dtype")

    @once
    def setup(self, positions: str, dtype: str) -> None:
        rotary.set_cache_limit(0)  # for this process, which measures nothing else
        self.inv_freq = rotary.inv_freq(HEAD_DIM, base=BASE)
        self.time_cos_sin(positions, dtype)

    def time_cos_sin(self, positions: str, dtype: str) -> None:
        with rotary.threads(1):
            rotary.cos_sin(POSITIONS[positions], self.inv_freq, dtype=dtype)


class Long(Timed):
    """Many consecutive positions, with all threads and new memory."""

    params = (["float32", "float64"],)
    param_names = ("dtype",)

    @once
    def setup(self, dtype: str) -> None:
        self.inv_freq = rotary.inv_freq(HEAD_DIM, base=BASE)
        self.positions = np.arange(2**16)
        self.time_cos_sin(dtype)

    def time_cos_sin(self, dtype: str) -> None:
        rotary.cache_clear()
        rotary.cos_sin(self.positions, self.inv_freq, dtype=dtype)


class Cached:
    """A cached table, and a table that is computed after the cache was emptied."""

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


class Streams:
    """The worst call of a stream of tokens, and of a batch whose sequences are far from each other.

    A busy machine interrupts any call, so that the least time of each call in three rounds counts.
    """

    params = ([1, 32],)
    param_names = ("batch",)
    timeout = 300
    steps = 20_000

    def track_worst_call(self, batch: int) -> float:
        rope = rotary.RotaryEmbedding(HEAD_DIM, layout="half", base=BASE, seq_axis=-2)
        x = np.ones((batch, 1, 1, HEAD_DIM), np.float32)
        starts = np.random.default_rng(0).integers(0, 10**6, batch) if batch > 1 else 0
        steps = self.steps // batch
        best = np.full(steps, np.inf)
        rope(x, offset=starts, out=x)
        for _ in range(3):
            rotary.set_cache_limit(0)
            rotary.set_cache_limit(256 * 2**20)
            for step in range(steps):
                offset = starts + step
                start = time.thread_time()
                rope(x, offset=offset, out=x)
                best[step] = min(best[step], time.thread_time() - start)
        return float(best.max())

    track_worst_call.unit = "seconds"  # type: ignore[attr-defined]  # asv reads it there


class Specification:
    """Making, hashing and comparing embeddings, and computing frequencies."""

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
