"""Frequencies from the buffer of a checkpoint, which replace those of its configuration."""

from __future__ import annotations

from typing import Any

import numpy as np

from rotary._lib.errors import ConfigError
from rotary._lib.typing import Float64Array
from rotary.embedding import RotaryEmbedding
from rotary.scaling import Custom, Scaling

# The relative error of a bfloat16 buffer is at most 2**-9. Twice that is still less than the difference between any
# two schedules.
BUFFER_TOLERANCE = 2.0**-8


class CheckpointBuffer(Custom):
    """Frequencies from the buffer of a checkpoint, with the factors of a schedule.

    Parameters
    ----------
    inv_freq : array_like (dim/2,)
    schedule : Scaling
        The schedule of the configuration. The attention factor and the softmax factor are taken from it.
    context_length : int or None
        The only context length for which the buffer is valid, if the schedule depends on the length.

    Raises
    ------
    TypeError, ValueError
        As for `rotary.scaling.Custom`.
    """

    def __init__(self, inv_freq: Any, schedule: Scaling, context_length: int | None) -> None:
        super().__init__(inv_freq, schedule.attention_factor_at(context_length))
        length = context_length if schedule.needs_length else None
        object.__setattr__(self, "_rest", (float(schedule.softmax_factor), length))

    # The softmax factor and the context length. Pickles contain this name.
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
            Not used.
        context_length : int or None
            The context length for which the buffer was given.

        Returns
        -------
        float64 array (dim/2,), read-only

        Raises
        ------
        ValueError
            If the context length is a different one, or `dim` is not twice the number of channel pairs.
        """
        del base
        if self.needs_length and context_length != self._rest[1]:
            msg = (
                f"`context_length` must be {self._rest[1]}, because the buffer was given for this "
                f"length, got {context_length}; read the configuration again with the buffer for the new length"
            )
            raise ValueError(msg)
        return super().inv_freq(dim)


def checked_buffer(values: Float64Array, rope: RotaryEmbedding) -> Float64Array:
    """Raise if a buffer differs from the configuration by more than the rounding to bfloat16."""
    expected = rope.inv_freq
    if values.shape != expected.shape:
        msg = (
            f"`inv_freq` must have shape {expected.shape}, one number for each channel pair, got shape "
            f"{values.shape}"
        )
        raise ConfigError(msg)
    off = np.abs(values - expected) > BUFFER_TOLERANCE * np.abs(expected)
    if off.any():
        pair = int(np.argmax(off))
        msg = (
            f"`inv_freq` must agree with the configuration within a relative {BUFFER_TOLERANCE}, because of "
            f"rounding to bfloat16, and be {expected[pair]} for channel pair {pair}, got {values[pair]}; it may "
            "belong to another layer, context length or configuration (rotary.scaling.Custom takes any numbers)"
        )
        raise ConfigError(msg)
    return values
