"""Positions of images, video, audio and mixed sequences, against the code of transformers."""

from __future__ import annotations

import importlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotary.positions import Audio, Image, Text, Video, grid, mixed

pytestmark = pytest.mark.oracle

SWEEP = settings(deadline=None, max_examples=150)
MERGE, PER_SECOND, FRAME_MERGE = 2, 2, 2

texts = st.integers(1, 5).map(Text)
sides = st.integers(1, 4).map(lambda tokens: tokens * MERGE)
images = st.builds(partial(Image, merge=MERGE), sides, sides)
frames = st.integers(1, 6)
untimed = st.none()
lengths = st.sampled_from([0.04, 0.06, 0.1, 0.28, 0.5, 1.0, 2.0, 4.0]) | st.floats(0.01, 5.0)


def video(*, seconds=untimed, count=frames, **options):
    return st.builds(partial(Video, merge=MERGE, **options), count, sides, sides, seconds=seconds)


def between_texts(*kinds):
    """Sequences with text before and after every image or video, for their special tokens."""
    seen = st.lists(st.tuples(st.one_of(*kinds), texts), max_size=4)
    return st.builds(
        lambda first, rest: [first, *(segment for pair in rest for segment in pair)], texts, seen
    )


def modeling(name):
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def model(cls, *methods, **config):
    """A model without weights, for its methods."""
    vision = SimpleNamespace(
        spatial_merge_size=MERGE, tokens_per_second=PER_SECOND, temporal_merge_size=FRAME_MERGE
    )
    stub = SimpleNamespace(
        config=SimpleNamespace(vision_config=vision, **config), spatial_merge_size=MERGE
    )
    for method in ("get_rope_index", *methods):
        setattr(stub, method, partial(getattr(cls, method), stub))
    return stub


def tokens_of(segment):
    """The number of tokens of a segment."""
    if isinstance(segment, Text | Audio):
        return segment.length
    area = segment.height * segment.width // segment.merge**2
    return area * (segment.frames // segment.frame_merge if isinstance(segment, Video) else 1)


def grids(torch, segments, kind):
    """The sizes of all images or videos, or None."""
    sizes = [(getattr(s, "frames", 1), s.height, s.width) for s in segments if isinstance(s, kind)]
    return torch.tensor(sizes) if sizes else None


def read_by(stub, segments, *, as_video=(Video,), **options):
    """The positions that a model of the first family computes, and its delta."""
    torch = importlib.import_module("torch")
    numbers = {Text: 0, Image: 1, Video: 2}
    types = torch.tensor([[numbers[type(s)] for s in segments for _ in range(tokens_of(s))]])
    positions, deltas = stub.get_rope_index(
        torch.zeros_like(types),
        types,
        image_grid_thw=grids(torch, segments, Image),
        video_grid_thw=grids(torch, segments, as_video),
        attention_mask=torch.ones_like(types),
        **options,
    )
    return positions[:, 0].numpy(), deltas.item()


def agree(actual, positions, delta):
    assert actual.positions.dtype == (np.float64 if positions.dtype == np.float32 else np.int64)
    np.testing.assert_array_equal(actual.positions, positions)
    assert actual.delta == delta


@pytest.mark.parametrize(
    ("name", "cls"), [("qwen2_vl", "Qwen2VLModel"), ("paddleocr_vl", "PaddleOCRVLModel")]
)
@SWEEP
@given(segments=between_texts(images, video()))
def test_qwen2_vl(name, cls, segments):
    stub = model(getattr(modeling(name), cls), "get_vision_position_ids")
    agree(mixed(segments, style="qwen2_vl", advance="sides"), *read_by(stub, segments))


@SWEEP
@given(segments=between_texts(images, video(seconds=lengths)))
def test_qwen2_5_vl(segments):
    torch = importlib.import_module("torch")
    stub = model(modeling("qwen2_5_vl").Qwen2_5_VLModel, "get_vision_position_ids")
    seconds = torch.tensor([s.seconds for s in segments if isinstance(s, Video)])
    actual = mixed(segments, style="qwen2_5_vl", per_second=PER_SECOND, advance="sides")
    agree(actual, *read_by(stub, segments, second_per_grid_ts=seconds))


@SWEEP
@given(
    segments=between_texts(
        images, video(count=st.integers(1, 3).map(lambda n: 2 * n), frame_merge=FRAME_MERGE)
    )
)
def test_ernie4_5_vl(segments):
    stub = model(modeling("ernie4_5_vl_moe").Ernie4_5_VLMoeModel, "get_vision_position_ids")
    agree(mixed(segments, style="ernie4_5_vl", advance="sides"), *read_by(stub, segments))


@pytest.mark.parametrize(
    ("style", "name", "cls"),
    [
        ("qwen3_vl", "qwen3_vl", "Qwen3VLModel"),
        ("qwen3_vl", "qwen3_vl_moe", "Qwen3VLMoeModel"),
        ("qwen3_vl", "qwen3_5", "Qwen3_5Model"),
        ("glm4v", "glm4v", "Glm4vModel"),
        ("glm4v", "glm4v_moe", "Glm4vMoeModel"),
        ("glm4v", "glm46v", "Glm46VModel"),
        ("glm4v", "glm_ocr", "GlmOcrModel"),
    ],
)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_frames_with_timestamps(style, name, cls, data):
    """A video is frames with text before each, as their processors write it."""
    torch = importlib.import_module("torch")
    films = data.draw(st.lists(video(), max_size=2))
    segments, types = [], []
    for film in films:
        for _ in range(film.frames):
            stamp = data.draw(texts)
            frame = Image(film.height, film.width, merge=MERGE)
            segments += [stamp, frame]
            types += [0] * stamp.length + [2] * tokens_of(frame)
    still, last = data.draw(images), data.draw(texts)
    segments += [last, still, last]
    types += [0] * last.length + [1] * tokens_of(still) + [0] * last.length
    stub = model(getattr(modeling(name), cls), "get_vision_position_ids")
    positions, deltas = stub.get_rope_index(
        torch.zeros(1, len(types), dtype=torch.long),
        torch.tensor([types]),
        image_grid_thw=torch.tensor([[1, still.height, still.width]]),
        video_grid_thw=grids(torch, films, Video),
    )
    agree(mixed(segments, style=style), positions[:, 0].numpy(), deltas.item())


# ------------------------------------------------------------------------------------------------
# The Omni models, which read special tokens and placeholders from the tokens.

PLAIN, IMAGE, VIDEO, AUDIO, VISION_START, AUDIO_START, VISION_END, AUDIO_END = range(8)
sounds = st.integers(1, 70).map(Audio)


def omni_sequences(*, with_sound):
    films = video(seconds=lengths, audio=None)
    if with_sound:
        films = st.builds(
            partial(Video, merge=MERGE), frames, sides, sides, seconds=lengths, audio=sounds
        )
    return st.lists(st.one_of(texts, images, sounds, films), min_size=1, max_size=5)


def omni_tokens(things):
    """The tokens of a sequence, and its segments with special tokens as text."""
    tokens, segments = [], []
    for thing in things:
        if isinstance(thing, Text):
            tokens += [PLAIN] * thing.length
            segments.append(thing)
        elif isinstance(thing, Video) and thing.audio:
            inner = [VIDEO] * tokens_of(thing) + [AUDIO] * thing.audio.length
            tokens += [VISION_START, AUDIO_START, *inner, AUDIO_END, VISION_END]
            segments.append(thing)
        else:
            begin, inside, end = {
                Image: (VISION_START, IMAGE, VISION_END),
                Video: (VISION_START, VIDEO, VISION_END),
                Audio: (AUDIO_START, AUDIO, AUDIO_END),
            }[type(thing)]
            tokens += [begin, *[inside] * tokens_of(thing), end]
            segments += [Text(1), thing, Text(1)]
    return tokens, segments


def heard(things):
    """All audio in order, that of videos included."""
    sounded = [thing.audio if isinstance(thing, Video) else thing for thing in things]
    return [sound.length for sound in sounded if isinstance(sound, Audio)]


def read_by_omni(stub, things, *, frames_of_sound, with_sound):
    torch = importlib.import_module("torch")
    tokens, segments = omni_tokens(things)
    ids = torch.tensor([tokens])
    lengths = [frames_of_sound(length) for length in heard(things)]
    positions, deltas = stub.get_rope_index(
        ids,
        grids(torch, things, Image),
        grids(torch, things, Video),
        torch.ones_like(ids),
        use_audio_in_video=with_sound,
        audio_seqlens=torch.tensor(lengths) if lengths else None,
        second_per_grids=torch.tensor([t.seconds for t in things if isinstance(t, Video)]),
    )
    return segments, positions[:, 0].numpy(), deltas.item()


TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "audio_token_id": AUDIO,
    "vision_start_token_id": VISION_START,
    "audio_start_token_id": AUDIO_START,
}


@pytest.mark.parametrize("with_sound", [False, True])
@SWEEP
@given(data=st.data())
def test_qwen2_5_omni(with_sound, data):
    things = data.draw(omni_sequences(with_sound=with_sound))
    per_second, chunk = data.draw(st.sampled_from([(25, 2.0), (25, 0.3), (7, 1.0), (12.5, 2)]))
    stub = model(
        modeling("qwen2_5_omni").Qwen2_5OmniPreTrainedModelForConditionalGeneration,
        "get_llm_pos_ids_for_vision",
        "get_chunked_index",
        position_id_per_seconds=per_second,
        seconds_per_chunk=chunk,
        **TOKENS,
    )
    segments, positions, delta = read_by_omni(
        stub, things, frames_of_sound=lambda length: 4 * length, with_sound=with_sound
    )
    actual = mixed(segments, style="qwen2_5_omni", per_second=per_second, seconds_per_chunk=chunk)
    agree(actual, positions, delta)


@pytest.mark.parametrize("with_sound", [False, True])
@SWEEP
@given(data=st.data())
def test_qwen3_omni(with_sound, data):
    things = data.draw(omni_sequences(with_sound=with_sound))
    per_second = data.draw(st.sampled_from([13, 25, 12.5]))
    stub = model(
        modeling("qwen3_omni_moe").Qwen3OmniMoePreTrainedModelForConditionalGeneration,
        "get_llm_pos_ids_for_vision",
        position_id_per_seconds=per_second,
        audio_config=SimpleNamespace(n_window=50),
        **TOKENS,
    )

    def frames_of_sound(length):
        # Their encoder returns 13 tokens for 100 frames, and one for every 8 of the rest.
        return length // 13 * 100 + max(8 * (length % 13) - 7, 0)

    segments, positions, delta = read_by_omni(
        stub, things, frames_of_sound=frames_of_sound, with_sound=with_sound
    )
    actual = mixed(segments, style="qwen3_omni", per_second=per_second)
    assert actual.positions.dtype == np.float64
    np.testing.assert_array_equal(actual.positions, positions)
    assert actual.delta == delta


# ------------------------------------------------------------------------------------------------
# Grids.


@SWEEP
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_dinov3(height, width):
    torch = importlib.import_module("torch")
    theirs = modeling("dinov3_vit").get_patches_center_coordinates
    centres = grid(height, width, anchor=0.5, normalize="separate")
    expected = theirs(height, width, torch.float64, torch.device("cpu")).numpy().T
    np.testing.assert_allclose(centres, expected, rtol=0, atol=2**-52)


@pytest.mark.parametrize("side", [1, 4, 24])
def test_llama4_vision(side):
    config = SimpleNamespace(
        image_size=14 * side, patch_size=14, hidden_size=8, num_attention_heads=1,
        rope_parameters={"rope_theta": 10_000.0},
    )  # fmt: skip
    freqs_cis = modeling("llama4").Llama4VisionRotaryEmbedding._compute_freqs_ci(config)
    # Of each axis's two frequencies the second is 0.01.
    angles = np.angle(freqs_cis[:, 0, [1, 3]].numpy())
    actual = grid(side, side, start=1, order="xy", suffix=1)
    np.testing.assert_array_equal(actual, np.round(100 * angles.T))


@SWEEP
@given(
    frames=st.integers(1, 3),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    merge=st.integers(1, 3),
)
def test_blocks_of_a_merger(frames, rows, columns, merge):
    torch = importlib.import_module("torch")
    theirs = importlib.import_module("transformers.vision_utils").get_vision_position_ids
    height, width = rows * merge, columns * merge
    sizes = torch.tensor([[frames, height, width]])
    actual = grid(height, width, merge=merge)
    np.testing.assert_array_equal(np.tile(actual, frames), theirs(sizes, merge).numpy().T)
    timed = theirs(sizes, merge, include_temporal=True).numpy().T
    actual = grid(frames, height, width, merge=[1, merge, merge])
    np.testing.assert_array_equal(actual, timed)
