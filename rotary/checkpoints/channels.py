"""The widths of a head and the base, read in one way for configurations and for GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rotary._lib.checks import LARGEST_WIDTH, as_positive_float, as_positive_integer
from rotary._lib.errors import ConfigError

from .reader import Keys, Sourced, first_given

__all__ = ["check_head_dim", "check_rotary_dim", "divided_head_dim", "read_base", "rotary_start"]


def read_base(*groups: Iterable[tuple[Keys, str]]) -> Sourced | None:
    """Return the base of the frequencies from the first group of keys that gives one, or None."""
    return first_given(*groups, check=as_positive_float)


def divided_head_dim(
    keys: Keys,
    hidden_sizes: Iterable[str],
    head_counts: Iterable[str],
    advice: str,
    as_head_count: Callable[[Any, str], int] = as_positive_integer,
) -> Sourced | None:
    """Return the width of the model divided by the number of heads, or None if either is not given."""
    hidden = keys.get_one_of(hidden_sizes, as_positive_integer)
    heads = keys.get_one_of(head_counts, as_head_count)
    if hidden is None or heads is None:
        return None
    if hidden.value % heads.value:
        must = f"must be a multiple of the {heads.value} heads in {heads.key}"
        msg = f"`{hidden.key}` {must}, got {hidden.value}; {advice}"
        raise ConfigError(msg)
    return Sourced(hidden.value // heads.value, f"derived: {hidden.key} / {heads.key}")


def check_head_dim(head_dim: Sourced) -> None:
    """Raise if a head is so wide that its tables would take gigabytes of memory."""
    if head_dim.value > LARGEST_WIDTH:
        msg = (
            f"`head_dim` must be at most {LARGEST_WIDTH} channels, got {head_dim.value} "
            f"({head_dim.origin})"
        )
        raise ConfigError(msg)


def check_rotary_dim(rotary_dim: Sourced | None, head_dim: int) -> None:
    """Raise if more channels are rotated than a head has."""
    if rotary_dim is not None and rotary_dim.value > head_dim:
        msg = (
            f"`rotary_dim` must be at most head_dim {head_dim}, got {rotary_dim.value} "
            f"({rotary_dim.origin})"
        )
        raise ConfigError(msg)


def rotary_start(head_dim: int, rotary_dim: int, *, trailing: bool) -> int:
    """Return the first rotated channel: of the last `rotary_dim` channels if `trailing`, else 0."""
    return head_dim - rotary_dim if trailing else 0
