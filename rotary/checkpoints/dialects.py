"""The rules by which different projects interpret the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["DIALECTS", "Dialect", "DialectName"]

DialectName = Literal["transformers", "vllm", "sglang", "llama.cpp", "mlx"]


@dataclass(frozen=True)
class Dialect:
    """The rules by which one project interprets a configuration.

    Parameters
    ----------
    name : str
    follows : str
        The version of the project that is the source of the rules.
    yarn : frozenset of str
        Keys that are read for the rope type "yarn", in addition to the factor and the original length.
    latent_yarn : frozenset of str
        As `yarn`, in models with multi-head latent attention; in llama.cpp, in architectures with
        mscale_all_dim.
    mscale : {"transformers", "both", "deepseek", "paper"}
        When the attention factor depends on the mscales: "transformers", if both are given and not 0;
        "both", if both are given; "deepseek", always, with the defaults 1 and 0; "paper", never.
    latent_mscale : {"transformers", "both", "deepseek", "paper"}
        As `mscale`, in models with multi-head latent attention.
    telechat3_mscale : {"telechat3", "deepseek"}
        The rule for the attention factor of the rope type "telechat3-yarn".
    truncate_within_kinds : bool
        Whether ``truncate`` is read in the rope dict of one kind of layer.
    by_architecture : bool
        Whether models are converted to architectures of llama.cpp, which may have their own rules for YaRN.
    dynamic : {"growing", "fixed", "ignored", "refused"}
        How the rope type "dynamic" is interpreted: the base grows with the length; the base is fixed; the
        scaling is ignored; the configuration is refused.
    longrope : frozenset of str
        Optional keys that are read for the rope type "longrope".
    always_long : bool
        Whether the long factors apply at every length.
    fallback : mapping
        The original length for each rope type, if none is given: a number, or a key that is read instead.
    length_on_top : bool
        Whether an original length at the top level takes precedence over the one in the rope dict.
    rope_types : frozenset of str
        The rope types that the project knows.
    sections : bool
        Whether ``mrope_interleaved`` decides the order of sections, instead of the model type.
    partial : bool
        Whether ``partial_rotary_factor`` is read for every model type; otherwise only for some.
    """

    name: DialectName
    follows: str
    yarn: frozenset[str]
    latent_yarn: frozenset[str]
    mscale: Literal["transformers", "both", "deepseek", "paper"]
    latent_mscale: Literal["transformers", "both", "deepseek", "paper"]
    telechat3_mscale: Literal["telechat3", "deepseek"]
    truncate_within_kinds: bool
    by_architecture: bool
    dynamic: Literal["growing", "fixed", "ignored", "refused"]
    longrope: frozenset[str]
    always_long: bool
    fallback: Mapping[str, int | str]
    length_on_top: bool
    rope_types: frozenset[str]
    sections: bool
    partial: bool


_COMMON = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_BETAS = ("beta_fast", "beta_slow")
_MSCALES = ("mscale", "mscale_all_dim")
_AUTHORS = ("attn_factor", "extrapolation_factor")
_TO_LENGTH = dict.fromkeys(("yarn", "llama3", "longrope"), "max_position_embeddings")

_EVERY = (
    Dialect(
        name="transformers",
        follows="transformers 5.23.0 (modeling_rope_utils.py)",
        yarn=frozenset((*_BETAS, *_MSCALES, "attention_factor", "truncate")),
        latent_yarn=frozenset((*_BETAS, *_MSCALES, "attention_factor", "truncate")),
        mscale="transformers",
        latent_mscale="transformers",
        telechat3_mscale="telechat3",
        truncate_within_kinds=False,
        by_architecture=False,
        dynamic="growing",
        longrope=frozenset(("factor", "attention_factor")),
        always_long=False,
        fallback=_TO_LENGTH,
        length_on_top=True,
        rope_types=frozenset((*_COMMON, "proportional", "axial", "xdrope")),
        sections=False,
        partial=False,
    ),
    Dialect(
        name="vllm",
        follows="vLLM, commit 0cd5784803d8, over transformers 5",
        yarn=frozenset((*_BETAS, *_MSCALES, "attention_factor", "truncate")),
        latent_yarn=frozenset((*_BETAS, *_MSCALES, *_AUTHORS)),
        mscale="transformers",
        latent_mscale="deepseek",
        telechat3_mscale="telechat3",
        truncate_within_kinds=True,
        by_architecture=False,
        dynamic="fixed",
        longrope=frozenset(("short_mscale", "long_mscale")),
        always_long=False,
        fallback=_TO_LENGTH,
        length_on_top=True,
        rope_types=frozenset(
            (*_COMMON, "proportional", "ntk", "xdrope", "deepseek_yarn", "telechat3-yarn")
        ),
        sections=True,
        partial=True,
    ),
    Dialect(
        name="sglang",
        follows="SGLang 0.5.23 (layers/rotary_embedding)",
        yarn=frozenset((*_BETAS, *_MSCALES, *_AUTHORS, "truncate")),
        latent_yarn=frozenset((*_BETAS, *_MSCALES, *_AUTHORS)),
        mscale="both",
        latent_mscale="deepseek",
        telechat3_mscale="telechat3",
        truncate_within_kinds=True,
        by_architecture=False,
        dynamic="fixed",
        longrope=frozenset(("short_mscale", "long_mscale")),
        always_long=False,
        fallback=_TO_LENGTH,
        length_on_top=True,
        rope_types=frozenset((*_COMMON, "proportional", "deepseek_yarn")),
        sections=True,
        partial=True,
    ),
    Dialect(
        name="llama.cpp",
        follows="llama.cpp as vendored by llama-cpp-python 0.3.36, with its converter",
        yarn=frozenset((*_BETAS, "extrapolation_factor")),
        latent_yarn=frozenset((*_BETAS, "extrapolation_factor", "mscale_all_dim")),
        mscale="deepseek",
        latent_mscale="deepseek",
        telechat3_mscale="telechat3",
        truncate_within_kinds=True,
        by_architecture=True,
        dynamic="ignored",
        longrope=frozenset(),
        always_long=False,
        fallback={"llama3": 8192},
        length_on_top=True,
        rope_types=frozenset((*_COMMON, "proportional", "xdrope")),
        sections=False,
        partial=False,
    ),
    Dialect(
        name="mlx",
        follows="mlx-lm, commit 060aa4349449 (models/rope_utils.py)",
        yarn=frozenset((*_BETAS, *_MSCALES, "attention_factor")),
        latent_yarn=frozenset((*_BETAS, *_MSCALES, "attention_factor")),
        mscale="deepseek",
        latent_mscale="deepseek",
        telechat3_mscale="deepseek",
        truncate_within_kinds=True,
        by_architecture=False,
        dynamic="refused",
        longrope=frozenset(),
        always_long=True,
        fallback={"yarn": 4096, "llama3": 8192},
        length_on_top=False,
        rope_types=frozenset((*_COMMON, "proportional", "deepseek_yarn", "telechat3-yarn")),
        sections=False,
        partial=False,
    ),
)
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in _EVERY}
