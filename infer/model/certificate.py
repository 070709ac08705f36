"""Certificate: what a model was compared with when it was exported, and what came out. It travels in the model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from netkit.core import schema
from netkit.core.errors import ModelError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"  # what ONNX Runtime calls providers
KEY = "netkit.certificate"  # in ONNX metadata
VERSION = 1  # of the certificate's form
SUM = "sha256"  # of the rest
UNCERTIFIED = 4  # times the largest bound is what a provider may err that was not there when the model was made


@dataclass(frozen=True)
class Comparison:
    """A model on one provider, with ONNX Runtime's graph optimisation or without, against PyTorch in float64.

    Errors are the largest absolute ones over all inputs, of logits (`probability_error`: of probabilities).
    `torch_error` is that of PyTorch in float32 on the same kind of device, `bound` what the model's may be. `agreeing`
    of the `test_images` get the label that PyTorch gives them; `accuracy` on them lies in [0, 1], and by how much it
    differs from PyTorch's lies within `interval` with 95 % confidence. `at_risk` are the indices of the test images
    whose margin between the two largest logits is not over twice `error`: the labels of all others cannot be another.
    """

    provider: str
    optimised: bool
    test_images: int
    error: float
    probability_error: float
    torch_error: float
    bound: float
    agreeing: int
    accuracy: float
    interval: tuple[float, float]
    at_risk: tuple[int, ...]

    @property
    def holds(self) -> bool:
        return self.error <= self.bound and self.probability_error <= self.bound  # False for NaN, too

    @property
    def changed(self) -> int:
        """Test images that get another label than PyTorch gives them."""
        return self.test_images - self.agreeing

    def __str__(self) -> str:
        return (
            f"largest error {self.error:.2g}, {'within' if self.holds else 'NOT within'} the bound of {self.bound:.2g} "
            f"(PyTorch's own in float32: {self.torch_error:.2g}), on {self.provider}"
            f"{'' if self.optimised else ' without optimisation'}; "
            f"top-1 agreement {self.agreeing:,} of {self.test_images:,}"
        )


@dataclass(frozen=True)
class Certificate:
    """The comparisons of a model, and SHA-256 sums of what they hold for: integrity, not a signature.

    `inputs` counts the images compared, by kind, `batches` are the sizes of the batches; `versions` and `platform` say
    with what and where. `torch_accuracy` lies in [0, 1].
    """

    precision: str
    weights_sha256: str
    graph_sha256: str
    card_sha256: str
    probes_sha256: str
    versions: Mapping[str, str]
    platform: str
    inputs: Mapping[str, int]
    batches: tuple[int, ...]
    torch_accuracy: float
    comparisons: tuple[Comparison, ...]

    def __str__(self) -> str:
        first = self.comparisons[0]
        if self.precision == "fp32":
            return f"{first}; labels that the error could flip: {len(self.at_risk):,}"
        low, high = (100 * end for end in first.interval)
        return (
            f"{self.precision}: accuracy {first.accuracy:.2%}, PyTorch's {self.torch_accuracy:.2%} (with 95 % "
            f"confidence a change of {low:+.2f} to {high:+.2f} points), {first.changed:,} of {first.test_images:,} "
            f"labels changed, largest error {first.error:.2g}, on {first.provider}"
        )

    @property
    def at_risk(self) -> tuple[int, ...]:
        """The test images whose label some provider's error could change."""
        return tuple(sorted({index for each in self.comparisons for index in each.at_risk}))

    def bound_on(self, provider: str) -> float | None:
        """What the logits may err there; None for a provider that was not there when the model was made."""
        return max((each.bound for each in self.comparisons if each.provider == provider), default=None)

    @property
    def loosest_bound(self) -> float:
        """For a provider that was not there."""
        return UNCERTIFIED * max(comparison.bound for comparison in self.comparisons)

    def to_json(self) -> str:
        return sealed({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """The certificate that `to_json` wrote; ModelError names the field that is missing or of the wrong type."""
        values = schema.parse(text, what="the certificate", error=ModelError, version=VERSION)
        if values.get(SUM) != _sum_of(values):
            raise ModelError("the certificate was changed since it was written")
        certificate = schema.load(cls, values, what="the certificate", error=ModelError)
        if not certificate.comparisons:
            raise ModelError("the certificate certifies nothing: it has no comparisons")
        return certificate


def sealed(fields: Mapping[str, Any]) -> str:
    """As JSON, with the sum of all but the sum."""
    return json.dumps({**fields, SUM: _sum_of(fields)})


def _sum_of(fields: Mapping[str, Any]) -> str:
    return sha256(json.dumps({name: value for name, value in fields.items() if name != SUM}))


def sha256(content: bytes | str) -> str:
    """In hexadecimal, of bytes or of text in UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
