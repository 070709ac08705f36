"""parity.md describes certificates, and lists the images whose prediction the error could change."""

from dataclasses import replace
from pathlib import Path

import pytest

from netkit.export.parity import report
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.verify import read_self_test


@pytest.mark.parametrize(
    ("at_risk", "listed"),
    [
        ((), "none."),
        ((3, 17), "image 3, image 17."),
        (tuple(range(1500)), "image 18, image 19 and 1,480 more."),
    ],
)
def test_at_most_twenty_images_at_risk_are_listed(model: Model, at_risk: tuple[int, ...], listed: str) -> None:
    certificate = read_self_test(model).certificate
    comparisons = tuple(replace(comparison, at_risk=at_risk) for comparison in certificate.comparisons)
    page = report.page([("a.onnx", replace(certificate, comparisons=comparisons))])
    (line,) = [line for line in page.splitlines() if "within that margin: " in line]
    assert line.endswith(listed)


def test_the_page_describes_the_new_model_and_the_certified_ones_beside_it(model: Model, tmp_path: Path) -> None:
    (tmp_path / "certified.onnx").write_bytes(model.content)
    (tmp_path / "other.onnx").write_bytes(b"not ONNX")
    with report.updated(tmp_path / "new.onnx", read_self_test(model).certificate):
        pass
    page = (tmp_path / "parity.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("##")] == ["## certified.onnx", "## new.onnx"]


def test_the_page_stays_if_the_model_cannot_be_written(model: Model, tmp_path: Path) -> None:
    (tmp_path / "parity.md").write_text("before")
    with pytest.raises(OSError), report.updated(tmp_path / "new.onnx", read_self_test(model).certificate):
        raise OSError("the disk is full")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
