"""The journal of a run: a JSON file next to the results file that records how far the results are complete."""

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
    """The path of the journal for the results file `results`."""
    return results.with_name(f".{results.name}.journal")


@dataclass(frozen=True)
class Journal:
    """The state of a run.

    The first `size` bytes of its file are complete rows; if it is `finished`, `size` is that of the whole results file.
    `inputs_sha256` is the hash of the paths in those rows, and `counts` are their counts. `arguments` are the settings
    that the rows depend on.
    """

    arguments: Mapping[str, Any]
    size: int = 0
    inputs_sha256: str = hashlib.sha256().hexdigest()
    counts: Mapping[str, int] = field(default_factory=lambda: Counts().as_dict())
    finished: bool = False

    @classmethod
    def read(cls, path: Path) -> "Journal | None":
        """Read the journal for the results file `path`; None if it does not exist. Raises UsageError if damaged."""
        try:
            text = journal_path(path).read_text()
        except FileNotFoundError:
            return None
        return schema.load(cls, text, subject=f"{path}: the journal", error=UsageError)

    def write(self, path: Path) -> None:
        atomic_io.write_atomic(journal_path(path), json.dumps(asdict(self)).encode())
