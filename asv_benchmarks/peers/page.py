"""The page docs/performance/index.md, from the numbers of one run."""

from __future__ import annotations

from typing import Any

from . import goals
from .cases import IN_WORDS
from .process import ALONE
from .table import by_case, markdown, select

QUICK = """
:::{warning}
These are the numbers of a quick run on small arrays: they show that the program works, and nothing else.
:::
"""
PAGE = """# Performance
{warning}
`nox -s peers` measured everything on this page on {date}; `nox -s peers -- page` writes the page again from its
[numbers](numbers.json).

{machine}

Every library has a process of its own, because runtimes in one process slow each other down. Threads of some runtimes
wait actively. So each of {alone} is measured beside rotary alone, and the others in one group.
The processes of a group take turns, {rounds} rounds of each case. The tables give medians. In brackets are multiples of
rotary's plain call in the same group: they compare within one run and not between runs. The errors there are the
largest differences from the formula in float64, which were found before the timing. A contender that may be written in
several ways is measured in all of them, and the fastest counts.

- *New outputs* is the plain call `q, k = rope(q, k)`. The memory of large results comes from a pool of what nobody
  holds any more.
- *out=* writes into arrays that are there, aligned to 64 bytes or, *misaligned*, as NumPy's own large arrays are.
  *In place* writes over the input.
- *Copy* is the best of four copies with all threads, into the same memory as *out=*; *scale in place* is the better of
  two multiplications.
- ONNX Runtime runs its operator `com.microsoft.RotaryEmbedding`; `run` returns new arrays, io-binding writes the same
  ones each time. A decoder has another position for each token, so that the position is also bound anew.
- vLLM's operator rotates in place, by a table in the dtype of the arrays. ggml and OpenVINO write the same arrays each
  time; ggml also rotates in place.
- torch, JAX, TensorFlow, OpenVINO, vLLM, ONNX Runtime and NumPy are given their tables. MLX and ggml compute angles at
  every call, which is part of their kernels.

## Long sequences

{length} positions, 32 heads of 128 channels, batch 1.

{prefill}

Query (32 heads) and key (8 heads) together, half layout, (B, H, S, D):

{pair}

Bytes read and written in a second, by the size of one float32 array in the half layout; grey lines stand where the
array fills a cache. The line of the copy is what memory allows.

![Bandwidth by size](bandwidth.svg)

## One token

32 query heads and 8 key heads of 128, half layout, at position 1234.

{decode}

![Time for one token](decode.svg)

## Other places in memory, and float64

{memory}

## Growth

The time of a call on one float32 array in the half layout. What a call costs by itself is most of it for small arrays.
*New outputs* leave the line of *out=* where a result is larger than the pool may keep, and comes in fresh pages.

![Time by number of elements](growth.svg)

The same with 1 to all threads, for {threads}:

![Time by number of threads](threads.svg)

## Tables

{tables}

## First call

Import and first call on a small array in a new process that has imported NumPy: {cold} with nothing on disk and {warm}
with compiled kernels there. A Numba function that does nothing, kept on disk too, takes {trivial}.

## Error against position

The largest error of any cosine or sine among 64 channel pairs with base 10,000, at a few positions of every octave,
compared with 50 digits; the frequencies are the float64 numbers nearest to the formula.

![Error against position](errors.svg)

{errors}

## History

`nox -s history -- preview` serves, on port 8080, graphs of what this library took from commit to commit on one machine.
The results are in `asv_benchmarks/results/`, and `CONTRIBUTING.md` tells how to add to them.

## Goals

Each is a ratio within this run, the worst case counting where there are several.

{goals}
"""
SHOWN = (12, 17, 20, 30, 40, 50, 60)


def write(numbers: dict[str, Any]) -> str:
    """The page."""
    long = select(numbers, "prefill")
    times = numbers["first_call"]
    by_threads = select(numbers, "threads")[0].case
    return PAGE.format(
        warning=QUICK if numbers["mode"] == "quick" else "",
        date=numbers["date"],
        machine=machine(numbers),
        rounds=numbers["rounds"],
        alone=" and ".join((", ".join(ALONE[:-1]), ALONE[-1])),
        length=f"{max(max(shape[1:3]) for shape in long[0].case['shapes']):,}",
        prefill=prefill(numbers),
        pair=by_case(select(numbers, "pair")),
        decode=by_case(select(numbers, "decode")),
        memory=by_case(select(numbers, "memory")),
        tables=by_case(select(numbers, "tables")),
        threads=f"{by_threads['nbytes'] // 4:,} elements",
        errors=errors(numbers),
        goals=goals.write(numbers),
        **{name: f"{seconds:.2f} s" for name, seconds in times.items()},
    )


def tables(numbers: dict[str, Any]) -> str:
    """The tables for the terminal."""
    sections = ("pair", "decode", "memory", "tables")
    parts = [prefill(numbers), *(by_case(select(numbers, section)) for section in sections)]
    return "\n\n".join([*parts, errors(numbers), goals.write(numbers)])


def prefill(numbers: dict[str, Any]) -> str:
    """A table for each order of the axes."""
    parts = []
    for order, words in IN_WORDS.items():
        results = select(numbers, "prefill", order=order)
        if results:
            parts.append(f"{words}:\n\n{by_case(results)}")
    return "\n\n".join(parts)


def machine(numbers: dict[str, Any]) -> str:
    """Machine and versions."""
    rows = [*numbers["machine"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    return markdown(["", ""], [*rows, ("versions", versions)])


def errors(numbers: dict[str, Any]) -> str:
    """Some octaves of the errors."""
    found = numbers["errors"]["errors"]
    rows = [
        [
            f"2^{power}",
            *(f"{values[power]:.1e}" if values[power] else "–" for values in found.values()),
        ]
        for power in SHOWN
    ]
    return markdown(["positions from", *found], rows)
