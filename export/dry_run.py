"""Dry run: export an untrained network in memory, so that a user learns before the training whether it works."""

import numpy as np
from torch import nn

from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard
from netkit.export.convert import convert
from netkit.export.parity.compare import run_batches
from netkit.export.parity.float64 import float64_logits
from netkit.export.parity.reference import error_bound, logits_error, max_abs, synthetic_inputs
from netkit.infer.model import onnx_file
from netkit.infer.runtime.session import open_session

IMAGES_PER_KIND = 2  # of synthetic images
BATCH_SIZES = (1, 4)
MAX_ERROR = 1e-3  # relative to the largest logit, or the bound of the parity check if that is larger


def dry_run(net: nn.Module, card: ModelCard) -> None:
    """Convert `net`, check the file, and run it in two batch sizes; nothing is written, and `net` is not changed.

    Raises ModelError if a step fails, or if the logits differ from those of PyTorch by more than rounding.
    """
    kinds = synthetic_inputs(card.channels, card.height, card.width, max_per_kind=IMAGES_PER_KIND)
    images_u8 = np.concatenate(list(kinds.values()))
    content = convert(net, card, passes={})  # no passes: they take time, and an export can leave them out
    exact, _ = float64_logits(net, card, images_u8)
    model = onnx_file.check(content, card.arch)
    limit = max(MAX_ERROR * max(1.0, max_abs(exact)), error_bound(logits_error(net, card, images_u8, exact), exact))
    session = open_session(model, device="cpu")
    for size in BATCH_SIZES:
        error = max_abs(run_batches(session, images_u8, size)[0] - exact)
        if not error <= limit:  # also true for a NaN error
            raise ModelError(
                f"{card.arch}: the logits of the ONNX model differ from PyTorch by {error:.2g} in batches of {size}"
            )
