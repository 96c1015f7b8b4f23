"""Makes presets_other.json: what formulas and other projects' code say of speech, time series and vision.

`python tests/checkpoints/data/make_presets_other.py` compares the file with what it makes, `--write` writes it. It
needs mpmath and transformers, and never reads what the library itself knows of a checkpoint: the numbers
stand here once more, in the words of their own projects.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

FILE = Path(__file__).parent / "presets_other.json"
mp.dps = 50

# ------------------------------------------------------------------------------------------------
# A checkpoint: its channels, the frequency of every pair, and whose code turns an array.


class Case(NamedTuple):
    """Channels and frequencies of a checkpoint.

    `values` and `axes` are the pairs' frequencies and position axes, `blocks` the runs of pairs that pair
    within themselves, `theirs` transformers' code: (x (S, D), positions (S,) or (S, axes)) to x rotated and
    the frequencies that it holds, or None. `positions` is what the code can be asked for.
    """

    width: int
    layout: str
    values: list[Any]
    source: str
    axes: list[int] | None = None
    blocks: list[int] | None = None
    output: str | None = None
    theirs: Callable[..., Any] | None = None
    positions: Any = None
    samples: tuple[Any, ...] = (1, 100, 999)
    image: Callable[..., Any] | None = None  # where a rotation alone is not what the code does
    roles: tuple[str | None, ...] = (None,)


def powers(dim, base):
    """Return base ** (-2 i / dim): what all these programs call inv_freq."""
    return [mpf(base) ** (-mpf(2 * i) / dim) for i in range(dim // 2)]


def pairs(layout, pairs, blocks=None):
    """Return the first and the second channel of every pair."""
    first = []
    start = 0
    for count in blocks or [pairs]:
        i = np.arange(count)
        first += (2 * start + (i if layout == "half" else 2 * i)).tolist()
        start += count
    step = np.repeat(blocks or [pairs], blocks or [pairs]) if layout == "half" else 1
    return np.array(first), np.array(first) + step


def by_hand(case, x, positions, role=None):
    """Return x (S, D) rotated in float64."""
    values = np.array([float(value) for value in case.values])
    places = np.asarray(positions, dtype=float)
    places = places[:, None] if case.axes is None else places[:, case.axes]
    if case.image is not None:
        return case.image(x, places * values, places, role)
    cos, sin = np.cos(places * values), np.sin(places * values)
    a, b = pairs(case.layout, len(values), case.blocks)
    c, d = pairs(case.output or case.layout, len(values), case.blocks)
    result = x.copy()
    result[:, c] = x[:, a] * cos - x[:, b] * sin
    result[:, d] = x[:, b] * cos + x[:, a] * sin
    return result


# ------------------------------------------------------------------------------------------------
# transformers' own modules: each function gives one that turns x (S, D).


def modules(model):
    """Return the configurations and the code of a model."""
    where = f"transformers.models.{model}"
    return (
        importlib.import_module(f"{where}.configuration_{model}"),
        importlib.import_module(f"{where}.modeling_{model}"),
    )


def text_model(model, name, config=None, part=None, order=None, **given):
    """One axis, or three that come first: apply_rotary_pos_emb on (B, H, S, D).

    `order` tells of every frequency that the module holds which pair turns by it.
    """

    def theirs(x, positions):
        configs, code = modules(model)
        made = getattr(configs, config or f"{name}Config")(**given)
        made = getattr(made, part) if part else made
        table = getattr(code, f"{name}RotaryEmbedding")(made)
        places = positions[None] if positions.ndim == 1 else positions.T[:, None]
        cos, sin = table(x[None], places)
        inv_freq = table.inv_freq if order is None else table.inv_freq[np.argsort(order)]
        return code.apply_rotary_pos_emb(x[None, None], x[None, None], cos, sin)[0][0, 0], inv_freq

    return theirs


def voxtral_text(x, positions):
    code = modules("llama")[1]
    table = code.LlamaRotaryEmbedding(modules("voxtral")[0].VoxtralConfig().text_config)
    cos, sin = table(x[None], positions[None])
    return code.apply_rotary_pos_emb(x[None, None], x[None, None], cos, sin)[0][
        0, 0
    ], table.inv_freq


def vision_tower(model, name, config, **given):
    """Rows and columns (S, 2): apply_rotary_pos_emb_vision on (S, H, D)."""

    def theirs(x, positions):
        configs, code = modules(model)
        table = getattr(code, f"{name}VisionRotaryEmbedding")(getattr(configs, config)(**given))
        cos, sin = table(x, positions)
        rotated = code.apply_rotary_pos_emb_vision(x[:, None], x[:, None], cos, sin)[0]
        return rotated[:, 0], table.inv_freq

    return theirs


def wav2vec2(x, positions):
    configs, code = modules("wav2vec2_conformer")
    config = configs.Wav2Vec2ConformerConfig(
        hidden_size=1024, num_attention_heads=16, position_embeddings_type="rotary"
    )
    table = code.Wav2Vec2ConformerRotaryPositionalEmbedding(config)
    attention = code.Wav2Vec2ConformerSelfAttention(config)
    assert positions.tolist() == list(range(len(x)))
    hidden = x.repeat(1, 16)[None]
    return attention._apply_rotary_embedding(hidden, table(hidden))[0, :, :64], table.inv_freq


def token2wav(x, positions):
    configs, code = modules("qwen2_5_omni")
    table = code.Qwen2_5OmniDiTRotaryEmbedding(configs.Qwen2_5OmniDiTConfig())
    cos, sin = table(x[None], positions[None])
    halves = code.deinterleave_head_dim(x[None, None])
    return code.apply_rotary_pos_emb(halves, halves, cos, sin)[0][0, 0], table.inv_freq


def music_flamingo(x, _positions):
    import torch

    configs, code = modules("musicflamingo")
    table = code.MusicFlamingoRotaryEmbedding(configs.MusicFlamingoConfig())
    cos, sin = table(torch.tensor(FLAMINGO_TIMES)[None].float(), len(x))
    return code.apply_rotary_time_emb(x[None], cos, sin)[0], table.inv_freq


def pixtral(x, positions):
    configs, code = modules("pixtral")
    table = code.PixtralVisionRotaryEmbedding(configs.PixtralVisionConfig())
    cos, sin = table(x, positions)
    args = (x[None, None], x[None, None], cos[None], sin[None])
    return code.apply_rotary_pos_emb(*args)[0][0, 0], table.inv_freq


def gemma4(**given):
    def theirs(x, positions):
        configs, code = modules("gemma4")
        table = code.Gemma4VisionRotaryEmbedding(configs.Gemma4VisionConfig(**given))
        cos, sin = table(x[None], positions[None])
        rotated = code.apply_multidimensional_rope(x[None, :, None], cos, sin, positions[None])
        return rotated[0, :, 0], table.inv_freq

    return theirs


def dinov3(**given):
    def theirs(x, positions):
        import torch

        configs, code = modules("dinov3_vit")
        table = code.DINOv3ViTRopePositionEmbedding(
            configs.DINOv3ViTConfig(patch_size=16, **given)
        ).eval()
        assert len(positions) == 6
        cos, sin = table(torch.zeros(1, 3, 2 * 16, 3 * 16))
        rotated = code.apply_rotary_pos_emb(x[None, None], x[None, None], cos, sin)[0][0, 0]
        return rotated, 2 * np.pi * table.inv_freq

    return theirs


def sam2(x, positions):
    configs, code = modules("sam2_video")
    table = code.Sam2VideoVisionRotaryEmbedding(configs.Sam2VideoConfig())
    cos, sin = table(x, positions)
    args = (x[None, None], x[None, None], cos, sin)
    return code.apply_rotary_pos_emb_2d(*args)[0][0, 0], table.inv_freq


def llama4(x, positions):
    import torch

    configs, code = modules("llama4")
    config = configs.Llama4VisionConfig(
        hidden_size=1408, num_attention_heads=16, image_size=28, patch_size=14
    )
    table = code.Llama4VisionRotaryEmbedding(config)
    args = (x[None, :, None], x[None, :, None], table(torch.zeros(1)))
    assert len(positions) == 5
    return code.vision_apply_rotary_emb(*args)[0][0, :, 0], None


def vjepa2(x, positions):
    configs, code = modules("vjepa2")
    config = configs.VJEPA2Config()
    attention = code.VJEPA2RopeAttention(config, config.hidden_size, config.num_attention_heads)
    places = [axis[None, None].to(x) for axis in positions.T]
    return attention.apply_rotary_embeddings(x[None, None], places)[0, 0], None


def vjepa2_image(x, angles, _places, _role):
    """transformers, models/vjepa2/modeling_vjepa2.py, rotate_queries_or_keys, in float64."""
    result = x.copy()
    for axis in range(3):
        part = x[:, 20 * axis : 20 * axis + 20]
        own = np.tile(angles[:, 10 * axis : 10 * axis + 10], 2)  # .repeat(1, 1, 1, 2)
        other = np.stack([-part[:, 1::2], part[:, ::2]], axis=-1).reshape(part.shape)
        result[:, 20 * axis : 20 * axis + 20] = part * np.cos(own) + other * np.sin(own)
    return result


# ------------------------------------------------------------------------------------------------
# What only one checkpoint does.


def log_spaced(count, first, last):
    """torch_brain 0.2.1, torch_brain/nn/position_embeddings.py: generate_logspace_timeperiods, omega."""
    first, last = mp.log(mpf(first)), mp.log(mpf(last))
    periods = [mp.exp(first + (last - first) * mpf(i) / (count - 1)) for i in range(count)]
    return [2 * mp.pi / period for period in periods]


def timescales(width, low, high):
    """timesfm 3.0.2, timesfm/torch/transformer.py: position / timescale."""
    scale = [mpf(low) * (mpf(high) / mpf(low)) ** (mpf(2 * i) / width) for i in range(width // 2)]
    return [1 / value for value in scale]


def dinov3_frequencies(width, base):
    """transformers, models/dinov3_vit/modeling_dinov3_vit.py: 2 pi / base ** arange(0, 1, 4 / width)."""
    return [2 * mp.pi / mpf(base) ** (mpf(4 * i) / width) for i in range(width // 4)]


def dealt(sizes):
    """transformers, models/qwen3_vl: axis a takes the pairs slice(a, 3 * size, 3), all others are time's."""
    axes = np.zeros(sum(sizes), dtype=int)
    for axis in (1, 2):
        axes[axis : 3 * sizes[axis] : 3] = axis
    return axes.tolist()


def in_runs(*sizes):
    return [axis for axis, size in enumerate(sizes) for _ in range(size)]


def xpos(base_length, width, layout):
    """rotary-embedding-torch 0.9.1, get_scale, and Toto's: scale ** (t / scale_base), centre 0.

    The scale of pair i is (2 i + 0.4 d) / 1.4 d; Toto 1 lays it out as cat(scale, scale), Toto 2 repeats it.
    """

    def image(x, angles, places, role):
        scale = (np.arange(0, width, 2) + 0.4 * width) / (1.4 * width)
        scale = scale ** ((places if role == "query" else -places) / base_length)
        scale = np.tile(scale, 2) if layout == "half" else np.repeat(scale, 2, axis=-1)
        part, own = x[:, :width], np.repeat(angles, 2, axis=-1)
        other = np.stack([-part[:, 1::2], part[:, ::2]], axis=-1).reshape(part.shape)
        result = x.copy()
        result[:, :width] = part * np.cos(own) * scale + other * np.sin(own) * scale
        return result

    return image


# ------------------------------------------------------------------------------------------------
# The checkpoints.


def line(width, base, layout, source, *, frequency_dim=None, **others):
    """One position axis."""
    return Case(width, layout, powers(frequency_dim or width, base), source, **others)


def streams(width, base, layout, source, axes, *, frequency_dim=None, **others):
    """Time, height and width, whose frequencies run on."""
    values = powers(frequency_dim or width, base)
    grid = np.array([[0, 0, 0], [1, 2, 3], [4, 5, 5], [4, 6, 5], [9, 8, 7], [31, 17, 23]])
    own = {"samples": ((1, 2, 3), (100, 80, 90), (999, 31, 63))}
    return Case(width, layout, values, source, axes=axes, positions=grid, **own, **others)


def tower(width, base, layout, source, *, axes=2, frequency_dim=None, values=None, **others):
    """An equal share of channels for every axis, whose frequencies restart, or are given."""
    frequency_dim = frequency_dim or width
    values = values or powers(frequency_dim // axes, base) * axes
    places = np.array([[0, 0, 1], [1, 2, 0], [4, 5, 3], [4, 6, 7], [9, 8, 2], [31, 17, 5]])[
        :, :axes
    ]
    samples = ((1, 2, 3), (15, 0, 7), (60, 33, 11))
    given = {"positions": places, "samples": tuple(sample[:axes] for sample in samples)} | others
    return Case(
        width, layout, values, source, axes=in_runs(*[frequency_dim // 2 // axes] * axes), **given
    )


TRANSFORMERS = "the formula in mpmath, compared with transformers 5.23.0, models/"


def code(place):
    return f"the formula of {place}, in mpmath"


def split(width, base):
    """Pixtral: rows take the even frequencies of one schedule, columns the odd ones."""
    values = powers(width, base)
    return values[0::2] + values[1::2]


def centres(rows, columns):
    """transformers, models/dinov3_vit, get_patches_center_coordinates: -1 .. 1 on every axis."""
    ends = [(2 * (np.arange(count) + 0.5) / count - 1).tolist() for count in (rows, columns)]
    return np.array(list(product(*ends)))


# transformers, models/musicflamingo, forward of the rotary module: a window of eight tokens, 40 ms each,
# that starts at 2.56 s; the window's number and the token's, and by how much their angles grow with time.
FLAMINGO_TIMES = 2.56 + 0.04 * np.arange(8)
FLAMINGO = np.stack([np.full(8, 2.56 / (0.04 * 8)), 2 * np.pi * np.arange(8)], axis=-1) / 1200
FLAMINGO *= -2 * np.pi * FLAMINGO_TIMES[:, None]

# Two rows and columns of patches, counted from 1, and the class token, whose angle is 0.
LLAMA4 = np.array([[1, 1], [2, 1], [1, 2], [2, 2], [0, 0]])

SMALL = ((0.25, -0.75), (-0.96875, 0.5), (1.0, 0.125))

CASES = {
    # speech.toml
    "moonshine-tiny-hf": line(
        *(288 // 8, 10_000, "interleaved", TRANSFORMERS + "moonshine"),
        frequency_dim=int(288 // 8 * 0.9),
        theirs=text_model("moonshine", "Moonshine"),
    ),
    "moonshine-base-hf": line(
        *(416 // 8, 10_000, "interleaved", TRANSFORMERS + "moonshine"),
        frequency_dim=int(416 // 8 * 0.62),
        theirs=text_model(
            *("moonshine", "Moonshine"),
            hidden_size=416,
            encoder_num_attention_heads=8,
            decoder_num_attention_heads=8,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.62,
            },
        ),
    ),
    # onnx::Expand_202 of moonshine-voice 0.0.49, tiny-en/encoder_model.ort: these 16 numbers in float32.
    "moonshine-tiny-onnx": line(
        36, 10_000, "interleaved", code("Moonshine's ONNX graph"), frequency_dim=32
    ),
    "mimi-native": line(512 // 8, 10_000, "interleaved", code("moshi 0.2.13, modules/rope.py")),
    "mimi-hf": line(
        *(512 // 8, 10_000, "half", TRANSFORMERS + "mimi"), theirs=text_model("mimi", "Mimi")
    ),
    "moshi-7b-native": line(
        4096 // 32, 10_000, "interleaved", code("moshi 0.2.13, modules/rope.py")
    ),
    "moshi-7b-hf": line(
        *(4096 // 32, 10_000, "half", TRANSFORMERS + "moshi"), theirs=text_model("moshi", "Moshi")
    ),
    "kyutai-stt-2.6b-native": line(
        2048 // 32, 100_000, "interleaved", code("moshi 0.2.13, modules/rope.py")
    ),
    "kyutai-stt-1b-native": line(
        2048 // 16, 100_000, "interleaved", code("moshi 0.2.13, modules/rope.py")
    ),
    "wav2vec2-conformer-rope-large-hf": line(
        *(1024 // 16, 10_000, "half", TRANSFORMERS + "wav2vec2_conformer"), theirs=wav2vec2
    ),
    "gigaam-v3-native": line(768 // 16, 5000, "half", code("GigaAM, gigaam/encoder.py")),
    "glm-asr-nano-hf": line(
        *(1280 // 20, 10_000, "half", TRANSFORMERS + "glmasr"),
        frequency_dim=1280 // 20 // 2,
        theirs=text_model("glmasr", "GlmAsr", "GlmAsrEncoderConfig"),
    ),
    "voxtral-mini-3b-native": line(128, 1e8, "interleaved", code("mistral-inference, rope.py")),
    "voxtral-mini-3b-hf": line(128, 1e8, "half", TRANSFORMERS + "voxtral", theirs=voxtral_text),
    "voxtral-realtime-4b-native": line(128, 1e6, "interleaved", code("mistral-inference, rope.py")),
    "voxtral-realtime-4b-hf": line(
        *(128, 1e6, "half", TRANSFORMERS + "voxtral_realtime"),
        theirs=text_model(
            "voxtral_realtime", "VoxtralRealtime", "VoxtralRealtimeConfig", "text_config"
        ),
    ),
    "qwen2.5-omni-7b-thinker-hf": streams(
        *(3584 // 28, 1e6, "half", TRANSFORMERS + "qwen2_5_omni", in_runs(16, 24, 24)),
        theirs=text_model("qwen2_5_omni", "Qwen2_5Omni", "Qwen2_5OmniThinkerConfig", "text_config"),
    ),
    "qwen2.5-omni-7b-token2wav-hf": line(
        *(64, 10_000, "interleaved", TRANSFORMERS + "qwen2_5_omni"), output="half", theirs=token2wav
    ),
    # Qwen3-ASR and Qwen3-TTS: the rule of Qwen3-VL, in code of their own.
    "qwen3-asr-1.7b-native": streams(
        *(128, 1e6, "half", code("Qwen3-ASR, modeling_qwen3_asr.py"), dealt((24, 20, 20)))
    ),
    "qwen3-tts-talker-native": streams(
        *(128, 1e6, "half", code("qwen-tts 0.1.1, modeling_qwen3_tts.py"), dealt((24, 20, 20)))
    ),
    "f5-tts-v1-base-native": line(
        64, 10_000, "interleaved", code("x-transformers 2.31.10, RotaryEmbedding")
    ),
    "music-flamingo-hf": tower(
        *(1280, 1200, "interleaved", TRANSFORMERS + "musicflamingo"),
        frequency_dim=2 * int(1280 * 0.2),
        theirs=music_flamingo,
        positions=FLAMINGO,
        samples=((-0.25, -1.5), (-3.0, 0.5), (-40.0, -20.25)),
    ),
    # time_series.toml
    "chronos-2-native": line(
        64, 10_000, "half", code("chronos-forecasting 2.3.2, chronos2/layers.py")
    ),
    "timesfm-2.5-200m-native": Case(
        *(1280 // 16, "half", timescales(1280 // 16, 1, 10_000)),
        code("timesfm 3.0.2, timesfm/torch/transformer.py"),
    ),
    "timesfm-2.5-200m-hf": line(
        *(80, 10_000, "half", TRANSFORMERS + "timesfm2_5"),
        theirs=text_model("timesfm2_5", "TimesFm2_5"),
    ),
    "moirai-1.1-native": line(
        *(64, 10_000, "interleaved", code("uni2ts 2.0.0, attn_projection.py")), frequency_dim=32
    ),
    "moirai-2.0-native": line(
        *(64, 10_000, "interleaved", code("uni2ts 2.0.0, attn_projection.py")), frequency_dim=32
    ),
    "toto-1.0-native": line(
        *(768 // 12, 10_000, "interleaved"),
        code("rotary-embedding-torch 0.9.1, and of toto-ts 0.2.0, toto/model/rope.py"),
        image=xpos(512, 64, "half"),
        roles=("query", "key"),
    ),
    "toto-2.0-native": line(
        *(64, 10_000, "interleaved", code("DataDog/toto, toto2/toto2/model.py")),
        frequency_dim=32,
        image=xpos(256, 32, "interleaved"),
        roles=("query", "key"),
    ),
    "time-moe-50m-native": line(
        384 // 12, 10_000, "half", code("Time-MoE, time_moe/models/modeling_time_moe.py")
    ),
    "lag-llama-native": line(16, 10_000, "half", code("lag-llama, lag_llama/model/module.py")),
    "poyo-native": Case(
        *(64, "interleaved", log_spaced(16, 1e-4, 2.0627)),
        code("torch_brain 0.2.1, nn/position_embeddings.py"),
        samples=(0.00390625, 0.0078125, 0.015625),
    ),
    # vision.toml
    "qwen2-vl-7b-text-hf": streams(
        *(3584 // 28, 1e6, "half", TRANSFORMERS + "qwen2_vl", in_runs(16, 24, 24)),
        theirs=text_model(
            *("qwen2_vl", "Qwen2VL", "Qwen2VLTextConfig"),
            hidden_size=3584,
            num_attention_heads=28,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        ),
    ),
    "qwen2-vl-7b-vision-hf": tower(
        *(1280 // 16, 10_000, "half", TRANSFORMERS + "qwen2_vl"),
        theirs=vision_tower("qwen2_vl", "Qwen2VL", "Qwen2VLVisionConfig"),
    ),
    "qwen3-vl-text-hf": streams(
        *(128, 5e6, "half", TRANSFORMERS + "qwen3_vl", dealt((24, 20, 20))),
        theirs=text_model(
            *("qwen3_vl", "Qwen3VLText"),
            head_dim=128,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
            },
        ),
    ),
    "qwen3-vl-8b-vision-hf": tower(
        *(1152 // 16, 10_000, "half", TRANSFORMERS + "qwen3_vl"),
        theirs=vision_tower("qwen3_vl", "Qwen3VL", "Qwen3VLVisionConfig"),
    ),
    "glm-4.1v-9b-text-hf": streams(
        *(4096 // 32, 10_000, "interleaved", TRANSFORMERS + "glm4v", in_runs(8, 12, 12)),
        frequency_dim=4096 // 32 // 2,
        theirs=text_model(
            *("glm4v", "Glm4vText"),
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [8, 12, 12],
            },
        ),
    ),
    "glm-4.1v-9b-vision-hf": tower(
        *(1536 // 12, 10_000, "half", TRANSFORMERS + "glm4v"),
        theirs=vision_tower("glm4v", "Glm4v", "Glm4vVisionConfig"),
    ),
    "ernie-4.5-vl-28b-a3b-text-hf": streams(
        *(2560 // 20, 5e5, "interleaved", TRANSFORMERS + "ernie4_5_vl_moe", [1, 2] * 22 + [0] * 20),
        theirs=text_model(
            *("ernie4_5_vl_moe", "Ernie4_5_VLMoeText"),
            order=[*range(0, 44, 2), *range(1, 44, 2), *range(44, 64)],
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5e5,
                "mrope_section": [22, 22, 20],
            },
        ),
    ),
    "ernie-4.5-vl-28b-a3b-vision-hf": tower(
        *(1280 // 16, 10_000, "half", TRANSFORMERS + "ernie4_5_vl_moe"),
        theirs=vision_tower("ernie4_5_vl_moe", "Ernie4_5_VLMoe", "Ernie4_5_VLMoeVisionConfig"),
    ),
    "pixtral-12b-vision-hf": tower(
        *(1024 // 16, 10_000, "half", TRANSFORMERS + "pixtral"),
        values=split(1024 // 16, 10_000),
        theirs=pixtral,
    ),
    "pixtral-12b-vision-native": tower(
        *(1024 // 16, 10_000, "interleaved"),
        code("mistral-inference, rope.py, precompute_freqs_cis_2d"),
        values=split(1024 // 16, 10_000),
    ),
    "dinov3-vitb16-hf": tower(
        *(768 // 12, 100, "half", TRANSFORMERS + "dinov3_vit"),
        values=dinov3_frequencies(768 // 12, 100) * 2,
        theirs=dinov3(hidden_size=768, num_attention_heads=12),
        positions=centres(2, 3),
        samples=SMALL,
    ),
    "dinov3-vit7b16-hf": tower(
        *(4096 // 32, 100, "half", TRANSFORMERS + "dinov3_vit"),
        values=dinov3_frequencies(4096 // 32, 100) * 2,
        theirs=dinov3(hidden_size=4096, num_attention_heads=32),
        positions=centres(2, 3),
        samples=SMALL,
    ),
    "gemma-4-e2b-vision-hf": tower(
        *(64, 100, "half", TRANSFORMERS + "gemma4"), blocks=[16, 16], theirs=gemma4()
    ),
    "gemma-4-31b-vision-hf": tower(
        *(72, 100, "half", TRANSFORMERS + "gemma4"),
        blocks=[18, 18],
        theirs=gemma4(head_dim=72),
    ),
    "sam2.1-memory-hf": tower(
        *(256, 10_000, "interleaved", TRANSFORMERS + "sam2_video"), theirs=sam2
    ),
    "eva02-base-patch14-448-timm": tower(
        *(768 // 12, 10_000, "interleaved", code("timm 1.0.31, timm/layers/pos_embed_sincos.py")),
        samples=((0.5, 1.0), (7.5, 0.0), (15.5, 3.5)),
    ),
    "vit-base-patch16-rope-224-timm": tower(
        768 // 12, 100, "interleaved", code("timm 1.0.31, timm/layers/pos_embed_sincos.py")
    ),
    "v-jepa2-vitl-hf": tower(
        *(1024 // 16, 10_000, "interleaved", TRANSFORMERS + "vjepa2"),
        axes=3,
        frequency_dim=60,
        theirs=vjepa2,
        image=vjepa2_image,
    ),
    "llama-4-scout-vision-hf": tower(
        *(1408 // 16, 10_000, "interleaved", TRANSFORMERS + "llama4"),
        theirs=llama4,
        positions=LLAMA4,
    ),
    "paddleocr-vl-vision-hf": tower(
        *(1152 // 16, 10_000, "half", TRANSFORMERS + "paddleocr_vl"),
        theirs=vision_tower("paddleocr_vl", "PaddleOCR", "PaddleOCRVisionConfig"),
    ),
}

# ------------------------------------------------------------------------------------------------


def compared(name, case):
    """Compare a case with transformers' code: frequencies to 1e-6, a rotated array to 4e-6."""
    import torch

    places = np.arange(8) if case.positions is None else case.positions
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (len(places), case.width))
    rotated, inv_freq = case.theirs(torch.from_numpy(x).float(), torch.from_numpy(places))
    wanted = by_hand(case, x, places)
    np.testing.assert_allclose(rotated.numpy(), wanted, rtol=0, atol=4e-6, err_msg=name)
    if inv_freq is not None:
        own = [float(value) for value in case.values[: len(inv_freq)]]
        np.testing.assert_allclose(inv_freq.double().numpy(), own, rtol=1e-6, err_msg=name)


def made(name):
    """Return the constants of a checkpoint."""
    case = CASES[name]
    if case.theirs is not None:
        compared(name, case)
    pairs = len(case.values)
    samples = []
    for place, pair in product(case.samples, sorted({0, 1, pairs // 2, pairs - 2, pairs - 1})):
        position = place if case.axes is None else place[case.axes[pair]]
        angle = mpf(position) * case.values[pair]
        sample = place if case.axes is None else list(place)
        samples.append([sample, pair, float(mp.cos(angle)), float(mp.sin(angle))])
    result = {
        "made_by": case.source,
        "head_dim": case.width,
        "rotary_start": 0,
        "rotary_dim": 2 * pairs,
        "layout": case.layout,
        "output_layout": case.output or case.layout,
        "attention_factor": 1.0,
        "softmax_factor": 1.0,
        "rtol": 2e-15,
        "inv_freq": [float(value) for value in case.values],
    }
    if case.axes is not None:
        result["axes"] = case.axes
    if case.image or case.blocks or case.output:
        # What the numbers above do not tell: what becomes of x[c] = (c + 1) / head_dim, every channel.
        place = case.samples[0] if case.axes is None else list(case.samples[0])
        x = (np.arange(case.width)[None] + 1) / case.width
        result["rotated"] = [
            {"position": place, "role": role, "values": by_hand(case, x, [place], role)[0].tolist()}
            for role in case.roles
        ]
    return result | {"samples": samples}


def text():
    """Return the file: one line for every checkpoint."""
    lines = [f"{json.dumps(name)}: {json.dumps(made(name))}" for name in sorted(CASES)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text(), encoding="utf-8")
    else:
        sys.exit(text() != FILE.read_text(encoding="utf-8"))
