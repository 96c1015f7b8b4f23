"""rotary on NumPy arrays, and the limits of the memory, in the same process with the same threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numba
import numpy as np

import rotary

from . import streams
from .cases import BASE, HEAD_DIM, PAIRS, Array, Case
from .contenders import Contender

NEW, OUT, MISALIGNED, IN_PLACE = (
    "rotary, new outputs",
    "rotary, out=",
    "rotary, misaligned out=",
    "rotary, in place",
)
COPY, SCALE = "copy", "scale in place"
NAMES = (NEW, OUT, MISALIGNED, IN_PLACE, COPY, SCALE)


def embedding(case: Case) -> rotary.RotaryEmbedding:
    """The embedding of a case."""
    return rotary.RotaryEmbedding(
        HEAD_DIM, layout=case.layout, base=BASE, seq_axis=case.seq_axis - 4
    )


def rotations(case: Case) -> Iterator[Contender]:
    """The forms of the call. Large arrays that NumPy allocates start 16 bytes after a cache line."""
    rope = embedding(case)
    given = case.arrays()
    out = tuple(streams.aligned(x.shape, x.dtype) for x in given)
    mine = tuple(case.arrays())
    ways: dict[str, Callable[[], object]] = {
        NEW: lambda: rope(*given, offset=case.offset),
        OUT: lambda: rope(*given, offset=case.offset, out=out if len(out) > 1 else out[0]),
        IN_PLACE: lambda: rope(*mine, offset=case.offset, out=mine if len(mine) > 1 else mine[0]),
    }
    if case.section == "prefill":
        theirs = _misaligned(given[0])
        ways[MISALIGNED] = lambda: rope(given[0], offset=case.offset, out=theirs)
    for name, call in ways.items():
        yield Contender(name, _limited(call, case.threads), read=_as_list)
    if len(given) > 1:
        return
    source = np.ascontiguousarray(mine[0])
    for form, call in streams.copies(source, out[0]).items():
        yield Contender(COPY, _limited(call, case.threads), form=form)
    for form, call in streams.scales(source).items():
        yield Contender(SCALE, _limited(call, case.threads), form=form)


def _limited(call: Callable[[], object], threads: int | None) -> Callable[[], object]:
    """The call with a limit on the number of threads, set in rotary and in Numba."""
    if threads is None:
        return call

    def limited() -> object:
        before = numba.get_num_threads()
        numba.set_num_threads(min(threads, before))
        try:
            with rotary.threads(threads) if threads else nullcontext():
                return call()
        finally:
            numba.set_num_threads(before)

    return limited


def _misaligned(x: Array) -> Array:
    """An array that starts 16 bytes after a cache line, as large arrays of NumPy do."""
    memory = streams.aligned((x.nbytes + streams.BLOCK,), np.dtype(np.uint8))
    return memory[16 : 16 + x.nbytes].view(x.dtype).reshape(x.shape)


def _as_list(result: Array | tuple[Array, ...]) -> list[Array]:
    return list(result) if isinstance(result, tuple) else [result]


def tables(case: Case) -> Iterator[Contender]:
    """A table that is not in the cache."""
    inv_freq = rotary.inv_freq(HEAD_DIM, base=BASE)
    positions = case.positions

    def make() -> object:
        rotary.cache_clear()
        return rotary.cos_sin(positions, inv_freq, dtype=case.dtype)

    yield Contender(NEW, make)


def cosines(positions: list[int]) -> dict[str, Array]:
    """The tables at these positions, (positions, 2, channel pairs)."""
    frequencies = rotary.inv_freq(HEAD_DIM, base=BASE)
    where = np.array(positions, np.int64)
    assert len(frequencies) == PAIRS
    return {
        f"rotary, {dtype} table": np.stack(rotary.cos_sin(where, frequencies, dtype=dtype), axis=1)
        for dtype in ("float32", "float64")
    }
