"""Which decoder: how fast each reads small PNG files, and what each makes of damaged ones.

    python scripts/bench/decode.py [--rounds N] [--count N]

Test images of MNIST, as `netkit sample` writes them, become arrays (28, 28): by netkit's decoder, which is Pillow with
the checksums of the file looked at; by Pillow alone; by OpenCV, if it is installed. Each in one thread, in a thread
a core, and in a process a core; all take turns, and medians are compared. Then each single bit of one file is flipped,
one at a time, and the file, and the same image as JPEG, is cut off after each of its bytes: how many of these files
become another picture without a word. Prints one Markdown table.
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
cv2: Any = import_module("cv2") if find_spec("cv2") else None  # a peer that need not be there
Levels = NDArray[Any]
Decode = Callable[[str], Levels]


def by_pillow(path: str) -> Levels:
    with Image.open(path) as image:
        return np.asarray(image)


def by_netkit(path: str) -> Levels:
    return NETKIT(path)[0]


def by_opencv(path: str) -> Levels:
    levels: Levels | None = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    if levels is None:
        raise ValueError(path)
    return levels


def decoders() -> Iterator[tuple[str, Decode]]:
    yield "netkit (Pillow, all checksums)", by_netkit
    yield "Pillow", by_pillow
    if cv2:
        cv2.setNumThreads(1)
        yield "OpenCV", by_opencv


def decode_all(decode: Decode, paths: list[str]) -> None:
    for path in paths:
        decode(path)


def per_s(decode: Decode, paths: list[str], pool: Executor, workers: int) -> float:
    started = time.perf_counter()
    shares = [pool.submit(decode_all, decode, paths[first::workers]) for first in range(workers)]
    for share in shares:
        share.result()
    return len(paths) / (time.perf_counter() - started)


def flipped(content: bytes) -> Iterator[bytes]:
    for place in range(8 * len(content)):
        bits = bytearray(content)
        bits[place // 8] ^= 1 << place % 8
        yield bytes(bits)


def cut(content: bytes) -> Iterator[bytes]:
    return (content[:size] for size in range(len(content)))


def silently_wrong(decode: Decode, path: Path, damage: Callable[[bytes], Iterator[bytes]]) -> str:
    """Of all that the damage makes of a file: how many become another picture."""
    right, other = decode(str(path)), path.with_name(f"damaged{path.suffix}")
    passed = []
    for content in damage(path.read_bytes()):
        other.write_bytes(content)
        passed.append(False)
        with suppress(Exception):  # whatever it raises, it has not kept silent
            passed[-1] = not np.array_equal(decode(str(other)), right)
    return f"{sum(passed):,} of {len(passed):,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_sample(mnist.load(), Path(name), count=asked.count)
        files = sorted(Path(name).rglob("*.png"))
        paths, found = [str(path) for path in files], dict(decoders())
        forks = ProcessPoolExecutor(CORES, get_context("fork"))
        forks.submit(os.getpid).result()  # so that they are there before threads are
        ways: list[tuple[Executor, int]] = [(ThreadPoolExecutor(1), 1), (ThreadPoolExecutor(CORES), CORES)]
        ways.append((forks, CORES))
        taken: dict[str, list[list[float]]] = {each: [[] for _ in ways] for each in found}
        for _ in range(asked.rounds):
            for place, (pool, workers) in enumerate(ways):
                for each, decode in found.items():
                    taken[each][place].append(per_s(decode, paths, pool, workers))
        jpeg = files[0].with_suffix(".jpg")
        Image.open(files[0]).save(jpeg)
        print(f"| decoder | one thread | {CORES} threads | {CORES} processes | flips | cuts | cuts of JPEG |")
        print("|---" * 7 + "|")
        for each, decode in found.items():
            speeds = (f"{statistics.median(speeds):,.0f}/s" for speeds in taken[each])
            damages = ((files[0], flipped), (files[0], cut), (jpeg, cut))
            wrong = (silently_wrong(decode, path, damage) for path, damage in damages)
            print(f"| {each} | {' | '.join((*speeds, *wrong))} |")


if __name__ == "__main__":
    main()
