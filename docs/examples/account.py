"""Tells and draws what the comparison of rotations found."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import picture
from comparison import SHIPPED, SPOKEN, Outcome, Report, words
from moonshine import SAMPLE_RATE
from moonshine.encoder import SAMPLES_PER_FRAME
from rotations import (
    FLOAT32,
    FLOAT32_AT_UNIX_TIME,
    MOONSHINE,
    RIGHT,
    RIGHT_AT_UNIX_TIME,
    UNIX_TIME,
    float32_tables,
)


def describe(reports: list[Report]) -> str:
    """Write the transcripts of every recording, then one table of numbers."""
    return "\n\n".join([*(transcripts(report) for report in reports), table(reports), LEGEND])


def transcripts(report: Report) -> str:
    """Write what the decoder made of every way of encoding; long nonsense is cut short."""
    lines = [f"{report.recording.name}, {report.recording.seconds:.1f} s"]
    right = report.outcomes[RIGHT].transcript
    for way, outcome in report.outcomes.items():
        text = outcome.transcript
        if way not in (SHIPPED, RIGHT):
            text = "(the same, letter for letter)" if text == right else textwrap.shorten(text, 150)
        lines += [f"  {way}", textwrap.indent(textwrap.fill(text, 90), " " * 6)]
    return "\n".join(lines)


def table(reports: list[Report]) -> str:
    """Write every way's numbers, the recordings side by side."""
    names = [f"   {report.recording.name:^33}" for report in reports]
    heads = [f"   {'off ORT':>9}{'off rotary':>12}{'wrong words':>12}" for _ in reports]
    rows = [f"{'':34}" + "".join(names), f"{'':34}" + "".join(heads)]
    for way in reports[0].outcomes:
        cells = [numbers(report.outcomes[way], report.recording.name) for report in reports]
        rows.append(f"{way:34}" + "".join(cells))
    return "\n".join(row.rstrip() for row in rows)


def numbers(outcome: Outcome, name: str) -> str:
    """Write the three numbers of one way and one recording."""
    wrong = f"{outcome.wrong_words} of {len(words(SPOKEN[name]))}"
    return f"   {outcome.difference:9.4f}{outcome.from_right:12.1e}{wrong:>12}"


LEGEND = """\
off ORT, off rotary: relative L2 distance of the encoder's output from that of ONNX Runtime, and
from that of the NumPy encoder with the right rotation. ONNX Runtime rounds what it multiplies to
8 bits, so that a hundredth of a percent of loudness moves it about as far from itself as NumPy
stands from it: that is the floor of the first column.
wrong words: those to insert, delete or replace to get what was said."""


def draw(path: Path, report: Report) -> Path:
    """Draw the rotation along a recording whose first frame stands at unix time."""
    frames = len(report.recording.samples) // SAMPLES_PER_FRAME
    frame = SAMPLES_PER_FRAME / SAMPLE_RATE
    now = UNIX_TIME + np.arange(frames)
    truth = MOONSHINE.tables(now, dtype="float64")
    truth_at_zero = MOONSHINE.tables(np.arange(frames), dtype="float64")
    turnings = [
        turning(RIGHT_AT_UNIX_TIME, report, picture.BLUE, MOONSHINE.tables(now), truth),
        turning(
            FLOAT32_AT_UNIX_TIME, report, picture.RED, float32_tables(frames, UNIX_TIME), truth
        ),
        turning(FLOAT32, report, picture.GREY, float32_tables(frames, 0), truth_at_zero),
    ]
    return picture.draw_along_recording(
        path,
        title=f"“{report.outcomes[RIGHT].transcript}”",
        samples=report.recording.samples,
        seconds=np.arange(frames) * frame,
        periods=2 * np.pi / MOONSHINE.inv_freq * frame,
        turnings=turnings,
    )


def turning(
    way: str, report: Report, colour: str, tables: picture.Tables, truth: picture.Tables
) -> picture.Turning:
    """Label one source of cosines with what it does to the encoder."""
    off = report.outcomes[way].difference
    return picture.Turning(
        label=way,
        note=f"encoder {100 * off:.0f} % off ONNX Runtime",
        colour=colour,
        tables=tables,
        truth=truth,
    )
