"""The numbers of one run, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from . import with_onnxruntime, with_rotary
from .rounds import in_words

NEW, OUT = with_rotary.NEW, with_rotary.OUT
BOUND = with_onnxruntime.BOUND
# What stands beside the peers and is none.
OWN = ("rotary", "copy", "scale")


class Result:
    """One case: the times of its contenders, or the reasons why they have none."""

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

    def ratio(self, contender: str, ours: str) -> float:
        """The time of a contender as a multiple of rotary's."""
        return self[contender] / self[ours]

    def ahead(self) -> list[float]:
        """The time of each peer as a multiple of rotary's; bound outputs are compared with `out=`."""
        return [
            self.ratio(name, OUT if name == BOUND else NEW)
            for name in self.peers()
            if self.has(name)
        ]

    def fastest_peer(self) -> float:
        """The seconds of the fastest peer, bound outputs included."""
        return min((self[name] for name in self.peers() if self.has(name)), default=math.nan)

    def peers(self) -> list[str]:
        """The contenders that are not rotary."""
        return [row["contender"] for row in self.rows if not row["contender"].startswith(OWN)]

    def has(self, contender: str) -> bool:
        """Whether a contender has a time."""
        return not math.isnan(self[contender])

    def cell(self, contender: str) -> str:
        """The time, also as a multiple of rotary's plain call, or why there is none."""
        for row in self.rows:
            if row["contender"] == contender:
                if "seconds" not in row:
                    return str(row["missing"])
                if contender == NEW:
                    return in_words(row["seconds"])
                return f"{in_words(row['seconds'])} ({times(self.ratio(contender, NEW))})"
        return "–"


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
