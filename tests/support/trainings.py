"""Callbacks for tests that interrupt a training run."""

import signal

from netkit.nets.training.plan import Callbacks


def stopping_after(steps: int) -> Callbacks:
    """Return callbacks that stop a run after `steps` steps, as SIGTERM does."""
    done: list[object] = []
    return Callbacks(
        on_step=lambda *step: done.append(step),
        stop=lambda: signal.SIGTERM if len(done) >= steps else None,
    )
