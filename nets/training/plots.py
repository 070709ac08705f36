"""Pictures of a run, for people: how it went, which classes it takes for one another, and its worst mistakes."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from netkit.core.atomic_io import write_atomic
from netkit.data.lazy import Images
from netkit.nets.training.metrics import EpochMetrics

WORST = 24  # mistakes shown, six a row
ROOM_FOR_NUMBERS = 30  # classes; with more, the cells of the confusion matrix are too small for numbers


def curves(rows: Sequence[EpochMetrics], *, smoothed: bool) -> Figure:
    """Loss and accuracy over the epochs, in training and in the test; `smoothed` says how training took its labels."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [row.epoch for row in rows]
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, style in (("train", "--"), ("test", "-")):
            values = [getattr(row, f"{part}_{what}") for row in rows]
            how = ", labels smoothed," if smoothed and (part, what) == ("train", "loss") else ""
            axes.plot(epochs, values, style, marker="o", markersize=4, label=f"{part}{how} {values[-1]:.4f}")
        axes.set(xlabel="epoch", title=what)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion(truth: NDArray[np.int64], answers: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """How many test images of each class got which label; colours show the mistakes alone."""
    classes = len(labels)
    counts = np.bincount(truth * classes + answers, minlength=classes**2).reshape(classes, classes)
    mistakes = np.where(np.eye(classes, dtype=bool), 0, counts)
    side = min(12.0, 3 + 0.5 * classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="Oranges", vmin=0, vmax=max(1, int(mistakes.max())) * 1.5)
    if classes <= ROOM_FOR_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            right = row == column
            axes.text(
                column, row, str(count or ""), ha="center", va="center", color="grey" if right else "black", size=9
            )
        axes.set_xticks(range(classes), labels, rotation=0 if max(map(len, labels)) < 4 else 90)
        axes.set_yticks(range(classes), labels)
    wrong = int(mistakes.sum())
    axes.set(xlabel="answer", ylabel="truth", title=f"{wrong:,} of {len(truth):,} test images with a wrong label")
    return figure


def mistakes(
    images: Images,
    truth: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    labels: Sequence[str],
) -> Figure:
    """The test images whose right label seemed least probable, with truth, answer and the answer's probability."""
    answers = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answers != truth)
    worst = wrong[np.argsort(probabilities[wrong, truth[wrong]], kind="stable")][:WORST]
    height = max(1, -(-len(worst) // 6))
    figure = Figure(figsize=(9, 1 + 1.75 * height), layout="constrained")
    figure.suptitle(f"the worst {len(worst)} of {len(wrong)} mistakes: test image, truth → answer")
    for axes in figure.subplots(height, 6, squeeze=False).flat:
        axes.set_axis_off()
    for axes, index, image in zip(figure.axes, worst, images[worst], strict=False):
        pixels = image.transpose(1, 2, 0)
        axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
        answer = answers[index]
        chance = probabilities[index, answer]
        axes.set_title(f"#{index}: {labels[truth[index]]} → {labels[answer]} ({chance:.0%})", size=9)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the picture as PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomic(path, content.getvalue())
