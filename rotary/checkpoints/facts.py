"""Facts about models, which are data: files of rotary/checkpoints/data/models."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["facts"]


@cache
def facts(file: str) -> dict[str, Any]:
    """Return the tables of a file, read when they are first needed; callers must not change them."""
    import tomllib
    from importlib.resources import files

    path = files(__package__).joinpath("data", "models", file)
    return tomllib.loads(path.read_text(encoding="utf-8"))
