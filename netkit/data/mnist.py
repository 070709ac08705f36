"""MNIST (LeCun, Cortes and Burges 1998): where its files lie, how they are recognised, and how they are downloaded."""

import gzip
import hashlib
import io
import logging
import os
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO

from netkit.core.atomic_io import write_atomic
from netkit.core.errors import DataError
from netkit.data import idx
from netkit.data.dataset import HeldDataSet

logger = logging.getLogger(__name__)

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {  # of the unpacked files
    "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "test-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "test-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
LARGEST_DOWNLOAD = 16 * 2**20  # bytes; the largest of the four files has 9.9 MB
LARGEST_FILE = 64 * 2**20  # bytes unpacked; the largest of the four has 47 MB
WAIT_S = 20  # for a connection, and for each piece of an answer


def load(*, mirrors: Sequence[str] = MIRRORS) -> HeldDataSet:
    """MNIST, from the folder `mnist` in NETKIT_DATA or in the platform's cache, to which missing files are downloaded.

    Raises DataError where a file cannot be had, or is not MNIST's by its SHA-256; OSError where it cannot be written.
    """
    folder = data_folder() / "mnist"
    if folder.parent.exists() and not folder.parent.is_dir():
        raise DataError(f"{folder.parent}: not a folder; NETKIT_DATA names the one in which mnist/ lies")
    for part, name in idx.FILES.items():
        if not (folder / name).exists() and not (folder / f"{name}.gz").exists():
            _download(folder / f"{name}.gz", mirrors, SHA256[part])
    return idx.load(folder, name="mnist", sha256=SHA256)


def data_folder() -> Path:
    """The folder of data sets: NETKIT_DATA, or netkit's folder in the platform's cache.

    Raises DataError where there is neither, for lack of a home folder.
    """
    if os.environ.get("NETKIT_DATA"):
        return Path(os.environ["NETKIT_DATA"])
    try:
        return _cache_folder()
    except RuntimeError:
        raise DataError("no home folder to keep data sets in; name one in NETKIT_DATA") from None


def _cache_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/netkit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "netkit/Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netkit"


def _download(path: Path, mirrors: Sequence[str], sha256: str) -> None:
    """Put the file of that (unpacked) hash at `path`, from the first mirror that has it."""
    faults = []
    for mirror in mirrors:
        logger.info("downloading %s%s", mirror, path.name)
        try:
            packed = _fetch(mirror + path.name)
            with gzip.open(io.BytesIO(packed)) as unpacked:
                found = hashlib.sha256(unpacked.read(LARGEST_FILE)).hexdigest()
            if found != sha256:
                raise DataError(f"SHA-256 {found} (unpacked), not {sha256}")
        except (OSError, EOFError, ValueError, zlib.error, HTTPException, DataError) as fault:
            faults.append(f"{mirror}: {getattr(fault, 'reason', fault)}")
            if isinstance(fault, urllib.error.HTTPError):
                fault.close()  # it is the answer as well, and holds the connection
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, packed)
            return
    raise DataError(
        f"MNIST cannot be had: no {path.name} from {'; '.join(faults)}. Without a network use --data digits, which is "
        f"bundled, or put MNIST's four files into {path.parent}"
    )


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _refuse_plain(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_plain(url: str) -> None:
    if not url.startswith("https://"):
        raise DataError(f"refused: {url} is not https")


def _fetch(url: str) -> bytes:
    _refuse_plain(url)
    with urllib.request.build_opener(_HttpsOnly).open(url, timeout=WAIT_S) as answer:
        content: bytes = answer.read(LARGEST_DOWNLOAD + 1)
    if len(content) > LARGEST_DOWNLOAD:
        raise DataError(f"more than {LARGEST_DOWNLOAD:,} bytes")
    promised = answer.headers.get("Content-Length")
    if promised is not None and len(content) != int(promised):
        raise DataError(f"{len(content):,} of {promised} bytes came")
    return content
