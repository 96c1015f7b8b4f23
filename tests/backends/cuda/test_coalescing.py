"""How the threads of a warp share what they move, counted in the sectors of 32 bytes that a GPU moves.

A request is one instruction of one warp. It is as good as can be where its sectors hold nothing but what was
asked for; and an array is moved as rarely as can be where it is read once and written once.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from emulation import Kernels, build
from launching import (
    DTYPES,
    array_of_positions,
    factors,
    fields_of_turns,
    launch,
    numbers,
    of,
    pairing_of,
    parameters,
)

from rotary.backends.cuda.parameters import instance
from rotary.layouts import LAYOUTS

pytestmark = [pytest.mark.cuda, pytest.mark.unsanitized]

SECTOR = 32
FREQUENCIES = {pairs: of(1.0 / (1 + np.arange(pairs))) for pairs in (32, 64)}


@cache
def traced():
    return Kernels(build("traced"))


def accesses(name, xs, ys, pairing, *, by_head=True):
    """What a launch reads of x and writes to y, each as accesses."""
    own = FREQUENCIES[pairing.pairs]
    positions = np.arange(xs[0].shape[0] * xs[0].shape[1]).reshape(1, *xs[0].shape[:2])
    fields, _words = fields_of_turns(own)
    fields |= factors(1.0) | array_of_positions(positions)
    which = instance(name, "integers", pairing.source, pairing.target, vector=True)
    launch(which, parameters(xs, ys, pairing, **fields), by_head=by_head, on=traced())
    found = traced().trace()
    reads = found[(found["is_store"] == 0) & inside(found, xs)]
    writes = found[found["is_store"] == 1]
    assert inside(writes, ys).all()
    return reads, writes


def inside(found, arrays):
    """Which accesses are to arrays."""
    among = np.zeros(len(found), bool)
    for array in arrays:
        low, high = np.lib.array_utils.byte_bounds(array)
        among |= (found["address"] >= low) & (found["address"] < high)
    return among


def efficiency(found):
    """What part of the sectors that requests move was asked for."""
    requests = found["warp"].astype(np.uint64) << np.uint64(32) | found["nth"]
    sectors = np.stack([requests, found["address"] // SECTOR], axis=1)
    return found["bytes"].sum() / (SECTOR * len(np.unique(sectors, axis=0)))


def arrays(name, heads, order, *, batch=1, length=64, width=128):
    """Arrays whose first channel begins a sector."""
    found = []
    for seed, count in enumerate(heads):
        memory = np.empty(batch * length * count * width * 8 + SECTOR, np.uint8)
        first = -memory.ctypes.data % SECTOR
        values = numbers((batch, length, count, width), name, seed)
        inner = values.transpose(*order)
        copy = memory[first : first + values.nbytes].view(values.dtype).reshape(inner.shape)
        copy = copy.transpose(np.argsort(order))
        copy[...] = values
        found.append(copy)
    return found


ORDERS = {"heads side by side": ((0, 1, 2, 3), True), "tokens side by side": ((0, 2, 1, 3), False)}


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("source", "target"), list(product(LAYOUTS, LAYOUTS)))
@pytest.mark.parametrize("name", DTYPES)
def test_nothing_is_moved_in_vain(name, source, target, order, in_place):
    if in_place and source != target:
        source = target
    axes, by_head = ORDERS[order]
    xs = arrays(name, (8, 2), axes)
    ys = xs if in_place else arrays(name, (8, 2), axes)
    pairing = pairing_of(64, source, target)
    reads, writes = accesses(name, xs, ys, pairing, by_head=by_head)
    for found in (reads, writes):
        assert found["bytes"].sum() == sum(x.nbytes for x in xs)
        assert len(np.unique(found["address"])) == len(found)
        assert efficiency(found) == 1.0
    wide = {16} if source == target else {8, 16}
    assert set(reads["bytes"]) | set(writes["bytes"]) <= wide


@pytest.mark.parametrize("name", DTYPES)
def test_a_token_at_a_time_is_moved_as_well(name):
    xs = arrays(name, (32, 8), (0, 1, 2, 3), batch=16, length=1)
    for found in accesses(name, xs, xs, pairing_of(64)):
        assert found["bytes"].sum() == sum(x.nbytes for x in xs)
        assert efficiency(found) == 1.0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DTYPES)
def test_in_place_only_the_window_is_touched(name, layout):
    xs = arrays(name, (8, 2), (0, 1, 2, 3))
    for found in accesses(name, xs, xs, pairing_of(32, layout, start=32)):
        assert found["bytes"].sum() == sum(x.nbytes for x in xs) / 2
        assert efficiency(found) == 1.0


@pytest.mark.parametrize("start", [0, 32, 64])
@pytest.mark.parametrize("name", DTYPES)
def test_elsewhere_the_other_channels_are_moved_once_too(name, start):
    xs, ys = (arrays(name, (8, 2), (0, 1, 2, 3)) for _ in range(2))
    for found in accesses(name, xs, ys, pairing_of(32, start=start)):
        assert found["bytes"].sum() == sum(x.nbytes for x in xs)
        assert len(np.unique(found["address"])) == len(found)
        assert efficiency(found) == 1.0


def test_a_thread_makes_its_angles_once_for_all_heads():
    tokens = 512
    xs = arrays("float16", (8, 2), (0, 2, 1, 3), length=tokens)
    own, positions = FREQUENCIES[64], np.arange(tokens).reshape(1, 1, -1)
    fields, words = fields_of_turns(own)
    fields |= factors(1.0) | array_of_positions(positions)
    which = instance("float16", "integers", vector=True)
    launch(which, parameters(xs, xs, pairing_of(64), **fields), by_head=False, on=traced())
    found = traced().trace()
    of_turns = found[inside(found, [words])]
    # Two words for every pair of a token.
    assert of_turns["bytes"].sum() == tokens * 64 * 2 * 8
