"""Raises for keys that seem to concern rotary embeddings but are not known."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from rotary._lib.errors import shown

from .key_names import BASES, FRACTIONS, INTERLEAVED, LOOKS_LIKE_ROPE, ROPE_DICTS
from .language_model import attention_part
from .models import Model
from .reader import Keys, suggest_name

__all__ = ["check_is_text", "check_rope_keys"]

# Known keys of the top level. Another key that looks like a rope key is refused.
_ROPE_KEYS = {
    *BASES,
    *FRACTIONS,
    *INTERLEAVED,
    *ROPE_DICTS,
    "rotary_dim",
    "rope_local_base_freq",
    "global_rope_theta",
    "local_rope_theta",
    "compress_rope_theta",
    "swa_rope_theta",
    "layer_rope_theta",
    "no_rope_layers",
    "no_rope_layer_interval",
    "rope_scaling_layers",
    "qk_rope_head_dim",
    "indexer_rope_interleave",
    "rotary_value",
    "use_mem_rope",
}
# The most important keys, without separators. If one is misspelt, a default would apply silently.
_PLAIN_KEYS = ("ropetheta", "ropescaling", "ropeparameters", "partialrotaryfactor")
_SIMILARITY = 0.88
# Patterns of keys that disable rotary, and of keys whose value is the kind of position embedding.
_DISABLES = r"(^|_)(alibi|nope|norope|no_rope)(_|$)"
_WIDTHS_WITHOUT = ("qk_nope_head_dim",)
_POSITIONS = r"^(rel_)?pos(ition(al)?)?_(embed(ding)?s?|emb|encoding)(_type|_name|_kind)?$"
_MEANS_ROPE = r"(^|[^a-z])(rope|rotary|mrope)([^a-z]|$)"
# Switches in published configurations, each with the value that changes nothing.
_SWITCHES: dict[str, Any] = {
    **dict.fromkeys(("rope", "rotary", "use_rope", "use_rotary", "use_rotary_pos_emb"), True),
    **dict.fromkeys(("use_rotary_embedding", "use_rotary_embeddings", "original_rope"), True),
    **dict.fromkeys(("use_mrope", "use_scaled_rope", "use_dynamic_ntk"), False),
    **dict.fromkeys(("position_embedding_xdrope", "rope_3d"), False),
    **dict.fromkeys(("rotary_scaling_factor", "rope_position_scale"), 1.0),
}
# Keys that never change the frequencies.
_UNRELATED = ("rope_full_precision", "rope_max_length")
# Advice about keys of models whose code is not part of transformers.
_ADVICE = {
    **dict.fromkeys(
        ("rope", "rotary", "use_rope", "use_rotary", "use_rotary_pos_emb"),
        "see the model's own code for the effect of false",
    ),
    "partial_rotary_factors": "write rope_parameters, with an object for each kind of layer",
    "rope_3d": "the order of the sections depends on the model; in Ernie 4.5-VL it is rotary.sections.ernie",
    "rope_ratio": "ChatGLM rotates half of each head, interleaved, with the base 10000 * rope_ratio: write this base "
    "as rope_theta, and partial_rotary_factor 0.5",
    **dict.fromkeys(
        ("rope_type", "mrope_section", "mrope_interleaved", "xdrope_section"),
        "move it into rope_parameters, or into rope_scaling in older configurations",
    ),
    "rotary_scaling_factor": "write rope_scaling, with the rope_type of the model's own code, often 'dynamic'",
    "use_dynamic_ntk": "the base grows with the length by a formula in the model's own code; write false if all "
    "positions are below seq_length",
    "use_mrope": "write mrope_section",
    "use_scaled_rope": "write rope_scaling, with the rope_type 'llama3' and its factors",
}


def check_rope_keys(top: Keys, model: Model | None) -> None:
    """Raise for keys that look like rope keys but are not known."""
    attention = attention_part(top)
    if attention is not None:
        check_rope_keys(attention, model)
    _check_switches(top, model)
    for key in [*top.matching(LOOKS_LIKE_ROPE), *_misspelt(top)]:
        if key in _ROPE_KEYS or key in _UNRELATED or key.startswith("memory_attention_rope"):
            continue
        if key in _SWITCHES and top.values[key] == _SWITCHES[key]:
            continue
        hint = suggest_name(key.lower(), _ROPE_KEYS)
        leave = f"{hint} Leave" if hint.startswith("did you mean") else "leave"
        advice = _ADVICE.get(key, f"{leave} it out if it changes nothing")
        top.fail(key, "is not a known rope key", shown(top.values[key]), advice)


def _misspelt(top: Keys) -> list[str]:
    """Return keys that are similar to the most important rope keys, such as `ropeTheta` or `rop_theta`."""
    found = []
    for key in top.matching(r"^.{7,25}$"):
        plain = re.sub("[^a-z]", "", key.lower())
        if key not in _ROPE_KEYS and get_close_matches(plain, _PLAIN_KEYS, n=1, cutoff=_SIMILARITY):
            found.append(key)
    return found


def _check_switches(top: Keys, model: Model | None) -> None:
    """Raise for keys that disable rotary or name another position embedding, unless the model type reads them."""
    read = {"mla_use_nope", "no_rope_layers", "no_rope_layer_interval"}
    if model is not None and model.only is not None:
        read.add(model.only[0])
    code = (
        "the model's own code" if model is None else f"the code of model type {shown(model.name)}"
    )
    why = f"because {code} is not known to read it"
    for key in top.matching(_DISABLES):
        value = top.values[key]
        if key in read or key in _WIDTHS_WITHOUT or not value or isinstance(value, str):
            continue
        advice = "for layers without rotary, write `no_rope_layers`, or null in rope_parameters"
        top.fail(key, f"must be false or left out, {why}", shown(value), advice)
    for key in top.matching(_POSITIONS):
        value = top.values[key]
        if key in read or not isinstance(value, str) or re.search(_MEANS_ROPE, value.lower()):
            continue
        advice = "this library has no other position embedding"
        top.fail(key, f"must be 'rope' or left out, {why}", shown(value), advice)


def check_is_text(top: Keys, model: Model | None) -> None:
    """Raise for image encoders, whose patches have two position axes."""
    marks = ("image_size", "spatial_merge_size")
    if "patch_size" in top and top.has_any(marks) and (model is None or model.sections):
        must = (
            "must be left out: the key belongs to an image encoder, and the configuration does not give the order "
            "of the two position axes of its patches"
        )
        advice = "build the embedding with rotary.sections.axial, or use a preset"
        top.fail("patch_size", must, shown(top.values["patch_size"]), advice)
