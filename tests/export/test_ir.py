"""The Writer of the graph passes replaces values by new nodes."""

import numpy as np
import onnx_ir as ir
from torch import nn

from netkit.export.passes.ir import Writer
from tests.support.graphs import export_floats, op_types, run_model


def test_new_value_replaces_the_old_value_under_its_name() -> None:
    model = ir.from_proto(export_floats(nn.Sequential(nn.ReLU(), nn.Sigmoid()), 3))
    first, last = model.graph
    writer = Writer(model.graph, last.outputs[0])
    writer.replace_with(writer.op("Add", first.outputs[0], writer.weights(np.ones(3))))
    assert model.graph.outputs[0].name == "y" and op_types(model)[:2] == ["Relu", "Add"]
    assert run_model(model, np.array([[-1, 0, 2]], np.float32)).tolist() == [[1, 1, 3]]


def test_two_writers_for_one_value_use_different_initializer_names() -> None:
    model = ir.from_proto(export_floats(nn.Sequential(nn.ReLU(), nn.Sigmoid()), 3))
    for _ in range(2):
        value = model.graph.outputs[0]
        writer = Writer(model.graph, value)
        writer.replace_with(writer.op("Add", model.graph.node(0).outputs[0], writer.weights(np.ones(3))))
    assert len(model.graph.initializers) == 2
