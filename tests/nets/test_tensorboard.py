"""The logs for TensorBoard, read back by TensorBoard itself."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from netkit.core.errors import Interrupted, MissingExtraError
from netkit.data.dataset import ArrayDataSet
from netkit.nets.training.metrics import EpochMetrics
from netkit.nets.training.recipe import recipe_named
from netkit.nets.training.run import Callbacks, Plan, train
from tests.support.trainings import stopping_after

PLAN = Plan("residual", replace(recipe_named("fast"), epochs=2), 0, "cpu", Path(), tensorboard=True)
AN_EPOCH = 12  # steps, of 1,442 images by 128
EARLIER, LATER = 14, 17  # steps: within the second epoch


def logs(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of the run: for each tag the steps and their values."""
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def train_until(step: int, plan: Plan, data: ArrayDataSet) -> bytes:
    """Train, stop after `step` steps, and return the state that was saved."""
    with pytest.raises(Interrupted):
        train(plan, data, stopping_after(step))
    return (plan.out / "training.safetensors").read_bytes()


def test_logs_hold_every_step_and_epoch_once_also_of_a_run_that_was_killed(
    tmp_path: Path, digits_data: ArrayDataSet
) -> None:
    plan = replace(PLAN, out=tmp_path)
    saved = train_until(EARLIER, plan, digits_data)
    train_until(LATER - EARLIER, replace(plan, resume=True), digits_data)
    (tmp_path / "training.safetensors").write_bytes(saved)  # as if it had been killed before it saved again
    rows: list[EpochMetrics] = []
    train(replace(plan, resume=True), digits_data, Callbacks(on_epoch=rows.append))

    found = logs(tmp_path)
    assert [step for step, _ in found["step/loss"]] == [*range(1, 2 * AN_EPOCH + 1)]
    (last,) = rows
    for part in ("train", "test"):
        for what in ("loss", "accuracy"):
            (first_step, _), (step, value) = found[f"{part}/{what}"]
            assert (first_step, step) == (AN_EPOCH, last.step)
            assert value == pytest.approx(getattr(last, f"{part}_{what}"), abs=1e-6)
    assert found["step/lr"][-1][1] == pytest.approx(last.lr)


def test_a_new_run_in_the_same_folder_begins_its_logs_anew(tmp_path: Path, digits_data: ArrayDataSet) -> None:
    plan = replace(PLAN, out=tmp_path)
    train_until(LATER, plan, digits_data)
    train_until(EARLIER, plan, digits_data)
    assert [step for step, _ in logs(tmp_path)["step/loss"]] == [*range(1, EARLIER + 1)]


def test_a_new_run_without_logs_leaves_none_of_the_earlier_one(tmp_path: Path, digits_data: ArrayDataSet) -> None:
    plan = replace(PLAN, out=tmp_path)
    train_until(EARLIER, plan, digits_data)
    train_until(EARLIER, replace(plan, tensorboard=False), digits_data)
    assert list((tmp_path / "tensorboard").iterdir()) == []


def test_an_event_that_does_not_fit_on_the_disk_raises_at_once_and_names_the_folder(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the disk."""
    program = """if True:
        import resource, signal, sys
        from pathlib import Path
        from netkit.cli import process
        from netkit.nets.training.tensorboard import Board

        def work():
            board = Board(Path(sys.argv[1]), step=0, recipe="")
            (log,) = (Path(sys.argv[1]) / "tensorboard").iterdir()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            try:
                for step in range(1, 100_000):
                    before = log.stat().st_size
                    board.step(step, loss=1.0, lr=0.1)
                    assert log.stat().st_size > before, "an event is not on the disk, and nothing was raised"
            finally:
                board.close()

        process.run(work)
    """
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"netkit: {tmp_path}/tensorboard: File too large"]


def test_without_tensorboard_the_extra_is_named_before_anything_is_done(
    tmp_path: Path, digits_data: ArrayDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "tensorboard")
    with pytest.raises(MissingExtraError, match=r"needs tensorboard.* extra \[tensorboard\]"):
        train(replace(PLAN, out=tmp_path / "run"), digits_data)
    assert not (tmp_path / "run").exists()
