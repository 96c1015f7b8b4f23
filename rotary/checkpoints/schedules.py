"""Makes a schedule from the rope keys of a configuration, as one of the dialects reads them."""

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
from rotary.scaling.yarn import _mscale

from .assemble import as_config_errors, schedule_of
from .dialects import DIALECTS, Dialect
from .llama_cpp import Architecture, architecture_of_model, check_softmax
from .reader import Found, Keys, agreed, near

__all__ = ["LEGACY_TYPES", "Reading", "rope_type", "schedule"]

_Check = Callable[[Any, str], Any]

# Older names of rope types, and the new ones.
LEGACY_TYPES = {"su": "longrope", "mrope": "default"}
_SAME = {("longrope", "su"), ("default", "mrope"), ("dynamic", "xdrope")}

# Keys that any rope type may have.
_ALWAYS = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "mrope_section",
    "mrope_interleaved",
    "xdrope_section",
    "finetuned",  # says whether training followed
    "llama_4_scaling_beta",  # a temperature of the softmax that depends on the position
    "apply_yarn_scaling",
    "max_position_embeddings",  # Mistral's, the same as at the top level
}
_L0 = "original_max_position_embeddings"
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
# The keys that each rope type reads, besides those of any.
_READS = {
    "default": set[str](),
    "axial": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor", "alpha"},
    "ntk": {"factor", "mixed_b"},
    "xdrope": {"alpha", "factor"},
    "proportional": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", _L0},
    "yarn": {"factor", _L0, *_YARN},
    "deepseek_yarn": {"factor", _L0, *_YARN},
    "telechat3-yarn": {"factor", _L0, *_YARN},
    "longrope": {"short_factor", "long_factor", _L0, *_LONGROPE},
}
_KNOWN = _ALWAYS.union(*_READS.values())
# Values that change nothing; HunYuan writes all of YaRN's keys beside its alpha.
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
# The same under a rope type that reads these keys: a factor of 1 would replace the formula.
_NEUTRAL_WITHIN = {**_NEUTRAL, "attention_factor": None, "mscale_all_dim": 0.0}


@dataclass
class Reading:
    """The rope keys of one layer, and the facts about the rest of the model that a schedule depends on.

    Parameters
    ----------
    keys : Keys
        The rope dict.
    top : Keys
        The configuration that has it.
    dialect : Dialect
    strict : bool
        Whether to refuse a key that the dialect ignores, and a missing key for which it has a default.
    nested : bool
        Whether there is a rope dict for every kind of layer.
    model_type : str or None
        None if it is not known.
    latent : bool
        Whether the model has multi-head latent attention.
    softmax : bool
        Whether the model's own code multiplies its softmax scale by YaRN's temperature.
    mscales : bool
        Whether the model's own code takes its factors from ``short_mscale`` and ``long_mscale``.
    max_position : Found or None
    own_original : Found or None
        The default of the original length at the top level of the model type's configuration.
    part : float
        The part of the head that is rotated.
    fields : dict
        Filled: the fields of the schedule, each with its origin.
    """

    keys: Keys
    top: Keys
    dialect: Dialect
    strict: bool
    nested: bool
    model_type: str | None
    latent: bool
    softmax: bool
    mscales: bool
    max_position: Found | None
    own_original: Found | None
    part: float
    fields: dict[str, Found] = field(default_factory=dict)

    def need(self, key: str, check: _Check, kind: str) -> Any:
        """Take the value of a key that the rope type requires."""
        found = self.keys.found(key, check)
        if found is None:
            must = f"must be given for the rope type {shown(kind)}"
            self.keys.fail(key, must, "none", "write the value the checkpoint was trained with")
        return self.take(key, found)

    def take(self, key: str, found: Found) -> Any:
        """Set the field of the schedule that belongs to a key, and return its value."""
        self.fields[key.removesuffix("_embeddings")] = found
        return found.value

    def value(self, key: str) -> Any:
        """Return the value of a field, or None if it is not set."""
        return self.fields[key].value if key in self.fields else None

    def take_given(self, checks: dict[str, _Check], read: Iterable[str]) -> None:
        """Take the given keys that the dialect reads, and refuse the others."""
        for key, check in checks.items():
            found = self.keys.found(key, check)
            if found is None:
                continue
            if key in read:
                self.take(key, found)
            elif self.strict and found.value != _NEUTRAL_WITHIN.get(key):
                self.unread(key, found.value)

    def unread(self, key: str, value: Any) -> None:
        """Refuse a key that the dialect does not read."""
        others = [d.name for d in DIALECTS.values() if key in d.yarn | d.latent_yarn | d.longrope]
        readers = " or ".join(f"dialect={shown(name)}" for name in others) or "another project"
        must = f"must be left out, because {self.dialect.follows} does not read it"
        advice = f"remove it, or choose a dialect that reads it: {readers}"
        self.keys.fail(key, must, shown(value), advice)

    def take_original(self, kind: str) -> int:
        """Take the original length: of the rope dict, of the top level, or the dialect's default."""
        within = self.keys.found(_L0, as_length)
        on_top = self.top.found(_L0, as_length) or self.own_original
        if self.strict:
            both = [(self.keys.name(_L0), within), (self.top.name(_L0), on_top)]
            found = agreed(both)
        elif self.nested or not self.dialect.length_on_top:
            found = within or on_top
        else:
            found = on_top or within
        if found is None:
            found = self._default_original(kind)
        return int(self.take(_L0, found))

    def _default_original(self, kind: str) -> Found:
        """Return the dialect's default of the original length."""
        stand_in = self.dialect.fallback.get(kind)
        if self.strict or stand_in is None:
            got = "none, and projects disagree on the default (compare_dialects lists them)"
            advice = "write the context length before the extension"
            self.keys.fail(_L0, f"must be given for the rope type {shown(kind)}", got, advice)
        if isinstance(stand_in, int):
            return Found(stand_in, f"the default of {self.dialect.follows}")
        length = self.length(kind).value
        return Found(length, f"derived: {stand_in}, as in {self.dialect.follows}")

    def length(self, kind: str) -> Found:
        """Return max_position_embeddings, which the rope type requires."""
        if self.max_position is None:
            must = f"must be given for the rope type {shown(kind)}"
            advice = "write the longest context the checkpoint is made for"
            self.top.fail("max_position_embeddings", must, "none", advice)
        return self.max_position


def rope_type(keys: Keys) -> Found:
    """Return the rope type, from its new or its old key."""
    new, old = keys.values.get("rope_type"), keys.values.get("type")
    for key in ("rope_type", "type"):
        value = keys.values.get(key)
        if value is not None and not isinstance(value, str):
            keys.fail(key, "must be a string such as 'yarn'", shown(value))
    if new is None and old is None:
        none = "the default: no rope_type is given"
        return Found("default", none if keys.origin == "given" else keys.origin)
    if new is not None and old is not None and new != old and (new, old) not in _SAME:
        must = f"and `{keys.name('type')}` must not contradict each other"
        keys.fail("rope_type", must, f"{shown(new)} and {shown(old)}", "keep rope_type")
    name = "type" if new is None else "rope_type"
    value = old if old == "xdrope" or new is None else new
    assert isinstance(value, str)
    return Found(LEGACY_TYPES.get(value, value), f"{keys.origin}: {keys.name(name)} {shown(value)}")


def schedule(reading: Reading, kind: str) -> tuple[Scaling, dict[str, str]]:
    """Return the schedule of a rope type, and the origins of its fields.

    Raises
    ------
    ConfigError
        If the rope type is unknown, or its keys do not say which schedule is meant.
    """
    _check_keys(reading, kind)
    with as_config_errors(f"`{reading.keys.path.rstrip('.')}` does not describe a schedule"):
        return schedule_of(_MAKERS[kind](reading), reading.fields)


def _check_keys(reading: Reading, kind: str) -> None:
    """Refuse unknown rope types, unknown keys, and keys of another rope type."""
    keys, dialect = reading.keys, reading.dialect
    if kind not in _READS:
        keys.fail("rope_type", "must be a known rope type", shown(kind), near(kind, _READS))
    if kind not in dialect.rope_types:
        names = ", ".join(d.name for d in DIALECTS.values() if kind in d.rope_types) or "none"
        must = f"must be one that {dialect.follows} knows"
        keys.fail("rope_type", must, shown(kind), f"dialects that know it: {names}")
    for key in keys.values:
        if key == "interleaved" and "mrope_section" in keys:  # as mrope_interleaved, in Qwen3-ASR
            continue
        if key not in _KNOWN:
            close = near(shown_name(key), _KNOWN)
            keys.fail(key, "is no known rope key", shown(keys.values[key]), close)
        if key in _ALWAYS or key in _READS[kind]:
            continue
        # An original length does not contradict a schedule that has none.
        if key == _L0 or keys.values[key] == _NEUTRAL.get(key):
            continue
        readers = sorted(name for name, reads in _READS.items() if key in reads)
        must = f"is not read by the rope type {shown(kind)}"
        advice = f"remove it, or write the rope_type that is meant, one of {', '.join(readers)}"
        keys.fail(key, must, shown(keys.values[key]), advice)


# One function for each rope type: it takes the fields of the schedule from the keys, and returns its class.


def _default(_: Reading) -> type[Scaling]:
    return Default


def _linear(reading: Reading) -> type[Scaling]:
    factor = reading.need("factor", as_positive_float, "linear")
    if reading.dialect.by_architecture:
        check_softmax(_architecture(reading), reading.keys, "factor", factor)
    return Linear


def _alpha(reading: Reading) -> type[Scaling]:
    """HunYuan's schedule, which ignores a factor of 1 beside alpha."""
    alpha = reading.need("alpha", as_positive_float, "xdrope")
    factor = reading.keys.read("factor", as_positive_float)
    if factor is not None and factor != 1.0:
        must = f"and `{reading.keys.name('alpha')}` name two different schedules"
        reading.keys.fail("factor", must, f"{factor} and {alpha}", "keep alpha (HunYuan) or factor")
    return NTK


def _dynamic(reading: Reading) -> type[Scaling]:
    if "alpha" in reading.keys:
        return _alpha(reading)
    reading.need("factor", as_positive_float, "dynamic")
    dialect = reading.dialect
    if dialect.dynamic == "refused":
        msg = f"`{reading.keys.name('rope_type')}` 'dynamic' is refused by {dialect.follows}"
        raise ConfigError(msg)
    if dialect.dynamic == "ignored":
        reading.fields.clear()
        return Default
    reading.take("max_position", reading.length("dynamic"))
    if dialect.dynamic == "fixed":
        reading.take("fixed", Found(True, f"as in {dialect.follows}"))
    return DynamicNTK


def _ntk(reading: Reading) -> type[Scaling]:
    reading.need("factor", as_positive_float, "ntk")
    reading.take_given({"mixed_b": as_positive_float}, ("mixed_b",))
    reading.take("form", Found("mixed" if "mixed_b" in reading.fields else "fixed", ""))
    return NTK


def _proportional(reading: Reading) -> type[Scaling]:
    reading.take("partial_rotary_factor", Found(reading.part, ""))
    reading.take_given({"factor": as_positive_float}, ("factor",))
    return Proportional


def _llama3(reading: Reading) -> type[Scaling]:
    for key in ("factor", "low_freq_factor", "high_freq_factor"):
        reading.need(key, as_positive_float, "llama3")
    reading.take_original("llama3")
    return Llama3


def _yarn(reading: Reading) -> type[Scaling]:
    dialect = reading.dialect
    return _yarn_by(reading, dialect.latent_mscale if reading.latent else dialect.mscale)


def _deepseek_yarn(reading: Reading) -> type[Scaling]:
    return _yarn_by(reading, "deepseek", latent=True)


def _telechat3_yarn(reading: Reading) -> type[Scaling]:
    return _yarn_by(reading, reading.dialect.telechat3_mscale, latent=True)


def _yarn_by(reading: Reading, rule: str, *, latent: bool = False) -> type[Scaling]:
    """YaRN, with one of the rules for its attention factor."""
    dialect, fields = reading.dialect, reading.fields
    original = reading.take_original("yarn")
    factor = reading.keys.found("factor", as_positive_float)
    if factor is None:
        derived = "derived: max_position_embeddings / original_max_position_embeddings"
        factor = Found(reading.length("yarn").value / original, derived)
    reading.take("factor", factor)
    has_mscale = latent or reading.latent
    if dialect.by_architecture:
        has_mscale = _architecture(reading).log_multiplier is not None
    reading.take_given(_YARN, dialect.latent_yarn if has_mscale else dialect.yarn)
    _check_truncate(reading)
    if dialect.by_architecture:
        _follow_architecture(reading, _architecture(reading))
    if rule == "both":
        rule = "deepseek" if {"mscale", "mscale_all_dim"} <= fields.keys() else "paper"
    if rule != "transformers":
        reading.take("mscale_rule", Found(rule, f"as in {dialect.follows}"))
    if not reading.softmax and reading.value("mscale_all_dim"):
        reading.take("softmax_factor", Found(1.0, "the model's own code leaves its softmax alone"))
    return Yarn


def _architecture(reading: Reading) -> Architecture:
    """Return the architecture of llama.cpp that the model is converted to."""
    return architecture_of_model(reading.model_type, latent=reading.latent)


def _follow_architecture(reading: Reading, own: Architecture) -> None:
    """Take the mscales and the softmax factor that llama.cpp computes from other keys."""
    factor = reading.value("factor")
    all_dim = reading.fields.pop("mscale_all_dim", Found(0.0, ""))
    if reading.value("extrapolation_factor") == 0.0:  # no ramp, and no factor that belongs to it
        check_softmax(own, reading.keys, "factor", factor)
        reading.take("attention_factor", Found(1.0, ""))
        reading.take("softmax_factor", Found(1.0, ""))
        return
    if all_dim.value:
        reading.take("mscale", Found(own.mscale(all_dim.value), ""))
        reading.take("mscale_all_dim", all_dim)
    if own.softmax:
        softmax = _mscale(factor, own.mscale(all_dim.value)) ** 2
        reading.take("softmax_factor", Found(softmax, f"as in {reading.dialect.follows}"))


def _check_truncate(reading: Reading) -> None:
    """Refuse or replace truncate within one kind of layer, if the dialect does not read it there."""
    dialect, found = reading.dialect, reading.fields.get("truncate")
    if found is None or not reading.nested or dialect.truncate_within_kinds:
        return
    if reading.strict and not found.value:
        must = (
            f"must be true to follow {dialect.follows}, which looks for the key only outside of the kinds of "
            "layers and computes with true here"
        )
        advice = "write true, or pass dialect='vllm' for what it says"
        reading.keys.fail("truncate", must, found.value, advice)
    reading.take("truncate", Found(True, found.origin))


def _longrope(reading: Reading) -> type[Scaling]:
    reading.take_original("longrope")
    for name in ("short_factor", "long_factor"):
        reading.need(name, as_factors, "longrope")
    read = _MSCALES if reading.mscales else reading.dialect.longrope
    checks = {key: check for key, check in _LONGROPE.items() if key in read or not reading.mscales}
    reading.take_given(checks, read)
    fields = reading.fields
    if not {"factor", "attention_factor"} & fields.keys() and not fields.keys() >= _MSCALES:
        reading.take("max_position", reading.length("longrope"))
    if reading.dialect.always_long:
        long = fields["long_factor"].value
        reading.take("short_factor", Found(long, f"as long_factor: {reading.dialect.follows}"))
    return LongRope


_MAKERS: dict[str, Callable[[Reading], type[Scaling]]] = {
    "default": _default,
    "axial": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "ntk": _ntk,
    "xdrope": _alpha,
    "proportional": _proportional,
    "llama3": _llama3,
    "yarn": _yarn,
    "deepseek_yarn": _deepseek_yarn,
    "telechat3-yarn": _telechat3_yarn,
    "longrope": _longrope,
}
