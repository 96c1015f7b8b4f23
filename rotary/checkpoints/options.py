"""The arguments of the functions that read configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rotary._lib.checks import as_choice, as_integer, as_positive_integer
from rotary._lib.errors import shown
from rotary._lib.typing import BatchAxis
from rotary.angles.powers import as_frequencies
from rotary.layouts import Layout, check_layout

from .dialects import DIALECTS, Dialect

__all__ = ["Options", "checked_options"]


@dataclass(frozen=True)
class Options:
    """The arguments of the caller, checked."""

    layer_type: str | int | None
    layout: Layout | None
    axes: tuple[int | None, BatchAxis]  # the arguments `seq_axis` and `batch_axis`
    context_length: int | None
    inv_freq: Any
    dialect: Dialect
    strict: bool


def checked_options(
    *,
    dialect: Any,
    layer_type: Any = None,
    layout: Any = None,
    axes: tuple[Any, Any] = (None, None),
    context_length: Any = None,
    inv_freq: Any = None,
    strict: bool = True,
) -> Options:
    """Return the checked arguments of the caller."""
    if layer_type is not None and not isinstance(layer_type, str):
        layer_type = _index(layer_type)
    if layout is not None:
        layout = check_layout(layout)
    if context_length is not None:
        context_length = as_positive_integer(context_length, "context_length")
    if inv_freq is not None:
        inv_freq = as_frequencies(inv_freq, "inv_freq", (1,))
    rules = DIALECTS[as_choice(dialect, "dialect", tuple(DIALECTS))]
    return Options(layer_type, layout, axes, context_length, inv_freq, rules, strict)


def _index(value: Any) -> int:
    """Return the index of a layer."""
    index = as_integer(value, "layer_type")
    if not 0 <= index < 2**31:
        msg = (
            "`layer_type` must be a kind of layer or the index of a layer, from 0 to 2**31 - 1, got "
            f"{shown(index)}"
        )
        raise ValueError(msg)
    return index
