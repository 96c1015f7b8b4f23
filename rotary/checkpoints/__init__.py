"""Embeddings from configurations, GGUF metadata and presets."""
