"""The journal of a run: a JSON file beside the results file, which says how far that file is complete."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from netkit.core import atomic_io, schema
from netkit.core.errors import UsageError
from netkit.infer.output.prediction import Counts


def journal_path(results: Path) -> Path:
    """The path of the journal of the run into `results`."""
    return results.with_name(f".{results.name}.journal")


@dataclass(frozen=True)
class Journal:
    """How far a run is: `size` bytes of its file are complete, the rows of the inputs with the hash `inputs_sha256`.

    `arguments` are what the rows depend on; `counts` are those of the rows. In a finished run `size` is that of the
    results file.
    """

    arguments: Mapping[str, Any]
    size: int = 0
    inputs_sha256: str = hashlib.sha256().hexdigest()
    counts: Mapping[str, int] = field(default_factory=lambda: Counts().as_dict())
    finished: bool = False

    @classmethod
    def read(cls, path: Path) -> "Journal | None":
        """The journal of the run into `path`; None if there is none. Raises UsageError if it is damaged."""
        try:
            text = journal_path(path).read_text()
        except FileNotFoundError:
            return None
        return schema.load(cls, text, what=f"{path}: the journal", error=UsageError)

    def write(self, path: Path) -> None:
        atomic_io.write_atomic(journal_path(path), json.dumps(asdict(self)).encode())
