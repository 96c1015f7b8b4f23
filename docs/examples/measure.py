"""Print the table of README: what a rotation and a table cost beside plain NumPy, and how exact they are.

Run it on a quiet machine with ``python docs/examples/measure.py``. The two ways of a row take turns in one
process; the table gives medians, and their ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

import rotary

ROUNDS = 15
BASE = 10_000.0
WIDTH = 128
LANES = WIDTH // 2

Task = Callable[[], object]


def frequencies() -> np.ndarray:
    """Return the inverse frequencies as most code computes them."""
    return BASE ** (-np.arange(0, WIDTH, 2) / WIDTH)


def numpy_rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate in the half layout as most code does, 16-bit numbers in float32."""
    wide = x.astype(cos.dtype, copy=False)
    a, b = wide[..., :LANES], wide[..., LANES:]
    turned = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x.dtype, copy=False)


def seconds(tasks: dict[str, Task], inner: int) -> dict[str, float]:
    """Return the median time of each task, the tasks taking turns."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(ROUNDS + 2):
        for name, task in tasks.items():
            start = time.perf_counter()
            for _ in range(inner):
                task()
            if round_ >= 2:  # the first two rounds warm up
                times[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(what: str, inner: int, plain: Task, ours: Task) -> None:
    """Print one row."""
    times = seconds({"plain": plain, "ours": ours}, inner)
    ratio = times["plain"] / times["ours"]
    print(f"| {what} | {show(times['plain'])} | {show(times['ours'])} | {ratio:.1f} |")


def show(value: float) -> str:
    """Return a time in a unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def rotations(dtype: str) -> None:
    """Print the rows of long and short sequences."""
    rope = rotary.RotaryEmbedding(WIDTH, layout="half", base=BASE, seq_axis=-2)
    generator = np.random.default_rng(0)
    for what, shape, inner in (
        ("4096 positions, 32 heads", (1, 32, 4096, WIDTH), 1),
        ("1 position, 32 heads", (1, 32, 1, WIDTH), 200),
    ):
        x = generator.standard_normal(shape).astype(dtype)
        cos, sin = rope.tables(np.arange(shape[2]))
        compare(
            f"rotate {what}, {dtype}",
            inner,
            lambda x=x, cos=cos, sin=sin: numpy_rotate(x, cos, sin),
            lambda x=x: rope(x),
        )
        compare(
            f"the same, in place, {dtype}",
            inner,
            lambda x=x, cos=cos, sin=sin: np.copyto(x, numpy_rotate(x, cos, sin)),
            lambda x=x: rope(x, out=x),
        )


def tables() -> None:
    """Print the rows of tables, the cache set aside."""
    positions = np.arange(131_072)
    inv_freq = frequencies()

    def plain() -> object:
        angle = np.outer(positions, inv_freq)
        return np.cos(angle), np.sin(angle)

    for dtype in ("float32", "float64"):

        def ours(dtype: str = dtype) -> object:
            rotary.cache_clear()
            return rotary.cos_sin(positions, inv_freq, dtype=dtype)

        compare(f"cosine and sine of 131,072 positions, {dtype}", 1, plain, ours)


def errors() -> None:
    """Print how far float32 angles are off, and the library's tables, at growing positions.

    The truth is the library's float64 table, which docs/explanation/accuracy.md holds against 60 digits.
    """
    print(
        "\n| position | float32 angles | float64 angles | rotary, float32 table |\n|---|---|---|---|"
    )
    exact = rotary.inv_freq(WIDTH, base=BASE)
    for position in (4_095, 131_071, 1_048_575, 1_700_000_001, 1_700_000_000_000_000_001):
        truth = np.asarray(rotary.cos_sin(position, exact, dtype="float64"))
        row = [
            np.array([np.cos(angle), np.sin(angle)], np.float64)
            for angle in (
                np.float32(position) * exact.astype(np.float32),
                np.float64(position) * exact,
            )
        ]
        row.append(np.asarray(rotary.cos_sin(position, exact), np.float64))
        cells = " | ".join(f"{np.abs(part - truth).max():.1e}" for part in row)
        print(f"| {position:,} | {cells} |")


def main() -> None:
    """Print both tables."""
    print(f"| what (head of {WIDTH}) | NumPy | rotary | ratio |\n|---|---|---|---|")
    for dtype in ("float32", "float16"):
        rotations(dtype)
    tables()
    errors()


if __name__ == "__main__":
    main()
