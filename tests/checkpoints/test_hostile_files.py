"""Files and configurations that are damaged or made to harm: a `ConfigError` of bounded length, or the right result."""

from __future__ import annotations

import ast
import json
import math
import os
import socket
import struct
import sys
import tracemalloc
from collections import ChainMap, OrderedDict, UserDict
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

import rotary
from rotary import ConfigError, from_config, from_gguf
from rotary._lib import files as _files
from rotary.checkpoints import gguf_file as _gguf_file
from rotary.checkpoints.gguf_metadata import KEYS
from rotary.checkpoints.known_keys import _ROPE_KEYS, _SWITCHES
from rotary.checkpoints.schedules import _KNOWN_KEYS

# The longest message.
LONGEST = 1000
LLAMA = {
    "model_type": "llama",
    "head_dim": 64,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}


def refused(read, *arguments, match=None, **options):
    """Assert that a call ends in a ConfigError of bounded length, and return its message."""
    with pytest.raises(ConfigError, match=match) as info:
        read(*arguments, **options)
    message = str(info.value)
    assert len(message) <= LONGEST, message[:LONGEST]
    return message


def read_or_refused(read, *arguments, **options):
    """Return the result of a call, None if it ends in a ConfigError of bounded length."""
    try:
        return read(*arguments, **options)
    except ValueError as error:
        kind, message = type(error), str(error)
    assert len(message) <= LONGEST, message[:LONGEST]
    # The kind of a layer is an argument as well.
    assert kind is ConfigError or "`layer_type`" in message, message
    return None


def peak(read, *arguments, **options):
    """Return the bytes that a refused call needs at most."""
    tracemalloc.start()
    try:
        refused(read, *arguments, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- other than files ---------------------------------------------------------------------------


@pytest.fixture
def special(tmp_path, request):
    """A path that is no regular file."""
    path = tmp_path / request.param
    if request.param == "directory":
        path.mkdir()
        (path / "config.json").mkdir()
    elif request.param == "device":
        path = Path("/dev/zero")
    elif not hasattr(os, "mkfifo"):
        pytest.skip("needs POSIX")
    elif request.param == "FIFO":
        os.mkfifo(path)
    elif request.param == "link to a FIFO":
        os.mkfifo(tmp_path / "target")
        path.symlink_to(tmp_path / "target")
    else:
        path = Path("s")  # the path of a socket must be short
        with pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_UNIX) as server:
            patch.chdir(tmp_path)
            server.bind(str(path))
            yield path
        return
    if not path.exists():
        pytest.skip("needs POSIX")
    yield path


@pytest.mark.parametrize(
    "special", ["directory", "device", "FIFO", "link to a FIFO", "socket"], indirect=True
)
@pytest.mark.parametrize("read", [from_gguf, from_config, rotary.compare_dialects])
def test_other_than_regular_files_are_refused_without_waiting(read, special):
    name = "metadata" if read is from_gguf else "config"
    message = refused(read, special, match=f"^`{name}` must be a regular file")
    assert str(special) in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("read", [from_gguf, from_config])
def test_a_file_that_becomes_a_fifo_after_the_check(read, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "x")
    status = Path(__file__).stat()
    monkeypatch.setattr(_files.Path, "stat", lambda self, **_: status)
    monkeypatch.setattr(_files.Path, "is_dir", lambda self: False)
    refused(read, str(tmp_path / "x"), match="must be a regular file, got .* which is a FIFO")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("read", [from_gguf, from_config])
def test_a_link_to_itself_is_refused(read, tmp_path):
    path = tmp_path / "x"
    path.symlink_to(path)
    message = refused(read, str(path), match="a link to itself")
    assert str(path) in message


@pytest.mark.parametrize("read", [from_gguf, from_config])
def test_paths(read, tmp_path):
    for path in ("a\0b", str(tmp_path / "none"), "x" * 100_000, str(tmp_path / ("x" * 10_000))):
        with pytest.raises((FileNotFoundError, ConfigError)) as info:
            read(path)
        assert len(str(info.value)) <= LONGEST
    with pytest.raises(TypeError, match="must be a"):
        read(b"config.json" * 1000)


class BytesPath(os.PathLike):
    """A path that is bytes, as those of ``os.scandir(b".")``."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fsencode(self.path)


def test_every_kind_of_path(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    expected = from_config(LLAMA)
    for given in (path, str(path), BytesPath(path), tmp_path, f"{tmp_path}/"):
        assert from_config(given) == expected
    path = tmp_path / "model.gguf"
    path.write_bytes(SMALL)
    assert from_gguf(path) == from_gguf(str(path)) == from_gguf(BytesPath(path))


# --- GGUF --------------------------------------------------------------------------------------


def text(value, order="<"):
    content = value if isinstance(value, bytes) else value.encode()
    return struct.pack(f"{order}Q", len(content)) + content


def entry(key, kind, value, order="<"):
    """A key and its value, of a type by its number."""
    letters = {0: "B", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 12: "d"}
    head = text(key, order) + struct.pack(f"{order}I", kind)
    if kind == 8:
        return head + text(value, order)
    if kind == 9:
        inner, items = value
        body = b"".join(
            text(item, order) if inner == 8 else struct.pack(order + letters[inner], item)
            for item in items
        )
        return head + struct.pack(f"{order}IQ", inner, len(items)) + body
    return head + struct.pack(order + letters[kind], value)


def tensor(name, shape, kind=0, offset=0, order="<"):
    """What a header says of a tensor."""
    sizes = b"".join(struct.pack(f"{order}Q", size) for size in shape)
    count = struct.pack(f"{order}I", len(shape))
    return text(name, order) + count + sizes + struct.pack(f"{order}IQ", kind, offset)


def gguf(entries=(), tensors=(), data=b"", *, version=3, order="<", alignment=32, counts=None):
    """The bytes of a file."""
    tensors_and_keys = (len(tensors), len(entries)) if counts is None else counts
    head = b"GGUF" + struct.pack(f"{order}IQQ", version, *tensors_and_keys)
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


def keys(order="<", architecture="llama"):
    """What is needed to make an embedding of 16 channels."""
    return [
        entry("general.architecture", 8, architecture, order),
        entry(f"{architecture}.context_length", 4, 4096, order),
        entry(f"{architecture}.attention.key_length", 4, 16, order),
        entry(f"{architecture}.rope.freq_base", 6, 1e6, order),
    ]


FACTORS = np.geomspace(1.0, 8.0, 8).astype(np.float32)
SMALL = gguf(
    [*keys(), entry("tokenizer.ggml.tokens", 9, (8, ["a", "bc", ""])), entry("x", 7, 1)],
    [tensor("other", (4,)), tensor("rope_freqs.weight", (8,), offset=32)],
    bytes(32) + FACTORS.tobytes() + bytes(32),
)


def parsed(content):
    """Metadata and factors by a second, plain reader of the format, without limits; an exception if damaged."""
    place = 4
    order = "<" if content[4:6] != b"\0\0" else ">"

    def number(letter):
        nonlocal place
        size = struct.calcsize(letter)
        (value,) = struct.unpack(order + letter, content[place : place + size])
        place += size
        return value

    def string():
        nonlocal place
        length = number("Q")
        value = content[place : place + length]
        assert len(value) == length
        place += length
        return value

    letters = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))

    def value(kind):
        if kind == 9:
            inner, count = number("I"), number("Q")
            assert count <= len(content)
            return [value(inner) for _ in range(count)]
        return string().decode(errors="replace") if kind == 8 else number(letters[kind])

    assert content[:4] == b"GGUF"
    assert number("I") in (2, 3)
    tensors, entries = number("Q"), number("Q")
    assert tensors + entries <= len(content)
    metadata = {}
    for _ in range(entries):
        key = string().decode()
        metadata[key] = value(number("I"))
    places = {}
    for _ in range(tensors):
        name = string()
        shape = [number("Q") for _ in range(number("I"))]
        places[name] = (shape, number("I"), number("Q"))
    alignment = metadata.get("general.alignment", 32)
    start = -(-place // alignment) * alignment
    factors = {}
    for name, (shape, kind, offset) in places.items():
        if name == b"rope_freqs.weight":
            assert kind == 0
            count = math.prod(shape)
            data = content[start + offset : start + offset + 4 * count]
            factors[name.decode()] = np.frombuffer(data, f"{order}f4").reshape(shape)
    return metadata, factors


def test_every_truncation_is_refused_or_read_correctly(tmp_path):
    path = tmp_path / "model.gguf"
    whole = from_gguf_of(path, SMALL)
    needed = len(SMALL) - 32  # the padding behind the last tensor
    for end in range(len(SMALL)):
        found = from_gguf_of(path, SMALL[:end])
        assert (found == whole) if end >= needed else (found is None), end


def from_gguf_of(path, content):
    """Return the embedding of a file, or None if it is refused."""
    path.write_bytes(content)
    return read_or_refused(from_gguf, path)


@pytest.mark.parametrize("mask", [0xFF, 1, 4, 32, 128])
def test_every_flipped_byte_is_refused_or_read_correctly(tmp_path, mask):
    path = tmp_path / "model.gguf"
    whole = from_gguf_of(path, SMALL)
    assert whole.scaling.freq_factors == tuple(FACTORS.tolist())
    same = 0
    for place in range(len(SMALL)):
        content = bytearray(SMALL)
        content[place] ^= mask
        found = from_gguf_of(path, bytes(content))
        if found is not None:
            metadata, factors = parsed(bytes(content))
            assert found == from_gguf(metadata, tensors=factors), place
        same += found == whole
    assert same >= 64  # the other tensor and the padding at least


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(tmp_path, version, order):
    path = tmp_path / "model.gguf"
    content = gguf(
        keys(order),
        [tensor("rope_freqs.weight", (8,), order=order)],
        FACTORS.astype(f"{order}f4").tobytes(),
        version=version,
        order=order,
    )
    assert from_gguf_of(path, content) == from_gguf_of(path, SMALL)


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_files_and_readers_of_gguf_py(tmp_path, order):
    module = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    writer = module.GGUFWriter(path, "phi3", endianess=module.GGUFEndian[order])
    writer.add_context_length(131_072)
    writer.add_embedding_length(3072)
    writer.add_head_count(32)
    writer.add_rope_dimension_count(96)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_rope_scaling_attn_factors(1.1902380714238083)
    writer.add_token_list(["a", "b", "naïve"])
    factors = {
        "rope_factors_long.weight": np.geomspace(1, 64, 48).astype(np.float32),
        "rope_factors_short.weight": np.linspace(1, 2.8, 48).astype(np.float32),
    }
    writer.add_tensor("output.weight", np.ones((3, 5), np.float32))
    for name, values in factors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = module.GGUFReader(path)
    rope = from_gguf(reader, seq_axis=-3)
    assert rope == from_gguf(path, seq_axis=-3)
    plain = 10_000.0 ** (-np.arange(0, 96, 2) / 96)
    expected = plain / factors["rope_factors_long.weight"].astype(float)
    np.testing.assert_allclose(rope.inv_freq, expected, rtol=1e-15)
    assert rope.attention_factor == float(np.float32(1.1902380714238083))
    with pytest.raises(ValueError, match="`tensors` must be left out"):
        from_gguf(reader, tensors=factors)
    reader.tensors = [
        t._replace(tensor_type=module.GGMLQuantizationType.F16) for t in reader.tensors
    ]
    refused(from_gguf, reader, match="`rope_factors_long.weight` must be float32")


class SilentError(Exception):
    """An error without a message."""

    def __str__(self):
        raise RuntimeError


def fail(error):
    raise error


class Broken:
    """A field of a reader that cannot be read."""

    def contents(self):
        codec = "utf-8"
        raise UnicodeDecodeError(codec, b"\xff" * 5000, 0, 1, "invalid start byte")


def test_fields_that_cannot_be_read_are_named():
    metadata = {"general.architecture": "llama", "llama.rope.freq_base": Broken()}
    refused(from_gguf, metadata, head_dim=64, match=r"`llama.rope.freq_base`.*cannot be read")
    refused(from_gguf, {"general.architecture": Broken()}, match="`general.architecture`")


FREQS = "rope_freqs.weight"
LARGE = 2**64 - 1
HOSTILE_FILES = {
    "60,000 dimensions": (
        gguf(keys(), [tensor(FREQS, (LARGE,) * 60_000)]),
        "has a tensor of 60000 dimensions, more than 4 .*`rope_freqs.weight`",
    ),
    "60,000 dimensions of another tensor": (
        gguf(keys(), [tensor("output.weight", (1,) * 60_000)]),
        "has a tensor of 60000 dimensions, more than 4 .*`output.weight`",
    ),
    "2**32 - 1 dimensions": (
        gguf(keys(), [text(FREQS) + struct.pack("<I", 2**32 - 1)]),
        "has a tensor of 4294967295 dimensions",
    ),
    "nothing times much": (gguf(keys(), [tensor(FREQS, (0, 2**63))]), "has a tensor of shape"),
    "negative": (gguf(keys(), [tensor(FREQS, (LARGE,))]), "has a tensor of shape"),
    "no numbers": (gguf(keys(), [tensor(FREQS, (0,))]), "`rope_freqs.weight` must have shape"),
    "no dimensions": (
        gguf(keys(), [tensor(FREQS, ())], bytes(64)),
        "`rope_freqs.weight` must have shape",
    ),
    "two dimensions": (
        gguf(keys(), [tensor(FREQS, (4, 2))], bytes(64)),
        "`rope_freqs.weight` must have shape",
    ),
    "many numbers": (
        gguf(keys(), [tensor(FREQS, (2**62,))]),
        "has a tensor of 4611686018427387904 numbers",
    ),
    "behind the end": (gguf(keys(), [tensor(FREQS, (8,), offset=2**40)]), "ends in the middle"),
    "far behind the end": (
        gguf(keys(), [tensor(FREQS, (8,), offset=2**64 - 32)]),
        "ends in the middle",
    ),
    "between two places": (
        gguf(keys(), [tensor(FREQS, (8,), offset=4)], bytes(64)),
        "not a multiple of the alignment 32",
    ),
    **{
        f"tensor type {kind}": (
            gguf(keys(), [tensor(FREQS, (8,), kind=kind)], bytes(256)),
            f"`rope_freqs.weight` .* must be float32, tensor type 0, got type {kind}",
        )
        for kind in (1, 2, 8, 14, 24, 28, 30, 39, 2**32 - 1)
    },
    **{
        f"factor {value}": (
            gguf(keys(), [tensor(FREQS, (8,))], np.full(8, value, "<f4").tobytes()),
            "`rope_freqs.weight` must hold positive finite numbers",
        )
        for value in (math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0)
    },
    **{
        f"alignment {value}": (
            gguf([*keys(), entry("general.alignment", 4, value)]),
            f"`general.alignment` {value}, not a power of two",
        )
        for value in (0, 3, 24, 2**32 - 1)
    },
    "alignment of true": (
        gguf([*keys(), entry("general.alignment", 7, 1)]),
        "`general.alignment` True, not a power of two",
    ),
    "alignment in words": (
        gguf([*keys(), entry("general.alignment", 8, "32" * 5000)]),
        "`general.alignment` '3232",
    ),
    "version 1": (gguf(keys(), version=1), "is of version 1"),
    "version 0": (gguf(keys(), version=0), "is of version 0"),
    "version 4": (gguf(keys(), version=4, order=">"), "is of version 4"),
    "many keys": (gguf(counts=(0, LARGE)), "has 18446744073709551615 keys, more than 65536"),
    "many tensors": (gguf(counts=(LARGE, 0)), "has 18446744073709551615 tensors, more than"),
    "more keys than there are": (gguf(keys(), counts=(0, 5)), "ends in the middle"),
    "more tensors than there are": (gguf(keys(), counts=(2**17, 4)), "ends in the middle"),
    "long key": (
        gguf([struct.pack("<Q", LARGE)]),
        "has a name of 18446744073709551615 bytes",
    ),
    "long value": (
        gguf([*keys(), text("general.name") + struct.pack("<IQ", 8, LARGE)]),
        "ends in the middle of its header .at `general.name`",
    ),
    "long list": (
        gguf([*keys(), text("x.y") + struct.pack("<IIQ", 9, 10, LARGE)]),
        "ends in the middle of its header .at `x.y`",
    ),
    "long list of strings": (
        gguf([*keys(), text("x.y") + struct.pack("<IIQ", 9, 8, LARGE)]),
        "ends in the middle of its header .at `x.y`",
    ),
    "lists of lists": (
        gguf([*keys(), text("x.y") + struct.pack("<IIQ", 9, 9, 1) * 5000]),
        "has a list of lists .at `x.y`",
    ),
    "list of the unknown": (
        gguf([*keys(), text("x.y") + struct.pack("<IIQ", 9, 13, 0)]),
        "unknown type 13 .at `x.y`",
    ),
    "unknown type": (
        gguf([*keys(), text("x.y") + struct.pack("<I", 99)]),
        "unknown type 99 .at `x.y`",
    ),
    "boolean of 2": (
        gguf([*keys(), entry("llama.rope.scaling.finetuned", 7, 2)]),
        "has the boolean 2 .at `llama.rope.scaling.finetuned`",
    ),
    "key twice": (gguf([*keys(), entry("x", 4, 1), entry("x", 4, 1)]), "has `x` twice"),
    "tensor twice": (
        gguf(keys(), [tensor(FREQS, (8,)), tensor(FREQS, (8,), offset=32)], bytes(64)),
        "has the tensor `rope_freqs.weight` twice",
    ),
    "key of bytes": (
        gguf([*keys(), entry(b"llama.rope.freq_b\xff\xff", 6, 1.0)]),
        "has a name that is not UTF-8",
    ),
    "many kept keys": (
        gguf([*keys(), *(entry(f"llama.rope.{i}", 0, 1) for i in range(1100))]),
        "has more than 1024 keys of an architecture",
    ),
    "architecture of 60,000 letters": (
        gguf([entry("general.architecture", 8, "a" * 60_000)]),
        "`general.architecture` must be the name",
    ),
    "architecture of 10,000,000 letters": (
        gguf([entry("general.architecture", 8, "a" * 10_000_000)]),
        "`general.architecture` must be the name.*a string of 10000000 bytes",
    ),
    "architecture of bytes": (
        gguf([entry("general.architecture", 8, b"\xff\xfe")]),
        "`layout` must be given.*`general.architecture`",
    ),
    "architecture that is a number": (
        gguf([entry("general.architecture", 4, 3)]),
        "`general.architecture` must be the name",
    ),
    "base of many": (
        gguf([*keys()[:3], entry("llama.rope.freq_base", 9, (6, [1.0] * 5000))]),
        "`llama.rope.freq_base` must be a real number, got <a list of 5000 values>",
    ),
    "base in words": (
        gguf([*keys()[:3], entry("llama.rope.freq_base", 8, "9" * 60_000)]),
        "`llama.rope.freq_base` must be finite",
    ),
    "NaN base": (
        gguf([*keys()[:3], entry("llama.rope.freq_base", 12, math.nan)]),
        "`llama.rope.freq_base` must be finite, got nan",
    ),
    "unknown key of 60,000 letters": (
        gguf([*keys(), entry("llama.rope." + "x" * 60_000, 8, "y" * 60_000)]),
        "`llama.rope.x.*is not a known key",
    ),
    "width of 2**64 - 1": (
        gguf([*keys()[:2], entry("llama.attention.key_length", 10, LARGE)]),
        "`llama.attention.key_length` must be at most 65536",
    ),
    "nothing": (b"", "does not begin with GGUF"),
    "three letters": (b"GGU", "does not begin with GGUF"),
    "zip": (b"PK\3\4" + bytes(1000), "does not begin with GGUF"),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_hostile_gguf_files(tmp_path, name):
    content, words = HOSTILE_FILES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    message = refused(from_gguf, path, match=words)
    assert str(path) in message


def test_dimensions_of_size_one_are_dropped(tmp_path):
    path = tmp_path / "model.gguf"
    whole = from_gguf_of(path, SMALL)
    content = gguf(keys(), [tensor(FREQS, (8, 1, 1, 1))], FACTORS.tobytes())
    assert from_gguf_of(path, content) == whole


@pytest.mark.parametrize(
    "content",
    [
        gguf(keys(), [tensor(FREQS, (2**31,))]),
        gguf([*keys(), text("llama.rope.x") + struct.pack("<IIQ", 9, 0, 2**33)]),
        gguf([*keys(), text("llama.rope.x") + struct.pack("<IQ", 8, 2**33)]),
        gguf([*keys(), text("tokenizer.x") + struct.pack("<IIQ", 9, 8, 2**30)]),
    ],
    ids=["tensor", "list", "string", "vocabulary"],
)
def test_a_large_file_needs_little_memory(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    try:
        os.truncate(path, 2**35)  # with a hole, which takes no place on the disk
    except OSError:
        pytest.skip("the disk has no holes")
    refused(from_gguf, path)  # the first call imports modules
    assert peak(from_gguf, path) < 2**22


@pytest.mark.parametrize("left", [0, 10, 200, len(SMALL) - 40])
def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch, left):
    path = tmp_path / "model.gguf"
    path.write_bytes(SMALL)
    begin = _gguf_file._Reader.start

    def start(reader):
        os.truncate(path, left)
        return begin(reader)

    monkeypatch.setattr(_gguf_file._Reader, "start", start)
    refused(from_gguf, path)


# --- configurations ----------------------------------------------------------------------------


def write_file(path, content):
    """Write a config.json and return its path."""
    path = path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def with_text(key, value):
    """A configuration whose key has a value in JSON's own words."""
    rest = {name: other for name, other in LLAMA.items() if name != key}
    return json.dumps(rest)[:-1] + f", {json.dumps(key)}: {value}}}"


DIGITS = "9" * 4301
MUCH = 10_000_000
HOSTILE_CONFIGS = {
    "deep lists": ("[" * 200_000, "must not nest more than 32 levels"),
    "deep objects": ('{"a":' * 200_000, "must not nest more than 32 levels"),
    "deep key": (with_text("x", "[" * 40 + "]" * 40), "must not nest more than 32 levels.*`x.0.0"),
    "deep parts": (
        '{"text_config":' * 40 + json.dumps(LLAMA) + "}" * 40,
        "must not nest more than 32 levels.*`text_config.text_config",
    ),
    "digits": (with_text("rope_theta", DIGITS), "`rope_theta` .*an integer of 4301 digits"),
    "negative digits": (
        with_text("rope_theta", f"-{DIGITS}"),
        "`rope_theta` .*an integer of 4301 digits",
    ),
    "digits of a width": (with_text("head_dim", DIGITS), "`head_dim` .*an integer of 4301 digits"),
    "digits of a length": (
        with_text("max_position_embeddings", DIGITS),
        "`max_position_embeddings` .*an integer of 4301 digits",
    ),
    "900 digits": (with_text("head_dim", "9" * 900), "`head_dim` must be below"),
    "digits within": (
        with_text("rope_scaling", f'{{"rope_type": "linear", "factor": {DIGITS}}}'),
        "`rope_scaling.factor` .*an integer of 4301 digits",
    ),
    "model type": (
        with_text("model_type", json.dumps("x" * MUCH)),
        r"layout of model type 'x+'\.\.\. .10000000 characters",
    ),
    "model type of numbers": (
        with_text("model_type", json.dumps(list(range(100_000)))),
        "layout of model type",
    ),
    "rope type": (
        with_text("rope_scaling", json.dumps({"rope_type": "y" * MUCH})),
        "`rope_scaling.rope_type` must be a known rope type, got 'y",
    ),
    "rope type of lists": (
        with_text("rope_scaling", json.dumps({"rope_type": [[]] * 20_000})),
        "`rope_scaling.rope_type` must be a string",
    ),
    "key": (
        with_text("rope_" + "k" * MUCH, "1"),
        r"`rope_k+\.\.\. .10000005 characters.` is not a known rope key",
    ),
    "inner key": (
        with_text("rope_scaling", json.dumps({"rope_type": "linear", "k" * MUCH: 1})),
        r"`rope_scaling.k+\.\.\. .* is not a known rope key",
    ),
    "value of an unknown key": (
        with_text("rope_gamma", json.dumps(["v" * 1000] * 1000)),
        "`rope_gamma` is not a known rope key",
    ),
    "base in words": (
        with_text("rope_theta", json.dumps("1" * MUCH)),
        "`rope_theta` must be a real number",
    ),
    "base of lists": (
        with_text("rope_theta", "[" * 20 + "1" + "]" * 20),
        "`rope_theta` must be a real number",
    ),
    "kinds of layers": (
        with_text("layer_types", json.dumps([1] * 1_000_000)),
        "`layer_types` must be a list of names",
    ),
    "layers": (
        with_text("num_hidden_layers", "1000000000000000")[:-1]
        + ', "sliding_window_pattern": 2, "rope_local_base_freq": 1.0}',
        "`num_hidden_layers` must be at most 65536 layers",
    ),
    "factors": (
        with_text(
            "rope_scaling",
            json.dumps(
                {
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 1_000_000,
                    "long_factor": [1.0] * 32,
                    "original_max_position_embeddings": 2048,
                }
            ),
        ),
        "must hold at most 32768 numbers, got 1000000",
    ),
    "ragged factors": (
        with_text(
            "rope_scaling",
            json.dumps(
                {
                    "rope_type": "longrope",
                    "short_factor": [[1.0], 2.0],
                    "long_factor": [1.0] * 32,
                    "original_max_position_embeddings": 2048,
                }
            ),
        ),
        "`rope_scaling.short_factor` must",
    ),
    "bases of lists": (with_text("layer_rope_theta", "[[1], 2]"), "`layer_rope_theta`"),
    **{
        f"base {value}": (with_text("rope_theta", value), "`rope_theta` must be finite")
        for value in ("NaN", "Infinity", "-Infinity", "1e999", f"{DIGITS}.0", "-1e999")
    },
    "twice": (json.dumps(LLAMA)[:-1] + ', "rope_theta": 2.0}', "`rope_theta` must occur once"),
    "twice within": (
        with_text("rope_scaling", '{"factor": 2, "factor": 4}'),
        "`factor` must occur once in its JSON object, got 2 values",
    ),
    "twice among many": (
        "{" + ", ".join(f'"{i}": 0' for i in range(200_000)) + ', "199999": 1}',
        "`199999` must occur once",
    ),
    "long name twice": (
        f'{{"{"n" * 5_000_000}": 1, "{"n" * 5_000_000}": 2}}',
        "must occur once",
    ),
    "control characters": (
        with_text("rope_\\n\\u0000\\ud800", "1"),
        r"`rope_\\n\\u0000\\ud800` is not a known rope key",
    ),
    "surrogate": (
        '{"rope_\\ud800\\n": 1, ' + json.dumps(LLAMA)[1:],
        r"`rope_\\ud800\\n` is not a known rope key",
    ),
    "not UTF-8": (b'{"model_type": "\xff"}', "must be a JSON file"),
    "UTF-16": (json.dumps(LLAMA).encode("utf-16"), "must be a JSON file"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(LLAMA).encode(), "must be a JSON file"),
    "nothing": (b"", "must be a JSON file"),
    "null": (b"null", "must be a JSON object, got .* contains a NoneType"),
    "number": (DIGITS, "must be a JSON object"),
    "many lists": ('{"x": [' + "[]," * 300_000 + "0]}", "at most 262144 lists and objects"),
    "too large": (b" " * (16 * 2**20 + 1), "must be a file of at most 16 MiB"),
}


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_hostile_configurations(tmp_path, name):
    content, words = HOSTILE_CONFIGS[name]
    path = write_file(tmp_path, content)
    message = refused(from_config, path, match=words)
    assert str(path) in message
    message.encode()  # a message that cannot be printed would hide the error
    read_or_refused(rotary.compare_dialects, path)


@pytest.mark.parametrize("mask", [0xFF, 1, 0x20])
def test_every_truncation_and_flipped_byte_of_a_configuration_is_refused_or_read_correctly(
    tmp_path, mask
):
    rope = {"rope_type": "linear", "factor": 2.5}
    whole = json.dumps(LLAMA | {"rope_scaling": rope}).encode()
    contents = [whole[:end] for end in range(len(whole))]
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= mask
        contents.append(bytes(content))
    for content in contents:
        found = read_or_refused(from_config, write_file(tmp_path, content), layout="half")
        if found is not None:
            assert found == from_config(json.loads(content), layout="half"), content


def test_a_large_file_is_not_read_completely(tmp_path):
    path = write_file(tmp_path, json.dumps(LLAMA))
    try:
        os.truncate(path, 2**35)
    except OSError:
        pytest.skip("the disk has no holes")
    assert peak(from_config, path, match="must be a file of at most 16 MiB") < 2**26


def test_unread_keys_may_have_any_value(tmp_path):
    for key, value in {
        "vocabulary": json.dumps("x" * MUCH),
        "seed": DIGITS,
        "weights": json.dumps([1.5] * 100_000),
        "note": "[" * 20 + "]" * 20,
        "loss": "NaN",
    }.items():
        assert from_config(write_file(tmp_path, with_text(key, value))) == from_config(LLAMA)


def cyclic(**values):
    """A configuration that contains itself."""
    config = {**LLAMA, **values}
    config["text_config"] = config["note"] = config
    return config


class Object:
    """A configuration object with any to_dict."""

    def __init__(self, to_dict):
        self._to_dict = to_dict

    def to_dict(self):
        return self._to_dict(self)


def forever(_):
    return {"model_type": "x", "text_config": Object(forever)}


class Unreadable(UserDict):
    def __iter__(self):
        raise RuntimeError(DIGITS * 20)


class Unprintable:
    def __repr__(self):
        raise RuntimeError

    __str__ = __repr__


SHARED = []
for _ in range(100):
    SHARED = [SHARED, SHARED]
NESTED = {}
for _ in range(5000):
    NESTED = {"text_config": NESTED}
LISTS = []
for _ in range(5000):
    LISTS = [LISTS]
CYCLE = {"rope_type": "linear"}
CYCLE["factor"] = CYCLE
LOOP = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (cyclic(), "must not nest more than 32 levels deep, got more at `text_config.text_config"),
        (LLAMA | {"rope_scaling": CYCLE}, r"at `rope_scaling.factor.factor"),
        (LLAMA | {"rope_theta": LOOP}, r"at `rope_theta.0.0"),
        (LLAMA | {"rope_theta": SHARED}, r"at `rope_theta.0.0"),
        (NESTED, "at `text_config.text_config"),
        (LLAMA | {"x": LISTS}, "at `x.0.0"),
        (LLAMA | {"x": tuple(LISTS)}, "at `x.0.0"),
        (Object(lambda self: self), "must have a to_dict.. that returns a mapping"),
        (Object(lambda self: [1] * 100_000), "must have a to_dict.. that returns a mapping"),
        (Object(lambda self: self.to_dict()), "`config` cannot be read: RecursionError"),
        (Object(lambda self: 1 / 0), "`config` cannot be read: ZeroDivisionError"),
        (Object(lambda self: fail(SilentError())), "`config` cannot be read: SilentError: $"),
        (Object(forever), r"`text_config.*must not nest more than 32"),
        (LLAMA | {"rope_scaling": Object(lambda self: self)}, "`rope_scaling` must have a to_dict"),
        (LLAMA | {"rope_scaling": Object(lambda self: 1 / 0)}, "`rope_scaling` cannot be read"),
        (Unreadable(LLAMA), "`config` cannot be read: RuntimeError: 9"),
        (LLAMA | {"rope_theta": 10**5000}, "`rope_theta` must be finite, got an integer of"),
        (LLAMA | {"head_dim": 10**5000}, "`head_dim` must be below 2.*got an integer of"),
        (LLAMA | {"head_dim": -(10**5000)}, "`head_dim` must be at least 1, got an integer of"),
        (LLAMA | {"model_type": 10**5000}, "layout of model type an integer of"),
        (LLAMA | {"rope_scaling": 10**5000}, "`rope_scaling` must be a JSON object"),
        (LLAMA | {"rope_scaling": {10**5000: 1}}, "is not a known rope key"),
        (LLAMA | {"rope_theta": Unprintable()}, "`rope_theta` must be a real number, got <Unpr"),
        (LLAMA | {"rope_theta": "x" * MUCH}, "`rope_theta` must be a real number"),
        (LLAMA | {"rope_theta": b"x" * MUCH}, "`rope_theta` must be a real number"),
        (LLAMA | {"rope_theta": np.ones(10**6)}, "`rope_theta` must be a real number"),
    ],
)
def test_hostile_objects(config, words):
    refused(from_config, config, match=words)
    read_or_refused(rotary.compare_dialects, config)


@pytest.mark.parametrize("value", [3, b"x" * MUCH, [1] * MUCH, Unprintable(), Object])
def test_other_objects_than_configurations(value):
    with pytest.raises(TypeError, match="`config` must be a path, a mapping") as info:
        from_config(value)
    assert len(str(info.value)) <= LONGEST


@pytest.mark.parametrize(
    "kind",
    [
        dict,
        OrderedDict,
        UserDict,
        MappingProxyType,
        ChainMap,
        lambda values: Object(lambda self: values),
        lambda values: Object(lambda self: MappingProxyType(values)),
    ],
)
def test_every_kind_of_mapping(kind):
    config = LLAMA | {"rope_scaling": kind({"rope_type": "linear", "factor": 2.0})}
    expected = from_config(LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    assert from_config(kind(config)) == expected
    metadata = {"general.architecture": "llama", "llama.attention.key_length": 64}
    if not isinstance(kind(metadata), Object):
        assert from_gguf(kind(metadata)) == from_gguf(metadata)


# --- every key, every harmful value ------------------------------------------------------------

HARMFUL = [
    *(
        10**5000,
        -(10**400),
        2**63,
        0,
        -1,
        1e308,
        5e-324,
        math.nan,
        math.inf,
        True,
        "",
        "x" * 50_000,
    ),
    *([], {}, [[]], [1] * 5000, ["x" * 5000] * 100, {"x" * 5000: 1}, {"a": {"b": [1]}}, [[1], 2]),
    *([True], ["full_attention"] * 70_000, [None], LOOP, CYCLE, SHARED),
]
KINDS = ["default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional"]
FULL = {
    "factor": 4.0,
    "original_max_position_embeddings": 1024,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "short_factor": [1.0] * 32,
    "long_factor": [2.0] * 32,
}
NEEDED = {
    "default": (),
    "proportional": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": tuple(FULL)[:4],
    "longrope": ("original_max_position_embeddings", "short_factor", "long_factor"),
}
TOP = [
    *sorted(_ROPE_KEYS | set(_SWITCHES)),
    *("model_type", "head_dim", "hidden_size", "num_attention_heads", "num_hidden_layers"),
    *("max_position_embeddings", "layer_types", "sliding_window", "sliding_window_pattern"),
    *("hybrid_layer_pattern", "global_head_dim", "per_layer_config", "text_config", "attn_config"),
    *("patch_size", "vision_config", "mla_use_nope", "global_attn_every_n_layers"),
]


@pytest.mark.parametrize(
    "model_type", ["llama", "gemma3_text", "deepseek_v3", "qwen2_vl_text", "x"]
)
def test_every_key_of_the_top_level(model_type):
    config = LLAMA | {"model_type": model_type, "qk_rope_head_dim": 64}
    for key in TOP:
        for value in HARMFUL:
            for layer_type in (None, 0):
                changed = config | {key: value}
                read_or_refused(from_config, changed, layout="half", layer_type=layer_type)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ["llama", "deepseek_v3"])
def test_every_rope_key(kind, model_type):
    rope = {"rope_type": kind} | {key: FULL[key] for key in NEEDED[kind]}
    config = LLAMA | {"model_type": model_type, "qk_rope_head_dim": 64}
    assert from_config(config | {"rope_parameters": rope}) is not None
    for key in sorted(_KNOWN_KEYS):
        for value in HARMFUL:
            changed = config | {"rope_parameters": rope | {key: value}}
            found = read_or_refused(from_config, changed)
            if found is not None:
                assert np.isfinite(found.inv_freq).all()
                assert len(found.explain()) < 20_000


def test_every_key_of_gguf_metadata():
    names = [f"rope.{name}" for name in KEYS]
    names += ["context_length", "embedding_length", "attention.head_count"]
    names += ["attention.key_length", "attention.key_length_swa", "attention.sliding_window"]
    for architecture in ("llama", "phi3", "gemma3", "deepseek2", "qwen2vl", "mistral3"):
        base = {
            "general.architecture": architecture,
            f"{architecture}.context_length": 4096,
            f"{architecture}.attention.key_length": 64,
        }
        for name in names:
            for value in [*HARMFUL, "9" * 5000, "[" * 5000, "[1,2" * 5000, b"\xff" * 5000]:
                for kind in (None, "yarn"):
                    metadata = base | {f"{architecture}.{name}": value}
                    if kind is not None:
                        metadata.setdefault(f"{architecture}.rope.scaling.type", kind)
                        metadata.setdefault(f"{architecture}.rope.scaling.factor", 4.0)
                    read_or_refused(from_gguf, metadata)


# --- messages ----------------------------------------------------------------------------------


def test_no_message_shows_a_value_of_a_file_by_repr():
    folder = Path(rotary.__file__).parent
    names = ["_lib/checks.py", "_lib/files.py", "checkpoints/*.py"]
    found = [
        f"{path.name}:{node.lineno}"
        for name in names
        for path in sorted(folder.glob(name))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r")
    ]
    assert not found, "use `shown`, whose length is bounded"


def test_presets_and_arguments_have_bounded_messages():
    for call in (
        lambda: rotary.preset("n" * MUCH),
        lambda: rotary.preset([1] * MUCH),
        lambda: from_config(LLAMA, layer_type="k" * MUCH),
        lambda: from_config(LLAMA, layer_type=10**5000),
        lambda: from_config(LLAMA, layout="half" + " " * MUCH),
        lambda: from_config(LLAMA, dialect="d" * MUCH),
        lambda: from_config(LLAMA, context_length="c" * MUCH),
        lambda: from_gguf({"general.architecture": "llama"}, layer_type="k" * MUCH),
        lambda: from_gguf({"general.architecture": "llama"}, head_dim=10**5000),
    ):
        with pytest.raises((TypeError, ValueError)) as info:
            call()
        assert len(str(info.value)) <= LONGEST


def test_integers_are_read_under_any_digit_limit_of_python(tmp_path):
    path = write_file(tmp_path, with_text("rope_theta", DIGITS))
    limit = sys.get_int_max_str_digits()
    try:
        for digits in (0, 640, 100_000):
            sys.set_int_max_str_digits(digits)
            refused(from_config, path, match="an integer of 4301 digits")
    finally:
        sys.set_int_max_str_digits(limit)
