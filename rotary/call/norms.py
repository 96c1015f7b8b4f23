"""The norm of a call: which weight is whose, and whether it fits the arrays."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from rotary._lib import libraries
from rotary._lib.libraries import UNKNOWN
from rotary._lib.typing import Array
from rotary.backends import portable
from rotary.backends.contract import ArrayNorm, ArraySpec, Norm
from rotary.norm import RMSNorm

from .shapes import NamedShape


def key_of(norm: Any, verb: str) -> tuple[Hashable, ...]:
    """Return what a plan depends on of a norm: everything but the numbers of its weights."""
    if not isinstance(norm, RMSNorm):
        msg = f"`norm` must be a rotary.RMSNorm, got {norm!r}"
        raise TypeError(msg)
    if verb not in ("call", "vjp"):
        msg = f"`norm` must not be given to `{verb}`, which cannot undo it"
        raise TypeError(msg)
    key: list[Hashable] = [norm.eps, norm.unit_offset, norm.order, norm.kind, norm.over]
    for weight in norm.weights:
        if weight is None or weight is False:
            key.append(weight)
        else:
            key += type(weight), tuple(weight.shape), weight.dtype
    return tuple(key)


def weights_of(norm: RMSNorm) -> tuple[Array, ...]:
    """Return the weights that are arrays, in the order of `norm_of`."""
    return tuple([each for each in norm.weights if each is not None and each is not False])


def with_weights(norm: RMSNorm, weights: Sequence[Array]) -> RMSNorm:
    """Return the same norm with other arrays for weights, in the order of `weights_of`."""
    given = iter(weights)
    own = [each if each is None or each is False else next(given) for each in norm.weights]
    result = object.__new__(RMSNorm)  # everything has been checked
    result.__dict__.update(norm.__dict__, weights=tuple(own))
    return result


def norm_of(
    norm: RMSNorm,
    arrays: Sequence[Array],
    shapes: Sequence[NamedShape],
    specs: Sequence[ArraySpec],
) -> Norm:
    """Return how the arrays of a call are normed, checked against their shapes."""
    if len(norm.weights) not in (1, len(arrays)):
        msg = (
            f"`norm` must have one weight for each of the {len(arrays)} arrays, or one for all, got "
            f"{len(norm.weights)}"
        )
        raise ValueError(msg)
    # The number of each weight among those that are arrays.
    numbers: list[int | None] = []
    for weight in norm.weights:
        is_array = weight is not None and weight is not False
        numbers.append(sum(each is not None for each in numbers) if is_array else None)
    own: list[ArrayNorm | None] = []
    for i, (x, shape, spec) in enumerate(zip(arrays, shapes, specs, strict=True)):
        which = i if len(norm.weights) > 1 else 0
        weight = norm.weights[which]
        if shape.is_complex:
            msg = f"`{shape.name}` must be real with `norm`, which is of real channels, got dtype {shape.dtype}"
            raise TypeError(msg)
        if weight is False:
            own.append(None)
            continue
        heads, count = None, shape.sizes[-1]
        if norm.over == "token":
            heads = _head_axis(shape, spec, "`norm` over the token")
            count *= shape.sizes[heads]
            if shape.sizes[heads] == UNKNOWN:
                msg = f"`{shape.name}` must have a known number of heads to be normed over the token, got {shape}"
                raise ValueError(msg)
        along: tuple[int, ...] = (*(1,) * (len(shape.sizes) - 1), shape.sizes[-1])
        if weight is not None:
            _check_library(weight, x, shape.name)
            along = _along(tuple(weight.shape), shape, spec, norm.over)
        own.append(ArrayNorm(numbers[which], along, heads, count))
    return Norm(norm.eps, norm.kind == "rms", norm.unit_offset, norm.order == "after", tuple(own))


def _along(
    given: tuple[int, ...], shape: NamedShape, spec: ArraySpec, over: str
) -> tuple[int, ...]:
    """Return the shape by which a weight broadcasts along an array, checked."""
    width, ndim = shape.sizes[-1], len(shape.sizes)
    along = [1] * (ndim - 1) + [width]
    if over == "token":
        axis = _head_axis(shape, spec, "`norm` over the token")
        heads = shape.sizes[axis]
        wanted = f"({heads}, {width}) or ({heads * width},)"
        fits = given in ((heads, width), (heads * width,))
        along[axis] = heads
    elif len(given) == 2:
        axis = _head_axis(shape, spec, "weights of `norm` for each head")
        along[axis] = given[0]
        wanted = f"({width},) or ({shape.sizes[axis]}, {width})".replace(str(UNKNOWN), "H")
        fits = given[1] == width and shape.sizes[axis] in (given[0], UNKNOWN)
    else:
        wanted = f"({width},) or (H, {width})"
        fits = given == (width,)
    if not fits:
        msg = f"`norm` must have a weight of shape {wanted} for `{shape.name}` of {shape}, got {given}"
        raise ValueError(msg)
    return tuple(along)


def _head_axis(shape: NamedShape, spec: ArraySpec, needed: str) -> int:
    """Return the one axis of an array that is neither batch, sequence nor channels."""
    others = spec.axes.head_axes(len(shape.sizes))
    if len(others) != 1:
        found = "none" if not others else f"the axes {', '.join(map(str, others))}"
        msg = (
            f"`{shape.name}` must have one axis of heads for {needed}, besides batch, sequence and channels, got "
            f"{found} in {shape}"
        )
        raise ValueError(msg)
    return others[0]


def _check_library(weight: Array, x: Array, name: str) -> None:
    """Raise unless a weight is an array of NumPy, or of the library and device of an array."""
    if isinstance(weight, np.ndarray):
        return
    if isinstance(x, np.ndarray) or libraries.namespace(weight) is not libraries.namespace(x):
        msg = f"`norm` must have weights of the library of `{name}`, {type(x)}, or of NumPy, got {type(weight)}"
        raise TypeError(msg)
    if libraries.device_of(weight) != libraries.device_of(x):
        msg = (
            f"`norm` must have weights on the device of `{name}`, {libraries.device_of(x)}, got "
            f"{libraries.device_of(weight)}"
        )
        raise ValueError(msg)


def gradients(
    norm: Norm,
    specs: Sequence[ArraySpec],
    rotated: Callable[[Sequence[Array], bool], Sequence[Array]],
    arrays: Sequence[Array],
    primals: Sequence[Array],
    weights: Sequence[Array],
) -> tuple[list[Array], list[Array]]:
    """Return the gradients by what was normed and rotated, and by the weights.

    Parameters
    ----------
    norm : Norm
    specs : sequence of ArraySpec
    rotated : callable
        Rotates arrays, or by the transposed rotation if its second argument is True.
    arrays : sequence of array
        The gradients of the results.
    primals : sequence of array
        What was normed and rotated.
    weights : sequence of array
    """
    wide, own = _widened(arrays, specs), _widened(primals, specs)
    if norm.after:
        own = list(rotated(own, False))
    else:
        wide = list(rotated(wide, True))
    by_weight: list[Any] = [None] * len(weights)
    for i, (of, spec) in enumerate(zip(norm.arrays, specs, strict=True)):
        if of is None:
            continue
        weight = None if of.weight is None else weights[of.weight]
        wide[i], found = portable.norm_gradients(own[i], wide[i], weight, norm, of, spec.dtype)
        if of.weight is not None:
            so_far = by_weight[of.weight]
            by_weight[of.weight] = found if so_far is None else so_far + found
    if norm.after:
        wide = list(rotated(wide, True))
    by_x = [
        libraries.namespace(x).astype(each, x.dtype) for each, x in zip(wide, primals, strict=True)
    ]
    return by_x, by_weight


def _widened(arrays: Sequence[Array], specs: Sequence[ArraySpec]) -> list[Array]:
    """Return arrays in the dtypes that they are computed in."""
    return [
        libraries.namespace(x).astype(x, getattr(libraries.namespace(x), spec.dtype))
        for x, spec in zip(arrays, specs, strict=True)
    ]
