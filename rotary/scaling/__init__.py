"""Schedules: classes that compute inverse frequencies and the attention factor from base and context length."""

from __future__ import annotations

from rotary._lib.public import show_as_public

from .base import Scaling
from .llama3 import Llama3
from .longrope import LongRope
from .modifiers import Clip, FreqFactors, Resonance
from .ntk import NTK, DynamicNTK
from .plain import Constant, Custom, Default, Linear, Periods, Pixel, Proportional
from .yarn import Yarn

__all__ = [
    "NTK",
    "Clip",
    "Constant",
    "Custom",
    "Default",
    "DynamicNTK",
    "FreqFactors",
    "Linear",
    "Llama3",
    "LongRope",
    "Periods",
    "Pixel",
    "Proportional",
    "Resonance",
    "Scaling",
    "Yarn",
]

show_as_public(globals())


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
