"""What one bad file in a hundred costs `netkit infer`.

    python scripts/bench/faults.py MODEL.onnx [--turns N]

100,000 files of digits, all good, against as many of which 1,000 are cut off, empty or no images. Turns alternate;
prints one Markdown table of medians.
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
FILES, EACH = 100_000, 100  # so many, and one bad one in so many


def folders(place: Path) -> tuple[Path, Path]:
    images = digits.load().test_images
    good, bad = place / "good", place / "bad"
    for folder in (good, bad):
        folder.mkdir()
    sources = [place / f"{index}.png" for index in range(100)]
    for path, image in zip(sources, images, strict=False):
        Image.fromarray(image[0]).save(path)
    spoilt = [sources[0].read_bytes()[:100], b"", b"<html>404</html>", bytes(300)]
    for index in range(FILES):
        name, source = f"{index:06}.png", sources[index % len(sources)]
        os.link(source, good / name)
        if index % EACH == EACH // 2:
            (bad / name).write_bytes(spoilt[index // EACH % len(spoilt)])
        else:
            os.link(source, bad / name)
    return good, bad


def seconds(folder: Path, model: str, code: int) -> float:
    started = time.monotonic()
    done = subprocess.run(
        [NETKIT, "infer", folder, "--model", model, "--out", folder.parent / "r.csv"], capture_output=True
    )
    assert done.returncode == code, done.stderr
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        good, bad = folders(Path(place))
        seconds(good, arguments.model, 0)  # warms the disk's cache
        times = [(seconds(good, arguments.model, 0), seconds(bad, arguments.model, 1)) for _ in range(arguments.turns)]
    whole, spoilt = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    print("| files | whole command | of all good |\n|---|---|---|")
    print(f"| {FILES:,}, all good | {whole:.2f} s | 1.000 |")
    print(f"| {FILES // EACH:,} of them bad | {spoilt:.2f} s | {ratio:.3f} |")


if __name__ == "__main__":
    main()
