"""NVRTC without CuPy and without a driver, and what it made as the tools of the toolkit show it."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

# Where the wheels of NVIDIA put their files: cu13, or the number of a later toolkit.
(TOOLKIT,) = Path(sysconfig.get_path("purelib"), "nvidia").glob("cu[0-9]*")
INCLUDE = TOOLKIT / "include"
# What CuPy gives besides what the library asks for; test_options.py compares.
OPTIONS = ("-ftz=true", "--device-as-default-execution-space")


class Cubin(NamedTuple):
    """A compiled program, and the names of its kernels by the names they were asked for."""

    code: bytes
    names: dict[str, str]


def _library():
    paths = [
        path
        for path in (TOOLKIT / "lib").glob("libnvrtc.so.*")
        if not {"alt", "builtins"} & set(re.split(r"[-.]", path.name))
    ]
    return ctypes.CDLL(str(paths[0]))


_nvrtc = _library()


def _check(code):
    if code:
        _nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(_nvrtc.nvrtcGetErrorString(code).decode())


def _text(program, what):
    size = ctypes.c_size_t()
    _check(getattr(_nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(_nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def compiled(source, names, architecture, options=()):
    """Compile a program for an architecture; it raises with the compiler's own words, warnings included."""
    program = ctypes.c_void_p()
    text = source.encode()
    _check(_nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"rotate.cu", 0, None, None))
    try:
        for name in names:
            _check(_nvrtc.nvrtcAddNameExpression(program, name.encode()))
        asked = [f"-arch=sm_{architecture}", f"-I{INCLUDE}", *OPTIONS, *options]
        given = (ctypes.c_char_p * len(asked))(*[option.encode() for option in asked])
        failed = _nvrtc.nvrtcCompileProgram(program, len(asked), given)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode().strip()
        if failed or log:
            raise RuntimeError(log)
        lowered = {}
        for name in names:
            found = ctypes.c_char_p()
            _check(_nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(found)))
            lowered[name] = found.value.decode()
        return Cubin(_text(program, "CUBIN"), lowered)
    finally:
        _nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def tool(name, *arguments):
    """Return what a program of the toolkit prints."""
    command = [str(TOOLKIT / "bin" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout
