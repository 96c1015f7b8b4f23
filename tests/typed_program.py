"""A user's program: type checkers must refuse the lines that end with `# error`, and no others (`test_types.py`)."""

from __future__ import annotations

import dataclasses
import datetime as dt
from fractions import Fraction
from typing import Any, Unpack, assert_type

import numpy as np
import numpy.typing as npt

import rotary
from rotary import RMSNorm, RotaryEmbedding, __version__, formats, positions, scaling
from rotary.typing import AnyArray, CallOptions

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]


class Tensor:
    """An array of another library."""

    shape: tuple[int, ...]
    dtype: str


q: Float32 = np.ones((2, 3, 64), np.float32)
k: Float64 = np.ones((2, 3, 64))
t, u = Tensor(), Tensor()
days = [dt.date(2024, 1, 1)]
options: dict[str, Any] = {"offset": 3}

# ------------------------------------------------------------------------------------------------
# An embedding, and its schedule.

rope = RotaryEmbedding(64, layout="half", base=10_000.0, scaling=scaling.Linear(2.0))
yarn = scaling.Yarn(4.0, 4096, attention_factor=1.0)
long = scaling.LongRope([1.0] * 32, np.ones(32), original_max_position=4096, factor=2.0)
RotaryEmbedding(64, layout="half", scaling=scaling.Custom(np.ones(32)), sections=[0] * 32)
RotaryEmbedding(64, layout="half", base=1e4, batch_axis=False, seq_axis=-2)
assert_type(rope.base, float | None)
assert_type(rope.inv_freq, Float64)
assert_type(yarn.attention_factor, float)
assert_type(scaling.Yarn(4.0, 4096, attention_factor=None).softmax_factor, float)
assert_type(long.long_factor, tuple[float, ...])
assert_type(long.attention_factor, float)
assert_type(scaling.FreqFactors(freq_factors=t).freq_factors, tuple[float, ...])
dataclasses.replace(yarn, softmax_factor=1.0)
assert_type(rope.at_length(5), RotaryEmbedding)

RotaryEmbedding(64, layout="half", theta=10_000.0)  # error
RotaryEmbedding(64, layout="halves", base=10_000.0)  # error
RotaryEmbedding("64", layout="half", base=10_000.0)  # error
RotaryEmbedding(64, base=10_000.0)  # error
RotaryEmbedding(64, layout="half", base=10_000.0, scaling="yarn")  # error
scaling.Linear(scaling_factor=2.0)  # error
scaling.Yarn(4.0, 4096, mscale_rule="vllm")  # error
scaling.Yarn(4.0, 4096, attention_factor="1")  # error
scaling.LongRope(1.0, [2.0], original_max_position=4096, factor=2.0)  # error
scaling.LongRope("12", [2.0], original_max_position=4096, factor=2.0)  # error
scaling.FreqFactors([1.0])  # error
yarn.attention_factor = 2.0  # error
rope.base = 3.0  # error

# ------------------------------------------------------------------------------------------------
# Methods return the type of their argument.

assert_type(rope(q), Float32)
assert_type(rope(q, k), tuple[Float32, Float64])
assert_type(rope(t, u), tuple[Tensor, Tensor])
assert_type(rope(t, u, t), tuple[Tensor, ...])
assert_type(rope(*[t, u]), tuple[Tensor, ...])
assert_type(rope(q, **options), Float32)
assert_type(rope.inverse(t), Tensor)
assert_type(rope.inverse(q, k), tuple[Float32, Float64])
assert_type(rope.vjp(k), Float64)
assert_type(rope(q, k, inv_freq=[1.0] * 32), tuple[Float32, Float64])
assert_type(rope.inverse(t, inv_freq=u), Tensor)
gradients = rope.vjp(q, k, primals=(q, k), wrt=("x", "inv_freq"), offset=3, inv_freq=t)
assert_type(gradients, tuple[AnyArray | tuple[AnyArray, ...], ...])
assert_type(rope.shift(t, 3), Tensor)
assert_type(rope.shift(t, [3, 4], to=rope, offset=0), Tensor)
assert_type(rope.shift(t, 3, scales=u), tuple[Tensor, Tensor])
assert_type(rope.shift(t, 3, scales=0.5), tuple[Tensor, AnyArray])

q, k = rope(q, k, positions=positions.ragged([0, 2, 3]), seq_axis=-2, out=(q, k))
rope(q, positions=[[0, 1, 2], [0, 1, 2]], batch_axis=0)
rope(q, positions=range(3))
rope(q, positions=((0.5, 1.5, 2.5),), role="query")
rope(q, k, offset=np.int64(3), cu_seqlens=np.array([0, 3]), seq_axis=(0, None), batch_axis=False)
rope(t, u, positions=t, offset=None, out=[t, u])
norm = RMSNorm(
    q[0], None, False, eps=1e-6, unit_offset=True, order="after", kind="l2", over="token"
)
assert_type(norm.eps, float)
assert_type(rope(q, norm=RMSNorm([1.0] * 64)), Float32)
assert_type(rope(t, u, norm=RMSNorm(t)), tuple[Tensor, Tensor])
RMSNorm(q, order="first")  # error
RMSNorm("weight")  # error
RMSNorm(True)  # error
rope(q, norm=q)  # error
rope.inverse(q, norm=norm)  # error
rope.shift(q, 3, norm=norm)  # error

rope(q, position=3)  # error
rope(q, positions="three")  # error
rope(q, positions=3j)  # error
rope(q, role="value")  # error
rope(q, seq_axis=1.5)  # error
rope(q, out=3)  # error
rope([1.0, 2.0])  # error
rope()  # error
rope.inverse(q, scale=3)  # error
rope.vjp(q, wrt=3)  # error
rope(q, inv_freq=3j)  # error
rope.shift(k, 3, inv_freq=[1.0])  # error
rope.shift(k)  # error
rope.shift(k, 3, position=3)  # error
rope.shift(k, 3, to="rope")  # error
q = rope(t)  # error


def forward(x: Float32, **options: Unpack[CallOptions]) -> Float32:
    """Pass arguments on, as a module of a user does."""
    return rope.inverse(rope(x, **options), **options)


forward(q, positions=[0, 1, 2], seq_axis=-2)
forward(q, positions="012")  # error
forward(q, axis=1)  # error

# ------------------------------------------------------------------------------------------------
# Functions.

cos, sin = rope.tables([1, 2, 3])
assert_type(cos, Floats)
assert_type(rope.tables(t), tuple[Tensor, Tensor])
assert_type(rotary.cos_sin(t, [1.0, 0.1], dtype=np.float64), tuple[Tensor, Tensor])
assert_type(rotary.sinusoidal(5, 64), Floats)
assert_type(rotary.apply_rotary(q, cos, sin, layout="half", out=q), Float32)
assert_type(rotary.apply_rotary(t, t, t, layout="half"), Tensor)
assert_type(rotary.permute_weights(t, 8, source="half", target="half"), Tensor)
assert_type(rotary.inv_freq(64, base=1e4), Float64)
assert_type(rope.matrix(3), Float64)

rotary.apply_rotary(q, cos, sin, layout="half", axis=1)  # error
rotary.apply_rotary(q, cos, sin)  # error
rotary.apply_rotary(q, 0.5, sin, layout="half")  # error
rotary.cos_sin("1", [1.0])  # error
rotary.permute_weights(q, 8, source="half", target="neox")  # error
rotary.inv_freq(64)  # error

# ------------------------------------------------------------------------------------------------
# Formats and positions.

assert_type(formats.to_full_width(t, t, layout="half"), tuple[Tensor, Tensor])
assert_type(formats.from_complex(np.ones(4, np.complex128)), tuple[Floats, Floats])
assert_type(formats.from_ggml(t, rotary_dim=64), tuple[Tensor, Tensor])
assert_type(formats.to_onnx(rope, range(4096)).inputs, tuple[str, ...])
assert_type(positions.from_mask(t), Tensor)
assert_type(positions.from_mask([[1, 0]]), Int64)
assert_type(positions.timestamps(days, unit="s", origin="2024-01-01"), Int64 | Float64)
assert_type(positions.steps(8, 3, -1), Int64)
assert_type(positions.steps(8, step=Fraction(1, 3)), Int64 | Float64)
assert_type(positions.zigzag(8, rank=0, world=2), Int64)
positions.grid(2, 3, normalize="separate", step=[0.5, 1])
positions.mixed([positions.Text(3)], style="qwen2_vl")

formats.to_concatenated(cos, sin, order="sin")  # error
positions.grid(2, 3, normalize="both")  # error
positions.mixed([positions.Text(3)], style="qwen4_vl")  # error
positions.timestamps([1], unit=3, origin=0)  # error

# ------------------------------------------------------------------------------------------------
# Checkpoints.

assert_type(rotary.from_config("model", dialect="vllm"), RotaryEmbedding | None)
assert_type(rotary.from_config({"head_dim": 64}, inv_freq=[1.0, 0.1]), RotaryEmbedding | None)
assert_type(rotary.from_gguf({}, tensors={"rope_freqs.weight": q}), RotaryEmbedding | None)
assert_type(rotary.preset("mimi-hf", seq_axis=-2), RotaryEmbedding)

rotary.from_config("model", dialect="vlm")  # error
rotary.from_config("model", inv_freq="learned")  # error
rotary.from_config("model", theta=10_000.0)  # error
rotary.preset(3)  # error

# ------------------------------------------------------------------------------------------------
# Names.

known: rotary.Preset = rotary.presets()["mimi-hf"]
release: str = __version__
hidden = rotary.presets.Preset  # error
missing = rotary.no_such_name  # error
misspelt = rotary.RotaryEmbeding  # error
