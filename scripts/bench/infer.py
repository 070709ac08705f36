"""Compare the speed of `netkit infer` with a lower bound and with what a user could write instead.

    python scripts/bench/infer.py [--arch NAME ...] [--rounds N] [--count N]

The lower bound is (decode time + inference time) / cores, both measured alone in one thread. "Bare processes" are one
process per core that decodes its share of the files and runs the model without any output: processes that share a cache
and memory do not reach the lower bound. The peers are a loop that runs the same model on one image at a time, and
torchvision's ImageFolder with a DataLoader and eager PyTorch. A second table compares ways to run ONNX Runtime on all
cores. Both tables exclude start-up. The last line includes it: the time of `netkit infer` with one image, relative to
the time of `import torch`. The measured tasks alternate; all results are computed from medians.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder
from netkit.infer.model import onnx_file
from netkit.infer.runtime.providers import CPU
from netkit.infer.runtime.session import open_session
from netkit.nets.training import checkpoint

NETKIT = Path(sys.executable).with_name("netkit")
CORES = usable_cores()


def netkit(*arguments: str | Path, cwd: Path) -> None:
    subprocess.run([NETKIT, *arguments], cwd=cwd, check=True, capture_output=True)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Tasks:
    """What is measured for one network and one folder of images: each public method is one task."""

    def __init__(self, arch: str, folder: Path, images: Path) -> None:
        self.folder, self.images = folder, images
        run = folder / "runs" / arch
        netkit("train", "--arch", arch, "--epochs", "1", cwd=folder)
        netkit("export", "--arch", arch, cwd=folder)
        self.model = run / "model.onnx"
        self.files = sorted(str(path) for path in images.rglob("*.png"))
        self.session = open_session(onnx_file.read(self.model), device="cpu", threads=1)
        self.images_u8 = np.stack([Decoder(self.session.card.input)(path) for path in self.files])
        self.peer_session = ort.InferenceSession(self.model, providers=[CPU])
        net, card = checkpoint.load(run / "model.safetensors")
        self.net = net
        steps = [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize(card.mean, card.std)]
        self.loader = DataLoader(
            ImageFolder(images, transforms.Compose(steps)), batch_size=64, num_workers=CORES, persistent_workers=True
        )

    def infer(self) -> None:
        netkit("infer", self.images, "--model", self.model, "--out", "all.csv", cwd=self.folder)

    def infer_one(self) -> None:
        netkit("infer", self.files[0], "--model", self.model, "--out", "one.csv", cwd=self.folder)

    def decode(self) -> None:
        decoder = Decoder(self.session.card.input)
        for path in self.files:
            decoder(path)

    def run_network(self) -> None:
        for start in range(0, len(self.images_u8), 64):
            self.session.run(self.images_u8[start : start + 64])

    def bare_processes(self) -> None:
        self._fork(self.files)

    def start_processes(self) -> None:
        self._fork([])

    def _fork(self, files: list[str]) -> None:
        fork = get_context("fork").Process
        processes = [fork(target=self._decode_and_run, args=(files[first::CORES],)) for first in range(CORES)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0

    def _decode_and_run(self, files: list[str]) -> None:
        decoder = Decoder(self.session.card.input)
        for start in range(0, len(files), 64):
            self.session.run(np.stack([decoder(path) for path in files[start : start + 64]]))

    def loop(self) -> None:
        for path in self.files:
            with Image.open(path) as image:
                self.peer_session.run(None, {"images": np.asarray(image)[None, None]})

    @torch.no_grad()
    def image_folder(self) -> None:
        for images, _ in self.loader:
            self.net(images).argmax(1)


COLUMNS = (
    "network", "images/s", "decode time per image", "inference time per image", "time of `netkit infer` / lower bound",
    "time of bare processes / lower bound", "time of one image at a time / `netkit infer`",
    "time of ImageFolder and PyTorch / `netkit infer`",
)  # fmt: skip


def row(arch: str, folder: Path, images: Path, rounds: int) -> str:
    tasks = Tasks(arch, folder, images)
    methods = (
        tasks.infer, tasks.infer_one, tasks.decode, tasks.run_network, tasks.bare_processes, tasks.start_processes,
        tasks.loop, tasks.image_folder,
    )  # fmt: skip
    times_s: dict[str, list[float]] = {method.__name__: [] for method in methods}
    for _ in range(rounds):
        for method in methods:
            times_s[method.__name__].append(seconds(method))
    s = {name: statistics.median(values) for name, values in times_s.items()}
    count, infer_s = len(tasks.files), s["infer"] - s["infer_one"]
    lower_bound_s = (s["decode"] + s["run_network"]) / CORES
    bare_s = s["bare_processes"] - s["start_processes"]
    return (
        f"| {arch} | {count / infer_s:,.0f} | {s['decode'] / count * 1e6:.0f} us "
        f"| {s['run_network'] / count * 1e6:.0f} us | {infer_s / lower_bound_s:.2f} | {bare_s / lower_bound_s:.2f} "
        f"| {s['loop'] / infer_s:.2f} | {s['image_folder'] / infer_s:.2f} |"
    )


@dataclass(frozen=True)
class Setup:
    """A way to use all cores: `sessions` sessions of `threads` threads, each called by `callers` threads at once."""

    name: str
    sessions: int
    threads: int
    callers: int
    spinning: bool = True
    arena: bool = True
    pattern: bool = True
    nchwc: bool = True

    def open(self, model: Path) -> list[ort.InferenceSession]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spinning)))
        options.enable_cpu_mem_arena, options.enable_mem_pattern = self.arena, self.pattern
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if self.nchwc else level.ORT_ENABLE_EXTENDED
        return [ort.InferenceSession(model, options, providers=[CPU]) for _ in range(self.sessions)]


SETUPS = (
    Setup("one session, one thread per core", 1, CORES, 1),
    Setup("one session, one thread per core, no spinning", 1, CORES, 1, spinning=False),
    Setup("one single-threaded session per core", CORES, 1, 1),
    Setup("one single-threaded session, one caller per core", 1, 1, CORES),
    Setup("the same, no memory arena", 1, 1, CORES, arena=False),
    Setup("the same, no memory pattern", 1, 1, CORES, pattern=False),
    Setup("the same, no NCHWc layout", 1, 1, CORES, nchwc=False),
)
BATCH_SIZES = (16, 64, 256)
MEASURE_S = 1


def images_per_s(sessions: list[ort.InferenceSession], images: NDArray[np.uint8], callers: int) -> float:
    """Measure one batch that runs repeatedly for MEASURE_S seconds."""
    ends = time.perf_counter() + MEASURE_S

    def call(session: ort.InferenceSession) -> int:
        runs = 0
        while time.perf_counter() < ends:
            session.run(None, {"images": images})
            runs += 1
        return runs

    with ThreadPoolExecutor(len(sessions) * callers) as pool:
        runs = sum(pool.map(call, sessions * callers))
    return runs * len(images) / MEASURE_S


def setup_rows(arch: str, model: Path, rounds: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    opened = [(setup, setup.open(model)) for setup in SETUPS]
    speeds: dict[tuple[str, int], list[float]] = {(setup.name, size): [] for setup in SETUPS for size in BATCH_SIZES}
    for size in BATCH_SIZES * rounds:
        images = rng.integers(0, 256, (size, 1, 28, 28), np.uint8)
        for setup, sessions in opened:
            speeds[setup.name, size].append(images_per_s(sessions, images, setup.callers))
    for setup in SETUPS:
        medians = (f"{statistics.median(speeds[setup.name, size]):,.0f}" for size in BATCH_SIZES)
        yield f"| {arch} | {setup.name} | {' | '.join(medians)} |"


def start_ratio(folder: Path, image: Path, model: Path, rounds: int) -> float:
    """Return the time of `netkit infer` with one image, start-up included, relative to the time of `import torch`."""
    infer_s, import_s = [], []
    for _ in range(rounds):
        infer_s.append(seconds(lambda: netkit("infer", image, "--model", model, cwd=folder)))
        import_s.append(seconds(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True)))
    return statistics.median(infer_s) / statistics.median(import_s)


def print_header(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="*", default=["inception", "residual"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        netkit("sample", images, "--count", str(arguments.count), cwd=folder)
        print_header(*COLUMNS)
        for arch in arguments.arch:
            print(row(arch, folder, images, arguments.rounds), flush=True)
        print()
        print_header("network", "sessions and threads", *(f"images/s, batch size {size}" for size in BATCH_SIZES))
        for arch in arguments.arch:
            for line in setup_rows(arch, folder / "runs" / arch / "model.onnx", arguments.rounds):
                print(line, flush=True)
        first, model = next(images.rglob("*.png")), folder / "runs" / arguments.arch[0] / "model.onnx"
        ratio = start_ratio(folder, first, model, arguments.rounds)
        print(f"\ntime of `netkit infer` with one image / time of `import torch`: {ratio:.2f}")


if __name__ == "__main__":
    main()
