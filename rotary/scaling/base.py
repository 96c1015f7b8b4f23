"""The base class of all schedules, and what the published ones share."""

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
    """Base class of schedules: they give inverse frequencies, and a factor on cosine and sine.

    Schedules are frozen dataclasses: immutable, hashable values.
    """

    @property
    @abstractmethod
    def attention_factor(self) -> float:
        """The factor on cosine and sine, 1.0 if the schedule has none."""

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
        """Whether frequencies or attention factor depend on the context length."""
        return False

    def attention_factor_at(self, context_length: int | None) -> float:
        """Return the factor on cosine and sine at a context length.

        Parameters
        ----------
        context_length : int or None
            Used only by schedules whose factor depends on it.

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
            Used only by schedules that depend on it.

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
        for own in fields(values) if is_dataclass(values) else ():
            value = getattr(self, own.name)
            # The repr of an array is cut and has several lines, that of a list does not.
            shown = value.tolist() if isinstance(value, np.ndarray) else value
            numbers.append((own.name, shown, origin_of(own, value)))
        return numbers


# ------------------------------------------------------------------------------------------------
# Shared by the published schedules.


POSITIVE = checked(as_positive_float)
POSITIVE_OR_NONE = checked(as_positive_float, optional=True)
LENGTH = checked(as_positive_integer)
LENGTH_OR_NONE = checked(as_positive_integer, optional=True)
MSCALE = checked(as_non_negative_float, optional=True)
BOOL = checked(as_bool)
# The default of a float that is derived from the other fields. It is `Any`, so that the field can be declared a float.
DERIVED: Any = None
FACTORS = checked(as_factors)


class CheckedScaling(Scaling):
    """A schedule that checks its fields by their metadata, and the frequencies that it computes."""

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine: 1.0."""
        return 1.0

    def __post_init__(self) -> None:
        for own in fields(self):  # type: ignore[arg-type]  # every schedule is a dataclass
            value = own.metadata["check"](getattr(self, own.name), own.name)
            object.__setattr__(self, own.name, value)

    def __repr__(self) -> str:
        # Derived values and defaults are left out: what is shown determines them.
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
            If `base` or `context_length` is needed and missing, or an argument is of the wrong kind.
        ValueError
            If a value does not fit the schedule.
        """
        width = as_rotary_dim(dim, "dim")
        name = type(self).__name__
        if self.needs_base:
            if base is None:
                msg = f"`base` must be given: the frequencies of {name} depend on it"
                raise TypeError(msg)
            base = as_positive_float(base, "base")
        if self.needs_length:
            if context_length is None:
                msg = f"`context_length` must be given: {name} depends on it"
                raise TypeError(msg)
            context_length = as_positive_integer(context_length, "context_length")
        with np.errstate(over="ignore"):
            values = self._values(width, base, context_length)
        if not (np.abs(values) < LARGEST_FREQUENCY).all():
            msg = f"{name} must give inverse frequencies below 2**63 radians per position, got {values}"
            raise ValueError(msg)
        return frozen(values)

    def resolved(self, dim: int, base: float | None, context_length: int | None) -> list[Resolved]:
        """Return the fields, and the numbers that are derived from them."""
        return [
            *super().resolved(dim, base, context_length),
            *self._derived(dim, base, context_length),
        ]

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        """Return the derived numbers that `explain` shows below the fields."""
        return []

    @abstractmethod
    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        """Return the frequencies. The arguments have been checked."""


def blended(inv_freq: Float64Array, factor: float, kept: Float64Array) -> Float64Array:
    """Mix ``inv_freq`` and ``inv_freq / factor``, with weights ``kept`` and ``1 - kept``.

    Weights of 0 and 1, and a factor of 1, give exact results.
    """
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # the caller refuses results that are not finite
        divided = inv_freq / factor
        return np.where(kept == 1.0, inv_freq, divided + (inv_freq - divided) * kept)


def count_of_pairs(kept: Float64Array) -> Resolved:
    """Describe how many channel pairs are kept, mixed and divided."""
    whole, none = int((kept == 1.0).sum()), int((kept == 0.0).sum())
    value = f"{whole} kept, {len(kept) - whole - none} mixed, {none} divided"
    return ("channel pairs", value, "derived: from the highest frequency to the lowest")


def check_two_pairs(dim: int, name: str) -> None:
    """Raise unless there is a second channel pair: the base does not change the frequency of the first."""
    if dim < 4:
        msg = f"`dim` must be at least 4 for {name}, whose base has the exponent dim / (dim - 2), got {dim}"
        raise ValueError(msg)


def check_count(factors: Sequence[float], name: str, dim: int) -> None:
    """Raise unless there is one factor for each channel pair."""
    if len(factors) != dim // 2:
        msg = f"`{name}` must hold {dim // 2} numbers, one for each pair of {dim} rotated channels, got {len(factors)}"
        raise ValueError(msg)


def fill(schedule: Scaling, name: str, derive: Callable[[], float]) -> bool:
    """Set a field that was left out to the derived value, and return whether it was left out."""
    if getattr(schedule, name) is not None:
        return False
    object.__setattr__(schedule, name, derive())
    return True
