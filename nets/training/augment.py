"""Augmentation: random affine maps, applied to a whole batch of images on its device."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netkit.nets.training.recipe import Recipe

RANDOM_STREAM = 1  # separates these random numbers from those of the permutation for the same seed and epoch


def draw_maps(count: int, height: int, width: int, *, recipe: Recipe, seed: int, epoch: int) -> Tensor | None:
    """Draw affine maps (count, 2, 3) float32, one per image; None if the recipe has no augmentation.

    The map of an image depends only on `seed`, `epoch` and its index. A map is the theta of torch's affine_grid: it
    maps output positions to input positions, both from -1 to 1. Angles are in pixel coordinates, so rotations keep
    shapes in images that are not square.
    """
    if not (recipe.translate or recipe.degrees or recipe.scale or recipe.shear):
        return None
    random = np.random.default_rng([seed, epoch, RANDOM_STREAM]).uniform(-1, 1, (count, 5)).astype(np.float32)
    right, down = random[:, 0] * recipe.translate * 2 / width, random[:, 1] * recipe.translate * 2 / height
    angle, scale = random[:, 2] * math.radians(recipe.degrees), 1 + random[:, 3] * recipe.scale
    cos, sin, shear = np.cos(angle) / scale, np.sin(angle) / scale, random[:, 4] * recipe.shear
    x = [cos, (sin + shear * cos) * (height / width), right]
    y = [-sin * (width / height), cos - shear * sin, down]
    rows = np.stack([*x, *y], axis=1)
    return torch.from_numpy(rows.astype(np.float32).reshape(count, 2, 3))


def warp(images_u8: Tensor, maps: Tensor) -> Tensor:
    """Apply maps (N, 2, 3) to images (N, C, H, W) uint8: bilinear, edge pixels repeated, float32 in [0, 255]."""
    height, width = images_u8.shape[2:]
    # one matrix product; affine_grid multiplies N small matrices, which takes 4 times as long on a CPU
    grid = (maps.reshape(-1, 3) @ _pixel_centers(height, width, maps.device)).view(-1, 2, height, width)
    return F.grid_sample(images_u8.float(), grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


@lru_cache(maxsize=4)  # saves 0.4 % of residual's step
def _pixel_centers(height: int, width: int, device: torch.device) -> Tensor:
    """Homogeneous coordinates (x, y, 1) of all pixel centers, from -1 to 1, in row-major order: (3, height * width)."""
    x, y = ((torch.arange(side, device=device) * 2 + 1) / side - 1 for side in (width, height))
    return torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones(height * width, device=device)])
