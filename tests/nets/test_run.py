"""A training run: what it leaves in its folder, what it replaces and when, and how it goes on."""

import csv
import json
import logging
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netkit.core.errors import DataError, DeviceError, Interrupted, ModelError, TrainingError, UsageError
from netkit.core.system import missing_cuda_driver
from netkit.data.dataset import ArrayDataSet
from netkit.nets.training import checkpoint, plots, run, state
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import Callbacks, Plan, TrainedRun, train
from netkit.nets.training.trainer import Training
from tests.support.trainings import stopping_after

RECIPE = replace(recipe_named("fast"), epochs=2, batch_size=64)
LEFT = {"model.safetensors", "metrics.csv", "run.json", "curves.png", "confusion.png", "mistakes.png"}


def plan(out: Path, **changes: object) -> Plan:
    return replace(Plan("residual", RECIPE, 0, "cpu", out), **changes)  # type: ignore[arg-type]  # fields of that type


@pytest.fixture(scope="module")
def data(digits_data: ArrayDataSet) -> ArrayDataSet:
    """Half of the digits: twelve steps an epoch."""
    images, labels = digits_data.train_images[::2], digits_data.train_labels[::2]
    return replace(digits_data, train_images=images, train_labels=labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: ArrayDataSet) -> TrainedRun:
    return train(plan(tmp_path_factory.mktemp("run") / "deep/residual"), data)


def table(run_folder: Path) -> list[dict[str, str]]:
    """metrics.csv without its seconds."""
    with open(run_folder / "metrics.csv") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_card_tells_where_the_weights_came_from(trained: TrainedRun, data: ArrayDataSet) -> None:
    _, card = checkpoint.load(trained.weights)
    assert card == trained.card
    shape = (card.arch, card.labels, card.channels, card.height, card.width)
    assert shape == ("residual", tuple("0123456789"), 1, 28, 28)
    assert (card.origin.data, card.origin.data_sha256, card.origin.seed) == ("digits", data.sha256, 0)
    told = card.origin.recipe
    assert (told["name"], told["epochs"], told["ema"]) == ("fast", 2, RECIPE.ema)
    assert told["precision"] in ("fp32", "bf16")  # what "auto" meant on this machine
    pixels = data.train_images / 255
    assert card.mean == pytest.approx((pixels.mean(),), abs=1e-4)
    assert card.std == pytest.approx((pixels.std(),), abs=1e-4)


def test_accuracy_on_the_card_is_the_last_one_in_the_metrics(trained: TrainedRun) -> None:
    rows = table(trained.weights.parent)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["test_accuracy"]) == trained.card.origin.test_accuracy


def test_a_run_leaves_weights_metrics_pictures_and_its_arguments(trained: TrainedRun, data: ArrayDataSet) -> None:
    assert {path.name for path in trained.weights.parent.iterdir()} == LEFT
    arguments = json.loads(trained.weights.with_name("run.json").read_text())
    assert (arguments["arch"], arguments["data"], arguments["seed"]) == ("residual", "digits", 0)
    assert (arguments["recipe"]["batch_size"], arguments["data_sha256"]) == (64, data.sha256)


def test_who_looks_on_hears_of_every_image_once_an_epoch_also_after_a_pause(tmp_path: Path, data: ArrayDataSet) -> None:
    heard: list[int] = []
    asked = plan(tmp_path)
    with pytest.raises(Interrupted):
        train(asked, data, stopping_after(14))
    train(replace(asked, resume=True), data, Callbacks(on_step=lambda images, standing: heard.append(images)))
    assert heard[0] == len(data.train_labels) + 3 * 64
    assert sum(heard) == 2 * len(data.train_labels)


def test_seed_decides_the_weights(trained: TrainedRun, tmp_path: Path, data: ArrayDataSet) -> None:
    same, other = (train(plan(tmp_path / str(seed), seed=seed), data) for seed in (0, 1))
    assert same.weights.read_bytes() == trained.weights.read_bytes()
    assert other.weights.read_bytes() != trained.weights.read_bytes()


@pytest.mark.parametrize("save_every_s", [0.0, 100.0])
def test_a_run_stopped_several_times_ends_with_the_same_bits(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, save_every_s: float
) -> None:
    done = 0
    for step in (3, 12, 17, 23):  # an epoch has twelve
        part = plan(tmp_path, resume=done > 0, save_every_s=save_every_s)
        with pytest.raises(Interrupted, match=rf"stopped after step {step} of 24; all is saved") as caught:
            train(part, data, stopping_after(step - done))
        assert caught.value.exit_code == 143
        done = step
    again = train(plan(tmp_path, resume=True), data)
    assert again.weights.read_bytes() == trained.weights.read_bytes()
    assert table(tmp_path) == table(trained.weights.parent)
    assert {path.name for path in tmp_path.iterdir()} == LEFT


def test_resuming_an_ended_run_says_so_and_leaves_it(
    trained: TrainedRun, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    before = trained.weights.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "netkit"):
        again = train(plan(trained.weights.parent, resume=True), data)
    assert again == trained and trained.weights.stat().st_mtime_ns == before
    assert f"{trained.weights.parent}: this run has ended: nothing is left to do" in caplog.messages


def test_resuming_where_nothing_is_saved_starts_at_the_beginning(
    tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "netkit"), pytest.raises(Interrupted, match="stopped after step 1 of 24"):
        train(plan(tmp_path / "new", resume=True), data, stopping_after(1))
    assert f"{tmp_path / 'new'}: nothing is saved there yet: starting at the beginning" in caplog.messages


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 7}, "seed 0, not 7"),
        ({"recipe": replace(RECIPE, epochs=9, lr=0.2)}, "epochs 2, not 9, lr 0.1, not 0.2"),
        ({"arch": "inception"}, "arch residual, not inception"),
    ],
)
def test_resuming_with_other_arguments_is_refused(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, change: dict[str, object], told: str, ended: bool
) -> None:
    folder = trained.weights.parent if ended else tmp_path
    if not ended:
        with pytest.raises(Interrupted):
            train(plan(folder), data, stopping_after(3))
    with pytest.raises(UsageError, match=rf"this run was started with {told}; resume it with the same, or leave out"):
        train(plan(folder, resume=True, **change), data)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:999], lambda content: b"", lambda content: content[:-1] + b"!"]
)
def test_a_damaged_state_is_named(tmp_path: Path, data: ArrayDataSet, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Interrupted):
        train(plan(tmp_path), data, stopping_after(3))
    path = tmp_path / "training.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"training\.safetensors: .*; start again without --resume$"):
        train(plan(tmp_path, resume=True), data)


def test_a_state_of_another_net_is_named(tmp_path: Path, data: ArrayDataSet) -> None:
    with pytest.raises(Interrupted):
        train(plan(tmp_path), data, stopping_after(3))
    snapshot, arguments = state.load(tmp_path / "training.safetensors")
    snapshot.tensors.pop("model.net.conv1.weight")
    state.save(tmp_path / "training.safetensors", snapshot, arguments)
    with pytest.raises(ModelError, match="does not fit this net"):
        train(plan(tmp_path, resume=True), data)


def test_another_data_set_is_told_by_name(trained: TrainedRun, data: ArrayDataSet) -> None:
    other = replace(data, source="photos", sha256="1" * 64)
    with pytest.raises(UsageError, match=rf"data digits \(SHA-256 {data.sha256}\), not photos \(SHA-256 1+\);"):
        train(plan(trained.weights.parent, resume=True), other)


def test_two_runs_into_one_folder_are_one_too_many(tmp_path: Path, data: ArrayDataSet) -> None:
    told = []

    def stop() -> int:
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        for resume in (False, True):
            with pytest.raises(UsageError) as caught:
                train(plan(tmp_path, resume=resume), data)
            told.append(str(caught.value))
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        return signal.SIGTERM

    with pytest.raises(Interrupted):
        train(plan(tmp_path), data, Callbacks(stop=stop))
    assert told == [f"{tmp_path}: another run is writing it"] * 2
    train(plan(tmp_path, resume=True), data)


def test_an_earlier_run_stays_until_the_new_one_is_whole_and_goes_with_its_model(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    models = ("model.onnx", "model.int8.onnx", "model.fp16.onnx", "parity.md")
    names = ("model.safetensors", "run.json", "mine.txt", "curves.png", *models)
    earlier = {name: f"earlier {name}".encode() for name in names}
    for name, content in earlier.items():
        (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.INFO, "netkit"), pytest.raises(Interrupted):
        train(plan(tmp_path), data, stopping_after(14))
    assert f"replacing the run in {tmp_path}, whose weights stay until this one has ended" in caplog.messages
    with pytest.raises(TrainingError):
        train(plan(tmp_path, recipe=replace(RECIPE, lr=1e6, max_grad_norm=0.0)), data)
    assert {name: (tmp_path / name).read_bytes() for name in earlier} == earlier
    train(plan(tmp_path), data)
    assert {path.name for path in tmp_path.iterdir()} == {*LEFT, "mine.txt"}
    assert (tmp_path / "model.safetensors").read_bytes() == trained.weights.read_bytes()


def test_killed_before_its_first_step_it_is_the_new_run_that_goes_on(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet
) -> None:
    """Not the run whose weights are still there."""
    shutil.copytree(trained.weights.parent, tmp_path, dirs_exist_ok=True)

    def kill() -> int:
        raise KeyboardInterrupt  # before the first step's end is seen

    with pytest.raises(KeyboardInterrupt):
        train(plan(tmp_path, seed=1), data, Callbacks(stop=kill))
    assert (tmp_path / "model.safetensors").read_bytes() == trained.weights.read_bytes()
    with pytest.raises(Interrupted):
        train(plan(tmp_path, seed=1, resume=True), data, stopping_after(1))
    snapshot, arguments = state.load(tmp_path / "training.safetensors")
    assert (snapshot.step, arguments["seed"]) == (1, 1)


def test_class_names_with_signs_of_mathematics_cost_no_run(
    tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    strange = replace(data, labels=("in_$", "$x_$", "\\frac", "a\nb", "$", "$$", "_", "^", "日", "{"))
    trained = train(plan(tmp_path, recipe=replace(RECIPE, epochs=1)), strange)
    assert trained.card.labels == strange.labels
    assert {path.name for path in tmp_path.iterdir()} == LEFT
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_picture_that_fails_costs_one_line_and_nothing_else(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "curves.png").mkdir()
    again = train(plan(tmp_path), data)
    assert again.weights.read_bytes() == trained.weights.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == LEFT
    (warning,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"warning: {tmp_path}/curves.png: cannot be drawn: ")


def test_killed_while_pictures_are_drawn_the_weights_are_there_and_resuming_draws_the_pictures(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "curves.png").write_bytes(b"of an earlier run")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(plots, "draw_all", kill)
        train(plan(tmp_path), data)
    assert (tmp_path / "model.safetensors").read_bytes() == trained.weights.read_bytes()
    assert not (tmp_path / "curves.png").exists()
    (tmp_path / "model.onnx").write_bytes(b"exported from these weights")
    again = train(plan(tmp_path, resume=True), data)
    assert again == replace(trained, weights=again.weights)
    assert {path.name for path in tmp_path.iterdir()} == {*LEFT, "model.onnx"}


def test_a_run_that_was_stopped_is_not_replaced_without_a_word(
    tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        train(plan(tmp_path), data, stopping_after(3))
    with caplog.at_level(logging.INFO, "netkit"), pytest.raises(Interrupted):
        train(plan(tmp_path), data, stopping_after(1))
    assert f"{tmp_path}: starting again; --resume would continue the run that was stopped" in caplog.messages


def test_a_loss_that_is_not_finite_leaves_the_last_good_state_to_go_on_from(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Training.learn

    def poisoned(self: Training, *arguments: Any, **options: Any) -> Any:
        if self.step == 17:
            self.model.get_parameter("net.linear.bias").data[0] = float("inf")
        return learn(self, *arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(TrainingError, match=r"the loss became \w+ at step 18 of 24"):
        patched.setattr(Training, "learn", poisoned)
        train(plan(tmp_path), data)
    snapshot, _ = state.load(tmp_path / "training.safetensors")
    assert snapshot.step == 12  # the end of the first epoch
    again = train(plan(tmp_path, resume=True), data)
    assert again.weights.read_bytes() == trained.weights.read_bytes()


def test_wrong_arguments_leave_no_trace(tmp_path: Path, data: ArrayDataSet) -> None:
    small = replace(data, train_images=data.train_images[:, :, :9, :9])
    with pytest.raises(UsageError, match="residual cannot take 9x9 images: it needs at least 16x16"):
        train(plan(tmp_path / "new"), small)
    black = replace(data, train_images=data.train_images * 0)
    with pytest.raises(DataError, match="digits: cannot be trained on: a card's mean is finite and its std above 0"):
        train(plan(tmp_path / "new"), black)
    if missing_cuda_driver():
        with pytest.raises(DeviceError):
            train(plan(tmp_path / "new", device="cuda"), data)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*file: cannot be made a folder: File exists"):
        train(plan(tmp_path / "file"), data)


def test_other_circumstances_are_told_and_accepted(
    trained: TrainedRun, data: ArrayDataSet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "usable_cores", lambda: 1)
    with caplog.at_level(logging.INFO, "netkit"):
        train(plan(trained.weights.parent, resume=True), data)
    threads = json.loads(trained.weights.with_name("run.json").read_text())["threads"]
    told = f"warning: the run was started with threads {threads}, now 1: its weights will differ in their last digits"
    assert (told in caplog.messages) == (threads != 1)
