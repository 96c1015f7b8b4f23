"""Types of arguments and results: public types, which `rotary.typing` exports, and types for internal use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

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

# ------------------------------------------------------------------------------------------------
# Public.


class AnyArray(Protocol):
    """An array of any supported library.

    The array types of the libraries share no base class, so this protocol asks for two attributes that all have.
    """

    @property
    def shape(self) -> Any:
        """The size of each axis."""

    @property
    def dtype(self) -> Any:
        """The type of the elements."""


RealLike: TypeAlias = float | np.integer[Any] | np.floating[Any]


class NestedReals(Protocol):
    """Numbers in lists, tuples or ranges, nested or not.

    `__contains__` excludes strings, because the `__contains__` of a string accepts strings only.
    """

    def __len__(self) -> int: ...
    def __contains__(self, value: object, /) -> bool: ...
    def __getitem__(self, index: int, /) -> RealLike | AnyArray | NestedReals: ...


PositionsLike: TypeAlias = AnyArray | RealLike | NestedReals
OffsetLike: TypeAlias = AnyArray | RealLike | NestedReals
CuSeqlensLike: TypeAlias = AnyArray | Sequence[int]
SeqAxisLike: TypeAlias = int | tuple[int | None, ...] | None
BatchAxis: TypeAlias = int | Literal[False] | None
BatchAxisLike: TypeAlias = BatchAxis | tuple[BatchAxis, ...]
OutLike: TypeAlias = AnyArray | Sequence[AnyArray] | None
FrequenciesLike: TypeAlias = AnyArray | NestedReals
# The dtypes of the libraries share no base class and no attribute.
DTypeLike: TypeAlias = object
# A path, a mapping, or an object of another library with any attributes.
ConfigLike: TypeAlias = object


class PositionOptions(TypedDict, total=False):
    """The keyword arguments that a call of `rotary.RotaryEmbedding` shares with `shift`."""

    positions: PositionsLike | None
    offset: OffsetLike | None
    cu_seqlens: CuSeqlensLike | None
    role: Literal["query", "key"] | None
    seq_axis: SeqAxisLike
    batch_axis: BatchAxisLike
    out: OutLike


class CallOptions(PositionOptions, total=False):
    """The keyword arguments of a call of `rotary.RotaryEmbedding`, of `inverse` and of `vjp`."""

    inv_freq: FrequenciesLike | None


# ------------------------------------------------------------------------------------------------
# Internal.

ArrayT = TypeVar("ArrayT", bound=AnyArray)
ArrayT2 = TypeVar("ArrayT2", bound=AnyArray)

# Internal code uses operations that not every array library has, so the type is Any.
Array: TypeAlias = Any
Namespace: TypeAlias = Any

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int64Array: TypeAlias = npt.NDArray[np.int64]
HostArray: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
ComplexArray: TypeAlias = npt.NDArray[np.complexfloating[Any, Any]]
# Positions for which tables are NumPy arrays.
HostPositions: TypeAlias = HostArray | RealLike | NestedReals
TableDType: TypeAlias = Literal["float32", "float64"]
