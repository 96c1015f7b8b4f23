"""Reads facts about models from the files in rotary/checkpoints/data/models."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["facts"]


@cache
def facts(file: str) -> dict[str, Any]:
    """Return the tables of a file. The result is cached, so callers must not change it."""
    import tomllib
    from importlib.resources import files

    path = files(__package__).joinpath("data", "models", file)
    return tomllib.loads(path.read_text(encoding="utf-8"))
