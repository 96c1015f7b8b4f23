"""LongRoPE: one factor for each channel pair, searched for and published with the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rotary._lib import hints
from rotary._lib.fields import Derived
from rotary._lib.typing import Float64Array
from rotary.angles.powers import powers

from .base import (
    DERIVED,
    FACTORS,
    LENGTH,
    LENGTH_OR_NONE,
    POSITIVE_OR_NONE,
    CheckedScaling,
    Resolved,
    check_count,
    fill,
)

__all__ = [
    "LongRope",
]


@hints.constructor
@dataclass(frozen=True, repr=False)
class LongRope(CheckedScaling):
    """A factor for every lane, found by search: ``inv_freq[i] / short_factor[i]`` or ``long_factor[i]``.

    The long factors hold where `context_length` is above `original_max_position`.

    Parameters
    ----------
    short_factor, long_factor : array_like (dim/2,)
        Positive divisors of the frequencies.
    original_max_position : int
        The context length of the training before: original_max_position_embeddings.
    factor : float, optional
        How many times longer the context is: S in the attention factor, ``sqrt(1 + ln(S) /
        ln(original_max_position))``, which is 1 where S is at most 1.
    max_position : int, optional
        The length of the extended context, max_position_embeddings, in place of `factor`: S is
        ``max_position / original_max_position``.
    attention_factor : float, optional
        Factor on cosine and sine, in place of the formula. What an object has under this name holds
        beyond `original_max_position`; `attention_factor_at` tells both.
    short_mscale, long_mscale : float, optional
        The factor up to `original_max_position`, and beyond, in place of the formula; not together
        with `attention_factor`.

    Raises
    ------
    TypeError
        If a value is of the wrong kind, or nothing says what the attention factor is.
    ValueError
        If a value is not positive and finite, the lists differ in length, or two say the same.

    Notes
    -----
    Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", 2024
    (arXiv:2402.13753); LongRoPE2 (arXiv:2502.20082) has the same form. The formula of the attention
    factor is that of transformers (modeling_rope_utils.py) and of Phi-3's own code, where older
    configurations call the schedule "su"; separate mscales are vLLM's
    (phi3_long_rope_scaled_rope.py).

    Implementations switch to the long factors at different moments: by the longest position of a
    batch (transformers), by the configured length (vLLM), always (mlx-lm). Here it is the embedding's
    `context_length`, and positions beyond it are refused. Cached keys do not survive the switch;
    choose a `context_length` that the whole sequence will stay below.

    Use it where the checkpoint says "longrope" or "su": Phi-3 and later, MiniCPM. Factors of 1 give
    the bits of `Default`.

    Examples
    --------
    >>> from rotary import scaling
    >>> schedule = scaling.LongRope(
    ...     short_factor=[1.0, 1.0], long_factor=[1.0, 4.0], original_max_position=4096, factor=32
    ... )
    >>> schedule.inv_freq(4, 10_000.0, 4096)
    array([1.  , 0.01])
    >>> schedule.inv_freq(4, 10_000.0, 4097)
    array([1.    , 0.0025])
    >>> round(schedule.attention_factor, 6)
    1.190238
    """

    short_factor: Sequence[float] = field(metadata=FACTORS)
    long_factor: Sequence[float] = field(metadata=FACTORS)
    original_max_position: int = field(metadata=LENGTH)
    factor: float | None = field(default=None, metadata=POSITIVE_OR_NONE)
    max_position: int | None = field(default=None, metadata=LENGTH_OR_NONE)
    attention_factor: float = field(default=DERIVED, metadata=POSITIVE_OR_NONE)
    short_mscale: float | None = field(default=None, metadata=POSITIVE_OR_NONE)
    long_mscale: float | None = field(default=None, metadata=POSITIVE_OR_NONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.short_factor) != len(self.long_factor):
            msg = (
                f"`long_factor` must be as long as `short_factor`, {len(self.short_factor)} numbers, "
                f"got {len(self.long_factor)}"
            )
            raise ValueError(msg)
        if self.factor is not None and self.max_position is not None:
            msg = f"`factor` and `max_position` must not both be given, got {self.factor} and {self.max_position}"
            raise ValueError(msg)
        mscales = (self.short_mscale, self.long_mscale)
        given = not fill(self, "attention_factor", self._attention_factor)
        if given and mscales != (None, None):
            msg = (
                "`attention_factor` must be left out where `short_mscale` or `long_mscale` is given, "
                f"got {self.attention_factor}"
            )
            raise ValueError(msg)

    @property
    def _stretch(self) -> float | None:
        """How many times longer the context is, where that was said."""
        if self.max_position is not None:
            return self.max_position / self.original_max_position
        return self.factor

    def _formula(self) -> float:
        """Return the attention factor that follows from the stretch."""
        stretch = self._stretch
        if stretch is None:
            msg = (
                "`factor` must be given, or `max_position`, `attention_factor`, or both `short_mscale` and "
                "`long_mscale`: the attention factor follows from it. Where a configuration has no factor, "
                "it is max_position_embeddings / original_max_position_embeddings"
            )
            raise TypeError(msg)
        if stretch <= 1.0:
            return 1.0
        if self.original_max_position == 1:
            msg = "`original_max_position` must be above 1 where the context grows, got 1"
            raise ValueError(msg)
        return math.sqrt(1.0 + math.log(stretch) / math.log(self.original_max_position))

    def _attention_factor(self) -> Derived:
        """Return the factor beyond the original context, and its words."""
        if self.short_mscale is None:
            self._formula()  # so that a factor that is missing is told at once
        if self.long_mscale is not None:
            return Derived(self.long_mscale, "long_mscale")
        return Derived(self._formula(), "sqrt(1 + ln(factor) / ln(original_max_position))")

    @property
    def needs_length(self) -> bool:
        """Whether the frequencies depend on the context length: True."""
        return True

    def attention_factor_at(self, context_length: int | None) -> float:
        """Return the factor on cosine and sine at a context length.

        Parameters
        ----------
        context_length : int or None
            None counts as beyond `original_max_position`.

        Returns
        -------
        float
        """
        if self._is_long(context_length):
            return float(self.attention_factor)
        if self.short_mscale is not None:
            return self.short_mscale
        return self._formula() if self.long_mscale is not None else float(self.attention_factor)

    def _is_long(self, context_length: int | None) -> bool:
        """Whether the long factors hold."""
        return context_length is None or context_length > self.original_max_position

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        long = self._is_long(context_length)
        factors = self.long_factor if long else self.short_factor
        check_count(factors, "long_factor" if long else "short_factor", dim)
        return powers(base, dim) / np.array(factors, dtype=np.float64)

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        long = self._is_long(context_length)
        compared = "above" if long else "not above"
        chosen = "long_factor" if long else "short_factor"
        origin = f"derived: context_length {context_length} is {compared} original_max_position"
        lines: list[Resolved] = [("factors", chosen, origin)]
        if self.max_position is not None:
            origin = "derived: max_position / original_max_position"
            lines.append(("stretch", self._stretch, origin))
        return lines
