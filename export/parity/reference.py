"""Reference: what PyTorch computes in float64, on test images and on synthetic images, and PyTorch's float32 error.

An exported model may have twice the error that PyTorch has in float32; `error_bound` gives the limit.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from netkit.core.model_card import ModelCard
from netkit.core.system import usable_cores
from netkit.data.lazy import Images
from netkit.nets.normalize import FromPixels
from netkit.nets.summary import multiply_adds

MAX_MULTIPLY_ADDS = 2.2e11  # of one forward pass over one kind of images; enough for MNIST's test images in densenet
MIN_IMAGES = 32  # of one kind, whatever they cost
MAX_BATCHED_IMAGES = 999  # test images for other batch sizes; all sizes except 3 leave a smaller last batch
NOISE_IMAGES = 256
MAX_POINT_IMAGES = 1024  # one for each position, if there are no more positions
TORCH_BATCH = 50  # float64 convolutions over 500 images at once took 3 to 5 times as long

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Reference:
    """Images uint8 (N, C, H, W) and the logits float64 (N, classes) that PyTorch computes for them.

    The first images are the test images, with `labels`. `counts` is the number of images of each kind, in order;
    `max_images` is the limit for each kind.
    """

    net: nn.Module
    card: ModelCard
    images_u8: NDArray[np.uint8]
    counts: dict[str, int]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    max_images: int

    @property
    def batched_images(self) -> int:
        """How many test images are compared in other batch sizes."""
        return min(MAX_BATCHED_IMAGES, max(16, self.max_images // 16))

    @property
    def test_logits(self) -> NDArray[np.float64]:
        return self.logits[: len(self.labels)]

    @property
    def accuracy(self) -> float:
        """Share of the test images that PyTorch classifies correctly, in [0, 1]."""
        return float((self.test_logits.argmax(axis=1) == self.labels).mean())

    def at_risk(self, error: float) -> tuple[int, ...]:
        """Indices of the test images whose two largest logits differ by at most 2 `error`; all if `error` is NaN."""
        ranked = np.sort(self.test_logits, axis=1)
        return tuple(np.flatnonzero(~(ranked[:, -1] - ranked[:, -2] > 2 * error)).tolist())


def compute_reference(net: nn.Module, card: ModelCard, images: Images, labels: NDArray[np.int64]) -> Reference:
    """Run `net` in float64 on test images (N, C, H, W) with labels (N,), and on synthetic images.

    Takes at most `max_images(net, card)` test images, evenly spread, and a quarter as many of each synthetic kind.
    """
    torch.set_num_threads(usable_cores())
    most = max_images(net, card)
    chosen = np.linspace(0, len(labels) - 1, min(len(labels), most)).round().astype(np.int64)
    synthetic = synthetic_inputs(card.channels, card.height, card.width, most=max(16, most // 4))
    kinds = {"test": images[chosen], **synthetic}
    images_u8 = np.concatenate(list(kinds.values()))
    exact = FromPixels(copy.deepcopy(net), card).double().eval()
    counts = {kind: len(images) for kind, images in kinds.items()}
    logits = _logits(exact, images_u8, "cpu").astype(np.float64)
    return Reference(net, card, images_u8, counts, labels[chosen], logits, most)


def max_images(net: nn.Module, card: ModelCard) -> int:
    """How many images of one kind to run `net` on: fewer, the more multiply-adds an image takes."""
    image_cost = max(1, multiply_adds(net, (card.channels, card.height, card.width)))
    return max(MIN_IMAGES, int(MAX_MULTIPLY_ADDS / image_cost))


def synthetic_inputs(channels: int, height: int, width: int, *, most: int) -> dict[str, NDArray[np.uint8]]:
    """Images that no test set contains, by kind: noise, all 0, all 255, and one bright pixel at varying positions.

    Each kind has at most `most` images (N, channels, height, width).
    """
    rng, shape = np.random.default_rng(0), (channels, height, width)
    positions = rng.permutation(height * width)[: min(MAX_POINT_IMAGES, most)]
    points = np.zeros((len(positions), channels, height * width), np.uint8)
    points[np.arange(len(positions)), :, positions] = 255
    return {
        "noise": rng.integers(0, 256, (min(NOISE_IMAGES, most), *shape), np.uint8),
        "black": np.zeros((1, *shape), np.uint8),
        "white": np.full((1, *shape), 255, np.uint8),
        "point": points.reshape(-1, *shape),
    }


def float32_error(reference: Reference, device: str) -> float:
    """The largest absolute error of PyTorch's float32 logits on "cpu" or "cuda"."""
    model = FromPixels(copy.deepcopy(reference.net), reference.card).float().eval().to(device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return max_abs(_logits(model, reference.images_u8, device) - reference.logits)


def error_bound(torch_error: float, exact: Floats) -> float:
    """The error that an exported model may have: 2 `torch_error` + 1e-6 max(1, largest |exact|)."""
    return 2 * torch_error + 1e-6 * max(1.0, max_abs(exact))


def max_abs(values: Floats) -> float:
    """The largest absolute value; NaN if any value is NaN."""
    return float(np.abs(values).max())


def batches(images_u8: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    """The images in order, `size` at a time; the last batch may be smaller."""
    return (images_u8[start : start + size] for start in range(0, len(images_u8), size))


@torch.no_grad()
def _logits(model: FromPixels, images_u8: NDArray[np.uint8], device: str) -> Floats:
    tensors = (torch.from_numpy(batch.copy()).to(device) for batch in batches(images_u8, TORCH_BATCH))
    return np.concatenate([model(tensor).cpu().numpy() for tensor in tensors])
