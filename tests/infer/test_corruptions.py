"""Image corruptions: each has the effect that its name describes."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from netkit.infer.evaluation.corruptions import CORRUPTIONS, corrupt

Pixels = NDArray[np.uint8]
PAPER_NAMES = """
    shot_noise impulse_noise glass_blur motion_blur shear scale rotate brightness translate stripe fog spatter
    dotted_line zigzag canny_edges
""".split()


def grey(level: int, side: int = 28) -> Pixels:
    return np.full((1, side, side), level, np.uint8)


@pytest.fixture
def bar() -> Pixels:
    """A vertical bar in the middle, 4 pixels wide and 16 high."""
    image = grey(0)
    image[:, 6:22, 12:16] = 255
    return image


def moments(pixels: Pixels) -> tuple[float, float, float, float, float]:
    """Total brightness in white pixels, center (x, y), and standard deviation along x and y."""
    weights = pixels[0] / 255
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    mass = weights.sum()
    x, y = (weights * columns).sum() / mass, (weights * rows).sum() / mass
    var_x, var_y = ((weights * (axis - mean) ** 2).sum() / mass for axis, mean in ((columns, x), (rows, y)))
    return mass, x, y, math.sqrt(var_x), math.sqrt(var_y)


def angle(pixels: Pixels) -> float:
    """Angle of the long axis to the vertical, in degrees."""
    weights = pixels[0] / 255
    _, x, y, _, _ = moments(pixels)
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    dx, dy = columns - x, rows - y
    covariance = (weights * dx * dy).sum()
    return abs(math.degrees(0.5 * math.atan2(2 * covariance, (weights * (dy**2 - dx**2)).sum())))


def test_the_corruptions_are_the_fifteen_of_the_paper() -> None:
    assert list(CORRUPTIONS) == PAPER_NAMES


@pytest.mark.parametrize("name", PAPER_NAMES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 61, 40), (1, 12, 9)])
def test_corruptions_are_deterministic_and_do_not_modify_their_input(name: str, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 200, shape, np.uint8)
    before = image.copy()
    corrupted = corrupt(image, name)
    assert corrupted.shape == shape and corrupted.dtype == np.uint8
    assert (corrupted == corrupt(image, name)).all()
    assert (image == before).all()
    assert (corrupted != image).any()


@pytest.mark.parametrize("name", PAPER_NAMES)
def test_tiny_images_are_corrupted_too(name: str) -> None:
    for shape in ((1, 1, 3), (3, 1, 1), (1, 2, 2)):
        corrupted = corrupt(np.full(shape, 90, np.uint8), name)
        assert corrupted.shape == shape and corrupted.dtype == np.uint8


@pytest.mark.parametrize("name", sorted({*PAPER_NAMES} - {"scale", "brightness", "stripe", "canny_edges"}))
def test_random_effects_differ_between_images(name: str, bar: Pixels) -> None:
    """Images that differ by a few levels in one pixel differ in many pixels afterwards."""
    similar = np.repeat(bar[None], 8, axis=0)
    similar[:, 0, 14, 14] -= np.arange(8, dtype=np.uint8)
    images = [corrupt(image, name).astype(int) for image in similar]
    assert max((np.abs(image - images[0]) > 10).sum() for image in images) > 20


def test_shot_noise_has_the_variance_of_a_low_photon_count() -> None:
    noisy = corrupt(grey(51, 200), "shot_noise") / 255
    assert noisy.mean() == pytest.approx(0.2, abs=0.01)
    assert noisy.var() == pytest.approx(0.2 / 5, rel=0.1)


def test_impulse_noise_turns_as_many_pixels_black_as_white() -> None:
    noisy = corrupt(grey(128, 200), "impulse_noise")
    assert (noisy == 0).mean() == pytest.approx(0.08, abs=0.01)
    assert (noisy == 255).mean() == pytest.approx(0.08, abs=0.01)
    assert (noisy == 128).mean() == pytest.approx(0.84, abs=0.015)


@pytest.mark.parametrize("name", ["glass_blur", "motion_blur"])
def test_blurs_spread_brightness_and_keep_its_sum(name: str, bar: Pixels) -> None:
    mass, _, _, std_x, std_y = moments(bar)
    blurred_mass, _, _, blurred_std_x, blurred_std_y = moments(corrupt(bar, name))
    assert blurred_mass == pytest.approx(mass, rel=0.15)
    assert blurred_std_x**2 + blurred_std_y**2 > std_x**2 + std_y**2 + 0.5


def test_rotate_translate_and_shear_have_the_documented_strength(bar: Pixels) -> None:
    _, x, y, _, _ = moments(bar)
    assert angle(corrupt(bar, "rotate")) == pytest.approx(30, abs=1)
    moved = moments(corrupt(bar, "translate"))
    assert math.hypot(moved[1] - x, moved[2] - y) == pytest.approx(6, abs=0.2)
    sheared = corrupt(bar, "shear")[0]
    ends = [float((row * np.arange(28)).sum() / row.sum()) for row in (sheared[7], sheared[20])]
    assert abs(ends[1] - ends[0]) == pytest.approx(13 * 0.5, abs=0.3)


def test_scale_shrinks_to_three_fifths() -> None:
    rows, columns = np.mgrid[:28, :28] - 13.5
    blob = (255 * np.exp(-(columns**2) / 18 - rows**2 / 32)).astype(np.uint8)[None]
    (mass, *center, std_x, std_y), small = moments(blob), moments(corrupt(blob, "scale"))
    assert small == pytest.approx((0.36 * mass, *center, 0.6 * std_x, 0.6 * std_y), rel=0.03)


def test_brightness_adds_a_constant_and_clips_at_white() -> None:
    assert corrupt(grey(100), "brightness").tolist() == grey(202).tolist()
    assert corrupt(grey(200), "brightness").tolist() == grey(255).tolist()


def test_stripe_inverts_the_left_and_right_quarters() -> None:
    striped = corrupt(grey(30), "stripe")[0, 0].tolist()
    assert striped == [225] * 7 + [30] * 14 + [225] * 7


def test_fog_reduces_contrast_smoothly(bar: Pixels) -> None:
    foggy = corrupt(bar, "fog")
    assert foggy[bar == 0].mean() > 20
    assert foggy[bar == 255].mean() < 235
    assert np.abs(np.diff(foggy[0].astype(int), axis=0))[:, :10].max() < 40  # clouds, not single-pixel noise


def test_spatter_covers_part_of_the_image_with_white_drops() -> None:
    drops = corrupt(grey(0, 56), "spatter")[0] == 255
    assert drops.mean() == pytest.approx(0.15, abs=0.02)
    equal_neighbors = drops[:, 1:] == drops[:, :-1]
    assert equal_neighbors.mean() > 0.9  # drops, not single pixels


@pytest.mark.parametrize(("height", "width"), [(28, 28), (64, 64), (28, 56), (56, 28), (224, 224)])
def test_lines_reach_from_edge_to_edge(height: int, width: int) -> None:
    dark = np.zeros((1, height, width), np.uint8)
    zigzag, dotted = (corrupt(dark, name)[0] > 100 for name in ("zigzag", "dotted_line"))
    assert zigzag.any(axis=0).all()
    starts = np.diff(dotted.any(axis=0).astype(int), prepend=0) == 1
    assert starts.sum() == 9
    assert zigzag.mean() < 0.2 and dotted.mean() < 0.06


@pytest.mark.parametrize("side", [28, 56, 112, 224])
def test_canny_edges_are_a_one_pixel_wide_outline(side: int) -> None:
    unit = side // 28
    square = grey(0, side)
    square[:, 8 * unit : 20 * unit, 8 * unit : 20 * unit] = 255
    edges = corrupt(square, "canny_edges")[0] == 255
    inside = slice(10 * unit, 18 * unit)
    assert not edges[inside, inside].any() and not edges[: 6 * unit].any() and not edges[:, : 6 * unit].any()
    for row in edges[inside]:
        assert np.flatnonzero(row).size == 2
    assert not corrupt(grey(77, side), "canny_edges").any()


def test_color_images_keep_their_colors() -> None:
    red = np.zeros((3, 100, 60), np.uint8)
    red[0] = 200
    for name in ("rotate", "motion_blur", "glass_blur"):
        middle = corrupt(red, name)[:, 45:55, 25:35]
        assert np.abs(middle.astype(int) - np.array([200, 0, 0])[:, None, None]).max() <= 1
    assert Image.fromarray(corrupt(red, "zigzag").transpose(1, 2, 0)).getcolors() is not None
