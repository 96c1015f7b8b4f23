"""Configurations of checkpoints: which rotation they mean, or an error that says what is unclear."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from . import _hints as hints
from ._checks import as_choice, as_integer, as_positive_integer
from ._config_builder import Builder, Options
from ._config_dialects import DIALECTS
from ._config_layers import (
    Layer,
    check_is_text,
    check_rope_keys,
    has_rotary,
    language_model,
    rope_dict,
)
from ._config_models import FOLLOWS, has_no_rotary, is_recurrent, model
from ._config_reader import Keys, opened
from ._errors import ConfigError, naming_file, shown
from ._frequencies import as_frequencies
from .embedding import BatchAxis, RotaryEmbedding
from .layouts import Layout, check_layout
from .scaling import LongRope

__all__ = ["DialectComparison", "compare_dialects", "from_config"]


@hints.named
def from_config(
    config: Any,
    *,
    layer_type: str | int | None = None,
    layout: Layout | None = None,
    seq_axis: int | None = None,
    batch_axis: BatchAxis = None,
    context_length: int | None = None,
    inv_freq: Any = None,
    dialect: str = "transformers",
) -> RotaryEmbedding | None:
    """Read the rotary embedding of a checkpoint from its Hugging Face configuration.

    Parameters
    ----------
    config : path, mapping or object
        A config.json or its folder, what stands in one, or a configuration object: anything with
        ``to_dict()``. Forms of transformers 4 (``rope_scaling``, ``rope_theta`` on top) and 5
        (``rope_parameters``). A file may have up to 16 MiB, and objects within objects 32 levels.
        Nothing is downloaded and nothing is modified.
    layer_type : str or int, optional
        For configurations with a rotation for each kind of layer: the kind, such as
        "sliding_attention", or the number of a layer, whose kind the configuration tells.
    layout : {"half", "interleaved"}, optional
        Required for model types that are not known. Where the model type is known it wins over what
        is known, for weights may have been permuted; `explain` tells both.
    seq_axis : int, optional
        As for `RotaryEmbedding`.
    batch_axis : int or False, optional
        As for `RotaryEmbedding`.
    context_length : int, optional
        How long sequences get; ``max_position_embeddings`` by default. Schedules that depend on the
        length (dynamic, longrope) refuse positions beyond it.
    inv_freq : array_like (rotary_dim/2,), optional
        The checkpoint's own buffer, which then takes the place of the frequencies. It may be off from
        what the configuration says by what bfloat16 rounds, a relative ``2**-8``; more is refused.
    dialect : {"transformers", "vllm", "sglang", "llama.cpp", "mlx"}
        Whose reading of ambiguous keys applies; see `compare_dialects`.

    Returns
    -------
    RotaryEmbedding or None
        None for layers without rotary, such as those of linear attention in a hybrid model.

    Raises
    ------
    ConfigError
        If the configuration is unclear, incomplete or contradictory, or has a rope key that is not
        known; the message names the key, what was found and what to write. A known key that the code
        of the model type does not read is refused if it would change the result. So is a model type
        without any rotation. Keys that have nothing to do with rotary are not looked at.
    TypeError, ValueError
        If another argument is of the wrong kind or value.
    FileNotFoundError
        If there is no file at the path.

    See Also
    --------
    rotary.compare_dialects : what five projects make of the same configuration.

    Notes
    -----
    Frequencies are those of the schedule in float64, which is within one float32 ulp of what the
    checkpoint's own code gives in float64. In float32, as most of it runs, powers and YaRN's ramp are
    rounded, differently from platform to platform; `inv_freq` is for those who need these very numbers.

    Examples
    --------
    >>> import rotary
    >>> rope = rotary.from_config(
    ...     {
    ...         "model_type": "llama",
    ...         "hidden_size": 2048,
    ...         "num_attention_heads": 32,
    ...         "max_position_embeddings": 131072,
    ...         "rope_theta": 500000.0,
    ...         "rope_scaling": {
    ...             "rope_type": "llama3",
    ...             "factor": 32.0,
    ...             "low_freq_factor": 1.0,
    ...             "high_freq_factor": 4.0,
    ...             "original_max_position_embeddings": 8192,
    ...         },
    ...     }
    ... )
    >>> rope.head_dim, rope.layout, rope.base
    (64, 'half', 500000.0)
    """
    options = _options(
        layer_type, layout, (seq_axis, batch_axis), context_length, inv_freq, dialect
    )
    with naming_file(config):
        return _read(config, options)


def _options(
    layer_type: Any,
    layout: Any,
    axes: tuple[Any, Any],
    context_length: Any,
    inv_freq: Any,
    dialect: Any,
    *,
    strict: bool = True,
) -> Options:
    """Return the checked arguments of the caller."""
    if layer_type is not None and not isinstance(layer_type, str):
        layer_type = _index(layer_type)
    if layout is not None:
        layout = check_layout(layout)
    if context_length is not None:
        context_length = as_positive_integer(context_length, "context_length")
    if inv_freq is not None:
        inv_freq = as_frequencies(inv_freq, "inv_freq", (1,))
    name = as_choice(dialect, "dialect", tuple(DIALECTS))
    own = DIALECTS[name]
    return Options(layer_type, layout, axes, context_length, inv_freq, own, strict, [])


def _index(value: Any) -> int:
    """Return the number of a layer."""
    index = as_integer(value, "layer_type")
    if not 0 <= index < 2**31:
        msg = (
            "`layer_type` must be a kind of layer or a layer's number, from 0 on and below 2**31, got "
            f"{shown(index)}"
        )
        raise ValueError(msg)
    return index


def _read(config: Any, options: Options) -> RotaryEmbedding | None:
    """Return the embedding of a configuration."""
    top = language_model(Keys(opened(config)))
    name = top.values.get("model_type")
    row = model(name)
    if has_no_rotary(name) and top.values.get("mla_use_nope") is not False:
        if is_recurrent(name):
            return None
        if options.layout is None:
            _tell_of(name)
    check_rope_keys(top, row)
    check_is_text(top, row)
    if not has_rotary(top, row):
        return None
    layer = Layer.of(top, options.layer_type)
    if not layer.rotates(top, row):
        return None
    rope = rope_dict(top, row, layer)
    if rope is None:
        return None
    return Builder(top, row, layer, *rope, options).embedding()


def _tell_of(name: Any) -> NoReturn:
    """Refuse a model type without rotation by name, instead of asking for its layout."""
    msg = (
        f"`model_type` {shown(name)} has no rotary embedding: its code in {FOLLOWS} rotates nothing, got no layout; "
        "if the checkpoint has code of its own that does, pass `layout`"
    )
    raise ConfigError(msg)


# ------------------------------------------------------------------------------------------------
# What projects make of the same configuration.


@dataclass(frozen=True)
class DialectComparison:
    """What several projects make of one configuration; `str` and `print` show a table.

    Attributes
    ----------
    follows : dict
        Dialect to the version of the project it follows.
    differences : dict
        What differs to what each dialect has: dialect to value. First the choices, such as the fields
        of a schedule, then the numbers they lead to. A dialect that refuses the configuration has an
        entry under "refused" only.
    unread : dict
        Dialect to the keys that it does not read although they would change the result.

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
        """Whether all of them compute the same rotation, to nine digits."""
        return not self.differences

    def __str__(self) -> str:
        names = list(self.follows)
        rows = [["", *names]]
        for what, values in self.differences.items():
            rows.append([what, *(values.get(name, "") for name in names)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if self.agree:
            table = ["All dialects agree."]
        passed = [f"{name} does not read {', '.join(keys)}" for name, keys in self.unread.items()]
        told = [f"{name}: {text}" for name, text in self.follows.items()]
        return "\n".join([*table, "", *passed, *([""] if passed else []), *told])


@hints.named
def compare_dialects(
    config: Any,
    *,
    layer_type: str | int | None = None,
    layout: Layout | None = None,
    context_length: int | None = None,
) -> DialectComparison:
    """List where projects compute different rotations from one configuration.

    Parameters
    ----------
    config, layer_type, layout, context_length
        As for `from_config`.

    Returns
    -------
    DialectComparison
        With a table as its `str`. Where `from_config` refuses what a project passes over in silence
        or makes up by itself, this shows what the project computes.

    Raises
    ------
    ConfigError
        If the configuration is unclear whoever reads it: for every dialect.
    TypeError, ValueError
        If another argument is of the wrong kind or value.

    See Also
    --------
    rotary.from_config : the rotation itself.

    Notes
    -----
    It is a comparison of formulas, not of runs: which model types a project supports, and what it
    rounds to which precision, is not looked at.

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
        return _compared(opened(config), layer_type, layout, context_length)


def _compared(
    values: dict[str, Any],
    layer_type: str | int | None,
    layout: Layout | None,
    context_length: int | None,
) -> DialectComparison:
    """Return what each dialect makes of a configuration."""
    facts: dict[str, dict[str, str]] = {}
    choices: dict[str, dict[str, str]] = {}
    errors = {}
    unread = {}
    for name in DIALECTS:
        options = _options(
            layer_type, layout, (None, None), context_length, None, name, strict=False
        )
        try:
            rope = _read(values, options)
            facts[name], choices[name] = _facts(rope), _choices(rope)
            if options.unread:
                unread[name] = tuple(dict.fromkeys(options.unread))
        except ConfigError as error:
            errors[name] = error
            facts[name] = {"refused": str(error)}
    if len(errors) == len(DIALECTS):
        raise errors["transformers"]
    differences = _differing(facts)
    if differences:
        # What leads to other numbers is told beside them, and not where the numbers are the same.
        rows = {name: {"unread": ", ".join(unread.get(name, ())) or "nothing"} for name in choices}
        differences = _differing(choices) | _differing(rows) | differences
    follows = {name: dialect.follows for name, dialect in DIALECTS.items()}
    return DialectComparison(follows, differences, unread)


def _differing(columns: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the rows in which the dialects' columns differ."""
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    found = {}
    for row in rows:
        values = {name: column[row] for name, column in columns.items() if row in column}
        if row == "refused" or len(set(values.values())) > 1:
            found[row] = values
    return found


def _facts(rope: RotaryEmbedding | None) -> dict[str, str]:
    """Return the numbers of a rotation."""
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


def _numbers(rope: RotaryEmbedding, when: str) -> dict[str, str]:
    """Return what goes into the tables."""
    return {
        f"last inv_freq{when}": f"{rope.inv_freq[-1]:.9g}",
        f"sum of inv_freq{when}": f"{rope.inv_freq.sum():.9g}",
        f"attention_factor{when}": f"{rope.attention_factor:.9g}",
    }


def _choices(rope: RotaryEmbedding | None) -> dict[str, str]:
    """Return the schedule and those of its fields that stay short."""
    if rope is None:
        return {}
    choices = {"base": str(rope.base), "scaling": type(rope.scaling).__name__}
    for own in fields(rope.scaling):  # type: ignore[arg-type]  # every schedule is a dataclass
        value = getattr(rope.scaling, own.name)
        if own.name not in ("attention_factor", "softmax_factor") and not isinstance(value, tuple):
            choices[own.name] = str(value)
    return choices
