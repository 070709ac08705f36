"""How much of the local engine's speed is left where Ray shares the work out among workers on the same machine.

    python scripts/bench_cluster.py [--images N] [--turns N]

The same digits, as PNG files, by `netkit infer` with either engine, one after the other in turns; the table has medians
of the whole command, start included, and of what it says it made in a second. Needs netkit's extra [cluster].
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NETKIT = Path(sys.executable).with_name("netkit")
ENGINES = {"local": ("--out", "rows.parquet"), "ray": ("--engine", "ray", "--out", "rows")}
IN_FOLDER = 10_000


def netkit(*arguments: str, cwd: Path) -> str:
    """What the command said on stderr."""
    return subprocess.run([NETKIT, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stderr


def prepared(folder: Path, images: int) -> None:
    """A model, model.onnx, and so many images, links to the test set's, in images/."""
    netkit("train", "--arch", "residual", "--epochs", "0.5", cwd=folder)
    netkit("export", "--arch", "residual", "--out", "model.onnx", cwd=folder)
    netkit("sample", "few", cwd=folder)
    files = sorted((folder / "few").rglob("*.png"))
    for number in range(images):
        place = folder / f"images/{number // IN_FOLDER:03}"
        if number % IN_FOLDER == 0:
            place.mkdir(parents=True)
        os.link(files[number % len(files)], place / f"{number}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in ENGINES}
    speeds: dict[str, list[float]] = {name: [] for name in ENGINES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(folder, asked.images)
        for _ in range(asked.turns):
            for engine, options in ENGINES.items():
                started = time.monotonic()
                said = netkit("infer", "images", "--model", "model.onnx", *options, cwd=folder)
                seconds[engine].append(time.monotonic() - started)
                found = re.search(r"\(([\d,]+)/s", said)
                assert found and f"{asked.images:,} files" in said, said
                speeds[engine].append(float(found[1].replace(",", "")))
    print("| engine | whole command | images/s | of local |", "|---" * 4 + "|", sep="\n")
    for engine in ENGINES:
        speed = statistics.median(speeds[engine])
        share = speed / statistics.median(speeds["local"])
        print(f"| {engine} | {statistics.median(seconds[engine]):.1f} s | {speed:,.0f} | {share:.2f} |")


if __name__ == "__main__":
    main()
