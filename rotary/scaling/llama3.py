"""The schedule of Llama 3, which keeps high frequencies and divides low ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rotary._lib import hints
from rotary._lib.typing import Float64Array
from rotary.angles.powers import powers

from .base import LENGTH, POSITIVE, CheckedScaling, Resolved, blended, count_of_pairs

__all__ = [
    "Llama3",
]


@hints.constructor
@dataclass(frozen=True, repr=False)
class Llama3(CheckedScaling):
    """Interpolation by wavelength: keep high frequencies, divide low ones, mix the two in between.

    With ``wavelength = 2 pi / inv_freq[i]`` and ``t = (original_max_position / wavelength -
    low_freq_factor) / (high_freq_factor - low_freq_factor)``, clipped to 0 .. 1, frequencies are
    ``inv_freq[i] * ((1 - t) / factor + t)``.

    Parameters
    ----------
    factor : float
        The divisor of low frequencies, positive: 8 in Llama 3.1, 32 in the small models of Llama 3.2.
    low_freq_factor, high_freq_factor : float
        1 and 4 in Llama 3. Frequencies with a wavelength above ``original_max_position / low_freq_factor`` are
        divided. Frequencies with a wavelength below ``original_max_position / high_freq_factor`` are kept. If
        both factors are equal (1 in Llama 4), no frequency is in between.
    original_max_position : int
        The context length before the extension: original_max_position_embeddings, 8192 in Llama 3.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a value is not positive and finite, or `high_freq_factor` is below `low_freq_factor`.

    Notes
    -----
    Source: the reference code of Llama 3.1 (llama_models, ``apply_scaling``), as in transformers
    (modeling_rope_utils.py, ``rope_type`` "llama3"). No parameter has a default, because checkpoints differ
    only in `factor`, so a wrong default would be easy to miss. A factor of 1 gives the same bits as `Default`.

    Examples
    --------
    >>> from rotary import scaling
    >>> schedule = scaling.Llama3(
    ...     factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position=8192
    ... )
    >>> plain = scaling.Default().inv_freq(128, 500_000.0)
    >>> (schedule.inv_freq(128, 500_000.0) / plain)[27:37].round(4)
    array([1.    , 1.    , 0.8282, 0.6437, 0.4935, 0.3711, 0.2714, 0.1902,
           0.125 , 0.125 ])
    """

    factor: float = field(metadata=POSITIVE)
    low_freq_factor: float = field(metadata=POSITIVE)
    high_freq_factor: float = field(metadata=POSITIVE)
    original_max_position: int = field(metadata=LENGTH)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high_freq_factor < self.low_freq_factor:
            msg = (
                f"`high_freq_factor` must be at least `low_freq_factor` {self.low_freq_factor}, "
                f"got {self.high_freq_factor}"
            )
            raise ValueError(msg)

    def _kept(self, inv_freq: Float64Array) -> Float64Array:
        """Return the weight of the undivided frequency for each channel pair."""
        rotations = self.original_max_position * inv_freq / (2.0 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        if span == 0.0:
            return (rotations >= self.low_freq_factor).astype(np.float64)
        return np.clip((rotations - self.low_freq_factor) / span, 0.0, 1.0)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        plain = powers(base, dim)
        return blended(plain, self.factor, self._kept(plain))

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        low, high = (
            self.original_max_position / part
            for part in (self.low_freq_factor, self.high_freq_factor)
        )
        return [
            ("longest kept", high, "derived: wavelength original_max_position / high_freq_factor"),
            (
                "shortest divided",
                low,
                "derived: wavelength original_max_position / low_freq_factor",
            ),
            count_of_pairs(self._kept(powers(base, dim))),
        ]
