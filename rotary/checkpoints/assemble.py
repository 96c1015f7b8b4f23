"""Makes schedules and embeddings from numbers with origins, for configurations and for GGUF files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from rotary._lib.errors import ConfigError
from rotary._lib.typing import BatchAxis
from rotary.embedding import RotaryEmbedding
from rotary.scaling import Scaling

from .reader import Sourced

__all__ = [
    "as_config_errors",
    "check_pair_counts",
    "check_sections",
    "origins_of",
    "schedule_from_fields",
    "with_axes_and_origins",
]

S = TypeVar("S", bound=Scaling)


@contextmanager
def as_config_errors(prefix: str) -> Iterator[None]:
    """Re-raise errors of schedules and embeddings as `ConfigError`, with a prefix to the message."""
    try:
        yield
    except ConfigError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{prefix}: {error}"
        raise ConfigError(msg) from error


def schedule_from_fields(kind: type[S], fields: Mapping[str, Sourced]) -> tuple[S, dict[str, str]]:
    """Return a schedule with the given fields, and the origins of the fields."""
    scaling = kind(**{name: found.value for name, found in fields.items()})
    return scaling, origins_of(fields, "scaling.")


def origins_of(fields: Mapping[str, Sourced], prefix: str = "") -> dict[str, str]:
    """Return the origins of numbers by the names that `explain` prints."""
    return {prefix + name: found.origin for name, found in fields.items() if found.origin}


def check_pair_counts(factors: Mapping[str, Sequence[float] | None], rotary_dim: int) -> None:
    """Raise for a list of factors that does not have one number for each channel pair."""
    for name, values in factors.items():
        if values is not None and len(values) != rotary_dim // 2:
            msg = (
                f"`{name}` must have {rotary_dim // 2} numbers, one for each channel pair of {rotary_dim} "
                f"rotated channels, got {len(values)}"
            )
            raise ConfigError(msg)


def check_sections(name: str, sizes: Sequence[int], rotary_dim: int) -> None:
    """Raise for sections that do not add up to the number of channel pairs."""
    if sum(sizes) != rotary_dim // 2:
        msg = (
            f"`{name}` must add up to the {rotary_dim // 2} channel pairs of {rotary_dim} rotated channels, got "
            f"{list(sizes)}, which add up to {sum(sizes)}"
        )
        raise ConfigError(msg)


def with_axes_and_origins(
    rope: RotaryEmbedding, axes: tuple[int | None, BatchAxis], origins: Mapping[str, str]
) -> RotaryEmbedding:
    """Return an embedding with the axes that the caller gave, and with the origins of its numbers.

    Errors about the axes are not errors of the configuration, so `as_config_errors` does not cover this function.
    """
    seq_axis, batch_axis = axes
    if seq_axis is not None or batch_axis is not None:
        rope = replace(rope, seq_axis=seq_axis, batch_axis=batch_axis)
    return rope._explained(dict(origins))
