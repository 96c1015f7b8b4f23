"""The keys of one layer, as the code of its model type reads them."""

from __future__ import annotations

from typing import Any, NoReturn

from rotary._lib.errors import ConfigError, shown

from .key_names import BASES, PARTS, WIDTHS
from .known_keys import check_is_text, check_rope_keys
from .language_model import language_model
from .layers import Layer, has_rotary
from .models import FOLLOWS, Model, has_no_rotary, is_recurrent, known_model
from .options import Options
from .reader import Found, Keys, opened
from .rope_dicts import rope_dict
from .schedules import rope_type

__all__ = ["LayerKeys", "read_layer_keys"]


class LayerKeys:
    """The keys that describe one layer, and the origins of the numbers found so far.

    Parameters
    ----------
    top : Keys
        The configuration.
    model : Model or None
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
        model: Model | None,
        layer: Layer,
        rope: Keys,
        nested: bool,
        base: Found | None,
        options: Options,
    ) -> None:
        self.top, self.model, self.layer, self.options = top, model, layer, options
        self.rope, self.nested = rope, nested
        self.own_base = base
        self.origins: dict[str, str] = {}
        self.kind = rope_type(rope)
        # Keys that the model's code ignores although they would change the result; refused if strict.
        self.unread: list[str] = []

    def default(self, key: str) -> Found | None:
        """Return the default of a key, of the model type's own class."""
        if self.model is None or key not in self.model.defaults:
            return None
        return Found(self.model.defaults[key], self.origin_of_default())

    def origin_of_default(self) -> str:
        """Return the origin of a default of the model type."""
        return f"the default of {self.model.name if self.model else ''} in {FOLLOWS}"

    def reads(self, key: str) -> bool:
        """Whether the code of the model type reads a key of the configuration."""
        if self.model is None:
            return True
        if key in (BASES[0], PARTS[0], WIDTHS[0]):
            return key not in self.model.unread
        return key in self.model.reads

    def refuse_unread(
        self, name: str, value: Any, instead: str, advice: str = "leave it out"
    ) -> None:
        """Refuse a key that the model's code does not read, or note its name if the caller only compares."""
        if not self.options.strict:
            self.unread.append(name)
            return
        kind = "" if self.model is None else f"model type {shown(self.model.name)}"
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
        if self.model is None or "rope_parameters" not in self.model.unread or not self.rope.values:
            return
        usual = {"rope_type": "default", "type": "default", "rope_theta": 10_000.0}
        for key, value in self.rope.values.items():
            if value != usual.get(key):
                self.refuse_unread(self.rope.name(key), value, "whose base is fixed and not scaled")
        self.rope = Keys({}, self.rope.path)
        self.kind = rope_type(self.rope)


def read_layer_keys(config: Any, options: Options) -> LayerKeys | None:
    """Return the keys of the layer that is meant, or None for one without rotary."""
    top = language_model(Keys(opened(config)))
    name = top.values.get("model_type")
    model = known_model(name)
    if has_no_rotary(name) and top.values.get("mla_use_nope") is not False:
        if is_recurrent(name):
            return None
        if options.layout is None:
            _refuse_without_rotary(name)
    check_rope_keys(top, model)
    check_is_text(top, model)
    if not has_rotary(top, model):
        return None
    layer = Layer.of(top, options.layer_type)
    if not layer.rotates(top, model):
        return None
    rope = rope_dict(top, model, layer)
    return None if rope is None else LayerKeys(top, model, layer, *rope, options)


def _refuse_without_rotary(name: Any) -> NoReturn:
    """Refuse a model type without rotation by name, instead of asking for its layout."""
    msg = (
        f"`model_type` {shown(name)} has no rotary embedding: its code in {FOLLOWS} rotates nothing, got no layout; "
        "if the checkpoint has its own code that rotates, pass `layout`"
    )
    raise ConfigError(msg)
