"""Arrays in the memory of a GPU, whatever library they belong to: found, seen as views, and made.

Nothing is imported to find one. CuPy's arrays and torch's tensors are read where they lie, and their results
are allocated by their own library. What other libraries have, JAX above all, becomes a CuPy array of the same
memory first.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from rotary._lib.libraries import (
    FLOATS,
    has_int64,
    is_jax_tracer,
    is_mlx_array,
    is_plain_tensor,
    name_of_dtype,
    namespace,
)
from rotary._lib.typing import Array, HostArray
from rotary.backends.contract import View

from .driver import Driver
from .parameters import POSITION_TYPES, VECTOR_BYTES, WIDTHS

# DLPack's numbers for memory of the host, of an NVIDIA GPU, and for memory that both share.
HOST, CUDA, MANAGED = 1, 2, 13
INTERFACE = "__cuda_array_interface__"
# The kinds of owners of memory.
CUPY, TORCH, OTHER = "cupy", "torch", "other"
# A channel of each dtype as the kernels read it: a complex one is two real channels.
REAL = {"complex64": "float32", "complex128": "float64"}

# The one object that is asked whatever needs a driver.
driver = Driver()


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


def layout_of(x: Array, owner: str) -> tuple[Any, ...]:
    """Return what all arrays that lie alike share: shape, strides, dtype and GPU."""
    if owner == CUPY:
        return x.shape, x.strides, x.dtype, x.data.device_id
    if owner == TORCH:
        return x.shape, x.stride(), x.dtype, gpu_of_tensor(x)
    strides = described(x).strides if hasattr(x, INTERFACE) else None
    return type(x), tuple(x.shape), strides, str(x.dtype), device_of(x, owner)


def addresses_of(arrays: Sequence[Array], owner: str) -> list[int]:
    """Return where arrays of CuPy or torch begin."""
    if owner == CUPY:
        return [x.data.ptr for x in arrays]
    return [x.data_ptr() for x in arrays]


def in_rows(x: View) -> View:
    """Return an array as its contiguous copy will lie, of which the address is not known."""
    steps = [math.prod(x.shape[axis + 1 :]) * size_of(x) for axis in range(x.ndim)]
    return x._replace(address=0, strides=tuple(steps), owner=None)


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


class Blank(NamedTuple):
    """A new array to come: its shape, its strides in bytes, dtype and size, and the kind of library that owns it."""

    owner: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    steps: list[int]  # strides in elements
    dtype: Any  # that of the library; None stands for that of another array
    nbytes: int


def blank(wanted: View, owner: str, *, like: str | None = None) -> Blank:
    """Return an array to come that lies as a view says; `like` is the dtype of the array it will be made like."""
    size = size_of(wanted)
    dtype = None
    if owner == TORCH:
        import torch

        dtype = getattr(torch, wanted.dtype)
    elif like != wanted.dtype:  # of bfloat16, NumPy alone knows no name
        dtype = np.dtype(wanted.dtype)
    steps = [step // size for step in wanted.strides]
    return Blank(owner, wanted.shape, wanted.strides, steps, dtype, wanted.size * size)


def empty(blanks: Sequence[Blank], likes: Sequence[Array]) -> list[Array]:
    """Return new memory, each of another array's library, on the current GPU and stream."""
    if blanks[0].owner == TORCH:
        return [
            like.new_empty_strided(each.shape, each.steps, dtype=each.dtype)
            for each, like in zip(blanks, likes, strict=True)
        ]
    import cupy

    return [
        cupy.ndarray(
            each.shape, each.dtype or like.dtype, cupy.cuda.alloc(each.nbytes), each.strides
        )
        for each, like in zip(blanks, likes, strict=True)
    ]


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


# ------------------------------------------------------------------------------------------------
# The driver, and arrays of others.


def usable(name: str) -> bool:
    """Return whether kernels can run here; without CuPy, or with one for other GPUs, they cannot.

    Raises
    ------
    ImportError
        If CuPy is there and cannot be imported.
    RuntimeError
        If it finds no driver. `name` is the argument that lies on a GPU.
    """
    if not driver.installed or driver.is_foreign:
        return False
    if driver.missing is not None:
        msg = (
            f"`{name}` lies on a GPU, but {driver.missing}: install the CuPy of the driver's CUDA version "
            "(rotary[cuda12] or rotary[cuda13]), or none, to have the library's own operations rotate"
        )
        raise RuntimeError(msg)
    return True


def device_of(x: Any, owner: str) -> int:
    """Return the GPU that an array lies on."""
    if owner == CUPY:
        return int(x.data.device_id)
    if owner == TORCH:
        return gpu_of_tensor(x) or 0
    if dlpack_type(x) == CUDA:
        return int(x.__dlpack_device__()[1])
    address = getattr(x, INTERFACE)["data"][0] if hasattr(x, INTERFACE) else 0
    return driver.place(address)[0] if address else driver.current_device()


def contiguous(x: Array) -> Array:
    """Return an array of CuPy or torch as one whose elements lie one after another, a copy where it is not one."""
    if owner_of(x) == TORCH:
        return x.contiguous()
    return x if x.flags.c_contiguous else driver.contiguous(x)


def cast(x: Array, dtype: str) -> Array:
    """Return an array of CuPy or torch in another dtype."""
    if owner_of(x) == TORCH:
        xp = namespace(x)
        return xp.astype(x, getattr(xp, dtype))
    return driver.cast(x, dtype)


def assign(target: Array, source: Array) -> None:
    """Write an array of CuPy or torch to another one of its library."""
    if owner_of(target) == TORCH:
        target.copy_(source)
    else:
        driver.assign(target, source)


def upload(table: HostArray, like: Array) -> Any:
    """Return a table of the host as a CuPy array, on the GPU of another."""
    with driver.scope(like.data.device_id):
        return driver.upload(np.ascontiguousarray(table), blocking=False)


def adopted(x: Any, name: str) -> Any:
    """Return an array of a library that is neither CuPy nor torch as CuPy's, of the same memory.

    Raises
    ------
    TypeError
        If CuPy has no such dtype, as bfloat16 before its version 14.
    ValueError
        If the host shares the memory: which GPU is to read it is then not known.
    """
    if dlpack_type(x) == CUDA:
        try:
            return driver.from_dlpack(x)
        except (BufferError, NotImplementedError) as failure:
            msg = f"`{name}` must be of a dtype that CuPy has (bfloat16 from version 14 on), got {x.dtype}"
            raise TypeError(msg) from failure
    managed = dlpack_type(x) == MANAGED
    seen = described(x) if hasattr(x, INTERFACE) else None
    device = 0
    if seen is not None and seen.address:
        device, managed = driver.place(seen.address)
    if managed or seen is None:
        msg = (
            f"`{name}` must lie in the memory of one GPU, got managed memory, which the host shares: copy "
            "it, for instance by cupy.array"
        )
        raise ValueError(msg)
    stream = getattr(x, INTERFACE).get("stream")
    if stream is not None:
        driver.order(stream, None, device)
    import cupy

    reach = sum(step * (n - 1) for step, n in zip(seen.strides, seen.shape, strict=True))
    kind = np.dtype(getattr(x, INTERFACE)["typestr"])
    memory = cupy.cuda.UnownedMemory(seen.address, max(reach, 0) + kind.itemsize, x, device)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(seen.shape, kind, pointer, seen.strides)


def handed_back(result: Any, like: Array) -> Array:
    """Return a CuPy array as one of another array's library; as it is where that has no name."""
    if not array_api_compat.is_array_api_obj(like):
        return result
    return driver.to_library(result, like)


# ------------------------------------------------------------------------------------------------
# The arrays of one call.


def owner_of_all(arrays: Sequence[Array], names: Sequence[str]) -> str | None:
    """Return what kind of library owns all arrays, None if another backend rotates them.

    Raises
    ------
    TypeError
        If some of the arrays are on a GPU and others are not, or are of another library.
    """
    owners = [None if type(x) is np.ndarray else owner_of(x) for x in arrays]
    owner = owners[0]
    if owners.count(owner) != len(owners):
        _check_mixed(arrays, owners, names)
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
            return  # traced or transformed
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
    """Return what a plan depends on besides the specification, None if an output has another owner."""
    key: list[Any] = [owner]
    for x in arrays:
        key += layout_of(x, owner)
    for x, output in zip(arrays, outputs or (), strict=False):
        if output is x:
            key.append(True)
            continue
        if owner_of(output) != owner:
            return None
        key += layout_of(output, owner)
        if owner != OTHER:
            same = addresses_of((x, output), owner)
            key.append(same[0] == same[1])
    return tuple(key)


# ------------------------------------------------------------------------------------------------
# Checked, and read as positions.


def check_devices(seen: Sequence[View], names: Sequence[str]) -> None:
    """Raise unless all memory is of the GPU of the first."""
    for view, name in zip(seen, names, strict=True):
        if view.device != seen[0].device:
            msg = (
                f"`{name}` must lie on GPU {seen[0].device}, as `{names[0]}`, got GPU {view.device}"
            )
            raise ValueError(msg)


def check_aligned(seen: Sequence[View], names: Sequence[str]) -> None:
    """Raise where numbers do not begin on multiples of their size, as no GPU can read them."""
    for view, name in zip(seen, names, strict=True):
        check_multiples(view, channel_size(view), name)


def check_multiples(view: View, size: int, name: str) -> None:
    """Raise unless the numbers of an array begin on multiples of a size."""
    if view.address % size:
        got = f"one that begins {view.address % size} bytes beyond"
    elif any(step % size for step in view.strides):
        got = f"strides {view.strides}"
    else:
        return
    msg = f"`{name}` must be aligned to the {size} bytes of {view.dtype}, got {got}"
    raise ValueError(msg)


def seen_on(owner: str, device: int, value: Any, name: str) -> View | None:
    """Return positions that lie on the GPU of a call as a view, None for those of the host.

    Parameters
    ----------
    owner : str
        Of the call's arrays, whose stream is to wait for what other libraries have not finished yet.
    device : int
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
        # Its library has the stream wait for what it has not finished yet.
        with driver.stream(stream, device):
            return _readable(adopted(value, name), CUPY, device, name)
    view = _readable(value, own, device, name)
    if own != owner:
        driver.order(stream_of(own, device), stream, device)
    return view


def _readable(value: Array, owner: str, device: int, name: str) -> View:
    """Return positions that lie on a GPU as a view of a dtype that kernels read; those of another are cast."""
    view = view_of(value, owner)
    if view.device != device:
        msg = f"`{name}` must lie on GPU {device}, as the arrays, got GPU {view.device}"
        raise ValueError(msg)
    if view.dtype in POSITION_TYPES:
        check_multiples(view, size_of_position(view.dtype), name)
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
    """Return how many bytes a position takes, of a dtype that kernels read."""
    return np.dtype(dtype).itemsize
