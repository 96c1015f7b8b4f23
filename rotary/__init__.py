"""Rotary position embeddings, exact and fast, for NumPy and every array library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import formats, layouts, positions, scaling, sections
from ._lib.errors import ConfigError
from ._lib.public import show_as_public
from .checkpoints.compare import DialectComparison, compare_dialects
from .checkpoints.config import from_config
from .checkpoints.gguf import from_gguf
from .checkpoints.presets import Preset, Presets, preset, presets
from .cli.report import show_config, warm_up
from .decay import XPos
from .embedding import RotaryEmbedding
from .functions import apply_rotary, cos_sin, inv_freq, sinusoidal
from .layouts import permute_weights
from .runtime.pool import set_pool_limit
from .runtime.threads import threads
from .tables.windows import cache_clear, cache_info, set_cache_limit

__all__ = [
    "ConfigError",
    "DialectComparison",
    "Preset",
    "Presets",
    "RotaryEmbedding",
    "XPos",
    "apply_rotary",
    "cache_clear",
    "cache_info",
    "compare_dialects",
    "cos_sin",
    "formats",
    "from_config",
    "from_gguf",
    "inv_freq",
    "layouts",
    "permute_weights",
    "positions",
    "preset",
    "presets",
    "scaling",
    "sections",
    "set_cache_limit",
    "set_pool_limit",
    "show_config",
    "sinusoidal",
    "threads",
    "warm_up",
]

show_as_public(globals())


def __dir__() -> list[str]:
    """Show what is public, and not the modules that it comes from."""
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    # If they saw `__getattr__`, type checkers would accept every name.
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look the version up when it is asked for: the library that reads it is slow to import."""
        if name != "__version__":
            msg = f"module 'rotary' has no attribute {name!r}"
            raise AttributeError(msg)
        from importlib.metadata import version

        return version("rotary")
