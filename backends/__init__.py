"""The choice of kernel: made per call, from the array's type and state, importing nothing to make it."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from functools import cache
from types import ModuleType

import array_api_compat
import numpy as np

from rotary._typing import Array


@cache
def host() -> ModuleType:
    """Return the backend that works on NumPy's memory: Numba's, or the portable one without it."""
    numba = sys.modules.get("numba")
    if numba is not None:
        disabled = bool(numba.config.DISABLE_JIT)
    else:
        disabled = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    if not disabled:
        try:
            from . import cpu
        except ImportError as error:
            found = importlib.util.find_spec("numba") is not None
            reason = f"cannot be imported ({error})" if found else "is not installed"
            warnings.warn(
                f"Numba {reason}: rotary runs on NumPy's own operations, which is slower",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            return cpu
    from . import portable

    return portable


def kernel_for(x: Array) -> ModuleType:
    """Return the backend module that rotates an array: `cpu`, `lazy` or `portable`."""
    if isinstance(x, np.ndarray):
        return host()
    if array_api_compat.is_dask_array(x):
        from . import lazy

        return lazy
    from . import portable

    return portable
