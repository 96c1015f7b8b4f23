"""rotary beside the other ways to rotate on a CPU: `nox -s peers` measures them and writes docs/performance."""
