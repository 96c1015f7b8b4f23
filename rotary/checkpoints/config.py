"""Reads embeddings from the Hugging Face configurations of checkpoints."""

from __future__ import annotations

from rotary._lib import hints
from rotary._lib.errors import naming_file
from rotary._lib.typing import BatchAxis, ConfigLike, FrequenciesLike
from rotary.embedding import RotaryEmbedding
from rotary.layouts import Layout

from .builder import embedding
from .dialects import DialectName
from .layer_keys import read_layer_keys
from .options import checked_options

__all__ = [
    "from_config",
]


@hints.named
def from_config(
    config: ConfigLike,
    *,
    layer_type: str | int | None = None,
    layout: Layout | None = None,
    seq_axis: int | None = None,
    batch_axis: BatchAxis = None,
    context_length: int | None = None,
    inv_freq: FrequenciesLike | None = None,
    dialect: DialectName = "transformers",
) -> RotaryEmbedding | None:
    """Read the rotary embedding of a checkpoint from its Hugging Face configuration.

    Parameters
    ----------
    config : path, mapping or object
        The path of a config.json or of its folder, its content, or a configuration object: anything
        with ``to_dict()``. Keys may have the form of transformers 4 (``rope_scaling``, and
        ``rope_theta`` at the top level) or 5 (``rope_parameters``). A file may have up to 16 MiB, and
        objects may nest 32 levels deep. Nothing is downloaded and nothing is modified.
    layer_type : str or int, optional
        Needed if each kind of layer has its own rotation: the kind, such as "sliding_attention", or the
        number of a layer, whose kind the configuration gives.
    layout : {"half", "interleaved"}, optional
        Required if the model type is not known. For a known model type, it replaces the known layout,
        because weights may have been permuted; `explain` shows both.
    seq_axis : int, optional
        As for `RotaryEmbedding`.
    batch_axis : int or False, optional
        As for `RotaryEmbedding`.
    context_length : int, optional
        The length of the longest sequence, in tokens; ``max_position_embeddings`` by default. Schedules
        that depend on the length (dynamic, longrope) refuse positions beyond it.
    inv_freq : array_like (rotary_dim/2,), optional
        The checkpoint's own buffer, which replaces the frequencies. It may differ from the configuration
        by a relative ``2**-8``, the rounding of bfloat16; a larger difference is refused.
    dialect : {"transformers", "vllm", "sglang", "llama.cpp", "mlx"}
        The project whose reading of ambiguous keys applies; see `compare_dialects`.

    Returns
    -------
    RotaryEmbedding or None
        None for a layer without rotary, such as one of linear attention in a hybrid model.

    Raises
    ------
    ConfigError
        If the configuration is unclear, incomplete or contradictory, or has an unknown rope key. The
        message names the key, what was found and what to write. A known key that the code of the model
        type does not read is refused if it would change the result. A model type without rotation is
        refused too. Keys that have nothing to do with rotary are ignored.
    TypeError, ValueError
        If another argument is of the wrong kind or value.
    FileNotFoundError
        If there is no file at the path.

    See Also
    --------
    rotary.compare_dialects : compare the readings of five projects.

    Notes
    -----
    The frequencies are those of the schedule in float64, within one float32 ulp of the checkpoint's own
    code in float64. Most of that code runs in float32, which rounds powers and YaRN's ramp differently on
    different platforms. Pass `inv_freq` to get exactly the numbers of the checkpoint.

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
    options = checked_options(
        layer_type=layer_type,
        layout=layout,
        axes=(seq_axis, batch_axis),
        context_length=context_length,
        inv_freq=inv_freq,
        dialect=dialect,
    )
    with naming_file(config):
        keys = read_layer_keys(config, options)
        return None if keys is None else embedding(keys)
