"""How the inverse frequencies and the attention factor follow from base and context length."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ._checks import as_positive_float
from ._numbers import host_array
from ._typing import Float64Array
from .backends import libraries

__all__ = ["Custom", "Default", "Scaling"]

# Frequencies of 2**63 radians per position and more leave the fixed point's integer part.
LARGEST_FREQUENCY = 2.0**63


@runtime_checkable
class Scaling(Protocol):
    """What a schedule must provide: frequencies, and the factor on cosine and sine.

    Instances are immutable, hashable values.
    """

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine, 1.0 where the schedule asks for none."""

    @property
    def softmax_factor(self) -> float:
        """What the attention's own softmax scale is multiplied by, outside the rotation."""

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies follow from a base."""

    def inv_freq(self, dim: int, base: float | None, context_length: int | None) -> Float64Array:
        """Return the inverse frequencies of ``dim`` channels, in radians per position."""


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
    context = Context(prec=60)
    exact_base = Decimal(base)
    values = np.array(
        [
            float(context.power(exact_base, context.divide(Decimal(-2 * i), Decimal(dim))))
            for i in range(dim // 2)
        ]
    )
    values.setflags(write=False)
    return values


@dataclass(frozen=True)
class Default:
    """The schedule of the original paper: ``inv_freq[i] = base ** (-2 i / dim)``.

    Notes
    -----
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021
    (arXiv:2104.09864), section 3.2.2. Use it unless the checkpoint says otherwise.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Default().inv_freq(8, 10_000.0)
    array([1.   , 0.1  , 0.01 , 0.001])
    """

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine: 1.0."""
        return 1.0

    @property
    def softmax_factor(self) -> float:
        """What the softmax scale is multiplied by: 1.0."""
        return 1.0

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies follow from a base: True."""
        return True

    def inv_freq(
        self,
        dim: int,
        base: float | None,
        context_length: int | None = None,  # noqa: ARG002  (the schedules' common signature)
    ) -> Float64Array:
        """Return the inverse frequencies.

        Parameters
        ----------
        dim : int
            Rotated channels, even.
        base : float
            The base of the geometric progression, positive.
        context_length : int, optional
            Not read by this schedule.

        Returns
        -------
        float64 array (dim/2,), read-only
            Radians per position, each the correctly rounded float64.
        """
        assert base is not None
        return powers(base, dim)


@dataclass(frozen=True, init=False, eq=False)
class Custom:
    """Frequencies given as numbers.

    Parameters
    ----------
    inv_freq : array_like (dim/2,), optional
        Radians per position of every pair, on one position axis.
    attention_factor : float, default 1.0
        Positive factor on cosine and sine.
    W : array_like (axes, dim/2) or (heads, axes, dim/2), optional
        Radians per unit of every position axis; with three dimensions, for every head of the
        rotated array. Either this or `inv_freq`. Positions then lead with the axes.

    Raises
    ------
    TypeError
        If a value is not a real number.
    ValueError
        If both or neither of `inv_freq` and `W` are given, the shape does not fit, or a value is not
        finite or not below ``2**63`` in size.

    Notes
    -----
    Frequencies may be negative or zero. The numbers are taken as the exact float64 they are
    (a float32 buffer of a checkpoint converts exactly).

    Examples
    --------
    >>> import numpy as np
    >>> from rotary import RotaryEmbedding, scaling
    >>> rope = RotaryEmbedding(4, layout="half", scaling=scaling.Custom([np.pi, 0.0]))
    >>> rope(np.array([[1.0, 2.0, 3.0, 4.0]]), offset=1).round(6)
    array([[-1.,  2., -3.,  4.]])
    """

    W: Float64Array = field(repr=False)
    attention_factor: float = 1.0

    def __init__(
        self,
        inv_freq: Any = None,
        attention_factor: float = 1.0,
        *,
        W: Any = None,  # noqa: N803  (the formula's own letter)
    ) -> None:
        if (inv_freq is None) == (W is None):
            msg = "give either `inv_freq` or `W`, got " + ("neither" if W is None else "both")
            raise ValueError(msg)
        if W is None:
            values = as_frequencies(inv_freq, "inv_freq", (1,))
        else:
            values = as_frequencies(W, "W", (1, 2, 3))
        object.__setattr__(self, "W", values)
        object.__setattr__(
            self, "attention_factor", as_positive_float(attention_factor, "attention_factor")
        )

    def _value(self) -> tuple[Any, ...]:
        return (self.W.shape, self.W.tobytes(), self.attention_factor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Custom):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles do not keep the flag that protects the shared frequencies.
        self.__dict__.update(state)
        self.W.setflags(write=False)

    def __repr__(self) -> str:
        name = "inv_freq" if self.W.ndim == 1 else "W"
        return f"Custom({name}={self.W.tolist()}, attention_factor={self.attention_factor})"

    @property
    def softmax_factor(self) -> float:
        """What the softmax scale is multiplied by: 1.0."""
        return 1.0

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies follow from a base: False."""
        return False

    def inv_freq(
        self,
        dim: int,
        base: float | None = None,  # noqa: ARG002  (the schedules' common signature)
        context_length: int | None = None,  # noqa: ARG002
    ) -> Float64Array:
        """Return the frequencies as given.

        Parameters
        ----------
        dim : int
            Rotated channels: twice the number of pairs.
        base, context_length
            Not read by this schedule.

        Returns
        -------
        float64 array (dim/2,), (axes, dim/2) or (heads, axes, dim/2), read-only

        Raises
        ------
        ValueError
            If `dim` is not twice the number of pairs.
        """
        if dim != 2 * self.W.shape[-1]:
            name = "inv_freq" if self.W.ndim == 1 else "W"
            msg = (
                f"`{name}` of Custom must hold {dim // 2} frequencies on its last axis, one for "
                f"each pair of {dim} rotated channels, got shape {self.W.shape}"
            )
            raise ValueError(msg)
        return self.W


def as_frequencies(values: Any, name: str, dimensions: tuple[int, ...]) -> Float64Array:
    """Return given frequencies as a read-only float64 copy."""
    host = libraries.to_host(values) if libraries.is_array(values) else values
    if host is None:
        msg = f"`{name}` must be known on the host, not traced, lazy or with a gradient"
        raise TypeError(msg)
    array = host_array(host, name)
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
    result.setflags(write=False)
    return result


def describe(scaling: Scaling) -> list[tuple[str, Any]]:
    """Return a schedule's fields by name, for `RotaryEmbedding.explain`."""
    return [(f.name, getattr(scaling, f.name)) for f in fields(scaling)]  # type: ignore[arg-type]
