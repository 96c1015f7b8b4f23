"""What array libraries have in common and how they differ, without importing any of them."""

from __future__ import annotations

import datetime as dt
import math
import numbers
import sys
from collections.abc import Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

import array_api_compat
import numpy as np

from .memo import remembered
from .typing import Array, HostArray, Namespace

ALIGNMENT = 64
# Types of dates and durations in an array of objects. `datetime.datetime` is a subclass of `datetime.date`.
DATES = (dt.date, dt.timedelta, np.datetime64, np.timedelta64)
# The dtypes of arrays that can be rotated, by NumPy's names.
DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})


def is_mlx_array(x: Any) -> bool:
    """Return whether x is an MLX array, without importing MLX."""
    mlx = sys.modules.get("mlx.core")
    return mlx is not None and isinstance(x, mlx.array)


def is_dask_array(x: Any) -> bool:
    """Return whether x is a dask array."""
    return bool(array_api_compat.is_dask_array(x))


def is_sparse(x: Any) -> bool:
    """Return whether x is a sparse array, of torch or of PyData's sparse."""
    if array_api_compat.is_torch_array(x):
        return str(x.layout) != "torch.strided"
    return bool(array_api_compat.is_pydata_sparse_array(x))


def kind_of_sparse(x: Any) -> str:
    """Return the name of a kind of sparse array, for error messages."""
    return f"layout {x.layout}" if hasattr(x, "layout") else type(x).__name__


def is_array(x: Any) -> bool:
    """Return whether x is an array of a library, or raw GPU memory with `__cuda_array_interface__`."""
    return bool(array_api_compat.is_array_api_obj(x)) or is_mlx_array(x) or is_raw_gpu_memory(x)


def is_raw_gpu_memory(x: Any) -> bool:
    """Return whether x is raw GPU memory, not an array of a library."""
    has_interface = hasattr(type(x), "__cuda_array_interface__") and hasattr(x, "dtype")
    return has_interface and not array_api_compat.is_array_api_obj(x)


def namespace(*arrays: Any) -> Namespace:
    """Return the array-API namespace of arrays. MLX has none, so `_mlx_namespace` makes one.

    Raises
    ------
    TypeError
        If the arrays are of different libraries, or of no array library.
    """
    if any(is_mlx_array(x) for x in arrays):
        return _mlx_namespace()
    return array_api_compat.array_namespace(*arrays)


@cache
def _mlx_namespace() -> Namespace:
    """Return a namespace of MLX with the functions that the portable backend needs."""
    import mlx.core as mx

    names = (
        "abs arange clip cos exp isfinite max ones_like round sin sqrt reshape stack sum where zeros_like float32 "
        "float64 int32 int64 uint32 real imag floor"
    )
    return SimpleNamespace(
        **{name: getattr(mx, name) for name in names.split() if hasattr(mx, name)},
        asarray=lambda x, dtype=None: mx.array(x, dtype or _mlx_dtype(x.dtype)),
        astype=lambda x, dtype: x.astype(dtype),
        concat=mx.concatenate,
        permute_dims=mx.transpose,
    )


def _mlx_dtype(dtype: Any) -> Any:
    """Return the MLX dtype that corresponds to a NumPy dtype."""
    import mlx.core as mx

    return mx.bool_ if dtype.kind == "b" else getattr(mx, dtype.name)


def dtype_name(x: Array) -> str:
    """Return NumPy's name of the dtype of an array of any library."""
    return name_of_dtype(x.dtype)


# Typed, because dtypes of some libraries warn when they are compared with dtypes of another library.
@remembered(256, typed=True)
def name_of_dtype(dtype: Any) -> str:
    """Return NumPy's name of a dtype: a dtype object of any library, a scalar type or a name."""
    if isinstance(dtype, type):
        dtype = np.dtype(dtype)
    return str(getattr(dtype, "name", dtype)).rsplit(".", 1)[-1].lower()


def to_host(value: Any) -> HostArray | None:
    """Return an array of positions as a NumPy array, or None if its values are not known on the host.

    Values are not known for traced and lazy arrays, and for arrays that require a gradient. Arrays on
    another device are not read, because reading would wait for the device.
    """
    if isinstance(value, np.ndarray):
        return value
    if array_api_compat.is_dask_array(value) or array_api_compat.is_ndonnx_array(value):
        return None
    if array_api_compat.is_torch_array(value):
        import torch

        # A fake tensor is of a subclass and has no values.
        is_real = type(value) in (torch.Tensor, torch.nn.Parameter)
        if not is_real or value.requires_grad or value.device.type != "cpu" or _is_traced(value):
            return None
        if dtype_name(value) == "bfloat16":
            value = value.float()  # exact; NumPy has no bfloat16
        try:
            return np.asarray(value.numpy())
        except (RuntimeError, TypeError):
            return None  # inside a function transform, or sparse
    if array_api_compat.is_jax_array(value):
        on_host = not is_jax_tracer(value) and all(d.platform == "cpu" for d in value.devices())
        return np.asarray(value) if on_host else None
    if is_mlx_array(value):
        import mlx.core as mx

        if dtype_name(value) == "bfloat16":
            value = value.astype(mx.float32)
        try:
            return np.array(value)
        except (RuntimeError, ValueError):
            return None  # inside a function transform
    if is_raw_gpu_memory(value):
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
    """Return the unit of a quantity of astropy or pint; None for other values, dates included."""
    if type(value) is np.ndarray or isinstance(value, DATES):
        return None
    # The attribute `unit` of a pandas index is the resolution of its dates.
    if getattr(getattr(value, "dtype", None), "kind", None) in ("m", "M"):
        return None
    unit = getattr(value, "units", None)
    return getattr(value, "unit", None) if unit is None else unit


def is_masked_or_matrix(value: Any) -> bool:
    """Return whether a value is a masked array, whose mask would be lost, or a `numpy.matrix`.

    If `numpy.ma` has not been imported, there are no masked arrays. It is not imported here, because a signal
    handler may run this function in the middle of that import.
    """
    masked = getattr(sys.modules.get("numpy.ma.core"), "MaskedArray", None)
    return isinstance(value, np.matrix) or (masked is not None and isinstance(value, masked))


def kind_of_number(value: Any) -> str:
    """Return NumPy's letter for the kind of a number, such as "b", "i", "f" or "c"; "V" if it is not known."""
    if isinstance(value, bool | np.bool_):
        return "b"
    # Two calls, because `torch.compile` traces this function and cannot make a union type.
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


def _is_traced(x: Array) -> bool:
    """Return whether torch is tracing a tensor, or the tensor is a wrapper without memory."""
    import torch

    if torch.jit.is_tracing() or call_torch_private("_is_functional_tensor", x):
        return True
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")
    mode = None if proxies is None else proxies.get_proxy_mode()
    return mode is not None and x in mode.tracer.tensor_tracker


def is_ordinary_tensor(x: Array) -> bool:
    """Return whether a tensor has ordinary memory and no transform of torch is active on it.

    An ordinary tensor is not fake, lazily conjugated, lazily negated or traced. It has no forward-mode gradient,
    and no dispatch mode is active. Wrappers of `torch.func` are not detected.
    """
    import torch

    if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.is_conj() or x.is_neg():
        return False
    is_traced = (
        torch.jit.is_tracing()
        or call_torch_private("_len_torch_dispatch_stack")
        or call_torch_private("_dispatch_tls_is_dispatch_key_included", "PreDispatch")
        or call_torch_private("_is_functional_tensor", x)
    )
    return not is_traced and torch.autograd.forward_ad.unpack_dual(x).tangent is None


def key_of_eager(arrays: Iterable[Any]) -> tuple[Any, ...] | None:
    """Return the class, shape and dtype of NumPy, torch and JAX arrays as a key, with strides for NumPy arrays.

    Return None if an array is traced, sparse or of another library.
    """
    key: list[Any] = []
    for x in arrays:
        if type(x) is np.ndarray:
            key += x.shape, x.strides, x.dtype
        elif array_api_compat.is_torch_array(x):
            import torch

            if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.layout != torch.strided:
                return None
            key += type(x), tuple(x.shape), x.dtype
        elif array_api_compat.is_jax_array(x):
            import jax

            if isinstance(x, jax.core.Tracer):
                return None
            key += type(x), x.shape, x.dtype
        else:
            return None
    return tuple(key)


def call_torch_private(name: str, *arguments: Any) -> bool:
    """Return the result of a private function of torch; False if this release of torch lacks the function."""
    import torch

    function = getattr(torch._C, name, None) or getattr(torch, name, None)
    return function is not None and bool(function(*arguments))


def is_mutable(x: Array) -> bool:
    """Return whether writes to an array and to its views are kept.

    An MLX array can be assigned to, but its slices are copies, so a write to a slice would be lost.
    """
    if isinstance(x, np.ndarray) or is_raw_gpu_memory(x):
        return True
    lazy = array_api_compat.is_lazy_array(x) and not array_api_compat.is_torch_array(x)
    return not (lazy or is_mlx_array(x)) and bool(array_api_compat.is_writeable_array(x))


def host_view(x: Array) -> HostArray | None:
    """Return a NumPy view of a NumPy array or torch tensor in host memory; None for other arrays."""
    if isinstance(x, np.ndarray):
        return x
    return view_of_tensor(x) if array_api_compat.is_torch_array(x) else None


def view_of_tensor(x: Array) -> HostArray | None:
    """Return a NumPy view of a torch tensor; None if the tensor has no host memory."""
    import torch

    # A functional tensor is a wrapper without memory.
    if x.device.type != "cpu" or call_torch_private("_is_functional_tensor", x):
        return None
    try:
        plain = x.detach()
        # NumPy has no bfloat16 and no float8, so the view has an integer dtype of the same size.
        if plain.dtype == torch.bfloat16:
            plain = plain.view(torch.int16)
        elif plain.itemsize == 1:
            plain = plain.view(torch.int8)
        view: HostArray = plain.numpy()
    except RuntimeError:
        return None  # inside a function transform, conjugate, or sparse
    return view


def device_of(x: Array) -> Any:
    """Return the device of a torch tensor; None for other libraries, because they need no explicit device."""
    return x.device if array_api_compat.is_torch_array(x) else None


def arange(n: int, like: Array) -> Array:
    """Return 0 .. n - 1 as an array in the library and on the device of `like`."""
    xp = namespace(like)
    if array_api_compat.is_torch_array(like):
        return xp.arange(n, device=like.device)
    return xp.arange(n)


def from_host(table: HostArray, xp: Namespace, like: Array) -> Array:
    """Return a table as an array of the library of `like`, as a view if that library can alias NumPy memory."""
    if array_api_compat.is_torch_array(like):
        import torch

        return torch.from_numpy(table).to(like.device)
    if array_api_compat.is_jax_array(like):
        import jax

        if isinstance(like, jax.core.Tracer):
            return xp.asarray(table)
        # The table must be on the device of `like` only if `like` is committed to one device.
        devices = list(like.devices()) if like.committed else []
        return jax.device_put(table, devices[0] if len(devices) == 1 else None, may_alias=True)
    if type(like).__module__.startswith("array_api_strict"):
        return xp.asarray(table, device=like.device)
    return xp.asarray(table)


def aligned(shape: tuple[int, ...], dtype: Any, alignment: int = ALIGNMENT) -> HostArray:
    """Return new memory that starts on a cache line, because some libraries can only alias aligned memory."""
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


def has_float64(x: Array) -> bool:
    """Return whether the library of an array computes in float64 wherever its arrays are."""
    return has_int64(x) and not is_mlx_array(x)


def widest_float(x: Array) -> str:
    """Return the name of the most exact floating dtype that an array of this library and device may have."""
    if is_mlx_array(x) or not has_int64(x):
        return "float32"
    device = getattr(device_of(x), "type", None)
    return "float32" if device == "mps" else "float64"


def is_jax_tracer(x: Array) -> bool:
    """Return whether a JAX array is traced."""
    import jax

    return isinstance(x, jax.core.Tracer)


def check_precision(dtype: str, like: Array) -> None:
    """Raise if a library would silently convert float64 to float32."""
    if dtype == "float64" and not has_int64(like):
        msg = "`dtype` must be 'float32' unless jax_enable_x64 is set, got 'float64'"
        raise ValueError(msg)


def widen(x: Array) -> Array:
    """Return traced positions in a dtype that is wide enough for sums.

    Integers are converted to the widest integer dtype of the library, and 16-bit floats to float32.
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
# Represents the size of a symbolic batch, as in an ONNX graph.
UNKNOWN = -1
