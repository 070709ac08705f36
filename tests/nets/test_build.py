"""From a card to its net: every net takes the sizes it promises, and says which it cannot take."""

from dataclasses import replace

import pytest
import torch

from netkit.core.errors import UsageError
from netkit.core.model_card import ModelCard
from netkit.nets.build import ARCHITECTURES, build

LEAST = {"inception": 16, "residual": 16, "preact": 8, "densenet": 8}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 33, 20), (1, 16, 64)])
def test_every_net_is_general_over_the_input(
    card: ModelCard, arch: str, channels: int, height: int, width: int
) -> None:
    numbers = (0.5,) * channels
    other = replace(card, arch=arch, channels=channels, height=height, width=width, mean=numbers, std=numbers)
    logits = build(other)(torch.randn(2, channels, height, width))
    assert logits.shape == (2, 10)
    logits.sum().backward()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_least_size_works_and_one_less_is_refused(card: ModelCard, arch: str) -> None:
    least = LEAST[arch]
    assert build(replace(card, arch=arch, height=least, width=least))(torch.randn(2, 1, least, least)).shape == (2, 10)
    with pytest.raises(UsageError, match=f"needs at least {least}x{least}"):
        build(replace(card, arch=arch, height=least, width=least - 1))
