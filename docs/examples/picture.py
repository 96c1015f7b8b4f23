"""Draws the rotation along a recording, and what float32 does to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")  # draws into files, with or without a screen

from matplotlib import pyplot as plt

BLUE, RED, GREY = "#1f5fa8", "#c23b3b", "#777777"

Tables = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Turning:
    """Cosines and sines along a recording, from one source, next to the true ones."""

    label: str
    note: str
    colour: str
    tables: Tables
    truth: Tables

    def errors(self) -> NDArray[np.float64]:
        """The largest error of any pair's cosine or sine, at every position."""
        differences = (
            np.abs(got - true) for got, true in zip(self.tables, self.truth, strict=True)
        )
        worse: NDArray[np.float64] = np.maximum(*differences)
        return np.asarray(worse.max(axis=-1))


def draw_along_recording(
    path: Path,
    title: str,
    samples: NDArray[Any],
    seconds: NDArray[Any],
    periods: NDArray[Any],
    turnings: list[Turning],
) -> Path:
    """Draw the sound, the cosines of the first two sources, and the errors of all.

    `seconds` are the times of the positions, `periods` the seconds each pair takes for a turn.
    """
    figure, (sound, *cosines, errors) = plt.subplots(
        4, 1, figsize=(11, 11), sharex=True, layout="constrained", height_ratios=[1, 2, 2, 1.7]
    )
    sound.plot(np.linspace(0, seconds[-1], len(samples)), samples, color=GREY, linewidth=0.4)
    sound.set_title(title, loc="left", style="italic")
    sound.set_yticks([])
    for axes, turning in zip(cosines, turnings, strict=False):
        image = draw_cosines(axes, turning, seconds, periods)
    figure.colorbar(image, ax=cosines, label="cosine", fraction=0.03, pad=0.01)
    for turning in turnings:
        errors.semilogy(seconds, turning.errors(), color=turning.colour, label=turning.label)
    errors.set(xlabel="seconds", ylim=(3e-9, 1e3), xlim=(0, seconds[-1]))
    errors.set_title("largest error of any cosine or sine", loc="left")
    errors.legend(loc="upper center", ncols=len(turnings), frameon=False)
    return save(figure, path)


def draw_cosines(axes: Any, turning: Turning, seconds: NDArray[Any], periods: NDArray[Any]) -> Any:
    """One row per pair, the fastest on top; returns the image."""
    cos, _ = turning.tables
    extent = (0.0, seconds[-1], len(periods) - 0.5, -0.5)
    image = axes.imshow(
        cos.T, aspect="auto", extent=extent, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
    )
    axes.set_title(turning.label, loc="left", color=turning.colour, weight="bold")
    axes.set_title(turning.note, loc="right", color=turning.colour)
    axes.set_yticks(range(0, len(periods), 3), [in_words(period) for period in periods[::3]])
    axes.set_ylabel("time a pair takes to turn once")
    return image


def in_words(seconds: float) -> str:
    """A time with two digits."""
    return f"{np.format_float_positional(seconds, precision=2, fractional=False, trim='-')} s"


def draw_guesses(
    path: Path,
    seconds: NDArray[Any],
    values: NDArray[Any],
    hidden: NDArray[np.bool_],
    guesses: dict[str, NDArray[Any]],
) -> Path:
    """Draw a signal's visible samples and, over them, what each way made of the hidden ones."""
    figure, rows = plt.subplots(
        len(guesses), 1, figsize=(11, 2.2 * len(guesses)), sharex=True, layout="constrained"
    )
    for axes, (label, guess) in zip(rows, guesses.items(), strict=True):
        axes.plot(seconds[~hidden], values[~hidden], ".-", color=GREY, linewidth=0.5, markersize=2)
        colour = BLUE if label.startswith("rotary") else RED
        axes.plot(seconds[hidden], guess, "o", color=colour, markersize=3)
        axes.set_title(label, loc="left", color=colour, weight="bold")
        axes.set(xlim=(0, 6), ylabel="pulse")
    rows[-1].set_xlabel("seconds")
    return save(figure, path)


def save(figure: Any, path: Path) -> Path:
    """Write the file and forget the figure."""
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
