"""From a card to its net: the map from names to netkit's classes. Imports torch only when a net is built."""

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from netkit.core.errors import unknown_name
from netkit.core.model_card import ModelCard
from netkit.core.runs import TORCHVISION, is_external

if TYPE_CHECKING:
    from torch import nn


class Architecture(NamedTuple):
    module: str
    class_name: str
    source: str


ARCHITECTURES = {
    "inception": Architecture("netkit.nets.inception", "InceptionNet", "Szegedy et al. 2015, arXiv:1409.4842"),
    "residual": Architecture("netkit.nets.residual", "ResidualNet", "He et al. 2015, arXiv:1512.03385"),
    "preact": Architecture("netkit.nets.preact", "PreActNet", "He et al. 2016, arXiv:1603.05027"),
    "densenet": Architecture("netkit.nets.densenet", "DenseNet", "Huang et al. 2017, arXiv:1608.06993"),
}


def architecture(name: str) -> Architecture:
    """netkit's own architecture called `name`; UsageError, with the closest known name, where there is none."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, [*ARCHITECTURES, f"{TORCHVISION}NAME", "MODULE:CLASS"])
    return ARCHITECTURES[name]


def net_class(name: str) -> "type[nn.Module]":
    """The class of the architecture called `name`, made as InceptionNet(channels=1, classes=10, size=28)."""
    which = architecture(name)
    found: type[nn.Module] = getattr(import_module(which.module), which.class_name)
    return found


def build(card: ModelCard) -> "nn.Module":
    """A net as the card describes it, with fresh weights from torch's random generator.

    It takes normalised floats (N, channels, height, width) and gives logits (N, classes). Raises UsageError for an
    unknown architecture or an image size that it cannot take.
    """
    classes, size = len(card.labels), (card.height, card.width)
    if is_external(card.arch):
        from netkit.nets import external

        return external.build(card.arch, card.channels, classes, size)
    return net_class(card.arch)(card.channels, classes, size)
