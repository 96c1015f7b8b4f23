"""The text that `RotaryEmbedding.explain` returns: the numbers of an embedding and their origins."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .call.passes import QUIRKS
from .scaling import Default
from .specification import Specification

NAME_WIDTH, VALUE_WIDTH = 16, 12
PAIRS = {"half": "pairs (i, i + {})", "interleaved": "pairs (2i, 2i + 1)"}


class Line(NamedTuple):
    """A number of an embedding, with its origin for an embedding that was not read from a configuration or preset.

    `key` is its name among the origins that configurations and presets give. It begins with "scaling." for the
    arguments of the scaling.
    """

    key: str
    name: str
    value: object
    origin: str


def explanation(rope: Specification) -> str:
    """Return the numbers of an embedding and their origins, one per line.

    Parameters
    ----------
    rope : Specification
        An embedding.

    Returns
    -------
    str
    """
    lines = [*_of_frequencies(rope), *_of_channels(rope), *_of_options(rope), *_of_results(rope)]
    width = max(NAME_WIDTH, *(len(line.name) for line in lines)) + 2
    return "\n".join(
        f"{name:<{width}}{value!s:<{VALUE_WIDTH}} {rope._origins.get(key, origin)}".rstrip()
        for key, name, value, origin in lines
    )


def _line(name: str, value: object, origin: str) -> Line:
    return Line(name, name, value, origin)


def _of_frequencies(rope: Specification) -> list[Line]:
    """Return the arguments from which the frequencies follow."""
    schedule = type(rope.scaling).__name__
    pairs = PAIRS[rope.layout].format(rope.rotary_dim // 2)
    width = rope.rotary_dim if rope.sections is None else max(rope.sections.widths)
    formula = "inv_freq[i] = base ** (-2 i / rotary_dim)"
    return [
        _line("head_dim", rope.head_dim, "given"),
        _line("layout", rope.layout, f"given: {pairs}"),
        _line("base", rope.base, "given" if rope.scaling.needs_base else f"not read by {schedule}"),
        _line("scaling", schedule, formula if isinstance(rope.scaling, Default) else "given"),
        *[
            Line(f"scaling.{name}", f"  {name}", value, origin)
            for name, value, origin in rope.scaling.resolved(width, rope.base, rope.context_length)
        ],
    ]


def _of_channels(rope: Specification) -> list[Line]:
    """Return the arguments that select channels and positions."""
    last = rope.rotary_start + rope.rotary_dim - 1
    length = f"not read by {type(rope.scaling).__name__}"
    if rope._limit:
        length = f"given: positions stay below {rope._limit}"
    return [
        _line(
            "rotary_dim",
            rope.rotary_dim,
            f"channels {rope.rotary_start} .. {last} of {rope.head_dim} turn",
        ),
        _line("rotary_start", rope.rotary_start, "the first channel that turns"),
        _line("context_length", rope.context_length, length),
        _line(
            "output_layout",
            rope.output_layout,
            "as layout" if rope.output_layout == rope.layout else "given",
        ),
    ]


def _of_options(rope: Specification) -> list[Line]:
    """Return the axes, and the optional arguments that are given."""
    lines = []
    if rope.sections is not None:
        lines.append(_line("sections", rope.sections, "given: position axis x pairs, in order"))
    if rope.decay is not None:
        lines.append(_line("decay", rope.decay, "given"))
    if rope.quirk is not None:
        lines.append(_line("quirk", rope.quirk, f"given: {QUIRKS[rope.quirk][1]}"))
    axis = "0 for 2 axes, to be given for more" if rope.seq_axis is None else "given"
    lines.append(_line("seq_axis", rope.seq_axis, axis))
    if rope.batch_axis is not None:
        lines.append(_line("batch_axis", rope.batch_axis, "given"))
    return lines


def _of_results(rope: Specification) -> list[Line]:
    """Return the range of the frequencies, and the factors."""
    schedule = type(rope.scaling).__name__
    values = rope.inv_freq.ravel()
    return [
        _line(
            "inv_freq",
            f"{values[0]:.4g} .. {values[-1]:.4g}",
            f"{values.size} float64, {_wavelengths(rope)}",
        ),
        _line("attention_factor", rope.attention_factor, f"from {schedule}"),
        _line("softmax_factor", rope.softmax_factor, f"from {schedule}"),
    ]


def _wavelengths(rope: Specification) -> str:
    """Return the shortest and the longest wavelength as text."""
    sizes = np.abs(rope.inv_freq[rope.inv_freq != 0])
    if not sizes.size:
        return "all zero"
    # Computed with Python's floats: a wavelength may overflow, and NumPy would warn.
    shortest, longest = (2 * np.pi / float(size) for size in (sizes.max(), sizes.min()))
    return f"wavelengths {shortest:.4g} .. {longest:.4g} positions"
