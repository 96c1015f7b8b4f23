"""Makes presets_text.json: what the formulas, and transformers' own code, say of every text checkpoint.

`python tests/checkpoints/data/make_presets.py` compares the file with what it makes, `--write` writes it. It needs
mpmath and transformers, and never reads what the library itself knows of a checkpoint: configurations
stand here once more, in the words of their own projects.
"""

from __future__ import annotations

import importlib
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
from mpmath import mp, mpf

FILE = Path(__file__).parent / "presets_text.json"

# ------------------------------------------------------------------------------------------------
# The checkpoints: (model of transformers, name of its classes, its configuration, layer type).

YARN = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
BOTH = {"mscale": 1.0, "mscale_all_dim": 1.0}


def theta(base, **others):
    return {"rope_type": "default", "rope_theta": base} | others


def llama3(factor, base=500_000.0, high=4.0):
    limits = {"low_freq_factor": 1.0, "high_freq_factor": high}
    length = {"original_max_position_embeddings": 8192}
    return theta(base, rope_type="llama3", factor=factor, **limits, **length)


def yarn(base, factor, length, **others):
    return theta(base, factor=factor, original_max_position_embeddings=length) | YARN | others


def heads(hidden_size, count, rope, **others):
    """Return a configuration whose heads share the hidden channels."""
    return {
        "hidden_size": hidden_size,
        "num_attention_heads": count,
        "rope_parameters": rope,
        **others,
    }


def wide(head_dim, rope, **others):
    """Return a configuration that names the width of a head."""
    return {"head_dim": head_dim, "rope_parameters": rope, **others}


def listed(text):
    """Return the numbers of a list such as ``1.05*3 1.1``."""
    values = []
    for item in text.split():
        value, _, count = item.partition("*")
        values += [float(value)] * int(count or 1)
    assert len(values) == 48, len(values)
    return values


def phi3(long, short, hidden_size=3072, count=32, **others):
    lists = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
    lengths = {"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}
    return heads(hidden_size, count, theta(10_000.0, **lists, **others), **lengths)


PHI3_VISION = phi3(
    listed(
        "1.03 1.05 1.05 1.08 1.23 1.23 1.3 1.45 1.6 1.65 1.9 2.86 3.69 5.42 5.49 5.49 9.09 11.58 15.66 "
        "15.77 15.79 18.36 21.99 23.08 30.01 32.35 32.59 35.56 39.95 53.84 56.2 57.95 59.29 59.77 59.92 "
        "61.19 61.96 62.5 63.37 63.48 63.48 63.66 63.85 64.08 64.76 64.8 64.81 64.81"
    ),
    listed(
        "1.05*3 1.1*3 1.25*2 1.4 1.45 1.55 1.85 1.9 2.0*19 2.1*2 2.2 2.35*4 2.4*2 2.65 2.7 2.9 2.95 3.05*3"
    ),
)
PHI35_LONG = listed(
    "1.08 1.11 1.14 1.34 1.59 1.6 1.62 2.62 3.23 3.23 4.79 7.4 7.7 9.09 12.2 17.67 24.46 28.57 30.42 30.84 "
    "32.59 32.93 42.32 44.96 50.34 50.45 57.55 57.93 58.21 60.14 62.61 62.62 62.71 63.14 63.14 63.77 63.93 "
    "63.96 63.97 64.03 64.07 64.08 64.12 64.41 64.48 64.51 64.53 64.84"
)
PHI35 = phi3(
    PHI35_LONG,
    listed(
        "1.0 1.02 1.03 1.03 1.05*5 1.07 1.1 1.11 1.16 1.16 1.17 1.29 1.34 1.68 1.79 1.82 1.85 1.88 1.91 1.94 "
        "1.99 2.02*6 2.03*9 2.08 2.09 2.19 2.22 2.59 2.73 2.75 2.84"
    ),
)
PHI35_VISION = phi3(
    PHI35_LONG,
    listed(
        "1.08 1.1 1.13 1.28 1.31 1.45 1.45 1.95 2.03 2.43 2.57 2.95 3.73 3.87 4.19 4.44 4.64 4.98 5.16 5.28 5.76 "
        "5.89 5.89 5.97 6.09 6.28 6.77 6.89 7.11 7.13 7.18 7.29 7.34 7.56 7.62 7.7 7.88 7.88 7.88 7.94 7.95 7.98 "
        "8.2 8.44 8.47 8.59 8.81 9.0"
    ),
)
# The first 31 are powers, rounded to ten digits.
PHI4_LONG = [1.118320672**i for i in range(31)] + [
    *(
        32.03,
        32.1,
        32.13,
        32.23,
        32.6,
        32.61,
        32.64,
        32.66,
        32.7,
        32.71,
        32.93,
        32.97,
        33.28,
        33.49,
    ),
    *(33.5, 44.16, 47.77),
]
PHI4 = phi3(PHI4_LONG, [1.0] * 48, count=24, partial_rotary_factor=0.75)

GEMMA3 = {"full_attention": theta(1e6), "sliding_attention": theta(10_000.0)}
GEMMA3_LINEAR = GEMMA3 | {"full_attention": theta(1e6, rope_type="linear", factor=8.0)}
GEMMA4 = {
    "full_attention": theta(1e6, rope_type="proportional", partial_rotary_factor=0.25),
    "sliding_attention": theta(10_000.0),
}
OLMO3 = {"full_attention": yarn(5e5, 8.0, 8192), "sliding_attention": theta(5e5)}
DEEPSEEK4 = {"rope_parameters": {"factor": 16, "original_max_position_embeddings": 65_536} | YARN}
V2_LITE = yarn(10_000.0, 40, 4096, mscale=0.707, mscale_all_dim=0.707)
V3 = yarn(10_000.0, 40, 4096, **BOTH)
MLA = {"qk_rope_head_dim": 64}

CHECKPOINTS = {
    "llama-2-7b-hf": ("llama", "Llama", heads(4096, 32, theta(10_000.0)), None),
    "llama-2-7b-meta": ("llama4", "Llama4Text", wide(128, theta(10_000.0)), None),
    "llama-3-8b-hf": ("llama", "Llama", heads(4096, 32, theta(500_000.0)), None),
    "llama-3.1-8b-hf": ("llama", "Llama", heads(4096, 32, llama3(8.0)), None),
    "llama-3.1-8b-meta": ("llama4", "Llama4Text", wide(128, llama3(8.0)), None),
    "llama-3.1-8b-gguf": (None, "NORM", wide(128, llama3(8.0)), None),
    "llama-3.2-1b-hf": ("llama", "Llama", wide(64, llama3(32.0)), None),
    "llama-3.2-1b-gguf": (None, "NORM", wide(64, llama3(32.0)), None),
    "llama-3.2-3b-hf": ("llama", "Llama", wide(128, llama3(32.0)), None),
    "llama-4-scout-meta": ("llama4", "Llama4Text", wide(128, llama3(16.0, high=1.0)), None),
    "cwm-hf": ("cwm", "Cwm", {"rope_parameters": llama3(16.0, 1e6)}, None),
    "apertus-8b-hf": ("apertus", "Apertus", {"rope_parameters": llama3(8.0, 12e6)}, None),
    "smollm2-135m-hf": ("llama", "Llama", heads(576, 9, theta(100_000)), None),
    "smollm2-135m-gguf": (None, "NORM", wide(64, theta(100_000)), None),
    "qwen2-7b-hf": ("qwen2", "Qwen2", heads(3584, 28, theta(1e6)), None),
    "qwen2.5-7b-yarn-hf": ("qwen2", "Qwen2", heads(3584, 28, yarn(1e6, 4.0, 32_768)), None),
    "qwen3-8b-hf": ("qwen3", "Qwen3", wide(128, theta(1e6)), None),
    "gemma-2b-hf": ("gemma", "Gemma", wide(256, theta(10_000.0)), None),
    "gemma-2-27b-hf": ("gemma2", "Gemma2", wide(128, theta(10_000.0)), None),
    "gemma-3-1b-global-hf": ("gemma3", "Gemma3Text", wide(256, GEMMA3), "full_attention"),
    "gemma-3-1b-local-hf": ("gemma3", "Gemma3Text", wide(256, GEMMA3), "sliding_attention"),
    "gemma-3-4b-global-hf": ("gemma3", "Gemma3Text", wide(256, GEMMA3_LINEAR), "full_attention"),
    "gemma-3-4b-local-hf": ("gemma3", "Gemma3Text", wide(256, GEMMA3_LINEAR), "sliding_attention"),
    "gemma-3-27b-global-hf": ("gemma3", "Gemma3Text", wide(128, GEMMA3_LINEAR), "full_attention"),
    "gemma-4-e2b-global-hf": (
        *("gemma4", "Gemma4Text", wide(256, GEMMA4, global_head_dim=512)),
        "full_attention",
    ),
    "gemma-4-e2b-local-hf": ("gemma4", "Gemma4Text", wide(256, GEMMA4), "sliding_attention"),
    "mistral-7b-v0.1-hf": ("mistral", "Mistral", heads(4096, 32, theta(10_000.0)), None),
    "mixtral-8x7b-hf": ("mixtral", "Mixtral", heads(4096, 32, theta(1e6)), None),
    "ministral-3-3b-hf": (
        "ministral3",
        "Ministral3",
        wide(128, yarn(1e6, 16, 16_384, **BOTH)),
        None,
    ),
    "mistral-small-4-hf": ("mistral4", "Mistral4", {}, None),
    "deepseek-v2-lite-hf": ("deepseek_v2", "DeepseekV2", MLA | {"rope_parameters": V2_LITE}, None),
    "deepseek-v3-hf": ("deepseek_v3", "DeepseekV3", MLA | {"rope_parameters": V3}, None),
    "deepseek-v3-native": ("deepseek_v2", "DeepseekV2", MLA | {"rope_parameters": V3}, None),
    "deepseek-v4-flash-main-hf": ("deepseek_v4", "DeepseekV4", DEEPSEEK4, "main"),
    "deepseek-v4-flash-compress-hf": ("deepseek_v4", "DeepseekV4", DEEPSEEK4, "compress"),
    "gpt-oss-20b-hf": ("gpt_oss", "GptOss", {}, None),
    "gpt-j-6b-hf": ("gptj", "GPTJ", {"n_embd": 4096, "n_head": 16, "rotary_dim": 64}, None),
    "gpt-neox-20b-hf": ("gpt_neox", "GPTNeoX", {}, None),
    "pythia-70m-hf": ("gpt_neox", "GPTNeoX", {"hidden_size": 512, "num_attention_heads": 8}, None),
    "pythia-1b-hf": ("gpt_neox", "GPTNeoX", {"hidden_size": 2048, "num_attention_heads": 8}, None),
    "pythia-1.4b-hf": (
        "gpt_neox",
        "GPTNeoX",
        {"hidden_size": 2048, "num_attention_heads": 16},
        None,
    ),
    "phi-1.5-hf": (
        *("phi", "Phi", heads(2048, 32, theta(10_000.0, partial_rotary_factor=32 / 64))),
        None,
    ),
    "phi-2-hf": (
        *("phi", "Phi", heads(2560, 32, theta(10_000.0, partial_rotary_factor=32 / 80))),
        None,
    ),
    "phi-3-mini-4k-hf": ("phi3", "Phi3", {}, None),
    "phi-3-vision-128k-hf": ("phi3", "Phi3", PHI3_VISION, None),
    "phi-3.5-mini-hf": ("phi3", "Phi3", PHI35, None),
    "phi-3.5-vision-hf": ("phi3", "Phi3", PHI35_VISION, None),
    "phi-4-mini-hf": ("phi3", "Phi3", PHI4, None),
    "glm-4-9b-chat-hf": (
        *("glm", "Glm", {"rope_parameters": theta(10_000.0 * 500, partial_rotary_factor=0.5)}),
        None,
    ),
    "ernie-4.5-0.3b-hf": ("ernie4_5", "Ernie4_5", {}, None),
    "aya-23-8b-hf": ("cohere", "Cohere", heads(4096, 32, theta(10_000)), None),
    "roformer-chinese-base-hf": ("roformer", "RoFormer", {}, None),
    "falcon-7b-hf": ("falcon", "Falcon", {}, None),
    "stablelm-3b-4e1t-hf": ("stablelm", "StableLm", {"hidden_size": 2560}, None),
    "stablelm-2-1.6b-hf": ("stablelm", "StableLm", {"hidden_size": 2048}, None),
    "olmo-3-7b-global-hf": ("olmo3", "Olmo3", {"rope_parameters": OLMO3}, "full_attention"),
    "olmo-3-7b-local-hf": ("olmo3", "Olmo3", {"rope_parameters": OLMO3}, "sliding_attention"),
    "hunyuan-7b-hf": (
        *("hunyuan_v1_dense", "HunYuanDenseV1"),
        wide(128, theta(10_000.0, rope_type="dynamic", factor=1.0, alpha=1000.0)),
        None,
    ),
    "internlm2.5-7b-hf": (
        *("llama", "Llama"),
        heads(
            4096, 32, theta(1e6, rope_type="dynamic", factor=2.0), max_position_embeddings=32_768
        ),
        None,
    ),
    "minicpm-2b-128k-hf": (
        *("llama", "Llama"),
        heads(
            2304, 36, theta(1e6, rope_type="dynamic", factor=4.0), max_position_embeddings=65_536
        ),
        None,
    ),
    "nemotron-3-8b-hf": ("nemotron", "Nemotron", {}, None),
}
# The factors have two digits here, and are float32 numbers, or sums of steps, in the checkpoints.
ROUNDED = {"phi-3-vision-128k-hf", "phi-3.5-mini-hf", "phi-3.5-vision-hf", "phi-4-mini-hf"}
# The lengths that tell all of a schedule that depends on them; the first is the preset's own.
LENGTHS = {
    "internlm2.5-7b-hf": (32_768, 65_536),
    "minicpm-2b-128k-hf": (65_536, 131_072),
    **dict.fromkeys(ROUNDED, (131_072, 4096)),
}
# Models that multiply the softmax scale of their attention.
SOFTMAX = {"deepseek_v2", "deepseek_v3", "mistral4"}

# ------------------------------------------------------------------------------------------------
# The formulas, in fifty digits.

mp.dps = 50


def plain(dim, base):
    return [mpf(base) ** (-mpf(2 * i) / dim) for i in range(dim // 2)]


def of_llama3(dim, rope, _length):
    low, high, factor = (mpf(rope[f"{name}factor"]) for name in ("low_freq_", "high_freq_", ""))
    result = []
    for w in plain(dim, rope["rope_theta"]):
        rotations = rope["original_max_position_embeddings"] * w / (2 * mp.pi)
        if rotations < low:
            result.append(w / factor)
        elif rotations > high:
            result.append(w)
        else:
            smooth = (rotations - low) / (high - low)
            result.append((1 - smooth) * w / factor + smooth * w)
    return result


def of_yarn(dim, rope, _length):
    base, length = mpf(rope["rope_theta"]), rope["original_max_position_embeddings"]
    ends = [
        dim * mp.log(length / (beta * 2 * mp.pi)) / (2 * mp.log(base))
        for beta in (rope["beta_fast"], rope["beta_slow"])
    ]
    if rope.get("truncate", True):
        ends = [mp.floor(ends[0]), mp.ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], dim - 1)
    result = []
    for i, w in enumerate(plain(dim, base)):
        ramp = min(max((i - low) / (high - low), 0), 1)
        result.append(w / mpf(rope["factor"]) * ramp + w * (1 - ramp))
    return result


def of_longrope(dim, rope, length):
    long = length > rope["original_max_position_embeddings"]
    factors = rope["long_factor" if long else "short_factor"]
    return [w / mpf(f) for w, f in zip(plain(dim, rope["rope_theta"]), factors, strict=True)]


def of_dynamic(dim, rope, length):
    if "alpha" in rope:
        growth = mpf(rope["alpha"])
    else:
        limit, factor = rope["max_position_embeddings"], mpf(rope["factor"])
        growth = factor * max(length, limit) / limit - (factor - 1)
    return plain(dim, mpf(rope["rope_theta"]) * growth ** (mpf(dim) / (dim - 2)))


def of_proportional(dim, rope, _length):
    turning = int(rope["partial_rotary_factor"] * dim // 2)
    return [w if i < turning else mpf(0) for i, w in enumerate(plain(dim, rope["rope_theta"]))]


FORMULAS = {
    "default": lambda dim, rope, _: plain(dim, rope["rope_theta"]),
    "linear": lambda dim, rope, _: [
        w / mpf(rope["factor"]) for w in plain(dim, rope["rope_theta"])
    ],
    "llama3": of_llama3,
    "yarn": of_yarn,
    "longrope": of_longrope,
    "dynamic": of_dynamic,
    "proportional": of_proportional,
}


def temperature(factor, mscale=1):
    return mpf(1) if factor <= 1 else mpf(mscale) * mp.log(mpf(factor)) / 10 + 1


def attention_factor(rope):
    if "attention_factor" in rope:
        return mpf(rope["attention_factor"])
    if rope["rope_type"] == "longrope":
        length = mpf(rope["original_max_position_embeddings"])
        stretch = rope["max_position_embeddings"] / length
        return mp.sqrt(1 + mp.log(stretch) / mp.log(length))
    if rope["rope_type"] == "yarn":
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            numerator = temperature(rope["factor"], rope["mscale"])
            return numerator / temperature(rope["factor"], rope["mscale_all_dim"])
        return temperature(rope["factor"])
    return mpf(1)


# ------------------------------------------------------------------------------------------------
# What transformers says.


def classes(model, name):
    """Return the configuration's class, the rotary class and the model's module."""
    where = f"transformers.models.{model}"
    configuration = importlib.import_module(f"{where}.configuration_{model}")
    modeling = importlib.import_module(f"{where}.modeling_{model}")
    names = (f"{name}RotaryEmbedding", f"{name.removesuffix('Text')}RotaryEmbedding")
    rotary = next((getattr(modeling, one) for one in names if hasattr(modeling, one)), None)
    return getattr(configuration, f"{name}Config"), rotary, modeling


def rope_of(config, layer):
    """Return the resolved parameters of one kind of layer."""
    rope = getattr(config, "rope_parameters", None)
    if rope is None:  # GPT-J and RoFormer, whose base stands in their code
        return {"rope_type": "default", "rope_theta": 10_000.0}
    rope = dict(rope[layer] if layer else rope)
    rope.setdefault("max_position_embeddings", config.max_position_embeddings)
    return rope


def channels(layout, pairs):
    """Return the first and the second channel of every pair."""
    i = np.arange(pairs)
    return (i, i + pairs) if layout == "half" else (2 * i, 2 * i + 1)


def by_hand(x, angles, factor, layout, output_layout, start):
    """Return x (S, D) rotated, read in one layout and written in another."""
    pairs = angles.shape[-1]
    (a, b), (c, d) = channels(layout, pairs), channels(output_layout, pairs)
    result = x.copy()
    one, two = x[:, start + a], x[:, start + b]
    result[:, start + c] = factor * (one * np.cos(angles) - two * np.sin(angles))
    result[:, start + d] = factor * (two * np.cos(angles) + one * np.sin(angles))
    return result


def measured(width, rotated, x, inv_freq, factor):
    """Return the layouts and the window by which x has become what the code made of it."""
    angles = np.arange(len(x))[:, None] * inv_freq
    starts = sorted({0, width - 2 * len(inv_freq)})
    layouts = ("half", "interleaved")
    found = [
        (one, two, start)
        for one, two, start in product(layouts, layouts, starts)
        if np.allclose(by_hand(x, angles, factor, one, two, start), rotated, atol=1e-5)
    ]
    assert len(found) == 1, found
    return found[0]


class Model:
    """A checkpoint in transformers: its configuration, and the code that turns its heads."""

    def __init__(self, name):
        self.model, prefix, given, self.layer = CHECKPOINTS[name]
        config_class, rotary_class, self.code = classes(self.model, prefix)
        self.config = config_class(**given)
        self.rotary = rotary_class(self.config) if rotary_class else None
        self.width = head_width(name, self.config)
        self.rope = rope_of(self.config, self.layer)

    def numbers(self, length=None):
        """Return frequencies and factor, after a sequence of a length."""
        import torch

        if self.rotary is None:
            dim = getattr(self.config, "rotary_dim", self.width)
            return np.array([float(w) for w in plain(dim, self.rope["rope_theta"])]), 1.0
        last = torch.tensor([[0, (length or 8) - 1]])
        layer = [self.layer] if self.layer else []
        self.rotary(torch.zeros(1, 1, 2, self.width), last, *layer)
        prefix = f"{self.layer}_" if self.layer else ""
        inv_freq = getattr(self.rotary, f"{prefix}inv_freq")
        return inv_freq.double().numpy(), float(getattr(self.rotary, f"{prefix}attention_scaling"))

    def layouts(self):
        """Return the layouts and the window, measured."""
        import torch

        x = np.random.default_rng(0).normal(size=(1, 1, 6, self.width))
        inv_freq, factor = self.numbers()
        with torch.no_grad():
            y = self.rotate(torch.from_numpy(x).float(), torch.arange(6)[None])
        return measured(self.width, y[0, 0].numpy(), x[0, 0], inv_freq, factor)

    def rotate(self, x, positions):
        """Return x (B, H, S, D) rotated by the model's own code."""
        import torch

        model, code = self.model, self.code
        rotary_dim = getattr(self.config, "rotary_dim", None)
        if model == "gptj":
            table = code.create_sinusoidal_positions(64, rotary_dim)[positions[0]]
            sin, cos = table[None].chunk(2, dim=-1)
            part = x[..., :rotary_dim].transpose(1, 2)
            part = code.apply_rotary_pos_emb(part, sin, cos).transpose(1, 2)
            return torch.cat([part, x[..., rotary_dim:]], dim=-1)
        if model == "roformer":
            table = code.RoFormerSinusoidalPositionalEmbedding(64, x.shape[-1])
            table.weight = torch.nn.Parameter(table.create_weight(), requires_grad=False)
            attention = code.RoFormerSelfAttention
            angles = table(positions.shape, position_ids=positions[0])[None, None]
            return attention.apply_rotary_position_embeddings(angles, x, x)[0]
        tables = self.rotary(x, positions, *([self.layer] if self.layer else []))
        if model in ("llama4", "deepseek_v2"):
            if model == "llama4":  # whose heads come after the sequence
                result = code.apply_rotary_emb(x.transpose(1, 2), x.transpose(1, 2), tables)[0]
                return result.transpose(1, 2)
            return code.apply_rotary_emb(x, x, tables)[0]
        cos, sin = tables
        if model in ("gemma4", "deepseek_v4"):
            return code.apply_rotary_pos_emb(x, cos, sin)
        if model in ("deepseek_v3", "mistral4"):
            return code.apply_rotary_pos_emb_interleave(x, x, cos, sin)[0]
        if model in ("phi", "stablelm", "nemotron"):  # whose attention takes the head apart
            width = cos.shape[-1]
            part = code.apply_rotary_pos_emb(x[..., :width], x[..., :width], cos, sin)[0]
            return torch.cat([part, x[..., width:]], dim=-1)
        return code.apply_rotary_pos_emb(x, x, cos, sin)[0]


def head_width(name, config):
    """Return how many channels the code turns, or passes through, of one head."""
    model = CHECKPOINTS[name][0]
    if model in ("deepseek_v2", "deepseek_v3", "mistral4"):
        return config.qk_rope_head_dim
    if model == "gemma4":  # whose configuration has one width for each kind of layer
        return 512 if "global" in name else 256
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


# ------------------------------------------------------------------------------------------------


def made(name):
    """Return the constants of a checkpoint, checked against transformers where its code is there."""
    model, _, given, _ = CHECKPOINTS[name]
    softmax, compared = mpf(1), ""
    if model is None:
        known = None
        rope, width = given["rope_parameters"], given["head_dim"]
        layout, output_layout, start, dim = "interleaved", "interleaved", 0, width
    else:
        known = Model(name)
        rope, width = known.rope, known.width
        layout, output_layout, start = known.layouts()
        dim = 2 * len(known.numbers()[0])
        compared = f", compared with transformers 5.23.0, models/{model}"
    if model in SOFTMAX:
        softmax = temperature(rope["factor"], rope["mscale_all_dim"]) ** 2
        said = known.code.yarn_apply_mscale(known.config.rope_parameters, 1.0)
        np.testing.assert_allclose(float(softmax), said, rtol=1e-12)
    lengths = LENGTHS.get(name, (None,))
    (values, first), *others = [at_length(known, rope, dim, length) for length in lengths]
    steps = (1, 3, 7) if name in ROUNDED else (1, 100, 2047)
    pairs, factor = sorted({0, 1, dim // 4, dim // 2 - 1}), attention_factor(rope)
    return {
        "made_by": "the formula in mpmath" + compared,
        "head_dim": width,
        "rotary_start": start,
        "rotary_dim": dim,
        "layout": layout,
        "output_layout": output_layout,
        "softmax_factor": float(softmax),
        "rtol": 1e-6 if name in ROUNDED else 1e-14,
        **first,
        "samples": [
            [p, i, float(factor * mp.cos(p * values[i])), float(factor * mp.sin(p * values[i]))]
            for p, i in product(steps, pairs)
        ],
        **({"at_length": [other for _, other in others]} if others else {}),
    }


def at_length(known, rope, dim, length):
    """Return the exact frequencies, and numbers at a context length where they depend on it."""
    values = FORMULAS[rope["rope_type"]](dim, rope, length)
    numbers, factor = [float(value) for value in values], float(attention_factor(rope))
    if known is not None:
        inv_freq, said = known.numbers(length)
        np.testing.assert_allclose(numbers, inv_freq, rtol=2e-6)
        np.testing.assert_allclose(factor, said, rtol=1e-12)
    context = {} if length is None else {"context_length": length}
    return values, {**context, "attention_factor": factor, "inv_freq": numbers}


def text():
    """Return the file: one line for every checkpoint."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # it has doubts about configurations without the rest of the model's
    lines = [f"{json.dumps(name)}: {json.dumps(made(name))}" for name in sorted(CHECKPOINTS)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text(), encoding="utf-8")
    else:
        sys.exit(text() != FILE.read_text(encoding="utf-8"))
