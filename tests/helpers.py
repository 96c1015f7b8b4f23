"""The array libraries under test, and an exact rotation that shares no code with the library."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from functools import cache
from pathlib import Path

import ml_dtypes
import mpmath
import numpy as np
import pytest

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
LAYOUTS = ("half", "interleaved")


def as_dtype(name):
    """A NumPy dtype by name, bfloat16 included."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def random_array(shape, dtype="float32", seed=0):
    """Normally distributed numbers of any dtype."""
    rng = np.random.default_rng(seed)
    dtype = as_dtype(dtype)
    values = rng.normal(size=shape)
    if dtype.kind == "c":
        values = values + 1j * rng.normal(size=shape)
    return values.astype(dtype)


# ------------------------------------------------------------------------------------------------
# Libraries.


class Library:
    """Makes, reads and transforms the arrays of one library."""

    def __init__(self, name, module):
        self.name = name
        self.module = importlib.import_module(module)

    def __repr__(self):
        return self.name

    def session(self):
        """A context for a test."""
        return contextlib.nullcontext()

    def asarray(self, array):
        return self.module.asarray(array)

    def to_numpy(self, x):
        return np.asarray(x)

    def owns(self, x):
        return isinstance(x, type(self.asarray(np.zeros(1, np.float32))))

    def dtype_name(self, x):
        return str(getattr(x.dtype, "name", x.dtype)).rsplit(".", 1)[-1].lower()

    def address(self, x):
        return self.to_numpy(x).__array_interface__["data"][0]

    def _not_there(self, function):
        raise NotImplementedError

    # Transforms of functions. `uncomputed` fails if the function reads a value.
    uncomputed = jit = grad = vmap = _not_there

    def whole_jit(self, function):
        """Compile into one program, without graph breaks."""
        return self.jit(function)

    def traced(self, function):
        """Hide the values of the arrays from the function."""
        return self.jit(function)


class NumPy(Library):
    def asarray(self, array):
        return np.asarray(array)

    def to_numpy(self, x):
        assert type(x) is np.ndarray
        return x


class Strict(Library):
    def to_numpy(self, x):
        return np.from_dlpack(x)


class Torch(Library):
    def asarray(self, array):
        if array.dtype == BFLOAT16:
            return self.module.from_numpy(array.view(np.int16)).view(self.module.bfloat16)
        return self.module.from_numpy(array)

    def to_numpy(self, x):
        if x.dtype == self.module.bfloat16:
            return x.detach().view(self.module.int16).numpy().view(BFLOAT16)
        return x.detach().numpy()

    def jit(self, function, **options):
        def run(*arrays):
            # The tracer warns of code that it skips.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return compiled(*arrays)

        # The backend "eager" traces as the others do and needs no C++ compiler.
        compiled = self.module.compile(function, backend="eager", **options)
        return run

    def whole_jit(self, function):
        return self.jit(function, fullgraph=True)

    def grad(self, function):
        return self.module.func.grad(function)

    def vmap(self, function):
        return self.module.func.vmap(function)


class Jax(Library):
    def session(self):
        return self.module.enable_x64(True)

    def asarray(self, array):
        return self.module.numpy.asarray(array)

    def jit(self, function):
        return self.module.jit(function)

    def grad(self, function):
        return self.module.grad(function)

    def vmap(self, function):
        return self.module.vmap(function)


class Mlx(Library):
    def asarray(self, array):
        if array.dtype == BFLOAT16:
            return self.module.array(array.view(np.uint16)).view(self.module.bfloat16)
        name = "bool_" if array.dtype == bool else array.dtype.name
        return self.module.array(array, getattr(self.module, name))

    def to_numpy(self, x):
        if x.dtype == self.module.bfloat16:
            return np.array(x.view(self.module.uint16)).view(BFLOAT16)
        return np.array(x)

    def jit(self, function):
        return self.module.compile(function)

    uncomputed = jit  # MLX refuses to evaluate arrays during compilation

    def grad(self, function):
        return self.module.grad(function)

    def vmap(self, function):
        return self.module.vmap(function)


class Dask(Library):
    def asarray(self, array):
        return self.module.from_array(array, chunks=2)

    def to_numpy(self, x):
        return x.compute(scheduler="synchronous")

    def uncomputed(self, function):
        def run(*arrays):
            with importlib.import_module("dask").config.set(scheduler=_refuse):
                return function(*arrays)

        return run

    traced = uncomputed


def _refuse(*_, **__):
    message = "something was computed"
    raise AssertionError(message)


class Ndonnx(Library):
    def to_numpy(self, x):
        return x.unwrap_numpy()

    def uncomputed(self, function):
        """Run with the inputs of a graph, which have no values, then with the arrays."""

        def run(*arrays):
            inputs = [self.module.argument(shape=x.shape, dtype=x.dtype) for x in arrays]
            got = function(*inputs)
            assert got.dtype == arrays[0].dtype
            assert got.shape == arrays[0].shape
            return function(*arrays)

        return run

    def jit(self, function):
        """Build a graph and run it in ONNX Runtime."""

        def run(*arrays):
            import onnxruntime

            inputs = {
                f"x{i}": self.module.argument(shape=x.shape, dtype=x.dtype)
                for i, x in enumerate(arrays)
            }
            model = self.module.build(inputs, {"y": function(*inputs.values())})
            session = onnxruntime.InferenceSession(model.SerializeToString())
            values = dict(zip(inputs, map(self.to_numpy, arrays), strict=True))
            return self.asarray(session.run(["y"], values)[0])

        return run


def has_gpu():
    """Whether CuPy finds a GPU, unless ROTARY_CUDA=host hides it."""
    return (
        os.environ.get("ROTARY_CUDA") != "host"
        and importlib.import_module("cupy").cuda.is_available()
    )


def gpus_of(name):
    """How many GPUs a library sees."""
    module = importlib.import_module(LIBRARIES[name][1])
    if name == "jax":
        return sum(device.platform == "gpu" for device in module.devices())
    return (module.cuda.runtime.getDeviceCount if name == "cupy" else module.cuda.device_count)()


class Cupy(Library):
    """CuPy on a GPU, or else in memory of the host with kernels compiled for the processor."""

    def __init__(self, name, module):
        super().__init__(name, module)
        self.put, self.get = self.module.asarray, self.module.asnumpy
        if not has_gpu():
            sys.path.insert(0, str(Path(__file__).parent / "backends" / "cuda"))
            memory = importlib.import_module("host_memory")
            memory.install()
            self.put, self.get = memory.to_device, memory.to_host

    def asarray(self, array):
        return self.put(array)

    def to_numpy(self, x):
        assert type(x) is self.module.ndarray
        return self.get(x)

    def traced(self, function):
        """Return the function itself, because the host does not know values on a GPU."""
        return function


LIBRARIES = {
    "numpy": (NumPy, "numpy"),
    "array-api-strict": (Strict, "array_api_strict"),
    "torch": (Torch, "torch"),
    "jax": (Jax, "jax"),
    "mlx": (Mlx, "mlx.core"),
    "dask": (Dask, "dask.array"),
    "ndonnx": (Ndonnx, "ndonnx"),
    "cupy": (Cupy, "cupy"),
}


def modules(*names):
    """Modules of array libraries as parameters, each marked with its library."""
    of_module = {module: name for name, (_, module) in LIBRARIES.items()} | {"jax.numpy": "jax"}
    return [pytest.param(name, marks=pytest.mark.library(of_module[name])) for name in names]


@cache
def library_named(name):
    kind, module = LIBRARIES[name]
    return kind(name, module)


# ------------------------------------------------------------------------------------------------
# The exact rotation, in integers of 2**-SCALE.

SCALE = 220
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}


@cache
def exact_cos_sin(position, frequency):
    """Cosine and sine of position * frequency, as integers in units of 2**-SCALE."""
    with mpmath.workprec(SCALE + 140):
        angle = mpmath.mpf(position) * mpmath.mpf(frequency)
        one = mpmath.ldexp(1, SCALE)
        return int(mpmath.nint(mpmath.cos(angle) * one)), int(mpmath.nint(mpmath.sin(angle) * one))


def powers(base, dim):
    """The default frequencies, each correctly rounded to float64."""
    with mpmath.workprec(300):
        return [float(mpmath.mpf(base) ** (mpmath.mpf(-2 * i) / dim)) for i in range(dim // 2)]


def to_integers(values):
    """Real numbers as exact integers in units of 2**-SCALE."""
    flat = []
    for value in np.asarray(values).astype(np.float64).ravel().tolist():
        numerator, denominator = value.as_integer_ratio()
        assert denominator <= 1 << SCALE
        flat.append((numerator << SCALE) // denominator)
    return np.array(flat, dtype=object).reshape(np.shape(values))


def pairs_of(width, layout):
    """The channel pairs, straight from the definition."""
    if layout == "half":
        return [(i, i + width // 2) for i in range(width // 2)]
    return [(2 * i, 2 * i + 1) for i in range(width // 2)]


def as_real(x):
    """A complex array as interleaved real channels; a real one unchanged."""
    if x.dtype.kind != "c":
        return x
    return np.stack([x.real, x.imag], axis=-1).reshape(*x.shape[:-1], 2 * x.shape[-1])


def rotate_exactly(
    x,
    places,
    inv_freq,
    *,
    layout="half",
    output_layout=None,
    start=0,
    factor=1.0,
    backwards=False,
):
    """Rotate x exactly: return integers in units of 2**(-2 * SCALE), and the length of every pair.

    `places` are the positions, which broadcast to x.shape[:-1]. A complex x is read as interleaved real channels.
    """
    if x.dtype.kind == "c":
        layout = output_layout = "interleaved"
    x = as_real(x)
    source = to_integers(x)
    result = source << SCALE
    size = np.zeros(x.shape)
    places = np.broadcast_to(np.asarray(places, dtype=object), x.shape[:-1])
    multiple = int(factor * 2.0**60)
    assert multiple == factor * 2.0**60
    width = 2 * len(inv_freq)
    read = [(a + start, b + start) for a, b in pairs_of(width, layout)]
    write = [(a + start, b + start) for a, b in pairs_of(width, output_layout or layout)]
    for where in np.ndindex(x.shape[:-1]):
        for frequency, (a, b), (c, d) in zip(inv_freq, read, write, strict=True):
            cosine, sine = exact_cos_sin(places[where], float(frequency))
            sine = -sine if backwards else sine
            first, second = source[where][a], source[where][b]
            result[(*where, c)] = (first * cosine - second * sine) * multiple >> 60
            result[(*where, d)] = (second * cosine + first * sine) * multiple >> 60
            length = np.hypot(float(x[where][a]), float(x[where][b])) * factor
            size[(*where, c)] = size[(*where, d)] = length
    return result, size


def error_in_units(got, exact, size):
    """The largest error compared with `rotated`, in unit roundoffs of the compute dtype.

    The rounding to 16 bits does not count. Channels outside the rotated window must be equal.
    """
    narrow = got.dtype.itemsize == 2
    bits = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 2.0**-134)}
    got = as_real(got)
    unit = UNIT["float64" if got.dtype == np.float64 else "float32"]
    difference = np.abs((to_integers(got) << SCALE) - exact) / (1 << (2 * SCALE))
    difference = difference.astype(np.float64)
    if narrow:
        relative, absolute = bits[got.dtype.name]
        value = np.abs(got.astype(np.float64)) + difference
        difference = np.maximum(0.0, difference - np.maximum(relative * value, absolute))
    rotates = size > 0
    assert not difference[~rotates].any(), "a channel outside the rotated window has changed"
    return (difference[rotates] / (unit * size[rotates])).max(initial=0.0)


def bound(dtype, *, portable=False, factor=1.0):
    """The promised bound, in unit roundoffs of the pair's length."""
    if portable:
        return 8.0
    if as_dtype(dtype) in (np.float64, np.complex128):
        return 4.0 if factor == 1.0 else 6.0
    return 3.0


def same_bits(a, b):
    """Whether two arrays are equal in every bit, signs of zeros and NaNs included."""
    a, b = np.asarray(a), np.asarray(b)
    return (
        a.dtype.newbyteorder("=") == b.dtype.newbyteorder("=")
        and a.shape == b.shape
        and a.astype(a.dtype.newbyteorder("=")).tobytes()
        == b.astype(b.dtype.newbyteorder("=")).tobytes()
    )


def kernel_in_use():
    """The name of the module that rotates NumPy arrays here: "cpu", or "portable" without Numba."""
    from rotary import backends

    return backends.host().__name__.split(".")[2]
