"""How soon netkit trains a net to what the textbook's loop reaches, and how far `--recipe fast` gets in what time.

    python scripts/bench/train.py [--arch NAME ...] [--seeds N] [--stock-epochs N]

The peer is the stock loop: torchvision's data set with ToTensor and Normalize, DataLoader, eager float32, SGD at 0.01
with momentum 0.5, batches of 64. Its epochs are timed without test passes, and netkit's runs take place between them,
so that a machine that is slower for a while is so for both. Of `netkit train --epochs N`, which shows how soon it is as
good as the stock loop, the training alone is timed, test passes included; of the recipe as it stands the whole command.
"Augmentation" compares an epoch's steps, with all that belongs to them, with as many on one batch that lies ready. The
last columns say what the recipe's accuracy is made of: how many test images the nets of all seeds miss, how many at
least one does, and the accuracy of all together, by the mean of their probabilities, in which chance has least part.
Prints one Markdown table.
"""

import argparse
import csv
import gzip
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from netkit.core.model_card import ModelCard, Origin
from netkit.core.system import usable_cores
from netkit.core.version import VERSION
from netkit.data import idx, mnist
from netkit.nets.build import ARCHITECTURES, create
from netkit.nets.normalize import FromPixels
from netkit.nets.training import checkpoint
from netkit.nets.training.feed import Feed
from netkit.nets.training.metrics import predict
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.trainer import Training

STEPS = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
CPU = torch.device("cpu")
NETKIT = Path(sys.executable).with_name("netkit")
EPOCHS = (0.25, 0.5, 0.75, 1, 2, 3, 4, 5)  # those in which netkit is to reach what the stock loop reached
HEADER = """\
| net | stock loop | its accuracy | as good after | sooner | `netkit train` | share | accuracy | augmentation \
| missed by all | by any | together |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Run:
    """One `netkit train`: seconds of the whole command and of its epochs, and the test accuracy, in [0, 1].

    `probabilities` (N, classes) are those of the test images.
    """

    seconds: float
    training_s: float
    accuracy: float
    probabilities: Tensor = field(repr=False)


def unpack_mnist(folder: Path) -> None:
    folder.mkdir(parents=True)
    source = Path(mnist.load().source)
    for name in idx.FILES.values():
        plain, packed = source / name, source / f"{name}.gz"
        (folder / name).write_bytes(plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes()))


def stock(net: nn.Module, root: Path, *, device: torch.device = CPU) -> Iterator[float]:
    """Train by the stock loop; gives the seconds of each epoch."""
    net.to(device)
    train = datasets.MNIST(root, train=True, transform=STEPS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.5)
    while True:
        started = time.monotonic()
        for images, labels in DataLoader(train, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(net(images.to(device)), labels.to(device)).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        yield time.monotonic() - started


@torch.no_grad()
def accuracy_of(net: nn.Module, root: Path) -> float:
    """Its test accuracy in [0, 1]."""
    test = datasets.MNIST(root, train=False, transform=STEPS)
    net.eval()
    right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in DataLoader(test, batch_size=1000))
    return right / len(test)


def netkit(arch: str, *, seed: int, epochs: float | None = None) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--arch", arch, "--seed", str(seed), "--out", folder]
        options += ["--epochs", str(epochs)] if epochs else []
        started = time.monotonic()
        subprocess.run([NETKIT, "train", *options], check=True, capture_output=True)
        seconds = time.monotonic() - started
        with open(Path(folder) / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
        net, card = checkpoint.load(Path(folder) / "model.safetensors")
    logits = predict(FromPixels(net, card), Feed(mnist.load().test_images, CPU))
    training_s = sum(float(row["seconds"]) for row in rows)
    return Run(seconds, training_s, float(rows[-1]["test_accuracy"]), logits.softmax(dim=1))


def composition(runs: list[Run]) -> tuple[int, int, float]:
    """How many test images all runs miss, how many at least one does, and the accuracy of all together, in [0, 1]."""
    labels = torch.from_numpy(mnist.load().test_labels)
    each = torch.stack([run.probabilities for run in runs])  # (runs, N, classes)
    missed = each.argmax(dim=2) != labels
    together = each.mean(dim=0).argmax(dim=1) == labels
    return int(missed.all(dim=0).sum()), int(missed.any(dim=0).sum()), together.double().mean().item()


def first_to(arch: str, accuracy: float) -> tuple[float, float]:
    """The fewest epochs in which netkit reaches that accuracy, as the mean of three seeds, and their median seconds."""
    for epochs in EPOCHS:
        runs = [netkit(arch, seed=seed, epochs=epochs) for seed in range(3)]
        if statistics.mean(run.accuracy for run in runs) >= accuracy:
            return epochs, statistics.median(run.training_s for run in runs)
    return 0, float("nan")


def cost_of_augmentation(arch: str, *, steps: int = 360) -> float:
    """An epoch's median step, with all that the loop does, against that on one resident batch; they take turns."""
    epoch, resident = training(arch).run(), training(arch)
    images = next(resident.train_images.in_order(resident.recipe.batch_size)).float()
    labels = resident.train_labels[: resident.recipe.batch_size]

    def seconds(step: Callable[[], object]) -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    times = [
        (
            seconds(lambda: next(epoch)),
            seconds(lambda: resident.learn(images, labels, weight=1, batch_size=len(labels)).sum().item()),
        )
        for _ in range(steps)
    ]
    of_epoch, of_resident = (statistics.median(column) for column in zip(*times, strict=True))
    return of_epoch / of_resident


def training(arch: str) -> Training:
    data, recipe = mnist.load(), recipe_named("fast", arch=arch)
    origin = Origin(data.name, data.sha256, asdict(recipe), 0, 0.0, VERSION, torch.__version__)
    mean, std = data.mean_and_std()
    card = ModelCard(arch, data.labels, 1, 28, 28, mean, std, origin)
    return Training(FromPixels(create(arch), card), data, recipe=recipe, seed=0, device=CPU)


def row(arch: str, *, stock_epochs: int, seeds: int, root: Path) -> str:
    torch.manual_seed(0)
    net = create(arch).train()
    epochs = stock(net, root)
    stock_s = 0.0
    runs: list[Run] = []
    for epoch in range(stock_epochs):
        stock_s += next(epochs)
        while len(runs) < seeds * (epoch + 1) // stock_epochs:
            runs.append(netkit(arch, seed=len(runs)))
            print(f"{arch}: {epoch + 1} stock epochs, {stock_s:.1f} s; {runs[-1]}", file=sys.stderr, flush=True)
    accuracy = accuracy_of(net, root)
    as_good, as_good_s = first_to(arch, accuracy)
    command_s = statistics.median(run.seconds for run in runs)
    reached = [100 * run.accuracy for run in runs]
    deviation = statistics.stdev(reached) if seeds > 1 else 0.0
    by_all, by_any, together = composition(runs)
    return (
        f"| {arch} | {stock_epochs} epochs, {stock_s:.0f} s | {accuracy:.2%} | {as_good:g} epochs, {as_good_s:.1f} s "
        f"| {stock_s / as_good_s:.1f}x | {command_s:.0f} s | {command_s / stock_s:.2f} "
        f"| {statistics.mean(reached):.3f} ± {deviation:.3f} % | {cost_of_augmentation(arch):.3f}x "
        f"| {by_all} | {by_any} | {together:.2%} |"
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
