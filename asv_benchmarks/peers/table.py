"""The numbers of one run, and tables with these numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from . import with_ggml, with_numpy, with_onnxruntime, with_openvino, with_rotary, with_vllm
from .rounds import in_words

NEW, OUT, IN_PLACE = with_rotary.NEW, with_rotary.OUT, with_rotary.IN_PLACE
BOUND = with_onnxruntime.BOUND
# Peers that write to existing arrays, and peers that write over their input. The others make new arrays.
INTO = (BOUND, with_onnxruntime.REBOUND, with_ggml.OUT, *with_openvino.NAMES)
OVER = (with_ggml.IN_PLACE, with_numpy.IN_PLACE, *with_vllm.NAMES)
# Rows of the tables that are not other libraries.
OWN = ("rotary", "copy", "scale")


class Result:
    """One case: the times of its contenders, or the reasons for missing times."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.case: dict[str, Any] = result["case"]
        self.rows: list[dict[str, Any]] = result["rows"]
        self.title: str = self.case["title"]

    def __getitem__(self, contender: str) -> float:
        """The seconds of a contender, or NaN."""
        for row in self.rows:
            if row["contender"] == contender:
                return float(row.get("seconds", math.nan))
        return math.nan

    def row(self, contender: str) -> dict[str, Any]:
        """The row of a contender, empty if there is none."""
        return next((row for row in self.rows if row["contender"] == contender), {})

    def ratio(self, contender: str, ours: str) -> float:
        """The time of a contender as a multiple of rotary's in the same group of processes."""
        own = self.row(contender).get("beside", {}).get(ours, self[ours])
        return self[contender] / float(own)

    def ahead(self) -> dict[str, float]:
        """The time of each peer as a multiple of rotary's call that writes to the same place."""
        return {name: self.ratio(name, same_way(name)) for name in self.peers() if self.has(name)}

    def beside_fastest(self, ours: str) -> float:
        """The time of the fastest peer, whatever it writes to, as a multiple of one of rotary's calls.

        At one token, the position of ONNX Runtime's binding has to be bound anew.
        """
        left_out = BOUND if self.case["section"] == "decode" else None
        names = [name for name in self.peers() if self.has(name) and name != left_out]
        return min((self.ratio(name, ours) for name in names), default=math.nan)

    def peers(self) -> list[str]:
        """The contenders that are not rotary."""
        return [row["contender"] for row in self.rows if not row["contender"].startswith(OWN)]

    def has(self, contender: str) -> bool:
        """Whether a contender has a time."""
        return not math.isnan(self[contender])

    def cell(self, contender: str) -> str:
        """The time, also as a multiple of rotary's plain call, or the reason for a missing time."""
        row = self.row(contender)
        if "seconds" not in row:
            return str(row.get("missing", "–"))
        parts = [] if contender == NEW else [times(self.ratio(contender, NEW))]
        if row.get("error"):
            parts.append(f"error {row['error']:.0e}".replace("e-0", "e-"))
        return in_words(row["seconds"]) + (f" ({', '.join(parts)})" if parts else "")


def same_way(peer: str) -> str:
    """The call of rotary that writes to the same kind of arrays as a peer: new ones, existing ones, or the input."""
    return OUT if peer in INTO else IN_PLACE if peer in OVER else NEW


def times(ratio: float) -> str:
    """Format a multiple with two digits."""
    return f"{ratio:.2g}×" if ratio < 99.5 else f"{ratio:.0f}×"


def select(numbers: dict[str, Any], section: str, **wanted: Any) -> list[Result]:
    """The results of a section whose cases have these field values."""
    return [
        Result(result)
        for result in numbers["results"]
        if result["case"]["section"] == section
        and all(result["case"][name] == value for name, value in wanted.items())
    ]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_case(results: list[Result]) -> str:
    """One column for each case, one row for each contender."""
    names = list(dict.fromkeys(row["contender"] for result in results for row in result.rows))
    return markdown(
        ["", *(result.title for result in results)],
        [[name, *(result.cell(name) for result in results)] for name in names],
    )
