"""Compare `netkit train` with a stock PyTorch training loop: time to equal accuracy, total time and test accuracy.

    python scripts/bench/train.py [--arch NAME ...] [--seeds N] [--stock-epochs N]

The stock loop is torchvision's MNIST with ToTensor and Normalize, a DataLoader, eager float32, SGD with lr 0.01 and
momentum 0.5, and batch size 64. Its epoch times exclude the evaluation. netkit's runs take place between its epochs, so
that both see the same load of the machine. "netkit, time to equal accuracy" is the time of the epochs, evaluation
included, of the shortest `netkit train --epochs N` that reaches the accuracy of the stock loop; "`netkit train`" is the
time of the complete command with the default recipe, without the trial export. "augmentation" is the time of a training
step relative to a step on one resident batch. The last columns show how much of the error is chance: the test images
that all seeds misclassify, those that at least one seed misclassifies, and the accuracy of the mean probabilities of
all seeds. Prints one Markdown table.
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
from netkit.nets.training.trainer import Trainer

TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
CPU = torch.device("cpu")
NETKIT = Path(sys.executable).with_name("netkit")
EPOCHS = (0.25, 0.5, 0.75, 1, 2, 3, 4, 5)  # tried in this order to reach the accuracy of the stock loop
SEEDS_PER_TRY = 3
HEADER = """\
| network | stock loop | stock loop, test accuracy | netkit, time to equal accuracy | speedup | `netkit train` \
| ratio to stock loop | test accuracy | augmentation | missed by all seeds | missed by any seed | ensemble accuracy |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Run:
    """A run of `netkit train`: seconds of the complete command and of its epochs, the test accuracy in [0, 1], and the
    probabilities (N, classes) of the test images."""

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


def stock_epochs_s(net: nn.Module, root: Path, *, device: torch.device = CPU) -> Iterator[float]:
    """Train with the stock loop; yield the seconds of each epoch."""
    net.to(device)
    train = datasets.MNIST(root, train=True, transform=TRANSFORM)
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
def test_accuracy(net: nn.Module, root: Path) -> float:
    """Return the accuracy on MNIST's test images, in [0, 1]."""
    test = datasets.MNIST(root, train=False, transform=TRANSFORM)
    net.eval()
    correct = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in DataLoader(test, batch_size=1000))
    return correct / len(test)


def netkit_train(arch: str, *, seed: int, epochs: float | None = None) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--arch", arch, "--seed", str(seed), "--out", folder, "--no-export-check"]
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


def seed_statistics(runs: list[Run]) -> tuple[int, int, float]:
    """Return the test images that all runs miss, those that any run misses, and the ensemble accuracy in [0, 1]."""
    labels = torch.from_numpy(mnist.load().test_labels)
    probabilities = torch.stack([run.probabilities for run in runs])  # (runs, N, classes)
    missed = probabilities.argmax(dim=2) != labels
    ensemble = probabilities.mean(dim=0).argmax(dim=1) == labels
    return int(missed.all(dim=0).sum()), int(missed.any(dim=0).sum()), ensemble.double().mean().item()


def time_to_accuracy(arch: str, accuracy: float) -> tuple[float, float]:
    """Return the fewest epochs whose mean accuracy reaches `accuracy`, and their median seconds; (0, NaN) if none."""
    for epochs in EPOCHS:
        runs = [netkit_train(arch, seed=seed, epochs=epochs) for seed in range(SEEDS_PER_TRY)]
        if statistics.mean(run.accuracy for run in runs) >= accuracy:
            return epochs, statistics.median(run.training_s for run in runs)
    return 0, float("nan")


def augmentation_ratio(arch: str, *, steps: int = 360) -> float:
    """Return the median time of a training step relative to a step on one resident batch; the two alternate."""
    epoch, resident = create_training(arch).run(), create_training(arch)
    images = next(resident.train_images.in_order(resident.recipe.batch_size)).float()
    labels = resident.train_labels[: resident.recipe.batch_size]

    def seconds(step: Callable[[], object]) -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    times_s = [
        (
            seconds(lambda: next(epoch)),
            seconds(
                lambda: resident.train_step(images, labels, count=len(labels), batch_size=len(labels)).sum().item()
            ),
        )
        for _ in range(steps)
    ]
    epoch_step_s, resident_step_s = (statistics.median(column) for column in zip(*times_s, strict=True))
    return epoch_step_s / resident_step_s


def create_training(arch: str) -> Trainer:
    data, recipe = mnist.load(), recipe_named("fast", arch=arch)
    origin = Origin(data.name, data.sha256, asdict(recipe), 0, 0.0, VERSION, torch.__version__)
    mean, std = data.mean_and_std()
    card = ModelCard(arch, data.labels, 1, 28, 28, mean, std, origin)
    return Trainer(FromPixels(create(arch), card), data, recipe=recipe, seed=0, device=CPU)


def row(arch: str, *, stock_epochs: int, seeds: int, root: Path) -> str:
    torch.manual_seed(0)
    net = create(arch).train()
    epochs_s = stock_epochs_s(net, root)
    stock_s = 0.0
    runs: list[Run] = []
    for epoch in range(stock_epochs):
        stock_s += next(epochs_s)
        while len(runs) < seeds * (epoch + 1) // stock_epochs:
            runs.append(netkit_train(arch, seed=len(runs)))
            print(f"{arch}: {epoch + 1} stock epochs, {stock_s:.1f} s; {runs[-1]}", file=sys.stderr, flush=True)
    accuracy = test_accuracy(net, root)
    equal_epochs, equal_s = time_to_accuracy(arch, accuracy)
    command_s = statistics.median(run.seconds for run in runs)
    percentages = [100 * run.accuracy for run in runs]
    deviation = statistics.stdev(percentages) if seeds > 1 else 0.0
    missed_by_all, missed_by_any, ensemble = seed_statistics(runs)
    return (
        f"| {arch} | {stock_epochs} epochs, {stock_s:.0f} s | {accuracy:.2%} "
        f"| {equal_epochs:g} epochs, {equal_s:.1f} s | {stock_s / equal_s:.1f}x "
        f"| {command_s:.0f} s | {command_s / stock_s:.2f} "
        f"| {statistics.mean(percentages):.3f} ± {deviation:.3f} % | {augmentation_ratio(arch):.3f}x "
        f"| {missed_by_all} | {missed_by_any} | {ensemble:.2%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--stock-epochs", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(usable_cores())
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        unpack_mnist(root / "MNIST/raw")  # torchvision reads this folder
        for arch in arguments.arch:
            print(row(arch, stock_epochs=arguments.stock_epochs, seeds=arguments.seeds, root=root), flush=True)


if __name__ == "__main__":
    main()
