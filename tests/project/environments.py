"""Pythons and environments for the sessions of nox, which are defined in noxfile.py and beside the benchmarks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import nox

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".nox"
COVERAGE = ENVIRONMENTS / "coverage"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

# Every Python that the classifiers name. One that is not found is skipped with a message. If this variable is set, as
# in .ci/run, its sessions fail.
PYTHONS = nox.project.python_versions(PROJECT)
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]
REQUIRED = "ROTARY_ALL_PYTHONS"
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

# Prints the implementation and version of an interpreter, and whether it is a build without the GIL. Such a build
# does not count, because it needs other packages.
ASK = """
import sys, sysconfig
print(sys.implementation.name, "%d.%d" % sys.version_info[:2], sysconfig.get_config_var("Py_GIL_DISABLED") or 0)
"""


def candidates(version: str) -> Iterator[Path]:
    """Yield the paths a Python may have: the running one, those on PATH, then pyenv's, newest release first."""
    if version == RUNNING:
        yield Path(sys.executable)
    for folder in os.get_exec_path():
        yield Path(folder) / (f"python{version}.exe" if os.name == "nt" else f"python{version}")
    for root in (os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"):
        if root:
            found = Path(root).glob(f"versions/{version}.*/bin/python")
            yield from sorted(found, key=lambda path: release(path.parts[-3]), reverse=True)


def release(text: str) -> list[int]:
    """Return a version as numbers: 3.12.10 is newer than 3.12.9."""
    return [int(number) for number in re.findall(r"\d+", text)]


@cache
def interpreter(version: str) -> str | None:
    """Return the first Python of a version that starts; shims of pyenv exist for versions that do not."""
    for path in candidates(version):
        with suppress(OSError, subprocess.TimeoutExpired):
            asked = [str(path), "-c", ASK]
            done = subprocess.run(asked, capture_output=True, check=False, text=True, timeout=60)
            if done.returncode == 0 and done.stdout.split() == ["cpython", version, "0"]:
                return str(path)
    return None


def need(session: nox.Session, version: str, why: str) -> None:
    """Skip a session if a Python is missing, or fail it if every supported Python is required."""
    if interpreter(version):
        return
    message = f"{why}: no Python {version} was found, neither on PATH nor among pyenv's versions"
    if os.environ.get(REQUIRED):
        session.error(message)
    session.skip(message)


def files_of(*names: str) -> list[str]:
    """Return the files of tests that have these names, in whatever folder."""
    found = [path for name in names for path in ROOT.glob(f"tests/**/test_{name}.py")]
    return [str(path.relative_to(ROOT)) for path in found]


def group(*names: str) -> list[str]:
    """Return the requirements of the named dependency groups."""
    return list(nox.project.dependency_groups(PROJECT, *names))


def install_copy(session: nox.Session, *requirements: str) -> None:
    """Install the project as users do, without modules that an earlier build/ kept after they were deleted."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    session.install(".", *requirements)


def install_editable(session: nox.Session, *groups: str) -> dict[str, str]:
    """Install the tree itself and the named dependency groups; return the variables of the environment."""
    session.install("--editable", ".", *group(*groups))
    return numba_cache(location(session))


def location(session: nox.Session) -> Path:
    """Return the folder of a session's environment."""
    return Path(session.virtualenv.location).resolve()


def program(environment: Path, name: str) -> str:
    """Return the path of a program in an environment."""
    folder = "Scripts" if os.name == "nt" else "bin"
    return str(environment / folder / (f"{name}.exe" if os.name == "nt" else name))


def numba_cache(environment: Path) -> dict[str, str]:
    """Keep compiled kernels inside the environment; beside the source they would outlive an uninstall."""
    return {"NUMBA_CACHE_DIR": str(environment / "numba")}


def serve(session: nox.Session, folder: str, port: int) -> None:
    """Serve pages to this machine until Ctrl-C, which is not a failure."""
    address = ("--bind", "127.0.0.1", str(port))
    with suppress(KeyboardInterrupt):
        session.run("python", "-m", "http.server", "--directory", folder, *address)
