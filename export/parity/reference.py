"""Reference: PyTorch's float64 logits on test images and synthetic images, and the error of PyTorch in float32.

An exported model may have about twice the float32 error of PyTorch; `error_bound` gives the limit.
"""

import copy
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from netkit.core.model_card import ModelCard
from netkit.core.system import usable_cores
from netkit.data.lazy import Images
from netkit.export.capture import copied
from netkit.export.parity.float64 import batched_logits, float64_logits
from netkit.nets.normalize import FromPixels
from netkit.nets.summary import multiply_adds

MAX_MULTIPLY_ADDS = 2.2e11  # for all images of one kind; allows densenet on all 10,000 test images of MNIST
MAX_IMAGE_BYTES = 2**26  # of all images of one kind
MIN_IMAGES = 32  # of one kind, even if they exceed these limits
MAX_BATCHED_IMAGES = 999  # test images for other batch sizes; 2, 7 and 64 leave a smaller last batch
MAX_NOISE_IMAGES = 256
MAX_POINT_IMAGES = 1024  # covers each position of images up to 32x32

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Reference:
    """Images uint8 (N, C, H, W) and PyTorch's logits float64 (N, classes) for them.

    The test images come first; `labels` are theirs. `counts` is the number of images of each kind, in order;
    `max_images` is the limit for each kind. `without_casts` tells that the network casts to another floating-point
    type, and that the logits are computed without these casts.
    """

    net: nn.Module
    card: ModelCard
    images_u8: NDArray[np.uint8]
    counts: dict[str, int]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    max_images: int
    without_casts: bool = False

    @property
    def max_batched_images(self) -> int:
        """The largest number of test images that are compared in other batch sizes."""
        return min(MAX_BATCHED_IMAGES, max(16, self.max_images // 16))

    @property
    def test_logits(self) -> NDArray[np.float64]:
        return self.logits[: len(self.labels)]

    @property
    def accuracy(self) -> float:
        """Share of the test images that PyTorch classifies correctly, in [0, 1]."""
        return float((self.test_logits.argmax(axis=1) == self.labels).mean())

    def at_risk(self, error: float) -> tuple[int, ...]:
        """Indices of the test images whose prediction an error of that size could change.

        Their two largest logits differ by at most 2 `error`. Returns all indices if `error` is NaN.
        """
        ranked = np.sort(self.test_logits, axis=1)
        return tuple(np.flatnonzero(~(ranked[:, -1] - ranked[:, -2] > 2 * error)).tolist())


def compute_reference(net: nn.Module, card: ModelCard, images: Images, labels: NDArray[np.int64]) -> Reference:
    """Run `net` in float64 on test images (N, C, H, W) with labels (N,), and on synthetic images.

    Takes at most `max_images(net, card)` test images, evenly spaced, and a quarter as many of each synthetic kind.

    Raises ModelError as `float64_logits` does.
    """
    torch.set_num_threads(usable_cores())
    # a copy: the forward pass of max_images records gradients, and a network may store its activations
    limit = max_images(copied(net, name=card.arch), card)
    indices = evenly_spaced(len(labels), limit)
    synthetic = synthetic_inputs(card.channels, card.height, card.width, max_per_kind=max(16, limit // 4))
    images_by_kind = {"test": images[indices], **synthetic}
    images_u8 = np.concatenate(list(images_by_kind.values()))
    counts = {kind: len(images) for kind, images in images_by_kind.items()}
    logits, without_casts = float64_logits(net, card, images_u8)
    return Reference(net, card, images_u8, counts, labels[indices], logits, limit, without_casts)


def evenly_spaced(count: int, limit: int) -> NDArray[np.int64]:
    """Return at most `limit` of the indices from 0 to `count` - 1, evenly spaced."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def max_images(net: nn.Module, card: ModelCard) -> int:
    """The number of images of one kind to run `net` on, within MAX_MULTIPLY_ADDS and MAX_IMAGE_BYTES."""
    shape = card.channels, card.height, card.width
    image_cost = max(1, multiply_adds(net, shape))
    return max(MIN_IMAGES, min(int(MAX_MULTIPLY_ADDS / image_cost), MAX_IMAGE_BYTES // prod(shape)))


def synthetic_inputs(channels: int, height: int, width: int, *, max_per_kind: int) -> dict[str, NDArray[np.uint8]]:
    """Return synthetic images by kind: noise, all 0, all 255, and one white pixel at varying positions.

    Each kind has at most `max_per_kind` images (N, channels, height, width).
    """
    rng, shape = np.random.default_rng(0), (channels, height, width)
    positions = rng.permutation(height * width)[: min(MAX_POINT_IMAGES, max_per_kind)]
    points = np.zeros((len(positions), channels, height * width), np.uint8)
    points[np.arange(len(positions)), :, positions] = 255
    return {
        "noise": rng.integers(0, 256, (min(MAX_NOISE_IMAGES, max_per_kind), *shape), np.uint8),
        "black": np.zeros((1, *shape), np.uint8),
        "white": np.full((1, *shape), 255, np.uint8),
        "single-pixel": points.reshape(-1, *shape),
    }


def float32_error(reference: Reference, device: str, *, onednn: bool = True) -> float:
    """The largest absolute error of PyTorch's float32 logits on `device`, "cpu" or "cuda".

    With `onednn=False`, PyTorch does not use oneDNN, its default library of CPU kernels.
    """
    backend: Any = torch.backends.mkldnn  # its context manager, flags(), warns about an option for GPUs
    enabled, backend.enabled = backend.enabled, onednn and backend.enabled
    try:
        return logits_error(reference.net, reference.card, reference.images_u8, reference.logits, device=device)
    finally:
        backend.enabled = enabled


def logits_error(
    net: nn.Module, card: ModelCard, images_u8: NDArray[np.uint8], exact: Floats, *, device: str = "cpu"
) -> float:
    """The largest absolute difference of PyTorch's float32 logits for the images from `exact` (N, classes)."""
    model = FromPixels(copy.deepcopy(net), card).float().eval().to(device)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return max_abs(batched_logits(model, images_u8, device) - exact)


def error_bound(torch_error: float, exact: Floats) -> float:
    """The largest error that an exported model may have: 2 `torch_error` + 1e-6 max(1, largest |exact|)."""
    return 2 * torch_error + 1e-6 * max(1.0, max_abs(exact))


def max_abs(values: Floats) -> float:
    """The largest absolute value; NaN if any value is NaN."""
    return float(np.abs(values).max())
