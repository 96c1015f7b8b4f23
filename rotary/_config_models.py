"""What is known of the models of transformers: layouts, sections, and the defaults of their configurations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .layouts import Layout

__all__ = ["FOLLOWS", "Model", "known", "model"]

FOLLOWS = "transformers 5.23.0"


@dataclass(frozen=True)
class Model:
    """What the code of one model type does, and what its configuration takes where a key is left out.

    Parameters
    ----------
    name : str
        The model type.
    layout, output_layout : {"half", "interleaved"}
    interleave_key : bool
        Whether ``rope_interleave``, where it is false, makes both layouts half.
    sections : {"chunked", "interleaved", "ernie", "hunyuan"} or None
        How the lanes are dealt out to several position axes.
    latent : bool
        Whether attention is latent: ``qk_rope_head_dim`` channels are rotated, as an array of their own.
    softmax : bool
        Whether the softmax scale is multiplied by YaRN's temperature.
    last : bool
        Whether the last ``qk_rope_head_dim`` channels of the head turn.
    sliding : {"always", "windowed"} or None
        Whether only layers with a sliding window have rotary: always, or where there is a window.
    negative : bool
        Whether pairs turn the other way round.
    legacy : {"local", "global", "shared", "compressed", "windowed"} or None
        What bases on top of the configuration mean for the kinds of layers.
    only : tuple of (str, object) or None
        A key and the value at which there is rotary at all.
    defaults : dict
        Keys of the configuration and their defaults.
    """

    name: str
    layout: Layout
    output_layout: Layout
    interleave_key: bool
    sections: str | None
    latent: bool
    softmax: bool
    last: bool
    sliding: str | None
    negative: bool
    legacy: str | None
    only: tuple[str, Any] | None
    defaults: dict[str, Any]


# Checkpoints name these; the code that reads them is another model's.
_ALIASES = {
    "kimi_k2": "deepseek_v3",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
}

# A line for each model type: its layout (rope_interleave: interleaved in and half out, unless that key is
# false), what else its code does, and the defaults of its configuration class that matter. A base that
# is not told is 10000. Written by tests/test_config_oracle.py, which runs the code of every model.
_TABLE = """
afmoe half head_dim=128
apertus half rope_parameters.factor=8.0 rope_parameters.high_freq_factor=4.0
    rope_parameters.low_freq_factor=1.0 rope_parameters.original_max_position_embeddings=8192
    rope_parameters.rope_theta=12000000.0 rope_parameters.rope_type="llama3"
    rope_theta=12000000.0
arcee half
aria_text half
axk1 rope_interleave latent softmax qk_rope_head_dim=64
axk2 interleaved>half latent softmax qk_rope_head_dim=32
bailing_hybrid interleaved>half latent softmax qk_rope_head_dim=64 rope_theta=6000000.0
bamba half partial_rotary_factor=0.5
beam half head_dim=128 rope_parameters.full_attention=null
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
bitnet half rope_theta=500000.0
blt_global_transformer interleaved rope_theta=500000.0
blt_local_decoder interleaved rope_theta=500000.0
blt_local_encoder interleaved rope_theta=500000.0
blt_patcher interleaved
chameleon half
codegen interleaved rotary_dim=64
cohere interleaved rope_theta=500000.0
cohere2 interleaved sliding:always
cosmos3_edge_text half sections:interleaved head_dim=128 mrope_section=[24,20,20]
    rope_theta=100000000.0
csm half rope_theta=500000.0
csm_depth_decoder_model half rope_theta=500000.0
cwm half head_dim=128 rope_parameters.factor=16.0 rope_parameters.high_freq_factor=4.0
    rope_parameters.low_freq_factor=1.0 rope_parameters.original_max_position_embeddings=8192
    rope_parameters.rope_theta=1000000.0 rope_parameters.rope_type="llama3" rope_theta=1000000.0
dbrx half
deepseek_ocr2_encoder half
deepseek_ocr2_text half
deepseek_v2 interleaved latent softmax qk_rope_head_dim=64
deepseek_v3 rope_interleave latent softmax qk_rope_head_dim=64
deepseek_v32 interleaved>half latent softmax qk_rope_head_dim=64
deepseek_v4 interleaved last legacy:compressed head_dim=512
    rope_parameters.compress.partial_rotary_factor=0.125
    rope_parameters.compress.rope_theta=160000.0 rope_parameters.compress.rope_type="default"
    rope_parameters.main.partial_rotary_factor=0.125 rope_parameters.main.rope_theta=10000.0
    rope_parameters.main.rope_type="default"
dia_decoder half head_dim=128
dia_encoder half head_dim=128
diffllama half
diffusion_gemma_text half head_dim=256 rope_parameters.full_attention.partial_rotary_factor=0.25
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="proportional"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
doge half
dots1 half
dots3_note_audio_encoder half partial_rotary_factor=0.5
embedding_gemma2_text half head_dim=256 rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
emu3_text_model half rope_theta=1000000.0
ernie4_5 interleaved head_dim=128 rope_theta=500000.0
ernie4_5_moe interleaved rope_theta=500000.0
ernie4_5_vl_moe_text interleaved sections:ernie mrope_section=[22,22,20] rope_theta=500000.0
esm half only:position_embedding_type="rotary"
esmc half
eurobert half
evolla half rope_theta=500000.0
exaone4 half sliding:windowed
exaone_moe half sliding:windowed
falcon half only:alibi=false
falcon_h1 half
flex_olmo half rope_theta=500000.0
flint half head_dim=128
gemma half head_dim=256
gemma2 half head_dim=256
gemma3_text half legacy:local head_dim=256 rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
gemma3n_text half legacy:local head_dim=256 rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
gemma4_text half head_dim=256 rope_parameters.full_attention.partial_rotary_factor=0.25
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="proportional"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
gemma4_unified_text half head_dim=256 rope_parameters.full_attention.partial_rotary_factor=0.25
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="proportional"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
glm interleaved head_dim=128 partial_rotary_factor=0.5
glm4 interleaved head_dim=128 partial_rotary_factor=0.5
glm4_moe half partial_rotary_factor=0.5
glm4_moe_lite rope_interleave latent softmax qk_rope_head_dim=64
glm4v_moe_text half sections:chunked mrope_section=[8,12,12] partial_rotary_factor=0.5
glm4v_text interleaved sections:chunked mrope_section=[8,12,12]
glm_image_text half sections:chunked mrope_section=[8,12,12]
glm_moe_dsa interleaved>half latent softmax qk_rope_head_dim=64
glm_ocr_text interleaved sections:chunked mrope_section=[8,12,12]
glmasr_encoder half partial_rotary_factor=0.5
gpt_neox half partial_rotary_factor=0.25
gpt_neox_japanese half
gpt_oss half head_dim=64 rope_parameters.beta_fast=32.0 rope_parameters.beta_slow=1.0
    rope_parameters.factor=32.0 rope_parameters.original_max_position_embeddings=4096
    rope_parameters.rope_theta=150000.0 rope_parameters.rope_type="yarn"
    rope_parameters.truncate=false rope_theta=150000.0
gptj interleaved rotary_dim=64
gradium_phonon_tts half
granite half
granite4_vision_text half
granite_docling_text half
granite_swa half
granitemoe half
granitemoe_swa half
granitemoehybrid half only:position_embedding_type="rope"
granitemoeshared half
gte half rope_theta=160000.0
helium interleaved head_dim=128 rope_theta=100000.0
higgs_audio_v2 half head_dim=128 rope_parameters.factor=32.0
    rope_parameters.high_freq_factor=0.5 rope_parameters.low_freq_factor=0.125
    rope_parameters.original_max_position_embeddings=1024 rope_parameters.rope_theta=500000.0
    rope_parameters.rope_type="llama3"
hrm_text half head_dim=128
hunyuan_v1_dense half
hunyuan_v1_moe half
hunyuan_vl_text half sections:hunyuan
hy_v3 half head_dim=128 rope_theta=11158840.0
hy_v4 half latent softmax qk_rope_head_dim=64
hyperclovax half
idefics half
jais2 half
jetmoe half head_dim=128
jina_embeddings_v3 half rope_theta=20000.0
kolibri1 half head_dim=128
kyutai_speech_to_text half
laguna half head_dim=128 rope_parameters.full_attention.partial_rotary_factor=0.5
    rope_parameters.full_attention.rope_theta=500000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.partial_rotary_factor=1.0
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
lasr_encoder half
lfm2 half rope_theta=1000000.0
lfm2_moe half rope_theta=1000000.0
lfm3 half head_dim=128 rope_parameters.full_attention.partial_rotary_factor=0.5
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="proportional"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
llama half
llama4_text interleaved head_dim=128 no_rope_layer_interval=4 rope_theta=500000.0
longcat_flash interleaved>half latent softmax qk_rope_head_dim=64 rope_theta=10000000.0
mellum half head_dim=128 rope_parameters.full_attention.rope_theta=500000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
mimi half
mimi_decoder half
mimi_encoder half
mimo_v2_flash half legacy:windowed head_dim=192
    rope_parameters.full_attention.partial_rotary_factor=0.334
    rope_parameters.full_attention.rope_theta=5000000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.partial_rotary_factor=0.334
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
minicpm3 half latent softmax qk_rope_head_dim=32
minimax half rope_theta=1000000.0
minimax_m2 half head_dim=128 rope_theta=5000000.0
minimax_m3_vl_text half head_dim=128 rope_theta=5000000.0
ministral half
ministral3 half head_dim=128 rope_parameters.beta_fast=32.0 rope_parameters.beta_slow=1.0
    rope_parameters.factor=16.0 rope_parameters.llama_4_scaling_beta=0.1
    rope_parameters.max_position_embeddings=262144 rope_parameters.mscale=1.0
    rope_parameters.mscale_all_dim=1.0 rope_parameters.original_max_position_embeddings=16384
    rope_parameters.rope_theta=1000000.0 rope_parameters.rope_type="yarn"
    rope_parameters.type="yarn"
mistral half
mistral4 rope_interleave latent softmax partial_rotary_factor=0.5 qk_rope_head_dim=64
    rope_parameters.beta_fast=32.0 rope_parameters.beta_slow=1.0 rope_parameters.factor=128.0
    rope_parameters.llama_4_scaling_beta=0.1 rope_parameters.max_position_embeddings=1048576
    rope_parameters.mscale=1.0 rope_parameters.mscale_all_dim=1.0
    rope_parameters.original_max_position_embeddings=8192
    rope_parameters.partial_rotary_factor=0.5 rope_parameters.rope_theta=10000.0
    rope_parameters.rope_type="yarn" rope_parameters.type="yarn"
mixtral half rope_theta=1000000.0
mllama_text_model half rope_theta=500000.0
modernbert half legacy:global rope_parameters.full_attention.rope_theta=160000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
modernbert-decoder half legacy:global rope_parameters.full_attention.rope_theta=160000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
molmo2_text half head_dim=128
moonshine interleaved partial_rotary_factor=0.9
moonshine_streaming interleaved
moshi half
muse_glimmer_assistant half head_dim=128 rope_theta=500000.0
muse_glimmer_text half head_dim=128
muse_spark_text half head_dim=64 rope_parameters.rope_theta=500000.0
    rope_parameters.rope_type="default"
nanochat half negative
nemotron half partial_rotary_factor=0.5
nemotron3_5_transcribe_asr_audio half
nemotron3_5_transcribe_word_timestamp half
nemotron3_diarization_audio half
neucodec half head_dim=64
nomic_bert half rope_theta=1000.0
olmo half
olmo2 half
olmo3 half legacy:shared rope_parameters.full_attention.rope_theta=500000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=500000.0
    rope_parameters.sliding_attention.rope_type="default"
olmo_hybrid half
olmoe half
openai_privacy_filter interleaved head_dim=64 rope_parameters.beta_fast=32.0
    rope_parameters.beta_slow=1.0 rope_parameters.factor=32.0
    rope_parameters.original_max_position_embeddings=4096 rope_parameters.rope_theta=150000.0
    rope_parameters.rope_type="yarn" rope_parameters.truncate=false rope_theta=150000.0
paddleocr_vl_text half sections:chunked head_dim=128 mrope_section=[16,24,24]
    rope_theta=500000.0
pe_audio_encoder interleaved head_dim=128 rope_theta=20000
pe_audio_video_encoder interleaved head_dim=128 rope_theta=20000
pe_video_encoder interleaved head_dim=128 rope_theta=20000
persimmon half partial_rotary_factor=0.5
phi half partial_rotary_factor=0.5
phi3 half
phi4_multimodal half
phimoe half rope_theta=1000000.0
pocket_tts half
pocket_tts_audio_tokenizer half
pocket_tts_audio_tokenizer_decoder half
pocket_tts_audio_tokenizer_encoder half
qwen2 half
qwen2_5_omni_dit half head_dim=64
qwen2_5_omni_talker half sections:chunked head_dim=128 mrope_section=[16,24,24]
    rope_theta=1000000.0
qwen2_5_omni_text half sections:chunked mrope_section=[16,24,24] rope_theta=1000000.0
qwen2_5_vl_text half sections:chunked mrope_section=[16,24,24] rope_theta=1000000.0
qwen2_moe half
qwen2_vl_text half sections:chunked mrope_section=[16,24,24] rope_theta=1000000.0
qwen3 half head_dim=128
qwen3_5_moe_text half sections:interleaved head_dim=256 mrope_section=[11,11,10]
    partial_rotary_factor=0.25
qwen3_5_text half sections:interleaved head_dim=256 mrope_section=[11,11,10]
    partial_rotary_factor=0.25
qwen3_moe half
qwen3_next half head_dim=256 partial_rotary_factor=0.25
qwen3_omni_moe_talker_code_predictor half head_dim=128
qwen3_omni_moe_talker_text half sections:interleaved mrope_section=[24,20,20]
qwen3_omni_moe_text half sections:interleaved mrope_section=[24,20,20] rope_theta=1000000.0
qwen3_vl_moe_text half sections:interleaved mrope_section=[24,20,20] rope_theta=500000.0
qwen3_vl_text half sections:interleaved head_dim=128 mrope_section=[24,20,20]
    rope_theta=500000.0
qwen4_exp_text half sections:interleaved head_dim=256 mrope_section=[11,11,10]
recurrent_gemma half partial_rotary_factor=0.5
roformer interleaved
seed_oss half head_dim=128
smollm3 half no_rope_layer_interval=4 rope_theta=2000000.0
solar_open half head_dim=128 rope_theta=1000000.0
stablelm half partial_rotary_factor=0.25
starcoder2 half
step3p5 half head_dim=128 rope_parameters.full_attention.rope_theta=10000.0
    rope_parameters.full_attention.rope_type="default"
t5_gemma_module half head_dim=256
t5gemma2_decoder half legacy:local head_dim=256
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
t5gemma2_text half legacy:local head_dim=256 rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
timesfm2_5 half head_dim=80
ultrabert half rope_parameters.full_attention.rope_theta=2560000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
unlimited_ocr_text half
vaultgemma half head_dim=256
voxtral_realtime_encoder half head_dim=64
voxtral_realtime_text half
wav2vec2-bert half only:position_embeddings_type="rotary"
wav2vec2-conformer half only:position_embeddings_type="rotary"
xcodec2 half head_dim=64
youtu rope_interleave latent softmax qk_rope_head_dim=64
zaya half head_dim=128 rope_parameters.hybrid.partial_rotary_factor=0.5
    rope_parameters.hybrid.rope_theta=5000000.0 rope_parameters.hybrid.rope_type="default"
    rope_parameters.hybrid_sliding.partial_rotary_factor=0.5
    rope_parameters.hybrid_sliding.rope_theta=10000.0
    rope_parameters.hybrid_sliding.rope_type="default"
"""


def known() -> list[str]:
    """Return the names of all model types that are known."""
    return sorted((*_rows(), *_ALIASES))


def model(name: Any) -> Model | None:
    """Return what is known of a model type, or None."""
    row = _rows().get(_ALIASES.get(name, name)) if isinstance(name, str) else None
    return None if row is None else _parsed(row)


@lru_cache(maxsize=1)
def _rows() -> dict[str, str]:
    """Return the lines of the table by name."""
    lines = _TABLE.strip().replace("\n    ", " ").splitlines()
    return {line.partition(" ")[0]: line for line in lines}


@lru_cache(maxsize=64)
def _parsed(row: str) -> Model:
    """Return one line of the table."""
    import json

    name, layout, *words = row.split(" ")
    flags, named, defaults = set(), {}, dict[str, Any]()
    for word in words:
        kind, colon, value = word.partition(":")
        key, equals, number = word.partition("=")
        if colon and "=" not in kind:
            named[kind] = value
        elif equals:
            _put(defaults, key.split("."), json.loads(number))
        else:
            flags.add(word)
    only = None
    if "only" in named:
        key, _, value = named["only"].partition("=")
        only = (key, json.loads(value))
    first: Layout = "half" if layout == "half" else "interleaved"
    last: Layout = "interleaved" if layout == "interleaved" else "half"
    return Model(
        name=name,
        layout=first,
        output_layout=last,
        interleave_key=layout == "rope_interleave",
        sections=named.get("sections"),
        sliding=named.get("sliding"),
        legacy=named.get("legacy"),
        only=only,
        defaults=defaults,
        **{flag: flag in flags for flag in ("latent", "softmax", "last", "negative")},
    )


def _put(target: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value at a path of nested dicts."""
    for key in path[:-1]:
        target = target.setdefault(key, {})
    target[path[-1]] = value
