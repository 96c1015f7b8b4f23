"""The schedule that the keys and factor tensors of a GGUF file describe."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from rotary import scaling
from rotary._lib.checks import (
    as_choice,
    as_float,
    as_non_negative_float,
    as_positive_float,
    as_positive_integer,
)
from rotary._lib.errors import ConfigError, shown
from rotary._lib.numbers import as_length
from rotary.scaling import Scaling
from rotary.scaling.yarn import _mscale

from .assemble import schedule_of
from .gguf_metadata import LONG, ROPE_FREQS, SHORT, Metadata
from .llama_cpp import check_softmax
from .reader import Found

__all__ = ["Context", "Factors", "schedule"]

Factors = dict[str, tuple[float, ...]]
_FACTOR = "rope.scaling.factor"
_KIND = "rope.scaling.type"
_ORIGINAL = "rope.scaling.original_context_length"


class Context(NamedTuple):
    """The length of the context, and the length before its extension; both values may be None."""

    length: Found
    original: Found

    @classmethod
    def of(cls, data: Metadata, given: int | None) -> Context:
        """Return the lengths of the context."""
        own = data.found("context_length", as_length)
        key = data.origin_of("context_length")
        value = None if own is None else own.value
        length = Found(value, f"{key}, the length that the model was trained for")
        if given is not None:
            length = Found(given, "given")
        return cls(length, data.found(_ORIGINAL, as_length) or Found(value, key))


class _Stretch(NamedTuple):
    """How the context was extended, and by which factor."""

    kind: Found  # as the file says, "linear" by default
    factor: Found
    ramp: float  # the weight of YaRN's ramp, 0 for none


def _stretch(data: Metadata) -> _Stretch:
    """Read the keys of the scaling."""
    kinds = ("none", "linear", "yarn", "longrope")
    kind = data.found(_KIND, lambda value, name: as_choice(value, name, kinds))
    factor = data.found(_FACTOR, as_non_negative_float)
    legacy = data.found("rope.scale_linear", as_non_negative_float)
    if factor is not None and legacy is not None and legacy.value != factor.value:
        must = f"must be left out, or be {factor.value} as {factor.origin}"
        data.fail("rope.scale_linear", must, legacy.value)
    factor = factor or legacy
    is_yarn = kind is not None and kind.value == "yarn"
    if kind is not None and kind.value == "none":
        factor = Found(1.0, f"{kind.origin} is none")
    elif factor is None or not factor.value:  # 0 stands for none, as in llama.cpp
        if is_yarn:
            got = None if factor is None else factor.value
            data.fail(_FACTOR, "must be there and positive for yarn", got)
        factor = Found(1.0, "the file gives no factor")
    ramp = data.read("rope.scaling.yarn_ext_factor", as_float)
    if ramp is None or ramp < 0:
        ramp = 1.0 if is_yarn else 0.0
    elif ramp > 1:
        data.fail("rope.scaling.yarn_ext_factor", "must be at most 1", ramp)
    return _Stretch(kind or Found("linear", f"no {data.origin_of(_KIND)}: linear"), factor, ramp)


def schedule(
    data: Metadata,
    factors: Factors,
    context: Context,
    attention_factor: float | None,
    *,
    known: bool,
) -> tuple[Scaling, dict[str, str]]:
    """Return the schedule of layers of full attention, and the origins of its fields."""
    stretch = _stretch(data)
    _need_tensors(data, stretch, factors, known=known)
    if not stretch.ramp:
        check_softmax(data.architecture, data, _FACTOR, stretch.factor.value)
    kind: type[Scaling] = scaling.Linear
    fields = {"factor": stretch.factor}
    no_factor = {"factor": Found(None, stretch.factor.origin)}
    origin = stretch.kind.origin
    if stretch.ramp:
        kind, fields = scaling.Yarn, _yarn(data, stretch, context, attention_factor)
    elif data.read("rope.scaling.alpha", as_non_negative_float):
        kind, fields = scaling.NTK, no_factor | _alpha(data, stretch)
    elif LONG in factors or SHORT in factors:
        kind = scaling.LongRope
        fields = no_factor | _longrope(data, stretch, factors, context, attention_factor)
    elif stretch.factor.value == 1.0:
        where = "in the file" if known else "given"
        without = "" if ROPE_FREQS in factors else f", and no {ROPE_FREQS} is {where}"
        kind, fields, origin = scaling.Default, {}, stretch.factor.origin + without
    if LONG in factors and kind is not scaling.LongRope:
        msg = f"`{LONG}` must not be there together with yarn or alpha, whose frequencies differ, got both"
        raise ConfigError(msg)
    if "attention_factor" not in fields:
        _refuse_factor(data, attention_factor)
    made, origins = schedule_of(kind, fields)
    # `explain` shows the factors twice: as fields of the schedule and of the embedding.
    totals = ("attention_factor", "softmax_factor")
    origins |= {name: fields[name].origin for name in totals if name in fields}
    origins["scaling"] = origin
    if ROPE_FREQS in factors:
        return _with_freq_factors(made, origins, factors)
    return made, origins


def _with_freq_factors(
    made: Scaling, origins: dict[str, str], factors: Factors
) -> tuple[Scaling, dict[str, str]]:
    """Return a schedule whose frequencies are divided by the tensor of factors."""
    if LONG in factors:
        msg = f"`{ROPE_FREQS}` must not be there together with `{LONG}`, got both"
        raise ConfigError(msg)
    # The schedule within is nested one level deeper.
    origins = {
        f"scaling.{name}" if name.startswith("scaling") else name: origin
        for name, origin in origins.items()
    }
    origins |= {"scaling": ROPE_FREQS, "scaling.freq_factors": ROPE_FREQS}
    return scaling.FreqFactors(made, freq_factors=factors[ROPE_FREQS]), origins


def _refuse_factor(data: Metadata, given: float | None) -> None:
    """Refuse an attention factor if the schedule has none."""
    # Without these keys the rest would describe another rotation, so the message does not advise to drop them.
    belongs = {
        "attn_factor": "yarn or factor tensors, of which there is neither",
        "yarn_attn_factor": "the scaling type yarn, which the metadata do not have",
    }
    for key, what in belongs.items():
        name = f"rope.scaling.{key}"
        value = data.read(name, as_positive_float)
        if value not in (None, 1.0):
            data.fail(name, f"must go with {what}", value)
    if given not in (None, 1.0):
        msg = (
            f"`attention_factor` must be left out if neither yarn nor longrope scales, got {given}"
        )
        raise ConfigError(msg)


# ------------------------------------------------------------------------------------------------
# The fields of each schedule.


def _yarn(
    data: Metadata, stretch: _Stretch, context: Context, attention_factor: float | None
) -> dict[str, Found]:
    """Return the fields of YaRN as ggml computes it; its ramp ends on whole pairs."""
    if context.original.value is None:
        data.fail(_ORIGINAL, "must be there for yarn", "no such key")
    factor, softmax = _yarn_factors(data, stretch.factor.value, attention_factor)
    fast, slow = (
        data.found(f"rope.scaling.yarn_{name}", as_positive_float)
        for name in ("beta_fast", "beta_slow")
    )
    scaled = "as llama.cpp scales the softmax of this architecture"
    return {
        "factor": stretch.factor,
        "original_max_position": context.original,
        "beta_fast": fast or Found(data.architecture.beta_fast, "the default"),
        "beta_slow": slow or Found(1.0, "the default"),
        "truncate": Found(True, "as llama.cpp does"),
        "extrapolation_factor": Found(stretch.ramp, ""),
        "attention_factor": factor,
        "softmax_factor": Found(softmax, scaled if softmax != 1.0 else "the default"),
    }


def _yarn_factors(data: Metadata, factor: float, given: float | None) -> tuple[Found, float]:
    """Return the factor on cosine and sine beside a ramp, and the factor on the softmax scale.

    ggml multiplies cosine and sine by 1 + 0.1 ln(factor), and llama.cpp divides its own factor by the same
    before. The two cancel, so that the result is the factor that llama.cpp computes first.
    """
    own = data.architecture
    all_dim = _log_multiplier(data)
    if all_dim:
        value = _mscale(factor, own.mscale(all_dim)) / _mscale(factor, all_dim)
        words = "m(mscale) / m(yarn_log_multiplier)"
    else:
        value, words = _mscale(factor, 1.0), "0.1 ln(factor) + 1"
    written = data.read("rope.scaling.yarn_attn_factor", as_positive_float)
    times = data.read("rope.scaling.attn_factor", as_positive_float) or 1.0
    softmax = 1.0
    if own.softmax:
        softmax = (value * times * (1.0 + 0.1 * all_dim * math.log(factor))) ** 2
    if given is not None:
        return Found(given, "given"), softmax
    # llama.cpp multiplies by it for Grok, where it is 1. Other converters write a factor that replaces the formula.
    is_other = written is not None and not math.isclose(written, value, rel_tol=1e-6)
    if is_other and not own.yarn_attn_factor:
        must = (
            f"is not read by llama.cpp, which takes {value:.9g}, and may be meant all the same: "
            f"write attention_factor={shown(written)} or attention_factor={shown(value)}"
        )
        data.fail("rope.scaling.yarn_attn_factor", must, written)
    return Found(value * times, f"derived: {words}"), softmax


def _log_multiplier(data: Metadata) -> float:
    """Return mscale_all_dim, or 0 if there is none."""
    name = "rope.scaling.yarn_log_multiplier"
    value = data.read(name, as_non_negative_float)
    if not value:
        return 0.0
    if data.architecture.log_multiplier == "tenths":
        # In float32, so that 0.1 / 0.1 is exactly 1, as llama.cpp expects.
        return float(np.float32(value) / np.float32(0.1))
    if data.architecture.log_multiplier != "whole":
        must = "is mscale_all_dim in some architectures, a tenth of it in others, not known for this one"
        data.fail(name, f"{must}: leave it out and give `attention_factor`", value)
    return value


def _alpha(data: Metadata, stretch: _Stretch) -> dict[str, Found]:
    """Return the field of HunYuan's schedule, which enlarges the base."""
    name = "rope.scaling.alpha"
    alpha = data.found(name, as_positive_float)
    assert alpha is not None
    own, factor = data.architecture, stretch.factor.value
    if not own.alpha or factor != 1.0:
        must = f"must be left out for {own.name} and a factor of {factor}"
        data.fail(name, must, alpha.value)
    return {"alpha": alpha}


def _longrope(
    data: Metadata,
    stretch: _Stretch,
    factors: Factors,
    context: Context,
    attention_factor: float | None,
) -> dict[str, Found]:
    """Return the fields of LongRoPE, whose long factors apply beyond the original context."""
    for name in (LONG, SHORT):
        if name not in factors:
            msg = f"`{name}` must be there: long and short factors go together, got one of them"
            raise ConfigError(msg)
    if context.length.value is None:
        data.fail("context_length", "must be there, or given, for longrope", "no such key")
    factor = data.found("rope.scaling.attn_factor", as_positive_float)
    factor = factor or Found(1.0, "the default of llama.cpp")
    if attention_factor is not None:
        factor = Found(attention_factor, "given")
    short, long = (
        Found(tuple(f * stretch.factor.value for f in factors[name]), name)
        for name in (SHORT, LONG)
    )
    original = context.original.value or context.length.value
    return {
        "short_factor": short,
        "long_factor": long,
        "original_max_position": Found(original, context.original.origin),
        "attention_factor": factor,
    }


# ------------------------------------------------------------------------------------------------
# Tensors without which the frequencies are not known.


def _need_tensors(
    data: Metadata, stretch: _Stretch, factors: Collection[str], *, known: bool
) -> None:
    """Refuse metadata whose frequencies depend on missing tensors."""
    own = data.architecture
    names, why, likely = f"`{LONG}` and `{SHORT}`", None, False
    if LONG not in factors and SHORT not in factors:
        why = _announces_long(data, stretch)
        if why is None and not known and own.long_factors == "unannounced":
            likely, why = True, f"the converter of {own.name} writes its factors into no key"
    if why is None and ROPE_FREQS not in factors:
        names = f"`{ROPE_FREQS}`"
        if own.needs_rope_freqs:
            why = f"layers of full attention of {own.name} need it"
        elif not known and _looks_like_llama_3(data, stretch):
            likely = True
            why = "this looks like a model with the scaling of Llama 3.1, which is in that tensor alone"
    if why is None:
        return
    if known:
        msg = f"{names} must be there: {why}, got no such tensor; without it the frequencies are not known"
    else:
        none = "; write tensors={} if the file has none" if likely else ""
        msg = (
            f"{names} must be there: {why}{none}: give `tensors`, or the path of the file, got no "
            "such tensor"
        )
    raise ConfigError(msg)


def _announces_long(data: Metadata, stretch: _Stretch) -> str | None:
    """Return the reason why the metadata imply long and short factors, or None."""
    kind = stretch.kind.value
    if kind == "longrope":
        return "the scaling type is longrope"
    if data.architecture.long_factors != "announced" or kind == "yarn":
        return None
    name = "rope.scaling.attn_factor"
    if name in data:
        return f"`{data.origin_of(name)}` is written beside them"
    length, original = data.read("context_length", as_length), data.read(_ORIGINAL, as_length)
    if length is not None and original is not None and original < length:
        return f"`{data.origin_of(_ORIGINAL)}` {original} is below the context length {length}"
    return None


def _looks_like_llama_3(data: Metadata, stretch: _Stretch) -> bool:
    """Whether the converters of similar models write `rope_freqs`."""
    length = data.read("context_length", as_positive_integer) or 0
    if stretch.factor.value != 1.0 or stretch.ramp or length <= 8192:
        return False
    if data.architecture.llama3 == "with_its_base":
        return data.read("rope.freq_base", as_float) == 500_000.0
    return data.architecture.llama3 == "always"
