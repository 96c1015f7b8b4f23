"""Compares the results of the contenders of `nox -s peers` with those of rotary."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import LIBRARIES

import rotary

FOLDER = Path(__file__).parents[2] / "asv_benchmarks"
# Peers round 16-bit numbers more often than rotary does.
ROUNDING = {"float64": 1e-14, "float32": 1e-5, "float16": 2e-2, "bfloat16": 6e-2}
MODULES = {
    "rotary": "numba",
    "rotary on torch": "torch",
    "rotary on JAX": "jax",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "jax": "jax",
    "mlx": "mlx",
    "numpy": "numpy",
    "vLLM": "vllm",
    "ggml": "ggml",
    "OpenVINO": "openvino",
    "TensorFlow": "tensorflow",
}
"""Process of contenders -> the library that it needs."""
REASONS = (
    "takes (tokens, heads, D) only",
    "takes (B, S, H, D) only",
    "measured in the half layout only",
)
"""Why a peer that is installed may have no call."""


@pytest.fixture(scope="module", autouse=True)
def path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        # It traces as the default compiler does, and needs no C++ compiler.
        patch.setenv("ROTARY_PEERS_COMPILER", "eager")
        yield


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.library(module) if module in LIBRARIES else ())
        for name, module in MODULES.items()
    ],
)
def peer(request, path):
    """A process of contenders, as the benchmark starts it."""
    found = importlib.import_module("peers.process").Peer(request.param)
    yield found
    found.close()


def cases(peer):
    """Every dtype and layout in tiny arrays: one array, and query and key at a later position."""
    from peers.cases import DTYPES, LAYOUTS, Case

    for dtype in DTYPES:
        yield Case("decode", "", dtype, heads=(4, 2), batch=3, length=1, offset=7)
        for layout in LAYOUTS:
            yield Case("prefill", "", dtype, layout, "BSHD", (2,), length=5)
    yield Case("prefill", "", heads=(2,), length=5)
    if peer.name == "rotary":
        yield Case("memory", "", "float64", heads=(2,), length=5)
        yield Case("memory", "", order="SBHD", heads=(2,), length=5)
        yield Case("memory", "", order="BSHD", heads=(2,), length=5, memory="packed")
        yield Case("threads", "", heads=(2,), length=5, threads=1)


def test_contenders_agree_with_rotary(peer):
    there = importlib.util.find_spec(MODULES[peer.name]) is not None
    for case in cases(peer):
        missing, results = peer.ask("results", case)
        if missing:
            reasons = {f"no kernel for {case.dtype}", *REASONS} if there else {"not installed"}
            assert set(missing.values()) <= reasons
            continue
        rope = rotary.RotaryEmbedding(128, layout=case.layout, base=10_000.0)
        expected = rope(*case.arrays(), offset=case.offset, seq_axis=case.seq_axis)
        for name, got in results.items():
            for y, right in zip(got, as_list(expected), strict=True):
                assert y.dtype == right.dtype, name
                error = np.abs(y.astype(np.float64) - right.astype(np.float64)).max()
                assert error <= ROUNDING[case.dtype], f"{name} of {case}"


def as_list(arrays):
    return list(arrays) if isinstance(arrays, tuple) else [arrays]


def test_a_wrong_result_is_not_timed():
    from peers.cases import Case
    from peers.contenders import Contender

    case = Case("prefill", "", heads=(2,), length=5)
    wrong = Contender("wrong", case.arrays, read=lambda ys: ys)
    with pytest.raises(ArithmeticError, match="wrong is wrong, by"):
        wrong.check(case)


def test_slow_forms_are_left_out_and_the_best_form_is_used():
    from peers.contenders import Contender, without_hopeless
    from peers.rounds import best_forms

    forms = [Contender("a", int, form="one"), Contender("a", int, form="two"), Contender("b", int)]
    for each, fastest in zip(forms, (1.0, 1.6, 9.0), strict=True):
        each.fastest = fastest
    assert [(each.name, each.form) for each in without_hopeless(forms)] == [("a", "one"), ("b", "")]
    names = [("a", "one", 1.23e-3), ("a", "two", 2.34e-3)]
    rows = best_forms(names, [[3.0, 2.0], [5.0, 2.0], [4.0, 9.0]])
    assert rows == [
        {
            "contender": "a",
            "seconds": 2.0,
            "low": 2.0,
            "high": 5.5,
            "form": "two",
            "error": 2.3e-3,
        }
    ]


def test_peers_of_another_group_are_compared_with_rotary_in_that_group():
    from peers.rounds import merged
    from peers.table import IN_PLACE, NEW, Result

    def rows(**seconds):
        return [{"contender": name, "seconds": value} for name, value in seconds.items()]

    case = {"title": "", "section": "decode"}
    first = [{"case": case, "rows": rows(**{NEW: 2.0, IN_PLACE: 1.0, "copy": 1.0, "NumPy": 8.0})}]
    other = rows(**{NEW: 4.0, IN_PLACE: 3.0, "copy": 2.0, "vLLM, in place": 6.0})
    other += [{"contender": "ggml, rope_ext", "missing": "not installed"}]
    (found,) = merged([first, [{"case": case, "rows": other}]])
    result = Result(found)
    assert [row["contender"] for row in result.rows] == [
        *(NEW, IN_PLACE, "copy", "NumPy", "vLLM, in place", "ggml, rope_ext")
    ]
    assert result.ahead() == {"NumPy": 4.0, "vLLM, in place": 2.0}
    assert result.beside_fastest(NEW) == 1.5
    assert result.cell("vLLM, in place") == "6 s (1.5×)"
    assert result.cell("ggml, rope_ext") == "not installed"


def test_rows_report_a_process_that_ended(monkeypatch):
    from peers import rounds
    from peers.process import Peer

    ended = Peer("numpy")
    ended.process.kill()
    ended.process.join()
    rows = []
    assert rounds.attempt(ended, rows, "turn") is None
    assert rows[0]["contender"] == "NumPy"
    assert rows[0]["missing"] == "the process ended with code -9"
    ended.close()


@pytest.fixture(scope="module")
def numbers(path):
    """The numbers of an invented run: every contender takes a millisecond or two, or is missing."""
    from peers import cases, process, with_rotary

    def rows(case):
        names = {
            name: importlib.import_module(f"peers.{module}").NAMES
            for name, module in process.PEERS.items()
            if case.peers is None or name in case.peers
        }
        for name, contenders in names.items():
            for contender in contenders:
                if name == "mlx":
                    yield {"contender": contender, "missing": "not installed"}
                else:
                    seconds = 2e-3 if contender != with_rotary.NEW else 1e-3
                    yield {"contender": contender, "seconds": seconds}

    from peers.rounds import describe

    return {
        "mode": "full",
        "date": "2000-01-01",
        "rounds": 15,
        "machine": {"processor": "abacus"},
        "versions": {"rotary": "0"},
        "first_call": {"cold": 1.5, "warm": 0.6, "trivial": 0.5},
        "results": [
            {"case": describe(case), "rows": list(rows(case))}
            for case in cases.all_cases(quick=False)
        ],
        "errors": {"positions": [2**n for n in range(62)], "errors": {"float32": [1e-8] * 62}},
    }


def test_the_page_has_every_number(numbers):
    page = importlib.import_module("peers.page").write(json.loads(json.dumps(numbers)))
    assert "2.00 ms (2×)" not in page
    assert "| NumPy | 2 ms (2×) |" in page
    assert "| MLX, mx.fast.rope | not installed |" in page
    assert "abacus" in page
    assert "4,096 positions" in page
    assert "| the same, against peers that reach 0.8 of scaling | at least 1 | 1.00 | yes |" in page
    assert "| the same, `out=` | at least 5 | 1.00 | no |" in page
    assert "| first call, nothing on disk, seconds | at most 2 | 1.50 | yes |" in page
    assert "nan" not in page
    assert "None" not in page


def test_listing_contenders_imports_no_library():
    loaded = set(sys.modules)
    for module in importlib.import_module("peers.process").PEERS.values():
        if module != "with_rotary":
            importlib.import_module(f"peers.{module}")
    assert not {"onnxruntime"} & (set(sys.modules) - loaded)
