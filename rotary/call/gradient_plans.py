"""Gradients by positions and frequencies: how `plans` makes their plans, and how other libraries ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rotary import backends
from rotary._lib import libraries
from rotary._lib.typing import Array, HostArray
from rotary.angles.learned import as_shape
from rotary.backends import portable
from rotary.backends.autograd import Differentiation
from rotary.backends.contract import Call, GradientPlan, Gradients, PositionArgs
from rotary.backends.gradients import LibraryGradients

from .arrays import as_outputs, check_no_overlap, check_primals, names_of


def gradient_plan(call: Call, primals: Sequence[Array], wanted: frozenset[str]) -> GradientPlan:
    """Return the plan of the gradients of a call, whose arrays are the gradients of its results."""
    if call.passes[0].second_angles is not None:
        msg = (
            "`wrt` must be ('x',) if the two channels of a pair have angles or scales of their own, got "
            f"{tuple(sorted(wanted))}"
        )
        raise TypeError(msg)
    check_primals(primals, call.arrays, call.names)
    both = (*call.arrays, *primals)
    call = call._replace(arrays=both, check_outputs=check_outputs)
    if call.outputs is not None:
        check_outputs(both, call.outputs)
    if backends.host() is portable or not all(type(x) is np.ndarray for x in both):
        return LibraryGradients(call, wanted)
    from rotary.backends.cpu.gradients import HostGradients

    return HostGradients(call, wanted)


def check_outputs(arrays: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Raise unless outputs can hold the gradients of arrays, which are followed by what was rotated."""
    count = len(arrays) // 2
    names = names_of(arrays[:count])
    as_outputs(outputs, arrays[:count], names)
    called = ["primals" if count == 1 else f"primals of {name}" for name in names]
    for output in outputs:
        check_no_overlap(output, arrays[count:], called)


def in_given_shapes(
    found: Gradients, positions: Any, shape: tuple[int, ...], sections: tuple[int, ...] | None
) -> Gradients:
    """Return gradients by positions and frequencies in the shapes in which these were given."""
    by_position, by_frequency = found.positions, found.inv_freq
    if by_position is not None:
        own = positions.shape if hasattr(positions, "shape") else np.shape(positions)
        by_position = libraries.namespace(by_position).reshape(by_position, tuple(own))
    if by_frequency is not None:
        by_frequency = as_shape(by_frequency, shape, sections)
    return Gradients(found.arrays, by_position, by_frequency)


def no_transpose(_: Sequence[Array | None], __: PositionArgs) -> Sequence[Array | None]:
    """Stand for the transposed rotation in plans of gradients, which do not use it."""
    raise AssertionError


# ------------------------------------------------------------------------------------------------
# Other libraries.


def gradients_on_host(
    again: Callable[..., Gradients],
    arrays: Sequence[Array],
    primals: Sequence[Array],
    outputs: Sequence[Array] | None,
    wanted: Any,
    where: PositionArgs,
    options: tuple[Any, Any, Any],
) -> Gradients | None:
    """Return the gradients of arrays of other libraries in the host's memory, None for others.

    `again` computes them for NumPy arrays; `options` are role and axes.
    """
    both = (*arrays, *primals)
    backend = backends.shared_with_host(both)
    if backend is None:
        return None

    def on_host(own: Sequence[HostArray], places: PositionArgs, out: Any) -> Gradients:
        """Return the gradients of NumPy's views."""
        count = len(own) // 2
        return again(own[:count], own[count:], wanted, places, *options, out)

    found: Gradients | None = backend.gradients(both, where, outputs, on_host)
    return found


def differentiation(
    gradients: Callable[..., Gradients],
    again: partial[Any],
    rotations: Any,
    options: tuple[Any, Any, Any],
    count: int,
    transposed: bool,
) -> Differentiation | None:
    """Return how a call is differentiated by positions and frequencies, None if only the library's operations can.

    `gradients` is that of `plans`. `again` makes the same call for other arrays. `options` are role and axes, and
    `count` is the number of arrays.
    """
    verb = again.args[1]
    if verb == "shift":
        return None
    if rotations.rotation(verb, options[0], count).passes[0].second_angles is not None:
        return None

    def back(
        own: Sequence[HostArray], rotated: Sequence[HostArray], wanted: Any, places: PositionArgs
    ) -> Gradients:
        """Return the gradients of NumPy's views."""
        return gradients(
            rotations, verb, own, rotated, wanted, places, *options, transposed=transposed
        )

    def rotate(own: Sequence[Array], places: PositionArgs) -> Sequence[Array]:
        """Return arrays rotated by their own operations."""
        *given, delta, inv_freq = places
        result = again(
            own,
            *given,
            *options,
            None,
            delta,
            inv_freq=inv_freq,
            transposed=transposed,
            by_library=True,
        )
        return result if isinstance(result, tuple) else (result,)

    return Differentiation(back, rotate)
