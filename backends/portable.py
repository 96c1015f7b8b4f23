"""The array-API backend: the rotation in the operations of any library, traced or lazy ones included.

It runs under `jax.jit`, `jax.grad`, `torch.func` or array-api-strict, for lazy libraries, and for NumPy without Numba.
Tables come from the host, exact, unless the positions themselves are traced: then `traced` reduces their angles in
integers of the library.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib.libraries import dtype_name, from_host, namespace
from rotary._lib.typing import Array, HostArray, Namespace
from rotary.angles.phases import Frequencies, Multipliers, multipliers
from rotary.layouts import Layout

from .contract import Axes, Pairing, Table, TracedTable
from .cpu.guard import formulas

# Whether `rotate` takes a recipe and puts the work off.
LAZY = False
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
    """Fill a table (2, heads, rows, pairs) for positions (axes, n), beginning at ``row``.

    NumPy runs the formulas of the kernels on whole arrays, so that the bits are the same.
    """
    kernels = formulas()
    for first in range(0, positions.shape[1], ROWS_AT_A_TIME):
        part = positions[:, first : first + ROWS_AT_A_TIME]
        numbers = multipliers(part)
        high = low = np.zeros((frequencies.heads, part.shape[1], frequencies.pairs), np.uint64)
        for axis in range(frequencies.axes):
            phase = _phases(frequencies, numbers, axis, kernels.turn)
            high, low = kernels.add_signed(high, low, *phase)
        cosine, sine = kernels.cos_sin(high, low, table.dtype)
        rows = slice(row + first, row + first + part.shape[1])
        table[0, :, rows] = cosine * factor
        table[1, :, rows] = sine * factor


def _phases(
    frequencies: Frequencies, numbers: Multipliers, axis: int, turn: Any
) -> tuple[Any, Any, Any]:
    """Return the phases (heads, n, pairs) on one axis as two words, and 1 for negative ones, else 0."""
    digits, shift, negative = (part[axis] for part in numbers)
    high = np.empty((frequencies.heads, len(shift), frequencies.pairs), np.uint64)
    low = np.empty_like(high)
    for limbs_down in np.unique(shift):
        rows = shift == limbs_down
        window = frequencies.limbs[:, axis, limbs_down : limbs_down + 8, None].astype(np.uint64)
        high[:, rows], low[:, rows] = turn(
            digits[rows, :, None].transpose(1, 0, 2), window.transpose(1, 0, 2, 3)
        )
    return high, low, frequencies.negative[:, axis, None] ^ negative[:, None]


# ------------------------------------------------------------------------------------------------
# Rotating.


def rotate(
    x: Array,
    table: Table | TracedTable,
    axes: Axes,
    pairing: Pairing,
    out: Array | None = None,
) -> Array:
    """Return x rotated, in x's library, or written to `out`."""
    if isinstance(x, np.ndarray):
        # Like the kernels: NumPy's operations would keep a subclass, and the byte order of some parts.
        whole = _rotated(x.view(np.ndarray), table, axes, pairing)
        result = whole.astype(x.dtype, copy=False) if isinstance(whole, np.ndarray) else whole
    else:
        result = _rotated(x, table, axes, pairing)
    if out is None:
        return result
    out[...] = result
    return out


def _rotated(x: Array, table: Table | TracedTable, axes: Axes, pairing: Pairing) -> Array:
    """Return x rotated, in the library of x, or in that of a traced table."""
    if isinstance(table, Table):
        xp = namespace(x)
        cosine, sine = (from_host(part, xp, x) for part in table.gather())
    else:
        cosine, sine = table.cosine, table.sine
        xp = namespace(cosine)
        x = x if not isinstance(x, np.ndarray) else xp.asarray(x)
    return _rotated_by(x, cosine, sine, axes, pairing, xp)


def _rotated_by(
    x: Array, cosine: Array, sine: Array, axes: Axes, pairing: Pairing, xp: Namespace
) -> Array:
    """Return x rotated; cosine and sine are (heads or 1, batch or 1, sequence or 1, pairs)."""
    cosine, sine = _aligned(cosine, sine, x.ndim, axes, xp)
    if pairing.inverse:
        sine = -sine
    is_complex = "complex" in dtype_name(x)
    start = pairing.start
    stop = start + (1 if is_complex else 2) * pairing.pairs
    whole = start == 0 and stop == x.shape[-1]
    # Not a slice of everything: some transforms have no rule for one.
    window = x if whole else x[..., start:stop]
    if is_complex:
        factor = xp.astype(cosine, x.dtype) + 1j * xp.astype(sine, x.dtype)
        rotated = window * factor
    else:
        first, second = _pairs(xp.astype(window, cosine.dtype), pairing.source)
        rotated = _interlaced(
            first * cosine - second * sine, second * cosine + first * sine, pairing.target, xp
        )
        rotated = xp.astype(rotated, x.dtype)
    if whole:
        return rotated
    return _joined(xp, [x[..., :start], rotated, x[..., stop:]])


def _pairs(window: Array, layout: Layout) -> tuple[Array, Array]:
    """Return the first and the second channels of all pairs."""
    if layout == "half":
        pairs = window.shape[-1] // 2
        return window[..., :pairs], window[..., pairs:]
    return window[..., 0::2], window[..., 1::2]


def _interlaced(first: Array, second: Array, layout: Layout, xp: Namespace) -> Array:
    """Return the channels of all pairs in the order of a layout."""
    if layout == "half":
        return _joined(xp, [first, second])
    if None in first.shape:
        # A reshape cannot name a symbolic axis, as of an ONNX graph.
        pairs = first.shape[-1]
        order = np.arange(2 * pairs).reshape(2, pairs).T.ravel()
        return xp.take(_joined(xp, [first, second]), xp.asarray(order), axis=-1)
    pairs = xp.stack([first, second], axis=-1)
    return xp.reshape(pairs, (*first.shape[:-1], 2 * first.shape[-1]))


def _joined(xp: Namespace, parts: list[Array]) -> Array:
    """Concatenate arrays on the last axis."""
    # In torch, `cat` has a rule for batched gradients and `concat` has none.
    join = xp.cat if hasattr(xp, "cat") else xp.concat
    return join(parts, axis=-1)


def _aligned(
    cosine: Array, sine: Array, ndim: int, axes: Axes, xp: Namespace
) -> tuple[Array, Array]:
    """Return tables (heads, *extra, batch, sequence, pairs) with their axes in the order of those of an array."""
    order, places = axes.table_order(ndim)
    cosine, sine = (
        xp.reshape(
            xp.permute_dims(table, order),
            (*[1 if place is None else table.shape[place] for place in places], table.shape[-1]),
        )
        for table in (cosine, sine)
    )
    return cosine, sine


# ------------------------------------------------------------------------------------------------
# For `rotary.warm_up` and `rotary.show_config`.


def warm_up(dtype: str) -> None:
    """Do nothing: nothing is compiled here."""


def configuration() -> list[tuple[str, Any]]:
    """Return nothing: nothing here decides about speed."""
    return []
