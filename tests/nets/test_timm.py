"""The classifiers of timm, with timm's own configuration of their input."""

from pathlib import Path

import pytest
import torch

import netkit
from netkit.core.errors import UsageError
from netkit.nets import create
from netkit.nets.build import default_size
from netkit.nets.training.weights import convert

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("test_resnet", (32, 48), {}),
        ("test_resnet.r160_in1k", (32, 48), {}),
        ("test_vit", (32, 48), {"img_size": (32, 48)}),  # its parameters depend on the size
    ],
)
def test_timms_networks_are_created_by_name(name: str, size: tuple[int, int], options: dict[str, object]) -> None:
    torch.manual_seed(3)
    net = create(f"timm/{name}", channels=3, classes=4, size=size).eval()
    torch.manual_seed(3)
    reference = timm.create_model(name, num_classes=4, **options).eval()
    images = torch.randn(2, 3, *size)
    assert torch.equal(net(images), reference(images))


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("test_resnett", "did you mean timm/test_resnet, "),
        ("test_resnet.unknown_tag", "did you mean .*timm/test_resnet.r160_in1k"),
        ("hf-hub:someone/weights", ""),  # timm would read the configuration from there
        ("local-dir:/tmp", ""),
    ],
)
def test_unknown_names_are_refused(name: str, question: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown architecture 'timm/{name}': {question}.*import timm; print"):
        create(f"timm/{name}", channels=3, classes=4, size=32)


def test_timms_networks_need_3_channels() -> None:
    with pytest.raises(UsageError, match="timm/test_resnet takes images of 3 channels, not 1; pass --channels 3"):
        create("timm/test_resnet", channels=1, classes=4, size=32)


def test_error_for_a_size_that_does_not_fit_the_patches_suggests_a_multiple() -> None:
    with pytest.raises(
        UsageError, match=r"timm/test_vit cannot take 28x28 images with 3 channels; .*--image-size (16|32)"
    ):
        create("timm/test_vit", channels=3, classes=4, size=28)


@pytest.mark.parametrize("size", [None, pytest.param(32, marks=pytest.mark.slow)])
def test_size_mean_and_std_of_timm_are_the_defaults_of_a_training(tmp_path: Path, size: int | None) -> None:
    colors = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)) if size else (None, None)
    card = netkit.train(
        "timm/test_efficientnet", data="digits", out=tmp_path, image_size=size, mean=colors[0], std=colors[1],
        recipe="baseline", epochs=0.05, batch_size=8, device="cpu",
    ).card  # fmt: skip
    config = timm.get_pretrained_cfg("test_efficientnet")
    assert config.input_size == (3, 160, 160)
    if size:
        assert (card.height, card.width, card.mean, card.std) == (size, size, *colors)
    else:
        assert (card.channels, card.height, card.width) == config.input_size
        assert (card.mean, card.std) == (config.mean, config.std)


def test_weights_of_timm_are_imported(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=9).state_dict(), tmp_path / "net.pth")
    assert default_size("timm/test_vit") == (160, 160)
    assert convert(tmp_path / "net.pth", tmp_path / "net.safetensors", arch="timm/test_vit")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_timms_networks_are_exported(tmp_path: Path, name: str) -> None:
    netkit.train(f"timm/{name}", data="digits", out=tmp_path, image_size=32, epochs=0.3, device="cpu")
    (model,) = netkit.export_model(tmp_path)
    assert all(comparison.holds for comparison in model.certificate.comparisons)
