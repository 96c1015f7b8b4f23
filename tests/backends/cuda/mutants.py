"""Breaks the CUDA kernels, and the host's code around them, in listed ways, and tells whether tests notice.

`nox -s mutants` breaks a copy of the package in one way at a time and runs the tests on it: those of the
kernels, first without and then with sanitizers, or those of the dispatch. `-- word ...` chooses those whose
kind, file or text holds one of the words. The exit status is 1 where a mutant survives.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

ROTATION = "tests/backends/cuda/test_rotation.py"
OF_KERNELS = (
    "tests/backends/cuda/test_cubins.py::test_packed_numbers_are_where_fields_are",
    "tests/backends/cuda/test_cubins.py::test_parameters_are_where_the_emulation_reads_them",
    "tests/backends/cuda/test_angles.py",
    ROTATION,
    "tests/backends/cuda/test_dispatch.py",
)
OF_DISPATCH = ("tests/backends/cuda/test_dispatch.py", "tests/backends/cuda/test_sharing.py")


class Mutant(NamedTuple):
    """A change of one place that makes the program wrong; `before` stands in the file once."""

    kind: str
    path: str
    before: str
    after: str

    @property
    def is_of_kernels(self) -> bool:
        """Whether the tests that launch kernels by themselves are to notice."""
        return self.path in (KERNEL, STRUCT)


KERNEL, STRUCT = "backends/cuda/rotate.cu", "backends/cuda/parameters.py"
LAUNCHES, VIEWS = "backends/cuda/launch.py", "backends/cuda/memory.py"
PLANS, TABLES = "backends/cuda/plan.py", "backends/cuda/tables.py"
OVERLAP = "backends/cuda/overlap.py"
GRADIENTS = "backends/torch.py"
DRIVER = "backends/cuda/driver.py"

# No test may fail of these, or all mutants seem to be noticed.
UNCHANGED = (Mutant("nothing", KERNEL, "", ""), Mutant("nothing", PLANS, "", ""))
MUTANTS = (
    Mutant(
        "indexing",
        KERNEL,
        "return run * (pairs / 2) + chunk * SIZE;",
        "return run * SIZE + chunk * SIZE + 0 * pairs;",
    ),
    Mutant(
        "indexing",
        KERNEL,
        "vector % 2 * pairs + vector / 2 * (pairs / 2)",
        "vector % 2 * pairs + vector / 2 * SIZE",
    ),
    Mutant(
        "indexing",
        KERNEL,
        "LAYOUT == ANY && layout == INTERLEAVED ? 2 : SIZE",
        "LAYOUT == ANY && layout == HALF ? 2 : SIZE",
    ),
    Mutant("indexing", KERNEL, "i < p.start ? i", "i <= p.start ? i"),
    Mutant("indexing", KERNEL, "low = middle; else", "low = middle + 1; else"),
    Mutant("indexing", KERNEL, "axis * 3 * plane", "axis * 2 * plane"),
    Mutant(
        "indexing",
        KERNEL,
        "const int chunk = blockIdx.z * blockDim.x + threadIdx.x",
        "const int chunk = threadIdx.x",
    ),
    Mutant(
        "indexing",
        KERNEL,
        "x_other.load(x + other * array.x_head",
        "x_other.load(x + (other + step < (unsigned)array.heads ? other + step : other) * array.x_head",
    ),
    Mutant(
        "indexing",
        LAUNCHES,
        "values[field], values[field + 1] = x, y",
        "values[field], values[field + 1] = x, x",
    ),
    Mutant("indexing", LAUNCHES, "ys[array] + y_start", "ys[array] + x_start"),
    Mutant(
        "indexing",
        LAUNCHES,
        "fields = (address, *self.fields[1:])",
        "fields = self.fields",
    ),
    Mutant("indexing", PLANS, "copy = not number and not in_place", "copy = not in_place"),
    Mutant("bounds", KERNEL, "if (token >= (unsigned)p.tokens) return;", ""),
    Mutant(
        "bounds",
        KERNEL,
        "if (first_head >= (unsigned)max(p.arrays[0].heads, p.arrays[1].heads)) return;",
        "",
    ),
    Mutant("bounds", KERNEL, "chunk < p.pairs / WIDTH", "chunk <= p.pairs / WIDTH"),
    Mutant(
        "bounds",
        KERNEL,
        "const bool both = other < (unsigned)array.heads",
        "const bool both = other <= (unsigned)array.heads",
    ),
    Mutant("bounds", KERNEL, "i < others; i += stride", "i <= others; i += stride"),
    Mutant("bounds", KERNEL, "(u64)entry >= (u64)p.rows", "(u64)entry > (u64)p.rows"),
    Mutant("bounds", KERNEL, "return !overflows && (", "(void)overflows; return ("),
    Mutant("bounds", KERNEL, "position < p.limit)", "position <= p.limit)"),
    Mutant("bounds", KERNEL, "if (bound <= token) low", "if (bound < token) low"),
    Mutant(
        "bounds",
        KERNEL,
        "return begin <= token && token < end;",
        "(void)end; return begin <= token;",
    ),
    Mutant(
        "bounds",
        KERNEL,
        "return begin <= token && token < end;",
        "(void)begin; return token < end;",
    ),
    Mutant("bounds", KERNEL, "!(size < 9223372036854775808.0) || ", ""),
    Mutant(
        "bounds", LAUNCHES, "if known and rows.bounds is None:", "if known or rows.bounds is None:"
    ),
    Mutant(
        "bounds",
        LAUNCHES,
        "copy = copy and channels < x.shape[-1]",
        "copy = copy and channels <= x.shape[-1] - 64",
    ),
    Mutant("bounds", VIEWS, "return sum(min(each, 0) for each in reach), sum", "return 0, sum"),
    Mutant(
        "bounds",
        OVERLAP,
        "return self._disjoint.get(_distances(addresses)) is not None",
        "return True",
    ),
    Mutant("alignment", LAUNCHES, "union |= x | y", "union |= x"),
    Mutant("alignment", PLANS, "if any(map(mod, addresses, self._sizes)):", "if False:"),
    Mutant("alignment", PLANS, "found is None or address % POSITION_BYTES", "found is None"),
    Mutant(
        "alignment",
        LAUNCHES,
        "vector = self._vectors and angle_source.aligned and not union",
        "vector = self._vectors and not union",
    ),
    Mutant(
        "alignment",
        LAUNCHES,
        "distances += [*block.x_steps, *block.y_steps]",
        "distances += [*block.x_steps]",
    ),
    Mutant("alignment", LAUNCHES, "distances = [start * size]", "distances = [0]"),
    Mutant(
        "alignment",
        LAUNCHES,
        "distances += [width * size] if block.copy else []",
        "distances += []",
    ),
    Mutant("alignment", LAUNCHES, "self._pairs % vector == 0 and not any", "not any"),
    Mutant(
        "strides",
        KERNEL,
        "result.store(y + other * array.y_head",
        "result.store(y + other * array.x_head",
    ),
    Mutant(
        "strides",
        KERNEL,
        "batch * array.y_batch + s * array.y_token + window",
        "batch * array.x_batch + s * array.y_token + window",
    ),
    Mutant(
        "strides",
        KERNEL,
        "const char* turns = p.turns + head * p.trig_head",
        "const char* turns = p.turns",
    ),
    Mutant("strides", KERNEL, "entry * p.table_row + head * p.trig_head", "entry * p.table_row"),
    Mutant(
        "strides",
        KERNEL,
        "const u64 walked = (u64)batch * (u64)p.step_batch",
        "const u64 walked = (u64)batch",
    ),
    Mutant(
        "strides",
        LAUNCHES,
        "dtype, start, width = REAL[dtype], 2 * start, 2 * width",
        "dtype, start, width = REAL[dtype], start, 2 * width",
    ),
    Mutant(
        "strides",
        LAUNCHES,
        "by_head = numbers * axes * pairs * 8 if heads > 1 else 0",
        "by_head = axes * pairs * 8 if heads > 1 else 0",
    ),
    Mutant(
        "strides",
        LAUNCHES,
        "if groups and (groups[-1][1], groups[-1][2]) == (size * steps[0], size * steps[1]):",
        "if groups:",
    ),
    Mutant("strides", LAUNCHES, "or (by_token and by_batch % by_token)", ""),
    Mutant("strides", LAUNCHES, "strides != others\n        or", "False\n        or"),
    Mutant("strides", VIEWS, "front.sort(key=lambda axis: -abs(x.strides[axis]))", "pass"),
    Mutant("strides", VIEWS, "key.append(output.data.ptr == x.data.ptr)", "pass"),
    Mutant(
        "phase",
        KERNEL,
        "position.whole * high + __umul64hi(position.whole, low)",
        "position.whole * high",
    ),
    Mutant("phase", KERNEL, "more = ~more + (rest == 0);", "more = ~more;"),
    Mutant("phase", KERNEL, "more += position.fraction * whole + ", "more += 0 * whole + "),
    Mutant("phase", KERNEL, "more += rest < part;", ""),
    Mutant("phase", KERNEL, "more + (WIDE && phase.low < rest)", "more"),
    Mutant("phase", KERNEL, "(rest + (1LL << 31)) >> 32", "rest >> 32"),
    Mutant(
        "phase",
        KERNEL,
        "p.position_type == INT32 ? (i64)load<int>(address)",
        "p.position_type == INT64 ? (i64)load<int>(address)",
    ),
    Mutant("phase", KERNEL, "if ((quarter + 1) & 2) cosine", "if (quarter & 1) cosine"),
    Mutant(
        "phase",
        KERNEL,
        "const Real c_low = c_lost + c_small;",
        "const Real c_low = 0 * c_lost + c_small;",
    ),
    Mutant("phase", KERNEL, "fused(y_low, c, -s_less_low)", "-s_less_low"),
    Mutant("phase", STRUCT, "words[:, :, 1] >> np.uint64(31)", "words[:, :, 1] >> np.uint64(32)"),
    Mutant("phase", LAUNCHES, '"sine_sign": -1.0 if inverse else 1.0', '"sine_sign": 1.0'),
    Mutant("phase", LAUNCHES, "int(rows.consecutive), limit)", "0, limit)"),
    Mutant(
        "phase",
        LAUNCHES,
        "words = frequencies.copies.get((device, alike))",
        "words = frequencies.copies.get((0, alike))",
    ),
    Mutant(
        "phase",
        PLANS,
        "key = name, *memory.layout_of",
        'key = "positions", *memory.layout_of',
    ),
    Mutant(
        "phase",
        GRADIENTS,
        "for x in ctx.positions if isinstance(x, torch.Tensor)",
        "for x in ()",
    ),
    Mutant(
        "factor", KERNEL, "fused(c, factor_low, product(c_low, factor))", "product(c_low, factor)"
    ),
    Mutant(
        "factor",
        KERNEL,
        "fused(s, factor, fused(s, factor_low",
        "fused(s, (Real)1, fused(s, factor_low",
    ),
    Mutant("factor", KERNEL, "sine[i] *= (Real)p.sine_sign;", ";"),
    Mutant(
        "factor",
        LAUNCHES,
        "(factor, high, float(np.float32(factor - high)))",
        "(factor, high, 1e-4)",
    ),
    Mutant("factor", PLANS, "self._scaled = any(", "self._scaled = False and any("),
    Mutant("struct", KERNEL, "i64 x_batch, x_token, x_head;", "i64 x_token, x_batch, x_head;"),
    Mutant(
        "struct",
        STRUCT,
        '"x_batch": "q",\n    "x_token": "q",',
        '"x_token": "q",\n    "x_batch": "q",',
    ),
    Mutant("launch", STRUCT, "groups = -(-heads // y)", "groups = heads // y"),
    Mutant("launch", STRUCT, "THREADS = 256", "THREADS = 512"),
    Mutant("launch", STRUCT, "LARGEST_Z = 64", "LARGEST_Z = 128"),
    Mutant("launch", STRUCT, "blocks = -(-tokens // z)", "blocks = max(1, tokens // z)"),
    Mutant("launch", STRUCT, "-(-chunks // x)", "1"),
    Mutant(
        "launch",
        LAUNCHES,
        "kernel = _kernels.get((device, name))",
        "kernel = _kernels.get((0, name))",
    ),
    Mutant("launch", LAUNCHES, "own=angle_source.own,", "own=False,"),
    Mutant("launch", VIEWS, "driver.order(stream_of(own, device), stream, device)", "pass"),
    Mutant(
        "launch",
        PLANS,
        "on_stream = memory.driver.stream(stream, self._device)",
        "on_stream = memory.driver.stream(None, self._device)",
    ),
    Mutant("launch", VIEWS, "if view.device != device:", "if False:"),
    Mutant("bounds", KERNEL, "((counted ^ (u64)p.first) & (counted ^ walked))", "0"),
    Mutant("bounds", VIEWS, "strides=tuple(strides), owner=None)", "strides=tuple(strides))"),
    Mutant(
        "strides",
        LAUNCHES,
        "_contiguous_bounds(_on_device(rows.bounds))",
        "_on_device(rows.bounds)",
    ),
    Mutant(
        "phase",
        PLANS,
        "min(cuda.FAR, call.limit - length)",
        "cuda.FAR",
    ),
    Mutant("phase", TABLES, "start=rows.start - first", "start=rows.start"),
    Mutant("phase", TABLES, "positions=rows.positions - first", "positions=rows.positions"),
    Mutant(
        "launch", DRIVER, "self._kept_alive[next(self._numbers)] = stream.record(), owners", "pass"
    ),
    Mutant(
        "launch",
        PLANS,
        "with memory.driver.scope(self._device):\n            recorded",
        "with memory.driver.scope(0):\n            recorded",
    ),
    Mutant("launch", TABLES, "*(self._stream, start // PAGE)", "*(0, start // PAGE)"),
    Mutant(
        "bounds",
        TABLES,
        "TABLES.keep(key, _CachedTable(window, nbytes))",
        "TABLES.keep(key, _CachedTable(window, 1))",
    ),
)


def _package(folder: Path) -> Path:
    """Copy the package into a folder, as it is installed, and return where it lies."""
    package = folder / "rotary"
    ours = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rotary", package, ignore=ours)
    shutil.copytree(ROOT / "backends", package / "backends", ignore=ours)
    return package


def _fails(tests: tuple[str, ...], variables: dict[str, str]) -> str | None:
    """Run tests until the first one fails, and return its name, None where all of them pass."""
    command = ("pytest", "-p", "no:cacheprovider", "-s", "-q", "-x", "-m", "cuda", *tests)
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, check=False, text=True
    )
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"exit status {done.returncode}"


def noticed(mutant: Mutant) -> str | None:
    """Return what notices a mutant, None where nothing does."""
    with TemporaryDirectory() as folder:
        package = _package(Path(folder))
        path = package / mutant.path.removeprefix("rotary/")
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
        variables = {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        if not mutant.is_of_kernels:
            return _fails(OF_DISPATCH, variables)
        variables["ROTARY_CUDA_BUILD"] = folder
        found = _fails(OF_KERNELS, variables)
        if found is None:
            sanitized = json.loads(os.environ["ROTARY_SANITIZED"])
            found = _fails((ROTATION,), variables | sanitized)
        return found


def main(words: list[str]) -> int:
    """Break the program in all listed ways that hold a word, and return the exit status."""
    chosen = [each for each in MUTANTS if not words or any(word in str(each) for word in words)]
    for whole in UNCHANGED:
        by = noticed(whole)
        if by is not None:
            print(f"{whole.path} fails as it is: {by}")
            return 1
    survived = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, by in zip(chosen, pool.map(noticed, chosen), strict=True):
            survived += by is None
            result = by or "SURVIVED"
            print(f"{mutant.kind:<10}{mutant.path:<24}{mutant.before!r:.60}  {result}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} mutants were noticed")
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
