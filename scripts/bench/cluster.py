"""How much of the local engine's speed is left where Ray shares the work out among workers on the same machine.

    python scripts/bench/cluster.py [--images N] [--turns N]

The same digits, as PNG files, by `netkit infer` with either engine, and with Ray on a cluster of two nodes of a core
each that runs already on this machine, one after the other in turns; and a pipeline of Ray Data's own, with as many
actors that do nothing. The table has medians of the whole command, and of what it makes in a second: in all, and beyond
the first few, which take Ray's start and end alone. Needs netkit's extra [cluster].
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
LOCAL, RAY, NODES = "local", "ray", "ray, two nodes"
ENGINES = {
    LOCAL: ("--out", "rows.parquet"),
    RAY: ("--engine", "ray", "--out", "rows"),
    NODES: ("--engine", "ray", "--workers", "2", "--out", "rows"),
}
IN_FOLDER = 10_000
FEW = 100  # images, in a folder of their own
NOTHING = "ray, nothing to do"
IDLE = """
import os, ray, ray.data
class Same:
    def __call__(self, row):
        return row
ray.init(address="local", include_dashboard=False, log_to_driver=False)
cores = len(os.sched_getaffinity(0))
rows = ray.data.from_items([{"number": number} for number in range(cores)])
list(rows.map(Same, compute=ray.data.ActorPoolStrategy(size=cores), num_cpus=1).iter_rows())
ray.shutdown()
"""


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
    (folder / "first").mkdir()
    for number, file in enumerate(files[:FEW]):
        os.link(file, folder / f"first/{number}.png")


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes, with a core each, on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    core: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args=core)
    try:
        cluster.add_node(**core)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def seconds(folder: Path, engine: str, images: str, count: int) -> float:
    with two_nodes() if engine == NODES else nullcontext() as address:
        options = (*ENGINES[engine], *(("--address", address) if address else ()))
        started = time.monotonic()
        said = netkit("infer", images, "--model", "model.onnx", *options, cwd=folder)
        ended = time.monotonic()
    assert f"{count:,} files" in said, said
    return ended - started


def idle_seconds() -> float:
    """What Ray Data takes for itself: to start on this machine, hand each actor a row, take it back, and end."""
    started = time.monotonic()
    loopback_alone = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | loopback_alone
    subprocess.run([sys.executable, "-c", IDLE], env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    whole: dict[str, list[float]] = {name: [] for name in ENGINES}
    start: dict[str, list[float]] = {name: [] for name in (*ENGINES, NOTHING)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(folder, asked.images)
        for _ in range(asked.turns):
            for engine in ENGINES:
                whole[engine].append(seconds(folder, engine, "images", asked.images))
                start[engine].append(seconds(folder, engine, "first", FEW))
            start[NOTHING].append(idle_seconds())
    print(
        "| engine | whole command | images/s | of local | start and end | images/s beside | of local |",
        "|---" * 7 + "|",
        sep="\n",
    )
    speeds: dict[str, tuple[float, float]] = {}
    for engine in ENGINES:
        all_s, few_s = statistics.median(whole[engine]), statistics.median(start[engine])
        speeds[engine] = asked.images / all_s, (asked.images - FEW) / (all_s - few_s)
        (speed, beside), (local, local_beside) = speeds[engine], speeds[LOCAL]
        print(
            f"| {engine} | {all_s:.1f} s | {speed:,.0f} | {speed / local:.2f} "
            f"| {few_s:.1f} s | {beside:,.0f} | {beside / local_beside:.2f} |"
        )
    print(f"| {NOTHING} | | | | {statistics.median(start[NOTHING]):.1f} s | | |")


if __name__ == "__main__":
    main()
