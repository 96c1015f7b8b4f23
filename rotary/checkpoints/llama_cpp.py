"""Facts about the architectures of llama.cpp, including their rules for YaRN."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from rotary.layouts import Layout

from .facts import facts
from .reader import Keys

__all__ = ["Architecture", "architecture_of_model", "check_softmax", "find_architecture"]

_LAYOUTS: dict[str, Layout] = {
    "NORM": "interleaved",
    "NEOX": "half",
    "MROPE": "half",
    "IMROPE": "half",
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How llama.cpp rotates one architecture, and which keys and tensors its converter writes.

    All fields except `name` are keys of a table in data/models/llama_cpp.toml.

    Parameters
    ----------
    name : str
    rope_type : {"NORM", "NEOX", "MROPE", "IMROPE", "NONE"} or None
        None if the architecture is not known.
    unread : str or None
        A description of the rotation, if the keys of a file cannot describe it.
    mrope_by_sections : bool
        Whether the rope type is MROPE if the file has sections.
    trailing : bool
        Whether the last channels of a head are rotated, instead of the first ones.
    whole_head : bool
        Whether llama.cpp refuses a file that rotates only a fraction of each head.
    sliding_base : float or None
        The default base of layers with a sliding window, if it differs from the base of the other layers.
    sliding_unscaled : bool
        Whether the scaling of the file does not apply to layers with a sliding window.
    log_multiplier : {"tenths", "whole"} or None
        The unit of yarn_log_multiplier: a tenth of mscale_all_dim, or mscale_all_dim itself. None if not known.
    tied_mscale : bool
        Whether mscale equals mscale_all_dim.
    softmax : bool
        Whether the softmax scale is multiplied by the square of YaRN's attention factor for every scaling type.
    beta_fast : float
        The default of yarn_beta_fast.
    yarn_attn_factor : bool
        Whether llama.cpp reads the key rope.scaling.yarn_attn_factor.
    finetuned_switch : bool
        Whether ``scaling.finetuned = false`` disables rotation.
    alpha : bool
        Whether scaling.alpha is read.
    needs_rope_freqs : bool
        Whether layers of full attention need the tensor rope_freqs.
    llama3 : {"with_its_base", "always"} or None
        When a context length above 8192 implies that the converter wrote the scaling of Llama 3.1, which it
        writes as a tensor only: "with_its_base" if the base is that of Llama 3, "always" for every base.
    long_factors : {"announced", "unannounced"} or None
        Whether the converter writes long and short factors without a scaling type: "announced" if another key
        implies them, "unannounced" if no key does.
    """

    name: str
    rope_type: Literal["NORM", "NEOX", "MROPE", "IMROPE", "NONE"] | None = None
    unread: str | None = None
    mrope_by_sections: bool = False
    trailing: bool = False
    whole_head: bool = False
    sliding_base: float | None = None
    sliding_unscaled: bool = False
    log_multiplier: Literal["tenths", "whole"] | None = None
    tied_mscale: bool = False
    softmax: bool = False
    beta_fast: float = 32.0
    yarn_attn_factor: bool = False
    finetuned_switch: bool = False
    alpha: bool = False
    needs_rope_freqs: bool = False
    llama3: Literal["with_its_base", "always"] | None = None
    long_factors: Literal["announced", "unannounced"] | None = None

    @property
    def layout(self) -> Layout | None:
        """The layout of channel pairs, or None if the rope type is not known."""
        return _LAYOUTS.get(self.rope_type or "")

    def mscale(self, all_dim: float) -> float:
        """Return the mscale that llama.cpp uses together with an mscale_all_dim."""
        return all_dim if all_dim and self.tied_mscale else 1.0


def find_architecture(name: str) -> Architecture:
    """Return the facts about an architecture; for an unknown one, all facts have their defaults."""
    return (
        _known_architecture(name) if name in _facts()["architectures"] else Architecture(name=name)
    )


def architecture_of_model(model_type: str | None, *, latent: bool) -> Architecture:
    """Return the architecture to which a model type of transformers is converted, if it has rules for YaRN."""
    default = "deepseek2" if model_type is None and latent else ""
    return find_architecture(_facts()["model_types"].get(model_type, default))


def check_softmax(architecture: Architecture, keys: Keys, key: str, factor: float) -> None:
    """Raise if the softmax scale of an architecture would need a factor that the schedule does not have."""
    if architecture.softmax and factor > 1.0:
        must = (
            f"must be 1 unless the scaling type is yarn, because {architecture.name} changes its softmax scale by "
            "the rule of yarn"
        )
        keys.fail(key, must, factor)


def _facts() -> dict[str, Any]:
    return facts("llama_cpp.toml")


@cache
def _known_architecture(name: str) -> Architecture:
    return Architecture(name=name, **_facts()["architectures"][name])
