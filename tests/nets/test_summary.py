"""Parameters and multiply-adds, against published numbers and formulas."""

import pytest
import torch
from torch import Tensor, nn

from netkit.nets.build import ARCHITECTURES, create
from netkit.nets.summary import DIGIT, googlenet_bottleneck, layers, multiply_adds, parameters


def test_the_bottleneck_of_googlenet_saves_nine_tenths_of_the_multiply_adds() -> None:
    example = googlenet_bottleneck()
    assert (example.without, example.with_bottleneck, example.saved) == (120_422_400, 12_443_648, "90%")


def test_counts_of_the_first_convolution() -> None:
    first = layers(create("inception"), DIGIT)[0]
    assert (first.layer, first.output) == ("conv1", (10, 24, 24))
    assert (first.parameters, first.multiply_adds) == (10 * (25 + 1), 25 * 10 * 24 * 24)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_layers_add_up_to_the_network(arch: str) -> None:
    net = create(arch)
    rows = layers(net, DIGIT)
    assert sum(row.multiply_adds for row in rows) == multiply_adds(net, DIGIT)
    assert sum(row.parameters for row in rows) == parameters(net)


class QueryPerImage(nn.Module):
    """Calls a layer with a learned vector that is expanded to the number of images, as class tokens are."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.layer = nn.Parameter(torch.ones(1, 4)), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.query.expand(len(images), -1))


def test_multiply_adds_include_layers_that_are_called_with_a_view_of_a_parameter() -> None:
    assert multiply_adds(QueryPerImage(), (1, 2, 2)) == 4 * 5
