"""What an import costs, and which way imports run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path, PurePosixPath

import pytest

import rotary
from rotary import backends

# Every module may import those above it, and none below, at its top or inside a function.
ORDER = [
    "rotary._errors",
    "rotary._typing",
    "rotary._hints",
    "rotary._libraries",
    "rotary._checks",
    "rotary._numbers",
    "rotary._times",
    "rotary.layouts",
    "rotary.sections",
    "rotary.phases",
    "rotary._frequencies",
    "rotary._fields",
    "rotary.decay",
    "rotary.scaling",
    "rotary._distances",
    "rotary._grids",
    "rotary._multimodal",
    "rotary.positions",
    "rotary.rotation",
    "rotary.passes",
    "rotary._threads",
    "rotary._memo",
    "rotary.pool",
    "rotary.backends.cuda_struct",
    "rotary.backends.kernels",
    "rotary.backends.traced",
    "rotary.backends.reference",
    "rotary.backends.guard",
    "rotary.backends.portable",
    "rotary.backends.cpu",
    "rotary.backends.host",
    "rotary.backends.lazy",
    "rotary.backends.views",
    "rotary.backends.cuda_driver",
    "rotary.backends.cuda",
    "rotary.backends.shared",
    "rotary.backends",
    "rotary.rows",
    "rotary.shapes",
    "rotary.arrays",
    "rotary.quantized",
    "rotary.tables",
    "rotary.plans",
    "rotary.device_memory",
    "rotary.device_plans",
    "rotary.device_tables",
    "rotary.device",
    "rotary.apply",
    "rotary.operators",
    "rotary.embedding",
    "rotary.formats",
    "rotary._files",
    "rotary._config_dialects",
    "rotary._config_reader",
    "rotary._config_models",
    "rotary._config_schedules",
    "rotary._config_layers",
    "rotary._config_builder",
    "rotary.config",
    "rotary._gguf_file",
    "rotary.gguf",
    "rotary._presets",
    "rotary.functions",
    "rotary._devices",
    "rotary.service",
    "rotary._selftest",
    "rotary._bench_cases",
    "rotary._bench_contenders",
    "rotary._bench",
    "rotary.__main__",
    "rotary",
]
# Third-party packages each module may import at its top; functions may import what they have met.
AT_THE_TOP = {
    "rotary.backends.cpu": {"numba", "numpy"},
    "rotary.backends.kernels": {"llvmlite", "numba", "numpy"},
}
ALLOWED = {"array_api_compat", "numpy"}
NEVER = (
    *("numba", "llvmlite", "cupy", "torch", "jax", "jaxlib", "mlx", "dask", "ndonnx"),
    *("matplotlib", "ml_dtypes", "scipy", "array_api_strict", "tensorflow", "pandas"),
)


def sources():
    """The installed modules, name to path."""
    folders = {
        "rotary": Path(rotary.__file__).parent,
        "rotary.backends": Path(backends.__file__).parent,
    }
    found = {}
    for package, folder in folders.items():
        for path in folder.glob("*.py"):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


SOURCES = sources()


def imports(name):
    """Yield what a module imports as (module, whether at its top)."""
    tree = ast.parse(SOURCES[name].read_text())
    package = name if SOURCES[name].stem == "__init__" else name.rpartition(".")[0]
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_top = id(node) not in inner
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in SOURCES else base), at_top


def own(name):
    return {module for module, _ in imports(name) if module.partition(".")[0] == "rotary"}


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(SOURCES)


@pytest.mark.parametrize("name", ORDER)
def test_imports_run_downwards(name):
    above = set(ORDER[: ORDER.index(name)])
    assert own(name) <= above, f"{name} imports {sorted(own(name) - above)}, which comes later"


def test_there_are_no_cycles():
    TopologicalSorter({name: own(name) for name in SOURCES}).prepare()


def test_the_reader_of_imports_sees_them():
    """The tests above would pass if nothing were found."""
    assert "rotary._checks" in own("rotary.layouts")
    assert {"rotary.tables", "rotary.layouts", "rotary._errors"} <= own("rotary")
    assert {"rotary.backends.host", "rotary.backends.lazy"} <= own("rotary.backends")
    assert "rotary.phases" in own("rotary.backends.cpu")
    assert ("rotary.backends.cpu", False) in set(imports("rotary.backends.host"))
    assert ("numpy", True) in set(imports("rotary.phases"))
    assert "rotary._libraries" in own("rotary.tables")  # from . import _libraries as libraries


def rooms():
    """The rows of the design page's table, each the modules that it names."""
    page = Path(__file__).parents[1] / "docs/explanation/design.md"
    found = []
    for line in page.read_text().splitlines():
        cell = line.split("|")[1] if line.startswith("| `") else ""
        row, folder = [], ""
        for path in map(PurePosixPath, re.findall(r"`([\w./]+\.(?:py|cu))`", cell)):
            # A folder is named once in a row.
            folder = {"rotary": "rotary", "backends": "rotary.backends"}.get(
                str(path.parent), folder
            )
            if path.suffix == ".py":
                row.append(folder if path.stem == "__init__" else f"{folder}.{path.stem}")
        found.append(row)
    return [row for row in found if row]


def test_the_design_page_shows_every_room_below_those_it_knows():
    table = rooms()
    assert sorted([*chain(*table), "rotary"]) == sorted(SOURCES)
    known = set()
    for row in table:
        known |= set(row)
        for name in row:
            assert own(name) <= known, f"{name} imports {sorted(own(name) - known)}, shown later"


@pytest.mark.parametrize("name", ORDER)
def test_only_numpy_and_array_api_compat_are_imported_at_the_top(name):
    found = {module.partition(".")[0] for module, at_top in imports(name) if at_top}
    foreign = found - set(sys.stdlib_module_names) - {"rotary"}
    assert foreign <= AT_THE_TOP.get(name, ALLOWED)


@pytest.mark.parametrize("name", sorted(set(ORDER) - set(AT_THE_TOP)))
def test_nobody_else_imports_numba(name):
    assert "numba" not in {module.partition(".")[0] for module, _ in imports(name)}


def test_backends_import_no_more_of_the_package_than_its_leaves():
    """A backend takes finished values: it knows of no specification, cache or argument."""
    leaves = set(ORDER[: ORDER.index("rotary.backends.kernels")])
    for name in ORDER:
        if name.startswith("rotary.backends"):
            outside = {module for module in own(name) if not module.startswith("rotary.backends")}
            assert outside <= leaves


# ------------------------------------------------------------------------------------------------
# What is loaded.


def loaded_after(script, **variables):
    """Run a script and return the modules that it loads beyond NumPy and array-api-compat."""
    start = "import sys, numpy, array_api_compat; before = set(sys.modules)\n"
    end = "\nprint(*sorted(set(sys.modules) - before))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", start + script + end],
        capture_output=True,
        check=False,
        env=environment | variables,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def tops(modules):
    return {name.partition(".")[0] for name in modules}


def test_importing_loads_numpy_and_array_api_compat_only():
    loaded = loaded_after("import rotary")
    assert "rotary" in loaded
    assert tops(loaded) - set(sys.stdlib_module_names) <= {"rotary", *ALLOWED}
    assert not tops(loaded) & set(NEVER)
    assert "rotary.backends.cpu" not in loaded
    assert "rotary.backends.kernels" not in loaded
    # Modules of other libraries that array-api-compat wraps stay away as well.
    assert not {
        name for name in loaded if name.startswith("array_api_compat.") and "numpy" not in name
    } & {f"array_api_compat.{library}" for library in ("torch", "cupy", "dask")}


def test_optional_packages_are_not_even_looked_for():
    script = f"""
class Watch:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in {NEVER!r}, name
sys.meta_path.insert(0, Watch())
import rotary
rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
hash(rope), repr(rope), rope.explain(), rope.inv_freq, rope.at_length(5), rotary.cache_info()
rotary.set_cache_limit(100)
rotary.cache_clear()
with rotary.threads(1):
    pass
rotary.inv_freq(8, base=10.0)
rotary.positions.grid(2, 2)
rotary.positions.timestamps([1, 2], unit="s", origin=0)
rotary.permute_weights(numpy.ones((8, 2)), 1, source="half", target="interleaved")
"""
    assert not tops(loaded_after(script)) & set(NEVER)


@pytest.mark.parametrize("jit", ["0", "1"], ids=["compiled", "portable"])
def test_rotating_numpy_arrays_loads_no_other_library(jit):
    script = """
import rotary
rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
x = numpy.ones((3, 8), numpy.float32)
rope(x, positions=[0.5, 1, 2]), rope.inverse(x, out=x), rope.shift(x, 2), rope.tables(numpy.arange(3))
rope(x.astype(numpy.float16)), rope(x[:, :4] + 1j), rotary.sinusoidal([1, 2], 8)
rotary.apply_rotary(x, *rope.tables(numpy.arange(3)), layout="half")
rotary.warm_up()
"""
    loaded = loaded_after(script, NUMBA_DISABLE_JIT=jit)
    assert not tops(loaded) & (set(NEVER) - {"numba", "llvmlite", "scipy"})  # Numba looks for SciPy
    assert ("rotary.backends.cpu" in loaded) == (jit == "0")
