"""The keys that describe one layer, read by the rules of its model type."""

from __future__ import annotations

from typing import Any, NoReturn

from rotary._lib.errors import ConfigError, shown

from .key_names import BASES, FRACTIONS, WIDTHS
from .known_keys import check_is_text, check_rope_keys
from .language_model import language_model
from .layers import Layer, has_rotary
from .models import FOLLOWS, Model, has_no_rotary, is_recurrent, known_model
from .options import Options
from .reader import Keys, Sourced, load_config
from .rope_dicts import rope_dict
from .schedules import read_rope_type

__all__ = ["LayerKeys", "read_layer_keys"]


class LayerKeys:
    """The keys that describe one layer, and the origins of the numbers that were read so far.

    Parameters
    ----------
    top : Keys
        The configuration.
    model : Model or None
        The facts about the model type, or None if it is not known.
    layer : Layer
    rope : Keys
        The rope dict.
    nested : bool
        Whether every kind of layer has its own rope dict.
    base : Sourced or None
        The base, if this kind of layer has its own key for it.
    options : Options
    """

    def __init__(
        self,
        top: Keys,
        model: Model | None,
        layer: Layer,
        rope: Keys,
        nested: bool,
        base: Sourced | None,
        options: Options,
    ) -> None:
        self.top, self.model, self.layer, self.options = top, model, layer, options
        self.rope, self.nested = rope, nested
        self.base_of_kind = base
        self.origins: dict[str, str] = {}
        self.rope_type = read_rope_type(rope)
        # If not strict: keys that the model's code ignores although they would change the result.
        self.unread: list[str] = []

    def default(self, key: str) -> Sourced | None:
        """Return the default of a key in the configuration class of the model type."""
        if self.model is None or key not in self.model.defaults:
            return None
        return Sourced(self.model.defaults[key], self.origin_of_default())

    def origin_of_default(self) -> str:
        """Return the origin of a default of the model type."""
        return f"the default of {self.model.name if self.model else ''} in {FOLLOWS}"

    def reads(self, key: str) -> bool:
        """Whether the code of the model type reads a key."""
        if self.model is None:
            return True
        if key in (BASES[0], FRACTIONS[0], WIDTHS[0]):
            return key not in self.model.unread
        return key in self.model.reads

    def refuse_unread(
        self, name: str, value: Any, effect: str, advice: str = "leave it out"
    ) -> None:
        """Raise for a key that the model's code does not read; if not strict, record its name instead."""
        if not self.options.strict:
            self.unread.append(name)
            return
        kind = "" if self.model is None else f"model type {shown(self.model.name)}"
        msg = (
            f"`{name}` is not read by the code of {kind} in {FOLLOWS} for the rope type "
            f"{shown(self.rope_type.value)}: {effect}, got {shown(value)}; {advice}"
        )
        raise ConfigError(msg)

    def take(self, name: str, found: Sourced) -> Any:
        """Return a value, and record its origin under a name."""
        self.origins[name] = found.origin
        return found.value

    def drop_unread_dict(self) -> None:
        """Drop a rope dict that the model's code does not read; raise if the dict would change the result."""
        if self.model is None or "rope_parameters" not in self.model.unread or not self.rope.values:
            return
        neutral = {"rope_type": "default", "type": "default", "rope_theta": 10_000.0}
        for key, value in self.rope.values.items():
            if value != neutral.get(key):
                self.refuse_unread(
                    *(self.rope.name(key), value),
                    "its base is fixed and its frequencies are not scaled",
                )
        self.rope = Keys({}, self.rope.path)
        self.rope_type = read_rope_type(self.rope)


def read_layer_keys(config: Any, options: Options) -> LayerKeys | None:
    """Return the keys of the requested layer, or None for a layer without rotary."""
    top = language_model(Keys(load_config(config)))
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
    layer = Layer.from_argument(top, options.layer_type)
    if not layer.rotates(top, model):
        return None
    rope = rope_dict(top, model, layer)
    return None if rope is None else LayerKeys(top, model, layer, *rope, options)


def _refuse_without_rotary(name: Any) -> NoReturn:
    """Name the reason if a model type has no rotation, instead of asking for its layout."""
    msg = (
        f"`model_type` must be a model type with a rotary embedding, got {shown(name)}, whose code in {FOLLOWS} has "
        "none; if the checkpoint comes with its own code that rotates, pass `layout`"
    )
    raise ConfigError(msg)
