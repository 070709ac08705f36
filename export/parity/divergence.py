"""Divergence: where a converted net first computes something else than the net, for a person who has to mend it."""

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
from netkit.export.convert import Classifier, translate
from netkit.infer.model.onnx_file import INPUT
from netkit.infer.runtime.ort import ort
from netkit.infer.runtime.providers import CPU, CUDA
from netkit.infer.runtime.session import CUDA_OPTIONS
from netkit.nets.normalize import FromPixels

SCOPES = "pkg.torch.onnx.name_scopes"  # torch's note on a node: the modules that it lies in, outermost first, as a list

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Divergence:
    """The first module, in the order of computation, whose output differs; and the ONNX node that gives that output."""

    module: str
    node: str
    operator: str
    value: str
    wanted: tuple[float, float]
    found: tuple[float, float]
    error: float

    def __str__(self) -> str:
        return (
            f"they part in module {self.module!r} (ONNX node {self.node!r}, {self.operator}, which gives "
            f"{self.value!r}): outputs differ by up to {self.error:.2g}; PyTorch's lies from {self.wanted[0]:.4g} to "
            f"{self.wanted[1]:.4g}, the model's from {self.found[0]:.4g} to {self.found[1]:.4g}"
        )


def first_divergence(
    net: nn.Module,
    card: ModelCard,
    inputs: NDArray[np.uint8],
    *,
    opset: int,
    provider: str = CPU,
    optimised: bool = False,
) -> Divergence | None:
    """Compare the outputs of all modules on `inputs` (N, C, H, W), with ONNX Runtime on `provider`.

    `optimised`: whether it may rewrite the graph, as far as it can while each module's output has to stay. None where
    each is as near as float32 allows.
    """
    proto = translate(net, card, opset=opset)
    nodes = _outputs_of_modules(proto)
    values = _run(proto, sorted({node.output[0] for node in nodes.values()}), inputs, provider, optimised)
    exact, rough = (_module_outputs(net, card, inputs, dtype) for dtype in (torch.float64, torch.float32))
    for (module, wanted), (_, nearly) in zip(exact, rough, strict=True):
        node = nodes.get(module)
        if node is None or values[node.output[0]].shape != wanted.shape:
            continue
        found = values[node.output[0]]
        allowed = 2 * _largest(nearly - wanted) + 1e-6 * max(1.0, _largest(wanted))
        error = _largest(found - wanted)
        if not error <= allowed:
            name = module.removeprefix("model.net.")
            return Divergence(name, node.name, node.op_type, node.output[0], _range(wanted), _range(found), error)
    return None


def _outputs_of_modules(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The last node in each module, which gives its output. Modules that were merged into others are not there."""
    last: dict[str, onnx.NodeProto] = {}
    for node in proto.graph.node:
        for entry in node.metadata_props:
            if entry.key == SCOPES:
                *modules, _ = ast.literal_eval(entry.value)
                last.update(dict.fromkeys(modules, node))
    return last


def _run(
    proto: onnx.ModelProto, names: list[str], inputs: NDArray[np.uint8], provider: str, optimised: bool
) -> dict[str, Floats]:
    """The values of that name, each made an output of the graph."""
    given = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    chosen = (CUDA, CUDA_OPTIONS) if provider == CUDA else provider
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=[chosen])
    return dict(zip(names, session.run(names, {INPUT: inputs}), strict=True))


@torch.no_grad()
def _module_outputs(
    net: nn.Module, card: ModelCard, inputs: NDArray[np.uint8], dtype: torch.dtype
) -> Iterator[tuple[str, Floats]]:
    """Each module's path and output, in the order in which they end."""
    classifier = Classifier(FromPixels(copy.deepcopy(net), card)).to(dtype).eval()
    outputs: list[tuple[str, Floats]] = []
    for name, module in classifier.named_modules():

        def note(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor):
                outputs.append((name, output.numpy().copy()))  # the next module may compute in place

        module.register_forward_hook(note)
    classifier(torch.from_numpy(inputs.copy()))
    return iter(outputs)


def _largest(values: Floats) -> float:
    return float(np.abs(values).max())


def _range(values: Floats) -> tuple[float, float]:
    return float(values.min()), float(values.max())
