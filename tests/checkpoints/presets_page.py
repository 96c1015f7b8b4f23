"""The reference page of the presets, which is written from rotary/checkpoints/data.

`python tests/checkpoints/presets_page.py` prints the page, and `--write` writes it.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from rotary.checkpoints.presets import preset, presets

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "presets.md"
TITLES = {"text": "Text", "speech": "Speech", "time_series": "Time series", "vision": "Vision"}

INTRODUCTION = """\
# Presets

The presets of `rotary.preset`. This page is written from the data of the library
(`python tests/checkpoints/presets_page.py --write`), and [the guide](../guides/presets.md) explains
how to use them. The tests compare all frequencies, the attention factor and the layout of each preset
with constants that were computed by other code.

The column *rotated* gives the rotated channels of a head. A layout with an arrow is different for the
input and the output.
"""


def window_text(rope):
    """Return which channels of a head are rotated."""
    if rope.rotary_dim == rope.head_dim:
        return f"all {rope.head_dim}"
    if rope.rotary_start == 0:
        return f"{rope.rotary_dim} of {rope.head_dim}"
    return f"{rope.rotary_start} .. {rope.rotary_start + rope.rotary_dim - 1} of {rope.head_dim}"


def layout(rope):
    """Return the layout, or both of them."""
    if rope.output_layout == rope.layout:
        return rope.layout
    return f"{rope.layout} → {rope.output_layout}"


def row(entry):
    """Return one preset as a row."""
    rope = preset(entry.name)
    base = "" if rope.base is None else f"{rope.base:.10g}"
    kind = type(rope.scaling).__name__
    cells = [f"`{entry.name}`", window_text(rope), layout(rope), base, kind]
    cells += [entry.description, entry.source]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    """Return the table as a page of the documentation."""
    lines = [INTRODUCTION]
    entries = sorted(presets().values(), key=lambda entry: (list(TITLES).index(entry.file[:-5]),))
    for file, group in groupby(entries, key=lambda entry: entry.file[:-5]):
        rows = [row(entry) for entry in group]
        head = "| name | rotated | layout | base | schedule | description | source of the numbers |"
        lines += [f"## {TITLES[file]}", "", head, "| --- " * 7 + "|", *rows, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())
