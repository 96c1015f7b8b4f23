"""What an import costs, which way imports run, and how long modules are."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

import rotary
from rotary import backends

# The folders, and the modules beside them, from the bottom up; the design page shows the same rows. Each imports what
# stands in the rows above its own, and nothing beside or below, at its top or inside a function.
SPINE = [
    ["rotary._lib"],
    [
        *("rotary.angles", "rotary.layouts", "rotary.positions", "rotary.runtime"),
        *("rotary.sections", "rotary.typing"),
    ],
    ["rotary.decay", "rotary.norm", "rotary.scaling"],
    ["rotary.backends"],
    ["rotary.tables"],
    ["rotary.call"],
    ["rotary.specification"],
    ["rotary.explain"],
    ["rotary.embedding", "rotary.functions"],
    ["rotary.checkpoints", "rotary.formats"],
    ["rotary.cli"],
    ["rotary.__main__"],
]
# Third-party packages each module may import at its top; functions may import what they have met.
AT_THE_TOP = {
    "rotary.backends.cpu.jit": {"numba", "numpy"},
    "rotary.backends.cpu.kernels": {"llvmlite", "numba", "numpy"},
    "rotary.backends.cpu.launch": {"numba", "numpy"},
    "rotary.backends.cpu.threads": {"llvmlite", "numba"},
}
ALLOWED = {"array_api_compat", "numpy"}
LONGEST_MODULE = 600
NEVER = (
    *("numba", "llvmlite", "cupy", "torch", "jax", "jaxlib", "mlx", "dask", "ndonnx"),
    *("matplotlib", "ml_dtypes", "scipy", "array_api_strict", "tensorflow", "pandas"),
)


def sources():
    """The installed modules, name to path."""
    found = {}
    for package in (rotary, backends):
        folder = Path(package.__file__).parent
        for path in folder.rglob("*.py"):
            parts = (package.__name__, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
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


def imports_of(name):
    return {module for module, _ in imports(name) if module.partition(".")[0] == "rotary"}


def place(name):
    """The entry of the spine that a module belongs to."""
    return next((part for part in chain(*SPINE) if f"{name}.".startswith(f"{part}.")), None)


def test_every_module_is_in_the_spine():
    assert [name for name in SOURCES if place(name) is None] == ["rotary"]
    assert {place(name) for name in SOURCES} - {None} == set(chain(*SPINE))


def test_imports_run_one_way():
    wrong = []
    for name in sorted(SOURCES.keys() - {"rotary"}):
        (row,) = (i for i, row in enumerate(SPINE) if place(name) in row)
        allowed = {place(name), *chain(*SPINE[:row])}
        wrong += [
            f"{name} imports {other}" for other in imports_of(name) if place(other) not in allowed
        ]
    assert wrong == []


def test_there_are_no_cycles():
    TopologicalSorter({name: imports_of(name) for name in SOURCES}).prepare()


def test_the_reader_of_imports_finds_them():
    """The tests above would pass if nothing were found."""
    assert "rotary._lib.checks" in imports_of("rotary.layouts")
    assert {"rotary.tables.windows", "rotary.layouts", "rotary._lib.errors"} <= imports_of("rotary")
    assert {"rotary.backends.cpu.host", "rotary.backends.dask"} <= imports_of("rotary.backends")
    assert "rotary.angles.phases" in imports_of("rotary.backends.cpu.launch")
    assert ("rotary.backends.cpu.launch", False) in set(imports("rotary.backends.cpu.host"))
    assert ("numpy", True) in set(imports("rotary.angles.phases"))
    assert "rotary._lib.libraries" in imports_of("rotary.tables.lookup")


def test_the_design_page_shows_the_spine():
    page = Path(__file__).parents[2] / "docs/explanation/design.md"
    shown = re.findall(r"^\| \d+ \| (.+?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [re.findall(r"`([\w./]+)`", row) for row in shown]
    assert rows == [[as_path(name) for name in row] for row in SPINE]


def as_path(name):
    """The folder or file of a part of the spine, as it lies in the tree."""
    path = (
        name.replace(".", "/").removeprefix("rotary/")
        if "backends" in name
        else name.replace(".", "/")
    )
    return f"{path}/" if SOURCES[name].stem == "__init__" else f"{path}.py"


def test_every_folder_has_a_docstring():
    for name, path in SOURCES.items():
        if path.stem == "__init__":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name


def test_no_module_has_more_than_600_lines():
    """All kernels lie in one file, because Numba's disk cache notices changes only in the file of the function."""
    lines = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in SOURCES.items()
    }
    del lines["rotary.backends.cpu.kernels"]
    assert {name: count for name, count in lines.items() if count > LONGEST_MODULE} == {}


def test_only_numpy_and_array_api_compat_are_imported_at_the_top():
    for name in SOURCES:
        found = {module.partition(".")[0] for module, at_top in imports(name) if at_top}
        foreign = found - set(sys.stdlib_module_names) - {"rotary"}
        assert foreign <= AT_THE_TOP.get(name, ALLOWED), name


def test_only_kernels_import_numba():
    for name in SOURCES.keys() - AT_THE_TOP:
        assert "numba" not in {module.partition(".")[0] for module, _ in imports(name)}, name


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


def test_readers_of_checkpoints_are_imported_at_first_use():
    """Whichever name comes first, the classes beside it are those of `rotary`, as pickles name them."""
    own = {"from_config", "from_gguf", "preset", "presets", "Preset", "compare_dialects"}
    for first in own:
        script = f"""
import pickle, rotary
assert not any(name.startswith("rotary.checkpoints") for name in sys.modules)
rotary.{first}
for name in rotary.__all__:
    value = getattr(rotary, name)
    assert not isinstance(value, type) or value.__module__ == "rotary", value
assert pickle.loads(pickle.dumps(rotary.Preset)) is rotary.Preset
assert pickle.loads(pickle.dumps(rotary.from_config)) is rotary.from_config
from rotary import *
assert presets is rotary.presets
try:
    rotary.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
"""
        assert "rotary.checkpoints.presets" in loaded_after(script)


def test_importing_loads_numpy_and_array_api_compat_only():
    loaded = loaded_after("import rotary")
    assert "rotary" in loaded
    assert tops(loaded) - set(sys.stdlib_module_names) <= {"rotary", *ALLOWED}
    assert not tops(loaded) & set(NEVER)
    assert "rotary.backends.cpu.launch" not in loaded
    assert "rotary.backends.cpu.kernels" not in loaded
    # Modules of other libraries that array-api-compat wraps stay away as well.
    assert not {
        name for name in loaded if name.startswith("array_api_compat.") and "numpy" not in name
    } & {f"array_api_compat.{library}" for library in ("torch", "cupy", "dask")}


def test_optional_packages_are_not_searched_for():
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
rotary.apply_rotary(x, *rope.tables(numpy.arange(3)), layout="half", out=numpy.empty_like(x))
y = numpy.ones((2, 3, 8), numpy.float32)
for decay in (None, rotary.XPos(center=0)):
    rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0, seq_axis=-2, decay=decay)
    for each in (y.copy(), y.astype(float)):
        rope(each, y, positions=[[1, 5, 2]], out=(numpy.empty_like(each), y))
        rope(each.swapaxes(0, 1), y.swapaxes(0, 1), cu_seqlens=[0, 1, 3])
        rope.vjp(each, each.copy(), offset=[0.5, 7])
rotary.warm_up()
"""
    loaded = loaded_after(script, NUMBA_DISABLE_JIT=jit)
    assert not tops(loaded) & (set(NEVER) - {"numba", "llvmlite", "scipy"})  # Numba looks for SciPy
    assert ("rotary.backends.cpu.launch" in loaded) == (jit == "0")
    assert not {name for name in loaded if name.startswith("rotary.backends.cuda")}
