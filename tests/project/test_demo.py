"""Holds the examples to their numbers: real speech transcribed, dated samples restored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.demo

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TRANSCRIPTS = {
    "beckett.wav": "Ever tried, ever failed, no matter, try again, fail again, fail better.",
    "two_cities.wav": (
        "It was the best of times, it was the worst of times. It was the age of wisdom, it was the "
        "age of foolishness. It was the epoch of belief, it was the epoch of incredulity. It was "
        "the season of light, it was the season of darkness. It was the spring of hope, it was the "
        "winter of despair. We had everything before us, we had nothing before us. We were all "
        "going direct to heaven. We were all going direct the other way. In short, the period was "
        "so far like the present period that some of its noisyest authorities insisted on its "
        "being received for good or for evil in the superlative degree of comparison only."
    ),
}
RECORDINGS = list(TRANSCRIPTS)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def _examples_on_the_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(scope="module")
def reports() -> list[Any]:
    from comparison import compare_all

    return compare_all()


@pytest.fixture(scope="module")
def outcomes(reports: list[Any]) -> dict[str, dict[str, Any]]:
    return {report.recording.name: report.outcomes for report in reports}


@pytest.fixture(scope="module")
def pulse() -> Any:
    from timestamps import compare

    return compare()


def is_picture(path: Path) -> bool:
    content = path.read_bytes()
    return content.startswith(PNG) and len(content) > 20_000


# --- speech ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize(
    "way", ["ONNX Runtime", "rotary", "rotary, from 1.7e9", "float32 angles, from 0"]
)
def test_right_rotations_transcribe(outcomes: Any, name: str, way: str) -> None:
    assert outcomes[name][way].transcript == TRANSCRIPTS[name]


@pytest.mark.parametrize("name", RECORDINGS)
def test_right_rotation_agrees_with_onnx_runtime(outcomes: Any, name: str) -> None:
    assert outcomes[name]["rotary"].difference < 0.05


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_remaining_difference_is_the_rounding_of_onnx_runtime(outcomes: Any, name: str) -> None:
    louder = outcomes[name]["ONNX Runtime, sound 0.01 % louder"].difference
    assert outcomes[name]["rotary"].difference == pytest.approx(louder, rel=0.5)


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize(
    ("way", "at_least"),
    [("layout half", 0.7), ("no rotation", 0.7), ("float32 angles, from 1.7e9", 0.6)],
)
def test_wrong_rotations_fail(outcomes: Any, name: str, way: str, at_least: float) -> None:
    outcome = outcomes[name][way]
    assert outcome.difference > at_least
    assert outcome.wrong_words > 0.9 * len(TRANSCRIPTS[name].split())


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_wrong_width_changes_the_encoder(outcomes: Any, name: str) -> None:
    assert outcomes[name]["width 36 for 32"].difference > 0.2


def test_a_wrong_width_may_not_change_the_transcript(outcomes: Any) -> None:
    assert outcomes["beckett.wav"]["width 36 for 32"].wrong_words == 0


@pytest.mark.parametrize("name", RECORDINGS)
def test_positions_are_relative(outcomes: Any, name: str) -> None:
    assert outcomes[name]["rotary, from 1.7e9"].from_right < 5e-6


def test_model_holds_the_frequencies_of_the_specification() -> None:
    from moonshine import wheel_file
    from moonshine.ort_format import OrtFile
    from rotations import MOONSHINE

    stored = OrtFile(wheel_file("encoder_model.ort")).tensor("onnx::Expand_202").ravel()
    np.testing.assert_allclose(stored, MOONSHINE.inv_freq, rtol=2e-7)


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_pieces_are_the_whole_recording(name: str) -> None:
    from moonshine.audio import LONGEST, SAMPLE_RATE, Recording

    recording = Recording.load(name)
    pieces = recording.pieces()
    np.testing.assert_array_equal(np.concatenate(pieces), recording.samples)
    assert all(len(piece) <= LONGEST * SAMPLE_RATE for piece in pieces)


@pytest.mark.parametrize(
    ("transcript", "errors"),
    [("fail better", 0), ("Fail, better!", 0), ("fail", 1), ("we fail better", 1), ("", 2)],
)
def test_word_errors(transcript: str, errors: int) -> None:
    from comparison import word_errors

    assert word_errors(transcript, "Fail better.") == errors


def test_command_prints_and_draws(
    reports: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import comparison
    import speech

    monkeypatch.setattr(comparison, "compare_all", lambda: reports)
    monkeypatch.setattr(sys, "argv", ["speech.py", "--output", str(tmp_path)])
    speech.main()
    printed = " ".join(capsys.readouterr().out.split())
    assert all(transcript in printed for transcript in TRANSCRIPTS.values())
    assert is_picture(tmp_path / "speech.png")


def test_progress_goes_to_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    from comparison import tell

    tell("decoding")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("s] decoding\n")


# --- timestamps --------------------------------------------------------------------------------


def test_attention_restores_hidden_samples(pulse: Any) -> None:
    assert pulse.guesses["rotary, from 1970"].error == pytest.approx(0.267, abs=0.005)


def test_the_origin_does_not_change_rotary_attention(pulse: Any) -> None:
    assert pulse.score_change["rotary"] < 5e-5
    np.testing.assert_allclose(
        pulse.guesses["rotary, from 1970"].values,
        pulse.guesses["rotary, from the first sample"].values,
        atol=0.01,
    )


def test_float32_angles_are_useless_at_unix_time(pulse: Any) -> None:
    assert pulse.guesses["float32 angles, from 1970"].error > 0.95
    assert pulse.guesses["float32 angles, from the first sample"].error < 0.3
    assert pulse.score_change["float32 angles"] > 10


def test_float32_timestamps_are_refused(pulse: Any) -> None:
    assert "`times`" in pulse.refusal
    assert "float32" in pulse.refusal


def test_timestamps_command(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "speech.py", "--timestamps", "--output", tmp_path]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "rotary, from 1970" in printed
    assert is_picture(tmp_path / "timestamps.png")


def test_missing_model_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import speech

    monkeypatch.setattr(speech, "WHEEL", "a-wheel-that-is-not-installed")
    monkeypatch.setattr(sys, "argv", ["speech.py", "--output", str(tmp_path)])
    speech.main()
    printed = capsys.readouterr().out
    assert printed.startswith("The speech model is not here")
    assert "rotary, from 1970" in printed
    assert is_picture(tmp_path / "timestamps.png")
