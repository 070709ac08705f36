"""Export torchvision classifiers and measure the error against PyTorch, the file size and the export time.

    python scripts/bench/export.py [NAME ...]

Each network has random weights, 10 classes and its usual input size; its batch norms take their statistics from one
batch of test images and synthetic inputs. The logit error is the largest difference of a logit from PyTorch in float64,
in the comparison of `netkit export` whose error is closest to its bound. If an export fails, its row has the error
message. Prints one Markdown table.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from netkit.core.errors import NetkitError
from netkit.core.model_card import ModelCard, Origin
from netkit.core.version import VERSION
from netkit.data.dataset import ArrayDataSet
from netkit.export import exporter
from netkit.export.parity.reference import synthetic_inputs
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels

NAMES = (
    "googlenet inception_v3 resnet18 resnet34 resnet50 densenet121 mobilenet_v3_small efficientnet_b0 convnext_tiny "
    "vit_b_16 swin_t"
).split()
IMAGE_SIZES = {"inception_v3": 299}  # pixels; all others: 224
IMAGES = 32
PATCHES = 8  # per side; the deep layers hardly distinguish images of plain noise
HEADER = """\
| network | image size | largest logit | largest logit error | bound | float32 PyTorch error | batch sizes | file size \
| export time |
|---|---|---|---|---|---|---|---|---|"""


def row(name: str, folder: Path) -> str:
    side = IMAGE_SIZES.get(name, 224)
    origin = Origin("noise", "0" * 64, {}, 0, 0.0, VERSION, torch.__version__)
    labels = tuple(map(str, range(10)))
    card = ModelCard(f"torchvision/{name}", labels, 3, side, side, (0.5,) * 3, (0.25,) * 3, origin)
    torch.manual_seed(0)
    net = build(card)
    images = _images(side)
    for parameter in net.parameters():  # an all-zero layer, such as the head of vit_b_16, makes all logits 0
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the running statistics become those of one batch
    batch = np.concatenate([images[:16], *synthetic_inputs(3, side, side, max_per_kind=8).values()])
    with torch.no_grad():  # without batch statistics the values grow or shrink from layer to layer
        FromPixels(net, card).train()(torch.from_numpy(batch))
    targets = np.arange(IMAGES) % 10
    data = ArrayDataSet("noise", "noise", "0" * 64, labels, images, targets, images, targets)
    path = folder / "model.onnx"
    started = time.monotonic()
    try:
        certificate = exporter.export(net.eval(), {"fp32": path}, card=card, data=data, max_drop=0)["fp32"]
    except NetkitError as exc:
        return f"| {name} | {side} | {exc} |"
    export_s = time.monotonic() - started
    worst = max(certificate.comparisons, key=lambda comparison: comparison.error / comparison.bound)
    with torch.no_grad():
        logits = FromPixels(net, card)(torch.from_numpy(images[:8]))
    return (
        f"| {name} | {side} | {logits.abs().max():.2g} "
        f"| {worst.error:.1e} | {worst.bound:.1e} | {worst.torch_error:.1e} "
        f"| {', '.join(map(str, certificate.batches))} | {path.stat().st_size / 1e6:.0f} MB | {export_s:.0f} s |"
    )


def _images(side: int) -> NDArray[np.uint8]:
    """Random color patches with noise: uint8 (IMAGES, 3, side, side)."""
    rng = np.random.default_rng(0)
    scale = -(-side // PATCHES)  # rounded up
    patches = rng.integers(32, 224, (IMAGES, 3, PATCHES, PATCHES))
    images = patches.repeat(scale, 2).repeat(scale, 3)[:, :, :side, :side]
    return (images + rng.integers(-32, 32, images.shape)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in parser.parse_args().names:
            print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
