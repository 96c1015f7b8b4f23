"""How the models of transformers rotate: their own modules and functions, against specifications written out.

Each family is one function that runs the model's code, under a decorator that holds the specification a user
would write, and the specifications that must not agree. Their code computes angles in float32; run in
float64 it shows what it means.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import random_array

import rotary
from rotary import RotaryEmbedding, sections
from rotary.scaling import NTK, Custom, Llama3, LongRope, Periods, Proportional, Yarn

pytestmark = pytest.mark.oracle

LENGTH = 15  # of every sequence; three rows of five patches
FAR = "far"  # positions of which float32 keeps too little to compare


# ------------------------------------------------------------------------------------------------
# Positions. Those of text are (2, S), of several axes (axes, 2, S); an image is one sequence, (axes, S).


def text(last):
    """Rows that start apart, rows padded on the left, and positions up to thousands and to `last`."""
    mask = np.arange(LENGTH) >= np.array([[0], [4]])
    return {
        "offset rows": np.arange(LENGTH) + np.array([[0], [37]]),
        "left padded": np.where(mask, mask.cumsum(axis=1) - 1, 1),
        "thousands": spread(min(last, 4095)),
        FAR: spread(last),
    }


def spread(last):
    """Rows from `last` downwards and up to it."""
    row = last - np.arange(LENGTH) * (last // 37)
    return np.stack([row, row[::-1]])


def late(last):
    """Rows that each reach far enough for what depends on the largest position."""
    return {"thousands": spread(8191), FAR: spread(last)}


def grids(axes, last):
    """A prompt in which text, all axes equal, is followed by an image; and positions up to `last`."""
    words = np.broadcast_to(np.arange(6), (axes, 6))
    time, *space = np.zeros((axes, 9), dtype=int)
    patches = np.stack(
        [time, *(np.indices((3, 3)).reshape(2, 9)[i % 2] for i in range(len(space)))]
    )
    prompt = np.concatenate([words, patches + 6], axis=1)
    far = random_array((axes, 2, LENGTH), "float64", seed=1)
    far = np.round(last / (1 + np.abs(far))).astype(int)
    return {"prompt": np.stack([prompt, prompt + 11], axis=1), FAR: far}


def image(rows=3, columns=5):
    """Rows and columns of patches, (2, S)."""
    return {"patches": np.indices((rows, columns)).reshape(2, -1)}


# ------------------------------------------------------------------------------------------------
# Families.


@dataclasses.dataclass(frozen=True)
class Family:
    """A model's own rotation, and the specification of it."""

    theirs: Callable[..., Any]
    model: str
    ours: Callable[[], RotaryEmbedding]
    others: tuple[dict[str, Any], ...]
    positions: dict[str, np.ndarray]
    shape: str
    config: Callable[[Any], Any] | None
    layer_type: str | None


FAMILIES: dict[str, Family] = {}


def family(model, ours, *, others, positions=None, shape="bhsd", config=None, layer_type=None):
    """Register how a model rotates.

    Parameters
    ----------
    model : str
        The folder of transformers/models.
    ours : callable
        Makes the specification.
    others : sequence of dict
        Changes to it that must show in the result.
    positions : dict of arrays, optional
        Where rows stand, by a name.
    shape : str
        The order of batch, heads, sequence and channels in the model's arrays.
    config : callable, optional
        Makes the configuration out of the model's module, where `rotary.from_config` reads it.
    layer_type : str, optional
        Which layers of the configuration are meant.
    """

    def register(theirs):
        cases = text(1_000_000) if positions is None else positions
        FAMILIES[theirs.__name__] = Family(
            theirs, model, ours, tuple(others), cases, shape, config, layer_type
        )
        return theirs

    return register


# Text. ----------------------------------------------------------------------------------------

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def llama_config(module):
    return module.LlamaConfig(
        hidden_size=512,
        num_attention_heads=8,
        head_dim=64,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 32.0,
            "original_max_position_embeddings": 8192,
            **LLAMA3,
        },
    )


@family(
    "llama",
    lambda: RotaryEmbedding(
        64,
        layout="half",
        base=500_000.0,
        scaling=Llama3(factor=32, original_max_position=8192, **LLAMA3),
    ),
    others=[{"layout": "interleaved"}, {"base": 10_000.0}, {"rotary_dim": 32}, {"scaling": None}],
    config=llama_config,
)
def llama(module, config, q, k, positions):
    cos, sin = module.LlamaRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "gptj",
    lambda: RotaryEmbedding(64, layout="interleaved", base=10_000.0, rotary_dim=16),
    others=[{"layout": "half"}, {"rotary_dim": 64}, {"rotary_start": 16}],
    positions=text(2047),
    shape="bshd",
    config=lambda module: module.GPTJConfig(n_embd=512, n_head=8, rotary_dim=16, n_positions=2048),
)
def gptj(module, config, q, k, positions):
    attention = module.GPTJAttention(config, layer_idx=0)
    return rotated_from_table(
        module, attention.embed_positions[positions].to(q.dtype), attention.rotary_dim, q, k
    )


@family(
    "codegen",
    lambda: RotaryEmbedding(64, layout="interleaved", base=10_000.0, rotary_dim=32),
    others=[{"layout": "half"}, {"rotary_dim": 64}],
    positions=text(2047),
    shape="bshd",
    config=lambda module: module.CodeGenConfig(
        n_embd=512, n_head=8, rotary_dim=32, n_positions=2048
    ),
)
def codegen(module, config, q, k, positions):
    attention = module.CodeGenAttention(config, layer_idx=0)
    return rotated_from_table(
        module, attention.embed_positions[positions].to(q.dtype), attention.rotary_dim, q, k
    )


def rotated_from_table(module, rows, width, q, k):
    """What the attention of GPT-J and CodeGen does with rows of its table, sines first."""
    import torch

    sin, cos = rows.chunk(2, dim=-1)
    return tuple(
        torch.cat([module.apply_rotary_pos_emb(x[..., :width], sin, cos), x[..., width:]], dim=-1)
        for x in (q, k)
    )


@family(
    "gpt_neox",
    lambda: RotaryEmbedding(96, layout="half", base=10_000.0, rotary_dim=24),
    others=[{"layout": "interleaved"}, {"rotary_dim": 96}, {"rotary_start": 24}],
    config=lambda module: module.GPTNeoXConfig(
        hidden_size=768,
        num_attention_heads=8,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.25,
        },
    ),
)
def gpt_neox(module, config, q, k, positions):
    cos, sin = module.GPTNeoXRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


def roformer_config(module):
    return module.RoFormerConfig(
        hidden_size=512, num_attention_heads=8, max_position_embeddings=1536
    )


@family(
    "roformer",
    lambda: RotaryEmbedding(64, layout="interleaved", base=10_000.0),
    others=[{"layout": "half"}, {"base": 100_000.0}],
    positions={"rows": np.broadcast_to(np.arange(LENGTH), (2, LENGTH))},
    config=roformer_config,
)
def roformer(module, config, q, k, positions):
    table = module.RoFormerEncoder(config).embed_positions
    table.weight.data.copy_(table.create_weight())
    rows = table(q.shape[:1] + q.shape[2:3])[None, None].to(q.dtype)
    rotate = module.RoFormerSelfAttention.apply_rotary_position_embeddings
    return rotate(rows, q, k)


@family(
    "cohere",
    lambda: RotaryEmbedding(64, layout="interleaved", base=8_000_000.0),
    others=[{"layout": "half"}, {"base": 10_000.0}],
    config=lambda module: module.CohereConfig(
        hidden_size=512,
        num_attention_heads=8,
        rope_parameters={"rope_type": "default", "rope_theta": 8_000_000.0},
    ),
)
def cohere(module, config, q, k, positions):
    cos, sin = module.CohereRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "glm",
    lambda: RotaryEmbedding(128, layout="interleaved", base=10_000.0, rotary_dim=64),
    others=[{"layout": "half"}, {"rotary_dim": 128}],
    config=lambda module: module.GlmConfig(
        hidden_size=1024,
        num_attention_heads=8,
        head_dim=128,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
        },
    ),
)
def glm(module, config, q, k, positions):
    cos, sin = module.GlmRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


PHI3 = {
    "short_factor": [1 + 0.01 * i for i in range(24)],
    "long_factor": [1 + 1.3 * i for i in range(24)],
}


def phi3_config(module):
    return module.Phi3Config(
        hidden_size=512,
        num_attention_heads=8,
        max_position_embeddings=131_072,
        original_max_position_embeddings=4096,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 4096,
            **PHI3,
        },
    )


def phi3_embedding(context_length):
    return RotaryEmbedding(
        64,
        layout="half",
        base=10_000.0,
        rotary_dim=48,
        scaling=LongRope(**PHI3, original_max_position=4096, max_position=131_072),
        context_length=context_length,
    )


PHI3_OTHERS = [{"layout": "interleaved"}, {"rotary_dim": 48, "rotary_start": 16}]


@family(
    "phi3",
    lambda: phi3_embedding(4096),
    others=[*PHI3_OTHERS, {"context_length": 131_072}],
    positions=text(4095),
)
def phi3_short(module, config, q, k, positions):
    cos, sin = module.Phi3RotaryEmbedding(phi3_config(module))(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "phi3",
    lambda: phi3_embedding(131_072),
    others=PHI3_OTHERS,
    positions=late(131_071),
    config=phi3_config,
)
def phi3_long(module, config, q, k, positions):
    cos, sin = module.Phi3RotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


def gpt_oss_config(module):
    return module.GptOssConfig(
        hidden_size=512,
        num_attention_heads=8,
        head_dim=64,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150_000.0,
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    )


@family(
    "gpt_oss",
    lambda: RotaryEmbedding(
        64,
        layout="half",
        base=150_000.0,
        scaling=Yarn(factor=32, original_max_position=4096, truncate=False),
    ),
    others=[
        {"layout": "interleaved"},
        {"scaling": Yarn(factor=32, original_max_position=4096)},
        {"scaling": Yarn(factor=32, original_max_position=4096, attention_factor=1.0)},
    ],
    config=gpt_oss_config,
)
def gpt_oss(module, config, q, k, positions):
    cos, sin = module.GptOssRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


def deepseek_v3_config(module, *, rope_interleave=True):
    return module.DeepseekV3Config(
        hidden_size=512,
        num_attention_heads=8,
        q_lora_rank=32,
        kv_lora_rank=32,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=16,
        rope_interleave=rope_interleave,
        max_position_embeddings=163_840,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 40.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
        },
    )


DEEPSEEK_YARN = Yarn(factor=40, original_max_position=4096, mscale=1, mscale_all_dim=1)


@family(
    "deepseek_v3",
    lambda: RotaryEmbedding(
        64, layout="interleaved", output_layout="half", base=10_000.0, scaling=DEEPSEEK_YARN
    ),
    others=[{"layout": "half"}, {"output_layout": "interleaved"}, {"scaling": None}],
    config=deepseek_v3_config,
)
def deepseek_v3(module, config, q, k, positions):
    cos, sin = module.DeepseekV3RotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb_interleave(q, k, cos, sin)


@family(
    "deepseek_v3",
    lambda: RotaryEmbedding(
        192,
        layout="interleaved",
        output_layout="half",
        base=10_000.0,
        scaling=DEEPSEEK_YARN,
        rotary_start=128,
    ),
    others=[
        {"layout": "half"},
        {"output_layout": "interleaved"},
        {"rotary_start": 0, "rotary_dim": 64},
    ],
)
def deepseek_v3_whole_heads(module, config, q, k, positions):
    import torch

    # As DeepseekV3Attention does: the last channels turn, all others pass.
    config = deepseek_v3_config(module)
    sizes = [config.qk_nope_head_dim, config.qk_rope_head_dim]
    (q_pass, q), (k_pass, k) = q.split(sizes, dim=-1), k.split(sizes, dim=-1)
    q, k = deepseek_v3(module, config, q, k, positions)
    return torch.cat([q_pass, q], dim=-1), torch.cat([k_pass, k], dim=-1)


@family(
    "deepseek_v3",
    lambda: RotaryEmbedding(64, layout="half", base=10_000.0, scaling=DEEPSEEK_YARN),
    others=[{"layout": "interleaved", "output_layout": "half"}],
    config=lambda module: deepseek_v3_config(module, rope_interleave=False),
)
def deepseek_v3_without_rope_interleave(module, config, q, k, positions):
    cos, sin = module.DeepseekV3RotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


def deepseek_v4_config(module):
    return module.DeepseekV4Config(
        head_dim=128,
        partial_rotary_factor=0.25,
        rope_theta=10_000.0,
        compress_rope_theta=160_000.0,
    )


def deepseek_v4_embedding(base):
    return RotaryEmbedding(128, layout="interleaved", base=base, rotary_start=96)


V4_OTHERS = [
    {"layout": "half", "output_layout": "half"},
    {"output_layout": "half"},
    {"rotary_start": 0, "rotary_dim": 32},
]


def deepseek_v4_rotated(module, config, q, k, positions, layer_type):
    """What its attention does, to queries and to what is key and value in one."""
    embedding = module.DeepseekV4RotaryEmbedding(config)
    cos, sin = embedding(q, positions, layer_type=layer_type)
    return tuple(module.apply_rotary_pos_emb(x, cos, sin) for x in (q, k))


@family(
    "deepseek_v4",
    lambda: deepseek_v4_embedding(10_000.0),
    others=V4_OTHERS,
    config=deepseek_v4_config,
    layer_type="main",
)
def deepseek_v4(module, config, q, k, positions):
    return deepseek_v4_rotated(module, config, q, k, positions, "main")


@family(
    "deepseek_v4",
    lambda: deepseek_v4_embedding(160_000.0),
    others=V4_OTHERS,
    config=deepseek_v4_config,
    layer_type="compress",
)
def deepseek_v4_compressed(module, config, q, k, positions):
    return deepseek_v4_rotated(module, config, q, k, positions, "compress")


def gemma4_config(module):
    return module.Gemma4TextConfig(
        hidden_size=512, num_attention_heads=8, head_dim=64, global_head_dim=128
    )


@family(
    "gemma4",
    lambda: RotaryEmbedding(
        128,
        layout="half",
        base=1_000_000.0,
        scaling=Proportional(partial_rotary_factor=0.25),
    ),
    others=[{"layout": "interleaved"}, {"scaling": None}, {"scaling": None, "rotary_dim": 32}],
    shape="bshd",
    config=gemma4_config,
    layer_type="full_attention",
)
def gemma4_global(module, config, q, k, positions):
    embedding = module.Gemma4TextRotaryEmbedding(config)
    cos, sin = embedding(q, positions, "full_attention")
    return tuple(module.apply_rotary_pos_emb(x, cos, sin, unsqueeze_dim=2) for x in (q, k))


@family(
    "gemma4",
    lambda: RotaryEmbedding(64, layout="half", base=10_000.0),
    others=[{"layout": "interleaved"}, {"base": 1_000_000.0}],
    shape="bshd",
    config=gemma4_config,
    layer_type="sliding_attention",
)
def gemma4_local(module, config, q, k, positions):
    embedding = module.Gemma4TextRotaryEmbedding(config)
    cos, sin = embedding(q, positions, "sliding_attention")
    return tuple(module.apply_rotary_pos_emb(x, cos, sin, unsqueeze_dim=2) for x in (q, k))


@family(
    "llama4",
    lambda: RotaryEmbedding(64, layout="interleaved", base=500_000.0),
    others=[{"layout": "half"}, {"base": 10_000.0}],
    shape="bshd",
    config=lambda module: module.Llama4TextConfig(
        hidden_size=512,
        num_attention_heads=8,
        head_dim=64,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    ),
)
def llama4(module, config, q, k, positions):
    freqs_cis = module.Llama4TextRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_emb(q, k, freqs_cis)


def plain(model, config, rotary_class, ours, *others):
    """Register a model whose module gives cosine and sine, and whose function turns both arrays by them."""

    def theirs(module, config, q, k, positions):
        cos, sin = getattr(module, rotary_class)(config)(q, positions)
        return module.apply_rotary_pos_emb(q, k, cos, sin)

    theirs.__name__ = model
    family(model, ours, others=others, config=config)(theirs)


def ordinary(name):
    """A configuration of eight heads of 64 channels and no more."""
    return lambda module: getattr(module, name)(hidden_size=512, num_attention_heads=8)


plain(
    "ernie4_5",
    ordinary("Ernie4_5Config"),
    "Ernie4_5RotaryEmbedding",
    lambda: RotaryEmbedding(128, layout="interleaved", base=500_000.0),
    {"layout": "half"},
    {"base": 10_000.0},
)
plain(
    "helium",
    lambda module: module.HeliumConfig(
        hidden_size=512,
        num_attention_heads=8,
        head_dim=64,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    ),
    "HeliumRotaryEmbedding",
    lambda: RotaryEmbedding(64, layout="interleaved", base=100_000.0),
    {"layout": "half"},
    {"base": 10_000.0},
)
plain(
    "nemotron",
    lambda module: module.NemotronConfig(
        hidden_size=512,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
        },
    ),
    "NemotronRotaryEmbedding",
    lambda: RotaryEmbedding(64, layout="half", base=10_000.0, rotary_dim=32),
    {"layout": "interleaved"},
    {"rotary_dim": 64},
)
plain(
    "nanochat",
    ordinary("NanoChatConfig"),
    "NanoChatRotaryEmbedding",
    # It turns backwards, that is by negative frequencies.
    lambda: RotaryEmbedding(64, layout="half", scaling=Custom(-rotary.inv_freq(64, base=10_000.0))),
    {"layout": "interleaved"},
    {"scaling": Custom(rotary.inv_freq(64, base=10_000.0))},
)
plain(
    "glmasr",
    lambda module: module.GlmAsrEncoderConfig(hidden_size=512, num_attention_heads=8),
    "GlmAsrRotaryEmbedding",
    lambda: RotaryEmbedding(64, layout="half", base=10_000.0, rotary_dim=32),
    {"layout": "interleaved"},
    {"rotary_dim": 64},
)
plain(
    "pe_audio",
    lambda module: module.PeAudioEncoderConfig(
        hidden_size=512,
        num_attention_heads=8,
        head_dim=64,
        rope_parameters={"rope_type": "default", "rope_theta": 20_000.0},
    ),
    "PeAudioEncoderRotaryEmbedding",
    lambda: RotaryEmbedding(64, layout="interleaved", base=20_000.0),
    {"layout": "half"},
    {"base": 10_000.0},
)


def deepseek_v2_config(module):
    return module.DeepseekV2Config(
        hidden_size=512,
        num_attention_heads=8,
        qk_rope_head_dim=64,
        max_position_embeddings=163_840,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 40.0,
            "mscale": 0.707,
            "mscale_all_dim": 0.5,
            "original_max_position_embeddings": 4096,
        },
    )


@family(
    "deepseek_v2",
    lambda: RotaryEmbedding(
        64,
        layout="interleaved",
        base=10_000.0,
        scaling=Yarn(factor=40, original_max_position=4096, mscale=0.707, mscale_all_dim=0.5),
    ),
    others=[{"layout": "half"}, {"output_layout": "half"}, {"scaling": DEEPSEEK_YARN}],
    config=deepseek_v2_config,
)
def deepseek_v2(module, config, q, k, positions):
    # The part of each head that turns; unlike V3's it is written as it was read.
    freqs_cis = module.DeepseekV2RotaryEmbedding(config)(q, positions)
    return module.apply_rotary_emb(q, k, freqs_cis)


# Speech. --------------------------------------------------------------------------------------


@family(
    "wav2vec2_conformer",
    lambda: RotaryEmbedding(64, layout="half", base=10_000.0),
    others=[{"layout": "interleaved"}, {"rotary_dim": 32}],
    positions={"rows": np.broadcast_to(np.arange(LENGTH), (2, LENGTH))},
    shape="bshd",
    config=lambda module: module.Wav2Vec2ConformerConfig(
        hidden_size=512, num_attention_heads=8, position_embeddings_type="rotary"
    ),
)
def wav2vec2_conformer(module, config, q, k, positions):
    # Turned before the projections: the hidden states themselves, as heads of the width that they will have.
    table = module.Wav2Vec2ConformerRotaryPositionalEmbedding(config)(q.flatten(-2))
    rotated = []
    for x in (q, k):
        attention = module.Wav2Vec2ConformerSelfAttention(config)
        attention.num_heads = x.shape[2]
        rotated.append(attention._apply_rotary_embedding(x.flatten(-2), table).reshape(x.shape))
    return rotated


@family(
    "moonshine",
    lambda: RotaryEmbedding(36, layout="interleaved", base=10_000.0, rotary_dim=32),
    others=[{"layout": "half"}, {"rotary_dim": 36}],
    config=lambda module: module.MoonshineConfig(
        hidden_size=288, encoder_num_attention_heads=8, decoder_num_attention_heads=8
    ),
)
def moonshine(module, config, q, k, positions):
    cos, sin = module.MoonshineRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "mimi",
    lambda: RotaryEmbedding(64, layout="half", base=10_000.0),
    others=[{"layout": "interleaved"}, {"base": 100_000.0}],
    config=lambda module: module.MimiConfig(hidden_size=512, num_attention_heads=8, head_dim=64),
)
def mimi(module, config, q, k, positions):
    cos, sin = module.MimiRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "qwen2_5_omni",
    lambda: RotaryEmbedding(64, layout="interleaved", output_layout="half", base=10_000.0),
    others=[{"layout": "half"}, {"output_layout": "interleaved"}],
)
def qwen2_5_omni_vocoder(module, config, q, k, positions):
    # Its attention turns the first head alone; here every one, which is a matter of slicing.
    config = module.Qwen2_5OmniDiTConfig(hidden_size=512, num_attention_heads=8, head_dim=64)
    cos, sin = module.Qwen2_5OmniDiTRotaryEmbedding(config)(q, positions)
    q, k = module.deinterleave_head_dim(q), module.deinterleave_head_dim(k)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


# Text and images. -----------------------------------------------------------------------------


def mrope(base, sizes, **more):
    """Parameters of a configuration with several position axes."""
    return {"rope_type": "default", "rope_theta": base, "mrope_section": list(sizes), **more}


@family(
    "qwen2_vl",
    lambda: RotaryEmbedding(
        128, layout="half", base=1_000_000.0, sections=sections.chunked(16, 24, 24)
    ),
    others=[
        {"layout": "interleaved"},
        {"sections": sections.chunked(24, 20, 20)},
        {"sections": sections.interleaved(24, 20, 20)},
    ],
    positions=grids(3, 32_767),
    config=lambda module: module.Qwen2VLTextConfig(
        hidden_size=1024,
        num_attention_heads=8,
        rope_parameters=mrope(1_000_000.0, (16, 24, 24)),
    ),
)
def qwen2_vl(module, config, q, k, positions):
    cos, sin = module.Qwen2VLRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "qwen3_vl",
    lambda: RotaryEmbedding(
        128, layout="half", base=5_000_000.0, sections=sections.interleaved(24, 20, 20)
    ),
    others=[
        {"layout": "interleaved"},
        {"sections": sections.chunked(24, 20, 20)},
        {"sections": sections.ernie(20, 20, 24)},
    ],
    positions=grids(3, 262_143),
    config=lambda module: module.Qwen3VLTextConfig(
        hidden_size=1024,
        num_attention_heads=8,
        head_dim=128,
        rope_parameters=mrope(5_000_000.0, (24, 20, 20), mrope_interleaved=True),
    ),
)
def qwen3_vl(module, config, q, k, positions):
    cos, sin = module.Qwen3VLTextRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "ernie4_5_vl_moe",
    lambda: RotaryEmbedding(
        128, layout="interleaved", base=500_000.0, sections=sections.ernie(22, 22, 20)
    ),
    others=[
        {"layout": "half"},
        {"sections": sections.chunked(20, 22, 22)},
        {"sections": sections.openpangu(20, 22, 22)},
    ],
    positions=grids(3, 131_071),
    config=lambda module: module.Ernie4_5_VLMoeTextConfig(
        hidden_size=1024,
        num_attention_heads=8,
        rope_parameters=mrope(500_000.0, (22, 22, 20)),
    ),
)
def ernie4_5_vl(module, config, q, k, positions):
    cos, sin = module.Ernie4_5_VLMoeTextRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "glm4v",
    lambda: RotaryEmbedding(
        128,
        layout="interleaved",
        base=10_000.0,
        rotary_dim=64,
        sections=sections.chunked(8, 12, 12),
    ),
    others=[
        {"layout": "half"},
        {"rotary_dim": 128, "sections": sections.chunked(16, 24, 24)},
        {"sections": sections.glm_interleaved(8, 12, 12)},
    ],
    positions=grids(3, 65_535),
    config=lambda module: module.Glm4vTextConfig(
        hidden_size=1024,
        num_attention_heads=8,
        rope_parameters=mrope(10_000.0, (8, 12, 12), partial_rotary_factor=0.5),
    ),
)
def glm4v(module, config, q, k, positions):
    cos, sin = module.Glm4vTextRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "qwen2_5_omni",
    lambda: RotaryEmbedding(
        128, layout="half", base=1_000_000.0, sections=sections.chunked(16, 24, 24)
    ),
    others=[{"layout": "interleaved"}, {"sections": sections.interleaved(24, 20, 20)}],
    positions=grids(3, 32_767),
    config=lambda module: module.Qwen2_5OmniTextConfig(
        hidden_size=1024,
        num_attention_heads=8,
        rope_parameters=mrope(1_000_000.0, (16, 24, 24)),
    ),
)
def qwen2_5_omni(module, config, q, k, positions):
    cos, sin = module.Qwen2_5OmniRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "hunyuan_vl",
    lambda: RotaryEmbedding(
        128,
        layout="half",
        base=10_000.0,
        scaling=NTK(alpha=1000),
        sections=sections.chunked(16, 16, 16, 16),
        quirk="hunyuan_vl",
    ),
    others=[
        {"quirk": None},
        {"sections": sections.chunked(8, 24, 16, 16)},
        {"scaling": None},
    ],
    positions=grids(4, 32_767),
    config=lambda module: module.HunYuanVLTextConfig(
        hidden_size=1024,
        num_attention_heads=8,
        head_dim=128,
        rope_parameters={
            "rope_type": "xdrope",
            "rope_theta": 10_000.0,
            "factor": 1.0,
            "alpha": 1000.0,
            "xdrope_section": [16, 16, 16, 16],
        },
    ),
)
def hunyuan_vl(module, config, q, k, positions):
    cos, sin = module.HunYuanVLRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "glm4v_moe",
    lambda: RotaryEmbedding(
        128, layout="half", base=10_000.0, rotary_dim=64, sections=sections.chunked(8, 12, 12)
    ),
    others=[{"layout": "interleaved"}, {"sections": sections.glm_interleaved(8, 12, 12)}],
    positions=grids(3, 65_535),
    config=lambda module: module.Glm4vMoeTextConfig(
        hidden_size=1024,
        num_attention_heads=8,
        rope_parameters=mrope(10_000.0, (8, 12, 12), partial_rotary_factor=0.5),
    ),
)
def glm4v_moe(module, config, q, k, positions):
    # Half, where glm4v's pairs are interleaved.
    cos, sin = module.Glm4vMoeTextRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "qwen3_5",
    lambda: RotaryEmbedding(
        256,
        layout="half",
        base=10_000_000.0,
        rotary_dim=64,
        sections=sections.interleaved(11, 11, 10),
    ),
    others=[
        {"layout": "interleaved"},
        {"sections": sections.chunked(11, 11, 10)},
        {"rotary_start": 64},
    ],
    positions=grids(3, 262_143),
    config=lambda module: module.Qwen3_5TextConfig(
        hidden_size=1024,
        num_attention_heads=4,
        head_dim=256,
        rope_parameters=mrope(
            10_000_000.0, (11, 11, 10), mrope_interleaved=True, partial_rotary_factor=0.25
        ),
    ),
)
def qwen3_5(module, config, q, k, positions):
    cos, sin = module.Qwen3_5TextRotaryEmbedding(config)(q, positions)
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "neomme",
    lambda: RotaryEmbedding(
        64,
        layout="half",
        base=10_000.0,
        sections=sections.axial(16, 16, schedule="split", order="alternating"),
    ),
    others=[
        {"layout": "interleaved"},
        {"sections": sections.axial(16, 16, order="alternating")},
        {"sections": sections.axial(16, 16, schedule="split")},
    ],
    positions=grids(2, 8191),
)
def neomme(module, config, q, k, positions):
    layer = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    config = module.NeoMMEConfig(
        head_dim=64, rope_parameters={"full_attention": layer, "sliding_attention": dict(layer)}
    )
    embedding = module.NeoMMERotaryEmbedding(config)
    cos, sin = embedding(q, positions, layer_type="full_attention")
    return module.apply_rotary_pos_emb(q, k, cos, sin)


# Images and video. ----------------------------------------------------------------------------


def vision_embedding():
    """Of the image towers that read H W H W."""
    return RotaryEmbedding(64, layout="half", base=10_000.0, sections=sections.axial(16, 16))


VISION_OTHERS = [
    {"layout": "interleaved"},
    {"sections": sections.chunked(16, 16)},
    {"sections": sections.axial(16, 16, pairing="within")},
    {"sections": sections.axial(16, 16, schedule="split")},
    {"sections": sections.axial(16, 16, order="alternating")},
]


def rotated_patches(module, embedding, q, k, positions):
    """What the attention of an image tower does."""
    cos, sin = embedding(q, positions.T)
    return module.apply_rotary_pos_emb_vision(q, k, cos, sin)


def vision_family(model):
    return family(model, vision_embedding, others=VISION_OTHERS, positions=image(), shape="bshd")


@vision_family("qwen2_vl")
def qwen2_vl_vision(module, config, q, k, positions):
    config = module.Qwen2VLVisionConfig(embed_dim=512, num_heads=8)
    embedding = module.Qwen2VLVisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions)


@vision_family("qwen3_vl")
def qwen3_vl_vision(module, config, q, k, positions):
    config = module.Qwen3VLVisionConfig(hidden_size=512, num_heads=8)
    embedding = module.Qwen3VLVisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions)


@vision_family("ernie4_5_vl_moe")
def ernie4_5_vl_vision(module, config, q, k, positions):
    config = module.Ernie4_5_VLMoeVisionConfig(hidden_size=512, num_heads=8)
    embedding = module.Ernie4_5_VLMoeVisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions)


@vision_family("glm4v")
def glm4v_vision(module, config, q, k, positions):
    config = module.Glm4vVisionConfig(hidden_size=512, num_heads=8)
    embedding = module.Glm4vVisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions)


@vision_family("qwen2_5_omni")
def qwen2_5_omni_vision(module, config, q, k, positions):
    config = module.Qwen2_5OmniVisionEncoderConfig(hidden_size=512, num_heads=8)
    embedding = module.Qwen2_5OmniVisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions)


@family(
    "kimi_k25",
    lambda: RotaryEmbedding(
        64,
        layout="half",
        base=10_000.0,
        sections=sections.axial(16, 16, order="alternating"),
    ),
    others=[
        {"layout": "interleaved"},
        {"sections": sections.axial(16, 16)},
        {"sections": sections.interleaved(16, 16)},
    ],
    positions=image(),
    shape="bshd",
)
def kimi_k25_vision(module, config, q, k, positions):
    # Its positions are rows and columns, of which its channel pairs read the column first: here x, then y.
    config = module.Kimi_K25VisionConfig(hidden_size=512, num_attention_heads=8)
    embedding = module.Kimi_K25VisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions.flip(0))


@family(
    "pixtral",
    lambda: RotaryEmbedding(
        64, layout="half", base=10_000.0, sections=sections.axial(16, 16, schedule="split")
    ),
    others=[
        {"layout": "interleaved"},
        {"sections": sections.axial(16, 16)},
        {"sections": sections.chunked(16, 16)},
        {"sections": sections.axial(16, 16, schedule="split", order="alternating")},
    ],
    positions=image(),
)
def pixtral(module, config, q, k, positions):
    config = module.PixtralVisionConfig(hidden_size=512, num_attention_heads=8)
    cos, sin = module.PixtralVisionRotaryEmbedding(config)(q, positions.T)
    return module.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=0)


@family(
    "gemma4",
    lambda: RotaryEmbedding(
        64,
        layout="half",
        base=100.0,
        sections=sections.axial(16, 16, pairing="within"),
    ),
    others=[
        {"layout": "interleaved"},
        {"sections": sections.axial(16, 16)},
        {"sections": sections.chunked(16, 16)},
    ],
    positions=image(),
    shape="bshd",
)
def gemma4_vision(module, config, q, k, positions):
    config = module.Gemma4VisionConfig(hidden_size=512, num_attention_heads=8, head_dim=64)
    places = positions.T[None].expand(q.shape[0], -1, -1)
    cos, sin = module.Gemma4VisionRotaryEmbedding(config)(q, places)
    return tuple(module.apply_multidimensional_rope(x, cos, sin, places) for x in (q, k))


@family(
    "step3p7",
    vision_embedding,
    others=[{"layout": "interleaved"}, {"sections": sections.chunked(16, 16)}],
    positions=image(),
    shape="bshd",
)
def step3p7_vision(module, config, q, k, positions):
    # The column comes first: rows and columns of ours are x and y.
    config = module.Step3p7VisionConfig(hidden_size=512, num_attention_heads=8)
    embedding = module.Step3p7VisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions.flip(0))


@family(
    "inkling2",
    lambda: RotaryEmbedding(
        64, layout="interleaved", base=10_000.0, sections=sections.axial(16, 16)
    ),
    others=[{"layout": "half"}, {"sections": sections.axial(16, 16, order="alternating")}],
    positions=image(),
    shape="bshd",
)
def inkling2_vision(module, config, q, k, positions):
    config = module.Inkling2VisionConfig(hidden_size=512, num_attention_heads=8)
    embedding = module.Inkling2VisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions.flip(0))


@family(
    "minimax_m3_vl",
    lambda: RotaryEmbedding(
        80, layout="half", base=10_000.0, rotary_dim=78, sections=sections.axial(13, 13, 13)
    ),
    others=[
        {"layout": "interleaved"},
        {"sections": sections.axial(13, 13, 13, pairing="within")},
        {"sections": sections.chunked(13, 13, 13)},
    ],
    positions={"clip": np.indices((2, 3, 3)).reshape(3, -1)},
    shape="bshd",
)
def minimax_m3_vl_vision(module, config, q, k, positions):
    config = module.MiniMaxM3VLVisionConfig(hidden_size=640, num_attention_heads=8)
    embedding = module.MiniMaxM3VLVisionRotaryEmbedding(config)
    return rotated_patches(module, embedding, q, k, positions)


@family(
    "efficientloftr",
    lambda: RotaryEmbedding(
        256,
        layout="interleaved",
        base=10_000.0,
        sections=sections.axial(64, 64, order="alternating"),
    ),
    others=[{"layout": "half"}, {"sections": sections.axial(64, 64)}],
    positions={"patches": np.indices((3, 5)).reshape(2, -1) + 1},
)
def efficientloftr(module, config, q, k, positions):
    # All channels at once, before they are heads; here each "head" is one feature map.
    config = module.EfficientLoFTRConfig(
        q_aggregation_kernel_size=1,
        q_aggregation_stride=1,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 4.0,
        },
    )
    cos, sin = module.EfficientLoFTRRotaryEmbedding(config)(q.new_zeros((1, 1, 3, 5)))
    return module.apply_rotary_pos_emb(q, k, cos.flatten(1, 2), sin.flatten(1, 2))


@family(
    "sam2_video",
    lambda: RotaryEmbedding(
        64, layout="interleaved", base=10_000.0, sections=sections.axial(16, 16)
    ),
    others=[
        {"layout": "half", "output_layout": "half"},
        {"sections": sections.axial(16, 16, schedule="split")},
        {"sections": sections.axial(16, 16, order="alternating")},
    ],
    positions=image(),
)
def sam2_video(module, config, q, k, positions):
    config = module.Sam2VideoConfig(
        memory_attention_hidden_size=64, memory_attention_num_attention_heads=1
    )
    cos, sin = module.Sam2VideoVisionRotaryEmbedding(config)(q, positions.T)
    return module.apply_rotary_pos_emb_2d(q, k, cos, sin)


def llama4_places():
    """Columns, then rows, counted from one; the class token comes last and does not turn."""
    rows, columns = np.indices((4, 4)).reshape(2, -1)
    return {"patches": np.stack([np.append(columns + 1, 0), np.append(rows + 1, 0)])}


@family(
    "llama4",
    lambda: RotaryEmbedding(
        64,
        layout="interleaved",
        base=10_000.0,
        sections=sections.axial(16, 16),
    ),
    others=[
        {"layout": "half", "output_layout": "half"},
        {"sections": sections.axial(16, 16, order="alternating")},
        {"sections": sections.chunked(16, 16)},
    ],
    positions=llama4_places(),
    shape="bshd",
)
def llama4_vision(module, config, q, k, positions):
    config = module.Llama4VisionConfig(
        hidden_size=512, num_attention_heads=8, image_size=56, patch_size=14
    )
    freqs_cis = module.Llama4VisionRotaryEmbedding(config)(q)
    return module.vision_apply_rotary_emb(q, k, freqs_cis)


DINO_PREFIX = 5  # a class token and four registers


def dinov3_places(rows=3, columns=5):
    """Centres of patches between -1 and 1, after tokens that do not turn."""
    ends = [2 * (np.arange(n) + 0.5) / n - 1 for n in (rows, columns)]
    centres = np.stack(np.meshgrid(*ends, indexing="ij")).reshape(2, -1)
    return {"patches": np.concatenate([np.zeros((2, DINO_PREFIX)), centres], axis=1)}


@family(
    "dinov3_vit",
    lambda: RotaryEmbedding(
        64,
        layout="half",
        scaling=Periods(1, 100, endpoint=False),
        sections=sections.axial(16, 16),
    ),
    others=[
        {"layout": "interleaved"},
        {"scaling": Periods(1, 100)},
        {"scaling": Periods(1, 100, endpoint=False, unit="radian")},
        {"sections": sections.axial(16, 16, order="alternating")},
    ],
    positions=dinov3_places(),
)
def dinov3_vit(module, config, q, k, positions):
    config = module.DINOv3ViTConfig(hidden_size=512, num_attention_heads=8, patch_size=16)
    embedding = module.DINOv3ViTRopePositionEmbedding(config).eval()
    cos, sin = embedding(q.new_zeros((1, 3, 3 * 16, 5 * 16)))
    return module.apply_rotary_pos_emb(q, k, cos, sin)


@family(
    "vjepa2",
    lambda: RotaryEmbedding(
        64,
        layout="interleaved",
        base=10_000.0,
        rotary_dim=60,
        sections=sections.axial(10, 10, 10),
        quirk="vjepa2",
    ),
    others=[{"quirk": None}, {"sections": sections.chunked(10, 10, 10)}],
    positions={"clip": np.indices((2, 3, 3)).reshape(3, -1)},
)
def vjepa2(module, config, q, k, positions):
    config = module.VJEPA2Config(
        hidden_size=512,
        num_attention_heads=8,
        crop_size=48,
        patch_size=16,
        frames_per_clip=4,
        tubelet_size=2,
    )
    attention = module.VJEPA2RopeAttention(config, 512, 8)
    places = attention.get_position_ids(q.flatten(1, 1).transpose(1, 2)[:, :, 0])
    return tuple(attention.apply_rotary_embeddings(x, places) for x in (q, k))


KEYPOINTS = random_array((2, 2, LENGTH), "float64", seed=3)
PROJECTION = random_array((2, 32), "float64", seed=4)


@family(
    "lightglue",
    lambda: RotaryEmbedding(64, layout="interleaved", scaling=Custom(W=PROJECTION)),
    others=[
        {"layout": "half", "output_layout": "half"},
        {"scaling": Custom(W=PROJECTION[::-1])},
    ],
    positions={"keypoints": KEYPOINTS},
)
def lightglue(module, config, q, k, positions):
    import torch

    # Its frequencies are learned, on both axes for every pair.
    config = module.LightGlueConfig(descriptor_dim=512, num_attention_heads=8)
    encoder = module.LightGluePositionalEncoder(config)
    encoder.projector.weight.data.copy_(torch.asarray(PROJECTION.T))
    ((cos, sin),) = encoder(positions.permute(1, 2, 0).to(encoder.projector.weight.dtype))
    return module.apply_rotary_pos_emb(q, k, cos.to(q.dtype), sin.to(q.dtype))


# ------------------------------------------------------------------------------------------------
# The tests.


class Wide:
    """torch, with float64 for float32."""

    def __init__(self, torch):
        self.torch = torch
        self.float = self.float32 = torch.float64
        self.FloatTensor = torch.DoubleTensor

    def __getattr__(self, name):
        return getattr(self.torch, name)


@pytest.fixture
def load(monkeypatch):
    """A model's module in float32, or with all that is float32 in it made float64."""
    import torch
    from transformers import modeling_rope_utils

    def load(model, digits):
        module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
        if digits == 53:
            for each in (module, modeling_rope_utils):
                monkeypatch.setattr(each, "torch", Wide(torch))
            monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
            torch.set_default_dtype(torch.float64)
        return module

    yield load
    torch.set_default_dtype(torch.float32)


def arrays(family, dtype, length):
    """Query and key in the order of the model's axes, with fewer heads of the key."""
    sizes = {"b": 2, "s": length, "d": family.ours().head_dim}
    order = list(family.shape)
    return tuple(
        random_array([{**sizes, "h": heads}[axis] for axis in order], dtype, seed=heads)
        for heads in (4, 2)
    )


def results(family, module, dtype, positions, rope=None):
    """What they make of query and key at these positions, and what we make of them."""
    import torch

    q, k = arrays(family, dtype, positions.shape[-1])
    config = None if family.config is None else family.config(module)
    with torch.no_grad():
        theirs = family.theirs(
            module, config, torch.asarray(q), torch.asarray(k), torch.tensor(positions)
        )
    assert {str(x.dtype) for x in theirs} == {f"torch.{dtype}"}
    rope = family.ours() if rope is None else rope
    return [x.numpy() for x in theirs], rope(
        q, k, positions=positions, seq_axis=family.shape.index("s")
    )


def tolerance(rope, positions, dtype, digits):
    """How far their results may stray, as a share of the largest number in the input.

    A frequency is the quotient of a power whose exponent is rounded, and is multiplied by a position: the
    angle strays by (8 + ln base) roundings of its own size, of so many digits. The rest happens in the
    arrays' dtype: cosine, sine, two products and a sum, theirs and ours, 9 roundings of the input's size.
    """
    largest = np.abs(positions).max() * np.abs(rope.inv_freq).max()
    angle = 1.5 * (8 + math.log(rope.base or 100.0)) * largest * 2.0**-digits
    return rope.attention_factor * (angle + 9 * np.finfo(dtype).eps / 2)


# The arrays' dtype, and the digits that the models' angles are computed with: their own 24, or 53.
PRECISIONS = [("float32", 24), ("float32", 53), ("float64", 53)]
CASES = [
    pytest.param(name, case, *precision, id=f"{name} {case} {precision[0]} {precision[1]}")
    for name, family in FAMILIES.items()
    for case in family.positions
    for precision in PRECISIONS[case == FAR :]
]
OTHERS = [
    pytest.param(name, change, id=f"{name} {'/'.join(map(str, change))} {i}")
    for name, family in FAMILIES.items()
    for i, change in enumerate(family.others)
]


@pytest.mark.parametrize(("name", "case", "dtype", "digits"), CASES)
def test_a_model_rotates_as_specified(load, name, case, dtype, digits):
    family = FAMILIES[name]
    positions = family.positions[case]
    theirs, ours = results(family, load(family.model, digits), dtype, positions)
    limit = tolerance(family.ours(), positions, dtype, digits)
    assert limit < (0.02 if digits == 24 else 1e-6)
    for x, y in zip(theirs, ours, strict=True):
        assert x.shape == y.shape
        assert np.abs(x - y).max() <= limit * np.abs(x).max()


@pytest.mark.parametrize(("name", "change"), OTHERS)
def test_another_specification_gives_another_result(load, name, change):
    family = FAMILIES[name]
    rope = family.ours()
    if "layout" in change and rope.output_layout == rope.layout:
        change = {"output_layout": change["layout"], **change}
    other = dataclasses.replace(rope, **change)
    positions = next(iter(family.positions.values()))
    theirs, ours = results(family, load(family.model, 53), "float64", positions, other)
    for x, y in zip(theirs, ours, strict=True):
        assert np.abs(x - y).max() > 0.01


def test_there_are_at_least_40_families():
    models = {family.model for family in FAMILIES.values()}
    assert len(models) >= 40


# ------------------------------------------------------------------------------------------------
# Whole attentions: what leaves the projections, or the norms behind them, and what attention is given.

ATTENTIONS = {  # the class of the attention, of its rotary module, and what makes queries of hidden states
    "llama": ("LlamaAttention", "LlamaRotaryEmbedding", "q_proj"),
    "cohere": ("CohereAttention", "CohereRotaryEmbedding", "q_proj"),
    "glm": ("GlmAttention", "GlmRotaryEmbedding", "q_proj"),
    "mimi": ("MimiAttention", "MimiRotaryEmbedding", "q_proj"),
    "gpt_oss": ("GptOssAttention", "GptOssRotaryEmbedding", "q_proj"),
    "ernie4_5": ("Ernie4_5Attention", "Ernie4_5RotaryEmbedding", "q_proj"),
    "helium": ("HeliumAttention", "HeliumRotaryEmbedding", "q_proj"),
    "nemotron": ("NemotronAttention", "NemotronRotaryEmbedding", "q_proj"),
    "qwen2_vl": ("Qwen2VLAttention", "Qwen2VLRotaryEmbedding", "q_proj"),
    "qwen3_vl": ("Qwen3VLTextAttention", "Qwen3VLTextRotaryEmbedding", "q_norm"),
    "ernie4_5_vl": (
        "Ernie4_5_VLMoeTextAttention",
        "Ernie4_5_VLMoeTextRotaryEmbedding",
        "q_proj",
    ),
    "glm4v": ("Glm4vTextAttention", "Glm4vTextRotaryEmbedding", "q_proj"),
    "glm4v_moe": ("Glm4vMoeTextAttention", "Glm4vMoeTextRotaryEmbedding", "q_proj"),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_receives_the_rotated_arrays(load, monkeypatch, name):
    import torch

    family = FAMILIES[name]
    module = load(family.model, 53)
    config = family.config(module)
    attention_class, rotary_class, source = ATTENTIONS[name]
    seen = {}

    def attend(_, query, key, *args, **kwargs):
        seen.update(q=query, k=key)
        return torch.zeros_like(query).transpose(1, 2), None

    interface = type("Interface", (), {"get_interface": staticmethod(lambda *_: attend)})
    monkeypatch.setattr(module, "ALL_ATTENTION_FUNCTIONS", interface)
    torch.manual_seed(0)
    attention = getattr(module, attention_class)(config, layer_idx=0).eval()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    before = {}
    for letter, layer in (("q", source), ("k", source.replace("q", "k", 1))):

        def keep(_layer, _arguments, result, letter=letter):
            before[letter] = result.detach().numpy()

        getattr(attention, layer).register_forward_hook(keep)
    positions = next(iter(family.positions.values()))
    hidden = torch.asarray(random_array((*positions.shape[-2:], config.hidden_size), "float64"))
    freqs_cis = getattr(module, rotary_class)(config)(hidden, torch.tensor(positions))
    with torch.no_grad():
        attention(hidden, position_embeddings=freqs_cis, attention_mask=None)
    rope = family.ours()
    for letter, theirs in seen.items():
        x = before[letter].reshape(*positions.shape[-2:], -1, rope.head_dim)
        ours = rope(x, positions=positions, seq_axis=-3)
        limit = 1e-10 * np.abs(x).max()
        assert np.abs(x - ours).max() > 0.1
        np.testing.assert_allclose(theirs.transpose(1, 2).numpy(), ours, rtol=0, atol=limit)


# ------------------------------------------------------------------------------------------------
# What lies beside the rotation.


def test_deepseek_v4_rotates_outputs_back(load):
    """Values are rotated there too, as keys, and what attention makes of them is turned back."""
    import torch

    module = load("deepseek_v4", 53)
    rope = deepseek_v4_embedding(10_000.0)
    output = random_array((2, 4, LENGTH, 128), "float64")
    positions = np.arange(LENGTH)[None] + 7
    embedding = module.DeepseekV4RotaryEmbedding(deepseek_v4_config(module))
    cos, sin = embedding(torch.asarray(output), torch.asarray(positions), layer_type="main")
    theirs = module.apply_rotary_pos_emb(torch.asarray(output), cos, -sin).numpy()
    np.testing.assert_allclose(
        rope.inverse(output, offset=7, seq_axis=-2), theirs, rtol=0, atol=1e-13
    )
    assert np.abs(rope(output, offset=7, seq_axis=-2) - theirs).max() > 0.1


def test_deepseek_v3_scales_its_softmax(load):
    module = load("deepseek_v3", 53)
    config = deepseek_v3_config(module)
    attention = module.DeepseekV3Attention(config, layer_idx=0)
    rope = FAMILIES["deepseek_v3"].ours()
    assert rope.attention_factor == module.DeepseekV3RotaryEmbedding(config).attention_scaling
    assert attention.scaling == pytest.approx(192**-0.5 * rope.softmax_factor, rel=1e-15)


def test_roformer_may_rotate_values(load):
    import torch

    module = load("roformer", 53)
    table = module.RoFormerSinusoidalPositionalEmbedding(LENGTH, 64)
    table.weight.data.copy_(table.create_weight())
    x = [torch.asarray(random_array((2, 4, LENGTH, 64), "float64", seed=i)) for i in range(3)]
    rotate = module.RoFormerSelfAttention.apply_rotary_position_embeddings
    theirs = rotate(table((2, LENGTH))[None, None], *x)
    ours = FAMILIES["roformer"].ours()(*(each.numpy() for each in x), seq_axis=-2)
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-13)


def test_clvp_rotates_values_as_well(load):
    """Values are arrays like any other: three in, three out."""
    import torch

    module = load("clvp", 53)
    config = module.ClvpEncoderConfig(projection_dim=512, num_attention_heads=8)
    angles = module.ClvpRotaryPositionalEmbedding(config)(torch.zeros(1, LENGTH, 512))
    rope = RotaryEmbedding(64, layout="half", base=10_000.0, rotary_dim=angles.shape[-1])
    x = [random_array((2, 4, LENGTH, 64), "float64", seed=i) for i in range(3)]
    width = rope.rotary_dim
    theirs = module.apply_rotary_pos_emb(
        *(torch.asarray(each[..., :width]) for each in x),
        angles[0].cos(),
        angles[0].sin(),
        torch.arange(LENGTH)[None],
    )
    for a, b, c in zip(theirs, rope(*x, seq_axis=-2), x, strict=True):
        np.testing.assert_allclose(b[..., :width], a.numpy(), rtol=0, atol=1e-13)
        np.testing.assert_array_equal(b[..., width:], c[..., width:])


def test_sam2_repeats_positions_over_memories_and_leaves_object_pointers(load):
    """Its keys are the patches of several frames, then pointers: positions of ours say both."""
    import torch

    module = load("sam2_video", 53)
    patches = image()["patches"]
    config = module.Sam2VideoConfig(
        memory_attention_hidden_size=64, memory_attention_num_attention_heads=1
    )
    q = random_array((2, 1, LENGTH, 64), "float64", seed=1)
    k = random_array((2, 1, 3 * LENGTH + 4, 64), "float64", seed=2)
    cos, sin = module.Sam2VideoVisionRotaryEmbedding(config)(
        torch.asarray(q), torch.asarray(patches.T)
    )
    _, theirs = module.apply_rotary_pos_emb_2d(
        torch.asarray(q), torch.asarray(k), cos, sin, num_k_exclude_rope=4, repeat_freqs_k=True
    )
    places = np.concatenate([np.tile(patches, 3), np.zeros((2, 4), dtype=int)], axis=1)
    ours = FAMILIES["sam2_video"].ours()(k, positions=places, seq_axis=-2)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-13)


def test_qwen2_5_omni_vocoder_rotates_one_head():
    """Head subsets are slices."""
    rope = FAMILIES["qwen2_5_omni_vocoder"].ours()
    x = random_array((2, 4, LENGTH, 64))
    expected = np.concatenate([rope(x, seq_axis=-2)[:, :1], x[:, 1:]], axis=1)
    rope(x[:, :1], out=x[:, :1], seq_axis=-2)
    np.testing.assert_array_equal(x, expected)


# ------------------------------------------------------------------------------------------------
# Configurations.


@pytest.mark.parametrize("name", [name for name, each in FAMILIES.items() if each.config])
def test_a_configuration_gives_the_same_specification(load, name):
    family = FAMILIES[name]
    config = family.config(load(family.model, 24))
    rope = rotary.from_config(config, layer_type=family.layer_type)
    expected = family.ours()
    for field in dataclasses.fields(RotaryEmbedding):
        if field.name not in ("scaling", "base", "context_length"):
            assert getattr(rope, field.name) == getattr(expected, field.name), field.name
    assert rope.attention_factor == expected.attention_factor
    assert rope.softmax_factor == expected.softmax_factor
    np.testing.assert_array_equal(rope.inv_freq, expected.inv_freq)
