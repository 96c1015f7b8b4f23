"""The GPU libraries of `python -m peers gpu`, called as their documentation says, on tensors of the CPU.

Functions with the same parameters and results replace the libraries that need a GPU.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import pytest

from rotary.cli import bench, devices
from rotary.cli.bench_cases import Case

pytestmark = pytest.mark.library("torch")

PREFILL = Case("five tokens", 2, 5, (3, 2), 8, "float32")
DECODE = Case("one token", 4, 1, (3, 2), 8, "float32")
HALF = PREFILL._replace(dtype="bfloat16")
NAMES = (
    *("rotary, torch in place", "torch", "torch.compile", "flash-attention, in place"),
    *("FlashInfer, in place", "FlashInfer, tables, in place", "Liger, in place"),
)


@pytest.fixture
def gpu(monkeypatch):
    """The module, with tensors on the CPU."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "asv_benchmarks")
    module = importlib.import_module("peers.gpu")
    monkeypatch.setattr(module, "TORCH_DEVICE", "cpu")
    return module


def rotate(x, cosine, sine):
    """A tensor (..., channels) rotated with tables half as wide."""
    import torch

    first, second = x.float().chunk(2, -1)
    both = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat(both, -1).to(x.dtype)


def flash_attention(
    x,
    cos,
    sin,
    interleaved=False,
    inplace=False,
    seqlen_offsets=0,
    cu_seqlens=None,
    max_seqlen=None,
):
    import torch

    assert (cos.dtype, interleaved, inplace) == (x.dtype, False, True)
    batch, length, _, width = x.shape
    assert cos.shape[1] == width // 2
    starts = torch.as_tensor(seqlen_offsets).expand(batch)
    rows = starts[:, None] + torch.arange(length)
    return x.copy_(rotate(x, cos[rows][:, :, None], sin[rows][:, :, None]))


def flashinfer_pos_ids(
    q, k, pos_ids, rotary_dim=None, interleave=False, rope_scale=1, rope_theta=1e4
):
    import torch

    assert pos_ids.dtype == torch.int32
    angles = pos_ids[:, None].double() * rope_theta ** (
        -torch.arange(0, q.shape[-1], 2) / q.shape[-1]
    )
    for x in (q, k):
        assert x.ndim == 3
        x.copy_(rotate(x, angles.cos().float()[:, None], angles.sin().float()[:, None]))


def flashinfer_tables(positions, query, key, head_size, cos_sin_cache, is_neox=True):
    import torch

    assert cos_sin_cache.dtype == torch.float32
    cosine, sine = cos_sin_cache[positions].chunk(2, -1)
    for x in (query, key):
        heads = x.view(len(positions), -1, head_size)
        heads.copy_(rotate(heads, cosine[:, None], sine[:, None]))


def liger(q, k, cos, sin, position_ids=None, unsqueeze_dim=1):
    half = cos.shape[-1] // 2
    for x in (q, k):
        assert x.transpose(1, 2).is_contiguous()
        assert x.shape[2:] == cos.shape[1:]
        x.copy_(rotate(x, cos[:, None, :, :half], sin[:, None, :, :half]))
    return q, k


@pytest.fixture
def replaced(monkeypatch):
    """Functions in place of the libraries that need a GPU."""
    import torch

    modules = {
        "flash_attn.layers.rotary": {"apply_rotary_emb": flash_attention},
        "flashinfer": {
            "apply_rope_pos_ids_inplace": flashinfer_pos_ids,
            "apply_rope_with_cos_sin_cache_inplace": flashinfer_tables,
        },
        "liger_kernel.transformers.rope": {"liger_rotary_pos_emb": liger},
    }
    for name, functions in modules.items():
        parts = name.split(".")
        for i in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(parts[i - 1]))
        module = types.ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)


def test_every_library_is_tested(gpu):
    assert tuple(gpu.OTHERS) == NAMES


@pytest.mark.parametrize("case", [PREFILL, DECODE, HALF])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_right(gpu, replaced, name, case):
    (row,) = bench.measure(case, {name: gpu.OTHERS[name]}, devices.Host(), 2)
    assert (row.missing, row.failed) == ("", False)
    assert len(row.seconds) == 2


def test_a_missing_library_is_not_a_failure(gpu, monkeypatch):
    for name in ("flash_attn", "flashinfer", "liger_kernel"):
        monkeypatch.setitem(sys.modules, name, None)
    contenders = {name: gpu.OTHERS[name] for name in NAMES[3:]}
    rows = bench.measure(PREFILL, contenders, devices.Host(), 1)
    assert [row.missing.startswith("not installed (") for row in rows] == [True] * 4
    assert not any(row.failed for row in rows)


def test_without_a_gpu_nothing_is_measured(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "no_gpu", lambda: "CuPy is not installed")
    assert gpu.main(rounds=1) == 1
    assert capsys.readouterr().err.startswith("not measured. CuPy is not installed: install rotary")


def test_with_a_gpu_all_are_measured(gpu, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu, "no_gpu", lambda: None)
    monkeypatch.setattr(bench, "main", lambda device, **how: seen.append((type(device), how)))
    gpu.main(rounds=7)
    assert seen == [(devices.Gpu, {"rounds": 7, "others": gpu.OTHERS})]
