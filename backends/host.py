"""The backend of NumPy's memory: Numba's loops, or array operations where Numba cannot be had."""

from __future__ import annotations

import os
import threading
import warnings
from functools import cache
from types import ModuleType

_choosing = threading.RLock()

if hasattr(os, "register_at_fork"):
    # Numba must not be half imported in a child.
    os.register_at_fork(
        before=_choosing.acquire,
        after_in_parent=_choosing.release,
        after_in_child=_choosing.release,
    )


@cache
def host() -> ModuleType:
    """Return the module that works on NumPy arrays: `cpu`, or `portable` without Numba."""
    with _choosing:
        return _choose()


@cache
def _choose() -> ModuleType:
    """Return the module, chosen once; the caller holds the lock."""
    from . import portable

    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return portable
    try:
        from . import cpu, kernels
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        reason = "is not installed" if missing else f"cannot be imported ({error})"
        warnings.warn(
            f"Numba {reason}: rotary runs on NumPy's own operations, which is slower",
            RuntimeWarning,
            stacklevel=3,
        )
        return portable
    return cpu if kernels.COMPILED else portable
