"""Compares the rotations that several projects compute from one configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from rotary._lib import hints
from rotary._lib.errors import ConfigError, naming_file
from rotary._lib.typing import ConfigLike
from rotary.embedding import RotaryEmbedding
from rotary.layouts import Layout
from rotary.scaling import LongRope

from .builder import make_embedding
from .dialects import DIALECTS
from .layer_keys import read_layer_keys
from .options import checked_options
from .reader import load_config

__all__ = [
    "DialectComparison",
    "compare_dialects",
]


# ------------------------------------------------------------------------------------------------
# The comparison.


@dataclass(frozen=True)
class DialectComparison:
    """The rotations that several projects compute from one configuration; `str` and `print` show a table.

    Attributes
    ----------
    follows : dict
        Maps each dialect to the version of the project that it follows.
    differences : dict
        Maps the name of each difference to a dict of dialect to value. Choices, such as the fields of a
        schedule, come first. The numbers that depend on the choices follow. A dialect that refuses the
        configuration has an entry under "refused" only.
    unread : dict
        Maps each dialect to keys that it does not read although they would change the result.

    Examples
    --------
    >>> import rotary
    >>> llama = {"model_type": "llama", "head_dim": 64, "max_position_embeddings": 2048}
    >>> rotary.compare_dialects(llama | {"rope_theta": 10000.0}).agree
    True
    """

    follows: dict[str, str]
    differences: dict[str, dict[str, str]]
    unread: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def agree(self) -> bool:
        """Whether all dialects compute the same rotation, to nine digits."""
        return not self.differences

    def __str__(self) -> str:
        names = list(self.follows)
        rows = [["", *names]]
        for difference, values in self.differences.items():
            rows.append([difference, *(values.get(name, "") for name in names)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if self.agree:
            table = ["All dialects agree."]
        notes = [f"{name} does not read {', '.join(keys)}" for name, keys in self.unread.items()]
        versions = [f"{name}: {text}" for name, text in self.follows.items()]
        return "\n".join([*table, "", *notes, *([""] if notes else []), *versions])


@hints.named
def compare_dialects(
    config: ConfigLike,
    *,
    layer_type: str | int | None = None,
    layout: Layout | None = None,
    context_length: int | None = None,
) -> DialectComparison:
    """Compare the rotations that different projects compute from one configuration.

    Parameters
    ----------
    config, layer_type, layout, context_length
        As for `from_config`.

    Returns
    -------
    DialectComparison
        Its `str` is a table. `from_config` refuses a key that a project ignores, and a missing key for
        which a project has its own default. This function shows the rotation that the project computes.

    Raises
    ------
    ConfigError
        If every dialect refuses the configuration.
    TypeError, ValueError
        If another argument has the wrong type or value.

    See Also
    --------
    rotary.from_config : read the rotation itself.

    Notes
    -----
    The comparison is between formulas. It runs none of the projects, and it considers neither the model
    types that a project supports nor the precision of its arithmetic.

    Examples
    --------
    >>> import rotary
    >>> config = {"model_type": "llama", "head_dim": 64, "max_position_embeddings": 4096}
    >>> config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    >>> comparison = rotary.compare_dialects(config)
    >>> comparison.agree
    False
    >>> comparison.differences["fixed"]["transformers"], comparison.differences["fixed"]["vllm"]
    ('False', 'True')
    """
    with naming_file(config):
        return _compare(load_config(config), layer_type, layout, context_length)


def _compare(
    values: dict[str, Any],
    layer_type: str | int | None,
    layout: Layout | None,
    context_length: int | None,
) -> DialectComparison:
    """Read a configuration in every dialect, and return the differences."""
    facts: dict[str, dict[str, str]] = {}
    choices: dict[str, dict[str, str]] = {}
    errors = {}
    unread = {}
    for name in DIALECTS:
        options = checked_options(
            dialect=name,
            layer_type=layer_type,
            layout=layout,
            context_length=context_length,
            strict=False,
        )
        try:
            keys = read_layer_keys(values, options)
            rope = None if keys is None else make_embedding(keys)
            facts[name], choices[name] = _facts(rope), _choices(rope)
            if keys is not None and keys.unread:
                unread[name] = tuple(dict.fromkeys(keys.unread))
        except ConfigError as error:
            errors[name] = error
            facts[name] = {"refused": str(error)}
    if len(errors) == len(DIALECTS):
        raise errors["transformers"]
    differences = _differing(facts)
    if differences:
        # Choices are shown only if they lead to different numbers.
        rows = {name: {"unread": ", ".join(unread.get(name, ())) or "nothing"} for name in choices}
        differences = _differing(choices) | _differing(rows) | differences
    follows = {name: dialect.follows for name, dialect in DIALECTS.items()}
    return DialectComparison(follows, differences, unread)


def _differing(columns: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the rows in which the columns of the dialects differ."""
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    found = {}
    for row in rows:
        values = {name: column[row] for name, column in columns.items() if row in column}
        if row == "refused" or len(set(values.values())) > 1:
            found[row] = values
    return found


def _facts(rope: RotaryEmbedding | None) -> dict[str, str]:
    """Return the numbers of a rotation; two rotations are equal if all of them are."""
    if rope is None:
        return {"rotary": "none"}
    facts = {
        "channels": f"{rope.rotary_start} .. {rope.rotary_start + rope.rotary_dim - 1}",
        "sections": str(rope.sections),
        **_numbers(rope, ""),
        "softmax_factor": f"{rope.softmax_factor:.9g}",
    }
    if isinstance(rope.scaling, LongRope):
        length = rope.scaling.original_max_position
        facts |= _numbers(rope.at_length(length), f" up to {length}")
    return facts


def _numbers(rope: RotaryEmbedding, suffix: str) -> dict[str, str]:
    """Return a summary of the frequencies, and the attention factor."""
    return {
        f"last inv_freq{suffix}": f"{rope.inv_freq[-1]:.9g}",
        f"sum of inv_freq{suffix}": f"{rope.inv_freq.sum():.9g}",
        f"attention_factor{suffix}": f"{rope.attention_factor:.9g}",
    }


def _choices(rope: RotaryEmbedding | None) -> dict[str, str]:
    """Return the base, the name of the schedule and its fields, except long and derived ones."""
    if rope is None:
        return {}
    choices = {"base": str(rope.base), "scaling": type(rope.scaling).__name__}
    names = [entry.name for entry in fields(rope.scaling)]  # type: ignore[arg-type]  # a dataclass
    for name in names:
        value = getattr(rope.scaling, name)
        if name not in ("attention_factor", "softmax_factor") and not isinstance(value, tuple):
            choices[name] = str(value)
    return choices
