"""Builds rotate.cu for the processor and runs its instances there: each thread of a launch, one after another.

    kernels = Kernels(build("plain"))
    kernels.launch(name, grid, block, parameters, order=1)

The instances are those of the library, by its own names. `build` needs g++ and NVIDIA's headers; what it
has built it keeps, by what it was built from.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path

import numpy as np
from nvrtc import headers

from rotary.backends.cuda import parameters as cuda_struct

HERE = Path(__file__).parent
# Which build the tests run, a key of KINDS.
KIND = os.environ.get("ROTARY_CUDA_EMULATION", "plain")
FOLDER = Path(os.environ.get("ROTARY_CUDA_BUILD", HERE.parents[2] / ".cuda"))
# Nothing may be fused or reordered: the bits are to be those of the GPU.
FLAGS = (
    *("-x", "c++", "-std=c++17", "-shared", "-fPIC", "-march=x86-64-v3", "-ffp-contract=off"),
    *("-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    "-fno-gnu-unique",  # or two builds in one process would share their list of kernels
)
KINDS = {
    "plain": ("-O2",),
    "sanitized": (
        *("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        "-DEMULATION_SANITIZED",
    ),
    "traced": ("-O1", "-DEMULATION_TRACED"),
}
# As the C++ program keeps it, for every access to memory.
ACCESS = np.dtype(
    [("address", "u8"), ("warp", "u4"), ("nth", "u4"), ("bytes", "u4"), ("is_store", "u4")]
)


class LaunchError(RuntimeError):
    """A launch that CUDA would refuse."""


def layout_text():
    """C++ that tells where the compiler has put the parameter's fields: for each its offset and size."""
    whole = [
        *(
            f"arrays[{i}].{name}"
            for i in range(cuda_struct.ARRAYS)
            for name in cuda_struct.ARRAY_FIELDS
        ),
        *cuda_struct.FIELDS,
    ]
    numbers = [
        f"__builtin_offsetof(Parameters, {name}), sizeof(((Parameters*)0)->{name})"
        for name in whole
    ]
    return (
        'extern "C" __constant__ const unsigned rotary_layout[] = {\n  '
        + ",\n  ".join(["sizeof(Parameters)", *numbers])
        + "\n};\n"
    )


def program(instances, text):
    """The C++ around the kernel file."""
    in_double = cuda_struct.TYPES["float64"]
    registered = "".join(
        f'{{"{name}", {{&{name}, {int(not cuda_struct.ARGUMENTS[name].startswith(in_double))}}}}},\n'
        for name in instances
    )
    return (
        f'#include "emulation.h"\n#line 1 "rotate.cu"\n{cuda_struct.program(*instances, text=text)}'
        '#include "emulation_end.h"\n'
        f"static const int registered = (emulation::kernels = {{\n{registered}}}, 0);\n"
        'extern "C" int emulation_registered() { return registered; }\n' + layout_text()
    )


def build(kind=KIND, text=None, instances=cuda_struct.INSTANCES):
    """Return the path of the library of a kind (`KINDS`), built if it is not there; `text` may be another source."""
    code = program(instances, text)
    flags = (*FLAGS, *KINDS[kind])
    own = [(HERE / name).read_bytes() for name in ("emulation.h", "emulation_end.h")]
    key = hashlib.sha256(repr((code, flags, own)).encode()).hexdigest()[:16]
    path = FOLDER / f"{kind}-{key}.so"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        source = path.with_suffix(".cpp")
        source.write_text(code)
        part = path.with_suffix(f".{os.getpid()}")
        command = ["g++", *flags, "-isystem", headers(), "-I", HERE, "-o", part, source]
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, check=False, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        part.rename(path)
    return path


class Kernels:
    """The instances of one library that `build` has built."""

    def __init__(self, path):
        self._library = library = ctypes.CDLL(str(path))
        library.emulation_names.restype = ctypes.c_char_p
        library.emulation_launch.argtypes = [
            ctypes.c_char_p,
            *[ctypes.c_void_p] * 3,
            ctypes.c_uint64,
        ]
        library.emulation_trace.restype = ctypes.c_size_t
        library.emulation_poison.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        library.emulation_angles.argtypes = [
            ctypes.c_int,
            *[ctypes.c_void_p] * 2,
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_double,
            *[ctypes.c_void_p] * 2,
        ]
        if library.emulation_registered():
            raise RuntimeError(path)

    def names(self):
        """The instances there are."""
        return self._library.emulation_names().decode().split("\n")[:-1]

    def layout(self):
        """The parameter as this compiler lays it out: its size, then offset and size of every field."""
        count = 1 + 2 * (
            cuda_struct.ARRAYS * len(cuda_struct.ARRAY_FIELDS) + len(cuda_struct.FIELDS)
        )
        return list((ctypes.c_uint * count).in_dll(self._library, "rotary_layout"))

    def launch(self, name, grid, block, parameters, order=0):
        """Run an instance; the parameter is bytes or an array of one; `permuted` says what orders mean."""
        given = bytes(parameters)
        if len(given) != self.layout()[0]:
            message = f"{name}: the parameter has {len(given)} bytes, expected {self.layout()[0]}"
            raise LaunchError(message)
        sizes = [(ctypes.c_uint * 3)(*(int(n) for n in three)) for three in (grid, block)]
        failed = self._library.emulation_launch(name.encode(), *sizes, given, order)
        if failed:
            message = f"{name}: error {failed} for grid {grid} and block {block}"
            raise LaunchError(message)

    def trace(self):
        """What was loaded and stored since the last time, as an array of ACCESS; only where it is traced."""
        first = ctypes.c_void_p()
        count = self._library.emulation_trace(ctypes.byref(first))
        memory = (ctypes.c_char * (count * ACCESS.itemsize)).from_address(first.value or 0)
        found = np.frombuffer(bytes(memory), ACCESS) if count else np.empty(0, ACCESS)
        self._library.emulation_forget()
        return found

    def poison(self, address, nbytes):
        """Let every touch of memory from here on be an error; does nothing unless sanitized."""
        self._library.emulation_poison(address, nbytes, 1)

    def unpoison(self, address, nbytes):
        """Let memory be touched again."""
        self._library.emulation_poison(address, nbytes, 0)

    def angles(self, positions, words, factor, dtype):
        """Cosine and sine at positions (int64 or float64) of one frequency, given as three words."""
        kinds = [
            positions.ctypes.data if positions.dtype == kind else None
            for kind in (np.int64, np.float64)
        ]
        found = np.empty((2, len(positions)))
        words = np.ascontiguousarray(words)
        self._library.emulation_angles(
            dtype == "float64",
            *kinds,
            len(positions),
            words.ctypes.data,
            factor,
            *(part.ctypes.data for part in found),
        )
        return found
