"""Tells from trained weights which two channels a model turns together, without running the model.

Attention sees a pair of channels only through products of query and key, and the rotation mixes the two:
training therefore gives both about the same size, row norm of the query projection times row norm of the
key projection. Take two pairs whose frequencies lie half the range apart and look at the four sizes: in
the right layout the two largest are mostly the two channels of one pair. In a wrong one, and in weights
that were never rotated, that happens by chance, once in three times.

    python docs/examples/which_layout.py model.safetensors --head-dim 64

reads every layer's query and key projection out of `.safetensors`, `.gguf` or `.npz` files.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rotary.layouts import LAYOUTS, Layout, pair_channels

Array = NDArray[Any]
CHANCE = 1 / 3
ENOUGH = 4.0  # standard deviations above chance: by luck alone less than once in 5,000 times

# What query and key projections are called: in Hugging Face's files, GGUF and Meta's.
NAMES = [
    ("q_proj.weight", "k_proj.weight"),
    ("attn_q.weight", "attn_k.weight"),
    ("attention.wq.weight", "attention.wk.weight"),
]


@dataclass(frozen=True)
class Count:
    """How often the two largest of four channels were a pair."""

    together: int = 0
    groups: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.together + other.together, self.groups + other.groups)

    @property
    def share(self) -> float:
        """The part of all groups, a third by chance."""
        return self.together / self.groups if self.groups else CHANCE

    @property
    def deviations(self) -> float:
        """How many standard deviations that lies above chance."""
        spread = math.sqrt(max(self.groups, 1) * CHANCE * (1 - CHANCE))
        return (self.together - CHANCE * self.groups) / spread


@dataclass(frozen=True)
class Finding:
    """What the weights say."""

    layout: Layout | None
    reason: str
    counts: dict[Layout, Count]


def channel_sizes(query: Array, key: Array, head_dim: int) -> Array:
    """Return the size of every channel, (key heads, head_dim): norms of query rows times key rows.

    Where several query heads share a key head they count as one, for their sizes are not independent.
    """
    squares = []
    for w, name in ((query, "query"), (key, "key")):
        if w.ndim != 2 or not len(w) or len(w) % head_dim:
            msg = f"`{name}` must be (heads * {head_dim}, in_features), got shape {w.shape}"
            raise ValueError(msg)
        rows = np.square(w.astype(np.float64)).sum(axis=1)
        if not np.isfinite(rows).all():
            msg = f"`{name}` must be finite"
            raise ValueError(msg)
        squares.append(rows.reshape(-1, head_dim))
    of_query, of_key = squares
    if len(of_query) % len(of_key):
        msg = f"`query` must have a multiple of the {len(of_key)} key heads, got {len(of_query)}"
        raise ValueError(msg)
    shared = of_query.reshape(len(of_key), -1, head_dim).sum(axis=1)
    sizes: Array = np.sqrt(shared * of_key)
    return sizes


def count(sizes: Array, layout: Layout, rotary_dim: int) -> Count:
    """Count in how many groups of two pairs the two largest channels are one of the pairs."""
    pairs = sizes[:, np.stack(pair_channels(rotary_dim, layout), axis=1)]
    half = pairs.shape[1] // 2
    one, other = pairs[:, :half], pairs[:, half : 2 * half]
    above = one.min(axis=-1) > other.max(axis=-1)
    below = one.max(axis=-1) < other.min(axis=-1)
    return Count(int((above | below).sum()), above.size)


def which_layout(
    layers: Iterable[tuple[Array, Array]], *, head_dim: int, rotary_dim: int | None = None
) -> Finding:
    """Tell the layout that query and key projections were trained for, or that they do not tell.

    Parameters
    ----------
    layers : iterable of (query, key)
        Weights (heads * head_dim, in_features) as in ``y = w @ x``, of one layer or of many.
    head_dim : int
        Channels of a head.
    rotary_dim : int, optional
        How many of them, from the first on, are rotated; all by default.

    Returns
    -------
    Finding
        ``layout`` is None where the weights do not tell, and ``reason`` says why.
    """
    width = head_dim if rotary_dim is None else rotary_dim
    if not 4 <= width <= head_dim or width % 2:
        msg = f"`rotary_dim` must be even and within 4 .. {head_dim}, got {width}"
        raise ValueError(msg)
    each = [channel_sizes(q, k, head_dim) for q, k in layers]
    if not each:
        msg = "`layers` must hold at least one (query, key), got none"
        raise ValueError(msg)
    sizes = np.concatenate(each)
    counts = {layout: count(sizes, layout, width) for layout in LAYOUTS}
    passed = [layout for layout in LAYOUTS if counts[layout].deviations >= ENOUGH]
    if not passed:
        return Finding(None, "neither layout is more frequent than chance", counts)
    if len(passed) == 2:
        return Finding(
            None, "both layouts are more frequent than chance: is rotary_dim right?", counts
        )
    # In too narrow a window the neighbours of a half layout look like interleaved pairs.
    others = {w: count(sizes, "half", w) for w in range(4, head_dim + 1, 2) if w != width}
    fitting = max(others, key=lambda w: others[w].deviations, default=width)
    if passed == ["interleaved"] and others and others[fitting].deviations >= ENOUGH:
        return Finding(None, f"half fits as well, with rotary_dim about {fitting}", counts)
    above = counts[passed[0]].deviations
    return Finding(passed[0], f"{above:.1f} standard deviations above chance", counts)


# ------------------------------------------------------------------------------------------------
# Files.


def read_npz(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names, and functions that read the arrays of an `.npz` file."""
    file = np.load(path)
    for name in file.files:
        yield name, lambda name=name: file[name]


def read_safetensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names, and functions that read the tensors of a `.safetensors` file."""
    content = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int(content[:8].view("<u8")[0])
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    for name, entry in json.loads(bytes(content[8:start])).items():
        if name != "__metadata__":
            yield name, lambda entry=entry: _tensor(content[start:], entry, kinds)


def _tensor(content: Array, entry: dict[str, Any], kinds: dict[str, str]) -> Array:
    """Return one tensor of a `.safetensors` file; bfloat16 is the upper half of float32."""
    if entry["dtype"] not in kinds:
        msg = f"tensors must be of {', '.join(kinds)}, got {entry['dtype']}"
        raise ValueError(msg)
    first, last = entry["data_offsets"]
    values = np.frombuffer(bytes(content[first:last]), dtype=kinds[entry["dtype"]])
    if entry["dtype"] == "BF16":
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(entry["shape"])


def read_gguf(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names, and functions that read the tensors of a `.gguf` file; needs the package `gguf`."""
    import gguf

    for tensor in gguf.GGUFReader(path).tensors:
        yield tensor.name, lambda t=tensor: gguf.dequantize(t.data, t.tensor_type)


READERS = {".npz": read_npz, ".safetensors": read_safetensors, ".gguf": read_gguf}


def read_layers(
    paths: Sequence[Path], query: str | None = None, key: str | None = None
) -> Iterator[tuple[str, Array, Array]]:
    """Yield (name of the query's tensor, query, key) of every layer in the files.

    `query` and `key` are the parts of tensors' names that tell them apart; without them, those of
    NAMES are tried.
    """
    if (query is None) != (key is None):
        msg = f"`query` and `key` must be given together, got {query!r} and {key!r}"
        raise ValueError(msg)
    names = NAMES if query is None or key is None else [(query, key)]
    tensors: dict[str, Any] = {}
    for path in paths:
        if path.suffix not in READERS:
            msg = f"files must be one of {', '.join(READERS)}, got {path}"
            raise ValueError(msg)
        tensors |= dict(READERS[path.suffix](path))
    found = False
    for name in tensors:
        for of_query, of_key in names:
            partner = name.replace(of_query, of_key)
            if of_query in name and partner in tensors:
                found = True
                yield name, tensors[name](), tensors[partner]()
    if not found:
        msg = f"no tensors called {names}; there are {', '.join(list(tensors)[:8])}, ..."
        raise ValueError(msg)


def main() -> None:
    """Print what every layer says, and all of them together."""
    parser = argparse.ArgumentParser(description="Which layout were these weights trained for?")
    parser.add_argument("files", nargs="+", type=Path, help=".safetensors, .gguf or .npz")
    parser.add_argument("--head-dim", type=int, required=True, help="channels of a head")
    parser.add_argument(
        "--rotary-dim", type=int, help="how many of them are rotated; all by default"
    )
    parser.add_argument("--query", help="part of the query tensors' names, such as q_proj.weight")
    parser.add_argument("--key", help="what stands in its place in the key tensors' names")
    given = parser.parse_args()
    widths = {"head_dim": given.head_dim, "rotary_dim": given.rotary_dim}
    layers = []
    for name, query, key in read_layers(given.files, given.query, given.key):
        layers.append((query, key))
        print(f"{name:<48}{describe(which_layout(layers[-1:], **widths))}")
    print(f"{'together':<48}{describe(which_layout(layers, **widths))}")


def describe(finding: Finding) -> str:
    """Return a finding as a line."""
    shares = ", ".join(f"{layout} {c.share:.0%}" for layout, c in finding.counts.items())
    groups = min(c.groups for c in finding.counts.values())
    return f"{finding.layout or 'cannot tell':<12} {shares} of {groups}: {finding.reason}"


if __name__ == "__main__":
    main()
