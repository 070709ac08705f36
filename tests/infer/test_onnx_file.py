"""Unsafe, damaged and incompatible .onnx files are rejected before ONNX Runtime opens them."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from netkit.core.errors import CardError, ModelError, NetkitError
from netkit.core.model_card import METADATA_KEY, ModelCard
from netkit.infer.model import onnx_file
from tests.support.onnx_models import ZEROS, linear_model


def external_tensor(location: str) -> TensorProto:
    """A tensor with external data in the file `location`."""
    tensor = TensorProto(name="external", data_type=TensorProto.FLOAT, dims=[10])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def add_if(proto: ModelProto) -> None:
    """Add an If node, which has two subgraphs."""
    output = helper.make_tensor_value_info(ZEROS.name, TensorProto.FLOAT, [10])
    branches = {f"{name}_branch": helper.make_graph([], name, [], [output], [ZEROS]) for name in ("then", "else")}
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("If", ["yes"], ["unused"], **branches))


def add_constant(proto: ModelProto, **attribute: Any) -> None:
    proto.graph.node.append(helper.make_node("Constant", [], ["constant"], **attribute))


def add_sparse(proto: ModelProto) -> None:
    proto.graph.sparse_initializer.add(values=external_tensor("sparse.bin"), indices=ZEROS, dims=[10])


def set_external_data_only(proto: ModelProto) -> None:
    """Set the field external_data of a tensor, but not its data_location."""
    proto.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def add_function(proto: ModelProto) -> None:
    proto.functions.add(name="mine", domain="")


def use_two_foreign_domains(proto: ModelProto) -> None:
    proto.graph.node[0].domain = "zebra"
    proto.opset_import.add(domain="com.microsoft", version=1)


def first_input(proto: ModelProto) -> onnx.TypeProto.Tensor:
    return proto.graph.input[0].type.tensor_type


def test_valid_model_is_read_unchanged_with_its_card(card: ModelCard, tmp_path: Path) -> None:
    content = linear_model(card).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    model = onnx_file.read(path)
    assert (model.name, model.content, model.card) == (str(path), content, card)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.graph.initializer.append(external_tensor("/etc/passwd")), "tensor 'external' is external data"),
        (lambda m: m.graph.initializer.append(external_tensor("../../secret")), "tensor 'external' is external data"),
        (set_external_data_only, "tensor 'weights' is external data; netkit runs single-file models only"),
        (add_sparse, "sparse initializers are not allowed"),
        (lambda m: add_constant(m, value=external_tensor("a.bin")), "tensor 'external' is external data"),
        (lambda m: add_constant(m, values=[ZEROS, external_tensor("a.bin")]), "tensor 'external' is external data"),
        (lambda m: add_constant(m, values=[ZEROS]), "the attribute 'values' has a type that netkit does not allow"),
        (
            use_two_foreign_domains,
            "operator domains 'com.microsoft', 'zebra'; netkit runs standard ONNX operators only",
        ),
        (add_if, "operator If has a subgraph, which netkit does not allow"),
        (lambda m: m.opset_import.add(domain="ai.onnx.ml", version=1), "uses the operator domains 'ai.onnx.ml'"),
        (
            lambda m: m.graph.sparse_initializer.add(values=ZEROS, indices=ZEROS, dims=[10**9]),
            "sparse initializers are not allowed",
        ),
        (add_function, "uses model-local functions; netkit runs standard ONNX operators only"),
    ],
)
def test_external_data_subgraphs_and_other_domains_are_rejected(
    card: ModelCard, change: Callable[[ModelProto], None], message: str
) -> None:
    proto = linear_model(card)
    change(proto)
    with pytest.raises(ModelError) as exc_info:
        onnx_file.check(proto.SerializeToString(), "m.onnx")
    assert str(exc_info.value).startswith("m.onnx: ") and message in str(exc_info.value)


def test_operator_domain_that_is_not_utf8_is_rejected(card: ModelCard) -> None:
    proto = linear_model(card)
    proto.graph.node[0].domain, proto.graph.node[1].domain = "com.example", "abc"
    with pytest.raises(ModelError, match=r"uses the operator domains 'com.example', b'\\xff\\xfe\\xfd'"):
        onnx_file.check(proto.SerializeToString().replace(b"abc", b"\xff\xfe\xfd"), "m.onnx")


def test_domain_ai_onnx_is_allowed(card: ModelCard) -> None:
    proto = linear_model(card)
    proto.graph.node[0].domain = "ai.onnx"
    assert onnx_file.check(proto.SerializeToString(), "m.onnx").card == card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(first_input(m), "elem_type", TensorProto.FLOAT), "has input images FLOAT (N, 1, 28, 28)"),
        (lambda m: setattr(first_input(m), "elem_type", 99), "has input images type 99 (N, 1, 28, 28)"),
        (lambda m: first_input(m).Clear(), "has input images UNDEFINED ()"),
        (lambda m: setattr(first_input(m).shape.dim[0], "dim_value", 1), "has input images UINT8 (1, 1, 28, 28)"),
        (lambda m: setattr(first_input(m).shape.dim[1], "dim_value", 3), "has input images UINT8 (N, 3, 28, 28)"),
        (lambda m: setattr(m.graph.input[0], "name", "x"), "has input x UINT8 (N, 1, 28, 28)"),
        (lambda m: m.graph.output.pop(), "and output logits FLOAT (N, 10);"),
        (lambda m: m.graph.input.add(name="more"), "and more UNDEFINED ()"),
    ],
)
def test_model_whose_inputs_or_outputs_do_not_match_its_card_is_rejected(
    card: ModelCard, change: Callable[[ModelProto], None], message: str
) -> None:
    proto = linear_model(card)
    change(proto)
    with pytest.raises(ModelError) as exc_info:
        onnx_file.check(proto.SerializeToString(), "m.onnx")
    assert message in str(exc_info.value)
    required = "its model card requires input images UINT8 (N, 1, 28, 28) and output logits FLOAT (N, 10)"
    assert required in str(exc_info.value)


def test_card_with_a_different_number_of_labels_is_rejected(card: ModelCard) -> None:
    proto = linear_model(card)
    proto.metadata_props[0].value = replace(card, labels=("cat", "dog")).to_json()
    with pytest.raises(ModelError, match=r"and output logits FLOAT \(N, 2\) and probabilities FLOAT \(N, 2\)$"):
        onnx_file.check(proto.SerializeToString(), "m.onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "m.onnx: was not written by 'netkit export', so it has no labels and no image size"),
        ("{", "m.onnx: the model card is not JSON"),
        ("[" * 100_000, "m.onnx: the model card is not JSON"),
        ('{"version": 1}', "m.onnx: the model card has format version 1; this netkit reads version 2"),
    ],
)
def test_missing_or_malformed_card_gives_an_error_with_the_file_name(
    card: ModelCard, text: str | None, message: str
) -> None:
    proto = linear_model(card)
    del proto.metadata_props[:]
    if text is not None:
        proto.metadata_props.add(key=METADATA_KEY, value=text)
    with pytest.raises(CardError) as exc_info:
        onnx_file.check(proto.SerializeToString(), "m.onnx")
    assert message in str(exc_info.value)


@pytest.mark.parametrize("content", [b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(99), bytes(99), b"PK\x03\x04"])
def test_file_that_is_not_onnx_is_rejected(content: bytes) -> None:
    fix = "copy it again, or pass a file that 'netkit export' wrote"
    with pytest.raises(ModelError, match=rf"^m\.onnx: is damaged, or not an ONNX model; {fix}$"):
        onnx_file.check(content, "m.onnx")
    with pytest.raises(ModelError, match=r"^m\.onnx: is empty; export the model again with 'netkit export'$"):
        onnx_file.check(b"", "m.onnx")


def test_truncated_model_is_rejected_at_any_length(card: ModelCard) -> None:
    content = linear_model(card).SerializeToString()
    for end in [*range(400), *range(400, len(content), 97), *range(len(content) - 400, len(content))]:
        with pytest.raises((ModelError, CardError), match=r"^m\.onnx: "):
            onnx_file.check(content[:end], "m.onnx")


def test_random_bit_flips_give_a_model_or_a_netkit_error(card: ModelCard) -> None:
    proto = linear_model(card)
    del proto.graph.initializer[:]  # so that the flips change the structure and not the weights
    content, rng, rejected = proto.SerializeToString(), random.Random(0), 0
    for _ in range(5000):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 2, 5))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            onnx_file.check(bytes(damaged), "m.onnx")
        except NetkitError as exc:
            rejected += 1
            assert str(exc).startswith("m.onnx: ")
    assert rejected > 4000


def test_unreadable_and_oversized_files_give_an_error_with_the_file_name(tmp_path: Path) -> None:
    with open(tmp_path / "large.onnx", "wb") as file:
        file.truncate(2**31)  # a sparse file, which takes no disk space
    os.mkfifo(tmp_path / "pipe.onnx")
    for name, message in [
        ("none.onnx", "cannot be read: No such file or directory"),
        ("", "cannot be read: Is a directory"),
        ("pipe.onnx", "cannot be read: not a regular file"),
        ("large.onnx", "larger than 2,147,483,647 bytes, the size limit of an ONNX file"),
    ]:
        with pytest.raises(ModelError) as exc_info:
            onnx_file.read(tmp_path / name)
        assert str(exc_info.value) == f"{tmp_path / name}: {message}"
