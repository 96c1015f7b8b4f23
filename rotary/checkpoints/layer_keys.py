"""The keys of one layer, as the code of its model type reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rotary._lib.errors import ConfigError, shown
from rotary.embedding import BatchAxis
from rotary.layouts import Layout

from .dialects import Dialect
from .key_names import BASES, PARTS, WIDTHS
from .layers import Layer
from .models import FOLLOWS, Model
from .reader import Found, Keys
from .schedules import rope_type

__all__ = ["LayerKeys", "Options"]


@dataclass(frozen=True)
class Options:
    """The caller's arguments, checked."""

    layer_type: str | int | None
    layout: Layout | None
    axes: tuple[int | None, BatchAxis]  # the arguments `seq_axis` and `batch_axis`
    context_length: int | None
    inv_freq: Any
    dialect: Dialect
    strict: bool


class LayerKeys:
    """The keys that describe one layer, and the origins of the numbers found so far.

    Parameters
    ----------
    top : Keys
        The configuration.
    row : Model or None
        What is known of the model type.
    layer : Layer
    rope : Keys
        The rope dict.
    nested : bool
        Whether there is a rope dict for every kind of layer.
    base : Found or None
        The base, if this kind of layer has a key of its own for it.
    options : Options
    """

    def __init__(
        self,
        top: Keys,
        row: Model | None,
        layer: Layer,
        rope: Keys,
        nested: bool,
        base: Found | None,
        options: Options,
    ) -> None:
        self.top, self.row, self.layer, self.options = top, row, layer, options
        self.rope, self.nested = rope, nested
        self.own_base = base
        self.origins: dict[str, str] = {}
        self.kind = rope_type(rope)
        # Keys that the model's code ignores although they would change the result; refused if strict.
        self.passed_over: list[str] = []

    def default(self, key: str) -> Found | None:
        """Return the default of a key, of the model type's own class."""
        if self.row is None or key not in self.row.defaults:
            return None
        return Found(self.row.defaults[key], self.origin_of_default())

    def origin_of_default(self) -> str:
        """Return the origin of a default of the model type."""
        return f"the default of {self.row.name if self.row else ''} in {FOLLOWS}"

    def reads(self, key: str) -> bool:
        """Whether the code of the model type reads a key of the configuration."""
        if self.row is None:
            return True
        if key in (BASES[0], PARTS[0], WIDTHS[0]):
            return key not in self.row.unread
        return key in self.row.reads

    def pass_over(self, name: str, value: Any, instead: str, advice: str = "leave it out") -> None:
        """Refuse a key that the model's code does not read, or note its name if the caller only compares."""
        if not self.options.strict:
            self.passed_over.append(name)
            return
        kind = "" if self.row is None else f"model type {shown(self.row.name)}"
        msg = (
            f"`{name}` is not read by the code of {kind} in {FOLLOWS} for the rope type "
            f"{shown(self.kind.value)}, {instead}, got {shown(value)}; {advice}"
        )
        raise ConfigError(msg)

    def take(self, name: str, found: Found) -> Any:
        """Return a value, and note its origin."""
        self.origins[name] = found.origin
        return found.value

    def drop_unread_dict(self) -> None:
        """Refuse a rope dict that the model's code does not read, unless it changes nothing."""
        if self.row is None or "rope_parameters" not in self.row.unread or not self.rope.values:
            return
        usual = {"rope_type": "default", "type": "default", "rope_theta": 10_000.0}
        for key, value in self.rope.values.items():
            if value != usual.get(key):
                self.pass_over(self.rope.name(key), value, "whose base is fixed and not scaled")
        self.rope = Keys({}, self.rope.path)
        self.kind = rope_type(self.rope)
