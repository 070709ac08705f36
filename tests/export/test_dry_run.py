"""The dry run accepts networks that can be exported and refuses others, and train calls it before the first epoch."""

import logging
import os
import pickle
import random
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

import netkit
from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard
from netkit.export.dry_run import dry_run
from netkit.nets.build import build
from netkit.nets.residual import ResidualNet
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


def test_train_tries_the_networks_of_netkit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ResidualNet.forward

    def depends_on_values(self: ResidualNet, images: torch.Tensor) -> torch.Tensor:
        return forward(self, images if images.mean() > 0 else 2 * images)

    monkeypatch.setattr(ResidualNet, "forward", depends_on_values)
    with pytest.raises(ModelError, match=r"^residual: .*torch\.where"):
        netkit.train("residual", data="digits", epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_tried_unless_it_continues_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "values_net.py").write_text("from tests.support.export_networks import IfOnValues as Net\n")
    monkeypatch.chdir(tmp_path)

    def stop(_: object) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(ModelError, match=r"^values_net:Net: "):
        netkit.train("values_net:Net", data="digits", epochs=1, resume=True)
    with pytest.raises(KeyboardInterrupt):
        netkit.train("values_net:Net", data="digits", epochs=1, resume=True, export_check=False, on_epoch=stop)
    assert netkit.train("values_net:Net", data="digits", epochs=1, resume=True).weights.exists()


@pytest.mark.parametrize("arch", ["residual", "good_net:Net"])
def test_the_dry_run_does_not_change_the_trained_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    (tmp_path / "good_net.py").write_text("from tests.support.export_networks import UserNetwork as Net\n")
    monkeypatch.chdir(tmp_path)
    runs = [
        netkit.train(arch, data="digits", epochs=0.2, out=tmp_path / str(check), export_check=check)
        for check in (True, False)
    ]
    assert runs[0].weights.read_bytes() == runs[1].weights.read_bytes()


def global_state() -> list[object]:
    """The state of this process that training depends on, or that a user would miss."""
    cudnn = torch.backends.cudnn
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        pickle.dumps(np.random.get_state()),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        logging.root.manager.disable,
        [list(handler.filters) for handler in logging.getLogger("torch").handlers],
        list(warnings.filters),
        (sys.stdout, sys.stderr, os.getcwd(), list(sys.path), dict(os.environ)),
    ]


@pytest.mark.parametrize("network", [UserNetwork, IfOnValues])
def test_the_dry_run_changes_no_global_state(card: ModelCard, network: type[UserNetwork]) -> None:
    dry_run(UserNetwork(channels=1, classes=10, size=(28, 28)), card)  # at the first export, torch sets a variable
    net = network(channels=1, classes=10, size=(28, 28))
    before = global_state()
    with nullcontext() if network is UserNetwork else pytest.raises(ModelError):
        dry_run(net, card)
    assert global_state() == before
