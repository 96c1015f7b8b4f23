"""Who is measured: a copy, this library, and others in the forms that their documentation gives.

Each contender is a function that makes its arrays and returns a call; it raises ImportError where its library is
not installed. None of those on a GPU has been run on one yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rotary._lib.typing import Array, HostArray
from rotary.embedding import RotaryEmbedding

from .bench_cases import BASE, Case, Data
from .devices import Device


class Run(NamedTuple):
    """A call to time, and how what it has given is read: rows of query and key; None where nothing is turned."""

    call: Callable[[], object]
    read: Callable[[Any, list[int]], list[HostArray]] | None


Contender: TypeAlias = Callable[[Data, Device], Run]


# ------------------------------------------------------------------------------------------------
# Those on any device.


def copy(data: Data, device: Device) -> Run:
    """Copy as many bytes."""
    source = device.put(np.concatenate([x.ravel() for x in data.arrays]))
    target = device.put(np.zeros(source.shape, data.arrays[0].dtype))
    return Run(lambda: device.copy(source, target), None)


def in_place(data: Data, device: Device) -> Run:
    """Rotate by this library, over the input."""
    rope, where = _embedding(data.case), _where(data, device)
    xs = tuple(device.put(x) for x in data.arrays)
    return Run(lambda: rope(*xs, out=xs, **where), _reader(device))


def to_new(data: Data, device: Device) -> Run:
    """Rotate by this library, to new arrays."""
    rope, where = _embedding(data.case), _where(data, device)
    xs = [device.put(x) for x in data.arrays]
    return Run(lambda: rope(*xs, **where), _reader(device))


def _embedding(case: Case) -> RotaryEmbedding:
    """Return what is measured."""
    return RotaryEmbedding(case.head_dim, layout="half", base=BASE, seq_axis=1)


def _where(data: Data, device: Device) -> dict[str, Array]:
    """Return where rows stand, as arguments: decoders have it on the device."""
    return {"offset": device.put(data.offsets)} if data.case.decodes else {}


def _reader(device: Device) -> Callable[[Any, list[int]], list[HostArray]]:
    """Return how results of this library are read."""

    def read(results: Sequence[Array], rows: list[int]) -> list[HostArray]:
        return [device.get(y)[:, rows] for y in results]

    return read


# ------------------------------------------------------------------------------------------------
# NumPy.


def with_numpy(data: Data, device: Device) -> Run:  # noqa: ARG001  (contenders have one signature)
    """Rotate by the formula as most code has it, tables ready, 16-bit numbers in float32."""
    case = data.case
    cosine, sine = (part[:, :, None].astype(np.float32) for part in data.tables(data.positions))
    half = case.head_dim // 2

    def turned(x: HostArray) -> HostArray:
        wide = x.astype(np.float32, copy=False)
        a, b = wide[..., :half], wide[..., half:]
        both = np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
        result: HostArray = both.astype(x.dtype, copy=False)
        return result

    return Run(lambda: [turned(x) for x in data.arrays], lambda ys, rows: [y[:, rows] for y in ys])


# ------------------------------------------------------------------------------------------------
# torch, and what is called with its tensors. Query and key lie as a projection leaves them, (batch, sequence,
# heads, channels); who wants the heads first is given them transposed, as models do. All of it runs on the default
# stream, which torch shares with CuPy, whose events take the time.

TORCH_DEVICE = "cuda"


class _Tensors:
    """The numbers of a case as torch's tensors."""

    def __init__(self, data: Data) -> None:
        import torch

        self.torch, self.data = torch, data
        self.dtype = getattr(torch, data.case.dtype)
        self.q, self.k = (self.tensor(x.astype(np.float32), self.dtype) for x in data.arrays)

    def tensor(self, values: HostArray, dtype: Any = None) -> Any:
        """Return host values as a tensor."""
        return self.torch.from_numpy(np.ascontiguousarray(values)).to(TORCH_DEVICE, dtype)

    def heads_first(self) -> tuple[Any, Any]:
        """Return query and key (batch, heads, sequence, channels), in the same memory."""
        return self.q.transpose(1, 2), self.k.transpose(1, 2)

    def full_width(self) -> list[Any]:
        """Return cosine and sine (batch, sequence, head_dim) of the rows, every number twice, in their dtype."""
        return [
            self.tensor(np.concatenate([part, part], axis=-1), self.dtype)
            for part in self.data.tables(self.data.positions)
        ]

    def tokens(self) -> tuple[Any, Any, Any]:
        """Return query and key (tokens, heads, channels), and the positions of the tokens."""
        flat = [x.flatten(0, 1) for x in (self.q, self.k)]
        return flat[0], flat[1], self.tensor(self.data.positions.ravel())


def _tensors_read(*, heads_first: bool = False) -> Callable[[Any, list[int]], list[HostArray]]:
    """Return how results are read."""

    def read(results: Sequence[Any], rows: list[int]) -> list[HostArray]:
        ordered = [y.transpose(1, 2) if heads_first else y for y in results]
        return [y[:, rows].float().cpu().numpy() for y in ordered]

    return read


def in_place_on_torch(data: Data, device: Device) -> Run:  # noqa: ARG001  (contenders have one signature)
    """Rotate by this library, over tensors of torch."""
    tensors = _Tensors(data)
    rope, xs = _embedding(data.case), (tensors.q, tensors.k)
    where = {"offset": tensors.tensor(data.offsets)} if data.case.decodes else {}
    return Run(lambda: rope(*xs, out=xs, **where), _tensors_read())


def _half_turned(x: Any) -> Any:
    """Return the second channels of the pairs, negated, before the first ones."""
    import torch

    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _formula(q: Any, k: Any, cosine: Any, sine: Any) -> tuple[Any, Any]:
    """Return query and key as most models rotate them."""
    cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)
    return q * cosine + _half_turned(q) * sine, k * cosine + _half_turned(k) * sine


def with_torch(data: Data, device: Device) -> Run:  # noqa: ARG001  (contenders have one signature)
    """Rotate by torch's own operations."""
    tensors = _Tensors(data)
    given = (*tensors.heads_first(), *tensors.full_width())
    return Run(lambda: _formula(*given), _tensors_read(heads_first=True))


def with_torch_compile(data: Data, device: Device) -> Run:  # noqa: ARG001  (contenders have one signature)
    """Rotate by the same, compiled."""
    tensors = _Tensors(data)
    compiled = tensors.torch.compile(_formula, dynamic=False)
    given = (*tensors.heads_first(), *tensors.full_width())
    return Run(lambda: compiled(*given), _tensors_read(heads_first=True))


def with_flash_attention(data: Data, device: Device) -> Run:  # noqa: ARG001  (contenders have one signature)
    """Rotate in place; https://github.com/Dao-AILab/flash-attention, flash_attn/layers/rotary.py."""
    from flash_attn.layers.rotary import apply_rotary_emb

    tensors = _Tensors(data)
    cosine, sine = (tensors.tensor(part, tensors.dtype) for part in data.whole_tables)
    offsets = tensors.tensor(data.offsets.astype(np.int32)) if data.case.decodes else 0

    def call() -> list[Any]:
        return [
            apply_rotary_emb(x, cosine, sine, inplace=True, seqlen_offsets=offsets)
            for x in (tensors.q, tensors.k)
        ]

    return Run(call, _tensors_read())


def with_flashinfer(data: Data, device: Device) -> Run:  # noqa: ARG001  (contenders have one signature)
    """Rotate in place, angles made in the kernel; https://docs.flashinfer.ai/api/rope.html."""
    import flashinfer

    tensors = _Tensors(data)
    q, k, positions = tensors.tokens()
    positions = positions.int()

    def call() -> tuple[Any, Any]:
        flashinfer.apply_rope_pos_ids_inplace(q, k, positions, rope_theta=BASE)
        return tensors.q, tensors.k

    return Run(call, _tensors_read())


def with_flashinfer_tables(data: Data, device: Device) -> Run:  # noqa: ARG001  (contenders have one signature)
    """Rotate in place by tables, as serving engines do."""
    import flashinfer

    tensors = _Tensors(data)
    q, k, positions = tensors.tokens()
    q, k = q.flatten(1), k.flatten(1)
    tables = tensors.tensor(np.concatenate(data.whole_tables, axis=-1).astype(np.float32))
    width = data.case.head_dim

    def call() -> tuple[Any, Any]:
        flashinfer.apply_rope_with_cos_sin_cache_inplace(positions, q, k, width, tables)
        return tensors.q, tensors.k

    return Run(call, _tensors_read())


def with_liger(data: Data, device: Device) -> Run:  # noqa: ARG001  (contenders have one signature)
    """Rotate, which here writes over the input; https://github.com/linkedin/Liger-Kernel."""
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    tensors = _Tensors(data)
    given = (*tensors.heads_first(), *tensors.full_width())
    return Run(lambda: liger_rotary_pos_emb(*given), _tensors_read(heads_first=True))


COPY = "copy of as many bytes"
# How the names begin of those whose results must be right for `bench` to succeed.
OWN = "rotary, "
ON_ANY: dict[str, Contender] = {
    COPY: copy,
    "rotary, in place": in_place,
    "rotary, new arrays": to_new,
}
ON_GPU: dict[str, Contender] = {
    **ON_ANY,
    "rotary, torch in place": in_place_on_torch,
    "torch": with_torch,
    "torch.compile": with_torch_compile,
    "flash-attention, in place": with_flash_attention,
    "FlashInfer, in place": with_flashinfer,
    "FlashInfer, tables, in place": with_flashinfer_tables,
    "Liger, in place": with_liger,
}
ON_CPU: dict[str, Contender] = {**ON_ANY, "NumPy's operations": with_numpy}
