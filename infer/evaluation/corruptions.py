"""Corruptions: what befalls images in the world, in the manner of MNIST-C (Mu and Gilmer 2019, arXiv:1906.02337).

The fifteen of that paper's benchmark, written anew, one strength each, for images of any size and with colours, too.
Lengths are in units of a pixel of a 28x28 image. Accuracies compare among models that netkit evaluates, not with those
that others report on the paper's own files.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Levels = NDArray[np.float32]  # (channels, height, width), from 0 to 1
Random = np.random.Generator

PHOTONS = 5  # of a white pixel
SALT = 0.08  # of the pixels, and of pepper as much
SHEAR, SMALLER, TURN = 0.5, 0.6, math.radians(30)
LIGHT = 0.4
FOG = 0.8
DROPS = 0.85  # of the pixels are free of them
WEAK, STRONG = 0.1, 0.2  # edges, in levels a unit; a weak one counts beside a strong one


def corrupted(pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Of pixels (channels, height, width) as many, corrupted; what chance does to an image depends on it alone."""
    chance = np.random.default_rng([zlib.crc32(pixels.tobytes()), zlib.crc32(name.encode())])
    levels: Levels = np.divide(pixels, 255, dtype=np.float32)
    return (CORRUPTIONS[name](levels, chance).clip(0, 1) * 255).round().astype(np.uint8)


def shot_noise(image: Levels, chance: Random) -> Levels:
    """Few photons."""
    return (chance.poisson(image * PHOTONS) / PHOTONS).astype(np.float32)


def impulse_noise(image: Levels, chance: Random) -> Levels:
    """Pixels that are black or white, whatever they were."""
    draw = chance.random(image.shape[1:])
    return np.where(draw < SALT, 1, np.where(draw > 1 - SALT, 0, image)).astype(np.float32)


def glass_blur(image: Levels, chance: Random) -> Levels:
    """Each pixel from beside its place, twice, between two soft blurs."""
    _, height, width = image.shape
    rows, columns = np.mgrid[:height, :width]
    reach = max(1, round(_unit(image)))
    soft = _blurred(image, 0.7)
    for _ in range(2):
        down, right = chance.integers(-reach, reach + 1, (2, height, width))
        soft = soft[:, (rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)]
    return _blurred(soft, 0.7)


def motion_blur(image: Levels, chance: Random) -> Levels:
    """A hand that moved by 7 in some direction."""
    angle = chance.uniform(0, math.pi)
    steps = np.linspace(-3.5, 3.5, 8)
    return np.mean([_moved(image, step * math.sin(angle), step * math.cos(angle)) for step in steps], axis=0)


def shear(image: Levels, chance: Random) -> Levels:
    """Slanted by half of its height, to either side."""
    return _mapped(image, ((1, chance.choice((-SHEAR, SHEAR))), (0, 1)))


def scale(image: Levels, chance: Random) -> Levels:
    """Smaller, in the middle."""
    return _mapped(image, ((1 / SMALLER, 0), (0, 1 / SMALLER)))


def rotate(image: Levels, chance: Random) -> Levels:
    """Turned by 30 degrees, to either side."""
    angle = chance.choice((-TURN, TURN))
    return _mapped(image, ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))))


def brightness(image: Levels, chance: Random) -> Levels:
    """Too much light on all of it."""
    return image + LIGHT


def translate(image: Levels, chance: Random) -> Levels:
    """Moved by 6 in some direction."""
    angle = chance.uniform(0, 2 * math.pi)
    return _moved(image, 6 * math.sin(angle), 6 * math.cos(angle))


def stripe(image: Levels, chance: Random) -> Levels:
    """A quarter at either side inverted."""
    across = np.arange(width := image.shape[2])
    return np.where(np.abs(across - (width - 1) / 2) > width / 4, 1 - image, image)


def fog(image: Levels, chance: Random) -> Levels:
    """Clouds, coarse and fine, that also take away light."""
    clouds = np.sum([_clouds(image, chance, cells) / cells for cells in (2, 4, 8, 16)], axis=0)
    return np.asarray((image + FOG * _stretched(clouds)) / (1 + FOG), np.float32)


def spatter(image: Levels, chance: Random) -> Levels:
    """Drops on the lens."""
    noise = _blurred(chance.random((1, *image.shape[1:]), np.float32), 1.2)
    return np.maximum(image, noise > np.quantile(noise, DROPS))


def dotted_line(image: Levels, chance: Random) -> Levels:
    """Dots on a line from side to side."""
    start, end = chance.uniform(4, 24, 2)
    dots = [(along, start + (end - start) * along / 28) for along in range(1, 28, 3)]

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        for place in _placed(image, dots):
            canvas.circle(place, max(0.6 * _unit(image), 0.6), fill=255)

    return _drawn_on(image, draw)


def zigzag(image: Levels, chance: Random) -> Levels:
    """A line that goes up and down, from side to side."""
    start, end = chance.uniform(6, 22, 2)
    corners = [
        (along, start + (end - start) * along / 28 + (-2.5, 2.5)[turn % 2])
        for turn, along in enumerate(np.arange(-1, 34, 3.5))
    ]
    width = max(1, round(_unit(image)))
    return _drawn_on(image, lambda canvas: canvas.line(_placed(image, corners), fill=255, width=width))


def canny_edges(image: Levels, chance: Random) -> Levels:
    """Edges alone, one pixel wide (Canny 1986, A Computational Approach to Edge Detection)."""
    soft = np.pad(_blurred(image.mean(axis=0, keepdims=True), 1)[0], 1, mode="edge")
    down, right = np.gradient(soft)
    steepness = np.hypot(down, right) * _unit(image)
    direction = np.round(np.arctan2(down, right) / (math.pi / 4)).astype(int) % 4  # to the right, aslant, down, aslant
    ridge = np.zeros_like(steepness, bool)
    for number, (row, column) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        before, after = (np.roll(steepness, (sign * row, sign * column), (0, 1)) for sign in (1, -1))
        ridge |= (direction == number) & (steepness >= before) & (steepness > after)
    ridge = ridge[1:-1, 1:-1]
    weak, edges = (ridge & (steepness[1:-1, 1:-1] > least) for least in (WEAK, STRONG))
    while (wider := weak & _thickened(edges)).sum() > edges.sum():
        edges = wider
    return np.broadcast_to(edges, image.shape).astype(np.float32)


CORRUPTIONS: Mapping[str, Callable[[Levels, Random], Levels]] = {
    each.__name__: each
    for each in (
        shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness, translate, stripe, fog,
        spatter, dotted_line, zigzag, canny_edges,
    )
}  # fmt: skip


def _unit(image: Levels) -> float:
    return min(image.shape[1:]) / 28


def _blurred(image: Levels, sigma: float) -> Levels:
    """By a Gaussian of that width in units, cut off at three times as much."""
    sigma *= _unit(image)
    reach = max(1, math.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    weights /= weights.sum()
    for axis in (1, 2):
        pads = [(reach, reach) if axis == each else (0, 0) for each in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, pads, mode="edge"), 2 * reach + 1, axis)
        image = windows @ weights
    return image


def _mapped(image: Levels, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Levels:
    """Each pixel from where the matrix sends it, seen from the middle, as (right, down); black from outside."""
    _, height, width = image.shape
    (a, b), (c, d) = matrix
    x, y = width / 2, height / 2
    return _transformed(image, (a, b, x - a * x - b * y, c, d, y - c * x - d * y))


def _moved(image: Levels, down: float, right: float) -> Levels:
    unit = _unit(image)
    return _transformed(image, (1, 0, -right * unit, 0, 1, -down * unit))


def _transformed(image: Levels, terms: tuple[float, ...]) -> Levels:
    _, height, width = image.shape
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    moved = (Image.fromarray(channel).transform((width, height), affine, terms, bilinear) for channel in image)
    return np.stack([np.asarray(channel) for channel in moved])


def _clouds(image: Levels, chance: Random, cells: int) -> Levels:
    """Noise of so many cells in each direction, as large as the image."""
    _, height, width = image.shape
    noise = Image.fromarray(chance.random((cells, cells), np.float32))
    return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))


def _stretched(levels: Levels) -> Levels:
    """From 0 to 1."""
    low, high = levels.min(), levels.max()
    return (levels - low) / max(high - low, np.finfo(np.float32).eps)


def _placed(image: Levels, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """From those of a 28x28 image, to where they are in this one."""
    _, height, width = image.shape
    return [(x * width / 28, y * height / 28) for x, y in points]


def _drawn_on(image: Levels, draw: Callable[[ImageDraw.ImageDraw], None]) -> Levels:
    _, height, width = image.shape
    canvas = Image.new("L", (width, height))
    draw(ImageDraw.Draw(canvas))
    return np.maximum(image, np.asarray(canvas) / np.float32(255))


def _thickened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With all neighbours."""
    padded = np.pad(mask, 1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any(axis=(2, 3)), np.bool_)
