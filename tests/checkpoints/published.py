"""Configurations of published checkpoints, and the embeddings that they mean: data/published.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from rotary import RotaryEmbedding, scaling, sections

FILE = Path(__file__).parent / "data" / "published.toml"


def configuration(entry):
    """The configuration as it was published."""
    keys = entry["config"]
    for name in entry.get("null", ()):
        *path, last = name.split(".")
        inner = keys
        for key in path:
            inner = inner[key]
        inner[last] = None
    return keys


def embedding(arguments):
    """The embedding of arguments in which objects are tables with a kind."""
    made = dict(arguments)
    if "scaling" in made:
        fields = dict(made["scaling"])
        made["scaling"] = getattr(scaling, fields.pop("kind"))(**fields)
    if "sections" in made:
        made["sections"] = getattr(sections, made["sections"]["kind"])(*made["sections"]["sizes"])
    return RotaryEmbedding(**made)


# Name to (configuration, kind of layer, embedding).
PUBLISHED = {
    name: (configuration(entry), entry.get("layer_type"), embedding(entry["expected"]))
    for name, entry in tomllib.loads(FILE.read_text(encoding="utf-8")).items()
}
