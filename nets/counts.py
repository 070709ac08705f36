"""Parameters and multiply-adds of a net, layer by layer, counted by running it under torch's own flop counter."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Layer:
    """One module without children, in the order of the forward pass; `shape` is that of its output for one image."""

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Bottleneck:
    """A 1x1 convolution that sets the channels of the k x k after it, against the k x k alone, in multiply-adds."""

    path: str
    channels: int
    middle: int
    out_channels: int
    kernel: int
    with_it: int
    without_it: int


def parameters(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def multiply_adds(net: nn.Module, *, channels: int, height: int, width: int) -> int:
    """Multiply-adds of one forward pass of one image (channels, height, width); biases and norms count nothing."""
    return sum(layer.multiply_adds for layer in layers(net, channels=channels, height=height, width=width))


def layers(net: nn.Module, *, channels: int, height: int, width: int) -> list[Layer]:
    """The net's layers in the order in which one image of that shape passes them."""
    found: list[Layer] = []

    def count(path: str, module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        with FlopCounterMode(display=False) as counter:
            module.forward(*arguments)
        # torch counts a multiply-add as two operations
        done = counter.get_total_flops() // 2
        found.append(Layer(path, type(module).__name__, tuple(output.shape[1:]), parameters(module), done))

    hooks = [
        module.register_forward_hook(
            lambda module, arguments, output, path=path: count(path, module, arguments, output)
        )
        for path, module in net.named_modules()
        if not any(module.children())
    ]
    training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, channels, height, width))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return found


def bottlenecks(net: nn.Module, *, channels: int, height: int, width: int) -> list[Bottleneck]:
    """What each 1x1 convolution that leads to a larger kernel inside one nn.Sequential saves, or costs."""
    shapes = {layer.path: layer.shape for layer in layers(net, channels=channels, height=height, width=width)}
    found = []
    for path, module in net.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        convolutions = [(name, child) for name, child in module.named_children() if isinstance(child, nn.Conv2d)]
        for (_, narrow), (name, wide) in pairwise(convolutions):
            if narrow.kernel_size == (1, 1) and wide.kernel_size[0] > 1:
                size = shapes[f"{path}.{name}"][1:]
                found.append(
                    bottleneck(
                        path, narrow.in_channels, narrow.out_channels, wide.out_channels, wide.kernel_size[0], size
                    )
                )
    return found


def bottleneck(
    path: str, channels: int, middle: int, out_channels: int, kernel: int, size: tuple[int, ...]
) -> Bottleneck:
    """Count `channels` to `out_channels` by kernel x kernel on maps of that size, through `middle` channels and directly."""
    height, width = size
    wide = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2)
    through = nn.Sequential(
        nn.Conv2d(channels, middle, 1), nn.Conv2d(middle, out_channels, kernel, padding=kernel // 2)
    )
    with_it = multiply_adds(through, channels=channels, height=height, width=width)
    without_it = multiply_adds(nn.Sequential(wide), channels=channels, height=height, width=width)
    return Bottleneck(path, channels, middle, out_channels, kernel, with_it, without_it)
