"""Reads the header of a GGUF file: what is written about the model, and the factors of its frequencies.

Only the file tells whether there are factor tensors, which change the frequencies and are no metadata. The
weights themselves are left to other readers.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from ._errors import ConfigError
from ._typing import Array

__all__ = ["GgufHeader", "read_header"]

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_FLOAT32_TENSOR = 0
_ALIGNMENT = 32  # where the file does not say
# The letters of `struct`, by the number of the type.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


class GgufHeader(NamedTuple):
    """What stands before the weights, without the vocabulary, and the tensors asked for."""

    metadata: dict[str, Any]
    tensors: dict[str, Array]


class _Reader:
    """Little-endian numbers and strings, one after another."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = path.stat().st_size

    def fail(self, what: str) -> NoReturn:
        """Raise the error that names the file."""
        msg = f"`metadata` must be a GGUF file of version 2 or 3: {self._path} {what}"
        raise ConfigError(msg)

    def skip(self, count: int) -> None:
        """Go on by so many bytes."""
        if count > self._size - self._file.tell():
            self.fail("ends in the middle of its header")
        self._file.seek(count, os.SEEK_CUR)

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > self._size - self._file.tell():
            self.fail("ends in the middle of its header")
        return self._file.read(count)

    def number(self, letter: str) -> Any:
        """Return the next number."""
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def text(self) -> str:
        """Return the next string."""
        return self.take(self.number("Q")).decode(errors="replace")

    def value(self, kind: int, *, wanted: bool = True) -> Any:
        """Return the next value of a type; None where it is not wanted."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text() if wanted else self.skip(self.number("Q"))
        if kind != _ARRAY:
            self.fail(f"has a value of the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if kind == _ARRAY:
            self.fail("has a list of lists")
        if kind in _SCALARS and not wanted:
            return self.skip(count * struct.calcsize("<" + _SCALARS[kind]))
        values = (self.value(kind, wanted=wanted) for _ in range(count))
        if wanted:
            return list(values)
        for _ in values:
            pass
        return None

    def align(self, alignment: int) -> int:
        """Return where the weights begin."""
        return -(-self._file.tell() // alignment) * alignment

    def tensor(self, start: int, shape: tuple[int, ...]) -> Array:
        """Return a float32 tensor."""
        count = int(np.prod(shape, dtype=object))
        if start + 4 * count > self._size:
            self.fail("ends in the middle of its tensors")
        self._file.seek(start)
        return np.frombuffer(self.take(4 * count), "<f4").reshape(shape[::-1])


def read_header(path: str | os.PathLike[str], tensors: Collection[str]) -> GgufHeader:
    """Read the metadata of a file, except its vocabulary, and those of the named tensors it has.

    Parameters
    ----------
    path : path-like
        A GGUF file.
    tensors : collection of str
        Names of float32 tensors.

    Returns
    -------
    GgufHeader

    Raises
    ------
    OSError
        If the file cannot be read.
    ConfigError
        If it is not a GGUF file of version 2 or 3, or a tensor that is asked for is not float32.

    Notes
    -----
    The format: docs/gguf.md of ggml.
    """
    path = Path(path)
    with path.open("rb") as file:
        reader = _Reader(file, path)
        if file.read(4) != b"GGUF":
            reader.fail("does not begin with GGUF")
        version = reader.number("I")
        if version in (v << 24 for v in _VERSIONS):
            reader.fail("is big-endian")
        if version not in _VERSIONS:
            reader.fail(f"is of version {version}")
        tensor_count, value_count = reader.number("Q"), reader.number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(value_count):
            key = reader.text()
            if key in metadata:
                reader.fail(f"has `{key}` twice")
            wanted = not key.startswith("tokenizer.")
            value = reader.value(reader.number("I"), wanted=wanted)
            if wanted:
                metadata[key] = value
        places: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensor_count):
            name = reader.text()
            if name in places:
                reader.fail(f"has the tensor `{name}` twice")
            shape = tuple(reader.number("Q") for _ in range(reader.number("I")))
            places[name] = (shape, reader.number("I"), reader.number("Q"))
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            reader.fail(f"has the `general.alignment` {alignment!r}")
        start = reader.align(alignment)
        found: dict[str, Array] = {}
        for name in tensors:
            if name in places:
                shape, kind, offset = places[name]
                if kind != _FLOAT32_TENSOR:
                    msg = f"`{name}` of {path} must be float32, tensor type 0, got type {kind}"
                    raise ConfigError(msg)
                found[name] = reader.tensor(start + offset, shape)
        return GgufHeader(metadata, found)
