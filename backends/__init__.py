"""The choice of kernel: made per call, from the array's type and state, importing nothing to make it."""

from __future__ import annotations

from types import ModuleType

import array_api_compat
import numpy as np

from rotary._typing import Array

from .host import host

__all__ = ["host", "kernel_for"]


def kernel_for(x: Array) -> ModuleType:
    """Return the backend module that rotates an array: `cpu`, `shared`, `lazy` or `portable`."""
    if isinstance(x, np.ndarray):
        return host()
    if array_api_compat.is_dask_array(x):
        from . import lazy

        return lazy
    from . import portable, shared

    return shared if _has_host_memory(x) else portable


def _has_host_memory(x: Array) -> bool:
    """Return whether arrays of a library may be memory that NumPy can read."""
    return bool(array_api_compat.is_torch_array(x) or array_api_compat.is_jax_array(x))
