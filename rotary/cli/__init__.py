"""The commands of `python -m rotary`, and the report of the configuration."""
