"""The backend of NumPy's memory: Numba's loops, or array operations where Numba cannot be had."""

from __future__ import annotations

import os
from types import ModuleType

from .guard import builtins_are_replaced, failed, failures, is_torn, loaded, shielded, tell

_chosen: dict[str, ModuleType] = {}


def host() -> ModuleType:
    """Return the module that works on NumPy arrays: `cpu`, or `portable` without Numba."""
    module = _chosen.get("host")
    if module is not None:
        return module
    if builtins_are_replaced():
        return _portable()  # for this call alone; its tables have the same bits
    shielded(_choose)
    tell()
    if "kernels" in failures:
        _chosen.setdefault("host", _portable())
    return _chosen.get("host") or _portable()


def _portable() -> ModuleType:
    """Return the module that needs no Numba."""
    from rotary.backends import portable

    return portable


def _choose() -> None:
    """Choose the module, once."""
    if "host" not in _chosen:
        _chosen.setdefault("host", _found())


def _found() -> ModuleType:
    """Return the module that works on NumPy arrays."""
    portable = _portable()
    try:
        if is_torn():
            msg = "the process was forked while another thread imported or compiled"
            raise RuntimeError(msg)
        from . import kernels

        loaded.append("kernels")
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            return portable
        if kernels.WITHOUT is not None:
            raise kernels.WITHOUT
        from . import launch as cpu
        from .jit import finish_import

        finish_import()
    except BaseException as error:  # whatever an import raises, SystemExit included
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            failed("import", "Numba is not installed")
        else:
            failed("import", "Numba cannot be imported", error)
        if not isinstance(error, Exception):
            _chosen["host"] = portable
            raise
        return portable
    return cpu if kernels.COMPILED else portable
