"""Corruptions, each by what it is to do to an image."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from netkit.core.model_card import Input
from netkit.data.dataset import HeldDataSet
from netkit.images.decoder import Decoder
from netkit.infer.evaluation.corruptions import CORRUPTIONS, CorruptingDecoder, corrupted

Pixels = NDArray[np.uint8]
PAPER = """
    shot_noise impulse_noise glass_blur motion_blur shear scale rotate brightness translate stripe fog spatter
    dotted_line zigzag canny_edges
""".split()


def grey(level: int, side: int = 28) -> Pixels:
    return np.full((1, side, side), level, np.uint8)


@pytest.fixture
def bar() -> Pixels:
    """An upright bar, 4 wide and 16 high, in the middle."""
    image = grey(0)
    image[:, 6:22, 12:16] = 255
    return image


def moments(pixels: Pixels) -> tuple[float, float, float, float, float]:
    """Mass in white pixels, centre (x, y), and standard deviation along x and y."""
    weights = pixels[0] / 255
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    mass = weights.sum()
    x, y = (weights * columns).sum() / mass, (weights * rows).sum() / mass
    across, down = ((weights * (where - at) ** 2).sum() / mass for where, at in ((columns, x), (rows, y)))
    return mass, x, y, math.sqrt(across), math.sqrt(down)


def angle(pixels: Pixels) -> float:
    """Degrees by which the long axis leans from upright."""
    weights = pixels[0] / 255
    _, x, y, _, _ = moments(pixels)
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    dx, dy = columns - x, rows - y
    both = (weights * dx * dy).sum()
    return abs(math.degrees(0.5 * math.atan2(2 * both, (weights * (dy**2 - dx**2)).sum())))


def test_there_are_the_fifteen_of_the_paper() -> None:
    assert list(CORRUPTIONS) == PAPER


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 61, 40), (1, 12, 9)])
def test_each_changes_an_image_always_in_the_same_way(name: str, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 200, shape, np.uint8)
    before = image.copy()
    one = corrupted(image, name)
    assert one.shape == shape and one.dtype == np.uint8
    assert (one == corrupted(image, name)).all()
    assert (image == before).all()
    assert (one != image).any()


@pytest.mark.parametrize("name", PAPER)
def test_an_image_of_one_pixel_or_three_is_no_fault(name: str) -> None:
    for shape in ((1, 1, 3), (3, 1, 1), (1, 2, 2)):
        one = corrupted(np.full(shape, 90, np.uint8), name)
        assert one.shape == shape and one.dtype == np.uint8


@pytest.mark.parametrize("name", sorted({*PAPER} - {"scale", "brightness", "stripe", "canny_edges"}))
def test_chance_differs_from_image_to_image(name: str, bar: Pixels) -> None:
    """Images that differ by a level in one pixel alone differ in many when chance has befallen them."""
    others = np.repeat(bar[None], 8, axis=0)
    others[:, 0, 14, 14] -= np.arange(8, dtype=np.uint8)
    images = [corrupted(each, name).astype(int) for each in others]
    assert max((np.abs(each - images[0]) > 10).sum() for each in images) > 20


def test_a_decoder_corrupts_what_it_decodes(digits_data: HeldDataSet) -> None:
    plain = Decoder(Input(1, 28, 28), invert=True, largest_image=784)
    corrupting = CorruptingDecoder.of(plain, "rotate")
    image = digits_data.test_images[0, 0]
    assert (corrupting(image) == corrupted(plain(image), "rotate")).all()
    assert (corrupting.input, corrupting.invert, corrupting.largest_image) == (plain.input, True, 784)


def test_shot_noise_has_the_variance_of_few_photons() -> None:
    noisy = corrupted(grey(51, 200), "shot_noise") / 255
    assert noisy.mean() == pytest.approx(0.2, abs=0.01)
    assert noisy.var() == pytest.approx(0.2 / 5, rel=0.1)


def test_impulse_noise_makes_some_pixels_black_and_as_many_white() -> None:
    noisy = corrupted(grey(128, 200), "impulse_noise")
    assert (noisy == 0).mean() == pytest.approx(0.08, abs=0.01)
    assert (noisy == 255).mean() == pytest.approx(0.08, abs=0.01)
    assert (noisy == 128).mean() == pytest.approx(0.84, abs=0.015)


@pytest.mark.parametrize("name", ["glass_blur", "motion_blur"])
def test_blurs_keep_the_light_and_spread_it(name: str, bar: Pixels) -> None:
    mass, _, _, across, down = moments(bar)
    blurred_mass, _, _, blurred_across, blurred_down = moments(corrupted(bar, name))
    assert blurred_mass == pytest.approx(mass, rel=0.15)
    assert blurred_across**2 + blurred_down**2 > across**2 + down**2 + 0.5


def test_geometry_is_as_named(bar: Pixels) -> None:
    _, x, y, _, _ = moments(bar)
    assert angle(corrupted(bar, "rotate")) == pytest.approx(30, abs=1)
    moved = moments(corrupted(bar, "translate"))
    assert math.hypot(moved[1] - x, moved[2] - y) == pytest.approx(6, abs=0.2)
    sheared = corrupted(bar, "shear")[0]
    ends = [float((row * np.arange(28)).sum() / row.sum()) for row in (sheared[7], sheared[20])]
    assert abs(ends[1] - ends[0]) == pytest.approx(13 * 0.5, abs=0.3)


def test_scale_is_by_three_fifths() -> None:
    rows, columns = np.mgrid[:28, :28] - 13.5
    blob = (255 * np.exp(-(columns**2) / 18 - rows**2 / 32)).astype(np.uint8)[None]
    (mass, *centre, across, down), small = moments(blob), moments(corrupted(blob, "scale"))
    assert small == pytest.approx((0.36 * mass, *centre, 0.6 * across, 0.6 * down), rel=0.03)


def test_brightness_adds_light_up_to_white() -> None:
    assert corrupted(grey(100), "brightness").tolist() == grey(202).tolist()
    assert corrupted(grey(200), "brightness").tolist() == grey(255).tolist()


def test_a_stripe_inverts_a_quarter_at_either_side() -> None:
    striped = corrupted(grey(30), "stripe")[0, 0].tolist()
    assert striped == [225] * 7 + [30] * 14 + [225] * 7


def test_fog_lightens_the_dark_and_dims_the_light(bar: Pixels) -> None:
    foggy = corrupted(bar, "fog")
    assert foggy[bar == 0].mean() > 20
    assert foggy[bar == 255].mean() < 235
    assert np.abs(np.diff(foggy[0].astype(int), axis=0))[:, :10].max() < 40  # clouds, and no noise of single pixels


def test_spatter_is_white_drops_on_a_part_of_the_image() -> None:
    drops = corrupted(grey(0, 56), "spatter")[0] == 255
    assert drops.mean() == pytest.approx(0.15, abs=0.02)
    neighbours = drops[:, 1:] == drops[:, :-1]
    assert neighbours.mean() > 0.9  # in drops, not in single pixels


@pytest.mark.parametrize(("height", "width"), [(28, 28), (64, 64), (28, 56), (56, 28), (224, 224)])
def test_lines_reach_from_side_to_side(height: int, width: int) -> None:
    dark = np.zeros((1, height, width), np.uint8)
    zigzag, dotted = (corrupted(dark, name)[0] > 100 for name in ("zigzag", "dotted_line"))
    assert zigzag.any(axis=0).all()
    starts = np.diff(dotted.any(axis=0).astype(int), prepend=0) == 1
    assert starts.sum() == 9
    assert zigzag.mean() < 0.2 and dotted.mean() < 0.06


@pytest.mark.parametrize("side", [28, 56, 112, 224])
def test_canny_edges_are_the_outline_one_pixel_wide(side: int) -> None:
    unit = side // 28
    square = grey(0, side)
    square[:, 8 * unit : 20 * unit, 8 * unit : 20 * unit] = 255
    edges = corrupted(square, "canny_edges")[0] == 255
    inside = slice(10 * unit, 18 * unit)
    assert not edges[inside, inside].any() and not edges[: 6 * unit].any() and not edges[:, : 6 * unit].any()
    for row in edges[inside]:
        assert np.flatnonzero(row).size == 2
    assert not corrupted(grey(77, side), "canny_edges").any()


def test_photographs_keep_their_colours_where_nothing_is_drawn() -> None:
    red = np.zeros((3, 100, 60), np.uint8)
    red[0] = 200
    for name in ("rotate", "motion_blur", "glass_blur"):
        middle = corrupted(red, name)[:, 45:55, 25:35]
        assert np.abs(middle.astype(int) - np.array([200, 0, 0])[:, None, None]).max() <= 1
    assert Image.fromarray(corrupted(red, "zigzag").transpose(1, 2, 0)).getcolors() is not None
