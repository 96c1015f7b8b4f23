"""Checks of single arguments, so that every error names the argument, the need and the value."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._errors import shown

# Of channels: far beyond any head, so that a damaged number does not ask for gigabytes.
LARGEST_WIDTH = 2**16


def as_integer(value: Any, name: str) -> int:
    """Return ``value`` as an int, refusing booleans and everything that is not an integer."""
    if not isinstance(value, bool | np.bool_):
        try:
            return operator.index(value)
        except TypeError:
            pass
    msg = f"`{name}` must be an integer, got {shown(value)} of type {type(value).__name__}"
    raise TypeError(msg)


def as_positive_integer(value: Any, name: str) -> int:
    """Return ``value`` as an int of at least 1."""
    return _as_at_least(value, name, 1)


def as_non_negative_integer(value: Any, name: str) -> int:
    """Return ``value`` as an int of at least 0."""
    number = as_integer(value, name)
    if number < 0:
        msg = f"`{name}` must not be negative, got {shown(number)}"
        raise ValueError(msg)
    return number


def as_nbytes(value: Any) -> int:
    """Return how many bytes may be kept, at least 0."""
    return _as_at_least(value, "nbytes", 0)


def _as_at_least(value: Any, name: str, least: int) -> int:
    """Return ``value`` as an int that is not below the least one allowed."""
    number = as_integer(value, name)
    if number < least:
        msg = f"`{name}` must be at least {least}, got {shown(number)}"
        raise ValueError(msg)
    return number


def as_float(value: Any, name: str) -> float:
    """Return a real number as a finite float, refusing booleans and everything else."""
    is_other = isinstance(value, bool | np.bool_ | str | bytes | complex | np.complexfloating)
    try:
        number = math.nan if is_other else float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):  # ValueError: an array of another library
        is_other = True
    if is_other:
        msg = f"`{name}` must be a real number, got {shown(value)} of type {type(value).__name__}"
        raise TypeError(msg)
    if not math.isfinite(number):
        msg = f"`{name}` must be finite, got {shown(value)}"
        raise ValueError(msg)
    return number


def as_positive_float(value: Any, name: str) -> float:
    """Return a real number as a finite float above zero."""
    number = as_float(value, name)
    if number <= 0:
        msg = f"`{name}` must be positive, got {shown(value)}"
        raise ValueError(msg)
    return number


def as_non_negative_float(value: Any, name: str) -> float:
    """Return a real number as a finite float of at least zero."""
    number = as_float(value, name)
    if number < 0:
        msg = f"`{name}` must not be negative, got {shown(value)}"
        raise ValueError(msg)
    return number


def as_fraction(value: Any, name: str) -> float:
    """Return a real number as a float from 0 to 1."""
    number = as_float(value, name)
    if not 0 <= number <= 1:
        msg = f"`{name}` must be from 0 to 1, got {shown(value)}"
        raise ValueError(msg)
    return number


def as_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of the named choices."""
    if not isinstance(value, str):
        msg = f"`{name}` must be a string, got {shown(value)} of type {type(value).__name__}"
        raise TypeError(msg)
    if value not in choices:
        msg = f"`{name}` must be one of {', '.join(map(repr, choices))}, got {shown(value)}"
        raise ValueError(msg)
    return value


def as_rotary_dim(value: Any, name: str) -> int:
    """Return a count of channels that can be paired: a positive even int."""
    number = as_positive_integer(value, name)
    if number % 2:
        msg = f"`{name}` must be even, for channels turn in pairs, got {shown(number)}"
        raise ValueError(msg)
    return number


def as_bool(value: Any, name: str) -> bool:
    """Return ``value`` if it is a boolean."""
    if not isinstance(value, bool | np.bool_):
        msg = f"`{name}` must be True or False, got {shown(value)} of type {type(value).__name__}"
        raise TypeError(msg)
    return bool(value)
