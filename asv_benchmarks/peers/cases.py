"""The cases: shapes, dtypes and layouts, their arrays, and the expected results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

HEAD_DIM = 128
PAIRS = HEAD_DIM // 2
BASE = 10_000.0
DTYPES = ("float32", "float16", "bfloat16")
LAYOUTS = ("half", "interleaved")
SEQ_AXES = {"BHSD": 2, "BSHD": 1, "SBHD": 0}
IN_WORDS = {"BHSD": "(B, H, S, D)", "BSHD": "(B, S, H, D)", "SBHD": "(S, B, H, D)"}
# The largest allowed difference from the formula in float64, for normally distributed numbers. The angles of the
# formula are rounded too, other libraries round more often than rotary, and MLX computes angles in float32.
TOLERANCE = {"float64": 1e-11, "float32": 3e-3, "float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Case:
    """One row or column of the page. Every contender does the same work with separate arrays."""

    section: str
    title: str
    dtype: str = "float32"
    layout: str = "half"
    order: str = "BHSD"
    heads: tuple[int, ...] = (32,)
    batch: int = 1
    length: int = 4096
    offset: int = 0
    memory: str = "contiguous"
    threads: int | None = None
    peers: tuple[str, ...] | None = None
    """The names of the modules to measure; None for all."""

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each array."""
        sizes = {"B": self.batch, "S": self.length, "D": HEAD_DIM}
        return [tuple((sizes | {"H": heads})[axis] for axis in self.order) for heads in self.heads]

    @property
    def seq_axis(self) -> int:
        """The axis of the positions."""
        return SEQ_AXES[self.order]

    @property
    def elements(self) -> int:
        """The number of elements of all arrays."""
        return self.batch * sum(self.heads) * self.length * HEAD_DIM

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        return self.elements * as_dtype(self.dtype).itemsize

    @property
    def positions(self) -> Array:
        """The consecutive positions."""
        return np.arange(self.offset, self.offset + self.length)

    def arrays(self) -> list[Array]:
        """New arrays of normally distributed numbers, the same in every call."""
        return [self._array(shape) for shape in self.shapes]

    def _array(self, shape: tuple[int, ...]) -> Array:
        block = np.random.default_rng(0).standard_normal(2**16 + 1).astype(as_dtype(self.dtype))
        if self.memory == "packed":
            return np.resize(block, (*shape[:2], 3, *shape[2:]))[:, :, 0]
        return np.resize(block, shape)

    def cos_sin(self, dtype: str = "float64") -> tuple[Array, Array]:
        """The tables (length, 64). For these positions, float64 angles are accurate enough."""
        angle = np.outer(self.positions, BASE ** (-np.arange(PAIRS) / PAIRS))
        return np.cos(angle).astype(as_dtype(dtype)), np.sin(angle).astype(as_dtype(dtype))

    def broadcast(self, table: Array) -> Array:
        """The table with axes of size one, so that it broadcasts against the arrays."""
        shape = [1, 1, 1, table.shape[-1]]
        shape[self.seq_axis] = len(table)
        return table.reshape(shape)

    def error(self, got: list[Array]) -> float:
        """The largest difference of results from the formula in float64; only at both ends of long sequences."""
        keep = np.arange(self.length) if self.length <= 16 else np.array([0, 1, -2, -1])
        cos, sin = (self.broadcast(table[keep]) for table in self.cos_sin())
        worst = 0.0
        for x, y in zip(self.arrays(), got, strict=True):
            if x.shape != y.shape or x.dtype != y.dtype:
                return np.inf
            kept = np.take(x, keep, self.seq_axis).astype(np.float64)
            difference = np.take(y, keep, self.seq_axis) - rotated(kept, cos, sin, self.layout)
            worst = max(worst, float(np.abs(difference).max()))
        return worst


def as_dtype(name: str) -> np.dtype[Any]:
    """The dtype of this name."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def rotated(x: Array, cos: Array, sin: Array, layout: str) -> Array:
    """The formula."""
    y = np.empty_like(x)
    first, second = pairs(layout)
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., second] * cos + x[..., first] * sin
    return y


def pairs(layout: str) -> tuple[slice, slice]:
    """The channels that come first and second in their pairs."""
    if layout == "half":
        return slice(None, PAIRS), slice(PAIRS, None)
    return slice(None, None, 2), slice(1, None, 2)


def all_cases(*, quick: bool) -> list[Case]:
    """All cases; `quick` takes fewer and smaller arrays."""
    return [
        *prefill(256 if quick else 4096, quick=quick),
        *decode(quick=quick),
        *memory(256 if quick else 4096),
        *tables(4096 if quick else 131_072),
        *growth(18 if quick else 28),
        *threads(256 if quick else 4096),
    ]


def prefill(length: int, *, quick: bool) -> list[Case]:
    """A long sequence: by dtype and layout, with another order of axes, and query and key together."""
    dtypes = ("float32", "bfloat16") if quick else DTYPES
    alone = [
        Case("prefill", f"{dtype} {layout}", dtype, layout, length=length)
        for dtype in dtypes
        for layout in LAYOUTS
    ]
    alone += [
        Case("prefill", f"{dtype} half", dtype, order="BSHD", length=length)
        for dtype in (() if quick else DTYPES)
    ]
    together = [
        Case("pair", dtype, dtype, heads=(32, 8), length=length)
        for dtype in (("float32",) if quick else DTYPES)
    ]
    return alone + together


def decode(*, quick: bool) -> list[Case]:
    """One new token, 32 query heads and 8 key heads."""
    return [
        Case(
            "decode",
            f"{dtype}, batch {batch}",
            dtype,
            heads=(32, 8),
            batch=batch,
            length=1,
            offset=1234,
        )
        for dtype in (("float32",) if quick else DTYPES)
        for batch in (1, 32)
    ]


def memory(length: int) -> list[Case]:
    """The same number of bytes in float64 and with other strides, for rotary and a copy."""
    only = ("rotary",)
    return [
        *(
            Case("memory", f"float64 {layout}", "float64", layout, length=length, peers=only)
            for layout in LAYOUTS
        ),
        *(
            Case("memory", f"float32, {what}", order=order, length=length, memory=place, peers=only)
            for what, order, place in (
                ("(B, H, S, D)", "BHSD", "contiguous"),
                ("(B, S, H, D)", "BSHD", "contiguous"),
                ("(S, B, H, D)", "SBHD", "contiguous"),
                ("q of packed qkv", "BSHD", "packed"),
            )
        ),
    ]


def tables(length: int) -> list[Case]:
    """Cosines and sines of many positions."""
    return [
        Case(
            "tables",
            f"{length:,} positions, {dtype}",
            dtype,
            length=length,
            peers=("rotary", "numpy"),
        )
        for dtype in ("float32", "float64")
    ]


def growth(largest: int) -> list[Case]:
    """From 2^10 to 2^largest elements, if there is memory for five arrays and their checks."""
    cases = []
    for power in range(10, largest + 1):
        heads = min(32, 2 ** (power - 8))
        length = 2**power // (heads * HEAD_DIM)
        case = Case("growth", f"2^{power}", heads=(heads,), length=length, peers=("rotary",))
        if 8 * case.nbytes < free_memory():
            cases.append(case)
    return cases


def threads(length: int) -> list[Case]:
    """The long sequence with one to all threads."""
    return [
        Case("threads", str(count), length=length, threads=count, peers=("rotary",))
        for count in thread_counts()
    ]


def thread_counts() -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 and so on, and all."""
    last = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    doubling = {scale << step for step in range(10) for scale in (2, 3)}
    return sorted(count for count in doubling | {1, last} if count <= last)


def free_memory() -> float:
    """The free memory in bytes, or 8 GiB if the system does not report it."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return 8 * 2.0**30
