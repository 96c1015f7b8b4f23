"""`warm_up` for the start of a service, and `show_config` for bug reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

from rotary import backends
from rotary._lib import libraries
from rotary.tables.windows import cache_info

from .devices import Gpu, no_gpu

__all__ = ["show_config", "warm_up"]

REPORTED = (
    "numpy",
    "array-api-compat",
    "numba",
    "llvmlite",
    "ml_dtypes",
    "torch",
    "jax",
    "mlx",
    "dask",
    "cupy-cuda12x",
    "cupy-cuda13x",
)


def warm_up(dtypes: str | Sequence[str] = ("float32",)) -> None:
    """Compile the kernels of the CPU for some dtypes, or load them from the disk cache, before the first call.

    Kernels of a GPU are compiled by the first call of each kind: see :doc:`/guides/gpu`. If Numba fails, this function
    or an earlier call emits one warning that names the cause, and `show_config` lists the cause.

    Parameters
    ----------
    dtypes : str or sequence of str, default ("float32",)
        Names such as "float16", "bfloat16", "float32", "float64", "complex64", or NumPy dtypes.

    Raises
    ------
    TypeError
        If arrays of a dtype cannot be rotated.

    Examples
    --------
    >>> import rotary
    >>> rotary.warm_up(dtypes=["float32"])
    """
    names = [dtypes] if isinstance(dtypes, str) or not isinstance(dtypes, Sequence) else dtypes
    kernels = [_dtype_name(name) for name in names]
    for name in kernels:
        backends.host().warm_up(name)


def _dtype_name(dtype: Any) -> str:
    name = libraries.name_of_dtype(dtype)
    if name not in libraries.DTYPES:
        msg = f"`dtypes` must be among {', '.join(sorted(libraries.DTYPES))}, got {dtype!r}"
        raise TypeError(msg)
    return name


def show_config() -> None:
    """Print versions, kernels, threads, GPU and cache, for a bug report.

    Examples
    --------
    >>> import rotary
    >>> rotary.show_config()  # doctest: +ELLIPSIS
    rotary ...
    """
    host = backends.host()
    lines = [
        ("rotary", _version("rotary")),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *((name, version) for name in REPORTED if (version := _version(name))),
        ("kernels", host.__name__.split(".")[2]),
        *host.configuration(),
        *(("failed", f"{part}: {problem}") for part, problem in list(backends.failures.items())),
        ("processors", os.cpu_count()),
        ("GPU", no_gpu() or "; ".join(Gpu().described())),
        ("tables", cache_info()),
    ]
    sys.stdout.write("".join(f"{name:<18}{value}\n" for name, value in lines))


def _version(name: str) -> str | None:
    """Return the version of a distribution, or None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
