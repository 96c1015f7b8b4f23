"""Types for annotating code that calls the library.

`AnyArray` is an array of any supported library, `RealLike` a number of Python or NumPy, and `NestedReals`
numbers in lists. `CallOptions` holds the keyword arguments of an embedding's call. Each of the others is what
arguments of that name accept.
"""

from __future__ import annotations

from ._lib.public import show_as_public
from ._lib.typing import (
    AnyArray,
    BatchAxisLike,
    CallOptions,
    ConfigLike,
    CuSeqlensLike,
    DTypeLike,
    FrequenciesLike,
    NestedReals,
    OffsetLike,
    OutLike,
    PositionsLike,
    RealLike,
    SeqAxisLike,
)

__all__ = [
    "AnyArray",
    "BatchAxisLike",
    "CallOptions",
    "ConfigLike",
    "CuSeqlensLike",
    "DTypeLike",
    "FrequenciesLike",
    "NestedReals",
    "OffsetLike",
    "OutLike",
    "PositionsLike",
    "RealLike",
    "SeqAxisLike",
]

show_as_public(globals())


def __dir__() -> list[str]:
    """Show what is public."""
    return __all__
