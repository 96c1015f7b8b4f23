"""JAX's concrete arrays in the host's memory, rotated by NumPy's plans where they lie.

What is traced, spread over devices or elsewhere shows no memory, and is left to the library's own operations.
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
from .contract import HOST_POSITION_TYPES, Axes, Pairing, PositionArgs, Table
from .cpu.host import host

# Whether `rotate` takes a `DeferredTable` and defers the work.
DEFERS = False
# Norms are left to the library's own operations, which it differentiates.
normed = portable.normed
# Bytes that JAX copies in less time than it takes them over.
COPIED = 128 * 1024


def rotate_all(
    arrays: Sequence[Array],
    where: PositionArgs,
    outputs: Sequence[Array] | None,
    on_host: Callable[..., Sequence[HostArray]],
    back: Any,  # noqa: ARG001  (JAX traces what it differentiates)
) -> Sequence[Array] | None:
    """Return concrete CPU arrays rotated by `on_host`, which rotates NumPy arrays; None for other arrays."""
    if outputs is not None:
        return None  # they are immutable
    views: dict[int, HostArray] = {}
    for x in (*arrays, *(each for each in where if not isinstance(each, HOST_POSITION_TYPES))):
        view = _memory(x) if array_api_compat.is_jax_array(x) else None
        if view is None:
            return None
        views[id(x)] = view
    own = [views[id(x)] for x in arrays]
    known = tuple([views.get(id(each), each) for each in where])
    large = max(view.nbytes for view in own) > COPIED
    # JAX takes over only memory that starts on a cache line.
    targets = [empty(view.shape, view.dtype) for view in own] if large else None
    results = on_host(own, known, targets)
    return [_as_jax(result, x) for result, x in zip(results, arrays, strict=True)]


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


def rotate(x: Array, table: Table, axes: Axes, pairing: Pairing, out: Array | None = None) -> Array:
    """Return one array rotated."""
    source = None if host() is portable else _memory(x)
    if source is None:
        return portable.rotate(x, table, axes, pairing, out)
    target = empty(source.shape, source.dtype)
    return _as_jax(host().rotate(source, table, axes, pairing, target), x)


def _memory(x: Array) -> HostArray | None:
    """Return a JAX array's memory, or None where it is traced, spread over devices or elsewhere."""
    if is_jax_tracer(x):
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

    if memory.nbytes <= COPIED and not like.committed:
        return jax.numpy.asarray(memory)  # a copy, made in less time than memory is taken over
    return jax.device_put(memory, like.sharding if like.committed else None, may_alias=True)
