"""Rotate concrete JAX arrays in host memory by NumPy plans, without a copy of the input.

Arrays that are traced, sharded or on another device have no host memory. JAX operations rotate them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat
import numpy as np

from rotary._lib.libraries import dtype_name, has_int64, is_jax_tracer
from rotary._lib.typing import Array, HostArray
from rotary.runtime.pool import empty

from . import portable
from .contract import HOST_POSITION_TYPES, Axes, Gradients, Pairing, PositionArgs, Table
from .cpu.host import host

# Whether `rotate` takes a `DeferredTable` and defers the work.
DEFERS = False
# Norms are left to the library's own operations, which it differentiates.
normed = portable.normed
# Up to this size, JAX copies an array faster than it aliases its memory.
MAX_COPY_BYTES = 128 * 1024


def rotate_all(
    arrays: Sequence[Array],
    position_args: PositionArgs,
    outputs: Sequence[Array] | None,
    on_host: Callable[..., Sequence[HostArray]],
    back: Any,  # noqa: ARG001  (JAX traces what it differentiates)
    differentiation: Any = None,  # noqa: ARG001  (the same)
) -> Sequence[Array] | None:
    """Return concrete CPU arrays rotated by `on_host`, which rotates NumPy arrays; None for other arrays."""
    if outputs is not None:
        return None  # they are immutable
    views: dict[int, HostArray] = {}
    for x in (
        *arrays,
        *(each for each in position_args if not isinstance(each, HOST_POSITION_TYPES)),
    ):
        view = _host_view(x) if array_api_compat.is_jax_array(x) else None
        if view is None:
            return None
        views[id(x)] = view
    own = [views[id(x)] for x in arrays]
    host_args = tuple([views.get(id(each), each) for each in position_args])
    large = max(view.nbytes for view in own) > MAX_COPY_BYTES
    # JAX takes over only memory that starts on a cache line.
    targets = [empty(view.shape, view.dtype) for view in own] if large else None
    results = on_host(own, host_args, targets)
    return [as_jax(result, x) for result, x in zip(results, arrays, strict=True)]


def norm_all(
    arrays: Sequence[Array],
    weights: Sequence[Array],
    where: PositionArgs,
    outputs: Sequence[Array] | None,
    on_host: Callable[..., Sequence[HostArray]],
    back: Any,
) -> Sequence[Array] | None:
    """Return concrete CPU arrays normed and rotated by `on_host`, which is given weights after the positions."""
    return rotate_all(arrays, (*where, *weights), outputs, on_host, back)


def gradients(
    arrays: Sequence[Array],
    where: PositionArgs,
    outputs: Sequence[Array] | None,
    on_host: Callable[..., Gradients],
) -> Gradients | None:
    """Return the gradients of concrete CPU arrays; None for other arrays."""
    import jax

    if outputs is not None:
        return None  # they are immutable
    views: dict[int, HostArray] = {}
    for x in (*arrays, *(each for each in where if not isinstance(each, HOST_POSITION_TYPES))):
        view = _host_view(x) if array_api_compat.is_jax_array(x) else None
        if view is None:
            return None
        views[id(x)] = view
    known = tuple([views.get(id(each), each) for each in where])
    found = on_host([views[id(x)] for x in arrays], known, None)
    results = None
    if found.arrays is not None:
        results = [as_jax(each, x) for each, x in zip(found.arrays, arrays, strict=False)]
    positions, inv_freq = (None if each is None else jax.numpy.asarray(each) for each in found[1:])
    return Gradients(results, positions, inv_freq)


def rotate(x: Array, table: Table, axes: Axes, pairing: Pairing, out: Array | None = None) -> Array:
    """Return one array rotated."""
    source = None if host() is portable else _host_view(x)
    if source is None:
        return portable.rotate(x, table, axes, pairing, out)
    target = empty(source.shape, source.dtype)
    return as_jax(host().rotate(source, table, axes, pairing, target), x)


def _host_view(x: Array) -> HostArray | None:
    """Return a NumPy view of an array, or None if it is traced, sharded or on another device."""
    if is_jax_tracer(x):
        return None
    devices = list(x.devices())
    if len(devices) != 1 or devices[0].platform != "cpu":
        return None
    if dtype_name(x) in ("float64", "complex128") and not has_int64(x):
        return None  # JAX would silently return a narrower dtype
    return np.asarray(x)


def as_jax(memory: HostArray, like: Array) -> Array:
    """Return host memory as a JAX array on the device of `like`, committed to it only if `like` is."""
    import jax

    if memory.nbytes <= MAX_COPY_BYTES and not like.committed:
        return jax.numpy.asarray(memory)  # a copy, made in less time than memory is taken over
    return jax.device_put(memory, like.sharding if like.committed else None, may_alias=True)
