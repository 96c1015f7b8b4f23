"""The interface of `rotate.cu`: the names of its instances, its one parameter, and its grid of threads.

The parameter is a struct, passed by value. Its fields are listed here and in `rotate.cu`, and tests compare the two
layouts field by field. Nothing here needs CuPy or a GPU.
"""

from __future__ import annotations

import struct
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rotary._lib.memo import remembered
from rotary.angles.phases import LIMBS_BELOW, Frequencies
from rotary.layouts import LAYOUTS, Layout

AngleKind: TypeAlias = Literal["table", "integers", "floats"]
Triple: TypeAlias = tuple[int, int, int]
Words: TypeAlias = npt.NDArray[np.uint64]

SOURCE = Path(__file__).with_name("rotate.cu")
# Compiler options besides those that CuPy adds.
OPTIONS = ("-std=c++17",)

# ------------------------------------------------------------------------------------------------
# Instances.

VECTOR_BYTES = 16
TYPES = {
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "float32": "float",
    "float64": "double",
}
# Elements in a vector.
WIDTHS = {"float16": 8, "bfloat16": 8, "float32": 4, "float64": 2}
ANGLE_KINDS: tuple[AngleKind, ...] = ("table", "integers", "floats")


@cache
def instance(
    dtype: str, kind: AngleKind, source: Layout = "half", target: Layout = "half", *, vector: bool
) -> str:
    """Return the name of an instance. Those that read single elements get the layouts as parameters."""
    at_address_of = f"vectors_{source}_{target}" if vector else "numbers"
    return f"rotate_{dtype}_{at_address_of}_{kind}"


def _arguments() -> dict[str, str]:
    """Return the template arguments of every instance."""
    found = {}
    for dtype, kind, source, target in product(TYPES, ANGLE_KINDS, LAYOUTS, LAYOUTS):
        layouts = f"{source}, {target}".upper()
        for vector in (True, False):
            given = f"{WIDTHS[dtype]}, {layouts}" if vector else "1, ANY, ANY"
            name = instance(dtype, kind, source, target, vector=vector)
            found[name] = f"{TYPES[dtype]}, {given}, {kind.upper()}"
    return found


ARGUMENTS = _arguments()
INSTANCES = tuple(ARGUMENTS)


@cache
def source() -> str:
    """Return the text of `rotate.cu`."""
    return SOURCE.read_text(encoding="utf-8")


def program(*names: str, text: str | None = None) -> str:
    """Return a program with the named instances; `text` replaces the text of `rotate.cu`."""
    entries = (f"ROTARY_KERNEL({name}, {ARGUMENTS[name]})\n" for name in names)
    return (source() if text is None else text) + "\n" + "".join(entries)


# ------------------------------------------------------------------------------------------------
# The parameter. The letters are those of the module `struct`: Q address, q and i integers, d and f floats.
# All strides are in bytes, and a stride of 0 broadcasts.

# For each of the two arrays.
ARRAY_FIELDS = {
    "x": "Q",  # the input
    "y": "Q",  # the output: x itself, or memory that overlaps no input
    "x_batch": "q",
    "x_token": "q",
    "x_head": "q",
    "y_batch": "q",
    "y_token": "q",
    "y_head": "q",
    "heads": "i",  # 0 if there is no array
    "copy": "i",  # whether to copy the channels outside the window
}
FIELDS = {
    "cosine": "Q",  # tables (heads or 1, rows, pairs)
    "sine": "Q",
    "turns": "Q",  # the frequencies, from `frequency_words`
    "table_row": "q",
    "trig_head": "q",  # stride between heads of tables or turns, 0 if all heads share them
    "rows": "q",  # of a table; a position outside 0 .. rows - 1 gives NaN
    "positions": "Q",
    "position_axis": "q",
    "position_batch": "q",
    "position_token": "q",
    "bounds": "Q",  # of packed sequences
    "first": "q",
    "step_batch": "q",
    "step_token": "q",
    "limit": "q",  # positions from here on give NaN; NO_LIMIT if there is none
    "factor": "d",
    "factor_high": "f",  # the factor as the sum of two floats
    "factor_low": "f",
    "sine_sign": "f",  # -1 for the inverse rotation
    "position_type": "i",  # one of POSITION_TYPES, 0 if there is no array of positions
    "bounds_type": "i",
    "sequences": "i",
    "tokens": "i",
    "length": "i",
    "width": "i",
    "start": "i",
    "pairs": "i",
    "axes": "i",
    "source": "i",  # 1 if interleaved
    "target": "i",
}
POSITION_TYPES = {"int32": 1, "int64": 2, "float32": 3, "float64": 4}
NO_LIMIT = 2**63 - 1

ARRAYS = 2
PACK = struct.Struct("@" + "".join(ARRAY_FIELDS.values()) * ARRAYS + "".join(FIELDS.values()))
SIZE = PACK.size


def _aligned(fields: list[tuple[Any, ...]]) -> np.dtype[Any]:
    """Return a dtype with the layout of a C struct."""
    return np.dtype(fields, align=True)


PARAMETERS = _aligned(
    [
        ("arrays", _aligned(list(ARRAY_FIELDS.items())), (ARRAYS,)),
        *FIELDS.items(),
    ]
)


# ------------------------------------------------------------------------------------------------
# Frequencies.

FREQUENCIES_REMEMBERED = 256


@remembered(FREQUENCIES_REMEMBERED)
def frequency_words(of: Frequencies) -> Words:
    """Return frequencies in turns per position, rounded to ``2**-128``, as words (heads, axes, 3, pairs).

    The first word is the integer part, the others are the fraction. Together they are one number in two's complement.
    """
    words = of.limbs[:, :, LIMBS_BELOW:].astype(np.uint64)
    # Of the six limbs of the fraction the least two are dropped, and the upper one of these rounds the others.
    low, high, whole = (words[:, :, i] | words[:, :, i + 1] << np.uint64(32) for i in (2, 4, 6))
    numbers = _plus([low, high, whole], words[:, :, 1] >> np.uint64(31))
    # Minus a number is its complement plus one.
    flip = np.uint64(0) - of.negative
    numbers = _plus([number ^ flip for number in numbers], of.negative)
    return np.ascontiguousarray(np.stack(numbers[::-1], axis=2))


def _plus(words: list[Words], carry: Words) -> list[Words]:
    """Add 0 or 1 to each number, given as words, least significant first."""
    sums = []
    for word in words:
        sums.append(word + carry)
        carry = (sums[-1] < carry).astype(np.uint64)
    return sums


# ------------------------------------------------------------------------------------------------
# Launches.

THREADS = 256
LARGEST_Z = 64
# Few enough to occupy all multiprocessors, and enough to compute angles once for several heads.
HEADS_PER_THREAD = 4
BLOCKS_PER_MULTIPROCESSOR = 4


def launch_shape(
    tokens: int, heads: int, chunks: int, *, by_head: bool, own: bool, multiprocessors: int
) -> tuple[Triple, Triple]:
    """Return grid and block of a launch.

    The threads of a block cover vectors of half a window (x), heads (y) and tokens (z), as far as these are adjacent in
    memory. The blocks cover tokens (x), groups of heads (y) and the remaining vectors (z).

    Parameters
    ----------
    tokens : int
        Batch times sequence, below ``2**31``.
    heads : int
        The largest number of heads of the arrays.
    chunks : int
        Vectors in half a window, or pairs for instances that read single elements.
    by_head : bool
        Whether the heads of a token are closer in memory than the tokens of a head.
    own : bool
        Whether angles differ by head. No thread then rotates two heads of an array.
    multiprocessors : int
        Of the GPU.
    """
    x = min(chunks, THREADS)
    free = THREADS // x
    groups = 1
    if own:
        y = min(free, heads)
        groups = -(-heads // y)
    else:
        y = max(1, min(free, -(-heads // HEADS_PER_THREAD))) if by_head else 1
    z = max(1, min(free // y, LARGEST_Z, tokens))
    blocks = -(-tokens // z)
    if not own:
        # With few tokens, more blocks share the heads.
        while blocks * groups < BLOCKS_PER_MULTIPROCESSOR * multiprocessors and (
            groups * y * 2 <= heads
        ):
            groups *= 2
    return (blocks, groups, -(-chunks // x)), (x, y, z)
