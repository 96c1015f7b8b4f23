"""Everything that is asked of CuPy and needs a driver: one object, in whose place tests put the host's memory."""

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
    """Another library's stream, in the words of the CUDA stream protocol."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


class Driver:
    """Everything that is asked of CuPy and needs a driver."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Any, Sequence[Any]]] = {}
        self._numbers = count()

    @cached_property
    def installed(self) -> bool:
        """Whether there is a CuPy, be it a broken one."""
        return find_spec("cupy") is not None

    @cached_property
    def cupy(self) -> Any:
        """CuPy itself."""
        import cupy

        return cupy

    @cached_property
    def missing(self) -> str | None:
        """Why there is no GPU for CuPy, None where there is one."""
        if self.cupy.cuda.is_available():
            return None
        return "CuPy finds no driver, or none that is new enough for the CUDA it was built for"

    @cached_property
    def is_foreign(self) -> bool:
        """Whether CuPy was built for the GPUs of another maker."""
        return bool(self.cupy.cuda.runtime.is_hip)

    def current_device(self) -> int:
        """Return the GPU that is the current one."""
        return int(self.cupy.cuda.runtime.getDevice())

    def current_stream(self) -> int:
        """Return the address of CuPy's current stream."""
        return int(self.cupy.cuda.get_current_stream().ptr)

    def scope(self, device: int) -> AbstractContextManager[Any]:
        """Return a context in which a GPU is the current one."""
        if self.current_device() == device:
            return nullcontext()
        scope: AbstractContextManager[Any] = self.cupy.cuda.Device(device)
        return scope

    def stream(self, address: int | None, device: int) -> AbstractContextManager[Any]:
        """Return a context in which another library's stream is the current one; None keeps CuPy's own."""
        return nullcontext() if address is None else _stream(address, device)

    def order(self, before: int | None, after: int | None, device: int) -> None:
        """Have one stream wait for what another was given so far; None is CuPy's current one."""
        with self.stream(before, device):
            source = self.cupy.cuda.get_current_stream()
        with self.stream(after, device):
            target = self.cupy.cuda.get_current_stream()
        if target.is_capturing() and not source.is_capturing():
            msg = (
                "`positions`, `offset` and the like must be of the arrays' own library while a CUDA graph is "
                "captured: the stream of another one has no part in it"
            )
            raise RuntimeError(msg)
        target.wait_event(source.record())

    def hold(self, owners: Sequence[Any]) -> None:
        """Keep memory that a launch on the current stream reads, till it has been read.

        A library that is given its memory back knows of its own streams only.
        """
        stream = self.cupy.cuda.get_current_stream()
        if stream.is_capturing():
            return  # whoever replays a graph keeps what it reads
        # Each step is atomic, so that no lock is needed, which an interruption could leave taken.
        for number in list(self._held):
            held = self._held.get(number)
            if held is not None and not held[0].done:
                break
            self._held.pop(number, None)
        self._held[next(self._numbers)] = stream.record(), owners

    def upload(self, values: HostArray, *, blocking: bool) -> Any:
        """Return a CuPy array of host values on the current GPU; without `blocking` in the stream's order."""
        self.check_not_capturing()
        return self.cupy.asarray(values, blocking=blocking)

    def check_not_capturing(self) -> None:
        """Raise where the current stream is captured in a graph, which would not do again what the host does.

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
        """Return an instance of the kernel, compiled or from CuPy's cache on disk."""
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
        """Return how many multiprocessors a GPU has."""
        return int(self.cupy.cuda.Device(device).attributes["MultiProcessorCount"])

    def place(self, address: int) -> tuple[int, bool]:
        """Return the GPU that memory belongs to, and whether the host shares it."""
        runtime = self.cupy.cuda.runtime
        found = runtime.pointerGetAttributes(address)
        return int(found.device), found.type == runtime.memoryTypeManaged

    def contiguous(self, x: Any) -> Any:
        """Return a CuPy array as one whose elements lie one after another."""
        return self.cupy.ascontiguousarray(x)

    def cast(self, x: Any, dtype: str) -> Any:
        """Return a CuPy array in another dtype."""
        return x.astype(dtype)

    def assign(self, target: Any, source: Any) -> None:
        """Write one CuPy array to another."""
        target[...] = source

    def from_dlpack(self, x: Array) -> Any:
        """Return an array of another library as CuPy's, of the same memory, with the streams in order."""
        return self.cupy.from_dlpack(x)

    def to_library(self, result: Any, like: Array) -> Array:
        """Return a CuPy array as one of another array's library, of the same memory, streams in order."""
        return namespace(like).from_dlpack(result)


@remembered(STREAMS_REMEMBERED)
def _stream(address: int, device: int) -> Any:
    """Return another library's stream as CuPy's."""
    import cupy

    if address == 0:
        return cupy.cuda.Stream.null
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_External(address))
    return cupy.cuda.ExternalStream(address, device)
