"""netkit.calibrate: fit the temperature of an exported model to labelled images."""

from dataclasses import dataclass
from pathlib import Path

from netkit.api.arguments import check_device
from netkit.api.progress import reporting
from netkit.core import atomic_io
from netkit.core.errors import UsageError
from netkit.core.progress import Progress, cumulative
from netkit.core.runs import MODEL, choose
from netkit.data import labelled
from netkit.data.temperature import softmax
from netkit.images.decoder import Decoder
from netkit.images.limits import MAX_FILE_BYTES, MAX_PIXELS
from netkit.infer.evaluation import calibration, metrics
from netkit.infer.evaluation.calibration import Calibration
from netkit.infer.model import onnx_file
from netkit.infer.model.recalibration import recalibrated
from netkit.infer.model.verify import EXPORT_AGAIN, open_verified


@dataclass(frozen=True)
class CalibratedModel:
    """A calibrated .onnx file, and the calibration before and after on the `images` to which it was fitted.

    `unreadable` is the number of images that could not be read.
    """

    path: Path
    images: int
    unreadable: int
    before: Calibration
    after: Calibration


def calibrate(
    model: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    layout: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    device: str = "auto",
    batch_size: int = 64,
    invert: bool = False,
    max_bytes: int = MAX_FILE_BYTES,
    max_pixels: int = MAX_PIXELS,
    progress: bool | Progress = False,
) -> CalibratedModel:
    """Fit the temperature of a model to labelled images, and write the model with it to a new file.

    The probabilities of the new model are softmax(logits / temperature). Its logits and its labels do not change.

    Args:
        model: An .onnx file that netkit exported.
        data: A data set as in `netkit.evaluate`, with at least 100 images that were not used for training. Its
            validation images are used if it has any. Evaluate the new model on other images.
        out: Path of the .onnx file to write. By default `model.onnx` gives `model.calibrated.onnx`.
        layout: What the folders in `data` are, as in `netkit.train`. By default, this and the columns are as in
            training if `data` has the same name.
        path_column: Column of a table with the paths of the images.
        label_column: Column of a table with their labels.
        device: `auto`, `cpu` or `cuda`.
        batch_size: Number of images per batch.
        invert: Invert the pixel values, for dark ink on white paper.
        max_bytes: Largest file to read, in bytes.
        max_pixels: Largest image to decode, in pixels.
        progress: True for a progress bar, or a function that is called with the number of images done, their total
            and a note.

    Returns:
        The path of the new model, and the calibration before and after.

    Raises:
        UsageError: A name, path or value is invalid.
        ModelError: The model is damaged or fails its checks.
        DataError: The data set is missing, has fewer than 100 readable images, or has a class that the model does not
            have.
        DeviceError: The device cannot be used.

    Example:
        >>> result = netkit.calibrate("runs/residual/model.onnx", data="digits", device="cpu")
        >>> result.path.as_posix()
        'runs/residual/model.calibrated.onnx'
        >>> result.after.nll.value <= result.before.nll.value
        True
    """
    check_device(device)
    source = Path(model)
    path = Path(out) if out is not None else source.with_suffix(".calibrated.onnx")
    if path.suffix != ".onnx":
        raise UsageError(f"{path}: the name of an ONNX file must end in .onnx")
    if path.exists() and source.exists() and path.samefile(source):
        raise UsageError(f"{path}: the output file is the same file as the input model; pass another path")
    atomic_io.require_writable(path)
    original = onnx_file.read(choose(MODEL, file=source, arch=None))
    session = open_verified(original, device=device, threads=1, fix=EXPORT_AGAIN)
    reading = {"layout": layout, "path_column": path_column, "label_column": label_column}
    images = labelled.load(None if data is None else str(data), session.card, reading, purpose="calibrating")
    decoder = Decoder(session.card.input, invert=invert, max_bytes=max_bytes, max_pixels=max_pixels)
    with reporting(progress, "calibrate") as progress_report:
        outputs = metrics.run(
            session,
            images.inputs,
            data=images.name,
            decoder=decoder,
            batch_size=batch_size,
            advance=cumulative(progress_report, len(images.truth)),
        )
    labels = images.truth[outputs.indices]
    new = recalibrated(session.model, outputs.logits, labels, data=images.name)
    open_verified(new, device="cpu", fix=EXPORT_AGAIN)
    atomic_io.write_atomic(path, new.content)
    temperature = new.card.confidence.temperature
    before, after = (
        calibration.measure(probabilities, outputs.predictions, labels, card.confidence.temperature)
        for probabilities, card in (
            (outputs.probabilities, session.card), (softmax(outputs.logits, temperature), new.card)
        )
    )  # fmt: skip
    return CalibratedModel(path, len(labels), len(outputs.problems), before, after)
