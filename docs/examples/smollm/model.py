"""The network in NumPy, to show where a rotary embedding sits in a language model.

Thirty layers look back at the tokens so far. Only the *rotation* of queries and keys tells them in
which order these stand; it is passed in from outside, and swapping it is what the example is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import rotary
from smollm import Array, Tokens
from smollm.checkpoint import Checkpoint

Rotation = Callable[[Array, Array], tuple[Array, Array]]
"""Takes queries and keys (1, tokens, heads, head_dim), of fewer heads for keys, and rotates them."""


@dataclass(frozen=True)
class Layer:
    """The weights of one layer, each (out, in) as the file has them."""

    attention_norm: Array
    query: Array
    key: Array
    value: Array
    output: Array
    mlp_norm: Array
    gate: Array
    up: Array
    down: Array

    @classmethod
    def read(cls, tensors: dict[str, Array], index: int) -> Layer:
        """Gather layer `index`."""
        names = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
        names += ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
        return cls(*(tensors[f"blk.{index}.{name}.weight"] for name in names))


@dataclass(frozen=True)
class Model:
    """Tokens in, a score for every possible next token out."""

    embedding: Array
    layers: list[Layer]
    norm: Array
    heads: int
    key_heads: int
    epsilon: float

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> Model:
        """Gather the weights; the embedding also scores the tokens."""
        metadata, tensors = checkpoint.metadata, checkpoint.tensors
        return cls(
            embedding=tensors["token_embd.weight"],
            layers=[Layer.read(tensors, i) for i in range(metadata["llama.block_count"])],
            norm=tensors["output_norm.weight"],
            heads=metadata["llama.attention.head_count"],
            key_heads=metadata["llama.attention.head_count_kv"],
            epsilon=metadata["llama.attention.layer_norm_rms_epsilon"],
        )

    def permuted(self, **layouts: Any) -> Model:
        """The same model for another layout: rows of queries and keys change places."""
        layers = [
            replace(
                layer,
                query=rotary.permute_weights(layer.query, self.heads, **layouts),
                key=rotary.permute_weights(layer.key, self.key_heads, **layouts),
            )
            for layer in self.layers
        ]
        return replace(self, layers=layers)

    def logits(self, tokens: Tokens, rotate: Rotation) -> Array:
        """Score every token of the vocabulary after each of `tokens`: (tokens, vocabulary)."""
        x = self.embedding[tokens]
        for layer in self.layers:
            x = x + self._attend(self._normalize(x, layer.attention_norm), layer, rotate)
            x = x + perceive(self._normalize(x, layer.mlp_norm), layer)
        return self._normalize(x, self.norm) @ self.embedding.T

    def _attend(self, x: Array, layer: Layer, rotate: Rotation) -> Array:
        """Self-attention to what came before: queries and keys are rotated, values are not."""
        tokens = len(x)
        q = (x @ layer.query.T).reshape(1, tokens, self.heads, -1)
        k, v = ((x @ w.T).reshape(1, tokens, self.key_heads, -1) for w in (layer.key, layer.value))
        q, k = rotate(q, k)
        # Several heads of queries share one of keys and values.
        q = q.reshape(tokens, self.key_heads, self.heads // self.key_heads, -1)
        scores = np.einsum("qgnd,kgd->gnqk", q, k[0]) / np.float32(q.shape[-1] ** 0.5)
        scores += np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
        mixed = np.einsum("gnqk,kgd->qgnd", softmax(scores), v[0])
        return mixed.reshape(tokens, -1) @ layer.output.T

    def _normalize(self, x: Array, weight: Array) -> Array:
        """Scale to unit root mean square, then by `weight`."""
        size: Array = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(self.epsilon))
        return x / size * weight


def perceive(x: Array, layer: Layer) -> Array:
    """The feed-forward half of a layer: wide, gated, narrow again."""
    gate = x @ layer.gate.T
    return (gate / (1 + np.exp(-gate)) * (x @ layer.up.T)) @ layer.down.T


def softmax(x: Array) -> Array:
    """Exponentials along the last axis, scaled to sum to one."""
    exponentials: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Array = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / total
