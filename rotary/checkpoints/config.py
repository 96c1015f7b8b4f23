"""Reads embeddings from the Hugging Face configurations of checkpoints."""

from __future__ import annotations

from rotary._lib import hints
from rotary._lib.errors import naming_file
from rotary._lib.typing import BatchAxis, ConfigLike, FrequenciesLike
from rotary.embedding import RotaryEmbedding
from rotary.layouts import Layout

from .builder import make_embedding
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
        The path of a config.json or of its folder, the content of the file, or an object with
        ``to_dict()``. Keys may have the form of transformers 4 (``rope_scaling``, and ``rope_theta`` at
        the top level) or 5 (``rope_parameters``). A file may have up to 16 MiB, and objects may nest 32
        levels deep. Nothing is downloaded and nothing is modified.
    layer_type : str or int, optional
        Needed if the kinds of layers have different rotations: a kind, such as "sliding_attention", or
        the index of a layer, whose kind is read from the configuration.
    layout : {"half", "interleaved"}, optional
        Required if the model type is not known. For a known model type, it replaces the known layout,
        because the weights may have been permuted. `explain` shows both.
    seq_axis : int, optional
        As for `RotaryEmbedding`.
    batch_axis : int or False, optional
        As for `RotaryEmbedding`.
    context_length : int, optional
        The length of the longest sequence, in tokens; ``max_position_embeddings`` by default. With
        schedules that depend on the length (dynamic, longrope), positions beyond it are refused.
    inv_freq : array_like (rotary_dim/2,), optional
        The buffer of inverse frequencies in the checkpoint, which replaces the frequencies of the
        configuration. The relative difference between them must be at most ``2**-8``, which allows for
        rounding to bfloat16.
    dialect : {"transformers", "vllm", "sglang", "llama.cpp", "mlx"}
        The project whose interpretation of ambiguous keys is used; see `compare_dialects`.

    Returns
    -------
    RotaryEmbedding or None
        None for a layer without rotary, such as a layer with linear attention in a hybrid model.

    Raises
    ------
    ConfigError
        If the configuration is ambiguous, incomplete or contradictory, or has an unknown rope key. The
        message names the key, its value and a remedy. A known key that the code of the model type does
        not read is refused if it would change the result. A model type without rotation is refused too.
        Keys that do not concern rotary embeddings are ignored.
    TypeError, ValueError
        If another argument has the wrong type or value.
    FileNotFoundError
        If there is no file at the path.

    See Also
    --------
    rotary.compare_dialects : compare the interpretations of five projects.

    Notes
    -----
    The frequencies are computed in float64, and are within one float32 ulp of the checkpoint's own code run
    in float64. Most of that code runs in float32, in which powers and the ramp of YaRN are rounded
    differently on different platforms. Pass `inv_freq` to use exactly the numbers of the checkpoint.

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
        return None if keys is None else make_embedding(keys)
