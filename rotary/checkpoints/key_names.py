"""The names that one thing has in the configurations of different models."""

from __future__ import annotations

__all__ = [
    "BASES",
    "COUNTS",
    "DICTS",
    "HEADS",
    "HIDDEN",
    "INTERLEAVED",
    "LANGUAGE",
    "LENGTHS",
    "LOOKS_LIKE_ROPE",
    "PARTS",
    "WIDTHS",
]

HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_num_attention_heads")
COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
# The width of a head. Model types that are not known may mean other widths by all but the first of them.
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
PARTS = (
    *("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent", "rotary_percent"),
    "rotary_emb_fraction",
)
INTERLEAVED = (
    *("rope_interleave", "rope_interleaved", "rotary_interleaved", "rotary_emb_interleaved"),
)
LENGTHS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"),
    "model_max_length",
)
DICTS = ("rope_parameters", "rope_scaling")
LANGUAGE = ("text_config", "language_config", "llm_config")
# A pattern of keys that have to do with rope.
LOOKS_LIKE_ROPE = r"(^|_)(rope|rotary|yarn|mrope|xdrope|ntk)(_|$)"
