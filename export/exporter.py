"""Publish: convert a net, prove the result, and only then give the file its name."""

import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from torch import nn

from netkit.core import atomic_io
from netkit.core.errors import NetkitError, ParityError, UsageError
from netkit.core.model_card import ModelCard
from netkit.core.runs import PARITY
from netkit.data.dataset import DataSet
from netkit.export import quantize
from netkit.export.convert import OPSET, convert
from netkit.export.parity import report, samples
from netkit.export.parity.compare import BATCHES, Truth, compare, logits_of, torch_error, truth_of, worst_inputs
from netkit.export.parity.divergence import first_divergence
from netkit.export.passes.rewrite import passes
from netkit.infer.model import certificate, onnx_file, verify
from netkit.infer.model.certificate import Certificate, Comparison, sha256
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.probes import KEY as PROBES_KEY
from netkit.infer.runtime.ort import ort
from netkit.infer.runtime.providers import device_of
from netkit.infer.runtime.session import open_session, open_sessions
from netkit.nets.training import checkpoint

TRACED = 128  # images, the worst, by which the module is found that differs


def export(
    net: nn.Module,
    paths: Mapping[str, Path],
    *,
    card: ModelCard,
    data: DataSet,
    opset: int = OPSET,
    max_drop: float,
    multiple: int = 1,
) -> dict[str, Certificate]:
    """Write `net` as ONNX files, one for each precision in `paths`, each with its certificate, and a page for people.

    An fp32 file is written only if it computes what the net does on the test images and on made-up ones; fp16 and int8
    ones if their test accuracy is at most `max_drop` below PyTorch's. What is measured is the graph that is written, on
    each provider that works here. Raises ParityError where that fails, and leaves no such file, not even an earlier
    one: it would pass for the net that failed. Raises UsageError where a path cannot be written, or is not
    called .onnx. In an fp32 file convolutions have a `multiple` of channels, where that
    can be: see passes.pad_channels.
    """
    for path in paths.values():
        atomic_io.require_writable(path)
        if path.suffix != ".onnx":
            raise UsageError(f"{path}: an ONNX model is written as .onnx")
    truth = truth_of(net, card, data.test_images, data.test_labels)
    torch_errors: dict[str, float] = {}  # by device
    done: dict[str, Certificate] = {}
    for precision, path in paths.items():
        bare = onnx_file.check(_converted(truth, data, precision, opset, multiple), str(path))
        comparisons = tuple(_comparisons(bare, truth, torch_errors))
        try:
            if precision == "fp32":
                _require_parity(bare, comparisons, truth, opset)
            else:
                comparisons = tuple(_bound_by_its_own_error(each) for each in comparisons)
                _require_accuracy(comparisons, truth, max_drop)
        except ParityError as fault:
            path.unlink(missing_ok=True)
            _write_page(path.parent)
            raise ParityError(f"{path}: not written: {fault}") from None
        sealed = _sealed(bare, truth, comparisons, precision)
        verify.open_verified(sealed, device="cpu")
        atomic_io.write_atomic(path, sealed.content)
        done[precision] = verify.read_self_test(sealed).certificate
        _write_page(path.parent)
    return done


def _write_page(folder: Path) -> None:
    """For people, of all models in the folder that carry a certificate; none where there is no such model."""
    certificates: list[tuple[str, Certificate]] = []
    for path in sorted(folder.glob("*.onnx")):
        with suppress(NetkitError):  # of somebody else, or of an earlier netkit
            certificates.append((path.name, verify.read_self_test(onnx_file.read(path)).certificate))
    if certificates:
        atomic_io.write_atomic(folder / PARITY, report.page(certificates).encode())
    else:
        (folder / PARITY).unlink(missing_ok=True)


def _converted(truth: Truth, data: DataSet, precision: str, opset: int, multiple: int) -> bytes:
    net, card = truth.net, truth.card
    if precision == "fp16":
        return quantize.half(net, card, opset=opset)
    if precision == "int8":
        return quantize.quantized(net, card, data.train_images[: truth.most], opset=opset)
    return convert(net, card, opset=opset, passes=passes(multiple=multiple))


def _comparisons(bare: Model, truth: Truth, torch_errors: dict[str, float]) -> Iterator[Comparison]:
    """One for each provider that works here; PyTorch's error is added to `torch_errors` where it is not yet known."""
    for optimised in (True, False):
        for session in open_sessions(bare, device="auto", optimised=optimised):
            device = device_of(session.provider)
            if device not in torch_errors:
                torch_errors[device] = torch_error(truth, device)
            yield compare(truth, session, optimised=optimised, torch_error=torch_errors[device])


def _require_parity(bare: Model, comparisons: tuple[Comparison, ...], truth: Truth, opset: int) -> None:
    wrong = next((comparison for comparison in comparisons if not comparison.holds), None)
    if wrong:
        session = open_session(bare, device=device_of(wrong.provider), optimised=wrong.optimised)
        where = first_divergence(
            truth.net,
            truth.card,
            worst_inputs(session, truth, min(TRACED, truth.few)),
            opset=opset,
            provider=wrong.provider,
            optimised=wrong.optimised,
        )
        raise ParityError(
            f"the ONNX model does not compute what PyTorch does: {wrong}; "
            f"{where or 'each module does, before the graph is rewritten'}"
        )


def _bound_by_its_own_error(comparison: Comparison) -> Comparison:
    """For fewer bits: elsewhere a model may differ from itself by what it differs from PyTorch here."""
    return replace(comparison, bound=max(comparison.error, comparison.probability_error))


def _require_accuracy(comparisons: tuple[Comparison, ...], truth: Truth, max_drop: float) -> None:
    for comparison in comparisons:
        lost = round((truth.accuracy - comparison.accuracy) * comparison.test_images)
        if not lost <= max_drop * comparison.test_images + 1e-6 or not comparison.holds:
            raise ParityError(
                f"its accuracy on {comparison.test_images:,} test images is {comparison.accuracy:.2%}, PyTorch's "
                f"{truth.accuracy:.2%}: more than {100 * max_drop:g} points are lost, on {comparison.provider}"
            )


def _sealed(bare: Model, truth: Truth, comparisons: tuple[Comparison, ...], precision: str) -> Model:
    """The model with its certificate and probes."""
    expected = truth.logits if precision == "fp32" else logits_of(open_session(bare, device="cpu"), truth)
    chosen = samples.choose(truth, expected).to_json()
    certified = Certificate(
        precision=precision,
        weights_sha256=sha256(checkpoint.content(truth.net, truth.card)),
        graph_sha256=bare.graph_sha256,
        card_sha256=sha256(truth.card.to_json()),
        probes_sha256=sha256(chosen),
        versions={
            "netkit": version("netkit"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
        },
        platform=platform.platform(),
        inputs=truth.counts,
        batches=BATCHES,
        torch_accuracy=truth.accuracy,
        comparisons=comparisons,
    )
    proto = onnx.load_model_from_string(bare.content)
    proto.metadata_props.add(key=certificate.KEY, value=certified.to_json())
    proto.metadata_props.add(key=PROBES_KEY, value=chosen)
    return onnx_file.check(proto.SerializeToString(deterministic=True), bare.name)
