"""Recordings as the model wants them: mono, 16 kHz, cut at pauses into pieces it can take in."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from math import gcd

import numpy as np
from scipy.signal import resample_poly

from moonshine import SAMPLE_RATE, Array, wheel_file

# A piece ends at the quietest moment between these many seconds. Shorter pieces lose the context
# of a sentence, and the whole 44 s at once make the model add words at both ends.
SHORTEST, LONGEST = 10.0, 30.0
PAUSE = 0.2  # seconds over which loudness is averaged


@dataclass(frozen=True)
class Recording:
    """A recording at the model's sample rate."""

    name: str
    samples: Array

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / SAMPLE_RATE

    @classmethod
    def load(cls, name: str) -> Recording:
        """Read the wheel's recording `name`, and resample it where that is needed."""
        with wave.open(str(wheel_file(name))) as file:
            rate = file.getframerate()
            data = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        samples = data.astype(np.float32) / np.float32(2**15)
        common = gcd(rate, SAMPLE_RATE)
        samples = resample_poly(samples, SAMPLE_RATE // common, rate // common)
        return cls(name, samples)

    def pieces(self) -> list[Array]:
        """Cut the recording at its quietest moments."""
        rest, pieces = self.samples, []
        while len(rest) > LONGEST * SAMPLE_RATE:
            cut = _quietest(rest, int(SHORTEST * SAMPLE_RATE), int(LONGEST * SAMPLE_RATE))
            pieces.append(rest[:cut])
            rest = rest[cut:]
        return [*pieces, rest]


def _quietest(samples: Array, start: int, stop: int) -> int:
    """The middle of the quietest stretch between two samples."""
    width = int(PAUSE * SAMPLE_RATE)
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples[start:stop], dtype=np.float64))])
    return start + int(np.argmin(energy[width:] - energy[:-width])) + width // 2
