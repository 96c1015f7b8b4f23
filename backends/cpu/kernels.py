"""Every loop over numbers: filling tables of cosine and sine, and rotating channel pairs.

All compiled code is in this one file, because Numba's disk cache notices changes only in the file of the function that
it compiled. The formulas of tables are plain functions of NumPy arrays, or of a `Vector`, for which they write code. So
tables have the same bits with and without Numba. The tables use no fused multiply-add: products and sums are rounded
one by one, on every machine.

Each kernel is a function of one integer, the address of a call: a block of integers, which are addresses, counts and
strides (`CALL`). Its code is written in LLVM's terms by the classes below. Numba has no types to infer then and no
loops to transform, and compiles a kernel in a fraction of a second.

The walk of a rotation, `Rotation.walk`::

    tokens of the call    |  chunk 0  |  chunk 1  |  chunk 2  |     one for each thread
                                 |
    some tokens of a chunk       |     `Rotation.blocks`: one token, or some if a head's tokens are close
      some heads                 |     `Rotation.blocks`: all heads, or some of them
        a token of these         |     reads cosine and sine, which stay in registers for its heads
          a head of these     [a row]

    a row    x   | before |   first channels   |   second channels   | after |
                                |      read all of it, in the order of memory
                            channels -> numbers
                                |      `NormRotation` multiplies the numbers here, see below
                            (a, b) -> (a cos - b sin, b cos + a sin)
                                |      a stage after the rotation belongs here
                            numbers -> channels
                                |      write all of it, in the order of memory
             out | before |   first channels   |   second channels   | after |

`Rotation.row_of` alone says where the result of a row is.

A whole row is read before it is written. So a row may be rotated in place, and reads and writes each follow the order
of memory, in which the processor prefetches by itself: reads and writes that alternate between the two halves of a row
would defeat that. Prefetching by instructions was measured for new results past the caches, in both orders of the axes
(Zen 4): it gained a few percent at best, so there is none.
"""

from __future__ import annotations

import platform
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

# The error for which there is no Numba; None if there is one.
WITHOUT: BaseException | None = None
try:
    if "PLAIN" in globals():
        msg = "this copy does without Numba"
        raise ImportError(msg)
    import numba

    COMPILED = not numba.config.DISABLE_JIT
    if COMPILED:
        import llvmlite.binding
        from llvmlite import ir
        from numba import types
        from numba.core import cgutils
        from numba.extending import intrinsic
        from numba.np import arrayobj
except BaseException as error:  # noqa: BLE001  (an import may raise anything; `host` reports it)
    WITHOUT, COMPILED = error, False

if COMPILED:

    def _converts_half() -> bool:
        """Return whether the processor compiled for converts float16; LLVM aborts where it cannot."""
        if numba.config.CPU_NAME not in (None, "host"):
            return "+f16c" in (numba.config.CPU_FEATURES or "")
        if platform.machine().lower() in ("aarch64", "arm64"):
            return True
        return bool(llvmlite.binding.get_host_cpu_features().get("f16c", False))

    HALF_IN_HARDWARE = _converts_half()
else:

    def intrinsic(function: Any = None, **_: Any) -> Any:
        """Return a function as it is, because nothing compiles it."""
        return intrinsic if function is None else function


# ------------------------------------------------------------------------------------------------
# The exact phase: an integer multiplication in 32-bit limbs, wrapping at one turn.

ZERO = np.uint64(0)
ONE = np.uint64(1)
TWO = np.uint64(2)
WORD = np.uint64(32)
LOW_WORD = np.uint64(0xFFFFFFFF)
DIGITS = 3
# Limbs of a phase, of which the upper four count in the end.
PHASE_LIMBS = 6


def add_product(digit, limbs, phase):
    """Return the limbs of ``phase + digit * limbs`` modulo ``2**192``; nothing overflows 64 bits."""
    result, carry = [], ZERO
    for limb, term in zip(limbs, phase, strict=True):
        number = digit * limb + term + carry
        result.append(number & LOW_WORD)
        carry = number >> WORD
    return result


def top_words(phase):
    """Return the top 128 bits of a phase in limbs, as two 64-bit words."""
    return (phase[5] << WORD) | phase[4], (phase[3] << WORD) | phase[2]


def turn(digits, limbs):
    """Return the top 128 bits of a position's fraction of a turn, as two 64-bit words.

    The digits (least first) are the position's, the eight limbs the frequency's, starting two limbs
    below the last fraction limb that counts.
    """
    phase = [ZERO] * PHASE_LIMBS
    for place, digit in enumerate(digits):
        first = DIGITS - 1 - place
        phase = add_product(digit, limbs[first : first + PHASE_LIMBS], phase)
    return top_words(phase)


def add_signed(high, low, more_high, more_low, negative):
    """Return the 128-bit sum of two phases, the second one negated where ``negative`` is 1."""
    flip = ZERO - negative
    low_term = more_low ^ flip
    high_term = more_high ^ flip
    # Minus a number is its complement plus one.
    partial = low_term + negative
    carry = negative & (partial == ZERO).astype(np.uint64)
    low_sum = low + partial
    return high + high_term + carry + (low_sum < partial).astype(np.uint64), low_sum


# ------------------------------------------------------------------------------------------------
# Cosine and sine of a phase. Coefficients and error bounds: docs/explanation/accuracy.md.


def quadrant(high, low):
    """Return the quadrant and the rest of the phase, rounded to the nearest quarter turn.

    The rest is ``high * 2**-64 + low * 2**-128`` turns, both words signed.
    """
    rounded = high + (low >> np.uint64(63))
    quarter = (rounded + np.uint64(1 << 61)) >> np.uint64(62)
    rest = rounded - (quarter << np.uint64(62))
    return quarter, rest.astype(np.int64), low.astype(np.int64)


def where(condition, yes, no):
    """Return one number if a condition holds, else the other."""
    if isinstance(condition, Vector):
        return condition.where(yes, no)
    return np.where(condition, yes, no)


def turn_back(quarter, cosine, sine):
    """Return cosine and sine of the whole phase from those of its rest."""
    even = (quarter & ONE) == ZERO
    right = ((quarter + ONE) & TWO) == ZERO
    upper = (quarter & TWO) == ZERO
    x, y = where(even, cosine, sine), where(even, sine, cosine)
    return where(right, x, -x), where(upper, y, -y)


def polynomial(coefficients, z):
    """Return a polynomial's value at z, by Horner's rule, the coefficient of ``z**0`` being first."""
    *others, value = coefficients
    for coefficient in reversed(others):
        value = value * z + coefficient
    return value


TURN_HIGH = 2.0**-64
TURN_LOW = 2.0**-128

SIN32 = (
    float.fromhex("0x1.921fb5443af60p+2"),
    float.fromhex("-0x1.4abbce564ce37p+5"),
    float.fromhex("0x1.466bba8bfcc6bp+6"),
    float.fromhex("-0x1.32ca854b565bap+6"),
    float.fromhex("0x1.4bc254d9ade4bp+5"),
)
COS32 = (
    float.fromhex("-0x1.3bd3cc9bd6839p+4"),
    float.fromhex("0x1.03c1f075dd99ap+6"),
    float.fromhex("-0x1.55d3ba9db943ap+6"),
    float.fromhex("0x1.e1e7f583c276cp+5"),
    float.fromhex("-0x1.a0f36a23d9bd4p+4"),
)
SIN64_HIGH = float.fromhex("0x1.921fb54000000p+2")
SIN64 = (
    float.fromhex("0x1.10b461026488ap-28"),
    float.fromhex("-0x1.4abbce625be41p+5"),
    float.fromhex("0x1.466bc67758780p+6"),
    float.fromhex("-0x1.32d2cce2dcd96p+6"),
    float.fromhex("0x1.50782fd0eb75ap+5"),
    float.fromhex("-0x1.e3006923c4138p+3"),
    float.fromhex("0x1.e3f08fc993c65p+1"),
)
COS64 = (
    float.fromhex("-0x1.3bd3cc9be45dep+4"),
    float.fromhex("0x1.03c1f081b5a52p+6"),
    float.fromhex("-0x1.55d3c7e3bfe56p+6"),
    float.fromhex("0x1.e1f50675b20b0p+5"),
    float.fromhex("-0x1.a6d1e238eb540p+4"),
    float.fromhex("0x1.f9c4adbc8c4d1p+2"),
    float.fromhex("-0x1.b0345d11259cap+0"),
)


def cos_sin_rest32(rest, low):
    """Return cosine and sine of the rest of a phase, exact enough to round to float32."""
    x = rest.astype(np.float64) * TURN_HIGH + low.astype(np.float64) * TURN_LOW
    z = x * x
    return polynomial(COS32, z) * z + 1.0, polynomial(SIN32, z) * x


def cos_sin_rest64(rest, low):
    """Return cosine and sine of the rest of a phase, each within one ulp of float64."""
    leading = rest.astype(np.float32).astype(np.float64)  # 24 bits: its products below are exact
    head = leading * TURN_HIGH
    left = (rest - leading.astype(np.int64)).astype(np.float64)
    tail = left * TURN_HIGH + low.astype(np.float64) * TURN_LOW
    x = head + tail
    head_squared = head * head
    tail_of_square = (head + x) * tail
    z = head_squared + tail_of_square

    c = polynomial(COS64[1:], z) * z * z + tail_of_square * COS64[0]
    leading_term = head_squared * COS64[0]
    c_sum = 1.0 + leading_term
    c = c_sum + ((1.0 - c_sum + leading_term) + c)

    s = polynomial(SIN64, z) * x + tail * SIN64_HIGH
    return c, head * SIN64_HIGH + s


def cos_sin(high, low, dtype):
    """Return cosine and sine of a phase, with the precision that the dtype of a table needs."""
    quarter, rest, low_rest = quadrant(high, low)
    formula = cos_sin_rest32 if dtype == np.float32 else cos_sin_rest64
    return turn_back(quarter, *formula(rest, low_rest))


# ------------------------------------------------------------------------------------------------
# Writing code in LLVM's terms: numbers, memory, loops, and work that is divided among threads.


def _operation(name, *, swapped=False):  # pragma: compiled
    """Return the method that applies an operation to two vectors, or to one and a number."""

    def apply(self, other):
        pair = self.value, self.value_of(other)
        real = issubclass(self.kind, np.floating)
        write = getattr(self.builder, "f" + name if real else name)
        return Vector(self.builder, write(*reversed(pair) if swapped else pair), self.kind)

    return apply


def _comparison(order):  # pragma: compiled
    """Return the method that compares two vectors of integers, or one with a number."""

    def compare(self, other):
        signed = self.kind == np.int64
        write = self.builder.icmp_signed if signed else self.builder.icmp_unsigned
        return Vector(self.builder, write(order, self.value, self.value_of(other)), np.bool_)

    return compare


def _some(element, count):  # pragma: compiled
    """Return the type of so many numbers; a single one is a scalar, because LLVM 20 cannot compile vectors of one."""
    return element if count == 1 else ir.VectorType(element, count)


class Vector:
    """One number or several in a register, for formulas that write code; they use it as they use an array."""

    __array_ufunc__ = None  # NumPy's numbers leave operations to this class

    def __init__(self, builder, value, kind):  # pragma: compiled
        self.builder, self.value, self.kind = builder, value, kind
        self.count = getattr(value.type, "count", 1)

    def value_of(self, other):  # pragma: compiled
        """Return the value of a vector, or of a number in every place."""
        if isinstance(other, Vector):
            return other.value
        number = self.kind(other).item()
        return ir.Constant(self.value.type, number if self.count == 1 else [number] * self.count)

    def where(self, yes, no):  # pragma: compiled
        """Return one vector where this one is true, another where it is not; one of them may be a number."""
        known = yes if isinstance(yes, Vector) else no
        chosen = self.builder.select(self.value, known.value_of(yes), known.value_of(no))
        return Vector(self.builder, chosen, known.kind)

    def __neg__(self):  # pragma: compiled
        return Vector(self.builder, self.builder.fneg(self.value), self.kind)

    def __invert__(self):  # pragma: compiled
        return Vector(self.builder, self.builder.not_(self.value), self.kind)

    def astype(self, kind):  # pragma: compiled
        """Return the numbers converted as NumPy converts them."""
        element, how = {
            (np.bool_, np.uint64): (ir.IntType(64), "zext"),
            (np.uint32, np.uint64): (ir.IntType(64), "zext"),
            (np.uint64, np.int64): (ir.IntType(64), "bitcast"),
            (np.int64, np.float32): (ir.FloatType(), "sitofp"),
            (np.int64, np.float64): (ir.DoubleType(), "sitofp"),
            (np.float32, np.float64): (ir.DoubleType(), "fpext"),
            (np.float64, np.float32): (ir.FloatType(), "fptrunc"),
            (np.float64, np.int64): (ir.IntType(64), "fptosi"),
        }[self.kind, kind]
        write = getattr(self.builder, how)
        return Vector(self.builder, write(self.value, _some(element, self.count)), kind)

    __add__ = __radd__ = _operation("add")
    __sub__, __rsub__ = _operation("sub"), _operation("sub", swapped=True)
    __mul__ = __rmul__ = _operation("mul")
    __floordiv__ = _operation("sdiv")  # of numbers that are not negative
    __and__, __or__, __xor__ = _operation("and_"), _operation("or_"), _operation("xor")
    __lshift__, __rshift__ = _operation("shl"), _operation("lshr")
    __eq__, __ne__ = _comparison("=="), _comparison("!=")
    __lt__, __le__, __gt__ = _comparison("<"), _comparison("<="), _comparison(">")


def _smaller(a, b):  # pragma: compiled
    """Return the smaller of two integers."""
    return (a < b).where(a, b)


def _size(number):  # pragma: compiled
    """Return an integer without its sign."""
    return (number < 0).where(0 - number, number)


def _integers(value, like):  # pragma: compiled
    """Return a vector of equal integers."""
    return ir.Constant(like.type, [value] * like.type.count)


def _lanes(builder, order, vector, other=None):  # pragma: compiled
    """Return some numbers of a vector, or of two after each other."""
    indices = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order))
    return builder.shuffle_vector(vector, other or ir.Constant(vector.type, ir.Undefined), indices)


def _everywhere(builder, number, kind):  # pragma: compiled
    """Return a vector of a type whose numbers are equal; the number itself if the type is that of one."""
    if kind == number.type:
        return number
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
    return _lanes(builder, [0] * kind.count, first)


class Variable:
    """A number or a vector that changes while the code runs."""

    def __init__(self, first):  # pragma: compiled
        self.builder, self.kind = first.builder, first.kind
        self.place = cgutils.alloca_once(self.builder, first.value.type)
        self.set(first)

    def get(self):  # pragma: compiled
        """Return its value here."""
        return Vector(self.builder, self.builder.load(self.place), self.kind)

    def set(self, vector):  # pragma: compiled
        """Give it another value."""
        self.builder.store(vector.value, self.place)


class Code:
    """A place in the code that is being written. Addresses are integers there, and nothing checks them."""

    def __init__(self, builder):  # pragma: compiled
        self.builder = builder

    def integer(self, value):  # pragma: compiled
        """Return a 64-bit integer, given a constant or a value of LLVM."""
        value = value if isinstance(value, ir.Value) else ir.IntType(64)(value)
        return Vector(self.builder, value, np.int64)

    def integer_at(self, address):  # pragma: compiled
        """Return the integer at an aligned address."""
        pointer = self.builder.inttoptr(address.value, ir.IntType(64).as_pointer())
        return self.integer(self.builder.load(pointer))

    def integers_at(self, address, count):  # pragma: compiled
        """Return integers that follow one another in memory."""
        return [self.integer_at(address + 8 * i) for i in range(count)]

    def load(self, address, kind):  # pragma: compiled
        """Return what is at any address: to say that it is aligned makes nothing faster."""
        return self.builder.load(self.builder.inttoptr(address.value, kind.as_pointer()), align=1)

    def store(self, value, address):  # pragma: compiled
        """Write a number or a vector to any address."""
        pointer = self.builder.inttoptr(address.value, value.type.as_pointer())
        self.builder.store(value, pointer, align=1)

    def stream(self, vector, address, item, piece):  # pragma: compiled
        """Write a vector past the caches, in aligned pieces of so many bytes."""
        builder = self.builder
        count = min(piece // item, vector.type.count)
        for first in range(0, vector.type.count, count):
            part = _lanes(builder, range(first, first + count), vector)
            place = builder.inttoptr((address + first * item).value, part.type.as_pointer())
            stored = builder.store(part, place, align=count * item)
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))

    def copy(self, source, target, count):  # pragma: compiled
        """Copy bytes between addresses."""
        byte = ir.IntType(8).as_pointer()
        target, source = (self.builder.inttoptr(each.value, byte) for each in (target, source))
        cgutils.raw_memcpy(self.builder, target, source, count.value, 1)

    def clear(self, target, count):  # pragma: compiled
        """Write zeros to so many bytes."""
        pointer = self.builder.inttoptr(target.value, ir.IntType(8).as_pointer())
        cgutils.memset(self.builder, pointer, count.value, 0)

    def when(self, condition):  # pragma: compiled
        """Begin code that runs if a condition holds."""
        return self.builder.if_then(condition.value)

    @contextmanager
    def each(self, count):  # pragma: compiled
        """Begin a loop over 0 .. count - 1."""
        with cgutils.for_range(self.builder, count.value) as loop:
            yield self.integer(loop.index)

    @contextmanager
    def steps(self, stop, step):  # pragma: compiled
        """Begin a loop over 0, step, 2 step ... below an integer."""
        bounds = self.integer(0).value, stop.value, step.value
        with cgutils.for_range_slice(self.builder, *bounds) as (i, _):
            yield self.integer(i)

    @contextmanager
    def until(self, done, stop):  # pragma: compiled
        """Begin a loop that ends when a variable has reached an integer."""
        check, body, end = (self.builder.append_basic_block() for _ in range(3))
        self.builder.branch(check)
        self.builder.position_at_end(check)
        self.builder.cbranch((done.get() < stop).value, body, end)
        self.builder.position_at_end(body)
        yield
        self.builder.branch(check)
        self.builder.position_at_end(end)

    @contextmanager
    def case(self, number, count):  # pragma: compiled
        """Begin a choice between cases 0 .. count - 1; the value begins the code of each."""
        builder = self.builder
        other, end = (builder.append_basic_block() for _ in range(2))
        switch = builder.switch(number.value, other)

        def cases():
            for i in range(count):
                block = builder.append_basic_block()
                switch.add_case(ir.IntType(64)(i), block)
                builder.position_at_end(block)
                yield i
                builder.branch(end)

        yield cases()
        builder.position_at_end(other)
        builder.unreachable()
        builder.position_at_end(end)


class Kernel:
    """Writes a function of the address of a call, whose work is divided into chunks.

    The address of the call and the number of a chunk are all that `chunk` is given. Numba's `numba_parallel_for` has
    threads work on the chunks; loops over `prange` are compiled to calls of it as well, but in ten times the time.
    """

    def __init__(self, builder):  # pragma: compiled
        self.module = builder.module
        self.code = Code(builder)

    @property
    def builder(self):  # pragma: compiled
        """The place where code is written now."""
        return self.code.builder

    @contextmanager
    def function(self, name, result, *kinds):  # pragma: compiled
        """Begin a function that only this kernel calls; the value is the function and its arguments."""
        outside = self.code
        function = ir.Function(self.module, ir.FunctionType(result, kinds), f"rotary.{name}")
        function.linkage = "internal"
        # LLVM would unroll loops and make copies of them, which takes it more time than they save.
        function.attributes.add("noinline")
        function.attributes.add("optsize")
        self.code = Code(ir.IRBuilder(function.append_basic_block("entry")))
        yield function, function.args
        self.code = outside

    def chunk_function(self):  # pragma: compiled
        """Write the function that does one chunk of a call."""
        word = ir.IntType(64)
        with self.function("chunk", ir.VoidType(), word, word) as (function, arguments):
            self.chunk(*map(self.code.integer, arguments))
            self.builder.ret_void()
        return function

    def chunk(self, call, number):
        """Write the work on one chunk."""
        raise NotImplementedError

    def task_function(self, chunk):  # pragma: compiled
        """Write the function that Numba's threads run for several chunks each, whose numbers are given as pointers."""
        word, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        kinds = byte.as_pointer(), word.as_pointer(), word.as_pointer(), byte
        with self.function("task", ir.VoidType(), *kinds) as (function, arguments):
            code, builder = self.code, self.builder
            pointers, counts, _, call = arguments
            first = code.integer(builder.ptrtoint(builder.load(pointers), word))
            with code.each(code.integer(builder.load(counts))) as i:
                builder.call(chunk, [builder.ptrtoint(call, word), (first + i).value])
            builder.ret_void()
        return function

    def run(self, call, chunks, team):  # pragma: compiled
        """Write the work on all chunks: in this thread if there is no address of `numba_parallel_for`."""
        chunk = self.chunk_function()
        task = self.task_function(chunk)
        code, builder = self.code, self.builder
        word, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        with builder.if_else((team == 0).value) as (alone, together):
            with alone, code.each(chunks) as i:
                builder.call(chunk, [call.value, i.value])
            with together:
                first = builder.inttoptr(word(0), byte)
                pointers, counts, steps = (
                    cgutils.alloca_once_value(builder, value)
                    for value in (first, chunks.value, word(1))
                )
                kind = ir.FunctionType(ir.VoidType(), [byte] * 5 + [word] * 3)
                addresses = [
                    builder.bitcast(each, byte) for each in (task, pointers, counts, steps)
                ]
                addresses.append(builder.inttoptr(call.value, byte))
                # There is one loop, one pointer that advances with it, and no more threads than chunks.
                sizes = [word(0), word(1), chunks.value]
                builder.call(builder.inttoptr(team.value, kind.as_pointer()), [*addresses, *sizes])


class Arguments:
    """The arguments of a function that Numba compiles, for a call that consists of integers."""

    def __init__(self, context, builder, signature, values):  # pragma: compiled
        self.builder, self.values, self.kinds = builder, values, signature.args
        self.arrays = {
            i: arrayobj.make_array(kind)(context, builder, values[i])
            for i, kind in enumerate(self.kinds)
            if isinstance(kind, types.Array)
        }

    def address(self, i):  # pragma: compiled
        """Return the address of an array's first element; Numba does not know that it refers to the memory."""
        return self.builder.ptrtoint(self.arrays[i].data, ir.IntType(64))

    def shape(self, i):  # pragma: compiled
        """Return the sizes of the axes of an array."""
        return cgutils.unpack_tuple(self.builder, self.arrays[i].shape, self.kinds[i].ndim)

    def block(self, entries):  # pragma: compiled
        """Write integers to a block on the stack and return its address."""
        word = ir.IntType(64)
        place = cgutils.alloca_once(self.builder, word, size=len(entries))
        for i, entry in enumerate(entries):
            self.builder.store(entry, self.builder.gep(place, [ir.IntType(32)(i)]))
        return self.builder.ptrtoint(place, word)


# ------------------------------------------------------------------------------------------------
# Filling tables.

# How many pairs of a row are computed at once: as many of these as it has. Those at the end are the last so many, some
# of them for the second time.
WIDTHS = (16, 4, 1)

# The entries of a call that fills a table. Row ``ROW + p`` is that of position p, given as
# `rotary.angles.phases.Multipliers`.
(
    FILL_LIMBS,  # address of the frequencies' limbs (heads, axes, limbs, pairs)
    FILL_OPPOSITE,  # address (heads, axes, pairs): 1 where a frequency is negative
    FILL_DIGITS,  # address of the positions' digits (axes, positions, 3)
    FILL_SHIFT,  # address (axes, positions)
    FILL_NEGATIVE,  # address (axes, positions): 1 where a position is negative
    FILL_FACTOR,  # the bits of the attention factor
    FILL_TABLE,  # address of the table (2, heads, rows, pairs)
    FILL_HEADS,
    FILL_AXES,
    FILL_LIMB_COUNT,
    FILL_PAIRS,
    FILL_POSITIONS,
    FILL_ROWS,  # of the whole table
    FILL_ROW,  # the first row that is filled
    FILL_CHUNKS,
    FILL_TEAM,
    FILL_CALL,
) = range(17)


class Fill(Kernel):
    """Writes the kernel that fills tables of one dtype."""

    def __init__(self, builder, dtype):  # pragma: compiled
        super().__init__(builder)
        self.dtype = dtype
        self.item = np.dtype(dtype).itemsize

    def write(self, address):  # pragma: compiled
        """Write the kernel."""
        call = self.code.integer(address)
        chunks, team = (self.code.integer_at(call + 8 * i) for i in (FILL_CHUNKS, FILL_TEAM))
        self.run(call, chunks, team)

    def chunk(self, call, number):  # pragma: compiled
        """Fill the rows of some positions."""
        code, item = self.code, self.item
        entry = code.integers_at(call, FILL_CALL)
        count, pairs, chunks = entry[FILL_POSITIONS], entry[FILL_PAIRS], entry[FILL_CHUNKS]
        first, last = ((part * count) // chunks for part in (number, number + 1))
        row_size = pairs * item
        head_size = entry[FILL_ROWS] * row_size
        axes_size = entry[FILL_AXES] * pairs
        with code.each(last - first) as i, code.each(entry[FILL_HEADS]) as head:
            place = first + i
            cosine = entry[FILL_TABLE] + head * head_size + (entry[FILL_ROW] + place) * row_size
            sine = cosine + entry[FILL_HEADS] * head_size
            limbs = entry[FILL_LIMBS] + head * axes_size * entry[FILL_LIMB_COUNT] * 4
            opposite = entry[FILL_OPPOSITE] + head * axes_size * 8
            self.row(entry, place, limbs, opposite, cosine, sine)

    def row(self, entry, place, limbs, opposite, cosine, sine):  # pragma: compiled
        """Write cosine and sine at one position, times the attention factor."""
        code, left = self.code, entry[FILL_PAIRS]
        for width in WIDTHS:
            stop = (left < width).where(code.integer(0), left)
            last = left - width
            with code.steps(stop, code.integer(width)) as i:
                pair = _smaller(i, last)
                found = self.angles(entry, place, limbs, opposite, pair, width)
                for address, numbers in zip((cosine, sine), found, strict=True):
                    code.store(numbers.value, address + pair * self.item)
            left = left - stop

    def angles(self, entry, place, limbs, opposite, pair, width):  # pragma: compiled
        """Return cosine and sine of some pairs at one position."""
        code, builder = self.code, self.builder
        zero = Vector(builder, ir.Constant(_some(ir.IntType(64), width), None), np.uint64)
        total = [Variable(zero) for _ in range(2)]
        with code.each(entry[FILL_AXES]) as axis:
            own = axis * entry[FILL_POSITIONS] + place
            opposed = opposite + (axis * entry[FILL_PAIRS] + pair) * 8
            opposed = Vector(builder, code.load(opposed, zero.value.type), np.uint64)
            negative = code.integer_at(entry[FILL_NEGATIVE] + own * 8).value
            negative = Vector(builder, _everywhere(builder, negative, zero.value.type), np.uint64)
            high, low = (each.get() for each in total)
            more_high, more_low = self.phase(entry, own, axis, limbs, pair, width)
            found = add_signed(high, low, more_high, more_low, opposed ^ negative)
            for variable, value in zip(total, found, strict=True):
                variable.set(value)
        factor = builder.bitcast(entry[FILL_FACTOR].value, ir.DoubleType())
        kind = _some(factor.type, width)
        factor = Vector(builder, _everywhere(builder, factor, kind), np.float64)
        high, low = (each.get() for each in total)
        scaled = [found * factor for found in cos_sin(high, low, self.dtype)]
        return scaled if self.dtype == np.float64 else [each.astype(np.float32) for each in scaled]

    def phase(self, entry, own, axis, limbs, pair, width):  # pragma: compiled
        """Return the phase of some pairs on one axis as two words.

        Upper digits that are zero, as most positions have them, are not multiplied.
        """
        code, builder, pairs = self.code, self.builder, entry[FILL_PAIRS]
        digits = entry[FILL_DIGITS] + own * (8 * DIGITS)
        used = code.integer(1)
        for place in range(1, DIGITS):
            used = (code.integer_at(digits + 8 * place) != 0).where(place + 1, used)
        least = axis * entry[FILL_LIMB_COUNT] + code.integer_at(entry[FILL_SHIFT] + own * 8)
        zero = Vector(builder, ir.Constant(_some(ir.IntType(64), width), None), np.uint64)
        phase = [Variable(zero) for _ in range(PHASE_LIMBS)]
        with code.each(used) as place:
            # Two factors of 32 bits are multiplied faster than two of 64.
            digit = builder.trunc(code.integer_at(digits + place * 8).value, ir.IntType(32))
            digit = _everywhere(builder, digit, _some(digit.type, width))
            digit = Vector(builder, digit, np.uint32).astype(np.uint64)
            first = limbs + ((least + (DIGITS - 1) - place) * pairs + pair) * 4
            parts = []
            for _ in range(PHASE_LIMBS):
                words = code.load(first, _some(ir.IntType(32), width))
                parts.append(Vector(builder, words, np.uint32).astype(np.uint64))
                first = first + pairs * 4
            found = add_product(digit, parts, [each.get() for each in phase])
            for variable, value in zip(phase, found, strict=True):
                variable.set(value)
        return top_words([each.get() for each in phase])


@intrinsic
def run_fill(
    typing_context,
    limbs,
    opposite,
    digits,
    shift,
    negative,
    factor,
    table,
    row,
    chunks,
    team,
):  # pragma: compiled
    """Make the call of the arguments and do it."""
    dtype = np.float32 if table.dtype == types.float32 else np.float64

    def generate(context, builder, signature, values):
        given = Arguments(context, builder, signature, values)
        heads, axes, limb_count, pairs = given.shape(0)
        row, chunks, team = values[7:]
        call = given.block(
            [
                *(given.address(i) for i in range(5)),
                builder.bitcast(values[5], ir.IntType(64)),
                given.address(6),
                heads,
                axes,
                limb_count,
                pairs,
                given.shape(3)[1],
                given.shape(6)[2],
                row,
                chunks,
                team,
            ]
        )
        Fill(builder, dtype).write(call)
        return context.get_dummy_value()

    arguments = limbs, opposite, digits, shift, negative, factor, table, row, chunks, team
    return types.void(*arguments), generate


def fill_table(  # pragma: compiled
    limbs, opposite, digits, shift, negative, factor, table, row, chunks, team
):
    """Fill a table (2, heads, rows, pairs) from one of its rows on; see `FILL_CALL`."""
    run_fill(limbs, opposite, digits, shift, negative, factor, table, row, chunks, team)


# ------------------------------------------------------------------------------------------------
# What a rotation is given.

# The dtypes of arrays. Numba does not compute with the 16-bit ones.
DTYPES = ("float16", "bfloat16", "float32", "float64")

# The entries of a row of `LAYOUT`: the memory layout of one array and its result, in bytes except for counts.
(
    TOKENS,  # batch times length
    LENGTH,
    HEADS,
    X_BATCH,
    X_TOKEN,
    X_HEAD,
    OUT_BATCH,
    OUT_TOKEN,
    OUT_HEAD,
    BEFORE,  # of the channels of a row before the rotated ones
    AFTER,
    MOVED,  # whether the layout of the pairs changes
    X_LOW,  # first and last address of the array, counted from its first element
    X_HIGH,
    OUT_LOW,
    OUT_HIGH,
    GEOMETRY,
) = range(17)

# The entries of a call that rotates one array, or two by the same table. All memory is the caller's.
(
    LAYOUT,  # address of the arrays' memory layouts, one row for each
    ARRAYS,  # how many arrays there are
    X,  # address of the first element of the first array
    OUT,  # the same of its result, which may be the array itself
    X2,  # the same of the second array, if there is one
    OUT2,
    TABLE,  # address of cosine and sine (2, heads or 1, rows, pairs)
    TABLES,  # how many tables there are: one for each head, or 1
    ROWS,
    PAIRS,
    INDEX,  # address of int64 (batch or 1, sequence or 1), see `STEP`
    INDEX_BATCH,  # its sizes
    INDEX_LENGTH,
    START,  # the position of the first row of the table
    STOP,  # all positions must be below this one
    STEP,  # token s of batch b has position ``index[b, s] + STEP * s``
    INVERSE,  # 1 rotates back, 0 forward
    DISJOINT,  # 1 if the caller has checked that no result overlaps another array or result
    ASIDE,  # address of memory for one row in each chunk, if the layout of the pairs changes
    CHUNKS,  # into how many parts the tokens are divided
    TEAM,  # address of Numba's `numba_parallel_for`, for a thread for each chunk; 0 for this thread alone
    CALL,
) = range(22)

# The answers of a kernel that rotates; it has written nothing unless it is DONE.
DONE, BEYOND_TABLE, OVERLAP = range(3)


# ------------------------------------------------------------------------------------------------
# Channels as numbers.


# The most channels of bfloat16 that are converted one by one; more are converted as words of two, in less time.
FEW = 8


class Channels:
    """Converts the channels of a dtype to numbers to compute with, and back.

    Numbers are vectors of float64 or float32. Channels of bfloat16 are in two vectors if they are not few: those with
    even numbers, and those with odd ones, each of which is half of a word.
    """

    def __init__(self, builder, dtype):  # pragma: compiled
        self.builder, self.dtype = builder, dtype
        self.number = ir.DoubleType() if dtype == "float64" else ir.FloatType()
        self.stored = ir.IntType(16) if dtype in ("float16", "bfloat16") else self.number

    def divided(self, numbers):  # pragma: compiled
        """Return a vector of numbers, one for each channel, divided as those of channels are."""
        count = numbers.type.count
        if self.dtype != "bfloat16" or count <= FEW:
            return [numbers]
        return [_lanes(self.builder, range(first, count, 2), numbers) for first in (0, 1)]

    def numbers(self, stored):  # pragma: compiled
        """Return channels as numbers."""
        builder, count = self.builder, stored.type.count
        if self.dtype == "bfloat16":
            # The bits of a bfloat16 are the upper half of a float32's.
            if count <= FEW:
                words = builder.zext(stored, ir.VectorType(ir.IntType(32), count))
                found = [builder.shl(words, _integers(16, words))]
            else:
                words = builder.bitcast(stored, ir.VectorType(ir.IntType(32), count // 2))
                even = builder.shl(words, _integers(16, words))
                found = [even, builder.and_(words, _integers(0xFFFF0000, words))]
            kind = ir.VectorType(ir.FloatType(), words.type.count)
            return [builder.bitcast(bits, kind) for bits in found]
        if self.dtype == "float16" and HALF_IN_HARDWARE:
            halves = builder.bitcast(stored, ir.VectorType(ir.HalfType(), count))
            return [builder.fpext(halves, ir.VectorType(ir.FloatType(), count))]
        return [self._from_half(stored)] if self.dtype == "float16" else [stored]

    def channels(self, numbers):  # pragma: compiled
        """Return numbers as channels: rounded once, ties to even; a NaN stays one."""
        builder, (first, *others) = self.builder, numbers
        halves = ir.VectorType(ir.IntType(16), first.type.count * len(numbers))
        if self.dtype == "bfloat16":
            first, *others = map(self._rounded_to_upper_half, numbers)
            low = builder.lshr(first, _integers(16, first))
            if not others:
                return builder.trunc(low, halves)
            high = builder.and_(others[0], _integers(0xFFFF0000, first))
            return builder.bitcast(builder.or_(low, high), halves)
        if self.dtype == "float16" and HALF_IN_HARDWARE:
            kind = ir.VectorType(ir.HalfType(), first.type.count)
            return builder.bitcast(builder.fptrunc(first, kind), halves)
        return self._to_half(first) if self.dtype == "float16" else first

    def _rounded_to_upper_half(self, number):  # pragma: compiled
        """Return the bits of float32 numbers whose upper halves are the nearest bfloat16.

        The processor's own conversion flushes subnormal numbers to zero, and to look for them costs what it gains.
        """
        builder = self.builder
        bits = builder.bitcast(number, ir.VectorType(ir.IntType(32), number.type.count))
        last = builder.and_(bits, _integers(0x10000, bits))
        odd = builder.icmp_unsigned("!=", last, _integers(0, bits))
        up = builder.select(odd, _integers(0x8000, bits), _integers(0x7FFF, bits))
        # A NaN stays one, because `quiet` has left its lower half empty.
        return builder.add(bits, up)

    def quiet(self, numbers):  # pragma: compiled
        """Return numbers of a table as they are, but a NaN without its lower half if channels are bfloat16.

        The lower half of a NaN that is computed is then empty as well: it is that of a channel or of the table.
        """
        if self.dtype != "bfloat16":
            return numbers
        builder = self.builder
        bits = builder.bitcast(numbers, ir.VectorType(ir.IntType(32), numbers.type.count))
        nan = builder.or_(builder.and_(bits, _integers(0xFFFF0000, bits)), _integers(1 << 22, bits))
        is_number = builder.fcmp_ordered("ord", numbers, numbers)
        return builder.bitcast(builder.select(is_number, bits, nan), numbers.type)

    def _from_half(self, stored):  # pragma: compiled
        """Return float16 as float32 without the processor's conversion."""
        builder, count = self.builder, stored.type.count
        words, floats = (ir.VectorType(kind, count) for kind in (ir.IntType(32), ir.FloatType()))
        bits = builder.zext(stored, words)
        size = builder.shl(builder.and_(bits, _integers(0x7FFF, bits)), _integers(13, bits))
        # The exponent's bias differs by 112; a product gets subnormal numbers right as well.
        bias = ir.Constant(floats, [2.0**112] * count)
        wide = builder.bitcast(builder.fmul(builder.bitcast(size, floats), bias), words)
        special = builder.icmp_unsigned(">=", size, _integers(0x7C00 << 13, size))
        wide = builder.select(special, builder.or_(size, _integers(0x7F800000, size)), wide)
        sign = builder.shl(builder.and_(bits, _integers(0x8000, bits)), _integers(16, bits))
        return builder.bitcast(builder.or_(wide, sign), floats)

    def _to_half(self, number):  # pragma: compiled
        """Return float32 rounded to float16 without the processor's conversion."""
        builder, count = self.builder, number.type.count
        words, halves = (ir.VectorType(ir.IntType(size), count) for size in (32, 16))
        bits = builder.bitcast(number, words)
        size = builder.and_(bits, _integers(0x7FFFFFFF, bits))
        shifted = builder.lshr(size, _integers(13, bits))
        tie = builder.and_(shifted, _integers(1, bits))
        half = builder.add(builder.add(size, _integers(0xFFF - (112 << 23), bits)), tie)
        half = builder.lshr(half, _integers(13, bits))
        # Subnormal: a sum with 0.5 rounds to multiples of 2**-24, which are the float16's.
        middle = ir.Constant(number.type, [0.5] * count)
        small = builder.bitcast(builder.fadd(builder.bitcast(size, number.type), middle), words)
        small = builder.sub(small, _integers(0x3F000000, bits))
        nan = builder.or_(builder.and_(shifted, _integers(0x3FF, bits)), _integers(0x7E00, bits))
        infinity = _integers(0x7C00, bits)
        for order, bound, instead in (
            ("<", 0x38800000, small),
            (">=", 0x47800000, infinity),
            (">", 0x7F800000, nan),
        ):
            there = builder.icmp_unsigned(order, size, _integers(bound, bits))
            half = builder.select(there, instead, half)
        sign = builder.and_(builder.lshr(bits, _integers(16, bits)), _integers(0x8000, bits))
        return builder.trunc(builder.or_(half, sign), halves)


# ------------------------------------------------------------------------------------------------
# Rotating channel pairs.

# Bytes of a cache line: as many channels are read at once.
LINE = 64
# Bytes that are streamed at once if whole cache lines are not possible: the processor joins the pieces of a line if
# they come in their order.
PIECE = 16
# How many pairs of a row have their cosine and sine in registers.
HELD = 64


class Run(NamedTuple):
    """Rows that are rotated by the same angles, such as the heads of a token.

    Attributes
    ----------
    x, out : Vector
        The addresses of the first row and of its result.
    x_step, out_step : Vector
        The distances from one row to the next.
    count : Vector
        How many rows there are.
    second : Vector
        The distance from the first to the second channel of a pair in the half layout.
    pairs : Vector
        How many pairs are rotated.
    cosine, sine : Vector
        The addresses of the angles.
    """

    x: Any
    out: Any
    x_step: Any
    out_step: Any
    count: Any
    second: Any
    pairs: Any
    cosine: Any
    sine: Any


class Rotation(Kernel):
    """Writes the kernel that rotates arrays of one dtype into one layout; see the drawing above.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
    dtype : str
    halves : bool
        Whether the pairs of the result are in two halves of a row; else their channels are side by side.
    streams : bool
        Whether results are written past the caches.
    """

    # How many further arguments the function of rows has.
    MORE = 0

    def __init__(self, builder, dtype, *, halves, streams):  # pragma: compiled
        super().__init__(builder)
        self.dtype, self.halves, self.streams = dtype, halves, streams
        self.item = {"float64": 8, "float32": 4}.get(dtype, 2)
        self.table_item = 8 if dtype == "float64" else 4
        self.line = LINE // self.item
        # What is called by code that is written after it.
        self.function_of_rows: Any = None
        self.function_of_walk: Any = None

    @property
    def channels(self):  # pragma: compiled
        """What converts channels, in the place where code is written now."""
        return Channels(self.builder, self.dtype)

    # --------------------------------------------------------------------------------------------
    # The walk.

    def blocks(self, heads, x_head, x_token):  # pragma: compiled
        """Choose the order of the walk: return how many tokens, and how many of their heads, make a block.

        The walk goes through a block token by token, and through the heads of each. If the tokens of a head lie
        closer together than the heads of a token, as in (batch, heads, sequence, channels), so many tokens have
        their rows of the table in a core's own cache, and so many heads share the reading of one; more heads are
        more streams than the processor prefetches.
        """
        integer, heads_at_once = self.code.integer, 4 if self.item == 8 else 8
        by_head = (heads == 1) | (_size(x_head) > _size(x_token))
        return by_head.where(integer(512), 1), by_head.where(integer(heads_at_once), heads)

    def walk_function(self):  # pragma: compiled
        """Write the function that rotates tokens first .. last - 1 of an array, counted through batch and sequence."""
        word = ir.IntType(64)
        with self.function("walk", ir.VoidType(), *[word] * 7) as (function, arguments):
            self.walk(*map(self.code.integer, arguments))
            if self.streams:
                # What is streamed must be in memory before other threads read it.
                self.builder.fence("seq_cst")
            self.builder.ret_void()
        return function

    def walk(self, call, layout, x_first, out_first, first, last, aside):  # pragma: compiled
        """Rotate some tokens of an array."""
        code, zero = self.code, self.code.integer(0)
        entry, own = code.integers_at(call, CALL), code.integers_at(layout, GEOMETRY)
        pairs, length, heads = entry[PAIRS], own[LENGTH], own[HEADS]
        second = pairs * self.item
        row_size = pairs * self.table_item
        one_table = entry[ROWS] * row_size
        sine_table = entry[TABLES] * one_table
        own_table = (entry[TABLES] > 1).where(one_table, zero)
        index_step = (entry[INDEX_LENGTH] > 1).where(8, zero)
        index_batch = (entry[INDEX_BATCH] > 1).where(entry[INDEX_LENGTH] * 8, zero)
        copies = (own[BEFORE] + own[AFTER] > 0) & (x_first != out_first)
        moves = own[MOVED] != 0
        # Rows are rotated one by one if each needs more than its rotation.
        one_by_one = copies | moves | (entry[TABLES] > 1)
        places = out_first | own[OUT_BATCH] | own[OUT_TOKEN] | own[OUT_HEAD] | own[BEFORE] | second
        piece = self.piece(places) if self.streams else None
        some_tokens, some_heads = self.blocks(heads, own[X_HEAD], own[X_TOKEN])

        done = Variable(first)
        with code.until(done, last):
            batch = done.get() // length
            row = done.get() - batch * length
            tokens = _smaller(_smaller(length - row, last - done.get()), some_tokens)
            done.set(done.get() + tokens)
            with code.steps(heads, some_heads) as head, code.each(tokens) as i:
                token = row + i
                index = entry[INDEX] + batch * index_batch + token * index_step
                position = code.integer_at(index) + entry[STEP] * token
                cosine = entry[TABLE] + (position - entry[START]) * row_size + head * own_table
                x = x_first + batch * own[X_BATCH] + token * own[X_TOKEN] + head * own[X_HEAD]
                out = self.row_of(out_first, own, batch, token, head)
                rows = _smaller(heads - head, some_heads)
                run = Run(
                    x + own[BEFORE],
                    out + own[BEFORE],
                    own[X_HEAD],
                    own[OUT_HEAD],
                    one_by_one.where(1, rows),
                    second,
                    pairs,
                    cosine,
                    cosine + sine_table,
                )
                with code.each(one_by_one.where(rows, 1)) as j:
                    this = run._replace(
                        x=run.x + j * run.x_step,
                        out=run.out + j * run.out_step,
                        cosine=run.cosine + j * own_table,
                        sine=run.sine + j * own_table,
                    )
                    with code.when(copies):
                        self.copy_others(this, own)
                    with code.when(moves):
                        self.rearrange(this, aside)
                    this = this._replace(x=moves.where(aside, this.x))
                    self.rotate(this, entry[INVERSE], piece)

    def row_of(self, out_first, own, batch, token, head):  # pragma: compiled
        """Return where the result of a row is."""
        return out_first + batch * own[OUT_BATCH] + token * own[OUT_TOKEN] + head * own[OUT_HEAD]

    def piece(self, places):  # pragma: compiled
        """Return in pieces of how many bytes results are streamed; 0 for not at all.

        An unaligned streaming store would end the process.
        """
        integer = self.code.integer
        lines, pieces = ((places & (size - 1)) == 0 for size in (LINE, PIECE))
        return lines.where(LINE, pieces.where(PIECE, integer(0)))

    def copy_others(self, run, own):  # pragma: compiled
        """Copy the channels of a row that are not rotated."""
        size = run.second * 2
        self.code.copy(run.x - own[BEFORE], run.out - own[BEFORE], own[BEFORE])
        self.code.copy(run.x + size, run.out + size, own[AFTER])

    def rearrange(self, run, aside):  # pragma: compiled
        """Copy the pairs of a row from the other layout into this one."""
        code, done = self.code, self.code.integer(0)
        for width in dict.fromkeys((self.line, 8, 1)):
            rounds = (run.pairs - done) // width
            with code.each(rounds) as i:
                first = (done + i * width) * self.item
                source, target = (run.x, aside) if self.halves else (aside, run.x)
                mixed, lower = source + first * 2, target + first
                vector, twice = (
                    ir.VectorType(self.channels.stored, count) for count in (width, 2 * width)
                )
                if self.halves:
                    both = code.load(mixed, twice)
                    for k, place in enumerate((lower, lower + run.second)):
                        code.store(_lanes(self.builder, range(k, 2 * width, 2), both), place)
                else:
                    a, b = (code.load(place, vector) for place in (lower, lower + run.second))
                    order = [lane for pair in range(width) for lane in (pair, width + pair)]
                    code.store(_lanes(self.builder, order, a, b), mixed)
            done = done + rounds * width

    # --------------------------------------------------------------------------------------------
    # The rows of a run.

    def rotate(self, run, inverse, piece):  # pragma: compiled
        """Rotate the rows of a run; long ones in parts, of which the last has at least a line's pairs."""
        code, done = self.code, Variable(self.code.integer(0))
        with code.until(done, run.pairs):
            first = done.get()
            left = run.pairs - first
            part = (left < HELD + self.line).where(HELD // 2, code.integer(HELD))
            part = (left <= HELD).where(left, part)
            done.set(first + part)
            channels = first * (self.item if self.halves else 2 * self.item)
            this = run._replace(
                x=run.x + channels,
                out=run.out + channels,
                pairs=part,
                cosine=run.cosine + first * self.table_item,
                sine=run.sine + first * self.table_item,
            )
            piece = code.integer(0) if piece is None else piece
            arguments = [each.value for each in (*this, inverse, piece, *self.more_of(this))]
            self.builder.call(self.function_of_rows, arguments)

    def more_of(self, run):  # pragma: compiled
        """Return further arguments of the function of rows."""
        return ()

    def take(self, more):  # pragma: compiled
        """Take further arguments of the function of rows."""

    def rows_function(self):  # pragma: compiled
        """Write the function that rotates the rows of a run, of at most `HELD` pairs each.

        Within the loops of the walk LLVM would advance the addresses of every case at every token.
        """
        word = ir.IntType(64)
        kinds = [word] * (len(Run._fields) + 2 + self.MORE)
        with self.function(f"rows_of_{self.dtype}", ir.VoidType(), *kinds) as (function, arguments):
            given = list(map(self.code.integer, arguments))
            run, cases = Run(*given[: len(Run._fields)]), self.cases()
            inverse, piece, *more = given[len(Run._fields) :]
            self.take(more)
            number = self.code.integer(0)
            for i, widths in enumerate(cases[:-1]):
                number = (run.pairs > sum(widths)).where(i + 1, number)
            with self.code.case(number, len(cases)) as each:
                for i in each:
                    self.rotate_rows(run, cases[i], inverse, piece)
            self.builder.ret_void()
        return function

    def cases(self):  # pragma: compiled
        """Return how rows are divided into blocks, as the numbers of their pairs, by the number of pairs of the row.

        The last block is at the end of the row. If the row has fewer pairs, it overlaps the block before, and its
        first pairs are rotated twice. Rows of 16-bit channels, whose conversion takes time, end with smaller blocks.
        """
        line = self.line
        small = [line >> k for k in range(line.bit_length() - 2, 0, -1)]
        cases = [(1,), *(blocks for width in small for blocks in ((width,), (width, width)))]
        lines = [(line,) * times for times in range(1, HELD // line + 1)]
        if self.item == 2:
            half, quarter = line // 2, line // 4
            cases.insert(-1, (half, quarter))
            lines[1:1] = [(line, quarter), (line, half), (line, half, quarter)]
        return cases + lines

    def rotate_rows(self, run, widths, inverse, piece):  # pragma: compiled
        """Rotate rows that are divided in one way."""
        code = self.code
        firsts = [code.integer(sum(widths[:i])) for i in range(len(widths) - 1)]
        firsts.append(run.pairs - widths[-1])
        angles = [
            self.angles(run, first, width, inverse)
            for first, width in zip(firsts, widths, strict=True)
        ]
        if self.halves:
            places = [first * self.item for first in firsts]
            places += [place + run.second for place in places]
        else:
            places = [first * (2 * self.item) for first in firsts]
        counts = [width * (1 if self.halves else 2) for width in widths]
        blocks = list(zip(places, counts * (2 if self.halves else 1), strict=True))
        # Each way of writing has a loop of its own: LLVM would join the stores of branches to ordinary ones.
        ordinarily = code.integer(1)
        for size in self.streamed_pieces(widths):
            with code.when(piece == size):
                self.each_row(run, blocks, angles, size)
            ordinarily = (piece == size).where(0, ordinarily)
        with code.when(ordinarily == 1):
            self.each_row(run, blocks, angles, 0)

    def streamed_pieces(self, widths):  # pragma: compiled
        """Return in which pieces rows that are divided in one way can be streamed."""
        if not self.streams or widths[0] < self.line:
            return ()
        whole = len(set(widths)) == 1
        # LLVM fuses storing with the rounding of float16, or of few channels, which makes it an ordinary store.
        pieces = whole or (self.dtype != "float16" and widths[-1] > FEW)
        return (*([LINE] if whole else []), *([PIECE] if pieces else []))

    def each_row(self, run, blocks, angles, piece):  # pragma: compiled
        """Rotate rows; a whole row is read before it is written."""
        code = self.code
        with code.each(run.count) as i:
            x, out = run.x + i * run.x_step, run.out + i * run.out_step
            read = [self.channels.numbers(self.read(x + place, count)) for place, count in blocks]
            places = [place for place, _ in blocks]
            results = self.rotated(self.before_rotation(run, i, places, read), angles)
            for result, (place, _) in zip(results, blocks, strict=True):
                if piece:
                    code.stream(result, out + place, self.item, piece)
                else:
                    code.store(result, out + place)

    def read(self, address, count):  # pragma: compiled
        """Return channels that follow one another in memory."""
        return self.code.load(address, ir.VectorType(self.channels.stored, count))

    def before_rotation(self, run, i, places, read):  # pragma: compiled
        """Return the numbers of row i of a run as they are rotated, given those at its places."""
        return read

    def angles(self, run, first, width, inverse):  # pragma: compiled
        """Return cosines and sines of some pairs, divided as the numbers that they are multiplied with."""
        builder, channels = self.builder, self.channels
        number = channels.number
        kind = ir.VectorType(number, width)
        cosine, sine = (
            channels.quiet(self.code.load(place + first * self.table_item, kind))
            for place in (run.cosine, run.sine)
        )
        sign = builder.select((inverse == 0).value, number(1), number(-1))
        sine = builder.fmul(_everywhere(builder, sign, kind), sine)
        if self.halves:
            both = channels.divided(cosine), channels.divided(sine)
            return list(zip(*both, strict=True))
        if self.dtype == "bfloat16" and 2 * width > FEW:
            return [(cosine, sine)]
        twice = [pair for pair in range(width) for _ in range(2)]
        cosine, sine = (_lanes(builder, twice, each) for each in (cosine, sine))
        signs = ir.Constant(sine.type, [-1.0, 1.0] * width)
        return [(cosine, builder.fmul(sine, signs))]

    def rotated(self, read, angles):  # pragma: compiled
        """Return the channels of a row rotated, given their numbers, in the same order."""
        channels = self.channels
        if not self.halves:
            return [
                channels.channels(self.rotated_side_by_side(numbers, *own))
                for numbers, (own,) in zip(read, angles, strict=True)
            ]
        count = len(angles)
        lower, upper = [], []
        for first, second, own in zip(read[:count], read[count:], angles, strict=True):
            pairs = [
                self.rotated_pairs(a, b, cosine, sine)
                for a, b, (cosine, sine) in zip(first, second, own, strict=True)
            ]
            lower.append(channels.channels([a for a, _ in pairs]))
            upper.append(channels.channels([b for _, b in pairs]))
        return lower + upper

    def rotated_side_by_side(self, numbers, cosine, sine):  # pragma: compiled
        """Return pairs rotated whose channels are side by side: (a, b) cos + (b, a) (-sin, sin)."""
        if len(numbers) > 1:
            first, second = numbers
            return list(self.rotated_pairs(first, second, cosine, sine))
        builder, (mixed,) = self.builder, numbers
        swapped = _lanes(builder, [i ^ 1 for i in range(mixed.type.count)], mixed)
        return [builder.fadd(builder.fmul(mixed, cosine), builder.fmul(swapped, sine))]

    def rotated_pairs(self, a, b, cosine, sine):  # pragma: compiled
        """Return the first and the second channels of pairs rotated."""
        builder = self.builder
        first = builder.fsub(builder.fmul(a, cosine), builder.fmul(b, sine))
        return first, builder.fadd(builder.fmul(b, cosine), builder.fmul(a, sine))

    # --------------------------------------------------------------------------------------------
    # The call.

    def write_kernel(self, address):  # pragma: compiled
        """Write the kernel and return its answer."""
        code = self.code
        call = code.integer(address)
        answer = code.integer(self.builder.call(self.check_function(), [call.value]))
        self.function_of_rows = self.rows_function()
        self.function_of_walk = self.walk_function()
        chunks, team = (code.integer_at(call + 8 * i) for i in (CHUNKS, TEAM))
        with code.when(answer == DONE):
            self.run(call, chunks, team)
        return answer.value

    def chunk(self, call, number):  # pragma: compiled
        """Rotate some tokens of each array."""
        code = self.code
        entry = code.integers_at(call, CALL)
        aside = entry[ASIDE] + number * entry[PAIRS] * (2 * self.item)
        with code.each(entry[ARRAYS]) as i:
            layout = entry[LAYOUT] + i * (8 * GEOMETRY)
            tokens = code.integer_at(layout + 8 * TOKENS)
            first, last = ((part * tokens) // entry[CHUNKS] for part in (number, number + 1))
            x, out = ((i == 0).where(entry[a], entry[b]) for a, b in ((X, X2), (OUT, OUT2)))
            arguments = call, layout, x, out, first, last, aside
            self.builder.call(self.function_of_walk, [each.value for each in arguments])

    def check_function(self):  # pragma: compiled
        """Write the function that checks a call and returns the answer."""
        word = ir.IntType(64)
        with self.function("check", word, word) as (function, (call,)):
            code = self.code
            entry = code.integers_at(code.integer(call), CALL)
            answer = Variable(code.integer(DONE))
            with code.when(entry[DISJOINT] == 0), code.when(self.overlap(entry)):
                answer.set(code.integer(OVERLAP))
            with code.each(entry[ARRAYS]) as i:
                length = code.integer_at(entry[LAYOUT] + i * (8 * GEOMETRY) + 8 * LENGTH)
                with code.when(self.beyond_table(entry, length)):
                    answer.set(code.integer(BEYOND_TABLE))
            self.builder.ret(answer.get().value)
        return function

    def beyond_table(self, entry, length):  # pragma: compiled
        """Return whether the table has no row for a position of a sequence of so many tokens."""
        code = self.code
        start, stop, index = entry[START], entry[STOP], entry[INDEX]
        low, high = (Variable(code.integer_at(index)) for _ in range(2))
        with code.each(entry[INDEX_BATCH] * entry[INDEX_LENGTH]) as i:
            position = code.integer_at(index + i * 8)
            low.set(_smaller(low.get(), position))
            high.set((high.get() < position).where(position, high.get()))
        last = entry[STEP] * (length - 1)
        beyond = (low.get() < start) | (high.get() > stop - 1 - last)
        return beyond | (last > stop - 1 - start)

    def overlap(self, entry):  # pragma: compiled
        """Return whether a result overlaps another array or result; it may be its own array."""
        code = self.code
        several = entry[ARRAYS] > 1
        spans = []
        for number, (x, out) in enumerate(((entry[X], entry[OUT]), (entry[X2], entry[OUT2]))):
            # A layout that is not there is not read.
            skipped = several.where(8 * GEOMETRY * number, code.integer(0))
            own = code.integers_at(entry[LAYOUT] + skipped, GEOMETRY)
            same = x == out
            for k in range(X_BATCH, X_BATCH + 3):
                same = same & (own[k] == own[k + 3])
            span = (x + own[X_LOW], x + own[X_HIGH]), (out + own[OUT_LOW], out + own[OUT_HIGH])
            spans.append((*span, same))

        def meet(one, other):
            return (one[0] < other[1]) & (other[0] < one[1])

        (x, out, same), (x2, out2, same2) = spans
        own = meet(out, x) & ~same
        others = meet(out2, x2) & ~same2 | meet(out, x2) | meet(out2, x) | meet(out, out2)
        return own | (several & others)


@intrinsic(prefer_literal=True)
def run_rotation(typing_context, dtype, halves, streams, call):  # pragma: compiled
    """Rotate the arrays of a call, given its address; the others are numbers known to the compiler."""

    def generate(context, builder, signature, values):
        kernel = Rotation(
            builder,
            DTYPES[dtype.literal_value],
            halves=halves.literal_value,
            streams=streams.literal_value,
        )
        return kernel.write_kernel(values[3])

    return types.int64(dtype, halves, streams, types.int64), generate


def rotation(dtype: str, *, halves: bool, streams: bool) -> Any:
    """Return the function that rotates arrays of one dtype into one layout, to be compiled as int64(int64).

    It takes the address of a call, `CALL`, whose memory the caller keeps alive, and returns its answer.
    """
    number = DTYPES.index(dtype)

    def rotate(call):  # pragma: compiled
        return run_rotation(number, halves, streams, call)

    return rotate


@intrinsic
def call_kernel(
    typing_context,
    kernel,
    layout,
    arrays,
    x,
    out,
    x2,
    out2,
    table,
    index,
    start,
    stop,
    step,
    inverse,
    disjoint,
    aside,
    chunks,
    team,
):  # pragma: compiled
    """Make the call of the arguments and give it to a kernel."""

    def generate(context, builder, signature, values):
        given = Arguments(context, builder, signature, values)
        addresses = [given.address(i) for i in range(3, 9)]
        entries = [*values[1:3], *addresses[:5], *given.shape(7)[1:], addresses[5]]
        call = given.block([*entries, *given.shape(8), *values[9:]])
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word])
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), [call])

    first = kernel, layout, arrays, x, out, x2, out2, table, index
    last = start, stop, step, inverse, disjoint, aside, chunks, team
    return types.int64(*first, *last), generate


def rotate(  # pragma: compiled
    kernel,
    layout,
    arrays,
    x,
    out,
    x2,
    out2,
    table,
    index,
    start,
    stop,
    step,
    inverse,
    disjoint,
    aside,
    chunks,
    team,
):
    """Call a kernel, given its address, for one array or two; see `CALL`.

    Only the addresses of the arrays, and the shapes of table and index, are used.
    """
    return call_kernel(
        kernel,
        layout,
        arrays,
        x,
        out,
        x2,
        out2,
        table,
        index,
        start,
        stop,
        step,
        inverse,
        disjoint,
        aside,
        chunks,
        team,
    )


# ------------------------------------------------------------------------------------------------
# Norms: rows divided by their root mean square, before they are rotated or afterwards.
#
# The squares of some rows are summed, which brings the rows into the first cache; then the same rows are rotated. So
# memory is read once. A sum depends on the channels of its row alone: it has the same bits in whatever order rows are
# walked, and for any number of threads.

# The entries of a row of `LAYOUT` that follow those of a rotation: strides of the weights, 0 on axes that share them.
W_BATCH, W_TOKEN, W_HEAD, NORM_GEOMETRY = range(GEOMETRY, GEOMETRY + 4)
# The entries of a call that follow those of a rotation.
(
    WEIGHTS,  # address of the weights of the first row, in the dtype of the table
    OVER_TOKEN,  # 1 if the squares of all heads of a token are summed
    EPS,  # the bits of a float64
    DIVISOR,  # the same: how many squares the mean is of, or 1 for their sum
    SCRATCH,  # bytes of `ASIDE` for each chunk
    NORM_CALL,
) = range(CALL, CALL + 6)
# How many rows are summed before they are rotated, unless it is all heads of a token: they stay in the first cache.
ROWS_TOGETHER = 16
# How many factors are computed at once; there is room for multiples.
FACTORS = 8
# How many channels are squared at once, and how many such vectors are added before their sums are widened.
SQUARED = 16
ADDED = (8, 4, 1)
# Between these bounds a sum of float32 squares has lost nothing to underflow or overflow. Others are made in float64.
LEAST_SUM, GREATEST_SUM = 2.0**-80, 2.0**120


class NormRun(NamedTuple):
    """What multiplies the rows of a run: the addresses of factors and weights, and the step of the weights by row."""

    factors: Any
    weights: Any
    w_step: Any


class NormRotation(Rotation):
    """Writes the kernel that norms arrays of one dtype and rotates them; see `Rotation`.

    Parameters
    ----------
    builder, dtype, halves, streams
        As of a rotation, whose layout does not change.
    after : bool
        Whether the norm follows the rotation.
    """

    def __init__(self, builder, dtype, *, halves, streams, after):  # pragma: compiled
        super().__init__(builder, dtype, halves=halves, streams=streams and not after)
        self.after = after
        self.wide = "float64" if dtype == "float64" else "float32"
        # What multiplies the rows of the run that is rotated.
        self.norm: Any = None
        self.plain = Rotation(builder, self.wide, halves=halves, streams=False)

    MORE = len(NormRun._fields)

    def rows_function(self):  # pragma: compiled
        """Write the function that rotates the rows of a run, and before it that of rows which are normed later."""
        if self.after:
            self.plain.code = self.code
            self.plain.function_of_rows = self.plain.rows_function()
            return None
        return super().rows_function()

    def more_of(self, run):  # pragma: compiled
        """Return what multiplies the rows of a run, of which it may be some pairs."""
        skipped = (run.x - self.first) // self.item * self.table_item
        return self.norm._replace(weights=self.norm.weights + skipped)

    def take(self, more):  # pragma: compiled
        """Take what multiplies the rows of a run."""
        self.norm = NormRun(*more)

    def chunk(self, call, number):  # pragma: compiled
        """Norm and rotate some tokens of the array."""
        entry = self.code.integers_at(call, NORM_CALL)
        tokens = self.code.integer_at(entry[LAYOUT] + 8 * TOKENS)
        first, last = ((part * tokens) // entry[CHUNKS] for part in (number, number + 1))
        aside = entry[ASIDE] + number * entry[SCRATCH]
        arguments = call, entry[LAYOUT], entry[X], entry[OUT], first, last, aside
        self.builder.call(self.function_of_walk, [each.value for each in arguments])

    def walk(self, call, layout, x_first, out_first, first, last, aside):  # pragma: compiled
        """Norm and rotate some tokens of the array, some rows at a time."""
        code, zero = self.code, self.code.integer(0)
        entry, own = code.integers_at(call, NORM_CALL), code.integers_at(layout, NORM_GEOMETRY)
        length, heads, pairs = own[LENGTH], own[HEADS], entry[PAIRS]
        row_size = pairs * self.table_item
        one_table = entry[ROWS] * row_size
        sine_table = entry[TABLES] * one_table
        own_table = (entry[TABLES] > 1).where(one_table, zero)
        index_step = (entry[INDEX_LENGTH] > 1).where(8, zero)
        index_batch = (entry[INDEX_BATCH] > 1).where(entry[INDEX_LENGTH] * 8, zero)
        second = pairs * self.item
        places = out_first | own[OUT_BATCH] | own[OUT_TOKEN] | own[OUT_HEAD] | own[BEFORE] | second
        piece = self.piece(places) if self.streams else None
        over_token = entry[OVER_TOKEN] != 0
        some_tokens, some_heads = self.blocks(heads, own[X_HEAD], own[X_TOKEN])
        some_tokens = over_token.where(1, some_tokens)
        some_heads = over_token.where(heads, _smaller(some_heads, code.integer(ROWS_TOGETHER)))

        done = Variable(first)
        with code.until(done, last):
            batch = done.get() // length
            row = done.get() - batch * length
            tokens = _smaller(_smaller(length - row, last - done.get()), some_tokens)
            done.set(done.get() + tokens)
            with code.steps(heads, some_heads) as head, code.each(tokens) as i:
                token = row + i
                index = entry[INDEX] + batch * index_batch + token * index_step
                position = code.integer_at(index) + entry[STEP] * token
                cosine = entry[TABLE] + (position - entry[START]) * row_size + head * own_table
                x = x_first + batch * own[X_BATCH] + token * own[X_TOKEN] + head * own[X_HEAD]
                weights = entry[WEIGHTS] + batch * own[W_BATCH] + token * own[W_TOKEN]
                rows = _smaller(heads - head, some_heads)
                run = Run(
                    x,
                    self.row_of(out_first, own, batch, token, head),
                    own[X_HEAD],
                    own[OUT_HEAD],
                    rows,
                    second,
                    pairs,
                    cosine,
                    cosine + sine_table,
                )
                norm = NormRun(aside, weights + head * own[W_HEAD], own[W_HEAD])
                self.norm_run(run, norm, entry, own, own_table, piece)

    def norm_run(self, run, norm, entry, own, own_table, piece):  # pragma: compiled
        """Norm and rotate the rows of a run, whose addresses are those of their first channels."""
        code = self.code
        before, rest = own[BEFORE] // self.item, own[AFTER] // self.item
        beyond = before + run.pairs * 2
        width = beyond + rest
        # In memory: the sums, the factors and, if the norm follows, the rotated rows in the dtype of the table.
        room = (run.count + (FACTORS - 1)) // FACTORS * FACTORS
        sums, norm = norm.factors, norm._replace(factors=norm.factors + room * 8)
        rotated, step = norm.factors + room * self.table_item, width * self.table_item
        if self.after:
            self.rotate_aside(run, rotated, (before, width), entry, own_table)
            self.sum_rows(self.wide, rotated, step, run.count, width, sums)
        else:
            self.sum_rows(self.dtype, run.x, run.x_step, run.count, width, sums)
        self.make_factors(run.count, room, sums, norm.factors, entry)
        if self.after:
            with code.each(run.count) as j:
                source, target = rotated + j * step, run.out + j * run.out_step
                self.scale(
                    (self.wide, self.dtype), source, target, width, self.multipliers(norm, j)
                )
            return
        for first, count in ((code.integer(0), before), (beyond, rest)):
            with code.when(count > 0), code.each(run.count) as j:
                source, target = run.x + j * run.x_step, run.out + j * run.out_step
                factor, weights = self.multipliers(norm, j)
                self.scale(
                    (self.dtype, self.dtype),
                    source + first * self.item,
                    target + first * self.item,
                    count,
                    (factor, weights + first * self.table_item),
                )
        apart = own_table != 0
        with code.each(apart.where(run.count, 1)) as j:
            size = before * self.item
            this = run._replace(
                x=run.x + j * run.x_step + size,
                out=run.out + j * run.out_step + size,
                count=apart.where(1, run.count),
                cosine=run.cosine + j * own_table,
                sine=run.sine + j * own_table,
            )
            self.norm = norm._replace(
                factors=norm.factors + j * self.table_item,
                weights=norm.weights + j * norm.w_step + before * self.table_item,
            )
            self.first = this.x
            self.rotate(this, entry[INVERSE], piece)

    def before_rotation(self, run, i, places, read):  # pragma: compiled
        """Return the numbers of row i of a run times its factor and its weights."""
        builder, channels = self.builder, self.channels
        factor, weights = self.multipliers(self.norm, i)
        results = []
        for place, numbers in zip(places, read, strict=True):
            count = sum(number.type.count for number in numbers)
            kind = ir.VectorType(channels.number, count)
            own = self.code.load(weights + place // self.item * self.table_item, kind)
            own = channels.quiet(own)
            own, by = channels.divided(own), _everywhere(builder, factor, numbers[0].type)
            results.append(
                [
                    builder.fmul(builder.fmul(number, by), weight)
                    for number, weight in zip(numbers, own, strict=True)
                ]
            )
        return results

    def multipliers(self, norm, i):  # pragma: compiled
        """Return the factor of row i of a run, and the address of its weights."""
        factor = self.code.load(norm.factors + i * self.table_item, self.channels.number)
        return factor, norm.weights + i * norm.w_step

    def rotate_aside(self, run, rotated, sizes, entry, own_table):  # pragma: compiled
        """Write the rows of a run, rotated, to memory of their own in the dtype of the table."""
        code, (before, width) = self.code, sizes
        plain = self.plain
        plain.code = code
        with code.each(run.count) as j:
            row = rotated + j * width * self.table_item
            self.scale((self.dtype, self.wide), run.x + j * run.x_step, row, width, None)
            window = row + before * self.table_item
            this = run._replace(
                x=window,
                out=window,
                count=code.integer(1),
                second=run.pairs * self.table_item,
                cosine=run.cosine + j * own_table,
                sine=run.sine + j * own_table,
            )
            plain.rotate(this, entry[INVERSE], None)

    # --------------------------------------------------------------------------------------------
    # Sums and factors.

    def sum_rows(self, dtype, x, step, count, width, sums):  # pragma: compiled
        """Write the sum of the squares of each row, in float64."""
        code, double = self.code, ir.DoubleType()
        with code.each(count) as i:
            row, place = x + i * step, sums + i * 8
            total = self.sum_of_squares(dtype, row, width, wide=False)
            code.store(total, place)
            if dtype != "float64":
                kept = self.builder.and_(
                    self.builder.fcmp_ordered(">=", total, double(LEAST_SUM)),
                    self.builder.fcmp_ordered("<=", total, double(GREATEST_SUM)),
                )
                with self.builder.if_then(self.builder.not_(kept), likely=False):
                    code.store(self.sum_of_squares(dtype, row, width, wide=True), place)

    def sum_of_squares(self, dtype, row, width, *, wide):  # pragma: compiled
        """Return the sum of the squares of a row's channels.

        If `wide`, they are squared in float64. Otherwise float32 squares are added in pairs, so that few roundings add
        up, and their sums are added in float64. Sums of float64 squares are compensated: what is lost by rounding is
        subtracted from the next number.
        """
        code, builder = self.code, self.builder
        channels = Channels(builder, dtype)
        exact, item = dtype == "float64", {"float64": 8, "float32": 4}.get(dtype, 2)
        stored = ir.VectorType(channels.stored, SQUARED)

        def squares(place):
            numbers = channels.numbers(code.load(place, stored))
            if wide and not exact:
                numbers = [self.widened(number) for number in numbers]
            return [builder.fmul(number, number) for number in numbers]

        # Channels of bfloat16 are in two vectors.
        parts = len(channels.divided(ir.Constant(ir.VectorType(channels.number, SQUARED), None)))
        zero = ir.Constant(ir.VectorType(ir.DoubleType(), SQUARED // parts), None)
        totals, losses = (
            [Variable(Vector(builder, zero, np.float64)) for _ in range(parts)] for _ in range(2)
        )

        def add(found):
            for number, total, loss in zip(found, totals, losses, strict=True):
                more = Vector(
                    builder, number if wide or exact else self.widened(number), np.float64
                )
                before = total.get()
                if exact:
                    more = more - loss.get()
                    after = before + more
                    loss.set(after - before - more)
                    total.set(after)
                else:
                    total.set(before + more)

        done = code.integer(0)
        for size in (1,) if wide or exact else ADDED:
            rounds = (width - done) // (size * SQUARED)
            with code.each(rounds) as i:
                first = row + (done + i * (size * SQUARED)) * item
                found = [squares(first + k * SQUARED * item) for k in range(size)]
                while len(found) > 1:
                    half = len(found) // 2
                    found = [
                        [builder.fadd(a, b) for a, b in zip(*both, strict=True)]
                        for both in zip(found[:half], found[half:], strict=True)
                    ]
                add(found[0])
            done = done + rounds * (size * SQUARED)
        with code.when(done < width):
            add(squares(self.padded(row + done * item, (width - done) * item, stored)))
        results = [total.get() for total in totals]
        if exact:
            results = [a - b.get() for a, b in zip(results, losses, strict=True)]
        return self.sum_of_halves(self.united([each.value for each in results]))

    def widened(self, number):  # pragma: compiled
        """Return a vector in float64."""
        return self.builder.fpext(number, ir.VectorType(ir.DoubleType(), number.type.count))

    def united(self, numbers):  # pragma: compiled
        """Return numbers that are divided as channels of bfloat16 are, in one vector."""
        if len(numbers) == 1:
            return numbers[0]
        count = numbers[0].type.count
        order = [lane for i in range(count) for lane in (i, count + i)]
        return _lanes(self.builder, order, *numbers)

    def sum_of_halves(self, vector):  # pragma: compiled
        """Return the sum of a vector's numbers; halves are added to halves."""
        builder, count = self.builder, vector.type.count
        while count > 2:
            count //= 2
            lower, upper = (_lanes(builder, range(k, k + count), vector) for k in (0, count))
            vector = builder.fadd(lower, upper)
        first, last = (builder.extract_element(vector, ir.IntType(32)(i)) for i in range(2))
        return builder.fadd(first, last)

    def padded(self, place, size, kind):  # pragma: compiled
        """Return the address of a copy of less than a vector, followed by zeros."""
        builder = self.builder
        memory = cgutils.alloca_once(builder, kind)
        builder.store(ir.Constant(kind, None), memory)
        copied = self.code.integer(builder.ptrtoint(memory, ir.IntType(64)))
        self.code.copy(place, copied, size)
        return copied

    def make_factors(self, count, room, sums, factors, entry):  # pragma: compiled
        """Write what each row is multiplied by: NaN if the sum of its squares overflows."""
        code, builder = self.code, self.builder
        with code.when(entry[OVER_TOKEN] != 0):
            total = self.sum_of_numbers(sums, count)
            with code.each(count) as i:
                code.store(total, sums + i * 8)
        kind = ir.VectorType(ir.DoubleType(), FACTORS)
        eps, divisor = (
            _everywhere(builder, builder.bitcast(entry[i].value, ir.DoubleType()), kind)
            for i in (EPS, DIVISOR)
        )
        root = cgutils.get_or_insert_function(
            self.module, ir.FunctionType(kind, [kind]), f"llvm.sqrt.v{FACTORS}f64"
        )
        one, infinity, nan = (
            ir.Constant(kind, [value] * FACTORS) for value in (1.0, np.inf, np.nan)
        )
        with code.each(room // FACTORS) as i:
            total = code.load(sums + i * (8 * FACTORS), kind)
            mean = builder.fadd(builder.fdiv(total, divisor), eps)
            factor = builder.fdiv(one, builder.call(root, [mean]))
            overflows = builder.fcmp_ordered("==", total, infinity)
            factor = builder.select(overflows, nan, factor)
            if self.table_item == 4:
                factor = builder.fptrunc(factor, ir.VectorType(ir.FloatType(), FACTORS))
            code.store(factor, factors + i * (self.table_item * FACTORS))

    def sum_of_numbers(self, first, count):  # pragma: compiled
        """Return the compensated sum of float64 numbers that follow one another."""
        code, builder = self.code, self.builder
        zero = Vector(builder, ir.DoubleType()(0.0), np.float64)
        total, loss = Variable(zero), Variable(zero)
        with code.each(count) as i:
            more = Vector(builder, code.load(first + i * 8, ir.DoubleType()), np.float64)
            more, before = more - loss.get(), total.get()
            after = before + more
            loss.set(after - before - more)
            total.set(after)
        return (total.get() - loss.get()).value

    # --------------------------------------------------------------------------------------------
    # Channels that are not rotated, and rows that were.

    def scale(self, dtypes, x, out, width, by):  # pragma: compiled
        """Write channels of one dtype in another, multiplied by a factor and weights unless these are None."""
        code, builder = self.code, self.builder
        source, target = (Channels(builder, dtype) for dtype in dtypes)
        sizes = [{"float64": 8, "float32": 4}.get(dtype, 2) for dtype in dtypes]
        kinds = [ir.VectorType(each.stored, SQUARED) for each in (source, target)]
        wide = ir.VectorType(source.number, SQUARED)

        def scaled(place, weights):
            number = self.united(source.numbers(code.load(place, kinds[0])))
            if by is not None:
                number = builder.fmul(number, _everywhere(builder, by[0], wide))
                number = builder.fmul(number, target.quiet(code.load(weights, wide)))
            # A NaN of a table may have more bits than a NaN of the result.
            return target.channels(target.divided(target.quiet(number)))

        rounds = width // SQUARED
        whole = rounds * SQUARED
        with code.each(rounds) as i:
            weights = None if by is None else by[1] + i * (SQUARED * self.table_item)
            result = scaled(x + i * (SQUARED * sizes[0]), weights)
            code.store(result, out + i * (SQUARED * sizes[1]))
        with code.when(whole < width):
            rest, weights = width - whole, None
            place = self.padded(x + whole * sizes[0], rest * sizes[0], kinds[0])
            if by is not None:
                first = by[1] + whole * self.table_item
                weights = self.padded(first, rest * self.table_item, wide)
            memory = cgutils.alloca_once(builder, kinds[1])
            builder.store(scaled(place, weights), memory)
            copied = code.integer(builder.ptrtoint(memory, ir.IntType(64)))
            code.copy(copied, out + whole * sizes[1], rest * sizes[1])


class SquaresOfRows(NormRotation):
    """Writes what the rows of each token are multiplied by, of an array (tokens, heads, channels) in one piece."""

    def write_factors(self, entries):  # pragma: compiled
        """Write the loop over the tokens, given the arguments as integers."""
        rows, factors, tokens, heads, width, sums, *others = map(self.code.integer, entries)
        entry = [None] * NORM_CALL
        entry[OVER_TOKEN] = self.code.integer(1)
        entry[EPS], entry[DIVISOR] = others
        with self.code.each(tokens) as i:
            x = rows + i * heads * width * self.table_item
            self.sum_rows(self.dtype, x, width * self.table_item, heads, width, sums)
            room = self.code.integer(FACTORS)
            place = sums + heads * 8
            self.make_factors(heads, room, sums, place, entry)
            value = self.code.load(place, self.channels.number)
            self.code.store(value, factors + i * self.table_item)


@intrinsic(prefer_literal=True)
def run_norm(typing_context, dtype, halves, streams, after, call):  # pragma: compiled
    """Norm and rotate the array of a call, given its address; the others are numbers known to the compiler."""

    def generate(context, builder, signature, values):
        kernel = NormRotation(
            builder,
            DTYPES[dtype.literal_value],
            halves=halves.literal_value,
            streams=streams.literal_value,
            after=after.literal_value,
        )
        return kernel.write_kernel(values[4])

    return types.int64(dtype, halves, streams, after, types.int64), generate


def norm_rotation(dtype: str, *, halves: bool, streams: bool, after: bool) -> Any:
    """Return the function that norms and rotates arrays of one dtype, to be compiled as int64(int64)."""
    number = DTYPES.index(dtype)

    def norm_and_rotate(call):  # pragma: compiled
        return run_norm(number, halves, streams, after, call)

    return norm_and_rotate


@intrinsic
def call_norm_kernel(
    typing_context,
    kernel,
    layout,
    x,
    out,
    table,
    index,
    weights,
    start,
    stop,
    step,
    over_token,
    eps,
    divisor,
    scratch,
    size,
    chunks,
    team,
):  # pragma: compiled
    """Make the call of the arguments and give it to a kernel."""

    def generate(context, builder, signature, values):
        given, word = Arguments(context, builder, signature, values), ir.IntType(64)
        start, stop, step, over_token, eps, divisor, scratch, size, chunks, team = values[7:]
        x, out, table, index, weights = (given.address(i) for i in range(2, 7))
        entries = [values[1], word(1), x, out, x, out, table, *given.shape(4)[1:], index]
        entries += [*given.shape(5), start, stop, step, word(0), word(1), scratch, chunks, team]
        numbers = [builder.bitcast(number, word) for number in (eps, divisor)]
        call = given.block([*entries, weights, over_token, *numbers, size])
        kind = ir.FunctionType(word, [word])
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), [call])

    first = kernel, layout, x, out, table, index, weights, start, stop, step, over_token
    return types.int64(*first, eps, divisor, scratch, size, chunks, team), generate


def norm_and_rotate(  # pragma: compiled
    kernel,
    layout,
    x,
    out,
    table,
    index,
    weights,
    start,
    stop,
    step,
    over_token,
    eps,
    divisor,
    scratch,
    size,
    chunks,
    team,
):
    """Call a kernel, given its address, for one array; see `CALL` and `NORM_CALL`.

    Only the addresses of the arrays, and the shapes of table and index, are used.
    """
    return call_norm_kernel(
        kernel,
        layout,
        x,
        out,
        table,
        index,
        weights,
        start,
        stop,
        step,
        over_token,
        eps,
        divisor,
        scratch,
        size,
        chunks,
        team,
    )


@intrinsic
def run_factors(typing_context, rows, factors, sums, eps, divisor):  # pragma: compiled
    """Write the factor of each token of an array."""
    dtype = "float32" if rows.dtype == types.float32 else "float64"

    def generate(context, builder, signature, values):
        given, word = Arguments(context, builder, signature, values), ir.IntType(64)
        kernel = SquaresOfRows(builder, dtype, halves=True, streams=False, after=False)
        addresses = [given.address(i) for i in range(3)]
        numbers = [builder.bitcast(number, word) for number in values[3:]]
        kernel.write_factors([*addresses[:2], *given.shape(0), addresses[2], *numbers])
        return context.get_dummy_value()

    return types.void(rows, factors, sums, eps, divisor), generate


def norm_factors(rows, factors, sums, eps, divisor):  # pragma: compiled
    """Write what the rows of each token are multiplied by, given memory for their sums and `FACTORS` factors."""
    run_factors(rows, factors, sums, eps, divisor)


# ------------------------------------------------------------------------------------------------
# Gradients by positions and frequencies.
#
# A pair x becomes y, a multiple of x rotated by its angle. The gradient of the loss by the angle is the cross product
# of y and dy, which is that of x and dx, because both are rotated alike. So one pass reads x and dy, writes dx, and
# sums the cross products of all rows that share an angle. Products and sums are float64. Which rows are summed
# together, and in which order, depends on the shape alone, so that any number of threads gives the same bits.

# How many positions are summed side by side, so that a loop may follow the tokens of a head.
SIDE_BY_SIDE = 32

# The entries of a call that computes gradients. All memory is the caller's; strides are in bytes.
(
    OF_X,  # addresses of what was rotated, of the gradient of its rotation, and of its own
    OF_DY,
    OF_DX,
    OF_TABLE,  # address of cosine and sine (2, heads or 1, rows, pairs)
    OF_TABLES,  # how many tables there are: one for each head, or 1
    OF_ROWS,
    OF_PAIRS,
    OF_INDEX,  # address of int64 (batch or 1, sequence or 1), see `OF_STEP`
    OF_INDEX_BATCH,  # its sizes
    OF_INDEX_LENGTH,
    OF_STEP,  # token s of batch b has row ``index[b, s] + OF_STEP * s``
    OF_INVERSE,  # whether what is differentiated rotates back
    OF_HEADS,
    OF_LENGTH,
    OF_X_BATCH,
    OF_X_TOKEN,
    OF_X_HEAD,
    OF_DY_BATCH,
    OF_DY_TOKEN,
    OF_DY_HEAD,
    OF_DX_BATCH,
    OF_DX_TOKEN,
    OF_DX_HEAD,
    OF_BEFORE,  # bytes of a row before the rotated channels, and after them
    OF_AFTER,
    OF_COPIED,  # whether the other channels of dy are copied to dx
    OF_MOVED,  # whether dy has another layout than x and dx
    OF_KEPT,  # whether dx is wanted
    OF_REPEATS,  # how many elements of the batch share each position: all of them, or one
    OF_COUNT,  # the number of positions
    OF_BLOCKS,  # in how many blocks they are summed, which threads share
    OF_GROUPS,  # the number of heads with frequencies of their own, or 1
    OF_AXES,  # the number of position axes
    OF_FREQUENCIES,  # address of float64 (groups, axes, pairs)
    OF_RATES,  # address of float64 (pairs,): how the logarithm of the scale changes with the position
    OF_POSITIONS,  # address of float64 (axes, batch or 1, sequence), and its strides
    OF_POSITIONS_AXIS,
    OF_POSITIONS_BATCH,
    OF_POSITIONS_TOKEN,
    OF_BY_POSITION,  # 0 if it is not wanted, else the same of the gradient by positions, which is added to
    OF_BY_POSITION_AXIS,
    OF_BY_POSITION_BATCH,
    OF_BY_POSITION_TOKEN,
    OF_BY_FREQUENCY,  # 0 if it is not wanted, else address of (blocks, groups, axes, pairs), which is added to
    OF_BY_FREQUENCY_BLOCK,
    OF_BY_FREQUENCY_GROUP,
    OF_SCRATCH,  # address of memory of so many bytes for each chunk
    OF_SCRATCH_SIZE,
    OF_CHUNKS,  # into how many parts the blocks are divided
    OF_TEAM,  # see `TEAM`
    GRADIENT_CALL,
) = range(51)


def scratch_size(pairs: int, item: int) -> int:
    """Return how many bytes a chunk needs: sums of `SIDE_BY_SIDE` positions, the places of these, and two rows."""
    return 8 * SIDE_BY_SIDE * (2 * pairs + 2) + 2 * 2 * pairs * item


class Gradients(Kernel):
    """Writes the kernel that computes gradients for arrays of one dtype and layout.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
    dtype : str
    halves : bool
        Whether the pairs of x are in two halves of a row; else their channels are side by side.
    scaled : bool
        Whether positions change a scale as well.
    """

    def __init__(self, builder, dtype, *, halves, scaled):  # pragma: compiled
        super().__init__(builder)
        self.dtype, self.halves, self.scaled = dtype, halves, scaled
        self.item = {"float64": 8, "float32": 4}.get(dtype, 2)
        self.table_item = 8 if dtype == "float64" else 4

    @property
    def channels(self):  # pragma: compiled
        """What converts channels, in the place where code is written now."""
        return Channels(self.builder, self.dtype)

    def write(self, address):  # pragma: compiled
        """Write the kernel."""
        call = self.code.integer(address)
        self.row_of = self.row_function()
        chunks, team = (self.code.integer_at(call + 8 * i) for i in (OF_CHUNKS, OF_TEAM))
        self.run(call, chunks, team)

    # --------------------------------------------------------------------------------------------
    # The walk.

    def chunk(self, call, number):  # pragma: compiled
        """Compute the gradients of some blocks of positions."""
        code = self.code
        entry = code.integers_at(call, GRADIENT_CALL)
        blocks, count = entry[OF_BLOCKS], entry[OF_COUNT]
        first, last = ((part * blocks) // entry[OF_CHUNKS] for part in (number, number + 1))
        scratch = entry[OF_SCRATCH] + number * entry[OF_SCRATCH_SIZE]
        with code.each(last - first) as i:
            block = first + i
            start, stop = ((part * count) // blocks for part in (block, block + 1))
            sums = entry[OF_BY_FREQUENCY] + block * entry[OF_BY_FREQUENCY_BLOCK]
            with code.steps(stop - start, code.integer(SIDE_BY_SIDE)) as done:
                some = _smaller(stop - start - done, code.integer(SIDE_BY_SIDE))
                self.positions(call, entry, scratch, start + done, some, sums)

    def positions(self, call, entry, scratch, first, some, by_frequency):  # pragma: compiled
        """Compute the gradients of the rows at some positions."""
        code, zero = self.code, self.code.integer(0)
        row_size = entry[OF_PAIRS] * 8
        crosses, dots = scratch, scratch + row_size * SIDE_BY_SIDE
        places = dots + row_size * SIDE_BY_SIDE
        repeats, heads = entry[OF_REPEATS], entry[OF_HEADS] // entry[OF_GROUPS]
        with code.each(some) as k:
            place = first + k
            batch = (repeats > 1).where(zero, place // entry[OF_LENGTH])
            code.store(batch.value, places + k * 16)
            code.store((place - batch * entry[OF_LENGTH]).value, places + k * 16 + 8)
        # In the order of memory: through the tokens of a head, or through the heads of a token.
        by_head = _size(entry[OF_X_HEAD]) > _size(entry[OF_X_TOKEN])
        outer, inner = by_head.where(heads, some), by_head.where(some, heads)
        with code.each(entry[OF_GROUPS]) as group:
            for sums in (crosses, dots) if self.scaled else (crosses,):
                code.clear(sums, some * row_size)
            with code.each(outer) as i, code.each(repeats) as repeat, code.each(inner) as j:
                head, k = group + by_head.where(i, j), by_head.where(j, i)
                batch = code.integer_at(places + k * 16) + repeat
                token = code.integer_at(places + k * 16 + 8)
                sums = crosses + k * row_size, dots + k * row_size
                arguments = call, scratch, batch, token, head, *sums
                self.builder.call(self.row_of, [each.value for each in arguments])
            with code.each(some) as k:
                batch, token = code.integers_at(places + k * 16, 2)
                sums = crosses + k * row_size, dots + k * row_size
                of_group = by_frequency + group * entry[OF_BY_FREQUENCY_GROUP]
                self.add(entry, sums, batch, token, group, of_group)

    def row_function(self):  # pragma: compiled
        """Write the function that rotates the gradient of a row back and adds to the sums of its position."""
        word = ir.IntType(64)
        with self.function("row", ir.VoidType(), *[word] * 7) as (function, arguments):
            self.row(*map(self.code.integer, arguments))
            self.builder.ret_void()
        return function

    def row(self, call, scratch, batch, token, head, crosses, dots):  # pragma: compiled
        """Rotate the gradient of a row back, and add cross and dot products of its pairs to their sums."""
        code, zero = self.code, self.code.integer(0)
        entry = code.integers_at(call, GRADIENT_CALL)
        size = entry[OF_PAIRS] * (2 * self.item)
        row_size = entry[OF_PAIRS] * self.table_item
        one_table = entry[OF_ROWS] * row_size
        own_table = (entry[OF_TABLES] > 1).where(head * one_table, zero)
        index_token = (entry[OF_INDEX_LENGTH] > 1).where(token * 8, zero)
        index_batch = (entry[OF_INDEX_BATCH] > 1).where(batch * entry[OF_INDEX_LENGTH] * 8, zero)
        number = code.integer_at(entry[OF_INDEX] + index_batch + index_token)
        number = number + entry[OF_STEP] * token
        cosine = entry[OF_TABLE] + own_table + number * row_size
        sine = cosine + entry[OF_TABLES] * one_table
        x, dy, dx = (
            entry[first] + batch * entry[a] + token * entry[b] + head * entry[c] + entry[OF_BEFORE]
            for first, a, b, c in (
                (OF_X, OF_X_BATCH, OF_X_TOKEN, OF_X_HEAD),
                (OF_DY, OF_DY_BATCH, OF_DY_TOKEN, OF_DY_HEAD),
                (OF_DX, OF_DX_BATCH, OF_DX_TOKEN, OF_DX_HEAD),
            )
        )
        aside = scratch + entry[OF_PAIRS] * (16 * SIDE_BY_SIDE) + 16 * SIDE_BY_SIDE
        moved = entry[OF_MOVED] != 0
        with code.when(entry[OF_COPIED] != 0):
            code.copy(dy - entry[OF_BEFORE], dx - entry[OF_BEFORE], entry[OF_BEFORE])
            code.copy(dy + size, dx + size, entry[OF_AFTER])
        with code.when(moved):
            self.rearrange(dy, aside, entry[OF_PAIRS])
        dy = moved.where(aside, dy)
        dx = (entry[OF_KEPT] != 0).where(dx, aside + size)
        done = zero
        for count in (8, 1):
            rounds = (entry[OF_PAIRS] - done) // count
            with code.each(rounds) as i:
                places = x, dy, dx, cosine, sine, crosses, dots
                self.pairs(entry, places, done + i * count, count)
            done = done + rounds * count

    def rearrange(self, source, target, pairs):  # pragma: compiled
        """Copy the pairs of a row from the other layout into this one."""
        code, done = self.code, self.code.integer(0)
        for count in (16, 8, 1):
            rounds = (pairs - done) // count
            with code.each(rounds) as i:
                first = done + i * count
                both = self.stored(source, first, pairs, count, halves=not self.halves)
                self.store(both, target, first, pairs, halves=self.halves)
            done = done + rounds * count

    # --------------------------------------------------------------------------------------------
    # Pairs of a row.

    def pairs(self, entry, places, first, count):  # pragma: compiled
        """Rotate some pairs back, all of which are read before one is written, so that dx may be dy."""
        x, dy, dx, cosine, sine, crosses, dots = places
        builder, channels = self.builder, self.channels
        kind = ir.VectorType(channels.number, count)
        c, s = (self.code.load(row + first * self.table_item, kind) for row in (cosine, sine))
        # The transposed rotation.
        sign = builder.select(
            (entry[OF_INVERSE] == 0).value, channels.number(-1), channels.number(1)
        )
        s = builder.fmul(_everywhere(builder, sign, kind), s)
        (a, b), (u, v) = (
            [self.numbers(each) for each in self.stored(row, first, entry[OF_PAIRS], count)]
            for row in (dy, x)
        )
        p = builder.fsub(builder.fmul(a, c), builder.fmul(b, s))
        q = builder.fadd(builder.fmul(b, c), builder.fmul(a, s))
        results = [channels.channels([each]) for each in (p, q)]
        self.store(results, dx, first, entry[OF_PAIRS], halves=self.halves)
        u, v, p, q = (self.exact(each) for each in (u, v, p, q))
        cross = builder.fsub(builder.fmul(u, q), builder.fmul(v, p))
        self.add_vector(crosses + first * 8, cross)
        if self.scaled:
            dot = builder.fadd(builder.fmul(u, p), builder.fmul(v, q))
            self.add_vector(dots + first * 8, dot)

    def stored(self, row, first, pairs, count, *, halves=None):  # pragma: compiled
        """Return first and second channels of some pairs of a row, as they are stored."""
        code, item = self.code, self.item
        kind = ir.VectorType(self.channels.stored, count)
        if self.halves if halves is None else halves:
            return [code.load(row + (first + k) * item, kind) for k in (code.integer(0), pairs)]
        both = code.load(row + first * (2 * item), ir.VectorType(self.channels.stored, 2 * count))
        return [_lanes(self.builder, range(k, 2 * count, 2), both) for k in (0, 1)]

    def store(self, both, row, first, pairs, *, halves):  # pragma: compiled
        """Write first and second channels of some pairs to a row."""
        code, item, (a, b) = self.code, self.item, both
        if halves:
            for k, each in ((code.integer(0), a), (pairs, b)):
                code.store(each, row + (first + k) * item)
            return
        count = a.type.count
        order = [lane for pair in range(count) for lane in (pair, count + pair)]
        code.store(_lanes(self.builder, order, a, b), row + first * (2 * item))

    def numbers(self, stored):  # pragma: compiled
        """Return channels as one vector of numbers, in their order."""
        if self.dtype != "bfloat16":
            return self.channels.numbers(stored)[0]
        builder, count = self.builder, stored.type.count
        words = builder.zext(stored, ir.VectorType(ir.IntType(32), count))
        shifted = builder.shl(words, _integers(16, words))
        return builder.bitcast(shifted, ir.VectorType(ir.FloatType(), count))

    def exact(self, numbers):  # pragma: compiled
        """Return numbers as float64, whose products are exact if they are float32."""
        if self.dtype == "float64":
            return numbers
        return self.builder.fpext(numbers, ir.VectorType(ir.DoubleType(), numbers.type.count))

    def add_vector(self, address, vector):  # pragma: compiled
        """Add a vector to what is at an address."""
        total = self.builder.fadd(self.code.load(address, vector.type), vector)
        self.code.store(total, address)

    # --------------------------------------------------------------------------------------------
    # The sums of a position.

    def add(self, entry, sums, batch, token, group, by_frequency):  # pragma: compiled
        """Add the sums of one position to the gradients by its frequencies and by the position itself."""
        code, builder, double = self.code, self.builder, ir.DoubleType()
        crosses, dots = sums
        pairs = entry[OF_PAIRS]
        sign = builder.select((entry[OF_INVERSE] == 0).value, double(1.0), double(-1.0))
        with code.each(entry[OF_AXES]) as axis:
            place = entry[OF_POSITIONS] + axis * entry[OF_POSITIONS_AXIS]
            place = place + batch * entry[OF_POSITIONS_BATCH] + token * entry[OF_POSITIONS_TOKEN]
            with code.when(entry[OF_BY_FREQUENCY] != 0):
                factor = builder.fmul(sign, code.load(place, double))
                target = by_frequency + axis * pairs * 8
                for first, count in self.parts(pairs, (8, 1)):
                    kind = ir.VectorType(double, count)
                    factors = _everywhere(builder, factor, kind)
                    own = code.load(crosses + first * 8, kind)
                    self.add_vector(target + first * 8, builder.fmul(factors, own))
            with code.when(entry[OF_BY_POSITION] != 0):
                frequencies = entry[OF_FREQUENCIES] + (group * entry[OF_AXES] + axis) * pairs * 8
                found = builder.fmul(sign, self.product(frequencies, crosses, pairs))
                if self.scaled:
                    found = builder.fadd(found, self.product(entry[OF_RATES], dots, pairs))
                target = entry[OF_BY_POSITION] + axis * entry[OF_BY_POSITION_AXIS]
                target = target + batch * entry[OF_BY_POSITION_BATCH]
                target = target + token * entry[OF_BY_POSITION_TOKEN]
                code.store(builder.fadd(code.load(target, double), found), target)

    def parts(self, pairs, counts):  # pragma: compiled
        """Begin a loop for each of some counts, over the pairs that are taken so many at a time."""
        done = self.code.integer(0)
        for count in counts:
            rounds = (pairs - done) // count
            with self.code.each(rounds) as i:
                yield done + i * count, count
            done = done + rounds * count

    def product(self, weights, values, pairs):  # pragma: compiled
        """Return a sum of products, in eight partial sums that are added side by side."""
        code, builder, double = self.code, self.builder, ir.DoubleType()
        many = ir.VectorType(double, 8)
        total = cgutils.alloca_once_value(builder, ir.Constant(many, [0.0] * 8))
        rest = cgutils.alloca_once_value(builder, double(0.0))
        builder.store(ir.Constant(many, [0.0] * 8), total)
        builder.store(double(0.0), rest)
        for first, count in self.parts(pairs, (8, 1)):
            kind, sums = (many, total) if count == 8 else (double, rest)
            pair = (code.load(row + first * 8, kind) for row in (weights, values))
            builder.store(builder.fadd(builder.load(sums), builder.fmul(*pair)), sums)
        found = builder.load(total)
        for count in (4, 2, 1):
            halves = (_lanes(builder, range(first, first + count), found) for first in (0, count))
            found = builder.fadd(*halves)
        whole = builder.extract_element(found, ir.IntType(32)(0))
        return builder.fadd(whole, builder.load(rest))


@intrinsic(prefer_literal=True)
def run_gradients(typing_context, dtype, halves, scaled, call):  # pragma: compiled
    """Compute the gradients of a call, given its address; the others are numbers known to the compiler."""

    def generate(context, builder, signature, values):
        kernel = Gradients(
            builder,
            DTYPES[dtype.literal_value],
            halves=halves.literal_value,
            scaled=scaled.literal_value,
        )
        kernel.write(values[3])
        return context.get_dummy_value()

    return types.void(dtype, halves, scaled, types.int64), generate


def gradients(dtype: str, *, halves: bool, scaled: bool) -> Any:
    """Return the function that computes gradients for arrays of one dtype and layout, to be compiled as void(int64).

    It takes the address of a call, `GRADIENT_CALL`.
    """
    number = DTYPES.index(dtype)

    def differentiate(call):  # pragma: compiled
        run_gradients(number, halves, scaled, call)

    return differentiate
