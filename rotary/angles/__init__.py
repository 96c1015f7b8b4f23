"""Inverse frequencies and exact phases, in integers."""
