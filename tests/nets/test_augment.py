"""Augmentation: known moves of known images, and torch's own affine_grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from netkit.nets.training.augment import draw_maps, warp
from netkit.nets.training.recipe import Recipe, recipe_named

STILL = recipe_named("baseline")


def maps_of(
    recipe: Recipe, *, count: int = 500, height: int = 28, width: int = 28, epoch: int = 1, seed: int = 0
) -> torch.Tensor:
    maps = draw_maps(count, height, width, recipe=recipe, seed=seed, epoch=epoch)
    assert maps is not None and maps.shape == (count, 2, 3) and maps.dtype == torch.float32
    return maps


def images_of(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, height, width), np.uint8))


def test_a_recipe_that_moves_nothing_has_no_maps() -> None:
    assert draw_maps(10, 28, 28, recipe=STILL, seed=0, epoch=1) is None


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 20, 33)])
def test_the_map_that_moves_nothing_gives_the_image_itself(channels: int, height: int, width: int) -> None:
    images = images_of(4, channels, height, width)
    found = warp(images, torch.eye(2, 3).repeat(4, 1, 1))
    torch.testing.assert_close(found, images.float(), rtol=0, atol=1e-2)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (20, 33)])
def test_warping_is_torchs_own_sampling_through_its_own_grid(height: int, width: int) -> None:
    images = images_of(6, 3, height, width)
    maps = maps_of(replace(STILL, translate=3, degrees=30, scale=0.2, shear=0.2), count=6, height=height, width=width)
    grid = F.affine_grid(maps, [6, 3, height, width], align_corners=False)
    expected = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(warp(images, maps), expected, rtol=0, atol=1e-2)


def test_a_shift_of_whole_pixels_moves_whole_pixels() -> None:
    images = images_of(1, 1, 20, 30)
    maps = torch.tensor([[[1.0, 0, 2 * 3 / 30], [0, 1, -2 * 2 / 20]]])  # looks 3 pixels to the right, 2 up
    found = warp(images, maps)
    torch.testing.assert_close(found[0, 0, 2:, :-3], images[0, 0, :-2, 3:].float(), rtol=0, atol=1e-2)


def test_a_quarter_turn_of_an_oblong_image_keeps_distances_in_pixels() -> None:
    """In the middle square of a 16x32 image a turn by 90 degrees is numpy's."""
    recipe = replace(STILL, degrees=90)
    maps = maps_of(recipe, count=2000, height=16, width=32)
    angles = torch.atan2(maps[:, 0, 1] * 32 / 16, maps[:, 0, 0])
    quarter = maps[(angles - torch.pi / 2).abs().argmin()][None]
    images = images_of(1, 1, 16, 32)
    square = warp(images, quarter)[0, 0, :, 8:24]
    turned = torch.from_numpy(np.rot90(images[0, 0, :, 8:24].numpy(), -1).copy()).float()
    other_way = torch.from_numpy(np.rot90(images[0, 0, :, 8:24].numpy(), 1).copy()).float()
    assert min((square - turned).abs().mean(), (square - other_way).abs().mean()) < 3  # of 255; another image: 85


@pytest.mark.parametrize(("height", "width"), [(28, 28), (16, 32)])
def test_sheared_lines_lean_by_so_many_pixels_a_row_and_rows_stay(height: int, width: int) -> None:
    maps = maps_of(replace(STILL, shear=0.25), count=20_000, height=height, width=width)
    lean = maps[:, 0, 1] * width / height  # in pixels to the side for each row
    assert 0.249 < lean.abs().max() <= 0.25 + 1e-6 and lean.mean().abs() < 0.01
    rest = maps.clone()
    rest[:, 0, 1] = 0
    assert torch.equal(rest, torch.eye(2, 3).expand(20_000, 2, 3))


def test_moves_stay_within_what_the_recipe_says_and_use_all_of_it() -> None:
    maps = maps_of(replace(STILL, translate=2.0, degrees=10.0, scale=0.1), count=20_000)
    pixels = maps[:, :, 2] * 28 / 2
    assert 1.99 < pixels.abs().max() <= 2.0 and pixels.mean().abs() < 0.05
    sizes = 1 / torch.linalg.det(maps[:, :, :2]).sqrt()
    assert 0.9 - 1e-4 <= sizes.min() < 0.901 and 1.099 < sizes.max() <= 1.1 + 1e-4
    angles = torch.rad2deg(torch.atan2(maps[:, 0, 1], maps[:, 0, 0]))
    assert 9.99 < angles.abs().max() <= 10.001 and angles.mean().abs() < 0.2


def test_seed_epoch_and_index_alone_decide_how_an_image_moves() -> None:
    recipe = replace(STILL, translate=2.0)
    assert torch.equal(maps_of(recipe), maps_of(recipe))
    assert torch.equal(maps_of(recipe, count=900)[:500], maps_of(recipe))
    assert not torch.equal(maps_of(recipe, epoch=2), maps_of(recipe))
    assert not torch.equal(maps_of(recipe, seed=1), maps_of(recipe))
