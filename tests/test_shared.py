"""Concrete CPU arrays of torch and JAX: the kernels of NumPy, on the same memory, and only where it is all there is."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import DTYPES, library_named, random_array, same_bits

import rotary
from rotary import RotaryEmbedding, scaling, sections
from rotary.backends import kernel_for, portable, shared

ROPE = RotaryEmbedding(8, layout="interleaved", base=10_000.0, rotary_dim=6, seq_axis=-2)

pytestmark = pytest.mark.compiled
libraries = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.library(name)) for name in ("torch", "jax")],
)


def width(dtype):
    return 4 if dtype.startswith("complex") else 8


@libraries
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_are_those_of_numpy(name, dtype):
    library = library_named(name)
    with library.session():
        x = random_array((2, 3, 5, width(dtype)), dtype)
        for verb in (ROPE, ROPE.inverse, ROPE.vjp):
            got = verb(library.asarray(x), offset=[3, 1_700_000_000])
            assert library.owns(got)
            assert same_bits(library.to_numpy(got), verb(x, offset=[3, 1_700_000_000]))


@libraries
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3)])
def test_strided_arrays_are_read_where_they_lie(name, order, monkeypatch):
    library = library_named(name)
    seen = []
    host = shared.host()

    class Watched:
        @staticmethod
        def rotate(x, *call):
            seen.append(x.__array_interface__["data"][0])
            return host.rotate(x, *call)

    monkeypatch.setattr(shared, "host", lambda: Watched)
    x = random_array((3, 4, 5, 8))
    own = library.asarray(x)
    own = own.permute(order) if name == "torch" else own.transpose(order)
    got = ROPE(own)
    assert seen == [library.address(own)]
    monkeypatch.undo()
    assert same_bits(library.to_numpy(got), ROPE(np.ascontiguousarray(x.transpose(order))))


@libraries
@pytest.mark.parametrize("rows", [64, 2**16])  # the latter on memory of the pool
def test_the_result_is_not_copied(name, rows, monkeypatch):
    library = library_named(name)
    made = []
    empty = shared.empty

    def remember(*call):
        made.append(empty(*call))
        return made[-1]

    monkeypatch.setattr(shared, "empty", remember)
    got = ROPE(library.asarray(random_array((1, 2, rows, 8))))
    assert library.address(got) == made[0].__array_interface__["data"][0]


@pytest.mark.library("torch")
class TestTorch:
    def test_gradients_come_back_through_the_kernel(self):
        import torch

        values = random_array((2, 3, 5, 8), "float64")
        x = torch.from_numpy(values).requires_grad_()
        got = ROPE(x, offset=9)
        assert type(got.grad_fn).__name__ == "RotationBackward"
        dy = random_array((2, 3, 5, 8), "float64", seed=1)
        got.backward(torch.from_numpy(dy))
        assert same_bits(x.grad.numpy(), ROPE.vjp(dy, offset=9))

    def test_gradients_of_gradients_and_batches_of_them(self):
        import torch

        x = torch.from_numpy(random_array((1, 1, 3, 8), "float64")).requires_grad_()
        for rope in (
            ROPE,
            RotaryEmbedding(8, layout="half", base=1e4, output_layout="interleaved", seq_axis=-2),
        ):
            torch.autograd.gradcheck(rope, x, check_batched_grad=True)
            torch.autograd.gradgradcheck(rope, x, check_batched_grad=True)

    def test_no_gradient_where_none_is_asked_for(self):
        import torch

        x = torch.ones(1, 2, 3, 8, requires_grad=True)
        with torch.no_grad():
            assert ROPE(x).grad_fn is None
        with torch.inference_mode():
            assert ROPE(torch.ones(1, 2, 3, 8)).grad_fn is None

    def test_autograd_notices_what_is_written_in_place(self):
        import torch

        weight = torch.ones(1, 2, 3, 8, requires_grad=True)
        x = torch.from_numpy(random_array((1, 2, 3, 8)))
        product = (weight * x).sum()  # keeps x for its gradient
        ROPE(x, out=x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()

    def test_in_place_on_what_has_a_gradient_is_torchs_own_affair(self):
        import torch

        leaf = torch.ones(1, 2, 3, 8, requires_grad=True)
        x = leaf * 1
        assert ROPE(x, out=x) is x
        x.sum().backward()
        want = ROPE.vjp(np.ones((1, 2, 3, 8), np.float32))
        np.testing.assert_allclose(leaf.grad.numpy(), want, rtol=1e-6, atol=1e-6)
        with pytest.raises(RuntimeError, match="leaf"):
            ROPE(leaf, out=leaf)

    # Its forward mode and its tracing warn of functions that torch itself means to give up.
    @pytest.mark.filterwarnings("ignore")
    def test_what_is_transformed_or_recorded_is_left_to_torch(self, monkeypatch):
        import torch
        from torch.autograd import forward_ad
        from torch.utils.flop_counter import FlopCounterMode

        monkeypatch.setattr(shared, "_rotated", lambda *_: pytest.fail("the memory was read"))
        x = torch.from_numpy(random_array((2, 2, 3, 8)))
        torch.func.vmap(ROPE)(x[:, None])
        torch.func.grad(lambda x: ROPE(x).sum())(x)
        torch.func.jvp(ROPE, (x,), (x,))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            assert forward_ad.unpack_dual(ROPE(dual)).tangent is not None
        with FlopCounterMode(display=False):
            ROPE(x)
        spun = torch.complex(x[..., :4], x[..., 4:])
        ROPE(spun.conj())

        def run(x):
            return ROPE(x)

        traced = torch.jit.trace(run, x, check_trace=False)
        monkeypatch.undo()
        np.testing.assert_allclose(traced(x + 1).numpy(), ROPE(x + 1).numpy(), rtol=1e-5, atol=1e-6)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("record", ["functionalize", "make_fx", "pre-dispatch", "jit.trace"])
    def test_recorded_programs_read_their_inputs(self, record):
        import torch
        from torch.fx.experimental.proxy_tensor import make_fx

        def run(x, places):
            return ROPE(x, positions=places)

        x, places = torch.from_numpy(random_array((1, 2, 3, 8))), torch.tensor([3, 1, 700])
        recorded = {
            "functionalize": lambda: torch.func.functionalize(run),
            "make_fx": lambda: make_fx(run)(x, places),
            "pre-dispatch": lambda: make_fx(run, pre_dispatch=True)(x, places),
            "jit.trace": lambda: torch.jit.trace(run, (x, places), check_trace=False),
        }[record]()
        want = ROPE((x + 1).numpy(), positions=(places + 5).numpy())
        np.testing.assert_allclose(recorded(x + 1, places + 5), want, rtol=1e-5, atol=1e-5)

    @pytest.mark.filterwarnings("ignore")
    def test_what_makes_tables_is_called_as_a_whole_by_the_compiler(self):
        import torch

        ntk = scaling.DynamicNTK(factor=2.0, max_position=4)
        rope = RotaryEmbedding(8, layout="half", base=1e4, scaling=ntk, context_length=16)
        x, places = torch.ones(3, 8), torch.tensor([3, 1, 7])
        for run in (
            lambda x, places: x[..., :4] * rope.tables(places)[0],
            lambda x, places: x[..., :2] * rotary.cos_sin(places, [1.0, 0.1])[0],
            lambda x, _: x * torch.from_numpy(rope.matrix(3)).sum(),
            lambda x, places: rope.at_length(64)(x, positions=places),
        ):
            torch.compiler.reset()
            got = torch.compile(run, backend="eager")(x, places)
            torch.testing.assert_close(got, run(x, places))

    def test_a_parameter_is_a_tensor_as_any(self):
        import torch

        x = torch.nn.Parameter(torch.ones(1, 2, 3, 8), requires_grad=False)
        assert same_bits(ROPE(x).numpy(), ROPE(np.ones((1, 2, 3, 8), np.float32)))

    def test_passes_over_channels_of_their_own(self):
        import torch

        rope = RotaryEmbedding(
            8, layout="half", base=1e4, sections=sections.axial(2, 2, pairing="within"), seq_axis=-2
        )
        x = random_array((1, 2, 3, 8))
        assert same_bits(rope(torch.from_numpy(x)).numpy(), rope(x))


@pytest.mark.library("jax")
class TestJax:
    def test_what_is_traced_is_left_to_jax(self, monkeypatch):
        import jax

        monkeypatch.setattr(shared, "_rotated", lambda *_: pytest.fail("the memory was read"))
        x = jax.numpy.asarray(random_array((2, 2, 3, 8)))
        jax.jit(ROPE)(x)
        jax.grad(lambda x: ROPE(x).sum())(x)
        jax.vmap(ROPE)(x[:, None])

    def test_the_device_stays(self):
        import jax

        x = jax.device_put(random_array((1, 2, 3, 8)), jax.devices("cpu")[0])
        assert ROPE(x).devices() == x.devices()

    @pytest.mark.parametrize("quirk", [None, "vjepa2"])
    def test_the_result_is_as_free_to_move_as_what_it_was_made_of(self, quirk):
        import jax

        rope = RotaryEmbedding(8, layout="interleaved", base=1e4, quirk=quirk, seq_axis=-2)
        x = jax.numpy.asarray(random_array((1, 2, 3, 8)))
        assert not rope(x).committed
        assert rope(jax.device_put(x, jax.devices("cpu")[0])).committed

    def test_the_sharding_stays(self):
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("batch",))
        x = jax.device_put(random_array((1, 2, 3, 8)), NamedSharding(mesh, PartitionSpec("batch")))
        assert ROPE(x).sharding == x.sharding

    def test_wide_arrays_without_wide_types_are_left_to_jax_which_warns(self):
        import jax

        with jax.enable_x64(True):
            x = jax.numpy.asarray(random_array((1, 2, 3, 8), "float64"))
        with pytest.warns(UserWarning, match="truncated"), jax.enable_x64(False):
            ROPE(x)


@pytest.mark.library("mlx")
def test_mlx_is_left_to_itself():
    import mlx.core as mx

    assert kernel_for(mx.ones(3)) is portable
