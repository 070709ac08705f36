"""TensorBoard logs, read back by TensorBoard."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from netkit.core.errors import Interrupted, MissingExtraError
from netkit.data.dataset import ArrayDataSet
from netkit.nets.training.metrics import EpochMetrics
from netkit.nets.training.plan import Callbacks, Plan
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import train
from tests.support.trainings import stopping_after

PLAN = Plan("residual", replace(recipe_named("fast"), epochs=2), 0, "cpu", Path(), tensorboard=True)
EPOCH_STEPS = 12  # 1,442 images in batches of 128
EARLIER_STEP, LATER_STEP = 14, 17  # in the second epoch


def logs(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The steps and values of each tag, as TensorBoard reads them."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def train_until(step: int, plan: Plan, data: ArrayDataSet) -> bytes:
    """Train, stop after `step` steps, and return the saved state."""
    with pytest.raises(Interrupted):
        train(plan, data, stopping_after(step))
    return (plan.out / "training.safetensors").read_bytes()


def test_logs_contain_every_step_and_epoch_once_after_a_kill(tmp_path: Path, digits_data: ArrayDataSet) -> None:
    plan = replace(PLAN, out=tmp_path)
    saved = train_until(EARLIER_STEP, plan, digits_data)
    train_until(LATER_STEP - EARLIER_STEP, replace(plan, resume=True), digits_data)
    (tmp_path / "training.safetensors").write_bytes(saved)  # as if killed before the next save
    rows: list[EpochMetrics] = []
    train(replace(plan, resume=True), digits_data, Callbacks(on_epoch=rows.append))

    scalars = logs(tmp_path)
    assert [step for step, _ in scalars["step/loss"]] == [*range(1, 2 * EPOCH_STEPS + 1)]
    (last,) = rows
    for split in ("train", "test"):
        for metric in ("loss", "accuracy"):
            (first_step, _), (step, value) = scalars[f"{split}/{metric}"]
            assert (first_step, step) == (EPOCH_STEPS, last.step)
            assert value == pytest.approx(last.columns()[f"{split}_{metric}"], abs=1e-6)
    assert scalars["step/lr"][-1][1] == pytest.approx(last.lr)


def test_new_run_in_the_same_folder_starts_new_logs(tmp_path: Path, digits_data: ArrayDataSet) -> None:
    plan = replace(PLAN, out=tmp_path)
    train_until(LATER_STEP, plan, digits_data)
    train_until(EARLIER_STEP, plan, digits_data)
    assert [step for step, _ in logs(tmp_path)["step/loss"]] == [*range(1, EARLIER_STEP + 1)]


def test_new_run_without_logs_removes_earlier_logs(tmp_path: Path, digits_data: ArrayDataSet) -> None:
    plan = replace(PLAN, out=tmp_path)
    train_until(EARLIER_STEP, plan, digits_data)
    train_until(EARLIER_STEP, replace(plan, tensorboard=False), digits_data)
    assert list((tmp_path / "tensorboard").iterdir()) == []


def test_full_disk_raises_immediately_and_the_error_names_the_folder(tmp_path: Path) -> None:
    """A limit on the file size simulates the full disk."""
    program = """if True:
        import resource, signal, sys
        from pathlib import Path
        from netkit.cli import process
        from netkit.nets.training.tensorboard import EventWriter

        def work():
            writer = EventWriter(Path(sys.argv[1]), step=0, recipe="")
            (log,) = (Path(sys.argv[1]) / "tensorboard").iterdir()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            try:
                for step in range(1, 100_000):
                    before = log.stat().st_size
                    writer.write_step(step, loss=1.0, lr=0.1)
                    assert log.stat().st_size > before, "an event was not written, and no exception was raised"
            finally:
                writer.close()

        process.run(work)
    """
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"netkit: {tmp_path}/tensorboard: File too large"]


def test_missing_tensorboard_raises_before_the_run_starts(
    tmp_path: Path, digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "tensorboard")
    with pytest.raises(
        MissingExtraError, match=r"tensorboard is not installed; install netkit's extra \[tensorboard\]"
    ):
        train(replace(PLAN, out=tmp_path / "run"), digits_data)
    assert not (tmp_path / "run").exists()
