"""Augmentation: a batch of images shifted, turned, scaled and sheared at once, on the device where it lies."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from netkit.nets.training.recipe import Recipe

DRAW = 1  # tells this stream of random numbers from that of the order, which has the same seed and epoch


def draw_maps(count: int, height: int, width: int, *, recipe: Recipe, seed: int, epoch: int) -> Tensor | None:
    """Affine maps (count, 2, 3) float32, one for each image of the epoch; None where the recipe moves nothing.

    The map of an image depends on `seed`, `epoch` and its index alone. Maps are those of torch's affine_grid: from
    places in the new image to places in the old one, both from -1 to 1. A turn is one in pixels, in oblong images too.
    """
    if not (recipe.shift or recipe.rotation or recipe.scale or recipe.shear):
        return None
    random = np.random.default_rng([seed, epoch, DRAW]).uniform(-1, 1, (count, 5)).astype(np.float32)
    right, down = random[:, 0] * recipe.shift * 2 / width, random[:, 1] * recipe.shift * 2 / height
    angle, scale = random[:, 2] * math.radians(recipe.rotation), 1 + random[:, 3] * recipe.scale
    cos, sin, lean = np.cos(angle) / scale, np.sin(angle) / scale, random[:, 4] * recipe.shear
    x = [cos, (sin + lean * cos) * (height / width), right]
    y = [-sin * (width / height), cos - lean * sin, down]
    rows = np.stack([*x, *y], axis=1)
    return torch.from_numpy(rows.astype(np.float32).reshape(count, 2, 3))


def warp(images_u8: Tensor, maps: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8 -> float32 from 0 to 255, each through its map (N, 2, 3); bilinear, edges go on."""
    height, width = images_u8.shape[2:]
    # affine_grid multiplies N small matrices, which took 4 times as long on a CPU as this one product
    grid = (maps.reshape(-1, 3) @ _places(height, width, maps.device)).view(-1, 2, height, width)
    return F.grid_sample(images_u8.float(), grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


@lru_cache(maxsize=4)  # made anew for each batch they took 0.4 % of residual's step
def _places(height: int, width: int, device: torch.device) -> Tensor:
    """The middles of all pixels, from -1 to 1, row by row: (3, height * width), x, y and 1."""
    x, y = ((torch.arange(side, device=device) * 2 + 1) / side - 1 for side in (width, height))
    return torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones(height * width, device=device)])
