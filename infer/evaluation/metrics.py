"""Evaluate: how good a model's answers are on images whose classes are known, as they are and corrupted."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DataError, one_line
from netkit.core.progress import Advance
from netkit.core.system import usable_cores
from netkit.images.decoder import Decoder, pillow_silenced
from netkit.infer.evaluation.corruptions import CORRUPTIONS, CorruptingDecoder
from netkit.infer.pipeline import batches as pipeline
from netkit.infer.pipeline.brightness import Judge
from netkit.infer.runtime.session import Session

logger = logging.getLogger(__name__)

BINS = 15  # of probability, as many as Guo et al. 2017 (arXiv:1706.04599) take
WORST = 24  # mistakes that are named
UNREADABLE = -1  # as an answer

Inputs = Sequence[str] | NDArray[np.uint8]


@dataclass(frozen=True)
class ClassScore:
    """So many `images` are of the class. `precision`: the share of the answers with its name that are right; `recall`:
    the share of its images that get them; each from 0 to 1, None where there are none.
    """

    label: str
    images: int
    precision: float | None
    recall: float | None

    @property
    def cells(self) -> dict[str, str | int]:
        """For a table."""
        shares = {"precision": self.precision, "recall": self.recall}
        told = {name: "-" if share is None else f"{share:.2%}" for name, share in shares.items()}
        return {"class": one_line(self.label), "images": self.images, **told}


@dataclass(frozen=True)
class Bin:
    """The answers with a probability over `above` and up to `up_to`: their mean probability, and how many are right."""

    above: float
    up_to: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the image's index and path (empty where it has none), its class, the answer's probability."""

    index: int
    path: str
    truth: str
    answer: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """What came of it. Shares lie in [0, 1] and are of the images that could be read; `unreadable` counts the others.

    In `confusion` a row is a class and a column an answer, in the order of `classes`. `calibration_error` is the
    expected one (ECE): by how much the probabilities of a bin miss the share that is right, in the mean. `mistakes` are
    those with the highest probability. `corrupted` has the accuracy under each corruption.
    """

    model: str
    model_sha256: str
    arch: str
    provider: str
    data: str
    images: int
    unreadable: int
    accuracy: float
    calibration_error: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: tuple[Bin, ...]
    mistakes: tuple[Mistake, ...]
    corrupted: Mapping[str, float]

    @property
    def mean_corrupted(self) -> float | None:
        """The mean accuracy under all corruptions; None where there were none."""
        return float(np.mean(list(self.corrupted.values()))) if self.corrupted else None

    @property
    def corruption_cells(self) -> list[dict[str, str]]:
        """For a table: each corruption, the accuracy under it, and by how many points that differs."""
        return [
            {"corruption": name, "accuracy": f"{share:.2%}", "points": f"{100 * (share - self.accuracy):+.2f}"}
            for name, share in self.corrupted.items()
        ]

    def __str__(self) -> str:
        text = f"{one_line(self.data)}: {self.images:,} images, accuracy {self.accuracy:.2%}"
        if self.mean_corrupted is not None:
            text += f", corrupted {self.mean_corrupted:.2%} in the mean"
        text += f", calibration error {self.calibration_error:.4f} ({self.provider})"
        return text + (f"; {self.unreadable:,} more could not be read" if self.unreadable else "")


@dataclass(frozen=True)
class _Answers:
    """For each input the index of its label, or UNREADABLE, and the probability of that label."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def evaluate(
    session: Session,
    inputs: Inputs,
    truth: NDArray[np.int64],
    *,
    data: str,
    decoder: Decoder,
    batch_size: int,
    corrupt: bool,
    advance: Advance,
) -> Evaluation:
    """Let the model answer all inputs, whose classes are the indices `truth` (N,); once more for each corruption.

    Inputs are paths, or images as levels (N, height, width, channels). `data` is what they are called; `advance` is
    told of answers as they come. Raises DataError where no input can be read, or one not each time; ModelError where
    the model fails.
    """

    def answers(decoder: Decoder, note: str = "") -> _Answers:
        return _answers(session, inputs, decoder, batch_size, note, advance)

    card = session.card
    plain = answers(decoder)
    read = plain.labels != UNREADABLE
    if not read.any():
        raise DataError(f"{data}: none of its {len(truth):,} images can be read")
    right = plain.labels == truth
    corrupted: dict[str, float] = {}
    for name in CORRUPTIONS if corrupt else ():
        under = answers(CorruptingDecoder.of(decoder, name), name).labels[read]
        if lost := int((under == UNREADABLE).sum()):
            raise DataError(f"{data}: {lost:,} of its images could be read at first, and not once more ({name})")
        corrupted[name] = float((under == truth[read]).mean())
    confusion = _confusion(truth[read], plain.labels[read], len(card.labels))
    calibration = _bins(plain.probabilities[read], right[read])
    return Evaluation(
        model=session.model.name,
        model_sha256=session.model.sha256,
        arch=card.arch,
        provider=session.provider,
        data=data,
        images=int(read.sum()),
        unreadable=int((~read).sum()),
        accuracy=float(right[read].mean()),
        calibration_error=_calibration_error(calibration),
        classes=_scores(card.labels, confusion),
        confusion=tuple(map(tuple, confusion.tolist())),
        calibration=calibration,
        mistakes=_worst(plain, truth, inputs, card.labels),
        corrupted=corrupted,
    )


def _answers(
    session: Session,
    inputs: Inputs,
    decoder: Decoder,
    batch_size: int,
    note: str,
    advance: Advance,
) -> _Answers:
    number = {label: index for index, label in enumerate(session.card.labels)}
    labels = np.full(len(inputs), UNREADABLE, np.int64)
    probabilities = np.zeros(len(inputs))
    workers = usable_cores()
    size, remaining = pipeline.shared_out(inputs, batch_size=batch_size, workers=workers)
    batches = pipeline.infer(
        session,
        remaining,
        decoder=decoder,
        batch_size=size,
        workers=workers,
        forks=size == batch_size and session.can_fork,
        light=None if note else Judge(card=session.card, inverted=decoder.invert),
    )
    at = 0
    with pillow_silenced(), closing(batches):
        for rows in batches:
            for row in rows:
                if row.ranked:
                    labels[at], probabilities[at] = number[row.ranked[0][0]], row.ranked[0][1]
                elif not note:
                    logger.warning("%s: %s", row.path or f"#{at}", row.message)
                at += 1
            advance(len(rows), note)
    return _Answers(labels, probabilities)


def _confusion(truth: NDArray[np.int64], answers: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    return np.bincount(truth * classes + answers, minlength=classes**2).reshape(classes, classes)


def _scores(labels: Sequence[str], confusion: NDArray[np.int64]) -> tuple[ClassScore, ...]:
    right, images, answers = np.diag(confusion).tolist(), confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    return tuple(
        ClassScore(label, of_class, hits / named if named else None, hits / of_class if of_class else None)
        for label, hits, of_class, named in zip(labels, right, images, answers, strict=True)
    )


def _bins(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Of equal width; empty ones are left out."""
    edges = np.linspace(0, 1, BINS + 1)
    of_each = np.digitize(probabilities, edges[1:-1], right=True)
    return tuple(
        Bin(
            float(edges[index]),
            float(edges[index + 1]),
            int(chosen.sum()),
            float(probabilities[chosen].mean()),
            float(right[chosen].mean()),
        )
        for index in range(BINS)
        if (chosen := of_each == index).any()
    )


def _calibration_error(bins: Sequence[Bin]) -> float:
    missed = sum(each.images * abs(each.accuracy - each.confidence) for each in bins)
    return missed / sum(each.images for each in bins)


def _worst(answers: _Answers, truth: NDArray[np.int64], inputs: Inputs, labels: Sequence[str]) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero((answers.labels != truth) & (answers.labels != UNREADABLE))
    worst = wrong[np.argsort(-answers.probabilities[wrong], kind="stable")][:WORST]
    return tuple(
        Mistake(
            index,
            each if isinstance(each := inputs[index], str) else "",
            labels[truth[index]],
            labels[answers.labels[index]],
            round(float(answers.probabilities[index]), 6),
        )
        for index in worst.tolist()
    )
