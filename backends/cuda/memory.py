"""Arrays in the memory of a GPU, of any library: detected, viewed, checked and allocated.

Detection imports nothing. Arrays of CuPy and torch are used in place, and their own library allocates their results.
Arrays of other libraries, such as JAX, are first wrapped as CuPy arrays of the same memory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from rotary._lib.libraries import (
    FLOATS,
    has_int64,
    is_jax_tracer,
    is_mlx_array,
    is_ordinary_tensor,
    name_of_dtype,
    namespace,
)
from rotary._lib.typing import Array, HostArray
from rotary.backends.contract import GpuView

from .driver import Driver
from .parameters import POSITION_TYPES, VECTOR_BYTES, WIDTHS

# DLPack's numbers for memory of the host, of an NVIDIA GPU, and for managed memory, which both share.
HOST, CUDA, MANAGED = 1, 2, 13
INTERFACE = "__cuda_array_interface__"
# The kinds of libraries that own memory.
CUPY, TORCH, OTHER = "cupy", "torch", "other"
# Kernels read a complex channel as two real ones.
REAL = {"complex64": "float32", "complex128": "float64"}

# The bytes of an element of each dtype, and of a channel as kernels read it.
CHANNEL_BYTES = {dtype: VECTOR_BYTES // width for dtype, width in WIDTHS.items()}
CHANNEL_BYTES |= {dtype: CHANNEL_BYTES[real] for dtype, real in REAL.items()}
ITEM_BYTES = {dtype: size * (2 if dtype in REAL else 1) for dtype, size in CHANNEL_BYTES.items()}

# Everything that needs a GPU's driver goes through this object, which tests replace.
driver = Driver()


# ------------------------------------------------------------------------------------------------
# Detecting.


def owner_of(x: Any) -> str | None:
    """Return the kind of library that owns an array on a GPU, None for any other object.

    Arrays that are traced, transformed, lazy or spread over several GPUs have no memory of their own, hence no owner.
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
    # A class whose arrays may lie on the host raises AttributeError for those.
    return OTHER if hasattr(type(x), INTERFACE) and hasattr(x, INTERFACE) else None


def gpu_of_tensor(x: Array) -> int | None:
    """Return the number of a tensor's NVIDIA GPU, None if it has none."""
    if not x.is_cuda or sys.modules["torch"].version.hip is not None:
        return None
    number: int = x.device.index
    return number


def _has_memory(x: Array) -> bool:
    """Return whether a tensor is plain and has memory of its own."""
    if not is_ordinary_tensor(x):
        return False
    try:
        return x.data_ptr() != 0 or not x.numel()
    except RuntimeError:
        return False  # inside a function transform


def dlpack_type(x: Any) -> int | None:
    """Return DLPack's number for the memory of an array, None if there is none."""
    if not hasattr(type(x), "__dlpack_device__"):
        return None
    try:
        return int(x.__dlpack_device__()[0])
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return None  # DLPack has no number for this kind of memory


def is_on_host(x: Array) -> bool:
    """Return whether an array lies in host memory."""
    if array_api_compat.is_numpy_array(x):
        return True
    if array_api_compat.is_torch_array(x):
        return str(x.device.type) == "cpu"
    return not array_api_compat.is_dask_array(x) and dlpack_type(x) == HOST


def would_narrow(x: Array) -> bool:
    """Return whether JAX would give results of this dtype fewer bits, because its 64-bit mode is off."""
    return name_of_dtype(x.dtype) in ("float64", "complex128") and not has_int64(x)


def asks_for_gradient(arrays: Sequence[Array]) -> bool:
    """Return whether torch records operations on any of these arrays."""
    for x in arrays:
        if getattr(x, "requires_grad", False):
            return bool(sys.modules["torch"].is_grad_enabled())
    return False


# ------------------------------------------------------------------------------------------------
# Viewing.


def view_of(x: Array, owner: str) -> GpuView:
    """Return an array of CuPy or torch as a view."""
    if owner == CUPY:
        data = x.data
        return GpuView(data.ptr, x.shape, x.strides, name_of_dtype(x.dtype), data.device_id, x)
    size = x.element_size()
    return GpuView(
        x.data_ptr(),
        tuple(x.shape),
        tuple([step * size for step in x.stride()]),
        name_of_dtype(x.dtype),
        gpu_of_tensor(x) or 0,
        x,
    )


def layout_of(x: Array, owner: str) -> tuple[Any, ...]:
    """Return shape, strides, dtype and GPU of an array, as part of a key."""
    if owner == CUPY:
        return x.shape, x.strides, x.dtype, x.data.device_id
    if owner == TORCH:
        return x.shape, x.stride(), x.dtype, gpu_of_tensor(x)
    strides = described_view(x).strides if hasattr(x, INTERFACE) else None
    return type(x), tuple(x.shape), strides, str(x.dtype), device_of(x, owner)


def addresses_of(arrays: Sequence[Array], owner: str) -> list[int]:
    """Return the addresses of arrays of CuPy or torch."""
    if owner == CUPY:
        return [x.data.ptr for x in arrays]
    return [x.data_ptr() for x in arrays]


def row_major(x: GpuView) -> GpuView:
    """Return the view that a C-contiguous copy of an array will have, without an address."""
    steps = [math.prod(x.shape[axis + 1 :]) * ITEM_BYTES[x.dtype] for axis in range(len(x.shape))]
    return x._replace(address=0, strides=tuple(steps), owner=None)


def has_contiguous_channels(x: GpuView) -> bool:
    """Return whether the last axis is contiguous."""
    return 0 in x.shape or not x.shape or x.shape[-1] == 1 or x.strides[-1] == ITEM_BYTES[x.dtype]


def span_of(x: GpuView) -> tuple[int, int]:
    """Return the range of bytes that an array occupies, relative to its first element."""
    if 0 in x.shape:
        return 0, 0
    reach = [step * (n - 1) for step, n in zip(x.strides, x.shape, strict=True)]
    return sum(min(each, 0) for each in reach), sum(max(each, 0) for each in reach) + ITEM_BYTES[
        x.dtype
    ]


class _AddressOnly:
    """Gives NumPy the layout of memory that it must not read."""

    def __init__(self, x: GpuView, itemsize: int) -> None:
        self.__array_interface__ = {
            "data": (x.address, False),
            "shape": x.shape,
            "strides": x.strides,
            "typestr": f"|V{itemsize}",
            "version": 3,
        }


def address_view(x: Any) -> HostArray | None:
    """Return a NumPy array with the address and strides of an array on a GPU, None for any other array.

    It serves to detect overlap. Nobody may read it.
    """
    owner = owner_of(x)
    if owner in (CUPY, TORCH):
        return np.asarray(_AddressOnly(view_of(x, str(owner)), x.dtype.itemsize))
    if owner == OTHER and hasattr(x, INTERFACE):
        view = described_view(x)
        return np.asarray(_AddressOnly(view, np.dtype(view.dtype).itemsize))
    return None


def described_view(x: Any) -> GpuView:
    """Return a view from `__cuda_array_interface__`, which does not name the GPU."""
    said = getattr(x, INTERFACE)
    dtype, shape = np.dtype(said["typestr"]), tuple(said["shape"])
    strides = said.get("strides")
    if strides is None:
        strides = [math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape))]
    return GpuView(said["data"][0], shape, tuple(strides), dtype.name, 0, x)


def is_read_only(x: Any) -> bool:
    """Return whether `__cuda_array_interface__` marks an array as read-only."""
    return hasattr(x, INTERFACE) and bool(getattr(x, INTERFACE)["data"][1])


# ------------------------------------------------------------------------------------------------
# Allocating.


def like(x: GpuView, owner: str) -> GpuView:
    """Return the view that the result for an array will have, without an address. Its last axis is contiguous.

    In memory, CuPy's results have the axis order of the array, as NumPy's have. torch's are C-contiguous, as they are
    on the host and as torch.compile expects.
    """
    *front, last = range(len(x.shape))
    if owner == CUPY:
        front.sort(key=lambda axis: -abs(x.strides[axis]))
    order = [*front, last]
    strides = [0] * len(x.shape)
    step = ITEM_BYTES[x.dtype]
    for axis in reversed(order):
        strides[axis] = step
        step *= max(x.shape[axis], 1)
    # Plans outlive calls, so a view in a plan keeps no array alive.
    return x._replace(address=0, strides=tuple(strides), owner=None)


class ResultSpec(NamedTuple):
    """How to allocate the result for an array, decided once for all calls."""

    owner: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    steps: list[int]  # strides in elements
    dtype: Any  # of the library; None means that of the array
    nbytes: int


def result_spec(view: GpuView, owner: str, *, like: str | None = None) -> ResultSpec:
    """Return how to allocate the array that a view describes, for an array of dtype `like`."""
    size = ITEM_BYTES[view.dtype]
    dtype = None
    if owner == TORCH:
        import torch

        dtype = getattr(torch, view.dtype)
    elif like != view.dtype:  # NumPy cannot make bfloat16 from its name
        dtype = np.dtype(view.dtype)
    steps = [step // size for step in view.strides]
    return ResultSpec(owner, view.shape, view.strides, steps, dtype, math.prod(view.shape) * size)


def empty(specs: Sequence[ResultSpec], likes: Sequence[Array]) -> tuple[list[Array], list[int]]:
    """Allocate results, each by its array's library, on the current GPU and stream; return them and their addresses."""
    if specs[0].owner == TORCH:
        tensors = [
            like.new_empty_strided(each.shape, each.steps, dtype=each.dtype)
            for each, like in zip(specs, likes, strict=True)
        ]
        return tensors, [x.data_ptr() for x in tensors]
    import cupy

    memory = [cupy.cuda.alloc(each.nbytes) for each in specs]
    arrays = [
        cupy.ndarray(each.shape, each.dtype or like.dtype, own, each.strides)
        for each, like, own in zip(specs, likes, memory, strict=True)
    ]
    return arrays, [own.ptr for own in memory]


def stream_of(owner: str, device: int) -> int | None:
    """Return the address of torch's current stream, None for CuPy, whose current stream needs no address."""
    if owner != TORCH:
        return None
    import torch

    address: int = torch.cuda.current_stream(device).cuda_stream
    return address


def bump_version(outputs: Sequence[Array]) -> None:
    """Tell torch that tensors were written to, so that it raises if a backward pass needs their old values."""
    import torch

    for x in outputs:
        torch.autograd.graph.increment_version(x)


# ------------------------------------------------------------------------------------------------
# The driver, and arrays of other libraries.


def usable(name: str) -> bool:
    """Return whether kernels can run: not without CuPy, and not with a CuPy built for AMD's GPUs.

    Raises
    ------
    ImportError
        If CuPy is there and cannot be imported.
    RuntimeError
        If CuPy finds no driver. `name` is the argument that lies on a GPU.
    """
    if not driver.installed or driver.is_foreign:
        return False
    if driver.missing is not None:
        msg = (
            f"`{name}` lies on a GPU, but {driver.missing}: install the CuPy of the driver's CUDA version "
            "(rotary[cuda12] or rotary[cuda13]), or uninstall CuPy to fall back to the library's own operations"
        )
        raise RuntimeError(msg)
    return True


def device_of(x: Any, owner: str) -> int:
    """Return the number of an array's GPU."""
    if owner == CUPY:
        return int(x.data.device_id)
    if owner == TORCH:
        return gpu_of_tensor(x) or 0
    if dlpack_type(x) == CUDA:
        return int(x.__dlpack_device__()[1])
    address = getattr(x, INTERFACE)["data"][0] if hasattr(x, INTERFACE) else 0
    return driver.place(address)[0] if address else driver.current_device()


def contiguous(x: Array) -> Array:
    """Return an array of CuPy or torch if it is C-contiguous, else a copy that is."""
    if owner_of(x) == TORCH:
        return x.contiguous()
    return x if x.flags.c_contiguous else driver.contiguous(x)


def cast(x: Array, dtype: str) -> Array:
    """Convert an array of CuPy or torch to another dtype."""
    if owner_of(x) == TORCH:
        xp = namespace(x)
        return xp.astype(x, getattr(xp, dtype))
    return driver.cast(x, dtype)


def assign(target: Array, source: Array) -> None:
    """Copy the elements of an array of CuPy or torch to another one of its library."""
    if owner_of(target) == TORCH:
        target.copy_(source)
    else:
        driver.assign(target, source)


def upload(table: HostArray, like: Array) -> Any:
    """Copy a table from the host to the GPU of a CuPy array."""
    with driver.scope(like.data.device_id):
        return driver.upload(np.ascontiguousarray(table), blocking=False)


def as_cupy(x: Any, name: str) -> Any:
    """Return a CuPy array that shares the memory of another library's array.

    Raises
    ------
    TypeError
        If CuPy has no such dtype, such as bfloat16 before version 14.
    ValueError
        If it is managed memory, which does not say which GPU should read it.
    """
    if dlpack_type(x) == CUDA:
        try:
            return driver.from_dlpack(x)
        except (BufferError, NotImplementedError) as failure:
            msg = f"`{name}` must be of a dtype that CuPy has (bfloat16 from version 14 on), got {x.dtype}"
            raise TypeError(msg) from failure
    managed = dlpack_type(x) == MANAGED
    views = described_view(x) if hasattr(x, INTERFACE) else None
    device = 0
    if views is not None and views.address:
        device, managed = driver.place(views.address)
    if managed or views is None:
        msg = (
            f"`{name}` must lie in the memory of one GPU, got managed memory, which the host shares: copy "
            "it, for instance by cupy.array"
        )
        raise ValueError(msg)
    stream = getattr(x, INTERFACE).get("stream")
    if stream is not None:
        driver.order(stream, None, device)
    import cupy

    reach = sum(step * (n - 1) for step, n in zip(views.strides, views.shape, strict=True))
    kind = np.dtype(getattr(x, INTERFACE)["typestr"])
    memory = cupy.cuda.UnownedMemory(views.address, max(reach, 0) + kind.itemsize, x, device)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(views.shape, kind, pointer, views.strides)


def to_original_library(result: Any, like: Array) -> Array:
    """Convert a CuPy array to another array's library, unless that array only has `__cuda_array_interface__`."""
    if not array_api_compat.is_array_api_obj(like):
        return result
    return driver.to_library(result, like)


# ------------------------------------------------------------------------------------------------
# The arrays of one call.


def owner_of_all(
    arrays: Sequence[Array], names_of: Callable[[Sequence[Array]], Sequence[str]]
) -> str | None:
    """Return the kind of library that owns all arrays of a call, None if another backend rotates them.

    Raises
    ------
    TypeError
        If some of the arrays are on a GPU and others are not, or are of another library.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and {*map(type, arrays)} == {cupy.ndarray}:
        # Most calls, found in the least time.
        ready = driver.installed and not driver.is_foreign and driver.missing is None
        return CUPY if ready or usable("x") else None
    owners = [None if type(x) is np.ndarray else owner_of(x) for x in arrays]
    owner = owners[0]
    if owners.count(owner) != len(owners):
        _check_mixed(arrays, owners, names_of(arrays))
        return None
    if owner is None or not usable("x"):
        return None
    return None if owner == OTHER and any(map(would_narrow, arrays)) else owner


def _check_mixed(
    arrays: Sequence[Array], owners: Sequence[str | None], names: Sequence[str]
) -> None:
    there = next(i for i, owner in enumerate(owners) if owner is not None)
    for x, owner, name in zip(arrays, owners, names, strict=True):
        if owner is None and not is_on_host(x):
            return  # traced or transformed, which the library's own operations rotate
        if owner != owners[there]:
            where = "on the host" if owner is None else f"of {type(x)}"
            msg = (
                f"`{name}` must lie on the GPU and be of the library of `{names[there]}`, "
                f"{type(arrays[there])}, got an array {where}"
            )
            raise TypeError(msg)


def key_of(
    arrays: Sequence[Array], outputs: Sequence[Array] | None, owner: str
) -> tuple[Any, ...] | None:
    """Return the part of a plan's key that arrays and outputs decide, None if an output has another owner."""
    key: list[Any] = [owner]
    for x in arrays:
        if owner == CUPY:  # as `layout_of`, without a call
            key += x.shape, x.strides, x.dtype, x.data.device_id
        else:
            key += layout_of(x, owner)
    for x, output in zip(arrays, outputs or (), strict=False):
        if output is x:
            key.append(True)
            continue
        if owner_of(output) != owner:
            return None
        if owner == CUPY:
            key += output.shape, output.strides, output.dtype, output.data.device_id
            key.append(output.data.ptr == x.data.ptr)
            continue
        key += layout_of(output, owner)
        if owner == TORCH:
            key.append(output.data_ptr() == x.data_ptr())
    return tuple(key)


# ------------------------------------------------------------------------------------------------
# Checking, and viewing positions.


def check_devices(views: Sequence[GpuView], names: Sequence[str]) -> None:
    """Raise unless all arrays lie on one GPU."""
    for view, name in zip(views, names, strict=True):
        if view.device != views[0].device:
            msg = f"`{name}` must lie on GPU {views[0].device}, as `{names[0]}`, got GPU {view.device}"
            raise ValueError(msg)


def check_aligned(views: Sequence[GpuView], names: Sequence[str]) -> None:
    """Raise for arrays that are not aligned to the size of their elements, which no GPU can read."""
    for view, name in zip(views, names, strict=True):
        check_alignment(view, CHANNEL_BYTES[view.dtype], name)


def check_alignment(view: GpuView, size: int, name: str) -> None:
    """Raise unless address and strides of an array are multiples of a size."""
    if view.address % size:
        got = f"an address {view.address % size} bytes past a multiple"
    elif any(step % size for step in view.strides):
        got = f"strides {view.strides}"
    else:
        return
    msg = f"`{name}` must be aligned to the {size} bytes of {view.dtype}, got {got}"
    raise ValueError(msg)


def position_view(owner: str, device: int, value: Any, name: str) -> GpuView | None:
    """Return positions on the GPU of a call as a view, None for all others.

    Parameters
    ----------
    owner : str
        Of the call's arrays. Their stream waits for the pending work of other libraries.
    device : int
        The GPU of the call.
    value, name
        The argument.
    """
    if isinstance(value, int | float | np.ndarray | list | tuple):
        return None
    own = owner_of(value)
    if own is None or asks_for_gradient([value]):
        return None
    stream = stream_of(owner, device)
    if own == OTHER:
        # By DLPack, the other library makes this stream wait for its pending work.
        with driver.stream(stream, device):
            return _readable(as_cupy(value, name), CUPY, device, name)
    view = _readable(value, own, device, name)
    if own != owner:
        driver.order(stream_of(own, device), stream, device)
    return view


def _readable(value: Array, owner: str, device: int, name: str) -> GpuView:
    """Return positions on a GPU as a view of a dtype that kernels read, converted if necessary."""
    view = view_of(value, owner)
    if view.device != device:
        msg = f"`{name}` must lie on GPU {device}, as the arrays, got GPU {view.device}"
        raise ValueError(msg)
    if view.dtype in POSITION_TYPES:
        check_alignment(view, size_of_position(view.dtype), name)
        return view
    if view.dtype == "uint64":
        msg = f"`{name}` must hold integers that int64 has, or floats, got dtype uint64"
        raise TypeError(msg)
    if "int" not in view.dtype and view.dtype not in FLOATS:
        msg = f"`{name}` must hold integers or floats, got dtype {view.dtype}"
        raise TypeError(msg)
    kind = "float32" if view.dtype in FLOATS else "int64"
    return view_of(cast(value, kind), owner)


def size_of_position(dtype: str) -> int:
    """Return the bytes of a position."""
    return np.dtype(dtype).itemsize
