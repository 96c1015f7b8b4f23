"""Everything that CuPy needs a GPU's driver for, in one object, which tests replace by host memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from itertools import count
from typing import Any

from rotary._lib.fields import cached_property
from rotary._lib.libraries import namespace
from rotary._lib.memo import remembered
from rotary._lib.typing import Array, HostArray

from . import parameters as cuda_struct

STREAMS_REMEMBERED = 256


class _External:
    """Another library's stream, as an object of the CUDA stream protocol."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


class Driver:
    """Everything that CuPy needs a GPU's driver for."""

    def __init__(self) -> None:
        self._kept_alive: dict[int, tuple[Any, Sequence[Any]]] = {}
        self._numbers = count()

    @cached_property
    def installed(self) -> bool:
        """Whether CuPy is installed, even if it cannot be imported."""
        return find_spec("cupy") is not None

    @cached_property
    def cupy(self) -> Any:
        """CuPy itself."""
        import cupy

        return cupy

    @cached_property
    def missing(self) -> str | None:
        """Why CuPy has no GPU, or None if it has one."""
        if self.cupy.cuda.is_available():
            return None
        return "CuPy finds no driver, or none that is new enough for the CUDA it was built for"

    @cached_property
    def is_foreign(self) -> bool:
        """Whether CuPy was built for AMD's GPUs."""
        return bool(self.cupy.cuda.runtime.is_hip)

    def current_device(self) -> int:
        """Return the number of the current GPU."""
        return int(self.cupy.cuda.runtime.getDevice())

    def current_stream(self) -> int:
        """Return the address of CuPy's current stream."""
        return int(self.cupy.cuda.get_current_stream().ptr)

    def scope(self, device: int) -> AbstractContextManager[Any]:
        """Return a context that makes a GPU the current one."""
        if self.current_device() == device:
            return nullcontext()
        scope: AbstractContextManager[Any] = self.cupy.cuda.Device(device)
        return scope

    def stream(self, address: int | None, device: int) -> AbstractContextManager[Any]:
        """Return a context that makes another library's stream the current one; None keeps CuPy's."""
        return nullcontext() if address is None else _stream(address, device)

    def order(self, before: int | None, after: int | None, device: int) -> None:
        """Make the stream `after` wait for the work queued on `before`; None is CuPy's current stream."""
        with self.stream(before, device):
            source = self.cupy.cuda.get_current_stream()
        with self.stream(after, device):
            target = self.cupy.cuda.get_current_stream()
        if target.is_capturing() and not source.is_capturing():
            msg = (
                "`positions`, `offset` and the like must be of the arrays' own library while a CUDA graph is "
                "captured: the graph does not include the stream of another library"
            )
            raise RuntimeError(msg)
        target.wait_event(source.record())

    def keep_alive(self, owners: Sequence[Any]) -> None:
        """Keep memory alive until the work queued on the current stream has read it.

        The library that owns the memory knows only its own streams, and might reuse it too early.
        """
        stream = self.cupy.cuda.get_current_stream()
        if stream.is_capturing():
            return  # the owner of a graph keeps what its replays read
        # Each step is atomic. A lock could stay locked after an interruption.
        for number in list(self._kept_alive):
            held = self._kept_alive.get(number)
            if held is not None and not held[0].done:
                break
            self._kept_alive.pop(number, None)
        self._kept_alive[next(self._numbers)] = stream.record(), owners

    def upload(self, values: HostArray, *, blocking: bool) -> Any:
        """Copy host values to the current GPU; without `blocking`, in the order of the current stream."""
        self.check_not_capturing()
        return self.cupy.asarray(values, blocking=blocking)

    def check_not_capturing(self) -> None:
        """Raise if the current stream is being captured: a replay would not repeat what the host does.

        Raises
        ------
        RuntimeError
        """
        if self.cupy.cuda.get_current_stream().is_capturing():
            msg = (
                "`positions`, `offset` and the like must lie on the GPU while a CUDA graph is captured, and "
                "the same call must have been made before: the host cannot upload or compile anything now"
            )
            raise RuntimeError(msg)

    def kernel(self, name: str) -> Any:
        """Compile an instance of the kernel, or load it from CuPy's cache on disk."""
        self.check_not_capturing()
        module = self.cupy.RawModule(code=cuda_struct.program(name), options=cuda_struct.OPTIONS)
        try:
            return module.get_function(name)
        except self.cupy.cuda.compiler.CompileException as failure:
            msg = (
                "NVRTC cannot compile the kernel. If it finds no cuda_fp16.h or cuda_bf16.h, install a CUDA toolkit, "
                "or its headers: cupy-cuda12x[ctk] or cupy-cuda13x[ctk], of CuPy 14 on"
            )
            raise RuntimeError(msg) from failure

    def multiprocessors(self, device: int) -> int:
        """Return the number of multiprocessors of a GPU."""
        return int(self.cupy.cuda.Device(device).attributes["MultiProcessorCount"])

    def place(self, address: int) -> tuple[int, bool]:
        """Return the GPU that memory belongs to, and whether it is managed memory."""
        runtime = self.cupy.cuda.runtime
        found = runtime.pointerGetAttributes(address)
        return int(found.device), found.type == runtime.memoryTypeManaged

    def contiguous(self, x: Any) -> Any:
        """Return a C-contiguous CuPy array, the same one if it is contiguous."""
        return self.cupy.ascontiguousarray(x)

    def cast(self, x: Any, dtype: str) -> Any:
        """Convert a CuPy array to another dtype."""
        return x.astype(dtype)

    def assign(self, target: Any, source: Any) -> None:
        """Copy the elements of one CuPy array to another."""
        target[...] = source

    def from_dlpack(self, x: Array) -> Any:
        """Return a CuPy array that shares the memory of another library's, with their streams in order."""
        return self.cupy.from_dlpack(x)

    def to_library(self, result: Any, like: Array) -> Array:
        """Return an array of another array's library that shares a CuPy array's memory, with streams in order."""
        return namespace(like).from_dlpack(result)


@remembered(STREAMS_REMEMBERED)
def _stream(address: int, device: int) -> Any:
    """Return another library's stream as a CuPy stream."""
    import cupy

    if address == 0:
        return cupy.cuda.Stream.null
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_External(address))
    return cupy.cuda.ExternalStream(address, device)
