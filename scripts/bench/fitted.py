"""Synthetic images of several classes, and networks with random weights that tell them apart; for `networks.py`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netkit.core.model_card import ModelCard
from netkit.export.parity.reference import synthetic_inputs
from netkit.nets.normalize import FromPixels

PATCHES = 8  # per side; the deep layers hardly distinguish images of plain noise
RIDGE = 0.1  # of the least squares, relative to the mean square of the features
LOGITS = 10.0  # of the right class


def class_images(side: int, count: int, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images uint8 (count, 3, side, side) of patches with colors by class and by image, and their classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    patches = (rng.integers(0, 256, (classes, 3, PATCHES, PATCHES)))[labels]
    patches = (patches + rng.integers(0, 256, patches.shape)) // 2
    scale = -(-side // PATCHES)  # rounded up
    images = patches.repeat(scale, 2).repeat(scale, 3)[:, :, :side, :side]
    return np.clip(images + rng.integers(-16, 17, images.shape), 0, 255).astype(np.uint8), labels


def fit(net: nn.Module, card: ModelCard, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Give `net` batch norm statistics and a last layer that fit the images and labels."""
    _set_statistics(net, card, images)
    _fit_last_layer(net, card, images, labels)


@torch.no_grad()
def _set_statistics(net: nn.Module, card: ModelCard, images: NDArray[np.uint8]) -> None:
    """Set the batch norm statistics; without them, the activations grow or shrink from layer to layer."""
    for parameter in net.parameters():  # an all-zero layer, such as the head of vit_b_32, makes all logits 0
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # the running statistics become those of one batch
    batch = np.concatenate([images[:16], *synthetic_inputs(3, card.height, card.width, max_per_kind=8).values()])
    FromPixels(net, card).train()(torch.from_numpy(batch))


@torch.no_grad()
def _fit_last_layer(net: nn.Module, card: ModelCard, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Fit the last layer, if it is linear, to the labels by least squares; the logits then tell the classes apart."""
    calls: list[tuple[nn.Linear, Tensor]] = []
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(lambda layer, args, _: calls.append((layer, args[0]))) for module in linear]
    FromPixels(net, card).eval()(torch.from_numpy(images))
    for hook in hooks:
        hook.remove()
    classes = len(card.labels)
    layer, features = calls[-1] if calls else (None, torch.empty(0))
    if layer is None or layer.out_features != classes or features.shape != (len(images), layer.in_features):
        return
    targets = LOGITS * nn.functional.one_hot(torch.from_numpy(labels), classes).double()
    centered = features.double() - features.double().mean(0)
    kernel = centered @ centered.t()
    kernel += RIDGE * kernel.trace() / len(kernel) * torch.eye(len(kernel), dtype=torch.float64)
    weight = (centered.t() @ torch.linalg.solve(kernel, targets - targets.mean(0))).t()  # (classes, features)
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(targets.mean(0) - weight @ features.double().mean(0))
