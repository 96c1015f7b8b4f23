"""What seldom happens: broken caches, forked children, foreign devices, limits of numbers and of NumPy."""

import importlib
import sys

import numpy as np
import pytest

import rotary
from rotary import RotaryEmbedding, backends, scaling
from rotary.backends import reference
from rotary.backends.contract import Axes, Pairing, Table
from rotary.backends.cpu import guard, kernels
from rotary.backends.cuda import launch as cuda
from rotary.call import arrays

host = importlib.import_module(
    "rotary.backends.cpu.host"
)  # the package has a function of this name
if kernels.COMPILED:
    from rotary.backends.cpu import jit, threads


@pytest.fixture
def nothing_failed(monkeypatch):
    """As in a new process."""
    for told in (guard.failures, guard._untold):
        for what in list(told):
            monkeypatch.delitem(told, what)
    yield
    guard.failures.clear()
    guard._untold.clear()


def embedding(**options):
    return RotaryEmbedding(8, **({"layout": "half", "base": 10_000.0, "seq_axis": -2} | options))


@pytest.mark.compiled
class TestCompiling:
    @pytest.mark.parametrize(
        ("error", "warnings"),
        [(RuntimeError("cannot cache function"), 0), (EOFError("Ran out of input"), 1)],
    )
    def test_a_cache_that_fails_is_done_without(
        self, monkeypatch, recwarn, nothing_failed, error, warnings
    ):
        whole = jit.numba.njit

        def njit(*arguments, cache=False, **options):
            if cache:
                raise error
            return whole(*arguments, **options)

        monkeypatch.setattr(jit.numba, "njit", njit)
        kernel = jit._compile(jit.Variant("half", "float32"))
        assert len(kernel.signatures) == 1
        guard.tell()
        assert [w.category for w in recwarn] == [RuntimeWarning] * warnings

    def test_a_forked_child_stays_serial_where_threads_had_started(self, monkeypatch):
        monkeypatch.setattr(threads, "_numba_threads_started", lambda: True)
        monkeypatch.setattr(threads, "_inherited", {})
        assert threads.parallel_is_safe()
        monkeypatch.setattr(threads.os, "getpid", lambda: -1)
        assert not threads.parallel_is_safe()
        assert threads.thread_count(2**30, 1) == 1

    @pytest.mark.parametrize(
        ("name", "features", "machine", "known", "expected"),
        [
            ("generic", "", "x86_64", {}, False),
            ("haswell", "+f16c,+avx", "x86_64", {}, True),
            (None, None, "aarch64", {}, True),
            (None, None, "x86_64", {"f16c": True}, True),
            (None, None, "x86_64", {}, False),
        ],
    )
    def test_which_processors_convert_float16(
        self, monkeypatch, name, features, machine, known, expected
    ):
        monkeypatch.setattr(kernels.numba.config, "CPU_NAME", name)
        monkeypatch.setattr(kernels.numba.config, "CPU_FEATURES", features)
        monkeypatch.setattr(kernels.platform, "machine", lambda: machine)
        monkeypatch.setattr(kernels.llvmlite.binding, "get_host_cpu_features", lambda: known)
        assert kernels._converts_half() is expected


def test_without_an_importable_numba_one_warning_tells_why(monkeypatch, nothing_failed):
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    monkeypatch.delattr(backends.cpu, "launch", raising=False)
    monkeypatch.setitem(sys.modules, "rotary.backends.cpu.launch", None)
    assert host._found() is backends.portable
    with pytest.warns(RuntimeWarning, match="Numba cannot be imported"):
        guard.tell()


def test_with_the_jit_disabled_array_operations_run(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert host._found() is backends.portable


def test_the_reference_rotates_complex_arrays():
    x = np.arange(8.0).reshape(2, 4) + 1j
    values = np.stack([np.full((1, 2, 4), 0.6), np.full((1, 2, 4), 0.8)])
    table = Table(values, np.zeros((1, 1), np.int64), 1, 2)
    pairing = Pairing(1, 3, "half", "half", inverse=True)
    table = Table(np.ascontiguousarray(values[..., :3]), table.index, 1, 2)
    expected = np.concatenate([x[:, :1], x[:, 1:] * (0.6 - 0.8j)], axis=-1)
    np.testing.assert_allclose(reference.rotate(x, table, Axes(0, None), pairing), expected)


def test_overlaps_too_hard_to_rule_out_are_refused(monkeypatch):
    monkeypatch.setattr(arrays, "OVERLAP_WORK", 0)
    memory = np.zeros((40, 3, 16))
    x, out = memory[::2, ::2, :8], memory[::3, ::2, 8:][:20]
    with pytest.raises(ValueError, match="`out` must be the input itself or overlap no input"):
        embedding()(x[:14], out=out[:14])


@pytest.mark.parametrize("base", [1e-300, 5e-324])
def test_bases_whose_frequencies_leave_the_integer_part_are_refused(base):
    with pytest.raises(ValueError, match=r"`base` .*below 2\*\*63 radians per position"):
        embedding(base=base)


def test_a_schedule_whose_frequencies_are_too_large_is_refused():
    class Steep(scaling.Default):
        needs_base = False

        def inv_freq(self, dim, base=None, context_length=None):
            return np.full(dim // 2, 1e30)

    with pytest.raises(ValueError, match="inverse frequencies must be below"):
        embedding(scaling=Steep())


def test_an_embedding_that_turns_nothing_explains_itself():
    still = RotaryEmbedding(4, layout="half", scaling=scaling.Custom([0.0, 0.0]))
    assert "all zero" in still.explain()


@pytest.mark.parametrize("delta", [np.zeros((2, 2, 2)), np.zeros(5), np.zeros((4, 3))])
def test_deltas_that_fit_nothing_are_refused(delta):
    with pytest.raises(ValueError, match="`delta` must"):
        embedding().shift(np.ones((2, 3, 8)), delta)


def test_a_delta_for_other_than_the_packed_sequences_is_refused():
    with pytest.raises(ValueError, match=r"`delta` must have one of the shapes \(5,\)"):
        embedding().shift(np.ones((5, 2, 8)), [1, 2, 3], cu_seqlens=[0, 2, 5])


class Bare:
    """Memory of a GPU that no library knows: all it can do is say where it lies."""

    shape, dtype = (3, 8), np.dtype(np.float32)

    @property
    def __cuda_array_interface__(self):
        return {"data": (0, False), "shape": self.shape, "typestr": "<f4", "version": 3}


def test_memory_of_no_library_needs_kernels(monkeypatch):
    """Without them there is nobody to rotate it."""
    monkeypatch.setattr(cuda, "usable", lambda _: False)
    with pytest.raises(TypeError, match="`x` must be an array of a library, got .*cupy.asarray"):
        embedding()(Bare())
    with pytest.raises(TypeError, match="`cos` must be an array of a library, got .*cupy.asarray"):
        rotary.apply_rotary(np.ones((3, 8)), Bare(), Bare(), layout="half")


@pytest.mark.library("jax")
class TestJax:
    def test_offsets_of_packed_sequences_must_be_known(self):
        import jax

        function = jax.jit(
            lambda o: embedding()(np.ones((5, 2, 8)), cu_seqlens=[0, 2, 5], offset=o)
        )
        with pytest.raises(TypeError, match="`offset` must be known"):
            function(3)

    def test_traced_bounds_and_kinds_are_refused(self):
        import jax

        with pytest.raises(TypeError, match="`cu_seqlens` must be known"):
            jax.jit(lambda c: embedding()(np.ones((5, 2, 8)), cu_seqlens=c))(np.array([0, 5]))
        with pytest.raises(TypeError, match="`positions` must hold integers or floats"):
            jax.jit(lambda p: embedding()(np.ones((2, 8)), positions=p))(np.array([True, False]))

    def test_numpy_outputs_are_refused_where_positions_are_traced(self):
        import jax

        x = np.ones((2, 8), np.float32)
        with pytest.raises(TypeError, match="`out` must not be a NumPy array"):
            jax.jit(lambda p: embedding()(x, positions=p, out=x))(np.arange(2))

    def test_frequencies_must_be_known(self):
        import jax

        with pytest.raises(
            TypeError, match="`inv_freq` must be a number that is known.*`inv_freq=`"
        ):
            jax.jit(lambda w: embedding(scaling=scaling.Custom(w))(np.ones((2, 8))))(np.ones(4))

    def test_padding_that_int32_does_not_hold_is_refused(self):
        import jax

        with (
            jax.enable_x64(False),
            pytest.raises(ValueError, match="`padding` must be within int32"),
        ):
            rotary.positions.from_mask(jax.numpy.ones((1, 2), bool), padding=2**40)


@pytest.mark.library("torch", "jax")
def test_tables_come_from_any_library_that_the_host_reads():
    import jax
    import torch

    cos, sin = embedding().tables(np.arange(3))
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    expected = rotary.apply_rotary(x, cos, sin, layout="half")
    own = jax.numpy.asarray(cos), jax.numpy.asarray(sin)
    for array in x, torch.asarray(x):
        found = rotary.apply_rotary(array, *own, layout="half")
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6)
    with pytest.raises(TypeError, match="`cos` must be of the library of `x`, or known"):
        jax.jit(lambda c: rotary.apply_rotary(torch.asarray(x), c, sin, layout="half"))(own[0])


@pytest.mark.library("torch")
class TestTorch:
    def test_positions_on_another_device_are_refused(self):
        import torch

        with pytest.raises(
            TypeError, match="`positions` on meta .* `x` must be on the same device"
        ):
            embedding()(torch.ones(3, 8), positions=torch.arange(3, device="meta"))

    def test_sparse_arrays_are_refused(self):
        import torch

        with pytest.raises(TypeError, match="`x` must be a dense array"):
            embedding()(torch.ones(3, 8).to_sparse())

    def test_outputs_without_memory_of_their_own_are_taken(self):
        import torch

        x = torch.ones(2, 3, 8)
        rotate = torch.func.vmap(lambda part: embedding()(part, out=torch.empty_like(part)))
        np.testing.assert_allclose(rotate(x), embedding()(x), rtol=1e-6)
