"""Compare netkit's default export with the plain export on ordinary networks, or measure the padding of convolutions.

    python scripts/bench/passes.py [--rounds N] [--networks NAME ...]
    python scripts/bench/passes.py --padding [--rounds N]

The networks are torchvision's families at small image sizes and residual blocks of 8 to 40 channels at 12 to 96 pixels,
with random weights. The plain export and netkit's file take turns in one thread; the table has the median of the ratios
of neighbouring turns, in the time that the thread has the CPU. Where no pass changes the graph, both are the same.
--padding measures both passes that pad on chains of four convolutions with ReLU. Prints a Markdown table.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from netkit.core.errors import NetkitError
from netkit.core.model_card import ModelCard, Origin
from netkit.core.version import VERSION
from netkit.export.convert import translate
from netkit.export.passes import FLOAT32, Pass, apply_and_list, apply_passes
from netkit.export.passes.explicit_padding import depthwise_padding, explicit_padding
from netkit.infer.runtime.providers import CPU
from netkit.nets.build import build

FAMILIES = (
    "alexnet vgg11 resnet18 resnext50_32x4d squeezenet1_1 densenet121 googlenet mobilenet_v2 mobilenet_v3_small "
    "mnasnet0_5 shufflenet_v2_x0_5 efficientnet_b0 resnet34 convnext_tiny swin_t"
).split()
FAMILY_SIDE = 64  # pixels
CHANNELS, SIDES = (8, 16, 24, 32, 40), (12, 24, 32, 48, 96)
WARM_UP_ROUNDS = 2
MAX_PIXELS = 2**15  # of the images in a batch
PADDINGS: tuple[tuple[Pass, int, tuple[int, ...]], ...] = (  # pass, kernel size, channels
    (explicit_padding, 9, (10, 20, 24, 40)),
    (depthwise_padding, 3, (16, 32, 48, 64)),
    (depthwise_padding, 5, (16, 32)),
)
PADDED_SIDES = (12, 18, 24)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, whose output is added to the input: (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return (x + y).relu()


class ResidualBlocks(nn.Module):
    """A 3x3 convolution, two residual blocks and a linear layer on the mean over all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, channels, 3, padding=1), nn.Linear(channels, 10)
        self.blocks = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))
        return logits


def networks() -> dict[str, tuple[Callable[[ModelCard], nn.Module], int]]:
    """Return a function that builds the network, and the side of the images, by name."""
    families = {name: (build, FAMILY_SIDE) for name in FAMILIES}
    blocks = {
        f"{channels} channels, {side} pixels": (lambda _, channels=channels: ResidualBlocks(channels), side)
        for channels in CHANNELS
        for side in SIDES
    }
    return {**families, **blocks}


def row(name: str, make: Callable[[ModelCard], nn.Module], side: int, rounds: int) -> str:
    origin = Origin("noise", "0" * 64, {}, 0, 0.0, VERSION, torch.__version__)
    labels = tuple(map(str, range(10)))
    card = ModelCard(f"torchvision/{name}", labels, 3, side, side, (0.5,) * 3, (0.25,) * 3, origin)
    torch.manual_seed(0)
    try:
        plain = translate(make(card).eval(), card)
    except NetkitError as exc:
        return f"| {name} | {side} | {exc} | |"
    rewritten, changed = apply_and_list(plain, FLOAT32)
    if not changed:
        return f"| {name} | {side} | none | same graph |"
    images_u8 = np.random.default_rng(0).integers(0, 256, (max(1, MAX_PIXELS // side**2), 3, side, side), np.uint8)
    return f"| {name} | {side} | {', '.join(changed)} | {ratio(plain, rewritten, images_u8, rounds):.2f} |"


def ratio(plain: onnx.ModelProto, rewritten: onnx.ModelProto, inputs: NDArray[np.generic], rounds: int) -> float:
    """The speed of `rewritten` relative to that of `plain`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        ort.InferenceSession(proto.SerializeToString(), options, providers=[CPU]) for proto in (plain, rewritten)
    ]
    times_s = np.empty((rounds, len(sessions)))
    for turn in range(-WARM_UP_ROUNDS, rounds):
        for index, session in enumerate(sessions):
            started = time.thread_time()
            session.run(None, {session.get_inputs()[0].name: inputs})
            times_s[max(turn, 0), index] = time.thread_time() - started
    return float(np.median(times_s[:, 0] / times_s[:, 1]))


def padding_rows(rounds: int) -> Iterator[str]:
    for graph_pass, kernel, all_channels in PADDINGS:
        for channels in all_channels:
            ratios = []
            for side in PADDED_SIDES:
                plain = chain(channels, side, kernel)
                count = max(1, MAX_PIXELS * 32 // (channels * side * kernel) ** 2 * kernel)
                inputs = np.random.default_rng(0).normal(size=(count, channels, side, side)).astype(np.float32)
                padded = apply_passes(plain, {"padding": graph_pass})
                ratios.append(f"{ratio(plain, padded, inputs, rounds):.2f}")
            yield f"| `{graph_pass.__name__}` | {kernel} | {channels} | {' | '.join(ratios)} |"


def chain(channels: int, side: int, kernel: int, depth: int = 4) -> onnx.ModelProto:
    """A ReLU, and then `depth` convolutions that keep the size of the map, each with a ReLU."""
    rng, pads = np.random.default_rng(0), [kernel // 2] * 4
    nodes = [helper.make_node("Relu", ["x"], ["v0"])]
    weights = []
    for index in range(depth):
        values = rng.normal(size=(channels, channels, kernel, kernel)) / (kernel * channels**0.5)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{index}"))
        nodes.append(helper.make_node("Conv", [f"v{index}", f"w{index}"], [f"c{index}"], pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"v{index + 1}" if index < depth - 1 else "y"]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", channels, side, side])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=51)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--networks", nargs="+", default=list(networks()), metavar="NAME")
    mode.add_argument("--padding", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ort.set_default_logger_severity(3)
    if arguments.padding:
        sides = " | ".join(f"{side} pixels" for side in PADDED_SIDES)
        print(f"| pass | kernel | channels | {sides} |", "|---" * (3 + len(PADDED_SIDES)) + "|", sep="\n", flush=True)
        for line in padding_rows(arguments.rounds):
            print(line, flush=True)
        return
    print("| network | image size | passes that change it | netkit / plain |", "|---" * 4 + "|", sep="\n", flush=True)
    for name in arguments.networks:
        print(row(name, *networks()[name], arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
