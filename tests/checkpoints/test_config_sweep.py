"""Every model type of transformers with every rope key: the numbers of its own code, or a refusal."""

from __future__ import annotations

import collections
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from test_config_oracle import (
    buffer,
    families,
    kinds_of_layers,
    order_of_sections,
    quiet,
    wide,
)

from rotary import ConfigError, from_config
from rotary.checkpoints import models
from rotary.checkpoints.key_names import WIDTHS

pytestmark = pytest.mark.oracle

FACTORS = {"short_factor": 1.5, "long_factor": 3.0}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
L0 = {"original_max_position_embeddings": 1024}
# Rope dicts by their purpose; a number of longrope becomes a list of that number, one for each pair.
DICTS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "proportional": {"rope_type": "proportional"},
    "proportional, factor": {"rope_type": "proportional", "factor": 2.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, **LLAMA3, **L0},
    "llama3, no length": {"rope_type": "llama3", "factor": 8.0, **LLAMA3},
    "yarn": {"rope_type": "yarn", "factor": 4.0, **L0},
    "yarn, no length": {"rope_type": "yarn", "factor": 4.0},
    "yarn, attention factor": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3, **L0},
    "yarn, mscales": {
        "rope_type": "yarn",
        "factor": 4.0,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
        **L0,
    },
    "yarn, one mscale": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, **L0},
    "yarn, betas": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "beta_slow": 2, **L0},
    "yarn, not truncated": {"rope_type": "yarn", "factor": 4.0, "truncate": False, **L0},
    "yarn, attn_factor": {"rope_type": "yarn", "factor": 4.0, "attn_factor": 1.3, **L0},
    "longrope": {"rope_type": "longrope", **FACTORS, **L0},
    "longrope, factor": {"rope_type": "longrope", "factor": 32.0, **FACTORS, **L0},
    "longrope, attention factor": {
        "rope_type": "longrope",
        "attention_factor": 1.3,
        **FACTORS,
        **L0,
    },
    "longrope, mscales": {
        "rope_type": "longrope",
        "short_mscale": 1.1,
        "long_mscale": 1.2,
        **FACTORS,
        **L0,
    },
    "longrope, no length": {"rope_type": "longrope", "factor": 32.0, **FACTORS},
}
BASES = (
    *("rope_theta", "rotary_emb_base", "rotary_embedding_base", "rope_embedding_base"),
    *("rope_freq_constant", "rope_local_base_freq", "global_rope_theta", "local_rope_theta"),
    *("compress_rope_theta", "swa_rope_theta"),
)
PARTS = (
    *("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent", "rotary_percent"),
    "rotary_emb_fraction",
)
# One key on top each.
ON_TOP = {
    **{f"top, {key}": {key: 77_777.0} for key in BASES},
    **{f"top, {key} 0.25": {key: 0.25} for key in PARTS},
    **{f"top, {key} 1.0": {key: 1.0} for key in PARTS[:2]},
    **{f"top, rotary_dim {width}": {"rotary_dim": width} for width in (16, 64)},
    **{f"top, {key} 48": {key: 48} for key in WIDTHS},
    "top, head_dim 64": {"head_dim": 64},
    "top, original length": L0,
    "top, max length": {"max_position_embeddings": 777},
}
# Defaults that transformers chooses in silence, or keys that it ignores; from_config refuses them for every model type.
STRICT = {
    "yarn, no length": "must be given for the rope type",
    "llama3, no length": "must be given for the rope type",
    "longrope, no length": "must be given for the rope type",
    "yarn, attn_factor": "does not read it",
    "longrope, mscales": "does not read it",
    "yarn, not truncated": "reads the key only at the top level",
}


def variations(nested):
    """Name to a function of the kinds of layers that gives the keys."""
    found = {"nothing": {}}
    for name, values in DICTS.items():
        for part in (None,) if ", " in name else (None, 0.5):
            own = values if part is None else values | {"partial_rotary_factor": part}
            about = name if part is None else f"{name}, part {part}"
            found[about] = {"rope_parameters": own | {"rope_theta": 50_000.0}}
            if not nested and (part is None or name in ("default", "yarn")):
                found[f"{about}, base on top"] = {"rope_parameters": own, "rope_theta": 50_000.0}
                old = {"type" if key == "rope_type" else key: value for key, value in own.items()}
                found[f"{about}, old"] = {"rope_scaling": old, "rope_theta": 50_000.0}
    if not nested:
        both = {key: value for key, value in DICTS["yarn"].items() if key not in L0}
        found["default, part 1.0"] = {
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}
        }
        found["yarn, length on top"] = {"rope_parameters": both, "rope_theta": 5e4, **L0}
        found["default, part on top"] = {
            "rope_parameters": {"rope_type": "default"},
            "partial_rotary_factor": 0.5,
        }
    return found | ON_TOP


DROPPED = (
    *("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "per_layer_config"),
    *("transformers_version", "rotary_dim", "global_head_dim", "layer_rope_theta"),
)
# Geometry for classes whose own defaults their code cannot run, or from_config refuses.
GEOMETRY = {
    "glm4_moe": {"head_dim": 128},
    "glm4v_moe_text": {"head_dim": 128},
    "qwen3_omni_moe_text": {"head_dim": 128},
    "qwen3_omni_moe_talker_text": {"head_dim": 128},
    "granitemoehybrid": {"position_embedding_type": "rope"},
}


def published(config):
    """A configuration as a checkpoint has it, without rope keys."""
    return {
        key: value
        for key, value in json.loads(json.dumps(config.to_dict(), default=str)).items()
        if key not in DROPPED and value is not None
    }


def filled(keys, kinds, width):
    """Keys with a rope dict for every kind of layer, and lists as long as there are pairs."""
    keys = json.loads(json.dumps(keys))
    for name in ("rope_parameters", "rope_scaling"):
        if name in keys:
            part = keys[name].get("partial_rotary_factor", keys.get("partial_rotary_factor", 1.0))
            for factor in FACTORS.keys() & keys[name].keys():
                keys[name][factor] = [
                    keys[name][factor] + 0.01 * i for i in range(int(width * part) // 2)
                ]
            if kinds != [None]:
                keys[name] = {kind: dict(keys[name]) for kind in kinds}
    return keys


def width_of_heads(config, kind, row):
    """The channels that a model of this configuration hands to its rotation."""
    if row.latent:
        return config.qk_rope_head_dim
    if kind is not None and config.is_heterogeneous:
        config = config.per_layer_config[kind]
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def theirs(name, keys):
    """Kind of layer to frequencies, factor and width of heads; or why there are none."""
    config_class, module, kind = families()[name]
    row = models.known_model(name)
    keys = json.loads(json.dumps(keys))
    try:
        config = config_class(**{key: value for key, value in keys.items() if key != "model_type"})
        with wide(module):
            embedding = kind(config)
        found = {}
        for layer in kinds_of_layers(config):
            if config.rope_parameters.get(layer, embedding) is None:
                found[layer] = None
            elif hasattr(embedding, f"{layer}_inv_freq" if layer else "inv_freq"):
                values = buffer(embedding, layer).double().numpy()
                if order_of_sections(embedding) == "ernie":
                    values = np.sort(values)[::-1]
                factor = float(buffer(embedding, layer, "attention_scaling"))
                heads = width_of_heads(config, layer, row)
                if row.trailing and "attention_factor" not in config.rope_parameters[layer]:
                    factor = 1.0  # it does not multiply its tables
                if (
                    row.mscales
                ):  # its tables have the factor of the length, whatever the embedding says
                    factor = config.rope_parameters.get("short_mscale", factor)
                width = 2 * len(values)
                sections = getattr(embedding, "mrope_section", None)
                if width != heads and not (row.partial and width <= heads):
                    found[layer] = f"tables for {width} of {heads} channels"
                elif sections and 2 * sum(sections) != width:
                    found[layer] = f"sections for {2 * sum(sections)} of {width} channels"
                else:
                    found[layer] = values, factor, heads
    except Exception as error:  # noqa: BLE001  (its refusals are not compared)
        return f"{type(error).__name__}: {error}"
    return found


def is_same(rope, their):
    """Whether an embedding has the numbers of transformers."""
    if rope is None or their is None:
        return rope is their
    values, factor, heads = their
    if rope.scaling.needs_length:  # theirs begin with the short ones
        rope = rope.at_length(min(1024, rope.context_length or 1024))
    own = rope.inv_freq if rope.scaling.needs_base else np.abs(rope.inv_freq)
    return (
        rope.rotary_dim == 2 * len(values)
        and rope.head_dim == heads
        and np.allclose(own, values, rtol=1e-12, atol=0)
        and abs(rope.attention_factor - factor) < 1e-12
    )


def types():
    """The model types that are known, of those that this release has."""
    return [name for name in families() if models.known_model(name) is not None]


def sweep(name, count, wrong):
    """Compare every variation of one model type, and note the differences."""
    config = families()[name][0]()
    kinds = kinds_of_layers(config)
    base = {"model_type": name, **published(config)} | GEOMETRY.get(name, {})
    with quiet():
        usual = theirs(name, base)
        numbers = [] if isinstance(usual, str) else [own for own in usual.values() if own]
        width = next((own[2] for own in numbers if not isinstance(own, str)), 64)
        for about, more in variations(kinds != [None]).items():
            keys = base | filled(more, kinds, width)
            their = theirs(name, keys)
            for layer in kinds if isinstance(their, str) else their:
                own = their if isinstance(their, str) else their[layer]
                word, detail = judged(about, keys, layer, own)
                if (word.isupper() and (name, about) in EXCEPTED) or (name, word) in EXCEPTED:
                    word = "excepted"
                count[word] += 1
                if word.isupper():
                    wrong.append(f"{name} [{layer}] {about}: {word}: {detail}")


# What is read otherwise, or not refused, and why.
EXCEPTED = {
    (
        "mimo_v2_flash",
        "top, swa_head_dim 48",
    ): "its published code reads it, its weights are so wide",
    (
        "mistral4",
        "NOT REFUSED",
    ): "without YaRN its code makes tables wider than what it rotates, and fails",
}

# The words of refusals of keys that contradict each other or that no head is wide enough for.
REFUSALS = (
    "is not read by the code of",
    "must not contradict each other",
    "must give an even number of rotated channels",
    "must be at most head_dim",
    "must agree with qk_rope_head_dim",
    "has a different base for each kind, got only `rope_theta`",
)


# The words of refusals of keys that the code of a model does not read.
UNREAD = ("is not read by the code of", "does not read it and uses")


def judged(about, keys, layer, their):
    """The result of one comparison, in capitals if it is a fault, and the details."""
    length = 1024 if about.startswith("longrope") else None
    try:
        rope = from_config(keys, layer_type=layer, context_length=length)
    except ConfigError as error:
        said = str(error)
        if isinstance(their, str):
            return "both refuse", said
        named = set(re.findall(r"[`.](\w+)`", said)) & {*keys, *keys.get("rope_parameters", ())}
        if any(about.startswith(start) and text in said for start, text in STRICT.items()):
            return "refused, because projects disagree", said
        if named and any(words in said for words in UNREAD):
            return "refused, because it is not read", said
        if any(text in said for text in REFUSALS):
            return "refused, because keys contradict each other", said
        return "REFUSED", said
    if isinstance(their, str):
        unfit = their.startswith(("tables", "sections"))
        return ("NOT REFUSED", f"{their}, ours {rope!r}") if unfit else ("they refuse", their)
    same = is_same(rope, their)
    return ("same", "") if same else ("DIFFERENT", f"ours {rope!r}, theirs {shown(their)}")


def test_a_model_type_of_transformers_that_is_not_known_is_refused():
    unknown = [name for name in families() if models.known_model(name) is None]
    assert unknown
    for name in unknown:
        keys = {"model_type": name, "head_dim": 64, "rope_theta": 1e4, "use_mem_rope": True}
        with pytest.raises(ConfigError, match="`layout` must be given"):
            from_config(keys)


def shown(their):
    if their is None:
        return "none"
    values, factor, heads = their
    return f"{2 * len(values)} of {heads} channels, last {values[-1]:.9g}, factor {factor:.9g}"


def test_every_key_of_every_model_type_is_read_as_its_code_reads_it_or_refused():
    count, wrong = collections.Counter(), []
    for name in types():
        sweep(name, count, wrong)
    assert len(types()) >= 185
    assert count["same"] >= 8_000
    assert not wrong, f"{len(wrong)} of {sum(count.values())}\n" + "\n".join(wrong[:200])


# ------------------------------------------------------------------------------------------------
# Which layers rotate, with which frequencies, in running models of the smallest size with random weights.

SMALL = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 64),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_heads", "n_head"), 4),
    "num_hidden_layers": 8,
    "hidden_size": 64,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FUNCTIONS = ("apply_rotary_pos_emb", "apply_rotary_emb", "apply_rotary_pos_emb_interleave")
# Keys with which classes whose own defaults have no layers of a kind get some.
KINDS = {
    "bamba": {"attn_layer_indices": [2, 5]},
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"] * 4,
        "position_embedding_type": "rope",
    },
    "lfm2": {"full_attn_idxs": [2, 5], "layer_types": None},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 4},
    "mllama_text_model": {"cross_attention_layers": [3]},
}
HAS_KINDS = re.compile(
    "layer_types|layers_block_type|no_rope|cross_attention_layers|layer_rope_theta|attn_layer"
)


def layers_that_rotate(name):
    """The configuration of a small model, and for each layer that rotates the cosines of its last token."""
    import torch

    config_class, module, _ = families()[name]
    keys = {key: value for key, value in SMALL.items() if key in config_class.__dataclass_fields__}
    config = config_class(**keys | KINDS.get(name, {}))
    made_of = [
        model
        for word, model in vars(module).items()
        if re.search("(?<!PreTrained)Model$", word)
        and getattr(model, "config_class", None) is config_class
    ]
    with torch.device("meta"):
        count = sum(own.numel() for own in made_of[0](config).parameters())
    if count > 20_000_000:
        msg = "large"
        raise RuntimeError(msg)
    model, found = made_of[0](config).float().eval(), {}

    def watched(function):
        def call(*arguments, **more):
            frame = sys._getframe(1)
            while frame is not None and not hasattr(frame.f_locals.get("self"), "layer_idx"):
                frame = frame.f_back
            if frame is not None:
                cos = next((own for own in arguments[1:] if own.shape[:-1] == (1, 4)), None)
                cos = None if cos is None or cos.is_complex() else cos[0, -1].numpy()
                found[frame.f_locals["self"].layer_idx] = cos
            return function(*arguments, **more)

        return call

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for word in FUNCTIONS:
            if hasattr(module, word):
                patch.setattr(module, word, watched(getattr(module, word)))
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), use_cache=False)
    return config, found


def test_every_layer_of_every_model_that_runs_rotates_as_its_configuration_says():
    agreed, wrong, idle = 0, [], {}
    with quiet():
        for name in types():
            _, module, _ = families()[name]
            if not HAS_KINDS.search(Path(module.__file__).read_text(encoding="utf-8")):
                continue
            try:
                config, found = layers_that_rotate(name)
            except Exception as error:  # noqa: BLE001  (of 90 models, some need images or more memory)
                idle[name] = f"{type(error).__name__}: {error}"[:80]
                continue
            if not found and name not in KINDS:
                idle[name] = "rotates elsewhere"
                continue
            keys = {"model_type": name, **json.loads(json.dumps(config.to_dict(), default=str))}
            if models.known_model(name).sections:
                idle[name] = "its sections are for wider heads"
                continue
            if "rotary_dim" not in models.known_model(name).reads:
                keys.pop("rotary_dim", None)  # MiniMax-M3 has one that its code does not read
            for layer in range(config.num_hidden_layers):
                try:
                    rope = from_config(keys, layer_type=layer)
                except (ConfigError, ValueError) as error:
                    wrong.append(f"{name} {layer}: {error}")
                    continue
                if (rope is not None) != (layer in found):
                    wrong.append(f"{name} {layer}: ours {rope!r}, theirs {layer in found}")
                elif rope is None or found[layer] is None:
                    agreed += 1
                else:
                    axes = 0 if rope.sections is None else max(rope.sections.axes) + 1
                    cos = rope.tables([[3]] * axes if axes else [3])[0][0]
                    theirs_sorted = np.sort(found[layer])[:: len(found[layer]) // len(cos)]
                    if np.allclose(np.sort(cos), theirs_sorted, atol=1e-5):
                        agreed += 1
                    else:
                        wrong.append(f"{name} {layer}: other angles, {rope!r}")
    assert not wrong, "\n".join(wrong)
    assert agreed >= 300, idle
