"""torchvision's classifiers, exported: how far each file is from PyTorch, how large it is, and how long that takes.

    python scripts/bench/export.py [NAME ...]

Each has random weights and 10 classes, at its own input size; batch norms have seen one batch, of images of all kinds
that are compared. The whole gate is passed: the error is the largest of all logits against PyTorch in float64, over
images, synthetic ones, and batches of several sizes, with ONNX Runtime's optimisations and without. A net that cannot
pass has the reason in its row. Prints one Markdown table.
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
SIZES = {"inception_v3": 299}  # pixels; all others take 224
IMAGES = 32
COARSE = 8  # patches of colour across an image: noise alone gives deep layers the same in every image
HEADER = """\
| net | size | largest logit | largest error | bound | PyTorch's own | batches | file | export |
|---|---|---|---|---|---|---|---|---|"""


def row(name: str, folder: Path) -> str:
    side = SIZES.get(name, 224)
    origin = Origin("noise", "0" * 64, {}, 0, 0.0, VERSION, torch.__version__)
    labels = tuple(map(str, range(10)))
    card = ModelCard(f"torchvision/{name}", labels, 3, side, side, (0.5,) * 3, (0.25,) * 3, origin)
    torch.manual_seed(0)
    net = build(card)
    images = _images(side)
    for parameter in net.parameters():  # such as vit's last layer
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch gives all that it knows
    seen = np.concatenate([images[:16], *synthetic_inputs(3, side, side, most=8).values()])
    with torch.no_grad():  # else values become smaller, or larger, from layer to layer
        FromPixels(net, card).train()(torch.from_numpy(seen))
    answers = np.arange(IMAGES) % 10
    data = ArrayDataSet("noise", "noise", "0" * 64, labels, images, answers, images, answers)
    path = folder / "model.onnx"
    started = time.monotonic()
    try:
        certificate = exporter.export(net.eval(), {"fp32": path}, card=card, data=data, max_drop=0)["fp32"]
    except NetkitError as fault:
        return f"| {name} | {side} | {fault} |"
    seconds = time.monotonic() - started
    worst = max(certificate.comparisons, key=lambda each: each.error / each.bound)
    with torch.no_grad():
        logits = FromPixels(net, card)(torch.from_numpy(images[:8]))
    return (
        f"| {name} | {side} | {logits.abs().max():.2g} "
        f"| {worst.error:.1e} | {worst.bound:.1e} | {worst.torch_error:.1e} "
        f"| {', '.join(map(str, certificate.batches))} | {path.stat().st_size / 1e6:.0f} MB | {seconds:.0f} s |"
    )


def _images(side: int) -> NDArray[np.uint8]:
    """Patches of colour with noise on them: uint8 (IMAGES, 3, side, side)."""
    random = np.random.default_rng(0)
    patches = random.integers(32, 224, (IMAGES, 3, COARSE, COARSE)).repeat(-(-side // COARSE), 2)
    whole = patches.repeat(-(-side // COARSE), 3)[:, :, :side, :side]
    return (whole + random.integers(-32, 32, whole.shape)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in parser.parse_args().names:
            print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
