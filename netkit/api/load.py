"""netkit.load: the model in an .onnx file as a Python object."""

from pathlib import Path

from netkit.api.arguments import check_device
from netkit.images.decoder import Decoder
from netkit.infer.predictor import Classifier, open_model


def load(
    model: str | Path, *, device: str = "auto", batch_size: int = 64, top_k: int = 1, invert: bool = False
) -> Classifier:
    """Open a model, check it as `netkit.verify` does, and return an object that classifies paths and arrays.

    Args:
        model: An .onnx file that netkit exported.
        device: `auto`, `cpu` or `cuda`.
        batch_size: Images that the network takes at once.
        top_k: Number of labels for each image.
        invert: Swap dark and light, for dark ink on white paper.

    Returns:
        A Classifier. Call it with one path, with many paths, or with a uint8 array (N, height, width) or
        (N, height, width, channels).

    Raises:
        UsageError: There is no such file, or a value is wrong.
        ModelError: The file is damaged, was not exported by netkit, or fails its checks.
        DeviceError: The device cannot be used.

    Example:
        >>> import numpy as np
        >>> classify = netkit.load("runs/residual/model.onnx", device="cpu")
        >>> [row.status for row in classify(np.zeros((2, 28, 28), np.uint8))]
        ['ok', 'ok']
    """
    check_device(device)
    session = open_model(Path(model), device=device)
    return Classifier(session, Decoder(session.card.input, invert=invert), batch_size=batch_size, top_k=top_k)
