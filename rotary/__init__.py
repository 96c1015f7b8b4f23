"""Rotary position embeddings, exact and fast, for NumPy and every array library."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import formats, layouts, positions, scaling, sections
from ._lib.errors import ConfigError
from ._lib.public import show_as_public
from .cli.report import show_config, warm_up
from .decay import XPos
from .embedding import RotaryEmbedding
from .functions import apply_rotary, cos_sin, inv_freq, sinusoidal
from .layouts import permute_weights
from .norm import RMSNorm
from .runtime.pool import set_pool_limit
from .runtime.threads import threads
from .tables.windows import cache_clear, cache_info, set_cache_limit

__all__ = [
    "ConfigError",
    "DialectComparison",
    "Preset",
    "Presets",
    "RMSNorm",
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

# What reads checkpoints is imported when it is first asked for, because it takes a fifth of the time.
_OF_CHECKPOINTS = {
    "compare": ("DialectComparison", "compare_dialects"),
    "config": ("from_config",),
    "gguf": ("from_gguf",),
    "presets": ("Preset", "Presets", "preset", "presets"),
}

show_as_public(globals())


def __dir__() -> list[str]:
    """Show what is public, and not the modules that it comes from."""
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    # If they saw `__getattr__`, type checkers would accept every name.
    from .checkpoints.compare import DialectComparison, compare_dialects
    from .checkpoints.config import from_config
    from .checkpoints.gguf import from_gguf
    from .checkpoints.presets import Preset, Presets, preset, presets

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Import what reads checkpoints, and look the version up, which also takes time, when they are asked for."""
        if name == "__version__":
            from importlib.metadata import version

            return version("rotary")
        for module, names in _OF_CHECKPOINTS.items():
            if name in names:
                found = vars(import_module(f".checkpoints.{module}", __name__))
                globals().update((each, found[each]) for each in names)
                show_as_public(globals())
                return found[name]
        msg = f"module 'rotary' has no attribute {name!r}"
        raise AttributeError(msg)
