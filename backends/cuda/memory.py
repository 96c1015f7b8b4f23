"""Arrays in the memory of a GPU, whatever library they belong to: found, seen as views, and made.

Nothing is imported to find one. CuPy's arrays and torch's tensors are read where they lie, and their results
are allocated by their own library. What other libraries have, JAX above all, becomes a CuPy array of the same
memory first.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from rotary._lib.libraries import (
    has_int64,
    is_jax_tracer,
    is_mlx_array,
    is_plain_tensor,
    name_of_dtype,
)
from rotary._lib.typing import Array, HostArray
from rotary.backends.contract import View

from .parameters import VECTOR_BYTES, WIDTHS

# DLPack's numbers for memory of the host, of an NVIDIA GPU, and for memory that both share.
HOST, CUDA, MANAGED = 1, 2, 13
INTERFACE = "__cuda_array_interface__"
# The kinds of owners of memory.
CUPY, TORCH, OTHER = "cupy", "torch", "other"
# A channel of each dtype as the kernels read it: a complex one is two real channels.
REAL = {"complex64": "float32", "complex128": "float64"}


# ------------------------------------------------------------------------------------------------
# Found.


def owner_of(x: Any) -> str | None:
    """Return what kind of library an array on a GPU is of; None for what is elsewhere or has no values.

    No values have arrays that are traced, transformed, spread over several GPUs, or that stand for others.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return CUPY
    if isinstance(x, np.ndarray):
        return None
    if array_api_compat.is_torch_array(x):
        return TORCH if gpu_of_tensor(x) is not None and _has_memory(x) else None
    if array_api_compat.is_jax_array(x) and (is_jax_tracer(x) or len(x.devices()) > 1):
        return None
    if array_api_compat.is_dask_array(x) or is_mlx_array(x):
        return None
    if dlpack_type(x) in (CUDA, MANAGED):
        return OTHER
    # A class that has it for arrays of the host as well says so by raising.
    return OTHER if hasattr(type(x), INTERFACE) and hasattr(x, INTERFACE) else None


def gpu_of_tensor(x: Array) -> int | None:
    """Return the number of the NVIDIA GPU that a torch tensor lies on, None where it lies elsewhere."""
    if not x.is_cuda or sys.modules["torch"].version.hip is not None:
        return None
    number: int = x.device.index
    return number


def _has_memory(x: Array) -> bool:
    """Return whether a tensor is all that there is to it, and has memory of its own."""
    if not is_plain_tensor(x):
        return False
    try:
        return x.data_ptr() != 0 or not x.numel()
    except RuntimeError:
        return False  # inside a function transform


def dlpack_type(x: Any) -> int | None:
    """Return the kind of memory that an array says it lies in, None where it does not say."""
    if not hasattr(type(x), "__dlpack_device__"):
        return None
    try:
        return int(x.__dlpack_device__()[0])
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return None  # of a kind that DLPack has no number for


def is_on_host(x: Array) -> bool:
    """Return whether an array's values lie in the host's memory."""
    if array_api_compat.is_numpy_array(x):
        return True
    if array_api_compat.is_torch_array(x):
        return str(x.device.type) == "cpu"
    return not array_api_compat.is_dask_array(x) and dlpack_type(x) == HOST


def would_narrow(x: Array) -> bool:
    """Return whether JAX would hand a result like this array back in fewer bits, its 64-bit mode being off."""
    return name_of_dtype(x.dtype) in ("float64", "complex128") and not has_int64(x)


def asks_for_gradient(arrays: Sequence[Array]) -> bool:
    """Return whether the gradient of any of torch's tensors is asked for."""
    for x in arrays:
        if getattr(x, "requires_grad", False):
            return bool(sys.modules["torch"].is_grad_enabled())
    return False


# ------------------------------------------------------------------------------------------------
# Seen.


def view_of(x: Array, owner: str) -> View:
    """Return where an array of CuPy or torch lies."""
    if owner == CUPY:
        data = x.data
        return View(data.ptr, x.shape, x.strides, name_of_dtype(x.dtype), data.device_id, x)
    size = x.element_size()
    return View(
        x.data_ptr(),
        tuple(x.shape),
        tuple([step * size for step in x.stride()]),
        name_of_dtype(x.dtype),
        gpu_of_tensor(x) or 0,
        x,
    )


def channel_size(x: View) -> int:
    """Return how many bytes a real channel takes; a complex one takes twice as many."""
    return VECTOR_BYTES // WIDTHS[REAL.get(x.dtype, x.dtype)]


def size_of(x: View) -> int:
    """Return how many bytes an element takes."""
    return channel_size(x) * (2 if x.dtype in REAL else 1)


def has_contiguous_channels(x: View) -> bool:
    """Return whether the elements of an array's last axis lie one after another."""
    return not x.size or not x.ndim or x.shape[-1] == 1 or x.strides[-1] == size_of(x)


def span_of(x: View) -> tuple[int, int]:
    """Return where an array's memory begins and ends, in bytes from its first element."""
    if not x.size:
        return 0, 0
    reach = [step * (n - 1) for step, n in zip(x.strides, x.shape, strict=True)]
    return sum(min(each, 0) for each in reach), sum(max(each, 0) for each in reach) + size_of(x)


class _Image:
    """What NumPy is told of memory that it must not read: where it lies."""

    def __init__(self, x: View, itemsize: int) -> None:
        self.__array_interface__ = {
            "data": (x.address, False),
            "shape": x.shape,
            "strides": x.strides,
            "typestr": f"|V{itemsize}",
            "version": 3,
        }


def image(x: Any) -> HostArray | None:
    """Return an array that lies where one on a GPU does: it can be compared, never read.

    None where an array is not on a GPU, or does not tell where.
    """
    owner = owner_of(x)
    if owner in (CUPY, TORCH):
        return np.asarray(_Image(view_of(x, str(owner)), x.dtype.itemsize))
    if owner == OTHER and hasattr(x, INTERFACE):
        view = described(x)
        return np.asarray(_Image(view, np.dtype(view.dtype).itemsize))
    return None


def described(x: Any) -> View:
    """Return what an array says of itself by `__cuda_array_interface__`, which does not name its GPU."""
    said = getattr(x, INTERFACE)
    dtype, shape = np.dtype(said["typestr"]), tuple(said["shape"])
    strides = said.get("strides")
    if strides is None:
        strides = [math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape))]
    return View(said["data"][0], shape, tuple(strides), dtype.name, 0, x)


def is_read_only(x: Any) -> bool:
    """Return whether an array says that it must not be written to."""
    return hasattr(x, INTERFACE) and bool(getattr(x, INTERFACE)["data"][1])


# ------------------------------------------------------------------------------------------------
# Made.


def like(x: View, owner: str) -> View:
    """Return a result as it will lie, without an address, its last axis contiguous.

    CuPy's lie in the axis order of an array, as NumPy's do; torch's in that of their axes, as torch.compile
    is told of them, and as they do on the host.
    """
    *front, last = range(x.ndim)
    if owner == CUPY:
        front.sort(key=lambda axis: -abs(x.strides[axis]))
    order = [*front, last]
    strides = [0] * x.ndim
    step = size_of(x)
    for axis in reversed(order):
        strides[axis] = step
        step *= max(x.shape[axis], 1)
    # Plans outlive calls, and must not keep the arrays of the first.
    return x._replace(address=0, strides=tuple(strides), owner=None)


def empty(wanted: View, like: Array, owner: str) -> Array:
    """Return new memory that lies as a view says, of another array's library, on the current GPU and stream."""
    if owner == TORCH:
        import torch

        size = size_of(wanted)
        strides = [step // size for step in wanted.strides]
        kind = getattr(torch, wanted.dtype)
        return like.new_empty_strided(wanted.shape, strides, dtype=kind)
    import cupy

    # Of bfloat16, NumPy alone knows no name.
    kind = like.dtype if name_of_dtype(like.dtype) == wanted.dtype else np.dtype(wanted.dtype)
    memory = cupy.cuda.alloc(math.prod(wanted.shape) * size_of(wanted))
    return cupy.ndarray(wanted.shape, kind, memory, wanted.strides)


def stream_of(owner: str, device: int) -> int | None:
    """Return the address of a library's current stream; None is CuPy's."""
    if owner != TORCH:
        return None
    import torch

    address: int = torch.cuda.current_stream(device).cuda_stream
    return address


def told_written(outputs: Sequence[Array]) -> None:
    """Tell torch that tensors have been written to, which whoever saved them for a gradient must know."""
    import torch

    for x in outputs:
        torch.autograd.graph.increment_version(x)
