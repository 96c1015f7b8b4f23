"""The decay of xPos: a position-dependent scale that is applied together with the rotation."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Literal, TypeAlias

from ._lib import hints
from ._lib.checks import as_float, as_positive_float
from ._lib.fields import checked
from .layouts import Layout, check_layout

__all__ = ["ROLES", "Role", "XPos"]

Role: TypeAlias = Literal["query", "key"]

ROLES: tuple[Role, Role] = ("query", "key")


def __dir__() -> list[str]:
    return __all__


@hints.constructor
@dataclass(frozen=True)
class XPos:
    """Scale queries by ``zeta[i] ** ((position - center) / scale_base)``, and keys by its inverse.

    Here ``zeta[i] = (2 i + gamma * d) / ((1 + gamma) * d)`` for channel pair i of d rotated channels. Attention scores
    therefore have the factor ``zeta[i] ** (distance / scale_base)``: pairs with a high frequency decay fastest.

    Parameters
    ----------
    scale_base : float, default 512
        Distance from `center`, in positions, at which the scale equals zeta; positive.
    center : float
        Position whose scale is 1. Queries and keys must share it. There is no default, because programs disagree:
        flash-attention uses half the length of the call, Toto half of the greatest position. Positions far from
        the center have scales outside the range of the dtype.
    scale_layout : {"half", "interleaved"}, optional
        Layout that decides which two channels share a scale. The default is the `output_layout` of the embedding,
        so that the two channels of a pair have the same scale. Toto 1 rotates interleaved pairs but lays out its
        scales as "half".
    gamma : float, default 0.4
        Positive; a larger value makes the fastest pair decay less.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a value is out of range.

    Notes
    -----
    The formula is that of Sun et al., "A Length-Extrapolatable Transformer", 2022 (arXiv:2212.10554), and of
    flash-attention, ``flash_attn/layers/rotary.py``. Scales are float64 powers. The table is computed in float64 for
    each call and rounded once. A position whose scale is outside the range of the table dtype raises an error.

    Examples
    --------
    >>> import numpy as np
    >>> import rotary
    >>> rope = rotary.RotaryEmbedding(
    ...     8, layout="half", base=10_000.0, decay=rotary.XPos(512, center=0)
    ... )
    >>> q, k = rope(np.ones((100, 8)), np.ones((100, 8)))
    >>> near, far = q[50] @ k[50], q[50] @ k[0]
    >>> bool(near > far)
    True
    """

    scale_base: float = field(default=512.0, metadata=checked(as_positive_float))
    _: KW_ONLY
    center: float = field(metadata=checked(as_float))
    scale_layout: Layout | None = field(
        default=None,
        metadata=checked(lambda value, name: None if value is None else check_layout(value, name)),
    )
    gamma: float = field(default=0.4, metadata=checked(as_positive_float))

    def __post_init__(self) -> None:
        for each in fields(self):
            value = each.metadata["check"](getattr(self, each.name), each.name)
            object.__setattr__(self, each.name, value)

    def zeta(self, pairs: int) -> tuple[float, ...]:
        """Return zeta for every channel pair.

        Parameters
        ----------
        pairs : int
            The number of rotated channel pairs.

        Returns
        -------
        tuple of float
            Zeta of each pair, from the fastest pair to the slowest; zeta is below 1.

        Examples
        --------
        >>> import rotary
        >>> rotary.XPos(512, center=0, gamma=1.0).zeta(4)
        (0.5, 0.625, 0.75, 0.875)
        """
        d = 2 * pairs
        return tuple((2 * i + self.gamma * d) / ((1 + self.gamma) * d) for i in range(pairs))
