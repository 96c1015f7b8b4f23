"""What only a GPU can show: its own memory, streams, graphs and allocators. No GPU has run these tests yet.

`ROTARY_TEST_BACKEND=numpy,cupy pytest -m gpu` runs them on one. What is right is what NumPy's arrays become on the
host. Tests that need torch or JAX, or a second GPU, are left out where the library sees none.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from functools import cache

import cupy
import cupyx
import numpy as np
import pytest
from helpers import BFLOAT16, random_array

from rotary import RotaryEmbedding, apply_rotary
from rotary.backends.cuda import launch as cuda
from rotary.backends.cuda import parameters as cuda_struct
from rotary.cli import bench as _bench
from rotary.cli import bench_cases as _bench_cases
from rotary.cli import devices as _devices
from rotary.cli import selftest as _selftest

pytestmark = [pytest.mark.gpu, pytest.mark.library("cupy")]

# Or JAX takes most of the memory for itself as soon as it starts.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

SHAPE = (2, 3, 5, 16)
PLACES = np.array([[3, 1, 4, 1, 59], [-2, 6, 5, 35, 10**9]])
STARTS = np.array([1234, -87])
# Two roundings of float32, once here and once on the host, and one of 16 bits.
CLOSE = {"float32": 2e-6, "float64": 1e-14, "float16": 2e-3, "bfloat16": 2e-2}


def embedding(base=10_000.0, **options):
    return RotaryEmbedding(16, layout="half", seq_axis=-2, base=base, **options)


def assert_close(got, want):
    """A result, as an array of NumPy, is what the host gets."""
    assert got.dtype == want.dtype
    close = CLOSE[want.dtype.name]
    np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=close, atol=close)


@pytest.fixture
def launches(monkeypatch):
    """The GPU of every launch from now on."""
    seen, launch = [], cuda.Launch.__call__

    def seen_launch(self, *arguments):
        seen.append(cupy.cuda.runtime.getDevice())
        return launch(self, *arguments)

    monkeypatch.setattr(cuda.Launch, "__call__", seen_launch)
    return seen


# ------------------------------------------------------------------------------------------------
# A stream that is busy for as long as a test wants.

WAIT = """
__device__ unsigned long long now() {
  unsigned long long nanoseconds;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(nanoseconds));
  return nanoseconds;
}
extern "C" __global__ void wait(const volatile int* released) {
  const unsigned long long start = now();
  while (!*released && now() - start < 5000000000ull) {}
}
"""


@cache
def waiting(device):
    """A kernel that waits, launched once, and the number of the host that it waits for.

    There is one for each GPU. What is loaded or allocated later could wait for what runs.
    """
    kernel = cupy.RawKernel(WAIT, "wait")
    released = cupyx.zeros_pinned(1, np.int32)
    released[0] = 1
    kernel((1,), (1,), (released.ctypes.data,))
    cupy.cuda.runtime.deviceSynchronize()
    return kernel, released


@contextlib.contextmanager
def busy(stream):
    """Keep a stream busy until the end, which nothing inside may wait for: that would take five seconds."""
    kernel, released = waiting(cupy.cuda.runtime.getDevice())
    released[0] = 0
    with stream:
        kernel((1,), (1,), (released.ctypes.data,))
    waited = stream.record()
    try:
        yield
        assert not waited.done, "the host waited for the stream"
    finally:
        released[0] = 1
        stream.synchronize()


def on_busy(stream, call):
    """What a call gives on a busy stream, all that first calls do having been done before."""
    # CuPy uses the memory that an upload goes through again after the next one.
    for _ in range(2):
        call()
        cupy.cuda.runtime.deviceSynchronize()
    with busy(stream):
        return call()


class External:
    """Another library's stream, as CuPy is told of it."""

    def __init__(self, address):
        self.address = address

    def __cuda_stream__(self):
        return 0, self.address


# ------------------------------------------------------------------------------------------------
# All kernels.


@pytest.mark.parametrize("angles", cuda_struct.ANGLE_KINDS)
@pytest.mark.parametrize("dtype", cuda_struct.TYPES)
def test_every_instance(dtype, angles):
    """Forwards and backwards, out of place and in place, against exact arithmetic."""
    for case in _selftest.cases(dtype, angles):
        assert _selftest.check(case, _devices.Gpu()) <= 1, case
        assert case.instance in cuda.instances_used()


def test_every_way_to_say_where_rows_stand():
    assert [name for name, same in _selftest.same_rows(_devices.Gpu()) if not same] == []


def test_subnormal_numbers_are_zero_in_float32_alone():
    for dtype, number, want in (("float32", 1e-40, 0.0), ("float64", 1e-310, 1e-310)):
        x = cupy.asarray(np.full((1, 16), number, dtype))
        assert (cupy.asnumpy(embedding()(x)) == want).all()


@pytest.mark.parametrize("length", [1, 5])
def test_what_is_measured_is_right(length):
    case = _bench_cases.Case("small", 2, length, (5, 2), 16, "float32")
    rows = _bench.measure(case, _bench.CONTENDERS, _devices.Gpu(), 1)
    assert [(row.name, row.missing) for row in rows if row.failed] == []
    assert all(row.seconds[0] > 0 for row in rows if row.run is not None)


# ------------------------------------------------------------------------------------------------
# CuPy: streams.

STREAMS = {
    "default": lambda: cupy.cuda.Stream.null,
    "side": lambda: cupy.cuda.Stream(non_blocking=True),
}
ROWS = {
    "counted": {},
    "a number": {"offset": 1_700_000_000},
    "a list": {"positions": PLACES[0].tolist()},
    "host": {"positions": PLACES},
    "offsets of the GPU": {"offset": STARTS},
    "GPU": {"positions": PLACES},
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_call_is_put_on_the_current_stream_and_not_waited_for(stream, rows):
    """Array and positions come into being on that stream just before, and are gone just after."""
    stream, rope, x = STREAMS[stream](), embedding(), random_array(SHAPE)
    with stream:
        source, given = cupy.asarray(x), cupy.zeros(SHAPE, np.float32)
        there = dict(ROWS[rows])
        if "GPU" in rows:
            ((name, places),) = there.items()
            kept, there[name] = cupy.asarray(places), cupy.zeros(places.shape, np.int64)

        def call():
            cupy.copyto(given, source)
            if "GPU" in rows:
                cupy.copyto(there[name], kept)
            y = rope(given, **there)
            given.fill(0)
            if "GPU" in rows:
                there[name].fill(0)
            return y

        got = cupy.asnumpy(on_busy(stream, call))
    assert_close(got, rope(x, **ROWS[rows]))


@pytest.mark.parametrize("stream", STREAMS)
def test_gradient_tables_and_application_on_a_stream(stream):
    stream, rope, x = STREAMS[stream](), embedding(), random_array(SHAPE)
    with stream:
        source, given, places = cupy.asarray(x), cupy.zeros(SHAPE, np.float32), cupy.asarray(PLACES)

        def call():
            cupy.copyto(given, source)
            cos, sin = rope.tables(places)
            applied = apply_rotary(given, cos, sin, layout="half", seq_axis=-2)
            backwards = rope.vjp(given, positions=places)
            rope(given, positions=places, out=given)
            return applied, backwards, given

        applied, backwards, own = map(cupy.asnumpy, on_busy(stream, call))
    assert_close(applied, rope(x, positions=PLACES))
    assert_close(backwards, rope.vjp(x, positions=PLACES))
    assert_close(own, rope(x, positions=PLACES))


class Told:
    """Memory of which nothing is known but where it lies, and whose stream fills it."""

    def __init__(self, x, stream=None):
        self.shape, self.dtype = x.shape, x.dtype
        self.kept, self.stream = x, stream and stream.ptr

    @property
    def __cuda_array_interface__(self):
        return self.kept.__cuda_array_interface__ | {"stream": self.stream}


def test_the_stream_that_an_array_tells_of_comes_first():
    side, rope, x = cupy.cuda.Stream(non_blocking=True), embedding(), random_array(SHAPE)
    source, given = cupy.asarray(x), cupy.zeros(SHAPE, np.float32)

    def call():
        with side:
            cupy.copyto(given, source)
        y = rope(Told(given, side))
        given.fill(0)
        return y

    got = on_busy(side, call)
    assert_close(cupy.asnumpy(got), rope(x))


def test_managed_memory_is_refused():
    x = cupy.ndarray((3, 16), np.float32, cupy.cuda.malloc_managed(3 * 16 * 4))
    with pytest.raises(ValueError, match="`x` must lie in the memory of one GPU, got managed"):
        embedding()(Told(x))


# ------------------------------------------------------------------------------------------------
# CuPy: memory.


class Allocations(cupy.cuda.MemoryHook):
    """What CuPy's pool is asked for, in bytes."""

    name = "allocations"

    def __init__(self):
        self.sizes = []

    def malloc_preprocess(self, device_id, size, mem_size):
        self.sizes.append(size)


@pytest.mark.parametrize("rows", ROWS)
def test_nothing_but_results_and_positions_of_the_host_is_allocated(rows):
    rope, x = embedding(), random_array(SHAPE)
    q, k = cupy.asarray(x), cupy.asarray(x[:, :1])
    there = dict(ROWS[rows])
    if "GPU" in rows:
        there = {name: cupy.asarray(places) for name, places in there.items()}
    uploaded = {"a list": [5 * 8], "host": [2 * 5 * 8]}.get(rows, [])
    rope(q, k, **there)
    rope(q, k, out=(q, k), **there)
    used = cupy.get_default_memory_pool().used_bytes()
    with Allocations() as seen:
        rope(q, k, out=(q, k), **there)
    assert seen.sizes == uploaded
    assert cupy.get_default_memory_pool().used_bytes() == used
    with Allocations() as seen:
        got = rope(q, k, **there)
    assert sorted(seen.sizes) == sorted([*uploaded, *(y.nbytes for y in got)])


# ------------------------------------------------------------------------------------------------
# CuPy: graphs.


@contextlib.contextmanager
def captured(stream):
    """Capture what is put on a stream inside; the list then holds the graph."""
    graphs = []
    with stream:
        stream.begin_capture()
        try:
            yield graphs
        finally:
            graphs.append(stream.end_capture())


@pytest.mark.parametrize("name", ["offset", "positions"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_graph_reads_positions_anew_whenever_it_is_replayed(name, in_place):
    rope, x = embedding(), random_array(SHAPE)
    first = {"offset": STARTS, "positions": PLACES}[name]
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        source, places = cupy.asarray(x), cupy.asarray(first)
        given = cupy.asarray(x)
        out = given if in_place else cupy.zeros_like(given)

        def call():
            cupy.copyto(given, source)
            rope(given, **{name: places}, out=out)

        call()
        with captured(stream) as graphs:
            call()
        for step in range(1, 4):
            places += 7
            graphs[0].launch(stream)
            assert_close(cupy.asnumpy(out), rope(x, **{name: first + 7 * step}))


def test_a_graph_that_is_captured_takes_nothing_from_the_host():
    """What is refused leaves the graph as it is, and is right afterwards."""
    rope, fresh, x = embedding(), embedding(base=123.0), random_array(SHAPE)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        given, places = cupy.asarray(x), cupy.asarray(PLACES)
        out = cupy.zeros_like(given)
        rope(given, positions=places, out=out)
        with captured(stream) as graphs:
            rope(given, positions=places, out=out)
            rope(given, offset=8, out=given)
            for call in (
                lambda: rope(given, positions=PLACES, out=out),
                lambda: rope(given, offset=[1, 2], out=out),
                lambda: fresh(given, positions=places, out=out),  # whose frequencies lie nowhere
            ):
                with pytest.raises(RuntimeError, match="CUDA graph is captured"):
                    call()
        out.fill(0)
        graphs[0].launch(stream)
        assert_close(cupy.asnumpy(out), rope(x, positions=PLACES))
        assert_close(cupy.asnumpy(given), rope(x, offset=8))
        again = cupy.asarray(x)
        assert_close(cupy.asnumpy(rope(again, positions=PLACES)), rope(x, positions=PLACES))
        assert_close(cupy.asnumpy(fresh(again, positions=places)), fresh(x, positions=PLACES))


# ------------------------------------------------------------------------------------------------
# torch.


@pytest.fixture
def torch():
    """The library, and its compiler without what it has seen."""
    import torch

    torch.compiler.reset()
    return torch


def tensor(torch, x, device="cuda"):
    if x.dtype == BFLOAT16:
        return torch.from_numpy(x.view(np.int16)).to(device).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(x)).to(device)


def values(x):
    """A tensor's values as NumPy has them; bfloat16 as float32 says them, bit for bit."""
    x = x.detach().cpu()
    if str(x.dtype) == "torch.bfloat16":
        return x.float().numpy().astype(BFLOAT16)
    return x.numpy()


def stream_of_torch(torch, name):
    return torch.cuda.default_stream() if name == "default" else torch.cuda.Stream()


@pytest.mark.library("cupy", "torch")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("stream", STREAMS)
def test_tensors_on_the_current_stream_of_torch(torch, launches, stream, rows):
    """The result, in place, and the gradient, of a tensor that comes into being just before."""
    rope, x = embedding(), random_array(SHAPE)
    there = dict(ROWS[rows])
    if "GPU" in rows:
        there = {name: tensor(torch, places) for name, places in there.items()}
    stream = stream_of_torch(torch, stream)
    ours = cupy.cuda.Stream.from_external(External(stream.cuda_stream))
    with torch.cuda.stream(stream):
        source = tensor(torch, x)
        given = torch.zeros_like(source)

        def call():
            given.copy_(source)
            y = rope(given, **there)
            own = given.clone()
            assert rope(own, **there, out=own) is own
            leaf = given.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(rope(leaf, **there), leaf, given)
            given.zero_()
            return y, own, gradient

        results = [values(y) for y in on_busy(ours, call)]
    wanted = rope(x, **ROWS[rows]), rope(x, **ROWS[rows]), rope.vjp(x, **ROWS[rows])
    for got, want in zip(results, wanted, strict=True):
        assert_close(got, want)
    assert launches == [0] * 12


@pytest.mark.library("cupy", "torch")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_parts_of_one_tensor_in_place(torch, launches, dtype):
    qkv = random_array((2, 5, 7, 16), dtype)
    rope, there = embedding(), tensor(torch, qkv)
    parts = [(Ellipsis, slice(4), slice(None)), (Ellipsis, slice(4, 6), slice(None))]
    q, k = (there[part].transpose(1, 2) for part in parts)
    rope(q, k, out=(q, k))
    got = values(there)
    for part in parts:
        assert_close(got[part], rope(qkv[part].swapaxes(1, 2)).swapaxes(1, 2))
    assert (got[..., 6:, :] == qkv[..., 6:, :]).all()
    assert len(launches) == 1


@pytest.mark.library("cupy", "torch")
def test_gradients_accumulate(torch):
    """By backward, through torch's own operations before and after."""
    rope = embedding(output_layout="interleaved")
    x = random_array(SHAPE, "float64")
    leaf = tensor(torch, x).requires_grad_()
    for _ in range(2):
        (rope(2 * leaf, positions=tensor(torch, PLACES)) * tensor(torch, x)).sum().backward()
    assert_close(values(leaf.grad), 4 * rope.vjp(x, positions=PLACES))


@pytest.mark.library("cupy", "torch")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(torch, launches, backend):
    rope, x = embedding(), random_array(SHAPE)

    def model(x, places):
        return rope(x + 1, positions=places) * 2

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch itself means to give up, or finds slow
        for places in (PLACES, PLACES + 9):
            leaf = tensor(torch, x).requires_grad_()
            y = compiled(leaf, tensor(torch, places))
            y.backward(tensor(torch, x))
            assert_close(values(y), rope(x + 1, positions=places) * 2)
            assert_close(values(leaf.grad), rope.vjp(2 * x, positions=places))
    assert launches == [0] * 4


@pytest.mark.library("cupy", "torch")
def test_nothing_but_results_is_allocated_by_torch(torch):
    rope, x = embedding(), tensor(torch, random_array(SHAPE))
    places = tensor(torch, PLACES)

    def made(**options):
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        with Allocations() as seen:
            got = rope(x, x, positions=places, **options)
        assert seen.sizes == []
        del got
        return torch.cuda.memory_stats()["allocation.all.allocated"] - before

    other = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(2):
        rope(x, x, positions=places)
        rope(x, x, positions=places, out=other)
    assert made() == 2
    assert made(out=other) == 0


@pytest.mark.library("cupy", "torch")
def test_tensors_and_arrays_of_cupy_on_streams_of_their_own(torch):
    """Positions of the other library are read when that library's stream has written them."""
    rope, x = embedding(), random_array(SHAPE)
    side = cupy.cuda.Stream(non_blocking=True)
    there, steps = tensor(torch, x), itertools.count()
    with side:
        places = cupy.asarray(PLACES)

        def call():
            cupy.add(places, next(steps), out=places)
            return rope(there, positions=places)

        got = on_busy(side, call)
    assert_close(values(got), rope(x, positions=PLACES + 0 + 1 + 2))


@pytest.mark.library("cupy", "torch")
def test_positions_of_cupy_are_kept_until_torch_has_read_them(torch):
    """CuPy, which knows nothing of torch's stream, would give their memory to the next array."""
    rope, x = embedding(), random_array(SHAPE)
    side = torch.cuda.Stream()
    ours = cupy.cuda.Stream.from_external(External(side.cuda_stream))
    kept = cupy.asarray(PLACES)
    with torch.cuda.stream(side):
        there = tensor(torch, x)

        def call():
            places = kept.copy()
            y = rope(there, positions=places)
            del places
            following = cupy.zeros(PLACES.shape, np.int64)
            return y, following

        got, _ = on_busy(ours, call)
        assert_close(values(got), rope(x, positions=PLACES))


@pytest.mark.library("cupy", "torch")
@pytest.mark.parametrize("name", ["offset", "positions"])
def test_graphs_of_torch(torch, name):
    rope, x = embedding(), random_array(SHAPE)
    first = {"offset": STARTS, "positions": PLACES}[name]
    given, places, beside = tensor(torch, x), tensor(torch, first), cupy.asarray(first)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        rope(given, **{name: places})
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = rope(given, **{name: places})
        with pytest.raises(RuntimeError, match="CUDA graph is captured"):
            rope(given, **{name: first})
        with pytest.raises(RuntimeError, match="must be of the arrays' own library"):
            rope(given, **{name: beside})
        double = y + y
    for step in range(1, 4):
        places += 7
        graph.replay()
        want = rope(x, **{name: first + 7 * step})
        assert_close(values(y), want)
        assert_close(values(double), want + want)


# ------------------------------------------------------------------------------------------------
# JAX.


@pytest.mark.library("cupy", "jax")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_arrays_of_jax(launches, dtype):
    """Between operations of JAX that nobody has waited for."""
    import jax

    (gpu, *_) = jax.devices("gpu")
    rope, q, k = embedding(), random_array(SHAPE, dtype), random_array(SHAPE, dtype, seed=1)
    small = (PLACES % 2**20).astype(np.int32)
    want = rope(-q, -k, positions=small)
    for positions in (small, small.tolist(), jax.device_put(small, gpu)):
        got = rope(-jax.device_put(q, gpu), -jax.device_put(k, gpu), positions=positions)
        for own, wanted in zip(got, want, strict=True):
            assert isinstance(own, jax.Array)
            assert own.devices() == {gpu}
            assert_close(np.asarray(own + own), wanted + wanted)
    assert launches == [0] * 3


@pytest.mark.library("cupy", "jax")
def test_what_jax_compiles_or_differentiates_is_left_to_it(launches):
    import jax

    (gpu, *_) = jax.devices("gpu")
    rope, x = embedding(), random_array(SHAPE)
    there = jax.device_put(x, gpu)
    assert_close(np.asarray(jax.jit(rope)(there)), rope(x))
    gradient = jax.grad(lambda x: rope(x).sum())(there)
    assert_close(np.asarray(gradient), rope.vjp(np.ones_like(x)))
    assert launches == []
    cos, sin = rope.tables(jax.device_put(PLACES.astype(np.int32), gpu))
    assert_close(np.asarray(cos), rope.tables(PLACES)[0])
    assert_close(
        np.asarray(apply_rotary(there, cos, sin, layout="half", seq_axis=-2)),
        rope(x, positions=PLACES),
    )
    assert launches == [0] * 2


# ------------------------------------------------------------------------------------------------
# Two GPUs, of which the other is the current one.


@pytest.mark.gpus(2)
@pytest.mark.parametrize("rows", ROWS)
def test_arrays_of_another_gpu(launches, rows):
    rope, x = embedding(), random_array(SHAPE)
    there = dict(ROWS[rows])
    with cupy.cuda.Device(1):
        side = cupy.cuda.Stream(non_blocking=True)
        with side:
            given = cupy.asarray(x)
            if "GPU" in rows:
                there = {name: cupy.asarray(places) for name, places in there.items()}
            by_side = rope(given, **there)
        side.synchronize()
    got = rope(given, **there)
    assert cupy.cuda.runtime.getDevice() == 0
    assert got.device.id == by_side.device.id == 1
    assert launches == [1, 1]
    for own in (got, by_side):
        assert_close(cupy.asnumpy(own), rope(x, **ROWS[rows]))


@pytest.mark.gpus(2)
def test_mixed_gpus_are_refused(launches):
    rope, x = embedding(), cupy.asarray(random_array(SHAPE))
    with cupy.cuda.Device(1):
        other, places = cupy.asarray(random_array(SHAPE)), cupy.asarray(PLACES)
    for call, name in (
        (lambda: rope(x, other), "k"),
        (lambda: rope(x, out=other), "out"),
        (lambda: rope(x, positions=places), "positions"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must lie on GPU 0.*got GPU 1"):
            call()
    assert launches == []


@pytest.mark.gpus(2)
@pytest.mark.library("cupy", "torch")
def test_tensors_of_another_gpu(torch, launches):
    rope, x = embedding(), random_array(SHAPE)
    leaf = tensor(torch, x, "cuda:1").requires_grad_()
    got = rope(leaf, positions=tensor(torch, PLACES, "cuda:1"))
    got.backward(tensor(torch, x, "cuda:1"))
    assert torch.cuda.current_device() == cupy.cuda.runtime.getDevice() == 0
    assert got.device.index == leaf.grad.device.index == 1
    assert_close(values(got), rope(x, positions=PLACES))
    assert_close(values(leaf.grad), rope.vjp(x, positions=PLACES))
    assert launches == [1, 1]


@pytest.mark.gpus(2)
@pytest.mark.library("cupy", "jax")
def test_arrays_of_jax_on_another_gpu(launches):
    import jax

    gpu = jax.devices("gpu")[1]
    rope, x = embedding(), random_array(SHAPE)
    got = rope(jax.device_put(x, gpu), positions=PLACES[0].tolist())
    assert got.devices() == {gpu}
    assert_close(np.asarray(got), rope(x, positions=PLACES[0]))
    assert launches == [1]
