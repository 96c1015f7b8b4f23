"""Finds the language model in a configuration of several parts."""

from __future__ import annotations

from collections.abc import Mapping

from rotary._lib.errors import ConfigError, listed, shown

from .key_names import DICTS, HEADS, HIDDEN, LANGUAGE, LOOKS_LIKE_ROPE
from .models import part_type
from .reader import Keys
from .rope_dicts import plain_rope_dict

__all__ = ["attention_part", "language_model"]


def language_model(top: Keys) -> Keys:
    """Return the configuration of the language model, which may be the whole."""
    parts = _parts(top)
    own = top.matching(LOOKS_LIKE_ROPE)
    for name in LANGUAGE:
        inner = parts.get(name)
        if inner is not None:
            _check_agreement(top, own, inner)
            if "model_type" in top and "model_type" not in inner:
                inner.values["model_type"] = part_type(top.values["model_type"])
            return language_model(inner)
    if own or not parts or "head_dim" in top or top.has_any(HEADS):
        return top
    names = listed(parts, lambda name: f"config[{shown(name)}]")
    msg = (
        f"`config` has several parts and no text_config, and each may have a rotation of its own; pass the "
        f"one that is meant, one of {names}, got model type {shown(top.values.get('model_type'))}"
    )
    raise ConfigError(msg)


def _check_agreement(top: Keys, names: list[str], inner: Keys) -> None:
    """Refuse rope keys beside the language model that contradict it."""
    for name in names:
        if not _agrees(name, top, inner):
            must = f"must be what `{inner.name(name)}` is, or left out"
            got = f"{shown(top.values[name])} and {shown(inner.values.get(name))}"
            top.fail(name, must, got, "pass the part that is meant by itself")


def _agrees(name: str, top: Keys, inner: Keys) -> bool:
    """Whether a part has the same value as a key above it, under that name or within its rope dict."""
    value = top.values[name]
    if value == inner.values.get(name):
        return True
    given = next((keys for key in DICTS if (keys := inner.inner(key)) is not None), None)
    if name in DICTS:
        own = top.inner(name)
        if own is None or given is None:
            return False
        values = plain_rope_dict(given.values) | {
            "rope_theta": given.values.get("rope_theta", inner.values.get("rope_theta"))
        }
        return all(values.get(key) == here for key, here in plain_rope_dict(own.values).items())
    return name not in inner and given is not None and value == given.values.get(name)


def _parts(top: Keys) -> dict[str, Keys]:
    """Return the configurations within a configuration."""
    found = {}
    for name in top.matching(r"_config$"):
        value = top.values[name]
        if isinstance(value, Mapping) or callable(getattr(value, "to_dict", None)):
            inner = top.inner(name)
            if inner is not None and (
                "model_type" in inner or inner.has_any((*HIDDEN, *HEADS)) or _parts(inner)
            ):
                found[name] = inner
    return found


def attention_part(top: Keys) -> Keys | None:
    """Return the keys of the attention, which DBRX and MPT keep in an object of their own."""
    return top.inner("attn_config") if isinstance(top.values.get("attn_config"), Mapping) else None
