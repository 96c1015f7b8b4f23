"""Launches an instance on NumPy's memory as the library would on the GPU's, and knows what has to come out.

What has to come out is made of `rotary.backends.reference`, in more digits than any dtype here has. Every
launch runs in three orders of threads, which must not make a difference of one bit.
"""

from __future__ import annotations

from contextlib import contextmanager
from fractions import Fraction
from functools import cache, lru_cache

import ml_dtypes
import numpy as np
from emulation import Kernels, build

from rotary.angles.phases import frequencies
from rotary.backends import reference
from rotary.backends.contract import Axes, Pairing, Table
from rotary.backends.cuda import parameters as cuda_struct
from rotary.cli import selftest as _selftest

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
ROUNDINGS = 3  # of a pair's length
ORDERS = (0, 1, 12345)
MULTIPROCESSORS = 2  # few, so that some launches here have threads with several heads


@cache
def kernels():
    """The instances under test."""
    return Kernels(build())


# ------------------------------------------------------------------------------------------------
# Memory.


def placed(values, order=(0, 1, 2, 3), *, gap=0, skip=0):
    """A copy of values (batch, token, head, channel) whose axes lie in this order in memory.

    Rows are `gap` channels apart, and the first one stands `skip` channels behind an address of whole vectors.
    """
    inner = [values.shape[axis] for axis in order]
    rows = int(np.prod(inner[:-1]))
    item, width = values.itemsize, inner[-1] + gap
    memory = np.empty(rows * width * item + skip * item + 16, np.uint8)
    memory[...] = 0xFF  # which is no number in any dtype
    first = -memory.ctypes.data % 16 + skip * item
    inside = memory[first : first + rows * width * item].view(values.dtype)
    inside = inside.reshape(*inner[:-1], width)[..., : inner[-1]]
    copy = inside.transpose(np.argsort(order))
    copy[...] = values
    return copy


def memory_of(array):
    """The whole memory that an array of `placed` lies in."""
    while array.base is not None:
        array = array.base
    return array


@contextmanager
def only(arrays):
    """Let nothing of the memory that arrays lie in be touched but their own channels."""
    for array in arrays:
        memory = memory_of(array)
        kernels().poison(memory.ctypes.data, memory.nbytes)
    for array in arrays:
        for index in np.ndindex(array.shape[:-1]):
            kernels().unpoison(array[index].ctypes.data, array.shape[-1] * array.itemsize)
    try:
        yield
    finally:
        for array in arrays:
            memory = memory_of(array)
            kernels().unpoison(memory.ctypes.data, memory.nbytes)


# ------------------------------------------------------------------------------------------------
# What has to come out.


def of(values):
    """Frequencies (heads, axes, pairs) by an array of at most three axes."""
    return frequencies(
        np.asarray(values, np.float64).reshape((1,) * (3 - np.ndim(values)) + np.shape(values))
    )


@lru_cache(maxsize=100_000)
def _exact(frequency, position):
    """Cosine and sine at one position per axis, as the sum of two float64 each."""
    phase = reference.phase_of(np.array(frequency), np.array(position))
    return [
        (float(value), float(value - Fraction(float(value))))
        for value in reference.cos_sin_of(phase)
    ]


def exact_table(own, positions, factor):
    """Cosine and sine (2, heads, rows, pairs) at positions (axes, rows), in NumPy's widest floats."""
    table = np.empty((2, own.heads, positions.shape[1], own.pairs), np.longdouble)
    for head, row, pair in np.ndindex(table.shape[1:]):
        found = _exact(tuple(own.values[head, :, pair].tolist()), tuple(positions[:, row].tolist()))
        for part, (high, low) in enumerate(found):
            table[part, head, row, pair] = (np.longdouble(high) + low) * np.longdouble(factor)
    return table


def expected(x, own, positions, factor, pairing):
    """What x (batch, token, head, channel) has to become at positions (axes, batch, token)."""
    table = exact_table(own, positions.reshape(own.axes, -1), factor)
    rows = np.arange(positions[0].size).reshape(positions.shape[1:])
    return reference.rotate(
        x.astype(np.longdouble), Table(table, rows, 0, rows.shape[1]), Axes(1, 0), pairing
    )


def check(y, x, name, wanted, pairing):
    """Compare what came out with what had to, of which the self-test knows how far off it may be."""
    np.testing.assert_array_equal(np.isnan(y.astype(np.longdouble)), np.isnan(wanted))
    window = slice(pairing.start, pairing.start + 2 * pairing.pairs)
    turned, exact = (part[..., window].astype(np.longdouble) for part in (y, wanted))
    sizes = np.abs(exact).astype(np.float64)
    bound = _selftest.bound(name, sizes, pairing.target, ROUNDINGS)
    error = np.abs(turned - exact)
    assert (np.isnan(error) | (error <= bound)).all(), (error / bound).max()
    # What passes through does so bit for bit.
    for rest in (slice(0, window.start), slice(window.stop, None)):
        np.testing.assert_array_equal(bits(y[..., rest]), bits(x[..., rest]))


def bits(array):
    """The bytes of an array's elements."""
    return np.ascontiguousarray(array).view(np.uint8)


# ------------------------------------------------------------------------------------------------
# Launches.


def parameters(xs, ys, pairing, **fields):
    """The one parameter of a launch, with what follows from arrays (batch, token, head, channel)."""
    batch, length, _, width = xs[0].shape
    given = np.zeros(1, cuda_struct.PARAMETERS)
    for own, x, y in zip(given["arrays"][0], xs, ys, strict=False):
        own["x"], own["y"] = x.ctypes.data, y.ctypes.data
        for name, array in (("x", x), ("y", y)):
            for axis, stride in zip(("batch", "token", "head"), array.strides, strict=False):
                own[f"{name}_{axis}"] = stride
        own["heads"] = x.shape[2]
        own["copy"] = x.ctypes.data != y.ctypes.data and 2 * pairing.pairs != width
    defaults = {
        "limit": cuda_struct.NO_LIMIT,
        "sine_sign": -1.0 if pairing.inverse else 1.0,
        "tokens": batch * length,
        "length": length,
        "width": width,
        "start": pairing.start,
        "pairs": pairing.pairs,
        "axes": 1,
        "source": pairing.source == "interleaved",
        "target": pairing.target == "interleaved",
    }
    for name, value in (defaults | fields).items():
        given[name] = value
    return given


def factors(factor):
    """The fields of an attention factor."""
    high = np.float32(factor)
    return {"factor": factor, "factor_high": high, "factor_low": np.float32(factor - float(high))}


def array_of_positions(positions):
    """The fields of positions (axes, 1 or batch, 1 or token)."""
    strides = [
        step if size > 1 else 0
        for step, size in zip(positions.strides, positions.shape, strict=True)
    ]
    return {
        "positions": positions.ctypes.data,
        "position_type": cuda_struct.POSITION_TYPES[positions.dtype.name],
        **dict(zip(("position_axis", "position_batch", "position_token"), strides, strict=True)),
    }


def array_of_bounds(bounds):
    """The fields of bounds of packed sequences."""
    return {
        "bounds": bounds.ctypes.data,
        "bounds_type": cuda_struct.POSITION_TYPES[bounds.dtype.name],
        "sequences": len(bounds) - 1,
    }


def table_of(own, positions, factor, name):
    """A table (2, heads, rows, pairs) at positions (axes, rows), as an array of this dtype reads it."""
    wanted = exact_table(own, positions, factor)
    table = np.empty(wanted.size * 8 + 16, np.uint8)[: wanted.size * 8]
    table = table.view(np.float64 if name == "float64" else np.float32)
    table = table[: wanted.size].reshape(wanted.shape)
    table[...] = wanted
    return table


def fields_of_table(table):
    """The fields of a table (2, heads, rows, pairs)."""
    return {
        "cosine": table[0].ctypes.data,
        "sine": table[1].ctypes.data,
        "table_row": table.strides[2],
        "trig_head": table.strides[1] if table.shape[1] > 1 else 0,
        "rows": table.shape[2],
    }


def fields_of_turns(own):
    """The fields of frequencies, and the memory they lie in."""
    words = cuda_struct.frequency_words(own).copy()
    fields = {
        "turns": words.ctypes.data,
        "trig_head": words.strides[0] if own.heads > 1 else 0,
        "axes": own.axes,
    }
    return fields, words


def launch(name, given, *, order=0, by_head=True, on=None):
    """Run an instance on one parameter, launched as the library launches it; `on` may be another build."""
    one = given[0]
    width = int(cuda_struct.ARGUMENTS[name].split(", ")[1])
    grid, block = cuda_struct.launch_shape(
        int(one["tokens"]),
        int(one["arrays"]["heads"].max()),
        int(one["pairs"]) // width,
        by_head=by_head,
        own=bool(one["trig_head"]),
        multiprocessors=MULTIPROCESSORS,
    )
    (on or kernels()).launch(name, grid, block, given.tobytes(), order)


def run(instance, xs, pairing, *, in_place, by_head=True, outputs=None, **fields):
    """Return what arrays become, launched in every order of threads.

    `outputs` gives the memory of what comes out; its values are not looked at.
    """
    before = [np.array(x) for x in xs]
    ys = xs if in_place else outputs or [placed(np.zeros_like(x)) for x in before]
    results = []
    for order in ORDERS:
        around = [memory_of(y).copy() for y in ys]
        old = [np.array(y) for y in ys]
        with only([*xs] if in_place else [*xs, *ys]):
            launch(instance, parameters(xs, ys, pairing, **fields), order=order, by_head=by_head)
        results.append([np.array(y) for y in ys])
        for y, values, memory in zip(ys, old, around, strict=True):
            # Puts x back, too, where it is y; around it nothing may have changed.
            y[...] = values
            np.testing.assert_array_equal(memory_of(y), memory)
        for x, values in zip(xs, before, strict=True):
            np.testing.assert_array_equal(bits(x), bits(values))
    for other in results[1:]:
        for y, again in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(bits(y), bits(again))
    return results[0]


def numbers(shape, name, seed=0):
    """Random channels of a dtype."""
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[name])


def pairing_of(pairs, source="half", target=None, *, start=0, inverse=False):
    return Pairing(start, pairs, source, target or source, inverse)
