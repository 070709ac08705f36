"""The dry run accepts networks that can be exported and refuses others, and train calls it before the first epoch."""

from pathlib import Path

import pytest
import torch

import netkit
from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard
from netkit.export.dry_run import dry_run
from netkit.nets.build import build
from tests.support.export_networks import (
    ActiveDropout,
    BfloatInside,
    IfOnValues,
    MinusBatchMean,
    UserNetwork,
)


def test_dry_run_accepts_a_network_of_netkit_and_does_not_change_it(card: ModelCard) -> None:
    net = build(card)
    before = {name: values.clone() for name, values in net.state_dict().items()}
    dry_run(net, card)
    assert net.training
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())


def test_dry_run_allows_the_errors_that_the_parity_check_allows(card: ModelCard) -> None:
    torch.manual_seed(0)
    dry_run(BfloatInside(1, 10, (28, 28)), card)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (IfOnValues, r"the network cannot be exported: its Python code depends on values of a tensor"),
        (MinusBatchMean, "the logits of an image depend on the other images of its batch"),
        (ActiveDropout, "the logits of the same images differ .* a dropout that stays active"),
    ],
)
def test_dry_run_refuses_a_network_that_cannot_be_exported(
    card: ModelCard, network: type[UserNetwork], reason: str
) -> None:
    with pytest.raises(ModelError, match=f"^residual: {reason}"):
        dry_run(network(channels=1, classes=10, size=(28, 28)), card)


def test_train_stops_before_the_first_epoch_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "values_net.py").write_text("from tests.support.export_networks import IfOnValues as Net\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"^values_net:Net: .*torch\.where.*; to train it all the same, pass --no-exp"):
        netkit.train("values_net:Net", data="digits", epochs=1)
    assert not (tmp_path / "runs").exists()
    run = netkit.train("values_net:Net", data="digits", epochs=1, export_check=False)
    assert run.weights.exists()


def test_the_dry_run_does_not_change_the_trained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good_net.py").write_text("from tests.support.export_networks import UserNetwork as Net\n")
    monkeypatch.chdir(tmp_path)
    runs = [
        netkit.train("good_net:Net", data="digits", epochs=0.2, out=tmp_path / str(check), export_check=check)
        for check in (True, False)
    ]
    assert runs[0].weights.read_bytes() == runs[1].weights.read_bytes()
