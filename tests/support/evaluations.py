"""An evaluation with default settings."""

import numpy as np

from netkit.core.progress import no_progress
from netkit.images.decoder import Decoder
from netkit.infer.evaluation.metrics import evaluate
from netkit.infer.evaluation.result import Evaluation
from netkit.infer.runtime.session import Session


def evaluate_with_defaults(
    session: Session, inputs: "np.ndarray | list[str]", labels: np.ndarray, *, corrupt: bool = False
) -> Evaluation:
    decoder = Decoder(session.card.input)
    return evaluate(
        session, inputs, labels, data="some", decoder=decoder, batch_size=64, corrupt=corrupt, advance=no_progress
    )
