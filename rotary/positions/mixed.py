"""Positions of text, images, video and audio in one sequence, by the rules of a family of models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.checks import (
    as_choice,
    as_float,
    as_integer,
    as_non_negative_integer,
    as_positive_float,
    as_positive_integer,
)
from rotary._lib.numbers import TOO_LARGE, Number, Positions, check_int64_range
from rotary._lib.typing import HostArray, Int64Array

# The arguments that an error about a position names, between its backticks.
POSITION_ARGUMENTS = "start` and `per_second"

__all__ = ["Audio", "Image", "Mixed", "Text", "Video", "mixed"]


@dataclass(frozen=True)
class Text:
    """Tokens of text in a mixed sequence, including the special tokens around an image.

    Parameters
    ----------
    length : int
        The number of tokens.

    Raises
    ------
    TypeError
        If `length` is not an integer.
    ValueError
        If `length` is negative.

    Examples
    --------
    >>> mixed([Text(3)], style="qwen2_vl").positions
    array([[0, 1, 2],
           [0, 1, 2],
           [0, 1, 2]])
    """

    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", as_non_negative_integer(self.length, "length"))


@dataclass(frozen=True)
class Audio:
    """Tokens of audio in a mixed sequence, which have consecutive positions, as text.

    Parameters
    ----------
    length : int
        The number of tokens that the audio encoder returns.

    Raises
    ------
    TypeError
        If `length` is not an integer.
    ValueError
        If `length` is not positive.

    Examples
    --------
    >>> mixed([Text(1), Audio(2)], style="qwen2_5_omni").positions[0]
    array([0, 1, 2])
    """

    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", as_positive_integer(self.length, "length"))


@dataclass(frozen=True)
class Image:
    """The patches of one image in a mixed sequence, or of one frame of a video.

    Parameters
    ----------
    height, width : int
        The number of patches along each side: the last two numbers of a processor's ``image_grid_thw``.
    merge : int
        The number of patches along each side that become one token: ``spatial_merge_size``.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is not positive, or a side is not a multiple of `merge`.

    Examples
    --------
    >>> mixed([Text(1), Image(4, 4, merge=2)], style="qwen2_vl").positions
    array([[0, 1, 1, 1, 1],
           [0, 1, 1, 2, 2],
           [0, 1, 2, 1, 2]])
    """

    height: int
    width: int
    merge: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        _check_sides(self)


@dataclass(frozen=True)
class Video:
    """The patches of a video in a mixed sequence, and its audio if video and audio are interleaved.

    Parameters
    ----------
    frames, height, width : int
        The number of steps in time, and of patches along each side: a processor's ``video_grid_thw``.
    merge : int
        The number of patches along each side that become one token: ``spatial_merge_size``.
    frame_merge : int
        The number of steps in time that become one token: ``temporal_merge_size`` of Ernie 4.5-VL, the only
        model that has it.
    seconds : float, optional
        The duration of one step in time: a processor's ``second_per_grid_ts``. Required by the styles that
        measure time in seconds.
    audio : Audio, optional
        The audio of the video, if video and audio are interleaved. The result then includes the special tokens,
        two before and two after. Do not add these tokens as text.

    Raises
    ------
    TypeError
        If `seconds` is not a real number, another number is not an integer, or `audio` is not an `Audio`.
    ValueError
        If a number is not positive, a side is not a multiple of `merge`, or `frames` is not a multiple of
        `frame_merge`.

    Examples
    --------
    Two frames of one token each, one second apart, at two positions per second:

    >>> film = Video(2, 2, 2, merge=2, seconds=1.0)
    >>> mixed([Text(1), film], style="qwen2_5_vl", per_second=2).positions
    array([[0, 1, 3],
           [0, 1, 1],
           [0, 1, 1]])
    """

    frames: int
    height: int
    width: int
    merge: int = field(default=1, kw_only=True)
    frame_merge: int = field(default=1, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    audio: Audio | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("frames", "frame_merge"):
            object.__setattr__(self, name, as_positive_integer(getattr(self, name), name))
        _check_sides(self)
        _check_multiple(self.frames, "frames", self.frame_merge, "frame_merge")
        if self.seconds is not None:
            object.__setattr__(self, "seconds", as_positive_float(self.seconds, "seconds"))
        _check_audio(self.audio)


Segment: TypeAlias = Text | Audio | Image | Video


class Mixed(NamedTuple):
    """The positions of a mixed sequence, and the difference between the next position and the number of tokens.

    Parameters
    ----------
    positions : array (3, total)
        The positions of all tokens on the axes of time, height and width.
    delta : int or float
        The largest position plus 1, minus the number of tokens: ``rope_deltas`` in ``transformers``.

    Examples
    --------
    The position of the next token is ``total + delta`` on every axis.

    >>> sequence = mixed([Text(2), Image(2, 2), Text(1)], style="qwen2_vl")
    >>> sequence.positions[0], sequence.delta
    (array([0, 1, 2, 2, 2, 2, 4]), -2)
    """

    positions: Positions
    delta: Number


Style: TypeAlias = Literal[
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "glm4v",
    "ernie4_5_vl",
    "qwen2_5_omni",
    "qwen3_omni",
]


class _StyleRules(NamedTuple):
    """The rules of a family of models.

    `time` is the rule for the time of a frame: "frames" counts frames, "seconds" computes the interval between frames
    first, "timed" computes the seconds of each frame first, and "stills" means that there are images only. `audio` is
    the rule by which audio and video are interleaved: "chunks", "order", or "" for no audio.
    """

    time: str
    audio: str = ""
    merges_frames: bool = False
    dtype: type[np.int64 | np.float32] = np.int64


_STYLES = {
    "qwen2_vl": _StyleRules("frames"),
    "qwen2_5_vl": _StyleRules("seconds"),
    "qwen3_vl": _StyleRules("stills"),
    "glm4v": _StyleRules("stills"),
    "ernie4_5_vl": _StyleRules("frames", merges_frames=True),
    "qwen2_5_omni": _StyleRules("timed", "chunks"),
    "qwen3_omni": _StyleRules("timed", "order", dtype=np.float32),
}


class _Rules(NamedTuple):
    """The style of a call, and the numbers that apply to it."""

    style: str
    per_second: float | None
    per_chunk: int
    sides: bool

    @property
    def family(self) -> _StyleRules:
        return _STYLES[self.style]


def mixed(
    segments: Iterable[Segment],
    *,
    style: Style,
    per_second: float | None = None,
    seconds_per_chunk: float | None = None,
    advance: Literal["largest", "sides"] = "largest",
    start: Number = 0,
) -> Mixed:
    """Return the positions of text, images, video and audio in one sequence, by the rules of a model.

    Text and audio have consecutive positions, the same on all three axes. An image or video starts at the next
    position. To this start, its tokens add the time of their frame on the axis of time, and their row and column on
    the axes of height and width. The next segment starts after the image or video.

    Parameters
    ----------
    segments : iterable of Text, Image, Video and Audio
        The sequence in order. Special tokens, such as those before and after an image, are text.
    style : str
        The rules (see Notes): "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v",
        "ernie4_5_vl", "qwen2_5_omni" or "qwen3_omni".
    per_second : float, optional
        The number of positions per second of video, for the styles that measure time in seconds:
        ``tokens_per_second`` in the configuration of Qwen2.5-VL, ``position_id_per_seconds`` in the
        configurations of Qwen2.5-Omni (25) and Qwen3-Omni (13).
    seconds_per_chunk : float, optional
        The duration of the alternating chunks of video and audio, for "qwen2_5_omni"; by default 2.
    advance : {"largest", "sides"}
        The rule for the segment after a video: "largest" starts it after the largest position of the video,
        "sides" advances by the number of tokens on the longer side of the video (see Notes).
    start : int or float, default 0
        The position of the first segment. To continue a sequence, pass the position of its next token, which is
        its number of tokens plus its `delta`. Only "qwen3_omni" has positions that are not integers; they are
        float32 numbers.

    Returns
    -------
    Mixed
        `positions` (3, total) on the axes of time, height and width: int64, or float64 for "qwen3_omni". `delta`
        gives the positions of the tokens that are decoded afterwards.

    Raises
    ------
    TypeError
        If `segments` is not iterable, a segment is not one of the four classes, or a number is not real.
    ValueError
        If `style` or `advance` is unknown, the style does not use a given number or segment, a number that the
        style needs is missing, a number is not positive, or a position overflows int64.

    Notes
    -----
    ========================= ==================================================================
    "qwen2_vl"                The time of frame i is i. Qwen2-VL and PaddleOCR-VL.
    "qwen2_5_vl"              The time of frame i is ``i * (per_second * seconds)``, rounded down.
                              Qwen2.5-VL.
    "qwen3_vl", "glm4v"       The time is written as text: each frame is an `Image` after the `Text`
                              of its timestamp, and there are no videos. Qwen3-VL and Qwen3.5;
                              GLM-4V, 4.5V, 4.6V and GLM-OCR.
    "ernie4_5_vl"             As "qwen2_vl", with a `frame_merge` of 2. Ernie 4.5-VL.
    "qwen2_5_omni"            The time of frame i is ``i * seconds * per_second``, rounded down.
                              Chunks of video and of its audio alternate. TMRoPE of Qwen2.5-Omni.
    "qwen3_omni"              As "qwen2_5_omni", but not rounded. Tokens of video and audio are sorted
                              by time, with video first if times are equal. Qwen3-Omni.
    ========================= ==================================================================

    The products are computed in float32 and in the order shown, as in the models' own code. After rounding down,
    the order matters: at 25 positions per second and frames of 0.04 s, the time of the sixth frame is 5 in
    Qwen2.5-VL, and 4 in Qwen2.5-Omni.

    In the code of the models' authors, in vLLM, and in ``transformers`` before 5.3, text starts after the largest
    position of a video on any axis. In ``transformers`` from 5.3 on (compared with 5.23.0), text starts after the
    longer side for Qwen2-VL, Qwen2.5-VL and Ernie 4.5-VL, as with ``advance="sides"``. If a video has more steps in
    time than patches along its sides, the text after it then shares positions with the video.

    Two details are as in the code of Qwen2.5-Omni. The two special tokens before a video with audio share one
    position, and so do the two after it. A frame that begins later than the chunk after next is split
    after its first token. In both Omni styles, the next segment starts after the last run of video or
    audio, even if an earlier run has larger positions.

    Sources: ``get_rope_index`` of each model in ``transformers``; arXiv:2409.12191, 2502.13923 and
    2503.20215.

    Examples
    --------
    Two words, an image of two by three tokens, a word:

    >>> sequence = mixed([Text(2), Image(4, 6, merge=2), Text(1)], style="qwen2_5_vl")
    >>> sequence.positions
    array([[0, 1, 2, 2, 2, 2, 2, 2, 5],
           [0, 1, 2, 2, 2, 3, 3, 3, 5],
           [0, 1, 2, 3, 4, 2, 3, 4, 5]])
    >>> sequence.delta
    -3
    """
    rules = _rules(style, per_second, seconds_per_chunk, advance)
    dtype = rules.family.dtype
    first = following = _start(start, dtype)
    parts: list[HostArray] = [np.zeros((3, 0), dtype)]
    for index, segment in enumerate(_iterable(segments)):
        _check_segment(segment, f"segments[{index}]", rules)
        of_segment, following = _positions_of(segment, following, rules)
        parts += of_segment
    positions = np.concatenate(parts, axis=1)
    one = dtype(1)
    total = positions.shape[1]
    delta = positions.max(initial=first - one) + one - dtype(total)
    if dtype is np.float32:
        positions = positions.astype(np.float64)
    return Mixed(positions, delta.item())


def _start(start: Any, dtype: type[np.int64 | np.float32]) -> Any:
    """Return the first position in the dtype of a style; raise if the dtype cannot represent it."""
    if dtype is np.int64:
        integer = as_integer(start, "start")
        check_int64_range(integer - 1, "start")
        check_int64_range(integer, "start")
        return dtype(integer)
    number = as_float(start, "start")
    if abs(number) >= TOO_LARGE or float(dtype(number)) != number:
        msg = f"`start` must be exact in float32, because the positions of the style are float32, got {start!r}"
        raise ValueError(msg)
    return dtype(number)


def _rules(style: Any, per_second: Any, seconds_per_chunk: Any, advance: Any) -> _Rules:
    name = as_choice(style, "style", tuple(_STYLES))
    family = _STYLES[name]
    sides = as_choice(advance, "advance", ("largest", "sides")) == "sides"
    if sides and family.time == "timed":
        msg = f'`advance` must be "largest" for style {name!r}, got "sides"'
        raise ValueError(msg)
    if per_second is not None:
        if family.time not in {"seconds", "timed"}:
            msg = f"`per_second` must be left out for style {name!r}, which does not use it, got {per_second!r}"
            raise ValueError(msg)
        per_second = as_positive_float(per_second, "per_second")
    return _Rules(name, per_second, _per_chunk(name, per_second, seconds_per_chunk), sides)


def _per_chunk(style: str, per_second: float | None, seconds_per_chunk: Any) -> int:
    """Return the number of positions in a chunk of video with audio, or 0 if there are no chunks."""
    if _STYLES[style].audio != "chunks":
        if seconds_per_chunk is not None:
            msg = (
                f"`seconds_per_chunk` must be left out for style {style!r}, which has no chunks, got "
                f"{seconds_per_chunk!r}"
            )
            raise ValueError(msg)
        return 0
    given = 2.0 if seconds_per_chunk is None else seconds_per_chunk
    seconds = as_positive_float(given, "seconds_per_chunk")
    if per_second is None:
        return 0
    chunk = per_second * seconds
    if not 1 <= chunk < 2**63:
        msg = f"`seconds_per_chunk` must be at least one position and within int64, got {chunk!r} positions"
        raise ValueError(msg)
    return int(chunk)


def _iterable(segments: Any) -> Iterable[Any]:
    if not isinstance(segments, Iterable):
        msg = f"`segments` must be an iterable of Text, Image, Video and Audio, got {segments!r}"
        raise TypeError(msg)
    return segments


def _check_segment(segment: Any, name: str, rules: _Rules) -> None:
    """Raise for objects that are not segments, and for segments that the style does not support."""
    if not isinstance(segment, Segment):
        msg = f"`{name}` must be Text, Image, Video or Audio, got {segment!r}"
        raise TypeError(msg)
    family = rules.family
    if isinstance(segment, Audio) and not family.audio:
        msg = f"`{name}` must not be Audio for style {rules.style!r}, which has no audio, got {segment!r}"
        raise ValueError(msg)
    if not isinstance(segment, Video):
        return
    if family.time == "stills":
        msg = (
            f"`{name}` must be an Image for style {rules.style!r}, one for every frame, after the Text of its "
            "timestamp, got a Video"
        )
        raise ValueError(msg)
    if segment.audio is not None and not family.audio:
        msg = (
            f"`{name}.audio` must be left out for style {rules.style!r}, which has no audio, got "
            f"{segment.audio!r}"
        )
        raise ValueError(msg)
    if segment.frame_merge > 1 and not family.merges_frames:
        msg = (
            f"`{name}.frame_merge` must be left out for style {rules.style!r}, which does not merge frames, "
            f"got {segment.frame_merge}"
        )
        raise ValueError(msg)
    if family.time == "frames" and segment.seconds is not None:
        msg = (
            f"`{name}.seconds` must be left out for style {rules.style!r}, which counts frames, got "
            f"{segment.seconds}"
        )
        raise ValueError(msg)
    if family.time != "frames" and segment.seconds is None:
        msg = f"`{name}.seconds` must be given for style {rules.style!r}, got None"
        raise ValueError(msg)
    if family.time != "frames" and rules.per_second is None:
        msg = f"`per_second` must be given for a video of style {rules.style!r}, got None"
        raise ValueError(msg)


def _positions_of(segment: Segment, start: Any, rules: _Rules) -> tuple[list[HostArray], Any]:
    """Return the positions of a segment, and the start of the next one."""
    dtype = rules.family.dtype
    one = dtype(1)
    if isinstance(segment, Text | Audio):
        return [_consecutive(start, segment.length)], start + dtype(segment.length)
    if isinstance(segment, Image):
        cells = _cells(np.zeros(1, dtype), segment, start)
        return [cells], cells.max() + one
    if segment.audio is not None:
        return _with_audio(segment, segment.audio, start, rules)
    cells = _cells(_times(segment, rules), segment, start)
    if rules.sides:
        return [cells], start + max(segment.height, segment.width) // segment.merge
    return [cells], cells.max() + one


def _consecutive(start: Any, length: int) -> HostArray:
    """Return consecutive positions from `start` on, the same on all axes."""
    check_int64_range(start.item() + length, POSITION_ARGUMENTS, suffix=" as a position")
    positions = np.arange(length, dtype=start.dtype) + start
    return np.broadcast_to(positions, (3, length))


def _cells(times: HostArray, space: Image | Video, start: Any) -> HostArray:
    """Return the positions of the patches of all frames, given the times of the frames."""
    rows, columns = (side // space.merge for side in (space.height, space.width))
    check_int64_range(
        start.item() + times[-1].item() + rows + columns,
        POSITION_ARGUMENTS,
        suffix=" as a position",
    )
    shape = (len(times), rows, columns)
    grid = np.empty((3, *shape), start.dtype)
    for axis, along in enumerate((times, np.arange(rows), np.arange(columns))):
        grid[axis] = along.reshape(-1, *[1] * (2 - axis))
    positions: HostArray = grid.reshape(3, -1) + start
    return positions


def _times(video: Video, rules: _Rules) -> HostArray:
    """Return the times of the frames of a video, from 0."""
    index = np.arange(video.frames // video.frame_merge)
    if rules.family.time == "frames":
        return index
    with np.errstate(over="ignore", invalid="ignore"):  # the range is checked below
        count, seconds, per_second = (
            np.asarray(value, np.float32) for value in (index, video.seconds, rules.per_second)
        )
        if rules.family.time == "seconds":
            times = count * (per_second * seconds)
        else:
            times = count * seconds * per_second
    check_int64_range(float(times[-1]), "per_second", suffix=" as the time of the last frame")
    rounded: HostArray = times.astype(rules.family.dtype)
    return rounded


def _with_audio(
    video: Video, audio: Audio, start: Any, rules: _Rules
) -> tuple[list[HostArray], Any]:
    """Return the positions of interleaved video and audio with their special tokens, and the next position."""
    one = rules.family.dtype(1)
    in_chunks = rules.family.audio == "chunks"
    special = np.zeros((3, 2), start.dtype) if in_chunks else _consecutive(start - start, 2)
    after = special.max() + one
    times = _times(video, rules)
    frames = _cells(times, video, start + after)
    sounds = _consecutive(start + after, audio.length)
    if in_chunks:
        per_frame = frames.shape[1] // len(times)
        parts = _alternating(frames, np.repeat(times, per_frame), sounds, rules.per_chunk)
    else:
        parts = _sorted_by_time(frames, sounds)
    end = parts[-1].max() + one
    return [special + start, *parts, special + end], end + after


def _alternating(
    frames: HostArray, times: HostArray, sounds: HostArray, per_chunk: int
) -> list[HostArray]:
    """Return alternating chunks of a video and of its audio."""
    video = _chunks(frames, times, per_chunk)
    audio = _chunks(sounds, np.arange(sounds.shape[1]), per_chunk)
    rounds = zip_longest(video, audio)
    return [chunk for chunks in rounds for chunk in chunks if chunk is not None]


def _chunks(positions: HostArray, times: HostArray, per_chunk: int) -> list[HostArray]:
    """Split positions at the start time of each chunk. A chunk has at least one token."""
    bounds = [0]
    while bounds[-1] < len(times):
        next_start = int(np.searchsorted(times, per_chunk * len(bounds)))
        bounds.append(max(next_start, bounds[-1] + 1))
    return [positions[:, begin:end] for begin, end in pairwise(bounds)]


def _sorted_by_time(frames: HostArray, sounds: HostArray) -> list[HostArray]:
    """Return the tokens of video and audio sorted by time, in two parts: the last run of one kind is the second."""
    tokens = np.concatenate([frames, sounds], axis=1)
    order: Int64Array = np.argsort(tokens[0], kind="stable")
    changes = np.flatnonzero(np.diff(order < frames.shape[1]))
    last_run = int(changes[-1]) + 1
    return [tokens[:, order[:last_run]], tokens[:, order[last_run:]]]


def _check_audio(audio: Any) -> None:
    if audio is not None and not isinstance(audio, Audio):
        msg = f"`audio` must be an Audio, got {audio!r} of type {type(audio).__name__}"
        raise TypeError(msg)


def _check_sides(space: Image | Video) -> None:
    """Check the sides of an image or video, and that they are multiples of `merge`."""
    for name in ("height", "width", "merge"):
        object.__setattr__(space, name, as_positive_integer(getattr(space, name), name))
    for name in ("height", "width"):
        _check_multiple(getattr(space, name), name, space.merge, "merge")


def _check_multiple(size: int, name: str, divisor: int, divisor_name: str) -> None:
    if size % divisor:
        msg = f"`{name}` must be a multiple of `{divisor_name}`, {divisor}, got {size}"
        raise ValueError(msg)
