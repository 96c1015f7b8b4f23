"""`warm_up` and `show_config`."""

from __future__ import annotations

import importlib.metadata
from itertools import product

import ml_dtypes
import numpy as np
import pytest

import rotary
from rotary import backends
from rotary.backends import portable
from rotary.backends.cpu import jit, launch, threads
from rotary.cli import report as service

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


@pytest.fixture
def none_compiled(monkeypatch):
    """No kernel is loaded yet; the disk cache makes loading quick."""
    book = {}
    monkeypatch.setattr(jit, "_compiled", book)
    monkeypatch.setattr(launch, "_compiled", book)
    return book


def report(capsys):
    """The output of `show_config` as a dictionary."""
    rotary.show_config()
    lines = capsys.readouterr().out.splitlines()
    return {line[:18].strip(): line[18:] for line in lines}


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_warm_up_compiles_every_kernel_of_a_dtype(none_compiled, dtype):
    """No later rotation compiles anything, whatever its size."""
    assert rotary.warm_up(dtype) is None
    before = set(none_compiled)
    assert before
    width = 32 if "complex" in dtype else 64
    for layout, shape in product(("half", "interleaved"), ((3, width), (4, 8, 700, width))):
        rope = rotary.RotaryEmbedding(64, layout=layout, base=10_000.0, seq_axis=-2)
        x = np.ones(shape, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        x.setflags(write=False)
        rope(x)
        rope(x.copy(), offset=10**6)
        rope(x[..., ::-1, :], positions=np.arange(shape[-2]) * 0.5)
        rope.shift(x, 3)
        rotary.cache_clear()
    assert set(none_compiled) == before


@pytest.mark.compiled
def test_warm_up_takes_several_dtypes_in_any_form(none_compiled):
    rotary.warm_up(dtypes=["float16", np.float64, np.dtype("complex64"), ml_dtypes.bfloat16])
    found = {each.dtype for each in none_compiled if each.name == "rotate_interleaved"}
    assert found == {"float16", "float64", "float32", "bfloat16"}
    # Complex numbers are interleaved.
    assert jit.Variant("rotation", "float32", "half") not in none_compiled
    tables = {each.dtype for each in none_compiled if each.kind == "table"}
    assert tables == {"float32", "float64"}


@pytest.mark.compiled
def test_warm_up_is_for_float32_by_default(none_compiled):
    rotary.warm_up()
    assert {each.dtype for each in none_compiled} == {"float32"}
    assert {each.streaming for each in none_compiled} == {True, False}


@pytest.mark.compiled
def test_warm_up_of_nothing(none_compiled):
    rotary.warm_up(())
    assert not none_compiled


@pytest.mark.parametrize(
    "bad", ["int32", "float8", "", None, 3, ["float32", "bool"], [None], np.int8, object()]
)
def test_warm_up_refuses_dtypes_that_cannot_be_rotated(bad):
    with pytest.raises(TypeError, match="`dtypes` must be among .*float32"):
        rotary.warm_up(bad)


@pytest.mark.compiled
def test_a_refused_warm_up_compiles_nothing(none_compiled):
    with pytest.raises(TypeError, match="`dtypes`"):
        rotary.warm_up(["float16", "int8"])
    assert not none_compiled


@pytest.mark.parametrize("dtype", DTYPES)
def test_warm_up_without_numba_does_nothing(monkeypatch, dtype):
    monkeypatch.setattr(backends, "host", lambda: portable)
    rotary.warm_up(dtype)


def test_show_config_prints_versions(capsys):
    found = report(capsys)
    assert found["rotary"] == rotary.__version__
    for name in ("numpy", "array-api-compat", "numba", "llvmlite", "ml_dtypes"):
        assert found[name] == importlib.metadata.version(name)
    assert found["python"].startswith("3.")
    assert int(found["processors"]) >= 1


def test_show_config_prints_the_gpu_or_why_there_is_none(capsys, monkeypatch):
    class Gpu:
        def described(self):
            return ["GPU 0 of 1", "CUDA 13.0"]

    monkeypatch.setattr(service, "no_gpu", lambda: "CuPy is not installed")
    assert report(capsys)["GPU"] == "CuPy is not installed"
    monkeypatch.setattr(service, "no_gpu", lambda: None)
    monkeypatch.setattr(service, "Gpu", Gpu)
    assert report(capsys)["GPU"] == "GPU 0 of 1; CUDA 13.0"


@pytest.mark.compiled
def test_show_config_prints_kernels_and_threads(capsys, none_compiled):
    found = report(capsys)
    assert found["kernels"] == "cpu"
    assert int(found["numba threads"]) >= 1
    assert found["compiled"] == "nothing yet"
    assert "threading layer" in found
    rotary.warm_up()
    assert "rotate_half float32" in report(capsys)["compiled"]


@pytest.mark.compiled
def test_show_config_prints_the_threading_layer_once_it_is_known(capsys, monkeypatch):
    monkeypatch.setattr(launch, "numba_threads_started", lambda: False)
    assert report(capsys)["threading layer"] == "not started"
    monkeypatch.setattr(launch, "numba_threads_started", lambda: True)
    monkeypatch.setattr(threads.numba, "threading_layer", lambda: "omp")
    assert report(capsys)["threading layer"] == "omp"


def test_show_config_prints_the_size_of_the_cache(capsys):
    rotary.cache_clear()
    assert "hits=0, misses=0, entries=0, nbytes=0" in report(capsys)["tables"]


def test_show_config_starts_no_threads_and_compiles_nothing(none_compiled):
    rotary.show_config()
    assert not none_compiled


def test_show_config_without_numba(capsys, monkeypatch):
    monkeypatch.setattr(backends, "host", lambda: portable)
    found = report(capsys)
    assert found["kernels"] == "portable"
    assert "threading layer" not in found


def test_show_config_leaves_out_missing_packages(capsys, monkeypatch):
    monkeypatch.setattr(service, "REPORTED", ("numpy", "no-such-package"))
    found = report(capsys)
    assert "numpy" in found
    assert "no-such-package" not in found
