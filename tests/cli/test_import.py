"""netkit import: weights that other programs saved become a .safetensors file, or are refused in one sentence."""

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from tests.support.commands import Netkit


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("canary",)


def test_a_checkpoint_is_checked_against_the_network_and_converted(netkit: Netkit, tmp_path: Path) -> None:
    state = torchvision.models.mobilenet_v3_small(num_classes=5).half().state_dict()
    saved = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(saved, tmp_path / "net.pth")
    done = netkit("import", "net.pth", "--arch", "torchvision/mobilenet_v3_small")
    assert (done.returncode, done.stdout) == (0, "net.safetensors: 244 tensors\n")
    assert done.stderr.splitlines() == [
        "net.pth: converted weights from float16 to float32",
        "next: netkit train --arch torchvision/mobilenet_v3_small --weights net.safetensors --help",
    ]
    assert safetensors.torch.load_file(tmp_path / "net.safetensors").keys() == state.keys()


@pytest.mark.parametrize(
    ("saved", "arch", "message"),
    [
        (
            {"weight": RunsCode()},
            None,
            "net.pth: contains more than weights: loading posix.mkdir could run code; import a ",
        ),
        (
            {"weight": torch.ones(2)},
            "residual",
            "net.pth: lacks 14 of the network's 14 tensors, such as 'block1.conv1.bias' and ",
        ),
        (
            {"weight": torch.ones(2)},
            "resnet18",
            "unknown architecture 'resnet18': did you mean 'torchvision/resnet18'?",
        ),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(
    netkit: Netkit, tmp_path: Path, saved: object, arch: str | None, message: str
) -> None:
    torch.save(saved, tmp_path / "net.pth")
    done = netkit("import", "net.pth", *(["--arch", arch] if arch else []))
    assert done.returncode in (1, 2) and not done.stdout
    (line,) = done.stderr.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]
