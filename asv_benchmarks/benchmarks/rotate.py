"""The time to rotate one large array with a cached table."""

from __future__ import annotations

from typing import Any

import numpy as np

import rotary

from . import HEAD_DIM, PREFILL, Timed, embedding, once, randn

DTYPES = ["float16", "bfloat16", "float32", "float64"]
LAYOUTS = ["half", "interleaved"]
# Sequences of 32 heads, by the size of the array in float32.
SIZES = {"8 MiB": 512, "32 MiB": 2048, "256 MiB": 16384}


class Dtype(Timed):
    """By dtype and layout, into a new array, with `out=`, and in place."""

    params = (DTYPES, LAYOUTS)
    param_names = ("dtype", "layout")

    @once
    def setup(self, dtype: str, layout: str) -> None:
        self.rope = embedding(layout)
        self.x = randn(PREFILL, dtype)
        self.out = np.empty_like(self.x)
        self.rope(self.x)
        self.rope(self.x, out=self.out)
        self.rope(self.x, out=self.x)

    def time_new(self, dtype: str, layout: str) -> None:
        self.rope(self.x)

    def time_out(self, dtype: str, layout: str) -> None:
        self.rope(self.x, out=self.out)

    def time_in_place(self, dtype: str, layout: str) -> None:
        self.rope(self.x, out=self.x)


class InPlace(Timed):
    """In place, by dtype, layout, order of the axes and size. `baselines.Scale` reads and writes the same bytes."""

    params = (DTYPES, LAYOUTS, ["tokens_first", "heads_first"], list(SIZES))
    param_names = ("dtype", "layout", "order", "size")

    @once
    def setup(self, dtype: str, layout: str, order: str, size: str) -> None:
        length = SIZES[size]
        self.rope = embedding(layout, seq_axis=-3 if order == "tokens_first" else -2)
        front = (length, 32) if order == "tokens_first" else (32, length)
        self.x = randn((1, *front, HEAD_DIM), dtype)
        self.rope(self.x, out=self.x)

    def time_in_place(self, dtype: str, layout: str, order: str, size: str) -> None:
        self.rope(self.x, out=self.x)


class Width(Timed):
    """By the number of channels of a head, for 32 MiB. The time should be that for 128 channels."""

    params = ([128, 112, 100, 96, 80, 64, 48, 16, 8], ["bfloat16", "float32"])
    param_names = ("head_dim", "dtype")

    @once
    def setup(self, head_dim: int, dtype: str) -> None:
        row = 32 * head_dim * np.dtype("int16" if dtype == "bfloat16" else dtype).itemsize
        shape = 1, 32 * 2**20 // row, 32, head_dim
        self.rope = rotary.RotaryEmbedding(head_dim, layout="half", base=10_000.0, seq_axis=-3)
        self.x = randn(shape, dtype)
        self.out = np.empty_like(self.x)
        self.rope(self.x, out=self.out)
        self.rope(self.x, out=self.x)

    def time_out(self, head_dim: int, dtype: str) -> None:
        self.rope(self.x, out=self.out)

    def time_in_place(self, head_dim: int, dtype: str) -> None:
        self.rope(self.x, out=self.x)


class Batch(Timed):
    """One new token of each of 32 sequences, 640 KiB: two threads already gain."""

    params = ["bfloat16", "float32"]
    param_names = ("dtype",)

    @once
    def setup(self, dtype: str) -> None:
        self.rope = embedding()
        self.pair: tuple[Any, Any] = tuple(
            randn((32, heads, 1, HEAD_DIM), dtype) for heads in (32, 8)
        )
        self.rope(*self.pair, offset=4095, out=self.pair)

    def time_in_place(self, dtype: str) -> None:
        self.rope(*self.pair, offset=4095, out=self.pair)


class Memory:
    """The peak memory of a process."""

    params = ["bfloat16", "float32"]
    param_names = ("dtype",)

    def setup(self, dtype: str) -> None:
        self.rope = embedding()
        self.x = randn(PREFILL, dtype)

    def peakmem_new(self, dtype: str) -> None:
        self.rope(self.x)

    def peakmem_in_place(self, dtype: str) -> None:
        self.rope(self.x, out=self.x)


class Shape(Timed):
    """By shape, from one short sentence to many sequences."""

    params = ([(1, 8, 64, 128), (1, 32, 512, 128), (8, 8, 512, 128), (64, 4, 64, 128)],)
    param_names = ("shape",)

    @once
    def setup(self, shape: tuple[int, ...]) -> None:
        self.rope = embedding()
        self.x = randn(shape)
        self.out = np.empty_like(self.x)
        self.rope(self.x, out=self.out)

    def time_out(self, shape: tuple[int, ...]) -> None:
        self.rope(self.x, out=self.out)


class Stride(Timed):
    """By the memory layout of the array. None of these may need a copy."""

    params = ["contiguous", "sequence_first", "packed_qkv", "window", "reversed"]
    param_names = ("memory",)

    @once
    def setup(self, memory: str) -> None:
        batch, heads, length, width = PREFILL
        self.rope = embedding()
        if memory == "contiguous":
            self.x = randn(PREFILL)
        elif memory == "sequence_first":
            self.x = randn((batch, length, heads, width)).swapaxes(1, 2)
        elif memory == "packed_qkv":
            self.x = randn((batch, length, 3, heads, width))[:, :, 0].swapaxes(1, 2)
        elif memory == "window":
            self.x = randn((batch, heads, length, width + 64))[..., 32 : 32 + HEAD_DIM]
        else:
            self.x = randn(PREFILL)[:, ::-1, ::-1]
        self.out = np.empty(PREFILL, dtype=np.float32)
        self.rope(self.x, out=self.out)
        self.rope(self.x, out=self.x)

    def time_out(self, memory: str) -> None:
        self.rope(self.x, out=self.out)

    def time_in_place(self, memory: str) -> None:
        self.rope(self.x, out=self.x)


class Window(Timed):
    """By the fraction of rotated channels."""

    params = [32, 64, 128]
    param_names = ("rotary_dim",)

    @once
    def setup(self, rotary_dim: int) -> None:
        self.rope = embedding(rotary_dim=rotary_dim)
        self.x = randn(PREFILL)
        self.out = np.empty_like(self.x)
        self.rope(self.x, out=self.out)

    def time_out(self, rotary_dim: int) -> None:
        self.rope(self.x, out=self.out)


class Pair(Timed):
    """A query and a key with fewer heads, in one call and with every method."""

    params = ["__call__", "inverse", "vjp"]
    param_names = ("verb",)

    @once
    def setup(self, verb: str) -> None:
        self.verb = getattr(embedding(), verb)
        self.pair: tuple[Any, Any] = (randn((1, 32, 1024, HEAD_DIM)), randn((1, 8, 1024, HEAD_DIM)))
        self.verb(*self.pair, out=self.pair)

    def time_in_place(self, verb: str) -> None:
        self.verb(*self.pair, out=self.pair)


class Axes(Timed):
    """Patches of images or video. Each channel pair has one of three position axes. Early versions had one axis."""

    @once
    def setup(self) -> None:
        if not hasattr(rotary, "sections"):
            raise NotImplementedError  # asv then skips the benchmark
        self.rope = embedding(sections=rotary.sections.chunked(16, 24, 24))
        self.positions = np.stack([np.full(2048, 4), *rotary.positions.grid(32, 64)])
        self.x = randn(PREFILL)
        self.out = np.empty_like(self.x)
        self.time_out()

    def time_out(self) -> None:
        self.rope(self.x, positions=self.positions, out=self.out)


class Gradients(Timed):
    """Gradients by x, positions and frequencies, by dtype; `time_formula` is NumPy's operations for the same."""

    params = (DTYPES[2:], ["8 MiB", "32 MiB"])
    param_names = ("dtype", "size")

    @once
    def setup(self, dtype: str, size: str) -> None:
        length = SIZES[size]
        self.rope = embedding("half", seq_axis=-2)
        self.x, self.dy = (randn((1, 32, length, HEAD_DIM), dtype) for _ in range(2))
        self.options: dict[str, Any] = {
            "positions": np.arange(length, dtype=np.float64),
            "inv_freq": self.rope.inv_freq,
        }
        self.time_gradients(dtype, size)

    def time_gradients(self, dtype: str, size: str) -> None:
        self.rope.vjp(self.dy, primals=self.x, wrt=("x", "positions", "inv_freq"), **self.options)

    def time_formula(self, dtype: str, size: str) -> None:
        positions, frequencies = self.options["positions"], self.options["inv_freq"]
        angles = positions[:, None] * frequencies
        cosine, sine = (part(angles).astype(dtype) for part in (np.cos, np.sin))
        (a, b), (u, v) = (np.split(each, 2, axis=-1) for each in (self.dy, self.x))
        p, q = a * cosine + b * sine, b * cosine - a * sine
        np.concatenate([p, q], axis=-1)
        by_angle = (u * q - v * p).sum(axis=(0, 1), dtype=np.float64)
        by_angle @ frequencies, positions @ by_angle
