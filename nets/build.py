"""Create networks by name: netkit's own, those of torchvision and timm, and the user's. Only this loads torch."""

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from netkit.core.errors import unknown_name
from netkit.core.model_card import ModelCard
from netkit.core.runs import TIMM, TORCHVISION, is_external, is_user_code

if TYPE_CHECKING:
    from torch import nn


class Architecture(NamedTuple):
    module: str
    class_name: str
    paper: str


ARCHITECTURES = {
    "inception": Architecture("netkit.nets.inception", "InceptionNet", "Szegedy et al. 2015, arXiv:1409.4842"),
    "residual": Architecture("netkit.nets.residual", "ResidualNet", "He et al. 2015, arXiv:1512.03385"),
    "preact": Architecture("netkit.nets.preact", "PreActNet", "He et al. 2016, arXiv:1603.05027"),
    "densenet": Architecture("netkit.nets.densenet", "DenseNet", "Huang et al. 2017, arXiv:1608.06993"),
}


def architecture(name: str) -> Architecture:
    """Return netkit's own architecture `name`. Raises UsageError, with the closest known name, if it is unknown."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, [*ARCHITECTURES, f"{TORCHVISION}NAME", f"{TIMM}NAME", "MODULE:CLASS"])
    return ARCHITECTURES[name]


def create(name: str, *, channels: int = 1, classes: int = 10, size: int | tuple[int, int] = 28) -> "nn.Module":
    """Create a network with random weights, drawn from torch's global generator.

    The network maps normalized images (N, channels, height, width) float32 to logits (N, classes).

    Args:
        name: "inception", "residual", "preact" or "densenet"; "torchvision/NAME" or "timm/NAME" for a classifier of
            these packages; or "MODULE:CLASS" for a class of yours. MODULE may be in the current directory; CLASS is
            called with `channels`, `classes` and `size=(height, width)`.
        channels: 1 for grey images, 3 for RGB; the classifiers of torchvision and timm take 3.
        classes: number of logits.
        size: height and width of the images in pixels; one number for square images.

    Raises:
        UsageError: the name is unknown, the module or class cannot be imported, or the network cannot take images of
            this shape. The message contains the closest known name or the smallest supported size.
        MissingExtraError: timm is not installed.

    Example:
        >>> import torch
        >>> from netkit.nets import create
        >>> net = create("residual", channels=3, classes=5, size=(32, 48))
        >>> net(torch.zeros(2, 3, 32, 48)).shape
        torch.Size([2, 5])
    """
    if is_external(name):
        from netkit.nets import external

        return external.create(name, channels, classes, (size, size) if isinstance(size, int) else size)
    module, class_name, _ = architecture(name)
    network: type[nn.Module] = getattr(import_module(module), class_name)
    return network(channels, classes, size)


def build(card: ModelCard) -> "nn.Module":
    """Create the network that the card describes, with random weights. Raises UsageError as `create` does."""
    return create(card.arch, channels=card.channels, classes=len(card.labels), size=(card.height, card.width))


def default_size(name: str) -> tuple[int, int]:
    """Return height and width of images that the network `name` can take. Raises UsageError as `create` does."""
    if not is_external(name) or is_user_code(name):
        return 28, 28
    from netkit.nets import external

    config = external.input_config(name)
    return config.size if config else (224, 224)
