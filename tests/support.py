"""What each array library supports: one table for the expected failures of tests and for the documentation.

`python tests/support.py` prints the page; `python tests/support.py --write` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "support.md"

LIBRARIES = {
    "numpy": "NumPy",
    "array-api-strict": "array-api-strict",
    "torch": "PyTorch",
    "jax": "JAX",
    "mlx": "MLX",
    "dask": "dask",
    "ndonnx": "ndonnx",
    "cupy": "CuPy",
}

FEATURES = {
    "float16": "float16 arrays",
    "bfloat16": "bfloat16 arrays",
    "float32": "float32 arrays",
    "float64": "float64 arrays",
    "complex64": "complex64 arrays",
    "complex128": "complex128 arrays",
    "own positions": "positions, offsets and shifts given as the library's own arrays",
    "float positions": "the same as floats",
    "float64 positions": "the same in float64, without loss",
    "own bounds": "`cu_seqlens` given as the library's own array",
    "own tables": "`apply_rotary` with the library's own cosine and sine",
    "numpy positions": "positions given as NumPy arrays, exact",
    "out": "`out=`, in place or into other memory",
    "shared tables": "tables that are views of the shared cache",
    "lazy": "nothing is computed by the call",
    "jit": "compiled by the library (PyTorch: `torch.compile`; ndonnx: an ONNX model)",
    "whole jit": "the same, into one program (PyTorch: `fullgraph=True`)",
    "traced positions": "integer positions that only the compiled program, or the GPU, knows",
    "grad": "the library's own gradient, equal to `vjp`",
    "vmap": "the library's own vectorising transform",
}

CUPY_TRANSFORMS = "CuPy has no function transforms"
NUMPY_TRANSFORMS = "NumPy has no function transforms"
STRICT_TRANSFORMS = "the standard has no function transforms"
DASK_TRANSFORMS = "dask has no function transforms"
ONNX_TRANSFORMS = "an ONNX graph is not transformed"
IMMUTABLE = {
    "jax": "JAX arrays are immutable",
    "mlx": "a slice of an MLX array is a copy, so that writing to it would be lost",
    "dask": "dask arrays are graphs",
    "ndonnx": "ndonnx arrays are graphs",
}

# Feature -> library -> why it does not work. Features that are not listed work, and are tested.
MISSING: dict[str, dict[str, str]] = {
    "float16": {"array-api-strict": "not in the standard"},
    "bfloat16": {
        "array-api-strict": "not in the standard",
        "ndonnx": "ndonnx has no such dtype",
    },
    "complex64": {"ndonnx": "ndonnx has no such dtype"},
    "complex128": {
        "mlx": "MLX has no such dtype",
        "ndonnx": "ndonnx has no such dtype",
    },
    "float positions": {"dask": "refused: dask would not keep them exact"},
    "float64 positions": {
        "dask": "refused: dask would not keep them exact",
        "ndonnx": "ONNX Runtime has no cosine of float64",
    },
    "own bounds": {
        "dask": "bounds of sequences must be known: pass `positions`",
        "ndonnx": "bounds of sequences must be known: pass `positions`",
    },
    "out": IMMUTABLE,
    "shared tables": {
        "torch": "a tensor has no flag that makes it read-only, so that it is a copy",
        "mlx": "the library copies",
        "dask": "a dask array has no memory of its own",
        "ndonnx": "an ndonnx array has no memory of its own",
        "cupy": "a GPU has memory of its own",
    },
    "lazy": {
        "numpy": "NumPy computes at once",
        "array-api-strict": "array-api-strict computes at once",
        "torch": "PyTorch computes at once",
        "jax": "JAX computes at once outside `jit`",
        "cupy": "CuPy computes at once",
    },
    "jit": {
        "numpy": NUMPY_TRANSFORMS,
        "array-api-strict": STRICT_TRANSFORMS,
        "dask": DASK_TRANSFORMS,
        "cupy": CUPY_TRANSFORMS,
    },
    "whole jit": {
        "numpy": NUMPY_TRANSFORMS,
        "array-api-strict": STRICT_TRANSFORMS,
        "dask": DASK_TRANSFORMS,
        "cupy": CUPY_TRANSFORMS,
    },
    "traced positions": {
        "numpy": NUMPY_TRANSFORMS,
        "array-api-strict": STRICT_TRANSFORMS,
    },
    "grad": {
        "numpy": NUMPY_TRANSFORMS,
        "array-api-strict": STRICT_TRANSFORMS,
        "dask": DASK_TRANSFORMS,
        "ndonnx": ONNX_TRANSFORMS,
        "cupy": CUPY_TRANSFORMS,
    },
    "vmap": {
        "numpy": NUMPY_TRANSFORMS,
        "array-api-strict": STRICT_TRANSFORMS,
        "dask": DASK_TRANSFORMS,
        "ndonnx": ONNX_TRANSFORMS,
        "cupy": CUPY_TRANSFORMS,
    },
}

INTRODUCTION = """\
# What works with which library

A check mark is a promise that the test suite keeps: every one of them is a test, and so is every
number, whose note says why the library or this one cannot do it. The page is written from the table
that the tests read (`python tests/support.py --write`).
"""


def page() -> str:
    """Return the table as a page of the documentation."""
    notes: list[str] = []
    lines = [
        "| | " + " | ".join(LIBRARIES.values()) + " |",
        "| --- |" + " :---: |" * len(LIBRARIES),
    ]
    for feature, meaning in FEATURES.items():
        cells = []
        for library in LIBRARIES:
            reason = MISSING.get(feature, {}).get(library)
            if reason is None:
                cells.append("✓")
                continue
            if reason not in notes:
                notes.append(reason)
            cells.append(str(notes.index(reason) + 1))
        lines.append(f"| {meaning} | " + " | ".join(cells) + " |")
    reasons = [f"{number}. {reason}" for number, reason in enumerate(notes, 1)]
    return "\n".join([INTRODUCTION, *lines, "", *reasons, ""])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())
