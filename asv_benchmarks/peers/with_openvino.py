"""OpenVINO: a model of the formula, which it compiles to its fused operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .cases import HEAD_DIM, PAIRS, Array, Case, as_dtype, thread_counts
from .contenders import Contender, MissingError

NAMES = ("OpenVINO, bound outputs",)


def rotations(case: Case) -> Iterator[Contender]:
    """Tables as constants or as inputs, with all threads and, for small arrays, with one."""
    import openvino

    if case.layout != "half":
        msg = "measured in the half layout only"
        raise MissingError(msg)
    core = openvino.Core()
    last = thread_counts()[-1]
    for constant in (False, True):
        for threads in sorted({1, last}) if case.length == 1 else (last,):
            options = {
                "INFERENCE_PRECISION_HINT": element(case),
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
            }
            try:
                compiled = core.compile_model(model(case, constant=constant), "CPU", options)
            except RuntimeError as error:
                msg = f"no kernel for {case.dtype}"
                raise MissingError(msg) from error
            tables = "constant tables" if constant else "tables as inputs"
            many = f"{threads} thread{'s' * (threads > 1)}"
            yield contender(case, compiled, f"{tables}, {many}", constant=constant)


def contender(case: Case, compiled: Any, form: str, *, constant: bool) -> Contender:
    """One request, whose inputs and outputs lie in memory of ours."""
    arrays = case.arrays()
    results = [np.empty_like(x) for x in arrays]
    request = compiled.create_infer_request()
    inputs = [*arrays, *([] if constant else full_width(case))]
    held = [shared(x) for x in inputs], [shared(y) for y in results]
    for i, each in enumerate(held[0]):
        request.set_input_tensor(i, each)
    for i, each in enumerate(held[1]):
        request.set_output_tensor(i, each)

    def call(held: Any = held) -> None:
        # The memory stays here, because the request does not keep it.
        request.infer(share_inputs=True, share_outputs=True)

    return Contender(NAMES[0], call, read=lambda _: results, form=form)


def shared(x: Array) -> Any:
    """A tensor that shares the memory of an array."""
    import openvino

    if x.dtype == as_dtype("bfloat16"):
        return openvino.Tensor(x.view(np.uint16), list(x.shape), openvino.Type.bf16)
    return openvino.Tensor(x, shared_memory=True)


def element(case: Case) -> Any:
    """The type of an element."""
    import openvino

    kinds = {
        "float32": openvino.Type.f32,
        "float16": openvino.Type.f16,
        "bfloat16": openvino.Type.bf16,
    }
    return kinds[case.dtype]


def full_width(case: Case) -> list[Array]:
    """Cosines and sines as the model takes them: every number twice, in the dtype of the arrays."""
    return [
        case.broadcast(np.concatenate((table, table), axis=-1))
        for table in case.cos_sin(case.dtype)
    ]


def model(case: Case, *, constant: bool) -> Any:
    """The formula for each array: ``x cos + rotate_half(x) sin``."""
    import openvino
    from openvino import opset13 as ops

    kind, dtype = element(case), as_dtype(case.dtype)
    tables = full_width(case)
    if constant:
        parameters = []
        cosine, sine = (ops.constant(table) for table in tables)
    else:
        parameters = [ops.parameter(list(table.shape), kind) for table in tables]
        cosine, sine = parameters

    def number(value: int) -> Any:
        return ops.constant(np.array([value], np.int64))

    inputs, results = [], []
    for shape in case.shapes:
        x = ops.parameter(list(shape), kind)
        first = ops.slice(x, number(0), number(PAIRS), number(1), number(3))
        second = ops.slice(x, number(PAIRS), number(HEAD_DIM), number(1), number(3))
        minus = ops.constant(np.full((1, 1, 1, 1), -1, dtype))
        half = ops.concat([ops.multiply(second, minus), first], -1)
        inputs.append(x)
        results.append(ops.result(ops.add(ops.multiply(x, cosine), ops.multiply(half, sine))))
    return openvino.Model(results, [*inputs, *parameters], "rotation")
