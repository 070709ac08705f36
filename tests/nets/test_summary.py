"""Parameters and multiply-adds, against published numbers and formulas."""

import pytest

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
