"""Parts of `plans`: where rotations come from, and what backends are handed with a call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from rotary._lib.typing import Array, TableDType
from rotary.angles.learned import GivenFrequencies
from rotary.angles.phases import merged
from rotary.backends.contract import Angles, PositionArgs
from rotary.tables.reader import Reader

from .arrays import as_outputs, names_of
from .passes import Rotation
from .shapes import AxisOptions, NamedShape


class RotationSource(Protocol):
    """Makes rotations: those of an embedding, or of its description in a graph of torch. Compared by identity."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the frequencies."""

    @property
    def sections(self) -> tuple[int, ...] | None:
        """The position axis of each pair, if the frequencies have no axes."""

    def rotation(self, verb: str, role: Any, count: int, to: Any = None) -> Rotation:
        """Return the rotation that a method applies to `count` arrays."""

    def options(self, seq_axis: Any, batch_axis: Any, count: int, *, packed: bool) -> AxisOptions:
        """Return the axes that a call names, and the defaults of the embedding."""

    def roles(self, role: Any, count: int) -> Sequence[Any]:
        """Return the role of every array of a call."""

    def given(self, shape: tuple[int, ...]) -> RotationSource:
        """Return the rotations by frequencies of this shape that a call gives."""


def gradients_by_arrays(
    again: Callable[..., Any],
    rotations: RotationSource,
    role: Any,
    axes: tuple[Any, Any],
    gradients: Sequence[Array | None],
    positions: PositionArgs,
) -> list[Array | None]:
    """Return the gradients of the arrays of a call, or None for a result that was not used.

    `again` makes the transposed call. It keeps no arrays, because graphs of gradients keep it.
    """
    *given, delta, inv_freq = positions
    if all(gradient is not None for gradient in gradients):
        results = again(gradients, *given, role, *axes, None, delta, inv_freq=inv_freq)
        return list(results) if isinstance(results, tuple) else [results]
    roles = rotations.roles(role, len(gradients))
    found: list[Array | None] = [None] * len(gradients)
    for i, gradient in enumerate(gradients):
        if gradient is not None:
            axes_of_one = [each[i] if isinstance(each, tuple) else each for each in axes]
            own = roles[i], *axes_of_one, None, delta
            found[i] = again((gradient,), *given, *own, inv_freq=inv_freq)
    return found


def table_reader(angles: Angles, dtype: TableDType) -> Reader | None:
    """Return what reads the cached table of angles for positions that count up, None if the cache has none."""
    frequencies = angles.frequencies
    if angles.scale is not None or isinstance(frequencies, GivenFrequencies):
        return None
    if frequencies.axes > 1:
        frequencies = merged(frequencies) or frequencies
    return Reader(frequencies, angles.factor, dtype) if frequencies.axes == 1 else None


def check_outputs(arrays: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Raise unless outputs can hold the results of arrays, of which all but addresses and flags was checked."""
    for i, output in enumerate(outputs):
        if type(output) is not np.ndarray or not output.flags.writeable:
            break
        others = [x for j, x in enumerate(arrays) if j != i or x is not output]
        if any(np.may_share_memory(output, x) for x in (*others, *outputs[:i])):
            break
    else:
        return
    as_outputs(outputs, arrays, names_of(arrays))


def check_real(shapes: Sequence[NamedShape]) -> None:
    """Raise for complex arrays if the two channels of a pair are made by angles of their own."""
    for shape in shapes:
        if shape.is_complex:
            msg = (
                f"`{shape.name}` must be real, because both channels of a pair have angles of their own, got "
                f"dtype {shape.dtype}"
            )
            raise TypeError(msg)


def on_gpu(
    arrays: Sequence[Array], outputs: Sequence[Array] | None
) -> tuple[str | None, tuple[Hashable, ...] | None]:
    """Return what kind of library has arrays in the memory of a GPU, and how they lie there; else None."""
    if all(isinstance(x, np.ndarray) for x in arrays):
        return None, None
    from rotary.backends.cuda import memory

    owner = memory.owner_of_all(arrays, names_of)
    if owner is None or (outputs is not None and len(outputs) != len(arrays)):
        return None, None
    layout = memory.key_of(arrays, outputs, owner)
    return (None, None) if layout is None else (owner, layout)
