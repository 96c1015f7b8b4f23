"""Transcribe real speech with every query and key rotated by `rotary`, in NumPy.

    python docs/examples/speech.py [--output DIR] [--timestamps]

Moonshine tiny, a trained speech model, listens to two recordings. Its encoder runs in NumPy, once
for each of the ways in `rotations`; its own decoder writes down what each run heard. The yardstick
is the encoder as shipped, run by ONNX Runtime: a transcript may come out right by luck, a vector
may not.

Needs onnxruntime, flatbuffers, scipy, matplotlib and moonshine-voice==0.0.49, the last version that
carries the weights. That one exists for Linux on x86-64 only (glibc 2.34 or newer); elsewhere, or
on request, a smaller example runs instead: see `timestamps`, which needs heartpy==1.2.7 and
matplotlib.
"""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path

from moonshine import WHEEL

OUTPUT = Path(__file__).parent / "output"
VERSION = "0.0.49"  # the last one with weights


def main() -> None:
    """Read the command line and run the example that fits this machine."""
    parser = argparse.ArgumentParser(description="Rotary embeddings in a real speech model.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the picture")
    parser.add_argument("--timestamps", action="store_true", help="run the smaller example")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.timestamps:
        run_timestamps(options.output)
    elif installed_version() == VERSION:
        run_speech(options.output)
    else:
        print(explain_missing_model())
        run_timestamps(options.output)


def run_speech(output: Path) -> None:
    """Transcribe both recordings in every way, print what came out, draw the rotation."""
    # Imported here, because the smaller example needs neither ONNX Runtime nor the wheel.
    import account
    import comparison

    reports = comparison.compare_all()
    print(account.describe(reports))
    print("\npicture:", account.draw(output / "speech.png", reports[0]))


def run_timestamps(output: Path) -> None:
    """Restore hidden samples of a dated recording, print how well, draw it."""
    import timestamps

    report = timestamps.compare()
    print(timestamps.describe(report))
    print("\npicture:", timestamps.draw(output / "timestamps.png", report))


def installed_version() -> str | None:
    """Return the version of the wheel with the model, None where it is not installed."""
    try:
        return metadata.version(WHEEL)
    except metadata.PackageNotFoundError:
        return None


def explain_missing_model() -> str:
    """Say what is missing and what happens instead."""
    return (
        f"The speech model is not here. It comes in the wheel {WHEEL}=={VERSION}, which exists\n"
        f"for Linux on x86-64 with glibc 2.34 or newer only (installed: {installed_version()}).\n"
        "Running the smaller example on timestamps instead.\n"
    )


if __name__ == "__main__":
    main()
