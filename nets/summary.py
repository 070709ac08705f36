"""Parameters and multiply-adds of a net, layer by layer, counted by running it under torch's own flop counter."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from netkit.nets.build import architecture, net_class

Shape = tuple[int, int, int]  # channels, height, width of one image

DIGIT: Shape = (1, 28, 28)


@dataclass(frozen=True)
class Summary:
    """A net in numbers, for one 28x28 digit."""

    arch: str
    parameters: int
    multiply_adds: int
    source: str


@dataclass(frozen=True)
class Layer:
    """One module without children, in the order of the forward pass; `output` is its shape for one image."""

    layer: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Bottleneck:
    """A 1x1 convolution before a k x k one, against the k x k alone, in multiply-adds."""

    layer: str
    channels: str  # those that come in, those between the two, those that go out
    kernel: int
    bottleneck: int
    direct: int
    ratio: str  # direct to bottleneck


def digit_net(arch: str) -> nn.Module:
    """The net called `arch`, for MNIST's digits, with fresh weights."""
    return net_class(arch)(channels=DIGIT[0], classes=10, size=DIGIT[1:])


def summary(arch: str) -> Summary:
    net = digit_net(arch)
    return Summary(arch, parameters(net), multiply_adds(net, DIGIT), architecture(arch).source)


def parameters(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def multiply_adds(net: nn.Module, image: Shape) -> int:
    """Multiply-adds of one forward pass of one such image; biases, norms and pools count nothing."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, *image))
    return int(counter.get_total_flops()) // 2  # torch counts a multiply-add as two operations


def layers(net: nn.Module, image: Shape) -> list[Layer]:
    """The net's layers in the order in which one such image passes them."""
    found: list[Layer] = []

    def listen(path: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            with FlopCounterMode(display=False) as counter:
                module.forward(*inputs)
            done = int(counter.get_total_flops()) // 2
            found.append(Layer(path, type(module).__name__, tuple(output.shape[1:]), parameters(module), done))

        return module.register_forward_hook(note)

    hooks = [listen(path, module) for path, module in net.named_modules() if not any(module.children())]
    with torch.no_grad():
        net.eval()(torch.zeros(1, *image))
    for hook in hooks:
        hook.remove()
    return found


def bottlenecks(net: nn.Module, image: Shape) -> list[Bottleneck]:
    """What each 1x1 convolution that leads to a larger kernel in the same nn.Sequential saves, or costs."""
    outputs = {layer.layer: layer.output for layer in layers(net, image)}
    found = []
    for path, module in net.named_modules():
        children = module.named_children() if isinstance(module, nn.Sequential) else ()
        convolutions = [(f"{path}.{name}", child) for name, child in children if isinstance(child, nn.Conv2d)]
        for (_, narrow), (wide_path, wide) in pairwise(convolutions):
            if narrow.kernel_size == (1, 1) and wide.kernel_size != (1, 1):
                height, width = outputs[wide_path][1:]
                found.append(bottleneck(path, narrow, wide, (narrow.in_channels, height, width)))
    return found


def bottleneck(layer: str, narrow: nn.Conv2d, wide: nn.Conv2d, image: Shape) -> Bottleneck:
    """Count `wide` after `narrow` on maps of that shape, and a convolution like `wide` on the maps themselves."""
    direct = nn.Conv2d(image[0], wide.out_channels, wide.kernel_size[0], padding=wide.kernel_size[0] // 2)
    through, alone = multiply_adds(nn.Sequential(narrow, wide), image), multiply_adds(direct, image)
    channels = f"{image[0]} -> {narrow.out_channels} -> {wide.out_channels}"
    return Bottleneck(layer, channels, wide.kernel_size[0], through, alone, f"{alone / through:.2f}x")


def textbook_bottleneck() -> Bottleneck:
    """The textbook's case: 192 channels of 28x28 through a 5x5 to 32, and through a 1x1 to 16 first."""
    return bottleneck("textbook", nn.Conv2d(192, 16, 1), nn.Conv2d(16, 32, 5, padding=2), (192, 28, 28))
