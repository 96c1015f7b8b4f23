"""Names for the kinds of value that travel through the library."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

# The array types of the supported libraries share no base class, and the library imports none
# of them, so an array of unknown origin is `Any` to a type checker.
Array: TypeAlias = Any
Namespace: TypeAlias = Any

Float64Array: TypeAlias = npt.NDArray[np.float64]
Int64Array: TypeAlias = npt.NDArray[np.int64]
HostArray: TypeAlias = npt.NDArray[Any]
TableDType: TypeAlias = Literal["float32", "float64"]
