"""Affine layers collapsed into one: whatever they are, the model computes what it did; and what must not be, is not."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from netkit.export.passes.ir import Writer
from netkit.export.passes.linear_map import measured, parts
from netkit.export.passes.merge_linear import as_convolution, collapse
from netkit.nets.inception import InceptionA


def graph_of(net: nn.Module, *size: int) -> ir.Model:
    """What torch's exporter makes of a net on floats (N, *size)."""
    program = torch.onnx.export(
        net.eval(), (torch.zeros(2, *size),), dynamo=True, opset_version=20, input_names=["x"], output_names=["y"],
        dynamic_shapes=[{0: torch.export.Dim("batch")}], verbose=False,
    )  # fmt: skip
    assert program is not None
    return program.model


def answers(model: ir.Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    runtime = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = runtime.run(["y"], {"x": images})[0]
    return found


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def conv(ins: int, outs: int, size: int, padding: int = 0, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, size, padding=padding, stride=stride)


def big() -> nn.Module:
    """As in the inception net: branches, a concatenation, and a convolution of all, between two activations."""
    return nn.Sequential(nn.ReLU(), InceptionA(10), conv(88, 20, 5), nn.ReLU())


WHOLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "one convolution and what differs at the border": (big, (10, 12, 12), {"Conv", "MatMul"}),
    "oblong": (big, (10, 11, 14), {"Conv", "MatMul"}),
    "no border": (lambda: nn.Sequential(conv(4, 16, 1), conv(16, 4, 3)), (4, 9, 7), {"Conv"}),
    "a border of biases": (lambda: nn.Sequential(conv(4, 16, 1), conv(16, 4, 3, 1)), (4, 9, 7), {"Conv", "Add"}),
    "a product": (
        lambda: nn.Sequential(nn.ReLU(), InceptionA(3), nn.Flatten(), nn.Linear(88 * 12, 5)), (3, 4, 3), {"Gemm"},
    ),
    "pooled": (
        lambda: nn.Sequential(nn.AvgPool2d(2), conv(3, 8, 1), nn.Flatten(), nn.Linear(32, 2)), (3, 4, 4), {"Gemm"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
def test_it_computes_what_the_layers_did(case: str) -> None:
    make, size, wanted = WHOLE[case]
    torch.manual_seed(0)
    net = make()
    images = np.random.default_rng(0).normal(size=(5, *size)).astype(np.float32)
    truth = net.double()(torch.from_numpy(images).double()).detach().numpy()
    model = graph_of(net.float(), *size)
    before = np.abs(answers(model, images) - truth).max()
    collapse(model.graph)
    RemoveUnusedNodesPass()(model)
    assert wanted <= set(kinds(model)) and not {"Concat", "AveragePool"} & set(kinds(model))
    for batch in (5, 2, 1):
        after = np.abs(answers(model, images[:batch]) - truth[:batch]).max()
        assert after <= 2 * before + 1e-6 * np.abs(truth).max()


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: nn.Sequential(conv(4, 4, 3), nn.ReLU(), conv(4, 4, 3)), (4, 8, 8)),  # an activation between
        (lambda: nn.Sequential(conv(4, 2, 1), conv(2, 64, 3)), (4, 8, 8)),  # more work than before
        (lambda: nn.Sequential(conv(64, 64, 1), conv(64, 4, 3)), (64, 40, 40)),  # too large to be looked at
        (lambda: nn.Sequential(conv(4, 16, 1, stride=2), conv(16, 4, 3)), (4, 17, 17)),  # no convolution of stride 1
    ],
)
def test_other_layers_stay_as_they_are(make: Callable[[], nn.Module], size: tuple[int, ...]) -> None:
    model = graph_of(make(), *size)
    before = kinds(model)
    collapse(model.graph)
    assert kinds(model) == before


def test_layers_whose_values_others_use_stay() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = conv(4, 16, 1), conv(16, 4, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            middle = self.first(x)
            return torch.cat([self.second(middle).relu(), middle.relu()], dim=1)

    model = graph_of(Fork(), 4, 9, 7)
    assert list(parts(model.graph)) == []


def test_the_map_that_is_measured_is_the_layers_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(conv(2, 3, 3, 1), conv(3, 2, 3))
    (part,) = parts(graph_of(net, 2, 5, 4).graph)
    matrix, constant = measured(part)
    assert (matrix.shape, constant.shape) == ((2, 3, 2, 2, 5, 4), (2, 3, 2))
    image = np.random.default_rng(0).normal(size=(2, 5, 4))
    truth = net.double()(torch.from_numpy(image[None])).detach().numpy()[0]
    np.testing.assert_allclose(np.tensordot(matrix, image, axes=3) + constant, truth, atol=1e-12)
    assert part.weights == 2 * 3 * 9 + 3 + 3 * 2 * 9 + 2
    assert part.multiplications == 2 * 3 * 9 * 5 * 4 + 3 * 2 * 9 * 3 * 2


def test_a_map_that_is_no_convolution_is_none() -> None:
    assert as_convolution(np.zeros((2, 4, 4, 2, 4, 4))) is None
    turned = np.einsum("oc,hW,wH->ohwcHW", np.ones((2, 2)), np.eye(4), np.eye(4))
    found = as_convolution(turned)
    assert found is None or found.weights > turned.size / 4


def test_a_writer_lets_the_new_value_take_the_place_and_the_name() -> None:
    model = graph_of(nn.Sequential(nn.ReLU(), nn.Sigmoid()), 3)
    first, last = model.graph
    writer = Writer(model.graph, last.outputs[0])
    writer.end_with(writer.op("Add", first.outputs[0], writer.weights(np.ones(3))))
    assert model.graph.outputs[0].name == "y" and kinds(model)[:2] == ["Relu", "Add"]
    found = answers(model, np.array([[-1, 0, 2]], np.float32))
    assert found.tolist() == [[1, 1, 3]]
