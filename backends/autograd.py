"""Rotations of torch's tensors that are differentiated by their positions or frequencies as well.

The forward and the backward pass run NumPy's kernels on the memory of the tensors. A graph keeps the inputs and nothing
else. If the gradient is itself differentiated, torch's own operations compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from rotary._lib.typing import Array, HostArray

from .contract import Gradients, PositionArgs

# The places of `positions` and `inv_freq` in the position arguments of a call.
LEARNED = {0: "positions", 4: "inv_freq"}


class Differentiation(NamedTuple):
    """What a call does to other arrays of its kind, for its gradients.

    Attributes
    ----------
    gradients : callable
        Returns `Gradients` for NumPy arrays, given those of the results, what was rotated, names and position
        arguments.
    by_library : callable
        Rotates tensors by torch's own operations, given position arguments.
    """

    gradients: Callable[..., Gradients]
    by_library: Callable[[Sequence[Array], PositionArgs], Sequence[Array]]


class Graph(NamedTuple):
    """What a graph of torch keeps besides the inputs: position arguments without those that are inputs."""

    differentiation: Differentiation
    where: tuple[Any, ...]
    learned: tuple[int, ...]
    arrays: int
    view_of: Callable[[Array], HostArray | None]
    tensor_of: Callable[[HostArray], Array]

    def split(self, tensors: Sequence[Array]) -> tuple[Sequence[Array], PositionArgs]:
        """Return arrays and position arguments, given all inputs of the graph."""
        where = list(self.where)
        for place, value in zip(self.learned, tensors[self.arrays :], strict=True):
            where[place] = value
        positions, offset, cu_seqlens, delta, inv_freq = where
        return tensors[: self.arrays], (positions, offset, cu_seqlens, delta, inv_freq)


def differentiable(
    arrays: Sequence[Array],
    results: Sequence[Array],
    where: PositionArgs,
    kept: Sequence[Any],
    differentiation: Differentiation,
    memory: tuple[Callable[[Array], HostArray | None], Callable[[HostArray], Array]],
) -> Sequence[Array]:
    """Return rotated tensors as torch differentiates them, by positions and frequencies as well.

    Parameters
    ----------
    arrays, results : sequence of tensor
        What was rotated, and what it became.
    where : tuple
        The position arguments as the call gives them.
    kept : sequence
        Those that are not tensors of torch, as they are until the gradient is computed.
    differentiation : Differentiation
    memory : tuple of callable
        Return NumPy's view of a tensor, None if memory is not all there is to it, and the tensor of a NumPy array.
    """
    import torch

    learned = tuple(
        place
        for place in LEARNED
        if isinstance(where[place], torch.Tensor) and where[place].requires_grad
    )
    rest = tuple(None if place in learned else each for place, each in enumerate(kept))
    graph = Graph(differentiation, rest, learned, len(arrays), *memory)
    inputs = (*arrays, *[where[place] for place in learned])
    # As an argument, a result would be a view for torch, and refuse to be written to.
    found: tuple[Array, ...] = _function().apply(lambda: tuple(results), graph, *inputs)
    return found


@cache
def _function() -> Any:
    """Return the class, made once torch is imported."""
    import torch

    class LearnedRotation(torch.autograd.Function):  # type: ignore[misc]  # torch is not read here
        @staticmethod
        def forward(
            results: Callable[[], tuple[Array, ...]],
            graph: Graph,  # noqa: ARG004  (`setup_context` reads it)
            *inputs: Array,  # noqa: ARG004  (what autograd differentiates by)
        ) -> tuple[Array, ...]:
            return results()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004  (torch's names)
            _, ctx.graph, *tensors = inputs
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx: Any, *gradients: Array) -> tuple[Any, ...]:
            asked = ctx.needs_input_grad[2:]
            found = None
            if not torch.is_grad_enabled():
                found = _by_kernels(ctx.graph, ctx.saved_tensors, gradients, asked)
            if found is None:
                found = _by_operations(ctx.graph, ctx.saved_tensors, gradients, asked)
            return None, None, *found

    return LearnedRotation


def _by_kernels(
    graph: Graph, tensors: Sequence[Array], gradients: Sequence[Array], asked: Sequence[bool]
) -> list[Array | None] | None:
    """Return the gradients by inputs as the kernels compute them; None if memory is not all there is to a tensor."""
    import torch

    views = [graph.view_of(x) for x in (*gradients, *tensors)]
    if any(view is None for view in views):
        return None
    count = graph.arrays
    arrays, where = graph.split(views[count:])
    wanted = {"x"} if any(asked[:count]) else set()
    asked_places = zip(graph.learned, asked[count:], strict=True)
    wanted |= {LEARNED[place] for place, wants in asked_places if wants}
    found = graph.differentiation.gradients(views[:count], arrays, frozenset(wanted), where)
    results: list[Array | None] = [None] * len(tensors)
    for i, wants in enumerate(asked):
        if not wants:
            continue
        if i < count:
            assert found.arrays is not None
            results[i] = graph.tensor_of(found.arrays[i])
        else:
            value = getattr(found, LEARNED[graph.learned[i - count]])
            results[i] = torch.from_numpy(value).to(tensors[i].dtype)
    return results


def _by_operations(
    graph: Graph, tensors: Sequence[Array], gradients: Sequence[Array], asked: Sequence[bool]
) -> list[Array | None]:
    """Return the gradients by inputs in torch's own operations, which it differentiates again."""
    import torch

    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # One input may have been made of another, through which this gradient must not flow.
        inputs = tensors
        if not again:
            inputs = [
                x.detach().requires_grad_(wants) for x, wants in zip(tensors, asked, strict=True)
            ]
        own = [x.view_as(x) if x.requires_grad else x for x in inputs]
        results = graph.differentiation.by_library(*graph.split(own))
        found = torch.autograd.grad(
            results,
            [x for x, wants in zip(own, asked, strict=True) if wants],
            gradients,
            create_graph=again,
            allow_unused=True,
        )
    rest = iter(found)
    return [next(rest) if wants else None for wants in asked]
