"""Augmentation, against known maps of known images and against torch's affine_grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from netkit.nets.training.augment import draw_maps, warp
from netkit.nets.training.recipe import Recipe, recipe_named

BASELINE = recipe_named("baseline")


def draw(
    recipe: Recipe, *, count: int = 500, height: int = 28, width: int = 28, epoch: int = 1, seed: int = 0
) -> torch.Tensor:
    maps = draw_maps(count, height, width, recipe=recipe, seed=seed, epoch=epoch)
    assert maps is not None and maps.shape == (count, 2, 3) and maps.dtype == torch.float32
    return maps


def random_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, height, width), np.uint8))


def test_recipe_without_augmentation_has_no_maps() -> None:
    assert draw_maps(10, 28, 28, recipe=BASELINE, seed=0, epoch=1) is None


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 20, 33)])
def test_identity_map_returns_the_image(channels: int, height: int, width: int) -> None:
    images = random_images(4, channels, height, width)
    warped = warp(images, torch.eye(2, 3).repeat(4, 1, 1))
    torch.testing.assert_close(warped, images.float(), rtol=0, atol=1e-2)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (20, 33)])
def test_warp_equals_torchs_affine_grid_and_grid_sample(height: int, width: int) -> None:
    images = random_images(6, 3, height, width)
    maps = draw(replace(BASELINE, translate=3, degrees=30, scale=0.2, shear=0.2), count=6, height=height, width=width)
    grid = F.affine_grid(maps, [6, 3, height, width], align_corners=False)
    expected = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(warp(images, maps), expected, rtol=0, atol=1e-2)


def test_translation_by_full_pixels_moves_pixels_exactly() -> None:
    images = random_images(1, 1, 20, 30)
    maps = torch.tensor([[[1.0, 0, 2 * 3 / 30], [0, 1, -2 * 2 / 20]]])  # reads 3 pixels to the right and 2 up
    warped = warp(images, maps)
    torch.testing.assert_close(warped[0, 0, 2:, :-3], images[0, 0, :-2, 3:].float(), rtol=0, atol=1e-2)


def test_rotation_by_90_degrees_keeps_distances_in_a_rectangular_image() -> None:
    """The middle square of a 16x32 image rotates as with numpy's rot90."""
    recipe = replace(BASELINE, degrees=90)
    maps = draw(recipe, count=2000, height=16, width=32)
    angles = torch.atan2(maps[:, 0, 1] * 32 / 16, maps[:, 0, 0])
    quarter = maps[(angles - torch.pi / 2).abs().argmin()][None]
    images = random_images(1, 1, 16, 32)
    square = warp(images, quarter)[0, 0, :, 8:24]
    clockwise = torch.from_numpy(np.rot90(images[0, 0, :, 8:24].numpy(), -1).copy()).float()
    counterclockwise = torch.from_numpy(np.rot90(images[0, 0, :, 8:24].numpy(), 1).copy()).float()
    # levels from 0 to 255; between unrelated images the mean difference is 85
    assert min((square - clockwise).abs().mean(), (square - counterclockwise).abs().mean()) < 3


@pytest.mark.parametrize(("height", "width"), [(28, 28), (16, 32)])
def test_shear_moves_pixels_sideways_by_a_fixed_amount_per_row(height: int, width: int) -> None:
    maps = draw(replace(BASELINE, shear=0.25), count=20_000, height=height, width=width)
    shear = maps[:, 0, 1] * width / height  # pixels sideways per row
    assert 0.249 < shear.abs().max() <= 0.25 + 1e-6 and shear.mean().abs() < 0.01
    unsheared = maps.clone()
    unsheared[:, 0, 1] = 0
    assert torch.equal(unsheared, torch.eye(2, 3).expand(20_000, 2, 3))


def test_random_maps_use_the_full_range_of_the_recipe_and_no_more() -> None:
    maps = draw(replace(BASELINE, translate=2.0, degrees=10.0, scale=0.1), count=20_000)
    pixels = maps[:, :, 2] * 28 / 2
    assert 1.99 < pixels.abs().max() <= 2.0 and pixels.mean().abs() < 0.05
    scales = 1 / torch.linalg.det(maps[:, :, :2]).sqrt()
    assert 0.9 - 1e-4 <= scales.min() < 0.901 and 1.099 < scales.max() <= 1.1 + 1e-4
    angles = torch.rad2deg(torch.atan2(maps[:, 0, 1], maps[:, 0, 0]))
    assert 9.99 < angles.abs().max() <= 10.001 and angles.mean().abs() < 0.2


def test_map_depends_only_on_seed_epoch_and_index() -> None:
    recipe = replace(BASELINE, translate=2.0)
    assert torch.equal(draw(recipe), draw(recipe))
    assert torch.equal(draw(recipe, count=900)[:500], draw(recipe))
    assert not torch.equal(draw(recipe, epoch=2), draw(recipe))
    assert not torch.equal(draw(recipe, seed=1), draw(recipe))
