"""LongRoPE, which divides each frequency by a separate factor from the checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rotary._lib import hints
from rotary._lib.fields import Derived
from rotary._lib.typing import Float64Array, FrequenciesLike
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
    """A divisor for every frequency: ``inv_freq[i] / short_factor[i]`` or ``inv_freq[i] / long_factor[i]``.

    The long factors apply if `context_length` is above `original_max_position`. Both lists of factors are the results
    of a search and part of the configuration of the checkpoint.

    Parameters
    ----------
    short_factor, long_factor : array_like (dim/2,)
        Positive divisors of the frequencies.
    original_max_position : int
        The context length before the extension: original_max_position_embeddings.
    factor : float, optional
        The ratio S of the extended to the original context length. The attention factor is ``sqrt(1 + ln(S) /
        ln(original_max_position))``, or 1 if S is at most 1.
    max_position : int, optional
        The extended context length, max_position_embeddings. It may be given instead of `factor`: S is then
        ``max_position / original_max_position``.
    attention_factor : float, optional
        The factor on cosine and sine, which replaces the formula. As an attribute, it is the factor beyond
        `original_max_position`; `attention_factor_at` returns the factor at any context length.
    short_mscale, long_mscale : float, optional
        The factors up to `original_max_position` and beyond it, which replace the formula. Not together with
        `attention_factor`.

    Raises
    ------
    TypeError
        If a value has the wrong type, or no argument determines the attention factor.
    ValueError
        If a value is not positive and finite, the lists differ in length, or two arguments exclude each other.

    Notes
    -----
    Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", 2024
    (arXiv:2402.13753); LongRoPE2 (arXiv:2502.20082) has the same form. The formula of the attention
    factor is from transformers (modeling_rope_utils.py) and from the code of Phi-3, whose older
    configurations call the schedule "su". Separate mscales are from vLLM
    (phi3_long_rope_scaled_rope.py).

    Implementations use different rules to choose between short and long factors: the longest position in a
    batch (transformers), the configured length (vLLM), or always long factors (mlx-lm). Here the choice
    depends on the `context_length` of the embedding, and larger positions are refused. Cached keys that were
    rotated with short factors cannot be used with long factors. So choose a `context_length` above the length
    of the whole sequence.

    Use this schedule if the rope type of the checkpoint is "longrope" or "su": Phi-3 and later, MiniCPM.
    Factors of 1 give the same bits as `Default`.

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

    short_factor: tuple[float, ...] = field(metadata=FACTORS)
    long_factor: tuple[float, ...] = field(metadata=FACTORS)
    original_max_position: int = field(metadata=LENGTH)
    factor: float | None = field(default=None, metadata=POSITIVE_OR_NONE)
    max_position: int | None = field(default=None, metadata=LENGTH_OR_NONE)
    attention_factor: float = field(default=DERIVED, metadata=POSITIVE_OR_NONE)
    short_mscale: float | None = field(default=None, metadata=POSITIVE_OR_NONE)
    long_mscale: float | None = field(default=None, metadata=POSITIVE_OR_NONE)

    if TYPE_CHECKING:
        # The dataclass defines this method. Arrays are accepted as arguments, and stored as tuples.
        def __init__(
            self,
            short_factor: FrequenciesLike,
            long_factor: FrequenciesLike,
            original_max_position: int,
            factor: float | None = None,
            max_position: int | None = None,
            attention_factor: float | None = None,
            short_mscale: float | None = None,
            long_mscale: float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.short_factor) != len(self.long_factor):
            msg = (
                f"`long_factor` must have as many numbers as `short_factor`, {len(self.short_factor)}, "
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
                "`attention_factor` must be left out if `short_mscale` or `long_mscale` is given, "
                f"got {self.attention_factor}"
            )
            raise ValueError(msg)

    @property
    def _length_ratio(self) -> float | None:
        """The ratio of the context lengths, or None if no argument gives it."""
        if self.max_position is not None:
            return self.max_position / self.original_max_position
        return self.factor

    def _formula(self) -> float:
        """Return the attention factor by the formula; raise if the ratio of the lengths is not given."""
        ratio = self._length_ratio
        if ratio is None:
            msg = (
                "`factor` must be given, or `max_position`, `attention_factor`, or both `short_mscale` and "
                "`long_mscale`, because the attention factor depends on them, got none; if a configuration has no "
                "factor, it is max_position_embeddings / original_max_position_embeddings"
            )
            raise TypeError(msg)
        if ratio <= 1.0:
            return 1.0
        if self.original_max_position == 1:
            msg = "`original_max_position` must be above 1 if the context is extended, got 1"
            raise ValueError(msg)
        return math.sqrt(1.0 + math.log(ratio) / math.log(self.original_max_position))

    def _attention_factor(self) -> Derived:
        """Return the factor beyond the original context length."""
        if self.short_mscale is None:
            self._formula()  # raises if the ratio of the lengths is missing
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
            None means a length above `original_max_position`.

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
        """Whether the long factors apply."""
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
        numbers: list[Resolved] = [("factors", chosen, origin)]
        if self.max_position is not None:
            origin = "derived: max_position / original_max_position"
            numbers.append(("stretch", self._length_ratio, origin))
        return numbers
