"""Timestamps as positions: attention that restores hidden samples of a dated pulse recording.

The wheel heartpy (any platform) carries a pulse taken at a finger, each sample dated to the
millisecond and irregularly spaced. A fifth of the samples is hidden; attention guesses each from
the others, and all it knows about them is *when* they were taken: queries and keys are one constant
vector, rotated by unix time in milliseconds. The score of two samples then depends on the time
between them, whatever the date.
"""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import picture
from numpy.typing import NDArray

import rotary

SECONDS = 30
SHARPNESS = 4.0  # how quickly attention falls off with the distance in time; found by trying

Positions = NDArray[np.int64]
Values = NDArray[np.float64]
Vectors = NDArray[np.float32]
Rotation = Callable[[Positions], Vectors]

# 16 pairs that turn once in 6 ms, 11 ms, ... 35 s, positions being milliseconds.
ROPE = rotary.RotaryEmbedding(32, layout="half", base=10_000.0)


@dataclass(frozen=True)
class Pulse:
    """A recording: when each sample was taken and what it measured."""

    times: NDArray[np.datetime64]
    values: Values

    @classmethod
    def load(cls) -> Pulse:
        """Read the first half minute of the recording in the wheel heartpy."""
        with data_file("data3.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        times = np.array([row["datetime"] for row in rows], dtype="datetime64[ms]")
        values = np.array([float(row["hr"]) for row in rows])
        kept = times < times[0] + np.timedelta64(SECONDS, "s")
        return cls(times[kept], values[kept])


@dataclass(frozen=True)
class Guess:
    """What attention made of the hidden samples; `error` is relative to the signal's spread."""

    values: Values
    error: float


@dataclass(frozen=True)
class Report:
    """The recording, which samples were hidden, and what came out of each way of rotating.

    `score_change` holds the largest change of any attention score when positions count from the
    first sample instead of from 1970; `refusal` is what rotary says to float32 timestamps.
    """

    pulse: Pulse
    hidden: NDArray[np.bool_]
    guesses: dict[str, Guess]
    score_change: dict[str, float]
    refusal: str


def data_file(name: str) -> Path:
    """Where the installed wheel heartpy keeps the file called `name`."""
    for file in metadata.files("heartpy") or []:
        if file.name == name:
            return Path(str(file.locate()))
    msg = f"the installed heartpy has no file {name!r}; version 1.2.7 has"
    raise FileNotFoundError(msg)


def by_rotary(positions: Positions) -> Vectors:
    """Rotate one constant vector to every position."""
    rows = np.zeros((len(positions), 32), dtype=np.float32)
    rows[:, :16] = 1.0
    rotated: Vectors = ROPE(rows, positions=positions)
    return rotated


def by_float32_angles(positions: Positions) -> Vectors:
    """The same with angles computed in float32, as they usually are."""
    angles = np.outer(positions.astype(np.float32), ROPE.inv_freq.astype(np.float32))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


ROTATIONS: dict[str, Rotation] = {"rotary": by_rotary, "float32 angles": by_float32_angles}


def compare() -> Report:
    """Guess the hidden samples with both rotations, counting from 1970 and from the first."""
    pulse = Pulse.load()
    hidden = np.arange(len(pulse.times)) % 5 == 4
    origins = {"from 1970": np.datetime64("1970-01-01"), "from the first sample": pulse.times[0]}
    guesses, score_change = {}, {}
    for name, rotate in ROTATIONS.items():
        scores = []
        for start, origin in origins.items():
            positions = rotary.positions.timestamps(pulse.times, unit="ms", origin=origin)
            vectors = rotate(positions)
            scores.append(vectors[hidden] @ vectors[~hidden].T)
            guesses[f"{name}, {start}"] = guess(scores[-1], pulse, hidden)
        score_change[name] = float(np.abs(scores[0] - scores[1]).max())
    return Report(pulse, hidden, guesses, score_change, refusal(pulse))


def guess(scores: Vectors, pulse: Pulse, hidden: NDArray[np.bool_]) -> Guess:
    """Average the visible samples by the softmax of their scores."""
    weights = np.exp(SHARPNESS * (scores - scores.max(axis=1, keepdims=True)))
    weights /= weights.sum(axis=1, keepdims=True)
    values = weights @ pulse.values[~hidden]
    error = np.sqrt(np.mean((values - pulse.values[hidden]) ** 2)) / pulse.values.std()
    return Guess(values, float(error))


def refusal(pulse: Pulse) -> str:
    """What happens to times that float32 has already merged: an error, not a wrong rotation."""
    milliseconds = pulse.times.astype(np.int64).astype(np.float32)
    try:
        rotary.positions.timestamps(milliseconds, unit="ms", origin=0)
    except ValueError as error:
        return str(error)
    return "accepted"


def describe(report: Report) -> str:
    """The numbers in words and as a table."""
    first, last = report.pulse.times[0], report.pulse.times[-1]
    lines = [
        f"A pulse, {len(report.pulse.times)} samples from {first} to {last};",
        f"{report.hidden.sum()} are hidden, and guessed by attention that knows only when each",
        "sample was taken.",
        "",
        f"{'rotation of queries and keys':44}{'error of the guess / spread':>28}",
        *(f"{way:44}{guess.error:28.3f}" for way, guess in report.guesses.items()),
        "",
        f"{'origin moved from 1970 to the first sample':44}{'largest change of a score':>28}",
        *(f"{way:44}{change:28.1e}" for way, change in report.score_change.items()),
        "",
        "The same times as float32 numbers are refused:",
        textwrap.fill(report.refusal, 96, initial_indent="    ", subsequent_indent="    "),
    ]
    return "\n".join(lines)


def draw(path: Path, report: Report) -> Path:
    """Draw the guesses of every way over the first seconds of the recording."""
    return picture.draw_guesses(
        path,
        seconds=(report.pulse.times - report.pulse.times[0]) / np.timedelta64(1, "s"),
        values=report.pulse.values,
        hidden=report.hidden,
        guesses={
            f"{way}: error {guess.error:.3f}": guess.values for way, guess in report.guesses.items()
        },
    )
