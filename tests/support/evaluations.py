"""An evaluation with default settings."""

import numpy as np

from netkit.images.decoder import Decoder
from netkit.infer.evaluation.metrics import Evaluation, evaluate
from netkit.infer.runtime.session import Session


def judged(
    session: Session, inputs: "np.ndarray | list[str]", truth: np.ndarray, *, corrupt: bool = False
) -> Evaluation:
    decoder = Decoder(session.card.input)
    return evaluate(
        session, inputs, truth, data="some", decoder=decoder, batch_size=64, corrupt=corrupt, advance=lambda *_: None
    )
