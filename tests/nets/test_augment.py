"""Augmentation, against known maps of known images, torch's affine_grid and torchvision's transforms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from netkit.nets.training.augment import Augmentation, adjust_colors, draw_factors, draw_maps, has_color, warp
from netkit.nets.training.recipe import Recipe, recipe_named

BASELINE = recipe_named("baseline")
PHOTOS = BASELINE.with_augmentation("photos")


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


@pytest.mark.parametrize("recipe", [replace(BASELINE, translate=2.0), PHOTOS], ids=["digits", "photos"])
def test_map_depends_only_on_seed_epoch_and_index(recipe: Recipe) -> None:
    assert torch.equal(draw(recipe), draw(recipe))
    assert torch.equal(draw(recipe, count=900)[:500], draw(recipe))
    assert not torch.equal(draw(recipe, epoch=2), draw(recipe))
    assert not torch.equal(draw(recipe, seed=1), draw(recipe))


def test_flip_mirrors_half_of_the_images_horizontally() -> None:
    images = random_images(200, 3, 20, 33)
    flipped = warp(images, draw(replace(BASELINE, flip=True), count=200, height=20, width=33))
    is_mirrored = (flipped - images).abs().amax(dim=(1, 2, 3)) > 1
    assert 70 < is_mirrored.sum() < 130
    expected = torch.where(is_mirrored[:, None, None, None], vision.horizontal_flip(images), images)
    torch.testing.assert_close(flipped, expected.float(), rtol=0, atol=1e-2)


def test_crop_equals_torchvisions_resized_crop() -> None:
    """Except in the outermost pixels, which torchvision's crop repeats, and this one interpolates with its surround."""
    images = random_images(1, 3, 20, 40)
    top, left, height, width = 4, 10, 10, 20
    maps = torch.tensor([[[width / 40, 0, (2 * left + width) / 40 - 1], [0, height / 20, (2 * top + height) / 20 - 1]]])
    expected = vision.resized_crop(images.float(), top, left, height, width, [20, 40], antialias=False)
    torch.testing.assert_close(warp(images, maps)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=0, atol=1e-2)


def test_crops_stay_in_the_image_and_have_the_whole_range_of_areas() -> None:
    maps = draw(replace(BASELINE, crop=0.6), count=20_000)
    scales, centers = maps[:, (0, 1), (0, 1)], maps[:, :, 2]
    assert (scales > 0).all() and (maps[:, (0, 1), (1, 0)] == 0).all()
    assert 0.999 < (centers.abs() + scales).max() <= 1 + 1e-6
    areas, aspects = scales.prod(dim=1), scales[:, 0] / scales[:, 1]
    assert 0.4 - 1e-3 <= areas.min() < 0.41 and 0.98 < areas.max() <= 1
    assert 0.75 - 1e-3 < aspects.min() < 0.76 and 1.32 < aspects.max() < 4 / 3 + 1e-3
    assert centers.mean().abs() < 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_colors_equal_torchvisions_image_by_image(channels: int) -> None:
    images, factors = random_images(20, channels, 9, 7), draw_factors(20, recipe=PHOTOS, seed=0, epoch=1)
    assert factors is not None
    for image, adjusted, (brightness, contrast, saturation) in zip(
        images, adjust_colors(images, factors), factors.tolist(), strict=True
    ):
        expected = vision.adjust_brightness(image / 255, brightness)
        expected = vision.adjust_saturation(vision.adjust_contrast(expected, contrast), saturation)
        torch.testing.assert_close(adjusted, expected * 255, rtol=0, atol=1e-2)


def test_factors_use_the_whole_range_of_the_recipe_and_depend_only_on_seed_epoch_and_index() -> None:
    factors = draw_factors(20_000, recipe=PHOTOS, seed=0, epoch=1)
    assert factors is not None and draw_factors(10, recipe=BASELINE, seed=0, epoch=1) is None
    assert (factors.amin(dim=0) < 0.701).all() and (factors.amax(dim=0) > 1.299).all()
    assert factors.min() >= 0.7 - 1e-6 and factors.max() <= 1.3 + 1e-6
    fewer, later, other = (
        draw_factors(count, recipe=PHOTOS, seed=seed, epoch=epoch)
        for count, seed, epoch in ((10, 0, 1), (20_000, 0, 2), (20_000, 1, 1))
    )
    assert fewer is not None and torch.equal(fewer, factors[:10])
    assert later is not None and not torch.equal(later, factors)
    assert other is not None and not torch.equal(other, factors)


def test_image_is_augmented_in_the_same_way_in_any_batch() -> None:
    images = random_images(30, 3, 20, 33)
    augment = Augmentation(images.shape, recipe=PHOTOS, seed=0, epoch=1, device=torch.device("cpu"))
    whole, part = augment(images, torch.arange(30)), torch.tensor([7, 2, 29])
    torch.testing.assert_close(augment(images[part], part), whole[part])
    assert whole.min() >= 0 and whole.max() <= 255


@pytest.mark.parametrize(("channels", "color"), [(1, False), (3, False), (3, True)])
def test_one_colored_pixel_makes_a_color_image(channels: int, color: bool) -> None:
    images = random_images(50, 1, 8, 8).numpy().repeat(channels, axis=1)
    images[49, -1, 3, 3] ^= color
    assert has_color(images) == color
