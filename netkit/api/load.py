"""netkit.load: a model in an .onnx file as a Python object."""

from pathlib import Path

from netkit.core.errors import unknown_name
from netkit.images.decoder import Decoder
from netkit.infer.model import onnx_file, verify
from netkit.infer.predictor import Classifier

DEVICES = ["auto", "cpu", "cuda"]


def load(
    model: str | Path, *, device: str = "auto", batch_size: int = 64, top_k: int = 1, invert: bool = False
) -> Classifier:
    """The model in an .onnx file, to be called with paths or images; it has proven itself on this machine.

    `device` is "auto", "cpu" or "cuda"; `top_k` labels are given for each image; `invert` swaps dark and light. Raises
    ModelError or CardError where the file is none of netkit's, or does not prove itself, DeviceError where the device
    cannot be used.
    """
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    session = verify.open_verified(onnx_file.read(Path(model)), device=device, threads=1)
    return Classifier(session, Decoder(session.card.input, invert=invert), batch_size=batch_size, top_k=top_k)
