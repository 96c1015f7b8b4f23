"""Configurations against transformers itself: every model type that has rotary, in its own code."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import re
import sys
import textwrap
import warnings
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import PUBLISHED

import rotary
from rotary.checkpoints import key_names, models
from rotary.checkpoints.config import from_config

pytestmark = pytest.mark.oracle

# Configurations with rope parameters that are no rotation of one-dimensional positions, or not of the
# configuration alone; they are not in the table, so that a layout has to be given.
NOT_IN_THE_TABLE = {
    "blt": "its class has no width: its parts are model types of their own",
    "cohere2_moe": "whether a layer has rotary depends on its MLP as well",
    "cohere_compass_text": "the rope dict of its class is for other layers than the class has",
    "dots3_note_text": "kinds of layers differ in the rotation they apply, not only in frequencies",
    "efficientloftr": "image features: two axes, more channels than a head has",
    "eomt_dinov3": "image patches: coordinates within -1 .. 1",
    "internlm3": "transformers has the configuration only",
    "iquestcoder": "transformers has the configuration only",
    "llama4_vision_model": "image patches: complex numbers computed from the image's size",
    "mistral_large4_text": "frequencies are multiplied by a learned number",
    "musicflamingo": "positions are seconds, on two axes",
    "zamba2": "its embedding is as wide as half of a head",
    "neomme": "pairs alternate between two axes",
}
# What from_config says otherwise of a configuration class's own defaults, and why.
EXPLAINED = {
    "glm4_moe": "refused: 4096 is no multiple of 96 heads; checkpoints have a head_dim",
    "glm4v_moe_text": "refused: 4096 is no multiple of 96 heads; checkpoints have a head_dim",
    "qwen3_omni_moe_text": "refused: 2048 is no multiple of 28 heads; checkpoints have a head_dim",
    "glm4v_text": "refused: sections for half the head, of which the defaults rotate all",
    "glm_image_text": "refused: sections for half the head, of which the defaults rotate all",
    "qwen3_omni_moe_talker_text": "refused: sections for heads of 128 channels, defaults have 64",
    "qwen4_exp_text": "refused: sections for a quarter of the head, of which the defaults rotate all",
    "hunyuan_vl_text": "its code needs sections, which the defaults have not",
    "minimax_m3_vl_text": "its class has a rotary_dim of 64 that its code does not read",
    "granitemoehybrid": "without rotary unless position_embedding_type is 'rope'",
    "muse_glimmer_text": "refused: a base for each layer, of which some have none",
    "muse_spark_text": "refused: a base for each layer, of which some have none",
}

# Facts that do not show in the results of the classes, read in the source of each.
SLIDING = {
    **dict.fromkeys(("afmoe", "cohere2", "flint"), "always"),
    **dict.fromkeys(("exaone4", "exaone_moe", "kolibri1"), "windowed"),
}
LEGACY = {
    **dict.fromkeys(("gemma3_text", "gemma3n_text", "t5gemma2_decoder", "t5gemma2_text"), "local"),
    **dict.fromkeys(("modernbert", "modernbert-decoder"), "global"),
    "deepseek_v4": "compressed",
    "mimo_v2_flash": "windowed",
    "olmo3": "shared",
}
ONLY = {
    "falcon": ["alibi", False],
    "granitemoehybrid": ["position_embedding_type", "rope"],
}
# Checkpoints name these; the code that reads them is another model's.
ALIASES = {
    "kimi_k2": "deepseek_v3",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
}
INTERVAL = {"llama4_text": 4, "smollm3": 4}
# Models whose configuration has no rope parameters at all.
GPTJ = {
    "layout": "interleaved",
    "partial": True,
    "reads": ["rotary_dim"],
    "unread": ["rope_parameters", "rope_theta"],
    "defaults": {"rotary_dim": 64},
}
WAV2VEC2 = {
    "layout": "half",
    "only": ["position_embeddings_type", "rotary"],
    "reads": ["rotary_embedding_base"],
    "unread": ["head_dim", "rope_parameters", "rope_theta"],
}
BY_HAND = {
    "codegen": GPTJ,
    "esm": {
        "layout": "half",
        "only": ["position_embedding_type", "rotary"],
        "unread": ["head_dim", "rope_parameters"],
    },
    "gptj": GPTJ,
    "roformer": {
        "layout": "interleaved",
        "unread": ["head_dim", "rope_parameters", "rope_theta"],
    },
    "wav2vec2-bert": WAV2VEC2,
    "wav2vec2-conformer": WAV2VEC2,
}
# Read by a model's published code; transformers cannot load weights of such a width.
READ_ELSEWHERE = {"mimo_v2_flash": {"swa_head_dim"}}
# They define a function that rotates, and never call it.
NEVER_CALLED = {"jamba", "nemotron_h"}
# The part that code takes if a rope dict is given without one.
PART = {"mimo_v2_flash": 0.334}
# Their attention cuts the part out of each head itself.
CUTS = {"gpt_neox_japanese", "persimmon", "phi", "stablelm"}
# Model types without rotation whose layers are of several kinds, or recurrent.
RECURRENT = {
    *("falcon_mamba", "jamba", "kimi_linear", "mamba", "mamba2", "nemotron_h", "rwkv", "xlstm"),
    "zamba",
}
# They have layers without attention, though their classes' own defaults have none.
HYBRID = {"lfm2", "lfm2_moe"}
# Kinds of layers that have no attention.
NO_ATTENTION = {"linear_attention", "conv"}
# Where a module has several, the one the model of this type makes.
ROTARY = {"qwen3_omni_moe_talker_code_predictor": "Qwen3OmniMoeRotaryEmbedding"}


# ------------------------------------------------------------------------------------------------
# transformers' own code, found and run.


class Wide:
    """torch, with float64 for float32."""

    def __init__(self, torch):
        self.torch = torch
        self.float = self.float32 = torch.float64

    def __getattr__(self, name):
        return getattr(self.torch, name)


@contextmanager
def wide(*modules):
    """Let the modules compute in float64."""
    import torch
    from transformers import modeling_rope_utils

    with pytest.MonkeyPatch.context() as patch:
        for module in (modeling_rope_utils, *modules):
            patch.setattr(module, "torch", Wide(torch))
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@contextmanager
def quiet():
    """Silence the warnings of transformers about its own defaults."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def made(config_class, **keys):
    """A configuration object, or None if the class refuses these keys."""
    try:
        return config_class(**keys)
    except Exception:  # noqa: BLE001  (of 700 classes, some need arguments)
        return None


@lru_cache(maxsize=1)
def families():
    """Model type to (configuration class, modeling module, class of the embedding)."""
    import transformers
    from transformers.configuration_utils import PreTrainedConfig

    found = {}
    with quiet():
        for path in sorted(
            (Path(transformers.__file__).parent / "models").glob("*/configuration_*.py")
        ):
            module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
            for config_class in vars(module).values():
                if not (
                    inspect.isclass(config_class) and issubclass(config_class, PreTrainedConfig)
                ):
                    continue
                if config_class.__module__ != module.__name__ or not config_class.model_type:
                    continue
                config = made(config_class)
                if not getattr(config, "rope_parameters", None):
                    continue
                if config_class.default_rope_type == "axial":
                    continue
                found.setdefault(
                    config_class.model_type, (config_class, *own_rotary(path.parent, config))
                )
    return found


def own_rotary(folder, config):
    """The module and the class of the embedding that a model makes from a configuration."""
    named, able = [], []
    for path in sorted(folder.glob("modeling_*.py")):
        if not re.search("Rotary|RoPE", path.read_text(encoding="utf-8")):
            continue
        module = importlib.import_module(f"transformers.models.{folder.name}.{path.stem}")
        for name, kind in vars(module).items():
            if not (
                inspect.isclass(kind) and re.search(r"(Rotary|Rope|RoPE)\w*(Embedding|Emb)$", name)
            ):
                continue
            argument = inspect.signature(kind.__init__).parameters.get("config")
            annotation = getattr(argument, "annotation", None)
            annotation = getattr(annotation, "__name__", annotation)
            wanted = ROTARY.get(config.model_type, name)
            if annotation == type(config).__name__:
                named.append((module, kind))
            elif "Vision" not in name and name == wanted:
                # Those that cannot are made for another of the module's configurations.
                with suppress(Exception):
                    kind(config)
                    able.append((module, kind))
    return (named or able or [(None, None)])[0]


def kinds_of_layers(config):
    return [k for k, v in config.rope_parameters.items() if isinstance(v, dict)] or [None]


def buffer(embedding, kind, name="inv_freq"):
    return getattr(embedding, f"{kind}_{name}" if kind else name)


def their_tables(embedding, positions, kind):
    """What the embedding's forward returns."""
    import torch

    with_kind = (
        "layer_type" in inspect.signature(inspect.unwrap(type(embedding).forward)).parameters
    )
    keys = {"layer_type": kind} if kind and with_kind else {}
    return embedding(torch.zeros(1, dtype=torch.float64), positions, **keys)


def their_function(module, config):
    """The function that rotates."""
    if getattr(config, "rope_interleave", None):
        return module.apply_rotary_pos_emb_interleave
    names = ("apply_rotary_pos_emb", "apply_rotary_emb", "apply_rotary_pos_emb_interleave")
    there = [name for name in names if hasattr(module, name)]
    if len(there) > 1:  # another one is for the indexer of sparse attention, or for the key's false
        layers = [kind for name, kind in vars(module).items() if name.endswith("Attention")]
        called = "".join(inspect.getsource(kind) for kind in layers)
        there = [name for name in there if f" {name}(" in called] or there
    return getattr(module, there[0])


def their_matrix(module, config, embedding, place, kind, width):
    """Their rotation as a matrix, at one position or one on every axis."""
    import torch

    rows = torch.tensor(place).reshape(-1, 1, 1).expand(-1, 1, width)
    function = their_function(module, config)
    tables = their_tables(embedding, rows if rows.shape[0] > 1 else rows[0], kind)
    unit = torch.eye(width, dtype=torch.float64)[None, None]
    parameters = inspect.signature(function).parameters
    if "freqs_cis" in parameters and module.__name__.endswith("llama4"):  # heads after the sequence
        result = function(unit.transpose(1, 2), unit.transpose(1, 2), tables)[0].transpose(1, 2)
    elif "freqs_cis" in parameters:
        result = function(unit, unit, tables)[0]
    elif "k" not in parameters:
        result = function(unit, *tables)
    else:
        result = function(unit, unit, *tables)[0]
    return result[0, 0].T.double().numpy()


# ------------------------------------------------------------------------------------------------
# The facts about each model type, from running its code.


def static_defaults(config_class):
    """The defaults of the keys in the class, without those that follow from other keys."""
    aliases = dict(config_class.attribute_map or {})
    fields = config_class.__dataclass_fields__
    found = {}
    numbers = ("head_dim", "qk_rope_head_dim", "original_max_position_embeddings")
    for key in (*numbers, "rope_interleave"):
        name = aliases.get(key, key)
        value = fields[name].default if name in fields else None
        if isinstance(value, int):
            found[key] = value
    layers = getattr(config_class(), "per_layer_config", None)
    widths = {own.head_dim for own in layers or [] if hasattr(own, "head_dim")}
    if len(widths) == 2:
        found["global_head_dim"] = max(widths)
    return found


# Keys that some classes read, the usual ones first, and values that no class has by itself.
USUAL = {"head_dim": 48, "rope_theta": 77_777.0, "partial_rotary_factor": 0.125}
BESIDES = {
    **dict.fromkeys(("rotary_emb_base", "rotary_embedding_base", "rope_embedding_base"), 77_777.0),
    **dict.fromkeys(("rotary_pct", "rope_pct", "rope_percent", "rotary_percent"), 0.5),
    "rope_freq_constant": 77_777.0,
    "rotary_emb_fraction": 0.5,
    "rotary_dim": 16,
    **dict.fromkeys(key_names.WIDTHS[1:], 48),
}


def bare_dict(config):
    """The smallest rope dict that a class accepts."""
    sections = {k: v for k, v in config.rope_parameters.items() if k.startswith("mrope")}
    return {"rope_type": "default", **sections}


def numbers(config_class, kind, keys):
    """The frequencies and factors that a class gives, or None if it fails."""
    try:
        config = config_class(**copy.deepcopy(keys))
        embedding = kind(config)
        return [
            (
                buffer(embedding, layer).tolist(),
                float(buffer(embedding, layer, "attention_scaling")),
            )
            for layer in kinds_of_layers(config)
            if hasattr(embedding, f"{layer}_inv_freq" if layer else "inv_freq")
        ]
    except Exception:  # noqa: BLE001  (of 700 classes, some refuse a width)
        return None


def reading(config_class, kind, config):
    """The keys that a class reads besides the usual ones, and the usual ones that it does not read."""
    flat = kinds_of_layers(config) == [None]
    keys = {"rope_parameters": bare_dict(config)} if flat else {}
    usual = numbers(config_class, kind, keys)
    if usual is None:
        keys = {}
        usual = numbers(config_class, kind, keys)

    def changes(key, value):
        changed = numbers(config_class, kind, keys | {key: value})
        return changed is not None and changed != usual

    reads = [key for key, value in BESIDES.items() if changes(key, value)]
    refused = [
        key for key, value in USUAL.items() if numbers(config_class, kind, {key: value}) is None
    ]
    unread = [key for key, value in USUAL.items() if key not in refused and not changes(key, value)]
    return sorted(reads), sorted(unread)


def rotates_a_part(name, config_class, module, kind):
    """Whether a class that is given a part rotates that part, and passes on the rest."""
    layer_types = kinds_of_layers(config_class())
    own = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    keys = own if layer_types == [None] else dict.fromkeys(layer_types, own)
    try:
        config = config_class(rope_parameters=copy.deepcopy(keys))
        embedding = kind(config)
    except Exception:  # noqa: BLE001  (it refuses a part, or a rope dict of its own for a kind)
        return False
    width = 2 * len(buffer(embedding, layer_types[0]))
    if numbers(config_class, kind, {"rope_parameters": keys}) == numbers(
        config_class,
        kind,
        {"rope_parameters": json.loads(json.dumps(keys).replace("0.5", "1.0"))},
    ):
        return False
    if name in CUTS:
        return True
    with wide(module), suppress(RuntimeError):
        embedding = kind(config)
        place = [1]
        if order_of_sections(embedding):
            embedding.mrope_section, place = [width // 2, 0, 0], [1, 1, 1]
        their_matrix(module, config, embedding, place, layer_types[0], 2 * width)
        return True
    return False


def varied(values):
    """A rope dict without the keys that are facts of their own."""
    return {key: value for key, value in values.items() if key != "mrope_section"}


def rope_defaults(config_class, config):
    """The default base, part and rope dict of a class."""
    if kinds_of_layers(config) != [None]:
        return {"rope_parameters": config.rope_parameters}
    own = {k: v for k, v in config.rope_parameters.items() if v is not None}
    bare = made(config_class, rope_parameters=bare_dict(config)) or config
    filled = bare.rope_parameters if "rope_theta" in bare.rope_parameters else own
    found = {}
    if filled["rope_theta"] != 10_000:
        found["rope_theta"] = filled["rope_theta"]
    if filled.get("partial_rotary_factor", 1.0) != 1.0:
        found["partial_rotary_factor"] = filled["partial_rotary_factor"]
    on_top = made(config_class, rope_theta=77_777.0)
    if on_top is not None and on_top.rope_parameters["rope_theta"] == own["rope_theta"]:
        on_top = made(config_class, rope_theta=77_777.0, rope_parameters=bare_dict(config))
        is_fixed = on_top is not None and on_top.rope_parameters["rope_theta"] == 77_777
    else:
        is_fixed = False
    if varied(own) != varied(filled) or is_fixed:
        found["rope_parameters"] = varied(own)
    return found


def order_of_sections(embedding):
    """How an embedding divides channel pairs between position axes, by its source."""
    if not hasattr(embedding, "recomposition_frequencies"):
        return None
    source = inspect.getsource(type(embedding).recomposition_frequencies)
    marks = {"freq_hwt": "ernie", "split_sizes": "hunyuan", "offset": "interleaved"}
    return next((order for mark, order in marks.items() if mark in source), "chunked")


def layout_of(matrix):
    """The layout of a rotation by one radian and less, and whether its direction is negative."""
    width, pairs = len(matrix), len(matrix) // 2
    entries = [(i, j) for i in range(width) for j in range(width) if abs(matrix[i, j]) > 1e-12]
    if all(i % pairs == j % pairs for i, j in entries):
        return "half", matrix[pairs, 0] < 0
    if all(i // 2 == j // 2 for i, j in entries):
        return "interleaved", matrix[1, 0] < 0
    assert all(i % pairs == j // 2 for i, j in entries)
    return "interleaved>half", matrix[pairs, 0] < 0


def row(name, config_class, module, kind):
    """The table of one model type."""
    config = config_class()
    with wide(module):
        embedding = kind(config)
    layer = kinds_of_layers(config)[0]
    width = 2 * len(buffer(embedding, layer))
    order = order_of_sections(embedding)
    defaults = static_defaults(config_class) | rope_defaults(config_class, config)
    place = [1]
    if order:
        sizes = list(embedding.mrope_section or [])
        if sizes:
            defaults["mrope_section"] = sizes
        if order != "ernie":
            embedding.mrope_section = [width // 2, 0, 0]
        place = [1, 1, 1]
    with wide(module):
        layout, negative = layout_of(their_matrix(module, config, embedding, place, layer, width))
    interleave_key = bool(defaults.pop("rope_interleave", False))
    layout = "interleaved>half" if interleave_key else layout
    first, _, last = layout.partition(">")
    part = rotates_a_part(name, config_class, module, kind)
    reads, unread = reading(config_class, kind, config)
    reads = sorted({*reads, *READ_ELSEWHERE.get(name, ())})
    if not part and "partial_rotary_factor" in unread:
        unread.remove("partial_rotary_factor")
    latent = defaults.get("qk_rope_head_dim") == width and name != "deepseek_v4"
    defaults.pop("head_dim" if latent else "qk_rope_head_dim", None)
    if LEGACY.get(name) == "windowed" and "rope_theta" in unread:
        unread.append("swa_rope_theta")
    if name in PART:
        defaults["partial_rotary_factor"] = PART[name]
    if name in INTERVAL:
        defaults["no_rope_layer_interval"] = INTERVAL[name]
    ropes = defaults.get("rope_parameters", {})
    without = [key for key in ropes if ropes[key] is None and key.endswith("attention")]
    fields = {
        "layout": first,
        "output_layout": last,
        "interleave_key": interleave_key,
        "sections": order,
        "latent": latent,
        "softmax": "yarn_apply_mscale" in vars(module),
        "trailing": name == "deepseek_v4",
        "partial": part,
        "mscales": "long_mscale" in inspect.getsource(kind),
        "hybrid": is_hybrid(config_class),
        "sliding": SLIDING.get(name),
        "negative": bool(negative),
        "legacy": LEGACY.get(name),
        "only": ONLY.get(name),
        "reads": reads,
        "unread": unread,
        "without_rotary": without,
        "defaults": without_nulls(defaults),
    }
    return {key: value for key, value in fields.items() if value}


def without_nulls(values):
    """Nested keys in order, without those that are null."""
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in sorted(values.items())
        if value is not None
    }


# ------------------------------------------------------------------------------------------------
# The file that the library reads.

FILE = Path(models.__file__).parent / "data" / "models" / "transformers.toml"
HEAD = """\
# What the code of each model type of transformers 5.23.0 does. Written by running it:
# python tests/checkpoints/test_config_oracle.py --write. rotary/checkpoints/models.py explains the fields;
# those that are left out are false or empty, and a base that is left out is 10000.
"""


def toml(value):
    """A value as TOML."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml_key(key)} = {toml(own)}' for key, own in value.items())}}}"
    return json.dumps(value)


def toml_key(key):
    """A key as TOML."""
    return key if re.fullmatch(r"[\w-]+", key) else json.dumps(key)


def lines_of(values, path=""):
    """Nested keys as dotted ones; the rope keys of a kind of layer stay on one line."""
    for key, value in values.items():
        if isinstance(value, dict) and path.count(".") < 2:
            yield from lines_of(value, f"{path}{toml_key(key)}.")
        else:
            yield f"{path}{toml_key(key)} = {toml(value)}"


def list_of(key, values):
    """A list of names as TOML, several on a line."""
    text = ", ".join(json.dumps(value) for value in values)
    wrapped = textwrap.fill(
        text, 110, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
    return f"{key} = [\n{wrapped},\n]"


def expected_file():
    """The file as it must be."""
    rows = dict(BY_HAND)
    with quiet():
        for key, (config_class, module, kind) in families().items():
            if key not in NOT_IN_THE_TABLE:
                rows[key] = row(key, config_class, module, kind)
    without, parts = lists_of_types()
    assert set(without) >= RECURRENT
    blocks = [
        HEAD,
        "# Model types whose code has no rotation.",
        list_of("without_rotary", without) + "\n",
        "# Of these, the ones with layers of several kinds or recurrent ones: they have no rotary, layer by layer.",
        list_of("recurrent", sorted(RECURRENT)) + "\n",
        "# Checkpoints name these; the code that reads them is another model's.",
        "\n".join(["[aliases]", *lines_of(ALIASES)]) + "\n",
        "# The model type of the language model within a configuration, if that part has none of its own.",
        "\n".join(["[parts]", *lines_of(parts)]),
    ]
    blocks += [
        "\n".join([f"\n[models.{toml_key(key)}]", *lines_of(rows[key])]) for key in sorted(rows)
    ]
    return "\n".join(blocks) + "\n"


def is_hybrid(config_class):
    """Whether a class knows layers without attention."""
    return config_class.model_type in HYBRID or bool(
        NO_ATTENTION & set(getattr(config_class(), "layer_types", None) or ())
    )


def test_the_file_describes_the_code_of_every_model():
    assert FILE.read_text(encoding="utf-8") == expected_file()


def every_class():
    """Every configuration class of transformers, with its folder."""
    import transformers
    from transformers.configuration_utils import PreTrainedConfig

    for path in sorted(
        (Path(transformers.__file__).parent / "models").glob("*/configuration_*.py")
    ):
        module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        for config_class in vars(module).values():
            if not (inspect.isclass(config_class) and issubclass(config_class, PreTrainedConfig)):
                continue
            if config_class.__module__ == module.__name__ and config_class.model_type:
                yield config_class, path.parent


ROTATES = re.compile(
    r"^\s*(class \w*(Rotary|Rope|RoPE)\w*\b|def \w*(apply_rot|rotate_|rotary)\w*)", re.MULTILINE
)


def lists_of_types():
    """The model types without rotation, and those of parts."""
    without, parts = set(), {}
    with quiet():
        for config_class, folder in every_class():
            name = config_class.model_type
            within = set(config_class.sub_configs or ()) - {"attn_config"}
            inner = within & set(key_names.LANGUAGE_PARTS)
            if inner:
                made_of = made(config_class)
                part = getattr(made_of, inner.pop(), None)
                if part is not None:
                    parts[name] = part.model_type
            code = [path.read_text(encoding="utf-8") for path in folder.glob("modeling_*.py")]
            if (
                name not in families()
                and not within
                and not getattr(
                    config_class, "has_no_defaults_at_init", False
                )  # it is made of other configurations
                and code
                and (name in NEVER_CALLED or not any(ROTATES.search(text) for text in code))
            ):
                without.add(name)
    pairs = {name: parts[name] for name in sorted(parts) if name != parts[name]}
    return sorted(without), pairs


# ------------------------------------------------------------------------------------------------
# Every configuration class, with its own defaults.


def test_every_configuration_class_gives_the_frequencies_and_the_rotation_of_its_model():
    agreed, otherwise = [], {}
    with quiet():
        for name, (config_class, module, kind) in families().items():
            if name in NOT_IN_THE_TABLE:
                continue
            config = config_class()
            for layer in kinds_of_layers(config):
                try:
                    compare(config, module, kind, layer)
                    agreed.append((name, layer))
                except Exception as error:  # noqa: BLE001  (the assertion below shows all of them)
                    otherwise[name] = f"{layer}: {type(error).__name__}: {error}"
    assert otherwise.keys() == EXPLAINED.keys(), "\n".join(
        f"{name}: {text}" for name, text in otherwise.items() if name not in EXPLAINED
    )
    assert len(agreed) >= 190


def compare(config, module, kind, layer, ours=None):
    """Check one kind of layer of one configuration, in their precision and in float64."""
    rope = from_config(config, layer_type=layer) if ours is None else ours
    assert rope is not None, "no rotary"
    with wide(module):
        embedding = kind(config)
        if layer and not hasattr(embedding, f"{layer}_inv_freq"):
            return  # a kind of layer this configuration has none of
        theirs = buffer(embedding, layer).numpy()
        assert theirs.dtype == np.float64
        values = rope.inv_freq if rope.scaling.needs_base else np.abs(rope.inv_freq)
        if order_of_sections(embedding) == "ernie":
            values, theirs = np.sort(values), np.sort(theirs)  # theirs are in the order of axes
        np.testing.assert_allclose(values, theirs, rtol=1e-13, atol=0)
        np.testing.assert_array_max_ulp(
            values.astype(np.float32), theirs.astype(np.float32), maxulp=1
        )
        factor = buffer(embedding, layer, "attention_scaling")
        assert rope.attention_factor == pytest.approx(factor, rel=1e-14)
        place = [3] if rope.sections is None else [3, 5, 7, 11][: max(rope.sections.axes) + 1]
        turned = slice(rope.rotary_start, rope.rotary_start + rope.rotary_dim)
        width = rope.rotary_dim
        theirs = their_matrix(module, config, embedding, place, layer, width)
        if rope.quirk is None:
            ours = rope.matrix(place[0] if rope.sections is None else place)
            np.testing.assert_allclose(ours[turned, turned], theirs, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------
# Published configurations, in their own words.


def their_config(keys):
    """The configuration object transformers makes of a published dict."""
    from transformers import CONFIG_MAPPING

    inner = {key: value for key, value in keys.items() if key != "model_type"}
    return CONFIG_MAPPING[keys["model_type"]](**json.loads(json.dumps(inner)))


READ_BY_THEM = [
    name
    for name, (keys, *_) in PUBLISHED.items()
    if keys.get("model_type") in models.facts("transformers.toml")["models"]
    and keys["model_type"] not in BY_HAND
    # Of "su" transformers 5 makes "longrope" too late for the length on top, and refuses its own reading.
    and (keys.get("rope_scaling") or {}).get("type") != "su"
]


@pytest.mark.parametrize("name", READ_BY_THEM)
def test_published_configurations_are_read_as_transformers_reads_them(name):
    keys, layer, *_ = PUBLISHED[name]
    rope = from_config(keys, layer_type=layer)
    with quiet():
        config = their_config(keys)
        _, module, kind = families()[keys["model_type"]]
        longrope = isinstance(rope.scaling, rotary.scaling.LongRope)
        if longrope:  # theirs begin with the short factors, and change as they run
            rope = rope.at_length(rope.scaling.original_max_position)
        compare(config, module, kind, layer, rope)


FACTOR = st.sampled_from([1.0, 2.0, 4.0, 8.0, 32.0]) | st.floats(1.0, 64.0)
SCALED = st.one_of(
    st.fixed_dictionaries({"rope_type": st.just("linear"), "factor": FACTOR}),
    st.fixed_dictionaries({"rope_type": st.just("dynamic"), "factor": FACTOR}),
    st.fixed_dictionaries(
        {
            "rope_type": st.just("llama3"),
            "factor": FACTOR,
            "low_freq_factor": st.just(1.0),
            "high_freq_factor": st.sampled_from([2.0, 4.0]),
            "original_max_position_embeddings": st.sampled_from([4096, 8192]),
        }
    ),
    st.fixed_dictionaries(
        {
            "rope_type": st.just("yarn"),
            "factor": FACTOR,
            "original_max_position_embeddings": st.sampled_from([4096, 32_768]),
        },
        optional={
            "attention_factor": st.floats(0.5, 2.0),
            "mscale": st.floats(0.0, 2.0),
            "mscale_all_dim": st.floats(0.0, 2.0),
            "beta_fast": st.sampled_from([16.0, 32.0]),
            "truncate": st.booleans(),
        },
    ),
)


@settings(deadline=None, max_examples=60)
@given(
    scaled=SCALED,
    base=st.sampled_from([1e4, 5e5, 1e6]),
    legacy=st.booleans(),
    within=st.booleans(),
    head_dim=st.sampled_from([64, 80, 128]),
    model_type=st.sampled_from(["llama", "qwen2", "cohere", "glm", "stablelm"]),
)
def test_any_configuration_is_read_as_transformers_reads_it(
    scaled, base, legacy, within, head_dim, model_type
):
    keys = {
        "model_type": model_type,
        "head_dim": head_dim,
        "hidden_size": 8 * head_dim,
        "num_attention_heads": 8,
        "max_position_embeddings": 65_536,
    }
    if within:
        scaled = scaled | {"rope_theta": base}
    else:
        keys["rope_theta"] = base
    keys["rope_scaling" if legacy else "rope_parameters"] = scaled
    with quiet():
        config = their_config(keys)
        _, module, kind = families()[model_type]
        compare(config, module, kind, None, from_config(keys))


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    FILE.write_text(expected_file(), encoding="utf-8")
