"""Notes about models of other networks at the output paths of a failed export."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

from torch import nn

from netkit.core.model_card import ModelCard
from netkit.infer.model import onnx_file, verify
from netkit.infer.model.certificate import sha256
from netkit.nets.training import checkpoint


@contextmanager
def noted(paths: Iterable[Path], net: nn.Module, card: ModelCard) -> Iterator[None]:
    """Add a note to any exception in the block for each model file at `paths` that is not an export of `net`.

    A failed export does not change existing files, and a user could mistake them for exports of `net`.
    """
    try:
        yield
    except BaseException as exc:  # KeyboardInterrupt, too
        for path in paths:
            with suppress(Exception):  # a missing or damaged file, or one of another program, gets no note
                if note := _note(path, net, card):
                    exc.add_note(note)
        raise


def _note(path: Path, net: nn.Module, card: ModelCard) -> str | None:
    model = onnx_file.read(path)
    if verify.read_self_test(model).certificate.weights_sha256 == sha256(checkpoint.content(net, card)):
        return None
    earlier = f"{path} is an earlier export of {model.card.arch} ({date.fromtimestamp(path.stat().st_mtime)})"
    return f"{earlier} with other weights" if model.card.arch == card.arch else f"{earlier}, not of this network"
