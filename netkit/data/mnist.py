"""MNIST (LeCun, Cortes and Burges 1998): folder, hashes of the files, and download."""

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
from netkit.data.dataset import ArrayDataSet

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
MAX_DOWNLOAD_BYTES = 16 * 2**20  # the largest of the four files has 9.9 MB
MAX_UNPACKED_BYTES = 64 * 2**20  # the largest of the four files has 47 MB
TIMEOUT_S = 20  # for connecting, and for each read of the response


def load(*, mirrors: Sequence[str] = MIRRORS) -> ArrayDataSet:
    """Load MNIST from the folder `mnist` in `data_folder()`. Missing files are downloaded to this folder.

    Raises DataError if a file cannot be downloaded or has a wrong hash, OSError if it cannot be written.
    """
    folder = data_folder() / "mnist"
    if folder.parent.exists() and not folder.parent.is_dir():
        raise DataError(f"{folder.parent}: is not a folder; set NETKIT_DATA to the folder that contains mnist/")
    for part, name in idx.FILES.items():
        if not (folder / name).exists() and not (folder / f"{name}.gz").exists():
            _download(folder / f"{name}.gz", mirrors, SHA256[part])
    return idx.load(folder, name="mnist", sha256=SHA256)


def data_folder() -> Path:
    """Return the folder for data sets: NETKIT_DATA, or netkit's folder in the platform's cache folder.

    Raises DataError if NETKIT_DATA is not set and there is no home folder.
    """
    if os.environ.get("NETKIT_DATA"):
        return Path(os.environ["NETKIT_DATA"])
    try:
        return _cache_folder()
    except RuntimeError:
        raise DataError("no home folder found; set NETKIT_DATA to a folder for data sets") from None


def _cache_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/netkit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "netkit/Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netkit"


def _download(path: Path, mirrors: Sequence[str], sha256: str) -> None:
    """Download a file to `path` from the first mirror where the unpacked file has this SHA-256."""
    problems = []
    for mirror in mirrors:
        logger.info("downloading %s%s", mirror, path.name)
        try:
            packed = _fetch(mirror + path.name)
            with gzip.open(io.BytesIO(packed)) as unpacked:
                actual = hashlib.sha256(unpacked.read(MAX_UNPACKED_BYTES)).hexdigest()
            if actual != sha256:
                raise DataError(f"SHA-256 {actual} (unpacked), not {sha256}")
        except (OSError, EOFError, ValueError, zlib.error, HTTPException, DataError) as exc:
            problems.append(f"{mirror}: {getattr(exc, 'reason', exc)}")
            if isinstance(exc, urllib.error.HTTPError):
                exc.close()  # an HTTPError is also the response and keeps the connection open
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, packed)
            return
    raise DataError(
        f"cannot download {path.name}: {'; '.join(problems)}; "
        f"without a network, pass --data digits, or put {path.name} and the other files of MNIST into {path.parent} "
        "(set NETKIT_DATA to choose the folder around it)"
    )


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise DataError(f"refused: {url} is not https")


def _fetch(url: str) -> bytes:
    _require_https(url)
    with urllib.request.build_opener(_HttpsOnly).open(url, timeout=TIMEOUT_S) as response:
        content: bytes = response.read(MAX_DOWNLOAD_BYTES + 1)
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise DataError(f"more than {MAX_DOWNLOAD_BYTES:,} bytes")
    expected = response.headers.get("Content-Length")
    if expected is not None and len(content) != int(expected):
        raise DataError(f"received {len(content):,} of {expected} bytes")
    return content
