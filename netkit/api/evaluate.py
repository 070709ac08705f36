"""netkit.evaluate: measure the accuracy of a model on labelled images."""

from pathlib import Path

from netkit.api.arguments import check_device
from netkit.api.progress import reporting
from netkit.core.progress import Progress, cumulative
from netkit.data import labelled
from netkit.images.decoder import Decoder
from netkit.images.limits import MAX_FILE_BYTES, MAX_PIXELS
from netkit.infer.evaluation import metrics, report
from netkit.infer.evaluation.result import Evaluation
from netkit.infer.predictor import open_model


def evaluate(
    model: str | Path,
    *,
    data: str | Path | None = None,
    layout: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    device: str = "auto",
    batch_size: int = 64,
    invert: bool = False,
    max_bytes: int = MAX_FILE_BYTES,
    max_pixels: int = MAX_PIXELS,
    verify: bool = True,
    corrupt: bool = False,
    out: str | Path | None = None,
    progress: bool | Progress = False,
) -> Evaluation:
    """Run a model over labelled images and compare its predictions with their labels.

    Args:
        model: An .onnx file that netkit exported.
        data: A data set as in `netkit.train`. Of image files, the test images are used if there are any;
            of files that the model was trained on, those that were held out; otherwise all. By default the test images
            of the data set that the model was trained on, if that is `mnist` or `digits`.
        layout: What the folders in `data` are, as in `netkit.train`. By default, this and the columns are as in
            training if `data` has the same name.
        path_column: Column of a table with the paths of the images.
        label_column: Column of a table with their labels.
        device: `auto`, `cpu` or `cuda`.
        batch_size: Number of images per batch.
        invert: Invert the pixel values, for dark ink on white paper.
        max_bytes: Largest file to read, in bytes.
        max_pixels: Largest image to decode, in pixels.
        verify: Refuse a model that fails its checks on this machine.
        corrupt: Also measure the accuracy under each of 15 corruptions.
        out: Path of an .html report with pictures to write. By default none is written.
        progress: True for a progress bar, or a function that is called with the number of images done, their total
            and a note.

    Returns:
        The accuracy, the precision and recall of each class, the confusion matrix, the calibration and the worst
        mistakes. Accuracy, precision, recall and expected calibration error are fractions from 0 to 1.

    Raises:
        UsageError: A name, path or value is invalid.
        ModelError: The model is damaged or fails its checks.
        DataError: The data set is missing, has no readable image, or has a class that the model does not have.
        DeviceError: The device cannot be used.

    Example:
        >>> evaluation = netkit.evaluate("runs/residual/model.onnx", data="digits", device="cpu")
        >>> evaluation.images
        355
        >>> len(evaluation.classes)
        10
    """
    check_device(device)
    report_path = None if out is None else Path(out)
    if report_path is not None:
        report.check_path(report_path)
    session = open_model(Path(model), device=device, verify=verify)
    reading = {"layout": layout, "path_column": path_column, "label_column": label_column}
    tests = labelled.load(None if data is None else str(data), session.card, reading)
    decoder = Decoder(session.card.input, invert=invert, max_bytes=max_bytes, max_pixels=max_pixels)
    with reporting(progress, "evaluate") as progress_report:
        evaluation = metrics.evaluate(
            session,
            tests.inputs,
            tests.truth,
            data=tests.name,
            decoder=decoder,
            batch_size=batch_size,
            corrupt=corrupt,
            advance=cumulative(progress_report, len(tests.truth)),
        )
    if report_path is not None:
        report.write(report_path, evaluation, tests.inputs, tests.truth, decoder)
    return evaluation
