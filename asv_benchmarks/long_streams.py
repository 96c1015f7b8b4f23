"""Measure every call of long streams of tokens: the worst one, and how much memory the process takes for them.

Run it by hand, on a quiet machine: ``python asv_benchmarks/long_streams.py [tokens]``. Times are CPU time.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import rotary

HEADS, KEY_HEADS, HEAD_DIM = 32, 8, 128
TOKENS = 10**6
MIB = 2**20
LIMIT = 256 * MIB
# So many of the slowest calls are shown.
WORST = 3
# How often a stream is repeated. The least time of each call counts, because a busy machine interrupts any call.
ROUNDS = 3

Array = np.ndarray[Any, Any]


def resident() -> int:
    """Return the bytes of memory that the process has: now, or at most so far where only that is known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
    return pages * resource.getpagesize()


def measure(
    name: str, rope: rotary.RotaryEmbedding, batch: int, first: int | Array, steps: int
) -> None:
    """Rotate one token after another and print median and largest time of a call, and memory that a round took."""
    q = np.ones((batch, HEADS, 1, HEAD_DIM), np.float32)
    k = np.ones((batch, KEY_HEADS, 1, HEAD_DIM), np.float32)
    out = q.copy(), k.copy()
    times, best = (np.full(steps, np.inf) for _ in range(2))
    rope(q, k, offset=first, out=out)  # compilation and planning are no stalls of a stream
    clock = time.thread_time
    for _ in range(ROUNDS):
        rotary.set_cache_limit(0)  # which keeps the plans
        rotary.set_cache_limit(LIMIT)
        before = resident()
        for step in range(steps):
            offset = first + step
            start = clock()
            rope(q, k, offset=offset, out=out)
            times[step] = clock() - start
        grown = (resident() - before) / MIB
        np.minimum(best, times, out=best)
    worst = ", ".join(f"{best[i] * 1e3:.3f} (call {i})" for i in np.argsort(-best)[:WORST])
    info = rotary.cache_info()
    print(
        f"{name:36} median {np.median(best) * 1e6:6.2f} us, worst {worst} ms, memory {grown:+.1f} MiB, "
        f"tables {info.nbytes / MIB:.1f} MiB in {info.entries} parts",
        flush=True,
    )


def main(tokens: int) -> None:
    """Measure decoding from position 0, from far away, and of ragged batches."""
    rope = rotary.RotaryEmbedding(HEAD_DIM, layout="half", base=10_000.0, seq_axis=-2)
    rng = np.random.default_rng(0)
    measure("one sequence from 0", rope, 1, 0, tokens)
    measure("one sequence from 10^9", rope, 1, 10**9, tokens)
    with rotary.threads(1):
        for batch in (8, 32, 256):
            starts = rng.integers(0, 10**6, batch)
            measure(f"batch of {batch} over 10^6 positions", rope, batch, starts, tokens // batch)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TOKENS)
