"""How the inverse frequencies and the attention factor follow from base and context length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from ._checks import as_positive_float
from ._frequencies import as_frequencies, powers
from ._numbers import frozen
from ._typing import Float64Array

__all__ = ["Custom", "Default", "Scaling"]


class Scaling(ABC):
    """What every schedule provides: frequencies, and the factor on cosine and sine.

    Schedules are frozen dataclasses: immutable, hashable values.
    """

    @property
    @abstractmethod
    def attention_factor(self) -> float:
        """The factor on cosine and sine, 1.0 where the schedule asks for none."""

    @property
    def softmax_factor(self) -> float:
        """What the attention's own softmax scale is multiplied by, outside the rotation."""
        return 1.0

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies follow from a base."""
        return True

    @abstractmethod
    def inv_freq(self, dim: int, base: float | None, context_length: int | None) -> Float64Array:
        """Return the inverse frequencies of ``dim`` channels, in radians per position.

        Parameters
        ----------
        dim : int
            Rotated channels, even.
        base : float or None
            Base of the frequencies; None only where `needs_base` is False.
        context_length : int or None
            Read only by schedules that depend on it.

        Returns
        -------
        float64 array (dim/2,), read-only
        """


@dataclass(frozen=True)
class Default(Scaling):
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


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Custom(Scaling):
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

    W: Float64Array
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
        """Return what equality and hash go by."""
        return (self.W.shape, self.W.tobytes(), self.attention_factor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Custom):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles do not keep the flag that protects the shared frequencies.
        self.__dict__.update(state, W=frozen(state["W"]))

    def __repr__(self) -> str:
        name = "inv_freq" if self.W.ndim == 1 else "W"
        return f"Custom({name}={self.W.tolist()}, attention_factor={self.attention_factor})"

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies follow from a base: False."""
        return False

    def inv_freq(
        self,
        dim: int,
        base: float | None = None,  # noqa: ARG002  (the schedules' common signature)
        context_length: int | None = None,  # noqa: ARG002  (as above)
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
