"""Exact positions from masks, packed sequences, grids, times, even steps, mixed sequences and long contexts."""

from __future__ import annotations

from rotary._lib.public import show_as_public

from .distances import DualChunk, NearFar, dual_chunk, rerope, self_extend
from .grids import grid
from .mixed import Audio, Image, Mixed, Text, Video, mixed
from .packed import from_mask, ragged, zigzag
from .steps import steps
from .times import Clock, timestamps

__all__ = [
    "Audio",
    "Clock",
    "DualChunk",
    "Image",
    "Mixed",
    "NearFar",
    "Text",
    "Video",
    "dual_chunk",
    "from_mask",
    "grid",
    "mixed",
    "ragged",
    "rerope",
    "self_extend",
    "steps",
    "timestamps",
    "zigzag",
]

show_as_public(globals())


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
