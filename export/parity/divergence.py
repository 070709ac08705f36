"""Divergence: the first module whose output differs between PyTorch and the exported graph."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netkit.core.model_card import ModelCard
from netkit.export.capture import SCOPES_KEY
from netkit.export.convert import Classifier, translate
from netkit.export.parity.reference import Floats, error_bound, max_abs
from netkit.infer.model.onnx_file import INPUT
from netkit.infer.runtime.ort import ort
from netkit.infer.runtime.providers import CPU, CUDA
from netkit.infer.runtime.session import CUDA_OPTIONS
from netkit.nets.normalize import FromPixels


@dataclass(frozen=True)
class Divergence:
    """A module whose output differs, and the ONNX node that computes this output as `value`.

    `expected` is the (minimum, maximum) of PyTorch's output, `actual` that of the graph's; `error` is the largest
    absolute difference.
    """

    module: str
    node: str
    operator: str
    value: str
    expected: tuple[float, float]
    actual: tuple[float, float]
    error: float

    def __str__(self) -> str:
        return (
            f"the first difference is in module {self.module!r} (ONNX node {self.node!r}, {self.operator}, output "
            f"{self.value!r}): largest absolute error {self.error:.2g}, values {self.expected[0]:.4g} to "
            f"{self.expected[1]:.4g} in PyTorch and {self.actual[0]:.4g} to {self.actual[1]:.4g} in ONNX"
        )


def first_divergence(
    net: nn.Module,
    card: ModelCard,
    images_u8: NDArray[np.uint8],
    *,
    opset: int,
    provider: str = CPU,
    optimised: bool = False,
) -> Divergence | None:
    """Find the first module whose output on images (N, C, H, W) differs, in the order in which the modules finish.

    Runs the graph before the passes on `provider`, with ONNX Runtime's optimizations if `optimised`, except those that
    would remove a module's output. Returns None if each output is within the bound of the parity check.
    """
    proto = translate(net, card, opset=opset)
    nodes = _output_nodes(proto)
    values = _run(proto, sorted({node.output[0] for node in nodes.values()}), images_u8, provider, optimised)
    exact, float32 = (_module_outputs(net, card, images_u8, dtype) for dtype in (torch.float64, torch.float32))
    for (module, expected), (_, rounded) in zip(exact, float32, strict=True):
        node = nodes.get(module)
        if node is None or values[node.output[0]].shape != expected.shape:
            continue
        actual = values[node.output[0]]
        error = max_abs(actual - expected)
        if not error <= error_bound(max_abs(rounded - expected), expected):  # also true for a NaN error
            name = module.removeprefix("model.net.")
            return Divergence(name, node.name, node.op_type, node.output[0], _range(expected), _range(actual), error)
    return None


def _output_nodes(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Map each module to its last node, which computes its output; modules that the exporter removed are missing."""
    last: dict[str, onnx.NodeProto] = {}
    for node in proto.graph.node:
        for entry in node.metadata_props:
            if entry.key == SCOPES_KEY:
                *modules, _ = ast.literal_eval(entry.value)
                last.update(dict.fromkeys(modules, node))
    return last


def _run(
    proto: onnx.ModelProto, names: list[str], images_u8: NDArray[np.uint8], provider: str, optimised: bool
) -> dict[str, Floats]:
    """Run the graph with the values `names` as additional outputs, and return them by name."""
    existing = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in existing)
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    providers = [(CUDA, CUDA_OPTIONS) if provider == CUDA else provider]
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=providers)
    return dict(zip(names, session.run(names, {INPUT: images_u8}), strict=True))


@torch.no_grad()
def _module_outputs(
    net: nn.Module, card: ModelCard, images_u8: NDArray[np.uint8], dtype: torch.dtype
) -> Iterator[tuple[str, Floats]]:
    """Yield each module's path and output, in the order in which the modules finish."""
    classifier = Classifier(FromPixels(copy.deepcopy(net), card)).to(dtype).eval()
    outputs: list[tuple[str, Floats]] = []
    for name, module in classifier.named_modules():

        def record(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor):
                outputs.append((name, output.numpy().copy()))  # the next module may modify it in place

        module.register_forward_hook(record)
    classifier(torch.from_numpy(images_u8.copy()))
    return iter(outputs)


def _range(values: Floats) -> tuple[float, float]:
    return float(values.min()), float(values.max())
