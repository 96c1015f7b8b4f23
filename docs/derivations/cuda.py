"""Derive the constants of the angles that `backends/cuda/rotate.cu` makes, and print them as C++ writes them.

Run it with ``python docs/derivations/cuda.py`` (needs NumPy and mpmath, takes a few seconds).

The kernel takes cosine and sine of y radians, the sum of two numbers, where ``z = y**2`` and y is at most
an eighth of a turn:

    sin y = y + y z (S[0] + S[1] z + ...)        cos y = 1 - z / 2 + z z (C[0] + C[1] z + ...)

The leading terms are kept exact in two numbers, so that here coefficients of the precision computed with are
enough. They are found as in `minimax`.
"""

from __future__ import annotations

import mpmath as mp
import numpy as np
from minimax import DIGITS, FLOAT32, FLOAT64, Samples, fit, round_bits

# The largest z, and a little more.
SQUARE = (mp.pi / 4) ** 2 * (1 + mp.mpf(2) ** -20)
# Bits of a number, the unit of what is left of a phase as a power of two, and how many coefficients there are.
KINDS = {"float": (FLOAT32, 32, 4, 3), "double": (FLOAT64, 64, 6, 6)}


def derive(kind: str) -> dict[str, list[float]]:
    """Find the constants of one type again."""
    bits, unit, of_sine, of_cosine = KINDS[kind]
    turn = 2 * mp.pi / mp.mpf(2) ** unit
    high = round_bits(turn, bits)
    sine = Samples(lambda z: mp.sinc(mp.sqrt(z)), limit=SQUARE)
    sine.subtract(mp.mpf(1), 0)
    cosine = Samples(lambda z: mp.cos(mp.sqrt(z)), limit=SQUARE)
    cosine.subtract(mp.mpf(1), 0)
    cosine.subtract(mp.mpf(-0.5), 1)
    return {
        "turn": [high, round_bits(turn - high, bits)],
        "sine": fit(sine, range(1, 1 + of_sine), bits),
        "cosine": fit(cosine, range(2, 2 + of_cosine), bits),
    }


def written(value: float, kind: str) -> str:
    """Return a number as C++ writes it, exactly and as short as can be."""
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0')}p{exponent}" + ("f" if kind == "float" else "")


def main() -> None:
    """Print all constants."""
    with mp.workdps(DIGITS):
        for kind in KINDS:
            for name, values in derive(kind).items():
                assert all(np.float32(value) == value for value in values if kind == "float")
                print(kind, name, *(written(value, kind) for value in values))


if __name__ == "__main__":
    main()
