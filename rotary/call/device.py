"""Calls on a GPU: which of them are for kernels, and what they know of calls like them.

Arrays are looked at once for each set of shapes, strides and dtypes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from rotary._lib.typing import Array
from rotary.backends.contract import Turns
from rotary.backends.cuda import memory

from .arrays import as_outputs, check_array, names_of, names_of_outputs
from .device_plans import Call, Options, Plan, Results, Rotate
from .rows import Read
from .shapes import AxisOptions

PLANS_REMEMBERED = 1024


def rotate(
    arrays: Sequence[Array],
    turns: Sequence[Turns],
    *,
    head_dim: int,
    leading: bool,
    axes: AxisOptions,
    read: Read,
    out: Any,
    otherwise: Rotate,
) -> Any:
    """Rotate arrays that lie on a GPU; None where they do not, or where kernels have no part in it.

    Takes what `apply.rotate` takes, and that function itself for gradients, as `otherwise`.
    """
    owner = _owner_of(arrays)
    # What is no rotation is made of two, by the library's own operations.
    if owner is None or turns[0].second is not None:
        return None
    call = Call(owner, turns, Options(head_dim, leading, axes), read, otherwise)
    outputs = None
    if out is not None:
        outputs = out if isinstance(out, tuple | list) else (out,)
        if len(outputs) != len(arrays):
            return None  # which is found to be an error
    # Whatever is made for the call, or asked of a stream, is of the arrays' GPU.
    with memory.driver.scope(memory.device_of(arrays[0], owner)):
        rotated = _rotated_others if owner == memory.OTHER else _rotated
        results = rotated(call, arrays, outputs)
    if results is None or len(results) > 1:
        return results
    return results[0]


def _owner_of(arrays: Sequence[Array]) -> str | None:
    """Return what kind of library all arrays are of, None where one of them is for other backends."""
    owners = [None if type(x) is np.ndarray else memory.owner_of(x) for x in arrays]
    owner = owners[0]
    if owners.count(owner) != len(owners):
        _check_mixed(arrays, owners)
        return None
    return owner if owner is not None and memory.usable("x") else None


def _check_mixed(arrays: Sequence[Array], owners: Sequence[str | None]) -> None:
    """Raise where some of the arrays are on a GPU and others are not, or are of another library."""
    names = names_of(arrays)
    there = next(i for i, owner in enumerate(owners) if owner is not None)
    for x, owner, name in zip(arrays, owners, names, strict=True):
        if owner is None and not memory.is_on_host(x):
            return  # traced or transformed
        if owner != owners[there]:
            where = "on the host" if owner is None else f"of {type(x)}"
            msg = (
                f"`{name}` must lie on the GPU and be of the library of `{names[there]}`, "
                f"{type(arrays[there])}, got an array {where}"
            )
            raise TypeError(msg)


def _rotated_others(
    call: Call, arrays: Sequence[Array], outputs: Sequence[Array] | None
) -> Results:
    """Rotate arrays of a library that is neither CuPy nor torch, as CuPy's of the same memory."""
    names = names_of(arrays)
    for x, name in zip(arrays, names, strict=True):
        check_array(x, name)
    as_outputs(outputs, arrays, names)
    if any(memory.would_narrow(x) for x in arrays):
        return None
    ours = [memory.adopted(x, name) for x, name in zip(arrays, names, strict=True)]
    to = None
    if outputs is not None:
        to = []
        for x, own, output, name in zip(
            arrays, ours, outputs, names_of_outputs(outputs), strict=True
        ):
            if memory.is_read_only(output):
                msg = f"`{name}` must be writeable, got a read-only array"
                raise ValueError(msg)
            to.append(own if output is x else memory.adopted(output, name))
    results = _rotated(call._replace(owner=memory.CUPY), ours, to)
    memory.driver.hold([*ours, *(to or ())])
    if results is None or outputs is not None:
        return results and tuple(outputs or ())
    return tuple(memory.handed_back(result, x) for result, x in zip(results, arrays, strict=True))


def _rotated(call: Call, arrays: Sequence[Array], outputs: Sequence[Array] | None) -> Results:
    """Rotate arrays of CuPy or torch by the plan of calls like this one."""
    owner = call.owner
    seen = [memory.view_of(x, owner) for x in arrays]
    key: list[Any] = [owner, call.options, *map(id, call.turns)]
    for x in seen:
        key += x[1:5]
    to = None
    if outputs is not None:
        to = []
        for x, source, output in zip(seen, arrays, outputs, strict=True):
            if output is source:
                to.append(x)
                key.append(True)
                continue
            if memory.owner_of(output) != owner:
                return None  # which is found to be an error, if it is one
            y = memory.view_of(output, owner)
            to.append(y)
            key += (*y[1:5], y.address == x.address)
    plan = _plans.get(tuple(key))
    if plan is None:
        names = names_of(arrays)
        for x, name in zip(arrays, names, strict=True):
            check_array(x, name)
        as_outputs(outputs, arrays, names)
        if not all(memory.has_contiguous_channels(view) for view in (*seen, *(to or ()))):
            return _by_copies(call, arrays, outputs)
        plan = _plans.made(tuple(key), Plan(call, arrays, seen, to))
    elif to is not None:
        addresses = [view.address for view in (*seen, *to)]
        if not plan.are_apart(addresses):
            as_outputs(outputs, arrays, names_of(arrays))
            plan.found_apart(addresses)
    return plan.run(call, arrays, outputs, seen, to)


def _by_copies(call: Call, arrays: Sequence[Array], outputs: Sequence[Array] | None) -> Results:
    """Rotate copies, for the kernels read channels that lie one after another."""
    results = _rotated(call, [memory.contiguous(x) for x in arrays], None)
    if outputs is None or results is None:
        return results
    for output, result in zip(outputs, results, strict=True):
        memory.assign(output, result)
    return tuple(outputs)


class _Plans:
    """Plans of calls, the oldest dropped."""

    def __init__(self) -> None:
        self.held: OrderedDict[Any, Plan] = OrderedDict()
        self.get = self.held.get

    def made(self, key: Any, plan: Plan) -> Plan:
        """Keep a new plan."""
        self.held[key] = plan
        if len(self.held) > PLANS_REMEMBERED:
            self.held.popitem(last=False)
        return plan


_plans = _Plans()
