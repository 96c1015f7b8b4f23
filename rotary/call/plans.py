"""The one way through a call: look up its plan, have it made if it is missing, and run it.

What a call decides before it computes follows from its options and from how its arrays lie in memory, but not from
their numbers, and a decoder asks the same for every token. So it is decided once. Nothing rotates without a plan,
and nothing else looks plans up, makes or runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from sys import modules
from types import ModuleType
from typing import Any

import numpy as np

from rotary import backends
from rotary._lib import libraries, memo
from rotary._lib.jax_trees import register, waiting
from rotary._lib.memo import Memo
from rotary._lib.typing import Array, HostArray
from rotary.angles.learned import GivenFrequencies, as_given
from rotary.backends import library, portable
from rotary.backends.contract import (
    Call,
    Gradients,
    Plan,
    PositionArgs,
    RowPositions,
    TablesCall,
)
from rotary.norm import RMSNorm
from rotary.tables import lookup
from rotary.tables.windows import LARGEST_POSITION

from . import norms
from .arrays import as_outputs, check_array, check_has_library, names_of
from .gradient_plans import (
    differentiation,
    gradient_plan,
    gradients_on_host,
    in_given_shapes,
    no_transpose,
)
from .own_tables import TableOptions, tables_call
from .parts import (
    RotationSource,
    check_outputs,
    check_real,
    gradients_by_arrays,
    on_gpu,
    table_reader,
)
from .passes import Rotation
from .rows import (
    PositionShapes,
    read_delta,
    read_rows,
    read_rows_and_frequencies,
    read_shift_to,
)
from .shapes import AxisOptions, array_specs, axes_key, shape_of

PLANS_CACHED = 4096
# One hit in so many updates the order of use. A prime, so that few periodic patterns of calls coincide with it.
ORDER_INTERVAL = 13


# A plan takes about two kilobytes. A server that sees many lengths of prompts has a plan for each.
_plans: Memo[Hashable, Plan] = memo.plans(PLANS_CACHED)


def rotate(
    embedding: Any,
    verb: str,
    arrays: Sequence[Array],
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
    *,
    transposed: bool = False,
    by_library: bool = False,
) -> Any:
    """Rotate arrays.

    Parameters
    ----------
    embedding : RotaryEmbedding
        Or another object whose `_rotations` is a `RotationSource`.
    verb : {"call", "inverse", "vjp", "shift"}
    arrays : sequence of array
    positions, offset, cu_seqlens, role, seq_axis, batch_axis, out, delta
        The arguments of the call.
    to : RotaryEmbedding or None
        The embedding to which keys are shifted.
    norm : RMSNorm or None
        How arrays are normed.
    inv_freq : array_like or None
        The frequencies of this call.
    transposed : bool
        Whether to apply the transposed rotation, for gradients.
    by_library : bool
        Whether arrays of other libraries are rotated by their own operations, even on the host.

    Returns
    -------
    array, or tuple of array for several
    """
    if waiting and "jax" in modules:
        register()
    rotations: RotationSource = embedding._rotations
    other: RotationSource | None = None if to is None else to._rotations
    if inv_freq is not None:
        if type(inv_freq) is not np.ndarray:
            inv_freq = as_given(inv_freq)
        rotations = rotations.given(tuple(inv_freq.shape))
    where = positions, offset, cu_seqlens, delta, inv_freq
    outputs = out if out is None or isinstance(out, tuple | list) else (out,)
    kind: tuple[Any, ...] = rotations, verb, len(arrays)
    if other is not None or transposed or cu_seqlens is not None:
        kind = *kind, (other, transposed, cu_seqlens is None)
    weights: tuple[Array, ...] = ()
    if norm is not None:
        kind = *kind, norms.key_of(norm, verb)
        weights = norms.weights_of(norm)
    key, owner = None, None
    if arrays and type(arrays[0]) is np.ndarray:
        key = _key(kind, arrays, role, seq_axis, batch_axis, outputs)
    if key is None and arrays and not by_library:
        backend = backends.shared_with_host(arrays)
        if backend is not None:
            if batch_axis is not None or not (seq_axis is None or type(seq_axis) is int):
                options = rotations.options(seq_axis, batch_axis, len(arrays), packed=False)
                seq_axis, batch_axis = options.as_given()
            own_axes = seq_axis, batch_axis
            if norm is not None:
                results = _normed_on_host(
                    backend, rotations, arrays, where, role, own_axes, outputs, norm
                )
            else:
                again = partial(rotate, rotations, verb, to=other)
                results = _on_host(
                    backend, again, rotations, arrays, where, role, own_axes, outputs, transposed
                )
            if results is not None:
                return results[0] if len(results) == 1 else tuple(results)
        owner, layout = on_gpu(arrays, outputs)
        if layout is not None and (role is None or type(role) is str):
            axes: tuple[Hashable, ...] = seq_axis, batch_axis
            if batch_axis is not None or not (seq_axis is None or type(seq_axis) is int):
                axes = axes_key(seq_axis, batch_axis, len(arrays))
            key = (*kind, role, *axes, *layout)
    plan = None if key is None else _plans.held.get(key)
    if plan is not None:
        # As `_plans.get`, without a call. To update the order of use at every hit would be slow, and one in a few is
        # enough to keep the plans that are in use.
        _plans.hits += 1
        if not _plans.hits % ORDER_INTERVAL:
            _plans.touch(key)
    else:
        packed = cu_seqlens is not None
        rotation = rotations.rotation(verb, role, len(arrays), other)
        options = rotations.options(seq_axis, batch_axis, len(arrays), packed=packed)
        made = partial(rotate, rotations, verb, to=other, transposed=not transposed)
        transpose = partial(gradients_by_arrays, made, rotations, role, options.as_given())
        if transposed:
            rotation = rotation.transposed()
        plan = _plan_of(
            rotation, arrays, options, out, owner, transpose, norm, shifts=verb == "shift"
        )
        if key is not None:
            _plans.misses += 1
            _plans.keep(key, plan)
    numbers: tuple[Any, ...] = (weights,) if weights else ()
    results = plan(arrays, where, outputs, *numbers)
    return results[0] if len(results) == 1 else tuple(results)


def _key(
    kind: tuple[Any, ...],
    arrays: Sequence[Array],
    role: Any,
    seq_axis: Any,
    batch_axis: Any,
    outputs: Sequence[Array] | None,
) -> Hashable | None:
    """Return what the plan of a call on NumPy arrays depends on, None for other calls.

    Rotations are compared by identity, for equal embeddings share them.
    """
    key: list[Hashable] = list(kind)
    for x in arrays:
        if type(x) is not np.ndarray:
            return None
        key += x.shape, x.strides, x.dtype
    if outputs is not None:
        if len(outputs) != len(arrays):
            return None
        for output, x in zip(outputs, arrays, strict=True):
            if output is x:
                key.append(None)
            elif type(output) is np.ndarray:
                key += output.shape, output.strides, output.dtype
            else:
                return None
    if role is not None:
        if type(role) is not str:
            return None
        key.append(role)
    # False and True would be taken for 0 and 1, which they equal.
    if (seq_axis is None or type(seq_axis) is int) and (
        batch_axis is None or type(batch_axis) is int
    ):
        key += seq_axis, batch_axis
    else:
        try:
            key += axes_key(seq_axis, batch_axis, len(arrays))
        except (TypeError, ValueError):
            return None
    return tuple(key)


def gradients(
    embedding: Any,
    verb: str,
    arrays: Sequence[Array],
    primals: Sequence[Array],
    wanted: Collection[str],
    where: PositionArgs,
    role: Any,
    seq_axis: Any,
    batch_axis: Any,
    out: Any = None,
    *,
    transposed: bool = False,
) -> Gradients:
    """Return the gradients of a rotation by arrays, positions and frequencies, in the shapes of these.

    The arrays are the gradients of its results, and `primals` what was rotated. Some of "x", "positions" and "inv_freq"
    are `wanted`. The other arguments are those of `rotate`; `where` are the position arguments.
    """
    rotations: RotationSource = embedding._rotations
    positions, offset, cu_seqlens, delta, inv_freq = where
    if inv_freq is not None:
        inv_freq = as_given(inv_freq)
        rotations = rotations.given(tuple(inv_freq.shape))
    where = positions, offset, cu_seqlens, delta, inv_freq
    outputs = out if out is None or isinstance(out, tuple | list) else (out,)
    both = (*arrays, *primals)
    packed = cu_seqlens is not None
    kind = "gradients", rotations, verb, len(both), frozenset(wanted), transposed, packed
    key = _key(kind, both, role, seq_axis, batch_axis, None)
    if key is None and both:
        again = partial(gradients, rotations, verb, transposed=transposed)
        given = role, seq_axis, batch_axis
        found = gradients_on_host(again, arrays, primals, outputs, wanted, where, given)
        if found is not None:
            return found
    if key is not None and outputs is not None:
        layout = _key((), outputs, None, None, None, None)
        key = None if layout is None else (key, layout)
    plan: Any = None if key is None else _plans.get(key)
    if plan is None:
        rotation = rotations.rotation(verb, role, len(arrays))
        options = rotations.options(seq_axis, batch_axis, len(arrays), packed=packed)
        if transposed:
            rotation = rotation.transposed()
        call = _call_of(rotation, arrays, options, out, None, no_transpose, None, shifts=False)
        plan = gradient_plan(call, primals, frozenset(wanted))
        if key is not None:
            _plans.keep(key, plan)
    return in_given_shapes(
        plan(both, where, outputs), positions, rotations.shape, rotations.sections
    )


# ------------------------------------------------------------------------------------------------
# Tables of the caller's own.


def rotate_by_tables(
    x: Any,
    cos: Any,
    sin: Any,
    layout: Any,
    rotary_start: Any,
    seq_axis: Any,
    batch_axis: Any,
    inverse: Any,
    out: Any,
) -> Any:
    """Rotate an array by the caller's own tables; the arguments are those of `rotary.apply_rotary`.

    Returns
    -------
    array
    """
    options = TableOptions(layout, rotary_start, seq_axis, batch_axis, inverse)
    outputs = out if out is None or isinstance(out, tuple | list) else (out,)
    owner, layouts = None, None
    if type(x) is not np.ndarray:
        from rotary.backends.cuda import tables as cuda

        owner, layouts = cuda.owner_and_layouts(x, (cos, sin), outputs or ())
    if owner is None:
        layouts = libraries.key_of_eager((x, cos, sin, *(outputs or ())))
    fixed = options.key()
    key = None
    if fixed is not None and layouts is not None:
        # An empty tuple of outputs, which is refused when a plan is made, is another kind than none.
        kind = None if outputs is None else tuple([output is x for output in outputs])
        key = *fixed, *layouts, kind
    plan = None if key is None else _plans.get(key)
    if plan is None:
        plan = _plan_with_tables(tables_call(options, x, (cos, sin), out), owner)
        if key is not None:
            _plans.keep(key, plan)
    return plan((x,), (cos, sin), outputs)[0]


def rotate_by_tables_once(
    x: Any,
    cos: Any,
    sin: Any,
    layout: Any,
    rotary_start: Any,
    seq_axis: Any,
    batch_axis: Any,
    inverse: Any,
    out: Any,
) -> Any:
    """Do the same by operations that the compiler of torch can trace, with a plan that serves this call alone.

    Returns
    -------
    array
    """
    options = TableOptions(layout, rotary_start, seq_axis, batch_axis, inverse)
    call = tables_call(options, x, (cos, sin), out)
    outputs = None if call.output is None else (call.output,)
    return library.plan_with_tables(call)((x,), (cos, sin), outputs)[0]


def _plan_with_tables(call: TablesCall, owner: str | None) -> Plan:
    """Return the plan of a call with tables; `owner` says what kind of library has its arrays on a GPU."""
    if owner is not None:
        from rotary.backends.cuda import tables as cuda

        return cuda.plan_with_tables(call, owner)
    if backends.host() is portable or not call.on_host:
        return library.plan_with_tables(call)
    from rotary.backends.cpu import plan as numba

    return numba.plan_with_tables(call)


# ------------------------------------------------------------------------------------------------
# Making plans.


def _plan_of(
    rotation: Rotation,
    arrays: Sequence[Array],
    options: AxisOptions,
    out: Any,
    owner: str | None,
    transpose: Callable[[Sequence[Array | None], PositionArgs], Sequence[Array | None]],
    norm: Any,
    *,
    shifts: bool,
) -> Plan:
    """Return the plan of a call, whose arrays and outputs are checked.

    `owner` says what kind of library has the arrays in the memory of a GPU. `shifts` says whether positions are not
    said, but how far rows move.
    """
    call = _call_of(rotation, arrays, options, out, owner, transpose, norm, shifts=shifts)
    first = call.passes[0]
    # What is no rotation is made of two, by the library's own operations. They also rotate by frequencies that come
    # with the call, because the kernels keep copies of those that they read.
    given = isinstance(first.angles[0].frequencies, GivenFrequencies)
    if owner is not None and first.second_angles is None and norm is None and not given:
        from rotary.backends.cuda import plan as cuda

        return cuda.plan(call, owner)
    if backends.host() is portable or not all(isinstance(x, np.ndarray) for x in arrays):
        return library.plan(call)
    from rotary.backends.cpu import plan as numba

    return numba.plan(call)


def _call_of(
    rotation: Rotation,
    arrays: Sequence[Array],
    options: AxisOptions,
    out: Any,
    owner: str | None,
    transpose: Callable[[Sequence[Array | None], PositionArgs], Sequence[Array | None]],
    norm: Any,
    *,
    shifts: bool,
) -> Call:
    """Return a call as backends plan it, its arrays and outputs checked; see `_plan_of`."""
    names = names_of(arrays)
    if not arrays:
        msg = "`arrays` must hold at least one array, got none"
        raise TypeError(msg)
    passes = rotation.passes * (len(arrays) // len(rotation.passes))
    for x, name in zip(arrays, names, strict=True):
        if owner is None and type(x) is not np.ndarray:
            check_has_library(x, name)
        check_array(x, name)
    shapes = tuple(map(shape_of, arrays, names))
    first = passes[0]
    frequencies = first.angles[0].frequencies
    specs, shapes_of_positions, length = array_specs(
        shapes, options, rotation.head_dim, first.pairings, frequencies.heads
    )
    outputs = None if out is None else as_outputs(out, arrays, names)
    if first.second_angles is not None:
        check_real(shapes)
    limit = rotation.limits[0]
    read: Callable[[PositionArgs, PositionShapes], RowPositions] = partial(read_rows, limit=limit)
    if isinstance(frequencies, GivenFrequencies):
        read = partial(read_rows_and_frequencies, limit=limit, sections=rotation.sections)
    if shifts:
        limit = -LARGEST_POSITION
        read = (
            partial(read_shift_to, limits=rotation.limits)
            if rotation.changes_frequencies
            else read_delta
        )
    learned = type(arrays[0]) is not np.ndarray and libraries.is_mlx_array(arrays[0])
    return Call(
        arrays=arrays,
        outputs=outputs,
        names=tuple(names),
        passes=passes,
        specs=specs,
        position_shapes=PositionShapes(
            shapes_of_positions,
            length,
            frequencies.axes,
            rotation.has_position_axes,
            learned=learned,
        ),
        limit=limit,
        read=read,
        tables=lookup.tables_of,
        table_reader=table_reader,
        check_outputs=check_outputs,
        transpose=transpose,
        norm=None if norm is None else norms.norm_of(norm, arrays, shapes, specs),
    )


# ------------------------------------------------------------------------------------------------
# Other libraries.


def _on_host(
    backend: ModuleType,
    again: partial[Any],
    rotations: RotationSource,
    arrays: Sequence[Array],
    where: PositionArgs,
    role: Any,
    axes: tuple[Any, Any],
    outputs: Sequence[Array] | None,
    transposed: bool,
) -> Sequence[Array] | None:
    """Return arrays of other libraries rotated if they lie in the host's memory, None if they do not.

    `backend` may share the memory of the first array with NumPy. `again` makes the same call for other arrays.
    """

    def on_host(own: Sequence[HostArray], places: PositionArgs, out: Any) -> Sequence[HostArray]:
        """Return NumPy's views of the arrays rotated."""
        *given, delta, inv_freq = places
        result = again(
            own, *given, role, *axes, out, delta, inv_freq=inv_freq, transposed=transposed
        )
        return result if isinstance(result, tuple) else (result,)

    learned = partial(
        differentiation, gradients, again, rotations, (role, *axes), len(arrays), transposed
    )
    transposed_call = partial(again, transposed=not transposed)
    back = partial(gradients_by_arrays, transposed_call, rotations, role, axes)
    results: Sequence[Array] | None = backend.rotate_all(
        arrays, where, outputs, on_host, back, learned
    )
    return results


def _normed_on_host(
    backend: ModuleType,
    rotations: RotationSource,
    arrays: Sequence[Array],
    where: PositionArgs,
    role: Any,
    axes: tuple[Any, Any],
    outputs: Sequence[Array] | None,
    norm: RMSNorm,
) -> Sequence[Array] | None:
    """Return arrays of other libraries normed and rotated if they lie in the host's memory, None if they do not."""
    count = len(where)

    def on_host(own: Sequence[HostArray], places: Any, out: Any) -> Sequence[HostArray]:
        """Return NumPy's views of the arrays normed and rotated; those of the weights follow the positions."""
        positions, offset, cu_seqlens, delta, inv_freq = places[:count]
        seen = norms.with_weights(norm, places[count:])
        result = rotate(
            rotations,
            "call",
            own,
            positions,
            offset,
            cu_seqlens,
            role,
            *axes,
            out,
            delta,
            norm=seen,
            inv_freq=inv_freq,
        )
        return result if isinstance(result, tuple) else (result,)

    def back(
        gradients: Sequence[Array], rotated: Sequence[Array], places: Any
    ) -> tuple[list[Array], list[Array]]:
        """Return the gradients by arrays and by weights, given those of the results."""
        seen = norms.with_weights(norm, places[count:])
        return norm_gradients(rotations, gradients, rotated, places[:count], role, *axes, seen)

    own = norms.weights_of(norm)
    results: Sequence[Array] | None = backend.norm_all(arrays, own, where, outputs, on_host, back)
    return results


def norm_gradients(
    embedding: Any,
    arrays: Sequence[Array],
    primals: Sequence[Array],
    where: PositionArgs,
    role: Any,
    seq_axis: Any,
    batch_axis: Any,
    norm: RMSNorm,
) -> tuple[list[Array], list[Array]]:
    """Return the gradients of a call with a norm, by what was normed and rotated and by the weights that are arrays.

    `arrays` are the gradients of the results, and `primals` what was normed and rotated; the others are as the call
    gives them.
    """
    rotations: RotationSource = embedding._rotations
    positions, offset, cu_seqlens, delta, inv_freq = where
    count, packed = len(arrays), cu_seqlens is not None
    rotation = rotations.rotation("call", role, count)
    options = rotations.options(seq_axis, batch_axis, count, packed=packed)
    first = rotation.for_arrays(count)[0]
    shapes = tuple(map(shape_of, primals, names_of(primals)))
    specs, _, _ = array_specs(
        shapes,
        options,
        rotation.head_dim,
        first.pairings,
        first.angles[0].frequencies.heads,
    )

    def rotated(own: Sequence[Array], transposed: bool) -> Sequence[Array]:
        result = rotate(
            rotations,
            "call",
            own,
            positions,
            offset,
            cu_seqlens,
            role,
            seq_axis,
            batch_axis,
            None,
            delta,
            inv_freq=inv_freq,
            transposed=transposed,
        )
        return result if isinstance(result, tuple) else (result,)

    own = norms.norm_of(norm, primals, shapes, specs)
    return norms.gradients(own, specs, rotated, arrays, primals, norms.weights_of(norm))
