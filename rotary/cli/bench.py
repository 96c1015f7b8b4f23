"""Measures rotations of this library and a copy of the same number of bytes, alternately, in rounds.

The copy shows the limit of the memory, because a rotation also reads and writes each byte once. Before a contender is
timed, its result is compared with the formula in float64.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.typing import Array, HostArray
from rotary.embedding import RotaryEmbedding

from . import bench_cases as cases
from .bench_cases import BASE, Case, Data
from .devices import Device

ROUNDS = 31
WARM_UP = 3
CALLS_IN_A_ROW = 20


# ------------------------------------------------------------------------------------------------
# Contenders.


class Run(NamedTuple):
    """A call to time, and a function that returns given rows of query and key from the result; None for a copy."""

    call: Callable[[], object]
    read: Callable[[Any, list[int]], list[HostArray]] | None


# A function that makes arrays on a device and returns a call. It raises ImportError if a library is not installed.
Contender: TypeAlias = Callable[[Data, Device], Run]


def copy(data: Data, device: Device) -> Run:
    """Copy the same number of bytes."""
    source = device.put(np.concatenate([x.ravel() for x in data.arrays]))
    target = device.put(np.zeros(source.shape, data.arrays[0].dtype))
    return Run(lambda: device.copy(source, target), None)


def in_place(data: Data, device: Device) -> Run:
    """Rotate with this library, in place."""
    rope, options = embedding(data.case), _options(data, device)
    xs = tuple(device.put(x) for x in data.arrays)
    return Run(lambda: rope(*xs, out=xs, **options), _reader(device))


def to_new(data: Data, device: Device) -> Run:
    """Rotate with this library into new arrays."""
    rope, options = embedding(data.case), _options(data, device)
    xs = [device.put(x) for x in data.arrays]
    return Run(lambda: rope(*xs, **options), _reader(device))


def embedding(case: Case) -> RotaryEmbedding:
    """Return the embedding of a case."""
    return RotaryEmbedding(case.head_dim, layout="half", base=BASE, seq_axis=1)


def _options(data: Data, device: Device) -> dict[str, Array]:
    """Return the position arguments: in decoding, offsets on the device, as a model has them."""
    return {"offset": device.put(data.offsets)} if data.case.decodes else {}


def _reader(device: Device) -> Callable[[Any, list[int]], list[HostArray]]:
    def read(results: Sequence[Array], rows: list[int]) -> list[HostArray]:
        return [device.get(y)[:, rows] for y in results]

    return read


COPY = "copy of the same bytes"
# `bench` fails if a contender with this prefix fails.
OWN = "rotary, "
CONTENDERS: dict[str, Contender] = {
    COPY: copy,
    "rotary, in place": in_place,
    "rotary, new arrays": to_new,
}


# ------------------------------------------------------------------------------------------------
# Rounds.


@dataclass
class Row:
    """The times of one contender, or the reason why it was not timed."""

    name: str
    run: Run | None = None
    missing: str = ""
    failed: bool = False
    seconds: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)

    def fail(self, reason: str) -> None:
        """Stop timing this contender."""
        self.run, self.missing, self.failed = None, reason, True


def measure(
    case: Case, contenders: Mapping[str, Contender], device: Device, rounds: int
) -> list[Row]:
    """Return one row for each contender."""
    data = Data(case)
    rows = [_prepare(name, make, data, device) for name, make in contenders.items()]
    order = list(rows)
    for _ in range(rounds):
        order = order[1:] + order[:1]
        for row in order:
            if row.run is not None:
                _time(row, row.run, device)
    return rows


def _prepare(name: str, make: Contender, data: Data, device: Device) -> Row:
    """Check the result of a contender, warm it up and return its row."""
    row = Row(name)
    try:
        row.run = make(data, device)
        result = row.run.call()
        if row.run.read is not None:
            error = data.error(row.run.read(result, data.checked_rows))
            if error is not None:
                row.fail(error)
                return row
        for _ in range(WARM_UP):
            row.run.call()
    except ImportError as error:
        row.run, row.missing = None, f"not installed ({error})"
    except Exception as error:  # noqa: BLE001  (the row reports the failure of one contender)
        row.fail(_in_one_line(error))
    return row


def _time(row: Row, run: Run, device: Device) -> None:
    """Time one call with the clock of the device, and consecutive calls with the clock of the host."""
    try:
        row.seconds.append(device.seconds(run.call))
        row.calls.append(device.seconds_in_a_row(run.call, CALLS_IN_A_ROW))
    except Exception as error:  # noqa: BLE001  (as above)
        row.fail(_in_one_line(error))


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# ------------------------------------------------------------------------------------------------
# The report.


def table(case: Case, rows: Sequence[Row]) -> list[str]:
    """Return the lines of a case."""
    transferred = 2 * case.nbytes
    lines = [
        f"{case.title}: {transferred / 1e6:.1f} MB read and written",
        f"  {'':<30}{'us':>10}{'GB/s':>10}{'of copy':>10}{'us a call':>12}",
    ]
    copied = median(next(row for row in rows if row.name == COPY))
    for row in rows:
        seconds = median(row)
        if seconds is None:
            lines.append(f"  {row.name:<30}  {row.missing}")
            continue
        ratio = "" if copied is None else f"{copied / seconds:.2f}"
        calls = statistics.median(row.calls)
        lines.append(
            f"  {row.name:<30}{seconds * 1e6:>10.1f}{transferred / seconds / 1e9:>10.1f}{ratio:>10}{calls * 1e6:>12.1f}"
        )
    return lines


def median(row: Row) -> float | None:
    """Return the median time of a contender, or None if it failed."""
    return statistics.median(row.seconds) if row.run is not None else None


def main(device: Device, *, rounds: int, others: Mapping[str, Contender] | None = None) -> int:
    """Measure all cases of a device and print a table for each.

    `others` are further contenders; asv_benchmarks/peers/gpu.py has some.

    Returns
    -------
    int
        The exit status: 1 if a result of this library is wrong, else 0.
    """
    contenders = CONTENDERS | dict(others or {})
    _print(*device.described())
    _print(
        f"medians of {rounds} rounds, in which all contenders alternate; `us` by the clock of the device"
        + (", after its caches were emptied" if device.is_gpu else "")
        + f", `us a call` by the clock of the host, for {CALLS_IN_A_ROW} consecutive calls"
    )
    status = 0
    for case in cases.ON_GPU if device.is_gpu else cases.ON_CPU:
        reason = device.lacks(case.dtype)
        if reason is not None:
            _print("", f"{case.title}: not measured: {reason}")
            continue
        rows = measure(case, contenders, device, rounds)
        _print("", *table(case, rows))
        if any(row.failed for row in rows if row.name.startswith(OWN)):
            status = 1
    return status


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
