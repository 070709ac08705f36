"""A file of tensors comes back as it was written, or not at all."""

import hashlib
import json
from pathlib import Path
from random import Random

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from netkit.core.errors import NetkitError
from netkit.core.model_card import ModelCard
from netkit.nets.build import build
from netkit.nets.training import checkpoint, tensorfile
from tests.support.damage import damaged

ABOUT = {"text": 'ä\ud800"', "numbers": [0.1, 1e300, float("inf"), 2**70, True, None], "nested": {"": {}}}
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def read(path: Path, content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    path.write_bytes(content)
    return tensorfile.read(path, "key")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensors") / "a.safetensors"


def test_tensors_of_all_kinds_come_back_with_what_was_said(path: Path) -> None:
    tensors = {
        "bytes": torch.arange(7, dtype=torch.uint8),
        "halves": torch.randn(3, 2).bfloat16(),
        "a number": torch.tensor(2**60),
        "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "none": torch.zeros(0, 3),
    }
    found, about = read(path, tensorfile.content(tensors, "key", ABOUT))
    assert about == ABOUT
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@given(st.dictionaries(st.text().filter(lambda name: name != tensorfile.CHECKSUM), json_like))
def test_whatever_is_said_comes_back(path: Path, about: dict[str, object]) -> None:
    assert read(path, tensorfile.content({"a": torch.ones(2)}, "key", about))[1] == about


def test_the_sum_is_that_of_the_file_without_it(path: Path) -> None:
    tensors = {"b": torch.ones(2), "a": torch.zeros(3)}
    path.write_bytes(tensorfile.content(tensors, "key", {"x": 1}))
    with safetensors.safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["key"])
    plain = safetensors.torch.save(tensors, {"key": '{"x": 1}'})
    assert said == {"x": 1, "sha256": hashlib.sha256(plain).hexdigest()}


@pytest.mark.parametrize("said", ["", "[", "[]", "3", "{}", '{"sha256": null}', '{"sha256": "0"}', "[" * 10**5])
def test_a_header_without_the_sum_is_refused(path: Path, said: str) -> None:
    with pytest.raises(NetkitError, match=r"a\.safetensors: damaged: its SHA-256 is not"):
        read(path, safetensors.torch.save({"a": torch.ones(2)}, {"key": said}))


@pytest.mark.parametrize("times", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_weights_files_give_an_error_or_the_same_net(path: Path, card: ModelCard, times: int) -> None:
    """The same where the damage changed nothing: 'A' for 'a' in an escape, say."""
    net, random, same = build(card), Random(0), 0
    whole = checkpoint.content(net, card)
    header = 8 + int.from_bytes(whole[:8], "little")
    for end in [header, len(whole)] * (times // 2):
        path.write_bytes(damaged(whole[:end], random) + whole[end:])
        try:
            loaded, loaded_card = checkpoint.load(path)
        except NetkitError as exc:
            assert str(exc).startswith(f"{path}: ")
        else:
            assert checkpoint.content(loaded, loaded_card) == whole
            same += 1
    assert same < times / 100
