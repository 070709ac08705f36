"""Recalibration of an exported model: a new temperature for its probabilities. Needs no PyTorch."""

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from netkit.core.errors import DataError
from netkit.data.temperature import MIN_IMAGES, fit_confidence
from netkit.infer.model import certificate, onnx_file
from netkit.infer.model.certificate import Comparison, Recalibration, sha256
from netkit.infer.model.onnx_file import Model, graph_sha256
from netkit.infer.model.temperature import set_confidence, set_metadata
from netkit.infer.model.verify import read_self_test


def recalibrated(model: Model, logits: NDArray[np.floating], labels: NDArray[np.int64], *, data: str) -> Model:
    """Return the model with a temperature that is fitted to images of `data`, and with a certificate for it.

    `logits` (N, classes) are the model's, and `labels` (N,) the true classes. Raises DataError if there are fewer than
    MIN_IMAGES images.
    """
    if len(labels) < MIN_IMAGES:
        raise DataError(f"{data}: has {len(labels)} images to calibrate on; at least {MIN_IMAGES} are needed")
    confidence, proto = fit_confidence(logits, labels), onnx.load_model_from_string(model.content)
    card = set_confidence(proto, model.card, confidence, name=model.name)
    earlier = read_self_test(model).certificate
    new = replace(
        earlier,
        graph_sha256=graph_sha256(proto),
        card_sha256=sha256(card),
        comparisons=tuple(_at_temperature(comparison, confidence.temperature) for comparison in earlier.comparisons),
        recalibration=Recalibration(data, model.sha256),
    )
    set_metadata(proto, certificate.KEY, new.to_json())
    return onnx_file.check(proto.SerializeToString(deterministic=True), model.name)


def _at_temperature(comparison: Comparison, temperature: float) -> Comparison:
    """Return the comparison for a new temperature, with an upper limit of the probability error.

    The logits did not change. If each logit error is at most e, each error of softmax(logits / T) is at most
    e / (2 * T), without the rounding errors of the softmax itself.
    """
    limit = min(1.0, comparison.error / (2 * temperature))
    return replace(comparison, temperature=temperature, probability_error=limit)
