"""Rotation by the tables of the user: a repeated call has a plan, and no plan serves a call of another kind."""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest
from helpers import random_array, same_bits

import rotary
from rotary.call import plans

LENGTH, HEADS = 5, 3
TABLES = {
    "(S, r/2)": (LENGTH,),
    "(1, S, r/2)": (1, LENGTH),
    "(B, S, r/2)": (2, LENGTH),
    "(1, H, S, r/2)": (1, HEADS, LENGTH),
    "(B, 1, S, r/2)": (2, 1, LENGTH),
    "(B, H, S, r/2)": (2, HEADS, LENGTH),
}
OPTIONS = {"layout": "half", "seq_axis": -2}


def tables(shape, pairs=8, dtype=np.float32, seed=0):
    angles = np.random.default_rng(seed).normal(size=(*shape, pairs))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def array(dtype="float32", width=16):
    return random_array((2, HEADS, LENGTH, width // (2 if "complex" in dtype else 1)), dtype)


def first(*given, **options):
    """Return the result of a call that has no cached plan."""
    plans._plans.clear()
    return rotary.apply_rotary(*given, **options)


def refuse(*_, **__):
    pytest.fail("a plan was made")


@pytest.fixture
def planned(monkeypatch):
    """Make a call, then make it again and fail unless it has a plan."""

    def call(*given, **options):
        rotary.apply_rotary(*given, **options)
        with monkeypatch.context() as patch:
            patch.setattr(plans, "_plan_with_tables", refuse)
            return rotary.apply_rotary(*given, **options)

    return call


# ------------------------------------------------------------------------------------------------
# Calls with a plan.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", TABLES.values(), ids=TABLES)
def test_repeated_calls_have_the_bits_of_the_first_call(planned, shape, dtype):
    x = array(dtype)
    for kind, inverse in itertools.product(("float32", "float64"), (False, True)):
        given = x, *tables(shape, dtype=kind)
        options = OPTIONS | {"inverse": inverse}
        want = first(*given, **options)
        assert same_bits(planned(*given, **options), want)
        place, other = x.copy(), np.empty_like(x)
        assert planned(place, *given[1:], out=other, **options) is other
        assert same_bits(other, want)
        again = x.copy()
        rotary.apply_rotary(place, *given[1:], out=place, **options)
        assert planned(np.zeros_like(again), *given[1:], out=again, **options) is again
        assert not again.any()
        assert same_bits(place, want)


@pytest.mark.parametrize("shape", TABLES.values(), ids=TABLES)
def test_arrays_are_read_without_copies(planned, shape):
    own = tables(shape)
    x = array()
    want = first(x, *own, **OPTIONS)
    wide = np.zeros((*x.shape[:-1], 40), np.float32)
    wide[..., 8:24] = x
    transposed = x.transpose(2, 0, 1, 3).copy().transpose(1, 2, 0, 3)
    every_second = np.repeat(x, 2, axis=-1)[..., ::2]
    for other in (wide[..., 8:24], transposed, every_second, x.astype(">f4")):
        got = planned(other, *own, **OPTIONS)
        assert got.dtype == other.dtype
        assert same_bits(got.astype(np.float32), want)
    for pair in ([np.asfortranarray(part) for part in own], [part.astype(">f4") for part in own]):
        assert same_bits(planned(x, *pair, **OPTIONS), want)


def test_each_call_reads_the_tables_again(planned):
    x, (cos, sin) = array(), tables((LENGTH,))
    planned(x, cos, sin, **OPTIONS)
    x[...], cos[...], sin[...] = array() + 1, *tables((LENGTH,), seed=1)
    got = planned(x, cos, sin, **OPTIONS)
    assert same_bits(got, first(x, cos, sin, **OPTIONS))


def test_plans_keep_neither_arrays_nor_tables():
    x, (cos, sin) = array(), tables((2, LENGTH))
    out = np.empty_like(x)
    rotary.apply_rotary(x, cos, sin, out=out, **OPTIONS)
    kept = [weakref.ref(each) for each in (x, cos, sin, out)]
    del x, cos, sin, out
    gc.collect()
    assert [each() for each in kept] == [None] * 4


VARIANTS = {
    "layout": {"layout": "interleaved"},
    "start": {"rotary_start": 2},
    "inverse": {"inverse": True},
    "sequence axis": {"seq_axis": 1},
    "no batch": {"batch_axis": False},
    "batch axis 0": {"batch_axis": 0},
    "batch axis 1": {"batch_axis": 1},
}


def test_each_option_has_plans_of_its_own():
    """In any order, and no plan of one variant serves another."""
    x = random_array((3, 3, 3, 18))
    own = tables((1, 3))
    wanted = {name: first(x, *own, **OPTIONS | options) for name, options in VARIANTS.items()}
    plans._plans.clear()
    for name, other in itertools.permutations(VARIANTS, 2):
        for each in (name, other):
            got = rotary.apply_rotary(x, *own, **OPTIONS | VARIANTS[each])
            assert same_bits(got, wanted[each])


# ------------------------------------------------------------------------------------------------
# Errors of repeated calls.


def overlapping(x):
    room = np.zeros(x.size + 4, x.dtype)
    room[4:] = x.ravel()
    return room[:-4].reshape(x.shape), room[4:].reshape(x.shape)


def frozen(x):
    x.flags.writeable = False
    return x


def masked(x):
    return np.ma.masked_array(x, x > 0)


X, (COS, SIN) = array(), tables((LENGTH,))
BAD = {
    "inverse": (lambda x: {"inverse": 1}, TypeError, "`inverse` must be True or False, got 1"),
    "start": (lambda x: {"rotary_start": False}, TypeError, "`rotary_start` must be an integer"),
    "layout": (lambda x: {"layout": "whole"}, ValueError, "`layout` must be"),
    "axis": (lambda x: {"seq_axis": True}, TypeError, "`seq_axis` must be an integer"),
    "last axis": (lambda x: {"seq_axis": -1}, ValueError, "`seq_axis` must be an axis"),
    "x": (lambda x: {"x": masked(x)}, TypeError, "`x` must be a plain array"),
    "cos": (lambda x: {"cos": masked(COS)}, TypeError, "`cos` must be a plain array"),
    "sin": (lambda x: {"sin": SIN[:-1]}, ValueError, "`sin` must have shape"),
    "wide": (lambda x: {"cos": np.tile(COS, 2), "sin": np.tile(SIN, 2)}, ValueError, "one half"),
    "read-only": (lambda x: {"out": frozen(x.copy())}, ValueError, "`out` must be writeable"),
    "two": (lambda x: {"out": (x, x)}, ValueError, "`out` must hold one array"),
    "none": (lambda x: {"out": ()}, ValueError, "`out` must hold one array"),
    "nothing": (lambda x: {"out": [None]}, TypeError, "`out` must be an array"),
    "dtype": (lambda x: {"out": x.astype(float)}, TypeError, "`out` must have dtype float32"),
    "overlap": (
        lambda x: dict(zip(("x", "out"), overlapping(x), strict=True)),
        ValueError,
        "`out` must be the input itself or overlap no input",
    ),
    "a table": (
        lambda x: {"cos": x[0, 0, :, :8]},
        ValueError,
        "`out` must not overlap `cos`",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_invalid_calls_are_refused_although_a_plan_is_cached(kind):
    bad, error, message = BAD[kind]
    for place in (None, X.copy()):
        rotary.apply_rotary(X.copy() if place is None else place, COS, SIN, out=place, **OPTIONS)
    x = X.copy()
    given = {"x": x, "cos": COS, "sin": SIN, "out": x} | OPTIONS
    given |= bad(x)
    outputs = given["out"] if isinstance(given["out"], np.ndarray) else x
    before = outputs.copy()
    for _ in range(2):
        with pytest.raises(error, match=message):
            rotary.apply_rotary(**given)
        assert same_bits(outputs, before)


# ------------------------------------------------------------------------------------------------
# Other libraries.


@pytest.mark.library("torch")
def test_tables_of_torch(planned):
    import torch

    cos, sin = tables((LENGTH,))
    want = torch.from_numpy(rotary.apply_rotary(X, COS, SIN, **OPTIONS))
    own = [torch.from_numpy(part.copy()) for part in (X, COS, SIN)]
    torch.testing.assert_close(planned(*own, **OPTIONS), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(planned(own[0], cos, sin, **OPTIONS), want, rtol=0, atol=1e-6)
    out = torch.empty_like(own[0])
    assert planned(*own, out=out, **OPTIONS) is out
    torch.testing.assert_close(out, want, rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match="`cos` must be a dense array"):
        rotary.apply_rotary(own[0], own[1].to_sparse(), own[2], **OPTIONS)


@pytest.mark.library("torch")
def test_the_plan_of_tensors_serves_gradients_and_transforms():
    import torch

    x, cos, sin = (
        torch.from_numpy(part.astype(float))
        for part in (X[:1, :1, :2, :4], COS[:2, :2], SIN[:2, :2])
    )

    def rotate(*parts):
        return rotary.apply_rotary(*parts, **OPTIONS)

    want = rotate(x, cos, sin)
    leaves = [part.clone().requires_grad_() for part in (x, cos, sin)]
    assert torch.autograd.gradcheck(rotate, leaves)
    many = torch.func.vmap(rotate, in_dims=(0, None, None))(torch.stack([x, 2 * x]), cos, sin)
    torch.testing.assert_close(many, torch.stack([want, 2 * want]))
    torch.testing.assert_close(
        torch.func.grad(lambda c: rotate(x, c, sin).sum())(cos),
        torch.autograd.grad(rotate(x, leaves[1], sin).sum(), leaves[1])[0],
    )
    torch.testing.assert_close(rotate(x, cos, sin), want)


@pytest.mark.library("jax")
def test_the_plan_of_jax_serves_eager_and_traced_arrays(planned):
    import jax

    x, cos, sin = map(jax.numpy.asarray, (X, COS, SIN))
    want = rotary.apply_rotary(X, COS, SIN, **OPTIONS)
    traced = jax.jit(lambda *parts: rotary.apply_rotary(*parts, **OPTIONS))
    for got in (
        planned(x, cos, sin, **OPTIONS),
        planned(x, COS, SIN, **OPTIONS),
        traced(x, cos, sin),
    ):
        np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-6)
    gradient = jax.grad(lambda c: rotary.apply_rotary(x, c, sin, **OPTIONS).sum())(cos)
    first = X[..., :8].sum((0, 1)) + X[..., 8:].sum((0, 1))
    np.testing.assert_allclose(np.asarray(gradient), first, rtol=1e-5, atol=1e-5)


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected")  # a cache of array-api-compat
def test_torch_compile_traces_it_without_graph_breaks():
    import torch

    parts = [torch.from_numpy(part.copy()) for part in (X, COS, SIN)]
    rotate = torch.compile(
        lambda *given: rotary.apply_rotary(*given, **OPTIONS), fullgraph=True, backend="eager"
    )
    for _ in range(2):
        torch.testing.assert_close(rotate(*parts), rotary.apply_rotary(*parts, **OPTIONS))
