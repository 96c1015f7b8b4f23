"""CPU memory of other libraries: concrete arrays of torch and JAX, rotated by NumPy's kernels.

They are read where they lie, and what comes back is memory that NumPy allocated, seen by the caller's
library. A torch tensor that asks for a gradient goes through an autograd function whose backward is the
transposed rotation. What is traced, transformed or elsewhere shows no memory, and is left to the portable
backend; so is MLX, whose arrays do not tell whether a gradient is being traced.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import array_api_compat
import numpy as np

from rotary._libraries import dtype_name, has_int64, torch_says, view_of_tensor
from rotary._typing import Array, HostArray
from rotary.pool import empty
from rotary.rotation import Axes, Pairing, Table

from . import portable
from .host import host

# Whether `rotate` takes a recipe and puts the work off.
LAZY = False


def rotate(x: Array, table: Table, axes: Axes, pairing: Pairing, out: Array | None = None) -> Array:
    """Return x rotated, in an array of its own library, or in `out`."""
    if host() is portable:
        return portable.rotate(x, table, axes, pairing, out)
    if array_api_compat.is_torch_array(x):
        return _of_torch(x, table, axes, pairing, out)
    source = _memory_of_jax(x)
    if source is None:
        return portable.rotate(x, table, axes, pairing, out)
    return _as_jax(_rotated(source, table, axes, pairing), x)


def _rotated(source: HostArray, table: Table, axes: Axes, pairing: Pairing) -> HostArray:
    """Return an array rotated, in memory that another library can take as its own."""
    target = empty(source.shape, source.dtype)
    result: HostArray = host().rotate(source, table, axes, pairing, target)
    return result


# ------------------------------------------------------------------------------------------------
# torch.


def _of_torch(x: Array, table: Table, axes: Axes, pairing: Pairing, out: Array | None) -> Array:
    """Return a tensor rotated, or written to `out`."""
    import torch

    differentiable = torch.is_grad_enabled() and (
        x.requires_grad or (out is not None and out.requires_grad)
    )
    source = _memory_of_torch(x)
    target = source if out is x or out is None else _memory_of_torch(out)
    # Of what is written to, autograd must know how it came to be: only torch's own operations tell it.
    if source is None or target is None or (differentiable and out is not None):
        return portable.rotate(x, table, axes, pairing, out)
    if differentiable:
        return _autograd_function().apply(x, source, table, axes, pairing)
    if out is None:
        return _as_torch(_rotated(source, table, axes, pairing))
    host().rotate(source, table, axes, pairing, target)
    torch.autograd.graph.increment_version(out)
    return out


@cache
def _autograd_function() -> Any:
    """Return the rotation as torch differentiates it: linear, so that its backward is its transpose."""
    import torch

    class Rotation(torch.autograd.Function):  # type: ignore[misc]  # torch is not read here
        @staticmethod
        def forward(
            x: Array,  # noqa: ARG004  (what autograd differentiates by; its memory is `source`)
            source: HostArray,
            table: Table,
            axes: Axes,
            pairing: Pairing,
        ) -> Array:
            return _as_torch(_rotated(source, table, axes, pairing))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Array) -> None:  # noqa: ARG004
            ctx.call = inputs[2:]

        @staticmethod
        def backward(ctx: Any, gradient: Array) -> tuple[Array, None, None, None, None]:
            table, axes, pairing = ctx.call
            return rotate(gradient, table, axes, pairing.transposed()), None, None, None, None

    return Rotation


def _memory_of_torch(x: Array) -> HostArray | None:
    """Return a tensor's memory as NumPy sees it, or None where it is not all there is to the tensor."""
    import torch

    plain = type(x) in (torch.Tensor, torch.nn.Parameter)
    if not plain or _is_recording():
        return None
    if torch.autograd.forward_ad.unpack_dual(x).tangent is not None:
        return None
    memory = view_of_tensor(x)
    if memory is None or x.dtype != torch.bfloat16:
        return memory
    try:
        import ml_dtypes
    except ImportError:
        return None
    seen: HostArray = memory.view(ml_dtypes.bfloat16)
    return seen


def _is_recording() -> bool:
    """Return whether torch writes down, or a dispatch mode sees, every operation that runs now."""
    import torch

    return (
        torch.jit.is_tracing()
        or torch_says("_len_torch_dispatch_stack")
        or torch_says("_dispatch_tls_is_dispatch_key_included", "PreDispatch")
    )


def _as_torch(memory: HostArray) -> Array:
    """Return memory as a tensor."""
    import torch

    if memory.dtype.name == "bfloat16":
        return torch.from_numpy(memory.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(memory)


# ------------------------------------------------------------------------------------------------
# JAX.


def _memory_of_jax(x: Array) -> HostArray | None:
    """Return a JAX array's memory, or None where it is traced, spread over devices or elsewhere."""
    import jax

    if isinstance(x, jax.core.Tracer):
        return None
    devices = list(x.devices())
    if len(devices) != 1 or devices[0].platform != "cpu":
        return None
    if dtype_name(x) in ("float64", "complex128") and not has_int64(x):
        return None  # what comes back would silently be narrower
    return np.asarray(x)


def _as_jax(memory: HostArray, like: Array) -> Array:
    """Return memory as a JAX array where another one is bound to, or free to move as that one is."""
    import jax

    return jax.device_put(memory, like.sharding if like.committed else None, may_alias=True)
