"""Makes embeddings from configurations, GGUF files and presets."""
