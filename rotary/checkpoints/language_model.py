"""Finds the configuration of the language model inside the configuration of a multimodal model."""

from __future__ import annotations

from collections.abc import Mapping

from rotary._lib.errors import ConfigError, listed, shown

from .key_names import HEAD_COUNTS, HIDDEN_SIZES, LANGUAGE_PARTS, LOOKS_LIKE_ROPE, ROPE_DICTS
from .models import part_type
from .reader import Keys
from .rope_dicts import plain_rope_dict

__all__ = ["attention_part", "language_model"]


def language_model(top: Keys) -> Keys:
    """Return the configuration of the language model, which is `top` itself or one of its parts."""
    parts = _parts(top)
    rope_keys = top.matching(LOOKS_LIKE_ROPE)
    for name in LANGUAGE_PARTS:
        inner = parts.get(name)
        if inner is not None:
            _check_agreement(top, rope_keys, inner)
            if "model_type" in top and "model_type" not in inner:
                inner.values["model_type"] = part_type(top.values["model_type"])
            return language_model(inner)
    if rope_keys or not parts or "head_dim" in top or top.has_any(HEAD_COUNTS):
        return top
    names = listed(parts, lambda name: f"config[{shown(name)}]")
    msg = (
        "`config` must have a text_config or a single part, because each part may have its own rotation; pass one "
        f"of {names}, got model type {shown(top.values.get('model_type'))}"
    )
    raise ConfigError(msg)


def _check_agreement(top: Keys, names: list[str], inner: Keys) -> None:
    """Raise for rope keys at the top level that contradict the configuration of the language model."""
    for name in names:
        if not _agrees(name, top, inner):
            must = f"must equal `{inner.name(name)}`, or be left out"
            got = f"{shown(top.values[name])} and {shown(inner.values.get(name))}"
            top.fail(name, must, got, "pass the configuration of the language model only")


def _agrees(name: str, top: Keys, inner: Keys) -> bool:
    """Whether a part gives the same value as the top level, under the same name or in its rope dict."""
    value = top.values[name]
    if value == inner.values.get(name):
        return True
    inner_dict = next((keys for key in ROPE_DICTS if (keys := inner.inner(key)) is not None), None)
    if name in ROPE_DICTS:
        top_dict = top.inner(name)
        if top_dict is None or inner_dict is None:
            return False
        values = plain_rope_dict(inner_dict.values) | {
            "rope_theta": inner_dict.values.get("rope_theta", inner.values.get("rope_theta"))
        }
        return all(
            values.get(key) == outer for key, outer in plain_rope_dict(top_dict.values).items()
        )
    return name not in inner and inner_dict is not None and value == inner_dict.values.get(name)


def _parts(top: Keys) -> dict[str, Keys]:
    """Return the configurations of the parts of a multimodal model, by key."""
    found = {}
    for name in top.matching(r"_config$"):
        value = top.values[name]
        if isinstance(value, Mapping) or callable(getattr(value, "to_dict", None)):
            inner = top.inner(name)
            if inner is not None and (
                "model_type" in inner
                or inner.has_any((*HIDDEN_SIZES, *HEAD_COUNTS))
                or _parts(inner)
            ):
                found[name] = inner
    return found


def attention_part(top: Keys) -> Keys | None:
    """Return the keys of `attn_config`, an object with the attention keys of DBRX and MPT."""
    return top.inner("attn_config") if isinstance(top.values.get("attn_config"), Mapping) else None
