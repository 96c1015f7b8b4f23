"""How the inverse frequencies and the attention factor follow from base and context length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np

from rotary._lib.checks import (
    as_bool,
    as_non_negative_float,
    as_positive_float,
    as_positive_integer,
    as_rotary_dim,
)
from rotary._lib.fields import checked, origin_of
from rotary._lib.numbers import frozen
from rotary._lib.typing import Float64Array
from rotary.angles.phases import LARGEST_FREQUENCY
from rotary.angles.powers import as_factors

__all__ = [
    "Scaling",
]


# Name, value and origin of a number.
Resolved: TypeAlias = tuple[str, object, str]


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

    @property
    def needs_length(self) -> bool:
        """Whether frequencies or attention factor depend on the context length."""
        return False

    def attention_factor_at(self, context_length: int | None) -> float:
        """Return the factor on cosine and sine at a context length.

        Parameters
        ----------
        context_length : int or None
            Read only by schedules whose factor depends on it.

        Returns
        -------
        float
        """
        return float(self.attention_factor)

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

    def resolved(
        self,
        dim: int,
        base: float | None,
        context_length: int | None,
    ) -> list[Resolved]:
        """Return every number of the schedule, for `rotary.RotaryEmbedding.explain`.

        Parameters
        ----------
        dim : int
            Rotated channels, even.
        base : float or None
            Base of the frequencies.
        context_length : int or None
            As given to the embedding.

        Returns
        -------
        list of (name, value, origin)
            The fields of the dataclass, and what is derived from them.
        """
        values: Any = self
        lines: list[Resolved] = []
        for own in fields(values) if is_dataclass(values) else ():
            value = getattr(self, own.name)
            # As a list, an array is told in full and on one line.
            told = value.tolist() if isinstance(value, np.ndarray) else value
            lines.append((own.name, told, origin_of(own, value)))
        return lines


# ------------------------------------------------------------------------------------------------
# What the published schedules share.


POSITIVE = checked(as_positive_float)
POSITIVE_OR_NONE = checked(as_positive_float, optional=True)
LENGTH = checked(as_positive_integer)
LENGTH_OR_NONE = checked(as_positive_integer, optional=True)
MSCALE = checked(as_non_negative_float, optional=True)
BOOL = checked(as_bool)
# The default of a float that follows from the other fields. Typed so that reading the field gives a float.
DERIVED: Any = None
FACTORS = checked(as_factors)


class CheckedScaling(Scaling):
    """A published schedule: its fields are checked, and its frequencies are computed in one place."""

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine: 1.0."""
        return 1.0

    def __post_init__(self) -> None:
        for own in fields(self):  # type: ignore[arg-type]  # every schedule is a dataclass
            value = own.metadata["check"](getattr(self, own.name), own.name)
            object.__setattr__(self, own.name, value)

    def __repr__(self) -> str:
        # What is derived or has its default is left out, and so is made again by what is shown.
        shown = [
            f"{own.name}={value!r}"
            for own in fields(self)  # type: ignore[arg-type]  # every schedule is a dataclass
            for value in [getattr(self, own.name)]
            if origin_of(own, value) == "given"
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def inv_freq(
        self, dim: int, base: float | None = None, context_length: int | None = None
    ) -> Float64Array:
        """Return the inverse frequencies of ``dim`` channels, in radians per position.

        Parameters
        ----------
        dim : int
            Rotated channels, even.
        base : float or None
            Base of the frequencies; None only where `needs_base` is False.
        context_length : int or None
            None only where `needs_length` is False.

        Returns
        -------
        float64 array (dim/2,), read-only

        Raises
        ------
        TypeError
            If `base` or `context_length` is needed and missing, or an argument is of the wrong kind.
        ValueError
            If a value does not fit the schedule.
        """
        width = as_rotary_dim(dim, "dim")
        name = type(self).__name__
        if self.needs_base:
            if base is None:
                msg = f"`base` must be given: {name} makes the frequencies from it"
                raise TypeError(msg)
            base = as_positive_float(base, "base")
        if self.needs_length:
            if context_length is None:
                msg = f"`context_length` must be given: {name} depends on how many positions there are"
                raise TypeError(msg)
            context_length = as_positive_integer(context_length, "context_length")
        with np.errstate(over="ignore"):
            values = self._values(width, base, context_length)
        if not (np.abs(values) < LARGEST_FREQUENCY).all():
            msg = f"{name} must give inverse frequencies below 2**63 radians per position, got {values}"
            raise ValueError(msg)
        return frozen(values)

    def resolved(self, dim: int, base: float | None, context_length: int | None) -> list[Resolved]:
        """Return the fields, and what is derived from them."""
        lines = super().resolved(dim, base, context_length)
        return [*lines, *self._derived(dim, base, context_length)]

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        """Return the numbers that are derived, besides the fields."""
        return []

    @abstractmethod
    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        """Return the frequencies, the arguments being checked."""


def blended(inv_freq: Float64Array, factor: float, kept: Float64Array) -> Float64Array:
    """Return frequencies divided by a factor where ``kept`` is 0, kept where it is 1, mixed between.

    Written so that both ends, and a factor of 1, are exact.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
        divided = inv_freq / factor
        return np.where(kept == 1.0, inv_freq, divided + (inv_freq - divided) * kept)


def count_of_pairs(kept: Float64Array) -> Resolved:
    """Return how many lanes are kept, mixed and divided."""
    whole, none = int((kept == 1.0).sum()), int((kept == 0.0).sum())
    value = f"{whole} kept, {len(kept) - whole - none} mixed, {none} divided"
    return ("lanes", value, "derived: from the highest frequency to the lowest")


def check_two_pairs(dim: int, name: str) -> None:
    """Raise unless there is a second lane, whose frequency a changed base can change."""
    if dim < 4:
        msg = f"`dim` must be at least 4 for {name}, whose base has the exponent dim / (dim - 2), got {dim}"
        raise ValueError(msg)


def check_count(factors: Sequence[float], name: str, dim: int) -> None:
    """Raise unless there is one factor for each lane."""
    if len(factors) != dim // 2:
        msg = f"`{name}` must hold {dim // 2} numbers, one for each pair of {dim} rotated channels, got {len(factors)}"
        raise ValueError(msg)


def fill(schedule: Scaling, name: str, derive: Callable[[], float]) -> bool:
    """Derive the value of a field that was left out, and return whether it was."""
    if getattr(schedule, name) is not None:
        return False
    object.__setattr__(schedule, name, derive())
    return True
