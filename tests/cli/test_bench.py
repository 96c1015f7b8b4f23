"""`python -m rotary bench`: results are checked, calls take turns, and the table is right."""

from __future__ import annotations

import numpy as np
import pytest

from rotary import __main__
from rotary.cli import bench as _bench
from rotary.cli import bench_cases as _bench_cases
from rotary.cli import devices as _devices
from rotary.cli.bench_cases import Case, Data

PREFILL = Case("five tokens", 2, 5, (3, 2), 8, "float32")
DECODE = Case("one token", 4, 1, (3, 2), 8, "float32")
HALF = PREFILL._replace(dtype="bfloat16")


class Clock(_devices.Host):
    """A host whose clock shows the given times."""

    def __init__(self, times=()):
        self.times, self.turns = list(times), 0

    def seconds(self, call):
        call()
        self.turns += 1
        return self.times.pop(0) if self.times else 1.0

    def seconds_in_a_row(self, call, count):
        assert count == _bench.CALLS_IN_A_ROW
        call()
        return 0.5


def always(result):
    """A contender that returns this result."""
    return lambda data, device: _bench.Run(
        lambda: result(data), lambda ys, rows: [y[:, rows] for y in ys]
    )


def right(data):
    """The formula, with loops."""
    found = []
    for x in data.arrays:
        y = x.astype(np.float64)
        for b, s, i in np.ndindex(x.shape[0], x.shape[1], x.shape[3] // 2):
            j = i + x.shape[3] // 2
            angle = data.positions[b, s] * 10_000.0 ** (-2 * i / x.shape[3])
            c, d = np.cos(angle), np.sin(angle)
            y[b, s, :, i] = x[b, s, :, i] * c - x[b, s, :, j] * d
            y[b, s, :, j] = x[b, s, :, j] * c + x[b, s, :, i] * d
        found.append(y.astype(x.dtype))
    return found


# ------------------------------------------------------------------------------------------------
# Cases.


def test_the_bytes_of_query_and_key_are_counted():
    case = _bench_cases.ON_GPU[0]
    assert case.nbytes == 8192 * 40 * 128 * 2
    assert Data(case).arrays[1].nbytes == 8192 * 8 * 128 * 2
    assert [Data(case).positions.min(), Data(case).positions.max()] == [0, 8191]


def test_each_decoded_sequence_has_its_own_position():
    assert DECODE.decodes
    assert Data(DECODE).positions.tolist() == [[1000], [1037], [1074], [1111]]
    assert len(Data(DECODE).whole_tables[0]) == 1112


@pytest.mark.parametrize("case", [PREFILL, DECODE, HALF])
def test_results_are_compared_with_the_formula(case):
    data = Data(case)
    rows = data.checked_rows
    results = [y[:, rows] for y in right(data)]
    assert data.error(results) is None
    assert data.error([x[:, rows] for x in data.arrays]).startswith("is wrong by ")
    assert data.error([np.full_like(y, np.nan) for y in results]) == "is wrong by nan"
    assert data.error([y[..., 1:] for y in results]).startswith("gives shape")
    results[1][-1, -1, -1, 3] += 0.2
    assert data.error(results) == "is wrong by 0.2"


# ------------------------------------------------------------------------------------------------
# Rounds.


def test_contenders_alternate_and_medians_are_reported():
    among = {"a": always(right), "b": always(right)}
    # Rounds begin with the second, then the first, then the second contender.
    device = Clock([3.0, 10.0, 20.0, 5.0, 1.0, 90.0])
    rows = _bench.measure(PREFILL, among, device, 3)
    assert [row.seconds for row in rows] == [[10.0, 20.0, 90.0], [3.0, 5.0, 1.0]]
    assert [_bench.median(row) for row in rows] == [20.0, 3.0]
    assert device.turns == 6


def test_contenders_that_are_wrong_missing_or_failing_are_not_timed():
    def missing(data, device):
        import not_installed_anywhere  # noqa: F401  (it fails)

    def raises(data, device):
        return _bench.Run(lambda: 1 / 0, None)

    def raises_later(data, device):
        calls = iter([data] * (2 + _bench.WARM_UP))
        return _bench.Run(lambda: right(next(calls)), None)

    among = {
        "right": always(right),
        "wrong": always(lambda data: data.arrays),
        "missing": missing,
        "raises": raises,
        "later": raises_later,
    }
    rows = _bench.measure(PREFILL, among, Clock(), 3)
    outcomes = {row.name: (row.missing, row.failed) for row in rows}
    assert outcomes["right"] == ("", False)
    assert outcomes["wrong"][0].startswith("is wrong by")
    assert outcomes["missing"] == (
        "not installed (No module named 'not_installed_anywhere')",
        False,
    )
    assert outcomes["raises"] == ("ZeroDivisionError: division by zero", True)
    assert outcomes["later"] == ("StopIteration: ", True)
    assert [len(row.seconds) for row in rows] == [3, 0, 0, 0, 1]


def test_the_table_has_the_bandwidth_and_its_ratio_to_the_copy():
    rows = [
        _bench.Row(
            _bench.COPY,
            always(right)(Data(PREFILL), None),
            seconds=[2e-6] * 3,
            calls=[1.0],
        ),
        _bench.Row("rotary", always(right)(Data(PREFILL), None), seconds=[4e-6] * 3, calls=[5e-6]),
        _bench.Row("other", missing="not installed (so)"),
    ]
    head, _, copy, rotation, other = _bench.table(PREFILL, rows)
    assert PREFILL.nbytes == 2 * 5 * 5 * 8 * 4 == 1600
    assert head == "five tokens: 0.0 MB read and written"
    assert copy.split()[-4:] == ["2.0", "1.6", "1.00", "1000000.0"]
    assert rotation.split() == ["rotary", "4.0", "0.8", "0.50", "5.0"]
    assert other.split(maxsplit=1) == ["other", "not installed (so)"]


def test_without_a_copy_there_is_no_ratio():
    rows = _bench.measure(
        PREFILL, {_bench.COPY: always(lambda _: 1 / 0), "own": always(right)}, Clock(), 1
    )
    _, _, copy, rotation = _bench.table(PREFILL, rows)
    assert copy.split(maxsplit=5)[5] == "ZeroDivisionError: division by zero"
    assert len(rotation.split()) == 4


# ------------------------------------------------------------------------------------------------
# The GPU's clock.


class Simulated:
    """A simulated GPU with the interface of CuPy: it runs in order what the host submits. Times are microseconds."""

    SUBMITTING, FILLING = 4.0, 33.0

    def __init__(self):
        self.host = self.gpu = 0.0
        self.cuda = self.data = self
        self.fills = 0

    def do(self, work):
        self.host += self.SUBMITTING
        self.gpu = max(self.gpu, self.host) + work

    def wait(self):
        self.host = max(self.host, self.gpu)

    def get_current_stream(self):
        return self

    def empty(self, size, dtype):
        return self

    def memset_async(self, value, size, stream):
        self.fills += 1
        self.do(self.FILLING)

    def get_elapsed_time(self, start, end):
        return (end.at - start.at) / 1e3

    def Event(self):
        return Event(self)


class Event:
    def __init__(self, on):
        self.on = on

    def record(self, stream):
        self.on.do(0.0)
        self.at = self.on.gpu

    @property
    def done(self):
        return self.on.host >= self.at

    def synchronize(self):
        self.on.host = max(self.on.host, self.at)


@pytest.fixture
def simulated():
    """A device, and the simulation that replaces GPU and CuPy."""
    device = _devices.Gpu()
    device._cupy = Simulated()
    return device, device._cupy


def test_the_time_of_the_host_is_not_included(simulated):
    """The GPU is kept busy for as long as the host needs."""
    device, gpu = simulated

    def eager():
        for _ in range(100):
            gpu.do(1.0)

    assert device.seconds(lambda: gpu.do(20.0)) == pytest.approx(20e-6)
    assert gpu.fills == 1
    assert device.seconds(eager) == pytest.approx(100e-6)
    before, gpu.fills = gpu.fills, 0
    assert before > gpu.SUBMITTING * 100 / gpu.FILLING
    assert device.seconds(eager) == pytest.approx(100e-6)
    assert gpu.SUBMITTING * 100 / gpu.FILLING < gpu.fills < before


def test_a_call_that_waits_for_the_gpu_is_measured_too(simulated):
    device, gpu = simulated

    def waits():
        gpu.do(20.0)
        gpu.wait()

    assert 20e-6 <= device.seconds(waits) < 40e-6
    assert gpu.fills < 2 * _devices.MOST_FILLS


# ------------------------------------------------------------------------------------------------
# The command.


@pytest.fixture
def small(monkeypatch):
    """Small cases."""
    monkeypatch.setattr(_bench_cases, "ON_CPU", (PREFILL, DECODE, HALF))


def test_the_cpu_is_measured(small, capsys):
    assert __main__.main(["bench", "--cpu", "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("CPU: ")
    assert "medians of 2 rounds" in out
    for case in _bench_cases.ON_CPU:
        assert f"\n{case.title}: " in out
    for name in _bench.CONTENDERS:
        lines = [line for line in out.splitlines() if line.startswith(f"  {name} ")]
        assert len(lines) == 3
        assert all(float(line.split()[-4]) > 0 for line in lines)


def test_only_a_wrong_result_of_this_library_is_a_failure(small, monkeypatch, capsys):
    wrong = {"other": always(lambda data: data.arrays)}
    assert _bench.main(_devices.Host(), rounds=1, others=wrong) == 0
    assert "\n  other                           is wrong by" in capsys.readouterr().out
    monkeypatch.setitem(_bench.CONTENDERS, "rotary, in place", wrong["other"])
    assert __main__.main(["bench", "--cpu", "--rounds", "1"]) == 1


def test_a_missing_dtype_is_reported(small, monkeypatch, capsys):
    monkeypatch.setattr(_devices.Host, "lacks", lambda self, dtype: "no" if "b" in dtype else None)
    assert _bench.main(Clock(), rounds=1) == 0
    assert "\nfive tokens: not measured: no\n" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "no_gpu", lambda: "CuPy is not installed")
    assert __main__.main(["bench"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("GPU: not measured. CuPy is not installed: install rotary[cuda12]")
    assert said.endswith(". `bench --cpu` measures the CPU.\n")


def test_a_gpu_is_measured(monkeypatch):
    seen = []
    monkeypatch.setattr(__main__, "no_gpu", lambda: None)
    monkeypatch.setattr(_bench, "main", lambda device, rounds: seen.append((type(device), rounds)))
    __main__.main(["bench", "--rounds", "7"])
    assert seen == [(_devices.Gpu, 7)]
