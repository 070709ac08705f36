"""An export tries fewer passes if the check fails, and --tune measures several choices of passes."""

import json
import logging
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import nn

from netkit.core.errors import ParityError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.export import passes
from netkit.export.candidates import fallbacks, fastest_first
from netkit.export.exporter import export
from netkit.export.passes.ir import Writer
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import Model
from netkit.infer.model.verify import read_self_test
from tests.support.commands import Netkit


def small_net() -> nn.Module:
    """A network that fold_pixels and merge_linear change, and no other pass."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 32), nn.Linear(32, 10)
    ).eval()


def drop_biases(graph: ir.Graph) -> None:
    """A wrong pass."""
    for node in graph:
        if node.op_type == "Gemm":
            writer, (inputs, weights, *_) = Writer(graph, node.outputs[0]), node.inputs
            assert inputs and weights
            writer.replace_with(writer.op("Gemm", inputs, weights, transB=1))


def test_candidates_lack_one_pass_each_and_the_last_lacks_all(card: ModelCard) -> None:
    candidates = fallbacks(small_net(), card, opset=20, names=passes.FLOAT32, multiple=1, file="m.onnx")
    assert [candidate.passes for candidate in candidates] == [
        ("fold_pixels", "merge_linear"), ("merge_linear",), ("fold_pixels",), (),
    ]  # fmt: skip


def test_a_pass_that_fails_the_check_is_left_out_and_named(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(passes, "FLOAT32", {**passes.FLOAT32, "two_step_mean": drop_biases})
    with caplog.at_level(logging.WARNING, logger="netkit"):
        certificate = export(small_net(), {"fp32": tmp_path / "m.onnx"}, card=card, data=digits_data, max_drop=0)[
            "fp32"
        ]
    assert certificate.passes == ("fold_pixels", "merge_linear")
    assert all(comparison.holds for comparison in certificate.comparisons)
    (message,) = caplog.messages
    assert message.startswith(
        "with the graph passes fold_pixels,merge_linear,two_step_mean, the ONNX model differs from PyTorch: largest "
    )
    assert message.endswith("; exported without two_step_mean")


def test_an_export_without_passes_has_the_plain_graph(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet
) -> None:
    path = tmp_path / "m.onnx"
    certificate = export(small_net(), {"fp32": path}, card=card, data=digits_data, max_drop=0, passes=())["fp32"]
    *_, plain = fallbacks(small_net(), card, opset=20, names=passes.FLOAT32, multiple=1, file="m.onnx")
    assert certificate.passes == () and plain.passes == ()
    assert onnx_file.read(path).graph_sha256 == plain.model.graph_sha256


def test_the_export_is_refused_only_if_the_plain_graph_fails_too(
    tmp_path: Path, card: ModelCard, digits_data: ArrayDataSet
) -> None:
    class LargerInExport(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.net(x)
            return y * 1.01 if torch.compiler.is_exporting() else y

    with pytest.raises(ParityError, match=r"the first difference is in module 'model\.net'"):
        export(LargerInExport().eval(), {"fp32": tmp_path / "m.onnx"}, card=card, data=digits_data, max_drop=0)
    assert not list(tmp_path.iterdir())


def test_tuned_candidates_have_different_graphs_and_the_fastest_comes_first(card: ModelCard) -> None:
    candidates = fastest_first(small_net(), card, opset=20, file="m.onnx")
    speeds = candidates[0].speeds
    assert set(speeds) == {str(candidate) for candidate in candidates} == {"none", "fold_pixels,merge_linear"}
    assert len({candidate.model.graph_sha256 for candidate in candidates}) == len(candidates)
    assert [speeds[str(candidate)] for candidate in candidates] == sorted(speeds.values(), reverse=True)
    assert min(speeds.values()) > 0


def test_tuned_candidates_include_both_sizes_of_padded_channels(card: ModelCard) -> None:
    convolutions = [(1, 10), (10, 20), (20, 4)]
    layers = [layer for sizes in convolutions for layer in (nn.Conv2d(*sizes, 3), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 22 * 22, 10)).eval()
    speeds = fastest_first(net, card, opset=20, file="m.onnx")[0].speeds
    assert {"pad_channels:8", "pad_channels:16"} <= {name for candidate in speeds for name in candidate.split(",")}


def test_export_command_records_the_passes_and_speeds(netkit: Netkit, workspace: Path, tmp_path: Path) -> None:
    options = ("--run", workspace / "runs/residual", "--json")
    tuned = netkit("export", *options, "--tune", "--out", "tuned.onnx")
    assert tuned.returncode == 0, tuned.stderr
    fields = json.loads(tuned.stdout)
    assert (",".join(fields["passes"]) or "none") == max(fields["speeds"], key=fields["speeds"].get)
    assert netkit("verify", "tuned.onnx").returncode == 0


def test_passes_are_chosen_by_name_or_all_at_once(netkit: Netkit, workspace: Path, model: Model) -> None:
    by_default = read_self_test(model).certificate.passes
    assert "depthwise_padding" not in by_default
    for names, expected in (
        ("two_step_mean,depthwise_padding", ["depthwise_padding"]),
        ("all", [*by_default, "depthwise_padding"]),
        ("none", []),
    ):
        options = ("--run", workspace / "runs/residual", "--json", "--out", "m.onnx")
        done = netkit("export", *options, "--passes", names)
        assert done.returncode == 0, done.stderr
        fields = json.loads(done.stdout)
        assert (fields["passes"], fields["speeds"]) == (expected, {})
