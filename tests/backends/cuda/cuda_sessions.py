"""The nox sessions of the CUDA kernels; noxfile.py imports them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nox
from environments import (
    COVERAGE,
    ENVIRONMENTS,
    OLDEST,
    ROOT,
    files_of,
    group,
    install_editable,
    interpreter,
    location,
    need,
    numba_cache,
)

# These files run only on GPUs, so the session `coverage` omits them and `cuda` reports on them.
ON_GPU = "backends/cuda/*.py"


def sanitizers(session: nox.Session) -> dict[str, str]:
    """Return the variables that build the kernels with g++'s sanitizers and load these into Python."""
    names = ("libasan.so", "libubsan.so")
    paths = [
        str(session.run("g++", f"-print-file-name={name}", external=True, silent=True)).strip()
        for name in names
    ]
    options = {"ROTARY_CUDA_EMULATION": "sanitized", "ASAN_OPTIONS": "detect_leaks=0"}
    return options | {"LD_PRELOAD": " ".join(paths)}


def on_processor(environment: Path) -> dict[str, str]:
    """Return the variables under which CuPy's arrays lie in the memory of the host, GPU or no GPU."""
    variables = {"ROTARY_CUDA": "host", "ROTARY_TEST_BACKEND": "numpy,cupy"}
    return variables | numba_cache(environment) | {"ROTARY_CUDA_BUILD": str(environment / "cuda")}


@nox.session(python=interpreter(OLDEST), default=False)
def cuda(session: nox.Session) -> None:
    """Compile the CUDA kernels for every GPU, and run them without a GPU, compiled for the processor by g++."""
    need(session, OLDEST, "torch, which some tests need, is tested on one Python")
    install_editable(session, "cuda", "test")
    variables = on_processor(location(session))
    variables |= {"COVERAGE_FILE": str(COVERAGE / ".coverage.cuda")}
    # The tests that run with every library run with CuPy too.
    tests = [path for path in files_of("*") if "(xp" in (ROOT / path).read_text()]
    files = ["tests/backends/cuda", *(path for path in tests if "cuda" not in Path(path).parts)]
    measured = ("--cov", "--cov-report=", "--cov-fail-under=0")
    session.run("pytest", "-m", "cuda", *measured, *files, *session.posargs, env=variables)
    if not session.posargs:
        # Lower than elsewhere, because only a driver can run some of it.
        bound = ("--fail-under=90", f"--include={ON_GPU}")
        session.run("coverage", "report", *bound, env=variables)
    # Again with sanitizers, which end the run at every access outside an array and at every misaligned vector.
    # `-s`, because their report would be lost if pytest captured it.
    run = ("pytest", "-s", "-m", "cuda and not unsanitized", *files)
    session.run(*run, *session.posargs, env=variables | sanitizers(session))


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Run the tests on this machine's NVIDIA GPU with the CuPy for its driver: `-- cuda12` or `-- cuda13`."""
    extra, *arguments = session.posargs or ["cuda13"]
    session.install("--editable", f".[{extra}]", *group("test"))
    variables = numba_cache(location(session)) | {"ROTARY_TEST_BACKEND": "numpy,cupy"}
    session.run("pytest", "-m", "gpu", *arguments, env=variables)


@nox.session(venv_backend="none", requires=["cuda"], default=False)
def mutants(session: nox.Session) -> None:
    """Break the CUDA kernels, and the code around them, in listed ways, each of which a test must notice."""
    environment = ENVIRONMENTS / "cuda"
    variables = on_processor(environment) | {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ROTARY_SANITIZED": json.dumps(sanitizers(session)),
    }
    command = ("python", "tests/backends/cuda/mutants.py", *session.posargs)
    session.run(*command, env=variables, external=True)
