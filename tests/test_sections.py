"""Several position axes: the orders of `rotary.sections`, and embeddings with sections."""

from __future__ import annotations

import pickle

import ml_dtypes  # noqa: F401  (registers bfloat16)
import mpmath
import numpy as np
import pytest
from helpers import LAYOUTS, pairs_of, powers, random_array, same_bits
from hypothesis import given
from hypothesis import strategies as st

import rotary
from rotary import RotaryEmbedding, sections
from rotary.sections import Sections

IMAGE = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]])
VIDEO = np.array([[5, 5, 6], [7, 1, 0], [11, 2, 9]])


def embedding(width, order, layout="half", **options):
    return RotaryEmbedding(
        width, layout=layout, base=10_000.0, sections=order, seq_axis=-2, **options
    )


# ------------------------------------------------------------------------------------------------
# Orders. The constants follow from the rules of the projects in the docstrings.


@pytest.mark.parametrize(
    ("order", "axes"),
    [
        (sections.chunked(2, 1, 3), "001222"),
        (sections.chunked(1, 0, 2), "022"),
        (sections.interleaved(3, 2, 2), "0120120"),
        (sections.interleaved(2, 2), "0101"),
        (sections.interleaved(24, 20, 20), "012" * 20 + "0000"),
        (sections.interleaved(11, 11, 10), "012" * 10 + "01"),
        (sections.ernie(3, 3, 2), "12121200"),
        (sections.bailing(2, 3, 3), "12121200"),
        (sections.glm_interleaved(8, 12, 12), "012" * 8 + "11211222"),
        (sections.glm_interleaved(2, 3, 3), "01201212"),
        (sections.openpangu(2, 2, 2), "012120"),
        (sections.openpangu(2, 2), "0101"),
        (sections.axial(2, 3), "00111"),
        (sections.axial(2, 2, order="alternating"), "0101"),
        (sections.ggml_mrope(2, 1, 1, 0), "0012"),
        (sections.ggml_mrope(2, 1, 1, 0, pairs=7), "0012001"),
        (sections.ggml_mrope(1, 1, 1, 1), "0123"),
        (sections.ggml_imrope(24, 20, 20, 0), "012" * 20 + "0330"),
        (sections.ggml_imrope(2, 1, 1, 0, pairs=6), "012001"),
        (sections.ggml_vision(2, 2, 2, 2, pairs=4), "0011"),
        (sections.from_axes([1, 0, 1]), "101"),
        (sections.from_axes(np.array([0, 2], np.uint8)), "02"),
    ],
    ids=str,
)
def test_orders(order, axes):
    assert order.axes == tuple(map(int, axes))


@pytest.mark.parametrize(
    ("order", "exponents"),
    [
        (sections.chunked(2, 2), [0, 1 / 4, 2 / 4, 3 / 4]),
        (sections.ernie(1, 1, 2), [0, 1 / 4, 2 / 4, 3 / 4]),
        (sections.axial(2, 2), [0, 1 / 2, 0, 1 / 2]),
        (sections.axial(1, 3), [0, 0, 1 / 3, 2 / 3]),
        (sections.axial(2, 2, order="alternating"), [0, 0, 1 / 2, 1 / 2]),
        (sections.axial(2, 2, schedule="split"), [0, 2 / 4, 1 / 4, 3 / 4]),
        (sections.axial(2, 2, schedule="split", order="alternating"), [0, 1 / 4, 2 / 4, 3 / 4]),
        (sections.axial(2, 2, pairing="within"), [0, 1 / 2, 0, 1 / 2]),
        (sections.ggml_vision(1, 1, 1, 1), [0, 0, 0, 0]),
        (sections.ggml_vision(2, 2, 2, 2, pairs=4), [0, 2 / 4, 0, 2 / 4]),
        (sections.ggml_vision(1, 3, pairs=6), [0, 0, 2 / 6, 4 / 6, 0, 0]),
        (sections.ggml_mrope(1, 1, 0, 0, pairs=4), [0, 1 / 4, 2 / 4, 3 / 4]),
    ],
    ids=str,
)
def test_frequencies_continue_or_restart(order, exponents):
    rope = embedding(2 * len(exponents), order)
    np.testing.assert_allclose(rope.inv_freq, 10_000.0 ** -np.array(exponents), rtol=1e-15)
    assert not rope.inv_freq.flags.writeable


def test_an_axis_without_pairs_is_kept():
    assert sections.chunked(2, 2, 0).num_axes == 3
    assert sections.ggml_imrope(2, 2, 2, 0).num_axes == 4
    rope = embedding(8, sections.chunked(2, 2, 0))
    x = random_array((4, 8))
    assert same_bits(
        rope(x, positions=np.array([[1, 2, 3, 4], [5, 6, 7, 8], [0, 9, 0, 9]])),
        rope(x, positions=np.array([[1, 2, 3, 4], [5, 6, 7, 8], [3, 3, 3, 3]])),
    )


def test_sections_are_values():
    order = sections.axial(3, 3, schedule="split")
    assert order == pickle.loads(pickle.dumps(order)) == eval(repr(order), vars(sections))
    assert hash(order) == hash(sections.axial(3, 3, schedule="split"))
    assert order != sections.axial(3, 3)
    assert str(sections.chunked(16, 24, 24)) == "0x16 1x24 2x24"
    assert str(sections.interleaved(24, 20, 20)) == "0x24 1x20 2x20, as 0 1 2 0 1 2 .."
    assert repr(sections.chunked(2, 1)) == "Sections(axes=(0, 0, 1))"
    with pytest.raises(AttributeError):
        order.axes = (0,)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (sections.chunked, ValueError, "`sizes` must sum to at least one pair, got ()"),
        (lambda: sections.chunked(0, 0), ValueError, "`sizes` must sum to at least one pair"),
        (lambda: sections.chunked(2, -1), ValueError, "`sizes` must not be negative"),
        (lambda: sections.chunked(2, 1.5), TypeError, "`sizes` must be an integer, got 1.5"),
        (lambda: sections.interleaved(8, 12, 12), ValueError, "receive in turn, (11, 11, 10)"),
        (lambda: sections.ernie(3, 2, 1), ValueError, "`h` and `w` must be equal"),
        (lambda: sections.openpangu(4), ValueError, "`sizes` must be two or three"),
        (lambda: sections.openpangu(4, 0), ValueError, "`sizes` must be two or three"),
        (lambda: sections.axial(2, 3, schedule="split"), ValueError, "for `schedule` 'split'"),
        (lambda: sections.axial(2, 3, order="alternating"), ValueError, "for `order` 'alternat"),
        (lambda: sections.axial(2, schedule="xy"), ValueError, "`schedule` must be one of"),
        (
            lambda: sections.axial(2, 2, order="alternating", pairing="within"),
            ValueError,
            "`pairing` must be 'across'",
        ),
        (lambda: sections.ggml_imrope(2, 2), ValueError, "`sizes` must be four"),
        (lambda: sections.ggml_mrope(1, 1, 1, 1, 1), ValueError, "`sizes` must be at most four"),
        (lambda: sections.ggml_mrope(1, 1, pairs=0), ValueError, "`pairs` must be at least 1"),
        (lambda: sections.ggml_vision(3, 1), ValueError, "at most half of an even number"),
        (
            lambda: sections.from_axes([0.5]),
            TypeError,
            "`axes` must be a result of rotary.sections",
        ),
        (lambda: sections.from_axes([[0]]), ValueError, "`axes` must hold one non-negative axis"),
        (lambda: sections.from_axes([-1, 0]), ValueError, "`axes` must hold one non-negative axis"),
        (lambda: Sections(()), ValueError, "`axes` must hold the position axis"),
        (lambda: Sections((0, 1), index=(0,)), ValueError, "`index` must hold 2 numbers"),
        (lambda: Sections((0, 1), index=(0, 2)), ValueError, "`index` must be below half"),
        (lambda: Sections((0, 1), widths=(3, 3)), ValueError, "`widths` must be even, got 3"),
        (lambda: Sections((0, 1), blocks=(1,)), ValueError, "`blocks` must be positive and sum"),
        (lambda: Sections((0, 1), blocks=(2, 0)), ValueError, "`blocks` must be positive"),
        (
            lambda: Sections((0, 1), num_axes=1),
            ValueError,
            "`num_axes` must be greater than every axis",
        ),
        (lambda: embedding(8, sections.chunked(2, 1)), ValueError, "each of the 4 pairs an axis"),
        (
            lambda: embedding(8, "chunked"),
            TypeError,
            "`sections` must be a result of rotary.sections",
        ),
        (lambda: Sections(5), TypeError, "`axes` must hold integers, got 5 of type int"),
    ],
)
def test_errors(make, kind, message):
    with pytest.raises(kind) as caught:
        make()
    assert message in str(caught.value)


# ------------------------------------------------------------------------------------------------
# Embeddings.


@pytest.mark.parametrize(
    ("base", "order", "sines"),
    [
        (
            1e6,
            sections.chunked(16, 24, 24),
            {
                0: -0.958924294,
                15: 0.194952965,
                16: 0.219556108,
                39: 0.00154471339,
                40: 0.00195610616,
                63: 1.36503149e-05,
            },
        ),
        (
            5e6,
            sections.interleaved(24, 20, 20),
            {
                0: -0.958924294,
                1: -0.704965949,
                2: 0.487855047,
                3: 0.655790806,
                58: 5.94506355e-06,
                59: 7.34141395e-06,
                60: 2.6223197e-06,
                63: 1.27253986e-06,
            },
        ),
    ],
    ids=["Qwen2-VL", "Qwen3-VL"],
)
def test_constants_of_transformers(base, order, sines):
    """Computed by transformers 5.23.0 in float32, at the position (5, 7, 11)."""
    rope = RotaryEmbedding(128, layout="half", base=base, sections=order)
    _, sine = rope.tables([5, 7, 11])
    for pair, value in sines.items():
        assert sine[pair] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "order",
    [
        sections.chunked(2, 1, 3),
        sections.interleaved(2, 2, 2),
        sections.ernie(2, 2, 2),
        sections.axial(2, 2, 2),
        sections.axial(2, 2, 2, schedule="split"),
        sections.axial(2, 2, 2, order="alternating"),
    ],
    ids=str,
)
def test_every_pair_is_rotated_by_the_position_of_its_axis(order, layout):
    rope = embedding(14, order, layout, rotary_dim=12, rotary_start=1)
    x = random_array((2, 3, 14), "float64")
    got = rope(x, positions=VIDEO)
    for pair, (first, second) in enumerate(pairs_of(12, layout)):
        place = VIDEO[order.axes[pair]]
        alone = RotaryEmbedding(
            2, layout="half", scaling=rotary.scaling.Custom([rope.inv_freq[pair]]), seq_axis=-2
        )
        channels = [first + 1, second + 1]
        assert same_bits(got[..., channels], alone(x[..., channels], positions=place))
    assert same_bits(got[..., [0, 13]], x[..., [0, 13]])
    np.testing.assert_allclose(rope.inverse(got, positions=VIDEO), x, atol=1e-14)


@given(
    st.sampled_from([(1, 1, 2), (2, 1, 1), (2, 2)]),
    st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=4),
)
def test_equal_positions_on_all_axes_equal_one_axis(sizes, positions):
    rope = embedding(2 * sum(sizes), sections.chunked(*sizes))
    line = embedding(2 * sum(sizes), None)
    x = random_array((len(positions), rope.head_dim))
    alike = np.array([positions] * len(sizes))
    assert same_bits(rope(x, positions=alike), line(x, positions=positions))
    assert same_bits(rope.tables(alike)[0], line.tables(positions)[0])


def test_text_tokens_share_the_table_of_one_axis(fresh_cache):
    rope = embedding(8, sections.chunked(2, 1, 1))
    x = random_array((5, 8))
    rope(x)
    rope(x, positions=np.array([np.arange(5)] * 3))
    embedding(8, None)(x)
    assert rotary.cache_info()[:3] == (2, 1, 1)


def test_pairs_on_several_axes_are_not_merged_into_one_axis():
    rope = RotaryEmbedding(4, layout="half", scaling=rotary.scaling.Custom(W=[[0.1, 1], [0.2, 0]]))
    x = np.eye(4)[:1]
    # The sum of the two frequencies is not exact in float64: rounded, the error at the far position would be 0.03.
    for place in (3, 2**50):
        with mpmath.workprec(200):
            exact = float(mpmath.cos((mpmath.mpf(0.1) + mpmath.mpf(0.2)) * place))
        np.testing.assert_allclose(rope(x, offset=place)[0, 0], exact, rtol=1e-15)


def test_an_offset_applies_to_every_axis():
    rope = embedding(8, sections.chunked(2, 2))
    x = random_array((2, 5, 8))
    alike = np.array([np.arange(5)] * 2)
    assert same_bits(rope(x), rope(x, positions=alike))
    assert same_bits(rope(x, offset=7), rope(x, positions=alike + 7))
    assert same_bits(rope.shift(rope(x), 7), rope.shift(rope(x), [[[7] * 5]] * 2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_within_an_axis_equal_a_rotation_of_each_axis(layout):
    rope = embedding(12, sections.axial(2, 3, pairing="within"), layout, rotary_dim=10)
    row = RotaryEmbedding(12, layout=layout, base=10_000.0, rotary_dim=4, seq_axis=-2)
    column = RotaryEmbedding(
        12, layout=layout, base=10_000.0, rotary_dim=6, rotary_start=4, seq_axis=-2
    )
    x = random_array((2, 6, 12))
    want = column(row(x, positions=IMAGE[0]), positions=IMAGE[1])
    assert same_bits(rope(x, positions=IMAGE), want)
    out = x.copy()
    assert rope(out, positions=IMAGE, out=out) is out
    assert same_bits(out, want)
    other = np.empty_like(x)
    rope(x, positions=IMAGE, out=other)
    assert same_bits(other, want)
    np.testing.assert_allclose(rope.inverse(want, positions=IMAGE), x, atol=2e-6)
    np.testing.assert_allclose(rope.matrix(IMAGE[:, 4]) @ x[0, 4], want[0, 4], atol=1e-6)
    assert same_bits(rope.tables(IMAGE)[0][:, :2], row.tables(IMAGE[0])[0])


def test_pairs_within_an_axis_change_only_the_half_layout():
    within = embedding(8, sections.axial(2, 2, pairing="within"), "interleaved")
    across = embedding(8, sections.axial(2, 2), "interleaved")
    x = random_array((6, 8))
    assert same_bits(within(x, positions=IMAGE), across(x, positions=IMAGE))
    mixed = embedding(8, sections.axial(2, 2, pairing="within"), output_layout="interleaved")
    permuted = x[:, [0, 2, 1, 3, 4, 6, 5, 7]]
    assert same_bits(mixed(x, positions=IMAGE), across(permuted, positions=IMAGE))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_arrays_have_one_channel_for_each_pair(dtype):
    rope = embedding(12, sections.axial(2, 3, pairing="within"), rotary_dim=10, rotary_start=2)
    real = embedding(12, sections.axial(2, 3), "interleaved", rotary_dim=10, rotary_start=2)
    x = random_array((6, 6), dtype)
    got = rope(x, positions=IMAGE)
    both = np.stack([x.real, x.imag], -1).reshape(6, 12)
    want = real(both, positions=IMAGE)
    np.testing.assert_allclose(np.stack([got.real, got.imag], -1).reshape(6, 12), want, rtol=1e-5)


@pytest.mark.parametrize(
    "order", [sections.chunked(2, 1, 1), sections.axial(1, 2, 1, pairing="within")], ids=str
)
def test_sections_on_all_libraries(xp, order):
    rope = embedding(8, order)
    q, k = random_array((2, 2, 3, 8)), random_array((2, 1, 3, 8), seed=1)
    want = rope(q, k, positions=VIDEO)
    got = rope(xp.asarray(q), xp.asarray(k), positions=VIDEO)
    for own, wanted in zip(got, want, strict=True):
        assert xp.owns(own)
        np.testing.assert_allclose(xp.to_numpy(own), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.feature("traced positions")
def test_traced_positions_on_all_libraries(xp):
    rope = embedding(8, sections.axial(2, 1, 1, pairing="within"))
    x = random_array((1, 2, 3, 8))
    run = xp.traced(lambda x, positions: rope(x, positions=positions))
    got = run(xp.asarray(x), xp.asarray(VIDEO))
    want = rope(x, positions=VIDEO)
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(2, 4), (8, 2, 4)], ids=str)
def test_frequencies_of_several_axes_exclude_sections(shape):
    custom = rotary.scaling.Custom(W=np.ones(shape))
    with pytest.raises(ValueError, match="`sections` must not be given with W"):
        RotaryEmbedding(8, layout="half", scaling=custom, sections=sections.chunked(2, 2))


def test_bad_positions_modify_no_array():
    rope = embedding(8, sections.axial(2, 2, pairing="within"))
    x = random_array((6, 8))
    kept = x.copy()
    with pytest.raises(ValueError, match="`positions` must have one of the shapes"):
        rope(x, positions=np.arange(6), out=x)
    assert same_bits(x, kept)


def test_explain_shows_the_axes():
    told = embedding(8, sections.chunked(2, 2), scaling=rotary.scaling.Linear(2.0)).explain()
    assert "sections          0x2 1x2      given: position axis x pairs" in told
    assert (
        powers(10_000.0, 8)[1] / 2
        == embedding(8, [0, 0, 1, 1], scaling=rotary.scaling.Linear(2.0)).inv_freq[1]
    )
