"""Creation of networks by name and from a card, and the image sizes that each network supports."""

import doctest
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torchvision

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard
from netkit.nets import build as module
from netkit.nets import create
from netkit.nets.build import ARCHITECTURES, build
from netkit.nets.residual import ResidualNet

MIN_SIDES = {"inception": 16, "residual": 16, "preact": 8, "densenet": 8}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 33, 20), (1, 16, 64)])
def test_every_network_takes_any_channels_and_size(arch: str, channels: int, height: int, width: int) -> None:
    net = create(arch, channels=channels, classes=7, size=(height, width))
    logits = net(torch.randn(2, channels, height, width))
    assert logits.shape == (2, 7)
    logits.sum().backward()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_smallest_size_works_and_a_smaller_one_is_rejected(arch: str) -> None:
    side = MIN_SIDES[arch]
    assert create(arch, size=side)(torch.randn(2, 1, side, side)).shape == (2, 10)
    with pytest.raises(UsageError, match=f"pass --image-size {side} or larger"):
        create(arch, size=(side, side - 1))


def test_default_arguments_fit_mnist() -> None:
    net = create("residual")
    assert isinstance(net, ResidualNet)
    assert net.state_dict().keys() == ResidualNet(channels=1, classes=10, size=28).state_dict().keys()
    assert net(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_torchvision_classifier_is_created_by_name() -> None:
    torch.manual_seed(3)
    net = create("torchvision/mobilenet_v3_small", channels=3, classes=4, size=64).eval()
    torch.manual_seed(3)
    reference = torchvision.models.mobilenet_v3_small(num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(net(images), reference(images))


def test_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(UsageError, match="unknown architecture 'resdual': did you mean 'residual'"):
        create("resdual")


def test_build_creates_the_network_of_the_card(card: ModelCard) -> None:
    halves = (0.5,) * 3
    other = replace(card, arch="preact", channels=3, height=20, width=9, mean=halves, std=halves, labels=("a", "b"))
    torch.manual_seed(3)
    net = build(other).eval()
    torch.manual_seed(3)
    reference = create("preact", channels=3, classes=2, size=(20, 9)).eval()
    images = torch.randn(2, 3, 20, 9)
    assert torch.equal(net(images), reference(images))


def test_docstring_example_runs() -> None:
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_importing_the_package_does_not_load_torch() -> None:
    program = "import sys, netkit.nets; from netkit.nets import create; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
