"""Reads the metadata and the factor tensors of a GGUF file.

The factor tensors change the frequencies, and the metadata do not show whether a file has such tensors. Other tensors
are not read. A damaged or hostile file takes no more time or memory than a valid one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from struct import Struct
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from rotary._lib.checks import LARGEST_WIDTH
from rotary._lib.errors import ConfigError, shown, shown_name
from rotary._lib.files import open_file
from rotary._lib.typing import Array

__all__ = ["GgufHeader", "read_header"]

_VERSIONS = (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
_FLOAT32_TENSOR = 0
_ALIGNMENT = 32  # the default
# The format characters of `struct` for each type number. A boolean is a byte that is 0 or 1.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, _BOOL, 10, 11, 12), "BbHhIifBQqd", strict=True))

# Limits of ggml: the number of dimensions of a tensor, and the largest size, which ggml reads as int64.
_MAX_DIMENSIONS = 4
_MAX_SIZE = 2**63 - 1
# Limits of this reader, far beyond published files.
_MAX_HEADER = 128 * 2**20
_MAX_KEYS = 2**16
_MAX_TENSORS = 2**17
_MAX_WANTED = 1024
_MAX_LIST = 1024
_MAX_STRING = 2**16
_CHUNK = 2**18


class GgufHeader(NamedTuple):
    """The requested metadata and tensors."""

    metadata: dict[str, Any]
    tensors: dict[str, Array]


class _Omitted:
    """Replaces a value that is too long; no check accepts it."""

    def __init__(self, description: str) -> None:
        self._description = description

    def __repr__(self) -> str:
        return f"<{self._description}>"


class _Tensor(NamedTuple):
    """The shape, the type number and the offset of a tensor."""

    shape: tuple[int, ...]
    type_number: int
    offset: int


class _Reader:
    """Reads numbers and strings from a file in sequence."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self._size = os.fstat(file.fileno()).st_size
        # A buffer of bytes that were read, its offset in the file, and the number of consumed bytes.
        self._bytes, self._buffer_start, self._used = b"", 0, 0
        self._key = ""
        self._set_order("<")

    def _set_order(self, order: str) -> None:
        self._order = order
        self._structs = {letter: Struct(order + letter) for letter in "BbHhIifQqd"}

    def fail(self, problem: str) -> NoReturn:
        """Raise an error that names the file and the current key or tensor."""
        suffix = f" (at `{shown_name(self._key)}`)" if self._key else ""
        file = shown_name(self._path)
        msg = (
            f"`metadata` must be a GGUF file of version 2 or 3, got {file}, which {problem}{suffix}"
        )
        raise ConfigError(msg)

    @property
    def offset(self) -> int:
        """The offset of the next byte in the file."""
        return self._buffer_start + self._used

    def _check_left(self, count: int) -> None:
        """Raise if `count` more bytes exceed the file, or the limit of the header."""
        if count > self._size - self.offset:
            self.fail("ends in the middle of its header")
        if count > _MAX_HEADER - self.offset:
            self.fail(f"has a header of more than {_MAX_HEADER >> 20} MiB")

    def _fill(self, count: int) -> None:
        """Read until the buffer contains the next `count` bytes."""
        if len(self._bytes) - self._used >= count:
            return
        self._check_left(count)
        rest = self._bytes[self._used :]
        self._buffer_start, self._used = self.offset, 0
        self._bytes = rest + self._file.read(max(count - len(rest), _CHUNK))
        if len(self._bytes) < count:  # the file was truncated meanwhile
            self.fail("ends in the middle of its header")

    def skip(self, count: int) -> None:
        """Skip the next `count` bytes."""
        if len(self._bytes) - self._used >= count:
            self._used += count
            return
        self._check_left(count)
        self._buffer_start, self._used, self._bytes = self.offset + count, 0, b""
        self._file.seek(self._buffer_start)

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        self._fill(count)
        self._used += count
        return self._bytes[self._used - count : self._used]

    def number(self, letter: str) -> Any:
        """Return the next number."""
        struct = self._structs[letter]
        self._fill(struct.size)
        self._used += struct.size
        return struct.unpack_from(self._bytes, self._used - struct.size)[0]

    def start(self) -> tuple[int, int]:
        """Read the beginning of a file, and return the number of tensors and the number of keys."""
        if self._size < 4 or self.take(4) != b"GGUF":
            self.fail("does not begin with GGUF")
        version = self.number("I")
        if not version & 0xFFFF:  # the test of ggml for the other byte order
            self._set_order(">")
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in _VERSIONS:
            self.fail(f"is of version {version}")
        tensors, keys = self.number("Q"), self.number("Q")
        if keys > _MAX_KEYS:
            self.fail(f"has {keys} keys, more than {_MAX_KEYS}")
        if tensors > _MAX_TENSORS:
            self.fail(f"has {tensors} tensors, more than {_MAX_TENSORS}")
        return tensors, keys

    def forget_name(self) -> None:
        """Leave the current key or tensor out of later errors."""
        self._key = ""

    def name(self, seen: set[str], kind: str) -> str:
        """Return the next name of a key or tensor, which must be unique."""
        self._key = ""
        length = self.number("Q")
        if length > _MAX_STRING:
            self.fail(f"has a name of {length} bytes")
        content = self.take(length)
        try:
            name = content.decode()
        except UnicodeDecodeError:
            self.fail(f"has a name that is not UTF-8, {shown(content)}")
        if name in seen:
            self.fail(f"has {kind}`{shown_name(name)}` twice")
        seen.add(name)
        self._key = name
        return name

    def value(self, *, wanted: bool) -> Any:
        """Return the next value; skip it and return None if it is not wanted."""
        kind = self.number("I")
        if kind == _ARRAY:
            return self._list(self.number("I"), self.number("Q"), wanted=wanted)
        if kind == _STRING:
            return self._string(wanted=wanted)
        return self._scalar(kind)

    def _scalar(self, kind: int) -> Any:
        """Return the next number."""
        if kind not in _SCALARS:
            self.fail(f"has a value of the unknown type {kind}")
        number = self.number(_SCALARS[kind])
        if kind != _BOOL:
            return number
        if number > 1:
            self.fail(f"has the boolean {number}")
        return bool(number)

    def _string(self, *, wanted: bool) -> Any:
        """Return the next string."""
        length = self.number("Q")
        if wanted and length <= _MAX_STRING:
            return self.take(length).decode(errors="replace")
        self.skip(length)
        return _Omitted(f"a string of {length} bytes") if wanted else None

    def _list(self, kind: int, count: int, *, wanted: bool) -> Any:
        """Return the next list."""
        if kind == _ARRAY:
            self.fail("has a list of lists")
        if kind != _STRING and kind not in _SCALARS:
            self.fail(f"has a value of the unknown type {kind}")
        if wanted and count <= _MAX_LIST:
            return [
                self._string(wanted=True) if kind == _STRING else self._scalar(kind)
                for _ in range(count)
            ]
        if kind == _STRING:
            self._skip_strings(count)
        else:
            self.skip(count * self._structs[_SCALARS[kind]].size)
        return _Omitted(f"a list of {count} values") if wanted else None

    def _skip_strings(self, count: int) -> None:
        """Skip strings without a method call for each, because a vocabulary has hundreds of thousands."""
        length = self._structs["Q"].unpack_from
        self._check_left(8 * count)
        while count:
            self._fill(8)
            content, used = self._bytes, self._used
            last = len(content) - 8
            while count and used <= last:
                used += 8 + length(content, used)[0]
                count -= 1
            self._used = min(used, len(content))
            self.skip(used - self._used)

    def tensor_info(self) -> _Tensor:
        """Return the shape, type and offset of the next tensor."""
        count = self.number("I")
        if count > _MAX_DIMENSIONS:
            self.fail(f"has a tensor of {count} dimensions, more than {_MAX_DIMENSIONS}")
        shape = tuple(self.number("Q") for _ in range(count))
        if any(size > _MAX_SIZE for size in shape):
            self.fail(f"has a tensor of shape {shape}")
        return _Tensor(shape, self.number("I"), self.number("Q"))

    def factors(self, name: str, tensor: _Tensor, start: int, alignment: int) -> Array:
        """Return a tensor of factors."""
        self._key = name
        if tensor.type_number != _FLOAT32_TENSOR:
            msg = (
                f"`{name}` of {shown_name(self._path)} must be float32, tensor type {_FLOAT32_TENSOR}, "
                f"got type {tensor.type_number}"
            )
            raise ConfigError(msg)
        shape = tensor.shape
        while len(shape) > 1 and shape[-1] == 1:  # trailing dimensions of size one
            shape = shape[:-1]
        count = math.prod(shape)
        if count > LARGEST_WIDTH:
            self.fail(f"has a tensor of {count} numbers, more than {LARGEST_WIDTH}")
        if tensor.offset % alignment:
            self.fail(
                f"has a tensor at {tensor.offset}, not a multiple of the alignment {alignment}"
            )
        if start + tensor.offset + 4 * count > self._size:
            self.fail("ends in the middle of its tensors")
        self._file.seek(start + tensor.offset)
        content = self._file.read(4 * count)
        if len(content) < 4 * count:  # the file was truncated meanwhile
            self.fail("ends in the middle of its tensors")
        return np.frombuffer(content, self._order + "f4").reshape(shape[::-1])


def read_header(
    path: str, tensors: Collection[str], is_wanted: Callable[[str], bool]
) -> GgufHeader:
    """Read the keys of a file, and the named tensors if the file has them.

    Parameters
    ----------
    path : str
        A GGUF file, of either byte order.
    tensors : collection of str
        Names of float32 tensors.
    is_wanted : callable
        Returns whether the value of a key is wanted.

    Returns
    -------
    GgufHeader

    Raises
    ------
    OSError
        If the file cannot be read.
    ConfigError
        If the file is not GGUF of version 2 or 3, its header has more than 128 MiB, or a named tensor is
        not float32.

    Notes
    -----
    The format is described in docs/gguf.md of ggml. A list of more than 1,024 values, or a string of more
    than 64 KiB, is replaced by an object that no check accepts.
    """
    with open_file(path, "metadata") as file:
        reader = _Reader(file, path)
        tensor_count, key_count = reader.start()
        metadata: dict[str, Any] = {}
        seen: set[str] = set()
        for _ in range(key_count):
            key = reader.name(seen, "")
            wanted = is_wanted(key) or key == "general.alignment"
            value = reader.value(wanted=wanted)
            if wanted:
                metadata[key] = value
            if len(metadata) > _MAX_WANTED:
                reader.fail(f"has more than {_MAX_WANTED} keys of an architecture")
        infos: dict[str, _Tensor] = {}
        seen = set()
        for _ in range(tensor_count):
            name = reader.name(seen, "the tensor ")
            info = reader.tensor_info()
            if name in tensors:
                infos[name] = info
        reader.forget_name()
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            reader.fail(f"has the `general.alignment` {shown(alignment)}, not a power of two")
        start = -(-reader.offset // alignment) * alignment
        factors = {
            name: reader.factors(name, info, start, alignment) for name, info in infos.items()
        }
        return GgufHeader(metadata, factors)
