"""Certificate: a parity report with hashes, which an exported model carries in its metadata."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from netkit.core import schema
from netkit.core.errors import ModelError

KEY = "netkit.certificate"  # in the ONNX metadata
VERSION = 1  # of the JSON format
CHECKSUM = "sha256"  # JSON field: the SHA-256 of all other fields
UNCERTIFIED_FACTOR = 4  # a provider that was not compared may err by this many times the largest bound


@dataclass(frozen=True)
class Comparison:
    """A model on one provider, `optimised` by ONNX Runtime or not, compared with PyTorch in float64.

    `error` and `probability_error` are the largest absolute errors of logits and probabilities over all inputs;
    `torch_error` is that of the logits of PyTorch in float32 on the same kind of device, and `bound` the largest
    `error` allowed. `agreeing` counts the test images, of `test_images`, that get PyTorch's label. `accuracy` lies in
    [0, 1]; its difference from PyTorch's lies in `interval` with 95 % confidence. `at_risk` holds the indices of the
    test images whose two largest logits differ by at most twice `error`; no error can change the labels of the others.
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
        """Whether the errors are within the bound; False if one is NaN."""
        return self.error <= self.bound and self.probability_error <= self.bound

    @property
    def changed(self) -> int:
        """The number of test images whose label differs from PyTorch's."""
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
    """The comparisons of a model with PyTorch, and the SHA-256 of everything that they depend on.

    `inputs` counts the compared images by kind; `batches` are the batch sizes; `versions` and `platform` name the
    software and the machine. `torch_accuracy` lies in [0, 1]. The hashes detect changes; they are not a signature.
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
        """The indices of the test images whose label the error of some provider could change, in order."""
        return tuple(sorted({index for comparison in self.comparisons for index in comparison.at_risk}))

    def bound_on(self, provider: str) -> float | None:
        """The largest logit error allowed on `provider`; None if the certificate does not cover it."""
        return max((each.bound for each in self.comparisons if each.provider == provider), default=None)

    @property
    def loosest_bound(self) -> float:
        """The largest logit error allowed on a provider that the certificate does not cover."""
        return UNCERTIFIED_FACTOR * max(comparison.bound for comparison in self.comparisons)

    def to_json(self) -> str:
        return sealed({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """The certificate that `to_json` wrote.

        Raises ModelError if it was changed, with the name of a field that is missing or has the wrong type.
        """
        values = schema.parse(text, what="the certificate", error=ModelError, version=VERSION)
        if values.get(CHECKSUM) != _checksum(values):
            raise ModelError("the certificate was changed since it was written")
        certificate = schema.load(cls, values, what="the certificate", error=ModelError)
        if not certificate.comparisons:
            raise ModelError("the certificate certifies nothing: it has no comparisons")
        return certificate


def sealed(values: Mapping[str, Any]) -> str:
    """`values` as JSON, with their checksum as a further field."""
    return json.dumps({**values, CHECKSUM: _checksum(values)})


def _checksum(values: Mapping[str, Any]) -> str:
    return sha256(json.dumps({name: value for name, value in values.items() if name != CHECKSUM}))


def sha256(content: bytes | str) -> str:
    """The SHA-256 of bytes, or of text in UTF-8, in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
