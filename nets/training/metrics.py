"""The metrics of an epoch, and metrics.csv with one row per epoch."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from netkit.core.atomic_io import write_atomic
from netkit.nets.normalize import FromPixels
from netkit.nets.training.device import autocast
from netkit.nets.training.feed import Feed

SPLIT_NAMES = {"test": "test", "val": "validation"}
EVALUATION_BATCH_SIZE = 100  # with 1,000, densenet takes twice as long on two cores: activations exceed the caches


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv. Losses are means of the cross entropy; accuracies are in [0, 1].

    `step` and `lr` are those of the epoch's last step. The training columns are means over the training images, each
    computed with the weights before the latest step that trained on it: an image that the epoch skips keeps the outcome
    of an earlier epoch. The training loss includes the recipe's label smoothing. `eval_loss` and `eval_accuracy` are
    those of `split`: "val" if the data set has a validation split, else "test". They are computed after the epoch in
    float32, except that a run with precision bf16 uses bf16 until its last epoch.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    eval_loss: float
    eval_accuracy: float
    seconds: float
    split: str = "test"

    def columns(self) -> dict[str, int | float]:
        """Return the row of metrics.csv: the columns of the evaluation are named after its split."""
        values = asdict(self)
        split = values.pop("split")
        return {name.replace("eval_", f"{split}_"): value for name, value in values.items()}

    def __str__(self) -> str:
        return (
            f"{self.epoch}: loss {self.train_loss:.4f}, train accuracy {self.train_accuracy:.2%}, "
            f"{SPLIT_NAMES[self.split]} accuracy {self.eval_accuracy:.2%}, {self.seconds:.1f} s"
        )


def best_epoch(rows: Iterable[EpochMetrics]) -> EpochMetrics:
    """Return the first of the epochs with the highest accuracy and, among these, the lowest loss."""
    return max(rows, key=lambda row: (row.eval_accuracy, -row.eval_loss))


@torch.no_grad()
def predict(model: FromPixels, images: Feed, dtype: torch.dtype = torch.float32) -> Tensor:
    """Compute logits (N, classes) float32 for all images, under autocast to `dtype`."""
    model.eval()
    with autocast(images.device, dtype):
        return torch.cat([model(batch).float() for batch in images.in_order(EVALUATION_BATCH_SIZE)])


def evaluate(
    model: FromPixels, images: Feed, labels: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[float, float]:
    """Compute mean cross entropy and accuracy of `model` on images and their labels (N,) int64."""
    logits = predict(model, images, dtype)
    correct = (logits.argmax(dim=1) == labels).sum()
    return F.cross_entropy(logits.double(), labels).item(), int(correct) / len(labels)


def write_csv(path: Path, rows: Iterable[EpochMetrics]) -> None:
    """Write a header and the rows, which are all of one split, atomically."""
    columns = [row.columns() for row in rows]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns[0] if columns else (), lineterminator="\n")
    if columns:
        writer.writeheader()
    writer.writerows(columns)
    write_atomic(path, text.getvalue().encode())
