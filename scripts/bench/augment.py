"""Cross-validate the values of `netkit train --augment` on a folder of classes.

    python scripts/bench/augment.py DATA [--arch NAME] [--image-size N] [--augment NAME ...] [--seeds N]

Splits each class into five folds at random. For each value and seed, trains five times as `netkit train` does, each
time without one fold, and tests on that fold. So each image is tested once per seed. All values have the same folds and
initial weights. Prints one Markdown table: the accuracy of each value, its difference from that of the first value, and
the standard errors of both, over the images.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from netkit.core.model_card import ModelCard, Origin
from netkit.core.system import usable_cores
from netkit.core.version import VERSION
from netkit.data import registry
from netkit.data.dataset import DataSet
from netkit.data.options import Options
from netkit.nets.build import build
from netkit.nets.normalize import FromPixels
from netkit.nets.training.metrics import predict
from netkit.nets.training.recipe import AUGMENTATIONS, recipe_named
from netkit.nets.training.schedule import with_min_steps
from netkit.nets.training.trainer import Trainer

FOLDS = 5


def folds(data: Path, folder: Path, *, size: int) -> list[DataSet]:
    """Return one data set per fold, whose test images are the fold. The tables are written to `folder`."""
    generator, rows = np.random.default_rng(0), []
    for class_folder in sorted(path for path in data.resolve().iterdir() if path.is_dir()):
        paths = sorted(path for path in class_folder.rglob("*") if path.is_file())
        rows += [(paths[index], class_folder.name) for index in generator.permutation(len(paths))]
    tables = [folder / f"{fold}.csv" for fold in range(FOLDS)]
    for fold, table in enumerate(tables):
        splits = ["test" if row % FOLDS == fold else "train" for row in range(len(rows))]
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "split"))
            writer.writerows((*row, split) for row, split in zip(rows, splits, strict=True))
    return [registry.load(str(table), Options(size=(size, size))) for table in tables]


def outcomes(data: DataSet, arch: str, augment: str, seed: int) -> NDArray[np.bool_]:
    """Train, and return for each test image whether it is classified correctly."""
    recipe = recipe_named("fast", arch=arch).with_augmentation(augment)
    recipe, _ = with_min_steps(recipe, len(data.train_labels))
    origin = Origin(data.name, data.sha256, {}, seed=seed, test_accuracy=0, netkit=VERSION, torch=torch.__version__)
    channels, height, width = data.train_images.shape[1:]
    card = ModelCard(arch, data.labels, channels, height, width, *data.mean_and_std(), origin)
    torch.manual_seed(seed)
    model = FromPixels(build(card), card)
    trainer = Trainer(model, data, recipe=recipe, seed=seed, device=torch.device("cpu"))
    for _ in trainer.run():
        pass
    predicted = predict(trainer.result, trainer.test_images).argmax(dim=1)
    return predicted.numpy() == data.test_labels


def mean_and_error(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.1%} | {values.std(ddof=1) / len(values) ** 0.5:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arch", default="inception")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--augment", nargs="+", choices=AUGMENTATIONS, default=list(AUGMENTATIONS))
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    with tempfile.TemporaryDirectory() as folder:
        data_sets = folds(options.data, Path(folder), size=options.image_size)
    columns = ("`--augment`", "accuracy", "standard error", f"compared with {options.augment[0]}", "standard error")
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n", flush=True)
    accuracies: dict[str, NDArray[np.float64]] = {}  # of each image, over the seeds
    for augment in options.augment:
        correct = [
            np.concatenate([outcomes(data, options.arch, augment, seed) for data in data_sets])
            for seed in range(options.seeds)
        ]
        accuracies[augment] = np.mean(correct, axis=0)
        difference = accuracies[augment] - accuracies[options.augment[0]]
        print(f"| {augment} | {mean_and_error(accuracies[augment])} | {mean_and_error(difference)} |", flush=True)


if __name__ == "__main__":
    main()
