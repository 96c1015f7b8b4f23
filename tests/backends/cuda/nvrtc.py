"""NVRTC without CuPy and without a driver, and what it made as the tools of the toolkit show it."""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from typing import NamedTuple

# What CuPy gives besides what the library asks for; test_options.py compares.
OPTIONS = ("-ftz=true", "--device-as-default-execution-space")


@cache
def toolkit():
    """Where the wheels of NVIDIA put their files: cu13, or the number of a later toolkit."""
    (folder,) = Path(sysconfig.get_path("purelib"), "nvidia").glob("cu[0-9]*")
    return folder


def headers():
    """Where the toolkit's headers are."""
    return toolkit() / "include"


@cache
def _library():
    (path,) = (
        path
        for path in (toolkit() / "lib").glob("libnvrtc.so.*")
        if not {"alt", "builtins"} & set(re.split(r"[-.]", path.name))
    )
    return ctypes.CDLL(str(path))


def _check(code):
    if code:
        message = f"NVRTC answers {code}"
        raise RuntimeError(message)


def _text(program, what):
    size = ctypes.c_size_t()
    _check(getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(_library(), f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def compiled(source, architecture, options=()):
    """Compile a program to a cubin; it raises with the compiler's own words, warnings included."""
    program = ctypes.c_void_p()
    text = source.encode()
    _check(_library().nvrtcCreateProgram(ctypes.byref(program), text, b"rotate.cu", 0, None, None))
    try:
        asked = [f"-arch=sm_{architecture}", f"-I{headers()}", *OPTIONS, *options]
        given = (ctypes.c_char_p * len(asked))(*[option.encode() for option in asked])
        failed = _library().nvrtcCompileProgram(program, len(asked), given)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode().strip()
        if failed or log:
            raise RuntimeError(log)
        return _text(program, "CUBIN")
    finally:
        _library().nvrtcDestroyProgram(ctypes.byref(program))


def tool(name, *arguments):
    """Return what a program of the toolkit prints."""
    command = [str(toolkit() / "bin" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


class Kernel(NamedTuple):
    """One kernel of a program, as the tools show it."""

    registers: int
    stack: int
    parameter: int  # bytes
    instructions: list[str]  # such as LDG.E.128, without operands


def kernels_of(cubin, folder):
    """Return what the tools show of every kernel, by name."""
    path = folder / "rotate.cubin"
    path.write_bytes(cubin)
    usage = re.findall(
        r"Function (\w+):\s+REG:(\d+) STACK:(\d+)", tool("cuobjdump", "-res-usage", path)
    )
    sizes = _parameter_sizes(tool("cuobjdump", "-elf", path))
    instructions = _instructions(tool("nvdisasm", "-c", path))
    return {
        name: Kernel(int(registers), int(stack), sizes[name], instructions[name])
        for name, registers, stack in usage
    }


def _parameter_sizes(text):
    """Return how many bytes of parameters each kernel takes."""
    sizes = {}
    for section in re.split(r"^\.nv\.info\.", text, flags=re.MULTILINE)[1:]:
        name = section.split(None, 1)[0]
        # One parameter, hence one such entry.
        (size,) = re.findall(r"Ordinal : 0x0\s+Offset  : 0x0\s+Size    : 0x([0-9a-f]+)", section)
        sizes[name] = int(size, 16)
    return sizes


def _instructions(text):
    """Return the instructions of each kernel."""
    found = {}
    for part in re.split(r"^\.text\.", text, flags=re.MULTILINE)[1:]:
        name, code = part.split(":", 1)
        found[name] = re.findall(
            r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code, re.MULTILINE
        )
    return found


def constant(cubin, name, count):
    """Return an array of so many unsigned integers that a program keeps in constant memory."""
    sections = _sections(cubin)
    table = next(section for section in sections if section.kind == SYMBOLS)
    for offset in range(table.offset, table.offset + table.size, SYMBOL.size):
        label, _, _, section, value, _ = SYMBOL.unpack_from(cubin, offset)
        start = sections[table.link].offset + label
        if cubin[start : cubin.index(b"\0", start)].decode() == name:
            return list(struct.unpack_from(f"<{count}I", cubin, sections[section].offset + value))
    message = f"no symbol {name}"
    raise LookupError(message)


# The format ELF, of which this reads what `constant` needs.
SYMBOLS = 2
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")


class Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int


def _sections(cubin):
    header = HEADER.unpack_from(cubin)
    first, size, count = header[6], header[11], header[12]
    found = []
    for i in range(count):
        _, kind, _, _, offset, nbytes, link, *_ = SECTION.unpack_from(cubin, first + i * size)
        found.append(Section(kind, offset, nbytes, link))
    return found
