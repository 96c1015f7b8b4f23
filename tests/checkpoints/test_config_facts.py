"""The facts about model types, checked without transformers: widths, kinds of layers, and refusals."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from rotary import ConfigError, compare_dialects, from_config
from rotary.checkpoints import dialects, llama_cpp, models
from rotary.checkpoints.facts import facts


def geometry(model_type, hidden=4096, heads=32, **keys):
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "max_position_embeddings": 4096,
        "rope_theta": 1e4,
        **keys,
    }


LLAMA = geometry("llama")

# Model type, keys, and the numbers of rotated channels and of channels of a head, as in transformers 5.23.0
# (the embedding of models/<type>/modeling_<type>.py, whose frequencies test_config_sweep.py compares).
WIDTHS = [
    ("llama", {}, (128, 128)),
    ("llama", {"partial_rotary_factor": 1.0}, (128, 128)),
    ("glm", {}, (64, 128)),
    ("glm", {"partial_rotary_factor": 0.25}, (32, 128)),
    ("phi", {}, (64, 128)),
    ("phi", {"partial_rotary_factor": 0.25}, (32, 128)),
    ("persimmon", {"partial_rotary_factor": 0.25}, (32, 128)),
    ("stablelm", {}, (32, 128)),
    ("gpt_neox", {"rope_theta": None, "rotary_pct": 0.5}, (64, 128)),
    ("qwen3_next", {}, (64, 256)),
    ("minimax_m2", {"rotary_dim": 64}, (64, 128)),
    ("jetmoe", {"kv_channels": 96}, (96, 96)),
    ("deepseek_v3", {"qk_rope_head_dim": 64}, (64, 64)),
    ("gptj", {"rope_theta": None, "rotary_dim": 64}, (64, 128)),
    (
        "moonshine_streaming",
        {"rope_theta": None, "hidden_size": 320, "num_attention_heads": 8},
        (32, 40),
    ),
]


@pytest.mark.parametrize(("model_type", "keys", "widths"), WIDTHS)
def test_the_channels_that_a_model_rotates(model_type, keys, widths):
    rope = from_config(geometry(model_type, **keys))
    assert (rope.rotary_dim, rope.head_dim) == widths


# Keys that the code of a type does not read, each with a value that would change the result.
UNREAD = [
    ("llama", {"partial_rotary_factor": 0.25}, "partial_rotary_factor", "all 128 .*32 of 128"),
    ("qwen2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor", "all 128 .*64 of 128"),
    ("llama", {"rotary_dim": 32}, "rotary_dim", "128 of 128 .*got 32"),
    ("llama", {"rotary_pct": 0.25}, "rotary_pct", "rotates 128 of 128 .*not 32"),
    ("qwen3", {"head_dim": 128, "qk_rope_head_dim": 64}, "qk_rope_head_dim", "128 .*got 64"),
    ("llama", {"attention_head_dim": 64}, "attention_head_dim", "128 channels, got 64"),
    ("llama", {"kv_channels": 64}, "kv_channels", "128 channels, got 64"),
    ("llama", {"head_size": 64}, "head_size", "128 channels, got 64"),
    ("llama", {"rotary_emb_base": 5e5}, "rotary_emb_base", "base is 10000.0, got 500000.0"),
    ("gpt_neox", {"rope_theta": 5e5}, "rope_theta", "base is 10000.0, got 500000.0"),
    ("llama", {"rope_local_base_freq": 5e5}, "rope_local_base_freq", "base is 10000.0"),
    ("gptj", {"rope_theta": 5e5, "rotary_dim": 64}, "rope_theta", "base is 10000.0"),
    ("llama", {"no_rope_layer_interval": 4}, "no_rope_layer_interval", "in every layer.*got 4"),
    ("llama", {"no_rope_layers": [1, 0]}, "no_rope_layers", r"in every layer.*got \[1, 0\]"),
]


@pytest.mark.parametrize(("model_type", "keys", "name", "words"), UNREAD)
def test_a_key_that_the_code_does_not_read_is_refused(model_type, keys, name, words):
    with pytest.raises(ConfigError, match=f"`{name}` is not read .*{model_type!r}.*{words}"):
        from_config(geometry(model_type, **keys))


@pytest.mark.parametrize("name", ["partial_rotary_factor", "rotary_pct", "kv_channels"])
def test_an_unread_key_may_agree_with_the_result(name):
    keys = {name: 128 if name == "kv_channels" else 1.0}
    assert from_config(LLAMA | keys) == from_config(LLAMA)


@pytest.mark.parametrize("rope_type", ["default", "linear", "yarn"])
def test_a_part_is_refused_with_every_rope_type(rope_type):
    rope = {"rope_type": rope_type, "partial_rotary_factor": 0.25, "rope_theta": 1e4}
    if rope_type != "default":
        rope |= {"factor": 4.0}
    if rope_type == "yarn":
        rope |= {"original_max_position_embeddings": 1024}
    words = rf"`rope_parameters\.partial_rotary_factor` .*'llama'.*{rope_type!r}.*128.*32 of 128"
    with pytest.raises(ConfigError, match=words):
        from_config(LLAMA | {"rope_parameters": rope})
    assert from_config(LLAMA | {"rope_parameters": rope}, dialect="vllm").rotary_dim == 32


def test_the_comparison_shows_an_unread_key():
    comparison = compare_dialects(LLAMA | {"partial_rotary_factor": 0.25})
    assert not comparison.agree
    assert comparison.differences["channels"]["transformers"] == "0 .. 127"
    assert comparison.differences["channels"]["vllm"] == "0 .. 31"
    assert comparison.differences["unread"]["transformers"] == "partial_rotary_factor"
    assert "transformers does not read partial_rotary_factor" in str(comparison)
    everywhere = compare_dialects(LLAMA | {"rotary_emb_base": 5e5})
    assert everywhere.agree
    assert everywhere.unread["mlx"] == ("rotary_emb_base",)


def test_the_full_layers_of_gemma_4_have_a_different_width():
    keys = geometry("gemma4_text", rope_theta=None, head_dim=256)
    keys["layer_types"] = ["sliding_attention", "full_attention"]
    assert from_config(keys, layer_type="sliding_attention").head_dim == 256
    assert from_config(keys, layer_type="full_attention").head_dim == 512
    assert from_config(keys, layer_type=1).head_dim == 512
    assert from_config(keys | {"global_head_dim": 384}, layer_type=1).head_dim == 384


def test_phimoe_has_its_factors_in_its_configuration():
    factors = {"short_factor": [1.0] * 64, "long_factor": [4.0] * 64}
    rope = {"type": "longrope", "short_mscale": 1.1, "long_mscale": 1.2, **factors}
    rope["original_max_position_embeddings"] = 4096
    keys = geometry("phimoe", max_position_embeddings=131_072, rope_scaling=rope)
    assert from_config(keys).attention_factor == 1.2
    assert from_config(keys, context_length=4096).attention_factor == 1.1
    with pytest.raises(ConfigError, match="`rope_scaling.short_mscale` must be left out"):
        from_config(keys | {"model_type": "mistral"})


# Published hybrids, and the layers that rotate, as in small models of transformers 5.23.0
# (tests/checkpoints/test_config_sweep.py runs them).
LAYERS = [
    ("qwen3_next", {"num_hidden_layers": 4, "full_attention_interval": 4}, [3]),
    ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}, [1]),
    ("bamba", {"num_hidden_layers": 4, "attn_layer_indices": [2]}, [2]),
    ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, [1]),
    ("lfm2", {"num_hidden_layers": 3, "full_attn_idxs": [1]}, [1]),
    ("lfm2_moe", {"layer_types": ["conv", "full_attention"]}, [1]),
    ("falcon_h1", {"num_hidden_layers": 2}, [0, 1]),
    ("minimax", {"layer_types": ["full_attention", "linear_attention"]}, [0]),
    ("minimax", {"num_hidden_layers": 2, "attn_type_list": [0, 1]}, [1]),
    ("olmo_hybrid", {"layer_types": ["linear_attention", "full_attention"]}, [1]),
    (
        "granitemoehybrid",
        {"layer_types": ["mamba", "attention"], "position_embedding_type": "rope"},
        [1],
    ),
    ("granitemoehybrid", {"layer_types": ["mamba", "attention"]}, []),
    (
        "recurrent_gemma",
        {"num_hidden_layers": 4, "block_types": ["recurrent", "attention"]},
        [1, 3],
    ),
    ("afmoe", {"layer_types": ["sliding_attention", "full_attention"]}, [0]),
    ("flint", {"layer_types": ["sliding_attention", "full_attention"]}, [0]),
    (
        "kolibri1",
        {"sliding_window": 513, "layer_types": ["sliding_attention", "full_attention"]},
        [0],
    ),
    ("mllama_text_model", {"num_hidden_layers": 4, "cross_attention_layers": [3]}, [0, 1, 2]),
    ("smollm3", {"num_hidden_layers": 4}, [0, 1, 2]),
    ("jamba", {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1}, []),
    ("mamba", {"num_hidden_layers": 4}, []),
    ("nemotron_h", {"hybrid_override_pattern": "M-*E"}, []),
    ("kimi_linear", {"num_hidden_layers": 4}, []),
    ("zamba2", {"layers_block_type": ["mamba", "hybrid"], "num_hidden_layers": 2}, []),
]


@pytest.mark.parametrize(("model_type", "keys", "rotating"), LAYERS)
def test_a_loop_over_all_layers_gives_none_for_those_without_rotary(model_type, keys, rotating):
    keys = geometry(model_type, **keys)
    kinds = keys.get("layer_types", keys.get("hybrid_override_pattern", ()))
    count = keys.get("num_hidden_layers", len(kinds))
    found = [from_config(keys, layer_type=layer) for layer in range(count)]
    assert [layer for layer, rope in enumerate(found) if rope is not None] == rotating
    for layer, kind in enumerate(keys.get("layer_types", ())):
        assert (from_config(keys, layer_type=kind) is not None) == (layer in rotating)


def test_the_layers_of_deepseek_v4_have_other_names_than_their_rotations():
    keys = geometry("deepseek_v4", rope_theta=1e4, compress_rope_theta=16e4, qk_rope_head_dim=64)
    keys["layer_types"] = ["sliding_attention", "compressed_sparse_attention"]
    assert [from_config(keys, layer_type=i).base for i in (0, 1)] == [1e4, 16e4]
    assert from_config(keys, layer_type="heavily_compressed_attention").base == 16e4


@pytest.mark.parametrize(
    "model_type", ["gpt2", "bert", "bloom", "mpt", "opt", "t5", "roberta", "whisper", "vit"]
)
def test_a_model_type_without_rotation_is_refused_by_name(model_type):
    with pytest.raises(ConfigError, match=f"{model_type!r}, whose code") as caught:
        from_config({"model_type": model_type, "hidden_size": 768, "num_attention_heads": 12})
    assert "gptj" not in str(caught.value)
    own_code = geometry(model_type, 768, 12)
    assert from_config(own_code, layout="half").head_dim == 64


def test_lists_of_model_types_are_disjoint():
    rotating = set(models.known_model_types())
    assert not any(models.has_no_rotary(name) for name in rotating)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"alibi": True}, "alibi"),
        ({"use_alibi": True}, "use_alibi"),
        ({"nope_layer_interval": 4}, "nope_layer_interval"),
        ({"use_nope": True}, "use_nope"),
        ({"no_rope": [0, 1]}, "no_rope"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type"),
        ({"pos_emb": "learned"}, "pos_emb"),
        ({"use_rope": False}, "use_rope"),
        ({"rotary": False}, "rotary"),
        ({"use_rotary_embedding": False}, "use_rotary_embedding"),
    ],
)
@pytest.mark.parametrize("model_type", ["llama", "unheard_of"])
def test_a_switch_that_disables_rotary_is_refused(model_type, keys, name):
    with pytest.raises(ConfigError, match=f"`{name}` .*got "):
        from_config(geometry(model_type, **keys), layout="half")


@pytest.mark.parametrize(
    "keys",
    [
        {"alibi": False},
        {"nope_layer_interval": None},
        {"no_rope_layers": []},
        {"position_embedding_type": "rope"},
        {"position_embedding_type": "rotary"},
        {"use_rope": True},
        {"qk_nope_head_dim": 64},
    ],
)
def test_a_switch_that_keeps_rotary_changes_nothing(keys):
    assert from_config(LLAMA | keys) == from_config(LLAMA)


def test_layers_without_rotary_of_unknown_types():
    keys = geometry("unheard_of", num_hidden_layers=4, no_rope_layer_interval=2)
    found = [from_config(keys, layer_type=layer, layout="half") for layer in range(4)]
    assert [rope is None for rope in found] == [False, True, False, True]
    keys = geometry("unheard_of", layer_types=["mamba", "attention"])
    assert from_config(keys, layer_type=0, layout="half") is None
    assert from_config(keys, layer_type="mamba", layout="half") is None
    assert from_config(keys, layer_type=1, layout="half").head_dim == 128


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("gemma3", "gemma3_text"),
        ("llava", "llama"),
        ("qwen2_vl", "qwen2_vl_text"),
        ("glm4v", "glm4v_text"),
    ],
)
def test_a_part_without_a_model_type_gets_it_from_the_whole(outer, inner):
    part = {"hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096}
    if inner == "glm4v_text":
        part["rope_parameters"] = {"partial_rotary_factor": 0.5, "rope_theta": 1e4}
    layer = "full_attention" if inner == "gemma3_text" else None
    read = from_config({"model_type": outer, "text_config": part}, layer_type=layer)
    assert read == from_config(part | {"model_type": inner}, layer_type=layer)
    with pytest.raises(ConfigError, match="model type 'unheard_of'"):
        from_config({"model_type": "unheard_of", "text_config": part})


def test_a_width_under_another_name_is_refused_for_unknown_types():
    keys = geometry("unheard_of", kv_channels=64)
    with pytest.raises(
        ConfigError, match="`head_dim` must be given, because `kv_channels` is 64 .* 128"
    ):
        from_config(keys, layout="half")
    assert from_config(keys | {"head_dim": 64}, layout="half").head_dim == 64
    assert from_config(keys | {"kv_channels": 128}, layout="half").head_dim == 128


def test_an_axis_may_have_no_pair():
    keys = geometry("qwen2_vl", rope_scaling={"type": "mrope", "mrope_section": [64, 0, 0]})
    assert from_config(keys).sections is not None


@pytest.mark.parametrize("name", ["mrope_section", "mrope_interleaved", "rope_type"])
def test_the_error_of_a_misplaced_rope_key_names_the_rope_dict(name):
    with pytest.raises(ConfigError, match=f"`{name}` .*move it into rope_parameters"):
        from_config(LLAMA | {name: [16, 24, 24]})


YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    "old",
    [
        {"type": "yarn", **YARN},
        {"rope_type": "yarn", **YARN, "factor": 4},
        {"type": "yarn", **YARN, "rope_theta": 10_000},
    ],
)
def test_equal_values_under_two_keys_do_not_contradict_each_other(old):
    new = {"rope_type": "yarn", **YARN, "rope_theta": 1e4}
    both = LLAMA | {"rope_parameters": new, "rope_scaling": old}
    assert from_config(both) == from_config(LLAMA | {"rope_scaling": old})
    assert from_config({**both, "rope_theta": None}) == from_config(
        LLAMA | {"rope_parameters": new}
    )
    part = LLAMA | {"rope_theta": None, "rope_parameters": new}
    whole = {"model_type": "llava", "text_config": part, "rope_theta": 1e4, "rope_scaling": old}
    assert from_config(whole) == from_config(part)
    with pytest.raises(ConfigError, match="must not contradict each other"):
        from_config(both | {"rope_scaling": old | {"factor": 8.0}})


@pytest.mark.parametrize(
    "key",
    [
        *("rop_theta", "rpoe_theta", "ropetheta", "ropeTheta", "RopeTheta", "rope-theta"),
        *("rope theta", "rop_scaling", "ropeScaling", "ropeParameters", "partialRotaryFactor"),
        *("partial_rotari_factor", "rop_parameters"),
    ],
)
def test_a_misspelt_key_is_refused(key):
    with pytest.raises(ConfigError, match=f"`{key}` is not a known rope key.*did you mean"):
        from_config(geometry("llama", rope_theta=None) | {key: 5e5})


# The facts themselves.


def test_no_rule_compares_the_name_of_a_dialect_a_model_type_or_an_architecture():
    """Rules are fields of the facts, so that each name is in the data alone."""
    folder = Path(dialects.__file__).parent
    paths = [path for path in folder.glob("*.py") if path.name != "presets.py"]
    found = [
        f"{path.name}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        and any(isinstance(side, ast.Attribute) and side.attr == "name" for side in operands(node))
        and any(isinstance(side, ast.Constant | ast.Tuple | ast.Set) for side in operands(node))
    ]
    assert len(paths) > 20
    assert not found


def operands(comparison):
    return [comparison.left, *comparison.comparators]


def test_facts_are_read_once_and_when_they_are_first_needed():
    code = """
import rotary
from rotary.checkpoints.facts import facts
assert facts.cache_info().misses == 0
for _ in range(2):
    rotary.from_config({"model_type": "llama", "head_dim": 64})
assert facts.cache_info().misses == 1
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_every_fact_is_a_field():
    for file, tables, kind in (
        ("transformers.toml", "models", models.Model),
        ("llama_cpp.toml", "architectures", llama_cpp.Architecture),
    ):
        fields = {own.name for own in dataclasses.fields(kind)} - {"name"}
        used = {key for table in facts(file)[tables].values() for key in table}
        assert used == fields, "a fact without a field, or a field that no table has"
