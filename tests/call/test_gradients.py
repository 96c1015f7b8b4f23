"""Gradients and transforms of PyTorch and JAX work, and agree with `vjp`."""

from __future__ import annotations

import copy
import warnings
import weakref

import numpy as np
import pytest
from helpers import LAYOUTS, SCALE, exact_cos_sin, powers, random_array

import rotary
from rotary import RotaryEmbedding
from rotary.scaling import Custom

ROPES = {
    "half": RotaryEmbedding(12, layout="half", base=10_000.0, seq_axis=-2),
    "interleaved": RotaryEmbedding(12, layout="interleaved", base=10_000.0, seq_axis=-2),
    "window, layouts, factor": RotaryEmbedding(
        12,
        layout="interleaved",
        output_layout="half",
        rotary_dim=8,
        rotary_start=2,
        scaling=Custom(powers(1e4, 8), 1.25),
        seq_axis=-2,
    ),
}
ARGUMENTS = {
    "counted": {},
    "offset": {"offset": 1_700_000_000},
    "offset per row": {"offset": [3, 70_000]},
    "positions": {"positions": [[3, 1, 4], [1, 5, 9]]},
    "fractions": {"positions": [0.5, 1.25, -7.0]},
}
SHAPE = (2, 3, 3, 12)


@pytest.fixture(params=ROPES)
def rope(request):
    return ROPES[request.param]


# All embeddings and all position arguments, but not all combinations, because tracing is slow.
CASES = [(name, "counted") for name in ROPES] + [("half", name) for name in ARGUMENTS]
every_case = pytest.mark.parametrize(
    ("rope", "arguments"),
    [(ROPES[rope], ARGUMENTS[arguments]) for rope, arguments in dict.fromkeys(CASES)],
    ids=[" ".join(case) for case in dict.fromkeys(CASES)],
)


def arrays(dtype="float64"):
    return random_array(SHAPE, dtype, 1), random_array(SHAPE, dtype, 2)


# ------------------------------------------------------------------------------------------------
# PyTorch.


@pytest.fixture
def torch():
    with warnings.catch_warnings():
        # A warning of PyTorch about its own code when forward-mode rules are loaded for the first time.
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch

        torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))
    return torch


@pytest.mark.library("torch")
class TestTorch:
    @pytest.mark.parametrize(
        ("name", "given"),
        [
            ("positions", [3, 1, 4]),
            ("positions", [[3, 1, 4], [1, 5, 9]]),
            ("positions", [np.array([3, 1, 4]), np.array([1, 5, 9])]),
            ("positions", np.array([3, 1, 4])),
            ("offset", [3, 70]),
            ("cu_seqlens", [0, 1, 3]),
            ("delta", [3, 70]),
        ],
    )
    def test_arrays_may_change_before_the_gradient(self, torch, name, given):
        rope = ROPES["half"]
        x, dy = random_array((2, 3, 12), seed=1), torch.from_numpy(random_array((2, 3, 12), seed=2))
        call = rope.shift if name == "delta" else rope
        kept = copy.deepcopy(given)
        want, got = (torch.from_numpy(x).requires_grad_() for _ in range(2))
        call(want, **{name: kept}, seq_axis=1).backward(dy)
        y = call(got, **{name: given}, seq_axis=1)
        for part in given if isinstance(given[0], list | np.ndarray) else [given]:
            part[:] = [0] * len(part)
        y.backward(dy)
        assert torch.equal(got.grad, want.grad)

    @pytest.mark.parametrize("name", ["seq_axis", "batch_axis"])
    @pytest.mark.parametrize("as_tuple", [False, True])
    def test_axes_may_change_before_the_gradient(self, torch, name, as_tuple):
        x, dy = (torch.from_numpy(random_array((3, 3, 3, 12), seed=i)) for i in (1, 2))
        axis = np.array(1)
        axes = {"seq_axis": 2} | {name: (axis,) if as_tuple else axis}
        for positions in ({"offset": [1, 2, 30]}, {"positions": torch.tensor([[3, 1, 4]])}):
            want, got = (x.clone().requires_grad_() for _ in range(2))
            axis[...] = 1
            ROPES["half"](want, **axes, **positions).backward(dy)
            y = ROPES["half"](got, **axes, **positions)
            axis[...] = 0
            y.backward(dy)
            assert torch.equal(got.grad, want.grad)

    @pytest.mark.parametrize("name", ROPES)
    def test_tensors_of_one_call_have_one_node(self, torch, name):
        """Each gradient is that of the tensor alone; a result that is not used costs nothing and gives none."""
        rope = ROPES[name]
        leaves = [torch.from_numpy(x).requires_grad_() for x in arrays()[:1] * 2]
        dy = [torch.from_numpy(x) for x in (arrays()[0] + 1, arrays()[0] * 2)]
        roles = ("query", "key") if rope.decay else (None, None)
        for used in ((0, 1), (0,), (1,)):
            for x in leaves:
                x.grad = None
            results = rope(*leaves)
            assert results[0].grad_fn is results[1].grad_fn
            torch.autograd.backward([results[i] for i in used], [dy[i] for i in used])
            for i, (x, role) in enumerate(zip(leaves, roles, strict=True)):
                if i not in used:
                    assert x.grad is None
                    continue
                alone = x.detach().clone().requires_grad_()
                rope(alone, role=role).backward(dy[i])
                assert torch.equal(x.grad, alone.grad)
        learned, constant = rope(leaves[0], leaves[1].detach())
        assert learned.requires_grad
        assert not constant.requires_grad
        learned.backward(dy[0])

    def test_one_axis_for_each_tensor(self, torch):
        rope = ROPES["half"]
        shapes, axes = ((2, 3, 4, 12), (2, 4, 3, 12)), (1, 2)
        q, k = (torch.from_numpy(random_array(shape)).requires_grad_() for shape in shapes)
        for used in ((0, 1), (1,)):
            results = rope(q, k, seq_axis=axes, offset=[5, 6])
            sum(results[i].sum() for i in used).backward()
        for x, axis, times in ((q, 1, 1), (k, 2, 2)):
            alone = x.detach().clone().requires_grad_()
            rope(alone, seq_axis=axis, offset=[5, 6]).sum().backward()
            assert torch.equal(x.grad, times * alone.grad)

    def test_the_graph_of_a_rotation_keeps_no_array(self, torch):
        leaf = torch.ones(2, 3, 3, 12, requires_grad=True)
        q, k = leaf * 2, leaf * 3
        alive = [weakref.ref(x) for x in (q, k)]
        results = ROPES["half"](q, k)
        del q, k
        assert [each() for each in alive] == [None, None]
        assert all(y.grad_fn is not None for y in results)

    @every_case
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
    def test_autograd(self, torch, rope, arguments, dtype):
        width = 6 if dtype.startswith("complex") else 12
        x, dy = (random_array((*SHAPE[:-1], width), dtype, i) for i in (1, 2))
        leaf = torch.from_numpy(x).requires_grad_()
        y = rope(leaf, **arguments)
        y.backward(torch.from_numpy(dy))
        tolerance = {"rtol": 0, "atol": 2e-6 if dtype in {"float32", "complex64"} else 4e-15}
        np.testing.assert_allclose(y.detach().numpy(), rope(x, **arguments), **tolerance)
        np.testing.assert_allclose(leaf.grad.numpy(), rope.vjp(dy, **arguments), **tolerance)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_autograd_of_narrow_dtypes(self, torch, rope, dtype):
        x = torch.randn(SHAPE, dtype=getattr(torch, dtype), requires_grad=True)
        rope(x).sum().backward()
        assert x.grad.dtype == x.dtype
        torch.testing.assert_close(x.grad, rope.vjp(torch.ones_like(x)), rtol=0, atol=0.02)

    @every_case
    def test_gradcheck(self, torch, rope, arguments):
        x = torch.from_numpy(arrays()[0]).requires_grad_()
        options = {"fast_mode": True, "check_batched_grad": True}
        assert torch.autograd.gradcheck(
            lambda x: rope(x, **arguments), x, check_forward_ad=True, **options
        )
        assert torch.autograd.gradgradcheck(lambda x: rope(x, **arguments), x, **options)

    @pytest.mark.parametrize("method", ["inverse", "vjp"])
    def test_gradcheck_of_the_other_methods(self, torch, rope, method):
        x = torch.from_numpy(arrays()[0]).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: getattr(rope, method)(x, offset=5), x, fast_mode=True
        )
        assert torch.autograd.gradcheck(lambda x: rope.shift(x, [3, -2]), x, fast_mode=True)

    def test_only_tensors_that_require_gradients_get_them(self, torch, rope):
        q, k = (torch.from_numpy(x) for x in arrays())
        q.requires_grad_()
        rotated_q, rotated_k = rope(q, k)
        assert rotated_q.requires_grad
        assert not rotated_k.requires_grad
        with torch.no_grad():
            assert not rope(q).requires_grad
        with torch.inference_mode():
            assert not rope(k).requires_grad

    def test_in_place_on_a_leaf_is_refused(self, torch, rope):
        x = torch.from_numpy(arrays()[0].copy()).requires_grad_()
        before = x.detach().clone()
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            rope(x, out=x)
        assert torch.equal(x.detach(), before)

    def test_in_place_within_a_graph(self, torch, rope):
        x, dy = (torch.from_numpy(x) for x in arrays())
        leaf = x.clone().requires_grad_()
        y = leaf * 1.0
        rope(y, out=y)
        y.backward(dy)
        torch.testing.assert_close(leaf.grad, rope.vjp(dy), rtol=0, atol=1e-14)

    @every_case
    def test_func_grad(self, torch, rope, arguments):
        x, dy = (torch.from_numpy(x) for x in arrays())
        got = torch.func.grad(lambda x: (rope(x, **arguments) * dy).sum())(x)
        torch.testing.assert_close(got, rope.vjp(dy, **arguments), rtol=0, atol=1e-14)

    def test_func_vmap(self, torch):
        rope = ROPES["half"]
        x, _ = (torch.from_numpy(x) for x in arrays())
        want = rope(x, positions=[[3, 1, 4], [1, 5, 9]])
        positions = torch.tensor([[3, 1, 4], [1, 5, 9]])
        got = torch.func.vmap(lambda x, p: rope(x, positions=p))(x, positions)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-14)
        got = torch.func.vmap(lambda x, p: rope(x, offset=p))(x, torch.tensor([2, 5]))
        torch.testing.assert_close(got, rope(x, offset=[2, 5]), rtol=0, atol=1e-14)

    def test_func_vmap_of_grad(self, torch):
        rope = ROPES["half"]
        x, dy = (torch.from_numpy(x) for x in arrays())
        got = torch.func.vmap(torch.func.grad(lambda x, dy: (rope(x) * dy).sum()))(x, dy)
        torch.testing.assert_close(got, rope.vjp(dy), rtol=0, atol=1e-14)

    @every_case
    def test_func_jvp_and_vjp(self, torch, rope, arguments):
        x, dx = (torch.from_numpy(x) for x in arrays())
        y, dy = torch.func.jvp(lambda x: rope(x, **arguments), (x,), (dx,))
        torch.testing.assert_close(y, rope(x, **arguments), rtol=0, atol=1e-14)
        torch.testing.assert_close(dy, rope(dx, **arguments), rtol=0, atol=1e-14)
        _, pullback = torch.func.vjp(lambda x: rope(x, **arguments), x)
        torch.testing.assert_close(pullback(dx)[0], rope.vjp(dx, **arguments), rtol=0, atol=1e-14)

    def test_func_jacrev(self, torch, rope):
        x = torch.zeros(1, 12, dtype=torch.float64)
        got = torch.func.jacrev(lambda x: rope(x, offset=5))(x)[0, :, 0]
        np.testing.assert_allclose(got.numpy(), rope.matrix(5), rtol=0, atol=1e-15)

    def test_positions_that_require_gradients(self, torch):
        """Learned positions: the derivative with respect to position is the frequency times the rotated pair."""
        rope = RotaryEmbedding(2, layout="half", scaling=Custom([0.5]))
        place = torch.tensor([0.75], dtype=torch.float64, requires_grad=True)
        y = rope(torch.tensor([[1.0, 0.0]], dtype=torch.float64), positions=place)
        y[0, 1].backward()
        assert float(y[0, 1].detach()) == pytest.approx(np.sin(0.375), abs=1e-15)
        assert float(place.grad[0]) == pytest.approx(0.5 * np.cos(0.375), abs=1e-15)

    def test_offsets_that_require_gradients(self, torch):
        rope = RotaryEmbedding(2, layout="half", scaling=Custom([0.5]))
        offset = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)
        y = rope(torch.tensor([[1.0, 0.0]], dtype=torch.float64), offset=offset)
        y[0, 1].backward()
        assert float(offset.grad) == pytest.approx(0.5 * np.cos(0.375), abs=1e-15)

    def test_meta_and_fake_tensors(self, torch, rope):
        from torch._subclasses.fake_tensor import FakeTensorMode

        assert rope(torch.empty(SHAPE, device="meta")).device.type == "meta"
        with FakeTensorMode():
            assert rope(torch.empty(SHAPE)).shape == SHAPE

    @pytest.mark.filterwarnings("ignore")
    def test_compile(self, torch, fresh_cache):
        """Lengths and offsets that change become symbolic in the compiler."""
        torch.compiler.reset()
        rope = ROPES["half"]
        counted = torch.compile(lambda x, offset: rope(x, offset=offset), backend="eager")
        given = torch.compile(lambda x, p: rope(x, positions=p), backend="eager")
        for length, offset in [(5, 3), (7, 4), (300, 5), (1, 1000), (3, 1_700_000_000)]:
            x = torch.from_numpy(random_array((2, 3, length, 12)))
            torch.testing.assert_close(counted(x, offset), rope(x, offset=offset))
            positions = torch.arange(length) + 2**40
            torch.testing.assert_close(given(x, positions), rope(x, positions=positions))
        leaf = x.clone().requires_grad_()
        counted(leaf, 7).sum().backward()
        torch.testing.assert_close(leaf.grad, rope.vjp(torch.ones_like(x), offset=7))

    def test_module_parameters_and_subclasses(self, torch, rope):
        parameter = torch.nn.Parameter(torch.from_numpy(arrays()[0]))
        rope(parameter).sum().backward()
        assert parameter.grad is not None
        rope.inverse(rope(parameter)).sum()


# ------------------------------------------------------------------------------------------------
# JAX.


@pytest.fixture
def jax():
    import jax

    with jax.enable_x64(True):
        yield jax


@pytest.fixture
def narrow_jax():
    """JAX with its default of 64-bit types off."""
    import jax

    assert not jax.config.jax_enable_x64
    return jax


@pytest.mark.library("jax")
class TestJax:
    @every_case
    def test_grad(self, jax, rope, arguments):
        x, dy = (jax.numpy.asarray(x) for x in arrays())
        want = rope.vjp(arrays()[1], **arguments)
        loss = lambda x: (rope(x, **arguments) * dy).sum()  # noqa: E731  (reads like the formula)
        for function in (jax.grad(loss), jax.jit(jax.grad(loss)), jax.grad(jax.jit(loss))):
            np.testing.assert_allclose(function(x), want, rtol=0, atol=1e-14)

    @pytest.mark.parametrize("dtype", ["complex64", "complex128"])
    def test_vjp_of_complex_arrays(self, jax, rope, dtype):
        """The convention of JAX has no conjugate: it is `vjp` between two conjugations."""
        x = jax.numpy.asarray(random_array((3, 6), dtype))
        dy = jax.numpy.asarray(random_array((3, 6), dtype, 1))
        _, pullback = jax.vjp(rope, x)
        want = rope.vjp(dy.conj()).conj()
        np.testing.assert_allclose(pullback(dy)[0], want, rtol=0, atol=3e-6)

    def test_vmap(self, jax):
        rope = ROPES["half"]
        x, _ = (jax.numpy.asarray(x) for x in arrays())
        np.testing.assert_allclose(jax.vmap(rope)(x), rope(arrays()[0]), rtol=0, atol=1e-14)
        positions = jax.numpy.asarray([[3, 1, 4], [1, 5, 9]])
        got = jax.vmap(lambda x, p: rope(x, positions=p))(x, positions)
        want = rope(arrays()[0], positions=[[3, 1, 4], [1, 5, 9]])
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)

    def test_jit_grad_vmap(self, jax):
        rope = ROPES["half"]
        x, dy = (jax.numpy.asarray(x) for x in arrays())
        function = jax.jit(
            jax.grad(lambda x: (jax.vmap(lambda x: rope(x, offset=7))(x) * dy).sum())
        )
        want = rope.vjp(arrays()[1], offset=7)
        np.testing.assert_allclose(function(x), want, rtol=0, atol=1e-14)
        each = jax.jit(jax.vmap(jax.grad(lambda x, dy: (rope(x, offset=7) * dy).sum())))
        np.testing.assert_allclose(each(x, dy), want, rtol=0, atol=1e-14)

    @every_case
    def test_jvp_and_jacobian(self, jax, rope, arguments):
        x, dx = (jax.numpy.asarray(x) for x in arrays())
        _, dy = jax.jvp(lambda x: rope(x, **arguments), (x,), (dx,))
        np.testing.assert_allclose(dy, rope(arrays()[1], **arguments), rtol=0, atol=1e-14)
        got = jax.jacfwd(lambda x: rope(x, offset=5))(jax.numpy.zeros((1, 12)))[0, :, 0]
        np.testing.assert_allclose(got, rope.matrix(5), rtol=0, atol=1e-15)

    def test_every_argument_may_be_traced_under_jit(self, jax):
        rope = ROPES["half"]
        x = jax.numpy.asarray(arrays()[0])
        rows = jax.numpy.asarray([2, 5])
        functions = {
            "positions": lambda x, p: rope(x, positions=p + jax.numpy.arange(3)),
            "offset": lambda x, p: rope(x, offset=p),
        }
        for function in functions.values():
            got = jax.jit(function)(x, 5)
            np.testing.assert_allclose(got, rope(arrays()[0], offset=5), rtol=0, atol=1e-14)
        got = jax.jit(lambda x, p: rope(x, offset=p))(x, rows)
        np.testing.assert_allclose(got, rope(arrays()[0], offset=[2, 5]), rtol=0, atol=1e-14)
        got = jax.jit(rope.shift)(x, rows)
        np.testing.assert_allclose(got, rope.shift(arrays()[0], [2, 5]), rtol=0, atol=1e-14)
        for method in ("inverse", "vjp"):
            got = jax.jit(lambda x, p, method=method: getattr(rope, method)(x, offset=p))(x, rows)
            want = getattr(rope, method)(arrays()[0], offset=[2, 5])
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)

    def test_specifications_are_static_arguments(self, jax):
        function = jax.jit(lambda rope, x: rope(x), static_argnums=0)
        x = jax.numpy.asarray(arrays()[0])
        twin = RotaryEmbedding(12, layout="half", base=10_000.0, seq_axis=-2)
        function(ROPES["half"], x)
        function(twin, x)
        assert function._cache_size() == 1

    def test_concrete_positions_use_exact_tables(self, narrow_jax):
        """A traced x with known positions has the bits of the host tables, also at unix time."""
        rope = ROPES["half"]
        x = random_array((3, 12))
        got = narrow_jax.jit(lambda x: rope(x, offset=1_700_000_000_123_456_789))(x)
        want = rope(x, offset=1_700_000_000_123_456_789)
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-7)

    def test_export_with_a_symbolic_batch(self, jax):
        from jax import export

        shape = jax.ShapeDtypeStruct(export.symbolic_shape("b, 3, 5, 12"), "float32")
        program = export.export(jax.jit(ROPES["half"]))(shape)
        for batch in (1, 4):
            x = random_array((batch, 3, 5, 12))
            np.testing.assert_allclose(program.call(x), ROPES["half"](x), rtol=0, atol=1e-6)

    def test_float64_without_64_bit_types_is_refused(self, narrow_jax):
        positions = narrow_jax.numpy.arange(5)
        for call in (
            lambda: ROPES["half"].tables(positions, dtype="float64"),
            lambda: rotary.cos_sin(positions, [1.0], dtype="float64"),
            lambda: rotary.sinusoidal(positions, 8, dtype="float64"),
        ):
            with pytest.raises(ValueError, match="`dtype`"):
                call()

    def test_scan(self, jax):
        """Decoding in a loop: the position is the loop counter."""
        rope = ROPES["half"]
        x = random_array((6, 1, 12), "float64")

        def step(place, row):
            return place + 1, rope(row, offset=place)

        _, got = jax.lax.scan(step, 100, jax.numpy.asarray(x))
        np.testing.assert_allclose(got[:, 0], rope(x[:, 0], offset=100), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_positions_that_require_gradients(self, jax, layout):
        rope = RotaryEmbedding(2, layout=layout, scaling=Custom([0.5]))
        x = jax.numpy.asarray([[1.0, 0.0]])
        got = jax.grad(lambda p: rope(x, positions=p[None])[0, 1])(0.75)
        assert float(got) == pytest.approx(0.5 * np.cos(0.375), abs=1e-15)


# ------------------------------------------------------------------------------------------------
# Traced positions are reduced exactly, also with 32-bit integers.

FREQUENCIES = [*powers(10_000.0, 16), *powers(500_000.0, 8), 3.0, -0.7, 6.3, 0.0, 100.5]
EXTREMES = [0, 1, 2, 3, 5, 1023, 65_535, 65_536, 65_537, 2**24 + 1, 2**30, 2**31 - 1, 2**31 - 2]


def worst_error(table, positions, factor=1.0):
    """Return the largest error of traced cosine and sine, (2, positions, frequencies)."""
    worst = 0.0
    for i, place in enumerate(positions):
        for j, frequency in enumerate(FREQUENCIES):
            for part, exact in zip(table, exact_cos_sin(int(place), frequency), strict=True):
                worst = max(worst, abs(float(part[i, j]) - factor * (exact / 2**SCALE)))
    return worst


def traced_tables(jax, positions, integer, real):
    """Return cosine and sine in a compiled program: the rotation of (1, 0)."""
    pairs = len(FREQUENCIES)
    rope = RotaryEmbedding(2 * pairs, layout="half", scaling=Custom(FREQUENCIES))
    x = np.zeros((len(positions), 2 * pairs), real)
    x[:, :pairs] = 1
    turn = jax.jit(lambda x, p: rope(x, positions=p))
    got = np.asarray(turn(x, jax.numpy.asarray(positions, integer)), np.float64)
    return got[:, :pairs], got[:, pairs:]


@pytest.mark.library("jax")
class TestTracedIntegers:
    def test_with_64_bits_off(self, narrow_jax):
        rng = np.random.default_rng(0)
        positions = [*EXTREMES, *(-p for p in EXTREMES), -(2**31)]
        positions += rng.integers(-(2**31), 2**31, 400).tolist()
        positions += (2 ** rng.uniform(0, 31, 200)).astype(int).tolist()
        table = traced_tables(narrow_jax, positions, "int32", "float32")
        assert worst_error(table, positions) <= 1e-6

    def test_with_64_bits_on(self, jax):
        rng = np.random.default_rng(0)
        positions = [*EXTREMES, *(-p for p in EXTREMES), 2**63 - 1, -(2**63), 2**53 + 1]
        positions += rng.integers(-(2**63), 2**63, 300).tolist()
        table = traced_tables(jax, positions, "int64", "float64")
        assert worst_error(table, positions) <= 1e-15

    @pytest.mark.parametrize("integer", ["int8", "int16", "uint8", "uint16", "uint32"])
    def test_all_integer_dtypes(self, narrow_jax, integer):
        info = np.iinfo(integer)
        positions = [info.min, info.max, info.max // 2, info.min // 3, 1, 0]
        table = traced_tables(narrow_jax, positions, integer, "float32")
        assert worst_error(table, positions) <= 1e-6

    def test_traced_offsets_with_64_bits_off(self, narrow_jax):
        rope = RotaryEmbedding(16, layout="half", base=10_000.0)
        x = random_array((5, 16))
        start = 2**31 - 6
        got = narrow_jax.jit(lambda x, p: rope(x, offset=p))(x, start)
        np.testing.assert_allclose(got, rope(x, offset=start), rtol=0, atol=6e-6)

    @pytest.mark.parametrize(
        ("kind", "start"),
        [
            ("int8", 126),
            ("uint8", 254),
            ("int16", 2**15 - 2),
            ("uint16", 2**16 - 2),
            ("bfloat16", 254),
            ("float16", 2046),
        ],
    )
    def test_narrow_offsets_neither_overflow_nor_round(self, narrow_jax, kind, start):
        rope = RotaryEmbedding(16, layout="half", base=10_000.0)
        x = random_array((5, 16))
        offset = narrow_jax.numpy.asarray(start, kind)
        got = narrow_jax.jit(lambda x, p: rope(x, offset=p))(x, offset)
        tolerance = 3e-3 if "float" in kind else 6e-6
        np.testing.assert_allclose(got, rope(x, offset=start), rtol=0, atol=tolerance)

    def test_attention_factors_apply_to_traced_tables(self, narrow_jax):
        rope = RotaryEmbedding(16, layout="half", scaling=Custom(powers(1e4, 16), 1.5))
        x = random_array((5, 16))
        got = narrow_jax.jit(lambda x, p: rope(x, offset=p))(x, 3)
        np.testing.assert_allclose(got, rope(x, offset=3), rtol=0, atol=6e-6)

    def test_several_position_axes(self, narrow_jax):
        w = np.array([powers(1e4, 8), powers(500.0, 8)])
        rope = RotaryEmbedding(8, layout="half", scaling=Custom(W=w))
        x = random_array((5, 8))
        positions = np.array([[1, -2, 3, 2**31 - 1, 5], [7, 70_000, -(2**31), 1, 0]], np.int32)
        got = narrow_jax.jit(lambda x, p: rope(x, positions=p))(x, positions)
        np.testing.assert_allclose(got, rope(x, positions=positions), rtol=0, atol=6e-6)

    def test_frequencies_per_head(self, narrow_jax):
        w = np.random.default_rng(0).normal(size=(3, 1, 4))
        rope = RotaryEmbedding(8, layout="half", scaling=Custom(W=w), seq_axis=-2)
        x = random_array((2, 3, 5, 8))
        positions = np.array([[[3, 1, 4, 1, 5]]], np.int32)
        got = narrow_jax.jit(lambda x, p: rope(x, positions=p))(x, positions)
        np.testing.assert_allclose(got, rope(x, positions=positions), rtol=0, atol=6e-6)

    def test_float32_angles_exceed_the_bound(self, narrow_jax):
        """The promised bound means something only if ordinary float32 angles exceed it."""
        angle = np.float32(2**31 - 1) * np.float32(FREQUENCIES[1])
        exact = exact_cos_sin(2**31 - 1, FREQUENCIES[1])[0] / 2**SCALE
        assert abs(float(np.cos(angle)) - exact) > 1e-3
