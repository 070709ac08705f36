"""Compare the throughput of `netkit infer` with its local engine and with Ray, on one machine.

    python scripts/bench/cluster.py [--images N] [--turns N]

Runs the command over PNG files of digits, in turns, with the local engine, with Ray, and with Ray on a running cluster
of two nodes with one core each. Prints one Markdown table of medians. "images/s without start-up" excludes the time and
the images of a run over 100 images. The last line is the time of a Ray Data pipeline of actors that do nothing: the
overhead of Ray alone. Needs the extra [cluster].
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

NETKIT = Path(sys.executable).with_name("netkit")
LOCAL, RAY, TWO_NODES = "local", "ray", "ray, two nodes"
ENGINES = {
    LOCAL: ("--out", "rows.parquet"),
    RAY: ("--engine", "ray", "--out", "rows"),
    TWO_NODES: ("--engine", "ray", "--workers", "2", "--out", "rows"),
}
FILES_PER_FOLDER = 10_000
SMALL_RUN_IMAGES = 100
NO_OP_PIPELINE = """
import os, ray, ray.data
class Identity:
    def __call__(self, row):
        return row
ray.init(address="local", include_dashboard=False, log_to_driver=False)
cores = len(os.sched_getaffinity(0))
rows = ray.data.from_items([{"index": index} for index in range(cores)])
list(rows.map(Identity, compute=ray.data.ActorPoolStrategy(size=cores), num_cpus=1).iter_rows())
ray.shutdown()
"""


def netkit(*arguments: str, cwd: Path) -> str:
    """Run the netkit command and return its stderr."""
    return subprocess.run([NETKIT, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stderr


def prepare(folder: Path, images: int) -> None:
    """Create model.onnx, `images` files in images/ and SMALL_RUN_IMAGES files in small/, as hard links to digits."""
    netkit("train", "--arch", "residual", "--epochs", "0.5", cwd=folder)
    netkit("export", "--arch", "residual", "--out", "model.onnx", cwd=folder)
    netkit("sample", "digits", cwd=folder)
    sources = sorted((folder / "digits").rglob("*.png"))
    for index in range(images):
        subfolder = folder / f"images/{index // FILES_PER_FOLDER:03}"
        if index % FILES_PER_FOLDER == 0:
            subfolder.mkdir(parents=True)
        os.link(sources[index % len(sources)], subfolder / f"{index}.png")
    (folder / "small").mkdir()
    for index, source in enumerate(sources[:SMALL_RUN_IMAGES]):
        os.link(source, folder / f"small/{index}.png")


@contextmanager
def two_node_cluster() -> Iterator[str]:
    """Start a Ray cluster of two nodes with one core each on this machine; yield its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def infer_s(folder: Path, engine: str, images: str, count: int) -> float:
    """Return the seconds of `netkit infer` over the folder `images`, which has `count` files."""
    with two_node_cluster() if engine == TWO_NODES else nullcontext() as address:
        options = (*ENGINES[engine], *(("--address", address) if address else ()))
        started = time.monotonic()
        stderr = netkit("infer", images, "--model", "model.onnx", *options, cwd=folder)
        ended = time.monotonic()
    assert f"{count:,} files" in stderr, stderr
    return ended - started


def no_op_s() -> float:
    """Return the seconds in which Ray starts, passes one row per core through actors that do nothing, and stops."""
    started = time.monotonic()
    loopback_only = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | loopback_only
    subprocess.run([sys.executable, "-c", NO_OP_PIPELINE], env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    total: dict[str, list[float]] = {name: [] for name in ENGINES}
    small: dict[str, list[float]] = {name: [] for name in ENGINES}
    no_op: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.images)
        for _ in range(arguments.turns):
            for engine in ENGINES:
                total[engine].append(infer_s(folder, engine, "images", arguments.images))
                small[engine].append(infer_s(folder, engine, "small", SMALL_RUN_IMAGES))
            no_op.append(no_op_s())
    columns = (
        "engine", "total time", "images/s", "ratio to local", f"time for {SMALL_RUN_IMAGES} images",
        "images/s without start-up", "ratio to local, without start-up",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    speeds: dict[str, tuple[float, float]] = {}
    for engine in ENGINES:
        total_s, small_s = statistics.median(total[engine]), statistics.median(small[engine])
        speeds[engine] = arguments.images / total_s, (arguments.images - SMALL_RUN_IMAGES) / (total_s - small_s)
        (speed, without_start), (local, local_without_start) = speeds[engine], speeds[LOCAL]
        print(
            f"| {engine} | {total_s:.1f} s | {speed:,.0f} | {speed / local:.2f} "
            f"| {small_s:.1f} s | {without_start:,.0f} | {without_start / local_without_start:.2f} |"
        )
    print(f"\ntime of an empty Ray Data pipeline: {statistics.median(no_op):.1f} s")


if __name__ == "__main__":
    main()
