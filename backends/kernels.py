"""Every loop over numbers: filling tables of cosine and sine, and turning pairs of channels.

All compiled code is in this one file, because Numba's disk cache notices a change only in the file
of the function it compiled. The formulas (`formula`) work on one number at a time when compiled and
on whole NumPy arrays when not, so that tables have the same bits with and without Numba; the kernels
are plain loops, which `rotary.backends.cpu` compiles serial and parallel.

The tables use no fused multiply-add: products and sums are rounded one by one, on every machine.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

try:
    import numba

    COMPILED = not numba.config.DISABLE_JIT
except ImportError:
    COMPILED = False

if COMPILED:
    import llvmlite.binding
    from llvmlite import ir
    from numba import njit, prange, types
    from numba.core import cgutils
    from numba.extending import intrinsic, overload
    from numba.np import arrayobj

    formula = njit(inline="always", error_model="numpy")
    loop = njit(nogil=True, error_model="numpy")

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

    formula = loop = intrinsic = _as_it_is


# ------------------------------------------------------------------------------------------------
# The exact phase: an integer multiplication in 32-bit limbs, wrapping at one turn.

ZERO = np.uint64(0)
ONE = np.uint64(1)
TWO = np.uint64(2)
WORD = np.uint64(32)
LOW_WORD = np.uint64(0xFFFFFFFF)


@formula
def add_product(m, f0, f1, f2, f3, f4, f5, t0, t1, t2, t3, t4, t5):
    """Return the limbs of ``t + m * f`` modulo ``2**192``; nothing overflows 64 bits."""
    s0 = m * f0 + t0
    s1 = m * f1 + t1 + (s0 >> WORD)
    s2 = m * f2 + t2 + (s1 >> WORD)
    s3 = m * f3 + t3 + (s2 >> WORD)
    s4 = m * f4 + t4 + (s3 >> WORD)
    s5 = m * f5 + t5 + (s4 >> WORD)
    return (
        s0 & LOW_WORD,
        s1 & LOW_WORD,
        s2 & LOW_WORD,
        s3 & LOW_WORD,
        s4 & LOW_WORD,
        s5 & LOW_WORD,
    )


@formula
def turn(d0, d1, d2, f0, f1, f2, f3, f4, f5, f6, f7):
    """Return the top 128 bits of a position's fraction of a turn, as two 64-bit words.

    The digits d (least first) are the position's, the limbs f the frequency's, starting two limbs
    below the last fraction limb that counts.
    """
    t0, t1, t2, t3, t4, t5 = add_product(
        d0, f2, f3, f4, f5, f6, f7, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    )
    t0, t1, t2, t3, t4, t5 = add_product(d1, f1, f2, f3, f4, f5, f6, t0, t1, t2, t3, t4, t5)
    t0, t1, t2, t3, t4, t5 = add_product(d2, f0, f1, f2, f3, f4, f5, t0, t1, t2, t3, t4, t5)
    return (t5 << WORD) | t4, (t3 << WORD) | t2


@formula
def add_signed(high, low, more_high, more_low, negative):
    """Return the 128-bit sum of two phases, the second one negated where ``negative`` is 1."""
    flip = ZERO - negative
    low_term = more_low ^ flip
    high_term = more_high ^ flip
    # Minus a number is its complement plus one.
    partial = low_term + negative
    carry = negative & np.uint64(partial == ZERO)
    low_sum = low + partial
    return high + high_term + carry + np.uint64(low_sum < partial), low_sum


# ------------------------------------------------------------------------------------------------
# Cosine and sine of a phase. Coefficients and error bounds: docs/explanation/accuracy.md.


@formula
def quadrant(high, low):
    """Return the quadrant and what is left of the phase, rounded to the nearest quarter turn.

    The rest is ``high * 2**-64 + low * 2**-128`` turns, both words signed.
    """
    rounded = high + (low >> np.uint64(63))
    quarter = (rounded + np.uint64(1 << 61)) >> np.uint64(62)
    rest = rounded - (quarter << np.uint64(62))
    return quarter, np.int64(rest), np.int64(low)


@formula
def turn_back(quarter, cosine, sine):
    """Return cosine and sine of the whole phase from those of its rest; every product is exact."""
    odd = np.float64(np.int64(quarter & ONE))
    even = 1.0 - odd
    cosine_sign = 1.0 - np.float64(np.int64((quarter + ONE) & TWO))
    sine_sign = 1.0 - np.float64(np.int64(quarter & TWO))
    return (
        (even * cosine + odd * sine) * cosine_sign,
        (even * sine + odd * cosine) * sine_sign,
    )


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


@formula
def cos_sin_rest32(rest, low):
    """Return cosine and sine of what is left of a phase, exact enough to round to float32."""
    x = np.float64(rest) * TURN_HIGH + np.float64(low) * TURN_LOW
    z = x * x
    c = COS32[4] * z + COS32[3]
    c = c * z + COS32[2]
    c = c * z + COS32[1]
    c = c * z + COS32[0]
    s = SIN32[4] * z + SIN32[3]
    s = s * z + SIN32[2]
    s = s * z + SIN32[1]
    s = s * z + SIN32[0]
    return c * z + 1.0, s * x


@formula
def cos_sin_rest64(rest, low):
    """Return cosine and sine of what is left of a phase, each within one ulp of float64."""
    leading = np.float64(np.float32(rest))  # 24 bits, so that its products below are exact
    head = leading * TURN_HIGH
    tail = np.float64(rest - np.int64(leading)) * TURN_HIGH + np.float64(low) * TURN_LOW
    x = head + tail
    head_squared = head * head
    tail_of_square = (head + x) * tail
    z = head_squared + tail_of_square

    c = COS64[6] * z + COS64[5]
    c = c * z + COS64[4]
    c = c * z + COS64[3]
    c = c * z + COS64[2]
    c = c * z + COS64[1]
    c = c * z * z + tail_of_square * COS64[0]
    leading_term = head_squared * COS64[0]
    c_sum = 1.0 + leading_term
    c = c_sum + ((1.0 - c_sum + leading_term) + c)

    s = SIN64[6] * z + SIN64[5]
    s = s * z + SIN64[4]
    s = s * z + SIN64[3]
    s = s * z + SIN64[2]
    s = s * z + SIN64[1]
    s = s * z + SIN64[0]
    s = s * x + tail * SIN64_HIGH
    s = head * SIN64_HIGH + s
    return c, s


@formula
def cos_sin32(high, low):
    """Return cosine and sine of a phase, exact enough to round to float32."""
    quarter, rest, low_rest = quadrant(high, low)
    c, s = cos_sin_rest32(rest, low_rest)
    return turn_back(quarter, c, s)


@formula
def cos_sin64(high, low):
    """Return cosine and sine of a phase, each within one ulp of float64."""
    quarter, rest, low_rest = quadrant(high, low)
    c, s = cos_sin_rest64(rest, low_rest)
    return turn_back(quarter, c, s)


def cos_sin(high, low, table):
    """Return cosine and sine of a phase, as exact as the table's dtype needs."""
    formula_of_dtype = cos_sin32 if table.dtype == np.float32 else cos_sin64
    return formula_of_dtype(high, low)


# ------------------------------------------------------------------------------------------------
# Memory.


@intrinsic
def vector(typing_context, array, i, j, k, first, length):  # pragma: compiled
    """Return ``array[i, j, k, first : first + length]`` as a contiguous vector that owns nothing.

    The array has four axes and any strides, of which only the last is known to be that of one element;
    saying so is what lets the compiler vectorise. Nothing is checked here: callers are.
    """
    kind = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def generate(context, builder, signature, arguments):
        source = arrayobj.make_array(signature.args[0])(context, builder, arguments[0])
        strides = cgutils.unpack_tuple(builder, source.strides, 4)
        item = context.get_constant(types.intp, context.get_abi_sizeof(source.data.type.pointee))
        offset = builder.mul(arguments[4], item)
        for index, stride in zip(arguments[1:4], strides[:3], strict=True):
            offset = builder.add(offset, builder.mul(index, stride))
        result = arrayobj.make_array(kind)(context, builder)
        arrayobj.populate_array(
            result,
            data=cgutils.pointer_add(builder, source.data, offset),
            shape=(arguments[5],),
            strides=(item,),
            itemsize=item,
            meminfo=None,
        )
        return result._getvalue()

    return kind(array, *[types.intp] * 5), generate


# ------------------------------------------------------------------------------------------------
# Filling tables.


@formula
def add_turns(
    high, low, limbs, head, axis, shift, opposite, negative, d0, d1, d2
):  # pragma: compiled
    """Add one position's fractions of a turn, on one axis, to the phases high and low."""
    lanes = high.shape[0]
    f0 = vector(limbs, head, axis, shift, 0, lanes)
    f1 = vector(limbs, head, axis, shift + 1, 0, lanes)
    f2 = vector(limbs, head, axis, shift + 2, 0, lanes)
    f3 = vector(limbs, head, axis, shift + 3, 0, lanes)
    f4 = vector(limbs, head, axis, shift + 4, 0, lanes)
    f5 = vector(limbs, head, axis, shift + 5, 0, lanes)
    f6 = vector(limbs, head, axis, shift + 6, 0, lanes)
    f7 = vector(limbs, head, axis, shift + 7, 0, lanes)
    for i in range(lanes):
        more_high, more_low = turn(
            d0,
            d1,
            d2,
            np.uint64(f0[i]),
            np.uint64(f1[i]),
            np.uint64(f2[i]),
            np.uint64(f3[i]),
            np.uint64(f4[i]),
            np.uint64(f5[i]),
            np.uint64(f6[i]),
            np.uint64(f7[i]),
        )
        high[i], low[i] = add_signed(high[i], low[i], more_high, more_low, opposite[i] ^ negative)


@formula
def fill_row(high, low, factor, cosine, sine):  # pragma: compiled
    """Write cosine and sine of every lane's phase, times the attention factor."""
    for i in range(high.shape[0]):
        c, s = cos_sin(high[i], low[i], cosine)
        cosine[i] = c * factor
        sine[i] = s * factor


@loop
def fill_rows(  # pragma: compiled
    limbs, opposite, digits, shift, negative, factor, table, row, first, last
):
    """Fill rows ``row + first .. row + last - 1`` of a table (2, heads, rows, lanes).

    Row ``row + p`` is that of position p, given as `rotary.phases.Multipliers`: digits (axes, n, 3),
    shift and negative (axes, n). The frequencies are limbs (heads, axes, limbs, lanes) and opposite
    (heads, axes, lanes), 1 where negative.
    """
    heads, axes, _, lanes = limbs.shape
    buffer = np.empty((1, 1, 2, lanes), np.uint64)
    high = vector(buffer, 0, 0, 0, 0, lanes)
    low = vector(buffer, 0, 0, 1, 0, lanes)
    for p in range(first, last):
        for head in range(heads):
            buffer[:] = ZERO
            for axis in range(axes):
                signs = opposite[head, axis]
                negated = negative[axis, p]
                place = shift[axis, p]
                d0, d1, d2 = digits[axis, p, 0], digits[axis, p, 1], digits[axis, p, 2]
                if d2 == ZERO:
                    # An integer position has two digits; its loop is compiled without the third.
                    add_turns(high, low, limbs, head, axis, place, signs, negated, d0, d1, ZERO)
                else:
                    add_turns(high, low, limbs, head, axis, place, signs, negated, d0, d1, d2)
            cosine = vector(table, 0, head, row + p, 0, lanes)
            sine = vector(table, 1, head, row + p, 0, lanes)
            fill_row(high, low, factor, cosine, sine)
    buffer[0, 0, 0, 0] = ZERO  # vectors own nothing: this use keeps the buffer until here


def fill_table(  # pragma: compiled
    limbs, opposite, digits, shift, negative, factor, table, row, chunks
):
    """Fill a table's rows from ``row`` on, in as many chunks as there are threads."""
    n = shift.shape[1]
    for chunk in prange(chunks):
        fill_rows(
            limbs,
            opposite,
            digits,
            shift,
            negative,
            factor,
            table,
            row,
            chunk * n // chunks,
            (chunk + 1) * n // chunks,
        )


# ------------------------------------------------------------------------------------------------
# Turning pairs.


@intrinsic
def float_from_half(typing_context, bits):  # pragma: compiled
    """Widen the bits of a float16."""

    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def half_from_float(typing_context, value):  # pragma: compiled
    """Round to the bits of a float16, ties to even."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def bits_of_float(typing_context, value):  # pragma: compiled
    """Return the bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def float_of_bits(typing_context, bits):  # pragma: compiled
    """Return the float32 that has these bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@formula
def float_from_half_bits(bits):  # pragma: compiled
    """Widen the bits of a float16 where the processor has no instruction for it."""
    size = np.uint32(bits & np.uint16(0x7FFF)) << np.uint32(13)
    # The exponent's bias differs by 112; a product gets subnormal numbers right as well.
    wide = bits_of_float(float_of_bits(size) * np.float32(2.0**112))
    if size >= np.uint32(0x7C00 << 13):
        wide = size | np.uint32(0x7F800000)
    return float_of_bits(wide | (np.uint32(bits & np.uint16(0x8000)) << np.uint32(16)))


@formula
def half_bits_from_float(value):  # pragma: compiled
    """Round to the bits of a float16, ties to even, where the processor has no instruction for it."""
    bits = bits_of_float(value)
    size = bits & np.uint32(0x7FFFFFFF)
    tie = (size >> np.uint32(13)) & np.uint32(1)
    half = (size - np.uint32(112 << 23) + np.uint32(0xFFF) + tie) >> np.uint32(13)
    if size < np.uint32(0x38800000):
        # Subnormal: a sum with 0.5 rounds to multiples of 2**-24, which are the float16's.
        half = bits_of_float(float_of_bits(size) + np.float32(0.5)) - np.uint32(0x3F000000)
    if size >= np.uint32(0x47800000):
        half = np.uint32(0x7C00)
    if size > np.uint32(0x7F800000):
        half = np.uint32(0x7E00) | (size >> np.uint32(13)) & np.uint32(0x3FF)
    return np.uint16(half | ((bits >> np.uint32(16)) & np.uint32(0x8000)))


@formula
def float_from_bfloat(bits):  # pragma: compiled
    """Widen the bits of a bfloat16, which are the upper half of a float32's."""
    return float_of_bits(np.uint32(np.uint16(bits)) << np.uint32(16))


@formula
def bfloat_from_float(value):  # pragma: compiled
    """Round to the bits of a bfloat16, ties to even; a NaN stays one."""
    bits = bits_of_float(value)
    tie = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = bits + np.uint32(0x7FFF) + tie
    if value != value:
        rounded = bits | np.uint32(0x400000)
    return np.int16(rounded >> np.uint32(16))


def widen(value):  # pragma: compiled
    """Return a channel as a number to compute with: the storage's dtype says what its bits are."""


def narrow(value, row):  # pragma: compiled
    """Return a computed number as it is stored in a row of channels, rounded once."""


if COMPILED:
    # The storage of 16-bit numbers, which Numba does not compute with: see `STORAGE` in cpu.py.
    FLOAT16_BITS, BFLOAT16_BITS = types.uint16, types.int16
    HALF_IN_HARDWARE = _converts_half()

    @overload(cos_sin, inline="always")
    def _cos_sin(high, low, table):  # pragma: compiled
        if table.dtype == types.float32:
            return lambda high, low, table: cos_sin32(high, low)
        return lambda high, low, table: cos_sin64(high, low)

    @overload(widen)
    def _widen(value):  # pragma: compiled
        if value == FLOAT16_BITS:
            if HALF_IN_HARDWARE:
                return lambda value: float_from_half(value)
            return lambda value: float_from_half_bits(value)
        if value == BFLOAT16_BITS:
            return lambda value: float_from_bfloat(value)
        return lambda value: value

    @overload(narrow)
    def _narrow(value, row):  # pragma: compiled
        if row.dtype == FLOAT16_BITS:
            if HALF_IN_HARDWARE:
                return lambda value, row: half_from_float(value)
            return lambda value, row: half_bits_from_float(value)
        if row.dtype == BFLOAT16_BITS:
            return lambda value, row: bfloat_from_float(value)
        return lambda value, row: value


@formula
def read_pairs(x, batch, row, head, start, half, a, b):  # pragma: compiled
    """Read the pairs of a row; `half` says whether a pair is (i, i + lanes) or (2 i, 2 i + 1)."""
    lanes = a.shape[0]
    if half:
        lower = vector(x, batch, row, head, start, lanes)
        upper = vector(x, batch, row, head, start + lanes, lanes)
        for i in range(lanes):
            a[i] = widen(lower[i])
        for i in range(lanes):
            b[i] = widen(upper[i])
    else:
        pairs = vector(x, batch, row, head, start, 2 * lanes)
        for i in range(lanes):
            a[i] = widen(pairs[2 * i])
            b[i] = widen(pairs[2 * i + 1])


@formula
def write_turned(out, batch, row, head, start, half, a, b, cosine, sine, sign):  # pragma: compiled
    """Turn the pairs (a, b) and write them to a row, in either layout."""
    lanes = a.shape[0]
    if half:
        lower = vector(out, batch, row, head, start, lanes)
        upper = vector(out, batch, row, head, start + lanes, lanes)
        for i in range(lanes):
            s = sign * sine[i]
            lower[i] = narrow(a[i] * cosine[i] - b[i] * s, lower)
            upper[i] = narrow(b[i] * cosine[i] + a[i] * s, upper)
    else:
        pairs = vector(out, batch, row, head, start, 2 * lanes)
        for i in range(lanes):
            s = sign * sine[i]
            pairs[2 * i] = narrow(a[i] * cosine[i] - b[i] * s, pairs)
            pairs[2 * i + 1] = narrow(b[i] * cosine[i] + a[i] * s, pairs)


@formula
def copy_channels(x, out, batch, row, head, first, last):  # pragma: compiled
    """Copy the channels first .. last - 1 of a row, which do not turn."""
    source = vector(x, batch, row, head, first, last - first)
    target = vector(out, batch, row, head, first, last - first)
    for i in range(last - first):
        target[i] = source[i]


@loop
def rotate_tokens(  # pragma: compiled
    x, out, table, index, step, start, half_in, half_out, sign, copy, first, last
):
    """Rotate tokens first .. last - 1, counted through batch and sequence; see `rotate`.

    Every row passes through a buffer of the computing dtype, so that `out` may be `x`.
    """
    length, heads, width = x.shape[1:]
    own_tables, _, lanes = table.shape[1:]
    stop = start + 2 * lanes
    buffer = np.empty((1, 1, 2, lanes), table.dtype)
    a = vector(buffer, 0, 0, 0, 0, lanes)
    b = vector(buffer, 0, 0, 1, 0, lanes)
    for token in range(first, last):
        batch = token // length
        row = token - batch * length
        entry = index[min(batch, index.shape[0] - 1), min(row, index.shape[1] - 1)] + step * row
        for head in range(heads):
            own = min(head, own_tables - 1)
            cosine = vector(table, 0, own, entry, 0, lanes)
            sine = vector(table, 1, own, entry, 0, lanes)
            if copy:
                copy_channels(x, out, batch, row, head, 0, start)
                copy_channels(x, out, batch, row, head, stop, width)
            read_pairs(x, batch, row, head, start, half_in, a, b)
            write_turned(out, batch, row, head, start, half_out, a, b, cosine, sine, sign)
    buffer[0, 0, 0, 0] = 0  # vectors own nothing: this use keeps the buffer until here


def rotate(  # pragma: compiled
    x, out, table, index, step, start, half_in, half_out, sign, copy, chunks
):
    """Rotate x (batch, sequence, heads, channels) into out, in as many chunks as threads.

    Channels start .. start + 2 lanes - 1 turn by the angles of a table (2, heads or 1, rows, lanes) of
    cosine and sine; `sign` -1 turns them back. The table's row for batch b and row s of the sequence is
    ``index[b, s] + step * s``, where either axis of the index may have length 1. `copy` says whether
    the other channels have to be copied.
    """
    tokens = x.shape[0] * x.shape[1]
    for chunk in prange(chunks):
        rotate_tokens(
            x,
            out,
            table,
            index,
            step,
            start,
            half_in,
            half_out,
            sign,
            copy,
            chunk * tokens // chunks,
            (chunk + 1) * tokens // chunks,
        )
