"""Two checkpoints' own mappings, which are no rotations, against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import random_array, same_bits

from rotary import RotaryEmbedding, XPos, sections

PLACES = np.array([[0, 0, 1, 1, 2], [0, 3, 0, 5, 1], [7, 0, 2, 1, 30]])


def angles(place, width):
    return place[:, None] * 10_000.0 ** -(np.arange(width // 2) * 2 / width)


def vjepa2(x, place):
    """One axis: the angles twice one after the other, the pairs side by side."""
    angle = np.tile(angles(place, x.shape[-1]), 2)
    other = np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
    return x * np.cos(angle) + other * np.sin(angle)


def hunyuan(x, places, sizes):
    """Full-wide angles, cut by sizes twice as long, each piece from the next axis."""
    full = np.tile(angles(places.reshape(-1), x.shape[-1]), 2).reshape(*places.shape, -1)
    bounds = np.cumsum([2 * size for size in sizes])[:-1]
    pieces = np.split(full, bounds, axis=-1)
    angle = np.concatenate([piece[axis] for axis, piece in enumerate(pieces)], axis=-1)
    half = x.shape[-1] // 2
    other = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * np.cos(angle) + other * np.sin(angle)


def vjepa2_rope(sizes, width, **options):
    return RotaryEmbedding(
        width,
        layout="interleaved",
        base=10_000.0,
        rotary_dim=2 * sum(sizes),
        sections=sections.axial(*sizes),
        quirk="vjepa2",
        seq_axis=-2,
        **options,
    )


def hunyuan_rope(*sizes, **options):
    return RotaryEmbedding(
        2 * sum(sizes),
        layout="half",
        base=10_000.0,
        sections=sections.chunked(*sizes),
        quirk="hunyuan_vl",
        seq_axis=-2,
        **options,
    )


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 3, 3), (1, 2, 4)], ids=str)
def test_vjepa2(sizes):
    width = 2 * sum(sizes) + 2  # two channels pass through, as of a head that three does not divide
    x = random_array((2, 3, 5, width), "float64")
    rope = vjepa2_rope(sizes, width)
    want = x.copy()
    bounds = np.cumsum([0, *(2 * size for size in sizes)])
    for place, a, b in zip(PLACES, bounds, bounds[1:], strict=False):
        want[..., a:b] = vjepa2(x[..., a:b], place)
    got = rope(x, positions=PLACES)
    np.testing.assert_allclose(got, want, atol=1e-14)
    out = x.copy()
    assert rope(out, positions=PLACES, out=out) is out
    assert same_bits(out, got)


def test_vjepa2_on_one_axis():
    rope = RotaryEmbedding(8, layout="interleaved", base=10_000.0, quirk="vjepa2")
    x = random_array((5, 8), "float64")
    np.testing.assert_allclose(rope(x, positions=PLACES[2]), vjepa2(x, PLACES[2]), atol=1e-14)


@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 1, 3)], ids=str)
def test_hunyuan_vl(sizes):
    rope = hunyuan_rope(*sizes)
    x = random_array((2, 3, 5, rope.head_dim), "float64")
    want = hunyuan(x, PLACES, sizes)
    np.testing.assert_allclose(rope(x, positions=PLACES), want, atol=1e-14)


def test_hunyuan_vl_is_an_ordinary_rotation_of_text():
    rope = hunyuan_rope(2, 1, 1)
    plain = RotaryEmbedding(8, layout="half", base=10_000.0, seq_axis=-2)
    x = random_array((5, 8))
    assert same_bits(rope(x, offset=9), plain(x, offset=9))


@pytest.mark.parametrize("rope", [vjepa2_rope((2, 1, 2), 12), hunyuan_rope(2, 1, 3)])
def test_vjp_is_the_transpose_and_matrix_the_map(rope):
    x = random_array((5, 12), "float64")
    dy = random_array((5, 12), "float64", seed=1)
    turned = rope(x, positions=PLACES)
    back = rope.vjp(dy, positions=PLACES)
    assert (turned * dy).sum() == pytest.approx((x * back).sum(), rel=1e-13)
    matrix = rope.matrix(PLACES[:, 4])
    np.testing.assert_allclose(matrix @ x[4], turned[4], atol=1e-14)
    np.testing.assert_allclose(matrix.T @ dy[4], back[4], atol=1e-14)
    assert np.abs(matrix @ matrix.T - np.eye(12)).max() > 0.1  # no rotation


@pytest.mark.arithmetic
@pytest.mark.parametrize("rope", [vjepa2_rope((2, 1, 2), 12), hunyuan_rope(2, 1, 3)])
def test_every_library_gives_the_same_result(xp, rope):
    x = random_array((1, 2, 5, 12))
    got = rope(xp.asarray(x), positions=PLACES)
    assert xp.owns(got)
    want = rope(x, positions=PLACES)
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-5, atol=1e-6)


@pytest.mark.library("torch")
@pytest.mark.parametrize("rope", [vjepa2_rope((2, 1, 2), 12), hunyuan_rope(2, 1, 3)])
def test_arrays_of_numpy_at_positions_with_a_gradient(rope):
    import torch

    x = random_array((1, 2, 5, 12))
    places = torch.tensor(PLACES, dtype=torch.float32, requires_grad=True)
    for verb in (rope, rope.vjp):
        got = verb(x, positions=places).detach().numpy()
        np.testing.assert_allclose(got, verb(x, positions=PLACES), rtol=1e-5, atol=1e-5)


def test_narrow_arrays_are_rounded_once():
    x = random_array((5, 12), "float16")
    for rope in (vjepa2_rope((2, 1, 2), 12), hunyuan_rope(2, 1, 3)):
        for verb in (rope, rope.vjp):
            wide = verb(x.astype(np.float32), positions=PLACES)
            assert same_bits(verb(x, positions=PLACES), wide.astype(x.dtype))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: RotaryEmbedding(8, layout="half", base=1e4, quirk="vjepa2"),
            ValueError,
            "`layout` must be 'interleaved' for the quirk 'vjepa2'",
        ),
        (
            lambda: RotaryEmbedding(8, layout="half", base=1e4, quirk="hunyuan_vl"),
            ValueError,
            "`sections` must be given for the quirk 'hunyuan_vl'",
        ),
        (
            lambda: RotaryEmbedding(8, layout="half", base=1e4, quirk="other"),
            ValueError,
            "`quirk` must be one of 'vjepa2', 'hunyuan_vl'",
        ),
        (
            lambda: RotaryEmbedding(
                8, layout="interleaved", base=1e4, quirk="vjepa2", decay=XPos(center=0)
            ),
            ValueError,
            "`quirk` must not be given with `decay`",
        ),
        (
            lambda: hunyuan_rope(2, 2).inverse(np.ones((3, 8))),
            TypeError,
            "`inverse` needs a rotation, got an embedding with the quirk",
        ),
        (
            lambda: hunyuan_rope(2, 2).shift(np.ones((3, 8)), 1),
            TypeError,
            "`shift` needs a rotation, got an embedding with the quirk",
        ),
        (
            lambda: hunyuan_rope(2, 2).tables([[1], [2]]),
            TypeError,
            "`tables` needs a rotation, got an embedding with the quirk",
        ),
        (
            lambda: hunyuan_rope(2, 2)(np.ones((3, 4), complex)),
            TypeError,
            "`x` must be real",
        ),
    ],
)
def test_invalid_arguments_are_refused(make, kind, message):
    with pytest.raises(kind) as caught:
        make()
    assert message in str(caught.value)


def test_explain_describes_the_quirk():
    assert "quirk             hunyuan_vl   given: sections doubled" in hunyuan_rope(2, 2).explain()
