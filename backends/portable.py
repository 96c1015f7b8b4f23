"""The array-API backend: the rotation in operations that every library has, for traced and lazy arrays too.

It runs under `jax.jit`, `jax.grad` and `torch.func`, for array-api-strict and lazy libraries, and for NumPy without
Numba. Tables are exact and computed on the host, unless positions are traced: `traced` then computes the angles with
integers of the library.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib.libraries import dtype_name, from_host, has_float64, namespace
from rotary._lib.typing import Array, HostArray, Namespace, TableDType
from rotary.angles.phases import Frequencies, Multipliers, multipliers
from rotary.layouts import Layout

from .contract import ArrayNorm, Axes, Norm, Pairing, Table, TracedTable
from .cpu.guard import formulas

# Whether `rotate` takes a `DeferredTable` and defers the work.
DEFERS = False
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
    """Fill a table (2, heads, rows, pairs) for positions (axes, n), from row ``row`` on.

    NumPy evaluates the formulas of the kernels on whole arrays, so the bits are the same.
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
    """Return the phases (heads, n, pairs) on one axis as two words, and 1 if negative or else 0."""
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
    """Return x rotated, as an array of its library, or write it to `out`."""
    if isinstance(x, np.ndarray):
        # As with the kernels, the result is no subclass and has one byte order.
        result = _rotate(x.view(np.ndarray), table, axes, pairing)
        if isinstance(result, np.ndarray):
            result = result.astype(x.dtype, copy=False)
    else:
        result = _rotate(x, table, axes, pairing)
    if out is None:
        return result
    out[...] = result
    return out


def _rotate(x: Array, table: Table | TracedTable, axes: Axes, pairing: Pairing) -> Array:
    """Return x rotated, as an array of the library of x, or of a traced table."""
    if isinstance(table, Table):
        xp = namespace(x)
        cosine, sine = (from_host(part, xp, x) for part in table.gather())
    else:
        cosine, sine = table.cosine, table.sine
        xp = namespace(cosine)
        x = x if not isinstance(x, np.ndarray) else xp.asarray(x)
    return _rotate_by(x, cosine, sine, axes, pairing, xp)


def _rotate_by(
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
    # A slice of all channels is avoided, because some transforms have no rule for it.
    channels = x if whole else x[..., start:stop]
    if is_complex:
        factor = xp.astype(cosine, x.dtype) + 1j * xp.astype(sine, x.dtype)
        rotated = channels * factor
    else:
        first, second = _to_pairs(xp.astype(channels, cosine.dtype), pairing.source)
        rotated = _from_pairs(
            first * cosine - second * sine, second * cosine + first * sine, pairing.target, xp
        )
        rotated = xp.astype(rotated, x.dtype)
    if whole:
        return rotated
    return _concatenate(xp, [x[..., :start], rotated, x[..., stop:]])


def _to_pairs(channels: Array, layout: Layout) -> tuple[Array, Array]:
    """Return the first and the second channel of each pair."""
    if layout == "half":
        pairs = channels.shape[-1] // 2
        return channels[..., :pairs], channels[..., pairs:]
    return channels[..., 0::2], channels[..., 1::2]


def _from_pairs(first: Array, second: Array, layout: Layout, xp: Namespace) -> Array:
    """Return the channels of all pairs in a layout."""
    if layout == "half":
        return _concatenate(xp, [first, second])
    if None in first.shape:
        # A reshape needs known sizes, and those of an ONNX graph may be symbolic.
        pairs = first.shape[-1]
        order = np.arange(2 * pairs).reshape(2, pairs).T.ravel()
        return xp.take(_concatenate(xp, [first, second]), xp.asarray(order), axis=-1)
    pairs = xp.stack([first, second], axis=-1)
    return xp.reshape(pairs, (*first.shape[:-1], 2 * first.shape[-1]))


def _concatenate(xp: Namespace, parts: list[Array]) -> Array:
    """Concatenate arrays on the last axis."""
    # In torch, only `cat` has a rule for batched gradients; `concat` has none.
    join = xp.cat if hasattr(xp, "cat") else xp.concat
    return join(parts, axis=-1)


def _aligned(
    cosine: Array, sine: Array, ndim: int, axes: Axes, xp: Namespace
) -> tuple[Array, Array]:
    """Return tables (heads, *extra, batch, sequence, pairs) with their axes in the order of those of an array."""
    order, table_axes = axes.table_order(ndim)
    cosine, sine = (
        xp.reshape(
            xp.permute_dims(table, order),
            (
                *[
                    1 if table_axis is None else table.shape[table_axis]
                    for table_axis in table_axes
                ],
                table.shape[-1],
            ),
        )
        for table in (cosine, sine)
    )
    return cosine, sine


# ------------------------------------------------------------------------------------------------
# Norms.


def normed(x: Array, weight: Array | None, norm: Norm, of: ArrayNorm, dtype: TableDType) -> Array:
    """Return x normed, in the dtype that it is computed in; a row whose squares overflow that dtype is NaN."""
    if not isinstance(x, np.ndarray):
        return _normed(x, weight, norm, of, dtype)
    with np.errstate(all="ignore"):
        return _normed(x.view(np.ndarray), weight, norm, of, dtype)


def _normed(x: Array, weight: Array | None, norm: Norm, of: ArrayNorm, dtype: TableDType) -> Array:
    """Return x normed by the operations of its library."""
    xp = namespace(x)
    wide = xp.astype(x, getattr(xp, dtype))
    result = wide * _factor(wide, norm, of, dtype, xp)
    return result if weight is None else result * weight_of(weight, norm, of, dtype, result)


def _factor(wide: Array, norm: Norm, of: ArrayNorm, dtype: TableDType, xp: Namespace) -> Array:
    """Return what each row, or all heads of each token, are multiplied by."""
    size = _sum(wide * wide, of, xp)
    if norm.mean:
        size = size / of.squares
    # An `eps` that the dtype does not hold must not become zero, by which rows of zeros would be divided.
    factor = 1.0 / xp.sqrt(size + max(norm.eps, float(np.finfo(dtype).tiny)))
    return xp.where(xp.isfinite(size), factor, xp.ones_like(size) * float("nan"))


def norm_gradients(
    x: Array,
    gradient: Array,
    weight: Array | None,
    norm: Norm,
    of: ArrayNorm,
    dtype: TableDType,
) -> tuple[Array, Array | None]:
    """Return the gradients by an array that was normed and by its weight, given that of the result.

    The arrays are in the dtype that is computed in. With ``y = x f w`` and ``f = 1 / sqrt(sum(x x) / n + eps)``, the
    gradient by x is ``f (w dy - x f f sum(w dy x) / n)``. That by the weight is summed in float64, unless the library
    has none.
    """
    if isinstance(x, np.ndarray):
        with np.errstate(all="ignore"):
            return _norm_gradients(x, gradient, weight, norm, of, dtype)
    return _norm_gradients(x, gradient, weight, norm, of, dtype)


def _norm_gradients(
    x: Array,
    gradient: Array,
    weight: Array | None,
    norm: Norm,
    of: ArrayNorm,
    dtype: TableDType,
) -> tuple[Array, Array | None]:
    """Return the gradients by the operations of the library."""
    xp = namespace(x)
    factor = _factor(x, norm, of, dtype, xp)
    own = gradient if weight is None else gradient * weight_of(weight, norm, of, dtype, gradient)
    dot = _sum(own * x, of, xp) / (of.squares if norm.mean else 1)
    by_x = factor * (own - x * (factor * factor * dot))
    if weight is None:
        return by_x, None
    shared = tuple(axis for axis, size in enumerate(of.shape[:-1]) if size == 1)
    by_weight = gradient * (x * factor)
    if has_float64(x):
        by_weight = xp.astype(by_weight, xp.float64)
    by_weight = xp.sum(by_weight, axis=shared) if shared else by_weight
    return by_x, xp.reshape(by_weight, tuple(weight.shape))


def weight_of(weight: Array, norm: Norm, of: ArrayNorm, dtype: TableDType, like: Array) -> Array:
    """Return what an array that is normed is multiplied by, in the library of the array, of as many axes."""
    xp = namespace(like)
    if isinstance(weight, np.ndarray):
        wide = from_host(weight.astype(dtype), xp, like)
    else:
        wide = xp.astype(weight, getattr(xp, dtype))
    return xp.reshape(wide + 1.0 if norm.unit_offset else wide, of.shape)


def _sum(values: Array, of: ArrayNorm, xp: Namespace) -> Array:
    """Return the sum over the channels and, if they are normed together, the heads; these axes keep size 1."""
    total = _sum_of_channels(values, xp)
    if of.heads is None or not of.squares:
        return total
    order = [*range(values.ndim)]
    order[of.heads], order[-1] = order[-1], order[of.heads]
    return xp.permute_dims(_sum_of_channels(xp.permute_dims(total, order), xp), order)


def _sum_of_channels(values: Array, xp: Namespace) -> Array:
    """Return the sum over the last axis, which keeps size 1.

    Halves are added to halves, so that the order does not depend on strides, as it does in reductions of NumPy, and the
    error grows with the logarithm of the size.
    """
    size = values.shape[-1]
    power = 1 << (size.bit_length() - 1)
    if power < size:
        rest = size - power
        added = values[..., :rest] + values[..., power:]
        values = _concatenate(xp, [added, values[..., rest:power]])
    while power > 1:
        power //= 2
        values = values[..., :power] + values[..., power:]
    return values


# ------------------------------------------------------------------------------------------------
# For `rotary.warm_up` and `rotary.show_config`.


def warm_up(dtype: str) -> None:
    """Do nothing, because this backend compiles nothing."""


def configuration() -> list[tuple[str, Any]]:
    """Return an empty list, because this backend has no settings."""
    return []
