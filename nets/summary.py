"""Parameters and multiply-adds of a network per layer, counted with torch's FlopCounterMode."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from netkit.nets.build import architecture, create

Shape = tuple[int, int, int]  # channels, height, width of one image

DIGIT: Shape = (1, 28, 28)  # the default input of `create`


@dataclass(frozen=True)
class Summary:
    """The size of a network; multiply-adds are for one 28x28 digit."""

    arch: str
    parameters: int
    multiply_adds: int
    paper: str


@dataclass(frozen=True)
class Layer:
    """A module without children. `output` is the shape of its output for one image."""

    layer: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Bottleneck:
    """Multiply-adds of a k x k convolution with a 1x1 convolution before it, and of the k x k convolution alone."""

    layer: str
    channels: str  # input -> between the two convolutions -> output
    kernel: int  # k
    with_bottleneck: int  # multiply-adds of both convolutions
    without: int  # multiply-adds of the k x k convolution alone
    saved: str  # share of the multiply-adds that the bottleneck saves; below 0 if it adds some


def summary(arch: str) -> Summary:
    """Return the size of netkit's own network `arch`. Raises UsageError if the name is unknown."""
    net = create(arch)
    return Summary(arch, parameters(net), multiply_adds(net, DIGIT), architecture(arch).paper)


def parameters(net: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(weight.numel() for weight in net.parameters())


def multiply_adds(net: nn.Module, image: Shape) -> int:
    """Count the multiply-adds of a forward pass for one image, without biases, normalization and pooling."""
    # with no_grad, the counter fails if a module is called with a view of a parameter
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, *image))
    return int(counter.get_total_flops()) // 2  # torch counts a multiply-add as two operations


def layers(net: nn.Module, image: Shape) -> list[Layer]:
    """List the network's layers in the order of the forward pass."""
    rows: list[Layer] = []

    def hook(path: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            with FlopCounterMode(display=False) as counter:
                module.forward(*inputs)
            count = int(counter.get_total_flops()) // 2
            rows.append(Layer(path, type(module).__name__, tuple(output.shape[1:]), parameters(module), count))

        return module.register_forward_hook(record)

    handles = [hook(path, module) for path, module in net.named_modules() if not any(module.children())]
    with torch.no_grad():
        net.eval()(torch.zeros(1, *image))
    for handle in handles:
        handle.remove()
    return rows


def bottlenecks(net: nn.Module, image: Shape) -> list[Bottleneck]:
    """Compare each 1x1 convolution that precedes a larger kernel in the same nn.Sequential; see Bottleneck."""
    outputs = {layer.layer: layer.output for layer in layers(net, image)}
    rows = []
    for path, module in net.named_modules():
        children = module.named_children() if isinstance(module, nn.Sequential) else ()
        convolutions = [(f"{path}.{name}", child) for name, child in children if isinstance(child, nn.Conv2d)]
        for (_, narrow), (wide_path, wide) in pairwise(convolutions):
            if narrow.kernel_size == (1, 1) and wide.kernel_size != (1, 1):
                height, width = outputs[wide_path][1:]
                rows.append(bottleneck(path, narrow, wide, (narrow.in_channels, height, width)))
    return rows


def bottleneck(layer: str, narrow: nn.Conv2d, wide: nn.Conv2d, image: Shape) -> Bottleneck:
    """Compare `narrow` and `wide` in sequence with one convolution like `wide`, on an input of shape `image`."""
    kernel = wide.kernel_size[0]
    alone = nn.Conv2d(image[0], wide.out_channels, kernel, padding=kernel // 2)
    both, without = multiply_adds(nn.Sequential(narrow, wide), image), multiply_adds(alone, image)
    channels = f"{image[0]} -> {narrow.out_channels} -> {wide.out_channels}"
    return Bottleneck(layer, channels, kernel, both, without, f"{1 - both / without:.0%}")


def googlenet_bottleneck() -> Bottleneck:
    """GoogLeNet's module 3a: 5x5 from 192 to 32 channels on 28x28, after 1x1 to 16 channels."""
    return bottleneck("GoogLeNet 3a", nn.Conv2d(192, 16, 1), nn.Conv2d(16, 32, 5, padding=2), (192, 28, 28))
