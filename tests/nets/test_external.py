"""torchvision's classifiers and classes of the user's, against what these give when they are made by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard
from netkit.nets.build import build
from netkit.nets.training import checkpoint

SMALL = "torchvision/mobilenet_v3_small"
USERS = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, channels, classes, size):
        super().__init__()
        if size[0] < 9:
            raise ValueError("too small for my net")
        self.linear = nn.Linear(channels * size[0] * size[1], classes)

    def forward(self, x):
        return self.linear(x.flatten(1))

class TwoAnswers(MyNet):
    def forward(self, x):
        return super().forward(x), x
"""


@pytest.fixture
def colour(card: ModelCard) -> ModelCard:
    return replace(
        card,
        arch=SMALL,
        channels=3,
        height=64,
        width=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        labels=("a", "b", "c"),
    )


@pytest.fixture
def users(card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A card of a net whose class lies in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    Path("mypkg").mkdir()
    Path("mypkg/mymodule.py").write_text(USERS)
    Path("mypkg/broken.py").write_text("import nothing_like_it")
    sys.modules.pop("mypkg", None)
    sys.modules.pop("mypkg.mymodule", None)
    return replace(card, arch="mypkg.mymodule:MyNet")


def test_torchvisions_nets_are_those_that_torchvision_makes(colour: ModelCard) -> None:
    torch.manual_seed(3)
    net = build(colour).eval()
    torch.manual_seed(3)
    reference = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(net(images), reference(images))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_nets_with_auxiliary_heads_are_made_without(colour: ModelCard, name: str) -> None:
    net = build(replace(colour, arch=f"torchvision/{name}", height=80, width=80)).train()
    assert net(torch.randn(2, 3, 80, 80)).shape == (2, 3)
    assert not [key for key in net.state_dict() if key.lower().startswith("aux")]


@pytest.mark.parametrize(("name", "least"), [("inception_v3", 75), ("vit_b_16", 16)])
def test_a_size_that_is_too_small_is_answered_with_the_least(colour: ModelCard, name: str, least: int) -> None:
    with pytest.raises(UsageError, match=rf"cannot take 9x9 images.*the least that it takes is {least}x{least}"):
        build(replace(colour, arch=f"torchvision/{name}", height=9, width=9))


def test_an_unknown_name_is_answered_with_the_closest(colour: ModelCard) -> None:
    with pytest.raises(UsageError, match="did you mean 'torchvision/resnet18'"):
        build(replace(colour, arch="torchvision/resnet19"))


def test_torchvisions_nets_take_colour(card: ModelCard) -> None:
    with pytest.raises(UsageError, match="takes images of 3 channels, not 1: use --channels 3"):
        build(replace(card, arch=SMALL))


def test_a_class_in_the_working_folder_is_made_with_channels_classes_and_size(users: ModelCard) -> None:
    net = build(users)
    assert isinstance(net.linear, nn.Linear)
    assert (net.linear.in_features, net.linear.out_features) == (784, 10)


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("nowhere.to.be:Found", "no module nowhere.to.be here"),
        ("mypkg.broken:Net", "mypkg.broken cannot be imported: ModuleNotFoundError.*nothing_like_it"),
        ("mypkg.mymodule:Nothing", "mypkg.mymodule has no Nothing"),
        ("mypkg.mymodule:TwoAnswers", r"it gives tuple for 2 images, not logits of \(2, 10\)"),
    ],
)
def test_a_class_that_is_no_net_is_refused(users: ModelCard, arch: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        build(replace(users, arch=arch))


def test_what_a_class_says_of_a_size_is_passed_on(users: ModelCard) -> None:
    with pytest.raises(UsageError, match=r"5x5 images of 1 channels: too small for my net; the least.* 9x9"):
        build(replace(users, height=5, width=5))


def test_a_weights_file_does_not_choose_what_code_is_run(users: ModelCard, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, build(users), users)
    sys.modules.pop("mypkg.mymodule")
    with pytest.raises(UsageError, match=r"code outside netkit: to run it, add --arch mypkg.mymodule:MyNet"):
        checkpoint.load(path)
    assert "mypkg.mymodule" not in sys.modules
    net, card = checkpoint.load(path, trusted="mypkg.mymodule:MyNet")
    assert card == users and net.state_dict().keys() == build(users).state_dict().keys()
