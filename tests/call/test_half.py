"""16-bit numbers are widened and rounded as NumPy does it, with and without the instructions of the processor."""

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import rotary

FACTORS = [1.0, 0.3337, 1.7, 2.0**-12]
# Pairs of a row: separate code rotates one pair, eight pairs and a whole cache line.
LANES = [1, 8, 64]


def scaled(dtype, factor, pairs):
    """Return all numbers of a 16-bit dtype, each paired with zero, times a factor: by the library and by NumPy."""
    numbers = np.arange(2**16, dtype=np.uint16).view(dtype).reshape(-1, pairs)
    x = np.concatenate([numbers, np.zeros_like(numbers)], axis=-1)
    schedule = rotary.scaling.Custom([0.0] * pairs, attention_factor=factor)
    rope = rotary.RotaryEmbedding(2 * pairs, layout="half", scaling=schedule)
    with np.errstate(all="ignore"):
        expected = numbers.astype(np.float32) * np.float32(factor)
        # The other channel of the pair adds zero, except that infinity times a sine of zero is NaN.
        expected = expected.astype(dtype)
        return rope(x)[:, :pairs], expected


def assert_same_numbers(got, expected):
    bits, wanted = got.view(np.uint16), expected.view(np.uint16)
    nan = np.isnan(expected.astype(np.float32))
    zero = (
        expected.astype(np.float32) == 0
    )  # a sum with the other channel may change the sign of zero
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), nan)
    np.testing.assert_array_equal(bits[~nan & ~zero], wanted[~nan & ~zero])
    assert not (bits[zero] & 0x7FFF).any()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("pairs", LANES)
def test_rounding_equals_that_of_numpy_for_all_numbers(dtype, factor, pairs):
    assert_same_numbers(*scaled(dtype, factor, pairs))


@pytest.mark.compiled
def test_a_processor_without_float16_gives_the_same_bits(tmp_path):
    # LLVM would abort the process at a conversion that the processor lacks.
    here = str(Path(__file__).parent)
    script = (
        f"import sys; sys.path.insert(0, {here!r}); import numpy as np, test_half\n"
        "for factor in test_half.FACTORS:\n"
        "    for pairs in test_half.LANES:\n"
        "        test_half.assert_same_numbers(*test_half.scaled(np.float16, factor, pairs))\n"
        "from rotary.backends.cpu import kernels; assert not kernels.HALF_IN_HARDWARE\n"
    )
    target = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    run = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=os.environ | target,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("pairs", LANES)
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001])
def test_a_nan_in_a_table_gives_nan(dtype, pairs, bits):
    """Rounding the bits of NaN as a number would overflow into the exponent, or give infinity."""
    cos = np.full((1, pairs), np.uint32(bits).view(np.float32))
    x = np.ones((1, 2 * pairs), dtype)
    for layout in ("half", "interleaved"):
        for sin in (np.zeros_like(cos), cos):
            with np.errstate(invalid="ignore"):  # without Numba, NumPy warns of signaling NaN
                found = rotary.apply_rotary(x, cos, sin, layout=layout, seq_axis=0)
            assert np.isnan(found.astype(np.float32)).all()
