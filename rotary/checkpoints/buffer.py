"""Frequencies that a checkpoint stores itself, in place of those of its configuration."""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib.errors import ConfigError
from rotary._lib.typing import Float64Array
from rotary.embedding import RotaryEmbedding
from rotary.scaling import Custom, Scaling

# The relative error of a bfloat16 buffer is at most 2**-9; twice that is still far from any other schedule.
BUFFER_TOLERANCE = 2.0**-8


class CheckpointBuffer(Custom):
    """Frequencies of a checkpoint's own buffer, with the factors of its schedule.

    Parameters
    ----------
    inv_freq : array_like (dim/2,)
    schedule : Scaling
        Gives the attention factor, the softmax factor, and whether they depend on the length.
    context_length : int or None
        The only length that the buffer is valid for, if the schedule depends on the length.

    Raises
    ------
    TypeError, ValueError
        As `rotary.scaling.Custom`.
    """

    def __init__(self, inv_freq: Any, schedule: Scaling, context_length: int | None) -> None:
        super().__init__(inv_freq, schedule.attention_factor_at(context_length))
        length = context_length if schedule.needs_length else None
        object.__setattr__(self, "_rest", (float(schedule.softmax_factor), length))

    _rest: tuple[float, int | None]

    def _value(self) -> tuple[Any, ...]:
        return (*super()._value(), *self._rest)

    def __repr__(self) -> str:
        softmax, length = self._rest
        shown = f"{self.W.tolist()}, attention_factor={self.attention_factor}"
        return f"CheckpointBuffer({shown}, softmax_factor={softmax}, context_length={length})"

    @property
    def softmax_factor(self) -> float:
        """The factor on the softmax scale, from the schedule."""
        return self._rest[0]

    @property
    def needs_length(self) -> bool:
        """Whether the buffer is valid for one context length only."""
        return self._rest[1] is not None

    def inv_freq(
        self, dim: int, base: float | None = None, context_length: int | None = None
    ) -> Float64Array:
        """Return the frequencies.

        Parameters
        ----------
        dim : int
            Number of rotated channels.
        base
            Not read.
        context_length : int or None
            The length that the buffer was given for.

        Returns
        -------
        float64 array (dim/2,), read-only

        Raises
        ------
        ValueError
            If the length is another one, or `dim` is not twice the number of pairs.
        """
        del base
        if self.needs_length and context_length != self._rest[1]:
            msg = (
                f"`context_length` must be {self._rest[1]}, because the buffer was given for it, got "
                f"{context_length}; read the configuration again with the buffer of that length"
            )
            raise ValueError(msg)
        return super().inv_freq(dim)


def checked_buffer(values: Float64Array, rope: RotaryEmbedding) -> Float64Array:
    """Refuse a buffer that differs from the configuration by more than bfloat16 rounds."""
    ours = rope.inv_freq
    if values.shape != ours.shape:
        msg = (
            f"`inv_freq` must have shape {ours.shape}, one for each pair, got shape {values.shape}"
        )
        raise ConfigError(msg)
    off = np.abs(values - ours) > BUFFER_TOLERANCE * np.abs(ours)
    if off.any():
        pair = int(np.argmax(off))
        msg = (
            f"`inv_freq` must agree with the configuration within a relative {BUFFER_TOLERANCE}, the "
            f"rounding of bfloat16: pair {pair} has {ours[pair]}, got {values[pair]}; it may belong to another "
            "layer, another context length or another configuration (rotary.scaling.Custom takes anything)"
        )
        raise ConfigError(msg)
    return values
