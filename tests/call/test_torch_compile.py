"""Rotations in the graphs of torch.compile and torch.export: bit for bit the results of eager calls."""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest
from helpers import random_array, same_bits

import rotary
from rotary import RotaryEmbedding, scaling, sections
from rotary.call import plans
from rotary.call import torch_graphs as operators

pytestmark = [
    pytest.mark.library("torch"),
    # Tracing warns of deprecated code of torch.
    pytest.mark.filterwarnings("ignore"),
]

ROPE = RotaryEmbedding(8, layout="half", base=10_000.0, seq_axis=-2)
SHAPES = (2, 3, 5, 8), (2, 1, 5, 8)


@pytest.fixture
def torch():
    import torch

    torch.compiler.reset()
    yield torch
    torch.compiler.reset()


def tensors(torch, dtype="float32"):
    x, y = (torch.from_numpy(random_array(shape, "float64", i)) for i, shape in enumerate(SHAPES))
    if dtype.startswith("complex"):
        x, y = (torch.view_as_complex(each.unflatten(-1, (4, 2))).clone() for each in (x, y))
    return x.to(getattr(torch, dtype)), y.to(getattr(torch, dtype))


def whole(torch, function, **options):
    """Compile a function into one graph, with a backend that needs no C++ compiler."""
    return torch.compile(function, fullgraph=True, **({"backend": "aot_eager"} | options))


def same(torch, got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


class Graphs:
    """A backend that counts the graphs that it gets."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


# ------------------------------------------------------------------------------------------------
# Arguments.


CALLS = {
    "counted": (lambda q, k, _: ROPE(q, k), None),
    "a constant": (lambda q, k, _: ROPE(q, k, offset=1_700_000_000), None),
    "a number": (lambda q, k, n: ROPE(q, k, offset=n), 1_700_000_000),
    "a float": (lambda q, k, n: ROPE(q, k, offset=n), 0.1),
    "a number for each row": (lambda q, k, _: ROPE(q, k, offset=[3, 70_000]), None),
    "floats for each row": (lambda q, k, _: ROPE(q, k, offset=(0.1, 7)), None),
    "an offset tensor": (lambda q, k, n: ROPE(q, k, offset=n), [3, 70_000]),
    "positions": (lambda q, k, p: ROPE(q, k, positions=p), [3, 1, 4, 1, 2**40]),
    "positions of each row": (lambda q, k, p: ROPE(q, k, positions=p), [[3, 1, 4, 1, 5]] * 2),
    "fractions": (lambda q, k, p: ROPE(q, k, positions=p), [0.1, 1.5, -7.25, 1e6, 2.0]),
    "inverse": (lambda q, k, n: ROPE.inverse(q, k, offset=n), 7),
    "vjp": (lambda q, k, n: ROPE.vjp(q, k, offset=n), 7),
    "shift": (lambda q, _, n: ROPE.shift(q, n), -7),
    "shift of each row": (lambda q, _, n: ROPE.shift(q, n), [3, -70_000]),
    "move": (lambda q, _, n: ROPE.shift(q, n, to=OTHER, offset=5), 7),
    "packed": (lambda q, _, b: ROPE(q[0].transpose(0, 1), cu_seqlens=b), [0, 2, 5]),
    "an axis": (lambda q, _, n: ROPE(q.transpose(1, 2), seq_axis=-3, offset=n), 3),
}
OTHER = RotaryEmbedding(8, layout="half", base=500.0, seq_axis=-2)


@pytest.mark.parametrize("call", CALLS)
def test_all_position_arguments(torch, call):
    function, value = CALLS[call]
    value = torch.tensor(value, dtype=_dtype(torch, value)) if isinstance(value, list) else value
    q, k = tensors(torch)
    same(torch, whole(torch, function)(q, k, value), function(q, k, value))


def _dtype(torch, values):
    return torch.float64 if isinstance(values[0], float) else torch.int64


def test_numpy_positions(torch):
    q, _ = tensors(torch)
    positions = np.array([0.1, 1.5, -7.25, 1e6, 2.0])
    same(
        torch, whole(torch, lambda q: ROPE(q, positions=positions))(q), ROPE(q, positions=positions)
    )


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]
)
def test_all_dtypes(torch, dtype):
    q, k = tensors(torch, dtype)
    same(torch, whole(torch, lambda q, k: ROPE(q, k, offset=3))(q, k), ROPE(q, k, offset=3))


EMBEDDINGS = {
    "window, layouts": (
        {"layout": "interleaved", "output_layout": "half", "rotary_dim": 4, "rotary_start": 2},
        {"offset": 3},
    ),
    "limit": (
        {"scaling": scaling.DynamicNTK(factor=2.0, max_position=4), "context_length": 9},
        {"offset": 3},
    ),
    "heads": (
        {
            "layout": "interleaved",
            "base": None,
            "scaling": scaling.Custom(W=np.geomspace(1e-3, 3.0, 24).reshape(3, 2, 4)),
        },
        {"positions": [[3, 1, 4, 1, 5], [0, 0, 1, 1, 2]]},
    ),
    "sections": (
        {"sections": sections.axial(2, 2, pairing="within")},
        {"positions": [[3, 1, 4, 1, 5], [0, 0, 1, 1, 2]]},
    ),
    "decay": ({"decay": rotary.XPos(512, center=0)}, {"offset": 3}),
    "scales apart": ({"decay": rotary.XPos(512, center=0, scale_layout="interleaved")}, {}),
    "quirk": ({"quirk": "vjepa2", "layout": "interleaved"}, {"offset": 3}),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_all_embeddings_and_their_gradients(torch, name):
    parameters, call = EMBEDDINGS[name]
    rope = RotaryEmbedding(8, **({"layout": "half", "base": 1e4, "seq_axis": -2} | parameters))
    q, k = tensors(torch)
    arrays = [x.requires_grad_() for x in ((q,) if name == "heads" else (q, k))]
    call = {key: torch.tensor(value) for key, value in call.items()}
    got = whole(torch, lambda *arrays: rope(*arrays, **call))(*arrays)
    want = rope(*arrays, **call)
    same(torch, got, want)
    got, want = ([each] if len(arrays) == 1 else list(each) for each in (got, want))
    weights = [torch.randn_like(x) for x in got]
    gradients = [torch.autograd.grad(each, arrays, weights) for each in (got, want)]
    torch.testing.assert_close(*gradients, rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_in_place_and_outputs(torch, backend):
    def run(q, k):
        q, other = q + 1, torch.empty_like(k)
        ROPE(q, out=q)
        got = ROPE(k, out=other)
        return q, other, got

    q, k = tensors(torch)
    rotated_q, other, got = whole(torch, run, backend=backend)(q, k)
    same(torch, (rotated_q, other, got), (ROPE(q + 1), ROPE(k), ROPE(k)))
    want = ROPE(q, k, offset=2)
    result = whole(torch, lambda q, k: ROPE(q, k, offset=2, out=(q, k)), backend=backend)(q, k)
    same(torch, (q, k), want)
    same(torch, result, want)


def test_outputs_that_require_gradients(torch):
    def run(leaf):
        x = leaf * 1
        ROPE(x, out=x)
        return x

    leaf = tensors(torch)[0].requires_grad_()
    whole(torch, run)(leaf).sum().backward()
    same(torch, leaf.grad, ROPE.vjp(torch.ones_like(leaf)))


def test_gradients_of_gradients(torch):
    x = tensors(torch, "float64")[0][:1, :1, :3].clone().requires_grad_()
    rotate = whole(torch, lambda x: ROPE(x, offset=3), backend="eager")
    torch.autograd.gradcheck(rotate, x, fast_mode=True)
    torch.autograd.gradgradcheck(rotate, x, fast_mode=True)


def test_positions_that_require_gradients_are_part_of_the_graph(torch):
    q, _ = tensors(torch)
    positions = torch.arange(5.0, requires_grad=True)
    compiled = whole(torch, lambda q, p: ROPE(q, positions=p), backend="eager")
    compiled(q, positions).sum().backward()
    learned, positions.grad = positions.grad, None
    ROPE(q, positions=positions).sum().backward()
    same(torch, learned, positions.grad)
    assert learned.abs().sum() > 0


# ------------------------------------------------------------------------------------------------
# The number of graphs.


def test_one_graph_serves_every_step_and_length(torch):
    graphs = Graphs()
    rotate = whole(torch, lambda q, k, n: ROPE(q, k, offset=n), backend=graphs)
    q, k = tensors(torch)
    for step in range(2, 12):
        same(torch, rotate(q, k, step), ROPE(q, k, offset=step))
    assert graphs.count == 2  # only the first step is a constant
    for length in range(2, 12):
        x = torch.randn(2, 3, length, 8)
        same(torch, rotate(x, x, 3), ROPE(x, x, offset=3))
    assert graphs.count == 3


@pytest.mark.compiled
def test_decoding_steps_use_a_plan(torch, monkeypatch):
    q, k = tensors(torch)
    rope = RotaryEmbedding(8, layout="half", base=4321.0, seq_axis=-2)
    strided = q.swapaxes(1, 2).contiguous().swapaxes(1, 2)
    want = [rope(q, k, offset=n) for n in range(9)]
    rotate = whole(torch, lambda q, k, n: rope(q, k, offset=n), backend="eager", dynamic=True)
    for x in (q, strided):
        rotate(x, k, 2)
        rotate(x, k, 8)  # with the table of all steps
    monkeypatch.setattr(plans, "_plan_of", lambda *_, **__: pytest.fail("the call was looked at"))
    for n in range(9):
        same(torch, rotate(q, k, n), want[n])
    got = rotate(strided, k, 8)
    same(torch, got, want[8])
    assert got[0].is_contiguous()


def test_sizes_that_are_symbolic_from_the_start(torch):
    graphs = Graphs()
    rotate = whole(torch, lambda x, n: ROPE(x, offset=n), backend=graphs, dynamic=True)
    for n in (2, 5, 9):
        x = torch.randn(n, 3, 2 * n, 8)
        same(torch, rotate(x, n), ROPE(x, offset=n))
    assert graphs.count == 1


def test_a_graph_serves_only_equal_embeddings(torch):
    graphs = Graphs()
    rotate = whole(torch, lambda rope, x: rope(x), backend=graphs)
    q, _ = tensors(torch)

    def embedding(base):
        return RotaryEmbedding(8, layout="half", base=base, seq_axis=-2)

    for _ in range(12):
        same(torch, rotate(embedding(77.0), q), embedding(77.0)(q))
    assert graphs.count == 1
    same(torch, rotate(pickle.loads(pickle.dumps(embedding(77.0))), q), embedding(77.0)(q))
    assert graphs.count == 1
    same(torch, rotate(embedding(78.0), q), embedding(78.0)(q))
    assert graphs.count == 2


def test_equal_embeddings_share_a_text_that_refers_to_none_of_them(torch):
    first, second = (RotaryEmbedding(8, layout="half", base=79.0, seq_axis=-2) for _ in range(2))
    assert first._text == second._text
    gone = weakref.ref(first)
    q, _ = tensors(torch)
    want = first(q)
    del first
    gc.collect()
    assert gone() is None
    rotary.cache_clear()
    same(torch, whole(torch, second)(q), want)


class Unhashable(scaling.Default):
    """A schedule whose author defined only equality."""

    __hash__ = None

    def __eq__(self, other):
        return type(other) is type(self)


def test_an_embedding_without_a_hash(torch):
    rope = RotaryEmbedding(8, layout="half", base=1e4, scaling=Unhashable(), seq_axis=-2)
    q, _ = tensors(torch)
    same(torch, whole(torch, rope)(q), ROPE(q))


# ------------------------------------------------------------------------------------------------
# The contents of a graph.


def test_the_text_of_a_graph_describes_the_rotation_completely(torch):
    for parameters, _ in EMBEDDINGS.values():
        rope = RotaryEmbedding(8, **({"layout": "half", "base": 1e4, "seq_axis": -2} | parameters))
        role = None if rope.decay is None else "key"
        passes = rope._rotations.passes("call", role)
        words = operators._spec_json(rope, None, "call", role, 1)
        assert operators._spec_json(rope._text, None, "call", role, 1) == words
        assert operators._rotations_from_json(rope._text) is rope._rotations
        rotation = operators.from_json(json.dumps(json.loads(words))).rotation("call", None, 1)
        assert rotation.passes == (passes,)
        back = rotation.transposed().passes[0].pairings
        assert back == rope._rotations.passes("vjp", role).pairings


@pytest.mark.parametrize("into", [False, True])
def test_the_operators_pass_the_checks_of_torch(torch, into):
    q, k = tensors(torch)
    words = operators._spec_json(ROPE, None, "call", None, 2)
    call = ([q, k], words, False, [2, 2], [0, 0], 5, None, None, None, None)
    if into:
        call = ([torch.empty_like(q), torch.empty_like(k)], *call)
    else:
        q.requires_grad_()
    name = "rotate_into" if into else "rotate"
    torch.library.opcheck(getattr(torch.ops.rotary, name).default, call)


@pytest.mark.parametrize("learned", ["positions", "inv_freq"])
def test_torch_finds_nothing_wrong_with_the_gradients(torch, learned):
    q, k = tensors(torch)
    sizes = (4,) if learned == "inv_freq" else ()
    words = operators._spec_json(ROPE, None, "call", None, 2, True, *sizes)
    positions = torch.arange(5.0, requires_grad=learned == "positions")
    inv_freq = torch.ones(4, requires_grad=True) if sizes else None
    call = words, False, [2, 2], [0, 0], None, None, positions, None, None, inv_freq
    torch.library.opcheck(torch.ops.rotary.rotate.default, ([q, k], *call))
    gradients = torch.ops.rotary.gradients.default
    wanted = [True, learned == "positions", learned == "inv_freq"]
    plain = [each.detach() if isinstance(each, torch.Tensor) else each for each in call]
    torch.library.opcheck(gradients, ([2 * q, 2 * k], [q, k], wanted, *plain))


def test_meta_tensors(torch):
    got = whole(torch, ROPE, backend="eager")(torch.empty(2, 3, 5, 8, device="meta"))
    assert got.shape == (2, 3, 5, 8)


def test_transforms_in_a_compiled_function(torch):
    q, _ = tensors(torch)
    grad = torch.compile(torch.func.grad(lambda x: ROPE(x).sum()), backend="aot_eager")
    torch.testing.assert_close(grad(q), ROPE.vjp(torch.ones_like(q)))
    rotate = torch.compile(torch.func.vmap(ROPE), backend="aot_eager")
    torch.testing.assert_close(rotate(q), ROPE(q))


def test_arrays_of_other_libraries_break_the_graph(torch):
    q, _ = tensors(torch)
    x = q.numpy()
    compiled = torch.compile(lambda q: q + torch.from_numpy(ROPE(x)), backend="eager")
    same(torch, compiled(q), q + ROPE(q))


def test_an_embedding_made_in_the_graph(torch):
    def run(x):
        return RotaryEmbedding(8, layout="half", base=321.0, seq_axis=-2)(x)

    q, _ = tensors(torch)
    same(torch, torch.compile(run, backend="eager")(q), run(q))
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="make embeddings.* outside"):
        whole(torch, run)(q)


def test_a_quantized_cache(torch):
    cache = torch.randint(-100, 100, SHAPES[0], dtype=torch.int8)
    scales = torch.rand(2, 3, 5, 1)
    compiled = torch.compile(lambda x, s: ROPE.shift(x, 3, scales=s), backend="eager")
    same(torch, compiled(cache, scales), ROPE.shift(cache, 3, scales=scales))


WRONG = {
    "width": (lambda x: RotaryEmbedding.__call__(WIDE, x), ValueError, "must have 16 channels"),
    "dtype": (lambda x: ROPE(x.long()), TypeError, "one of the dtypes"),
    "offset": (lambda x: ROPE(x, offset="3"), TypeError, "`offset`"),
    "bool": (lambda x: ROPE(x, offset=True), TypeError, "`offset`"),
    "axis": (lambda x: ROPE(x, seq_axis=True), TypeError, "`seq_axis`"),
    "role": (lambda x: ROPE(x, role="query"), TypeError, "`role`"),
    "target": (lambda x: ROPE.shift(x, 2, to=WIDE), ValueError, "head_dim"),
    "shape of out": (lambda x: ROPE(x, out=x[:1]), ValueError, "`out` must have shape"),
    "dtype of out": (lambda x: ROPE(x, out=x.double()), TypeError, "`out` must have dtype"),
    "two of out": (lambda x: ROPE(x, out=(x, x)), ValueError, "`out` must hold one array"),
    "positions": (lambda x: ROPE(x, positions=x[0, 0, :4, 0]), ValueError, "one of the shapes"),
    "nothing": (lambda _: ROPE(), TypeError, "at least one array"),
}
WIDE = RotaryEmbedding(16, layout="half", base=1e4, seq_axis=-2)


@pytest.mark.parametrize("name", WRONG)
def test_errors_equal_those_of_eager_calls(torch, name):
    function, kind, message = WRONG[name]
    q, _ = tensors(torch)
    before = q.clone()
    with pytest.raises(kind, match=message):
        torch.compile(function, backend="eager")(q)
    same(torch, q, before)


def test_a_torch_release_without_register_autograd(torch, monkeypatch):
    monkeypatch.setattr(operators._Operators, "registered", False)
    q, _ = tensors(torch)
    same(torch, torch.compile(lambda x: ROPE(x, offset=4), backend="eager")(q), ROPE(q, offset=4))
    rope = RotaryEmbedding(8, layout="half", base=1e4)
    assert not hasattr(rope, "_text")


# ------------------------------------------------------------------------------------------------
# torch.export.


def exported(torch, function, arguments, **options):
    module = torch.nn.Module()
    module.forward = function
    return torch.export.export(module, arguments, **options)


def targets(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_symbolic_sizes(torch, strict, tmp_path):
    length = torch.export.Dim("length", min=2, max=100)
    program = exported(
        torch,
        lambda q, k, p: ROPE(q, k, positions=p),
        (*tensors(torch), torch.arange(5)),
        strict=strict,
        dynamic_shapes=({2: length}, {2: length}, {0: length}),
    )
    assert "rotary.rotate.default" in targets(program)
    torch.export.save(program, tmp_path / "rotation.pt2")
    loaded = torch.export.load(tmp_path / "rotation.pt2").module()
    q, k, positions = torch.randn(2, 3, 9, 8), torch.randn(2, 1, 9, 8), torch.arange(9) ** 2
    same(torch, loaded(q, k, positions), ROPE(q, k, positions=positions))


def test_export_with_known_sizes(torch):
    q, k = tensors(torch)
    program = exported(torch, lambda q, k: ROPE(q, k, offset=1_700_000_000), (q, k))
    assert all(name.startswith(("aten.", "<built-in")) for name in targets(program))
    got, want = program.module()(q, k), ROPE(q, k, offset=1_700_000_000)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------
# In another process.


def run(script, **variables):
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", script],
        capture_output=True,
        check=False,
        env=os.environ | variables,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_embedding_older_than_torch():
    script = """
import rotary
rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
import torch
x = torch.ones(3, 8)
assert torch.equal(torch.compile(lambda x: rope(x), fullgraph=True, backend="eager")(x), rope(x))
"""
    run(script)


def test_a_saved_program_needs_no_embedding(torch, tmp_path):
    length = torch.export.Dim("length", min=2, max=100)
    x = torch.from_numpy(random_array((5, 8)))
    program = exported(torch, lambda x: ROPE(x, offset=9), (x,), dynamic_shapes=({0: length},))
    torch.export.save(program, tmp_path / "rotation.pt2")
    script = f"""
import torch, rotary
x = torch.arange(56.0).reshape(7, 8)
got = torch.export.load({str(tmp_path / "rotation.pt2")!r}).module()(x)
torch.save(got, {str(tmp_path / "got.pt")!r})
"""
    run(script)
    x = torch.arange(56.0).reshape(7, 8)
    same(torch, torch.load(tmp_path / "got.pt"), ROPE(x, offset=9))


# While `torch.export` traces, it replaces these functions in all threads.
EXPORTING = """
import builtins, math, sys, threading
import numpy as np, torch, rotary
from rotary import backends
def names():
    return builtins.max, builtins.min, math.pow
genuine = names()
rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
x = np.random.default_rng(0).standard_normal((3, 8))
def dtypes():
    return [rope(x.astype(dtype), offset=3) for dtype in ("float32", "float64", "float16")]
def near(results):
    angles = (3 + np.arange(3))[:, None] * 1e4 ** (-np.arange(0, 8, 2) / 8)
    a, b = x[:, :4], x[:, 4:]
    want = a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)
    return all(np.allclose(y, np.hstack(want), rtol=0, atol=3e-3) for y in results)
ended, seen, found = threading.Event(), set(), []
def watch():
    while not ended.wait(1e-4):
        seen.add(names())
def work():
    found.append(dtypes())
class Module(torch.nn.Module):
    def forward(self, x):
        assert not set(names()) & set(genuine)
        watcher, worker = threading.Thread(target=watch), threading.Thread(target=work)
        watcher.start(), worker.start()
        found.append(dtypes())
        worker.join(), ended.set(), watcher.join()
        assert seen == {names()}
        return rope(x, offset=3)
given = torch.from_numpy(x)
sys.setswitchinterval(1e-4)
program = torch.export.export(Module(), (given,)).module()
assert names() == genuine and not backends.failures
assert len(found) == 2 and all(map(near, found))
after = dtypes()
torch.testing.assert_close(program(given), rope(given, offset=3))
"""


@pytest.mark.compiled
def test_numba_is_not_imported_while_torch_exports():
    """Numba would recognize the temporary functions of torch as those of Python."""
    script = """
assert backends.host() is backends.cpu.launch and near(after)
rotary.cache_clear()  # plans made during the export must not be used later
assert all(a.tobytes() == b.tobytes() for a, b in zip(dtypes(), after))
import numba
@numba.njit
def least_of(a, b):
    return min(a, b) + max(a, b) + math.pow(a, b)
assert least_of(2.0, 3.0) == 13.0
"""
    run(EXPORTING + script)


@pytest.mark.compiled
def test_kernels_compile_while_torch_exports(tmp_path):
    """Numba is imported before, but no kernel is compiled."""
    script = """
assert all(a.tobytes() == b.tobytes() for results in found for a, b in zip(results, after))
"""
    start = EXPORTING.replace("def dtypes", "backends.host()\ndef dtypes")
    run(start + script, NUMBA_CACHE_DIR=str(tmp_path))


def test_bits_equal_those_of_numpy(torch):
    q, _ = tensors(torch)
    got = whole(torch, lambda x: ROPE(x, offset=1_700_000_000))(q)
    assert same_bits(got.numpy(), ROPE(q.numpy(), offset=1_700_000_000))
