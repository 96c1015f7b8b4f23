"""Facts about the architectures of llama.cpp, and the YaRN rules of some of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from rotary.layouts import Layout

from .facts import facts
from .reader import Keys

__all__ = ["Architecture", "architecture", "architecture_of_model", "check_softmax"]

_LAYOUTS: dict[str, Layout] = {
    "NORM": "interleaved",
    "NEOX": "half",
    "MROPE": "half",
    "IMROPE": "half",
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How llama.cpp rotates one architecture, and what the converter writes for it.

    The fields, but for the name, are the keys of a table in data/models/llama_cpp.toml.

    Parameters
    ----------
    name : str
    rope_type : {"NORM", "NEOX", "MROPE", "IMROPE", "NONE"} or None
        None if the architecture is not known.
    unread : str or None
        How its graph rotates, if the keys of a file do not describe that.
    mrope_by_sections : bool
        Whether the rope type is MROPE if the file has sections.
    trailing : bool
        Whether the last channels of a head are rotated, and not the first ones.
    whole_head : bool
        Whether llama.cpp refuses a file that rotates only a part of each head.
    sliding_base : float or None
        The default base of layers with a sliding window, if they do not share that of the other layers.
    sliding_unscaled : bool
        Whether the scaling of the file does not apply to layers with a sliding window.
    log_multiplier : {"tenths", "whole"} or None
        What yarn_log_multiplier counts: tenths of mscale_all_dim, mscale_all_dim itself, or unknown.
    tied_mscale : bool
        Whether mscale equals mscale_all_dim.
    softmax : bool
        Whether the graph multiplies the softmax scale by YaRN's temperature, whatever the scaling is.
    beta_fast : float
        The default of yarn_beta_fast.
    yarn_attn_factor : bool
        Whether llama.cpp reads the key of this name.
    finetuned_switch : bool
        Whether ``scaling.finetuned = false`` disables rotation.
    alpha : bool
        Whether scaling.alpha is read.
    needs_rope_freqs : bool
        Whether layers of full attention need the tensor rope_freqs.
    llama3 : {"with_its_base", "always"} or None
        When a context beyond 8192 means that the converter wrote the scaling of Llama 3.1, into a tensor and
        no key: if the base is that of Llama 3, or for all released models.
    long_factors : {"announced", "unannounced"} or None
        Whether another key implies the long and short factors that the converter writes without a scaling type.
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
        """The layout, or None if it is not known."""
        return _LAYOUTS.get(self.rope_type or "")

    def mscale(self, all_dim: float) -> float:
        """Return the mscale that goes with an mscale_all_dim."""
        return all_dim if all_dim and self.tied_mscale else 1.0


def architecture(name: str) -> Architecture:
    """Return the facts about an architecture; an unknown one has only its name."""
    return _known(name) if name in _facts()["architectures"] else Architecture(name=name)


def architecture_of_model(model_type: str | None, *, latent: bool) -> Architecture:
    """Return the architecture that a model type of transformers is converted to, if it has rules for YaRN."""
    own = "deepseek2" if model_type is None and latent else ""
    return architecture(_facts()["model_types"].get(model_type, own))


def check_softmax(own: Architecture, keys: Keys, key: str, factor: float) -> None:
    """Refuse a factor for the softmax scale beside a scaling that has no number for it."""
    if own.softmax and factor > 1.0:
        must = f"must go with yarn, as the softmax scale of {own.name} does in llama.cpp"
        keys.fail(key, must, factor)


def _facts() -> dict[str, Any]:
    return facts("llama_cpp.toml")


@cache
def _known(name: str) -> Architecture:
    return Architecture(name=name, **_facts()["architectures"][name])
