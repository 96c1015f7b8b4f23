"""Makes a schedule from the rope keys of a configuration, by the rules of a dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rotary._lib.checks import as_bool, as_non_negative_float, as_positive_float
from rotary._lib.errors import ConfigError, shown, shown_name
from rotary._lib.numbers import as_length
from rotary.angles.powers import as_factors
from rotary.scaling import (
    NTK,
    Default,
    DynamicNTK,
    Linear,
    Llama3,
    LongRope,
    Proportional,
    Scaling,
    Yarn,
)
from rotary.scaling.yarn import yarn_mscale

from .assemble import as_config_errors, schedule_from_fields
from .dialects import DIALECTS, Dialect
from .llama_cpp import Architecture, architecture_of_model, check_softmax
from .reader import Keys, Sourced, require_agreement, suggest_name

__all__ = ["LEGACY_TYPES", "ScheduleInputs", "read_rope_type", "read_schedule"]

_Check = Callable[[Any, str], Any]

# Older names of rope types, and their new names.
LEGACY_TYPES = {"su": "longrope", "mrope": "default"}
_SAME_TYPES = {("longrope", "su"), ("default", "mrope"), ("dynamic", "xdrope")}

# Keys that every rope type may have.
_COMMON_KEYS = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "mrope_section",
    "mrope_interleaved",
    "xdrope_section",
    "finetuned",  # whether the model was fine-tuned after the extension
    "llama_4_scaling_beta",  # a factor on the softmax scale that depends on the position
    "apply_yarn_scaling",
    "max_position_embeddings",  # Mistral repeats the key of the top level here
}
_ORIGINAL_LENGTH = "original_max_position_embeddings"
_YARN: dict[str, _Check] = {
    "beta_fast": as_positive_float,
    "beta_slow": as_positive_float,
    "mscale": as_non_negative_float,
    "mscale_all_dim": as_non_negative_float,
    "attention_factor": as_positive_float,
    "attn_factor": as_positive_float,
    "extrapolation_factor": as_non_negative_float,
    "truncate": as_bool,
}
_LONGROPE: dict[str, _Check] = {
    "factor": as_positive_float,
    "attention_factor": as_positive_float,
    "short_mscale": as_positive_float,
    "long_mscale": as_positive_float,
}
_MSCALES = frozenset(("short_mscale", "long_mscale"))
# Keys that each rope type reads, in addition to the common keys.
_KEYS_OF_TYPE = {
    "default": set[str](),
    "axial": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor", "alpha"},
    "ntk": {"factor", "mixed_b"},
    "xdrope": {"alpha", "factor"},
    "proportional": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL_LENGTH},
    "yarn": {"factor", _ORIGINAL_LENGTH, *_YARN},
    "deepseek_yarn": {"factor", _ORIGINAL_LENGTH, *_YARN},
    "telechat3-yarn": {"factor", _ORIGINAL_LENGTH, *_YARN},
    "longrope": {"short_factor", "long_factor", _ORIGINAL_LENGTH, *_LONGROPE},
}
_KNOWN_KEYS = _COMMON_KEYS.union(*_KEYS_OF_TYPE.values())
# Values that change nothing. HunYuan writes all keys of YaRN, with these values, in addition to its alpha.
_NEUTRAL: dict[str, Any] = {
    "factor": 1.0,
    "attention_factor": 1.0,
    "attn_factor": 1.0,
    "extrapolation_factor": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "truncate": True,
}
# Neutral values for a rope type that reads the key. There an attention_factor of 1 is not neutral, because it
# replaces the formula.
_NEUTRAL_IF_READ = {**_NEUTRAL, "attention_factor": None, "mscale_all_dim": 0.0}


@dataclass
class ScheduleInputs:
    """The rope keys of one layer, and the facts about the model that the schedule depends on.

    Parameters
    ----------
    keys : Keys
        The rope dict.
    top : Keys
        The configuration that contains the rope dict.
    dialect : Dialect
    strict : bool
        Whether to refuse keys that the dialect ignores, and missing keys for which the dialect has a default.
    nested : bool
        Whether every kind of layer has its own rope dict.
    model_type : str or None
        None if the model type is not known.
    latent : bool
        Whether the model has multi-head latent attention.
    scales_softmax : bool
        Whether the model's own code multiplies its softmax scale by the square of YaRN's attention factor.
    reads_mscales : bool
        Whether the model's own code reads ``short_mscale`` and ``long_mscale``.
    max_position : Sourced or None
        The value of max_position_embeddings.
    default_original : Sourced or None
        The default of original_max_position_embeddings in the configuration class of the model type.
    fraction : float
        The rotated fraction of the head.
    fields : dict
        The fields of the schedule with their origins. The functions of the rope types fill it.
    """

    keys: Keys
    top: Keys
    dialect: Dialect
    strict: bool
    nested: bool
    model_type: str | None
    latent: bool
    scales_softmax: bool
    reads_mscales: bool
    max_position: Sourced | None
    default_original: Sourced | None
    fraction: float
    fields: dict[str, Sourced] = field(default_factory=dict)

    def take_required(self, key: str, check: _Check, rope_type: str) -> Any:
        """Take the value of a key; raise if the key is missing."""
        found = self.keys.get(key, check)
        if found is None:
            must = f"must be given for the rope type {shown(rope_type)}"
            self.keys.fail(key, must, "none", "write the value of the training")
        return self.take(key, found)

    def take(self, key: str, found: Sourced) -> Any:
        """Set the field of the schedule that has the name of a key, and return its value."""
        self.fields[key.removesuffix("_embeddings")] = found
        return found.value

    def field_value(self, key: str) -> Any:
        """Return the value of a field of the schedule, or None if it is not set."""
        return self.fields[key].value if key in self.fields else None

    def take_optional(self, checks: dict[str, _Check], read: Iterable[str]) -> None:
        """Take those given keys that the dialect reads, and refuse the other keys."""
        for key, check in checks.items():
            found = self.keys.get(key, check)
            if found is None:
                continue
            if key in read:
                self.take(key, found)
            elif self.strict and found.value != _NEUTRAL_IF_READ.get(key):
                self.refuse_ignored(key, found.value)

    def refuse_ignored(self, key: str, value: Any) -> None:
        """Raise for a key that the dialect does not read."""
        dialects = [d.name for d in DIALECTS.values() if key in d.yarn | d.latent_yarn | d.longrope]
        readers = " or ".join(f"dialect={shown(name)}" for name in dialects)
        must = f"must be left out, because {self.dialect.follows} does not read it"
        advice = f"remove it, or choose a dialect that reads it: {readers}"
        self.keys.fail(key, must, shown(value), advice)

    def take_original(self, rope_type: str) -> int:
        """Take the original length from the rope dict, the top level or the default of the dialect."""
        in_dict = self.keys.get(_ORIGINAL_LENGTH, as_length)
        at_top = self.top.get(_ORIGINAL_LENGTH, as_length) or self.default_original
        if self.strict:
            candidates = [
                (self.keys.name(_ORIGINAL_LENGTH), in_dict),
                (self.top.name(_ORIGINAL_LENGTH), at_top),
            ]
            found = require_agreement(candidates)
        elif self.nested or not self.dialect.length_on_top:
            found = in_dict or at_top
        else:
            found = at_top or in_dict
        if found is None:
            found = self._default_original(rope_type)
        return int(self.take(_ORIGINAL_LENGTH, found))

    def _default_original(self, rope_type: str) -> Sourced:
        """Return the default of the dialect for the original length; raise if it has none."""
        fallback = self.dialect.fallback.get(rope_type)
        if self.strict or fallback is None:
            got = "none, and the defaults of projects differ (compare_dialects lists them)"
            advice = "write the context length before the extension"
            self.keys.fail(
                _ORIGINAL_LENGTH, f"must be given for the rope type {shown(rope_type)}", got, advice
            )
        if isinstance(fallback, int):
            return Sourced(fallback, f"the default of {self.dialect.follows}")
        length = self.require_max_position(rope_type).value
        return Sourced(length, f"derived: {fallback}, as in {self.dialect.follows}")

    def require_max_position(self, rope_type: str) -> Sourced:
        """Return max_position_embeddings; raise if it is missing."""
        if self.max_position is None:
            must = f"must be given for the rope type {shown(rope_type)}"
            advice = "write the longest context of the checkpoint"
            self.top.fail("max_position_embeddings", must, "none", advice)
        return self.max_position


def read_rope_type(keys: Keys) -> Sourced:
    """Return the rope type, from the key `rope_type` or the older key `type`."""
    new, old = keys.values.get("rope_type"), keys.values.get("type")
    for key in ("rope_type", "type"):
        value = keys.values.get(key)
        if value is not None and not isinstance(value, str):
            keys.fail(key, "must be a string such as 'yarn'", shown(value))
    if new is None and old is None:
        none = "the default: no rope_type is given"
        return Sourced("default", none if keys.origin == "given" else keys.origin)
    if new is not None and old is not None and new != old and (new, old) not in _SAME_TYPES:
        must = f"and `{keys.name('type')}` must not contradict each other"
        keys.fail("rope_type", must, f"{shown(new)} and {shown(old)}", "keep rope_type")
    name = "type" if new is None else "rope_type"
    value = old if old == "xdrope" or new is None else new
    assert isinstance(value, str)
    return Sourced(
        LEGACY_TYPES.get(value, value), f"{keys.origin}: {keys.name(name)} {shown(value)}"
    )


def read_schedule(inputs: ScheduleInputs, rope_type: str) -> tuple[Scaling, dict[str, str]]:
    """Return the schedule of a rope type, and the origins of its fields.

    Raises
    ------
    ConfigError
        If the rope type is not known, or a key is unknown, missing or contradicts another key.
    """
    _check_keys(inputs, rope_type)
    with as_config_errors(f"`{inputs.keys.path.rstrip('.')}` does not describe a schedule"):
        return schedule_from_fields(_MAKERS[rope_type](inputs), inputs.fields)


def _check_keys(inputs: ScheduleInputs, rope_type: str) -> None:
    """Raise for unknown rope types, unknown keys, and keys that the rope type does not read."""
    keys, dialect = inputs.keys, inputs.dialect
    if rope_type not in _KEYS_OF_TYPE:
        keys.fail(
            "rope_type",
            "must be a known rope type",
            shown(rope_type),
            suggest_name(rope_type, _KEYS_OF_TYPE),
        )
    if rope_type not in dialect.rope_types:
        names = ", ".join(d.name for d in DIALECTS.values() if rope_type in d.rope_types) or "none"
        must = f"must be one that {dialect.follows} knows"
        keys.fail("rope_type", must, shown(rope_type), f"dialects that know it: {names}")
    for key in keys.values:
        if (
            key == "interleaved" and "mrope_section" in keys
        ):  # Qwen3-ASR's name of mrope_interleaved
            continue
        if key not in _KNOWN_KEYS:
            close = suggest_name(shown_name(key), _KNOWN_KEYS)
            keys.fail(key, "is not a known rope key", shown(keys.values[key]), close)
        if key in _COMMON_KEYS or key in _KEYS_OF_TYPE[rope_type]:
            continue
        # An original length does not contradict a schedule that does not use it.
        if key == _ORIGINAL_LENGTH or keys.values[key] == _NEUTRAL.get(key):
            continue
        readers = sorted(name for name, reads in _KEYS_OF_TYPE.items() if key in reads)
        must = f"is not read by the rope type {shown(rope_type)}"
        advice = f"remove it, or write a rope_type that reads it: {', '.join(readers)}"
        keys.fail(key, must, shown(keys.values[key]), advice)


# One function for each rope type. It takes the fields of the schedule from the keys, and returns the class of the
# schedule.


def _default(_: ScheduleInputs) -> type[Scaling]:
    return Default


def _linear(inputs: ScheduleInputs) -> type[Scaling]:
    factor = inputs.take_required("factor", as_positive_float, "linear")
    if inputs.dialect.by_architecture:
        check_softmax(_architecture(inputs), inputs.keys, "factor", factor)
    return Linear


def _ntk_by_alpha(inputs: ScheduleInputs) -> type[Scaling]:
    """HunYuan's schedule, which ignores a factor of 1."""
    alpha = inputs.take_required("alpha", as_positive_float, "xdrope")
    factor = inputs.keys.get_value("factor", as_positive_float)
    if factor is not None and factor != 1.0:
        must = f"and `{inputs.keys.name('alpha')}` name two different schedules"
        inputs.keys.fail("factor", must, f"{factor} and {alpha}", "keep alpha (HunYuan) or factor")
    return NTK


def _dynamic(inputs: ScheduleInputs) -> type[Scaling]:
    if "alpha" in inputs.keys:
        return _ntk_by_alpha(inputs)
    inputs.take_required("factor", as_positive_float, "dynamic")
    dialect = inputs.dialect
    if dialect.dynamic == "refused":
        msg = f"`{inputs.keys.name('rope_type')}` 'dynamic' is refused by {dialect.follows}"
        raise ConfigError(msg)
    if dialect.dynamic == "ignored":
        inputs.fields.clear()
        return Default
    inputs.take("max_position", inputs.require_max_position("dynamic"))
    if dialect.dynamic == "fixed":
        inputs.take("fixed", Sourced(True, f"as in {dialect.follows}"))
    return DynamicNTK


def _ntk(inputs: ScheduleInputs) -> type[Scaling]:
    inputs.take_required("factor", as_positive_float, "ntk")
    inputs.take_optional({"mixed_b": as_positive_float}, ("mixed_b",))
    inputs.take("form", Sourced("mixed" if "mixed_b" in inputs.fields else "fixed", ""))
    return NTK


def _proportional(inputs: ScheduleInputs) -> type[Scaling]:
    inputs.take("partial_rotary_factor", Sourced(inputs.fraction, ""))
    inputs.take_optional({"factor": as_positive_float}, ("factor",))
    return Proportional


def _llama3(inputs: ScheduleInputs) -> type[Scaling]:
    for key in ("factor", "low_freq_factor", "high_freq_factor"):
        inputs.take_required(key, as_positive_float, "llama3")
    inputs.take_original("llama3")
    return Llama3


def _yarn(inputs: ScheduleInputs) -> type[Scaling]:
    dialect = inputs.dialect
    return _yarn_with_rule(inputs, dialect.latent_mscale if inputs.latent else dialect.mscale)


def _deepseek_yarn(inputs: ScheduleInputs) -> type[Scaling]:
    return _yarn_with_rule(inputs, "deepseek", latent=True)


def _telechat3_yarn(inputs: ScheduleInputs) -> type[Scaling]:
    return _yarn_with_rule(inputs, inputs.dialect.telechat3_mscale, latent=True)


def _yarn_with_rule(inputs: ScheduleInputs, rule: str, *, latent: bool = False) -> type[Scaling]:
    """YaRN with one of the rules for the attention factor."""
    dialect, fields = inputs.dialect, inputs.fields
    original = inputs.take_original("yarn")
    factor = inputs.keys.get("factor", as_positive_float)
    if factor is None:
        derived = "derived: max_position_embeddings / original_max_position_embeddings"
        factor = Sourced(inputs.require_max_position("yarn").value / original, derived)
    inputs.take("factor", factor)
    has_mscale = latent or inputs.latent
    if dialect.by_architecture:
        has_mscale = _architecture(inputs).log_multiplier is not None
    inputs.take_optional(_YARN, dialect.latent_yarn if has_mscale else dialect.yarn)
    _check_truncate(inputs)
    if dialect.by_architecture:
        _follow_architecture(inputs, _architecture(inputs))
    if rule == "both":
        rule = "deepseek" if {"mscale", "mscale_all_dim"} <= fields.keys() else "paper"
    if rule != "transformers":
        inputs.take("mscale_rule", Sourced(rule, f"as in {dialect.follows}"))
    if not inputs.scales_softmax and inputs.field_value("mscale_all_dim"):
        inputs.take("softmax_factor", Sourced(1.0, "the model's own code has no such factor"))
    return Yarn


def _architecture(inputs: ScheduleInputs) -> Architecture:
    """Return the llama.cpp architecture to which the model is converted."""
    return architecture_of_model(inputs.model_type, latent=inputs.latent)


def _follow_architecture(inputs: ScheduleInputs, architecture: Architecture) -> None:
    """Set the mscales and the softmax factor as llama.cpp computes them from other keys."""
    factor = inputs.field_value("factor")
    all_dim = inputs.fields.pop("mscale_all_dim", Sourced(0.0, ""))
    # Without the ramp there is no attention factor either.
    if inputs.field_value("extrapolation_factor") == 0.0:
        check_softmax(architecture, inputs.keys, "factor", factor)
        inputs.take("attention_factor", Sourced(1.0, ""))
        inputs.take("softmax_factor", Sourced(1.0, ""))
        return
    if all_dim.value:
        inputs.take("mscale", Sourced(architecture.mscale(all_dim.value), ""))
        inputs.take("mscale_all_dim", all_dim)
    if architecture.softmax:
        softmax = yarn_mscale(factor, architecture.mscale(all_dim.value)) ** 2
        inputs.take("softmax_factor", Sourced(softmax, f"as in {inputs.dialect.follows}"))


def _check_truncate(inputs: ScheduleInputs) -> None:
    """Handle `truncate` in the rope dict of a kind of layer, if the dialect does not read it there.

    If strict, raise for false. Otherwise use true, as the dialect does.
    """
    dialect, found = inputs.dialect, inputs.fields.get("truncate")
    if found is None or not inputs.nested or dialect.truncate_within_kinds:
        return
    if inputs.strict and not found.value:
        must = (
            f"must be true to follow {dialect.follows}, which reads the key only at the top level of the rope dict "
            "and uses true here"
        )
        advice = "write true, or pass dialect='vllm' to use the given value"
        inputs.keys.fail("truncate", must, found.value, advice)
    inputs.take("truncate", Sourced(True, found.origin))


def _longrope(inputs: ScheduleInputs) -> type[Scaling]:
    inputs.take_original("longrope")
    for name in ("short_factor", "long_factor"):
        inputs.take_required(name, as_factors, "longrope")
    read = _MSCALES if inputs.reads_mscales else inputs.dialect.longrope
    checks = {
        key: check for key, check in _LONGROPE.items() if key in read or not inputs.reads_mscales
    }
    inputs.take_optional(checks, read)
    fields = inputs.fields
    if not {"factor", "attention_factor"} & fields.keys() and not fields.keys() >= _MSCALES:
        inputs.take("max_position", inputs.require_max_position("longrope"))
    if inputs.dialect.always_long:
        long = fields["long_factor"].value
        inputs.take("short_factor", Sourced(long, f"as long_factor: {inputs.dialect.follows}"))
    return LongRope


_MAKERS: dict[str, Callable[[ScheduleInputs], type[Scaling]]] = {
    "default": _default,
    "axial": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "ntk": _ntk,
    "xdrope": _ntk_by_alpha,
    "proportional": _proportional,
    "llama3": _llama3,
    "yarn": _yarn,
    "deepseek_yarn": _deepseek_yarn,
    "telechat3-yarn": _telechat3_yarn,
    "longrope": _longrope,
}
