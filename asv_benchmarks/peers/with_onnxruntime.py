"""The operator com.microsoft.RotaryEmbedding of ONNX Runtime, in a separate session for each case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .cases import HEAD_DIM, PAIRS, Array, Case, as_dtype
from .contenders import Contender, MissingError

RUN, BOUND, REBOUND = (
    "ONNX Runtime, run",
    "ONNX Runtime, io-binding",
    "ONNX Runtime, io-binding, position bound anew",
)
NAMES = (RUN, BOUND, REBOUND)


def model(case: Case) -> bytes:
    """A graph with one node for each array; if the sequence is first, the heads are merged into one axis."""
    from onnx import TensorProto, helper

    element = {
        "float32": TensorProto.FLOAT,
        "float16": TensorProto.FLOAT16,
        "bfloat16": TensorProto.BFLOAT16,
        "float64": TensorProto.DOUBLE,
    }[case.dtype]
    rows = case.offset + case.length
    declare = helper.make_tensor_value_info
    inputs = [
        declare("positions", TensorProto.INT64, [case.batch, case.length]),
        declare("cos", element, [rows, PAIRS]),
        declare("sin", element, [rows, PAIRS]),
    ]
    nodes, outputs = [], []
    for i, (heads, shape) in enumerate(zip(case.heads, case.shapes, strict=True)):
        inputs.append(declare(f"x{i}", element, joined(case, shape)))
        outputs.append(declare(f"y{i}", element, joined(case, shape)))
        options = {"num_heads": heads} if case.order == "BSHD" else {}
        nodes.append(
            helper.make_node(
                "RotaryEmbedding",
                [f"x{i}", "positions", "cos", "sin"],
                [f"y{i}"],
                domain="com.microsoft",
                interleaved=int(case.layout == "interleaved"),
                **options,
            )
        )
    graph = helper.make_graph(nodes, "rotation", inputs, outputs)
    versions = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 17)]
    whole = helper.make_model(graph, opset_imports=versions, ir_version=9)
    return bytes(whole.SerializeToString())


def joined(case: Case, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the operator expects for this order of axes."""
    return (*shape[:2], shape[2] * HEAD_DIM) if case.order == "BSHD" else shape


def rotations(case: Case) -> Iterator[Contender]:
    """Its `run`, which returns new arrays, and its binding of the same outputs every time.

    A decoder has another position for every token, so that the binding is also measured with one that is bound anew.
    A session of one thread is tried for small work, besides its own choice.
    """
    import onnxruntime

    counts = (0, 1) if case.length == 1 else (0,)
    for threads in counts:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                model(case), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if "NOT_IMPLEMENTED" in str(error):
                msg = f"no kernel for {case.dtype}"
                raise MissingError(msg) from error
            raise
        yield from calls(case, session, "one thread" if threads else "all threads")


def calls(case: Case, session: Any, form: str) -> Iterator[Contender]:
    """Both methods to run a session."""
    import onnxruntime

    feed = inputs(case)
    yield Contender(
        RUN,
        lambda: session.run(None, feed),
        form=form,
        read=lambda ys: [y.reshape(shape) for y, shape in zip(ys, case.shapes, strict=True)],
    )
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_cpu_input(name, value)
    for i, shape in enumerate(case.shapes):
        # An OrtValue that is made from a NumPy array does not keep the array alive.
        memory = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            joined(case, shape), as_dtype(case.dtype)
        )
        binding.bind_ortvalue_output(f"y{i}", memory)

    def run_bound(feed: dict[str, Array] = feed) -> object:
        # The object refers to the inputs, because the binding does not keep them alive.
        return session.run_with_iobinding(binding)

    positions = [feed["positions"], feed["positions"].copy()]

    def run_rebound(feed: dict[str, Array] = feed) -> object:
        positions.reverse()
        binding.bind_cpu_input("positions", positions[0])
        return session.run_with_iobinding(binding)

    def read(_: object) -> list[Array]:
        outputs = zip(binding.get_outputs(), case.shapes, strict=True)
        return [y.numpy().reshape(shape) for y, shape in outputs]

    yield Contender(BOUND, run_bound, form=form, read=read)
    yield Contender(REBOUND, run_rebound, form=form, read=read)


def inputs(case: Case) -> dict[str, Array]:
    """The inputs of the graph."""
    rows = np.arange(case.offset, case.offset + case.length, dtype=np.int64)
    cos, sin = (
        np.concatenate((np.zeros((case.offset, PAIRS), table.dtype), table))
        for table in case.cos_sin(case.dtype)
    )
    feed = {"positions": np.tile(rows, (case.batch, 1)), "cos": cos, "sin": sin}
    for i, x in enumerate(case.arrays()):
        feed[f"x{i}"] = x.reshape(joined(case, x.shape))
    return feed
