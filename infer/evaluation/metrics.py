"""Evaluation of a model on labelled images: accuracy, confusion matrix, calibration, and accuracy under corruption."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from netkit.core.errors import DataError
from netkit.core.progress import Advance
from netkit.core.system import usable_cores
from netkit.data.classification import Indices, confusion_matrix, worst_mistakes
from netkit.data.inspection import Problem, log_problems
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.infer.evaluation import corruptions
from netkit.infer.evaluation.result import Bin, ClassScore, Evaluation, Mistake
from netkit.infer.pipeline.batches import predict, split_evenly
from netkit.infer.pipeline.brightness import BrightnessCheck
from netkit.infer.runtime.session import Session

BINS = 15  # of the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599)
MAX_MISTAKES = 24  # in an evaluation

Inputs = Sequence[str] | NDArray[np.uint8]


@dataclass(frozen=True)
class _Outputs:
    """The network's outputs for M readable images, whose positions among all inputs are `indices` (M,).

    `problems` are those of the other inputs.
    `probabilities` (M, classes); `predictions` (M,) class indices; `corrupted` (C, M) those under each corruption.
    """

    indices: Indices
    problems: list[Problem]
    probabilities: NDArray[np.float32]
    predictions: Indices
    corrupted: Indices


def evaluate(
    session: Session,
    inputs: Inputs,
    labels: Indices,
    *,
    data: str,
    decoder: Decoder,
    batch_size: int,
    corrupt: bool,
    advance: Advance,
) -> Evaluation:
    """Compare the model's predictions for all inputs with their true classes, the indices `labels` (N,).

    Inputs are paths, or images uint8 (N, height, width, channels). With `corrupt` each image is also classified under
    every corruption. `data` is the name of the data set; `advance` is called with the number of images done.

    Raises DataError if no input can be read, ModelError if the model fails.
    """
    names = tuple(corruptions.CORRUPTIONS) if corrupt else ()
    outputs = _run(session, inputs, decoder, batch_size, names, advance)
    log_problems(data, outputs.problems)
    if not len(outputs.indices):
        raise DataError(f"{data}: none of its {len(labels):,} images can be read")
    card, true = session.card, labels[outputs.indices]
    correct = outputs.predictions == true
    confidences = outputs.probabilities[np.arange(len(true)), outputs.predictions].astype(np.float64)
    confusion = confusion_matrix(true, outputs.predictions, len(card.labels))
    calibration = _bins(confidences, correct)
    return Evaluation(
        model=session.model.name,
        model_sha256=session.model.sha256,
        arch=card.arch,
        provider=session.provider,
        data=data,
        images=len(true),
        unreadable=len(labels) - len(true),
        accuracy=float(correct.mean()),
        calibration_error=_calibration_error(calibration),
        classes=_scores(card.labels, confusion),
        confusion=tuple(map(tuple, confusion.tolist())),
        calibration=calibration,
        mistakes=_mistakes(outputs, true, inputs, card.labels),
        corrupted={name: float((row == true).mean()) for name, row in zip(names, outputs.corrupted, strict=True)},
    )


def _run(
    session: Session, inputs: Inputs, decoder: Decoder, batch_size: int, names: tuple[str, ...], advance: Advance
) -> _Outputs:
    workers = usable_cores()
    size, remaining = split_evenly(inputs, batch_size=batch_size, workers=workers)
    batches = predict(
        session,
        remaining,
        decoder=decoder,
        batch_size=size,
        workers=workers,
        processes=(size == batch_size or bool(names)) and workers > 1 and session.can_fork,
        brightness=BrightnessCheck(card=session.card, inverted=decoder.invert),
        transforms=[partial(corruptions.corrupt, name=name) for name in names],
    )
    decoded, problems, probabilities, predictions, corrupted = [], [], [], [], []
    with suppress_pillow_warnings(), closing(batches):
        for batch in batches:
            for path, error in zip(batch.paths, batch.errors, strict=True):
                decoded.append(error is None)
                if error:
                    problems.append(Problem(path, error.message, missing=error.status == "not-found"))
            probabilities.append(batch.probabilities)
            predictions.append(batch.logits.argmax(axis=1))
            corrupted.append(batch.transformed)
            advance(len(batch.paths), "")
    return _Outputs(
        np.flatnonzero(decoded),
        problems,
        np.concatenate(probabilities),
        np.concatenate(predictions),
        np.hstack(corrupted),
    )


def _scores(labels: Sequence[str], confusion: Indices) -> tuple[ClassScore, ...]:
    correct, support, predicted = (
        np.diag(confusion).tolist(), confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    )  # fmt: skip
    return tuple(
        ClassScore(label, images, hits / predictions if predictions else None, hits / images if images else None)
        for label, hits, images, predictions in zip(labels, correct, support, predicted, strict=True)
    )


def _bins(confidences: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """Bins of equal width; empty ones are left out."""
    edges = np.linspace(0, 1, BINS + 1)
    bin_indices = np.digitize(confidences, edges[1:-1], right=True)
    return tuple(
        Bin(
            float(edges[index]),
            float(edges[index + 1]),
            int(members.sum()),
            float(confidences[members].mean()),
            float(correct[members].mean()),
        )
        for index in range(BINS)
        if (members := bin_indices == index).any()
    )


def _calibration_error(bins: Sequence[Bin]) -> float:
    weighted_gaps = sum(bin_.images * abs(bin_.accuracy - bin_.confidence) for bin_ in bins)
    return weighted_gaps / sum(bin_.images for bin_ in bins)


def _mistakes(outputs: _Outputs, true: Indices, inputs: Inputs, labels: Sequence[str]) -> tuple[Mistake, ...]:
    rows = np.arange(len(true))
    worst = worst_mistakes(true, outputs.predictions, outputs.probabilities[rows, true], count=MAX_MISTAKES)
    return tuple(
        Mistake(
            index := int(outputs.indices[row]),
            path if isinstance(path := inputs[index], str) else "",
            labels[true[row]],
            labels[outputs.predictions[row]],
            round(float(outputs.probabilities[row, outputs.predictions[row]]), 6),
        )
        for row in worst.tolist()
    )
