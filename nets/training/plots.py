"""Pictures of a run, for people: its learning curves, its confusion matrix, and its worst mistakes."""

import io
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import first_line, one_line
from netkit.core.runs import CONFUSION, CURVES, MISTAKES
from netkit.data.classification import confusion_matrix, worst_mistakes
from netkit.data.lazy import Images
from netkit.nets.training.metrics import EpochMetrics

logger = logging.getLogger(__name__)

WORST = 24  # mistakes shown, six a row
MAX_CLASSES_WITH_COUNTS = 30  # with more, the cells of the confusion matrix are too small for numbers
MAX_NAME_LENGTH = 40  # characters of a class name
LITERAL_TEXT = rc_context({"text.parse_math": False, "text.usetex": False})  # class names may contain $, _ or \


def draw_all(
    out: Path,
    rows: Sequence[EpochMetrics],
    *,
    smoothed: bool,
    images: Images,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
) -> None:
    """Draw the pictures of a run into the folder `out`. One that fails is left out, with a warning.

    Test images (N, C, H, W) uint8, their labels (N,), and the predicted probabilities (N, classes).
    """
    pictures: dict[str, Callable[[], Figure]] = {
        CURVES: lambda: curves(rows, smoothed=smoothed),
        CONFUSION: lambda: confusion(labels, probabilities.argmax(axis=1), class_names),
        MISTAKES: lambda: mistakes(images, labels, probabilities, class_names),
    }
    for name, draw in pictures.items():
        try:
            save(draw(), out / name)
        except Exception as exc:  # matplotlib can raise anything
            logger.warning("warning: %s: cannot be drawn: %s", out / name, one_line(first_line(exc)))


@LITERAL_TEXT
def curves(rows: Sequence[EpochMetrics], *, smoothed: bool) -> Figure:
    """Loss and accuracy over the epochs; `smoothed` says that the training loss includes label smoothing."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row.epoch for row in rows]
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, style in (("train", "--"), ("test", "-")):
            values = [getattr(row, f"{part}_{what}") for row in rows]
            note = ", labels smoothed," if smoothed and (part, what) == ("train", "loss") else ""
            axes.plot(epochs, values, style, marker="o", markersize=4, label=f"{part}{note} {values[-1]:.4f}")
        axes.set(xlabel="epoch", title=what)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


@LITERAL_TEXT
def confusion(labels: NDArray[np.int64], predictions: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """The confusion matrix of the test images; colours show the mistakes only.

    `labels` and `predictions` are class indices (N,).
    """
    classes, names = len(class_names), _drawable(class_names)
    counts = confusion_matrix(labels, predictions, classes)
    mistakes = np.where(np.eye(classes, dtype=bool), 0, counts)
    side = min(12.0, 3 + 0.5 * classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="Oranges", vmin=0, vmax=max(1, int(mistakes.max())) * 1.5)
    if classes <= MAX_CLASSES_WITH_COUNTS:
        for (row, column), count in np.ndenumerate(counts):
            color = "grey" if row == column else "black"
            axes.text(column, row, str(count or ""), ha="center", va="center", color=color, size=9)
        axes.set_xticks(range(classes), names, rotation=0 if max(map(len, names)) < 4 else 90)
        axes.set_yticks(range(classes), names)
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"{int(mistakes.sum()):,} of {len(labels):,} test images misclassified",
    )
    return figure


@LITERAL_TEXT
def mistakes(
    images: Images,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
) -> Figure:
    """The misclassified test images with the largest cross entropy, the worst first.

    Images (N, C, H, W) uint8, labels (N,), probabilities (N, classes).
    """
    names = _drawable(class_names)
    predictions = probabilities.argmax(axis=1)
    total = int((predictions != labels).sum())
    worst = worst_mistakes(labels, predictions, probabilities[np.arange(len(labels)), labels], count=WORST)
    rows = max(1, -(-len(worst) // 6))
    figure = Figure(figsize=(9, 1 + 1.75 * rows), layout="constrained")
    figure.suptitle(f"the worst {len(worst)} of {total} mistakes: test image, true class → predicted class")
    for axes in figure.subplots(rows, 6, squeeze=False).flat:
        axes.set_axis_off()
    for axes, index, image in zip(figure.axes, worst, images[worst], strict=False):
        pixels = image.transpose(1, 2, 0)  # (H, W, C)
        axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
        predicted = predictions[index]
        probability = probabilities[index, predicted]
        axes.set_title(f"#{index}: {names[labels[index]]} → {names[predicted]} ({probability:.0%})", size=9)
    return figure


@LITERAL_TEXT
def save(figure: Figure, path: Path) -> None:
    """Write the picture as PNG, whole or not at all."""
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # one for each character that no font has
        figure.savefig(content, format="png", dpi=120)
    write_atomic(path, content.getvalue())


def _drawable(class_names: Sequence[str]) -> list[str]:
    """The names on one line each, control characters spelled out, and long names cut."""
    names = map(one_line, class_names)
    return [name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…" for name in names]
