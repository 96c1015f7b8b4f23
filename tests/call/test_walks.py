"""Walks: how many functions of the library a call runs, which is its cost besides the bytes, for all forms of calls.

Counted are the calls of Python functions in the installed package, without comprehensions and generators.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

import rotary
from rotary import backends
from rotary.call import plans

pytestmark = pytest.mark.compiled

PLAIN, OTHER, LIBRARY, FIRST = 12, 20, 30, 120
FOLDERS = (str(Path(rotary.__file__).parent), *backends.__path__)
LEFT_OUT = {"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>"}

OPTIONS = {"layout": "half", "base": 100.0, "seq_axis": -2}
ROPE = rotary.RotaryEmbedding(32, **OPTIONS)
MROPE = rotary.RotaryEmbedding(32, sections=rotary.sections.chunked(4, 6, 6), **OPTIONS)
XPOS = rotary.RotaryEmbedding(32, decay=rotary.XPos(512, center=0), **OPTIONS)
SHORT = rotary.RotaryEmbedding(
    32,
    scaling=rotary.scaling.DynamicNTK(factor=4, max_position=16),
    context_length=64,
    **OPTIONS,
)
LONG = SHORT.at_length(128)


def array(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


Q, K = array(1, 4, 1, 32), array(1, 2, 1, 32)
SEVERAL = array(2, 4, 3, 32), array(2, 2, 3, 32)
KEYS = SEVERAL[1]
NORM = rotary.RMSNorm(array(32), None)
GEMMA = rotary.RMSNorm(array(32), array(32), unit_offset=True)
OLMO = rotary.RMSNorm(array(4, 32), over="token")
UNROTATED = ROPE.tables([0, 0, 0])
count = itertools.count(3)


def several(*dtypes):
    """Return calls whose positions or offsets have each dtype."""
    return {
        f"{name} of {dtype}": (
            lambda name=name, dtype=dtype, size=size: ROPE(
                *SEVERAL, **{name: np.array([5, next(count) % 90, 9][:size]).astype(dtype)}
            )
        )
        for dtype in dtypes
        for name, size in (("positions", 3), ("offset", 2))
    }


def own_tables(kinds):
    """Return calls of `apply_rotary` with tables of several kinds."""
    return {
        f"own tables{kind}": (
            lambda pair=pair: rotary.apply_rotary(SEVERAL[0], *pair, layout="half", seq_axis=-2)
        )
        for kind, pair in kinds.items()
    }


PLAINEST = {
    "a token": lambda: ROPE(Q, K, offset=next(count)),
    "a prompt": lambda: ROPE(*SEVERAL),
    "in place": lambda: ROPE(Q, K, offset=next(count), out=(Q, K)),
}
KINDS = {
    "one array": lambda: ROPE(Q, offset=next(count)),
    "three arrays": lambda: ROPE(Q, K, Q, offset=next(count)),
    "five arrays": lambda: ROPE(Q, K, Q, K, Q, offset=next(count)),
    **{
        f"{len(shape) + 1} axes": (
            lambda shape=shape: ROPE(array(*shape, 32), offset=next(count), seq_axis=len(shape) - 1)
        )
        for shape in ((3,), (2, 3), (2, 2, 2, 3), (2, 2, 2, 2, 3))
    },
    "two dtypes": lambda: ROPE(Q, K.astype(np.float16), offset=next(count)),
    "two precisions": lambda: ROPE(Q, K.astype(np.float64), offset=next(count)),
    "complex": lambda: ROPE(array(1, 4, 3, 16, dtype=np.complex64), offset=next(count)),
    "strided channels": lambda: ROPE(array(1, 4, 3, 64)[..., ::2], offset=next(count)),
    "position axes": lambda: MROPE(
        *SEVERAL, positions=np.array([[next(count), 7, 9], [2, 3, 5], [1, 1, next(count)]])
    ),
    "position axes that agree": lambda: MROPE(*SEVERAL, positions=np.full((3, 3), next(count))),
    "position axes of floats": lambda: MROPE(
        *SEVERAL, positions=np.array([[next(count), 7.5, 9], [2, 3, 5], [1, 1, 2]])
    ),
    "position axes from an offset": lambda: MROPE(*SEVERAL, offset=next(count)),
    "decay": lambda: XPOS(Q, K, offset=next(count)),
    "decay at positions": lambda: XPOS(*SEVERAL, positions=np.array([next(count), 7, 9])),
    "decay at floats": lambda: XPOS(*SEVERAL, positions=np.array([next(count), 7.5, 9])),
    "positions in lists": lambda: ROPE(*SEVERAL, positions=[[5, next(count) % 90, 9], [1, 2, 3]]),
    "sparse positions": lambda: ROPE(*SEVERAL, positions=np.array([10**6, 10**9, 5])),
    "a list of sparse positions": lambda: ROPE(*SEVERAL, positions=[10**6, 10**9, 5]),
    "sequences far apart": lambda: ROPE(*SEVERAL, offset=np.array([10**6, 10**9])),
    "packed": lambda: ROPE(array(5, 4, 32), array(5, 2, 32), cu_seqlens=np.array([0, 2, 5])),
    "packed, a list": lambda: ROPE(array(5, 4, 32), cu_seqlens=[0, 2, 5], offset=next(count) % 50),
    "shift": lambda: ROPE.shift(KEYS, next(count)),
    "shift by a float": lambda: ROPE.shift(KEYS, next(count) + 0.5),
    "shift by row of the batch": lambda: ROPE.shift(KEYS, np.array([1, next(count) % 50])),
    "shift by token": lambda: ROPE.shift(KEYS, np.array([[1, next(count) % 50, 4]])),
    "shift to": lambda: SHORT.shift(KEYS, next(count) % 9, to=LONG, offset=2),
    "shift to, by row of the batch": lambda: SHORT.shift(
        KEYS, np.array([1, next(count) % 9]), to=LONG, offset=np.array([2, 3])
    ),
    "shift to, by token": lambda: SHORT.shift(
        KEYS,
        np.array([[1, next(count) % 9, 4]]),
        to=LONG,
        positions=np.array([[2, 3, next(count) % 9], [1, 2, 3]]),
    ),
    "a norm": lambda: ROPE(Q, K, offset=next(count), norm=NORM),
    "a norm with unit offset": lambda: ROPE(Q, K, positions=np.array([next(count)]), norm=GEMMA),
    "a norm over the token": lambda: ROPE(Q, offset=next(count), norm=OLMO, out=Q),
    "inverse": lambda: ROPE.inverse(Q, K, offset=next(count)),
    "vjp": lambda: ROPE.vjp(Q, K, offset=next(count)),
    "new frequencies": lambda: ROPE(
        Q, K, offset=next(count), inv_freq=np.full(16, next(count) / 7)
    ),
    "a NumPy integer": lambda: ROPE(Q, K, offset=np.int64(next(count))),
    "a float": lambda: ROPE(Q, K, offset=next(count) + 0.5),
    **several("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    **several("float16", "float32", "float64"),
    **own_tables(
        {
            "": ROPE.tables([5, 6, 9]),
            " of another dtype": ROPE.tables([5, 6, 9], "float64"),
            " by row of the batch": ROPE.tables([[5, 6, 9], [1, 2, 3]]),
            " by head": [np.ones((2, 4, 3, 16), np.float32)] * 2,
        }
    ),
    "own tables in place": lambda: rotary.apply_rotary(
        SEVERAL[0], *UNROTATED, out=SEVERAL[0], layout="half", seq_axis=-2
    ),
    "one axis for each array": lambda: ROPE(
        array(2, 3, 4, 32), KEYS, seq_axis=(1, 2), offset=next(count)
    ),
}


@pytest.fixture(autouse=True)
def warm():
    """Compute the tables for the positions of all calls."""
    for rope in (ROPE, MROPE, SHORT):
        for dtype in (np.float32, np.float64):
            rope(np.zeros((1, 1, 60 if rope is SHORT else 1000, 32), dtype))


def walk(call):
    """Return the functions of the package that a call runs."""
    names = []

    def see(frame, event, _):
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(FOLDERS)
            and code.co_name not in LEFT_OUT
        ):
            names.append(f"{Path(code.co_filename).name}: {code.co_name}")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return names


def check(call, most):
    """Check the walks of the first call of a kind in a warm process, and of a repeated call.

    The tables for its positions are cached: the third call at sparse positions finds them in the cache.
    """
    for _ in range(3):
        call()
    plans._plans.clear()
    first = walk(call)
    call()
    again = walk(call)
    assert len(first) <= FIRST, first
    assert len(again) <= most, again


@pytest.mark.parametrize("kind", PLAINEST)
def test_walks_of_the_plainest_calls(kind):
    check(PLAINEST[kind], PLAIN)


@pytest.mark.parametrize("kind", KINDS)
def test_walks_of_all_other_kinds(kind):
    check(KINDS[kind], OTHER)


@pytest.mark.library("torch")
@pytest.mark.parametrize("gradient", [False, True])
def test_walks_of_tensors(gradient):
    import torch

    q, k = (torch.from_numpy(x.copy()).requires_grad_(gradient) for x in (Q, K))
    check(lambda: ROPE(q, k, offset=next(count)), LIBRARY)
    check(lambda: ROPE(q, k, positions=torch.tensor([next(count)])), LIBRARY)
    check(lambda: ROPE(q, k, q, offset=next(count)), LIBRARY)
    check(lambda: XPOS(q, k, offset=next(count)), LIBRARY)
    check(lambda: ROPE.shift(k, next(count)), LIBRARY)
    tables = [torch.from_numpy(part.copy()) for part in ROPE.tables([7])]
    check(lambda: rotary.apply_rotary(q, *tables, layout="half", seq_axis=-2), LIBRARY)


@pytest.mark.library("jax")
def test_walks_of_eager_jax_arrays():
    import jax

    q, k = jax.numpy.asarray(Q), jax.numpy.asarray(K)
    check(lambda: ROPE(q, k, offset=next(count)), LIBRARY)
    cos, sin = ROPE.tables([7])
    for tables in ((cos, sin), (jax.numpy.asarray(cos), jax.numpy.asarray(sin))):
        check(
            lambda tables=tables: rotary.apply_rotary(q, *tables, layout="half", seq_axis=-2),
            LIBRARY,
        )
