"""A training run: the files it writes, the files it replaces, and how it resumes."""

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
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from netkit.core.errors import DataError, DeviceError, Interrupted, ModelError, TrainingError, UsageError
from netkit.core.system import missing_cuda_driver
from netkit.data.dataset import ArrayDataSet
from netkit.nets.normalize import FromPixels
from netkit.nets.training import checkpoint, plots, run, state
from netkit.nets.training.feed import Feed
from netkit.nets.training.metrics import EpochMetrics, predict
from netkit.nets.training.plan import Callbacks, Plan
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import TrainedRun, train
from netkit.nets.training.trainer import Trainer
from tests.support.trainings import stopping_after

RECIPE = replace(recipe_named("fast"), epochs=2, batch_size=64)
RUN_FILES = {"model.safetensors", "metrics.csv", "run.json", "curves.png", "confusion.png", "mistakes.png"}


def make_plan(out: Path, **changes: object) -> Plan:
    return replace(Plan("residual", RECIPE, 0, "cpu", out), **changes)  # type: ignore[arg-type]  # fields of that type


@pytest.fixture(scope="module")
def data(digits_data: ArrayDataSet) -> ArrayDataSet:
    """Half of the digits: twelve steps per epoch."""
    images, labels = digits_data.train_images[::2], digits_data.train_labels[::2]
    return replace(digits_data, train_images=images, train_labels=labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: ArrayDataSet) -> TrainedRun:
    return train(make_plan(tmp_path_factory.mktemp("run") / "deep/residual"), data)


def with_validation(data: ArrayDataSet) -> ArrayDataSet:
    """Use the first 155 test images for validation."""
    images, labels = data.test_images, data.test_labels
    return replace(
        data, val_images=images[:155], val_labels=labels[:155], test_images=images[155:], test_labels=labels[155:]
    )


def read_metrics(run_folder: Path) -> list[dict[str, str]]:
    """Read metrics.csv, without the seconds."""
    with open(run_folder / "metrics.csv") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_card_describes_the_origin_of_the_weights(trained: TrainedRun, data: ArrayDataSet) -> None:
    _, card = checkpoint.load(trained.weights)
    assert card == trained.card
    shape = (card.arch, card.labels, card.channels, card.height, card.width)
    assert shape == ("residual", tuple("0123456789"), 1, 28, 28)
    assert (card.origin.data, card.origin.data_sha256, card.origin.seed) == ("digits", data.sha256, 0)
    recipe = card.origin.recipe
    assert (recipe["name"], recipe["epochs"], recipe["ema"]) == ("fast", 2, RECIPE.ema)
    assert recipe["precision"] in ("fp32", "bf16")  # "auto" on this machine
    pixels = data.train_images / 255
    assert card.mean == pytest.approx((pixels.mean(),), abs=1e-4)
    assert card.std == pytest.approx((pixels.std(),), abs=1e-4)


def test_accuracy_on_the_card_is_that_of_the_last_epoch(trained: TrainedRun) -> None:
    rows = read_metrics(trained.weights.parent)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["test_accuracy"]) == trained.card.origin.test_accuracy


def test_epochs_are_evaluated_on_validation_images_and_the_saved_weights_on_test_images(
    tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    images, split = data.test_images, with_validation(data)
    rows: list[EpochMetrics] = []
    with caplog.at_level(logging.INFO, "netkit"):
        trained = train(make_plan(tmp_path, tensorboard=True), split, Callbacks(on_epoch=rows.append))
    net, card = checkpoint.load(trained.weights)
    predictions = predict(FromPixels(net, card), Feed(images, torch.device("cpu"))).argmax(dim=1).numpy()
    correct = predictions == data.test_labels
    assert card.origin.test_accuracy == correct[155:].mean() and not card.origin.validated_on_test
    table = read_metrics(tmp_path)
    accuracies = [float(row["val_accuracy"]) for row in table]
    assert "test_accuracy" not in table[0] and max(accuracies) == correct[:155].mean()
    best = accuracies.index(max(accuracies)) + 1
    assert f"best epoch {best}: validation accuracy {max(accuracies):.2%}" in caplog.messages
    assert f"validation accuracy {accuracies[-1]:.2%}" in str(rows[-1])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("val/accuracy")[-1].value == pytest.approx(rows[-1].eval_accuracy)


def test_the_card_says_that_the_test_images_were_also_validation_images(tmp_path: Path, data: ArrayDataSet) -> None:
    split = replace(data, val_images=data.test_images, val_labels=data.test_labels)
    origin = train(make_plan(tmp_path), split).card.origin
    assert origin.validated_on_test
    assert origin.test_accuracy == float(read_metrics(tmp_path)[-1]["val_accuracy"])


def test_run_writes_weights_metrics_pictures_and_arguments(trained: TrainedRun, data: ArrayDataSet) -> None:
    assert {path.name for path in trained.weights.parent.iterdir()} == RUN_FILES
    arguments = json.loads(trained.weights.with_name("run.json").read_text())
    assert (arguments["arch"], arguments["data"], arguments["seed"]) == ("residual", "digits", 0)
    assert (arguments["recipe"]["batch_size"], arguments["data_sha256"]) == (64, data.sha256)


def test_on_step_counts_every_image_once_per_epoch_also_when_resumed(tmp_path: Path, data: ArrayDataSet) -> None:
    counts: list[int] = []
    plan = make_plan(tmp_path)
    with pytest.raises(Interrupted):
        train(plan, data, stopping_after(14))
    train(replace(plan, resume=True), data, Callbacks(on_step=lambda images, metrics: counts.append(images)))
    assert counts[0] == len(data.train_labels) + 3 * 64
    assert sum(counts) == 2 * len(data.train_labels)


def test_seed_determines_the_weights(trained: TrainedRun, tmp_path: Path, data: ArrayDataSet) -> None:
    same, other = (train(make_plan(tmp_path / str(seed), seed=seed), data) for seed in (0, 1))
    assert same.weights.read_bytes() == trained.weights.read_bytes()
    assert other.weights.read_bytes() != trained.weights.read_bytes()


@pytest.mark.parametrize("save_every_s", [0.0, 100.0])
def test_run_stopped_several_times_ends_with_identical_weights(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, save_every_s: float
) -> None:
    done = 0
    for step in (3, 12, 17, 23):  # an epoch has twelve steps
        plan = make_plan(tmp_path, resume=done > 0, save_every_s=save_every_s)
        with pytest.raises(Interrupted, match=rf"stopped after step {step} of 24; the progress is saved") as caught:
            train(plan, data, stopping_after(step - done))
        assert caught.value.exit_code == 143
        done = step
    again = train(make_plan(tmp_path, resume=True), data)
    assert again.weights.read_bytes() == trained.weights.read_bytes()
    assert read_metrics(tmp_path) == read_metrics(trained.weights.parent)
    assert {path.name for path in tmp_path.iterdir()} == RUN_FILES


def test_stopped_run_with_a_validation_split_ends_with_the_weights_of_the_same_best_epoch(
    tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = replace(RECIPE, epochs=20, batch_size=200, patience=2)
    labels = (data.test_labels + 1) % 10  # as the training improves, the accuracy on these labels falls to 0
    data = replace(data, val_images=data.test_images, val_labels=labels)
    plans = [make_plan(tmp_path / name, recipe=recipe) for name in ("uninterrupted", "stopped")]
    with caplog.at_level(logging.INFO, "netkit"):
        uninterrupted = train(plans[0], data)
    epochs = len(read_metrics(plans[0].out))
    assert any(f"; stopped after epoch {epochs}" in message for message in caplog.messages) and 3 <= epochs < 20
    steps = int(read_metrics(plans[0].out)[-1]["step"])
    for resume, stop in ((False, 3), (True, steps // 2)):
        with pytest.raises(Interrupted):
            train(replace(plans[1], resume=resume), data, stopping_after(stop))
    again = train(replace(plans[1], resume=True), data)
    assert again.weights.read_bytes() == uninterrupted.weights.read_bytes()
    assert read_metrics(plans[1].out) == read_metrics(plans[0].out)


def test_patience_without_validation_images_and_freezing_without_weights_are_rejected(
    tmp_path: Path, data: ArrayDataSet
) -> None:
    with pytest.raises(
        UsageError, match="--patience 3 needs validation images, and digits has none; add a folder val/"
    ):
        train(make_plan(tmp_path / "run", recipe=replace(RECIPE, patience=3)), data)
    with pytest.raises(UsageError, match=r"--freeze trains the last layer only; pass the weights .* with --weights"):
        train(make_plan(tmp_path / "run", recipe=replace(RECIPE, freeze=True)), data)
    assert not (tmp_path / "run").exists()


def test_resuming_a_finished_run_logs_a_message_and_changes_nothing(
    trained: TrainedRun, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    before = trained.weights.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "netkit"):
        again = train(make_plan(trained.weights.parent, resume=True), data)
    assert again == trained and trained.weights.stat().st_mtime_ns == before
    assert f"{trained.weights.parent}: this run is already complete" in caplog.messages


def test_resuming_without_a_saved_state_starts_from_the_beginning(
    tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "netkit"), pytest.raises(Interrupted, match="stopped after step 1 of 24"):
        train(make_plan(tmp_path / "new", resume=True), data, stopping_after(1))
    assert f"{tmp_path / 'new'}: nothing to resume; starting from the beginning" in caplog.messages


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, "--seed 0, but this command has --seed 7 .*; continue it with --seed 0"),
        (
            {"recipe": replace(RECIPE, epochs=9, lr=0.2)},
            r"--epochs 2 --lr 0\.1, but this command has --epochs 9 --lr 0\.2 \(typed or by default\); "
            r"continue it with --epochs 2 --lr 0\.1",
        ),
        ({"recipe": RECIPE.with_augmentation("none")}, "--augment digits, but this command has --augment none .*"),
        ({"recipe": replace(RECIPE, balanced=True)}, "--class-weights none, but this command has .* balanced .*"),
        ({"recipe": recipe_named("baseline")}, "--recipe fast, but this command has --recipe baseline .*"),
        (
            {"recipe": replace(RECIPE, momentum=0.8)},
            "other images in --data, .* or another version of netkit; pass the same ones",
        ),
        ({"arch": "inception"}, "--arch residual, but this command has --arch inception .*"),
    ],
)
def test_resuming_with_other_arguments_is_rejected(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, change: dict[str, object], message: str, ended: bool
) -> None:
    folder = trained.weights.parent if ended else tmp_path
    if not ended:
        with pytest.raises(Interrupted):
            train(make_plan(folder), data, stopping_after(3))
    with pytest.raises(UsageError, match=rf"this run was started with {message}, or omit --resume to replace the run"):
        train(make_plan(folder, resume=True, **change), data)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:999], lambda content: b"", lambda content: content[:-1] + b"!"]
)
def test_error_names_a_damaged_state(tmp_path: Path, data: ArrayDataSet, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Interrupted):
        train(make_plan(tmp_path), data, stopping_after(3))
    path = tmp_path / "training.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"training\.safetensors: .*; omit --resume to start again$"):
        train(make_plan(tmp_path, resume=True), data)


def test_state_of_another_network_is_rejected(tmp_path: Path, data: ArrayDataSet) -> None:
    with pytest.raises(Interrupted):
        train(make_plan(tmp_path), data, stopping_after(3))
    snapshot, arguments = state.load(tmp_path / "training.safetensors")
    snapshot.tensors.pop("model.net.conv1.weight")
    state.save(tmp_path / "training.safetensors", snapshot, arguments)
    with pytest.raises(ModelError, match="does not match the network"):
        train(make_plan(tmp_path, resume=True), data)


def test_error_names_the_other_data_set(trained: TrainedRun, data: ArrayDataSet) -> None:
    other = replace(data, source="photos", sha256="1" * 64)
    with pytest.raises(UsageError, match="with --data digits, but this command has --data photos "):
        train(make_plan(trained.weights.parent, resume=True), other)


def test_second_run_into_the_same_folder_is_rejected(tmp_path: Path, data: ArrayDataSet) -> None:
    messages = []

    def stop() -> int:
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        for resume in (False, True):
            with pytest.raises(UsageError) as caught:
                train(make_plan(tmp_path, resume=resume), data)
            messages.append(str(caught.value))
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        return signal.SIGTERM

    with pytest.raises(Interrupted):
        train(make_plan(tmp_path), data, Callbacks(stop=stop))
    assert messages == [f"{tmp_path}: in use by another run; wait for it to end, or pass another --out"] * 2
    train(make_plan(tmp_path, resume=True), data)


def test_earlier_run_and_its_models_stay_until_the_new_run_is_complete(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    models = ("model.onnx", "model.int8.onnx", "model.fp16.onnx", "parity.md")
    names = ("model.safetensors", "run.json", "mine.txt", "curves.png", *models)
    earlier = {name: f"earlier {name}".encode() for name in names}
    for name, content in earlier.items():
        (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.INFO, "netkit"), pytest.raises(Interrupted):
        train(make_plan(tmp_path), data, stopping_after(14))
    deleted = "model.safetensors, model.onnx, model.fp16.onnx, model.int8.onnx, parity.md"
    message = f"replacing the run in {tmp_path}: at its end, the new run deletes {deleted}; pass another --out to keep"
    assert f"{message} them" in caplog.messages
    with pytest.raises(TrainingError):
        train(make_plan(tmp_path, recipe=replace(RECIPE, lr=1e6, max_grad_norm=0.0)), data)
    assert {name: (tmp_path / name).read_bytes() for name in earlier} == earlier
    train(make_plan(tmp_path), data)
    assert {path.name for path in tmp_path.iterdir()} == {*RUN_FILES, "mine.txt"}
    assert (tmp_path / "model.safetensors").read_bytes() == trained.weights.read_bytes()


def test_resume_continues_a_new_run_that_was_killed_before_its_first_step(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet
) -> None:
    """It does not return the earlier run, whose weights are still in the folder."""
    shutil.copytree(trained.weights.parent, tmp_path, dirs_exist_ok=True)

    def kill() -> int:
        raise KeyboardInterrupt  # before the state after the first step is saved

    with pytest.raises(KeyboardInterrupt):
        train(make_plan(tmp_path, seed=1), data, Callbacks(stop=kill))
    assert (tmp_path / "model.safetensors").read_bytes() == trained.weights.read_bytes()
    with pytest.raises(Interrupted):
        train(make_plan(tmp_path, seed=1, resume=True), data, stopping_after(1))
    snapshot, arguments = state.load(tmp_path / "training.safetensors")
    assert (snapshot.step, arguments["seed"]) == (1, 1)


def test_class_names_with_math_symbols_cause_no_failure(
    tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    data = replace(data, labels=("in_$", "$x_$", "\\frac", "a\nb", "$", "$$", "_", "^", "日", "{"))
    trained = train(make_plan(tmp_path, recipe=replace(RECIPE, epochs=1)), data)
    assert trained.card.labels == data.labels
    assert {path.name for path in tmp_path.iterdir()} == RUN_FILES
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_failing_picture_causes_one_warning_and_nothing_else(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "curves.png").mkdir()
    again = train(make_plan(tmp_path), data)
    assert again.weights.read_bytes() == trained.weights.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == RUN_FILES
    (warning,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"{tmp_path}/curves.png: cannot be drawn: ")


def test_run_killed_while_drawing_has_its_weights_and_resume_draws_the_pictures(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "curves.png").write_bytes(b"of an earlier run")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(plots, "draw_all", kill)
        train(make_plan(tmp_path), data)
    assert (tmp_path / "model.safetensors").read_bytes() == trained.weights.read_bytes()
    assert not (tmp_path / "curves.png").exists()
    (tmp_path / "model.onnx").write_bytes(b"exported from these weights")
    again = train(make_plan(tmp_path, resume=True), data)
    assert again == replace(trained, weights=again.weights)
    assert {path.name for path in tmp_path.iterdir()} == {*RUN_FILES, "model.onnx"}


def test_replacing_a_stopped_run_logs_a_message(
    tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        train(make_plan(tmp_path), data, stopping_after(3))
    with caplog.at_level(logging.INFO, "netkit"), pytest.raises(Interrupted):
        train(make_plan(tmp_path), data, stopping_after(1))
    assert f"{tmp_path}: starting again without --resume; the progress of the earlier run is deleted" in caplog.messages


def test_run_resumes_from_the_last_state_before_an_infinite_loss(
    trained: TrainedRun, tmp_path: Path, data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Trainer.train_step

    def train_step_with_infinity(self: Trainer, *arguments: Any, **options: Any) -> Any:
        if self.step == 17:
            self.model.get_parameter("net.linear.bias").data[0] = float("inf")
        return train_step(self, *arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(TrainingError, match=r"the loss became \w+ at step 18 of 24"):
        patched.setattr(Trainer, "train_step", train_step_with_infinity)
        train(make_plan(tmp_path), data)
    snapshot, _ = state.load(tmp_path / "training.safetensors")
    assert snapshot.step == 12  # the end of the first epoch
    again = train(make_plan(tmp_path, resume=True), data)
    assert again.weights.read_bytes() == trained.weights.read_bytes()


def test_invalid_arguments_create_no_folder(tmp_path: Path, data: ArrayDataSet) -> None:
    small = replace(data, train_images=data.train_images[:, :, :9, :9])
    with pytest.raises(UsageError, match="residual cannot take 9x9 images: pass --image-size 16 or larger"):
        train(make_plan(tmp_path / "new"), small)
    black = replace(data, train_images=data.train_images * 0)
    with pytest.raises(DataError, match="digits: cannot be trained on: mean must be finite and std must be positive"):
        train(make_plan(tmp_path / "new"), black)
    if missing_cuda_driver():
        with pytest.raises(DeviceError):
            train(make_plan(tmp_path / "new", device="cuda"), data)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*file: is a file; pass a folder"):
        train(make_plan(tmp_path / "file"), data)


def test_float16_on_a_cpu_logs_a_warning(tmp_path: Path, data: ArrayDataSet, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "netkit"), pytest.raises(Interrupted):
        train(make_plan(tmp_path, recipe=replace(RECIPE, precision="fp16", batch_size=2)), data, stopping_after(1))
    assert "--precision fp16 is very slow on CPUs; pass fp32 or bf16" in caplog.messages


def test_resuming_with_another_number_of_threads_logs_a_warning(
    trained: TrainedRun, data: ArrayDataSet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "usable_cores", lambda: 1)
    with caplog.at_level(logging.INFO, "netkit"):
        train(make_plan(trained.weights.parent, resume=True), data)
    threads = json.loads(trained.weights.with_name("run.json").read_text())["threads"]
    warning = f"this run was started with threads {threads}, now 1; its weights will not be bit-identical"
    assert (warning in caplog.messages) == (threads != 1)
