"""Networks from outside netkit: the classifiers of torchvision and timm, and the user's classes, named MODULE:CLASS."""

import difflib
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from netkit.core.errors import MissingExtraError, ModelError, UsageError
from netkit.core.runs import TIMM, TORCHVISION, is_user_code, required_channels
from netkit.nets import user_class

# netkit trains on the logits alone, so these networks are created without their auxiliary heads
WITHOUT_AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
MAX_SUGGESTIONS = 5
LIST_TORCHVISION = 'python -c "from torchvision import models; print(*models.list_models(module=models))"'
LIST_TIMM = 'python -c "import timm; print(*timm.list_models())"'
CANDIDATE_SIDES = (32, 64, 128, 224, 256, 384, 512)  # pixels; most networks support one of them

Factory = Callable[[tuple[int, int]], nn.Module]


class InputConfig(NamedTuple):
    """The images that a network of timm was designed for: (height, width), and mean and std per channel in [0, 1]."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def create(name: str, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """Create the network `name` for images (channels, *size), with random weights.

    The network is run once, on two images. This also gives the parameters of lazy modules their shapes.

    Raises UsageError if the network is unknown or cannot take images of this shape; if a square of another size works,
    the message contains its side.
    """
    if is_user_code(name):
        with user_class.modules_from(os.getcwd(), first=re.split("[.:]", name)[0]):
            return _create_checked(name, user_class.factory(name, channels, classes), channels, classes, size)
    if channels != (required := required_channels(name)):
        raise UsageError(f"{name} takes images of {required} channels, not {channels}; pass --channels {required}")
    factory = _torchvision_factory if name.startswith(TORCHVISION) else _timm_factory
    return _create_checked(name, factory(name, classes), channels, classes, size)


def torchvision_names() -> list[str]:
    """List the names of torchvision's classifiers."""
    from torchvision import models

    return list(models.list_models(module=models))


def input_config(arch: str) -> InputConfig | None:
    """Return the input for which timm designed the network `arch`; None for a network that is not timm's.

    Raises UsageError if the name is unknown, MissingExtraError if timm is not installed.
    """
    if not arch.startswith(TIMM):
        return None
    config = _timm_config(arch)
    return InputConfig(config.input_size[1:], config.mean, config.std)


def _torchvision_factory(arch: str, classes: int) -> Factory:
    from torchvision import models

    name = arch.removeprefix(TORCHVISION)
    _require_known(arch, TORCHVISION, torchvision_names(), LIST_TORCHVISION)
    options = {"num_classes": classes, **WITHOUT_AUXILIARY.get(name, {})}

    def make(size: tuple[int, int]) -> nn.Module:
        image_size = {"image_size": size[0]} if name.startswith("vit_") else {}
        network: nn.Module = models.get_model(name, weights=None, **options, **image_size)
        return network

    return make


def _timm_factory(arch: str, classes: int) -> Factory:
    config = _timm_config(arch)
    import timm

    def make(size: tuple[int, int]) -> nn.Module:
        image_size: dict[str, Any] = {"img_size": size} if config.fixed_input_size else {}
        network: nn.Module = timm.create_model(arch.removeprefix(TIMM), num_classes=classes, **image_size)
        return network

    return make


def _timm_config(arch: str) -> Any:
    """Return timm's configuration of the network. The names of timm's hub, "hf-hub:NAME", are unknown here."""
    try:
        import timm
    except ModuleNotFoundError:
        raise MissingExtraError("timm", "timm") from None
    known = (*timm.list_models(), *timm.list_models(pretrained=True))  # without and with the tag of their weights
    _require_known(arch, TIMM, known, LIST_TIMM)
    return timm.get_pretrained_cfg(arch.removeprefix(TIMM))


def _require_known(arch: str, prefix: str, known: Iterable[str], lister: str) -> None:
    name = arch.removeprefix(prefix)
    if name not in (names := set(known)):
        close = difflib.get_close_matches(name, sorted(names), n=MAX_SUGGESTIONS, cutoff=0.5)
        question = f"did you mean {', '.join(f'{prefix}{other}' for other in close)}? " if close else ""
        raise UsageError(f"unknown architecture {arch!r}: {question}to list the names, run: {lister}")


def _create_checked(arch: str, make: Factory, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """Create the network and run it on images of this shape. Raises UsageError if it cannot take them.

    The message contains another size only if the size is at fault: the network fails at this size and works at the
    other one. This search runs on the meta device, where tensors have shapes but no values, so that it is fast.
    """
    try:
        return _create_and_run(make, channels, classes, size)
    except UsageError as exc:
        problem = str(exc)

    def fits(size: tuple[int, int]) -> bool:
        with torch.device("meta"), suppress(UsageError):
            _create_and_run(make, channels, classes, size)
            return True
        return False

    works = next((side for side in CANDIDATE_SIDES if fits((side, side))), None)
    if works is None or fits(size):
        raise UsageError(f"{arch}: {problem}")
    smallest = _smallest_side(fits, works)
    images = f"{size[0]}x{size[1]} images with {channels} channel{'' if channels == 1 else 's'}"
    cause = f": {problem}" if is_user_code(arch) else ""
    if min(size) < smallest:
        raise UsageError(f"{arch} cannot take {images}{cause}; the smallest size is --image-size {smallest}")
    multiple = -(-max(size) // smallest) * smallest  # vision transformers take multiples of their patch size
    side = multiple if fits((multiple, multiple)) else works
    raise UsageError(f"{arch} cannot take {images}{cause}; pass, for example, --image-size {side}")


def _create_and_run(make: Factory, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    """Create the network, and run it in evaluation mode. Raises UsageError if it does not return logits."""
    try:
        net = make(size)
        with torch.no_grad():
            logits = net.eval()(torch.zeros(2, channels, *size))
    except (UsageError, ModelError):
        raise
    except Exception as exc:  # the network's code can raise anything
        problem = f"the forward pass of images {(2, channels, *size)} failed: {user_class.cause(exc)}"
        raise UsageError(problem) from None
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (2, classes):
        raise UsageError(f"its output for 2 images is {shape}, not logits (2, {classes})")
    if unused := [name for name, weight in net.named_parameters() if is_lazy(weight)]:
        raise UsageError(
            f"its forward pass does not use the lazy module of {unused[0]!r}, which therefore has no shape"
        )
    return net.train()


def _smallest_side(fits: Callable[[tuple[int, int]], bool], works: int) -> int:
    """Return the smallest side of a square that the network takes, by bisection below a side that works."""
    too_small = 0
    while works - too_small > 1:
        middle = (too_small + works) // 2
        if fits((middle, middle)):
            works = middle
        else:
            too_small = middle
    return works
