"""Measure how much longer `netkit infer` takes if one file in a hundred cannot be read.

    python scripts/bench/faults.py MODEL.onnx [--turns N]

Compares 100,000 readable PNG files of digits with 100,000 files that include 1,000 truncated, empty or replaced ones.
The two runs alternate. Prints one Markdown table of medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from netkit.data import digits

NETKIT = Path(sys.executable).with_name("netkit")
FILES = 100_000
BAD_INTERVAL = 100  # every hundredth file is bad


def create_folders(parent: Path) -> tuple[Path, Path]:
    images = digits.load().test_images
    good, bad = parent / "good", parent / "bad"
    for folder in (good, bad):
        folder.mkdir()
    sources = [parent / f"{index}.png" for index in range(100)]
    for path, image in zip(sources, images, strict=False):
        Image.fromarray(image[0]).save(path)
    bad_contents = [sources[0].read_bytes()[:100], b"", b"<html>404</html>", bytes(300)]
    for index in range(FILES):
        name, source = f"{index:06}.png", sources[index % len(sources)]
        os.link(source, good / name)
        if index % BAD_INTERVAL == BAD_INTERVAL // 2:
            (bad / name).write_bytes(bad_contents[index // BAD_INTERVAL % len(bad_contents)])
        else:
            os.link(source, bad / name)
    return good, bad


def infer_s(folder: Path, model: str, exit_code: int) -> float:
    started = time.monotonic()
    done = subprocess.run(
        [NETKIT, "infer", folder, "--model", model, "--out", folder.parent / "r.csv"], capture_output=True
    )
    assert done.returncode == exit_code, done.stderr
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    model = arguments.model
    with tempfile.TemporaryDirectory() as parent:
        good, bad = create_folders(Path(parent))
        infer_s(good, model, 0)  # warms the disk cache
        times_s = [(infer_s(good, model, 0), infer_s(bad, model, 1)) for _ in range(arguments.turns)]
    good_s, bad_s = (statistics.median(column) for column in zip(*times_s, strict=True))
    ratio = statistics.median(bad / good for good, bad in times_s)
    print("| files | total time | ratio |\n|---|---|---|")
    print(f"| {FILES:,} readable | {good_s:.2f} s | 1.000 |")
    print(f"| {FILES:,}, {FILES // BAD_INTERVAL:,} of them unreadable | {bad_s:.2f} s | {ratio:.3f} |")


if __name__ == "__main__":
    main()
