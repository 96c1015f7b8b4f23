"""Reads embeddings from GGUF files and their metadata, by the rules of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from rotary import sections
from rotary._lib import hints
from rotary._lib.checks import (
    as_bool,
    as_choice,
    as_positive_float,
    as_positive_integer,
)
from rotary._lib.errors import ConfigError, naming_file, shown
from rotary._lib.typing import BatchAxis, ConfigLike, FrequenciesLike
from rotary.embedding import RotaryEmbedding
from rotary.layouts import Layout, check_layout
from rotary.scaling import Default, Scaling

from .assemble import (
    as_config_errors,
    check_pair_counts,
    check_sections,
    origins_of,
    with_axes_and_origins,
)
from .channels import (
    check_head_dim,
    check_rotary_dim,
    divided_head_dim,
    read_base,
    rotary_start,
)
from .gguf_metadata import (
    Metadata,
    as_head_count,
    as_rotary_width,
    as_section_sizes,
    as_width,
    as_window,
    check_tensors,
    load_metadata,
    refuse_unknown_keys,
)
from .gguf_schedule import Context, Factors, read_schedule
from .reader import Sourced, first_given

__all__ = ["from_gguf"]

LayerType = Literal["full_attention", "sliding_attention"]


@hints.named
def from_gguf(
    metadata: ConfigLike,
    *,
    tensors: Mapping[str, FrequenciesLike] | None = None,
    layer_type: LayerType | None = None,
    layout: Layout | None = None,
    seq_axis: int | None = None,
    batch_axis: BatchAxis = None,
    context_length: int | None = None,
    attention_factor: float | None = None,
    head_dim: int | None = None,
) -> RotaryEmbedding | None:
    """Read the rotary embedding of a model from its GGUF metadata, by the rules of llama.cpp.

    Parameters
    ----------
    metadata : mapping of str to value, path, or gguf.GGUFReader
        The path of a file, of either byte order; a reader of gguf-py; or a mapping of keys to values. Values
        may be numbers, strings, NumPy scalars and arrays, or fields of gguf-py. Only the header of a file
        is read, which may have up to 128 MiB.
    tensors : mapping of str to array, optional
        The factor tensors of the file: ``rope_freqs.weight``, ``rope_factors_long.weight`` and
        ``rope_factors_short.weight``, float32 (rotary_dim/2,). Other names are ignored. An empty mapping
        means that the file has none. With a path or a reader, they are read from the file.
    layer_type : {"full_attention", "sliding_attention"}, optional
        The kind of layers, needed if the kinds have different rotations.
    layout : {"half", "interleaved"}, optional
        Replaces the layout of the architecture; required if the layout of the architecture is not known.
    seq_axis : int, optional
        As for `RotaryEmbedding`.
    batch_axis : int or False, optional
        As for `RotaryEmbedding`.
    context_length : int, optional
        The length of the longest sequence, in tokens; by default the context length of the file. It
        decides between the long and the short factors.
    attention_factor : float, optional
        The factor on cosine and sine. It replaces the factor that is computed from the file.
    head_dim : int, optional
        The number of channels of the arrays, if they are not heads of queries. In models with latent
        attention (DeepSeek), the rotated part of the key is an array of `rotary_dim` channels.

    Returns
    -------
    RotaryEmbedding, or None
        None for an architecture without rotation. `explain` names the key of every number.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ConfigError
        If a key about rotation is unknown, missing or damaged, or contradicts another key. The message
        names the key and a remedy.
    OSError
        If the file cannot be read.

    See Also
    --------
    rotary.permute_weights : permute the weights to the other layout.

    Notes
    -----
    The function follows llama.cpp at commit 0c1e57098: the architecture's layout (``llama_model_rope_type``), the
    defaults of the keys (``load_hparams``), the factors of YaRN (``llama_context``) and the rotation
    itself (``rope_yarn`` and ``ggml_mrope_cache_init`` of ggml). Angles are exact; ggml computes them in
    float32.

    There are three differences. ``yarn_beta_fast`` and ``yarn_beta_slow`` are read for every architecture;
    llama.cpp reads them for some. A ``yarn_attn_factor`` that contradicts the one llama.cpp computes is
    refused. Metadata are also refused if factor tensors are missing that the keys imply, or that similar
    models have.

    llama.cpp rounds the ramp of YaRN to whole channel pairs, also for gpt-oss, which was trained with
    ``rotary.scaling.Yarn(truncate=False)``. If only some layers of a model rotate (Llama 4, Cohere 2,
    SmolLM3), the metadata do not always identify these layers.

    Examples
    --------
    >>> import rotary
    >>> metadata = {
    ...     "general.architecture": "llama",
    ...     "llama.context_length": 8192,
    ...     "llama.embedding_length": 576,
    ...     "llama.attention.head_count": 9,
    ...     "llama.rope.dimension_count": 64,
    ...     "llama.rope.freq_base": 100000.0,
    ... }
    >>> rotary.from_gguf(metadata)
    RotaryEmbedding(64, layout='interleaved', base=100000.0, context_length=8192)
    """
    if layout is not None:
        check_layout(layout)
    if layer_type is not None:
        as_choice(layer_type, "layer_type", ("full_attention", "sliding_attention"))
    if attention_factor is not None:
        attention_factor = as_positive_float(attention_factor, "attention_factor")
    if head_dim is not None:
        head_dim = as_width(head_dim, "head_dim")
    if context_length is not None:
        context_length = as_positive_integer(context_length, "context_length")
    options = _Options(layout, (seq_axis, batch_axis), context_length, attention_factor, head_dim)
    with naming_file(metadata):
        return _read_kinds(*load_metadata(metadata, tensors), layer_type, options)


class _Options(NamedTuple):
    """The arguments of `from_gguf` that apply to every kind of layer."""

    layout: Layout | None
    axes: tuple[int | None, BatchAxis]
    context_length: int | None
    attention_factor: float | None
    head_dim: int | None


def _read_kinds(
    values: Mapping[str, Any],
    tensors: Mapping[str, Any] | None,
    layer_type: LayerType | None,
    options: _Options,
) -> RotaryEmbedding | None:
    """Return the embedding of the requested kind of layer; without a request, all kinds must agree."""
    data = Metadata(values)
    architecture = data.architecture
    if architecture.unread is not None:
        msg = (
            "`general.architecture` must be an architecture whose keys describe its rotation, got "
            f"{shown(architecture.name)}, which has {architecture.unread}; make its `RotaryEmbedding` yourself"
        )
        raise ConfigError(msg)
    refuse_unknown_keys(values, data)
    finetuned = data.get_value("rope.scaling.finetuned", as_bool)
    if architecture.rope_type == "NONE" or (architecture.finetuned_switch and finetuned is False):
        return None
    has_sliding_layers = _has_sliding_layers(data)
    if layer_type == "sliding_attention" and not has_sliding_layers:
        msg = (
            "`layer_type` must be 'full_attention' or left out, because the metadata have no sliding window, got "
            "'sliding_attention'"
        )
        raise ConfigError(msg)
    kinds = (
        [layer_type]
        if layer_type
        else ["full_attention", *["sliding_attention"] * has_sliding_layers]
    )
    factors = check_tensors(tensors)
    found = {
        kind: _embedding(
            data,
            factors,
            options,
            sliding=kind == "sliding_attention",
            tensors_known=tensors is not None,
        )
        for kind in kinds
    }
    if len(set(found.values())) > 1:
        bases = " and ".join(f"base {rope.base:g} in {shown(kind)}" for kind, rope in found.items())
        msg = (
            "`layer_type` must be given, because the kinds of layers have different rotations, with "
            f"{bases}, got None"
        )
        raise ConfigError(msg)
    return found[kinds[0]]


def _has_sliding_layers(data: Metadata) -> bool:
    """Whether some layers attend within a sliding window."""
    swa = ("rope.freq_base_swa", "rope.dimension_count_swa", "attention.key_length_swa")
    return bool(data.get_value("attention.sliding_window", as_window)) or data.has_any(swa)


def _embedding(
    data: Metadata, factors: Factors, options: _Options, *, sliding: bool, tensors_known: bool
) -> RotaryEmbedding:
    """Return the embedding of one kind of layers."""
    context = Context.from_metadata(data, options.context_length)
    layout = _layout(data, options.layout)
    numbers = {
        **_channels(data, options.head_dim, sliding=sliding),
        "base": _base(data, sliding=sliding),
        "context_length": context.length,
        "layout": layout,
    }
    rotary_dim = numbers["rotary_dim"].value
    with as_config_errors(
        f"the metadata of the architecture {shown(data.architecture.name)} do not describe a rotation"
    ):
        if sliding and data.architecture.sliding_unscaled:
            scaling: Scaling = Default()
            origins = {"scaling": "sliding layers are not scaled"}
        else:
            check_pair_counts(factors, rotary_dim)
            factor = options.attention_factor
            scaling, origins = read_schedule(
                data, factors, context, factor, tensors_known=tensors_known
            )
        rope = RotaryEmbedding(
            **{name: number.value for name, number in numbers.items()},
            scaling=scaling,
            sections=_sections(data, rotary_dim),
        )
    return with_axes_and_origins(rope, options.axes, origins | origins_of(numbers))


def _head_dim(data: Metadata, *, sliding: bool) -> Sourced | None:
    """Return the number of channels of a head of queries, or None if no key gives it."""
    names = ["key_length_swa"] if sliding else []
    names += ["key_length_mla"] if data.architecture.trailing else []
    groups = [[(data, f"attention.{name}")] for name in (*names, "key_length")]
    return first_given(*groups, check=as_width) or divided_head_dim(
        data,
        ("embedding_length",),
        ("attention.head_count",),
        f"write {data.name('attention.key_length')}, the number of channels of a head",
        as_head_count,
    )


def _channels(data: Metadata, given: int | None, *, sliding: bool) -> dict[str, Sourced]:
    """Return head_dim, rotary_dim and rotary_start."""
    key = "rope.dimension_count"
    head = _head_dim(data, sliding=sliding) if given is None else Sourced(given, "given")
    groups = [[(data, f"{key}_swa")], [(data, key)]] if sliding else [[(data, key)]]
    rotary = first_given(*groups, check=as_rotary_width)
    if head is None and rotary is None:
        data.fail(key, "must be present, or `head_dim` must be given", "neither")
    trailing = data.architecture.trailing
    if rotary is None:
        if trailing:
            must = "must be present, because only a part of the head is rotated"
            data.fail(key, must, "no such key")
        assert head is not None
        rotary = Sourced(head.value, f"all channels, because there is no {data.origin_of(key)}")
    if head is None:
        head = Sourced(
            rotary.value, f"{rotary.origin}, because no other key gives the width of a head"
        )
    check_head_dim(head)
    check_rotary_dim(rotary, head.value)
    if given is None and data.architecture.whole_head and rotary.value != head.value:
        must = f"must be {head.value}, because this architecture rotates whole heads"
        data.fail(key, must, rotary.value)
    start = rotary_start(head.value, rotary.value, trailing=trailing)
    return {"head_dim": head, "rotary_dim": rotary, "rotary_start": Sourced(start, "")}


def _base(data: Metadata, *, sliding: bool) -> Sourced:
    """Return the base of the frequencies: from a key, or the default of the architecture."""
    base = read_base([(data, "rope.freq_base")])
    base_of_sliding = read_base([(data, "rope.freq_base_swa")])
    default = data.architecture.sliding_base
    if sliding and base_of_sliding is not None:
        return base_of_sliding
    if sliding and default is not None:
        return Sourced(default, f"the default of sliding layers of {data.architecture.name}")
    origin = f"the default, because there is no {data.origin_of('rope.freq_base')}"
    return base or Sourced(10_000.0, origin)


def _layout(data: Metadata, given: Layout | None) -> Sourced:
    """Return the layout that the caller gave, or the layout of the architecture."""
    if given is not None:
        return Sourced(given, "given")
    architecture = data.architecture
    if architecture.layout is None:
        msg = (
            "`layout` must be given, because the layout of the `general.architecture` "
            f"{shown(architecture.name)} is not known, got None; pass 'half' or 'interleaved'"
        )
        raise ConfigError(msg)
    origin = (
        f"llama.cpp rotates the architecture {shown(architecture.name)} by {architecture.rope_type}"
    )
    return Sourced(architecture.layout, origin)


def _sections(data: Metadata, rotary_dim: int) -> Any:
    """Return the position axis of every pair, or None if there is one axis."""
    name = "rope.dimension_sections"
    sizes = data.get_value(name, as_section_sizes) or ()
    architecture = data.architecture
    kind = architecture.rope_type
    if architecture.mrope_by_sections and sizes and sizes[0] and sizes[1]:
        kind = "MROPE"
    if kind not in ("MROPE", "IMROPE"):
        if sum(map(bool, sizes)) > 1:
            must = "must be left out, because this architecture has one position axis"
            data.fail(name, must, sizes)
        return None
    if not sizes:
        data.fail(
            name,
            f"must be present, because {architecture.name} has several position axes",
            "no such key",
        )
    check_sections(data.name(name), sizes, rotary_dim)
    return sections.ggml_mrope(*sizes) if kind == "MROPE" else sections.ggml_imrope(*sizes)
