"""netkit.evaluate: how good a model's answers are on labelled images."""

from pathlib import Path

from netkit.api.arguments import check_device
from netkit.api.progress import reporting
from netkit.core.progress import Progress, counted
from netkit.data import labelled
from netkit.images.decoder import MAX_FILE_BYTES, MAX_PIXELS, Decoder
from netkit.infer.evaluation import metrics, report
from netkit.infer.evaluation.metrics import Evaluation
from netkit.infer.predictor import open_model


def evaluate(
    model: str | Path,
    *,
    data: str | Path | None = None,
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
    """Run a model over labelled images and compare its answers with their classes.

    Args:
        model: An .onnx file that netkit exported.
        data: A data set as `netkit.train` takes it; of a folder its test images if it has some, else all. By default
            the test images of the model's own data set, if that is `mnist` or `digits`.
        device: `auto`, `cpu` or `cuda`.
        batch_size: Images that the network takes at once.
        invert: Swap dark and light.
        max_bytes: Size in bytes of the largest file that is read.
        max_pixels: Number of pixels of the largest image that is decoded.
        verify: Refuse a model that does not pass its own checks here.
        corrupt: Measure the accuracy under each of fifteen corruptions, too.
        out: An .html file to write a report with pictures to.
        progress: True for a progress bar, or a function that is called with the number of images done, their total,
            and a note.

    Returns:
        Accuracy, precision and recall of each class, the confusion matrix, the calibration error and the worst
        mistakes. All shares are from 0 to 1.

    Raises:
        UsageError: A name, path or value is wrong.
        ModelError: The model is damaged or fails its checks.
        DataError: The data set is missing, has a class that the model does not know, or no readable image.
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
    tests = labelled.load(None if data is None else str(data), session.card)
    decoder = Decoder(session.card.input, invert=invert, largest_file=max_bytes, largest_image=max_pixels)
    with reporting(progress, "evaluate") as progress_report:
        evaluation = metrics.evaluate(
            session,
            tests.inputs,
            tests.truth,
            data=tests.name,
            decoder=decoder,
            batch_size=batch_size,
            corrupt=corrupt,
            advance=counted(progress_report, len(tests.truth)),
        )
    if report_path is not None:
        report.write(report_path, evaluation, tests.inputs, tests.truth, decoder)
    return evaluation
