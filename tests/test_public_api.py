"""The public API: names, signatures, docstrings, and immutable values."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import re
import traceback
import typing
from pathlib import Path

import pytest

import rotary
from rotary import backends

PUBLIC = {
    "rotary": [
        *("ConfigError", "DialectComparison", "Preset", "Presets", "RMSNorm"),
        *("RotaryEmbedding", "XPos"),
        "apply_rotary",
        *("cache_clear", "cache_info", "compare_dialects", "cos_sin", "formats", "from_config"),
        *("from_gguf", "inv_freq", "layouts", "permute_weights"),
        *("positions", "preset"),
        *("presets", "scaling", "sections", "set_cache_limit", "set_pool_limit", "show_config"),
        *("sinusoidal", "threads", "warm_up"),
    ],
    "rotary.formats": [
        *("OnnxNode", "attention_factor", "from_angles", "from_complex", "from_concatenated"),
        *("from_full_width", "from_ggml", "from_onnx", "from_pairs", "to_angles", "to_complex"),
        *("to_concatenated", "to_full_width", "to_ggml", "to_onnx", "to_pairs"),
    ],
    "rotary.decay": ["ROLES", "Role", "XPos"],
    "rotary.norm": ["RMSNorm"],
    "rotary.layouts": ["LAYOUTS", "Layout", "check_layout", "pair_channels", "permute_weights"],
    "rotary.positions": [
        *("Audio", "Clock", "DualChunk", "Image", "Mixed", "NearFar", "Text", "Video"),
        *("dual_chunk", "from_mask", "grid", "mixed", "ragged", "rerope", "self_extend"),
        *("steps", "timestamps", "zigzag"),
    ],
    "rotary.scaling": [
        "Clip",
        "Constant",
        "Custom",
        "Default",
        "DynamicNTK",
        "FreqFactors",
        "Linear",
        "Llama3",
        "LongRope",
        "NTK",
        "Periods",
        "Pixel",
        "Proportional",
        "Resonance",
        "Scaling",
        "Yarn",
    ],
    "rotary.sections": [
        *("Sections", "as_sections", "axial", "bailing", "chunked", "ernie", "from_axes"),
        *("ggml_imrope", "ggml_mrope", "ggml_vision", "glm_interleaved", "interleaved"),
        "openpangu",
    ],
    "rotary.typing": [
        *("AnyArray", "BatchAxisLike", "CallOptions", "ConfigLike", "CuSeqlensLike", "DTypeLike"),
        *("FrequenciesLike", "NestedReals", "OffsetLike", "OutLike", "PositionsLike", "RealLike"),
        "SeqAxisLike",
    ],
}

# Type names for annotations, which are not called.
TYPES = {
    "rotary.decay.Role",
    "rotary.layouts.Layout",
    *(f"rotary.typing.{n}" for n in PUBLIC["rotary.typing"]),
}

SIGNATURES = {
    "inv_freq": "(dim, *, base)",
    "cos_sin": "(positions, inv_freq, *, dtype='float32', attention_factor=1.0)",
    "apply_rotary": (
        "(x, cos, sin, *, layout, rotary_start=0, seq_axis=None, batch_axis=None, "
        "inverse=False, out=None)"
    ),
    "sinusoidal": "(positions, dim, *, base=10000.0, dtype='float32')",
    "permute_weights": "(w, num_heads, *, source, target, rotary_dim=None)",
    "cache_info": "()",
    "cache_clear": "()",
    "set_cache_limit": "(nbytes)",
    "set_pool_limit": "(nbytes)",
    "warm_up": "(dtypes=('float32',))",
    "show_config": "()",
    "threads": "(n)",
    "positions.from_mask": "(mask, *, padding=0)",
    "positions.ragged": "(cu_seqlens, *, offset=0)",
    "positions.grid": (
        "(*sizes, start=0, step=1, anchor=0, normalize=None, reference=None, order='ij', merge=1, "
        "prefix=0, suffix=0)"
    ),
    "positions.mixed": (
        "(segments, *, style, per_second=None, seconds_per_chunk=None, advance='largest', start=0)"
    ),
    "positions.dual_chunk": "(positions, *, chunk, local)",
    "positions.self_extend": "(positions, *, group, window)",
    "positions.rerope": "(positions, *, window, factor=None)",
    "from_config": (
        "(config, *, layer_type=None, layout=None, seq_axis=None, batch_axis=None, "
        "context_length=None, inv_freq=None, dialect='transformers')"
    ),
    "preset": "(name, *, seq_axis=None, batch_axis=None)",
    "presets": "()",
    "positions.steps": "(length, start=0, step=1)",
    "positions.timestamps": "(times, *, unit, origin)",
    "positions.zigzag": "(length, *, rank, world)",
    "scaling.Default": "()",
    "scaling.Custom": "(inv_freq=None, attention_factor=1.0, *, W=None)",
    "RotaryEmbedding": (
        "(head_dim, *, layout, base=None, scaling=None, rotary_dim=None, rotary_start=0, "
        "context_length=None, output_layout=None, sections=None, decay=None, quirk=None, "
        "seq_axis=None, batch_axis=None)"
    ),
    "RotaryEmbedding.__call__": (
        "(self, *arrays, positions=None, offset=None, cu_seqlens=None, role=None, seq_axis=None, "
        "batch_axis=None, out=None, norm=None, inv_freq=None)"
    ),
    "RotaryEmbedding.vjp": (
        "(self, *arrays, positions=None, offset=None, cu_seqlens=None, role=None, seq_axis=None, "
        "batch_axis=None, out=None, inv_freq=None, primals=None, wrt=None)"
    ),
    "RMSNorm": (
        "(*weights, eps=1e-06, unit_offset=False, order='before', kind='rms', over='head')"
    ),
    "RotaryEmbedding.shift": (
        "(self, x, delta, *, to=None, positions=None, offset=None, scales=None, cu_seqlens=None, "
        "role=None, seq_axis=None, batch_axis=None, out=None)"
    ),
    "RotaryEmbedding.tables": "(self, positions, dtype='float32', *, role=None, inv_freq=None)",
    "RotaryEmbedding.matrix": "(self, position, *, role=None)",
    "sections.chunked": "(*sizes)",
    "sections.interleaved": "(*sizes)",
    "sections.axial": "(*sizes, schedule='restart', order='chunked', pairing='across')",
    "XPos": "(scale_base=512.0, *, center, scale_layout=None, gamma=0.4)",
    "RotaryEmbedding.at_length": "(self, context_length)",
    "RotaryEmbedding.explain": "(self)",
}


def resolve(path):
    value = rotary
    for part in path.split("."):
        value = getattr(value, part)
    return value


def modules():
    """Return all modules of the distribution by name, private ones included."""
    names = ["rotary", "rotary.backends"]
    for package in (rotary, backends):
        names += [
            info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        ]
    return {name: importlib.import_module(name) for name in dict.fromkeys(names)}


def own_bases(value):
    """Return a class and those of its base classes that are private."""
    public = public_classes()
    return [
        base
        for base in value.__mro__
        if base is value or (base.__module__.startswith("rotary.") and base not in public)
    ]


def public_classes():
    """Return all public classes, and the paths that users import them by."""
    paths = {}
    for module, names in PUBLIC.items():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value) and value.__module__ != "builtins":
                paths.setdefault(value, []).append(f"{module}.{name}")
    return paths


def members(value):
    """Return the members of a class: its own, and those of base classes that are not public."""
    described = {name for base in value.__mro__ if base in public_classes() for name in vars(base)}
    found = {}
    for base in own_bases(value)[1:]:
        found = {name: each for name, each in vars(base).items() if name not in described} | found
    return found | dict(vars(value))


def public_callables():
    """Return public functions and classes, and the methods and properties of these classes, with one path each."""
    paths = {}
    for module, names in PUBLIC.items():
        for name in names:
            path, value = f"{module}.{name}", getattr(importlib.import_module(module), name)
            if path in TYPES or not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            paths.setdefault(value, path)
            if inspect.isclass(value):
                # The docstring of the class describes fields.
                fields = {
                    *getattr(value, "__dataclass_fields__", ()),
                    *getattr(value, "_fields", ()),
                }
                for own, method in members(value).items():
                    described = own in fields and not isinstance(method, property)
                    public = not own.startswith("_") or own == "__call__"
                    if public and not described:
                        paths.setdefault(method, f"{paths[value]}.{own}")
    return {path: value for value, path in paths.items()}


CALLABLES = public_callables()
FUNCTIONS = {
    path: value
    for path, value in CALLABLES.items()
    if inspect.isfunction(value) and not path.startswith("rotary.scaling.Scaling.")
}


# ------------------------------------------------------------------------------------------------
# Names.


def test_all_names_what_is_public():
    modules = {name: importlib.import_module(name) for name in PUBLIC}
    assert {name: sorted(module.__all__) for name, module in modules.items()} == {
        name: sorted(names) for name, names in PUBLIC.items()
    }
    assert [
        f"{name}.{each}"
        for name in PUBLIC
        for each in PUBLIC[name]
        if not hasattr(modules[name], each)
    ] == []


def test_all_is_sorted():
    """Constants first, then classes, then functions, without duplicates."""
    for name, module in modules().items():
        public = getattr(module, "__all__", [])
        kinds = [(not each.isupper(), each[0].islower(), each) for each in public]
        assert kinds == sorted(set(kinds)), name


def test_only_packages_export_names_of_other_modules():
    for name, module in modules().items():
        if hasattr(module, "__path__") or name == "rotary.typing":
            continue
        tree = ast.parse(inspect.getsource(module))
        imported = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert imported.isdisjoint(getattr(module, "__all__", ())), name


def test_dir_and_a_star_import_give_the_public_names():
    for name, names in PUBLIC.items():
        module = importlib.import_module(name)
        assert {each for each in dir(module) if not each.startswith("_")} == set(names), name
        star = {}
        exec(f"from {name} import *", star)  # noqa: S102  (what a star import gives)
        assert star.keys() - {"__builtins__"} == set(names), name


def test_no_name_hides_a_module():
    """`rotary.name` must be the result of `import rotary.name`."""
    for info in pkgutil.iter_modules([str(Path(rotary.__file__).parent)]):
        module = importlib.import_module(f"rotary.{info.name}")
        assert getattr(rotary, info.name) is module, info.name


ROOT = Path(__file__).parent.parent
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(path for path in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in path.parts),
    *sorted(Path(rotary.__file__).parent.rglob("*.py")),
    *sorted(Path(backends.__file__).parent.rglob("*.py")),
]


def named_in(text):
    """Return the dotted names of this package in a text, including those that autosummary lists for the reference."""
    found = set(re.findall(r"(?<![\w./\"'-])rotary(?:\.[A-Za-z]\w*)+", text))
    for block in re.findall(r"currentmodule:: rotary\n(.*?)```", text, re.DOTALL):
        names = re.findall(r"^   ([A-Za-z][\w.]*)$", block, re.MULTILINE)
        found |= {f"rotary.{name}" for name in names}
    return found


def prose(path):
    """Return the text of a page, or the docstrings of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


def missing_names(text):
    """Return the names in a text that do not exist."""
    missing = []
    for name in sorted(named_in(text)):
        try:
            resolve(name.partition(".")[2])
        except AttributeError:
            missing.append(name)
    return missing


def test_every_name_in_a_text_exists():
    missing = {path.name: missing_names(prose(path)) for path in TEXTS}
    assert {name: names for name, names in missing.items() if names} == {}


def test_a_name_that_does_not_exist_is_found():
    text = "`rotary.presets.Preset`, {func}`rotary.threads`\n.. currentmodule:: rotary\n\n   layouts.LAYOUTS\n```"
    assert named_in(text) == {"rotary.presets.Preset", "rotary.threads", "rotary.layouts.LAYOUTS"}
    assert missing_names(text) == ["rotary.presets.Preset"]


def test_version():
    assert re.match(r"\d+\.\d+", rotary.__version__)


def test_the_package_is_typed():
    assert (Path(rotary.__file__).parent / "py.typed").exists()


# ------------------------------------------------------------------------------------------------
# Signatures.


def plain(signature):
    """Return a signature without its annotations."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


def test_signatures():
    assert {path: plain(inspect.signature(resolve(path))) for path in SIGNATURES} == SIGNATURES


@pytest.mark.parametrize(("method", "more"), [("inverse", []), ("vjp", ["primals", "wrt"])])
def test_methods_take_the_same_arguments(method, more):
    signature = inspect.signature(getattr(rotary.RotaryEmbedding, method))
    call = dict(inspect.signature(rotary.RotaryEmbedding.__call__).parameters)
    del call["norm"]
    assert list(signature.parameters) == [*call, *more]
    assert {name: signature.parameters[name] for name in call} == call


def annotations(value):
    """Return the annotations of a function or class that a type checker reads, from overloads if there are any."""
    value = getattr(value, "fget", None) or getattr(value, "func", value)  # of a property
    if inspect.isclass(value):
        fields = [
            each for base in own_bases(value) for each in inspect.get_annotations(base).items()
        ]
        yield from ((name, text) for name, text in fields if not name.startswith("_"))
        value = members(value).get("__init__")
        if not hasattr(value, "__wrapped__"):
            return  # made by `dataclass`, or inherited
    value = inspect.unwrap(value)
    for each in typing.get_overloads(value) or [value]:
        yield from getattr(each, "__annotations__", {}).items()


def test_public_annotations_are_never_any():
    """A type checker accepts everything as `Any`. `Array` is the name of the library for `Any`."""
    found = {
        f"{path}: {name}"
        for path, value in CALLABLES.items()
        for name, text in annotations(value)
        if re.search(r"\b(Any|Array|Namespace)\b", str(text))
    }
    assert found == set()


def test_every_argument_has_a_type():
    for path, function in FUNCTIONS.items():
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, path
        for name, parameter in signature.parameters.items():
            assert name == "self" or parameter.annotation is not inspect.Parameter.empty, path


def test_layout_and_base_have_no_default():
    with pytest.raises(TypeError, match="layout"):
        rotary.RotaryEmbedding(8, base=10.0)
    with pytest.raises(TypeError, match="`base` must be given"):
        rotary.RotaryEmbedding(8, layout="half")
    with pytest.raises(TypeError, match="positional"):
        rotary.RotaryEmbedding(8, "half", 10.0)
    with pytest.raises(TypeError, match="layout"):
        rotary.apply_rotary(None, None, None)


# ------------------------------------------------------------------------------------------------
# Docstrings.


def sections(text):
    """Return the sections of a numpydoc docstring by heading."""
    parts = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", inspect.cleandoc(text), flags=re.MULTILINE)
    assert parts[0].strip(), "there is no summary"
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(body):
    """Return the names that a section of parameters describes."""
    heads = [line.partition(" : ")[0] for line in body.splitlines() if line[:1].strip()]
    return [name.strip() for head in heads for name in head.split(",")]


# Related methods describe their arguments once.
AS_THE_CALL = {"rotary.RotaryEmbedding.inverse"}


def test_docstrings_name_every_parameter():
    for path, function in FUNCTIONS.items():
        expected = [
            ("*" if parameter.kind is parameter.VAR_POSITIONAL else "") + name
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "self"
        ]
        if path in AS_THE_CALL:
            assert "Parameters are those of the call" in " ".join(function.__doc__.split())
        else:
            assert documented(sections(function.__doc__).get("Parameters", "")) == expected, path


def test_docstrings_describe_what_is_returned():
    for path, function in FUNCTIONS.items():
        nothing = inspect.signature(function).return_annotation in ("None", "Iterator[None]")
        assert ("Returns" in sections(function.__doc__)) == (not nothing), path


# An example would be meaningless.
NO_EXAMPLE = {
    *("rotary.ConfigError", "rotary.cache_clear", "rotary.set_cache_limit"),
    "rotary.RotaryEmbedding.at_length",
    "rotary.scaling.Scaling",
}


def test_docstrings_have_a_runnable_example():
    """For functions, classes and the methods of the embedding."""
    for path, value in CALLABLES.items():
        method = inspect.isfunction(value) and path.rpartition(".")[0] in CALLABLES
        shown = not method or path.startswith("rotary.RotaryEmbedding.")
        if shown and not isinstance(value, property) and path not in NO_EXAMPLE and callable(value):
            assert ">>> " in sections(value.__doc__).get("Examples", ""), path


# ------------------------------------------------------------------------------------------------
# Values.


def test_an_embedding_cannot_be_changed():
    rope = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
    for name in ("base", "layout", "inv_freq", "attention_factor", "something"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(rope, name, 1)
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            delattr(rope, name)
    with pytest.raises(ValueError, match="read-only"):
        rope.inv_freq[0] = 5


def test_config_error_is_a_value_error():
    assert issubclass(rotary.ConfigError, ValueError)
    assert rotary.ConfigError.__mro__[1] is ValueError


def test_classes_show_a_path_that_users_import_them_by():
    for cls, paths in public_classes().items():
        assert f"{cls.__module__}.{cls.__qualname__}" in paths
    shown = traceback.format_exception_only(rotary.ConfigError("unclear"))
    assert shown == ["rotary.ConfigError: unclear\n"]


def test_pickles_name_classes_as_users_do():
    for cls in public_classes():
        assert pickle.loads(pickle.dumps(cls)) is cls
    # Older pickles name the module of the definition.
    assert pickle.loads(b"crotary._lib.errors\nConfigError\n.") is rotary.ConfigError
