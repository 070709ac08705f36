"""Normalization against float64, and checks of image sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard
from netkit.nets.normalize import FromPixels
from netkit.nets.sizes import Size, height_and_width

MEAN, STD = (0.1307, 0.5, 0.9), (0.3081, 0.25, 1.5)
ALL_PIXEL_VALUES = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)


def normalized(images_u8: np.ndarray, channels: int) -> Tensor:
    mean, std = (np.array(values[:channels]).reshape(-1, 1, 1) for values in (MEAN, STD))
    return torch.tensor((images_u8 / np.float64(255) - mean) / std)


def from_pixels(card: ModelCard, channels: int, net: nn.Module) -> FromPixels:
    return FromPixels(net, replace(card, channels=channels, mean=MEAN[:channels], std=STD[:channels]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_pixel_value_is_normalized_per_channel(card: ModelCard, channels: int, dtype: torch.dtype) -> None:
    images_u8 = np.repeat(ALL_PIXEL_VALUES, channels, axis=1)
    x = from_pixels(card, channels, nn.Identity()).to(dtype)(torch.tensor(images_u8))
    assert x.dtype == dtype
    # scale and shift are rounded to float32 in float64, too: both dtypes check the same network
    torch.testing.assert_close(x.double(), normalized(images_u8, channels), rtol=0, atol=1e-6)


def test_network_gets_the_normalized_image_and_its_logits_are_returned(card: ModelCard) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 4, 10)).double()
    images_u8 = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), np.uint8)
    logits = from_pixels(card, 3, net).double()(torch.tensor(images_u8))
    linear = next(module for module in net if isinstance(module, nn.Linear))
    reference = normalized(images_u8, 3).flatten(1) @ linear.weight.T + linear.bias
    torch.testing.assert_close(logits, reference, rtol=0, atol=1e-5)


def test_mean_and_std_are_not_in_the_state_dict(card: ModelCard) -> None:
    model = from_pixels(card, 1, nn.Linear(2, 2))
    assert list(model.state_dict()) == ["net.weight", "net.bias"]
    assert sum(weight.numel() for weight in model.parameters()) == 6


def test_wrong_number_of_channels_raises(card: ModelCard) -> None:
    with pytest.raises(RuntimeError, match="must match the size"):
        from_pixels(card, 3, nn.Identity())(torch.zeros(1, 2, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(("size", "sides"), [(28, (28, 28)), ((8, 30), (8, 30)), ((30, 8), (30, 8)), (8, (8, 8))])
def test_size_is_one_number_or_height_and_width(size: Size, sides: tuple[int, int]) -> None:
    assert height_and_width(size, min_side=8, arch="densenet") == sides


@pytest.mark.parametrize(("size", "shown"), [(7, "7x7"), ((7, 30), "7x30"), ((30, 7), "30x7"), (0, "0x0"), (-9, "-9x")])
def test_error_for_a_small_size_names_network_and_minimum(size: Size, shown: str) -> None:
    with pytest.raises(UsageError, match=f"^densenet cannot take {shown}.* images: pass --image-size 8 or larger$"):
        height_and_width(size, min_side=8, arch="densenet")
