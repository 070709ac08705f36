"""Publish: convert a net, prove the result, and only then give the file its name."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.convert import OPSET, convert
from export.parity import Parity, measure
from infer import model
from infer.session import open_session
from nets import files
from nets.card import ModelCard
from nets.errors import ParityError, UsageError


def export(net: nn.Module, path: Path, *, card: ModelCard, images_u8: NDArray[np.uint8], opset: int = OPSET) -> Parity:
    """Write `net` as the ONNX file `path`, if it computes what the net does on `images_u8` (N, C, H, W) and on noise.

    What is measured is the bytes that are written. Raises ParityError where it does not, and leaves no file `path`,
    not even an earlier one: it would pass for the net that failed. Raises UsageError where `path` cannot be
    written, or is not called .onnx.
    """
    files.refuse(path)
    if path.suffix != ".onnx":
        raise UsageError(f"{path}: an ONNX model is written as .onnx")
    content = convert(net, card, opset=opset)
    session = open_session(model.check(content, str(path)), device="cpu")
    parity = measure(net, card, session, images_u8)
    if not parity.holds:
        path.unlink(missing_ok=True)
        raise ParityError(f"{path}: not written: the ONNX model does not compute what PyTorch does: {parity}")
    files.write_whole(path, content)
    return parity
