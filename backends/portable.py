"""The array-API backend: the rotation in any library's own operations, traced or lazy ones included.

It is what runs under `jax.jit`, `jax.grad`, `torch.func` or array-api-strict, for lazy libraries, and for
NumPy where Numba is missing. Tables come from the host, exact, unless the positions themselves are traced:
then their angles are reduced in the library's integers, see `traced_table`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._typing import Array, HostArray, Namespace, TableDType
from rotary.layouts import Layout
from rotary.phases import FRACTION_BITS, Frequencies, Multipliers, multipliers, turns
from rotary.rotation import Axes, Pairing, Rows, Source, Table, TracedTable

from .libraries import dtype_name, from_host, has_int64, namespace

ROWS_AT_A_TIME = 1024


# ------------------------------------------------------------------------------------------------
# Tables.


def fill_table(
    frequencies: Frequencies,
    positions: HostArray,
    factor: float,
    table: HostArray,
    row: int,
) -> None:
    """Fill rows of a table (2, heads, rows, lanes), from ``row`` on, for positions (axes, n).

    The kernels' formulas, run by NumPy on whole arrays: the bits are the same.
    """
    from . import kernels

    for first in range(0, positions.shape[1], ROWS_AT_A_TIME):
        part = positions[:, first : first + ROWS_AT_A_TIME]
        numbers = multipliers(part)
        high = low = np.zeros((frequencies.heads, part.shape[1], frequencies.lanes), np.uint64)
        for axis in range(frequencies.axes):
            phase = _turns(frequencies, numbers, axis, kernels.turn)
            high, low = kernels.add_signed(high, low, *phase)
        cosine, sine = kernels.cos_sin(high, low, table)
        rows = slice(row + first, row + first + part.shape[1])
        table[0, :, rows] = cosine * factor
        table[1, :, rows] = sine * factor


def _turns(
    frequencies: Frequencies, numbers: Multipliers, axis: int, turn: Any
) -> tuple[Any, Any, Any]:
    """Return the phases (heads, n, lanes) on one axis as two words, and where they are negative."""
    digits, shift, negative = (part[axis] for part in numbers)
    high = np.empty((frequencies.heads, len(shift), frequencies.lanes), np.uint64)
    low = np.empty_like(high)
    for limbs_down in np.unique(shift):
        rows = shift == limbs_down
        window = frequencies.limbs[:, axis, limbs_down : limbs_down + 8, None].astype(np.uint64)
        high[:, rows], low[:, rows] = turn(
            *digits[rows, :, None].transpose(1, 0, 2), *window.transpose(1, 0, 2, 3)
        )
    return high, low, frequencies.negative[:, axis, None] ^ negative[:, None]


def traced_table(
    frequencies: Frequencies, rows: Rows, dtype: TableDType, factor: float
) -> TracedTable:
    """Return cosine and sine of positions whose values are not known here.

    Both are (heads, batch or 1, sequence or 1, lanes). Integer positions are reduced to a fraction of
    a turn in integer arithmetic, exact but for 2**-38 of a turn where the library's widest integer has
    32 bits, and 2**-78 where it has 64; floating positions are multiplied in their own precision.
    """
    positions = rows.positions
    assert positions is not None
    xp = namespace(positions)
    name = dtype_name(positions)
    angles = _traced_float_angles if "float" in name else _traced_integer_angles
    heads = [angles(frequencies, head, positions, dtype, xp) for head in range(frequencies.heads)]
    cosine = xp.stack([cosine for cosine, _ in heads])
    sine = xp.stack([sine for _, sine in heads])
    return TracedTable(cosine * factor, sine * factor)


def _traced_float_angles(
    frequencies: Frequencies, head: int, positions: Array, dtype: TableDType, xp: Namespace
) -> tuple[Array, Array]:
    if dtype_name(positions) in ("float16", "bfloat16"):
        positions = xp.astype(positions, xp.float32)
    values = from_host(frequencies.values[head].copy(), xp, positions)
    values = xp.astype(values, positions.dtype)
    angle = sum(positions[axis, ..., None] * values[axis, ...] for axis in range(frequencies.axes))
    real = getattr(xp, dtype)
    return xp.astype(xp.cos(angle), real), xp.astype(xp.sin(angle), real)


def _traced_integer_angles(
    frequencies: Frequencies, head: int, positions: Array, dtype: TableDType, xp: Namespace
) -> tuple[Array, Array]:
    """Reduce integer positions exactly, with nothing wider than the library's widest integer.

    A position is a sum of digits of `word / 2` bits, a fraction of a turn one of words. For each digit
    the fraction is shifted by the digit's place on the host, so that products of digit and word, and
    sums of a few of them, fit the integer; carries go upwards, and what leaves the top is whole turns.
    """
    wide = has_int64(positions)
    integer, word = (xp.int64, 32) if wide else (xp.uint32, 16)
    digit_bits, mask = word // 2, (1 << word) - 1
    digits = 64 // digit_bits if wide else 32 // digit_bits

    words: list[Any] = [0, 0, 0]
    for axis in range(frequencies.axes):
        position = positions[axis, ..., None]
        backwards = position < 0
        size = xp.astype(xp.abs(position), integer)
        parts = [(size >> (digit_bits * j)) & ((1 << digit_bits) - 1) for j in range(digits)]
        table = _shifted_words(frequencies, head, axis, word, digit_bits, digits)
        carry: Any = 0
        fraction = []
        for k in range(3):
            # Least word first.
            total = carry + sum(
                part * from_host(table[j, k], xp, positions) for j, part in enumerate(parts)
            )
            fraction.append(total & mask)
            carry = total >> word
        # Minus a fraction of a turn is its complement, up to the last bit.
        flipped = [xp.where(backwards, mask - value, value) for value in fraction]
        carry = 0
        for k in range(3):
            total = words[k] + flipped[k] + carry
            words[k] = total & mask
            carry = total >> word
    return _cos_sin_of_words(words, word, dtype, xp)


def _shifted_words(
    frequencies: Frequencies, head: int, axis: int, word: int, digit_bits: int, digits: int
) -> HostArray:
    """Return, for each digit of a position, the three top words of frequency times digit's place."""
    lanes = frequencies.lanes
    table = np.zeros((digits, 3, lanes), np.uint32 if word == 16 else np.int64)
    for lane, value in enumerate(frequencies.values[head, axis]):
        number = turns(float(value)) if value >= 0 else -turns(float(value))
        for j in range(digits):
            fraction = (number << (digit_bits * j)) % (1 << FRACTION_BITS)
            for k in range(3):
                # k = 0 is the least of the three.
                table[j, k, lane] = (fraction >> (FRACTION_BITS - word * (3 - k))) & (
                    (1 << word) - 1
                )
    return table


def _cos_sin_of_words(
    words: list[Array], word: int, dtype: TableDType, xp: Namespace
) -> tuple[Array, Array]:
    """Return cosine and sine of a fraction of a turn given in three words, least first."""
    real = getattr(xp, dtype)
    low, middle, high = words
    eighth = 1 << (word - 3)
    quarter = ((high + eighth) >> (word - 2)) & 3
    # The rest of the top word, between minus and plus an eighth of a turn, is exact as a float.
    whole = ((high + eighth) & ((1 << word) - 1)) & ((1 << (word - 2)) - 1)
    rest = xp.astype(whole, real) - float(eighth)
    turn = 2.0**-word
    rest = rest + (xp.astype(middle, real) + xp.astype(low, real) * turn) * turn
    angle = rest * (2 * np.pi * turn)
    cosine, sine = xp.cos(angle), xp.sin(angle)
    odd = (quarter & 1) == 1
    turned_cosine = xp.where(odd, sine, cosine)
    turned_sine = xp.where(odd, cosine, sine)
    return (
        xp.where((quarter == 1) | (quarter == 2), -turned_cosine, turned_cosine),
        xp.where(quarter >= 2, -turned_sine, turned_sine),
    )


# ------------------------------------------------------------------------------------------------
# Rotating.


def rotate(
    x: Array,
    turn: Source,
    axes: Axes,
    pairing: Pairing,
    out: Array | None = None,
) -> Array:
    """Return x rotated, in x's library, or written to `out`."""
    table = turn.table()
    if isinstance(table, Table):
        xp = namespace(x)
        cosine, sine = (from_host(part, xp, x) for part in table.gather())
    else:
        cosine, sine = table.cosine, table.sine
        xp = namespace(cosine)
        x = x if not isinstance(x, np.ndarray) else xp.asarray(x)
    result = _turned(x, cosine, sine, axes, pairing, xp)
    if out is None:
        return result
    out[...] = result
    return out


def _turned(
    x: Array, cosine: Array, sine: Array, axes: Axes, pairing: Pairing, xp: Namespace
) -> Array:
    """Return x rotated; cosine and sine are (heads or 1, batch or 1, sequence or 1, lanes)."""
    cosine = _align(cosine, x.ndim, axes, xp)
    sine = _align(sine, x.ndim, axes, xp)
    if pairing.inverse:
        sine = -sine
    start, lanes = pairing.start, pairing.lanes
    if "complex" in dtype_name(x):
        stop = start + lanes
        turn = xp.astype(cosine, x.dtype) + 1j * xp.astype(sine, x.dtype)
        turned = x[..., start:stop] * turn
    else:
        stop = start + 2 * lanes
        first, second = _pairs(xp.astype(x[..., start:stop], cosine.dtype), pairing.source)
        turned = _interlaced(
            first * cosine - second * sine, second * cosine + first * sine, pairing.target, xp
        )
        turned = xp.astype(turned, x.dtype)
    if start == 0 and stop == x.shape[-1]:
        return turned
    return xp.concat([x[..., :start], turned, x[..., stop:]], axis=-1)


def _pairs(window: Array, layout: Layout) -> tuple[Array, Array]:
    """Return the first and the second channel of every pair."""
    if layout == "half":
        lanes = window.shape[-1] // 2
        return window[..., :lanes], window[..., lanes:]
    return window[..., 0::2], window[..., 1::2]


def _interlaced(first: Array, second: Array, layout: Layout, xp: Namespace) -> Array:
    """Return the channels of pairs, in a layout."""
    if layout == "half":
        return xp.concat([first, second], axis=-1)
    if None in first.shape:
        # A symbolic axis, as of an ONNX graph, cannot be named in a reshape.
        lanes = first.shape[-1]
        order = np.arange(2 * lanes).reshape(2, lanes).T.ravel()
        return xp.take(xp.concat([first, second], axis=-1), xp.asarray(order), axis=-1)
    pairs = xp.stack([first, second], axis=-1)
    return xp.reshape(pairs, (*first.shape[:-1], 2 * first.shape[-1]))


def _align(table: Array, ndim: int, axes: Axes, xp: Namespace) -> Array:
    """Return a table (heads, batch, sequence, lanes) with its axes where an array has them."""
    heads = axes.others(ndim)
    names = {axes.sequence: 2, axes.batch: 1, heads[0] if heads else None: 0}
    order = [names[axis] for axis in range(ndim - 1) if axis in names]
    missing = [axis for axis in range(3) if axis not in order]
    sizes = [table.shape[names[axis]] if axis in names else 1 for axis in range(ndim - 1)]
    moved = xp.permute_dims(table, (*missing, *order, 3))
    return xp.reshape(moved, (*sizes, table.shape[-1]))


# ------------------------------------------------------------------------------------------------
# For `rotary.warm_up` and `rotary.show_config`.


def warm_up(dtype: str) -> None:
    """Do nothing: nothing is compiled here."""


def configuration() -> list[tuple[str, Any]]:
    """Return nothing: nothing here decides about speed."""
    return []
