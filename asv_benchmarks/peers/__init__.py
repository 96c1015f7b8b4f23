"""Measures rotary beside other libraries on a CPU: `nox -s peers` writes docs/performance."""
