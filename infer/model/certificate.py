"""Certificate: a parity report with hashes in the metadata of an exported model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from netkit.core import schema
from netkit.core.errors import ModelError
from netkit.infer.runtime.providers import NAMES

KEY = "netkit.certificate"  # in the ONNX metadata
VERSION = 1  # of the JSON format
CHECKSUM = "sha256"  # JSON field: the SHA-256 of all other fields
UNCERTIFIED_FACTOR = 4  # on a provider that was not compared, the bound is this many times the largest bound


@dataclass(frozen=True)
class Comparison:
    """Comparison of a model on one provider with PyTorch in float64.

    `optimised` tells whether ONNX Runtime optimized the graph. `error` and `probability_error` are the largest absolute
    errors of logits and probabilities over all inputs; if `netkit calibrate` wrote the model, `probability_error` is an
    upper limit computed from `error`. `bound` is the largest logit error allowed, and `probability_bound` the largest
    probability error. `temperature` is the model's. `torch_error` is the largest absolute logit error of PyTorch in
    float32 on the same kind of device. `agreeing` is the number of
    test images, out of `test_images`, with the same prediction as PyTorch. `accuracy` is in [0, 1], and `interval` is
    the 95 % confidence interval of its difference from PyTorch's. `at_risk` holds the indices of the test images whose
    prediction the error could change: their two largest logits differ by at most twice `error`.
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
    temperature: float = field(default=1.0, metadata=schema.ADDED_LATER)

    @property
    def holds(self) -> bool:
        """Whether both errors are within their bounds; False if one is NaN."""
        return self.error <= self.bound and self.probability_error <= self.probability_bound

    @property
    def probability_bound(self) -> float:
        """The largest probability error allowed. Division by a temperature below 1 amplifies the logit errors."""
        return self.bound / min(1.0, self.temperature)

    @property
    def changed(self) -> int:
        """The number of test images whose prediction differs from PyTorch's."""
        return self.test_images - self.agreeing

    def __str__(self) -> str:
        only_probabilities = self.error <= self.bound and not self.holds
        kind, error, bound = (
            ("probability", self.probability_error, self.probability_bound) if only_probabilities
            else ("logit", self.error, self.bound)
        )  # fmt: skip
        return (
            f"largest {kind} error {error:.2g} on {NAMES.get(self.provider, self.provider)}"
            f"{'' if self.optimised else ' without graph optimizations'} (allowed: {bound:.2g}; error of "
            f"PyTorch in float32: {self.torch_error:.2g}); same label as PyTorch for {self.agreeing:,} of "
            f"{self.test_images:,} test images"
        )


@dataclass(frozen=True)
class Recalibration:
    """Record of a temperature that `netkit calibrate` fitted after the export.

    `data` is the name of the data set, and `model_sha256` the SHA-256 of the file that was calibrated.
    """

    data: str
    model_sha256: str


@dataclass(frozen=True)
class Certificate:
    """The comparisons of a model with PyTorch, and the SHA-256 of everything that they depend on.

    `inputs` is the number of compared images of each kind; `batches` are the batch sizes; `versions` and `platform`
    name the software and the machine. `torch_accuracy` is in [0, 1]. `passes` names the graph passes that changed an
    fp32 model. `speeds` holds the images/s of the candidates of `netkit export --tune` in one thread, by their passes,
    e.g. "none" or "fold_pixels,merge_linear". `without_casts` tells that the network casts to another floating-point
    type, and that PyTorch's float64 logits are computed without these casts. `recalibration` is None unless `netkit
    calibrate` wrote the file. The hashes detect changes; they are no
    signature.
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
    passes: tuple[str, ...] = field(default=(), metadata=schema.ADDED_LATER)
    speeds: Mapping[str, int] = field(default_factory=dict, metadata=schema.ADDED_LATER)
    without_casts: bool = field(default=False, metadata=schema.ADDED_LATER)
    recalibration: Recalibration | None = field(default=None, metadata=schema.ADDED_LATER)

    def __str__(self) -> str:
        first = self.comparisons[0]
        if self.precision == "fp32":
            return f"matches PyTorch: {first}; the largest error can change the label of {len(self.at_risk):,} of them"
        low, high = (100 * end for end in first.interval)
        return (
            f"accuracy in {self.precision} {first.accuracy:.2%}, in PyTorch {self.torch_accuracy:.2%} (95% confidence "
            f"interval of the change: {low:+.2f} to {high:+.2f} points); same label as PyTorch for "
            f"{first.agreeing:,} of {first.test_images:,} test images; largest logit error {first.error:.2g}"
        )

    @property
    def at_risk(self) -> tuple[int, ...]:
        """The sorted indices of the test images whose prediction the error of some provider could change."""
        return tuple(sorted({index for comparison in self.comparisons for index in comparison.at_risk}))

    def bound_on(self, provider: str) -> float | None:
        """The largest logit error allowed on `provider`; None if the certificate does not cover it."""
        bounds = (comparison.bound for comparison in self.comparisons if comparison.provider == provider)
        return max(bounds, default=None)

    @property
    def uncertified_bound(self) -> float:
        """The largest logit error allowed on a provider that the certificate does not cover."""
        return UNCERTIFIED_FACTOR * max(comparison.bound for comparison in self.comparisons)

    def to_json(self) -> str:
        return sealed({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Read a certificate that `to_json` wrote.

        Raises ModelError if it was changed, or if a field is missing or has the wrong type.
        """
        values = schema.parse(text, subject="the certificate", error=ModelError, version=VERSION)
        if values.get(CHECKSUM) != _checksum(values):
            raise ModelError("the certificate was changed since it was written")
        certificate = schema.load(cls, values, subject="the certificate", error=ModelError)
        if not certificate.comparisons:
            raise ModelError("the certificate has no comparisons")
        return certificate


def sealed(values: Mapping[str, Any]) -> str:
    """Return `values` as JSON, with their checksum in an additional field."""
    return json.dumps({**values, CHECKSUM: _checksum(values)})


def _checksum(values: Mapping[str, Any]) -> str:
    return sha256(json.dumps({name: value for name, value in values.items() if name != CHECKSUM}))


def sha256(content: bytes | str) -> str:
    """The SHA-256 of bytes, or of text in UTF-8, in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
