"""Every cache of the library is bounded, and emptied by `rotary.cache_clear`: it is one of `rotary._lib.memo`."""

from __future__ import annotations

import ast
from pathlib import Path

import rotary
from rotary import backends

FOLDERS = [Path(package.__file__).parent for package in (rotary, backends)]
CONTAINERS = {
    *("dict", "list", "set", "OrderedDict", "defaultdict", "deque"),
    *("WeakKeyDictionary", "WeakSet", "WeakValueDictionary"),
}
# Containers that begin empty and outlive a call, and functions that cache results, each with the reason.
ALLOWED = {
    "rotary/_lib/memo.py": {
        "_PLANS": "the caches of plans, which modules make when they are imported",
        "Memo.held": "the cache itself",
    },
    "rotary/_lib/jax_trees.py": {
        "waiting": "filled when modules are imported, emptied once JAX is",
    },
    "rotary/_lib/compiler.py": {
        "_Torch.registrations": "filled when modules are imported, and never afterwards",
    },
    "rotary/angles/phases.py": {
        "Frequencies.copies": "one for each GPU, part of the frequencies: captured graphs read them",
    },
    "rotary/runtime/pool.py": {
        "_Blocks.lent": "bounded by the limit of the pool",
        "_Blocks.returned": "bounded by the limit of the pool",
        "_Blocks.idle": "bounded by the limit of the pool",
        "_State.sizes": "bounded by the limit of the pool; `cache_clear` empties it",
    },
    "rotary/runtime/threads.py": {
        "_LimitManager._outer": "one for each `with` statement that the object is in",
    },
    "rotary/checkpoints/facts.py": {"facts": "one for each file of facts"},
    "rotary/checkpoints/layer_keys.py": {
        "LayerKeys.origins": "lives as long as a configuration is read",
        "LayerKeys.unread": "lives as long as a configuration is read",
    },
    "rotary/checkpoints/llama_cpp.py": {"_known_architecture": "one for each known architecture"},
    "rotary/checkpoints/models.py": {"_model": "one for each known model"},
    "rotary/cli/selftest.py": {"_cos_sin": "in the process of the self-test alone"},
    "rotary/call/passes.py": {
        "RotationCache._passes": "one for each method and role",
        "rotations_of": "bounded, and of embeddings, which are kept as well",
    },
    "rotary/call/shapes.py": {"frames_of": "bounded, and of shapes alone"},
    "rotary/call/torch_graphs.py": {
        "_first_equal": "bounded, and graphs of torch refer to the names",
        "_of_name": "drops an embedding that nothing else refers to",
        "_rotations_from_json": "bounded, and graphs of torch refer to the text",
        "from_json": "bounded, and graphs of torch refer to the text",
        "understood": "bounded, and graphs of torch refer to the text",
    },
    "backends/cpu/guard.py": {
        "failures": "one for each kind of failure",
        "_unreported": "one for each kind of failure",
        "loaded": "one entry",
        "_locks": "one for each process",
        "_working": "one for each process",
        "_forking": "one entry",
    },
    "backends/cpu/host.py": {"chosen": "one entry"},
    "backends/cpu/jit.py": {
        "_compiled": "compiled kernels are never dropped; one for each Variant",
        "entry_point": "one for each compiled kernel",
    },
    "backends/cpu/gradients.py": {
        "HostGradients._of_axes": "one for each shape of positions",
    },
    "backends/cpu/plan.py": {
        "HostPlan._steps_of_axes": "one for each set of axes that positions differ on",
        "DirectPlan._position_shapes": "one for each shape that positions may have",
    },
    "backends/cpu/threads.py": {"_inherited": "one for each process", "_parallel_for": "one entry"},
    "backends/cuda/driver.py": {
        "Driver._kept_alive": "dropped when the stream is done",
    },
    "backends/cuda/launch.py": {
        "Launch._kernels": "one for each GPU",
        "_kernels": "compiled kernels are never dropped",
    },
    "backends/cuda/parameters.py": {"instance": "one for each compiled kernel"},
    "backends/cuda/plan.py": {
        "Plan._parts": "one for each head, dropped with the plan",
        "Plan._angle_sources": "one for each kind of positions, dropped with the plan",
    },
    "backends/cuda/tables.py": {"CallTables._indices": "one for each table of a call"},
}


def is_empty_container(value):
    """Whether an expression makes a container for something that comes later."""
    if isinstance(value, ast.Dict):
        return not value.keys
    if isinstance(value, ast.List):
        return not value.elts
    if not isinstance(value, ast.Call) or value.args or value.keywords:
        return False
    made = value.func.value if isinstance(value.func, ast.Subscript) else value.func
    name = made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "")
    return name in CONTAINERS


def caches(node, owner="", *, is_local=False):
    """Yield the names of containers that outlive a call, and of functions that cache results."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if any(is_cached(each, child.args) for each in child.decorator_list):
                yield f"{owner}{child.name}"
            yield from caches(child, owner, is_local=True)
            continue
        if isinstance(child, ast.ClassDef):
            yield from caches(child, f"{child.name}.")
            continue
        if isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            for target, value in [pair for each in targets for pair in assigned(each, child.value)]:
                if not is_empty_container(value):
                    continue
                if isinstance(target, ast.Attribute):
                    yield f"{owner}{target.attr}"
                elif not is_local:
                    yield f"{owner}{target.id}"
        yield from caches(child, owner, is_local=is_local)


def assigned(target, value):
    """Pairs of a target and its value, of ``a, b = x, y`` each."""
    if not (isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)):
        return [(target, value)]
    if any(isinstance(each, ast.Starred) for each in (*target.elts, *value.elts)):
        # It is not known which value a target gets, so every target may get every value.
        return [(each, part) for each in target.elts for part in value.elts]
    return list(zip(target.elts, value.elts, strict=True))


def is_cached(decorator, arguments):
    """Whether a decorator caches results by arguments. A function without arguments has only one result."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    has_arguments = any(
        (arguments.posonlyargs, arguments.args, arguments.kwonlyargs, arguments.vararg)
    )
    return name in ("cache", "lru_cache") and has_arguments


def test_every_cache_is_a_registered_one():
    found = {}
    for folder in FOLDERS:
        for path in folder.rglob("*.py"):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            name = name.removeprefix("rotary/") if name.startswith("rotary/backends/") else name
            in_file = set(caches(ast.parse(path.read_text(encoding="utf-8"))))
            found[name] = in_file - set(ALLOWED.get(name, ()))
    assert {name: found for name, found in found.items() if found} == {}


def test_caches_are_found():
    """Otherwise the test above would pass if `caches` found nothing."""
    text = """
A, B = {}, []
a: dict[int, int] = {}
full = {1: 2}
b = OrderedDict[int, int]()
class C:
    c = weakref.WeakSet()
    def f(self):
        self.d, e = set(), {}
        self.f = []
        local = {}
        if local:
            self.g.h = deque()
@lru_cache(maxsize=3)
def i(x): ...
@functools.cache
def j(*, x): ...
@cache
def nothing(): ...
@remembered(3)
def k(x): ...
"""
    assert sorted(caches(ast.parse(text))) == [
        *("A", "B", "C.c", "C.d", "C.f", "C.h", "a", "b", "i", "j")
    ]
