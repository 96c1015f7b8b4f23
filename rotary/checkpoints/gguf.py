"""Reads embeddings from GGUF files and their metadata, as llama.cpp reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from rotary import sections
from rotary._lib import hints
from rotary._lib.checks import (
    LARGEST_WIDTH,
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

from .assemble import as_config_errors, check_pair_counts, check_sections, finished, origins_of
from .gguf_metadata import (
    Metadata,
    checked_tensors,
    heads,
    opened,
    refuse_unknown,
    rotary_width,
    section_sizes,
    width,
    window,
)
from .gguf_schedule import Context, Factors, schedule
from .reader import Found

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
    """Read the rotary embedding of a model from its GGUF metadata, as llama.cpp reads them.

    Parameters
    ----------
    metadata : mapping of str to value, path, or gguf.GGUFReader
        The path of a file, of either byte order; gguf-py's reader of it; or the keys and values, from any
        reader: numbers, strings, NumPy scalars and arrays, fields of gguf-py. Only the header of a file
        is read, which may have up to 128 MiB.
    tensors : mapping of str to array, optional
        The file's factor tensors: ``rope_freqs.weight``, ``rope_factors_long.weight`` and
        ``rope_factors_short.weight``, float32 (rotary_dim/2,). Other names are ignored. An empty mapping
        says that the file has none. With a path or a reader, they are read from the file.
    layer_type : {"full_attention", "sliding_attention"}, optional
        The kind of layers, needed if the kinds differ in their rotation.
    layout : {"half", "interleaved"}, optional
        Replaces the layout of the architecture; required if that is not known.
    seq_axis : int, optional
        As for `RotaryEmbedding`.
    batch_axis : int or False, optional
        As for `RotaryEmbedding`.
    context_length : int, optional
        The length of the longest sequence, in tokens; by default that of the file. It decides between the
        long and the short factors.
    attention_factor : float, optional
        The factor on cosine and sine. It replaces the factor that follows from the file.
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
        If an argument is of the wrong kind.
    ConfigError
        If a key about rotation is unknown, missing or damaged, or contradicts another one. The message
        names it and says what to write.
    OSError
        If the file cannot be read.

    See Also
    --------
    rotary.permute_weights : permute the weights to the other layout.

    Notes
    -----
    The function follows llama.cpp at commit 0c1e57098: the architecture's layout (``llama_model_rope_type``), the
    defaults of the keys (``load_hparams``), the factors of YaRN (``llama_context``) and the rotation
    itself (``rope_yarn`` and ``ggml_mrope_cache_init`` of ggml). Angles are exact; those of ggml
    are float32.

    Three things differ. ``yarn_beta_fast`` and ``yarn_beta_slow`` are read for every architecture;
    llama.cpp reads them for some. A ``yarn_attn_factor`` that contradicts llama.cpp's own is refused. So are
    metadata without the factor tensors that they announce, or that similar models have.

    llama.cpp rounds the ramp of YaRN to whole channel pairs, also for gpt-oss, which was trained with
    ``rotary.scaling.Yarn(truncate=False)``. If only some layers of a model rotate (Llama 4, Cohere 2,
    SmolLM3), the metadata do not always say which.

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
        head_dim = width(head_dim, "head_dim")
    if context_length is not None:
        context_length = as_positive_integer(context_length, "context_length")
    options = _Options(layout, (seq_axis, batch_axis), context_length, attention_factor, head_dim)
    with naming_file(metadata):
        return _read(*opened(metadata, tensors), layer_type, options)


class _Options(NamedTuple):
    """The arguments that apply to every kind of layer."""

    layout: Layout | None
    axes: tuple[int | None, BatchAxis]
    context_length: int | None
    attention_factor: float | None
    head_dim: int | None


def _read(
    values: Mapping[str, Any],
    tensors: Mapping[str, Any] | None,
    layer_type: LayerType | None,
    options: _Options,
) -> RotaryEmbedding | None:
    """Read the kinds of layers that the caller asks for, which must agree."""
    data = Metadata(values)
    own = data.architecture
    if own.unread is not None:
        msg = (
            f"`general.architecture` {shown(own.name)} cannot be read: it has {own.unread}; make its "
            "`RotaryEmbedding` yourself"
        )
        raise ConfigError(msg)
    refuse_unknown(values, data)
    finetuned = data.read("rope.scaling.finetuned", as_bool)
    if own.rope_type == "NONE" or (own.finetuned_switch and finetuned is False):
        return None
    slides = _slides(data)
    if layer_type == "sliding_attention" and not slides:
        msg = "`layer_type` must be left out: the metadata have no sliding window, got 'sliding_attention'"
        raise ConfigError(msg)
    kinds = [layer_type] if layer_type else ["full_attention", *["sliding_attention"] * slides]
    factors = checked_tensors(tensors)
    found = {
        kind: _embedding(
            data,
            factors,
            options,
            sliding=kind == "sliding_attention",
            known=tensors is not None,
        )
        for kind in kinds
    }
    if len(set(found.values())) > 1:
        bases = " and ".join(f"base {rope.base:g} in {shown(kind)}" for kind, rope in found.items())
        msg = f"`layer_type` must be given, because layers of this model differ, with {bases}, got None"
        raise ConfigError(msg)
    return found[kinds[0]]


def _slides(data: Metadata) -> bool:
    """Whether some layers attend within a sliding window."""
    swa = ("rope.freq_base_swa", "rope.dimension_count_swa", "attention.key_length_swa")
    return bool(data.read("attention.sliding_window", window)) or data.has_any(swa)


def _embedding(
    data: Metadata, factors: Factors, options: _Options, *, sliding: bool, known: bool
) -> RotaryEmbedding:
    """Return the embedding of one kind of layers."""
    context = Context.of(data, options.context_length)
    layout = _layout(data, options.layout)
    parts = {
        **_channels(data, options.head_dim, sliding=sliding),
        "base": _base(data, sliding=sliding),
        "context_length": context.length,
        "layout": layout,
    }
    rotary_dim = parts["rotary_dim"].value
    with as_config_errors(
        f"the metadata of this {shown(data.architecture.name)} do not fit together"
    ):
        if sliding and data.architecture.sliding_unscaled:
            scaling: Scaling = Default()
            origins = {"scaling": "sliding layers are not scaled"}
        else:
            check_pair_counts(factors, rotary_dim)
            factor = options.attention_factor
            scaling, origins = schedule(data, factors, context, factor, known=known)
        rope = RotaryEmbedding(
            **{name: part.value for name, part in parts.items()},
            scaling=scaling,
            sections=_sections(data, rotary_dim),
        )
    return finished(rope, options.axes, origins | origins_of(parts))


def _head_dim(data: Metadata, *, sliding: bool) -> Found | None:
    """Return the number of channels of a head of queries, or None if no key gives it."""
    names = ["key_length_swa"] if sliding else []
    names += ["key_length_mla"] if data.architecture.trailing else []
    for name in (*names, "key_length"):
        found = data.found(f"attention.{name}", width)
        if found is not None:
            return found
    hidden = data.found("embedding_length", as_positive_integer)
    count = data.found("attention.head_count", heads)
    if hidden is None or count is None:
        return None
    if hidden.value % count.value:
        must = f"must be a multiple of the {count.value} heads"
        data.fail("embedding_length", must, hidden.value)
    if hidden.value // count.value > LARGEST_WIDTH:
        must = f"must give at most {LARGEST_WIDTH} channels to a head"
        data.fail("embedding_length", must, hidden.value)
    return Found(hidden.value // count.value, f"{hidden.origin} / {count.origin}")


def _channels(data: Metadata, given: int | None, *, sliding: bool) -> dict[str, Found]:
    """Return head_dim, rotary_dim and rotary_start."""
    key = "rope.dimension_count"
    head = _head_dim(data, sliding=sliding) if given is None else Found(given, "given")
    own = data.found(f"{key}_swa", rotary_width) if sliding else None
    rotary = data.found(key, rotary_width)
    rotary = own or rotary
    if head is None and rotary is None:
        data.fail(key, "must be there, or `head_dim` be given", "neither")
    trailing = data.architecture.trailing
    if rotary is None:
        if trailing:
            data.fail(key, "must be there, because only part of a head is rotated", "no such key")
        assert head is not None
        rotary = Found(head.value, f"all channels, because there is no {data.origin_of(key)}")
    if head is None:
        head = Found(
            rotary.value, f"{rotary.origin}, because no other key gives the width of a head"
        )
    if rotary.value > head.value:
        data.fail(key, f"must be at most the {head.value} of a head", rotary.value)
    if given is None and data.architecture.whole_head and rotary.value != head.value:
        must = f"must be {head.value}, because this architecture rotates whole heads"
        data.fail(key, must, rotary.value)
    start = head.value - rotary.value if trailing else 0
    return {"head_dim": head, "rotary_dim": rotary, "rotary_start": Found(start, "")}


def _base(data: Metadata, *, sliding: bool) -> Found:
    """Return the base of the frequencies."""
    full = data.found("rope.freq_base", as_positive_float)
    own = data.found("rope.freq_base_swa", as_positive_float)
    if sliding and own is not None:
        return own
    default = data.architecture.sliding_base
    if sliding and default is not None:
        return Found(default, f"the default of sliding layers of {data.architecture.name}")
    origin = f"the default, because there is no {data.origin_of('rope.freq_base')}"
    return full or Found(10_000.0, origin)


def _layout(data: Metadata, given: Layout | None) -> Found:
    """Return the layout, by the caller or by the architecture."""
    if given is not None:
        return Found(given, "given")
    own = data.architecture
    if own.layout is None:
        msg = (
            f"`general.architecture` must be one whose layout is known, got {shown(own.name)}: "
            "write layout='half' or layout='interleaved'"
        )
        raise ConfigError(msg)
    origin = f"llama.cpp rotates the architecture {shown(own.name)} by {own.rope_type}"
    return Found(own.layout, origin)


def _sections(data: Metadata, rotary_dim: int) -> Any:
    """Return the position axis of every pair, or None if there is one axis."""
    name = "rope.dimension_sections"
    sizes = data.read(name, section_sizes) or ()
    own = data.architecture
    kind = own.rope_type
    if own.mrope_by_sections and sizes and sizes[0] and sizes[1]:
        kind = "MROPE"
    if kind not in ("MROPE", "IMROPE"):
        if sum(map(bool, sizes)) > 1:
            must = "is not read for this architecture: leave it out to rotate by one position axis"
            data.fail(name, must, sizes)
        return None
    if not sizes:
        data.fail(name, f"must be there: {own.name} has several position axes", "no such key")
    check_sections(data.name(name), sizes, rotary_dim)
    return sections.ggml_mrope(*sizes) if kind == "MROPE" else sections.ggml_imrope(*sizes)
