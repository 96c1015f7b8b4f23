"""Inverse frequencies as numbers: the correctly rounded powers of a base, and checked ones of a caller."""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache
from typing import Any

import numpy as np

from ._numbers import frozen, host_array
from ._typing import Float64Array
from .phases import LARGEST_FREQUENCY


def powers(base: float, dim: int) -> Float64Array:
    """Return ``base ** (-2 i / dim)`` for ``i = 0 .. dim/2 - 1``, each correctly rounded.

    Parameters
    ----------
    base : float
        Positive.
    dim : int
        Even.

    Returns
    -------
    float64 array (dim/2,), read-only

    Notes
    -----
    The power is computed with 60 decimal digits and rounded once, so that its bits do not depend
    on the platform's ``pow``. The result of a decimal power is within one unit of its last digit,
    and no power that is not exact lies within 1e-59 of the middle between two float64.
    """
    return _powers(base, dim)


@lru_cache(maxsize=256)
def _powers(base: float, dim: int) -> Float64Array:
    """Return the powers, computed once for each base and width."""
    context = Context(prec=60)
    exact_base = Decimal(base)
    values = np.array(
        [
            float(context.power(exact_base, context.divide(Decimal(-2 * i), Decimal(dim))))
            for i in range(dim // 2)
        ]
    )
    return frozen(values)


def as_frequencies(values: Any, name: str, dimensions: tuple[int, ...]) -> Float64Array:
    """Return given frequencies as a read-only float64 copy."""
    array = host_array(values, name)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        msg = f"`{name}` must hold real numbers, got dtype {array.dtype}"
        raise TypeError(msg)
    if array.ndim not in dimensions or 0 in array.shape:
        shapes = {1: "(dim/2,)", 2: "(axes, dim/2)", 3: "(heads, axes, dim/2)"}
        wanted = " or ".join(shapes[n] for n in dimensions)
        msg = f"`{name}` must have shape {wanted}, none of them zero, got shape {array.shape}"
        raise ValueError(msg)
    result = np.array(array, dtype=np.float64, order="C")
    if not (np.abs(result) < LARGEST_FREQUENCY).all():
        msg = f"`{name}` must be finite and below 2**63 radians per position, got {array!r}"
        raise ValueError(msg)
    return frozen(result)
