"""Code that is independent of rotary embeddings: types, errors, checks, numbers, array libraries and caches."""
