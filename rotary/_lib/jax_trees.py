"""Tells JAX, once it is imported, which classes are static: values without arrays in a tree of arrays."""

from __future__ import annotations

import sys
from typing import TypeVar

T = TypeVar("T")
# The classes that JAX does not know yet.
waiting: list[type] = []


def static(cls: type[T]) -> type[T]:
    """Make a class whose objects are values static for `jax.jit` and for modules of JAX's libraries."""
    waiting.append(cls)
    return cls


def register() -> None:
    """Tell JAX of the classes that wait, if JAX is imported as a whole."""
    tree_util = sys.modules.get("jax.tree_util")
    register_static = getattr(tree_util, "register_static", None)
    if "jax" not in sys.modules or register_static is None:
        return
    while waiting:
        try:
            cls = waiting.pop()
        except IndexError:  # another thread registers the last one
            return
        register_static(cls)
