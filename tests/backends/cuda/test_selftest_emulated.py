"""`selftest` on the kernels built for the processor: all of them run, and no wrong one passes."""

from __future__ import annotations

import inspect

import cupy
import host_memory
import pytest
from emulation import Kernels, build

import rotary
from rotary.backends.cuda import launch as cuda
from rotary.backends.cuda import memory
from rotary.backends.cuda import parameters as cuda_struct
from rotary.cli import bench as _bench
from rotary.cli import bench_cases as _bench_cases
from rotary.cli import devices as _devices
from rotary.cli import selftest as _selftest

pytestmark = pytest.mark.cuda


class Emulated(_devices.Gpu):
    """A GPU whose memory is the host's."""

    def described(self):
        return ["a GPU"]

    def put(self, values):
        return host_memory.to_device(values)

    def get(self, x):
        return host_memory.to_host(x)


@pytest.fixture
def device(monkeypatch):
    """A GPU on which nothing has run yet."""
    host_memory.install()
    monkeypatch.setattr(cuda, "_kernels", {})
    rotary.cache_clear()  # plans above all
    yield Emulated()
    rotary.cache_clear()  # plans above all


def group(device, dtype, angles, capsys):
    """How many checks of a group fail, and what is told."""
    report = _selftest.Report()
    _selftest._check_group(dtype, angles, device, report)
    return report.failures, capsys.readouterr().out


def test_every_instance_runs_and_is_right(device, capsys):
    assert _selftest.main([device], None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a GPU"
    assert sum("5 of 5 instances" in line for line in lines) == 12
    assert lines[-2].endswith("6 kinds, same bits")
    assert lines[-1] == (
        "passed: 60 of 60 instances of the CUDA kernel ran, and all checked results are correct"
    )


# ------------------------------------------------------------------------------------------------
# It can fail.


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("fused(b, cosine[i], product(a, sine[i]))", "fused(b, cosine[i], -product(a, sine[i]))"),
        ("position = (i64)sum;", "position = (i64)sum + 1;"),
        ("u64 more = position.whole * high", "u64 more = (unsigned)position.whole * high"),
        ("const i64 at = (i < p.start ? i", "const i64 at = (i <= p.start ? i"),
    ],
    ids=["sign", "position", "digits", "passing through"],
)
def test_a_wrong_kernel_is_found(device, right, wrong, monkeypatch):
    text = cuda_struct.source()
    assert text.count(right) == 1
    spoilt = text.replace(right, wrong)
    monkeypatch.setattr(cuda_struct, "source", lambda: spoilt)
    case = next(case for case in _selftest.cases("float32", "integers") if not case.vector)
    kernels = Kernels(build(host_memory.KIND, spoilt, (case.instance,)))
    monkeypatch.setattr(host_memory, "kernels", lambda: kernels)
    assert _selftest.check(case, device) > 1


@pytest.mark.parametrize("field", ["first", "width", "sine_sign", "limit", "tokens", "factor_high"])
def test_a_wrong_launch_is_found(device, field, monkeypatch, capsys):
    kernel = memory.driver.kernel

    def spoilt(name):
        launch = kernel(name)

        def launch_otherwise(grid, block, arguments):
            parameters = arguments[0].view(cuda_struct.PARAMETERS).copy()
            parameters[field] = {"limit": 5}.get(field, parameters[field] - 1)
            launch(grid, block, (parameters.view(arguments[0].dtype),))

        return launch_otherwise

    monkeypatch.setattr(memory.driver, "kernel", spoilt)
    failures, said = group(device, "float16", "integers", capsys)
    assert failures == 1
    assert said.endswith("WRONG\n")


def test_an_instance_that_is_never_chosen_is_found(device, monkeypatch, capsys):
    monkeypatch.setattr(cuda.Launch, "_allows_vectors", lambda *args: False)
    failures, said = group(device, "float64", "floats", capsys)
    assert failures == 1
    assert "1 of 5 instances, error 0." in said


def test_a_kernel_that_does_not_compile_is_told(device, monkeypatch, capsys):
    def no_compiler(name):
        msg = "no compiler"
        raise RuntimeError(msg)

    monkeypatch.setattr(memory.driver, "kernel", no_compiler)
    assert group(device, "float32", "table", capsys) == (
        1,
        f"  {'float32, table':<34}RuntimeError: no compiler   WRONG\n",
    )


def test_rows_that_are_read_wrongly_are_found(device, monkeypatch, capsys):
    """Here as if int32 were int64 less one, and packed sequences began a row late."""
    kernel = memory.driver.kernel

    def spoilt(name):
        launch = kernel(name)

        def launch_otherwise(grid, block, arguments):
            parameters = arguments[0].view(cuda_struct.PARAMETERS).copy()
            parameters["first"] += parameters["position_type"] == 1
            parameters["first"] += parameters["bounds"] != 0
            launch(grid, block, (parameters.view(arguments[0].dtype),))

        return launch_otherwise

    monkeypatch.setattr(memory.driver, "kernel", spoilt)
    found = dict(_selftest.same_rows(device))
    assert {name for name, same in found.items() if not same} == {
        "positions in int32",
        "packed sequences",
    }
    said, good = _selftest._position_kinds(device)
    assert not good
    assert said == "positions in int32, packed sequences"


# ------------------------------------------------------------------------------------------------
# The GPU itself, which is not there: what is asked of CuPy is there to be asked.


def test_what_is_asked_of_cupy_exists():
    """No driver is needed to look."""
    source = inspect.getsource(_devices.Gpu)
    runtime = [
        "getDevice",
        "getDeviceProperties",
        "getDeviceCount",
        "driverGetVersion",
        "runtimeGetVersion",
    ]
    for name in runtime:
        assert name in source
        assert callable(getattr(cupy.cuda.runtime, name))
    for owner, names in {
        cupy.cuda: ["Event", "get_current_stream", "get_elapsed_time"],
        cupy.cuda.Event: ["record", "synchronize"],
        cupy.cuda.Stream: ["synchronize"],
        cupy.cuda.MemoryPointer: ["copy_from_device_async", "memset_async"],
        cupy: ["asarray", "asnumpy", "empty"],
    }.items():
        for name in names:
            assert name in source
            assert callable(getattr(owner, name))
    assert ".done" in source
    assert isinstance(cupy.cuda.Event.done, property)


# ------------------------------------------------------------------------------------------------
# What `bench` measures on a GPU.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("batch", "length"), [(2, 5), (4, 1)])
def test_what_is_measured_is_right(device, dtype, batch, length, monkeypatch):
    copied = []
    monkeypatch.setattr(device, "copy", lambda source, target: copied.append(source.nbytes))
    monkeypatch.setattr(device, "seconds", lambda call: call() and 1.0)
    monkeypatch.setattr(device, "seconds_in_a_row", lambda call, count: call() and 1.0)
    case = _bench_cases.Case("small", batch, length, (5, 2), 16, dtype)
    among = _bench.CONTENDERS
    rows = _bench.measure(case, among, device, 2)
    assert [(row.name, row.missing) for row in rows] == [(name, "") for name in among]
    assert set(copied) == {case.nbytes}
    assert {name.split("_")[2] for name in cuda.instances_used()} == {"vectors"}
