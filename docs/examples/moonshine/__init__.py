"""Moonshine tiny, a real speech model, taken apart: what the example `speech.py` runs.

`encoder` is the model's encoder step by step in NumPy, `runtime` the same encoder and the decoder
in ONNX Runtime, `audio` the recordings, `ort_format` the reader of the weights. All data come from
the wheel `moonshine-voice`; its own compiled library is never loaded.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
SAMPLE_RATE = 16_000  # the model's own
WHEEL = "moonshine-voice"


def wheel_file(name: str) -> Path:
    """Where the installed wheel keeps the file called `name`."""
    for file in metadata.files(WHEEL) or []:
        if file.name == name:
            return Path(str(file.locate()))
    msg = f"the installed {WHEEL} has no file {name!r}; the last version with weights is 0.0.49"
    raise FileNotFoundError(msg)
