"""The argument `wrt` of `vjp`: by what a rotation is differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rotary._lib.errors import shown
from rotary._lib.typing import Array
from rotary.backends.contract import PositionArgs

from . import plans

NAMES = ("x", "positions", "inv_freq")


def gradients(
    embedding: Any,
    arrays: Sequence[Array],
    primals: Any,
    wrt: Any,
    where: PositionArgs,
    role: Any,
    seq_axis: Any,
    batch_axis: Any,
    out: Any,
) -> tuple[Any, ...]:
    """Return the gradients that `wrt` names, in its order; see `RotaryEmbedding.vjp`."""
    names = _checked_names(wrt, has_positions=where[0] is not None)
    if out is not None and "x" not in names:
        msg = f"`out` takes the gradients of x, which `wrt` must name, got {names}"
        raise ValueError(msg)
    if names == ("x",):
        positions, offset, cu_seqlens, delta, inv_freq = where
        return (
            plans.rotate(
                embedding,
                "vjp",
                arrays,
                positions,
                offset,
                cu_seqlens,
                role,
                seq_axis,
                batch_axis,
                out,
                delta,
                inv_freq=inv_freq,
            ),
        )
    if primals is None:
        msg = f"`primals`, what was rotated, must be given for `wrt` {names}"
        raise TypeError(msg)
    rotated = as_primals(primals, len(arrays))
    found = plans.gradients(
        embedding, "call", arrays, rotated, names, where, role, seq_axis, batch_axis, out
    )
    by_name: dict[str, Any] = {"positions": found.positions, "inv_freq": found.inv_freq}
    if found.arrays is not None:
        by_name["x"] = found.arrays[0] if len(found.arrays) == 1 else tuple(found.arrays)
    return tuple(by_name[name] for name in names)


def as_primals(primals: Any, count: int) -> tuple[Array, ...]:
    """Return what was rotated, one array for each of so many gradients."""
    rotated = tuple(primals) if isinstance(primals, tuple | list) else (primals,)
    if len(rotated) != count:
        msg = f"`primals` must hold one array for each of the {count} gradients, got {len(rotated)}"
        raise ValueError(msg)
    return rotated


def _checked_names(wrt: Any, *, has_positions: bool) -> tuple[str, ...]:
    """Return the names of what is differentiated by."""
    if not isinstance(wrt, tuple | list) or not all(isinstance(name, str) for name in wrt):
        msg = f"`wrt` must be a tuple of names such as ('x', 'inv_freq'), got {shown(wrt)}"
        raise TypeError(msg)
    names = tuple(wrt)
    if not names or len(set(names)) < len(names) or not set(names) <= set(NAMES):
        told = ", ".join(map(repr, NAMES))
        msg = f"`wrt` must name some of {told}, each once, got {names}"
        raise ValueError(msg)
    if "positions" in names and not has_positions:
        msg = f"`positions` must be given for `wrt` {names}"
        raise TypeError(msg)
    return names
