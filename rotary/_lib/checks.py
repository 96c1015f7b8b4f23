"""Checks of single arguments. Every error names the argument, the expected value and the given value."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import libraries
from .errors import shown

# In channels. Far beyond any head, but small enough that a damaged number does not allocate gigabytes.
LARGEST_WIDTH = 2**16


def as_integer(value: Any, name: str) -> int:
    """Return ``value`` as an int; raise for booleans and for other types."""
    if type(value) is int:
        return value
    check_constant(value, name)
    if libraries.kind_of_number(value) != "b":
        try:
            return operator.index(value)
        except (TypeError, RuntimeError, ValueError):
            pass
    msg = f"`{name}` must be an integer, got {shown(value)} of type {type(value).__name__}"
    raise TypeError(msg)


def check_constant(value: Any, name: str) -> None:
    """Raise for a traced, lazy or learned value, because a copy would become outdated or lose the gradient."""
    if libraries.is_array(value) and not libraries.is_constant(value):
        msg = (
            f"`{name}` must be a number that is known and stays so, got {type(value).__name__}, which is traced, "
            "lazy or learned; embeddings take constants alone: give learned or traced frequencies to their calls, as "
            "`inv_freq=`"
        )
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
    """Return a number of bytes, at least 0."""
    return _as_at_least(value, "nbytes", 0)


def _as_at_least(value: Any, name: str, least: int) -> int:
    """Return ``value`` as an int of at least `least`."""
    number = as_integer(value, name)
    if number < least:
        msg = f"`{name}` must be at least {least}, got {shown(number)}"
        raise ValueError(msg)
    return number


def as_float(value: Any, name: str) -> float:
    """Return a real number as a finite float; raise for booleans and for other types."""
    if type(value) is not float and type(value) is not int:
        _check_real(value, name)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError, RuntimeError) as error:
        raise _not_real(value, name) from error
    if not math.isfinite(number):
        msg = f"`{name}` must be finite, got {shown(value)}"
        raise ValueError(msg)
    return number


def _check_real(value: Any, name: str) -> None:
    """Raise for values that `float` accepts although they are not numbers, or have a unit or a gradient."""
    check_constant(value, name)
    if libraries.unit_of(value) is not None or libraries.kind_of_number(value) not in "iufV":
        raise _not_real(value, name)


def _not_real(value: Any, name: str) -> TypeError:
    """Return the error for a value that is not a real number."""
    msg = f"`{name}` must be a real number, got {shown(value)} of type {type(value).__name__}"
    return TypeError(msg)


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
    """Return a number of rotated channels: a positive even int."""
    number = as_positive_integer(value, name)
    if number % 2:
        msg = f"`{name}` must be even, because channels rotate in pairs, got {shown(number)}"
        raise ValueError(msg)
    return number


def as_bool(value: Any, name: str) -> bool:
    """Return ``value`` if it is a boolean."""
    if not isinstance(value, bool | np.bool_):
        msg = f"`{name}` must be True or False, got {shown(value)} of type {type(value).__name__}"
        raise TypeError(msg)
    return bool(value)
