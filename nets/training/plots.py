"""Pictures of a run: learning curves, confusion matrix, and the worst mistakes."""

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
from netkit.nets.training.metrics import SPLIT_NAMES, EpochMetrics

logger = logging.getLogger(__name__)

MAX_MISTAKES, COLUMNS = 24, 6  # images in the picture of mistakes, and images per row
MAX_CLASSES_WITH_COUNTS = 30  # with more classes, the cells of the confusion matrix are too small for numbers
MAX_NAME_LENGTH = 40  # characters of a class name
LITERAL_TEXT = rc_context({"text.parse_math": False, "text.usetex": False})  # class names may contain $, _ or \


def draw_all(
    out: Path,
    rows: Sequence[EpochMetrics],
    *,
    smoothed_labels: bool,
    images: Images,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
) -> None:
    """Write the pictures of a run to the folder `out`. A picture that cannot be drawn causes a warning.

    Args:
        smoothed_labels: whether the training loss includes label smoothing.
        images: test images (N, C, H, W) uint8, with `labels` (N,) and predicted `probabilities` (N, classes).
    """
    pictures: dict[str, Callable[[], Figure]] = {
        CURVES: lambda: curves(rows, smoothed_labels=smoothed_labels),
        CONFUSION: lambda: confusion(labels, probabilities.argmax(axis=1), class_names),
        MISTAKES: lambda: mistakes(images, labels, probabilities, class_names),
    }
    for name, draw in pictures.items():
        try:
            save(draw(), out / name)
        except Exception as exc:  # matplotlib can raise anything
            logger.warning("%s: cannot be drawn: %s", out / name, one_line(first_line(exc)))


@LITERAL_TEXT
def curves(rows: Sequence[EpochMetrics], *, smoothed_labels: bool) -> Figure:
    """Draw the losses and the accuracies of training and evaluation over the epochs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs, evaluation = [row.epoch for row in rows], SPLIT_NAMES[rows[-1].split]
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, name, style in (("train", "training", "--"), ("eval", evaluation, "-")):
            values = [getattr(row, f"{split}_{metric}") for row in rows]
            note = " with label smoothing" if smoothed_labels and (split, metric) == ("train", "loss") else ""
            label = f"{name} {metric}{note}: {values[-1]:.4f}"
            axes.plot(epochs, values, style, marker="o", markersize=4, label=label)
        axes.set(xlabel="epoch", ylabel=metric, title=f"training and {evaluation} {metric}")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


@LITERAL_TEXT
def confusion(labels: NDArray[np.int64], predictions: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Draw the confusion matrix of class indices `labels` (N,) and `predictions` (N,). Colors show mistakes only."""
    classes, names = len(class_names), _printable(class_names)
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
        title=f"confusion matrix: {int(mistakes.sum()):,} of {len(labels):,} test images misclassified",
    )
    return figure


@LITERAL_TEXT
def mistakes(
    images: Images,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
) -> Figure:
    """Draw the misclassified test images with the largest cross entropy, the worst first.

    Images (N, C, H, W) uint8, labels (N,), probabilities (N, classes).
    """
    names = _printable(class_names)
    predictions = probabilities.argmax(axis=1)
    total = int((predictions != labels).sum())
    worst = worst_mistakes(labels, predictions, probabilities[np.arange(len(labels)), labels], count=MAX_MISTAKES)
    rows = max(1, -(-len(worst) // COLUMNS))
    figure = Figure(figsize=(10, 1 + 2 * rows), layout="constrained")
    figure.suptitle(f"{len(worst)} of {total} mistakes, worst first: #index, true class, predicted class (probability)")
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, index, image in zip(figure.axes, worst, images[worst], strict=False):
        pixels = image.transpose(1, 2, 0)  # (H, W, C)
        axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
        label, prediction = labels[index], predictions[index]
        probability = probabilities[index, prediction]
        axes.set_title(f"#{index}: true {names[label]},\npredicted {names[prediction]} ({probability:.2f})", size=9)
    return figure


@LITERAL_TEXT
def save(figure: Figure, path: Path) -> None:
    """Write the picture as a PNG file atomically."""
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # about characters that the font lacks
        figure.savefig(content, format="png", dpi=120)
    write_atomic(path, content.getvalue())


def _printable(class_names: Sequence[str]) -> list[str]:
    """Escape control characters in the names, and shorten long names."""
    names = map(one_line, class_names)
    return [name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…" for name in names]
