"""Rows: the result for one input each, made from predictions, and their counts."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np

from netkit.infer.output.folder_labels import TrueLabel
from netkit.infer.pipeline.batches import Predictions

OK = "ok"  # the status of an input that has a prediction
DECIMALS = 6  # of probabilities in a results file
OLD_STATUSES = {"not-found": "vanished"}  # status -> its name in version 0.1; remove in 0.3


class Row(NamedTuple):
    """The prediction for one input, or the error that prevented it.

    `ranked` holds (label, probability) pairs, the most probable first. It is empty unless `status` is "ok"; other
    statuses are error codes, which `message` explains.
    """

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    status: str = OK
    message: str = ""

    @property
    def label(self) -> str | None:
        """The most probable label; None without a prediction."""
        return self.ranked[0][0] if self.ranked else None

    @property
    def probability(self) -> float | None:
        """The probability of `label`, from 0 to 1; None without a prediction."""
        return self.ranked[0][1] if self.ranked else None

    def cells(self, top_k: int) -> list[str | float | None]:
        """The cells of the row in a results file, in the order of `columns`."""
        ranked: list[str | float | None] = []
        for label, probability in self.ranked[:top_k]:
            ranked += label, round(probability, DECIMALS)
        ranked += [None] * (2 * top_k - len(ranked))
        return [self.path, *ranked[:2], self.status, self.message, *ranked[2:]]


def columns(top_k: int) -> list[str]:
    """The columns of a results file: path, label, probability, status, message, label_2, probability_2, ..."""
    more = [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("label", "probability")]
    return ["path", "label", "probability", "status", "message", *more]


def rows_of(predictions: Predictions, labels: tuple[str, ...], *, top_k: int, old_statuses: bool = False) -> list[Row]:
    """Return a row for each input with its `top_k` most probable labels.

    `labels` name the classes in order. With `old_statuses`, statuses have their names of version 0.1.
    """
    # sorted by logit, because probabilities may round to the same number where logits still differ
    order = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :top_k]
    probabilities = np.take_along_axis(predictions.probabilities, order, axis=1)
    columns = zip(order.T.tolist(), probabilities.T.tolist(), strict=True)
    ranked = zip(*(zip(map(labels.__getitem__, ids), probs, strict=True) for ids, probs in columns), strict=True)
    names = OLD_STATUSES if old_statuses else {}
    return [
        Row(path, status=names.get(error.status, error.status), message=error.message)
        if error
        else Row(path, next(ranked))
        for path, error in zip(predictions.paths, predictions.errors, strict=True)
    ]


@dataclass
class Counts:
    """Counts of rows.

    `labelled` counts predictions for files that have a `true_label`; `correct` counts those whose predicted label is
    the true one.
    """

    true_label: TrueLabel = field(default=lambda path: None, repr=False, compare=False)
    ok: int = 0
    failed: int = 0
    labelled: int = 0
    correct: int = 0

    @property
    def total(self) -> int:
        return self.ok + self.failed

    def as_dict(self) -> dict[str, int]:
        """The counts by name, without `true_label`."""
        fields = asdict(self)
        del fields["true_label"]
        return fields

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        if row.status != OK:
            self.failed += 1
            return
        self.ok += 1
        label = self.true_label(row.path)
        if label is not None:
            self.labelled += 1
            self.correct += row.ranked[0][0] == label

    def summary(self, work: str = "") -> str:
        """Return one line: the number of files, `work` (how long they took), how many failed, and the accuracy."""
        text = f"{self.total:,} file{'' if self.total == 1 else 's'}{work}"
        if self.failed:
            text += f": {self.ok:,} ok, {self.failed:,} with an error"
        if self.labelled:
            images = f"{self.labelled:,} image{'' if self.labelled == 1 else 's'}"
            text += f"; accuracy {self.correct / self.labelled:.2%} ({self.correct:,} correct of the {images} "
            text += "whose folder is named after a label)"
        return text
