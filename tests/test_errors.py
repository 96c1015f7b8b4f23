"""Every malformed call raises the right error, names the argument, and modifies no array."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random_array

import rotary
from rotary import RotaryEmbedding
from rotary.backends.cuda import memory
from rotary.call import arrays
from rotary.scaling import Custom

BASE = 10_000.0
X = (2, 3, 8)


def embedding(head_dim=8, **options):
    return RotaryEmbedding(head_dim, **({"layout": "half", "base": BASE, "seq_axis": -2} | options))


class Arrays:
    """Arrays for malformed calls, which are compared byte by byte afterwards."""

    def __init__(self):
        self.made = []

    def __call__(self, shape=X, dtype="float32"):
        array = random_array(shape, dtype, seed=len(self.made))
        self.made.append((array, array.tobytes()))
        return array

    def last(self, count=1):
        return self.made[-count][0]

    def frozen(self, shape=X, dtype="float32"):
        array = self(shape, dtype)
        array.setflags(write=False)
        return array

    def assert_untouched(self):
        for array, before in self.made:
            assert array.tobytes() == before


def in_place(rope, x, **options):
    return rope(x, out=x, **options)


def onto(rotate, x, place, **options):
    """Rotate an array into a view of itself."""
    return rotate(x, out=place(x), **options)


def shifted_by_one(rotate, x, **options):
    return rotate(x[:-1], out=x[1:], **options)


def both_into(rope, out):
    return rope(random_array(X), random_array(X), out=(out, out))


def exchanged(rope, q, k):
    return rope(q, k, out=(k, q))


def over_its_table(buffer):
    cos = buffer[:, 4:8]
    return rotary.apply_rotary(random_array((3, 8)), cos, cos, layout="half", out=buffer[:, :8])


# The mistake, the call, the error, and the argument in its message.
SPECIFICATIONS = [
    ("no layout", lambda: RotaryEmbedding(8, base=BASE), TypeError, "layout"),
    ("no base", lambda: RotaryEmbedding(8, layout="half"), TypeError, "`base`"),
    ("no base, scaling said", lambda: embedding(base=None), TypeError, "`base`"),
    ("unknown layout", lambda: embedding(layout="neox"), ValueError, "`layout`.*'half'"),
    ("a flag for layout", lambda: embedding(layout=True), TypeError, "`layout`"),
    ("no layout but None", lambda: embedding(layout=None), TypeError, "`layout`"),
    ("unknown output layout", lambda: embedding(output_layout="x"), ValueError, "`output_layout`"),
    (
        "a number for output layout",
        lambda: embedding(output_layout=1),
        TypeError,
        "`output_layout`",
    ),
    ("head_dim zero", lambda: embedding(0), ValueError, "`head_dim`.*0"),
    ("head_dim negative", lambda: embedding(-8), ValueError, "`head_dim`.*-8"),
    ("head_dim a float", lambda: embedding(8.0), TypeError, "`head_dim`.*float"),
    ("head_dim a bool", lambda: embedding(True), TypeError, "`head_dim`.*bool"),
    ("head_dim a string", lambda: embedding("8"), TypeError, "`head_dim`"),
    ("an odd head", lambda: embedding(7), ValueError, "`rotary_dim`.*7"),
    ("rotary_dim odd", lambda: embedding(rotary_dim=5), ValueError, "`rotary_dim`.*even.*5"),
    ("rotary_dim zero", lambda: embedding(rotary_dim=0), ValueError, "`rotary_dim`.*0"),
    ("rotary_dim too wide", lambda: embedding(rotary_dim=10), ValueError, "`rotary_dim`.*8.*10"),
    ("rotary_dim a fraction", lambda: embedding(rotary_dim=0.5), TypeError, "`rotary_dim`"),
    (
        "window past the head",
        lambda: embedding(rotary_dim=8, rotary_start=2),
        ValueError,
        "`rotary_dim`.*6.*8",
    ),
    ("window without pairs", lambda: embedding(rotary_start=3), ValueError, "`rotary_dim`"),
    ("rotary_start negative", lambda: embedding(rotary_start=-2), ValueError, "`rotary_start`.*-2"),
    ("rotary_start past the head", lambda: embedding(rotary_start=8), ValueError, "`rotary_start`"),
    ("rotary_start a float", lambda: embedding(rotary_start=2.0), TypeError, "`rotary_start`"),
    ("base zero", lambda: embedding(base=0), ValueError, "`base`.*0"),
    ("base negative", lambda: embedding(base=-5.0), ValueError, "`base`.*-5"),
    ("base infinite", lambda: embedding(base=np.inf), ValueError, "`base`.*inf"),
    ("base not a number", lambda: embedding(base=np.nan), ValueError, "`base`.*nan"),
    ("base a string", lambda: embedding(base="10000"), TypeError, "`base`.*str"),
    ("base complex", lambda: embedding(base=1j), TypeError, "`base`"),
    ("base a bool", lambda: embedding(base=True), TypeError, "`base`"),
    ("base called theta", lambda: embedding(theta=1e4), TypeError, "theta"),
    ("scaling a string", lambda: embedding(scaling="yarn"), TypeError, "`scaling`.*yarn"),
    ("scaling a dict", lambda: embedding(scaling={"type": "x"}), TypeError, "`scaling`"),
    ("scaling a class", lambda: embedding(scaling=Custom), TypeError, "`scaling`"),
    ("context zero", lambda: embedding(context_length=0), ValueError, "`context_length`.*0"),
    ("context a float", lambda: embedding(context_length=1.0), TypeError, "`context_length`"),
    ("no context at all", lambda: embedding().at_length(None), TypeError, "`context_length`"),
    ("channels as sequence", lambda: embedding(seq_axis=-1), ValueError, "`seq_axis`"),
    ("seq_axis a string", lambda: embedding(seq_axis="BHSD"), TypeError, "`seq_axis`"),
    ("seq_axis a float", lambda: embedding(seq_axis=-2.0), TypeError, "`seq_axis`"),
    ("positional layout", lambda: RotaryEmbedding(8, "half", BASE), TypeError, ""),
    ("Custom of nothing", Custom, ValueError, "`inv_freq`.*`W`"),
    ("Custom of both", lambda: Custom([1.0], W=[[1.0]]), ValueError, "`inv_freq`.*`W`"),
    (
        "Custom of the wrong width",
        lambda: embedding(scaling=Custom([1.0])),
        ValueError,
        "`inv_freq`",
    ),
    (
        "Custom W of the wrong width",
        lambda: embedding(scaling=Custom(W=[[1.0]])),
        ValueError,
        "`W`",
    ),
    ("Custom of two axes", lambda: Custom([[1.0]]), ValueError, "`inv_freq`"),
    ("Custom W of no axis", lambda: Custom(W=1.0), ValueError, "`W`"),
    ("Custom of no frequency", lambda: Custom([]), (TypeError, ValueError), "`inv_freq`"),
    ("Custom not finite", lambda: Custom([np.nan]), ValueError, "`inv_freq`"),
    ("Custom infinite", lambda: Custom([np.inf]), ValueError, "`inv_freq`"),
    ("Custom too fast", lambda: Custom([2.0**63]), ValueError, "`inv_freq`"),
    ("Custom of strings", lambda: Custom(["1"]), TypeError, "`inv_freq`"),
    ("Custom of complex numbers", lambda: Custom([1j]), TypeError, "`inv_freq`"),
    ("Custom of truth", lambda: Custom([True]), TypeError, "`inv_freq`"),
    ("Custom ragged", lambda: Custom(W=[[1.0], [1.0, 2.0]]), ValueError, "`W`"),
    ("Custom masked", lambda: Custom(np.ma.masked_array([1.0], [True])), TypeError, "`inv_freq`"),
    ("factor zero", lambda: Custom([1.0], 0.0), ValueError, "`attention_factor`"),
    ("factor negative", lambda: Custom([1.0], -1.0), ValueError, "`attention_factor`"),
    ("factor not finite", lambda: Custom([1.0], np.inf), ValueError, "`attention_factor`"),
    ("factor a string", lambda: Custom([1.0], "1"), TypeError, "`attention_factor`"),
    ("threads zero", lambda: rotary.threads(0).__enter__(), ValueError, "`n`"),
    ("threads a float", lambda: rotary.threads(1.5).__enter__(), TypeError, "`n`"),
    ("cache limit negative", lambda: rotary.set_cache_limit(-1), ValueError, "`nbytes`"),
    ("cache limit a float", lambda: rotary.set_cache_limit(1e6), TypeError, "`nbytes`"),
    ("warm_up of integers", lambda: rotary.warm_up(dtypes=["int8"]), TypeError, "`dtypes`"),
    ("warm_up of a number", lambda: rotary.warm_up(dtypes=3), TypeError, "`dtypes`"),
]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [case[1:] for case in SPECIFICATIONS],
    ids=[case[0] for case in SPECIFICATIONS],
)
def test_malformed_specifications(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call()


ROTATIONS = [
    # Arrays.
    ("no array", lambda rope, _new: rope(), TypeError, "array"),
    ("a list", lambda rope, _new: rope([[1.0] * 8]), TypeError, "`x`.*list"),
    ("a number", lambda rope, _new: rope(1.0), TypeError, "`x`.*float"),
    ("None", lambda rope, new: rope(new(), None), TypeError, "`k`.*NoneType"),
    ("integers", lambda rope, _new: rope(np.ones(X, int)), TypeError, "`x`.*int64"),
    ("truth", lambda rope, _new: rope(np.ones(X, bool)), TypeError, "`x`.*bool"),
    ("objects", lambda rope, _new: rope(np.ones(X, object)), TypeError, "`x`.*object"),
    (
        "long doubles",
        lambda rope, new: rope(new().astype(np.longdouble)),
        TypeError,
        "`x`.*long|`x`.*128",
    ),
    ("a mask", lambda rope, new: rope(np.ma.masked_array(new())), TypeError, "`x`.*[Mm]ask"),
    ("a matrix", lambda rope, new: rope(new((3, 8)).view(np.matrix)), TypeError, "`x`.*matrix"),
    ("one axis", lambda rope, new: rope(new((8,))), ValueError, "`x`.*\\(8,\\)"),
    ("no axis", lambda rope, _new: rope(np.float32(1)), (TypeError, ValueError), "`x`"),
    ("too narrow", lambda rope, new: rope(new((3, 6))), ValueError, "`x`.*8.*\\(3, 6\\)"),
    ("too wide", lambda rope, new: rope(new((3, 16))), ValueError, "`x`.*8.*16"),
    ("too wide a key", lambda rope, new: rope(new(), new((2, 3, 9))), ValueError, "`k`.*9"),
    (
        "a third array",
        lambda rope, new: rope(new(), new(), new((3, 9))),
        ValueError,
        "`arrays\\[2\\]`",
    ),
    (
        "complex channels as wide as real ones",
        lambda rope, new: rope(new(dtype="complex64")),
        ValueError,
        "`x`.*4 complex",
    ),
    (
        "complex channels of an odd window",
        lambda _rope, new: embedding(9, rotary_dim=8)(new((3, 4), "complex64")),
        (TypeError, ValueError),
        "`x`",
    ),
    (
        "complex channels of a window between pairs",
        lambda _rope, new: embedding(10, rotary_dim=8, rotary_start=1)(new((3, 5), "complex64")),
        (TypeError, ValueError),
        "`x`|`rotary_start`",
    ),
    (
        "keys of another length",
        lambda rope, new: rope(new(), new((2, 4, 8))),
        ValueError,
        "`k`.*3.*4",
    ),
    (
        "keys of another batch",
        lambda rope, new: rope(new(), new((3, 3, 8)), offset=[1, 2]),
        ValueError,
        "`offset`.*3.*`k`.*2",
    ),
    (
        "one head's frequencies too few",
        lambda _rope, new: embedding(scaling=Custom(W=np.ones((3, 1, 4))))(
            new((2, 4, 3, 8)), seq_axis=-2
        ),
        ValueError,
        "`x`.*3 heads",
    ),
    (
        "frequencies per head, no heads",
        lambda _rope, new: embedding(scaling=Custom(W=np.ones((3, 1, 4))))(new()),
        ValueError,
        "`x`.*3 heads",
    ),
    # Axes.
    (
        "four axes unsaid",
        lambda _rope, new: embedding(seq_axis=None)(new((1, 2, 3, 8))),
        ValueError,
        "`seq_axis`.*-2.*-3",
    ),
    (
        "five axes unsaid",
        lambda _rope, new: embedding(seq_axis=None)(new((1, 2, 3, 4, 8))),
        ValueError,
        "`seq_axis`",
    ),
    (
        "the channels as sequence",
        lambda rope, new: rope(new(), seq_axis=-1),
        ValueError,
        "`seq_axis`",
    ),
    ("the last as sequence", lambda rope, new: rope(new(), seq_axis=2), ValueError, "`seq_axis`"),
    ("an axis too many", lambda rope, new: rope(new(), seq_axis=3), ValueError, "`seq_axis`.*3"),
    ("an axis too few", lambda rope, new: rope(new(), seq_axis=-4), ValueError, "`seq_axis`.*-4"),
    ("an axis by name", lambda rope, new: rope(new(), seq_axis="S"), TypeError, "`seq_axis`"),
    ("an axis by truth", lambda rope, new: rope(new(), seq_axis=True), TypeError, "`seq_axis`"),
    (
        "a specification's axis that is not there",
        lambda _rope, new: embedding(seq_axis=-4)(new()),
        ValueError,
        "`seq_axis`.*-4",
    ),
    # Positions.
    (
        "too few positions",
        lambda rope, new: rope(new(), positions=[1, 2]),
        ValueError,
        "`positions`.*3",
    ),
    ("one position", lambda rope, new: rope(new(), positions=1), ValueError, "`positions`"),
    (
        "positions of another batch",
        lambda rope, new: rope(new(), positions=np.zeros((3, 3), int)),
        ValueError,
        "`positions`.*\\(3, 3\\)",
    ),
    (
        "positions of a column",
        lambda rope, new: rope(new(), positions=np.zeros((2, 1), int)),
        ValueError,
        "`positions`.*\\(2, 1\\)",
    ),
    (
        "positions of three axes",
        lambda rope, new: rope(new(), positions=np.zeros((1, 2, 3), int)),
        ValueError,
        "`positions`",
    ),
    (
        "positions without their axes",
        lambda _rope, new: embedding(scaling=Custom(W=np.ones((2, 4))))(new(), positions=[1, 2, 3]),
        ValueError,
        "`positions`.*2 position axes",
    ),
    (
        "positions of another number of axes",
        lambda _rope, new: embedding(scaling=Custom(W=np.ones((2, 4))))(
            new(), positions=np.zeros((3, 3), int)
        ),
        ValueError,
        "`positions`",
    ),
    (
        "ragged positions",
        lambda rope, new: rope(new(), positions=[[1], [2, 3]]),
        ValueError,
        "`positions`",
    ),
    (
        "positions as words",
        lambda rope, new: rope(new(), positions=list("abc")),
        TypeError,
        "`positions`",
    ),
    (
        "positions as truth",
        lambda rope, new: rope(new(), positions=[True] * 3),
        TypeError,
        "`positions`",
    ),
    (
        "complex positions",
        lambda rope, new: rope(new(), positions=[1j] * 3),
        TypeError,
        "`positions`",
    ),
    (
        "positions of None",
        lambda rope, new: rope(new(), positions=[None] * 3),
        TypeError,
        "`positions`",
    ),
    (
        "masked positions",
        lambda rope, new: rope(new(), positions=np.ma.arange(3)),
        TypeError,
        "`positions`.*[Mm]ask",
    ),
    (
        "dates",
        lambda rope, new: rope(new(), positions=np.zeros(3, "M8[s]")),
        TypeError,
        "`positions`.*timestamps",
    ),
    (
        "positions not finite",
        lambda rope, new: rope(new(), positions=[0, np.nan, 1]),
        ValueError,
        "`positions`",
    ),
    (
        "infinite positions",
        lambda rope, new: rope(new(), positions=[0, 1, np.inf]),
        ValueError,
        "`positions`",
    ),
    (
        "positions of 2**63",
        lambda rope, new: rope(new(), positions=[0, 1, 2**63]),
        ValueError,
        "`positions`",
    ),
    (
        "float positions of 2**63",
        lambda rope, new: rope(new(), positions=[0.0, 1.0, 2.0**63]),
        ValueError,
        "`positions`",
    ),
    (
        "uint64 positions beyond int64",
        lambda rope, new: rope(new(), positions=np.array([0, 1, 2**63], np.uint64)),
        ValueError,
        "`positions`",
    ),
    (
        "positions and offset",
        lambda rope, new: rope(new(), positions=[1, 2, 3], offset=1),
        ValueError,
        "`positions`.*`offset`",
    ),
    (
        "positions and offset 0",
        lambda rope, new: rope(new(), positions=[1, 2, 3], offset=0),
        ValueError,
        "`positions`.*`offset`",
    ),
    (
        "positions and bounds",
        lambda rope, new: rope(new((3, 8)), positions=[1, 2, 3], cu_seqlens=[0, 3]),
        ValueError,
        "`positions`.*`cu_seqlens`",
    ),
    # Offsets.
    (
        "offsets of another batch",
        lambda rope, new: rope(new(), offset=[1, 2, 3]),
        ValueError,
        "`offset`.*3",
    ),
    (
        "offsets without a batch",
        lambda rope, new: rope(new((3, 8)), offset=[1, 2]),
        ValueError,
        "`offset`",
    ),
    (
        "offsets of two axes",
        lambda rope, new: rope(new(), offset=[[1], [2]]),
        ValueError,
        "`offset`",
    ),
    ("an offset as a word", lambda rope, new: rope(new(), offset="1"), TypeError, "`offset`"),
    ("an offset as truth", lambda rope, new: rope(new(), offset=True), TypeError, "`offset`"),
    ("a complex offset", lambda rope, new: rope(new(), offset=1j), TypeError, "`offset`"),
    ("an offset not finite", lambda rope, new: rope(new(), offset=np.nan), ValueError, "`offset`"),
    ("an infinite offset", lambda rope, new: rope(new(), offset=-np.inf), ValueError, "`offset`"),
    ("an offset of 2**63", lambda rope, new: rope(new(), offset=2**63), ValueError, "`offset`"),
    (
        "an offset below int64",
        lambda rope, new: rope(new(), offset=-(2**63) - 1),
        ValueError,
        "`offset`",
    ),
    (
        "a last row past int64",
        lambda rope, new: rope(new(), offset=2**63 - 2),
        ValueError,
        "`offset`",
    ),
    (
        "one of two past int64",
        lambda rope, new: rope(new(), offset=[0, 2**63 - 2]),
        ValueError,
        "`offset`",
    ),
    (
        "a float offset of 2**63",
        lambda rope, new: rope(new(), offset=2.0**63),
        ValueError,
        "`offset`",
    ),
    # Packed sequences.
    (
        "bounds too short",
        lambda rope, new: rope(new((3, 8)), cu_seqlens=[0, 2]),
        ValueError,
        "`cu_seqlens`.*3.*2",
    ),
    (
        "bounds too long",
        lambda rope, new: rope(new((3, 8)), cu_seqlens=[0, 4]),
        ValueError,
        "`cu_seqlens`.*3.*4",
    ),
    (
        "bounds from 1",
        lambda rope, new: rope(new((3, 8)), cu_seqlens=[1, 3]),
        ValueError,
        "`cu_seqlens`.*0",
    ),
    (
        "bounds that fall",
        lambda rope, new: rope(new((3, 8)), cu_seqlens=[0, 5, 3]),
        ValueError,
        "`cu_seqlens`.*decrease",
    ),
    ("no bounds", lambda rope, new: rope(new((0, 8)), cu_seqlens=[]), ValueError, "`cu_seqlens`"),
    (
        "float bounds",
        lambda rope, new: rope(new((3, 8)), cu_seqlens=[0.0, 3.0]),
        TypeError,
        "`cu_seqlens`",
    ),
    (
        "bounds of two axes",
        lambda rope, new: rope(new((3, 8)), cu_seqlens=[[0, 3]]),
        ValueError,
        "`cu_seqlens`",
    ),
    ("one bound", lambda rope, new: rope(new((3, 8)), cu_seqlens=3), ValueError, "`cu_seqlens`"),
    (
        "offsets not one per sequence",
        lambda rope, new: rope(new((3, 8)), cu_seqlens=[0, 3], offset=[1, 2]),
        ValueError,
        "`offset`",
    ),
    # Shift.
    ("no delta", lambda rope, new: rope.shift(new()), TypeError, "delta"),
    ("delta None", lambda rope, new: rope.shift(new(), None), TypeError, "`delta`"),
    ("delta a word", lambda rope, new: rope.shift(new(), "1"), TypeError, "`delta`"),
    ("delta truth", lambda rope, new: rope.shift(new(), True), TypeError, "`delta`"),
    ("delta not finite", lambda rope, new: rope.shift(new(), np.nan), ValueError, "`delta`"),
    (
        "delta of another batch",
        lambda rope, new: rope.shift(new(), [1, 2, 3]),
        ValueError,
        "`delta`.*\\(3,\\)",
    ),
    ("delta of a column", lambda rope, new: rope.shift(new(), [[1], [2]]), ValueError, "`delta`"),
    (
        "delta without a batch",
        lambda rope, new: rope.shift(new((3, 8)), [1, 2]),
        ValueError,
        "`delta`",
    ),
    ("delta of 2**63", lambda rope, new: rope.shift(new(), 2**63), ValueError, "`delta`"),
    (
        "delta not one per sequence",
        lambda rope, new: rope.shift(new((3, 8)), [1, 2], cu_seqlens=[0, 3]),
        ValueError,
        "`delta`",
    ),
    # Outputs.
    (
        "out of another shape",
        lambda rope, new: rope(new(), out=new((3, 8))),
        ValueError,
        "`out`.*\\(3, 8\\)",
    ),
    (
        "out of another dtype",
        lambda rope, new: rope(new(), out=new(X, "float64")),
        TypeError,
        "`out`.*float64",
    ),
    ("out a list", lambda rope, new: rope(new(), out=[[1.0]]), (TypeError, ValueError), "`out`"),
    (
        "out a mask",
        lambda rope, new: rope(new(), out=np.ma.masked_array(new())),
        TypeError,
        "`out`",
    ),
    (
        "out read-only",
        lambda rope, new: rope(new(), out=new.frozen()),
        ValueError,
        "`out`.*read-only",
    ),
    (
        "in place read-only",
        lambda rope, new: in_place(rope, new.frozen()),
        ValueError,
        "`out`.*read-only",
    ),
    (
        "out broadcast",
        lambda rope, new: rope(
            new(), out=np.lib.stride_tricks.as_strided(new((3, 8)), X, (0, 32, 4))
        ),
        ValueError,
        "`out`.*broadcast",
    ),
    ("one out for two", lambda rope, new: rope(new(), new(), out=new()), ValueError, "`out`.*2"),
    (
        "two outs for one",
        lambda rope, new: rope(new(), out=(new(), new())),
        ValueError,
        "`out`.*1.*2",
    ),
    (
        "out for the first only",
        lambda rope, new: rope(new(), new(), out=(new(), None)),
        TypeError,
        "`out\\[1\\]`",
    ),
    (
        "second out of another shape",
        lambda rope, new: rope(new(), new(), out=(new(), new((3, 8)))),
        ValueError,
        "`out\\[1\\]`",
    ),
    (
        "second out read-only",
        lambda rope, new: rope(new(), new(), out=(new(), new.frozen())),
        ValueError,
        "`out\\[1\\]`",
    ),
    (
        "out part of the input",
        lambda rope, new: shifted_by_one(rope, new((3, 3, 8))),
        ValueError,
        "`out`.*overlap",
    ),
    (
        "out the input reversed",
        lambda rope, new: onto(rope, new(), lambda x: x[::-1]),
        ValueError,
        "`out`.*overlap",
    ),
    (
        "out the input flipped",
        lambda rope, new: onto(rope, new((3, 3, 8)), lambda x: x.transpose(1, 0, 2)),
        ValueError,
        "`out`.*overlap",
    ),
    (
        "outs exchanged",
        lambda rope, new: exchanged(rope, new(), new()),
        ValueError,
        "`out`.*overlap",
    ),
    (
        "the same out twice",
        lambda rope, new: both_into(rope, new()),
        ValueError,
        "`out`.*overlap",
    ),
    (
        "the same array twice in place",
        lambda rope, new: rope(*[new()] * 2, out=[new.last()] * 2),
        ValueError,
        "`out`.*overlap",
    ),
    # Late errors are raised before anything is written.
    (
        "bad positions with an output",
        lambda rope, new: in_place(rope, new(), positions=[1]),
        ValueError,
        "`positions`",
    ),
    (
        "bad offset with an output",
        lambda rope, new: in_place(rope, new(), offset=np.inf),
        ValueError,
        "`offset`",
    ),
    (
        "a bad key with an output",
        lambda rope, new: rope(new(), new((2, 3, 9)), out=(new.last(2), new())),
        ValueError,
        "`k`",
    ),
    # Other methods.
    ("inverse of a list", lambda rope, _new: rope.inverse([1.0]), TypeError, "`x`"),
    ("vjp too wide", lambda rope, new: rope.vjp(new((3, 9))), ValueError, "`x`.*9"),
    (
        "inverse with too few positions",
        lambda rope, new: rope.inverse(new(), positions=[1]),
        ValueError,
        "`positions`",
    ),
    (
        "vjp in an overlap",
        lambda rope, new: shifted_by_one(rope.vjp, new((3, 3, 8))),
        ValueError,
        "`out`",
    ),
    ("an unknown option", lambda rope, new: rope(new(), position=[1, 2, 3]), TypeError, "position"),
    # Other arguments.
    (
        "the matrix of two positions",
        lambda rope, _new: rope.matrix([1, 2]),
        ValueError,
        "`position`",
    ),
    ("the matrix of a word", lambda rope, _new: rope.matrix("a"), TypeError, "`position`"),
    ("the matrix beyond int64", lambda rope, _new: rope.matrix(2**63), ValueError, "`position`"),
    ("tables of words", lambda rope, _new: rope.tables(["a"]), TypeError, "`positions`"),
    (
        "tables in half precision",
        lambda rope, _new: rope.tables([1], dtype="float16"),
        ValueError,
        "`dtype`",
    ),
    (
        "tables of integers",
        lambda rope, _new: rope.tables([1], dtype=int),
        (TypeError, ValueError),
        "`dtype`",
    ),
    (
        "tables of nothing known",
        lambda rope, _new: rope.tables([1], dtype="x"),
        (TypeError, ValueError),
        "`dtype`",
    ),
    (
        "tables without their axes",
        lambda _rope, _new: embedding(scaling=Custom(W=np.ones((2, 4)))).tables([1, 2, 3]),
        ValueError,
        "`positions`.*2",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [case[1:] for case in ROTATIONS],
    ids=[case[0] for case in ROTATIONS],
)
def test_malformed_rotations(call, error, message):
    new = Arrays()
    before = rotary.cache_info().entries
    with pytest.raises(error, match=f"(?s){message}"):
        call(embedding(), new)
    new.assert_untouched()
    assert rotary.cache_info().entries == before, "a refused call left a table behind"


C, S = rotary.cos_sin(range(3), [1.0, 0.5, 0.25, 0.125])
HALF = {"layout": "half", "seq_axis": -2}

FUNCTIONS = [
    ("an odd dim", lambda _new: rotary.inv_freq(7, base=BASE), ValueError, "`dim`.*7"),
    ("dim zero", lambda _new: rotary.inv_freq(0, base=BASE), ValueError, "`dim`"),
    ("dim a float", lambda _new: rotary.inv_freq(8.0, base=BASE), TypeError, "`dim`"),
    ("no base", lambda _new: rotary.inv_freq(8), TypeError, "base"),
    ("base zero", lambda _new: rotary.inv_freq(8, base=0), ValueError, "`base`"),
    ("base a word", lambda _new: rotary.inv_freq(8, base="a"), TypeError, "`base`"),
    ("cos_sin of words", lambda _new: rotary.cos_sin(["a"], [1.0]), TypeError, "`positions`"),
    (
        "cos_sin at infinity",
        lambda _new: rotary.cos_sin([np.inf], [1.0]),
        ValueError,
        "`positions`",
    ),
    (
        "frequencies of two axes",
        lambda _new: rotary.cos_sin([1], [[1.0]]),
        ValueError,
        "`inv_freq`",
    ),
    (
        "a frequency not finite",
        lambda _new: rotary.cos_sin([1], [np.nan]),
        ValueError,
        "`inv_freq`",
    ),
    ("a complex frequency", lambda _new: rotary.cos_sin([1], [1j]), TypeError, "`inv_freq`"),
    (
        "tables in half",
        lambda _new: rotary.cos_sin([1], [1.0], dtype="float16"),
        ValueError,
        "`dtype`",
    ),
    (
        "factor zero",
        lambda _new: rotary.cos_sin([1], [1.0], attention_factor=0),
        ValueError,
        "`attention_factor`",
    ),
    ("sinusoidal odd", lambda _new: rotary.sinusoidal([1], 3), ValueError, "`dim`"),
    ("sinusoidal of words", lambda _new: rotary.sinusoidal("a", 4), TypeError, "`positions`"),
    ("sinusoidal base", lambda _new: rotary.sinusoidal([1], 4, base=-1), ValueError, "`base`"),
    ("no layout", lambda new: rotary.apply_rotary(new(), C, S), TypeError, "layout"),
    (
        "unknown layout",
        lambda new: rotary.apply_rotary(new(), C, S, layout="x"),
        ValueError,
        "`layout`",
    ),
    ("x a list", lambda _new: rotary.apply_rotary([1.0], C, S, **HALF), TypeError, "`x`"),
    (
        "x of integers",
        lambda _new: rotary.apply_rotary(np.ones(X, int), C, S, **HALF),
        TypeError,
        "`x`",
    ),
    (
        "x of four axes",
        lambda new: rotary.apply_rotary(new((1, 2, 3, 8)), C, S, layout="half"),
        ValueError,
        "`seq_axis`",
    ),
    (
        "cos a list",
        lambda new: rotary.apply_rotary(new(), C.tolist(), S, **HALF),
        TypeError,
        "`cos`",
    ),
    (
        "sin a list",
        lambda new: rotary.apply_rotary(new(), C, S.tolist(), **HALF),
        TypeError,
        "`sin`",
    ),
    (
        "cos of integers",
        lambda new: rotary.apply_rotary(new(), C.astype(int), S, **HALF),
        TypeError,
        "`cos`",
    ),
    ("sin complex", lambda new: rotary.apply_rotary(new(), C, S + 0j, **HALF), TypeError, "`sin`"),
    (
        "cos of another length",
        lambda new: rotary.apply_rotary(new(), C[:2], S[:2], **HALF),
        ValueError,
        "`cos`.*3",
    ),
    (
        "cos and sin differ",
        lambda new: rotary.apply_rotary(new(), C, S[:, :2], **HALF),
        ValueError,
        "`sin`",
    ),
    (
        "cos one axis",
        lambda new: rotary.apply_rotary(new(), C[0], S[0], **HALF),
        ValueError,
        "`cos`",
    ),
    (
        "cos of another batch",
        lambda new: rotary.apply_rotary(new(), np.stack([C] * 3), np.stack([S] * 3), **HALF),
        ValueError,
        "`cos`",
    ),
    (
        "cos too wide",
        lambda new: rotary.apply_rotary(new((2, 3, 6)), C, S, **HALF),
        ValueError,
        "`cos`",
    ),
    (
        "cos of no width",
        lambda new: rotary.apply_rotary(new(), C[:, :0], S[:, :0], **HALF),
        ValueError,
        "`cos`",
    ),
    (
        "full width tables",
        lambda new: rotary.apply_rotary(new(), np.tile(C, 2), np.tile(S, 2), **HALF),
        ValueError,
        "`cos`",
    ),
    (
        "window past the head",
        lambda new: rotary.apply_rotary(new(), C, S, rotary_start=2, **HALF),
        ValueError,
        "`rotary_start`|`cos`",
    ),
    (
        "window before the head",
        lambda new: rotary.apply_rotary(new(), C, S, rotary_start=-2, **HALF),
        ValueError,
        "`rotary_start`",
    ),
    (
        "window by a float",
        lambda new: rotary.apply_rotary(new(), C, S, rotary_start=0.0, **HALF),
        TypeError,
        "`rotary_start`",
    ),
    (
        "inverse a number",
        lambda new: rotary.apply_rotary(new(), C, S, inverse=1, **HALF),
        TypeError,
        "`inverse`",
    ),
    (
        "out of another shape",
        lambda new: rotary.apply_rotary(new(), C, S, out=new((3, 8)), **HALF),
        ValueError,
        "`out`",
    ),
    (
        "out read-only",
        lambda new: rotary.apply_rotary(new(), C, S, out=new.frozen(), **HALF),
        ValueError,
        "`out`",
    ),
    (
        "out overlaps",
        lambda new: shifted_by_one(rotary.apply_rotary, new((3, 3, 8)), cos=C, sin=S, **HALF),
        ValueError,
        "`out`",
    ),
    (
        "out overlaps cos",
        lambda new: over_its_table(new((3, 12))),
        ValueError,
        "`out`.*overlap",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [case[1:] for case in FUNCTIONS],
    ids=[case[0] for case in FUNCTIONS],
)
def test_malformed_functions(call, error, message):
    new = Arrays()
    with pytest.raises(error, match=f"(?s){message}"):
        call(new)
    new.assert_untouched()


# ------------------------------------------------------------------------------------------------
# Other libraries.


def test_outputs_of_immutable_libraries_are_refused(xp):
    if xp.name in {"numpy", "array-api-strict", "torch", "cupy"}:
        x, out = xp.asarray(random_array((3, 8))), xp.asarray(np.zeros((3, 8), np.float32))
        assert embedding()(x, out=out) is out
        return
    x = xp.asarray(random_array((3, 8)))
    with pytest.raises(TypeError, match=r"`out`.*immutable"):
        embedding()(x, out=x)
    with pytest.raises(TypeError, match="`out`"):
        embedding()(x, out=np.zeros((3, 8), np.float32))


def test_outputs_of_another_library_are_refused(xp):
    x, out = random_array((3, 8)), np.zeros((3, 8), np.float32)
    given, foreign = (x, (out.tolist(),)) if xp.name == "numpy" else (xp.asarray(x), out)
    with pytest.raises(TypeError, match="`out`"):
        embedding()(given, out=foreign)
    if xp.name != "numpy":
        with pytest.raises(TypeError, match="`out`"):
            embedding()(x, out=xp.asarray(out))


def test_integer_arrays_are_refused_for_all_libraries(xp):
    with pytest.raises(TypeError, match=r"`x`.*int32"):
        embedding()(xp.asarray(np.ones((3, 8), np.int32)))


def test_wrong_widths_are_refused_for_all_libraries(xp):
    with pytest.raises(ValueError, match=r"`x`.*8"):
        embedding()(xp.asarray(np.ones((3, 6), np.float32)))
    with pytest.raises(ValueError, match="`positions`"):
        embedding()(xp.asarray(np.ones((3, 8), np.float32)), positions=xp.asarray(np.arange(4)))


def test_positions_of_wrong_dtypes_are_refused_for_all_libraries(xp):
    x = xp.asarray(np.ones((3, 8), np.float32))
    with pytest.raises(TypeError, match="`positions`"):
        embedding()(x, positions=xp.asarray(np.ones(3, bool)))


def test_overlaps_that_cannot_be_ruled_out_are_refused(monkeypatch):
    monkeypatch.setattr(arrays, "OVERLAP_WORK", 0)
    memory = np.zeros((40, 3, 16))
    x, out = memory[::2, ::2, :8], memory[::3, ::2, 8:][:20]
    with pytest.raises(ValueError, match="`out` must be the input itself or overlap no input"):
        embedding()(x[:14], out=out[:14])


class Bare:
    """Raw GPU memory of no library, with only an address."""

    shape, dtype = (3, 8), np.dtype(np.float32)

    @property
    def __cuda_array_interface__(self):
        return {"data": (0, False), "shape": self.shape, "typestr": "<f4", "version": 3}


def test_raw_gpu_memory_needs_kernels(monkeypatch):
    """Without kernels, no library can rotate it."""
    monkeypatch.setattr(memory, "usable", lambda _: False)
    with pytest.raises(TypeError, match="`x` must be an array of a library, got .*cupy.asarray"):
        embedding()(Bare())
    with pytest.raises(TypeError, match="`cos` must be an array of a library, got .*cupy.asarray"):
        rotary.apply_rotary(np.ones((3, 8)), Bare(), Bare(), layout="half")


@pytest.mark.library("jax")
def test_offsets_of_packed_sequences_must_be_known_on_the_host():
    import jax

    function = jax.jit(lambda o: embedding()(np.ones((5, 2, 8)), cu_seqlens=[0, 2, 5], offset=o))
    with pytest.raises(TypeError, match="`offset` must be known"):
        function(3)


@pytest.mark.library("jax")
def test_traced_bounds_and_dtypes_are_refused():
    import jax

    with pytest.raises(TypeError, match="`cu_seqlens` must be known"):
        jax.jit(lambda c: embedding()(np.ones((5, 2, 8)), cu_seqlens=c))(np.array([0, 5]))
    with pytest.raises(TypeError, match="`positions` must be integers or floats"):
        jax.jit(lambda p: embedding()(np.ones((2, 8)), positions=p))(np.array([True, False]))


@pytest.mark.library("jax")
def test_numpy_outputs_are_refused_for_traced_positions():
    import jax

    x = np.ones((2, 8), np.float32)
    with pytest.raises(TypeError, match="`out` must be an array of the library of `positions`"):
        jax.jit(lambda p: embedding()(x, positions=p, out=x))(np.arange(2))


@pytest.mark.library("torch")
def test_positions_on_another_device_are_refused():
    import torch

    with pytest.raises(TypeError, match="`x` must be on the device of `positions`, meta"):
        embedding()(torch.ones(3, 8), positions=torch.arange(3, device="meta"))


@pytest.mark.library("torch")
def test_sparse_arrays_are_refused():
    import torch

    with pytest.raises(TypeError, match="`x` must be a dense array"):
        embedding()(torch.ones(3, 8).to_sparse())
