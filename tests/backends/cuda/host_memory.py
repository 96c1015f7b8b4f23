"""Genuine CuPy arrays on the host's memory, and the library's own dispatch driving kernels built for the processor.

`install` puts another object in the place of the one that asks CuPy for a driver, and an allocator of host memory
in that of CuPy's. Nothing else is replaced: arrays are `cupy.ndarray`, and what is tested is what users run. A GPU
that is there is left alone; what a real one does is asked in `test_gpu.py`, in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from functools import cache
from typing import NamedTuple

import cupy
import numpy as np
from emulation import Kernels, build

from rotary._lib.libraries import namespace
from rotary.backends.cuda import memory
from rotary.backends.cuda import parameters as cuda_struct

# As cudaMalloc aligns; NaN in every floating dtype.
ALIGNMENT, FILL = 256, 0xFF
VECTOR = cuda_struct.VECTOR_BYTES
# Multiprocessors of the GPU that there is not: few, so that small launches meet both kinds of grid.
MULTIPROCESSORS = 2
KIND = os.environ.get("ROTARY_CUDA_EMULATION", "plain")
# Of the threads, in turn: no result may depend on it.
ORDERS = (0, 1, 12345)

_libc = ctypes.CDLL(None)
_free = _libc.free
_free.argtypes = [ctypes.c_void_p]


@cache
def kernels():
    """The kernels, built for the processor."""
    return Kernels(build())


class _Block:
    """Memory of exactly so many bytes: the sanitizer sees every touch beyond its ends."""

    made = alive = 0

    def __init__(self, nbytes):
        address = ctypes.c_void_p()
        size = ctypes.c_size_t(max(nbytes, 1))
        if _libc.posix_memalign(ctypes.byref(address), ctypes.c_size_t(ALIGNMENT), size):
            raise MemoryError
        self.address, self.nbytes = address.value, nbytes
        ctypes.memset(self.address, FILL, nbytes)
        _Block.made += 1
        _Block.alive += nbytes

    def __del__(self, free=_free):  # which is still there when the process ends
        _Block.alive -= self.nbytes
        free(self.address)


class _Poisoned(_Block):
    """Memory of which nothing may be touched but what is given free afterwards."""

    def __init__(self, nbytes):
        super().__init__(nbytes)
        self.kernels = kernels()
        self.kernels.poison(self.address, nbytes)

    def __del__(self, free=_free):
        self.kernels.unpoison(self.address, self.nbytes)
        super().__del__(free)


def _pointer(block, device):
    memory = cupy.cuda.UnownedMemory(block.address, block.nbytes, block, device)
    return cupy.cuda.MemoryPointer(memory, 0)


def allocate(nbytes):
    """CuPy's allocator, on the host; memory is of the GPU that is current."""
    return _pointer(_Block(int(nbytes)), memory.driver.device)


def allocations():
    """How often memory has been allocated so far."""
    return _Block.made


def alive():
    """How many bytes are allocated now."""
    return _Block.alive


def window(x):
    """The memory of a CuPy array on the host, as NumPy sees it."""
    if not x.size:
        return np.empty(x.shape, x.dtype)
    steps = list(zip(x.strides, x.shape, strict=True))
    low = sum(min(step * (n - 1), 0) for step, n in steps)
    span = sum(abs(step) * (n - 1) for step, n in steps) + x.itemsize
    memory = (ctypes.c_uint8 * span).from_address(x.data.ptr + low)
    return np.ndarray(x.shape, x.dtype, memory, -low, x.strides)


def _spaced(shape, dtype, device):
    """An empty array whose rows are more than a vector apart, all between them out of bounds."""
    *front, width = shape or (1,)
    row = (width * dtype.itemsize // VECTOR + 2) * VECTOR
    block = _Poisoned(math.prod(front) * row)
    for i in range(math.prod(front)):
        kernels().unpoison(block.address + i * row, width * dtype.itemsize)
    strides = [math.prod(front[axis + 1 :]) * row for axis in range(len(front))]
    strides = (*strides, dtype.itemsize)[len(strides) + 1 - len(shape) :]
    return cupy.ndarray(shape, dtype, _pointer(block, device), strides)


def _exact(values, device):
    """A CuPy array of host values, their memory just as long."""
    x = cupy.ndarray(values.shape, values.dtype, _pointer(_Block(values.nbytes), device))
    window(x)[...] = values
    return x


def to_device(values, device=None):
    """A CuPy array of host values, on the GPU that is current or another."""
    values = np.asarray(values)
    device = memory.driver.device if device is None else device
    if KIND != "sanitized":
        return _exact(values, device)
    x = _spaced(values.shape, values.dtype, device)
    window(x)[...] = values
    return x


def to_host(x):
    """The values of a CuPy array."""
    return np.array(window(x))


class Launched(NamedTuple):
    """One launch, as the driver was asked for it."""

    device: int
    stream: int | None
    name: str
    grid: tuple
    block: tuple
    parameters: np.void


class HostDriver(memory.Driver):
    """What stands in for the driver: the host's memory, kernels built by g++, and a record of what is asked for."""

    installed, missing, is_foreign = True, None, False
    capturing = busy = False

    def __init__(self):
        super().__init__()
        self.launches, self.log = [], []
        self.device, self.current = 0, None
        self.thread_order = None  # one after another

    def upload(self, values, *, blocking):
        self.log.append(("upload", values.nbytes, blocking))
        return super().upload(values, blocking=blocking)

    def kernel(self, name):
        self.log.append(("kernel", name))
        function = super().kernel(name)

        def launch(grid, block, arguments):
            (argument,) = arguments
            # CuPy passes an array of one element by its value.
            assert type(argument) is np.ndarray
            assert (argument.size, argument.itemsize) == (1, cuda_struct.SIZE)
            assert all(type(n) is int for n in (*grid, *block))
            parameters = argument.view(cuda_struct.PARAMETERS)[0]
            self.launches.append(Launched(self.device, self.current, name, grid, block, parameters))
            function(grid, block, arguments)

        return launch

    @contextlib.contextmanager
    def scope(self, device):
        before, self.device = self.device, device
        try:
            yield
        finally:
            self.device = before

    @contextlib.contextmanager
    def stream(self, address, device):
        before = self.current
        self.current = before if address is None else address
        try:
            yield
        finally:
            self.current = before

    def order(self, before, after, device):
        assert self.device == device
        self.log.append(("order", before, after))

    @property
    def cupy(self):
        """CuPy, but for what asks its driver."""
        return _Substitute(self)

    def multiprocessors(self, device):
        return MULTIPROCESSORS

    def place(self, address):
        return self.device, False

    def current_device(self):
        return self.device

    def contiguous(self, x):
        assert self.device == x.data.device_id
        return _exact(np.ascontiguousarray(window(x)), self.device)

    def cast(self, x, dtype):
        assert self.device == x.data.device_id
        return _exact(window(x).astype(dtype), self.device)

    def assign(self, target, source):
        assert self.device == target.data.device_id == source.data.device_id
        window(target)[...] = window(source)

    def from_dlpack(self, x):
        try:
            values = np.from_dlpack(x)
        except RuntimeError as error:
            raise BufferError from error  # as CuPy says that it has no such dtype
        memory = cupy.cuda.UnownedMemory(values.ctypes.data, values.nbytes, values, self.device)
        pointer = cupy.cuda.MemoryPointer(memory, 0)
        return cupy.ndarray(values.shape, values.dtype, pointer, values.strides)

    def to_library(self, result, like):
        assert self.device == result.data.device_id
        return namespace(like).asarray(to_host(result))


class _Substitute:
    """The part of CuPy that `Driver` uses without being replaced itself."""

    def __init__(self, driver):
        self.driver = driver
        self.cuda = self

    compiler = cupy.cuda.compiler

    def get_current_stream(self):
        return self

    @property
    def ptr(self):
        return self.driver.current or 0

    def is_capturing(self):
        return self.driver.capturing

    def record(self):
        self.driver.log.append(("record", self.driver.current))
        return _Event(self.driver)

    def asarray(self, values, *, blocking):
        return _exact(np.ascontiguousarray(values), self.driver.device)

    def RawModule(self, *, code, options):
        assert options == cuda_struct.OPTIONS
        return _Module(self.driver, code)


class _Event:
    """Something that comes to pass when the driver says so."""

    def __init__(self, driver):
        self.driver = driver

    @property
    def done(self):
        return not self.driver.busy


class _Module:
    """A module of CuPy's, whose functions run on the processor."""

    def __init__(self, driver, code):
        self.driver, self.code = driver, code

    def get_function(self, name):
        assert self.code == cuda_struct.program(name)

        def launch(grid, block, arguments):
            order = self.driver.thread_order
            if order is None:
                order = ORDERS[len(self.driver.launches) % len(ORDERS)]
            kernels().launch(name, grid, block, arguments[0], order=order)

        return launch


def recording():
    """The driver, whose record begins anew."""
    driver = install()
    driver.launches.clear()
    driver.log.clear()
    return driver


def install():
    """Have the library run on the host; once for a process, whose plans and frequencies then lie there."""
    if not isinstance(memory.driver, HostDriver):
        memory.driver = HostDriver()
        cupy.cuda.set_allocator(allocate)
        if "jax" in sys.modules:
            # Its arrays are to lie on the host as well, where there is a GPU.
            sys.modules["jax"].config.update("jax_platforms", "cpu")
    return memory.driver
