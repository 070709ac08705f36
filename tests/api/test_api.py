"""The public functions, called without mocks in a folder that contains one run."""

import doctest
import pkgutil
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import netkit
from netkit.core.errors import UsageError

FUNCTIONS = [name for name in netkit.__all__ if name != "__version__"]
SUBPACKAGES = [module.name for module in pkgutil.walk_packages(netkit.__path__, "netkit.") if module.ispkg]


@pytest.fixture
def folder(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which contains runs/residual."""
    shutil.copytree(workspace / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_public_functions_work_after_importing_all_subpackages_and_print_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in SUBPACKAGES:
        import_module(name)
    run = netkit.train("residual", data="digits", epochs=1, out="mine", progress=True)
    fp32, int8 = netkit.export_model("mine", variants=("fp32", "int8"), max_drop=100, measure=True)
    assert (fp32.path, int8.path) == (Path("mine/model.onnx"), Path("mine/model.int8.onnx"))
    assert fp32.data == "digits" and int8.certificate.precision == "int8"
    assert fp32.figures is not None and fp32.figures.bytes == fp32.path.stat().st_size
    assert all(check.ok for check in netkit.verify(int8.path))
    evaluation = netkit.evaluate(fp32.path, out="report.html", progress=True)
    assert evaluation.accuracy == pytest.approx(run.card.origin.test_accuracy, abs=1e-12)
    assert "<html" in Path("report.html").read_text()
    (row,) = netkit.load(fp32.path, top_k=2)(np.zeros((1, 28, 28), np.uint8))
    assert row.label in run.card.labels and len(row.ranked) == 2
    assert capfd.readouterr() == ("", "")  # no progress bar without a terminal


def test_no_function_shares_its_name_with_a_subpackage() -> None:
    assert not {f"netkit.{name}" for name in FUNCTIONS} & set(SUBPACKAGES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_each_function_runs(folder: Path, name: str) -> None:
    function = getattr(netkit, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={"netkit": netkit})
    assert example.examples
    failures: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=failures.append)
    assert not failures, "".join(failures)


def test_export_model_uses_the_newest_run_by_default(folder: Path) -> None:
    expected = Path("runs/residual/model.onnx").read_bytes()
    (exported,) = netkit.export_model(out="again.onnx")
    assert exported.path.read_bytes() == expected


def test_progress_counts_images_up_to_their_total(folder: Path) -> None:
    reports: list[tuple[int, int | None, str]] = []
    losses: list[float] = []
    netkit.train(
        "residual",
        data="digits",
        epochs=1.5,
        out=folder / "run",
        export_check=False,
        progress=lambda *report: reports.append(report),
        on_epoch=lambda metrics: losses.append(metrics.train_loss),
    )
    assert [done for done, _, _ in reports] == sorted(done for done, _, _ in reports)
    assert reports[-1][:2] == (2163, 2163) and len(losses) == 2
    reports.clear()
    netkit.evaluate("runs/residual/model.onnx", progress=lambda *report: reports.append(report))
    assert reports[-1] == (355, 355, "")


def test_resume_does_not_train_a_finished_run_again(folder: Path) -> None:
    weights = Path("runs/residual/model.safetensors")
    before = weights.stat().st_mtime_ns
    run = netkit.train("residual", data="digits", epochs=2, resume=True)
    assert run.weights == weights and weights.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: netkit.train("resdual", data="digits"), "did you mean 'residual'"),
        (lambda: netkit.train(data="mnits"), "did you mean 'mnist'"),
        (lambda: netkit.train(data="digits", recipe="fats"), "did you mean 'fast'"),
        (lambda: netkit.train(data="digits", device="cdua"), "did you mean 'cuda'"),
        (lambda: netkit.export_model("nowhere"), "nowhere: no such file"),
        (lambda: netkit.export_model("runs/residual", variants=("int9",)), "did you mean 'int8'"),
        (
            lambda: netkit.export_model("runs/residual", arch="preact"),
            "contains the network residual, not preact; pass this file",
        ),
        (lambda: netkit.evaluate("runs/residual/model.onnx", out="a.pdf"), "the name of a report must end in .html"),
        (lambda: netkit.evaluate("none.onnx"), "none.onnx: no such file"),
        (lambda: netkit.verify("runs/residual/model.onnx", device="gpu"), "unknown device 'gpu'"),
        (lambda: netkit.load("none.onnx"), "none.onnx: no such file"),
    ],
)
def test_invalid_arguments_raise_usage_error(folder: Path, call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=message):
        call()


def test_an_unknown_attribute_raises_attribute_error_with_its_name() -> None:
    with pytest.raises(AttributeError, match="module 'netkit' has no attribute 'lode'"):
        netkit.lode  # noqa: B018
    assert {*FUNCTIONS, "__version__"} <= set(dir(netkit))
