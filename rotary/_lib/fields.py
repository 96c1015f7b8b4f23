"""Fields of frozen dataclasses that are checked when the object is made, and derived if they are left out."""

from __future__ import annotations

import functools
from dataclasses import MISSING, Field
from typing import Any, Self, TypeVar, overload

from .checks import as_choice

T = TypeVar("T")


class cached_property(functools.cached_property[T]):  # noqa: N801  (has the name of the class that it replaces)
    """`functools.cached_property` without its lock.

    Before Python 3.12, all objects of a class share that lock, and a child process that is forked while another
    thread holds it waits for ever. If two threads compute a value at the same time, the first value is kept.
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
    """A number derived from other fields. It is derived again if `dataclasses.replace` changes these fields."""

    origin: str

    def __new__(cls, value: float, origin: str = "") -> Self:
        self = super().__new__(cls, value)
        self.origin = origin
        return self


def origin_of(field: Field[Any], value: Any) -> str:
    """Return the origin of the value of a field, for `explain`."""
    if isinstance(value, Derived):
        return f"derived: {value.origin}"
    return "given" if field.default is MISSING or value != field.default else "the default"


def checked(check: Any, *, optional: bool = False) -> dict[str, Any]:
    """Return the metadata of a field whose value `check` checks when the object is made."""

    def check_field(value: Any, name: str) -> Any:
        # A derived value is derived again, because the other fields may have changed.
        if optional and (value is None or isinstance(value, Derived)):
            return None
        return check(value, name)

    return {"check": check_field}


def chosen(*choices: str) -> dict[str, Any]:
    """Return the metadata of a field whose value must be one of several strings."""
    return checked(lambda value, name: as_choice(value, name, choices))
