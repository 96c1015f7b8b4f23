"""Configurations: published ones in old and new form, the dialects, and every refusal."""

from __future__ import annotations

import copy
import json
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
from cases import case
from hypothesis import given, settings
from hypothesis import strategies as st
from published import PUBLISHED

from rotary import ConfigError, scaling, sections
from rotary.checkpoints.compare import compare_dialects
from rotary.checkpoints.config import from_config
from rotary.checkpoints.dialects import DIALECTS
from rotary.checkpoints.models import known_model, known_model_types
from rotary.scaling import NTK, Default, DynamicNTK, Linear, Llama3


def geometry(model_type, hidden, heads, length, **more):
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "max_position_embeddings": length,
        **more,
    }


def llama3(factor):
    return {
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


GPT_OSS = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def to_version_5(keys):
    """The same configuration in the form transformers 5 writes."""
    keys = copy.deepcopy(keys)
    rope = keys.pop("rope_scaling", None) or {}
    if "rope_type" not in rope:
        kind = rope.pop("type", "default")
        rope["rope_type"] = {"su": "longrope", "mrope": "default"}.get(kind, kind)
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if name in keys:
            rope[name] = keys.pop(name)
    return keys | {"rope_parameters": rope}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name):
    keys, layer_type, expected = PUBLISHED[name]
    before = copy.deepcopy(keys)
    assert from_config(keys, layer_type=layer_type) == expected
    assert keys == before


FLAT = [
    name
    for name, (keys, layer_type, _) in PUBLISHED.items()
    if layer_type is None and "rotary_emb_base" not in keys and "rope_parameters" not in keys
]


def test_both_forms_of_a_configuration_give_the_same_embedding():
    for name in FLAT:
        with case(name):
            keys, _, expected = PUBLISHED[name]
            assert from_config(to_version_5(keys)) == expected


def test_a_configuration_comes_from_a_path_a_folder_a_mapping_and_an_object(tmp_path):
    keys, _, expected = PUBLISHED["deepseek-v3"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(keys), encoding="utf-8")
    whole = SimpleNamespace(to_dict=lambda: keys)
    for config in (path, str(path), tmp_path, str(tmp_path), keys, whole):
        assert from_config(config) == expected


@pytest.mark.parametrize("config", [None, 3, ["a"], dict, SimpleNamespace()])
def test_other_objects_than_configurations_are_refused(config):
    with pytest.raises(TypeError, match="`config` must be a path, a mapping"):
        from_config(config)


def test_a_path_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        from_config("meta-llama/Llama-3.1-8B")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        from_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "must be a JSON file"),
        ("[1]", "must be a JSON object"),
        ('{"head_dim": 64, "head_dim": 32}', "`head_dim` must occur once"),
        (
            '{"model_type": "llama", "head_dim": 64, "rope_theta": NaN}',
            "`rope_theta` must be finite",
        ),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, words):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        from_config(path)


# ------------------------------------------------------------------------------------------------
# Layers and parts.

MANY = {
    "model_type": "gemma3_text",
    "head_dim": 64,
    "layer_types": ["sliding_attention", "full_attention", "conv"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "conv": None,
    },
}


def test_a_layer_is_given_by_kind_or_by_index():
    assert from_config(MANY, layer_type="full_attention").scaling == Linear(8)
    assert from_config(MANY, layer_type="full_attention") == from_config(MANY, layer_type=1)
    assert from_config(MANY, layer_type=0).base == 1e4


def test_a_layer_without_rotary_is_none():
    assert from_config(MANY, layer_type="conv") is None
    assert from_config(MANY, layer_type=2) is None
    cohere2 = PUBLISHED["command-r7b"][0]
    assert from_config(cohere2, layer_type="full_attention") is None
    smollm3 = PUBLISHED["smollm3-3b"][0]
    assert from_config(smollm3, layer_type=3) is None
    assert from_config(smollm3, layer_type=2) is not None
    assert from_config(smollm3 | {"no_rope_layers": [0, 0]}) is None
    llama4 = PUBLISHED["llama-4-scout, text"][0]
    assert [from_config(llama4, layer_type=i) is None for i in range(5)] == [0, 0, 0, 1, 0]
    every_second = llama4 | {"no_rope_layer_interval": 2}
    assert from_config(every_second, layer_type=1) is None


def test_layers_without_a_window_have_rotary_if_no_layer_has_a_window():
    keys = geometry(
        "exaone4", 2048, 32, 65_536, layer_types=["sliding_attention", "full_attention"]
    )
    assert from_config(keys | {"sliding_window": 4096}, layer_type="full_attention") is None
    assert from_config(keys, layer_type=1) is None
    assert from_config(keys, layer_type=0) is not None
    assert from_config(keys | {"sliding_window": None}, layer_type="full_attention") is not None


def test_only_listed_layers_are_scaled():
    keys = geometry("molmo2_text", 4096, 32, 4096, head_dim=128, num_hidden_layers=3)
    keys |= {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_scaling_layers": [0, 2]}
    assert from_config(keys, layer_type=2).scaling == Linear(2)
    assert from_config(keys, layer_type=1).scaling == Default()
    with pytest.raises(ConfigError, match="lists the layers with scaling"):
        from_config(keys)
    assert from_config(keys | {"rope_scaling_layers": [0, 1, 2]}).scaling == Linear(2)
    with pytest.raises(ConfigError, match="must be a list of layer indices"):
        from_config(keys | {"rope_scaling_layers": "all"})


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("wav2vec2-conformer", {"position_embeddings_type": "relative"}),
        ("wav2vec2-conformer", {}),
        ("esm", {"position_embedding_type": "absolute"}),
        ("granitemoehybrid", {"position_embedding_type": "nope"}),
        ("falcon", {"alibi": True}),
    ],
)
def test_a_model_without_rotary_is_none(model_type, keys):
    assert from_config(geometry(model_type, 1024, 16, 2048, **keys)) is None


def test_a_base_for_each_layer_needs_the_index_of_a_layer():
    keys = geometry("granite_swa", 1024, 16, 2048, layer_rope_theta=[1e4, 0, 1e6])
    assert from_config(keys, layer_type=2).base == 1e6
    assert from_config(keys, layer_type=1) is None
    with pytest.raises(ConfigError, match="must be the index of a layer"):
        from_config(keys)
    with pytest.raises(ConfigError, match="entry for layer"):
        from_config(keys, layer_type=7)
    same = keys | {"layer_rope_theta": [1e5, 1e5]}
    assert from_config(same).base == 1e5
    with pytest.raises(ConfigError, match="must be a list with a base"):
        from_config(keys | {"layer_rope_theta": 3})


@pytest.mark.parametrize(
    ("keys", "layer_type", "error", "words"),
    [
        (MANY, None, ConfigError, "`layer_type` must be given"),
        (MANY, "global", ValueError, "must be one of 'conv', 'full_attention'"),
        (MANY, 3, ValueError, "index of a layer, below 3"),
        (MANY, -1, ValueError, "from 0 to"),
        (MANY, 1.5, TypeError, "`layer_type` must be an integer"),
        (PUBLISHED["gemma-3-1b, local"][0], None, ConfigError, "`layer_type` must be given"),
        (PUBLISHED["llama-2-7b"][0], "conv", ValueError, "`layer_type` must be one of"),
        (
            PUBLISHED["llama-2-7b"][0] | {"layer_types": ["conv", "full_attention"]},
            "conv",
            ConfigError,
            "does not show whether",
        ),
        (
            MANY | {"layer_types": ["sliding_attention", "mamba"]},
            "mamba",
            ConfigError,
            "write their rope keys, or null",
        ),
        (MANY | {"layer_types": "all"}, 0, ConfigError, "must be a list of names"),
        (
            MANY | {"rope_parameters": MANY["rope_parameters"] | {"rope_theta": 1e4}},
            0,
            ConfigError,
            "must be inside the object of a kind of layer",
        ),
        (
            PUBLISHED["gemma-4, text, global"][0]
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            "full_attention",
            ConfigError,
            "must have an object for each kind of layer",
        ),
        (
            {"model_type": "laguna", "rope_theta": 1e4},
            "full_attention",
            ConfigError,
            "has a different base for each kind, got only `rope_theta`",
        ),
        (
            PUBLISHED["smollm3-3b"][0] | {"no_rope_layers": [2]},
            None,
            ConfigError,
            "list with 1 for each layer that has rotary",
        ),
        (
            PUBLISHED["smollm3-3b"][0] | {"num_hidden_layers": None},
            9,
            ConfigError,
            "entry for layer",
        ),
    ],
)
def test_an_unclear_layer_is_refused(keys, layer_type, error, words):
    with pytest.raises(error, match=words):
        from_config(keys, layer_type=layer_type)


def test_equal_layers_need_no_layer_type():
    same = {"rope_type": "default", "rope_theta": 1e4}
    keys = MANY | {"rope_parameters": {"full_attention": same, "sliding_attention": dict(same)}}
    assert from_config(keys).base == 1e4


def test_older_forms_with_a_base_for_each_kind_apply_to_unknown_models():
    keys = {"head_dim": 64, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    assert from_config(keys, layout="half", layer_type="full_attention").base == 1e6
    assert from_config(keys, layout="half", layer_type="sliding_attention").base == 1e4
    keys = {"head_dim": 64, "global_rope_theta": 1e6}
    with pytest.raises(ConfigError, match="`local_rope_theta` must be given"):
        from_config(keys, layout="half", layer_type="sliding_attention")


def test_width_of_a_kind_of_layer():
    keys = copy.deepcopy(PUBLISHED["gemma-4, text, global"][0])
    assert from_config(keys, layer_type="sliding_attention").head_dim == 256
    del keys["per_layer_config"]
    keys["global_head_dim"] = 512
    assert from_config(keys, layer_type="full_attention").head_dim == 512
    assert from_config(keys, layer_type="sliding_attention").head_dim == 256
    keys["layer_types"] = ["full_attention", "full_attention"]
    keys["per_layer_config"] = {"00": {"head_dim": 128}, "01": {"head_dim": 64}}
    with pytest.raises(ConfigError, match="different values of head_dim"):
        from_config(keys, layer_type="full_attention")
    assert from_config(keys, layer_type=1).head_dim == 64


def test_the_language_model_of_several_parts_is_read():
    keys, layer_type, expected = PUBLISHED["gemma-3-4b, text, global"]
    whole = {
        "model_type": "gemma3",
        "text_config": keys,
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152},
    }
    rope = from_config(whole, layer_type=layer_type)
    assert rope == expected
    assert "given: text_config.rope_scaling.factor" in rope.explain()


def test_a_part_and_the_whole_must_not_contradict_each_other():
    text = PUBLISHED["qwen2-vl-7b"][0] | {"model_type": "qwen2_vl_text", "vision_config": None}
    whole = {"model_type": "qwen2_vl", "rope_theta": 1e6, "text_config": text}
    assert from_config(whole) == from_config(text)
    with pytest.raises(ConfigError, match=r"`rope_theta` must equal `text_config\.rope_theta`"):
        from_config(whole | {"rope_theta": 5e5})


def test_several_parts_without_a_text_config_are_refused():
    text = PUBLISHED["qwen3-vl-8b, text"][0]
    whole = {
        "model_type": "qwen3_omni_moe",
        "thinker_config": {"text_config": text},
        "talker_config": {"text_config": text},
    }
    with pytest.raises(ConfigError, match=r"config\['thinker_config'\], config\['talker_config'\]"):
        from_config(whole)
    assert from_config(whole["thinker_config"]) == from_config(text)


def test_a_model_type_may_have_a_default_schedule():
    rope = from_config(geometry("apertus", 4096, 32, 65_536))
    assert rope.scaling == Llama3(8, 1, 4, 8192)
    origin = "the default of apertus in transformers 5.23.0: rope_parameters.factor"
    assert origin in rope.explain()
    keys = {"model_type": "laguna", "head_dim": 128}
    rope = from_config(keys, layer_type="full_attention")
    assert (rope.base, rope.rotary_dim) == (5e5, 64)
    assert "the default of laguna" in rope.explain()


def test_both_names_of_a_rope_dict_may_agree():
    rope = {"rope_type": "linear", "factor": 2.0}
    old = {"type": "linear", "factor": 2.0, "rope_theta": None}
    assert from_config(LLAMA | {"rope_parameters": rope, "rope_scaling": old}) == from_config(
        LLAMA | {"rope_scaling": rope}
    )
    whole = SimpleNamespace(to_dict=lambda: rope)
    assert from_config(LLAMA | {"rope_parameters": whole}).scaling == Linear(2)


# ------------------------------------------------------------------------------------------------
# Layouts.


def test_an_unknown_model_type_needs_a_layout():
    keys = geometry("lama", 4096, 32, 4096, rope_theta=1e4)
    with pytest.raises(ConfigError, match=r"`layout` must be given.*did you mean `llama`\?"):
        from_config(keys)
    with pytest.raises(ConfigError, match="the configuration has none"):
        from_config({"head_dim": 64, "rope_theta": 1e4})
    rope = from_config(keys, layout="interleaved")
    assert rope.layout == rope.output_layout == "interleaved"
    with pytest.raises(ConfigError, match="`rope_theta` must be given"):
        from_config(geometry("lama", 4096, 32, 4096), layout="half")


def test_a_given_layout_replaces_the_known_one_and_explain_shows_both():
    keys = PUBLISHED["llama-2-7b"][0]
    rope = from_config(keys, layout="interleaved")
    assert rope.layout == "interleaved"
    assert "given: layout, although llama in transformers 5.23.0 has half" in rope.explain()
    deepseek = PUBLISHED["deepseek-v3"][0]
    assert from_config(deepseek, layout="half").output_layout == "half"
    assert from_config(deepseek, layout="interleaved") == from_config(deepseek)
    with pytest.raises(ValueError, match="`layout`"):
        from_config(keys, layout="neox")


def test_a_key_decides_whether_deepseek_interleaves():
    keys = PUBLISHED["deepseek-v3"][0]
    assert from_config(keys | {"rope_interleave": False}).layout == "half"
    assert from_config(keys | {"rope_interleave": True}) == from_config(keys)
    with pytest.raises(ConfigError, match="`rope_interleave` must be True or False"):
        from_config(keys | {"rope_interleave": "yes"})


def test_nanochat_rotates_in_the_opposite_direction():
    keys = geometry("nanochat", 768, 6, 2048)
    plain = from_config(geometry("llama", 768, 6, 2048))
    np.testing.assert_array_equal(from_config(keys).inv_freq, -plain.inv_freq)


def test_deepseek_v4_rotates_the_last_channels():
    keys = geometry("deepseek_v4", 4096, 64, 65_536, qk_rope_head_dim=64)
    rope = from_config(keys, layer_type="compress")
    assert (rope.head_dim, rope.rotary_start, rope.rotary_dim, rope.base) == (512, 448, 64, 160_000)


def test_every_known_model_type_can_be_looked_up():
    for name in known_model_types():
        row = known_model(name)
        assert row.layout in ("half", "interleaved")
        assert row.output_layout in ("half", row.layout)
        assert row.sections in (None, "chunked", "interleaved", "ernie", "hunyuan")
    assert len(known_model_types()) > 190
    assert known_model("nothing") is None
    assert known_model(None) is None


# ------------------------------------------------------------------------------------------------
# What is refused.

LLAMA = geometry("llama", 4096, 32, 131_072, rope_theta=10_000.0)


def with_rope(**rope):
    return LLAMA | {"rope_scaling": rope}


def yarn(**more):
    return with_rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=32_768, **more)


REFUSED = {
    "no width": ({"model_type": "llama"}, "`head_dim` must be given"),
    "no heads": ({"model_type": "llama", "hidden_size": 64}, "got no num_attention_heads"),
    "no multiple": (LLAMA | {"num_attention_heads": 30}, "must be a multiple of the 30 heads"),
    "odd": (LLAMA | {"head_dim": 127}, "an even number of rotated channels, got 127"),
    "odd part": (LLAMA | {"partial_rotary_factor": 0.3, "head_dim": 50}, "got 15"),
    "no part": (LLAMA | {"partial_rotary_factor": 0}, "`partial_rotary_factor` must be above 0"),
    "large part": (LLAMA | {"partial_rotary_factor": 1.5}, "must be from 0 to 1"),
    "tiny part": (
        LLAMA | {"partial_rotary_factor": 0.001},
        "an even number of rotated channels, got 0",
    ),
    "fraction": (LLAMA | {"head_dim": 64.5}, "`head_dim` must be an integer"),
    "huge": (LLAMA | {"head_dim": 10**9}, "`head_dim` must be at most"),
    "negative": (LLAMA | {"head_dim": -2}, "`head_dim` must be at least 1"),
    "boolean": (LLAMA | {"head_dim": True}, "`head_dim` must be an integer"),
    "string": (LLAMA | {"rope_theta": "10000"}, "`rope_theta` must be a real number"),
    "nan": (LLAMA | {"rope_theta": float("nan")}, "`rope_theta` must be finite"),
    "zero": (LLAMA | {"rope_theta": 0}, "`rope_theta` must be positive"),
    "tiny base": (LLAMA | {"rope_theta": 1e-300}, "does not describe a rotation"),
    "length": (
        LLAMA | {"max_position_embeddings": 0},
        "`max_position_embeddings` must be at least",
    ),
    "absurd length": (
        LLAMA | {"max_position_embeddings": 10**400},
        r"`max_position_embeddings` must be at most 2\*\*53 positions, got 10000",
    ),
    "absurd original length": (
        with_rope(
            rope_type="llama3", **llama3(8.0) | {"original_max_position_embeddings": 10**400}
        ),
        r"`rope_scaling.original_max_position_embeddings` must be at most 2\*\*53",
    ),
    "absurd length of another": (
        with_rope(rope_type="yarn", factor=2.0) | {"original_max_position_embeddings": 10**400},
        r"`original_max_position_embeddings` must be at most 2\*\*53",
    ),
    "rotary_dim": (LLAMA | {"rotary_dim": 256}, "`rotary_dim` must be at most head_dim 128"),
    "odd rotary_dim": (LLAMA | {"rotary_dim": 63}, "`rotary_dim` must be even"),
    "two parts": (
        LLAMA | {"rotary_dim": 64, "partial_rotary_factor": 0.25},
        "must not contradict each other, got 64 and 0.25",
    ),
    "two names": (LLAMA | {"n_embd": 2048}, "`hidden_size` and `n_embd` must not contradict"),
    "two bases": (
        with_rope(rope_type="default", rope_theta=5e5),
        "`rope_scaling.rope_theta` and `rope_theta` must not contradict each other",
    ),
    "two lengths": (
        yarn() | {"original_max_position_embeddings": 4096},
        "`rope_scaling.original_max_position_embeddings` and `original_max_position_embeddings`",
    ),
    "two dicts": (
        yarn() | {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        "`rope_parameters` and `rope_scaling` must not contradict",
    ),
    "two types": (
        with_rope(rope_type="yarn", type="linear", factor=2.0),
        "got 'yarn' and 'linear'",
    ),
    "no dict": (LLAMA | {"rope_scaling": "yarn"}, "`rope_scaling` must be a JSON object"),
    "number of a type": (with_rope(rope_type=3), "`rope_scaling.rope_type` must be a string"),
    "unknown type": (with_rope(rope_type="yarm", factor=2.0), "did you mean `yarn`"),
    "unknown type at all": (with_rope(rope_type="spiral"), "known names are axial, deepseek_yarn"),
    "type of others": (with_rope(type="ntk", factor=2.0), "dialects that know it: vllm"),
    "axial": (with_rope(rope_type="axial"), "got 'axial': .* order of height"),
    "unknown key": (
        yarn(beta_fats=32),
        "`rope_scaling.beta_fats` is not a known rope key.*`beta_fast`",
    ),
    "unknown key on top": (
        LLAMA | {"rope_tetha": 1e4},
        "`rope_tetha` is not a known.*`rope_theta`",
    ),
    "unknown on top": (LLAMA | {"my_rope_thing": 1}, "`my_rope_thing` is not a known rope key"),
    "key of another type": (
        with_rope(rope_type="default", factor=8.0),
        "not read by the rope type",
    ),
    "factor without a type": (with_rope(factor=8.0), "write a rope_type that reads it"),
    "no factor": (with_rope(rope_type="linear"), "`rope_scaling.factor` must be given"),
    "negative factor": (
        with_rope(rope_type="linear", factor=-2.0),
        "`rope_scaling.factor` must be pos",
    ),
    "no length": (with_rope(rope_type="yarn", factor=4.0), "defaults of projects differ"),
    "llama3 part": (
        with_rope(rope_type="llama3", **llama3(8.0) | {"low_freq_factor": None}),
        "`rope_scaling.low_freq_factor` must be given",
    ),
    "llama3 order": (
        with_rope(rope_type="llama3", **llama3(8.0) | {"low_freq_factor": 5.0}),
        "`high_freq_factor` must be .* `low_freq_factor` 5.0",
    ),
    "betas": (yarn(beta_fast=1.0, beta_slow=32.0), "`beta_fast` must be .* `beta_slow` 32.0"),
    "absurd beta": (yarn(beta_fast=2.0, beta_slow=1e-308), "does not describe a rotation"),
    "not read": (yarn(attn_factor=1.2), "dialect='vllm' or dialect='sglang'"),
    "two factors": (with_rope(type="dynamic", alpha=1000.0, factor=4.0), "name two different"),
    "short list": (
        with_rope(
            rope_type="longrope",
            short_factor=[1.0],
            long_factor=[1.0],
            original_max_position_embeddings=4096,
        ),
        "`rope_scaling.short_factor` must have 64 numbers.*got 1",
    ),
    "no list": (
        with_rope(rope_type="longrope", long_factor=[1.0], original_max_position_embeddings=4096),
        "`rope_scaling.short_factor` must be given",
    ),
    "bad list": (
        with_rope(
            rope_type="longrope",
            short_factor=[0.0] * 64,
            long_factor=[1.0] * 64,
            original_max_position_embeddings=4096,
        ),
        "`rope_scaling.short_factor` must hold positive finite numbers",
    ),
    "sections": (
        with_rope(type="mrope", mrope_section=[16, 24, 25]),
        "add up to the 64 channel pairs",
    ),
    "one section": (with_rope(type="mrope", mrope_section=64), "list of two to four numbers"),
    "negative section": (
        with_rope(type="mrope", mrope_section=[-1, 33, 32]),
        "`rope_scaling.mrope_section` must not be negative",
    ),
    "two sections": (
        with_rope(type="mrope", mrope_section=[16, 24, 24], xdrope_section=[24, 16, 24]),
        "must not contradict each other",
    ),
    "sections that do not deal out": (
        PUBLISHED["qwen3-vl-8b, text"][0] | {"rope_scaling": {"mrope_section": [16, 24, 24]}},
        "`rope_scaling.mrope_section` must be sizes of interleaved sections",
    ),
    "order of sections": (
        PUBLISHED["qwen3-vl-8b, text"][0]
        | {"rope_scaling": {"mrope_section": [24, 20, 20], "mrope_interleaved": False}},
        "must be True, because .* interleaved sections",
    ),
    "no length for dynamic": (
        {
            "model_type": "llama",
            "head_dim": 64,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
        "`max_position_embeddings` must be given for the rope type 'dynamic'",
    ),
    "truncate within": (
        MANY
        | {
            "rope_parameters": {
                "full_attention": GPT_OSS | {"rope_theta": 1e4},
                "sliding_attention": GPT_OSS | {"rope_theta": 1e4},
            }
        },
        "reads the key only at the top level",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unclear_configurations_are_refused(name):
    keys, words = REFUSED[name]
    before = copy.deepcopy(keys)
    with pytest.raises(ConfigError, match=words):
        from_config(keys)
    if name != "nan":
        assert keys == before


def test_null_is_the_same_as_a_missing_key():
    keys = LLAMA | {"rope_scaling": None, "head_dim": None, "partial_rotary_factor": None}
    assert from_config(keys) == from_config(LLAMA)
    assert from_config(LLAMA | {"rope_parameters": {"rope_type": None}}) == from_config(LLAMA)
    assert from_config(yarn(mscale=None, attention_factor=None)) == from_config(yarn())


def test_keys_that_do_not_concern_rope_are_ignored():
    rest = {"properties": 1, "nope": "x", "europe": [], "architectures": ["X"], "dtype": object()}
    assert from_config(LLAMA | rest) == from_config(LLAMA)


def test_the_arguments_of_the_caller_are_checked():
    with pytest.raises(ValueError, match="`dialect` must be one of 'transformers', 'vllm'"):
        from_config(LLAMA, dialect="hf")
    with pytest.raises(ValueError, match="`context_length` must be at least 1"):
        from_config(LLAMA, context_length=0)
    with pytest.raises(ValueError, match="`seq_axis`"):
        from_config(LLAMA, seq_axis=-1)
    assert from_config(LLAMA, seq_axis=-3).seq_axis == -3


TYPES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.floats(0.5, 2.0), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)
NAMES = st.sampled_from(
    [
        *("rope_theta", "partial_rotary_factor", "rotary_dim", "head_dim", "hidden_size"),
        *("max_position_embeddings", "layer_types", "no_rope_layers", "layer_rope_theta"),
        *("qk_rope_head_dim", "rope_interleave", "sliding_window", "per_layer_config"),
    ]
)
KEYS = st.sampled_from(
    [
        *("rope_type", "type", "factor", "rope_theta", "partial_rotary_factor", "beta_fast"),
        *("original_max_position_embeddings", "mscale", "mscale_all_dim", "attention_factor"),
        *("short_factor", "long_factor", "low_freq_factor", "high_freq_factor", "alpha"),
        *("mrope_section", "mrope_interleaved", "truncate", "full_attention", "unknown"),
    ]
)
KINDS = st.sampled_from(["default", "linear", "dynamic", "yarn", "longrope", "llama3", "mrope"])


@settings(deadline=None, max_examples=300)
@given(
    rope=st.dictionaries(KEYS, TYPES, max_size=5),
    kind=st.none() | KINDS,
    rest=st.dictionaries(NAMES, TYPES, max_size=3),
    model_type=st.sampled_from(["llama", "deepseek_v3", "gemma3_text", "qwen3_vl_text", "x", None]),
    dialect=st.sampled_from(sorted(DIALECTS)),
)
def test_any_configuration_gives_an_embedding_or_a_config_error(
    rope, kind, rest, model_type, dialect
):
    keys = LLAMA | {"model_type": model_type} | rest
    keys["rope_scaling"] = rope if kind is None else rope | {"rope_type": kind}
    try:
        result = from_config(keys, dialect=dialect)
    except ConfigError as error:
        assert "`" in str(error)  # noqa: PT017  (it names a key)
    else:
        assert result is None or np.isfinite(result.inv_freq).all()


# ------------------------------------------------------------------------------------------------
# Lengths and buffers.


def test_the_context_length_is_that_of_the_configuration_unless_given():
    rope = from_config(PUBLISHED["llama, dynamic"][0])
    assert rope.context_length == 4096
    assert "the default: max_position_embeddings of the configuration" in rope.explain()
    longer = from_config(PUBLISHED["llama, dynamic"][0], context_length=8192)
    assert longer.inv_freq[-1] < rope.inv_freq[-1]
    assert "given: context_length" in longer.explain()
    short = from_config(PUBLISHED["phi-3-mini-128k"][0], context_length=4096)
    np.testing.assert_array_equal(
        short.inv_freq,
        Default().inv_freq(96, 1e4)
        / np.array(PUBLISHED["phi-3-mini-128k"][0]["rope_scaling"]["short_factor"]),
    )


@pytest.mark.parametrize("name", ["llama-2-7b", "gpt-oss-20b", "deepseek-v3", "phi-3-mini-128k"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_buffer_replaces_the_frequencies(name, dtype):
    keys, _, expected = PUBLISHED[name]
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    buffer = expected.inv_freq.astype(kind)
    rope = from_config(keys, inv_freq=buffer)
    np.testing.assert_array_equal(rope.inv_freq, buffer.astype(np.float64))
    assert rope.attention_factor == expected.attention_factor
    assert rope.softmax_factor == expected.softmax_factor
    assert rope == pickle.loads(pickle.dumps(rope)) == from_config(keys, inv_freq=buffer)
    assert hash(rope) == hash(from_config(keys, inv_freq=buffer))
    assert "given: inv_freq, in place of" in rope.explain()
    assert repr(rope.scaling).startswith("CheckpointBuffer([")


def test_a_buffer_of_another_configuration_is_refused():
    keys, _, expected = PUBLISHED["llama-3.1-8b"]
    plain = Default().inv_freq(128, 5e5)
    with pytest.raises(ConfigError, match="`inv_freq` must agree with the configuration.*pair 29"):
        from_config(keys, inv_freq=plain)
    with pytest.raises(ConfigError, match=r"`inv_freq` must have shape \(64,\)"):
        from_config(keys, inv_freq=plain[:32])
    with pytest.raises(ValueError, match="`inv_freq`"):
        from_config(keys, inv_freq=plain * np.nan)
    with pytest.raises(ConfigError, match="pair 0"):
        from_config(keys, inv_freq=expected.inv_freq * (1 + 2.0**-7))


def test_a_buffer_is_valid_for_one_length():
    keys, _, expected = PUBLISHED["llama, dynamic"]
    rope = from_config(keys, inv_freq=expected.inv_freq)
    with pytest.raises(ValueError, match="`context_length` must be 4096, because the buffer"):
        rope.at_length(8192)
    with pytest.raises(ValueError, match="4096"):
        rope(np.ones((1, 128)), offset=4096)


# ------------------------------------------------------------------------------------------------
# Dialects.


def factors(keys, dialect, **more):
    rope = from_config(keys, dialect=dialect, **more)
    return pytest.approx(rope.attention_factor), pytest.approx(rope.softmax_factor)


def test_factors_of_each_dialect():
    deepseek = PUBLISHED["deepseek-v3"][0]
    m = 0.1 * np.log(40) + 1
    for dialect in DIALECTS:
        assert factors(deepseek, dialect) == (1.0, m**2)
    only_mscale = yarn(mscale=0.5)
    plain, half = 0.1 * np.log(4) + 1, 0.05 * np.log(4) + 1
    assert factors(only_mscale, "transformers") == (plain, 1.0)
    assert factors(only_mscale, "vllm") == (plain, 1.0)
    assert factors(only_mscale, "sglang") == (plain, 1.0)
    assert factors(only_mscale, "mlx") == (half, 1.0)
    zero = yarn(mscale=0.5, mscale_all_dim=0.0)
    assert factors(zero, "transformers") == (plain, 1.0)
    assert factors(zero, "sglang") == (half, 1.0)
    given = yarn(attention_factor=2.0)
    assert factors(given, "transformers") == factors(given, "mlx") == (2.0, 1.0)
    # Its converter writes it into a key that llama.cpp reads for Grok alone.
    for name in ("attention_factor", "attn_factor"):
        with pytest.raises(
            ConfigError, match=rf"`rope_scaling\.{name}` .*llama.cpp .* not read it"
        ):
            from_config(yarn(**{name: 2.0}), dialect="llama.cpp")
    with pytest.raises(ConfigError, match="does not read it, got 1.0"):
        from_config(yarn(attention_factor=1.0), dialect="llama.cpp")
    shown = compare_dialects(given).differences["attention_factor"]
    assert shown["llama.cpp"] == f"{plain:.9g}"
    with pytest.raises(ConfigError, match="SGLang 0.5.23 .* does not read it"):
        from_config(given, dialect="sglang")
    assert factors(yarn(attn_factor=2.0), "sglang") == (2.0 * plain, 1.0)


def test_dialects_differ_in_rounding_the_ramp():
    keys = PUBLISHED["gpt-oss-20b"][0]
    for dialect in ("transformers", "vllm", "sglang"):
        assert from_config(keys, dialect=dialect).scaling.truncate is False
    for dialect in ("llama.cpp", "mlx"):
        with pytest.raises(ConfigError, match=r"`rope_scaling\.truncate` must be left out"):
            from_config(keys, dialect=dialect)


def test_dialects_differ_in_dynamic_and_in_longrope():
    dynamic = PUBLISHED["llama, dynamic"][0]
    assert from_config(dynamic, dialect="vllm").scaling == DynamicNTK(2, 4096, fixed=True)
    assert from_config(dynamic, dialect="sglang") == from_config(dynamic, dialect="vllm")
    assert from_config(dynamic, dialect="llama.cpp").scaling == Default()
    with pytest.raises(ConfigError, match="'dynamic' is refused by mlx-lm"):
        from_config(dynamic, dialect="mlx")
    phi = PUBLISHED["phi-3-mini-128k"][0]
    rope = from_config(phi, dialect="mlx", context_length=4096)
    assert rope.scaling.short_factor == rope.scaling.long_factor
    rope = phi["rope_scaling"] | {"short_mscale": 1.1, "long_mscale": 1.2}
    assert from_config(phi | {"rope_scaling": rope}, dialect="vllm").attention_factor == 1.2
    with pytest.raises(ConfigError, match=r"`rope_scaling\.short_mscale` must be left out"):
        from_config(phi | {"rope_scaling": rope})
    rope = phi["rope_scaling"] | {"factor": 8.0}
    assert from_config(phi | {"rope_scaling": rope}).scaling.factor == 8.0


def test_rope_types_of_a_single_project():
    keys = yarn()
    keys["rope_scaling"] = keys["rope_scaling"] | {"rope_type": "telechat3-yarn"}
    assert from_config(keys, dialect="vllm").attention_factor == pytest.approx(0.07 * np.log(4) + 1)
    assert from_config(keys, dialect="mlx").attention_factor == pytest.approx(0.1 * np.log(4) + 1)
    keys["rope_scaling"] = keys["rope_scaling"] | {"rope_type": "deepseek_yarn", "mscale": 0.5}
    assert from_config(keys, dialect="sglang").scaling.mscale_rule == "deepseek"
    assert from_config(with_rope(type="ntk", factor=4.0), dialect="vllm").scaling == NTK(
        factor=4.0, form="fixed"
    )
    mixed = with_rope(type="ntk", factor=4.0, mixed_b=0.625)
    assert from_config(mixed, dialect="vllm").scaling.form == "mixed"


def test_vllm_reads_the_order_of_sections_from_a_key():
    keys = with_rope(type="mrope", mrope_section=[24, 20, 20], mrope_interleaved=True)
    expected = sections.interleaved(24, 20, 20)
    assert from_config(keys, dialect="vllm").sections == expected
    assert from_config(keys).sections == expected


def test_a_factor_that_is_left_out_follows_from_the_lengths():
    keys = with_rope(rope_type="yarn", original_max_position_embeddings=32_768)
    rope = from_config(keys)
    assert rope.scaling.factor == 4.0
    assert "derived: max_position_embeddings / original_max_position_embeddings" in rope.explain()


def test_a_comparison_shows_differences_and_versions():
    same = compare_dialects(PUBLISHED["llama-3.1-8b"][0])
    assert same.agree
    assert str(same).startswith("All dialects agree.")
    assert "transformers: transformers 5.23.0" in str(same)
    for name in ("qwen2.5-7b, yarn", "deepseek-v3", "hunyuan-7b"):  # other rules, the same numbers
        assert compare_dialects(PUBLISHED[name][0]).agree
    oss = compare_dialects(PUBLISHED["gpt-oss-20b"][0])
    assert not oss.agree
    assert set(oss.differences) == {*("truncate", "mscale_rule", "sum of inv_freq")}
    assert oss.differences["truncate"] == {
        "transformers": "False",
        "vllm": "False",
        "sglang": "False",
        "llama.cpp": "True",
        "mlx": "True",
    }
    lines = str(oss).splitlines()
    assert lines[0].split() == list(DIALECTS)
    assert lines[1].split() == ["truncate", "False", "False", "False", "True", "True"]
    phi = compare_dialects(PUBLISHED["phi-4-mini"][0])
    assert set(phi.differences) == {"last inv_freq up to 4096", "sum of inv_freq up to 4096"}


def test_a_comparison_shows_refusals():
    missing = compare_dialects(with_rope(rope_type="yarn", factor=4.0))
    lengths = missing.differences["original_max_position"]
    assert (lengths["transformers"], lengths["mlx"]) == ("131072", "4096")
    assert set(missing.differences["refused"]) == {"llama.cpp"}
    two = compare_dialects(yarn() | {"original_max_position_embeddings": 4096})
    lengths = two.differences["original_max_position"]
    assert (lengths["transformers"], lengths["mlx"]) == ("4096", "32768")
    within = MANY["rope_parameters"] | {"full_attention": GPT_OSS | {"rope_theta": 1e4}}
    nested = compare_dialects(MANY | {"rope_parameters": within}, layer_type="full_attention")
    rounds = nested.differences["truncate"]
    assert (rounds["transformers"], rounds["vllm"]) == ("True", "False")
    with pytest.raises(ConfigError, match="`head_dim` must be given"):
        compare_dialects({"model_type": "llama"})
    none = compare_dialects(MANY, layer_type="conv")
    assert none.agree


# ------------------------------------------------------------------------------------------------
# Origins in `explain`.


def test_explain_shows_the_origin_of_every_number():
    text = from_config(PUBLISHED["deepseek-v3"][0]).explain()
    for name, words in {
        "head_dim": "given: qk_rope_head_dim",
        "layout": "known of deepseek_v3 in transformers 5.23.0",
        "base": "given: rope_theta",
        "scaling": "given: rope_scaling.type 'yarn'",
        "  factor": "given: rope_scaling.factor",
        "  original_max_position": "given: rope_scaling.original_max_position_embeddings",
        "  truncate": "the default",
        "context_length": "the default: max_position_embeddings of the configuration",
    }.items():
        line = next(line for line in text.splitlines() if line.startswith(name + " "))
        assert words in line
    partial = from_config(PUBLISHED["gpt-neox-20b"][0]).explain()
    assert "derived: hidden_size / num_attention_heads" in partial
    assert "derived: int(head_dim * 0.25), given: rotary_pct" in partial
    default = from_config(geometry("llama", 4096, 32, 4096)).explain()
    assert "the default of llama in transformers 5.23.0" in default


def test_no_softmax_factor_for_a_model_that_does_not_scale_its_softmax():
    keys = yarn(mscale=1.0, mscale_all_dim=1.0)
    rope = from_config(keys)
    assert rope.softmax_factor == 1.0
    assert rope.attention_factor == 1.0
    assert "own code has no such factor" in rope.explain()


def test_phi_3_has_a_schedule_beyond_its_original_length():
    rope = from_config(PUBLISHED["phi-3-mini-128k"][0])
    assert isinstance(rope.scaling, scaling.LongRope)
    with pytest.raises(ValueError, match="131072"):
        rope(np.ones((1, 96)), offset=131_072)


# ------------------------------------------------------------------------------------------------
# Other keys of published configurations, and missing ones.


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("llama", {"rope_interleaved": False}),  # SmolLM2
        ("qwen2", {"use_mrope": False}),  # DeepSeek-R1-Distill-Qwen
        ("gptj", {"rotary": True, "rotary_dim": 128}),
        ("hunyuan_v1_dense", {"use_rotary_pos_emb": True, "position_embedding_xdrope": False}),
        ("nomic_bert", {"rotary_emb_interleaved": False, "rotary_emb_fraction": 1.0}),
        ("nemotron", {"rope_percent": 0.5, "partial_rotary_factor": 0.5}),
        ("llama", {"max_sequence_length": 16_384}),  # Vicuna 16k
    ],
)
def test_redundant_keys_change_nothing(model_type, keys):
    plain = geometry(model_type, 4096, 32, 4096, rope_theta=1e4)
    assert from_config(plain | keys) == from_config(plain | {"rotary_dim": keys.get("rotary_dim")})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rope_interleaved": True}, "must be False for model type 'llama'.*half"),
        ({"rope_interleave": True}, "must be False for model type 'llama'"),
        ({"use_mrope": True}, "`use_mrope`.*got True; write mrope_section"),
        ({"use_rope": False}, "`use_rope`.*got False; see the model's own code"),
        ({"rope_ratio": 500}, "with the base 10000 \\* rope_ratio"),
        ({"use_scaled_rope": True}, "'llama3' and its factors"),
        ({"use_dynamic_ntk": True}, "grows with the length"),
        ({"rotary_scaling_factor": 2}, "write rope_scaling"),
        (
            {"rotary_scaling_factor": None, "rope_scaling": {"interleaved": True}},
            "not a known rope",
        ),
    ],
)
def test_a_switch_with_an_effect_is_refused(keys, words):
    with pytest.raises(ConfigError, match=words):
        from_config(geometry("llama", 4096, 32, 4096) | keys)


def test_a_key_may_give_the_layout_of_an_unknown_model_type():
    keys = {"head_dim": 64, "rotary_emb_base": 1000, "rotary_emb_interleaved": False}
    rope = from_config(keys)
    assert rope.layout == "half"
    assert "given: rotary_emb_interleaved" in rope.explain()
    assert from_config(keys | {"rotary_emb_interleaved": True}).layout == "interleaved"
    assert from_config(keys, layout="interleaved").layout == "interleaved"


def test_deepseek_v3_2_interleaves_its_attention_and_not_its_indexer():
    keys = PUBLISHED["deepseek-v3"][0] | {"model_type": "deepseek_v32"}
    assert from_config(keys) == from_config(PUBLISHED["deepseek-v3"][0])


def test_a_pattern_of_layers_gives_their_kinds():
    gemma = PUBLISHED["gemma-3-1b, local"][0]
    assert "layer_types" not in gemma
    gemma = gemma | {"num_hidden_layers": 26, "sliding_window_pattern": 6}
    bases = [from_config(gemma, layer_type=i).base for i in range(7)]
    assert bases == [1e4] * 5 + [1e6, 1e4]
    cohere2 = PUBLISHED["command-r7b"][0] | {"layer_types": None, "num_hidden_layers": 32}
    every = cohere2 | {"sliding_window_pattern": 4}
    assert [from_config(every, layer_type=i) is None for i in range(5)] == [0, 0, 0, 1, 0]
    bert = geometry("modernbert", 768, 12, 8192, num_hidden_layers=22)
    bert |= {"global_attn_every_n_layers": 3, "global_rope_theta": 1.6e5, "local_rope_theta": 1e4}
    assert [from_config(bert, layer_type=i).base for i in range(4)] == [1.6e5, 1e4, 1e4, 1.6e5]
    for keys in (cohere2, gemma | {"sliding_window_pattern": None}):
        with pytest.raises(ConfigError, match="no layer_types with the kind of layer 3"):
            from_config(keys, layer_type=3)
    with pytest.raises(ConfigError, match="`sliding_window_pattern` must be at least 1"):
        from_config(gemma | {"sliding_window_pattern": 0}, layer_type=3)


def test_layers_with_a_window_may_have_a_different_base_and_width():
    keys = geometry("mimo_v2_flash", 4096, 64, 262_144, head_dim=192, partial_rotary_factor=0.334)
    keys |= {"rope_theta": 5e6, "swa_rope_theta": 1e4, "hybrid_layer_pattern": [0, 1]}
    assert [from_config(keys, layer_type=i).base for i in (0, 1)] == [5e6, 1e4]
    assert from_config(keys, layer_type="sliding_attention").rotary_dim == 64
    keys["swa_head_dim"] = 128
    assert [from_config(keys, layer_type=i).head_dim for i in (0, 1)] == [192, 128]
    with pytest.raises(ConfigError, match="`hybrid_layer_pattern` must be a list with 1 for"):
        from_config(keys | {"hybrid_layer_pattern": [2]}, layer_type=0)
    unknown = {"head_dim": 64, "rope_theta": 1e6, "swa_rope_theta": 1e4}
    assert from_config(unknown, layout="half", layer_type="sliding_attention").base == 1e4


def test_the_base_of_dbrx_is_within_its_attention():
    keys = {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "max_seq_len": 32_768}
    keys["attn_config"] = {"model_type": "", "kv_n_heads": 8, "rope_theta": 500_000}
    rope = from_config(keys)
    assert rope.base == 5e5
    assert "given: attn_config.rope_theta" in rope.explain()
    keys["attn_config"] = {"rope": False, "rope_theta": 10_000}
    with pytest.raises(ConfigError, match="`attn_config.rope` is not a known rope key"):
        from_config(keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "dinov3_vit", "rope_theta": 100.0, "image_size": 224, "patch_size": 16},
        {"model_type": "qwen2_5_vl", "depth": 32, "patch_size": 14, "spatial_merge_size": 2},
        {"hidden_size": 1536, "rope_theta": 10_000.0, "image_size": 336, "patch_size": 14},
    ],
)
def test_an_image_encoder_is_refused_for_every_layout(keys):
    keys = {"hidden_size": 384, "num_attention_heads": 6} | keys
    with pytest.raises(ConfigError, match=r"`patch_size`.*two position axes.*sections\.axial"):
        from_config(keys, layout="half")


def test_qwen3_asr_has_two_keys_for_interleaved_sections():
    keys = geometry("qwen3", 2048, 16, 65_536, head_dim=128, rope_theta=1e6)
    rope = {"mrope_section": [24, 20, 20], "rope_type": "default", "mrope_interleaved": True}
    expected = from_config(keys | {"rope_scaling": rope})
    assert expected.sections == sections.interleaved(24, 20, 20)
    assert from_config(keys | {"rope_scaling": rope | {"interleaved": True}}) == expected
    with pytest.raises(ConfigError, match="must not contradict"):
        from_config(keys | {"rope_scaling": rope | {"interleaved": False}})


def test_kimi_linear_has_no_rotary():
    keys = geometry("kimi_linear", 2304, 32, 1_048_576, qk_rope_head_dim=64, rope_theta=1e4)
    assert from_config(keys | {"mla_use_nope": True}, layout="interleaved") is None
    assert from_config(keys | {"mla_use_nope": False}, layout="interleaved").head_dim == 64


def test_the_origin_of_a_number_is_its_key():
    gptj = from_config(geometry("gptj", None, None, 2048, n_embd=4096, n_head=16)).explain()
    assert re.search(r"head_dim +256 +derived: n_embd / n_head\n", gptj)
    text = {"text_config": geometry("llama", 4096, 32, 2048)}
    words = "derived: text_config.hidden_size / text_config.num_attention_heads"
    assert words in from_config(text).explain()
    nanochat = from_config(geometry("nanochat", 768, 6, 2048, rope_theta=1e5)).explain()
    assert re.search(r"scaling +Custom +derived: nanochat rotates pairs in the opposite", nanochat)
    assert re.search(r"base +None +part of the frequencies: 100000.0, given: rope_theta", nanochat)
    gemma = PUBLISHED["gemma-3-4b, text, global"][0]
    local = from_config(gemma, layer_type="sliding_attention").explain()
    assert re.search(r"scaling +Default +the default: `rope_scaling` is for other layers", local)
    latent = from_config(PUBLISHED["deepseek-v3"][0]).explain()
    assert re.search(r"rotary_dim +64 +derived: the whole of qk_rope_head_dim", latent)
