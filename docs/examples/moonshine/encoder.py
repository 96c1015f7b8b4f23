"""Moonshine's encoder in NumPy, to show where a rotary embedding sits in a speech model.

Three convolutions turn sound into frames, six transformer layers let the frames look at each other.
Only the *rotation* of queries and keys tells a layer where a frame stands in time; it is passed in
from outside, and swapping it is what the example is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import erf

from moonshine import Array
from moonshine.ort_format import OrtFile

SAMPLES_PER_FRAME = 64 * 3 * 2  # the strides of the three convolutions: 24 ms
LAYERS, HEADS, HEAD_DIM = 6, 8, 36

Rotation = Callable[[Array, Array], tuple[Array, Array]]
"""Takes queries and keys of shape (frames, heads, head_dim) and returns them rotated."""


@dataclass(frozen=True)
class Layer:
    """The weights of one transformer layer."""

    attention_norm: Array
    query: Array
    key: Array
    value: Array
    output: Array
    mlp_norm: Array
    expand: Array
    expand_bias: Array
    contract: Array
    contract_bias: Array

    @classmethod
    def read(cls, file: OrtFile, index: int) -> Layer:
        """Gather layer `index` from the file."""
        nodes, tensors = f"/layers.{index}", f"layers.{index}"
        return cls(
            attention_norm=file.tensor(f"{tensors}.input_layernorm.weight"),
            query=file.matrix(f"{nodes}/self_attn/q_proj/MatMul_quant"),
            key=file.matrix(f"{nodes}/self_attn/k_proj/MatMul_quant"),
            value=file.matrix(f"{nodes}/self_attn/v_proj/MatMul_quant"),
            output=file.matrix(f"{nodes}/self_attn/o_proj/MatMul_quant"),
            mlp_norm=file.tensor(f"{tensors}.post_attention_layernorm.weight"),
            expand=file.matrix(f"{nodes}/mlp/fc1/MatMul_quant"),
            expand_bias=file.tensor(f"{tensors}.mlp.fc1.bias"),
            contract=file.matrix(f"{nodes}/mlp/fc2/MatMul_quant"),
            contract_bias=file.tensor(f"{tensors}.mlp.fc2.bias"),
        )


class Encoder:
    """Sound in, one vector of 288 numbers per 24 ms out."""

    def __init__(self, file: OrtFile) -> None:
        self._file = file
        self._layers = [Layer.read(file, index) for index in range(LAYERS)]

    def frames(self, samples: Array) -> Array:
        """Turn mono `samples` at 16 kHz into frames (time, 288) that do not know their place."""
        tensor = self._file.tensor
        x = np.tanh(convolve(samples[:, None], tensor("conv1.weight_add_tensor"), stride=64))
        x = normalize(x, axis=None) * tensor("onnx::Mul_2080").T + tensor("onnx::Add_2081").T
        x = convolve(x, tensor("conv2.weight_add_tensor"), stride=3) + tensor("conv2.bias")
        x = convolve(gelu(x), tensor("conv3.weight_add_tensor"), stride=2) + tensor("conv3.bias")
        return gelu(x)

    def transform(self, x: Array, rotate: Rotation) -> Array:
        """Let the frames look at each other, six times over."""
        for layer in self._layers:
            x = x + attend(normalize(x) * layer.attention_norm, layer, rotate)
            x = x + perceive(normalize(x) * layer.mlp_norm, layer)
        return normalize(x) * self._file.tensor("layer_norm.weight")


def attend(x: Array, layer: Layer, rotate: Rotation) -> Array:
    """Self-attention: queries and keys are rotated, values are not."""
    q, k, v = (
        (x @ weights).reshape(-1, HEADS, HEAD_DIM)
        for weights in (layer.query, layer.key, layer.value)
    )
    q, k = rotate(q, k)
    scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / np.float32(HEAD_DIM**0.5)
    mixed = softmax(scores) @ v.transpose(1, 0, 2)
    return mixed.transpose(1, 0, 2).reshape(x.shape) @ layer.output


def perceive(x: Array, layer: Layer) -> Array:
    """The feed-forward half of a layer: wide, nonlinear, narrow again."""
    hidden = gelu(x @ layer.expand + layer.expand_bias)
    return hidden @ layer.contract + layer.contract_bias


def convolve(x: Array, weights: Array, *, stride: int) -> Array:
    """Slide weights (out, channels, width) over x (time, channels)."""
    out, _, width = weights.shape
    windows = sliding_window_view(x, width, axis=0)[::stride]
    return windows.reshape(len(windows), -1) @ weights.reshape(out, -1).T


def normalize(x: Array, axis: int | None = -1) -> Array:
    """Shift and scale to zero mean and unit variance along `axis`, or as a whole."""
    centred: Array = x - x.mean(axis=axis, keepdims=True)
    variance: Array = np.square(centred).mean(axis=axis, keepdims=True)
    spread: Array = np.sqrt(variance + np.float32(1e-5))
    return centred / spread


def softmax(x: Array) -> Array:
    """Exponentials along the last axis, scaled to sum to one."""
    exponentials: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Array = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / total


def gelu(x: Array) -> Array:
    """The Gaussian error linear unit in its exact form."""
    below: Array = (1 + erf(x * np.float32(0.5**0.5))) * np.float32(0.5)
    return x * below
