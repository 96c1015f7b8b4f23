"""The choice of kernel: made per call, from the array's type and state, importing nothing to make it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from rotary._lib.typing import Array

from .cpu.guard import failures
from .cpu.host import host

if TYPE_CHECKING:
    from .shared import Lent

__all__ = ["failures", "host", "kernel_for", "lent"]


def kernel_for(x: Array) -> ModuleType:
    """Return the backend module that rotates an array: `cpu`, `shared`, `lazy` or `portable`."""
    if isinstance(x, np.ndarray):
        return host()
    if array_api_compat.is_dask_array(x):
        from . import dask as lazy

        return lazy
    from . import portable, shared

    return shared if _has_host_memory(x) else portable


def lent(arrays: Sequence[Array], positions: Any, offset: Any, out: Any) -> Lent | None:
    """Return a call of ordinary CPU arrays of torch or JAX as NumPy sees it; None for every other call."""
    if (
        not arrays
        or type(arrays[0]) is np.ndarray
        or sys.modules.keys().isdisjoint(("torch", "jax"))
    ):
        return None
    from . import shared

    return shared.lent(arrays, positions, offset, out)


def _has_host_memory(x: Array) -> bool:
    """Return whether arrays of a library may be memory that NumPy can read."""
    return bool(array_api_compat.is_torch_array(x) or array_api_compat.is_jax_array(x))
