"""The limits of the memory: the best copy with all threads, and a multiplication in place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from .cases import Array

BLOCK = 64
AHEAD = 2048


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that starts on a cache line, with its pages in memory."""
    nbytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(nbytes + BLOCK, np.uint8)
    memory.fill(1)
    skip = -memory.ctypes.data % BLOCK
    return memory[skip : skip + nbytes].view(dtype).reshape(shape)


@njit(parallel=True)
def copy_elements(x, out):
    """Copy; LLVM compiles this to one call of memcpy per thread."""
    for i in prange(x.size):
        out[i] = x[i]


@njit(parallel=True)
def scale_elements(x, factor):
    """Multiply in place."""
    for i in prange(x.size):
        x[i] *= factor


@cache
def _block_copy(*, streaming: bool) -> Callable[[int, int], None]:
    """Return a function that copies 64 bytes: without the caches, or with the target prefetched for writing."""

    @intrinsic
    def move(typing, source, target):
        def generate(context, builder, signature, arguments):
            block = ir.VectorType(ir.IntType(8), BLOCK)
            source, target = (builder.inttoptr(each, block.as_pointer()) for each in arguments)
            store = builder.store(builder.load(source, align=1), target, align=BLOCK)
            _prefetch(builder, arguments[0], for_writing=False)
            if streaming:
                mark = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
                store.set_metadata("nontemporal", mark)
            else:
                _prefetch(builder, arguments[1], for_writing=True)
            return context.get_dummy_value()

        return types.none(types.int64, types.int64), generate

    @njit(parallel=True)
    def copy(source, target, blocks, chunks):
        for chunk in prange(chunks):
            for i in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
                move(source + i * BLOCK, target + i * BLOCK)

    return copy


def _prefetch(builder: ir.IRBuilder, address: ir.Value, *, for_writing: bool) -> None:
    """Prefetch a later cache line."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    function = builder.module.globals.get("llvm.prefetch.p0")
    if function is None:
        function = ir.Function(builder.module, kind, "llvm.prefetch.p0")
    ahead = builder.inttoptr(builder.add(address, ir.Constant(ir.IntType(64), AHEAD)), byte)
    builder.call(function, [ahead, *(number(value) for value in (int(for_writing), 3, 1))])


def copies(x: Array, out: Array) -> dict[str, Callable[[], object]]:
    """Functions that copy one contiguous array to another that starts on a cache line. The fastest is used."""
    source, target = (array.reshape(-1).view(np.uint32) for array in (x, out))
    forms: dict[str, Callable[[], object]] = {
        "numpy.copyto": lambda: np.copyto(target, source),
        "memcpy by threads": lambda: copy_elements(source, target),
    }
    if not numba.config.DISABLE_JIT:
        blocks, chunks = x.nbytes // BLOCK, numba.get_num_threads()
        addresses = (source.ctypes.data, target.ctypes.data)
        for form, streaming in (("streaming stores", True), ("prefetched stores", False)):
            copy = _block_copy(streaming=streaming)
            forms[form] = lambda copy=copy: copy(*addresses, blocks, chunks)
    return forms


def scales(x: Array) -> dict[str, Callable[[], object]]:
    """Functions that multiply in place. 16-bit numbers are multiplied in pairs, because only the bytes matter."""
    numbers = x.reshape(-1).view(np.float64 if x.dtype == np.float64 else np.float32)
    one = numbers.dtype.type(1)
    return {
        "numpy.multiply": lambda: np.multiply(numbers, one, out=numbers),
        "by threads": lambda: scale_elements(numbers, one),
    }
