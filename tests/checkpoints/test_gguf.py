"""GGUF metadata: the embeddings, compared with the formulas of llama.cpp, and the refusals."""

from __future__ import annotations

import contextlib
import math
import struct

import numpy as np
import pytest
from cases import case
from hypothesis import given
from hypothesis import strategies as st

import rotary
from rotary import ConfigError, from_gguf, scaling, sections
from rotary.checkpoints.builder import make_embedding
from rotary.checkpoints.facts import facts
from rotary.checkpoints.layer_keys import read_layer_keys
from rotary.checkpoints.llama_cpp import find_architecture as known_architecture
from rotary.checkpoints.options import checked_options

F32 = np.float32


def of(architecture, **values):
    """Metadata of an architecture; keys are without its name, and have two underscores for a dot."""
    named = {f"{architecture}.{name.replace('__', '.')}": value for name, value in values.items()}
    return {"general.architecture": architecture, "general.type": "model", **named}


# As the converters write them: floats are float32, integers uint32.
SMOLLM2 = of(
    "llama",
    block_count=30,
    context_length=8192,
    embedding_length=576,
    attention__head_count=9,
    attention__head_count_kv=3,
    rope__freq_base=F32(100_000.0),
    rope__dimension_count=64,
)
LLAMA_31 = of(
    "llama",
    context_length=131_072,
    embedding_length=4096,
    attention__head_count=32,
    attention__key_length=128,
    rope__freq_base=F32(500_000.0),
    rope__dimension_count=128,
)
PHI_3 = of(
    "phi3",
    context_length=131_072,
    embedding_length=3072,
    attention__head_count=32,
    attention__sliding_window=262_144,
    rope__dimension_count=96,
    rope__freq_base=F32(10_000.0),
    rope__scaling__original_context_length=4096,
    rope__scaling__attn_factor=F32(1.1902380714238083),
)
QWEN_2 = of(
    "qwen2",
    context_length=32_768,
    embedding_length=3584,
    attention__head_count=28,
    rope__freq_base=F32(1e6),
)
QWEN_2_YARN = QWEN_2 | of(
    "qwen2",
    context_length=131_072,
    rope__scaling__type="yarn",
    rope__scaling__factor=F32(4.0),
    rope__scaling__original_context_length=32_768,
)
QWEN_2_VL = of(
    "qwen2vl",
    context_length=32_768,
    embedding_length=3584,
    attention__head_count=28,
    rope__freq_base=F32(1e6),
    rope__dimension_sections=np.array([16, 24, 24, 0], np.int32),
)
DEEPSEEK_V3 = of(
    "deepseek2",
    context_length=163_840,
    embedding_length=7168,
    attention__head_count=128,
    attention__key_length=576,
    attention__key_length_mla=192,
    rope__dimension_count=64,
    rope__freq_base=F32(10_000.0),
    rope__scaling__type="yarn",
    rope__scaling__factor=F32(40.0),
    rope__scaling__original_context_length=4096,
    rope__scaling__yarn_log_multiplier=F32(0.1),
)
GPT_OSS = of(
    "gpt-oss",
    context_length=131_072,
    embedding_length=2880,
    attention__head_count=64,
    attention__key_length=64,
    attention__sliding_window=128,
    rope__freq_base=F32(150_000.0),
    rope__scaling__type="yarn",
    rope__scaling__factor=F32(32.0),
    rope__scaling__original_context_length=4096,
    rope__scaling__yarn_beta_fast=F32(32.0),
    rope__scaling__yarn_beta_slow=F32(1.0),
)
GEMMA_3 = of(
    "gemma3",
    context_length=131_072,
    embedding_length=2560,
    attention__head_count=8,
    attention__key_length=256,
    attention__sliding_window=1024,
    rope__freq_base=F32(1e6),
    rope__scaling__type="linear",
    rope__scaling__factor=F32(8.0),
)
GROK_2 = of(
    "grok",
    context_length=131_072,
    embedding_length=8192,
    attention__head_count=64,
    attention__key_length=128,
    rope__freq_base=F32(208_533_496.0),
    rope__scaling__type="yarn",
    rope__scaling__factor=F32(16.0),
    rope__scaling__original_context_length=8192,
    rope__scaling__yarn_ext_factor=F32(1.0),
    rope__scaling__yarn_attn_factor=F32(1.0),
    rope__scaling__yarn_beta_fast=F32(8.0),
    rope__scaling__yarn_beta_slow=F32(1.0),
)


def llama_3_factors(base=500_000.0, dim=128, factor=8.0):
    """The tensor of Llama 3.1, as its converter computes it."""
    wavelengths = 2 * math.pi * base ** (np.arange(0, dim, 2) / dim)
    smooth = (8192 / wavelengths - 1) / (4 - 1)
    middle = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelengths < 8192 / 4, 1, np.where(wavelengths > 8192, factor, middle))
    return {"rope_freqs.weight": factors.astype(F32)}


def phi_3_factors(pairs=48):
    """Tensors of the form of Phi 3."""
    return {
        "rope_factors_short.weight": np.linspace(1.0, 2.8, pairs, dtype=F32),
        "rope_factors_long.weight": np.geomspace(1.0, 64.0, pairs, dtype=F32),
    }


def ggml_tables(
    positions,
    dim,
    base,
    *,
    scale=1.0,
    ext=0.0,
    factor=1.0,
    original=1,
    fast=32.0,
    slow=1.0,
    per=1.0,
):
    """Cosine and sine as ggml's rope_yarn has them, in float64."""
    pairs = np.arange(dim // 2)
    plain = np.multiply.outer(positions, base ** (-2.0 * pairs / dim) / per)
    low, high = (
        dim * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(base))
        for beta in (fast, slow)
    )
    low, high = max(0, math.floor(low)), min(dim - 1, math.ceil(high))
    angles = plain * scale
    if ext:
        mix = ext * (1 - np.clip((pairs - low) / max(0.001, high - low), 0, 1))
        angles = angles * (1 - mix) + plain * mix
        factor *= 1 + 0.1 * math.log(1 / scale)
    return np.cos(angles) * factor, np.sin(angles) * factor


def agrees_with_ggml(rope, positions=(0, 1, 77, 4095), **options):
    """Whether the tables are those of ggml."""
    positions = np.array(positions)
    expected = ggml_tables(positions, rope.rotary_dim, rope.base, **options)
    for got, wanted in zip(rope.tables(positions, dtype="float64"), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-9)


# --- models ------------------------------------------------------------------------------------


def test_smollm2():
    rope = from_gguf(SMOLLM2, seq_axis=-2)
    by_hand = rotary.RotaryEmbedding(
        64, layout="interleaved", base=1e5, context_length=8192, seq_axis=-2
    )
    assert rope == by_hand
    agrees_with_ggml(rope)


def test_llama_31_has_its_scaling_in_a_tensor():
    rope = from_gguf(LLAMA_31, tensors=llama_3_factors())
    schedule = scaling.Llama3(
        factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position=8192
    )
    np.testing.assert_allclose(rope.inv_freq, schedule.inv_freq(128, 5e5), rtol=1e-6)
    agrees_with_ggml(rope, per=llama_3_factors()["rope_freqs.weight"].astype(float))
    assert "rope_freqs.weight" in rope.explain()


def test_llama_31_without_its_tensor_is_refused():
    with pytest.raises(ConfigError, match=r"`rope_freqs.weight` must be present.*tensors=\{\}"):
        from_gguf(LLAMA_31)
    assert from_gguf(LLAMA_31, tensors={}).scaling == scaling.Default()


@pytest.mark.parametrize(("length", "name"), [(None, "long"), (4097, "long"), (4096, "short")])
def test_phi_3(length, name):
    tensors = phi_3_factors()
    rope = from_gguf(PHI_3, tensors=tensors, context_length=length)
    assert rope.layout == "half"
    per = tensors[f"rope_factors_{name}.weight"].astype(float)
    factor = float(PHI_3["phi3.rope.scaling.attn_factor"])
    agrees_with_ggml(rope, per=per, factor=factor)
    assert rope.attention_factor == factor


def test_qwen_2():
    rope = from_gguf(QWEN_2)
    by_hand = rotary.RotaryEmbedding(128, layout="half", base=1e6, context_length=32_768)
    assert rope == by_hand


def test_qwen_2_with_yarn():
    rope = from_gguf(QWEN_2_YARN)
    assert rope.scaling == scaling.Yarn(factor=4, original_max_position=32_768)
    # llama.cpp divides its factor by the one that ggml multiplies by.
    agrees_with_ggml(rope, scale=1 / 4, ext=1.0, factor=1.0, original=32_768)
    assert rope.attention_factor == pytest.approx(1.138629436)


def test_qwen_2_vl_has_sections():
    rope = from_gguf(QWEN_2_VL)
    assert rope.layout == "half"
    assert rope.sections == sections.ggml_mrope(16, 24, 24, 0)
    assert rope.sections.axes == (0,) * 16 + (1,) * 24 + (2,) * 24


def test_qwen_3_vl_interleaves_its_sections():
    metadata = of("qwen3vl", attention__key_length=128, rope__dimension_sections=[24, 20, 20, 0])
    assert from_gguf(metadata).sections == sections.ggml_imrope(24, 20, 20, 0)


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [("glm4", "interleaved"), ("glm4moe", "half"), ("hunyuan_vl", "half")],
)
def test_sections_make_the_rope_type_mrope(architecture, layout):
    plain = of(architecture, attention__key_length=128, rope__dimension_count=64)
    rope = from_gguf(plain)
    assert (rope.layout, rope.sections) == (layout, None)
    several = plain | of(architecture, rope__dimension_sections=[8, 12, 12, 0])
    assert from_gguf(several).sections == sections.ggml_mrope(8, 12, 12, 0)


def test_deepseek_v3():
    rope = from_gguf(DEEPSEEK_V3)
    assert (rope.head_dim, rope.rotary_dim, rope.rotary_start) == (192, 64, 128)
    assert rope.attention_factor == 1.0
    assert rope.softmax_factor == pytest.approx((0.1 * math.log(40) + 1) ** 2)
    agrees_with_ggml(
        rope, scale=1 / 40, ext=1.0, factor=1 / (1 + 0.1 * math.log(40)), original=4096
    )
    own = from_gguf(DEEPSEEK_V3, head_dim=64)
    assert (own.head_dim, own.rotary_start) == (64, 0)
    np.testing.assert_array_equal(own.inv_freq, rope.inv_freq)


def test_deepseek_v2_lite():
    metadata = DEEPSEEK_V3 | of("deepseek2", rope__scaling__yarn_log_multiplier=F32(0.0707))
    rope = from_gguf(metadata)
    assert rope.attention_factor == 1.0
    assert math.sqrt(rope.softmax_factor) == pytest.approx(1.2608, abs=1e-4)


def test_yarn_log_multiplier_is_a_tenth_in_some_architectures():
    yarn = {name.partition(".")[2]: value for name, value in QWEN_2_YARN.items()}
    metadata = {f"mistral3.{name}": value for name, value in yarn.items() if "." in name}
    metadata |= of("mistral3", attention__key_length=128)
    m = 0.1 * math.log(4) + 1
    for value, factor in [(0.0, m), (1.0, 1.0)]:
        metadata["mistral3.rope.scaling.yarn_log_multiplier"] = value
        rope = from_gguf(metadata)
        assert rope.attention_factor == pytest.approx(factor)
        assert rope.softmax_factor == 1.0


def test_gpt_oss_rotates_all_layers_alike():
    rope = from_gguf(GPT_OSS)
    assert rope == from_gguf(GPT_OSS, layer_type="sliding_attention")
    assert rope.scaling.truncate
    agrees_with_ggml(rope, scale=1 / 32, ext=1.0, factor=1.0, original=4096)


def test_gemma_3_has_two_kinds_of_layers():
    full = from_gguf(GEMMA_3, layer_type="full_attention")
    sliding = from_gguf(GEMMA_3, layer_type="sliding_attention")
    assert (full.base, full.scaling) == (1e6, scaling.Linear(8))
    assert (sliding.base, sliding.scaling) == (1e4, scaling.Default())
    with pytest.raises(ConfigError, match="`layer_type` must be given.*1e\\+06.*10000"):
        from_gguf(GEMMA_3)
    own = GEMMA_3 | of("gemma3", rope__freq_base_swa=F32(20_000.0))
    assert from_gguf(own, layer_type="sliding_attention").base == 20_000.0


def test_gemma_4_rotates_part_of_its_wide_heads():
    metadata = of(
        "gemma4",
        context_length=131_072,
        attention__key_length=512,
        attention__key_length_swa=256,
        attention__sliding_window=512,
        rope__dimension_count=512,
        rope__dimension_count_swa=256,
        rope__freq_base=F32(1e6),
        rope__freq_base_swa=F32(1e4),
    )
    factors = {"rope_freqs.weight": np.where(np.arange(256) < 64, 1, 1e30).astype(F32)}
    full = from_gguf(metadata, tensors=factors, layer_type="full_attention")
    proportional = scaling.Proportional(partial_rotary_factor=0.25)
    np.testing.assert_allclose(
        full.inv_freq, proportional.inv_freq(512, 1e6), rtol=1e-6, atol=1e-29
    )
    sliding = from_gguf(metadata, tensors=factors, layer_type="sliding_attention")
    assert (sliding.head_dim, sliding.base, sliding.scaling) == (256, 1e4, scaling.Default())
    with pytest.raises(ConfigError, match="`rope_freqs.weight` must be present"):
        from_gguf(metadata, layer_type="full_attention")


def test_grok_2():
    rope = from_gguf(GROK_2)
    assert rope.scaling.beta_fast == 8.0
    assert rope == from_gguf({k: v for k, v in GROK_2.items() if "beta" not in k})
    agrees_with_ggml(rope, scale=1 / 16, ext=1.0, factor=1.0, original=8192, fast=8.0)


def test_hunyuan_has_alpha():
    metadata = of(
        "hunyuan_vl",
        attention__key_length=128,
        rope__freq_base=F32(10_000.0),
        rope__scaling__type="none",
        rope__scaling__factor=F32(1.0),
        rope__scaling__alpha=F32(1000.0),
    )
    rope = from_gguf(metadata)
    assert rope.scaling == scaling.NTK(alpha=1000)
    with pytest.raises(ConfigError, match=r"`qwen2.rope.scaling.alpha` must be left out"):
        from_gguf(QWEN_2 | of("qwen2", rope__scaling__alpha=2.0))


@pytest.mark.parametrize("architecture", ["mamba", "gpt2", "bert", "t5"])
def test_architectures_that_do_not_rotate(architecture):
    assert from_gguf(of(architecture, embedding_length=768)) is None


def test_granite_without_rotation():
    metadata = of("granitehybrid", attention__key_length=64)
    assert from_gguf(metadata).layout == "interleaved"
    assert from_gguf(metadata | of("granitehybrid", rope__scaling__finetuned=False)) is None
    assert from_gguf(SMOLLM2 | of("llama", rope__scaling__finetuned=False)) is not None


# --- factors that are tensors ------------------------------------------------------------------

KNOWN = [known_architecture(name) for name in facts("llama_cpp.toml")["architectures"]]
ROTATING = [own for own in KNOWN if own.rope_type not in (None, "NONE")]
WITHOUT = [None, {}, {"rope_freqs.weight": np.full(32, 2.0, F32)}]


def plain_of(name, **values):
    """Metadata that suffice for any architecture, with 64 rotated channels."""
    usual = {"attention__key_length": 64, "rope__dimension_count": 64, "context_length": 4096}
    if known_architecture(name).rope_type in ("MROPE", "IMROPE"):
        usual["rope__dimension_sections"] = [16, 8, 8, 0]
    return of(name, **usual | values)


def refused_or_factored(metadata, tensors):
    """Whether metadata are refused by the name of a tensor, or have the frequencies that a tensor gives."""
    try:
        rope = from_gguf(metadata, tensors=tensors, layer_type="full_attention")
    except ConfigError as error:
        return "rope_f" in str(error) or "factor tensors" in str(error)
    plain = rope.base ** (-np.arange(0, 64, 2) / 64)
    return bool(tensors) and np.allclose(rope.inv_freq, plain / tensors["rope_freqs.weight"])


def test_announced_factors_are_required():
    for own in ROTATING:
        longrope = plain_of(own.name, rope__scaling__type="longrope")
        for tensors in WITHOUT:
            with pytest.raises(
                ConfigError, match="`rope_factors_long.weight` and `rope_factors_short"
            ):
                from_gguf(longrope, tensors=tensors, layer_type="full_attention")
        scaled = plain_of(own.name, rope__scaling__attn_factor=F32(1.19))
        for tensors in WITHOUT:
            assert refused_or_factored(scaled, tensors), (own.name, tensors)
        # What another tensor than the announced one leads to must be refused as well.
        with pytest.raises(ConfigError):
            from_gguf(scaled, tensors=WITHOUT[2], layer_type="full_attention")
        if own.needs_rope_freqs:
            continue
        given = from_gguf(longrope, tensors=phi_3_factors(32), layer_type="full_attention")
        assert given.scaling.long_factor == tuple(
            phi_3_factors(32)["rope_factors_long.weight"].astype(float).tolist()
        )


@pytest.mark.parametrize("architecture", ["phi3", "phimoe"])
def test_following_the_advice_for_phi_3_never_gives_plain_frequencies(architecture):
    whole = {name.replace("phi3", architecture): value for name, value in PHI_3.items()}
    whole["general.architecture"] = architecture
    key = f"{architecture}.rope.scaling.attn_factor"
    without = {name: value for name, value in whole.items() if name != key}
    for metadata in (whole, whole | {key: 1.0}, without):
        message = "`rope_factors_long.weight` and `rope_factors_short.weight` must be present"
        with pytest.raises(ConfigError, match=f"{message}.*give `tensors`, or the path"):
            from_gguf(metadata)
        for tensors in ({}, {"rope_freqs.weight": np.full(48, 2.0, F32)}):
            with pytest.raises(
                ConfigError,
                match=f"{message}.*got no such tensor; the frequencies are not known without",
            ):
                from_gguf(metadata, tensors=tensors)
        rope = from_gguf(metadata, tensors=phi_3_factors())
        assert rope == from_gguf(
            metadata | {f"{architecture}.rope.scaling.type": "longrope"}, tensors=phi_3_factors()
        )
        per = phi_3_factors()["rope_factors_long.weight"].astype(float)
        agrees_with_ggml(rope, per=per, factor=rope.attention_factor)


def test_phi_3_as_it_was_trained_has_no_factors():
    metadata = PHI_3 | of("phi3", context_length=4096)
    del metadata["phi3.rope.scaling.attn_factor"]
    assert from_gguf(metadata).scaling == scaling.Default()
    phi_4 = of("phi3", context_length=16_384, attention__key_length=128, rope__freq_base=250_000.0)
    assert from_gguf(phi_4).scaling == scaling.Default()


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        (plain_of("minicpm3", context_length=32_768), "rope_factors_long"),
        (plain_of("exaone", context_length=32_768, rope__freq_base=1e6), "rope_freqs"),
        (plain_of("exaone4", context_length=131_072, rope__freq_base=1e6), "rope_freqs"),
        (plain_of("exaone-moe", context_length=131_072, rope__freq_base=1e6), "rope_freqs"),
        (plain_of("apertus", context_length=65_536, rope__freq_base=12e6), "rope_freqs"),
        (LLAMA_31, "rope_freqs"),
        (plain_of("deci", context_length=131_072, rope__freq_base=5e5), "rope_freqs"),
    ],
    ids=lambda value: value["general.architecture"] if isinstance(value, dict) else None,
)
def test_factors_without_a_key_are_required(metadata, name):
    with pytest.raises(ConfigError, match=rf"`{name}.*must be present.*write tensors=\{{\}} if"):
        from_gguf(metadata)
    assert from_gguf(metadata, tensors={}).scaling == scaling.Default()


# --- the same model by its configuration -------------------------------------------------------

LONG = {
    "short_factor": np.linspace(1.0, 2.0, 32).tolist(),
    "long_factor": np.geomspace(1.0, 32.0, 32).tolist(),
}
ROPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "longrope": LONG | {"original_max_position_embeddings": 4096},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 4096},
}
YARNS = {
    "betas": {"beta_fast": 16.0, "beta_slow": 2.0},
    "extrapolation": {"extrapolation_factor": 0.5},
    "no ramp": {"extrapolation_factor": 0.0},
    "attention": {"attention_factor": 2.0},
    "attn": {"attn_factor": 2.0},
    **{
        f"mscale {mscale} {all_dim}": {"mscale": mscale, "mscale_all_dim": all_dim}
        for mscale in (1.0, 0.707, 0.5)
        for all_dim in (1.0, 0.707, 0.0)
    },
}
# Model types of transformers, and the architecture that llama.cpp's converter makes of each.
ARCHITECTURES = {
    **dict.fromkeys(("llama", "mistral"), "llama"),
    **{name: name for name in ("apertus", "arcee", "granite", "smollm3", "exaone4")},
    **{name: name for name in ("gemma", "gemma2", "olmo", "olmo2", "olmoe", "nemotron", "glm4")},
    **{name: name for name in ("qwen2", "qwen3", "phi3", "phimoe", "seed_oss", "dots1", "bitnet")},
    "ministral3": "mistral3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
    "gpt_neox": "gptneox",
    "phi": "phi2",
    "cohere": "command-r",
    "ernie4_5": "ernie4_5",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "youtu"), "deepseek2"),
    "deepseek_v32": "deepseek32",
    "glm_moe_dsa": "glm-dsa",
    "mistral4": "mistral4",
}
LATENT = {"deepseek2", "deepseek32", "glm-dsa", "mistral4"}
# Converters that write the tensor of Llama 3.1, and those that write Phi 3's.
LLAMA_3 = {"llama", "apertus", "arcee", "granite", "smollm3", "exaone4", "mistral3"}


def write_gguf(architecture, rope_type, rope, dim):
    """Metadata and tensors of a configuration, as llama.cpp's converter writes them."""
    values = {"context_length": 131_072, "rope__freq_base": F32(5e5), "rope__dimension_count": dim}
    if architecture in LATENT:
        values |= {"attention__key_length": 512 + dim, "attention__key_length_mla": 128 + dim}
    else:
        values["attention__key_length"] = 64
    tensors = {}
    phi = architecture in ("phi3", "phimoe")
    if rope_type in ("linear", "yarn"):
        values |= {"rope__scaling__type": rope_type, "rope__scaling__factor": F32(rope["factor"])}
    if rope_type == "yarn" or phi:
        length = rope.get("original_max_position_embeddings", 131_072)
        values["rope__scaling__original_context_length"] = length
    if rope_type == "yarn":
        names = {
            "extrapolation_factor": "yarn_ext_factor",
            "attention_factor": "yarn_attn_factor",
            "attn_factor": "yarn_attn_factor",
            "beta_fast": "yarn_beta_fast",
            "beta_slow": "yarn_beta_slow",
        }
        values |= {f"rope__scaling__{names[k]}": F32(v) for k, v in rope.items() if k in names}
        all_dim = rope.get("mscale_all_dim")
        if all_dim is not None and architecture in LATENT | {"mistral3"}:
            tenth = 1.0 if architecture == "mistral3" else 0.1
            values["rope__scaling__yarn_log_multiplier"] = F32(tenth * all_dim)
    if rope_type == "llama3" and architecture in LLAMA_3:
        tensors = llama_3_factors(dim=dim)
    if rope_type == "longrope":
        tensors = {
            f"rope_factors_{name}.weight": np.array(rope[f"{name}_factor"], F32)
            for name in ("short", "long")
        }
        stretch = 131_072 / rope["original_max_position_embeddings"]
        factor = math.sqrt(1 + math.log(stretch) / math.log(4096))
        values["rope__scaling__attn_factor"] = F32(factor)
    return of(architecture, **values), tensors


def cases():
    """Every architecture with every rope type that its converter writes."""
    for model_type, architecture in ARCHITECTURES.items():
        for rope_type, rope in ROPES.items():
            phi = architecture in ("phi3", "phimoe")
            if (rope_type == "longrope") != phi and (phi or rope_type == "longrope"):
                continue
            if rope_type == "llama3" and architecture not in LLAMA_3:
                continue
            if (rope_type == "yarn") < (architecture == "mistral3"):
                continue  # its converter takes nothing else
            kinds = YARNS if rope_type == "yarn" else {}
            for name, more in {"": {}, **kinds}.items():
                case_name = f"{model_type} {rope_type} {name}"
                yield case_name, model_type, architecture, rope_type, rope | more


def test_a_configuration_and_the_file_made_of_it_agree():
    names = set()
    for name, *arguments in cases():
        names.add(name)
        with case(name):
            check_file_of_configuration(*arguments)
    assert len(names) > 600


def check_file_of_configuration(model_type, architecture, rope_type, rope):
    config = {
        "model_type": model_type,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "head_dim": 64,
        "qk_rope_head_dim": 64,
        "max_position_embeddings": 131_072,
        "rope_parameters": {"rope_type": rope_type, "rope_theta": 5e5, **rope},
    }
    options = checked_options(dialect="llama.cpp", strict=False)
    linear = rope_type == "linear" or rope.get("extrapolation_factor") == 0.0
    if architecture in LATENT and linear:
        # Their graphs multiply the softmax scale all the same.
        with pytest.raises(
            ConfigError, match="`rope_parameters.factor` must be 1 unless the scaling type is yarn"
        ):
            make_embedding(read_layer_keys(config, options))
        with pytest.raises(
            ConfigError, match="rope.scaling.factor` must be 1 unless the scaling type is yarn"
        ):
            from_gguf(write_gguf(architecture, rope_type, rope, 64)[0])
        return
    by_config = make_embedding(read_layer_keys(config, options))
    metadata, tensors = write_gguf(architecture, rope_type, rope, by_config.rotary_dim)
    value = by_config.attention_factor
    if "attention_factor" in rope or "attn_factor" in rope:
        # llama.cpp does not read this key of its converter: the file is unclear, and the call decides.
        with pytest.raises(
            ConfigError, match="yarn_attn_factor` must be left out .* llama.cpp does not read"
        ):
            from_gguf(metadata, tensors=tensors)
        by_file = from_gguf(metadata, tensors=tensors, attention_factor=value)
        assert value == pytest.approx(0.1 * math.log(4) + 1)
    elif architecture == "glm-dsa" and rope.get("mscale_all_dim"):
        with pytest.raises(ConfigError, match="yarn_log_multiplier"):
            from_gguf(metadata, tensors=tensors)
        return
    else:
        by_file = from_gguf(metadata, tensors=tensors)
    for length in (1024, 131_072):
        one, other = by_config.at_length(length), by_file.at_length(length)
        np.testing.assert_allclose(one.inv_freq, other.inv_freq, rtol=1e-6)
        assert one.attention_factor == pytest.approx(other.attention_factor, rel=1e-6)
        assert one.softmax_factor == pytest.approx(other.softmax_factor, rel=1e-6)


def test_unknown_models_with_latent_attention_are_read_as_deepseek():
    rope = ROPES["yarn"] | {"rope_type": "yarn", "rope_theta": 5e5, "mscale_all_dim": 0.707}
    config = {
        "model_type": "mystery",
        "qk_rope_head_dim": 64,
        "max_position_embeddings": 16_384,
        "rope_parameters": rope,
    }
    rope = rotary.from_config(config, layout="half", dialect="llama.cpp")
    assert rope.attention_factor == 1.0
    assert rope.softmax_factor == pytest.approx((0.0707 * math.log(4) + 1) ** 2)


def test_ministral_3_is_not_scaled_twice():
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16_384,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    config = {
        "model_type": "ministral3",
        "hidden_size": 3072,
        "num_attention_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rope_parameters": rope,
    }
    for dialect in ("transformers", "llama.cpp"):
        rope = rotary.from_config(config, dialect=dialect)
        assert (rope.attention_factor, rope.softmax_factor) == (1.0, 1.0)
    shown = rotary.compare_dialects(config).differences.get("attention_factor", {})
    assert shown.get("llama.cpp") == shown.get("transformers")


# --- keys --------------------------------------------------------------------------------------


def test_legacy_scale():
    metadata = SMOLLM2 | of("llama", rope__scale_linear=F32(4.0))
    assert from_gguf(metadata).scaling == scaling.Linear(4)
    same = metadata | of("llama", rope__scaling__factor=F32(4.0))
    assert from_gguf(same).scaling == scaling.Linear(4)
    with pytest.raises(ConfigError, match=r"`llama.rope.scale_linear` must be.*got 4.0"):
        from_gguf(metadata | of("llama", rope__scaling__factor=2.0))


def test_a_factor_is_ignored_if_the_type_is_none():
    metadata = of("llama", rope__scaling__type="none", rope__scaling__factor=8.0)
    assert from_gguf(SMOLLM2 | metadata).scaling == scaling.Default()


def test_a_factor_of_zero_is_no_factor():
    metadata = SMOLLM2 | of("llama", rope__scaling__factor=0.0)
    assert from_gguf(metadata).scaling == scaling.Default()


def test_no_ramp_is_linear():
    metadata = QWEN_2_YARN | of("qwen2", rope__scaling__yarn_ext_factor=0.0)
    assert from_gguf(metadata).scaling == scaling.Linear(4)


def test_a_partial_ramp():
    metadata = QWEN_2_YARN | of("qwen2", rope__scaling__yarn_ext_factor=0.5)
    agrees_with_ggml(from_gguf(metadata), scale=1 / 4, ext=0.5, factor=1.0, original=32_768)


def test_yarn_falls_back_to_the_context_length():
    metadata = {k: v for k, v in QWEN_2_YARN.items() if "original" not in k}
    assert from_gguf(metadata).scaling.original_max_position == 131_072


def test_attn_factor_of_a_file_and_of_a_call():
    metadata = QWEN_2_YARN | of("qwen2", rope__scaling__attn_factor=F32(2.0))
    assert from_gguf(metadata).attention_factor == pytest.approx(2 * 1.138629436)
    assert from_gguf(metadata, attention_factor=1.25).attention_factor == 1.25


def test_yarn_attn_factor_that_llama_cpp_does_not_read_is_refused():
    metadata = QWEN_2_YARN | of("qwen2", rope__scaling__yarn_attn_factor=F32(1.0))
    with pytest.raises(
        ConfigError, match=r"yarn_attn_factor.*attention_factor=1.0 or attention_factor=1.1386"
    ):
        from_gguf(metadata)
    assert from_gguf(metadata, attention_factor=1.0).attention_factor == 1.0
    same = QWEN_2_YARN | of("qwen2", rope__scaling__yarn_attn_factor=F32(0.1 * math.log(4) + 1))
    assert from_gguf(same) == from_gguf(QWEN_2_YARN)


def test_context_length_of_the_call():
    assert from_gguf(SMOLLM2, context_length=99).context_length == 99


def test_layout_of_the_call():
    assert from_gguf(SMOLLM2, layout="half").layout == "half"


def test_unknown_architecture_needs_a_layout():
    metadata = of("mystery", attention__key_length=64)
    with pytest.raises(
        ConfigError, match=r"`layout` must be given.*`general.architecture` 'mystery'"
    ):
        from_gguf(metadata)
    assert from_gguf(metadata, layout="half").head_dim == 64


def test_width_without_a_head():
    assert from_gguf(of("qwen2", rope__dimension_count=128)).head_dim == 128


def test_heads_by_layer():
    metadata = of("openelm", embedding_length=1280, attention__head_count=[20, 20, 24])
    assert from_gguf(metadata).head_dim == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope__dimensions": 64}, r"`llama.rope.dimensions` is not a known key"),
        ({"rope__scaling__yarn_gamma": 1.0}, r"`llama.rope.scaling.yarn_gamma` is not a known key"),
        ({"rope__freq_base": math.nan}, r"`llama.rope.freq_base` must be finite, got nan"),
        ({"rope__freq_base": -1.0}, r"`llama.rope.freq_base` must be positive, got -1.0"),
        ({"rope__freq_base": "much"}, r"`llama.rope.freq_base` must be a real number, got 'much'"),
        (
            {"rope__freq_base": 0.5, "rope__scaling__type": "yarn", "rope__scaling__factor": 2.0},
            "do not describe a rotation",
        ),
        ({"rope__dimension_count": 63}, r"`llama.rope.dimension_count` must be even"),
        ({"rope__dimension_count": 64.5}, r"`llama.rope.dimension_count` must be an integer"),
        (
            {"rope__dimension_count": 32},
            r"`llama.rope.dimension_count` must be 64, because this architecture",
        ),
        (
            {"rope__dimension_count": 128},
            r"`rotary_dim` must be at most head_dim 64, got 128 .*llama.rope.dimension_count",
        ),
        ({"attention__key_length": 2**40}, r"`llama.attention.key_length` must be at most 65536"),
        ({"embedding_length": 577}, r"`llama.embedding_length` must be a multiple of the 9 heads"),
        (
            {"embedding_length": 9 * 2**20},
            r"`head_dim` must be at most 65536 channels, got 1048576 .*llama.embedding_length",
        ),
        ({"context_length": 0}, r"`llama.context_length` must be at least 1"),
        ({"context_length": 2**64 - 1}, r"`llama.context_length` must be at most 2\*\*53"),
        ({"rope__scaling__type": "ntk"}, r"`llama.rope.scaling.type` must be one of .*'yarn'"),
        (
            {"rope__scaling__type": "yarn"},
            r"`llama.rope.scaling.factor` must be present and positive",
        ),
        ({"rope__scaling__type": "longrope"}, r"`rope_factors_long.weight` and"),
        ({"rope__scaling__yarn_ext_factor": 1.5}, r"yarn_ext_factor` must be at most 1"),
        (
            {"rope__scaling__finetuned": 3.5},
            r"`llama.rope.scaling.finetuned` must be True or False",
        ),
        (
            {"rope__scaling__attn_factor": 1.2},
            r"`llama.rope.scaling.attn_factor` must be 1 without the scaling type yarn or factor tensors",
        ),
        (
            {"rope__dimension_sections": [8, 12, 12, 0]},
            r"`llama.rope.dimension_sections` must be left out",
        ),
        ({"rope__dimension_sections": 3}, r"`llama.rope.dimension_sections` must be a list"),
        (
            {"rope__dimension_sections": [1.5, 2]},
            r"`llama.rope.dimension_sections` must be a list of integers",
        ),
    ],
)
def test_refused_values(values, message):
    with pytest.raises(ConfigError, match=message):
        from_gguf(SMOLLM2 | of("llama", **values))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"`general.architecture` must be the name"),
        ({"general.architecture": 3}, r"`general.architecture` must be the name"),
        (
            SMOLLM2 | {"general.architecture": "qwen2"},
            r"`llama.rope.* is not a key of the architecture",
        ),
        (of("llama"), r"`llama.rope.dimension_count` must be present"),
        (
            of("deepseek2", attention__key_length=192),
            r"`deepseek2.rope.dimension_count` must be present",
        ),
        (
            of("qwen2vl", attention__key_length=128),
            r"`qwen2vl.rope.dimension_sections` must be present",
        ),
        (
            QWEN_2_VL | of("qwen2vl", rope__dimension_sections=[16, 24, 20, 0]),
            "must add up to the 64 channel pairs",
        ),
        (
            of("deepseek4", attention__key_length=512),
            "'deepseek4', which has two kinds",
        ),
        (
            QWEN_2_YARN | of("qwen2", rope__scaling__yarn_log_multiplier=0.1),
            "a tenth of it in others",
        ),
        (
            {k: v for k, v in QWEN_2_YARN.items() if "context_length" not in k},
            r"`qwen2.rope.scaling.original_context_length` must be present for yarn",
        ),
        (
            QWEN_2_YARN | of("qwen2", rope__scaling__yarn_beta_fast=0.5),
            "do not describe a rotation.*beta_fast",
        ),
        (
            QWEN_2_YARN
            | of("qwen2", rope__scaling__yarn_beta_slow=1e-308, rope__scaling__yarn_beta_fast=1.0),
            "do not describe a rotation",
        ),
    ],
)
def test_refused_metadata(metadata, message):
    with pytest.raises(ConfigError, match=message):
        from_gguf(metadata)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"rope_freqs.weight": np.ones(31, F32)}, r"`rope_freqs.weight` must have 32 numbers"),
        ({"rope_freqs.weight": np.zeros(32, F32)}, r"`rope_freqs.weight` must hold positive"),
        ({"rope_freqs.weight": np.ones((2, 16), F32)}, r"`rope_freqs.weight` must have shape"),
        (
            {"rope_factors_long.weight": np.ones(32, F32)},
            r"`rope_factors_short.weight` must be present",
        ),
        (
            phi_3_factors(32) | {"rope_freqs.weight": np.ones(32, F32)},
            r"`rope_freqs.weight` must not be present together",
        ),
    ],
)
def test_refused_tensors(tensors, message):
    with pytest.raises(ConfigError, match=message):
        from_gguf(SMOLLM2, tensors=tensors)


def test_factors_and_yarn_are_refused():
    with pytest.raises(ConfigError, match="must not be present together with yarn"):
        from_gguf(QWEN_2_YARN, tensors=phi_3_factors(64))


def test_longrope_needs_a_length():
    metadata = {k: v for k, v in PHI_3.items() if k != "phi3.context_length"}
    with pytest.raises(ConfigError, match=r"`phi3.context_length` must be present or given"):
        from_gguf(metadata, tensors=phi_3_factors())


def test_longrope_without_attn_factor():
    metadata = {k: v for k, v in PHI_3.items() if "attn_factor" not in k}
    rope = from_gguf(metadata, tensors=phi_3_factors())
    assert rope.attention_factor == 1.0
    assert (
        from_gguf(metadata, tensors=phi_3_factors(), attention_factor=1.5).attention_factor == 1.5
    )


def test_arguments_are_checked():
    with pytest.raises(
        TypeError, match="`metadata` must be a mapping, a path or a GGUFReader, got int"
    ):
        from_gguf(3)
    with pytest.raises(TypeError, match="`tensors` must be a mapping of names"):
        from_gguf(SMOLLM2, tensors=[1])
    with pytest.raises(TypeError, match="must hold real numbers"):
        from_gguf(SMOLLM2, tensors={"rope_freqs.weight": ["a"] * 32})
    with pytest.raises(ValueError, match="`layer_type` must be one of"):
        from_gguf(SMOLLM2, layer_type="global")
    with pytest.raises(ConfigError, match="`layer_type` must be 'full_attention' or left out"):
        from_gguf(SMOLLM2, layer_type="sliding_attention")
    with pytest.raises(ValueError, match="`layout` must be"):
        from_gguf(SMOLLM2, layout="neox")
    with pytest.raises(TypeError, match="`seq_axis` must be an integer"):
        from_gguf(SMOLLM2, seq_axis="first")
    with pytest.raises(ValueError, match="^`seq_axis` must not be -1"):
        from_gguf(SMOLLM2, seq_axis=-1)
    with pytest.raises(ValueError, match="`attention_factor` must be positive"):
        from_gguf(QWEN_2_YARN, attention_factor=-1)
    with pytest.raises(ConfigError, match="`attention_factor` must be left out"):
        from_gguf(SMOLLM2, attention_factor=1.2)
    with pytest.raises(ValueError, match="`head_dim` must be at least 1"):
        from_gguf(SMOLLM2, head_dim=0)
    with pytest.raises(ValueError, match="`context_length` must be at least 1"):
        from_gguf(SMOLLM2, context_length=0)


def test_every_architecture_has_one_type():
    types = {own.rope_type for own in KNOWN if own.unread is None}
    assert types == {"NORM", "NEOX", "MROPE", "IMROPE", "NONE"}
    assert len(KNOWN) > 140


# --- readers -----------------------------------------------------------------------------------


class Field:
    """A field as gguf-py's reader has it."""

    def __init__(self, value):
        self._value = value

    def contents(self):
        return self._value


@pytest.mark.parametrize("metadata", [SMOLLM2, QWEN_2_YARN, QWEN_2_VL, DEEPSEEK_V3])
@pytest.mark.parametrize(
    "form",
    [
        Field,
        lambda value: value if isinstance(value, str) else np.asarray(value),
        lambda value: [value] if np.ndim(value) == 0 else tuple(value),
        lambda value: value.encode() if isinstance(value, str) else value,
        lambda value: str(value.tolist() if np.ndim(value) else value),
    ],
    ids=["fields", "arrays", "lists", "bytes", "strings"],
)
def test_values_of_any_reader(metadata, form):
    assert from_gguf({key: form(value) for key, value in metadata.items()}) == from_gguf(metadata)


def test_heads_by_layer_as_a_string():
    metadata = of("deci", embedding_length=8192, attention__head_count="[64, 64, 0]")
    assert from_gguf(metadata).head_dim == 128


def test_booleans_as_strings():
    metadata = of("granite", attention__key_length=64, rope__scaling__finetuned="false")
    assert from_gguf(metadata) is None


def test_metadata_are_not_changed():
    before = dict(QWEN_2_VL)
    from_gguf(QWEN_2_VL)
    assert all(QWEN_2_VL[key] is value for key, value in before.items())


TYPES = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(value):
    """A value after the number of its type."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        inner = [typed(item) for item in value]
        items = b"".join(item[4:] for item in inner)
        return struct.pack("<I", 9) + inner[0][:4] + struct.pack("<Q", len(value)) + items
    value = value.item() if isinstance(value, np.generic) else value
    number, form = TYPES[type(value)]
    return struct.pack("<I", number) + struct.pack(form, value)


def gguf_file(metadata, tensors=(), *, version=3, kind=0):
    """The bytes of a GGUF file."""
    tensors = dict(tensors)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += text(key) + typed(value.tolist() if isinstance(value, np.ndarray) else value)
    data, alignment = b"", metadata.get("general.alignment") or 32
    for name, tensor in tensors.items():
        head += text(name) + struct.pack("<IQIQ", 1, len(tensor), kind, len(data))
        data += tensor.astype("<f4").tobytes()
        data += bytes(-len(data) % alignment)
    return head + bytes(-len(head) % alignment) + data


WORDS = {
    "tokenizer.ggml.tokens": ["<s>", "ab", "naïve"],
    "tokenizer.ggml.token_type": [1, 2, 3],
    "tokenizer.ggml.model": "gpt2",
    "general.tags": ["a", "b"],
}


@pytest.mark.parametrize("alignment", [{}, {"general.alignment": 64}])
@pytest.mark.parametrize(
    ("metadata", "tensors"),
    [(SMOLLM2, {}), (LLAMA_31, llama_3_factors()), (PHI_3, phi_3_factors()), (QWEN_2_VL, {})],
    ids=["smollm2", "llama 3.1", "phi 3", "qwen2-vl"],
)
def test_path(tmp_path, metadata, tensors, alignment):
    path = tmp_path / "model.gguf"
    others = {"output.weight": np.arange(5.0)}
    path.write_bytes(gguf_file(WORDS | metadata | alignment, others | tensors))
    assert from_gguf(path) == from_gguf(str(path)) == from_gguf(metadata, tensors=tensors)


def test_tensors_are_refused_for_a_path(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(SMOLLM2))
    with pytest.raises(ValueError, match="`tensors` must be left out"):
        from_gguf(path, tensors={})
    path.write_bytes(gguf_file(LLAMA_31))
    assert from_gguf(path).scaling == scaling.Default()


def test_a_part_of_a_split_file_may_lack_a_tensor(tmp_path):
    path = tmp_path / "model-00002-of-00003.gguf"
    path.write_bytes(gguf_file(LLAMA_31 | {"split.count": 3}))
    with pytest.raises(ConfigError, match=r"`rope_freqs.weight` must be present"):
        from_gguf(path)


def test_truncated_files_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    whole = gguf_file(WORDS | LLAMA_31, llama_3_factors())
    for end in [*range(0, 420, 7), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(ConfigError, match="must be a GGUF file"):
            from_gguf(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(40), "does not begin with GGUF"),
        (gguf_file(SMOLLM2, version=1), "is of version 1"),
        (gguf_file(SMOLLM2, version=3 << 24), "has .* keys, more than 65536"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 99),
            "unknown type 99",
        ),
        (
            b"GGUF"
            + struct.pack("<IQQ", 3, 0, 1)
            + text("a")
            + struct.pack("<IIQ", 9, 9, 1) * 5000,
            "has a list of lists",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + (text("a") + typed(1)) * 2,
            "has `a` twice",
        ),
        (
            b"GGUF"
            + struct.pack("<IQQ", 3, 2, 0)
            + (text("a") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2,
            "has the tensor `a` twice",
        ),
        *(
            (
                b"GGUF"
                + struct.pack("<IQQ", 3, 1, 0)
                + text("rope_freqs.weight")
                + struct.pack("<IQIQ", 1, 32, 0, offset)
                + bytes(200),
                "ends in the middle",
            )
            for offset in (2**63 - 32, 2**64 - 32)
        ),
        (gguf_file({"general.alignment": 0}), "`general.alignment` 0"),
        (
            gguf_file(LLAMA_31, llama_3_factors(), kind=1),
            "`rope_freqs.weight` of .* must be float32",
        ),
    ],
    ids=[
        *(
            "zip",
            "old",
            "other order",
            "type",
            "nested",
            "key twice",
            "tensor twice",
            "far",
            "farther",
        ),
        *("alignment", "half"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        from_gguf(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_gguf(tmp_path / "none.gguf")


# --- sweeps ------------------------------------------------------------------------------------

NUMBER = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, 4.0, 32.0, 0.5, -1.0, math.nan, math.inf, "x", None, True]),
    st.floats(2.0**-6, 1e6, width=32),
)
KEYS = [
    *("freq_base", "scale_linear", "scaling.factor", "scaling.original_context_length"),
    *("scaling.attn_factor", "scaling.yarn_ext_factor", "scaling.yarn_attn_factor"),
    *("scaling.yarn_beta_fast", "scaling.yarn_beta_slow", "scaling.yarn_log_multiplier"),
    *("dimension_count", "freq_base_swa", "scaling.alpha", "dimension_sections"),
]


@given(
    architecture=st.sampled_from(["qwen2", "llama", "deepseek2", "gemma3", "mistral3", "qwen2vl"]),
    kind=st.sampled_from([None, "none", "linear", "yarn", "longrope", 3]),
    values=st.dictionaries(st.sampled_from(KEYS), NUMBER, max_size=4),
    tensors=st.sampled_from([None, {}, llama_3_factors(), phi_3_factors(64)]),
)
def test_anything_is_read_or_refused(architecture, kind, values, tensors):
    metadata = of(architecture, context_length=32_768, attention__key_length=128)
    metadata |= {f"{architecture}.rope.{name}": value for name, value in values.items()}
    if kind is not None:
        metadata[f"{architecture}.rope.scaling.type"] = kind
    with contextlib.suppress(ConfigError):
        rope = from_gguf(metadata, tensors=tensors)
        assert np.isfinite(rope.inv_freq).all()
        assert rope.attention_factor > 0
        assert architecture in rope.explain()


@given(
    base=st.floats(100.0, 1e7, width=32),
    factor=st.floats(1.0, 64.0, width=32),
    original=st.integers(2048, 65_536),
    ext=st.sampled_from([0.0, 0.25, 1.0]),
    attn=st.floats(0.5, 2.0, width=32),
    dim=st.sampled_from([64, 128]),
)
def test_yarn_equals_ggml(base, factor, original, ext, attn, dim):
    metadata = of(
        "qwen2",
        attention__key_length=128,
        rope__dimension_count=dim,
        rope__freq_base=base,
        rope__scaling__type="yarn",
        rope__scaling__factor=factor,
        rope__scaling__original_context_length=original,
        rope__scaling__yarn_ext_factor=ext,
        **({"rope__scaling__attn_factor": attn} if ext else {}),
    )
    rope = from_gguf(metadata)
    # llama.cpp divides by the same factor that ggml multiplies by.
    passed = attn if ext else 1.0
    agrees_with_ggml(rope, scale=1 / factor, ext=ext, factor=passed, original=original)
