"""The decay xPos: a scale by position besides the rotation, so that attention decays with distance."""

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
    """Show what is public."""
    return __all__


@hints.constructor
@dataclass(frozen=True)
class XPos:
    """Scale queries by ``zeta[i] ** ((position - center) / scale_base)``, and keys by its inverse.

    With ``zeta[i] = (2 i + gamma * d) / ((1 + gamma) * d)`` for pair i of d rotated channels. Scores then
    carry ``zeta[i] ** (distance / scale_base)``: fast pairs decay fast.

    Parameters
    ----------
    scale_base : float, default 512
        The number of positions after which the scale is zeta itself; positive.
    center : float
        The position whose scale is 1. Queries and keys must share it. It has no default because programs
        disagree: flash-attention takes half the length of the call, Toto half of the greatest position.
        Positions far from it have scales outside the range of the dtype.
    scale_layout : {"half", "interleaved"}, optional
        The layout by which pairs of channels share a scale. By default the embedding's `output_layout`, so that
        both channels of a pair have one scale. Toto 1 rotates interleaved pairs, and its scales are in halves.
    gamma : float, default 0.4
        The larger, the less the fastest pair decays; positive.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If it does not fit.

    Notes
    -----
    Sun et al., "A Length-Extrapolatable Transformer", 2022 (arXiv:2212.10554); flash-attention,
    ``flash_attn/layers/rotary.py``. Scales are float64 powers. The table is computed in float64 for each call and
    rounded once. A position whose scale leaves the range of the table's dtype raises an error.

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
        for own in fields(self):
            value = own.metadata["check"](getattr(self, own.name), own.name)
            object.__setattr__(self, own.name, value)

    def zeta(self, pairs: int) -> tuple[float, ...]:
        """Return zeta of every pair.

        Parameters
        ----------
        pairs : int
            How many pairs are rotated.

        Returns
        -------
        tuple of float

        Examples
        --------
        >>> import rotary
        >>> rotary.XPos(512, center=0, gamma=1.0).zeta(4)
        (0.5, 0.625, 0.75, 0.875)
        """
        d = 2 * pairs
        return tuple((2 * i + self.gamma * d) / ((1 + self.gamma) * d) for i in range(pairs))
