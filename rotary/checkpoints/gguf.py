"""Makes an embedding from what a GGUF file says of its model, as llama.cpp reads it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar

import numpy as np

from rotary import scaling, sections
from rotary._lib import hints
from rotary._lib.checks import (
    LARGEST_WIDTH,
    as_bool,
    as_choice,
    as_float,
    as_non_negative_float,
    as_positive_float,
    as_positive_integer,
    as_rotary_dim,
)
from rotary._lib.errors import ConfigError, naming_file, shown, shown_name, shown_text
from rotary._lib.numbers import as_length
from rotary.angles.powers import as_factors
from rotary.embedding import BatchAxis, RotaryEmbedding
from rotary.layouts import Layout, check_layout

from .gguf_file import read_header

__all__ = ["from_gguf"]

LayerType = Literal["full_attention", "sliding_attention"]
T = TypeVar("T")

# `llama_model_rope_type` of llama.cpp at 0c1e57098, src/llama-model.cpp, by the names of
# src/llama-arch.cpp. NORM pairs channels (2i, 2i + 1), the others (i, i + n/2).
_ARCHITECTURES = {
    "NORM": """
        arcee arctic baichuan bailingmoe bailingmoe3 chameleon chatglm cohere2 cohere2moe command-r deci
        deepseek deepseek2 deepseek32 eagle3 ernie4_5 ernie4_5-moe glm-dsa glm4 granite granite_swa
        granitehybrid granitemoe graniteswitch hy_v4 internlm2 llada llama llama-embed llama4 maincoder
        minicpm mistral3 mistral4 muse-glimmer nanbeige neo-bert olmo plm pockettts smollm3 xverse
    """,
    "NEOX": """
        afmoe apertus bailingmoe2 bitnet codeshell cogvlm dbrx dots1 dream eurobert exaone
        exaone-moe exaone4 falcon falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4
        gemma4-assistant glm4moe gpt-oss gptneox grok grovemoe hrm_text hunyuan-dense hunyuan-moe
        hunyuan_vl hy_v3 jais2 jina-bert-v3 laguna lfm2 lfm2moe llada-moe maple mellum mimo2 minicpm3
        minimax-01 minimax-m2 minimax-m3 modern-bert nemotron nomic-bert nomic-bert-moe olmo2 olmoe
        openelm orion pangu-embedded phi2 phi3 phimoe plamo plamo2 plamo3 qwen qwen2 qwen2moe qwen3
        qwen3moe qwen3next rnd1 seed_oss smallthinker spark2_5 stablelm starcoder2 talkie
    """,
    "MROPE": "paddleocr qwen2vl",
    "IMROPE": "qwen35 qwen35moe qwen3tts qwen3vl qwen3vlmoe qwen4exp",
    # bert and starcoder have a type there, and graphs that rotate nothing.
    "NONE": """
        arwkv7 bert bloom glm5-next gpt2 jais jamba jina-bert-v2 kimi-k3 kimi-linear mamba mamba2 mpt
        nemotron_h nemotron_h_moe refact rwkv6 rwkv6qwen2 rwkv7 starcoder t5 t5encoder wavtokenizer-dec
    """,
}
_ROPE_TYPES = {name: kind for kind, names in _ARCHITECTURES.items() for name in names.split()}
_LAYOUTS: dict[str, Layout] = {
    "NORM": "interleaved",
    **dict.fromkeys(("NEOX", "MROPE", "IMROPE"), "half"),
}
# These are MROPE where the file has sections.
_MROPE_BY_SECTIONS = {"bailingmoe3", "glm4", "glm4moe", "hunyuan_vl"}
# Their graphs rotate by more, or by other numbers, than the keys below have.
_UNREAD = {
    "deepseek2-ocr": "heads that turn as a whole and in the half layout, whatever keys and type say",
    "deepseek4": "two kinds of layers with a base each",
    "dflash": "a rotation that follows another model's",
    "dots3note": "two kinds of layers with heads of their own",
    "step35": "half the channels that the key has, in some of its layers",
}
# A head's last channels turn, those before do not.
_TRAILING = {
    *("bailingmoe3", "deepseek2", "deepseek32", "glm-dsa", "hy_v4", "minicpm3", "mistral4", "plm"),
}
# The whole head turns, or llama.cpp refuses the file.
_WHOLE_HEAD = {"deci", "falcon", "llama", "llama-embed"}
# Sliding layers that do not take what the file says of scaling; the first ones have their own base.
_SLIDING_BASE = 10_000.0
_SLIDING_OWN_BASE = {
    *("gemma-embedding", "gemma3", "gemma3n", "gemma4", "gemma4-assistant", "mimo2", "modern-bert"),
    "plamo3",
}
_SLIDING_UNSCALED = {*_SLIDING_OWN_BASE, "laguna", "mellum", "muse-glimmer", "olmo2"}
# What the yarn_log_multiplier is a multiple of: their converters write a tenth of mscale_all_dim.
_LOG_TENTHS = {"deepseek2", "deepseek32", "mistral4"}
_LOG_WHOLE = {"mistral3"}
_SOFTMAX = {"deepseek2", "deepseek32", "glm-dsa", "mistral4"}
_FINETUNED_SWITCH = {"granite", "granitehybrid", "graniteswitch"}
_ALPHA = {"hunyuan-dense", "hunyuan_vl"}
_NEEDS_ROPE_FREQS = {"gemma4", "gemma4-assistant"}
# Their converters write the scaling of Llama 3.1 into a tensor and into no key. All released models of the second
# set have it if they are longer than 8192.
_LLAMA_3 = {"deci", "llama", "llama-embed", "llama4"}
_LLAMA_3_ALWAYS = {"apertus", "exaone", "exaone-moe", "exaone4"}
# Their converters write long and short factors without a scaling type. For the first set another key implies
# them, for the second set none does.
_LONG_TOLD = {"phi3", "phimoe"}
_LONG_UNTOLD = {"minicpm3"}

# Of the name of an architecture, so that a damaged one cannot make every key long.
_LONGEST_NAME = 256

_ROPE_FREQS = "rope_freqs.weight"
_LONG = "rope_factors_long.weight"
_SHORT = "rope_factors_short.weight"
_TENSORS = (_ROPE_FREQS, _LONG, _SHORT)

_GENERAL = ("general.architecture", "split.count")
_WIDTHS = (
    *(".context_length", ".embedding_length", ".attention.head_count"),
    *(".attention.key_length", ".attention.key_length_mla", ".attention.key_length_swa"),
    ".attention.sliding_window",
)
_KEYS = (
    *("dimension_count", "dimension_count_swa", "dimension_sections", "freq_base", "freq_base_swa"),
    *(
        "scale_linear",
        "scaling.alpha",
        "scaling.attn_factor",
        "scaling.factor",
        "scaling.finetuned",
    ),
    *("scaling.original_context_length", "scaling.type", "scaling.yarn_attn_factor"),
    *("scaling.yarn_beta_fast", "scaling.yarn_beta_slow", "scaling.yarn_ext_factor"),
    "scaling.yarn_log_multiplier",
)


# ------------------------------------------------------------------------------------------------
# Values by key.


def _plain(value: Any) -> Any:
    """Return a value of any reader as plain Python: a field of gguf-py, an array, bytes."""
    contents = getattr(value, "contents", None)
    if callable(contents):
        try:
            value = contents()
        except Exception as error:  # whatever the reader makes of a damaged file
            msg = f"a field of type {type(value).__name__} cannot be read: {shown_text(error)}"
            raise ConfigError(msg) from error
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, tuple):
        value = list(value)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _unquoted(value: Any) -> Any:
    """Return the numbers that a string holds: some readers give every value as a string."""
    if isinstance(value, str) and value.startswith("["):
        return [_unquoted(part) for part in value.strip("[]").split(",")]
    if isinstance(value, str):
        words = {"true": True, "false": False}
        for read in (int, float, lambda text: words[text.strip().lower()]):
            try:
                return read(value)
            except (KeyError, ValueError):
                continue
    return value


class _Metadata:
    """The keys of one architecture, checked as they are read."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self._values = values
        name = self._value("general.architecture") if "general.architecture" in values else None
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            msg = f"`general.architecture` must be in the metadata and name an architecture, got {shown(name)}"
            raise ConfigError(msg)
        self.architecture = name
        self.rope_type = _ROPE_TYPES.get(name)

    def key(self, name: str) -> str:
        """Return a key in full."""
        return f"{self.architecture}.{name}"

    def has(self, name: str) -> bool:
        """Whether there is such a key."""
        return self.key(name) in self._values

    def _value(self, key: str) -> Any:
        """Return the value of a key as plain Python."""
        try:
            return _plain(self._values[key])
        except ConfigError as error:
            msg = f"`{shown_name(key)}`: {error}"
            raise ConfigError(msg) from error

    def read(self, name: str, check: Callable[[Any, str], T], *, numeric: bool = True) -> T | None:
        """Return the checked value of a key, None where there is none."""
        key = self.key(name)
        if key not in self._values:
            return None
        value = self._value(key)
        try:
            return check(_unquoted(value) if numeric else value, shown_name(key))
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error

    def fail(self, name: str, must: str, found: Any) -> NoReturn:
        """Raise the error that names a key."""
        told = found if isinstance(found, str) else shown(found)
        msg = f"`{shown_name(self.key(name))}` {must}, got {told}"
        raise ConfigError(msg)

    def refuse_unknown(self) -> None:
        """Raise if there is a key about rotation that is not known here."""
        known = {self.key(f"rope.{name}") for name in _KEYS}
        for key in self._values:
            if isinstance(key, str) and ".rope." in key and key not in known:
                own = key.startswith(self.key("rope."))
                name = shown(self.architecture)
                why = "is not known" if own else f"is not of the architecture {name}"
                told = shown(self._value(key))
                msg = f"`{shown_name(key)}` {why}: leave it out if it changes nothing, got {told}"
                raise ConfigError(msg)


def _width(value: Any, name: str) -> int:
    """Return a number of channels."""
    width = as_positive_integer(value, name)
    if width > LARGEST_WIDTH:
        msg = f"`{name}` must be at most {LARGEST_WIDTH}, got {shown(width)}"
        raise ValueError(msg)
    return width


def _rotary_width(value: Any, name: str) -> int:
    """Return a number of channels that turn."""
    return _width(as_rotary_dim(value, name), name)


def _heads(value: Any, name: str) -> int:
    """Return a number of heads, that of the first layer where there is a list, as llama.cpp does."""
    return as_positive_integer(value[0] if isinstance(value, list) and value else value, name)


def _window(value: Any, name: str) -> int:
    """Return a width of the sliding window, 0 where there is none."""
    return int(as_non_negative_float(value, name))


def _sizes(value: Any, name: str) -> tuple[int, ...]:
    """Return up to four numbers of pairs, one for each position axis."""
    if not isinstance(value, list) or not 1 <= len(value) <= 4:
        msg = f"`{name}` must be a list of one to four integers, got {shown(value)}"
        raise TypeError(msg)
    sizes = tuple(int(as_non_negative_float(size, name)) for size in value)
    if list(sizes) != value:
        msg = f"`{name}` must hold integers, got {shown(value)}"
        raise TypeError(msg)
    return (*sizes, 0, 0, 0)[:4]


# ------------------------------------------------------------------------------------------------
# What follows from them.


class _Part(NamedTuple):
    """A resolved argument and where it comes from."""

    value: Any
    origin: str


def _head_dim(data: _Metadata, *, sliding: bool) -> _Part | None:
    """Return the channels of a head of queries; None where nothing tells."""
    names = ["key_length_swa"] if sliding else []
    names += ["key_length_mla"] if data.architecture in _TRAILING else []
    for name in (*names, "key_length"):
        value = data.read(f"attention.{name}", _width)
        if value is not None:
            return _Part(value, data.key(f"attention.{name}"))
    width = data.read("embedding_length", as_positive_integer)
    heads = data.read("attention.head_count", _heads)
    if width is None or heads is None:
        return None
    if width % heads:
        data.fail("embedding_length", f"must be a multiple of the {heads} heads", width)
    if width // heads > LARGEST_WIDTH:
        data.fail(
            "embedding_length", f"must give at most {LARGEST_WIDTH} channels to a head", width
        )
    origin = f"{data.key('embedding_length')} / {data.key('attention.head_count')}"
    return _Part(width // heads, origin)


def _channels(data: _Metadata, given: int | None, *, sliding: bool) -> dict[str, _Part]:
    """Return head_dim, rotary_dim and rotary_start."""
    head = _head_dim(data, sliding=sliding) if given is None else _Part(given, "given")
    rotary = None
    for name in ("rope.dimension_count_swa",) * sliding + ("rope.dimension_count",):
        value = data.read(name, _rotary_width)
        if rotary is None and value is not None:
            rotary = _Part(value, data.key(name))
    if head is None and rotary is None:
        data.fail("rope.dimension_count", "must be there, or `head_dim` be given", "neither")
    trailing = data.architecture in _TRAILING
    if rotary is None:
        if trailing:
            data.fail(
                "rope.dimension_count", "must be there: only part of a head turns", "no such key"
            )
        assert head is not None
        rotary = _Part(
            head.value, f"all channels, for there is no {data.key('rope.dimension_count')}"
        )
    if head is None:
        head = _Part(rotary.value, f"{rotary.origin}, for nothing else tells the width of a head")
    if rotary.value > head.value:
        data.fail(
            "rope.dimension_count", f"must be at most the {head.value} of a head", rotary.value
        )
    if given is None and data.architecture in _WHOLE_HEAD and rotary.value != head.value:
        must = f"must be {head.value}, for whole heads turn in this architecture"
        data.fail("rope.dimension_count", must, rotary.value)
    start = head.value - rotary.value if trailing else 0
    return {"head_dim": head, "rotary_dim": rotary, "rotary_start": _Part(start, "")}


def _base(data: _Metadata, *, sliding: bool) -> _Part:
    """Return the base of the frequencies."""
    full = data.read("rope.freq_base", as_positive_float)
    own = data.read("rope.freq_base_swa", as_positive_float)
    if sliding and own is not None:
        return _Part(own, data.key("rope.freq_base_swa"))
    if sliding and data.architecture in _SLIDING_OWN_BASE:
        return _Part(_SLIDING_BASE, f"the default of sliding layers of {data.architecture}")
    if full is not None:
        return _Part(full, data.key("rope.freq_base"))
    return _Part(10_000.0, f"the default, for there is no {data.key('rope.freq_base')}")


def _layout(data: _Metadata, given: Layout | None) -> _Part:
    """Return which channels pair."""
    if given is not None:
        return _Part(check_layout(given), "given")
    if data.rope_type is None:
        msg = (
            f"`general.architecture` must be one whose layout is known, got {shown(data.architecture)}: "
            "write layout='half' or layout='interleaved'"
        )
        raise ConfigError(msg)
    origin = f"llama.cpp rotates the architecture {shown(data.architecture)} by {data.rope_type}"
    return _Part(_LAYOUTS[data.rope_type], origin)


def _sections(data: _Metadata, lanes: int) -> Any:
    """Return which position axis every pair reads; None for one axis."""
    name = "rope.dimension_sections"
    sizes = data.read(name, _sizes) or ()
    kind = data.rope_type
    if data.architecture in _MROPE_BY_SECTIONS and sizes and sizes[0] and sizes[1]:
        kind = "MROPE"
    if kind not in ("MROPE", "IMROPE"):
        if sum(map(bool, sizes)) > 1:
            must = "is not read for this architecture: leave it out to rotate by one position axis"
            data.fail(name, must, sizes)
        return None
    if not sizes:
        data.fail(
            name, f"must be there: {data.architecture} has several position axes", "no such key"
        )
    if sum(sizes) != lanes:
        data.fail(name, f"must sum to {lanes}, one for each pair of channels", sizes)
    return sections.ggml_mrope(*sizes) if kind == "MROPE" else sections.ggml_imrope(*sizes)


def _tensors(given: Any) -> dict[str, tuple[float, ...]]:
    """Return the factor tensors, checked."""
    if given is not None and not isinstance(given, Mapping):
        msg = f"`tensors` must map names of tensors to arrays, got {type(given).__name__}"
        raise TypeError(msg)
    found = {name: given[name] for name in _TENSORS if name in given} if given else {}
    try:
        return {name: as_factors(value, name) for name, value in found.items()}
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_count(name: str, count: int, lanes: int) -> None:
    """Raise unless a tensor has one factor for each lane."""
    if count != lanes:
        msg = f"`{name}` must hold {lanes} numbers, one for each pair of channels, got {count}"
        raise ConfigError(msg)


class _Stretch(NamedTuple):
    """How far, and how, the file says that the context was extended."""

    kind: str  # as the file says, "linear" by default
    factor: float
    origin: str
    ext: float  # the weight of YaRN's ramp, 0 for none
    told: str  # what names the kind


def _stretch(data: _Metadata) -> _Stretch:
    """Return what the file says of the scaling."""
    kinds = ("none", "linear", "yarn", "longrope")
    name = "rope.scaling.type"
    kind = data.read(name, lambda v, key: as_choice(v, key, kinds), numeric=False)
    factor = data.read("rope.scaling.factor", as_non_negative_float)
    legacy = data.read("rope.scale_linear", as_non_negative_float)
    origin = data.key("rope.scaling.factor")
    if factor is None:
        factor, origin = legacy, data.key("rope.scale_linear")
    elif legacy is not None and legacy != factor:
        must = f"must be left out, or be {factor} as {origin}"
        data.fail("rope.scale_linear", must, legacy)
    if kind == "none":
        factor, origin = 1.0, f"{data.key(name)} is none"
    elif not factor:  # 0 stands for none, as in llama.cpp
        if kind == "yarn":
            data.fail("rope.scaling.factor", "must be there and positive for yarn", factor)
        factor, origin = 1.0, "the file gives no factor"
    ext = data.read("rope.scaling.yarn_ext_factor", as_float)
    if ext is None or ext < 0:
        ext = 1.0 if kind == "yarn" else 0.0
    elif ext > 1:
        data.fail("rope.scaling.yarn_ext_factor", "must be at most 1", ext)
    told = data.key(name) if kind else f"no {data.key(name)}: linear"
    return _Stretch(kind or "linear", factor, origin, ext, told)


def _log_multiplier(data: _Metadata) -> float:
    """Return mscale_all_dim, 0 where there is none."""
    name = "rope.scaling.yarn_log_multiplier"
    value = data.read(name, as_non_negative_float)
    if not value:
        return 0.0
    if data.architecture in _LOG_TENTHS:
        # In float32, so that a tenth of one is one again: llama.cpp asks whether it is.
        return float(np.float32(value) / np.float32(0.1))
    if data.architecture not in _LOG_WHOLE:
        must = "is mscale_all_dim in some architectures, a tenth of it in others, not known for this one"
        data.fail(name, f"{must}: leave it out and give `attention_factor`", value)
    return value


def _mscale(factor: float, mscale: float) -> float:
    """Return the temperature of YaRN."""
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


def _yarn_factors(data: _Metadata, factor: float, given: float | None) -> tuple[_Part, float]:
    """Return the factor on cosine and sine where the ramp is on, and that on the softmax scale.

    ggml multiplies cosine and sine by 1 + 0.1 ln(factor), and llama.cpp divides what it passes by
    the same, so none of it is left: what counts is what llama.cpp computes before.
    """
    all_dim = _log_multiplier(data)
    if all_dim:
        tied = data.architecture == "deepseek2" and all_dim != 1.0
        value = _mscale(factor, all_dim if tied else 1.0) / _mscale(factor, all_dim)
        words = "m(mscale) / m(yarn_log_multiplier)"
    else:
        value, words = _mscale(factor, 1.0), "0.1 ln(factor) + 1"
    own = data.read("rope.scaling.yarn_attn_factor", as_positive_float)
    times = data.read("rope.scaling.attn_factor", as_positive_float) or 1.0
    if given is not None:
        part = _Part(given, "given")
    else:
        # In Grok it multiplies, and is 1; elsewhere converters write what replaces the formula.
        if (
            own is not None
            and data.architecture != "grok"
            and not math.isclose(own, value, rel_tol=1e-6)
        ):
            must = (
                f"is not read by llama.cpp, which takes {value:.9g}, and may be meant all the same: "
                f"write attention_factor={shown(own)} or attention_factor={shown(value)}"
            )
            data.fail("rope.scaling.yarn_attn_factor", must, own)
        part = _Part(value * times, f"derived: {words}")
    softmax = 1.0
    if data.architecture in _SOFTMAX:
        softmax = (value * times * (1.0 + 0.1 * all_dim * math.log(factor))) ** 2
    return part, softmax


class _Context(NamedTuple):
    """How long the context is, and was before it was extended."""

    length: _Part
    original: _Part


def _context(data: _Metadata, given: int | None) -> _Context:
    """Return the lengths of the context; their values may be None."""
    own = data.read("context_length", as_length)
    key = data.key("context_length")
    length = _Part(own, f"{key}, all that the model was trained for")
    if given is not None:
        length = _Part(given, "given")
    original = data.read("rope.scaling.original_context_length", as_length)
    if original is None:
        return _Context(length, _Part(own, key))
    return _Context(length, _Part(original, data.key("rope.scaling.original_context_length")))


def _need_tensors(
    data: _Metadata,
    stretch: _Stretch,
    factors: Collection[str],
    *,
    known: bool,
) -> None:
    """Raise where the frequencies follow from tensors that are not there."""
    names, why, told = f"`{_LONG}` and `{_SHORT}`", None, ""
    if _LONG not in factors and _SHORT not in factors:
        why = _announces_long(data, stretch)
        if why is None and not known and data.architecture in _LONG_UNTOLD:
            told = why = f"the converter of {data.architecture} writes its factors into no key"
    if why is None and _ROPE_FREQS not in factors:
        names = f"`{_ROPE_FREQS}`"
        if data.architecture in _NEEDS_ROPE_FREQS:
            why = f"layers of full attention of {data.architecture} need it"
        elif not known and _looks_like_llama_3(data, stretch):
            told = why = (
                "this looks like a model with the scaling of Llama 3.1, which is in that tensor alone"
            )
    if why is None:
        return
    if known:
        msg = f"{names} must be there: {why}, got no such tensor; without it the frequencies are not known"
    else:
        none = "; write tensors={} if the file has none" if told else ""
        msg = (
            f"{names} must be there: {why}{none}: give `tensors`, or the path of the file, got no "
            "such tensor"
        )
    raise ConfigError(msg)


def _announces_long(data: _Metadata, stretch: _Stretch) -> str | None:
    """Return why the metadata imply long and short factors; None if they do not."""
    if stretch.kind == "longrope":
        return "the scaling type is longrope"
    if data.architecture not in _LONG_TOLD or stretch.kind == "yarn":
        return None
    name = "rope.scaling.attn_factor"
    if data.has(name):
        return f"`{data.key(name)}` is written beside them"
    name = "rope.scaling.original_context_length"
    length, original = data.read("context_length", as_length), data.read(name, as_length)
    if length is not None and original is not None and original < length:
        return f"`{data.key(name)}` {original} is below the context length {length}"
    return None


def _looks_like_llama_3(data: _Metadata, stretch: _Stretch) -> bool:
    """Whether released models of this base and length have `rope_freqs`, as their converters write them."""
    length = data.read("context_length", as_positive_integer) or 0
    if stretch.factor != 1.0 or stretch.ext or length <= 8192:
        return False
    if data.architecture in _LLAMA_3:
        return data.read("rope.freq_base", as_float) == 500_000.0
    return data.architecture in _LLAMA_3_ALWAYS


def _schedule(
    data: _Metadata,
    factors: dict[str, tuple[float, ...]],
    context: _Context,
    attention_factor: float | None,
    *,
    known: bool,
) -> tuple[scaling.Scaling, dict[str, str]]:
    """Return the schedule of layers of full attention, and the origins of its fields."""
    stretch = _stretch(data)
    _need_tensors(data, stretch, factors, known=known)
    if data.architecture in _SOFTMAX and not stretch.ext and stretch.factor > 1.0:
        # Its graph multiplies the softmax scale whatever the scaling is, and linear has no number for that.
        must = f"must go with yarn, as the softmax scale of {data.architecture} does in llama.cpp"
        data.fail("rope.scaling.factor", must, stretch.factor)
    origins = {"scaling": stretch.told, "scaling.factor": stretch.origin}
    if stretch.ext:
        schedule: scaling.Scaling = _yarn(data, stretch, context, attention_factor, origins)
    elif data.read("rope.scaling.alpha", as_non_negative_float):
        schedule = _alpha(data, stretch, origins)
    elif _LONG in factors or _SHORT in factors:
        schedule = _longrope(data, stretch, factors, context, attention_factor, origins)
    elif stretch.factor == 1.0:
        schedule = scaling.Default()
    else:
        schedule = scaling.Linear(stretch.factor)
    if isinstance(schedule, scaling.Default):
        where = "in the file" if known else "given"
        without = "" if _ROPE_FREQS in factors else f", and no {_ROPE_FREQS} is {where}"
        origins["scaling"] = stretch.origin + without
    if _LONG in factors and not isinstance(schedule, scaling.LongRope):
        msg = f"`{_LONG}` must not be there together with yarn or alpha, whose frequencies differ, got both"
        raise ConfigError(msg)
    if isinstance(schedule, scaling.Default | scaling.Linear | scaling.NTK):
        _refuse_factor(data, attention_factor)
    if _ROPE_FREQS in factors:
        if _LONG in factors:
            msg = f"`{_ROPE_FREQS}` must not be there together with `{_LONG}`, got both"
            raise ConfigError(msg)
        schedule = scaling.FreqFactors(schedule, freq_factors=factors[_ROPE_FREQS])
        # The schedule within is told one step further in.
        origins = {
            f"scaling.{name}" if name.startswith("scaling") else name: origin
            for name, origin in origins.items()
        }
        origins |= {"scaling": _ROPE_FREQS, "scaling.freq_factors": _ROPE_FREQS}
    return schedule, origins


def _refuse_factor(data: _Metadata, given: float | None) -> None:
    """Raise if there is an attention factor, and no schedule that has one."""
    # Without these keys the rest would mean another rotation, so the message does not advise to leave them out.
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
        msg = f"`attention_factor` must be left out where neither yarn nor longrope scales, got {given}"
        raise ConfigError(msg)


def _yarn(
    data: _Metadata,
    stretch: _Stretch,
    context: _Context,
    attention_factor: float | None,
    origins: dict[str, str],
) -> scaling.Yarn:
    """Return the schedule of YaRN as ggml computes it; its ramp ends on whole lanes."""
    if context.original.value is None:
        data.fail("rope.scaling.original_context_length", "must be there for yarn", "no such key")
    part, softmax = _yarn_factors(data, stretch.factor, attention_factor)
    betas: dict[str, Any] = {
        "beta_fast": 8.0 if data.architecture == "grok" else 32.0,
        "beta_slow": 1.0,
    }
    for name, default in betas.items():
        key = f"rope.scaling.yarn_{name}"
        value = data.read(key, as_positive_float)
        betas[name] = default if value is None else value
        origins[f"scaling.{name}"] = "the default" if value is None else data.key(key)
    origins["scaling.original_max_position"] = context.original.origin
    origins["scaling.truncate"] = "as llama.cpp does"
    origins["scaling.attention_factor"] = origins["attention_factor"] = part.origin
    told = (
        "as llama.cpp scales the softmax of this architecture" if softmax != 1.0 else "the default"
    )
    origins["scaling.softmax_factor"] = origins["softmax_factor"] = told
    return scaling.Yarn(
        factor=stretch.factor,
        original_max_position=context.original.value,
        extrapolation_factor=stretch.ext,
        attention_factor=part.value,
        softmax_factor=softmax,
        **betas,
    )


def _alpha(data: _Metadata, stretch: _Stretch, origins: dict[str, str]) -> scaling.NTK:
    """Return the schedule of HunYuan, a larger base."""
    name = "rope.scaling.alpha"
    alpha = data.read(name, as_positive_float)
    if data.architecture not in _ALPHA or stretch.factor != 1.0:
        must = f"must be left out for {data.architecture} and a factor of {stretch.factor}"
        data.fail(name, must, alpha)
    origins["scaling.alpha"] = data.key(name)
    return scaling.NTK(alpha=alpha)


def _longrope(
    data: _Metadata,
    stretch: _Stretch,
    factors: dict[str, tuple[float, ...]],
    context: _Context,
    attention_factor: float | None,
    origins: dict[str, str],
) -> scaling.LongRope:
    """Return the schedule with a factor for every lane, the long ones beyond the original context."""
    for name in (_LONG, _SHORT):
        if name not in factors:
            msg = f"`{name}` must be there: long and short factors go together, got one of them"
            raise ConfigError(msg)
        origins[f"scaling.{name.split('_')[2].removesuffix('.weight')}_factor"] = name
    if context.length.value is None:
        data.fail("context_length", "must be there, or given, for longrope", "no such key")
    value = data.read("rope.scaling.attn_factor", as_positive_float)
    origin = data.key("rope.scaling.attn_factor")
    if attention_factor is not None:
        value, origin = attention_factor, "given"
    elif value is None:
        value, origin = 1.0, "the default of llama.cpp"
    origins["scaling.attention_factor"] = origins["attention_factor"] = origin
    origins["scaling.original_max_position"] = context.original.origin
    short, long = (tuple(f * stretch.factor for f in factors[name]) for name in (_SHORT, _LONG))
    return scaling.LongRope(
        short_factor=short,
        long_factor=long,
        original_max_position=context.original.value or context.length.value,
        attention_factor=value,
    )


def _slides(data: _Metadata) -> bool:
    """Whether some layers attend within a sliding window."""
    swa = ("rope.freq_base_swa", "rope.dimension_count_swa", "attention.key_length_swa")
    window = data.read("attention.sliding_window", _window)
    return bool(window) or any(map(data.has, swa))


@hints.named
def from_gguf(
    metadata: Any,
    *,
    tensors: Mapping[str, Any] | None = None,
    layer_type: LayerType | None = None,
    layout: Layout | None = None,
    seq_axis: int | None = None,
    batch_axis: BatchAxis = None,
    context_length: int | None = None,
    attention_factor: float | None = None,
    head_dim: int | None = None,
) -> RotaryEmbedding | None:
    """Make the embedding of a model from its GGUF metadata, as llama.cpp reads them.

    Parameters
    ----------
    metadata : mapping of str to value, path, or gguf.GGUFReader
        The path of the file, of either byte order, whose header is then read; gguf-py's reader of it; or
        the keys and values, from any reader: numbers, strings, NumPy scalars and arrays, fields of
        gguf-py. A header may have up to 128 MiB.
    tensors : mapping of str to array, optional
        The file's factor tensors: ``rope_freqs.weight``, ``rope_factors_long.weight`` and
        ``rope_factors_short.weight``, float32 (rotary_dim/2,). Other names are not read. An empty
        mapping says that there are none. A path and a reader bring their own.
    layer_type : {"full_attention", "sliding_attention"}, optional
        Which layers, of models where they differ.
    layout : {"half", "interleaved"}, optional
        In place of the architecture's, and required where that is not known.
    seq_axis : int, optional
        As for `RotaryEmbedding`.
    batch_axis : int or False, optional
        As for `RotaryEmbedding`.
    context_length : int, optional
        By default what the file says. It decides between the long and the short factors.
    attention_factor : float, optional
        The factor on cosine and sine, in place of what the file leads to.
    head_dim : int, optional
        Channels of the arrays, where they are not heads of queries: in models with latent attention
        (DeepSeek), the part of the key that turns is `rotary_dim` wide.

    Returns
    -------
    RotaryEmbedding, or None
        None for an architecture that does not rotate. Its `explain` names the key of every number.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ConfigError
        If a key about rotation is unknown, missing, damaged or contradicts another; the message
        names it and says what to write.
    OSError
        If the file cannot be read.

    See Also
    --------
    rotary.permute_weights : moves the weights to the other layout.

    Notes
    -----
    Follows llama.cpp at commit 0c1e57098: the architecture's layout (``llama_model_rope_type``), the
    defaults of the keys (``load_hparams``), the factors of YaRN (``llama_context``) and the rotation
    itself (``rope_yarn`` and ``ggml_mrope_cache_init`` of ggml). Angles are exact; those of ggml
    are float32.

    Three things differ. ``yarn_beta_fast`` and ``yarn_beta_slow`` are read for every architecture,
    there for some. A ``yarn_attn_factor`` that contradicts llama.cpp's own is refused. So are metadata
    without the factor tensors that they announce, or that models of their kind have.

    llama.cpp rounds the ramp of YaRN to whole lanes, also for gpt-oss, which was trained without;
    ``rotary.scaling.Yarn(truncate=False)`` is what it was trained with. In models where only some
    layers rotate (Llama 4, Cohere 2, SmolLM3), the metadata do not always say which.

    Examples
    --------
    >>> import rotary
    >>> metadata = {
    ...     "general.architecture": "llama",
    ...     "llama.context_length": 8192,
    ...     "llama.embedding_length": 576,
    ...     "llama.attention.head_count": 9,
    ...     "llama.rope.dimension_count": 64,
    ...     "llama.rope.freq_base": 100000.0,
    ... }
    >>> rotary.from_gguf(metadata)
    RotaryEmbedding(64, layout='interleaved', base=100000.0, context_length=8192)
    """
    if layout is not None:
        check_layout(layout)
    if layer_type is not None:
        as_choice(layer_type, "layer_type", ("full_attention", "sliding_attention"))
    if attention_factor is not None:
        attention_factor = as_positive_float(attention_factor, "attention_factor")
    if head_dim is not None:
        head_dim = _width(head_dim, "head_dim")
    if context_length is not None:
        context_length = as_positive_integer(context_length, "context_length")
    arguments = {
        "layout": layout,
        "seq_axis": seq_axis,
        "batch_axis": batch_axis,
        "context_length": context_length,
        "attention_factor": attention_factor,
        "head_dim": head_dim,
    }
    with naming_file(metadata):
        return _read(*_opened(metadata, tensors), layer_type, arguments)


def _read(
    values: Mapping[str, Any],
    tensors: Mapping[str, Any] | None,
    layer_type: LayerType | None,
    arguments: dict[str, Any],
) -> RotaryEmbedding | None:
    """Return the embedding of keys and factor tensors, with the caller's arguments."""
    data = _Metadata(values)
    if data.architecture in _UNREAD:
        msg = (
            f"`general.architecture` {shown(data.architecture)} cannot be read: it has "
            f"{_UNREAD[data.architecture]}; make its `RotaryEmbedding` yourself"
        )
        raise ConfigError(msg)
    data.refuse_unknown()
    finetuned = data.read("rope.scaling.finetuned", as_bool)
    if data.rope_type == "NONE" or (data.architecture in _FINETUNED_SWITCH and finetuned is False):
        return None
    slides = _slides(data)
    if layer_type == "sliding_attention" and not slides:
        msg = "`layer_type` must be left out: the metadata have no sliding window, got 'sliding_attention'"
        raise ConfigError(msg)
    kinds = [layer_type] if layer_type else ["full_attention", *["sliding_attention"] * slides]
    factors = _tensors(tensors)
    found = {
        kind: _embedding(
            data,
            factors,
            sliding=kind == "sliding_attention",
            known=tensors is not None,
            **arguments,
        )
        for kind in kinds
    }
    if len(set(found.values())) > 1:
        bases = " and ".join(f"base {rope.base:g} in {shown(kind)}" for kind, rope in found.items())
        msg = f"`layer_type` must be given, for layers of this model differ, with {bases}, got None"
        raise ConfigError(msg)
    return found[kinds[0]]


def _is_read(key: str) -> bool:
    """Whether the value of a key of a file is looked at."""
    return key in _GENERAL or ".rope." in key or key.endswith(_WIDTHS)


def _opened(
    metadata: Any, tensors: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return keys and factor tensors, read from the file where a path or its reader is given."""
    if isinstance(metadata, Mapping):
        return metadata, tensors
    is_path = isinstance(metadata, str | os.PathLike)
    fields, listed = getattr(metadata, "fields", None), getattr(metadata, "tensors", None)
    is_reader = isinstance(fields, Mapping) and isinstance(listed, list)
    if not is_path and not is_reader:
        msg = f"`metadata` must be a mapping, a path or a GGUFReader, got {type(metadata).__name__}"
        raise TypeError(msg)
    if tensors is not None:
        msg = "`tensors` must be left out where `metadata` is a file: it has its own"
        raise ValueError(msg)
    values: Mapping[str, Any]
    if is_path:
        values, found = read_header(os.fsdecode(metadata), _TENSORS, _is_read)
    else:
        values = metadata.fields
        found = {t.name: _factors_of(t) for t in metadata.tensors if t.name in _TENSORS}
    parts = _unquoted(_plain(values.get("split.count", 1)))
    # What one part of several does not have, another may.
    unknown = not found and parts not in (0, 1)
    return values, None if unknown else found


def _factors_of(tensor: Any) -> Any:
    """Return the numbers of a factor tensor of gguf-py's reader."""
    if tensor.tensor_type != 0:
        msg = (
            f"`{tensor.name}` must be float32, tensor type 0, got type {shown(tensor.tensor_type)}"
        )
        raise ConfigError(msg)
    values = np.asarray(tensor.data)
    # Dimensions of one are as good as none.
    return values.reshape(-1) if values.size == values.shape[-1] else values


def _embedding(
    data: _Metadata,
    factors: dict[str, tuple[float, ...]],
    *,
    sliding: bool,
    known: bool,
    layout: Layout | None,
    seq_axis: int | None,
    batch_axis: BatchAxis,
    context_length: int | None,
    attention_factor: float | None,
    head_dim: int | None,
) -> RotaryEmbedding:
    """Return the embedding of one kind of layers."""
    context = _context(data, context_length)
    pairs = _layout(data, layout)
    parts = {
        **_channels(data, head_dim, sliding=sliding),
        "base": _base(data, sliding=sliding),
        "context_length": context.length,
        "layout": pairs,
    }
    lanes = parts["rotary_dim"].value // 2
    try:
        if sliding and data.architecture in _SLIDING_UNSCALED:
            schedule: scaling.Scaling = scaling.Default()
            origins = {"scaling": "sliding layers are not scaled"}
        else:
            for name, values in factors.items():
                _check_count(name, len(values), lanes)
            schedule, origins = _schedule(data, factors, context, attention_factor, known=known)
        rope = RotaryEmbedding(
            **{name: part.value for name, part in parts.items()},
            scaling=schedule,
            sections=_sections(data, lanes),
        )
    except ConfigError:
        raise
    except (ValueError, OverflowError) as error:
        msg = f"the metadata of this {shown(data.architecture)} do not fit together: {error}"
        raise ConfigError(msg) from error
    origins |= {name: part.origin for name, part in parts.items() if part.origin}
    return replace(rope, seq_axis=seq_axis, batch_axis=batch_axis)._explained(origins)
