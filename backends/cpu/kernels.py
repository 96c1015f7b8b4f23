"""Every loop over numbers: filling tables of cosine and sine, and rotating channel pairs.

All compiled code is in this one file, because Numba's disk cache notices changes only in the file of the function that
it compiled. The formulas of tables are plain functions of NumPy arrays, or of a `Vector`, for which they write code. So
tables have the same bits with and without Numba, and a new process does not wait for type inference and vectorisation.
The kernels are loops, which `rotary.backends.cpu.jit` compiles serial and parallel. A rotation moves more bytes than it
computes: its loops follow the order of memory, over vectors that this module writes in LLVM's terms.

The tables use no fused multiply-add: products and sums are rounded one by one, on every machine.
"""

from __future__ import annotations

import platform

# `torch.export` replaces this in all threads while it runs, and Numba would not know the replacement.
from builtins import min  # noqa: A004, UP029  (see above)
from contextlib import contextmanager
from typing import Any

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
        from numba import njit, prange, types
        from numba.core import cgutils
        from numba.extending import intrinsic
        from numba.np import arrayobj
except BaseException as error:  # noqa: BLE001  (an import may raise anything; `host` reports it)
    WITHOUT, COMPILED = error, False

if COMPILED:
    # For functions that only kernels call: the wrappers for Python and C take a tenth of the compilation.
    loop = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

    def _converts_half() -> bool:
        """Return whether the processor compiled for converts float16; LLVM aborts where it cannot."""
        if numba.config.CPU_NAME not in (None, "host"):
            return "+f16c" in (numba.config.CPU_FEATURES or "")
        if platform.machine().lower() in ("aarch64", "arm64"):
            return True
        return bool(llvmlite.binding.get_host_cpu_features().get("f16c", False))
else:
    prange = range

    def _as_it_is(function: Any) -> Any:
        return function

    loop = intrinsic = _as_it_is


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
# Filling tables: the formulas, written down once in LLVM's terms.

# How many lanes of a row are computed side by side: as many of these as it has. Those at the end are the
# last so many, some of them for the second time.
WIDTHS = (16, 4, 1)


def _operation(name, *, swapped=False):  # pragma: compiled
    """Return the method that applies an operation to two vectors, or to one and a number."""

    def apply(self, other):
        pair = self.value, self.value_of(other)
        write = getattr(self.builder, "f" + name if self.kind == np.float64 else name)
        return Vector(self.builder, write(*reversed(pair) if swapped else pair), self.kind)

    return apply


def _comparison(order):  # pragma: compiled
    """Return the method that compares two vectors of unsigned integers, or one with a number."""

    def compare(self, other):
        found = self.builder.icmp_unsigned(order, self.value, self.value_of(other))
        return Vector(self.builder, found, np.bool_)

    return compare


def _some(element, count):  # pragma: compiled
    """Return the type of so many numbers; a single one is a scalar, because LLVM 20 cannot compile vectors of one."""
    return element if count == 1 else ir.VectorType(element, count)


class Vector:
    """Several numbers in one register, for formulas that generate code; they use it as they use an array."""

    __array_ufunc__ = None  # NumPy's numbers leave operations to this class

    def __init__(self, builder, value, kind):  # pragma: compiled
        self.builder, self.value, self.kind = builder, value, kind
        self.count = getattr(value.type, "count", 1)

    def value_of(self, other):  # pragma: compiled
        """Return the value of a vector, or of a number in every lane."""
        if isinstance(other, Vector):
            return other.value
        number = self.kind(other).item()
        return ir.Constant(self.value.type, number if self.count == 1 else [number] * self.count)

    def where(self, yes, no):  # pragma: compiled
        """Return one vector where this one is true, another where it is not."""
        return Vector(self.builder, self.builder.select(self.value, yes.value, no.value), yes.kind)

    def __neg__(self):  # pragma: compiled
        return Vector(self.builder, self.builder.fneg(self.value), self.kind)

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
    __and__, __or__, __xor__ = _operation("and_"), _operation("or_"), _operation("xor")
    __lshift__, __rshift__ = _operation("shl"), _operation("lshr")
    __eq__, __lt__ = _comparison("=="), _comparison("<")


class Cells:
    """Vectors of words that change in each round of a loop, zero at first."""

    def __init__(self, builder, number, count):  # pragma: compiled
        kind = _some(ir.IntType(64), count)
        self.builder = builder
        self.places = [cgutils.alloca_once(builder, kind) for _ in range(number)]
        for place in self.places:
            builder.store(ir.Constant(kind, None), place)

    def get(self):  # pragma: compiled
        """Return the vectors."""
        return [Vector(self.builder, self.builder.load(place), np.uint64) for place in self.places]

    def set(self, vectors):  # pragma: compiled
        """Replace them."""
        for place, vector in zip(self.places, vectors, strict=True):
            self.builder.store(vector.value, place)


def _everywhere(builder, number, count, kind):  # pragma: compiled
    """Return a vector of equal numbers."""
    if count == 1:
        return Vector(builder, number, kind)
    empty = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    first = builder.insert_element(empty, number, ir.IntType(32)(0))
    return Vector(builder, _lanes(builder, [0] * count, first), kind)


@intrinsic
def fill_row(
    typing_context,
    kind,
    limbs,
    limb_count,
    opposite,
    digits,
    shift,
    negative,
    positions,
    axes,
    lanes,
    factor,
    cosine,
    sine,
):  # pragma: compiled
    """Write cosine and sine at one position, times the attention factor; see `fill_chunk`.

    All but the table's dtype and the factor are addresses and counts. Upper digits that are zero, as most
    positions have them, are not multiplied.
    """
    dtype = np.float32 if kind.dtype == types.float32 else np.float64
    size = kind.dtype.bitwidth // 8
    half, word = ir.IntType(32), ir.IntType(64)

    def generate(context, builder, signature, arguments):
        limbs, limb_count, opposite, digits, shift, negative = arguments[1:7]
        positions, axes, lanes, factor, cosine, sine = arguments[7:]

        def read(place, element, count):
            pointer = builder.inttoptr(place, _some(element, count).as_pointer())
            return builder.load(pointer, align=1)

        def number(first, index):
            return read(_at(builder, first, index, 8), word, 1)

        def turns(axis, i, count):
            """Return the phase on one axis as two words, and 1 if it is negative, else 0."""
            entry = builder.mul(axis, positions)
            own = _at(builder, digits, entry, 8 * DIGITS)
            used = word(1)
            for place in range(1, DIGITS):
                there = builder.icmp_unsigned("!=", number(own, word(place)), word(0))
                used = builder.select(there, word(place + 1), used)
            least = builder.add(builder.mul(axis, limb_count), number(shift, entry))
            phase = Cells(builder, PHASE_LIMBS, count)
            with cgutils.for_range(builder, used) as loop:
                digit = builder.trunc(number(own, loop.index), half)
                digit = _everywhere(builder, digit, count, np.uint32).astype(np.uint64)
                first = builder.add(least, builder.sub(word(DIGITS - 1), loop.index))
                parts = []
                for k in range(PHASE_LIMBS):
                    limb = builder.add(builder.mul(builder.add(first, word(k)), lanes), i)
                    part = read(_at(builder, limbs, limb, 4), half, count)
                    parts.append(Vector(builder, part, np.uint32).astype(np.uint64))
                phase.set(add_product(digit, parts, phase.get()))
            signs = _at(builder, opposite, builder.add(builder.mul(axis, lanes), i), 8)
            signs = Vector(builder, read(signs, word, count), np.uint64)
            own_sign = _everywhere(builder, number(negative, entry), count, np.uint64)
            return *top_words(phase.get()), signs ^ own_sign

        def fill(i, count):
            total = Cells(builder, 2, count)
            with cgutils.for_range(builder, axes) as loop:
                total.set(add_signed(*total.get(), *turns(loop.index, i, count)))
            high, low = total.get()
            scale = _everywhere(builder, factor, count, np.float64)
            for row, found in zip((cosine, sine), cos_sin(high, low, dtype), strict=True):
                scaled = found * scale
                scaled = scaled if dtype == np.float64 else scaled.astype(np.float32)
                _store(builder, scaled.value, _at(builder, row, i, size), size, 0)

        left = lanes
        for count in WIDTHS:
            enough = builder.icmp_signed(">=", left, word(count))
            stop = builder.select(enough, left, word(0))
            last = builder.sub(left, word(count))
            with cgutils.for_range_slice(builder, word(0), stop, word(count)) as (i, _):
                beyond = builder.icmp_signed(">", i, last)
                fill(builder.select(beyond, last, i), count)
            left = builder.sub(left, stop)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 9, types.float64, types.int64, types.int64), generate


def fill_chunk(  # pragma: compiled
    limbs, opposite, digits, shift, negative, factor, table, row, chunk, chunks
):
    """Fill one of several equal chunks of a table (2, heads, rows, pairs), beginning at ``row``.

    Row ``row + p`` is that of position p, given as `rotary.angles.phases.Multipliers`: digits (axes, n, 3),
    shift and negative (axes, n). The frequencies are limbs (heads, axes, limbs, lanes) and opposite
    (heads, axes, lanes), 1 where negative.
    """
    heads, axes, limb_count, lanes = limbs.shape
    n = shift.shape[1]
    for p in range(chunk * n // chunks, (chunk + 1) * n // chunks):
        for head in range(heads):
            cosine = address(table) + head * table.strides[1] + (row + p) * table.strides[2]
            fill_row(
                table.dtype,
                address(limbs) + head * limbs.strides[0],
                limb_count,
                address(opposite) + head * opposite.strides[0],
                address(digits) + p * digits.strides[1],
                address(shift) + p * shift.strides[1],
                address(negative) + p * negative.strides[1],
                n,
                axes,
                lanes,
                factor,
                cosine,
                cosine + table.strides[0],
            )


one_chunk = loop(fill_chunk)


def fill_table(  # pragma: compiled
    limbs, opposite, digits, shift, negative, factor, table, row, chunks
):
    """Fill a table's rows from ``row`` on, in as many chunks as there are threads."""
    for chunk in prange(chunks):
        one_chunk(limbs, opposite, digits, shift, negative, factor, table, row, chunk, chunks)


# ------------------------------------------------------------------------------------------------
# Vectors of channels, in LLVM's terms: addresses are integers, and nothing is checked.

LINE = 64
# What is streamed where lines are not whole: the processor gathers it into lines, if it comes in their order.
PIECE = 16
# How many bytes before its use a line is prefetched: less is too late if memory is busy.
AHEAD = 8192
# How many tokens are turned head by head where a head's tokens lie closer together than a token's heads: so
# many rows of the table stay in a core's own cache, and so many of a head are long enough for the memory.
BLOCK = 256


def _integers(value, like):  # pragma: compiled
    """Return a vector of equal integers."""
    return ir.Constant(like.type, [value] * like.type.count)


def _lanes(builder, order, vector, other=None):  # pragma: compiled
    """Return some lanes of a vector, or of two after each other."""
    indices = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order))
    return builder.shuffle_vector(vector, other or ir.Constant(vector.type, ir.Undefined), indices)


def _load(builder, address, element, count):  # pragma: compiled
    """Read a vector from any address: to say that it is aligned makes nothing faster."""
    pointer = builder.inttoptr(address, ir.VectorType(element, count).as_pointer())
    return builder.load(pointer, align=1)


def _store(builder, vector, address, item, piece):  # pragma: compiled
    """Write a vector; if `piece` is not None, past the caches, in aligned pieces of so many bytes."""
    if not piece:
        builder.store(vector, builder.inttoptr(address, vector.type.as_pointer()), align=1)
        return
    count = min(piece // item, vector.type.count)
    for first in range(0, vector.type.count, count):
        part = _lanes(builder, range(first, first + count), vector)
        place = builder.add(address, address.type(first * item))
        stored = builder.store(part, builder.inttoptr(place, part.type.as_pointer()), align=piece)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))


def _prefetch(builder, address, write):  # pragma: compiled
    """Prefetch a cache line, for writing or reading; any address is allowed."""
    word = ir.IntType(32)
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, word(int(write)), word(3), word(1)])


def _widened(builder, stored, dtype):  # pragma: compiled
    """Convert stored channels to numbers to compute with."""
    count = stored.type.count
    words, floats = (ir.VectorType(kind, count) for kind in (ir.IntType(32), ir.FloatType()))
    if dtype == BFLOAT16_BITS:
        # The bits of a bfloat16 are the upper half of a float32's.
        order = [lane for channel in range(count) for lane in (count, channel)]
        return builder.bitcast(_lanes(builder, order, stored, _integers(0, stored)), floats)
    if dtype == FLOAT16_BITS and HALF_IN_HARDWARE:
        halves = builder.bitcast(stored, ir.VectorType(ir.HalfType(), count))
        return builder.fpext(halves, floats)
    if dtype == FLOAT16_BITS:
        bits = builder.zext(stored, words)
        size = builder.shl(builder.and_(bits, _integers(0x7FFF, bits)), _integers(13, bits))
        # The exponent's bias differs by 112; a product gets subnormal numbers right as well.
        bias = ir.Constant(floats, [2.0**112] * count)
        wide = builder.bitcast(builder.fmul(builder.bitcast(size, floats), bias), words)
        special = builder.icmp_unsigned(">=", size, _integers(0x7C00 << 13, size))
        wide = builder.select(special, builder.or_(size, _integers(0x7F800000, size)), wide)
        sign = builder.shl(builder.and_(bits, _integers(0x8000, bits)), _integers(16, bits))
        return builder.bitcast(builder.or_(wide, sign), floats)
    return stored


def _narrowed(builder, number, dtype):  # pragma: compiled
    """Convert computed numbers to their storage, rounded once, ties to even; a NaN stays one."""
    count = number.type.count
    words, halves = (ir.VectorType(ir.IntType(size), count) for size in (32, 16))
    if dtype == BFLOAT16_BITS:
        bits = builder.bitcast(number, words)
        last = builder.and_(bits, _integers(0x10000, bits))
        odd = builder.icmp_unsigned("!=", last, _integers(0, bits))
        up = builder.select(odd, _integers(0x8000, bits), _integers(0x7FFF, bits))
        # A NaN that was computed is quiet, and stays one without its lower half.
        is_number = builder.fcmp_ordered("ord", number, number)
        rounded = builder.select(is_number, builder.add(bits, up), bits)
        parts = builder.bitcast(rounded, ir.VectorType(ir.IntType(16), 2 * count))
        return _lanes(builder, range(1, 2 * count, 2), parts)
    if dtype == FLOAT16_BITS and HALF_IN_HARDWARE:
        return builder.bitcast(builder.fptrunc(number, ir.VectorType(ir.HalfType(), count)), halves)
    if dtype == FLOAT16_BITS:
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
            where = builder.icmp_unsigned(order, size, _integers(bound, bits))
            half = builder.select(where, instead, half)
        sign = builder.and_(builder.lshr(bits, _integers(16, bits)), _integers(0x8000, bits))
        return builder.trunc(builder.or_(half, sign), halves)
    return number


def _at(builder, address, index, size):  # pragma: compiled
    """Return the address of an element."""
    size = size if isinstance(size, ir.Value) else index.type(size)
    return builder.add(address, builder.mul(index, size))


def _pairs(builder, half, row, i, lanes, item, count):  # pragma: compiled
    """Return the addresses of both channels of pair i: i and i + lanes if `half`, else 2 i and 2 i + 1."""
    if half:
        return _at(builder, row, i, item), _at(builder, row, builder.add(i, lanes), item)
    first = _at(builder, row, i, 2 * item)
    return first, builder.add(first, first.type(count * item))


def _read_pairs(builder, half, row, i, lanes, item, count, element):  # pragma: compiled
    """Read some pairs: their first channels, and their second ones."""
    lower, upper = _pairs(builder, half, row, i, lanes, item, count)
    if half:
        return tuple(_load(builder, place, element, count) for place in (lower, upper))
    mixed = _load(builder, lower, element, 2 * count)
    return tuple(_lanes(builder, range(k, 2 * count, 2), mixed) for k in (0, 1))


def _write_pairs(builder, half, row, i, lanes, item, a, b, piece):  # pragma: compiled
    """Write some pairs."""
    count = a.type.count
    lower, upper = _pairs(builder, half, row, i, lanes, item, count)
    if half:
        _store(builder, a, lower, item, piece)
        _store(builder, b, upper, item, piece)
    else:
        order = [lane for pair in range(count) for lane in (pair, count + pair)]
        _store(builder, _lanes(builder, order, a, b), lower, item, piece)


@intrinsic
def turn_pairs(
    typing_context,
    kind,
    half,
    stream,
    count,
    some,
    x,
    out,
    x_step,
    out_step,
    x_row,
    out_row,
    x_ahead,
    out_ahead,
    lanes,
    entry,
    entry_step,
    table_first,
    table_step,
    sine_table,
    sign,
):  # pragma: compiled
    """Turn the pairs of some rows, or of twos of rows by the same angles.

    As many pairs at a time are turned as fill a cache line, then eight, then one; they are read before one
    of them is written, so that `out` may be `x`. Twos of rows are for 16-bit numbers, whose conversions
    leave no time to read the angles for each row, and for float32 where many tokens' angles come from the
    second cache, for every head anew. Before a row is turned the lines of a later one, so many
    bytes ahead, are asked for: those that will be written, or, in code that streams, those to be read. The
    processor fetches by itself what else is read. `half` is None in code for interleaved pairs. `stream`
    says how large the pieces are that are written past the caches, LINE, PIECE or 0 for none, and is None in
    code that never does.
    """
    halves, streams = half != types.none, stream != types.none
    dtype, computed = kind.dtype, ir.DoubleType() if sign == types.float64 else ir.FloatType()
    stored = ir.IntType(16) if dtype.bitwidth == 16 else computed
    item, table_item = dtype.bitwidth // 8, sign.bitwidth // 8
    line = LINE // item

    def generate(context, builder, signature, arguments):
        piece, count, some, x, out, x_step, out_step, x_row, out_row = arguments[2:11]
        x_ahead, out_ahead, lanes, entry, entry_step = arguments[11:16]
        table_first, table_step, sine_table, sign = arguments[16:]

        def turn_block(places, c, s, i, count, piece):
            cosine, sine = (
                _load(builder, _at(builder, row, i, table_item), computed, count) for row in (c, s)
            )
            signs = ir.Constant(sine.type, ir.Undefined)
            signs = builder.insert_element(signs, sign, ir.IntType(32)(0))
            sine = builder.fmul(_lanes(builder, [0] * count, signs), sine)
            order = back = list(range(count))
            if halves and dtype == BFLOAT16_BITS and count > 1:
                # Neighbours apart, as the halves of words. In their own order LLVM makes ordinary stores of some
                # pieces that are to be streamed: beside the others they take ten times as long.
                order = [*range(0, count, 2), *range(1, count, 2)]
                back = [order.index(channel) for channel in range(count)]
            cosine, sine = (_lanes(builder, order, row) for row in (cosine, sine))
            found = [
                [
                    _lanes(builder, order, channels)
                    for channels in _read_pairs(
                        builder, halves, source, i, lanes, item, count, stored
                    )
                ]
                for source, _ in places
            ]
            for (_, target), pair in zip(places, found, strict=True):
                a, b = (_widened(builder, channels, dtype) for channels in pair)
                first = builder.fsub(builder.fmul(a, cosine), builder.fmul(b, sine))
                second = builder.fadd(builder.fmul(b, cosine), builder.fmul(a, sine))
                a, b = (
                    _lanes(builder, back, _narrowed(builder, number, dtype))
                    for number in (first, second)
                )
                _write_pairs(builder, halves, target, i, lanes, item, a, b, piece)

        def turn_blocks(places, angles, first, stop, count, ways):
            for size, asked in ways:
                with (
                    builder.if_then(asked),
                    cgutils.for_range_slice(builder, first, stop, lanes.type(count)) as (i, _),
                ):
                    c, s = angles
                    turn_block(places, c, s, i, count, size)

        def whole(count):
            return builder.and_(lanes, lanes.type(-count))

        def ask_for(row, write):
            turning = builder.mul(lanes, lanes.type(2 * item))
            with cgutils.for_range_slice(builder, none, turning, lanes.type(LINE)) as (i, _):
                _prefetch(builder, builder.add(row, i), write)

        @contextmanager
        def each_row():
            with cgutils.for_range(builder, count) as loop:
                pointer = builder.inttoptr(
                    _at(builder, entry, entry_step, loop.index), lanes.type.as_pointer()
                )
                c = builder.add(builder.load(pointer), table_first)
                c = _at(builder, c, table_step, loop.index)
                source = _at(builder, x, x_step, loop.index)
                target = _at(builder, out, out_step, loop.index)
                yield source, target, (c, builder.add(c, sine_table))

        def turn_together(number):
            with each_row() as (source, target, angles):
                with cgutils.for_range(builder, some) as row:
                    if not streams:
                        soon = _at(builder, target, out_row, row.index)
                        ask_for(builder.add(soon, out_ahead), write=True)
                    else:
                        soon = _at(builder, source, x_row, row.index)
                        ask_for(builder.add(soon, x_ahead), write=False)
                beside = builder.add(source, x_row), builder.add(target, out_row)
                places = [(source, target), beside][:number]
                turn_blocks(places, angles, none, done, line, in_lines)

        none, done = lanes.type(0), whole(line)
        two = builder.icmp_signed("==", some, lanes.type(2))
        if item == 2:
            done = builder.select(two, done, none)
        ordinarily = in_lines = in_pieces = [(0, ir.IntType(1)(1))]
        if streams:
            asked = {
                size: builder.icmp_signed("==", piece, lanes.type(size))
                for size in (LINE, PIECE, 0)
            }
            done = builder.select(asked[0], none, done)
            in_lines = [(size, asked[size]) for size in (LINE, PIECE)]
            in_pieces = [(PIECE, builder.not_(asked[0])), (0, asked[0])]
        if item == 4:
            with builder.if_else(two) as (both, one):
                with both:
                    turn_together(2)
                with one:
                    turn_together(1)
        else:
            turn_together(2 if item == 2 else 1)
        with (
            builder.if_then(builder.icmp_signed("<", done, lanes)),
            each_row() as (source, target, angles),
            cgutils.for_range(builder, some) as row,
        ):
            alone = [
                (
                    _at(builder, source, x_row, row.index),
                    _at(builder, target, out_row, row.index),
                )
            ]
            for width in (line, 8) if line > 8 else (8,):
                turn_blocks(alone, angles, done, whole(width), width, in_pieces)
                done = whole(width)
            turn_blocks(alone, angles, done, lanes, 1, ordinarily)
        return context.get_dummy_value()

    return types.void(kind, half, stream, *[types.int64] * 16, sign), generate


@intrinsic
def rearrange_pairs(typing_context, kind, half, x, out, lanes):  # pragma: compiled
    """Copy all pairs of a row from the other layout into halves, or, where `half` is None, side by side."""
    halves = half != types.none
    item, element = kind.dtype.bitwidth // 8, ir.IntType(kind.dtype.bitwidth)

    def generate(context, builder, signature, arguments):
        x, out, lanes = arguments[2:]
        done = lanes.type(0)
        for count in sorted({LINE // item, 8, 1}, reverse=True):
            whole, step = builder.and_(lanes, lanes.type(-count)), lanes.type(count)
            with cgutils.for_range_slice(builder, done, whole, step) as (i, _):
                a, b = _read_pairs(builder, not halves, x, i, lanes, item, count, element)
                _write_pairs(builder, halves, out, i, lanes, item, a, b, 0)
            done = whole
        return context.get_dummy_value()

    return types.void(kind, half, *[types.int64] * 3), generate


@intrinsic
def copy_bytes(typing_context, source, target, count):  # pragma: compiled
    """Copy bytes between addresses."""

    def generate(context, builder, signature, arguments):
        source, target = (
            builder.inttoptr(place, ir.IntType(8).as_pointer()) for place in arguments[:2]
        )
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def fence(typing_context):  # pragma: compiled
    """Wait until streamed data is in memory."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def address(typing_context, array):  # pragma: compiled
    """Return the address of the first element; Numba does not know that it refers to the memory of the array."""

    def generate(context, builder, signature, arguments):
        source = arrayobj.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(source.data, ir.IntType(64))

    return types.int64(array), generate


if COMPILED:
    # The storage of 16-bit numbers, which Numba does not compute with: see `STORAGE` in cpu.py.
    FLOAT16_BITS, BFLOAT16_BITS = types.uint16, types.int16
    HALF_IN_HARDWARE = _converts_half()


# ------------------------------------------------------------------------------------------------
# Rotating pairs.


# The entries of a row of `geometry`: the memory layout of one array and its result, in bytes except for counts.
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

# The answers of `rotate`; it has written nothing unless it is DONE.
DONE, BEYOND_TABLE, OVERLAP = range(3)


@loop
def rotate_tokens(  # pragma: compiled
    kind,
    x_first,
    out_first,
    geometry,
    table,
    index,
    origin,
    step,
    sign,
    half,
    stream,
    scratch,
    first,
    last,
):
    """Rotate tokens first .. last - 1 of an array, counted through batch and sequence; see `rotate`.

    Arrays are addresses and strides in bytes: Numba's indexing costs more than the rotation of a row.
    The walk is in the order of memory: through the heads of a token, or, where the tokens of a head lie
    closer together, through some tokens of a head. A row whose layout changes is rearranged aside first.
    """
    length, heads = geometry[LENGTH], geometry[HEADS]
    x_batch, x_token, x_head = geometry[X_BATCH], geometry[X_TOKEN], geometry[X_HEAD]
    out_batch, out_token, out_head = geometry[OUT_BATCH], geometry[OUT_TOKEN], geometry[OUT_HEAD]
    before, after = geometry[BEFORE], geometry[AFTER]
    moved = geometry[MOVED] != 0
    tables, entries, lanes = table.shape[1:]
    item, entry_size = kind.itemsize, lanes * table.itemsize
    turning = 2 * lanes * item
    size = before + turning + after
    copy = size != turning and x_first != out_first
    sine_table = tables * entries * entry_size
    own_table = entries * entry_size if tables > 1 else 0
    table_first = address(table)
    # Rows are rotated in one go if they are whole blocks and nothing else has to happen between them.
    one_by_one = copy or moved or turning // 2 % LINE != 0
    piece = stream
    if stream is not None:
        # An unaligned streaming store would end the process.
        places = out_first | out_batch | out_token | out_head | before | turning // 2
        piece = LINE if places % LINE == 0 else PIECE if places % PIECE == 0 else 0
        one_by_one = one_by_one or piece == 0
    by_head = heads == 1 or abs(x_head) > abs(x_token)
    by_twos = item == 2 or (item == 4 and by_head)
    two = 2 if by_twos and tables == 1 and not moved else 1
    entry_first = address(scratch)
    aside = entry_first + BLOCK * scratch.itemsize
    token = first
    while token < last:
        batch = token // length
        row = token - batch * length
        tokens = min(length - row, last - token)
        tokens = min(tokens, BLOCK if by_head else 1)
        token += tokens
        x_tokens = x_first + batch * x_batch + row * x_token + before
        out_tokens = out_first + batch * out_batch + row * out_token + before
        for i in range(tokens):
            place = index[min(batch, index.shape[0] - 1), min(row + i, index.shape[1] - 1)]
            scratch[i] = table_first + (place - origin + step * (row + i)) * entry_size
        head = 0
        while head < heads:
            some = two if head + two <= heads else 1
            a, b = x_tokens + head * x_head, out_tokens + head * out_head
            x_next, out_next = x_token - head * x_head, out_token - head * out_head
            cosine = head * own_table
            if by_head:
                rows, entry_step, table_step = tokens, scratch.itemsize, 0
                x_step, out_step = x_token, out_token
                x_next += (tokens - 1) * x_token
                out_next += (tokens - 1) * out_token
                head += some
                if head < heads:
                    x_next, out_next = some * x_head, some * out_head
            else:
                rows, entry_step, table_step = (heads - head) // some, 0, own_table
                x_step, out_step = some * x_head, some * out_head
                head += some * rows
            # What is asked for is some rows ahead, and behind the last row what is turned next.
            ahead = min(rows, AHEAD // (size * some) + 1)
            x_ahead, out_ahead = ahead * x_step, ahead * out_step
            i = 0
            while i < rows:
                if i == rows - ahead:
                    x_ahead += x_next - rows * x_step
                    out_ahead += out_next - rows * out_step
                source, soon, count = a, x_ahead, ahead if i == rows - ahead else rows - ahead
                if one_by_one or (item == 2 and some == 1):
                    count = 1
                if copy:
                    for j in range(some):
                        p, q = a + j * x_head, b + j * out_head
                        if before > 0:
                            copy_bytes(p - before, q - before, before)
                        if after > 0:
                            copy_bytes(p + turning, q + turning, after)
                if moved:
                    rearrange_pairs(kind.dtype, half, a, aside, lanes)
                    source, soon = aside, a + x_ahead - aside
                turn_pairs(
                    kind.dtype,
                    half,
                    piece,
                    count,
                    some,
                    source,
                    b,
                    x_step,
                    out_step,
                    x_head,
                    out_head,
                    soon,
                    out_ahead,
                    lanes,
                    entry_first + i * entry_step,
                    entry_step,
                    cosine + i * table_step,
                    table_step,
                    sine_table,
                    sign,
                )
                i += count
                a += count * x_step
                b += count * out_step
    if stream is not None:
        fence()


@loop
def positions_in_table(index, step, longest, start, stop):  # pragma: compiled
    """Return whether all of so many rows read positions start .. stop - 1."""
    last = step * (longest - 1)
    if last > stop - 1 - start:
        return False
    for batch in range(index.shape[0]):
        for row in range(index.shape[1]):
            place = index[batch, row]
            if place < start or place > stop - 1 - last:
                return False
    return True


@loop
def outputs_disjoint(x_firsts, out_firsts, geometry):  # pragma: compiled
    """Return whether no result overlaps another array or result; it may be its own array."""
    for i in range(geometry.shape[0]):
        low, high = out_firsts[i] + geometry[i, OUT_LOW], out_firsts[i] + geometry[i, OUT_HIGH]
        for j in range(geometry.shape[0]):
            same = i == j and x_firsts[i] == out_firsts[i]
            for k in range(X_BATCH, X_BATCH + 3):
                same = same and geometry[i, k] == geometry[i, k + 3]
            a, b = x_firsts[j] + geometry[j, X_LOW], x_firsts[j] + geometry[j, X_HIGH]
            if not same and low < b and a < high:
                return False
            a, b = out_firsts[j] + geometry[j, OUT_LOW], out_firsts[j] + geometry[j, OUT_HIGH]
            if i != j and low < b and a < high:
                return False
    return True


def rotate(  # pragma: compiled
    x,
    out,
    x2,
    out2,
    geometry,
    table,
    index,
    start,
    stop,
    step,
    sign,
    disjoint,
    half,
    stream,
    chunks,
):
    """Rotate one array or two by the same table, in as many chunks as threads.

    Only the addresses of the arrays are used; a row of `geometry` describes the memory layout of each. The table
    holds cosine and sine. Its shape is (2, heads or 1, rows, pairs), and its first row is for position `start`. Token
    s of batch b has position ``index[b, s] + step * s``; either axis of the index may have length 1. `sign` -1 rotates
    back. `half` is True if the layout of the result is half, `stream` if the result is written past the caches;
    otherwise they are None, because these variants are compiled separately. Errors are found before the first byte is
    written: a position outside start .. stop - 1, and, unless `disjoint` says that the caller has checked, a result
    that overlaps another array or result.
    """
    arrays = geometry.shape[0]
    x_firsts, out_firsts = (address(x), address(x2)), (address(out), address(out2))
    for i in range(arrays):
        if not positions_in_table(index, step, geometry[i, LENGTH], start, stop):
            return BEYOND_TABLE
    if not disjoint and not outputs_disjoint(x_firsts, out_firsts, geometry):
        return OVERLAP
    row = table.shape[3] * 2 * out.itemsize
    for chunk in prange(chunks):
        # Where the rows of some tokens are, and room for a row whose layout changes.
        scratch = np.empty(BLOCK + row // 8 + 1, np.int64)
        for i in range(arrays):
            tokens = geometry[i, TOKENS]
            rotate_tokens(
                out,
                x_firsts[i],
                out_firsts[i],
                geometry[i],
                table,
                index,
                start,
                step,
                sign,
                half,
                stream,
                scratch,
                chunk * tokens // chunks,
                (chunk + 1) * tokens // chunks,
            )
        scratch[0] = 0  # addresses own nothing: this use keeps the memory until here
    return DONE
