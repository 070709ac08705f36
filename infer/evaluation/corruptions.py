"""Fifteen image corruptions, after the benchmark MNIST-C (Mu and Gilmer 2019, arXiv:1906.02337).

An independent implementation with one strength per corruption, for grey and color images of any size. Lengths are in
units of one pixel of a 28x28 image. Accuracies are comparable between models that netkit evaluates, but not with
results published on the paper's own files.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Levels = NDArray[np.float32]  # (channels, height, width), from 0 to 1
Rng = np.random.Generator

WHITE_PHOTONS = 5  # mean number of photons of a white pixel
SALT_SHARE = 0.08  # share of the pixels that turn white; as many turn black
SHEAR_SLOPE, SCALE_FACTOR, ROTATION_RAD = 0.5, 0.6, math.radians(30)
MOTION_LENGTH, TRANSLATION = 7, 6  # units
BRIGHTNESS_OFFSET = 0.4
FOG_DENSITY = 0.8
CLEAR_SHARE = 0.85  # share of the pixels without spatter
WEAK_EDGE, STRONG_EDGE = 0.1, 0.2  # gradients, in levels per unit; a weak edge counts next to a strong one


def corrupt(pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Apply the named corruption to pixels (channels, height, width).

    The random numbers are seeded by the pixels and the name: equal images are always corrupted equally.
    """
    rng = np.random.default_rng([zlib.crc32(pixels.tobytes()), zlib.crc32(name.encode())])
    levels: Levels = np.divide(pixels, 255, dtype=np.float32)
    return (CORRUPTIONS[name](levels, rng).clip(0, 1) * 255).round().astype(np.uint8)


def shot_noise(image: Levels, rng: Rng) -> Levels:
    """Poisson noise of a low photon count."""
    return (rng.poisson(image * WHITE_PHOTONS) / WHITE_PHOTONS).astype(np.float32)


def impulse_noise(image: Levels, rng: Rng) -> Levels:
    """Salt and pepper: random pixels turn white or black."""
    uniform = rng.random(image.shape[1:])
    return np.where(uniform < SALT_SHARE, 1, np.where(uniform > 1 - SALT_SHARE, 0, image)).astype(np.float32)


def glass_blur(image: Levels, rng: Rng) -> Levels:
    """Each pixel takes the value of a random neighbor, twice, between two Gaussian blurs."""
    _, height, width = image.shape
    rows, columns = np.mgrid[:height, :width]
    reach = max(1, round(_unit(image)))
    smooth = _blur(image, 0.7)
    for _ in range(2):
        down, right = rng.integers(-reach, reach + 1, (2, height, width))
        smooth = smooth[:, (rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)]
    return _blur(smooth, 0.7)


def motion_blur(image: Levels, rng: Rng) -> Levels:
    """Motion of the camera in a random direction."""
    angle = rng.uniform(0, math.pi)
    steps = np.linspace(-MOTION_LENGTH / 2, MOTION_LENGTH / 2, MOTION_LENGTH + 1)
    return np.mean([_shift(image, step * math.sin(angle), step * math.cos(angle)) for step in steps], axis=0)


def shear(image: Levels, rng: Rng) -> Levels:
    """Horizontal shear, to the left or to the right."""
    return _warp(image, ((1, rng.choice((-SHEAR_SLOPE, SHEAR_SLOPE))), (0, 1)))


def scale(image: Levels, rng: Rng) -> Levels:
    """Reduced size, centered on black."""
    return _warp(image, ((1 / SCALE_FACTOR, 0), (0, 1 / SCALE_FACTOR)))


def rotate(image: Levels, rng: Rng) -> Levels:
    """Rotation by 30 degrees, clockwise or counter-clockwise."""
    angle = rng.choice((-ROTATION_RAD, ROTATION_RAD))
    return _warp(image, ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))))


def brightness(image: Levels, rng: Rng) -> Levels:
    """Overexposure of the whole image."""
    return image + BRIGHTNESS_OFFSET


def translate(image: Levels, rng: Rng) -> Levels:
    """Translation in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    return _shift(image, TRANSLATION * math.sin(angle), TRANSLATION * math.cos(angle))


def stripe(image: Levels, rng: Rng) -> Levels:
    """The left and right quarters are inverted."""
    column = np.arange(width := image.shape[2])
    return np.where(np.abs(column - (width - 1) / 2) > width / 4, 1 - image, image)


def fog(image: Levels, rng: Rng) -> Levels:
    """Random clouds at four scales, which also reduce the contrast."""
    clouds = np.sum([_clouds(image, rng, cells) / cells for cells in (2, 4, 8, 16)], axis=0)
    return np.asarray((image + FOG_DENSITY * _rescale(clouds)) / (1 + FOG_DENSITY), np.float32)


def spatter(image: Levels, rng: Rng) -> Levels:
    """White drops, as on a wet lens."""
    noise = _blur(rng.random((1, *image.shape[1:]), np.float32), 1.2)
    return np.maximum(image, noise > np.quantile(noise, CLEAR_SHARE))


def dotted_line(image: Levels, rng: Rng) -> Levels:
    """A dotted straight line from the left to the right edge."""
    start, end = rng.uniform(4, 24, 2)
    dots = [(x, start + (end - start) * x / 28) for x in range(1, 28, 3)]

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        for point in _scale_points(image, dots):
            canvas.circle(point, max(0.6 * _unit(image), 0.6), fill=255)

    return _overlay(image, draw)


def zigzag(image: Levels, rng: Rng) -> Levels:
    """A zigzag line from the left to the right edge."""
    start, end = rng.uniform(6, 22, 2)
    corners = [
        (x, start + (end - start) * x / 28 + (-2.5, 2.5)[number % 2]) for number, x in enumerate(np.arange(-1, 34, 3.5))
    ]
    width = max(1, round(_unit(image)))
    return _overlay(image, lambda canvas: canvas.line(_scale_points(image, corners), fill=255, width=width))


def canny_edges(image: Levels, rng: Rng) -> Levels:
    """Edges only, one pixel wide (Canny 1986, A Computational Approach to Edge Detection)."""
    smooth = np.pad(_blur(image.mean(axis=0, keepdims=True), 1)[0], 1, mode="edge")
    down, right = np.gradient(smooth)
    gradient = np.hypot(down, right) * _unit(image)
    direction = np.round(np.arctan2(down, right) / (math.pi / 4)).astype(int) % 4
    ridge = np.zeros_like(gradient, bool)  # local maxima along the gradient: horizontal, diagonal, vertical, diagonal
    for number, (row, column) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        before, after = (np.roll(gradient, (sign * row, sign * column), (0, 1)) for sign in (1, -1))
        ridge |= (direction == number) & (gradient >= before) & (gradient > after)
    ridge = ridge[1:-1, 1:-1]
    weak, edges = (ridge & (gradient[1:-1, 1:-1] > threshold) for threshold in (WEAK_EDGE, STRONG_EDGE))
    while (grown := weak & _dilate(edges)).sum() > edges.sum():
        edges = grown
    return np.broadcast_to(edges, image.shape).astype(np.float32)


CORRUPTIONS: Mapping[str, Callable[[Levels, Rng], Levels]] = {
    function.__name__: function
    for function in (
        shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness, translate, stripe, fog,
        spatter, dotted_line, zigzag, canny_edges,
    )
}  # fmt: skip


def _unit(image: Levels) -> float:
    """Pixels per unit of length."""
    return min(image.shape[1:]) / 28


def _blur(image: Levels, sigma: float) -> Levels:
    """Convolve with a Gaussian; `sigma` in units, cut off at three sigma."""
    sigma *= _unit(image)
    reach = max(1, math.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    weights /= weights.sum()
    for axis in (1, 2):
        pads = [(reach, reach) if dimension == axis else (0, 0) for dimension in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, pads, mode="edge"), 2 * reach + 1, axis)
        image = windows @ weights
    return image


def _warp(image: Levels, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Levels:
    """Output pixel (x, y), relative to the center, takes its value from input (matrix @ (x, y)); black outside."""
    _, height, width = image.shape
    (a, b), (c, d) = matrix
    x, y = width / 2, height / 2
    return _affine(image, (a, b, x - a * x - b * y, c, d, y - c * x - d * y))


def _shift(image: Levels, down: float, right: float) -> Levels:
    """Translate by lengths in units; uncovered pixels are black."""
    unit = _unit(image)
    return _affine(image, (1, 0, -right * unit, 0, 1, -down * unit))


def _affine(image: Levels, terms: tuple[float, ...]) -> Levels:
    """Pillow's affine transform of each channel: output (x, y) takes its value from (a x + b y + c, d x + e y + f)."""
    _, height, width = image.shape
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    moved = (Image.fromarray(channel).transform((width, height), affine, terms, bilinear) for channel in image)
    return np.stack([np.asarray(channel) for channel in moved])


def _clouds(image: Levels, rng: Rng, cells: int) -> Levels:
    """Random noise (cells, cells), interpolated to the size of the image."""
    _, height, width = image.shape
    noise = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))


def _rescale(levels: Levels) -> Levels:
    """Rescale to [0, 1]."""
    low, high = levels.min(), levels.max()
    return (levels - low) / max(high - low, np.finfo(np.float32).eps)


def _scale_points(image: Levels, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Scale points (x, y) of a 28x28 image to this image."""
    _, height, width = image.shape
    return [(x * width / 28, y * height / 28) for x, y in points]


def _overlay(image: Levels, draw: Callable[[ImageDraw.ImageDraw], None]) -> Levels:
    """The image with a white drawing on it."""
    _, height, width = image.shape
    canvas = Image.new("L", (width, height))
    draw(ImageDraw.Draw(canvas))
    return np.maximum(image, np.asarray(canvas) / np.float32(255))


def _dilate(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and all its neighbors (dilation by 3x3)."""
    padded = np.pad(mask, 1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any(axis=(2, 3)), np.bool_)
