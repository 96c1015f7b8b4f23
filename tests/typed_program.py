"""A user's program for type checkers: `nox -s typing` fails if they refuse what is right or accept what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

import rotary
from rotary import Preset, RotaryEmbedding, __version__, positions

rope = RotaryEmbedding(64, layout="half", base=10_000.0, scaling=rotary.scaling.Linear(2.0))
q, k = np.ones((2, 3, 64)), np.ones((2, 3, 64))
options: dict[str, Any] = {"offset": 3}

q, k = rope(q, k, positions=positions.ragged([0, 2, 3]), seq_axis=-2, out=(q, k))
q = rope.inverse(rope(q, **options), **options)
k = rope.shift(k, 3, out=k)
cos, sin = rope.tables([1, 2, 3])
rotary.apply_rotary(q, cos, sin, layout="half", out=q)
known: Preset = rotary.presets()["mimi-hf"]
release: str = __version__


def refused() -> list[object]:
    """Use names and arguments that do not exist: mypy fails if it needs no comment here to pass them over."""
    from rotary import RotaryEmbeding  # type: ignore[attr-defined]

    rope(q, position=3)  # type: ignore[call-overload]
    rope.shift(k, 3, position=3)  # type: ignore[call-overload]
    rotary.apply_rotary(q, cos, sin, layout="half", axis=1)  # type: ignore[arg-type]
    return [
        RotaryEmbeding,
        rotary.presets.Preset,  # type: ignore[attr-defined]
        rotary.no_such_name,  # type: ignore[attr-defined]
        RotaryEmbedding(64, layout="half", theta=10_000.0),  # type: ignore[call-arg]
        RotaryEmbedding(64, layout="halves", base=10_000.0),  # type: ignore[arg-type]
        rotary.scaling.Linear(scaling_factor=2.0),  # type: ignore[call-arg]
    ]
