"""How fast `netkit infer` is: against its own parts, and against what a user would write instead.

    python scripts/bench/infer.py [--arch NAME ...] [--rounds N] [--count N]

D is decoding alone and N the network alone, in core-seconds, by one thread. A pipeline that wastes nothing takes
(D + N) / cores; `share` is netkit's wall time, its start-up subtracted, as a multiple of that. `bare` is that of a
process a core, each with its part of the files known beforehand, which decode and run the network and leave nothing:
two busy cores share a cache and memory, and no pipeline comes below that. The peers are a plain loop of Image.open and
runs of one image on the same model, and torchvision's ImageFolder with a DataLoader and eager PyTorch; both without
their start-up, too. All take turns, and medians are compared. Then the network alone, by the ways to use all cores;
and, over whole processes, one image against `import torch`. Prints two Markdown tables.
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


class Contest:
    """All who take part, on one net and one folder of images; each method is one turn."""

    def __init__(self, arch: str, folder: Path, images: Path) -> None:
        self.folder, self.images = folder, images
        run = folder / "runs" / arch
        netkit("train", "--arch", arch, "--epochs", "1", cwd=folder)
        netkit("export", "--arch", arch, cwd=folder)
        self.model = run / "model.onnx"
        self.files = sorted(str(path) for path in images.rglob("*.png"))
        self.opened = open_session(onnx_file.read(self.model), device="cpu", threads=1)
        self.pixels = np.stack([Decoder(self.opened.card.input)(path) for path in self.files])
        self.plain = ort.InferenceSession(self.model, providers=[CPU])
        net, card = checkpoint.load(run / "model.safetensors")
        self.net = net
        steps = [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize(card.mean, card.std)]
        self.loader = DataLoader(
            ImageFolder(images, transforms.Compose(steps)), batch_size=64, num_workers=CORES, persistent_workers=True
        )

    def whole(self) -> None:
        netkit("infer", self.images, "--model", self.model, "--out", "all.csv", cwd=self.folder)

    def start(self) -> None:
        netkit("infer", self.files[0], "--model", self.model, "--out", "one.csv", cwd=self.folder)

    def decode(self) -> None:
        decoder = Decoder(self.opened.card.input)
        for path in self.files:
            decoder(path)

    def network(self) -> None:
        for start in range(0, len(self.pixels), 64):
            self.opened.run(self.pixels[start : start + 64])

    def bare(self) -> None:
        self._by_forks(self.files)

    def forks(self) -> None:
        self._by_forks([])

    def _by_forks(self, files: list[str]) -> None:
        fork = get_context("fork").Process
        members = [fork(target=self._decode_and_run, args=(files[first::CORES],)) for first in range(CORES)]
        for member in members:
            member.start()
        for member in members:
            member.join()
            assert member.exitcode == 0

    def _decode_and_run(self, files: list[str]) -> None:
        decoder = Decoder(self.opened.card.input)
        for start in range(0, len(files), 64):
            self.opened.run(np.stack([decoder(path) for path in files[start : start + 64]]))

    def loop(self) -> None:
        for path in self.files:
            with Image.open(path) as image:
                self.plain.run(None, {"images": np.asarray(image)[None, None]})

    @torch.no_grad()
    def torch(self) -> None:
        for images, _ in self.loader:
            self.net(images).argmax(1)


def row(arch: str, folder: Path, images: Path, rounds: int) -> str:
    contest = Contest(arch, folder, images)
    turns = (
        contest.whole, contest.start, contest.decode, contest.network, contest.bare, contest.forks, contest.loop,
        contest.torch,
    )  # fmt: skip
    taken: dict[str, list[float]] = {turn.__name__: [] for turn in turns}
    for _ in range(rounds):
        for turn in turns:
            taken[turn.__name__].append(seconds(turn))
    s = {name: statistics.median(values) for name, values in taken.items()}
    count, wall = len(contest.files), s["whole"] - s["start"]
    micro, least = 1e6 / count, (s["decode"] + s["network"]) / CORES
    return (
        f"| {arch} | {count / wall:,.0f}/s | {s['decode'] * micro:.0f} us | {s['network'] * micro:.0f} us "
        f"| {wall / least:.2f} | {(s['bare'] - s['forks']) / least:.2f} | {s['loop'] / wall:.2f}x "
        f"| {s['torch'] / wall:.2f}x |"
    )


@dataclass(frozen=True)
class Way:
    """A way to use all cores: so many sessions of so many threads, each given batches by so many others at once."""

    name: str
    sessions: int
    threads: int
    givers: int
    spinning: bool = True
    arena: bool = True
    pattern: bool = True
    blocked: bool = True

    def open(self, model: Path) -> list[ort.InferenceSession]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spinning)))
        options.enable_cpu_mem_arena, options.enable_mem_pattern = self.arena, self.pattern
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if self.blocked else level.ORT_ENABLE_EXTENDED
        return [ort.InferenceSession(model, options, providers=[CPU]) for _ in range(self.sessions)]


WAYS = (
    Way("one session, a thread for each core", 1, CORES, 1),
    Way("the same, not spinning", 1, CORES, 1, spinning=False),
    Way("a session for each core, of one thread", CORES, 1, 1),
    Way("one session of one thread, run by one for each core", 1, 1, CORES),
    Way("the same, without an arena for memory", 1, 1, CORES, arena=False),
    Way("the same, without a pattern for memory", 1, 1, CORES, pattern=False),
    Way("the same, without the blocked layout (NCHWc)", 1, 1, CORES, blocked=False),
)
SIZES = (16, 64, 256)


def speed(sessions: list[ort.InferenceSession], images: NDArray[np.uint8], givers: int) -> float:
    """Images a second by the network alone, over a second, of batches that come one after the other."""
    ended = time.perf_counter() + 1

    def give(session: ort.InferenceSession) -> int:
        runs = 0
        while time.perf_counter() < ended:
            session.run(None, {"images": images})
            runs += 1
        return runs

    with ThreadPoolExecutor(len(sessions) * givers) as pool:
        runs = sum(pool.map(give, sessions * givers))
    return runs * len(images)


def ways(arch: str, model: Path, rounds: int) -> Iterator[str]:
    """A line for each way, with the medians of all sizes of batches."""
    random = np.random.default_rng(0)
    opened = [(way, way.open(model)) for way in WAYS]
    taken: dict[tuple[str, int], list[float]] = {(way.name, size): [] for way in WAYS for size in SIZES}
    for size in SIZES * rounds:
        images = random.integers(0, 256, (size, 1, 28, 28), np.uint8)
        for way, sessions in opened:
            taken[way.name, size].append(speed(sessions, images, way.givers))
    for way in WAYS:
        speeds = (f"{statistics.median(taken[way.name, size]):,.0f}" for size in SIZES)
        yield f"| {arch} | {way.name} | {' | '.join(speeds)} |"


def cold_start(folder: Path, image: Path, model: Path, rounds: int) -> float:
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(seconds(lambda: netkit("infer", image, "--model", model, cwd=folder)))
        theirs.append(seconds(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True)))
    return statistics.median(ours) / statistics.median(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="*", default=["inception", "residual"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=10_000)
    asked = parser.parse_args()
    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        netkit("sample", images, "--count", str(asked.count), cwd=folder)
        print(
            "| net | netkit infer | D | N | share | bare | plain loop | ImageFolder |",
            "|---" * 8 + "|",
            sep="\n",
            flush=True,
        )
        for arch in asked.arch:
            print(row(arch, folder, images, asked.rounds), flush=True)
        print(f"\n| net | images/s of | {' | '.join(f'batches of {size}' for size in SIZES)} |\n|{'---|' * 5}")
        for arch in asked.arch:
            for line in ways(arch, folder / "runs" / arch / "model.onnx", asked.rounds):
                print(line, flush=True)
        first = next(images.rglob("*.png"))
        share = cold_start(folder, first, folder / "runs" / asked.arch[0] / "model.onnx", asked.rounds)
        print(f"\nOne image, all of the process: {share:.2f} of `import torch`.")


if __name__ == "__main__":
    main()
