"""The model as shipped, run by ONNX Runtime: the reference encoder, and the decoder to text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from moonshine import SAMPLE_RATE, Array, wheel_file
from moonshine.encoder import HEAD_DIM, HEADS, LAYERS

START_TOKEN, END_TOKEN = 1, 2
TOKENS_PER_SECOND = 6.5  # nobody speaks faster: a decoder that goes on repeats itself


class Reference:
    """The encoder as shipped, which the NumPy encoder is measured against."""

    def __init__(self) -> None:
        self._session = onnxruntime.InferenceSession(wheel_file("encoder_model.ort"))

    def __call__(self, samples: Array) -> Array:
        """Encode mono `samples` at 16 kHz into (frames, 288)."""
        inputs = {"input_values": samples[None], "attention_mask": _all_heard(samples)}
        hidden: Array = self._session.run(None, inputs)[0][0]
        return hidden


class Decoder:
    """The decoder as shipped: encoder output in, text out, one token at a time."""

    def __init__(self) -> None:
        self._session = onnxruntime.InferenceSession(wheel_file("decoder_model_merged.ort"))
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._pieces = list(read_pieces(wheel_file("tokenizer.bin").read_bytes()))

    def __call__(self, hidden: Array, samples: Array) -> str:
        """Write down what `hidden`, the encoder's output for `samples`, says."""
        fixed = {
            "encoder_hidden_states": hidden[None],
            "encoder_attention_mask": _all_heard(samples),
        }
        limit = int(len(samples) / SAMPLE_RATE * TOKENS_PER_SECOND)
        tokens = [START_TOKEN]
        cache = _empty_cache()
        while tokens[-1] != END_TOKEN and len(tokens) <= limit:
            logits, cache = self._step(fixed, tokens, cache)
            tokens.append(int(logits[0, -1].argmax()))
        return self._text(tokens)

    def _step(
        self, fixed: dict[str, Any], tokens: list[int], cache: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Score every possible next token; return the keys and values to carry on with as well."""
        first = len(tokens) == 1
        inputs = {"input_ids": np.array([tokens[-1:]]), "use_cache_branch": np.array([not first])}
        logits, *present = self._session.run(self._outputs, {**fixed, **inputs, **cache})
        names = [name.replace("present", "past_key_values") for name in self._outputs[1:]]
        # After the first step the model leaves its keys of the sound to the caller.
        fresh = {
            name: value
            for name, value in zip(names, present, strict=True)
            if first or ".decoder." in name
        }
        return logits, {**cache, **fresh}

    def _text(self, tokens: list[int]) -> str:
        """Join the pieces of words; a low line stands for a space."""
        pieces = (self._pieces[token] for token in tokens if token > END_TOKEN)
        return b"".join(pieces).decode(errors="replace").replace("▁", " ").strip()


def read_pieces(data: bytes) -> Iterator[bytes]:
    """Split the tokenizer's file: each piece follows its length, in one byte or two."""
    at = 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128:
            length, at = length - 128 + 128 * data[at], at + 1
        yield data[at : at + length]
        at += length


def _all_heard(samples: Array) -> NDArray[np.int64]:
    """The mask that hides no sample."""
    return np.ones((1, len(samples)), dtype=np.int64)


def _empty_cache() -> dict[str, Array]:
    """The keys and values of nothing yet."""
    nothing = np.zeros((1, HEADS, 0, HEAD_DIM), dtype=np.float32)
    return {
        f"past_key_values.{layer}.{side}.{kind}": nothing
        for layer in range(LAYERS)
        for side in ("decoder", "encoder")
        for kind in ("key", "value")
    }
