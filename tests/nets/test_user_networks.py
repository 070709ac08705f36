"""Networks as users write them are built, trained, resumed and loaded, or are refused with the reason."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from netkit.core.errors import Interrupted, UsageError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.nets.build import build, create
from netkit.nets.normalize import FromPixels
from netkit.nets.training import checkpoint, state
from netkit.nets.training.plan import Plan
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import train
from netkit.nets.training.trainer import Trainer
from netkit.nets.training.weights import load_into
from tests.support.trainings import stopping_after

RECIPE = replace(recipe_named("fast"), epochs=1, batch_size=64, ema=0.9, precision="fp32")  # 5 steps
ROW_MAJOR = replace(RECIPE, channels_last=False)
TIED = ["ModuleWithTwoNames", "TiedConvolutions", "TiedHeads", "LinearView"]


@pytest.fixture(scope="module")
def data(digits_data: ArrayDataSet) -> ArrayDataSet:
    images, labels = digits_data.train_images[:320], digits_data.train_labels[:320]
    return replace(digits_data, train_images=images, train_labels=labels)


def arch(class_name: str) -> str:
    return f"tests.support.user_networks:{class_name}"


def trained(class_name: str, card: ModelCard, data: ArrayDataSet) -> dict[str, Tensor]:
    """Train the network with seed 0; return its state dict."""
    torch.manual_seed(0)
    card = replace(card, arch=arch(class_name))
    trainer = Trainer(FromPixels(build(card), card), data, recipe=RECIPE, seed=0, device=torch.device("cpu"))
    list(trainer.run())
    return trainer.model.net.state_dict()


@pytest.mark.parametrize("class_name", ["ItemInInit", "NumpyInInit", "AssertInInit", "ValuesDecide", "Lazy"])
@pytest.mark.parametrize("size", [(28, 28), (9, 31)])
def test_a_network_whose_python_code_reads_values_or_shapes_is_built(class_name: str, size: tuple[int, int]) -> None:
    net = create(arch(class_name), channels=3, classes=4, size=size)
    assert net.training
    logits = net(torch.randn(5, 3, *size))
    assert logits.shape == (5, 4)
    logits.sum().backward()


REGNETS = [
    f"{kind}_{size}" for kind in ("x", "y") for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
]


@pytest.mark.parametrize(
    "name",
    [
        "regnet_x_400mf",
        "regnet_y_400mf",
        *(pytest.param(f"regnet_{name}", marks=pytest.mark.slow) for name in REGNETS if name[2:] != "400mf"),
        pytest.param("regnet_y_128gf", marks=[pytest.mark.slow, pytest.mark.soak]),
    ],
)
def test_torchvisions_regnets_are_built(name: str) -> None:
    net = create(f"torchvision/{name}", channels=3, classes=4, size=32).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("class_name", "message"),
    [
        (
            "FailsInInit",
            r"FailsInInit\(channels=3, .*\) failed: the weights are too small \(user_networks.py, line \d+\)",
        ),
        ("InvertsImages", r"the forward pass of images \(2, 3, 28, 28\) failed: .*singular.* \(user_networks.py, line"),
        (
            "UnusedLazy",
            "its forward pass does not use the lazy module of 'unused.weight', which therefore has no shape",
        ),
    ],
)
def test_a_network_that_fails_at_every_size_is_refused_without_blaming_the_size(class_name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        create(arch(class_name), channels=3, classes=4, size=28)
    assert "image-size" not in str(caught.value)


def test_a_network_with_unused_layers_is_trained(card: ModelCard, data: ArrayDataSet) -> None:
    torch.manual_seed(0)
    before = build(replace(card, arch=arch("Unused"))).state_dict()
    after = trained("Unused", card, data)
    assert torch.equal(after["left_over.0.weight"], before["left_over.0.weight"])
    assert not torch.equal(after["first.weight"], before["first.weight"])


def test_a_network_with_weights_of_five_axes_is_trained(card: ModelCard, data: ArrayDataSet) -> None:
    torch.manual_seed(0)
    before = build(replace(card, arch=arch("Volume"))).state_dict()
    assert not torch.equal(trained("Volume", card, data)["volume.weight"], before["volume.weight"])


def test_auxiliary_heads_are_ignored_in_training(
    card: ModelCard, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "netkit"):
        with_head = trained("AuxiliaryHead", card, data)
    assert caplog.messages.count("the network returns 2 outputs in training mode; training uses the first") == 1
    without = trained("TwoConvolutions", card, data)  # the head is created last, so the other weights are the same
    assert with_head.keys() > without.keys()
    assert all(torch.equal(with_head[name], without[name]) for name in without)


def test_a_tuple_that_does_not_begin_with_logits_is_refused(card: ModelCard, data: ArrayDataSet) -> None:
    message = r"returns a tuple that does not begin with logits \(64, 10\); return the logits alone, or a tuple with"
    with pytest.raises(UsageError, match=message):
        trained("FeaturesFirst", card, data)


@pytest.mark.parametrize("class_name", TIED)
def test_tied_weights_are_saved_and_loaded(tmp_path: Path, card: ModelCard, class_name: str) -> None:
    card, path = replace(card, arch=arch(class_name)), tmp_path / "model.safetensors"
    net = build(card)
    checkpoint.save(path, net, card)
    loaded, _ = checkpoint.load(path, trusted=card.arch)
    other = build(card)
    load_into(other, path)
    images = torch.randn(3, 1, 28, 28)
    for copy in (loaded, other):
        assert torch.equal(copy.eval()(images), net.eval()(images))
        assert checkpoint.content(copy, card) == path.read_bytes()
        assert len(list(copy.parameters())) == len(list(net.parameters()))


@pytest.mark.parametrize("class_name", [*TIED, "Lazy"])
def test_a_stopped_run_continues_to_the_same_weights(
    tmp_path: Path, card: ModelCard, data: ArrayDataSet, class_name: str
) -> None:
    plan = Plan(arch(class_name), RECIPE, 0, "cpu", tmp_path / "whole", save_every_s=0.0)
    whole = train(plan, data).weights.read_bytes()
    plan = replace(plan, out=tmp_path / "stopped", resume=True)
    with pytest.raises(Interrupted):
        train(plan, data, stopping_after(3))
    assert state.load(tmp_path / "stopped/training.safetensors")[0].step == 3
    assert train(plan, data).weights.read_bytes() == whole


def test_a_tied_weight_is_updated_once_per_step(card: ModelCard, data: ArrayDataSet) -> None:
    """A module with two names trains like a module that is called twice."""
    two_names, twice = (trained(name, card, data) for name in ("ModuleWithTwoNames", "ModuleTwice"))
    assert torch.equal(two_names["first.weight"], two_names["second.weight"])
    assert all(torch.equal(two_names[name], twice[name]) for name in twice)


def test_freezing_all_but_the_last_layer_trains_a_last_layer_with_two_names(
    tmp_path: Path, card: ModelCard, data: ArrayDataSet
) -> None:
    card = replace(card, arch=arch("TiedHeads"))
    net = build(card)
    checkpoint.save(tmp_path / "start.safetensors", net, card)
    plan = Plan(
        card.arch, replace(RECIPE, freeze=True), 0, "cpu", tmp_path / "run", weights=tmp_path / "start.safetensors"
    )
    after = checkpoint.load(train(plan, data).weights, trusted=card.arch)[0].state_dict()
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(after[name], tensor)}
    assert changed == {"head.weight", "head.bias", "last.weight", "last.bias"}


def test_a_weight_whose_memory_torch_would_copy_is_refused(card: ModelCard, data: ArrayDataSet) -> None:
    """With the channels last, torch reorders the kernels of each of the two parameters."""
    card = replace(card, arch=arch("ConvolutionView"))
    with pytest.raises(
        UsageError, match=r"^first\.weight is a view of another parameter.*; assign the same nn.Parameter"
    ):
        Trainer(FromPixels(build(card), card), data, recipe=RECIPE, seed=0, device=torch.device("cpu"))
    Trainer(FromPixels(build(card), card), data, recipe=ROW_MAJOR, seed=0, device=torch.device("cpu"))


def test_networks_with_versions_in_their_state_dict_are_saved_resumed_and_loaded(
    tmp_path: Path, card: ModelCard, data: ArrayDataSet
) -> None:
    """The state dict of torchvision's mnasnet has a version, without which it cannot be loaded."""
    color = replace(card, arch="torchvision/mnasnet0_5", channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    checkpoint.save(tmp_path / "a.safetensors", net := build(color), color)
    loaded, _ = checkpoint.load(tmp_path / "a.safetensors")
    images = torch.randn(2, 3, 28, 28)
    assert torch.equal(loaded(images), net.eval()(images))
    trainers = [
        Trainer(FromPixels(build(color), color), rgb(data), recipe=RECIPE, seed=0, device=torch.device("cpu"))
        for _ in range(2)
    ]
    snapshot = trainers[0].snapshot()
    trainers[1].restore(snapshot)
    assert torch.equal(trainers[1].model.net.eval()(images), trainers[0].model.net.eval()(images))


def rgb(data: ArrayDataSet) -> ArrayDataSet:
    return replace(
        data, train_images=data.train_images.repeat(3, axis=1), test_images=data.test_images.repeat(3, axis=1)
    )
