"""Compares this library with others on a GPU, called as in their documentation: `python -m peers gpu`.

No GPU has run them yet. Query and key lie as a projection leaves them, (batch, sequence, heads, channels). A library
that expects the heads first gets them transposed, as models do. All of them run on the default stream, which torch
shares with CuPy, whose events take the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rotary.cli import bench
from rotary.cli.bench import Contender, Run, embedding
from rotary.cli.bench_cases import BASE, Data
from rotary.cli.devices import INSTALL, Device, Gpu, no_gpu

HostArray = np.ndarray[Any, Any]
TORCH_DEVICE = "cuda"


class Tensors:
    """The arrays of a case as tensors of torch."""

    def __init__(self, data: Data) -> None:
        import torch

        self.torch, self.data = torch, data
        self.dtype = getattr(torch, data.case.dtype)
        self.q, self.k = (self.tensor(x.astype(np.float32), self.dtype) for x in data.arrays)

    def tensor(self, values: HostArray, dtype: Any = None) -> Any:
        """Return host values as a tensor on the device."""
        return self.torch.from_numpy(np.ascontiguousarray(values)).to(TORCH_DEVICE, dtype)

    def heads_first(self) -> tuple[Any, Any]:
        """Return views (batch, heads, sequence, channels) of query and key."""
        return self.q.transpose(1, 2), self.k.transpose(1, 2)

    def full_width(self) -> list[Any]:
        """Return cosine and sine (batch, sequence, head_dim), every number twice, in the dtype of query and key."""
        return [
            self.tensor(np.concatenate([part, part], axis=-1), self.dtype)
            for part in self.data.tables(self.data.positions)
        ]

    def tokens(self) -> tuple[Any, Any, Any]:
        """Return query and key (tokens, heads, channels), and the positions of the tokens."""
        flat = [x.flatten(0, 1) for x in (self.q, self.k)]
        return flat[0], flat[1], self.tensor(self.data.positions.ravel())


def _reader(*, heads_first: bool = False) -> Callable[[Any, list[int]], list[HostArray]]:
    def read(results: Sequence[Any], rows: list[int]) -> list[HostArray]:
        ordered = [y.transpose(1, 2) if heads_first else y for y in results]
        return [y[:, rows].float().cpu().numpy() for y in ordered]

    return read


def in_place_on_torch(data: Data, device: Device) -> Run:
    """Rotate tensors of torch with this library, in place."""
    tensors = Tensors(data)
    rope, xs = embedding(data.case), (tensors.q, tensors.k)
    options = {"offset": tensors.tensor(data.offsets)} if data.case.decodes else {}
    return Run(lambda: rope(*xs, out=xs, **options), _reader())


def rotate_half(x: Any) -> Any:
    """Return the second channels of the pairs, negated, then the first ones."""
    import torch

    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def formula(q: Any, k: Any, cosine: Any, sine: Any) -> tuple[Any, Any]:
    """Return query and key, rotated as most models do it."""
    cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)
    return q * cosine + rotate_half(q) * sine, k * cosine + rotate_half(k) * sine


def with_torch(data: Data, device: Device) -> Run:
    """Rotate with operations of torch."""
    tensors = Tensors(data)
    given = (*tensors.heads_first(), *tensors.full_width())
    return Run(lambda: formula(*given), _reader(heads_first=True))


def with_torch_compile(data: Data, device: Device) -> Run:
    """Rotate with the same operations, compiled."""
    tensors = Tensors(data)
    compiled = tensors.torch.compile(formula, dynamic=False)
    given = (*tensors.heads_first(), *tensors.full_width())
    return Run(lambda: compiled(*given), _reader(heads_first=True))


def with_flash_attention(data: Data, device: Device) -> Run:
    """Rotate in place; https://github.com/Dao-AILab/flash-attention, flash_attn/layers/rotary.py."""
    from flash_attn.layers.rotary import apply_rotary_emb

    tensors = Tensors(data)
    cosine, sine = (tensors.tensor(part, tensors.dtype) for part in data.whole_tables)
    offsets = tensors.tensor(data.offsets.astype(np.int32)) if data.case.decodes else 0

    def call() -> list[Any]:
        return [
            apply_rotary_emb(x, cosine, sine, inplace=True, seqlen_offsets=offsets)
            for x in (tensors.q, tensors.k)
        ]

    return Run(call, _reader())


def with_flashinfer(data: Data, device: Device) -> Run:
    """Rotate in place, with angles computed in the kernel; https://docs.flashinfer.ai/api/rope.html."""
    import flashinfer

    tensors = Tensors(data)
    q, k, positions = tensors.tokens()
    positions = positions.int()

    def call() -> tuple[Any, Any]:
        flashinfer.apply_rope_pos_ids_inplace(q, k, positions, rope_theta=BASE)
        return tensors.q, tensors.k

    return Run(call, _reader())


def with_flashinfer_tables(data: Data, device: Device) -> Run:
    """Rotate in place with tables, as serving engines do."""
    import flashinfer

    tensors = Tensors(data)
    q, k, positions = tensors.tokens()
    q, k = q.flatten(1), k.flatten(1)
    tables = tensors.tensor(np.concatenate(data.whole_tables, axis=-1).astype(np.float32))
    width = data.case.head_dim

    def call() -> tuple[Any, Any]:
        flashinfer.apply_rope_with_cos_sin_cache_inplace(positions, q, k, width, tables)
        return tensors.q, tensors.k

    return Run(call, _reader())


def with_liger(data: Data, device: Device) -> Run:
    """Rotate and overwrite the input; https://github.com/linkedin/Liger-Kernel."""
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    tensors = Tensors(data)
    given = (*tensors.heads_first(), *tensors.full_width())
    return Run(lambda: liger_rotary_pos_emb(*given), _reader(heads_first=True))


OTHERS: dict[str, Contender] = {
    "rotary, torch in place": in_place_on_torch,
    "torch": with_torch,
    "torch.compile": with_torch_compile,
    "flash-attention, in place": with_flash_attention,
    "FlashInfer, in place": with_flashinfer,
    "FlashInfer, tables, in place": with_flashinfer_tables,
    "Liger, in place": with_liger,
}


def main(rounds: int) -> int:
    """Measure this library and all others on the GPU, and return the exit status."""
    missing = no_gpu()
    if missing is not None:
        print(f"not measured. {missing}: {INSTALL}", file=sys.stderr)
        return 1
    return bench.main(Gpu(), rounds=rounds, others=OTHERS)
