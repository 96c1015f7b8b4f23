"""Encodes each recording in every way, and measures what came out against ONNX Runtime."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass

import numpy as np
from moonshine import Array, wheel_file
from moonshine.audio import Recording
from moonshine.encoder import Encoder
from moonshine.ort_format import OrtFile
from moonshine.runtime import Decoder, Reference
from rotations import RIGHT, ROTATIONS

# What is read aloud: Samuel Beckett, "Worstward Ho"; Charles Dickens, "A Tale of Two Cities".
SPOKEN = {
    "beckett.wav": "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.",
    "two_cities.wav": (
        "It was the best of times, it was the worst of times, it was the age of wisdom, "
        "it was the age of foolishness, it was the epoch of belief, it was the epoch of "
        "incredulity, it was the season of light, it was the season of darkness, it was the spring "
        "of hope, it was the winter of despair, we had everything before us, we had nothing before "
        "us, we were all going direct to heaven, we were all going direct the other way. In short, "
        "the period was so far like the present period, that some of its noisiest authorities "
        "insisted on its being received, for good or for evil, in the superlative degree of "
        "comparison only."
    ),
}
SHIPPED = "ONNX Runtime"
LOUDER = "ONNX Runtime, sound 0.01 % louder"
GAIN = np.float32(1.0001)


@dataclass(frozen=True)
class Outcome:
    """What one way of encoding made of a recording.

    `difference` is the relative L2 distance of the encoder's output from ONNX Runtime's;
    `from_right` the same from the output of the NumPy encoder with the right rotation.
    """

    transcript: str
    wrong_words: int
    difference: float
    from_right: float


@dataclass(frozen=True)
class Report:
    """One recording and the outcome of every way of encoding it."""

    recording: Recording
    outcomes: dict[str, Outcome]


def compare_all() -> list[Report]:
    """Load the model and encode both recordings in every way."""
    tell("loading the model")
    encoder = Encoder(OrtFile(wheel_file("encoder_model.ort")))
    reference, decoder = Reference(), Decoder()
    return [compare(Recording.load(name), encoder, reference, decoder) for name in SPOKEN]


def compare(
    recording: Recording, encoder: Encoder, reference: Reference, decoder: Decoder
) -> Report:
    """Encode one recording in every way, and decode what each way gives."""
    pieces = recording.pieces()
    tell(f"{recording.name}: {recording.seconds:.1f} s, in {len(pieces)} piece(s); ONNX Runtime")
    encoded = {
        SHIPPED: [reference(piece) for piece in pieces],
        LOUDER: [reference(piece * GAIN) for piece in pieces],
    }
    tell(f"{recording.name}: sound to frames")
    frames = [encoder.frames(piece) for piece in pieces]
    for way, rotate in ROTATIONS.items():
        tell(f"{recording.name}: {way}")
        encoded[way] = [encoder.transform(frame, rotate) for frame in frames]
    tell(f"{recording.name}: decoding")
    return Report(recording, {way: judge(encoded, way, recording, decoder) for way in encoded})


def judge(
    encoded: dict[str, list[Array]], way: str, recording: Recording, decoder: Decoder
) -> Outcome:
    """Decode what one way encoded, and measure it."""
    pieces = zip(encoded[way], recording.pieces(), strict=True)
    transcript = " ".join(decoder(hidden, piece) for hidden, piece in pieces)
    return Outcome(
        transcript=transcript,
        wrong_words=word_errors(transcript, SPOKEN[recording.name]),
        difference=relative_l2(encoded[way], encoded[SHIPPED]),
        from_right=relative_l2(encoded[way], encoded[RIGHT]),
    )


def relative_l2(got: list[Array], wanted: list[Array]) -> float:
    """The length of the difference over the length of what was wanted, all pieces together."""
    difference, size = np.concatenate(got) - np.concatenate(wanted), np.concatenate(wanted)
    return float(np.linalg.norm(difference) / np.linalg.norm(size))


def word_errors(transcript: str, spoken: str) -> int:
    """The fewest words to insert, delete and replace to turn one text into the other."""
    heard, said = words(transcript), words(spoken)
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, start=1):
            change = before + (word != other)
            before, row[j] = row[j], min(change, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def tell(progress: str) -> None:
    """Say on the error stream what happens now, and how long after the start."""
    print(f"[{time.perf_counter() - STARTED:5.1f} s] {progress}", file=sys.stderr, flush=True)


STARTED = time.perf_counter()
