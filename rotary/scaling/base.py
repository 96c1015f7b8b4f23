"""The base class of all schedules, and functions that the published schedules share."""

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


# The name, the value and the origin of a number.
Resolved: TypeAlias = tuple[str, object, str]


class Scaling(ABC):
    """Base class of schedules, which compute inverse frequencies and a factor on cosine and sine.

    Schedules are frozen dataclasses: immutable, hashable values.
    """

    @property
    @abstractmethod
    def attention_factor(self) -> float:
        """The factor on cosine and sine; 1.0 if the schedule has no factor."""

    @property
    def softmax_factor(self) -> float:
        """The factor on the softmax scale of the attention, which the rotation does not apply."""
        return 1.0

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies depend on a base."""
        return True

    @property
    def needs_length(self) -> bool:
        """Whether the frequencies or the attention factor depend on the context length."""
        return False

    def attention_factor_at(self, context_length: int | None) -> float:
        """Return the factor on cosine and sine at a context length.

        Parameters
        ----------
        context_length : int or None
            Used only by schedules whose factor depends on the context length.

        Returns
        -------
        float
        """
        return float(self.attention_factor)

    @abstractmethod
    def inv_freq(self, dim: int, base: float | None, context_length: int | None) -> Float64Array:
        """Return the inverse frequencies of ``dim`` channels.

        Parameters
        ----------
        dim : int
            The number of rotated channels, even.
        base : float or None
            The base of the frequencies. None is allowed if `needs_base` is False.
        context_length : int or None
            Used only by schedules that depend on the context length.

        Returns
        -------
        float64 array (dim/2,), read-only
            Radians per position.
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
            The number of rotated channels, even.
        base : float or None
            The base of the frequencies.
        context_length : int or None
            The context length of the embedding.

        Returns
        -------
        list of (name, value, origin)
            The fields of the dataclass, and the numbers that are derived from them.
        """
        values: Any = self
        numbers: list[Resolved] = []
        for entry in fields(values) if is_dataclass(values) else ():
            value = getattr(self, entry.name)
            # A list, because the repr of a long array is abbreviated and has several lines.
            shown = value.tolist() if isinstance(value, np.ndarray) else value
            numbers.append((entry.name, shown, origin_of(entry, value)))
        return numbers


# ------------------------------------------------------------------------------------------------
# Shared by the published schedules.


POSITIVE = checked(as_positive_float)
POSITIVE_OR_NONE = checked(as_positive_float, optional=True)
LENGTH = checked(as_positive_integer)
LENGTH_OR_NONE = checked(as_positive_integer, optional=True)
MSCALE = checked(as_non_negative_float, optional=True)
BOOL = checked(as_bool)
# The default of a field that is derived from other fields. Its type is Any, so that a float field can have it.
DERIVED: Any = None
FACTORS = checked(as_factors)


class CheckedScaling(Scaling):
    """A schedule that checks its fields by their metadata, and checks its frequencies."""

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine: 1.0."""
        return 1.0

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]  # every schedule is a dataclass
            value = entry.metadata["check"](getattr(self, entry.name), entry.name)
            object.__setattr__(self, entry.name, value)

    def __repr__(self) -> str:
        # Derived values and defaults are omitted, because the given values determine them.
        given = [
            f"{entry.name}={value!r}"
            for entry in fields(self)  # type: ignore[arg-type]  # every schedule is a dataclass
            for value in [getattr(self, entry.name)]
            if origin_of(entry, value) == "given"
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def inv_freq(
        self, dim: int, base: float | None = None, context_length: int | None = None
    ) -> Float64Array:
        """Return the inverse frequencies of ``dim`` channels.

        Parameters
        ----------
        dim : int
            The number of rotated channels, even.
        base : float or None
            The base of the frequencies. None is allowed if `needs_base` is False.
        context_length : int or None
            None is allowed if `needs_length` is False.

        Returns
        -------
        float64 array (dim/2,), read-only
            Radians per position.

        Raises
        ------
        TypeError
            If `base` or `context_length` is needed but not given, or an argument has the wrong type.
        ValueError
            If a value is out of the range of the schedule.
        """
        width = as_rotary_dim(dim, "dim")
        name = type(self).__name__
        if self.needs_base:
            if base is None:
                msg = f"`base` must be given, because the frequencies of {name} depend on it, got None"
                raise TypeError(msg)
            base = as_positive_float(base, "base")
        if self.needs_length:
            if context_length is None:
                msg = f"`context_length` must be given, because {name} depends on it, got None"
                raise TypeError(msg)
            context_length = as_positive_integer(context_length, "context_length")
        with np.errstate(over="ignore"):
            values = self._values(width, base, context_length)
        if not (np.abs(values) < LARGEST_FREQUENCY).all():
            msg = f"{name} must give inverse frequencies below 2**63 radians per position, got {values}"
            raise ValueError(msg)
        return frozen(values)

    def resolved(self, dim: int, base: float | None, context_length: int | None) -> list[Resolved]:
        """Return the fields, and the numbers that are derived from the fields."""
        return [
            *super().resolved(dim, base, context_length),
            *self._derived(dim, base, context_length),
        ]

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        """Return the derived numbers that `explain` shows below the fields."""
        return []

    @abstractmethod
    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        """Return the frequencies for checked arguments."""


def blended(inv_freq: Float64Array, factor: float, kept: Float64Array) -> Float64Array:
    """Return the weighted sum of ``inv_freq`` and ``inv_freq / factor``, with weights ``kept`` and ``1 - kept``.

    The result is exact for weights of 0 and 1, and for a factor of 1.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # the caller checks that results are finite
        divided = inv_freq / factor
        return np.where(kept == 1.0, inv_freq, divided + (inv_freq - divided) * kept)


def count_of_pairs(kept: Float64Array) -> Resolved:
    """Return the numbers of kept, mixed and divided channel pairs, for `explain`."""
    whole, none = int((kept == 1.0).sum()), int((kept == 0.0).sum())
    value = f"{whole} kept, {len(kept) - whole - none} mixed, {none} divided"
    return ("channel pairs", value, "derived: from the highest frequency to the lowest")


def check_two_pairs(dim: int, name: str) -> None:
    """Raise for a single channel pair, because the base does not change the frequency of the first pair."""
    if dim < 4:
        msg = f"`dim` must be at least 4 for {name}, because its exponent is dim / (dim - 2), got {dim}"
        raise ValueError(msg)


def check_count(factors: Sequence[float], name: str, dim: int) -> None:
    """Raise unless there is one factor for each channel pair."""
    if len(factors) != dim // 2:
        msg = (
            f"`{name}` must have {dim // 2} numbers, one for each channel pair of {dim} rotated channels, got "
            f"{len(factors)}"
        )
        raise ValueError(msg)


def fill(schedule: Scaling, name: str, derive: Callable[[], float]) -> bool:
    """Set a field to the derived value if the user did not give it, and return whether that is so."""
    if getattr(schedule, name) is not None:
        return False
    object.__setattr__(schedule, name, derive())
    return True
