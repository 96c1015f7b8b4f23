"""torch: the rotation as in transformers, in the fastest known eager form, and compiled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from .cases import BASE, HEAD_DIM, PAIRS, Array, Case, as_dtype, pairs
from .contenders import Contender, MissingError

AS_WRITTEN, BEST, COMPILED = (
    "torch eager, as transformers writes it",
    "torch eager, best form",
    "torch.compile",
)
NAMES = (AS_WRITTEN, BEST, COMPILED)
COMPILER = os.environ.get("ROTARY_PEERS_COMPILER", "inductor")

Form = Callable[[Any, Any, Any], Any]


def tensor(x: Array) -> Any:
    """A tensor that shares the memory of an array."""
    import torch

    if x.dtype == as_dtype("bfloat16"):
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def array(x: Any) -> Array:
    """An array that shares the memory of a tensor."""
    import torch

    if x.dtype == torch.bfloat16:
        return np.asarray(x.contiguous().view(torch.int16).numpy().view(as_dtype("bfloat16")))
    return np.asarray(x.numpy())


def rotations(case: Case) -> Iterator[Contender]:
    """Contenders with all threads and, for small arrays, also with one."""
    import torch

    torch.set_grad_enabled(mode=False)
    torch.compiler.reset()
    for threads in {all_threads(), 1} if case.length == 1 else {all_threads()}:
        torch.set_num_threads(threads)
        for each in forms(case):
            each.form = f"{each.form} one thread".strip() if threads == 1 else each.form
            each.before = lambda threads=threads: torch.set_num_threads(threads)
            yield each


@cache
def all_threads() -> int:
    """The number of threads that torch uses by default."""
    import torch

    return int(torch.get_num_threads())


def forms(case: Case) -> Iterator[Contender]:
    """Tables in the dtype of x, as transformers casts them; the compiled form computes in float32."""
    import torch

    xs = [tensor(x) for x in case.arrays()]
    cos, sin = (tensor(case.broadcast(table)) for table in case.cos_sin(case.dtype))
    twice = doubled(cos, case.layout), doubled(sin, case.layout)

    def contender(name: str, form: str, rotate: Form, tables: tuple[Any, Any]) -> Contender:
        return Contender(
            name,
            lambda: [rotate(x, *tables) for x in xs],
            form=form,
            read=lambda ys: [array(y) for y in ys],
        )

    written = half_as_written if case.layout == "half" else interleaved_as_written
    yield contender(AS_WRITTEN, "", written, twice)
    best = {"two products joined": joined, "products into one output": filled}
    for form, rotate in best.items():
        yield contender(BEST, form, by_layout(rotate, case.layout), (cos, sin))
    if case.layout == "interleaved" and case.dtype in ("float32", "float64"):
        yield contender(BEST, "complex numbers", complex_product, (torch.complex(cos, sin), None))
    yield Contender(
        COMPILED,
        compiled(by_layout(joined, case.layout), xs, cos, sin),
        read=lambda ys: [array(y) for y in ys],
    )


def doubled(table: Any, layout: str) -> Any:
    """A table with a value for every channel."""
    return table.tile(2) if layout == "half" else table.repeat_interleave(2, -1)


def half_as_written(x: Any, cos: Any, sin: Any) -> Any:
    """Every channel times its cosine, plus the other channel of the pair times the sine."""
    import torch

    a, b = x[..., :PAIRS], x[..., PAIRS:]
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def interleaved_as_written(x: Any, cos: Any, sin: Any) -> Any:
    """The same for the interleaved layout."""
    import torch

    return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) * sin


def by_layout(rotate: Callable[[Any, Any, Any, str], Any], layout: str) -> Form:
    """The form for one layout."""
    return lambda x, cos, sin: rotate(x, cos, sin, layout)


def joined(x: Any, cos: Any, sin: Any, layout: str) -> Any:
    """Compute both halves of the result, then concatenate or interleave them."""
    import torch

    first, second = pairs(layout)
    a, b = x[..., first], x[..., second]
    one, two = a * cos - b * sin, b * cos + a * sin
    if layout == "half":
        return torch.cat((one, two), dim=-1)
    return torch.stack((one, two), dim=-1).flatten(-2)


def filled(x: Any, cos: Any, sin: Any, layout: str) -> Any:
    """Write products into the result, without temporary arrays."""
    import torch

    first, second = pairs(layout)
    a, b = x[..., first], x[..., second]
    y = torch.empty_like(x)
    torch.mul(a, cos, out=y[..., first]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=y[..., second]).addcmul_(a, sin)
    return y


def complex_product(x: Any, turn: Any, _: None) -> Any:
    """The interleaved layout as complex numbers."""
    import torch

    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (PAIRS, 2))) * turn).flatten(-2)


def compiled(rotate: Form, xs: list[Any], cos: Any, sin: Any) -> Callable[[], Any]:
    """Rotate all arrays in one compiled function; if that fails, the reason is the error of torch."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import torch

    def whole(xs: list[Any], cos: Any, sin: Any) -> list[Any]:
        return [rotate(x, cos, sin) for x in xs]

    options = {"cpp.threads": torch.get_num_threads()} if COMPILER == "inductor" else None
    program = torch.compile(whole, fullgraph=True, dynamic=False, backend=COMPILER, options=options)
    try:
        program(xs, cos, sin)
    except Exception as error:
        lacking = "No working C++ compiler" in str(error)
        msg = "no C++ compiler" if lacking else f"does not compile: {type(error).__name__}"
        raise MissingError(msg) from error
    return lambda: program(xs, cos, sin)


def cosines(positions: list[int]) -> dict[str, Array]:
    """Tables as transformers computes them, (positions, 2, channel pairs)."""
    import torch

    channels = torch.arange(0, HEAD_DIM, 2, dtype=torch.int64).float()
    inv_freq = 1.0 / BASE ** (channels / HEAD_DIM)
    where = torch.tensor(positions, dtype=torch.int64).float()
    angle = where[:, None] * inv_freq
    table = torch.stack((angle.cos(), angle.sin()), dim=1)
    return {"float32 angles (torch, as transformers)": array(table)}
