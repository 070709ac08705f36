"""Files of weights that other programs wrote, of every kind: they are converted, or refused with the reason."""

import gzip
import io
import pickle
import tarfile
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from netkit.core.errors import NetkitError
from netkit.nets.training import weights

STATE = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}
ONES = torch.ones(2, 2)


def saved(content: object, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    return file.getvalue()


def tar(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as target:
        entry = tarfile.TarInfo("net.pth")
        entry.size = len(content)
        target.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def numpy_file() -> bytes:
    file = io.BytesIO()
    np.savez(file, w=np.ones(3))
    return file.getvalue()


def torchscript() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(3, 2)), file)
    return file.getvalue()


def contains_itself() -> dict[str, object]:
    content: dict[str, object] = {"epoch": 1}
    content["state_dict"] = content
    return content


def optimizer_state() -> dict[str, object]:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def convert(tmp_path: Path, content: bytes) -> dict[str, Tensor]:
    (tmp_path / "net.pth").write_bytes(content)
    weights.convert(tmp_path / "net.pth", tmp_path / "net.safetensors")
    return safetensors.torch.load_file(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: saved({"w": ONES.to(torch.complex64)}), "tensor 'w' is complex64, which netkit cannot convert to"),
        (lambda: saved({"w": torch.ones(2, device="meta")}), "tensor 'w' is on the device meta, so it has no values"),
        (lambda: saved({"w": torch.quantize_per_tensor(ONES, 1.0, 0, torch.quint8)}), "tensor 'w' is quantized,"),
        (lambda: saved({"w": ONES.to_sparse()}), "tensor 'w' is quantized, sparse or nested, not a plain tensor"),
        (lambda: saved({"w": ONES.to_sparse_csr()}), "tensor 'w' is quantized, sparse or nested, not a plain tensor"),
        (lambda: saved({"w": torch.nested.nested_tensor([ONES[0], ONES[0, :1]])}), "tensor 'w' is quantized, sparse"),
        (lambda: saved({"w": torch.empty(2, dtype=torch.bits8)}), "tensor 'w' is bits8, which netkit cannot convert"),
        (lambda: saved({"w": torch.ones(1).expand(2**40)}), "tensor 'w' repeats its values to 4,398,046,511,104"),
        (lambda: saved({"a\udc80": ONES}), r"'a\udc80' cannot be the name of a tensor"),
        (lambda: saved({0: ONES, "0": ONES}), "0 cannot be the name of a tensor"),
        (lambda: saved({b"a": ONES}), "b'a' cannot be the name of a tensor"),
        (lambda: saved({"__metadata__": ONES}), "'__metadata__' cannot be the name of a tensor"),
        (lambda: saved({"w": ONES, "_extra_state": {"a": 1}}), "'_extra_state' is of type dict, not a tensor"),
        (lambda: saved({"_orig_mod.w": ONES, "w": 2 * ONES}), "both '_orig_mod.w' and 'w' are the tensor 'w' of the"),
        (lambda: saved({"module.a._orig_mod.w": ONES, "module.a.w": ONES}), "both 'module.a._orig_mod.w' and"),
        (lambda: saved(contains_itself()), "it has the keys 'epoch', 'state_dict'"),
        (lambda: saved(optimizer_state()), "contains no state dict, a mapping from names to tensors; it has the"),
        (lambda: saved({"optimizer": optimizer_state(), "epoch": 3}), "it has the keys 'optimizer', 'epoch'"),
        (lambda: saved({}), "contains no state dict, a mapping from names to tensors, but an empty mapping"),
        (lambda: saved([ONES]), "contains no state dict, a mapping from names to tensors, but an object of type"),
        (lambda: saved(ONES), "but an object of type Tensor"),
        (lambda: saved(nn.Linear(3, 2)), "contains more than weights: loading torch.nn.modules.linear.Linear could"),
        (lambda: saved({"model": nn.Linear(3, 2)}), "contains more than weights: loading"),
        (lambda: saved({"state_dict": STATE, "losses": np.ones(3)}), "loading numpy._core.multiarray._reconstruct"),
        (torchscript, "contains more than weights: it is a TorchScript program"),
        (lambda: safetensors.torch.save(STATE), "is a .safetensors file with another suffix; rename it, and pass it"),
        (numpy_file, "is an archive of NumPy arrays"),
        (lambda: archive(archive_format=b"pt2"), "is a program of torch.export"),
        (lambda: archive(readme=b"text"), "is a zip archive that torch.save did not write; if it contains a file of"),
        (lambda: archive(**{"a/data.pkl": b"\x80\x02}."}), "is damaged, or contains objects that torch.load does"),
        (lambda: saved(STATE)[:-1], "is damaged or truncated; download or copy it again"),
        (lambda: saved(STATE)[:700], "is damaged or truncated; download or copy it again"),
        (lambda: saved(STATE, zipped=False)[:-3], "is damaged, or is a pickle that torch.save did not write"),
        (lambda: pickle.dumps({"w": [1, 2]}), "is damaged, or is a pickle that torch.save did not write"),
        (lambda: tar(saved(STATE)), "is a tar archive; unpack it first"),
        (lambda: gzip.compress(saved(STATE)), "is compressed with gzip; unpack it first"),
        (lambda: b"", "is empty; download or copy it again"),
        (lambda: b"\n<!DOCTYPE html><html>404</html>", "is a web page or XML; download or copy it again"),
        (lambda: b'{"error": "not found"}', "is JSON; import a file of torch.save(network.state_dict(), FILE)"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "is a pointer of Git"),
        (lambda: b"hello world", "is damaged, or was not written by torch.save"),
    ],
)  # fmt: skip
def test_a_file_without_usable_weights_is_refused_and_nothing_is_written(
    tmp_path: Path, write: Callable[[], bytes], message: str
) -> None:
    with warnings.catch_warnings(action="ignore"):  # some kinds of tensors are deprecated
        content = write()
    with pytest.raises(NetkitError) as caught:
        convert(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/net.pth: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "best_accuracy": np.float64(0.5), "epoch": np.int64(3)},
        {"state_dict": STATE, "hyper_parameters": {"folder": PurePosixPath("/data"), "options": Namespace(lr=0.1)}},
        {"model": STATE, "dtype": torch.float32, "device": torch.device("cpu"), "size": torch.Size([3])},
        {name: nn.Parameter(tensor) for name, tensor in STATE.items()},
        {"a.weight": torch.ones(3, 2).t(), "a.bias": torch.zeros(8)[::4]},
    ],
)
def test_a_checkpoint_with_harmless_values_beside_the_weights_is_converted(tmp_path: Path, content: object) -> None:
    for zipped in (True, False):
        converted = convert(tmp_path, saved(content, zipped=zipped))
        assert converted.keys() == STATE.keys()
        assert all(torch.equal(converted[name], tensor) for name, tensor in STATE.items())


def test_names_and_values_of_an_averaged_model_are_those_of_the_network(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    state = nn.DataParallel(net).state_dict()
    for content in (AveragedModel(net).state_dict(), {"model": {}, "model_ema": AveragedModel(net).state_dict()}):
        converted = convert(tmp_path, saved(content))
        assert converted.keys() == net.state_dict().keys()
    nested = {"n_averaged": torch.tensor(3), **{f"module.{name}": tensor for name, tensor in state.items()}}
    converted = convert(tmp_path, saved(nested))
    assert all(torch.equal(converted[name], tensor) for name, tensor in net.state_dict().items())


def test_a_file_that_cannot_be_opened_is_refused_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "net.pth").symlink_to(tmp_path / "net.pth")
    with pytest.raises(NetkitError, match=r"net\.pth: cannot be read: Too many levels of symbolic links"):
        weights.convert(tmp_path / "net.pth", tmp_path / "net.safetensors")
