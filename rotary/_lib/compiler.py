"""Functions that `torch.compile` must call without tracing them, because it can trace neither the cache nor Numba."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from inspect import signature
from typing import Any, ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
# Part of torch's message if the graph must not break.
REASON = (
    "only the rotation of rotary can be part of a graph: make embeddings, tables and arrays of other libraries "
    "outside of it, and check the arguments"
)


class _Torch:
    """State that `torch.compile` needs; set once torch is imported."""

    prepared = False
    call_outside: Callable[..., Any]
    frame_callback: Callable[[], Any] = bool
    registrations: ClassVar[list[Callable[[], None]]] = []


def at_preparation(function: Callable[[], None]) -> Callable[[], None]:
    """Register a function that is called once torch is imported, before `torch.compile` traces this library."""
    _Torch.registrations.append(function)
    return function


def prepare_untraced() -> None:
    """Set the state that `untraced` functions need, if torch is imported."""
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


# Sets the mark of `torch.compiler.assume_constant_result`, with which the compiler calls the function without tracing
# it. The decorator cannot be used here, because torch may be imported after this module.
prepare_untraced._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch reads this attribute


def _call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function; `torch.compile` traces neither this call nor anything below it."""
    return function(*arguments, **options)


def untraced(function: Callable[P, T], instead: Callable[..., Any] | None = None) -> Callable[P, T]:
    """Make `torch.compile` call a function without tracing it.

    If `instead` is given, `torch.compile` traces `instead`. If that returns NotImplemented, it calls `function`.
    """

    @wraps(function)
    def wrapper(*arguments: P.args, **options: P.kwargs) -> T:
        if not _Torch.prepared:
            if "torch" not in sys.modules:
                return function(*arguments, **options)
            prepare_untraced()
        compiling = sys.modules["torch"].compiler.is_compiling()
        # The compiler also traces callees of a function that it failed to trace.
        if not compiling and not _Torch.frame_callback():
            return function(*arguments, **options)
        if compiling and instead is not None:
            traced: T = instead(*arguments, **options)
            if traced is not NotImplemented:
                return traced
        result: T = _Torch.call_outside(function, *arguments, **options)
        return result

    return wrapper
