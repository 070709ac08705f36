"""What an epoch is judged by, and metrics.csv: one row an epoch."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nets.files import write_whole
from nets.pixels import FromPixels

EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv. Losses are means of the cross entropy; accuracies lie in [0, 1]; `step` counts batches.

    `lr` is that of the epoch's last step; the training columns are means over the epoch, while the weights changed.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.epoch}: loss {self.train_loss:.4f}, train {self.train_accuracy:.2%}, "
            f"test {self.test_accuracy:.2%}, {self.seconds:.1f} s"
        )


@torch.no_grad()
def evaluate(model: FromPixels, images_u8: Tensor, labels: Tensor) -> tuple[float, float]:
    """Loss and accuracy of `model` on uint8 images (N, C, H, W) and labels (N,), in the weights' own precision."""
    model.eval()
    loss, right = 0.0, 0
    for images, truth in zip(images_u8.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
        logits = model(images)
        loss += F.cross_entropy(logits, truth, reduction="sum").item()
        right += int((logits.argmax(dim=1) == truth).sum())
    return loss / len(labels), right / len(labels)


def write_csv(path: Path, rows: Iterable[EpochMetrics]) -> None:
    """Write the rows under a header, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(EpochMetrics)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_whole(path, text.getvalue().encode())
