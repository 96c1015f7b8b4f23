"""Fields of frozen dataclasses: checked when the object is made, derived where they are left out."""

from __future__ import annotations

import functools
from dataclasses import MISSING, Field
from typing import Any, Self, TypeVar, overload

from .checks import as_choice

T = TypeVar("T")


class cached_property(functools.cached_property[T]):  # noqa: N801  (stands in for Python's, which has the name)
    """What follows from the fields, computed when first asked for: Python's own, without its lock.

    Before Python 3.12 all objects of a class share that lock, and a child forked while another thread held it
    would wait for ever. Two threads may compute a value at once: the first one's is kept.
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Self | T:
        if instance is None:
            return self
        value: T = instance.__dict__.setdefault(self.attrname, self.func(instance))
        return value


class Derived(float):
    """A number that follows from the other fields, and anew where `dataclasses.replace` changes them."""

    origin: str

    def __new__(cls, value: float, origin: str = "") -> Self:
        self = super().__new__(cls, value)
        self.origin = origin
        return self


def origin_of(own: Field[Any], value: Any) -> str:
    """Return where the value of a field comes from."""
    if isinstance(value, Derived):
        return f"derived: {value.origin}"
    return "given" if own.default is MISSING or value != own.default else "the default"


def checked(check: Any, *, optional: bool = False) -> dict[str, Any]:
    """Return the metadata of a field that is checked when a schedule is made."""

    def run(value: Any, name: str) -> Any:
        # What was derived is derived again, from fields that may have changed.
        if optional and (value is None or isinstance(value, Derived)):
            return None
        return check(value, name)

    return {"check": run}


def chosen(*choices: str) -> dict[str, Any]:
    """Return the metadata of a field that is one of several words."""
    return checked(lambda value, name: as_choice(value, name, choices))
