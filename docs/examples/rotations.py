"""Holds the right rotation of queries and keys, and the ways to get it wrong in silence."""

from __future__ import annotations

import numpy as np
from moonshine import Array
from moonshine.encoder import HEAD_DIM, Rotation

import rotary

UNIX_TIME = 1_700_000_000  # where a stream starts whose positions count from 1970, in seconds

# Queries and keys lie as the projections leave them, (frames, heads, head_dim): time is the third
# axis from the end. Of a head's 36 channels Moonshine turns the first 32, in neighbouring pairs.
MOONSHINE = rotary.RotaryEmbedding(
    HEAD_DIM, layout="interleaved", base=10_000.0, rotary_dim=32, seq_axis=-3
)
WRONG_LAYOUT = rotary.RotaryEmbedding(
    HEAD_DIM, layout="half", base=10_000.0, rotary_dim=32, seq_axis=-3
)
WRONG_WIDTH = rotary.RotaryEmbedding(HEAD_DIM, layout="interleaved", base=10_000.0, seq_axis=-3)


def by(embedding: rotary.RotaryEmbedding, *, offset: int = 0) -> Rotation:
    """Rotate by `embedding`, the first frame standing at position `offset`."""

    def rotate(q: Array, k: Array) -> tuple[Array, Array]:
        q, k = embedding(q, k, offset=offset)
        return q, k

    return rotate


def float32_tables(frames: int, offset: int) -> tuple[Array, Array]:
    """Cosines and sines the way they are usually copied: position times frequency, in float32."""
    positions = np.arange(frames, dtype=np.float32) + np.float32(offset)
    exponents = np.arange(0, 32, 2, dtype=np.float32) / np.float32(32)
    angles = np.outer(positions, np.float32(1) / np.float32(10_000) ** exponents)
    return np.cos(angles), np.sin(angles)


def by_float32_angles(*, offset: int = 0) -> Rotation:
    """Rotate by `float32_tables`: the right pairs and frequencies, angles rounded to float32."""

    def rotate(q: Array, k: Array) -> tuple[Array, Array]:
        cos, sin = float32_tables(len(q), offset)
        q, k = (rotary.apply_rotary(x, cos, sin, layout="interleaved", seq_axis=-3) for x in (q, k))
        return q, k

    return rotate


def not_at_all(q: Array, k: Array) -> tuple[Array, Array]:
    """Leave queries and keys as they are: the encoder hears a bag of frames."""
    return q, k


RIGHT = "rotary"
RIGHT_AT_UNIX_TIME = "rotary, from 1.7e9"
HALF = "layout half"
WIDE = "width 36 for 32"
NONE = "no rotation"
FLOAT32 = "float32 angles, from 0"
FLOAT32_AT_UNIX_TIME = "float32 angles, from 1.7e9"

ROTATIONS: dict[str, Rotation] = {
    RIGHT: by(MOONSHINE),
    RIGHT_AT_UNIX_TIME: by(MOONSHINE, offset=UNIX_TIME),
    HALF: by(WRONG_LAYOUT),
    WIDE: by(WRONG_WIDTH),
    NONE: not_at_all,
    FLOAT32: by_float32_angles(),
    FLOAT32_AT_UNIX_TIME: by_float32_angles(offset=UNIX_TIME),
}
