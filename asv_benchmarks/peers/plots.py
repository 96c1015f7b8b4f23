"""The drawings of the page: small SVG files, with the same bytes for the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # draws into files, with or without a screen

from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator

from .table import NEW, OUT, Result, select
from .with_rotary import COPY, IN_PLACE, SCALE

BLUE, LIGHT, GREEN, RED, GREY = "#1f5fa8", "#7fb2e5", "#3a8a4d", "#c23b3b", "#777777"
STYLES = {
    NEW: {"color": LIGHT, "marker": "s"},
    OUT: {"color": BLUE, "marker": "o"},
    IN_PLACE: {"color": GREEN, "marker": "^"},
    COPY: {"color": GREY, "linestyle": "--"},
    SCALE: {"color": GREY, "linestyle": ":"},
}
SETTINGS = {
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "lines.markersize": 3,
    "svg.fonttype": "none",
    "svg.hashsalt": "rotary",
}


def draw_all(numbers: dict[str, Any], folder: Path) -> list[Path]:
    """Draw everything and return the files."""
    drawings = {
        "bandwidth": bandwidth,
        "decode": decode,
        "growth": growth,
        "threads": threads,
        "errors": errors,
    }
    paths = []
    with mpl.rc_context(SETTINGS):
        for name, draw in drawings.items():
            figure = draw(numbers)
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
            paths.append(path)
    return paths


def bandwidth(numbers: dict[str, Any]) -> Any:
    """Bytes read and written per second, by the size of the array."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    results = select(numbers, "growth")
    sizes = [result.case["nbytes"] for result in results]
    for name, style in STYLES.items():
        speeds = [
            2 * size / result[name] / 1e9 for size, result in zip(sizes, results, strict=True)
        ]
        axes.loglog(sizes, speeds, label=name, **style)
    axes.set(xlabel="size of the float32 array", ylabel="GB/s read and written")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda nbytes, _: in_bytes(nbytes)))
    mark_caches(axes, numbers)
    return figure


def growth(numbers: dict[str, Any]) -> Any:
    """Time by the number of elements."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    results = select(numbers, "growth")
    elements = [result.case["nbytes"] // 4 for result in results]
    for name, style in STYLES.items():
        axes.loglog(elements, [result[name] for result in results], label=name, **style)
    axes.set(xlabel="elements of the float32 array", ylabel="time of a call")
    axes.yaxis.set_major_formatter(EngFormatter("s"))
    axes.set_xscale("log", base=2)
    mark_caches(axes, numbers, itemsize=4)
    return figure


def mark_caches(axes: Any, numbers: dict[str, Any], itemsize: int = 1) -> None:
    """Mark the sizes of the caches, because curves may bend there."""
    axes.xaxis.set_major_locator(LogLocator(base=4, numticks=99))
    for name, count, unit in re.findall(r"(L\d) (\d+) ([KMG])iB", numbers["machine"]["caches"]):
        where = int(count) * 1024 ** (1 + "KMG".index(unit)) / itemsize
        axes.axvline(where, color=GREY, linewidth=0.6)
        axes.annotate(
            f" {name}", (where, 0.02), xycoords=("data", "axes fraction"), color=GREY, fontsize=8
        )
    beside(axes)


def in_bytes(nbytes: float) -> str:
    """The size in the largest unit below it."""
    power = min(int(nbytes).bit_length() - 1, 30) // 10
    return f"{nbytes / 1024**power:g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def beside(axes: Any) -> None:
    """Place the legend beside the lines."""
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def threads(numbers: dict[str, Any]) -> Any:
    """Time by the number of threads, relative to one thread."""
    figure, axes = plt.subplots(figsize=(8, 2.6))
    results = select(numbers, "threads")
    counts = [result.case["threads"] for result in results]
    for name, style in STYLES.items():
        axes.plot(counts, [result[name] for result in results], label=name, **style)
    slowest = max(result[name] for result in results for name in STYLES)
    axes.set(xlabel="threads", ylabel="time of a call", ylim=(0, 1.1 * slowest), xticks=counts)
    axes.yaxis.set_major_formatter(EngFormatter("s"))
    beside(axes)
    return figure


def decode(numbers: dict[str, Any]) -> Any:
    """Bars of the time for one token, batch 1 and 32, float32."""
    results = select(numbers, "decode", dtype="float32")
    figure, panels = plt.subplots(1, len(results), figsize=(8, 3.4), sharey=True)
    for axes, result in zip(panels, results, strict=True):
        bars(axes, result)
        axes.set_title(result.title, loc="left")
    return figure


def bars(axes: Any, result: Result) -> None:
    """One bar for each contender, the first on top; the scale is logarithmic."""
    axes.grid(visible=False)
    names = [row["contender"] for row in result.rows]
    there = [name for name in names if result.has(name)]
    colours = [BLUE if name.startswith("rotary") else RED for name in there]
    microseconds = [1e6 * result[name] for name in there]
    drawn = axes.barh([names.index(name) for name in there], microseconds, color=colours)
    axes.bar_label(drawn, fmt="{:.3g}", padding=2)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(
        xscale="log", xlabel="microseconds", xlim=(0.5 * min(microseconds), 3 * max(microseconds))
    )


def errors(numbers: dict[str, Any]) -> Any:
    """The largest error by position."""
    figure, axes = plt.subplots(figsize=(8, 3.4))
    positions = numbers["errors"]["positions"]
    for name, values in numbers["errors"]["errors"].items():
        there = [(where, value) for where, value in zip(positions, values, strict=True) if value]
        ours = name.startswith("rotary")
        axes.loglog(*zip(*there, strict=True), "-" if ours else "--", label=name)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="position", ylabel="largest error of cosine or sine")
    beside(axes)
    return figure
