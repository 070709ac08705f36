"""Augmentation: random affine maps and colors, applied to a whole batch of images on its device.

torchvision.transforms.v2 has the same operations, but each call takes the same random numbers for a whole batch.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from netkit.data.lazy import Images
from netkit.nets.training.recipe import Recipe

# separate these random numbers from each other and from the permutation, for the same seed and epoch
AFFINE_STREAM, CROP_STREAM, COLOR_STREAM = 1, 2, 3
MAX_ASPECT = 4 / 3  # of a crop relative to the image, and its inverse, as in torchvision's RandomResizedCrop
MAX_COLOR_IMAGES = 100  # enough to tell photos from grey images


class Augmentation:
    """The augmentation of the training images (N, C, H, W) in one epoch, with random numbers for every image."""

    def __init__(self, shape: tuple[int, ...], *, recipe: Recipe, seed: int, epoch: int, device: torch.device) -> None:
        count, _, height, width = shape
        maps = draw_maps(count, height, width, recipe=recipe, seed=seed, epoch=epoch)
        factors = draw_factors(count, recipe=recipe, seed=seed, epoch=epoch)
        self._maps = None if maps is None else maps.to(device)
        self._factors = None if factors is None else factors.to(device)

    def __call__(self, images_u8: Tensor, indices: Tensor) -> Tensor:
        """Augment the images (n, C, H, W) uint8 with the `indices` (n,); pixels stay in [0, 255]."""
        x = images_u8 if self._maps is None else warp(images_u8, self._maps[indices])
        return x if self._factors is None else adjust_colors(x, self._factors[indices])


def has_color(images: Images) -> bool:
    """Whether one of up to MAX_COLOR_IMAGES images has a pixel that is not grey."""
    count, channels = images.shape[:2]
    if channels == 1:
        return False
    pixels = images[np.linspace(0, count - 1, min(count, MAX_COLOR_IMAGES)).astype(np.int64)]
    return bool((pixels != pixels[:, :1]).any())


def draw_maps(count: int, height: int, width: int, *, recipe: Recipe, seed: int, epoch: int) -> Tensor | None:
    """Draw affine maps (count, 2, 3) float32, one per image; None if the recipe has no augmentation.

    The map of an image depends only on `seed`, `epoch` and its index. A map is the theta of torch's affine_grid: it
    maps output positions to input positions, both from -1 to 1. Angles are in pixel coordinates, so rotations keep
    shapes in images that are not square. Crops and flips come before the other maps.
    """
    if not (recipe.translate or recipe.degrees or recipe.scale or recipe.shear or recipe.crop or recipe.flip):
        return None
    random = _uniform(count, 5, seed, epoch, AFFINE_STREAM)
    right, down = random[:, 0] * recipe.translate * 2 / width, random[:, 1] * recipe.translate * 2 / height
    angle, scale = random[:, 2] * math.radians(recipe.degrees), 1 + random[:, 3] * recipe.scale
    cos, sin, shear = np.cos(angle) / scale, np.sin(angle) / scale, random[:, 4] * recipe.shear
    x = [cos, (sin + shear * cos) * (height / width), right]
    y = [-sin * (width / height), cos - shear * sin, down]
    maps = np.stack([*x, *y], axis=1).astype(np.float32).reshape(count, 2, 3)
    if recipe.crop or recipe.flip:
        scales, centers = _draw_crops(count, recipe=recipe, seed=seed, epoch=epoch)
        maps *= scales[:, :, None]
        maps[:, :, 2] += centers
    return torch.from_numpy(maps)


def _draw_crops(
    count: int, *, recipe: Recipe, seed: int, epoch: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw crops and flips: the sizes of the crops relative to the image, negative for a mirrored axis, and centers.

    Both are (count, 2), x before y. Centers are in coordinates from -1 to 1.
    """
    random = _uniform(count, 5, seed, epoch, CROP_STREAM)
    scales = np.ones((count, 2), np.float32)
    if recipe.crop:
        area, aspect = 1 - recipe.crop * (1 + random[:, :1]) / 2, MAX_ASPECT ** random[:, 1:2]
        scales = np.sqrt(area * np.hstack([aspect, 1 / aspect])).clip(max=1).astype(np.float32)
    centers = (1 - scales) * random[:, 2:4]
    if recipe.flip:
        scales[:, 0] *= np.where(random[:, 4] < 0, -1, 1)
    return scales, centers


def draw_factors(count: int, *, recipe: Recipe, seed: int, epoch: int) -> Tensor | None:
    """Draw factors of brightness, contrast and saturation (count, 3), one row per image; None without jitter."""
    if not recipe.jitter:
        return None
    return torch.from_numpy(1 + recipe.jitter * _uniform(count, 3, seed, epoch, COLOR_STREAM))


def _uniform(count: int, columns: int, seed: int, epoch: int, stream: int) -> NDArray[np.float32]:
    """Return random numbers from -1 to 1 (count, columns). A row depends only on its index and the last three."""
    return np.random.default_rng([seed, epoch, stream]).uniform(-1, 1, (count, columns)).astype(np.float32)


def warp(images_u8: Tensor, maps: Tensor) -> Tensor:
    """Apply maps (N, 2, 3) to images (N, C, H, W) uint8: bilinear, edge pixels repeated, float32 in [0, 255]."""
    height, width = images_u8.shape[2:]
    # one matrix product; affine_grid multiplies N small matrices, which takes 4 times as long on a CPU
    grid = (maps.reshape(-1, 3) @ _pixel_centers(height, width, maps.device)).view(-1, 2, height, width)
    return F.grid_sample(images_u8.float(), grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def adjust_colors(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of images (N, C, H, W) in [0, 255] by factors (N, 3).

    Equals adjust_brightness, adjust_contrast and adjust_saturation of torchvision, in this order.
    """
    from torchvision.transforms.v2.functional import rgb_to_grayscale  # takes a second; grey images do not need it

    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)  # (N, 1, 1, 1)
    x = (images * brightness).clamp_(0, 255)
    x = torch.lerp(rgb_to_grayscale(x).mean(dim=(1, 2, 3), keepdim=True), x, contrast).clamp_(0, 255)
    return torch.lerp(rgb_to_grayscale(x), x, saturation).clamp_(0, 255)


@lru_cache(maxsize=4)  # saves 0.4 % of residual's step
def _pixel_centers(height: int, width: int, device: torch.device) -> Tensor:
    """Homogeneous coordinates (x, y, 1) of all pixel centers, from -1 to 1, in row-major order: (3, height * width)."""
    x, y = ((torch.arange(side, device=device) * 2 + 1) / side - 1 for side in (width, height))
    return torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones(height * width, device=device)])
