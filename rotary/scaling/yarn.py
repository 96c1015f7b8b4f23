"""YaRN, which keeps high frequencies, divides low ones, and has a ramp in between."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rotary._lib import hints
from rotary._lib.checks import as_fraction
from rotary._lib.fields import Derived, checked, chosen
from rotary._lib.typing import Float64Array
from rotary.angles.powers import powers

from .base import (
    BOOL,
    DERIVED,
    LENGTH,
    MSCALE,
    POSITIVE,
    POSITIVE_OR_NONE,
    CheckedScaling,
    Resolved,
    blended,
    count_of_pairs,
    fill,
)

__all__ = ["Yarn", "yarn_mscale"]


_MSCALE_RULES = ("transformers", "deepseek", "paper", "telechat3", "none")


def yarn_mscale(factor: float, mscale: float, *, slope: float = 0.1) -> float:
    """Return ``slope * mscale * ln(factor) + 1``, or 1 for factors up to 1: `m` in the formulas of `Yarn`.

    Parameters
    ----------
    factor : float
        The ratio of the extended to the original context length.
    mscale : float
        The factor on the logarithm.
    slope : float, default 0.1
        0.07 for TeleChat3.

    Returns
    -------
    float
    """
    return 1.0 if factor <= 1.0 else slope * mscale * math.log(factor) + 1.0


@hints.constructor
@dataclass(frozen=True, repr=False)
class Yarn(CheckedScaling):
    """Interpolation by parts: keep high frequencies, divide low ones, and mix the two along a ramp.

    With ``pair(r) = dim * ln(original_max_position / (2 pi r)) / (2 ln base)``, ``low =
    max(floor(pair(beta_fast)), 0)`` and ``high = min(ceil(pair(beta_slow)), dim - 1)``, the kept part
    is ``g[i] = 1 - clip((i - low) / (high - low), 0, 1)``, and frequencies are ``inv_freq[i] *
    g[i] + inv_freq[i] / factor * (1 - g[i])``.

    Parameters
    ----------
    factor : float
        The ratio of the extended to the original context length, positive.
    original_max_position : int
        The context length before the extension: original_max_position_embeddings.
    beta_fast, beta_slow : float, default 32 and 1
        The frequencies of channel pairs with more than `beta_fast` rotations within
        `original_max_position` are kept. Those of pairs with fewer than `beta_slow` rotations are divided.
    truncate : bool, default True
        Whether the ends of the ramp are rounded outwards to whole channel pairs. gpt-oss needs False.
    extrapolation_factor : float, default 1.0
        A factor on the kept part, from 0 to 1; 0 is `Linear`.
    attention_factor : float, optional
        The factor on cosine and sine. By default, `mscale_rule` determines the factor.
    attn_factor : float, default 1.0
        Multiplies the factor of `mscale_rule`; not together with `attention_factor`.
    mscale, mscale_all_dim : float, optional
        Parameters of `mscale_rule`.
    mscale_rule : {"transformers", "deepseek", "paper", "telechat3", "none"}
        The rule for the attention factor, with ``m(k) = 0.1 k ln(factor) + 1``, or 1 if `factor` is
        at most 1:

        - "transformers": ``m(mscale) / m(mscale_all_dim)`` if both are given and not 0, else
          ``m(1)``. The default; also in newer vLLM and SGLang.
        - "deepseek": ``m(mscale) / m(mscale_all_dim)``, by default 1 and 0. In DeepSeek's own code, in
          ``deepseek_yarn`` of vLLM and SGLang, and in mlx-lm.
        - "paper": ``m(1)`` for all mscales. In the authors' code and older vLLM.
        - "telechat3": ``0.07 ln(factor) + 1``. In ``telechat3-yarn`` of vLLM.
        - "none": 1. For Grok-1 in vLLM.
    softmax_factor : float, optional
        The factor on the softmax scale of the attention, which the rotation does not apply. The default is
        ``m(mscale_all_dim) ** 2`` for the rules "transformers" and "deepseek", else 1. Pass 1.0 for a
        model that has `mscale_all_dim` but does not change its softmax scale.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a value is not positive, `beta_fast` is below `beta_slow`, or both `attention_factor` and
        `attn_factor` are given. Also when frequencies are computed, if the base is not above 1, or if the
        ramp ends before it begins, a case in which implementations differ.

    Notes
    -----
    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023
    (arXiv:2309.00071), sections 3.2 and 3.4; limits and defaults as in transformers
    (modeling_rope_utils.py). `softmax_factor` is from the modeling code of DeepSeek-V2. If the ramp has
    no width, 0.001 is added to its end, as in transformers.

    Use this schedule if the rope type of the checkpoint is "yarn": Qwen 2.5 and 3 beyond 32k, DeepSeek,
    gpt-oss. A factor of 1 gives the same bits as `Default`.

    Examples
    --------
    >>> from rotary import scaling
    >>> yarn = scaling.Yarn(factor=4, original_max_position=32_768)
    >>> (yarn.inv_freq(16, 1e6) / scaling.Default().inv_freq(16, 1e6)).round(4)
    array([1.  , 1.  , 1.  , 0.75, 0.5 , 0.25, 0.25, 0.25])
    >>> round(yarn.attention_factor, 6)
    1.138629
    >>> v3 = scaling.Yarn(factor=40, original_max_position=4096, mscale=1, mscale_all_dim=1)
    >>> v3.attention_factor, round(v3.softmax_factor, 6)
    (1.0, 1.873854)
    """

    factor: float = field(metadata=POSITIVE)
    original_max_position: int = field(metadata=LENGTH)
    beta_fast: float = field(default=32.0, metadata=POSITIVE)
    beta_slow: float = field(default=1.0, metadata=POSITIVE)
    truncate: bool = field(default=True, metadata=BOOL)
    extrapolation_factor: float = field(default=1.0, metadata=checked(as_fraction))
    attention_factor: float = field(default=DERIVED, metadata=POSITIVE_OR_NONE)
    attn_factor: float = field(default=1.0, metadata=POSITIVE)
    mscale: float | None = field(default=None, metadata=MSCALE)
    mscale_all_dim: float | None = field(default=None, metadata=MSCALE)
    mscale_rule: Literal["transformers", "deepseek", "paper", "telechat3", "none"] = field(
        default="transformers", metadata=chosen(*_MSCALE_RULES)
    )
    softmax_factor: float = field(default=DERIVED, metadata=POSITIVE_OR_NONE)

    if TYPE_CHECKING:
        # The dataclass defines this method. Arguments of derived fields may be None, the fields may not.
        def __init__(
            self,
            factor: float,
            original_max_position: int,
            beta_fast: float = 32.0,
            beta_slow: float = 1.0,
            truncate: bool = True,
            extrapolation_factor: float = 1.0,
            attention_factor: float | None = None,
            attn_factor: float = 1.0,
            mscale: float | None = None,
            mscale_all_dim: float | None = None,
            mscale_rule: Literal[
                "transformers", "deepseek", "paper", "telechat3", "none"
            ] = "transformers",
            softmax_factor: float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_fast < self.beta_slow:
            msg = f"`beta_fast` must be at least `beta_slow` {self.beta_slow}, got {self.beta_fast}"
            raise ValueError(msg)
        given = not fill(self, "attention_factor", self._attention_factor)
        if given and self.attn_factor != 1.0:
            msg = (
                "`attention_factor` and `attn_factor` must not both be given, because the first replaces the factor "
                f"of the rule and the second multiplies it, got {self.attention_factor} and {self.attn_factor}"
            )
            raise ValueError(msg)
        fill(self, "softmax_factor", self._softmax_factor)

    def _attention_factor(self) -> Derived:
        """Return the factor that `mscale_rule` determines."""
        s, mscale, all_dim = self.factor, self.mscale, self.mscale_all_dim
        match self.mscale_rule:
            case "transformers" if mscale and all_dim:
                value = yarn_mscale(s, mscale) / yarn_mscale(s, all_dim)
                formula = "m(mscale) / m(mscale_all_dim)"
            case "deepseek":
                value = yarn_mscale(s, 1.0 if mscale is None else mscale) / yarn_mscale(
                    s, all_dim or 0.0
                )
                formula = "m(mscale or 1) / m(mscale_all_dim or 0)"
            case "telechat3":
                value, formula = yarn_mscale(s, 1.0, slope=0.07), "0.07 ln(factor) + 1"
            case "none":
                value, formula = 1.0, "1"
            case _:
                value, formula = yarn_mscale(s, 1.0), "0.1 ln(factor) + 1"
        return Derived(value * self.attn_factor, f"{formula}, times attn_factor")

    def _softmax_factor(self) -> Derived:
        if self.mscale_all_dim and self.mscale_rule in ("transformers", "deepseek"):
            return Derived(
                yarn_mscale(self.factor, self.mscale_all_dim) ** 2,
                "m(mscale_all_dim) ** 2",
            )
        return Derived(1.0, "1, because the rule uses no mscale_all_dim")

    def _pair(self, rotations: float, dim: int, base: float) -> float:
        """Return the index of the channel pair with this number of rotations within the original context."""
        return (
            dim
            * math.log(self.original_max_position / (rotations * 2.0 * math.pi))
            / (2.0 * math.log(base))
        )

    def _ramp(self, dim: int, base: float) -> tuple[float, float]:
        """Return the indices of the channel pairs at which the ramp begins and ends."""
        if base <= 1.0:
            msg = f"`base` must be above 1 for Yarn, got {base}"
            raise ValueError(msg)
        low, high = self._pair(self.beta_fast, dim, base), self._pair(self.beta_slow, dim, base)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if high < low:
            msg = (
                f"`original_max_position` must give a ramp that does not end before it begins, got "
                f"{self.original_max_position}, which with base {base} and {dim} channels gives a ramp from channel "
                f"pair {low} to {high}"
            )
            raise ValueError(msg)
        return low, high

    def _kept(self, dim: int, base: float) -> Float64Array:
        """Return the weight of the undivided frequency for each channel pair."""
        low, high = self._ramp(dim, base)
        if low == high:
            high += 0.001
        ramp: Float64Array = np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)
        return (1.0 - ramp) * self.extrapolation_factor

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        return blended(powers(base, dim), self.factor, self._kept(dim, base))

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        low, high = self._ramp(dim, base)
        fast, slow = (self._pair(beta, dim, base) for beta in (self.beta_fast, self.beta_slow))
        suffix = "rounded, within 0 .. dim - 1" if self.truncate else "within 0 .. dim - 1"
        return [
            ("low", low, f"derived: channel pair {fast:.10g} of beta_fast, {suffix}"),
            ("high", high, f"derived: channel pair {slow:.10g} of beta_slow, {suffix}"),
            count_of_pairs(self._kept(dim, base)),
        ]
