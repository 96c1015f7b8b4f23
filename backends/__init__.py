"""The backends of all array libraries, and the choice between them for each call, which imports no library."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import array_api_compat
import numpy as np

from rotary._lib.typing import Array

from .cpu.guard import failures
from .cpu.host import host

__all__ = ["failures", "host", "kernel_for", "shared_with_host"]


def kernel_for(x: Array) -> ModuleType:
    """Return the backend of an array: that for host memory, that of its library, or `portable`."""
    if isinstance(x, np.ndarray):
        return host()
    if array_api_compat.is_dask_array(x):
        from . import dask

        return dask
    if array_api_compat.is_torch_array(x):
        from . import torch

        return torch
    if array_api_compat.is_jax_array(x):
        from . import jax

        return jax
    from . import portable

    return portable


def shared_with_host(arrays: Sequence[Array]) -> ModuleType | None:
    """Return the backend whose arrays NumPy may view without a copy, or None for arrays of other libraries."""
    from . import portable

    modules = sys.modules
    if "torch" in modules and array_api_compat.is_torch_array(arrays[0]):
        from . import torch

        return None if host() is portable else torch
    if "jax" in modules and array_api_compat.is_jax_array(arrays[0]):
        from . import jax

        return None if host() is portable else jax
    return None
