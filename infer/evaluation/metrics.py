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
from netkit.data.temperature import softmax
from netkit.images.decoder import Decoder, suppress_pillow_warnings
from netkit.infer.evaluation import calibration, corruptions
from netkit.infer.evaluation.result import ClassScore, Evaluation, Mistake
from netkit.infer.pipeline.batches import predict, split_evenly
from netkit.infer.pipeline.brightness import BrightnessCheck
from netkit.infer.runtime.session import Session

MAX_MISTAKES = 24  # in an evaluation

Inputs = Sequence[str] | NDArray[np.uint8]


@dataclass(frozen=True)
class Outputs:
    """The network's outputs for M readable images, whose positions among all inputs are `indices` (M,).

    `problems` are those of the other inputs. `logits` and `probabilities` are (M, classes); `predictions` (M,) are
    class indices, and `corrupted` (C, M) those under each corruption.
    """

    indices: Indices
    problems: list[Problem]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    corrupted: Indices

    @property
    def predictions(self) -> Indices:
        return self.logits.argmax(axis=1)


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
    outputs = run(session, inputs, data=data, decoder=decoder, batch_size=batch_size, names=names, advance=advance)
    card, true, predictions = session.card, labels[outputs.indices], outputs.predictions
    confusion = confusion_matrix(true, predictions, len(card.labels))
    temperature = card.confidence.temperature
    plain = softmax(outputs.logits, 1.0) if temperature != 1 else None
    return Evaluation(
        model=session.model.name,
        model_sha256=session.model.sha256,
        arch=card.arch,
        provider=session.provider,
        data=data,
        images=len(true),
        unreadable=len(labels) - len(true),
        accuracy=float((predictions == true).mean()),
        classes=_scores(card.labels, confusion),
        confusion=tuple(map(tuple, confusion.tolist())),
        calibration=calibration.measure(outputs.probabilities, predictions, true, temperature),
        uncalibrated=None if plain is None else calibration.measure(plain, predictions, true, 1.0),
        mistakes=_mistakes(outputs, true, inputs, card.labels),
        corrupted={name: float((row == true).mean()) for name, row in zip(names, outputs.corrupted, strict=True)},
    )


def run(
    session: Session,
    inputs: Inputs,
    *,
    data: str,
    decoder: Decoder,
    batch_size: int,
    names: Sequence[str] = (),
    advance: Advance,
) -> Outputs:
    """Run the model over all inputs, and again under each corruption in `names`.

    The other arguments are those of `evaluate`. Logs the inputs that cannot be read. Raises DataError if no input can
    be read, ModelError if the model fails.
    """
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
    decoded, problems, logits, probabilities, corrupted = [], [], [], [], []
    with suppress_pillow_warnings(), closing(batches):
        for batch in batches:
            for path, error in zip(batch.paths, batch.errors, strict=True):
                decoded.append(error is None)
                if error:
                    problems.append(Problem(path, error.message, missing=error.status == "not-found"))
            logits.append(batch.logits)
            probabilities.append(batch.probabilities)
            corrupted.append(batch.transformed)
            advance(len(batch.paths), "")
    log_problems(data, problems)
    if not any(decoded):
        raise DataError(f"{data}: none of its {len(decoded):,} images can be read")
    return Outputs(
        np.flatnonzero(decoded), problems, np.concatenate(logits), np.concatenate(probabilities), np.hstack(corrupted)
    )


def _scores(labels: Sequence[str], confusion: Indices) -> tuple[ClassScore, ...]:
    correct, support, predicted = (
        np.diag(confusion).tolist(), confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    )  # fmt: skip
    return tuple(
        ClassScore(label, images, hits / predictions if predictions else None, hits / images if images else None)
        for label, hits, images, predictions in zip(labels, correct, support, predicted, strict=True)
    )


def _mistakes(outputs: Outputs, true: Indices, inputs: Inputs, labels: Sequence[str]) -> tuple[Mistake, ...]:
    rows = np.arange(len(true))
    predictions = outputs.predictions
    worst = worst_mistakes(true, predictions, outputs.probabilities[rows, true], count=MAX_MISTAKES)
    return tuple(
        Mistake(
            index := int(outputs.indices[row]),
            path if isinstance(path := inputs[index], str) else "",
            labels[true[row]],
            labels[predictions[row]],
            round(float(outputs.probabilities[row, predictions[row]]), 6),
        )
        for row in worst.tolist()
    )
