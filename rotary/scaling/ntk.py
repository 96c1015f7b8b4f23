"""NTK schedules, which use a larger base for longer contexts."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from rotary._lib import hints
from rotary._lib.fields import Derived, chosen
from rotary._lib.typing import Float64Array
from rotary.angles.powers import CONTEXT, powers, raised, spaced

from .base import (
    BOOL,
    LENGTH,
    POSITIVE,
    POSITIVE_OR_NONE,
    CheckedScaling,
    Resolved,
    check_two_pairs,
)

__all__ = [
    "NTK",
    "DynamicNTK",
]


@hints.constructor
@dataclass(frozen=True, repr=False)
class DynamicNTK(CheckedScaling):
    """A base that grows with the context length.

    The base is multiplied by ``(factor * n / max_position - (factor - 1)) ** (dim / (dim - 2))``. Here n is the
    context length, or `max_position` if that is larger.

    Parameters
    ----------
    factor : float
        The rate at which the base grows, positive.
    max_position : int
        The length up to which frequencies equal those of `Default`: max_position_embeddings.
    fixed : bool, default False
        Whether n is ``max_position * factor`` for every context length.

    Raises
    ------
    TypeError
        If a value has the wrong type.
    ValueError
        If a value is not positive and finite.

    Notes
    -----
    Published as a post by the user emozilla in 2023. The formula is from transformers
    (modeling_rope_utils.py, ``rope_type`` "dynamic"). There the base depends on the longest sequence
    so far, so cached keys may have been rotated with another base. Here the base depends on
    `context_length`, which an embedding therefore requires. `rotary.RotaryEmbedding.at_length` returns the
    embedding of another length. ``fixed=True`` is the interpretation of vLLM and SGLang
    (dynamic_ntk_scaling_rope.py): one base for all lengths. A configuration with ``alpha`` needs
    ``NTK(alpha=...)`` instead.

    The powers of base and growth are rounded separately and multiplied, so a length of up to
    `max_position` gives the same bits as `Default`.

    Examples
    --------
    >>> from rotary import scaling
    >>> schedule = scaling.DynamicNTK(factor=2, max_position=4096)
    >>> schedule.inv_freq(8, 10_000.0, 4096)
    array([1.   , 0.1  , 0.01 , 0.001])
    >>> schedule.inv_freq(8, 10_000.0, 8192).round(5)
    array([1.000e+00, 6.934e-02, 4.810e-03, 3.300e-04])
    """

    factor: float = field(metadata=POSITIVE)
    max_position: int = field(metadata=LENGTH)
    fixed: bool = field(default=False, metadata=BOOL)

    @property
    def needs_length(self) -> bool:
        """Whether the frequencies depend on the context length: True unless `fixed`."""
        return not self.fixed

    def _growth(self, context_length: int | None) -> float:
        """Return ``factor * n / max_position - (factor - 1)``; a power of this number multiplies the base."""
        if self.fixed:
            return 1.0 + self.factor * (self.factor - 1.0)
        beyond = max((context_length or 0) - self.max_position, 0)
        return 1.0 + self.factor * (beyond / self.max_position)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        check_two_pairs(dim, "DynamicNTK")
        return powers(base, dim) * spaced(self._growth(context_length), dim // 2)

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        growth = self._growth(context_length)
        if self.fixed:
            length = (self.max_position * self.factor, "derived: max_position * factor")
        else:
            length = (
                max(context_length or 0, self.max_position),
                "derived: max(context_length, max_position)",
            )
        return [
            ("n", *length),
            ("growth", growth, "derived: factor * n / max_position - (factor - 1)"),
            _grown_base(base, growth, dim),
        ]


def _grown_base(base: float, growth: float, dim: int) -> Resolved:
    """Return the enlarged base, for `explain`."""
    value = float(CONTEXT.power(Decimal(growth), Decimal(dim) / Decimal(dim - 2))) * base
    return ("grown base", value, f"derived: base * {growth!r} ** (dim / (dim - 2))")


@hints.constructor
@dataclass(frozen=True, repr=False)
class NTK(CheckedScaling):
    """A larger base, which keeps the highest frequency and divides the lowest one by a factor.

    Parameters
    ----------
    factor : float, optional
        The divisor of the lowest frequency, positive. Give either `factor` or `alpha`.
    alpha : float, optional
        The name of `factor` in configurations of HunYuan; only for the form "aware".
    form : {"aware", "fixed", "mixed"}, default "aware"
        - "aware" multiplies the base by ``factor ** (dim / (dim - 2))``.
        - "fixed" is ``(base * factor) ** (-2i / dim) / factor ** (2 / dim)``.
        - "mixed" is ``inv_freq[i] / exp(a * (i + 1) ** mixed_b)`` with ``a = ln(factor) /
          (dim / 2) ** mixed_b``.
    mixed_b : float, optional
        The exponent of the form "mixed", by default 0.625.

    Raises
    ------
    TypeError
        If a value has the wrong type, or neither `factor` nor `alpha` is given.
    ValueError
        If a value is not positive and finite, both `factor` and `alpha` are given, or an argument is given
        that the form does not use.

    Notes
    -----
    "aware" was published as a post by the user bloc97 in 2023; vLLM's
    dynamic_ntk_alpha_rope.py and ``theta_rescale_factor`` of rotary-embedding-torch are the same.
    "fixed" and "mixed" are from notes by Jianlin Su in 2023, as implemented in vLLM's
    ntk_scaling_rope.py. All three divide the last frequency by exactly the factor. ``ntk_factor``
    of diffusers multiplies the base, without an exponent: pass that product as `base`.

    Use this schedule to run a model at longer contexts without training. Use ``alpha`` for HunYuan, whose
    configurations call the schedule "dynamic".

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.NTK(factor=4).inv_freq(8, 10_000.0).round(5)
    array([1.00e+00, 6.30e-02, 3.97e-03, 2.50e-04])
    >>> scaling.NTK(factor=4, form="fixed").inv_freq(8, 10_000.0).round(5)
    array([7.0711e-01, 5.0000e-02, 3.5400e-03, 2.5000e-04])
    >>> scaling.NTK(factor=4, form="mixed").inv_freq(8, 10_000.0).round(5)
    array([5.583e-01, 4.070e-02, 3.140e-03, 2.500e-04])
    """

    factor: float | None = field(default=None, metadata=POSITIVE_OR_NONE)
    alpha: float | None = field(default=None, metadata=POSITIVE_OR_NONE)
    form: Literal["aware", "fixed", "mixed"] = field(
        default="aware", metadata=chosen("aware", "fixed", "mixed")
    )
    mixed_b: float | None = field(default=None, metadata=POSITIVE_OR_NONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor is None and self.alpha is None:
            msg = "`factor` or `alpha` must be given, got neither"
            raise TypeError(msg)
        if self.factor is not None and self.alpha is not None:
            msg = f"`factor` and `alpha` must not both be given, got {self.factor} and {self.alpha}"
            raise ValueError(msg)
        if self.alpha is not None and self.form != "aware":
            msg = f"`alpha` must be left out for the form {self.form!r}, which takes a `factor`, got {self.alpha}"
            raise ValueError(msg)
        if self.form == "mixed":
            if self.mixed_b is None:
                object.__setattr__(self, "mixed_b", Derived(0.625, "the default of the mixed form"))
        elif self.mixed_b is not None:
            msg = f"`mixed_b` must be left out for the form {self.form!r}, got {self.mixed_b}"
            raise ValueError(msg)

    @property
    def _ratio(self) -> float:
        return self.alpha if self.factor is None else self.factor  # type: ignore[return-value]  # `alpha` or `factor` is there

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        ratio, pairs = self._ratio, dim // 2
        plain = powers(base, dim)
        if self.form == "aware":
            check_two_pairs(dim, "NTK")
            return plain * spaced(ratio, pairs)
        if self.form == "fixed":
            shrunk: Float64Array = np.append(powers(ratio, dim)[1:], 1.0 / ratio)
            return plain * shrunk
        power = Decimal(self.mixed_b or 0.0)
        shares = [CONTEXT.divide(Decimal(i + 1), Decimal(pairs)) for i in range(pairs)]
        return plain * raised(ratio, [-CONTEXT.power(share, power) for share in shares])

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[Resolved]:
        return [_grown_base(base, self._ratio, dim)] if self.form == "aware" else []
