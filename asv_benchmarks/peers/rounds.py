"""Rounds in which all contenders alternate, so that changes of the machine affect all of them."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

from .cases import Case
from .process import FailedError, Peer

ROUNDS = 15
# Idle threads of OpenMP wait in a busy loop for some milliseconds, which would slow the next process down.
PAUSE = 0.01

Row = dict[str, Any]


def measure(
    cases: list[Case],
    peers: list[Peer],
    progress: Progress,
    *,
    seconds: float,
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """Return the rows of every case, of the peers of one group."""
    results = []
    for number, case in enumerate(cases, 1):
        label = f"[{number}/{len(cases)}] {case.section}: {case.title}"
        if case.section == "prefill":
            label += f" {case.order}"
        rows = measure_one(case, peers, progress, label, seconds=seconds, rounds=rounds)
        results.append({"case": describe(case), "rows": rows})
        progress.done(label, summary(rows))
    return results


def merged(groups: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows of all groups for every case; those of later groups also tell rotary's times in their group.

    A group has the cases of the first one, or fewer.
    """
    first, *others = groups
    by_case = {json.dumps(result["case"]): result["rows"] for result in first}
    for result in (result for group in others for result in group):
        rows = by_case[json.dumps(result["case"])]
        known = {row["contender"] for row in rows}
        own = {
            row["contender"]: row["seconds"]
            for row in result["rows"]
            if row["contender"] in known and "seconds" in row
        }
        rows += [row | {"beside": own} for row in result["rows"] if row["contender"] not in known]
    return first


def measure_one(
    case: Case, peers: list[Peer], progress: Progress, label: str, *, seconds: float, rounds: int
) -> list[Row]:
    """Return the rows of one case: names with medians and quartiles, or with the reason for a missing result."""
    waiting = [peer for peer in peers if case.peers is None or peer.name in case.peers]
    rows: dict[Peer, list[Row]] = {peer: [] for peer in waiting}
    turns: dict[Peer, list[tuple[str, str, float | None]]] = {}
    for peer in waiting:
        progress.now(label, f"preparing {peer.name}")
        missing = attempt(peer, rows[peer], "prepare", case)
        if missing is not None:
            rows[peer] += [{"contender": name, "missing": why} for name, why in missing.items()]
            turns[peer] = attempt(peer, rows[peer], "calibrate", seconds)
    order = [peer for peer, names in turns.items() if names]
    times: dict[Peer, list[list[float]]] = {peer: [] for peer in order}
    for number in range(rounds):
        progress.now(label, f"round {number + 1} of {rounds}")
        order = order[1:] + order[:1]
        for peer in list(order):
            time.sleep(PAUSE if len(order) > 1 else 0)
            turn = attempt(peer, rows[peer], "turn")
            if turn is None:
                order.remove(peer)
            else:
                times[peer].append(turn)
    for peer in order:
        rows[peer] = best_forms(turns[peer], times[peer]) + rows[peer]
        attempt(peer, [], "release")
    return [row for peer in waiting for row in rows[peer]]


def attempt(peer: Peer, rows: list[Row], verb: str, *arguments: Any) -> Any:
    """Send a request; if it fails, report that in the rows of these contenders and return None."""
    try:
        return peer.ask(verb, *arguments)
    except FailedError as error:
        already = {row["contender"] for row in rows}
        last = str(error).strip().rsplit("\n", 1)[-1]
        # The whole message is for the terminal only, because it contains paths.
        print(f"\n{peer.name} failed:\n{error}", file=sys.stderr)
        rows += [
            {"contender": name, "missing": last, "failed": True}
            for name in peer.names
            if name not in already
        ]
        return None


def best_forms(names: list[tuple[str, str, float | None]], times: list[list[float]]) -> list[Row]:
    """Return a row for each contender, with the times of its fastest form."""
    best: dict[str, Row] = {}
    for (name, form, error), values in zip(names, zip(*times, strict=True), strict=True):
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        row = {
            "contender": name,
            "seconds": shorter(median),
            "low": shorter(low),
            "high": shorter(high),
        }
        if form:
            row["form"] = form
        if error is not None:
            row["error"] = float(f"{error:.2g}")
        if name not in best or median < best[name]["seconds"]:
            best[name] = row
    return list(best.values())


def shorter(seconds: float) -> float:
    """Round a time to four digits."""
    return float(f"{seconds:.4g}")


def describe(case: Case) -> dict[str, Any]:
    """Return the fields of a case for the page."""
    return {
        "section": case.section,
        "title": case.title,
        "dtype": case.dtype,
        "layout": case.layout,
        "order": case.order,
        "shapes": [list(shape) for shape in case.shapes],
        "nbytes": case.nbytes,
        "threads": case.threads,
    }


def summary(rows: Iterable[Row]) -> str:
    """Return the first time, and the other times as multiples of it."""
    first: Row | None = None
    words = []
    for row in rows:
        if "failed" in row:
            words.append(f"{row['contender']} FAILED: {row['missing']}")
        elif "seconds" in row and first is None:
            first = row
            words.append(f"{row['contender']} {in_words(row['seconds'])}")
        elif "seconds" in row and first is not None:
            words.append(f"{row['contender']} x{row['seconds'] / first['seconds']:.2f}")
    return "; ".join(words)


def in_words(seconds: float) -> str:
    """Format a time with three digits and a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


class Progress:
    """Prints lines. On a terminal, the current line shows the progress."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.start = time.monotonic()

    def now(self, label: str, what: str) -> None:
        """Show the current work."""
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[K{label}: {what}")
            self.stream.flush()

    def done(self, label: str, what: str) -> None:
        """Print a result."""
        clear = "\r\x1b[K" if self.stream.isatty() else ""
        self.stream.write(f"{clear}{time.monotonic() - self.start:5.0f} s {label}: {what}\n")
        self.stream.flush()
