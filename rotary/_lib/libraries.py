"""What array libraries have in common and where they differ, asked of arrays without importing anything."""

from __future__ import annotations

import datetime as dt
import math
import numbers
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import array_api_compat
import numpy as np

from .memo import remembered
from .typing import Array, HostArray, Namespace

ALIGNMENT = 64
# What stands for a date or a duration in an array of objects; a datetime is a date.
DATES = (dt.date, dt.timedelta, np.datetime64, np.timedelta64)
# What can be rotated, in NumPy's words.
DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})


def is_mlx_array(x: Any) -> bool:
    """Return whether x is an MLX array, without importing MLX."""
    mlx = sys.modules.get("mlx.core")
    return mlx is not None and isinstance(x, mlx.array)


def is_dask_array(x: Any) -> bool:
    """Return whether x is a dask array."""
    return bool(array_api_compat.is_dask_array(x))


def is_sparse(x: Any) -> bool:
    """Return whether x is an array, of torch or of PyData's sparse, that does not store every element."""
    if array_api_compat.is_torch_array(x):
        return str(x.layout) != "torch.strided"
    return bool(array_api_compat.is_pydata_sparse_array(x))


def kind_of_sparse(x: Any) -> str:
    """Return what errors call a sparse array."""
    return f"layout {x.layout}" if hasattr(x, "layout") else type(x).__name__


def is_array(x: Any) -> bool:
    """Return whether x is an array of a library that has arrays, or memory of a GPU that says where it lies."""
    return bool(array_api_compat.is_array_api_obj(x)) or is_mlx_array(x) or is_bare(x)


def is_bare(x: Any) -> bool:
    """Return whether x is memory of a GPU that belongs to no array library."""
    speaks = hasattr(type(x), "__cuda_array_interface__") and hasattr(x, "dtype")
    return speaks and not array_api_compat.is_array_api_obj(x)


def namespace(*arrays: Any) -> Namespace:
    """Return the array-API namespace of arrays; MLX, which has none, is given one.

    Raises
    ------
    TypeError
        If the arrays are of different libraries, or of none.
    """
    if any(is_mlx_array(x) for x in arrays):
        return _mlx_namespace()
    return array_api_compat.array_namespace(*arrays)


@cache
def _mlx_namespace() -> Namespace:
    """Return what the portable backend needs of the array API, in MLX's names."""
    import mlx.core as mx

    names = (
        "abs arange clip cos exp isfinite max ones_like round sin reshape stack where zeros_like float32 float64 "
        "int32 int64 uint32 real imag floor"
    )
    return SimpleNamespace(
        **{name: getattr(mx, name) for name in names.split() if hasattr(mx, name)},
        asarray=lambda x, dtype=None: mx.array(x, dtype or _mlx_dtype(x.dtype)),
        astype=lambda x, dtype: x.astype(dtype),
        concat=mx.concatenate,
        permute_dims=mx.transpose,
    )


def _mlx_dtype(dtype: Any) -> Any:
    """Return MLX's dtype for one of NumPy's."""
    import mlx.core as mx

    return mx.bool_ if dtype.kind == "b" else getattr(mx, dtype.name)


def dtype_name(x: Array) -> str:
    """Return the name of an array's dtype, in NumPy's words, whatever library it is from."""
    return name_of_dtype(x.dtype)


# Typed, for the dtypes of some libraries warn when they are compared with another's.
@remembered(256, typed=True)
def name_of_dtype(dtype: Any) -> str:
    """Return the name of a dtype given as any library's object, as NumPy's scalar type or by name."""
    if isinstance(dtype, type):
        dtype = np.dtype(dtype)
    return str(getattr(dtype, "name", dtype)).rsplit(".", 1)[-1].lower()


def to_host(value: Any) -> HostArray | None:
    """Return an array of positions as NumPy sees it, or None if its values are not known here.

    Unknown are the values of traced and lazy arrays, of arrays on another device (reading them would
    wait for it), and of arrays whose gradient is asked for or whose uses are recorded.
    """
    if isinstance(value, np.ndarray):
        return value
    if array_api_compat.is_dask_array(value) or array_api_compat.is_ndonnx_array(value):
        return None
    if array_api_compat.is_torch_array(value):
        import torch

        # A fake tensor is a subclass that hands out memory which holds nothing.
        plain = type(value) in (torch.Tensor, torch.nn.Parameter)
        if not plain or value.requires_grad or value.device.type != "cpu" or _is_recorded(value):
            return None
        if dtype_name(value) == "bfloat16":
            value = value.float()  # exact; NumPy alone has no such dtype
        try:
            return np.asarray(value.numpy())
        except (RuntimeError, TypeError):
            return None  # inside a function transform, or sparse
    if array_api_compat.is_jax_array(value):
        here = not is_jax_tracer(value) and all(d.platform == "cpu" for d in value.devices())
        return np.asarray(value) if here else None
    if is_mlx_array(value):
        import mlx.core as mx

        if dtype_name(value) == "bfloat16":
            value = value.astype(mx.float32)
        try:
            return np.array(value)
        except (RuntimeError, ValueError):
            return None  # inside a function transform
    if is_bare(value):
        return None
    try:
        return np.asarray(value)
    except (TypeError, RuntimeError):
        return None  # on a device, such as a GPU


def is_constant(x: Array) -> bool:
    """Return whether an array is constant: not traced, lazy or learned."""
    if array_api_compat.is_torch_array(x):
        import torch

        if x.requires_grad or isinstance(x, torch.nn.Parameter):
            return False
        if torch.autograd.forward_ad.unpack_dual(x).tangent is not None:
            return False
        return x.device.type != "cpu" or to_host(x) is not None
    if array_api_compat.is_jax_array(x):
        return not is_jax_tracer(x)
    if is_mlx_array(x):
        return to_host(x) is not None
    return not (array_api_compat.is_dask_array(x) or array_api_compat.is_ndonnx_array(x))


def unit_of(value: Any) -> Any:
    """Return the unit of a quantity, as of astropy or pint; None for all else, dates included."""
    if type(value) is np.ndarray or isinstance(value, DATES):
        return None
    # An index of pandas tells the resolution of its dates so.
    if getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M"):
        return None
    unit = getattr(value, "units", None)
    return getattr(value, "unit", None) if unit is None else unit


def is_masked_or_matrix(value: Any) -> bool:
    """Return whether an array has a mask, which would be lost, or multiplies as a matrix.

    NumPy imports masked arrays when they are first asked for. Before that there are none, and a signal handler that
    interrupts the import must not ask.
    """
    masked = getattr(sys.modules.get("numpy.ma.core"), "MaskedArray", None)
    return isinstance(value, np.matrix) or (masked is not None and isinstance(value, masked))


def kind_of_number(value: Any) -> str:
    """Return NumPy's letter for the kind of a number, such as "b", "i", "f" or "c"; "V" if it is not known."""
    if isinstance(value, bool | np.bool_):
        return "b"
    # No union of these two: torch's compiler, which traces this, cannot make one.
    if isinstance(value, np.generic) or isinstance(value, np.ndarray):  # noqa: SIM101  (see above)
        return value.dtype.kind
    if isinstance(value, str | bytes):
        return "U"
    if hasattr(value, "dtype"):
        name = dtype_name(value)
        return "b" if name.startswith("bool") else "c" if name.startswith("complex") else "V"
    if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
        return "c"
    return "V"


def _is_recorded(x: Array) -> bool:
    """Return whether a tensor is an input of a graph that torch records, or wraps one and holds nothing."""
    import torch

    if torch.jit.is_tracing() or torch_says("_is_functional_tensor", x):
        return True
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")
    mode = None if proxies is None else proxies.get_proxy_mode()
    return mode is not None and x in mode.tracer.tensor_tracker


def is_plain_tensor(x: Array) -> bool:
    """Return whether a torch tensor is all that there is to it.

    It is then neither fake, conjugated nor negated, nor does torch write down what happens to it, follow its
    gradient forwards, or let somebody watch. What `torch.func` wraps says so only when its memory is asked for.
    """
    import torch

    if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.is_conj() or x.is_neg():
        return False
    watched = (
        torch.jit.is_tracing()
        or torch_says("_len_torch_dispatch_stack")
        or torch_says("_dispatch_tls_is_dispatch_key_included", "PreDispatch")
        or torch_says("_is_functional_tensor", x)
    )
    return not watched and torch.autograd.forward_ad.unpack_dual(x).tangent is None


def torch_says(name: str, *arguments: Any) -> bool:
    """Return what a function says that torch keeps to itself; False in a release that has none of the name."""
    import torch

    function = getattr(torch._C, name, None) or getattr(torch, name, None)
    return function is not None and bool(function(*arguments))


def is_mutable(x: Array) -> bool:
    """Return whether an array, and every view of it, can be written to.

    An MLX array takes assignments, but its slices are copies, so that writing to one would be lost.
    """
    if isinstance(x, np.ndarray) or is_bare(x):
        return True
    lazy = array_api_compat.is_lazy_array(x) and not array_api_compat.is_torch_array(x)
    return not (lazy or is_mlx_array(x)) and bool(array_api_compat.is_writeable_array(x))


def host_view(x: Array) -> HostArray | None:
    """Return an array in the host's memory as NumPy sees it, without a copy; None for others."""
    if isinstance(x, np.ndarray):
        return x
    return view_of_tensor(x) if array_api_compat.is_torch_array(x) else None


def view_of_tensor(x: Array) -> HostArray | None:
    """Return a torch tensor's memory as NumPy sees it, without a copy, or None where it has none here."""
    import torch

    # A functional tensor wraps another, and NumPy would read at no address.
    if x.device.type != "cpu" or torch_says("_is_functional_tensor", x):
        return None
    try:
        plain = x.detach()
        # What NumPy alone has no dtype for is seen as its bits.
        if plain.dtype == torch.bfloat16:
            plain = plain.view(torch.int16)
        elif plain.itemsize == 1:
            plain = plain.view(torch.int8)
        shown: HostArray = plain.numpy()
    except RuntimeError:
        return None  # inside a function transform, conjugate, or sparse
    return shown


def device_of(x: Array) -> Any:
    """Return the device of a torch tensor; None for others, which move arrays themselves or have one."""
    return x.device if array_api_compat.is_torch_array(x) else None


def arange(n: int, like: Array) -> Array:
    """Return 0 .. n - 1 in the library and on the device of another array."""
    xp = namespace(like)
    if array_api_compat.is_torch_array(like):
        return xp.arange(n, device=like.device)
    return xp.arange(n)


def from_host(table: HostArray, xp: Namespace, like: Array) -> Array:
    """Return a table in another library, as a view of the same memory where it has one."""
    if array_api_compat.is_torch_array(like):
        import torch

        return torch.from_numpy(table).to(like.device)
    if array_api_compat.is_jax_array(like) and not is_jax_tracer(like):
        import jax

        # What is bound to one device has its tables there; what may move, or is spread, elsewhere.
        own = list(like.devices()) if like.committed else []
        return jax.device_put(table, own[0] if len(own) == 1 else None, may_alias=True)
    if type(like).__module__.startswith("array_api_strict"):
        return xp.asarray(table, device=like.device)
    return xp.asarray(table)


def aligned(shape: tuple[int, ...], dtype: Any, alignment: int = ALIGNMENT) -> HostArray:
    """Return new memory that starts on a cache line, as other libraries want it for sharing."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    block = np.empty(nbytes + alignment, np.uint8)
    skip = -block.ctypes.data % alignment
    memory: HostArray = block[skip : skip + nbytes].view(dtype)
    return memory.reshape(shape)


def has_int64(x: Array) -> bool:
    """Return whether the library of an array has 64-bit integers: JAX does not by default."""
    if not array_api_compat.is_jax_array(x):
        return True
    import jax

    return bool(jax.config.jax_enable_x64)


def is_jax_tracer(x: Array) -> bool:
    """Return whether a JAX array is traced."""
    import jax

    return isinstance(x, jax.core.Tracer)


def check_precision(dtype: str, like: Array) -> None:
    """Raise where a library would silently make float32 of float64."""
    if dtype == "float64" and not has_int64(like):
        msg = "`dtype` must be 'float32' unless jax_enable_x64 is set, got 'float64'"
        raise ValueError(msg)


def widened(x: Array) -> Array:
    """Return positions whose values are not known here in a dtype that their sums do not leave.

    Integers become the library's widest, 16-bit floats float32.
    """
    xp = namespace(x)
    name = dtype_name(x)
    if name in ("float16", "bfloat16"):
        return xp.astype(x, xp.float32)
    if name == "int64":
        return x
    if "int" in name and has_int64(x):
        return xp.astype(x, xp.int64)
    return x if name in ("uint32", "float32", "float64") else xp.astype(x, xp.int32)


FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
# The size of a batch that is symbolic, as in an ONNX graph.
UNKNOWN = -1
