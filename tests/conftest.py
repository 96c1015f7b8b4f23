"""Run tests with the arrays of the libraries that ROTARY_TEST_BACKEND names, or of all installed ones.

A test with the fixture `xp` runs once for each library. A test marked `library("torch")` belongs to that library; other
names in the mark are libraries that it also needs. All other tests belong to NumPy. `support.py` lists the features
that a library lacks: tests that need such a feature are expected to fail, strictly.

Tests marked `gpu` run on a GPU. Tests marked `cuda` use memory of the host instead, even if there is a GPU. The two
never run in one process.
"""

from __future__ import annotations

import gc
import importlib.util
import os

import pytest
from helpers import LIBRARIES, gpus_of, has_gpu, library_named
from hypothesis import settings
from support import FEATURES, MISSING

import rotary
from rotary.backends.cpu import kernels

# No deadline, because the first call may compile. The same examples in every run, so that a new failure has a cause.
settings.register_profile("rotary", deadline=None, derandomize=True)
settings.load_profile("rotary")

ASKED = [name for name in os.environ.get("ROTARY_TEST_BACKEND", "").split(",") if name]


def _importable(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# CuPy has to be named: without a GPU its kernels are first compiled for the processor.
SELECTED = ASKED or [
    name for name, (_, module) in LIBRARIES.items() if name != "cupy" and _importable(module)
]

# Test files that import libraries which not every environment has.
NEEDED = {
    "test_dispatch.py": ("cupy",),
    "test_gpu.py": ("cupy",),
    "test_marks.py": ("cupy",),
    "test_selftest_emulated.py": ("cupy",),
    "test_sharing.py": ("cupy", "jax", "torch"),
}
collect_ignore = [
    f"backends/cuda/{name}"
    for name, modules in NEEDED.items()
    if "cupy" not in ASKED and not all(map(_importable, modules))
]


def pytest_configure(config):
    config.addinivalue_line("markers", "library(name, *others): belongs to this array library")
    config.addinivalue_line("markers", "compiled: tests compiled kernels; left out without Numba")
    config.addinivalue_line("markers", "gpus(count): needs several GPUs; goes with `gpu`")
    config.addinivalue_line("markers", "feature(name): needs a feature of `support.py`")
    config.addinivalue_line(
        "markers",
        "arithmetic: computes with the library's own operations, which CuPy needs a GPU for",
    )
    unknown = set(SELECTED) - set(LIBRARIES)
    if unknown:
        message = f"ROTARY_TEST_BACKEND names {sorted(unknown)}, known are {list(LIBRARIES)}"
        raise pytest.UsageError(message)


def pytest_report_header():
    return f"array libraries: {', '.join(SELECTED)}"


def pytest_generate_tests(metafunc):
    if "xp" in metafunc.fixturenames:
        metafunc.parametrize("xp", SELECTED, indirect=True)


def _parameters(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def _libraries_of(item):
    """Return the library that a test belongs to, then the others that it needs."""
    if "xp" in _parameters(item):
        return (_parameters(item)["xp"],)
    mark = item.get_closest_marker("library")
    return mark.args if mark else ("numpy",)


def _is_selected(item):
    if item.get_closest_marker("compiled") and not kernels.COMPILED:
        return False
    own, *others = _libraries_of(item)
    return own in SELECTED and all(_importable(LIBRARIES[name][1]) for name in others)


def _is_for_gpu(item):
    return item.get_closest_marker("gpu") is not None


def _has_gpus(item):
    """Return whether every library of a test sees as many GPUs as it needs."""
    mark = item.get_closest_marker("gpus")
    needed = mark.args[0] if mark else 1
    return all(gpus_of(name) >= needed for name in _libraries_of(item))


def pytest_itemcollected(item):
    if _parameters(item).get("xp") == "cupy":
        on_gpu = has_gpu() or item.get_closest_marker("arithmetic")
        item.add_marker("gpu" if on_gpu else "cuda")


# Last, because tests that -m deselects should not query the GPUs.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    left = [item for item in items if _is_selected(item)]
    # Without a GPU they can only be listed, see below.
    if any(map(_is_for_gpu, left)) and has_gpu():
        left = [item for item in left if not _is_for_gpu(item) or _has_gpus(item)]
    kept = set(left)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = left
    for item in items:
        features = {mark.args[0] for mark in item.iter_markers("feature")}
        assert features <= set(FEATURES), f"unknown features {features - set(FEATURES)}"
        if "xp" in _parameters(item):
            features.add(_parameters(item).get("dtype"))
            for feature in features & set(MISSING):
                reason = MISSING[feature].get(_libraries_of(item)[0])
                if reason is not None:
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def pytest_collection_finish(session):
    # All test items stay until the end. Otherwise every `gc.collect()` of a test would visit them.
    gc.collect()
    gc.freeze()
    if session.config.option.collectonly or not any(map(_is_for_gpu, session.items)):
        return
    if not has_gpu():
        message = "tests marked `gpu` need a GPU, and ROTARY_CUDA other than host"
        raise pytest.UsageError(message)
    if any(item.get_closest_marker("cuda") for item in session.items):
        message = "tests marked `gpu` and `cuda` need a process each, for a GPU's memory and for the host's"
        raise pytest.UsageError(message)


@pytest.fixture
def xp(request):
    """An array library, as a `helpers.Library`; JAX has 64-bit types on."""
    library = library_named(request.param)
    with library.session():
        yield library


@pytest.fixture
def fresh_cache():
    """An empty cache of tables, whose limit is restored afterwards."""
    limit = rotary.cache_info().limit
    rotary.cache_clear()
    yield
    rotary.set_cache_limit(limit)
    rotary.cache_clear()
