"""Compare the time to decode large JPEG photos to 224x224 pixels.

    python scripts/bench/photos.py [--rounds N]

Writes synthetic photos of 12, 24 and 48 megapixels: smooth colors with noise, baseline and progressive. Decodes each
one in one thread with Pillow alone, with netkit in full, and with netkit at a reduced scale (the `draft` of a model
card), in turns. Prints one Markdown table with medians and with the largest difference between netkit's two ways.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from netkit.core.model_card import Input
from netkit.images.decoder import Decoder

SIZES = {12: (4000, 3000), 24: (6000, 4000), 48: (8000, 6000)}  # megapixels -> width and height
TARGET = 224
FULL, REDUCED = (Decoder(Input(3, TARGET, TARGET, draft=draft), max_pixels=178_000_000) for draft in (False, True))
DECODERS: dict[str, Callable[[str], NDArray[Any]]] = {
    "Pillow": lambda path: np.asarray(Image.open(path).resize((TARGET, TARGET), Image.Resampling.BILINEAR)),
    "netkit, in full": FULL,
    "netkit, reduced": REDUCED,
}


def write_photos(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the path of each photo."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 6, (1000, 1000, 3)).astype(np.int16)
    for megapixels, (width, height) in SIZES.items():
        colors = Image.fromarray(generator.integers(0, 256, (height // 64, width // 64, 3), np.uint8))
        pixels = np.array(colors.resize((width, height), Image.Resampling.BICUBIC))
        for top in range(0, height, 1000):
            for left in range(0, width, 1000):
                block = pixels[top : top + 1000, left : left + 1000]
                block[:] = np.clip(block + noise, 0, 255)
        for progressive in (False, True):
            path = folder / f"{megapixels}-{progressive}.jpg"
            Image.fromarray(pixels).save(path, quality=92, progressive=progressive)
            yield f"{megapixels} MP, {'progressive' if progressive else 'baseline'}", str(path)


def milliseconds(decode: Callable[[str], NDArray[Any]], path: str) -> float:
    started = time.perf_counter()
    decode(path)
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    columns = ("photo", *(f"{name}, ms" for name in DECODERS), "speed-up over Pillow", "largest difference, levels")
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for photo, path in write_photos(Path(folder)):
            times: dict[str, list[float]] = {name: [] for name in DECODERS}
            for _ in range(rounds):
                for name, decode in DECODERS.items():
                    times[name].append(milliseconds(decode, path))
            medians = [statistics.median(values) for values in times.values()]
            difference = np.abs(FULL(path).astype(int) - REDUCED(path)).max()
            cells = (*(f"{median:.0f}" for median in medians), f"{medians[0] / medians[2]:.1f} times", str(difference))
            print(f"| {photo} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
