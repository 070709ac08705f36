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

from netkit.core.model_card import ModelCard
from netkit.core.system import usable_cores
from netkit.data.lazy import Images
from netkit.infer.model.certificate import Comparison
from netkit.infer.runtime.session import Session
from netkit.nets.normalize import FromPixels
from netkit.nets.summary import multiply_adds

BATCHES = (1, 2, 3, 7, 64)
WHOLE_BATCH = 64  # for all inputs
WORK = 2.2e11  # multiply-adds of one pass over all inputs: enough for all of MNIST by densenet
LEAST_INPUTS = 32  # of a kind, whatever they cost
MOST = 100_000  # that are as many as there are
FEW = 999  # test images for the sizes, and for shuffled rows; all but 3 leave a smaller last batch of them
NOISE = 256  # images of uniform random pixels
LARGEST_POINTS = 1024  # images with one bright pixel: one for each place, where those are no more
CHUNK = 50  # images; float64 convolutions over 500 at a time took 3 to 5 times as long

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Truth:
    """What PyTorch computes: the `inputs` (N, C, H, W) uint8, and their logits (N, classes) in float64.

    The first inputs are the test images, whose labels are `labels`; `counts` says how many there are of each kind, of
    which none has over `most`.
    """

    net: nn.Module
    card: ModelCard
    inputs: NDArray[np.uint8]
    counts: dict[str, int]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    most: int = MOST

    @property
    def few(self) -> int:
        """On so many test images other sizes of batches are tried."""
        return min(FEW, max(16, self.most // 16))

    @property
    def test_logits(self) -> NDArray[np.float64]:
        return self.logits[: len(self.labels)]

    @property
    def accuracy(self) -> float:
        return float((self.test_logits.argmax(axis=1) == self.labels).mean())

    def at_risk(self, error: float) -> tuple[int, ...]:
        """The test images whose largest logit is not over twice `error` above the next; all of them for NaN."""
        ranked = np.sort(self.test_logits, axis=1)
        return tuple(np.flatnonzero(~(ranked[:, -1] - ranked[:, -2] > 2 * error)).tolist())


def most_inputs(net: nn.Module, card: ModelCard) -> int:
    """How many images of a kind `net` is run on at most: all for small nets, fewer where each costs much."""
    return max(LEAST_INPUTS, int(WORK / max(1, multiply_adds(net, (card.channels, card.height, card.width)))))


def truth_of(net: nn.Module, card: ModelCard, images: Images, labels: NDArray[np.int64]) -> Truth:
    """Run `net` in float64 on test images (N, C, H, W) with their labels (N,), and on images made up.

    Of the test images at most `most_inputs` are taken, evenly spread, and of each kind made up a quarter of that.
    """
    torch.set_num_threads(usable_cores())
    most = most_inputs(net, card)
    chosen = np.linspace(0, len(labels) - 1, min(len(labels), most)).round().astype(np.int64)
    kinds = {"test": images[chosen], **made_up(card.channels, card.height, card.width, most=max(16, most // 4))}
    inputs = np.concatenate(list(kinds.values()))
    exact = FromPixels(copy.deepcopy(net), card).double().eval()
    counts = {kind: len(images) for kind, images in kinds.items()}
    logits = _logits(exact, inputs, "cpu").astype(np.float64)
    return Truth(net, card, inputs, counts, labels[chosen], logits, most)


def made_up(channels: int, height: int, width: int, *, most: int) -> dict[str, NDArray[np.uint8]]:
    """Images that no test set holds, by kind: noise, all 0, all 255, and one bright pixel in different places."""
    random, shape = np.random.default_rng(0), (channels, height, width)
    places = random.permutation(height * width)[: min(LARGEST_POINTS, most)]
    points = np.zeros((len(places), channels, height * width), np.uint8)
    points[np.arange(len(places)), :, places] = 255
    return {
        "noise": random.integers(0, 256, (min(NOISE, most), *shape), np.uint8),
        "black": np.zeros((1, *shape), np.uint8),
        "white": np.full((1, *shape), 255, np.uint8),
        "point": points.reshape(-1, *shape),
    }


def torch_error(truth: Truth, device: str) -> float:
    """The largest absolute error of PyTorch's logits in float32 on "cpu" or "cuda"."""
    model = FromPixels(copy.deepcopy(truth.net), truth.card).float().eval().to(device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return _largest(_logits(model, truth.inputs, device) - truth.logits)


def compare(truth: Truth, session: Session, *, optimised: bool, torch_error: float) -> Comparison:
    """Compare the model in `session` with the truth, in batches of several sizes, in order and shuffled.

    The bound is 2 `torch_error` + 1e-6 max(1, largest |logit|).
    """
    tests = len(truth.labels)
    logits, probabilities = _run(session, truth.inputs, WHOLE_BATCH)
    errors = [_largest(logits - truth.logits)]
    orders = [np.arange(min(tests, truth.few)), np.random.default_rng(0).permutation(tests)[: truth.few]]
    for order, sizes in zip(orders, (BATCHES, (WHOLE_BATCH,)), strict=True):
        for size in sizes:
            few, _ = _run(session, truth.inputs[order], size)
            errors.append(_largest(few - truth.logits[order]))
    answers, wanted = logits[:tests].argmax(axis=1), truth.test_logits.argmax(axis=1)
    finite = np.isfinite(logits[:tests]).all(axis=1)
    error = float(np.max(errors))  # NaN if one of them is
    return Comparison(
        provider=session.provider,
        optimised=optimised,
        test_images=tests,
        error=error,
        probability_error=_largest(probabilities - torch.from_numpy(truth.logits).softmax(dim=1).numpy()),
        torch_error=torch_error,
        bound=2 * torch_error + 1e-6 * max(1.0, _largest(truth.logits)),
        agreeing=int(((answers == wanted) & finite).sum()),
        accuracy=float((answers == truth.labels).mean()),
        interval=_interval((answers == truth.labels).astype(int) - (wanted == truth.labels)),
        at_risk=truth.at_risk(error),
    )


def worst_inputs(session: Session, truth: Truth, count: int) -> NDArray[np.uint8]:
    """Those `count` whose logits are the furthest from the truth's."""
    errors = np.abs(logits_of(session, truth) - truth.logits).max(axis=1)
    return truth.inputs[np.argsort(-np.nan_to_num(errors, nan=np.inf), kind="stable")[:count]]


def logits_of(session: Session, truth: Truth) -> Floats:
    """The model's own, of all inputs."""
    return _run(session, truth.inputs, WHOLE_BATCH)[0]


def _interval(differences: NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of paired differences, by the normal approximation.

    But never narrower than the rule of three: what did not happen in n cases may happen in 3 of n.
    """
    mean, count = float(differences.mean()), len(differences)
    half = max(1.96 * float(differences.std()) / count**0.5, 3 / count)
    return mean - half, mean + half


def _largest(values: Floats) -> float:
    return float(np.abs(values).max())


@torch.no_grad()
def _logits(model: FromPixels, images_u8: NDArray[np.uint8], device: str) -> Floats:
    chunks = (torch.from_numpy(chunk.copy()).to(device) for chunk in _chunks(images_u8, CHUNK))
    return np.concatenate([model(chunk).cpu().numpy() for chunk in chunks])


def _run(session: Session, images_u8: NDArray[np.uint8], batch: int) -> tuple[Floats, Floats]:
    logits, probabilities = zip(*(session.run(chunk, size=batch) for chunk in _chunks(images_u8, batch)), strict=True)
    return np.concatenate(logits), np.concatenate(probabilities)


def _chunks(images_u8: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    return (images_u8[start : start + size] for start in range(0, len(images_u8), size))
