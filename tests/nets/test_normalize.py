"""Normalisation against float64 by hand, and the sizes that a net is given."""

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
EVERY_LEVEL = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)


def normalised(images_u8: np.ndarray, channels: int) -> Tensor:
    mean, std = (np.array(numbers[:channels]).reshape(-1, 1, 1) for numbers in (MEAN, STD))
    return torch.tensor((images_u8 / np.float64(255) - mean) / std)


def wrapped(card: ModelCard, channels: int, net: nn.Module) -> FromPixels:
    return FromPixels(net, replace(card, channels=channels, mean=MEAN[:channels], std=STD[:channels]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_is_normalised_by_its_channel(card: ModelCard, channels: int, dtype: torch.dtype) -> None:
    images_u8 = np.repeat(EVERY_LEVEL, channels, axis=1)
    found = wrapped(card, channels, nn.Identity()).to(dtype)(torch.tensor(images_u8))
    assert found.dtype == dtype
    # the constants are float32 in float64 too: what float64 checks is the net that float32 runs
    torch.testing.assert_close(found.double(), normalised(images_u8, channels), rtol=0, atol=1e-6)


def test_the_net_sees_the_normalised_image_and_its_answer_comes_back(card: ModelCard) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 4, 10)).double()
    images_u8 = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), np.uint8)
    logits = wrapped(card, 3, net).double()(torch.tensor(images_u8))
    linear = next(module for module in net if isinstance(module, nn.Linear))
    reference = normalised(images_u8, 3).flatten(1) @ linear.weight.T + linear.bias
    torch.testing.assert_close(logits, reference, rtol=0, atol=1e-5)


def test_mean_and_std_are_no_weights(card: ModelCard) -> None:
    model = wrapped(card, 1, nn.Linear(2, 2))
    assert list(model.state_dict()) == ["net.weight", "net.bias"]
    assert sum(weight.numel() for weight in model.parameters()) == 6


def test_as_many_channels_as_the_card_says_or_an_error(card: ModelCard) -> None:
    with pytest.raises(RuntimeError, match="must match the size"):
        wrapped(card, 3, nn.Identity())(torch.zeros(1, 2, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(("size", "sides"), [(28, (28, 28)), ((8, 30), (8, 30)), ((30, 8), (30, 8)), (8, (8, 8))])
def test_a_size_is_one_number_or_two(size: Size, sides: tuple[int, int]) -> None:
    assert height_and_width(size, least=8, of="densenet") == sides


@pytest.mark.parametrize(("size", "shown"), [(7, "7x7"), ((7, 30), "7x30"), ((30, 7), "30x7"), (0, "0x0"), (-9, "-9x")])
def test_too_small_a_size_is_named_with_the_net_and_its_least(size: Size, shown: str) -> None:
    with pytest.raises(UsageError, match=f"^densenet cannot take {shown}.* images: it needs at least 8x8$"):
        height_and_width(size, least=8, of="densenet")
