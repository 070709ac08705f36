"""Verification detects and names each change of a model file."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from netkit.core.errors import ModelError, NetkitError
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.infer.model import certificate, onnx_file, probes, verify
from netkit.infer.model.certificate import Certificate, sha256
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.probes import Probes
from netkit.infer.runtime.session import Session
from tests.support.damage import damaged

KEYS = (certificate.KEY, probes.KEY)


def tampered(model: Model, change: Callable[[ModelProto], None]) -> Model:
    proto = onnx.load_model_from_string(model.content)
    change(proto)
    return onnx_file.check(proto.SerializeToString(), "m.onnx")


def set_metadata(proto: ModelProto, key: str, text: str) -> None:
    (entry,) = (entry for entry in proto.metadata_props if entry.key == key)
    entry.value = text


def scale_a_weight(proto: ModelProto) -> None:
    """Increase the largest weight of the last layer by 1 %."""
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("linear.weight"))
    values = numpy_helper.to_array(weight).copy()
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def reorder_labels(proto: ModelProto) -> None:
    """Swap 3 and 4."""
    card = ModelCard.from_json(onnx_file.check(proto.SerializeToString(), "").metadata[METADATA_KEY])
    labels = (*card.labels[:3], card.labels[4], card.labels[3], *card.labels[5:])
    set_metadata(proto, METADATA_KEY, replace(card, labels=labels).to_json())


def edit_metadata(key: str, change: Callable[[dict[str, Any]], object]) -> Callable[[ModelProto], None]:
    def apply(proto: ModelProto) -> None:
        fields = json.loads(onnx_file.check(proto.SerializeToString(), "").metadata[key])
        change(fields)
        set_metadata(proto, key, certificate.sealed(fields) if key == certificate.KEY else json.dumps(fields))

    return apply


def shift_a_logit(fields: dict[str, Any]) -> None:
    fields["logits"][5][3] += 0.01


def forge(proto: ModelProto) -> None:
    """Set the hashes in the certificate to the current hashes of the model."""
    model = onnx_file.check(proto.SerializeToString(), "")
    hashes = {
        "graph_sha256": model.graph_sha256,
        "card_sha256": sha256(model.metadata[METADATA_KEY]),
        "probes_sha256": sha256(model.metadata[probes.KEY]),
    }
    edit_metadata(certificate.KEY, lambda fields: fields.update(hashes))(proto)


def failures(model: Model) -> dict[str, str]:
    """The checks that fail, with their details."""
    return {check.name: check.detail for check in verify.verify(model, device="cpu") if not check.ok}


def test_exported_model_passes_all_checks(model: Model, session: Session) -> None:
    checks = list(verify.verify(model, device="auto"))
    assert [check.name for check in checks][:5] == [
        "graph",
        "test images",
        "labels of the test images",
        "model card",
        "outputs on the CPU",
    ]
    assert all(check.ok for check in checks)
    assert [check.detail for check in checks[:4]] == ["unchanged"] * 4
    assert checks[4].detail.startswith("largest logit error ")
    assert verify.open_verified(model, device="cpu").provider == session.provider


def test_changed_graph_is_not_run(model: Model) -> None:
    checks = list(verify.verify(tampered(model, scale_a_weight), device="cpu"))
    assert [check.name for check in checks] == ["graph", "test images", "labels of the test images", "model card"]


@pytest.mark.parametrize("files", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_give_an_error_or_a_model_that_still_verifies(model: Model, files: int) -> None:
    """In files that verify, the damage is in unused names."""
    rng, verified = random.Random(0), 0
    for _ in range(files):
        try:
            checks = list(verify.verify(onnx_file.check(damaged(model.content, rng), "m.onnx"), device="cpu"))
        except NetkitError as exc:
            assert str(exc).startswith("m.onnx: ")
        else:
            verified += all(check.ok for check in checks)
    assert verified < 100


@pytest.mark.parametrize(
    ("change", "name", "detail"),
    [
        (scale_a_weight, "graph", "changed since export"),
        (lambda proto: setattr(proto, "ir_version", 9), "graph", "changed since export"),
        (reorder_labels, "labels of the test images", "in the card"),
        (
            edit_metadata(METADATA_KEY, lambda fields: fields.update(mean=[0.2])),
            "model card",
            "changed since export",
        ),
        (edit_metadata(probes.KEY, shift_a_logit), "test images", "changed since export"),
        (
            edit_metadata(probes.KEY, lambda fields: fields["labels"].reverse()),
            "test images",
            "changed since export",
        ),
    ],
)
def test_each_change_is_detected_and_named(
    model: Model, change: Callable[[ModelProto], None], name: str, detail: str
) -> None:
    changed = tampered(model, change)
    assert detail in failures(changed)[name]
    with pytest.raises(ModelError, match=rf"^m\.onnx: the check '{name}' failed: .*{detail}.*--no-verify$"):
        verify.open_verified(changed, device="cpu")


def test_all_failed_checks_are_reported(model: Model) -> None:
    assert set(failures(tampered(model, reorder_labels))) == {"labels of the test images", "model card"}
    assert set(failures(tampered(model, edit_metadata(probes.KEY, shift_a_logit)))) == {
        "test images",
        "outputs on the CPU",
    }


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (scale_a_weight, "outputs on the CPU"),
        (reorder_labels, "labels of the test images"),
        (edit_metadata(probes.KEY, shift_a_logit), "outputs on the CPU"),
    ],
)
def test_outputs_are_checked_even_if_the_hashes_are_forged(
    model: Model, change: Callable[[ModelProto], None], name: str
) -> None:
    def change_and_forge(proto: ModelProto) -> None:
        change(proto)
        forge(proto)

    (failed,) = failures(tampered(model, change_and_forge))
    assert failed.startswith(name)
    with pytest.raises(ModelError, match=rf"the check '{name}"):
        verify.open_verified(tampered(model, change_and_forge), device="cpu")


def test_probes_run_in_all_batch_sizes_in_order_and_shuffled(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[bytes]] = []
    run = Session.run

    def recorded(self: Session, images_u8: NDArray[np.uint8], **options: Any) -> Any:
        batches.append([image.tobytes() for image in images_u8])
        return run(self, images_u8, **options)

    monkeypatch.setattr(Session, "run", recorded)
    list(verify.verify(model, device="cpu"))
    images = [image.tobytes() for image in verify.read_self_test(model).probes.images_u8]
    sizes = [*[1] * 16, *[2] * 8, 7, 7, 2, 16]
    assert [len(batch) for batch in batches] == sizes * 2
    halves = batches[: len(sizes)], batches[len(sizes) :]
    orders = [[image for batch in half for image in batch] for half in halves]
    assert orders[0] == images * 4
    assert orders[1] != orders[0] and sorted(orders[1]) == sorted(orders[0])


@pytest.mark.parametrize("key", KEYS)
def test_error_names_the_missing_metadata(model: Model, key: str) -> None:
    def drop(proto: ModelProto) -> None:
        (index,) = (index for index, entry in enumerate(proto.metadata_props) if entry.key == key)
        del proto.metadata_props[index]

    bare = tampered(model, drop)
    with pytest.raises(
        ModelError,
        match=rf"^m\.onnx: has no {key} in its metadata; export the model again with 'netkit export'$",
    ):
        list(verify.verify(bare, device="cpu"))


def test_provider_that_the_certificate_does_not_cover_gets_four_times_the_bound(model: Model) -> None:
    def change_provider(fields: dict[str, Any]) -> None:
        for comparison in fields["comparisons"]:
            comparison["provider"] = "CUDAExecutionProvider"

    bound = verify.read_self_test(model).certificate.comparisons[0].bound
    *_, last = verify.verify(tampered(model, edit_metadata(certificate.KEY, change_provider)), device="cpu")
    assert last.ok
    assert last.detail.endswith(f"allowed {4 * bound:.2g} (device not compared at export)")


FIELDS = [
    "version", "precision", "weights_sha256", "graph_sha256", "card_sha256", "probes_sha256", "versions", "platform",
    "inputs", "batches", "torch_accuracy", "comparisons",
]  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_certificate_with_a_missing_field_or_a_wrong_type_is_rejected(model: Model, name: str) -> None:
    for change, message in [
        (lambda fields: fields.pop(name), f"the certificate lacks '{name}'"),
        (lambda fields: fields.update({name: None}), f"the certificate(: '{name}' is| has format version) None"),
    ]:
        with pytest.raises(ModelError, match=rf"^m\.onnx: {message}"):
            verify.read_self_test(tampered(model, edit_metadata(certificate.KEY, change)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "the set of test images in the model has format version 2"),
        ({"images": "AAAA"}, "the test images in the model do not fit its card"),
        ({"images": "*"}, "the test images in the model do not fit its card"),
        ({"logits": [[1.0] * 9] * 16}, "the test images in the model do not fit its card"),
        (
            {"logits": [["a"] * 10] * 16},
            r"the set of test images in the model: 'logits\[0\]\[0\]' is 'a', not a finite float",
        ),
        (
            {"logits": [[float("nan")] * 10] * 16},
            r"the set of test images in the model: 'logits\[0\]\[0\]' is nan, not a finite float",
        ),
        ({"logits": [], "labels": [], "images": ""}, "the model contains no test images"),
        ({"labels": ["0"]}, "the test images in the model do not fit its card"),
        (
            {"labels": ["0"] * 17, "logits": [[1.0] * 10] * 17, "images": "A" * 17771 + "="},
            "17 test images in the model, in .* at most 16",
        ),
        ({"padding": "x" * 65536}, "16 test images in the model, in .* at most 16 in 65,536 bytes"),
    ],
)
def test_invalid_probes_are_rejected(model: Model, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        verify.read_self_test(tampered(model, edit_metadata(probes.KEY, lambda fields: fields.update(change))))


def test_certificate_and_probes_round_trip_through_json(model: Model) -> None:
    self_test = verify.read_self_test(model)
    assert Certificate.from_json(self_test.certificate.to_json()) == self_test.certificate
    read_back = Probes.from_json(self_test.probes.to_json(), model.card)
    np.testing.assert_array_equal(read_back.images_u8, self_test.probes.images_u8)
    np.testing.assert_array_equal(read_back.logits, self_test.probes.logits)
    assert read_back.labels == self_test.probes.labels


def test_certificate_of_a_version_without_passes_is_read(model: Model) -> None:
    fields = json.loads(model.metadata[certificate.KEY])
    for name in ("passes", "speeds", certificate.CHECKSUM):
        del fields[name]
    old = Certificate.from_json(certificate.sealed(fields))
    assert (old.passes, old.speeds) == ((), {})


def test_metadata_is_byte_identical_after_a_round_trip(model: Model) -> None:
    card, certificate_text, probes_text = (model.metadata[key] for key in (METADATA_KEY, *KEYS))
    assert ModelCard.from_json(card).to_json() == card
    assert Certificate.from_json(certificate_text).to_json() == certificate_text
    assert Probes.from_json(probes_text, model.card).to_json() == probes_text


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner), max_leaves=5))
def test_any_json_that_is_not_a_certificate_or_probes_is_rejected(card: ModelCard, value: object) -> None:
    for read in (Certificate.from_json, lambda text: Probes.from_json(text, card)):
        with pytest.raises(ModelError):
            read(json.dumps(value))


def test_verification_does_not_import_torch(workspace: Path) -> None:
    program = "import sys, netkit.cli\ntry: netkit.cli.cli(['verify', 'runs/residual/model.onnx'])\n"
    program += "except SystemExit as exc: assert not exc.code\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_changed_certificate_is_rejected(model: Model) -> None:
    def loosen_bound(proto: ModelProto) -> None:
        fields = json.loads(onnx_file.check(proto.SerializeToString(), "").metadata[certificate.KEY])
        fields["comparisons"][0]["bound"] *= 10
        set_metadata(proto, certificate.KEY, json.dumps(fields))

    with pytest.raises(
        ModelError, match=r"^m\.onnx: the certificate was changed since it was written; export the model again"
    ):
        verify.read_self_test(tampered(model, loosen_bound))


def test_infinite_bound_is_rejected(model: Model) -> None:
    set_infinite_bound = edit_metadata(
        certificate.KEY, lambda fields: fields["comparisons"][0].update(bound=float("inf"))
    )
    with pytest.raises(ModelError, match=r"'comparisons\[0\]\.bound' is inf, not a finite float"):
        verify.read_self_test(tampered(model, set_infinite_bound))


def test_probabilities_that_are_not_the_softmax_of_the_logits_are_detected(model: Model) -> None:
    def negate_logits(proto: ModelProto) -> None:
        (softmax,) = (node for node in proto.graph.node if node.op_type == "Softmax")
        minus = numpy_helper.from_array(np.array(-1, np.float32), "minus")
        proto.graph.initializer.append(minus)
        (index,) = (index for index, node in enumerate(proto.graph.node) if node.op_type == "Softmax")
        proto.graph.node.insert(index, onnx.helper.make_node("Mul", [softmax.input[0], "minus"], ["negative"]))
        proto.graph.node[index + 1].input[0] = "negative"
        forge(proto)

    ((name, detail),) = failures(tampered(model, negate_logits)).items()
    assert name == "outputs on the CPU"
    assert detail.startswith("probabilities differ from the softmax of the logits by ")
