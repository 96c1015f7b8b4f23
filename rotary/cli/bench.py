"""Measures rotations beside a copy of as many bytes, and beside other libraries, all of them taking turns.

The copy is what memory allows: a rotation has to read and write each byte once, too. What a contender gives is
compared with the formula in float64 before it is timed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import bench_cases as cases
from . import bench_contenders as contenders
from .bench_cases import Case, Data
from .bench_contenders import Contender, Run
from .devices import Device

ROUNDS = 31
WARM_UP = 3
CALLS_IN_TURN = 20


@dataclass
class Row:
    """What came of one contender."""

    name: str
    run: Run | None = None
    missing: str = ""
    failed: bool = False
    seconds: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)

    def fail(self, why: str) -> None:
        """Give up."""
        self.run, self.missing, self.failed = None, why, True


def measure(case: Case, among: Mapping[str, Contender], device: Device, rounds: int) -> list[Row]:
    """Return a row for every contender, each with its times or with why it has none."""
    data = Data(case)
    rows = [_prepared(name, make, data, device) for name, make in among.items()]
    turns = list(rows)
    for _ in range(rounds):
        turns = turns[1:] + turns[:1]
        for row in turns:
            if row.run is not None:
                _take_turn(row, row.run, device)
    return rows


def _prepared(name: str, make: Contender, data: Data, device: Device) -> Row:
    """Return a row of a contender whose result is right, warmed up."""
    row = Row(name)
    try:
        row.run = make(data, device)
        result = row.run.call()
        if row.run.read is not None:
            wrong = data.is_wrong(row.run.read(result, data.checked_rows))
            if wrong is not None:
                row.fail(wrong)
                return row
        for _ in range(WARM_UP):
            row.run.call()
    except ImportError as error:
        row.run, row.missing = None, f"not installed ({error})"
    except Exception as error:  # noqa: BLE001  (what fails in one is told in its row)
        row.fail(_told(error))
    return row


def _take_turn(row: Row, run: Run, device: Device) -> None:
    """Time one call by the device's clock, and several by the host's."""
    try:
        row.seconds.append(device.seconds(run.call))
        row.calls.append(device.seconds_in_turn(run.call, CALLS_IN_TURN))
    except Exception as error:  # noqa: BLE001  (as above)
        row.fail(_told(error))


def _told(error: Exception) -> str:
    """Return an error in a line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# ------------------------------------------------------------------------------------------------
# What is told.


def table(case: Case, rows: Sequence[Row]) -> list[str]:
    """Return the lines of a case."""
    moved = 2 * case.nbytes
    lines = [
        f"{case.title}: {moved / 1e6:.1f} MB read and written",
        f"  {'':<30}{'us':>10}{'GB/s':>10}{'of copy':>10}{'us a call':>12}",
    ]
    copy = _median(next(row for row in rows if row.name == contenders.COPY))
    for row in rows:
        seconds = _median(row)
        if seconds is None:
            lines.append(f"  {row.name:<30}  {row.missing}")
            continue
        ratio = "" if copy is None else f"{copy / seconds:.2f}"
        calls = statistics.median(row.calls)
        lines.append(
            f"  {row.name:<30}{seconds * 1e6:>10.1f}{moved / seconds / 1e9:>10.1f}{ratio:>10}{calls * 1e6:>12.1f}"
        )
    return lines


def _median(row: Row) -> float | None:
    """Return the median time, None where there is none."""
    return statistics.median(row.seconds) if row.run is not None else None


def main(device: Device, *, rounds: int) -> int:
    """Measure all cases of a device and print what came of it.

    Returns
    -------
    int
        The exit status: 0 where this library gave right results, else 1.
    """
    among, chosen = (
        (contenders.ON_GPU, cases.ON_GPU) if device.is_gpu else (contenders.ON_CPU, cases.ON_CPU)
    )
    _say(*device.described())
    _say(
        f"medians of {rounds} rounds in which all take turns; `us` by the device's clock"
        + (", caches emptied before" if device.is_gpu else "")
        + f", `us a call` by the host's, {CALLS_IN_TURN} calls in a row"
    )
    good = True
    for case in chosen:
        lack = device.lacks(case.dtype)
        if lack is not None:
            _say("", f"{case.title}: not measured: {lack}")
            continue
        rows = measure(case, among, device, rounds)
        _say("", *table(case, rows))
        good = good and not any(row.failed for row in rows if row.name.startswith(contenders.OWN))
    return 0 if good else 1


def _say(*lines: str) -> None:
    """Print lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
