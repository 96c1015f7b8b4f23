"""Conversions between half-wide tables and the formats in which other programs store cosine and sine.

`RotaryEmbedding.tables` returns half-wide tables: arrays of cosines and of sines that are half as wide as the rotated
channels. Each function ``to_x`` converts half-wide tables to one format. ``from_x`` converts back, to float32 or
float64, in the library of the table. It reads values on the host, and raises for a table whose width, copies or values
belong to another format.
"""

from __future__ import annotations

from rotary._lib.public import show_as_public

from .angles import from_angles, from_complex, to_angles, to_complex
from .base import attention_factor
from .onnx import OnnxNode, from_onnx, to_onnx
from .tables import (
    from_concatenated,
    from_full_width,
    from_ggml,
    from_pairs,
    to_concatenated,
    to_full_width,
    to_ggml,
    to_pairs,
)

__all__ = [
    "OnnxNode",
    "attention_factor",
    "from_angles",
    "from_complex",
    "from_concatenated",
    "from_full_width",
    "from_ggml",
    "from_onnx",
    "from_pairs",
    "to_angles",
    "to_complex",
    "to_concatenated",
    "to_full_width",
    "to_ggml",
    "to_onnx",
    "to_pairs",
]

show_as_public(globals())


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
