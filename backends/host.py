"""The backend of NumPy's memory: Numba's loops, or array operations where Numba cannot be had."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from functools import cache
from types import ModuleType


@cache
def host() -> ModuleType:
    """Return the module that works on NumPy arrays: `cpu`, or `portable` without Numba."""
    if not _jit_is_disabled():
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


def _jit_is_disabled() -> bool:
    """Return whether Numba is told not to compile, without importing it."""
    numba = sys.modules.get("numba")
    if numba is not None:
        return bool(numba.config.DISABLE_JIT)
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
