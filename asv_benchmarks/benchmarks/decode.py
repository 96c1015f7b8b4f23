"""The time for one new token, for which most of the time is the overhead of the call."""

from __future__ import annotations

import numpy as np

from . import HEAD_DIM, Timed, embedding, once, randn

OFFSET = 1234


class OneToken(Timed):
    """By batch and dtype: 32 query heads and 8 key heads, one token each."""

    params = ([1, 32], ["bfloat16", "float32"])
    param_names = ("batch", "dtype")

    @once
    def setup(self, batch: int, dtype: str) -> None:
        self.rope = embedding()
        self.q = randn((batch, 32, 1, HEAD_DIM), dtype)
        self.k = randn((batch, 8, 1, HEAD_DIM), dtype)
        self.out = (np.empty_like(self.q), np.empty_like(self.k))
        self.rows = np.arange(OFFSET, OFFSET + batch)
        for call in (self.time_new, self.time_out, self.time_in_place, self.time_offset_by_row):
            call(batch, dtype)

    def time_new(self, batch: int, dtype: str) -> None:
        self.rope(self.q, self.k, offset=OFFSET)

    def time_out(self, batch: int, dtype: str) -> None:
        self.rope(self.q, self.k, offset=OFFSET, out=self.out)

    def time_in_place(self, batch: int, dtype: str) -> None:
        self.rope(self.q, self.k, offset=OFFSET, out=(self.q, self.k))

    def time_offset_by_row(self, batch: int, dtype: str) -> None:
        self.rope(self.q, self.k, offset=self.rows, out=self.out)


class Stream:
    """A hundred tokens, one call each, as in decoding."""

    rope = embedding()
    q = randn((1, 32, 1, HEAD_DIM))
    k = randn((1, 8, 1, HEAD_DIM))

    def time_hundred(self) -> None:
        for offset in range(OFFSET, OFFSET + 100):
            self.rope(self.q, self.k, offset=offset, out=(self.q, self.k))


class Ragged:
    """A hundred tokens of each sequence of a batch, whose positions are far from each other."""

    rope = embedding()
    q = randn((32, 32, 1, HEAD_DIM))
    k = randn((32, 8, 1, HEAD_DIM))
    starts = np.random.default_rng(0).integers(0, 10**6, 32)

    def time_hundred(self) -> None:
        for token in range(100):
            self.rope(self.q, self.k, offset=self.starts + token, out=(self.q, self.k))


class Shift(Timed):
    """Shift cached keys by some positions."""

    @once
    def setup(self) -> None:
        self.rope = embedding()
        self.keys = randn((1, 8, 2048, HEAD_DIM))
        self.time_in_place()

    def time_in_place(self) -> None:
        self.rope.shift(self.keys, -16, out=self.keys)
