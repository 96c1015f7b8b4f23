"""Kernels that cannot be compiled, cached or run by several threads, and their fallbacks."""

from __future__ import annotations

import importlib
import sys

import pytest

from rotary import backends
from rotary.backends.cpu import guard, kernels

host = importlib.import_module(
    "rotary.backends.cpu.host"
)  # the package has a function of this name
if kernels.COMPILED:
    from rotary.backends.cpu import jit, threads


@pytest.fixture
def nothing_failed(monkeypatch):
    """The state of a new process."""
    for entries in (guard.failures, guard._unreported):
        for what in list(entries):
            monkeypatch.delitem(entries, what)
    yield
    guard.failures.clear()
    guard._unreported.clear()


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("error", "warnings"),
    [(RuntimeError("cannot cache function"), 0), (EOFError("Ran out of input"), 1)],
)
@pytest.mark.parametrize(
    ("decorator", "variant"),
    [("cfunc", ("rotation", "float32", "half")), ("njit", ("call", "float32"))],
)
def test_a_failing_disk_cache_is_not_used(
    monkeypatch, recwarn, nothing_failed, error, warnings, decorator, variant
):
    variant = jit.Variant(*variant)
    whole = getattr(jit.numba, decorator)

    def decorate(*arguments, cache=False, **options):
        if cache:
            raise error
        return whole(*arguments, **options)

    monkeypatch.setattr(jit.numba, decorator, decorate)
    assert jit._compile(variant)
    guard.report()
    assert [w.category for w in recwarn] == [RuntimeWarning] * warnings


@pytest.mark.compiled
def test_a_forked_child_is_serial_if_its_parent_had_started_threads(monkeypatch):
    monkeypatch.setattr(threads, "numba_threads_started", lambda: True)
    monkeypatch.setattr(threads, "_inherited", {})
    assert threads.parallel_is_safe()
    monkeypatch.setattr(threads.os, "getpid", lambda: -1)
    assert not threads.parallel_is_safe()
    assert threads.thread_count(2**30, 1) == 1


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("name", "features", "machine", "known", "expected"),
    [
        ("generic", "", "x86_64", {}, False),
        ("haswell", "+f16c,+avx", "x86_64", {}, True),
        (None, None, "aarch64", {}, True),
        (None, None, "x86_64", {"f16c": True}, True),
        (None, None, "x86_64", {}, False),
    ],
)
def test_which_processors_convert_float16(monkeypatch, name, features, machine, known, expected):
    monkeypatch.setattr(kernels.numba.config, "CPU_NAME", name)
    monkeypatch.setattr(kernels.numba.config, "CPU_FEATURES", features)
    monkeypatch.setattr(kernels.platform, "machine", lambda: machine)
    monkeypatch.setattr(kernels.llvmlite.binding, "get_host_cpu_features", lambda: known)
    assert kernels._converts_half() is expected


def test_without_an_importable_numba_one_warning_has_the_reason(monkeypatch, nothing_failed):
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    monkeypatch.delattr(backends.cpu, "launch", raising=False)
    monkeypatch.setitem(sys.modules, "rotary.backends.cpu.launch", None)
    assert host._import_launch() is backends.portable
    with pytest.warns(RuntimeWarning, match="Numba cannot be imported"):
        guard.report()


def test_with_the_jit_disabled_numpy_operations_rotate(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert host._import_launch() is backends.portable
