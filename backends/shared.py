"""CPU memory of other libraries: concrete arrays of torch and JAX, rotated by NumPy's kernels.

They are read where they lie, and what comes back is memory that NumPy allocated, seen by the caller's
library. Where nothing special goes on, whole calls are lent to NumPy, whose plans serve them. A torch tensor
that asks for a gradient goes through an autograd function whose backward is the transposed rotation. What
is traced, transformed or elsewhere shows no memory, and is left to the portable backend; so is MLX, whose
arrays do not tell whether a gradient is being traced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from threading import Thread
from types import NoneType
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from rotary._lib.libraries import (
    dtype_name,
    has_int64,
    is_jax_tracer,
    is_plain_tensor,
    view_of_tensor,
)
from rotary._lib.typing import Array, HostArray
from rotary.runtime.pool import empty

from . import portable
from .contract import Axes, Pairing, Table
from .cpu.host import host

# Whether `rotate` takes a recipe and puts the work off.
LAZY = False
# What says positions and belongs to no library.
KNOWN = (NoneType, int, float, list, tuple, np.ndarray, np.generic)
# Bytes that JAX copies in less time than it takes them over.
COPIED = 128 * 1024


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
# Whole calls.


class Lent(NamedTuple):
    """A call as NumPy sees it, and what makes the caller's of its results.

    There are outputs where the caller has given some, or where his library takes over only memory that starts
    on a cache line.
    """

    arrays: tuple[HostArray, ...]
    positions: Any
    offset: Any
    out: tuple[HostArray, ...] | None
    give_back: Callable[[Sequence[HostArray]], Sequence[Array]]


def lent(arrays: Sequence[Array], positions: Any, offset: Any, out: Any) -> Lent | None:
    """Return a call of ordinary CPU arrays of torch or JAX as NumPy sees it; None for every other call.

    So a single token, whose rotation takes less time than asking anything twice, is served by a plan.
    """
    if host() is portable:
        return None
    torch = sys.modules.get("torch")
    if torch is not None and type(arrays[0]) in (torch.Tensor, torch.nn.Parameter):
        return _lent_by_torch(arrays, positions, offset, out)
    if out is None and array_api_compat.is_jax_array(arrays[0]):
        return _lent_by_jax(arrays, positions, offset)
    return None


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
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Array) -> None:  # noqa: ARG004  (torch calls it so)
            ctx.call = inputs[2:]

        @staticmethod
        def backward(ctx: Any, gradient: Array) -> tuple[Array, None, None, None, None]:
            table, axes, pairing = ctx.call
            return rotate(gradient, table, axes, pairing.transposed()), None, None, None, None

    return Rotation


def _memory_of_torch(x: Array) -> HostArray | None:
    """Return a tensor's memory as NumPy sees it, or None where it is not all there is to the tensor."""
    import torch

    memory = view_of_tensor(x) if is_plain_tensor(x) else None
    if memory is None or x.dtype != torch.bfloat16:
        return memory
    bfloat16 = _bfloat16()
    return None if bfloat16 is None else memory.view(bfloat16)


def _as_torch(memory: HostArray) -> Array:
    """Return memory as a tensor."""
    import torch

    if memory.dtype == _bfloat16():
        return torch.from_numpy(memory.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(memory)


class _Ordinary(NamedTuple):
    """What torch says of tensors and threads where nothing special goes on: sets of dispatch keys, as numbers.

    Whatever wraps a tensor, or records, transforms or watches operations, adds a key of its own.
    """

    tensors: frozenset[int]
    threads: frozenset[int]


@cache
def _ordinary() -> _Ordinary:
    """Return what is ordinary, found in a thread where nothing has been switched on."""
    import torch

    tensors: set[int] = set()
    threads: set[int] = set()

    def look() -> None:
        with suppress(AttributeError):  # torch keeps these to itself
            for inference in (False, True):
                with torch.inference_mode(inference):
                    x = torch.empty(0, device="cpu")
                    tensors.add(torch._C._dispatch_keys(x).raw_repr())
                    threads.add(torch._C._dispatch_tls_local_include_set().raw_repr())

    thread = Thread(target=look)
    thread.start()
    thread.join()
    return _Ordinary(frozenset(tensors), frozenset(threads))


def is_ordinary_thread() -> bool:
    """Return whether torch neither records, transforms nor watches operations here and now."""
    import torch

    threads = _ordinary().threads
    return bool(threads) and torch._C._dispatch_tls_local_include_set().raw_repr() in threads


def view_of_ordinary(x: Any) -> HostArray | None:
    """Return a tensor's memory as NumPy sees it; None unless that is all there is to the tensor.

    It is then of no subclass, dense, on the CPU, not conjugated, and no gradient of it is asked for in either
    direction. Only for an ordinary thread.
    """
    import torch

    if (
        type(x) not in (torch.Tensor, torch.nn.Parameter)
        or torch._C._dispatch_keys(x).raw_repr() not in _ordinary().tensors
        or (x.requires_grad and torch.is_grad_enabled())
        or torch.autograd.forward_ad.unpack_dual(x).tangent is not None
    ):
        return None
    plain = x.detach() if x.requires_grad else x
    return _seen(plain)


def _seen(x: Array) -> HostArray | None:
    """Return the memory of a tensor that has some, with the tensor's dtype, or None where NumPy has no such."""
    import torch

    if x.dtype is not torch.bfloat16:
        view: HostArray = x.numpy()
        return view
    bfloat16 = _bfloat16()
    return None if bfloat16 is None else x.view(torch.int16).numpy().view(bfloat16)


@cache
def _bfloat16() -> Any:
    """Return NumPy's bfloat16, or None where nobody has given it one."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)


def _lent_by_torch(arrays: Sequence[Array], positions: Any, offset: Any, out: Any) -> Lent | None:
    """Return a call of ordinary tensors as NumPy sees it, or None."""
    outputs = () if out is None else tuple(out) if isinstance(out, tuple | list) else (out,)
    places = [each for each in (positions, offset) if not isinstance(each, KNOWN)]
    if not is_ordinary_thread():
        return None
    # By identity, for an array that is its own output must stay so.
    views: dict[int, HostArray] = {}
    for x in (*arrays, *outputs, *places):
        view = view_of_ordinary(x)
        if view is None:
            return None
        views[id(x)] = view
    return Lent(
        tuple([views[id(x)] for x in arrays]),
        views.get(id(positions), positions),
        views.get(id(offset), offset),
        tuple([views[id(x)] for x in outputs]) if outputs else None,
        partial(_written, outputs) if outputs else _as_tensors,
    )


def _as_tensors(results: Sequence[HostArray]) -> Sequence[Array]:
    """Return memory as tensors."""
    return [_as_torch(result) for result in results]


def _written(outputs: Sequence[Array], _: Sequence[HostArray]) -> Sequence[Array]:
    """Return outputs that were written to, which autograd has to know."""
    import torch

    for output in outputs:
        torch.autograd.graph.increment_version(output)
    return outputs


# ------------------------------------------------------------------------------------------------
# JAX.


def _memory_of_jax(x: Array) -> HostArray | None:
    """Return a JAX array's memory, or None where it is traced, spread over devices or elsewhere."""
    if is_jax_tracer(x):
        return None
    devices = list(x.devices())
    if len(devices) != 1 or devices[0].platform != "cpu":
        return None
    if dtype_name(x) in ("float64", "complex128") and not has_int64(x):
        return None  # what comes back would silently be narrower
    return np.asarray(x)


def _lent_by_jax(arrays: Sequence[Array], positions: Any, offset: Any) -> Lent | None:
    """Return a call of concrete CPU arrays as NumPy sees it, or None."""
    places = [each for each in (positions, offset) if not isinstance(each, KNOWN)]
    views: dict[int, HostArray] = {}
    for x in (*arrays, *places):
        view = _memory_of_jax(x) if array_api_compat.is_jax_array(x) else None
        if view is None:
            return None
        views[id(x)] = view
    own = tuple([views[id(x)] for x in arrays])
    large = max(view.nbytes for view in own) > COPIED
    return Lent(
        own,
        views.get(id(positions), positions),
        views.get(id(offset), offset),
        tuple([empty(view.shape, view.dtype) for view in own]) if large else None,
        partial(_as_jax_like, arrays),
    )


def _as_jax_like(arrays: Sequence[Array], results: Sequence[HostArray]) -> Sequence[Array]:
    """Return memory as JAX arrays, each where one of others is bound to, or free to move as that one is."""
    return [_as_jax(result, x) for result, x in zip(results, arrays, strict=True)]


def _as_jax(memory: HostArray, like: Array) -> Array:
    """Return memory as a JAX array where another one is bound to, or free to move as that one is."""
    import jax

    if memory.nbytes <= COPIED and not like.committed:
        return jax.numpy.asarray(memory)  # a copy, made in less time than memory is taken over
    return jax.device_put(memory, like.sharding if like.committed else None, may_alias=True)
