"""The rotation as custom operators of torch, because `torch.compile` cannot trace how tables are made.

A graph may be saved and run by another process, or by a later release. So it stores no embedding, but a JSON text:
the frequencies, the channel pairs and the factors.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from rotary._lib import compiler, libraries, memo
from rotary._lib.libraries import UNKNOWN
from rotary._lib.numbers import EXACT, INT64
from rotary._lib.typing import Array
from rotary.angles.learned import GivenFrequencies
from rotary.angles.phases import Frequencies, frequencies
from rotary.backends.contract import Angles, Pairing, Passes, Scale
from rotary.decay import XPos

from . import plans
from .arrays import names_of
from .passes import Rotation, RotationCache, RotationSpec, rotations_of
from .shapes import NO_BATCH, AxisOptions, NamedShape, axes_of, axis_options

# The position arguments of the operators. Omitted ones are None.
POSITION_ARGS = (
    "SymInt? start, Tensor? offset, Tensor? positions, Tensor? cu_seqlens, Tensor? delta"
)
# Which axes are the sequence and the batch of each array, -1 if it has no batch.
AXES = "int[] sequence, int[] batch"
# The last one has a default, because graphs were saved before calls could give frequencies.
CALL = f"Tensor[] arrays, str told, bool transposed, {AXES}, {POSITION_ARGS}, Tensor? inv_freq=None"
GRADIENTS = f"Tensor[] gradients, Tensor[] arrays, bool[] wanted, {CALL.partition(', ')[2]}"
# What the operator of gradients differentiates by.
WANTED = "x", "positions", "inv_freq"
TEXTS_CACHED = 256


class GraphRotation:
    """The rotation that a graph describes, from which plans are made: one object for equal texts."""

    __slots__ = ("_rotation", "_rotations")

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self._rotations = self

    def rotation(self, _: str, __: Any, ___: int, ____: Any = None) -> Rotation:
        """Return the rotation. A graph describes one method."""
        return self._rotation

    def options(self, seq_axis: Any, batch_axis: Any, count: int, *, packed: bool) -> AxisOptions:
        """Return the axes that a graph names for every array."""
        return axis_options(seq_axis, batch_axis, count, packed=packed)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the frequencies."""
        return self._rotation.shape

    @property
    def sections(self) -> tuple[int, ...] | None:
        """The position axis of each pair, if the frequencies have no axes."""
        return self._rotation.sections

    def given(self, _: tuple[int, ...]) -> GraphRotation:
        """Return the rotation, which says itself whether calls give frequencies."""
        return self

    def roles(self, _: Any, count: int) -> list[None]:
        """Return no roles, because the passes of a graph already have the scales of their roles."""
        return [None] * count


def to_json(rotation: Rotation | RotationSpec) -> str:
    """Return a rotation, or the specification of rotations, as JSON. Its numbers are exact."""
    return json.dumps(rotation, default=_as_list)


def _as_list(value: Any) -> Any:
    """Return frequencies or a decay as a list."""
    return astuple(value) if isinstance(value, XPos) else value.values.tolist()


@memo.remembered(TEXTS_CACHED)
def from_json(text: str) -> GraphRotation:
    """Return the rotation that a text describes."""
    # Graphs that were saved before calls could give frequencies have no more than five entries.
    head_dim, leading, limits, moving, passes, sections, shape = [*json.loads(text), None, ()][:7]
    own = tuple(_passes(*each) for each in passes)
    sections = None if sections is None else tuple(sections)
    rotation = Rotation(head_dim, leading, tuple(limits), moving, own, sections, tuple(shape))
    return GraphRotation(rotation)


@memo.remembered(TEXTS_CACHED)
def _rotations_from_json(text: str) -> RotationCache:
    """Return the rotations of an embedding that a text describes."""
    own = dict(zip(RotationSpec._fields, json.loads(text), strict=True))
    if own["decay"] is not None:
        scale_base, center, scale_layout, gamma = own["decay"]
        own["decay"] = XPos(scale_base, center=center, scale_layout=scale_layout, gamma=gamma)
    if own["channel_frequencies"] is not None:
        own["channel_frequencies"] = tuple(map(_frequencies, own["channel_frequencies"]))
    own["frequencies"] = _frequencies(own["frequencies"])
    for name in ("blocks", "axes", "shape", "sections"):
        own[name] = own[name] if own[name] is None else tuple(own[name])
    return rotations_of(RotationSpec(**own))


def _frequencies(values: Any) -> Frequencies | GivenFrequencies:
    """Return frequencies from lists of them, or the place of those that calls give from four integers."""
    if isinstance(values[0], int):
        return GivenFrequencies(*values)
    return frequencies(np.array(values, np.float64))


def _passes(pairings: Any, angles: Any, second: Any) -> Passes:
    """Return passes from lists."""
    return Passes(
        tuple(Pairing(*each) for each in pairings),
        tuple(_angles(*each) for each in angles),
        None if second is None else _angles(*second),
    )


def _angles(values: Any, factor: float, scale: Any) -> Angles:
    """Return angles from lists."""
    own = None if scale is None else Scale(tuple(scale[0]), *scale[1:])
    return Angles(_frequencies(values), factor, own)


# ------------------------------------------------------------------------------------------------
# What an operator does when the graph runs.


def _rotated(
    out: list[Array] | None,
    arrays: Sequence[Array],
    spec_json: str,
    transposed: bool,
    sequence: list[int],
    batch: list[int],
    start: int | None,
    offset: Array | None,
    positions: Array | None,
    cu_seqlens: Array | None,
    delta: Array | None,
    inv_freq: Array | None = None,
) -> Sequence[Array]:
    """Return tensors rotated, or written to `out`."""
    result = plans.rotate(
        from_json(spec_json),
        "call" if delta is None else "shift",
        arrays,
        positions,
        start if offset is None else offset,
        cu_seqlens,
        None,
        tuple(sequence),
        tuple(False if axis < 0 else axis for axis in batch),
        out,
        delta,
        inv_freq=inv_freq,
        transposed=transposed,
    )
    return result if isinstance(result, tuple) else (result,)


def _rotate(*call: Any) -> list[Array]:
    """Return the rotated tensors, new and contiguous, as `_fake_rotate` promises."""
    return [result.contiguous() for result in _rotated(None, *call)]


def _fake_rotate(arrays: Sequence[Array], *_: Any) -> list[Array]:
    """Return empty tensors with the shapes and dtypes of the results."""
    import torch

    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in arrays]


def _rotate_into(out: list[Array], *call: Any) -> None:
    """Rotate tensors into other tensors, or in place."""
    _rotated(out, *call)


def _gradients(
    gradients: Sequence[Array],
    arrays: Sequence[Array],
    wanted: list[bool],
    spec_json: str,
    transposed: bool,
    sequence: list[int],
    batch: list[int],
    start: int | None,
    offset: Array | None,
    positions: Array | None,
    cu_seqlens: Array | None,
    delta: Array | None,
    inv_freq: Array | None = None,
) -> list[Array]:
    """Return the gradients that are wanted, by arrays, positions and frequencies, each in its own dtype and memory."""
    found = plans.gradients(
        from_json(spec_json),
        "call",
        gradients,
        arrays,
        [name for name, wants in zip(WANTED, wanted, strict=True) if wants],
        (positions, start if offset is None else offset, cu_seqlens, delta, inv_freq),
        None,
        tuple(sequence),
        tuple(False if axis < 0 else axis for axis in batch),
        transposed=transposed,
    )
    results = [each.contiguous() for each in found.arrays or ()]
    for value, like in ((found.positions, positions), (found.inv_freq, inv_freq)):
        if value is not None and like is not None:
            results.append(value.to(like.dtype).contiguous())
    return results


def _fake_gradients(
    gradients: Sequence[Array],  # noqa: ARG001  (the operator's own arguments)
    arrays: Sequence[Array],
    wanted: list[bool],
    *call: Any,
) -> list[Array]:
    """Return tensors that hold nothing and are what the operator of gradients returns."""
    positions, inv_freq = call[6], call[9] if len(call) > 9 else None
    alike = [*(arrays if wanted[0] else ())]
    alike += [each for each, wants in zip((positions, inv_freq), wanted[1:], strict=True) if wants]
    return _fake_rotate(alike)


# An operator has a derivative of its own. `torch.compile` differentiates graphs, and a saved graph is differentiated in
# another process, so torch must know the derivative by the operator's name and as an operator. The autograd function
# of `backends/torch.py` returns a result that was made outside of torch, which no graph can hold.


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001  (torch's names)
    """Keep what a gradient needs: what was rotated only if positions or frequencies are differentiated by."""
    arrays, ctx.spec_json, ctx.transposed, ctx.sequence, ctx.batch, ctx.start, *places = inputs
    places = [*places, None][:5]
    # torch leaves out an argument that has its default, and wants no gradient for it.
    ctx.absent = int(places[4] is None)
    ctx.learns = [each is not None and each.requires_grad for each in (places[1], places[4])]
    kept = arrays if any(ctx.learns) else ()
    ctx.save_for_backward(*places, *kept)


def _backward(ctx: Any, gradients: list[Array]) -> tuple[Any, ...]:
    """Return the gradients by arrays, positions and frequencies."""
    import torch

    places, arrays = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
    call = ctx.spec_json, ctx.transposed, ctx.sequence, ctx.batch, ctx.start, *places
    if not any(ctx.learns):
        # The rotation is linear, so that its transpose is its gradient.
        spec_json, transposed, *rest = call
        back = torch.ops.rotary.rotate(gradients, spec_json, not transposed, *rest)
        return back, *[None] * (10 - ctx.absent)
    found = torch.ops.rotary.gradients(gradients, arrays, [True, *ctx.learns], *call)
    by_place = iter(found[len(arrays) :])
    by_positions, by_inv_freq = (next(by_place) if learns else None for learns in ctx.learns)
    results = found[: len(arrays)], *[None] * 6, by_positions, None, None, by_inv_freq
    return results[: 11 - ctx.absent]


class _Operators:
    """Whether torch knows the operators."""

    registered = False


@compiler.at_preparation
def register() -> None:
    """Register the operators with torch, unless the release is too old for it."""
    import torch
    from torch import library

    if not hasattr(library, "register_autograd"):
        return
    _Operators.registered = True
    library.define("rotary::rotate", f"({CALL}) -> Tensor[]")
    library.impl("rotary::rotate", "default", _rotate)
    library.register_fake("rotary::rotate", _fake_rotate)
    library.register_autograd("rotary::rotate", _backward, setup_context=_setup_context)
    library.define("rotary::gradients", f"({GRADIENTS}) -> Tensor[]")
    library.impl("rotary::gradients", "default", _gradients)
    library.register_fake("rotary::gradients", _fake_gradients)
    library.define("rotary::rotate_into", f"(Tensor(a!)[] out, {CALL}) -> ()")
    library.impl("rotary::rotate_into", "default", _rotate_into)
    library.register_fake("rotary::rotate_into", lambda *_: None)
    torch.compiler.assume_constant_result(_spec_json)


# ------------------------------------------------------------------------------------------------
# The text that describes a rotation, made while a graph is traced.


def prepare(rope: Any) -> None:
    """Give an embedding the text that torch's compiler needs before it traces, if torch is imported.

    Equal embeddings have equal texts, so a graph that was compiled for one serves all.
    """
    compiler.prepare_untraced()
    if _Operators.registered:
        rope.__dict__["_text"] = to_json(rope._rotations.spec)


def _spec_json(
    own: Any, to: Any, verb: str, role: Any, count: int, learns: bool = False, *sizes: int
) -> str | None:
    """Return the JSON text of a rotation, given embeddings or their texts; None if the arguments are invalid.

    `sizes` are those of the frequencies of the call, if it gives some. If it `learns`, it is differentiated by
    positions or frequencies, for which the operator has no rule if the channels of a pair have angles of their own.
    """
    source, target = (
        _rotations_from_json(each) if isinstance(each, str) else each and each._rotations
        for each in (own, to)
    )
    try:
        if sizes:
            source = source.given(sizes)
        rotation = source.rotation(verb, role, count, target)
        if learns and rotation.passes[0].second_angles is not None:
            return None
        return to_json(rotation)
    except (TypeError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------
# What the compiler traces, in place of the library.


def rotate_in_graph(
    rope: Any,
    verb: str,
    arrays: tuple[Array, ...],
    positions: Any,
    offset: Any,
    cu_seqlens: Any,
    role: Any,
    seq_axis: Any,
    batch_axis: Any,
    out: Any,
    delta: Any = None,
    to: Any = None,
    norm: Any = None,
    inv_freq: Any = None,
) -> Any:
    """Return tensors rotated by an operator, or NotImplemented if the ordinary code must handle the call.

    That is the case for invalid arguments, which must raise, for arrays of other libraries, and under function
    transforms, for which operators have no rules. `torch.export` gets torch's own operations, because these run
    without this library, unless a size is symbolic.
    """
    import torch

    if norm is not None:
        return NotImplemented
    if not torch.compiler.is_dynamo_compiling() and not _has_symbolic_size(arrays):
        return NotImplemented
    outputs = [] if out is None else list(out) if isinstance(out, tuple | list) else [out]
    start = offset if isinstance(offset, int | torch.SymInt) and type(offset) is not bool else None
    given = [None if start is not None else offset, positions, cu_seqlens, delta, inv_freq]
    position_args = [_as_tensor(value) for value in given]
    if not _fit_an_operator(arrays, outputs) or any(
        each is NotImplemented for each in position_args
    ):
        return NotImplemented
    axes = _axes_of(rope, arrays, seq_axis, batch_axis, packed=cu_seqlens is not None)
    if axes is None:
        return NotImplemented
    own, other = (getattr(each, "_text", each) for each in (rope, to))
    # The operator has gradients by positions and frequencies, and not by the other position arguments.
    learned = [_is_recorded(value) for value in given]
    if (any(learned) and outputs) or any(learned[i] for i in (0, 2, 3)):
        return NotImplemented
    # One by one, because the compiler takes no tuple for a constant.
    sizes = [] if inv_freq is None else [operator.index(n) for n in position_args[4].shape]
    spec_json = _spec_json(own, other, verb, role, len(arrays), any(learned), *sizes)
    if spec_json is None:
        return NotImplemented
    call = [list(arrays), spec_json, False, *axes, start, *position_args]
    recorded = any(x.requires_grad for x in (*arrays, *outputs)) and torch.is_grad_enabled()
    if outputs and not recorded:
        torch.ops.rotary.rotate_into(outputs, *call)
        return out if isinstance(out, torch.Tensor) else tuple(outputs)
    results = torch.ops.rotary.rotate(*call)
    if outputs:
        # Autograd records a write only if torch's own operations do it.
        results = [output.copy_(result) for output, result in zip(outputs, results, strict=True)]
    return results[0] if len(arrays) == 1 else tuple(results)


def _axes_of(
    rope: Any, arrays: Sequence[Any], seq_axis: Any, batch_axis: Any, *, packed: bool
) -> tuple[list[int], list[int]] | None:
    """Return the sequence and batch axis of each array, -1 for no batch; None if the call is wrong."""
    names = names_of(arrays)
    # Only the number of axes matters, and sizes may be symbolic.
    shapes = [
        NamedShape(name, (UNKNOWN,) * x.ndim, "") for x, name in zip(arrays, names, strict=True)
    ]
    try:
        own = rope.seq_axis, NO_BATCH if rope.batch_axis is False else rope.batch_axis
        options = axis_options(seq_axis, batch_axis, len(arrays), own, packed=packed)
        axes = axes_of(shapes, options)
    except (TypeError, ValueError):
        return None
    return [each.sequence for each in axes], [
        -1 if each.batch is None else each.batch for each in axes
    ]


def _has_symbolic_size(arrays: Sequence[Any]) -> bool:
    """Return whether a size of a tensor is symbolic."""
    import torch

    return any(isinstance(size, torch.SymInt) for x in arrays for size in x.shape)


def _fit_an_operator(arrays: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Return whether arrays and outputs can be arguments of an operator."""
    import torch

    if (
        not _Operators.registered
        or not arrays
        or libraries.call_torch_private("_are_functorch_transforms_active")
    ):
        return False
    if not all(isinstance(x, torch.Tensor) for x in (*arrays, *outputs)):
        return False
    if not outputs:
        return True
    return len(outputs) == len(arrays) and all(
        output.shape == x.shape and output.dtype == x.dtype
        for output, x in zip(outputs, arrays, strict=True)
    )


def _is_recorded(value: Any) -> bool:
    """Return whether torch records what is done to a value."""
    import torch

    return isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled()


def _as_tensor(value: Any) -> Any:
    """Return a position argument as a tensor of equal values, or NotImplemented for other types."""
    import torch

    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray):
        # torch would drop masks and units.
        return torch.as_tensor(value) if type(value) is np.ndarray else NotImplemented
    values = value if isinstance(value, tuple | list) else [value]
    if not all(
        isinstance(each, int | float | torch.SymInt) and type(each) is not bool for each in values
    ):
        return NotImplemented
    wide = any(isinstance(each, float) for each in values)
    # torch would round numbers that the dtype cannot hold. The ordinary code raises.
    largest = EXACT if wide else INT64.stop - 1
    if any(isinstance(each, int) and abs(each) > largest for each in values):
        return NotImplemented
    return torch.tensor(value, dtype=torch.float64 if wide else torch.int64)


# A saved program may be loaded before any embedding is made.
compiler.prepare_untraced()
