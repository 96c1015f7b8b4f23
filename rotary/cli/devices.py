"""The host and the GPU, as `selftest` and `bench` use them: arrays, copies and clocks.

Tests replace the memory and the clock of `Gpu` with those of the host. No GPU has run this code yet.
"""

from __future__ import annotations

import importlib.util
import platform
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from rotary._lib.fields import cached_property
from rotary._lib.typing import Array, HostArray
from rotary.backends import host

INSTALL = (
    "install rotary[cuda12] or rotary[cuda13], for the CUDA version that nvidia-smi shows; without a CUDA "
    "toolkit on the machine, also cupy-cuda12x[ctk] or cupy-cuda13x[ctk]"
)
# Larger than the caches of any GPU. Writing this number of bytes between two calls evicts their arrays.
FLUSHED_BYTES = 2**28
# The most writes before a call. A call that waits for the GPU would need an unlimited number.
MOST_FILLS = 256


class Device(Protocol):
    """A device with arrays, as `selftest` and `bench` use it."""

    @property
    def is_gpu(self) -> bool:
        """Whether this is a GPU."""
        ...

    @property
    def roundings(self) -> float:
        """The bound on the error of a float32 result, in unit roundoffs of the length of the channel pair."""
        ...

    def described(self) -> list[str]:
        """Return lines that describe the device and its software."""
        ...

    def lacks(self, dtype: str) -> str | None:
        """Return the reason why the device has no arrays of a dtype, or None if it has."""
        ...

    def put(self, values: HostArray) -> Array:
        """Copy a NumPy array to the device."""
        ...

    def get(self, x: Array) -> HostArray:
        """Return an array of the device as a NumPy array."""
        ...

    def copy(self, source: Array, target: Array) -> None:
        """Copy one contiguous array to another of the same size."""
        ...

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the time of one call by the clock of the device."""
        ...

    def seconds_in_a_row(self, call: Callable[[], object], count: int) -> float:
        """Return the mean time of `count` consecutive calls by the clock of the host."""
        ...


def no_gpu() -> str | None:
    """Return the reason why no GPU can be used, or None; `INSTALL` is advice for the message."""
    # Imported here, because `rotary` imports this module, and a host without a GPU needs no driver.
    from rotary.backends.cuda import memory

    if not memory.driver.installed:
        return "CuPy is not installed"
    try:
        foreign = memory.driver.is_foreign
    except ImportError as failure:
        return f"CuPy cannot be imported ({failure})"
    return "this CuPy is for GPUs that have no CUDA" if foreign else memory.driver.missing


def dtype_named(name: str) -> np.dtype[Any]:
    """Return a dtype by name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


class Host:
    """The CPU, with NumPy arrays and the backend that rotates them."""

    is_gpu = False

    @property
    def roundings(self) -> float:
        """The bound, which is lower for compiled loops than for array operations."""
        return 3.0 if self._backend == "cpu" else 8.0

    @cached_property
    def _backend(self) -> str:
        return host().__name__.split(".")[2]

    def described(self) -> list[str]:
        """Return lines that describe the device and its software."""
        loops = "compiled loops" if self._backend == "cpu" else "NumPy operations"
        return [f"CPU: {loops}, NumPy {np.__version__}, {platform.system()} {platform.machine()}"]

    def lacks(self, dtype: str) -> str | None:
        """Return the reason why the device has no arrays of a dtype, or None if it has."""
        if dtype == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
            return "NumPy has bfloat16 only with ml_dtypes"
        return None

    def put(self, values: HostArray) -> Array:
        """Return a copy."""
        return values.copy()

    def get(self, x: Array) -> HostArray:
        """Return the array itself."""
        values: HostArray = x
        return values

    def copy(self, source: Array, target: Array) -> None:
        """Copy one contiguous array to another of the same size."""
        np.copyto(target, source)

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the time of one call."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def seconds_in_a_row(self, call: Callable[[], object], count: int) -> float:
        """Return the mean time of `count` consecutive calls."""
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count


class Gpu:
    """The current GPU, through CuPy."""

    is_gpu = True
    roundings = 3.0

    @cached_property
    def _cupy(self) -> Any:
        import cupy

        return cupy

    def described(self) -> list[str]:
        """Return lines that describe the device and its software."""
        runtime, number = self._cupy.cuda.runtime, self._cupy.cuda.runtime.getDevice()
        properties = runtime.getDeviceProperties(number)
        compiler = ".".join(map(str, self._cupy.cuda.nvrtc.getVersion()))
        device = (
            f"GPU {number} of {runtime.getDeviceCount()}: {properties['name'].decode()}, "
            f"compute capability {properties['major']}.{properties['minor']}, "
            f"{properties['multiProcessorCount']} multiprocessors"
        )
        software = (
            f"CUDA {_version_text(runtime.driverGetVersion())} of the driver, "
            f"{_version_text(runtime.runtimeGetVersion())} of the runtime, NVRTC {compiler}, "
            f"CuPy {self._cupy.__version__}"
        )
        return [device, software]

    def lacks(self, dtype: str) -> str | None:
        """Return the reason why the device has no arrays of a dtype, or None if it has."""
        major = int(self._cupy.__version__.partition(".")[0])
        if dtype == "bfloat16" and (major < 14 or importlib.util.find_spec("ml_dtypes") is None):
            return "CuPy has bfloat16 only from version 14 on, and with ml_dtypes"
        return None

    def put(self, values: HostArray) -> Array:
        """Copy a NumPy array to the device."""
        return self._cupy.asarray(values)

    def get(self, x: Array) -> HostArray:
        """Return an array of the device as a NumPy array."""
        values: HostArray = self._cupy.asnumpy(x)
        return values

    def copy(self, source: Array, target: Array) -> None:
        """Copy one contiguous array to another of the same size."""
        stream = self._cupy.cuda.get_current_stream()
        target.data.copy_from_device_async(source.data, source.nbytes, stream)

    @cached_property
    def _scratch(self) -> Any:
        return self._cupy.empty(FLUSHED_BYTES, "uint8")

    _fills = 1

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the time of one call by the clock of the GPU.

        A write before the call evicts the arrays from the caches. It also keeps the GPU busy until the host has
        submitted the whole call. If the write ends too early, the number of writes is doubled for this call and
        later ones. If the call waits for the GPU, its time includes the work of the host meanwhile.
        """
        stream = self._cupy.cuda.get_current_stream()
        while True:
            start, end = (self._cupy.cuda.Event() for _ in range(2))
            for _ in range(self._fills):
                self._scratch.data.memset_async(0, FLUSHED_BYTES, stream)
            start.record(stream)
            call()
            end.record(stream)
            was_busy = not start.done
            end.synchronize()
            if was_busy or self._fills >= MOST_FILLS:
                return float(self._cupy.cuda.get_elapsed_time(start, end)) / 1e3
            self._fills *= 2

    def seconds_in_a_row(self, call: Callable[[], object], count: int) -> float:
        """Return the mean time of `count` consecutive calls by the clock of the host."""
        stream = self._cupy.cuda.get_current_stream()
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        stream.synchronize()
        return (time.perf_counter() - start) / count


def _version_text(version: int) -> str:
    """Format a version number of CUDA: 13000 is 13.0."""
    return f"{version // 1000}.{version % 1000 // 10}"
