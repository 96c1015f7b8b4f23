"""Inverse frequencies, and exact angles in integers."""
