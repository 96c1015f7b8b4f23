"""Schedules that change the frequencies of another schedule."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from rotary._lib import hints
from rotary._lib.fields import checked, origin_of
from rotary._lib.typing import Float64Array, FrequenciesLike

from .base import BOOL, FACTORS, LENGTH, CheckedScaling, Resolved, Scaling, check_count
from .plain import Default

__all__ = [
    "Clip",
    "FreqFactors",
    "Resonance",
]


def _as_scaling(value: Any, name: str) -> Scaling:
    if not isinstance(value, Scaling):
        msg = f"`{name}` must be a schedule of rotary.scaling, got {value!r}"
        raise TypeError(msg)
    return value


_SCALING = checked(_as_scaling)


@dataclass(frozen=True, repr=False)
class _Modifier(CheckedScaling):
    """A schedule that changes the frequencies of an inner schedule and has its other properties."""

    scaling: Scaling = field(default=Default(), metadata=_SCALING)

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine of the inner schedule."""
        return self.scaling.attention_factor

    def attention_factor_at(self, context_length: int | None) -> float:
        """Return the factor of the inner schedule.

        Parameters
        ----------
        context_length : int or None
            Used only if the inner schedule depends on the context length.

        Returns
        -------
        float
        """
        return self.scaling.attention_factor_at(context_length)

    @property
    def softmax_factor(self) -> float:
        """The factor on the softmax scale of the inner schedule."""
        return self.scaling.softmax_factor

    @property
    def needs_base(self) -> bool:
        """Whether the inner schedule needs a base."""
        return self.scaling.needs_base

    @property
    def needs_length(self) -> bool:
        """Whether the inner schedule depends on the context length."""
        return self.scaling.needs_length

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        return self._changed(self.scaling.inv_freq(dim, base, context_length))

    @abstractmethod
    def _changed(self, inv_freq: Float64Array) -> Float64Array:
        """Return the frequencies of the modifier, given those of the inner schedule."""

    def resolved(self, dim: int, base: float | None, context_length: int | None) -> list[Resolved]:
        """Return every number of this schedule and of the inner one; see `Scaling`."""
        _, *numbers = super().resolved(dim, base, context_length)
        inner = self.scaling.resolved(dim, base, context_length)
        return [
            *numbers,
            ("scaling", type(self.scaling).__name__, origin_of(fields(self)[0], self.scaling)),
            *[(f"  {name}", value, origin) for name, value, origin in inner],
        ]


@hints.constructor
@dataclass(frozen=True, repr=False)
class Clip(_Modifier):
    """Fade out the lowest frequencies of another schedule.

    The last n frequencies are multiplied by ``0.5 * (1 + cos(linspace(0, pi, n)))``, or set to zero.

    Parameters
    ----------
    scaling : Scaling, default `Default()`
        The schedule to change.
    clip_low_n : int, default 20
        The number n of changed frequencies, at most all of them.
    hard : bool, default False
        Whether to set these frequencies to zero.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If `clip_low_n` is below 1. Also when frequencies are computed, if it exceeds their number.

    Notes
    -----
    CoPE, "clipped RoPE", 2026; from the authors' repository hrlics/CoPE. A channel pair whose wavelength is
    above the context length of the training has not completed a rotation in training, and would have new
    angles beyond that length.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Clip(clip_low_n=3).inv_freq(8, 10_000.0)
    array([1.   , 0.1  , 0.005, 0.   ])
    >>> scaling.Clip(scaling.Linear(2), clip_low_n=2, hard=True).inv_freq(8, 10_000.0)
    array([0.5 , 0.05, 0.  , 0.  ])
    """

    clip_low_n: int = field(default=20, metadata=LENGTH)
    hard: bool = field(default=False, metadata=BOOL)

    def _changed(self, inv_freq: Float64Array) -> Float64Array:
        pairs = inv_freq.shape[-1]
        if self.clip_low_n > pairs:
            msg = f"`clip_low_n` must be at most {pairs}, the number of frequencies, got {self.clip_low_n}"
            raise ValueError(msg)
        window = np.ones(pairs)
        fade = 0.5 * (1.0 + np.cos(np.linspace(0.0, math.pi, self.clip_low_n)))
        window[pairs - self.clip_low_n :] = 0.0 if self.hard else fade
        return inv_freq * window


@hints.constructor
@dataclass(frozen=True, repr=False)
class Resonance(_Modifier):
    """Round the wavelengths of another schedule to whole positions.

    ``inv_freq[i] = 2 pi / round(2 pi / inv_freq[i])``, ties to even; zero stays zero.

    Parameters
    ----------
    scaling : Scaling, default `Default()`
        The schedule to change.

    Raises
    ------
    TypeError
        If `scaling` is not a schedule.
    ValueError
        When frequencies are computed, if a wavelength is closer to 0 than to 1.

    Notes
    -----
    Wang et al., "Resonance RoPE: Improving Context Length Generalization of Large Language Models",
    2024 (arXiv:2403.00071). Cosine and sine of integer positions then repeat exactly, so positions beyond
    the training context give no new values. Applied to `Yarn`, it is the paper's "Resonance YaRN".

    Examples
    --------
    >>> import numpy as np
    >>> from rotary import scaling
    >>> 2 * np.pi / scaling.Resonance().inv_freq(16, 10_000.0)[:4]
    array([  6.,  20.,  63., 199.])
    """

    def _changed(self, inv_freq: Float64Array) -> Float64Array:
        nonzero = inv_freq != 0
        wavelengths = np.divide(2.0 * math.pi, inv_freq, out=np.ones_like(inv_freq), where=nonzero)
        whole = np.rint(wavelengths)
        if not whole.all():
            msg = (
                "`scaling` must give wavelengths that round to at least one position for Resonance, "
                f"got {np.abs(wavelengths).min()}"
            )
            raise ValueError(msg)
        return np.where(nonzero, 2.0 * math.pi / whole, 0.0)


@hints.constructor
@dataclass(frozen=True, repr=False)
class FreqFactors(_Modifier):
    """Divide each frequency of another schedule by its own factor.

    Parameters
    ----------
    scaling : Scaling, default `Default()`
        The schedule to change.
    freq_factors : array_like (dim/2,)
        Positive divisors.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a factor is not positive and finite. Also when frequencies are computed, if their number is not
        the number of factors.

    Notes
    -----
    Source: ``freq_factors`` of ggml (``ggml_rope_ext``), stored in GGUF files as the tensor
    ``rope_freqs.weight``. Converters store the scaling of Llama 3 as this tensor, and the two lists of
    `LongRope` as the tensors ``rope_factors_short.weight`` and ``rope_factors_long.weight``.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.FreqFactors(freq_factors=[1, 1, 2, 8]).inv_freq(8, 10_000.0)
    array([1.00e+00, 1.00e-01, 5.00e-03, 1.25e-04])
    """

    freq_factors: tuple[float, ...] = field(kw_only=True, metadata=FACTORS)

    if TYPE_CHECKING:
        # The dataclass defines this method. An array is accepted as argument, and stored as a tuple.
        def __init__(self, scaling: Scaling = ..., *, freq_factors: FrequenciesLike) -> None: ...

    def _changed(self, inv_freq: Float64Array) -> Float64Array:
        check_count(self.freq_factors, "freq_factors", 2 * inv_freq.shape[-1])
        return inv_freq / np.array(self.freq_factors, dtype=np.float64)
