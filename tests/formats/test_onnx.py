"""ONNX: the operator's own node tests, and ONNX Runtime with our tables, in both of its operators."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random_array

import rotary
from rotary import formats

# ndonnx needs onnx itself, so these tests run in its session.
pytestmark = pytest.mark.library("ndonnx")

DOMAINS = ("", "com.microsoft")
BATCH, HEADS, LENGTH, HEAD_DIM = 2, 3, 5, 16


# ------------------------------------------------------------------------------------------------
# The node tests in the package `onnx`.

NODE_TESTS = (
    "test_rotary_embedding",
    "test_rotary_embedding_3d_input",
    "test_rotary_embedding_interleaved",
    "test_rotary_embedding_no_position_ids",
    "test_rotary_embedding_no_position_ids_interleaved",
    "test_rotary_embedding_no_position_ids_rotary_dim",
    "test_rotary_embedding_with_interleaved_rotary_dim",
    "test_rotary_embedding_with_rotary_dim",
)


@pytest.fixture(scope="module")
def node_tests():
    """Name to node, inputs and outputs, of every case of RotaryEmbedding."""
    from onnx.backend.test.case.node import rotaryembedding as module

    actual = {}

    def expect(node, inputs, outputs, name):
        actual[name] = (node, inputs, outputs)

    np.random.seed(0)  # noqa: NPY002 - it is what the cases draw from
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "expect", expect)
        for name in dir(module.RotaryEmbedding):
            if name.startswith("export"):
                getattr(module.RotaryEmbedding, name)()
    return actual


def test_no_node_test_is_left_out(node_tests):
    assert tuple(sorted(node_tests)) == NODE_TESTS


@pytest.mark.parametrize("name", NODE_TESTS)
def test_node_passes_the_tests_of_onnx(node_tests, name):
    """The operator's own cases, whose tables are random numbers and no cosines and sines."""
    from onnx import helper

    node, (x, cos, sin, *position_ids), (expected,) = node_tests[name]
    attributes = {part.name: helper.get_attribute_value(part) for part in node.attribute}
    heads = attributes.get("num_heads", x.shape[1])
    with_heads = x.reshape(*x.shape[:2], heads, -1) if x.ndim == 3 else x
    cos, sin, layout = formats.from_onnx(
        cos, sin, attributes, head_dim=with_heads.shape[-1], constant_factor=False
    )
    if position_ids:
        cos, sin = cos[position_ids[0]], sin[position_ids[0]]
    seq_axis = 1 if x.ndim == 3 else 2
    got = rotary.apply_rotary(with_heads, cos, sin, layout=layout, seq_axis=seq_axis)
    np.testing.assert_allclose(got.reshape(x.shape), expected, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------------------
# ONNX Runtime.


def run(node, x, position_ids):
    """The output of ONNX Runtime for a model of one node, with its tables as initializers."""
    import onnxruntime
    from onnx import helper, numpy_helper

    array_name = node.inputs[0]
    element = helper.np_dtype_to_tensor_dtype(x.dtype)
    inputs = [helper.make_tensor_value_info(array_name, element, x.shape)]
    feeds = {array_name: x}
    if "position_ids" in node.inputs:
        inputs.append(helper.make_tensor_value_info("position_ids", 7, position_ids.shape))
        feeds["position_ids"] = position_ids
    graph = helper.make_graph(
        [helper.make_node(node.op_type, node.inputs, ["Y"], domain=node.domain, **node.attributes)],
        "rotary",
        inputs,
        [helper.make_tensor_value_info("Y", element, x.shape)],
        [
            numpy_helper.from_array(node.cos_cache, "cos_cache"),
            numpy_helper.from_array(node.sin_cache, "sin_cache"),
        ],
    )
    opsets = [helper.make_opsetid("", 23)]
    if node.domain:
        opsets.append(helper.make_opsetid(node.domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def embedding(layout="half", rotary_dim=None, **others):
    return rotary.RotaryEmbedding(
        HEAD_DIM, layout=layout, base=10_000.0, rotary_dim=rotary_dim, seq_axis=-2, **others
    )


def agree(got, expected):
    """float16 tables have an error of half a unit, and so has every product and sum of such a kernel."""
    tolerance = 1e-6 if expected.dtype == np.float32 else 2.0**-9
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rotary_dim", [HEAD_DIM, 8])
@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_onnx_runtime_gives_the_same_rotation(domain, layout, rotary_dim, dtype):
    rope = embedding(layout, rotary_dim)
    x = random_array((BATCH, HEADS, LENGTH, HEAD_DIM), dtype)
    positions = np.array([[0, 1, 2, 3, 4], [19, 3, 7, 7, 0]])
    node = formats.to_onnx(rope, range(20), dtype=dtype, num_heads=HEADS, domain=domain)
    agree(run(node, x, positions), rope(x, positions=positions))


@pytest.mark.parametrize("rotary_dim", [HEAD_DIM, 8])
@pytest.mark.parametrize("domain", DOMAINS)
def test_heads_in_the_last_axis(domain, rotary_dim):
    """The form with three axes, in which only `num_heads` gives the width of a head."""
    rope = embedding("interleaved", rotary_dim)
    x = random_array((BATCH, LENGTH, HEADS, HEAD_DIM))
    positions = np.array([[0, 1, 2, 3, 4], [9, 8, 7, 6, 5]])
    node = formats.to_onnx(rope, range(10), num_heads=HEADS, domain=domain)
    got = run(node, x.reshape(BATCH, LENGTH, -1), positions)
    agree(got.reshape(x.shape), rope(x, positions=positions, seq_axis=1))


@pytest.mark.parametrize("rotary_dim", [HEAD_DIM, 8])
def test_the_operator_of_onnx_needs_no_heads_where_they_have_an_axis(rotary_dim):
    rope = embedding(rotary_dim=rotary_dim)
    x = random_array((BATCH, HEADS, LENGTH, HEAD_DIM))
    node = formats.to_onnx(rope, range(LENGTH))
    assert "num_heads" not in node.attributes
    ids = np.broadcast_to(np.arange(LENGTH), (BATCH, LENGTH))
    agree(run(node, x, np.ascontiguousarray(ids)), rope(x))


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_tables_row_by_row_for_positions_of_any_kind(layout):
    """With positions (B, S), here fractions and a unix time, there are no position_ids."""
    rope = embedding(layout, 8)
    x = random_array((BATCH, HEADS, LENGTH, HEAD_DIM))
    positions = [[0.0, 0.5, 1.0, 1.5, 2.0], [1.7e9, 1.7e9 + 1, 3.0, -2.0, 0.25]]
    node = formats.to_onnx(rope, positions)
    assert node.inputs == ("X", "cos_cache", "sin_cache")
    agree(run(node, x, None), rope(x, positions=np.array(positions)))


def test_one_position_id_is_an_offset():
    """For decoding, com.microsoft takes the position of the first row."""
    rope = embedding()
    x = random_array((BATCH, HEADS, LENGTH, HEAD_DIM))
    node = formats.to_onnx(rope, range(100), domain="com.microsoft")
    agree(run(node, x, np.array([42])), rope(x, offset=42))


@pytest.mark.parametrize("domain", DOMAINS)
def test_node_tables_include_the_attention_factor(domain):
    yarn = rotary.scaling.Yarn(4.0, 1000)
    rope = embedding(scaling=yarn, context_length=4000)
    assert rope.attention_factor > 1.1
    x = random_array((1, HEADS, LENGTH, HEAD_DIM))
    ids = np.array([[3999, 0, 17, 2000, 1]])
    node = formats.to_onnx(rope, range(4000), num_heads=HEADS, domain=domain)
    agree(run(node, x, ids), rope(x, positions=ids))


@pytest.mark.parametrize("role", ["query", "key"])
def test_tables_of_a_decay_are_those_of_a_role(role):
    rope = embedding(decay=rotary.XPos(center=10))
    x = random_array((1, HEADS, LENGTH, HEAD_DIM))
    node = formats.to_onnx(rope, range(20), role=role)
    ids = np.array([[19, 0, 7, 2, 1]])
    agree(run(node, x, ids), rope(x, positions=ids, role=role))


def test_sections_give_tables_without_position_ids():
    """Positions on three axes for every token make tables of two axes for a batch."""
    rope = embedding(sections=rotary.sections.chunked(2, 3, 3))
    x = random_array((BATCH, HEADS, LENGTH, HEAD_DIM))
    positions = np.random.default_rng(0).integers(0, 99, (3, BATCH, LENGTH))
    node = formats.to_onnx(rope, positions)
    assert node.cos_cache.shape == (BATCH, LENGTH, HEAD_DIM // 2)
    agree(run(node, x, None), rope(x, positions=positions))


def test_onnx_runtime_does_not_apply_scale():
    """This is why the tables include the factor, and why a node with a scale is refused."""
    node = formats.to_onnx(embedding(), range(10), domain="com.microsoft")
    x, ids = random_array((1, HEADS, LENGTH, HEAD_DIM)), np.array([3])
    scaled = node._replace(attributes=node.attributes | {"scale": 2.0})
    np.testing.assert_array_equal(run(scaled, x, ids), run(node, x, ids))


def test_packed_batching_reads_the_same_tables():
    node = formats.to_onnx(embedding(), range(10), domain="com.microsoft")
    x, ids = random_array((1, HEADS, LENGTH, HEAD_DIM)), np.array([[3, 4, 0, 1, 2]])
    packed = node._replace(attributes=node.attributes | {"is_packed_batching": 1})
    np.testing.assert_array_equal(run(packed, x, ids), run(node, x, ids))
