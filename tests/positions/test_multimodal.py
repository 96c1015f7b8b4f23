"""Mixed sequences of text, images, video and audio: published examples, a plain loop, errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotary.positions import Audio, Image, Mixed, Text, Video, mixed

MERGE = 2
texts = st.integers(0, 5).map(Text)
sides = st.integers(1, 4).map(lambda tokens: tokens * MERGE)
images = st.builds(Image, sides, sides, merge=st.just(MERGE))
films = st.builds(Video, st.integers(1, 6), sides, sides, merge=st.just(MERGE))


def same(actual, expected, dtype=np.int64):
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, np.array(expected, dtype), strict=True)


@given(st.lists(st.one_of(texts, images, films), max_size=6))
def test_the_next_segment_starts_after_the_largest_position(segments):
    tokens, start = [], 0
    for segment in segments:
        if isinstance(segment, Text):
            placed = [(i, i, i) for i in range(segment.length)]
        else:
            placed = [
                (frame, row, column)
                for frame in range(getattr(segment, "frames", 1))
                for row in range(segment.height // MERGE)
                for column in range(segment.width // MERGE)
            ]
        tokens += [[start + place for place in token] for token in placed]
        start = max([start, *(place + 1 for token in tokens for place in token)])
    actual = mixed(segments, style="qwen2_vl")
    assert isinstance(actual, Mixed)
    same(actual.positions, np.array(tokens, np.int64).reshape(-1, 3).T)
    assert actual.delta == start - len(tokens)
    assert type(actual.delta) is int


def test_the_published_example_of_qwen2_5_vl():
    """As in the docstrings of transformers: 25 positions a second, two seconds a step."""
    segments = [Video(3, 2, 2, seconds=2.0), Text(5)]
    actual = mixed(segments, style="qwen2_5_vl", per_second=25)
    text = [101, 102, 103, 104, 105]
    same(
        actual.positions,
        [
            [*[0] * 4, *[50] * 4, *[100] * 4, *text],
            [*[0, 0, 1, 1] * 3, *text],
            [*[0, 1, 0, 1] * 3, *text],
        ],
    )
    assert actual.delta == 106 - 17


def test_text_after_a_video_may_start_after_its_longer_side():
    segments = [Video(3, 4, 2, merge=2, seconds=2.0), Text(1)]
    actual = mixed(segments, style="qwen2_5_vl", per_second=25, advance="sides")
    same(actual.positions[:, -1], [2, 2, 2])
    assert actual.delta == 101 - 7


def test_times_are_products_in_float32():
    """In float64 0.06 * 25 * 2 is less than 3; in float32 5 * 0.04 * 25 is less than 5."""
    for style, seconds, frame, time in (
        ("qwen2_5_vl", 0.06, 2, 3),
        ("qwen2_5_omni", 0.06, 2, 3),
        ("qwen2_5_vl", 0.04, 5, 5),
        ("qwen2_5_omni", 0.04, 5, 4),
    ):
        actual = mixed([Video(6, 1, 1, seconds=seconds)], style=style, per_second=25)
        assert actual.positions[0, frame] == time, (style, seconds)


def test_frames_may_be_merged():
    film = Video(4, 2, 2, merge=2, frame_merge=2)
    same(mixed([film], style="ernie4_5_vl").positions, [[0, 1], [0, 0], [0, 0]])


def test_chunks_of_video_and_audio_alternate():
    """One frame per second, chunks of two positions, both special tokens at one position (Qwen2.5-Omni)."""
    film = Video(3, 1, 2, seconds=1.0, audio=Audio(5))
    actual = mixed(
        [Text(1), film, Text(1)], style="qwen2_5_omni", per_second=2, seconds_per_chunk=1
    )
    same(
        actual.positions,
        [
            #   marks frame  sound frame  sound frame  sound marks text
            [0, 1, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 7, 8],
            [0, 1, 1, 2, 2, 2, 3, 2, 2, 4, 5, 2, 2, 6, 7, 7, 8],
            [0, 1, 1, 2, 3, 2, 3, 2, 3, 4, 5, 2, 3, 6, 7, 7, 8],
        ],
    )
    assert actual.delta == 9 - 17


def test_the_next_segment_starts_after_the_last_chunk():
    film = Video(1, 1, 6, seconds=1.0, audio=Audio(2))
    actual = mixed([film], style="qwen2_5_omni", per_second=25)
    same(actual.positions[2], [0, 0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 3])
    assert actual.delta == 7 - 12


def test_a_frame_beyond_the_next_chunk_is_split():
    film = Video(2, 1, 2, seconds=4.0, audio=Audio(3))
    actual = mixed([film], style="qwen2_5_omni", per_second=1, seconds_per_chunk=2)
    same(actual.positions[0], [0, 0, 1, 1, 1, 2, 5, 3, 5, 6, 6])


def test_video_and_audio_are_sorted_by_time():
    film = Video(2, 1, 2, seconds=1.0, audio=Audio(3))
    actual = mixed([Text(1), film, Text(1)], style="qwen3_omni", per_second=1.5)
    # The time of the second frame is 3 + 1.5, between the second and the third token of audio.
    same(
        actual.positions,
        [
            [0, 1, 2, 3, 3, 3, 4, 4.5, 4.5, 5, 6, 7, 8],
            [0, 1, 2, 3, 3, 3, 4, 3, 3, 5, 6, 7, 8],
            [0, 1, 2, 3, 4, 3, 4, 3, 4, 5, 6, 7, 8],
        ],
        np.float64,
    )
    assert actual.delta == 9 - 13
    assert type(actual.delta) is float


def test_video_comes_first_if_times_are_equal():
    film = Video(2, 1, 1, seconds=1.0, audio=Audio(2))
    actual = mixed([film], style="qwen3_omni", per_second=1)
    same(actual.positions[1], [0, 1, 2, 2, 2, 3, 4, 5], np.float64)


@given(
    st.lists(st.one_of(texts, images), max_size=4), st.lists(st.one_of(texts, images), max_size=4)
)
def test_a_sequence_may_be_continued(first, second):
    """`start` is the position of the next token; `delta` then leads to the token after both."""
    whole = mixed([*first, *second], style="qwen2_vl")
    begun = mixed(first, style="qwen2_vl")
    start = begun.positions.shape[1] + begun.delta
    continued = mixed(second, style="qwen2_vl", start=start)
    same(np.concatenate([begun.positions, continued.positions], axis=1), whole.positions)
    total = continued.positions.shape[1]
    assert total + continued.delta == whole.positions.shape[1] + whole.delta


@pytest.mark.parametrize(
    ("style", "options"),
    [
        ("qwen2_vl", {"advance": "sides"}),
        ("qwen2_5_vl", {"per_second": 25}),
        ("qwen2_5_omni", {"per_second": 25}),
        ("qwen3_omni", {"per_second": 13}),
    ],
)
def test_a_start_moves_all_positions(style, options):
    seconds = None if style == "qwen2_vl" else 0.5
    audio = Audio(9) if "omni" in style else None
    segments = [Text(2), Video(4, 4, 4, merge=2, seconds=seconds, audio=audio), Text(3)]
    moved, first = (mixed(segments, style=style, start=start, **options) for start in (1000, 0))
    same(moved.positions, first.positions + 1000, first.positions.dtype)
    assert moved.delta == first.delta + 1000


def test_no_segments():
    for style, dtype in (("qwen2_vl", np.int64), ("qwen3_omni", np.float64)):
        actual = mixed([], style=style)
        same(actual.positions, np.zeros((3, 0)), dtype)
        assert actual.delta == 0


def test_no_segments_with_a_start():
    for start in (7, -(2**63) + 1):
        actual = mixed([], style="qwen2_vl", start=start)
        same(actual.positions, np.zeros((3, 0)))
        assert actual.delta == start


def test_any_iterable():
    assert mixed(iter([Text(2)]), style="qwen3_vl").positions.shape == (3, 2)


def test_segments_are_values():
    film = Video(2, 4, 4, merge=2, seconds=1, audio=Audio(3))
    assert pickle.loads(pickle.dumps(film)) == copy.deepcopy(film) == film
    assert len({film, Video(2, 4, 4, merge=2, seconds=1.0, audio=Audio(3))}) == 1
    with pytest.raises(AttributeError):
        film.frames = 3
    assert Text(np.int32(3)) == Text(3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Text(-1), ValueError, "`length` must not be negative, got -1"),
        (lambda: Text(1.0), TypeError, "`length` must be an integer"),
        (lambda: Audio(0), ValueError, "`length` must be at least 1, got 0"),
        (lambda: Image(0, 1), ValueError, "`height` must be at least 1"),
        (lambda: Image(1, True), TypeError, "`width` must be an integer"),
        (lambda: Image(4, 3, merge=2), ValueError, "`width` must be a multiple of `merge`, 2, got 3"),
        (lambda: Image(4, 4, merge=0), ValueError, "`merge` must be at least 1"),
        (lambda: Video(0, 1, 1), ValueError, "`frames` must be at least 1"),
        (lambda: Video(1, 3, 2, merge=2), ValueError, "`height` must be a multiple of `merge`"),
        (lambda: Video(3, 1, 1, frame_merge=2), ValueError, "`frames` must be a multiple of `frame_m"),
        (lambda: Video(1, 1, 1, frame_merge=1.0), TypeError, "`frame_merge` must be an integer"),
        (lambda: Video(1, 1, 1, seconds=0), ValueError, "`seconds` must be positive"),
        (lambda: Video(1, 1, 1, seconds="1"), TypeError, "`seconds` must be a real number"),
        (lambda: Video(1, 1, 1, audio=3), TypeError, "`audio` must be an Audio, got 3"),
    ],
)  # fmt: skip
def test_segments_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


TIMED = Video(2, 1, 1, seconds=1.0)
HEARD = Video(2, 1, 1, seconds=1.0, audio=Audio(1))


@pytest.mark.parametrize(
    ("segments", "options", "error", "message"),
    [
        ([], {"style": "qwen"}, ValueError, "`style` must be one of 'qwen2_vl', 'qwen2_5_vl'"),
        ([], {"style": None}, TypeError, "`style` must be a string"),
        ([], {"style": "qwen2_vl", "advance": "max"}, ValueError, "`advance` must be one of 'larg"),
        ([], {"style": "qwen3_omni", "advance": "sides"}, ValueError, '`advance` must be "largest"'),
        ([], {"style": "qwen2_vl", "per_second": 2}, ValueError, "`per_second` must be left out"),
        ([], {"style": "qwen2_5_vl", "per_second": 0}, ValueError, "`per_second` must be positive"),
        ([], {"style": "qwen2_5_vl", "per_second": "2"}, TypeError, "`per_second` must be a real"),
        ([], {"style": "qwen3_omni", "per_second": 13, "seconds_per_chunk": 2}, ValueError,
         "`seconds_per_chunk` must be left out"),
        ([], {"style": "qwen2_5_omni", "per_second": 0.4}, ValueError,
         "`seconds_per_chunk` must be at least one position"),
        ([], {"style": "qwen2_5_omni", "per_second": 1e300, "seconds_per_chunk": 1e300},
         ValueError, "`seconds_per_chunk` must be at least one position and within int64"),
        ([], {"style": "qwen2_5_omni", "seconds_per_chunk": -1}, ValueError,
         "`seconds_per_chunk` must be positive"),
        (Text(1), {"style": "qwen2_vl"}, TypeError, r"`segments` must be .* got Text\(length=1\)"),
        (None, {"style": "qwen2_vl"}, TypeError, "`segments` must be .* got None"),
        ([Text(1), 5], {"style": "qwen2_vl"}, TypeError, r"`segments\[1\]` must be Text, Image, V"),
        ([Audio(1)], {"style": "qwen2_vl"}, ValueError, r"`segments\[0\]` must not be Audio"),
        ([TIMED], {"style": "qwen3_vl"}, ValueError, r"`segments\[0\]` must be an Image for style"),
        ([TIMED], {"style": "qwen2_vl"}, ValueError, r"`segments\[0\].seconds` must be left out"),
        ([Video(4, 1, 1, frame_merge=2)], {"style": "qwen2_vl"}, ValueError,
         r"`segments\[0\].frame_merge` must be left out for style 'qwen2_vl', .* got 2"),
        ([HEARD], {"style": "qwen2_5_vl", "per_second": 2}, ValueError,
         r"`segments\[0\].audio` must be left out"),
        ([Video(1, 1, 1)], {"style": "qwen2_5_vl", "per_second": 2}, ValueError,
         r"`segments\[0\].seconds` must be given"),
        ([TIMED], {"style": "qwen2_5_vl"}, ValueError, "`per_second` must be given"),
        ([TIMED], {"style": "qwen2_5_vl", "per_second": 1e19}, ValueError,
         "`per_second` must keep positions within int64, got .* time of the last frame"),
        ([TIMED], {"style": "qwen2_5_vl", "per_second": 1e300}, ValueError,
         "`per_second` must keep positions within int64, got inf"),
        ([TIMED, TIMED], {"style": "qwen2_5_vl", "per_second": 2**62}, ValueError,
         "`per_second` must keep positions within int64, got .* as a position"),
        ([TIMED, TIMED], {"style": "qwen3_omni", "per_second": 2**62}, ValueError,
         "`per_second` must keep positions within int64"),
        ([Text(2)], {"style": "qwen2_vl", "start": 2**63 - 1}, ValueError,
         "`start` and `per_second` must keep positions within int64, got 9223372036854775809"),
        ([], {"style": "qwen2_vl", "start": -(2**63)}, ValueError, "`start` must keep positions"),
        ([], {"style": "qwen2_vl", "start": 2**63}, ValueError, "`start` must keep positions"),
        ([], {"style": "qwen2_vl", "start": 1.0}, TypeError, "`start` must be an integer, got 1.0"),
        ([], {"style": "qwen3_omni", "start": "1"}, TypeError, "`start` must be a real number"),
        ([], {"style": "qwen3_omni", "start": 0.1}, ValueError, "`start` must be exact in float32"),
        ([], {"style": "qwen3_omni", "start": 1e300}, ValueError, "`start` must be exact in float32"),
    ],
)  # fmt: skip
def test_calls_refused(segments, options, error, message):
    with pytest.raises(error, match=message):
        mixed(segments, **options)


def test_unused_numbers_may_be_given():
    same(mixed([Text(1)], style="qwen2_5_omni").positions, [[0]] * 3)
    same(mixed([Text(1)], style="qwen2_5_vl", per_second=2).positions, [[0]] * 3)


def test_chunks_shorter_than_one_second_do_not_matter_to_others():
    actual = mixed([Video(3, 1, 1, seconds=1.0)], style="qwen2_5_vl", per_second=0.5)
    same(actual.positions[0], [0, 0, 1])
