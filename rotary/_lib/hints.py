"""Suggests the right argument to callers who use another library's name for it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# Arguments of this library, and the names of each in other libraries. A name may be in several rows: the first row
# whose argument the function has applies.
NAMES_ELSEWHERE = (
    (
        "base",
        "theta rope_theta freq_base rope_freq_base rotary_base rotary_emb_base max_wavelength",
    ),
    (
        "head_dim",
        "dim dims d head_size d_head size_per_head attention_head_dim kv_channels hidden_size",
    ),
    ("dim", "head_dim dims d d_model embed_dim embedding_dim hidden_size rotary_dim"),
    (
        "rotary_dim",
        "rope_dim rot_dim n_rot rotary_ndims n_dims rotary_embedding_dim pe_rotary_dims",
    ),
    ("rotary_dim", "partial_rotary_factor rotary_pct rotary_percent rotary_percentage"),
    (
        "layout",
        "interleaved interleave traditional is_neox is_neox_style neox style rotary_interleaved",
    ),
    ("factor", "scaling_factor scale rope_scale freq_scale"),
    ("scaling", "rope_scaling rope_parameters scaling_factor rope_type scale factor"),
    ("inv_freq", "freqs freq freqs_cis inv_freqs inverse_freq frequencies"),
    ("scaling", "freqs freq freqs_cis inv_freq inv_freqs inverse_freq frequencies"),
    ("context_length", "max_position max_position_embeddings max_seq_len max_length n_ctx seq_len"),
    ("sections", "mrope_section section mrope_sections axes_dim axes_dims"),
    ("decay", "xpos use_xpos scale_base xpos_scale_base"),
    (
        "positions",
        "position pos position_ids pos_ids positions_ids input_pos cache_position indices t",
    ),
    ("positions", "rotary_pos timestamps times"),
    ("position", "positions pos position_ids offset"),
    (
        "offset",
        "offsets start start_pos start_index start_position seqlen_offset seqlen_offsets past",
    ),
    ("offset", "past_length past_key_values_length pos_offset input_offset"),
    ("cu_seqlens", "cu_seqlens_q cu_seq_lens cu_seqlen cu_lens indptr seqlens seq_lens lengths"),
    ("seq_axis", "axis dim seq_dim sequence_axis sequence_dim time_axis unsqueeze_dim"),
    ("batch_axis", "batch batch_dim batch_first"),
    ("role", "is_query is_key kind which"),
    ("delta", "shift by n amount"),
    ("norm", "qk_norm q_norm k_norm rms_norm rmsnorm"),
    ("eps", "epsilon rms_norm_eps norm_eps layer_norm_eps variance_epsilon"),
    ("unit_offset", "add_unit_offset zero_centered zero_centered_gamma"),
    ("out", "out_ output outputs inplace in_place dst"),
    ("num_heads", "heads n_heads num_attention_heads n_head"),
    ("w", "weight weights kernel"),
    ("cos", "cosine"),
    ("sin", "sine"),
)
# Text for arguments that differ from those of other libraries in their values, not only in their names.
ARGUMENT_TEXTS = {
    "layout": "`layout='half'` or `layout='interleaved'`",
    "out": "`out=(q, k)`, the arrays themselves in place",
    "rotary_dim": "`rotary_dim`, a number of channels",
    "scaling": "`scaling`, one of rotary.scaling",
    "decay": "`decay`, a rotary.XPos",
    "norm": "`norm`, a rotary.RMSNorm",
}

# Arguments that only some methods have, and why the others do not.
ELSEWHERE = {
    "norm": "it is an argument of the call, because a norm cannot be undone or moved",
}


def named(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function suggest the right name for an unknown keyword argument."""
    known = frozenset(inspect.signature(function).parameters)

    @wraps(function)
    def wrapper(*arguments: P.args, **options: P.kwargs) -> T:
        for name in options:
            if name not in known:
                refuse(wrapper, options, *(arguments[:1] if "self" in known else ()))
        return function(*arguments, **options)

    return wrapper


def constructor(cls: type[T]) -> type[T]:
    """Make a constructor that `dataclass` generated suggest the right name for an unknown keyword argument."""
    setattr(cls, "__init__", named(cls.__init__))  # noqa: B010  (a type checker takes it for a method of all subclasses)
    return cls


def closed(function: F) -> F:
    """Hide `**unknown` from the signature of a function that calls `refuse` itself, which is faster than `named`."""
    whole = inspect.signature(function)
    visible = [each for each in whole.parameters.values() if each.kind is not each.VAR_KEYWORD]
    function.__signature__ = whole.replace(parameters=visible)  # type: ignore[attr-defined]  # for `inspect`
    return function


def refuse(function: Callable[..., Any], options: Iterable[str], owner: object = None) -> NoReturn:
    """Raise for the first keyword argument that a function does not have.

    `owner` is the object whose method the function is, unless it is bound: its class may have inherited the method.
    """
    known = [
        name
        for name, each in inspect.signature(function).parameters.items()
        if name != "self" and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    ]
    unknown = next(name for name in options if name not in known)
    meant = _meant(unknown, known)
    hint = ELSEWHERE.get(unknown) or (
        f"it takes {', '.join(f'`{name}`' for name in known)}"
        if meant is None
        else f"here it is {ARGUMENT_TEXTS.get(meant, f'`{meant}`')}"
    )
    name = function.__qualname__ if owner is None else f"{type(owner).__name__}.{function.__name__}"
    msg = f"{name}() got an unexpected keyword argument `{unknown}`: {hint}"
    raise TypeError(msg)


def _meant(unknown: str, known: list[str]) -> str | None:
    """Return the argument that a name of another library means, or an argument of similar spelling."""
    for name, names_elsewhere in NAMES_ELSEWHERE:
        if name in known and unknown in names_elsewhere.split():
            return name
    close = difflib.get_close_matches(unknown.lower().strip("_"), known, n=1, cutoff=0.75)
    return close[0] if close else None
