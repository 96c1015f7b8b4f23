"""What `python -m rotary` runs: the self-test, the benchmark and the report."""
