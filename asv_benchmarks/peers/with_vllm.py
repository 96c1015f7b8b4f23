"""vLLM's operator for CPUs, from its compiled library alone: the rest of vLLM is not imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .cases import HEAD_DIM, Array, Case
from .contenders import Contender, MissingError
from .with_torch import all_threads, array, tensor

NAMES = ("vLLM, in place",)
# Its libraries for different processors, the best first.
LIBRARIES = ("_C_AVX512.abi3.so", "_C_AVX2.abi3.so", "_C.abi3.so")


@cache
def operator() -> Any:
    """The operator; torch has to be imported before the library is loaded, which needs its libraries."""
    import torch

    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        msg = "not installed"
        raise MissingError(msg)
    failures = []
    for name in LIBRARIES:
        path = Path(found.origin).parent / name
        if not path.exists() or not runs_here(name):
            continue
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            failures.append(str(error))
        else:
            return torch.ops._C.rotary_embedding.default
    msg = f"its library cannot be loaded: {'; '.join(failures) or 'none is for this processor'}"
    raise MissingError(msg)


def runs_here(name: str) -> bool:
    """Whether this processor has the instructions that a library is named after."""
    import torch

    wanted = next((kind for kind in ("AVX512", "AVX2") if kind in name), None)
    return wanted is None or wanted in torch.backends.cpu.get_cpu_capability()


def rotations(case: Case) -> Iterator[Contender]:
    """Query and key at once, in place, by a table in their dtype; the operator has no other way."""
    import torch

    rotate = operator()
    if case.order != "BSHD" and case.length > 1:
        msg = "takes (tokens, heads, D) only"
        raise MissingError(msg)
    torch.set_grad_enabled(mode=False)
    table = cos_sin_cache(case)
    for threads in {all_threads(), 1} if case.length == 1 else {all_threads()}:
        arrays = case.arrays()
        tokens = [tensor(x).view(case.batch * case.length, -1) for x in arrays]
        query, key = (*tokens, None)[:2]
        positions = torch.from_numpy(np.tile(case.positions, case.batch))

        def call(query: Any = query, key: Any = key, positions: Any = positions) -> object:
            return rotate(positions, query, key, HEAD_DIM, table, case.layout == "half")

        def read(_: object, tokens: list[Any] = tokens) -> list[Array]:
            return [array(x).reshape(shape) for x, shape in zip(tokens, case.shapes, strict=True)]

        yield Contender(
            NAMES[0],
            call,
            read=read,
            form="one thread" if threads == 1 else "all threads",
            before=lambda threads=threads: torch.set_num_threads(threads),  # type: ignore[misc]
        )


def cos_sin_cache(case: Case) -> Any:
    """Cosines, then sines, of all positions from 0 on, in the dtype of the arrays."""
    rows = np.concatenate(case.cos_sin(case.dtype), axis=-1)
    return tensor(np.concatenate((np.zeros((case.offset, HEAD_DIM), rows.dtype), rows)))
