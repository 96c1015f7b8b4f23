"""Arguments with the names of other libraries: the error has the name to use here."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass

import numpy as np
import pytest

import rotary
from rotary._lib import hints

ROPE = rotary.RotaryEmbedding(8, layout="half", base=10_000.0)
X = np.ones((3, 8), np.float32)
COS, SIN = ROPE.tables([0, 1, 2])


def made(**given):
    return rotary.RotaryEmbedding(8, layout="half", base=10_000.0, **given)


def applied(**given):
    return rotary.apply_rotary(X, COS, SIN, layout="half", **given)


CALLS = {
    "RotaryEmbedding.__init__": made,
    "RotaryEmbedding.__call__": lambda **given: ROPE(X, **given),
    "RotaryEmbedding.inverse": lambda **given: ROPE.inverse(X, **given),
    "RotaryEmbedding.vjp": lambda **given: ROPE.vjp(X, **given),
    "RotaryEmbedding.shift": lambda **given: ROPE.shift(X, 1, **given),
    "RotaryEmbedding.tables": lambda **given: ROPE.tables([0], **given),
    "RotaryEmbedding.matrix": lambda **given: ROPE.matrix(0, **given),
    "RotaryEmbedding.at_length": lambda **given: ROPE.at_length(8, **given),
    "inv_freq": lambda **given: rotary.inv_freq(8, base=10.0, **given),
    "cos_sin": lambda **given: rotary.cos_sin([0], [1.0], **given),
    "apply_rotary": applied,
    "sinusoidal": lambda **given: rotary.sinusoidal([0], 8, **given),
    "permute_weights": lambda **given: rotary.permute_weights(
        X.T, 1, source="half", target="interleaved", **given
    ),
    "from_config": lambda **given: rotary.from_config({}, **given),
    "compare_dialects": lambda **given: rotary.compare_dialects({}, **given),
    "from_gguf": lambda **given: rotary.from_gguf({}, **given),
    "preset": lambda **given: rotary.preset("mimi-hf", **given),
    "XPos.__init__": lambda **given: rotary.XPos(center=0, **given),
    "Linear.__init__": lambda **given: rotary.scaling.Linear(2.0, **given),
    "Yarn.__init__": lambda **given: rotary.scaling.Yarn(4.0, 8, **given),
    "Llama3.__init__": lambda **given: rotary.scaling.Llama3(8.0, 1.0, 4.0, **given),
    "Custom.__init__": lambda **given: rotary.scaling.Custom([1.0], **given),
}
# Even without the required arguments, the message is about the unknown name.
BARE = {
    "theta": lambda: rotary.RotaryEmbedding(8, theta=10_000.0),
    "dim": lambda: rotary.RotaryEmbedding(dim=8, layout="half", base=10_000.0),
    "original_max_position_embeddings": lambda: rotary.scaling.Yarn(
        factor=4.0, original_max_position_embeddings=8
    ),
    "head_dim": lambda: rotary.inv_freq(head_dim=8, base=10.0),
}


@pytest.mark.parametrize(
    ("call", "word", "meant"),
    [
        ("RotaryEmbedding.__init__", "theta", "`base`"),
        ("RotaryEmbedding.__init__", "rope_theta", "`base`"),
        ("RotaryEmbedding.__init__", "dim", "`head_dim`"),
        ("RotaryEmbedding.__init__", "head_size", "`head_dim`"),
        ("RotaryEmbedding.__init__", "interleaved", "`layout='half'` or `layout='interleaved'`"),
        ("RotaryEmbedding.__init__", "traditional", "`layout='half'` or `layout='interleaved'`"),
        ("RotaryEmbedding.__init__", "rope_scaling", "`scaling`, one of rotary.scaling"),
        ("RotaryEmbedding.__init__", "freqs", "`scaling`, one of rotary.scaling"),
        ("RotaryEmbedding.__init__", "partial_rotary_factor", "`rotary_dim`, a number of channels"),
        ("RotaryEmbedding.__init__", "max_position_embeddings", "`context_length`"),
        ("RotaryEmbedding.__init__", "mrope_section", "`sections`"),
        ("RotaryEmbedding.__init__", "use_xpos", "`decay`, a rotary.XPos"),
        ("RotaryEmbedding.__init__", "axis", "`seq_axis`"),
        ("RotaryEmbedding.__init__", "layuot", "`layout='half'` or `layout='interleaved'`"),
        ("RotaryEmbedding.__call__", "position", "`positions`"),
        ("RotaryEmbedding.__call__", "pos", "`positions`"),
        ("RotaryEmbedding.__call__", "position_ids", "`positions`"),
        ("RotaryEmbedding.__call__", "start_pos", "`offset`"),
        ("RotaryEmbedding.__call__", "offsets", "`offset`"),
        ("RotaryEmbedding.__call__", "dim", "`seq_axis`"),
        ("RotaryEmbedding.__call__", "batch_dim", "`batch_axis`"),
        ("RotaryEmbedding.__call__", "out_", "`out=(q, k)`, the arrays themselves in place"),
        ("RotaryEmbedding.__call__", "inplace", "`out=(q, k)`, the arrays themselves in place"),
        ("RotaryEmbedding.__call__", "cu_seq_lens", "`cu_seqlens`"),
        ("RotaryEmbedding.inverse", "pos", "`positions`"),
        ("RotaryEmbedding.vjp", "start_index", "`offset`"),
        ("RotaryEmbedding.shift", "Positions_", "`positions`"),
        ("RotaryEmbedding.at_length", "max_seq_len", "`context_length`"),
        ("inv_freq", "theta", "`base`"),
        ("cos_sin", "freqs", "`inv_freq`"),
        ("apply_rotary", "interleaved", "`layout='half'` or `layout='interleaved'`"),
        ("apply_rotary", "axis", "`seq_axis`"),
        ("sinusoidal", "max_wavelength", "`base`"),
        ("permute_weights", "heads", "`num_heads`"),
        ("from_config", "sequence_axis", "`seq_axis`"),
        ("preset", "axis", "`seq_axis`"),
        ("Linear.__init__", "scaling_factor", "`factor`"),
        ("Custom.__init__", "freqs", "`inv_freq`"),
    ],
)
def test_names_of_other_libraries_get_a_hint(call, word, meant):
    with pytest.raises(TypeError) as caught:
        CALLS[call](**{word: 3})
    told = f"{call}() got an unexpected keyword argument `{word}`: here it is {meant}"
    assert str(caught.value) == told


@pytest.mark.parametrize("call", CALLS)
def test_unknown_names_are_refused(call):
    with pytest.raises(TypeError) as caught:
        CALLS[call](xyzzy=3)
    told, _, known = str(caught.value).partition(": it takes ")
    assert told == f"{call}() got an unexpected keyword argument `xyzzy`"
    names = [name.strip("`") for name in known.split(", ")]
    function = rotary
    for part in call.split("."):
        function = getattr(function, part, None) or getattr(rotary.scaling, part)
    parameters = inspect.signature(function).parameters
    assert names == [
        name
        for name, each in parameters.items()
        if name != "self" and each.kind != each.VAR_POSITIONAL
    ]


@pytest.mark.parametrize("word", BARE)
def test_unknown_names_are_reported_before_missing_arguments(word):
    with pytest.raises(TypeError, match=f"unexpected keyword argument `{word}`: here it is"):
        BARE[word]()


@pytest.mark.parametrize("call", ["__call__", "inverse", "vjp", "shift"])
def test_arrays_are_unchanged(call):
    x = X.copy()
    given = {"delta": 1} if call == "shift" else {}
    with pytest.raises(TypeError, match="here it is `positions`"):
        getattr(ROPE, call)(x, out=x, position=[1, 2, 3], **given)
    np.testing.assert_array_equal(x, X)


def test_hints_name_existing_arguments():
    """A renamed argument would leave hints without a target."""
    functions = [getattr(rotary, name) for name in rotary.__all__]
    functions += [getattr(rotary.RotaryEmbedding, name) for name in dir(rotary.RotaryEmbedding)]
    functions += [getattr(rotary.scaling, name) for name in rotary.scaling.__all__]
    known = {
        name
        for each in functions
        if inspect.isfunction(each) or is_dataclass(each)
        for name in inspect.signature(each).parameters
    }
    assert {name for name, _ in hints.NAMES_ELSEWHERE} <= known
    assert set(hints.ARGUMENT_TEXTS) <= known


def test_signatures_show_only_accepted_arguments():
    for name in ("__call__", "inverse", "vjp", "shift"):
        kinds = {each.kind for each in inspect.signature(getattr(ROPE, name)).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert "unknown" not in inspect.signature(rotary.apply_rotary).parameters
