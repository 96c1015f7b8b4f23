"""Facts about the model types of transformers: layouts, sections, and the defaults of their configurations."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rotary.layouts import Layout

from .facts import facts

__all__ = ["FOLLOWS", "Model", "has_no_rotary", "is_recurrent", "known", "known_model", "part_type"]

FOLLOWS = "transformers 5.23.0"


@dataclass(frozen=True, kw_only=True)
class Model:
    """How the code of one model type rotates, and the defaults of its configuration.

    The fields, but for the name, are the keys of a table in data/models/transformers.toml.

    Parameters
    ----------
    name : str
        The model type.
    layout, output_layout : {"half", "interleaved"}
        The output layout is that of the input by default.
    interleave_key : bool
        Whether ``rope_interleave = false`` makes both layouts half.
    sections : {"chunked", "interleaved", "ernie", "hunyuan"} or None
        How channel pairs are divided between several position axes.
    latent : bool
        Whether attention is latent: ``qk_rope_head_dim`` channels are rotated, as an array of their own.
    softmax : bool
        Whether the softmax scale is multiplied by YaRN's temperature.
    trailing : bool
        Whether the last ``qk_rope_head_dim`` channels of the head are rotated.
    sliding : {"always", "windowed"} or None
        Whether only layers with a sliding window have rotary: always, or if there is a window.
    negative : bool
        Whether pairs are rotated in the opposite direction.
    legacy : {"local", "global", "shared", "compressed", "windowed"} or None
        How bases at the top level of the configuration apply to the kinds of layers.
    only : tuple of (str, object) or None
        A key, and the value that it must have for the model to have rotary at all.
    partial : bool
        Whether a part of each head can be rotated, as ``partial_rotary_factor`` says; others rotate all of it.
    mscales : bool
        Whether LongRoPE's factors are ``short_mscale`` and ``long_mscale``.
    hybrid : bool
        Whether some of its layers have no attention.
    reads : frozenset of str
        Keys that are read besides the usual ones.
    unread : frozenset of str
        Usual keys that are not read.
    without_rotary : list of str
        Kinds of layers that have no rotary by default.
    defaults : dict
        Keys of the configuration and their defaults.
    """

    name: str
    layout: Layout
    output_layout: Layout
    interleave_key: bool = False
    sections: str | None = None
    latent: bool = False
    softmax: bool = False
    trailing: bool = False
    sliding: str | None = None
    negative: bool = False
    legacy: str | None = None
    only: tuple[str, Any] | None = None
    partial: bool = False
    mscales: bool = False
    hybrid: bool = False
    reads: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()
    without_rotary: list[str] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)


def _facts() -> dict[str, Any]:
    return facts("transformers.toml")


def known() -> list[str]:
    """Return the names of all model types that are known."""
    return sorted((*_facts()["models"], *_facts()["aliases"]))


def has_no_rotary(name: Any) -> bool:
    """Whether the code of a model type rotates nothing."""
    return isinstance(name, str) and name in _facts()["without_rotary"]


def is_recurrent(name: Any) -> bool:
    """Whether a model type without rotation has recurrent layers, or several kinds of layers."""
    return isinstance(name, str) and name in _facts()["recurrent"]


def part_type(name: Any) -> Any:
    """Return the model type of a part that does not name its own, by the type of the whole."""
    return _facts()["parts"].get(name, name) if isinstance(name, str) else name


def known_model(name: Any) -> Model | None:
    """Return the facts about a model type, or None if it is not known."""
    if not isinstance(name, str):
        return None
    name = _facts()["aliases"].get(name, name)
    return _model(name) if name in _facts()["models"] else None


@cache
def _model(name: str) -> Model:
    table = _facts()["models"][name]
    defaults = dict(table.get("defaults", {}))
    if "without_rotary" in table:  # TOML has no null, which is how a configuration says it
        kinds = dict.fromkeys(table["without_rotary"])
        defaults["rope_parameters"] = kinds | defaults["rope_parameters"]
    sets = {key: frozenset(table.get(key, ())) for key in ("reads", "unread")}
    only = tuple(table["only"]) if "only" in table else None
    usual = {"output_layout": table["layout"]}
    return Model(name=name, **usual | table | sets | {"only": only, "defaults": defaults})
