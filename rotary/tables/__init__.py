"""The one cache of cosine and sine tables."""
