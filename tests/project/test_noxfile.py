"""The sessions of nox: which Pythons they find and test, and where they are named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CLASSIFIED = [
    line.split()[-1]
    for line in PROJECT["project"]["classifiers"]
    if line.startswith("Programming Language :: Python :: 3.")
]
SESSIONS = [f"interpreters(python='{version}')" for version in CLASSIFIED]
RUNNING = "{}.{}".format(*sys.version_info)
README_COMMAND = "python -m pip install nox && python -m nox"

pytestmark = pytest.mark.packaging


def run_nox(*arguments, **variables):
    environment = {
        name: value for name, value in os.environ.items() if name != "ROTARY_ALL_PYTHONS"
    }
    return subprocess.run(
        [sys.executable, "-m", "nox", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=environment | variables,
        text=True,
    )


@pytest.fixture
def find(monkeypatch, tmp_path):
    """The function that finds a Python, if there is none but the running one."""
    from environments import interpreter

    for name in ("path", "pyenv/versions", "home"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    interpreter.cache_clear()
    yield interpreter
    interpreter.cache_clear()


def python(path, answer, status=0):
    """Write a program that prints the answer of a Python to `environments.ASK`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


on_posix = pytest.mark.skipif(
    os.name != "posix", reason="the replacement for a Python is a shell script"
)


def test_by_default_every_classified_python_is_tested():
    listed = json.loads(run_nox("--list", "--json").stdout)
    assert [each["session"] for each in listed if each["name"] == "interpreters"] == SESSIONS
    everything = run_nox("--list", "--sessions", "full").stdout
    for session in SESSIONS:
        assert f"* {session} " in run_nox("--list").stdout
        assert f"* {session} " in everything


def test_no_other_python_is_named():
    oldest = CLASSIFIED[0]
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    markers = [text.partition(";")[2] for text in PROJECT["project"]["dependencies"]]
    named = {word.strip("'") for marker in markers for word in marker.split() if "3." in word}
    assert named <= set(CLASSIFIED)
    between = ", ".join(CLASSIFIED[:-1]) + " and " + CLASSIFIED[-1]
    for page in ("README.md", "CONTRIBUTING.md"):
        assert between in (ROOT / page).read_text(encoding="utf-8")


def test_continuous_integration_runs_the_command_of_the_readme_with_every_python():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert README_COMMAND in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (command,) = [line for line in lines if line.startswith(README_COMMAND)]
    assert command == f"{README_COMMAND} || exit 1"
    assert lines.index("export ROTARY_ALL_PYTHONS=1") < lines.index(command)


def test_every_session_that_is_named_exists():
    known = set(re.findall(r"^[*-] (\w+)", run_nox("--list").stdout, re.MULTILINE))
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, cwd=ROOT)
    named = set()
    for name in tracked.stdout.decode().rstrip("\0").split("\0"):
        if (ROOT / name).suffix in {".md", ".py", ".toml", ""}:
            text = (ROOT / name).read_text(encoding="utf-8")
            for words in re.findall(r"nox -s ((?:\w+ ?)+)", text):
                named |= {(name, word) for word in words.split()}
    assert {word for _, word in named} > {"demo", "gpu", "history", "peers"}
    assert {(name, word) for name, word in named if word not in known} == set()


@on_posix
def test_a_shim_that_does_not_start_is_skipped(find, tmp_path):
    other = "3.99"
    assert find(other) is None
    find.cache_clear()
    python(tmp_path / "path" / f"python{other}", "pyenv: python3.99: command not found", status=127)
    found = python(tmp_path / "pyenv/versions/3.99.1/bin/python", "cpython 3.99 0")
    assert find(other) == found


@on_posix
def test_a_python_on_the_path_comes_first_and_of_pyenv_the_newest(find, tmp_path):
    for release in ("3.99.9", "3.99.10", "3.99.2", "3.98.11"):
        python(tmp_path / "pyenv/versions" / release / "bin/python", f"cpython {release[:4]} 0")
    assert Path(find("3.99")).parts[-3] == "3.99.10"
    find.cache_clear()
    first = python(tmp_path / "path/python3.99", "cpython 3.99 0")
    assert find("3.99") == first


@on_posix
def test_versions_in_the_home_folder_are_found(find, tmp_path, monkeypatch):
    monkeypatch.delenv("PYENV_ROOT")
    found = python(tmp_path / "home/.pyenv/versions/3.99.0/bin/python", "cpython 3.99 0")
    assert find("3.99") == found


@on_posix
@pytest.mark.parametrize("answer", ["cpython 3.98 0", "pypy 3.99 0", "cpython 3.99 1", ""])
def test_another_python_is_skipped(answer, find, tmp_path):
    python(tmp_path / "path/python3.99", answer)
    assert find("3.99") is None


def test_the_running_python_needs_no_path(find):
    assert find(RUNNING) == sys.executable


def test_the_session_of_a_missing_python_is_skipped_unless_all_are_required(tmp_path):
    missing = next(version for version in CLASSIFIED if version != RUNNING)
    session = f"interpreters(python='{missing}')"
    empty = {"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    command = ("--envdir", str(tmp_path / "environments"), "--sessions", session)
    left_out = run_nox(*command, **empty)
    message = f"no Python {missing} was found"
    assert left_out.returncode == 0, left_out.stderr
    assert message in left_out.stderr
    assert f"Session {session} skipped" in left_out.stderr
    required = run_nox(*command, **empty, ROTARY_ALL_PYTHONS="1")
    assert required.returncode == 1
    assert message in required.stderr
