"""Run a model over images repeatedly in one process, to check that results and memory stay constant.

    python scripts/tools/soak.py MODEL.onnx FOLDER [--minutes N]

Calls the predictor of netkit.load, as a service does, with paths, arrays, single images and unreadable files in turn.
Prints one Markdown table with the speed and the resident memory in each tenth of the run time.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

import netkit
from netkit.infer.pipeline.inputs import find_inputs


def resident_mib() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--minutes", type=float, default=30)
    arguments = parser.parse_args()
    paths = list(find_inputs([arguments.folder]))[:10_000]
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths[:1000]])
    classify = netkit.load(arguments.model, device="cpu")
    expected = [row.label for row in classify(paths)]
    print("| minutes | calls | images | images/s | resident memory, MiB |\n|---|---|---|---|---|")
    started, calls, images = time.monotonic(), 0, 0
    for tenth in range(1, 11):
        tenth_started, images_before = time.monotonic(), images
        while time.monotonic() - started < tenth / 10 * arguments.minutes * 60:
            assert [row.label for row in classify(paths)] == expected
            assert [row.label for row in classify(arrays)] == expected[:1000]
            assert classify(paths[0]).label == expected[0]
            assert [row.status for row in classify([__file__, "missing.png"])] == ["not-an-image", "not-found"]
            calls, images = calls + 4, images + len(paths) + len(arrays) + 3
        now = time.monotonic()
        speed = (images - images_before) / (now - tenth_started)
        print(
            f"| {(now - started) / 60:.1f} | {calls:,} | {images:,} | {speed:,.0f} | {resident_mib():.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
