"""Compares rotary with other libraries on a CPU: `nox -s peers` writes docs/performance."""
