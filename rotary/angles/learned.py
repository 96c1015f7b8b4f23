"""Frequencies that a call gives in place of those of its embedding, because they are learned, traced or new each time.

A plan knows how many there are. Their numbers come with the call: exact if they are known on the host, else in an array
of the library that learns or traces them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rotary._lib import libraries
from rotary._lib.libraries import FLOATS
from rotary._lib.memo import remembered
from rotary._lib.numbers import check_dense, check_without_unit
from rotary._lib.typing import Array, Float64Array, HostArray
from rotary.angles.phases import LARGEST_FREQUENCY, Frequencies
from rotary.angles.powers import as_frequencies

# The dtypes of nearly all frequencies, whose float64 values are exact.
PLAIN = frozenset(map(np.dtype, ("float16", "float32", "float64")))
# An optimizer makes new frequencies in every step. In one step, query, key and their gradients share them.
FREQUENCIES_REMEMBERED = 16


class GivenFrequencies(NamedTuple):
    """The place of frequencies in a plan whose calls give them.

    Attributes
    ----------
    heads, axes, pairs : int
        As of `Frequencies`.
    first : int
        Which of the given frequencies of a head and an axis is the first.
    """

    heads: int
    axes: int
    pairs: int
    first: int = 0

    def of(self, values: Array) -> Any:
        """Return its part of the frequencies (heads, axes, all pairs) of a call: `Frequencies` if they are known."""
        stop = self.first + self.pairs
        if not isinstance(values, np.ndarray):
            return (
                values if stop - self.first == values.shape[-1] else values[..., self.first : stop]
            )
        own = np.ascontiguousarray(values[..., self.first : stop])
        return _frequencies(own.shape, own.tobytes())


@remembered(FREQUENCIES_REMEMBERED)
def _frequencies(shape: tuple[int, int, int], values: bytes) -> Frequencies:
    """Return known frequencies, given as shape and bytes, which are hashable."""
    return Frequencies(np.frombuffer(values, np.float64).reshape(shape))


def as_given(value: Any) -> Array:
    """Return the argument `inv_freq` of a call as an array; what is no array yet becomes one of NumPy."""
    if not libraries.is_array(value):
        return as_frequencies(value, "inv_freq", (1, 2, 3))
    check_without_unit(value, "inv_freq")
    check_dense(value, "inv_freq")
    return value


def read_frequencies(
    given: Array, sections: tuple[int, ...] | None, axes: int, *, learned: bool = False
) -> Array:
    """Return the frequencies (heads, axes, pairs) of a call.

    Known ones are float64 of NumPy and checked. Others stay in their library, in its widest floating dtype. Those of a
    head are NaN if one of them would raise an error if it were known.

    Parameters
    ----------
    given : array (pairs,), (axes, pairs) or (heads, axes, pairs)
        As `as_given` returns it; the shape is checked.
    sections : tuple of int or None
        Which of the axes every pair reads, if the given ones do not say.
    axes : int
    learned : bool
        Whether a gradient may be asked for although the values are known, as in MLX.
    """
    known = given if type(given) is np.ndarray else None if learned else libraries.to_host(given)
    if known is not None:
        values: Float64Array
        plain = type(known) is np.ndarray and known.dtype in PLAIN
        if plain:
            values = np.array(known, np.float64, order="C")
        if not plain or not (np.abs(values) < LARGEST_FREQUENCY).all():
            values = as_frequencies(known, "inv_freq", (1, 2, 3))
        values = values.reshape((1,) * (3 - values.ndim) + values.shape)
        return values if sections is None else on_axes(values, sections, axes)
    if libraries.dtype_name(given) not in FLOATS:
        msg = f"`inv_freq` must hold floating numbers, got dtype {given.dtype}"
        raise TypeError(msg)
    xp = libraries.namespace(given)
    values = xp.astype(given, getattr(xp, libraries.widest_float(given)))
    values = xp.reshape(values, ((1,) * (3 - given.ndim) + tuple(given.shape)))
    # One bad frequency makes all rows of its head NaN, so that nothing plausible comes of it.
    bad = xp.where(xp.abs(values) < LARGEST_FREQUENCY, xp.zeros_like(values), xp.ones_like(values))
    good = xp.sum(bad, axis=(1, 2), keepdims=True) == 0
    values = xp.where(good, values, xp.ones_like(values) * float("nan"))
    if sections is None:
        return values
    reads = libraries.from_host(np.array(sections) == np.arange(axes)[:, None], xp, given)
    return xp.where(reads, values, xp.zeros_like(values))


def on_axes(values: Float64Array, sections: Sequence[int] | HostArray, axes: int) -> Float64Array:
    """Return frequencies (1, axes, pairs): each on the axis that its pair reads, zero elsewhere."""
    reads = np.array(sections) == np.arange(axes)[:, None]
    return np.where(reads, values.reshape(-1), 0.0)[None]


def as_shape(gradient: Array, shape: tuple[int, ...], sections: tuple[int, ...] | None) -> Array:
    """Return the gradient by frequencies (heads, axes, pairs) in the shape in which they were given."""
    xp = libraries.namespace(gradient)
    if sections is not None:
        # Each pair reads one axis: those of the others are dropped.
        reads = np.array(sections) == np.arange(gradient.shape[1])[:, None]
        if not isinstance(gradient, np.ndarray):
            reads = libraries.from_host(reads, xp, gradient)
        gradient = xp.sum(
            xp.where(reads, gradient[0, ...], xp.zeros_like(gradient[0, ...])), axis=0
        )
    return xp.reshape(gradient, shape)
