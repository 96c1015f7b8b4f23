"""Rotate torch tensors in host memory by NumPy plans, without a copy of the input.

Results are tensors on memory that NumPy allocated. Tensors that require gradients go through an autograd function
whose backward pass is the transposed rotation. Tensors that are traced, transformed or on another device have no host
memory. torch operations rotate them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cache, partial
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from rotary._lib.libraries import is_ordinary_tensor, view_of_tensor
from rotary._lib.typing import Array, HostArray
from rotary.runtime.pool import empty

from . import autograd, portable
from .autograd import LEARNED, Differentiation
from .contract import HOST_POSITION_TYPES, Axes, Gradients, Pairing, PositionArgs, Table
from .cpu.host import host

# Whether `rotate` takes a `DeferredTable` and defers the work.
DEFERS = False
# Norms are left to the library's own operations, which it differentiates.
normed = portable.normed


# ------------------------------------------------------------------------------------------------
# Whole calls.


def rotate_all(
    arrays: Sequence[Array],
    where: PositionArgs,
    outputs: Sequence[Array] | None,
    on_host: Callable[..., Sequence[HostArray]],
    back: Callable[[Sequence[Array | None], PositionArgs], Sequence[Array | None]],
    differentiation: Callable[[], Differentiation | None] | None = None,
) -> Sequence[Array] | None:
    """Return ordinary CPU tensors rotated; None, nothing being changed, for other arrays.

    Parameters
    ----------
    arrays, outputs : sequence of array
    where : tuple
        The position arguments of the call.
    on_host : callable
        Rotates NumPy arrays, given also position arguments and outputs.
    back : callable
        Returns the gradients of the arrays, given those of the results and position arguments; None for a result
        that was not used.
    differentiation : callable
        Returns how to compute gradients by positions and frequencies, None if only torch's own operations have them.
    """
    import torch

    if not is_ordinary_thread():
        return None
    places = [each for each in where if not isinstance(each, HOST_POSITION_TYPES)]
    recorded = torch.is_grad_enabled() and any(
        x.requires_grad for x in (*arrays, *(outputs or ())) if isinstance(x, torch.Tensor)
    )
    # Of what is written to, autograd must know how it came to be: only torch's own operations tell it.
    if recorded and outputs is not None:
        return None
    learns = torch.is_grad_enabled() and any(
        isinstance(where[place], torch.Tensor) and where[place].requires_grad for place in LEARNED
    )
    learned = differentiation() if learns and differentiation is not None else None
    if learns and (outputs is not None or learned is None):
        return None
    # Views are kept by identity, so that an array that is its own output has one view.
    views: dict[int, HostArray] = {}
    for x in (*arrays, *(outputs or ())):
        view = view_of_ordinary(x, recorded=recorded)
        if view is None:
            return None
        views[id(x)] = view
    for x in places:
        may_learn = any(x is where[place] for place in LEARNED)
        view = view_of_ordinary(x, recorded=learns and may_learn)
        if view is None:
            return None
        views[id(x)] = view
    own = [views[id(x)] for x in arrays]
    known = tuple([views.get(id(each), each) for each in where])
    if outputs is not None:
        on_host(own, known, [views[id(x)] for x in outputs])
        for output in outputs:
            torch.autograd.graph.increment_version(output)
        return outputs
    results = [as_torch(y) for y in on_host(own, known, None)]
    if not recorded and not learns:
        return results
    kept = kept_for_backward(known)
    if learned is not None:
        memory = view_of_ordinary, as_torch
        return autograd.differentiable(arrays, results, where, kept, learned, memory)
    return differentiable(arrays, results, back, kept)


def gradients(
    arrays: Sequence[Array],
    where: PositionArgs,
    outputs: Sequence[Array] | None,
    on_host: Callable[..., Gradients],
) -> Gradients | None:
    """Return the gradients of ordinary CPU tensors; None, nothing being changed, for other arrays."""
    import torch

    if not is_ordinary_thread():
        return None
    views: dict[int, HostArray] = {}
    for x in (
        *arrays,
        *(outputs or ()),
        *(each for each in where if not isinstance(each, HOST_POSITION_TYPES)),
    ):
        view = view_of_ordinary(x)
        if view is None:
            return None
        views[id(x)] = view
    own = [views[id(x)] for x in arrays]
    known = tuple([views.get(id(each), each) for each in where])
    targets = None if outputs is None else [views[id(x)] for x in outputs]
    found = on_host(own, known, targets)
    results: Sequence[Array] | None = outputs
    for output in outputs or ():
        torch.autograd.graph.increment_version(output)
    if outputs is None and found.arrays is not None:
        results = [as_torch(each) for each in found.arrays]
    positions, inv_freq = (None if each is None else torch.from_numpy(each) for each in found[1:])
    return Gradients(results, positions, inv_freq)


def norm_all(
    arrays: Sequence[Array],
    weights: Sequence[Array],
    where: PositionArgs,
    outputs: Sequence[Array] | None,
    on_host: Callable[..., Sequence[HostArray]],
    back: Callable[..., tuple[Sequence[Array], Sequence[Array]]],
) -> Sequence[Array] | None:
    """Return ordinary CPU tensors normed and rotated; None, nothing being changed, for other arrays.

    Parameters
    ----------
    arrays, outputs : sequence of array
    weights : sequence of array
        Tensors, or arrays of NumPy.
    where : tuple
        The position arguments of the call.
    on_host : callable
        Norms and rotates NumPy arrays, given also position arguments, which the weights follow, and outputs.
    back : callable
        Returns the gradients by arrays and by weights, given those of the results, arrays, and position arguments,
        which the weights follow.
    """
    import torch

    tensors = [x for x in (*arrays, *weights) if isinstance(x, torch.Tensor)]
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
        return rotate_all(arrays, (*where, *weights), outputs, on_host, back)
    # Of what is written to, autograd must know how it came to be: only torch's own operations tell it.
    if outputs is not None or not is_ordinary_thread():
        return None
    given = (*arrays, *where, *weights)
    seen = [
        x
        if isinstance(x, HOST_POSITION_TYPES)
        else view_of_ordinary(x, recorded=any(x is each for each in tensors))
        for x in given
    ]
    if any(view is None and x is not None for view, x in zip(seen, given, strict=True)):
        return None
    count = len(arrays)
    results = [as_torch(y) for y in on_host(seen[:count], tuple(seen[count:]), None)]
    last = count + len(where)
    kept = kept_for_backward(tuple(seen[count:last]))
    normed: tuple[Array, ...] = _norm_function().apply(
        lambda: tuple(results), back, kept, _constants(weights), *tensors
    )
    return normed


# ------------------------------------------------------------------------------------------------
# One array.


def rotate(x: Array, table: Table, axes: Axes, pairing: Pairing, out: Array | None = None) -> Array:
    """Return a tensor rotated, or written to `out`."""
    import torch

    if host() is portable:
        return portable.rotate(x, table, axes, pairing, out)
    recorded = torch.is_grad_enabled() and (
        x.requires_grad or (out is not None and out.requires_grad)
    )
    source = _memory(x)
    target = source if out is x or out is None else _memory(out)
    # Of what is written to, autograd must know how it came to be: only torch's own operations tell it.
    if source is None or target is None or (recorded and out is not None):
        return portable.rotate(x, table, axes, pairing, out)
    if out is not None:
        host().rotate(source, table, axes, pairing, target)
        torch.autograd.graph.increment_version(out)
        return out
    result = as_torch(
        host().rotate(source, table, axes, pairing, empty(source.shape, source.dtype))
    )
    if not recorded:
        return result
    back = partial(_rotated_back, table, axes, pairing.transposed())
    return differentiable([x], [result], back)[0]


def _rotated_back(
    table: Table, axes: Axes, pairing: Pairing, gradients: Sequence[Array], _: Any
) -> list[Array]:
    """Return the gradient of the one tensor of a call."""
    return [rotate(gradient, table, axes, pairing) for gradient in gradients]


# ------------------------------------------------------------------------------------------------
# Gradients.


def kept_for_backward(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments by value: the caller may write to arrays and lists before the gradient is computed."""
    return tuple(
        [
            deepcopy(each) if isinstance(each, list | tuple | np.ndarray) else each
            for each in arguments
        ]
    )


def differentiable(
    arrays: Sequence[Array],
    results: Sequence[Array],
    back: Callable[[Sequence[Array | None], PositionArgs], Sequence[Array | None]],
    positions: PositionArgs = (),
) -> tuple[Array, ...]:
    """Return the rotation of tensors as torch differentiates it, with one backward pass for all of them.

    Parameters
    ----------
    arrays, results : sequence of tensor
        What was rotated, and what it became.
    back : callable
        Returns the gradients of the arrays, given those of the results and the positions; None for a result that
        was not used. The rotation is linear, so this is its transpose.
    positions : tuple
        What `back` is given, by value. torch raises if a tensor among them is written to before the gradient is
        computed.
    """
    # As an argument, a result would be a view for torch, and refuse to be written to.
    rotated: tuple[Array, ...] = _autograd_function().apply(
        lambda: tuple(results), back, positions, *arrays
    )
    return rotated


@cache
def _autograd_function() -> Any:
    """Return the class, made once torch is imported."""
    import torch

    class Rotation(torch.autograd.Function):  # type: ignore[misc]  # torch is not read here
        @staticmethod
        def forward(
            results: Callable[[], tuple[Array, ...]],
            back: Any,  # noqa: ARG004  (`setup_context` reads it)
            positions: Any,  # noqa: ARG004  (`setup_context` reads it)
            *arrays: Array,  # noqa: ARG004  (what autograd differentiates by)
        ) -> tuple[Array, ...]:
            return results()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, ...]) -> None:
            _, ctx.back, ctx.positions, *_ = inputs
            ctx.set_materialize_grads(False)  # a result that was not used costs nothing
            ctx.save_for_backward(*[x for x in ctx.positions if isinstance(x, torch.Tensor)])
            asks = ctx.needs_input_grad[3:]
            ctx.mark_non_differentiable(
                *[y for y, each in zip(output, asks, strict=True) if not each]
            )

        @staticmethod
        def backward(ctx: Any, *gradients: Array) -> tuple[Any, ...]:
            _ = ctx.saved_tensors  # which raises for a tensor that was written to
            return None, None, None, *ctx.back(gradients, ctx.positions)

    return Rotation


def _constants(weights: Sequence[Array]) -> tuple[HostArray | None, ...]:
    """Return copies of the weights that are no tensors, None for those that are."""
    return tuple(np.array(each) if isinstance(each, np.ndarray) else None for each in weights)


@cache
def _norm_function() -> Any:
    """Return the class of normed and rotated tensors, made once torch is imported."""
    import torch

    class NormedRotation(torch.autograd.Function):  # type: ignore[misc]  # torch is not read here
        @staticmethod
        def forward(
            results: Callable[[], tuple[Array, ...]],
            back: Any,  # noqa: ARG004  (`setup_context` reads it)
            where: Any,  # noqa: ARG004  (the same)
            constants: Any,  # noqa: ARG004  (the same)
            *tensors: Array,  # noqa: ARG004  (what autograd differentiates by)
        ) -> tuple[Array, ...]:
            return results()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, ...]) -> None:
            _, ctx.back, ctx.where, ctx.constants, *tensors = inputs
            ctx.count = len(output)
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx: Any, *gradients: Array) -> tuple[Any, ...]:
            arrays, others = ctx.saved_tensors[: ctx.count], iter(ctx.saved_tensors[ctx.count :])
            weights = [next(others) if each is None else each for each in ctx.constants]
            by_array, by_weight = ctx.back(gradients, arrays, (*ctx.where, *weights))
            learned = [
                found.to(weight.dtype)
                for found, weight in zip(by_weight, weights, strict=True)
                if isinstance(weight, torch.Tensor)
            ]
            return None, None, None, None, *by_array, *learned

    return NormedRotation


# ------------------------------------------------------------------------------------------------
# Memory.


def _memory(x: Array) -> HostArray | None:
    """Return a NumPy view of a tensor, or None if its memory does not hold all of the tensor's state."""
    import torch

    memory = view_of_tensor(x) if is_ordinary_tensor(x) else None
    if memory is None or x.dtype != torch.bfloat16:
        return memory
    bfloat16 = _bfloat16()
    return None if bfloat16 is None else memory.view(bfloat16)


def as_torch(memory: HostArray) -> Array:
    """Return memory as a tensor."""
    import torch

    if memory.dtype == _bfloat16():
        return torch.from_numpy(memory.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(memory)


class _Ordinary(NamedTuple):
    """The sets of dispatch keys, as numbers, that ordinary tensors and threads have.

    Everything that wraps a tensor, or records, transforms or watches operations, adds a key.
    """

    tensors: frozenset[int]
    threads: frozenset[int]


@cache
def _ordinary() -> _Ordinary:
    """Return the keys of an ordinary tensor and thread, found in a new thread."""
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


def view_of_ordinary(x: Any, *, recorded: bool = False) -> HostArray | None:
    """Return a NumPy view of a tensor, or None unless its memory holds all of the tensor's state.

    The tensor is then of no subclass, dense, on the CPU and not conjugated. It does not take part in forward-mode
    gradients, nor in others unless it is `recorded`. Only for an ordinary thread.
    """
    import torch

    if (
        type(x) not in (torch.Tensor, torch.nn.Parameter)
        or torch._C._dispatch_keys(x).raw_repr() not in _ordinary().tensors
        or (x.requires_grad and not recorded and torch.is_grad_enabled())
        or torch.autograd.forward_ad.unpack_dual(x).tangent is not None
    ):
        return None
    plain = x.detach() if x.requires_grad else x
    if x.dtype is not torch.bfloat16:
        view: HostArray = plain.numpy()
        return view
    bfloat16 = _bfloat16()
    return None if bfloat16 is None else plain.view(torch.int16).numpy().view(bfloat16)


@cache
def _bfloat16() -> Any:
    """Return the bfloat16 of ml_dtypes, or None if that is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)
