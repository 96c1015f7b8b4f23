"""The contents of the wheel and the sdist, and settings whose errors nothing else would show."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TRY_OUT = """
import importlib.util
import sys

import numpy as np

import rotary
import rotary.backends

assert importlib.util.find_spec("backends") is None
assert rotary.__file__.startswith(sys.prefix), rotary.__file__
assert rotary.backends.__file__.startswith(sys.prefix), rotary.backends.__file__
rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
x = np.ones((3, 8), dtype=np.float32)
np.testing.assert_allclose(rope.inverse(rope(x)), x, rtol=1e-6)
print("rotated")
"""


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """The folder with one wheel and one sdist: the one that nox built, or else a new one."""
    if "ROTARY_DIST" in os.environ:
        return Path(os.environ["ROTARY_DIST"])
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="session")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(dist):
    (path,) = dist.glob("*.tar.gz")
    return path


def run(*command, cwd=None):
    """Run a command, which must succeed, and return its output."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        check=False,
        cwd=cwd,
        env=variables,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(path):
    """The files of a wheel without its metadata, name to bytes."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        return {name: archive.read(name) for name in names}


def shipped():
    """The files of the tree that belong into a wheel, by their names in it."""
    found = {}
    for folder, within in ((ROOT / "rotary", "rotary"), (ROOT / "backends", "rotary/backends")):
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".py", ".toml", ".cu", ".typed"}:
                found[f"{within}/{path.relative_to(folder).as_posix()}"] = path
    return found


@pytest.mark.packaging
def test_the_wheel_contains_only_the_two_packages(wheel):
    assert contents(wheel) == {name: path.read_bytes() for name, path in shipped().items()}


@pytest.mark.packaging
def test_the_wheel_is_pure_and_names_its_dependencies(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Name"] == "rotary"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert set(metadata.get_all("Provides-Extra")) == {"cuda12", "cuda13", "plot"}
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    always = {item.name for item in needed if "extra" not in str(item.marker)}
    assert always == {"array-api-compat", "numba", "numpy"}


@pytest.mark.packaging
def test_the_sdist_contains_everything_to_test_and_to_build(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "noxfile.py", "pyproject.toml", "rotary/py.typed"} <= names
    assert {"backends/__init__.py", "docs/conf.py", "tests/project/test_packaging.py"} <= names
    assert {path.relative_to(ROOT).as_posix() for path in shipped().values()} <= names


@pytest.mark.packaging
def test_the_wheel_built_from_the_sdist_is_the_same(wheel, sdist, tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, sdist)
    (again,) = tmp_path.glob("*.whl")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


@pytest.mark.packaging
def test_the_wheel_installs_and_works_outside_of_the_tree(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "install", wheel)
    assert run(python, "-c", TRY_OUT, cwd=tmp_path) == "rotated\n"


def test_packages_are_the_folders_of_modules():
    """A folder that pyproject.toml leaves out works in the tree and is missing from the wheel."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {PurePosixPath(name).parent for name in shipped() if name.endswith(".py")}
    assert named == sorted(".".join(folder.parts) for folder in folders)
    assert {f"{folder}/__init__.py" for folder in folders} <= set(shipped())


def test_no_conftest_is_at_the_top_level():
    """Pytest would import the tree instead of an installed copy."""
    assert not (ROOT / "conftest.py").exists()
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_hooks_use_the_versions_of_the_dependency_groups():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    pinned = {item for item in groups["lint"] if "==" in item}
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r'"([^"]+==[^"]+)"', hooks)) == pinned


def test_hooks_check_the_docstrings_of_every_module():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    (pattern,) = re.findall(r"entry: numpydoc lint\n.*\n +files: (.*)", hooks)
    modules = [path for path in shipped().values() if path.suffix == ".py"]
    assert all(re.search(pattern, path.relative_to(ROOT).as_posix()) for path in modules)
