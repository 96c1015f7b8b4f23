"""Facts about the model types of transformers: layouts, sections, and the defaults of their configurations."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rotary.layouts import Layout

from .facts import facts

__all__ = [
    "FOLLOWS",
    "Model",
    "has_no_rotary",
    "is_recurrent",
    "known_model",
    "known_model_types",
    "part_type",
]

FOLLOWS = "transformers 5.23.0"


@dataclass(frozen=True, kw_only=True)
class Model:
    """How the code of one model type rotates, and the defaults of its configuration class.

    All fields except `name` are keys of a table in data/models/transformers.toml.

    Parameters
    ----------
    name : str
        The model type.
    layout, output_layout : {"half", "interleaved"}
        The layout of the input and of the output; by default, both are equal.
    interleave_key : bool
        Whether both layouts are "half" if the key ``rope_interleave`` is false.
    sections : {"chunked", "interleaved", "ernie", "hunyuan"} or None
        How channel pairs are divided between several position axes.
    latent : bool
        Whether the model has multi-head latent attention, with a separate array of ``qk_rope_head_dim``
        rotated channels.
    softmax : bool
        Whether the softmax scale is multiplied by the square of YaRN's attention factor.
    trailing : bool
        Whether the last ``qk_rope_head_dim`` channels of the head are rotated.
    sliding : {"always", "windowed"} or None
        Whether only layers with a sliding window have rotary: always, or only if the configuration has a
        window.
    negative : bool
        Whether pairs are rotated in the opposite direction.
    legacy : {"local", "global", "shared", "compressed", "windowed"} or None
        The older form of the configuration, with bases at the top level; see rope_dicts.py.
    only : tuple of (str, object) or None
        A key, and the value of the key with which the model has rotary.
    partial : bool
        Whether the code reads ``partial_rotary_factor``. If not, it rotates the whole head.
    mscales : bool
        Whether the attention factors of LongRoPE are ``short_mscale`` and ``long_mscale``.
    hybrid : bool
        Whether some layers have no attention.
    reads : frozenset of str
        Keys that the code reads in addition to the common ones.
    unread : frozenset of str
        Common keys that the code does not read.
    without_rotary : list of str
        Kinds of layers that have no rotary by default.
    defaults : dict
        Defaults of the configuration class, by key.
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


def known_model_types() -> list[str]:
    """Return the names of all known model types."""
    return sorted((*_facts()["models"], *_facts()["aliases"]))


def has_no_rotary(name: Any) -> bool:
    """Whether the code of a model type rotates nothing."""
    return isinstance(name, str) and name in _facts()["without_rotary"]


def is_recurrent(name: Any) -> bool:
    """Whether a model type without rotation has recurrent layers or several kinds of layers."""
    return isinstance(name, str) and name in _facts()["recurrent"]


def part_type(name: Any) -> Any:
    """Return the model type of a part of a multimodal model, from the model type of the whole."""
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
    if "without_rotary" in table:  # a null in the configuration class, which TOML does not have
        kinds = dict.fromkeys(table["without_rotary"])
        defaults["rope_parameters"] = kinds | defaults["rope_parameters"]
    sets = {key: frozenset(table.get(key, ())) for key in ("reads", "unread")}
    only = tuple(table["only"]) if "only" in table else None
    layouts = {"output_layout": table["layout"]}
    return Model(name=name, **layouts | table | sets | {"only": only, "defaults": defaults})
