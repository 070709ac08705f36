"""Parameters and multiply-adds, against the textbook's numbers and against formulas worked out by hand."""

import pytest

from netkit.nets.build import ARCHITECTURES, create
from netkit.nets.summary import DIGIT, layers, multiply_adds, parameters, textbook_bottleneck


def test_textbook_case_costs_what_the_textbook_says() -> None:
    case = textbook_bottleneck()
    assert (case.direct, case.bottleneck) == (120_422_400, 12_443_648)


def test_first_convolution_costs_kernel_times_channels_times_positions() -> None:
    first = layers(create("inception"), DIGIT)[0]
    assert (first.layer, first.output) == ("conv1", (10, 24, 24))
    assert (first.parameters, first.multiply_adds) == (10 * (25 + 1), 25 * 10 * 24 * 24)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_layers_add_up_to_the_net(arch: str) -> None:
    net = create(arch)
    found = layers(net, DIGIT)
    assert sum(layer.multiply_adds for layer in found) == multiply_adds(net, DIGIT)
    assert sum(layer.parameters for layer in found) == parameters(net)
