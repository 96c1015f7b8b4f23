"""Memory for results, and how many threads a caller allows."""
