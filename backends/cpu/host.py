"""The choice of the backend for host memory: compiled kernels, or NumPy operations if Numba cannot be used."""

from __future__ import annotations

import os
from types import ModuleType

from .guard import builtins_are_replaced, failed, failures, is_torn, loaded, report, shielded

# The module that `host` returns, once it is chosen.
chosen: dict[str, ModuleType] = {}


def host() -> ModuleType:
    """Return the module that rotates NumPy arrays: `cpu.launch`, or `portable` without Numba."""
    module = chosen.get("host")
    if module is not None:
        return module
    if builtins_are_replaced():
        return _portable()  # for this call only; the tables have the same bits
    shielded(_choose)
    report()
    if "kernels" in failures:
        chosen.setdefault("host", _portable())
    return chosen.get("host") or _portable()


def _portable() -> ModuleType:
    from rotary.backends import portable

    return portable


def _choose() -> None:
    """Choose the module unless another thread already did."""
    if "host" not in chosen:
        chosen.setdefault("host", _import_launch())


def _import_launch() -> ModuleType:
    """Import Numba and return `cpu.launch`, or `portable` if the import fails or compilation is disabled."""
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
    except BaseException as error:  # an import may raise any error, SystemExit included
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            failed("import", "Numba is not installed")
        else:
            failed("import", "Numba cannot be imported", error)
        if not isinstance(error, Exception):
            chosen["host"] = portable
            raise
        return portable
    return cpu if kernels.COMPILED else portable
