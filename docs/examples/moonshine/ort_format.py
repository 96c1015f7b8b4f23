"""Reads the weights out of an ONNX Runtime `.ort` file, so that NumPy can run the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime.tools.ort_format_model  # noqa: F401  (puts the next import on the path)
import ort_flatbuffers_py.fbs as schema

from moonshine import Array

# NumPy's names for the numbers of `onnx.TensorProto.DataType`.
ELEMENT_TYPES = {1: np.dtype("<f4"), 2: np.dtype("u1")}


class OrtFile:
    """The named tensors of an `.ort` file, and which of them each node reads."""

    def __init__(self, path: Path) -> None:
        root = schema.InferenceSession.InferenceSession
        graph = root.GetRootAsInferenceSession(path.read_bytes(), 0).Model().Graph()
        tensors = (graph.Initializers(i) for i in range(graph.InitializersLength()))
        nodes = (graph.Nodes(i) for i in range(graph.NodesLength()))
        self._tensors = {tensor.Name().decode(): tensor for tensor in tensors}
        self._inputs = {
            node.Name().decode(): [node.Inputs(i).decode() for i in range(node.InputsLength())]
            for node in nodes
        }

    def tensor(self, name: str) -> Array:
        """Return the stored tensor called `name`, whole numbers as float32 too."""
        tensor = self._tensors[name]
        shape = [tensor.Dims(i) for i in range(tensor.DimsLength())]
        values = tensor.RawDataAsNumpy().view(ELEMENT_TYPES[tensor.DataType()]).reshape(shape)
        return np.asarray(values, dtype=np.float32)

    def matrix(self, node: str) -> Array:
        """Return the weights of the matrix product called `node`, out of the 8 bits they lie in."""
        stored = [name for name in self._inputs[node] if name.endswith("_quantized")]
        prefix = next(name for name in stored if name in self._tensors).removesuffix("_quantized")
        quantized, zero_point, scale = (
            self.tensor(f"{prefix}_{part}") for part in ("quantized", "zero_point", "scale")
        )
        return scale * (quantized - zero_point)
