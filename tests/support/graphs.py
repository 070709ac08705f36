"""ONNX graphs for tests of the graph passes."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn


def export_floats(net: nn.Module, *shape: int) -> onnx.ModelProto:
    """Export a network with torch's exporter: float input "x" (N, *shape), output "y", dynamic N."""
    program = torch.onnx.export(
        net.eval(), (torch.zeros(2, *shape),), dynamo=True, opset_version=20, input_names=["x"], output_names=["y"],
        dynamic_shapes=[{0: torch.export.Dim("batch")}], verbose=False,
    )  # fmt: skip
    assert program is not None
    return program.model_proto


def run_model(model: ir.Model | onnx.ModelProto, inputs: NDArray[Any]) -> NDArray[Any]:
    """Check the model, run it in ONNX Runtime and return its first output."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    onnx.checker.check_model(proto)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])


def op_types(model: ir.Model) -> list[str]:
    """Return the operators of the graph in order."""
    return [node.op_type for node in model.graph]
