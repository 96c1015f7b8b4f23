"""The host and the GPU as `selftest` and `bench` meet them: memory to put values in, and a clock.

`Gpu` is what a machine with a GPU is asked by; tests put the host's memory and a clock of their own in its place.
No GPU has run it yet.
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
    "install rotary[cuda12] or rotary[cuda13], for the CUDA version that nvidia-smi shows, and with no CUDA "
    "toolkit on the machine cupy-cuda12x[ctk] or cupy-cuda13x[ctk] as well"
)
# More than any GPU keeps near its multiprocessors: what is written between two calls drives their arrays out.
FLUSHED_BYTES = 2**28
# How often it is written at most, which is for calls that wait for the GPU themselves.
MOST_FILLS = 256


class Device(Protocol):
    """What `selftest` and `bench` need of a place where arrays lie."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        ...

    @property
    def roundings(self) -> float:
        """How far off a float32 result may be, in roundings of its pair's length."""
        ...

    def described(self) -> list[str]:
        """Return lines that tell what is used."""
        ...

    def lacks(self, dtype: str) -> str | None:
        """Return why arrays of a dtype cannot be made here, None where they can."""
        ...

    def put(self, values: HostArray) -> Array:
        """Return host values as an array here."""
        ...

    def get(self, x: Array) -> HostArray:
        """Return an array of here as host values."""
        ...

    def copy(self, source: Array, target: Array) -> None:
        """Copy one array to another, both contiguous and of one size."""
        ...

    def seconds(self, call: Callable[[], object]) -> float:
        """Return what one call takes here, without what the host does before it."""
        ...

    def seconds_in_turn(self, call: Callable[[], object], count: int) -> float:
        """Return what a call takes by the host's clock, where so many follow one another."""
        ...


def no_gpu() -> str | None:
    """Return why no GPU can be used, None where one can; `INSTALL` is what to do about it."""
    # Not at the top: `rotary` imports this module, and a host without a GPU needs nothing of what asks for one.
    from rotary.backends.cuda import memory

    if not memory.driver.installed:
        return "CuPy is not installed"
    try:
        foreign = memory.driver.is_foreign
    except ImportError as failure:
        return f"CuPy cannot be imported ({failure})"
    return "this CuPy is for GPUs that have no CUDA" if foreign else memory.driver.missing


def dtype_named(name: str) -> np.dtype[Any]:
    """Return a dtype by name; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


class Host:
    """NumPy's memory, and whatever backend rotates it."""

    is_gpu = False

    @property
    def roundings(self) -> float:
        """Compiled loops are closer than array operations."""
        return 3.0 if self._backend == "cpu" else 8.0

    @cached_property
    def _backend(self) -> str:
        return host().__name__.split(".")[2]

    def described(self) -> list[str]:
        """Return lines that tell what is used."""
        loops = "compiled loops" if self._backend == "cpu" else "NumPy's operations"
        return [f"CPU: {loops}, NumPy {np.__version__}, {platform.system()} {platform.machine()}"]

    def lacks(self, dtype: str) -> str | None:
        """Return why arrays of a dtype cannot be made here, None where they can."""
        if dtype == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
            return "NumPy has bfloat16 only with ml_dtypes"
        return None

    def put(self, values: HostArray) -> Array:
        """Return a copy."""
        return values.copy()

    def get(self, x: Array) -> HostArray:
        """Return it as it is."""
        found: HostArray = x
        return found

    def copy(self, source: Array, target: Array) -> None:
        """Copy one array to another, both contiguous and of one size."""
        np.copyto(target, source)

    def seconds(self, call: Callable[[], object]) -> float:
        """Return what one call takes."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def seconds_in_turn(self, call: Callable[[], object], count: int) -> float:
        """Return what a call takes where so many follow one another."""
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
        """Return lines that tell what is used."""
        runtime, number = self._cupy.cuda.runtime, self._cupy.cuda.runtime.getDevice()
        properties = runtime.getDeviceProperties(number)
        compiler = ".".join(map(str, self._cupy.cuda.nvrtc.getVersion()))
        device = (
            f"GPU {number} of {runtime.getDeviceCount()}: {properties['name'].decode()}, "
            f"compute capability {properties['major']}.{properties['minor']}, "
            f"{properties['multiProcessorCount']} multiprocessors"
        )
        software = (
            f"CUDA {_dotted(runtime.driverGetVersion())} of the driver, "
            f"{_dotted(runtime.runtimeGetVersion())} of the runtime, NVRTC {compiler}, "
            f"CuPy {self._cupy.__version__}"
        )
        return [device, software]

    def lacks(self, dtype: str) -> str | None:
        """Return why arrays of a dtype cannot be made here, None where they can."""
        major = int(self._cupy.__version__.partition(".")[0])
        if dtype == "bfloat16" and (major < 14 or importlib.util.find_spec("ml_dtypes") is None):
            return "CuPy has bfloat16 from version 14 on, with ml_dtypes"
        return None

    def put(self, values: HostArray) -> Array:
        """Return host values as an array here."""
        return self._cupy.asarray(values)

    def get(self, x: Array) -> HostArray:
        """Return an array of here as host values."""
        found: HostArray = self._cupy.asnumpy(x)
        return found

    def copy(self, source: Array, target: Array) -> None:
        """Copy one array to another, both contiguous and of one size."""
        stream = self._cupy.cuda.get_current_stream()
        target.data.copy_from_device_async(source.data, source.nbytes, stream)

    @cached_property
    def _scratch(self) -> Any:
        return self._cupy.empty(FLUSHED_BYTES, "uint8")

    _fills = 1

    def seconds(self, call: Callable[[], object]) -> float:
        """Return what one call takes on the GPU's clock.

        What is written before it drives the arrays out of the caches, and keeps the GPU busy until the host
        has said all that the call says: where it does not, it is written twice as often from now on. A call
        that waits for the GPU itself is charged for what the host does meanwhile.
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

    def seconds_in_turn(self, call: Callable[[], object], count: int) -> float:
        """Return what a call takes by the host's clock, where so many follow one another."""
        stream = self._cupy.cuda.get_current_stream()
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        stream.synchronize()
        return (time.perf_counter() - start) / count


def _dotted(version: int) -> str:
    """Return a version of CUDA, 13000, as it is written, 13.0."""
    return f"{version // 1000}.{version % 1000 // 10}"
