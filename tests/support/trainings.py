"""Trainings for tests that stop on the way."""

import signal

from netkit.nets.training.run import Callbacks


def stopping_after(steps: int) -> Callbacks:
    """Callbacks that stop a run after that many steps, as SIGTERM would."""
    seen: list[object] = []
    return Callbacks(
        on_step=lambda *step: seen.append(step),
        stop=lambda: signal.SIGTERM if len(seen) >= steps else None,
    )
