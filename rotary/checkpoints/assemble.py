"""Makes schedules and embeddings of numbers with origins, for configurations and for GGUF files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from rotary._lib.errors import ConfigError
from rotary._lib.typing import BatchAxis
from rotary.embedding import RotaryEmbedding
from rotary.scaling import Scaling

from .reader import Found

__all__ = [
    "as_config_errors",
    "check_pair_counts",
    "check_sections",
    "finished",
    "origins_of",
    "schedule_of",
]

S = TypeVar("S", bound=Scaling)


@contextmanager
def as_config_errors(words: str) -> Iterator[None]:
    """Turn errors of schedules and embeddings into errors of the configuration, introduced by `words`."""
    try:
        yield
    except ConfigError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{words}: {error}"
        raise ConfigError(msg) from error


def schedule_of(kind: type[S], fields: Mapping[str, Found]) -> tuple[S, dict[str, str]]:
    """Return a schedule, and the origins of its fields."""
    made = kind(**{name: found.value for name, found in fields.items()})
    return made, origins_of(fields, "scaling.")


def origins_of(fields: Mapping[str, Found], prefix: str = "") -> dict[str, str]:
    """Return the origins of numbers by their names in `explain`."""
    return {prefix + name: found.origin for name, found in fields.items() if found.origin}


def check_pair_counts(factors: Mapping[str, Sequence[float] | None], rotary_dim: int) -> None:
    """Refuse lists of factors, by name, that do not have one number for each channel pair."""
    for name, values in factors.items():
        if values is not None and len(values) != rotary_dim // 2:
            msg = (
                f"`{name}` must hold {rotary_dim // 2} numbers, one for each pair of {rotary_dim} "
                f"rotated channels, got {len(values)}"
            )
            raise ConfigError(msg)


def check_sections(name: str, sizes: Sequence[int], rotary_dim: int) -> None:
    """Refuse sections that do not divide all channel pairs between the position axes."""
    if sum(sizes) != rotary_dim // 2:
        msg = (
            f"`{name}` must add up to the {rotary_dim // 2} pairs of {rotary_dim} rotated channels, got "
            f"{list(sizes)}, which add up to {sum(sizes)}"
        )
        raise ConfigError(msg)


def finished(
    rope: RotaryEmbedding, axes: tuple[int | None, BatchAxis], origins: Mapping[str, str]
) -> RotaryEmbedding:
    """Set the caller's axes, whose errors are not those of a configuration, and the origins."""
    seq_axis, batch_axis = axes
    if seq_axis is not None or batch_axis is not None:
        rope = replace(rope, seq_axis=seq_axis, batch_axis=batch_axis)
    return rope._explained(dict(origins))
