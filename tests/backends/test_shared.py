"""Concrete CPU arrays of torch and JAX: the kernels of NumPy rotate them in the same memory, and no other arrays."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import DTYPES, library_named, random_array, same_bits

import rotary
from rotary import RotaryEmbedding, backends, scaling, sections
from rotary.backends import jax as of_jax
from rotary.backends import kernel_for, portable
from rotary.backends import torch as of_torch
from rotary.call import plans

ROPE = RotaryEmbedding(8, layout="interleaved", base=10_000.0, rotary_dim=6, seq_axis=-2)

pytestmark = pytest.mark.compiled
libraries = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.library(name)) for name in ("torch", "jax")],
)


MODULES = {"torch": of_torch, "jax": of_jax}


def lent_views(*arrays):
    """Return the views of arrays that plans of NumPy get, or none if the call is left to the library."""
    seen = []

    def on_host(views, *_):
        seen.extend(views)
        return [view.copy() for view in views]

    backend = backends.shared_with_host(arrays)
    backend.rotate_all(arrays, (None,) * 5, None, on_host, None)
    return seen


def width(dtype):
    return 4 if dtype.startswith("complex") else 8


@libraries
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_equal_those_of_numpy(name, dtype):
    library = library_named(name)
    with library.session():
        x = random_array((2, 3, 5, width(dtype)), dtype)
        for method in (ROPE, ROPE.inverse, ROPE.vjp):
            got = method(library.asarray(x), offset=[3, 1_700_000_000])
            assert library.owns(got)
            assert same_bits(library.to_numpy(got), method(x, offset=[3, 1_700_000_000]))


@libraries
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3)])
@pytest.mark.parametrize("whole", [True, False])
def test_strided_arrays_are_read_without_copies(name, order, whole, monkeypatch):
    library = library_named(name)
    x = random_array((3, 4, 5, 8))
    own = library.asarray(x)
    own = own.permute(order) if name == "torch" else own.transpose(order)
    if whole:
        (view,) = lent_views(own)
        assert view.__array_interface__["data"][0] == library.address(own)
        got = ROPE(own)
    else:
        got = without_views(monkeypatch, MODULES[name], own, [library.address(own)])
    assert same_bits(library.to_numpy(got), ROPE(np.ascontiguousarray(x.transpose(order))))


def without_views(monkeypatch, module, x, addresses):
    """Rotate an array in a call that is left to the library; the result reads memory at addresses."""
    seen = []
    host = module.host()

    class Watched:
        @staticmethod
        def rotate(x, *call):
            seen.append(x.__array_interface__["data"][0])
            return host.rotate(x, *call)

    with monkeypatch.context() as patch:
        patch.setattr(module, "host", lambda: Watched)
        patch.setattr(module, "rotate_all", lambda *_: None)
        got = ROPE(x)
    assert seen == addresses
    return got


@libraries
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("rows", [2**13, 2**16])  # the latter uses memory of the pool
def test_the_result_is_not_copied(name, rows, whole, monkeypatch):
    library = library_named(name)
    made = []

    def remember(give_back):
        def run(memory, *call):
            made.append(memory.__array_interface__["data"][0])
            return give_back(memory, *call)

        return run

    module, kind = MODULES[name], f"as_{name}"
    monkeypatch.setattr(module, kind, remember(getattr(module, kind)))
    if not whole:
        monkeypatch.setattr(module, "rotate_all", lambda *_: None)
    got = ROPE(library.asarray(random_array((1, 2, rows, 8))))
    assert [library.address(got)] == made


@libraries
def test_a_second_call_uses_a_plan(name, monkeypatch):
    library = library_named(name)
    with library.session():
        x = random_array((2, 3, 5, 8))
        own, positions = library.asarray(x), library.asarray(np.array([3, 1, 4, 1, 5]))
        rope = RotaryEmbedding(8, layout="half", base=1234.0, seq_axis=-2)
        want = rope(x, offset=3), rope(x, positions=np.array([3, 1, 4, 1, 5]))
        rope(own)
        monkeypatch.setattr(plans, "_plan_of", lambda *_, **__: pytest.fail("was looked at"))
        results = rope(own, offset=3), rope(own, positions=positions)
        for got, wanted in zip(results, want, strict=True):
            assert library.owns(got)
            assert same_bits(library.to_numpy(got), wanted)


@pytest.mark.library("torch")
class TestTorch:
    def test_gradients_are_computed_by_the_kernel(self):
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

    @pytest.mark.filterwarnings("ignore")
    def test_ordinary_tensors(self):
        import torch
        from torch._subclasses import FakeTensorMode

        x = torch.from_numpy(random_array((2, 3, 8)))
        leaf = torch.ones(2, 3, 8, requires_grad=True)
        ordinary = of_torch.view_of_ordinary
        for each in (x, x.mT, x[:, ::2], x.expand(4, 2, 3, 8), torch.nn.Parameter(x, False)):
            assert same_bits(ordinary(each), each.numpy())
            assert ordinary(each).__array_interface__["data"][0] == each.data_ptr()
        assert ordinary(x.bfloat16()).dtype.name == "bfloat16"
        with torch.no_grad():
            assert ordinary(leaf) is not None
        with torch.inference_mode():
            assert ordinary(torch.ones(2, 8)) is not None
            assert of_torch.is_ordinary_thread()
        with torch.autocast("cpu"):
            assert of_torch.is_ordinary_thread()
        subclass = x.as_subclass(type("Subclass", (torch.Tensor,), {}))
        complex_tensor = torch.complex(x, x)
        odd = [leaf, subclass, x.to("meta"), x.to_sparse(), torch._efficientzerotensor(2, 8)]
        odd += [
            complex_tensor.conj(),
            complex_tensor.conj().imag,
            torch.quantize_per_tensor(x, 1.0, 0, torch.qint8),
        ]
        odd += [FakeTensorMode().from_tensor(x), torch.nested.nested_tensor([x[0]]), 3.0, x.numpy()]
        for each in odd:
            assert ordinary(each) is None

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        "state",
        [
            "vmap",
            "grad",
            "jvp",
            "functionalize",
            "jit.trace",
            "make_fx",
            "pre-dispatch",
            "mode",
            "fake",
        ],
    )
    def test_other_threads(self, state):
        import torch
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.utils.flop_counter import FlopCounterMode

        seen = []
        x, other = torch.ones(2, 3, 8), torch.ones(2, 3, 8)

        def look(x):
            seen.append(lent_views(other) or lent_views(x))
            return x * 2

        def within(mode):
            with mode:
                look(x)

        {
            "vmap": lambda: torch.func.vmap(look)(x),
            "grad": lambda: torch.func.grad(lambda x: look(x).sum())(x),
            "jvp": lambda: torch.func.jvp(look, (x,), (x,)),
            "functionalize": lambda: torch.func.functionalize(look)(x),
            "jit.trace": lambda: torch.jit.trace(look, x, check_trace=False),
            "make_fx": lambda: make_fx(look)(x),
            "pre-dispatch": lambda: make_fx(look, pre_dispatch=True)(x),
            "mode": lambda: within(FlopCounterMode(display=False)),
            "fake": lambda: within(FakeTensorMode(allow_non_fake_inputs=True)),
        }[state]()
        assert seen
        assert not any(seen)
        assert lent_views(x)

    def test_ordinary_tensors_are_recognized_during_transforms(self):
        import torch

        found = of_torch._ordinary()
        of_torch._ordinary.cache_clear()
        with torch.inference_mode(), torch.device("meta"):
            assert of_torch._ordinary() == found

    def test_a_torch_release_without_the_private_functions(self, monkeypatch):
        import torch

        x = torch.from_numpy(random_array((2, 3, 8)))
        want = ROPE(x)
        monkeypatch.delattr(torch._C, "_dispatch_tls_local_include_set")
        of_torch._ordinary.cache_clear()
        try:
            assert not lent_views(x)
            assert same_bits(ROPE(x).numpy(), want.numpy())
        finally:
            of_torch._ordinary.cache_clear()

    def test_an_array_that_is_its_own_output(self):
        import torch

        q, k = (torch.from_numpy(random_array((2, 3, 5, 8), seed=i)) for i in (1, 2))
        want = ROPE(q, k)
        got = ROPE(q, k, out=(q, k))
        assert got[0] is q
        assert got[1] is k
        for each, wanted in zip(got, want, strict=True):
            assert same_bits(each.numpy(), wanted.numpy())
        with torch.inference_mode():
            x = torch.ones(2, 3, 5, 8)
            assert ROPE(x, out=x) is x

    def test_wrong_calls_get_no_views(self):
        import torch

        x = torch.ones(2, 3, 5, 8)
        with pytest.raises(TypeError, match="`out` must be"):
            ROPE(x, out=x.numpy())
        with pytest.raises(ValueError, match="`out` must hold"):
            ROPE(x, out=(x, x))
        with pytest.raises(TypeError, match="`k` must be|`q` must be|must be of"):
            ROPE(x, "k")
        with pytest.raises(TypeError, match="one of the dtypes"):
            ROPE(x.long())

    def test_no_gradient_unless_one_is_required(self):
        import torch

        x = torch.ones(1, 2, 3, 8, requires_grad=True)
        with torch.no_grad():
            assert ROPE(x).grad_fn is None
        with torch.inference_mode():
            assert ROPE(torch.ones(1, 2, 3, 8)).grad_fn is None

    def test_autograd_detects_in_place_writes(self):
        import torch

        weight = torch.ones(1, 2, 3, 8, requires_grad=True)
        x = torch.from_numpy(random_array((1, 2, 3, 8)))
        product = (weight * x).sum()  # keeps x for its gradient
        ROPE(x, out=x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()

    def test_in_place_on_tensors_with_gradients_is_left_to_torch(self):
        import torch

        leaf = torch.ones(1, 2, 3, 8, requires_grad=True)
        x = leaf * 1
        assert ROPE(x, out=x) is x
        x.sum().backward()
        want = ROPE.vjp(np.ones((1, 2, 3, 8), np.float32))
        np.testing.assert_allclose(leaf.grad.numpy(), want, rtol=1e-6, atol=1e-6)
        with pytest.raises(RuntimeError, match="leaf"):
            ROPE(leaf, out=leaf)

    # Forward mode and tracing warn of deprecated functions of torch.
    @pytest.mark.filterwarnings("ignore")
    def test_transformed_or_traced_tensors_are_left_to_torch(self, monkeypatch):
        import torch
        from torch.autograd import forward_ad
        from torch.utils.flop_counter import FlopCounterMode

        monkeypatch.setattr(of_torch, "as_torch", lambda *_: pytest.fail("the memory was read"))
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
    def test_traced_programs_read_their_inputs(self, record):
        import torch
        from torch.fx.experimental.proxy_tensor import make_fx

        def run(x, positions):
            return ROPE(x, positions=positions)

        x, positions = torch.from_numpy(random_array((1, 2, 3, 8))), torch.tensor([3, 1, 700])
        recorded = {
            "functionalize": lambda: torch.func.functionalize(run),
            "make_fx": lambda: make_fx(run)(x, positions),
            "pre-dispatch": lambda: make_fx(run, pre_dispatch=True)(x, positions),
            "jit.trace": lambda: torch.jit.trace(run, (x, positions), check_trace=False),
        }[record]()
        want = ROPE((x + 1).numpy(), positions=(positions + 5).numpy())
        np.testing.assert_allclose(recorded(x + 1, positions + 5), want, rtol=1e-5, atol=1e-5)

    @pytest.mark.filterwarnings("ignore")
    def test_the_compiler_calls_functions_that_make_tables_as_one_step(self):
        import torch

        ntk = scaling.DynamicNTK(factor=2.0, max_position=4)
        rope = RotaryEmbedding(8, layout="half", base=1e4, scaling=ntk, context_length=16)
        x, positions = torch.ones(3, 8), torch.tensor([3, 1, 7])
        for run in (
            lambda x, positions: x[..., :4] * rope.tables(positions)[0],
            lambda x, positions: x[..., :2] * rotary.cos_sin(positions, [1.0, 0.1])[0],
            lambda x, _: x * torch.from_numpy(rope.matrix(3)).sum(),
            lambda x, positions: rope.at_length(64)(x, positions=positions),
        ):
            torch.compiler.reset()
            got = torch.compile(run, backend="eager")(x, positions)
            torch.testing.assert_close(got, run(x, positions))

    def test_parameters_are_ordinary_tensors(self):
        import torch

        x = torch.nn.Parameter(torch.ones(1, 2, 3, 8), requires_grad=False)
        assert same_bits(ROPE(x).numpy(), ROPE(np.ones((1, 2, 3, 8), np.float32)))

    def test_several_passes_over_channels(self):
        import torch

        rope = RotaryEmbedding(
            8, layout="half", base=1e4, sections=sections.axial(2, 2, pairing="within"), seq_axis=-2
        )
        x = random_array((1, 2, 3, 8))
        assert same_bits(rope(torch.from_numpy(x)).numpy(), rope(x))

    def test_outputs_that_are_views(self):
        import torch

        x = torch.ones(2, 3, 8)
        rope = RotaryEmbedding(8, layout="half", base=10_000.0, seq_axis=-2)
        rotate = torch.func.vmap(lambda part: rope(part, out=torch.empty_like(part)))
        np.testing.assert_allclose(rotate(x), rope(x), rtol=1e-6)


@pytest.mark.library("jax")
class TestJax:
    def test_traced_arrays_are_left_to_jax(self, monkeypatch):
        import jax

        monkeypatch.setattr(of_jax, "as_jax", lambda *_: pytest.fail("the memory was read"))
        x = jax.numpy.asarray(random_array((2, 2, 3, 8)))
        jax.jit(ROPE)(x)
        jax.grad(lambda x: ROPE(x).sum())(x)
        jax.vmap(ROPE)(x[:, None])

    def test_results_are_on_the_device_of_the_array(self):
        import jax

        x = jax.device_put(random_array((1, 2, 3, 8)), jax.devices("cpu")[0])
        assert ROPE(x).devices() == x.devices()

    @pytest.mark.parametrize("quirk", [None, "vjepa2"])
    def test_results_are_committed_only_if_the_array_is(self, quirk):
        import jax

        rope = RotaryEmbedding(8, layout="interleaved", base=1e4, quirk=quirk, seq_axis=-2)
        x = jax.numpy.asarray(random_array((1, 2, 3, 8)))
        assert not rope(x).committed
        assert rope(jax.device_put(x, jax.devices("cpu")[0])).committed

    def test_results_have_the_sharding_of_the_array(self):
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("batch",))
        x = jax.device_put(random_array((1, 2, 3, 8)), NamedSharding(mesh, PartitionSpec("batch")))
        assert ROPE(x).sharding == x.sharding

    def test_float64_arrays_without_64_bit_types_are_left_to_jax(self):
        import jax

        with jax.enable_x64(True):
            x = jax.numpy.asarray(random_array((1, 2, 3, 8), "float64"))
        with pytest.warns(UserWarning, match="truncated"), jax.enable_x64(False):
            ROPE(x)


@pytest.mark.library("mlx")
def test_mlx_uses_its_own_operations():
    import mlx.core as mx

    assert kernel_for(mx.ones(3)) is portable
