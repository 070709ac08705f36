"""PyTorch's logits in float64, the reference of the parity check, for any network whose output depends on one image."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from netkit.core.errors import ModelError, first_line
from netkit.core.model_card import ModelCard
from netkit.export.capture import copied
from netkit.nets.normalize import FromPixels

BATCH_SIZE = 50  # float64 convolutions over 500 images at once took 3 to 5 times as long
CHECKED_IMAGES = 4  # that run again in other batches
TOLERANCE = 1e-9  # of those runs, relative to the largest logit; rounding errors of float64 are around 1e-15


class _Float64(TorchDispatchMode):
    """Runs every operator in float64, even if the network casts to another floating-point type or has constants in it.

    `casts` tells whether it did cast.
    """

    casts = False

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.casts |= operator is torch.ops.aten._to_copy.default and _is_lower((kwargs or {}).get("dtype"))
        args, kwargs = tree_map(_to_float64, (args, kwargs or {}))
        return tree_map(_to_float64, operator(*args, **kwargs))


def _is_lower(value: object) -> bool:
    return isinstance(value, torch.dtype) and value.is_floating_point and value != torch.float64


def _to_float64(value: Any) -> Any:
    if isinstance(value, Tensor) and _is_lower(value.dtype):
        return value.double()
    return torch.float64 if _is_lower(value) else value


@torch.no_grad()
def float64_logits(net: nn.Module, card: ModelCard, images_u8: NDArray[np.uint8]) -> tuple[NDArray[np.float64], bool]:
    """Run `net` in float64 on images (N, C, H, W). Returns logits (N, classes), and whether casts were ignored.

    Raises ModelError if the network does not run, or if the logits of an image change from run to run or with the
    other images of its batch.
    """
    model = FromPixels(copied(net, name=card.arch), card).double().eval()
    few = images_u8[:CHECKED_IMAGES]
    try:
        with _Float64() as mode:  # type: ignore[no-untyped-call]  # its base class has no types
            logits = batched_logits(model, images_u8)
            first, again = batched_logits(model, few), batched_logits(model, few)
            alone = np.concatenate([batched_logits(model, image[None]) for image in few])
    except Exception as exc:  # the network's code can raise anything
        raise ModelError(f"{card.arch}: does not run in float64 on batches of any size: {first_line(exc)}") from None
    if not _equal(first, again):
        raise ModelError(
            f"{card.arch}: the logits of the same images differ from run to run, although the network is in evaluation "
            "mode; remove random numbers, or a dropout that stays active"
        )
    if not _equal(first, alone):
        raise ModelError(
            f"{card.arch}: the logits of an image depend on the other images of its batch; remove operations over "
            "the batch, such as a batch norm with track_running_stats=False"
        )
    return logits, mode.casts


def _equal(logits: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    return np.allclose(logits, others, rtol=0, atol=TOLERANCE * max(1.0, np.abs(logits).max()), equal_nan=True)


def batched_logits(model: FromPixels, images_u8: NDArray[np.uint8], device: str = "cpu") -> NDArray[Any]:
    """Run the model on images (N, C, H, W) in batches; logits (N, classes) have the data type of the model."""
    tensors = (torch.from_numpy(batch.copy()).to(device) for batch in batches(images_u8, BATCH_SIZE))
    return np.concatenate([model(tensor).cpu().numpy() for tensor in tensors])


def batches(images_u8: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the images in order in batches of `size`; the last batch may be smaller."""
    return (images_u8[start : start + size] for start in range(0, len(images_u8), size))
