"""From the rope keys of a configuration to a schedule, as one of the dialects reads them."""

from __future__ import annotations

import math
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

from .dialects import DIALECTS, Dialect
from .reader import Found, Keys, agreed, near

__all__ = ["LEGACY_TYPES", "Reading", "rope_type", "schedule"]

_Check = Callable[[Any, str], Any]

# Names that checkpoints wrote before, and what they stand for.
LEGACY_TYPES = {"su": "longrope", "mrope": "default"}
_SAME = {("longrope", "su"), ("default", "mrope"), ("dynamic", "xdrope")}

# Keys that may stand beside those of any rope type.
_ALWAYS = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "mrope_section",
    "mrope_interleaved",
    "xdrope_section",
    "finetuned",  # a note of whether training followed
    "llama_4_scaling_beta",  # a temperature of the softmax, by position
    "apply_yarn_scaling",
    "max_position_embeddings",  # Mistral's, the same as on top
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
# What a rope type reads, besides what stands beside any.
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
# What a key says that is written but changes nothing; HunYuan writes all of YaRN's beside its alpha.
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
# The same under a rope type that has these keys: 1 as a factor is another than the formula's.
_NEUTRAL_WITHIN = {**_NEUTRAL, "attention_factor": None, "mscale_all_dim": 0.0}


@dataclass
class Reading:
    """The rope keys of one kind of layer, and what the rest of the configuration adds to them.

    Parameters
    ----------
    keys : Keys
        The rope dict itself.
    top : Keys
        The configuration it stands in.
    dialect : Dialect
    strict : bool
        Whether what the dialect would pass over, or make up, is refused.
    nested : bool
        Whether there is a rope dict for every kind of layer.
    model : str or None
        The model type, if it is known.
    latent : bool
        Whether the model has multi-head latent attention.
    softmax : bool
        Whether the model's own code multiplies its softmax scale by YaRN's temperature.
    mscales : bool
        Whether the model's own code takes its factors from ``short_mscale`` and ``long_mscale``.
    max_position : Found or None
    own_original : Found or None
        The original length that the model type has on top of its configuration by itself.
    part : float
        Which part of the head's pairs turns.
    origins : dict
        Filled: where each number comes from.
    """

    keys: Keys
    top: Keys
    dialect: Dialect
    strict: bool
    nested: bool
    model: str | None
    latent: bool
    softmax: bool
    mscales: bool
    max_position: Found | None
    own_original: Found | None
    part: float
    origins: dict[str, str] = field(default_factory=dict)

    def needed(self, key: str, check: _Check, kind: str) -> Any:
        """Return the value of a key the rope type cannot do without."""
        found = self.keys.found(key, check)
        if found is None:
            msg = (
                f"`{self.keys.name(key)}` must be given for the rope type {shown(kind)}, got none; "
                "write the value the checkpoint was trained with"
            )
            raise ConfigError(msg)
        return self.told(key, found)

    def told(self, key: str, found: Found) -> Any:
        """Return a value and keep its origin, under the name of the schedule's field."""
        self.origins[f"scaling.{key.removesuffix('_embeddings')}"] = found.origin
        return found.value

    def optional(self, checks: dict[str, _Check], read: Iterable[str]) -> dict[str, Any]:
        """Return the values of the keys that are given and that the dialect reads."""
        values = {}
        for key, check in checks.items():
            found = self.keys.found(key, check)
            if found is None:
                continue
            if key in read:
                values[key] = self.told(key, found)
            elif self.strict and found.value != _NEUTRAL_WITHIN.get(key):
                self.unread(key, found.value)
        return values

    def unread(self, key: str, value: Any) -> None:
        """Refuse a key that the dialect passes over."""
        others = [d.name for d in DIALECTS.values() if key in d.yarn | d.latent_yarn | d.longrope]
        who = " or ".join(f"dialect={shown(name)}" for name in others) or "another project"
        msg = (
            f"`{self.keys.name(key)}` must be left out, for {self.dialect.follows} does not read it, got "
            f"{shown(value)}; remove it, or choose a dialect that reads it: {who}"
        )
        raise ConfigError(msg)

    def original(self, kind: str) -> int:
        """Return the original length: within the rope dict, on top, or what the dialect makes up."""
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
            found = self._made_up(kind)
        return int(self.told(_L0, found))

    def _made_up(self, kind: str) -> Found:
        """Return the length a dialect takes where none is given."""
        stand_in = self.dialect.fallback.get(kind)
        if self.strict or stand_in is None:
            msg = (
                f"`{self.keys.name(_L0)}` must be given for the rope type {shown(kind)}, got none, and "
                "projects disagree on what stands in for it (compare_dialects lists them); write the "
                "context length before the extension"
            )
            raise ConfigError(msg)
        if isinstance(stand_in, int):
            return Found(stand_in, f"the default of {self.dialect.follows}")
        return Found(self.length(kind), f"derived: {stand_in}, as in {self.dialect.follows}")

    def length(self, kind: str) -> int:
        """Return max_position_embeddings, which the rope type needs."""
        if self.max_position is None:
            msg = (
                f"`{self.top.name('max_position_embeddings')}` must be given for the rope type {shown(kind)}, "
                "got none; write the longest context the checkpoint is made for"
            )
            raise ConfigError(msg)
        return int(self.max_position.value)


def rope_type(keys: Keys) -> Found:
    """Return the rope type, of which there is a new and an old key."""
    new, old = keys.values.get("rope_type"), keys.values.get("type")
    for key in ("rope_type", "type"):
        value = keys.values.get(key)
        if value is not None and not isinstance(value, str):
            msg = f"`{keys.name(key)}` must be a string such as 'yarn', got {shown(value)}"
            raise ConfigError(msg)
    if new is None and old is None:
        none = "the default: no rope_type is given"
        return Found("default", none if keys.origin == "given" else keys.origin)
    if new is not None and old is not None and new != old and (new, old) not in _SAME:
        msg = (
            f"`{keys.name('rope_type')}` and `{keys.name('type')}` must not contradict each other, "
            f"got {shown(new)} and {shown(old)}; keep rope_type"
        )
        raise ConfigError(msg)
    name = "type" if new is None else "rope_type"
    value = old if old == "xdrope" or new is None else new
    assert isinstance(value, str)
    return Found(LEGACY_TYPES.get(value, value), f"{keys.origin}: {keys.name(name)} {shown(value)}")


def schedule(reading: Reading, kind: str) -> Scaling:
    """Return the schedule of a rope type.

    Raises
    ------
    ConfigError
        If the rope type is unknown, or its keys do not say which schedule is meant.
    """
    _check_keys(reading, kind)
    try:
        return _MAKERS[kind](reading)
    except ConfigError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"`{reading.keys.path.rstrip('.')}` does not describe a schedule: {error}"
        raise ConfigError(msg) from error


def _check_keys(reading: Reading, kind: str) -> None:
    """Refuse unknown rope types, unknown keys, and keys of another rope type."""
    keys, dialect = reading.keys, reading.dialect
    if kind not in _READS:
        msg = f"`{keys.name('rope_type')}` must be a known rope type, got {shown(kind)}; {near(kind, _READS)}"
        raise ConfigError(msg)
    if kind not in dialect.rope_types:
        who = ", ".join(d.name for d in DIALECTS.values() if kind in d.rope_types) or "none"
        msg = (
            f"`{keys.name('rope_type')}` must be one that {dialect.follows} knows, got {shown(kind)}; "
            f"dialects that know it: {who}"
        )
        raise ConfigError(msg)
    for key in keys.values:
        if key == "interleaved" and "mrope_section" in keys:  # as mrope_interleaved, in Qwen3-ASR
            continue
        if key not in _KNOWN:
            close = near(shown_name(key), _KNOWN)
            msg = f"`{keys.name(key)}` is no known rope key, got {shown(keys.values[key])}; {close}"
            raise ConfigError(msg)
        if key in _ALWAYS or key in _READS[kind]:
            continue
        # An original length beside a schedule that has none says nothing else than it does.
        if key == _L0 or keys.values[key] == _NEUTRAL.get(key):
            continue
        readers = sorted(name for name, reads in _READS.items() if key in reads)
        msg = (
            f"`{keys.name(key)}` is not read by the rope type {shown(kind)}, got {shown(keys.values[key])}; remove it, "
            f"or write the rope_type that is meant, one of {', '.join(readers)}"
        )
        raise ConfigError(msg)


def _default(_: Reading) -> Scaling:
    return Default()


def _linear(reading: Reading) -> Scaling:
    factor = reading.needed("factor", as_positive_float, "linear")
    if reading.dialect.name == "llama.cpp":
        _check_softmax(reading, factor)
    return Linear(factor)


def _alpha(reading: Reading, alpha: Found) -> Scaling:
    """Return HunYuan's schedule, beside whose alpha a factor has nothing to say."""
    factor = reading.keys.found("factor", as_positive_float)
    if factor is not None and factor.value != 1.0:
        msg = (
            f"`{reading.keys.name('factor')}` and `{reading.keys.name('alpha')}` name two different "
            f"schedules, got {factor.value} and {alpha.value}; keep alpha (HunYuan) or factor"
        )
        raise ConfigError(msg)
    return NTK(alpha=reading.told("alpha", alpha))


def _xdrope(reading: Reading) -> Scaling:
    alpha = reading.needed("alpha", as_positive_float, "xdrope")
    return _alpha(reading, Found(alpha, reading.origins["scaling.alpha"]))


def _dynamic(reading: Reading) -> Scaling:
    alpha = reading.keys.found("alpha", as_positive_float)
    if alpha is not None:
        return _alpha(reading, alpha)
    factor = reading.needed("factor", as_positive_float, "dynamic")
    if reading.dialect.dynamic == "refused":
        msg = (
            f"`{reading.keys.name('rope_type')}` 'dynamic' is refused by {reading.dialect.follows}"
        )
        raise ConfigError(msg)
    if reading.dialect.dynamic == "ignored":
        reading.origins.clear()
        return Default()
    length = reading.length("dynamic")
    assert reading.max_position is not None
    reading.origins["scaling.max_position"] = reading.max_position.origin
    fixed = reading.dialect.dynamic == "fixed"
    if fixed:
        reading.origins["scaling.fixed"] = f"as in {reading.dialect.follows}"
    return DynamicNTK(factor, length, fixed=fixed)


def _ntk(reading: Reading) -> Scaling:
    factor = reading.needed("factor", as_positive_float, "ntk")
    mixed_b = reading.keys.found("mixed_b", as_positive_float)
    if mixed_b is None:
        return NTK(factor=factor, form="fixed")
    return NTK(factor=factor, form="mixed", mixed_b=reading.told("mixed_b", mixed_b))


def _proportional(reading: Reading) -> Scaling:
    factor = reading.keys.found("factor", as_positive_float)
    value = 1.0 if factor is None else reading.told("factor", factor)
    return Proportional(reading.part, value)


def _llama3(reading: Reading) -> Scaling:
    values = {
        key: reading.needed(key, as_positive_float, "llama3")
        for key in ("factor", "low_freq_factor", "high_freq_factor")
    }
    return Llama3(**values, original_max_position=reading.original("llama3"))


def _yarn(reading: Reading) -> Scaling:
    return _yarn_by(
        reading, reading.dialect.mscale if not reading.latent else _latent_rule(reading)
    )


def _latent_rule(reading: Reading) -> str:
    """Return the rule of models with latent attention, which SGLang and vLLM treat as DeepSeek's."""
    name = reading.dialect.name
    return "deepseek" if name in ("vllm", "sglang") else reading.dialect.mscale


def _deepseek_yarn(reading: Reading) -> Scaling:
    return _yarn_by(reading, "deepseek", latent=True)


def _telechat3_yarn(reading: Reading) -> Scaling:
    # mlx-lm knows the name, and computes DeepSeek's.
    rule = "deepseek" if reading.dialect.name == "mlx" else "telechat3"
    return _yarn_by(reading, rule, latent=True)


def _yarn_by(reading: Reading, rule: str, *, latent: bool = False) -> Scaling:
    """Return YaRN with the attention factor by one of the rules."""
    dialect = reading.dialect
    original = reading.original("yarn")
    factor = reading.keys.found("factor", as_positive_float)
    if factor is None:
        stretch = reading.length("yarn") / original
        factor = Found(
            stretch, "derived: max_position_embeddings / original_max_position_embeddings"
        )
    has_mscale = latent or reading.latent
    if dialect.name == "llama.cpp":
        has_mscale = _architecture(reading) not in (None, "glm-dsa")  # which has no such key
    read = dialect.latent_yarn if has_mscale else dialect.yarn
    values = reading.optional(_YARN, read)
    _check_truncate(reading, values)
    if dialect.truncates:
        values.pop("truncate", None)
        if reading.strict and reading.keys.values.get("truncate") is False:
            reading.unread("truncate", False)
    if dialect.name == "llama.cpp":
        rule = "deepseek"
        _as_llama_cpp(reading, factor.value, values)
    if rule == "both":
        both = "mscale" in values and "mscale_all_dim" in values
        rule = "deepseek" if both else "paper"
    if rule != "transformers":
        values["mscale_rule"] = rule
        reading.origins["scaling.mscale_rule"] = f"as in {dialect.follows}"
    if not reading.softmax and values.get("mscale_all_dim"):
        values["softmax_factor"] = 1.0
        reading.origins["scaling.softmax_factor"] = "the model's own code leaves its softmax alone"
    return Yarn(reading.told("factor", factor), original, **values)


# Architectures of llama.cpp with a rule of their own for mscale_all_dim, by model type.
_LLAMA_CPP = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "youtu"), "deepseek2"),
    "deepseek_v32": "deepseek32",
    "glm_moe_dsa": "glm-dsa",
    "ministral3": "mistral3",
    "mistral4": "mistral4",
}


def _architecture(reading: Reading) -> str | None:
    """Return the architecture of llama.cpp, where it has a rule of its own."""
    if reading.model is None and reading.latent:
        return "deepseek2"
    return _LLAMA_CPP.get(reading.model or "")


def _check_softmax(reading: Reading, factor: float) -> None:
    """Refuse a factor that llama.cpp multiplies the softmax scale by, where the schedule has no number for it."""
    if _architecture(reading) not in (None, "mistral3") and factor > 1.0:
        msg = (
            f"`{reading.keys.name('factor')}` must go with yarn, as the softmax scale of this model does in "
            f"{reading.dialect.follows}, got {factor}"
        )
        raise ConfigError(msg)


def _as_llama_cpp(reading: Reading, factor: float, values: dict[str, Any]) -> None:
    """Put in what llama.cpp computes with, which has no key for mscale, and its own rule for the softmax."""
    architecture = _architecture(reading)
    all_dim = values.pop("mscale_all_dim", 0.0)
    if values.get("extrapolation_factor") == 0.0:  # no ramp, and no factor that belongs to it
        _check_softmax(reading, factor)
        values |= {"attention_factor": 1.0, "softmax_factor": 1.0}
        return
    mscale = all_dim if all_dim and architecture == "deepseek2" else 1.0
    if all_dim:
        values |= {"mscale": mscale, "mscale_all_dim": all_dim}
    if architecture not in (None, "mistral3"):
        temperature = 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0
        values["softmax_factor"] = temperature**2
        reading.origins["scaling.softmax_factor"] = f"as in {reading.dialect.follows}"


def _check_truncate(reading: Reading, values: dict[str, Any]) -> None:
    """Heed that transformers looks for truncate beside the kinds of layers, not within them."""
    if not (reading.nested and reading.dialect.name == "transformers" and "truncate" in values):
        return
    if reading.strict and not values["truncate"]:
        msg = (
            f"`{reading.keys.name('truncate')}` must be true to follow {reading.dialect.follows}, which looks "
            "for the key only outside of the kinds of layers and computes with true here, got False; write "
            "true, or pass dialect='vllm' for what it says"
        )
        raise ConfigError(msg)
    values.pop("truncate")


def _longrope(reading: Reading) -> Scaling:
    original = reading.original("longrope")
    lists = {
        name: reading.needed(name, as_factors, "longrope")
        for name in ("short_factor", "long_factor")
    }
    read = _MSCALES if reading.mscales else reading.dialect.longrope
    checks = {key: check for key, check in _LONGROPE.items() if key in read or not reading.mscales}
    values = reading.optional(checks, read)
    has_both = "short_mscale" in values and "long_mscale" in values
    if not {"factor", "attention_factor"} & values.keys() and not has_both:
        values["max_position"] = reading.length("longrope")
        assert reading.max_position is not None
        reading.origins["scaling.max_position"] = reading.max_position.origin
    if reading.dialect.always_long:
        lists["short_factor"] = lists["long_factor"]
        reading.origins["scaling.short_factor"] = f"as long_factor: {reading.dialect.follows}"
    return LongRope(**lists, original_max_position=original, **values)


_MAKERS: dict[str, Callable[[Reading], Scaling]] = {
    "default": _default,
    "axial": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "ntk": _ntk,
    "xdrope": _xdrope,
    "proportional": _proportional,
    "llama3": _llama3,
    "yarn": _yarn,
    "deepseek_yarn": _deepseek_yarn,
    "telechat3-yarn": _telechat3_yarn,
    "longrope": _longrope,
}
