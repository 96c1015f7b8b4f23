"""Tensors of torch and arrays of JAX on a GPU: that they are read and made where they should be.

Without a GPU theirs lie on the host, and three questions are answered as if they did not: which GPU a tensor is
on, what kind of memory an array says it lies in, and whether NumPy can be lent it. All else, autograd above all,
is torch and JAX as they are.
"""

from __future__ import annotations

import gc
import weakref

import cupy
import host_memory
import jax
import numpy as np
import pytest
import torch
from helpers import BFLOAT16, DTYPES, LAYOUTS, as_dtype, random_array
from host_memory import to_device, to_host

import rotary
from rotary import RotaryEmbedding, backends, scaling
from rotary._lib import libraries as _libraries
from rotary.backends.cuda import memory

pytestmark = pytest.mark.cuda

STREAM = 7
PLACES = np.random.default_rng(0).integers(-(10**9), 10**9, (2, 5))


@pytest.fixture
def device():
    """What the driver is asked for from now on."""
    return host_memory.recording()


@pytest.fixture
def on_gpu(device, monkeypatch):
    """Tensors are on GPU 0, and their library's current stream is another one than CuPy's."""
    monkeypatch.setattr(backends, "shared_with_host", lambda *_: None)
    monkeypatch.setattr(memory, "gpu_of_tensor", lambda _: 0)
    monkeypatch.setattr(
        memory, "stream_of", lambda owner, _: STREAM if owner == memory.TORCH else None
    )
    return device


@pytest.fixture
def jax_on_gpu(device, monkeypatch):
    """JAX's arrays say that they lie in the memory of a GPU."""
    said = memory.dlpack_type

    def dlpack_type(x):
        return memory.CUDA if isinstance(x, jax.Array) else said(x)

    monkeypatch.setattr(backends, "shared_with_host", lambda *_: None)
    monkeypatch.setattr(memory, "dlpack_type", dlpack_type)
    return device


def embedding(head_dim=16, layout="half", **options):
    options = {"seq_axis": -2, "base": 10_000.0} | options
    return RotaryEmbedding(head_dim, layout=layout, **options)


def as_tensor(array):
    array = np.array(array)
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def values(x):
    x = x.detach()
    return (x.to(torch.float64) if x.dtype == torch.bfloat16 else x).numpy()


def wide(array):
    return array.astype(float) if array.dtype == BFLOAT16 else array


# ------------------------------------------------------------------------------------------------
# torch.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("verb", ["__call__", "inverse", "vjp"])
def test_tensors(on_gpu, dtype, verb):
    """Query and key in one launch on torch's stream, results in torch's own memory."""
    width = 24 // (2 if as_dtype(dtype).kind == "c" else 1)
    q, k = random_array((2, 3, 5, width), dtype), random_array((2, 1, 5, width), dtype, seed=1)
    for layout in LAYOUTS:
        rope = embedding(24, layout, rotary_dim=16, output_layout="half")
        want = getattr(rope, verb)(q, k, positions=PLACES)
        given = as_tensor(q).transpose(1, 2).contiguous().transpose(1, 2), as_tensor(k)
        before = host_memory.allocations()
        got = getattr(rope, verb)(*given, positions=as_tensor(PLACES))
        # Nothing but the frequencies was allocated, and those once for two layouts.
        assert host_memory.allocations() <= before + 1
        launch = on_gpu.launches.pop()
        assert not on_gpu.launches
        assert (launch.device, launch.stream) == (0, STREAM)
        for own, wanted, x in zip(got, want, given, strict=True):
            assert type(own) is torch.Tensor
            assert own.dtype == x.dtype
            assert own.is_contiguous()  # as on the host, and as torch.compile is told
            tolerance = 1e-2 if wanted.dtype.itemsize == 2 else 2e-6
            np.testing.assert_allclose(values(own), wide(wanted), rtol=tolerance, atol=tolerance)


def test_tensors_in_place(on_gpu):
    """As slices of one packed tensor, whose version tells torch that it was written to."""
    qkv = as_tensor(random_array((2, 5, 7, 16)))
    q, k = qkv[:, :, :4], qkv[:, :, 4:6]
    rope = embedding(seq_axis=-3)
    want = rope(q.numpy().copy(), k.numpy().copy())
    left, version = qkv[:, :, 6:].clone(), qkv._version
    got = rope(q, k, out=(q, k))
    assert got[0] is q
    assert qkv._version > version
    np.testing.assert_allclose(q.numpy(), want[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose(k.numpy(), want[1], rtol=0, atol=2e-6)
    assert torch.equal(qkv[:, :, 6:], left)
    assert len(on_gpu.launches) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["host", "gpu"])
def test_gradients(on_gpu, layout, kind):
    """Forward and backward are one launch each; the backward is the transpose, and so is its own."""
    rope = embedding(
        24,
        layout,
        rotary_dim=16,
        output_layout="half",
        scaling=scaling.Yarn(factor=8.0, original_max_position=64),
    )
    q, k = (as_tensor(random_array((2, n, 5, 24), "float64", seed=n)) for n in (3, 1))
    dq, dk = (as_tensor(random_array((2, n, 5, 24), "float64", seed=n + 5)) for n in (3, 1))
    q.requires_grad_()
    k.requires_grad_()
    positions = PLACES if kind == "host" else as_tensor(PLACES)
    got = rope(q, k, positions=positions)
    assert len(on_gpu.launches) == 1
    gradients = torch.autograd.grad(got, (q, k), (dq, dk))
    assert len(on_gpu.launches) == 2
    assert {launch.stream for launch in on_gpu.launches} == {STREAM}
    for own, want in zip(
        gradients, rope.vjp(dq.numpy(), dk.numpy(), positions=PLACES), strict=True
    ):
        np.testing.assert_allclose(own.numpy(), want, rtol=0, atol=1e-14)
    if kind == "host":
        assert torch.autograd.gradcheck(lambda x: rope(x, positions=positions), q)
        assert torch.autograd.gradgradcheck(lambda x: rope(x, positions=positions), q)
    assert all("rotate_float64" in launch.name for launch in on_gpu.launches)


def test_gradients_of_several_passes_and_tables(on_gpu):
    ropes = [
        embedding(16, sections=rotary.sections.axial(4, 2, 2, pairing="within")),
        embedding(16, decay=rotary.XPos(center=0)),
        embedding(16, sections=rotary.sections.chunked(4, 2, 2)),
    ]
    for rope in ropes:
        q, k = (
            as_tensor(random_array((2, n, 5, 16), "float64", seed=n)).requires_grad_()
            for n in (3, 1)
        )
        places = PLACES[0] % 200
        if rope.sections is not None:
            places = np.stack([places, places[::-1], places + 7])
        got = rope(q, k, positions=places)
        torch.autograd.backward(got, [x.detach() for x in got])
        both = [x.detach().numpy() for x in (q, k)]
        want = rope.vjp(*rope(*both, positions=places), positions=places)
        for own, wanted in zip((q, k), want, strict=True):
            np.testing.assert_allclose(own.grad.numpy(), wanted, rtol=1e-13, atol=1e-13)
    assert on_gpu.launches


def test_nothing_of_a_call_with_gradients_is_kept_alive(on_gpu):
    """Neither by the plans of the rotation nor by those of its transpose."""
    rope = embedding()
    gone = []
    for length in range(3, 6):
        x = as_tensor(random_array((2, 3, length, 16))).requires_grad_()
        positions = torch.arange(length)
        y = rope(2 * x, positions=positions)
        y.sum().backward()
        gone += [weakref.ref(each) for each in (x, positions, y, x.grad)]
        del x, positions, y
    rope(as_tensor(random_array((3, 16))), positions=torch.arange(3))
    gc.collect()
    assert sum(each() is not None for each in gone) == 0


def test_only_what_is_asked_for_has_a_gradient(on_gpu):
    rope = embedding()
    q = as_tensor(random_array((2, 3, 5, 16))).requires_grad_()
    k = as_tensor(random_array((2, 1, 5, 16)))
    got = rope(q, k)
    assert [x.requires_grad for x in got] == [True, False]
    got[0].sum().backward()
    np.testing.assert_allclose(
        q.grad.numpy(), rope.vjp(np.ones((2, 3, 5, 16), np.float32)), atol=1e-6
    )
    with torch.no_grad():
        assert not rope(q).requires_grad
    with torch.inference_mode():
        assert not rope(k.clone()).requires_grad
    assert len(on_gpu.launches) == 4


def test_positions_that_change_before_the_gradient_are_noticed(on_gpu):
    x = as_tensor(random_array((2, 3, 5, 16))).requires_grad_()
    positions = as_tensor(PLACES)
    got = embedding()(x, positions=positions)
    positions += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        got.sum().backward()


def test_what_autograd_must_see_is_left_to_torch(on_gpu):
    """Positions with a gradient, outputs with one, transforms, and tensors that are not all there is."""
    rope = embedding()
    x = as_tensor(random_array((2, 3, 5, 16)))
    want = rope(x.numpy())
    moving = torch.arange(5.0, requires_grad=True)
    np.testing.assert_allclose(rope(x, positions=moving).detach().numpy(), want, atol=1e-5)
    by_jvp = torch.func.grad(lambda x: rope(x).sum())(x)
    np.testing.assert_allclose(by_jvp.numpy(), rope.vjp(np.ones_like(want)), atol=1e-5)
    np.testing.assert_allclose(torch.func.vmap(rope)(x).numpy(), want, atol=1e-5)
    y = as_tensor(random_array((2, 3, 5, 8), "complex64"))
    np.testing.assert_allclose(rope(y.conj()).numpy(), rope(y.numpy().conj()), atol=1e-5)
    assert not on_gpu.launches


def test_tensors_and_arrays_beside_one_another(on_gpu):
    """Positions may be of another library on the same GPU; its work is then done before they are read."""
    x = random_array((2, 3, 5, 16))
    rope = embedding()
    want = rope(x, positions=PLACES)
    got = rope(as_tensor(x), positions=to_device(PLACES))
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=2e-6)
    assert ("order", None, STREAM) in on_gpu.log
    on_gpu.log.clear()
    got = rope(to_device(x), positions=as_tensor(PLACES))
    np.testing.assert_allclose(to_host(got), want, rtol=0, atol=2e-6)
    assert ("order", STREAM, None) in on_gpu.log
    assert [launch.stream for launch in on_gpu.launches] == [STREAM, None]
    with pytest.raises(TypeError, match="`k` must lie on the GPU and be of the library of `q`"):
        rope(to_device(x), as_tensor(x))
    with pytest.raises(TypeError, match="`k` must lie on the GPU.*got an array on the host"):
        rope(as_tensor(x), x)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float16", "bfloat16"])
def test_positions_of_any_dtype(on_gpu, dtype):
    x = random_array((2, 3, 5, 16))
    positions = torch.tensor([0, 1, 7, 64, 200]).to(getattr(torch, dtype))
    got = embedding()(as_tensor(x), positions=positions)
    np.testing.assert_allclose(got.numpy(), embedding()(x, positions=[0, 1, 7, 64, 200]), atol=2e-6)
    assert len(on_gpu.launches) == 1


def test_tables_of_torch(on_gpu):
    rope = embedding()
    x = random_array((2, 3, 5, 16))
    cos, sin = rope.tables(as_tensor(PLACES))
    assert type(cos) is torch.Tensor
    for own, want in zip((cos, sin), rope.tables(PLACES), strict=True):
        np.testing.assert_allclose(own.numpy(), want, rtol=0, atol=2e-7)
    got = rotary.apply_rotary(as_tensor(x), cos, sin, layout="half", seq_axis=-2)
    np.testing.assert_allclose(got.numpy(), rope(x, positions=PLACES), rtol=0, atol=2e-6)
    across = [part.transpose(0, 1).contiguous().transpose(0, 1) for part in (cos, sin)]
    for tables in (across, (cos.contiguous(), across[1]), (across[0], sin)):
        got = rotary.apply_rotary(as_tensor(x), *tables, layout="half", seq_axis=-2)
        np.testing.assert_allclose(got.numpy(), rope(x, positions=PLACES), rtol=0, atol=2e-6)
    given = as_tensor(x)
    version = given._version
    rotary.apply_rotary(given, cos.half(), sin.half(), layout="half", seq_axis=-2, out=given)
    assert given._version > version
    np.testing.assert_allclose(given.numpy(), rope(x, positions=PLACES), rtol=0, atol=1e-2)
    assert [launch.stream for launch in on_gpu.launches] == [STREAM] * 6
    own = as_tensor(x).requires_grad_()
    rotary.apply_rotary(own, cos, sin, layout="half", seq_axis=-2).sum().backward()
    want = rope.vjp(np.ones_like(x), positions=PLACES)
    np.testing.assert_allclose(own.grad.numpy(), want, rtol=0, atol=2e-6)


def test_channels_that_lie_apart(on_gpu):
    """They are copied, for kernels read channels that lie one after another."""
    rope = embedding()
    x = random_array((2, 3, 16, 5))
    want = rope(np.swapaxes(x, -1, -2))
    tables = rope.tables(as_tensor(np.arange(5)))
    options = {"layout": "half", "seq_axis": -2}

    def apart():
        return as_tensor(x).transpose(-1, -2)

    for given in ({}, {"out": as_tensor(np.zeros_like(x)).transpose(-1, -2)}):
        for rotated in (rope, lambda x, **out: rotary.apply_rotary(x, *tables, **options, **out)):
            got = rotated(apart(), **given)
            assert got is given.get("out", got)
            np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=2e-6)
            got.zero_()
    own = apart()
    assert rope(own, out=own) is own
    np.testing.assert_allclose(own.numpy(), want, rtol=0, atol=2e-6)
    assert len(on_gpu.launches) == 6


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ({"decay": rotary.XPos(center=0)}, PLACES % 200),
        ({"decay": rotary.XPos(center=0)}, PLACES[0] % 200),
        ({"base": None, "scaling": scaling.Custom(2.0**21 / np.arange(1, 9))}, PLACES % 200 + 0.25),
    ],
)
def test_tables_are_made_on_the_gpu_where_kernels_make_no_angles(
    on_gpu, monkeypatch, options, positions
):
    """Positions are not read by the host: what makes their tables is torch, whose angles are its own."""
    to_host = _libraries.to_host
    monkeypatch.setattr(
        _libraries, "to_host", lambda x: None if isinstance(x, torch.Tensor) else to_host(x)
    )
    rope = embedding(**options)
    q, k = random_array((2, 3, 5, 16)), random_array((2, 1, 5, 16), seed=1)
    got = rope(as_tensor(q), as_tensor(k), positions=as_tensor(positions))
    for own, want in zip(got, rope(q, k, positions=positions), strict=True):
        np.testing.assert_allclose(own.numpy(), want, rtol=0, atol=1e-5)
    assert {launch.name for launch in on_gpu.launches} == {"rotate_float32_vectors_half_half_table"}
    assert not any(what == "upload" for what, *_ in on_gpu.log)


@pytest.mark.parametrize("kind", ["host", "gpu"])
def test_positions_of_heads_have_a_scale(on_gpu, monkeypatch, kind):
    """Each part of the batch reads a table of its own, made where its positions lie."""
    to_host = _libraries.to_host
    monkeypatch.setattr(
        _libraries, "to_host", lambda x: None if isinstance(x, torch.Tensor) else to_host(x)
    )
    rope = embedding(decay=rotary.XPos(center=0))
    x = random_array((2, 3, 5, 16))
    places = np.random.default_rng(0).integers(0, 200, (2, 3, 5))
    given = places if kind == "host" else as_tensor(places)
    got = rope(as_tensor(x), positions=given, role="query")
    np.testing.assert_allclose(
        got.numpy(), rope(x, positions=places, role="query"), rtol=0, atol=1e-5
    )
    assert len(on_gpu.launches) == 2


def test_tables_at_positions_of_any_shape(on_gpu):
    rope = embedding()
    many = PLACES.reshape(1, 2, 5, 1)[:, :, ::2]
    for own, want in zip(rope.tables(as_tensor(many)), rope.tables(many), strict=True):
        assert tuple(own.shape) == want.shape
        np.testing.assert_allclose(own.numpy(), want, rtol=0, atol=2e-7)
    moving = torch.arange(5.0, requires_grad=True)
    assert rope.tables(moving)[0].requires_grad
    assert len(on_gpu.launches) == 1


# ------------------------------------------------------------------------------------------------
# JAX.


def test_arrays_of_jax(jax_on_gpu):
    x = random_array((2, 3, 5, 16))
    k = random_array((2, 1, 5, 16), seed=1)
    rope = embedding()
    small = (PLACES % 2**20).astype(np.int32)
    want = rope(x, k, positions=small)
    for positions in (small, jax.numpy.asarray(small)):
        got = rope(jax.numpy.asarray(x), jax.numpy.asarray(k), positions=positions)
        for own, wanted in zip(got, want, strict=True):
            assert isinstance(own, jax.Array)
            np.testing.assert_allclose(np.asarray(own), wanted, rtol=0, atol=2e-6)
    assert len(jax_on_gpu.launches) == 2
    got = rope(to_device(x), positions=jax.numpy.asarray(small))
    assert type(got) is cupy.ndarray
    np.testing.assert_allclose(to_host(got), want[0], rtol=0, atol=2e-6)
    cos, _ = rope.tables(jax.numpy.asarray(small))
    assert isinstance(cos, jax.Array)
    np.testing.assert_allclose(np.asarray(cos), rope.tables(small)[0], rtol=0, atol=2e-7)


def test_what_jax_must_see_is_left_to_jax(jax_on_gpu):
    """Traced arrays, and what would come back narrower; outputs are refused as ever."""
    rope = embedding()
    x = random_array((2, 3, 5, 16))
    there = jax.numpy.asarray(x)
    np.testing.assert_allclose(np.asarray(jax.jit(rope)(there)), rope(x), rtol=0, atol=2e-6)
    gradient = jax.grad(lambda x: rope(x).sum())(there)
    np.testing.assert_allclose(np.asarray(gradient), rope.vjp(np.ones_like(x)), rtol=0, atol=2e-6)
    with jax.enable_x64(True):
        wide = there.astype(jax.numpy.float64)
    with pytest.warns(UserWarning, match="float64 requested in astype is not available"):
        rope(wide)
    assert not jax_on_gpu.launches
    with pytest.raises(ValueError, match="`dtype` must be 'float32' unless jax_enable_x64"):
        rope.tables(jax.numpy.arange(5), dtype="float64")
    with pytest.raises(TypeError, match=r"`out`.*immutable"):
        rope(there, out=there)


def test_tables_of_jax(jax_on_gpu):
    rope = embedding()
    x = random_array((2, 3, 5, 16))
    tables = [jax.numpy.asarray(part) for part in rope.tables(np.arange(5))]
    options = {"layout": "half", "seq_axis": -2}
    got = rotary.apply_rotary(jax.numpy.asarray(x), *tables, **options)
    assert isinstance(got, jax.Array)
    np.testing.assert_allclose(np.asarray(got), rope(x), rtol=0, atol=2e-6)
    assert len(jax_on_gpu.launches) == 1


def test_a_dtype_that_cupy_lacks_is_named(jax_on_gpu):
    """As bfloat16, which an older CuPy has not, nor NumPy, who stands in here."""
    narrow = jax.numpy.ones((3, 16), jax.numpy.bfloat16)
    message = "must be of a dtype that CuPy has .bfloat16 from version 14 on., got bfloat16"
    with pytest.raises(TypeError, match=f"`x` {message}"):
        embedding()(narrow)
    with pytest.raises(TypeError, match=f"`x` {message}"):
        rotary.apply_rotary(narrow, *embedding().tables(np.arange(3)), layout="half")
    with pytest.raises(TypeError, match=f"`positions` {message}"):
        embedding()(jax.numpy.ones((3, 16)), positions=narrow[:, 0])
    assert not jax_on_gpu.launches


def test_positions_of_jax_that_are_cast(on_gpu, jax_on_gpu):
    """On the stream of the tensors, which JAX was told of."""
    x = random_array((2, 3, 5, 16))
    streams = []
    cast = type(on_gpu).cast
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(on_gpu), "cast", lambda *given: streams.append(on_gpu.current) or cast(*given)
        )
        got = embedding()(as_tensor(x), positions=jax.numpy.arange(5, dtype=jax.numpy.int16))
    np.testing.assert_allclose(got.numpy(), embedding()(x), rtol=0, atol=2e-6)
    assert streams == [STREAM]
    assert [launch.stream for launch in on_gpu.launches] == [STREAM]
