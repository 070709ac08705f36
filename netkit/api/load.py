"""netkit.load: open an .onnx file as a classifier."""

from pathlib import Path

from netkit.api.arguments import check_device
from netkit.images.decoder import Decoder
from netkit.images.limits import MAX_FILE_BYTES, MAX_PIXELS
from netkit.infer.predictor import Classifier, open_model


def load(
    model: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 64,
    top_k: int = 1,
    invert: bool = False,
    max_bytes: int = MAX_FILE_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Classifier:
    """Open a model, check it as `netkit.verify` does, and return a classifier for images.

    Args:
        model: An .onnx file that netkit exported.
        device: `auto`, `cpu` or `cuda`.
        batch_size: Number of images per batch.
        top_k: Number of labels per image, the most probable first.
        invert: Invert the pixel values, for dark ink on white paper.
        max_bytes: Largest file to read, in bytes.
        max_pixels: Largest image to decode, in pixels.

    Returns:
        A Classifier. Call it with one image, which gives one Row, or with several, which give a list. An image is a
        path, the bytes of an image file, a binary file object, a PIL.Image.Image, or a uint8 array of shape
        (height, width) or (height, width, channels). Several images are an iterable of these, or an array of shape
        (N, height, width) or (N, height, width, channels).
        Several threads may use one Classifier, and it can be pickled for other processes.

    Raises:
        UsageError: The file does not exist, or a value is invalid.
        ModelError: The file is damaged, was not exported by netkit, or fails its checks.
        DeviceError: The device cannot be used.

    Example:
        >>> import numpy as np
        >>> classify = netkit.load("runs/residual/model.onnx", device="cpu")
        >>> classify(np.zeros((28, 28), np.uint8)).status
        'ok'
        >>> [row.status for row in classify(np.zeros((2, 28, 28), np.uint8))]
        ['ok', 'ok']
    """
    check_device(device)
    session = open_model(Path(model), device=device)
    decoder = Decoder(session.card.input, invert=invert, max_bytes=max_bytes, max_pixels=max_pixels)
    return Classifier(session, decoder, batch_size=batch_size, top_k=top_k, device=device)
