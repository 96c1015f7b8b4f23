"""Holds the example on a language model to its numbers: one file, rotated rightly and wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rotary

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module", autouse=True)
def _examples_on_the_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(scope="module")
def report() -> Any:
    import text

    return text.compare()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from gguf import GGUFReader
    from smollm import checkpoint
    from smollm.tokenizer import Tokenizer

    fields = GGUFReader(checkpoint.path()).fields
    names = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    return Tokenizer({name: fields[name].contents() for name in names})


RIGHT = "as the file says"


@pytest.mark.parametrize(
    "way",
    [
        RIGHT,
        "as the file says, from 1.7e9",
        "weights permuted, layout half",
        "float32 angles, from 0",
    ],
)
def test_right_rotations(report: Any, way: str) -> None:
    assert report.outcomes[way].perplexity == pytest.approx(10.11, abs=0.01)
    assert report.outcomes[way].difference < 5e-4


@pytest.mark.parametrize(
    ("way", "perplexity"),
    [
        ("layout half", 94.00),
        ("base 10000 in place of 100000", 12.01),
        ("no rotation", 120.79),
        ("float32 angles, from 1.7e9", 144.09),
    ],
)
def test_wrong_rotations(report: Any, way: str, perplexity: float) -> None:
    assert report.outcomes[way].perplexity == pytest.approx(perplexity, rel=0.02)
    assert report.outcomes[way].difference > 5


def test_every_method_is_tested(report: Any) -> None:
    assert len(report.outcomes) == 8


def test_prompt_is_continued(report: Any) -> None:
    assert report.continuation.startswith(" Paris.")


def test_embedding_follows_from_the_file(report: Any) -> None:
    from smollm import checkpoint

    by_hand = rotary.RotaryEmbedding(
        64, layout="interleaved", base=100_000.0, context_length=8192, seq_axis=-3
    )
    assert report.embedding == by_hand
    assert rotary.from_gguf(checkpoint.path(), seq_axis=-3) == by_hand
    assert "llama.rope.freq_base" in report.embedding.explain()


def test_readers_agree() -> None:
    from gguf import GGUFReader
    from smollm import checkpoint

    path = checkpoint.path()
    assert rotary.from_gguf(GGUFReader(path).fields) == rotary.from_gguf(path)


def test_the_layout_changes_one_layer() -> None:
    import text
    from smollm.checkpoint import Checkpoint
    from smollm.model import Model

    rng = np.random.default_rng(0)
    tensors = {
        "blk.0.attn_norm.weight": np.ones(16),
        "blk.0.attn_q.weight": rng.normal(size=(16, 16)),
        "blk.0.attn_k.weight": rng.normal(size=(8, 16)),
        "blk.0.attn_v.weight": rng.normal(size=(8, 16)),
        "blk.0.attn_output.weight": rng.normal(size=(16, 16)),
        "blk.0.ffn_norm.weight": np.ones(16),
        "blk.0.ffn_gate.weight": rng.normal(size=(8, 16)),
        "blk.0.ffn_up.weight": rng.normal(size=(8, 16)),
        "blk.0.ffn_down.weight": rng.normal(size=(16, 8)),
        "token_embd.weight": rng.normal(size=(11, 16)),
        "output_norm.weight": np.ones(16),
    }
    metadata = {
        "llama.block_count": 1,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    model = Model.read(Checkpoint(metadata, tensors))
    half, interleaved = (
        text.by(rotary.RotaryEmbedding(4, layout=layout, base=100.0, seq_axis=-3))
        for layout in ("half", "interleaved")
    )
    tokens = np.array([3, 1, 4, 1, 5])
    right = model.logits(tokens, interleaved)
    moved = model.permuted(source="interleaved", target="half")
    np.testing.assert_allclose(moved.logits(tokens, half), right, atol=1e-10)
    assert np.abs(model.logits(tokens, half) - right).max() > 0.1
    # What comes later changes nothing.
    np.testing.assert_allclose(model.logits(tokens[:3], interleaved), right[:3], atol=1e-10)


@pytest.mark.parametrize(
    "text", ["The capital of France is", "It's 1863, isn't it?\n\n  Yes_ 42 x", "naïve – 東京 🙂"]
)
def test_tokens_come_back_as_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_are_tokens(tokenizer: Any) -> None:
    pieces = [
        tokenizer.decode([token]) for token in tokenizer.encode("The capital of France, 1863")
    ]
    assert pieces == ["The", " capital", " of", " France", ",", " ", "1", "8", "6", "3"]


def test_command_prints(report: Any) -> None:
    import text

    printed = text.describe(report)
    assert "98 tokens read: Four score" in printed
    assert "The capital of France is Paris." in printed
    for way, outcome in report.outcomes.items():
        assert f"{way:32}{outcome.perplexity:10.2f}" in printed
