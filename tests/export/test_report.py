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


def test_files_without_a_certificate_are_skipped(model: Model, tmp_path: Path) -> None:
    (tmp_path / "certified.onnx").write_bytes(model.content)
    (tmp_path / "other.onnx").write_bytes(b"not ONNX")
    report.write_page(tmp_path)
    page = (tmp_path / "parity.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("##")] == ["## certified.onnx"]
