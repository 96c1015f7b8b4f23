"""Makes a schedule from the keys and factor tensors of a GGUF file."""

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
from rotary.scaling.yarn import yarn_mscale

from .assemble import schedule_from_fields
from .gguf_metadata import LONG, ROPE_FREQS, SHORT, Metadata
from .llama_cpp import check_softmax
from .reader import Sourced

__all__ = ["Context", "Factors", "read_schedule"]

Factors = dict[str, tuple[float, ...]]
_FACTOR = "rope.scaling.factor"
_TYPE = "rope.scaling.type"
_ORIGINAL = "rope.scaling.original_context_length"


class Context(NamedTuple):
    """The context length, and the context length before the extension; both values may be None."""

    length: Sourced
    original: Sourced

    @classmethod
    def from_metadata(cls, data: Metadata, given: int | None) -> Context:
        """Read both lengths; `given` replaces the context length of the file."""
        value = data.get_value("context_length", as_length)
        key = data.origin_of("context_length")
        length = Sourced(value, f"{key}, the context length of the training")
        if given is not None:
            length = Sourced(given, "given")
        return cls(length, data.get(_ORIGINAL, as_length) or Sourced(value, key))


class _Extension(NamedTuple):
    """How the context was extended, and by which factor."""

    scaling_type: Sourced  # from the file, "linear" by default
    factor: Sourced
    ramp: float  # the weight of YaRN's ramp, 0 without a ramp


def _read_extension(data: Metadata) -> _Extension:
    """Read the keys of the scaling."""
    types = ("none", "linear", "yarn", "longrope")
    scaling_type = data.get(_TYPE, lambda value, name: as_choice(value, name, types))
    factor = data.get(_FACTOR, as_non_negative_float)
    legacy = data.get("rope.scale_linear", as_non_negative_float)
    if factor is not None and legacy is not None and legacy.value != factor.value:
        must = f"must be left out, or equal {factor.origin} {factor.value}"
        data.fail("rope.scale_linear", must, legacy.value)
    factor = factor or legacy
    is_yarn = scaling_type is not None and scaling_type.value == "yarn"
    if scaling_type is not None and scaling_type.value == "none":
        factor = Sourced(1.0, f"{scaling_type.origin} is none")
    elif factor is None or not factor.value:  # 0 means no factor, as in llama.cpp
        if is_yarn:
            got = None if factor is None else factor.value
            data.fail(_FACTOR, "must be present and positive for yarn", got)
        factor = Sourced(1.0, "the file gives no factor")
    ramp = data.get_value("rope.scaling.yarn_ext_factor", as_float)
    if ramp is None or ramp < 0:
        ramp = 1.0 if is_yarn else 0.0
    elif ramp > 1:
        data.fail("rope.scaling.yarn_ext_factor", "must be at most 1", ramp)
    default = Sourced("linear", f"the default, because there is no {data.origin_of(_TYPE)}")
    return _Extension(scaling_type or default, factor, ramp)


def read_schedule(
    data: Metadata,
    factors: Factors,
    context: Context,
    attention_factor: float | None,
    *,
    tensors_known: bool,
) -> tuple[Scaling, dict[str, str]]:
    """Return the schedule of layers with full attention, and the origins of its fields."""
    extension = _read_extension(data)
    _check_tensors(data, extension, factors, tensors_known=tensors_known)
    if not extension.ramp:
        check_softmax(data.architecture, data, _FACTOR, extension.factor.value)
    kind: type[Scaling] = scaling.Linear
    fields = {"factor": extension.factor}
    no_factor = {"factor": Sourced(None, extension.factor.origin)}
    origin = extension.scaling_type.origin
    if extension.ramp:
        kind, fields = scaling.Yarn, _yarn_fields(data, extension, context, attention_factor)
    elif data.get_value("rope.scaling.alpha", as_non_negative_float):
        kind, fields = scaling.NTK, no_factor | _alpha_fields(data, extension)
    elif LONG in factors or SHORT in factors:
        kind = scaling.LongRope
        fields = no_factor | _longrope_fields(data, extension, factors, context, attention_factor)
    elif extension.factor.value == 1.0:
        place = "in the file" if tensors_known else "given"
        suffix = "" if ROPE_FREQS in factors else f", and no {ROPE_FREQS} is {place}"
        kind, fields, origin = scaling.Default, {}, extension.factor.origin + suffix
    if LONG in factors and kind is not scaling.LongRope:
        msg = f"`{LONG}` must not be present together with yarn or alpha, got both; their frequencies differ"
        raise ConfigError(msg)
    if "attention_factor" not in fields:
        _refuse_attention_factor(data, attention_factor)
    schedule, origins = schedule_from_fields(kind, fields)
    # `explain` shows these factors twice: as fields of the schedule and of the embedding.
    shown_twice = ("attention_factor", "softmax_factor")
    origins |= {name: fields[name].origin for name in shown_twice if name in fields}
    origins["scaling"] = origin
    if ROPE_FREQS in factors:
        return _divide_by_freq_factors(schedule, origins, factors)
    return schedule, origins


def _divide_by_freq_factors(
    schedule: Scaling, origins: dict[str, str], factors: Factors
) -> tuple[Scaling, dict[str, str]]:
    """Return a schedule whose frequencies are divided by the tensor of factors, and the origins."""
    if LONG in factors:
        msg = f"`{ROPE_FREQS}` must not be present together with `{LONG}`, got both"
        raise ConfigError(msg)
    # The inner schedule is nested one level deeper.
    origins = {
        f"scaling.{name}" if name.startswith("scaling") else name: origin
        for name, origin in origins.items()
    }
    origins |= {"scaling": ROPE_FREQS, "scaling.freq_factors": ROPE_FREQS}
    return scaling.FreqFactors(schedule, freq_factors=factors[ROPE_FREQS]), origins


def _refuse_attention_factor(data: Metadata, given: float | None) -> None:
    """Raise for an attention factor if the schedule has none."""
    # The messages do not advise to remove the key, because the remaining keys would describe another rotation.
    needed = {
        "attn_factor": "the scaling type yarn or factor tensors, which are missing",
        "yarn_attn_factor": "the scaling type yarn, which is missing",
    }
    for key, missing in needed.items():
        name = f"rope.scaling.{key}"
        value = data.get_value(name, as_positive_float)
        if value not in (None, 1.0):
            data.fail(name, f"must be 1 without {missing}", value)
    if given not in (None, 1.0):
        msg = f"`attention_factor` must be left out if the schedule is neither yarn nor longrope, got {given}"
        raise ConfigError(msg)


# ------------------------------------------------------------------------------------------------
# The fields of each schedule.


def _yarn_fields(
    data: Metadata, extension: _Extension, context: Context, attention_factor: float | None
) -> dict[str, Sourced]:
    """Return the fields of YaRN as ggml computes it; the ramp ends on whole channel pairs."""
    if context.original.value is None:
        data.fail(_ORIGINAL, "must be present for yarn", "no such key")
    factor, softmax = _yarn_factors(data, extension.factor.value, attention_factor)
    fast, slow = (
        data.get(f"rope.scaling.yarn_{name}", as_positive_float)
        for name in ("beta_fast", "beta_slow")
    )
    origin = "as llama.cpp scales the softmax of this architecture"
    return {
        "factor": extension.factor,
        "original_max_position": context.original,
        "beta_fast": fast or Sourced(data.architecture.beta_fast, "the default"),
        "beta_slow": slow or Sourced(1.0, "the default"),
        "truncate": Sourced(True, "as llama.cpp does"),
        "extrapolation_factor": Sourced(extension.ramp, ""),
        "attention_factor": factor,
        "softmax_factor": Sourced(softmax, origin if softmax != 1.0 else "the default"),
    }


def _yarn_factors(data: Metadata, factor: float, given: float | None) -> tuple[Sourced, float]:
    """Return YaRN's factor on cosine and sine, and the factor on the softmax scale.

    ggml multiplies cosine and sine by 1 + 0.1 ln(factor), and llama.cpp divides its own factor by the same number
    beforehand. Both cancel, so the result is the factor that llama.cpp computes first.
    """
    architecture = data.architecture
    all_dim = _log_multiplier(data)
    if all_dim:
        value = yarn_mscale(factor, architecture.mscale(all_dim)) / yarn_mscale(factor, all_dim)
        formula = "m(mscale) / m(yarn_log_multiplier)"
    else:
        value, formula = yarn_mscale(factor, 1.0), "0.1 ln(factor) + 1"
    in_file = data.get_value("rope.scaling.yarn_attn_factor", as_positive_float)
    multiplier = data.get_value("rope.scaling.attn_factor", as_positive_float) or 1.0
    softmax = 1.0
    if architecture.softmax:
        softmax = (value * multiplier * (1.0 + 0.1 * all_dim * math.log(factor))) ** 2
    if given is not None:
        return Sourced(given, "given"), softmax
    # For Grok, llama.cpp multiplies by the factor in the file, which is 1. Other converters write a factor that
    # replaces the formula.
    differs = in_file is not None and not math.isclose(in_file, value, rel_tol=1e-6)
    if differs and not architecture.yarn_attn_factor:
        must = (
            f"must be left out or equal {value:.9g}, because llama.cpp does not read the key and computes "
            "this factor"
        )
        advice = f"pass attention_factor={shown(in_file)} or attention_factor={shown(value)}"
        data.fail("rope.scaling.yarn_attn_factor", must, in_file, advice)
    return Sourced(value * multiplier, f"derived: {formula}"), softmax


def _log_multiplier(data: Metadata) -> float:
    """Return mscale_all_dim from the key `yarn_log_multiplier`, or 0 without the key."""
    name = "rope.scaling.yarn_log_multiplier"
    value = data.get_value(name, as_non_negative_float)
    if not value:
        return 0.0
    if data.architecture.log_multiplier == "tenths":
        # The division is in float32 as in llama.cpp, so that 0.1 / 0.1 is exactly 1.
        return float(np.float32(value) / np.float32(0.1))
    if data.architecture.log_multiplier != "whole":
        must = (
            "must be left out for this architecture: the key is mscale_all_dim in some architectures and a tenth of "
            "it in others"
        )
        data.fail(name, must, value, "pass `attention_factor` instead")
    return value


def _alpha_fields(data: Metadata, extension: _Extension) -> dict[str, Sourced]:
    """Return the field of HunYuan's schedule, in which alpha enlarges the base."""
    name = "rope.scaling.alpha"
    alpha = data.get(name, as_positive_float)
    assert alpha is not None
    architecture, factor = data.architecture, extension.factor.value
    if not architecture.alpha or factor != 1.0:
        must = (
            f"must be left out for the architecture {architecture.name} with a factor of {factor}"
        )
        data.fail(name, must, alpha.value)
    return {"alpha": alpha}


def _longrope_fields(
    data: Metadata,
    extension: _Extension,
    factors: Factors,
    context: Context,
    attention_factor: float | None,
) -> dict[str, Sourced]:
    """Return the fields of LongRoPE; the long factors apply beyond the original context length."""
    for name, other in ((LONG, SHORT), (SHORT, LONG)):
        if name not in factors:
            msg = f"`{name}` must be present together with `{other}`, got only `{other}`"
            raise ConfigError(msg)
    if context.length.value is None:
        data.fail("context_length", "must be present or given for longrope", "no such key")
    factor = data.get("rope.scaling.attn_factor", as_positive_float)
    factor = factor or Sourced(1.0, "the default of llama.cpp")
    if attention_factor is not None:
        factor = Sourced(attention_factor, "given")
    short, long = (
        Sourced(tuple(f * extension.factor.value for f in factors[name]), name)
        for name in (SHORT, LONG)
    )
    original = context.original.value or context.length.value
    return {
        "short_factor": short,
        "long_factor": long,
        "original_max_position": Sourced(original, context.original.origin),
        "attention_factor": factor,
    }


# ------------------------------------------------------------------------------------------------
# Tensors that are needed to compute the frequencies.


def _check_tensors(
    data: Metadata, extension: _Extension, factors: Collection[str], *, tensors_known: bool
) -> None:
    """Raise if the frequencies depend on tensors that are missing."""
    architecture = data.architecture
    names, reason, is_certain = f"`{LONG}` and `{SHORT}`", None, True
    if LONG not in factors and SHORT not in factors:
        reason = _reason_for_long_factors(data, extension)
        if reason is None and not tensors_known and architecture.long_factors == "unannounced":
            is_certain = False
            reason = f"the converter of {architecture.name} may write factors without a key"
    if reason is None and ROPE_FREQS not in factors:
        names = f"`{ROPE_FREQS}`"
        if architecture.needs_rope_freqs:
            reason = f"layers with full attention of {architecture.name} need it"
        elif not tensors_known and _looks_like_llama_3(data, extension):
            is_certain = False
            reason = "the model may have the scaling of Llama 3.1, which is only in that tensor"
    if reason is None:
        return
    advice = "the frequencies are not known without it"
    if not tensors_known:
        advice = "give `tensors`, or the path of the file"
    if not is_certain:
        advice += ", or write tensors={} if the file has no such tensor"
    msg = f"{names} must be present, because {reason}, got no such tensor; {advice}"
    raise ConfigError(msg)


def _reason_for_long_factors(data: Metadata, extension: _Extension) -> str | None:
    """Return the reason why the model must have long and short factors, or None if it need not have them."""
    scaling_type = extension.scaling_type.value
    if scaling_type == "longrope":
        return "the scaling type is longrope"
    if data.architecture.long_factors != "announced" or scaling_type == "yarn":
        return None
    name = "rope.scaling.attn_factor"
    if name in data:
        return f"`{data.origin_of(name)}` is written together with them"
    length = data.get_value("context_length", as_length)
    original = data.get_value(_ORIGINAL, as_length)
    if length is not None and original is not None and original < length:
        return f"`{data.origin_of(_ORIGINAL)}` {original} is below the context length {length}"
    return None


def _looks_like_llama_3(data: Metadata, extension: _Extension) -> bool:
    """Whether converters write `rope_freqs` for similar models."""
    length = data.get_value("context_length", as_positive_integer) or 0
    if extension.factor.value != 1.0 or extension.ramp or length <= 8192:
        return False
    if data.architecture.llama3 == "with_its_base":
        return data.get_value("rope.freq_base", as_float) == 500_000.0
    return data.architecture.llama3 == "always"
