"""What `pytest -m gpu` runs where there is a GPU: nothing that takes the host's memory for one's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cuda, pytest.mark.unsanitized]

TESTS = Path(__file__).parents[2]
WHERE = [str(TESTS / name) for name in ("backends/cuda", "test_decay.py")]
FEW = [str(TESTS / "backends" / "cuda" / name) for name in ("test_gpu.py", "test_options.py")]
# A process in which CuPy is told how many GPUs there are, and asked for nothing else.
PROGRAM = """
import contextlib, io, json, os, sys
import cupy, pytest
answers = []
for count, where, arguments in json.load(sys.stdin):
    os.environ["ROTARY_CUDA"] = where
    cupy.cuda.is_available = lambda: count > 0
    cupy.cuda.runtime.getDeviceCount = lambda: count
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(["-q", "-p", "no:cacheprovider", *arguments])
    answers.append((code, said.getvalue()))
json.dump(answers, sys.stdout)
"""


def pytest_says(*questions):
    """The exit status and the output of pytest for each number of GPUs, ROTARY_CUDA and arguments."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        input=json.dumps(questions),
        capture_output=True,
        check=True,
        text=True,
        env=os.environ | {"ROTARY_TEST_BACKEND": "numpy,cupy"},
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def listed():
    """The tests that a marker chooses, by file, for each number of GPUs, ROTARY_CUDA and marker."""
    questions = [
        (1, "", "gpu"),
        (2, "", "gpu"),
        (0, "", "gpu"),
        (1, "", "cuda"),
        (1, "host", "cuda"),
    ]
    answers = pytest_says(
        *(
            (count, where, ["--collect-only", "-m", marker, *WHERE])
            for count, where, marker in questions
        )
    )
    found = {}
    for question, (code, said) in zip(questions, answers, strict=True):
        assert code == 0, said
        found[question] = tests = {}
        for line in said.splitlines():
            path, colons, name = line.partition("::")
            if colons:
                tests.setdefault(Path(path).name, set()).add(name)
    return found


def test_stand_ins_are_never_for_a_gpu(listed):
    on_gpu, on_host, without = (
        listed[1, "", "gpu"],
        listed[1, "", "cuda"],
        listed[1, "host", "cuda"],
    )
    assert set(on_gpu) == {"test_gpu.py", "test_decay.py"}
    assert all("cupy" in name for name in on_gpu["test_decay.py"])
    assert {"test_dispatch.py", "test_sharing.py", "test_selftest_emulated.py"} <= set(on_host)
    assert not set(on_host) & set(on_gpu)
    # Asked for the host's memory, CuPy's arrays lie there too, and all else is as it was.
    assert set(without) == {*on_host, "test_decay.py"}
    assert without["test_decay.py"] < on_gpu["test_decay.py"]
    assert all(without[name] == on_host[name] for name in on_host)


def test_what_needs_more_gpus_or_other_libraries_is_left_out(listed):
    """Here torch and JAX see no GPU; where there is none at all, everything can be listed."""
    one, two, all_of_it = (listed[count, "", "gpu"]["test_gpu.py"] for count in (1, 2, 0))
    assert one < two < all_of_it
    assert "test_mixed_gpus_are_refused" in two - one
    assert not any("torch" in name or "jax" in name for name in two)
    assert any("torch" in name for name in all_of_it)


def test_what_cannot_run_is_told_before_anything_runs():
    questions = [(0, "", "gpu"), (1, "host", "gpu"), (1, "", "gpu or cuda")]
    answers = pytest_says(
        *((count, where, ["-m", marker, *FEW]) for count, where, marker in questions)
    )
    assert [code for code, _ in answers] == [pytest.ExitCode.USAGE_ERROR] * 3
    for (_, said), message in zip(
        answers, ["need a GPU", "need a GPU", "need a process each"], strict=True
    ):
        assert message in said
        assert " passed" not in said
        assert " failed" not in said
