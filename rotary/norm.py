"""QK-norm: the root-mean-square norm of queries and keys, before or after their rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from ._lib import hints, libraries
from ._lib.checks import as_bool, as_choice, as_positive_float
from ._lib.errors import shown
from ._lib.numbers import check_dense, check_without_unit
from ._lib.typing import AnyArray, Array, NestedReals

__all__ = ["RMSNorm"]

# The weight of one array: None if it is normed without weight, False if it is only rotated.
WeightLike: TypeAlias = AnyArray | NestedReals | Literal[False] | None

ORDERS = ("before", "after")
KINDS = ("rms", "l2")
OVER = ("head", "token")


def __dir__() -> list[str]:
    """Show what is public."""
    return __all__


@dataclass(frozen=True, init=False, repr=False, eq=False)
class RMSNorm:
    """Norm queries and keys in the pass that rotates them, as ``rope(q, k, norm=...)``.

    An array x becomes ``rotate(x / sqrt(mean(x * x) + eps) * weight)``. The mean is over all channels of the last axis,
    rotated or not.

    Parameters
    ----------
    *weights : array_like (D,) or (H, D), None or False
        One for each array of the call, or one for all of them. A weight has D channels, or D for each of the H heads.
        An array with the weight None is normed without one, and an array with False is only rotated. Weights have a
        floating dtype, and are arrays of NumPy or of the library of the arrays that are rotated. Lists are copied.
    eps : float, default 1e-6
        What is added to the mean, or to the sum, of the squares; positive.
    unit_offset : bool, default False
        Whether arrays are multiplied by ``weight + 1``, as in Gemma.
    order : {"before", "after"}, default "before"
        Whether arrays are normed before or after their rotation. Weights have the order of channels of `layout` before
        it and of `output_layout` after it.
    kind : {"rms", "l2"}, default "rms"
        Whether the mean or the sum of the squares is divided by: "l2" is ``x / sqrt(sum(x * x) + eps)``.
    over : {"head", "token"}, default "head"
        Whether the squares are those of one head, or of all heads of a token, as in OLMo 2. Weights are then (H, D) or
        (H * D,).

    Attributes
    ----------
    weights : tuple
        As given.
    eps, unit_offset, order, kind, over
        The same.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or no weight is given.
    ValueError
        If a value does not fit.

    See Also
    --------
    rotary.RotaryEmbedding : whose call takes a norm, and whose `vjp` gives the gradients of weights.

    Notes
    -----
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019 (arXiv:1910.07467); Henry et al., "Query-Key
    Normalization for Transformers", 2020 (arXiv:2010.04245). The formulas are those of transformers: ``Qwen3RMSNorm``,
    ``Gemma3RMSNorm`` with `unit_offset`, ``Olmo2RMSNorm`` over the token, and ``HunYuanDenseV1RMSNorm`` after the
    rotation. The class ``Llama4TextL2Norm`` has the formula of the kind "rms", whatever its name says.

    float16, bfloat16 and float32 arrays are normed and rotated in float32, float64 ones in float64, and the result is
    rounded once. An element differs from the exact result by at most 16 unit roundoffs of the largest element of its
    row, and by that one rounding.

    A norm holds its weights and copies none: a weight that is changed in place counts in the next call. Norms are
    compared by identity.

    The axis of heads is the one axis of an array that is neither batch, sequence nor channels.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> rope = rotary.RotaryEmbedding(4, layout="half", base=100.0)
    >>> norm = rotary.RMSNorm(np.array([1.0, 2.0, 1.0, 2.0]), eps=1e-6)
    >>> x = np.array([[3.0, 4.0, 0.0, 0.0]])
    >>> rope(x, norm=norm).round(4)
    array([[1.2, 3.2, 0. , 0. ]])
    """

    weights: tuple[AnyArray | Literal[False] | None, ...]
    eps: float
    unit_offset: bool
    order: Literal["before", "after"]
    kind: Literal["rms", "l2"]
    over: Literal["head", "token"]

    @hints.named
    def __init__(
        self,
        *weights: WeightLike,
        eps: float = 1e-6,
        unit_offset: bool = False,
        order: Literal["before", "after"] = "before",
        kind: Literal["rms", "l2"] = "rms",
        over: Literal["head", "token"] = "head",
    ) -> None:
        if not weights:
            msg = "`weights` must be one for each array, or one for all, got none; None norms without a weight"
            raise TypeError(msg)
        values = {
            "weights": tuple(map(_checked_weight, weights)),
            "eps": as_positive_float(eps, "eps"),
            "unit_offset": as_bool(unit_offset, "unit_offset"),
            "order": as_choice(order, "order", ORDERS),
            "kind": as_choice(kind, "kind", KINDS),
            "over": as_choice(over, "over", OVER),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        parts = [
            repr(weight)
            if weight is None or weight is False
            else f"<{libraries.dtype_name(weight)} {tuple(weight.shape)}>"
            for weight in self.weights
        ]
        parts.append(f"eps={self.eps!r}")
        for name, default in (
            ("unit_offset", False),
            ("order", "before"),
            ("kind", "rms"),
            ("over", "head"),
        ):
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return f"RMSNorm({', '.join(parts)})"


def _checked_weight(weight: Any) -> Array | Literal[False] | None:
    """Return a weight that can norm arrays: an array, None or False."""
    if weight is None or weight is False:
        return weight
    if isinstance(weight, list | tuple):
        weight = _from_list(weight)
    check_without_unit(weight, "weights")
    if not libraries.is_array(weight):
        msg = f"`weights` must be arrays, None or False, got {shown(weight)} of type {type(weight).__name__}"
        raise TypeError(msg)
    check_dense(weight, "weights")
    if libraries.is_masked_or_matrix(weight):
        msg = f"`weights` must be plain arrays, got {type(weight).__name__}"
        raise TypeError(msg)
    if libraries.dtype_name(weight) not in libraries.FLOATS:
        msg = f"`weights` must have one of the dtypes {', '.join(sorted(libraries.FLOATS))}, got {weight.dtype}"
        raise TypeError(msg)
    if len(weight.shape) not in (1, 2):
        msg = f"`weights` must have shape (D,) or (H, D), got {tuple(weight.shape)}"
        raise ValueError(msg)
    return weight


def _from_list(weight: list[Any] | tuple[Any, ...]) -> Array:
    """Return the real numbers of a list as a float64 array of its own."""
    try:
        values = np.array(weight)
    except ValueError as error:  # rows of different lengths
        msg = f"`weights` must have shape (D,) or (H, D), got {shown(weight)}"
        raise ValueError(msg) from error
    if values.dtype.kind not in "iuf":
        msg = f"`weights` must be real numbers, got {shown(weight)}"
        raise TypeError(msg)
    return values.astype(np.float64)
