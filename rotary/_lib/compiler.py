"""torch.compile: functions that its compiler must call and not trace."""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from inspect import signature
from typing import Any, ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
# In their place `torch.export` puts functions of its own, which Numba would take for what they are named like.
GENUINE = ((builtins, "max", max), (builtins, "min", min), (math, "pow", math.pow))
# What torch says where it may not leave its graph.
LEFT_ALONE = (
    "of rotary, only the rotation itself can be part of a graph: make embeddings, tables and arrays of other "
    "libraries outside, and check the arguments"
)


class _Compiler:
    """What `torch.compile` has to be told, and asked, once torch is imported."""

    prepared = False
    left_alone: Callable[..., Any]
    watching: Callable[[], Any] = bool
    registrations: ClassVar[list[Callable[[], None]]] = []


def at_preparation(function: Callable[[], None]) -> Callable[[], None]:
    """Have a function called once torch is imported, before `torch.compile` traces anything of ours."""
    _Compiler.registrations.append(function)
    return function


def prepare_untraced() -> None:
    """Make what `untraced` functions need before `torch.compile` traces, if torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None or _Compiler.prepared:
        return
    _Compiler.prepared = True
    with suppress(AttributeError):  # torch keeps it to itself
        _Compiler.watching = torch._C._dynamo.eval_frame.get_eval_frame_callback
    for register in _Compiler.registrations:
        register()
    disable = torch.compiler.disable
    told = {"reason": LEFT_ALONE} if "reason" in signature(disable).parameters else {}
    _Compiler.left_alone = disable(_called, **told)


# What `torch.compiler.assume_constant_result` does: the compiler calls the function instead of tracing it.
# Here torch may be imported after the first embedding was made, and what is traced first is what calls this.
prepare_untraced._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch reads it there


def _called(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a function returns: `torch.compile` leaves this alone, and all that it calls."""
    replaced = [getattr(module, name) for module, name, _ in GENUINE]
    for module, name, genuine in GENUINE:
        setattr(module, name, genuine)
    try:
        return function(*arguments, **options)
    finally:
        for (module, name, _), other in zip(GENUINE, replaced, strict=True):
            setattr(module, name, other)


def untraced(function: Callable[P, T], instead: Callable[..., Any] | None = None) -> Callable[P, T]:
    """Have `torch.compile` call a function as a whole, for it could trace neither cache nor Numba.

    Where `instead` is given, that is traced, unless it returns NotImplemented.
    """

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> T:
        if not _Compiler.prepared:
            if "torch" not in sys.modules:
                return function(*arguments, **options)
            prepare_untraced()
        compiling = sys.modules["torch"].compiler.is_compiling()
        # The compiler also watches what is called where it has given up tracing the caller.
        if not compiling and not _Compiler.watching():
            return function(*arguments, **options)
        if compiling and instead is not None:
            traced: T = instead(*arguments, **options)
            if traced is not NotImplemented:
                return traced
        result: T = _Compiler.left_alone(function, *arguments, **options)
        return result

    return run
