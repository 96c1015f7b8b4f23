"""What does a new process pay before its first result? Each method gives code for a new interpreter."""

from __future__ import annotations

FIRST_CALL = """
import numpy as np

import rotary

rope = rotary.RotaryEmbedding(128, layout="{layout}", base=10_000.0, seq_axis=-2)
rope(np.ones((1, 8, 64, 128), dtype=np.{dtype}))
"""
COLD = """
import os
import tempfile

with tempfile.TemporaryDirectory() as folder:
    os.environ["NUMBA_CACHE_DIR"] = folder
    import numpy as np

    import rotary

    rope = rotary.RotaryEmbedding(128, layout="{layout}", base=10_000.0, seq_axis=-2)
    rope(np.ones((1, 8, 64, 128), dtype=np.{dtype}))
"""


class Import:
    """The import alone, beside the import of what it needs."""

    number = 1
    repeat = 5

    def timeraw_rotary(self) -> str:
        return "import rotary"

    def timeraw_numpy(self) -> str:
        return "import numpy"

    def timeraw_numba(self) -> str:
        return "import numba"


class FirstCall:
    """Import and first call, with compiled kernels on disk and without."""

    params = (["half", "interleaved"], ["float16", "float32"])
    param_names = ("layout", "dtype")
    number = 1
    repeat = 3
    timeout = 300

    def timeraw_warm(self, layout: str, dtype: str) -> str:
        return FIRST_CALL.format(layout=layout, dtype=dtype)

    def timeraw_cold(self, layout: str, dtype: str) -> str:
        return COLD.format(layout=layout, dtype=dtype)
