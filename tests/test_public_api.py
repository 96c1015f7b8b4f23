"""The public surface: names, signatures, docstrings, and values that cannot be changed."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import rotary
from rotary import backends

PUBLIC = {
    "rotary": [
        *("ConfigError", "DialectComparison", "Preset", "Presets", "RotaryEmbedding", "XPos"),
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
    "rotary.layouts": ["LAYOUTS", "Layout", "check_layout", "pair_channels", "permute_weights"],
    "rotary.positions": [
        *("Audio", "Clock", "DualChunk", "Image", "Mixed", "NearFar", "Text", "Video"),
        *("dual_chunk", "from_mask", "grid", "mixed", "ragged", "rerope", "self_extend"),
        *("timestamps", "zigzag"),
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
        *("AnyArray", "BatchAxisLike", "CallOptions", "CuSeqlensLike", "DTypeLike"),
        *("FrequenciesLike", "NestedReals", "OffsetLike", "OutLike", "PositionsLike", "RealLike"),
        "SeqAxisLike",
    ],
}

PUBLIC_MODULES = [name for name in PUBLIC["rotary"] if f"rotary.{name}" in PUBLIC]

# Names of sets of words, which are no classes.
ALIASES = ("Layout", "Role")

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
        "(segments, *, style, per_second=None, seconds_per_chunk=None, advance='largest')"
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
        "batch_axis=None, out=None)"
    ),
    "RotaryEmbedding.shift": (
        "(self, x, delta, *, to=None, positions=None, offset=None, scales=None, cu_seqlens=None, "
        "role=None, seq_axis=None, batch_axis=None, out=None)"
    ),
    "RotaryEmbedding.tables": "(self, positions, dtype='float32', *, role=None)",
    "RotaryEmbedding.matrix": "(self, position, *, role=None)",
    "sections.chunked": "(*sizes)",
    "sections.interleaved": "(*sizes)",
    "sections.axial": "(*sizes, schedule='restart', order='chunked', pairing='across')",
    "XPos": "(scale_base=512.0, *, center, scale_layout=None, gamma=0.4)",
    "RotaryEmbedding.at_length": "(self, context_length)",
    "RotaryEmbedding.explain": "(self)",
}


def resolve(path):
    found = rotary
    for part in path.split("."):
        found = getattr(found, part)
    return found


def modules():
    """Every module of the distribution, those whose name starts with an underscore included."""
    names = ["rotary", "rotary.backends"]
    for package in (rotary, backends):
        names += [
            info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        ]
    return list(dict.fromkeys(names))


def public_callables():
    """What users call, by the path to it."""
    found = {}
    for module, names in PUBLIC.items():
        # Types for annotations are not called.
        for name in names if module != "rotary.typing" else ():
            value = getattr(importlib.import_module(module), name)
            if not callable(value) or not hasattr(value, "__module__") or name in ALIASES:
                continue
            path = f"{module}.{name}"
            found.setdefault(id(value), (path, value))
            if inspect.isclass(value):
                # A field is no thing of its own: the class tells about it.
                told = {*getattr(value, "__dataclass_fields__", ()), *getattr(value, "_fields", ())}
                for own, method in vars(value).items():
                    if own in told and not isinstance(method, property):
                        continue
                    if not own.startswith("_") or own == "__call__":
                        found[path, own] = (f"{path}.{own}", method)
    return dict(found.values())


CALLABLES = public_callables()
FUNCTIONS = {
    path: value
    for path, value in CALLABLES.items()
    if inspect.isfunction(value) and not path.startswith("rotary.scaling.Scaling.")
}


# ------------------------------------------------------------------------------------------------
# Names.


@pytest.mark.parametrize("name", PUBLIC)
def test_all_names_what_is_public(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(PUBLIC[name])
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public)


@pytest.mark.parametrize("name", modules())
def test_all_is_sorted_and_true(name):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    constants = [public for public in names if public.isupper()]
    classes = [public for public in names if public[0].isupper() and not public.isupper()]
    others = [public for public in names if public[0].islower()]
    assert names == [*sorted(constants), *sorted(classes), *sorted(others)]
    for public in names:
        value = getattr(module, public)
        if not hasattr(module, "__path__") and hasattr(value, "__module__"):
            # Only packages pass on what another module has made, and public modules what private ones have.
            makers = (name, "builtins", "types", "typing")
            own = value.__module__ in makers or value.__module__.startswith("rotary._")
            assert own, (public, value.__module__)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "rotary"])
def test_public_modules_show_nothing_else(name):
    """Functions and classes that a module makes and does not name start with an underscore."""
    module = importlib.import_module(name)
    made = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == name
    }
    assert made <= set(module.__all__), sorted(made - set(module.__all__))


@pytest.mark.parametrize("name", ["rotary", *(f"rotary.{name}" for name in PUBLIC_MODULES)])
def test_dir_and_a_star_import_give_the_public_names(name):
    module = importlib.import_module(name)
    assert {each for each in dir(module) if not each.startswith("_")} == set(module.__all__)
    star = {}
    exec(f"from {name} import *", star)  # noqa: S102  (what a star import gives)
    assert set(star) - {"__builtins__"} == set(module.__all__)


def test_no_name_hides_a_module():
    """`rotary.name` has to be what `import rotary.name` gives."""
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
    """The dotted names of this package in a text, those that autosummary lists for the reference included."""
    found = set(re.findall(r"(?<![\w./\"'-])rotary(?:\.[A-Za-z]\w*)+", text))
    for block in re.findall(r"currentmodule:: rotary\n(.*?)```", text, re.DOTALL):
        names = re.findall(r"^   ([A-Za-z][\w.]*)$", block, re.MULTILINE)
        found |= {f"rotary.{name}" for name in names}
    return found


def prose(path):
    """The text of a page, or the docstrings of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_name_in_a_text_exists(path):
    for name in named_in(prose(path)):
        resolve(name.partition(".")[2])


def test_a_name_that_does_not_exist_is_found():
    text = "`rotary.presets.Preset`, {func}`rotary.threads`\n.. currentmodule:: rotary\n\n   layouts.LAYOUTS\n```"
    assert named_in(text) == {"rotary.presets.Preset", "rotary.threads", "rotary.layouts.LAYOUTS"}
    with pytest.raises(AttributeError):
        resolve("presets.Preset")


def test_version():
    assert re.match(r"\d+\.\d+", rotary.__version__)


def test_the_package_is_typed():
    assert (Path(rotary.__file__).parent / "py.typed").exists()


# ------------------------------------------------------------------------------------------------
# Signatures.


def plain(signature):
    """A signature without its annotations."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures(path):
    assert plain(inspect.signature(resolve(path))) == SIGNATURES[path]


@pytest.mark.parametrize("verb", ["inverse", "vjp"])
def test_verbs_take_the_same_arguments(verb):
    verb = getattr(rotary.RotaryEmbedding, verb)
    assert inspect.signature(verb) == inspect.signature(rotary.RotaryEmbedding.__call__)


@pytest.mark.parametrize("path", FUNCTIONS)
def test_every_argument_has_a_type(path):
    signature = inspect.signature(FUNCTIONS[path])
    assert signature.return_annotation is not inspect.Signature.empty
    for name, parameter in signature.parameters.items():
        if name != "self":
            assert parameter.annotation is not inspect.Parameter.empty, name


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
    """The sections of a numpydoc docstring, heading to body."""
    parts = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", inspect.cleandoc(text), flags=re.MULTILINE)
    assert parts[0].strip(), "there is no summary"
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(body):
    """The names a section of parameters tells about."""
    heads = [line.partition(" : ")[0] for line in body.splitlines() if line[:1].strip()]
    return [name.strip() for head in heads for name in head.split(",")]


@pytest.mark.parametrize("path", CALLABLES)
def test_every_public_thing_has_a_docstring(path):
    text = inspect.getdoc(CALLABLES[path])
    assert text
    summary = text.split("\n\n", maxsplit=1)[0]
    assert summary.endswith(".")
    assert summary[0].isupper() or summary[0] == "`"


# Verbs of one family tell their arguments once.
AS_THE_CALL = {"rotary.RotaryEmbedding.inverse", "rotary.RotaryEmbedding.vjp"}


@pytest.mark.parametrize("path", FUNCTIONS)
def test_docstrings_name_every_parameter(path):
    function = FUNCTIONS[path]
    expected = [
        ("*" if parameter.kind is parameter.VAR_POSITIONAL else "") + name
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
    ]
    found = sections(function.__doc__).get("Parameters", "")
    if path in AS_THE_CALL:
        assert "Parameters are those of the call" in " ".join(function.__doc__.split())
    else:
        assert documented(found) == expected


@pytest.mark.parametrize("path", FUNCTIONS)
def test_docstrings_tell_what_is_returned(path):
    function = FUNCTIONS[path]
    returns_nothing = inspect.signature(function).return_annotation in ("None", "Iterator[None]")
    assert ("Returns" in sections(function.__doc__)) == (not returns_nothing)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, value in CALLABLES.items()
        if path.count(".") - path.startswith("rotary.RotaryEmbedding.") < 3
        and not path.startswith(
            ("rotary.scaling.Scaling", "rotary.scaling.Custom.", "rotary.scaling.Default.")
        )
        and path not in ("rotary.ConfigError", "rotary.positions.Clock.__call__")
        and (inspect.isfunction(value) or inspect.isclass(value))
    ],
)
def test_docstrings_have_a_runnable_example(path):
    if path in {"rotary.cache_clear", "rotary.set_cache_limit", "rotary.RotaryEmbedding.at_length"}:
        return  # there is nothing to see
    assert ">>> " in sections(CALLABLES[path].__doc__)["Examples"]


@pytest.mark.parametrize("name", modules())
def test_every_module_says_why_it_exists(name):
    text = importlib.import_module(name).__doc__
    assert text
    assert text.splitlines()[0].endswith((".", ":", ","))


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
