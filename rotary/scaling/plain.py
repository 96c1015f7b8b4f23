"""Schedules with a single formula: default, linear, proportional, and schedules that need no base."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rotary._lib import hints
from rotary._lib.checks import as_float, as_fraction, as_positive_float
from rotary._lib.fields import checked, chosen
from rotary._lib.numbers import frozen
from rotary._lib.typing import Float64Array, FrequenciesLike
from rotary.angles.powers import as_frequencies, powers, spaced

from .base import BOOL, POSITIVE, CheckedScaling, Resolved, Scaling

__all__ = [
    "Constant",
    "Custom",
    "Default",
    "Linear",
    "Periods",
    "Pixel",
    "Proportional",
]


@hints.constructor
@dataclass(frozen=True)
class Default(Scaling):
    """The schedule of the original paper: ``inv_freq[i] = base ** (-2 i / dim)``.

    Notes
    -----
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021
    (arXiv:2104.09864), section 3.2.2. Use it unless the checkpoint names another schedule.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Default().inv_freq(8, 10_000.0)
    array([1.   , 0.1  , 0.01 , 0.001])
    """

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine: 1.0."""
        return 1.0

    def inv_freq(
        self,
        dim: int,
        base: float | None,
        context_length: int | None = None,
    ) -> Float64Array:
        """Return the inverse frequencies.

        Parameters
        ----------
        dim : int
            The number of rotated channels, even.
        base : float
            The base of the geometric progression, positive.
        context_length : int, optional
            Not used by this schedule.

        Returns
        -------
        float64 array (dim/2,), read-only
            Radians per position, each the correctly rounded float64.
        """
        assert base is not None
        return powers(base, dim)


@hints.constructor
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Custom(Scaling):
    """Frequencies that the user gives.

    Parameters
    ----------
    inv_freq : array_like (dim/2,), optional
        Radians per position for each channel pair, on one position axis.
    attention_factor : float, default 1.0
        The factor on cosine and sine, positive.
    W : array_like (axes, dim/2) or (heads, axes, dim/2), optional
        Radians per position on each position axis; with three dimensions, also for each head of the rotated
        array. Give either `W` or `inv_freq`. With `W`, the first axis of positions is that of the position
        axes.

    Raises
    ------
    TypeError
        If a value is not a real number.
    ValueError
        If both or neither of `inv_freq` and `W` are given, the number of dimensions is wrong, or a value is
        not finite or not below ``2**63`` in magnitude.

    Notes
    -----
    Frequencies may be negative or zero. They are converted to float64, which is exact for the float32 buffer
    of a checkpoint.

    Examples
    --------
    >>> import numpy as np
    >>> from rotary import RotaryEmbedding, scaling
    >>> rope = RotaryEmbedding(4, layout="half", scaling=scaling.Custom([np.pi, 0.0]))
    >>> rope(np.array([[1.0, 2.0, 3.0, 4.0]]), offset=1).round(6)
    array([[-1.,  2., -3.,  4.]])
    """

    W: Float64Array
    attention_factor: float = 1.0

    def __init__(
        self,
        inv_freq: FrequenciesLike | None = None,
        attention_factor: float = 1.0,
        *,
        W: FrequenciesLike | None = None,  # noqa: N803  (the letter in the formulas)
    ) -> None:
        if (inv_freq is None) == (W is None):
            msg = "`inv_freq` or `W` must be given, and not both, got " + (
                "neither" if W is None else "both"
            )
            raise ValueError(msg)
        if W is None:
            values = as_frequencies(inv_freq, "inv_freq", (1,))
        else:
            values = as_frequencies(W, "W", (1, 2, 3))
        object.__setattr__(self, "W", values)
        object.__setattr__(
            self, "attention_factor", as_positive_float(attention_factor, "attention_factor")
        )

    def _value(self) -> tuple[Any, ...]:
        """Return the values that equality and hash compare."""
        return (self.W.shape, self.W.tobytes(), self.attention_factor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Custom):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A pickled array loses its read-only flag.
        self.__dict__.update(state, W=frozen(state["W"]))

    def __repr__(self) -> str:
        name = "inv_freq" if self.W.ndim == 1 else "W"
        return f"Custom({name}={self.W.tolist()}, attention_factor={self.attention_factor})"

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies depend on a base: False."""
        return False

    def inv_freq(
        self,
        dim: int,
        base: float | None = None,
        context_length: int | None = None,
    ) -> Float64Array:
        """Return the given frequencies.

        Parameters
        ----------
        dim : int
            The number of rotated channels: twice the number of pairs.
        base, context_length
            Not used by this schedule.

        Returns
        -------
        float64 array (dim/2,), (axes, dim/2) or (heads, axes, dim/2), read-only

        Raises
        ------
        ValueError
            If `dim` is not twice the number of pairs.
        """
        if dim != 2 * self.W.shape[-1]:
            name = "inv_freq" if self.W.ndim == 1 else "W"
            msg = (
                f"`{name}` of Custom must have {dim // 2} frequencies on its last axis, one for each channel "
                f"pair of {dim} rotated channels, got shape {self.W.shape}"
            )
            raise ValueError(msg)
        return self.W


# ------------------------------------------------------------------------------------------------
# The published schedules.


@hints.constructor
@dataclass(frozen=True, repr=False)
class Linear(CheckedScaling):
    """Position interpolation: ``inv_freq[i] / factor``.

    Parameters
    ----------
    factor : float
        The divisor of the frequencies, positive. Dividing positions by it has the same effect.

    Raises
    ------
    TypeError
        If `factor` is not a real number.
    ValueError
        If `factor` is not positive and finite.

    Notes
    -----
    Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation",
    2023 (arXiv:2306.15595), section 2.3. It is ``rope_type`` "linear" of transformers, ``freq_scale
    = 1 / factor`` of ggml and ``scale = 1 / factor`` of MLX. Use this schedule if the checkpoint was
    fine-tuned with it, such as the global layers of Gemma 3 from 4B on. It makes the angles between adjacent
    positions smaller, so `NTK` or `Yarn` are better for a model without fine-tuning.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Linear(factor=4).inv_freq(8, 10_000.0)
    array([0.25   , 0.025  , 0.0025 , 0.00025])
    """

    factor: float = field(metadata=POSITIVE)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        return powers(base, dim) / self.factor


@hints.constructor
@dataclass(frozen=True, repr=False)
class Proportional(CheckedScaling):
    """The first frequencies of the full width, and zero for the other channel pairs.

    The first ``int(partial_rotary_factor * dim // 2)`` frequencies are ``base ** (-2i / dim) /
    factor``, as for a rotation of all channels. The other pairs are not rotated.

    Parameters
    ----------
    partial_rotary_factor : float, default 1.0
        The fraction of rotated pairs, from 0 to 1.
    factor : float, default 1.0
        The divisor of the frequencies, positive.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a value is out of its range.

    Notes
    -----
    Source: transformers (modeling_rope_utils.py, ``rope_type`` "proportional"), for the global layers of
    Gemma 4. The idea to omit low frequencies is p-RoPE of Barbero et al., "Round and Round We
    Go! What makes Rotary Positional Encodings useful?", 2024 (arXiv:2410.06205).

    A smaller `rotary_dim` is different: it changes the frequencies and, in the half layout, the channel
    pairs. With this schedule, leave `rotary_dim` at the width of the head.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Proportional(partial_rotary_factor=0.5).inv_freq(8, 10_000.0)
    array([1. , 0.1, 0. , 0. ])
    """

    partial_rotary_factor: float = field(default=1.0, metadata=checked(as_fraction))
    factor: float = field(default=1.0, metadata=POSITIVE)

    def _rotated_pairs(self, dim: int) -> int:
        return int(self.partial_rotary_factor * dim // 2)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        rotated = np.arange(dim // 2) < self._rotated_pairs(dim)
        return np.where(rotated, powers(base, dim) / self.factor, 0.0)

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        return [
            (
                "rotated pairs",
                self._rotated_pairs(dim),
                "derived: int(partial_rotary_factor * dim // 2)",
            ),
        ]


# ------------------------------------------------------------------------------------------------
# Schedules without a base.


class _Baseless(CheckedScaling):
    """A schedule whose frequencies do not depend on a base."""

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies depend on a base: False."""
        return False


@hints.constructor
@dataclass(frozen=True, repr=False)
class Pixel(_Baseless):
    """Frequencies for coordinates from -1 to 1: ``pi * linspace(1, max_freq / 2, dim / 2)``.

    Parameters
    ----------
    max_freq : float, default 10.0
        Twice the highest frequency in units of pi, positive; commonly the number of pixels on a side.
    spacing : {"linear", "log"}, default "linear"
        "log" is ``pi * 2 ** linspace(0, log2(max_freq) - 1, dim / 2)``.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If `max_freq` is not positive and finite, or `spacing` is unknown.

    Notes
    -----
    Source: rotary-embedding-torch (``freqs_for="pixel"``, `max_freq` 10, linear) and timm
    (pos_embed_sincos.py, ``pixel_freq_bands``, `max_freq` 224, "log" for images). Positions are
    coordinates such as ``np.linspace(-1, 1, size)``. The frequencies are for one axis. For two axes, pass
    the frequencies of both as `W` of `Custom`.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Pixel(max_freq=10).inv_freq(6).round(4)
    array([ 3.1416,  9.4248, 15.708 ])
    >>> scaling.Pixel(max_freq=8, spacing="log").inv_freq(6).round(4)
    array([ 3.1416,  6.2832, 12.5664])
    """

    max_freq: float = field(default=10.0, metadata=POSITIVE)
    spacing: Literal["linear", "log"] = field(default="linear", metadata=chosen("linear", "log"))

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        pairs = dim // 2
        if self.spacing == "linear":
            return math.pi * np.linspace(1.0, self.max_freq / 2.0, pairs)
        return math.pi / spaced(self.max_freq / 2.0, pairs)


@hints.constructor
@dataclass(frozen=True, repr=False)
class Constant(_Baseless):
    """The same frequency for every channel pair.

    Parameters
    ----------
    value : float, default 1.0
        Radians per position, of either sign.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If `value` is not finite.

    Notes
    -----
    Source: rotary-embedding-torch (``freqs_for="constant"``, 1). Use this schedule if the position is an
    angle, such as a heading (DRoPE, arXiv:2503.15029).

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Constant().inv_freq(6)
    array([1., 1., 1.])
    """

    value: float = field(default=1.0, metadata=checked(as_float))

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        return np.full(dim // 2, self.value)


@hints.constructor
@dataclass(frozen=True, repr=False)
class Periods(_Baseless):
    """Periods from `min` to `max`, evenly spaced on a logarithmic scale.

    ``period[i] = min * (max / min) ** (i / (dim / 2 - 1))`` and ``inv_freq[i] = 2 pi / period[i]``.

    Parameters
    ----------
    min, max : float
        The first and the last period, in the unit of positions, such as seconds; positive. `max` may be
        below `min`.
    unit : {"turn", "radian"}, default "turn"
        Whether a period is the time of a full rotation, or the time of one radian (a timescale).
    endpoint : bool, default True
        Whether `max` is the last period. If not, `max` would be the next period:
        ``period[i] = min * (max / min) ** (i / (dim / 2))``.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a number is not positive and finite, or `unit` is unknown.

    Notes
    -----
    Source: POYO (torch_brain, position_embeddings.py, ``generate_logspace_timeperiods``) and DINOv3 with
    given periods; both are the default here. ``min_timescale`` and ``max_timescale`` of TimesFM are
    ``Periods(min, max, unit="radian", endpoint=False)``; with 1 and 10,000, they give the same bits as
    `Default` with base 10,000. Use this schedule if positions have a unit, and the shortest and the longest
    relevant time are known.

    Examples
    --------
    >>> import numpy as np
    >>> from rotary import scaling
    >>> periods = 2 * np.pi / scaling.Periods(min=0.01, max=10).inv_freq(8)
    >>> periods.round(6)
    array([ 0.01,  0.1 ,  1.  , 10.  ])
    >>> scaling.Periods(1, 10_000, unit="radian", endpoint=False).inv_freq(8)
    array([1.   , 0.1  , 0.01 , 0.001])
    """

    min: float = field(metadata=POSITIVE)
    max: float = field(metadata=POSITIVE)
    unit: Literal["turn", "radian"] = field(default="turn", metadata=chosen("turn", "radian"))
    endpoint: bool = field(default=True, metadata=BOOL)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        ratio = self.max / self.min
        inverse = spaced(ratio, dim // 2) if self.endpoint else powers(ratio, dim)
        return inverse * ((2.0 * math.pi if self.unit == "turn" else 1.0) / self.min)
