"""Candidates: models of one network after different graph passes.

An export writes the first candidate that passes the parity check. By default the first has all passes, the next ones
lack one pass each, and the last has none. `fastest_first` orders other candidates by their speed on this machine.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx
from torch import nn

from netkit.core.model_card import ModelCard
from netkit.export.convert import serialize, translate
from netkit.export.passes import FLOAT32, OPTIONAL, Passes, apply_and_list, float32_passes
from netkit.infer.model import onnx_file
from netkit.infer.model.onnx_file import Model
from netkit.infer.runtime.bench import interleaved_speeds
from netkit.infer.runtime.session import open_session

PLAIN = "none"  # name of the candidate without passes
BLOCK_CHANNELS = (8, 16)  # in a block of ONNX Runtime's convolution layout with AVX2 and with AVX-512


@dataclass(frozen=True)
class Candidate:
    """A model and the names of the passes that changed its graph.

    `speeds` holds the images/s on this CPU of all candidates that it was chosen from, by their names, if measured.
    """

    model: Model
    passes: tuple[str, ...] = ()
    speeds: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return ",".join(self.passes) or PLAIN


def fallbacks(
    net: nn.Module, card: ModelCard, *, opset: int, names: Collection[str], multiple: int, file: str
) -> Iterator[Candidate]:
    """Yield the candidate with all passes in `names`, then without each pass that changed it, then without any.

    `multiple` is that of `float32_passes`; `file` is for messages.
    """
    exported, passes = translate(net, card, opset=opset), float32_passes(names, multiple=multiple)
    first = _candidate(exported, card, passes, file)
    yield first
    if len(first.passes) > 1:
        for dropped in first.passes:
            yield _candidate(exported, card, {name: passes[name] for name in first.passes if name != dropped}, file)
    if first.passes:
        yield _candidate(exported, card, {}, file)


def fastest_first(net: nn.Module, card: ModelCard, *, opset: int, file: str) -> list[Candidate]:
    """Measure a handful of candidates in turns on this CPU, in one thread; returns the fastest first.

    They have no passes, the default passes, the optional passes as well, and padded channels as well.
    """
    exported, names = translate(net, card, opset=opset), (*FLOAT32, *OPTIONAL)
    choices = [{}, FLOAT32, *(float32_passes(names, multiple=multiple) for multiple in (1, *BLOCK_CHANNELS))]
    candidates = [_candidate(exported, card, passes, file) for passes in choices]
    candidates = list({candidate.passes: candidate for candidate in candidates}.values())
    sessions = [open_session(candidate.model, device="cpu", threads=1) for candidate in candidates]
    speeds = dict(zip(map(str, candidates), interleaved_speeds(sessions), strict=True))
    candidates.sort(key=lambda candidate: speeds[str(candidate)], reverse=True)
    rounded = {name: round(speed) for name, speed in speeds.items()}
    return [replace(candidate, speeds=rounded) for candidate in candidates]


def _candidate(exported: onnx.ModelProto, card: ModelCard, passes: Passes, file: str) -> Candidate:
    proto, changed = apply_and_list(exported, passes)
    return Candidate(onnx_file.check(serialize(proto, card), file), changed)
