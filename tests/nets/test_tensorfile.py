"""Tensor files: round trips, checksums, and damaged files."""

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

HEADER = {"text": 'ä\ud800"', "numbers": [0.1, 1e300, float("inf"), 2**70, True, None], "nested": {"": {}}}
json_values = st.recursive(
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


def test_tensors_of_all_dtypes_and_the_header_survive_a_round_trip(path: Path) -> None:
    tensors = {
        "bytes": torch.arange(7, dtype=torch.uint8),
        "halves": torch.randn(3, 2).bfloat16(),
        "a number": torch.tensor(2**60),
        "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "none": torch.zeros(0, 3),
    }
    read_tensors, header = read(path, tensorfile.content(tensors, "key", HEADER))
    assert header == HEADER
    assert read_tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read_tensors[name].dtype == tensor.dtype
        assert torch.equal(read_tensors[name], tensor)


@given(st.dictionaries(st.text().filter(lambda name: name != tensorfile.CHECKSUM), json_values))
def test_any_json_header_survives_a_round_trip(path: Path, header: dict[str, object]) -> None:
    assert read(path, tensorfile.content({"a": torch.ones(2)}, "key", header))[1] == header


def test_checksum_is_of_the_file_without_it(path: Path) -> None:
    tensors = {"b": torch.ones(2), "a": torch.zeros(3)}
    path.write_bytes(tensorfile.content(tensors, "key", {"x": 1}))
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["key"])
    plain = safetensors.torch.save(tensors, {"key": '{"x": 1}'})
    assert header == {"x": 1, "sha256": hashlib.sha256(plain).hexdigest()}


@pytest.mark.parametrize("header", ["", "[", "[]", "3", "{}", '{"sha256": null}', '{"sha256": "0"}', "[" * 10**5])
def test_header_without_the_checksum_is_rejected(path: Path, header: str) -> None:
    with pytest.raises(NetkitError, match=r"a\.safetensors: is damaged: its SHA-256 is not"):
        read(path, safetensors.torch.save({"a": torch.ones(2)}, {"key": header}))


@pytest.mark.parametrize("times", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_weights_files_raise_or_load_unchanged(path: Path, card: ModelCard, times: int) -> None:
    """Some damage has no effect, e.g. 'A' instead of 'a' in an escape sequence."""
    net, rng, unchanged = build(card), Random(0), 0
    content = checkpoint.content(net, card)
    header = 8 + int.from_bytes(content[:8], "little")
    for end in [header, len(content)] * (times // 2):
        path.write_bytes(damaged(content[:end], rng) + content[end:])
        try:
            loaded, loaded_card = checkpoint.load(path)
        except NetkitError as exc:
            assert str(exc).startswith(f"{path}: ")
        else:
            assert checkpoint.content(loaded, loaded_card) == content
            unchanged += 1
    assert unchanged < times / 100
