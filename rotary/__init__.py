"""Rotary position embeddings, exact and fast, for NumPy and every array library."""

from __future__ import annotations

from importlib.metadata import version

from . import layouts, positions, scaling
from ._errors import ConfigError
from .config import show_config, warm_up
from .embedding import RotaryEmbedding
from .functions import apply_rotary, cos_sin, inv_freq, sinusoidal
from .layouts import permute_weights
from .tables import cache_clear, cache_info, set_cache_limit
from .threads import threads

__version__ = version("rotary")

__all__ = [
    "ConfigError",
    "RotaryEmbedding",
    "apply_rotary",
    "cache_clear",
    "cache_info",
    "cos_sin",
    "inv_freq",
    "layouts",
    "permute_weights",
    "positions",
    "scaling",
    "set_cache_limit",
    "show_config",
    "sinusoidal",
    "threads",
    "warm_up",
]
