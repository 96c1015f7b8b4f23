"""Gradients by positions and frequencies in the operations of any library.

A pair x becomes y, a multiple of x rotated by its angle. The gradient of the loss by the angle is the cross product of
y and dy. That is the cross product of x and dx, because both are rotated alike. The angle is a sum of products of
positions and frequencies, so that the gradient by each of these is a sum of products with the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.typing import Array, Namespace

from .contract import Axes, Call, Gradients, Pairing, PositionArgs, RowPositions, Scale
from .library import LibraryPlan


class LibraryGradients:
    """How gradients are computed for arrays of any library."""

    __slots__ = ("_back", "_call", "_wanted")

    def __init__(self, call: Call, wanted: frozenset[str]) -> None:
        specs = [
            each._replace(pairings=tuple(pairing.transposed() for pairing in each.pairings))
            for each in call.specs
        ]
        self._call = call._replace(arrays=(), outputs=None)
        self._back = LibraryPlan(call._replace(specs=tuple(specs)))
        self._wanted = wanted

    def __call__(
        self, arrays: Sequence[Array], where: PositionArgs, outputs: Sequence[Array] | None
    ) -> Gradients:
        """Return the gradients."""
        if outputs is not None:
            self._call.check_outputs(arrays, outputs)
        return self.at(self._call.read(where, self._call.position_shapes), arrays, outputs)

    def at(
        self, rows: RowPositions, arrays: Sequence[Array], outputs: Sequence[Array] | None
    ) -> Gradients:
        """Return the gradients for rows that have been read; outputs have been checked."""
        call, count = self._call, len(arrays) // 2
        dys, xs = arrays[:count], arrays[count:]
        # In the precision of the tables, so that the products below are of numbers that were not rounded to 16 bits.
        wide = [_widened(dy, spec.dtype) for dy, spec in zip(dys, call.specs, strict=True)]
        dxs = self._back.rotate_at(rows, wide, None)
        by_position: Any = 0.0
        by_frequency: list[Any] = [0.0] * len(call.specs[0].pairings)
        for x, dx, spec, passes in zip(xs, dxs, call.specs, call.passes, strict=True):
            for number, (pairing, angles) in enumerate(
                zip(spec.pairings, passes.angles, strict=True)
            ):
                own = _OfPass(x, dx, pairing, spec.axes, rows, angles.at(rows).frequencies)
                if "positions" in self._wanted:
                    by_position = by_position + own.by_position(angles.scale)
                if "inv_freq" in self._wanted:
                    by_frequency[number] = by_frequency[number] + own.by_frequency()
        results: Sequence[Array] | None = None
        if "x" in self._wanted:
            results = [_as_dtype_of(dx, dy) for dx, dy in zip(dxs, dys, strict=True)]
            if outputs is not None:
                for result, output in zip(results, outputs, strict=True):
                    output[...] = result
                results = outputs
        positions = inv_freq = None
        if "positions" in self._wanted:
            positions = by_position
        if "inv_freq" in self._wanted:
            inv_freq = by_frequency[0]
            if len(by_frequency) > 1:
                inv_freq = libraries.namespace(inv_freq).concat(by_frequency, axis=-1)
        return Gradients(results, positions, inv_freq)


def _widened(x: Array, dtype: str) -> Array:
    """Return an array in the dtype of its table; complex ones as they are."""
    if "complex" in libraries.dtype_name(x):
        return x
    xp = libraries.namespace(x)
    return xp.astype(x, getattr(xp, dtype))


def _as_dtype_of(result: Array, x: Array) -> Array:
    """Return a result in the dtype of an array."""
    if libraries.dtype_name(result) == libraries.dtype_name(x):
        return result
    return libraries.namespace(result).astype(result, x.dtype)


class _OfPass:
    """The gradients by the angles of one pass over an array, and what they are products with.

    All have the axes of the array, after the position axis if there is one, and the pairs last.
    """

    def __init__(
        self,
        x: Array,
        dx: Array,
        pairing: Pairing,
        axes: Axes,
        rows: RowPositions,
        frequencies: Any,
    ) -> None:
        self.xp: Namespace = libraries.namespace(dx)
        self.like = dx
        self.real = getattr(self.xp, libraries.widest_float(dx))
        if isinstance(x, np.ndarray) and not isinstance(dx, np.ndarray):
            x = self.xp.asarray(x)
        self.x, self.dx = (self._pairs(each, pairing) for each in (x, dx))
        (u, v), (p, q) = self.x, self.dx
        by_angle = u * q - v * p
        self.by_angle = -by_angle if pairing.inverse else by_angle
        self.axes, self.ndim = axes, x.ndim
        values = frequencies if not hasattr(frequencies, "values") else frequencies.values
        self.frequencies = self._as_real(values)
        self.rows = rows

    def _as_real(self, values: Array) -> Array:
        """Return numbers in the widest floating dtype of the library."""
        if isinstance(values, np.ndarray):
            # A copy, because torch warns of memory that it must not write to.
            values = np.array(values, libraries.widest_float(self.like), order="C")
            if not isinstance(self.like, np.ndarray):
                values = libraries.from_host(values, self.xp, self.like)
        return self.xp.astype(values, self.real)

    def _pairs(self, x: Array, pairing: Pairing) -> tuple[Array, Array]:
        """Return first and second channels of the pairs that are rotated, in the widest floating dtype."""
        if "complex" in libraries.dtype_name(x):
            window = x[..., pairing.start : pairing.start + pairing.pairs]
            parts = self.xp.real(window), self.xp.imag(window)
        else:
            window = x[..., pairing.start : pairing.start + 2 * pairing.pairs]
            first, second = pair_slices(pairing)
            parts = window[..., first], window[..., second]
        first, second = (self.xp.astype(part, self.real) for part in parts)
        return first, second

    def positions(self, axes: int) -> Array:
        """Return positions (axes, *sizes), with a size or 1 for each axis of the array but its last."""
        unknown = self.rows.unknown.get("positions")
        values = self._as_real(self.rows.written_out(axes) if unknown is None else unknown)
        if self.rows.per_array_axis:
            return values
        sizes = [1] * (self.ndim - 1)
        sequence, batch, _ = self.axes
        count, length = values.shape[1:]
        sizes[sequence] = length
        if batch is not None:
            sizes[batch] = count
            values = self.xp.permute_dims(values, (0, 2, 1)) if batch > sequence else values
        return self.xp.reshape(values, (axes, *sizes))

    def _head_axis(self) -> int | None:
        """Return the axis of the heads that have frequencies of their own, None if all share them."""
        if self.frequencies.shape[0] == 1:
            return None
        return self.axes.head_axes(self.ndim)[0]

    def by_frequency(self) -> Array:
        """Return the gradient by the frequencies (heads, axes, pairs)."""
        heads, axes, _ = self.frequencies.shape
        head = self._head_axis()
        summed = tuple(axis for axis in range(self.ndim - 1) if axis != head)
        places = self.positions(axes)
        found = [
            self.xp.sum(self.by_angle * places[axis, ..., None], axis=summed)
            for axis in range(axes)
        ]
        stacked = self.xp.stack(found, axis=-2)
        return stacked if heads > 1 else self.xp.reshape(stacked, (1, *stacked.shape[-2:]))

    def by_position(self, scale: Scale | None) -> Array:
        """Return the gradient by positions, in the shape of those of the rows."""
        heads, axes, pairs = self.frequencies.shape
        head = self._head_axis()
        sizes = [1] * (self.ndim - 1)
        if head is not None:
            sizes[head] = heads
        shape = (axes, *self.positions(axes).shape[1:])
        found = []
        for axis in range(axes):
            values = self.xp.reshape(self.frequencies[:, axis, :], (*sizes, pairs))
            products = self.by_angle * values
            if scale is not None:
                products = products + self._by_scale() * self._as_real(rates(scale))
            summed = tuple(place for place in range(self.ndim - 1) if shape[1 + place] == 1)
            found.append(self.xp.sum(products, axis=(*summed, self.ndim - 1)))
        stacked = self.xp.stack(found)
        if self.rows.per_array_axis:
            return self.xp.reshape(stacked, shape)
        sequence, batch, _ = self.axes
        count, length = (1 if batch is None else shape[1 + batch]), shape[1 + sequence]
        if count > 1 and batch is not None and batch > sequence:
            stacked = self.xp.permute_dims(stacked, (0, 2, 1))
        return self.xp.reshape(stacked, (axes, count, length))

    def _by_scale(self) -> Array:
        """Return the gradients by the logarithm of the scale of every pair."""
        (u, v), (p, q) = self.x, self.dx
        return u * p + v * q


def rates(scale: Scale) -> Any:
    """Return how fast the logarithm of the scale of every pair changes with the position."""
    return np.array([math.log(zeta) / scale.unit for zeta in scale.zeta])


def pair_slices(pairing: Pairing) -> tuple[slice, slice]:
    """Return which channels of a window are first and second ones of the pairs of what was rotated."""
    if pairing.source == "half":
        return slice(0, pairing.pairs), slice(pairing.pairs, 2 * pairing.pairs)
    return slice(0, None, 2), slice(1, None, 2)
