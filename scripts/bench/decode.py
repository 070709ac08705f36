"""Compare image decoders: speed on small PNG files, and damaged files that they decode without an error.

    python scripts/bench/decode.py [--rounds N] [--count N]

Decodes MNIST test images, as `netkit sample` writes them, with netkit's decoder (Pillow plus a check of all PNG
checksums), with Pillow and, if it is installed, with OpenCV: in one thread, in one thread per core and in one process
per core, in turns. Then damages one file in every possible way of two kinds, single-bit flips and truncations, and
counts the results that decode to a different image without an exception. Prints one Markdown table with medians.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from netkit.core.model_card import Input
from netkit.core.system import usable_cores
from netkit.data import mnist
from netkit.data.sample import write_sample
from netkit.images.decoder import Decoder

CORES = usable_cores()
NETKIT = Decoder(Input(1, 28, 28))
cv2: Any = import_module("cv2") if find_spec("cv2") else None
Decode = Callable[[str], NDArray[Any]]  # path -> (28, 28)


def decode_with_pillow(path: str) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def decode_with_netkit(path: str) -> NDArray[Any]:
    return NETKIT(path)[0]


def decode_with_opencv(path: str) -> NDArray[Any]:
    image: NDArray[Any] | None = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(path)
    return image


def decoders() -> Iterator[tuple[str, Decode]]:
    yield "netkit (Pillow, all checksums)", decode_with_netkit
    yield "Pillow", decode_with_pillow
    if cv2:
        cv2.setNumThreads(1)
        yield "OpenCV", decode_with_opencv


def decode_all(decode: Decode, paths: list[str]) -> None:
    for path in paths:
        decode(path)


def images_per_s(decode: Decode, paths: list[str], pool: Executor, workers: int) -> float:
    started = time.perf_counter()
    futures = [pool.submit(decode_all, decode, paths[first::workers]) for first in range(workers)]
    for future in futures:
        future.result()
    return len(paths) / (time.perf_counter() - started)


def bit_flips(content: bytes) -> Iterator[bytes]:
    for index in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[index // 8] ^= 1 << index % 8
        yield bytes(flipped)


def truncations(content: bytes) -> Iterator[bytes]:
    return (content[:size] for size in range(len(content)))


def undetected(decode: Decode, path: Path, damage: Callable[[bytes], Iterator[bytes]]) -> str:
    """Count the damaged versions of a file that decode to a different image without an exception."""
    original, damaged_path = decode(str(path)), path.with_name(f"damaged{path.suffix}")
    wrong = []
    for content in damage(path.read_bytes()):
        damaged_path.write_bytes(content)
        wrong.append(False)
        with suppress(Exception):  # any exception counts as detected
            wrong[-1] = not np.array_equal(decode(str(damaged_path)), original)
    return f"{sum(wrong):,} of {len(wrong):,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_sample(mnist.load(), Path(folder), count=arguments.count)
        files = sorted(Path(folder).rglob("*.png"))
        paths, peers = [str(path) for path in files], dict(decoders())
        processes = ProcessPoolExecutor(CORES, get_context("fork"))
        processes.submit(os.getpid).result()  # fork before any thread starts
        pools: list[tuple[Executor, int]] = [(ThreadPoolExecutor(1), 1), (ThreadPoolExecutor(CORES), CORES)]
        pools.append((processes, CORES))
        speeds: dict[str, list[list[float]]] = {name: [[] for _ in pools] for name in peers}
        for _ in range(arguments.rounds):
            for index, (pool, workers) in enumerate(pools):
                for name, decode in peers.items():
                    speeds[name][index].append(images_per_s(decode, paths, pool, workers))
        jpeg = files[0].with_suffix(".jpg")
        Image.open(files[0]).save(jpeg)
        columns = (
            "decoder", "images/s, one thread", f"images/s, {CORES} threads", f"images/s, {CORES} processes",
            "undetected bit flips, PNG", "undetected truncations, PNG", "undetected truncations, JPEG",
        )  # fmt: skip
        print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
        for name, decode in peers.items():
            medians = (f"{statistics.median(values):,.0f}" for values in speeds[name])
            damages = ((files[0], bit_flips), (files[0], truncations), (jpeg, truncations))
            wrong = (undetected(decode, path, damage) for path, damage in damages)
            print(f"| {name} | {' | '.join((*medians, *wrong))} |")


if __name__ == "__main__":
    main()
