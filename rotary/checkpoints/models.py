"""What is known of the models of transformers: layouts, sections, and the defaults of their configurations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rotary.layouts import Layout

__all__ = ["FOLLOWS", "Model", "has_no_rotary", "is_recurrent", "known", "model", "part_type"]

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
    partial : bool
        Whether a part of each head can be rotated, as ``partial_rotary_factor`` says; others rotate all of it.
    mscales : bool
        Whether LongRoPE's factors are ``short_mscale`` and ``long_mscale``.
    hybrid : bool
        Whether some of its layers have no attention.
    reads : frozenset of str
        Keys that are read besides the usual ones.
    unread : frozenset of str
        Usual keys that are not read.
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
    partial: bool
    mscales: bool
    hybrid: bool
    reads: frozenset[str]
    unread: frozenset[str]
    defaults: dict[str, Any]


# Checkpoints name these; the code that reads them is another model's.
_ALIASES = {
    "kimi_k2": "deepseek_v3",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
}

# A line for each model type: its layout (rope_interleave: interleaved in and half out, unless that key is
# false), what else its code does, and the defaults of its configuration class that matter. A base that
# is not told is 10000. Written by tests/checkpoints/test_config_oracle.py, which runs the code of every model.
_TABLE = """
afmoe half sliding:always head_dim=128
apertus half rope_parameters.factor=8.0 rope_parameters.high_freq_factor=4.0
    rope_parameters.low_freq_factor=1.0 rope_parameters.original_max_position_embeddings=8192
    rope_parameters.rope_theta=12000000.0 rope_parameters.rope_type="llama3"
    rope_theta=12000000.0
arcee half
aria_text half
axk1 rope_interleave latent softmax reads:qk_rope_head_dim qk_rope_head_dim=64
axk2 interleaved>half latent softmax reads:qk_rope_head_dim unread:head_dim qk_rope_head_dim=32
bailing_hybrid interleaved>half latent softmax hybrid reads:qk_rope_head_dim unread:head_dim
    qk_rope_head_dim=64 rope_theta=6000000.0
bamba half partial hybrid unread:partial_rotary_factor partial_rotary_factor=0.5
beam half unread:rope_theta head_dim=128 rope_parameters.full_attention=null
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
bitnet half rope_theta=500000.0
blt_global_transformer interleaved rope_theta=500000.0
blt_local_decoder interleaved rope_theta=500000.0
blt_local_encoder interleaved rope_theta=500000.0
blt_patcher interleaved
chameleon half
codegen interleaved partial reads:rotary_dim unread:rope_parameters,rope_theta rotary_dim=64
cohere interleaved rope_theta=500000.0
cohere2 interleaved sliding:always
cosmos3_edge_text half sections:interleaved head_dim=128 mrope_section=[24,20,20]
    rope_parameters.rope_theta=100000000.0 rope_parameters.rope_type="default"
    rope_theta=100000000.0
csm half rope_theta=500000.0
csm_depth_decoder_model half rope_theta=500000.0
cwm half head_dim=128 rope_parameters.factor=16.0 rope_parameters.high_freq_factor=4.0
    rope_parameters.low_freq_factor=1.0 rope_parameters.original_max_position_embeddings=8192
    rope_parameters.rope_theta=1000000.0 rope_parameters.rope_type="llama3" rope_theta=1000000.0
dbrx half
deepseek_ocr2_encoder half
deepseek_ocr2_text half unread:head_dim
deepseek_v2 interleaved latent softmax reads:qk_rope_head_dim unread:head_dim
    qk_rope_head_dim=64
deepseek_v3 rope_interleave latent softmax reads:qk_rope_head_dim qk_rope_head_dim=64
deepseek_v32 interleaved>half latent softmax reads:qk_rope_head_dim unread:head_dim
    qk_rope_head_dim=64
deepseek_v4 interleaved last partial legacy:compressed reads:qk_rope_head_dim
    unread:partial_rotary_factor head_dim=512
    rope_parameters.compress.partial_rotary_factor=0.125
    rope_parameters.compress.rope_theta=160000.0 rope_parameters.compress.rope_type="default"
    rope_parameters.main.partial_rotary_factor=0.125 rope_parameters.main.rope_theta=10000.0
    rope_parameters.main.rope_type="default"
dia_decoder half head_dim=128
dia_encoder half head_dim=128
diffllama half
diffusion_gemma_text half reads:global_head_dim unread:rope_theta global_head_dim=512
    head_dim=256 rope_parameters.full_attention.partial_rotary_factor=0.25
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="proportional"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
doge half
dots1 half
dots3_note_audio_encoder half partial unread:head_dim partial_rotary_factor=0.5
embedding_gemma2_text half reads:global_head_dim unread:rope_theta global_head_dim=512
    head_dim=256 rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
emu3_text_model half rope_theta=1000000.0
ernie4_5 interleaved head_dim=128 rope_theta=500000.0
ernie4_5_moe interleaved rope_theta=500000.0
ernie4_5_vl_moe_text interleaved sections:ernie mrope_section=[22,22,20] rope_theta=500000.0
esm half only:position_embedding_type="rotary" unread:head_dim,rope_parameters
esmc half
eurobert half
evolla half rope_theta=500000.0
exaone4 half sliding:windowed
exaone_moe half sliding:windowed
falcon half only:alibi=false
falcon_h1 half
flex_olmo half rope_theta=500000.0
flint half sliding:always head_dim=128
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
gemma4_text half reads:global_head_dim unread:rope_theta global_head_dim=512 head_dim=256
    rope_parameters.full_attention.partial_rotary_factor=0.25
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="proportional"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
gemma4_unified_text half reads:global_head_dim unread:rope_theta global_head_dim=512
    head_dim=256 rope_parameters.full_attention.partial_rotary_factor=0.25
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="proportional"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
glm interleaved partial head_dim=128 partial_rotary_factor=0.5
glm4 interleaved partial head_dim=128 partial_rotary_factor=0.5
glm4_moe half partial partial_rotary_factor=0.5
glm4_moe_lite rope_interleave latent softmax reads:qk_rope_head_dim qk_rope_head_dim=64
glm4v_moe_text half sections:chunked partial mrope_section=[8,12,12] partial_rotary_factor=0.5
glm4v_text interleaved sections:chunked partial mrope_section=[8,12,12]
glm_image_text half sections:chunked partial mrope_section=[8,12,12]
glm_moe_dsa interleaved>half latent softmax reads:qk_rope_head_dim unread:head_dim
    qk_rope_head_dim=64
glm_ocr_text interleaved sections:chunked partial mrope_section=[8,12,12]
glmasr_encoder half partial partial_rotary_factor=0.5
gpt_neox half partial reads:rotary_emb_base,rotary_pct unread:partial_rotary_factor,rope_theta
    partial_rotary_factor=0.25
gpt_neox_japanese half partial reads:rotary_emb_base,rotary_pct
    unread:partial_rotary_factor,rope_theta
gpt_oss half head_dim=64 rope_parameters.beta_fast=32.0 rope_parameters.beta_slow=1.0
    rope_parameters.factor=32.0 rope_parameters.original_max_position_embeddings=4096
    rope_parameters.rope_theta=150000.0 rope_parameters.rope_type="yarn"
    rope_parameters.truncate=false rope_theta=150000.0
gptj interleaved partial reads:rotary_dim unread:rope_parameters,rope_theta rotary_dim=64
gradium_phonon_tts half
granite half
granite4_vision_text half
granite_docling_text half
granite_swa half
granitemoe half
granitemoe_swa half
granitemoehybrid half hybrid only:position_embedding_type="rope"
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
hunyuan_vl_text half sections:hunyuan reads:attention_head_dim
hy_v3 half head_dim=128 rope_theta=11158840.0
hy_v4 half latent softmax reads:qk_rope_head_dim unread:head_dim qk_rope_head_dim=64
hyperclovax half
idefics half
jais2 half
jetmoe half reads:kv_channels head_dim=128
jina_embeddings_v3 half rope_theta=20000.0
kolibri1 half sliding:windowed head_dim=128
kyutai_speech_to_text half
laguna half partial unread:partial_rotary_factor,rope_theta head_dim=128
    rope_parameters.full_attention.partial_rotary_factor=0.5
    rope_parameters.full_attention.rope_theta=500000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.partial_rotary_factor=1.0
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
lasr_encoder half
lfm2 half hybrid rope_theta=1000000.0
lfm2_moe half hybrid rope_theta=1000000.0
lfm3 half hybrid unread:rope_theta head_dim=128
    rope_parameters.full_attention.partial_rotary_factor=0.5
    rope_parameters.full_attention.rope_theta=1000000.0
    rope_parameters.full_attention.rope_type="proportional"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
llama half
llama4_text interleaved head_dim=128 no_rope_layer_interval=4 rope_theta=500000.0
longcat_flash interleaved>half latent softmax qk_rope_head_dim=64 rope_theta=10000000.0
mellum half unread:rope_theta head_dim=128 rope_parameters.full_attention.rope_theta=500000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
mimi half
mimi_decoder half
mimi_encoder half
mimo_v2_flash half partial legacy:windowed reads:swa_head_dim
    unread:partial_rotary_factor,rope_theta,swa_rope_theta head_dim=192
    partial_rotary_factor=0.334 rope_parameters.full_attention.partial_rotary_factor=0.334
    rope_parameters.full_attention.rope_theta=5000000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.partial_rotary_factor=0.334
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
minicpm3 half latent softmax reads:qk_rope_head_dim unread:head_dim qk_rope_head_dim=32
minimax half hybrid rope_theta=1000000.0
minimax_m2 half partial reads:rotary_dim head_dim=128 rope_theta=5000000.0
minimax_m3_vl_text half partial head_dim=128 rope_theta=5000000.0
ministral half
ministral3 half head_dim=128 rope_parameters.beta_fast=32.0 rope_parameters.beta_slow=1.0
    rope_parameters.factor=16.0 rope_parameters.llama_4_scaling_beta=0.1
    rope_parameters.max_position_embeddings=262144 rope_parameters.mscale=1.0
    rope_parameters.mscale_all_dim=1.0 rope_parameters.original_max_position_embeddings=16384
    rope_parameters.rope_theta=1000000.0 rope_parameters.rope_type="yarn"
    rope_parameters.type="yarn"
mistral half
mistral4 rope_interleave latent softmax reads:qk_rope_head_dim partial_rotary_factor=0.5
    qk_rope_head_dim=64 rope_parameters.beta_fast=32.0 rope_parameters.beta_slow=1.0
    rope_parameters.factor=128.0 rope_parameters.llama_4_scaling_beta=0.1
    rope_parameters.max_position_embeddings=1048576 rope_parameters.mscale=1.0
    rope_parameters.mscale_all_dim=1.0 rope_parameters.original_max_position_embeddings=8192
    rope_parameters.partial_rotary_factor=0.5 rope_parameters.rope_theta=10000.0
    rope_parameters.rope_type="yarn" rope_parameters.type="yarn"
mixtral half rope_theta=1000000.0
mllama_text_model half rope_theta=500000.0
modernbert half legacy:global unread:rope_theta
    rope_parameters.full_attention.rope_theta=160000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
modernbert-decoder half legacy:global unread:rope_theta
    rope_parameters.full_attention.rope_theta=160000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=10000.0
    rope_parameters.sliding_attention.rope_type="default"
molmo2_text half head_dim=128
moonshine interleaved partial partial_rotary_factor=0.9
moonshine_streaming interleaved partial rope_parameters.partial_rotary_factor=0.8
    rope_parameters.rope_theta=10000.0 rope_parameters.rope_type="default"
moshi half
muse_glimmer_assistant half head_dim=128 rope_theta=500000.0
muse_glimmer_text half head_dim=128
muse_spark_text half head_dim=64 rope_parameters.rope_theta=500000.0
    rope_parameters.rope_type="default"
nanochat half negative
nemotron half partial partial_rotary_factor=0.5
nemotron3_5_transcribe_asr_audio half partial rope_parameters.partial_rotary_factor=0.5
    rope_parameters.rope_theta=10000.0 rope_parameters.rope_type="default"
nemotron3_5_transcribe_word_timestamp half partial rope_parameters.partial_rotary_factor=0.5
    rope_parameters.rope_theta=10000.0 rope_parameters.rope_type="default"
nemotron3_diarization_audio half partial
neucodec half head_dim=64
nomic_bert half rope_theta=1000.0
olmo half
olmo2 half
olmo3 half legacy:shared rope_parameters.full_attention.rope_theta=500000.0
    rope_parameters.full_attention.rope_type="default"
    rope_parameters.sliding_attention.rope_theta=500000.0
    rope_parameters.sliding_attention.rope_type="default"
olmo_hybrid half hybrid
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
persimmon half partial partial_rotary_factor=0.5
phi half partial partial_rotary_factor=0.5
phi3 half partial original_max_position_embeddings=4096
phi4_multimodal half partial original_max_position_embeddings=4096
phimoe half mscales rope_theta=1000000.0
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
qwen3_5_moe_text half sections:interleaved partial hybrid head_dim=256 mrope_section=[11,11,10]
    partial_rotary_factor=0.25
qwen3_5_text half sections:interleaved partial hybrid head_dim=256 mrope_section=[11,11,10]
    partial_rotary_factor=0.25
qwen3_moe half
qwen3_next half partial hybrid head_dim=256 partial_rotary_factor=0.25
qwen3_omni_moe_talker_code_predictor half head_dim=128
qwen3_omni_moe_talker_text half sections:interleaved mrope_section=[24,20,20]
qwen3_omni_moe_text half sections:interleaved mrope_section=[24,20,20] rope_theta=1000000.0
qwen3_vl_moe_text half sections:interleaved mrope_section=[24,20,20] rope_theta=500000.0
qwen3_vl_text half sections:interleaved head_dim=128 mrope_section=[24,20,20]
    rope_theta=500000.0
qwen4_exp_text half sections:interleaved partial hybrid head_dim=256 mrope_section=[11,11,10]
recurrent_gemma half partial hybrid partial_rotary_factor=0.5
roformer interleaved unread:head_dim,rope_parameters,rope_theta
seed_oss half head_dim=128
smollm3 half no_rope_layer_interval=4 rope_theta=2000000.0
solar_open half head_dim=128 rope_theta=1000000.0
stablelm half partial partial_rotary_factor=0.25
starcoder2 half
step3p5 half partial unread:partial_rotary_factor head_dim=128
    rope_parameters.full_attention.rope_theta=10000.0
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
unlimited_ocr_text half unread:head_dim
vaultgemma half head_dim=256
voxtral_realtime_encoder half head_dim=64
voxtral_realtime_text half
wav2vec2-bert half only:position_embeddings_type="rotary" reads:rotary_embedding_base
    unread:head_dim,rope_parameters,rope_theta
wav2vec2-conformer half only:position_embeddings_type="rotary" reads:rotary_embedding_base
    unread:head_dim,rope_parameters,rope_theta
xcodec2 half head_dim=64
youtu rope_interleave latent softmax reads:qk_rope_head_dim qk_rope_head_dim=64
zaya half partial unread:partial_rotary_factor,rope_theta head_dim=128
    rope_parameters.hybrid.partial_rotary_factor=0.5 rope_parameters.hybrid.rope_theta=5000000.0
    rope_parameters.hybrid.rope_type="default"
    rope_parameters.hybrid_sliding.partial_rotary_factor=0.5
    rope_parameters.hybrid_sliding.rope_theta=10000.0
    rope_parameters.hybrid_sliding.rope_type="default"
"""


# The model types of transformers whose code has no rotation. Written by tests/checkpoints/test_config_oracle.py.
_WITHOUT = """
aimv2_text_model aimv2_vision_model albert align_text_model align_vision_model altclip_text_model
altclip_vision_model audio-spectrogram-transformer audioflamingo3_encoder autoformer bart beit bert
bert-generation big_bird bigbird_pegasus biogpt bit blenderbot blenderbot-small blip_2_qformer
blip_2_vision_model blip_text_model blip_vision_model bloom bridgetower_text_model
bridgetower_vision_model bros camembert canary_decoder canine chinese_clip_text_model
chinese_clip_vision_model clap_audio_model clap_text_model clip_text_model clip_vision_model
clipseg_text_model clipseg_vision_model coarse_acoustics convbert convnext convnextv2 cpmant ctrl
cvt dac data2vec-audio data2vec-text data2vec-vision deberta deberta-v2 decision_transformer deit
dinat dinov2 dinov2_with_registers dinov3_convnext distilbert donut-swin dpr edgetam_mask_decoder
edgetam_prompt_encoder efficientnet electra encodec eomt ernie falcon_mamba fastspeech2_conformer
fastspeech2_conformer_hifigan fine_acoustics flaubert flava_image_codebook flava_image_model
flava_multimodal_model flava_text_model florence_vision fnet focalnet fsmt fun_asr_nano_encoder
funnel git_vision_model glpn got_ocr2_vision gpt2 gpt_bigcode gpt_neo granite_speech5_encoder
granite_speech_encoder granite_speech_plus_encoder groupvit_text_model groupvit_vision_model
hgnet_v2 hiera hubert ibert idefics2_perceiver idefics2_vision idefics3_vision ijepa imagegpt
informer inkling_audio inkling_text inkling_vision instructblip_qformer instructblip_vision_model
instructblipvideo_qformer instructblipvideo_vision_model internvl_vision jamba janus_vision_model
janus_vqgan kimi_linear kosmos_2_5_text_model kosmos_2_5_vision_model kosmos_2_text_model
kosmos_2_vision_model layoutlm layoutlmv2 layoutlmv3 led levit lilt longformer longt5 luke
lw_detr_vit lxmert m2m_100 mamba mamba2 marian markuplm maskformer-swin mbart megatron-bert
metaclip_2_text_model metaclip_2_vision_model mgp-str minicpm_ocr_vision minicpmv4_6_vision
minicpmv4_7_vision mobilebert mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2
moss_transcribe_diarize_audio mpnet mpt mra mt5 musicgen_decoder musicgen_melody_decoder mvp
nemotron_h nllb-moe nystromformer openai-gpt opt ovis2_vision owlv2_text_model owlv2_vision_model
owlvit_text_model owlvit_vision_model patchtsmixer patchtst pegasus pegasus_x perceiver
pix2struct_text_model pix2struct_vision_model pixio plbart poolformer pop2piano pp_formulanet_text
pp_formulanet_vision pp_lcnet pp_lcnet_v3 pp_lcnet_v4 prophetnet pvt pvt_v2 qianfan_ocr_vision
qwen2_audio_encoder qwen3_asr_encoder radio rag reformer regnet rembert resnet rf_detr_dinov2
roberta roberta-prelayernorm roc_bert rt_detr_resnet rwkv sam2_hiera_det_model sam2_mask_decoder
sam2_prompt_encoder sam3_lite_text_detr_decoder sam3_lite_text_detr_encoder
sam3_lite_text_geometry_encoder sam3_lite_text_mask_decoder sam3_lite_text_text_model
sam3_tracker_mask_decoder sam3_tracker_prompt_encoder sam_hq_mask_decoder sam_hq_prompt_encoder
sam_hq_vision_model sam_mask_decoder sam_prompt_encoder sam_vision_model seamless_m4t_v2 segformer
seggpt semantic sew sew-d siglip2_text_model siglip2_vision_model siglip_text_model
siglip_vision_model slanext_vision smolvlm_vision speech_to_text speecht5 speecht5_hifigan splinter
squeezebert superpoint swiftformer swin swin2sr swinv2 switch_transformers t5 tapas textnet
time_series_transformer timesfm timesformer timm_backbone timm_wrapper tipsv2_text_model
tipsv2_vision_model trocr udop umt5 unispeech unispeech-sat univnet uvdoc_backbone
vibevoice_acoustic_tokenizer vibevoice_acoustic_tokenizer_decoder
vibevoice_acoustic_tokenizer_encoder vibevoice_diffusion videomae videomt videoprism_text_model
videoprism_vision_model vilt visual_bert vit vit_mae vit_msn vitdet vitpose_backbone vits vivit
voxtral_encoder wav2vec2 wavlm whisper xclip_text_model xclip_vision_model xglm xlm xlm-roberta
xlm-roberta-xl xlnet xlstm xmod yolos yoso zamba
"""
# Of these the layers are worth asking for one by one: recurrent ones, and attention without positions beside them.
_RECURRENT = """
falcon_mamba jamba kimi_linear mamba mamba2 nemotron_h rwkv xlstm zamba
"""
# The model type of a language model within a configuration of several parts, if that part has none of its own.
_PARTS = """
aimv2=aimv2_text_model align=align_text_model altclip=altclip_text_model aria=aria_text
audioflamingo3=qwen2 aya_vision=cohere2 blip-2=opt blip=blip_text_model
bridgetower=bridgetower_text_model chinese_clip=chinese_clip_text_model clap=clap_text_model
clip=clip_text_model clipseg=clipseg_text_model clvp=clvp_encoder cohere2_vision=cohere2
cohere_compass=cohere_compass_text cosmos3_edge=cosmos3_edge_text cosmos3_omni=qwen3_vl_text
deepseek_ocr2=deepseek_ocr2_text deepseek_vl=llama deepseek_vl_hybrid=llama
diffusion_gemma=diffusion_gemma_text dots3_note=dots3_note_text
embedding_gemma2=embedding_gemma2_text emu3=emu3_text_model ernie4_5_vl_moe=ernie4_5_vl_moe_text
exaone4_5=exaone4 fast_vlm=qwen2 flava=flava_text_model florence2=bart fun_asr_nano=qwen3
fuyu=persimmon gemma3=gemma3_text gemma3n=gemma3n_text gemma4=gemma4_text
gemma4_unified=gemma4_unified_text gemma4_unified_assistant=gemma4_unified_text glm46v=glm4v_text
glm4v=glm4v_text glm4v_moe=glm4v_moe_text glm5_next=glm5_next_text glm_image=glm_image_text
glm_ocr=glm_ocr_text glmasr=llama glmga=glm4v_text got_ocr2=qwen2
granite4_vision=granite4_vision_text granite_docling=granite_docling_text granite_speech=granite
granite_speech_plus=granite grounding-dino=bert groupvit=groupvit_text_model
hunyuan_vl=hunyuan_vl_text hyperclovax_vision_v2=hyperclovax idefics2=mistral idefics3=llama
inkling2=inkling2_text inkling_mm_model=inkling_text instructblip=opt instructblipvideo=opt
internvl=qwen2 janus=llama jev=qwen3_5_text kimi_k25=deepseek_v3 kosmos-2.5=kosmos_2_5_text_model
kosmos-2=kosmos_2_text_model lfm2_vl=lfm2 lfm3_vl=lfm3 lighton_ocr=qwen3 llama4=llama4_text
llava=llama llava_next=llama llava_next_video=llama llava_onevision=qwen2
metaclip_2=metaclip_2_text_model minicpm_ocr=qwen3_5_text minicpmv4_6=qwen3_5_text
minicpmv4_7=qwen3_5_text minimax_m3_vl=minimax_m3_vl_text mistral3=mistral
mistral_large4=mistral_large4_text mllama=mllama_text_model mm-grounding-dino=bert
modernvbert=modernbert molmo2=molmo2_text moss_transcribe_diarize=qwen3
muse_glimmer=muse_glimmer_text muse_spark=muse_spark_text musicflamingo=qwen2
nemo_speechlm=nemotron_h nemotron_h_omni=nemotron_h omdet-turbo=clip_text_model ovis2=qwen2
owlv2=owlv2_text_model owlvit=owlvit_text_model paddleocr_vl=paddleocr_vl_text paligemma=gemma
pe_audio=modernbert pe_audio_video=modernbert pe_video=modernbert perception_lm=llama
pix2struct=pix2struct_text_model pp_chart2table=qwen2 pp_formulanet=pp_formulanet_text
qianfan_ocr=qwen3 qwen2_5_omni_thinker=qwen2_5_omni_text qwen2_5_vl=qwen2_5_vl_text
qwen2_audio=qwen2 qwen2_vl=qwen2_vl_text qwen3_5=qwen3_5_text qwen3_5_moe=qwen3_5_moe_text
qwen3_asr=qwen3 qwen3_omni_moe_thinker=qwen3_omni_moe_text qwen3_vl=qwen3_vl_text
qwen3_vl_moe=qwen3_vl_moe_text qwen4_exp=qwen4_exp_text sam3=clip_text_model
sam3_lite_text=sam3_lite_text_text_model shieldgemma2=gemma3_text siglip2=siglip2_text_model
siglip=siglip_text_model smolvlm=llama step3p7=step3p5 t5gemma2_encoder=t5gemma2_text
tipsv2=tipsv2_text_model ultravbert=ultrabert unlimited_ocr=unlimited_ocr_text vibevoice=qwen2
vibevoice_asr=qwen2 video_llama_3=qwen2 video_llava=llama videoprism=videoprism_text_model
vipllava=llama vision-text-dual-encoder=bert voxtral=llama voxtral_realtime=voxtral_realtime_text
xclip=xclip_text_model
"""


def known() -> list[str]:
    """Return the names of all model types that are known."""
    return sorted((*_rows(), *_ALIASES))


def has_no_rotary(name: Any) -> bool:
    """Whether the code of a model type rotates nothing."""
    return isinstance(name, str) and name in _words(_WITHOUT)


def is_recurrent(name: Any) -> bool:
    """Whether a model type without rotation has layers of several kinds, or recurrent ones."""
    return isinstance(name, str) and name in _words(_RECURRENT)


def part_type(name: Any) -> Any:
    """Return the model type of a part that has none of its own, from the one above it."""
    pairs = dict(pair.split("=") for pair in _words(_PARTS))
    return pairs.get(name, name) if isinstance(name, str) else name


@lru_cache(maxsize=4)
def _words(block: str) -> frozenset[str]:
    return frozenset(block.split())


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
        reads=_names(named.get("reads")),
        unread=_names(named.get("unread")),
        defaults=defaults,
        **{flag: flag in flags for flag in _FLAGS},
    )


_FLAGS = ("latent", "softmax", "last", "negative", "partial", "mscales", "hybrid")


def _names(listed: str | None) -> frozenset[str]:
    return frozenset(() if listed is None else listed.split(","))


def _put(target: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value at a path of nested dicts."""
    for key in path[:-1]:
        target = target.setdefault(key, {})
    target[path[-1]] = value
