"""Where text, images, video and sound stand in one sequence: the rules of each family of models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.checks import (
    as_choice,
    as_non_negative_integer,
    as_positive_float,
    as_positive_integer,
)
from rotary._lib.numbers import Number, Positions, check_reach
from rotary._lib.typing import HostArray, Int64Array

__all__ = ["Audio", "Image", "Mixed", "Text", "Video", "mixed"]


@dataclass(frozen=True)
class Text:
    """Tokens of text in a mixed sequence, marks such as those around an image included.

    Parameters
    ----------
    length : int
        How many tokens.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is negative.

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
    """Tokens of sound in a mixed sequence: one position each, as text has.

    Parameters
    ----------
    length : int
        How many tokens, as many as the encoder of sound puts out.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is not positive.

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
        How many patches: the last two numbers of a processor's ``image_grid_thw``.
    merge : int
        How many patches along each side become one token: ``spatial_merge_size``.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If it is not positive, or a side is no multiple of `merge`.

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
    """The patches of a video in a mixed sequence, with its sound where the two are interleaved.

    Parameters
    ----------
    frames, height, width : int
        How many steps in time and patches in space: a processor's ``video_grid_thw``.
    merge : int
        How many patches along each side become one token: ``spatial_merge_size``.
    frame_merge : int
        How many steps in time become one token: ``temporal_merge_size`` of Ernie 4.5-VL, which alone
        has it.
    seconds : float, optional
        How long one step in time is: a processor's ``second_per_grid_ts``. For the styles that tell
        time in seconds.
    audio : Audio, optional
        The sound of the video, to be interleaved with it. The two then bring their own marks, two
        tokens before and two after, which are not to be counted as text.

    Raises
    ------
    TypeError
        If a number is not an integer or not real, or `audio` no `Audio`.
    ValueError
        If one is not positive, a side is no multiple of `merge`, or `frames` none of `frame_merge`.

    Examples
    --------
    Two frames of one token each, a second apart, at two positions a second:

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
    """The positions of a mixed sequence, and how far they run ahead of the count of tokens.

    Parameters
    ----------
    positions : array (3, total)
        Time, height and width of every token.
    delta : int or float
        The largest position plus 1, less the number of tokens: ``rope_deltas`` in ``transformers``.

    Examples
    --------
    The next token stands at ``total + delta`` on every axis.

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
    """How a family of models reads a sequence.

    `time` is what moves a video's time on: "frames", "seconds" (the interval multiplied first),
    "timed" (each frame's seconds first), or "stills" (it is given as images). `sound` is how audio
    is interleaved: in "chunks", by "order", or not at all.
    """

    time: str
    sound: str = ""
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
    """A style, and the numbers that a call has given with it."""

    style: str
    per_second: float | None
    per_chunk: int
    sides: bool

    @property
    def known(self) -> _StyleRules:
        """What the style says."""
        return _STYLES[self.style]


def mixed(
    segments: Iterable[Segment],
    *,
    style: Style,
    per_second: float | None = None,
    seconds_per_chunk: float | None = None,
    advance: Literal["largest", "sides"] = "largest",
) -> Mixed:
    """Place the tokens of text, images, video and sound in one sequence, as a model was trained to.

    Text and sound count on, on all three axes alike. An image or video starts where the count
    stands: its tokens have their row and column on the axes of height and width, and the time of
    their frame on the axis of time. What follows starts behind it.

    Parameters
    ----------
    segments : iterable of Text, Image, Video and Audio
        The sequence in order. Marks, such as those before and after an image, are text.
    style : str
        Whose rules apply (see Notes): "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v",
        "ernie4_5_vl", "qwen2_5_omni" or "qwen3_omni".
    per_second : float, optional
        How many positions a second of video is, for the styles that tell time in seconds:
        ``tokens_per_second`` in Qwen2.5-VL's configuration, ``position_id_per_seconds`` in those of
        Qwen2.5-Omni (25) and Qwen3-Omni (13).
    seconds_per_chunk : float, optional
        How much of a video comes before its sound, in turn, for "qwen2_5_omni"; by default 2.
    advance : {"largest", "sides"}
        What follows a video starts behind its largest position, or after as many positions as its
        longer side has tokens (see Notes).

    Returns
    -------
    Mixed
        `positions` (3, total), axes time, height, width: int64, or float64 for "qwen3_omni"; and
        `delta`, for decoding on.

    Raises
    ------
    TypeError
        If `segments` is no iterable, a segment none of the four, or a number not real.
    ValueError
        If `style` or `advance` is unknown, a number or a segment is given that the style has no use
        for, one is missing that it needs, a number is not positive, or a position would leave int64.

    Notes
    -----
    ========================= ==================================================================
    "qwen2_vl"                frames count 1 each. Qwen2-VL and PaddleOCR-VL.
    "qwen2_5_vl"              frame i stands at ``i * (per_second * seconds)``, rounded down.
                              Qwen2.5-VL.
    "qwen3_vl", "glm4v"       time is told by text: every frame is an `Image`, with the `Text` of its
                              timestamp before it; there are no videos. Qwen3-VL and Qwen3.5; GLM-4V,
                              4.5V, 4.6V and GLM-OCR.
    "ernie4_5_vl"             as "qwen2_vl"; `frame_merge` is 2. Ernie 4.5-VL.
    "qwen2_5_omni"            frame i stands at ``i * seconds * per_second``, rounded down. With
                              sound, chunks of video and of sound take turns. TMRoPE of Qwen2.5-Omni.
    "qwen3_omni"              the same, not rounded; video and sound in the order of their times,
                              video first where they are equal. Qwen3-Omni.
    ========================= ==================================================================

    The products are float32, in the order shown, because the models' own are, and rounding down shows
    it: at 25 positions a second the sixth frame of 0.04 s stands at 5 in Qwen2.5-VL, and at 4 in
    Qwen2.5-Omni.

    The code of the models' authors, vLLM and ``transformers`` before 5.3 let text follow a video's
    largest position, on any axis. ``transformers`` from 5.3 (read and compared: 5.23.0) counts on by
    the longer side alone for Qwen2-VL, Qwen2.5-VL and Ernie 4.5-VL, so that text after a video with
    more steps in time than patches in space shares positions with it: ``advance="sides"``.

    Two habits of Qwen2.5-Omni's code are kept: both marks before a video with sound have one
    position, and both behind it; and a frame that begins later than the chunk after next is parted
    after its first token. In both Omni styles what follows starts behind the last run of video or of
    sound, even where the other has gone further.

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
    start = rules.known.dtype(0)
    parts: list[HostArray] = [np.zeros((3, 0), rules.known.dtype)]
    for index, segment in enumerate(_listed(segments)):
        _check_segment(segment, f"segments[{index}]", rules)
        placed, start = _placed(segment, start, rules)
        parts += placed
    positions = np.concatenate(parts, axis=1)
    one = rules.known.dtype(1)
    total = positions.shape[1]
    delta = positions.max(initial=-one) + one - rules.known.dtype(total)
    if rules.known.dtype is np.float32:
        positions = positions.astype(np.float64)
    return Mixed(positions, delta.item())


def _rules(style: Any, per_second: Any, seconds_per_chunk: Any, advance: Any) -> _Rules:
    """Return the checked rules of a call."""
    name = as_choice(style, "style", tuple(_STYLES))
    known = _STYLES[name]
    sides = as_choice(advance, "advance", ("largest", "sides")) == "sides"
    if sides and known.time == "timed":
        msg = f'`advance` must be "largest" for style {name!r}, got "sides"'
        raise ValueError(msg)
    if per_second is not None:
        if known.time not in {"seconds", "timed"}:
            msg = f"`per_second` must be left out for style {name!r}, which does not tell seconds"
            raise ValueError(msg)
        per_second = as_positive_float(per_second, "per_second")
    return _Rules(name, per_second, _per_chunk(name, per_second, seconds_per_chunk), sides)


def _per_chunk(style: str, per_second: float | None, seconds_per_chunk: Any) -> int:
    """Return how many positions a chunk of a video with sound is, 0 where there are no chunks."""
    if _STYLES[style].sound != "chunks":
        if seconds_per_chunk is not None:
            msg = f"`seconds_per_chunk` must be left out for style {style!r}, which has no chunks"
            raise ValueError(msg)
        return 0
    given = 2.0 if seconds_per_chunk is None else seconds_per_chunk
    seconds = as_positive_float(given, "seconds_per_chunk")
    if per_second is None:
        return 0
    chunk = per_second * seconds
    if not 1 <= chunk < 2**63:
        msg = f"`seconds_per_chunk` must be at least one position and within int64, got {chunk!r} of them"
        raise ValueError(msg)
    return int(chunk)


def _listed(segments: Any) -> Iterable[Any]:
    """Return what is a sequence of something."""
    if not isinstance(segments, Iterable):
        msg = f"`segments` must be an iterable of Text, Image, Video and Audio, got {segments!r}"
        raise TypeError(msg)
    return segments


def _check_segment(segment: Any, name: str, rules: _Rules) -> None:
    """Refuse what is no segment, or none that the style knows."""
    if not isinstance(segment, Segment):
        msg = f"`{name}` must be Text, Image, Video or Audio, got {segment!r}"
        raise TypeError(msg)
    known = rules.known
    if isinstance(segment, Audio) and not known.sound:
        msg = f"`{name}` must not be Audio for style {rules.style!r}, which has none"
        raise ValueError(msg)
    if not isinstance(segment, Video):
        return
    if known.time == "stills":
        msg = (
            f"`{name}` must be an Image for every frame, with the Text of its timestamp before it, "
            f"for style {rules.style!r}; got a Video"
        )
        raise ValueError(msg)
    if segment.audio is not None and not known.sound:
        msg = f"`{name}.audio` must be left out for style {rules.style!r}, which has none"
        raise ValueError(msg)
    if segment.frame_merge > 1 and not known.merges_frames:
        msg = (
            f"`{name}.frame_merge` must be left out for style {rules.style!r}, which merges none, "
            f"got {segment.frame_merge}"
        )
        raise ValueError(msg)
    if known.time == "frames" and segment.seconds is not None:
        msg = f"`{name}.seconds` must be left out for style {rules.style!r}, which counts frames"
        raise ValueError(msg)
    if known.time != "frames" and segment.seconds is None:
        msg = f"`{name}.seconds` must be given for style {rules.style!r}"
        raise ValueError(msg)
    if known.time != "frames" and rules.per_second is None:
        msg = f"`per_second` must be given for a video of style {rules.style!r}"
        raise ValueError(msg)


def _placed(segment: Segment, start: Any, rules: _Rules) -> tuple[list[HostArray], Any]:
    """Return the positions of a segment, and where the next one starts."""
    one = rules.known.dtype(1)
    if isinstance(segment, Text | Audio):
        run = _run(start, segment.length)
        return [run], start + rules.known.dtype(segment.length)
    if isinstance(segment, Image):
        cells = _cells(np.zeros(1, rules.known.dtype), segment, start)
        return [cells], cells.max() + one
    if segment.audio is not None:
        return _with_sound(segment, segment.audio, start, rules)
    cells = _cells(_times(segment, rules), segment, start)
    if rules.sides:
        return [cells], start + max(segment.height, segment.width) // segment.merge
    return [cells], cells.max() + one


def _run(start: Any, length: int) -> HostArray:
    """Return the positions of tokens that count on from `start`."""
    check_reach(start.item() + length, "per_second", told=" as a position")
    line = np.arange(length, dtype=start.dtype) + start
    return np.broadcast_to(line, (3, length))


def _cells(times: HostArray, space: Image | Video, start: Any) -> HostArray:
    """Return the positions of the patches of frames at these times."""
    rows, columns = (side // space.merge for side in (space.height, space.width))
    check_reach(
        start.item() + times[-1].item() + rows + columns, "per_second", told=" as a position"
    )
    shape = (len(times), rows, columns)
    grid = np.empty((3, *shape), start.dtype)
    for axis, line in enumerate((times, np.arange(rows), np.arange(columns))):
        grid[axis] = line.reshape(-1, *[1] * (2 - axis))
    placed: HostArray = grid.reshape(3, -1) + start
    return placed


def _times(video: Video, rules: _Rules) -> HostArray:
    """Return the time of every frame of a video, from 0."""
    index = np.arange(video.frames // video.frame_merge)
    if rules.known.time == "frames":
        return index
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        count, seconds, per_second = (
            np.asarray(value, np.float32) for value in (index, video.seconds, rules.per_second)
        )
        if rules.known.time == "seconds":
            times = count * (per_second * seconds)
        else:
            times = count * seconds * per_second
    check_reach(float(times[-1]), "per_second", told=" as the time of the last frame")
    placed: HostArray = times.astype(rules.known.dtype)
    return placed


def _with_sound(
    video: Video, audio: Audio, start: Any, rules: _Rules
) -> tuple[list[HostArray], Any]:
    """Return the positions of a video interleaved with its sound, between its marks."""
    one = rules.known.dtype(1)
    together = rules.known.sound == "chunks"
    marks = np.zeros((3, 2), start.dtype) if together else _run(start - start, 2)
    after = marks.max() + one
    times = _times(video, rules)
    pictures = _cells(times, video, start + after)
    sounds = _run(start + after, audio.length)
    if together:
        each = pictures.shape[1] // len(times)
        parts = _in_chunks(pictures, np.repeat(times, each), sounds, rules.per_chunk)
    else:
        parts = _in_order(pictures, sounds)
    behind = parts[-1].max() + one
    return [marks + start, *parts, marks + behind], behind + after


def _in_chunks(
    pictures: HostArray, times: HostArray, sounds: HostArray, per_chunk: int
) -> list[HostArray]:
    """Return chunks of a video and of its sound in turn."""
    videos = _chunks(pictures, times, per_chunk)
    audios = _chunks(sounds, np.arange(sounds.shape[1]), per_chunk)
    turns = zip_longest(videos, audios)
    return [part for turn in turns for part in turn if part is not None]


def _chunks(positions: HostArray, times: HostArray, per_chunk: int) -> list[HostArray]:
    """Cut positions where their times reach the next chunk, one token further on at the least."""
    cuts = [0]
    while cuts[-1] < len(times):
        reached = int(np.searchsorted(times, per_chunk * len(cuts)))
        cuts.append(max(reached, cuts[-1] + 1))
    return [positions[:, begin:end] for begin, end in pairwise(cuts)]


def _in_order(pictures: HostArray, sounds: HostArray) -> list[HostArray]:
    """Return a video and its sound in the order of their times: all but the last run, and that."""
    both = np.concatenate([pictures, sounds], axis=1)
    order: Int64Array = np.argsort(both[0], kind="stable")
    changes = np.flatnonzero(np.diff(order < pictures.shape[1]))
    last = int(changes[-1]) + 1
    return [both[:, order[:last]], both[:, order[last:]]]


def _check_audio(audio: Any) -> None:
    """Refuse as the sound of a video what is none."""
    if audio is not None and not isinstance(audio, Audio):
        msg = f"`audio` must be an Audio, got {audio!r} of type {type(audio).__name__}"
        raise TypeError(msg)


def _check_sides(space: Image | Video) -> None:
    """Check the sides of an image, and that blocks of patches fill them."""
    for name in ("height", "width", "merge"):
        object.__setattr__(space, name, as_positive_integer(getattr(space, name), name))
    for name in ("height", "width"):
        _check_multiple(getattr(space, name), name, space.merge, "merge")


def _check_multiple(size: int, name: str, part: int, what: str) -> None:
    """Refuse a size that is not made of whole parts."""
    if size % part:
        msg = f"`{name}` must be a multiple of `{what}`, {part}, got {size}"
        raise ValueError(msg)
