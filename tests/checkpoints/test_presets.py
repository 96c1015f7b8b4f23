"""Published checkpoints: their data, its reader, and tables compared with independent constants."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import presets_page
import pytest
from cases import case

import rotary
from rotary import ConfigError
from rotary.checkpoints.presets import (
    Preset,
    _make,
    _make_preset,
    _origins,
    _parse,
    _read,
    preset,
    presets,
)

DATA = Path(__file__).parent / "data"
CONSTANTS = {path.name: json.loads(path.read_text()) for path in DATA.glob("presets_*.json")}
KNOWN = {name: constants for file in CONSTANTS.values() for name, constants in file.items()}
NAMES = list(presets())


# ------------------------------------------------------------------------------------------------
# The tables.


def test_every_preset_has_its_constants_once():
    listed = [name for file in CONSTANTS.values() for name in file]
    assert sorted(listed) == NAMES


def test_frequencies_and_factors():
    for name in NAMES:
        with case(name):
            rope, known = preset(name), KNOWN[name]
            assert known["rtol"] <= 2e-6
            expected = np.array(known["inv_freq"])
            assert rope.inv_freq.shape == expected.shape
            np.testing.assert_allclose(rope.inv_freq, expected, rtol=known["rtol"])
            assert rope.attention_factor == pytest.approx(known["attention_factor"], rel=1e-14)
            assert rope.softmax_factor == pytest.approx(known["softmax_factor"], rel=1e-14)


def test_layout_and_window():
    for name in NAMES:
        with case(name):
            rope, known = preset(name), KNOWN[name]
            for argument in ("head_dim", "rotary_start", "rotary_dim", "layout", "output_layout"):
                assert getattr(rope, argument) == known[argument]
            axes = None if rope.sections is None else list(rope.sections.axes)
            assert axes == known.get("axes")


def test_cosines_and_sines():
    for name in NAMES:
        with case(name):
            known = KNOWN[name]
            rope = replace(preset(name), decay=None, quirk=None)  # with them, there are no tables
            rounded = known["rtol"] > 1e-13
            assert len(known["samples"]) >= 3
            for position, pair, cos, sin in known["samples"]:
                made = rope.tables(np.array(position, dtype=float)[..., None], dtype="float64")
                values = [table[0, pair] for table in made]
                np.testing.assert_allclose(
                    values, [cos, sin], rtol=0, atol=2e-6 if rounded else 1e-11
                )


def test_rotated_channels():
    """Blocks, scales and quirks, which tables do not show: x[c] = (c + 1) / head_dim, rotated."""
    for name, known in KNOWN.items():
        with case(name):
            rope = preset(name)
            x = np.arange(1, rope.head_dim + 1)[None] / rope.head_dim
            for row in known.get("rotated", ()):
                positions = np.array(row["position"], float)[..., None]
                rotated = rope(x, positions=positions, role=row["role"])
                np.testing.assert_allclose(rotated[0], row["values"], rtol=0, atol=1e-12)


def test_other_lengths():
    for name in [name for name in KNOWN if "at_length" in KNOWN[name]]:
        with case(name):
            for known in KNOWN[name]["at_length"]:
                rope = preset(name).at_length(known["context_length"])
                np.testing.assert_allclose(
                    rope.inv_freq, known["inv_freq"], rtol=KNOWN[name]["rtol"]
                )
                assert rope.attention_factor == pytest.approx(known["attention_factor"], rel=1e-14)
                assert not np.array_equal(rope.inv_freq, preset(name).inv_freq)


def test_blocks_scales_and_quirks_have_rotated_constants():
    special = {name for name in NAMES if preset(name).decay or preset(name).quirk}
    assert special
    assert special <= {name for name in KNOWN if "rotated" in KNOWN[name]}


def test_schedules_that_depend_on_the_length_have_constants_for_another():
    dependent = {name for name in NAMES if preset(name).scaling.needs_length}
    assert dependent == {name for name in KNOWN if "at_length" in KNOWN[name]}


# Channel pair to frequency, from transformers 5.23.0 in float32, and the sum over all pairs.
PUBLISHED = {
    "llama-3-8b-hf": ({1: 0.814617217, 32: 0.00141421345, 63: 2.4551407e-06}, 5.394233954),
    "qwen2-7b-hf": ({1: 0.805842221, 32: 0.00100000005, 63: 1.24093776e-06}, 5.15044442027),
    "llama-3.1-8b-hf": (
        {28: 0.00321144611, 29: 0.00216657063, 30: 0.00137189368, 31: 0.00085675146}
        | {32: 0.000524846022, 33: 0.00031269365, 34: 0.000178507791, 35: 9.55621217e-05}
        | {62: 3.7673226e-07, 63: 3.06892588e-07},
        5.38605826345,
    ),
    "llama-3.2-1b-hf": (
        {13: 0.00483942125, 14: 0.00321144611, 15: 0.00129054801, 16: 0.000429556705}
        | {17: 9.70828623e-05, 18: 1.94616387e-05, 31: 9.41830649e-08},
        2.96820239664,
    ),
    "qwen2.5-7b-yarn-hf": (
        {22: 0.00865964312, 23: 0.00697830599, 24: 0.00537532149, 25: 0.0041317381}
        | {30: 0.00106436096, 39: 6.4903943e-05, 40: 4.44569851e-05, 63: 3.10234441e-07},
        5.14403482812,
    ),
    "deepseek-v3-hf": (
        {9: 0.0749894157, 10: 0.0562341288, 11: 0.0390069261, 12: 0.0268793609}
        | {16: 0.00550000044, 22: 0.00017782794, 23: 3.3338034e-05, 31: 3.33380353e-06},
        3.94893626566,
    ),
    "gpt-oss-20b-hf": (
        {7: 0.0737445652, 8: 0.0508132726, 9: 0.0317056961, 10: 0.0193349998, 11: 0.0115920492}
        | {12: 0.00679495931, 16: 0.000456483918, 17: 0.000129318694, 31: 3.0235114e-07},
        3.18043825581,
    ),
    "gemma-3-4b-global-hf": (
        {0: 0.125, 1: 0.112210892, 2: 0.100730278, 64: 0.000125000006, 127: 1.39246737e-07},
        1.22174150101,
    ),
    "gemma-3-4b-local-hf": (
        {1: 0.930572033, 64: 0.00999999978, 127: 0.000107460779},
        14.4019789478,
    ),
    "gemma-4-e2b-global-hf": (
        {1: 0.947463512, 2: 0.897687137, 30: 0.198095679, 62: 0.0352269448, 63: 0.0333762467}
        | {64: 0.0, 255: 0.0},
        18.4324746691,
    ),
}
FACTORS = {
    "qwen2.5-7b-yarn-hf": (1.138629436111989, 1.0),
    "deepseek-v3-hf": (1.0, 1.8738542070926265),
    "deepseek-v2-lite-hf": (1.0, 1.2608037774058554**2),
    "gpt-oss-20b-hf": (1.3465735902799727, 1.0),
    "phi-3.5-mini-hf": (1.1902380714238083, 1.0),
}


def test_published_frequencies():
    for name, (values, total) in PUBLISHED.items():
        with case(name):
            inv_freq = preset(name).inv_freq
            np.testing.assert_allclose(inv_freq[list(values)], list(values.values()), rtol=1e-6)
            assert inv_freq.sum() == pytest.approx(total, rel=1e-6)


def test_hunyuan_is_a_larger_base():
    inv_freq = preset("hunyuan-7b-hf").inv_freq
    known = [0.776034355, 0.000299357722, 1.15478201e-07]
    np.testing.assert_allclose(inv_freq[[1, 32, 63]], known, rtol=1e-6)


def test_published_factors():
    for name, factors in FACTORS.items():
        with case(name):
            rope = preset(name)
            own = (rope.attention_factor, rope.softmax_factor)
            assert own == pytest.approx(factors, rel=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "generator", sorted(DATA.glob("make_presets*.py")), ids=lambda path: path.stem
)
def test_constants_equal_those_of_their_generator(generator):
    found = importlib.util.spec_from_file_location(generator.stem, generator)
    make = importlib.util.module_from_spec(found)
    found.loader.exec_module(make)
    assert make.text() == make.FILE.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------
# The data.


def specification(rope):
    """Return all that a preset says but its base."""
    return tuple(
        getattr(rope, field.name)
        for field in fields(rope)
        if field.name not in ("base", "seq_axis")
    )


def test_at_least_forty_differ_in_more_than_the_base():
    assert len({specification(preset(name)) for name in NAMES}) >= 40
    text = [name for name in NAMES if presets()[name].file == "text.toml"]
    assert len({specification(preset(name)) for name in text}) >= 25


def test_presets_of_one_checkpoint_in_two_formats_differ_in_layout():
    hf, gguf = preset("llama-3.1-8b-hf"), preset("llama-3.1-8b-gguf")
    assert (hf.layout, gguf.layout) == ("half", "interleaved")
    assert np.array_equal(hf.inv_freq, gguf.inv_freq)


def test_explain_shows_the_source_of_every_number():
    for name in NAMES:
        with case(name):
            entry, lines = presets()[name], preset(name).explain().splitlines()
            for argument in _origins(entry):
                label = argument.partition(".")[2] or argument
                (line,) = (
                    line
                    for line in lines
                    if line.split()[:1] == [label] and f"preset {name}: " in line
                )
                assert line.endswith(f"preset {name}: {entry.source_of(argument)}")


def test_sources_name_a_project_and_a_file():
    for name in NAMES:
        with case(name):
            entry = presets()[name]
            assert {"numbers", "layout"} <= set(entry.sources)
            assert all(re.search(r"\w[./]\w", text) for text in entry.sources.values())
            assert entry.description.endswith((".", ")"))


def test_the_sources_of_a_schedule():
    entry = presets()["gpt-oss-20b-hf"]
    assert entry.source_of("scaling.truncate").endswith("RotaryEmbedding")
    assert entry.source_of("scaling.factor") == entry.source == entry.sources["numbers"]
    assert (
        presets()["olmo-3-7b-global-hf"].source_of("scaling.factor").startswith("allenai/OLMo-core")
    )


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "factor",
            ValueError,
            "`name` must be one of 'head_dim', .*'scaling.factor'.* got 'factor'",
        ),
        ("rotary_dim", ValueError, "got 'rotary_dim'"),
        (3, TypeError, "`name` must be a string, got 3"),
    ],
)
def test_defaults_have_no_source(name, error, message):
    with pytest.raises(error, match=message):
        presets()["gpt-oss-20b-hf"].source_of(name)


def test_presets_are_immutable():
    scaling = presets()["gpt-oss-20b-hf"].arguments["scaling"]
    with pytest.raises(TypeError):
        scaling["factor"] = 2.0
    sections = presets()["qwen2-vl-7b-text-hf"].arguments["sections"]
    assert sections["sizes"] == (16, 24, 24)


def test_presets_are_a_mapping_that_prints_as_a_table():
    known = presets()
    assert list(known) == sorted(known)
    assert len(known) == len(repr(known).splitlines()) - 1
    assert known is presets()
    line = next(line for line in repr(known).splitlines() if line.startswith("gpt-j-6b-hf "))
    assert line.split(maxsplit=2) == ["gpt-j-6b-hf", "hf", known["gpt-j-6b-hf"].source]
    assert isinstance(known["gpt-j-6b-hf"], Preset)
    assert hash(known["gpt-j-6b-hf"]) == hash(known["gpt-j-6b-hf"])
    with pytest.raises(KeyError):
        known["gpt-5"]
    with pytest.raises(TypeError):
        known["gpt-j-6b-hf"].arguments["base"] = 1.0


def test_the_page_is_written_from_the_data():
    assert presets_page.PAGE.read_text(encoding="utf-8") == presets_page.page()


# ------------------------------------------------------------------------------------------------
# The functions.


def test_seq_axis_passes_through():
    assert preset("llama-2-7b-hf").seq_axis is None
    rope = preset("llama-2-7b-hf", seq_axis=-3)
    assert rope.seq_axis == -3
    assert "preset llama-2-7b-hf" in rope.explain()
    assert rope == rotary.RotaryEmbedding(128, layout="half", base=10_000.0, seq_axis=-3)
    with pytest.raises(ValueError, match="seq_axis"):
        preset("llama-2-7b-hf", seq_axis=-1)


@pytest.mark.parametrize(
    ("asked", "suggested"),
    [
        ("llama-3.1-8b", "llama-3.1-8b-gguf, llama-3.1-8b-hf, llama-3.1-8b-meta$"),
        ("gpt-oss-20b-fh", "gpt-oss-20b-hf"),
        ("GPT-J-6B-hf", "gpt-j-6b-hf"),
    ],
)
def test_unknown_names_suggest_others(asked, suggested):
    with pytest.raises(ValueError, match=f"`name` must .*{asked!r}; similar names: .*{suggested}"):
        preset(asked)


def test_names_without_a_similar_one():
    with pytest.raises(ValueError, match=r"got 'zzzz'$"):
        preset("zzzz")
    with pytest.raises(ValueError, match=r"got ''$"):
        preset("")
    with pytest.raises(TypeError, match="`name` must .* got 3 of type int"):
        preset(3)


# ------------------------------------------------------------------------------------------------
# The reader.


def table(**changes):
    """Return a preset's table, with changes; None takes a key away."""
    whole = {
        "family": "f",
        "format": "hf",
        "description": "One.",
        "source": {"numbers": "project, file", "layout": "project, file"},
        "head_dim": 8,
        "layout": "half",
        "base": 100.0,
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def made(**changes):
    return _make(_make_preset("x.toml", "a-hf", table(**changes)))


def test_the_reader_makes_presets():
    rope = made(
        scaling={"kind": "Resonance", "scaling": {"kind": "Linear", "factor": 2.0}},
        sections={"kind": "chunked", "sizes": [3, 1]},
        rotary_start=0,
    )
    schedule = rotary.scaling.Resonance(rotary.scaling.Linear(2.0))
    assert rope.scaling == schedule
    assert rope.sections == rotary.sections.chunked(3, 1)
    assert made(
        sections={"kind": "ernie", "h": 1, "w": 1, "t": 2}
    ).sections == rotary.sections.ernie(1, 1, 2)
    decay = made(decay={"kind": "XPos", "center": 4}).decay
    assert (type(decay).__name__, decay.center) == ("XPos", 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": 1.0}, "`theta` must be one of family, .*quirk.*, got 'theta'"),
        ({"seq_axis": -2}, "`seq_axis` must be one of"),
        ({"layout": None}, "`layout` must be given"),
        ({"source": None}, "`source` must be given"),
        ({"family": 3}, "`family` must be a string that is not empty, got 3"),
        ({"description": " "}, "`description` must be a string that is not empty"),
        ({"format": "gguf"}, "`format` must be the last part of the name, got 'gguf'"),
        ({"source": "here"}, "`source` must be a table"),
        ({"source": {"numbers": "x"}}, "`source.layout` must be given"),
        (
            {"source": {"numbers": "x", "layout": ""}},
            "`source.layout` must be a string that is not empty",
        ),
        (
            {"source": {"numbers": "x", "layout": "x", "rotary_dim": "x"}},
            "`source.rotary_dim` must be one of numbers, head_dim, layout, base, got",
        ),
        (
            {
                "scaling": {"kind": "Linear", "factor": 2.0},
                "source": {"numbers": "x", "layout": "x", "scaling.alpha": "x"},
            },
            "`source.scaling.alpha` must be one of",
        ),
        ({"layout": "halves"}, "the preset has invalid values: `layout` must"),
        ({"head_dim": 7}, "the preset has invalid values"),
        ({"base": "x"}, "the preset has invalid values: `base` must be a real number"),
        ({"scaling": 2.0}, "`scaling` must be a table with a `kind`, got 2.0"),
        ({"scaling": {"factor": 2.0}}, "`scaling` must be a table with a `kind`"),
        (
            {"scaling": {"kind": "Linear3"}},
            "`scaling.kind` must be one of .*Linear.*, got 'Linear3'",
        ),
        ({"scaling": {"kind": "Scaling"}}, "`scaling.kind` must be one of"),
        (
            {"scaling": {"kind": "Linear", "scale": 2.0}},
            "`scaling` must have no other keys .*'scale'",
        ),
        (
            {"scaling": {"kind": "Linear", "factor": -1.0}},
            "scaling has invalid values: `factor` must",
        ),
        (
            {"scaling": {"kind": "Clip", "clip_low_n": 1, "scaling": {"kind": "Linear"}}},
            "scaling.scaling has invalid values: .*factor",
        ),
        ({"sections": {"kind": "Sections"}}, "`sections.kind` must be one of"),
        ({"sections": {"kind": "chunked", "sizes": [9]}}, "the preset has invalid values"),
        ({"decay": {"kind": "ALiBi"}}, "`decay.kind` must be one of XPos"),
    ],
)
def test_the_reader_is_strict(changes, message):
    with pytest.raises(ConfigError, match=rf"^rotary/checkpoints/data/x\.toml: \[a-hf\] {message}"):
        made(**changes)


def test_other_files_are_refused_as_data():
    with pytest.raises(ConfigError, match=r"rotary/checkpoints/data/x\.toml must be TOML"):
        _parse("x.toml", "a = ")
    with pytest.raises(ConfigError, match=r"\[a-hf\] `a-hf` must be a table, got 1"):
        _parse("x.toml", '"a-hf" = 1')
    with pytest.raises(ConfigError, match="must be TOML"):
        _parse("x.toml", '["a-hf"]\n["a-hf"]')


def test_a_name_in_two_files_is_refused(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    text = (
        '["a-hf"]\nfamily = "f"\nformat = "hf"\ndescription = "One."\nsource.numbers = "x"\n'
        'source.layout = "x"\nhead_dim = 8\nlayout = "half"\n'
    )
    (data / "one.toml").write_text(text)
    (data / "notes.txt").write_text("no data")
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    read = _read.__wrapped__
    assert list(read()) == ["a-hf"]
    (data / "two.toml").write_text(text)
    with pytest.raises(
        ConfigError, match=r"two\.toml: \[a-hf\] `name` must be unique, but one\.toml"
    ):
        read()
