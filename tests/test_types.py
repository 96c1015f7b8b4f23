"""What mypy and pyright report for a program of a user: `nox -s typing` runs this on an installed copy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("typed_program.py")

pytestmark = pytest.mark.typing


def run(folder, *command):
    """Return the output of a type checker in a folder from which it cannot import the sources of the library."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, check=False, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(folder):
    """Return the lines that mypy refuses, and its messages."""
    options = ("--strict", "--config-file=", "--hide-error-context", "--no-error-summary")
    output = run(folder, "mypy", *options, PROGRAM.name)
    found = re.findall(rf"^{re.escape(PROGRAM.name)}:(\d+): error: (.*)$", output, re.MULTILINE)
    return {int(line): message for line, message in found}


def pyright(folder):
    """Return the lines that pyright refuses, and its messages."""
    config = {"typeCheckingMode": "strict", "include": [PROGRAM.name]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    report = json.loads(run(folder, "basedpyright", "--outputjson", "--pythonpath", sys.executable))
    assert report["summary"]["filesAnalyzed"] == 1
    return {
        each["range"]["start"]["line"] + 1: each["message"]
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_type_checkers_refuse_exactly_the_wrong_lines(checker, tmp_path):
    shutil.copy(PROGRAM, tmp_path)
    lines = PROGRAM.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    refused = checker(tmp_path)
    assert {n: message for n, message in refused.items() if n not in wrong} == {}
    assert [lines[n - 1] for n in sorted(wrong - refused.keys())] == []
