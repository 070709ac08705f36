"""Which .onnx files are taken, and which are refused before anything runs them: foreign, damaged, misfitting."""

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
from tests.support.onnx_models import SAVED, linear_model


def outside(location: str) -> TensorProto:
    """A tensor that says that its values lie in the file `location`."""
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[10])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def add_branch(proto: ModelProto) -> None:
    """Give the model a node If, with two branches."""
    saved = helper.make_tensor_value_info(SAVED.name, TensorProto.FLOAT, [10])
    branches = {f"{name}_branch": helper.make_graph([], name, [], [saved], [SAVED]) for name in ("then", "else")}
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("If", ["yes"], ["unused"], **branches))


def add_constant(proto: ModelProto, **attribute: Any) -> None:
    proto.graph.node.append(helper.make_node("Constant", [], ["constant"], **attribute))


def add_sparse(proto: ModelProto) -> None:
    proto.graph.sparse_initializer.add(values=outside("sparse.bin"), indices=SAVED, dims=[10])


def only_mark_as_outside(proto: ModelProto) -> None:
    proto.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def add_function(proto: ModelProto) -> None:
    proto.functions.add(name="mine", domain="")


def two_foreign_domains(proto: ModelProto) -> None:
    proto.graph.node[0].domain = "zebra"
    proto.opset_import.add(domain="com.microsoft", version=1)


def first_input(proto: ModelProto) -> onnx.TypeProto.Tensor:
    return proto.graph.input[0].type.tensor_type


def test_a_sound_model_is_read_byte_for_byte_with_its_card(card: ModelCard, tmp_path: Path) -> None:
    content = linear_model(card).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    model = onnx_file.read(path)
    assert (model.name, model.content, model.card) == (str(path), content, card)


def add_pad(model: onnx.ModelProto, *pads: list[int]) -> None:
    """A node Pad, and an initializer for each of `pads`, all of the one name that the node asks for."""
    model.graph.initializer.extend(helper.make_tensor("pads", onnx.TensorProto.INT64, [4], each) for each in pads)
    model.graph.node.append(helper.make_node("Pad", ["images", "pads"], ["padded"]))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: m.graph.initializer.append(outside("/etc/passwd")), "tensor 'outside' lies in another file"),
        (lambda m: m.graph.initializer.append(outside("../../secret")), "tensor 'outside' lies in another file"),
        (only_mark_as_outside, "tensor 'weights' lies in another file; netkit runs one file"),
        (add_sparse, "tensor 'outside' lies in another file"),
        (lambda m: add_constant(m, value=outside("a.bin")), "tensor 'outside' lies in another file"),
        (lambda m: add_constant(m, values=[SAVED, outside("a.bin")]), "tensor 'outside' lies in another file"),
        (two_foreign_domains, "uses operators of 'com.microsoft', 'zebra'; netkit runs standard ONNX operators only"),
        (add_branch, "has a node If with a graph of its own, which might run for ever"),
        (lambda m: m.opset_import.add(domain="ai.onnx.ml", version=1), "uses operators of 'ai.onnx.ml'"),
        (lambda m: m.graph.node.add(op_type="Div"), "uses the operator 'Div'; netkit runs those of nets for images"),
        (lambda m: m.graph.node.add(op_type="RandomNormal"), "uses the operator 'RandomNormal'"),
        (lambda m: m.graph.node.append(helper.make_node("Conv", [], [], pads=[0, 65])), "pads by more than 64"),
        (lambda m: m.graph.node.append(helper.make_node("Conv", [], [], pads=[-1, 0])), "pads by more than 64"),
        (lambda m: add_pad(m, [0, 0, 65, 0]), "a node Pad that pads by more than 64"),
        (lambda m: add_pad(m, [0, 0, 2**40, 0]), "a node Pad that pads by more than 64"),
        (lambda m: add_pad(m, [0, -1, 0, 0]), "a node Pad that pads by more than 64"),
        (lambda m: add_pad(m, [0, 0, 1, 1], [0, 0, 999, 999]), "a node Pad that pads by more than 64"),  # of one name
        (lambda m: m.graph.node.append(helper.make_node("Pad", ["images", "logits"], ["p"])), "a node Pad that pads"),
        (lambda m: m.graph.node.append(helper.make_node("Pad", ["images"], ["p"])), "a node Pad that pads"),
        (lambda m: m.graph.sparse_initializer.add(values=SAVED, indices=SAVED, dims=[10**9]), "has sparse tensors"),
        (add_function, "uses functions of its own; netkit runs standard ONNX operators only"),
    ],
)
def test_what_refers_to_other_files_or_foreign_operators_is_refused(
    card: ModelCard, spoil: Callable[[ModelProto], None], says: str
) -> None:
    proto = linear_model(card)
    spoil(proto)
    with pytest.raises(ModelError) as caught:
        onnx_file.check(proto.SerializeToString(), "m.onnx")
    assert str(caught.value).startswith("m.onnx: ") and says in str(caught.value)


def test_an_operator_domain_that_is_not_utf8_is_refused_beside_one_that_is(card: ModelCard) -> None:
    proto = linear_model(card)
    proto.graph.node[0].domain, proto.graph.node[1].domain = "com.evil", "abc"
    with pytest.raises(ModelError, match=r"uses operators of 'com.evil', b'\\xff\\xfe\\xfd'"):
        onnx_file.check(proto.SerializeToString().replace(b"abc", b"\xff\xfe\xfd"), "m.onnx")


def test_standard_operators_under_their_long_name_pass(card: ModelCard) -> None:
    proto = linear_model(card)
    proto.graph.node[0].domain = "ai.onnx"
    assert onnx_file.check(proto.SerializeToString(), "m.onnx").card == card


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: setattr(first_input(m), "elem_type", TensorProto.FLOAT), "takes images FLOAT (N, 1, 28, 28)"),
        (lambda m: setattr(first_input(m), "elem_type", 99), "takes images type 99 (N, 1, 28, 28)"),
        (lambda m: first_input(m).Clear(), "takes images UNDEFINED ()"),
        (lambda m: setattr(first_input(m).shape.dim[0], "dim_value", 1), "takes images UINT8 (1, 1, 28, 28)"),
        (lambda m: setattr(first_input(m).shape.dim[1], "dim_value", 3), "takes images UINT8 (N, 3, 28, 28)"),
        (lambda m: setattr(m.graph.input[0], "name", "x"), "takes x UINT8 (N, 1, 28, 28)"),
        (lambda m: m.graph.output.pop(), "gives logits FLOAT (N, 10);"),
        (lambda m: m.graph.input.add(name="more"), "and more UNDEFINED ()"),
    ],
)
def test_a_model_that_takes_or_gives_other_tensors_than_its_card_says_is_refused(
    card: ModelCard, spoil: Callable[[ModelProto], None], says: str
) -> None:
    proto = linear_model(card)
    spoil(proto)
    with pytest.raises(ModelError) as caught:
        onnx_file.check(proto.SerializeToString(), "m.onnx")
    assert says in str(caught.value)
    assert "by its card it would take images UINT8 (N, 1, 28, 28) and give logits FLOAT (N, 10)" in str(caught.value)


def test_a_card_with_another_number_of_labels_than_the_model_has_is_refused(card: ModelCard) -> None:
    proto = linear_model(card)
    proto.metadata_props[0].value = replace(card, labels=("cat", "dog")).to_json()
    with pytest.raises(ModelError, match=r"and give logits FLOAT \(N, 2\) and probabilities FLOAT \(N, 2\)"):
        onnx_file.check(proto.SerializeToString(), "m.onnx")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "m.onnx: no netkit card in this model; make it again with 'netkit export'"),
        ("{", "m.onnx: the model card is not JSON"),
        ("[" * 100_000, "m.onnx: the model card is not JSON"),
        ('{"version": 1}', "m.onnx: the model card has version 1; this netkit reads version 2"),
    ],
)
def test_a_missing_or_broken_card_is_named_with_its_file(card: ModelCard, text: str | None, says: str) -> None:
    proto = linear_model(card)
    del proto.metadata_props[:]
    if text is not None:
        proto.metadata_props.add(key=METADATA_KEY, value=text)
    with pytest.raises(CardError) as caught:
        onnx_file.check(proto.SerializeToString(), "m.onnx")
    assert says in str(caught.value)


@pytest.mark.parametrize("content", [b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(99), bytes(99), b"PK\x03\x04"])
def test_what_is_no_model_is_called_that(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"^m\.onnx: not an ONNX model$"):
        onnx_file.check(content, "m.onnx")


def test_a_model_cut_short_anywhere_is_refused(card: ModelCard) -> None:
    content = linear_model(card).SerializeToString()
    for end in [*range(400), *range(400, len(content), 97), *range(len(content) - 400, len(content))]:
        with pytest.raises((ModelError, CardError), match=r"^m\.onnx: "):
            onnx_file.check(content[:end], "m.onnx")


def test_bits_flipped_anywhere_give_a_model_or_an_error_for_people(card: ModelCard) -> None:
    proto = linear_model(card)
    del proto.graph.initializer[:]  # so that the flips hit structure, not numbers
    content, chance, refused = proto.SerializeToString(), random.Random(0), 0
    for _ in range(5000):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 2, 5))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            onnx_file.check(bytes(damaged), "m.onnx")
        except NetkitError as fault:
            refused += 1
            assert str(fault).startswith("m.onnx: ")
    assert refused > 4000


def test_files_that_cannot_be_read_or_are_too_large_are_named(tmp_path: Path) -> None:
    with open(tmp_path / "large.onnx", "wb") as file:
        file.truncate(2**31)  # a hole: it takes no room on the disk
    os.mkfifo(tmp_path / "pipe.onnx")
    for name, says in [
        ("none.onnx", "cannot be read: No such file or directory"),
        ("", "cannot be read: Is a directory"),
        ("pipe.onnx", "cannot be read: not a regular file"),
        ("large.onnx", "larger than 2,147,483,647 bytes, the most that an ONNX file can hold"),
    ]:
        with pytest.raises(ModelError) as caught:
            onnx_file.read(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {says}"
