"""Text to tokens and back, by the vocabulary and the merges that the file of the model brings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from smollm import Tokens

# What is merged at most: a digit, an English ending, a word or a run of signs with the space before
# it, white space. The patterns are those of GPT-2, with digits one by one.
PIECES = re.compile(
    r"\d|'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+",
)


class Tokenizer:
    """Byte pair encoding: neighbours are merged, those first that the list of merges has first."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self._tokens: list[str] = metadata["tokenizer.ggml.tokens"]
        self._ids = {token: index for index, token in enumerate(self._tokens)}
        merges = metadata["tokenizer.ggml.merges"]
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self._letters = dict(byte_letters())
        self._bytes = {letter: byte for byte, letter in self._letters.items()}

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text."""
        pieces = (self._merge(piece) for piece in PIECES.findall(text))
        return np.array([self._ids[part] for piece in pieces for part in piece], dtype=np.int64)

    def decode(self, tokens: Tokens) -> str:
        """Return the text of tokens."""
        letters = "".join(self._tokens[token] for token in tokens)
        return bytes(self._bytes[letter] for letter in letters).decode(errors="replace")

    def _merge(self, piece: str) -> list[str]:
        """Merge the letters of a piece until no two neighbours are on the list."""
        parts = [self._letters[byte] for byte in piece.encode()]
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, len(self._ranks)) for pair in pairwise(parts)]
            best = int(np.argmin(ranks))
            if ranks[best] == len(self._ranks):
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return parts


def byte_letters() -> Iterator[tuple[int, str]]:
    """Every byte and the letter that stands for it in the vocabulary: printable ones for themselves."""
    unprintable = 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            yield byte, chr(byte)
        else:
            yield byte, chr(unprintable)
            unprintable += 1
