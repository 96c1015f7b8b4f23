"""What the host tells `rotate.cu`: the names of its instances, its one parameter, and how it is launched.

The parameter is a struct by value. Its fields stand here and in `rotate.cu`; tests compare the two field by
field, as two compilers lay them out. Nothing here needs CuPy or a GPU.
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

Trig: TypeAlias = Literal["table", "integers", "floats"]
Triple: TypeAlias = tuple[int, int, int]
Words: TypeAlias = npt.NDArray[np.uint64]

SOURCE = Path(__file__).with_name("rotate.cu")
# What RawModule is given besides what CuPy adds by itself.
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
# How many numbers a vector has.
WIDTHS = {"float16": 8, "bfloat16": 8, "float32": 4, "float64": 2}
TRIGS: tuple[Trig, ...] = ("table", "integers", "floats")


@cache
def instance(
    dtype: str, trig: Trig, source: Layout = "half", target: Layout = "half", *, vector: bool
) -> str:
    """Return the name of an instance; those that move single numbers are told the layouts when they run."""
    moved = f"vectors_{source}_{target}" if vector else "numbers"
    return f"rotate_{dtype}_{moved}_{trig}"


def _arguments() -> dict[str, str]:
    """Return what the template is made with, by the name of every instance."""
    found = {}
    for dtype, trig, source, target in product(TYPES, TRIGS, LAYOUTS, LAYOUTS):
        layouts = f"{source}, {target}".upper()
        for vector in (True, False):
            given = f"{WIDTHS[dtype]}, {layouts}" if vector else "1, ANY, ANY"
            name = instance(dtype, trig, source, target, vector=vector)
            found[name] = f"{TYPES[dtype]}, {given}, {trig.upper()}"
    return found


ARGUMENTS = _arguments()
INSTANCES = tuple(ARGUMENTS)


@cache
def source() -> str:
    """Return the text of the kernel file."""
    return SOURCE.read_text(encoding="utf-8")


def program(*names: str, text: str | None = None) -> str:
    """Return the program with the named instances; `text` may be another kernel file's."""
    entries = (f"ROTARY_KERNEL({name}, {ARGUMENTS[name]})\n" for name in names)
    return (source() if text is None else text) + "\n" + "".join(entries)


# ------------------------------------------------------------------------------------------------
# The parameter. Letters are those of the module struct: Q address, q and i integers, d and f floats.
# All strides are in bytes; one of 0 broadcasts.

# Of each of the two arrays.
ARRAY_FIELDS = {
    "x": "Q",  # where it is read
    "y": "Q",  # where it is written: x itself, or memory that overlaps no input
    "x_batch": "q",
    "x_token": "q",
    "x_head": "q",
    "y_batch": "q",
    "y_token": "q",
    "y_head": "q",
    "heads": "i",  # 0 where there is no array
    "copy": "i",  # whether the channels outside the window are copied
}
FIELDS = {
    "cosine": "Q",  # tables (heads or 1, rows, lanes)
    "sine": "Q",
    "turns": "Q",  # as `turn_words` gives them
    "table_row": "q",
    "trig_head": "q",  # from head to head of tables or turns, 0 where all heads share them
    "rows": "q",  # of a table; a position outside 0 .. rows - 1 gives NaN
    "positions": "Q",
    "position_axis": "q",
    "position_batch": "q",
    "position_token": "q",
    "bounds": "Q",  # of packed sequences
    "first": "q",
    "step_batch": "q",
    "step_token": "q",
    "limit": "q",  # positions from here on give NaN; NO_LIMIT where there is none
    "factor": "d",
    "factor_high": "f",  # the factor as the sum of two floats
    "factor_low": "f",
    "sine_sign": "f",  # -1 turns back
    "position_type": "i",  # as POSITION_TYPES, 0 where no array of positions is read
    "bounds_type": "i",
    "sequences": "i",
    "tokens": "i",
    "length": "i",
    "width": "i",
    "start": "i",
    "lanes": "i",
    "axes": "i",
    "source": "i",  # 1 where interleaved
    "target": "i",
}
POSITION_TYPES = {"int32": 1, "int64": 2, "float32": 3, "float64": 4}
NO_LIMIT = 2**63 - 1

ARRAYS = 2
PACK = struct.Struct("@" + "".join(ARRAY_FIELDS.values()) * ARRAYS + "".join(FIELDS.values()))
SIZE = PACK.size


def _aligned(fields: list[tuple[Any, ...]]) -> np.dtype[Any]:
    """Return a dtype laid out as C lays out a struct."""
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
def turn_words(of: Frequencies) -> Words:
    """Return turns per position, rounded to ``2**-128``, as words (heads, axes, 3, lanes).

    The first word counts whole turns, the others are the fraction; all are one number in two's complement.
    """
    words = of.limbs[:, :, LIMBS_BELOW:].astype(np.uint64)
    # Six limbs are fraction: the least two go, by the upper of which the others are rounded.
    low, high, whole = (words[:, :, i] | words[:, :, i + 1] << np.uint64(32) for i in (2, 4, 6))
    numbers = _plus([low, high, whole], words[:, :, 1] >> np.uint64(31))
    # Minus a number is its complement plus one.
    flip = np.uint64(0) - of.negative
    numbers = _plus([number ^ flip for number in numbers], of.negative)
    return np.ascontiguousarray(np.stack(numbers[::-1], axis=2))


def _plus(words: list[Words], carry: Words) -> list[Words]:
    """Return numbers in words, least first, with 0 or 1 added to each number."""
    sums = []
    for word in words:
        sums.append(word + carry)
        carry = (sums[-1] < carry).astype(np.uint64)
    return sums


# ------------------------------------------------------------------------------------------------
# Launches.

THREADS = 256
LARGEST_Z = 64
# Few enough that all multiprocessors have work, enough that angles are made once for several heads.
HEADS_PER_THREAD = 4
BLOCKS_PER_MULTIPROCESSOR = 4


def launch_shape(
    tokens: int, heads: int, chunks: int, *, by_head: bool, own: bool, multiprocessors: int
) -> tuple[Triple, Triple]:
    """Return grid and block of a launch.

    Threads of a block lie along the vectors of half a window (x), heads (y) and tokens (z), as far as these
    lie side by side in memory; blocks along tokens (x), groups of heads (y) and what is left of the vectors (z).

    Parameters
    ----------
    tokens : int
        Batch times sequence, below ``2**31``.
    heads : int
        The greater number of heads of the arrays.
    chunks : int
        Vectors per half a window; pairs, for instances that read number by number.
    by_head : bool
        Whether the heads of a token lie closer together than the tokens of a head.
    own : bool
        Whether heads have angles of their own; no thread then turns two of one array.
    multiprocessors : int
        How many the device has.
    """
    x = min(chunks, THREADS)
    room = THREADS // x
    groups = 1
    if own:
        y = min(room, heads)
        groups = -(-heads // y)
    else:
        y = max(1, min(room, -(-heads // HEADS_PER_THREAD))) if by_head else 1
    z = max(1, min(room // y, LARGEST_Z, tokens))
    blocks = -(-tokens // z)
    if not own:
        # A launch of few tokens spreads its heads over more blocks.
        while blocks * groups < BLOCKS_PER_MULTIPROCESSOR * multiprocessors and (
            groups * y * 2 <= heads
        ):
            groups *= 2
    return (blocks, groups, -(-chunks // x)), (x, y, z)
