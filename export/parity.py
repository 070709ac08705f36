"""Parity: how far an exported model is from the net that it came from, measured on the path that users run.

The truth is PyTorch in float64. The yardstick is PyTorch's own float32 error: the exported model may err as much again,
and no more.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from infer.session import Session
from nets.card import ModelCard
from nets.machine import usable_cores
from nets.pixels import FromPixels

BATCHES = (1, 2, 3, 64)  # beside LARGE_BATCH, each on the first FEW images
FEW = 1000
LARGE_BATCH = 1000
NOISE = 256  # images of uniform random pixels, beside the real ones
CHUNK = 50  # images; float64 convolutions over 500 at a time took 3 to 5 times as long

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Parity:
    """The largest absolute error of an exported model, over all inputs and batch sizes, and what follows from it.

    Errors are in logits (`probability_error` in probabilities), against float64 PyTorch. `images` are the real ones:
    `agreeing` of them get the same label, and the labels of `at_risk` lie within what the error could flip.
    """

    provider: str
    images: int
    noise: int
    error: float
    probability_error: float
    torch_error: float
    bound: float
    agreeing: int
    at_risk: int

    @property
    def holds(self) -> bool:
        return self.error <= self.bound and self.probability_error <= self.bound  # False for NaN, too

    def __str__(self) -> str:
        return (
            f"largest error {self.error:.2g}, {'within' if self.holds else 'NOT within'} the bound of {self.bound:.2g} "
            f"(PyTorch's own in float32: {self.torch_error:.2g}), on {self.provider}; "
            f"top-1 agreement {self.agreeing:,} of {self.images:,}; labels that the error could flip: {self.at_risk:,}"
        )


def measure(net: nn.Module, card: ModelCard, session: Session, images_u8: NDArray[np.uint8]) -> Parity:
    """Compare the model in `session` with `net` on `images_u8` (N, C, H, W), on noise, and over batch sizes.

    The bound is 2 e_torch + 1e-6 max(1, largest |logit|), with e_torch the largest error of PyTorch in float32.
    """
    torch.set_num_threads(usable_cores())
    noise = np.random.default_rng(0).integers(0, 256, (NOISE, *images_u8.shape[1:]), np.uint8)
    inputs = np.concatenate([images_u8, noise])
    model = FromPixels(net, card).eval()
    truth = _logits(copy.deepcopy(model).double(), inputs)
    torch_error = _largest(_logits(model, inputs) - truth)
    logits, probabilities = _run(session, inputs, LARGE_BATCH)
    errors = [_largest(logits - truth)]
    for batch in BATCHES:
        few, _ = _run(session, inputs[:FEW], batch)
        errors.append(_largest(few - truth[:FEW]))
    real = truth[: len(images_u8)]
    ranked = np.sort(real, axis=1)
    margins = ranked[:, -1] - ranked[:, -2]
    return Parity(
        provider=session.provider,
        images=len(images_u8),
        noise=NOISE,
        error=float(np.max(errors)),  # NaN if one of them is
        probability_error=_largest(probabilities - torch.from_numpy(truth).softmax(dim=1).numpy()),
        torch_error=torch_error,
        bound=2 * torch_error + 1e-6 * max(1.0, _largest(truth)),
        agreeing=int(((logits[: len(real)].argmax(axis=1) == real.argmax(axis=1)) & np.isfinite(margins)).sum()),
        at_risk=len(real) - int((margins > 2 * np.max(errors)).sum()),  # all of them for NaN
    )


def _largest(values: Floats) -> float:
    return float(np.abs(values).max())


@torch.no_grad()
def _logits(model: FromPixels, images_u8: NDArray[np.uint8]) -> Floats:
    chunks = (torch.from_numpy(chunk.copy()) for chunk in _chunks(images_u8, CHUNK))
    return np.concatenate([model(chunk).numpy() for chunk in chunks])


def _run(session: Session, images_u8: NDArray[np.uint8], batch: int) -> tuple[Floats, Floats]:
    logits, probabilities = zip(*(session.run(chunk) for chunk in _chunks(images_u8, batch)), strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)


def _chunks(images_u8: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    return (images_u8[start : start + size] for start in range(0, len(images_u8), size))
