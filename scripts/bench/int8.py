"""Measure the size and the speed of int8 models, relative to float32.

    python scripts/bench/int8.py [NAME ...]
    python scripts/bench/int8.py --matrices

The networks have random weights. By default, the table compares int8 convolutions only with int8 convolutions and
matrices, as `netkit export --precision int8` writes them. --matrices measures chains of six linear layers, each with
an activation, on inputs of one or several rows; all matrices of any size are in int8. The models are measured in turns
on one core. Prints a Markdown table.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from netkit.core.model_card import ModelCard, Origin
from netkit.core.version import VERSION
from netkit.export import quantize
from netkit.export.convert import serialize, translate
from netkit.export.passes import FLOAT32, apply_passes
from netkit.infer.model import onnx_file
from netkit.infer.runtime.bench import interleaved_speeds
from netkit.infer.runtime.session import open_session
from netkit.nets.build import build

IMAGES = 16  # for calibration
MATRICES = [(rows, width) for rows in (1, 49) for width in (16, 32, 64, 128, 512)]  # rows, and width of the matrix


class Transformer(nn.Module):
    """A vision transformer: (N, C, H, W) -> (N, 10), with patches of 4x4 pixels and 4 heads."""

    def __init__(self, card: ModelCard, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(card.channels, width, 4, 4)
        layers = (nn.TransformerEncoderLayer(width, 4, 4 * width, 0, F.gelu, 1e-5, True, True) for _ in range(depth))
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # (N, patches, width)
        logits: Tensor = self.head(self.layers(x).mean(1))
        return logits


class Rows(nn.Module):
    """Six linear layers of one width on each row of an image (N, 1, rows, width)."""

    def __init__(self, rows: int, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.rows, self.head = rows, nn.Linear(width, 10)
        self.layers = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(width, width), activation())))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x.flatten(1) if self.rows == 1 else x[:, 0])
        logits: Tensor = self.head(x if self.rows == 1 else x.mean(1))
        return logits


def perceptron(width: int, card: ModelCard) -> nn.Module:
    inputs = card.channels * card.height * card.width
    layers = [
        nn.Flatten(),
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    ]
    return nn.Sequential(*layers)


def convolutions_and_large_linear(card: ModelCard) -> nn.Module:
    convolutions = [
        nn.Conv2d(card.channels, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
    ]
    return nn.Sequential(*convolutions, nn.Linear(1568, 1024), nn.ReLU(), nn.Linear(1024, 10))


def networks() -> dict[str, tuple[tuple[int, int], Callable[[ModelCard], nn.Module]]]:
    """Return the channels and side of the images, and a function that builds the network, by name."""
    families = {"resnet18": 64, "mobilenet_v2": 64, "convnext_tiny": 64, "alexnet": 224, "swin_t": 224, "vit_b_16": 224}
    return {
        **{name: ((1, 28), build) for name in ("inception", "residual", "preact", "densenet")},
        **{f"MLP, width {width}": ((1, 28), partial(perceptron, width)) for width in (64, 128, 512)},
        "2 convolutions, 1568x1024 linear": ((1, 28), convolutions_and_large_linear),
        **{
            f"transformer, width {width}": ((3, 32), partial(Transformer, width=width, depth=4))
            for width in (32, 64, 192)
        },
        **{f"torchvision/{name}": ((3, side), build) for name, side in families.items()},
    }


def new_card(arch: str, channels: int, height: int, width: int) -> ModelCard:
    origin = Origin("noise", "0" * 64, {}, 0, 0.0, VERSION, torch.__version__)
    labels, statistics = tuple(map(str, range(10))), ((0.5,) * channels, (0.25,) * channels)
    return ModelCard(arch, labels, channels, height, width, *statistics, origin)


def ratios(net: nn.Module, card: ModelCard, *, matrices: tuple[bool, ...]) -> list[tuple[float, float]]:
    """The size and the speed of int8 models relative to float32, without and with int8 matrices."""
    exported, images_u8 = translate(net.eval(), card), noise(card)
    contents = [serialize(apply_passes(exported, FLOAT32), card)]
    contents += [quantize.quantize(exported, card, images_u8, matrices=choice) for choice in matrices]
    models = [onnx_file.check(content, card.arch) for content in contents]
    speeds = interleaved_speeds([open_session(model, device="cpu", threads=1) for model in models])
    return [(len(c) / len(contents[0]), s / speeds[0]) for c, s in zip(contents[1:], speeds[1:], strict=True)]


def noise(card: ModelCard) -> NDArray[np.uint8]:
    shape = IMAGES, card.channels, card.height, card.width
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def matrix_rows() -> Iterator[str]:
    quantize.MIN_INT8_WEIGHTS = 0
    yield "| rows | matrix | size | speed, ReLU | speed, GELU |\n|---|---|---|---|---|"
    for rows, width in MATRICES:
        card = new_card("rows", 1, rows, width)
        (size, relu), (_, gelu) = (
            ratios(Rows(rows, width, activation), card, matrices=(True,))[0] for activation in (nn.ReLU, nn.GELU)
        )
        yield f"| {rows} | {width}x{width} | {size:.2f} | {relu:.2f} | {gelu:.2f} |"


def network_rows(names: list[str]) -> Iterator[str]:
    yield (
        "| network | image size | size, only convolutions in int8 | speed | size, also matrices in int8 | speed |\n"
        "|---|---|---|---|---|---|"
    )
    for name in names:
        (channels, side), make = networks()[name]
        card = new_card(name, channels, side, side)
        torch.manual_seed(0)
        figures = (f"{size:.2f} | {speed:.2f}" for size, speed in ratios(make(card), card, matrices=(False, True)))
        yield f"| {name} | {side} | {' | '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(networks()), metavar="NAME")
    parser.add_argument("--matrices", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for line in matrix_rows() if arguments.matrices else network_rows(arguments.names):
        print(line, flush=True)


if __name__ == "__main__":
    main()
