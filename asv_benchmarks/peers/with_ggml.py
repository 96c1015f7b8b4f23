"""ggml's operator, which llama.cpp uses: its angles are computed at every call."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np

from .cases import BASE, HEAD_DIM, Array, Case
from .contenders import Contender, MissingError

OUT, IN_PLACE = "ggml, rope_ext", "ggml, rope_ext_inplace"
NAMES = (OUT, IN_PLACE)
# The numbers of its layouts: NORMAL and NEOX.
MODES = {"interleaved": 0, "half": 2}
# Bytes for the descriptions of a graph; the arrays lie elsewhere.
ROOM = 16 * 2**20


def rotations(case: Case) -> Iterator[Contender]:
    """Query and key as one graph that was planned before, with all threads and, for small arrays, with one."""
    import ggml

    if case.order != "BSHD" and case.length > 1:
        msg = "takes (B, S, H, D) only"
        raise MissingError(msg)
    kinds = {"float32": ggml.GGML_TYPE_F32, "float16": ggml.GGML_TYPE_F16}
    if case.dtype not in kinds:
        msg = f"no kernel for {case.dtype}"
        raise MissingError(msg)
    from .cases import thread_counts

    last = thread_counts()[-1]
    for threads in sorted({1, last}) if case.length == 1 else (last,):
        for name in NAMES:
            yield contender(case, name, kinds[case.dtype], threads)


def contender(case: Case, name: str, kind: int, threads: int) -> Contender:
    """One graph, and the arrays that it reads and writes."""
    import ggml

    arrays = case.arrays()
    results = arrays if name == IN_PLACE else [np.empty_like(x) for x in arrays]
    positions = case.positions.astype(np.int32)
    context = ggml.ggml_init(ggml.ggml_init_params(mem_size=ROOM, mem_buffer=None, no_alloc=True))
    graph = ggml.ggml_new_graph(context)
    make = ggml.ggml_rope_ext_inplace if name == IN_PLACE else ggml.ggml_rope_ext
    for x, y, heads in zip(arrays, results, case.heads, strict=True):
        source = ggml.ggml_new_tensor_4d(context, kind, HEAD_DIM, heads, case.length, case.batch)
        rows = ggml.ggml_new_tensor_1d(context, ggml.GGML_TYPE_I32, case.length)
        source.contents.data, rows.contents.data = x.ctypes.data, positions.ctypes.data
        # Context length, base, scale and factors of YaRN, which is off.
        options = (MODES[case.layout], 0, BASE, 1.0, 0.0, 1.0, 32.0, 1.0)
        target = make(context, source, rows, None, HEAD_DIM, *options)
        target.contents.data = y.ctypes.data
        ggml.ggml_build_forward_expand(graph, target)
    pool = thread_pool(threads)
    plan = ggml.ggml_graph_plan(graph, threads, pool)
    scratch = (ctypes.c_uint8 * max(plan.work_size, 1))()
    plan.work_data = ctypes.cast(scratch, ctypes.POINTER(ctypes.c_uint8))
    held = plan, scratch, arrays, results, positions
    where = ctypes.byref(plan)

    def call(held: Any = held) -> object:
        # The arrays stay here, because the graph has their addresses only.
        return ggml.ggml_graph_compute(graph, where)

    def read(_: object) -> list[Array]:
        return results

    return Contender(name, call, read=read, form=f"{threads} thread{'s' * (threads > 1)}")


def thread_pool(threads: int) -> Any:
    """Threads that live as long as the process; ggml would start new ones for every call."""
    import ggml

    options = ggml.ggml_threadpool_params_default(threads)
    return ggml.ggml_threadpool_new(ctypes.byref(options))
