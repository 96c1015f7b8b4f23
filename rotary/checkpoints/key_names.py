"""The names of the same quantity in the configurations of different models."""

from __future__ import annotations

__all__ = [
    "BASES",
    "CONTEXT_LENGTHS",
    "FRACTIONS",
    "HEAD_COUNTS",
    "HIDDEN_SIZES",
    "INTERLEAVED",
    "LANGUAGE_PARTS",
    "LAYER_COUNTS",
    "LOOKS_LIKE_ROPE",
    "ROPE_DICTS",
    "WIDTHS",
]

HIDDEN_SIZES = ("hidden_size", "n_embd", "d_model")
HEAD_COUNTS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "encoder_num_attention_heads",
)
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
# The width of a head. In a model type that is not known, all names but the first may mean another width.
WIDTHS = (
    *("head_dim", "kv_channels", "attention_head_dim", "attention_head_size", "attn_head_dim"),
    *("head_size", "head_width", "head_dims", "d_head", "d_kv", "dim_head", "dim_per_head"),
    *("size_per_head", "hidden_size_per_head", "hidden_size_per_attention_head", "qk_head_dim"),
    *("qk_rope_head_dim", "global_head_dim", "swa_head_dim"),
)
BASES = (
    *("rope_theta", "rotary_emb_base", "rotary_embedding_base", "rope_embedding_base"),
    "rope_freq_constant",
)
FRACTIONS = (
    *("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent", "rotary_percent"),
    "rotary_emb_fraction",
)
INTERLEAVED = (
    *("rope_interleave", "rope_interleaved", "rotary_interleaved", "rotary_emb_interleaved"),
)
CONTEXT_LENGTHS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"),
    "model_max_length",
)
ROPE_DICTS = ("rope_parameters", "rope_scaling")
LANGUAGE_PARTS = ("text_config", "language_config", "llm_config")
# A pattern that matches keys about rotary embeddings.
LOOKS_LIKE_ROPE = r"(^|_)(rope|rotary|yarn|mrope|xdrope|ntk)(_|$)"
