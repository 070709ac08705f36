"""The result of an evaluation: accuracy, scores of the classes, calibration, and mistakes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from netkit.core.errors import one_line
from netkit.infer.evaluation.calibration import Calibration
from netkit.infer.runtime.providers import NAMES


@dataclass(frozen=True)
class ClassScore:
    """Precision and recall of a class, from 0 to 1.

    `precision` is None if the class was never predicted, `recall` is None if it has no images.
    """

    label: str
    images: int
    precision: float | None
    recall: float | None

    @property
    def cells(self) -> dict[str, str | int]:
        """A row of the table that is printed."""
        scores = {"precision": self.precision, "recall": self.recall}
        texts = {name: "-" if score is None else f"{score:.2%}" for name, score in scores.items()}
        return {"class": one_line(self.label), "images": self.images, **texts}


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction for one image.

    `truth` is the true class, `answer` the predicted class, `probability` that of `answer`. `path` is "" for an array.
    """

    index: int
    path: str
    truth: str
    answer: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. Accuracies lie in [0, 1] and refer to the `images` that could be read.

    Rows of the `confusion` matrix are true classes, columns predicted classes, in the order of `classes`.
    `calibration` is that of the model's probabilities, and `uncalibrated` that of softmax(logits), or None if the
    temperature of the model is 1. `mistakes` are those with the largest cross entropy.
    `corrupted` is the accuracy under each corruption.
    """

    model: str
    model_sha256: str
    arch: str
    provider: str
    data: str
    images: int
    unreadable: int
    accuracy: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration
    uncalibrated: Calibration | None
    mistakes: tuple[Mistake, ...]
    corrupted: Mapping[str, float]

    @property
    def mean_corrupted(self) -> float | None:
        """The mean accuracy under all corruptions; None if it was not measured."""
        return float(np.mean(list(self.corrupted.values()))) if self.corrupted else None

    @property
    def calibration_cells(self) -> list[dict[str, str]]:
        """Rows of the table that is printed: calibration with a temperature of 1, and with that of the model."""
        return [row.cells for row in (self.uncalibrated, self.calibration) if row]

    @property
    def corruption_cells(self) -> list[dict[str, str]]:
        """Rows of the table that is printed: accuracy, and its change in percentage points, under each corruption."""
        return [
            {
                "corruption": name.replace("_", " "),
                "accuracy": f"{share:.2%}",
                "change (points)": f"{100 * (share - self.accuracy):+.2f}",
            }
            for name, share in self.corrupted.items()
        ]

    def __str__(self) -> str:
        text = f"{one_line(self.data)}: {self.images:,} images, accuracy {self.accuracy:.2%}"
        if self.mean_corrupted is not None:
            text += f", mean accuracy under corruption {self.mean_corrupted:.2%}"
        text += f", expected calibration error (ECE) {self.calibration.ece.value:.4f}, on {NAMES[self.provider]}"
        return text + (f"; {self.unreadable:,} more could not be read" if self.unreadable else "")
