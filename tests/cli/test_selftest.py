"""`python -m rotary selftest` on a CPU: it passes if the kernels are right, and only then."""

from __future__ import annotations

import subprocess
import sys
import types

import numpy as np
import pytest

import rotary
from rotary import __main__
from rotary.backends import portable
from rotary.backends.cpu import launch as cpu
from rotary.backends.cuda import memory
from rotary.cli import devices as _devices
from rotary.cli import selftest as _selftest


@pytest.fixture
def no_cupy(monkeypatch):
    """CuPy is not installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(memory, "driver", memory.Driver())


class Driver:
    """The part of the driver that `no_gpu` uses."""

    installed = True

    def __init__(self, missing=None, *, is_foreign=False):
        self.missing, self.is_foreign = missing, is_foreign


def test_it_passes_from_a_terminal():
    command = [sys.executable, "-P", "-m", "rotary", "selftest", "--cpu"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("CPU: ")
    assert len([line for line in lines if "of its bound" in line]) == 12
    assert lines[-1] == "passed: all checked results are correct"
    assert "GPU" not in done.stdout


def test_without_cupy_the_rest_is_checked(no_cupy, monkeypatch, capsys):
    monkeypatch.setattr(_selftest, "run", lambda devices, report: None)
    assert __main__.main(["selftest"]) == 0
    said, last = capsys.readouterr().out.splitlines()
    assert said.startswith("GPU: not checked. CuPy is not installed: install rotary[cuda12] or")
    assert "[ctk]" in said
    assert last.startswith("passed")


def test_without_the_gpu_that_was_requested_nothing_is_checked(no_cupy, capsys):
    assert __main__.main(["selftest", "--gpu"]) == 1
    said, last = capsys.readouterr().out.splitlines()
    assert said.startswith("GPU: not checked. CuPy is not installed")
    assert last == "FAILED: there is no GPU, so nothing was checked"


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (Driver("CuPy finds no driver"), "CuPy finds no driver"),
        (Driver(is_foreign=True), "this CuPy is for GPUs that have no CUDA"),
    ],
)
def test_the_reason_for_a_missing_gpu(driver, said, monkeypatch):
    monkeypatch.setattr(memory, "driver", driver)
    assert _devices.no_gpu() == said


def test_a_gpu_is_checked(monkeypatch):
    monkeypatch.setattr(memory, "driver", Driver())
    seen = []
    monkeypatch.setattr(_selftest, "main", lambda devices, missing: seen.append((devices, missing)))
    for options in ([], ["--cpu"], ["--gpu"]):
        __main__.main(["selftest", *options])
    assert [([type(d).__name__ for d in devices], missing) for devices, missing in seen] == [
        (["Host", "Gpu"], None),
        (["Host"], None),
        (["Gpu"], None),
    ]


@pytest.mark.parametrize(
    "arguments", [[], ["selftest", "--cpu", "--gpu"], ["bench", "--rounds", "0"]]
)
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m rotary" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------
# It can fail.


def checked(device, dtype="float32", angles="integers"):
    """The report of one group."""
    report = _selftest.Report()
    _selftest._check_group(dtype, angles, device, report)
    return report


def backend():
    """The module that rotates NumPy arrays."""
    return cpu if _devices.host() is cpu else portable


def rotated_too_far(result):
    """The result with one channel off by a millionth."""
    result[0, 1, 1, 4] *= 1 + 1e-6
    return result


@pytest.mark.parametrize(
    "spoil",
    [
        rotated_too_far,
        lambda result: result * result.dtype.type(1.0000005),
        np.negative,
        lambda result: result[..., ::-1],
        np.zeros_like,
        lambda result: np.full_like(result, np.nan),
    ],
)
def test_a_wrong_result_is_found(spoil, monkeypatch, capsys):
    call = rotary.RotaryEmbedding.__call__

    def spoilt(self, *arrays, **options):
        results = call(self, *arrays, **options)
        for result in results:
            result[...] = spoil(result.copy())
        return results

    monkeypatch.setattr(rotary.RotaryEmbedding, "__call__", spoilt)
    report = checked(_devices.Host())
    assert report.failures == 1
    assert capsys.readouterr().out.endswith("WRONG\n")


def test_wrong_angles_are_found(monkeypatch):
    fill = backend().fill_table
    monkeypatch.setattr(
        backend(),
        "fill_table",
        lambda frequencies, positions, *rest: fill(frequencies, positions + 1, *rest),
    )
    rotary.cache_clear()
    report = checked(_devices.Host(), angles="floats")
    rotary.cache_clear()
    assert report.failures == 1


def test_an_input_that_is_written_to_is_found():
    class Written(_devices.Host):
        def put(self, values):
            self.given = super().put(values)
            return self.given

        def get(self, x):
            if x is not self.given:
                self.given[...] = 0
            return x

    case = _selftest.cases("float32", "integers")[0]
    assert _selftest.check(case, _devices.Host()) <= 1
    assert _selftest.check(case, Written()) == np.inf


def test_a_change_outside_the_rotated_channels_is_found():
    case = _selftest.cases("float32", "integers")[0]
    (x, _) = case.arrays()
    exact = _selftest.expected(case, x, transposed=False)
    y = exact.astype(np.float64).astype(np.float32)
    assert _selftest.error(case, y, exact, "half", 3.0) < 0.5
    y[0, 0, 0, -1] = np.nextafter(y[0, 0, 0, -1], 1)
    assert _selftest.error(case, y, exact, "half", 3.0) == np.inf


def test_an_exception_is_reported_and_the_rest_is_checked(monkeypatch, capsys):
    monkeypatch.setattr(_selftest, "check", lambda case, device: 1 / (case.dtype != "float32"))
    assert _selftest.main([_devices.Host()], None) == 1
    out = capsys.readouterr().out
    assert out.count("ZeroDivisionError: division by zero   WRONG\n") == 3
    assert out.count("error 1.00 of its bound\n") == 9
    assert out.endswith("FAILED: 3 checks, marked WRONG above\n")


def test_a_missing_dtype_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(_devices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_selftest, "check", lambda case, device: 0.5)
    assert _selftest.main([_devices.Host()], None) == 0
    out = capsys.readouterr().out
    assert "not checked: NumPy has bfloat16 only with ml_dtypes\n" in out
    assert out.count("of its bound") == 9


def test_a_gpu_whose_kernels_do_not_run_is_found(capsys):
    class Pretended(_devices.Host):
        is_gpu = True

    report = checked(Pretended())
    assert report.failures == 1
    assert report.instances == 0
    assert "  0 of 5 instances, error 0." in capsys.readouterr().out.replace("integers", "")


def test_every_kind_of_position_gives_the_same_bits():
    found = dict(_selftest.same_rows(_devices.Host()))
    assert len(found) == 6
    assert all(found.values())


# ------------------------------------------------------------------------------------------------
# The GPU, with a replacement for CuPy.


class Spy(types.SimpleNamespace):
    """Replaces CuPy for `Gpu`, and records the calls in order."""

    def __init__(self):
        super().__init__(asked=[], __version__="14.2.0")
        ask = self.asked.append
        stream = types.SimpleNamespace(synchronize=lambda: ask("stream waits"))
        memory = types.SimpleNamespace(
            memset_async=lambda value, size, stream: ask("memset"),
            copy_from_device_async=lambda source, size, stream: ask(("copy", size)),
        )
        self.array = types.SimpleNamespace(data=memory, nbytes=24)
        self.empty = lambda size, dtype: self.array
        self.cuda = types.SimpleNamespace(
            Event=self.event,
            get_current_stream=lambda: stream,
            get_elapsed_time=lambda start, end: 2.5 * (end.number - start.number),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 5)),
            runtime=types.SimpleNamespace(
                getDevice=lambda: 1,
                getDeviceCount=lambda: 4,
                driverGetVersion=lambda: 13020,
                runtimeGetVersion=lambda: 12090,
                getDeviceProperties=lambda number: {
                    "name": b"A GPU",
                    "major": 9,
                    "minor": 0,
                    "multiProcessorCount": 132,
                },
            ),
        )
        self.events = 0

    def event(self):
        number = self.events
        self.events += 1
        return types.SimpleNamespace(
            number=number,
            done=False,
            record=lambda stream: self.asked.append(("record", number)),
            synchronize=lambda: self.asked.append(("wait", number)),
        )


def test_the_clock_of_a_gpu():
    device = _devices.Gpu()
    device._cupy = spy = Spy()
    assert device.seconds(lambda: spy.asked.append("call")) == 0.0025
    assert spy.asked == ["memset", ("record", 0), "call", ("record", 1), ("wait", 1)]
    spy.asked.clear()
    assert device.seconds_in_a_row(lambda: spy.asked.append("call"), 3) > 0
    assert spy.asked == ["stream waits", *["call"] * 3, "stream waits"]
    spy.asked.clear()
    device.copy(spy.array, spy.array)
    assert spy.asked == [("copy", 24)]


def test_a_gpu_is_described(monkeypatch):
    device = _devices.Gpu()
    device._cupy = Spy()
    assert device.described() == [
        "GPU 1 of 4: A GPU, compute capability 9.0, 132 multiprocessors",
        "CUDA 13.2 of the driver, 12.9 of the runtime, NVRTC 13.5, CuPy 14.2.0",
    ]
    assert device.lacks("float16") is device.lacks("bfloat16") is None
    device._cupy.__version__ = "13.6.0"
    assert device.lacks("float16") is None
    assert (
        device.lacks("bfloat16") == "CuPy has bfloat16 only from version 14 on, and with ml_dtypes"
    )


def test_arrays_of_a_gpu():
    device = _devices.Gpu()
    device._cupy = types.SimpleNamespace(asarray=np.array, asnumpy=lambda x: x.copy())
    x = np.arange(3)
    assert device.get(device.put(x)).tolist() == [0, 1, 2]
