"""Recognize files that torch.load cannot read by their first bytes."""

import os
import zipfile
from pathlib import Path

SAVE = "import a file of torch.save(network.state_dict(), FILE)"
DOWNLOAD = "download or copy it again"
UNPACK = "unpack it first"

KINDS = {  # by the first bytes
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; run 'git lfs pull'",
    b"<": f"is a web page or XML; {DOWNLOAD}",
    b"{": f"is JSON; {SAVE}",
    b"\x89HDF": f"is an HDF5 file, as Keras writes it; {SAVE}",
    b"\x93NUMPY": f"is a NumPy array; {SAVE}",
    b"GGUF": f"is a GGUF file; {SAVE}",
    b"\x1f\x8b": f"is compressed with gzip; {UNPACK}",
    b"\x80": f"is damaged, or is a pickle that torch.save did not write; {SAVE}",
}
ZIP = b"PK"
TAR, TAR_OFFSET = b"ustar", 257
SAFETENSORS, SAFETENSORS_OFFSET = b'{"', 8


def problem(path: Path) -> str:
    """Return what is wrong with a file that torch.load cannot read, and the fix: "is empty; ...". Raises OSError."""
    with path.open("rb") as file:
        start = file.read(TAR_OFFSET + len(TAR))
    if not start:
        return f"is empty; {DOWNLOAD}"
    if start.startswith(ZIP):
        return _problem_of_zip(path)
    if start[TAR_OFFSET:] == TAR:
        return f"is a tar archive; {UNPACK}, or {SAVE}"
    if start[SAFETENSORS_OFFSET:].startswith(SAFETENSORS):
        return "is a .safetensors file with another suffix; rename it, and pass it to 'netkit train --weights'"
    kinds = (text for first, text in KINDS.items() if start.lstrip().startswith(first))
    return next(kinds, f"is damaged, or was not written by torch.save; {SAVE}")


def _problem_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [os.path.basename(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return f"is damaged or truncated; {DOWNLOAD}"
    if "data.pkl" in names:
        return f"is damaged, or contains objects that torch.load does not know; {SAVE}"
    if "archive_format" in names:
        return f"is a program of torch.export; {SAVE}"
    if any(name.endswith(".npy") for name in names):
        return f"is an archive of NumPy arrays; {SAVE}"
    return f"is a zip archive that torch.save did not write; if it contains a file of weights, {UNPACK}"
