"""The published schedules: constants of their own projects, identities, sweeps, errors, and transformers itself."""

from __future__ import annotations

import ast
import copy
import dataclasses
import math
import pickle
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rotary
from rotary.scaling import (
    NTK,
    Clip,
    Constant,
    Custom,
    Default,
    DynamicNTK,
    FreqFactors,
    Linear,
    Llama3,
    LongRope,
    Periods,
    Pixel,
    Proportional,
    Resonance,
    Scaling,
    Yarn,
)

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position": 8192}
SYNTHETIC = {  # Phi-3's geometry with factors of our own
    "short_factor": [1 + 0.01 * j for j in range(48)],
    "long_factor": [1 + 1.3 * j for j in range(48)],
    "original_max_position": 4096,
}
ONES = {"short_factor": [1.0] * 32, "long_factor": [1.0] * 32, "original_max_position": 4096}
GPT_OSS = {"factor": 32, "original_max_position": 4096}
DEEPSEEK_V3 = {"factor": 40, "original_max_position": 4096, "mscale": 1, "mscale_all_dim": 1}

EVERY = [
    Default(),
    Custom([0.5**i for i in range(32)]),
    Linear(8),
    DynamicNTK(2, 4096),
    DynamicNTK(2, 4096, fixed=True),
    NTK(alpha=1000),
    NTK(factor=4),
    NTK(factor=4, form="fixed"),
    NTK(factor=4, form="mixed"),
    NTK(factor=4, form="mixed", mixed_b=0.5),
    Yarn(4, 32_768),
    Yarn(**DEEPSEEK_V3, mscale_rule="deepseek"),
    Yarn(**GPT_OSS, truncate=False, extrapolation_factor=0.5, attn_factor=1.25),
    Yarn(4, 32_768, attention_factor=1.5, softmax_factor=2.0),
    LongRope(**ONES, factor=32),
    LongRope(**ONES, max_position=131_072, short_mscale=1.125),
    LongRope(**ONES, short_mscale=1.125, long_mscale=1.25),
    Llama3(8, **LLAMA3),
    Proportional(0.25),
    Pixel(),
    Pixel(224, spacing="log"),
    Constant(),
    Periods(0.01, 10),
    Periods(1, 10_000, unit="radian", endpoint=False),
    Clip(),
    Clip(Llama3(8, **LLAMA3), 5, hard=True),
    Resonance(Yarn(4, 32_768)),
    FreqFactors(Linear(2), freq_factors=[1.0 + i for i in range(32)]),
    FreqFactors(Custom([1.0] * 32), freq_factors=[1.0 + i for i in range(32)]),
    Resonance(Clip(DynamicNTK(2, 4096), 3)),
]


def named(values):
    return [repr(value)[:60] for value in values]


def embedding(schedule, dim=64, base=10_000.0, context_length=8192, *, seq_axis=-2, **more):
    base = base if schedule.needs_base else None
    length = context_length if schedule.needs_length else None
    return rotary.RotaryEmbedding(
        dim,
        layout="half",
        base=base,
        scaling=schedule,
        context_length=length,
        seq_axis=seq_axis,
        **more,
    )


# ------------------------------------------------------------------------------------------------
# Constants, made by the float32 code of the projects themselves.

PUBLISHED = tomllib.loads(Path(__file__).with_name("constants.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", PUBLISHED["schedule"], ids=lambda case: case["name"])
def test_published_constants(case):
    arguments = case.get("arguments", {})
    if case["kind"] == "LongRope":
        arguments = SYNTHETIC | arguments
    rope = rotary.RotaryEmbedding(
        case["dim"],
        layout="half",
        base=case["base"],
        scaling=getattr(rotary.scaling, case["kind"])(**arguments),
        context_length=case.get("context_length"),
    )
    assert rope.inv_freq.dtype == np.float64
    assert rope.inv_freq.shape == (case["dim"] // 2,)
    pairs = [int(pair) for pair in case["inv_freq"]]
    np.testing.assert_allclose(rope.inv_freq[pairs], list(case["inv_freq"].values()), rtol=1e-6)
    if "sum" in case:
        np.testing.assert_allclose(rope.inv_freq.sum(), case["sum"], rtol=1e-7)
    assert rope.attention_factor == pytest.approx(case["attention_factor"], rel=1e-15)
    assert type(rope.attention_factor) is float


@pytest.mark.parametrize(
    ("schedule", "pairs"),
    [
        (NTK(factor=4), {1: 0.8471171851512068, 63: 2.8869549617236e-05}),
        (
            NTK(factor=4, form="fixed"),
            {0: 0.9785720620877, 1: 0.8292502770175, 63: 2.8869549617236e-05},
        ),
        (
            NTK(factor=4, form="mixed", mixed_b=0.625),
            {0: 0.902093645144, 1: 0.738734818971, 63: 2.8869549617236e-05},
        ),
    ],
    ids=["aware", "fixed", "mixed"],
)
def test_ntk_constants(schedule, pairs):
    actual = schedule.inv_freq(128, 1e4)
    np.testing.assert_allclose(actual[list(pairs)], list(pairs.values()), rtol=1e-12)


def test_resonance_constants():
    actual = Resonance().inv_freq(16, 10_000.0)
    expected = [1.04719755, 0.314159265, 0.0997331001, 0.0315737955]
    np.testing.assert_allclose(actual[:4], expected, rtol=1e-8)
    np.testing.assert_array_equal(np.rint(2 * np.pi / actual)[:4], [6, 20, 63, 199])


def test_attention_and_softmax_factors():
    v3 = embedding(Yarn(**DEEPSEEK_V3))
    assert v3.attention_factor == 1.0
    assert v3.softmax_factor == pytest.approx(1.8738542070926265, rel=1e-15)
    assert type(v3.softmax_factor) is float
    lite = Yarn(40, 4096, mscale=0.707, mscale_all_dim=0.707)
    assert lite.attention_factor == 1.0
    assert lite.softmax_factor == pytest.approx(1.2608037774058554**2, rel=1e-15)
    assert Yarn(4, 32_768).softmax_factor == 1.0
    assert Yarn(**DEEPSEEK_V3, softmax_factor=1.0).softmax_factor == 1.0


@pytest.mark.parametrize(
    ("rule", "mscale", "mscale_all_dim", "expected"),
    [
        ("transformers", None, None, 1.138629436111989),
        ("transformers", 2.0, None, 1.138629436111989),
        ("transformers", 1.0, 0.0, 1.138629436111989),
        ("transformers", 2.0, 1.0, (0.2 * math.log(4) + 1) / 1.138629436111989),
        ("deepseek", None, None, 1.138629436111989),
        ("deepseek", 2.0, None, 0.2 * math.log(4) + 1),
        ("deepseek", None, 1.0, 1.0),
        ("deepseek", 1.0, 1.0, 1.0),
        ("paper", 2.0, 1.0, 1.138629436111989),
        ("telechat3", None, None, 1.0970406052783923),
        ("none", 2.0, 1.0, 1.0),
    ],
)
def test_mscale_rules(rule, mscale, mscale_all_dim, expected):
    values = {"mscale": mscale, "mscale_all_dim": mscale_all_dim, "mscale_rule": rule}
    actual = Yarn(4, 32_768, **values)
    assert actual.attention_factor == pytest.approx(expected, rel=1e-15)
    assert Yarn(4, 32_768, **values, attn_factor=2.0).attention_factor == pytest.approx(
        2 * expected, rel=1e-15
    )
    assert Yarn(4, 32_768, **values, attention_factor=3.0).attention_factor == 3.0
    assert Yarn(1, 32_768, **values).attention_factor == 1.0
    reads = rule in ("transformers", "deepseek") and mscale_all_dim
    assert (actual.softmax_factor != 1.0) == bool(reads)


def test_longrope_factors_depend_on_the_length():
    both = LongRope(**ONES, short_mscale=1.125, long_mscale=1.25)
    assert embedding(both, context_length=4096).attention_factor == 1.125
    assert embedding(both, context_length=4097).attention_factor == 1.25
    assert both.attention_factor == both.attention_factor_at(None) == 1.25
    formula = 1.1902380714238083
    one = LongRope(**ONES, factor=32, short_mscale=1.125)
    assert one.attention_factor_at(4096) == 1.125
    assert one.attention_factor_at(4097) == pytest.approx(formula, rel=1e-15)
    other = LongRope(**ONES, factor=32, long_mscale=1.25)
    assert other.attention_factor_at(4096) == pytest.approx(formula, rel=1e-15)
    assert other.attention_factor_at(4097) == 1.25
    given = LongRope(**ONES, attention_factor=1.5)
    assert given.attention_factor_at(4096) == given.attention_factor_at(4097) == 1.5
    assert LongRope(**ONES, factor=0.5).attention_factor == 1.0


def test_modifiers_keep_the_factors_of_the_inner_schedule():
    rope = embedding(Resonance(Clip(Yarn(**DEEPSEEK_V3, attention_factor=1.5))))
    assert rope.attention_factor == 1.5
    assert rope.softmax_factor == pytest.approx(1.8738542070926265, rel=1e-15)
    assert rope.scaling.attention_factor == 1.5
    long = Clip(LongRope(**ONES, short_mscale=1.125, long_mscale=1.25))
    assert embedding(long, context_length=4096).attention_factor == 1.125
    assert embedding(long, context_length=4097).attention_factor == 1.25
    assert not Clip(Constant(), 1).needs_base
    assert Clip(DynamicNTK(2, 8)).needs_length
    assert not Clip().needs_length


# ------------------------------------------------------------------------------------------------
# Identities.

BASES = st.floats(1.5, 1e8)
LANES = st.integers(2, 64)
FACTORS = st.floats(0.125, 128.0)


def neutral(pairs):
    ones = [1.0] * pairs
    return [
        (Linear(1), None),
        (Proportional(1), None),
        (Proportional(1, factor=1), None),
        (DynamicNTK(3, 4096), 4096),
        (DynamicNTK(3, 4096), 17),
        (DynamicNTK(1, 4096, fixed=True), None),
        (NTK(factor=1), None),
        (NTK(alpha=1), None),
        (NTK(factor=1, form="fixed"), None),
        (NTK(factor=1, form="mixed"), None),
        (LongRope(ones, ones, 4096, factor=1), 4096),
        (LongRope(ones, ones, 4096, factor=32), 131_072),
        (Llama3(1, **LLAMA3), None),
        (FreqFactors(freq_factors=ones), None),
        (Clip(clip_low_n=1), None),
    ]


@settings(deadline=None, max_examples=50)
@given(BASES, LANES)
def test_neutral_parameters_give_the_bits_of_default(base, pairs):
    plain = rotary.inv_freq(2 * pairs, base=base)
    for schedule, length in neutral(pairs):
        actual = schedule.inv_freq(2 * pairs, base, length)
        assert actual.tobytes() == plain.tobytes(), schedule


@settings(deadline=None, max_examples=100)
@given(st.floats(100.0, 1e8), LANES, st.integers(1000, 10**6), st.booleans(), st.floats(0, 1))
def test_yarn_of_factor_1_gives_the_bits_of_default(base, pairs, length, truncate, extrapolation):
    actual = Yarn(1, length, truncate=truncate, extrapolation_factor=extrapolation)
    assert actual.attention_factor == actual.softmax_factor == 1.0
    try:
        values = actual.inv_freq(2 * pairs, base)
    except ValueError as error:
        assert "ramp" in str(error)  # noqa: PT017  (the sweep reaches specifications that are refused)
        return
    assert values.tobytes() == rotary.inv_freq(2 * pairs, base=base).tobytes()


def test_every_ratio_of_periods_1_in_radians_is_default():
    for base in (10_000.0, 500_000.0, 7.5):
        actual = Periods(1, base, unit="radian", endpoint=False).inv_freq(128)
        assert actual.tobytes() == rotary.inv_freq(128, base=base).tobytes()


@settings(deadline=None)
@given(BASES, LANES, FACTORS)
def test_linear_is_a_change_of_unit(base, pairs, factor):
    actual = Linear(factor).inv_freq(2 * pairs, base)
    np.testing.assert_array_equal(actual, rotary.inv_freq(2 * pairs, base=base) / factor)


@settings(deadline=None, max_examples=50)
@given(BASES, LANES, st.floats(0.125, 1000.0), st.floats(0.1, 2.0))
def test_all_forms_of_ntk_divide_the_last_frequency_by_the_factor(base, pairs, factor, mixed_b):
    last = Linear(factor).inv_freq(2 * pairs, base)[-1]
    for schedule in (
        NTK(factor=factor),
        NTK(alpha=factor),
        NTK(factor=factor, form="fixed"),
        NTK(factor=factor, form="mixed", mixed_b=mixed_b),
    ):
        actual = schedule.inv_freq(2 * pairs, base)
        np.testing.assert_allclose(actual[-1], last, rtol=1e-15)
    assert NTK(factor=factor).inv_freq(2 * pairs, base)[0] == 1.0


@settings(deadline=None, max_examples=50)
@given(st.floats(2.0, 1e7), LANES, st.floats(0.5, 100.0))
def test_ntk_is_default_of_another_base(base, pairs, factor):
    dim = 2 * pairs
    grown = base * factor ** (dim / (dim - 2))
    actual = NTK(factor=factor).inv_freq(dim, base)
    np.testing.assert_allclose(actual, rotary.inv_freq(dim, base=grown), rtol=1e-12)
    dynamic = DynamicNTK(factor, 1000).inv_freq(dim, base, 3000)
    grown = base * (factor * 3 - (factor - 1)) ** (dim / (dim - 2))
    np.testing.assert_allclose(dynamic, rotary.inv_freq(dim, base=grown), rtol=1e-12)


def test_dynamic_fixed_is_growing_at_its_end():
    growing, fixed = DynamicNTK(4, 1000), DynamicNTK(4, 1000, fixed=True)
    assert growing.inv_freq(64, 1e4, 4000).tobytes() == fixed.inv_freq(64, 1e4).tobytes()
    assert growing.needs_length
    assert not fixed.needs_length


def test_yarn_without_extrapolation_is_linear():
    actual = Yarn(4, 32_768, extrapolation_factor=0).inv_freq(128, 1e6)
    assert actual.tobytes() == Linear(4).inv_freq(128, 1e6).tobytes()


def test_yarn_keeps_and_divides_exactly_at_the_ends():
    actual, plain = Yarn(4, 32_768).inv_freq(128, 1e6), rotary.inv_freq(128, base=1e6)
    np.testing.assert_array_equal(actual[:24], plain[:24])
    np.testing.assert_array_equal(actual[40:], plain[40:] / 4)
    assert ((actual[24:40] < plain[24:40]) & (actual[24:40] > plain[24:40] / 4)).all()


def test_yarn_of_a_ramp_without_width():
    """If both ends are one channel pair, that pair is kept and the next one divided."""
    schedule = Yarn(4, 63, beta_fast=10.02, beta_slow=10.01, truncate=False)
    plain = rotary.inv_freq(8, base=1e4)
    np.testing.assert_array_equal(schedule.inv_freq(8, 1e4), [plain[0], *(plain[1:] / 4)])


def test_llama3_by_its_own_definition():
    plain = rotary.inv_freq(128, base=5e5)
    wavelengths = 2 * np.pi / plain
    actual = Llama3(8, **LLAMA3).inv_freq(128, 5e5)
    np.testing.assert_array_equal(actual[wavelengths < 2048], plain[wavelengths < 2048])
    np.testing.assert_array_equal(actual[wavelengths > 8192], plain[wavelengths > 8192] / 8)
    between = (wavelengths >= 2048) & (wavelengths <= 8192)
    assert np.flatnonzero(between).tolist() == list(range(29, 35))
    smooth = (8192 / wavelengths[between] - 1) / 3
    expected = (1 - smooth) * plain[between] / 8 + smooth * plain[between]
    np.testing.assert_allclose(actual[between], expected, rtol=1e-15)


def test_proportional_divides_the_first_frequencies_and_zeroes_the_others():
    actual = Proportional(0.5, factor=4).inv_freq(12, 1e4)
    plain = rotary.inv_freq(12, base=1e4)
    np.testing.assert_array_equal(actual, [*(plain[:3] / 4), 0.0, 0.0, 0.0])
    assert not Proportional(0.0).inv_freq(12, 1e4).any()
    assert np.count_nonzero(Proportional(0.3).inv_freq(12, 1e4)) == int(0.3 * 12 // 2) == 1


def test_freq_factors_are_longrope_without_a_switch():
    long = LongRope(**SYNTHETIC, factor=32).inv_freq(96, 1e4, 4097)
    factors = FreqFactors(freq_factors=SYNTHETIC["long_factor"]).inv_freq(96, 1e4)
    np.testing.assert_array_equal(long, factors)


def test_pixel():
    np.testing.assert_allclose(Pixel().inv_freq(64), np.pi * np.linspace(1, 5, 32), rtol=1e-15)
    log = np.pi * 2 ** np.linspace(0, math.log2(224) - 1, 16)
    np.testing.assert_allclose(Pixel(224, spacing="log").inv_freq(32), log, rtol=1e-14)


def test_constant():
    assert Constant().inv_freq(6).tolist() == [1.0, 1.0, 1.0]
    assert Constant(-0.5).inv_freq(4).tolist() == [-0.5, -0.5]


def test_periods():
    periods = 2 * np.pi / Periods(1e-3, 4.0).inv_freq(64)
    np.testing.assert_allclose(periods, np.geomspace(1e-3, 4.0, 32), rtol=1e-14)
    scales = 1 / Periods(2, 200, unit="radian", endpoint=False).inv_freq(8)
    np.testing.assert_allclose(scales, 2 * 100 ** (np.arange(4) / 4), rtol=1e-14)
    np.testing.assert_allclose(2 * np.pi / Periods(3, 9).inv_freq(2), [3.0], rtol=1e-15)


def test_clip():
    plain = rotary.inv_freq(128, base=1e4)
    soft, hard = Clip().inv_freq(128, 1e4), Clip(hard=True).inv_freq(128, 1e4)
    np.testing.assert_array_equal(soft[:45], plain[:45])  # the window starts at 1
    fade = 0.5 * (1 + np.cos(np.linspace(0, np.pi, 20)))
    np.testing.assert_allclose(soft[44:], plain[44:] * fade, rtol=1e-15)
    assert soft[-1] == 0.0
    np.testing.assert_array_equal(hard, [*plain[:44], *[0.0] * 20])


def test_modifiers_change_frequencies_of_several_axes():
    W = np.array([[1.0, -0.5, 0.25], [0.0, 1.0, 0.125]])
    np.testing.assert_array_equal(Clip(Custom(W=W), 2, hard=True).inv_freq(6)[:, 1:], 0.0)
    np.testing.assert_array_equal(
        FreqFactors(Custom(W=W), freq_factors=[1, 2, 4]).inv_freq(6), W / [1, 2, 4]
    )
    actual = Resonance(Custom(W=W)).inv_freq(6)
    np.testing.assert_allclose(actual[0], 2 * np.pi / np.array([6, -13, 25]), rtol=1e-15)
    assert actual[1, 0] == 0.0


@settings(deadline=None, max_examples=50)
@given(BASES, LANES)
def test_resonance_repeats_after_whole_positions(base, pairs):
    actual = Resonance().inv_freq(2 * pairs, base)
    periods = 2 * np.pi / actual
    np.testing.assert_allclose(periods, np.rint(periods), rtol=1e-15)
    plain = 2 * np.pi / rotary.inv_freq(2 * pairs, base=base)
    assert (np.abs(periods - plain) <= 0.5 + 1e-15 * plain).all()


# ------------------------------------------------------------------------------------------------
# Values.


@pytest.mark.parametrize("schedule", EVERY, ids=named(EVERY))
def test_schedules_are_frozen_values(schedule):
    assert isinstance(schedule, Scaling)
    assert dataclasses.is_dataclass(schedule)
    for field in dataclasses.fields(schedule):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(schedule, field.name, 1)
    if isinstance(schedule, Custom):
        return  # its copies have tests of their own
    for again in (
        eval(repr(schedule)),
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
        dataclasses.replace(schedule),
    ):
        assert again == schedule
        assert hash(again) == hash(schedule)
    assert sum(schedule == other for other in EVERY) == 1


def signatures_for_type_checkers():
    """The arguments of each `__init__` that only type checkers read, by the name of its class."""
    found = {}
    for file in sorted(Path(rotary.scaling.__path__[0]).glob("*.py")):
        for cls in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for node in cls.body if isinstance(cls, ast.ClassDef) else ():
                if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                    found[cls.name] = node.body[0].args
    return found


@pytest.mark.parametrize("cls", [Yarn, LongRope, FreqFactors])
def test_a_signature_for_type_checkers_is_that_of_the_class(cls):
    arguments = signatures_for_type_checkers()[cls.__name__]
    names = [each.arg for each in (*arguments.args[1:], *arguments.kwonlyargs)]
    fields = [each for each in dataclasses.fields(cls) if each.init]
    assert names == [each.name for each in fields]
    assert len(arguments.kwonlyargs) == sum(each.kw_only for each in fields)
    defaults = [ast.literal_eval(each) for each in arguments.defaults]
    given = [each.default for each in fields if each.default is not dataclasses.MISSING]
    assert [one for one in defaults if one is not ...] == [
        one for one, other in zip(given, defaults, strict=True) if other is not ...
    ]


def test_no_other_schedule_has_a_signature_for_type_checkers():
    assert signatures_for_type_checkers().keys() == {"Yarn", "LongRope", "FreqFactors"}


@pytest.mark.parametrize("schedule", EVERY, ids=named(EVERY))
def test_schedules_make_embeddings(schedule):
    rope = embedding(schedule)
    assert rope.inv_freq.shape == (32,)
    assert rope.inv_freq.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        rope.inv_freq[0] = 1.0
    assert rope == pickle.loads(pickle.dumps(rope)) == eval(repr(rope), vars(rotary) | globals())
    x = np.random.default_rng(0).standard_normal((5, 64))
    turned = rope(x, offset=100)
    norms = np.linalg.norm(x, axis=-1) * rope.attention_factor
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), norms, rtol=1e-13)
    np.testing.assert_allclose(rope.inverse(turned, offset=100), x, atol=1e-14)
    np.testing.assert_allclose(rope.shift(rope(x, offset=90), 10), turned, atol=1e-13)
    if not schedule.needs_base:
        np.testing.assert_array_equal(schedule.inv_freq(64), rope.inv_freq)


def test_derived_fields_are_derived_again_by_replace():
    yarn = dataclasses.replace(Yarn(**DEEPSEEK_V3), factor=4)
    assert yarn == Yarn(4, 4096, mscale=1, mscale_all_dim=1)
    assert yarn.softmax_factor == pytest.approx(1.138629436111989**2, rel=1e-15)
    copied = pickle.loads(pickle.dumps(Yarn(4, 32_768)))
    assert dataclasses.replace(copied, factor=1).attention_factor == 1.0
    given = dataclasses.replace(Yarn(4, 32_768, attention_factor=1.5), factor=8)
    assert given.attention_factor == 1.5
    long = dataclasses.replace(LongRope(**ONES, factor=32), factor=1)
    assert long.attention_factor == 1.0
    assert dataclasses.replace(NTK(factor=4, form="mixed"), form="aware") == NTK(factor=4)


def test_numbers_of_other_kinds_are_the_same_value():
    assert Linear(np.int64(4)) == Linear(4.0)
    assert LongRope(np.ones(32, np.float32), (1,) * 32, np.int32(4096), factor=32) == LongRope(
        **ONES, factor=32
    )


# ------------------------------------------------------------------------------------------------
# Lengths.


@pytest.mark.parametrize("schedule", [DynamicNTK(2, 8), LongRope(**ONES, factor=2)], ids=type)
def test_a_length_is_required(schedule):
    with pytest.raises(TypeError, match="`context_length` must be given"):
        rotary.RotaryEmbedding(64, layout="half", base=1e4, scaling=schedule)
    with pytest.raises(TypeError, match="`context_length` must be given"):
        schedule.inv_freq(64, 1e4)
    with pytest.raises(TypeError, match="`base` must be given"):
        schedule.inv_freq(64)


@pytest.mark.parametrize("wrap", [lambda x: x, Clip, lambda x: Resonance(Clip(x, 2))])
def test_positions_beyond_the_length_are_refused(wrap):
    rope = embedding(wrap(DynamicNTK(2, 8)), context_length=10)
    x = np.ones((2, 3, 64))
    for verb in (rope, rope.inverse, rope.vjp):
        verb(x, offset=7)
        verb(x, positions=[9, -5, 0])
        verb(x, positions=[9.5, 0.0, 0.0])
        verb(x, offset=[7, 0])
        verb(x[0], cu_seqlens=[0, 2, 3], offset=[8, 9])
        for arguments, name in (
            ({"offset": 8}, "offset"),
            ({"offset": 8.5}, "offset"),
            ({"offset": [0, 8]}, "offset"),
            ({"positions": [0, 1, 10]}, "positions"),
            ({"positions": [8, 9, 10]}, "positions"),
            ({"positions": [[0, 1, 2], [0, 1, 11]]}, "positions"),
            ({"positions": [0.0, 1.0, 10.0]}, "positions"),
        ):
            with pytest.raises(ValueError, match=rf"`{name}` .*context_length 10.*at_length"):
                verb(x, **arguments)
    with pytest.raises(ValueError, match=r"`offset` .*10.*got 10"):
        rope(x[0], cu_seqlens=[0, 2, 3], offset=[9, 0])
    with pytest.raises(ValueError, match="`offset`"):
        rope(np.ones((11, 64)))
    rope.tables(9)
    for places in (10, [0, 12], np.array([10.0])):
        with pytest.raises(ValueError, match="`positions` .*10"):
            rope.tables(places)
    rope.matrix(9)
    with pytest.raises(ValueError, match="position"):
        rope.matrix(10)
    rope(np.ones((0, 64)), offset=10)
    rope.shift(x, 100)
    longer = rope.at_length(20)
    longer(x, offset=10)
    assert longer.context_length == 20
    assert longer.at_length(10) == rope
    assert not np.array_equal(longer.inv_freq, rope.inv_freq)


def test_positions_have_no_limit_if_nothing_depends_on_the_length():
    x = np.ones((3, 64))
    for schedule in (Default(), Linear(2), DynamicNTK(2, 8, fixed=True), Clip()):
        rope = rotary.RotaryEmbedding(
            64, layout="half", base=1e4, scaling=schedule, context_length=2
        )
        rope(x, offset=10**15)
        assert "not read by" in rope.explain()


def test_refused_positions_change_nothing():
    rope = embedding(DynamicNTK(2, 8), context_length=10)
    x = np.ones((3, 64))
    with pytest.raises(ValueError, match="`offset`"):
        rope(x, offset=8, out=x)
    assert (x == 1).all()


# ------------------------------------------------------------------------------------------------
# Explain.


@pytest.mark.parametrize("schedule", EVERY, ids=named(EVERY))
def test_explain_shows_every_number_and_its_origin(schedule):
    lines = embedding(schedule).explain().splitlines()
    inner, indent = schedule, "  "
    while inner is not None:
        for field in dataclasses.fields(inner):
            value = getattr(inner, field.name)
            (line,) = [line for line in lines if line.startswith(f"{indent}{field.name} ")]
            value = value.tolist() if field.name == "W" else value
            shown = type(value).__name__ if isinstance(value, Scaling) else str(value)
            assert shown in line
            assert line.endswith(("given", "the default")) or "derived: " in line
        inner, indent = getattr(inner, "scaling", None), indent + "  "


def explained(schedule, **arguments):
    """The text of explain, with single spaces."""
    return " ".join(embedding(schedule, **arguments).explain().split())


def test_explain_shows_derived_numbers():
    text = explained(Yarn(4, 32_768), dim=128, base=1e6)
    for words in (
        "low 23 derived: channel pair 23.59594761 of beta_fast",
        "high 40 derived: channel pair 39.65088071 of beta_slow",
        "channel pairs 24 kept, 16 mixed, 24 divided",
        "attention_factor 1.138629436111989 derived: 0.1 ln(factor) + 1",
    ):
        assert words in text
    text = explained(LongRope(**ONES, max_position=131_072), context_length=4096)
    assert "short_factor derived: context_length 4096 is not above" in text
    assert "stretch 32.0 derived: max_position / original_max_position" in text
    assert "given: positions stay below 4096" in text
    text = explained(DynamicNTK(2, 4096), dim=128)
    assert "30527.7" in text
    assert "11158839.9" in explained(NTK(alpha=1000), dim=128)
    assert "rotated pairs 8 derived" in explained(Proportional(0.25))


# ------------------------------------------------------------------------------------------------
# Errors.

TYPE, VALUE = TypeError, ValueError
REFUSED = [
    (Linear, {}, TYPE, "factor"),
    (Linear, {"factor": "2"}, TYPE, "`factor` must be a real number.*'2'"),
    (Linear, {"factor": True}, TYPE, "`factor`"),
    (Linear, {"factor": None}, TYPE, "`factor`"),
    (Linear, {"factor": 0}, VALUE, "`factor` must be positive.*0"),
    (Linear, {"factor": -1.5}, VALUE, "`factor` must be positive.*-1.5"),
    (Linear, {"factor": math.nan}, VALUE, "`factor` must be finite.*nan"),
    (Linear, {"factor": 2, "size": 1}, TYPE, "size"),
    (DynamicNTK, {"factor": 2}, TYPE, "max_position"),
    (DynamicNTK, {"factor": 2, "max_position": 0}, VALUE, "`max_position` must be at least 1.*0"),
    (DynamicNTK, {"factor": 2, "max_position": 8.0}, TYPE, "`max_position`.*8.0"),
    (DynamicNTK, {"factor": 2, "max_position": 8, "fixed": 1}, TYPE, "`fixed` must be True.*1"),
    (NTK, {}, TYPE, "`factor` or `alpha` must be given"),
    (NTK, {"factor": 2, "alpha": 2}, VALUE, "`factor` and `alpha` must not both"),
    (NTK, {"alpha": 2, "form": "fixed"}, VALUE, "`alpha` must be left out.*'fixed'"),
    (NTK, {"factor": 2, "form": "mixt"}, VALUE, "`form` must be one of 'aware'.*'mixt'"),
    (NTK, {"factor": 2, "form": 3}, TYPE, "`form` must be a string.*3"),
    (NTK, {"factor": 2, "mixed_b": 0.5}, VALUE, "`mixed_b` must be left out.*0.5"),
    (NTK, {"factor": 2, "form": "mixed", "mixed_b": 0}, VALUE, "`mixed_b` must be positive"),
    (Yarn, {"factor": 4}, TYPE, "original_max_position"),
    (Yarn, {"factor": 4, "original_max_position": -1}, VALUE, "`original_max_position`.*-1"),
    (
        Yarn,
        {"factor": 4, "original_max_position": 8, "beta_fast": 0.5},
        VALUE,
        "`beta_fast`.*at least",
    ),
    (Yarn, {"factor": 4, "original_max_position": 8, "beta_slow": 0}, VALUE, "`beta_slow`"),
    (Yarn, {"factor": 4, "original_max_position": 8, "truncate": "no"}, TYPE, "`truncate`.*'no'"),
    (Yarn, {"factor": 4, "original_max_position": 8, "mscale": -1}, VALUE, "`mscale`.*negative"),
    (Yarn, {"factor": 4, "original_max_position": 8, "mscale_all_dim": "1"}, TYPE, "mscale_all"),
    (Yarn, {"factor": 4, "original_max_position": 8, "mscale_rule": "x"}, VALUE, "`mscale_rule`"),
    (Yarn, {"factor": 4, "original_max_position": 8, "extrapolation_factor": 2}, VALUE, "0 to 1"),
    (Yarn, {"factor": 4, "original_max_position": 8, "softmax_factor": 0}, VALUE, "softmax_factor"),
    (
        Yarn,
        {"factor": 4, "original_max_position": 8, "attention_factor": 1.5, "attn_factor": 2},
        VALUE,
        "`attention_factor` and `attn_factor`.*1.5 and 2",
    ),
    (LongRope, ONES, TYPE, "`factor` must be given, or `max_position`"),
    (LongRope, {**ONES, "short_mscale": 1.0}, TYPE, "`factor` must be given"),
    (LongRope, {**ONES, "long_mscale": 1.0}, TYPE, "`factor` must be given"),
    (LongRope, {**ONES, "factor": 2, "max_position": 8192}, VALUE, "`factor` and `max_position`"),
    (
        LongRope,
        {**ONES, "attention_factor": 1.5, "long_mscale": 2},
        VALUE,
        "`attention_factor` must be left out.*1.5",
    ),
    (LongRope, {**ONES, "factor": 2, "short_factor": [1.0]}, VALUE, "`long_factor`.*1, got 32"),
    (LongRope, {**ONES, "factor": 2, "short_factor": 1.0}, VALUE, r"`short_factor`.*\(\)"),
    (LongRope, {**ONES, "factor": 2, "long_factor": [1, -2.5]}, VALUE, "`long_factor`.*-2.5.*1"),
    (LongRope, {**ONES, "factor": 2, "long_factor": [math.nan]}, VALUE, "`long_factor`.*nan"),
    (LongRope, {**ONES, "factor": 2, "long_factor": ["a"]}, TYPE, "`long_factor` must hold real"),
    (LongRope, {**ONES, "factor": 2, "original_max_position": 1}, VALUE, "`original_max_position`"),
    (Llama3, {"factor": 8}, TYPE, "low_freq_factor"),
    (
        Llama3,
        {"factor": 8, **LLAMA3, "high_freq_factor": 0.5},
        VALUE,
        "`high_freq_factor`.*least.*1",
    ),
    (Proportional, {"partial_rotary_factor": 1.5}, VALUE, "`partial_rotary_factor`.*0 to 1.*1.5"),
    (Proportional, {"factor": 0}, VALUE, "`factor`"),
    (Pixel, {"max_freq": 0}, VALUE, "`max_freq`"),
    (Pixel, {"spacing": "cubic"}, VALUE, "`spacing` must be one of"),
    (Constant, {"value": math.inf}, VALUE, "`value` must be finite"),
    (Periods, {"min": 0, "max": 1}, VALUE, "`min` must be positive"),
    (Periods, {"min": 1, "max": 2, "unit": "s"}, VALUE, "`unit`"),
    (Clip, {"scaling": Linear}, TYPE, "`scaling` must be a schedule of rotary.scaling"),
    (Clip, {"clip_low_n": 0}, VALUE, "`clip_low_n`"),
    (Clip, {"hard": 1}, TYPE, "`hard`"),
    (Resonance, {"scaling": "yarn"}, TYPE, "`scaling`.*'yarn'"),
    (FreqFactors, {}, TYPE, "freq_factors"),
    (FreqFactors, {"freq_factors": [0.0]}, VALUE, r"`freq_factors`.*0\.0"),
    (FreqFactors, {"freq_factors": []}, VALUE, r"`freq_factors`.*\(0,\)"),
]


@pytest.mark.parametrize(
    ("schedule", "arguments", "error", "match"),
    REFUSED,
    ids=[f"{case[0].__name__} {case[1]}"[:70] for case in REFUSED],
)
def test_invalid_fields_are_refused(schedule, arguments, error, match):
    with pytest.raises(error, match=match):
        schedule(**arguments)


@pytest.mark.parametrize(
    ("schedule", "dim", "base", "match"),
    [
        (LongRope(**ONES, factor=2), 96, 1e4, "`short_factor` must have 48 .*96 .*got 32"),
        (FreqFactors(freq_factors=[1.0]), 4, 1e4, "`freq_factors` must have 2 .*got 1"),
        (Clip(), 8, 1e4, "`clip_low_n` must be at most 4, .*got 20"),
        (Yarn(4, 4096), 8, 0.5, "`base` must be above 1 for Yarn.*0.5"),
        (Yarn(4, 2), 64, 1e4, "`original_max_position` must give a ramp .* got 2,"),
        (NTK(factor=2), 2, 1e4, "`dim` must be at least 4.*2"),
        (DynamicNTK(2, 8), 2, 1e4, "`dim` must be at least 4.*2"),
        (Resonance(Linear(0.01)), 8, 1e4, "wavelengths.*Resonance"),
        (Linear(1e-300), 8, 1e4, r"Linear must give .*below 2\*\*63"),
        (Linear(5e-324), 8, 1e4, r"Linear must give .*below 2\*\*63"),
    ],
)
def test_frequencies_of_wrong_width_or_range_are_refused(schedule, dim, base, match):
    with pytest.raises(ValueError, match=match):
        schedule.inv_freq(dim, base, 4000)
    with pytest.raises(ValueError, match=match):
        rotary.RotaryEmbedding(dim, layout="half", base=base, scaling=schedule, context_length=4000)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((7, 1e4), ValueError, "`dim` must be even.*7"),
        ((8.0, 1e4), TypeError, "`dim` must be an integer"),
        ((8,), TypeError, "`base` must be given, .*Linear"),
        ((8, -1.0), ValueError, "`base` must be positive"),
        ((8, "1"), TypeError, "`base` must be a real number"),
    ],
)
def test_arguments_of_frequencies_are_checked(arguments, error, match):
    with pytest.raises(error, match=match):
        Linear(2).inv_freq(*arguments)


@pytest.mark.parametrize("length", [0, -1])
def test_lengths_are_checked(length):
    with pytest.raises(ValueError, match="`context_length` must be at least 1"):
        DynamicNTK(2, 8).inv_freq(8, 1e4, length)


# ------------------------------------------------------------------------------------------------
# The code of transformers, which computes in float32. In float64, rounding does not hide its formulas.


class Wide:
    """torch, with float64 for float32."""

    def __init__(self, torch):
        self.torch = torch
        self.float = self.float32 = torch.float64

    def __getattr__(self, name):
        return getattr(self.torch, name)


@pytest.fixture(params=["float32", "float64"])
def theirs(request, monkeypatch):
    """The frequencies of transformers for a rope type, in its own precision or in the next higher one."""
    import torch
    from transformers import modeling_rope_utils

    if request.param == "float64":
        monkeypatch.setattr(modeling_rope_utils, "torch", Wide(torch))
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)

    def compute(rope_type, dim, base, context_length=None, max_position=131_072, **parameters):
        config = SimpleNamespace(
            head_dim=dim,
            hidden_size=dim,
            num_attention_heads=1,
            max_position_embeddings=max_position,
            rope_parameters={"rope_theta": base, **parameters},
            standardize_rope_params=lambda: None,
        )
        function = modeling_rope_utils.ROPE_INIT_FUNCTIONS[rope_type]
        values, factor = function(config, seq_len=context_length)
        assert str(values.dtype) == f"torch.{request.param}"
        return values.numpy(), factor

    return compute


def rounding(base, digits=24):
    """The relative error of their numbers, from their operations and from a rounded exponent."""
    return (8 + math.log(base)) * 2.0**-digits


def agree(ours, theirs, base):
    """Check frequencies against theirs.

    In float64 the formula is one and the same, and what remains is far below a float32 ulp.
    """
    if theirs.dtype == np.float64:
        np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=0)
        np.testing.assert_array_max_ulp(
            ours.astype(np.float32), theirs.astype(np.float32), maxulp=1
        )
    else:
        np.testing.assert_allclose(ours, theirs, rtol=rounding(base), atol=0)


SWEEP = settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=["function_scoped_fixture"],
)
ORACLE_BASES = st.sampled_from([1e4, 1.5e5, 5e5, 1e6, 5e6, 1e7]) | st.floats(100.0, 1e8)
DIMS = st.integers(2, 128).map(lambda pairs: 2 * pairs)
FACTOR = st.sampled_from([1.0, 2.0, 4.0, 8.0, 32.0, 40.0]) | st.floats(0.5, 64.0)


@pytest.mark.oracle
@SWEEP
@given(dim=DIMS, base=ORACLE_BASES, factor=FACTOR)
def test_linear_equals_transformers(theirs, dim, base, factor):
    values, attention = theirs("linear", dim, base, factor=factor)
    schedule = Linear(factor)
    agree(schedule.inv_freq(dim, base), values, base)
    assert schedule.attention_factor == attention


@pytest.mark.oracle
@SWEEP
@given(
    dim=DIMS,
    base=ORACLE_BASES,
    factor=FACTOR,
    max_position=st.integers(1, 10**6),
    length=st.integers(1, 10**7),
)
def test_dynamic_equals_transformers(theirs, dim, base, factor, max_position, length):
    values, attention = theirs("dynamic", dim, base, length, max_position, factor=factor)
    schedule = DynamicNTK(factor, max_position)
    ours = schedule.inv_freq(dim, base, length)
    if values.dtype == np.float64:
        # Their power of the grown base, a float64 as well, is rounded before it is raised again.
        np.testing.assert_allclose(ours, values, rtol=1e-12)
    else:
        agree(ours, values, base)
    assert schedule.attention_factor == attention


@pytest.mark.oracle
@SWEEP
@given(
    dim=DIMS,
    base=ORACLE_BASES,
    factor=FACTOR,
    original=st.sampled_from([2048, 4096, 8192, 32_768, 131_072]) | st.integers(1000, 10**6),
    betas=st.tuples(st.floats(0.5, 4.0), st.floats(8.0, 64.0)) | st.just((1.0, 32.0)),
    truncate=st.booleans(),
    mscale=st.none() | st.floats(0.0, 2.0),
    mscale_all_dim=st.none() | st.floats(0.0, 2.0),
    attention_factor=st.none() | st.floats(0.5, 2.0),
)
def test_yarn_equals_transformers(
    theirs,
    dim,
    base,
    factor,
    original,
    betas,
    truncate,
    mscale,
    mscale_all_dim,
    attention_factor,
):
    slow, fast = betas
    mscales = {"mscale": mscale, "mscale_all_dim": mscale_all_dim}
    common = {"beta_slow": slow, "beta_fast": fast, "truncate": truncate, **mscales}
    values, attention = theirs(
        "yarn",
        dim,
        base,
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=attention_factor,
        **common,
    )
    schedule = Yarn(factor, original, attention_factor=attention_factor, **common)
    plain = rotary.inv_freq(dim, base=base) / min(factor, 1)
    try:
        ours = schedule.inv_freq(dim, base)
    except ValueError as error:
        assert "the ramp must not end" in str(error)  # noqa: PT017  (refused, for projects disagree)
        return
    if values.dtype == np.float64:
        # Their 1 - (1 - ramp) keeps 53 bits of 1, not of a ramp that is nearly 0.
        assert (np.abs(ours - values) <= 2 * rounding(base, 53) * plain).all()
    else:
        # The error of a ramp whose ends are no whole channel pairs is the rounding error of their index.
        slack = rounding(base) + (0 if truncate else 4 * dim * 2.0**-24)
        assert (np.abs(ours - values) <= slack * plain).all()
    assert schedule.attention_factor == pytest.approx(attention, rel=1e-15)


@pytest.mark.oracle
@SWEEP
@given(
    dim=DIMS,
    base=ORACLE_BASES,
    factor=st.none() | FACTOR,
    original=st.integers(2, 10**6),
    max_position=st.integers(1, 10**7),
    length=st.integers(1, 10**7),
    attention_factor=st.none() | st.floats(0.5, 2.0),
    data=st.data(),
)
def test_longrope_equals_transformers(
    theirs, dim, base, factor, original, max_position, length, attention_factor, data
):
    # Numbers of float32, because theirs are rounded to it.
    lists = st.lists(st.floats(0.5, 128.0, width=32), min_size=dim // 2, max_size=dim // 2)
    factors = {"short_factor": data.draw(lists), "long_factor": data.draw(lists)}
    values, attention = theirs(
        "longrope",
        dim,
        base,
        length,
        max_position,
        factor=factor,
        attention_factor=attention_factor,
        original_max_position_embeddings=original,
        **factors,
    )
    schedule = LongRope(
        **factors,
        original_max_position=original,
        factor=factor,
        max_position=max_position if factor is None else None,
        attention_factor=attention_factor,
    )
    ours = schedule.inv_freq(dim, base, length)
    agree(ours, values, base)
    assert schedule.attention_factor_at(length) == pytest.approx(attention, rel=1e-15)


@pytest.mark.oracle
@SWEEP
@given(
    dim=DIMS,
    base=ORACLE_BASES,
    factor=FACTOR,
    low=st.sampled_from([1.0, 2.0]) | st.floats(0.25, 3.0),
    high=st.sampled_from([4.0, 8.0]) | st.floats(3.5, 64.0),
    original=st.integers(128, 10**6),
)
def test_llama3_equals_transformers(theirs, dim, base, factor, low, high, original):
    values, attention = theirs(
        "llama3",
        dim,
        base,
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=original,
    )
    schedule = Llama3(factor, low, high, original)
    ours, plain = schedule.inv_freq(dim, base), rotary.inv_freq(dim, base=base) / min(factor, 1)
    if values.dtype == np.float64:
        assert (np.abs(ours - values) <= 4 * rounding(base, 53) * plain).all()
    else:
        assert (np.abs(ours - values) <= 4 * rounding(base) * plain).all()
    assert schedule.attention_factor == attention


@pytest.mark.oracle
@SWEEP
@given(dim=DIMS, base=ORACLE_BASES, factor=FACTOR, part=st.floats(0.0, 1.0))
def test_proportional_equals_transformers(theirs, dim, base, factor, part):
    values, attention = theirs("proportional", dim, base, factor=factor, partial_rotary_factor=part)
    schedule = Proportional(part, factor)
    ours = schedule.inv_freq(dim, base)
    agree(ours, values, base)
    assert schedule.attention_factor == attention


@pytest.mark.oracle
@SWEEP
@given(dim=DIMS, base=ORACLE_BASES, alpha=st.floats(1.0, 10_000.0))
def test_ntk_alpha_equals_hunyuan_in_transformers(dim, base, alpha):
    from transformers.models.hunyuan_vl.modeling_hunyuan_vl import HunYuanVLRotaryEmbedding

    config = SimpleNamespace(
        head_dim=dim,
        hidden_size=dim,
        num_attention_heads=1,
        rope_parameters={"rope_theta": base, "alpha": alpha},
    )
    values, attention = HunYuanVLRotaryEmbedding.compute_ntk_alpha_rope_parameters(config)
    ours = NTK(alpha=alpha).inv_freq(dim, base)
    grown = base * alpha ** (dim / (dim - 2))
    np.testing.assert_allclose(ours, values.numpy(), rtol=rounding(grown))
    assert attention == 1.0


@pytest.mark.oracle
@SWEEP
@given(factor=FACTOR, mscale_all_dim=st.floats(0.0, 2.0))
def test_softmax_factor_equals_deepseek_in_transformers(factor, mscale_all_dim):
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import yarn_apply_mscale

    parameters = {"rope_type": "yarn", "factor": factor, "mscale_all_dim": mscale_all_dim}
    theirs = yarn_apply_mscale(parameters, 1.0)
    ours = Yarn(factor, 4096, mscale_all_dim=mscale_all_dim).softmax_factor
    assert ours == pytest.approx(theirs, rel=1e-15)


# ------------------------------------------------------------------------------------------------
# Learned and traced numbers.


def numbers_of(schedule):
    """The names of a schedule's numeric fields, each with a valid value."""
    for own in dataclasses.fields(schedule):
        value = getattr(schedule, own.name)
        kinds = {"float": 1.5, "int": 4096, "tuple": [1.5] * 32}
        kind = next((kind for kind in kinds if str(own.type).startswith(kind)), None)
        if kind is not None and not isinstance(value, Scaling):
            yield own.name, kinds[kind]


def assert_refused(schedule, name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be a number that is known.*`inv_freq=`"):
        dataclasses.replace(schedule, **{name: value})


def test_every_field_of_every_schedule_is_tested():
    actual = {(type(schedule), name) for schedule in EVERY for name, _ in numbers_of(schedule)}
    assert (Yarn, "beta_fast") in actual
    assert (Yarn, "softmax_factor") in actual
    assert (LongRope, "short_factor") in actual
    assert (FreqFactors, "freq_factors") in actual
    assert (Clip, "clip_low_n") in actual
    assert len(actual) > 30


@pytest.mark.library("torch")
@pytest.mark.parametrize("schedule", EVERY, ids=named(EVERY))
def test_learned_numbers_are_refused(schedule):
    import torch

    for name, number in numbers_of(schedule):
        learned = torch.nn.Parameter(torch.tensor(number, dtype=torch.float64))
        assert_refused(schedule, name, learned)
        if learned.ndim:
            assert_refused(schedule, name, list(learned))


@pytest.mark.library("jax")
@pytest.mark.parametrize("schedule", EVERY, ids=named(EVERY))
def test_traced_numbers_are_refused(schedule):
    import jax

    for name, number in numbers_of(schedule):
        jax.jit(lambda traced, name=name: assert_refused(schedule, name, traced))(
            jax.numpy.asarray(number)
        )


@pytest.mark.library("jax")
def test_frequencies_must_be_known():
    import jax

    with pytest.raises(TypeError, match="`inv_freq` must be a number that is known.*`inv_freq=`"):
        jax.jit(lambda w: embedding(Custom(w), dim=8)(np.ones((2, 8))))(np.ones(4))
