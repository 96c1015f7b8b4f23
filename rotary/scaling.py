"""How the inverse frequencies and the attention factor follow from base and context length."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from . import _hints as hints
from ._checks import (
    as_bool,
    as_float,
    as_fraction,
    as_non_negative_float,
    as_positive_float,
    as_positive_integer,
    as_rotary_dim,
)
from ._fields import Derived, checked, chosen, origin_of
from ._frequencies import CONTEXT, as_factors, as_frequencies, powers, raised, spaced
from ._numbers import frozen
from ._typing import Float64Array
from .phases import LARGEST_FREQUENCY

__all__ = [
    "NTK",
    "Clip",
    "Constant",
    "Custom",
    "Default",
    "DynamicNTK",
    "FreqFactors",
    "Linear",
    "Llama3",
    "LongRope",
    "Periods",
    "Pixel",
    "Proportional",
    "Resonance",
    "Scaling",
    "Yarn",
]


def __dir__() -> list[str]:
    return __all__


# Name, value and origin of a number.
_Line = tuple[str, Any, str]


class Scaling(ABC):
    """What every schedule provides: frequencies, and the factor on cosine and sine.

    Schedules are frozen dataclasses: immutable, hashable values.
    """

    @property
    @abstractmethod
    def attention_factor(self) -> float:
        """The factor on cosine and sine, 1.0 where the schedule asks for none."""

    @property
    def softmax_factor(self) -> float:
        """What the attention's own softmax scale is multiplied by, outside the rotation."""
        return 1.0

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies follow from a base."""
        return True

    @property
    def needs_length(self) -> bool:
        """Whether frequencies or attention factor depend on the context length."""
        return False

    def attention_factor_at(self, context_length: int | None) -> float:
        """Return the factor on cosine and sine at a context length.

        Parameters
        ----------
        context_length : int or None
            Read only by schedules whose factor depends on it.

        Returns
        -------
        float
        """
        return float(self.attention_factor)

    @abstractmethod
    def inv_freq(self, dim: int, base: float | None, context_length: int | None) -> Float64Array:
        """Return the inverse frequencies of ``dim`` channels, in radians per position.

        Parameters
        ----------
        dim : int
            Rotated channels, even.
        base : float or None
            Base of the frequencies; None only where `needs_base` is False.
        context_length : int or None
            Read only by schedules that depend on it.

        Returns
        -------
        float64 array (dim/2,), read-only
        """

    def resolved(
        self,
        dim: int,
        base: float | None,
        context_length: int | None,
    ) -> list[tuple[str, Any, str]]:
        """Return every number of the schedule, for `rotary.RotaryEmbedding.explain`.

        Parameters
        ----------
        dim : int
            Rotated channels, even.
        base : float or None
            Base of the frequencies.
        context_length : int or None
            As given to the embedding.

        Returns
        -------
        list of (name, value, origin)
            The fields of the dataclass, and what is derived from them.
        """
        values: Any = self
        lines = []
        for own in fields(values) if is_dataclass(values) else ():
            value = getattr(self, own.name)
            # As a list, an array is told in full and on one line.
            told = value.tolist() if isinstance(value, np.ndarray) else value
            lines.append((own.name, told, origin_of(own, value)))
        return lines


@hints.constructor
@dataclass(frozen=True)
class Default(Scaling):
    """The schedule of the original paper: ``inv_freq[i] = base ** (-2 i / dim)``.

    Notes
    -----
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021
    (arXiv:2104.09864), section 3.2.2. Use it unless the checkpoint says otherwise.

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
            Rotated channels, even.
        base : float
            The base of the geometric progression, positive.
        context_length : int, optional
            Not read by this schedule.

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
    """Frequencies given as numbers.

    Parameters
    ----------
    inv_freq : array_like (dim/2,), optional
        Radians per position of every pair, on one position axis.
    attention_factor : float, default 1.0
        Positive factor on cosine and sine.
    W : array_like (axes, dim/2) or (heads, axes, dim/2), optional
        Radians per unit of every position axis; with three dimensions, for every head of the
        rotated array. Either this or `inv_freq`. Positions then lead with the axes.

    Raises
    ------
    TypeError
        If a value is not a real number.
    ValueError
        If both or neither of `inv_freq` and `W` are given, the shape does not fit, or a value is not
        finite or not below ``2**63`` in size.

    Notes
    -----
    Frequencies may be negative or zero. The numbers are taken as the exact float64 they are
    (a float32 buffer of a checkpoint converts exactly).

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
        inv_freq: Any = None,
        attention_factor: float = 1.0,
        *,
        W: Any = None,  # noqa: N803  (the formula's own letter)
    ) -> None:
        if (inv_freq is None) == (W is None):
            msg = "give either `inv_freq` or `W`, got " + ("neither" if W is None else "both")
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
        """Return what equality and hash go by."""
        return (self.W.shape, self.W.tobytes(), self.attention_factor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Custom):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles do not keep the flag that protects the shared frequencies.
        self.__dict__.update(state, W=frozen(state["W"]))

    def __repr__(self) -> str:
        name = "inv_freq" if self.W.ndim == 1 else "W"
        return f"Custom({name}={self.W.tolist()}, attention_factor={self.attention_factor})"

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies follow from a base: False."""
        return False

    def inv_freq(
        self,
        dim: int,
        base: float | None = None,
        context_length: int | None = None,
    ) -> Float64Array:
        """Return the frequencies as given.

        Parameters
        ----------
        dim : int
            Rotated channels: twice the number of pairs.
        base, context_length
            Not read by this schedule.

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
                f"`{name}` of Custom must hold {dim // 2} frequencies on its last axis, one for "
                f"each pair of {dim} rotated channels, got shape {self.W.shape}"
            )
            raise ValueError(msg)
        return self.W


# ------------------------------------------------------------------------------------------------
# What the published schedules share.


_POSITIVE = checked(as_positive_float)
_POSITIVE_OR_NONE = checked(as_positive_float, optional=True)
_LENGTH = checked(as_positive_integer)
_LENGTH_OR_NONE = checked(as_positive_integer, optional=True)
_MSCALE = checked(as_non_negative_float, optional=True)
_BOOL = checked(as_bool)
_FACTORS = checked(as_factors)


class _Schedule(Scaling):
    """A published schedule: its fields are checked, and its frequencies are computed in one place."""

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine: 1.0."""
        return 1.0

    def __post_init__(self) -> None:
        for own in fields(self):  # type: ignore[arg-type]  # every schedule is a dataclass
            value = own.metadata["check"](getattr(self, own.name), own.name)
            object.__setattr__(self, own.name, value)

    def __repr__(self) -> str:
        # What is derived or has its default is left out, and so is made again by what is shown.
        shown = [
            f"{own.name}={value!r}"
            for own in fields(self)  # type: ignore[arg-type]  # every schedule is a dataclass
            for value in [getattr(self, own.name)]
            if origin_of(own, value) == "given"
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def inv_freq(
        self, dim: int, base: float | None = None, context_length: int | None = None
    ) -> Float64Array:
        """Return the inverse frequencies of ``dim`` channels, in radians per position.

        Parameters
        ----------
        dim : int
            Rotated channels, even.
        base : float or None
            Base of the frequencies; None only where `needs_base` is False.
        context_length : int or None
            None only where `needs_length` is False.

        Returns
        -------
        float64 array (dim/2,), read-only

        Raises
        ------
        TypeError
            If `base` or `context_length` is needed and missing, or an argument is of the wrong kind.
        ValueError
            If a value does not fit the schedule.
        """
        width = as_rotary_dim(dim, "dim")
        name = type(self).__name__
        if self.needs_base:
            if base is None:
                msg = f"`base` must be given: {name} makes the frequencies from it"
                raise TypeError(msg)
            base = as_positive_float(base, "base")
        if self.needs_length:
            if context_length is None:
                msg = f"`context_length` must be given: {name} depends on how many positions there are"
                raise TypeError(msg)
            context_length = as_positive_integer(context_length, "context_length")
        with np.errstate(over="ignore"):
            values = self._values(width, base, context_length)
        if not (np.abs(values) < LARGEST_FREQUENCY).all():
            msg = f"{name} must give inverse frequencies below 2**63 radians per position, got {values}"
            raise ValueError(msg)
        return frozen(values)

    def resolved(self, dim: int, base: float | None, context_length: int | None) -> list[_Line]:
        """Return the fields, and what is derived from them."""
        lines = super().resolved(dim, base, context_length)
        return [*lines, *self._derived(dim, base, context_length)]

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[_Line]:
        """Return the numbers that are derived, besides the fields."""
        return []

    @abstractmethod
    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        """Return the frequencies, the arguments being checked."""


def _blended(inv_freq: Float64Array, factor: float, kept: Float64Array) -> Float64Array:
    """Return frequencies divided by a factor where ``kept`` is 0, kept where it is 1, mixed between.

    Written so that both ends, and a factor of 1, are exact.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
        divided = inv_freq / factor
        return np.where(kept == 1.0, inv_freq, divided + (inv_freq - divided) * kept)


def _lanes(kept: Float64Array) -> _Line:
    """Return how many lanes are kept, mixed and divided."""
    whole, none = int((kept == 1.0).sum()), int((kept == 0.0).sum())
    value = f"{whole} kept, {len(kept) - whole - none} mixed, {none} divided"
    return ("lanes", value, "derived: from the highest frequency to the lowest")


def _at_least_two_lanes(dim: int, name: str) -> None:
    """Raise unless there is a second lane, whose frequency a changed base can change."""
    if dim < 4:
        msg = f"`dim` must be at least 4 for {name}, whose base has the exponent dim / (dim - 2), got {dim}"
        raise ValueError(msg)


# ------------------------------------------------------------------------------------------------
# The published schedules.


@hints.constructor
@dataclass(frozen=True, repr=False)
class Linear(_Schedule):
    """Position interpolation: ``inv_freq[i] / factor``.

    Parameters
    ----------
    factor : float
        By how much positions are pressed together, positive.

    Raises
    ------
    TypeError
        If `factor` is not a real number.
    ValueError
        If it is not positive and finite.

    Notes
    -----
    Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation",
    2023 (arXiv:2306.15595), section 2.3. It is ``rope_type`` "linear" of transformers, ``freq_scale
    = 1 / factor`` of ggml and ``scale = 1 / factor`` of MLX. Use it where the checkpoint was
    fine-tuned with it, such as the global layers of Gemma 3 from 4B on. It blurs neighbouring
    positions, so extending a model without training is better done by `NTK` or `Yarn`.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Linear(factor=4).inv_freq(8, 10_000.0)
    array([0.25   , 0.025  , 0.0025 , 0.00025])
    """

    factor: float = field(metadata=_POSITIVE)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        return powers(base, dim) / self.factor


@hints.constructor
@dataclass(frozen=True, repr=False)
class DynamicNTK(_Schedule):
    """A base that grows with the context length.

    With n the context length, at least `max_position`, the base is multiplied by ``(factor * n /
    max_position - (factor - 1)) ** (dim / (dim - 2))``.

    Parameters
    ----------
    factor : float
        How fast the base grows, positive.
    max_position : int
        The length up to which frequencies are those of `Default`: max_position_embeddings.
    fixed : bool, default False
        Whether n is ``max_position * factor``, whatever the context length.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If it is not positive and finite.

    Notes
    -----
    Published as a post by the user emozilla in 2023; the formula is that of transformers
    (modeling_rope_utils.py, ``rope_type`` "dynamic"). There the base follows the longest sequence
    seen so far, so cached keys may have been rotated by another one; here it is a function of
    `context_length` alone, which an embedding therefore requires, and
    `rotary.RotaryEmbedding.at_length` moves on. ``fixed=True`` is how vLLM and SGLang read the same
    configuration (dynamic_ntk_scaling_rope.py): one base for all lengths. A configuration with
    ``alpha`` is not this schedule but ``NTK(alpha=...)``.

    The powers of base and growth are rounded apart and multiplied, so that a length of up to
    `max_position` gives the bits of `Default`.

    Examples
    --------
    >>> from rotary import scaling
    >>> schedule = scaling.DynamicNTK(factor=2, max_position=4096)
    >>> schedule.inv_freq(8, 10_000.0, 4096)
    array([1.   , 0.1  , 0.01 , 0.001])
    >>> schedule.inv_freq(8, 10_000.0, 8192).round(5)
    array([1.000e+00, 6.934e-02, 4.810e-03, 3.300e-04])
    """

    factor: float = field(metadata=_POSITIVE)
    max_position: int = field(metadata=_LENGTH)
    fixed: bool = field(default=False, metadata=_BOOL)

    @property
    def needs_length(self) -> bool:
        """Whether the frequencies depend on the context length: unless `fixed`."""
        return not self.fixed

    def _growth(self, context_length: int | None) -> float:
        """Return the number whose power multiplies the base."""
        if self.fixed:
            return 1.0 + self.factor * (self.factor - 1.0)
        beyond = max((context_length or 0) - self.max_position, 0)
        return 1.0 + self.factor * (beyond / self.max_position)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        _at_least_two_lanes(dim, "DynamicNTK")
        return powers(base, dim) * spaced(self._growth(context_length), dim // 2)

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[_Line]:
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


def _grown_base(base: float, growth: float, dim: int) -> _Line:
    """Return the base that a growth by `growth` of all wavelengths but the first leads to."""
    value = float(CONTEXT.power(Decimal(growth), Decimal(dim) / Decimal(dim - 2))) * base
    return ("grown base", value, f"derived: base * {growth!r} ** (dim / (dim - 2))")


@hints.constructor
@dataclass(frozen=True, repr=False)
class NTK(_Schedule):
    """A larger base: high frequencies stay, the lowest one is divided by the factor.

    Parameters
    ----------
    factor : float, optional
        By how much the lowest frequency is divided, positive. Either this or `alpha`.
    alpha : float, optional
        Another name of the factor, that of HunYuan's configurations; "aware" form only.
    form : {"aware", "fixed", "mixed"}, default "aware"
        - "aware" multiplies the base by ``factor ** (dim / (dim - 2))``.
        - "fixed" is ``(base * factor) ** (-2i / dim) / factor ** (2 / dim)``.
        - "mixed" is ``inv_freq[i] / exp(a * (i + 1) ** mixed_b)`` with ``a = ln(factor) /
          (dim / 2) ** mixed_b``.
    mixed_b : float, optional
        Exponent of the "mixed" form, 0.625 by default.

    Raises
    ------
    TypeError
        If a value is of the wrong kind, or neither `factor` nor `alpha` is given.
    ValueError
        If a value is not positive and finite, both `factor` and `alpha` are given, or one that the
        form does not read.

    Notes
    -----
    "aware" was published as a post by the user bloc97 in 2023; vLLM's
    dynamic_ntk_alpha_rope.py and ``theta_rescale_factor`` of rotary-embedding-torch are the same.
    "fixed" and "mixed" are from notes by Jianlin Su in 2023, as implemented in vLLM's
    ntk_scaling_rope.py. All of them divide the last frequency by exactly the factor. ``ntk_factor``
    of diffusers multiplies the base itself, without an exponent: give that product as `base`.

    Use it to run a model at longer contexts without training, and ``alpha`` for HunYuan, whose
    configurations call it "dynamic".

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

    factor: float | None = field(default=None, metadata=_POSITIVE_OR_NONE)
    alpha: float | None = field(default=None, metadata=_POSITIVE_OR_NONE)
    form: Literal["aware", "fixed", "mixed"] = field(
        default="aware", metadata=chosen("aware", "fixed", "mixed")
    )
    mixed_b: float | None = field(default=None, metadata=_POSITIVE_OR_NONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor is None and self.alpha is None:
            msg = "`factor` or `alpha` must be given, got neither"
            raise TypeError(msg)
        if self.factor is not None and self.alpha is not None:
            msg = f"`factor` and `alpha` must not both be given, got {self.factor} and {self.alpha}"
            raise ValueError(msg)
        if self.alpha is not None and self.form != "aware":
            msg = f"`alpha` must be left out for the form {self.form!r}, which has a `factor`, got {self.alpha}"
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
        ratio, lanes = self._ratio, dim // 2
        plain = powers(base, dim)
        if self.form == "aware":
            _at_least_two_lanes(dim, "NTK")
            return plain * spaced(ratio, lanes)
        if self.form == "fixed":
            shrunk: Float64Array = np.append(powers(ratio, dim)[1:], 1.0 / ratio)
            return plain * shrunk
        power = Decimal(self.mixed_b or 0.0)
        shares = [CONTEXT.divide(Decimal(i + 1), Decimal(lanes)) for i in range(lanes)]
        return plain * raised(ratio, [-CONTEXT.power(share, power) for share in shares])

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[_Line]:
        return [_grown_base(base, self._ratio, dim)] if self.form == "aware" else []


_MSCALE_RULES = ("transformers", "deepseek", "paper", "telechat3", "none")


def _mscale(factor: float, mscale: float, slope: float = 0.1) -> float:
    """Return the temperature of YaRN: ``slope * mscale * ln(factor) + 1``, and 1 up to a factor of 1."""
    return 1.0 if factor <= 1.0 else slope * mscale * math.log(factor) + 1.0


@hints.constructor
@dataclass(frozen=True, repr=False)
class Yarn(_Schedule):
    """Interpolation by parts: high frequencies stay, low ones are divided, a ramp lies between.

    With ``lane(r) = dim * ln(original_max_position / (2 pi r)) / (2 ln base)``, ``low =
    max(floor(lane(beta_fast)), 0)`` and ``high = min(ceil(lane(beta_slow)), dim - 1)``, the kept part
    is ``g[i] = 1 - clip((i - low) / (high - low), 0, 1)``, and frequencies are ``inv_freq[i] *
    g[i] + inv_freq[i] / factor * (1 - g[i])``.

    Parameters
    ----------
    factor : float
        How many times longer the context is, positive.
    original_max_position : int
        The context length of the training before: original_max_position_embeddings.
    beta_fast, beta_slow : float, default 32 and 1
        Lanes that turn more than `beta_fast` times within `original_max_position` are kept, those
        that turn less than `beta_slow` times are divided.
    truncate : bool, default True
        Whether the ends of the ramp are rounded outwards to whole lanes. gpt-oss needs False.
    extrapolation_factor : float, default 1.0
        From 0 to 1, a factor on the kept part; 0 is `Linear`.
    attention_factor : float, optional
        Factor on cosine and sine, in place of what the rule gives.
    attn_factor : float, default 1.0
        A further factor on what the rule gives; not together with `attention_factor`.
    mscale, mscale_all_dim : float, optional
        Read by `mscale_rule`.
    mscale_rule : {"transformers", "deepseek", "paper", "telechat3", "none"}
        How the attention factor follows, with ``m(k) = 0.1 k ln(factor) + 1``, or 1 where `factor` is
        at most 1:

        - "transformers": ``m(mscale) / m(mscale_all_dim)`` where both are given and not 0, else
          ``m(1)``. The default; also of newer vLLM and SGLang.
        - "deepseek": ``m(mscale) / m(mscale_all_dim)``, by default 1 and 0. Of DeepSeek's own code, of
          ``deepseek_yarn`` in vLLM and SGLang, and of mlx-lm.
        - "paper": ``m(1)``, whatever the mscales. Of the authors' code and older vLLM.
        - "telechat3": ``0.07 ln(factor) + 1``. Of ``telechat3-yarn`` in vLLM.
        - "none": 1. Of Grok-1 in vLLM.
    softmax_factor : float, optional
        What the attention's softmax scale is multiplied by, outside the rotation. By default
        ``m(mscale_all_dim) ** 2`` under the rules "transformers" and "deepseek", else 1. Give 1.0 for a
        model that has `mscale_all_dim` and leaves its softmax alone.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If a value does not fit: not positive, `beta_fast` below `beta_slow`, both `attention_factor`
        and `attn_factor`; or, when frequencies are made, if the base is not above 1 or the ramp ends
        before it begins, where implementations disagree.

    Notes
    -----
    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023
    (arXiv:2309.00071), sections 3.2 and 3.4; limits and defaults as in transformers
    (modeling_rope_utils.py). `softmax_factor` is from DeepSeek-V2's modelling code. Where the ramp has
    no width, 0.001 is added to its end, as there.

    Use it where the checkpoint says "yarn": Qwen 2.5 and 3 beyond 32k, DeepSeek, gpt-oss. A factor of
    1 gives the bits of `Default`.

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

    factor: float = field(metadata=_POSITIVE)
    original_max_position: int = field(metadata=_LENGTH)
    beta_fast: float = field(default=32.0, metadata=_POSITIVE)
    beta_slow: float = field(default=1.0, metadata=_POSITIVE)
    truncate: bool = field(default=True, metadata=_BOOL)
    extrapolation_factor: float = field(default=1.0, metadata=checked(as_fraction))
    # A float once made; None asks for what the rule gives.
    attention_factor: Any = field(default=None, metadata=_POSITIVE_OR_NONE)
    attn_factor: float = field(default=1.0, metadata=_POSITIVE)
    mscale: float | None = field(default=None, metadata=_MSCALE)
    mscale_all_dim: float | None = field(default=None, metadata=_MSCALE)
    mscale_rule: Literal["transformers", "deepseek", "paper", "telechat3", "none"] = field(
        default="transformers", metadata=chosen(*_MSCALE_RULES)
    )
    softmax_factor: Any = field(default=None, metadata=_POSITIVE_OR_NONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_fast < self.beta_slow:
            msg = f"`beta_fast` must be at least `beta_slow` {self.beta_slow}, got {self.beta_fast}"
            raise ValueError(msg)
        if self.attention_factor is None:
            object.__setattr__(self, "attention_factor", self._attention_factor())
        elif self.attn_factor != 1.0:
            msg = (
                "`attention_factor` and `attn_factor` must not both be given: one replaces what the "
                f"other multiplies, got {self.attention_factor} and {self.attn_factor}"
            )
            raise ValueError(msg)
        if self.softmax_factor is None:
            object.__setattr__(self, "softmax_factor", self._softmax_factor())

    def _attention_factor(self) -> Derived:
        """Return what the rule gives, and its words."""
        s, mscale, all_dim = self.factor, self.mscale, self.mscale_all_dim
        match self.mscale_rule:
            case "transformers" if mscale and all_dim:
                value = _mscale(s, mscale) / _mscale(s, all_dim)
                words = "m(mscale) / m(mscale_all_dim)"
            case "deepseek":
                value = _mscale(s, 1.0 if mscale is None else mscale) / _mscale(s, all_dim or 0.0)
                words = "m(mscale or 1) / m(mscale_all_dim or 0)"
            case "telechat3":
                value, words = _mscale(s, 1.0, slope=0.07), "0.07 ln(factor) + 1"
            case "none":
                value, words = 1.0, "1"
            case _:
                value, words = _mscale(s, 1.0), "0.1 ln(factor) + 1"
        return Derived(value * self.attn_factor, f"{words}, times attn_factor")

    def _softmax_factor(self) -> Derived:
        """Return the factor on the softmax scale, and its words."""
        if self.mscale_all_dim and self.mscale_rule in ("transformers", "deepseek"):
            return Derived(_mscale(self.factor, self.mscale_all_dim) ** 2, "m(mscale_all_dim) ** 2")
        return Derived(1.0, "1, for there is no mscale_all_dim that the rule reads")

    def _lane(self, rotations: float, dim: int, base: float) -> float:
        """Return the lane, a fraction, that turns so often within the original context."""
        return (
            dim
            * math.log(self.original_max_position / (rotations * 2.0 * math.pi))
            / (2.0 * math.log(base))
        )

    def _ramp(self, dim: int, base: float) -> tuple[float, float]:
        """Return the lanes where the ramp begins and ends."""
        if base <= 1.0:
            msg = f"`base` must be above 1 for Yarn, got {base}"
            raise ValueError(msg)
        low, high = self._lane(self.beta_fast, dim, base), self._lane(self.beta_slow, dim, base)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if high < low:
            msg = (
                f"`original_max_position` {self.original_max_position} does not fit base {base} and "
                f"{dim} channels: the ramp must not end before it begins, at lane {low}, got {high}"
            )
            raise ValueError(msg)
        return low, high

    def _kept(self, dim: int, base: float) -> Float64Array:
        """Return what is kept of every lane, from 1 to 0."""
        low, high = self._ramp(dim, base)
        if low == high:
            high += 0.001
        ramp: Float64Array = np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)
        return (1.0 - ramp) * self.extrapolation_factor

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        return _blended(powers(base, dim), self.factor, self._kept(dim, base))

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[_Line]:
        low, high = self._ramp(dim, base)
        fast, slow = (self._lane(beta, dim, base) for beta in (self.beta_fast, self.beta_slow))
        how = "rounded, within 0 .. dim - 1" if self.truncate else "within 0 .. dim - 1"
        return [
            ("low", low, f"derived: lane {fast:.10g} of beta_fast, {how}"),
            ("high", high, f"derived: lane {slow:.10g} of beta_slow, {how}"),
            _lanes(self._kept(dim, base)),
        ]


@hints.constructor
@dataclass(frozen=True, repr=False)
class LongRope(_Schedule):
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

    short_factor: tuple[float, ...] = field(metadata=_FACTORS)
    long_factor: tuple[float, ...] = field(metadata=_FACTORS)
    original_max_position: int = field(metadata=_LENGTH)
    factor: float | None = field(default=None, metadata=_POSITIVE_OR_NONE)
    max_position: int | None = field(default=None, metadata=_LENGTH_OR_NONE)
    # A float once made; None asks for the formula.
    attention_factor: Any = field(default=None, metadata=_POSITIVE_OR_NONE)
    short_mscale: float | None = field(default=None, metadata=_POSITIVE_OR_NONE)
    long_mscale: float | None = field(default=None, metadata=_POSITIVE_OR_NONE)

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
        if self.attention_factor is None:
            object.__setattr__(self, "attention_factor", self._attention_factor())
        elif mscales != (None, None):
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
        _check_count(factors, "long_factor" if long else "short_factor", dim)
        return powers(base, dim) / np.array(factors, dtype=np.float64)

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[_Line]:
        long = self._is_long(context_length)
        compared = "above" if long else "not above"
        chosen = "long_factor" if long else "short_factor"
        origin = f"derived: context_length {context_length} is {compared} original_max_position"
        lines: list[_Line] = [("factors", chosen, origin)]
        if self.max_position is not None:
            origin = "derived: max_position / original_max_position"
            lines.append(("stretch", self._stretch, origin))
        return lines


def _check_count(factors: tuple[float, ...], name: str, dim: int) -> None:
    """Raise unless there is one factor for each lane."""
    if len(factors) != dim // 2:
        msg = f"`{name}` must hold {dim // 2} numbers, one for each pair of {dim} rotated channels, got {len(factors)}"
        raise ValueError(msg)


@hints.constructor
@dataclass(frozen=True, repr=False)
class Llama3(_Schedule):
    """Interpolation by wavelength: short waves stay, long ones are divided, between them a mixture.

    With ``t = (original_max_position / wavelength - low_freq_factor) / (high_freq_factor -
    low_freq_factor)`` within 0 .. 1 and ``wavelength = 2 pi / inv_freq[i]``, frequencies are
    ``inv_freq[i] * ((1 - t) / factor + t)``.

    Parameters
    ----------
    factor : float
        What low frequencies are divided by, positive. 8 in Llama 3.1, 32 in the small ones of 3.2.
    low_freq_factor, high_freq_factor : float
        Waves longer than ``original_max_position / low_freq_factor`` are divided, those shorter than
        ``original_max_position / high_freq_factor`` are kept. 1 and 4 in Llama 3. Where both are the
        same, 1 in Llama 4, every wave is divided or kept, and none mixed.
    original_max_position : int
        The context length of the training before: original_max_position_embeddings, 8192 in Llama 3.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If it is not positive and finite, or `high_freq_factor` is below `low_freq_factor`.

    Notes
    -----
    From the reference code of Llama 3.1 (llama_models, ``apply_scaling``), as in transformers
    (modeling_rope_utils.py, ``rope_type`` "llama3"). Nothing has a default, for checkpoints differ
    in `factor` only and are easily mistaken for one another. A factor of 1 gives the bits of `Default`.

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

    factor: float = field(metadata=_POSITIVE)
    low_freq_factor: float = field(metadata=_POSITIVE)
    high_freq_factor: float = field(metadata=_POSITIVE)
    original_max_position: int = field(metadata=_LENGTH)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high_freq_factor < self.low_freq_factor:
            msg = (
                f"`high_freq_factor` must be at least `low_freq_factor` {self.low_freq_factor}, "
                f"got {self.high_freq_factor}"
            )
            raise ValueError(msg)

    def _kept(self, inv_freq: Float64Array) -> Float64Array:
        """Return what is kept of every lane, from 1 to 0."""
        turns = self.original_max_position * inv_freq / (2.0 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        if span == 0.0:
            return (turns >= self.low_freq_factor).astype(np.float64)
        return np.clip((turns - self.low_freq_factor) / span, 0.0, 1.0)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        plain = powers(base, dim)
        return _blended(plain, self.factor, self._kept(plain))

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[_Line]:
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
            _lanes(self._kept(powers(base, dim))),
        ]


@hints.constructor
@dataclass(frozen=True, repr=False)
class Proportional(_Schedule):
    """Only the first frequencies, the others zero: part of the pairs turns, over the whole head.

    The first ``int(partial_rotary_factor * dim // 2)`` frequencies are ``base ** (-2i / dim) /
    factor``, those of the full width; the pairs that follow do not turn.

    Parameters
    ----------
    partial_rotary_factor : float, default 1.0
        Which part of the pairs turns, from 0 to 1.
    factor : float, default 1.0
        What frequencies are divided by, positive.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If it is not within its range.

    Notes
    -----
    From transformers (modeling_rope_utils.py, ``rope_type`` "proportional"), for the global layers of
    Gemma 4. The idea of leaving low frequencies out is p-RoPE of Barbero et al., "Round and Round We
    Go! What makes Rotary Positional Encodings useful?", 2024 (arXiv:2410.06205).

    This is not what `rotary_dim` does: with it, a smaller width would make other frequencies and, in
    the half layout, other pairs. Leave `rotary_dim` at the head's width here.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Proportional(partial_rotary_factor=0.5).inv_freq(8, 10_000.0)
    array([1. , 0.1, 0. , 0. ])
    """

    partial_rotary_factor: float = field(default=1.0, metadata=checked(as_fraction))
    factor: float = field(default=1.0, metadata=_POSITIVE)

    def _turning(self, dim: int) -> int:
        """Return how many pairs turn."""
        return int(self.partial_rotary_factor * dim // 2)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        turns = np.arange(dim // 2) < self._turning(dim)
        return np.where(turns, powers(base, dim) / self.factor, 0.0)

    def _derived(self, dim: int, base: Any, context_length: Any) -> list[_Line]:
        return [
            ("turning pairs", self._turning(dim), "derived: int(partial_rotary_factor * dim // 2)"),
        ]


# ------------------------------------------------------------------------------------------------
# Schedules without a base.


class _Baseless(_Schedule):
    """A schedule that gives the frequencies itself."""

    @property
    def needs_base(self) -> bool:
        """Whether the frequencies follow from a base: False."""
        return False


@hints.constructor
@dataclass(frozen=True, repr=False)
class Pixel(_Baseless):
    """Frequencies for coordinates within -1 .. 1: ``pi * linspace(1, max_freq / 2, dim / 2)``.

    Parameters
    ----------
    max_freq : float, default 10.0
        Twice the highest frequency, in half turns; commonly the number of pixels on a side. Above 0.
    spacing : {"linear", "log"}, default "linear"
        "log" is ``pi * 2 ** linspace(0, log2(max_freq) - 1, dim / 2)``.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If it is not positive and finite, or not one of the words.

    Notes
    -----
    From rotary-embedding-torch (``freqs_for="pixel"``, `max_freq` 10, linear) and timm
    (pos_embed_sincos.py, ``pixel_freq_bands``, `max_freq` 224, its images "log"). Positions are the
    caller's, such as ``np.linspace(-1, 1, size)``. One axis; two axes have these frequencies each,
    as `Custom` with `W`.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Pixel(max_freq=10).inv_freq(6).round(4)
    array([ 3.1416,  9.4248, 15.708 ])
    >>> scaling.Pixel(max_freq=8, spacing="log").inv_freq(6).round(4)
    array([ 3.1416,  6.2832, 12.5664])
    """

    max_freq: float = field(default=10.0, metadata=_POSITIVE)
    spacing: Literal["linear", "log"] = field(default="linear", metadata=chosen("linear", "log"))

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        lanes = dim // 2
        if self.spacing == "linear":
            return math.pi * np.linspace(1.0, self.max_freq / 2.0, lanes)
        return math.pi / spaced(self.max_freq / 2.0, lanes)


@hints.constructor
@dataclass(frozen=True, repr=False)
class Constant(_Baseless):
    """The same frequency for every pair.

    Parameters
    ----------
    value : float, default 1.0
        Radians per position, of either sign.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is not finite.

    Notes
    -----
    From rotary-embedding-torch (``freqs_for="constant"``, 1). Use it where the position is an angle
    itself, such as a heading (DRoPE, arXiv:2503.15029).

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
    """Periods spaced evenly in their logarithm, from `min` to `max`.

    ``period[i] = min * (max / min) ** (i / (dim / 2 - 1))`` and ``inv_freq[i] = 2 pi / period[i]``.

    Parameters
    ----------
    min, max : float
        The first and the last period, in units of position such as seconds; positive. `max` may be
        below `min`.
    unit : {"turn", "radian"}, default "turn"
        Whether a period is the length of a full turn, or of one radian: a timescale.
    endpoint : bool, default True
        Whether `max` is the last period itself, or the one that would follow:
        ``(max / min) ** (i / (dim / 2))``.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If it is not positive and finite, or not one of the words.

    Notes
    -----
    The default is that of POYO (torch_brain, position_embeddings.py,
    ``generate_logspace_timeperiods``) and of DINOv3 with periods given. TimesFM's ``min_timescale``
    and ``max_timescale`` are ``Periods(min, max, unit="radian", endpoint=False)``: with 1 and 10,000
    the bits of `Default` at base 10,000. Use it where positions have a unit and you know the shortest and
    the longest time that matters.

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

    min: float = field(metadata=_POSITIVE)
    max: float = field(metadata=_POSITIVE)
    unit: Literal["turn", "radian"] = field(default="turn", metadata=chosen("turn", "radian"))
    endpoint: bool = field(default=True, metadata=_BOOL)

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        ratio = self.max / self.min
        inverse = spaced(ratio, dim // 2) if self.endpoint else powers(ratio, dim)
        return inverse * ((2.0 * math.pi if self.unit == "turn" else 1.0) / self.min)


# ------------------------------------------------------------------------------------------------
# Modifiers, which change the frequencies of another schedule.


def _as_scaling(value: Any, name: str) -> Scaling:
    """Return a schedule."""
    if not isinstance(value, Scaling):
        msg = f"`{name}` must be one of rotary.scaling, got {value!r}"
        raise TypeError(msg)
    return value


_SCALING = checked(_as_scaling)


@dataclass(frozen=True, repr=False)
class _Modifier(_Schedule):
    """A schedule that changes the frequencies of another one and leaves the rest to it."""

    scaling: Scaling = field(default=Default(), metadata=_SCALING)

    @property
    def attention_factor(self) -> float:
        """The factor on cosine and sine of the schedule within."""
        return self.scaling.attention_factor

    def attention_factor_at(self, context_length: int | None) -> float:
        """Return the factor of the schedule within.

        Parameters
        ----------
        context_length : int or None
            As the schedule within needs it.

        Returns
        -------
        float
        """
        return self.scaling.attention_factor_at(context_length)

    @property
    def softmax_factor(self) -> float:
        """What the softmax scale is multiplied by, of the schedule within."""
        return self.scaling.softmax_factor

    @property
    def needs_base(self) -> bool:
        """Whether the schedule within needs a base."""
        return self.scaling.needs_base

    @property
    def needs_length(self) -> bool:
        """Whether the schedule within depends on the context length."""
        return self.scaling.needs_length

    def _values(self, dim: int, base: Any, context_length: Any) -> Float64Array:
        return self._changed(self.scaling.inv_freq(dim, base, context_length))

    @abstractmethod
    def _changed(self, inv_freq: Float64Array) -> Float64Array:
        """Return the changed frequencies."""

    def resolved(self, dim: int, base: float | None, context_length: int | None) -> list[_Line]:
        """Return every number of this schedule and of the one within; see `Scaling`."""
        _, *own = super().resolved(dim, base, context_length)
        within = self.scaling.resolved(dim, base, context_length)
        return [
            *own,
            ("scaling", type(self.scaling).__name__, origin_of(fields(self)[0], self.scaling)),
            *[(f"  {name}", value, origin) for name, value, origin in within],
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
        Number n of frequencies; at most all of them.
    hard : bool, default False
        Whether they are set to zero.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If `clip_low_n` is not at least 1 or, when frequencies are made, more than there are.

    Notes
    -----
    CoPE, "clipped RoPE", 2026; from the authors' repository hrlics/CoPE. Frequencies whose wave is
    longer than the training context have never been seen in full; without them a model meets nothing
    new beyond it.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.Clip(clip_low_n=3).inv_freq(8, 10_000.0)
    array([1.   , 0.1  , 0.005, 0.   ])
    >>> scaling.Clip(scaling.Linear(2), clip_low_n=2, hard=True).inv_freq(8, 10_000.0)
    array([0.5 , 0.05, 0.  , 0.  ])
    """

    clip_low_n: int = field(default=20, metadata=_LENGTH)
    hard: bool = field(default=False, metadata=_BOOL)

    def _changed(self, inv_freq: Float64Array) -> Float64Array:
        lanes = inv_freq.shape[-1]
        if self.clip_low_n > lanes:
            msg = f"`clip_low_n` must be at most the {lanes} frequencies there are, got {self.clip_low_n}"
            raise ValueError(msg)
        window = np.ones(lanes)
        fade = 0.5 * (1.0 + np.cos(np.linspace(0.0, math.pi, self.clip_low_n)))
        window[lanes - self.clip_low_n :] = 0.0 if self.hard else fade
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
        If `scaling` is no schedule.
    ValueError
        When frequencies are made: if a wavelength is closer to 0 than to 1.

    Notes
    -----
    Wang et al., "Resonance RoPE: Improving Context Length Generalization of Large Language Models",
    2024 (arXiv:2403.00071). Features then repeat exactly, so that integer positions beyond
    the training context show none that is new in these lanes. Around `Yarn` it is the paper's
    "Resonance YaRN".

    Examples
    --------
    >>> import numpy as np
    >>> from rotary import scaling
    >>> 2 * np.pi / scaling.Resonance().inv_freq(16, 10_000.0)[:4]
    array([  6.,  20.,  63., 199.])
    """

    def _changed(self, inv_freq: Float64Array) -> Float64Array:
        turning = inv_freq != 0
        wavelengths = np.divide(2.0 * math.pi, inv_freq, out=np.ones_like(inv_freq), where=turning)
        whole = np.rint(wavelengths)
        if not whole.all():
            msg = (
                "`scaling` must give wavelengths that round to at least one position for Resonance, "
                f"got {np.abs(wavelengths).min()}"
            )
            raise ValueError(msg)
        return np.where(turning, 2.0 * math.pi / whole, 0.0)


@hints.constructor
@dataclass(frozen=True, repr=False)
class FreqFactors(_Modifier):
    """Divide every frequency of another schedule by a factor of its own.

    Parameters
    ----------
    scaling : Scaling, default `Default()`
        The schedule to change.
    freq_factors : array_like (dim/2,)
        Positive divisors.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        If a factor is not positive and finite or, when frequencies are made, if there is not one for
        each pair.

    Notes
    -----
    The ``freq_factors`` of ggml (``ggml_rope_ext``), which GGUF files hold as the tensor
    ``rope_freqs.weight``. Converters write the frequencies of Llama 3 this way. The two lists of
    `LongRope` are tensors of their own, ``rope_factors_short.weight`` and ``rope_factors_long.weight``.

    Examples
    --------
    >>> from rotary import scaling
    >>> scaling.FreqFactors(freq_factors=[1, 1, 2, 8]).inv_freq(8, 10_000.0)
    array([1.00e+00, 1.00e-01, 5.00e-03, 1.25e-04])
    """

    freq_factors: tuple[float, ...] = field(kw_only=True, metadata=_FACTORS)

    def _changed(self, inv_freq: Float64Array) -> Float64Array:
        _check_count(self.freq_factors, "freq_factors", 2 * inv_freq.shape[-1])
        return inv_freq / np.array(self.freq_factors, dtype=np.float64)
