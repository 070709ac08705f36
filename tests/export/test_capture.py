"""The error about a network that cannot be exported names layer, line and cause; torch prints nothing."""

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard
from netkit.export.convert import convert
from tests.support.export_networks import (
    BracesInError,
    ComputedAttribute,
    CountsNonzero,
    Distances,
    DynamicKernels,
    FixedBatch,
    IfOnValues,
    MaxPoolTo,
    ScriptedFunction,
    SingularValues,
    UserNetwork,
    WithLayer,
)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            IfOnValues,
            r"the network .* Python code depends on values of a tensor.*torch\.where \(export_networks\.py, line",
        ),
        (
            SingularValues,
            r"the network .* PyTorch cannot convert aten\._linalg_svd.* to ONNX.* \(export_networks\.py, line",
        ),
        (CountsNonzero, r"the network .* operator NonZero has an output whose shape depends on the pixels"),
        (BracesInError, r"the network .* bad options \{'a': 1\} \(export_networks\.py, line"),
        (
            ComputedAttribute,
            r"cannot be copied for the export: an attribute is a tensor computed from its weights; compute",
        ),
        (FixedBatch, r"the network .* its code fixes the batch size; write x\.shape\[0\] or -1"),
        (
            partial(WithLayer, nn.Sequential(nn.ReLU(), nn.FractionalMaxPool2d(2, output_size=5))),
            r"layer 'layer\.1' \(FractionalMaxPool2d\) .* cannot convert aten\.fractional_max_pool2d[^(]*$",
        ),
        (
            partial(MaxPoolTo, 5),
            r"layer 'pool' \(AdaptiveMaxPool2d\) .* its output size does not divide the size of its input",
        ),
        (
            lambda **shape: WithLayer(torch.jit.script(nn.Conv2d(8, 8, 1)), **shape),
            r"layer 'layer' \(Conv2d\) .* torch\.jit\.script compiled it; use the original module",
        ),
        (ScriptedFunction, r"the network .* torch\.jit\.script compiled its attribute 'swish'; use the original func"),
        (
            Distances,
            r"the network .* depends on the batch size, as in torch\.cdist; for distances, write \(x\[:, None\] - y\)",
        ),
        (
            DynamicKernels,
            r"the network .* groups of a convolution, depends on the batch size.* \(export_networks\.py, line",
        ),
    ],
)
def test_the_error_names_the_layer_and_the_cause_in_one_line(
    card: ModelCard, capfd: pytest.CaptureFixture[str], make: Callable[..., nn.Module], message: str
) -> None:
    net = make(channels=1, classes=10, size=(28, 28))
    with pytest.raises(ModelError) as caught:
        convert(net, card)
    assert re.match(f"residual: {message}", str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_network_is_unchanged_after_an_error(card: ModelCard) -> None:
    net = IfOnValues(channels=1, classes=10, size=(28, 28))
    with pytest.raises(ModelError):
        convert(net, card)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_network_that_is_too_large_for_one_file_is_refused_with_its_size(card: ModelCard) -> None:
    with pytest.raises(ModelError, match=r"^residual: has 2,400,080,000 bytes of weights; one ONNX file without ext"):
        convert(nn.Linear(30_000, 20_000, device="meta"), card)


def test_a_user_network_with_a_pool_that_divides_is_exported(card: ModelCard) -> None:
    assert convert(MaxPoolTo(7, channels=1, classes=10, size=(28, 28)), card)
    assert convert(UserNetwork(channels=1, classes=10, size=(28, 28)), card)
