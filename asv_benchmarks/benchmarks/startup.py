"""The time of a new process until its first result. Each method returns code for a new interpreter."""

from __future__ import annotations

import textwrap
from pathlib import Path

PEERS = Path(__file__).parents[1] / "peers"

FIRST_CALL = """
import numpy as np

import rotary

rope = rotary.RotaryEmbedding(128, layout="half", base=10_000.0, seq_axis=-2)
rope(np.ones((1, 8, 64, 128), dtype=np.float32))
"""
LONG_CALL = FIRST_CALL.replace("64, 128", "1024, 128")
COLD = """
import os
import tempfile

with tempfile.TemporaryDirectory() as folder:
    os.environ["NUMBA_CACHE_DIR"] = folder
"""
# The least that a program with Numba takes: one function in the disk cache.
TRIVIAL = """
import numpy as np
from trivial import one

one()
"""


class Import:
    """The import of this library, and the import of its dependencies only."""

    rounds = 1
    repeat = 5

    def timeraw_rotary(self) -> str:
        return "import rotary"

    def timeraw_numpy(self) -> str:
        return "import numpy"

    def timeraw_numba(self) -> str:
        return "import numba"


class FirstCall:
    """Import and first call, with and without compiled kernels on disk."""

    rounds = 1
    repeat = 2
    timeout = 300

    def timeraw_warm(self) -> str:
        return FIRST_CALL

    def timeraw_trivial(self) -> str:
        return f"import sys; sys.path.insert(0, {str(PEERS)!r})\n{TRIVIAL}"

    def timeraw_cold(self) -> str:
        return COLD + textwrap.indent(FIRST_CALL, "    ")

    def timeraw_cold_of_1024_tokens(self) -> str:
        return COLD + textwrap.indent(LONG_CALL, "    ")

    timeraw_cold.warmup_time = 0  # type: ignore[attr-defined]  # asv reads it there
    timeraw_cold_of_1024_tokens.warmup_time = 0  # type: ignore[attr-defined]
