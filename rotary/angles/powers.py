"""Inverse frequencies: correctly rounded powers of a base, and checks of frequencies that the user gives."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Any

import numpy as np

from rotary._lib.checks import LARGEST_WIDTH
from rotary._lib.memo import remembered
from rotary._lib.numbers import constant_array, first_bad, frozen
from rotary._lib.typing import Float64Array

from .phases import LARGEST_FREQUENCY

CONTEXT = Context(prec=60)


def powers(base: float, dim: int) -> Float64Array:
    """Return ``base ** (-2 i / dim)`` for ``i = 0 .. dim/2 - 1``, each correctly rounded.

    Parameters
    ----------
    base : float
        Positive.
    dim : int
        The number of rotated channels; even.

    Returns
    -------
    float64 array (dim/2,), read-only

    Notes
    -----
    Each power is computed with 60 decimal digits and rounded once, so its bits do not depend on the ``pow`` of the
    platform. The decimal power is accurate to one unit of its last digit, and no inexact power is within 1e-59 of the
    midpoint of two float64 numbers.
    """
    return _powers(base, dim)


def spaced(ratio: float, pairs: int) -> Float64Array:
    """Return ``ratio ** (-i / (pairs - 1))`` for every pair i, from 1 down to ``1 / ratio``.

    Each value is correctly rounded. A single pair has the frequency 1.
    """
    if pairs == 1:
        return frozen(np.ones(1))
    return frozen(np.append(powers(ratio, 2 * (pairs - 1)), 1.0 / ratio))


@remembered(256)
def _powers(base: float, dim: int) -> Float64Array:
    exponents = [CONTEXT.divide(Decimal(-2 * i), Decimal(dim)) for i in range(dim // 2)]
    return frozen(raised(base, exponents))


def raised(base: float, exponents: Iterable[Decimal]) -> Float64Array:
    """Return powers of a positive base, each correctly rounded."""
    exact = Decimal(base)
    return np.array([float(CONTEXT.power(exact, exponent)) for exponent in exponents])


def as_frequencies(values: Any, name: str, dimensions: tuple[int, ...]) -> Float64Array:
    """Return frequencies that the user gives as a checked, read-only float64 copy."""
    array = constant_array(values, name)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        msg = f"`{name}` must hold real numbers, got dtype {array.dtype}"
        raise TypeError(msg)
    if array.ndim not in dimensions or 0 in array.shape:
        shapes = {1: "(dim/2,)", 2: "(axes, dim/2)", 3: "(heads, axes, dim/2)"}
        expected = " or ".join(shapes[n] for n in dimensions)
        msg = f"`{name}` must have shape {expected} without sizes of zero, got shape {array.shape}"
        raise ValueError(msg)
    result = np.array(array, dtype=np.float64, order="C")
    if not (np.abs(result) < LARGEST_FREQUENCY).all():
        msg = f"`{name}` must be finite and below 2**63 radians per position, got {array!r}"
        raise ValueError(msg)
    return frozen(result)


def as_factors(values: Any, name: str) -> tuple[float, ...]:
    """Return factors of the channel pairs as floats, checked to be positive and finite."""
    if isinstance(values, list | tuple) and len(values) > LARGEST_WIDTH // 2:
        msg = f"`{name}` must hold at most {LARGEST_WIDTH // 2} numbers, got {len(values)}"
        raise ValueError(msg)
    array = constant_array(values, name)
    if array.dtype.kind not in "iuf":
        msg = f"`{name}` must hold real numbers, got dtype {array.dtype}"
        raise TypeError(msg)
    if array.ndim != 1 or not array.size:
        msg = f"`{name}` must have shape (dim/2,), got shape {array.shape}"
        raise ValueError(msg)
    bad = ~((array > 0) & np.isfinite(array))
    if bad.any():
        msg = f"`{name}` must hold positive finite numbers, got {first_bad(array, bad)}"
        raise ValueError(msg)
    return tuple(array.astype(np.float64).tolist())
