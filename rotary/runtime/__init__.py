"""The pool of memory for results, and how many threads a caller allows."""
