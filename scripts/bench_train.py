"""How soon netkit trains a net to what the textbook's loop reaches, and how far `--recipe fast` gets in what time.

    python scripts/bench_train.py [--arch NAME ...] [--seeds N] [--stock-epochs N]

The peer is the stock loop: torchvision's data set with ToTensor and Normalize, DataLoader, eager float32, SGD at 0.01
with momentum 0.5, batches of 64. Its epochs are timed without test passes; netkit's times are of the whole command,
from its start to its end. Prints one Markdown table.
"""

import argparse
import csv
import gzip
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from nets.build import ARCHITECTURES
from nets.counts import digit_net
from nets.data import idx, mnist
from nets.machine import usable_cores

NETKIT = Path(sys.executable).with_name("netkit")
LONGEST = 12  # epochs within which netkit must reach what the stock loop reached
HEADER = """\
| net | stock epochs | their accuracy | netkit as good after | times sooner | `--recipe fast` | share | accuracy |
|---|---|---|---|---|---|---|---|"""


def unpack_mnist(folder: Path) -> None:
    folder.mkdir(parents=True)
    source = Path(mnist.load().source)
    for name in idx.FILES.values():
        plain, packed = source / name, source / f"{name}.gz"
        (folder / name).write_bytes(plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes()))


def stock(arch: str, *, epochs: int, root: Path) -> tuple[float, float]:
    """Seconds of so many stock epochs, and the test accuracy after them, in [0, 1]."""
    torch.manual_seed(0)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    train, test = (datasets.MNIST(root, train=part, transform=steps) for part in (True, False))
    net = digit_net(arch).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.5)
    started = time.monotonic()
    for _ in range(epochs):
        for images, labels in DataLoader(train, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
    seconds = time.monotonic() - started
    net.eval()
    with torch.no_grad():
        right = sum(
            int((net(images).argmax(1) == labels).sum()) for images, labels in DataLoader(test, batch_size=1000)
        )
    return seconds, right / len(test)


def netkit(arch: str, *, seed: int, epochs: int | None = None) -> tuple[float, float]:
    """Seconds of the whole command, and the test accuracy of what it saved."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--arch", arch, "--seed", str(seed), "--out", folder]
        options += ["--epochs", str(epochs)] if epochs else []
        started = time.monotonic()
        subprocess.run([NETKIT, "train", *options], check=True, capture_output=True)
        seconds = time.monotonic() - started
        with open(Path(folder) / "metrics.csv") as file:
            *_, last = csv.DictReader(file)
        return seconds, float(last["test_accuracy"])


def first_to(arch: str, accuracy: float) -> tuple[float, int]:
    """Seconds of the shortest `netkit train --epochs N` that reaches that accuracy, and N; NaN where none does."""
    for epochs in range(1, LONGEST + 1):
        seconds, reached = netkit(arch, seed=0, epochs=epochs)
        if reached >= accuracy:
            return seconds, epochs
    return float("nan"), 0


def row(arch: str, *, stock_epochs: int, seeds: int, root: Path) -> str:
    stock_s, accuracy = stock(arch, epochs=stock_epochs, root=root)
    as_good_s, epochs = first_to(arch, accuracy)
    runs = [netkit(arch, seed=seed) for seed in range(seeds)]
    fast_s = statistics.median(seconds for seconds, _ in runs)
    reached = [100 * accuracy for _, accuracy in runs]
    deviation = statistics.stdev(reached) if seeds > 1 else 0.0
    return (
        f"| {arch} | {stock_epochs} in {stock_s:.0f} s | {accuracy:.2%} | {epochs} in {as_good_s:.1f} s "
        f"| {stock_s / as_good_s:.1f} | {fast_s:.0f} s | {fast_s / stock_s:.2f} "
        f"| {statistics.mean(reached):.3f} ± {deviation:.3f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--stock-epochs", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(usable_cores())
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as root:
        unpack_mnist(Path(root) / "MNIST/raw")  # where torchvision looks
        for arch in asked.arch:
            print(row(arch, stock_epochs=asked.stock_epochs, seeds=asked.seeds, root=Path(root)), flush=True)


if __name__ == "__main__":
    main()
