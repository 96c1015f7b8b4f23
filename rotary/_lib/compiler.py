"""Functions that `torch.compile` must call as a whole, because it can trace neither the cache nor Numba."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from inspect import signature
from typing import Any, ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
# What torch says if it may not leave its graph.
REASON = (
    "of rotary, only the rotation itself can be part of a graph: make embeddings, tables and arrays of other "
    "libraries outside, and check the arguments"
)


class _Torch:
    """The state of `torch.compile`, known once torch is imported."""

    prepared = False
    call_outside: Callable[..., Any]
    frame_callback: Callable[[], Any] = bool
    registrations: ClassVar[list[Callable[[], None]]] = []


def at_preparation(function: Callable[[], None]) -> Callable[[], None]:
    """Have a function called once torch is imported, before `torch.compile` traces anything of this library."""
    _Torch.registrations.append(function)
    return function


def prepare_untraced() -> None:
    """Make what `untraced` functions need before `torch.compile` traces them, if torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None or _Torch.prepared:
        return
    _Torch.prepared = True
    with suppress(AttributeError):  # a private function of torch
        _Torch.frame_callback = torch._C._dynamo.eval_frame.get_eval_frame_callback
    for register in _Torch.registrations:
        register()
    disable = torch.compiler.disable
    options = {"reason": REASON} if "reason" in signature(disable).parameters else {}
    _Torch.call_outside = disable(_call, **options)


# As `torch.compiler.assume_constant_result` does: the compiler calls the function and does not trace it. Torch may be
# imported only after the first embedding was made, and the function that is traced first is the one that calls this.
prepare_untraced._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch reads it there


def _call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function; `torch.compile` traces neither this call nor anything below it."""
    return function(*arguments, **options)


def untraced(function: Callable[P, T], instead: Callable[..., Any] | None = None) -> Callable[P, T]:
    """Have `torch.compile` call a function as a whole.

    If `instead` is given, it is traced in its place, unless it returns NotImplemented.
    """

    @wraps(function)
    def wrapper(*arguments: P.args, **options: P.kwargs) -> T:
        if not _Torch.prepared:
            if "torch" not in sys.modules:
                return function(*arguments, **options)
            prepare_untraced()
        compiling = sys.modules["torch"].compiler.is_compiling()
        # The compiler also traces callees after it has given up on the caller.
        if not compiling and not _Torch.frame_callback():
            return function(*arguments, **options)
        if compiling and instead is not None:
            traced: T = instead(*arguments, **options)
            if traced is not NotImplemented:
                return traced
        result: T = _Torch.call_outside(function, *arguments, **options)
        return result

    return wrapper
