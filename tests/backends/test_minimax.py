"""The polynomials of the kernels are those that docs/derivations/minimax.py derives and proves."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mpmath as mp
import numpy as np
import pytest

from rotary.angles import phases
from rotary.backends.cpu import kernels

PROGRAM = Path(__file__).parents[2] / "docs" / "derivations" / "minimax.py"
CONSTANTS = ("SIN32", "COS32", "SIN64_HIGH", "SIN64", "COS64")


@pytest.fixture(scope="module")
def minimax() -> Iterator[ModuleType]:
    specification = importlib.util.spec_from_file_location("minimax_program", PROGRAM)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look up their module
    specification.loader.exec_module(module)
    with mp.workdps(module.DIGITS):
        yield module
    del sys.modules[specification.name]


@pytest.mark.parametrize("name", CONSTANTS)
def test_kernels_use_the_proven_constants(minimax: ModuleType, name: str) -> None:
    assert getattr(kernels, name) == getattr(minimax, name)


def test_the_program_reproduces_its_constants(minimax: ModuleType) -> None:
    derived = minimax.derive()
    assert tuple(derived) == CONSTANTS
    assert derived == {name: getattr(minimax, name) for name in CONSTANTS}


def test_printed_constants_are_exact(minimax: ModuleType) -> None:
    namespace: dict[str, object] = {}
    constants = {name: getattr(minimax, name) for name in CONSTANTS}
    exec(minimax.constants_text(constants), namespace)  # noqa: S102  (the program's own text)
    assert {name: namespace[name] for name in CONSTANTS} == constants


def test_proven_bounds_keep_the_promise(minimax: ModuleType) -> None:
    bounds = minimax.prove()
    for name in ("cos32", "sin32"):
        assert bounds[name].ulp < bounds[name].with_factor < 0.5001
    assert bounds["cos64"].ulp < 0.81
    assert bounds["sin64"].ulp < 0.92
    assert bounds["cos64"].with_factor < 1.65
    assert bounds["sin64"].with_factor < 1.98
    assert minimax.tiny_error() < 2.0**-112


@pytest.mark.parametrize(
    ("bits", "factor", "most"), [(24, 1.27, 0.5001), (53, 1.0, 0.92), (53, 1.27, 1.98)]
)
def test_samples_stay_within_the_bounds(
    minimax: ModuleType, bits: int, factor: float, most: float
) -> None:
    pairs = minimax.random_pairs(1500) + minimax.pairs_near_zeros()[::2]
    assert minimax.worst_error(pairs, bits, factor) < most


@pytest.mark.parametrize("count", [3, 40])
def test_bounds_hold_for_a_worse_polynomial(minimax: ModuleType, count: int) -> None:
    """The bound of the approximation error is neither below that on a dense grid nor far above it."""
    coefficients = minimax.SIN32[:3]
    bound = minimax.approximation_error(coefficients, 1)
    grid = [mp.mpf(minimax.SQUARE_MAX) * k / count for k in range(count + 1)]
    found = max(abs(mp.polyval(coefficients[::-1], z) / minimax.sine_over_x(z) - 1) for z in grid)
    assert found <= bound < 1.05 * found


def test_tracked_intervals_bound_random_evaluations(minimax: ModuleType) -> None:
    """Random evaluations stay inside the intervals and error bounds of the proof."""
    rng = np.random.default_rng(1)
    for x0 in 0.125 * rng.random(50):
        x1 = min(0.125, x0 * 1.01)
        x = rng.uniform(x0, x1)
        head, tail = minimax.phase64(x0, x1)
        s = minimax.tracked(53, 1)(x0, x1)
        r, lo = np.int64(round(x * 2**64)), np.int64(0)
        _, computed = minimax.cos_sin_float64(r, lo)
        polynomial = [mp.mpf(minimax.SIN64_HIGH) + minimax.SIN64[0], *minimax.SIN64[1:]]
        exact_x = mp.mpf(int(r)) / 2**64
        exact = exact_x * mp.polyval(polynomial[::-1], exact_x**2)
        assert head.low <= x <= head.high
        assert tail.error < 2.0**-80
        assert s.low <= computed <= s.high
        assert abs(mp.mpf(float(computed)) - exact) <= s.error


def test_half_ulp(minimax: ModuleType) -> None:
    assert minimax.half_ulp(1.5) == math.ulp(1.5) / 2
    assert minimax.half_ulp(1.0) == math.ulp(0.75) / 2  # nothing above 1 is rounded
    assert minimax.half_ulp(0.75, 24) == np.spacing(np.float32(0.75)) / 2
    assert minimax.half_ulp(0.0) == 0


def phases_for_bits() -> tuple[np.ndarray, np.ndarray]:
    """Return phases in all quadrants, next to all boundaries, and with remainders of all magnitudes."""
    rng = np.random.default_rng(7)
    high = rng.integers(0, 2**64, 4000, np.uint64) >> rng.integers(0, 64, 4000).astype(np.uint64)
    high = np.concatenate([high, ~high])
    high += rng.integers(0, 8, high.size).astype(np.uint64) << np.uint64(61)
    edges = np.array([0, 1, 2**64 - 1, 2**61, 2**61 - 1, 2**62, 2**63, 3 * 2**61 - 1], np.uint64)
    high = np.concatenate([high, edges])
    return high, rng.integers(0, 2**64, high.size, np.uint64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1.0, 1.27])
def test_kernels_have_the_proven_bits(
    minimax: ModuleType, dtype: type[np.float32 | np.float64], factor: float
) -> None:
    high, low = phases_for_bits()
    wanted = [(int(h) << 64) | int(w) for h, w in zip(high, low, strict=True)]
    expected = minimax.tables(wanted, np.finfo(dtype).nmant + 1, factor)
    plain = [(part * factor).astype(dtype) for part in kernels.cos_sin(high, low, dtype)]
    np.testing.assert_array_equal(plain, expected)
    if kernels.COMPILED:
        np.testing.assert_array_equal(compiled(high, low, factor, dtype), expected)


def compiled(high: Any, low: Any, factor: float, dtype: Any) -> Any:
    """Return cosine and sine of phases by the kernel: at position 1, phases are the fractions of its frequencies."""
    from rotary.backends.cpu import jit

    limbs = np.zeros((1, 1, phases.LIMBS, high.size), np.uint32)
    for place, word in enumerate((low, high)):
        limbs[0, 0, 4 + 2 * place : 6 + 2 * place] = word & np.uint64(0xFFFFFFFF), word >> 32
    none = np.zeros((1, 1), np.uint64)
    multiplier = np.array([[[1, 0, 0]]], np.uint64), none.view(np.int64), none
    table = np.empty((2, 1, 1, high.size), dtype)
    kernel = jit.compiled(jit.Variant("table", table.dtype.name))
    positive = np.zeros((1, 1, high.size), np.uint64)
    kernel(limbs, positive, *multiplier, factor, table, 0, 1, 0)
    return table[:, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_phase_of_zero_is_exact(
    minimax: ModuleType, dtype: type[np.float32 | np.float64]
) -> None:
    c, s = minimax.tables([0, 1 << 126, 2 << 126, 3 << 126], np.finfo(dtype).nmant + 1, 1.0)
    assert c.dtype == dtype
    assert c.tolist() == [1, 0, -1, 0]
    assert s.tolist() == [0, 1, 0, -1]
