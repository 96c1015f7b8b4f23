"""The time of a new process until its first result, and the time of a process that only uses Numba."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .rounds import Progress

HERE = Path(__file__).parent
TRIVIAL = "import trivial; trivial.one()"
ROTARY = """
import rotary
rope = rotary.RotaryEmbedding(128, layout="half", base=10_000.0, seq_axis=-2)
rope(np.ones((1, 8, 64, 128), dtype=np.float32))
"""
# A program with an array to rotate has imported NumPy already.
TIMED = """
import time
import numpy as np
start = time.perf_counter()
{work}
print(time.perf_counter() - start)
"""


def measure(progress: Progress, *, cold: int, warm: int) -> dict[str, float]:
    """Return medians in seconds: with an empty and with a filled disk cache, and for a trivial function."""
    with tempfile.TemporaryDirectory() as folder:
        empty = [Path(folder) / str(number) for number in range(cold)]
        first = []
        for number, cache in enumerate(empty, 1):
            progress.now("first call", f"cold, {number} of {cold}")
            first.append(seconds(ROTARY, cache))
        seconds(TRIVIAL, empty[0])
        later: dict[str, list[float]] = {"warm": [], "trivial": []}
        for number in range(1, warm + 1):
            progress.now("first call", f"warm, {number} of {warm}")
            later["warm"].append(seconds(ROTARY, empty[0]))
            later["trivial"].append(seconds(TRIVIAL, empty[0]))
    times = {"cold": statistics.median(first)}
    times |= {name: statistics.median(values) for name, values in later.items()}
    progress.done("first call", "; ".join(f"{name} {value:.2f} s" for name, value in times.items()))
    return times


def seconds(work: str, cache: Path) -> float:
    """Run the work in a new process and return its time without the import of NumPy."""
    variables = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(work=work)],
        capture_output=True,
        check=True,
        env=variables,
        text=True,
    )
    return float(done.stdout)
